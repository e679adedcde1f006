//! Machines with several CPUs: all run guests, go off and on, and end with the machine.

use anyhow::{Result, ensure};

use super::guests::verdict;
use super::{BOTH, PATIENCE, guest, test};
use crate::Machine;
use crate::runner::{Bench, Test};

/// The tests.
pub fn tests() -> Vec<Test> {
    let mut tests = Vec::new();
    for vehicle in BOTH {
        for (cpus, changes) in [(8, 4), (4, 50), (2, 10), (1, 0)] {
            tests.push(test(format!("CPUs: {cpus}"), vehicle, move |bench, machine| {
                all(bench, machine, cpus, changes)
            }));
        }
    }
    tests
}

/// A dom0 with as many vCPUs works on all of them while one goes off and on `changes` times, and then powers off: the emulator ends.
fn all(bench: &mut Bench, mut machine: Machine, cpus: u32, changes: u32) -> Result<()> {
    machine.cpus = cpus;
    machine.command_line += " dom0_mem=128M";
    machine.modules = vec![guest("cpus", &format!("{cpus} {changes}"))?];
    let console = bench.start(&machine)?;
    verdict(console)?;
    let expected = format!("{cpus} of {cpus} run guests");
    ensure!(
        console.output().contains(&expected),
        "the log has no {expected:?}"
    );
    console.expect("switching the machine off", PATIENCE)?;
    console.wait(PATIENCE)?;
    Ok(())
}
