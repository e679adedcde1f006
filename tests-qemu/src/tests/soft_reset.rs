//! A kernel that starts another in its domain's memory (kexec).

use anyhow::{Result, ensure};

use super::guests::verdict;
use super::shim::{Shim, archive};
use super::{BOTH, PATIENCE, test};
use crate::runner::{Bench, Test};
use crate::{Machine, outputs};

/// The tests.
pub fn tests() -> Vec<Test> {
    BOTH.into_iter()
        .map(|vehicle| test("soft reset", vehicle, soft_reset))
        .collect()
}

/// The domain goes on with new ports, rings and devices, twice, each time later; it keeps its number and its console's log. Nothing of it stays in
/// the end.
fn soft_reset(bench: &mut Bench, machine: Machine) -> Result<()> {
    let config = "name='kexec'\ntype='pvh'\nkernel='/soft_reset'\nmemory=16\non_poweroff='destroy'\n\
                  disk=['vdev=xvda,target=ram:1M']\nvif=['']\n";
    let files = [
        (
            "soft_reset",
            std::fs::read(outputs::output("guests/soft_reset")?)?,
        ),
        ("kexec.cfg", config.into()),
    ];
    let archive = archive(&bench.scratch(), &files)?;
    let mut shim = Shim::start(bench, machine, archive)?;
    shim.command("create -p /kexec.cfg")?;
    shim.command("destroy kexec")?;
    shim.wait_for("kexec", false)?;
    let free = shim.free_frames()?;
    shim.console.type_line("create /kexec.cfg")?;
    for seconds in [2, 4] {
        shim.console.expect(
            "Domain 2 (kexec) has shut down, reason code 5 (soft reset): action is soft-reset",
            PATIENCE,
        )?;
        shim.console
            .expect(&format!("it is started again in {seconds} seconds"), PATIENCE)?;
    }
    verdict(shim.console)?;
    shim.console.expect(
        "Domain 2 (kexec) has shut down, reason code 0 (poweroff): action is destroy",
        PATIENCE,
    )?;
    shim.catch_up()?;
    shim.wait_for("kexec", false)?;
    let log = shim.command("console-log kexec")?;
    let lives = ["first", "second", "third"].map(|life| log.find(&format!("{life} life")));
    ensure!(lives[0].is_some() && lives.is_sorted(), "{log}");
    shim.expect_free(free)
}
