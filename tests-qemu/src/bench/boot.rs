//! Seconds on this machine, which differ from run to run, and memory: AMD-V in QEMU.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Dom0, Hypervisor, PATIENCE};
use crate::runner::Bench;
use crate::{Vehicle, outputs};

/// What is compared, and its unit.
const ROWS: [&str; 5] = [
    "first line of the log, hypervisor done, s",
    "hypervisor done, dom0's prompt, s",
    "create, Debian's login prompt, s",
    "destroy, s",
    "memory of no domain, not free, MiB",
];

/// Boots each hypervisor and one Debian on it, and prints the table.
///
/// # Errors
/// A machine does not do what is expected of it.
pub fn measure(hypervisors: &[Hypervisor]) -> Result<()> {
    let mut columns = Vec::new();
    for &hypervisor in hypervisors {
        columns.push(run(hypervisor).with_context(|| hypervisor.to_string())?);
    }
    print!("| AMD-V in QEMU on this machine             |");
    hypervisors
        .iter()
        .for_each(|hypervisor| print!(" {hypervisor:>8} |"));
    print!("\n|-------------------------------------------|");
    hypervisors.iter().for_each(|_| print!("---------:|"));
    println!();
    for (index, row) in ROWS.iter().enumerate() {
        print!("| {row:<41} |");
        columns
            .iter()
            .for_each(|column| print!(" {:>8.1} |", column[index]));
        println!();
    }
    println!();
    Ok(())
}

/// The column of a hypervisor.
fn run(hypervisor: Hypervisor) -> Result<[f64; ROWS.len()]> {
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
            (kernel, packed(kernel)?),
            (initrd, packed(initrd)?),
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
    let mut moments = Vec::new();
    for text in [first, done, hypervisor.prompt()] {
        dom0.console.expect(text, PATIENCE)?;
        moments.push(dom0.console.seconds());
    }
    let kept = u64::from(memory) - dom0.free_memory()? - dom0.memory_of_domains()?;
    let created = dom0.console.seconds();
    dom0.type_xl("create -c /debian.cfg")?;
    dom0.console.expect("debian login: ", PATIENCE)?;
    let login = dom0.console.seconds();
    dom0.console.send("\x1d")?;
    dom0.prompt().context("leaving the console")?;
    let destroying = dom0.console.seconds();
    dom0.xl("destroy debian")?;
    let destroyed = dom0.console.seconds();
    Ok([
        moments[1] - moments[0],
        moments[2] - moments[1],
        login - created,
        destroyed - destroying,
        kept as f64,
    ])
}

/// A file of the boot archive.
fn packed(name: &str) -> Result<Vec<u8>> {
    let archive = std::fs::File::open(outputs::output("boot-archive.cpio")?)?;
    let unpacked = Command::new("cpio")
        .args(["--quiet", "--extract", "--to-stdout", name])
        .stdin(archive)
        .output()
        .context("cpio does not start")?;
    ensure!(
        unpacked.status.success() && !unpacked.stdout.is_empty(),
        "{name} is not in the boot archive"
    );
    Ok(unpacked.stdout)
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
