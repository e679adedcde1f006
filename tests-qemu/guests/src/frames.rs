//! Frames of the guest's own that hypercalls may do with what they like.
// UNSAFETY: the hypervisor writes to these frames, takes them away and puts others in their place.
#![expect(unsafe_code, reason = "memory that is not only Rust's")]

use core::cell::UnsafeCell;

/// Bytes of a frame.
pub const SIZE: usize = 4096;

/// `N` adjacent frames; all access is volatile, and no reference to their contents exists.
#[repr(C, align(4096))]
pub struct Frames<const N: usize>(UnsafeCell<[[u8; SIZE]; N]>);

// SAFETY: one vCPU, and only volatile access.
unsafe impl<const N: usize> Sync for Frames<N> {}

impl<const N: usize> Default for Frames<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Frames<N> {
    /// Zeroed frames, for a static.
    pub const fn new() -> Self {
        Frames(UnsafeCell::new([[0; SIZE]; N]))
    }

    /// Address of the first byte.
    pub fn address(&self) -> u64 {
        self.0.get() as u64
    }

    /// Number of the first frame.
    pub fn first(&self) -> u64 {
        self.address() / SIZE as u64
    }

    fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset < N * SIZE);
        // SAFETY: in bounds.
        unsafe { self.0.get().cast::<u8>().add(offset) }
    }

    /// Reads a byte.
    pub fn byte(&self, offset: usize) -> u8 {
        // SAFETY: in bounds, volatile.
        unsafe { self.at(offset).read_volatile() }
    }

    /// Writes a byte.
    pub fn set_byte(&self, offset: usize, value: u8) {
        // SAFETY: in bounds, volatile.
        unsafe { self.at(offset).write_volatile(value) }
    }

    /// Writes 64 bits at word `index`.
    pub fn set_word(&self, index: usize, value: u64) {
        for (offset, byte) in value.to_le_bytes().into_iter().enumerate() {
            self.set_byte(index * 8 + offset, byte);
        }
    }
}
