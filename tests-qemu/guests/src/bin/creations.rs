//! All of dom0's vCPUs, each on a CPU of its own, make domains and destroy them, all at once: none is refused, numbers are different, and all memory
//! comes back.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use abi::Errno;
use abi::domctl::DomctlCreatedomain;
use guest_rt::hypercall::{domctl, memory, sysctl};
use guest_rt::start_info::StartInfo;
use guests::frames::Frames;
use guests::report::Report;
use guests::{cpu, domains, smp};

guest_rt::main!(main);

/// vCPUs, and CPUs.
const VCPUS: u32 = 4;
/// Lives that each gives in a phase.
const LIVES: u32 = 15;
/// Frames of each domain.
const FRAMES: usize = 200;
/// The first phase leaves what is kept for later ones; the others have as many frames free at their ends.
const PHASES: u32 = 3;

static STACKS: [Frames<4>; VCPUS as usize - 1] = [const { Frames::new() }; VCPUS as usize - 1];
/// The phase that is on, from 1.
static PHASE: AtomicU32 = AtomicU32::new(0);
/// How many vCPUs have come to a phase's end, of all phases.
static ENDED: AtomicU32 = AtomicU32::new(0);
/// How many lives went as they should.
static LIVED: AtomicU64 = AtomicU64::new(0);
/// The domains that live, by their numbers' last six bits: those of four that live at once differ.
static ALIVE: AtomicU64 = AtomicU64::new(0);

fn main(_: StartInfo) -> ! {
    cpu::init();
    let mut report = Report::default();
    for (vcpu, stack) in (1..VCPUS).zip(&STACKS) {
        report.equal("other-vcpu", smp::start(vcpu, other, stack), Ok(()));
    }
    for vcpu in 0..VCPUS {
        let pinned = domctl::set_affinity(0, vcpu, Some(&[1 << vcpu]), None);
        report.equal("pinned", pinned, Ok(()));
    }
    let mut free = None;
    for phase in 1..=PHASES {
        PHASE.store(phase, SeqCst);
        lives();
        while ENDED.load(SeqCst) < phase * VCPUS {
            core::hint::spin_loop();
        }
        let now = sysctl::physinfo().map(|info| info.free_pages);
        report.equal("free", now, free.unwrap_or(now));
        free = Some(now);
    }
    let all = u64::from(PHASES * VCPUS * LIVES);
    report.equal("lived", LIVED.load(SeqCst), all);
    report.finish()
}

extern "C" fn other() -> ! {
    for phase in 1.. {
        while PHASE.load(SeqCst) < phase {
            core::hint::spin_loop();
        }
        lives();
    }
    unreachable!("phases end before numbers do")
}

fn lives() {
    for _ in 0..LIVES {
        LIVED.fetch_add(u64::from(life() == Ok(true)), SeqCst);
    }
    ENDED.fetch_add(1, SeqCst);
}

/// Makes a domain with memory, and destroys it. Was its number its own, and has it got all memory?
fn life() -> Result<bool, Errno> {
    let config = DomctlCreatedomain {
        max_vcpus: 2,
        ..domains::config()
    };
    let domain = domains::create(&config)?;
    let bit = 1 << (domain % 64);
    let own = ALIVE.fetch_or(bit, SeqCst) & bit == 0;
    let mut frames: [u64; FRAMES] = core::array::from_fn(|index| index as u64);
    let got = domctl::max_memory(domain, FRAMES as u64 * 4)
        .and_then(|()| memory::populate_physmap(domain, 0, &mut frames));
    ALIVE.fetch_and(!bit, SeqCst);
    domains::destroy(domain)?;
    Ok(own && got? == FRAMES)
}
