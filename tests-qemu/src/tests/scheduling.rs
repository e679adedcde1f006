//! Shares of CPUs, as one sets and reads them at the prompt.

use anyhow::{Context, Result, ensure};

use super::guests::verdict;
use super::hostile::spinning;
use super::pools::comes_to;
use super::shim::Shim;
use super::{BOTH, test};
use crate::runner::{Bench, Test};
use crate::{Machine, Vehicle};

/// Seconds that two domains compute, together, or that pass, for one measurement at least: the list shows tenths.
const MEASURED: f64 = 16.0;

/// The tests.
pub fn tests() -> Vec<Test> {
    BOTH.into_iter()
        .flat_map(|vehicle| {
            [
                test("weights and caps", vehicle, shares),
                test("vCPUs pinned", vehicle, pins),
                test("core scheduling", vehicle, cores),
                test("woken beside hostile domUs", vehicle, punctual),
                test("TSCs of other rates", vehicle, rates),
            ]
        })
        // QEMU's TCG and Bochs's AMD-V do not scale.
        .chain([test(
            "TSCs of other rates, by hardware",
            Vehicle::Vmx,
            scaled_rates,
        )])
        .collect()
}

/// Seconds that domain `name` has computed, from `vcpu-list`.
fn computed(list: &str, name: &str) -> Result<f64> {
    let line = list
        .lines()
        .find(|line| line.split_whitespace().next() == Some(name));
    let time = line.and_then(|line| line.split_whitespace().nth(5)?.parse().ok());
    time.with_context(|| format!("no time of {name} in {list}"))
}

/// The machine's clock, in seconds: what the log's lines begin with.
fn clock(shim: &mut Shim) -> Result<f64> {
    let report = shim.command("debug-keys r")?;
    let stamp = report
        .rsplit_once("(oxen) [")
        .and_then(|(_, line)| line.split_once(']')?.0.trim().parse().ok());
    stamp.with_context(|| format!("no time in {report}"))
}

/// Of the `whole` from here on, `part` comes to `wanted`, within 2 %; `read` reads both, in seconds. A machine that does other things beside disturbs that for
/// a while.
fn settles(
    shim: &mut Shim,
    what: &str,
    wanted: f64,
    read: impl Fn(&mut Shim) -> Result<(f64, f64)>,
) -> Result<()> {
    let before = read(shim)?;
    loop {
        let now = read(shim)?;
        let (part, whole) = (now.0 - before.0, now.1 - before.1);
        if whole >= MEASURED && (part / whole / wanted - 1.0).abs() <= 0.02 {
            return Ok(());
        }
        ensure!(
            whole < 5.0 * MEASURED,
            "{what}: a has {:.2} % of the time, not {:.2} %",
            part / whole * 100.0,
            wanted * 100.0
        );
    }
}

/// What `a` computes, and `a` and `b` together.
fn of_both(shim: &mut Shim) -> Result<(f64, f64)> {
    let list = shim.command("vcpu-list")?;
    let a = computed(&list, "a")?;
    Ok((a, a + computed(&list, "b")?))
}

/// What `a` computes, and the time that passes.
fn of_the_clock(shim: &mut Shim) -> Result<(f64, f64)> {
    let list = shim.command("vcpu-list a")?;
    Ok((computed(&list, "a")?, clock(shim)?))
}

/// Two domains that compute for ever share a CPU as their weights say, and one that has a cap gets just that, also if it gets the cap while it runs, and nobody
/// else wants its CPU.
fn shares(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    (machine.cpus, machine.mips) = (2, 20);
    // What else the emulator's machine does takes no time then, and its CPUs take turns: for long, one changes from vCPU to vCPU while dom0 exits on the
    // other, and QEMU's defect with FXRSTOR and XRSTOR would come to that in the end.
    machine.icount = (machine.vehicle == Vehicle::Svm).then_some(6);
    let mut shim = spinning(bench, machine)?;
    for (name, weight) in [("a", 256), ("b", 512)] {
        let said = shim.command(&format!("create spin name='{name}' cpus='1' cpu_weight={weight}"))?;
        ensure!(said.contains("created"), "{said}");
    }
    let table = shim.command("sched-credit2")?;
    ensure!(table.contains("Cpupool Pool-0: ratelimit=1000us"), "{table}");
    settles(&mut shim, "weights 256 and 512", 1.0 / 3.0, of_both)?;

    // Without it, a would have two thirds.
    shim.command("sched-credit2 -d b -w 256")?;
    shim.command("sched-credit2 -d a -w 512 -c 50")?;
    let row = shim.command("sched-credit2 -d a")?;
    let fields = |line: &str| -> Vec<String> { line.split_whitespace().map(str::to_owned).collect() };
    ensure!(
        row.lines().any(|line| fields(line) == ["a", "1", "512", "50"]),
        "sched-credit2 -d a: {row}"
    );
    settles(&mut shim, "a cap of 50", 0.5, of_both)?;

    for (command, sentence) in [
        ("sched-credit2 -w 5", "Must specify a domain."),
        (
            "sched-credit2 -d nobody",
            "nobody is an invalid domain identifier",
        ),
        ("sched-credit2 -s -r 50", "it is 0, or 100 to 500000"),
        ("sched-credit2 -r 500", "Must specify -s"),
    ] {
        let said = shim.command(command)?;
        ensure!(said.contains(sentence), "{command}: {said}");
    }
    shim.command("sched-credit2 -s -r 500")?;
    let limit = shim.command("sched-credit2 -s")?;
    ensure!(limit.contains("ratelimit=500us"), "{limit}");

    // Alone, it runs on until something stops it.
    shim.command("destroy b")?;
    shim.command("sched-credit2 -d a -c 0")?;
    shim.command("sched-credit2 -d a -c 50")?;
    settles(&mut shim, "a cap of 50, alone", 0.5, of_the_clock)
}

/// A vCPU goes where it is told, and the list says so; dom0's have been where they are since the start, none of them on the CPU that is left out.
fn pins(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    machine.cpus = 3;
    machine.command_line += " maxcpus=2 dom0_max_vcpus=3 dom0_vcpus_pin";
    let mut shim = spinning(bench, machine)?;
    let list = shim.command("vcpu-list Domain-0")?;
    let rows = || {
        list.lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
    };
    for (vcpu, cpu) in [("0", "0"), ("1", "1"), ("2", "0")] {
        let stays = |row: &Vec<&str>| row.get(2) == Some(&vcpu) && row.ends_with(&[cpu, "/", "all"]);
        ensure!(rows().any(|row| stays(&row)), "{list}");
    }
    shim.command("create spin name='a' cpus='1'")?;
    let row = |shim: &mut Shim| -> Result<String> {
        let list = shim.command("vcpu-list a")?;
        let line = list.lines().find(|line| line.starts_with("a "));
        Ok(line.with_context(|| format!("vcpu-list a: {list}"))?.to_owned())
    };
    let on = |row: &str, cpu: &str| row.split_whitespace().nth(3) == Some(cpu);
    let first = row(&mut shim)?;
    ensure!(first.ends_with(" 1 / all") && on(&first, "1"), "{first}");
    for cpu in ["0", "1", "0"] {
        shim.command(&format!("vcpu-pin a 0 {cpu}"))?;
        comes_to(&mut shim, "a", &[cpu])?;
        let moved = row(&mut shim)?;
        ensure!(moved.ends_with(&format!(" {cpu} / all")), "{moved}");
    }
    shim.command("vcpu-pin a all all 1")?;
    let soft = row(&mut shim)?;
    ensure!(soft.ends_with(" all / 1"), "{soft}");
    // It goes where it should be while it computes, whenever there is room.
    comes_to(&mut shim, "a", &["1"])?;
    shim.command("create spin name='b' cpus='1'")?;
    comes_to(&mut shim, "a", &["0"])?;
    shim.command("destroy b")?;
    comes_to(&mut shim, "a", &["1"])?;
    for (command, sentence) in [
        ("vcpu-pin a 0 7", "Could not set affinity for vcpu 0: "),
        ("vcpu-pin a 5 0", "Invalid argument '5' as VCPU"),
        ("vcpu-pin a 0 x", "'x' is not the number of a CPU"),
    ] {
        let said = shim.command(command)?;
        ensure!(said.contains(sentence), "{command}: {said}");
    }
    Ok(())
}

/// What debug key `r` says of each CPU: its core, and the domain that it runs.
fn who_runs(report: &str) -> Vec<(u32, Option<u32>)> {
    let cpus = report
        .lines()
        .filter_map(|line| line.split_once("CPU ")?.1.split_once(", core "));
    cpus.filter_map(|(_, line)| {
        let core = line.split_once(':')?.0.parse().ok()?;
        let runs = line
            .split_once("runs d")
            .and_then(|(_, who)| who.split_once('v')?.0.parse().ok());
        Some((core, runs))
    })
    .collect()
}

/// Two cores with two threads each, and more domains that compute than cores: no two of them ever run on a core at once.
///
/// Bochs's CPUID leaf 0BH tells how many bits number a socket's cores, where the manual has all bits below the socket's (SDM 2A): there are two sockets there.
pub(super) fn cores(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    const SAMPLES: u32 = 30;
    let vehicle = machine.vehicle;
    (machine.cpus, machine.threads, machine.mips) = (4, 2, 10);
    machine.command_line += " sched-gran=core dom0_max_vcpus=1";
    let mut shim = spinning(bench, machine)?;
    let info = shim.command("info")?;
    ensure!(info.contains("threads_per_core       : 2"), "{info}");
    if vehicle == Vehicle::Svm {
        ensure!(info.contains("cores_per_socket       : 2"), "{info}");
    }
    for name in ["a", "b", "c"] {
        let said = shim.command(&format!("create spin name='{name}'"))?;
        ensure!(said.contains("created"), "{said}");
    }
    for sample in 1.. {
        let report = shim.command("debug-keys r")?;
        let cpus = who_runs(&report);
        ensure!(cpus.len() == 4, "{report}");
        for core in [0, 1] {
            let mut domains: Vec<u32> = cpus
                .iter()
                .filter(|cpu| cpu.0 == core)
                .filter_map(|cpu| cpu.1)
                .collect();
            domains.dedup();
            ensure!(domains.len() <= 1, "domains share core {core}: {report}");
        }
        let list = shim.command("vcpu-list")?;
        let times = ["a", "b", "c"].map(|name| computed(&list, name));
        let all_ran = times
            .iter()
            .all(|time| time.as_ref().is_ok_and(|time| *time > 0.5));
        if sample >= SAMPLES && all_ran {
            break;
        }
        ensure!(sample < 20 * SAMPLES, "not all run: {list}");
    }
    Ok(())
}

/// One CPU, a domain that computes with interrupts off, and one whose two vCPUs storm each other and themselves with interrupts: a third is woken within a slice. By the machine's time, which
/// goes by instructions.
fn punctual(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    machine.icount = (machine.vehicle == Vehicle::Svm).then_some(0);
    let mut shim = spinning(bench, machine)?;
    for config in ["spin name='a'", "spin name='b' vcpus=2 extra='what=storm'"] {
        let said = shim.command(&format!("create {config}"))?;
        ensure!(said.contains("created"), "{said}");
    }
    shim.console
        .type_line("create spin name='p' kernel='/guests/punctual'")?;
    verdict(shim.console)
}

/// Domains whose TSCs count half and twice as fast as the machine's, and one that is emulated at the machine's own rate.
fn rates(bench: &mut Bench, machine: Machine) -> Result<()> {
    rates_by(bench, machine, false)
}

/// The same where the hardware scales, so that they do not exit.
fn scaled_rates(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    machine.cpu = Some("tigerlake".into());
    rates_by(bench, machine, true)
}

fn rates_by(bench: &mut Bench, machine: Machine, scaled: bool) -> Result<()> {
    let mut shim = spinning(bench, machine)?;
    let log = shim.console.output();
    let mhz = log
        .split_once("TSC ")
        .and_then(|(_, rest)| rest.split_once(" MHz"))
        .context("no rate of the TSC in the log")?
        .0;
    let khz: u64 = mhz.replace('.', "").parse()?;
    for (number, (khz, mode)) in [
        (khz / 2, "default"),
        (khz * 2, "default"),
        (khz, "always_emulate"),
        (khz * 2, "always_emulate"),
    ]
    .into_iter()
    .enumerate()
    {
        let emulated = u32::from(!scaled || mode != "default");
        shim.console.type_line(&format!(
            "create spin name='p{number}' kernel='/guests/rates' tsc_mode='{mode}' tsc_khz={khz} extra='{khz},{emulated}'"
        ))?;
        verdict(shim.console).with_context(|| format!("{khz} kHz, {mode}"))?;
        shim.wait_for(&format!("p{number}"), false)?;
    }
    Ok(())
}
