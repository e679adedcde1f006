//! The test guests of `tests-qemu/guests`, each as dom0: it reports on itself.

use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::{BOTH, PATIENCE, amount, guest, test};
use crate::runner::{Bench, Test};
use crate::{Console, Machine, Vehicle};

/// One test for each guest and back end.
pub fn tests() -> Vec<Test> {
    let everywhere = [
        "hypercalls",
        "compat",
        "events",
        "fifo",
        "grants",
        "ioapic",
        "toolstack",
        "fuzz",
    ];
    let mut tests = Vec::new();
    for name in everywhere {
        for vehicle in BOTH {
            tests.push(test(name, vehicle, move |bench, machine| {
                run(bench, machine, name)
            }));
        }
    }
    // Interrupts by EVENTINJ, which the hypervisor does not use in TCG.
    tests.push(test("events", Vehicle::SvmBochs, |bench, machine| {
        run(bench, machine, "events")
    }));
    for vehicle in BOTH {
        tests.push(test(
            "only the console's UART is hidden",
            vehicle,
            |bench, mut machine| {
                machine.serial = 2;
                machine.command_line = machine.command_line.replace("com1", "com2");
                let (console, other) = (0x2f8, 0x3f8);
                run_with_defects(bench, machine, "uart", &format!("{console} {other}"), &[])
            },
        ));
    }
    for vehicle in BOTH {
        tests.push(test("lapic", vehicle, move |bench, machine| {
            lapic(bench, machine, None)
        }));
    }
    for vehicle in BOTH {
        tests.push(test("domctl and sysctl", vehicle, move |bench, mut machine| {
            machine.cpus = 2;
            // A domain runs on the second CPU, which uses the FPU.
            machine.one_thread = vehicle == Vehicle::Svm;
            machine.command_line += " dom0_max_vcpus=1";
            run(bench, machine, "control")
        }));
    }
    // With 2 CPUs under each guest's, the other one is at work at the same time.
    for vehicle in BOTH {
        tests.push(test(
            "interrupts once each",
            vehicle,
            move |bench, mut machine| {
                machine.cpus = 2;
                machine.command_line += " dom0_max_vcpus=2";
                run(bench, machine, "once")
            },
        ));
    }
    for vehicle in BOTH {
        tests.push(test("registers of two vCPUs", vehicle, |bench, mut machine| {
            machine.command_line += " dom0_max_vcpus=2";
            run(bench, machine, "registers")
        }));
    }
    // Bochs's AMD-V has interrupts by EVENTINJ, which the hypervisor does not use in TCG.
    for vehicle in [Vehicle::Svm, Vehicle::SvmBochs, Vehicle::Vmx] {
        tests.push(test("NMIs", vehicle, move |bench, mut machine| {
            machine.cpus = 2;
            machine.command_line += " dom0_max_vcpus=2";
            run(bench, machine, "nmi")
        }));
    }
    tests.push(test(
        "lapic, none of it by hardware",
        Vehicle::Vmx,
        move |bench, machine| lapic(bench, machine, Some("corei5_arrandale_m520")),
    ));
    for vehicle in BOTH {
        tests.push(test("a vCPU that moves", vehicle, move |bench, mut machine| {
            machine.cpus = 2;
            // A move takes QEMU's CPUs much longer when they are threads.
            machine.one_thread = vehicle == Vehicle::Svm;
            machine.command_line += " dom0_max_vcpus=2";
            run_with_defects(bench, machine, "moves", "", &[])
        }));
    }
    // By HPET or PM timer, as the machine has them.
    for (vehicle, moves) in [
        (Vehicle::Svm, "alone moves=400"),
        (Vehicle::Vmx, "alone moves=2000"),
    ] {
        tests.push(test(
            "a CPU with a TSC of its own",
            vehicle,
            move |bench, mut machine| {
                machine.cpus = 2;
                machine.command_line += " dom0_max_vcpus=1 crash_test=skew";
                without_tsc(bench, machine, "moves", moves)
            },
        ));
    }
    // TCG's CPUs have no IA32_TSC_ADJUST.
    tests.push(test(
        "a CPU with an adjusted TSC",
        Vehicle::Vmx,
        |bench, mut machine| {
            machine.cpus = 2;
            machine.command_line += " dom0_mem=64M crash_test=adjust";
            machine.modules = vec![guest("hello", "")?];
            let console = bench.start(&machine)?;
            console.expect("firmware left its time-stamp counter", PATIENCE)?;
            console.expect("ticks off; adjusted", PATIENCE)?;
            console.expect("2 of 2 run guests", PATIENCE)?;
            verdict(console)
        },
    ));
    for (vehicle, port) in PM_TIMERS {
        let arguments = format!("{} {port}", amount(vehicle, 300, 60));
        tests.push(test(
            "no drift without the TSC",
            vehicle,
            move |bench, mut machine| {
                machine.icount = (vehicle == Vehicle::Svm).then_some(0);
                machine.command_line += " tsc=unstable";
                without_tsc(bench, machine, "hour", &arguments)
            },
        ));
    }
    // Bochs has a TSC that can be written; TCG's only seems to jump, and the beat finds that.
    for (name, vehicle, cpus, jump, port) in TSC_JUMPS {
        tests.push(test(name, vehicle, move |bench, mut machine| {
            machine.cpus = cpus;
            machine.command_line += &format!(" dom0_max_vcpus=1 crash_test=tsc-{jump}");
            without_tsc(bench, machine, "steady", &format!("{port} {cpus}"))
        }));
    }
    // An hour of seconds. Bochs lets idle time pass more slowly.
    for (vehicle, port) in PM_TIMERS {
        let arguments = format!("{} {port}", amount(vehicle, 3600, 600));
        tests.push(test(
            "no drift, no tick lost",
            vehicle,
            move |bench, mut machine| {
                machine.icount = (vehicle == Vehicle::Svm).then_some(0);
                run_with_defects(bench, machine, "hour", &arguments, &[])
            },
        ));
    }
    for (name, vehicle, cpu, options, log) in SPECULATION {
        tests.push(test(name, vehicle, move |bench, mut machine| {
            machine.cpu = cpu.map(Into::into);
            machine.command_line += " dom0_max_vcpus=2";
            machine.command_line += options;
            let console = start(bench, machine, "speculation", "")?;
            console.expect(&format!("speculation   {log}"), PATIENCE)?;
            verdict(console)
        }));
    }
    for (vehicle, defects, arguments) in EXITS {
        tests.push(test("exits", vehicle, move |bench, machine| {
            run_with_defects(bench, machine, "exits", arguments, defects)
        }));
    }
    for (vehicle, defects, arguments) in EXITS {
        tests.push(test(
            "exits, precautions at each",
            vehicle,
            move |bench, mut machine| {
                machine.command_line += PRECAUTIONS;
                run_with_defects(bench, machine, "exits", arguments, defects)
            },
        ));
    }
    for vehicle in BOTH {
        tests.push(test(
            "hypercalls, precautions at each",
            vehicle,
            |bench, mut machine| {
                machine.command_line += PRECAUTIONS;
                let console = start(bench, machine, "hypercalls", "")?;
                console.expect("RSB overwritten by exits, BHB cleared by exits", PATIENCE)?;
                verdict(console)
            },
        ));
    }
    tests
}

/// The port of the PM timer.
const PM_TIMERS: [(Vehicle, u16); 2] = [(Vehicle::Svm, 1544), (Vehicle::Vmx, 45064)];

/// Where a TSC jumps while guests run, on how many CPUs, which way, and the port of the PM timer.
const TSC_JUMPS: [(&str, Vehicle, u32, &str, u16); 7] = [
    ("a TSC that jumps ahead", Vehicle::Svm, 2, "ahead", 1544),
    ("a TSC that jumps back", Vehicle::Svm, 2, "behind", 1544),
    ("the only TSC jumps back", Vehicle::Svm, 1, "behind", 1544),
    ("a TSC that jumps back", Vehicle::SvmBochs, 2, "behind", 45064),
    ("a TSC that jumps ahead", Vehicle::Vmx, 2, "ahead", 45064),
    ("a TSC that jumps back", Vehicle::Vmx, 2, "behind", 45064),
    ("the only TSC jumps back", Vehicle::Vmx, 1, "behind", 45064),
];

/// Where the exits are tested, and which checks fail there whatever a hypervisor does:
///
/// * TCG drops what is written to the upper half of CR0, where the manual has #GP (AMD APM vol. 2, 3.1.1).
/// * Bochs's AMD-V intercepts #DB before the exception is in DR6, where the manual has it after (AMD APM vol. 2, 15.12.2).
///
/// The last is what the guest is told to leave out: Bochs's AMD-V brings a single step over an intercepted instruction to the host, in the middle
/// of its world switch.
const EXITS: [(Vehicle, &[&str], &str); 3] = [
    (Vehicle::Svm, &["cr0-reserved"], ""),
    (Vehicle::SvmBochs, &["single-step-dr6"], "no-step-over-exit"),
    (Vehicle::Vmx, &[], ""),
];

/// All that the world switches can do against speculation, whatever the CPU needs. Registers, of which emulated CPUs have few,
/// are in the tests of [`SPECULATION`].
const PRECAUTIONS: &str = " spec-ctrl=rsb,bhb-entry,verw,div-scrub";

/// Where defences against speculation are tested, with which options, and what the log says: on CPUs without any, and
/// by each way to enter a guest. Bochs's Tiger Lake says that its buffers need to be cleared, its Ice Lake that entries
/// need nothing.
const SPECULATION: [(&str, Vehicle, Option<&str>, &str, &str); 7] = [
    (
        "no SPEC_CTRL",
        Vehicle::Svm,
        None,
        "",
        "no defences; vulnerable: indirect branches",
    ),
    (
        "no SPEC_CTRL",
        Vehicle::Vmx,
        None,
        "",
        "no defences; vulnerable: indirect branches",
    ),
    (
        "SPEC_CTRL",
        Vehicle::Vmx,
        Some("corei7_icelake_u"),
        "",
        "IBRS stays on, IBPB between vCPUs, one RSB entry by exits, BHB cleared by exits\r",
    ),
    (
        "SPEC_CTRL, all forgotten by exits",
        Vehicle::Vmx,
        Some("corei7_icelake_u"),
        " spec-ctrl=ibpb-entry,rsb,stibp,no-ibpb",
        "IBRS stays on, STIBP, IBPB at exits, RSB overwritten by exits, BHB cleared by exits\r",
    ),
    (
        "SPEC_CTRL, undefended",
        Vehicle::Vmx,
        Some("tigerlake"),
        " spec-ctrl=no",
        "no defences; vulnerable: indirect branches without IBRS\r",
    ),
    (
        "SPEC_CTRL, buffers cleared",
        Vehicle::Vmx,
        Some("tigerlake"),
        "",
        "IBRS stays on, IBPB between vCPUs, one RSB entry by exits, BHB cleared by exits, buffers cleared by entries",
    ),
    (
        "SPEC_CTRL, L1D flushed",
        Vehicle::Vmx,
        Some("tigerlake"),
        " spec-ctrl=l1d-flush,no-rsb,no-bhb-entry",
        "IBRS stays on, IBPB between vCPUs, L1D flushed by entries",
    ),
];

/// The local APIC, on the vehicle's own model of a CPU or on `cpu`.
fn lapic(bench: &mut Bench, mut machine: Machine, cpu: Option<&str>) -> Result<()> {
    // Bochs delivers a virtual interrupt to a guest that has its own off: see `Machine::use_apicv`.
    let defects: &[&str] = match (machine.vehicle, cpu) {
        (Vehicle::Vmx, None) => &["xapic-if-off", "xapic-again-if-off", "x2apic-if-off"],
        _ => &[],
    };
    machine.cpu = cpu.map(Into::into);
    machine.command_line += " dom0_max_vcpus=2";
    run_with_defects(bench, machine, "lapic", "", defects)
}

pub(super) fn run(bench: &mut Bench, machine: Machine, name: &str) -> Result<()> {
    run_with_defects(bench, machine, name, "", &[])
}

/// Where the hypervisor says that it goes by another clock.
fn without_tsc(bench: &mut Bench, machine: Machine, name: &str, arguments: &str) -> Result<()> {
    let console = start(bench, machine, name, arguments)?;
    console.expect("guests' reads of the TSC exit", PATIENCE)?;
    verdict(console)
}

fn run_with_defects(
    bench: &mut Bench,
    machine: Machine,
    name: &str,
    arguments: &str,
    defects: &[&str],
) -> Result<()> {
    verdict_with_defects(start(bench, machine, name, arguments)?, defects)
}

fn start<'a>(
    bench: &'a mut Bench,
    mut machine: Machine,
    name: &str,
    arguments: &str,
) -> Result<&'a mut Console> {
    machine.use_apicv();
    machine.command_line += " dom0_mem=128M";
    if matches!(machine.vehicle, Vehicle::Vmx | Vehicle::SvmBochs) {
        // A serial port's interrupt that comes while the guest's are off has Bochs's VT-x deliver a virtual one all the same, and its AMD-V pass over one as
        // soon as they are on.
        machine.command_line += " sync_console";
    }
    machine.modules = vec![guest(name, arguments)?];
    bench.start(&machine)
}

/// Waits for a guest's verdict; the error holds the checks that failed.
pub fn verdict(console: &mut Console) -> Result<()> {
    verdict_with_defects(console, &[])
}

/// As [`verdict`], where the emulator is known to fail exactly the checks `defects`.
fn verdict_with_defects(console: &mut Console, defects: &[&str]) -> Result<()> {
    let (which, before) =
        console.expect_any(&["RESULT pass", "RESULT fail", "PANIC", "crashed"], PATIENCE)?;
    let failed: Vec<&str> = before.lines().filter(|line| line.contains(": fail: ")).collect();
    let expected = failed.len() == defects.len()
        && failed
            .iter()
            .zip(defects)
            .all(|(line, defect)| line.contains(&format!("TEST {defect}: ")));
    match which {
        0 | 1 => ensure!(
            expected && (which == 0) == failed.is_empty(),
            "the guest says:\n      {}",
            failed.join("\n      ")
        ),
        _ => {
            // What it says about it.
            let _ = console.expect("shut down", Duration::from_secs(10));
            bail!("the guest ended without a result")
        }
    }
    Ok(())
}
