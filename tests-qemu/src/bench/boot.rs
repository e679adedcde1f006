//! What a boot takes. In instructions: the hypervisor alone, until dom0's first. In seconds on this machine, and memory:
//! AMD-V in QEMU, with Debian as domU. What a person waits differs with the load of the machine; the CPU time of the
//! emulator does less, but leaves out what is waited for idly.

use anyhow::{Context, Result};

use super::{Dom0, Hypervisor, PATIENCE, grouped};
use crate::runner::Bench;
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

/// Boots each hypervisor with a small guest as dom0 and prints how many instructions are between its first line and
/// dom0's.
///
/// # Errors
/// A machine does not do what is expected of it, or its log has no times.
pub fn measure_entry(vehicle: Vehicle, hypervisors: &[Hypervisor]) -> Result<()> {
    let mut cells = Vec::new();
    for &hypervisor in hypervisors {
        let ticks = entry(vehicle, hypervisor).with_context(|| format!("{hypervisor}, {vehicle}"))?;
        cells.push(grouped(ticks));
    }
    let head = hypervisors.iter().map(|hypervisor| format!("{hypervisor}"));
    row(&format!("instructions, {vehicle}"), head);
    println!("|{:-<42}|{}", "", "----------------:|".repeat(hypervisors.len()));
    row("first line of the log, dom0's first", cells.into_iter());
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
    machine.icount = vehicle == Vehicle::Svm;
    machine.command_line += " dom0_mem=256M";
    machine.modules = vec![Module {
        path: outputs::output("guests/hello")?,
        args: String::new(),
    }];
    match hypervisor {
        // Times come before its clock is set up only as counts.
        Hypervisor::Xen => machine.command_line += " dom0=pvh dom0-iommu=none console_timestamps=raw",
        // The clock starts before the first line.
        Hypervisor::Oxen => machine.command_line += " console_timestamps=boot",
    }
    let log = bench.start(&machine)?.expect(DOM0, PATIENCE)?;
    let mut stamps = log.lines().filter_map(stamp);
    let first = stamps.next().context("no times in the log")?;
    let last = stamps.next_back().context("one time in the log")?;
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
