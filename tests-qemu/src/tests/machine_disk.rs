//! Disks of the machine, which dom0-shim drives and gives to domains. QEMU only: Bochs has no virtio devices.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::debian::{log_in, prompt, shell, to_shell};
use super::{PATIENCE, test};
use crate::runner::{Bench, Test};
use crate::{Machine, Vehicle};

/// The tests.
pub fn tests() -> Vec<Test> {
    vec![
        test("disk of the machine", Vehicle::Svm, disk),
        test("power loss", Vehicle::Svm, power_loss),
    ]
}

const SECTOR: usize = 512;
const MIB: usize = 1 << 20;

/// What is in a disk's sector at first: its number.
fn numbered(sectors: usize) -> Vec<u8> {
    (0..sectors)
        .flat_map(|number| format!("{number:<511}\n").into_bytes())
        .collect()
}

/// Read and written by a domain, and not by two.
fn disk(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    let file = bench.scratch().join("disk.img");
    let mut expected = numbered(16 * MIB / SECTOR);
    std::fs::write(&file, &expected)?;
    machine.disks = vec![file.clone()];
    let mut shim = prompt(bench, machine)?;
    shim.console.type_line("create -c /etc/oxen/debian.cfg")?;
    log_in(shim.console)?;
    shim.detach()?;
    let refused = shim.command("block-attach debian /dev/vdb,raw,xvdb,w")?;
    ensure!(refused.contains("no such disk"), "{refused}");
    shim.command("block-attach debian /dev/vda,raw,xvdb,w")?;
    for access in ["r", "w"] {
        let refused = shim.command(&format!("block-attach debian /dev/vda,raw,xvdc,{access}"))?;
        ensure!(refused.contains("/dev/vda: it is in use"), "{refused}");
    }
    to_shell(&mut shim, "debian")?;
    let read = shell(
        shim.console,
        "while [ ! -e /dev/xvdb ]; do sleep 1; done; dd if=/dev/xvdb bs=64k skip=1 count=1 | head -c 3; \
         dd if=/dev/xvdb bs=1M | md5sum; cat /sys/block/xvdb/size",
    )?;
    let sum = Command::new("md5sum").arg(&file).output().context("md5sum")?;
    let sum = String::from_utf8_lossy(&sum.stdout);
    let sum = sum.split_whitespace().next().context("a sum")?;
    ensure!(
        read.contains("128") && read.contains(sum) && read.contains("32768\n"),
        "{sum}: {read}"
    );
    let written = shell(
        shim.console,
        "dd if=/dev/zero of=/dev/xvdb bs=1M seek=3 count=2 conv=fsync,notrunc && echo all is written",
    )?;
    ensure!(written.contains("\nall is written\n"), "{written}");
    expected[3 * MIB..5 * MIB].fill(0);
    ensure!(std::fs::read(&file)? == expected, "the disk has something else");
    shim.detach()?;
    shim.command("block-detach debian xvdb")?;

    shim.command("block-attach debian /dev/vda,raw,xvdc,r")?;
    to_shell(&mut shim, "debian")?;
    let refused = shell(
        shim.console,
        "while [ ! -e /dev/xvdc ]; do sleep 1; done; dd if=/dev/zero of=/dev/xvdc count=1 conv=notrunc || echo refused",
    )?;
    ensure!(refused.contains("\nrefused\n"), "{refused}");
    ensure!(std::fs::read(&file)? == expected, "a read-only disk was written");
    Ok(())
}

/// Sectors from one record to the next: each in a cluster of its own, whose place in the image QEMU keeps in memory until it is told to
/// flush.
const STRIDE: usize = 160;

/// The machine stops in mid-write. What a domain had flushed is there.
fn power_loss(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    const RECORDS: usize = 40;
    let image = bench.scratch().join("disk.qcow2");
    run(Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2"])
        .arg(&image)
        .arg("64M"))?;
    machine.disks = vec![image.clone()];
    let mut shim = prompt(bench, machine)?;
    shim.console.type_line("create -c /etc/oxen/debian.cfg")?;
    log_in(shim.console)?;
    shim.detach()?;
    shim.command("block-attach debian /dev/vda,raw,xvdb,w")?;
    to_shell(&mut shim, "debian")?;
    shell(shim.console, "while [ ! -e /dev/xvdb ]; do sleep 1; done")?;
    shim.console.type_line(&format!(
        "i=0; while :; do i=$((i+1)); printf '%-511s\\n' \"record $i\" | \
         dd of=/dev/xvdb seek=$((i*{STRIDE})) conv=notrunc,fsync 2>/dev/null; echo flushed $i.; done"
    ))?;
    shim.console.expect(&format!("flushed {RECORDS}."), PATIENCE)?;
    let _ = shim
        .console
        .expect("there is no such line", Duration::from_millis(50));
    let output = shim.console.output();
    bench.stop();

    let flushed = output
        .lines()
        .filter_map(|line| {
            line.strip_prefix("flushed ")?
                .strip_suffix('.')?
                .parse::<usize>()
                .ok()
        })
        .max()
        .context("records")?;
    let raw: PathBuf = bench.scratch().join("disk.raw");
    run(Command::new("qemu-img")
        .args(["convert", "-O", "raw"])
        .arg(&image)
        .arg(&raw))?;
    let found = std::fs::read(raw)?;
    for record in 1..=flushed {
        let sector = found
            .get(record * STRIDE * SECTOR..)
            .and_then(|rest| rest.get(..SECTOR));
        let wanted = format!("{:<511}\n", format!("record {record}"));
        ensure!(
            sector == Some(wanted.as_bytes()),
            "record {record} of {flushed} is lost"
        );
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}
