//! Memory of other domains, mapped at frames of this domain where it has no memory of its own.
//!
//! The other domain may change its memory at any time: all access copies, word access is atomic, and no reference
//! to it ever exists.
// UNSAFETY: raw access to mapped foreign frames.
#![expect(unsafe_code, reason = "raw access to foreign memory")]

use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use abi::grant::{GNTST_NO_SPACE, GrantHandle, GrantRef};
use abi::{Domid, Errno};
use spin::{LazyLock, Mutex};

use crate::hypercall::grant::{self, Access, Status};
use crate::hypercall::memory as hypercall;
use crate::{memory, paging};

/// Bytes of a frame.
pub const PAGE: usize = 4096;
/// Frames of the window: as many can be mapped at a time.
pub const WINDOW: usize = 16 * 1024;

/// The window: a hole in this domain's memory map, and which of its frames are taken.
struct Window {
    first: u64,
    taken: Vec<bool>,
}

static SPACE: LazyLock<Mutex<Window>> = LazyLock::new(|| {
    let start = memory::hole((WINDOW * PAGE) as u64);
    paging::map(start..start + (WINDOW * PAGE) as u64);
    Mutex::new(Window {
        first: start / PAGE as u64,
        taken: vec![false; WINDOW],
    })
});

impl Window {
    /// Takes `count` adjacent free frames; the first one's number.
    fn take(&mut self, count: usize) -> Option<u64> {
        let mut run = 0;
        for index in 0..self.taken.len() {
            run = if self.taken[index] { 0 } else { run + 1 };
            if run == count {
                let start = index + 1 - count;
                self.taken[start..=index].fill(true);
                return Some(self.first + start as u64);
            }
        }
        None
    }

    fn give_back(&mut self, gfn: u64, count: usize) {
        let start = (gfn - self.first) as usize;
        self.taken[start..start + count].fill(false);
    }
}

/// Mapped frames of another domain, adjacent here. Unmapped when dropped.
#[derive(Debug)]
pub struct Mapping {
    gfn: u64,
    frames: usize,
    /// Of frames that are mapped by grant.
    handles: Vec<GrantHandle>,
}

impl Mapping {
    /// Maps frames of `domain`.
    ///
    /// # Errors
    /// `ENOSPC` when the window is full; else what the hypervisor says, `EINVAL` for a frame that has no memory.
    pub fn new(domain: Domid, frames: &[u64]) -> Result<Self, Errno> {
        let mapping = Self::reserve(frames.len())?;
        let ours: Vec<u64> = (mapping.gfn..).take(frames.len()).collect();
        // On error `mapping` is dropped and unmaps what was mapped.
        hypercall::map_foreign(domain, frames, &ours)?;
        Ok(mapping)
    }

    /// Maps `count` frames of `domain` from `first` on.
    pub fn range(domain: Domid, first: u64, count: usize) -> Result<Self, Errno> {
        let frames: Vec<u64> = (first..).take(count).collect();
        Self::new(domain, &frames)
    }

    /// Maps the first frame of `domain`'s grant table.
    pub fn grant_table(domain: Domid) -> Result<Self, Errno> {
        let mapping = Self::reserve(1)?;
        hypercall::map_grant_table(domain, mapping.gfn)?;
        Ok(mapping)
    }

    /// Maps pages that `domain` has granted to this domain; writing to what is mapped only to be read is a bug.
    ///
    /// # Errors
    /// The first grant's that cannot be mapped.
    pub fn grants(domain: Domid, references: &[GrantRef], access: Access) -> Result<Self, Status> {
        let mut mapping = Self::reserve(references.len()).map_err(|_| Status(GNTST_NO_SPACE))?;
        mapping.handles = grant::map(domain, references, mapping.gfn, access)?;
        Ok(mapping)
    }

    fn reserve(frames: usize) -> Result<Self, Errno> {
        let gfn = SPACE.lock().take(frames).ok_or(Errno::ENOSPC)?;
        Ok(Self {
            gfn,
            frames,
            handles: Vec::new(),
        })
    }

    /// Bytes mapped.
    pub fn size(&self) -> usize {
        self.frames * PAGE
    }

    /// Address of `length` bytes at `offset`.
    ///
    /// # Panics
    /// When they are not within the mapping: offsets are the caller's own, never the other domain's.
    fn at(&self, offset: usize, length: usize) -> *mut u8 {
        let fits = offset.checked_add(length).is_some_and(|end| end <= self.size());
        assert!(fits, "access beyond a foreign mapping");
        (self.gfn * PAGE as u64 + offset as u64) as *mut u8
    }

    /// Copies bytes in.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        let target = self.at(offset, bytes.len());
        // SAFETY: `at` checked the bounds; the window is mapped, holds no Rust object, and a racing writer in the
        // other domain can only spoil bytes, which are plain data.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) }
    }

    /// Fills with zeros.
    pub fn clear(&self, offset: usize, length: usize) {
        // SAFETY: as in `write`.
        unsafe { core::ptr::write_bytes(self.at(offset, length), 0, length) }
    }

    /// Copies bytes out.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) {
        let source = self.at(offset, bytes.len());
        // SAFETY: as in `write`.
        unsafe { core::ptr::copy_nonoverlapping(source, bytes.as_mut_ptr(), bytes.len()) }
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4));
        // SAFETY: in bounds and aligned (frames are), and atomics stand any concurrent change.
        unsafe { &*self.at(offset, 4).cast::<AtomicU32>() }
    }

    /// Reads a 32-bit word; nothing that follows is done before.
    pub fn load(&self, offset: usize) -> u32 {
        self.word(offset).load(Ordering::SeqCst)
    }

    /// Writes a 32-bit word after everything before.
    pub fn store(&self, offset: usize, value: u32) {
        self.word(offset).store(value, Ordering::SeqCst);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.handles.is_empty() {
            for gfn in (self.gfn..).take(self.frames) {
                // A frame that was never mapped (an error half way) is refused, which is as good.
                let _ = hypercall::unmap(gfn);
            }
        } else {
            grant::unmap(self.handles.drain(..).zip(self.gfn..));
        }
        SPACE.lock().give_back(self.gfn, self.frames);
    }
}
