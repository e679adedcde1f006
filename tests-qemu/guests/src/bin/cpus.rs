//! All CPUs of the machine, by a domain with a vCPU for each, or more: they run at once, reach each other by events and by TLB flushes, and go on while CPUs are
//! taken off and on under them. Its command line: the number of CPUs, how often one goes, how many are off at first, and the
//! number of vCPUs, if it is another.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};

use abi::domid::DOMID_SELF;
use abi::event_channel::{EVTCHNOP_BIND_IPI, EvtchnBindIpi};
use abi::hypercall::{
    HYPERVISOR_EVENT_CHANNEL_OP, HYPERVISOR_MEMORY_OP, HYPERVISOR_PLATFORM_OP, HYPERVISOR_SCHED_OP,
};
use abi::memory::{MemoryReservation, XENMEM_DECREASE_RESERVATION, XENMEM_POPULATE_PHYSMAP};
use abi::platform::*;
use abi::sched::{SCHEDOP_POLL, SchedPoll};
use abi::sysctl::{XEN_SYSCTL_CPU_HOTPLUG_OFFLINE as OFFLINE, XEN_SYSCTL_CPU_HOTPLUG_ONLINE as ONLINE};
use abi::{Errno, GuestHandle, Union};
use guest_rt::hypercall::{domctl, event_channel, sysctl};
use guest_rt::start_info::StartInfo;
use guest_rt::{event, time};
use guests::frames::Frames;
use guests::report::Report;
use guests::{cpu, hypercall, smp};

guest_rt::main!(main);

/// This domain.
const DOM0: u16 = 0;
/// Most vCPUs: as many as a domain may have.
const MOST: usize = 128;
/// Events to each vCPU, and frames that are exchanged.
const ROUNDS: u64 = 8;
/// So long is waited for what is to come, in nanoseconds: the machine may be busy with others.
const PATIENCE: u64 = 120_000_000_000;
/// A worker computes for so long, then waits for so long, in nanoseconds.
const TURN: u64 = 200_000;

static STACKS: [Frames<4>; MOST] = [const { Frames::new() }; MOST];
/// The frame that is exchanged under those who read it.
static EXCHANGED: Frames<1> = Frames::new();

/// What a worker, which is a vCPU beside the first, has done.
struct Worker {
    /// The port of its events.
    port: AtomicU32,
    /// Events that it got, and waits that ended with their time.
    events: AtomicU64,
    timeouts: AtomicU64,
    /// What it has read last in [`EXCHANGED`].
    seen: AtomicU32,
}

static WORKERS: [Worker; MOST] = [const {
    Worker {
        port: AtomicU32::new(0),
        events: AtomicU64::new(0),
        timeouts: AtomicU64::new(0),
        seen: AtomicU32::new(0),
    }
}; MOST];
/// How many have begun, beside the first vCPU.
static BEGUN: AtomicU32 = AtomicU32::new(0);
/// They are not to wait, but only to compute.
static BUSY: AtomicBool = AtomicBool::new(true);

fn main(info: StartInfo) -> ! {
    cpu::init();
    let mut report = Report::default();
    let mut numbers = info
        .command_line()
        .split(' ')
        .map(|word| word.parse().unwrap_or(1));
    let (wanted, changes) = (numbers.next().unwrap_or(1), numbers.next().unwrap_or(0));
    let off = numbers.next().unwrap_or(0);
    let vcpus = numbers.next().unwrap_or(wanted);
    let run = |report: &mut Report, what: &str, count: u32| {
        let machine = sysctl::physinfo().expect("physinfo");
        report.equal(what, (machine.nr_cpus, machine.max_cpu_id), (count, wanted - 1));
    };
    run(&mut report, "cpus-run", wanted - off);
    begin(&mut report, vcpus);
    if off > 0 {
        keep_to(&mut report, wanted - off, vcpus);
        for cpu in wanted - off..wanted {
            report.equal(&format!("online-{cpu}"), sysctl::cpu_hotplug(cpu, ONLINE), Ok(()));
        }
        run(&mut report, "all-cpus-run", wanted);
    }
    spread(&mut report, "spread", wanted, vcpus);
    BUSY.store(false, SeqCst);
    events(&mut report, vcpus);
    frames(&mut report, vcpus);
    if wanted > 1 {
        off_and_on(&mut report, wanted, vcpus, changes);
        BUSY.store(true, SeqCst);
        spread(&mut report, "spread-again", wanted, vcpus);
    }
    refusals(&mut report, wanted);
    report.finish()
}

/// Waits until `what` holds.
fn holds(mut what: impl FnMut() -> bool) -> bool {
    let end = time::now() + PATIENCE;
    while !what() {
        if time::now() >= end {
            return false;
        }
    }
    true
}

/// The workers, of so many vCPUs.
fn workers(vcpus: u32) -> &'static [Worker] {
    &WORKERS[1..vcpus as usize]
}

/// Starts the other vCPUs.
fn begin(report: &mut Report, vcpus: u32) {
    for vcpu in 1..vcpus {
        let mut bind = EvtchnBindIpi { vcpu, port: 0 };
        let bound = hypercall::op(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_BIND_IPI, &mut bind);
        event::mask(bind.port);
        let number = vcpu as usize;
        WORKERS[number].port.store(bind.port, SeqCst);
        let started = smp::start(vcpu, work, &STACKS[number]);
        report.equal(&format!("vcpu-{vcpu}"), (bound, started), (0, Ok(())));
    }
    let begun = holds(|| BEGUN.load(SeqCst) == vcpus - 1);
    report.check("all-begin", begun, format!("{} do", BEGUN.load(SeqCst)));
}

/// What a worker does for ever.
extern "C" fn work() -> ! {
    let (_, vcpu) = cpu::identity();
    let own = &WORKERS[vcpu as usize];
    BEGUN.fetch_add(1, SeqCst);
    let port = own.port.load(SeqCst);
    loop {
        let turn = time::now() + TURN;
        while time::now() < turn {
            let byte = EXCHANGED.byte(0);
            own.seen.store(byte.into(), SeqCst);
        }
        if BUSY.load(SeqCst) {
            continue;
        }
        let mut poll = SchedPoll {
            ports: GuestHandle::new(core::ptr::from_ref(&port) as u64),
            nr_ports: 1,
            pad: 0,
            timeout: time::now() + TURN,
        };
        hypercall::op(HYPERVISOR_SCHED_OP, SCHEDOP_POLL, &mut poll);
        let count = match event::take(port) {
            true => &own.events,
            false => &own.timeouts,
        };
        count.fetch_add(1, SeqCst);
    }
}

/// The vCPUs, which all compute, do so on the first CPUs, as the others are off.
fn keep_to(report: &mut Report, online: u32, vcpus: u32) {
    const WATCHED: u64 = 100_000_000;
    let (mut elsewhere, end) = (None, time::now() + WATCHED);
    while time::now() < end {
        let of = |vcpu| domctl::vcpu_info(DOM0, vcpu).map_or(u32::MAX, |info| info.cpu);
        elsewhere = elsewhere.or((0..vcpus).map(of).find(|&cpu| cpu >= online));
    }
    report.equal("keep-to-those-that-run", elsewhere, None);
}

/// The vCPUs, which all compute, come to have a CPU each, or all CPUs if they are more.
fn spread(report: &mut Report, name: &str, wanted: u32, vcpus: u32) {
    let mut cpus = 0u32;
    let each = holds(|| {
        let of = |vcpu| domctl::vcpu_info(DOM0, vcpu).map_or(0, |info| 1 << info.cpu);
        cpus = (0..vcpus).map(of).fold(0, |all, one| all | one);
        cpus.count_ones() == wanted
    });
    report.check(name, each, format!("CPUs {cpus:#b}"));
}

/// Each vCPU gets every event that it is sent.
fn events(report: &mut Report, vcpus: u32) {
    let mut lost = 0;
    for round in 1..=ROUNDS {
        for worker in workers(vcpus) {
            let sent = event_channel::send(worker.port.load(SeqCst));
            lost += u32::from(sent.is_err());
        }
        for worker in workers(vcpus) {
            lost += u32::from(!holds(|| worker.events.load(SeqCst) == round));
        }
    }
    report.equal("events-to-each", lost, 0);
}

/// A frame goes, and another comes in its place: nobody sees the old one any more.
fn frames(report: &mut Report, vcpus: u32) {
    let mut stale = 0;
    let mut frame = EXCHANGED.first();
    for round in 1..=ROUNDS as u8 {
        let mut reservation = MemoryReservation {
            extent_start: GuestHandle::new(core::ptr::from_mut(&mut frame) as u64),
            nr_extents: 1,
            domid: DOMID_SELF,
            ..Default::default()
        };
        for op in [XENMEM_DECREASE_RESERVATION, XENMEM_POPULATE_PHYSMAP] {
            stale += u32::from(hypercall::op(HYPERVISOR_MEMORY_OP, op, &mut reservation) != 1);
        }
        EXCHANGED.set_byte(0, round);
        for worker in workers(vcpus) {
            stale += u32::from(!holds(|| worker.seen.load(SeqCst) == round.into()));
        }
    }
    report.equal("frames-exchanged", stale, 0);
}

/// CPUs go and come back, also the one that the caller runs on; nobody loses an event or a deadline.
fn off_and_on(report: &mut Report, wanted: u32, vcpus: u32, changes: u32) {
    let online = || sysctl::physinfo().map_or(0, |machine| machine.nr_cpus);
    let done = |worker: &Worker| (worker.events.load(SeqCst), worker.timeouts.load(SeqCst));
    let lifeless = || {
        let before: Vec<_> = workers(vcpus).iter().map(done).collect();
        let sent = |worker: &Worker| event_channel::send(worker.port.load(SeqCst)).is_ok();
        let lost = workers(vcpus).iter().filter(|worker| !sent(worker)).count();
        let goes_on =
            |worker, (events, timeouts)| holds(|| done(worker).0 != events && done(worker).1 > timeouts);
        let all = workers(vcpus).iter().zip(before);
        lost + all.filter(|&(worker, before)| !goes_on(worker, before)).count()
    };
    let (mut refused, mut wrong, mut dead) = (None, 0, 0);
    for change in 0..changes {
        // Now and then all but CPU 0 are off.
        let last = if change % 10 == 9 { wanted } else { 2 };
        let first = if last == wanted {
            1
        } else {
            1 + change % (wanted - 1)
        };
        let cpus = || first..if last == wanted { wanted } else { first + 1 };
        for cpu in cpus() {
            refused = refused.or(sysctl::cpu_hotplug(cpu, OFFLINE).err());
        }
        wrong += u32::from(online() != wanted - cpus().len() as u32);
        wrong += u32::from(sysctl::cpu_hotplug(first, OFFLINE) != Err(Errno::EEXIST));
        for vcpu in 0..vcpus {
            // Its CPU is known a moment later than that it runs.
            let gone = |cpu| cpus().any(|offline| offline == cpu);
            let there =
                || domctl::vcpu_info(DOM0, vcpu).is_ok_and(|info| info.running != 0 && gone(info.cpu));
            wrong += u32::from(!holds(|| !there()));
        }
        dead += lifeless();
        for cpu in cpus() {
            refused = refused.or(sysctl::cpu_hotplug(cpu, ONLINE).err());
        }
        wrong += u32::from(online() != wanted);
    }
    report.equal("off-and-on", (refused, wrong, dead), (None, 0, 0));
}

fn platform<T>(cmd: u32, payload: &T) -> (i64, Union<16>)
where
    T: zerocopy::IntoBytes + zerocopy::Immutable,
{
    let mut argument = PlatformOp {
        cmd,
        interface_version: XENPF_INTERFACE_VERSION,
        u: Union::of(payload),
    };
    let answer = hypercall::call(
        HYPERVISOR_PLATFORM_OP,
        [core::ptr::from_mut(&mut argument) as u64, 0, 0, 0, 0],
    );
    (answer, argument.u)
}

/// What cannot be done, by either call.
fn refusals(report: &mut Report, wanted: u32) {
    for (name, cpu, op, error) in [
        ("online-online", 0, ONLINE, Errno::EEXIST),
        ("offline-0", 0, OFFLINE, Errno::EINVAL),
        ("offline-none", wanted, OFFLINE, Errno::EINVAL),
        ("online-none", 4096, ONLINE, Errno::EINVAL),
        ("smt-disable", 0, 3, Errno::EOPNOTSUPP),
        ("hotplug-unknown", 0, 4, Errno::EOPNOTSUPP),
    ] {
        report.equal(name, sysctl::cpu_hotplug(cpu, op), Err(error));
    }
    let cpu = |cpuid| XenpfCpuOl { cpuid };
    report.equal("platform-online", platform(XENPF_CPU_ONLINE, &cpu(0)).0, 0);
    report.equal(
        "platform-offline-0",
        platform(XENPF_CPU_OFFLINE, &cpu(0)).0,
        hypercall::error_code(Errno::EOPNOTSUPP),
    );
    let last = wanted - 1;
    let flags = |xen_cpuid| {
        let asked = XenpfPcpuinfo {
            xen_cpuid,
            ..Default::default()
        };
        let (_, answer) = platform(XENPF_GET_CPUINFO, &asked);
        answer.get::<XenpfPcpuinfo>().flags
    };
    report.equal(
        "platform-info",
        (flags(last), flags(wanted)),
        (XEN_PCPU_FLAGS_ONLINE, XEN_PCPU_FLAGS_INVALID),
    );
    if last > 0 {
        let answers = [
            XENPF_CPU_OFFLINE,
            XENPF_CPU_OFFLINE,
            XENPF_CPU_ONLINE,
            XENPF_CPU_ONLINE,
        ]
        .map(|cmd| (platform(cmd, &cpu(last)).0, flags(last)));
        report.equal("platform-off-and-on", answers, [(0, 0), (0, 0), (0, 1), (0, 1)]);
    }
}
