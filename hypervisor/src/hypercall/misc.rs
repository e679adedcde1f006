//! Calls that are no family: several calls in one, assists, and numbers that mean nothing.

use abi::hypercall::{
    HYPERVISOR_MULTICALL, MulticallEntry, VMASST_CMD_DISABLE, VMASST_CMD_ENABLE,
    VMASST_TYPE_RUNSTATE_UPDATE_FLAG,
};
use abi::{Errno, GuestHandle};

use super::{Args, Caller, Outcome, Stop};

/// Calls that one slice of a multicall makes.
const SLICE: u32 = 32;

pub(super) fn unknown(_caller: &mut Caller<'_>, _args: &mut Args) -> Outcome {
    Err(Errno::ENOSYS.into())
}

/// Make the calls of a list one after the other; each has a result of its own.
pub(super) fn multicall(caller: &mut Caller<'_>, args: &mut Args) -> Outcome {
    let list = GuestHandle::<MulticallEntry>::new(args[0]);
    let count = args[1] as u32;
    for index in 0..count.min(SLICE) {
        let mut entry = caller.read_element(list, u64::from(index))?;
        let [mut first @ .., sixth] = entry.args;
        let result = if entry.op == u64::from(HYPERVISOR_MULTICALL) {
            Err(Stop::Errno(Errno::ENOSYS))
        } else {
            super::call_listed(caller, entry.op, &mut first)
        };
        match result {
            Ok(value) => entry.result = value,
            Err(Stop::Errno(errno)) => entry.result = Errno::encode(Err(errno)),
            Err(Stop::Continue) => {
                // The call goes on where it is when the multicall is made again from there.
                let [a, b, c, d, e] = first;
                entry.args = [a, b, c, d, e, sixth];
                caller.write_element(list, u64::from(index), &entry)?;
                return Err(from(caller, args, list, index));
            }
        }
        caller.write_element(list, u64::from(index), &entry)?;
    }
    if count > SLICE {
        Err(from(caller, args, list, SLICE))
    } else {
        Ok(0)
    }
}

/// The multicall without its first `done` calls.
fn from(caller: &Caller<'_>, args: &mut Args, list: GuestHandle<MulticallEntry>, done: u32) -> Stop {
    args[0] = caller.element(list, u64::from(done));
    args[1] = u64::from((args[1] as u32).saturating_sub(done));
    Stop::Continue
}

/// Turn an assist on or off. One means something to guests with nested paging; the others do not exist for them.
pub(super) fn vm_assist(caller: &mut Caller<'_>, args: &mut Args) -> Outcome {
    let (command, kind) = (args[0] as u32, args[1] as u32);
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
