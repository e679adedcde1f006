//! Machines with several CPUs: all run guests, go off and on, and end with the machine.

use anyhow::{Context, Result, bail, ensure};

use super::guests::verdict;
use super::hostile::spinning;
use super::pools::comes_to;
use super::shim::Shim;
use super::{BOTH, PATIENCE, amount, guest, test};
use crate::runner::{Bench, Test};
use crate::{Machine, Vehicle, outputs};

/// The tests.
pub fn tests() -> Vec<Test> {
    let mut tests = Vec::new();
    for vehicle in BOTH {
        for (cpus, changes) in [(8, 4), (4, 50), (2, 10), (1, 0)] {
            tests.push(test(format!("CPUs: {cpus}"), vehicle, move |bench, machine| {
                let cpus = Cpus {
                    changes,
                    ..Cpus::all(cpus)
                };
                all(bench, machine, cpus)
            }));
        }
        let left_out = Cpus {
            off: 2,
            changes: 2,
            ..Cpus::all(4)
        };
        tests.push(test(
            "CPUs left out by maxcpus=",
            vehicle,
            move |bench, machine| all(bench, machine, left_out),
        ));
        let many = Cpus {
            vcpus: 128,
            changes: 1,
            ..Cpus::all(2)
        };
        tests.push(test("128 vCPUs", vehicle, move |bench, mut machine| {
            // They take turns on the CPUs, with the FPU.
            machine.one_thread = vehicle == Vehicle::Svm;
            all(bench, machine, many)
        }));
        if vehicle == Vehicle::Svm {
            tests.push(test("CPUs: 288", vehicle, more_than_bytes_count));
            tests.push(test("a CPU with a number above 255", vehicle, far_apart));
            tests.push(test(
                "x2APICs that firmware does not want",
                vehicle,
                without_x2apic,
            ));
            tests.push(test("CPUID that firmware limits", vehicle, limited));
            tests.push(test("watchdog without NMIs", vehicle, watchdog_without_nmis));
        }
        tests.push(test("machine reset", vehicle, resets));
        tests.push(test("dom0's end is the machine's", vehicle, ends_of_dom0));
        tests.push(test("watchdog", vehicle, watchdog));
    }
    tests
}

/// A machine's CPUs, and what a dom0 does with them.
#[derive(Clone, Copy)]
pub(super) struct Cpus {
    pub cpus: u32,
    /// So often one goes off and on.
    pub changes: u32,
    /// So many are off at first.
    pub off: u32,
    /// dom0's.
    pub vcpus: u32,
}

impl Cpus {
    /// So many, and as many vCPUs.
    pub const fn all(cpus: u32) -> Cpus {
        Cpus {
            cpus,
            changes: 0,
            off: 0,
            vcpus: cpus,
        }
    }
}

/// A dom0 brings those online that are off at first, works on all of them while one goes off and on, and then powers off: the emulator ends.
pub(super) fn all(bench: &mut Bench, mut machine: Machine, cpus: Cpus) -> Result<()> {
    let Cpus {
        cpus,
        changes,
        off,
        vcpus,
    } = cpus;
    machine.cpus = cpus;
    let most = cpus - off;
    machine.command_line += &format!(" dom0_mem=128M dom0_max_vcpus={vcpus}");
    if off > 0 {
        machine.command_line += &format!(" maxcpus={most}");
    }
    machine.modules = vec![guest("cpus", &format!("{cpus} {changes} {off} {vcpus}"))?];
    let console = bench.start(&machine)?;
    verdict(console)?;
    let expected = format!("{most} of {cpus} run guests");
    ensure!(
        console.output().contains(&expected),
        "the log has no {expected:?}"
    );
    console.expect("switching the machine off", PATIENCE)?;
    console.wait(PATIENCE)?;
    Ok(())
}

/// More CPUs than a byte counts, and than fit into one of the scheduler's groups: the last ones run guests, too.
fn more_than_bytes_count(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    machine.cpu = Some("EPYC-Milan-v2,x2apic=on".into());
    machine.cpus = 288;
    machine.one_thread = true;
    machine.command_line += " dom0_max_vcpus=2";
    let mut shim = spinning(bench, machine)?;
    let info = shim.command("info")?;
    ensure!(info.contains("nr_cpus                : 288"), "{info}");
    for cpu in ["287", "255", "32"] {
        shim.command(&format!("create spin name='on{cpu}' cpus='{cpu}'"))?;
        comes_to(&mut shim, &format!("on{cpu}"), &[cpu])?;
        runs_something(&mut shim, cpu)?;
    }
    Ok(())
}

/// A machine with room for 400 CPUs has two, whose local APICs are 0 and 299: only x2APICs reach the second, which goes off and on, too.
fn far_apart(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    machine.cpu = Some("EPYC-Milan-v2,x2apic=on".into());
    machine.qemu = [
        "-smp",
        "cpus=1,maxcpus=400,sockets=400,cores=1",
        "-device",
        "EPYC-Milan-v2-x86_64-cpu,x2apic=on,socket-id=299,core-id=0,thread-id=0",
    ]
    .map(String::from)
    .to_vec();
    let cpus = Cpus {
        changes: 10,
        ..Cpus::all(2)
    };
    all(bench, machine, cpus)
}

/// Firmware's table DMAR advises against x2APICs: several CPUs run without, unless the command line asks for them.
fn without_x2apic(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    // Behind the table's header: 39 bits of addresses, X2APIC_OPT_OUT, ten bytes for later, a remapping unit where there is none (VT-d 4.1, 8.1 and 8.3).
    const DMAR: [u8; 28] = [
        38, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0xd9, 0xfe, 0, 0, 0, 0,
    ];
    let table = bench.scratch().join("dmar");
    std::fs::write(&table, DMAR)?;
    machine.cpu = Some("EPYC-Milan-v2,x2apic=on".into());
    machine.cpus = 2;
    machine.command_line += " dom0_mem=64M";
    machine.modules = vec![guest("hello", "")?];
    machine.qemu = vec!["-acpitable".into(), format!("sig=DMAR,data={}", table.display())];
    for (option, mode) in [("", "xAPIC"), (" x2apic=yes", "x2APIC")] {
        let mut machine = machine.clone();
        machine.command_line += option;
        let console = bench.start(&machine)?;
        verdict(console)?;
        let log = console.output();
        let expected = format!("interrupts    {mode}, ");
        ensure!(log.contains("2 of 2 run guests"), "not all CPUs run");
        ensure!(log.contains(&expected), "the log has no {expected:?}");
    }
    Ok(())
}

/// An Intel CPU that shows no leaves beyond 2 is asked to show all: Oxen comes to where it says that QEMU's has no VT-x.
fn limited(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    machine.cpu = Some("Skylake-Client,level=2".into());
    machine.modules = vec![guest("hello", "")?];
    let console = bench.start(&machine)?;
    console.expect("the CPU has no VT-x", PATIENCE)?;
    Ok(())
}

/// Waits until a CPU says that it runs a domU.
fn runs_something(shim: &mut Shim<'_>, cpu: &str) -> Result<()> {
    const LOOKS: u32 = 50;
    let mut said = String::new();
    for _ in 0..LOOKS {
        said = shim.command("debug-keys r")?;
        let line = said.lines().find(|line| line.contains(&format!("CPU {cpu}, ")));
        if line.is_some_and(|line| line.contains("runs d") && !line.contains("runs d0")) {
            return Ok(());
        }
    }
    bail!("CPU {cpu} does not run the domain: {said}")
}

/// A machine that is told to restart does, by whatever way the command line says.
fn resets(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    const WAYS: [&str; 4] = ["", "reboot=pci", "reboot=kbd", "reboot=triple"];
    machine.restarts = true;
    // Bochs's firmware does not get through a reset by the keyboard controller, and Bochs holds still at a triple fault.
    let most = match machine.vehicle {
        Vehicle::Svm => WAYS.len(),
        _ => WAYS.len() - 2,
    };
    for way in &WAYS[..amount(machine.vehicle, most, 1)] {
        let mut machine = machine.clone();
        machine.command_line = machine.command_line.replace("noreboot", way);
        let shim = Shim::start(bench, machine, outputs::output("boot-archive.cpio")?)?;
        shim.console.type_line("debug-keys R")?;
        shim.console.expect("restarting the machine", PATIENCE)?;
        shim.console
            .expect("Oxen 0.1.0", PATIENCE)
            .with_context(|| format!("restart by {way:?}"))?;
    }
    Ok(())
}

/// A dom0 that reboots restarts the machine; one that crashes does so unless the command line says `noreboot`.
fn ends_of_dom0(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    machine.restarts = true;
    machine.command_line += " dom0_mem=64M";
    // Reasons as Xen numbers them: 1 is a reboot, 3 a crash.
    for (what, option, said) in [
        ("what=reboot", "noreboot", "(reason 1): restarting the machine"),
        ("what=panic", "", "(reason 3): restarting the machine"),
        ("what=panic", "noreboot", "(reason 3): noreboot, halted"),
    ] {
        let mut machine = machine.clone();
        machine.command_line = machine.command_line.replace("noreboot", option);
        machine.modules = vec![guest("hostile", what)?];
        let console = bench.start(&machine)?;
        console.expect(&format!("dom0 has ended {said}"), PATIENCE)?;
        if !said.ends_with("halted") {
            console.expect("Oxen 0.1.0", PATIENCE)?;
        }
    }
    Ok(())
}

/// On a machine without a PIT there is no watchdog, unless the command line insists.
fn watchdog_without_nmis(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    machine.chipset = "q35,pit=off";
    machine.modules = vec![guest("hello", "")?];
    for (option, said) in [
        ("watchdog", "off: no NMI comes from the PIT"),
        ("watchdog=force", "by NMI, 5 s, by force: none has come"),
    ] {
        let mut machine = machine.clone();
        machine.command_line += &format!(" dom0_mem=64M {option}");
        let console = bench.start(&machine)?;
        console.expect(&format!("watchdog      {said}"), PATIENCE)?;
        verdict(console)?;
    }
    Ok(())
}

/// A CPU that hangs is reported with what it did, be it the one that looks after the others or another.
fn watchdog(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    machine.cpus = 2;
    machine.command_line += " watchdog watchdog_timeout=2 crash_test=hang dom0_max_vcpus=1";
    for cpu in amount(machine.vehicle, 0..2, 1..2) {
        let mut shim = Shim::start(bench, machine.clone(), outputs::output("boot-archive.cpio")?)?;
        // The pool of dom0 has the other CPU.
        shim.command(&format!("cpupool-cpu-remove Pool-0 {}", 1 - cpu))?;
        shim.crash(&[
            &format!("CPU {cpu} hangs"),
            &format!("panic on CPU {cpu}"),
            &format!("Watchdog timer detects that CPU{cpu} is stuck!"),
            "rip ",
            "running: d0v0",
            "hypervisor::debug_keys::hang",
            "hypervisor::virt::run_cpu",
        ])?;
        ensure!(
            shim.console.output().contains("watchdog      by NMI, 2 s"),
            "the watchdog is not in the log"
        );
    }
    Ok(())
}
