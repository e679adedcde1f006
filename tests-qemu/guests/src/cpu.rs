//! Instructions that may fault, with the fault as their result.
// UNSAFETY: privileged instructions, on purpose also wrong ones.
#![expect(unsafe_code, reason = "each function is one privileged instruction")]

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use guest_rt::trap::{self, TrapFrame, Verdict};

use crate::interrupts;

/// An exception that an instruction raised.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The vector.
    pub vector: u8,
    /// The error code, 0 where the vector has none.
    pub error: u32,
}

/// Divide error.
pub const DE: u8 = 0;
/// Debug.
pub const DB: u8 = 1;
/// Non-maskable interrupt.
pub const NMI: u8 = 2;
/// Breakpoint.
pub const BP: u8 = 3;
/// Invalid opcode.
pub const UD: u8 = 6;
/// General protection.
pub const GP: u8 = 13;
/// Page fault.
pub const PF: u8 = 14;

/// The general-protection fault with error code 0.
pub const GP0: Fault = Fault { vector: GP, error: 0 };
/// The invalid-opcode fault.
pub const UD0: Fault = Fault { vector: UD, error: 0 };

/// Where the instruction under test resumes after a fault; 0: no fault is expected.
static RECOVERY: AtomicU64 = AtomicU64::new(0);
/// The fault that came: vector and error code, with a bit above that says there is one.
static FAULT: AtomicU64 = AtomicU64::new(0);
/// Bit of [`FAULT`]: there is one.
const FAULTED: u64 = 1 << 63;
/// CR2 at the last page fault.
static FAULT_ADDRESS: AtomicU64 = AtomicU64::new(0);

/// Bit of RFLAGS: single step.
const FLAGS_TF: u64 = 1 << 8;

/// Makes faults and interrupts come here. Every guest calls it first.
pub fn init() {
    trap::set_hook(hook);
}

fn hook(frame: &mut TrapFrame) -> Verdict {
    let vector = frame.vector as u8;
    if vector == NMI {
        interrupts::nmi_arrived();
        return Verdict::Resume;
    }
    let recovery = RECOVERY.swap(0, Ordering::Relaxed);
    if recovery != 0 && (vector < interrupts::FIRST || frame.rip + 16 > recovery && frame.rip <= recovery) {
        FAULT.store(FAULTED | frame.error << 8 | u64::from(vector), Ordering::Relaxed);
        FAULT_ADDRESS.store(read_cr2(), Ordering::Relaxed);
        frame.rip = recovery;
        frame.rflags &= !FLAGS_TF;
        return Verdict::Resume;
    }
    RECOVERY.store(recovery, Ordering::Relaxed);
    if vector < interrupts::FIRST {
        return Verdict::Unexpected;
    }
    interrupts::arrived(vector);
    Verdict::Resume
}

fn outcome<T>(value: T) -> Result<T, Fault> {
    RECOVERY.store(0, Ordering::Relaxed);
    match FAULT.swap(0, Ordering::Relaxed) {
        0 => Ok(value),
        fault => Err(Fault {
            vector: fault as u8,
            error: (fault & !FAULTED) as u32 >> 8,
        }),
    }
}

/// CR2 at the last fault.
pub fn fault_address() -> u64 {
    FAULT_ADDRESS.load(Ordering::Relaxed)
}

/// Runs one instruction; a fault resumes behind it. Operands are those of `asm!`.
#[macro_export]
macro_rules! attempt {
    ($instruction:expr $(, $($operand:tt)*)?) => {
        ::core::arch::asm!(
            "lea {recovery_}, [rip + 22f]",
            "mov [{slot_}], {recovery_}",
            $instruction,
            "22:",
            recovery_ = out(reg) _,
            slot_ = in(reg) $crate::cpu::recovery_slot(),
            $($($operand)*)?
        )
    };
}

/// For [`attempt!`].
#[doc(hidden)]
pub fn recovery_slot() -> *mut u64 {
    RECOVERY.as_ptr()
}

/// For [`attempt!`]: what became of the instruction.
#[doc(hidden)]
pub fn attempted() -> Result<(), Fault> {
    outcome(())
}

/// Declares functions that are one instruction without operands.
macro_rules! plain {
    ($($(#[$doc:meta])* $name:ident = $instruction:literal;)*) => {$(
        $(#[$doc])*
        pub fn $name() -> Result<(), Fault> {
            // SAFETY: has no effect on memory that Rust knows of; a fault resumes behind it.
            unsafe {
                attempt!($instruction, inout("rax") 0u64 => _, inout("rcx") 0u64 => _, inout("rdx") 0u64 => _)
            }
            outcome(())
        }
    )*};
}

plain! {
    /// UD2.
    ud2 = "ud2";
    /// INT3.
    int3 = "int3";
    /// INT 0x41.
    int_41 = "int 0x41";
    /// Division by 0.
    divide_by_zero = "div ecx";
    /// WBINVD.
    wbinvd = "wbinvd";
    /// INVD.
    invd = "invd";
    /// VMXON with an operand in memory.
    vmxon = "vmxon [rsp - 64]";
    /// VMPTRLD.
    vmptrld = "vmptrld [rsp - 64]";
    /// VMLAUNCH.
    vmlaunch = "vmlaunch";
    /// VMRESUME.
    vmresume = "vmresume";
    /// VMXOFF.
    vmxoff = "vmxoff";
    /// INVEPT.
    invept = "invept rax, [rsp - 64]";
    /// INVVPID.
    invvpid = "invvpid rax, [rsp - 64]";
    /// VMFUNC.
    vmfunc = "vmfunc";
    /// VMRUN.
    vmrun = "vmrun rax";
    /// VMLOAD.
    vmload = "vmload rax";
    /// VMSAVE.
    vmsave = "vmsave rax";
    /// STGI.
    stgi = "stgi";
    /// CLGI.
    clgi = "clgi";
    /// SKINIT.
    skinit = "skinit eax";
    /// INVLPGA.
    invlpga = "invlpga rax, ecx";
    /// MONITOR of memory.
    monitor = "lea rax, [rsp - 64]; monitor";
    /// MWAIT.
    mwait = "mwait";
    /// GETSEC.
    getsec = "getsec";
    /// RSM.
    rsm = "rsm";
    /// RDPMC.
    rdpmc = "rdpmc";
    /// RDPRU.
    rdpru = ".byte 0x0f, 0x01, 0xfd";
    /// PAUSE.
    pause = "pause";
    /// CLTS.
    clts = "clts";
}

/// LMSW of a register.
///
/// # Errors
/// The fault.
pub fn lmsw(value: u16) -> Result<(), Fault> {
    // SAFETY: the caller's choice among PE, which stays, MP, EM and TS; a fault resumes behind it.
    unsafe { attempt!("lmsw ax", in("ax") value) }
    outcome(())
}

/// LMSW of memory.
///
/// # Errors
/// The fault.
pub fn lmsw_of_memory(value: &u16) -> Result<(), Fault> {
    // SAFETY: as for `lmsw`.
    unsafe { attempt!("lmsw [rax]", in("rax") value) }
    outcome(())
}

/// MOV to CR8 that may let an interrupt in; `class` is below 16.
pub fn set_cr8(class: u64) {
    // SAFETY: has no other effect; every vector has a handler.
    unsafe { asm!("mov cr8, {}", "nop", in(reg) class, options(nostack)) }
}

/// A single step over a NOP; the frame's RIP must be behind it.
pub fn single_step() -> Result<(), Fault> {
    // SAFETY: sets the trap flag for one instruction; the hook clears it.
    unsafe { attempt!("pushfq; or qword ptr [rsp], 0x100; popfq; nop") }
    outcome(())
}

/// A single step over WBINVD, which the hypervisor carries out; how many instructions came between it and the trap.
pub fn single_step_over_exit() -> (Result<(), Fault>, u64) {
    let mut late: u64;
    // SAFETY: as for `single_step`; WBINVD changes nothing that can be seen.
    unsafe {
        attempt!(
            "pushfq; or qword ptr [rsp], 0x100; popfq; wbinvd; inc {late}",
            late = inout(reg) 0u64 => late
        )
    }
    (outcome(()), late)
}

/// A single step over a hypercall that does not exist; likewise.
pub fn single_step_over_hypercall() -> (Result<(), Fault>, u64) {
    let mut late = 0u64;
    macro_rules! step {
        ($instruction:literal) => {
            // SAFETY: as for `single_step`; nothing is called.
            unsafe {
                attempt!(
                    concat!("pushfq; or qword ptr [rsp], 0x100; popfq; ", $instruction, "; inc {late}"),
                    late = inout(reg) late, inout("rax") u64::MAX => _
                )
            }
        };
    }
    if guest_rt::hypercall::uses_vmmcall() {
        step!("vmmcall");
    } else {
        step!("vmcall");
    }
    (outcome(()), late)
}

/// A single step over STI: the trap comes in the interrupt shadow.
pub fn single_step_over_sti() -> Result<(), Fault> {
    // SAFETY: as for `single_step`; interrupts are off again behind it.
    unsafe {
        attempt!("pushfq; or qword ptr [rsp], 0x100; popfq; sti; nop");
        core::arch::asm!("cli", options(nomem, nostack));
    }
    outcome(())
}

/// CPUID: eax, ebx, ecx, edx.
pub fn cpuid(leaf: u32, sub: u32) -> [u32; 4] {
    let found = core::arch::x86_64::__cpuid_count(leaf, sub);
    [found.eax, found.ebx, found.ecx, found.edx]
}

/// Numbers of the domain and of the vCPU that asks, as the hypervisor's leaf says.
pub fn identity() -> (u16, u32) {
    const IDENTITY: u32 = 0x4000_0004;
    let [_, vcpu, domain, _] = cpuid(IDENTITY, 0);
    (domain as u16, vcpu)
}

/// RDMSR.
///
/// # Errors
/// The fault.
pub fn rdmsr(msr: u32) -> Result<u64, Fault> {
    let (low, high): (u32, u32);
    // SAFETY: reading has no effect that matters here; a fault resumes behind it.
    unsafe { attempt!("rdmsr", in("ecx") msr, inout("eax") 0 => low, inout("edx") 0 => high) }
    outcome(u64::from(high) << 32 | u64::from(low))
}

/// WRMSR. The caller writes only what leaves this guest running.
///
/// # Errors
/// The fault.
pub fn wrmsr(msr: u32, value: u64) -> Result<(), Fault> {
    // SAFETY: the caller's choice; a fault resumes behind it.
    unsafe { attempt!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32) }
    outcome(())
}

/// Writes 0 to an MSR where a fault cannot be caught: in an interrupt handler.
pub(crate) fn wrmsr_in_handler(msr: u32) {
    // SAFETY: only used for the end-of-interrupt register.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") 0, in("edx") 0, options(nostack, preserves_flags));
    }
}

/// XSETBV.
///
/// # Errors
/// The fault.
pub fn xsetbv(register: u32, value: u64) -> Result<(), Fault> {
    // SAFETY: the caller enables state or leaves it as it is; a fault resumes behind it.
    unsafe { attempt!("xsetbv", in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32) }
    outcome(())
}

/// XGETBV.
///
/// # Errors
/// The fault.
pub fn xgetbv(register: u32) -> Result<u64, Fault> {
    let (low, high): (u32, u32);
    // SAFETY: only reads.
    unsafe { attempt!("xgetbv", in("ecx") register, inout("eax") 0 => low, inout("edx") 0 => high) }
    outcome(u64::from(high) << 32 | u64::from(low))
}

/// WRPKRU, then a hypercall, and what RDPKRU says after that: where CR4.PKE is set, any value.
///
/// # Errors
/// The fault: of WRPKRU, where it is clear.
pub fn protection_keys(value: u32) -> Result<u32, Fault> {
    // SAFETY: keys matter for pages of user mode, of which there are none; a fault resumes behind it.
    unsafe { attempt!("wrpkru", in("eax") value, in("ecx") 0, in("edx") 0) }
    outcome(())?;
    let _ = guest_rt::hypercall::sched::yield_now();
    let read: u32;
    // SAFETY: it did not fault for WRPKRU.
    unsafe {
        asm!("rdpkru", out("eax") read, in("ecx") 0, out("edx") _, options(nomem, nostack, preserves_flags))
    }
    Ok(read)
}

/// Declares access to one control register.
macro_rules! control_register {
    ($($name:literal $read:ident $write:ident;)*) => {$(
        #[doc = concat!("Reads ", $name, ".")]
        pub fn $read() -> u64 {
            let value;
            // SAFETY: only reads.
            unsafe { asm!(concat!("mov {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags)) }
            value
        }

        #[doc = concat!("Writes ", $name, "; the caller writes only what leaves this guest running.")]
        ///
        /// # Errors
        /// The fault.
        pub fn $write(value: u64) -> Result<(), Fault> {
            // SAFETY: the caller's choice; a fault resumes behind it.
            unsafe { attempt!(concat!("mov ", $name, ", rax"), in("rax") value) }
            outcome(())
        }
    )*};
}

control_register! {
    "cr0" read_cr0 write_cr0;
    "cr2" read_cr2 write_cr2;
    "cr3" read_cr3 write_cr3;
    "cr4" read_cr4 write_cr4;
    "cr8" read_cr8 write_cr8;
    "dr0" read_dr0 write_dr0;
    "dr1" read_dr1 write_dr1;
    "dr2" read_dr2 write_dr2;
    "dr3" read_dr3 write_dr3;
    "dr6" read_dr6 write_dr6;
    "dr7" read_dr7 write_dr7;
}

/// Declares port access of one width.
macro_rules! ports {
    ($($width:ty, $register:tt, $input:ident, $output:ident;)*) => {$(
        /// Reads a port.
        pub fn $input(port: u16) -> $width {
            let value;
            // SAFETY: no device here does DMA unasked.
            unsafe { asm!(concat!("in ", $register, ", dx"), in("dx") port, out($register) value, options(nomem, nostack)) }
            value
        }

        /// Writes a port.
        pub fn $output(port: u16, value: $width) {
            // SAFETY: no device here does DMA unasked.
            unsafe { asm!(concat!("out dx, ", $register), in("dx") port, in($register) value, options(nomem, nostack)) }
        }
    )*};
}

ports! {
    u8, "al", in8, out8;
    u16, "ax", in16, out16;
    u32, "eax", in32, out32;
}

/// INSB of `count` bytes: a string instruction.
///
/// # Errors
/// The fault.
pub fn ins8(port: u16, buffer: &mut [u8]) -> Result<(), Fault> {
    // SAFETY: writes `buffer.len()` bytes to the buffer.
    unsafe {
        attempt!("rep insb", in("dx") port, inout("rdi") buffer.as_mut_ptr() => _,
                 inout("rcx") buffer.len() => _)
    }
    outcome(())
}

/// Reads a 32-bit device register.
pub fn mmio_read(address: u64) -> u32 {
    let value;
    // SAFETY: identity-mapped; reading a device register or nothing.
    unsafe { asm!("mov {:e}, [{}]", out(reg) value, in(reg) address, options(nostack, preserves_flags)) }
    value
}

/// Reads 32 bits at any address.
///
/// # Errors
/// The fault.
pub fn load(address: u64) -> Result<u32, Fault> {
    let value: u32;
    // SAFETY: only reads; a fault resumes behind it.
    unsafe { attempt!("mov eax, [rdx]", in("rdx") address, inout("eax") 0 => value) }
    outcome(value)
}

/// Reads 16 bytes at any address, by SSE2.
///
/// # Errors
/// The fault.
pub fn load_sse(address: u64) -> Result<(), Fault> {
    // SAFETY: only reads, and guests have no use for the register; a fault resumes behind it.
    unsafe { attempt!("movdqu xmm0, [rdx]", in("rdx") address) }
    outcome(())
}

/// The same by AVX.
///
/// # Errors
/// The fault.
pub fn load_avx(address: u64) -> Result<(), Fault> {
    // SAFETY: as for `load_sse`.
    unsafe { attempt!("vmovdqu xmm0, [rdx]", in("rdx") address) }
    outcome(())
}

/// Writes a 32-bit device register, which must be no memory of Rust's.
pub fn mmio_write(address: u64, value: u32) {
    // SAFETY: device registers and addresses without memory only.
    unsafe { asm!("mov [{}], {:e}", in(reg) address, in(reg) value, options(nostack, preserves_flags)) }
}

/// Writes 32 bits at an address that is no memory of Rust's.
///
/// # Errors
/// The fault.
pub fn store(address: u64, value: u32) -> Result<(), Fault> {
    // SAFETY: the caller's choice of address; a fault resumes behind it.
    unsafe { attempt!("mov [rdx], eax", in("rdx") address, in("eax") value) }
    outcome(())
}

/// The time-stamp counter, in program order.
pub fn tsc() -> u64 {
    // SAFETY: only reads.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Physical address of the local APIC's registers.
pub const APIC: u64 = 0xfee0_0000;
/// APIC ID register.
pub const APIC_ID: u64 = APIC + 0x20;
/// Version register.
pub const APIC_VERSION: u64 = APIC + 0x30;
/// Task priority.
pub const APIC_TPR: u64 = APIC + 0x80;
/// End of interrupt.
pub const APIC_EOI: u64 = APIC + 0xb0;
/// Spurious-interrupt vector.
pub const APIC_SVR: u64 = APIC + 0xf0;
/// [`APIC_SVR`]: software enable, and the spurious vector.
const SOFTWARE_ENABLE: u32 = 1 << 8 | 0xff;
/// Interrupt command, low half.
pub const APIC_ICR: u64 = APIC + 0x300;
/// Interrupt command, high half: the destination.
pub const APIC_ICR_HIGH: u64 = APIC + 0x310;
/// [`APIC_ICR`]: a non-maskable interrupt, to the destination.
pub const ICR_NMI: u32 = 0x4400;
/// Timer entry of the local vector table.
pub const APIC_TIMER: u64 = APIC + 0x320;
/// Initial count.
pub const APIC_INITIAL: u64 = APIC + 0x380;
/// Current count.
pub const APIC_CURRENT: u64 = APIC + 0x390;
/// Divide configuration.
pub const APIC_DIVIDE: u64 = APIC + 0x3e0;

/// Enables this vCPU's local APIC, which takes no interrupts before.
pub fn enable_local_apic() {
    mmio_write(APIC_SVR, SOFTWARE_ENABLE);
}

/// The MSR of an xAPIC register in x2APIC mode.
pub const fn x2apic(register: u64) -> u32 {
    0x800 + ((register - APIC) >> 4) as u32
}

/// End of interrupt, in x2APIC mode.
pub const X2APIC_EOI: u32 = x2apic(APIC_EOI);
/// Self IPI.
pub const X2APIC_SELF_IPI: u32 = 0x83f;
/// IA32_APIC_BASE.
pub const MSR_APIC_BASE: u32 = 0x1b;
/// EFER.
pub const MSR_EFER: u32 = 0xc000_0080;
