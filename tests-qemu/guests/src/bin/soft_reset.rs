//! A kernel that starts another (kexec), which is this very code: what the first one had set up is gone, and the second one can have all of it.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::{format, vec};
use core::mem::offset_of;

use abi::domid::DOMID_SELF;
use abi::event_channel::{
    EVTCHNOP_BIND_IPI, EVTCHNOP_STATUS, EVTCHNSTAT_CLOSED, EVTCHNSTAT_INTERDOMAIN, EvtchnBindIpi,
    EvtchnStatus,
};
use abi::hvm::{HVM_PARAM_CONSOLE_EVTCHN, HVM_PARAM_CONSOLE_PFN, HVM_PARAM_STORE_EVTCHN};
use abi::hypercall::{
    HYPERVISOR_EVENT_CHANNEL_OP, HYPERVISOR_MEMORY_OP, HYPERVISOR_SCHED_OP, HYPERVISOR_VCPU_OP,
};
use abi::io::blkif::{BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_RSP_OKAY};
use abi::io::console::XenconsInterface as Page;
use abi::memory::{AddToPhysmap, XENMAPSPACE_SHARED_INFO, XENMEM_ADD_TO_PHYSMAP};
use abi::sched::{SCHEDOP_SHUTDOWN, SHUTDOWN_SOFT_RESET, SchedShutdown};
use abi::vcpu::{
    RUNSTATE_RUNNING, VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA, VCPUOP_REGISTER_VCPU_INFO, VcpuRegisterVcpuInfo,
};
use guest_rt::hypercall::{event_channel, hvm, sched};
use guest_rt::start_info::StartInfo;
use guests::blkfront::{DATA_REF, DEVICE, Front, request, segment};
use guests::cpu;
use guests::frames::Frames;
use guests::hypercall::{call, op};
use guests::report::Report;
use guests::shared::Shared;

guest_rt::main!(main);

/// A `vcpu_info`, and what says where the vCPU's time goes.
static VCPU_INFO: Frames<1> = Frames::new();
static RUNSTATE: Frames<1> = Frames::new();
static SHARED_INFO: Frames<1> = Frames::new();
static GRANTED: Frames<1> = Frames::new();
const GRANT: u32 = 100;
/// What the granted page holds, which is as good as any.
const MARK: u32 = 0x1234_5678;

fn main(_: StartInfo) -> ! {
    cpu::init();
    let mut report = Report::default();
    let mut before = "";
    for name in ["first", "second"] {
        let ipi = life(&mut report, name, before);
        reset(&mut report, name, ipi);
        before = name;
    }
    life(&mut report, "third", before);
    report.finish()
}

/// A life ends, and the next one finds the memory as it was, and nothing else.
fn reset(report: &mut Report, name: &str, ipi: u32) {
    Shared::of(&GRANTED).store(0, MARK);
    let mut shutdown = SchedShutdown {
        reason: SHUTDOWN_SOFT_RESET,
    };
    let answer = op(HYPERVISOR_SCHED_OP, SCHEDOP_SHUTDOWN, &mut shutdown);
    report.equal(&format!("{name}-goes-on"), answer, 0);

    report.equal(&format!("{name}-ipi-is-closed"), status(ipi), EVTCHNSTAT_CLOSED);
    let wall_clock = Shared::of(&SHARED_INFO).load(0xc00);
    report.equal(&format!("{name}-shared-info-is-ram"), wall_clock, 0);
    let runstate = Shared::of(&RUNSTATE);
    runstate.store(0, u32::MAX);
    for _ in 0..50 {
        sched::yield_now().expect("yielding");
    }
    report.equal(
        &format!("{name}-runstate-is-forgotten"),
        runstate.load(0),
        u32::MAX,
    );
    report.equal(
        &format!("{name}-memory-stays"),
        Shared::of(&GRANTED).load(0),
        MARK,
    );
}

/// A kernel sets up what it needs, which is all to be had, talks to xenstore and on its console, and uses its disk, where
/// the kernel before has left its name. The port of an IPI.
fn life(report: &mut Report, name: &str, before: &str) -> u32 {
    let mut place = AddToPhysmap {
        domid: DOMID_SELF,
        space: XENMAPSPACE_SHARED_INFO,
        gpfn: SHARED_INFO.first(),
        ..Default::default()
    };
    let mapped = op(HYPERVISOR_MEMORY_OP, XENMEM_ADD_TO_PHYSMAP, &mut place);
    report.equal(&format!("{name}-shared-info"), mapped, 0);
    let info = VcpuRegisterVcpuInfo {
        mfn: VCPU_INFO.first(),
        ..Default::default()
    };
    let vcpu_op = |operation: u32, at| call(HYPERVISOR_VCPU_OP, [operation.into(), 0, at, 0, 0]);
    let answer = vcpu_op(VCPUOP_REGISTER_VCPU_INFO, &raw const info as u64);
    report.equal(&format!("{name}-vcpu-info"), answer, 0);
    let area = RUNSTATE.address();
    let answer = vcpu_op(VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA, &raw const area as u64);
    let state = Shared::of(&RUNSTATE).load(0);
    report.equal(
        &format!("{name}-runstate"),
        (answer, state),
        (0, RUNSTATE_RUNNING),
    );
    let mut ipi = EvtchnBindIpi::default();
    let answer = op(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_BIND_IPI, &mut ipi);
    report.equal(&format!("{name}-ipi"), answer, 0);

    let port = hvm::param(DOMID_SELF, HVM_PARAM_STORE_EVTCHN).expect("a port") as u32;
    report.equal(
        &format!("{name}-store-port"),
        status(port),
        EVTCHNSTAT_INTERDOMAIN,
    );
    let mut front = Front::new(true);
    front.grants.grant(GRANT, GRANTED.first());
    let store = &front.store;
    report.equal(
        &format!("{name}-name"),
        store.read("name").as_deref(),
        Some("kexec"),
    );
    report.check(
        &format!("{name}-node-is-new"),
        store.read("data/life").is_none(),
        "it is there",
    );
    report.check(
        &format!("{name}-node"),
        store.write("data/life", name),
        "it is not written",
    );
    for device in [DEVICE, "device/vif/0"] {
        let state = store.read(&format!("{device}/state"));
        // XenbusStateInitialising.
        report.equal(&format!("{name}-{device}"), state.as_deref(), Some("1"));
    }
    report.equal(&format!("{name}-connect"), front.connect(&[]), true);
    use_disk(report, &mut front, name, before);
    say(&format!("{name} life\r\n"));
    ipi.port
}

/// Reads the name that is on the disk and writes another; the back end keeps the page mapped.
fn use_disk(report: &mut Report, front: &mut Front, name: &str, before: &str) {
    let sector = [segment(DATA_REF, 0, 0)];
    report.equal(
        &format!("{name}-read"),
        front.status(&request(BLKIF_OP_READ, 0, &sector)),
        BLKIF_RSP_OKAY,
    );
    let mut found = vec![0; before.len()];
    front.data.read(0, &mut found);
    report.equal(&format!("{name}-disk"), &found[..], before.as_bytes());
    front.data.write(0, name.as_bytes());
    report.equal(
        &format!("{name}-write"),
        front.status(&request(BLKIF_OP_WRITE, 0, &sector)),
        BLKIF_RSP_OKAY,
    );
    report.check(
        &format!("{name}-kept"),
        front.grants.in_use(DATA_REF),
        "it is not mapped",
    );
}

fn status(port: u32) -> u32 {
    let mut status = EvtchnStatus {
        dom: DOMID_SELF,
        port,
        ..Default::default()
    };
    match op(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_STATUS, &mut status) {
        0 => status.status,
        // No such port.
        _ => u32::MAX,
    }
}

/// Writes to the console, and waits until that has been taken.
fn say(text: &str) {
    let page = Shared::parameter(HVM_PARAM_CONSOLE_PFN);
    let port = hvm::param(DOMID_SELF, HVM_PARAM_CONSOLE_EVTCHN).expect("a port") as u32;
    let producer = page.load(offset_of!(Page, out_prod));
    page.write(offset_of!(Page, out) + producer as usize, text.as_bytes());
    let end = producer + text.len() as u32;
    page.store(offset_of!(Page, out_prod), end);
    event_channel::send(port).expect("the console's port");
    while page.load(offset_of!(Page, out_cons)) != end {
        sched::yield_now().expect("yielding");
    }
}
