//! The HVM context (`hvm/save.h`): records of saved hardware state, as `DOMCTL_GETHVMCONTEXT`,
//! `DOMCTL_SETHVMCONTEXT` and the migration stream carry them.
//!
//! Each record is an [`HvmSaveDescriptor`] and then `length` bytes; a [`HvmSaveHeader`] comes
//! first, `HVM_SAVE_CODE_END` last.

/// [`HvmSaveHeader::magic`].
pub const HVM_FILE_MAGIC: u32 = 0x5438_1286;
/// [`HvmSaveHeader::version`].
pub const HVM_FILE_VERSION: u32 = 1;
/// [`HvmHwCpu::flags`]: `fpu_regs` is valid.
pub const XEN_X86_FPU_INITIALISED: u32 = 1 << 0;
/// Bytes of an FXSAVE image.
pub const FXSAVE_SIZE: usize = 512;
/// Variable MTRR pairs in [`HvmHwMtrr`].
pub const MTRR_VCNT: usize = 8;
/// Fixed MTRRs in [`HvmHwMtrr`].
pub const NUM_FIXED_MSR: usize = 11;

/// Last record, empty.
pub const HVM_SAVE_CODE_END: u16 = 0;
/// [`HvmSaveHeader`].
pub const HVM_SAVE_CODE_HEADER: u16 = 1;
/// [`HvmHwCpu`], per vCPU.
pub const HVM_SAVE_CODE_CPU: u16 = 2;
/// Interrupt controller 8259.
pub const HVM_SAVE_CODE_PIC: u16 = 3;
/// I/O APIC.
pub const HVM_SAVE_CODE_IOAPIC: u16 = 4;
/// [`HvmHwLapic`], per vCPU.
pub const HVM_SAVE_CODE_LAPIC: u16 = 5;
/// [`HvmHwLapicRegs`], per vCPU.
pub const HVM_SAVE_CODE_LAPIC_REGS: u16 = 6;
/// PCI interrupt lines.
pub const HVM_SAVE_CODE_PCI_IRQ: u16 = 7;
/// ISA interrupt lines.
pub const HVM_SAVE_CODE_ISA_IRQ: u16 = 8;
/// PCI interrupt links.
pub const HVM_SAVE_CODE_PCI_LINK: u16 = 9;
/// Timer 8254.
pub const HVM_SAVE_CODE_PIT: u16 = 10;
/// Real-time clock.
pub const HVM_SAVE_CODE_RTC: u16 = 11;
/// HPET.
pub const HVM_SAVE_CODE_HPET: u16 = 12;
/// ACPI timer.
pub const HVM_SAVE_CODE_PMTIMER: u16 = 13;
/// [`HvmHwMtrr`], per vCPU.
pub const HVM_SAVE_CODE_MTRR: u16 = 14;
/// Viridian, domain.
pub const HVM_SAVE_CODE_VIRIDIAN_DOMAIN: u16 = 15;
/// [`HvmHwCpuXsave`] and the extended area, per vCPU.
pub const HVM_SAVE_CODE_CPU_XSAVE: u16 = 16;
/// Viridian, per vCPU.
pub const HVM_SAVE_CODE_VIRIDIAN_VCPU: u16 = 17;
/// [`HvmVmceVcpu`], per vCPU.
pub const HVM_SAVE_CODE_VMCE_VCPU: u16 = 18;
/// [`HvmTscAdjust`], per vCPU.
pub const HVM_SAVE_CODE_TSC_ADJUST: u16 = 19;
/// [`HvmMsrHeader`] and [`HvmOneMsr`]s, per vCPU.
pub const HVM_SAVE_CODE_CPU_MSR: u16 = 20;
/// Largest type code.
pub const HVM_SAVE_CODE_MAX: u16 = 20;

plain! {
    /// Before each record.
    pub struct HvmSaveDescriptor {
        /// `HVM_SAVE_CODE_*`.
        pub typecode: u16,
        /// Which vCPU or device.
        pub instance: u16,
        /// Bytes that follow.
        pub length: u32,
    }
    /// First record.
    pub struct HvmSaveHeader {
        /// [`HVM_FILE_MAGIC`].
        pub magic: u32,
        /// [`HVM_FILE_VERSION`].
        pub version: u32,
        /// Changeset of the hypervisor, informative.
        pub changeset: u64,
        /// CPUID leaf 1 EAX of the host.
        pub cpuid: u32,
        /// Guest TSC frequency.
        pub gtsc_khz: u32,
    }
    /// State of a vCPU.
    pub struct HvmHwCpu {
        /// FXSAVE image, valid with [`XEN_X86_FPU_INITIALISED`].
        pub fpu_regs: [u8; FXSAVE_SIZE],
        /// General register.
        pub rax: u64,
        /// General register.
        pub rbx: u64,
        /// General register.
        pub rcx: u64,
        /// General register.
        pub rdx: u64,
        /// General register.
        pub rbp: u64,
        /// General register.
        pub rsi: u64,
        /// General register.
        pub rdi: u64,
        /// General register.
        pub rsp: u64,
        /// General register.
        pub r8: u64,
        /// General register.
        pub r9: u64,
        /// General register.
        pub r10: u64,
        /// General register.
        pub r11: u64,
        /// General register.
        pub r12: u64,
        /// General register.
        pub r13: u64,
        /// General register.
        pub r14: u64,
        /// General register.
        pub r15: u64,
        /// Instruction pointer.
        pub rip: u64,
        /// Flags.
        pub rflags: u64,
        /// Control register 0.
        pub cr0: u64,
        /// Control register 2.
        pub cr2: u64,
        /// Control register 3.
        pub cr3: u64,
        /// Control register 4.
        pub cr4: u64,
        /// Debug register 0.
        pub dr0: u64,
        /// Debug register 1.
        pub dr1: u64,
        /// Debug register 2.
        pub dr2: u64,
        /// Debug register 3.
        pub dr3: u64,
        /// Debug register 6.
        pub dr6: u64,
        /// Debug register 7.
        pub dr7: u64,
        /// Selector of CS.
        pub cs_sel: u32,
        /// Selector of DS.
        pub ds_sel: u32,
        /// Selector of ES.
        pub es_sel: u32,
        /// Selector of FS.
        pub fs_sel: u32,
        /// Selector of GS.
        pub gs_sel: u32,
        /// Selector of SS.
        pub ss_sel: u32,
        /// Selector of TR.
        pub tr_sel: u32,
        /// Selector of LDTR.
        pub ldtr_sel: u32,
        /// Limit of CS.
        pub cs_limit: u32,
        /// Limit of DS.
        pub ds_limit: u32,
        /// Limit of ES.
        pub es_limit: u32,
        /// Limit of FS.
        pub fs_limit: u32,
        /// Limit of GS.
        pub gs_limit: u32,
        /// Limit of SS.
        pub ss_limit: u32,
        /// Limit of TR.
        pub tr_limit: u32,
        /// Limit of LDTR.
        pub ldtr_limit: u32,
        /// Limit of IDTR.
        pub idtr_limit: u32,
        /// Limit of GDTR.
        pub gdtr_limit: u32,
        /// Base of CS.
        pub cs_base: u64,
        /// Base of DS.
        pub ds_base: u64,
        /// Base of ES.
        pub es_base: u64,
        /// Base of FS.
        pub fs_base: u64,
        /// Base of GS.
        pub gs_base: u64,
        /// Base of SS.
        pub ss_base: u64,
        /// Base of TR.
        pub tr_base: u64,
        /// Base of LDTR.
        pub ldtr_base: u64,
        /// Base of IDTR.
        pub idtr_base: u64,
        /// Base of GDTR.
        pub gdtr_base: u64,
        /// Attributes of CS: VMX layout.
        pub cs_arbytes: u32,
        /// Attributes of DS: VMX layout.
        pub ds_arbytes: u32,
        /// Attributes of ES: VMX layout.
        pub es_arbytes: u32,
        /// Attributes of FS: VMX layout.
        pub fs_arbytes: u32,
        /// Attributes of GS: VMX layout.
        pub gs_arbytes: u32,
        /// Attributes of SS: VMX layout.
        pub ss_arbytes: u32,
        /// Attributes of TR: VMX layout.
        pub tr_arbytes: u32,
        /// Attributes of LDTR: VMX layout.
        pub ldtr_arbytes: u32,
        /// SYSENTER_CS.
        pub sysenter_cs: u64,
        /// SYSENTER_ESP.
        pub sysenter_esp: u64,
        /// SYSENTER_EIP.
        pub sysenter_eip: u64,
        /// KERNEL_GS_BASE.
        pub shadow_gs: u64,
        /// Zero.
        pub msr_flags: u64,
        /// LSTAR.
        pub msr_lstar: u64,
        /// STAR.
        pub msr_star: u64,
        /// CSTAR.
        pub msr_cstar: u64,
        /// SFMASK.
        pub msr_syscall_mask: u64,
        /// EFER.
        pub msr_efer: u64,
        /// TSC_AUX.
        pub msr_tsc_aux: u64,
        /// Guest TSC.
        pub tsc: u64,
        /// Event being delivered: vector 0-7, type 8-10, error code valid 11, valid 31.
        pub pending_event: u32,
        /// Its error code.
        pub error_code: u32,
        /// [`XEN_X86_FPU_INITIALISED`].
        pub flags: u32,
        /// Zero.
        pub pad0: u32,
    }
    /// Local APIC, what is not in its registers.
    pub struct HvmHwLapic {
        /// APIC_BASE.
        pub apic_base_msr: u64,
        /// Disabled in hardware.
        pub disabled: u32,
        /// Timer divisor.
        pub timer_divisor: u32,
        /// TSC_DEADLINE.
        pub tdt_msr: u64,
    }
    /// Local APIC register page, as much of it as exists.
    pub struct HvmHwLapicRegs {
        /// The registers.
        pub data: [u8; 1024],
    }
    /// Memory types.
    pub struct HvmHwMtrr {
        /// PAT.
        pub msr_pat_cr: u64,
        /// Variable ranges: base, mask.
        pub msr_mtrr_var: [u64; MTRR_VCNT * 2],
        /// Fixed ranges.
        pub msr_mtrr_fixed: [u64; NUM_FIXED_MSR],
        /// MTRRcap.
        pub msr_mtrr_cap: u64,
        /// Default type.
        pub msr_mtrr_def_type: u64,
    }
    /// Extended state; components beyond SSE follow, standard format.
    pub struct HvmHwCpuXsave {
        /// Features the image may hold.
        pub xfeature_mask: u64,
        /// XCR0.
        pub xcr0: u64,
        /// Every bit that XCR0 has had.
        pub xcr0_accum: u64,
        /// Legacy area.
        pub fpu_sse: [u8; FXSAVE_SIZE],
        /// XSAVE header: XSTATE_BV.
        pub xstate_bv: u64,
        /// XSAVE header: XCOMP_BV.
        pub xcomp_bv: u64,
        /// XSAVE header: zero.
        pub reserved: [u64; 6],
    }
    /// Virtual machine checks.
    pub struct HvmVmceVcpu {
        /// MCG_CAP.
        pub caps: u64,
        /// MCi_CTL2 of bank 0.
        pub mci_ctl2_bank0: u64,
        /// MCi_CTL2 of bank 1.
        pub mci_ctl2_bank1: u64,
        /// MCG_EXT_CTL.
        pub mcg_ext_ctl: u64,
    }
    /// TSC_ADJUST.
    pub struct HvmTscAdjust {
        /// Its value.
        pub tsc_adjust: u64,
    }
    /// Start of the record of MSRs.
    pub struct HvmMsrHeader {
        /// How many [`HvmOneMsr`] follow.
        pub count: u32,
        /// Padding.
        pub pad: u32,
    }
    /// An MSR.
    pub struct HvmOneMsr {
        /// Which.
        pub index: u32,
        /// Zero.
        pub pad: u32,
        /// Its value.
        pub val: u64,
    }
}
