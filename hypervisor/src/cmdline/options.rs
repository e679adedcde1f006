//! The options: their names, what they take, what they do.

use super::values::{
    boolean, clock_source, console, dom0_max_vcpus, dom0_mem, guest_levels, level, number_in, reboot, size,
    spec_ctrl, stamps, watchdog, watchdog_timeout,
};
use super::{CommandLine, CrashTest};
use abi::sysctl::{XEN_SYSCTL_SCHED_RATELIMIT_MAX, XEN_SYSCTL_SCHED_RATELIMIT_MIN};

use crate::hw::input::Switch;
use crate::sched::Granularity;

/// What an option does.
pub(super) enum Action {
    /// Takes a value.
    Value(fn(&mut CommandLine<'_>, &str) -> Option<()>),
    /// True or false (`name`, `no-name`, `name=BOOL`).
    Flag(fn(&mut CommandLine<'_>, bool)),
    /// Takes a value, or is on (`name`) or off (`no-name`), which are given as words.
    Either(fn(&mut CommandLine<'_>, &str) -> Option<()>),
    /// One of these values is what happens anyway; others have no effect.
    Only(&'static [&'static str]),
}

/// Name, form of the value, and action.
pub(super) const OPTIONS: &[(&str, &str, Action)] = &[
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
        "LETTER or LETTERx, or 0",
        Action::Value(|line, value| {
            line.switch = Switch::parse(value)?;
            Some(())
        }),
    ),
    (
        "console_timestamps",
        "none, date, datems, boot or raw",
        Action::Value(stamps),
    ),
    (
        "sync_console",
        "a boolean",
        Action::Flag(|line, value| line.sync_console = value),
    ),
    (
        "conring_size",
        "a SIZE up to 64M",
        Action::Value(|line, value| {
            line.log_size = Some(size(value).filter(|&size| size <= 64 << 20)?);
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
        "a list of SIZE, min:SIZE, max:SIZE, where SIZE may be PERCENT% or SIZE+PERCENT%",
        Action::Value(dom0_mem),
    ),
    (
        "mem",
        "a SIZE",
        Action::Value(|line, value| {
            // None at all is no limit, as in Xen.
            line.memory_end = Some(size(value)?).filter(|&end| end > 0).unwrap_or(u64::MAX);
            Some(())
        }),
    ),
    (
        "gnttab_max_frames",
        "a NUMBER from 1 to 4096",
        Action::Value(|line, value| {
            line.grant_limits.frames = number_in(value, 1..=4096)?;
            Some(())
        }),
    ),
    (
        "gnttab_max_maptrack_frames",
        "a NUMBER up to 65536",
        Action::Value(|line, value| {
            line.grant_limits.maptrack_frames = number_in(value, 0..=65_536)?;
            Some(())
        }),
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
        "nosmp",
        "a boolean",
        Action::Flag(|line, value| line.no_smp = value),
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
        "sched_ratelimit_us",
        "0, or a NUMBER of microseconds from 100 to 500000",
        Action::Value(|line, value| {
            let limit = number_in(value, 0..=XEN_SYSCTL_SCHED_RATELIMIT_MAX)?;
            line.rate_limit_us =
                Some(limit).filter(|&limit| limit == 0 || limit >= XEN_SYSCTL_SCHED_RATELIMIT_MIN);
            line.rate_limit_us.map(|_| ())
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
    ("watchdog", "force or a boolean", Action::Either(watchdog)),
    (
        "watchdog_timeout",
        "a NUMBER of seconds; 0 switches the watchdog off",
        Action::Value(watchdog_timeout),
    ),
    (
        "crash_test",
        "hang, fault, stack, lock-order, skew, adjust, tsc-ahead or tsc-behind",
        Action::Value(|line, value| {
            line.crash_test = match value {
                "hang" => Some(CrashTest::Hang),
                "fault" => Some(CrashTest::Fault),
                "stack" => Some(CrashTest::Stack),
                "lock-order" => Some(CrashTest::LockOrder),
                "skew" => Some(CrashTest::Skew),
                "adjust" => Some(CrashTest::Adjust),
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
        "x2apic",
        "a boolean",
        Action::Flag(|line, value| line.x2apic = Some(value)),
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
        "clocksource",
        "hpet, acpi or tsc (the PIT cannot be used)",
        Action::Value(clock_source),
    ),
    (
        "spec-ctrl",
        "no, or a list of NAME=BOOL, with names ibrs, stibp, bhi-dis-s, bp-spec-reduce, ibpb, ibpb-entry, rsb, bhb-entry, \
         l1d-flush, md-clear, verw and div-scrub",
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
    // What Debian's GRUB gives to Xen: nothing is asked of a BIOS here.
    ("placeholder", "nothing", Action::Only(&["1"])),
    ("no-real-mode", "nothing", Action::Only(&["1"])),
    ("edd", "off", Action::Only(&["off"])),
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
