//! The word of a frame: how many reference it, who owns it and what it is for.
//!
//! A frame that nobody references cannot be referenced before it has an owner again. So one of those who drop references drops the last, has the frame to itself from
//! then on, and what it and the others did to it before comes before what the next owner does.
//!
//! `tests/models` runs this under every interleaving that the memory model allows.

use core::ptr::{NonNull, null_mut};

use crate::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use crate::types::DomId;

/// What a domain's frame is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The domain's memory: counts against its limit, the owner's reference is its p2m entry.
    Ram = 1,
    /// Made by the hypervisor for the domain (shared_info, grant table): does not count; the owner's reference is
    /// the hypervisor's, and each p2m entry holds one of its own.
    Special = 2,
}

/// The word. All zeros: a frame without owner.
#[derive(Default, Debug)]
#[repr(transparent)]
pub struct Word(AtomicU64);

/// Bits of the count; a count in the upper half of its range takes no further reference.
const COUNT: u64 = 0xffff_ffff;
const COUNT_LIMIT: u64 = 0x7fff_ffff;
const OWNER_SHIFT: u32 = 32;
const KIND_SHIFT: u32 = 48;

impl Word {
    /// The frame, which nobody else can reach, is `owner`'s from now on, with one reference.
    pub fn assign(&self, owner: DomId, kind: Kind) {
        let word = (kind as u64) << KIND_SHIFT | u64::from(owner.0) << OWNER_SHIFT | 1;
        self.0.store(word, Ordering::Release);
    }

    /// Who owns the frame, and as what. `None`: not a domain's RAM.
    pub fn owner(&self) -> Option<(DomId, Kind)> {
        let word = self.0.load(Ordering::Acquire);
        let kind = match word >> KIND_SHIFT {
            1 => Kind::Ram,
            2 => Kind::Special,
            _ => return None,
        };
        Some((owner_in(word), kind))
    }

    /// Who owns the frame, on which the caller has a reference.
    #[inline]
    pub fn owner_of_referenced(&self) -> DomId {
        owner_in(self.0.load(Ordering::Relaxed))
    }

    /// Take a reference, if somebody has one. `false`: nobody does (any more), or there are two billion.
    #[inline]
    pub fn get(&self) -> bool {
        let mut old = self.0.load(Ordering::Acquire);
        loop {
            let count = old & COUNT;
            if count == 0 || count >= COUNT_LIMIT {
                return false;
            }
            match self
                .0
                .compare_exchange_weak(old, old + 1, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return true,
                Err(now) => old = now,
            }
        }
    }

    /// Drop a reference. Was it the last? Then the frame is the caller's alone.
    #[inline]
    #[must_use]
    pub fn put(&self) -> bool {
        let old = self.0.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(old & COUNT != 0, "a reference was dropped once too often");
        old & COUNT == 1
    }

    /// The frame, of which the caller has dropped the last reference, has no owner any more.
    pub fn clear(&self) {
        self.0.store(0, Ordering::Release);
    }
}

#[inline]
fn owner_in(word: u64) -> DomId {
    DomId((word >> OWNER_SHIFT) as u16)
}

/// The chunk of words at `slot`, if there is one.
#[inline]
pub fn chunk<T>(slot: &AtomicPtr<T>) -> Option<NonNull<T>> {
    NonNull::new(slot.load(Ordering::Acquire))
}

/// Make `new`, of which all is initialized, the chunk at `slot`, unless another CPU's comes first: that is returned.
pub fn publish<T>(slot: &AtomicPtr<T>, new: NonNull<T>) -> Option<NonNull<T>> {
    let published = slot.compare_exchange(null_mut(), new.as_ptr(), Ordering::AcqRel, Ordering::Acquire);
    published.err().and_then(NonNull::new)
}
