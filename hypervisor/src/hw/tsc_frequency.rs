//! How fast the TSC ticks: measured beside the power management timer, the HPET or the PIT, and what CPUID says, if that is the same. Machines are built on
//! which none of these runs; then CPUID has to be believed.
//!
//! A guest waits for this, so it takes no longer than it must: [`WINDOW_MS`], in which a reading that is a microsecond late makes 100 of a million, or longer
//! where readings take longer.
// UNSAFETY: ports of the timers.
#![cfg_attr(target_os = "none", expect(unsafe_code, reason = "port I/O"))]

use crate::arch::machine::family_and_model;

/// Of the measurement.
#[cfg(target_os = "none")]
const WINDOW_MS: u64 = 10;

/// CPUID's frequency is that of a crystal, and exact, unless it is not this machine's at all, as in emulators: `claimed`, if what was measured is within
/// 200 of a million, or if nothing could be.
fn confirmed(claimed: Option<u64>, measured: Option<u64>) -> Option<u64> {
    const OF: u64 = 5000;
    match (claimed, measured) {
        (Some(claimed), Some(measured)) if claimed.abs_diff(measured) > measured / OF => Some(measured),
        (claimed, measured) => claimed.or(measured),
    }
}

/// The crystal's frequency, where CPUID leaf 0x15 does not tell it, by the CPU's signature (SDM 3B, 19.7.3 and table 19-38).
fn usual_crystal(signature: u32) -> Option<u32> {
    match family_and_model(signature) {
        // Skylake and Kaby Lake for clients.
        (6, 0x4e | 0x5e | 0x8e | 0x9e) => Some(24_000_000),
        // Denverton, Goldmont.
        (6, 0x5f) => Some(25_000_000),
        (6, 0x5c) => Some(19_200_000),
        _ => None,
    }
}

/// TSC ticks in a second from CPUID leaf 0x15 (SDM 3B, 19.7.3): numerator over denominator, times the crystal's frequency.
fn of_crystal(denominator: u32, numerator: u32, crystal: u32) -> Option<u64> {
    let known = denominator != 0 && numerator != 0 && crystal != 0;
    known.then(|| u64::from(crystal) * u64::from(numerator) / u64::from(denominator))
}

/// How many ticks make a reading.
const TICKS: usize = 64;

/// A timer has ticked.
#[derive(Clone, Copy, Debug)]
struct Tick {
    /// What it counts since.
    count: u64,
    /// The TSC before it did.
    before: u64,
    /// And so much later it had.
    width: u64,
}

/// Where two clocks are, as the mean of some ticks, each of which is known less well.
#[derive(Debug)]
struct Mean {
    ticks: u64,
    counts: u64,
    /// Twice the sum of the middles, from the first on.
    middles: u64,
    first: u64,
    /// The shortest of their widths.
    width: u64,
}

impl Mean {
    /// Of those that are known about as well as the one that is known best.
    fn of(ticks: &[Tick; TICKS]) -> Mean {
        let width = ticks.iter().map(|tick| tick.width).min().unwrap_or(0);
        let first = ticks[0].before;
        let mut mean = Mean {
            ticks: 0,
            counts: 0,
            middles: 0,
            first,
            width,
        };
        for tick in ticks.iter().filter(|tick| tick.width <= 2 * width) {
            mean.ticks += 1;
            mean.counts += tick.count;
            mean.middles += 2 * (tick.before - first) + tick.width;
        }
        mean
    }

    /// Is it far enough behind `start` to tell the rate: `window` ticks, and more if both are not known well?
    fn is_far_from(&self, start: &Mean, window: u64) -> bool {
        /// What is not known of both is less than this part of what is between them.
        const GOOD: u64 = 4096;
        const LONGEST: u64 = 5;
        let elapsed = self.counts / self.ticks - start.counts / start.ticks;
        let well = (start.width + self.width) * GOOD <= self.first - start.first;
        elapsed >= LONGEST * window || elapsed >= window && well
    }

    /// What the TSC counts since `start` in a second, of a timer that ticks `hz` times.
    fn rate(&self, start: &Mean, hz: u64) -> u64 {
        let wide = u128::from;
        // Both times the ticks of both, and twice.
        let middles = wide(self.middles) * wide(start.ticks)
            + 2 * wide(self.first - start.first) * wide(self.ticks) * wide(start.ticks)
            - wide(start.middles) * wide(self.ticks);
        let counts = wide(self.counts) * wide(start.ticks) - wide(start.counts) * wide(self.ticks);
        (middles * wide(hz) / (2 * counts).max(1)) as u64
    }
}

#[cfg(target_os = "none")]
mod machine {
    use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use boot::layout::BOOT_MAPPED;
    use raw_cpuid::CpuId;
    use x86_64::instructions::port::Port;

    use super::super::acpi;
    use super::super::time::tsc;
    use super::{Mean, TICKS, Tick, WINDOW_MS, confirmed, of_crystal, usual_crystal};
    use crate::mm::phys;

    /// Ticks of the TSC in a second; `None`: there is nothing to measure it by, and the CPU does not say. While the boot page tables are in use.
    pub fn measure() -> Option<u64> {
        let measured = PmTimer::of_machine()
            .map(|timer| by_timer(|| timer.read(), PmTimer::MASK, PmTimer::HZ))
            .or_else(by_hpet)
            .or_else(by_pit);
        confirmed(by_crystal(), measured)
            .or_else(base_frequency)
            .filter(|&hz| hz > 0)
    }

    fn by_crystal() -> Option<u64> {
        let info = CpuId::new().get_tsc_info()?;
        let crystal = match info.nominal_frequency() {
            0 => usual_crystal(raw_cpuid::cpuid!(1).eax)?,
            crystal => crystal,
        };
        of_crystal(info.denominator(), info.numerator(), crystal)
    }

    /// CPUID leaf 0x16, in whole MHz: the TSC has about that where nothing better is known (SDM 3B, 19.7.3).
    fn base_frequency() -> Option<u64> {
        let base = CpuId::new()
            .get_processor_frequency_info()?
            .processor_base_frequency();
        Some(u64::from(base) * 1_000_000)
    }

    /// The power management timer (ACPI 6.5, 4.8.3.3).
    #[derive(Clone, Copy)]
    pub struct PmTimer {
        port: u16,
    }

    impl PmTimer {
        /// Ticks in a second.
        pub const HZ: u64 = 3_579_545;
        /// The 24 bits that are always there.
        pub const MASK: u64 = 0xff_ffff;

        /// The one that the FADT names, if it runs.
        pub fn of_machine() -> Option<PmTimer> {
            let timer = PmTimer {
                port: acpi::info().pm_timer?,
            };
            let first = timer.read();
            (0..100_000).any(|_| timer.read() != first).then_some(timer)
        }

        /// Its count.
        pub fn read(self) -> u32 {
            // SAFETY: the port that the FADT names; reading it has no effect.
            unsafe { Port::<u32>::new(self.port).read() & Self::MASK as u32 }
        }
    }

    /// Some ticks in a row of a timer that counts up, with counts from `origin` on.
    fn ticks(read: &impl Fn() -> u32, mask: u64, origin: u32) -> [Tick; TICKS] {
        let (mut last, mut before) = (read(), tsc());
        core::array::from_fn(|_| {
            loop {
                let (now, after) = (read(), tsc());
                let tick = Tick {
                    count: u64::from(now.wrapping_sub(origin)) & mask,
                    before,
                    width: after - before,
                };
                let ticked = now != last;
                (last, before) = (now, after);
                if ticked {
                    return tick;
                }
            }
        })
    }

    /// By a timer that runs, at `hz`. Whatever holds us up in between, both clocks go on: what counts is how well their readings at both ends belong together.
    fn by_timer(read: impl Fn() -> u32, mask: u64, hz: u64) -> u64 {
        let origin = read();
        let start = Mean::of(&ticks(&read, mask, origin));
        loop {
            let end = Mean::of(&ticks(&read, mask, origin));
            if end.is_far_from(&start, hz * WINDOW_MS / 1000) {
                return end.rate(&start, hz);
            }
        }
    }

    /// By the HPET, where the boot page tables map it.
    fn by_hpet() -> Option<u64> {
        let at = acpi::info().hpet.filter(|at| at.0 < BOOT_MAPPED)?;
        let hpet = Hpet::at(phys::ptr(at))?;
        Some(by_timer(|| hpet.read(), u32::MAX.into(), hpet.hz))
    }

    /// The HPET (IA-PC HPET specification 1.0a, 2.3).
    pub struct Hpet {
        /// Main counter, 32 bits of it.
        counter: &'static AtomicU32,
        /// Ticks in a second.
        pub hz: u64,
    }

    impl Hpet {
        /// The one whose registers are mapped at `registers`, for good or for as long as this is used, if it runs.
        pub fn at(registers: *mut u8) -> Option<Hpet> {
            const FS_PER_S: u64 = 1_000_000_000_000_000;
            /// Slower than the specification allows: it is none.
            const PERIOD_MAX: u32 = 100_000_000;
            const PERIOD: usize = 0x4;
            const CONFIGURATION: usize = 0x10;
            const ENABLE: u32 = 1;
            const COUNTER: usize = 0xf0;
            let register = |offset: usize| {
                // SAFETY: a register of the HPET, which is the hypervisor's, 4-byte aligned; it is mapped.
                unsafe { &*registers.add(offset).cast::<AtomicU32>() }
            };
            let period = register(PERIOD).load(Relaxed);
            if period == 0 || period > PERIOD_MAX {
                return None;
            }
            let configuration = register(CONFIGURATION);
            configuration.store(configuration.load(Relaxed) | ENABLE, Relaxed);
            let counter = register(COUNTER);
            let first = counter.load(Relaxed);
            (0..100_000)
                .any(|_| counter.load(Relaxed) != first)
                .then_some(Hpet {
                    counter,
                    hz: FS_PER_S / u64::from(period),
                })
        }

        /// Its count.
        pub fn read(&self) -> u32 {
            self.counter.load(Relaxed)
        }
    }

    /// What the PIT's window is of that.
    const PIT_WINDOW_MS: u64 = WINDOW_MS / 2;

    /// Ticks in a window: never too few, too many if we are held up. So the least of some, until two agree to 100 parts in a million.
    fn by_pit() -> Option<u64> {
        let mut least = ticks_in_pit_window()?;
        for _ in 0..2 {
            let next = ticks_in_pit_window()?;
            let agree = next.abs_diff(least) <= least / 10_000;
            least = least.min(next);
            if agree {
                break;
            }
        }
        Some(least * (1000 / PIT_WINDOW_MS))
    }

    /// TSC ticks while PIT channel 2 counts down [`PIT_WINDOW_MS`] (8254 data sheet, mode 0). `None`: it does not count; it may be there without a clock.
    fn ticks_in_pit_window() -> Option<u64> {
        const PIT_HZ: u64 = 1_193_182;
        const COUNT: u16 = (PIT_HZ * PIT_WINDOW_MS / 1000) as u16;
        const GATE: u8 = 1;
        const SPEAKER: u8 = 2;
        const OUT: u8 = 1 << 5;
        const CHANNEL_2_MODE_0: u8 = 0b1011_0000;
        let (mut control, mut data, mut gate) = (
            Port::<u8>::new(0x43),
            Port::<u8>::new(0x42),
            Port::<u8>::new(0x61),
        );
        // SAFETY: the PIT belongs to the hypervisor, and channel 2 drives nothing but the speaker, which is off.
        unsafe {
            let before = gate.read();
            gate.write(before & !SPEAKER & !GATE);
            control.write(CHANNEL_2_MODE_0);
            // OUT is low from here on, unless all bits are ones since there is nothing.
            if gate.read() & OUT != 0 {
                gate.write(before);
                return None;
            }
            data.write(COUNT as u8);
            data.write((COUNT >> 8) as u8);
            gate.write(before & !SPEAKER | GATE);
            let start = tsc();
            // Each read of a port takes a good part of a microsecond where the chip is one, so this is some windows.
            const PATIENCE: u32 = 200_000;
            let over = (0..PATIENCE).any(|_| gate.read() & OUT != 0);
            let ticks = tsc() - start;
            gate.write(before);
            over.then_some(ticks)
        }
    }
}

#[cfg(target_os = "none")]
pub use machine::{Hpet, PmTimer, measure};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crystals() {
        // 24 MHz times 216 / 2, as a Skylake says.
        assert_eq!(of_crystal(2, 216, 24_000_000), Some(2_592_000_000));
        // A CPU that does not name its crystal, or nothing at all.
        assert_eq!(of_crystal(2, 216, 0), None);
        assert_eq!(of_crystal(0, 0, 0), None);
        assert_eq!(
            of_crystal(1, u32::MAX, u32::MAX),
            Some(u64::from(u32::MAX).pow(2))
        );
    }

    /// Ticks of a timer beside a TSC of 50 MHz, seen by reads that take 11 of its ticks, from `at` on.
    fn seen(at: u64) -> [Tick; TICKS] {
        const HZ: u64 = 3_579_545;
        let count = |tsc: u64| tsc * HZ / 50_000_000;
        let mut before = at;
        core::array::from_fn(|_| {
            loop {
                let tick = Tick {
                    count: count(before + 11),
                    before,
                    width: 11,
                };
                before += 11;
                if tick.count != count(tick.before) {
                    return tick;
                }
            }
        })
    }

    #[test]
    fn many_ticks_tell_the_rate_to_a_few_of_a_million() {
        for at in [1_000, 77_777, 123_456_789] {
            let (start, end) = (Mean::of(&seen(at)), Mean::of(&seen(at + 1_000_000)));
            let rate = end.rate(&start, 3_579_545);
            assert!(rate.abs_diff(50_000_000) < 200, "{rate}");
            assert!(end.is_far_from(&start, 71_500) && !end.is_far_from(&start, 71_700));
            let vague = Mean {
                width: 10_000,
                ..start
            };
            assert!(!end.is_far_from(&vague, 71_500) && end.is_far_from(&vague, 14_300));
        }
    }

    #[test]
    fn a_tick_that_was_held_up_does_not_count() {
        let (start, mut late) = (Mean::of(&seen(5_000)), seen(1_005_000));
        for tick in late.iter_mut().step_by(9) {
            tick.width += 5_000;
        }
        let rate = Mean::of(&late).rate(&start, 3_579_545);
        assert!(rate.abs_diff(50_000_000) < 200, "{rate}");
    }

    #[test]
    fn only_what_was_measured_is_believed() {
        let claimed = Some(2_592_000_000);
        for (measured, right) in [
            (Some(2_592_050_000), claimed),
            (Some(50_000_123), Some(50_000_123)),
            (Some(2_592_600_000), Some(2_592_600_000)),
            (None, claimed),
        ] {
            assert_eq!(confirmed(claimed, measured), right);
        }
        assert_eq!(confirmed(None, Some(50_000_123)), Some(50_000_123));
        assert_eq!(confirmed(None, None), None);
    }

    #[test]
    fn crystals_that_cpuid_does_not_tell() {
        // A Skylake for clients, an Apollo Lake, a Skylake for servers, a Zen.
        let signatures = [0x0005_06e3, 0x0005_06c9, 0x0005_0654, 0x0080_0f12];
        let crystals = [Some(24_000_000), Some(19_200_000), None, None];
        assert_eq!(signatures.map(usual_crystal), crystals);
    }
}
