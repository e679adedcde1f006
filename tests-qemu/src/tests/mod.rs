//! The tests, by subject.
//!
//! * [`bad_input`]: what cannot work is refused with a sentence.
//! * [`block`]: disks of domUs.
//! * [`bochs`]: Debian's kernel for Bochs, for the others.
//! * [`boot`]: every door on every back end that has it.
//! * [`checked`]: a hypervisor with debug assertions, the order of its locks among them.
//! * [`channels`]: channels of domUs, logs of consoles.
//! * [`cpus`]: many CPUs, off and on; the machine's power.
//! * [`creating`]: domains that are being made.
//! * [`debian`]: the stock Debian kernel as domU, used like a person would.
//! * [`efi`]: the UEFI application from the firmware's shell.
//! * [`ends`]: what becomes of domains that have stopped.
//! * [`gdb`]: the hypervisor under gdb.
//! * [`guests`]: the test guests as dom0.
//! * [`hostile`]: domains that attack, leaks, bad configs.
//! * [`machine_disk`]: disks of the machine, which dom0-shim drives.
//! * [`network`]: networks of domUs.
//! * [`prompt`]: dom0-shim's prompt and xl.
//! * [`store`]: xenstore with clients good and bad, and its tools.
//! * [`shim`]: dom0-shim's prompt, for the others.
//! * [`soft_reset`]: a kernel that starts another.
//! * [`tools`]: Debian's programs in domUs, for the others.
//! * [`xl`]: Debian as dom0, with Xen's own toolstack.
//!
//! What is expected of Oxen's output is in the file of the test that expects it.

mod bad_input;
mod block;
mod bochs;
mod boot;
mod channels;
mod checked;
mod cpus;
mod creating;
mod debian;
mod efi;
mod ends;
mod gdb;
mod guests;
mod hostile;
mod machine_disk;
mod network;
mod pools;
mod prompt;
mod resize;
mod scheduling;
pub mod shim;
mod soft_reset;
pub mod store;
mod tools;
mod xl;

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::runner::{Bench, Test};
use crate::{Door, Machine, Module, Vehicle, outputs};

/// All of them, long ones first, so that none of them runs alone at the end.
pub fn all() -> Vec<Test> {
    [
        debian::tests(),
        xl::tests(),
        block::tests(),
        machine_disk::tests(),
        network::tests(),
        resize::tests(),
        pools::tests(),
        scheduling::tests(),
        creating::tests(),
        hostile::tests(),
        ends::tests(),
        store::tests(),
        checked::tests(),
        cpus::tests(),
        channels::tests(),
        prompt::tests(),
        soft_reset::tests(),
        guests::tests(),
        boot::tests(),
        efi::tests(),
        gdb::tests(),
        bad_input::tests(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The vehicles that every test of both vendors' back ends runs on.
const BOTH: [Vehicle; 2] = [Vehicle::Svm, Vehicle::Vmx];

/// Much longer than anything takes on an idle machine: emulators share it with others.
const PATIENCE: Duration = Duration::from_secs(900);

/// Is all to be done that takes long, or more than the usual packages?
fn everything() -> bool {
    std::env::var_os("OXEN_TEST_WHOLE").is_some()
}

/// How much of something a test does: `whole`, or `less` in Bochs, which interprets, unless [`everything`] is to be done.
fn amount<T>(vehicle: Vehicle, whole: T, less: T) -> T {
    if vehicle == Vehicle::Vmx && !everything() {
        less
    } else {
        whole
    }
}

/// A test by its vehicle's own door.
fn test(
    name: impl Into<String>,
    vehicle: Vehicle,
    body: impl Fn(&mut Bench, Machine) -> Result<()> + Send + Sync + 'static,
) -> Test {
    test_by(name, vehicle, vehicle.default_door(), body)
}

/// A test by a given door; `body` gets the machine that loads Oxen so.
fn test_by(
    name: impl Into<String>,
    vehicle: Vehicle,
    door: Door,
    body: impl Fn(&mut Bench, Machine) -> Result<()> + Send + Sync + 'static,
) -> Test {
    Test {
        name: name.into(),
        vehicle,
        door,
        body: Box::new(move |bench| {
            let mut machine = Machine::new(vehicle)?;
            machine.door = door;
            body(bench, machine)
        }),
    }
}

/// A test guest as dom0.
fn guest(name: &str, args: &str) -> Result<Module> {
    Ok(Module {
        path: outputs::output(&format!("guests/{name}"))?,
        args: args.into(),
    })
}

/// A gzip file that unpacks to so many MiB of zeros.
fn bomb(mib: u32) -> Result<Vec<u8>> {
    let packed = Command::new("sh")
        .arg("-c")
        .arg(format!("head -c {mib}M /dev/zero | gzip"))
        .output()?;
    ensure!(packed.status.success(), "gzip: {}", packed.status);
    Ok(packed.stdout)
}
