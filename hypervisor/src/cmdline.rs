//! The hypervisor's command line: Xen's names for Xen's things.
//!
//! One table, [`OPTIONS`], says which there are. What is unknown or malformed is named in [`CommandLine::complaints`], and the rest is used.

use core::fmt;

use arrayvec::ArrayVec;
use log::LevelFilter;

use crate::arch::speculation::{Defences, Wish};
use crate::hw::input::Switch;
use crate::hw::serial::SerialPort;
use crate::sched::Granularity;

/// What is printed of the messages that guests cause.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuestLevels {
    /// All that are at least so severe.
    pub always: LevelFilter,
    /// As many of the others as are not too many, if they are at least so severe.
    pub limited: LevelFilter,
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

/// An amount of memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemorySize {
    /// Bytes.
    Bytes(u64),
    /// All of the machine's memory but so many bytes.
    AllBut(u64),
}

impl MemorySize {
    /// In bytes, on a machine with `total` bytes.
    pub fn of(self, total: u64) -> u64 {
        match self {
            MemorySize::Bytes(bytes) => bytes,
            MemorySize::AllBut(bytes) => total.saturating_sub(bytes),
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
    /// Locks are taken in the wrong order.
    LockOrder,
    /// The TSCs of other CPUs seem to be behind the first one's.
    Skew,
    /// The TSC of a CPU jumps, by so many seconds.
    Tsc(i64),
}

/// What to complain about, for the boot log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Complaint<'a> {
    /// No such option.
    Unknown(&'a str),
    /// The value is not of the option's form, which is named.
    Malformed(&'a str, &'static str),
    /// A valid option of Xen which has no effect here.
    NoEffect(&'a str),
}

impl fmt::Display for Complaint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Complaint::Unknown(word) => write!(f, "command line: unknown option \"{word}\" is ignored"),
            Complaint::Malformed(word, form) => {
                write!(f, "command line: \"{word}\" is ignored: expected {form}")
            }
            Complaint::NoEffect(word) => write!(f, "command line: \"{word}\" has no effect"),
        }
    }
}

/// How many complaints are kept; a command line with more is beyond help.
const MAX_COMPLAINTS: usize = 16;

/// The options, as given or by default.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommandLine<'a> {
    /// COM1, if the console uses it.
    pub com1: SerialPort,
    /// COM2, if the console uses it.
    pub com2: SerialPort,
    /// `console=`: which ports the log goes to.
    pub console_com1: bool,
    /// The same for COM2.
    pub console_com2: bool,
    /// `conswitch=`: how the reader of the console goes from dom0 to the hypervisor.
    pub switch: Switch,
    /// `loglvl=`: what is printed of the hypervisor's messages.
    pub level: LevelFilter,
    /// `guest_loglvl=`: what is printed of the messages that guests cause.
    pub guest_levels: GuestLevels,
    /// `dom0_mem=`.
    pub dom0_mem: Dom0Memory,
    /// `dom0_max_vcpus=`: at least, at most.
    pub dom0_max_vcpus: Option<(u32, u32)>,
    /// `dom0_vcpus_pin`: each of dom0's vCPUs stays on the CPU of its number.
    pub dom0_vcpus_pin: bool,
    /// `maxcpus=`: how many CPUs are used.
    pub max_cpus: u32,
    /// `watchdog` and `watchdog_timeout=`: seconds after which a CPU that stands still makes the machine panic.
    pub watchdog: Option<u32>,
    watchdog_timeout: u32,
    /// `crash_test=`: what debug key `C` does instead of a plain panic.
    pub crash_test: Option<CrashTest>,
    /// `apicv`: the hardware sees to guests' local APICs, where it can.
    pub apicv: bool,
    /// `ept=exec-sp`: guests may execute from large pages (Xen's superpages); `None`: where that is no danger.
    pub large_code: Option<bool>,
    /// `mwait-idle`: CPUs with nothing to do wait by MWAIT where it is known to be good.
    pub mwait_idle: bool,
    /// `spec-ctrl=`: what is done against attacks by speculation.
    pub defences: Wish,
    /// `tsc=unstable`: time is another clock's.
    pub tsc_unstable: bool,
    /// `reboot=`: how the machine is reset.
    pub reset: Reset,
    /// `sched-gran=`: which CPUs do not run different domains at the same time.
    pub granularity: Granularity,
    /// `noreboot`: after a panic, or when dom0 asks for a reboot, the machine stands still.
    pub noreboot: bool,
    /// `bench=floor`: log what a bare world switch costs here, before dom0 is built.
    pub bench_floor: bool,
    /// What was wrong.
    pub complaints: ArrayVec<Complaint<'a>, MAX_COMPLAINTS>,
}

impl Default for CommandLine<'_> {
    fn default() -> Self {
        Self {
            com1: SerialPort::at(0x3f8, 4),
            com2: SerialPort::at(0x2f8, 3),
            console_com1: true,
            console_com2: false,
            switch: Switch::DEFAULT,
            level: LevelFilter::Info,
            guest_levels: GuestLevels {
                always: LevelFilter::Off,
                limited: LevelFilter::Warn,
            },
            dom0_mem: Dom0Memory::default(),
            dom0_max_vcpus: None,
            dom0_vcpus_pin: false,
            max_cpus: u32::MAX,
            watchdog: None,
            watchdog_timeout: 5,
            crash_test: None,
            apicv: true,
            large_code: None,
            mwait_idle: false,
            defences: Wish::NONE,
            tsc_unstable: false,
            reset: Reset::Acpi,
            granularity: Granularity::Cpu,
            noreboot: false,
            bench_floor: false,
            complaints: ArrayVec::new_const(),
        }
    }
}

impl CommandLine<'_> {
    /// The ports that the console is at.
    pub fn console_ports(&self) -> ArrayVec<SerialPort, 2> {
        let used = [
            self.console_com1.then_some(self.com1),
            self.console_com2.then_some(self.com2),
        ];
        used.into_iter().flatten().collect()
    }

    /// How many vCPUs dom0 gets on a machine that runs guests on `cpus` CPUs: as many, within the limits of `dom0_max_vcpus`.
    pub fn dom0_vcpus(&self, cpus: u32) -> u32 {
        let (least, most) = self.dom0_max_vcpus.unwrap_or((1, u32::MAX));
        cpus.clamp(least, most)
    }
}

/// What an option does.
enum Action {
    /// Takes a value.
    Value(fn(&mut CommandLine<'_>, &str) -> Option<()>),
    /// True or false (`name`, `no-name`, `name=BOOL`).
    Flag(fn(&mut CommandLine<'_>, bool)),
    /// One of these values is what happens anyway; others have no effect.
    Only(&'static [&'static str]),
}

/// Name, form of the value, and action.
const OPTIONS: &[(&str, &str, Action)] = &[
    (
        "console",
        "a list of com1, com2, vga, none",
        Action::Value(console),
    ),
    (
        "com1",
        "BAUD[,DPS[,IO_BASE[,IRQ]]]",
        Action::Value(|line, value| {
            line.com1 = line.com1.with(value)?;
            Some(())
        }),
    ),
    (
        "com2",
        "BAUD[,DPS[,IO_BASE[,IRQ]]]",
        Action::Value(|line, value| {
            line.com2 = line.com2.with(value)?;
            Some(())
        }),
    ),
    (
        "conswitch",
        "a LETTER, with an x behind it or not",
        Action::Value(|line, value| {
            line.switch = Switch::parse(value)?;
            Some(())
        }),
    ),
    (
        "loglvl",
        "LEVEL[/RATE-LIMITED LEVEL]",
        Action::Value(|line, value| level(&mut line.level, value)),
    ),
    (
        "guest_loglvl",
        "LEVEL[/RATE-LIMITED LEVEL]",
        Action::Value(guest_levels),
    ),
    (
        "dom0_mem",
        "a list of SIZE, min:SIZE, max:SIZE",
        Action::Value(dom0_mem),
    ),
    (
        "dom0_max_vcpus",
        "NUMBER or MIN-MAX",
        Action::Value(dom0_max_vcpus),
    ),
    (
        "dom0_vcpus_pin",
        "a boolean",
        Action::Flag(|line, value| line.dom0_vcpus_pin = value),
    ),
    (
        "maxcpus",
        "a NUMBER from 1 on",
        Action::Value(|line, value| {
            line.max_cpus = value.parse().ok().filter(|&count| count > 0)?;
            Some(())
        }),
    ),
    (
        "sched-gran",
        "cpu, core or socket",
        Action::Value(|line, value| {
            line.granularity = match value {
                "cpu" => Granularity::Cpu,
                "core" => Granularity::Core,
                "socket" => Granularity::Socket,
                _ => return None,
            };
            Some(())
        }),
    ),
    (
        "noreboot",
        "a boolean",
        Action::Flag(|line, value| line.noreboot = value),
    ),
    (
        "reboot",
        "acpi, Power, pci, kbd, triple or no",
        Action::Value(reboot),
    ),
    (
        "watchdog",
        "a boolean",
        Action::Flag(|line, value| line.watchdog = value.then_some(line.watchdog_timeout)),
    ),
    (
        "watchdog_timeout",
        "a NUMBER of seconds; 0 switches the watchdog off",
        Action::Value(watchdog_timeout),
    ),
    (
        "crash_test",
        "hang, lock-order, skew, tsc-ahead or tsc-behind",
        Action::Value(|line, value| {
            line.crash_test = match value {
                "hang" => Some(CrashTest::Hang),
                "lock-order" => Some(CrashTest::LockOrder),
                "skew" => Some(CrashTest::Skew),
                "tsc-ahead" => Some(CrashTest::Tsc(10)),
                "tsc-behind" => Some(CrashTest::Tsc(-10)),
                _ => None,
            };
            line.crash_test.map(|_| ())
        }),
    ),
    (
        "apicv",
        "a boolean",
        Action::Flag(|line, value| line.apicv = value),
    ),
    (
        "ept",
        "exec-sp, no-exec-sp or exec-sp=BOOL",
        Action::Value(|line, value| {
            line.large_code = Some(match value.split_once('=') {
                Some(("exec-sp", value)) => boolean(value)?,
                None if value == "exec-sp" => true,
                None if value == "no-exec-sp" => false,
                _ => return None,
            });
            Some(())
        }),
    ),
    (
        "tsc",
        "unstable",
        Action::Value(|line, value| {
            line.tsc_unstable = value == "unstable";
            line.tsc_unstable.then_some(())
        }),
    ),
    (
        "spec-ctrl",
        "no, or a list of ibrs=BOOL, ibpb=BOOL, l1d-flush=BOOL, md-clear=BOOL",
        Action::Value(spec_ctrl),
    ),
    (
        "mwait-idle",
        "a boolean",
        Action::Flag(|line, value| line.mwait_idle = value),
    ),
    (
        "bench",
        "floor",
        Action::Value(|line, value| {
            line.bench_floor = value == "floor";
            line.bench_floor.then_some(())
        }),
    ),
    ("dom0", "pvh", Action::Only(&["pvh"])),
    ("sched", "a scheduler", Action::Only(&["credit2"])),
    (
        "iommu",
        "a list of IOMMU settings",
        Action::Only(&["off", "no", "false", "0"]),
    ),
    (
        "dom0-iommu",
        "a list of IOMMU settings",
        Action::Only(&["none", "off"]),
    ),
    ("console_timestamps", "a format", Action::Only(&["boot"])),
    ("ucode", "a microcode source", Action::Only(&["no"])),
    ("crashkernel", "a size", Action::Only(&[])),
    ("cpufreq", "a governor", Action::Only(&["none"])),
    ("smt", "a boolean", Action::Only(&["1", "on", "yes", "true"])),
    ("vga", "a mode", Action::Only(&["text-80x25"])),
    (
        "x2apic_phys",
        "a boolean",
        Action::Only(&["1", "on", "yes", "true"]),
    ),
];

/// Read a command line. Words are separated by spaces; a word `--` ends what is ours.
pub fn parse(text: &str) -> CommandLine<'_> {
    let mut line = CommandLine::default();
    for word in text.split_ascii_whitespace().take_while(|&word| word != "--") {
        if let Some(complaint) = option(&mut line, word) {
            let _ = line.complaints.try_push(complaint);
        }
    }
    line
}

fn option<'a>(line: &mut CommandLine<'_>, word: &'a str) -> Option<Complaint<'a>> {
    let (name, value) = word
        .split_once('=')
        .map_or((word, None), |(name, value)| (name, Some(value)));
    let find = |name: &str| OPTIONS.iter().find(|(option, ..)| *option == name);
    let negated = || find(name.strip_prefix("no-")?).filter(|_| value.is_none());
    let ((_, form, action), on) = match find(name) {
        Some(option) => (option, true),
        None => match negated() {
            Some(option) => (option, false),
            None => return Some(Complaint::Unknown(word)),
        },
    };
    let done = match action {
        Action::Value(set) => value.filter(|_| on).and_then(|value| set(line, value)),
        Action::Flag(set) => value.map_or(Some(on), boolean).map(|value| set(line, value)),
        Action::Only(values) => {
            let value = value.unwrap_or(if on { "1" } else { "0" });
            if !values.contains(&value) {
                return Some(Complaint::NoEffect(word));
            }
            Some(())
        }
    };
    done.is_none().then_some(Complaint::Malformed(word, form))
}

fn boolean(value: &str) -> Option<bool> {
    match value {
        "1" | "on" | "yes" | "true" | "enable" => Some(true),
        "0" | "off" | "no" | "false" | "disable" => Some(false),
        _ => None,
    }
}

/// As for Xen, `no` is the only boolean by itself, and each of the list can be `NAME`, `no-NAME` or `NAME=BOOL`.
fn spec_ctrl(line: &mut CommandLine<'_>, value: &str) -> Option<()> {
    let mut wish = line.defences;
    for word in value.split(',') {
        if boolean(word) == Some(false) {
            (wish.on, wish.off) = (Defences::empty(), Defences::all());
            continue;
        }
        let (name, on) = match (word.split_once('='), word.strip_prefix("no-")) {
            (Some((name, value)), _) => (name, boolean(value)?),
            (None, Some(name)) => (name, false),
            (None, None) => (word, true),
        };
        let which = match name {
            "ibrs" => Defences::IBRS,
            "ibpb" => Defences::IBPB,
            "l1d-flush" => Defences::L1D_FLUSH,
            "md-clear" => Defences::MD_CLEAR,
            _ => return None,
        };
        wish.on.set(which, on);
        wish.off.set(which, !on);
    }
    line.defences = wish;
    Some(())
}

fn console(line: &mut CommandLine<'_>, value: &str) -> Option<()> {
    let (mut com1, mut com2) = (false, false);
    for device in value.split(',') {
        match device {
            "com1" => com1 = true,
            "com2" => com2 = true,
            "vga" | "none" => {}
            _ => return None,
        }
    }
    (line.console_com1, line.console_com2) = (com1, com2);
    Some(())
}

/// A number in decimal, or in hexadecimal with `0x`.
pub(crate) fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Xen's levels. The one after the slash is the limit for messages that are rate-limited; ours are not, so it takes no effect.
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

/// The hypervisor's own messages are not limited.
fn level(level: &mut LevelFilter, value: &str) -> Option<()> {
    *level = levels(value)?.always;
    Some(())
}

fn guest_levels(line: &mut CommandLine<'_>, value: &str) -> Option<()> {
    line.guest_levels = levels(value)?;
    Some(())
}

/// A number of bytes with Xen's suffixes; a plain number counts KiB.
fn size(text: &str) -> Option<u64> {
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

fn memory_size(text: &str) -> Option<MemorySize> {
    match text.strip_prefix('-') {
        Some(rest) => size(rest).map(MemorySize::AllBut),
        None => size(text).map(MemorySize::Bytes),
    }
}

fn dom0_mem(line: &mut CommandLine<'_>, value: &str) -> Option<()> {
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
fn reboot(line: &mut CommandLine<'_>, value: &str) -> Option<()> {
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

fn watchdog_timeout(line: &mut CommandLine<'_>, value: &str) -> Option<()> {
    line.watchdog_timeout = value.parse().ok()?;
    line.watchdog = line.watchdog.map(|_| line.watchdog_timeout);
    Some(())
}

fn dom0_max_vcpus(line: &mut CommandLine<'_>, value: &str) -> Option<()> {
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

#[cfg(test)]
#[path = "cmdline_tests.rs"]
mod tests;
