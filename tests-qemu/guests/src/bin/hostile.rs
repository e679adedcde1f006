//! What a domain may do to itself or try on others; `what=` on the command line says which. The domain ends (the test
//! looks at how), or reports that it was refused; the machine and other domains go on.
#![no_std]
#![no_main]

use abi::grant::{GNTMAP_HOST_MAP, GNTMAP_READONLY, GNTST_OKAY, GNTTABOP_MAP_GRANT_REF, GnttabMapGrantRef};
use abi::hypercall::{HYPERVISOR_SCHED_OP, HYPERVISOR_VCPU_OP};
use abi::sched::{SCHEDOP_WATCHDOG, SHUTDOWN_CRASH, SchedWatchdog};
use abi::vcpu::VCPUOP_DOWN;
use guest_rt::hypercall::{sched, vcpu};
use guest_rt::start_info::StartInfo;
use guest_rt::{println, time};
use guests::cpu::{self, GP0, UD0};
use guests::frames::Frames;
use guests::granting::{Grants, one};
use guests::report::Report;
use guests::{hypercall, smp, wreck};

guest_rt::main!(main);

/// ICR: destination shorthand "all including self".
const TO_ALL: u32 = 2 << 18;

fn main(info: StartInfo) -> ! {
    cpu::init();
    let what = info
        .command_line()
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix("what="))
        .unwrap_or("nothing");
    println!("HOSTILE {what}");
    match what {
        "triple_fault" => wreck::triple_fault(),
        "jump_nowhere" => wreck::jump_nowhere(),
        "no_page_tables" => wreck::no_page_tables(),
        "execute_nowhere" => wreck::jump(NOWHERE),
        "no_memory" => no_memory(),
        "spin" => wreck::spin(),
        "storm" => {
            cpu::enable_local_apic();
            // Without a second vCPU it is all alone.
            let _ = smp::start(1, storm, &STACK);
            storm()
        }
        "halt" => wreck::halt(),
        "task_switch" => wreck::switch_tasks(),
        "panic" => sched::shutdown(SHUTDOWN_CRASH),
        "reboot" => sched::shutdown(abi::sched::SHUTDOWN_REBOOT),
        "watchdog" => {
            set_watchdog();
            wreck::spin()
        }
        "watchdog-down" => watchdog_down(),
        "privileged" => privileged(),
        "secret" => secret(),
        _ => panic!("what={what}: no such thing"),
    }
}

/// Behind the domain's memory, and mapped by its page tables.
const NOWHERE: u64 = 1 << 30;

/// Reads and writes where there is no memory, and where it may not write.
fn no_memory() -> ! {
    static FRAME: Frames<1> = Frames::new();
    const REFERENCE: u32 = 8;
    let mut report = Report::default();
    report.equal("read-nothing", cpu::load(NOWHERE), Ok(!0));
    report.equal("write-nothing", cpu::store(NOWHERE, 0), Ok(()));
    report.equal("read-again", cpu::load(NOWHERE), Ok(!0));
    let (own, _) = cpu::identity();
    Grants::default().grant_to(own, REFERENCE, FRAME.first());
    let mut map = GnttabMapGrantRef {
        host_addr: NOWHERE,
        flags: GNTMAP_HOST_MAP | GNTMAP_READONLY,
        ref_: REFERENCE,
        dom: own,
        status: 1,
        ..Default::default()
    };
    report.equal("map-to-read", one(GNTTABOP_MAP_GRANT_REF, &mut map), 0);
    report.equal("map-status", map.status, GNTST_OKAY);
    report.equal("read-mapped", cpu::load(NOWHERE), Ok(0));
    report.equal("write-mapped", cpu::store(NOWHERE, 1), Err(GP0));
    report.equal("read-mapped-again", cpu::load(NOWHERE), Ok(0));
    report.finish()
}

/// Looks in its memory for what the same left in that of a domain before, and leaves it.
fn secret() -> ! {
    const SECRET: u32 = 0x5ec2_e701;
    // Behind what the heap has used, and before what the loader may have put at the end of 96 MiB.
    let places = || (16 << 20..88_u64 << 20).step_by(512);
    let known = || places().filter(|&place| cpu::load(place) == Ok(SECRET)).count();
    let mut report = Report::default();
    report.equal("secret-of-others", known(), 0);
    let written = places()
        .filter(|&place| cpu::store(place, SECRET).is_ok())
        .count();
    report.equal("secret-written", written, places().count());
    report.equal("secret-kept", known(), written);
    report.finish()
}

/// In a second the domain ends.
fn set_watchdog() {
    let set = hypercall::op(
        HYPERVISOR_SCHED_OP,
        SCHEDOP_WATCHDOG,
        &mut SchedWatchdog { id: 0, timeout: 1 },
    );
    println!("watchdog {set}");
}

/// vCPU 0 is down when its own timer passes, and when the watchdog does.
fn watchdog_down() -> ! {
    const SOON: u64 = 200_000_000;
    set_watchdog();
    let mut report = Report::default();
    report.equal("second-vcpu", smp::start(1, spins, &STACK), Ok(()));
    report.equal("timer", vcpu::set_timer(Some(time::now() + SOON)), Ok(()));
    hypercall::call(HYPERVISOR_VCPU_OP, [VCPUOP_DOWN.into(), 0, 0, 0, 0]);
    report.equal("down", false, true);
    report.finish()
}

/// Interrupts for all vCPUs, which none of them takes.
extern "C" fn storm() -> ! {
    loop {
        cpu::mmio_write(cpu::APIC_ICR, TO_ALL | 0x41);
    }
}

extern "C" fn spins() -> ! {
    wreck::spin()
}

static STACK: Frames<4> = Frames::new();

/// An instruction by its name.
type Instruction = (&'static str, fn() -> Result<(), cpu::Fault>);

/// Undefined on every machine, as domains have it.
const EVERYWHERE: &[Instruction] = &[("getsec", cpu::getsec), ("rsm", cpu::rsm)];

/// VT-x.
const VMX: &[Instruction] = &[
    ("vmxon", cpu::vmxon),
    ("vmptrld", cpu::vmptrld),
    ("vmlaunch", cpu::vmlaunch),
    ("vmresume", cpu::vmresume),
    ("vmxoff", cpu::vmxoff),
    ("invept", cpu::invept),
    ("invvpid", cpu::invvpid),
    ("vmfunc", cpu::vmfunc),
];

/// AMD-V.
const SVM: &[Instruction] = &[
    ("vmrun", cpu::vmrun),
    ("vmload", cpu::vmload),
    ("vmsave", cpu::vmsave),
    ("stgi", cpu::stgi),
    ("clgi", cpu::clgi),
    ("skinit", cpu::skinit),
    ("invlpga", cpu::invlpga),
];

/// Instructions of virtualization and system management: undefined here, although the machine has them. The other
/// vendor's are left out: no hypervisor sees them, and QEMU's TCG takes two of VT-x's for RDRAND on an AMD CPU.
fn privileged() -> ! {
    let mut report = Report::default();
    let [_, b, ..] = cpu::cpuid(0, 0);
    let intel = b.to_le_bytes() == *b"Genu";
    for (name, instruction) in EVERYWHERE.iter().chain(if intel { VMX } else { SVM }) {
        report.equal(name, instruction(), Err(UD0));
    }
    report.equal("invd", cpu::invd().is_ok() || cpu::invd() == Err(GP0), true);
    report.finish()
}
