//! What exits and hypercalls cost a guest, in ticks of the time-stamp counter. Where the emulator counts instructions
//! (Bochs; QEMU with `-icount shift=0`) a tick is an instruction.
//!
//! Each line is the least of many tries, less the cost of reading the counter; one try is one operation, as the guest
//! sees it: the instruction, and for exceptions also their way through the guest's own handler.
//!
//! It takes two domains: `offer=N` on the command line grants a frame to domain N and waits, `peer=N` measures with what
//! domain N grants.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use abi::domid::DOMID_SELF;
use abi::event_channel::{EVTCHNOP_BIND_IPI, EVTCHNOP_SEND, EVTCHNOP_UNMASK, EvtchnBindIpi, VIRQ_TIMER};
use abi::grant::*;
use abi::hvm::{HVM_PARAM_CALLBACK_IRQ, HVMOP_GET_PARAM, HvmParam};
use abi::hypercall::*;
use abi::memory::{MemoryReservation, XENMEM_DECREASE_RESERVATION, XENMEM_POPULATE_PHYSMAP};
use abi::sched::{SCHEDOP_POLL, SCHEDOP_YIELD, SchedPoll};
use abi::version::{XENVER_GET_FEATURES, XENVER_VERSION};
use abi::{Domid, GuestHandle};
use guest_rt::hypercall::event_channel;
use guest_rt::start_info::StartInfo;
use guest_rt::{event, println, time};
use guests::fifo::{self, Fifo};
use guests::frames::Frames;
use guests::granting::Grants;
use guests::report::Report;
use guests::{cpu, hypercall, interrupts, smp};

guest_rt::main!(main);

/// How often each operation is tried.
const TRIES: u32 = 200;
/// No hypercall has this number.
const NO_HYPERCALL: u32 = 54;
/// Vector of interrupts that the guest sends to itself.
const VECTOR: u8 = 0x41;
/// ICR: destination shorthand "self".
const TO_SELF: u32 = 1 << 18;
/// For how long a timer is set, in nanoseconds.
const WAIT: u64 = 1_000_000;
/// No device has this port.
const NOTHING: u16 = 0x1230;

/// A frame that is granted, or copied to.
static PAGES: Frames<1> = Frames::new();

fn least(mut operation: impl FnMut()) -> u64 {
    (0..TRIES)
        .map(|_| {
            let start = cpu::tsc();
            operation();
            cpu::tsc() - start
        })
        .min()
        .unwrap_or(0)
}

fn bench(name: &str, operation: impl FnMut()) {
    let ticks = least(operation) - least(|| ());
    println!("BENCH {name}: {ticks}");
}

/// The same by FIFO, which stays on.
fn event_send_fifo(report: &mut Report) {
    let Ok(mut queues) = Fifo::start() else {
        return report.check("fifo", false, "not to be had");
    };
    let mut bind = EvtchnBindIpi { vcpu: 0, port: 0 };
    report.equal("bind-ipi", fifo::op(EVTCHNOP_BIND_IPI, &mut bind), 0);
    let mut port = bind.port;
    let (mut sends, mut taken) = (u64::MAX, 0);
    for _ in 0..TRIES {
        let start = cpu::tsc();
        fifo::op(EVTCHNOP_SEND, &mut port);
        sends = sends.min(cpu::tsc() - start);
        event::take_pending(|_| ());
        taken += u32::from(queues.take() == Some((port, true)));
    }
    report.equal("taken", taken, TRIES);
    println!("BENCH event send, FIFO: {}", sends - least(|| ()));
}

/// The grant that is offered.
const REFERENCE: u32 = 8;

/// Grants a frame to `domain`, which does the rest.
fn offer(domain: Domid) -> ! {
    Grants::default().grant_to(domain, REFERENCE, PAGES.first());
    println!("READY");
    loop {
        interrupts::halt();
    }
}

/// Copies and maps what `dom` offers.
fn grants(dom: Domid, report: &mut Report) {
    /// A frame behind all of the domain's RAM.
    const NOWHERE: u64 = 1 << 18;
    let list = |operation: u32, argument: u64| {
        hypercall::call(HYPERVISOR_GRANT_TABLE_OP, [operation.into(), argument, 1, 0, 0])
    };
    let mut copy = GnttabCopy {
        source: GnttabCopyPtr {
            u: REFERENCE.into(),
            domid: dom,
            ..Default::default()
        },
        dest: GnttabCopyPtr {
            u: PAGES.first(),
            domid: DOMID_SELF,
            ..Default::default()
        },
        len: 4096,
        flags: GNTCOPY_SOURCE_GREF,
        status: 1,
        ..Default::default()
    };
    for (len, name) in [(64, "grant copy, 64 bytes"), (4096, "grant copy, 4 KiB")] {
        copy.len = len;
        bench(name, || {
            list(GNTTABOP_COPY, core::ptr::from_mut(&mut copy) as u64);
        });
    }
    let mut map = GnttabMapGrantRef {
        host_addr: NOWHERE << 12,
        flags: GNTMAP_HOST_MAP,
        ref_: REFERENCE,
        dom,
        status: 1,
        ..Default::default()
    };
    let mut unmap = GnttabUnmapGrantRef {
        host_addr: NOWHERE << 12,
        status: 1,
        ..Default::default()
    };
    let (mut mapping, mut unmapping, mut both) = (u64::MAX, u64::MAX, u64::MAX);
    for _ in 0..TRIES {
        let start = cpu::tsc();
        list(GNTTABOP_MAP_GRANT_REF, core::ptr::from_mut(&mut map) as u64);
        let mapped = cpu::tsc();
        unmap.handle = map.handle;
        let again = cpu::tsc();
        list(GNTTABOP_UNMAP_GRANT_REF, core::ptr::from_mut(&mut unmap) as u64);
        let end = cpu::tsc();
        unmapping = unmapping.min(end - again);
        mapping = mapping.min(mapped - start);
        both = both.min(mapped - start + end - again);
    }
    let counter = least(|| ());
    println!("BENCH grant map: {}", mapping - counter);
    println!("BENCH grant unmap: {}", unmapping - counter);
    println!("BENCH grant map and unmap: {}", both - 2 * counter);
    report.equal("grants", (copy.status, map.status, unmap.status), (0, 0, 0));
}

/// Gives frames back and takes others, as a balloon does.
fn balloon(report: &mut Report) {
    const COUNT: usize = 16;
    static FRAMES: Frames<COUNT> = Frames::new();
    let frames: [u64; COUNT] = core::array::from_fn(|index| FRAMES.first() + index as u64);
    let mut request = MemoryReservation {
        extent_start: GuestHandle::new(frames.as_ptr() as u64),
        nr_extents: COUNT as u64,
        domid: DOMID_SELF,
        ..Default::default()
    };
    let mut done = 0;
    bench("16 frames out and in", || {
        for operation in [XENMEM_DECREASE_RESERVATION, XENMEM_POPULATE_PHYSMAP] {
            done += hypercall::op(HYPERVISOR_MEMORY_OP, operation, &mut request);
        }
    });
    report.equal("extents", done, i64::from(TRIES) * 2 * COUNT as i64);
}

/// Writes that change a bit, and change it back the next time.
fn control_registers() {
    const CR0_AM: u64 = 1 << 18;
    const CR4_TSD: u64 = 1 << 2;
    let (mut cr0, mut cr4) = (cpu::read_cr0(), cpu::read_cr4());
    bench("CR0 write", || {
        cr0 ^= CR0_AM;
        let _ = cpu::write_cr0(cr0);
    });
    bench("CR4 write", || {
        cr4 ^= CR4_TSD;
        let _ = cpu::write_cr4(cr4);
    });
}

/// From the time that a timer was set for to the first instruction after HLT, the handler of the upcall before it.
fn timer(report: &mut Report) {
    let port = event_channel::bind_virq(VIRQ_TIMER);
    report.check("bind-timer", port.is_ok(), "refused");
    let mut late = u64::MAX;
    for _ in 0..TRIES / 10 {
        let (start, now) = (cpu::tsc(), time::now());
        let set = time::set_timer(Some(now + WAIT));
        let mut came = set.is_err();
        while !came {
            interrupts::halt();
            event::take_pending(|found| came |= Ok(found) == port);
        }
        let (end, then) = (cpu::tsc(), time::now());
        // The counter's rate is known no better than from the wait itself, of which this is a small part.
        let rate = (end - start) as f64 / (then - now) as f64;
        late = late.min(((then - now - WAIT) as f64 * rate) as u64);
    }
    println!("BENCH timer due to woken: {late}");
}

/// The ports of the two that play.
static PORTS: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];
static STACK: Frames<4> = Frames::new();

/// Waits for the event of player `which`.
fn await_turn(which: usize) {
    let port = PORTS[which].load(SeqCst);
    let mut poll = SchedPoll {
        ports: GuestHandle::new(core::ptr::from_ref(&port) as u64),
        nr_ports: 1,
        pad: 0,
        timeout: 0,
    };
    while !event::take(port) {
        hypercall::op(HYPERVISOR_SCHED_OP, SCHEDOP_POLL, &mut poll);
    }
}

fn pass_to(which: usize) {
    let mut port = PORTS[which].load(SeqCst);
    hypercall::op(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_SEND, &mut port);
}

extern "C" fn partner() -> ! {
    loop {
        await_turn(1);
        pass_to(0);
    }
}

/// Two vCPUs on one CPU, each of which sends an event to the other and waits for the other's: from the one's send to the other's first
/// instruction after its wait, blocking and switching included.
fn ping_pong(report: &mut Report) {
    for (vcpu, port) in (0..).zip(&PORTS) {
        port.store(interrupts::bind_ipi(vcpu, report), SeqCst);
        event::mask(port.load(SeqCst));
    }
    let started = smp::start(1, partner, &STACK);
    report.check("second vCPU", started.is_ok(), "refused");
    if started.is_err() {
        return;
    }
    let round = least(|| {
        pass_to(1);
        await_turn(0);
    });
    println!("BENCH send, block, switch: {}", (round - least(|| ())) / 2);
}

/// The number behind `key` on the command line.
fn option(info: &StartInfo, key: &str) -> Option<Domid> {
    let mut words = info.command_line().split_whitespace();
    words.find_map(|word| word.strip_prefix(key)?.parse().ok())
}

fn main(info: StartInfo) -> ! {
    cpu::init();
    if let Some(domain) = option(&info, "offer=") {
        offer(domain);
    }
    let peer = option(&info, "peer=").expect("a peer");
    let mut report = Report::default();
    bench("null hypercall", || {
        hypercall::call(HYPERVISOR_XEN_VERSION, [XENVER_VERSION.into(), 0, 0, 0, 0]);
    });
    bench("unknown hypercall", || {
        hypercall::call(NO_HYPERCALL, [0; 5]);
    });
    let mut features = [0u32; 2];
    bench("get_features", || {
        hypercall::op(HYPERVISOR_XEN_VERSION, XENVER_GET_FEATURES, &mut features);
    });
    bench("yield", || {
        hypercall::call(HYPERVISOR_SCHED_OP, [SCHEDOP_YIELD.into(), 0, 0, 0, 0]);
    });
    let mut port = interrupts::bind_ipi(0, &mut report);
    let mut sends = u64::MAX;
    for _ in 0..TRIES {
        let start = cpu::tsc();
        hypercall::op(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_SEND, &mut port);
        sends = sends.min(cpu::tsc() - start);
        event::take_pending(|_| ());
    }
    println!("BENCH event send: {}", sends - least(|| ()));
    interrupts::enable();
    bench("event send and upcall", || {
        hypercall::op(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_SEND, &mut port);
        event::take_pending(|_| ());
    });
    interrupts::disable();
    let mut param = HvmParam {
        domid: DOMID_SELF,
        index: HVM_PARAM_CALLBACK_IRQ,
        ..Default::default()
    };
    bench("hvm_op get_param", || {
        hypercall::op(HYPERVISOR_HVM_OP, HVMOP_GET_PARAM, &mut param);
    });
    bench("event unmask", || {
        hypercall::op(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_UNMASK, &mut port);
    });
    bench("alloc_unbound and close", || {
        let _ = event_channel::alloc_unbound(DOMID_SELF, 0).and_then(event_channel::close);
    });
    balloon(&mut report);
    let mut far = time::now() + 1_000_000_000_000;
    bench("set single-shot timer", || {
        far += 1_000_000;
        let _ = time::set_timer(Some(far));
    });
    bench("stop single-shot timer", || {
        let _ = time::set_timer(None);
    });
    timer(&mut report);
    ping_pong(&mut report);
    cpu::enable_local_apic();
    interrupts::enable();
    bench("IPI to itself", || {
        cpu::mmio_write(cpu::APIC_ICR, TO_SELF | u32::from(VECTOR))
    });
    interrupts::disable();
    bench("CPUID", || {
        cpu::cpuid(0, 0);
    });
    let efer = cpu::rdmsr(cpu::MSR_EFER).unwrap_or(0);
    bench("RDMSR (APIC base)", || {
        let _ = cpu::rdmsr(cpu::MSR_APIC_BASE);
    });
    bench("WRMSR (EFER)", || {
        let _ = cpu::wrmsr(cpu::MSR_EFER, efer);
    });
    control_registers();
    bench("unused port", || {
        cpu::in8(NOTHING);
    });
    bench("#DB", || {
        let _ = cpu::single_step();
    });
    // What the guest itself takes of that: its handler, and what it looks at.
    bench("#UD, without an exit", || {
        let _ = cpu::ud2();
    });
    bench("WBINVD", || {
        let _ = cpu::wbinvd();
    });
    bench("local APIC read", || {
        cpu::mmio_read(cpu::APIC_TPR);
    });
    bench("local APIC write", || cpu::mmio_write(cpu::APIC_TPR, 0));
    event_send_fifo(&mut report);
    grants(peer, &mut report);
    report.finish()
}
