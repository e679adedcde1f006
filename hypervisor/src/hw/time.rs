//! Time of the machine: the TSC, calibrated once, and the wall clock at start.
//!
//! A TSC that cannot be trusted is replaced by a slower timer of the machine which counts as fast as the TSC should ([`distrust_tsc`]): nothing else
//! changes for anybody who asks [`tsc`], and guests' reads of theirs exit. That may be so from the start, or once the TSC has gone wrong ([`look_at_tsc`]).
//!
//! System time is nanoseconds since [`init`], a linear function of the TSC with the very arithmetic of Xen's PV clock, so that guests which are given the
//! same numbers compute the same time.
// UNSAFETY: the TSC, and the ports of PIT and RTC.
#![cfg_attr(target_os = "none", expect(unsafe_code, reason = "port I/O"))]

use core::sync::atomic::{AtomicU64, Ordering};

use crate::hw::calendar::Date;
use crate::sync::Once;

/// How system time follows from the TSC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clock {
    /// TSC at system time 0.
    pub tsc_base: u64,
    /// Nanoseconds per (shifted) tick, as a 0.32 fixed-point number.
    pub mul: u32,
    /// Ticks are shifted left by this (right, if negative) before they are multiplied.
    pub shift: i8,
    hz: u64,
    /// 1 / `mul`: shifted ticks for a nanosecond, rounded up, as a 2.62 fixed-point number.
    inverse: u64,
}

const NS_PER_S: u64 = 1_000_000_000;
/// Bits of [`Clock::inverse`] behind the point.
const INVERSE_POINT: i32 = 62;

impl Clock {
    /// A clock of `hz` ticks a second that reads 0 at `tsc_base`.
    pub fn new(hz: u64, tsc_base: u64) -> Clock {
        // The shift that brings the frequency into (1, 2] GHz makes the multiplier a proper fraction with 32 significant bits.
        let mut shift = 0i8;
        let mut scaled = hz.max(1);
        while scaled > 2 * NS_PER_S {
            scaled >>= 1;
            shift -= 1;
        }
        while scaled <= NS_PER_S {
            scaled <<= 1;
            shift += 1;
        }
        let exact = if shift < 0 {
            u128::from(hz) >> -shift
        } else {
            u128::from(hz) << shift
        };
        let mul = ((u128::from(NS_PER_S) << 32) / exact.max(1)) as u32;
        Clock {
            tsc_base,
            mul,
            shift,
            hz,
            inverse: ((1u128 << (32 + INVERSE_POINT)) / u128::from(mul.max(1))) as u64 + 1,
        }
    }

    /// The same, but that it reads 0 at `tsc_base`.
    pub fn from(&self, tsc_base: u64) -> Clock {
        Clock { tsc_base, ..*self }
    }

    /// System time when the TSC reads `tsc`, in nanoseconds.
    #[inline]
    pub fn nanoseconds(&self, tsc: u64) -> u64 {
        let ticks = tsc.wrapping_sub(self.tsc_base);
        let ticks = if self.shift < 0 {
            ticks >> -self.shift
        } else {
            ticks << self.shift
        };
        ((u128::from(ticks) * u128::from(self.mul)) >> 32) as u64
    }

    /// The TSC at system time `ns`, or just after it; `u64::MAX` if it does not come so far.
    pub fn tsc_at(&self, ns: u64) -> u64 {
        self.tsc_base.saturating_add(self.ticks(ns)).saturating_add(1)
    }

    /// The ticks of `ns` nanoseconds; `u64::MAX` if they are more.
    pub fn ticks(&self, ns: u64) -> u64 {
        let shifted = u128::from(ns) * u128::from(self.inverse);
        u64::try_from(shifted >> (INVERSE_POINT + i32::from(self.shift))).unwrap_or(u64::MAX)
    }

    /// Frequency of the TSC in Hz.
    pub fn hz(&self) -> u64 {
        self.hz
    }

    /// Frequency of the TSC in kHz.
    pub fn khz(&self) -> u32 {
        (self.hz / 1000) as u32
    }
}

static CLOCK: Once<Clock> = Once::new();
static WALL_CLOCK_BASE: AtomicU64 = AtomicU64::new(0);

/// 1 GHz from 0: multiplied by two, and by a half.
static UNCALIBRATED: Clock = Clock {
    tsc_base: 0,
    mul: 1 << 31,
    shift: 1,
    hz: NS_PER_S,
    inverse: 1 << (INVERSE_POINT + 1),
};

/// The clock. Before [`init`] (and on the host): 1 GHz from 0.
#[inline]
pub fn clock() -> &'static Clock {
    CLOCK.get().unwrap_or(&UNCALIBRATED)
}

/// System time: nanoseconds since [`init`].
#[inline]
pub fn now_ns() -> u64 {
    clock().nanoseconds(tsc())
}

/// Nanoseconds since 1970 at system time 0.
pub fn wall_clock_base() -> u64 {
    WALL_CLOCK_BASE.load(Ordering::SeqCst)
}

/// Change [`wall_clock_base`]. The caller tells the guests.
pub fn set_wall_clock_base(nanoseconds: u64) {
    WALL_CLOCK_BASE.store(nanoseconds, Ordering::SeqCst);
}

/// The time-stamp counter, or what counts in its stead.
#[inline]
pub fn tsc() -> u64 {
    #[cfg(target_os = "none")]
    return match machine::SUBSTITUTE.get() {
        None => machine::rdtsc(),
        Some(substitute) => substitute.ticks(),
    };
    #[cfg(not(target_os = "none"))]
    return TEST_TSC.load(core::sync::atomic::Ordering::Relaxed);
}

/// Is it the machine's own TSC that [`tsc`] reads, so that guests may read it themselves?
pub fn trusts_tsc() -> bool {
    #[cfg(target_os = "none")]
    return machine::SUBSTITUTE.get().is_none();
    #[cfg(not(target_os = "none"))]
    return true;
}

/// Continues a counter that comes round: of its readings, the last of which was `seen` (in all), to one that came later.
#[cfg_attr(
    not(any(target_os = "none", test)),
    expect(dead_code, reason = "the host has no such counter")
)]
fn continued(seen: u64, reading: u64, mask: u64) -> u64 {
    seen.wrapping_add(reading.wrapping_sub(seen) & mask)
}

/// The host's time-stamp counter: tests move it.
#[cfg(not(target_os = "none"))]
pub static TEST_TSC: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(0);

#[cfg(target_os = "none")]
mod machine {
    use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use x86_64::instructions::port::Port;
    use x86_64::registers::model_specific::Msr;

    use super::super::tsc_frequency::{self, Hpet, PmTimer};
    use super::super::tsc_watch::{Reading, Watch};
    use super::super::{acpi, percpu};
    use super::{CLOCK, Clock, NS_PER_S, clock, continued, set_wall_clock_base, tsc};
    use crate::mm::paging;
    use crate::sync::{Mutex, Once, Rank};

    /// Calibrate the TSC and read the wall clock; system time begins with the call. Once, on the first CPU, with interrupts off, when ACPI's tables have been read.
    /// `None`: nobody knows how fast the TSC ticks.
    pub fn init() -> Option<()> {
        // What firmware may have left there is not wanted: with less than 0, some CPUs' TSC-deadline timers are always due.
        if tsc_adjust().is_some_and(|adjusted| adjusted != 0) {
            // SAFETY: the register exists, and nothing goes by the counter yet.
            unsafe { Msr::new(TSC_ADJUST).write(0) };
        }
        let start = tsc();
        let hz = tsc_frequency::measure()?;
        CLOCK.call_once(|| Clock::new(hz, start));
        set_wall_clock_base(rtc() * NS_PER_S);
        Some(())
    }

    /// What software has added to a CPU's time-stamp counter (SDM 3B, 19.17.3).
    pub const TSC_ADJUST: u32 = 0x3b;

    /// [`TSC_ADJUST`] of this CPU, if it has the register.
    pub fn tsc_adjust() -> Option<u64> {
        let features = raw_cpuid::CpuId::new().get_extended_feature_info()?;
        // SAFETY: the register exists; reading it has no effect.
        features
            .has_tsc_adjust_msr()
            .then(|| unsafe { Msr::new(TSC_ADJUST).read() })
    }

    /// The machine's own TSC.
    #[inline]
    pub(super) fn rdtsc() -> u64 {
        // SAFETY: reading the TSC has no side effect.
        unsafe { core::arch::x86_64::_rdtsc() }
    }

    /// What counts in the TSC's stead; nothing, as long as that is trusted.
    pub(super) static SUBSTITUTE: Once<Substitute> = Once::new();

    /// A timer of the machine that counts at the TSC's rate. It has to be read before its counter comes round (the PM timer's does in 4.6 seconds): CPUs
    /// beat once a second for that, as for the watchdog.
    pub(super) struct Substitute {
        timer: &'static Timer,
        /// The TSC's ticks for one of its own, as a 32.32 fixed-point number.
        rate: u64,
        /// What it counts from.
        start: u64,
        /// Its own ticks when it was last read, from a reading of 0 on.
        seen: AtomicU64,
        first: u64,
    }

    /// A timer of the machine beside the TSC.
    struct Timer {
        counter: Counter,
        hz: u64,
    }

    enum Counter {
        /// The power management timer.
        Pm(PmTimer),
        /// The HPET.
        Hpet(Hpet),
    }

    impl Timer {
        /// The one of this machine, if it has any. First asked for before the first vCPU is made, when devices can be mapped.
        fn of_machine() -> Option<&'static Timer> {
            static TIMER: Once<Option<Timer>> = Once::new();
            TIMER.call_once(Timer::find).as_ref()
        }

        fn find() -> Option<Timer> {
            /// Bytes of its registers.
            const HPET_SIZE: u64 = 0x400;
            let found = acpi::info();
            let pm = || {
                Some(Timer {
                    counter: Counter::Pm(PmTimer::of_machine()?),
                    hz: PmTimer::HZ,
                })
            };
            let hpet = || {
                let hpet = Hpet::at(paging::map_mmio(found.hpet?, HPET_SIZE))?;
                let hz = hpet.hz;
                Some(Timer {
                    counter: Counter::Hpet(hpet),
                    hz,
                })
            };
            if PREFERS_PM_TIMER.load(Ordering::Relaxed) {
                pm().or_else(hpet)
            } else {
                hpet().or_else(pm)
            }
        }

        fn read(&self) -> u64 {
            match &self.counter {
                Counter::Pm(timer) => timer.read().into(),
                Counter::Hpet(hpet) => hpet.read().into(),
            }
        }

        fn mask(&self) -> u64 {
            match self.counter {
                Counter::Pm(_) => PmTimer::MASK,
                Counter::Hpet(_) => u32::MAX.into(),
            }
        }

        fn name(&self) -> &'static str {
            match self.counter {
                Counter::Pm(_) => "the PM timer",
                Counter::Hpet(_) => "the HPET",
            }
        }
    }

    impl Substitute {
        pub(super) fn ticks(&self) -> u64 {
            // In this order: who has stored this has read the counter before.
            let seen = self.seen.load(Ordering::Acquire);
            let now = continued(seen, self.timer.read(), self.timer.mask());
            self.seen.fetch_max(now, Ordering::AcqRel);
            let own = u128::from(now - self.first);
            self.start + ((own * u128::from(self.rate)) >> 32) as u64
        }
    }

    static PREFERS_PM_TIMER: AtomicBool = AtomicBool::new(false);

    /// Have the PM timer, if it runs, come before the HPET where one is wanted beside the TSC.
    pub fn prefer_pm_timer() {
        PREFERS_PM_TIMER.store(true, Ordering::Relaxed);
    }

    /// Go on without the TSC: it is not the same on all CPUs, or the command line says so. Before the first vCPU is made, when devices can be mapped.
    /// Returns what counts instead; `None`: there is nothing, and the TSC goes on.
    pub fn distrust_tsc() -> Option<&'static str> {
        let timer = Timer::of_machine()?;
        let rate = (u128::from(clock().hz) << 32) / u128::from(timer.hz.max(1));
        SUBSTITUTE.call_once(|| {
            let first = timer.read();
            Substitute {
                timer,
                rate: rate as u64,
                start: rdtsc(),
                seen: AtomicU64::new(first),
                first,
            }
        });
        Some(timer.name())
    }

    /// The TSC, as long as it is trusted and watched.
    static WATCH: Mutex<Option<Watch>> = Mutex::new(Rank::Clock, None);
    /// By how many ticks the TSC of a CPU seems to be ahead, for a test where it cannot be written; and the CPU.
    static SEEMS_AHEAD: AtomicU64 = AtomicU64::new(0);
    static SEEMS_AHEAD_ON: AtomicU64 = AtomicU64::new(u64::MAX);

    /// Watch the TSC, beside a slower timer. All CPUs then call [`look_at_tsc`] about once a second while they run guests, CPU 0 always. `false`: there is no
    /// such timer, or the TSC is not trusted.
    pub fn watch_tsc() -> bool {
        match Timer::of_machine() {
            Some(timer) if SUBSTITUTE.get().is_none() => {
                *WATCH.lock() = Some(Watch::new(clock().hz, timer.hz, timer.mask(), reading(timer)));
                true
            }
            _ => false,
        }
    }

    /// Look whether this CPU's TSC is still good. It is not: time goes on by the slower timer from now on, and the caller tells all CPUs, and then,
    /// which takes long, the log.
    pub fn look_at_tsc() -> Option<Gone> {
        let (Some(timer), None) = (Timer::of_machine(), SUBSTITUTE.get()) else {
            return None;
        };
        let mut watch = WATCH.lock();
        // Another CPU may have found the same meanwhile.
        let (Some(watch), None) = (&mut *watch, SUBSTITUTE.get()) else {
            return None;
        };
        let us = watch.look(reading(timer)).err()?;
        let last = watch.hand_over();
        SUBSTITUTE.call_once(|| Substitute {
            timer,
            rate: last.rate,
            start: last.tsc,
            seen: AtomicU64::new(continued(last.ticks, timer.read(), timer.mask())),
            first: last.ticks,
        });
        Some(Gone {
            us,
            timer: timer.name(),
        })
    }

    /// How this CPU's TSC has gone wrong.
    pub struct Gone {
        /// By so many microseconds it is ahead.
        us: i64,
        timer: &'static str,
    }

    impl Gone {
        /// Tell the log.
        pub fn log(&self) {
            log::warn!(
                "CPU {}: its TSC is {} us {} of {}, by which time goes on; guests' reads of the TSC exit",
                percpu::id(),
                self.us.unsigned_abs(),
                if self.us < 0 { "behind" } else { "ahead" },
                self.timer
            );
        }
    }

    fn reading(timer: &Timer) -> Reading {
        /// Of a second: longer than it takes to read any timer of real hardware.
        const ENOUGH: u64 = 50_000;
        let ahead = if SEEMS_AHEAD_ON.load(Ordering::Relaxed) == percpu::id().into() {
            SEEMS_AHEAD.load(Ordering::Relaxed)
        } else {
            0
        };
        Reading::best(clock().hz / ENOUGH, || Reading {
            before: rdtsc().wrapping_add(ahead),
            ticks: timer.read(),
            after: rdtsc().wrapping_add(ahead),
        })
    }

    /// For a test: put this CPU's TSC forward by so many seconds, or back. `false`: it cannot be written (QEMU's TCG), and only seems so to
    /// [`look_at_tsc`].
    pub fn spoil_tsc(seconds: i64) -> bool {
        const TSC: u32 = 0x10;
        let by = clock().hz.wrapping_mul(seconds.cast_unsigned());
        let before = rdtsc();
        // SAFETY: whoever asks for the test wants time to go wrong.
        unsafe { Msr::new(TSC).write(before.wrapping_add(by)) };
        let moved = rdtsc().wrapping_sub(before).cast_signed();
        if moved.unsigned_abs() > clock().hz {
            return true;
        }
        SEEMS_AHEAD.store(by, Ordering::Relaxed);
        SEEMS_AHEAD_ON.store(percpu::id().into(), Ordering::Relaxed);
        false
    }

    /// Seconds since 1970 by the CMOS clock (MC146818 data sheet), read twice until it agrees so that no update is in between.
    fn rtc() -> u64 {
        let mut previous = None;
        loop {
            let now = [0x00, 0x02, 0x04, 0x07, 0x08, 0x09, 0x0b].map(cmos);
            if previous == Some(now) {
                return super::rtc_seconds(now);
            }
            previous = Some(now);
        }
    }

    fn cmos(index: u8) -> u8 {
        const NMI_OFF: u8 = 0;
        // SAFETY: the clock belongs to the hypervisor; reading it has no side effect.
        unsafe {
            Port::<u8>::new(0x70).write(index | NMI_OFF);
            Port::<u8>::new(0x71).read()
        }
    }
}

#[cfg(target_os = "none")]
pub use machine::{
    TSC_ADJUST, distrust_tsc, init, look_at_tsc, prefer_pm_timer, spoil_tsc, tsc_adjust, watch_tsc,
};

/// Seconds since 1970 from the registers of an MC146818: seconds, minutes, hours, day, month, year, status B.
#[cfg_attr(
    not(any(target_os = "none", test)),
    expect(dead_code, reason = "the host has no such clock")
)]
fn rtc_seconds([seconds, minutes, hours, day, month, year, status]: [u8; 7]) -> u64 {
    const BINARY: u8 = 1 << 2;
    const HOURS_24: u8 = 1 << 1;
    const PM: u8 = 1 << 7;
    let number = |value: u8| {
        u64::from(if status & BINARY != 0 {
            value
        } else {
            (value >> 4) * 10 + (value & 15)
        })
    };
    let mut hour = number(hours & !PM);
    if status & HOURS_24 == 0 {
        hour = hour % 12 + if hours & PM != 0 { 12 } else { 0 };
    }
    Date {
        year: 2000 + number(year),
        month: number(month),
        day: number(day),
        hour,
        minute: number(minutes),
        second: number(seconds),
    }
    .seconds()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Within a millionth of the exact time after a day, and deadlines are not early.
        #[test]
        fn clock_is_exact(hz in 1_000_000u64..10_000_000_000, seconds in 1u64..86_400) {
            let clock = Clock::new(hz, 1000);
            let ns = clock.nanoseconds(1000 + hz * seconds);
            let exact = seconds * NS_PER_S;
            prop_assert!(ns.abs_diff(exact) <= exact / 1_000_000 + 1, "{ns} {exact}");
            prop_assert!(clock.nanoseconds(clock.tsc_at(exact)) + 2000 >= exact);
        }

        /// However far a deadline is: it is neither early nor late, nor before one that comes first; and one that the TSC does not reach is at its end.
        #[test]
        fn deadlines_do_not_come_round(hz in 1_000_000u64..10_000_000_000, base in 0..1u64 << 62, far in 0..64, ns: u64, more: u64) {
            let (clock, ns) = (Clock::new(hz, base), ns >> far);
            let at = clock.tsc_at(ns);
            let exact = u128::from(base) + u128::from(ns) * u128::from(hz) / u128::from(NS_PER_S);
            let off = exact / 1_000_000 + u128::from(hz / 500_000) + 2;
            prop_assert!(at == u64::MAX || u128::from(at) + off >= exact, "{at:#x} {exact:#x}");
            prop_assert!(u128::from(at) <= exact + off, "{at:#x} {exact:#x}");
            prop_assert!(at <= clock.tsc_at(ns.saturating_add(more)));
        }

        #[test]
        fn clock_never_steps_back(hz in 1_000_000u64..10_000_000_000, tsc: u32, step: u16) {
            let clock = Clock::new(hz, 0);
            prop_assert!(clock.nanoseconds(u64::from(tsc) + u64::from(step)) >= clock.nanoseconds(tsc.into()));
        }
    }

    #[test]
    fn a_counter_comes_round() {
        assert_eq!(continued(0xff_fff0, 0x10, 0xff_ffff), 0x100_0010);
        assert_eq!(continued(0x100_0010, 0x10, 0xff_ffff), 0x100_0010);
        assert_eq!(continued(0x3_0000_0001, 0, u32::MAX.into()), 0x4_0000_0000);
    }

    #[test]
    fn dates() {
        assert_eq!(rtc_seconds([0, 0, 0, 1, 1, 0, 0b110]), 946_684_800);
        // 2026-11-23 07:19:04, BCD, 24 hours
        assert_eq!(
            rtc_seconds([0x04, 0x19, 0x07, 0x23, 0x11, 0x26, 0b010]),
            1_795_418_344
        );
        // 12 hours: 12 am is 0, 1 pm is 13
        assert_eq!(rtc_seconds([0, 0, 12, 1, 1, 0, 0b100]), 946_684_800);
        assert_eq!(rtc_seconds([0, 0, 0x81, 1, 1, 0, 0b100]), 946_684_800 + 13 * 3600);
    }
}
