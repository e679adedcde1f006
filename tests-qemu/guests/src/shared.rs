//! Memory shared with another domain, which may change at any time.
// UNSAFETY: raw access to shared frames.
#![expect(unsafe_code, reason = "memory that is not only Rust's")]

use core::sync::atomic::{AtomicU32, Ordering};

use crate::frames::{Frames, SIZE};

/// Adjacent frames. Copies share them.
#[derive(Clone, Copy, Debug)]
pub struct Shared {
    address: u64,
    size: usize,
}

impl Shared {
    /// Frames of this guest's own.
    pub fn of<const N: usize>(frames: &'static Frames<N>) -> Self {
        Self {
            address: frames.address(),
            size: N * SIZE,
        }
    }

    /// The frame that a parameter of the domain names: one that holds nothing of Rust's.
    pub fn parameter(index: u32) -> Self {
        let gfn = guest_rt::hypercall::hvm::param(abi::domid::DOMID_SELF, index).expect("a parameter");
        assert!(gfn != 0, "parameter {index} is not set");
        Self {
            address: gfn * SIZE as u64,
            size: SIZE,
        }
    }

    /// Number of the frame at an offset.
    pub fn frame(&self, offset: usize) -> u64 {
        (self.address + offset as u64) / SIZE as u64
    }

    fn at(&self, offset: usize, length: usize) -> *mut u8 {
        assert!(offset.checked_add(length).is_some_and(|end| end <= self.size));
        (self.address + offset as u64) as *mut u8
    }

    /// The word at an offset, for read-modify-write access.
    pub fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4));
        // SAFETY: in bounds and aligned; frames that other access than this module's is volatile or nobody's.
        unsafe { &*self.at(offset, 4).cast::<AtomicU32>() }
    }

    /// Reads a word before everything that follows.
    pub fn load(&self, offset: usize) -> u32 {
        self.word(offset).load(Ordering::SeqCst)
    }

    /// Writes a word after everything before.
    pub fn store(&self, offset: usize, value: u32) {
        self.word(offset).store(value, Ordering::SeqCst);
    }

    /// Copies bytes out.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) {
        let source = self.at(offset, bytes.len());
        // SAFETY: in bounds; a racing writer can only spoil bytes.
        unsafe { core::ptr::copy_nonoverlapping(source, bytes.as_mut_ptr(), bytes.len()) }
    }

    /// Copies bytes in.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        let target = self.at(offset, bytes.len());
        // SAFETY: as in `read`.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) }
    }
}
