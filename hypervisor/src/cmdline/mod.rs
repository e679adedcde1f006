//! The hypervisor's command line: Xen's names for Xen's things.
//!
//! One table, [`OPTIONS`], says which there are; [`values`] has what they take. What is unknown or malformed is named in
//! [`CommandLine::complaints`], and the rest is used.

mod options;
mod values;

use core::fmt;

use arrayvec::ArrayVec;
use log::LevelFilter;

use crate::arch::speculation::Wish;
use crate::grant;
use crate::hw::input::Switch;
use crate::hw::serial::SerialPort;
use crate::sched::Granularity;
use options::{Action, OPTIONS};
use values::boolean;

pub(crate) use values::number;
pub use values::{CrashTest, Dom0Memory, GuestLevels, MemorySize, Reset, Stamps};

/// What to complain about, for the boot log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Complaint<'a> {
    /// No such option.
    Unknown(&'a str),
    /// The value is not of the option's form, which is named.
    Malformed(&'a str, &'static str),
    /// A valid option of Xen which has no effect here.
    NoEffect(&'a str),
    /// The console is to be on a screen.
    NoScreen,
}

impl fmt::Display for Complaint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Complaint::Unknown(word) => write!(f, "command line: unknown option \"{word}\" is ignored"),
            Complaint::Malformed(word, form) => {
                write!(f, "command line: \"{word}\" is ignored: expected {form}")
            }
            Complaint::NoEffect(word) => write!(f, "command line: \"{word}\" has no effect"),
            Complaint::NoScreen => f.write_str(
                "command line: \"console=vga\" shows nothing: there is no driver for screens, only serial ports (com1, com2)",
            ),
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
    console_vga: bool,
    /// `conring_size=`: bytes of the log that are kept at least, if the default is not what is wanted.
    pub log_size: Option<u64>,
    /// `conswitch=`: how the reader of the console goes from dom0 to the hypervisor.
    pub switch: Switch,
    /// `sync_console`: who writes to the console waits until all is sent.
    pub sync_console: bool,
    /// `console_timestamps=`.
    pub stamps: Stamps,
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
    /// `mem=`: RAM from this address on is not used.
    pub memory_end: u64,
    /// `gnttab_max_frames=` and `gnttab_max_maptrack_frames=`.
    pub grant_limits: grant::Limits,
    /// `maxcpus=`: how many CPUs are used.
    pub max_cpus: u32,
    /// `nosmp`: the others are not even started.
    pub no_smp: bool,
    /// `watchdog` and `watchdog_timeout=`: seconds after which a CPU that stands still makes the machine panic.
    pub watchdog: Option<u32>,
    watchdog_timeout: u32,
    /// `watchdog=force`: it watches even if no NMI comes when that is tried.
    pub watchdog_force: bool,
    /// `crash_test=`: what debug key `C` does instead of a plain panic.
    pub crash_test: Option<CrashTest>,
    /// `apicv`: the hardware sees to guests' local APICs, where it can.
    pub apicv: bool,
    /// `x2apic=`: local APICs are x2APICs; `None`: where firmware does not advise against it.
    pub x2apic: Option<bool>,
    /// `ept=exec-sp`: guests may execute from large pages (Xen's superpages); `None`: where that is no danger.
    pub large_code: Option<bool>,
    /// `mwait-idle`: CPUs with nothing to do wait by MWAIT where it is known to be good.
    pub mwait_idle: bool,
    /// `spec-ctrl=`: what is done against attacks by speculation.
    pub defences: Wish,
    /// `tsc=unstable`: time is another clock's.
    pub tsc_unstable: bool,
    /// `clocksource=acpi`: that is the PM timer, even if there is an HPET.
    pub prefers_pm_timer: bool,
    /// `reboot=`: how the machine is reset.
    pub reset: Reset,
    /// `sched_ratelimit_us=`: how long a vCPU runs before one that was woken takes its CPU, if the default is not what is wanted.
    pub rate_limit_us: Option<u32>,
    /// `sched-gran=`: which CPUs do not run different domains at the same time.
    pub granularity: Granularity,
    /// `noreboot`: after a panic, or when dom0 has crashed, the machine stands still.
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
            console_vga: false,
            log_size: None,
            switch: Switch::DEFAULT,
            sync_console: false,
            stamps: Stamps::default(),
            level: LevelFilter::Info,
            guest_levels: GuestLevels {
                always: LevelFilter::Off,
                limited: LevelFilter::Warn,
            },
            dom0_mem: Dom0Memory::default(),
            dom0_max_vcpus: None,
            dom0_vcpus_pin: false,
            memory_end: u64::MAX,
            grant_limits: grant::Limits::DEFAULT,
            max_cpus: u32::MAX,
            no_smp: false,
            watchdog: None,
            watchdog_timeout: 5,
            watchdog_force: false,
            crash_test: None,
            apicv: true,
            x2apic: None,
            large_code: None,
            mwait_idle: false,
            defences: Wish::NONE,
            tsc_unstable: false,
            prefers_pm_timer: false,
            reset: Reset::Acpi,
            rate_limit_us: None,
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

/// Read a command line. Words are separated by spaces; a word `--` ends what is ours.
pub fn parse(text: &str) -> CommandLine<'_> {
    let mut line = CommandLine::default();
    for word in text.split_ascii_whitespace().take_while(|&word| word != "--") {
        if let Some(complaint) = option(&mut line, word) {
            let _ = line.complaints.try_push(complaint);
        }
    }
    if line.console_vga {
        let _ = line.complaints.try_push(Complaint::NoScreen);
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
        Action::Either(set) => set(line, value.unwrap_or(if on { "yes" } else { "no" })),
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

#[cfg(test)]
mod tests;
