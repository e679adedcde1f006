//! Every hypercall with any arguments, one after the other in one domain.

use abi::hypercall::*;
use abi::sched::SCHEDOP_SHUTDOWN;

use crate::hypercall::testing::{ARG, LIST, PAGES, World, destroy, soft_reset};

/// What a guest writes into its memory, or a call: its number, what its first argument is, and numbers that say more.
type Step = (u8, u8, [u64; 5]);

/// Addresses are mostly where there is something.
fn address(word: u64) -> u64 {
    match word % 4 {
        0 => ARG,
        1 => LIST + (word >> 8) % 4096,
        2 => (word >> 8) % (PAGES * 4096),
        _ => word,
    }
}

#[test]
fn hypercalls() {
    bolero::check!().with_type::<Vec<Step>>().for_each(|steps| {
        let mut world = World::new();
        for &(number, operation, words) in steps {
            if number & 0x80 != 0 {
                world.put(
                    words[0] % (PAGES * 4096 - 32),
                    &[words[1], words[2], words[3], words[4]],
                );
                continue;
            }
            let number = u32::from(number) % (HYPERVISOR_HYPFS_OP + 2);
            let mut arguments = words.map(address);
            // Half of the families have the operation first, and small numbers there are the interesting ones.
            if operation & 0x80 == 0 {
                arguments[0] = (operation % 40).into();
            }
            if number == HYPERVISOR_GRANT_TABLE_OP || number == HYPERVISOR_MULTICALL {
                let count = if number == HYPERVISOR_MULTICALL { 1 } else { 2 };
                arguments[count] = words[4] % 16;
            }
            if number == HYPERVISOR_SCHED_OP && arguments[0] == u64::from(SCHEDOP_SHUTDOWN) {
                soft_reset(&world.domain);
                continue;
            }
            let _ = world.call(number, &arguments[..3]);
        }
        destroy(&world.domain);
        assert_eq!(world.domain.total_pages(), 0);
    });
}
