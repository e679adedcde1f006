//! How a vCPU is told of news, wherever it is: in the guest, on its way there, about to wait, or waiting.
//!
//! A wake-up cannot be lost: who has news for a vCPU first sets the [`Request`] and then looks at the [`Hold`]; a vCPU that blocks first sets the
//! [`Hold`] and then looks at its requests. One of the two sees the other (all of these are sequentially consistent).
//!
//! Whether it is in the guest is a bit beside the requests: a vCPU that enters takes the bit away and then looks at the requests, so who makes one either
//! is seen, or sees that the guest has to be left.
//!
//! `tests/models` runs this under every interleaving that the memory model allows.

use bitflags::bitflags;

use crate::sync::atomic::{AtomicU32, Ordering::Release, Ordering::SeqCst};
use crate::sync::spin_loop;

bitflags! {
    /// What a vCPU must look at before it enters the guest again.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Request: u32 {
        /// The local APIC may have an interrupt to deliver, or its priorities changed.
        const INTERRUPT = 1 << 0;
        /// Event channels want the domain-wide callback vector (HVM_PARAM_CALLBACK_IRQ of type vector).
        const CALLBACK = 1 << 1;
        /// A non-maskable interrupt.
        const NMI = 1 << 2;
        /// INIT or start-up IPI.
        const STARTUP = 1 << 3;
        /// Stop running: a [`Hold`] was set, or the scheduler has a better use for the CPU.
        const LEAVE = 1 << 4;
        /// A timer of this vCPU has expired.
        const TIMER = 1 << 5;
        /// A nested translation was removed: flush before the next entry.
        const FLUSH = 1 << 6;
    }
}

impl Request {
    /// Requests that end `SCHEDOP_block`, `SCHEDOP_poll` and HLT. (A timer's expiry becomes one of these, if the guest is to see it.)
    const WAKES: Request = Request::INTERRUPT
        .union(Request::CALLBACK)
        .union(Request::NMI)
        .union(Request::STARTUP)
        .union(Request::TIMER);
}

bitflags! {
    /// Why a vCPU may not run; it may when there is none. The bits above [`Hold::COUNT_SHIFT`] count pauses.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Hold: u32 {
        /// Waits for an event (HLT, SCHEDOP_block).
        const BLOCKED = 1 << 0;
        /// Not started yet, or stopped by VCPUOP_down or HLT with interrupts off.
        const DOWN = 1 << 1;
        /// In SCHEDOP_poll.
        const POLLING = 1 << 2;
        /// The domain has used up what its cap allows.
        const CAPPED = 1 << 3;
    }
}

impl Hold {
    const COUNT_SHIFT: u32 = 8;
    const ONE_PAUSE: u32 = 1 << Self::COUNT_SHIFT;
}

/// Requests to a vCPU, reasons why it may not run, and whether it is in the guest.
pub struct Wakeup {
    /// Its requests, and [`OUTSIDE`].
    requests: AtomicU32,
    holds: AtomicU32,
}

/// Beside the requests: the vCPU is not in the guest, nor on its way there; see [`Wakeup::enter`].
pub const OUTSIDE: u32 = 1 << 31;

/// What is left to do for who made a request.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Effects {
    /// Queue the vCPU: it may run again.
    pub wake: bool,
    /// End its poll, if it is in one.
    pub end_poll: bool,
    /// Make it exit.
    pub interrupt: bool,
}

impl Wakeup {
    /// A vCPU without requests that may not run for the reason of `hold`.
    pub fn new(hold: Hold) -> Self {
        Self {
            requests: AtomicU32::new(OUTSIDE),
            holds: AtomicU32::new(hold.bits()),
        }
    }

    /// Is there a request that ends waiting?
    pub fn was_woken(&self) -> bool {
        self.requests().intersects(Request::WAKES)
    }

    /// The requests that wait.
    pub fn requests(&self) -> Request {
        Request::from_bits_truncate(self.requests.load(SeqCst))
    }

    /// Take all requests, on the way to the guest.
    pub fn take_requests(&self) -> Request {
        Request::from_bits_truncate(self.requests.swap(0, SeqCst))
    }

    /// Take the requests that are in `which`; others stay.
    pub fn take(&self, which: Request) -> Request {
        Request::from_bits_truncate(self.requests.fetch_and(!which.bits(), SeqCst)) & which
    }

    /// Keep `what` for the next time that the vCPU looks at its requests; no reason to look now.
    pub fn defer(&self, what: Request) {
        self.requests.fetch_or(what.bits(), SeqCst);
    }

    /// Ask the vCPU to look at `what`. `None`: nothing is left to do.
    #[inline]
    pub fn request(&self, what: Request) -> Option<Effects> {
        self.requests.fetch_or(what.bits(), SeqCst);
        let holds = match what.intersects(Request::WAKES) {
            true => Hold::from_bits_retain(self.holds.load(SeqCst)) & (Hold::BLOCKED | Hold::POLLING),
            false => Hold::empty(),
        };
        // Whoever is not in the guest looks before it enters.
        let interrupt = self.requests.load(SeqCst) & OUTSIDE == 0;
        if holds.is_empty() && !interrupt {
            return None;
        }
        Some(Effects {
            wake: holds.contains(Hold::BLOCKED) && self.release(Hold::BLOCKED),
            end_poll: holds.contains(Hold::POLLING),
            interrupt,
        })
    }

    /// The CPU that runs it is about to enter the guest, but not before it has looked at the requests that this returns. From here on whoever makes
    /// another sees to an exit.
    #[inline]
    #[must_use]
    pub fn enter(&self) -> Request {
        // Two instructions, as on the short way of hypercalls; to take the bit away and know the others at once would be a loop.
        self.requests.fetch_and(!OUTSIDE, SeqCst);
        self.requests()
    }

    /// The word of the requests and [`OUTSIDE`], for world switches that do themselves what [`Wakeup::exited`] and [`Wakeup::enter`] do.
    pub fn requests_word(&self) -> *const core::sync::atomic::AtomicU32 {
        (&raw const self.requests).cast()
    }

    /// The guest has exited, or is not entered after all.
    #[inline]
    pub fn exited(&self) {
        self.requests.fetch_or(OUTSIDE, Release);
    }

    /// Wait until the vCPU uses no nested translation that was removed before [`Request::FLUSH`] was made: it has left the guest, or has taken the
    /// request. Never waits for a CPU that waits for us, as that is not in a guest.
    pub fn wait_for_flush(&self) {
        let flush = Request::FLUSH.bits();
        while self.requests.load(SeqCst) & (OUTSIDE | flush) == flush {
            spin_loop();
        }
    }

    /// May it run?
    #[inline]
    pub fn runnable(&self) -> bool {
        self.holds.load(SeqCst) == 0
    }

    /// Is any of `hold` set?
    #[inline]
    pub fn held_by(&self, hold: Hold) -> bool {
        self.holds.load(SeqCst) & hold.bits() != 0
    }

    /// Is it paused?
    pub fn paused(&self) -> bool {
        self.holds.load(SeqCst) >= Hold::ONE_PAUSE
    }

    /// Set a reason not to run. Who is not the vCPU itself then makes a request to leave.
    pub fn hold(&self, why: Hold) {
        self.holds.fetch_or(why.bits(), SeqCst);
    }

    /// Take back a reason not to run. `true`: it was the last, and the vCPU is to be queued.
    #[inline]
    #[must_use]
    pub fn release(&self, why: Hold) -> bool {
        let before = self.holds.fetch_and(!why.bits(), SeqCst);
        before & why.bits() != 0 && before & !why.bits() == 0
    }

    /// One pause more.
    pub fn pause(&self) {
        self.holds.fetch_add(Hold::ONE_PAUSE, SeqCst);
    }

    /// One pause less. `true`: it was the last reason not to run, and the vCPU is to be queued.
    #[must_use]
    pub fn unpause(&self) -> bool {
        let before = self.holds.fetch_sub(Hold::ONE_PAUSE, SeqCst);
        debug_assert!(before >= Hold::ONE_PAUSE, "unpaused more often than paused");
        before == Hold::ONE_PAUSE
    }

    /// The guest has nothing to do until an event (HLT, SCHEDOP_block). Called by the vCPU itself; it stays runnable if something came first.
    pub fn block(&self) {
        self.hold(Hold::BLOCKED);
        if self.was_woken() {
            self.holds.fetch_and(!Hold::BLOCKED.bits(), SeqCst);
        } else {
            self.defer(Request::LEAVE);
        }
    }
}
