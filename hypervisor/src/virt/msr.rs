//! RDMSR, WRMSR, XSETBV and control registers that exit. Default deny: what is not listed raises #GP, unless the domain was made with
//! XEN_X86_MSR_RELAXED: then it reads as 0, and takes what is written.

use iced_x86::{Code, Instruction, OpKind, Register};
use zerocopy::IntoBytes;

use super::decode::MovToCr;
use super::emulate::Registers;
use super::{Running, control, decode, lapic, mmio, time};
use crate::arch::fpu;
use crate::arch::machine::is_amd;
use crate::arch::msr_policy::msr as number;
use crate::arch::speculation;
use crate::arch::{CpuMode, Event, GuestCpu, Paging, SysReg};
use crate::hw;
use crate::mm::guest::{self, GuestVirt};
use crate::types::{Gpa, Gva, PAGE_SIZE};

/// The register through which a guest asks for a page of hypercall stubs.
pub const HYPERCALL_PAGE: u32 = abi::cpuid::XEN_HYPERCALL_MSR;

const TSC: u32 = 0x10;
const PLATFORM_ID: u32 = 0x17;
const APIC_BASE: u32 = 0x1b;
const FEATURE_CONTROL: u32 = 0x3a;
const TSC_ADJUST: u32 = 0x3b;
const UCODE_REV: u32 = 0x8b;
const PLATFORM_INFO: u32 = 0xce;
const MTRR_CAP: u32 = 0xfe;
const MISC_FEATURES_ENABLES: u32 = 0x140;
const MCG_CAP: u32 = 0x179;
const MCG_STATUS: u32 = 0x17a;
const MISC_ENABLE: u32 = 0x1a0;
const DEBUGCTL: u32 = 0x1d9;
const MTRR_VARIABLE: u32 = 0x200;
const MTRR_VARIABLE_END: u32 = 0x210;
const MC0_CTL2: u32 = 0x280;
const MC1_CTL2: u32 = 0x281;
const MTRR_DEFAULT: u32 = 0x2ff;
const MC0_CTL: u32 = 0x400;
const MC_END: u32 = 0x408;
const TSC_DEADLINE: u32 = 0x6e0;
const X2APIC: u32 = 0x800;
const X2APIC_END: u32 = 0x900;
const XSS: u32 = 0xda0;
const AMD_SYSCFG: u32 = 0xc001_0010;
const AMD_HWCR: u32 = 0xc001_0015;
const AMD_NB_CFG: u32 = 0xc001_001f;
const AMD_INT_PENDING: u32 = 0xc001_0055;
const AMD_VM_CR: u32 = 0xc001_0114;
const AMD_DC_CFG: u32 = 0xc001_1022;
const AMD_DE_CFG: u32 = 0xc001_1029;

/// Fixed-range MTRRs: one of 64 KiB, two of 16 KiB, eight of 4 KiB ranges.
const MTRR_FIXED: [u32; 11] = [
    0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f,
];

/// Registers of a vCPU that nothing but RDMSR and WRMSR looks at. MTRRs among them: memory types come from the nested page tables and PAT.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Msrs {
    /// IA32_MTRR_DEF_TYPE.
    pub mtrr_default: u64,
    /// Fixed-range MTRRs in ascending order of their addresses.
    pub mtrr_fixed: [u64; MTRR_FIXED.len()],
    /// Variable-range MTRRs: base and mask of each.
    pub mtrr_variable: [u64; (MTRR_VARIABLE_END - MTRR_VARIABLE) as usize],
    tsc_adjust: u64,
    misc_features: u64,
}

/// Eight variable ranges, fixed ranges, write-combining: what Xen says.
pub const MTRR_CAP_VALUE: u64 = 0x508;
/// Of MISC_FEATURES_ENABLES; and that there is this bit, of PLATFORM_INFO.
const CPUID_FAULTING: u64 = 1 << 0;
const HAS_CPUID_FAULTING: u64 = 1 << 31;
const MTRR_ENABLED: u64 = 1 << 11;
const WRITE_BACK: u64 = 6;

impl Msrs {
    /// As a PVH guest finds them: MTRRs on, everything write-back.
    pub fn new() -> Self {
        Self {
            mtrr_default: MTRR_ENABLED | WRITE_BACK,
            mtrr_fixed: [u64::from_le_bytes([WRITE_BACK as u8; 8]); MTRR_FIXED.len()],
            mtrr_variable: [0; (MTRR_VARIABLE_END - MTRR_VARIABLE) as usize],
            tsc_adjust: 0,
            misc_features: 0,
        }
    }

    /// Does CPUID fault in user mode?
    #[inline]
    pub fn cpuid_faults(&self) -> bool {
        self.misc_features & CPUID_FAULTING != 0
    }
}

impl Default for Msrs {
    fn default() -> Self {
        Self::new()
    }
}

/// RDMSR.
///
/// # Errors
/// #GP: no such register.
pub fn read(running: &mut Running<'_, dyn GuestCpu>) -> Result<(), Event> {
    require_ring_0(running)?;
    let msr = running.cpu.gprs().rcx as u32;
    let value = value_of(running, msr).ok_or_else(|| {
        log::debug!(
            "d{}v{} RDMSR {msr:#x} unimplemented",
            running.vcpu.domid.0,
            running.vcpu.id.0
        );
        Event::GP0
    })?;
    let regs = running.cpu.gprs();
    regs.rax = value & 0xffff_ffff;
    regs.rdx = value >> 32;
    Ok(())
}

/// WRMSR.
///
/// # Errors
/// #GP: no such register, or a value that it does not take.
pub fn write(running: &mut Running<'_, dyn GuestCpu>) -> Result<(), Event> {
    require_ring_0(running)?;
    let regs = running.cpu.gprs();
    let (msr, value) = (regs.rcx as u32, regs.rdx << 32 | regs.rax & 0xffff_ffff);
    set(running, msr, value).ok_or_else(|| {
        log::debug!(
            "d{}v{} WRMSR {msr:#x} <- {value:#x} refused",
            running.vcpu.domid.0,
            running.vcpu.id.0
        );
        Event::GP0
    })
}

fn require_ring_0(running: &Running<'_, dyn GuestCpu>) -> Result<(), Event> {
    if running.cpu.cpl() == 0 {
        Ok(())
    } else {
        Err(Event::GP0)
    }
}

fn value_of(running: &mut Running<'_, dyn GuestCpu>, msr: u32) -> Option<u64> {
    let msrs = &*running.msrs;
    Some(match msr {
        APIC_BASE => running.lapic.base_msr(),
        number::EFER => running.cpu.read(SysReg::Efer),
        TSC => time::guest_tsc(running.vcpu),
        TSC_ADJUST => msrs.tsc_adjust,
        TSC_DEADLINE => lapic::tsc_deadline(running.lapic),
        X2APIC..X2APIC_END => lapic::rdmsr(running, msr).ok()?,
        number::PAT => running.cpu.read(SysReg::Pat),
        number::SPEC_CTRL if running.policy.speculation().spec_ctrl().is_some() => {
            running.cpu.read(SysReg::SpecCtrl)
        }
        // Those of features that are not shown fault in any case.
        number::SPEC_CTRL | number::PRED_CMD | number::FLUSH_CMD => return None,
        number::ARCH_CAPABILITIES => {
            let host = speculation::capabilities();
            running.policy.speculation().capabilities(host)?
        }
        MTRR_CAP => MTRR_CAP_VALUE,
        MTRR_DEFAULT => msrs.mtrr_default,
        MTRR_VARIABLE..MTRR_VARIABLE_END => *msrs.mtrr_variable.get((msr - MTRR_VARIABLE) as usize)?,
        MISC_FEATURES_ENABLES => msrs.misc_features,
        // Two banks and software error recovery, none of which ever reports anything (Xen's vMCE).
        MCG_CAP => 1 << 24 | 2,
        MC0_CTL..MC_END => 0,
        MCG_STATUS | MC0_CTL2 | MC1_CTL2 => 0,
        // Locked, nothing enabled: Windows reads it unasked.
        FEATURE_CONTROL if !is_amd() => 1,
        // Fast strings; no branch trace store, no PEBS.
        MISC_ENABLE if !is_amd() => 1 << 0 | 1 << 11 | 1 << 12,
        PLATFORM_ID if !is_amd() => 0,
        // On AMD, too, as Xen: it takes an exit of CPUID and nothing more.
        PLATFORM_INFO => HAS_CPUID_FAULTING,
        UCODE_REV | DEBUGCTL | XSS | HYPERCALL_PAGE => 0,
        AMD_SYSCFG | AMD_HWCR | AMD_NB_CFG | AMD_INT_PENDING | AMD_VM_CR | AMD_DC_CFG if is_amd() => 0,
        // LFENCE is serializing.
        AMD_DE_CFG if is_amd() => 1 << 1,
        _ => {
            if let Some(range) = MTRR_FIXED.iter().position(|&fixed| fixed == msr) {
                return msrs.mtrr_fixed.get(range).copied();
            }
            match direct(msr) {
                Some(register) => running.cpu.read(register),
                None => running.domain.config.relaxed_msrs.then_some(0)?,
            }
        }
    })
}

/// Registers that guests normally reach without an exit (the policy of `arch::msr_policy`), for machines where one exits after all.
fn direct(msr: u32) -> Option<SysReg> {
    Some(match msr {
        number::SYSENTER_CS => SysReg::SysenterCs,
        number::SYSENTER_ESP => SysReg::SysenterEsp,
        number::SYSENTER_EIP => SysReg::SysenterEip,
        number::STAR => SysReg::Star,
        number::LSTAR => SysReg::Lstar,
        number::CSTAR => SysReg::Cstar,
        number::SFMASK => SysReg::Sfmask,
        number::KERNEL_GS_BASE => SysReg::KernelGsBase,
        number::TSC_AUX => SysReg::TscAux,
        _ => return None,
    })
}

fn set(running: &mut Running<'_, dyn GuestCpu>, msr: u32, value: u64) -> Option<()> {
    let msrs = &mut *running.msrs;
    match msr {
        APIC_BASE => lapic::write_base(running, value).ok()?,
        number::EFER => write_efer(running, value)?,
        TSC => {
            move_tsc(running, value, hw::time::tsc());
        }
        TSC_ADJUST => {
            let delta = value.wrapping_sub(msrs.tsc_adjust);
            let now = hw::time::tsc();
            running.msrs.tsc_adjust = value;
            move_tsc(running, running.vcpu.tsc.at(now).wrapping_add(delta), now);
        }
        TSC_DEADLINE => lapic::set_tsc_deadline(running, value),
        X2APIC..X2APIC_END => lapic::wrmsr(running, msr, value).ok()?,
        number::PAT => {
            // Each byte a memory type: not 2, 3 or above 7 (SDM 3A, 12.12.2).
            value
                .to_le_bytes()
                .iter()
                .all(|kind| matches!(kind, 0 | 1 | 4..=7))
                .then_some(())?;
            running.cpu.write(SysReg::Pat, value);
        }
        number::SPEC_CTRL => {
            let bits = running.policy.speculation().spec_ctrl()?;
            (value & !bits == 0).then_some(())?;
            // To write what is there anyway is not to use it.
            if value != running.cpu.read(SysReg::SpecCtrl) {
                running.cpu.write(SysReg::SpecCtrl, value);
            }
        }
        // They do not exit where the guest has them.
        number::PRED_CMD | number::FLUSH_CMD | number::ARCH_CAPABILITIES | PLATFORM_INFO => return None,
        MTRR_DEFAULT => {
            (value & !0xcff == 0).then_some(())?;
            msrs.mtrr_default = value;
        }
        MTRR_VARIABLE..MTRR_VARIABLE_END => {
            *msrs.mtrr_variable.get_mut((msr - MTRR_VARIABLE) as usize)? = value
        }
        MISC_FEATURES_ENABLES => {
            (value & !CPUID_FAULTING == 0).then_some(())?;
            msrs.misc_features = value;
        }
        XSS => (value == 0).then_some(())?,
        DEBUGCTL => (value & !3 == 0).then_some(())?,
        MCG_STATUS | MC0_CTL2 | MC1_CTL2 | MC0_CTL..MC_END | UCODE_REV | MISC_ENABLE => {}
        AMD_HWCR | AMD_NB_CFG | AMD_SYSCFG | AMD_DC_CFG | AMD_DE_CFG | AMD_INT_PENDING if is_amd() => {}
        HYPERCALL_PAGE => write_hypercall_page(running, value)?,
        _ => {
            if let Some(range) = MTRR_FIXED.iter().position(|&fixed| fixed == msr) {
                *msrs.mtrr_fixed.get_mut(range)? = value;
            } else {
                let Some(register) = direct(msr) else {
                    return running.domain.config.relaxed_msrs.then_some(());
                };
                control::valid_switched(register, value).then_some(())?;
                running.cpu.write(register, value);
            }
        }
    }
    Some(())
}

/// The guest's TSC reads `value` when the machine's reads `host`.
fn move_tsc(running: &mut Running<'_, dyn GuestCpu>, value: u64, host: u64) {
    running.cpu.set_tsc_offset(running.vcpu.tsc.set(value, host));
    running.domain.publish_time(running.vcpu);
}

/// SDM 3A, 2.2.1: reserved bits, and LME fixed while paging is on.
fn write_efer(running: &mut Running<'_, dyn GuestCpu>, value: u64) -> Option<()> {
    const LME: u64 = 1 << 8;
    const LMA: u64 = 1 << 10;
    const CR0_PG: u64 = 1 << 31;
    let old = running.cpu.read(SysReg::Efer);
    control::valid_efer(value).then_some(())?;
    if (value ^ old) & !LMA == 0 {
        return Some(());
    }
    let paging = running.cpu.read(SysReg::Cr0) & CR0_PG != 0;
    ((value ^ old) & LME == 0 || !paging).then_some(())?;
    running.cpu.write(SysReg::Efer, value & !LMA | old & LMA);
    Some(())
}

/// Fill the page that the guest names with a stub for each hypercall: load its number, call, return. Apart, for the sake of the stack that
/// it takes.
#[inline(never)]
fn write_hypercall_page(running: &mut Running<'_, dyn GuestCpu>, value: u64) -> Option<()> {
    const STUB: usize = 32;
    const IRET: usize = 23;
    const UD2: [u8; 2] = [0x0f, 0x0b];
    // The low bits are the index of the page; there is one.
    (value & (PAGE_SIZE - 1) == 0).then_some(())?;
    let call = if is_amd() { 0xd9 } else { 0xc1 };
    let mut page = [0xcc; PAGE_SIZE as usize];
    for (nr, stub) in page.chunks_exact_mut(STUB).enumerate() {
        if nr == IRET {
            stub[..2].copy_from_slice(&UD2);
        } else {
            stub[0] = 0xb8;
            stub[1..5].copy_from_slice(&(nr as u32).to_le_bytes());
            stub[5..9].copy_from_slice(&[0x0f, 0x01, call, 0xc3]);
        }
    }
    running.domain.latch_layout(running.cpu);
    guest::write_phys(&running.domain.p2m, Gpa(value), page.as_bytes()).ok()
}

/// A write to CR0, CR4 or CR8 that changes what the hypervisor owns.
///
/// # Errors
/// #GP: a combination that does not exist.
pub fn write_control_register(
    running: &mut Running<'_, dyn GuestCpu>,
    cr: u8,
    value: u64,
) -> Result<(), Event> {
    let now = running.cpu.paging();
    match cr {
        0 if control::valid_cr0(&now, running.cpu.mode(), value) => {
            read_pdptes(running, &Paging { cr0: value, ..now })?;
            running.cpu.write(SysReg::Cr0, value);
        }
        4 if control::valid_cr4(&now, running.policy.cr4_features(), value) => {
            read_pdptes(running, &Paging { cr4: value, ..now })?;
            running.cpu.write(SysReg::Cr4, value);
        }
        8 if value <= 15 => {
            running.cpu.write(SysReg::Cr8, value);
            running.vcpu.request(crate::domain::vcpu::Request::INTERRUPT);
        }
        _ => {
            let (domid, vcpu) = (running.vcpu.domid, running.vcpu.id.0);
            log::debug!(
                "{domid}v{vcpu} CR{cr} <- {value:#x} refused: {:?} {now:x?}",
                running.cpu.mode()
            );
            return Err(Event::GP0);
        }
    }
    Ok(())
}

/// The first entries of PAE tables are read when their use begins (SDM 3A 4.4.1), if that is in state `next`.
///
/// # Errors
/// #GP: they are not entries, or not in memory.
fn read_pdptes(running: &mut Running<'_, dyn GuestCpu>, next: &Paging) -> Result<(), Event> {
    if !control::keeps_pdptes(next) {
        return Ok(());
    }
    let mut entries = [0u64; 4];
    let at = Gpa(next.cr3 & 0xffff_ffe0);
    guest::read_phys(&running.domain.p2m, at, entries.as_mut_bytes()).map_err(|_| Event::GP0)?;
    let bits = running.domain.config.address_bits;
    if !entries.iter().all(|&entry| control::valid_pdpte(entry, bits)) {
        return Err(Event::GP0);
    }
    running.cpu.set_pdptes(entries);
    Ok(())
}

/// A MOV to a control register.
///
/// # Errors
/// As [`write_control_register`].
pub fn mov_to_cr(running: &mut Running<'_, dyn GuestCpu>, mov: MovToCr) -> Result<(), Event> {
    let value = match running.cpu.gprs().by_number(mov.from.into()) {
        Some(register) => *register,
        None => running.cpu.read(SysReg::Rsp),
    };
    let mask = if running.cpu.mode() == CpuMode::Long {
        u64::MAX
    } else {
        u32::MAX.into()
    };
    write_control_register(running, mov.to, value & mask)
}

/// The MOV at RIP to CR0, CR4 or CR8, or the LMSW, if it is not one that [`mov_to_cr`] is for.
///
/// # Errors
/// As [`write_control_register`], and the page fault of an LMSW's operand.
pub fn control_register_instruction(running: &mut Running<'_, dyn GuestCpu>) -> Result<(), Event> {
    let registers = Registers {
        gprs: *running.cpu.gprs(),
        rsp: running.cpu.read(SysReg::Rsp),
        rflags: running.cpu.read(SysReg::Rflags),
    };
    // What the guest has changed meanwhile is not worth more than a fault.
    let (instruction, _) =
        decode::instruction(running.domain, running.walks, running.cpu).ok_or(Event::GP0)?;
    match instruction.code() {
        Code::Mov_cr_r64 | Code::Mov_cr_r32 => {
            let value = registers.get(instruction.op1_register()).ok_or(Event::UD)?;
            match instruction.op0_register() {
                Register::CR0 => write_control_register(running, 0, value),
                Register::CR4 => write_control_register(running, 4, value),
                Register::CR8 => write_control_register(running, 8, value),
                _ => Err(Event::UD),
            }
        }
        // PE, MP, EM and TS are set; PE cannot be cleared (APM vol. 3, LMSW).
        Code::Lmsw_rm16 | Code::Lmsw_r32m16 | Code::Lmsw_r64m16 => {
            let source = match instruction.op0_kind() {
                OpKind::Register => registers.get(instruction.op0_register()).ok_or(Event::UD)?,
                _ => u64::from(memory_word(running, &instruction, &registers)?),
            };
            let cr0 = running.cpu.read(SysReg::Cr0);
            write_control_register(running, 0, cr0 & !0xf | source & 0xf | cr0 & 1)
        }
        _ => Err(Event::UD),
    }
}

/// The memory operand of an instruction, two bytes.
fn memory_word(
    running: &mut Running<'_, dyn GuestCpu>,
    instruction: &Instruction,
    registers: &Registers,
) -> Result<u16, Event> {
    let cpu = &*running.cpu;
    let at = instruction
        .virtual_address(0, 0, |register, _, _| {
            if register.is_segment_register() {
                Some(mmio::segment_base(cpu, mmio::segment_reg(register)))
            } else {
                registers.get(register)
            }
        })
        .ok_or(Event::UD)?;
    let paging = running.cpu.paging();
    let mut word = [0; 2];
    GuestVirt::new(&running.domain.p2m, running.walks, paging)
        .read_bytes(Gva(at), &mut word)
        .map_err(|_| mmio::page_fault(running, Gva(at), false))?;
    Ok(u16::from_le_bytes(word))
}

/// XSETBV.
///
/// # Errors
/// #GP: a combination that does not exist, or that this guest does not have.
pub fn xsetbv(running: &mut Running<'_, dyn GuestCpu>) -> Result<(), Event> {
    require_ring_0(running)?;
    let regs = running.cpu.gprs();
    let (register, value) = (regs.rcx as u32, regs.rdx << 32 | regs.rax & 0xffff_ffff);
    if register != 0 || !fpu::valid_xcr0(value, running.policy.xcr0()) {
        return Err(Event::GP0);
    }
    running.cpu.write(SysReg::Xcr0, value);
    Ok(())
}
