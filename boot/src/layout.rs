//! Where things lie in virtual memory, from the first instruction on. `boot/link.ld` and `entry/start.s` agree.

use core::ops::Range;

/// Virtual address of physical address 0: the direct map. The boot page tables map the first 4 GiB of it.
pub const DIRECT_MAP: u64 = 0xffff_8000_0000_0000;
/// Virtual address of the image's first byte.
pub const IMAGE_BASE: u64 = 0xffff_ffff_8020_0000;
/// The image is loaded at a multiple of this.
pub const IMAGE_ALIGN: u64 = 0x20_0000;
/// How much of physical memory the boot page tables map.
pub const BOOT_MAPPED: u64 = 1 << 32;

/// Parts of the image by virtual address, each on page boundaries, in ascending order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageLayout {
    /// Loader headers, first instructions, boot page tables: writable, of no use once the final tables are loaded.
    pub boot: Range<u64>,
    /// Code: read and execute.
    pub text: Range<u64>,
    /// Constants: read.
    pub rodata: Range<u64>,
    /// Variables: read and write. Contains the boot stack.
    pub data: Range<u64>,
    /// The page below the boot stack (in `data`), to be left unmapped.
    pub stack_guard: Range<u64>,
    /// The boot CPU's stack (in `data`).
    pub stack: Range<u64>,
    /// The symbol table: read.
    pub symbols: Range<u64>,
}
