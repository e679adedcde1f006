//! Calls that are no family: several calls in one, and assists.

use abi::hypercall::{
    HYPERVISOR_MULTICALL, MulticallEntry, VMASST_CMD_DISABLE, VMASST_CMD_ENABLE,
    VMASST_TYPE_RUNSTATE_UPDATE_FLAG,
};
use abi::{Errno, GuestHandle};

use super::{Caller, Outcome, Stop};
use crate::arch::{Answer, machine};
use crate::hw;

/// Calls that one slice of a multicall makes.
const SLICE: u32 = 32;

/// Make the calls of a list one after the other; each has a result of its own. In between the host's interrupts come in, since each may take as long
/// as a call may.
pub(super) fn multicall(caller: &mut Caller<'_>, list: u64, count: u64) -> Outcome {
    let list = GuestHandle::<MulticallEntry>::new(list);
    let count = count as u32;
    for index in 0..count {
        let mut entry = caller.read_element(list, u64::from(index))?;
        let [a, b, c, ..] = entry.args;
        let answer = if entry.op == u64::from(HYPERVISOR_MULTICALL) {
            Answer::new(Errno::encode(Err(Errno::ENOSYS)))
        } else {
            super::call_listed(caller, entry.op, [a, b, c])
        };
        let Some(result) = answer.rax() else {
            // The call goes on where it is when the multicall is made again from there.
            for (arg, next) in entry.args.iter_mut().zip(core::mem::take(&mut caller.next)) {
                *arg = next;
            }
            caller.write_element(list, u64::from(index), &entry)?;
            return Err(from(caller, list, index, count));
        };
        entry.result = result;
        caller.write_element(list, u64::from(index), &entry)?;
        let done = index + 1;
        machine::take_host_interrupts();
        if done < count && (done == SLICE || hw::irq::softirq_pending()) {
            return Err(from(caller, list, done, count));
        }
    }
    Ok(0)
}

/// The multicall without its first `done` calls.
fn from(caller: &mut Caller<'_>, list: GuestHandle<MulticallEntry>, done: u32, count: u32) -> Stop {
    let rest = caller.element(list, u64::from(done));
    caller.again(&[rest, u64::from(count.saturating_sub(done))])
}

/// Turn an assist on or off. One means something to guests with nested paging; the others do not exist for them.
pub(super) fn vm_assist(caller: &mut Caller<'_>, command: u64, kind: u64) -> Outcome {
    let (command, kind) = (command as u32, kind as u32);
    if kind != VMASST_TYPE_RUNSTATE_UPDATE_FLAG {
        return Err(Errno::EINVAL.into());
    }
    match command {
        VMASST_CMD_ENABLE => caller.domain.set_assist(kind, true),
        VMASST_CMD_DISABLE => caller.domain.set_assist(kind, false),
        _ => return Err(Errno::ENOSYS.into()),
    }
    Ok(0)
}
