//! What becomes of a domain that has stopped, as its config says: `on_poweroff`, `on_reboot`, `on_crash`, `on_watchdog`.

use anyhow::{Context, Result, ensure};

use super::hostile::hostile;
use super::shim::Shim;
use super::{BOTH, PATIENCE, test};
use crate::Machine;
use crate::runner::{Bench, Test};

/// The tests.
pub fn tests() -> Vec<Test> {
    BOTH.into_iter()
        .map(|vehicle| test("on_poweroff, _crash, _watchdog", vehicle, actions))
        .collect()
}

/// What the guest does, the setting that is for that, what the shim calls it, and what `list` shows of it then.
const ENDS: [(&str, &str, &str, &str); 4] = [
    ("halt", "on_poweroff", "0 (poweroff)", " ---s-- "),
    ("reboot", "on_reboot", "1 (reboot)", " ---sr- "),
    ("panic", "on_crash", "3 (crash)", " ---sc- "),
    ("watchdog", "on_watchdog", "4 (watchdog)", " ---sw- "),
];

/// Each action for each reason. Who is started again ends again, and waits for longer.
fn actions(bench: &mut Bench, machine: Machine) -> Result<()> {
    let whats = ENDS.map(|(what, ..)| what);
    let mut shim = hostile(bench, machine, &whats)?;
    for (what, key, reason, state) in ENDS {
        for action in ["destroy", "preserve", "restart", "rename-restart"] {
            one(
                &mut shim,
                what,
                &format!("{key}='{action}'"),
                reason,
                state,
                action,
            )
            .with_context(|| format!("{what}: {key}='{action}'"))?;
        }
        let said = shim.command(&format!("create {what} {key}='coredump-restart'"))?;
        ensure!(
            said.contains(&format!(
                "{key}: coredump-restart: dom0-shim has no place for a core dump"
            )),
            "{said}"
        );
    }
    Ok(())
}

fn one(
    shim: &mut Shim<'_>,
    what: &str,
    setting: &str,
    reason: &str,
    state: &str,
    action: &str,
) -> Result<()> {
    let ended = format!("(h) has shut down, reason code {reason}: action is {action}");
    shim.console.type_line(&format!("create {what} {setting}"))?;
    shim.console.expect(&ended, PATIENCE)?;
    let again = action.ends_with("restart");
    if again {
        shim.console
            .expect("it is started again in 2 seconds", PATIENCE)?;
        shim.console.expect("(h) has been started", PATIENCE)?;
        shim.console.expect(&ended, PATIENCE)?;
        shim.console
            .expect("it is started again in 4 seconds", PATIENCE)?;
    }
    shim.catch_up()?;
    if action != "destroy" {
        let list = shim.command("list h")?;
        ensure!(list.contains(state), "{list}");
        shim.command("destroy h")?;
    }
    shim.wait_for("h", false)?;
    if action == "rename-restart" {
        let list = shim.command("list h-1")?;
        ensure!(list.contains(state), "{list}");
        shim.command("destroy h-1")?;
    }
    shim.wait_for("h-1", false)
}
