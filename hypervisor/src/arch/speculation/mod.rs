//! The hypervisor's own defences against attacks by speculation: which of them a CPU needs ([`policy`]), and doing them.
//!
//! None costs the way from an exit to the next entry anything on a CPU that does not need it: IBRS is set once where
//! CPUs want it to stay set, IBPB is for a change of vCPUs, and L1D is flushed by [`super::vmx`] as it enters. What has
//! to be done at every exit or entry is done by the world switches ([`precautions`]).
// UNSAFETY: RDMSR and WRMSR.
#![expect(unsafe_code, reason = "RDMSR and WRMSR")]

pub mod bits;
mod policy;
pub mod precautions;

use core::fmt;

use arrayvec::ArrayVec;
use x86_64::registers::model_specific::Msr;

use super::machine::{family_and_model, is_amd};
use super::msr_policy::{Direct, msr};
use super::try_msr;
use crate::sync::Once;
use bits::{BP_CFG, BP_SPEC_REDUCE, EFER_AUTO_IBRS, PRED_CMD_IBPB, PRED_CMD_SBPB, leaf_7};
use policy::{Cpu, Maker};
pub use policy::{Defences, Wish};
pub use precautions::{Actions, Precautions};

impl Cpu {
    fn this() -> Cpu {
        const HYPERVISOR: u32 = 1 << 31;
        const RTM: u32 = 1 << 11;
        let amd = is_amd();
        let [signature, _, leaf_1, _] = cpuid(0, 1, 0);
        let [highest, features, _, leaf_7] = cpuid(0, 7, 0);
        let more = if highest >= 2 { cpuid(0, 7, 2)[3] } else { 0 };
        let extended_8 = cpuid(0x8000_0000, 0x8000_0008, 0)[1];
        let [extended_21, _, no_tsa, _] = cpuid(0x8000_0000, 0x8000_0021, 0);
        let has_capabilities = !amd && leaf_7 & leaf_7::ARCH_CAPABILITIES != 0;
        let (family, model) = family_and_model(signature);
        let of = |is: bool, word: u32| if is { word } else { 0 };
        let cpu = Cpu {
            maker: if amd {
                Maker::Amd { family }
            } else {
                Maker::Intel { family, model }
            },
            is_virtual: leaf_1 & HYPERVISOR != 0,
            // ThreadsPerCore, less one (APM vol. 3, appendix E.4.14).
            has_threads: amd && cpuid(0x8000_0000, 0x8000_001e, 0)[1] >> 8 & 0xff != 0,
            leaf_7_edx: of(!amd, leaf_7),
            leaf_7_2_edx: of(!amd, more),
            rtm: features & RTM != 0,
            extended_8_ebx: of(amd, extended_8),
            extended_21_eax: of(amd, extended_21),
            extended_21_ecx: of(amd, no_tsa),
            capabilities: if has_capabilities {
                // SAFETY: CPUID says that the register exists; it is read-only.
                unsafe { Msr::new(msr::ARCH_CAPABILITIES).read() }
            } else {
                0
            },
        };
        // SAFETY: to forget branch predictions only costs time.
        cpu.completed(|| unsafe { try_msr::write(msr::PRED_CMD, PRED_CMD_SBPB) })
    }
}

/// Leaf `leaf`, subleaf `subleaf`, zero if the leaf is beyond what leaf `first` says.
fn cpuid(first: u32, leaf: u32, subleaf: u32) -> [u32; 4] {
    if raw_cpuid::cpuid!(first).eax < leaf {
        return [0; 4];
    }
    let found = raw_cpuid::cpuid!(leaf, subleaf);
    [found.eax, found.ebx, found.ecx, found.edx]
}

#[derive(Debug)]
struct Host {
    cpu: Cpu,
    used: Defences,
    spec_ctrl: u32,
    actions: Actions,
}

static HOST: Once<Host> = Once::new();

/// Decide for this machine. Once, before the first [`enable`], when the host's exception handlers are there. Gives what
/// to say of it.
pub fn init(wish: Wish) -> impl fmt::Display {
    let host = HOST.call_once(|| {
        let cpu = Cpu::this();
        let used = cpu.used(wish);
        Host {
            cpu,
            used,
            spec_ctrl: Cpu::spec_ctrl(used),
            actions: cpu.actions(used),
        }
    });
    let exposed = host.cpu.exposed(host.used);
    fmt::from_fn(move |f| {
        write!(f, "{}", host.used)?;
        if exposed.is_empty() {
            return Ok(());
        }
        write!(f, "; vulnerable: {exposed}")
    })
}

/// What [`init`] decided.
pub fn used() -> Defences {
    HOST.get().map_or(Defences::empty(), |host| host.used)
}

/// IA32_ARCH_CAPABILITIES of this machine; 0 where the CPU has none.
pub fn capabilities() -> u64 {
    HOST.get().map_or(0, |host| host.cpu.capabilities)
}

/// CPUID 8000_0008, EBX, and 8000_0021, EAX: the bits about speculation that are true of this machine, though its CPU
/// may be older than they are.
pub fn extended_words() -> [u32; 2] {
    let cpu = HOST.get().map(|host| &host.cpu);
    cpu.map_or([0; 2], |cpu| [cpu.extended_8_ebx, cpu.extended_21_eax])
}

impl Precautions {
    /// Those for any guest.
    pub fn of_any_guest() -> Precautions {
        let host = HOST.get();
        Precautions {
            actions: host.map_or(Actions::empty(), |host| host.actions),
            hosts: host.map_or(0, |host| host.spec_ctrl),
            guests: 0,
        }
    }
}

/// The registers of this machine that are commands and not state, so that guests may write them without an exit: their
/// kernels flush branch predictions on context switches, and L1D before they run what they do not trust.
pub fn commands() -> ArrayVec<(u32, Direct), 2> {
    let has = |test: fn(&Cpu) -> bool| HOST.get().is_some_and(|host| test(&host.cpu));
    [
        (has(Cpu::has_ibpb), msr::PRED_CMD),
        (has(Cpu::has_l1d_flush), msr::FLUSH_CMD),
    ]
    .into_iter()
    .filter_map(|(has, msr)| has.then_some((msr, Direct::WriteOnly)))
    .collect()
}

/// Begin on this CPU.
pub fn enable() {
    let Some(host) = HOST.get() else { return };
    if host.cpu.has_spec_ctrl() {
        // SAFETY: the register exists, and takes the bits that are used.
        unsafe { Msr::new(msr::SPEC_CTRL).write(host.spec_ctrl.into()) };
    }
    if host.used.contains(Defences::AUTO_IBRS) {
        let mut efer = Msr::new(msr::EFER);
        // SAFETY: CPUID says that EFER has the bit. A #VMEXIT brings the host's EFER back from where VMRUN saved it
        // (APM vol. 2, 15.5.1); guests' is in the VMCB, and has no such bit.
        unsafe { efer.write(efer.read() | EFER_AUTO_IBRS) };
    }
    if host.used.contains(Defences::SPEC_REDUCE) {
        // SAFETY: CPUID says that the register has the bit, which only costs time.
        unsafe { try_msr::change(BP_CFG, 0, BP_SPEC_REDUCE) };
    }
}

/// Another vCPU comes to this CPU: what the one before has taught the branch predictors is not for it.
pub fn forget_branches() {
    if used().contains(Defences::IBPB) {
        // SAFETY: a command that the CPU has, and that only costs time.
        unsafe { Msr::new(msr::PRED_CMD).write(PRED_CMD_IBPB) };
    }
}
