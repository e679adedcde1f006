//! The machine's free frames.
//!
//! A list of zones, contiguous spans of RAM, each with its own [`Buddy`]; holes between zones cost nothing. A frame that was allocated belongs
//! to whoever got it until he frees it with the same or smaller orders. Contents are whatever they were: who frees a guest's memory
//! scrubs it first, and says so ([`free_scrubbed`]), so that nobody needs to do it again. On the host, the zone is [`super::phys`]'s arena.
// UNSAFETY: the allocator's books lie in frames of their own.
#![expect(unsafe_code, reason = "the allocator's books lie in frames of their own")]

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use arrayvec::ArrayVec;

use super::buddy::{Block, Buddy, NotFree};
use super::phys;
use crate::sync::{Mutex, Rank};
use crate::types::{Mfn, PAGE_SIZE};

pub use super::buddy::MAX_ORDER;

/// More zones than machines have; RAM beyond is not used.
pub const MAX_ZONES: usize = 32;
/// Free frames that no domain gets as memory: page tables and control blocks have to be had when domains have taken all else, above all
/// to give memory back, as that splits large pages.
const RESERVE: u64 = 256;
/// Frames in the largest block; zones are aligned to it.
const ALIGN: u64 = 1 << MAX_ORDER;

#[derive(Debug)]
struct Zone {
    /// First frame, aligned to [`ALIGN`]; what the buddy allocator counts from.
    base: u64,
    buddy: Buddy<'static>,
}

impl Zone {
    fn local(&self, frame: Mfn) -> Option<usize> {
        let at = frame.0.checked_sub(self.base)? as usize;
        (at < self.buddy.frames()).then_some(at)
    }
}

/// Frames that were just allocated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Fresh {
    first: Mfn,
    /// There are only zeroes in them.
    zeroes: bool,
}

impl Fresh {
    fn of(zone: &Zone, block: Block) -> Self {
        Self {
            first: Mfn(zone.base + block.first as u64),
            zeroes: block.zeroes,
        }
    }

    /// The `1 << order` frames, filled with zeroes.
    fn zeroed(self, order: u32) -> Mfn {
        // SAFETY: just allocated, so RAM, and nobody else has it.
        unsafe {
            if !self.zeroes {
                phys::zero(self.first, 1 << order);
            }
            debug_assert!(
                phys::is_zero(self.first, 1 << order),
                "{} was scrubbed",
                self.first
            );
        }
        self.first
    }
}

#[derive(Debug)]
struct Frames {
    /// Ascending.
    zones: ArrayVec<Zone, MAX_ZONES>,
    total: u64,
    /// All that [`Claim`]s set aside.
    claimed: u64,
}

/// Free frames set aside for a domain: other domains do not get them. What the hypervisor needs for itself comes first, though.
#[derive(Debug, Default)]
pub struct Claim(AtomicU64);

impl Claim {
    /// How many frames.
    pub fn pages(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Why frames cannot be set aside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// There is such a claim.
    Claimed,
    /// There are not so many that nobody else has claimed.
    TooMany,
}

static FRAMES: Mutex<Frames> = Mutex::new(
    Rank::Frames,
    Frames {
        zones: ArrayVec::new_const(),
        total: 0,
        claimed: 0,
    },
);

impl Frames {
    /// Add the zone of `runs`, all within reach of one set of books, which spans what of `later` is near, too. The books are taken from the
    /// end of the largest run.
    fn add_zone(&mut self, runs: &[Range<Mfn>], later: &[Range<Mfn>]) {
        let (Some(first), Some(last)) = (runs.first(), runs.last()) else {
            return;
        };
        let base = first.start.0 / ALIGN * ALIGN;
        let near = |range: &&Range<Mfn>| range.start.0 / ALIGN == (last.end.0 - 1) / ALIGN;
        let end = later
            .iter()
            .filter(near)
            .map(|range| range.end.0)
            .fold(last.end.0, u64::max);
        let span = (end - base) as usize;
        let words = Buddy::words_for(span);
        let pages = (words as u64 * 8).div_ceil(PAGE_SIZE);
        let Some(largest) = runs.iter().map(length).max() else {
            return;
        };
        if self.zones.is_full() || largest <= pages {
            return;
        }
        let Some(home) = runs.iter().find(|run| length(run) == largest) else {
            return;
        };
        let books = phys::ptr(Mfn(home.end.0 - pages).addr()).cast::<u64>();
        // SAFETY: page-aligned RAM that nobody has (the promise of `init`'s caller) and nobody else gets: it is not given to the buddy
        // below. Any bytes are valid u64s, and `Buddy::new` clears them.
        let books = unsafe { core::slice::from_raw_parts_mut(books, words) };
        let mut buddy = Buddy::new(books, span);
        for run in runs {
            let end = if run == home { run.end.0 - pages } else { run.end.0 };
            let given = buddy.free_range((run.start.0 - base) as usize, (end - base) as usize);
            debug_assert_eq!(given, Ok(()), "runs overlap");
        }
        self.total += buddy.free_count() as u64;
        self.zones.push(Zone { base, buddy });
    }

    /// On the host, the arena becomes the machine's memory at the first use.
    fn ready(&mut self) -> &mut Self {
        #[cfg(not(target_os = "none"))]
        if self.zones.is_empty() {
            self.add_zone(&[Mfn(1)..Mfn(phys::ARENA_SIZE / PAGE_SIZE)], &[]);
        }
        self
    }

    fn alloc(&mut self, order: u32) -> Option<Fresh> {
        let mut zones = self.zones.iter_mut().rev();
        zones.find_map(|zone| {
            let block = zone.buddy.alloc(order)?;
            Some(Fresh::of(zone, block))
        })
    }

    /// From the claim if it is large enough, else of what nobody has claimed; the claim is for no more than it was in either case (as on Xen).
    fn alloc_for_domain(&mut self, order: u32, claim: &Claim) -> Option<Fresh> {
        let size = 1 << order;
        let own = claim.pages();
        let others = if own >= size { 0 } else { self.claimed };
        if self.free() < RESERVE + others + size {
            return None;
        }
        let fresh = self.alloc(order)?;
        self.claimed -= own.min(size);
        claim.0.store(own - own.min(size), Ordering::Relaxed);
        Some(fresh)
    }

    /// Of what is free, claimed or not: for what a domain that runs cannot do without.
    fn alloc_beside_claims(&mut self, order: u32) -> Option<Fresh> {
        if self.free() < RESERVE + (1 << order) {
            return None;
        }
        self.alloc(order)
    }

    fn give_back(&mut self, first: Mfn, order: u32, zeroes: bool) -> Result<(), NotFree> {
        let (zone, at) = self.zone_of(first).ok_or(NotFree)?;
        zone.buddy.free(at, order, zeroes)
    }

    fn claim(&mut self, claim: &Claim, pages: u64) -> Result<(), Refused> {
        if claim.pages() != 0 {
            return Err(Refused::Claimed);
        }
        let all = pages.checked_add(self.claimed).ok_or(Refused::TooMany)?;
        if all > self.free().saturating_sub(RESERVE) {
            return Err(Refused::TooMany);
        }
        self.claimed = all;
        claim.0.store(pages, Ordering::Relaxed);
        Ok(())
    }

    fn unclaim(&mut self, claim: &Claim) {
        self.claimed -= claim.0.swap(0, Ordering::Relaxed);
    }

    fn free(&self) -> u64 {
        self.zones.iter().map(|zone| zone.buddy.free_count() as u64).sum()
    }

    fn zone_of(&mut self, frame: Mfn) -> Option<(&mut Zone, usize)> {
        let zone = self.zones.iter_mut().rev().find(|zone| zone.base <= frame.0)?;
        let at = zone.local(frame)?;
        Some((zone, at))
    }
}

fn length(run: &Range<Mfn>) -> u64 {
    run.end.0.saturating_sub(run.start.0)
}

/// Give the machine's free RAM to the allocator, as ascending runs of frames. What is to be given to [`add`] is in `later`. Called at boot, for
/// each part of memory once.
///
/// # Safety
/// The runs are RAM, do not overlap, are reached through [`phys::ptr`], and nobody uses them.
pub unsafe fn init(runs: &[Range<Mfn>], later: &[Range<Mfn>]) {
    let mut frames = FRAMES.lock();
    // Runs within the same aligned GiB cannot have separate books.
    for zone in runs.chunk_by(|a, b| b.start.0 / ALIGN <= a.end.0.saturating_sub(1) / ALIGN) {
        frames.add_zone(zone, later);
    }
}

/// Give frames to the allocator that [`init`] left out.
///
/// # Errors
/// If no zone spans them, or one of them is free already.
///
/// # Safety
/// As for [`init`].
pub unsafe fn add(start: Mfn, count: u64) -> Result<(), NotFree> {
    let mut frames = FRAMES.lock();
    let (zone, at) = frames.zone_of(start).ok_or(NotFree)?;
    zone.buddy.free_range(at, at.saturating_add(count as usize))?;
    frames.total += count;
    Ok(())
}

/// Take `1 << order` frames, aligned to their size: high memory first. Their contents are anything.
pub fn alloc(order: u32) -> Option<Mfn> {
    let fresh = FRAMES.lock().ready().alloc(order)?;
    Some(fresh.first)
}

/// As [`alloc`], filled with zeroes.
pub fn alloc_zeroed(order: u32) -> Option<Mfn> {
    let fresh = FRAMES.lock().ready().alloc(order)?;
    Some(fresh.zeroed(order))
}

/// The same for a domain's memory: some frames stay, and those that others than `claim` have set aside.
pub fn alloc_zeroed_for_domain(order: u32, claim: &Claim) -> Option<Mfn> {
    let fresh = FRAMES.lock().ready().alloc_for_domain(order, claim)?;
    Some(fresh.zeroed(order))
}

/// The same whoever has set them aside: for what a domain that runs cannot do without.
pub fn alloc_zeroed_beside_claims(order: u32) -> Option<Mfn> {
    let fresh = FRAMES.lock().ready().alloc_beside_claims(order)?;
    Some(fresh.zeroed(order))
}

/// Set `pages` free frames aside; who allocates with `claim` uses them up.
///
/// # Errors
/// See [`Refused`].
pub fn claim(claim: &Claim, pages: u64) -> Result<(), Refused> {
    FRAMES.lock().ready().claim(claim, pages)
}

/// Set nothing aside any more.
pub fn unclaim(claim: &Claim) {
    FRAMES.lock().unclaim(claim);
}

/// Frames that are set aside for domains.
pub fn claimed() -> u64 {
    FRAMES.lock().claimed
}

/// Take the lowest block of `1 << order` frames, if it ends not after `limit`.
pub fn alloc_below(order: u32, limit: Mfn) -> Option<Mfn> {
    FRAMES.lock().ready().zones.iter_mut().find_map(|zone| {
        let limit = limit.0.saturating_sub(zone.base);
        let block = zone.buddy.alloc_below(order, usize::try_from(limit).ok()?)?;
        Some(Fresh::of(zone, block).first)
    })
}

/// Take a block that ends below 4 GiB, as high as zones go.
pub fn alloc_low(order: u32) -> Option<Mfn> {
    let mut frames = FRAMES.lock();
    let mut zones = frames
        .ready()
        .zones
        .iter_mut()
        .rev()
        .filter(|zone| zone.base < 1 << 20);
    zones.find_map(|zone| {
        let limit = usize::try_from((1 << 20) - zone.base).ok()?;
        let block = zone.buddy.alloc_below(order, limit)?;
        Some(Fresh::of(zone, block).first)
    })
}

/// Take exactly the `count` frames from `start` on. All of them are free, or nothing happens and it is an error.
///
/// # Errors
/// If one of them is not free.
pub fn take_range(start: Mfn, count: u64) -> Result<(), NotFree> {
    let mut frames = FRAMES.lock();
    let (zone, at) = frames.ready().zone_of(start).ok_or(NotFree)?;
    let end = at
        .checked_add(count as usize)
        .filter(|&end| end <= zone.buddy.frames())
        .ok_or(NotFree)?;
    zone.buddy.take_range(at, end)
}

/// The first run of free frames at or after `from`, for who builds a domain out of the lowest memory.
pub fn next_free_run(from: Mfn) -> Option<Range<Mfn>> {
    FRAMES.lock().ready().zones.iter_mut().find_map(|zone| {
        let from = from.0.saturating_sub(zone.base) as usize;
        let (start, end) = (from < zone.buddy.frames()).then(|| zone.buddy.next_run(from))??;
        Some(Mfn(zone.base + start as u64)..Mfn(zone.base + end as u64))
    })
}

/// Give frames back.
///
/// # Panics
/// If they were not allocated: the hypervisor's books are wrong then, and going on would give memory to two owners.
pub fn free(first: Mfn, order: u32) {
    give_back(first, order, false);
}

/// Give frames back that have only zeroes in them.
///
/// # Panics
/// As [`free`].
pub fn free_scrubbed(first: Mfn, order: u32) {
    give_back(first, order, true);
}

fn give_back(first: Mfn, order: u32, zeroes: bool) {
    let freed = FRAMES.lock().ready().give_back(first, order, zeroes);
    assert!(
        freed.is_ok(),
        "frame {first} (order {order}) was freed, but not allocated"
    );
}

/// Give back any run of frames, such as one of [`take_range`].
///
/// # Panics
/// As [`free`].
pub fn free_range(start: Mfn, count: u64) {
    let mut frames = FRAMES.lock();
    let freed = frames
        .ready()
        .zone_of(start)
        .ok_or(NotFree)
        .and_then(|(zone, at)| zone.buddy.free_range(at, at.saturating_add(count as usize)));
    assert!(
        freed.is_ok(),
        "{count} frames from {start} were freed, but not allocated"
    );
}

/// Frames that are free now.
pub fn free_count() -> u64 {
    FRAMES.lock().ready().free()
}

/// Those of them that domains may have as memory.
pub fn free_for_domains() -> u64 {
    free_count().saturating_sub(RESERVE)
}

/// Frames that the allocator was given at boot.
pub fn total_count() -> u64 {
    FRAMES.lock().ready().total
}

/// One past the highest frame that the allocator can give.
pub fn highest() -> Mfn {
    FRAMES
        .lock()
        .ready()
        .zones
        .last()
        .map_or(Mfn(0), |zone| Mfn(zone.base + zone.buddy.frames() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_and_go() {
        let a = alloc(0).unwrap();
        let b = alloc_zeroed(3).unwrap();
        assert!(b.0.is_multiple_of(8) && !(b.0..b.0 + 8).contains(&a.0));
        assert!(take_range(b, 8).is_err());
        assert!(take_range(Mfn(phys::ARENA_SIZE / PAGE_SIZE - 1), 5).is_err());
        assert_eq!(alloc(MAX_ORDER), None);
        assert!(free_count() < total_count() && total_count() < phys::ARENA_SIZE / PAGE_SIZE);
        free(a, 0);
        free(b, 3);
        assert_eq!(alloc_below(0, Mfn(1)), None);
    }

    /// Others than the arena's: tests that run at the same time take from that.
    fn some_frames(span: usize) -> Frames {
        let mut books = [0; 64];
        let books = books.get_mut(..Buddy::words_for(span)).expect("enough").to_vec();
        let mut buddy = Buddy::new(Vec::leak(books), span);
        buddy.free_range(0, span).expect("its own");
        Frames {
            zones: ArrayVec::from_iter([Zone { base: 0, buddy }]),
            total: span as u64,
            claimed: 0,
        }
    }

    #[test]
    fn a_reserve_is_left_by_domains() {
        let mut frames = some_frames(2 * RESERVE as usize);
        let none = Claim::default();
        assert!(frames.alloc_for_domain(7, &none).is_some());
        assert!(frames.alloc_for_domain(8, &none).is_none());
        assert_eq!(frames.free(), 384);
        assert!((0..128).all(|_| frames.alloc_for_domain(0, &none).is_some()));
        assert_eq!(frames.alloc_for_domain(0, &none), None);
        assert!(frames.alloc(0).is_some());
    }

    #[test]
    fn what_is_claimed_is_kept_for_its_domain() {
        let mut frames = some_frames(2 * RESERVE as usize);
        let (claim, other, none) = (Claim::default(), Claim::default(), Claim::default());
        assert_eq!(frames.claim(&claim, RESERVE + 1), Err(Refused::TooMany));
        assert_eq!(frames.claim(&claim, u64::MAX), Err(Refused::TooMany));
        assert_eq!(frames.claim(&claim, 200), Ok(()));
        assert_eq!(frames.claim(&claim, 1), Err(Refused::Claimed));
        assert_eq!(frames.claim(&other, 57), Err(Refused::TooMany));
        assert_eq!(frames.claim(&other, 6), Ok(()));
        assert_eq!(frames.alloc_for_domain(6, &none), None, "50 are nobody's");
        assert!(frames.alloc_for_domain(5, &none).is_some());
        assert!(
            frames.alloc_for_domain(3, &other).is_some(),
            "6 of the claim, 2 more"
        );
        assert_eq!((other.pages(), frames.claimed), (0, 200));
        assert!((0..50).all(|_| frames.alloc_for_domain(2, &claim).is_some()));
        assert_eq!((claim.pages(), frames.claimed), (0, 0));
        assert_eq!(frames.claim(&claim, 16), Ok(()));
        assert_eq!(frames.alloc_for_domain(0, &none), None);
        frames.unclaim(&claim);
        assert_eq!((claim.pages(), frames.claimed), (0, 0));
        assert!(frames.alloc_for_domain(4, &none).is_some());
    }

    /// The lowest free frame is the next to be allocated, unless another test comes between.
    #[test]
    fn only_what_was_scrubbed_is_taken_for_zeroes() {
        for _ in 0..16 {
            let dirty = alloc(3).unwrap();
            // SAFETY: just allocated.
            unsafe { phys::ptr(dirty.addr()).write_bytes(0xa5, 8 * PAGE_SIZE as usize) };
            free(dirty, 3);
            let zeroes = alloc_zeroed(3).unwrap();
            // SAFETY: likewise.
            unsafe { assert!(phys::is_zero(zeroes, 8)) };
            free_scrubbed(zeroes, 3);
        }
        let mut frames = some_frames(64);
        let fresh = |first, zeroes| {
            Some(Fresh {
                first: Mfn(first),
                zeroes,
            })
        };
        assert_eq!(frames.alloc(6), fresh(0, false));
        frames.give_back(Mfn(0), 6, true).expect("allocated");
        assert_eq!(frames.alloc(1), fresh(0, true));
        frames.give_back(Mfn(0), 1, false).expect("allocated");
        assert_eq!(frames.alloc(6), fresh(0, false));
    }

    #[test]
    #[should_panic(expected = "not allocated")]
    fn frames_outside_of_ram_cannot_be_freed() {
        free(Mfn(1 << 30), 0);
    }
}
