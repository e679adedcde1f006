//! Frames of domains, and those who reference them.
#![expect(
    clippy::arc_with_non_send_sync,
    reason = "loom watches its cells; its own Arc it would watch as well, which takes long"
)]

#[path = "../../src/mm/frame_word.rs"]
mod frame_word;

use core::num::NonZero;
use core::ptr::NonNull;

use frame_word::{Kind, Word};
use loom::cell::UnsafeCell;
use loom::thread;
use std::sync::Arc;

use crate::check;
use crate::sync::atomic::{AtomicPtr, AtomicU16, AtomicU32, Ordering::Relaxed};
use crate::types::DomId;

const OWNER: DomId = DomId(1);
const NEXT_OWNER: DomId = DomId(2);
const NOBODY: DomId = DomId(0);

/// A frame that a domain owns.
struct Frame {
    word: Word,
    contents: Memory,
    freed: AtomicU32,
}

/// Memory that says whose it is, or that it is nobody's. Loom tells of accesses that do not come one after the other.
#[derive(Default)]
struct Memory {
    access: UnsafeCell<()>,
    owner: AtomicU16,
}

impl Memory {
    fn read(&self) -> DomId {
        self.access.with(|_| DomId(self.owner.load(Relaxed)))
    }

    fn write(&self, owner: DomId) {
        self.access.with_mut(|_| self.owner.store(owner.0, Relaxed));
    }
}

impl Frame {
    fn new() -> Arc<Self> {
        let frame = Self {
            word: Word::default(),
            contents: Memory::default(),
            freed: AtomicU32::new(0),
        };
        frame.contents.write(OWNER);
        frame.word.assign(OWNER, Kind::Ram);
        Arc::new(frame)
    }

    /// Drop a reference, and scrub the frame if it was the last.
    fn put(&self) -> bool {
        let last = self.word.put();
        if last {
            self.word.clear();
            self.contents.write(NOBODY);
            self.freed.fetch_add(1, Relaxed);
        }
        last
    }

    /// Somebody who has found the frame looks at it. Whose it was, if it could be referenced.
    fn look(&self) -> Option<DomId> {
        self.word.get().then(|| {
            let owner = self.word.owner_of_referenced();
            assert_eq!(self.contents.read(), owner, "contents of somebody else's");
            self.put();
            owner
        })
    }
}

#[test]
fn a_frame_is_freed_once_after_all_use_of_it() {
    check(None, || {
        let frame = Frame::new();
        let others = [(); 2].map(|()| {
            let frame = frame.clone();
            thread::spawn(move || frame.look())
        });
        frame.put();
        let seen = others.map(|other| other.join().expect("no panic"));
        assert!(seen.iter().flatten().all(|owner| *owner == OWNER));
        assert_eq!((frame.freed.load(Relaxed), frame.word.owner()), (1, None));
        assert!(frame.look().is_none());
    });
}

/// Who gets a frame anew has it to itself first, and who references it then sees what its new owner is to see.
#[test]
fn a_frame_is_reused_when_nobody_reaches_it() {
    check(None, || {
        let frame = Frame::new();
        let other = {
            let frame = frame.clone();
            thread::spawn(move || frame.look())
        };
        let mut freed = 0;
        if frame.put() {
            frame.contents.write(NEXT_OWNER);
            frame.word.assign(NEXT_OWNER, Kind::Ram);
            freed = 1;
        }
        let seen = other.join().expect("no panic");
        assert!(freed == 1 || seen == Some(OWNER));
        assert_eq!(frame.freed.load(Relaxed), 1);
        assert_eq!(
            frame.word.owner(),
            (freed == 1).then_some((NEXT_OWNER, Kind::Ram))
        );
    });
}

/// Of the chunks that two CPUs make for the same words one becomes theirs, and who finds it finds it initialized.
#[test]
fn one_chunk_is_published() {
    check(None, || {
        let chunks = [Memory::default(), Memory::default()];
        let shared = Arc::new((AtomicPtr::new(core::ptr::null_mut()), chunks));
        let make = |which: usize, (slot, chunks): &(AtomicPtr<Memory>, [Memory; 2])| {
            chunks[which].write(OWNER);
            let new = NonNull::from(&chunks[which]);
            frame_word::publish(slot, new).unwrap_or(new).addr()
        };
        let maker = {
            let shared = shared.clone();
            thread::spawn(move || make(1, &shared))
        };
        let reader = {
            let shared = shared.clone();
            thread::spawn(move || {
                let (slot, chunks) = &*shared;
                frame_word::chunk(slot).is_none_or(|found| of(found.addr(), chunks).read() == OWNER)
            })
        };
        let own = make(0, &shared);
        assert_eq!(of(own, &shared.1).read(), OWNER);
        assert_eq!(maker.join().expect("no panic"), own);
        assert!(reader.join().expect("no panic"));
    });
}

/// The one of `chunks` that is at `address`.
fn of(address: NonZero<usize>, chunks: &[Memory]) -> &Memory {
    let mut chunks = chunks.iter();
    let found = chunks.find(|chunk| NonNull::from(*chunk).addr() == address);
    found.expect("one of these is published")
}
