//! dom0-shim's prompt says and does what xl says and does.

use anyhow::{Context, Result, ensure};
use dom0_shim::shell::commands::TABLE;

use super::hostile::spinning;
use super::shim::{PROMPT, Shim, archive};
use super::{BOTH, PATIENCE, test};
use crate::runner::{Bench, Test};
use crate::{Machine, outputs};

/// The tests.
pub fn tests() -> Vec<Test> {
    BOTH.into_iter()
        .flat_map(|vehicle| {
            [
                test("prompt as xl's", vehicle, prompt),
                test("keys and words at the prompt", vehicle, keys_and_words),
            ]
        })
        .collect()
}

/// A command that is to say each of these.
fn says(shim: &mut Shim<'_>, command: &str, wanted: &[&str]) -> Result<()> {
    let said = shim.command(command)?;
    for text in wanted {
        ensure!(said.contains(text), "{command} did not say {text:?}: {said}");
    }
    Ok(())
}

/// A domain that waits, runs, and ends; and the machine that begins anew, and is switched off.
fn prompt(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    machine.restarts = true;
    let config = "name='h'\ntype='pvh'\nkernel='/hello'\nmemory=64\nmax_grant_version=1\nvnc=1\n";
    let files = [
        ("hello", std::fs::read(outputs::output("guests/hello")?)?),
        ("h.cfg", config.into()),
    ];
    let archive = archive(&bench.scratch(), &files)?;
    let mut shim = Shim::start(bench, machine, archive)?;
    says(
        &mut shim,
        "create -p /h.cfg extra='a b'",
        &[
            "line 6: 'vnc' is ignored: a guest has a console and no screen",
            "Domain 1 (h) created",
        ],
    )?;
    for (command, wanted) in [
        (
            "list h",
            &["h                                            1    64     1     --p---       0.0"][..],
        ),
        (
            "list -v -c h",
            &["UUID", "Cpupool", "               -          Pool-0"],
        ),
        (
            "list --long h",
            &["\"domid\": 1,", "\"cmdline\": \"a b\"", "\"target_memkb\": 65536"],
        ),
        ("list -x", &["Usage: list"]),
        ("rename h Domain-0", &["'Domain-0': that is dom0"]),
        ("rename h 'x y'", &["'x y': 1 to 64 letters"]),
        ("rename h other", &[]),
        ("list", &["\nother   "]),
        ("xenstore-read /local/domain/1/name", &["\nother\n"]),
        ("sysrq other h", &[]),
        ("xenstore-read /local/domain/1/control/sysrq", &["\nh\n"]),
        ("sysrq other help", &["Invalid sysrq 'help'"]),
        ("trigger other power", &["a PVH guest has no buttons"]),
        ("trigger other nmi 7", &["Sending nmi to VCPU 7 of domain 1: "]),
        ("shutdown", &["Usage: shutdown"]),
        ("shutdown --all", &["Shutting down domain 1"]),
        (
            "xenstore-read /local/domain/1/control/shutdown",
            &["\npoweroff\n"],
        ),
        ("reboot other", &["Rebooting domain 1"]),
        ("xenstore-read /local/domain/1/control/shutdown", &["\nreboot\n"]),
        ("xenstore-write /local/domain/1/control/feature-poweroff 0", &[]),
        (
            "shutdown -F other",
            &[
                "its kernel does not poweroff when asked to",
                "no button to fall back to",
            ],
        ),
        // There is nothing to wait for.
        (
            "shutdown -w other",
            &["Domain 1: its kernel does not poweroff when asked to"],
        ),
        (
            "create /h.cfg cpuid='host,maxleaf=999'",
            &["setting what CPUID tells: a domain cannot have CPUID leaf 0x0 so: "],
        ),
        ("echo 'a", &["a quote (') is not closed"]),
        ("info xen_sch", &["\ncredit2\n"]),
        (
            "info",
            &[
                "host                   : dom0-shim",
                "virt_caps              : hvm\n",
                "xend_config_format     : 4",
            ],
        ),
        (
            "info -n",
            &["cpu_topology           :", "numa_info              :"],
        ),
        (
            "vcpu-list other",
            &["other                                1     0", "all / all"],
        ),
    ] {
        says(&mut shim, command, wanted)?;
    }
    shim.console.type_line("reboot -w other")?;
    shim.console.expect("Waiting for 1 domains", PATIENCE)?;
    // What is typed ahead is the next command's.
    shim.console.send("domid other\r\x03")?;
    shim.console.expect("No longer waiting", PATIENCE)?;
    shim.console.expect("\n1\r", PATIENCE)?;
    shim.console.expect(PROMPT, PATIENCE)?;
    shim.command("unpause other")?;
    shim.wait_for("other", false)?;
    let output = shim.console.output();
    ensure!(output.contains("(d1) command line: a b"), "{output}");

    // An NMI that comes before the guest has a handler is a triple fault.
    shim.command("create -p /h.cfg on_reboot='preserve'")?;
    shim.command("trigger h nmi")?;
    // It stops at once: its notice may come before the prompt.
    shim.console.type_line("unpause h")?;
    shim.console
        .expect("Domain 3 (h) has shut down, reason code 1", PATIENCE)?;
    shim.console.type_line("shutdown -w h")?;
    shim.console
        .expect("Domain 3: it has stopped already, reason code 1", PATIENCE)
        .context("shutdown -w")?;
    // Notices draw the prompt anew: what it says is not counted by prompts from here on.
    shim.console.type_line("list h")?;
    shim.console.expect(" ---sr- ", PATIENCE)?;

    shim.console.type_line("reboot Domain-0")?;
    shim.console.expect("Rebooting the machine", PATIENCE)?;
    shim.console.expect("Oxen 0.1.0", PATIENCE)?;
    shim.console.expect(PROMPT, PATIENCE)?;
    shim.console.type_line("poweroff")?;
    shim.console.expect("Powering off", PATIENCE)?;
    shim.console.wait(PATIENCE)?;
    Ok(())
}

/// What is typed, a few keys at a time, and what each of them leads to.
type Keys = &'static [(&'static str, &'static str)];

/// Ways to type `domid h`, and to ask again; each ends with a 1.
const WAYS: &[Keys] = &[
    // A word that is complete, and one that is not: the second Tab shows what it may be.
    &[("dom\t", "domid  domname"), ("", "oxen> dom"), ("id h", "id h")],
    &[("domi\t", "domid "), ("h\t", "h ")],
    // Ctrl-P, and the cursor key; Ctrl-N comes back to what is being typed.
    &[("\x10", "oxen> domid h")],
    &[("\x1b[A", "oxen> domid h")],
    &[
        ("dom", "dom"),
        ("\x1b[A", "oxen> domid h"),
        ("\x0e", "oxen> dom"),
        ("id h", "id h"),
    ],
    // Home, Delete, End, Backspace.
    &[
        ("xdomid hx", "xdomid hx"),
        ("\x1b[H\x1b[3~", "domid hx"),
        ("\x1b[F\x7f", "\x1b[K"),
    ],
    // Ctrl-A, Ctrl-F, Ctrl-D, Ctrl-E, Ctrl-B, Ctrl-K.
    &[
        ("d--omid hx", "d--omid hx"),
        ("\x01\x06\x04\x04", "omid hx"),
        ("\x05\x02\x0b", "\x1b[K"),
    ],
    // Ctrl-U, Ctrl-W, Ctrl-C, Ctrl-L.
    &[
        ("xyz", "xyz"),
        ("\x15", "\x1b[K"),
        ("domid x", "domid x"),
        ("\x17", "\x1b[K"),
        ("h", "h"),
    ],
    &[
        ("xyz", "xyz"),
        ("\x03", "^C"),
        ("domid h", "domid h"),
        ("\x0c", "\x1b[2J"),
    ],
    // As it is typed on Xen.
    &[("xl domi\t", "xl domid "), ("h\t", "h ")],
];

/// What a person types who looks around: keys of the line editor, and commands that no other test has.
fn keys_and_words(bench: &mut Bench, machine: Machine) -> Result<()> {
    let mut shim = spinning(bench, machine)?;
    says(&mut shim, "create spin", &["Domain 1 (h) created"])?;
    for keys in WAYS {
        shim.console.skip()?;
        for (typed, wanted) in *keys {
            shim.console.send(typed)?;
            shim.console
                .expect(wanted, PATIENCE)
                .with_context(|| format!("{typed:?} of {keys:?}"))?;
        }
        shim.console.send("\r")?;
        shim.console
            .expect("\n1\r\n", PATIENCE)
            .with_context(|| format!("{keys:?}"))?;
        shim.console.expect(PROMPT, PATIENCE)?;
    }
    let help = shim.command("help")?;
    for entry in TABLE {
        let line = format!("\n {:<19} {}\n", entry.name, entry.summary());
        ensure!(help.contains(&line), "no {line:?}: {help}");
    }
    for (command, wanted) in [
        (
            "help list",
            &[
                "Usage: list [-l] [-v] [-c] [DOMAIN]",
                "List information about all",
            ][..],
        ),
        ("help nothing", &["nothing: no such command"]),
        ("domid Domain-0", &["\n0\n"]),
        ("domid nobody", &["nobody is an invalid domain identifier"]),
        ("domid", &["Usage: domid NAME"]),
        ("xl domid Domain-0", &["\n0\n"]),
        ("xl", &["xl: no such command"]),
        ("domname 1", &["\nh\n"]),
        ("domname 0", &["\nDomain-0\n"]),
        ("domname 7", &["Can't get domain name of domain id '7'"]),
        (
            "uptime",
            &[
                "Name                                ID Uptime\n",
                "\nDomain-0                             0 0:0",
                "\nh                                    1 0:0",
            ],
        ),
        ("uptime h", &["ID Uptime\nh   "]),
        ("uptime nobody", &["nobody is an invalid domain identifier"]),
        ("pause h", &[]),
        ("list h", &[" --p--- "]),
        ("unpause h", &[]),
        ("debug-keys q", &["d0: ", "d1: "]),
        ("dmesg", &["Oxen 0.1.0\n", "(oxen) ["]),
        ("dmesg -x", &["Usage: dmesg [-c]"]),
        ("dmesg -c", &["Oxen 0.1.0\n"]),
    ] {
        says(&mut shim, command, wanted)?;
    }
    for (command, unwanted) in [
        ("dmesg", "Oxen 0.1.0"),
        ("list h", " --p--- "),
        ("uptime h", "Domain-0"),
    ] {
        let said = shim.command(command)?;
        ensure!(!said.contains(unwanted), "{command}: {said}");
    }
    // What runs does not listen: it has no chance to shut down.
    shim.command("destroy h")?;
    shim.wait_for("h", false)?;
    shim.console.type_line("exit")?;
    shim.console.expect("Powering off", PATIENCE)?;
    shim.console.wait(PATIENCE)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use dom0_shim::shell::commands::TABLE;

    use crate::outputs::root;

    #[test]
    fn each_command_is_typed_by_some_test() {
        /// What these type is for a Linux, which has words of its own.
        const OF_LINUX: [&str; 2] = ["debian.rs", "xl.rs"];
        let tests = std::fs::read_dir(root().join("tests-qemu/src/tests")).unwrap();
        let source: String = tests
            .map(|file| file.unwrap().path())
            .filter(|path| OF_LINUX.iter().all(|other| !path.ends_with(other)))
            .map(|path| std::fs::read_to_string(path).unwrap())
            .collect();
        for entry in TABLE {
            let (alone, with_words) = (format!("\"{}\"", entry.name), format!("\"{} ", entry.name));
            assert!(
                source.contains(&alone) || source.contains(&with_words),
                "no test types {}",
                entry.name
            );
        }
    }
}
