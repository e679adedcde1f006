//! Called well and badly: all numbers, random ones too, and the small families.

use abi::Errno;
use abi::domid::DOMID_SELF;
use abi::event_channel::*;
use abi::hypercall::*;
use abi::version::*;

use crate::arch::Answer;
use crate::hw;
use crate::hw::irq::SoftIrq;
use crate::hypercall::testing::{ARG, BAD, LIST, PAGES, World};
use crate::types::Gfn;

const EVTCHN: u32 = HYPERVISOR_EVENT_CHANNEL_OP;
const MEMORY: u32 = HYPERVISOR_MEMORY_OP;
const GRANT: u32 = HYPERVISOR_GRANT_TABLE_OP;
const HVM: u32 = HYPERVISOR_HVM_OP;
const VCPU: u32 = HYPERVISOR_VCPU_OP;
const SCHED: u32 = HYPERVISOR_SCHED_OP;

#[test]
fn numbers_that_mean_nothing() {
    let mut guest = World::new();
    for nr in [0, 1, 5, 14, 25, 26, 28, 30, 37, 43, 63, 1000, u32::MAX] {
        assert_eq!(guest.call(nr, &[1, ARG, 3]), Err(Errno::ENOSYS), "{nr}");
    }
    for nr in [EVTCHN, MEMORY, GRANT, HVM, SCHED, HYPERVISOR_XEN_VERSION] {
        assert_eq!(guest.call(nr, &[63, ARG, 1]), Err(Errno::ENOSYS), "{nr}");
    }
    assert_eq!(guest.call(VCPU, &[63, 0, ARG]), Err(Errno::ENOSYS));
}

#[test]
fn random_calls_do_no_harm() {
    let mut guest = World::new();
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for _ in 0..20_000 {
        let nr = random() as u32 % 48;
        let operation = random() % 32;
        let args: [u64; 2] = core::array::from_fn(|_| match random() % 4 {
            0 => random() % 64,
            1 => ARG + random() % 4096,
            2 => random() & 0xffff_ffff,
            _ => random(),
        });
        for at in 0..8 {
            guest.put(ARG + 8 * at, &(random() % 8));
        }
        // A slice is enough: the rest is more of the same.
        let _ = guest.caller(|caller| crate::hypercall::call(operation, args[0], args[1], caller, nr.into()));
        for gfn in 0..PAGES {
            if guest.domain.p2m.lookup(Gfn(gfn)).is_none() {
                guest.domain.populate(Gfn(gfn), 0).expect("room");
            }
        }
    }
}

#[test]
fn version() {
    let mut guest = World::new();
    let nr = HYPERVISOR_XEN_VERSION;
    assert_eq!(guest.call(nr, &[XENVER_VERSION.into()]), Ok(0x40011));
    assert_eq!(guest.call(nr, &[XENVER_PAGESIZE.into()]), Ok(4096));
    let mut info = FeatureInfo {
        submap_idx: 0,
        submap: 0,
    };
    assert_eq!(guest.op(nr, XENVER_GET_FEATURES, &mut info), Ok(0));
    assert_eq!(info.submap, 0x12305);
    info.submap_idx = 1;
    assert_eq!(guest.op(nr, XENVER_GET_FEATURES, &mut info), Err(Errno::EINVAL));
    assert_eq!(guest.call(nr, &[XENVER_CAPABILITIES.into(), LIST]), Ok(0));
    let text: [u8; 64] = guest.get(LIST);
    assert!(text.starts_with(b"xen-3.0-x86_64 hvm-3.0-x86_32 hvm-3.0-x86_32p hvm-3.0-x86_64"));
    assert_eq!(guest.call(nr, &[XENVER_GUEST_HANDLE.into(), LIST]), Ok(0));
    assert_eq!(guest.get::<[u8; 16]>(LIST), *b"0123456789abcdef");
    assert_eq!(guest.call(nr, &[XENVER_BUILD_ID.into(), 0]), Err(Errno::EPERM));
    assert_eq!(guest.call(nr, &[XENVER_COMMANDLINE.into(), LIST]), Ok(0));
    assert_eq!(guest.get::<[u8; 9]>(LIST), *b"<denied>\0");
    for operation in [1, 2, 3, 4, 5, 6, 8, 9] {
        guest.faults(nr, operation);
        assert_ne!(guest.call(nr, &[operation.into(), ARG]), Err(Errno::EFAULT));
    }
    let mut dom0 = World::privileged();
    info.submap_idx = 0;
    assert_eq!(dom0.op(nr, XENVER_GET_FEATURES, &mut info), Ok(0));
    assert_eq!(info.submap, 0x12b05);
    assert_eq!(dom0.call(nr, &[XENVER_BUILD_ID.into(), 0]), Err(Errno::ENODATA));
    dom0.faults(nr, XENVER_BUILD_ID);
}

#[test]
fn a_multicall_makes_way_for_what_waits_on_the_cpu() {
    let mut guest = World::new();
    let call = MulticallEntry {
        op: HYPERVISOR_XEN_VERSION.into(),
        result: 0,
        args: [0; 6],
    };
    guest.put(LIST, &[call; 3]);
    // Another test may do the work before it is seen.
    let made_way = (0..1000).any(|_| {
        hw::irq::raise(SoftIrq::NMI);
        guest.caller(|caller| crate::hypercall::call(LIST, 3, 0, caller, HYPERVISOR_MULTICALL.into()))
            == Answer::AGAIN
    });
    assert!(made_way);
    assert_eq!(guest.get::<MulticallEntry>(LIST).result, 0x40011);
    assert_eq!(guest.get::<[MulticallEntry; 3]>(LIST)[2].result, 0);
    hw::irq::take_softirqs();
}

#[test]
fn multicalls() {
    let mut guest = World::new();
    let entry = |op: u32, first, second| MulticallEntry {
        op: op.into(),
        result: 99,
        args: [first, second, 0, 0, 0, 0],
    };
    let mut calls = vec![entry(HYPERVISOR_XEN_VERSION, 0, 0); 70];
    calls[1] = entry(HYPERVISOR_MULTICALL, LIST, 1);
    calls[2] = entry(1000, 0, 0);
    // One that has to go on: closing ports in slices.
    guest.put(ARG, &EvtchnReset { dom: DOMID_SELF });
    calls[3] = entry(EVTCHN, EVTCHNOP_RESET.into(), ARG);
    for (index, call) in calls.iter().enumerate() {
        guest.put(LIST + index as u64 * 64, call);
    }
    assert_eq!(guest.call(HYPERVISOR_MULTICALL, &[LIST, 70]), Ok(0));
    let result = |index: u64| guest.get::<MulticallEntry>(LIST + index * 64).result;
    assert_eq!(
        [0, 1, 2, 3, 69].map(result),
        [0x40011, -38i64 as u64, -38i64 as u64, 0, 0x40011]
    );
    assert_eq!(guest.call(HYPERVISOR_MULTICALL, &[BAD, 1]), Err(Errno::EFAULT));
}

#[test]
fn assists() {
    let mut guest = World::new();
    let nr = HYPERVISOR_VM_ASSIST;
    let kind = u64::from(VMASST_TYPE_RUNSTATE_UPDATE_FLAG);
    assert_eq!(guest.call(nr, &[VMASST_CMD_ENABLE.into(), kind]), Ok(0));
    assert!(guest.domain.assist(VMASST_TYPE_RUNSTATE_UPDATE_FLAG));
    assert_eq!(guest.call(nr, &[VMASST_CMD_DISABLE.into(), kind]), Ok(0));
    assert!(!guest.domain.assist(VMASST_TYPE_RUNSTATE_UPDATE_FLAG));
    assert_eq!(guest.call(nr, &[VMASST_CMD_ENABLE.into(), 0]), Err(Errno::EINVAL));
    assert_eq!(guest.call(nr, &[2, kind]), Err(Errno::ENOSYS));
}

#[test]
fn console_and_machine() {
    let mut guest = World::new();
    let nr = HYPERVISOR_CONSOLE_IO;
    guest.put(ARG, b"hello\n");
    assert_eq!(guest.call(nr, &[0, 6, ARG]), Ok(0));
    assert_eq!(guest.call(nr, &[0, 6, BAD]), Err(Errno::EFAULT));
    assert_eq!(guest.call(nr, &[0, u32::MAX.into(), ARG]), Err(Errno::EINVAL));
    assert_eq!(guest.call(nr, &[0, 0x8000, ARG]), Ok(0), "in slices");
    assert_eq!(guest.call(nr, &[1, 6, ARG]), Err(Errno::EPERM));
    assert_eq!(guest.call(HYPERVISOR_PHYSDEV_OP, &[25, ARG]), Err(Errno::ENOSYS));
    let mut dom0 = World::privileged();
    assert_eq!(dom0.call(HYPERVISOR_PHYSDEV_OP, &[25, ARG]), Ok(0));
    dom0.faults(HYPERVISOR_PHYSDEV_OP, 25);
    assert_eq!(dom0.call(HYPERVISOR_PHYSDEV_OP, &[13, ARG]), Err(Errno::ENOSYS));
}
