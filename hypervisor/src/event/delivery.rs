//! How an event comes to a domain: by which of the ABIs, in whose layout, and whom it wakes.
#![forbid(unsafe_code)]

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use abi::event_channel::EVTCHN_FIFO_NR_CHANNELS;
use abi::{Errno, Layout};

use super::two_level::{self, Delivery, Words};
use super::{Binding, EventChannels};
use crate::domain::Domain;
use crate::domain::vcpu::Vcpu;
use crate::mm::guest::GuestFrame;
use crate::types::{Port, VcpuId};

/// How events are delivered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Abi {
    /// 2-level, to a 64-bit guest.
    Long,
    /// 2-level, to a 32-bit guest.
    Compat,
    Fifo,
}

impl Abi {
    /// One more than the largest port that it can deliver to.
    pub(super) fn ports(self) -> u32 {
        match self {
            Abi::Long => Words::LONG.ports(),
            Abi::Compat => Words::COMPAT.ports(),
            Abi::Fifo => EVTCHN_FIFO_NR_CHANNELS,
        }
    }
}

impl EventChannels {
    #[inline]
    pub(super) fn abi(&self) -> Abi {
        if self.switch.is_made() {
            Abi::Fifo
        } else if self.compat.load(Ordering::SeqCst) {
            Abi::Compat
        } else {
            Abi::Long
        }
    }

    /// The words that 2-level delivery, and a `vcpu_info`, have in the domain's layout.
    pub(super) fn words(&self) -> Words {
        match self.layout() {
            Layout::X86_64 => Words::LONG,
            Layout::I386 => Words::COMPAT,
        }
    }

    /// The layout of what the domain shares with the hypervisor.
    pub fn layout(&self) -> Layout {
        if self.compat.load(Ordering::SeqCst) {
            Layout::I386
        } else {
            Layout::X86_64
        }
    }

    /// Deliver in this layout from now on. Events that are pending by then are lost.
    pub fn set_layout(&self, layout: Layout) {
        let _hint = self.lock.lock();
        self.compat.store(layout == Layout::I386, Ordering::SeqCst);
    }

    /// The port is not pending any more, if it was.
    pub(super) fn clear_pending(&self, shared_info: &GuestFrame, port: Port) {
        if self.abi() != Abi::Fifo {
            return two_level::clear_pending(shared_info, port);
        }
        self.fifo.clear_pending(port);
        if let Some(state) = self.ports.fifo(port) {
            state.take_held_back();
        }
    }
}

/// An event on `port`, which notifies `vcpu`.
#[inline]
pub(super) fn deliver(domain: &Domain, port: Port, vcpu: VcpuId) {
    let Some(vcpu) = domain.vcpu(vcpu) else { return };
    match domain.events.abi() {
        Abi::Long => deliver_long(domain, port, vcpu),
        Abi::Compat => deliver_compat(domain, port, vcpu),
        Abi::Fifo => deliver_by_fifo(domain, port, vcpu),
    }
}

/// Apart, so that none of these pays for the registers of another.
#[inline(never)]
fn deliver_long(domain: &Domain, port: Port, vcpu: &Arc<Vcpu>) {
    let delivery = two_level::set_pending(&domain.shared_info, Words::LONG, &vcpu.events, port);
    announce(domain, port, vcpu, delivery);
    follow_switch(domain, port, vcpu);
}

/// A port from before the guest's layout changed may be out of reach.
#[inline(never)]
fn deliver_compat(domain: &Domain, port: Port, vcpu: &Arc<Vcpu>) {
    if port.0 < Words::COMPAT.ports() {
        let delivery = two_level::set_pending(&domain.shared_info, Words::COMPAT, &vcpu.events, port);
        announce(domain, port, vcpu, delivery);
        follow_switch(domain, port, vcpu);
    }
}

/// Behind the bit: if the guest has switched to FIFO meanwhile, it looks at bits no more, and the switch may have looked too early. An event
/// that both see comes twice.
#[inline(always)]
fn follow_switch(domain: &Domain, port: Port, vcpu: &Arc<Vcpu>) {
    if domain.events.switch.is_made() {
        deliver_by_fifo(domain, port, vcpu);
    }
}

#[inline(never)]
fn deliver_by_fifo(domain: &Domain, port: Port, vcpu: &Arc<Vcpu>) {
    if let Some(state) = domain.events.ports.fifo(port) {
        let delivery = domain.events.fifo.set_pending(port, state, vcpu.id, &vcpu.events);
        announce(domain, port, vcpu, delivery);
    }
}

/// Tell the vCPU, and those that poll.
#[inline(always)]
fn announce(domain: &Domain, port: Port, vcpu: &Arc<Vcpu>, delivery: Delivery) {
    if delivery.upcall {
        vcpu.raise_upcall();
    }
    if delivery.news && domain.has_pollers() {
        let vcpus = domain.vcpus().iter();
        vcpus.for_each(|vcpu| vcpu.wake_poller(domain, port));
    }
}

/// Clear the mask bit of `port`; deliver what was held back.
///
/// # Errors
/// `EINVAL`: no such port.
pub fn unmask(domain: &Domain, port: Port) -> Result<(), Errno> {
    let events = &domain.events;
    let channel = events.get(port)?;
    let Some(vcpu) = domain.vcpu(channel.vcpu) else {
        return Ok(());
    };
    let (shared, info) = (&domain.shared_info, &vcpu.events);
    let upcall = match (events.abi(), events.ports.fifo(port)) {
        (Abi::Long, _) => two_level::unmask(shared, Words::LONG, info, port),
        (Abi::Compat, _) if port.0 < Words::COMPAT.ports() => {
            two_level::unmask(shared, Words::COMPAT, info, port)
        }
        (Abi::Fifo, Some(state)) if channel.binding != Binding::Free => {
            events.fifo.unmask(port, state, vcpu.id, info)
        }
        _ => false,
    };
    if upcall {
        vcpu.raise_upcall();
    }
    Ok(())
}

/// Is any of `ports` pending?
pub fn any_pending(domain: &Domain, ports: &[Port]) -> bool {
    let events = &domain.events;
    ports.iter().any(|&port| {
        if events.abi() == Abi::Fifo {
            events.fifo.is_pending(port)
        } else {
            two_level::is_pending(&domain.shared_info, port)
        }
    })
}
