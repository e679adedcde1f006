//! `event_channel_op`.
// UNSAFETY: hypercalls.
#![expect(unsafe_code, reason = "hypercalls")]

use abi::event_channel::{
    EVTCHNOP_ALLOC_UNBOUND, EVTCHNOP_BIND_INTERDOMAIN, EVTCHNOP_BIND_VIRQ, EVTCHNOP_CLOSE, EVTCHNOP_SEND,
    EvtchnAllocUnbound, EvtchnBindInterdomain, EvtchnBindVirq, EvtchnPortArg,
};
use abi::hypercall::HYPERVISOR_EVENT_CHANNEL_OP;
use abi::{Domid, Errno};

/// Issues a sub-operation whose argument holds no address.
fn call<T>(sub: u32, argument: &mut T) -> Result<(), Errno> {
    // SAFETY: no argument structure used in this file holds an address.
    unsafe { super::op(HYPERVISOR_EVENT_CHANNEL_OP, sub, argument) }.map(|_| ())
}

/// Makes a port of `owner` that `remote` may bind.
pub fn alloc_unbound(owner: Domid, remote: Domid) -> Result<u32, Errno> {
    let mut argument = EvtchnAllocUnbound {
        dom: owner,
        remote_dom: remote,
        ..Default::default()
    };
    call(EVTCHNOP_ALLOC_UNBOUND, &mut argument)?;
    Ok(argument.port)
}

/// Connects a new local port to `remote`'s unbound port.
pub fn bind_interdomain(remote: Domid, remote_port: u32) -> Result<u32, Errno> {
    let mut argument = EvtchnBindInterdomain {
        remote_dom: remote,
        remote_port,
        ..Default::default()
    };
    call(EVTCHNOP_BIND_INTERDOMAIN, &mut argument)?;
    Ok(argument.local_port)
}

/// Binds a virtual interrupt of vCPU 0.
pub fn bind_virq(virq: u32) -> Result<u32, Errno> {
    let mut argument = EvtchnBindVirq {
        virq,
        ..Default::default()
    };
    call(EVTCHNOP_BIND_VIRQ, &mut argument)?;
    Ok(argument.port)
}

/// Notifies the other end.
pub fn send(port: u32) -> Result<(), Errno> {
    call(EVTCHNOP_SEND, &mut EvtchnPortArg { port })
}

/// Closes a port.
pub fn close(port: u32) -> Result<(), Errno> {
    call(EVTCHNOP_CLOSE, &mut EvtchnPortArg { port })
}
