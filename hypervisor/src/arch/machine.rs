//! The back end of this machine: probed once, enabled on each CPU.

use core::fmt;

use super::{
    EnableError, GuestCpu, NestedFormat, OutOfMemory, TSC_MULTIPLIER_POINT, Unsupported, VcpuConfig, floor,
    speculation, svm, vmx,
};
use crate::mm::p2m::Pages;
use crate::sync::Once;
use crate::types::Mfn;

#[derive(Clone, Copy, Debug)]
enum Machine {
    Svm(svm::Caps),
    Vmx(vmx::Caps),
}

static MACHINE: Once<Machine> = Once::new();
/// Do guests execute from small pages only?
static SMALL_CODE: Once<bool> = Once::new();

/// Is the CPU one of AMD's (or Hygon's), by its vendor string? It decides which back end there can be, and how guests make hypercalls.
pub fn is_amd() -> bool {
    is_amd_vendor(raw_cpuid::native_cpuid::cpuid_count(0, 0).ecx)
}

/// Family and model of a CPU by its signature, CPUID 1, EAX (SDM 2A; APM vol. 3).
pub fn family_and_model(signature: u32) -> (u32, u32) {
    let (family, model) = (signature >> 8 & 0xf, signature >> 4 & 0xf);
    let extended = signature >> 12 & 0xf0 | model;
    match family {
        0xf => (family + (signature >> 20 & 0xff), extended),
        6 => (family, extended),
        _ => (family, model),
    }
}

/// Bits of physical addresses (CPUID 8000_0008, EAX).
pub fn address_bits() -> u32 {
    raw_cpuid::native_cpuid::cpuid_count(0x8000_0008, 0).eax & 0xff
}

/// As [`is_amd`], of the end of a vendor string (CPUID 0, ECX).
pub fn is_amd_vendor(end: u32) -> bool {
    [*b"cAMD", *b"uine"].map(u32::from_le_bytes).contains(&end)
}

/// Find out what this machine can. With `apicv` its hardware sees to guests' local APICs, if it can. `large_code`: may guests execute from large pages;
/// `None`: where that is no danger.
///
/// # Errors
/// A sentence that names the capability which is missing.
pub fn probe(apicv: bool, large_code: Option<bool>) -> Result<(), Unsupported> {
    let machine = if is_amd() {
        Machine::Svm(svm::probe()?)
    } else {
        Machine::Vmx(vmx::probe(apicv)?)
    };
    let small_code = match machine {
        Machine::Svm(_) => false,
        Machine::Vmx(_) => !large_code.unwrap_or_else(|| !vmx::multihit_affects()),
    };
    SMALL_CODE.call_once(|| small_code);
    MACHINE.call_once(|| machine);
    Ok(())
}

/// Switch virtualization on, on this CPU, and the defences that stay on. After [`probe`] and [`speculation::init`].
///
/// # Errors
/// See [`EnableError`].
pub fn enable() -> Result<(), EnableError> {
    speculation::enable();
    match MACHINE.get() {
        Some(Machine::Svm(caps)) => svm::enable(caps),
        Some(Machine::Vmx(caps)) => vmx::enable(caps),
        None => Err(EnableError::Refused("virtualization was not probed")),
    }
}

/// Switch virtualization off on this CPU, which runs no more guests: an INIT, by which some ways of resetting a machine begin, does not come through to
/// a CPU in VMX operation (SDM 3C, 24.8), nor past a global interrupt flag that is clear (APM vol. 2, 15.17).
pub fn disable() {
    match MACHINE.get() {
        Some(Machine::Svm(_)) => svm::disable(),
        Some(Machine::Vmx(_)) => vmx::disable(),
        None => {}
    }
}

/// Let interrupts of the host in that are pending: their handlers have run on return, and interrupts are off again.
#[inline(always)]
pub fn take_host_interrupts() {
    #[cfg(target_os = "none")]
    {
        // With the NOP behind STI, after which STI takes effect.
        x86_64::instructions::interrupts::enable();
        x86_64::instructions::interrupts::disable();
    }
}

/// A machine check came while a guest ran, of which the IDT does not learn.
pub fn machine_check() -> ! {
    #[cfg(target_os = "none")]
    crate::hw::traps::machine_check();
    #[cfg(not(target_os = "none"))]
    panic!("machine check");
}

/// Format of the machine's nested page tables.
pub fn nested_format() -> NestedFormat {
    match MACHINE.get() {
        Some(Machine::Vmx(_)) => NestedFormat::Ept,
        _ => NestedFormat::Npt,
    }
}

/// What pages nested page tables may have: all machines can have those of 2 MiB, not all those of 1 GiB.
pub fn pages() -> Pages {
    let has_1g = match MACHINE.get() {
        Some(Machine::Vmx(caps)) => caps.pages_1g,
        // Page1GB, of nested tables as of others (APM vol. 2, 15.25.5).
        _ => raw_cpuid::cpuid!(0x8000_0001).edx & 1 << 26 != 0,
    };
    Pages {
        largest: if has_1g { 18 } else { 9 },
        small_code: SMALL_CODE.get().copied().unwrap_or(false),
    }
}

/// The frame to map in guests where the hardware virtualizes accesses to an xAPIC; `None`: it does not.
pub fn apic_access_page() -> Option<Mfn> {
    vmx::apic_access_page().map(|page| page.frame())
}

/// Does the hardware virtualize guests' local APICs, in xAPIC and in x2APIC mode?
pub fn virtualizes_apic() -> bool {
    vmx::apic_access_page().is_some()
}

/// How many bits behind the point the hardware takes of [`GuestCpu::set_tsc_multiplier`]; `None`: it does not scale guests' TSCs.
pub fn tsc_scaling() -> Option<u32> {
    match MACHINE.get()? {
        Machine::Svm(caps) => caps.tsc_ratio.then_some(svm::TSC_RATIO_POINT),
        Machine::Vmx(caps) => caps.scales_tsc().then_some(TSC_MULTIPLIER_POINT),
    }
}

/// What the machine has of its vendor's extensions, for the boot log. After [`probe`].
pub fn describe() -> impl fmt::Display {
    fmt::from_fn(|f| match MACHINE.get() {
        Some(Machine::Svm(caps)) => write!(f, "AMD-V: {caps}"),
        Some(Machine::Vmx(caps)) if pages().small_code => write!(f, "VT-x: {caps}, code in 4K pages"),
        Some(Machine::Vmx(caps)) => write!(f, "VT-x: {caps}"),
        None => Ok(()),
    })
}

/// What an exit and entry cost at the least on this machine, in TSC ticks: bare world switches where the back end has
/// them apart, and by the interface that all exits go through. With interrupts off, after [`enable`].
///
/// # Errors
/// See [`floor::Failure`].
pub fn floor() -> Result<(Option<u64>, u64), floor::Failure> {
    const VMCALL: [u8; 3] = [0x0f, 0x01, 0xc1];
    const VMMCALL: [u8; 3] = [0x0f, 0x01, 0xd9];
    let format = nested_format();
    match format {
        NestedFormat::Ept => {
            let bare = floor::measure(vmx::Vcpu::new, format, VMCALL, vmx::bare_round_trips)?;
            let ours = floor::measure(vmx::Vcpu::new, format, VMCALL, floor::by_interface)?;
            Ok((Some(bare), ours))
        }
        NestedFormat::Npt => {
            let ours = floor::measure(svm::Vcpu::new, format, VMMCALL, floor::by_interface)?;
            Ok((None, ours))
        }
    }
}

/// A control block of the vendor that this machine has: a closed set, matched once per period of running.
#[expect(missing_docs, reason = "the vendors' names")]
pub enum Vcpu {
    Svm(svm::Vcpu),
    Vmx(vmx::Vcpu),
    #[cfg(test)]
    Fake(super::fake::Vcpu),
}

impl Vcpu {
    /// A new one, in the state after reset.
    ///
    /// # Errors
    /// No memory for it.
    pub fn new(config: &VcpuConfig) -> Result<Vcpu, OutOfMemory> {
        match MACHINE.get() {
            #[cfg(test)]
            None => Ok(Vcpu::Fake(super::fake::Vcpu::new())),
            #[cfg(not(test))]
            None => Err(OutOfMemory),
            Some(Machine::Svm(_)) => svm::Vcpu::new(config).map(Vcpu::Svm),
            Some(Machine::Vmx(_)) => vmx::Vcpu::new(config).map(Vcpu::Vmx),
        }
    }

    /// The vendor-neutral view.
    pub fn as_dyn(&mut self) -> &mut dyn GuestCpu {
        match self {
            Vcpu::Svm(cpu) => cpu,
            Vcpu::Vmx(cpu) => cpu,
            #[cfg(test)]
            Vcpu::Fake(cpu) => cpu,
        }
    }
}
