//! What a boot takes. In instructions: the hypervisor alone, until dom0's first. In seconds on this machine, and memory:
//! AMD-V in QEMU, with Debian as domU. What a person waits differs with the load of the machine; the CPU time of the
//! emulator does less, but leaves out what is waited for idly.

use anyhow::{Context, Result};

use super::{Dom0, Hypervisor, PATIENCE, grouped};
use crate::runner::Bench;
use crate::tests::shim::archive;
use crate::{Console, Machine, Module, Vehicle, outputs, xen};

/// From when to when.
const SPANS: [&str; 4] = [
    "first line of the log, hypervisor done",
    "hypervisor done, dom0's prompt",
    "create, Debian's login prompt",
    "destroy, prompt",
];

/// What one hypervisor takes.
struct Column {
    spans: [Span; SPANS.len()],
    /// RAM of the machine that no domain has and that is not free, in MiB.
    kept: u64,
}

/// Seconds from one moment to another.
struct Span {
    passed: f64,
    /// Of the emulator's CPU time.
    computed: f64,
}

/// Seconds since the machine was started, and those of the emulator's CPU time.
#[derive(Clone, Copy)]
struct Moment {
    passed: f64,
    computed: f64,
}

impl Moment {
    fn now(console: &Console) -> Result<Self> {
        Ok(Moment {
            passed: console.seconds(),
            computed: console.cpu_seconds()?,
        })
    }

    fn to(self, later: Moment) -> Span {
        Span {
            passed: later.passed - self.passed,
            computed: later.computed - self.computed,
        }
    }
}

/// Boots each hypervisor with a small guest as dom0, then with its own dom0 that starts a Debian domU by itself, and prints how
/// many instructions are between its first line and the guest's, and the domU's login prompt.
///
/// # Errors
/// A machine does not do what is expected of it, or its log has no times.
pub fn measure_entry(vehicle: Vehicle, hypervisors: &[Hypervisor]) -> Result<()> {
    let (mut entries, mut logins, mut spans) = (Vec::new(), Vec::new(), Vec::new());
    for &hypervisor in hypervisors {
        let what = || format!("{hypervisor}, {vehicle}");
        entries.push(grouped(entry(vehicle, hypervisor).with_context(what)?));
        let (ticks, span) = login(vehicle, hypervisor).with_context(what)?;
        logins.push(grouped(ticks));
        spans.push(format!("{:.0}, {:.0}", span.passed, span.computed));
    }
    let head = hypervisors.iter().map(|hypervisor| format!("{hypervisor}"));
    row(&format!("instructions, {vehicle}"), head);
    println!("|{:-<42}|{}", "", "----------------:|".repeat(hypervisors.len()));
    row("first line of the log, dom0's first", entries.into_iter());
    row("first line of the log, domU's login", logins.into_iter());
    row("the same in seconds, in CPU time", spans.into_iter());
    println!();
    Ok(())
}

/// Ticks of the time-stamp counter: one is one instruction here.
fn entry(vehicle: Vehicle, hypervisor: Hypervisor) -> Result<u64> {
    /// What the guest begins with.
    const DOM0: &str = "command line: ";
    let mut bench = Bench::new(None)?;
    let mut machine = match hypervisor {
        Hypervisor::Xen => xen::bare_machine(vehicle, &bench.scratch())?,
        Hypervisor::Oxen => Machine::new(vehicle)?,
    };
    machine.icount = (vehicle == Vehicle::Svm).then_some(0);
    machine.command_line += " dom0_mem=256M";
    machine.modules = vec![Module {
        path: outputs::output("guests/hello")?,
        args: String::new(),
    }];
    if hypervisor == Hypervisor::Xen {
        machine.command_line += " dom0=pvh dom0-iommu=none";
    }
    machine.command_line += stamps(hypervisor);
    let log = bench.start(&machine)?.expect(DOM0, PATIENCE)?;
    let last = log.lines().rev().find_map(stamp);
    ticks(hypervisor, &log, last)
}

/// The option for times that [`ticks`] understands.
fn stamps(hypervisor: Hypervisor) -> &'static str {
    match hypervisor {
        // Times come before its clock is set up only as counts.
        Hypervisor::Xen => " console_timestamps=raw",
        // The clock starts before the first line.
        Hypervisor::Oxen => " console_timestamps=boot",
    }
}

/// What has passed from the first line of a log to the time `last`.
fn ticks(hypervisor: Hypervisor, log: &str, last: Option<&str>) -> Result<u64> {
    let first = log.lines().find_map(stamp).context("no times in the log")?;
    let last = last.context("one time in the log")?;
    if hypervisor == Hypervisor::Xen {
        let count = |stamp| u64::from_str_radix(stamp, 16);
        return Ok(count(last)? - count(first)?);
    }
    let mhz: f64 = log
        .split_once("TSC ")
        .and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok())
        .context("no frequency in the log")?;
    Ok((last.trim().parse::<f64>()? * mhz * 1e6) as u64)
}

/// Ticks and seconds until a Debian domU that dom0 starts by itself is about to ask who logs in. It says so by Xen's debug port,
/// so that the hypervisor's log has the time. While all wait ticks go on, up to the next timer.
fn login(vehicle: Vehicle, hypervisor: Hypervisor) -> Result<(u64, Span)> {
    /// Each byte is a write of its own, at the port's offset.
    const SAY: &str = "#!/bin/sh
for letter in L O G I N '\\n'; do
    printf \"$letter\" | dd of=/dev/port bs=1 seek=233 2>/dev/null
done
";
    const INITTAB: &str = "::sysinit:/bin/sh /say\nhvc0::respawn:/sbin/getty 38400 hvc0 vt100\n";
    let mut bench = Bench::new(None)?;
    let (kernel, initrd) = ("boot/vmlinuz", "boot/initrd.gz");
    let more = bench.scratch().join("initrd");
    std::fs::create_dir(&more)?;
    let mut ramdisk = outputs::packed(initrd)?;
    ramdisk.resize(ramdisk.len().next_multiple_of(4), 0);
    ramdisk.extend(std::fs::read(archive(
        &more,
        &[("say", SAY.into()), ("etc/inittab", INITTAB.into())],
    )?)?);
    let config = hypervisor.config(
        "debian",
        "/boot/vmlinuz",
        256,
        "ramdisk='/boot/initrd.gz'\nextra='console=hvc0'",
    );
    let (name, start) = match hypervisor {
        Hypervisor::Xen => ("debian.cfg", "xl create /debian.cfg\n"),
        Hypervisor::Oxen => ("etc/oxen/auto/debian.cfg", ""),
    };
    let mut machine = hypervisor.machine(
        vehicle,
        &bench.scratch(),
        &[
            (name, config.into()),
            ("etc/rc.local", start.into()),
            (kernel, outputs::packed(kernel)?),
            (initrd, ramdisk),
        ],
    )?;
    machine.icount = (vehicle == Vehicle::Svm).then_some(0);
    machine.command_line += stamps(hypervisor);
    let console = bench.start(&machine)?;
    let first = match hypervisor {
        Hypervisor::Xen => "(XEN) ",
        Hypervisor::Oxen => "(oxen) ",
    };
    console.expect(first, PATIENCE)?;
    let begun = Moment::now(console)?;
    console.expect("LOGIN", PATIENCE)?;
    let span = begun.to(Moment::now(console)?);
    let log = console.output();
    let line = log.lines().find(|line| line.contains("LOGIN"));
    Ok((ticks(hypervisor, &log, line.and_then(stamp))?, span))
}

/// The time of a line of the log, as it is written.
fn stamp(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once(") [")?;
    Some(rest.split_once(']')?.0)
}

/// Boots each hypervisor and one Debian on it, and prints the table.
///
/// # Errors
/// A machine does not do what is expected of it.
pub fn measure(hypervisors: &[Hypervisor]) -> Result<()> {
    let mut columns = Vec::new();
    for &hypervisor in hypervisors {
        columns.push(run(hypervisor).with_context(|| hypervisor.to_string())?);
    }
    let head = hypervisors.iter().map(|hypervisor| format!("{hypervisor}"));
    row("seconds, of them the emulator's CPU time", head);
    println!("|{:-<42}|{}", "", "----------------:|".repeat(hypervisors.len()));
    for (index, name) in SPANS.iter().enumerate() {
        let spans = columns.iter().map(|column| &column.spans[index]);
        row(
            name,
            spans.map(|Span { passed, computed }| format!("{passed:.1}, {computed:.1}")),
        );
    }
    row(
        "memory of no domain and not free",
        columns.iter().map(|column| format!("{} MiB", column.kept)),
    );
    println!();
    Ok(())
}

fn row(name: &str, cells: impl Iterator<Item = String>) {
    print!("| {name:<40} |");
    cells.for_each(|cell| print!(" {cell:>15} |"));
    println!();
}

/// The column of a hypervisor.
fn run(hypervisor: Hypervisor) -> Result<Column> {
    let mut bench = Bench::new(None)?;
    let config = hypervisor.config(
        "debian",
        "/boot/vmlinuz",
        256,
        "ramdisk='/boot/initrd.gz'\nextra='console=hvc0'",
    );
    let (kernel, initrd) = ("boot/vmlinuz", "boot/initrd.gz");
    let machine = hypervisor.machine(
        Vehicle::Svm,
        &bench.scratch(),
        &[
            ("debian.cfg", config.into()),
            (kernel, outputs::packed(kernel)?),
            (initrd, outputs::packed(initrd)?),
        ],
    )?;
    let memory = machine.memory;
    let (first, done) = match hypervisor {
        Hypervisor::Xen => ("(XEN) ", "(XEN) Freed "),
        Hypervisor::Oxen => ("(oxen) ", "dom0: "),
    };
    let mut dom0 = Dom0 {
        hypervisor,
        console: bench.start(&machine)?,
    };
    let mut reach = |text| -> Result<Moment> {
        dom0.console.expect(text, PATIENCE)?;
        Moment::now(dom0.console)
    };
    let boot = [reach(first)?, reach(done)?, reach(hypervisor.prompt())?];
    let kept = u64::from(memory) - dom0.free_memory()? - dom0.memory_of_domains()?;
    let creating = Moment::now(dom0.console)?;
    dom0.type_xl("create -c /debian.cfg")?;
    dom0.console.expect("debian login: ", PATIENCE)?;
    let login = Moment::now(dom0.console)?;
    dom0.console.send("\x1d")?;
    dom0.prompt().context("leaving the console")?;
    let destroying = Moment::now(dom0.console)?;
    dom0.xl("destroy debian")?;
    let destroyed = Moment::now(dom0.console)?;
    Ok(Column {
        spans: [
            boot[0].to(boot[1]),
            boot[1].to(boot[2]),
            creating.to(login),
            destroying.to(destroyed),
        ],
        kept,
    })
}

impl Dom0<'_> {
    /// Memory that no domain has, in MiB.
    fn free_memory(&mut self) -> Result<u64> {
        let info = self.xl("info")?;
        let line = info.lines().find(|line| line.starts_with("free_memory"));
        let value = line
            .and_then(|line| line.split(':').nth(1))
            .context("no free_memory in info")?;
        Ok(value.trim().parse()?)
    }

    /// Memory of all domains, in MiB: the third column of the list.
    fn memory_of_domains(&mut self) -> Result<u64> {
        let list = self.xl("list")?;
        let column = |line: &str| -> Option<u64> { line.split_whitespace().nth(2)?.parse().ok() };
        Ok(list.lines().filter_map(column).sum())
    }
}
