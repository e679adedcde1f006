//! Measures Oxen in the emulators and prints tables.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use tests_qemu::outputs::{self, root};
use tests_qemu::runner::Bench;
use tests_qemu::tests::shim::{Shim, archive};
use tests_qemu::{Machine, Vehicle};

/// Measures Oxen in the emulators, beside what Debian's Xen 4.17 takes there: instructions for each exit and hypercall,
/// seconds to boot, bytes, lines of code.
///
/// `scripts/bench sched` measures the scheduler on simulated CPUs instead: shares, latencies, cost of decisions.
#[derive(Parser)]
#[command(name = "scripts/bench", version)]
struct Options {
    /// Only VT-x
    #[arg(long, group = "vehicle")]
    vmx: bool,
    /// Only AMD-V
    #[arg(long, group = "vehicle")]
    svm: bool,
}

/// Nothing takes so long.
const PATIENCE: Duration = Duration::from_secs(900);

/// Instructions that Debian's Xen 4.17 takes for an operation.
struct Xen {
    operation: &'static str,
    /// On VT-x in Bochs.
    vmx: u64,
    /// On AMD-V in QEMU with `-icount`.
    svm: u64,
}

/// Measured by our guest and another like it, as domUs: the least of all runs.
const XEN: &[Xen] = &[
    xen("null hypercall", 879, 5470),
    xen("unknown hypercall", 839, 5433),
    xen("yield", 2757, 7251),
    xen("CPUID", 876, 5345),
    xen("RDMSR (APIC base)", 775, 5257),
    xen("local APIC read", 1, 13_968),
    xen("local APIC write", 3, 17_602),
    xen("unused port", 1279, 1098),
    xen("#DB", 968, 728),
    xen("event send", 5947, 10_104),
    xen("event send and upcall", 7005, 10_887),
    xen("hvm_op get_param", 10_919, 14_299),
    xen("set single-shot timer", 6198, 10_358),
    xen("stop single-shot timer", 993, 5922),
    xen("timer due to woken", 6257, 5908),
    xen("send, block, switch", 21_273, 28_666),
    xen("IPI to itself", 70, 37_877),
    xen("WRMSR (EFER)", 948, 5256),
    xen("WBINVD", 723, 5633),
    xen("event send, FIFO", 6285, 10_456),
    xen("grant copy, 4 KiB", 13_985, 17_069),
    xen("get_features", 10_871, 13_244),
];

const fn xen(operation: &'static str, vmx: u64, svm: u64) -> Xen {
    Xen { operation, vmx, svm }
}

fn main() -> Result<()> {
    let options = Options::parse();
    let both = !options.vmx && !options.svm;
    for vehicle in [Vehicle::Vmx, Vehicle::Svm] {
        if both || options.vmx && vehicle == Vehicle::Vmx || options.svm && vehicle == Vehicle::Svm {
            exits(vehicle)?;
        }
    }
    boot()?;
    sizes()
}

/// The test guests `bench` and `blkfront` as domUs, and the floor beside them.
fn exits(vehicle: Vehicle) -> Result<()> {
    let config = "name='bench'\ntype='pvh'\nkernel='/bench'\nmemory=32\nvcpus=2\non_poweroff='destroy'\n";
    let block = |extra: &str| {
        format!(
            "name='block'\ntype='pvh'\nkernel='/blkfront'\nmemory=32\non_poweroff='destroy'\nextra='bench {extra}'\n\
             disk=['ram:64K,xvda,rw']\n"
        )
    };
    let mut bench = Bench::new(None)?;
    let archive = archive(
        &bench.scratch(),
        &[
            ("bench", fs::read(outputs::output("guests/bench")?)?),
            ("bench.cfg", config.into()),
            ("blkfront", fs::read(outputs::output("guests/blkfront")?)?),
            ("copied.cfg", block("").into()),
            ("persistent.cfg", block("persistent").into()),
        ],
    )?;
    let mut machine = Machine::new(vehicle)?;
    machine.icount = vehicle == Vehicle::Svm;
    machine.command_line += " bench=floor";
    let shim = Shim::start(&mut bench, machine, archive)?;
    shim.console.type_line("create /bench.cfg")?;
    shim.console.expect("RESULT pass", PATIENCE)?;
    for block in ["copied", "persistent"] {
        shim.console.type_line(&format!("create /{block}.cfg"))?;
        shim.console.expect("RESULT pass", PATIENCE)?;
    }
    let output = shim.console.output();
    let floor = output
        .lines()
        .find_map(|line| line.split_once("floor         ")?.1.split_once(" TSC ticks"))
        .and_then(|(ticks, _)| ticks.parse::<u64>().ok())
        .context("Oxen did not log the floor")?;
    let title = match vehicle {
        Vehicle::Vmx => "VT-x in Bochs",
        _ => "AMD-V in QEMU",
    };
    println!("Instructions of a domU, {title} (floor: {floor})\n");
    println!("| operation               | Xen 4.17 |   Oxen | Oxen/Xen | Oxen/floor |");
    println!("|-------------------------|---------:|-------:|---------:|-----------:|");
    let mut rows = 0;
    for (name, ticks) in output
        .lines()
        .filter_map(|line| line.split_once("BENCH ")?.1.split_once(": "))
    {
        let ticks: u64 = ticks
            .trim()
            .parse()
            .with_context(|| format!("{name}: {ticks:?}"))?;
        let xen = XEN
            .iter()
            .find(|xen| xen.operation == name)
            .map(|xen| if vehicle == Vehicle::Vmx { xen.vmx } else { xen.svm });
        println!(
            "| {name:<23} | {:>8} | {ticks:>6} | {:>8} | {:>10.1} |",
            xen.map_or("-".into(), |xen| xen.to_string()),
            xen.map_or("-".into(), |xen| format!("{:.3}", ticks as f64 / xen as f64)),
            ticks as f64 / floor as f64,
        );
        rows += 1;
    }
    ensure!(rows > 0, "the guest measured nothing");
    println!();
    Ok(())
}

/// Seconds on this machine, AMD-V in QEMU: they differ from run to run.
fn boot() -> Result<()> {
    let mut bench = Bench::new(None)?;
    let machine = Machine::new(Vehicle::Svm)?;
    let shim = Shim::start(&mut bench, machine, outputs::output("boot-archive.cpio")?)?;
    let output = shim.console.output();
    let stamp = |text: &str| -> Option<f64> {
        let line = output.lines().find(|line| line.contains(text))?;
        line.split_once('[')?.1.split_once(']')?.0.trim().parse().ok()
    };
    let to_dom0 = stamp("dom0: ").context("no dom0 line")? - stamp("] Oxen ").context("no first line")?;
    let kept = output
        .lines()
        .find_map(|line| line.split_once("kept ")?.1.split_once(" KiB"));
    let created = shim.console.seconds();
    shim.console.type_line("create -c debian")?;
    shim.console.expect("debian login: ", PATIENCE)?;
    let to_login = shim.console.seconds() - created;
    println!("Seconds, AMD-V in QEMU on this machine\n");
    println!("| from, to                                  | Xen 4.17 | Oxen  |");
    println!("|-------------------------------------------|---------:|------:|");
    println!("| first line of the log, dom0 built         |      3.1 | {to_dom0:5.2} |");
    println!("| create, Debian's login prompt             |      6.5 | {to_login:5.2} |");
    println!();
    println!(
        "Kept beside image and modules: {} KiB\n",
        kept.map_or("?", |(kib, _)| kib.trim())
    );
    Ok(())
}

/// Bytes of the image, lines of the sources.
fn sizes() -> Result<()> {
    let bytes = |name: &str| -> Result<u64> { Ok(fs::metadata(outputs::output(name)?)?.len()) };
    println!("| bytes   |  Xen 4.17 |    Oxen |");
    println!("|---------|----------:|--------:|");
    println!("| image   | 2 500 000 | {:>7} |", bytes("oxen")?);
    println!("| gzipped | 1 200 000 | {:>7} |", bytes("oxen.gz")?);
    println!();
    println!("| lines of Rust (no comments, no blanks) |        |");
    println!("|----------------------------------------|-------:|");
    for part in ["abi", "boot", "hypervisor", "dom0-shim", "tests-qemu"] {
        println!("| {part:<38} | {:>6} |", lines(&root().join(part))?);
    }
    Ok(())
}

fn lines(directory: &Path) -> Result<usize> {
    let mut sum = 0;
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            sum += lines(&path)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path)?;
            let code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with("//");
            sum += text.lines().filter(code).count();
        }
    }
    Ok(sum)
}
