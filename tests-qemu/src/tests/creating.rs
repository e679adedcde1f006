//! Domains that are being made, which takes a while where a kernel has to be unpacked.

use anyhow::{Context, Result, bail, ensure};

use super::shim::{PROMPT, Shim, archive_with};
use super::{BOTH, PATIENCE, bochs, everything, test};
use crate::runner::{Bench, Test};
use crate::{Machine, Vehicle, outputs};

/// The tests.
pub fn tests() -> Vec<Test> {
    BOTH.into_iter()
        .map(|vehicle| test("served while a kernel is unpacked", vehicle, others_are_served))
        .collect()
}

/// The stock kernel is unpacked for a domain that begins anew: meanwhile the prompt shows that domain, without memory as yet, xenstore answers another,
/// and it can be destroyed. So can one that the prompt waits for, by Ctrl-C. Nothing of them stays.
fn others_are_served(bench: &mut Bench, machine: Machine) -> Result<()> {
    let mut files = vec![
        ("store", std::fs::read(outputs::output("guests/store")?)?),
        (
            "count.cfg",
            "name='count'\ntype='pvh'\nkernel='/store'\nextra='what=count'\nmemory=16\n".into(),
        ),
        (
            "stock.cfg",
            "name='stock'\ntype='pvh'\nkernel='/boot/vmlinuz'\nmemory=128\n".into(),
        ),
    ];
    if machine.vehicle == Vehicle::Vmx && !everything() {
        files.push((bochs::KERNEL, bochs::repacked_kernel(&bench.scratch())?));
    }
    let archive = archive_with(&outputs::output("boot-archive.cpio")?, &bench.scratch(), &files)?;
    let mut shim = Shim::start(bench, machine, archive)?;
    // An NMI that comes before the guest has a handler is a triple fault, and that a reboot.
    shim.command("create -p /stock.cfg")?;
    let old = number(&shim.command("domid stock")?)?;
    shim.command("trigger stock nmi")?;
    shim.command("create /count.cfg")?;
    shim.console.type_line("unpause stock")?;
    shim.console
        .expect("it is started again in 2 seconds", PATIENCE)?;
    shim.catch_up()?;

    let domain = begun(&mut shim, old)?;
    let before = count(&mut shim)?;
    let after = count(&mut shim)?;
    ensure!(after > before, "{before} requests, then {after}");
    for (command, wanted) in [
        ("console stock", "stock is still being created"),
        ("create /stock.cfg", "a domain named stock exists already"),
    ] {
        let said = shim.command(command)?;
        ensure!(said.contains(wanted), "{command}: {said}");
    }
    ensure!(
        without_memory(&shim.command("list")?) == Some(domain),
        "it was unpacked before all that was done"
    );
    shim.console.type_line("destroy stock")?;
    shim.console.expect(
        "Restarting stock: loading the kernel: /boot/vmlinuz: it has been destroyed",
        PATIENCE,
    )?;
    shim.catch_up()?;
    shim.wait_for("stock", false)?;

    let free = shim.free_frames()?;
    shim.console.type_line("create /stock.cfg")?;
    shim.console.expect("Parsing config", PATIENCE)?;
    shim.console.send("\x03")?;
    shim.console
        .expect("Domain stock was not created: interrupted", PATIENCE)?;
    shim.console.expect(PROMPT, PATIENCE)?;
    shim.wait_for("stock", false)?;
    shim.expect_free(free)
}

/// Waits until `list` has the domain that has no memory yet; its number. The old one, which goes, has none any more.
fn begun(shim: &mut Shim<'_>, old: u32) -> Result<u32> {
    const LOOKS: u32 = 1000;
    let mut list = String::new();
    for _ in 0..LOOKS {
        list = shim.command("list")?;
        if let Some(domain) = without_memory(&list).filter(|&domain| domain != old) {
            return Ok(domain);
        }
    }
    bail!("no domain without memory was seen: {list}")
}

fn without_memory(list: &str) -> Option<u32> {
    list.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let (name, domain, memory) = (words.next()?, words.next()?, words.next()?);
        (name == "stock" && memory == "0").then(|| domain.parse().ok())?
    })
}

/// How many requests the domain that counts them has had answered.
fn count(shim: &mut Shim<'_>) -> Result<u64> {
    let domain = shim.command("domid count")?;
    let domain: u32 = number(&domain)?;
    let said = shim.command(&format!("xenstore-read /local/domain/{domain}/data/count"))?;
    number(&said)
}

/// The line that is a number.
fn number<N: std::str::FromStr>(said: &str) -> Result<N> {
    said.lines()
        .find_map(|line| line.trim().parse().ok())
        .with_context(|| format!("no number: {said}"))
}
