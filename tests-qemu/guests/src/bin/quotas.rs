//! A domU that takes all that it may have: `vcpus=N`, `ports=N` (the highest), `frames=N` of the grant table, and `maptrack=N` frames of mappings
//! on the command line say how much that is.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use abi::domid::DOMID_SELF;
use abi::event_channel::*;
use abi::grant::*;
use abi::hypercall::*;
use abi::memory::*;
use abi::sched::{SCHEDOP_POLL, SchedPoll};
use abi::vcpu::{VCPUOP_DOWN, VCPUOP_IS_UP};
use abi::{Errno, GuestHandle};
use guest_rt::hypercall::event_channel;
use guest_rt::start_info::StartInfo;
use guest_rt::{event, time};
use guests::frames::Frames;
use guests::granting::{Grants, one};
use guests::hypercall::{call, error_code, op};
use guests::report::Report;
use guests::{cpu, hypercall, smp};

guest_rt::main!(main);

/// A frame behind all of the domain's RAM.
const NOWHERE: u64 = 1 << 18;
/// Mappings to a frame of them.
const MAPPINGS: u64 = 256;

/// Most vCPUs beside the first.
const OTHERS: usize = 127;
/// So long is waited for these, in nanoseconds: the machine may be busy with others.
const PATIENCE: u64 = 120_000_000_000;

static PAGES: Frames<2> = Frames::new();
static STACKS: [Frames<4>; OTHERS] = [const { Frames::new() }; OTHERS];
/// What each waits for.
static PORTS: [AtomicU32; OTHERS] = [const { AtomicU32::new(0) }; OTHERS];
/// How many have begun, and have been woken.
static BEGUN: AtomicU32 = AtomicU32::new(0);
static WOKEN: AtomicU32 = AtomicU32::new(0);

fn main(info: StartInfo) -> ! {
    cpu::init();
    let option = |key: &str| -> u64 {
        info.command_line()
            .split_ascii_whitespace()
            .find_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
            .expect("a number")
    };
    let mut report = Report::default();
    vcpus(&mut report, option("vcpus") as u32);
    ports(&mut report, option("ports") as u32);
    frames(&mut report, option("frames"));
    mappings(&mut report, option("maptrack"));
    report.finish()
}

/// All vCPUs run, and each gets an event that it waits for; there is none beyond.
fn vcpus(report: &mut Report, count: u32) {
    let others = || (1..count).zip(&PORTS).zip(&STACKS);
    for ((vcpu, port), stack) in others() {
        let mut bind = EvtchnBindIpi { vcpu, port: 0 };
        let bound = op(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_BIND_IPI, &mut bind);
        event::mask(bind.port);
        port.store(bind.port, SeqCst);
        report.equal(
            &format!("vcpu-{vcpu}"),
            (bound, smp::start(vcpu, wait, stack)),
            (0, Ok(())),
        );
    }
    let all = |counter: &AtomicU32| {
        let end = time::now() + PATIENCE;
        while counter.load(SeqCst) < count - 1 && time::now() < end {
            core::hint::spin_loop();
        }
        counter.load(SeqCst)
    };
    report.equal("vcpus-begun", all(&BEGUN), count - 1);
    let sent = others().filter(|((_, port), _)| event_channel::send(port.load(SeqCst)).is_ok());
    report.equal("vcpus-sent-to", sent.count() as u32, count - 1);
    report.equal("vcpus-woken", all(&WOKEN), count - 1);
    let beyond = call(HYPERVISOR_VCPU_OP, [VCPUOP_IS_UP.into(), count.into(), 0, 0, 0]);
    report.equal("vcpu-beyond", beyond, error_code(Errno::ENOENT));
}

/// What a vCPU beside the first does.
extern "C" fn wait() -> ! {
    let (_, vcpu) = cpu::identity();
    let port = PORTS[vcpu as usize - 1].load(SeqCst);
    BEGUN.fetch_add(1, SeqCst);
    let mut poll = SchedPoll {
        ports: GuestHandle::new(ptr::from_ref(&port) as u64),
        nr_ports: 1,
        pad: 0,
        timeout: 0,
    };
    while !event::take(port) {
        op(HYPERVISOR_SCHED_OP, SCHEDOP_POLL, &mut poll);
    }
    WOKEN.fetch_add(1, SeqCst);
    loop {
        call(HYPERVISOR_VCPU_OP, [VCPUOP_DOWN.into(), vcpu.into(), 0, 0, 0]);
    }
}

fn ports(report: &mut Report, highest: u32) {
    let mut last = 0;
    let answer = loop {
        let mut bind = EvtchnBindIpi { vcpu: 0, port: 0 };
        match op(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_BIND_IPI, &mut bind) {
            0 => last = bind.port,
            error => break error,
        }
    };
    report.equal("ports", (answer, last), (error_code(Errno::ENOSPC), highest));
}

fn frames(report: &mut Report, most: u64) {
    let mut size = GnttabQuerySize {
        dom: DOMID_SELF,
        ..Default::default()
    };
    report.equal("query-size", one(GNTTABOP_QUERY_SIZE, &mut size), 0);
    report.equal("frames", u64::from(size.max_nr_frames), most);
    let mut setup = GnttabSetupTable {
        dom: DOMID_SELF,
        nr_frames: most as u32 + 1,
        frame_list: GuestHandle::new(PAGES.address()),
        ..Default::default()
    };
    report.equal("setup-table", one(GNTTABOP_SETUP_TABLE, &mut setup), 0);
    report.equal("setup-table-too-large", setup.status, GNTST_GENERAL_ERROR);
    let place = |index| {
        let mut place = AddToPhysmap {
            domid: DOMID_SELF,
            space: XENMAPSPACE_GRANT_TABLE,
            idx: index,
            gpfn: PAGES.first() + 1,
            ..Default::default()
        };
        hypercall::op(HYPERVISOR_MEMORY_OP, XENMEM_ADD_TO_PHYSMAP, &mut place)
    };
    let placed = [most - 1, most].map(place);
    report.equal("map-frames", placed, [0, error_code(Errno::EINVAL)]);
}

fn mappings(report: &mut Report, frames: u64) {
    const REFERENCE: u32 = 9;
    let (dom, _) = cpu::identity();
    Grants::default().grant_to(dom, REFERENCE, PAGES.first());
    let mut mapped = 0;
    let status = loop {
        let mut map = GnttabMapGrantRef {
            host_addr: (NOWHERE + mapped) << 12,
            flags: GNTMAP_HOST_MAP,
            ref_: REFERENCE,
            dom,
            status: 1,
            ..Default::default()
        };
        one(GNTTABOP_MAP_GRANT_REF, &mut map);
        if map.status != GNTST_OKAY {
            break map.status;
        }
        mapped += 1;
    };
    report.equal(
        "mappings",
        (status, mapped),
        (GNTST_NO_DEVICE_SPACE, frames * MAPPINGS),
    );
}
