//! Layouts of i386 guests: what a hypercall made outside 64-bit mode means by its arguments.
//!
//! Most structures are laid out alike for both. Those that are not have a second declaration, with Xen's prefix `Compat`
//! (`compat! { .. }`): there `unsigned long`, `xen_pfn_t` and guest handles have 32 bits, and nothing is aligned to more than 4 bytes (System V
//! ABI, i386 supplement, 3-1). The control interfaces (domctl, sysctl) and whatever came later have the same layout by design.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::GuestHandle;

/// Whose layouts a guest uses: in a hypercall, those of the mode that it was made in; in memory that it shares with the hypervisor, those of
/// the mode in which it set that up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// 64-bit mode.
    #[default]
    X86_64,
    /// Any other.
    I386,
}

/// A field, or a value, that i386 guests lay out as `N`.
pub trait Narrow<N>: Sized {
    /// As an i386 guest sees it. High bits that have no place there are lost.
    fn narrow(self) -> N;
    /// What an i386 guest means.
    fn widen(narrow: N) -> Self;
}

/// What hypercalls copy from and to guests.
pub trait Compat: Narrow<Self::I386> + Copy + FromBytes + IntoBytes + Immutable {
    /// Its layout for i386 guests.
    type I386: FromBytes + IntoBytes + Immutable;
    /// Is that its own layout?
    const SAME: bool;
}

impl<T> Narrow<T> for T {
    #[inline]
    fn narrow(self) -> T {
        self
    }
    #[inline]
    fn widen(narrow: T) -> T {
        narrow
    }
}

impl Narrow<u32> for u64 {
    fn narrow(self) -> u32 {
        self as u32
    }
    fn widen(narrow: u32) -> Self {
        narrow.into()
    }
}

impl<const N: usize> Narrow<[u32; N]> for [u64; N] {
    fn narrow(self) -> [u32; N] {
        self.map(Narrow::narrow)
    }
    fn widen(narrow: [u32; N]) -> Self {
        narrow.map(Narrow::widen)
    }
}

impl<T: ?Sized> Narrow<u32> for GuestHandle<T> {
    fn narrow(self) -> u32 {
        self.addr() as u32
    }
    fn widen(narrow: u32) -> Self {
        Self::new(narrow.into())
    }
}

/// A handle in a union with a 64-bit word: the word's second half means nothing.
impl<T: ?Sized> Narrow<[u32; 2]> for GuestHandle<T> {
    fn narrow(self) -> [u32; 2] {
        [self.addr() as u32, 0]
    }
    fn widen([addr, _]: [u32; 2]) -> Self {
        Self::new(addr.into())
    }
}

/// Padding that is not there for i386 guests, or less of it.
macro_rules! padding {
    ($($wide:ty => $narrow:ty: $value:expr;)*) => { $(
        impl Narrow<$narrow> for $wide {
            fn narrow(self) -> $narrow {
                $value
            }
            fn widen(_: $narrow) -> Self {
                Default::default()
            }
        }
    )* };
}

padding! {
    u32 => (): ();
    u32 => u16: 0;
    [u16; 3] => (): ();
    [u16; 3] => u16: 0;
}

/// Values that are the same for all.
macro_rules! same {
    ($($type:ty),*) => { $(
        impl $crate::Compat for $type {
            type I386 = Self;
            const SAME: bool = true;
        }
    )* };
}
pub(crate) use same;

same!(u8, i32, u32, u64, crate::memory::E820Entry);

impl<const N: usize> Compat for [u8; N] {
    type I386 = Self;
    const SAME: bool = true;
}

/// `unsigned long`, hence `xen_pfn_t` and `xen_ulong_t` too, in lists.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Ulong(pub u64);

impl From<u64> for Ulong {
    fn from(value: u64) -> Self {
        Self(value)
    }
}

impl Narrow<u32> for Ulong {
    fn narrow(self) -> u32 {
        self.0.narrow()
    }
    fn widen(narrow: u32) -> Self {
        Self(narrow.into())
    }
}

impl Compat for Ulong {
    type I386 = u32;
    const SAME: bool = false;
}
