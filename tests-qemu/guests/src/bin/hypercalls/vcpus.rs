//! `vcpu_op`, `sched_op` and `hvm_op`.

use alloc::format;
use core::ptr;

use abi::GuestHandle;
use abi::domid::DOMID_SELF;
use abi::hvm::*;
use abi::hypercall::*;
use abi::sched::*;
use abi::vcpu::*;
use guest_rt::time;
use guests::hypercall::{UNMAPPED, call, op};
use guests::report::Report;
use zerocopy::FromZeros;

use super::{EFAULT, EINVAL, ENOENT, ENOSYS, ENXIO, EPERM, ESRCH, ETIME, NOBODY, bad_pointers, spare};

pub fn vcpu(report: &mut Report) {
    const NUMBER: u32 = HYPERVISOR_VCPU_OP;
    let on = |sub: u32, vcpu: u64, argument: u64| call(NUMBER, [sub.into(), vcpu, argument, 0, 0]);
    report.equal("vcpu-is-up", on(VCPUOP_IS_UP, 0, 0), 1);
    report.equal("vcpu-is-up-nobody", on(VCPUOP_IS_UP, 500, 0), ENOENT);
    report.equal("vcpu-is-up-max", on(VCPUOP_IS_UP, u64::MAX, 0), ENOENT);
    report.equal("vcpu-unknown", on(99, 0, 0), ENOSYS);
    let mut runstate = VcpuRunstateInfo::new_zeroed();
    report.equal(
        "vcpu-runstate",
        on(VCPUOP_GET_RUNSTATE_INFO, 0, ptr::from_mut(&mut runstate) as u64),
        0,
    );
    report.equal("vcpu-runstate-running", runstate.state, RUNSTATE_RUNNING);
    report.check(
        "vcpu-runstate-time",
        runstate.time[0] > 0,
        format!("{runstate:?}"),
    );
    report.equal(
        "vcpu-runstate-unmapped",
        on(VCPUOP_GET_RUNSTATE_INFO, 0, UNMAPPED),
        EFAULT,
    );
    let mut timer = VcpuSetSingleshotTimer {
        timeout_abs_ns: time::now() + 1_000_000_000_000,
        ..FromZeros::new_zeroed()
    };
    let set = |timer: &VcpuSetSingleshotTimer, vcpu| {
        on(VCPUOP_SET_SINGLESHOT_TIMER, vcpu, ptr::from_ref(timer) as u64)
    };
    report.equal("vcpu-timer", set(&timer, 0), 0);
    report.equal("vcpu-timer-stop", on(VCPUOP_STOP_SINGLESHOT_TIMER, 0, 0), 0);
    timer.timeout_abs_ns = 1;
    report.equal("vcpu-timer-past", set(&timer, 0), 0);
    timer.flags = VCPU_SSHOTTMR_FUTURE;
    // Xen has ignored the flag since 4.16; it used to refuse.
    report.one_of("vcpu-timer-past-refused", set(&timer, 0), &[0, ETIME]);
    report.equal(
        "vcpu-timer-unmapped",
        on(VCPUOP_SET_SINGLESHOT_TIMER, 0, UNMAPPED),
        EFAULT,
    );
    let mut period = VcpuSetPeriodicTimer { period_ns: 1 };
    let answer = on(VCPUOP_SET_PERIODIC_TIMER, 0, ptr::from_mut(&mut period) as u64);
    report.equal("vcpu-periodic-too-short", answer, EINVAL);
    report.equal("vcpu-periodic-stop", on(VCPUOP_STOP_PERIODIC_TIMER, 0, 0), 0);
    let answer = on(VCPUOP_INITIALISE, 500, 0);
    report.equal("vcpu-initialise-nobody", answer, ENOENT);
    let info = VcpuRegisterVcpuInfo {
        mfn: 1 << 40,
        offset: 0,
        rsvd: 0,
    };
    let answer = on(VCPUOP_REGISTER_VCPU_INFO, 0, ptr::from_ref(&info) as u64);
    report.check("vcpu-info-nowhere", answer < 0, format!("{answer}"));
    let info = VcpuRegisterVcpuInfo {
        mfn: spare(),
        offset: 4090,
        rsvd: 0,
    };
    let answer = on(VCPUOP_REGISTER_VCPU_INFO, 0, ptr::from_ref(&info) as u64);
    report.equal("vcpu-info-crosses", answer, ENXIO);
    report.equal(
        "set-timer-op",
        call(HYPERVISOR_SET_TIMER_OP, [time::now() + (1 << 40), 0, 0, 0, 0]),
        0,
    );
    report.equal("set-timer-op-stop", call(HYPERVISOR_SET_TIMER_OP, [0; 5]), 0);
}

pub fn sched(report: &mut Report) {
    const NUMBER: u32 = HYPERVISOR_SCHED_OP;
    report.equal("sched-yield", call(NUMBER, [SCHEDOP_YIELD.into(), 0, 0, 0, 0]), 0);
    report.equal("sched-unknown", call(NUMBER, [99, 0, 0, 0, 0]), ENOSYS);
    let mut poll = SchedPoll {
        ports: GuestHandle::new(UNMAPPED),
        nr_ports: 1,
        ..FromZeros::new_zeroed()
    };
    report.equal("sched-poll-bad-list", op(NUMBER, SCHEDOP_POLL, &mut poll), EFAULT);
    let mut ports = [u32::MAX];
    poll.ports = GuestHandle::new(ports.as_mut_ptr() as u64);
    report.equal("sched-poll-port", op(NUMBER, SCHEDOP_POLL, &mut poll), EINVAL);
    poll.nr_ports = 1000;
    report.equal("sched-poll-too-many", op(NUMBER, SCHEDOP_POLL, &mut poll), EINVAL);
    poll.nr_ports = 0;
    let start = time::now();
    poll.timeout = start + 1_000_000;
    report.equal("sched-poll-timeout", op(NUMBER, SCHEDOP_POLL, &mut poll), 0);
    let waited = time::now() - start;
    report.check("sched-poll-waits", waited >= 1_000_000, format!("{waited} ns"));
    let mut watchdog = SchedWatchdog { id: 77, timeout: 10 };
    report.equal(
        "sched-watchdog-id",
        op(NUMBER, SCHEDOP_WATCHDOG, &mut watchdog),
        EINVAL,
    );
    let mut remote = SchedRemoteShutdown {
        domain_id: NOBODY,
        pad: 0,
        reason: 0,
    };
    report.equal(
        "sched-remote-nobody",
        op(NUMBER, SCHEDOP_REMOTE_SHUTDOWN, &mut remote),
        ESRCH,
    );
    bad_pointers(report, "sched-shutdown", NUMBER, SCHEDOP_SHUTDOWN);
    bad_pointers(report, "sched-poll", NUMBER, SCHEDOP_POLL);
}

pub fn hvm(report: &mut Report) {
    const NUMBER: u32 = HYPERVISOR_HVM_OP;
    let mut param = HvmParam {
        domid: DOMID_SELF,
        pad: 0,
        index: HVM_PARAM_CALLBACK_IRQ,
        value: 0,
    };
    report.equal("hvm-get-param", op(NUMBER, HVMOP_GET_PARAM, &mut param), 0);
    const VECTOR: u64 = 2 << 56;
    report.equal(
        "hvm-callback-is-set",
        param.value,
        VECTOR | u64::from(guest_rt::event::UPCALL_VECTOR),
    );
    param.index = HVM_NR_PARAMS;
    report.equal(
        "hvm-get-param-beyond",
        op(NUMBER, HVMOP_GET_PARAM, &mut param),
        EINVAL,
    );
    report.equal(
        "hvm-set-param-beyond",
        op(NUMBER, HVMOP_SET_PARAM, &mut param),
        EINVAL,
    );
    param.index = u32::MAX;
    report.equal(
        "hvm-get-param-max",
        op(NUMBER, HVMOP_GET_PARAM, &mut param),
        EINVAL,
    );
    param.index = HVM_PARAM_STORE_PFN;
    report.equal(
        "hvm-set-param-not-own",
        op(NUMBER, HVMOP_SET_PARAM, &mut param),
        EPERM,
    );
    param.domid = NOBODY;
    report.equal(
        "hvm-get-param-nobody",
        op(NUMBER, HVMOP_GET_PARAM, &mut param),
        ESRCH,
    );
    let mut vector = HvmEvtchnUpcallVector {
        vcpu: 0,
        vector: 3,
        pad: [0; 3],
    };
    let answer = op(NUMBER, HVMOP_SET_EVTCHN_UPCALL_VECTOR, &mut vector);
    report.equal("hvm-upcall-vector-exception", answer, EINVAL);
    vector.vector = 0x70;
    vector.vcpu = 500;
    let answer = op(NUMBER, HVMOP_SET_EVTCHN_UPCALL_VECTOR, &mut vector);
    report.equal("hvm-upcall-vector-vcpu", answer, ENOENT);
    bad_pointers(report, "hvm-get-param", NUMBER, HVMOP_GET_PARAM);
    bad_pointers(report, "hvm-set-param", NUMBER, HVMOP_SET_PARAM);
    report.equal("hvm-unknown", call(NUMBER, [99, 0, 0, 0, 0]), ENOSYS);
}
