//! Every door, on every back end that has it, down to a dom0 that has its command line and its ramdisk.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::guests::verdict;
use super::hostile::spinning;
use super::shim::{Shim, archive};
use super::{BOTH, PATIENCE, guest, test, test_by};
use crate::runner::{Bench, Test};
use crate::{Door, Machine, Module, Vehicle, outputs};

/// The doors that bring all modules with their command lines.
const DOORS: [(Vehicle, Door); 9] = [
    (Vehicle::Svm, Door::Kernel),
    (Vehicle::Svm, Door::Multiboot1),
    (Vehicle::Svm, Door::Multiboot2),
    (Vehicle::Svm, Door::UefiGrub),
    (Vehicle::Svm, Door::UefiApp),
    (Vehicle::Vmx, Door::Isolinux),
    (Vehicle::Vmx, Door::Multiboot1),
    (Vehicle::Vmx, Door::Multiboot2),
    (Vehicle::SvmBochs, Door::Multiboot2),
];

/// Some for each door, others for each vendor.
pub fn tests() -> Vec<Test> {
    DOORS
        .into_iter()
        .flat_map(|(vehicle, door)| {
            [
                test_by("boot", vehicle, door, boot),
                test_by("boot with bad second modules", vehicle, door, bad_second_modules),
            ]
        })
        .chain([test_by("boot", Vehicle::Svm, Door::Pvh, boot_by_pvh)])
        .chain([test_by(
            "boot by a xen.cfg",
            Vehicle::Svm,
            Door::UefiApp,
            xen_config,
        )])
        .chain(BOTH.map(|vehicle| test("panic", vehicle, panic)))
        .chain(BOTH.map(|vehicle| test("exceptions of the hypervisor", vehicle, exceptions)))
        .chain(BOTH.map(|vehicle| test("second serial port", vehicle, second_port)))
        .chain(BOTH.map(|vehicle| test("debug keys", vehicle, debug_keys)))
        .chain(BOTH.map(|vehicle| test("debug key d on other CPUs", vehicle, registers)))
        .chain(BOTH.map(|vehicle| test("Xen's options", vehicle, options)))
        .collect()
}

/// The debug key that makes Oxen panic: what helps to find out why is on the serial line, and stays, as the machine does not restart.
fn panic(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    const STILL: Duration = Duration::from_secs(3);
    machine.restarts = true;
    let mut shim = Shim::start(bench, machine, outputs::output("boot-archive.cpio")?)?;
    shim.crash(&[
        "panic on CPU 0",
        "asked for by debug key 'C'",
        "rip ",
        "cr2 ",
        "running: d0v0",
        "hypervisor::debug_keys::crash",
        "hypervisor::virt::run_cpu",
        "noreboot, halted",
    ])?;
    let again = shim.console.expect_any(&["Oxen 0.1.0"], STILL);
    ensure!(again.is_err(), "the machine has restarted");
    Ok(())
}

/// An exception in the hypervisor is reported as a panic is; so is a stack that is used up, by #DF on a stack of its own.
fn exceptions(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    let command_line = machine.command_line.clone();
    for (what, name, place) in [
        (
            "fault",
            "#PF, page fault, error code 0x0",
            "hypervisor::hw::traps::fault",
        ),
        (
            "stack",
            "#DF, double fault, error code 0x0",
            "hypervisor::debug_keys::deepen",
        ),
    ] {
        machine.command_line = format!("{command_line} crash_test={what}");
        let mut shim = Shim::start(bench, machine.clone(), outputs::output("boot-archive.cpio")?)?;
        shim.crash(&["panic on CPU 0", name, "rip ", "cr2 ", "running: d0v0", place])
            .context(what)?;
    }
    Ok(())
}

/// The serial line goes to the hypervisor and back; its keys say what runs, and leave it running. All that is printed whatever is to be logged.
fn debug_keys(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    const SWITCH: &str = "\x02\x02\x02";
    machine.cpus = 2;
    machine.command_line += " conswitch=b loglvl=none guest_loglvl=none";
    let mut shim = Shim::start(bench, machine, outputs::output("boot-archive.cpio")?)?;
    for _ in 0..2 {
        shim.console.send(SWITCH)?;
        shim.console.expect(
            "serial input to Oxen (type CTRL-b three times to switch)",
            PATIENCE,
        )?;
        for (key, answers) in [
            ("h", &["key 'C'", "key 'd'", "key 'r'"][..]),
            ("0", &["d0v0: "]),
            ("e", &["d0: ", " ports bound", "  port ", "Virq("]),
            ("g", &["d0: grant table of version"]),
            ("i", &["I/O APIC ", "  line 4: Oxen, redirection 0x"]),
            ("m", &["memory: "]),
            ("q", &["d0: ", "  v0: ", "  v1: "]),
            ("r", &["CPU 0, ", "CPU 1, "]),
            ("d", &["d0v0: ", " rflags ", "ISR "]),
            ("d", &["d0v0: ", " rflags ", "ISR "]),
        ] {
            shim.console.send(key)?;
            for answer in answers {
                shim.console.expect(answer, PATIENCE).context(key)?;
            }
        }
        shim.console.send(SWITCH)?;
        shim.console.expect("serial input to dom0", PATIENCE)?;
        let list = shim.command("list")?;
        ensure!(list.contains("Domain-0"), "{list}");
    }
    Ok(())
}

/// Who asks for the registers of vCPUs that other CPUs run has them when the command is done. An unknown key does nothing.
fn registers(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    machine.cpus = 3;
    machine.command_line += " dom0_max_vcpus=1 dom0_vcpus_pin";
    let mut shim = spinning(bench, machine)?;
    for cpu in 1..3 {
        let said = shim.command(&format!("create spin name='on{cpu}' cpus='{cpu}'"))?;
        ensure!(said.contains("created"), "{said}");
    }
    for _ in 0..10 {
        let said = shim.command("debug-keys d")?;
        for vcpu in ["d0v0: ", "d1v0: ", "d2v0: "] {
            ensure!(said.matches(vcpu).count() == 1, "no {vcpu:?}, or two: {said}");
        }
    }
    let said = shim.command("debug-keys ?")?;
    ensure!(!said.contains("(oxen)"), "an unknown key: {said}");
    Ok(())
}

/// The console is at com2: Oxen's log and the shim's prompt, and what is typed comes in by that port's interrupt.
fn second_port(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    machine.serial = 2;
    machine.command_line = "console=com2 com2=115200,8n1 loglvl=all guest_loglvl=all noreboot".into();
    let mut shim = Shim::start(bench, machine, outputs::output("boot-archive.cpio")?)?;
    let list = shim.command("list")?;
    ensure!(list.contains("Domain-0"), "{list}");
    Ok(())
}

/// Options of Xen's are taken without a word, or with the right one, and do what they say.
fn options(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    machine.command_line = format!(
        "placeholder {} console=com1,vga no-real-mode edd=off mem=512M conring_size=256k tsc=unstable clocksource=acpi \
         sched_ratelimit_us=500 sync_console gnttab_max_frames=32 dom0_mem=64M",
        machine.command_line
    );
    machine.modules = vec![guest("hello", "")?];
    let console = bench.start(&machine)?;
    verdict(console)?;
    let output = console.output();
    for expected in [
        "\"console=vga\" shows nothing",
        "memory        511 MiB of RAM",
        "time is the PM timer's",
    ] {
        ensure!(output.contains(expected), "the log does not say {expected:?}");
    }
    let complaints = output.matches("WARN  command line: ").count();
    ensure!(complaints == 1, "{complaints} complaints");
    Ok(())
}

/// The guest `hello` prints its command line and its module, so both must have come through the door.
fn boot(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    const ARGS: &str = "first=1 second=a,b";
    const CONTENTS: &str = "the second module, as it was";
    let ramdisk = bench.scratch().join("ramdisk");
    std::fs::write(&ramdisk, CONTENTS)?;
    machine.command_line += " dom0_mem=64M";
    machine.modules = vec![
        guest("hello", ARGS)?,
        Module {
            path: ramdisk,
            args: String::new(),
        },
    ];
    let console = bench.start(&machine)?;
    verdict(console)?;
    let output = console.output();
    for expected in [format!("command line: {ARGS}"), format!("module 0: {CONTENTS}")] {
        ensure!(output.contains(&expected), "dom0 did not print {expected:?}");
    }
    Ok(())
}

/// dom0-shim comes up with a boot archive that is cut off, and says so, and without one.
fn bad_second_modules(bench: &mut Bench, machine: Machine) -> Result<()> {
    const COMPLAINT: &str =
        "The boot archive (dom0's second module) is damaged, or no cpio archive: 1 files of it can be read";
    let files = [
        ("etc/oxen/h.cfg", b"name='h'\nkernel='/k'\nmemory=32\n".to_vec()),
        ("k", vec![1; 10_000]),
    ];
    let path = archive(&bench.scratch(), &files)?;
    let bytes = std::fs::read(&path)?;
    std::fs::write(&path, &bytes[..bytes.len() - 8_000])?;
    for (archive, complaint, answer) in [
        (Some(path), true, "/k: no such file in the boot archive"),
        (None, false, "h: no such file in the boot archive"),
    ] {
        let mut shim = match archive {
            Some(archive) => Shim::start(bench, machine.clone(), archive)?,
            None => Shim::without_archive(bench, machine.clone())?,
        };
        let said = shim.command("create h")?;
        ensure!(said.contains(answer), "{said}");
        let complained = shim.console.output().contains(COMPLAINT);
        ensure!(complained == complaint, "{}", shim.console.output());
    }
    Ok(())
}

/// There is one module by this door, without a command line.
fn boot_by_pvh(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    machine.command_line += " dom0_mem=64M";
    machine.modules = vec![guest("hello", "")?];
    let console = bench.start(&machine)?;
    console.expect("boot          PVH by ", PATIENCE)?;
    verdict(console)
}

/// What the configuration names for Xen alone is passed over.
fn xen_config(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    machine.xen_config = true;
    machine.command_line += " dom0_mem=64M";
    machine.modules = vec![guest("hello", "")?];
    let console = bench.start(&machine)?;
    console.expect("`ucode` is passed over: Oxen loads no microcode", PATIENCE)?;
    console.expect("`video` is passed over", PATIENCE)?;
    verdict(console)
}
