//! Hypercalls of 32-bit code: arguments in other registers, structures in the layout of i386, and memory shared in that layout.
//!
//! What is expected is what Xen 4.17 answers.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;

use abi::compat::Compat;
use abi::domid::DOMID_SELF;
use abi::event_channel::*;
use abi::grant::*;
use abi::hvm::*;
use abi::hypercall::*;
use abi::memory::*;
use abi::sched::*;
use abi::vcpu::*;
use abi::version::*;
use abi::{Errno, GuestHandle, Narrow};
use guest_rt::start_info::StartInfo;
use guests::compat::{Mode, address, call, wrmsr};
use guests::cpu;
use guests::frames::{self, Frames};
use guests::report::Report;

guest_rt::main!(main);

const fn error(errno: Errno) -> i32 {
    -(errno.code() as i32)
}

/// Below 4 GiB, and no RAM.
const NO_RAM: u32 = 0xf000_0000;
/// MSR of the hypercall page (Xen's CPUID leaf 0x4000_0002).
const HYPERCALL_PAGE: u32 = 0x4000_0000;

static FRAMES: Frames<8> = Frames::new();

fn main(_: StartInfo) -> ! {
    cpu::init();
    let mut report = Report::default();
    for mode in [Mode::Compatibility, Mode::Unpaged] {
        registers(&mut report, mode);
    }
    memory(&mut report);
    grants(&mut report);
    timers(&mut report);
    multicall(&mut report);
    shared_info(&mut report);
    report.finish()
}

/// Issues `number(sub, &mut argument)` with the argument in the layout of i386.
fn op<T: Compat>(number: u32, sub: u32, argument: &mut T) -> i32 {
    let mut narrow: T::I386 = (*argument).narrow();
    let answer = call(Mode::Compatibility, number, [sub, address(&mut narrow), 1, 0, 0]);
    *argument = T::widen(narrow);
    answer
}

/// Which registers count, and how much of them, in every mode.
fn registers(report: &mut Report, mode: Mode) {
    let check = |report: &mut Report, name: &str, found: i32, expected: i32| {
        report.equal(&format!("{mode:?}-{name}"), found, expected);
    };
    let number = HYPERVISOR_XEN_VERSION;
    let version = call(mode, number, [XENVER_VERSION, 0, 0, 0, 0]);
    check(report, "version", version, XEN_VERSION_4_17 as i32);
    let mut features = FeatureInfo::default();
    let at = address(&mut features);
    check(
        report,
        "features",
        call(mode, number, [XENVER_GET_FEATURES, at, 0, 0, 0]),
        0,
    );
    check(report, "features-bits", (features.submap & 0x305) as i32, 0x305);
    let answer = call(mode, number, [XENVER_GET_FEATURES, NO_RAM, 0, 0, 0]);
    check(report, "fault", answer, error(Errno::EFAULT));
    check(report, "unknown", call(mode, 1000, [0; 5]), error(Errno::ENOSYS));
    let mut ipi = EvtchnBindIpi::default();
    let number = HYPERVISOR_EVENT_CHANNEL_OP;
    let answer = call(mode, number, [EVTCHNOP_BIND_IPI, address(&mut ipi), 0, 0, 0]);
    check(report, "bind", answer, 0);
    check(report, "port", i32::from(ipi.port != 0), 1);
    let mut text = *b"written by 32-bit code\n";
    let length = text.len() as u32;
    let console = [abi::console_io::CONSOLEIO_WRITE, length, address(&mut text), 0, 0];
    check(report, "console", call(mode, HYPERVISOR_CONSOLE_IO, console), 0);
}

fn memory(report: &mut Report) {
    const NUMBER: u32 = HYPERVISOR_MEMORY_OP;
    let mut map = [E820Entry::default(); 16];
    let mut request = MemoryMap {
        nr_entries: 16,
        pad: 0,
        buffer: GuestHandle::new(address(&mut map).into()),
    };
    report.equal("memory-map", op(NUMBER, XENMEM_MEMORY_MAP, &mut request), 0);
    report.check(
        "memory-map-entry",
        request.nr_entries > 0 && map[0].size > 0,
        "empty",
    );

    let first = FRAMES.first() as u32;
    let mut gfns = [first, first + 1];
    let mut request = MemoryReservation {
        extent_start: GuestHandle::new(address(&mut gfns).into()),
        nr_extents: 2,
        domid: DOMID_SELF,
        ..Default::default()
    };
    let answer = op(NUMBER, XENMEM_DECREASE_RESERVATION, &mut request);
    report.equal("memory-decrease", answer, 2);
    let answer = op(NUMBER, XENMEM_POPULATE_PHYSMAP, &mut request);
    report.equal("memory-populate", answer, 2);
    FRAMES.set_byte(frames::SIZE, 7);
    report.equal("memory-populated", FRAMES.byte(frames::SIZE), 7);

    let (mut indices, mut gpfns, mut errors) = ([0u32, 1], [first, first], [1i32; 2]);
    let mut batch = AddToPhysmapBatch {
        domid: DOMID_SELF,
        space: XENMAPSPACE_GRANT_TABLE as u16,
        size: 2,
        idxs: GuestHandle::new(address(&mut indices).into()),
        gpfns: GuestHandle::new(address(&mut gpfns).into()),
        errs: GuestHandle::new(address(&mut errors).into()),
        ..Default::default()
    };
    let answer = op(NUMBER, XENMEM_ADD_TO_PHYSMAP_BATCH, &mut batch);
    report.equal("memory-batch", answer, 0);
    report.equal("memory-batch-errors", errors, [0, 0]);
}

fn grants(report: &mut Report) {
    const NUMBER: u32 = HYPERVISOR_GRANT_TABLE_OP;
    let mut list = [0u32; 1];
    let mut setup = GnttabSetupTable {
        dom: DOMID_SELF,
        nr_frames: 1,
        frame_list: GuestHandle::new(address(&mut list).into()),
        ..Default::default()
    };
    report.equal("grant-setup", op(NUMBER, GNTTABOP_SETUP_TABLE, &mut setup), 0);
    report.one_of(
        "grant-setup-status",
        setup.status,
        &[GNTST_OKAY, GNTST_ADDRESS_TOO_BIG],
    );
    // Two copies between frames of its own; the second is refused.
    FRAMES.set_byte(2 * frames::SIZE + 100, 0x5a);
    let end = |frame: u64, offset| GnttabCopyPtr {
        u: FRAMES.first() + frame,
        domid: DOMID_SELF,
        offset,
        pad: 0,
    };
    let copy = GnttabCopy {
        source: end(2, 100),
        dest: end(3, 200),
        len: 1,
        ..Default::default()
    };
    let refused = GnttabCopy { len: 4000, ..copy };
    let mut copies: [CompatGnttabCopy; 2] = [copy.narrow(), refused.narrow()];
    let answer = call(
        Mode::Compatibility,
        NUMBER,
        [GNTTABOP_COPY, address(&mut copies), 2, 0, 0],
    );
    let statuses = copies.map(|copy| copy.status);
    report.equal("grant-copy", answer, 0);
    report.equal("grant-copy-status", statuses, [GNTST_OKAY, GNTST_BAD_COPY_ARG]);
    report.equal("grant-copy-byte", FRAMES.byte(3 * frames::SIZE + 200), 0x5a);
}

fn now() -> u64 {
    let mut time = HvmGetTime::default();
    op(HYPERVISOR_HVM_OP, HVMOP_GET_TIME, &mut time);
    time.now
}

fn timers(report: &mut Report) {
    let begin = now();
    let deadline = begin + 2_000_000;
    let mut poll = SchedPoll {
        timeout: deadline,
        ..Default::default()
    };
    report.equal("poll", op(HYPERVISOR_SCHED_OP, SCHEDOP_POLL, &mut poll), 0);
    report.check("poll-waits", now() >= deadline, "it came back early");
    // 32 bits of a deadline are 4 s: one that is cut off there is over, or far away.
    let (low, high) = (begin as u32, (begin >> 32) as u32 + 0x1000);
    let answer = call(Mode::Compatibility, HYPERVISOR_SET_TIMER_OP, [low, high, 0, 0, 0]);
    report.equal("set-timer", answer, 0);
    let mut timer: CompatVcpuSetSingleshotTimer = VcpuSetSingleshotTimer {
        timeout_abs_ns: begin,
        flags: VCPU_SSHOTTMR_FUTURE,
        pad: 0,
    }
    .narrow();
    let singleshot = [VCPUOP_SET_SINGLESHOT_TIMER, 0, address(&mut timer), 0, 0];
    let answer = call(Mode::Compatibility, HYPERVISOR_VCPU_OP, singleshot);
    report.equal("singleshot-past", answer, error(Errno::ETIME));
}

fn multicall(report: &mut Report) {
    let mut calls: [CompatMulticallEntry; 2] = [
        MulticallEntry {
            op: HYPERVISOR_XEN_VERSION.into(),
            ..Default::default()
        }
        .narrow(),
        MulticallEntry {
            op: 1000,
            ..Default::default()
        }
        .narrow(),
    ];
    let list = [address(&mut calls), 2, 0, 0, 0];
    let answer = call(Mode::Compatibility, HYPERVISOR_MULTICALL, list);
    report.equal("multicall", answer, 0);
    let results = calls.map(|call| call.result as i32);
    report.equal(
        "multicall-results",
        results,
        [XEN_VERSION_4_17 as i32, error(Errno::ENOSYS)],
    );
}

/// What drivers that begin in 32-bit mode find in the shared memory. The clock of the run-time library is gone from here on.
fn shared_info(report: &mut Report) {
    let base = 4 * frames::SIZE;
    let word = |offset: usize| {
        let bytes = [0, 1, 2, 3].map(|byte| FRAMES.byte(base + offset + byte));
        u32::from_le_bytes(bytes)
    };
    wrmsr(HYPERCALL_PAGE, FRAMES.address() + 5 * frames::SIZE as u64);
    let stub = [0, 1, 2, 3, 4, 8].map(|byte| FRAMES.byte(5 * frames::SIZE + 32 * 17 + byte));
    report.equal("hypercall-page", stub, [0xb8, 17, 0, 0, 0, 0xc3]);
    let mut place = AddToPhysmap {
        domid: DOMID_SELF,
        space: XENMAPSPACE_SHARED_INFO,
        gpfn: FRAMES.first() + 4,
        ..Default::default()
    };
    let answer = op(HYPERVISOR_MEMORY_OP, XENMEM_ADD_TO_PHYSMAP, &mut place);
    report.equal("shared-info", answer, 0);
    report.check("wall-clock", word(2308) != 0, "no seconds");

    // Past the first word of 32 bits.
    let mut ipi = EvtchnBindIpi::default();
    while ipi.port < 33 {
        let answer = op(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_BIND_IPI, &mut ipi);
        if answer != 0 {
            return report.equal("bind-ports", answer, 0);
        }
    }
    for byte in 0..8 {
        FRAMES.set_byte(base + byte, 0);
    }
    let mut port = EvtchnPortArg { port: ipi.port };
    let answer = op(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_SEND, &mut port);
    report.equal("send", answer, 0);
    report.equal("send-pending", word(2048 + 4), 1 << (ipi.port - 32));
    report.equal("send-selector", word(4), 1 << 1);
    report.equal("send-upcall", FRAMES.byte(base), 1);

    let mut info = VcpuRunstateInfo::default();
    let mut area: CompatVcpuRunstateInfo = info.narrow();
    let mut register: CompatVcpuRegisterRunstateMemoryArea = VcpuRegisterRunstateMemoryArea {
        addr: GuestHandle::new(address(&mut area).into()),
    }
    .narrow();
    let arguments = [
        VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA,
        0,
        address(&mut register),
        0,
        0,
    ];
    let answer = call(Mode::Compatibility, HYPERVISOR_VCPU_OP, arguments);
    report.equal("runstate", answer, 0);
    info = VcpuRunstateInfo::widen(core::hint::black_box(area));
    report.equal("runstate-running", info.state, RUNSTATE_RUNNING);
    let time = now();
    report.check(
        "runstate-since",
        info.state_entry_time != 0 && info.state_entry_time <= time,
        format!("{info:?} at {time}"),
    );
    register = VcpuRegisterRunstateMemoryArea::default().narrow();
    let _ = call(Mode::Compatibility, HYPERVISOR_VCPU_OP, {
        let mut arguments = arguments;
        arguments[2] = address(&mut register);
        arguments
    });

    // A kernel in 64-bit mode begins anew.
    let _ = cpu::wrmsr(HYPERCALL_PAGE, FRAMES.address() + 5 * frames::SIZE as u64);
    for byte in 0..16 {
        FRAMES.set_byte(base + byte, 0);
    }
    let mut ipi = EvtchnBindIpi::default();
    let number = HYPERVISOR_EVENT_CHANNEL_OP;
    report.equal("bind-64", op(number, EVTCHNOP_BIND_IPI, &mut ipi), 0);
    let mut port = EvtchnPortArg { port: ipi.port };
    report.equal("send-64", op(number, EVTCHNOP_SEND, &mut port), 0);
    report.equal("send-64-selector", (word(4), word(8)), (0, 1 << (ipi.port / 64)));
}
