//! A vCPU in SCHEDOP_poll, and those who end that.

#[path = "../../src/domain/poll.rs"]
mod protocol;

use loom::thread;
use protocol::{Poll, Pollers};
use std::sync::Arc;

use crate::check;
use crate::domain::vcpu::NEVER;
use crate::domain::wakeup::{Hold, Request, Wakeup};
use crate::mm::guest::GuestFrame;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use crate::sync::spin_loop;
use crate::types::Port;

/// A vCPU that runs, and its domain.
struct Vcpu {
    wakeup: Wakeup,
    poll: Poll,
    deadline: AtomicU64,
    pollers: Pollers,
    /// Of the ports, masked as they are: a bit for each that is pending.
    pending: GuestFrame,
    /// How often it was queued, and how often a deadline was forgotten.
    queued: AtomicU32,
    forgotten: AtomicU32,
}

const FIRST: Port = Port(1);
const SECOND: Port = Port(2);

impl Vcpu {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            wakeup: Wakeup::new(Hold::empty()),
            poll: Poll::default(),
            deadline: AtomicU64::new(NEVER),
            pollers: Pollers::default(),
            pending: GuestFrame::new(),
            queued: AtomicU32::new(0),
            forgotten: AtomicU32::new(0),
        })
    }

    fn word(&self) -> &AtomicU32 {
        self.pending.u32_at(0)
    }

    /// The hypercall, with interrupts off. `port`: `None` for both.
    fn polls(&self, port: Option<Port>, deadline: u64) {
        self.deadline.store(deadline, SeqCst);
        self.poll.begin(&self.wakeup, &self.pollers, port);
        let wanted = port.map_or(1 << FIRST.0 | 1 << SECOND.0, |port| 1 << port.0);
        if self.word().load(SeqCst) & wanted != 0 || self.wakeup.requests().intersects(Request::TIMER) {
            self.end();
        }
    }

    fn end(&self) {
        let forgotten = || {
            self.forgotten.fetch_add(1, SeqCst);
        };
        if self
            .poll
            .end(&self.wakeup, Some(&self.pollers), &self.deadline, forgotten)
        {
            self.queued.fetch_add(1, SeqCst);
        }
    }

    /// An event, as it is delivered.
    fn send(&self, port: Port) {
        let bit = 1 << port.0;
        let news = self.word().fetch_or(bit, SeqCst) & bit == 0;
        if news && self.pollers.any() && self.poll.waits_for(port) {
            self.end();
        }
    }

    /// Its deadline passes.
    fn time_is_up(&self) {
        if self
            .wakeup
            .request(Request::TIMER)
            .is_some_and(|effects| effects.end_poll)
        {
            self.end();
        }
    }

    /// It is not left asleep; whoever found it asleep (`slept`) has queued it, and nothing is left of the poll.
    fn assert_over(&self, slept: bool) {
        assert!(self.wakeup.runnable(), "left asleep");
        assert!(!self.pollers.any() && self.deadline.load(SeqCst) == NEVER);
        let queued = self.queued.load(SeqCst);
        assert!(if slept { queued == 1 } else { queued <= 1 });
    }
}

/// A vCPU polls while `others` are at work.
fn beside<const N: usize>(
    preemptions: Option<usize>,
    port: Option<Port>,
    deadline: u64,
    others: [fn(&Vcpu); N],
) {
    check(preemptions, move || {
        let vcpu = Vcpu::new();
        let others = others.map(|work| {
            let vcpu = vcpu.clone();
            thread::spawn(move || work(&vcpu))
        });
        vcpu.polls(port, deadline);
        let slept = !vcpu.wakeup.runnable();
        for other in others {
            other.join().expect("no panic");
        }
        vcpu.assert_over(slept);
        assert_eq!(vcpu.forgotten.load(SeqCst), u32::from(deadline != NEVER));
    });
}

#[test]
fn an_event_is_not_lost_to_who_begins_to_poll() {
    beside(None, Some(FIRST), NEVER, [|vcpu| vcpu.send(FIRST)]);
}

#[test]
fn of_several_ports_each_ends_a_poll() {
    beside(
        Some(4),
        None,
        NEVER,
        [|vcpu| vcpu.send(FIRST), |vcpu| vcpu.send(SECOND)],
    );
}

#[test]
fn a_poll_ends_with_its_time() {
    beside(None, Some(FIRST), 5, [Vcpu::time_is_up]);
}

#[test]
fn time_and_an_event_end_a_poll_once() {
    beside(
        Some(4),
        Some(FIRST),
        5,
        [Vcpu::time_is_up, |vcpu| vcpu.send(FIRST)],
    );
}

/// Those that ended the first poll may end the next one, too, but nobody keeps it from its own event.
#[test]
fn the_next_poll_is_ended_by_its_own_event() {
    check(Some(4), || {
        let vcpu = Vcpu::new();
        let senders = [FIRST, SECOND].map(|port| {
            let vcpu = vcpu.clone();
            thread::spawn(move || vcpu.send(port))
        });
        vcpu.polls(Some(FIRST), NEVER);
        while !vcpu.wakeup.runnable() {
            spin_loop();
        }
        vcpu.queued.store(0, SeqCst);
        vcpu.polls(Some(SECOND), NEVER);
        let slept = !vcpu.wakeup.runnable();
        for sender in senders {
            sender.join().expect("no panic");
        }
        assert!(vcpu.wakeup.runnable() && !vcpu.pollers.any());
        assert!(!slept || vcpu.queued.load(SeqCst) > 0, "asleep and in no queue");
    });
}
