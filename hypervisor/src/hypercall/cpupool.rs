//! `XEN_SYSCTL_CPUPOOL_OP`: CPU pools.

use abi::sysctl::*;
use abi::{Domid, Errno, Union};

use super::Caller;
use super::domctl::{SCHEDULER, write_bits};
use crate::sched;
use crate::sched::pool::{self, pools};

/// A number, unless it stands for any.
fn given(number: u32) -> Option<u32> {
    (number != XEN_SYSCTL_CPUPOOL_PAR_ANY).then_some(number)
}

pub(super) fn cpupool(caller: &mut Caller<'_>, u: &mut Union<16>) -> Result<(), Errno> {
    let mut request: SysctlCpupoolOp = u.get();
    let id = request.cpupool_id;
    let cpus = sched::cpu_count() as u32;
    match request.op {
        XEN_SYSCTL_CPUPOOL_OP_CREATE if request.sched_id != SCHEDULER => return Err(Errno::ENOENT),
        XEN_SYSCTL_CPUPOOL_OP_CREATE => request.cpupool_id = pools().create(given(id))?,
        XEN_SYSCTL_CPUPOOL_OP_DESTROY => {
            let mut pools = pools();
            pools.destroy(id, pool::domains_in(id), cpus)?;
        }
        XEN_SYSCTL_CPUPOOL_OP_INFO => {
            let id = given(id).unwrap_or(pool::POOL_0);
            let found = pools().next_from(id).ok_or(Errno::ENOENT)?;
            request.cpupool_id = found;
            request.sched_id = SCHEDULER;
            request.n_dom = pool::domains_in(found) as u32;
            write_bits(caller, request.cpumap, |cpu| {
                cpu < cpus && pool::contains(found, cpu)
            })?;
        }
        XEN_SYSCTL_CPUPOOL_OP_ADDCPU => {
            let mut pools = pools();
            pools.add_cpu(id, given(request.cpu), cpus)?;
            pool::changed(&pools, id);
        }
        XEN_SYSCTL_CPUPOOL_OP_RMCPU => {
            let mut pools = pools();
            pools.remove_cpu(id, given(request.cpu), cpus, pool::domains_in(id))?;
            pool::changed(&pools, id);
        }
        XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN => {
            let domid = Domid::try_from(request.domid).map_err(|_| Errno::ESRCH)?;
            let domain = caller.any_domain(domid)?;
            // Nobody takes himself to where he might not run.
            if domain.id == caller.domain.id {
                return Err(Errno::EPERM);
            }
            pools().move_domain(&domain, id)?;
        }
        XEN_SYSCTL_CPUPOOL_OP_FREEINFO => {
            let pools = pools();
            write_bits(caller, request.cpumap, |cpu| cpu < cpus && pools.is_free(cpu))?;
        }
        _ => return Err(Errno::ENOSYS),
    }
    u.set(&request);
    Ok(())
}
