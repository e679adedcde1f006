//! What exits, hypercalls and requests to back ends cost a domU: guests measure it from inside, in ticks of the
//! time-stamp counter. One tick is one instruction in Bochs, and in QEMU with `-icount`.

use std::{fmt, fs};

use anyhow::{Context, Result, bail, ensure};

use super::tables::{Device, Floor, Guest, Measurement};
use super::{Dom0, Hypervisor, PATIENCE, cell, grouped};
use crate::runner::Bench;
use crate::{Machine, Vehicle, outputs};

/// What guests that wait for others print when they are ready.
const READY: &str = "READY";

/// What an operation takes.
#[derive(PartialEq, Eq, Debug)]
struct Cost {
    operation: String,
    ticks: u64,
    /// What goes with it, where the guest counts that.
    events: Option<Events>,
}

/// Events of 1,000 operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Events {
    /// By the guest.
    sent: u64,
    /// To the guest.
    come: u64,
}

impl fmt::Display for Events {
    /// Of one operation.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [sent, come] = [self.sent, self.come].map(|events| events as f64 / 1000.0);
        f.pad(&format!("{sent:.2} + {come:.2}"))
    }
}

/// Carries out measurements on each of the hypervisors, and prints their tables.
///
/// # Errors
/// A machine does not do what is expected of it.
pub fn measure(vehicle: Vehicle, hypervisors: &[Hypervisor], measurements: &[&Measurement]) -> Result<()> {
    let mut switch = None;
    let mut results = Vec::new();
    for &hypervisor in hypervisors {
        let (costs, logged) =
            run(vehicle, hypervisor, measurements).with_context(|| format!("{hypervisor} on {vehicle}"))?;
        results.push((hypervisor, costs));
        switch = switch.or(logged);
    }
    let of = |hypervisor: Hypervisor, index: usize| -> &[Cost] {
        let found = results.iter().find(|(of, _)| *of == hypervisor);
        found.map_or(&[], |(_, costs)| &costs[index])
    };
    let switch = switch.context("Oxen did not log the floor")?;
    // Bochs has no virtio devices.
    let virtio = match vehicle {
        Vehicle::Svm if measurements.iter().any(|of| of.floor == Floor::Virtio) => {
            virtio().context("virtio devices without a hypervisor")?
        }
        _ => Vec::new(),
    };
    for (index, measurement) in measurements.iter().enumerate() {
        let (floor, floors) = match measurement.floor {
            Floor::WorldSwitch => (format!(" (floor: {switch})"), None),
            Floor::Virtio => (String::new(), Some(&virtio[..])),
            Floor::None => (String::new(), Some(&[][..])),
        };
        println!(
            "{}, {}, {}{floor}\n",
            measurement.title,
            measurement.unit,
            match vehicle {
                Vehicle::Vmx => "VT-x in Bochs",
                _ => "AMD-V in QEMU",
            },
        );
        let floor = |operation: &str| match floors {
            None => Some(switch),
            Some(floors) => {
                // Without another domain there are no grants that could be persistent.
                let operation = operation.trim_end_matches(", persistent");
                let floor = floors.iter().find(|floor| floor.operation == operation);
                floor.map(|floor| floor.ticks)
            }
        };
        table(of(Hypervisor::Xen, index), of(Hypervisor::Oxen, index), floor);
    }
    Ok(())
}

fn table(xen: &[Cost], oxen: &[Cost], floor: impl Fn(&str) -> Option<u64>) {
    let counted = oxen.iter().any(|cost| cost.events.is_some());
    let more = |text: String| if counted { text } else { String::new() };
    let width = oxen
        .iter()
        .map(|cost| cost.operation.len())
        .max()
        .unwrap_or(0)
        .max(27);
    println!(
        "| {:<width$} |   Xen 4.17 |       Oxen | Oxen/Xen |     floor | Oxen/floor |{}",
        "operation",
        more(format!(" {:<13} | {:<13} |", "events, Xen", "events, Oxen"))
    );
    println!(
        "|{}|-----------:|-----------:|---------:|----------:|-----------:|{}",
        "-".repeat(width + 2),
        more("---------------|---------------|".into())
    );
    for cost in oxen {
        let xen = xen.iter().find(|xen| xen.operation == cost.operation);
        let ticks = xen.map(|xen| xen.ticks);
        let floor = floor(&cost.operation);
        let ratio = |to: Option<u64>, digits: usize| {
            to.filter(|&to| to > 0).map_or_else(String::new, |to| {
                format!("{:.digits$}", cost.ticks as f64 / to as f64)
            })
        };
        let events = |of: Option<&Cost>| {
            of.and_then(|cost| cost.events)
                .map_or_else(String::new, |events| events.to_string())
        };
        println!(
            "| {:<width$} | {:>10} | {:>10} | {:>8} | {:>9} | {:>10} |{}",
            cost.operation,
            cell(ticks),
            grouped(cost.ticks),
            ratio(ticks, 3),
            cell(floor),
            ratio(floor, 1),
            more(format!(" {:<13} | {:<13} |", events(xen), events(Some(cost)))),
        );
    }
    println!();
}

/// What requests cost a guest on QEMU's virtio devices, without a hypervisor.
fn virtio() -> Result<Vec<Cost>> {
    let mut bench = Bench::new(None)?;
    let disk = bench.scratch().join("disk");
    fs::write(&disk, vec![0; 1 << 20])?;
    let mut machine = Machine::new(Vehicle::Svm)?;
    machine.image = outputs::output("guests/virtio")?;
    machine.command_line = String::new();
    machine.icount = Some(0);
    machine.disks = vec![disk];
    machine.networks = vec!["hubport,hubid=1".into(); 2];
    let (passed, printed) = bench
        .start(&machine)?
        .expect_any(&["RESULT pass", "PANIC"], PATIENCE)?;
    ensure!(passed == 0, "{printed}");
    parse(&printed)
}

/// Boots once for all measurements, with as many CPUs as they want. Returns their results, and the floor, which only Oxen measures.
fn run(
    vehicle: Vehicle,
    hypervisor: Hypervisor,
    measurements: &[&Measurement],
) -> Result<(Vec<Vec<Cost>>, Option<u64>)> {
    let mut files = Vec::new();
    for guest in measurements.iter().flat_map(|measurement| measurement.guests) {
        let kernel = fs::read(outputs::output(&format!("guests/{}", guest.kernel))?)?;
        files.push((guest.kernel.to_owned(), kernel));
        for name in guest.names() {
            files.push((format!("{name}.cfg"), guest.config(hypervisor, &name).into()));
        }
    }
    let files: Vec<_> = files
        .iter()
        .map(|(name, bytes)| (name.as_str(), bytes.clone()))
        .collect();
    let mut bench = Bench::new(None)?;
    let mut machine = hypervisor.machine(vehicle, &bench.scratch(), &files)?;
    machine.icount = (vehicle == Vehicle::Svm).then_some(0);
    machine.use_apicv();
    machine.cpus = measurements.iter().map(|of| of.cpus).max().unwrap_or(1);
    if machine.cpus > 1 {
        machine.command_line += " dom0_max_vcpus=1 dom0_vcpus_pin";
        // In Bochs logical destinations of x2APICs are wrong, and CPUs are not woken from MWAIT.
        if hypervisor == Hypervisor::Xen && vehicle == Vehicle::Vmx {
            machine.command_line += " x2apic_phys=true mwait-idle=no";
        }
    }
    if hypervisor == Hypervisor::Oxen {
        machine.command_line += " bench=floor";
    }
    let mut dom0 = Dom0 {
        hypervisor,
        console: bench.start(&machine)?,
    };
    dom0.prompt().context("dom0's prompt")?;
    if hypervisor == Hypervisor::Xen {
        for command in [
            "modprobe brd rd_nr=1 rd_size=256",
            "modprobe -a xen-blkback xen-netback bridge",
            "brctl addbr bench",
            "ip link set bench up",
        ] {
            dom0.command(command)?;
        }
    }
    let costs = measurements
        .iter()
        .map(|measurement| dom0.measure(measurement))
        .collect::<Result<_>>()?;
    let output = dom0.console.output();
    let floor = output
        .lines()
        .find_map(|line| line.split_once("floor         ")?.1.split_once(" TSC ticks"))
        .and_then(|(ticks, _)| ticks.parse().ok());
    Ok((costs, floor))
}

impl Guest {
    /// The names of its domains.
    fn names(&self) -> Vec<String> {
        match self.domains {
            1 => vec![self.name.into()],
            domains => (1..=domains)
                .map(|number| format!("{}-{number}", self.name))
                .collect(),
        }
    }

    fn config(&self, hypervisor: Hypervisor, name: &str) -> String {
        let device = match (&self.device, hypervisor) {
            (Device::None, _) => String::new(),
            (Device::Disk, Hypervisor::Xen) => "disk=['phy:/dev/ram0,xvda,w']".into(),
            (Device::Disk, Hypervisor::Oxen) => "disk=['ram:256K,xvda,rw']".into(),
            (Device::Network(mac), _) => format!("vif=['bridge=bench,mac={mac}']"),
        };
        hypervisor.config(
            name,
            &format!("/{}", self.kernel),
            self.memory,
            &format!(
                "vcpus={}\nextra='{}'\n{}\n{device}",
                self.vcpus, self.extra, self.more
            ),
        )
    }
}

impl Dom0<'_> {
    fn measure(&mut self, measurement: &Measurement) -> Result<Vec<Cost>> {
        let mut costs = Vec::new();
        for name in measurement.guests.iter().flat_map(Guest::names) {
            self.type_xl(&format!("create /{name}.cfg"))?;
            let (which, printed) = self
                .console
                .expect_any(&[READY, "RESULT pass", "RESULT fail"], PATIENCE)
                .with_context(|| name.clone())?;
            if which == 2 {
                bail!("{name} failed:\n{printed}");
            }
            costs.extend(parse(&printed)?);
        }
        Ok(costs)
    }
}

/// The lines `BENCH operation: ticks` of a guest, whatever else is on a line before them; where it counts events, `, N
/// sent, N come` for 1,000 operations follows.
fn parse(output: &str) -> Result<Vec<Cost>> {
    output
        .lines()
        .filter_map(|line| line.split_once("BENCH ")?.1.split_once(": "))
        .map(|(operation, numbers)| {
            let number = |text: &str| -> Result<u64> {
                let digits = text.split(' ').next().unwrap_or_default();
                digits
                    .parse()
                    .with_context(|| format!("{operation}: {numbers:?}"))
            };
            let numbers: Vec<u64> = numbers.trim().split(", ").map(number).collect::<Result<_>>()?;
            let (ticks, events) = match numbers[..] {
                [ticks] => (ticks, None),
                [ticks, sent, come] => (ticks, Some(Events { sent, come })),
                _ => bail!("{operation}: {numbers:?}"),
            };
            Ok(Cost {
                operation: operation.to_owned(),
                ticks,
                events,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Cost, Events, parse};

    #[test]
    fn lines_of_both_consoles() {
        let output = "(oxen) [   1.5] d1: BENCH CPUID: 237\ndom0# (XEN) (d2) BENCH send, block: 1200, 31 sent, 62 come\r\n\
                      (d2) TEST taken: pass\n";
        let cost = |operation: &str, ticks, events| Cost {
            operation: operation.into(),
            ticks,
            events,
        };
        let events = Events { sent: 31, come: 62 };
        let wanted = [cost("CPUID", 237, None), cost("send, block", 1200, Some(events))];
        assert_eq!(parse(output).unwrap(), wanted);
        assert_eq!(events.to_string(), "0.03 + 0.06");
    }

    #[test]
    fn a_broken_number_is_an_error() {
        for numbers in ["2x", "", "2, 3 sent"] {
            assert!(
                parse(&format!("BENCH CPUID: {numbers}\n")).is_err(),
                "{numbers:?}"
            );
        }
    }
}
