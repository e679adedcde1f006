//! The UEFI application, as a person starts it from the firmware's shell: what cannot work is said, and the shell is there again.

use anyhow::{Context, Result};

use super::guests::verdict;
use super::{PATIENCE, test_by};
use crate::runner::{Bench, Test};
use crate::{Door, Machine, Vehicle, outputs};

/// The tests.
pub fn tests() -> Vec<Test> {
    vec![test_by(
        "UEFI shell: bad configurations",
        Vehicle::Svm,
        Door::UefiApp,
        bad_configurations,
    )]
}

/// A configuration with a section that can be booted and others that cannot.
const SECTIONS: &str = "[global]
default=nothing
[good]
options=console=com1 loglvl=all noreboot
kernel=hello from=good
[kernel]
kernel=missing console=hvc0
[ramdisk]
kernel=hello
ramdisk=more\\missing
[text]
kernel=bad.cfg
[cut]
kernel=cut
[empty]
kernel=empty
";

/// What is typed behind the program's name, and what it says.
const REFUSED: [(&str, &[&str]); 11] = [
    ("-help", &["oxen.efi [-cfg=FILE] [SECTION] [-- OPTIONS]"]),
    (
        "",
        &["none of oxen.cfg, xen.cfg is in \\; write one, or name one by -cfg=FILE"],
    ),
    ("-cfg=none.cfg", &["none of none.cfg is in \\;"]),
    (
        "-cfg=bad.cfg",
        &["bad.cfg: line 3: `kernal=x` stands before any [section]"],
    ),
    ("-cfg=hello", &["\\hello is not UTF-8 text"]),
    (
        "-cfg=all.cfg",
        &["all.cfg: there is no section [nothing]; those with a kernel: [good], [kernel], "],
    ),
    (
        "-frobnicate -cfg=all.cfg kernel",
        &[
            "there is no option `-frobnicate`; -help prints those that there are",
            "all.cfg: line 7: there is no file \\missing",
        ],
    ),
    (
        "-cfg=all.cfg ramdisk",
        &["all.cfg: line 10: there is no file \\more\\missing"],
    ),
    (
        "-cfg=all.cfg text",
        &["all.cfg: line 12: bad.cfg: not a kernel: neither an ELF file nor a Linux bzImage"],
    ),
    (
        "-cfg=all.cfg cut",
        &[
            "all.cfg: line 14: cut: the segment for 0x",
            "lies outside the file",
        ],
    ),
    ("-cfg=all.cfg empty", &["all.cfg: line 16: \\empty is empty"]),
];

/// One after the other, from one boot of the firmware; what can be booted is, at last.
fn bad_configurations(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    const PROGRAM: &str = "oxen.efi";
    const LAST: &str = "-cfg=all.cfg good -- dom0_mem=64M";
    let hello = std::fs::read(outputs::output("guests/hello")?)?;
    let mut script = String::from("fs0:\r\n");
    for arguments in REFUSED.iter().map(|(arguments, _)| *arguments).chain([LAST]) {
        script += &format!("{PROGRAM} {arguments}\r\n");
    }
    machine.esp = vec![
        (PROGRAM, std::fs::read(outputs::output(PROGRAM)?)?),
        ("startup.nsh", script.into()),
        ("all.cfg", SECTIONS.into()),
        ("bad.cfg", "# No section.\n\nkernal=x\n".into()),
        ("cut", hello[..hello.len() / 2].to_vec()),
        ("empty", Vec::new()),
        ("hello", hello),
    ];
    let console = bench.start(&machine)?;
    console.expect("or any other key to continue", PATIENCE)?;
    console.send(" ")?;
    for (arguments, sentences) in REFUSED {
        for sentence in sentences {
            console.expect(sentence, PATIENCE).context(arguments)?;
        }
        console
            .expect(
                "oxen.efi: back to the firmware by a key, or in 10 seconds",
                PATIENCE,
            )
            .context(arguments)?;
        console.send(" ")?;
    }
    console.expect("boot          UEFI application", PATIENCE)?;
    console.expect("command line: from=good", PATIENCE)?;
    verdict(console)
}
