//! Dom0 has the TSC of a CPU put forward or back (debug key `C` with `crash_test=tsc-ahead` or `tsc-behind`): neither its clock nor its own TSC steps, wherever it
//! runs, and both go on as the machine's power-management timer does.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;

use abi::cpuid::{XEN_CPUID_TSC_EMULATED, XEN_CPUID_TSC_HOST_RELIABLE};
use guest_rt::hypercall::{domctl, sysctl};
use guest_rt::start_info::StartInfo;
use guest_rt::time;
use guests::cpu;
use guests::pm_timer::PmTimer;
use guests::report::Report;

guest_rt::main!(main);

const SECOND: u64 = 1_000_000_000;
/// Xen's CPUID leaf about time.
const TIME: u32 = 0x4000_0003;
/// How far clocks may be apart, in nanoseconds: at any time, and one of so many more.
const APART: u64 = 1_000_000;
const DRIFT: u64 = 1000;

/// Command line: the PM timer's port, and how many CPUs the machine has.
fn main(info: StartInfo) -> ! {
    cpu::init();
    let mut report = Report::default();
    let mut numbers = info.command_line().split_whitespace().map(str::parse::<u64>);
    let (Some(Ok(port)), Some(Ok(cpus))) = (numbers.next(), numbers.next()) else {
        panic!("which timer, and how many CPUs?");
    };
    let run_on = |cpu: u64| domctl::set_affinity(0, 0, Some(&[1 << cpu]), None);
    let flags = || cpu::cpuid(TIME, 0)[0] & (XEN_CPUID_TSC_EMULATED | XEN_CPUID_TSC_HOST_RELIABLE);
    let mut moved = run_on(cpus - 1).is_ok();
    report.equal("native", flags(), XEN_CPUID_TSC_HOST_RELIABLE);
    let mut clocks = Clocks::new(port as u16);
    while clocks.look() < 2 * SECOND {}
    report.check("before", clocks.good(), format!("{clocks:?}"));
    let pressed = sysctl::debug_keys(b"C");
    report.check("key", pressed.is_ok(), format!("{pressed:?}"));
    let begin = clocks.look();
    for round in 0.. {
        moved &= run_on(round % cpus).is_ok();
        let start = clocks.look();
        while clocks.look() < start + SECOND / 50 {}
        if start > begin + 4 * SECOND {
            break;
        }
    }
    report.check("moves", moved, format!("to {cpus} CPUs"));
    report.equal("emulated", flags(), XEN_CPUID_TSC_EMULATED);
    report.check("after", clocks.good(), format!("{clocks:?}"));
    guest_rt::println!("{clocks:?}");
    report.finish()
}

/// Clocks that are to go on alike, since the start.
#[derive(Debug)]
struct Clocks {
    machine: PmTimer,
    khz: u64,
    start: [u64; 2],
    /// The clock and the TSC, in nanoseconds, when they were last looked at.
    last: [u64; 2],
    /// How often each stepped back.
    back: [u64; 2],
    /// How far each was from the machine's timer, at most, beyond what is allowed.
    off: [u64; 2],
}

impl Clocks {
    fn new(port: u16) -> Self {
        let khz = u64::from(cpu::cpuid(TIME, 0)[2]);
        let start = read(khz);
        Self {
            machine: PmTimer::new(port),
            khz,
            start,
            last: [0; 2],
            back: [0; 2],
            off: [0; 2],
        }
    }

    /// Returns the machine's time.
    fn look(&mut self) -> u64 {
        // The machine is read before and behind: it may be held up in between.
        let before = self.machine.elapsed();
        let now = read(self.khz);
        let after = self.machine.elapsed();
        let allowed = APART + after / DRIFT;
        for (clock, now) in now.into_iter().enumerate() {
            let now = now.wrapping_sub(self.start[clock]);
            self.back[clock] += u64::from(now < self.last[clock]);
            self.last[clock] = now;
            let off = before.saturating_sub(now).max(now.saturating_sub(after));
            self.off[clock] = self.off[clock].max(off.saturating_sub(allowed));
        }
        after
    }

    fn good(&self) -> bool {
        self.back == [0; 2] && self.off == [0; 2]
    }
}

/// The clock, and the TSC, in nanoseconds.
fn read(khz: u64) -> [u64; 2] {
    let tsc = u128::from(cpu::tsc()) * 1_000_000 / u128::from(khz.max(1));
    [time::now(), tsc as u64]
}
