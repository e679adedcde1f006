//! CPU pools: what is in one runs there only, and goes where it is sent.

use anyhow::{Context, Result, bail, ensure};

use super::debian::{log_in, prompt, shell, to_shell};
use super::hostile::spinning;
use super::shim::Shim;
use super::{BOTH, test};
use crate::Machine;
use crate::runner::{Bench, Test};

/// The tests.
pub fn tests() -> Vec<Test> {
    BOTH.into_iter()
        .flat_map(|vehicle| {
            [
                test("CPU pools", vehicle, pools),
                test("debian between CPU pools", vehicle, migrations),
            ]
        })
        .collect()
}

/// A command that is to succeed, without a word.
fn silently(shim: &mut Shim<'_>, command: &str) -> Result<()> {
    let said = shim.command(command)?;
    let words = said.replace(command, "").replace("\x1b[K", "");
    ensure!(words.trim().is_empty(), "{command}: {said}");
    Ok(())
}

/// A command that is to say something.
fn says(shim: &mut Shim<'_>, command: &str, sentence: &str) -> Result<()> {
    let said = shim.command(command)?;
    ensure!(said.contains(sentence), "{command}: {said}");
    Ok(())
}

/// Waits until a domain's vCPUs are on these CPUs. It leaves its CPU by an interrupt, for which an emulator's threads need time of the host.
pub(super) fn comes_to(shim: &mut Shim<'_>, domain: &str, wanted: &[&str]) -> Result<()> {
    const LOOKS: u32 = 50;
    let mut cpus = Vec::new();
    for _ in 0..LOOKS {
        cpus = cpus_of(shim, domain)?;
        if cpus == wanted {
            return Ok(());
        }
    }
    bail!("it is on CPUs {cpus:?}, not {wanted:?}")
}

/// The CPUs that the vCPUs of a domain are on, from `vcpu-list`.
fn cpus_of(shim: &mut Shim<'_>, name: &str) -> Result<Vec<String>> {
    let list = shim.command(&format!("vcpu-list {name}"))?;
    let rows = list
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let cpus: Vec<_> = rows
        .filter(|row| row.first() == Some(&name))
        .filter_map(|row| Some((*row.get(3)?).to_owned()))
        .collect();
    ensure!(!cpus.is_empty(), "vcpu-list {name}: {list}");
    Ok(cpus)
}

/// Makes two pools of the machine's two CPUs.
fn split(shim: &mut Shim<'_>) -> Result<()> {
    silently(shim, "cpupool-cpu-remove Pool-0 1")?;
    let said = shim.command("cpupool-create name=fast cpus=1")?;
    for line in [
        "cpupool name:   fast",
        "scheduler:      credit2",
        "number of cpus: 1",
    ] {
        ensure!(said.contains(line), "cpupool-create: {said}");
    }
    Ok(())
}

pub(super) fn pools(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    machine.cpus = 2;
    let mut shim = spinning(bench, machine)?;
    let row = |count: u32, domains: u32| {
        format!("Pool-0               {count}   credit2       y       {domains:>4}")
    };
    says(&mut shim, "cpupool-list", &row(2, 1))?;
    split(&mut shim)?;
    let list = shim.command("cpupool-list -c")?;
    for line in ["Pool-0             0\n", "fast               1\n"] {
        ensure!(list.contains(line), "{list}");
    }

    for settings in ["name='a' pool='fast'", "name='b'"] {
        let said = shim.command(&format!("create spin {settings}"))?;
        ensure!(said.contains("created"), "{said}");
    }
    says(&mut shim, "cpupool-list", &row(1, 2))?;
    for _ in 0..5 {
        let cpus = (cpus_of(&mut shim, "a")?, cpus_of(&mut shim, "b")?);
        ensure!(
            cpus == (vec!["1".into()], vec!["0".into()]),
            "a and b are on CPUs {cpus:?}"
        );
    }
    for (command, sentence) in [
        ("cpupool-cpu-remove fast 1", "EBUSY"),
        ("cpupool-cpu-remove Pool-0 0", "EBUSY"),
        ("cpupool-destroy fast", "Can't destroy cpupool 'fast'"),
        ("cpupool-destroy Pool-0", "Can't destroy cpupool 'Pool-0'"),
        ("cpupool-create name=fast", "already exists"),
        ("cpupool-create name=more", "no free cpu found"),
        ("cpupool-create name=more cpus=1", "cpu 1 illegal or not free"),
        ("cpupool-migrate a nowhere", "unknown cpupool 'nowhere'"),
        ("create spin name='c' pool='nowhere'", "unknown cpupool 'nowhere'"),
        ("vcpu-pin a 0 0", "Could not set affinity for vcpu 0: "),
    ] {
        says(&mut shim, command, sentence)?;
    }

    silently(&mut shim, "cpupool-rename fast quick")?;
    for (domain, pool, cpu) in [
        ("a", "Pool-0", "0"),
        ("b", "quick", "1"),
        ("b", "0", "0"),
        ("a", "1", "1"),
    ] {
        silently(&mut shim, &format!("cpupool-migrate {domain} {pool}"))?;
        comes_to(&mut shim, domain, &[cpu]).with_context(|| format!("{domain} in {pool}"))?;
    }

    // A CPU that is in another pool stays; from Pool-0 it goes offline, and comes back there.
    says(&mut shim, "xen-hptool cpu-offline 1", "ENODEV")?;
    silently(&mut shim, "cpupool-migrate a Pool-0")?;
    silently(&mut shim, "cpupool-destroy quick")?;
    for (command, sentence, cpus) in [
        ("xen-hptool cpu-offline 1", "CPU 1 offlined successfully", 1),
        ("xen-hptool cpu-offline 1", "EEXIST", 1),
        ("xen-hptool cpu-offline 0", "EINVAL", 1),
        ("cpupool-cpu-add Pool-0 1", "ENODEV", 1),
        ("xen-hptool cpu-online 1", "CPU 1 onlined successfully", 2),
        ("xen-hptool cpu-online 2", "EINVAL", 2),
        ("xen-hptool cpu-burn 1", "Unrecognised command", 2),
    ] {
        says(&mut shim, command, sentence)?;
        says(&mut shim, "cpupool-list", &row(cpus, 3))?;
        says(&mut shim, "info", &format!("nr_cpus                : {cpus}\n"))?;
    }
    for _ in 0..20 {
        let cpus = [cpus_of(&mut shim, "a")?, cpus_of(&mut shim, "b")?].concat();
        if cpus.iter().any(|cpu| cpu == "1") {
            return Ok(());
        }
    }
    bail!("neither a nor b uses CPU 1")
}

/// A busy Debian with two vCPUs is sent to and fro; nothing in it stalls.
fn migrations(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    const TIMES: usize = 6;
    machine.cpus = 2;
    let mut shim = prompt(bench, machine)?;
    split(&mut shim)?;
    shim.console
        .type_line("create -c /etc/oxen/debian.cfg vcpus=2 pool='fast'")?;
    log_in(shim.console)?;
    shell(
        shim.console,
        "for i in 1 2 3; do (while true; do dd if=/dev/zero bs=64k count=64 2>/dev/null | md5sum >/dev/null; done) & done",
    )?;
    shim.detach()?;
    for pool in ["Pool-0", "fast"].into_iter().cycle().take(TIMES) {
        silently(&mut shim, &format!("cpupool-migrate debian {pool}"))?;
        let cpu = if pool == "fast" { "1" } else { "0" };
        comes_to(&mut shim, "debian", &[cpu, cpu]).with_context(|| format!("in {pool}"))?;
    }
    to_shell(&mut shim, "debian")?;
    let log = shell(
        shim.console,
        "kill $(jobs -p); dmesg | grep -c -i -E 'soft lockup|rcu.* stall|hung task|TSC warp|clocksource.*(unstable|skew)'",
    )?;
    ensure!(log.contains("\n0\n"), "complaints in dmesg: {log}");
    let online = shell(shim.console, "nproc").context("still alive")?;
    ensure!(online.contains("\n2\n"), "nproc: {online}");
    Ok(())
}
