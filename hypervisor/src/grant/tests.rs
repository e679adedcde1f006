//! Grants against a model, against a guest that changes its entries all the time, and what must not be had by granting on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use abi::Errno;
use abi::grant::*;
use proptest::prelude::*;

use super::copy::{CopyEnd, copy};
use super::map::{map, unmap};
use super::*;
use crate::hypercall::testing::{World, destroy};
use crate::types::{Gfn, Gpa};

/// An entry as a guest writes it.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Written {
    flags: u16,
    user: usize,
    /// Frame, or the transitive grant's number.
    target: u32,
    /// Sub-page, or the transitive grant's domain.
    range: (u16, u16),
}

const EMPTY: Written = Written {
    flags: 0,
    user: 0,
    target: 0,
    range: (0, 0),
};

#[derive(Clone, Debug)]
enum Op {
    Write(u32, Written),
    Map(usize, u32, bool),
    Unmap(usize),
    Copy(usize, u32, bool, u16, u16),
    Version(u32),
    Swap(u32, u32),
}

const REFS: u32 = 6;
/// The first entry that a change of version does not keep.
const FIRST: u32 = 8;

fn written() -> impl Strategy<Value = Written> {
    let flags = prop_oneof![
        4 => Just(GTF_PERMIT_ACCESS),
        2 => Just(GTF_PERMIT_ACCESS | GTF_READONLY),
        2 => Just(GTF_PERMIT_ACCESS | GTF_SUB_PAGE),
        2 => Just(GTF_TRANSITIVE),
        1 => Just(GTF_ACCEPT_TRANSFER),
        1 => Just(0),
    ];
    (
        flags,
        1..3usize,
        prop_oneof![4 => 4..7u32, 1 => Just(0x999)],
        (0..4096u16, 0..5000u16),
    )
        .prop_map(|(flags, user, target, range)| Written {
            flags,
            user,
            target,
            range,
        })
}

fn op() -> impl Strategy<Value = Op> {
    let reference = FIRST..FIRST + REFS + 1;
    let user = 1..3usize;
    prop_oneof![
        4 => (reference.clone(), written()).prop_map(|(reference, written)| Op::Write(reference, written)),
        3 => (user.clone(), reference.clone(), any::<bool>()).prop_map(|(user, reference, write)| Op::Map(user, reference, write)),
        2 => (0..4usize).prop_map(Op::Unmap),
        3 => (user, reference.clone(), any::<bool>(), 0..4096u16, 0..5000u16)
            .prop_map(|(user, reference, write, offset, len)| Op::Copy(user, reference, write, offset, len)),
        1 => (1..3u32).prop_map(Op::Version),
        1 => (reference.clone(), reference).prop_map(|(a, b)| Op::Swap(a, b)),
    ]
}

struct Guests {
    /// Who grants, and two who use.
    worlds: [World; 3],
}

impl Guests {
    fn new() -> Self {
        let worlds = [World::new(), World::new(), World::new()];
        Self { worlds }
    }

    fn domain(&self, index: usize) -> &Arc<Domain> {
        &self.worlds[index].domain
    }

    fn version(&self) -> Version {
        self.domain(0).grants.table.version()
    }

    fn table(&self) -> GuestFrame {
        self.domain(0)
            .grants
            .table
            .frame(Part::Shared, 0)
            .expect("the first")
    }

    fn write(&self, reference: u32, entry: Written) {
        let table = self.table();
        let header = u32::from(entry.flags) | u32::from(self.domain(entry.user).id.0) << 16;
        let at = u64::from(reference);
        if self.version() == Version::V1 {
            table.u32_at(at * 8 + 4).store(entry.target, SeqCst);
            table.u32_at(at * 8).store(header, SeqCst);
            return;
        }
        let at = at * 16;
        if entry.flags & GTF_TYPE_MASK == GTF_TRANSITIVE {
            // Of the last domain's, entry 8.
            table.u32_at(at + 4).store(self.domain(2).id.0.into(), SeqCst);
            table.u64_at(at + 8).store(FIRST.into(), SeqCst);
        } else {
            let (offset, length) = entry.range;
            table
                .u32_at(at + 4)
                .store(u32::from(offset) | u32::from(length) << 16, SeqCst);
            table.u64_at(at + 8).store(entry.target.into(), SeqCst);
        }
        table.u32_at(at).store(header, SeqCst);
    }

    /// The flags that say that the entry is in use.
    fn shown(&self, reference: u32) -> u16 {
        let flags = match self.version() {
            Version::V1 => self.table().u16_at(u64::from(reference) * 8).load(SeqCst),
            Version::V2 => {
                let status = self
                    .domain(0)
                    .grants
                    .table
                    .frame(Part::Status, 0)
                    .expect("the first");
                status.u16_at(u64::from(reference) * 2).load(SeqCst)
            }
        };
        flags & (GTF_READING | GTF_WRITING)
    }
}

/// What the granter's entries are, and how they are used.
struct Model {
    v2: bool,
    entries: BTreeMap<u32, Written>,
    /// User, entry, whether it may write, handle, place.
    mapped: Vec<(usize, u32, bool, u32, u64)>,
}

impl Model {
    fn entry(&self, reference: u32) -> Written {
        self.entries.get(&reference).copied().unwrap_or(EMPTY)
    }

    fn uses(&self, reference: u32) -> u16 {
        self.mapped
            .iter()
            .filter(|mapping| mapping.1 == reference)
            .fold(0, |flags, mapping| {
                flags | GTF_READING | if mapping.2 { GTF_WRITING } else { 0 }
            })
    }

    /// What using an entry gives: the range that is granted.
    fn used(&self, user: usize, reference: u32, write: bool, copies: bool) -> Result<(u16, u16), i16> {
        let entry = self.entry(reference);
        let transitive = entry.flags & GTF_TYPE_MASK == GTF_TRANSITIVE;
        let whole = entry.flags & GTF_SUB_PAGE == 0;
        let kind = match entry.flags & GTF_TYPE_MASK {
            GTF_PERMIT_ACCESS => copies || whole,
            GTF_TRANSITIVE => copies && self.v2,
            _ => false,
        };
        if !kind || entry.user != user || (write && entry.flags & GTF_READONLY != 0) {
            return Err(GNTST_GENERAL_ERROR);
        }
        if transitive {
            // The last domain lets this one read 100 bytes from 1000 on.
            return if write {
                Err(GNTST_GENERAL_ERROR)
            } else {
                Ok((1000, 100))
            };
        }
        if entry.target == 0x999 {
            return Err(GNTST_BAD_PAGE);
        }
        Ok(if whole || !self.v2 { (0, 4096) } else { entry.range })
    }
}

fn code<T>(result: Result<T, Status>) -> i16 {
    result.map_or_else(|Status(status)| status, |_| GNTST_OKAY)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn entries_are_used_as_the_model_says(ops in proptest::collection::vec(op(), 1..80)) {
        let guests = Guests::new();
        // What transitive entries lead to.
        set_version(guests.domain(2), Version::V2).expect("version 2");
        let table = guests.domain(2).grants.table.frame(Part::Shared, 0).expect("the first");
        let at = u64::from(FIRST) * 16;
        table.u32_at(at + 4).store(1000 | 100 << 16, SeqCst);
        table.u64_at(at + 8).store(5, SeqCst);
        let flags = u32::from(GTF_PERMIT_ACCESS | GTF_SUB_PAGE | GTF_READONLY);
        table.u32_at(at).store(flags | u32::from(guests.domain(0).id.0) << 16, SeqCst);
        let status = guests.domain(2).grants.table.frame(Part::Status, 0).expect("the first");

        let mut model = Model { v2: false, entries: BTreeMap::new(), mapped: Vec::new() };
        let mut place = 0x100_0000;
        for op in &ops {
            match *op {
                Op::Write(reference, entry) => {
                    // A guest that keeps to the protocol leaves an entry alone that is in use.
                    if model.uses(reference) == 0 {
                        guests.write(reference, entry);
                        model.entries.insert(reference, entry);
                    }
                }
                Op::Map(user, reference, write) => {
                    let flags = GNTMAP_HOST_MAP | if write { 0 } else { GNTMAP_READONLY };
                    place += 0x1000;
                    let result = map(guests.domain(user), guests.domain(0).id, reference, Gpa(place), flags);
                    let expected = model.used(user, reference, write, false);
                    prop_assert_eq!(code(result), expected.err().unwrap_or(GNTST_OKAY), "{:?}", op);
                    if let Ok(mapped) = result {
                        model.mapped.push((user, reference, write, mapped.handle, place));
                    }
                }
                Op::Unmap(index) => if index < model.mapped.len() {
                    let (user, _, _, handle, place) = model.mapped.swap_remove(index);
                    prop_assert_eq!(unmap(guests.domain(user), handle, Gpa(place)), Ok(()));
                    prop_assert_eq!(unmap(guests.domain(user), handle, Gpa(place)), Err(Status(GNTST_BAD_HANDLE)));
                },
                Op::Copy(user, reference, write, offset, len) => {
                    let theirs = (CopyEnd::Grant(guests.domain(0).id, reference), offset);
                    let ours = (CopyEnd::Own(Gfn(6)), 0);
                    let (from, to) = if write { (ours, theirs) } else { (theirs, ours) };
                    let expected = model.used(user, reference, write, true).and_then(|(first, length)| {
                        let (end, granted) = (u32::from(offset) + u32::from(len), u32::from(first) + u32::from(length));
                        if end > 4096 || len > 4096 {
                            Err(GNTST_BAD_COPY_ARG)
                        } else if offset < first || end > granted {
                            Err(GNTST_GENERAL_ERROR)
                        } else {
                            Ok(())
                        }
                    });
                    let result = copy(guests.domain(user), from, to, len);
                    prop_assert_eq!(code(result), expected.err().unwrap_or(GNTST_OKAY), "{:?}", op);
                }
                Op::Version(version) => {
                    let wanted = if version == 2 { Version::V2 } else { Version::V1 };
                    let changes = model.v2 != (version == 2);
                    let expected = if changes && !model.mapped.is_empty() { Err(Errno::EBUSY) } else { Ok(()) };
                    prop_assert_eq!(set_version(guests.domain(0), wanted), expected);
                    if changes && expected.is_ok() {
                        model.v2 = version == 2;
                        model.entries.clear();
                    }
                }
                Op::Swap(a, b) => {
                    let used = a != b && (model.uses(a) | model.uses(b)) != 0;
                    let expected = if used { Err(Status(GNTST_EAGAIN)) } else { Ok(()) };
                    prop_assert_eq!(guests.domain(0).grants.table.swap(a, b), expected);
                    if !used {
                        let (first, second) = (model.entry(a), model.entry(b));
                        model.entries.insert(a, second);
                        model.entries.insert(b, first);
                    }
                }
            }
            for reference in FIRST..FIRST + REFS + 1 {
                prop_assert_eq!(guests.shown(reference), model.uses(reference), "{} after {:?}", reference, op);
            }
            prop_assert_eq!(status.u16_at(u64::from(FIRST) * 2).load(SeqCst), 0, "no copy is under way");
        }
    }
}

/// While another thread writes an entry: every use ends, is right or refused, and is taken back.
#[test]
fn a_guest_that_changes_its_entry_all_the_time() {
    for version in [Version::V1, Version::V2] {
        let guests = Guests::new();
        set_version(guests.domain(0), version).expect("either");
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..u32::MAX {
                    if stop.load(SeqCst) {
                        break;
                    }
                    let flags = [
                        0,
                        GTF_PERMIT_ACCESS,
                        GTF_TRANSITIVE,
                        GTF_PERMIT_ACCESS | GTF_SUB_PAGE,
                    ];
                    let entry = Written {
                        flags: flags[round as usize % 4],
                        user: 1,
                        target: 5,
                        range: (round as u16, !0),
                    };
                    guests.write(9, entry);
                }
            });
            for round in 0..20_000 {
                let from = (CopyEnd::Grant(guests.domain(0).id, 9), 0);
                // Whatever it gives.
                let _ = copy(guests.domain(1), from, (CopyEnd::Own(Gfn(6)), 0), 16);
                let at = Gpa(0x100_0000);
                if round % 4 == 0
                    && let Ok(mapped) = map(guests.domain(1), guests.domain(0).id, 9, at, GNTMAP_HOST_MAP)
                {
                    assert_eq!(unmap(guests.domain(1), mapped.handle, at), Ok(()));
                }
            }
            stop.store(true, SeqCst);
        });
        let used = guests
            .domain(0)
            .grants
            .table
            .with_entry(9, |entry| entry.uses.any());
        assert_eq!(used, Ok(false));
        guests.write(9, EMPTY);
        assert_eq!(guests.shown(9), 0);
    }
}

#[test]
fn what_was_granted_cannot_be_granted_on() {
    let guests = Guests::new();
    let entry = |user| Written {
        flags: GTF_PERMIT_ACCESS,
        user,
        target: 5,
        range: (0, 0),
    };
    guests.write(9, entry(1));
    let place = Gpa(0x100_0000);
    let mapped = map(guests.domain(1), guests.domain(0).id, 9, place, GNTMAP_HOST_MAP).expect("granted");
    // The second domain offers what it has mapped to the third.
    let table = guests
        .domain(1)
        .grants
        .table
        .frame(Part::Shared, 0)
        .expect("the first");
    table.u32_at(9 * 8 + 4).store(0x1000, SeqCst);
    let header = u32::from(GTF_PERMIT_ACCESS) | u32::from(guests.domain(2).id.0) << 16;
    table.u32_at(9 * 8).store(header, SeqCst);
    let result = map(guests.domain(2), guests.domain(1).id, 9, place, GNTMAP_HOST_MAP);
    assert_eq!(result, Err(Status(GNTST_BAD_PAGE)));
    let from = (CopyEnd::Grant(guests.domain(1).id, 9), 0);
    let result = copy(guests.domain(2), from, (CopyEnd::Own(Gfn(6)), 0), 8);
    assert_eq!(result, Err(Status(GNTST_BAD_PAGE)));
    assert_eq!(unmap(guests.domain(1), mapped.handle, place), Ok(()));
    assert_eq!(guests.shown(9), 0);
}

#[test]
fn a_version_keeps_the_toolstacks_entries() {
    let guests = Guests::new();
    let granter = guests.domain(0);
    granter.grants.seed(1, guests.domain(1).id, 5).expect("there");
    let at = Gpa(0x100_0000);
    let mapped = map(guests.domain(1), granter.id, 1, at, GNTMAP_HOST_MAP).expect("granted");
    assert_eq!(
        set_version(granter, Version::V2),
        Ok(()),
        "only a reserved one is in use"
    );
    assert_eq!(guests.shown(1), GTF_READING | GTF_WRITING);
    let table = guests.table();
    assert_eq!(table.u64_at(16 + 8).load(SeqCst), 5);
    assert_eq!(table.u16_at(16).load(SeqCst), GTF_PERMIT_ACCESS);
    assert_eq!(set_version(granter, Version::V1), Ok(()));
    assert_eq!(guests.shown(1), GTF_READING | GTF_WRITING);
    assert_eq!(unmap(guests.domain(1), mapped.handle, at), Ok(()));
    assert_eq!(guests.shown(1), 0);
    assert_eq!(set_version(granter, Version::V2), Ok(()));
    table.u64_at(16 + 8).store(1 << 32, SeqCst);
    assert_eq!(set_version(granter, Version::V1), Err(Errno::ERANGE));
    table.u16_at(16).store(GTF_TRANSITIVE, SeqCst);
    assert_eq!(set_version(granter, Version::V1), Err(Errno::ERANGE));
    table.u16_at(16).store(0, SeqCst);
    assert_eq!(set_version(granter, Version::V1), Ok(()));
}

/// A table that is in use is refused another version before anybody is told to come again.
#[test]
fn a_refused_version_disturbs_nobody() {
    let guests = Guests::new();
    let granted = Written {
        flags: GTF_PERMIT_ACCESS,
        user: 1,
        target: 5,
        range: (0, 0),
    };
    guests.write(9, granted);
    guests.write(10, granted);
    let (granter, user) = (guests.domain(0), guests.domain(1));
    let at = Gpa(0x100_0000);
    let mapped = map(user, granter.id, 10, at, GNTMAP_HOST_MAP).expect("granted");
    let stop = AtomicBool::new(false);
    let from = (CopyEnd::Grant(granter.id, 9), 0);
    let results = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(SeqCst) {
                assert_eq!(set_version(granter, Version::V2), Err(Errno::EBUSY));
            }
        });
        let results: Vec<_> = (0..20_000)
            .map(|_| copy(user, from, (CopyEnd::Own(Gfn(6)), 0), 16))
            .collect();
        stop.store(true, SeqCst);
        results
    });
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(unmap(user, mapped.handle, at), Ok(()));
}

/// A use that ends while the version is changed does not stay in the entry.
#[test]
fn a_use_ends_beside_a_change_of_version() {
    let guests = Guests::new();
    let (granter, user) = (guests.domain(0), guests.domain(1));
    granter.grants.seed(1, user.id, 5).expect("there");
    let from = (CopyEnd::Grant(granter.id, 1), 0);
    for round in 0..500 {
        let wanted = if round % 2 == 0 { Version::V2 } else { Version::V1 };
        std::thread::scope(|scope| {
            scope.spawn(|| assert_eq!(set_version(granter, wanted), Ok(()), "reserved"));
            for _ in 0..50 {
                let result = copy(user, from, (CopyEnd::Own(Gfn(6)), 0), 16);
                assert!(matches!(result, Ok(()) | Err(Status(GNTST_EAGAIN))), "{result:?}");
            }
        });
        assert_eq!(guests.shown(1), 0);
    }
}

#[test]
fn handles_run_out_and_come_back() {
    let guests = Guests::new();
    guests.write(
        9,
        Written {
            flags: GTF_PERMIT_ACCESS | GTF_READONLY,
            user: 1,
            target: 5,
            range: (0, 0),
        },
    );
    let granter = guests.domain(0).id;
    let flags = GNTMAP_HOST_MAP | GNTMAP_READONLY;
    let at = |index: u64| Gpa(0x100_0000 + index * 0x1000);
    // A maptrack frame's worth.
    let handles: Vec<u32> = (0..256)
        .map(|index| {
            map(guests.domain(1), granter, 9, at(index), flags)
                .expect("room")
                .handle
        })
        .collect();
    let more = map(guests.domain(1), granter, 9, at(256), flags);
    assert_eq!(more, Err(Status(GNTST_NO_DEVICE_SPACE)));
    assert_eq!(unmap(guests.domain(1), handles[7], at(7)), Ok(()));
    let again = map(guests.domain(1), granter, 9, at(256), flags).expect("room");
    assert_eq!(again.handle, handles[7]);
    assert_eq!(guests.shown(9), GTF_READING);
    destroy(guests.domain(1));
    assert_eq!(guests.shown(9), 0, "death gives all back");
}

/// The protocol's point: once the guest has ended a grant, and seen that nobody uses it, nobody does.
#[test]
fn a_grant_that_has_ended_is_not_used() {
    const USES: u32 = 1000;
    const TRIES: u32 = 50_000_000;
    for version in [Version::V1, Version::V2] {
        let guests = Guests::new();
        set_version(guests.domain(0), version).expect("either");
        let granted = Written {
            flags: GTF_PERMIT_ACCESS,
            user: 1,
            target: 5,
            range: (0, 0),
        };
        let table = guests.table();
        let status = match version {
            Version::V1 => None,
            Version::V2 => Some(
                guests
                    .domain(0)
                    .grants
                    .table
                    .frame(Part::Status, 0)
                    .expect("the first"),
            ),
        };
        // Ends the grant, as Linux does; returns when nobody uses it.
        let end = || match &status {
            None => {
                let flags = table.u16_at(9 * 8);
                while flags
                    .compare_exchange(GTF_PERMIT_ACCESS, 0, SeqCst, SeqCst)
                    .is_err()
                {
                    std::hint::spin_loop();
                }
            }
            Some(status) => {
                table.u16_at(9 * 16).store(0, SeqCst);
                while status.u16_at(9 * 2).load(SeqCst) != 0 {
                    std::hint::spin_loop();
                }
            }
        };
        let (over, stop) = (AtomicBool::new(false), AtomicBool::new(false));
        let (mut used, mut late) = (0, false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0.. {
                    if stop.load(SeqCst) {
                        break;
                    }
                    guests.write(9, granted);
                    (0..round % 64).for_each(|_| std::hint::spin_loop());
                    end();
                    over.store(true, SeqCst);
                    (0..200).for_each(|_| std::hint::spin_loop());
                    over.store(false, SeqCst);
                }
            });
            let user = guests.domain(1).id;
            for _ in 0..TRIES {
                if used == USES || late {
                    break;
                }
                let pinned = GrantTable::pin(guests.domain(0), 9, user, Access::Write, Purpose::Copy);
                if let Ok(pinned) = pinned {
                    late = over.load(SeqCst);
                    pinned.pin.end(guests.domain(0));
                    used += 1;
                }
            }
            stop.store(true, SeqCst);
        });
        assert!(!late, "{version:?}: used after its end");
        assert_eq!(used, USES, "{version:?}: not used often enough");
    }
}

/// A page that the hypervisor made for a domain does not keep the domain; who has it mapped does not mistake the next one for it.
#[test]
fn a_grant_of_a_dead_domains_page() {
    let granter = World::new();
    let guests = Guests::new();
    let user = guests.domain(1);
    let shared = granter.domain.shared_info.share().expect("few references");
    granter
        .domain
        .place(Gfn(7), shared, crate::mm::p2m::Kind::RamRw)
        .expect("in the place of RAM");
    let header = u32::from(GTF_PERMIT_ACCESS) | u32::from(user.id.0) << 16;
    let offer = |domain: &Domain, frame| {
        let table = domain.grants.table.frame(Part::Shared, 0).expect("the first");
        table.u32_at(9 * 8 + 4).store(frame, SeqCst);
        table.u32_at(9 * 8).store(header, SeqCst);
        table
    };
    offer(&granter.domain, 7);
    let (first, second) = (Gpa(0x100_0000), Gpa(0x100_1000));
    let id = granter.domain.id;
    let old = map(user, id, 9, first, GNTMAP_HOST_MAP).expect("granted");
    destroy(&granter.domain);
    drop(granter);
    assert!(domain::table::get(id).is_none());
    let next = World::with(crate::domain::Config {
        id: Some(id),
        ..crate::hypercall::testing::config(false)
    });
    let table = offer(&next.domain, 5);
    let new = map(user, id, 9, second, GNTMAP_HOST_MAP).expect("granted");
    let flags = || table.u16_at(9 * 8).load(SeqCst) & (GTF_READING | GTF_WRITING);
    assert_eq!(unmap(user, old.handle, first), Ok(()));
    assert_eq!(flags(), GTF_READING | GTF_WRITING, "the other is still mapped");
    assert_eq!(unmap(user, new.handle, second), Ok(()));
    assert_eq!(flags(), 0);
}
