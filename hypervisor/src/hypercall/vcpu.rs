//! `vcpu_op` and `set_timer_op`: a vCPU's life, timers, and the memory it shares with us.

use abi::vcpu::{
    VCPU_SSHOTTMR_FUTURE, VCPUOP_DOWN, VCPUOP_GET_RUNSTATE_INFO, VCPUOP_INITIALISE, VCPUOP_IS_UP,
    VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA, VCPUOP_REGISTER_VCPU_INFO, VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA,
    VCPUOP_SEND_NMI, VCPUOP_SET_PERIODIC_TIMER, VCPUOP_SET_SINGLESHOT_TIMER, VCPUOP_STOP_PERIODIC_TIMER,
    VCPUOP_STOP_SINGLESHOT_TIMER, VCPUOP_UP, VcpuHvmContext, VcpuRegisterRunstateMemoryArea,
    VcpuRegisterTimeMemoryArea, VcpuRegisterVcpuInfo, VcpuSetPeriodicTimer, VcpuSetSingleshotTimer,
};
use abi::{Errno, GuestHandle};

use alloc::sync::Arc;
use core::sync::atomic::Ordering::SeqCst;

use super::{Args, Caller, Outcome};
use crate::domain::vcpu::{Hold, NEVER, Request, Vcpu};
use crate::event;
use crate::hw::time::now_ns;
use crate::mm::guest::{Access, GuestRange};
use crate::sched;
use crate::types::{Gfn, Gva, VcpuId};

/// Shortest period of the periodic timer: 1 ms, as in Xen.
const MIN_PERIOD_NS: u64 = 1_000_000;

pub(super) fn vcpu_op(caller: &mut Caller<'_>, args: &Args) -> Outcome {
    let id = VcpuId(args[1] as u32);
    let vcpu = caller.domain.vcpu(id).ok_or(Errno::ENOENT)?.clone();
    let at = args[2];
    match args[0] as u32 {
        VCPUOP_INITIALISE => initialise(caller, &vcpu, at)?,
        VCPUOP_UP => {
            if !vcpu.is_initialised() {
                return Err(Errno::EINVAL.into());
            }
            vcpu.release(Hold::DOWN);
        }
        VCPUOP_DOWN => {
            vcpu.hold(Hold::DOWN);
            caller.domain.vcpu_went_down();
        }
        VCPUOP_IS_UP => return Ok(u64::from(!vcpu.held_by(Hold::DOWN))),
        VCPUOP_GET_RUNSTATE_INFO => caller.write(at, &vcpu.areas.runstate(now_ns()))?,
        VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA => {
            let area: VcpuRegisterRunstateMemoryArea = caller.read(at)?;
            let range = pin(caller, area.addr)?;
            vcpu.areas.register_runstate(range, now_ns());
        }
        VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA => {
            let area: VcpuRegisterTimeMemoryArea = caller.read(at)?;
            let range = pin(caller, area.addr)?;
            vcpu.areas.register_time(range);
            caller.domain.publish_time(&vcpu);
        }
        VCPUOP_REGISTER_VCPU_INFO => register_vcpu_info(caller, &vcpu, at)?,
        VCPUOP_SEND_NMI => vcpu.request(Request::NMI),
        VCPUOP_SET_PERIODIC_TIMER => set_periodic(caller, &vcpu, at)?,
        VCPUOP_STOP_PERIODIC_TIMER => {
            vcpu.timers.period.store(0, SeqCst);
            set(&vcpu, &vcpu.timers.periodic, NEVER);
        }
        VCPUOP_SET_SINGLESHOT_TIMER => set_singleshot(caller, &vcpu, at)?,
        VCPUOP_STOP_SINGLESHOT_TIMER => {
            require_own(caller, &vcpu)?;
            set(&vcpu, &vcpu.timers.singleshot, NEVER);
        }
        _ => return Err(Errno::ENOSYS.into()),
    }
    Ok(0)
}

/// Hold the memory behind a handle that is written later. A null handle ends that.
fn pin<T>(caller: &mut Caller<'_>, handle: GuestHandle<T>) -> Result<Option<GuestRange>, Errno> {
    if handle.is_null() {
        return Ok(None);
    }
    Ok(Some(caller.memory().pin(Gva(handle.addr()), size_of::<T>())?))
}

fn require_own(caller: &Caller<'_>, vcpu: &Arc<Vcpu>) -> Result<(), Errno> {
    if Arc::ptr_eq(caller.vcpu, vcpu) { Ok(()) } else { Err(Errno::EINVAL) }
}

fn set(vcpu: &Arc<Vcpu>, timer: &core::sync::atomic::AtomicU64, deadline: u64) {
    timer.store(deadline, SeqCst);
    sched::timers_changed(vcpu);
}

fn initialise(caller: &mut Caller<'_>, vcpu: &Arc<Vcpu>, at: u64) -> Result<(), Errno> {
    let context: VcpuHvmContext = caller.read(at)?;
    if vcpu.is_initialised() {
        return Err(Errno::EEXIST);
    }
    vcpu.initialise(&context)
}

fn register_vcpu_info(caller: &mut Caller<'_>, vcpu: &Arc<Vcpu>, at: u64) -> Result<(), Errno> {
    let request: VcpuRegisterVcpuInfo = caller.read(at)?;
    // Of a vCPU that may be looking at its old one, nobody else moves it.
    if !Arc::ptr_eq(caller.vcpu, vcpu) && !vcpu.held_by(Hold::DOWN) {
        return Err(Errno::EINVAL);
    }
    let frame = caller.domain.pin(Gfn(request.mfn), Access::Write).map_err(|_| Errno::EINVAL)?;
    event::register_vcpu_info(caller.domain, vcpu.id, frame, u64::from(request.offset))?;
    caller.domain.publish_time(vcpu);
    Ok(())
}

fn set_periodic(caller: &mut Caller<'_>, vcpu: &Arc<Vcpu>, at: u64) -> Result<(), Errno> {
    let VcpuSetPeriodicTimer { period_ns } = caller.read(at)?;
    if !(MIN_PERIOD_NS..=i64::MAX as u64).contains(&period_ns) {
        return Err(Errno::EINVAL);
    }
    vcpu.timers.period.store(period_ns, SeqCst);
    set(vcpu, &vcpu.timers.periodic, now_ns().saturating_add(period_ns));
    Ok(())
}

fn set_singleshot(caller: &mut Caller<'_>, vcpu: &Arc<Vcpu>, at: u64) -> Result<(), Errno> {
    require_own(caller, vcpu)?;
    let request: VcpuSetSingleshotTimer = caller.read(at)?;
    if request.flags & VCPU_SSHOTTMR_FUTURE != 0 && request.timeout_abs_ns < now_ns() {
        return Err(Errno::ETIME);
    }
    set(vcpu, &vcpu.timers.singleshot, request.timeout_abs_ns);
    Ok(())
}

/// The older way to set the one-shot timer: the deadline is the argument, 0 stops it.
pub(super) fn set_timer_op(caller: &mut Caller<'_>, args: &Args) -> Outcome {
    let deadline = if args[0] == 0 { NEVER } else { args[0] };
    set(caller.vcpu, &caller.vcpu.timers.singleshot, deadline);
    Ok(0)
}
