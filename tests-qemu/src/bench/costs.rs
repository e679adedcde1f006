//! What exits, hypercalls and requests to back ends cost a domU: guests measure it from inside, in ticks of the
//! time-stamp counter. One tick is one instruction in Bochs, and in QEMU with `-icount`.

use std::fs;

use anyhow::{Context, Result, bail};

use super::{Dom0, Hypervisor, PATIENCE, cell, grouped};
use crate::runner::Bench;
use crate::{Vehicle, outputs};

/// Domains that measure something together. All but the last wait for what the last one does.
pub struct Measurement {
    /// What stands above the table.
    title: &'static str,
    guests: &'static [Guest],
}

/// A test guest as a domain.
struct Guest {
    /// The domain's name.
    name: &'static str,
    /// One of `guests/src/bin`.
    kernel: &'static str,
    /// Its command line.
    extra: &'static str,
    vcpus: u32,
    device: Device,
}

/// A paravirtual device.
enum Device {
    None,
    /// A small disk in dom0's RAM.
    Disk,
    /// A network device with this MAC on the bridge of all.
    Network(&'static str),
}

/// A domain with one vCPU and nothing more.
const PLAIN: Guest = Guest {
    name: "",
    kernel: "",
    extra: "",
    vcpus: 1,
    device: Device::None,
};

/// Exits, hypercalls, events, timers, grants. These are the first domains, so that they know each other's numbers.
pub const EXITS: Measurement = Measurement {
    title: "Exits and hypercalls",
    guests: &[
        Guest {
            name: "peer",
            kernel: "bench",
            extra: "offer=2",
            ..PLAIN
        },
        Guest {
            name: "bench",
            kernel: "bench",
            extra: "peer=1",
            vcpus: 2,
            ..PLAIN
        },
    ],
};

/// Requests to a disk in dom0's RAM, by grants that the back end copies from or maps each time.
pub const BLOCK: Measurement = Measurement {
    title: "Block requests",
    guests: &[Guest {
        name: "block",
        kernel: "blkfront",
        extra: "bench",
        device: Device::Disk,
        ..PLAIN
    }],
};

/// The same by grants that the back end keeps mapped.
pub const BLOCK_PERSISTENT: Measurement = Measurement {
    title: "Block requests, persistent grants",
    guests: &[Guest {
        name: "persistent",
        kernel: "blkfront",
        extra: "bench persistent",
        device: Device::Disk,
        ..PLAIN
    }],
};

/// Packets between two domains.
pub const NETWORK: Measurement = Measurement {
    title: "Packets from one domain to another",
    guests: &[
        Guest {
            name: "echo",
            kernel: "netbench",
            extra: "echo",
            device: Device::Network("00:16:3e:00:00:02"),
            ..PLAIN
        },
        Guest {
            name: "network",
            kernel: "netbench",
            device: Device::Network("00:16:3e:00:00:01"),
            ..PLAIN
        },
    ],
};

/// What guests that wait for others print when they are ready.
const READY: &str = "READY";

/// The ticks of each operation.
type Ticks = Vec<(String, u64)>;

/// Carries out measurements on each of the hypervisors, and prints their tables.
///
/// # Errors
/// A machine does not do what is expected of it.
pub fn measure(vehicle: Vehicle, hypervisors: &[Hypervisor], measurements: &[&Measurement]) -> Result<()> {
    let mut floor = None;
    let mut results = Vec::new();
    for &hypervisor in hypervisors {
        let (ticks, logged) =
            run(vehicle, hypervisor, measurements).with_context(|| format!("{hypervisor} on {vehicle}"))?;
        results.push((hypervisor, ticks));
        floor = floor.or(logged);
    }
    let of = |hypervisor: Hypervisor, index: usize| -> &[(String, u64)] {
        let found = results.iter().find(|(of, _)| *of == hypervisor);
        found.map_or(&[], |(_, ticks)| &ticks[index])
    };
    let floor = floor.context("Oxen did not log the floor")?;
    for (index, measurement) in measurements.iter().enumerate() {
        println!(
            "{}, instructions of a domU, {} (floor: {floor})\n",
            measurement.title,
            match vehicle {
                Vehicle::Vmx => "VT-x in Bochs",
                _ => "AMD-V in QEMU",
            },
        );
        table(of(Hypervisor::Xen, index), of(Hypervisor::Oxen, index), floor);
    }
    Ok(())
}

fn table(xen: &[(String, u64)], oxen: &[(String, u64)], floor: u64) {
    println!("| operation                | Xen 4.17 |    Oxen | Oxen/Xen | Oxen/floor |");
    println!("|--------------------------|---------:|--------:|---------:|-----------:|");
    for (name, ticks) in oxen {
        let xen = xen.iter().find(|(of, _)| of == name).map(|(_, ticks)| *ticks);
        let ratio = xen.filter(|&xen| xen > 0).map(|xen| *ticks as f64 / xen as f64);
        println!(
            "| {name:<24} | {:>8} | {:>7} | {:>8} | {:>10.1} |",
            cell(xen),
            grouped(*ticks),
            ratio.map_or_else(String::new, |ratio| format!("{ratio:.3}")),
            *ticks as f64 / floor as f64,
        );
    }
    println!();
}

/// Boots once for all measurements. Returns their results, and the floor, which only Oxen measures.
fn run(
    vehicle: Vehicle,
    hypervisor: Hypervisor,
    measurements: &[&Measurement],
) -> Result<(Vec<Ticks>, Option<u64>)> {
    let mut files = Vec::new();
    for guest in measurements.iter().flat_map(|measurement| measurement.guests) {
        let kernel = fs::read(outputs::output(&format!("guests/{}", guest.kernel))?)?;
        files.push((guest.kernel.to_owned(), kernel));
        files.push((format!("{}.cfg", guest.name), guest.config(hypervisor).into()));
    }
    let files: Vec<_> = files
        .iter()
        .map(|(name, bytes)| (name.as_str(), bytes.clone()))
        .collect();
    let mut bench = Bench::new(None)?;
    let mut machine = hypervisor.machine(vehicle, &bench.scratch(), &files)?;
    machine.icount = vehicle == Vehicle::Svm;
    machine.use_apicv();
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
    let ticks = measurements
        .iter()
        .map(|measurement| dom0.measure(measurement))
        .collect::<Result<_>>()?;
    let output = dom0.console.output();
    let floor = output
        .lines()
        .find_map(|line| line.split_once("floor         ")?.1.split_once(" TSC ticks"))
        .and_then(|(ticks, _)| ticks.parse().ok());
    // What guests count beside ticks.
    for (_, events) in output.lines().filter_map(|line| line.split_once("EVENTS ")) {
        println!("{hypervisor}: {events}");
    }
    Ok((ticks, floor))
}

impl Guest {
    fn config(&self, hypervisor: Hypervisor) -> String {
        let device = match (&self.device, hypervisor) {
            (Device::None, _) => String::new(),
            (Device::Disk, Hypervisor::Xen) => "disk=['phy:/dev/ram0,xvda,w']".into(),
            (Device::Disk, Hypervisor::Oxen) => "disk=['ram:256K,xvda,rw']".into(),
            (Device::Network(mac), _) => format!("vif=['bridge=bench,mac={mac}']"),
        };
        hypervisor.config(
            self.name,
            &format!("/{}", self.kernel),
            32,
            &format!("vcpus={}\nextra='{}'\n{device}", self.vcpus, self.extra),
        )
    }
}

impl Dom0<'_> {
    fn measure(&mut self, measurement: &Measurement) -> Result<Ticks> {
        let mut output = String::new();
        for guest in measurement.guests {
            self.type_xl(&format!("create /{}.cfg", guest.name))?;
            let (which, printed) = self
                .console
                .expect_any(&[READY, "RESULT pass", "RESULT fail"], PATIENCE)
                .with_context(|| guest.name.to_owned())?;
            if which == 2 {
                bail!("{} failed:\n{printed}", guest.name);
            }
            output = printed;
        }
        parse(&output)
    }
}

/// The lines `BENCH operation: ticks` of a guest, whatever else is on a line before them.
fn parse(output: &str) -> Result<Ticks> {
    output
        .lines()
        .filter_map(|line| line.split_once("BENCH ")?.1.split_once(": "))
        .map(|(name, ticks)| {
            let number = ticks
                .trim()
                .parse()
                .with_context(|| format!("{name}: {ticks:?}"))?;
            Ok((name.to_owned(), number))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn lines_of_both_consoles() {
        let output = "(oxen) [   1.5] d1: BENCH CPUID: 237\ndom0# (XEN) (d2) BENCH send, block: 1200\n\
                      (d2) TEST taken: pass\n";
        let wanted = [("CPUID".to_owned(), 237), ("send, block".to_owned(), 1200)];
        assert_eq!(parse(output).unwrap(), wanted);
    }

    #[test]
    fn a_broken_number_is_an_error() {
        assert!(parse("BENCH CPUID: 2x\n").is_err());
    }
}
