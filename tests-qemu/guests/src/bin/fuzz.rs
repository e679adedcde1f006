//! Every hypercall number with random arguments, seeded: whatever the answers are, the machine and this guest survive.
//!
//! `seed=N` and `calls=N` on the command line choose others, `trace=1` prints each call before it is made. What would end the domain or take its own memory away
//! with cause is left out, as is what prints; not with `wild=1`, when only the machine has to survive.
#![no_std]
#![no_main]

extern crate alloc;

use abi::domid::DOMID_SELF;
use abi::hypercall::*;
use abi::memory::*;
use abi::sched::*;
use guest_rt::println;
use guest_rt::start_info::StartInfo;
use guests::frames::Frames;
use guests::random::Random;
use guests::report::Report;
use guests::{cpu, hypercall};

guest_rt::main!(main);

/// Numbers tried are below this.
const NUMBERS: u64 = 64;

/// What pointers point to: nothing of value.
static AREA: Frames<2> = Frames::new();

fn option(info: &StartInfo, key: &str, otherwise: u64) -> u64 {
    info.command_line()
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
        .unwrap_or(otherwise)
}

fn main(info: StartInfo) -> ! {
    cpu::init();
    let seed = option(&info, "seed", 20_261_123);
    let calls = option(&info, "calls", 20_000);
    let trace = option(&info, "trace", 0) != 0;
    let wild = option(&info, "wild", 0) != 0;
    println!("seed={seed} calls={calls}");
    let mut random = Random::new(seed);
    let mut report = Report::default();
    let (mut made, mut accepted) = (0, 0);
    while made < calls {
        let number = random.below(NUMBERS) as u32;
        let mut arguments = [0; 5].map(|_: u64| word(&mut random));
        arguments[0] = if random.below(4) == 0 {
            arguments[0]
        } else {
            random.below(40)
        };
        if number == HYPERVISOR_GRANT_TABLE_OP && !wild {
            // A longer list would have its statuses written all over this program.
            arguments[2] %= 8;
        }
        fill(&mut random);
        if !wild && forbidden(number, &arguments) {
            continue;
        }
        if trace {
            println!("# {number} {arguments:x?}");
        }
        accepted += u64::from(hypercall::call(number, arguments) >= 0);
        made += 1;
        if made % 5000 == 0 {
            println!("# {made} calls, {accepted} accepted");
        }
    }
    let version = hypercall::call(HYPERVISOR_XEN_VERSION, [0; 5]);
    report.equal("still-answers", version, abi::version::XEN_VERSION_4_17.into());
    report.finish()
}

/// A number that somebody could have meant, or could have got wrong.
fn word(random: &mut Random) -> u64 {
    match random.below(9) {
        0 => random.word(),
        1 => random.below(256),
        2 => 1 << random.below(64),
        3 => u64::MAX - random.below(16),
        4 => random.pick(&[hypercall::UNMAPPED, hypercall::NOT_CANONICAL, 0]),
        // Across the end of the area's first page, which the second follows.
        5 => AREA.address() + 4096 - random.below(64),
        6 => u64::from(DOMID_SELF),
        _ => AREA.address() + random.below(512) * 8,
    }
}

/// Fills the area with numbers; no frame of this guest's outside it is ever named as one.
fn fill(random: &mut Random) {
    for index in 0..96 {
        let at = random.below(1024) as usize;
        let value = match random.below(6) {
            0 => AREA.first(),
            1 => u64::from(DOMID_SELF) | random.below(8) << 32,
            2 => AREA.address() + random.below(512) * 8,
            3 => 1 << 40 | random.word(),
            _ => random.below(64),
        };
        AREA.set_word(if index < 32 { index } else { at }, value);
    }
}

/// Calls whose right answer ends the test: shutdown, blocking for ever, memory that this program is made of, control of
/// the machine, output.
fn forbidden(number: u32, arguments: &[u64; 5]) -> bool {
    let sub = arguments[0] as u32;
    match number {
        HYPERVISOR_SCHED_OP => sub != SCHEDOP_YIELD && sub <= SCHEDOP_PIN_OVERRIDE,
        HYPERVISOR_MEMORY_OP => matches!(
            sub & 63,
            XENMEM_DECREASE_RESERVATION
                | XENMEM_EXCHANGE
                | XENMEM_ADD_TO_PHYSMAP
                | XENMEM_ADD_TO_PHYSMAP_BATCH
                | XENMEM_REMOVE_FROM_PHYSMAP
                | XENMEM_ACQUIRE_RESOURCE
                | XENMEM_POPULATE_PHYSMAP
                | XENMEM_INCREASE_RESERVATION
        ),
        // A timer is no harm, but an upcall area elsewhere is the end of this program's time keeping.
        HYPERVISOR_VCPU_OP => !matches!(sub, 2..=9 | 12) || sub == abi::vcpu::VCPUOP_DOWN,
        HYPERVISOR_CONSOLE_IO | HYPERVISOR_PLATFORM_OP | HYPERVISOR_MULTICALL => true,
        _ => false,
    }
}
