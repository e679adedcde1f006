//! Tests that are here already, on a hypervisor that checks itself: debug assertions, overflows, the order of locks.

use anyhow::Result;

use super::cpus::{self, Cpus};
use super::shim::Shim;
use super::{BOTH, guests, hostile, pools, scheduling, test};
use crate::runner::{Bench, Test};
use crate::{Machine, Vehicle, outputs};

/// The tests.
pub fn tests() -> Vec<Test> {
    BOTH.into_iter().flat_map(on).collect()
}

fn on(vehicle: Vehicle) -> Vec<Test> {
    let guests = ["hypercalls", "events", "fifo", "grants", "fuzz"].map(|name| {
        checked(name, vehicle, move |bench, machine| {
            guests::run(bench, machine, name)
        })
    });
    let others = [
        checked("lock order", vehicle, lock_order),
        checked("CPU pools", vehicle, pools::pools),
        checked("core scheduling", vehicle, scheduling::cores),
        checked("100 lives", vehicle, hostile::lives),
        checked("lives on all CPUs at once", vehicle, hostile::lives_at_once),
        checked("domains made on all CPUs at once", vehicle, hostile::creations),
        checked("CPUs: 4", vehicle, |bench, machine| {
            let cpus = Cpus {
                changes: 10,
                ..Cpus::all(4)
            };
            cpus::all(bench, machine, cpus)
        }),
    ];
    others.into_iter().chain(guests).collect()
}

fn checked(
    name: &str,
    vehicle: Vehicle,
    body: impl Fn(&mut Bench, Machine) -> Result<()> + Send + Sync + 'static,
) -> Test {
    test(format!("{name}, checked"), vehicle, move |bench, mut machine| {
        machine.image = outputs::output("oxen-checked")?;
        body(bench, machine)
    })
}

/// The check itself: a wrong order ends in a panic that says so.
fn lock_order(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    machine.command_line += " crash_test=lock-order";
    let mut shim = Shim::start(bench, machine, outputs::output("boot-archive.cpio")?)?;
    shim.crash(&[
        "panic on CPU 0",
        "lock order: Events is taken while P2m is held",
        "hypervisor::debug_keys::lock_out_of_order",
    ])
}
