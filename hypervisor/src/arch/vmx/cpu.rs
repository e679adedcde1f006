//! Whether this machine's VT-x can run guests, and switching it on for a CPU.
// UNSAFETY: MSRs and control registers that put a CPU into VMX operation.
#![expect(unsafe_code, reason = "MSRs and control registers of VMX operation")]

use x86_64::registers::control::{Cr0, Cr4, Cr4Flags};
use x86_64::registers::model_specific::Msr;

use super::caps::{Caps, Raw, VIRTUAL_APIC, feature_control};
use super::controls::{Primary, Secondary};
use super::msr_bitmap::Grants;
use super::vmcs::{vmxoff, vmxon};
use super::{Page, msr_bitmap, multihit};
use crate::arch::owned::Owned;
use crate::arch::speculation::Defences;
use crate::arch::{EnableError, OutOfMemory, Unsupported, fpu, msr_policy, speculation};
use crate::sync::Once;
use crate::types::Hpa;

/// Model-specific registers of VT-x (SDM vol. 4 table 2-2, 3D appendix A).
mod msr {
    pub const FEATURE_CONTROL: u32 = 0x3a;
    pub const BASIC: u32 = 0x480;
    pub const PIN: u32 = 0x481;
    pub const PRIMARY: u32 = 0x482;
    pub const EXIT: u32 = 0x483;
    pub const ENTRY: u32 = 0x484;
    pub const MISC: u32 = 0x485;
    pub const CR0_FIXED0: u32 = 0x486;
    pub const CR0_FIXED1: u32 = 0x487;
    pub const CR4_FIXED0: u32 = 0x488;
    pub const CR4_FIXED1: u32 = 0x489;
    pub const SECONDARY: u32 = 0x48b;
    pub const EPT_VPID: u32 = 0x48c;
    pub const TRUE_PIN: u32 = 0x48d;
    pub const TRUE_PRIMARY: u32 = 0x48e;
    pub const TRUE_EXIT: u32 = 0x48f;
    pub const TRUE_ENTRY: u32 = 0x490;
}

/// Read a register that exists on every CPU with VMX, or is announced by another.
fn read(number: u32) -> u64 {
    // SAFETY: private to this module, whose callers name only capability registers that exist; reading has no side effect.
    unsafe { Msr::new(number).read() }
}

fn raw(apicv: bool) -> Raw {
    let basic = read(msr::BASIC);
    // A.1: bit 55, the TRUE registers exist.
    let either = |plain, exact| read(if basic & (1 << 55) != 0 { exact } else { plain });
    let primary = either(msr::PRIMARY, msr::TRUE_PRIMARY);
    let allows = |capability: u64, bit: u32| (capability >> 32) as u32 & bit != 0;
    let secondary = if allows(primary, Primary::SECONDARY.bits()) {
        let allowed = read(msr::SECONDARY);
        let unwanted = if apicv { 0 } else { VIRTUAL_APIC.bits() };
        allowed & !(u64::from(unwanted) << 32)
    } else {
        0
    };
    let ept_vpid = if allows(secondary, Secondary::EPT.union(Secondary::VPID).bits()) {
        read(msr::EPT_VPID)
    } else {
        0
    };
    Raw {
        basic,
        pin: either(msr::PIN, msr::TRUE_PIN),
        primary,
        secondary,
        exit: either(msr::EXIT, msr::TRUE_EXIT),
        entry: either(msr::ENTRY, msr::TRUE_ENTRY),
        misc: read(msr::MISC),
        cr0_fixed: [read(msr::CR0_FIXED0), read(msr::CR0_FIXED1)],
        cr4_fixed: [read(msr::CR4_FIXED0), read(msr::CR4_FIXED1)],
        ept_vpid,
    }
}

/// Can this CPU run guests by VT-x, and with what; `apicv`: with virtual local APICs, if it has them.
///
/// # Errors
/// A sentence naming what is missing.
pub fn probe(apicv: bool) -> Result<Caps, Unsupported> {
    usable(raw_cpuid::cpuid!(1).ecx, || read(msr::FEATURE_CONTROL))?;
    raw(apicv).caps()
}

/// Is there VT-x, by ECX of CPUID leaf 1, and does the firmware let it be used, by the register that exists only then?
fn usable(features: u32, control: impl FnOnce() -> u64) -> Result<(), Unsupported> {
    if features & 1 << 5 == 0 {
        return Err(Unsupported("the CPU has no VT-x (VMX)"));
    }
    let control = control();
    if control & feature_control::LOCKED != 0 && control & feature_control::VMX == 0 {
        return Err(Unsupported(
            "VT-x is switched off and locked by the firmware: enable it in its setup",
        ));
    }
    Ok(())
}

/// Can instruction fetches hang this CPU ([`multihit`])? In a virtual machine no hardware walks our tables.
pub fn multihit_affects() -> bool {
    let features = raw_cpuid::cpuid!(1);
    features.ecx >> 31 == 0 && multihit::affected(features.eax, speculation::capabilities())
}

/// What all CPUs share.
pub(super) struct Host {
    pub caps: Caps,
    msr_bitmaps: [Hpa; Grants::COUNT],
    /// Loaded by each entry ([`MsrList`]), if there is something to load.
    pub entry_msrs: Option<Hpa>,
    /// The APIC-access page, which is mapped in guests and never accessed.
    pub apic_access: Hpa,
}

impl Host {
    /// The bitmap for vCPUs that have these registers.
    pub fn msr_bitmap(&self, grants: Grants) -> Hpa {
        self.msr_bitmaps[usize::from(grants.bits())]
    }
}

/// What VM entries load MSRs from (SDM 3C table 25-15): one that flushes L1D.
#[derive(zerocopy::FromZeros)]
#[repr(C, align(4096))]
struct MsrList {
    index: u32,
    reserved: u32,
    value: u64,
}

static HOST: Once<Host> = Once::new();

/// What the first [`enable`] made; `None` before.
pub(super) fn host() -> Option<&'static Host> {
    HOST.get()
}

/// The page to map in guests where accesses to an xAPIC are virtualized; `None`: they are not.
pub fn apic_access_page() -> Option<Hpa> {
    host()
        .filter(|host| host.caps.virtual_apic)
        .map(|host| host.apic_access)
}

/// Switch VT-x on for this CPU, for good. Once on every CPU.
///
/// # Errors
/// No memory, or the CPU refuses.
pub fn enable(caps: &Caps) -> Result<(), EnableError> {
    if probe(caps.virtual_apic).as_ref() != Ok(caps) {
        return Err(EnableError::Refused(
            "this CPU's VT-x differs from the boot CPU's",
        ));
    }
    share(caps)?;
    fpu::init();
    if read(msr::FEATURE_CONTROL) & feature_control::LOCKED == 0 {
        // SAFETY: the register exists and is not locked; this allows VMXON and nothing else.
        unsafe {
            Msr::new(msr::FEATURE_CONTROL).write(feature_control::LOCKED | feature_control::VMX);
        }
    }
    let region = vmcs_page(caps)?;
    let fix = |value: u64, [must, may]: [u64; 2]| (value | must) & may;
    // SAFETY: only adds what VMX operation demands (24.8): CR0.NE and CR4.VMXE beyond what the hypervisor has set itself; bits that may
    // not be set do not exist on this CPU. The region has the revision and is never freed.
    let entered = unsafe {
        Cr0::write_raw(fix(Cr0::read_raw(), caps.cr0_fixed));
        Cr4::write_raw(fix(Cr4::read_raw(), caps.cr4_fixed));
        vmxon(region.hpa())
    };
    if entered.is_err() {
        // SAFETY: this CPU is not in VMX operation, which the bit tells `disable`.
        unsafe { Cr4::update(|cr4| cr4.remove(Cr4Flags::VIRTUAL_MACHINE_EXTENSIONS)) };
        return Err(EnableError::Refused("VMXON failed"));
    }
    region.leak();
    Ok(())
}

/// Switch VT-x off again, if it is on.
pub fn disable() {
    if Cr4::read().contains(Cr4Flags::VIRTUAL_MACHINE_EXTENSIONS) {
        // SAFETY: with the bit set by `enable`, this CPU is in VMX operation; it enters no guest any more.
        unsafe {
            vmxoff();
            Cr4::update(|cr4| cr4.remove(Cr4Flags::VIRTUAL_MACHINE_EXTENSIONS));
        }
    }
}

/// A page to become a VMCS or a VMXON region: revision identifier and zeroes.
pub(super) fn vmcs_page(caps: &Caps) -> Result<Owned<Page>, OutOfMemory> {
    let mut page = Owned::<Page>::zeroed()?;
    page.0[..4].copy_from_slice(&caps.revision.to_le_bytes());
    Ok(page)
}

/// Make what all CPUs share, if this is the first.
fn share(caps: &Caps) -> Result<(), EnableError> {
    if HOST.get().is_some() {
        return Ok(());
    }
    let mut msr_bitmaps = [Hpa(0); Grants::COUNT];
    for (grants, bitmap) in (0..).map(Grants::from_bits_retain).zip(&mut msr_bitmaps) {
        let mut page = Owned::<Page>::zeroed()?;
        msr_bitmap::fill(&mut page.0, speculation::commands(), grants);
        *bitmap = page.leak();
    }
    let mut entry_msrs = None;
    if speculation::used().contains(Defences::L1D_FLUSH) {
        let mut list = Owned::<MsrList>::zeroed()?;
        (list.index, list.value) = (msr_policy::msr::FLUSH_CMD, speculation::bits::FLUSH_CMD_L1D);
        entry_msrs = Some(list.leak());
    }
    let apic_access = Owned::<Page>::zeroed()?.leak();
    HOST.call_once(|| Host {
        caps: *caps,
        msr_bitmaps,
        entry_msrs,
        apic_access,
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unlocked_or_switched_on_is_usable() {
        use feature_control::{LOCKED, VMX};
        const HAS_VMX: u32 = 1 << 5;
        for control in [0, VMX, VMX | LOCKED] {
            assert!(usable(HAS_VMX, || control).is_ok());
        }
        let Err(Unsupported(why)) = usable(HAS_VMX, || LOCKED) else {
            panic!("it is switched off");
        };
        assert!(why.contains("locked by the firmware"));
    }

    #[test]
    fn without_vmx_its_register_is_not_read() {
        let Err(Unsupported(why)) = usable(!(1 << 5), || panic!("#GP")) else {
            panic!("there is none");
        };
        assert!(why.contains("no VT-x"));
    }
}
