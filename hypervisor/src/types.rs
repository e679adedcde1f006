//! Numbers that must not be mixed up.
//!
//! A guest names frames by [`Gfn`], the machine by [`Mfn`]; only the p2m turns one into the other.

use core::fmt;

/// Bytes in a small page.
pub const PAGE_SIZE: u64 = 4096;
/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;

macro_rules! frame_and_address {
    ($frame:ident, $frame_doc:literal, $addr:ident, $addr_doc:literal) => {
        #[doc = $frame_doc]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $frame(pub u64);

        #[doc = $addr_doc]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $addr(pub u64);

        impl $frame {
            /// Address of the frame's first byte. Bits that do not fit are lost, so a frame number that a
            /// guest chose must have been checked against the p2m's width before.
            pub const fn addr(self) -> $addr {
                $addr(self.0 << PAGE_SHIFT)
            }
            /// The frame `n` frames further on (wrapping).
            pub const fn offset(self, n: u64) -> Self {
                Self(self.0.wrapping_add(n))
            }
        }

        impl $addr {
            /// The frame that holds this address.
            pub const fn frame(self) -> $frame {
                $frame(self.0 >> PAGE_SHIFT)
            }
            /// Offset within the frame, in bytes.
            pub const fn page_offset(self) -> u64 {
                self.0 & (PAGE_SIZE - 1)
            }
            /// The address `n` bytes further on (wrapping).
            pub const fn offset(self, n: u64) -> Self {
                Self(self.0.wrapping_add(n))
            }
        }

        impl fmt::Debug for $frame {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($frame), "({:#x})"), self.0)
            }
        }
        impl fmt::Debug for $addr {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($addr), "({:#x})"), self.0)
            }
        }
        impl fmt::Display for $frame {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
        impl fmt::Display for $addr {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

frame_and_address!(
    Gfn,
    "A guest's frame number: a guest-physical address in pages.",
    Gpa,
    "A guest-physical address, in bytes."
);
frame_and_address!(
    Mfn,
    "A machine frame number: a host-physical address in pages.",
    Hpa,
    "A host-physical (machine) address, in bytes."
);

/// A guest-virtual address: what a guest's own page tables translate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Gva(pub u64);

impl Gva {
    /// Offset within the page, in bytes.
    pub const fn page_offset(self) -> u64 {
        self.0 & (PAGE_SIZE - 1)
    }
}

/// A domain's number. 0 is dom0; numbers from `abi`'s first reserved one on are not domains.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct DomId(pub u16);

impl DomId {
    /// The privileged first domain.
    pub const DOM0: DomId = DomId(0);
}

impl fmt::Display for DomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "d{}", self.0)
    }
}

/// A virtual CPU's number within its domain, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct VcpuId(pub u32);

/// An event-channel port of one domain. Port 0 is never valid.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Port(pub u32);
