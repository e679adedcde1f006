//! A second vCPU that interrupts come to: when the last one did, by its time-stamp counter, is there for the first one to read.
//!
//! It has an IDT and a `vcpu_info` of its own, as the runtime's handlers serve the first vCPU.
// UNSAFETY: descriptor tables, and handlers in assembly.
#![expect(unsafe_code, reason = "descriptor tables and handlers of a second vCPU")]

use core::arch::{asm, global_asm};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use abi::Errno;
use abi::hypercall::HYPERVISOR_VCPU_OP;
use abi::shared_info::VcpuInfo;
use abi::vcpu::{VCPUOP_REGISTER_VCPU_INFO, VcpuRegisterVcpuInfo};
use guest_rt::event::UPCALL_VECTOR;

use crate::frames::Frames;
use crate::{cpu, hypercall, interrupts, smp};

/// The second vCPU's number.
pub const VCPU: u32 = 1;
/// Its local APIC's, as Xen numbers them.
const APIC_ID: u32 = 2;
/// Vector of interrupts that the first vCPU sends to it.
const IPI_VECTOR: u8 = 0x41;
/// The runtime's code segment.
const CODE: u64 = 8;

static CAME: AtomicU64 = AtomicU64::new(0);
static INFO: Frames<1> = Frames::new();
static IDT: Frames<1> = Frames::new();
static GDT: AtomicGdt = [const { AtomicU64::new(0) }; 2];
static STACK: Frames<4> = Frames::new();

/// What SGDT stores: ten bytes, of which the last two are in the second word.
type AtomicGdt = [AtomicU64; 2];

global_asm!(
    r#"
    .pushsection .text.receiver, "ax"
    .macro note_time
    pushq   %rax
    pushq   %rdx
    rdtsc
    shlq    $32, %rdx
    orq     %rdx, %rax
    movq    %rax, {came}(%rip)
    .endm
    .balign 16
receiver_event:
    note_time
    movb    $0, {info} + {pending}(%rip)
    movq    $0, {info} + {selector}(%rip)
    popq    %rdx
    popq    %rax
    iretq
    .balign 16
receiver_ipi:
    note_time
    movl    ${eoi}, %eax
    movl    $0, (%rax)
    popq    %rdx
    popq    %rax
    iretq
    .popsection
    "#,
    came = sym CAME,
    info = sym INFO,
    pending = const offset_of!(VcpuInfo, evtchn_upcall_pending),
    selector = const offset_of!(VcpuInfo, evtchn_pending_sel),
    eoi = const cpu::APIC_EOI,
    options(att_syntax)
);

unsafe extern "C" {
    static receiver_event: [u8; 0];
    static receiver_ipi: [u8; 0];
}

/// Starts the second vCPU at `entry`, which calls [`begin`] first.
///
/// # Errors
/// The hypervisor's.
pub fn start(entry: extern "C" fn() -> !) -> Result<(), Errno> {
    let mut info = VcpuRegisterVcpuInfo {
        mfn: INFO.first(),
        ..Default::default()
    };
    let argument = core::ptr::from_mut(&mut info) as u64;
    let on = [VCPUOP_REGISTER_VCPU_INFO.into(), VCPU.into(), argument, 0, 0];
    assert_eq!(hypercall::call(HYPERVISOR_VCPU_OP, on), 0);
    for (vector, handler) in [
        (UPCALL_VECTOR, &raw const receiver_event as u64),
        (IPI_VECTOR, &raw const receiver_ipi as u64),
    ] {
        const PRESENT_INTERRUPT_GATE: u64 = 0x8e << 40;
        let low = handler & 0xffff | CODE << 16 | PRESENT_INTERRUPT_GATE | (handler >> 16 & 0xffff) << 48;
        let entry = usize::from(vector) * 2;
        IDT.set_word(entry, low);
        IDT.set_word(entry + 1, handler >> 32);
    }
    // SAFETY: stores ten bytes into sixteen.
    unsafe { asm!("sgdt [{}]", in(reg) GDT.as_ptr(), options(nostack, preserves_flags)) }
    smp::start(VCPU, entry, &STACK)
}

/// The second vCPU takes interrupts from here on.
pub fn begin() {
    #[repr(C, packed)]
    struct Pointer {
        limit: u16,
        base: u64,
    }
    let idt = Pointer {
        limit: 4095,
        base: IDT.address(),
    };
    // SAFETY: the GDT is the first vCPU's, with the same segments; the handlers save and restore what they use, and only they come, as
    // nothing here faults. CS is loaded as IRET will load it.
    unsafe {
        asm!(
            "lgdt [{gdt}]",
            "lidt [{idt}]",
            "push {code}",
            "lea {to}, [rip + 2f]",
            "push {to}",
            "retfq",
            "2:",
            gdt = in(reg) GDT.as_ptr(),
            idt = in(reg) &idt,
            code = const CODE,
            to = out(reg) _,
        );
    }
    cpu::enable_local_apic();
    interrupts::enable();
}

/// Sends it an interrupt by the local APIC, in whose ICR it is the destination already: [`aim`].
pub fn interrupt() {
    cpu::mmio_write(cpu::APIC_ICR, IPI_VECTOR.into());
}

/// Enables this vCPU's local APIC, with the second one as the destination of what it sends.
pub fn aim() {
    cpu::enable_local_apic();
    cpu::mmio_write(cpu::APIC_ICR + 0x10, APIC_ID << 24);
}

/// When the last interrupt came, or what it waited for; 0 after [`forget`].
pub fn came() -> u64 {
    CAME.load(SeqCst)
}

/// Nothing has come yet.
pub fn forget() {
    CAME.store(0, SeqCst);
}

/// The second vCPU goes on: what it waited for has come.
pub fn note() {
    CAME.store(cpu::tsc(), SeqCst);
}
