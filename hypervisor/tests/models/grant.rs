//! A guest that takes a grant back, or changes its table's version, while somebody begins to use it.

#[path = "../../src/grant/entry.rs"]
mod entry;
#[path = "../../src/grant/version.rs"]
mod version;

use abi::grant::{GTF_PERMIT_ACCESS, GTF_READING, GTF_WRITING};
use entry::{Entry, Granted, Purpose, Use};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use crate::check;
use version::{Current, Version};

use crate::mm::guest::{Access, GuestFrame};
use crate::sync::atomic::{AtomicU16, Ordering::SeqCst};
use crate::sync::{Mutex, Rank};
use crate::types::{DomId, Gfn};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status(pub i16);

const USER: DomId = DomId(3);
const HEADER: u32 = GTF_PERMIT_ACCESS as u32 | (USER.0 as u32) << 16;
const IN_USE: u16 = GTF_READING | GTF_WRITING;

/// An entry that grants frame 0 first; the frames' contents are what loom watches.
struct Table {
    entries: GuestFrame,
    status: Option<AtomicU16>,
    frames: [UnsafeCell<u32>; 2],
}

impl Table {
    fn new(version: u32) -> Self {
        let table = Self {
            entries: GuestFrame::new(),
            status: (version == 2).then(|| AtomicU16::new(0)),
            frames: [UnsafeCell::new(0), UnsafeCell::new(0)],
        };
        table.grant(0);
        table
    }

    /// The guest grants `frame`, as Linux does.
    fn grant(&self, frame: u32) {
        self.with_entry(&mut Use::default(), |entry| entry.write(HEADER, frame));
    }

    /// The guest takes the grant back, as Linux does. `false`: it is in use.
    fn end_access(&self) -> bool {
        let header = self.entries.u32_at(0);
        match &self.status {
            None => {
                let mut seen = header.load(SeqCst);
                while seen as u16 & IN_USE == 0 {
                    match header.compare_exchange(seen, 0, SeqCst, SeqCst) {
                        Ok(_) => return true,
                        Err(now) => seen = now,
                    }
                }
                false
            }
            Some(status) => {
                header.store(0, SeqCst);
                status.load(SeqCst) & IN_USE == 0
            }
        }
    }

    fn with_entry<R>(&self, uses: &mut Use, work: impl FnOnce(&mut Entry<'_>) -> R) -> R {
        work(&mut Entry {
            table: &self.entries,
            at: 0,
            status: self.status.as_ref(),
            uses,
        })
    }

    /// A use by the hypervisor, for `access`.
    fn used(&self, uses: &mut Use, access: Access) {
        let Ok(granted) = self.with_entry(uses, |entry| entry.begin(USER, access, Purpose::Map)) else {
            return;
        };
        let Granted::Memory { gfn: Gfn(gfn), .. } = granted else {
            panic!("no transitive grant");
        };
        let frame = &self.frames[gfn as usize];
        match access {
            Access::Read => frame.with(|_| ()),
            Access::Write => frame.with_mut(|_| ()),
        }
        self.with_entry(uses, |entry| entry.end(access));
    }
}

fn revoked_while_used(version: u32) {
    check(None, move || {
        let table = Arc::new(Table::new(version));
        let user = {
            let table = table.clone();
            thread::spawn(move || {
                let mut uses = Use::default();
                table.used(&mut uses, Access::Write);
                table.used(&mut uses, Access::Read);
                assert!(!uses.any());
            })
        };
        // A frame whose grant has ended is the guest's alone; then the entry grants the other one.
        if table.end_access() {
            table.frames[0].with_mut(|_| ());
            table.grant(1);
        }
        user.join().expect("no panic");
        let flags = match &table.status {
            Some(status) => status.load(SeqCst),
            None => table.entries.u32_at(0).load(SeqCst) as u16,
        };
        assert_eq!(flags & IN_USE, 0, "nothing is in use at the end");
    });
}

#[test]
fn a_grant_of_version_1_ends_before_its_frame_is_used_again() {
    revoked_while_used(1);
}

#[test]
fn a_grant_of_version_2_ends_before_its_frame_is_used_again() {
    revoked_while_used(2);
}

/// Two entries, as many uses of each, and what they show of that.
struct Grants {
    current: Current,
    entries: [Mutex<u16>; 2],
    shown: [AtomicU16; 2],
    /// Who is at an entry writes its own, a change writes all; loom watches.
    written: [UnsafeCell<()>; 2],
}

impl Grants {
    fn new(uses: u16) -> Arc<Self> {
        Arc::new(Self {
            current: Current::new(Version::V1),
            entries: [Mutex::new(Rank::Grant, 0), Mutex::new(Rank::Grant, uses)],
            shown: [AtomicU16::new(0), AtomicU16::new(uses)],
            written: [UnsafeCell::new(()), UnsafeCell::new(())],
        })
    }

    fn show(&self, index: usize, uses: u16) {
        self.written[index].with_mut(|_| ());
        self.shown[index].store(uses, SeqCst);
    }

    /// Change the version unless an entry is in use, as the table does.
    fn change(&self) -> Result<(), ()> {
        let refused = |_, uses: &u16| if *uses == 0 { Ok(()) } else { Err(()) };
        let result = self.current.change(self.entries.iter(), refused, |_| {
            assert!(self.current.lock(&self.entries[0]).is_none(), "nobody waits");
            (0..2).for_each(|index| self.show(index, 0));
            Ok(Version::V2)
        });
        for (index, entry) in self.entries.iter().enumerate() {
            let (uses, _) = self.current.lock(entry).expect("changed");
            self.show(index, *uses);
        }
        result
    }
}

/// Who is at an entry is alone with the version that it was told, and a change finds nobody at any of them.
#[test]
fn a_version_changes_while_nobody_is_at_an_entry() {
    check(None, || {
        let grants = Grants::new(0);
        let user = {
            let grants = grants.clone();
            thread::spawn(move || {
                let (mut uses, version) = grants.current.lock(&grants.entries[1])?;
                *uses += 1;
                grants.show(1, *uses);
                Some(version)
            })
        };
        let expected = match grants.change() {
            Ok(()) => Version::V2,
            Err(()) => Version::V1,
        };
        assert_eq!(grants.current.get(), expected);
        // Who came first made the change fail, who came while it was made was sent away; else he came behind it.
        match user.join().expect("no panic") {
            Some(version) => assert_eq!(version, expected),
            None => assert_eq!(*grants.entries[1].lock(), 0),
        }
    });
}

/// A use that ends while the version changes waits for nothing, and is not shown in the end.
#[test]
fn a_use_ends_while_the_version_changes() {
    check(None, || {
        let grants = Grants::new(1);
        let user = {
            let grants = grants.clone();
            thread::spawn(move || {
                let mut uses = grants.entries[1].lock();
                *uses -= 1;
                if grants.current.settled().is_some() {
                    grants.show(1, *uses);
                }
            })
        };
        let result = grants.change();
        user.join().expect("no panic");
        let expected = if result.is_ok() { Version::V2 } else { Version::V1 };
        assert_eq!(grants.current.get(), expected);
        assert_eq!(grants.shown[1].load(SeqCst), 0);
    });
}
