//! The one way to a guest's memory.
//!
//! What a guest can write is never borrowed: bytes are copied in or out, each read once, or a word of a pinned frame
//! ([`GuestFrame`]) is accessed as an atomic. What a race within the guest leaves in a copy is the guest's affair.
//!
//! # Why a cached walk cannot be stale
//! Hypercall arguments are guest-virtual addresses, and mostly the same few. [`WalkCache`] keeps the result of a walk of the guest's page
//! tables, along with the machine address and the value of every guest entry that the walk read, and the p2m's
//! generation of own memory from before it. Walks that lead through other domains' frames are not kept. A result is used only if
//! 1. CR3 and all mode bits that steer a walk are those of the walk (they are the key),
//! 2. that generation is the same, so every frame of the guest's own is still where it was, the tables included, and
//! 3. reading the entries (at most five words) again gives the same values.
//!
//! Then a walk made now would read the same words at the same places and end at the same frame: the result *is* a walk made
//! now, minus the arithmetic. Nobody needs to tell us of INVLPG or a change of CR3. An access that the cached walk has not
//! set the accessed and dirty bits for is not answered from the cache.
//!
//! # Why a copy cannot reach a frame that has moved on
//! A *read* is checked afterwards: if the generation changed meanwhile, what was read is dropped and the access is
//! made again from the start. A *write* first takes a reference on the frame, and then compares the generation: from there on the
//! frame cannot be freed.
// UNSAFETY: copies between the hypervisor's memory and guest frames, by raw pointer.
#![expect(unsafe_code, reason = "guest frames are reached by raw pointers")]

use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::fallible::OutOfMemory;
use super::p2m::{Entry, P2m};
use super::page_info::Reference;
use super::walk::{self, Walk};
use super::{frames, page_info, phys};
use crate::arch::Translation;
use crate::types::{DomId, Gfn, Gpa, Gva, Mfn, PAGE_SIZE};

/// The guest named memory that it does not have, or may not access that way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault;

impl From<Fault> for abi::Errno {
    fn from(_: Fault) -> abi::Errno {
        abi::Errno::EFAULT
    }
}

/// Reading or writing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// The guest's memory is read.
    Read,
    /// The guest's memory is written.
    Write,
}

/// A number of tries after which a guest that changes its p2m under our hands is told that it has no such memory.
const MAX_TRIES: u32 = 64;

// ---- by guest-physical address ----

/// Copy `to.len()` bytes out of the guest-physical range at `from`.
///
/// # Errors
/// A page of the range is not RAM; some of `to` may have been written.
pub fn read_phys(p2m: &P2m, from: Gpa, to: &mut [u8]) -> Result<(), Fault> {
    let mut at = from;
    for_each_page(from.page_offset(), to.len(), |range| {
        let page = &mut to[range];
        with_stable(p2m, || {
            let hpa = ram(p2m, at.frame(), Access::Read)?
                .mfn
                .addr()
                .offset(at.page_offset());
            // SAFETY: `hpa` was RAM of the guest when it was looked up, and the hypervisor maps all RAM; `page` does not cross a page's end. If
            // the frame has moved on meanwhile, the generation says so, and the bytes are not used.
            unsafe { copy(page.as_mut_ptr(), phys::ptr(hpa), page.len()) };
            Ok(())
        })?;
        at = at.offset(page.len() as u64);
        Ok(())
    })
}

/// Copy `from` into the guest-physical range at `to`.
///
/// # Errors
/// A page of the range is not RAM that the guest may write; pages before it have been written.
pub fn write_phys(p2m: &P2m, to: Gpa, from: &[u8]) -> Result<(), Fault> {
    let mut at = to;
    for_each_page(to.page_offset(), from.len(), |range| {
        let page = &from[range];
        let frame = GuestFrame::pin(p2m, at.frame(), Access::Write)?;
        frame.copy_in(at.page_offset(), page);
        at = at.offset(page.len() as u64);
        Ok(())
    })
}

/// What is behind `gfn`, if it is RAM that allows `access`.
#[inline(always)]
pub(super) fn ram(p2m: &P2m, gfn: Gfn, access: Access) -> Result<Entry, Fault> {
    allowed(p2m.lookup(gfn).ok_or(Fault)?, access)
}

/// `entry`, if it is RAM that allows `access`.
#[inline(always)]
fn allowed(entry: Entry, access: Access) -> Result<Entry, Fault> {
    let allowed = match access {
        Access::Read => entry.kind.is_ram(),
        Access::Write => entry.kind.is_ram() && entry.kind.writable(),
    };
    if allowed { Ok(entry) } else { Err(Fault) }
}

/// Do `read` until the p2m's generation did not change meanwhile.
fn with_stable<R>(p2m: &P2m, mut read: impl FnMut() -> Result<R, Fault>) -> Result<R, Fault> {
    for _ in 0..MAX_TRIES {
        let generation = p2m.generation();
        let result = read();
        fence(Ordering::Acquire);
        if p2m.generation() == generation {
            return result;
        }
    }
    Err(Fault)
}

/// Cut `len` bytes that begin at `offset` in a page into ranges that do not cross a page's end.
fn for_each_page(
    offset: u64,
    len: usize,
    mut work: impl FnMut(core::ops::Range<usize>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut done = 0;
    let mut room = (PAGE_SIZE - offset) as usize;
    while done < len {
        let end = len.min(done + room);
        work(done..end)?;
        done = end;
        room = PAGE_SIZE as usize;
    }
    Ok(())
}

// ---- by guest-virtual address ----

/// Code, stack, arguments and what they point to rarely meet in one place.
const CACHED_WALKS: usize = 64;

/// A vCPU's recent walks; see the module's head.
pub struct WalkCache {
    walks: [Walk; CACHED_WALKS],
}

impl WalkCache {
    /// Knows nothing.
    pub const fn new() -> Self {
        Self {
            walks: [const { Walk::NONE }; CACHED_WALKS],
        }
    }

    /// Which of the walks would be one for `gva`.
    #[inline(always)]
    fn index(gva: Gva) -> usize {
        let page = gva.0 >> 12;
        (page ^ page >> 9) as usize % CACHED_WALKS
    }

    #[inline(always)]
    fn place(&self, gva: Gva) -> &Walk {
        &self.walks[Self::index(gva)]
    }

    fn place_mut(&mut self, gva: Gva) -> &mut Walk {
        &mut self.walks[Self::index(gva)]
    }
}

impl Default for WalkCache {
    fn default() -> Self {
        Self::new()
    }
}

/// A guest's memory as one of its vCPUs sees it at this moment, at supervisor level.
pub struct GuestVirt<'a> {
    p2m: &'a P2m,
    walks: &'a mut WalkCache,
    by: Translation,
}

impl<'a> GuestVirt<'a> {
    /// The memory behind `p2m` as a vCPU with these registers sees it. `walks` belongs to that vCPU.
    #[inline]
    pub fn new(p2m: &'a P2m, walks: &'a mut WalkCache, translation: impl Into<Translation>) -> Self {
        Self {
            p2m,
            walks,
            by: translation.into(),
        }
    }

    /// The same memory, for a call that need not come back: values that nobody else has the address of stay in registers.
    #[inline(always)]
    fn again(&mut self) -> GuestVirt<'_> {
        GuestVirt {
            p2m: self.p2m,
            walks: self.walks,
            by: self.by,
        }
    }

    /// Copy a value out.
    ///
    /// # Errors
    /// Not all of it is mapped, readable RAM.
    #[inline(always)]
    pub fn read<T: FromBytes + IntoBytes>(&mut self, from: Gva) -> Result<T, Fault> {
        let mut value = T::new_zeroed();
        self.read_bytes(from, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Copy a value in.
    ///
    /// # Errors
    /// Not all of it is mapped, writable RAM; a part may have been written.
    #[inline]
    pub fn write<T: IntoBytes + Immutable>(&mut self, to: Gva, value: &T) -> Result<(), Fault> {
        self.write_bytes(to, value.as_bytes())
    }

    /// Copy bytes out.
    ///
    /// # Errors
    /// As [`GuestVirt::read`].
    #[inline(always)]
    pub fn read_bytes(&mut self, from: Gva, to: &mut [u8]) -> Result<(), Fault> {
        let offset = from.page_offset();
        if to.len() as u64 <= PAGE_SIZE - offset {
            return self.read_in_page(from, to);
        }
        self.again().read_pages(from, to)
    }

    #[cold]
    #[inline(never)]
    fn read_pages(mut self, from: Gva, to: &mut [u8]) -> Result<(), Fault> {
        for_each_page(from.page_offset(), to.len(), |range| {
            let at = Gva(from.0.wrapping_add(range.start as u64));
            self.read_in_page(at, &mut to[range])
        })
    }

    /// Copy bytes in.
    ///
    /// # Errors
    /// As [`GuestVirt::write`].
    #[inline]
    pub fn write_bytes(&mut self, to: Gva, from: &[u8]) -> Result<(), Fault> {
        let offset = to.page_offset();
        if from.len() as u64 <= PAGE_SIZE - offset {
            return self.write_in_page(to, from);
        }
        self.again().write_pages(to, from)
    }

    #[cold]
    #[inline(never)]
    fn write_pages(mut self, to: Gva, from: &[u8]) -> Result<(), Fault> {
        for_each_page(to.page_offset(), from.len(), |range| {
            let at = Gva(to.0.wrapping_add(range.start as u64));
            self.write_in_page(at, &from[range])
        })
    }

    #[inline(always)]
    fn read_in_page(&mut self, from: Gva, to: &mut [u8]) -> Result<(), Fault> {
        let generation = self.p2m.own_generation();
        if let Some(page) = self.known(from, Access::Read, generation) {
            // SAFETY: as in `read_phys`; `to` does not cross a page's end.
            unsafe {
                copy(
                    to.as_mut_ptr(),
                    phys::ptr(page.addr().offset(from.page_offset())),
                    to.len(),
                )
            };
            fence(Ordering::Acquire);
            if self.p2m.own_generation() == generation {
                return Ok(());
            }
        }
        self.again().walk_and_read(from, to)
    }

    #[cold]
    #[inline(never)]
    fn walk_and_read(mut self, from: Gva, to: &mut [u8]) -> Result<(), Fault> {
        let p2m = self.p2m;
        with_stable(p2m, || {
            let hpa = self.walk(from, Access::Read)?.addr().offset(from.page_offset());
            // SAFETY: as in `read_phys`; `to` does not cross a page's end.
            unsafe { copy(to.as_mut_ptr(), phys::ptr(hpa), to.len()) };
            Ok(())
        })
    }

    #[inline(always)]
    fn write_in_page(&mut self, to: Gva, from: &[u8]) -> Result<(), Fault> {
        self.frame(to)?.copy_in(to.page_offset(), from);
        Ok(())
    }

    /// Hold the frame that `at` is in, and that may be written. What the guest does to its page tables afterwards does not matter.
    ///
    /// # Errors
    /// It is not mapped, writable RAM.
    #[inline(always)]
    pub fn frame(&mut self, at: Gva) -> Result<GuestFrame, Fault> {
        self.frame_of(at, None)
    }

    /// The same of a frame that `owner` owns. Only such a one may be held for long: another's is not to be written any more once its grant has
    /// ended, which no reference prevents.
    ///
    /// # Errors
    /// As [`GuestVirt::frame`]; or it is another domain's.
    #[inline(always)]
    pub fn own_frame(&mut self, at: Gva, owner: DomId) -> Result<GuestFrame, Fault> {
        self.frame_of(at, Some(owner))
    }

    #[inline(always)]
    fn frame_of(&mut self, at: Gva, owner: Option<DomId>) -> Result<GuestFrame, Fault> {
        let generation = self.p2m.own_generation();
        if let Some(page) = self.known(at, Access::Write, generation)
            && let Ok(frame) = GuestFrame::reference(page, owner)
            && self.p2m.own_generation() == generation
        {
            return Ok(frame);
        }
        self.again().walk_to_frame(at, owner)
    }

    #[cold]
    #[inline(never)]
    fn walk_to_frame(mut self, at: Gva, owner: Option<DomId>) -> Result<GuestFrame, Fault> {
        let p2m = self.p2m;
        with_stable(p2m, || {
            GuestFrame::reference(self.walk(at, Access::Write)?, owner)
        })
    }

    /// Hold the frames behind `len` bytes (a page at most) at `at`, which `owner` owns, to write to them later. What the guest does to its
    /// page tables afterwards does not matter.
    ///
    /// # Errors
    /// Not all of it is mapped, writable RAM; or it is another domain's.
    pub fn pin_own(&mut self, at: Gva, len: usize, owner: DomId) -> Result<GuestRange, Fault> {
        let offset = at.page_offset();
        let in_first = ((PAGE_SIZE - offset) as usize).min(len);
        let first = self.own_frame(at, owner)?;
        let second = if in_first < len {
            Some(self.own_frame(Gva(at.0.wrapping_add(in_first as u64)), owner)?)
        } else {
            None
        };
        Ok(GuestRange {
            first,
            second,
            offset,
            len,
        })
    }

    /// The frame behind `gva`, if a cached walk answers at `generation`.
    #[inline(always)]
    fn known(&self, gva: Gva, access: Access, generation: u64) -> Option<Mfn> {
        let walk = self.walks.place(gva);
        walk.answers(self.by, gva, access, generation)
            .then(|| walk.frame())
    }

    /// The frame behind `gva`, by a walk, which is kept.
    fn walk(&mut self, gva: Gva, access: Access) -> Result<Mfn, Fault> {
        let walk = walk::walk(self.p2m, self.by, gva, access)?;
        let frame = walk.frame();
        *self.walks.place_mut(gva) = walk;
        Ok(frame)
    }
}

// ---- pinned frames ----

/// A frame of guest memory with a reference held, so that it stays what it is, mapped or not.
///
/// Words are accessed as atomics. Offsets are taken modulo the page and rounded down to the word's size, so that no
/// offset can lead out of the frame; callers check those that a guest chose, to give the right error.
#[derive(Debug)]
pub struct GuestFrame(Reference);

impl GuestFrame {
    /// A zeroed frame for the hypervisor to share with `owner`; does not count as the domain's memory.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(owner: DomId) -> Result<Self, OutOfMemory> {
        let mfn = frames::alloc_zeroed(0).ok_or(OutOfMemory)?;
        if let Err(error) = page_info::assign(mfn, 0, owner, page_info::Kind::Special) {
            frames::free(mfn, 0);
            return Err(error);
        }
        Reference::held(mfn).map(Self).ok_or(OutOfMemory)
    }

    /// The frame of RAM that is mapped at `gfn` now.
    ///
    /// # Errors
    /// None is, or it does not allow `access`.
    pub fn pin(p2m: &P2m, gfn: Gfn, access: Access) -> Result<Self, Fault> {
        with_stable(p2m, || Self::reference(ram(p2m, gfn, access)?.mfn, None))
    }

    /// The frame of RAM that is mapped at `gfn` now, if `owner` owns it.
    ///
    /// # Errors
    /// As [`GuestFrame::pin`]; or it is another domain's.
    pub fn pin_of(p2m: &P2m, gfn: Gfn, access: Access, owner: DomId) -> Result<Self, Fault> {
        Self::pin_by(P2m::lookup_near, Self::pin_far, p2m, gfn, access, owner)
    }

    /// [`GuestFrame::pin_of`] where that takes a walk.
    #[inline(never)]
    fn pin_far(p2m: &P2m, gfn: Gfn, access: Access, owner: DomId) -> Result<Self, Fault> {
        Self::pin_by(P2m::lookup_far, Self::pin_moving, p2m, gfn, access, owner)
    }

    #[cold]
    #[inline(never)]
    fn pin_moving(p2m: &P2m, gfn: Gfn, access: Access, owner: DomId) -> Result<Self, Fault> {
        with_stable(p2m, || Self::reference(ram(p2m, gfn, access)?.mfn, Some(owner)))
    }

    /// [`GuestFrame::pin_of`] by what `lookup` finds, `or` else.
    #[inline(always)]
    fn pin_by(
        lookup: impl FnOnce(&P2m, Gfn) -> Option<Entry>,
        or: impl FnOnce(&P2m, Gfn, Access, DomId) -> Result<Self, Fault>,
        p2m: &P2m,
        gfn: Gfn,
        access: Access,
        owner: DomId,
    ) -> Result<Self, Fault> {
        let generation = p2m.generation();
        let found = lookup(p2m, gfn).and_then(|entry| page_info::get(allowed(entry, access).ok()?.mfn));
        match found {
            Some(found) if found.owner() == owner && p2m.generation() == generation => Ok(Self(found)),
            _ => or(p2m, gfn, access, owner),
        }
    }

    /// Take a reference on `mfn`, if it is anybody's, or `owner`'s. The caller checks afterwards that what led to `mfn` still holds.
    #[inline]
    fn reference(mfn: Mfn, owner: Option<DomId>) -> Result<Self, Fault> {
        let found = page_info::get(mfn).ok_or(Fault)?;
        if owner.is_none_or(|owner| found.owner() == owner) {
            Ok(Self(found))
        } else {
            Err(Fault)
        }
    }

    /// Its machine frame number.
    pub fn mfn(&self) -> Mfn {
        self.0.mfn()
    }

    /// A further reference on the frame, for somebody else to drop.
    ///
    /// # Errors
    /// There are too many.
    pub fn share(&self) -> Result<Self, Fault> {
        Self::reference(self.mfn(), None)
    }

    /// Give the reference away, to a p2m entry. `page_info::put` drops it.
    pub fn into_reference(self) -> Mfn {
        let mfn = self.mfn();
        core::mem::forget(self);
        mfn
    }

    #[inline]
    fn at(&self, offset: u64, size: u64) -> *mut u8 {
        phys::ptr(self.mfn().addr().offset(offset & (PAGE_SIZE - size)))
    }

    /// The byte at `offset`.
    #[inline]
    pub fn u8_at(&self, offset: u64) -> &AtomicU8 {
        // SAFETY: within the frame, which stays while `self` does, and is accessed as atomics or by `copy` only.
        unsafe { &*self.at(offset, 1).cast() }
    }

    /// The word at `offset`.
    #[inline]
    pub fn u16_at(&self, offset: u64) -> &AtomicU16 {
        // SAFETY: as in `u8_at`; aligned by `at`.
        unsafe { &*self.at(offset, 2).cast() }
    }

    /// The double word at `offset`.
    #[inline]
    pub fn u32_at(&self, offset: u64) -> &AtomicU32 {
        // SAFETY: as in `u16_at`.
        unsafe { &*self.at(offset, 4).cast() }
    }

    /// The quad word at `offset`.
    #[inline]
    pub fn u64_at(&self, offset: u64) -> &AtomicU64 {
        // SAFETY: as in `u16_at`.
        unsafe { &*self.at(offset, 8).cast() }
    }

    /// The value at `offset`; zeros in place of what lies beyond the frame's end.
    #[inline(always)]
    pub fn read<T: FromBytes + IntoBytes>(&self, offset: u64) -> T {
        let mut value = T::new_zeroed();
        self.copy_out(offset, value.as_mut_bytes());
        value
    }

    /// Copy bytes in at `offset`; what does not fit into the frame is not written.
    #[inline]
    pub fn copy_in(&self, offset: u64, from: &[u8]) {
        let offset = offset % PAGE_SIZE;
        let room = (PAGE_SIZE - offset) as usize;
        // SAFETY: within the frame, which is referenced. `from` is the hypervisor's own memory.
        unsafe {
            if from.len() <= room {
                copy(self.at(offset, 1), from.as_ptr(), from.len());
            } else {
                copy_apart(self.at(offset, 1), from.as_ptr(), room);
            }
        }
    }

    /// Copy bytes out from `offset` on; what lies beyond the frame's end is left alone.
    #[inline]
    pub fn copy_out(&self, offset: u64, to: &mut [u8]) {
        let offset = offset % PAGE_SIZE;
        let room = (PAGE_SIZE - offset) as usize;
        // SAFETY: within the frame, which is referenced. `to` is the hypervisor's own memory.
        unsafe {
            if to.len() <= room {
                copy(to.as_mut_ptr(), self.at(offset, 1), to.len());
            } else {
                copy_apart(to.as_mut_ptr(), self.at(offset, 1), room);
            }
        }
    }

    /// Copy `len` bytes from a place in `from` to one here, both within their frames.
    ///
    /// # Errors
    /// One of the ranges leaves its frame.
    #[inline(always)]
    pub fn copy_from(&self, offset: u64, from: &GuestFrame, from_offset: u64, len: u64) -> Result<(), Fault> {
        let fits = |offset: u64| offset.checked_add(len).is_some_and(|end| end <= PAGE_SIZE);
        if !fits(offset) || !fits(from_offset) {
            return Err(Fault);
        }
        // SAFETY: both ranges are within frames that are referenced; they may be the same frame, and `copy` moves
        // word by word, whatever the overlap.
        unsafe { copy(self.at(offset, 1), from.at(from_offset, 1), len as usize) };
        Ok(())
    }
}

/// A few bytes of guest memory that are held, so that they can be written at any time. They may lie on both sides of a page's end.
#[derive(Debug)]
pub struct GuestRange {
    first: GuestFrame,
    second: Option<GuestFrame>,
    offset: u64,
    len: usize,
}

impl GuestRange {
    /// Copy bytes in from offset `at` of the range on; what does not fit is not written.
    pub fn write(&self, at: usize, from: &[u8]) {
        let from = from
            .get(..from.len().min(self.len.saturating_sub(at)))
            .unwrap_or_default();
        let start = self.offset + at as u64;
        if start >= PAGE_SIZE {
            if let Some(second) = &self.second {
                second.copy_in(start - PAGE_SIZE, from);
            }
            return;
        }
        let (here, beyond) = from.split_at(from.len().min((PAGE_SIZE - start) as usize));
        self.first.copy_in(start, here);
        if let (Some(second), false) = (&self.second, beyond.is_empty()) {
            second.copy_in(0, beyond);
        }
    }
}

/// Bytes from which on the string instruction is the faster copy.
const LONG_COPY: usize = 128;

/// Copy `len` bytes, reading each once, whatever others do to them meanwhile. Stores are the compiler's: they are not put off beyond the
/// next of these loads, nor beyond an atomic access.
///
/// # Safety
/// `to` must be writable and `from` readable for `len` bytes.
#[inline(always)]
unsafe fn copy(to: *mut u8, from: *const u8, len: usize) {
    if len >= LONG_COPY {
        // SAFETY: the caller's; the direction flag is clear in Rust code.
        unsafe {
            core::arch::asm!("rep movsq", "mov ecx, {rest:e}", "rep movsb", rest = in(reg) len % 8,
                inout("rcx") len / 8 => _, inout("rdi") to => _, inout("rsi") from => _,
                options(nostack, preserves_flags));
        }
        return;
    }
    /// One part of it, of the type `$type`, which is read by an instruction.
    macro_rules! part {
        ($at:expr, $type:ty, $class:ident, $format:literal) => {{
            let word: $type;
            // SAFETY: within the caller's ranges; any alignment will do.
            unsafe {
                core::arch::asm!(concat!("mov ", $format, ", [{}]"), out($class) word, in(reg) from.add($at),
                    options(nostack, preserves_flags, readonly));
                to.add($at).cast::<$type>().write_unaligned(word);
            }
        }};
    }
    let words = len / 8 * 8;
    for word in 0..len / 8 {
        part!(word * 8, u64, reg, "{}");
    }
    let halves = words + (len & 4);
    if halves != words {
        part!(words, u32, reg, "{:e}");
    }
    for at in halves..len {
        part!(at, u8, reg_byte, "{}");
    }
}

/// [`copy`] where it is rare: a length that is known at the other places makes short code there.
///
/// # Safety
/// As for [`copy`].
#[cold]
#[inline(never)]
unsafe fn copy_apart(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: the caller's.
    unsafe { copy(to, from, len) };
}

#[cfg(test)]
#[path = "guest_tests.rs"]
mod tests;
