//! Who owns a frame of RAM, and how many still need it.
//!
//! One 64-bit word a frame: a reference count, the owning domain and what the frame is for. A frame that a domain
//! owns starts with one reference, held by the owner (in its p2m, or by the hypervisor for [`Kind::Special`]);
//! every further p2m entry, grant mapping, pin or copy in progress holds one more. Whoever drops the last one
//! scrubs the frame and gives it back to [`frames`], so a frame is never reused while anybody can reach it, and
//! never reaches its next owner with the old contents.
//!
//! Words live in chunks, one for each GiB of machine address space that has ever held a domain's frame. A chunk
//! is never freed, so reading a word takes no lock. A frame without a word (MMIO, the hypervisor's own) has no
//! owner and cannot be referenced.
// UNSAFETY: the words live in frames, reached by raw pointers.
#![expect(unsafe_code, reason = "the words live in frames, reached by raw pointers")]

use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};

use super::fallible::OutOfMemory;
pub use super::frame_word::Kind;
use super::frame_word::{self, Word};
use super::frames;
use super::phys;
use crate::types::{DomId, Mfn, PAGE_SIZE};

/// The domain would own more frames than it may.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OverLimit;

/// log2 of the frames in a chunk: 1 GiB of RAM, whose words take 2 MiB.
const CHUNK_ORDER: u32 = 18;
/// log2 of the frames that the words of a chunk fill.
const CHUNK_FRAMES_ORDER: u32 = CHUNK_ORDER - 9;
/// Machine address space that can hold RAM.
const CHUNKS: usize = ((phys::RAM_END / PAGE_SIZE) >> CHUNK_ORDER) as usize;

static WORDS: [AtomicPtr<Word>; CHUNKS] = [const { AtomicPtr::new(null_mut()) }; CHUNKS];

/// Frames of [`Kind::Ram`] that each domain owns or is about to, those that only others still reference included.
static OWNED: [AtomicU32; MAX_DOMAINS] = [const { AtomicU32::new(0) }; MAX_DOMAINS];
/// `DOMID_FIRST_RESERVED`: no domain has this number or a larger one.
const MAX_DOMAINS: usize = 0x7ff0;

/// A domain lost its last frame since [`take_orphaned`] was last called.
static ORPHANED: AtomicBool = AtomicBool::new(false);

/// The word of `mfn`, if its chunk exists.
#[inline]
fn word(mfn: Mfn) -> Option<&'static Word> {
    let chunk = frame_word::chunk(slot(mfn)?)?;
    Some(word_in(chunk, mfn))
}

/// [`word`], making the chunk.
fn word_or_new(mfn: Mfn) -> Result<&'static Word, OutOfMemory> {
    let slot = slot(mfn).ok_or(OutOfMemory)?;
    if let Some(chunk) = frame_word::chunk(slot) {
        return Ok(word_in(chunk, mfn));
    }
    let frames = frames::alloc_zeroed(CHUNK_FRAMES_ORDER).ok_or(OutOfMemory)?;
    let new = NonNull::new(phys::ptr(frames.addr()).cast()).ok_or(OutOfMemory)?;
    let first = frame_word::publish(slot, new);
    if first.is_some() {
        frames::free(frames, CHUNK_FRAMES_ORDER);
    }
    Ok(word_in(first.unwrap_or(new), mfn))
}

#[inline]
fn slot(mfn: Mfn) -> Option<&'static AtomicPtr<Word>> {
    WORDS.get((mfn.0 >> CHUNK_ORDER) as usize)
}

/// The word of `mfn` in its chunk.
#[inline]
fn word_in(chunk: NonNull<Word>, mfn: Mfn) -> &'static Word {
    let index = (mfn.0 & ((1 << CHUNK_ORDER) - 1)) as usize;
    // SAFETY: a chunk has `1 << CHUNK_ORDER` initialized words, is never freed, and is only accessed as atomics.
    unsafe { chunk.add(index).as_ref() }
}

/// Count `frames` more frames of [`Kind::Ram`] for `owner`, which are then to be assigned, unless it would have more than `limit`. Who
/// gets them at the same time is counted, too: all that is promised together never exceeds the limit.
pub fn charge(owner: DomId, frames: u64, limit: u64) -> Result<(), OverLimit> {
    let owned = OWNED.get(usize::from(owner.0)).ok_or(OverLimit)?;
    let more = |now: u32| u32::try_from(u64::from(now).checked_add(frames)?).ok();
    owned
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
            more(now).filter(|&then| u64::from(then) <= limit)
        })
        .map_err(|_| OverLimit)?;
    Ok(())
}

/// Take back a [`charge`] for frames that were not assigned, or are gone.
pub fn uncharge(owner: DomId, frames: u64) {
    let Some(owned) = OWNED.get(usize::from(owner.0)) else {
        return;
    };
    let before = owned.fetch_sub(frames as u32, Ordering::AcqRel);
    debug_assert!(
        u64::from(before) >= frames,
        "{owner} has fewer frames than it gives back"
    );
    if u64::from(before) == frames {
        ORPHANED.store(true, Ordering::Release);
    }
}

/// Give the `1 << order` freshly allocated frames from `mfn` on to `owner`, with one reference each. What is in them, the domain will see.
/// Frames of [`Kind::Ram`] were [charged](charge).
///
/// # Errors
/// No memory for the words; the frames are still the caller's.
pub fn assign(mfn: Mfn, order: u32, owner: DomId, kind: Kind) -> Result<(), OutOfMemory> {
    // Only the first can be without one: a block is within a chunk.
    const { assert!(frames::MAX_ORDER <= CHUNK_ORDER) };
    for frame in mfn.0..mfn.0 + (1 << order) {
        word_or_new(Mfn(frame))?.assign(owner, kind);
    }
    Ok(())
}

/// Who owns `mfn`, and as what. `None`: not a domain's RAM.
pub fn owner(mfn: Mfn) -> Option<(DomId, Kind)> {
    word(mfn)?.owner()
}

/// How many frames of [`Kind::Ram`] does `domain` own?
pub fn owned(domain: DomId) -> u64 {
    OWNED
        .get(usize::from(domain.0))
        .map_or(0, |owned| u64::from(owned.load(Ordering::Acquire)))
}

/// Has any domain lost its last frame since the last call? If so, zombies are worth a look.
pub fn take_orphaned() -> bool {
    ORPHANED.load(Ordering::Relaxed) && ORPHANED.swap(false, Ordering::AcqRel)
}

/// A reference on a frame, and where it is counted.
#[derive(Debug)]
pub struct Reference {
    mfn: Mfn,
    word: &'static Word,
}

impl Reference {
    /// The frame.
    #[inline]
    pub fn mfn(&self) -> Mfn {
        self.mfn
    }

    /// Who owns the frame, which does not change while there is a reference.
    #[inline]
    pub fn owner(&self) -> DomId {
        self.word.owner_of_referenced()
    }

    /// What stands for a reference on `mfn` that the caller holds. `None`: nobody can.
    pub fn held(mfn: Mfn) -> Option<Reference> {
        Some(Reference {
            mfn,
            word: word(mfn)?,
        })
    }
}

impl Drop for Reference {
    #[inline]
    fn drop(&mut self) {
        if self.word.put() {
            release(self.mfn, 0);
        }
    }
}

/// Take a reference on a frame that somebody still references. `None`: nobody does (any more), or it is no
/// domain's, or there are two billion references. The caller must check *after this* that the translation which
/// named the frame still holds.
#[inline]
pub fn get(mfn: Mfn) -> Option<Reference> {
    let word = word(mfn)?;
    word.get().then(|| Reference { mfn, word })
}

/// Drop a reference on each of the `1 << order` frames from `mfn` on; the caller held them. Frames without any
/// left are scrubbed and freed.
pub fn put(mfn: Mfn, order: u32) {
    if order == 0 {
        put_one(mfn);
        return;
    }
    // Frames from `run` up to the current one lost their last reference here, so they are this call's to free.
    let end = mfn.0 + (1 << order);
    let mut run = mfn.0;
    for frame in mfn.0..end {
        if !drop_reference(Mfn(frame)) {
            (run..frame).for_each(|frame| release(Mfn(frame), 0));
            run = frame + 1;
        }
    }
    if run == mfn.0 {
        release(mfn, order);
    } else {
        (run..end).for_each(|frame| release(Mfn(frame), 0));
    }
}

#[inline]
fn put_one(mfn: Mfn) {
    if drop_reference(mfn) {
        release(mfn, 0);
    }
}

/// Was it the last?
#[inline]
fn drop_reference(mfn: Mfn) -> bool {
    word(mfn).is_some_and(Word::put)
}

/// Scrub and free frames that have an owner, but no reference.
#[cold]
fn release(mfn: Mfn, order: u32) {
    let owner = owner(mfn);
    for frame in mfn.0..mfn.0 + (1 << order) {
        if let Some(word) = word(Mfn(frame)) {
            word.clear();
        }
    }
    // SAFETY: no reference is left, so nothing maps the frames and no copy is under way; they are this function's.
    unsafe { phys::zero(mfn, 1 << order) };
    frames::free_scrubbed(mfn, order);
    if let Some((owner, Kind::Ram)) = owner {
        uncharge(owner, 1 << order);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of its own for each test, under an owner that no other test uses.
    fn frame(order: u32, owner: u16) -> (Mfn, DomId) {
        let mfn = frames::alloc(order).expect("arena");
        charge(DomId(owner), 1 << order, 1 << order).expect("within the limit");
        assign(mfn, order, DomId(owner), Kind::Ram).expect("words");
        (mfn, DomId(owner))
    }

    #[test]
    fn last_reference_frees_the_frame() {
        let (mfn, owner) = frame(0, 9001);
        assert_eq!(owned(owner), 1);
        let reference = get(mfn).expect("the owner holds one");
        assert_eq!((reference.mfn(), reference.owner()), (mfn, owner));
        drop(reference);
        assert_eq!(super::owner(mfn), Some((owner, Kind::Ram)));
        put(mfn, 0);
        assert_eq!((super::owner(mfn), owned(owner)), (None, 0));
        assert!(get(mfn).is_none(), "a free frame cannot be referenced");
    }

    #[test]
    fn a_block_keeps_what_others_reference() {
        let (mfn, owner) = frame(9, 9002);
        let reference = get(mfn.offset(5)).expect("the owner holds one");
        put(mfn, 9);
        assert_eq!(owned(owner), 1);
        assert_eq!(super::owner(mfn.offset(5)), Some((owner, Kind::Ram)));
        // Another test may have taken it already.
        assert_ne!(super::owner(mfn.offset(4)), Some((owner, Kind::Ram)));
        drop(reference);
        assert_eq!(owned(owner), 0);
        assert!(take_orphaned());
    }

    #[test]
    fn nobody_is_charged_beyond_a_limit() {
        let owner = DomId(9004);
        assert_eq!(charge(owner, 3, 4), Ok(()));
        assert_eq!(charge(owner, 2, 4), Err(OverLimit));
        assert_eq!(charge(owner, u64::MAX, u64::MAX), Err(OverLimit));
        assert_eq!(charge(owner, 1, 4), Ok(()));
        assert_eq!(
            charge(owner, 0, 3),
            Err(OverLimit),
            "the limit was lowered meanwhile"
        );
        uncharge(owner, 4);
        assert_eq!((owned(owner), charge(DomId(u16::MAX), 1, 1)), (0, Err(OverLimit)));
    }

    #[test]
    fn special_frames_do_not_count() {
        let mfn = frames::alloc(0).expect("arena");
        assign(mfn, 0, DomId(9003), Kind::Special).expect("words");
        assert_eq!(owned(DomId(9003)), 0);
        put(mfn, 0);
        assert_eq!(super::owner(mfn), None);
    }

    #[test]
    fn memory_that_is_no_ram_has_no_owner() {
        assert!(get(Mfn(0xf_ffff_ffff)).is_none());
        assert_eq!(super::owner(Mfn(u64::MAX)), None);
    }
}
