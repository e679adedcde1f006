//! The virtual machine control block (APM vol. 2, appendix B): layout, bits, and the rules by which VMRUN judges it.

use zerocopy::FromZeros;

use crate::arch::regs::{Segment, SegmentAttr};

/// Intercepts of writes of control registers, offset 002h.
pub mod cr_write {
    #![expect(missing_docs, reason = "the manual's own names, table B-1")]
    pub const CR4: u16 = 1 << 4;
    pub const CR8: u16 = 1 << 8;
}

/// Intercepts of the first vector, offset 00Ch.
pub mod intercept1 {
    #![expect(missing_docs, reason = "the manual's own names, table B-1")]
    pub const INTR: u32 = 1 << 0;
    pub const NMI: u32 = 1 << 1;
    pub const INIT: u32 = 1 << 3;
    pub const VINTR: u32 = 1 << 4;
    pub const CR0_SEL_WRITE: u32 = 1 << 5;
    pub const RDTSC: u32 = 1 << 14;
    pub const RDPMC: u32 = 1 << 15;
    pub const CPUID: u32 = 1 << 18;
    pub const RSM: u32 = 1 << 19;
    pub const IRET: u32 = 1 << 20;
    pub const INVD: u32 = 1 << 22;
    pub const PAUSE: u32 = 1 << 23;
    pub const HLT: u32 = 1 << 24;
    pub const INVLPGA: u32 = 1 << 26;
    pub const IOIO: u32 = 1 << 27;
    pub const MSR: u32 = 1 << 28;
    pub const TASK_SWITCH: u32 = 1 << 29;
    pub const SHUTDOWN: u32 = 1 << 31;
}

/// Intercepts of the second vector, offset 010h.
pub mod intercept2 {
    #![expect(missing_docs, reason = "the manual's own names, table B-1")]
    pub const VMRUN: u32 = 1 << 0;
    pub const VMMCALL: u32 = 1 << 1;
    pub const VMLOAD: u32 = 1 << 2;
    pub const VMSAVE: u32 = 1 << 3;
    pub const STGI: u32 = 1 << 4;
    pub const CLGI: u32 = 1 << 5;
    pub const SKINIT: u32 = 1 << 6;
    pub const RDTSCP: u32 = 1 << 7;
    pub const WBINVD: u32 = 1 << 9;
    pub const MONITOR: u32 = 1 << 10;
    pub const MWAIT: u32 = 1 << 11;
    pub const XSETBV: u32 = 1 << 13;
    pub const RDPRU: u32 = 1 << 14;
}

/// Bits of [`Control::v_intr`].
pub mod v_intr {
    /// The virtual task priority, CR8 in its low four bits.
    pub const TPR: u64 = 0xff;
    /// A virtual interrupt is pending.
    pub const IRQ: u64 = 1 << 8;
    /// Such a one of highest priority (15), whatever the task priority is (V_IGN_TPR): as soon as RFLAGS.IF allows it.
    pub const NOW: u64 = IRQ | 0xf << 16 | 1 << 20;
    /// Its vector, from this bit on.
    pub const VECTOR: u32 = 32;
    /// RFLAGS.IF and CR8 of the guest concern virtual interrupts only; physical ones are masked by the host's RFLAGS.IF.
    pub const MASKING: u64 = 1 << 24;
}

/// Bits and fields of EVENTINJ and EXITINTINFO (APM vol. 2, 15.20).
pub mod event {
    /// An event is described.
    pub const VALID: u64 = 1 << 31;
    /// Bits 32 to 63 are an error code to push.
    pub const HAS_ERROR_CODE: u64 = 1 << 11;
    /// Field TYPE.
    pub const TYPE: u64 = 7 << 8;
    /// External interrupt.
    pub const INTERRUPT: u64 = 0 << 8;
    /// NMI; the vector is ignored.
    pub const NMI: u64 = 2 << 8;
    /// Exception, fault or trap.
    pub const EXCEPTION: u64 = 3 << 8;
    /// INTn.
    pub const SOFTWARE_INTERRUPT: u64 = 4 << 8;
}

/// TLB_CONTROL (APM vol. 2, 15.16).
pub mod tlb_control {
    /// Keep everything.
    pub const NOTHING: u8 = 0;
    /// Drop all translations of all ASIDs, host's included.
    pub const ALL: u8 = 1;
    /// Drop this ASID's, where CPUID says FlushByAsid.
    pub const THIS_ASID: u8 = 3;
}

/// VMCB clean bits (APM vol. 2, 15.15.3): parts unchanged since the last #VMEXIT, which the CPU may take from its cache.
pub mod clean {
    /// Intercepts, TSC offset, pause filter.
    pub const INTERCEPTS: u32 = 1 << 0;
    /// ASID.
    pub const ASID: u32 = 1 << 2;
    /// V_TPR, V_IRQ and its companions.
    pub const TPR: u32 = 1 << 3;
    /// Nested paging: NCR3, G_PAT.
    pub const NESTED: u32 = 1 << 4;
    /// CR0, CR3, CR4, EFER.
    pub const CONTROL_REGS: u32 = 1 << 5;
    /// DR6, DR7.
    pub const DEBUG_REGS: u32 = 1 << 6;
    /// GDT and IDT.
    pub const TABLES: u32 = 1 << 7;
    /// CS, DS, SS, ES, CPL.
    pub const SEGMENTS: u32 = 1 << 8;
    /// CR2.
    pub const CR2: u32 = 1 << 9;
    /// All that this hypervisor uses. IOPM and MSRPM (bit 1) never change for a vCPU.
    pub const ALL: u32 = 0x3ff;
}

/// Bit 0 of [`Control::interrupt_shadow`].
pub const SHADOW: u64 = 1;
/// Bit 0 of [`Control::nested_control`].
pub const NESTED_ENABLE: u64 = 1;
/// CR0.ET, which is always one.
pub const CR0_ET: u64 = 1 << 4;
/// DR7 after reset: bit 10 is always one.
pub const DR7_RESET: u64 = 0x400;
/// EFER.SVME.
pub const EFER_SVME: u64 = 1 << 12;

/// Control area.
#[derive(FromZeros)]
#[repr(C)]
#[expect(missing_docs, reason = "the manual's own names, table B-1")]
pub struct Control {
    pub cr_read: u16,
    pub cr_write: u16,
    pub dr_read: u16,
    pub dr_write: u16,
    pub exceptions: u32,
    pub intercept1: u32,
    pub intercept2: u32,
    pub intercept3: u32,
    reserved_018: [u8; 0x24],
    pub pause_filter_threshold: u16,
    pub pause_filter_count: u16,
    pub iopm_base: u64,
    pub msrpm_base: u64,
    pub tsc_offset: u64,
    pub asid: u32,
    pub tlb_control: u8,
    reserved_05d: [u8; 3],
    pub v_intr: u64,
    pub interrupt_shadow: u64,
    pub exit_code: u64,
    pub exit_info1: u64,
    pub exit_info2: u64,
    pub exit_int_info: u64,
    pub nested_control: u64,
    reserved_098: [u8; 0x10],
    pub event_inj: u64,
    pub nested_cr3: u64,
    pub virt_ext: u64,
    pub clean: u32,
    reserved_0c4: u32,
    pub next_rip: u64,
    reserved_0d0: [u8; 0x330],
}

/// A segment register in the state-save area.
#[derive(Clone, Copy, FromZeros)]
#[repr(C)]
#[expect(missing_docs, reason = "as in `regs::Segment`")]
pub struct VmcbSegment {
    pub selector: u16,
    pub attr: u16,
    pub limit: u32,
    pub base: u64,
}

impl From<VmcbSegment> for Segment {
    fn from(s: VmcbSegment) -> Segment {
        Segment {
            selector: s.selector,
            attr: SegmentAttr::from_bits_truncate(s.attr),
            limit: s.limit,
            base: s.base,
        }
    }
}

impl From<Segment> for VmcbSegment {
    fn from(s: Segment) -> VmcbSegment {
        VmcbSegment {
            selector: s.selector,
            attr: s.attr.bits(),
            limit: s.limit,
            base: s.base,
        }
    }
}

/// State-save area.
#[derive(FromZeros)]
#[repr(C)]
#[expect(missing_docs, reason = "the manual's own names, table B-2")]
pub struct Save {
    pub es: VmcbSegment,
    pub cs: VmcbSegment,
    pub ss: VmcbSegment,
    pub ds: VmcbSegment,
    pub fs: VmcbSegment,
    pub gs: VmcbSegment,
    pub gdtr: VmcbSegment,
    pub ldtr: VmcbSegment,
    pub idtr: VmcbSegment,
    pub tr: VmcbSegment,
    reserved_0a0: [u8; 0x2b],
    pub cpl: u8,
    reserved_0cc: u32,
    pub efer: u64,
    reserved_0d8: [u8; 0x70],
    pub cr4: u64,
    pub cr3: u64,
    pub cr0: u64,
    pub dr7: u64,
    pub dr6: u64,
    pub rflags: u64,
    pub rip: u64,
    reserved_180: [u8; 0x58],
    pub rsp: u64,
    pub s_cet: u64,
    pub ssp: u64,
    pub isst_addr: u64,
    pub rax: u64,
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub sfmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub cr2: u64,
    reserved_248: [u8; 0x20],
    pub g_pat: u64,
    pub dbgctl: u64,
    reserved_278: [u8; 0x68],
    pub spec_ctrl: u64,
    reserved_2e8: [u8; 0x918],
}

/// One page, physically addressed.
#[derive(FromZeros)]
#[repr(C, align(4096))]
#[expect(missing_docs, reason = "the two halves")]
pub struct Vmcb {
    pub control: Control,
    pub save: Save,
}

/// Would VMRUN take this block (APM vol. 2, 15.5.1 "canonicalization and consistency checks", 15.20 for the event)? The error names
/// the rule. Emulators check less than silicon does, so debug builds ask before they enter.
///
/// # Errors
/// The first rule that is broken.
pub fn check(vmcb: &Vmcb, max_asid: u32, address_bits: u32) -> Result<(), &'static str> {
    check_control(&vmcb.control, max_asid, address_bits)?;
    check_save(&vmcb.save, address_bits)?;
    check_event(vmcb.control.event_inj, vmcb.save.efer, &vmcb.save.cs)
}

fn check_control(c: &Control, max_asid: u32, address_bits: u32) -> Result<(), &'static str> {
    let outside = |address: u64, pages: u64| {
        address & 0xfff != 0 || address.saturating_add(pages << 12) > 1 << address_bits
    };
    let rules = [
        (c.intercept2 & intercept2::VMRUN == 0, "VMRUN is not intercepted"),
        (c.asid == 0, "ASID 0 is the host's"),
        (c.asid > max_asid, "ASID beyond the CPU's last one"),
        (
            outside(c.iopm_base, 3),
            "I/O permission map misaligned or beyond physical memory",
        ),
        (
            outside(c.msrpm_base, 2),
            "MSR permission map misaligned or beyond physical memory",
        ),
        (c.nested_control & NESTED_ENABLE == 0, "nested paging is off"),
        (
            outside(c.nested_cr3, 1),
            "nested CR3 misaligned or beyond physical memory",
        ),
        (!matches!(c.tlb_control, 0 | 1 | 3 | 7), "reserved TLB_CONTROL"),
    ];
    first_broken(&rules)
}

fn check_save(s: &Save, address_bits: u32) -> Result<(), &'static str> {
    const PE: u64 = 1;
    const NW: u64 = 1 << 29;
    const CD: u64 = 1 << 30;
    const PG: u64 = 1 << 31;
    const CR4_PAE: u64 = 1 << 5;
    // VME to OSXMMEXCPT, UMIP, LA57, FSGSBASE, PCIDE, OSXSAVE, SMEP, SMAP, PKE, CET.
    const CR4_DEFINED: u64 = 0x00f7_1fff;
    const LME: u64 = 1 << 8;
    // SCE, LME, LMA, NXE, SVME, LMSLE, FFXSR, TCE, MCOMMIT, INTWB, UAIE, AIBRSE.
    const EFER_DEFINED: u64 = 0x0036_fd01;
    let long = s.efer & LME != 0 && s.cr0 & PG != 0;
    let pat_bad = s.g_pat.to_le_bytes().iter().any(|&t| t > 7 || t == 2 || t == 3);
    let rules = [
        (s.efer & EFER_SVME == 0, "EFER.SVME is clear"),
        (s.efer & !EFER_DEFINED != 0, "reserved EFER bit"),
        (s.cr0 & CD == 0 && s.cr0 & NW != 0, "CR0.NW without CD"),
        (s.cr0 >> 32 != 0, "CR0 above bit 31"),
        (long && s.cr3 >> address_bits != 0, "CR3 beyond physical memory"),
        (s.cr4 & !CR4_DEFINED != 0, "reserved CR4 bit"),
        (s.dr6 >> 32 != 0, "DR6 above bit 31"),
        (s.dr7 >> 32 != 0, "DR7 above bit 31"),
        (long && s.cr4 & CR4_PAE == 0, "long mode without PAE"),
        (long && s.cr0 & PE == 0, "long mode without protection"),
        (s.cr0 & PG != 0 && s.cr0 & PE == 0, "paging without protection"),
        (long && s.cs.attr & 0x600 == 0x600, "CS.L and CS.D in long mode"),
        (pat_bad, "reserved memory type in G_PAT"),
        (
            s.rflags & 2 == 0 || s.rflags & 0xffff_ffff_ffc0_8028 != 0,
            "reserved RFLAGS bit",
        ),
    ];
    first_broken(&rules)
}

fn check_event(inj: u64, efer: u64, cs: &VmcbSegment) -> Result<(), &'static str> {
    const LMA: u64 = 1 << 10;
    if inj & event::VALID == 0 {
        return Ok(());
    }
    let vector = inj & 0xff;
    let exception = inj & event::TYPE == event::EXCEPTION;
    let in_64 = efer & LMA != 0 && cs.attr & 0x200 != 0;
    let rules = [
        (
            !matches!((inj & event::TYPE) >> 8, 0 | 2 | 3 | 4),
            "reserved event type",
        ),
        (
            exception && (vector > 31 || vector == 2),
            "exception with a vector that is none",
        ),
        (
            exception && in_64 && matches!(vector, 4 | 5),
            "#OF or #BR in 64-bit mode",
        ),
        (
            !exception && inj & event::HAS_ERROR_CODE != 0,
            "error code for an event that is no exception",
        ),
        (inj & 0x7fff_f000 != 0, "reserved EVENTINJ bit"),
    ];
    first_broken(&rules)
}

fn first_broken(rules: &[(bool, &'static str)]) -> Result<(), &'static str> {
    match rules.iter().find(|(broken, _)| *broken) {
        Some((_, rule)) => Err(rule),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;

    /// Offsets against the manual's tables B-1 and B-2.
    #[test]
    fn layout() {
        assert_eq!(size_of::<Vmcb>(), 4096);
        let control = [
            (offset_of!(Control, exceptions), 0x8),
            (offset_of!(Control, intercept2), 0x10),
            (offset_of!(Control, pause_filter_count), 0x3e),
            (offset_of!(Control, msrpm_base), 0x48),
            (offset_of!(Control, tlb_control), 0x5c),
            (offset_of!(Control, v_intr), 0x60),
            (offset_of!(Control, exit_code), 0x70),
            (offset_of!(Control, exit_int_info), 0x88),
            (offset_of!(Control, event_inj), 0xa8),
            (offset_of!(Control, nested_cr3), 0xb0),
            (offset_of!(Control, clean), 0xc0),
            (offset_of!(Control, next_rip), 0xc8),
            (offset_of!(Vmcb, save), 0x400),
        ];
        let save = [
            (offset_of!(Save, tr), 0x90),
            (offset_of!(Save, cpl), 0xcb),
            (offset_of!(Save, efer), 0xd0),
            (offset_of!(Save, cr4), 0x148),
            (offset_of!(Save, rip), 0x178),
            (offset_of!(Save, rsp), 0x1d8),
            (offset_of!(Save, rax), 0x1f8),
            (offset_of!(Save, kernel_gs_base), 0x220),
            (offset_of!(Save, cr2), 0x240),
            (offset_of!(Save, g_pat), 0x268),
            (offset_of!(Save, spec_ctrl), 0x2e0),
        ];
        for (found, expected) in control.into_iter().chain(save) {
            assert_eq!(found, expected, "{expected:#x}");
        }
    }

    fn good() -> Vmcb {
        let mut vmcb: Vmcb = FromZeros::new_zeroed();
        vmcb.control.intercept2 = intercept2::VMRUN;
        vmcb.control.asid = 1;
        vmcb.control.nested_control = NESTED_ENABLE;
        vmcb.save.efer = EFER_SVME;
        vmcb.save.cr0 = 0x10;
        vmcb.save.rflags = 2;
        vmcb.save.g_pat = 0x0007_0406_0007_0406;
        vmcb
    }

    fn verdict(change: impl FnOnce(&mut Vmcb)) -> Result<(), &'static str> {
        let mut vmcb = good();
        change(&mut vmcb);
        check(&vmcb, 15, 40)
    }

    #[test]
    fn a_good_block_passes() {
        assert_eq!(verdict(|_| ()), Ok(()));
        assert_eq!(
            verdict(|v| v.control.event_inj = event::VALID | event::EXCEPTION | 14),
            Ok(())
        );
        assert_eq!(
            verdict(|v| v.control.event_inj = event::VALID | event::NMI | 2),
            Ok(())
        );
        let long = |v: &mut Vmcb| {
            v.save.efer |= 0xd00;
            v.save.cr0 = 0x8005_0033;
            v.save.cr4 = 0x20;
            v.save.cs.attr = 0x29b;
        };
        assert_eq!(verdict(long), Ok(()));
    }

    #[test]
    fn each_broken_rule_is_found() {
        type Change = fn(&mut Vmcb);
        let bad: [(&str, Change); 18] = [
            ("VMRUN", |v| v.control.intercept2 = 0),
            ("ASID 0", |v| v.control.asid = 0),
            ("ASID beyond", |v| v.control.asid = 16),
            ("I/O", |v| v.control.iopm_base = 1 << 40),
            ("MSR", |v| v.control.msrpm_base = 8),
            ("nested CR3", |v| v.control.nested_cr3 = 0x1008),
            ("nested paging", |v| v.control.nested_control = 0),
            ("TLB", |v| v.control.tlb_control = 2),
            ("SVME", |v| v.save.efer = 0),
            ("CR0.NW", |v| v.save.cr0 = 1 << 29),
            ("CR0 above", |v| v.save.cr0 = 1 << 32),
            ("CR4", |v| v.save.cr4 = 1 << 13),
            ("DR6", |v| v.save.dr6 = 1 << 32),
            ("DR7", |v| v.save.dr7 = 1 << 32),
            ("long mode without PAE", |v| {
                v.save.efer |= 0x100;
                v.save.cr0 = 1 << 31 | 1;
            }),
            ("G_PAT", |v| v.save.g_pat = 2),
            ("exception", |v| {
                v.control.event_inj = event::VALID | event::EXCEPTION | 2
            }),
            ("reserved event type", |v| {
                v.control.event_inj = event::VALID | 1 << 8
            }),
        ];
        for (rule, change) in bad {
            let text = verdict(change).expect_err(rule);
            assert!(text.contains(rule), "{rule}: {text}");
        }
    }
}
