//! What the machine's AMD-V offers, and switching it on for a CPU.
// UNSAFETY: MSRs that put a CPU into another mode, and the pages that it then writes by itself.
#![expect(unsafe_code, reason = "EFER, VM_HSAVE_PA, VMSAVE")]

use core::arch::asm;
use core::fmt;
use core::ptr::NonNull;

use spin::Once;
use x86_64::registers::model_specific::{Efer, EferFlags, Msr};
use zerocopy::FromZeros;

use super::asid::AsidPool;
use super::msrpm::Msrpm;
use crate::arch::msr_policy::{Direct, msr};
use crate::arch::owned::Owned;
use crate::arch::{EnableError, TSC_MULTIPLIER_POINT, Unsupported, fpu, speculation, try_msr};
use crate::mm::phys;
use crate::types::Hpa;

/// VM_HSAVE_PA: where VMRUN saves the host.
const VM_HSAVE_PA: u32 = 0xc001_0117;

/// CPUID 1, ECX: there is a hypervisor.
const ECX_HYPERVISOR: u32 = 1 << 31;
/// What QEMU's emulator calls itself: "TCG", four times.
const TCG: [u32; 3] = [
    u32::from_le_bytes(*b"TCGT"),
    u32::from_le_bytes(*b"CGTC"),
    u32::from_le_bytes(*b"GTCG"),
];
/// CPUID 8000_0001h, ECX: AMD-V.
const ECX_SVM: u32 = 1 << 2;
/// VM_CR, and its bit that the firmware sets to switch AMD-V off (APM vol. 2, 15.30.1).
const VM_CR: u32 = 0xc001_0114;
const VM_CR_SVMDIS: u64 = 1 << 4;

/// What guests' TSCs are multiplied by: 8 bits, and 32 behind the point (APM vol. 2, 15.30.5).
const TSC_RATIO: u32 = 0xc000_0104;
/// Bits behind its point.
pub const TSC_RATIO_POINT: u32 = 32;
/// The host's own rate.
pub const TSC_RATIO_ONE: u64 = 1 << TSC_RATIO_POINT;

/// TSC_RATIO for a multiplier of [`GuestCpu::set_tsc_multiplier`](crate::arch::GuestCpu::set_tsc_multiplier), the largest for what does not fit.
pub const fn tsc_ratio(multiplier: u64) -> u64 {
    const BITS: u32 = 8 + TSC_RATIO_POINT;
    let ratio = multiplier >> (TSC_MULTIPLIER_POINT - TSC_RATIO_POINT);
    let largest = (1 << BITS) - 1;
    if ratio < largest { ratio } else { largest }
}

/// AMD-V's features (CPUID 8000_000Ah) and others that the back end asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caps {
    /// ASIDs, the host's own included.
    pub asids: u32,
    /// Next-RIP saving.
    pub next_rip: bool,
    /// TLB_CONTROL can flush a single ASID.
    pub flush_by_asid: bool,
    /// VMCB clean bits.
    pub clean_bits: bool,
    /// PAUSE is intercepted after a number of them only.
    pub pause_filter: bool,
    /// ... which are counted within a short time only.
    pub pause_threshold: bool,
    /// SPEC_CTRL has a field in the VMCB.
    pub virtual_spec_ctrl: bool,
    /// SPEC_CTRL exists at all.
    pub spec_ctrl: bool,
    /// TSC_RATIO exists.
    pub tsc_ratio: bool,
    /// TSC_AUX exists (RDTSCP or RDPID).
    pub tsc_aux: bool,
    /// RDPRU exists, and needs an intercept to be hidden.
    pub rdpru: bool,
    /// Physical address bits.
    pub address_bits: u32,
    /// QEMU's TCG (10.0 at least), with whose interrupts there is care to be taken. It delivers one of EVENTINJ a second time, whatever
    /// RFLAGS.IF is then, if something in QEMU wants the CPU's attention before the next exit: its `helper_vmrun` leaves the vector in
    /// `exception_index`. What V_IRQ delivers comes once. And it loses one of the machine now and then: VMRUN with V_IRQ and every #VMEXIT
    /// change the CPU's `interrupt_request` without the lock under which other threads set bits there. The local APIC still has it, and
    /// tells of it again when its TPR is written.
    pub tcg: bool,
}

/// The list for the boot log.
impl fmt::Display for Caps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NPT, {} ASIDs", self.asids)?;
        let optional = [
            (self.next_rip, "next-RIP saving"),
            (self.flush_by_asid, "flush by ASID"),
            (self.clean_bits, "clean bits"),
            (self.pause_filter, "pause filter"),
            (self.pause_threshold, "pause threshold"),
            (self.virtual_spec_ctrl, "virtual SPEC_CTRL"),
            (self.tsc_ratio, "TSC ratio"),
            (self.tcg, "interrupts by V_IRQ (TCG)"),
        ];
        for (_, name) in optional.iter().filter(|(present, _)| *present) {
            write!(f, ", {name}")?;
        }
        Ok(())
    }
}

/// CPUID leaves as [`probe`] needs them, so that the decision is a pure function.
struct Leaves {
    extended_1_ecx: u32,
    extended_1_edx: u32,
    basic_7_ecx: u32,
    svm_ebx: u32,
    svm_edx: u32,
    extended_8_eax: u32,
    extended_8_ebx: u32,
    /// VM_CR; 0 on a CPU without it.
    vm_cr: u64,
    /// The hypervisor's name for itself, if the machine is virtual.
    hypervisor: [u32; 3],
}

/// Can this machine run guests by AMD-V.
///
/// # Errors
/// What is missing.
pub fn probe() -> Result<Caps, Unsupported> {
    let highest = raw_cpuid::cpuid!(0x8000_0000).eax;
    let has = |leaf| (0x8000_0000..=highest).contains(&leaf);
    let extended_1 = raw_cpuid::cpuid!(0x8000_0001);
    let extended_8 = raw_cpuid::cpuid!(0x8000_0008);
    let svm = raw_cpuid::cpuid!(0x8000_000a);
    let has_svm = has(0x8000_0001) && extended_1.ecx & ECX_SVM != 0;
    let virtual_machine = raw_cpuid::cpuid!(1).ecx & ECX_HYPERVISOR != 0;
    let name = raw_cpuid::cpuid!(0x4000_0000);
    let basic_7 = if raw_cpuid::cpuid!(0).eax >= 7 {
        raw_cpuid::cpuid!(7, 0).ecx
    } else {
        0
    };
    decide(&Leaves {
        extended_1_ecx: if has(0x8000_0001) { extended_1.ecx } else { 0 },
        extended_1_edx: if has(0x8000_0001) { extended_1.edx } else { 0 },
        basic_7_ecx: basic_7,
        svm_ebx: if has(0x8000_000a) { svm.ebx } else { 0 },
        svm_edx: if has(0x8000_000a) { svm.edx } else { 0 },
        extended_8_eax: if has(0x8000_0008) { extended_8.eax } else { 36 },
        extended_8_ebx: if has(0x8000_0008) { extended_8.ebx } else { 0 },
        // Not on every CPU that should have it (Bochs's).
        vm_cr: has_svm.then(|| try_msr::read(VM_CR)).flatten().unwrap_or(0),
        hypervisor: if virtual_machine {
            [name.ebx, name.ecx, name.edx]
        } else {
            [0; 3]
        },
    })
}

fn decide(leaves: &Leaves) -> Result<Caps, Unsupported> {
    let feature = |bit: u32| leaves.svm_edx & 1 << bit != 0;
    if leaves.extended_1_ecx & ECX_SVM == 0 {
        return Err(Unsupported("the CPU has no AMD-V (SVM)"));
    }
    if leaves.vm_cr & VM_CR_SVMDIS != 0 {
        return Err(Unsupported(
            "AMD-V is switched off by the firmware: enable it (SVM) in its setup",
        ));
    }
    if !feature(0) {
        return Err(Unsupported("the CPU's AMD-V has no nested paging (NPT)"));
    }
    if leaves.svm_ebx < 2 {
        return Err(Unsupported(
            "the CPU's AMD-V has no address-space identifier for a guest",
        ));
    }
    Ok(Caps {
        asids: leaves.svm_ebx,
        next_rip: feature(3),
        tsc_ratio: feature(4),
        clean_bits: feature(5),
        flush_by_asid: feature(6),
        pause_filter: feature(10),
        pause_threshold: feature(12),
        virtual_spec_ctrl: feature(20),
        // IBRS, STIBP or SSBD.
        spec_ctrl: leaves.extended_8_ebx & (1 << 14 | 1 << 15 | 1 << 24) != 0,
        tsc_aux: leaves.extended_1_edx & 1 << 27 != 0 || leaves.basic_7_ecx & 1 << 22 != 0,
        rdpru: leaves.extended_8_ebx & 1 << 4 != 0,
        address_bits: leaves.extended_8_eax & 0xff,
        tcg: leaves.hypervisor == TCG,
    })
}

/// What all CPUs share.
pub(super) struct Host {
    pub caps: Caps,
    pub msrpm: Hpa,
}

static HOST: Once<Host> = Once::new();

/// What the first [`enable`] made; `None` before.
pub(super) fn host() -> Option<&'static Host> {
    HOST.get()
}

/// Pages and data of one CPU. VM_HSAVE_PA leads to it: the register is the CPU's own pointer.
#[derive(FromZeros)]
#[repr(C, align(4096))]
pub(super) struct Cpu {
    /// Written and read by VMRUN and #VMEXIT, in a format of their own.
    save_area: [u8; 4096],
    /// The host's FS, GS, TR, LDTR and the MSRs that VMSAVE stores, for VMLOAD after each exit.
    state: [u8; 4096],
    /// ASIDs of this CPU.
    pub asids: AsidPool,
    /// What is in TSC_RATIO, where that exists.
    tsc_ratio: u64,
}

impl Cpu {
    /// Of the CPU that this runs on, if enabled. Reached by that CPU only, with interrupts off.
    pub fn current() -> Option<NonNull<Cpu>> {
        // SAFETY: the register exists on every CPU with AMD-V, where alone this is called.
        match unsafe { Msr::new(VM_HSAVE_PA).read() } {
            0 => None,
            hpa => NonNull::new(phys::ptr(Hpa(hpa)).cast()),
        }
    }

    /// Scale the TSC of guests from now on: the host's stays as it is. Only where the register exists.
    pub fn set_tsc_ratio(&mut self, ratio: u64) {
        if self.tsc_ratio != ratio {
            self.tsc_ratio = ratio;
            // SAFETY: the register exists, and the reserved bits are clear: see `tsc_ratio`.
            unsafe { Msr::new(TSC_RATIO).write(ratio) };
        }
    }

    /// Physical address of [`Cpu::state`], for a `Cpu` at `cpu`.
    pub fn state(cpu: Hpa) -> Hpa {
        cpu.offset(core::mem::offset_of!(Cpu, state) as u64)
    }

    /// Physical address of the `Cpu` that this runs on.
    pub fn current_hpa() -> Hpa {
        // SAFETY: as in `current`.
        Hpa(unsafe { Msr::new(VM_HSAVE_PA).read() })
    }
}

/// Switch AMD-V on for this CPU, for good. Once on every CPU, when its GDT, TR, FS and GS are what they will stay: they are recorded
/// here, and put back after every exit.
///
/// # Errors
/// No memory, or the CPU refuses.
pub fn enable(caps: &Caps) -> Result<(), EnableError> {
    if probe().as_ref() != Ok(caps) {
        return Err(EnableError::Refused(
            "this CPU's AMD-V features differ from the boot CPU's",
        ));
    }
    let mut cpu = Owned::<Cpu>::zeroed()?;
    cpu.asids = AsidPool::new(caps.asids - 1);
    if caps.tsc_ratio {
        cpu.set_tsc_ratio(TSC_RATIO_ONE);
    }
    share(caps)?;
    fpu::init();
    let cpu = cpu.leak();
    // SAFETY: the CPU has AMD-V; the pages are never freed, and nothing else uses the save area. VMSAVE writes
    // FS, GS, TR, LDTR and MSRs into the page of `state`.
    unsafe {
        Efer::update(|efer| efer.insert(EferFlags::SECURE_VIRTUAL_MACHINE_ENABLE));
        Msr::new(VM_HSAVE_PA).write(cpu.0);
        asm!("vmsave rax", in("rax") Cpu::state(cpu).0, options(nostack, preserves_flags));
    }
    Ok(())
}

/// Switch AMD-V off again, if it is on.
pub fn disable() {
    if Efer::read().contains(EferFlags::SECURE_VIRTUAL_MACHINE_ENABLE) {
        // SAFETY: AMD-V is on, and this CPU enters no guest any more. GIF is set first, as it cannot be later.
        unsafe {
            asm!("stgi", options(nostack, nomem));
            Efer::update(|efer| efer.remove(EferFlags::SECURE_VIRTUAL_MACHINE_ENABLE));
        }
    }
}

/// Make what all CPUs share, if this is the first.
fn share(caps: &Caps) -> Result<(), EnableError> {
    if HOST.get().is_some() {
        return Ok(());
    }
    let mut msrpm = Owned::<Msrpm>::zeroed()?;
    // Virtualized, the guest's value is never on the CPU while the host runs (and the host's counts in the guest as
    // well). Otherwise each write exits, and the value is known.
    let spec_ctrl = caps
        .virtual_spec_ctrl
        .then_some((msr::SPEC_CTRL, Direct::ReadWrite));
    msrpm.fill(speculation::commands().into_iter().chain(spec_ctrl));
    HOST.call_once(|| Host {
        caps: *caps,
        msrpm: msrpm.leak(),
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// QEMU TCG, EPYC-Milan-v2: nested paging and nothing else.
    const LEAST: Leaves = Leaves {
        extended_1_ecx: 1 << 2,
        extended_1_edx: 1 << 27,
        basic_7_ecx: 0,
        svm_ebx: 16,
        svm_edx: 1,
        extended_8_eax: 0x3028,
        extended_8_ebx: 0,
        vm_cr: 0,
        hypervisor: TCG,
    };

    #[test]
    fn ratios_of_the_tsc() {
        use crate::arch::TSC_MULTIPLIER_ONE;
        assert_eq!(tsc_ratio(TSC_MULTIPLIER_ONE), TSC_RATIO_ONE);
        assert_eq!(tsc_ratio(TSC_MULTIPLIER_ONE / 2), 0x8000_0000);
        assert_eq!(tsc_ratio(TSC_MULTIPLIER_ONE * 255), 255 << 32);
        assert_eq!(tsc_ratio(u64::MAX), 0xff_ffff_ffff);
    }

    #[test]
    fn least_machine() {
        let caps = decide(&LEAST).unwrap();
        assert_eq!((caps.asids, caps.address_bits, caps.tsc_aux), (16, 40, true));
        assert!(!caps.next_rip && !caps.flush_by_asid && !caps.clean_bits && !caps.pause_filter);
    }

    #[test]
    fn what_is_missing_is_named() {
        let refusal = |leaves| decide(&leaves).unwrap_err().0;
        assert!(
            refusal(Leaves {
                extended_1_ecx: 0,
                ..LEAST
            })
            .contains("no AMD-V")
        );
        assert!(refusal(Leaves { vm_cr: 0x18, ..LEAST }).contains("switched off by the firmware"));
        assert!(
            refusal(Leaves {
                svm_edx: 0x48,
                ..LEAST
            })
            .contains("nested paging")
        );
        assert!(refusal(Leaves { svm_ebx: 1, ..LEAST }).contains("identifier"));
    }

    #[test]
    fn features_at_their_bits() {
        let caps = decide(&Leaves {
            svm_edx: 1 << 3 | 1 << 6 | 1 << 10 | 1,
            ..LEAST
        })
        .unwrap();
        assert!(caps.next_rip && caps.flush_by_asid && caps.pause_filter);
        assert_eq!(
            std::format!("{caps}"),
            std::format!(
                "NPT, {} ASIDs, next-RIP saving, flush by ASID, pause filter, interrupts by V_IRQ (TCG)",
                LEAST.svm_ebx
            )
        );
        let elsewhere = decide(&Leaves {
            hypervisor: [0; 3],
            ..LEAST
        });
        assert!(caps.tcg && !elsewhere.unwrap().tcg);
        assert!(!caps.pause_threshold && !caps.clean_bits && !caps.virtual_spec_ctrl);
    }
}
