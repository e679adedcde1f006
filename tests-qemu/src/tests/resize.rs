//! A stock Debian domU gets more and less of what it has while it runs.

use anyhow::{Context, Result, ensure};

use super::debian::{log_in, prompt, shell, to_shell};
use super::shim::Shim;
use super::{BOTH, test};
use crate::runner::{Bench, Test};
use crate::{Machine, Vehicle};

const FRAMES_OF_MIB: u64 = 256;

/// The tests.
pub fn tests() -> Vec<Test> {
    BOTH.into_iter()
        .flat_map(|vehicle| {
            [
                test("vCPUs come and go", vehicle, vcpus),
                test("memory comes and goes", vehicle, memory),
            ]
        })
        // What the domU's kernel does for this is the same on both vendors, and takes Bochs minutes.
        .chain([test("memory that is new to a domU", Vehicle::Svm, hot_add)])
        .collect()
}

/// A command at the shim's prompt, from the domU's shell and back to it.
fn at_prompt(shim: &mut Shim<'_>, command: &str) -> Result<String> {
    shim.detach()?;
    let said = shim.command(command)?;
    to_shell(shim, "debian")?;
    Ok(said)
}

/// Waits in the domU's shell until `command` prints `wanted` as a line, for five minutes of its time: Linux's balloon driver
/// waits longer after each try that failed, up to 32 s.
fn settle(shim: &mut Shim<'_>, command: &str, wanted: &str) -> Result<()> {
    let script = format!(
        "i=0; until [ \"$( {command} )\" = \"{wanted}\" ] || [ $i = 300 ]; do sleep 1; i=$((i+1)); done; {command}"
    );
    let said = shell(shim.console, &script)?;
    ensure!(
        said.contains(&format!("\n{wanted}\n")),
        "{command}, not {wanted}: {said}"
    );
    Ok(())
}

/// Four vCPUs at most, two at the start, then four, then one.
fn vcpus(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    machine.cpus = 2;
    let mut shim = prompt(bench, machine)?;
    shim.console
        .type_line("create -c /etc/oxen/debian.cfg vcpus=2 maxvcpus=4")?;
    log_in(shim.console)?;
    settle(&mut shim, "nproc", "2")?;

    let said = at_prompt(&mut shim, "vcpu-set debian 4")?;
    ensure!(
        said.contains("You have 2 physical CPUs and want 4 vCPUs"),
        "vcpu-set: {said}"
    );
    let said = at_prompt(&mut shim, "vcpu-set debian 5")?;
    ensure!(
        said.contains("Requested 5 VCPUs, however maxcpus is 4!"),
        "vcpu-set: {said}"
    );
    at_prompt(&mut shim, "vcpu-set -i debian 4")?;
    settle(&mut shim, "cat /sys/devices/system/cpu/present", "0-3")?;
    // What udev does where there is one.
    shell(
        shim.console,
        "for c in 2 3; do echo 1 >/sys/devices/system/cpu/cpu$c/online; done",
    )?;
    settle(&mut shim, "nproc", "4")?;
    shell(
        shim.console,
        "for c in 0 1 2 3; do taskset -c $c true || echo not on $c; done",
    )?;

    at_prompt(&mut shim, "vcpu-set debian 1")?;
    settle(&mut shim, "nproc", "1")?;
    let list = at_prompt(&mut shim, "vcpu-list debian")?;
    let offline: Vec<_> = list
        .lines()
        .filter(|line| line.starts_with("debian "))
        .map(|line| line.split_whitespace().skip(3).take(2).collect::<Vec<_>>() == ["-", "--p"])
        .collect();
    ensure!(offline == [false, true, true, true], "vcpu-list: {list}");

    // What was set holds over a restart.
    shim.console.type_line("reboot")?;
    shim.console
        .expect("has been started", super::PATIENCE)
        .context("reboot")?;
    shim.console.type_line("console debian")?;
    log_in(shim.console)?;
    settle(&mut shim, "nproc", "1")
}

/// Whether what the balloon driver has come to, in a domU's shell, is where it is to go.
const BALLOON_AT_REST: &str = "(cd /sys/devices/system/xen_memory/xen_memory0; to=$(cat target_kb) at=$(cat info/current_kb); [ $to = $at ] && echo at rest || echo $at of $to)";

/// Memory of the domU in MiB as its kernel, the toolstack, and (what is free) the hypervisor see it, once it is about `wanted`.
fn measure(shim: &mut Shim<'_>, wanted: i64) -> Result<[i64; 3]> {
    settle(shim, BALLOON_AT_REST, "at rest")?;
    let total = shell(shim.console, "grep MemTotal /proc/meminfo")?;
    let kib = total.split_whitespace().find_map(|word| word.parse::<i64>().ok());
    let total = kib.with_context(|| format!("MemTotal: {total}"))? / 1024;
    let list = at_prompt(shim, "list debian")?;
    let row = list.lines().find(|line| line.starts_with("debian "));
    let listed = row.and_then(|row| row.split_whitespace().nth(2)?.parse().ok());
    let listed: i64 = listed.with_context(|| format!("list: {list}"))?;
    shim.detach()?;
    let free = (shim.free_frames()? / FRAMES_OF_MIB).cast_signed();
    to_shell(shim, "debian")?;
    ensure!((listed - wanted).abs() <= 1, "{listed} MiB, not {wanted}: {list}");
    Ok([total, listed, free])
}

/// A domU gets more than it was made for: its kernel makes room for it behind its RAM (memory hot-add), uses it, and gives it back.
fn hot_add(bench: &mut Bench, machine: Machine) -> Result<()> {
    let mut shim = prompt(bench, machine)?;
    shim.console
        .type_line("create -c /etc/oxen/debian.cfg memory=192")?;
    log_in(shim.console)?;
    // What udev does where there is one.
    shell(
        shim.console,
        "echo online > /sys/devices/system/memory/auto_online_blocks",
    )?;
    let first = measure(&mut shim, 192)?;
    at_prompt(&mut shim, "mem-max debian 320")?;
    at_prompt(&mut shim, "mem-set debian 304")?;
    let more = measure(&mut shim, 304)?;
    ensure!(
        more[0] - first[0] > 100 && first[2] - more[2] >= 112,
        "MemTotal, list, free frames in MiB were {first:?}, are {more:?}"
    );
    let used = shell(
        shim.console,
        "mount -t tmpfs -o size=240m none /mnt && dd if=/dev/urandom of=/mnt/a bs=1M count=200 && md5sum /mnt/a && \
         md5sum /mnt/a && rm /mnt/a && umount /mnt",
    )?;
    let sums: Vec<&str> = used.lines().filter(|line| line.ends_with("/mnt/a")).collect();
    ensure!(sums.len() == 2 && sums[0] == sums[1], "{used}");
    at_prompt(&mut shim, "mem-set debian 192")?;
    let last = measure(&mut shim, 192)?;
    ensure!(
        (last[2] - first[2]).abs() <= 2,
        "MiB that are free were {first:?}, are {last:?}"
    );
    Ok(())
}

/// What the domU gives back, the host has; and the other way round.
fn memory(bench: &mut Bench, machine: Machine) -> Result<()> {
    let mut shim = prompt(bench, machine)?;
    shim.console
        .type_line("create -c /etc/oxen/debian.cfg memory=192 maxmem=256")?;
    shim.console
        .expect("starts with all of maxmem (256)", super::PATIENCE)?;
    log_in(shim.console)?;
    let first = measure(&mut shim, 192)?;
    let mut before = first;
    for (command, wanted) in [
        ("mem-set debian 256", 256),
        ("mem-set debian 163840k", 160),
        ("mem-set debian 192m", 192),
    ] {
        let said = at_prompt(&mut shim, command)?;
        ensure!(!said.contains("memory"), "{command}: {said}");
        let now = measure(&mut shim, wanted)?;
        let grown = now[1] - before[1];
        let agree = (now[0] - before[0] - grown).abs() <= 1 && (before[2] - now[2] - grown).abs() <= 1;
        ensure!(
            agree,
            "{command}: MemTotal, list, free frames in MiB were {before:?}, are {now:?}"
        );
        before = now;
    }
    ensure!(
        (first[2] - before[2]).abs() <= 1,
        "free MiB were {first:?}, are {before:?}"
    );
    for (command, sentence) in [
        (
            "mem-set debian 257",
            "must be less than or equal to memory_static_max",
        ),
        (
            "mem-max debian 100",
            "must be greater than or equal to memory_dynamic_max",
        ),
        ("mem-set debian 1x", "invalid memory size: 1x"),
    ] {
        let said = at_prompt(&mut shim, command)?;
        ensure!(said.contains(sentence), "{command}: {said}");
    }
    at_prompt(&mut shim, "mem-max debian 200")?;
    let said = at_prompt(&mut shim, "mem-set debian 201")?;
    ensure!(said.contains("memory_static_max (204800 KiB)"), "mem-set: {said}");
    Ok(())
}
