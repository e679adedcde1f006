//! Event channels: one bit of news from a domain, a vCPU or the hypervisor to a vCPU.
//!
//! A port's state is one atomic word ([`channel`]). An event is delivered by the 2-level ABI ([`two_level`]), where who sends reads the
//! word and sets bits, without a lock, or by the FIFO ABI ([`fifo`]), if the guest has turned that on. Who changes a binding holds the event locks of the domains concerned, in the order of
//! their numbers. A send that races with a close may reach a port that has just been given a new purpose: guests
//! must expect such an event, as they must expect one from every bind.
//!
//! Called by the hypercalls, by timers and devices ([`raise_virq`], [`raise_global_virq`]) and by the life cycle ([`close_some`]).
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic
    )
)]

pub mod channel;
mod delivery;
pub mod fifo;
mod switch;
pub mod two_level;

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use abi::Errno;
use abi::event_channel::{EVTCHN_FIFO_NR_CHANNELS, EVTCHN_FIFO_PRIORITY_MIN, NR_VIRQS};
use abi::event_channel::{VIRQ_DEBUG, VIRQ_TIMER, VIRQ_XENOPROF, VIRQ_XENPMU};

pub use channel::{Binding, Channel};
pub use delivery::{any_pending, unmask};
pub use two_level::{VCPU_INFO_SIZE, VcpuEvents};

use crate::domain::vcpu::Vcpu;
use crate::domain::{Domain, table};
use crate::mm::guest::{Access, GuestFrame};
use crate::sync::{Mutex, MutexGuard, Rank};
use crate::types::{DomId, Gfn, Port, VcpuId};
use channel::Ports;
use delivery::{Abi, deliver};
use fifo::{Fifo, PortState, Refused};
use switch::Switch;

/// How many closed ports may be in the guest's queues still, before no other is looked for.
const MAX_BUSY: u32 = 1024;

/// A domain's event channels.
pub struct EventChannels {
    ports: Ports,
    /// Held by whoever changes a binding.
    lock: Mutex<Hint>,
    /// Are events delivered by the FIFO ABI? Changes with the lock held.
    switch: Switch,
    /// Is the domain's layout that of i386 guests? Likewise.
    compat: AtomicBool,
    fifo: Fifo,
    /// Port of each virtual interrupt, by vCPU; 0: not bound. Global ones count as vCPU 0's.
    virqs: Box<[[AtomicU32; NR_VIRQS]]>,
}

/// What the lock protects, beside the bindings.
struct Hint {
    /// No port below this one is free.
    lowest_free: Port,
    /// How many ports are bound.
    bound: u32,
}

impl EventChannels {
    /// No port bound; ports up to `max_port` may be (and of these, as many as the ABI in use has).
    pub fn new(max_port: u32, max_vcpus: u32) -> Self {
        Self {
            ports: Ports::new(max_port.saturating_add(1).min(EVTCHN_FIFO_NR_CHANNELS)),
            lock: Mutex::new(
                Rank::Events,
                Hint {
                    lowest_free: Port(1),
                    bound: 0,
                },
            ),
            switch: Switch::default(),
            compat: AtomicBool::new(false),
            fifo: Fifo::new(),
            virqs: (0..max_vcpus)
                .map(|_| [const { AtomicU32::new(0) }; NR_VIRQS])
                .collect(),
        }
    }

    /// One more than the largest port that can be.
    pub fn limit(&self) -> u32 {
        self.ports.limit()
    }

    /// How many ports are bound.
    pub fn bound(&self) -> u32 {
        self.lock.lock().bound
    }

    /// State of `port`.
    ///
    /// # Errors
    /// `EINVAL`: no such port.
    pub fn get(&self, port: Port) -> Result<Channel, Errno> {
        self.ports.get(port).ok_or(Errno::EINVAL)
    }

    fn virq(&self, vcpu: VcpuId, virq: u32) -> Option<&AtomicU32> {
        let vcpu = if is_global(virq) { VcpuId(0) } else { vcpu };
        self.virqs.get(vcpu.0 as usize)?.get(virq as usize)
    }

    /// Bind the lowest free port that no queue of the guest's holds.
    fn bind(&self, hint: &mut Hint, channel: Channel) -> Result<Port, Errno> {
        let find = |from| {
            let found = self.ports.find_free(from, self.abi().ports());
            found.map_err(|_| Errno::ENOMEM)?.ok_or(Errno::ENOSPC)
        };
        let lowest = find(hint.lowest_free)?;
        let mut port = lowest;
        if self.abi() == Abi::Fifo {
            // The guest says which they are: one that lies is not searched for long, under the locks of others.
            let mut busy = 0;
            while self.fifo.is_busy(port) {
                busy += 1;
                if busy > MAX_BUSY {
                    return Err(Errno::ENOSPC);
                }
                port = find(Port(port.0 + 1))?;
            }
        }
        if let Some(state) = self.ports.fifo(port) {
            state.bound();
        }
        self.ports.set(port, channel);
        hint.lowest_free = if port == lowest { Port(port.0 + 1) } else { lowest };
        hint.bound += 1;
        Ok(port)
    }
}

/// May this one be bound only once in a domain, and then moved between vCPUs?
fn is_global(virq: u32) -> bool {
    !matches!(virq, VIRQ_TIMER | VIRQ_DEBUG | VIRQ_XENOPROF | VIRQ_XENPMU)
}

/// Lock a domain that is not being destroyed.
fn lock(domain: &Domain) -> Result<MutexGuard<'_, Hint>, Errno> {
    let guard = domain.events.lock.lock();
    if domain.is_dying() {
        Err(Errno::EINVAL)
    } else {
        Ok(guard)
    }
}

/// The locks of two domains, or the one lock of one.
enum Both<'a> {
    Same(MutexGuard<'a, Hint>),
    Two {
        first: MutexGuard<'a, Hint>,
        _second: MutexGuard<'a, Hint>,
    },
}

impl<'a> Both<'a> {
    fn lock(first: &'a Domain, second: &'a Domain) -> Both<'a> {
        if first.id == second.id {
            return Both::Same(first.events.lock.lock());
        }
        if first.id < second.id {
            let first = first.events.lock.lock();
            Both::Two {
                first,
                _second: second.events.lock.lock(),
            }
        } else {
            let second = second.events.lock.lock();
            Both::Two {
                first: first.events.lock.lock(),
                _second: second,
            }
        }
    }

    /// What the lock of the domain that was named first protects.
    fn first(&mut self) -> &mut Hint {
        match self {
            Both::Same(guard) | Both::Two { first: guard, .. } => guard,
        }
    }
}

// ---- bindings ----

/// Make a port of `domain` that `remote` may connect to.
///
/// # Errors
/// `ENOSPC`: no port is free. `EINVAL`: the domain is dying.
pub fn alloc_unbound(domain: &Domain, remote: DomId) -> Result<Port, Errno> {
    let mut hint = lock(domain)?;
    domain.events.bind(
        &mut hint,
        Channel {
            binding: Binding::Unbound { remote },
            vcpu: VcpuId(0),
        },
    )
}

/// Connect a new port of `local` to `port` of `remote`, which waits for it. The new port is pending at once, as events may have been lost.
///
/// # Errors
/// `EINVAL`: the remote port does not wait for `local`, or a domain is dying. `ENOSPC`: no port is free.
pub fn bind_interdomain(local: &Domain, remote: &Domain, port: Port) -> Result<Port, Errno> {
    let mut both = Both::lock(local, remote);
    if local.is_dying() || remote.is_dying() {
        return Err(Errno::EINVAL);
    }
    let there = remote.events.get(port)?;
    if there.binding != (Binding::Unbound { remote: local.id }) {
        return Err(Errno::EINVAL);
    }
    let binding = Binding::Interdomain {
        remote: remote.id,
        port,
    };
    let here = local.events.bind(
        both.first(),
        Channel {
            binding,
            vcpu: VcpuId(0),
        },
    )?;
    let binding = Binding::Interdomain {
        remote: local.id,
        port: here,
    };
    remote.events.ports.set(port, Channel { binding, ..there });
    drop(both);
    deliver(local, here, VcpuId(0));
    Ok(here)
}

/// Make a port for a virtual interrupt.
///
/// # Errors
/// `EINVAL`: there is no such interrupt, or it is global and `vcpu` is not 0. `ENOENT`: no such vCPU. `EEXIST`: bound already.
/// `ENOSPC`: no port is free.
pub fn bind_virq(domain: &Domain, virq: u32, vcpu: VcpuId) -> Result<Port, Errno> {
    if virq as usize >= NR_VIRQS || (is_global(virq) && vcpu.0 != 0) {
        return Err(Errno::EINVAL);
    }
    domain.vcpu(vcpu).ok_or(Errno::ENOENT)?;
    let slot = domain.events.virq(vcpu, virq).ok_or(Errno::ENOENT)?;
    let mut hint = lock(domain)?;
    if slot.load(Ordering::Acquire) != 0 {
        return Err(Errno::EEXIST);
    }
    let port = domain.events.bind(
        &mut hint,
        Channel {
            binding: Binding::Virq(virq),
            vcpu,
        },
    )?;
    slot.store(port.0, Ordering::Release);
    Ok(port)
}

/// Make a port on which the domain's vCPUs tell `vcpu` something.
///
/// # Errors
/// `ENOENT`: no such vCPU. `ENOSPC`: no port is free.
pub fn bind_ipi(domain: &Domain, vcpu: VcpuId) -> Result<Port, Errno> {
    domain.vcpu(vcpu).ok_or(Errno::ENOENT)?;
    let mut hint = lock(domain)?;
    domain.events.bind(
        &mut hint,
        Channel {
            binding: Binding::Ipi,
            vcpu,
        },
    )
}

/// Choose the vCPU that `port` notifies.
///
/// # Errors
/// `ENOENT`: no such vCPU. `EINVAL`: no such port, or one whose vCPU cannot change.
pub fn bind_vcpu(domain: &Domain, port: Port, vcpu: VcpuId) -> Result<(), Errno> {
    domain.vcpu(vcpu).ok_or(Errno::ENOENT)?;
    let _hint = domain.events.lock.lock();
    let channel = domain.events.get(port)?;
    match channel.binding {
        Binding::Virq(virq) if !is_global(virq) => return Err(Errno::EINVAL),
        Binding::Virq(_) | Binding::Unbound { .. } | Binding::Interdomain { .. } => {}
        Binding::Free | Binding::Ipi => return Err(Errno::EINVAL),
    }
    domain.events.ports.set(port, Channel { vcpu, ..channel });
    Ok(())
}

/// Close `port`; if it is connected, the other end waits for this domain again.
///
/// # Errors
/// `EINVAL`: it is not open.
pub fn close(domain: &Domain, port: Port) -> Result<(), Errno> {
    loop {
        let channel = domain.events.get(port)?;
        let Binding::Interdomain { remote, port: there } = channel.binding else {
            let mut hint = domain.events.lock.lock();
            if domain.events.get(port)? != channel {
                continue;
            }
            return free(domain, &mut hint, port, channel);
        };
        let peer = if remote == domain.id {
            None
        } else if let Some(peer) = table::get(remote) {
            Some(peer)
        } else {
            // A domain closes its ports before it leaves the table: ours is unbound by now.
            continue;
        };
        let peer = peer.as_deref().unwrap_or(domain);
        let mut both = Both::lock(domain, peer);
        if domain.events.get(port)? != channel {
            continue;
        }
        if let Ok(other) = peer.events.get(there) {
            peer.events.ports.set(
                there,
                Channel {
                    binding: Binding::Unbound { remote: domain.id },
                    ..other
                },
            );
        }
        return free(domain, both.first(), port, channel);
    }
}

/// The rest of [`close`].
fn free(domain: &Domain, hint: &mut Hint, port: Port, channel: Channel) -> Result<(), Errno> {
    match channel.binding {
        Binding::Free => return Err(Errno::EINVAL),
        Binding::Virq(virq) => {
            if let Some(slot) = domain.events.virq(channel.vcpu, virq) {
                slot.store(0, Ordering::Release);
            }
        }
        Binding::Unbound { .. } | Binding::Interdomain { .. } | Binding::Ipi => {}
    }
    domain.events.ports.set(port, Channel::FREE);
    domain.events.clear_pending(&domain.shared_info, port);
    hint.lowest_free = hint.lowest_free.min(port);
    hint.bound = hint.bound.saturating_sub(1);
    Ok(())
}

/// How many ports one call of [`close_some`] looks at.
const CLOSE_SLICE: u32 = 64;

/// Close the ports from `from` on, a bounded number of them. Returns where to go on; `None`: all are closed.
pub fn close_some(domain: &Domain, from: Port) -> Option<Port> {
    let end = from.0.saturating_add(CLOSE_SLICE).min(domain.events.limit());
    for port in from.0..end {
        // Ports that are not open are what this is to end with.
        let _ = close(domain, Port(port));
    }
    (end < domain.events.limit()).then_some(Port(end))
}

// ---- the FIFO ABI ----

/// Give `vcpu` its FIFO control block, at `offset` of `gfn`. The first one switches the domain from 2-level to FIFO delivery.
///
/// # Errors
/// `ENOENT`: no such vCPU. `EINVAL`: the block does not fit there, is not in the domain's own RAM, or the vCPU has one.
/// `ENOMEM`: no memory for the queues.
pub fn init_control(domain: &Domain, vcpu: VcpuId, gfn: Gfn, offset: u32) -> Result<(), Errno> {
    domain.vcpu(vcpu).ok_or(Errno::ENOENT)?;
    if !fifo::control_fits(offset) {
        return Err(Errno::EINVAL);
    }
    let _hint = lock(domain)?;
    let events = &domain.events;
    let frame = domain.pin_own(gfn, Access::Write).map_err(|_| Errno::EINVAL)?;
    let first = events
        .fifo
        .set_control(vcpu, domain.vcpus().len(), frame, offset.into())
        .map_err(|refused| match refused {
            Refused::OutOfMemory => Errno::ENOMEM,
            _ => Errno::EINVAL,
        })?;
    if first {
        let ports = (1..events.words().ports().min(events.limit())).map(Port);
        let states = ports.filter_map(|port| Some((port, events.ports.fifo(port)?)));
        events.switch.make(&domain.shared_info, states);
    }
    Ok(())
}

/// `gfn` holds the event words of the next 1024 ports.
///
/// # Errors
/// `EOPNOTSUPP`: delivery is not by FIFO. `ENOSPC`: all ports have words. `EINVAL`: it is not the domain's own RAM, or
/// the domain is dying.
pub fn expand_array(domain: &Domain, gfn: Gfn) -> Result<(), Errno> {
    let _hint = lock(domain)?;
    let events = &domain.events;
    if events.abi() != Abi::Fifo {
        return Err(Errno::EOPNOTSUPP);
    }
    let frame = domain.pin_own(gfn, Access::Write).map_err(|_| Errno::EINVAL)?;
    let first = events.fifo.add_page(frame).map_err(|refused| match refused {
        Refused::Off => Errno::EOPNOTSUPP,
        Refused::Full => Errno::ENOSPC,
        Refused::Taken => Errno::EINVAL,
        Refused::OutOfMemory => Errno::ENOMEM,
    })?;
    for port in (first.0..first.0 + fifo::WORDS).map(Port) {
        if events.ports.fifo(port).is_some_and(PortState::take_held_back) {
            notify(domain, port);
        }
    }
    Ok(())
}

/// Events on `port` go to the queue of `priority` from now on.
///
/// # Errors
/// `EINVAL`: no such port or priority. `ENOSYS`: delivery is not by FIFO. `EACCES`: the port is not open.
pub fn set_priority(domain: &Domain, port: Port, priority: u32) -> Result<(), Errno> {
    let _hint = domain.events.lock.lock();
    let channel = domain.events.get(port)?;
    if domain.events.abi() != Abi::Fifo {
        return Err(Errno::ENOSYS);
    }
    if channel.binding == Binding::Free {
        return Err(Errno::EACCES);
    }
    if priority > EVTCHN_FIFO_PRIORITY_MIN {
        return Err(Errno::EINVAL);
    }
    if let Some(state) = domain.events.ports.fifo(port) {
        state.set_priority(priority as u8);
    }
    Ok(())
}

/// After [`close_some`] has closed all ports: delivery is 2-level again.
///
/// # Errors
/// `EAGAIN`: a port was bound meanwhile.
pub fn reset_delivery(domain: &Domain) -> Result<(), Errno> {
    let hint = domain.events.lock.lock();
    if hint.bound != 0 {
        return Err(Errno::EAGAIN);
    }
    domain.events.switch.undo();
    domain.events.fifo.turn_off();
    Ok(())
}

// ---- sending ----

/// Send on `port`: to the other end, or to the domain's own vCPU.
///
/// # Errors
/// `EINVAL`: not a port to send on. (Events for an end that nobody has connected to are dropped.)
#[inline]
pub fn send(domain: &Domain, port: Port) -> Result<(), Errno> {
    let channel = domain.events.get(port)?;
    match channel.binding {
        Binding::Interdomain { remote, port } if remote == domain.id => notify(domain, port),
        Binding::Interdomain { remote, port } => {
            if let Some(remote) = table::get(remote) {
                notify(&remote, port);
            }
        }
        Binding::Ipi => deliver(domain, port, channel.vcpu),
        Binding::Unbound { .. } => {}
        Binding::Free | Binding::Virq(_) => return Err(Errno::EINVAL),
    }
    Ok(())
}

/// An event on `port` of `domain`, for whichever vCPU it notifies.
#[inline]
pub fn notify(domain: &Domain, port: Port) {
    if let Ok(channel) = domain.events.get(port)
        && channel.binding != Binding::Free
    {
        deliver(domain, port, channel.vcpu);
    }
}

/// Raise a virtual interrupt that each vCPU has for itself, if it is bound.
pub fn raise_virq(domain: &Domain, vcpu: VcpuId, virq: u32) {
    if let Some(slot) = domain.events.virq(vcpu, virq) {
        match slot.load(Ordering::Acquire) {
            0 => {}
            port => notify(domain, Port(port)),
        }
    }
}

/// Raise a virtual interrupt of the whole machine: dom0 gets it, if it has bound it.
pub fn raise_global_virq(virq: u32) {
    if let Some(dom0) = table::get(DomId::DOM0) {
        raise_virq(&dom0, VcpuId(0), virq);
    }
}

/// Move the `vcpu_info` of `vcpu` to `offset` in `frame`, and mark all events of the vCPU as pending, so that none is lost.
///
/// # Errors
/// `EINVAL`: there is no room for it at `offset`, the offset is not a multiple of 8, or it was moved before. `ENOENT`: no such vCPU.
pub fn register_vcpu_info(
    domain: &Domain,
    vcpu: VcpuId,
    frame: GuestFrame,
    offset: u64,
) -> Result<(), Errno> {
    let vcpu: &Arc<Vcpu> = domain.vcpu(vcpu).ok_or(Errno::ENOENT)?;
    if offset > crate::types::PAGE_SIZE - VCPU_INFO_SIZE || !offset.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    vcpu.events.register(frame, offset).map_err(|_| Errno::EINVAL)?;
    vcpu.events.set_all_pending(domain.events.words());
    vcpu.raise_upcall();
    Ok(())
}

#[cfg(test)]
mod fifo_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod two_level_tests;
