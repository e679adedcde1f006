//! What a new VMCB holds.

use super::cpu::Host;
use super::vmcb::{
    self, CR0_ET, DR7_RESET, EFER_SVME, Vmcb, VmcbSegment, cr_write, intercept1, intercept2, v_intr,
};
use crate::arch::VcpuConfig;
use crate::arch::debug_regs::DR6_RESET;

/// PAT after reset (APM vol. 2, 7.8.2).
const PAT_RESET: u64 = 0x0007_0406_0007_0406;
/// PAUSEs until an exit, and how close together they must be to count, in ticks: a spin loop, not a polite wait.
const PAUSE_COUNT: u16 = 3000;
const PAUSE_THRESHOLD: u16 = 128;
/// #DB and #AC are intercepted so that a guest cannot lock the CPU in their endless delivery (CVE-2015-8104, CVE-2015-5307),
/// #MC because it is the host's.
const EXCEPTIONS: u32 = 1 << 1 | 1 << 17 | 1 << 18;

/// Intercepts and what else stays as it is for the life of a vCPU.
///
/// Guests own CR3, the debug registers and CR0's TS and MP. Changes of other bits of CR0, and writes of CR4, are checked: features that CPUID
/// does not show cannot be switched on, and emulators take values that no CPU takes. FERR_FREEZE is left to freeze: a physical interrupt still ends it. CR0 reads must stay free (emulators
/// confuse their exits).
pub(super) fn set_controls(vmcb: &mut Vmcb, host: &Host, config: &VcpuConfig) {
    use intercept1 as i1;
    use intercept2 as i2;
    let caps = &host.caps;
    let c = &mut vmcb.control;
    c.exceptions = EXCEPTIONS;
    c.cr_write = cr_write::CR4;
    c.intercept1 = i1::INTR
        | i1::NMI
        | i1::INIT
        | i1::CR0_SEL_WRITE
        | i1::RDPMC
        | i1::CPUID
        | i1::RSM
        | i1::INVD
        | i1::HLT
        | i1::INVLPGA
        | i1::IOIO
        | i1::MSR
        | i1::TASK_SWITCH
        | i1::SHUTDOWN;
    c.intercept2 = i2::VMRUN
        | i2::VMMCALL
        | i2::VMLOAD
        | i2::VMSAVE
        | i2::STGI
        | i2::CLGI
        | i2::SKINIT
        | i2::WBINVD
        | i2::MONITOR
        | i2::MWAIT
        | i2::XSETBV;
    if caps.rdpru {
        c.intercept2 |= i2::RDPRU;
    }
    if caps.pause_filter {
        c.intercept1 |= i1::PAUSE;
        c.pause_filter_count = PAUSE_COUNT;
        c.pause_filter_threshold = if caps.pause_threshold { PAUSE_THRESHOLD } else { 0 };
    }
    c.iopm_base = config.io_bitmap.0;
    c.msrpm_base = host.msrpm.0;
    c.v_intr = v_intr::MASKING;
    c.nested_control = vmcb::NESTED_ENABLE;
    c.nested_cr3 = config.nested_root.0;
}

/// State after INIT (APM vol. 2, 14.1.3), except that CR0 leaves the caches on.
pub(super) fn set_reset_state(vmcb: &mut Vmcb) {
    let data = VmcbSegment {
        selector: 0,
        attr: 0x93,
        limit: 0xffff,
        base: 0,
    };
    let save = &mut vmcb.save;
    save.es = data;
    save.ss = data;
    save.ds = data;
    save.fs = data;
    save.gs = data;
    save.cs = VmcbSegment {
        selector: 0xf000,
        attr: 0x9b,
        limit: 0xffff,
        base: 0xffff_0000,
    };
    save.gdtr.limit = 0xffff;
    save.idtr.limit = 0xffff;
    save.ldtr = VmcbSegment { attr: 0x82, ..data };
    save.tr = VmcbSegment { attr: 0x8b, ..data };
    save.efer = EFER_SVME;
    save.cr0 = CR0_ET;
    save.dr6 = DR6_RESET;
    save.dr7 = DR7_RESET;
    save.rflags = 2;
    save.rip = 0xfff0;
    save.g_pat = PAT_RESET;
}
