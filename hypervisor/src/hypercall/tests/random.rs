//! Operations on events, grants and what maps them, with random structures: each is answered, and two domains that did it can be
//! destroyed without a frame left.

use abi::domid::DOMID_SELF;
use abi::hypercall::*;
use abi::memory::{XENMEM_ACQUIRE_RESOURCE, XENMEM_ADD_TO_PHYSMAP};
use abi::sched::SCHEDOP_SHUTDOWN;
use proptest::prelude::*;

use crate::domain::{lifecycle, table};
use crate::hypercall::testing::{ARG, BAD, LIST, PAGES, World, destroy, soft_reset};

/// Part of an argument structure.
#[derive(Clone, Copy, Debug)]
enum Field {
    Any(u64),
    /// A small number in each half.
    Small(u32, u32),
    /// The number of one of the two domains, below another number.
    Domain(usize, u32),
    SelfBelow(u32),
    List,
    Bad,
}

fn field() -> impl Strategy<Value = Field> {
    prop_oneof![
        1 => any::<u64>().prop_map(Field::Any),
        4 => (0..20u32, 0..20u32).prop_map(|(low, high)| Field::Small(low, high)),
        2 => (0..2usize, 0..20u32).prop_map(|(domain, high)| Field::Domain(domain, high)),
        1 => (0..20u32).prop_map(Field::SelfBelow),
        1 => Just(Field::List),
        1 => Just(Field::Bad),
    ]
}

#[derive(Clone, Debug)]
struct Call {
    who: usize,
    number: u32,
    operation: u32,
    count: u32,
    fields: [Field; 6],
    /// What the caller's table of grants holds where it is mapped.
    entry: (u64, Field),
}

fn call() -> impl Strategy<Value = Call> {
    let number = prop_oneof![
        (Just(HYPERVISOR_EVENT_CHANNEL_OP), 0..16u32),
        (Just(HYPERVISOR_GRANT_TABLE_OP), 0..14u32),
        (Just(HYPERVISOR_MEMORY_OP), Just(XENMEM_ACQUIRE_RESOURCE)),
        // What dom0 does when the domain has shut down for it.
        (Just(HYPERVISOR_SCHED_OP), Just(SCHEDOP_SHUTDOWN)),
    ];
    let count = prop_oneof![4 => Just(1u32), 1 => 0..70u32, 1 => any::<u32>()];
    let fields = [field(), field(), field(), field(), field(), field()];
    (0..2usize, number, count, fields, (0..32u64, field())).prop_map(
        |(who, (number, operation), count, fields, entry)| Call {
            who,
            number,
            operation,
            count,
            fields,
            entry,
        },
    )
}

/// Where the grant table is mapped.
const TABLE: u64 = PAGES - 1;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn whatever_the_structures_say(calls in proptest::collection::vec(call(), 1..150)) {
        let mut worlds = [World::new(), World::new()];
        let ids = [0, 1].map(|index: usize| worlds[index].domain.id);
        for world in &mut worlds {
            let mut place = abi::memory::AddToPhysmap {
                domid: DOMID_SELF,
                space: abi::memory::XENMAPSPACE_GRANT_TABLE,
                gpfn: TABLE,
                ..Default::default()
            };
            prop_assert_eq!(world.op(HYPERVISOR_MEMORY_OP, XENMEM_ADD_TO_PHYSMAP, &mut place), Ok(0));
        }
        let value = |field: Field| match field {
            Field::Any(value) => value,
            Field::Small(low, high) => u64::from(low) | u64::from(high) << 32,
            Field::Domain(domain, high) => u64::from(ids[domain].0) | u64::from(high) << 32,
            Field::SelfBelow(high) => u64::from(DOMID_SELF) | u64::from(high) << 32,
            Field::List => LIST,
            Field::Bad => BAD,
        };
        for call in &calls {
            let world = &mut worlds[call.who];
            if call.number == HYPERVISOR_SCHED_OP {
                soft_reset(&world.domain);
                continue;
            }
            let (index, entry) = call.entry;
            // An access for one of the two, more often than not.
            let header = 1 | u64::from(ids[1 - call.who].0) << 16;
            world.put(TABLE * 4096 + index * 8, &(header | value(entry) << 32));
            world.put(ARG, &call.fields.map(value));
            // Lists that are not read to their end are short ones of this page.
            let count = if call.count < 1 << 31 { call.count % 70 } else { call.count };
            let _ = world.call(call.number, &[call.operation.into(), ARG, count.into()]);
        }
        for world in &worlds {
            destroy(&world.domain);
        }
        lifecycle::reap();
        for id in ids {
            prop_assert!(table::get(id).is_none(), "{:?} is still there", id);
        }
    }
}
