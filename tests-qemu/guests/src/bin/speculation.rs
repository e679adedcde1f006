//! The registers by which a kernel defends itself against attacks by speculation: they are there where CPUID says so
//! and fault where it does not, and what a vCPU has in them is its own, whatever comes between.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use guest_rt::hypercall::sched;
use guest_rt::println;
use guest_rt::start_info::StartInfo;
use guests::cpu::{self, GP0};
use guests::frames::Frames;
use guests::report::Report;
use guests::smp;

guest_rt::main!(main);

const SPEC_CTRL: u32 = 0x48;
const PRED_CMD: u32 = 0x49;
const ARCH_CAPABILITIES: u32 = 0x10a;
const FLUSH_CMD: u32 = 0x10b;

const IBRS: u64 = 1 << 0;
const STIBP: u64 = 1 << 1;
const SSBD: u64 = 1 << 2;
const PSFD: u64 = 1 << 7;

/// What CPUID offers.
struct Offers {
    /// SPEC_CTRL, and its bits of those above.
    spec_ctrl: Option<u64>,
    ibpb: bool,
    l1d_flush: bool,
    capabilities: bool,
}

fn offers() -> Offers {
    let leaf = |leaf, subleaf, register: usize| cpu::cpuid(leaf, subleaf)[register];
    let bit = |word: u32, number: u32| word >> number & 1 != 0;
    let (intel, more, amd) = (leaf(7, 0, 3), leaf(7, 2, 3), leaf(0x8000_0008, 0, 1));
    println!("# CPUID 7 EDX {intel:#x}, 7.2 EDX {more:#x}, 8000_0008 EBX {amd:#x}");
    let bits = [
        (bit(intel, 26) || bit(amd, 14), IBRS),
        (bit(intel, 27) || bit(amd, 15), STIBP),
        (bit(intel, 31) || bit(amd, 24), SSBD),
        (bit(more, 0) || bit(amd, 28), PSFD),
    ];
    let there = bits.iter().filter(|(there, _)| *there);
    let all = there.fold(0, |all, (_, bit)| all | bit);
    Offers {
        spec_ctrl: (all & IBRS != 0).then_some(all),
        ibpb: bit(intel, 26) || bit(amd, 12),
        l1d_flush: bit(intel, 28),
        capabilities: bit(intel, 29),
    }
}

fn main(_: StartInfo) -> ! {
    cpu::init();
    let mut report = Report::default();
    let offers = offers();
    command(&mut report, "ibpb", PRED_CMD, offers.ibpb);
    command(&mut report, "l1d-flush", FLUSH_CMD, offers.l1d_flush);
    capabilities(&mut report, offers.capabilities);
    match offers.spec_ctrl {
        Some(bits) => {
            spec_ctrl(&mut report, bits);
            two_vcpus(&mut report, bits);
        }
        None => {
            println!("# this CPU has no SPEC_CTRL");
            report.equal("spec-ctrl-missing-read", cpu::rdmsr(SPEC_CTRL), Err(GP0));
            report.equal("spec-ctrl-missing-write", cpu::wrmsr(SPEC_CTRL, 0), Err(GP0));
        }
    }
    report.finish()
}

/// A register that takes bit 0 and cannot be read.
fn command(report: &mut Report, name: &str, msr: u32, offered: bool) {
    let done = if offered { Ok(()) } else { Err(GP0) };
    report.equal(name, cpu::wrmsr(msr, 1), done);
    report.equal(&format!("{name}-nothing"), cpu::wrmsr(msr, 0), done);
    report.equal(&format!("{name}-reserved"), cpu::wrmsr(msr, 1 << 40), Err(GP0));
    report.equal(&format!("{name}-read"), cpu::rdmsr(msr), Err(GP0));
}

fn capabilities(report: &mut Report, offered: bool) {
    let found = cpu::rdmsr(ARCH_CAPABILITIES);
    println!("# ARCH_CAPABILITIES {found:x?}");
    report.equal("capabilities", found.is_ok(), offered);
    report.equal(
        "capabilities-write",
        cpu::wrmsr(ARCH_CAPABILITIES, found.unwrap_or(0)),
        Err(GP0),
    );
}

/// Before the guest uses the register, when it is the hypervisor that answers, and after.
fn spec_ctrl(report: &mut Report, bits: u64) {
    let reserved = [1 << 8, 1 << 11, 1 << 63, PSFD, SSBD]
        .into_iter()
        .filter(|bit| bits & bit == 0);
    report.equal("spec-ctrl-reset", cpu::rdmsr(SPEC_CTRL), Ok(0));
    report.equal("spec-ctrl-same", cpu::wrmsr(SPEC_CTRL, 0), Ok(()));
    for when in ["before", "after"] {
        for bit in reserved.clone() {
            report.equal(
                &format!("spec-ctrl-reserved-{bit:#x}-{when}"),
                cpu::wrmsr(SPEC_CTRL, bit),
                Err(GP0),
            );
        }
        for bit in [IBRS, STIBP, SSBD, PSFD]
            .into_iter()
            .filter(|bit| bits & bit != 0)
        {
            report.equal(
                &format!("spec-ctrl-{bit:#x}-{when}"),
                cpu::wrmsr(SPEC_CTRL, bit).and(cpu::rdmsr(SPEC_CTRL)),
                Ok(bit),
            );
            cpu::cpuid(1, 0);
            let _ = sched::yield_now();
            report.equal(
                &format!("spec-ctrl-{bit:#x}-{when}-after-exits"),
                cpu::rdmsr(SPEC_CTRL),
                Ok(bit),
            );
        }
        let all = cpu::wrmsr(SPEC_CTRL, bits).and(cpu::rdmsr(SPEC_CTRL));
        report.equal(&format!("spec-ctrl-all-{when}"), all, Ok(bits));
        let none = cpu::wrmsr(SPEC_CTRL, 0).and(cpu::rdmsr(SPEC_CTRL));
        report.equal(&format!("spec-ctrl-none-{when}"), none, Ok(0));
    }
}

/// How often a vCPU looks whether its value is still there, for each way to lose the CPU.
const ROUNDS: u64 = 20;

static STACK: Frames<4> = Frames::new();
/// What the second vCPU writes next.
static VALUE: AtomicU64 = AtomicU64::new(0);
/// How often it has looked, and found another value.
static LOOKS: AtomicU64 = AtomicU64::new(0);
static WRONG: AtomicU64 = AtomicU64::new(0);
/// Whether it gives the CPU away, or only loses it.
static YIELDS: AtomicBool = AtomicBool::new(true);

/// On one CPU with another vCPU, which has another value.
fn two_vcpus(report: &mut Report, bits: u64) {
    report.equal("second-cpu", smp::start(1, other, &STACK), Ok(()));
    for yields in [true, false] {
        YIELDS.store(yields, SeqCst);
        let mut wrong = 0u64;
        for round in 0..ROUNDS {
            let (own, others) = if round % 2 == 0 { (IBRS, 0) } else { (0, bits) };
            VALUE.store(others, SeqCst);
            let written = cpu::wrmsr(SPEC_CTRL, own);
            // Once to finish with the value before, once with this one.
            let until = LOOKS.load(SeqCst) + 2;
            while LOOKS.load(SeqCst) < until {
                if yields {
                    let _ = sched::yield_now();
                }
                core::hint::spin_loop();
            }
            wrong += u64::from(written.and(cpu::rdmsr(SPEC_CTRL)) != Ok(own));
        }
        let how = if yields { "given away" } else { "taken away" };
        report.equal(
            &format!("spec-ctrl with the CPU {how}"),
            (wrong, WRONG.load(SeqCst)),
            (0, 0),
        );
    }
}

extern "C" fn other() -> ! {
    loop {
        let value = VALUE.load(SeqCst);
        let written = cpu::wrmsr(SPEC_CTRL, value);
        if YIELDS.load(SeqCst) {
            let _ = sched::yield_now();
        }
        if written.and(cpu::rdmsr(SPEC_CTRL)) != Ok(value) {
            WRONG.fetch_add(1, SeqCst);
        }
        LOOKS.fetch_add(1, SeqCst);
    }
}
