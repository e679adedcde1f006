//! FIFO event channels: the operations called well and badly, events by the thousand in order of priority, a guest that writes
//! nonsense into its words, and the way back to 2-level delivery.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;

use abi::domid::DOMID_SELF;
use abi::event_channel::*;
use abi::hypercall::HYPERVISOR_SCHED_OP;
use abi::sched::{SCHEDOP_POLL, SchedPoll};
use abi::{Errno, GuestHandle};
use guest_rt::start_info::StartInfo;
use guest_rt::{event, time};
use guests::fifo::{self, Fifo, op};
use guests::hypercall::error_code;
use guests::random::Random;
use guests::report::Report;
use guests::{cpu, hypercall, interrupts};

guest_rt::main!(main);

const ROUNDS: u64 = 3000;
/// Ports that the test sends on.
const PORTS: usize = 48;

fn main(_: StartInfo) -> ! {
    cpu::init();
    let mut report = Report::default();
    refusals(&mut report);
    match Fifo::start() {
        Ok(mut fifo) => {
            started(&mut report);
            let ports = [(); PORTS].map(|()| ipi());
            priorities(&mut report, &mut fifo, &ports);
            load(&mut report, &mut fifo, &ports);
            poll(&mut report, &mut fifo, ports[3]);
            nonsense(&mut report, &fifo, &ports);
            back(&mut report);
        }
        Err(error) => report.equal("start", error, 0),
    }
    report.finish()
}

fn ipi() -> u32 {
    let mut bind = EvtchnBindIpi { vcpu: 0, port: 0 };
    let answer = op(EVTCHNOP_BIND_IPI, &mut bind);
    assert_eq!(answer, 0, "a port");
    bind.port
}

fn send(port: u32) -> i64 {
    op(EVTCHNOP_SEND, &mut EvtchnPortArg { port })
}

fn set_priority(port: u32, priority: u32) -> i64 {
    op(EVTCHNOP_SET_PRIORITY, &mut EvtchnSetPriority { port, priority })
}

/// While delivery is 2-level.
fn refusals(report: &mut Report) {
    let einval = error_code(Errno::EINVAL);
    let expand = op(EVTCHNOP_EXPAND_ARRAY, &mut fifo::words());
    report.equal("expand-first", expand, error_code(Errno::EOPNOTSUPP));
    let port = ipi();
    report.equal("priority-first", set_priority(port, 3), error_code(Errno::ENOSYS));
    op(EVTCHNOP_CLOSE, &mut EvtchnPortArg { port });
    for (name, offset, vcpu, gfn, expected) in [
        ("control-vcpu", 0, 500, None, error_code(Errno::ENOENT)),
        ("control-crosses", 4096 - 64, 0, None, einval),
        ("control-misaligned", 12, 0, None, einval),
        ("control-nowhere", 0, 0, Some(1 << 40), einval),
    ] {
        let mut init = fifo::control();
        (init.offset, init.vcpu) = (offset, vcpu);
        init.control_gfn = gfn.unwrap_or(init.control_gfn);
        report.equal(name, op(EVTCHNOP_INIT_CONTROL, &mut init), expected);
    }
}

/// After the switch.
fn started(report: &mut Report) {
    let einval = error_code(Errno::EINVAL);
    let again = op(EVTCHNOP_INIT_CONTROL, &mut fifo::control());
    report.equal("control-twice", again, einval);
    let mut nowhere = EvtchnExpandArray { array_gfn: 1 << 40 };
    report.equal("expand-nowhere", op(EVTCHNOP_EXPAND_ARRAY, &mut nowhere), einval);
    let port = ipi();
    report.equal("priority-16", set_priority(port, 16), einval);
    report.equal("priority-nobody", set_priority(u32::MAX, 0), einval);
    op(EVTCHNOP_CLOSE, &mut EvtchnPortArg { port });
    report.equal(
        "priority-closed",
        set_priority(port, 0),
        error_code(Errno::EACCES),
    );
}

/// Sent from the least urgent to the most, they come the other way round, those of one priority in their order.
fn priorities(report: &mut Report, fifo: &mut Fifo, ports: &[u32]) {
    let priority = |index: usize| 15 - (index as u32 % 16);
    for (index, &port) in ports.iter().enumerate() {
        report.equal("set-priority", set_priority(port, priority(index)), 0);
    }
    for &port in ports {
        report.equal("send", send(port), 0);
    }
    let mut expected: alloc::vec::Vec<usize> = (0..ports.len()).collect();
    expected.sort_by_key(|&index| priority(index));
    let expected: alloc::vec::Vec<_> = expected.into_iter().map(|index| (ports[index], true)).collect();
    let found: alloc::vec::Vec<_> = core::iter::from_fn(|| fifo.take()).collect();
    report.equal("order", found, expected);
    event::take_pending(|_| ());
}

/// Random sends, masks and priorities: each event is seen once.
fn load(report: &mut Report, fifo: &mut Fifo, ports: &[u32]) {
    let mut random = Random::new(7);
    let (mut sent, mut seen, mut wrong) = (0u64, 0u64, 0u64);
    let mut waiting = [false; PORTS];
    let mut masked = [false; PORTS];
    for _ in 0..ROUNDS {
        for _ in 0..random.below(5) {
            let index = random.below(PORTS as u64) as usize;
            sent += u64::from(!waiting[index]);
            waiting[index] = true;
            wrong += u64::from(send(ports[index]) != 0);
        }
        let index = random.below(PORTS as u64) as usize;
        match random.below(3) {
            0 => {
                fifo.mask(ports[index]);
                masked[index] = true;
            }
            1 => wrong += u64::from(set_priority(ports[index], random.below(16) as u32) != 0),
            _ => {
                fifo.unmask(ports[index]);
                masked[index] = false;
            }
        }
        if random.below(3) == 0 {
            event::take_pending(|_| ());
            while let Some((port, event)) = fifo.take() {
                let index = ports.iter().position(|&found| found == port);
                match index {
                    Some(index) if event => {
                        wrong += u64::from(!waiting[index] || masked[index]);
                        waiting[index] = false;
                        seen += 1;
                    }
                    Some(_) => {}
                    None => wrong += 1,
                }
            }
        }
    }
    for &port in ports {
        fifo.unmask(port);
    }
    event::take_pending(|_| ());
    while let Some((_, event)) = fifo.take() {
        seen += u64::from(event);
    }
    report.equal("load", (seen, wrong), (sent, 0));
    report.check(
        "other-words",
        fifo.untouched_from(ports[PORTS - 1] + 1),
        "words of ports that are not open",
    );
    // An event that came while interrupts were off has an upcall: nothing else ends this halt.
    send(ports[0]);
    interrupts::halt();
    report.equal("upcall", fifo.take(), Some((ports[0], true)));
}

/// SCHEDOP_poll looks at words too, masked or not.
fn poll(report: &mut Report, fifo: &mut Fifo, port: u32) {
    const LONG: u64 = 20_000_000_000;
    fifo.mask(port);
    let wait = |timeout: u64| {
        let start = time::now();
        let mut poll = SchedPoll {
            ports: GuestHandle::new(core::ptr::from_ref(&port) as u64),
            nr_ports: 1,
            pad: 0,
            timeout: start + timeout,
        };
        let answer = hypercall::op(HYPERVISOR_SCHED_OP, SCHEDOP_POLL, &mut poll);
        (answer, time::now() - start)
    };
    let (answer, waited) = wait(2_000_000);
    report.check(
        "poll-waits",
        answer == 0 && waited >= 2_000_000,
        format!("{answer} {waited}"),
    );
    send(port);
    let (answer, waited) = wait(LONG);
    report.check(
        "poll-finds",
        answer == 0 && waited < LONG,
        format!("{answer} {waited}"),
    );
    fifo.unmask(port);
    event::take_pending(|_| ());
    report.equal("poll-unmasked", fifo.take(), Some((port, true)));
}

/// Words, heads and ready bits of any value: every send is answered, and this program lives.
fn nonsense(report: &mut Report, fifo: &Fifo, ports: &[u32]) {
    let mut random = Random::new(8);
    let mut wrong = 0;
    for _ in 0..ROUNDS {
        let value = match random.below(3) {
            0 => random.word() as u32,
            1 => 1 << random.below(32) | random.below(1 << 17) as u32,
            _ => 1 << EVTCHN_FIFO_LINKED | 0x1_ffff,
        };
        if random.below(3) == 0 {
            fifo.scribble_control(random.below(18) as usize, value);
        } else {
            fifo.scribble(random.below(1024) as u32, value);
        }
        let port = ports[random.below(PORTS as u64) as usize];
        wrong += u64::from(send(port) != 0);
        if random.below(2) == 0 {
            wrong += u64::from(op(EVTCHNOP_UNMASK, &mut EvtchnPortArg { port }) != 0);
            wrong += u64::from(set_priority(port, random.below(16) as u32) != 0);
        }
    }
    report.equal("nonsense", wrong, 0);
    let mut pages = 1;
    while op(EVTCHNOP_EXPAND_ARRAY, &mut fifo::words()) == 0 {
        pages += 1;
    }
    report.equal("pages", pages, EVTCHN_FIFO_NR_CHANNELS / 1024);
}

/// Reset closes all ports and goes back to 2-level; FIFO can be had again.
fn back(report: &mut Report) {
    let mut reset = EvtchnReset { dom: DOMID_SELF };
    report.equal("reset", op(EVTCHNOP_RESET, &mut reset), 0);
    let port = ipi();
    report.equal("reset-ports", port, 1);
    event::take_pending(|_| ());
    let mut found = 0;
    report.equal("send-2-level", send(port), 0);
    event::take_pending(|pending| found = pending);
    report.equal("found-2-level", found, port);
    let again = Fifo::start().map(|mut fifo| {
        send(port);
        fifo.take()
    });
    report.check("again", again == Ok(Some((port, true))), format!("{again:?}"));
}
