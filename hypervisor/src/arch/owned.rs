//! Memory of which the hardware needs the physical address: control blocks, permission maps.
// UNSAFETY: references to frames of the frame allocator.
#![expect(unsafe_code, reason = "references to frames of the frame allocator")]

use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

use zerocopy::FromZeros;

use super::OutOfMemory;
use crate::mm::{frames, phys};
use crate::types::{Hpa, PAGE_SIZE};

/// A `T` in physically contiguous frames of its own, zeroed at first, freed when dropped. Like `Box<T>`, but with an [`hpa`](Self::hpa).
///
/// Hardware may read and write it whenever it has been given the address, so what a `T` of this kind is must be valid
/// for every bit pattern ([`FromZeros`] types made of integers are).
#[derive(Debug)]
pub struct Owned<T> {
    at: NonNull<T>,
    hpa: Hpa,
    owns: PhantomData<T>,
}

// SAFETY: like `Box<T>`, this is the only owner of the `T`.
unsafe impl<T: Send> Send for Owned<T> {}
// SAFETY: like `Box<T>`, shared access gives `&T` and no more.
unsafe impl<T: Sync> Sync for Owned<T> {}

impl<T: FromZeros> Owned<T> {
    /// All zero.
    ///
    /// # Errors
    /// No frames.
    pub fn zeroed() -> Result<Owned<T>, OutOfMemory> {
        const { assert!(align_of::<T>() <= PAGE_SIZE as usize) };
        let hpa = frames::alloc(order::<T>()).ok_or(OutOfMemory)?.addr();
        let at = NonNull::new(phys::ptr(hpa).cast::<T>()).ok_or(OutOfMemory)?;
        // SAFETY: the frames are ours, large and aligned enough for a `T`, and mapped.
        unsafe { at.write_bytes(0, 1) };
        Ok(Owned {
            at,
            hpa,
            owns: PhantomData,
        })
    }
}

impl<T> Owned<T> {
    /// Where the hardware finds it.
    #[inline]
    pub fn hpa(&self) -> Hpa {
        self.hpa
    }

    /// Keep it for ever, and give back the address.
    pub fn leak(self) -> Hpa {
        core::mem::ManuallyDrop::new(self).hpa
    }
}

impl<T> Deref for Owned<T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: valid and initialized from `zeroed` until `drop`.
        unsafe { self.at.as_ref() }
    }
}

impl<T> DerefMut for Owned<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and this is the only owner.
        unsafe { self.at.as_mut() }
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        frames::free(self.hpa.frame(), order::<T>());
    }
}

/// log2 of the number of frames that a `T` takes.
const fn order<T>() -> u32 {
    size_of::<T>()
        .div_ceil(PAGE_SIZE as usize)
        .next_power_of_two()
        .trailing_zeros()
}
