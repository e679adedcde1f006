//! The test guests of `tests-qemu/guests`, each as dom0: it reports on itself.

use anyhow::{Result, bail, ensure};

use super::{BOTH, PATIENCE, guest, test};
use crate::runner::{Bench, Test};
use crate::{Console, Machine, Vehicle};

/// One test for each guest and back end.
pub fn tests() -> Vec<Test> {
    let everywhere = ["exits", "hypercalls", "events", "fuzz"];
    let mut tests = Vec::new();
    for name in everywhere {
        for vehicle in BOTH {
            tests.push(test(name, vehicle, move |bench, machine| {
                run(bench, machine, name)
            }));
        }
    }
    tests.push(test("exits", Vehicle::SvmBochs, |bench, machine| {
        run(bench, machine, "exits")
    }));
    tests
}

fn run(bench: &mut Bench, mut machine: Machine, name: &str) -> Result<()> {
    machine.command_line += " dom0_mem=128M";
    machine.modules = vec![guest(name, "")?];
    verdict(bench.start(&machine)?)
}

/// Waits for a guest's verdict; the error holds the checks that failed.
pub fn verdict(console: &mut Console) -> Result<()> {
    let (which, before) =
        console.expect_any(&["RESULT pass", "RESULT fail", "PANIC", "crashed"], PATIENCE)?;
    let failed: Vec<&str> = before.lines().filter(|line| line.contains(": fail: ")).collect();
    match which {
        0 => ensure!(failed.is_empty(), "RESULT pass in spite of {failed:?}"),
        1 => bail!("the guest says:\n      {}", failed.join("\n      ")),
        _ => bail!("the guest ended without a result"),
    }
    Ok(())
}
