//! `sched_op`: give up the CPU, wait, shut down.

use abi::sched::{
    SCHEDOP_BLOCK, SCHEDOP_PIN_OVERRIDE, SCHEDOP_POLL, SCHEDOP_REMOTE_SHUTDOWN, SCHEDOP_SHUTDOWN,
    SCHEDOP_SHUTDOWN_CODE, SCHEDOP_WATCHDOG, SCHEDOP_YIELD, SchedPinOverride, SchedPoll, SchedRemoteShutdown,
    SchedShutdown, SchedWatchdog,
};
use abi::{Errno, domid::DOMID_SELF};

use core::sync::atomic::Ordering;

use super::{Caller, Outcome};
use crate::domain::vcpu::{Hold, NEVER, Request};
use crate::event;
use crate::hw::time::now_ns;
use crate::types::{Port, VcpuId};

/// Most ports that can be polled at once.
const MAX_POLLED: u32 = 128;

pub(super) fn sched_op(caller: &mut Caller<'_>, command: u64, at: u64) -> Outcome {
    match command as u32 {
        SCHEDOP_YIELD => crate::sched::yield_now(caller.vcpu),
        SCHEDOP_BLOCK => {
            caller.vcpu.events.unmask_upcalls();
            caller.vcpu.settle_callback();
            caller.vcpu.block();
            if caller.vcpu.events.upcall_pending() {
                caller.vcpu.release(Hold::BLOCKED);
            }
        }
        SCHEDOP_SHUTDOWN => {
            let SchedShutdown { reason } = caller.read(at)?;
            // As in Xen, of which the reason is a byte.
            caller.domain.shutdown(reason & 0xff);
        }
        SCHEDOP_SHUTDOWN_CODE => {
            let SchedShutdown { reason } = caller.read(at)?;
            caller.domain.set_shutdown_code(reason & 0xff);
        }
        SCHEDOP_POLL => poll(caller, at)?,
        SCHEDOP_REMOTE_SHUTDOWN => {
            let request: SchedRemoteShutdown = caller.read(at)?;
            let domain = caller.any_domain(request.domain_id)?;
            if request.domain_id == DOMID_SELF || domain.id == caller.domain.id {
                return Err(Errno::ESRCH.into());
            }
            caller.require_privilege()?;
            domain.shutdown(request.reason & 0xff);
        }
        SCHEDOP_WATCHDOG => return watchdog(caller, at),
        SCHEDOP_PIN_OVERRIDE => {
            caller.require_privilege()?;
            let SchedPinOverride { pcpu } = caller.read(at)?;
            crate::sched::pool::override_affinity(caller.vcpu, u32::try_from(pcpu).ok())?;
        }
        _ => return Err(Errno::ENOSYS.into()),
    }
    Ok(0)
}

/// Wait until one of the ports is pending, masked or not, or the time has come.
fn poll(caller: &mut Caller<'_>, at: u64) -> Result<(), Errno> {
    let request: SchedPoll = caller.read(at)?;
    match request.nr_ports {
        1 => poll_for::<1>(caller, &request),
        0..=MAX_POLLED => poll_for::<{ MAX_POLLED as usize }>(caller, &request),
        _ => Err(Errno::EINVAL),
    }
}

/// With room for `N` ports, at least as many as there are: one is what spin locks wait for, and room for many takes time to clear.
fn poll_for<const N: usize>(caller: &mut Caller<'_>, request: &SchedPoll) -> Result<(), Errno> {
    let mut ports = [Port(0); N];
    let ports = ports.get_mut(..request.nr_ports as usize).ok_or(Errno::EINVAL)?;
    for (index, port) in ports.iter_mut().enumerate() {
        *port = Port(caller.read_element(request.ports, index as u64)?);
        caller.domain.events.get(*port)?;
    }
    let single = if let [port] = ports { Some(*port) } else { None };
    let deadline = match request.timeout {
        0 => NEVER,
        timeout => caller.vcpu.machine_time(timeout),
    };
    caller.vcpu.settle_callback();
    caller.vcpu.begin_poll(caller.domain, single, deadline);
    if event::any_pending(caller.domain, ports) || is_asked_for(caller) {
        caller.vcpu.end_poll(caller.domain);
    }
    Ok(())
}

/// Is there something to do for the vCPU? With interrupts off it waits for the ports alone, but for what these do not keep away: who has asked for that before it
/// was known to poll, has not ended the poll.
fn is_asked_for(caller: &Caller<'_>) -> bool {
    const UNMASKED: Request = Request::STARTUP.union(Request::TIMER);
    let vcpu = caller.vcpu;
    vcpu.requests().intersects(UNMASKED)
        || vcpu.requests().contains(Request::NMI) && caller.cpu.nmi_allowed()
        || caller.cpu.interruptible() && (vcpu.events.upcall_pending() || vcpu.was_woken())
}

/// Make a watchdog (whose id is returned), put its end off, or remove it. A domain lives until the first of its watchdogs ends.
fn watchdog(caller: &mut Caller<'_>, at: u64) -> Outcome {
    const SECOND: u64 = 1_000_000_000;
    let SchedWatchdog { id, timeout } = caller.read(at)?;
    let vcpu = caller.domain.vcpu(VcpuId(0)).ok_or(Errno::EINVAL)?;
    let dogs = &vcpu.timers.watchdogs;
    let deadline = now_ns().saturating_add(u64::from(timeout) * SECOND);
    let id = match id.checked_sub(1) {
        None => {
            let free = dogs.iter().position(|dog| {
                dog.compare_exchange(NEVER, deadline, Ordering::SeqCst, Ordering::SeqCst)
                    .is_ok()
            });
            free.ok_or(Errno::ENOSPC)? as u64 + 1
        }
        Some(index) => {
            let dog = dogs.get(index as usize).ok_or(Errno::EINVAL)?;
            let deadline = if timeout == 0 { NEVER } else { deadline };
            dog.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |old| {
                (old != NEVER).then_some(deadline)
            })
            .map_err(|_| Errno::EINVAL)?;
            0
        }
    };
    crate::sched::timers_changed(vcpu);
    Ok(id)
}
