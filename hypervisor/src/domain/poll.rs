//! `SCHEDOP_poll`: a vCPU that waits for ports to become pending, and those who see to that.
//!
//! A wake-up cannot be lost: who polls first says so to the domain and beside its [`Hold`], and then looks at its ports and requests; who makes a port
//! pending, or a request, does that first and then looks for who polls. One of the two sees the other (all of these are sequentially consistent). Several
//! may find that the poll is over; one of them ends it.
//!
//! `tests/models` runs this under every interleaving that the memory model allows.

use crate::domain::vcpu::NEVER;
use crate::domain::wakeup::{Hold, Request, Wakeup};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use crate::types::Port;

/// How many vCPUs of a domain poll: it is of all events that nobody polls for.
#[derive(Default, Debug)]
pub struct Pollers(AtomicU32);

impl Pollers {
    /// Is there any?
    #[inline]
    pub fn any(&self) -> bool {
        self.0.load(SeqCst) != 0
    }
}

/// What a vCPU polls for.
#[derive(Debug)]
pub struct Poll {
    /// The [`Port`]; [`NOTHING`], [`SEVERAL`].
    port: AtomicU32,
}

/// It does not poll. Nothing that a guest can name: port 0, which never becomes pending, is polled for like others.
const NOTHING: u32 = u32::MAX;
/// Any of several ports.
const SEVERAL: u32 = u32::MAX - 1;

impl Default for Poll {
    fn default() -> Self {
        Self {
            port: AtomicU32::new(NOTHING),
        }
    }
}

impl Poll {
    /// The vCPU of `wakeup`, one of the domain's that has `pollers`, begins to wait for `port`, or for any of several (`None`). It has set its deadline, and
    /// then looks whether there is something to end the poll already.
    pub fn begin(&self, wakeup: &Wakeup, pollers: &Pollers, port: Option<Port>) {
        pollers.0.fetch_add(1, SeqCst);
        // The hold first: whoever finds the port takes it back.
        wakeup.hold(Hold::POLLING);
        wakeup.defer(Request::LEAVE);
        // A swap, as by those who end a poll: models know an order of these. (It is what a store of this kind is to the CPU.)
        self.port.swap(port.map_or(SEVERAL, |port| port.0), SeqCst);
    }

    /// Does it wait for `port`, which has become pending?
    #[inline]
    pub fn waits_for(&self, port: Port) -> bool {
        let polled = self.port.load(SeqCst);
        polled == port.0 || polled == SEVERAL
    }

    /// Stop waiting, if it does: forget the `deadline`, and if there was one, see to that by `forgotten`. `true`: the vCPU is to be queued. `pollers` are there as
    /// long as the domain is.
    #[must_use]
    pub fn end(
        &self,
        wakeup: &Wakeup,
        pollers: Option<&Pollers>,
        deadline: &AtomicU64,
        forgotten: impl FnOnce(),
    ) -> bool {
        if self.port.swap(NOTHING, SeqCst) == NOTHING {
            return false;
        }
        if let Some(pollers) = pollers {
            pollers.0.fetch_sub(1, SeqCst);
        }
        // Else the next poll, which may have no end, would end then.
        if deadline.swap(NEVER, SeqCst) != NEVER {
            forgotten();
        }
        // Last: from here on it may begin another.
        wakeup.release(Hold::POLLING)
    }
}
