//! `vcpu_op` and `set_timer_op`: a vCPU's life, timers, and the memory it shares with us.

use abi::vcpu::{
    CompatVcpuRunstateInfo, VCPU_HVM_MODE_32B, VCPU_HVM_MODE_64B, VCPU_SSHOTTMR_FUTURE, VCPUOP_DOWN,
    VCPUOP_GET_RUNSTATE_INFO, VCPUOP_INITIALISE, VCPUOP_IS_UP, VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA,
    VCPUOP_REGISTER_VCPU_INFO, VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA, VCPUOP_SEND_NMI,
    VCPUOP_SET_PERIODIC_TIMER, VCPUOP_SET_SINGLESHOT_TIMER, VCPUOP_STOP_PERIODIC_TIMER,
    VCPUOP_STOP_SINGLESHOT_TIMER, VCPUOP_UP, VcpuHvmContext, VcpuHvmX8632, VcpuHvmX8664,
    VcpuRegisterRunstateMemoryArea, VcpuRegisterTimeMemoryArea, VcpuRegisterVcpuInfo, VcpuSetPeriodicTimer,
    VcpuSetSingleshotTimer,
};
use abi::{Errno, GuestHandle, Layout};

use alloc::sync::Arc;
use core::sync::atomic::Ordering::SeqCst;

use super::{Caller, Outcome};
use crate::arch::regs::SegmentAttr;
use crate::arch::{Gprs, GuestCpu, Paging, Segment, SegmentReg, SysReg};
use crate::domain::vcpu::{Hold, NEVER, Request, Vcpu};
use crate::event;
use crate::hw::time::now_ns;
use crate::mm::guest::{Access, GuestRange};
use crate::sched;
use crate::types::{Gfn, Gva, PAGE_SIZE, VcpuId};
use crate::virt::control::valid_state;

/// Shortest period of the periodic timer: 1 ms, as in Xen.
const MIN_PERIOD_NS: u64 = 1_000_000;

pub(super) fn vcpu_op(caller: &mut Caller<'_>, command: u64, id: u64, at: u64) -> Outcome {
    let id = VcpuId(id as u32);
    let vcpu = caller.domain.vcpu(id).ok_or(Errno::ENOENT)?.clone();
    match command as u32 {
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
        VCPUOP_GET_RUNSTATE_INFO => caller.write(at, &vcpu.areas.runstate(vcpu.system_time()))?,
        VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA => {
            let area: VcpuRegisterRunstateMemoryArea = caller.read(at)?;
            // The layout is that of the domain's shared memory, whatever the mode of this call.
            let layout = caller.domain.layout();
            let range = match layout {
                Layout::X86_64 => pin(caller, area.addr)?,
                Layout::I386 => pin::<CompatVcpuRunstateInfo>(caller, area.addr.cast())?,
            };
            vcpu.areas
                .register_runstate(range.map(|range| (range, layout)), vcpu.system_time());
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

/// Hold the memory behind a handle that is written later: the domain's own, as another's would be written still when it is no longer
/// granted. A null handle ends that.
fn pin<T>(caller: &mut Caller<'_>, handle: GuestHandle<T>) -> Result<Option<GuestRange>, Errno> {
    if handle.is_null() {
        return Ok(None);
    }
    let owner = caller.domain.id;
    let range = caller
        .memory()
        .pin_own(Gva(handle.addr()), size_of::<T>(), owner)?;
    Ok(Some(range))
}

fn require_own(caller: &Caller<'_>, vcpu: &Arc<Vcpu>) -> Result<(), Errno> {
    if Arc::ptr_eq(caller.vcpu, vcpu) {
        Ok(())
    } else {
        Err(Errno::EINVAL)
    }
}

fn set(vcpu: &Arc<Vcpu>, timer: &core::sync::atomic::AtomicU64, deadline: u64) {
    // Kernels stop a timer that is not set.
    if timer.swap(deadline, SeqCst) != deadline {
        sched::timers_changed(vcpu);
    }
}

fn initialise(caller: &mut Caller<'_>, vcpu: &Arc<Vcpu>, at: u64) -> Result<(), Errno> {
    let context: VcpuHvmContext = caller.read(at)?;
    if vcpu.is_initialised() {
        return Err(Errno::EEXIST);
    }
    // Another vCPU may start it meanwhile, by a message or this very call.
    vcpu.pause();
    vcpu.wait_until_stopped();
    let result = if vcpu.is_initialised() {
        Err(Errno::EEXIST)
    } else {
        let address_bits = caller.domain.config.address_bits;
        vcpu.with_private(|private| {
            let features = private.policy.cr4_features();
            let valid = |state: &Paging| valid_state(state, features, address_bits);
            start_state(private.cpu.as_dyn(), &context, &valid)
        })
    };
    if result.is_ok() {
        vcpu.set_initialised();
    }
    vcpu.unpause();
    result
}

/// Flat segments of the 64-bit start state.
const CODE64: u16 = 0xa9b;
const DATA: u16 = 0xc93;
const BUSY_TSS: u16 = 0x08b;
const CR0_PE: u64 = 1 << 0;
const EFER_LMA: u64 = 1 << 10;
/// Bit 1 is always set.
const RFLAGS_RESERVED: u64 = 2;

/// Is it a state that a guest's CPU can be in?
type Valid<'a> = &'a dyn Fn(&Paging) -> bool;

/// Give a vCPU the state that VCPUOP_initialise describes.
fn start_state(cpu: &mut dyn GuestCpu, context: &VcpuHvmContext, valid: Valid<'_>) -> Result<(), Errno> {
    match context.mode {
        VCPU_HVM_MODE_64B => start_64(cpu, &context.cpu_regs.get(), valid),
        VCPU_HVM_MODE_32B => start_32(cpu, &context.cpu_regs.get(), valid),
        _ => Err(Errno::EINVAL),
    }
}

fn start_64(cpu: &mut dyn GuestCpu, state: &VcpuHvmX8664, valid: Valid<'_>) -> Result<(), Errno> {
    let paging = Paging {
        cr0: state.cr0,
        cr3: state.cr3,
        cr4: state.cr4,
        efer: state.efer | EFER_LMA,
        rflags: state.rflags | RFLAGS_RESERVED,
    };
    if !valid(&paging) {
        return Err(Errno::EINVAL);
    }
    let flat = |attr| Segment {
        selector: 0,
        attr: SegmentAttr::from_bits_truncate(attr),
        limit: u32::MAX,
        base: 0,
    };
    let tss = Segment {
        limit: 0x67,
        ..flat(BUSY_TSS)
    };
    set_segments(cpu, [(SegmentReg::Cs, flat(CODE64)), (SegmentReg::Tr, tss)]);
    set_segments(
        cpu,
        [SegmentReg::Ds, SegmentReg::Es, SegmentReg::Ss].map(|register| (register, flat(DATA))),
    );
    let regs = Gprs {
        rax: state.rax,
        rcx: state.rcx,
        rdx: state.rdx,
        rbx: state.rbx,
        rbp: state.rbp,
        rsi: state.rsi,
        rdi: state.rdi,
        ..Gprs::default()
    };
    *cpu.gprs() = regs;
    cpu.set_rip(state.rip);
    cpu.write(SysReg::Rsp, state.rsp);
    set_paging(cpu, &paging);
    Ok(())
}

fn start_32(cpu: &mut dyn GuestCpu, state: &VcpuHvmX8632, valid: Valid<'_>) -> Result<(), Errno> {
    let segment = |ar, limit, base: u32| Segment {
        selector: 0,
        attr: SegmentAttr::from_bits_truncate(ar),
        limit,
        base: u64::from(base),
    };
    let cs = segment(state.cs_ar, state.cs_limit, state.cs_base);
    if state.pad1 != 0
        || state.pad2 != [0; 3]
        || !cs.attr.contains(SegmentAttr::PRESENT | SegmentAttr::NON_SYSTEM)
    {
        return Err(Errno::EINVAL);
    }
    let paging = Paging {
        cr0: state.cr0.into(),
        cr3: state.cr3.into(),
        cr4: state.cr4.into(),
        efer: state.efer,
        rflags: u64::from(state.eflags) | RFLAGS_RESERVED,
    };
    if paging.efer & EFER_LMA != 0 || paging.cr0 & CR0_PE == 0 || !valid(&paging) {
        return Err(Errno::EINVAL);
    }
    set_segments(
        cpu,
        [
            (SegmentReg::Cs, cs),
            (
                SegmentReg::Ds,
                segment(state.ds_ar, state.ds_limit, state.ds_base),
            ),
            (
                SegmentReg::Es,
                segment(state.es_ar, state.es_limit, state.es_base),
            ),
            (
                SegmentReg::Ss,
                segment(state.ss_ar, state.ss_limit, state.ss_base),
            ),
            (
                SegmentReg::Tr,
                segment(state.tr_ar, state.tr_limit, state.tr_base),
            ),
        ],
    );
    let regs = Gprs {
        rax: state.eax.into(),
        rcx: state.ecx.into(),
        rdx: state.edx.into(),
        rbx: state.ebx.into(),
        rbp: state.ebp.into(),
        rsi: state.esi.into(),
        rdi: state.edi.into(),
        ..Gprs::default()
    };
    *cpu.gprs() = regs;
    cpu.set_rip(state.eip.into());
    cpu.write(SysReg::Rsp, state.esp.into());
    set_paging(cpu, &paging);
    Ok(())
}

fn set_paging(cpu: &mut dyn GuestCpu, state: &Paging) {
    cpu.write(SysReg::Rflags, state.rflags);
    cpu.write(SysReg::Efer, state.efer);
    cpu.write(SysReg::Cr4, state.cr4);
    cpu.write(SysReg::Cr3, state.cr3);
    cpu.write(SysReg::Cr0, state.cr0);
}

fn set_segments<const N: usize>(cpu: &mut dyn GuestCpu, segments: [(SegmentReg, Segment); N]) {
    for (register, segment) in segments {
        cpu.set_segment(register, segment);
    }
}

fn register_vcpu_info(caller: &mut Caller<'_>, vcpu: &Arc<Vcpu>, at: u64) -> Result<(), Errno> {
    let request: VcpuRegisterVcpuInfo = caller.read(at)?;
    let offset = u64::from(request.offset);
    if offset > PAGE_SIZE - event::VCPU_INFO_SIZE || !offset.is_multiple_of(8) {
        return Err(Errno::ENXIO);
    }
    // Of a vCPU that may be looking at its old one, nobody else moves it.
    if !Arc::ptr_eq(caller.vcpu, vcpu) && !vcpu.held_by(Hold::DOWN) {
        return Err(Errno::EINVAL);
    }
    let frame = caller
        .domain
        .pin_own(Gfn(request.mfn), Access::Write)
        .map_err(|_| Errno::EINVAL)?;
    event::register_vcpu_info(caller.domain, vcpu.id, frame, offset)?;
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
    if request.flags & VCPU_SSHOTTMR_FUTURE != 0 && request.timeout_abs_ns < vcpu.system_time() {
        return Err(Errno::ETIME);
    }
    let deadline = vcpu.machine_time(request.timeout_abs_ns);
    set(vcpu, &vcpu.timers.singleshot, deadline);
    Ok(())
}

/// The older way to set the one-shot timer: the deadline is the argument, 0 stops it.
pub(super) fn set_timer_op(caller: &mut Caller<'_>, deadline: u64) -> Outcome {
    let deadline = match deadline {
        0 => NEVER,
        deadline => caller.vcpu.machine_time(deadline),
    };
    set(caller.vcpu, &caller.vcpu.timers.singleshot, deadline);
    Ok(0)
}
