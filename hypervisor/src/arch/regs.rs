//! Registers in the architecture's terms, common to both back ends.

use bitflags::bitflags;

/// General registers but RSP (a [`SysReg`]): those that a call preserves, then those that it does not (System V ABI), as [`calls`](super::calls)
/// tells them apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
#[expect(missing_docs, reason = "the architecture's own names")]
pub struct Gprs {
    pub rbx: u64,
    pub rbp: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
}

impl Gprs {
    /// The register with this number in encodings (modulo 16). `None`: RSP.
    pub fn by_number(&mut self, number: usize) -> Option<&mut u64> {
        Some(match number & 15 {
            0 => &mut self.rax,
            1 => &mut self.rcx,
            2 => &mut self.rdx,
            3 => &mut self.rbx,
            4 => return None,
            5 => &mut self.rbp,
            6 => &mut self.rsi,
            7 => &mut self.rdi,
            8 => &mut self.r8,
            9 => &mut self.r9,
            10 => &mut self.r10,
            11 => &mut self.r11,
            12 => &mut self.r12,
            13 => &mut self.r13,
            14 => &mut self.r14,
            _ => &mut self.r15,
        })
    }
}

/// A register that lives in the control block or is switched with the vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the architecture's own names")]
pub enum SysReg {
    Rsp,
    Rflags,
    Cr0,
    Cr2,
    Cr3,
    Cr4,
    /// The task priority, 0 to 15: V_TPR on AMD-V, the virtual-APIC page or a copy on VT-x.
    Cr8,
    Xcr0,
    Dr0,
    Dr1,
    Dr2,
    Dr3,
    Dr6,
    Dr7,
    Efer,
    Star,
    Lstar,
    Cstar,
    Sfmask,
    KernelGsBase,
    SysenterCs,
    SysenterEsp,
    SysenterEip,
    Pat,
    TscAux,
    SpecCtrl,
    GdtrBase,
    GdtrLimit,
    IdtrBase,
    IdtrLimit,
}

/// A segment register. FS and GS bases are the hidden parts of their segments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the architecture's own names")]
pub enum SegmentReg {
    Es,
    Cs,
    Ss,
    Ds,
    Fs,
    Gs,
    Ldtr,
    Tr,
}

bitflags! {
    /// Segment attributes as in bits 8..16 and 20..24 of a descriptor's high half, closed up to 12 bits (the VMCB's format, APM vol. 2,
    /// 15.5.1 and Xen's save records; VMX's access rights are these with a gap, SDM 3C 25.4.1).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct SegmentAttr: u16 {
        /// Type field, 4 bits.
        const TYPE = 0x00f;
        /// Code or data (not system).
        const NON_SYSTEM = 0x010;
        /// Descriptor privilege level, 2 bits.
        const DPL = 0x060;
        /// Present.
        const PRESENT = 0x080;
        /// Available to software.
        const AVL = 0x100;
        /// 64-bit code.
        const LONG = 0x200;
        /// 32-bit default size.
        const DEFAULT_BIG = 0x400;
        /// Limit counts 4 KiB units.
        const GRANULARITY = 0x800;
    }
}

/// A segment register with its hidden part. A null or unusable segment has no `PRESENT`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Attributes.
    pub attr: SegmentAttr,
    /// Limit in bytes, granularity applied.
    pub limit: u32,
    /// Base address.
    pub base: u64,
}

/// What kind of code a CPU executes now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CpuMode {
    /// CR0.PE clear.
    Real,
    /// RFLAGS.VM set.
    Virtual8086,
    /// Protected or compatibility mode with a 16-bit code segment.
    Protected16,
    /// Protected or compatibility mode with a 32-bit code segment.
    Protected32,
    /// 64-bit mode.
    Long,
}
