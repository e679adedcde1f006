//! xenstore with clients good and bad, and its tools.

use anyhow::{Result, ensure};

use super::guests::verdict;
use super::shim::{Shim, archive};
use super::{BOTH, test};
use crate::runner::{Bench, Test};
use crate::{Machine, outputs};

/// The tests.
pub fn tests() -> Vec<Test> {
    BOTH.into_iter()
        .flat_map(|vehicle| {
            [
                test("hostile xenstore client", vehicle, hostile),
                test("xenstore tools", vehicle, tools),
            ]
        })
        .collect()
}

/// The shim with `/WHAT.cfg` for each of `whats`: a domain of that name, on the guest `store`.
pub fn shim<'a>(bench: &'a mut Bench, machine: Machine, whats: &[&str]) -> Result<Shim<'a>> {
    let configs: Vec<(String, Vec<u8>)> = whats
        .iter()
        .map(|what| {
            let config = format!(
                "name='{what}'\ntype='pvh'\nkernel='/store'\nextra='what={what}'\nmemory=16\non_poweroff='destroy'\n"
            );
            (format!("{what}.cfg"), config.into_bytes())
        })
        .collect();
    let guest = std::fs::read(outputs::output("guests/store")?)?;
    let mut files: Vec<(&str, Vec<u8>)> = vec![("store", guest)];
    files.extend(
        configs
            .iter()
            .map(|(name, config)| (name.as_str(), config.clone())),
    );
    let archive = archive(&bench.scratch(), &files)?;
    Shim::start(bench, machine, archive)
}

/// One domain floods, another breaks the protocol in every way and finds it whole again; a third is served meanwhile,
/// and so is the prompt. Nothing of them stays.
fn hostile(bench: &mut Bench, machine: Machine) -> Result<()> {
    let mut shim = shim(bench, machine, &["flood", "break", "served"])?;
    let free = shim.first_life("/served.cfg", "served")?;
    shim.command("create /flood.cfg")?;
    for name in ["break", "served"] {
        shim.console.type_line(&format!("create -c /{name}.cfg"))?;
        verdict(shim.console)?;
        shim.ended("action is destroy")?;
        shim.wait_for(name, false)?;
    }
    let quota = shim.command("xenstore-control quota 2")?;
    ensure!(quota.contains("watches         :      100"), "{quota}");
    let check = shim.command("xenstore-control check")?;
    ensure!(check.contains("\nOK"), "{check}");
    shim.command("destroy flood")?;
    shim.wait_for("flood", false)?;
    let left = shim.command("xenstore-ls -f")?;
    let own = ["/local/domain/", "/vm/", "/libxl/"];
    ensure!(!own.iter().any(|path| left.contains(path)), "{left}");
    shim.expect_free(free)
}

/// Each tool, with what Xen's prints.
fn tools(bench: &mut Bench, machine: Machine) -> Result<()> {
    let mut shim = shim(bench, machine, &[])?;
    for (command, printed) in [
        ("xenstore-write /a/b one /a/c 'two words\\n'", ""),
        ("xenstore-read /a/b", "one\n"),
        ("xenstore-read -p /a/b /a/c", "/a/b: one\n/a/c: two words\\n\n"),
        ("xenstore-read -R /a/c", "two words\n"),
        ("xenstore-read /none", "xenstore-read: couldn't read path /none\n"),
        ("xenstore-list /a", "b\nc\n"),
        ("xenstore-list -p /a", "/a/b\n/a/c\n"),
        ("xenstore-chmod -r /a n0 r5 b6", ""),
        ("xenstore-ls /a", "b = \"one\"\nc = \"two words\\n\"\n"),
        (
            "xenstore-ls -f -p /a",
            "/a/b = \"one\"   (n0,r5,b6)\n/a/c = \"two words\\n\"   (n0,r5,b6)\n",
        ),
        (
            "xenstore-ls -p /a",
            "b = \"one\"  . . . . . . . . . . . . . . . . . . . . . . . . .  (n0,r5,b6)\nc = \"two words\\n\"  . . . . . . . . . . . . . . . . . . . . .  (n0,r5,b6)\n",
        ),
        ("xenstore-exists /a/b", ""),
        ("xenstore-exists /a/x", "/a/x: ENOENT\n"),
        ("xenstore-watch -n 2 /a /b", "/a\n/b\n"),
        ("xenstore-rm -t /a/b", ""),
        ("xenstore-list /a", "c\n"),
        ("xenstore-rm -t /a/c", ""),
        ("xenstore-exists /a", "/a: ENOENT\n"),
        (
            "xenstore-chmod /a q5",
            "xenstore-chmod: Error occurred setting permissions on '/a': EINVAL\n",
        ),
        ("xenstore-rm", "Usage: xenstore-rm [-t] PATH...\n"),
        ("xenstore-ls -x", "Usage: xenstore-ls [-f] [-p] [PATH]...\n"),
    ] {
        let said = shim.command(command)?.replace('\r', "");
        // The end of the line that was typed, what was printed, the prompt's escape sequence.
        let shown = said
            .trim_start_matches(|letter| letter != '\n')
            .trim_end_matches("\x1b[K");
        ensure!(
            shown == format!("\n{printed}"),
            "{command} printed {said:?}, not {printed:?}"
        );
    }
    Ok(())
}
