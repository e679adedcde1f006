//! How fast the TSC ticks: measured beside the power management timer or the PIT, and what CPUID says, if that is the same.
//!
//! A guest waits for this, so it takes no longer than it must: [`WINDOW_MS`], in which a reading that is a microsecond late makes 50 of a million, or longer
//! where readings take longer.
// UNSAFETY: ports of the timers.
#![cfg_attr(target_os = "none", expect(unsafe_code, reason = "port I/O"))]

/// Of the measurement.
#[cfg(target_os = "none")]
const WINDOW_MS: u64 = 20;

/// CPUID's frequency is that of a crystal, and exact, unless it is not this machine's at all, as in emulators: `claimed`, if what was measured is within
/// 200 of a million.
fn confirmed(claimed: Option<u64>, measured: u64) -> u64 {
    const OF: u64 = 5000;
    match claimed {
        Some(claimed) if claimed.abs_diff(measured) <= measured / OF => claimed,
        _ => measured,
    }
}

/// TSC ticks in a second from CPUID leaf 0x15 (SDM 3B, 19.7.3): numerator over denominator, times the crystal's frequency.
fn of_crystal(denominator: u32, numerator: u32, crystal: u32) -> Option<u64> {
    let known = denominator != 0 && numerator != 0 && crystal != 0;
    known.then(|| u64::from(crystal) * u64::from(numerator) / u64::from(denominator))
}

#[cfg(target_os = "none")]
mod machine {
    use raw_cpuid::CpuId;
    use x86_64::instructions::port::Port;

    use super::super::acpi;
    use super::super::time::tsc;
    use super::{WINDOW_MS, confirmed, of_crystal};

    /// Ticks of the TSC in a second.
    pub fn measure() -> u64 {
        let measured = match PmTimer::of_machine() {
            Some(timer) => by_pm_timer(timer),
            None => by_pit(),
        };
        let claimed = CpuId::new()
            .get_tsc_info()
            .and_then(|info| of_crystal(info.denominator(), info.numerator(), info.nominal_frequency()));
        confirmed(claimed, measured).max(1)
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

        /// Its count just after it ticked, and the TSC when it did: the one that is known best of some. And between how many of the TSC's ticks it did.
        fn tick(self) -> (u32, u64, u64) {
            const TICKS: u32 = 8;
            let mut best = (0, 0, 0);
            let mut shortest = u64::MAX;
            let (mut last, mut before) = (self.read(), tsc());
            for _ in 0..TICKS {
                loop {
                    let (now, after) = (self.read(), tsc());
                    let ticked = now != last;
                    if ticked && after - before < shortest {
                        shortest = after - before;
                        best = (now, before + shortest / 2, shortest);
                    }
                    (last, before) = (now, after);
                    if ticked {
                        break;
                    }
                }
            }
            best
        }
    }

    /// Whatever holds us up in between, both clocks go on: what counts is how well their readings at both ends belong together.
    fn by_pm_timer(timer: PmTimer) -> u64 {
        const WINDOW: u64 = PmTimer::HZ * WINDOW_MS / 1000;
        const LONGEST: u64 = 5 * WINDOW;
        /// What is not known of both ends is less than this part of the window.
        const GOOD: u64 = 4096;
        let (start, tsc_start, width_start) = timer.tick();
        loop {
            let (now, tsc_now, width) = timer.tick();
            let elapsed = u64::from(now.wrapping_sub(start)) & PmTimer::MASK;
            let counted = tsc_now - tsc_start;
            if elapsed >= LONGEST || elapsed >= WINDOW && (width_start + width) * GOOD <= counted {
                return (u128::from(counted) * u128::from(PmTimer::HZ) / u128::from(elapsed)) as u64;
            }
        }
    }

    /// What the PIT's window is of that.
    const PIT_WINDOW_MS: u64 = WINDOW_MS / 2;

    /// Ticks in a window: never too few, too many if we are held up. So the least of some, until two agree to 100 parts in a million.
    fn by_pit() -> u64 {
        let mut least = ticks_in_pit_window();
        for _ in 0..2 {
            let next = ticks_in_pit_window();
            let agree = next.abs_diff(least) <= least / 10_000;
            least = least.min(next);
            if agree {
                break;
            }
        }
        least * (1000 / PIT_WINDOW_MS)
    }

    /// TSC ticks while PIT channel 2 counts down [`PIT_WINDOW_MS`] (8254 data sheet, mode 0): for machines without the timer above.
    fn ticks_in_pit_window() -> u64 {
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
            data.write(COUNT as u8);
            data.write((COUNT >> 8) as u8);
            gate.write(before & !SPEAKER | GATE);
            let start = tsc();
            // A machine without the chip must not hang here.
            let mut patience = 10_000_000;
            while gate.read() & OUT == 0 && patience > 0 {
                patience -= 1;
            }
            let ticks = tsc() - start;
            gate.write(before);
            ticks
        }
    }
}

#[cfg(target_os = "none")]
pub use machine::{PmTimer, measure};

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

    #[test]
    fn only_what_was_measured_is_believed() {
        assert_eq!(confirmed(Some(2_592_000_000), 2_592_050_000), 2_592_000_000);
        assert_eq!(confirmed(Some(2_592_000_000), 50_000_123), 50_000_123);
        assert_eq!(confirmed(Some(2_592_000_000), 2_592_600_000), 2_592_600_000);
        assert_eq!(confirmed(None, 50_000_123), 50_000_123);
    }
}
