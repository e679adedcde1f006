//! Every hypercall operation that a domain may use on itself, called well and badly, with the answer expected.
//!
//! Negative expectations are what Xen 4.17 answers.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use core::ptr;

use abi::domid::DOMID_SELF;
use abi::event_channel::*;
use abi::grant::*;
use abi::hvm::*;
use abi::hypercall::*;
use abi::memory::*;
use abi::platform::*;
use abi::sched::*;
use abi::vcpu::*;
use abi::version::*;
use abi::{Errno, GuestHandle};
use guest_rt::start_info::StartInfo;
use guest_rt::time;
use guests::cpu;
use guests::frames::{self, Frames};
use guests::hypercall::{UNMAPPED, call, error_code, op};
use guests::report::Report;
use zerocopy::FromZeros;

guest_rt::main!(main);

/// Answers as a C caller sees them.
const EFAULT: i64 = error_code(Errno::EFAULT);
const EINVAL: i64 = error_code(Errno::EINVAL);
const ENOENT: i64 = error_code(Errno::ENOENT);
const ENOSYS: i64 = error_code(Errno::ENOSYS);
const ENXIO: i64 = error_code(Errno::ENXIO);
const EPERM: i64 = error_code(Errno::EPERM);
const ESRCH: i64 = error_code(Errno::ESRCH);
const EEXIST: i64 = error_code(Errno::EEXIST);
const ETIME: i64 = error_code(Errno::ETIME);

/// A domain that does not exist.
const NOBODY: u16 = 0x1234;

/// Frames that may be given away and taken back.
const SPARE: usize = 16;

static FRAMES: Frames<SPARE> = Frames::new();

/// The first of the spare frames.
fn spare() -> u64 {
    FRAMES.first()
}

fn main(_: StartInfo) -> ! {
    cpu::init();
    let mut report = Report::default();
    version(&mut report);
    memory(&mut report);
    events(&mut report);
    vcpu(&mut report);
    sched(&mut report);
    hvm(&mut report);
    grants(&mut report);
    others(&mut report);
    platform(&mut report);
    report.finish()
}

/// Pointers that are none: what every operation with an argument must refuse.
fn bad_pointers(report: &mut Report, name: &str, number: u32, sub: u32) {
    for (kind, address) in [("unmapped", UNMAPPED), ("last-bytes", u64::MAX - 3)] {
        let answer = call(number, [sub.into(), address, 0, 0, 0]);
        report.equal(&format!("{name}-{kind}"), answer, EFAULT);
    }
}

fn version(report: &mut Report) {
    const NUMBER: u32 = HYPERVISOR_XEN_VERSION;
    let version = call(NUMBER, [XENVER_VERSION.into(), 0, 0, 0, 0]);
    report.equal("version", version, XEN_VERSION_4_17.into());
    let mut extra = [0u8; 16];
    report.equal("version-extra", op(NUMBER, XENVER_EXTRAVERSION, &mut extra), 0);
    report.check("version-extra-ends", extra.contains(&0), format!("{extra:x?}"));
    let mut compile = CompileInfo::new_zeroed();
    report.equal(
        "version-compile-info",
        op(NUMBER, XENVER_COMPILE_INFO, &mut compile),
        0,
    );
    report.check("version-compiler", compile.compiler[0] != 0, "empty");
    let mut capabilities = [0u8; 1024];
    report.equal(
        "version-capabilities",
        op(NUMBER, XENVER_CAPABILITIES, &mut capabilities),
        0,
    );
    let hvm = capabilities.windows(10).any(|part| part == b"hvm-3.0-x8");
    report.check("version-capabilities-hvm", hvm, "no hvm-3.0-x8...");
    let mut changeset = [0u8; 64];
    report.equal(
        "version-changeset",
        op(NUMBER, XENVER_CHANGESET, &mut changeset),
        0,
    );
    let mut parameters = PlatformParameters::new_zeroed();
    report.equal(
        "version-platform-parameters",
        op(NUMBER, XENVER_PLATFORM_PARAMETERS, &mut parameters),
        0,
    );
    let mut features = FeatureInfo {
        submap_idx: 0,
        submap: 0,
    };
    report.equal(
        "version-features",
        op(NUMBER, XENVER_GET_FEATURES, &mut features),
        0,
    );
    const WRITABLE_TABLES_AUTO_TRANSLATED_VECTOR_CLOCK: u32 = 0x305;
    const DOM0: u32 = 1 << 11;
    let wanted = WRITABLE_TABLES_AUTO_TRANSLATED_VECTOR_CLOCK | DOM0;
    report.equal("version-feature-bits", features.submap & wanted, wanted);
    features.submap_idx = 5;
    report.equal(
        "version-features-index",
        op(NUMBER, XENVER_GET_FEATURES, &mut features),
        EINVAL,
    );
    report.equal(
        "version-page-size",
        call(NUMBER, [XENVER_PAGESIZE.into(), 0, 0, 0, 0]),
        4096,
    );
    let mut handle = [0u8; 16];
    report.equal(
        "version-guest-handle",
        op(NUMBER, XENVER_GUEST_HANDLE, &mut handle),
        0,
    );
    let mut line = [0u8; 1024];
    report.equal(
        "version-command-line",
        op(NUMBER, XENVER_COMMANDLINE, &mut line),
        0,
    );
    let found = line.windows(8).any(|part| part == b"dom0_mem");
    report.check("version-command-line-text", found, "no dom0_mem");
    report.equal("version-unknown", call(NUMBER, [99, 0, 0, 0, 0]), ENOSYS);
    bad_pointers(report, "version-features", NUMBER, XENVER_GET_FEATURES);
    bad_pointers(report, "version-extra", NUMBER, XENVER_EXTRAVERSION);
}

fn reservation(frames: &mut [u64], domid: u16) -> MemoryReservation {
    MemoryReservation {
        extent_start: GuestHandle::new(frames.as_mut_ptr() as u64),
        nr_extents: frames.len() as u64,
        extent_order: 0,
        mem_flags: 0,
        domid,
        pad: [0; 3],
    }
}

fn memory(report: &mut Report) {
    const NUMBER: u32 = HYPERVISOR_MEMORY_OP;
    let top = call(NUMBER, [XENMEM_MAXIMUM_RAM_PAGE.into(), 0, 0, 0, 0]);
    report.check("memory-maximum-ram-page", top > 0x1000, format!("{top:#x}"));
    let mut domain = MemoryDomain { domid: DOMID_SELF };
    let current = op(NUMBER, XENMEM_CURRENT_RESERVATION, &mut domain);
    report.check(
        "memory-current-reservation",
        current > 0x1000,
        format!("{current:#x}"),
    );
    let maximum = op(NUMBER, XENMEM_MAXIMUM_RESERVATION, &mut domain);
    report.check(
        "memory-maximum-reservation",
        maximum >= current,
        format!("{maximum:#x}"),
    );
    let highest = op(NUMBER, XENMEM_MAXIMUM_GPFN, &mut domain);
    report.check("memory-maximum-gpfn", highest > 0x1000, format!("{highest:#x}"));
    domain.domid = NOBODY;
    report.equal(
        "memory-current-nobody",
        op(NUMBER, XENMEM_CURRENT_RESERVATION, &mut domain),
        ESRCH,
    );
    let mut entries = [E820Entry::default(); 64];
    let mut map = MemoryMap {
        nr_entries: 64,
        pad: 0,
        buffer: GuestHandle::new(entries.as_mut_ptr() as u64),
    };
    report.equal("memory-map", op(NUMBER, XENMEM_MEMORY_MAP, &mut map), 0);
    let count = map.nr_entries;
    report.check(
        "memory-map-entries",
        (1..=64).contains(&count),
        format!("{count}"),
    );
    bad_pointers(report, "memory-map", NUMBER, XENMEM_MEMORY_MAP);
    balloon(report);
    let mut place = AddToPhysmap {
        domid: NOBODY,
        size: 0,
        space: XENMAPSPACE_SHARED_INFO,
        idx: 0,
        gpfn: spare(),
    };
    report.equal(
        "memory-add-nobody",
        op(NUMBER, XENMEM_ADD_TO_PHYSMAP, &mut place),
        ESRCH,
    );
    place.domid = DOMID_SELF;
    place.space = 77;
    let answer = op(NUMBER, XENMEM_ADD_TO_PHYSMAP, &mut place);
    report.check("memory-add-unknown-space", answer < 0, format!("{answer}"));
    place.space = XENMAPSPACE_GRANT_TABLE;
    place.idx = 1 << 20;
    let answer = op(NUMBER, XENMEM_ADD_TO_PHYSMAP, &mut place);
    report.check("memory-add-grant-frame-beyond", answer < 0, format!("{answer}"));
    bad_pointers(report, "memory-add", NUMBER, XENMEM_ADD_TO_PHYSMAP);
    let mut remove = RemoveFromPhysmap {
        domid: DOMID_SELF,
        pad: [0; 3],
        gpfn: 1 << 40,
    };
    let answer = op(NUMBER, XENMEM_REMOVE_FROM_PHYSMAP, &mut remove);
    report.check("memory-remove-nothing", answer < 0, format!("{answer}"));
    report.equal("memory-unknown", call(NUMBER, [62, 0, 0, 0, 0]), ENOSYS);
}

/// Gives frames back and takes them again.
fn balloon(report: &mut Report) {
    const NUMBER: u32 = HYPERVISOR_MEMORY_OP;
    let mut domain = MemoryDomain { domid: DOMID_SELF };
    let before = op(NUMBER, XENMEM_CURRENT_RESERVATION, &mut domain);
    let mut frames: [u64; SPARE] = core::array::from_fn(|index| spare() + index as u64);
    let mut argument = reservation(&mut frames, DOMID_SELF);
    report.equal(
        "memory-decrease",
        op(NUMBER, XENMEM_DECREASE_RESERVATION, &mut argument),
        SPARE as i64,
    );
    let between = op(NUMBER, XENMEM_CURRENT_RESERVATION, &mut domain);
    report.equal("memory-decrease-counts", before - between, SPARE as i64);
    let gone = cpu::load(spare() << 12);
    report.equal("memory-decreased-reads-ones", gone, Ok(u32::MAX));
    let mut argument = reservation(&mut frames, DOMID_SELF);
    report.equal(
        "memory-populate",
        op(NUMBER, XENMEM_POPULATE_PHYSMAP, &mut argument),
        SPARE as i64,
    );
    let after = op(NUMBER, XENMEM_CURRENT_RESERVATION, &mut domain);
    report.equal("memory-populate-counts", after, before);
    report.equal("memory-populated-is-scrubbed", cpu::load(spare() << 12), Ok(0));
    FRAMES.set_byte(0, 0x5a);
    report.equal("memory-populated-works", FRAMES.byte(0), 0x5a);
    let mut argument = reservation(&mut frames, NOBODY);
    report.equal(
        "memory-populate-nobody",
        op(NUMBER, XENMEM_POPULATE_PHYSMAP, &mut argument),
        0,
    );
    let mut argument = reservation(&mut frames, DOMID_SELF);
    argument.extent_order = 60;
    let answer = op(NUMBER, XENMEM_POPULATE_PHYSMAP, &mut argument);
    report.check("memory-populate-order", answer <= 0, format!("{answer}"));
    let mut argument = reservation(&mut frames, DOMID_SELF);
    argument.extent_start = GuestHandle::new(UNMAPPED);
    let answer = op(NUMBER, XENMEM_DECREASE_RESERVATION, &mut argument);
    report.check("memory-decrease-bad-list", answer <= 0, format!("{answer}"));
    let mut nowhere = [1u64 << 40];
    let mut argument = reservation(&mut nowhere, DOMID_SELF);
    let answer = op(NUMBER, XENMEM_DECREASE_RESERVATION, &mut argument);
    report.check("memory-decrease-nothing-there", answer <= 0, format!("{answer}"));
    // The answer is how many blocks were done, however the first one failed.
    report.equal(
        "memory-populate-unmapped",
        call(NUMBER, [XENMEM_POPULATE_PHYSMAP.into(), UNMAPPED, 0, 0, 0]),
        0,
    );
}

fn status(port: u32) -> Result<u32, i64> {
    let mut argument = EvtchnStatus {
        dom: DOMID_SELF,
        port,
        ..FromZeros::new_zeroed()
    };
    match op(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_STATUS, &mut argument) {
        0 => Ok(argument.status),
        error => Err(error),
    }
}

fn events(report: &mut Report) {
    const NUMBER: u32 = HYPERVISOR_EVENT_CHANNEL_OP;
    let mut unbound = EvtchnAllocUnbound {
        dom: DOMID_SELF,
        remote_dom: DOMID_SELF,
        port: 0,
    };
    report.equal(
        "event-alloc-unbound",
        op(NUMBER, EVTCHNOP_ALLOC_UNBOUND, &mut unbound),
        0,
    );
    let port = unbound.port;
    report.check("event-port-is-not-0", port > 0, format!("{port}"));
    report.equal("event-status-unbound", status(port), Ok(EVTCHNSTAT_UNBOUND));
    let mut pair = EvtchnBindInterdomain {
        remote_dom: DOMID_SELF,
        remote_port: port,
        ..FromZeros::new_zeroed()
    };
    report.equal(
        "event-bind-interdomain",
        op(NUMBER, EVTCHNOP_BIND_INTERDOMAIN, &mut pair),
        0,
    );
    let other = pair.local_port;
    report.equal(
        "event-status-interdomain",
        status(other),
        Ok(EVTCHNSTAT_INTERDOMAIN),
    );
    let again = op(NUMBER, EVTCHNOP_BIND_INTERDOMAIN, &mut pair.clone());
    report.equal("event-bind-twice", again, EINVAL);
    report.equal(
        "event-send",
        op(NUMBER, EVTCHNOP_SEND, &mut EvtchnPortArg { port: other }),
        0,
    );
    report.equal(
        "event-close",
        op(NUMBER, EVTCHNOP_CLOSE, &mut EvtchnPortArg { port: other }),
        0,
    );
    report.equal("event-other-end-unbound", status(port), Ok(EVTCHNSTAT_UNBOUND));
    report.equal("event-status-closed", status(other), Ok(EVTCHNSTAT_CLOSED));
    report.equal(
        "event-close-2",
        op(NUMBER, EVTCHNOP_CLOSE, &mut EvtchnPortArg { port }),
        0,
    );
    report.equal(
        "event-close-closed",
        op(NUMBER, EVTCHNOP_CLOSE, &mut EvtchnPortArg { port }),
        EINVAL,
    );
    report.equal(
        "event-send-closed",
        op(NUMBER, EVTCHNOP_SEND, &mut EvtchnPortArg { port }),
        EINVAL,
    );
    for (name, port) in [("0", 0), ("beyond", 1 << 20), ("max", u32::MAX)] {
        let answer = op(NUMBER, EVTCHNOP_SEND, &mut EvtchnPortArg { port });
        report.equal(&format!("event-send-{name}"), answer, EINVAL);
    }
    report.equal(
        "event-close-max",
        op(NUMBER, EVTCHNOP_CLOSE, &mut EvtchnPortArg { port: u32::MAX }),
        EINVAL,
    );
    report.equal("event-status-max", status(u32::MAX), Err(EINVAL));
    let mut foreign = EvtchnAllocUnbound {
        dom: NOBODY,
        remote_dom: 0,
        port: 0,
    };
    report.equal(
        "event-alloc-nobody",
        op(NUMBER, EVTCHNOP_ALLOC_UNBOUND, &mut foreign),
        ESRCH,
    );
    virqs_and_ipis(report);
    let mut unmask = EvtchnPortArg { port: u32::MAX };
    report.equal(
        "event-unmask-max",
        op(NUMBER, EVTCHNOP_UNMASK, &mut unmask),
        EINVAL,
    );
    report.equal("event-unknown", call(NUMBER, [99, 0, 0, 0, 0]), ENOSYS);
    bad_pointers(report, "event-send", NUMBER, EVTCHNOP_SEND);
    bad_pointers(report, "event-alloc-unbound", NUMBER, EVTCHNOP_ALLOC_UNBOUND);
}

fn virqs_and_ipis(report: &mut Report) {
    const NUMBER: u32 = HYPERVISOR_EVENT_CHANNEL_OP;
    let mut virq = EvtchnBindVirq {
        virq: VIRQ_TIMER,
        vcpu: 0,
        port: 0,
    };
    report.equal("event-bind-virq", op(NUMBER, EVTCHNOP_BIND_VIRQ, &mut virq), 0);
    report.equal("event-status-virq", status(virq.port), Ok(EVTCHNSTAT_VIRQ));
    let again = op(NUMBER, EVTCHNOP_BIND_VIRQ, &mut virq.clone());
    report.equal("event-bind-virq-twice", again, EEXIST);
    let mut bad = EvtchnBindVirq { virq: 24, ..virq };
    report.equal(
        "event-bind-virq-unknown",
        op(NUMBER, EVTCHNOP_BIND_VIRQ, &mut bad),
        EINVAL,
    );
    let mut bad = EvtchnBindVirq { vcpu: 500, ..virq };
    report.equal(
        "event-bind-virq-vcpu",
        op(NUMBER, EVTCHNOP_BIND_VIRQ, &mut bad),
        ENOENT,
    );
    let mut ipi = EvtchnBindIpi { vcpu: 0, port: 0 };
    report.equal("event-bind-ipi", op(NUMBER, EVTCHNOP_BIND_IPI, &mut ipi), 0);
    report.equal("event-status-ipi", status(ipi.port), Ok(EVTCHNSTAT_IPI));
    let mut bad = EvtchnBindIpi { vcpu: 500, port: 0 };
    report.equal(
        "event-bind-ipi-vcpu",
        op(NUMBER, EVTCHNOP_BIND_IPI, &mut bad),
        ENOENT,
    );
    let mut to = EvtchnBindVcpu {
        port: ipi.port,
        vcpu: 0,
    };
    let answer = op(NUMBER, EVTCHNOP_BIND_VCPU, &mut to);
    report.equal("event-bind-vcpu-of-ipi", answer, EINVAL);
    let mut to = EvtchnBindVcpu {
        port: virq.port,
        vcpu: 500,
    };
    report.equal(
        "event-bind-vcpu-vcpu",
        op(NUMBER, EVTCHNOP_BIND_VCPU, &mut to),
        ENOENT,
    );
    for port in [ipi.port, virq.port] {
        let unmasked = op(NUMBER, EVTCHNOP_UNMASK, &mut EvtchnPortArg { port });
        report.equal("event-unmask", unmasked, 0);
        report.equal(
            "event-close",
            op(NUMBER, EVTCHNOP_CLOSE, &mut EvtchnPortArg { port }),
            0,
        );
    }
}

fn vcpu(report: &mut Report) {
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

fn sched(report: &mut Report) {
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

fn hvm(report: &mut Report) {
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

fn grants(report: &mut Report) {
    const NUMBER: u32 = HYPERVISOR_GRANT_TABLE_OP;
    fn list<T>(sub: u32, argument: &mut T, count: u64) -> i64 {
        let address = ptr::from_mut(argument) as u64;
        call(HYPERVISOR_GRANT_TABLE_OP, [sub.into(), address, count, 0, 0])
    }
    let mut size = GnttabQuerySize {
        dom: DOMID_SELF,
        ..FromZeros::new_zeroed()
    };
    report.equal("grant-query-size", list(GNTTABOP_QUERY_SIZE, &mut size, 1), 0);
    let frames = (size.status, size.max_nr_frames > 0);
    report.equal("grant-query-size-status", frames, (GNTST_OKAY, true));
    let mut version = GnttabGetVersion {
        dom: DOMID_SELF,
        ..FromZeros::new_zeroed()
    };
    report.equal(
        "grant-get-version",
        list(GNTTABOP_GET_VERSION, &mut version, 1),
        0,
    );
    report.equal("grant-version", version.version, 1);
    let mut bad = GnttabSetVersion { version: 3 };
    report.equal(
        "grant-set-version-3",
        list(GNTTABOP_SET_VERSION, &mut bad, 1),
        EINVAL,
    );
    let mut map = GnttabMapGrantRef {
        host_addr: spare() << 12,
        flags: GNTMAP_HOST_MAP,
        ref_: 8,
        dom: NOBODY,
        ..FromZeros::new_zeroed()
    };
    report.equal("grant-map-nobody", list(GNTTABOP_MAP_GRANT_REF, &mut map, 1), 0);
    report.equal("grant-map-nobody-status", map.status, GNTST_BAD_DOMAIN);
    map.dom = DOMID_SELF;
    map.ref_ = u32::MAX;
    report.equal("grant-map-ref", list(GNTTABOP_MAP_GRANT_REF, &mut map, 1), 0);
    report.check("grant-map-ref-status", map.status < 0, format!("{}", map.status));
    let mut unmap = GnttabUnmapGrantRef {
        host_addr: spare() << 12,
        handle: 12345,
        ..FromZeros::new_zeroed()
    };
    report.equal(
        "grant-unmap-handle",
        list(GNTTABOP_UNMAP_GRANT_REF, &mut unmap, 1),
        0,
    );
    report.equal("grant-unmap-handle-status", unmap.status, GNTST_BAD_HANDLE);
    copies(report);
    report.equal(
        "grant-unmapped",
        call(NUMBER, [GNTTABOP_COPY.into(), UNMAPPED, 1, 0, 0]),
        EFAULT,
    );
    let answer = call(
        NUMBER,
        [
            GNTTABOP_MAP_GRANT_REF.into(),
            ptr::from_mut(&mut map) as u64,
            u64::from(u32::MAX),
            0,
            0,
        ],
    );
    report.check("grant-count", answer < 0, format!("{answer}"));
    report.equal("grant-unknown", call(NUMBER, [99, 0, 0, 0, 0]), ENOSYS);
}

/// Grant copies by frame, within this domain.
fn copies(report: &mut Report) {
    for offset in 0..frames::SIZE {
        FRAMES.set_byte(offset, offset as u8 ^ 0x5a);
        FRAMES.set_byte(frames::SIZE + offset, 0);
    }
    let at = |frame: u64, offset| GnttabCopyPtr {
        u: frame,
        domid: DOMID_SELF,
        offset,
        pad: 0,
    };
    let good = GnttabCopy {
        source: at(spare(), 16),
        dest: at(spare() + 1, 32),
        len: 100,
        ..FromZeros::new_zeroed()
    };
    let copy = |argument: &mut GnttabCopy| {
        let address = ptr::from_mut(argument) as u64;
        (
            call(
                HYPERVISOR_GRANT_TABLE_OP,
                [GNTTABOP_COPY.into(), address, 1, 0, 0],
            ),
            argument.status,
        )
    };
    report.equal("grant-copy", copy(&mut good.clone()), (0, GNTST_OKAY));
    let right = (0..frames::SIZE).all(|offset| {
        let copied = (32..132).contains(&offset);
        FRAMES.byte(frames::SIZE + offset) == if copied { (offset - 16) as u8 ^ 0x5a } else { 0 }
    });
    report.check("grant-copy-bytes", right, "other bytes than those asked for");
    let mut beyond = GnttabCopy { len: 4090, ..good };
    report.equal("grant-copy-crosses", copy(&mut beyond), (0, GNTST_BAD_COPY_ARG));
    let mut nowhere = GnttabCopy {
        source: at(1 << 40, 0),
        ..good
    };
    let (answer, status) = copy(&mut nowhere);
    report.check(
        "grant-copy-nowhere",
        answer == 0 && status < 0,
        format!("{answer} {status}"),
    );
    let mut nobody = good;
    nobody.source.domid = NOBODY;
    report.equal("grant-copy-nobody", copy(&mut nobody), (0, GNTST_BAD_DOMAIN));
}

/// What dom0 alone may do.
fn platform(report: &mut Report) {
    let mut request = PlatformOp {
        cmd: XENPF_GET_CPUINFO,
        interface_version: XENPF_INTERFACE_VERSION,
        ..Default::default()
    };
    let platform = |request: &mut PlatformOp| {
        call(
            HYPERVISOR_PLATFORM_OP,
            [ptr::from_mut(request) as u64, 0, 0, 0, 0],
        )
    };
    report.equal("platform-cpu", platform(&mut request), 0);
    let cpu: XenpfPcpuinfo = request.u.get();
    report.equal("platform-cpu-online", cpu.flags, XEN_PCPU_FLAGS_ONLINE);
    request.cmd = XENPF_SETTIME64;
    request.u.set(&XenpfSettime64 {
        mbz: 1,
        ..Default::default()
    });
    report.equal("platform-time-reserved", platform(&mut request), EINVAL);
    request.interface_version = 0;
    report.equal(
        "platform-version",
        platform(&mut request),
        error_code(Errno::EACCES),
    );
    let pin = |pcpu| {
        op(
            HYPERVISOR_SCHED_OP,
            SCHEDOP_PIN_OVERRIDE,
            &mut SchedPinOverride { pcpu },
        )
    };
    report.equal("pin", pin(0), 0);
    report.equal("pin-again", pin(0), error_code(Errno::EBUSY));
    report.equal("pin-end", pin(-1), 0);
    report.equal("pin-end-again", pin(-1), EINVAL);
    let mut gfn = spare();
    let list = MemoryReservation {
        extent_start: GuestHandle::new(ptr::from_mut(&mut gfn) as u64),
        nr_extents: 1,
        domid: DOMID_SELF,
        ..Default::default()
    };
    let mut exchange = MemoryExchange {
        in_: list,
        out: list,
        nr_exchanged: 0,
    };
    let answer = op(HYPERVISOR_MEMORY_OP, XENMEM_EXCHANGE, &mut exchange);
    report.equal("exchange", answer, error_code(Errno::EOPNOTSUPP));
}

fn others(report: &mut Report) {
    let write = |length: u64, address: u64| call(HYPERVISOR_CONSOLE_IO, [0, length, address, 0, 0]);
    let text = b"# console_io\n";
    report.equal("console-write", write(text.len() as u64, text.as_ptr() as u64), 0);
    report.equal("console-write-unmapped", write(10, UNMAPPED), EFAULT);
    report.equal(
        "console-unknown",
        call(HYPERVISOR_CONSOLE_IO, [99, 0, 0, 0, 0]),
        ENOSYS,
    );
    const UPDATE_FLAG: u64 = 5;
    report.equal(
        "vm-assist",
        call(HYPERVISOR_VM_ASSIST, [0, UPDATE_FLAG, 0, 0, 0]),
        0,
    );
    report.equal(
        "vm-assist-off",
        call(HYPERVISOR_VM_ASSIST, [1, UPDATE_FLAG, 0, 0, 0]),
        0,
    );
    report.equal(
        "vm-assist-type",
        call(HYPERVISOR_VM_ASSIST, [0, 63, 0, 0, 0]),
        EINVAL,
    );
    report.equal(
        "vm-assist-command",
        call(HYPERVISOR_VM_ASSIST, [9, UPDATE_FLAG, 0, 0, 0]),
        ENOSYS,
    );
    for number in [0, 1, 2, 3, 11, 14, 22, 23, 43, 47, 63, 200, u32::MAX] {
        report.equal(&format!("hypercall-{number}"), call(number, [0; 5]), ENOSYS);
    }
    multicall(report);
    let mut wrong = [0u8; 128];
    for number in [HYPERVISOR_DOMCTL, HYPERVISOR_SYSCTL] {
        let answer = call(number, [wrong.as_mut_ptr() as u64, 0, 0, 0, 0]);
        report.equal(
            &format!("control-{number}-version"),
            answer,
            error_code(Errno::EACCES),
        );
        report.equal(
            &format!("control-{number}-unmapped"),
            call(number, [UNMAPPED, 0, 0, 0, 0]),
            EFAULT,
        );
    }
}

fn multicall(report: &mut Report) {
    let entry = |op: u32, first: u64| {
        let mut args = [0; 6];
        args[0] = first;
        MulticallEntry {
            op: op.into(),
            result: 77,
            args,
        }
    };
    let mut list = [
        entry(HYPERVISOR_XEN_VERSION, XENVER_VERSION.into()),
        entry(HYPERVISOR_XEN_VERSION, 99),
        entry(63, 0),
    ];
    let answer = call(HYPERVISOR_MULTICALL, [list.as_mut_ptr() as u64, 3, 0, 0, 0]);
    let results = list.each_ref().map(|entry| entry.result as i64);
    report.equal("multicall", answer, 0);
    report.equal(
        "multicall-results",
        results,
        [XEN_VERSION_4_17.into(), ENOSYS, ENOSYS],
    );
    let answer = call(HYPERVISOR_MULTICALL, [UNMAPPED, 3, 0, 0, 0]);
    report.equal("multicall-unmapped", answer, EFAULT);
}
