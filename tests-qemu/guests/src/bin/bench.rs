//! What exits and hypercalls cost a guest, in ticks of the time-stamp counter. Where the emulator counts instructions
//! (Bochs; QEMU with `-icount shift=0`) a tick is an instruction.
//!
//! Each line is the least of many tries, less the cost of reading the counter; one try is one operation, as the guest
//! sees it: the instruction, and for exceptions also their way through the guest's own handler.
#![no_std]
#![no_main]

use abi::event_channel::{EVTCHNOP_BIND_IPI, EVTCHNOP_SEND, EvtchnBindIpi};
use abi::hypercall::{HYPERVISOR_EVENT_CHANNEL_OP, HYPERVISOR_SCHED_OP, HYPERVISOR_XEN_VERSION};
use abi::sched::SCHEDOP_YIELD;
use abi::version::{XENVER_GET_FEATURES, XENVER_VERSION};
use guest_rt::start_info::StartInfo;
use guest_rt::{event, println};
use guests::report::Report;
use guests::{cpu, hypercall};

guest_rt::main!(main);

/// How often each operation is tried.
const TRIES: u32 = 200;
/// No hypercall has this number.
const NO_HYPERCALL: u32 = 54;
/// No device has this port.
const NOTHING: u16 = 0x1230;

fn least(mut operation: impl FnMut()) -> u64 {
    (0..TRIES)
        .map(|_| {
            let start = cpu::tsc();
            operation();
            cpu::tsc() - start
        })
        .min()
        .unwrap_or(0)
}

fn bench(name: &str, operation: impl FnMut()) {
    let ticks = least(operation) - least(|| ());
    println!("BENCH {name}: {ticks}");
}

fn main(_: StartInfo) -> ! {
    cpu::init();
    let mut report = Report::default();
    bench("null hypercall", || {
        hypercall::call(HYPERVISOR_XEN_VERSION, [XENVER_VERSION.into(), 0, 0, 0, 0]);
    });
    bench("unknown hypercall", || {
        hypercall::call(NO_HYPERCALL, [0; 5]);
    });
    let mut features = [0u32; 2];
    bench("get_features", || {
        hypercall::op(HYPERVISOR_XEN_VERSION, XENVER_GET_FEATURES, &mut features);
    });
    bench("yield", || {
        hypercall::call(HYPERVISOR_SCHED_OP, [SCHEDOP_YIELD.into(), 0, 0, 0, 0]);
    });
    let mut bind = EvtchnBindIpi { vcpu: 0, port: 0 };
    let bound = hypercall::op(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_BIND_IPI, &mut bind);
    report.equal("bind-ipi", bound, 0);
    let mut port = bind.port;
    let mut sends = u64::MAX;
    for _ in 0..TRIES {
        let start = cpu::tsc();
        hypercall::op(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_SEND, &mut port);
        sends = sends.min(cpu::tsc() - start);
        event::take_pending(|_| ());
    }
    println!("BENCH event send: {}", sends - least(|| ()));
    bench("CPUID", || {
        cpu::cpuid(0, 0);
    });
    let efer = cpu::rdmsr(cpu::MSR_EFER).unwrap_or(0);
    bench("RDMSR (APIC base)", || {
        let _ = cpu::rdmsr(cpu::MSR_APIC_BASE);
    });
    bench("WRMSR (EFER)", || {
        let _ = cpu::wrmsr(cpu::MSR_EFER, efer);
    });
    bench("unused port", || {
        cpu::in8(NOTHING);
    });
    bench("#DB", || {
        let _ = cpu::single_step();
    });
    bench("WBINVD", || {
        let _ = cpu::wbinvd();
    });
    bench("local APIC read", || {
        cpu::mmio_read(cpu::APIC_TPR);
    });
    bench("local APIC write", || cpu::mmio_write(cpu::APIC_TPR, 0));
    report.finish()
}
