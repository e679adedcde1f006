//! What dom0 alone may do, and small families.

use alloc::format;
use core::ptr;

use abi::domid::DOMID_SELF;
use abi::hypercall::*;
use abi::memory::*;
use abi::platform::*;
use abi::sched::*;
use abi::version::*;
use abi::{Errno, GuestHandle, Union};
use guests::hypercall::{UNMAPPED, call, error_code, op};
use guests::report::Report;

use super::{EFAULT, EINVAL, ENOSYS, spare};

/// What dom0 alone may do.
pub fn platform(report: &mut Report) {
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
    request.cmd = XENPF_GET_CPU_VERSION;
    report.equal("platform-cpu-version", platform(&mut request), 0);
    request.cmd = XENPF_FIRMWARE_INFO;
    request.u = Union::default();
    report.equal("platform-firmware-nothing", platform(&mut request), EINVAL);
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

pub fn others(report: &mut Report) {
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
