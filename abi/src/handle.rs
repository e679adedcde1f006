//! Guest handles, and the stand-in for C unions.

use core::fmt;
use core::marker::PhantomData;

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Address of a `T`, or of an array of `T`, in the memory of the calling guest.
///
/// A number only: holding one says nothing about the memory behind it. For an HVM or PVH caller it
/// is a guest virtual address, valid in the caller's current address space.
#[repr(transparent)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct GuestHandle<T: ?Sized> {
    addr: u64,
    target: PhantomData<fn() -> *const T>,
}

impl<T: ?Sized> GuestHandle<T> {
    /// The null handle; many operations take it as "tell me the size needed".
    pub const NULL: Self = Self::new(0);

    /// A handle for guest virtual address `addr`.
    pub const fn new(addr: u64) -> Self {
        Self {
            addr,
            target: PhantomData,
        }
    }

    /// The guest virtual address.
    pub const fn addr(self) -> u64 {
        self.addr
    }

    /// A handle for the same address, where something else is.
    pub const fn cast<U: ?Sized>(self) -> GuestHandle<U> {
        GuestHandle::new(self.addr)
    }

    /// Whether this is the null handle.
    pub const fn is_null(self) -> bool {
        self.addr == 0
    }
}

impl<T: ?Sized> Clone for GuestHandle<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ?Sized> Copy for GuestHandle<T> {}

impl<T: ?Sized> Default for GuestHandle<T> {
    fn default() -> Self {
        Self::NULL
    }
}

impl<T: ?Sized> PartialEq for GuestHandle<T> {
    fn eq(&self, other: &Self) -> bool {
        self.addr == other.addr
    }
}

impl<T: ?Sized> Eq for GuestHandle<T> {}

impl<T: ?Sized> fmt::Debug for GuestHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GuestHandle({:#x})", self.addr)
    }
}

/// The bytes of a C union, `WORDS` 64-bit words long; the operation number beside it says which
/// member is meant. A member type that does not fit is refused at compile time.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Union<const WORDS: usize>(pub [u64; WORDS]);

impl<const WORDS: usize> Union<WORDS> {
    /// A copy of the union seen as its member `T`.
    pub fn get<T: FromBytes + IntoBytes>(&self) -> T {
        const { assert!(size_of::<T>() <= WORDS * 8, "not a member of this union") };
        let mut value = T::new_zeroed();
        value
            .as_mut_bytes()
            .copy_from_slice(&self.0.as_bytes()[..size_of::<T>()]);
        value
    }

    /// Writes member `value`; the bytes after it keep their value.
    pub fn set<T: IntoBytes + Immutable>(&mut self, value: &T) {
        const { assert!(size_of::<T>() <= WORDS * 8, "not a member of this union") };
        self.0.as_mut_bytes()[..size_of::<T>()].copy_from_slice(value.as_bytes());
    }

    /// A union holding `value`, zero after it.
    pub fn of<T: IntoBytes + Immutable>(value: &T) -> Self {
        let mut this = Self::default();
        this.set(value);
        this
    }
}

impl<const WORDS: usize> Default for Union<WORDS> {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

plain! {
    /// `xenctl_bitmap`: a bitmap in the caller's memory, bit 0 of byte 0 first.
    pub struct Bitmap {
        /// The bytes.
        pub bitmap: GuestHandle<u8>,
        /// How many bits the caller's buffer holds.
        pub nr_bits: u32,
        /// Padding.
        pub pad: u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_of_a_union_keeps_the_rest() {
        let mut union = Union([u64::MAX; 3]);
        union.set(&0x1122_3344_u32);
        assert_eq!(union.0, [0xffff_ffff_1122_3344, u64::MAX, u64::MAX]);
        assert_eq!(union.get::<[u16; 2]>(), [0x3344, 0x1122]);
        assert_eq!(Union::<1>::of(&7_u8).0, [7]);
    }
}
