//! Measures Oxen and Debian's Xen in the emulators and prints tables.

use anyhow::Result;
use clap::{Parser, ValueEnum};
use tests_qemu::Vehicle;
use tests_qemu::bench::tables::{self, Measurement};
use tests_qemu::bench::{Hypervisor, boot, costs, sizes};

/// Measures Oxen beside Debian's Xen 4.17, both in this run and in the same emulators: instructions for each exit,
/// hypercall and request to a back end, shares of a CPU and lateness beside load, seconds to boot, bytes, lines of code.
///
/// `scripts/bench sched` measures the scheduler on simulated CPUs instead: shares, latencies, cost of decisions.
#[derive(Parser)]
#[command(name = "scripts/bench", version)]
struct Options {
    /// Only VT-x
    #[arg(long, group = "vehicle")]
    vmx: bool,
    /// Only AMD-V
    #[arg(long, group = "vehicle")]
    svm: bool,
    /// Without Xen, in a third of the time
    #[arg(long)]
    oxen: bool,
    /// Only these tables
    tables: Vec<Table>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Table {
    /// Exits, hypercalls, events, timers, grants
    Exits,
    /// Requests to the block back end
    Block,
    /// Packets and a TCP connection between two domains
    Network,
    /// Transactions with xenstore
    Store,
    /// Interrupts, events and wake-ups from one CPU to another
    Smp,
    /// Shares of a CPU by weight and cap, and how late a sleeper is beside those that compute
    Shares,
    /// Instructions and seconds to boot, memory
    Boot,
    /// Bytes and lines
    Sizes,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let wanted = |table| options.tables.is_empty() || options.tables.contains(&table);
    let hypervisors: &[Hypervisor] = if options.oxen {
        &[Hypervisor::Oxen]
    } else {
        &[Hypervisor::Xen, Hypervisor::Oxen]
    };
    let measurements: Vec<&Measurement> = [
        (Table::Exits, &tables::EXITS),
        (Table::Block, &tables::BLOCK),
        (Table::Block, &tables::BLOCK_PERSISTENT),
        (Table::Network, &tables::NETWORK),
        (Table::Network, &tables::TCP),
        (Table::Store, &tables::STORE),
        (Table::Smp, &tables::SMP),
        (Table::Shares, &tables::SHARES),
        (Table::Shares, &tables::LATENESS),
    ]
    .into_iter()
    .filter_map(|(table, measurement)| wanted(table).then_some(measurement))
    .collect();
    for (vehicle, excluded) in [(Vehicle::Vmx, options.svm), (Vehicle::Svm, options.vmx)] {
        // Those that want the same machine share one.
        for group in measurements.chunk_by(|one, next| one.cpus == next.cpus) {
            if !excluded {
                costs::measure(vehicle, hypervisors, group)?;
            }
        }
    }
    if wanted(Table::Boot) {
        for (vehicle, excluded) in [(Vehicle::Vmx, options.svm), (Vehicle::Svm, options.vmx)] {
            if !excluded {
                boot::measure_entry(vehicle, hypervisors)?;
            }
        }
        boot::measure(hypervisors)?;
    }
    if wanted(Table::Sizes) {
        sizes::print(hypervisors)?;
    }
    Ok(())
}
