//! `event_channel_op`.

use abi::Errno;
use abi::domid::DOMID_SELF;
use abi::event_channel::{
    EVTCHNOP_ALLOC_UNBOUND, EVTCHNOP_BIND_INTERDOMAIN, EVTCHNOP_BIND_IPI, EVTCHNOP_BIND_PIRQ,
    EVTCHNOP_BIND_VCPU, EVTCHNOP_BIND_VIRQ, EVTCHNOP_CLOSE, EVTCHNOP_RESET, EVTCHNOP_SEND, EVTCHNOP_STATUS,
    EVTCHNOP_UNMASK, EVTCHNSTAT_CLOSED, EVTCHNSTAT_INTERDOMAIN, EVTCHNSTAT_IPI, EVTCHNSTAT_UNBOUND,
    EVTCHNSTAT_VIRQ, EvtchnAllocUnbound, EvtchnBindInterdomain, EvtchnBindIpi, EvtchnBindPirq,
    EvtchnBindVcpu, EvtchnBindVirq, EvtchnPortArg, EvtchnReset, EvtchnStatus,
};

use super::{Args, Caller, Outcome, Pause};
use crate::event::{self, Binding};
use crate::types::{DomId, Port, VcpuId};

/// The FIFO operations are not offered: guests fall back to the 2-level ABI.
pub(super) fn event_channel_op(caller: &mut Caller<'_>, args: &Args) -> Outcome {
    if args[0] as u32 == EVTCHNOP_SEND {
        let port = port(caller, args[1])?;
        event::send(caller.domain, port)?;
        return Ok(0);
    }
    less_frequent(caller, args)
}

#[inline(never)]
fn less_frequent(caller: &mut Caller<'_>, args: &Args) -> Outcome {
    let at = args[1];
    match args[0] as u32 {
        EVTCHNOP_UNMASK => event::unmask(caller.domain, port(caller, at)?)?,
        EVTCHNOP_CLOSE => event::close(caller.domain, port(caller, at)?)?,
        EVTCHNOP_ALLOC_UNBOUND => alloc_unbound(caller, at)?,
        EVTCHNOP_BIND_INTERDOMAIN => bind_interdomain(caller, at)?,
        EVTCHNOP_BIND_VIRQ => {
            let mut bind: EvtchnBindVirq = caller.read(at)?;
            bind.port = event::bind_virq(caller.domain, bind.virq, VcpuId(bind.vcpu))?.0;
            caller.write(at, &bind)?;
        }
        EVTCHNOP_BIND_IPI => {
            let mut bind: EvtchnBindIpi = caller.read(at)?;
            bind.port = event::bind_ipi(caller.domain, VcpuId(bind.vcpu))?.0;
            caller.write(at, &bind)?;
        }
        EVTCHNOP_BIND_PIRQ => {
            // A guest without physical interrupts has no number that could be bound.
            caller.read::<EvtchnBindPirq>(at)?;
            return Err(Errno::EINVAL.into());
        }
        EVTCHNOP_BIND_VCPU => {
            let bind: EvtchnBindVcpu = caller.read(at)?;
            event::bind_vcpu(caller.domain, Port(bind.port), VcpuId(bind.vcpu))?;
        }
        EVTCHNOP_STATUS => status(caller, at)?,
        EVTCHNOP_RESET => return reset(caller, args),
        _ => return Err(Errno::ENOSYS.into()),
    }
    Ok(0)
}

#[inline]
fn port(caller: &mut Caller<'_>, at: u64) -> Result<Port, Errno> {
    Ok(Port(caller.read::<EvtchnPortArg>(at)?.port))
}

fn alloc_unbound(caller: &mut Caller<'_>, at: u64) -> Result<(), Errno> {
    let mut alloc: EvtchnAllocUnbound = caller.read(at)?;
    let domain = caller.target(alloc.dom)?;
    let remote = if alloc.remote_dom == DOMID_SELF {
        caller.domain.id
    } else {
        DomId(alloc.remote_dom)
    };
    alloc.port = event::alloc_unbound(&domain, remote)?.0;
    caller.write(at, &alloc)
}

fn bind_interdomain(caller: &mut Caller<'_>, at: u64) -> Result<(), Errno> {
    let mut bind: EvtchnBindInterdomain = caller.read(at)?;
    let remote = caller.any_domain(bind.remote_dom)?;
    bind.local_port = event::bind_interdomain(caller.domain, &remote, Port(bind.remote_port))?.0;
    caller.write(at, &bind)
}

fn status(caller: &mut Caller<'_>, at: u64) -> Result<(), Errno> {
    let mut status: EvtchnStatus = caller.read(at)?;
    let domain = caller.any_domain(status.dom)?;
    let channel = domain.events.get(Port(status.port))?;
    caller.target(status.dom)?;
    (status.status, status.u) = match channel.binding {
        Binding::Free => (EVTCHNSTAT_CLOSED, status.u),
        Binding::Unbound { remote } => (EVTCHNSTAT_UNBOUND, EvtchnStatus::unbound(remote.0)),
        Binding::Interdomain { remote, port } => (
            EVTCHNSTAT_INTERDOMAIN,
            EvtchnStatus::interdomain(remote.0, port.0),
        ),
        Binding::Virq(virq) => (EVTCHNSTAT_VIRQ, EvtchnStatus::virq(virq)),
        Binding::Ipi => (EVTCHNSTAT_IPI, status.u),
    };
    status.vcpu = channel.vcpu.0;
    caller.write(at, &status)
}

/// Progress is kept above the operation's number, in bits that a first call has clear.
fn reset(caller: &mut Caller<'_>, args: &Args) -> Outcome {
    let reset: EvtchnReset = caller.read(args[1])?;
    let domain = caller.target(reset.dom)?;
    if domain.id != caller.domain.id && !domain.is_paused() {
        return Err(Errno::EINVAL.into());
    }
    let from = Port(((args[0] >> 32) as u32).max(1));
    match event::close_some(&domain, from) {
        None => Ok(0),
        Some(next) => {
            let mut args = *args;
            args[0] = u64::from(EVTCHNOP_RESET) | u64::from(next.0) << 32;
            Err(Pause::Continue(args))
        }
    }
}
