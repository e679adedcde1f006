//! What options take.

use core::ops::RangeInclusive;

use log::LevelFilter;

use super::CommandLine;
use crate::arch::speculation::Defences;

/// What is printed of the messages that guests cause.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuestLevels {
    /// All that are at least so severe.
    pub always: LevelFilter,
    /// As many of the others as are not too many, if they are at least so severe.
    pub limited: LevelFilter,
}

/// What stands before each line of the log: `console_timestamps=`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Stamps {
    /// Nothing.
    None,
    /// Day and second, of UTC.
    Date,
    /// The same with milliseconds.
    DateMs,
    /// Seconds since the start, with microseconds.
    #[default]
    Boot,
    /// The TSC.
    Raw,
}

/// How much memory dom0 gets: `dom0_mem=SIZE,min:SIZE,max:SIZE`. In bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Dom0Memory {
    /// The amount asked for; `None`: what the hypervisor thinks best.
    pub size: Option<MemorySize>,
    /// At least this.
    pub min: Option<MemorySize>,
    /// At most this.
    pub max: Option<MemorySize>,
}

impl Dom0Memory {
    /// What dom0 gets of `free` bytes: what is asked for, half of it all by default, within the limits.
    pub fn amount(&self, free: u64) -> u64 {
        let limit =
            |size: Option<MemorySize>, default| size.map_or(default, |size: MemorySize| size.of(free));
        limit(self.size, free / 2)
            .max(limit(self.min, 0))
            .min(limit(self.max, u64::MAX))
    }

    /// What dom0 may own later, in frames of 4 KiB. Xen's "no limit" is all ones in 32 bits.
    pub fn max_pages(&self, free: u64) -> u64 {
        const NO_LIMIT: u64 = u32::MAX as u64;
        self.max
            .map_or(NO_LIMIT, |max| (max.of(free) >> 12).min(NO_LIMIT))
    }
}

/// An amount of memory: bytes and a share of the machine's together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemorySize {
    /// It is all of the machine's memory but these.
    pub all_but: bool,
    /// Bytes.
    pub bytes: u64,
    /// Hundredths of the machine's memory, below 100.
    pub percent: u8,
}

impl MemorySize {
    /// In bytes, on a machine with `total` bytes.
    pub fn of(self, total: u64) -> u64 {
        let share = u128::from(total) * u128::from(self.percent) / 100;
        let amount = self.bytes.saturating_add(share as u64);
        match self.all_but {
            true => total.saturating_sub(amount),
            false => amount,
        }
    }
}

/// Ways to reset the machine, in the order in which they are tried.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Reset {
    /// The register that ACPI names.
    Acpi,
    /// The chipset's register, by switching power off and on.
    Power,
    /// The chipset's register.
    Pci,
    /// The keyboard controller.
    Keyboard,
    /// A triple fault.
    Triple,
}

/// Other crashes than a panic, for tests of what finds them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CrashTest {
    /// A CPU stands still.
    Hang,
    /// An exception.
    Fault,
    /// The stack is used up.
    Stack,
    /// Locks are taken in the wrong order.
    LockOrder,
    /// The TSCs of other CPUs seem to be behind the first one's.
    Skew,
    /// The same, by what firmware can leave in IA32_TSC_ADJUST.
    Adjust,
    /// The TSC of a CPU jumps, by so many seconds.
    Tsc(i64),
}

pub(super) fn boolean(value: &str) -> Option<bool> {
    match value {
        "1" | "on" | "yes" | "true" | "enable" => Some(true),
        "0" | "off" | "no" | "false" | "disable" => Some(false),
        _ => None,
    }
}

/// `NAME`, `no-NAME` or `NAME=BOOL`.
fn switch(word: &str) -> Option<(&str, bool)> {
    Some(match (word.split_once('='), word.strip_prefix("no-")) {
        // As Xen has it, who tells HVM guests from others.
        (Some((name, value)), _) => match value.split_once('=').map_or(value, |(kind, _)| kind) {
            "hvm" | "no-hvm" => (name, switch(value)?.1),
            _ => (name, boolean(value)?),
        },
        (None, Some(name)) => (name, false),
        (None, None) => (word, true),
    })
}

/// As for Xen, `no` is the only boolean by itself.
pub(super) fn spec_ctrl(line: &mut CommandLine<'_>, value: &str) -> Option<()> {
    let mut wish = line.defences;
    for word in value.split(',') {
        if boolean(word) == Some(false) {
            (wish.on, wish.off) = (Defences::empty(), Defences::all());
            continue;
        }
        let (name, on) = switch(word)?;
        let which = match name {
            "ibrs" => Defences::ANY_IBRS,
            "stibp" => Defences::STIBP,
            "bhi-dis-s" => Defences::BHI_DIS_S,
            "bp-spec-reduce" => Defences::SPEC_REDUCE,
            "ibpb" => Defences::IBPB,
            "ibpb-entry" => Defences::IBPB_AT_EXITS,
            "rsb" => Defences::ANY_RSB,
            "bhb-entry" => Defences::BHB,
            "l1d-flush" => Defences::L1D_FLUSH,
            "md-clear" | "verw" => Defences::MD_CLEAR,
            "div-scrub" => Defences::DIVIDE,
            _ => return None,
        };
        wish.on.set(which, on);
        wish.off.set(which, !on);
    }
    line.defences = wish;
    Some(())
}

pub(super) fn console(line: &mut CommandLine<'_>, value: &str) -> Option<()> {
    let (mut com1, mut com2, mut vga) = (false, false, false);
    for device in value.split(',') {
        match device {
            "com1" => com1 = true,
            "com2" => com2 = true,
            "vga" => vga = true,
            "none" => {}
            _ => return None,
        }
    }
    (line.console_com1, line.console_com2, line.console_vga) = (com1, com2, vga);
    Some(())
}

/// A number in decimal, or in hexadecimal with `0x`.
pub(crate) fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// A number in a range.
pub(super) fn number_in(text: &str, range: RangeInclusive<u32>) -> Option<u32> {
    let number = u32::try_from(number(text)?).ok()?;
    range.contains(&number).then_some(number)
}

/// As a boolean, it is days or nothing.
pub(super) fn stamps(line: &mut CommandLine<'_>, value: &str) -> Option<()> {
    line.stamps = match value {
        "none" => Stamps::None,
        "date" => Stamps::Date,
        "datems" => Stamps::DateMs,
        "boot" => Stamps::Boot,
        "raw" => Stamps::Raw,
        _ if boolean(value)? => Stamps::Date,
        _ => Stamps::None,
    };
    Some(())
}

/// Time is by the TSC where it can be.
pub(super) fn clock_source(line: &mut CommandLine<'_>, value: &str) -> Option<()> {
    line.prefers_pm_timer = match value {
        "acpi" => true,
        "hpet" | "tsc" => false,
        _ => return None,
    };
    Some(())
}

/// Xen's names of levels.
fn level_name(name: &str) -> Option<LevelFilter> {
    Some(match name {
        "none" => LevelFilter::Off,
        "error" => LevelFilter::Error,
        "warning" => LevelFilter::Warn,
        "info" => LevelFilter::Info,
        "debug" => LevelFilter::Debug,
        "all" => LevelFilter::Trace,
        _ => return None,
    })
}

/// `ALWAYS/LIMITED`, or one for both.
fn levels(value: &str) -> Option<GuestLevels> {
    let (always, limited) = value.split_once('/').unwrap_or((value, value));
    Some(GuestLevels {
        always: level_name(always)?,
        limited: level_name(limited)?,
    })
}

/// The hypervisor's own messages are not limited: the level behind a slash has no effect.
pub(super) fn level(level: &mut LevelFilter, value: &str) -> Option<()> {
    *level = levels(value)?.always;
    Some(())
}

pub(super) fn guest_levels(line: &mut CommandLine<'_>, value: &str) -> Option<()> {
    line.guest_levels = levels(value)?;
    Some(())
}

/// A number of bytes with Xen's suffixes; a plain number counts KiB.
pub(super) fn size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()?.to_ascii_lowercase() {
        b'b' => (&text[..text.len() - 1], 0),
        b'k' => (&text[..text.len() - 1], 10),
        b'm' => (&text[..text.len() - 1], 20),
        b'g' => (&text[..text.len() - 1], 30),
        b't' => (&text[..text.len() - 1], 40),
        _ => (text, 10),
    };
    number(digits)?.checked_mul(1 << shift)
}

/// `SIZE`, `PERCENT%` or `SIZE+PERCENT%`; a minus before it is before all of it.
fn memory_size(text: &str) -> Option<MemorySize> {
    let (text, all_but) = text.strip_prefix('-').map_or((text, false), |rest| (rest, true));
    let (bytes, percent) = match text.strip_suffix('%') {
        Some(share) => {
            let (bytes, percent) = share
                .split_once('+')
                .map_or((Some(0), share), |(bytes, percent)| (size(bytes), percent));
            (bytes?, number_in(percent, 0..=99)? as u8)
        }
        None => (size(text)?, 0),
    };
    Some(MemorySize {
        all_but,
        bytes,
        percent,
    })
}

pub(super) fn dom0_mem(line: &mut CommandLine<'_>, value: &str) -> Option<()> {
    let mut memory = Dom0Memory::default();
    for part in value.split(',') {
        match part.split_once(':') {
            Some(("min", part)) => memory.min = Some(memory_size(part)?),
            Some(("max", part)) => memory.max = Some(memory_size(part)?),
            Some(_) => return None,
            None => memory.size = Some(memory_size(part)?),
        }
    }
    line.dom0_mem = memory;
    Some(())
}

/// The first letter counts, as for Xen.
pub(super) fn reboot(line: &mut CommandLine<'_>, value: &str) -> Option<()> {
    match value.as_bytes().first()? {
        b'a' => line.reset = Reset::Acpi,
        b'P' => line.reset = Reset::Power,
        b'p' => line.reset = Reset::Pci,
        b'k' => line.reset = Reset::Keyboard,
        b't' => line.reset = Reset::Triple,
        b'n' => line.noreboot = true,
        _ => return None,
    }
    Some(())
}

/// What comes later replaces all of what came before.
pub(super) fn watchdog(line: &mut CommandLine<'_>, value: &str) -> Option<()> {
    let force = value == "force";
    let on = force || boolean(value)?;
    line.watchdog = on.then_some(line.watchdog_timeout);
    line.watchdog_force = force;
    Some(())
}

pub(super) fn watchdog_timeout(line: &mut CommandLine<'_>, value: &str) -> Option<()> {
    line.watchdog_timeout = value.parse().ok()?;
    line.watchdog = line.watchdog.map(|_| line.watchdog_timeout);
    Some(())
}

pub(super) fn dom0_max_vcpus(line: &mut CommandLine<'_>, value: &str) -> Option<()> {
    let count = |text: &str| text.parse::<u32>().ok();
    let (min, max) = match value.split_once('-') {
        Some(("", max)) => (1, count(max)?),
        Some((min, "")) => (count(min)?, u32::MAX),
        Some((min, max)) => (count(min)?, count(max)?),
        None => (count(value)?, count(value)?),
    };
    line.dom0_max_vcpus = (1 <= min && min <= max).then_some((min, max));
    line.dom0_max_vcpus.map(|_| ())
}
