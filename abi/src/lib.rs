//! Xen's public ABI (interface level of Xen 4.17, x86-64) as plain-data types and numbers.
//!
//! Shared by the hypervisor, by dom0-shim and by the test guests: both sides of every hypercall
//! use the same declarations. One module per family of Xen's public headers; a constant keeps its
//! Xen name in upper case, a structure its Xen name in camel case without the `xen_` prefix, and a
//! field its Xen name, so that Xen's documentation can be read beside this crate.
//!
//! Invariants:
//! - Every structure is `repr(C)`, has no implicit padding and accepts any bit pattern, hence can
//!   be copied from and to hostile guest memory. `tests/layout.rs` pins sizes and offsets.
//! - There is no logic here: nothing is validated, reserved fields are only named `pad*`.
//! - A structure that guests in 32-bit mode lay out otherwise has that layout beside it ([`compat`]).
//! - Addresses in guest memory are [`GuestHandle`]s; nothing in this crate follows them.
#![no_std]
#![forbid(unsafe_code)]

/// Declares ABI structures: C layout, no implicit padding, any bit pattern valid, zero by default.
macro_rules! structure {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $( $(#[$fmeta:meta])* pub $field:ident: $ty:ty, )*
        }
    ) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq,
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout,
        )]
        pub struct $name {
            $( $(#[$fmeta])* pub $field: $ty, )*
        }

        impl Default for $name {
            fn default() -> Self {
                zerocopy::FromZeros::new_zeroed()
            }
        }
    };
}

/// Structures that are the same for i386 guests.
macro_rules! plain {
    ($(
        $(#[$meta:meta])*
        pub struct $name:ident {
            $( $(#[$fmeta:meta])* pub $field:ident: $ty:ty, )*
        }
    )*) => { $(
        structure! {
            $(#[$meta])*
            pub struct $name {
                $( $(#[$fmeta])* pub $field: $ty, )*
            }
        }

        $crate::compat::same!($name);
    )* };
}

/// Structures that i386 guests lay out otherwise, under the second name. There, a field has the type after `as`, if it says so.
macro_rules! compat {
    ($(
        $(#[$meta:meta])*
        pub struct $name:ident as $compat:ident {
            $( $(#[$fmeta:meta])* pub $field:ident: $ty:ty $(as $narrow:ty)?, )*
        }
    )*) => { $(
        structure! {
            $(#[$meta])*
            pub struct $name {
                $( $(#[$fmeta])* pub $field: $ty, )*
            }
        }

        #[doc = concat!("[`", stringify!($name), "`] of i386 guests.")]
        #[repr(C, packed(4))]
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq,
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout,
        )]
        pub struct $compat {
            $( $(#[$fmeta])* pub $field: compat!(@ $ty $(, $narrow)?), )*
        }

        impl $crate::compat::Narrow<$compat> for $name {
            fn narrow(self) -> $compat {
                $compat { $( $field: $crate::compat::Narrow::narrow(self.$field), )* }
            }
            fn widen(narrow: $compat) -> Self {
                Self { $( $field: $crate::compat::Narrow::widen(narrow.$field), )* }
            }
        }

        impl $crate::compat::Compat for $name {
            type I386 = $compat;
            const SAME: bool = false;
        }
    )* };
    (@ $ty:ty) => { $ty };
    (@ $ty:ty, $narrow:ty) => { $narrow };
}

pub mod compat;
pub mod console_io;
pub mod cpuid;
pub mod dm_op;
pub mod domctl;
pub mod domid;
pub mod elfnote;
pub mod errno;
pub mod event_channel;
pub mod features;
pub mod grant;
pub mod handle;
pub mod hvm;
pub mod hvm_save;
pub mod hypercall;
pub mod io;
pub mod memory;
pub mod physdev;
pub mod platform;
pub mod sched;
pub mod shared_info;
pub mod start_info;
pub mod sysctl;
pub mod vcpu;
pub mod version;

pub use compat::{Compat, Layout, Narrow, Ulong};
pub use domid::Domid;
pub use errno::Errno;
pub use handle::{Bitmap, GuestHandle, Union};

/// Log2 of the page size that every frame number of the ABI counts in.
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in a page (4 KiB).
pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;
/// The port whose byte writes Xen logs as an HVM guest's early console (`outb 0xe9`).
pub const XEN_HVM_DEBUGCONS_IOPORT: u16 = 0xe9;
