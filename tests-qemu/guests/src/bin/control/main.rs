//! Each operation of `domctl` and `sysctl`, called well by dom0: what it says, and what becomes of it. The machine has two CPUs.
//!
//! Every number is called in the end: one that is offered, but has not been called well before, fails.
#![no_std]
#![no_main]

extern crate alloc;

mod domain;
mod machine;

use alloc::collections::BTreeSet;
use alloc::format;

use abi::domctl::*;
use abi::hypercall::{HYPERVISOR_DOMCTL, HYPERVISOR_SYSCTL};
use abi::sysctl::*;
use abi::{Bitmap, Domid, Errno, GuestHandle, Union};
use guest_rt::hypercall::domctl;
use guest_rt::start_info::StartInfo;
use guest_rt::time;
use guests::hypercall::{call, error_code};
use guests::report::Report;
use guests::{cpu, domains};
use zerocopy::{FromBytes, Immutable, IntoBytes};

guest_rt::main!(main);

/// This domain.
const DOM0: Domid = 0;
/// What has no structure.
const NOTHING: u64 = 0;

fn main(_: StartInfo) -> ! {
    cpu::init();
    let mut control = Control::default();
    // The domain that it makes has the other CPU.
    let pinned = domctl::set_affinity(DOM0, 0, Some(&[1]), None);
    control.report.equal("pinned", pinned, Ok(()));
    domain::make(&mut control);
    machine::information(&mut control);
    let child = domain::run(&mut control);
    machine::pools(&mut control, &child);
    machine::hotplug(&mut control);
    domain::destroy(&mut control, child);
    control.nothing_else();
    control.report.finish()
}

/// What was called, on which domain, and how that went.
#[derive(Default)]
struct Control {
    report: Report,
    domain: Domid,
    domctls: BTreeSet<u32>,
    sysctls: BTreeSet<u32>,
}

impl Control {
    /// A domctl on the domain that was made; what the hypervisor left of its argument.
    fn domctl<T: IntoBytes + FromBytes + Immutable>(&mut self, command: u32, payload: T) -> T {
        self.domctls.insert(command);
        let (answer, _, payload) = domctl_call(command, self.domain, &payload);
        self.report.equal(&format!("domctl-{command}"), answer, 0);
        payload
    }

    fn sysctl<T: IntoBytes + FromBytes + Immutable>(&mut self, command: u32, payload: T) -> T {
        self.sysctls.insert(command);
        let (answer, payload) = sysctl_call(command, &payload);
        self.report.equal(&format!("sysctl-{command}"), answer, 0);
        payload
    }

    /// What toolstacks see of the domain.
    fn info(&mut self) -> DomctlGetdomaininfo {
        let info = self.domctl(XEN_DOMCTL_GETDOMAININFO, DomctlGetdomaininfo::default());
        self.report.equal("info-of-it", info.domain, self.domain);
        info
    }

    fn flags(&mut self, name: &str, wanted: u32, unwanted: u32) {
        let flags = self.info().flags;
        let holds = flags & wanted == wanted && flags & unwanted == 0;
        self.report.check(name, holds, format_args!("{flags:#x}"));
    }

    fn vcpu(&mut self, vcpu: u32) -> DomctlGetvcpuinfo {
        let asked = DomctlGetvcpuinfo {
            vcpu,
            ..Default::default()
        };
        self.domctl(XEN_DOMCTL_GETVCPUINFO, asked)
    }

    /// What was not called well does not exist, but for what is there for guests of another kind. Asked of dom0 itself.
    fn nothing_else(&mut self) {
        let other_kinds = [XEN_DOMCTL_SET_ADDRESS_SIZE, XEN_DOMCTL_GET_ADDRESS_SIZE];
        let numbers = || (0..128).chain(1000..1004);
        for command in numbers().filter(|number| !self.domctls.contains(number)) {
            let wanted = match other_kinds.contains(&command) {
                true => Errno::EOPNOTSUPP,
                false => Errno::ENOSYS,
            };
            let (answer, ..) = domctl_call(command, DOM0, &NOTHING);
            let name = format!("no-domctl-{command}");
            self.report.equal(&name, answer, error_code(wanted));
        }
        for command in numbers().filter(|number| !self.sysctls.contains(number)) {
            let (answer, _) = sysctl_call(command, &NOTHING);
            let name = format!("no-sysctl-{command}");
            self.report.equal(&name, answer, error_code(Errno::ENOSYS));
        }
    }
}

fn domctl_call<T>(cmd: u32, domain: Domid, payload: &T) -> (i64, Domid, T)
where
    T: IntoBytes + FromBytes + Immutable,
{
    let mut argument = Domctl {
        cmd,
        interface_version: XEN_DOMCTL_INTERFACE_VERSION,
        domain,
        u: Union::of(payload),
        ..Default::default()
    };
    let at = core::ptr::from_mut(&mut argument) as u64;
    let answer = call(HYPERVISOR_DOMCTL, [at, 0, 0, 0, 0]);
    (answer, argument.domain, argument.u.get())
}

fn sysctl_call<T: IntoBytes + FromBytes + Immutable>(cmd: u32, payload: &T) -> (i64, T) {
    let mut argument = Sysctl {
        cmd,
        interface_version: XEN_SYSCTL_INTERFACE_VERSION,
        u: Union::of(payload),
    };
    let at = core::ptr::from_mut(&mut argument) as u64;
    let answer = call(HYPERVISOR_SYSCTL, [at, 0, 0, 0, 0]);
    (answer, argument.u.get())
}

fn handle<T>(slice: &mut [T]) -> GuestHandle<T> {
    GuestHandle::new(slice.as_mut_ptr() as u64)
}

fn bitmap(bytes: &mut [u8]) -> Bitmap {
    Bitmap {
        nr_bits: bytes.len() as u32 * 8,
        bitmap: handle(bytes),
        pad: 0,
    }
}

/// Waits until something holds, for some seconds.
fn comes(mut holds: impl FnMut() -> bool) -> bool {
    const PATIENCE: u64 = 20_000_000_000;
    let deadline = time::now() + PATIENCE;
    while !holds() {
        if time::now() >= deadline {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}

/// Lets some milliseconds pass.
fn wait() {
    const SOME: u64 = 5_000_000;
    let end = time::now() + SOME;
    while time::now() < end {
        core::hint::spin_loop();
    }
}

/// The domain's configuration: two vCPUs, of which the second never runs.
fn config() -> DomctlCreatedomain {
    DomctlCreatedomain {
        max_vcpus: 2,
        handle: [3; 16],
        ..domains::config()
    }
}
