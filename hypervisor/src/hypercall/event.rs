//! `event_channel_op`.

use abi::Errno;
use abi::domid::DOMID_SELF;
use abi::event_channel::{
    EVTCHN_FIFO_LINK_BITS, EVTCHNOP_ALLOC_UNBOUND, EVTCHNOP_BIND_INTERDOMAIN, EVTCHNOP_BIND_IPI,
    EVTCHNOP_BIND_PIRQ, EVTCHNOP_BIND_VCPU, EVTCHNOP_BIND_VIRQ, EVTCHNOP_CLOSE, EVTCHNOP_EXPAND_ARRAY,
    EVTCHNOP_INIT_CONTROL, EVTCHNOP_RESET, EVTCHNOP_RESET_CONT, EVTCHNOP_SEND, EVTCHNOP_SET_PRIORITY,
    EVTCHNOP_STATUS, EVTCHNOP_UNMASK, EVTCHNSTAT_CLOSED, EVTCHNSTAT_INTERDOMAIN, EVTCHNSTAT_IPI,
    EVTCHNSTAT_UNBOUND, EVTCHNSTAT_VIRQ, EvtchnAllocUnbound, EvtchnBindInterdomain, EvtchnBindIpi,
    EvtchnBindPirq, EvtchnBindVcpu, EvtchnBindVirq, EvtchnExpandArray, EvtchnInitControl, EvtchnPortArg,
    EvtchnReset, EvtchnSetPriority, EvtchnStatus,
};

use super::{Caller, Outcome};
use crate::event::{self, Binding};
use crate::types::{DomId, Gfn, Port, VcpuId};

pub(super) fn event_channel_op(caller: &mut Caller<'_>, command: u64, at: u64, next: u64) -> Outcome {
    if command as u32 == EVTCHNOP_SEND {
        let send: EvtchnPortArg = caller.read_inline(at)?;
        event::send(caller.domain, Port(send.port))?;
        return Ok(0);
    }
    less_frequent(caller, command, at, next)
}

#[inline(never)]
fn less_frequent(caller: &mut Caller<'_>, command: u64, at: u64, next: u64) -> Outcome {
    match command as u32 {
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
        EVTCHNOP_RESET => return reset(caller, at, Port(1)),
        EVTCHNOP_RESET_CONT => return reset(caller, at, Port((next as u32).max(1))),
        EVTCHNOP_INIT_CONTROL => {
            let mut init: EvtchnInitControl = caller.read(at)?;
            let (vcpu, gfn) = (VcpuId(init.vcpu), Gfn(init.control_gfn));
            event::init_control(caller.domain, vcpu, gfn, init.offset)?;
            init.link_bits = EVTCHN_FIFO_LINK_BITS as u8;
            caller.write(at, &init)?;
        }
        EVTCHNOP_EXPAND_ARRAY => {
            let expand: EvtchnExpandArray = caller.read(at)?;
            event::expand_array(caller.domain, Gfn(expand.array_gfn))?;
        }
        EVTCHNOP_SET_PRIORITY => {
            let set: EvtchnSetPriority = caller.read(at)?;
            event::set_priority(caller.domain, Port(set.port), set.priority)?;
        }
        _ => return Err(Errno::ENOSYS.into()),
    }
    Ok(0)
}

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

/// Close the ports from `from` on. A call that goes on says where in an argument that the first does not have.
fn reset(caller: &mut Caller<'_>, at: u64, from: Port) -> Outcome {
    let reset: EvtchnReset = caller.read(at)?;
    let domain = caller.target(reset.dom)?;
    if domain.id != caller.domain.id && !domain.is_paused() {
        return Err(Errno::EINVAL.into());
    }
    // All ports are closed, then delivery is 2-level again.
    match event::close_some(&domain, from) {
        None => Ok(event::reset_delivery(&domain).map(|()| 0)?),
        Some(next) => Err(caller.again(&[EVTCHNOP_RESET_CONT.into(), at, next.0.into()])),
    }
}
