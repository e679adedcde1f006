//! This CPU's descriptor tables, and what happens on exceptions and interrupts of the host.
//!
//! Exceptions in the hypervisor are bugs: registers and a backtrace are printed and the machine stops. #DF, NMI and #MC have stacks of their own.
// UNSAFETY: descriptor tables and interrupt entry.
#![expect(unsafe_code, reason = "descriptor tables and interrupt entry")]

use alloc::boxed::Box;
use core::arch::{asm, global_asm};
use core::fmt;

use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::{lidt, load_tss};
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable};
use x86_64::structures::tss::TaskStateSegment;

use super::{irq, watchdog};
use crate::arch::try_msr;
use crate::mm::paging;
use crate::sync::Once;

// One stub of 16 bytes for each vector: an error code (0 where the CPU pushes none), the vector, then all general registers.
global_asm!(
    ".section .text.traps, \"ax\"",
    ".balign 16",
    ".global trap_stubs",
    "trap_stubs:",
    ".set vector, 0",
    ".rept 256",
    ".balign 16",
    ".if (vector == 8) | (vector == 10) | (vector == 11) | (vector == 12) | (vector == 13) | (vector == 14) | (vector == 17) | (vector == 21) | (vector == 29) | (vector == 30)",
    ".else",
    "push 0",
    ".endif",
    "push vector",
    "jmp trap_common",
    ".set vector, vector + 1",
    ".endr",
    "trap_common:",
    "push rax",
    "push rcx",
    "push rdx",
    "push rbx",
    "push rbp",
    "push rsi",
    "push rdi",
    "push r8",
    "push r9",
    "push r10",
    "push r11",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "cld",
    "mov rdi, rsp",
    // The CPU aligned the stack before it pushed five words; two and fifteen more leave it aligned again.
    "call {handler}",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop r11",
    "pop r10",
    "pop r9",
    "pop r8",
    "pop rdi",
    "pop rsi",
    "pop rbp",
    "pop rbx",
    "pop rdx",
    "pop rcx",
    "pop rax",
    "add rsp, 16",
    "iretq",
    ".text",
    handler = sym handle,
);

unsafe extern "C" {
    static trap_stubs: u8;
}

/// What the stubs leave on the stack.
#[repr(C)]
pub(super) struct Frame {
    gprs: [u64; 15],
    vector: u64,
    error_code: u64,
    pub(super) rip: u64,
    cs: u64,
    rflags: u64,
    pub(super) rsp: u64,
    ss: u64,
}

impl Frame {
    /// The registers at this point.
    #[inline(always)]
    pub(super) fn here() -> Frame {
        let mut frame = Frame {
            gprs: [0; 15],
            vector: 0,
            error_code: 0,
            rip: 0,
            cs: CS::get_reg().0.into(),
            rflags: x86_64::registers::rflags::read_raw(),
            rsp: 0,
            ss: SS::get_reg().0.into(),
        };
        // SAFETY: writes to the array behind RAX, and reads registers.
        unsafe {
            asm!(
                "mov [rax], r15", "mov [rax + 8], r14", "mov [rax + 16], r13", "mov [rax + 24], r12",
                "mov [rax + 32], r11", "mov [rax + 40], r10", "mov [rax + 48], r9", "mov [rax + 56], r8",
                "mov [rax + 64], rdi", "mov [rax + 72], rsi", "mov [rax + 80], rbp", "mov [rax + 88], rbx",
                "mov [rax + 96], rdx", "mov [rax + 104], rcx",
                "mov {rsp}, rsp",
                "lea {rip}, [rip]",
                in("rax") frame.gprs.as_mut_ptr(), rsp = out(reg) frame.rsp, rip = out(reg) frame.rip,
                options(nostack, preserves_flags),
            );
        }
        frame
    }

    /// The frame pointer.
    pub(super) fn rbp(&self) -> u64 {
        self.gprs[RBP]
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 15] = [
            "r15", "r14", "r13", "r12", "r11", "r10", "r9", "r8", "rdi", "rsi", "rbp", "rbx", "rdx", "rcx",
            "rax",
        ];
        writeln!(
            f,
            "rip {:04x}:{:016x} rsp {:04x}:{:016x} rflags {:x}",
            self.cs, self.rip, self.ss, self.rsp, self.rflags
        )?;
        for (index, (name, value)) in NAMES.iter().zip(self.gprs).rev().enumerate() {
            let end = if index % 4 == 3 { '\n' } else { ' ' };
            write!(f, "{name:>3} {value:016x}{end}")?;
        }
        let cr2 = x86_64::registers::control::Cr2::read_raw();
        write!(f, "cr2 {cr2:016x}")
    }
}

const NMI: u64 = 2;
const GENERAL_PROTECTION: u64 = 13;
const MACHINE_CHECK: u64 = 18;
const RBP: usize = 10;

extern "C" fn handle(frame: &mut Frame) {
    if frame.vector == GENERAL_PROTECTION
        && let Some(rip) = try_msr::resume_after(frame.rip)
    {
        frame.rip = rip;
        return;
    }
    match frame.vector {
        // It may have interrupted anything, a holder of the console's lock for one: reported later.
        NMI => {
            super::power::stop_if_told();
            if !watchdog::look(frame) {
                irq::raise(irq::SoftIrq::NMI);
            }
        }
        MACHINE_CHECK => machine_check(),
        exception @ 0..32 => {
            super::panic::fatal(
                format_args!("{}, error code {:#x}", name(exception), frame.error_code),
                frame,
            );
        }
        vector => irq::handle(vector as u8),
    }
}

/// For a test: a page fault.
#[inline(never)]
pub fn fault() {
    // SAFETY: the hypervisor maps nothing at 0, so nothing is read: the exception ends it.
    let _ = unsafe { core::ptr::with_exposed_provenance::<u64>(8).read_volatile() };
}

/// A machine check was signalled, here or (intercepted) in a guest. There is no recovery yet: what the banks say is printed, and the
/// machine stops.
pub fn machine_check() -> ! {
    // SAFETY: a CPU that raises #MC has these registers (SDM 3B 16.3).
    let banks = unsafe { x86_64::registers::model_specific::Msr::new(0x179).read() } & 0xff;
    for bank in 0..banks.min(32) as u32 {
        // SAFETY: as above; there are `banks` groups of four registers.
        let status = unsafe { x86_64::registers::model_specific::Msr::new(0x401 + 4 * bank).read() };
        if status >> 63 != 0 {
            log::error!("machine check: bank {bank} status {status:#018x}");
        }
    }
    panic!("machine check: the hardware reports an error that cannot be corrected");
}

/// The exception's name (SDM 3A table 6-1).
fn name(vector: u64) -> &'static str {
    match vector {
        0 => "#DE, division error",
        1 => "#DB, debug exception",
        3 => "#BP, breakpoint",
        6 => "#UD, invalid opcode",
        7 => "#NM, no FPU",
        8 => "#DF, double fault",
        10 => "#TS, invalid TSS",
        11 => "#NP, segment not present",
        12 => "#SS, stack fault",
        13 => "#GP, general protection",
        14 => "#PF, page fault",
        16 => "#MF, x87 error",
        17 => "#AC, alignment check",
        19 => "#XM, SIMD error",
        21 => "#CP, control protection",
        _ => "reserved exception",
    }
}

/// Pages of each stack of its own; an unmapped page lies below.
const STACK_PAGES: u64 = 4;
/// Vectors with a stack of their own, and its index in the TSS.
const OWN_STACK: [(usize, u16); 3] = [(2, 1), (8, 2), (18, 3)];

/// One gate of an IDT (SDM 3A, 7.14.1).
#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct Gate([u64; 2]);

/// Report exceptions from here on, on the stack that they find: on the first CPU, with the boot loader's GDT, until [`init`].
pub fn begin() {
    static GATES: Once<[Gate; 256]> = Once::new();
    let code = CS::get_reg().0;
    load(GATES.call_once(|| core::array::from_fn(|vector| gate(vector, code, 0))));
}

/// Load this CPU's descriptor tables, which live for ever: its own GDT and TSS, and the IDT of all CPUs.
///
/// # Panics
/// There is no memory for them.
pub fn init() {
    let mut tss = TaskStateSegment::new();
    for (_, index) in OWN_STACK {
        let top = paging::new_stack(STACK_PAGES).expect("memory for a stack at boot");
        tss.interrupt_stack_table[usize::from(index) - 1] = VirtAddr::new(top);
    }
    let mut gdt = GlobalDescriptorTable::new();
    let code = gdt.append(Descriptor::kernel_code_segment());
    let data = gdt.append(Descriptor::kernel_data_segment());
    debug_assert_eq!(data.0, super::DATA_SEGMENT);
    let task = gdt.append(Descriptor::tss_segment(Box::leak(Box::new(tss))));
    Box::leak(Box::new(gdt)).load();
    // SAFETY: the selectors are of the table that was just loaded; it, and the TSS in it, are never freed.
    unsafe {
        CS::set_reg(code);
        DS::set_reg(data);
        ES::set_reg(data);
        SS::set_reg(data);
        load_tss(task);
    }
    static GATES: Once<[Gate; 256]> = Once::new();
    load(GATES.call_once(|| {
        core::array::from_fn(|vector| {
            let own = OWN_STACK.iter().find(|(own, _)| *own == vector);
            gate(vector, code.0, own.map_or(0, |(_, index)| *index))
        })
    }));
}

fn load(gates: &'static [Gate; 256]) {
    let pointer = DescriptorTablePointer {
        limit: (size_of_val(gates) - 1) as u16,
        base: VirtAddr::from_ptr(gates),
    };
    // SAFETY: 256 valid gates to stubs that handle every vector.
    unsafe { lidt(&pointer) };
}

/// The gate to the stub of `vector`, in code segment `code`; `stack` is its stack in the TSS, or 0.
fn gate(vector: usize, code: u16, stack: u16) -> Gate {
    const PRESENT_INTERRUPT_GATE: u64 = 0x8e00;
    let stub = &raw const trap_stubs as u64 + vector as u64 * 16;
    let low = stub & 0xffff
        | u64::from(code) << 16
        | (u64::from(stack) | PRESENT_INTERRUPT_GATE) << 32
        | (stub >> 16 & 0xffff) << 48;
    Gate([low, stub >> 32])
}
