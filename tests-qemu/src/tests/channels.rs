//! Channels, and logs of consoles.

use anyhow::{Result, ensure};

use super::debian::{log_in, prompt, shell, to_shell};
use super::guests::verdict;
use super::shim::{Shim, archive};
use super::{BOTH, PATIENCE, test};
use crate::runner::{Bench, Test};
use crate::{Machine, Vehicle, outputs};

/// The tests.
pub fn tests() -> Vec<Test> {
    BOTH.into_iter()
        .map(|vehicle| test("hostile channel front end", vehicle, hostile))
        // What it is about is the same on both vendors.
        .chain([test("channel of debian, console logs", Vehicle::Svm, debian)])
        .collect()
}

/// A front end that breaks the protocol, and talks over the channel all the same; its log stays, its memory does not.
fn hostile(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    // It says so much that dom0 waits for the serial line.
    machine.mips = 10;
    let config = "name='c'\ntype='pvh'\nkernel='/console'\nmemory=16\non_poweroff='destroy'\n\
                  channel=['name=org.example.channel,connection=pty']\n";
    let files = [
        ("console", std::fs::read(outputs::output("guests/console")?)?),
        ("c.cfg", config.into()),
    ];
    let archive = archive(&bench.scratch(), &files)?;
    let mut shim = Shim::start(bench, machine, archive)?;
    let free = shim.first_life("/c.cfg", "c")?;
    shim.command("create /c.cfg")?;
    shim.console.type_line("console -n 1 -t pv c")?;
    shim.console.expect("ready", PATIENCE)?;
    shim.detach()?;
    let list = shim.command("channel-list c")?;
    ensure!(
        list.lines().any(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            matches!(words[..], ["1", "0", "3", _, "8", "pty", "org.example.channel"])
        }),
        "{list}"
    );
    for (command, said) in [
        ("console -n 2 c", "c has no console 2"),
        ("console -t serial c", "a PVH guest has PV consoles only"),
        ("console -x c", "Usage: console [-n NUM] [-t pv] DOMAIN"),
        ("console-log -n 2 c", "there is no log of console 2 of c"),
        ("console-log nobody", "there is no log of console 0 of nobody"),
    ] {
        let found = shim.command(command)?;
        ensure!(found.contains(said), "{command}: {found}");
    }
    shim.console.type_line("console -n 1 c")?;
    shim.console.send("hello\r")?;
    verdict(shim.console)?;
    shim.wait_for("c", false)?;
    let log = shim.command("console-log -n 1 c")?;
    ensure!(
        log.contains("\nready\r\nunderstood\r\nafter all\r\n")
            || log.contains("\nready\nunderstood\nafter all\n"),
        "{log}"
    );
    ensure!(log.len() < 70_000, "a log of {} bytes", log.len());
    shim.expect_free(free)
}

/// Linux's front end; the log of a console goes on over a reboot, and stays when the domain is gone.
fn debian(bench: &mut Bench, machine: Machine) -> Result<()> {
    let mut shim = prompt(bench, machine)?;
    let said = shim.command("create debian channel=['name=agent,connection=socket,path=/a']")?;
    ensure!(
        said.contains("connection=socket: dom0-shim has no sockets"),
        "{said}"
    );
    shim.console
        .type_line("create -c debian channel=['name=agent,connection=pty']")?;
    log_in(shim.console)?;
    shell(
        shim.console,
        "echo said by the domain > /dev/hvc1; head -n 1 /dev/hvc1 > /tmp/heard &",
    )?;
    shim.detach()?;
    shim.console.type_line("console -n 1 debian")?;
    shim.console.expect("said by the domain", PATIENCE)?;
    shim.console.type_line("said by dom0")?;
    shim.detach()?;
    to_shell(&mut shim, "debian")?;
    let heard = shell(shim.console, "wait; cat /tmp/heard")?;
    ensure!(heard.contains("said by dom0"), "{heard}");
    shim.console.type_line("reboot")?;
    shim.console.expect("has been started", PATIENCE)?;
    shim.command("destroy debian")?;
    shim.wait_for("debian", false)?;
    let log = shim.command("console-log debian")?;
    let (first, second) = log.split_once("--- domain 2 ---").unwrap_or_default();
    ensure!(
        first.contains("--- domain 1 ---") && first.contains("cat /tmp/heard"),
        "{log}"
    );
    ensure!(!second.contains("cat /tmp/heard"), "{log}");
    let log = shim.command("console-log -n 1 debian")?;
    ensure!(log.contains("said by the domain"), "{log}");
    Ok(())
}
