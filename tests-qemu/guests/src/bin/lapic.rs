//! The local APIC to the letter, whether the hypervisor or the hardware sees to it: xAPIC, without an APIC and back, a second CPU, x2APIC.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;

use guest_rt::start_info::StartInfo;
use guest_rt::time;
use guests::cpu::{self, Fault, GP0};
use guests::report::Report;
use guests::{interrupts, startup};

guest_rt::main!(main);

/// Vector for interrupts that this guest sends to itself.
const SELF: u8 = 0x51;
/// Vector of the timer.
const TIMER: u8 = 0x61;
/// Vector of errors.
const ERROR: u8 = 0x71;

const ICR_HIGH: u64 = cpu::APIC_ICR + 0x10;
const ESR: u64 = cpu::APIC + 0x280;
const LDR: u64 = cpu::APIC + 0xd0;
const DFR: u64 = cpu::APIC + 0xe0;
const PPR: u64 = cpu::APIC + 0xa0;
const IRR: u64 = cpu::APIC + 0x200;
const LVT_ERROR: u64 = cpu::APIC + 0x370;
const TSC_DEADLINE: u32 = 0x6e0;

const ENABLED: u64 = 1 << 11;
const X2APIC: u64 = 1 << 10;

const TO_SELF: u32 = 1 << 18;
const TO_ALL: u32 = 2 << 18;
const TO_OTHERS: u32 = 3 << 18;
const LOGICAL: u32 = 1 << 11;
const LOWEST_PRIORITY: u32 = 1 << 8;
const ON: u32 = 0x1ff;
const OFF: u32 = 0xff;
const MASKED: u32 = 1 << 16;
/// The timer counts at its clock's rate.
const BY_1: u32 = 0xb;

fn main(info: StartInfo) -> ! {
    cpu::init();
    let mut report = Report::default();
    let xapic = Apic {
        name: "xapic",
        x2apic: false,
    };
    xapic.all(&mut report);
    xapic.only_in_memory(&mut report);
    second_cpu(&mut report, &info);
    taken_away(&mut report);
    // The hardware has seen to it before, where it can; now it looks elsewhere.
    let again = Apic {
        name: "xapic-again",
        ..xapic
    };
    again.all(&mut report);
    again.only_in_memory(&mut report);
    let base = cpu::rdmsr(cpu::MSR_APIC_BASE).unwrap_or(0);
    report.equal("x2apic-on", cpu::wrmsr(cpu::MSR_APIC_BASE, base | X2APIC), Ok(()));
    interrupts::use_x2apic();
    let x2apic = Apic {
        name: "x2apic",
        x2apic: true,
    };
    x2apic.all(&mut report);
    x2apic.only_by_msrs(&mut report);
    report.equal("x2apic-to-xapic", cpu::wrmsr(cpu::MSR_APIC_BASE, base), Err(GP0));
    let off = cpu::wrmsr(cpu::MSR_APIC_BASE, base & !ENABLED);
    report.equal("x2apic-off", off, Ok(()));
    report.equal("off-msr", cpu::rdmsr(cpu::x2apic(cpu::APIC_SVR)), Err(GP0));
    report.finish()
}

/// How the registers are reached.
#[derive(Clone, Copy)]
struct Apic {
    name: &'static str,
    x2apic: bool,
}

impl Apic {
    fn read(self, register: u64) -> u32 {
        if self.x2apic {
            cpu::rdmsr(cpu::x2apic(register)).map_or(u32::MAX, |value| value as u32)
        } else {
            cpu::mmio_read(register)
        }
    }

    fn write(self, register: u64, value: u32) -> Result<(), Fault> {
        if self.x2apic {
            cpu::wrmsr(cpu::x2apic(register), value.into())
        } else {
            cpu::mmio_write(register, value);
            Ok(())
        }
    }

    /// Writes what must not fault; if it does, what is expected of it fails.
    fn set(self, register: u64, value: u32) {
        let _ = self.write(register, value);
    }

    fn send(self, command: u32, destination: u32) {
        if self.x2apic {
            let _ = cpu::wrmsr(
                cpu::x2apic(cpu::APIC_ICR),
                u64::from(destination) << 32 | u64::from(command),
            );
        } else {
            self.set(ICR_HIGH, destination << 24);
            self.set(cpu::APIC_ICR, command);
        }
    }

    /// How many interrupts of `vector` come of `what`.
    fn come(self, vector: u8, what: impl FnOnce()) -> u64 {
        let before = interrupts::count(vector);
        what();
        interrupts::enabled(|| ());
        interrupts::count(vector) - before
    }

    fn sent(self, command: u32, destination: u32) -> u64 {
        self.come(SELF, || self.send(command | u32::from(SELF), destination))
    }

    fn irr(self, vector: u8) -> bool {
        self.read(IRR + u64::from(vector / 32) * 16) & 1 << (vector % 32) != 0
    }

    fn all(self, report: &mut Report) {
        self.disabled(report);
        self.errors(report);
        self.priorities(report);
        self.destinations(report);
        self.timer(report);
        self.interrupts_off(report);
    }

    fn check<T: PartialEq + core::fmt::Debug>(self, report: &mut Report, name: &str, found: T, expected: T) {
        report.equal(&format!("{}-{name}", self.name), found, expected);
    }

    /// SVR's bit 8.
    fn disabled(self, report: &mut Report) {
        self.set(cpu::APIC_SVR, OFF);
        self.set(cpu::APIC_TIMER, TIMER.into());
        self.check(
            report,
            "masked",
            self.read(cpu::APIC_TIMER),
            MASKED | u32::from(TIMER),
        );
        self.check(report, "lost", self.sent(TO_SELF, 0), 0);
        self.set(cpu::APIC_SVR, ON);
        self.check(
            report,
            "stays-masked",
            self.read(cpu::APIC_TIMER),
            MASKED | u32::from(TIMER),
        );
        self.check(report, "stays-lost", self.come(SELF, || ()), 0);
        self.send(TO_SELF | u32::from(SELF), 0);
        self.check(report, "in-irr", self.irr(SELF), true);
        self.set(cpu::APIC_SVR, OFF);
        self.check(
            report,
            "held",
            (self.come(SELF, || ()), self.irr(SELF)),
            (0, true),
        );
        self.check(
            report,
            "let-go",
            self.come(SELF, || self.set(cpu::APIC_SVR, ON)),
            1,
        );
    }

    /// What ESR says once it has been written.
    fn esr(self) -> u32 {
        self.set(ESR, 0);
        self.read(ESR)
    }

    fn errors(self, report: &mut Report) {
        self.esr();
        self.set(LVT_ERROR, ERROR.into());
        let came = self.come(ERROR, || self.send(TO_SELF | 5, 0));
        // One for both errors, or one for each.
        self.check(report, "error-interrupt", matches!(came, 1 | 2), true);
        self.check(report, "esr-before-write", self.read(ESR), 0);
        self.check(report, "esr", self.esr(), 0x60);
        self.check(report, "esr-read-twice", self.read(ESR), 0x60);
        self.check(report, "esr-cleared", self.esr(), 0);
        self.set(LVT_ERROR, MASKED);
    }

    fn priorities(self, report: &mut Report) {
        self.set(cpu::APIC_TPR, 0x53);
        self.check(
            report,
            "tpr",
            (self.read(cpu::APIC_TPR), cpu::read_cr8()),
            (0x53, 5),
        );
        self.check(report, "ppr", self.read(PPR), 0x53);
        self.check(report, "held-by-class", self.sent(TO_SELF, 0), 0);
        let came = self.come(SELF, || self.set(cpu::APIC_TPR, 0x4f));
        self.check(report, "let-go-by-class", came, 1);
        self.set(cpu::APIC_TPR, 0);
        // The higher one first: its handler ends before the other's begins, or the other is nested in it; both come.
        let other = interrupts::count(TIMER);
        let came = self.come(SELF, || {
            self.send(TO_SELF | u32::from(SELF), 0);
            self.send(TO_SELF | u32::from(TIMER), 0);
        });
        self.check(report, "two", (came, interrupts::count(TIMER) - other), (1, 1));
        self.check(report, "ppr-back", self.read(PPR), 0);
    }

    fn destinations(self, report: &mut Report) {
        let broadcast = if self.x2apic { u32::MAX } else { 0xff };
        let physical = [0, 1, broadcast].map(|destination| self.sent(0, destination));
        self.check(report, "physical", physical, [1, 0, 1]);
        let shorthand = [TO_SELF, TO_ALL, TO_OTHERS].map(|shorthand| self.sent(shorthand, 1));
        self.check(report, "shorthands", shorthand, [1, 1, 0]);
        let logical = |destination| self.sent(LOGICAL, destination);
        if self.x2apic {
            self.check(report, "logical-id", self.read(LDR), 1);
            self.check(report, "logical", [1, 2, 0x1_0001, 3].map(logical), [1, 0, 0, 1]);
        } else {
            self.set(LDR, 0x2100_0000);
            self.set(DFR, u32::MAX);
            self.check(
                report,
                "flat",
                [0x21, 0x20, 0x1e, 0xff].map(logical),
                [1, 1, 0, 1],
            );
            self.set(DFR, 0x0fff_ffff);
            self.check(
                report,
                "cluster",
                [0x21, 0x23, 0x31, 0x22, 0xff].map(logical),
                [1, 1, 0, 0, 1],
            );
            self.set(DFR, u32::MAX);
            self.set(LDR, 0x0100_0000);
        }
        let lowest = [1, 2].map(|destination| self.sent(LOWEST_PRIORITY | LOGICAL, destination));
        self.check(report, "lowest-priority", lowest, [1, 0]);
        // SMI is not for guests.
        self.check(report, "smi", self.sent(TO_SELF | 2 << 8, 0), 0);
    }

    /// Waits until the timer's interrupt has come.
    fn timer_comes(self, what: impl FnOnce()) -> bool {
        let (before, patience) = (interrupts::count(TIMER), time::now() + 20_000_000_000);
        what();
        interrupts::enabled(|| {
            while interrupts::count(TIMER) == before && time::now() < patience {
                core::hint::spin_loop();
            }
        });
        interrupts::count(TIMER) != before
    }

    fn timer(self, report: &mut Report) {
        const PERIODIC: u32 = 1 << 17;
        const DEADLINE: u32 = 2 << 17;
        let entry = |mode: u32| self.set(cpu::APIC_TIMER, mode | u32::from(TIMER));
        let counts = || (self.read(cpu::APIC_INITIAL), self.read(cpu::APIC_CURRENT) != 0);
        self.set(cpu::APIC_DIVIDE, BY_1);
        entry(0);
        self.set(cpu::APIC_INITIAL, u32::MAX);
        self.check(report, "timer-counts", counts(), (u32::MAX, true));
        entry(PERIODIC);
        self.check(report, "timer-mode-stops", counts(), (0, false));
        self.set(cpu::APIC_INITIAL, u32::MAX);
        entry(DEADLINE);
        self.check(report, "timer-deadline-stops", counts(), (0, false));
        self.set(cpu::APIC_INITIAL, 1000);
        self.check(report, "timer-deadline-takes-no-count", counts(), (0, false));
        let far = u64::MAX >> 9;
        let written = cpu::wrmsr(TSC_DEADLINE, far).and(cpu::rdmsr(TSC_DEADLINE));
        self.check(report, "deadline", written, Ok(far));
        let came = self.timer_comes(|| assert_eq!(cpu::wrmsr(TSC_DEADLINE, 1), Ok(())));
        self.check(
            report,
            "deadline-past",
            (came, cpu::rdmsr(TSC_DEADLINE)),
            (true, Ok(0)),
        );
        let _ = cpu::wrmsr(TSC_DEADLINE, far);
        entry(0);
        self.check(report, "deadline-disarmed", cpu::rdmsr(TSC_DEADLINE), Ok(0));
        let written = cpu::wrmsr(TSC_DEADLINE, 1).and(cpu::rdmsr(TSC_DEADLINE));
        self.check(report, "deadline-ignored", written, Ok(0));
        let came = self.timer_comes(|| self.set(cpu::APIC_INITIAL, 1000));
        self.check(
            report,
            "timer-one-shot",
            (came, self.read(cpu::APIC_CURRENT)),
            (true, 0),
        );
        entry(MASKED);
    }

    /// What waits for RFLAGS.IF stays so while the machine is interrupted, by this CPU's timer for one.
    fn interrupts_off(self, report: &mut Report) {
        const MS: u64 = 1_000_000;
        self.set(cpu::APIC_DIVIDE, BY_1);
        self.set(cpu::APIC_TIMER, MASKED | u32::from(TIMER));
        // In units of 10 ns.
        self.set(cpu::APIC_INITIAL, (5 * MS / 10) as u32);
        let (before, end) = (interrupts::count(SELF), time::now() + 20 * MS);
        cpu::set_cr8(15);
        self.send(TO_SELF | u32::from(SELF), 0);
        interrupts::enabled(|| ());
        // By hardware, this needs no exit: it waits in the guest.
        cpu::set_cr8(0);
        // Without PAUSE, by which it might exit.
        while time::now() < end {}
        let meanwhile = interrupts::count(SELF) - before;
        interrupts::enabled(|| ());
        self.check(
            report,
            "if-off",
            (meanwhile, interrupts::count(SELF) - before),
            (0, 1),
        );
    }

    fn only_in_memory(self, report: &mut Report) {
        let written = |register, value| {
            self.set(register, value);
            self.read(register)
        };
        self.check(report, "id-is-fixed", written(cpu::APIC_ID, 0x5500_0000), 0);
        self.check(
            report,
            "version-is-fixed",
            written(cpu::APIC_VERSION, 0) & 0xff,
            0x14,
        );
        self.check(report, "ldr-bits", written(LDR, u32::MAX), 0xff00_0000);
        self.check(report, "dfr-bits", written(DFR, 0xf000_0000), u32::MAX);
        self.check(report, "icr-high-bits", written(ICR_HIGH, u32::MAX), 0xff00_0000);
        self.check(report, "divide-bits", written(cpu::APIC_DIVIDE, u32::MAX), 0xb);
        self.check(report, "lvt-bits", written(cpu::APIC_TIMER, !(3 << 17)), 0x1_00ff);
        self.esr();
        self.check(
            report,
            "no-such-register",
            (self.read(cpu::APIC + 0x3f0), self.esr()),
            (0, 0x80),
        );
        self.set(cpu::APIC + 0x40, 1);
        self.check(report, "no-such-register-write", self.esr(), 0x80);
        self.set(cpu::APIC_VERSION, 1);
        self.check(report, "read-only", self.esr(), 0);
        self.set(LDR, 0x0100_0000);
    }

    fn only_by_msrs(self, report: &mut Report) {
        let refused = [
            (cpu::APIC_ID, 0u64),
            (cpu::APIC_VERSION, 0),
            (cpu::APIC_TPR, 0x100),
            (PPR, 0),
            (cpu::APIC_EOI, 1),
            (LDR, 0),
            (DFR, 0),
            (cpu::APIC_SVR, 1 << 12),
            (IRR, 0),
            (ESR, 1),
            (cpu::APIC_ICR, 1 << 12),
            (ICR_HIGH, 0),
            (cpu::APIC_TIMER, 1 << 19),
            (LVT_ERROR, 0x400),
            (cpu::APIC_INITIAL, 1 << 32),
            (cpu::APIC_CURRENT, 0),
            (cpu::APIC_DIVIDE, 4),
            (cpu::APIC + 0x3f0, 0x100),
            (cpu::APIC + 0x40, 0),
        ];
        for (register, value) in refused {
            let name = format!("write-{:x}", register - cpu::APIC);
            self.check(report, &name, cpu::wrmsr(cpu::x2apic(register), value), Err(GP0));
        }
        for register in [cpu::APIC_EOI, DFR, ICR_HIGH, cpu::APIC + 0x3f0, cpu::APIC + 0x90] {
            let name = format!("read-{:x}", register - cpu::APIC);
            self.check(report, &name, cpu::rdmsr(cpu::x2apic(register)), Err(GP0));
        }
        let icr = 0x1234_5678_0000_0051;
        let written = cpu::wrmsr(cpu::x2apic(cpu::APIC_ICR), icr).and(cpu::rdmsr(cpu::x2apic(cpu::APIC_ICR)));
        self.check(report, "icr", written, Ok(icr));
        let come = |value: u64| {
            self.come(SELF, || {
                assert_eq!(cpu::wrmsr(cpu::X2APIC_SELF_IPI, value), Ok(()))
            })
        };
        self.check(report, "self-ipi", come(SELF.into()), 1);
        self.esr();
        self.check(report, "self-ipi-illegal", (come(5), self.esr()), (0, 0x60));
        self.check(
            report,
            "nothing-in-memory",
            cpu::mmio_read(cpu::APIC_SVR),
            u32::MAX,
        );
    }
}

/// IA32_APIC_BASE: what it refuses, and an APIC that is taken away and given back.
fn taken_away(report: &mut Report) {
    let feature = || cpu::cpuid(1, 0)[3] >> 9 & 1;
    let base = cpu::rdmsr(cpu::MSR_APIC_BASE).unwrap_or(0);
    let write = |value| cpu::wrmsr(cpu::MSR_APIC_BASE, value);
    report.equal(
        "base-reserved",
        [base | 1, base | 1 << 60].map(write),
        [Err(GP0); 2],
    );
    report.equal("base-x2apic-of-none", write(base & !ENABLED | X2APIC), Err(GP0));
    cpu::mmio_write(cpu::APIC_TPR, 0x20);
    report.equal("base-off", (write(base & !ENABLED), feature()), (Ok(()), 0));
    report.equal("base-off-memory", cpu::mmio_read(cpu::APIC_SVR), u32::MAX);
    report.equal("base-off-x2apic", write(base | X2APIC), Err(GP0));
    report.equal("base-on", (write(base), feature()), (Ok(()), 1));
    let after = [cpu::APIC_SVR, cpu::APIC_TPR, cpu::APIC_TIMER].map(cpu::mmio_read);
    report.equal("base-on-reset", after, [OFF, 0, MASKED]);
}

/// INIT resets a local APIC, and what it has to deliver.
fn second_cpu(report: &mut Report, info: &StartInfo) {
    let reset = Some([0, OFF, 0, MASKED]);
    let Some(page) = startup::prepare(info) else {
        return report.check("startup", false, "no memory below 1 MiB");
    };
    report.equal("startup", startup::restart(page), reset);
    report.equal("startup-interrupt", startup::interrupt(SELF), true);
    report.equal("startup-after-init", startup::restart(page), reset);
    startup::stop();
}
