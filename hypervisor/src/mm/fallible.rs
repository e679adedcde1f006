//! Heap memory for what a guest asks for: none left is an error of that call. (`Box::new` and `collect` would be a panic.)
//!
//! None is given once the heap lives on its reserve: that is for what cannot fail, which a guest cannot ask for without end.
// UNSAFETY: makes a box of memory from the allocator.
#![expect(unsafe_code, reason = "makes a box of memory from the allocator")]

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::alloc::Layout;

use zerocopy::FromZeros;

/// There is no memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfMemory;

/// What cannot fail may be asked of the heap now, as much as a call of dom0's takes.
///
/// # Errors
/// The heap lives on its reserve.
pub fn ensure_reserve() -> Result<(), OutOfMemory> {
    #[cfg(target_os = "none")]
    if !super::heap::has_reserve() {
        return Err(OutOfMemory);
    }
    Ok(())
}

/// `value` in the heap.
///
/// # Errors
/// There is no memory.
pub fn boxed<T>(value: T) -> Result<Box<T>, OutOfMemory> {
    const { assert!(size_of::<T>() != 0) };
    ensure_reserve()?;
    // SAFETY: not of size 0.
    let at = unsafe { alloc::alloc::alloc(Layout::new::<T>()) }.cast::<T>();
    if at.is_null() {
        return Err(OutOfMemory);
    }
    // SAFETY: fresh memory for a `T`, from the allocator that boxes return theirs to.
    unsafe {
        at.write(value);
        Ok(Box::from_raw(at))
    }
}

/// A `T` of zeroes in the heap, which was nowhere else before.
///
/// # Errors
/// There is no memory.
pub fn zeroed<T: FromZeros>() -> Result<Box<T>, OutOfMemory> {
    ensure_reserve()?;
    T::new_box_zeroed().map_err(|_| OutOfMemory)
}

/// Room for `len` elements.
///
/// # Errors
/// There is no memory.
pub fn room<T>(len: usize) -> Result<Vec<T>, OutOfMemory> {
    let mut elements = Vec::new();
    ensure_reserve()?;
    elements.try_reserve_exact(len).map_err(|_| OutOfMemory)?;
    Ok(elements)
}

/// `len` elements, each made from its index.
///
/// # Errors
/// There is no memory.
pub fn slice<T>(len: usize, element: impl FnMut(usize) -> T) -> Result<Box<[T]>, OutOfMemory> {
    let mut elements = room(len)?;
    elements.extend((0..len).map(element));
    Ok(elements.into_boxed_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_and_what_does_not() {
        assert_eq!(boxed(7u64), Ok(Box::new(7)));
        assert_eq!(zeroed::<[u64; 3]>(), Ok(Box::new([0; 3])));
        assert_eq!(slice(3, |index| index * 2), Ok([0, 2, 4].into()));
        assert_eq!(slice(usize::MAX, |_| 0u8), Err(OutOfMemory));
    }
}
