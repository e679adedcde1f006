//! Called well and badly: what concerns vCPUs: `hvm_op`, `vcpu_op`, `sched_op`.

use abi::domid::DOMID_SELF;
use abi::event_channel::*;
use abi::hvm::*;
use abi::hypercall::*;
use abi::sched::*;
use abi::shared_info::VcpuTimeInfo;
use abi::vcpu::*;
use abi::{Errno, GuestHandle};
use core::sync::atomic::Ordering::SeqCst;

use crate::domain::vcpu::{Hold, NEVER, Request};
use crate::hw::time::{TEST_TSC, tsc};
use crate::hypercall::testing::{ARG, BAD, LIST, World};
use crate::types::VcpuId;

const EVTCHN: u32 = HYPERVISOR_EVENT_CHANNEL_OP;
const HVM: u32 = HYPERVISOR_HVM_OP;
const VCPU: u32 = HYPERVISOR_VCPU_OP;
const SCHED: u32 = HYPERVISOR_SCHED_OP;

#[test]
fn parameters() {
    let mut dom0 = World::privileged();
    let mut guest = World::new();
    let id = guest.domain.id.0;
    let param = |domid, index, value| HvmParam {
        domid,
        index,
        value,
        ..Default::default()
    };
    let set = |world: &mut World, domid, index, value| {
        world.op(HVM, HVMOP_SET_PARAM, &mut param(domid, index, value))
    };
    assert_eq!(set(&mut dom0, id, HVM_PARAM_STORE_PFN, 0xfeffc), Ok(0));
    assert_eq!(
        set(&mut dom0, id, HVM_PARAM_STORE_PFN, 0xfeffd),
        Err(Errno::EEXIST)
    );
    assert_eq!(
        set(&mut guest, DOMID_SELF, HVM_PARAM_STORE_PFN, 1),
        Err(Errno::EPERM)
    );
    assert_eq!(set(&mut guest, DOMID_SELF, HVM_PARAM_STORE_EVTCHN, 4), Ok(0));
    assert_eq!(set(&mut guest, DOMID_SELF, HVM_NR_PARAMS, 4), Err(Errno::EINVAL));
    assert_eq!(
        set(&mut guest, DOMID_SELF, 4, 4),
        Err(Errno::EINVAL),
        "deprecated"
    );
    assert_eq!(
        set(&mut guest, DOMID_SELF, HVM_PARAM_X87_FIP_WIDTH, 5),
        Err(Errno::EINVAL)
    );
    assert_eq!(
        set(&mut guest, dom0.domain.id.0, HVM_PARAM_STORE_EVTCHN, 4),
        Err(Errno::EPERM)
    );
    assert_eq!(
        set(&mut guest, 0x7000, HVM_PARAM_STORE_EVTCHN, 4),
        Err(Errno::ESRCH)
    );
    assert_eq!(
        set(&mut guest, DOMID_SELF, HVM_PARAM_CALLBACK_IRQ, 2 << 56 | 0xf3),
        Ok(0)
    );
    assert_eq!(guest.domain.callback_vector(), Some(0xf3));
    let mut get = param(DOMID_SELF, HVM_PARAM_STORE_PFN, 0);
    assert_eq!(guest.op(HVM, HVMOP_GET_PARAM, &mut get), Ok(0));
    assert_eq!(get.value, 0xfeffc);
    let mut get = param(DOMID_SELF, HVM_PARAM_IOREQ_PFN, 0);
    assert_eq!(guest.op(HVM, HVMOP_GET_PARAM, &mut get), Err(Errno::EPERM));
    let mut get = param(id, HVM_PARAM_TRIPLE_FAULT_REASON, 0);
    assert_eq!(dom0.op(HVM, HVMOP_GET_PARAM, &mut get), Ok(0));
    assert_eq!(get.value, SHUTDOWN_REBOOT.into());
    guest.faults(HVM, HVMOP_SET_PARAM);
    guest.faults(HVM, HVMOP_GET_PARAM);
}

#[test]
fn other_hvm_operations() {
    let mut guest = World::new();
    let mut vector = HvmEvtchnUpcallVector {
        vcpu: 1,
        vector: 0xf3,
        ..Default::default()
    };
    assert_eq!(guest.op(HVM, HVMOP_SET_EVTCHN_UPCALL_VECTOR, &mut vector), Ok(0));
    vector.vector = 15;
    assert_eq!(
        guest.op(HVM, HVMOP_SET_EVTCHN_UPCALL_VECTOR, &mut vector),
        Err(Errno::EINVAL)
    );
    vector = HvmEvtchnUpcallVector {
        vcpu: 3,
        vector: 16,
        ..vector
    };
    assert_eq!(
        guest.op(HVM, HVMOP_SET_EVTCHN_UPCALL_VECTOR, &mut vector),
        Err(Errno::ENOENT)
    );
    guest.faults(HVM, HVMOP_SET_EVTCHN_UPCALL_VECTOR);
    assert_eq!(guest.call(HVM, &[HVMOP_FLUSH_TLBS.into(), 0]), Ok(0));
    assert_eq!(guest.call(HVM, &[HVMOP_FLUSH_TLBS.into(), 1]), Err(Errno::EINVAL));
    assert_eq!(guest.call(HVM, &[HVMOP_GET_TIME.into(), ARG]), Ok(0));
    guest.faults(HVM, HVMOP_GET_TIME);
    let mut kind = HvmGetMemType {
        domid: DOMID_SELF,
        pfn: 3,
        mem_type: 9,
        ..Default::default()
    };
    assert_eq!(guest.op(HVM, HVMOP_GET_MEM_TYPE, &mut kind), Ok(0));
    assert_eq!(kind.mem_type, HVMMEM_RAM_RW);
    kind.pfn = 0x1234;
    assert_eq!(guest.op(HVM, HVMOP_GET_MEM_TYPE, &mut kind), Ok(0));
    assert_eq!(kind.mem_type, HVMMEM_MMIO_DM);
    guest.faults(HVM, HVMOP_GET_MEM_TYPE);
    assert_eq!(
        guest.call(HVM, &[HVMOP_ALTP2M.into(), ARG]),
        Err(Errno::EOPNOTSUPP)
    );
}

#[test]
fn vcpu_info_moves_once() {
    let mut guest = World::new();
    let mut info = VcpuRegisterVcpuInfo {
        mfn: 6,
        offset: 0x100,
        rsvd: 0,
    };
    let register = |guest: &mut World, vcpu: u64, info: &mut VcpuRegisterVcpuInfo| {
        guest.put(ARG, info);
        guest.call(VCPU, &[VCPUOP_REGISTER_VCPU_INFO.into(), vcpu, ARG])
    };
    for (mfn, offset, errno) in [
        (6, 4096 - 63, Errno::ENXIO),
        (6, u32::MAX, Errno::ENXIO),
        (6, 4, Errno::ENXIO),
        (0x999, 0, Errno::EINVAL),
        (u64::MAX, 0, Errno::EINVAL),
    ] {
        assert_eq!(
            register(&mut guest, 0, &mut VcpuRegisterVcpuInfo { mfn, offset, rsvd: 0 }),
            Err(errno)
        );
    }
    assert_eq!(register(&mut guest, 3, &mut info), Err(Errno::ENOENT));
    assert_eq!(register(&mut guest, 0, &mut info), Ok(0));
    assert_eq!(register(&mut guest, 0, &mut info), Err(Errno::EINVAL));
    assert_eq!(guest.get::<u8>(0x6100), 1, "everything may be pending");
    assert_eq!(guest.get::<u64>(0x6108), u64::MAX);
    assert_eq!(guest.get::<u32>(0x6100 + 32) % 2, 0, "the clock is complete");
    info.mfn = 7;
    assert_eq!(register(&mut guest, 1, &mut info), Ok(0), "one that is down");
    assert_eq!(
        guest.call(VCPU, &[VCPUOP_REGISTER_VCPU_INFO.into(), 2, BAD]),
        Err(Errno::EFAULT)
    );
    guest.put(0x6100, &0u64);
    let mut ipi = EvtchnBindIpi { vcpu: 0, port: 0 };
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_BIND_IPI, &mut ipi), Ok(0));
    assert_eq!(
        guest.op(EVTCHN, EVTCHNOP_SEND, &mut EvtchnPortArg { port: ipi.port }),
        Ok(0)
    );
    assert_eq!(guest.get::<u8>(0x6100), 0, "the selector was set already");
    assert_eq!(
        guest
            .domain
            .shared_info
            .u8_at(0)
            .load(core::sync::atomic::Ordering::SeqCst),
        0
    );
}

#[test]
fn timers() {
    let mut guest = World::new();
    let op = |guest: &mut World, operation: u32, vcpu: u64| guest.call(VCPU, &[operation.into(), vcpu, ARG]);
    let deadline = |guest: &World| {
        guest
            .domain
            .vcpu(VcpuId(0))
            .expect("vcpu")
            .timers
            .singleshot
            .load(core::sync::atomic::Ordering::SeqCst)
    };
    guest.put(
        ARG,
        &VcpuSetSingleshotTimer {
            timeout_abs_ns: 1 << 40,
            flags: VCPU_SSHOTTMR_FUTURE,
            pad: 0,
        },
    );
    assert_eq!(op(&mut guest, VCPUOP_SET_SINGLESHOT_TIMER, 0), Ok(0));
    assert_eq!(deadline(&guest), 1 << 40);
    assert_eq!(
        op(&mut guest, VCPUOP_SET_SINGLESHOT_TIMER, 1),
        Err(Errno::EINVAL),
        "another's"
    );
    assert_eq!(
        op(&mut guest, VCPUOP_STOP_SINGLESHOT_TIMER, 1),
        Err(Errno::EINVAL)
    );
    assert_eq!(op(&mut guest, VCPUOP_STOP_SINGLESHOT_TIMER, 0), Ok(0));
    assert_eq!(deadline(&guest), u64::MAX);
    assert_eq!(
        op(&mut guest, VCPUOP_STOP_PERIODIC_TIMER, 0),
        Ok(0),
        "Linux probes with this one"
    );
    guest.put(ARG, &VcpuSetPeriodicTimer { period_ns: 999_999 });
    assert_eq!(op(&mut guest, VCPUOP_SET_PERIODIC_TIMER, 0), Err(Errno::EINVAL));
    guest.put(ARG, &VcpuSetPeriodicTimer { period_ns: 1_000_000 });
    assert_eq!(op(&mut guest, VCPUOP_SET_PERIODIC_TIMER, 0), Ok(0));
    assert_eq!(guest.call(HYPERVISOR_SET_TIMER_OP, &[77]), Ok(0));
    assert_eq!(deadline(&guest), 77);
    assert_eq!(guest.call(HYPERVISOR_SET_TIMER_OP, &[0]), Ok(0));
    assert_eq!(deadline(&guest), u64::MAX);
    for operation in [VCPUOP_SET_PERIODIC_TIMER, VCPUOP_SET_SINGLESHOT_TIMER] {
        assert_eq!(guest.call(VCPU, &[operation.into(), 0, BAD]), Err(Errno::EFAULT));
    }
}

/// The machine's clock on the host ticks once a nanosecond.
#[test]
fn time_stands_still_while_paused() {
    const PAUSED: u64 = 1 << 33;
    let mut guest = World::new();
    let domain = guest.domain.clone();
    let vcpu = domain.vcpu(VcpuId(0)).expect("vcpu").clone();
    let pass = |time| {
        TEST_TSC.fetch_add(time, SeqCst);
    };
    let tsc = || vcpu.tsc.at(tsc());
    // What the guest computes from its clock (xen public xen.h, vcpu_time_info), and from that the time of day.
    let clock = |guest: &World| {
        let info: VcpuTimeInfo = guest.get(0x6000 + 32);
        assert_eq!((info.tsc_to_system_mul, info.tsc_shift), (1 << 31, 1));
        let now = tsc()
            .wrapping_sub(info.tsc_timestamp)
            .wrapping_add(info.system_time);
        assert_eq!(now, vcpu.system_time());
        let word = |at| u64::from(domain.shared_info.u32_at(at).load(SeqCst));
        (now, word(3076) * 1_000_000_000 + word(3080) + now)
    };
    pass(1 << 20);
    guest.put(
        ARG,
        &VcpuRegisterVcpuInfo {
            mfn: 6,
            ..Default::default()
        },
    );
    assert_eq!(
        guest.call(VCPU, &[VCPUOP_REGISTER_VCPU_INFO.into(), 0, ARG]),
        Ok(0)
    );
    assert_eq!(guest.call(HYPERVISOR_SET_TIMER_OP, &[1 << 40]), Ok(0));
    vcpu.timers.watchdogs[1].store(1 << 41, SeqCst);
    domain.unpause().expect("it was created paused");
    assert_eq!(domain.unpause(), Err(Errno::EINVAL));
    let (system, of_day) = clock(&guest);
    for _ in 0..2 {
        let ticks = tsc();
        domain.pause();
        pass(PAUSED / 4);
        domain.pause();
        pass(PAUSED / 4);
        assert_eq!(domain.unpause(), Ok(()));
        assert_eq!(domain.unpause(), Ok(()));
        assert_eq!(tsc(), ticks);
    }
    let (later, of_that_day) = clock(&guest);
    assert_eq!((later, of_that_day), (system, of_day + PAUSED));
    let timers = &vcpu.timers;
    domain.pause();
    assert_eq!(vcpu.deadline_passed(u64::MAX - 1), NEVER);
    let asked = vcpu.requests().contains(Request::TIMER);
    assert!(!asked, "it is not told of what it has time for yet");
    assert_eq!(domain.unpause(), Ok(()));
    assert_eq!(domain.shutdown_reason(), None);
    assert_eq!(timers.singleshot.load(SeqCst), (1 << 40) + PAUSED);
    assert_eq!(timers.watchdogs[1].load(SeqCst), (1 << 41) + PAUSED);
    assert_eq!(
        (timers.lapic.load(SeqCst), timers.poll.load(SeqCst)),
        (NEVER, NEVER)
    );
    pass(1000);
    assert_eq!(clock(&guest), (system + 1000, of_day + PAUSED + 1000));
    assert_eq!(guest.call(HYPERVISOR_SET_TIMER_OP, &[77]), Ok(0));
    assert_eq!(timers.singleshot.load(SeqCst), 77 + PAUSED);
}

#[test]
fn up_and_down() {
    let mut guest = World::new();
    let op = |guest: &mut World, operation: u32, vcpu: u64| guest.call(VCPU, &[operation.into(), vcpu, ARG]);
    assert_eq!(op(&mut guest, VCPUOP_IS_UP, 0), Ok(1));
    assert_eq!(op(&mut guest, VCPUOP_IS_UP, 1), Ok(0));
    assert_eq!(
        op(&mut guest, VCPUOP_UP, 1),
        Err(Errno::EINVAL),
        "it has no state"
    );
    let mut context = VcpuHvmContext {
        mode: 7,
        ..Default::default()
    };
    guest.put(ARG, &context);
    assert_eq!(op(&mut guest, VCPUOP_INITIALISE, 1), Err(Errno::EINVAL));
    context.mode = VCPU_HVM_MODE_64B;
    let good = VcpuHvmX8664 {
        cr0: 0x8000_0001,
        cr4: 1 << 5,
        efer: 1 << 8,
        rip: 0x4000,
        ..Default::default()
    };
    let impossible = [
        VcpuHvmX8664 { efer: 0, ..good },
        VcpuHvmX8664 {
            efer: good.efer | 1 << 12,
            ..good
        },
        VcpuHvmX8664 { cr0: 1, ..good },
        VcpuHvmX8664 { cr4: 0, ..good },
        VcpuHvmX8664 {
            cr4: good.cr4 | 1 << 63,
            ..good
        },
        VcpuHvmX8664 { cr3: 1 << 63, ..good },
    ];
    for state in impossible {
        context.cpu_regs.set(&state);
        guest.put(ARG, &context);
        assert_eq!(
            op(&mut guest, VCPUOP_INITIALISE, 1),
            Err(Errno::EINVAL),
            "{state:x?}"
        );
    }
    context.cpu_regs.set(&good);
    guest.put(ARG, &context);
    assert_eq!(op(&mut guest, VCPUOP_INITIALISE, 1), Ok(0));
    assert_eq!(op(&mut guest, VCPUOP_INITIALISE, 1), Err(Errno::EEXIST));
    assert_eq!(op(&mut guest, VCPUOP_UP, 1), Ok(0));
    assert_eq!(op(&mut guest, VCPUOP_IS_UP, 1), Ok(1));
    assert_eq!(op(&mut guest, VCPUOP_DOWN, 1), Ok(0));
    assert_eq!(guest.domain.shutdown_reason(), None);
    assert_eq!(op(&mut guest, VCPUOP_DOWN, 0), Ok(0));
    assert_eq!(
        guest.domain.shutdown_reason(),
        Some(SHUTDOWN_POWEROFF),
        "the last one"
    );
    assert_eq!(op(&mut guest, VCPUOP_SEND_NMI, 0), Ok(0));
    assert_eq!(op(&mut guest, VCPUOP_IS_UP, 3), Err(Errno::ENOENT));
    assert_eq!(
        guest.call(VCPU, &[VCPUOP_INITIALISE.into(), 2, BAD]),
        Err(Errno::EFAULT)
    );
}

#[test]
fn areas() {
    let mut guest = World::new();
    guest.put(ARG, &0x6000u64);
    assert_eq!(
        guest.call(VCPU, &[VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA.into(), 0, ARG]),
        Ok(0)
    );
    guest
        .domain
        .vcpu(VcpuId(0))
        .expect("vcpu")
        .areas
        .change_state(RUNSTATE_RUNNING, 1 << 40);
    let info: VcpuRunstateInfo = guest.get(0x6000);
    assert_eq!((info.state, info.state_entry_time), (RUNSTATE_RUNNING, 1 << 40));
    assert_eq!(
        guest.call(VCPU, &[VCPUOP_GET_RUNSTATE_INFO.into(), 0, LIST]),
        Ok(0)
    );
    assert_eq!(guest.get::<VcpuRunstateInfo>(LIST).state, RUNSTATE_RUNNING);
    guest.put(ARG, &0x6100u64);
    assert_eq!(
        guest.call(VCPU, &[VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA.into(), 0, ARG]),
        Ok(0)
    );
    assert_eq!(guest.get::<u32>(0x6100), 2, "version");
    guest.put(ARG, &BAD);
    for operation in [
        VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA,
        VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA,
    ] {
        assert_eq!(guest.call(VCPU, &[operation.into(), 0, BAD]), Err(Errno::EFAULT));
        assert_eq!(
            guest.call(VCPU, &[operation.into(), 0, ARG]),
            Err(Errno::EFAULT),
            "the area itself"
        );
    }
}

/// A port of the guest's own, and a poll of it.
fn poll_of_a_port(guest: &mut World) -> (u32, SchedPoll) {
    let mut ipi = EvtchnBindIpi { vcpu: 0, port: 0 };
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_BIND_IPI, &mut ipi), Ok(0));
    guest.put(LIST, &ipi.port);
    let poll = SchedPoll {
        ports: GuestHandle::new(LIST),
        nr_ports: 1,
        pad: 0,
        timeout: 0,
    };
    (ipi.port, poll)
}

#[test]
fn waiting() {
    let mut guest = World::new();
    let vcpu = guest.domain.vcpu(VcpuId(0)).expect("vcpu").clone();
    assert_eq!(guest.call(SCHED, &[SCHEDOP_YIELD.into(), 0]), Ok(0));
    let _ = vcpu.take(Request::LEAVE);
    assert_eq!(guest.call(SCHED, &[SCHEDOP_BLOCK.into(), 0]), Ok(0));
    assert!(vcpu.held_by(Hold::BLOCKED));
    let (port, mut poll) = poll_of_a_port(&mut guest);
    assert!(!guest.domain.has_pollers());
    assert_eq!(guest.op(SCHED, SCHEDOP_POLL, &mut poll), Ok(0));
    assert!(vcpu.held_by(Hold::POLLING) && guest.domain.has_pollers());
    // Masked as it is, it ends the poll.
    guest
        .domain
        .shared_info
        .u64_at(2560)
        .store(u64::MAX, core::sync::atomic::Ordering::SeqCst);
    assert_eq!(
        guest.op(EVTCHN, EVTCHNOP_SEND, &mut EvtchnPortArg { port }),
        Ok(0)
    );
    assert!(!vcpu.held_by(Hold::POLLING));
    assert_eq!(guest.op(SCHED, SCHEDOP_POLL, &mut poll), Ok(0));
    assert!(!vcpu.held_by(Hold::POLLING), "pending already");
    assert!(!guest.domain.has_pollers());
    poll.nr_ports = 129;
    assert_eq!(guest.op(SCHED, SCHEDOP_POLL, &mut poll), Err(Errno::EINVAL));
    poll.nr_ports = 1;
    guest.put(LIST, &u32::MAX);
    assert_eq!(guest.op(SCHED, SCHEDOP_POLL, &mut poll), Err(Errno::EINVAL));
    poll.ports = GuestHandle::new(BAD);
    assert_eq!(guest.op(SCHED, SCHEDOP_POLL, &mut poll), Err(Errno::EFAULT));
    guest.faults(SCHED, SCHEDOP_POLL);
}

/// Nothing makes port 0 pending, but the poll of it ends as any other does.
#[test]
fn a_poll_of_port_0_is_ended_by_others() {
    let mut guest = World::new();
    let vcpu = guest.domain.vcpu(VcpuId(0)).expect("vcpu").clone();
    let (_, mut poll) = poll_of_a_port(&mut guest);
    guest.put(LIST, &0u32);
    assert_eq!(guest.op(SCHED, SCHEDOP_POLL, &mut poll), Ok(0));
    assert!(vcpu.held_by(Hold::POLLING) && guest.domain.has_pollers());
    vcpu.request(Request::TIMER);
    assert!(!vcpu.held_by(Hold::POLLING) && !guest.domain.has_pollers());
}

/// With interrupts off a poll waits for its ports alone, but for what interrupts are no matter of: it may have been asked for before it could be seen that the vCPU
/// polls.
#[test]
fn a_poll_does_not_keep_what_cannot_be_masked() {
    let mut guest = World::new();
    guest.cpu.interruptible = false;
    let vcpu = guest.domain.vcpu(VcpuId(0)).expect("vcpu").clone();
    let (_, mut poll) = poll_of_a_port(&mut guest);
    for (request, waits) in [
        (Request::INTERRUPT, true),
        (Request::NMI, false),
        (Request::STARTUP, false),
        (Request::TIMER, false),
    ] {
        vcpu.request(request);
        assert_eq!(guest.op(SCHED, SCHEDOP_POLL, &mut poll), Ok(0));
        assert_eq!(vcpu.held_by(Hold::POLLING), waits, "{request:?}");
        vcpu.end_poll(&guest.domain);
        vcpu.take(Request::all());
    }
}

#[test]
fn shutting_down() {
    let mut dom0 = World::privileged();
    let mut guest = World::new();
    let id = guest.domain.id.0;
    guest.faults(SCHED, SCHEDOP_SHUTDOWN);
    let mut remote = SchedRemoteShutdown {
        domain_id: dom0.domain.id.0,
        pad: 0,
        reason: SHUTDOWN_CRASH,
    };
    assert_eq!(
        guest.op(SCHED, SCHEDOP_REMOTE_SHUTDOWN, &mut remote),
        Err(Errno::EPERM)
    );
    assert_eq!(guest.domain.resume(), Err(Errno::EINVAL));
    assert_eq!(
        guest.op(
            SCHED,
            SCHEDOP_SHUTDOWN,
            &mut SchedShutdown {
                reason: SHUTDOWN_SUSPEND
            }
        ),
        Ok(0)
    );
    assert_eq!(guest.domain.shutdown_reason(), Some(SHUTDOWN_SUSPEND));
    assert_eq!(guest.domain.resume(), Ok(()));
    assert_eq!(
        guest.op(
            SCHED,
            SCHEDOP_SHUTDOWN_CODE,
            &mut SchedShutdown {
                reason: SHUTDOWN_CRASH
            }
        ),
        Ok(0)
    );
    assert_eq!(guest.domain.shutdown_reason(), None);
    remote = SchedRemoteShutdown {
        domain_id: id,
        pad: 0,
        reason: SHUTDOWN_POWEROFF,
    };
    assert_eq!(dom0.op(SCHED, SCHEDOP_REMOTE_SHUTDOWN, &mut remote), Ok(0));
    assert_eq!(
        guest.domain.shutdown_reason(),
        Some(SHUTDOWN_CRASH),
        "as recorded before"
    );
    remote.domain_id = 0x7000;
    assert_eq!(
        dom0.op(SCHED, SCHEDOP_REMOTE_SHUTDOWN, &mut remote),
        Err(Errno::ESRCH)
    );
}

#[test]
fn watchdogs() {
    let mut guest = World::new();
    let set = |guest: &mut World, id, timeout| {
        guest.op(SCHED, SCHEDOP_WATCHDOG, &mut SchedWatchdog { id, timeout })
    };
    assert_eq!(set(&mut guest, 3, 10), Err(Errno::EINVAL), "there are two");
    assert_eq!(set(&mut guest, 1, 10), Err(Errno::EINVAL), "not made yet");
    assert_eq!(set(&mut guest, 0, 10), Ok(1));
    assert_eq!(set(&mut guest, 0, 20), Ok(2));
    assert_eq!(set(&mut guest, 0, 30), Err(Errno::ENOSPC));
    let vcpu = guest.domain.vcpu(VcpuId(0)).expect("made with one").clone();
    let first = vcpu.timers.next();
    assert_eq!(set(&mut guest, 1, 100), Ok(0));
    assert!(vcpu.timers.next() > first, "put off");
    vcpu.deadline_passed(vcpu.timers.next());
    assert_eq!(guest.domain.shutdown_reason(), None, "it is paused");
    guest.domain.unpause().expect("it was created paused");
    vcpu.deadline_passed(vcpu.timers.next() - 1);
    assert_eq!(guest.domain.shutdown_reason(), None);
    assert_eq!(set(&mut guest, 2, 0), Ok(0));
    assert_eq!(set(&mut guest, 2, 5), Err(Errno::EINVAL), "removed");
    vcpu.deadline_passed(vcpu.timers.next());
    assert_eq!(guest.domain.shutdown_reason(), Some(SHUTDOWN_WATCHDOG));
    guest.faults(SCHED, SCHEDOP_WATCHDOG);
}

/// A domain that shuts down while it is resumed, and is paused from two CPUs at once.
#[test]
fn pauses_add_up_whoever_makes_them() {
    const ROUNDS: u32 = 2000;
    let guest = World::new();
    let domain = &guest.domain;
    domain.unpause().expect("it is paused once");
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    domain.pause();
                    assert!(domain.is_paused());
                    domain.unpause().expect("paused here");
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..ROUNDS {
                domain.shutdown(SHUTDOWN_SUSPEND);
                while domain.shutdown_reason().is_some() {
                    std::hint::spin_loop();
                }
            }
        });
        scope.spawn(|| {
            for _ in 0..ROUNDS {
                while domain.resume().is_err() {
                    std::hint::spin_loop();
                }
            }
        });
    });
    assert!(!domain.is_paused());
    assert!(domain.vcpus().iter().all(|vcpu| !vcpu.paused()));
}

/// A vCPU whose domain has used up its share gets a CPU again, whatever timer of its own passes before.
#[test]
fn a_parked_vcpu_is_not_forgotten_for_a_timer() {
    let guest = World::new();
    let vcpu = guest.domain.vcpu(VcpuId(0)).expect("vcpu");
    vcpu.timers.singleshot.store(50, SeqCst);
    vcpu.park(100);
    assert_eq!(vcpu.timers.next(), 50);
    assert_eq!(vcpu.deadline_passed(50), 100);
    assert!(vcpu.held_by(Hold::CAPPED));
    assert_eq!(vcpu.deadline_passed(100), NEVER);
    assert!(!vcpu.held_by(Hold::CAPPED));
}

/// A domain's watchdog is not forgotten when vCPU 0, with whose deadlines it is kept, is down, or has no CPU, when another of these passes.
#[test]
fn a_watchdog_is_not_forgotten_for_a_timer() {
    let guest = World::new();
    guest.domain.unpause().expect("it was created paused");
    let vcpu = guest.domain.vcpu(VcpuId(0)).expect("vcpu");
    vcpu.hold(Hold::DOWN);
    vcpu.timers.singleshot.store(50, SeqCst);
    vcpu.timers.watchdogs[1].store(200, SeqCst);
    assert_eq!(vcpu.deadline_passed(50), 200);
    vcpu.park(100);
    assert_eq!(vcpu.deadline_passed(60), 100, "whichever comes first");
    assert_eq!(vcpu.deadline_passed(100), 200);
    assert_eq!(guest.domain.shutdown_reason(), None);
    assert_eq!(vcpu.deadline_passed(200), NEVER);
    assert_eq!(guest.domain.shutdown_reason(), Some(SHUTDOWN_WATCHDOG));
}
