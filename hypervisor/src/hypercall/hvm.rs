//! `hvm_op`: a domain's parameters and its upcall vector.

use abi::Errno;
use abi::domid::DOMID_SELF;
use abi::hvm::{
    HVM_NR_PARAMS, HVM_PARAM_ACPI_IOPORTS_LOCATION, HVM_PARAM_ALTP2M, HVM_PARAM_BUFIOREQ_PFN,
    HVM_PARAM_CALLBACK_IRQ, HVM_PARAM_CONSOLE_EVTCHN, HVM_PARAM_CONSOLE_PFN, HVM_PARAM_IOREQ_PFN,
    HVM_PARAM_MCA_CAP, HVM_PARAM_STORE_EVTCHN, HVM_PARAM_STORE_PFN, HVM_PARAM_TIMER_MODE,
    HVM_PARAM_TRIPLE_FAULT_REASON, HVM_PARAM_VM_GENERATION_ID_ADDR, HVM_PARAM_VM86_TSS,
    HVM_PARAM_VM86_TSS_SIZED, HVM_PARAM_X87_FIP_WIDTH, HVMMEM_MMIO_DM, HVMMEM_RAM_RO, HVMMEM_RAM_RW,
    HVMOP_ALTP2M, HVMOP_FLUSH_TLBS, HVMOP_GET_MEM_TYPE, HVMOP_GET_PARAM, HVMOP_GET_TIME,
    HVMOP_SET_EVTCHN_UPCALL_VECTOR, HVMOP_SET_PARAM, HvmEvtchnUpcallVector, HvmGetMemType, HvmGetTime,
    HvmParam,
};
use abi::sched::SHUTDOWN_MAX;

use core::sync::atomic::Ordering::SeqCst;

use super::{Caller, Outcome};
use crate::domain::Domain;
use crate::mm::p2m::Kind;
use crate::types::{Gfn, VcpuId};

pub(super) fn hvm_op(caller: &mut Caller<'_>, command: u64, at: u64) -> Outcome {
    match command as u32 {
        HVMOP_SET_PARAM => set_param(caller, at)?,
        HVMOP_GET_PARAM => get_param(caller, at)?,
        HVMOP_SET_EVTCHN_UPCALL_VECTOR => set_upcall_vector(caller, at)?,
        HVMOP_FLUSH_TLBS => {
            if at != 0 {
                return Err(Errno::EINVAL.into());
            }
            caller.domain.flush_vcpus();
        }
        HVMOP_GET_TIME => caller.write(
            at,
            &HvmGetTime {
                now: caller.vcpu.system_time(),
            },
        )?,
        HVMOP_GET_MEM_TYPE => get_mem_type(caller, at)?,
        HVMOP_ALTP2M => return Err(Errno::EOPNOTSUPP.into()),
        _ => return Err(Errno::ENOSYS.into()),
    }
    Ok(0)
}

/// Numbers that once meant something.
fn is_deprecated(index: u32) -> bool {
    matches!(index, 4 | 13 | 20..=26 | 30)
}

fn set_param(caller: &mut Caller<'_>, at: u64) -> Result<(), Errno> {
    let request: HvmParam = caller.read(at)?;
    if request.index >= HVM_NR_PARAMS {
        return Err(Errno::EINVAL);
    }
    let domain = if request.domid == DOMID_SELF {
        caller.domain.clone()
    } else {
        caller.any_domain(request.domid)?
    };
    check_may_set(caller, &domain, request.index)?;
    check_value(&domain, request.index, request.value)?;
    domain.set_param(request.index, request.value)?;
    if request.index == HVM_PARAM_CALLBACK_IRQ {
        if domain.id == caller.domain.id {
            domain.latch_layout(caller.cpu);
        }
        // What became pending before there was a way to tell.
        for vcpu in domain.vcpus().iter().filter(|vcpu| vcpu.events.upcall_pending()) {
            vcpu.raise_upcall();
        }
    }
    Ok(())
}

/// A domain sets some of its own; the others are the toolstack's, and some are set once.
fn check_may_set(caller: &Caller<'_>, domain: &Domain, index: u32) -> Result<(), Errno> {
    if domain.id != caller.domain.id {
        caller.require_privilege()?;
    }
    match index {
        HVM_PARAM_CALLBACK_IRQ
        | HVM_PARAM_VM86_TSS
        | HVM_PARAM_VM86_TSS_SIZED
        | HVM_PARAM_ACPI_IOPORTS_LOCATION
        | HVM_PARAM_VM_GENERATION_ID_ADDR
        | HVM_PARAM_STORE_EVTCHN
        | HVM_PARAM_CONSOLE_EVTCHN
        | HVM_PARAM_X87_FIP_WIDTH => {}
        _ if is_deprecated(index) => return Err(Errno::EINVAL),
        _ if domain.id == caller.domain.id => return Err(Errno::EPERM),
        _ => {}
    }
    let set_once = matches!(
        index,
        HVM_PARAM_STORE_PFN
            | HVM_PARAM_CONSOLE_PFN
            | HVM_PARAM_IOREQ_PFN
            | HVM_PARAM_BUFIOREQ_PFN
            | HVM_PARAM_ALTP2M
            | HVM_PARAM_MCA_CAP
    );
    if set_once && domain.param(index) != 0 {
        Err(Errno::EEXIST)
    } else {
        Ok(())
    }
}

fn check_value(domain: &Domain, index: u32, value: u64) -> Result<(), Errno> {
    let fine = match index {
        HVM_PARAM_TIMER_MODE => value <= 3,
        HVM_PARAM_TRIPLE_FAULT_REASON => value <= u64::from(SHUTDOWN_MAX),
        HVM_PARAM_X87_FIP_WIDTH => matches!(value, 0 | 4 | 8),
        HVM_PARAM_ALTP2M | HVM_PARAM_MCA_CAP => value == 0,
        HVM_PARAM_IOREQ_PFN | HVM_PARAM_BUFIOREQ_PFN => Gfn(value) < domain.p2m.limit(),
        _ => true,
    };
    if fine { Ok(()) } else { Err(Errno::EINVAL) }
}

fn get_param(caller: &mut Caller<'_>, at: u64) -> Result<(), Errno> {
    let mut request: HvmParam = caller.read(at)?;
    if request.index >= HVM_NR_PARAMS {
        return Err(Errno::EINVAL);
    }
    let domain = caller.target(request.domid)?;
    let for_guest = matches!(
        request.index,
        HVM_PARAM_CALLBACK_IRQ
            | HVM_PARAM_VM86_TSS
            | HVM_PARAM_VM86_TSS_SIZED
            | HVM_PARAM_ACPI_IOPORTS_LOCATION
            | HVM_PARAM_VM_GENERATION_ID_ADDR
            | HVM_PARAM_STORE_PFN
            | HVM_PARAM_STORE_EVTCHN
            | HVM_PARAM_CONSOLE_PFN
            | HVM_PARAM_CONSOLE_EVTCHN
            | HVM_PARAM_ALTP2M
            | HVM_PARAM_X87_FIP_WIDTH
    );
    if is_deprecated(request.index) {
        return Err(Errno::EINVAL);
    }
    if !for_guest && domain.id == caller.domain.id {
        return Err(Errno::EPERM);
    }
    request.value = domain.param(request.index);
    caller.write(at, &request)
}

/// Vectors below 16 are exceptions.
fn set_upcall_vector(caller: &mut Caller<'_>, at: u64) -> Result<(), Errno> {
    let request: HvmEvtchnUpcallVector = caller.read(at)?;
    if request.vector < 16 {
        return Err(Errno::EINVAL);
    }
    let vcpu = caller.domain.vcpu(VcpuId(request.vcpu)).ok_or(Errno::ENOENT)?;
    vcpu.upcall_vector.store(request.vector, SeqCst);
    if vcpu.events.upcall_pending() {
        vcpu.raise_upcall();
    }
    Ok(())
}

fn get_mem_type(caller: &mut Caller<'_>, at: u64) -> Result<(), Errno> {
    let mut request: HvmGetMemType = caller.read(at)?;
    let domain = caller.target(request.domid)?;
    request.mem_type = match domain.p2m.lookup(Gfn(request.pfn)).map(|entry| entry.kind) {
        Some(Kind::RamRo | Kind::GrantRo) => HVMMEM_RAM_RO,
        Some(Kind::RamRw | Kind::GrantRw | Kind::Foreign) => HVMMEM_RAM_RW,
        Some(Kind::MmioDirect | Kind::ApicAccess) | None => HVMMEM_MMIO_DM,
    };
    caller.write(at, &request)
}
