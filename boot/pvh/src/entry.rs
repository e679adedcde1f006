//! The state in which a PVH guest's first vCPU starts (Xen, docs/misc/pvh: 32-bit protected mode, flat segments, no paging).

/// A segment register's hidden part: attributes are bits 8..16 and 20..24 of a descriptor's high half, closed up (as in AMD's VMCB and in
/// the records of XEN_DOMCTL_sethvmcontext).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Attributes, 12 bits.
    pub attributes: u16,
    /// Last valid offset, in bytes.
    pub limit: u32,
}

/// Code: 32-bit, readable, accessed, 4 KiB granular.
pub const CS: Segment = Segment {
    attributes: 0xc9b,
    limit: u32::MAX,
};
/// Data and stack: 32-bit, writable, accessed, 4 KiB granular. FS and GS, too, of which the document says nothing: 32-bit Linux finds the guard of its
/// stack by FS before it loads a segment of its own.
pub const DATA: Segment = Segment {
    attributes: 0xc93,
    limit: u32::MAX,
};
/// Task register: busy 32-bit TSS.
pub const TR: Segment = Segment {
    attributes: 0x8b,
    limit: 0x67,
};
/// CR0: PE and ET.
pub const CR0: u64 = 0x11;
/// RFLAGS: only the bit that is always set.
pub const RFLAGS: u64 = 2;
/// DR6 after reset.
pub const DR6: u64 = 0xffff_0ff0;
/// DR7 after reset.
pub const DR7: u64 = 0x400;
