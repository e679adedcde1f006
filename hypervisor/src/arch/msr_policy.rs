//! Which model-specific registers a guest reaches without an exit: the same list on both vendors.
//!
//! Default deny: what is not listed exits, and the exit loop emulates it or raises #GP. A register is listed only when its
//! state belongs to the vCPU (in the control block, or switched by [`super::msr_switch`]) and every value that the
//! hardware accepts is harmless to the host.
//!
//! Deliberately absent: EFER (guests must not see or clear SVME, LMA follows CR0), PAT (types are checked in software,
//! written once a boot), TSC (the offset does not apply to MSR reads on every machine), SPEC_CTRL (passed through by
//! [`super::svm`] where the hardware virtualizes it, by [`super::vmx`] to guests that use it), DEBUGCTL, XSS, and all
//! that is the machine's.

/// How far a guest reaches a register by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direct {
    /// Reads and writes without an exit.
    ReadWrite,
    /// Writes without an exit; reads exit.
    WriteOnly,
}

/// Numbers of the registers that the back ends and the policy name (SDM vol. 4 table 2-2, APM vol. 2 appendix A).
pub mod msr {
    #![expect(missing_docs, reason = "the architecture's own names")]
    pub const SPEC_CTRL: u32 = 0x48;
    pub const PRED_CMD: u32 = 0x49;
    pub const ARCH_CAPABILITIES: u32 = 0x10a;
    pub const FLUSH_CMD: u32 = 0x10b;
    pub const SYSENTER_CS: u32 = 0x174;
    pub const SYSENTER_ESP: u32 = 0x175;
    pub const SYSENTER_EIP: u32 = 0x176;
    pub const PAT: u32 = 0x277;
    pub const EFER: u32 = 0xc000_0080;
    pub const STAR: u32 = 0xc000_0081;
    pub const LSTAR: u32 = 0xc000_0082;
    pub const CSTAR: u32 = 0xc000_0083;
    pub const SFMASK: u32 = 0xc000_0084;
    pub const FS_BASE: u32 = 0xc000_0100;
    pub const GS_BASE: u32 = 0xc000_0101;
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
    pub const TSC_AUX: u32 = 0xc000_0103;
}

/// The pass-through list of every machine; [`super::speculation::commands`] are in it, too, where the CPU has them.
/// TSC_AUX is in it although some CPUs lack it: there the access faults in the guest, as on bare metal.
pub const DIRECT: &[(u32, Direct)] = &[
    // In the control block, or kept in the register while the hypervisor runs, which uses neither SYSCALL nor SWAPGS.
    (msr::FS_BASE, Direct::ReadWrite),
    (msr::GS_BASE, Direct::ReadWrite),
    (msr::KERNEL_GS_BASE, Direct::ReadWrite),
    (msr::STAR, Direct::ReadWrite),
    (msr::LSTAR, Direct::ReadWrite),
    (msr::CSTAR, Direct::ReadWrite),
    (msr::SFMASK, Direct::ReadWrite),
    (msr::SYSENTER_CS, Direct::ReadWrite),
    (msr::SYSENTER_ESP, Direct::ReadWrite),
    (msr::SYSENTER_EIP, Direct::ReadWrite),
    // Read by RDTSCP and RDPID without an exit anyway; switched with the vCPU.
    (msr::TSC_AUX, Direct::ReadWrite),
];
