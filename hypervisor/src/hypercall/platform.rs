//! `platform_op`: what dom0 may do to the machine. One argument for all operations, as for `sysctl`.

use abi::Errno;
use abi::platform::{
    PlatformOp, XENPF_CPU_OFFLINE, XENPF_CPU_ONLINE, XENPF_GET_CPUINFO, XENPF_INTERFACE_VERSION,
};

use super::{Args, Caller, Outcome, hotplug};

/// Linux as dom0 takes ENOSYS for every operation that is not offered.
pub(super) fn platform_op(caller: &mut Caller<'_>, args: &mut Args) -> Outcome {
    let at = args[0];
    let mut argument: PlatformOp = caller.read(at)?;
    if argument.interface_version != XENPF_INTERFACE_VERSION {
        return Err(Errno::EACCES.into());
    }
    caller.require_privilege()?;
    match argument.cmd {
        XENPF_GET_CPUINFO => {
            let mut request = argument.u.get();
            hotplug::info(&mut request);
            argument.u.set(&request);
            caller.write(at, &argument)?;
        }
        XENPF_CPU_ONLINE => hotplug::online(caller, &argument.u.get())?,
        XENPF_CPU_OFFLINE => hotplug::offline(caller, &argument.u.get())?,
        _ => return Err(Errno::ENOSYS.into()),
    }
    Ok(0)
}
