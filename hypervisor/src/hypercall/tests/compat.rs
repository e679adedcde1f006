//! Calls from outside 64-bit mode: the same handlers, with the layouts of i386 guests.

use core::sync::atomic::Ordering::SeqCst;

use abi::domid::DOMID_SELF;
use abi::event_channel::*;
use abi::grant::*;
use abi::hvm::*;
use abi::hypercall::*;
use abi::memory::*;
use abi::sched::*;
use abi::vcpu::*;
use abi::{Compat, Errno, GuestHandle, Layout, Narrow};

use crate::arch::CpuMode;
use crate::domain::vcpu::Hold;
use crate::hypercall::testing::{ARG, BAD, LIST, PAGES, World};
use crate::types::VcpuId;

const MEMORY: u32 = HYPERVISOR_MEMORY_OP;
const EVTCHN: u32 = HYPERVISOR_EVENT_CHANNEL_OP;
const VCPU: u32 = HYPERVISOR_VCPU_OP;

/// A value as an i386 guest has it in memory.
fn i386<T: Compat>(value: T) -> T::I386 {
    value.narrow()
}

/// A call whose argument is a structure, in the caller's layout.
fn op<T: Compat>(guest: &mut World, nr: u32, operation: u32, arg: &mut T) -> Result<u64, Errno> {
    guest.put(ARG, &i386(*arg));
    let result = guest.call_compat(nr, &[operation, ARG as u32, 1]);
    *arg = T::widen(guest.get(ARG));
    result
}

/// The guest has its drivers started in 32-bit mode.
fn latch(guest: &mut World) {
    guest.cpu.mode = CpuMode::Protected32;
    let mut callback = HvmParam {
        domid: DOMID_SELF,
        index: HVM_PARAM_CALLBACK_IRQ,
        ..Default::default()
    };
    assert_eq!(
        op(guest, HYPERVISOR_HVM_OP, HVMOP_SET_PARAM, &mut callback),
        Ok(0)
    );
    assert_eq!(guest.domain.layout(), Layout::I386);
}

#[test]
fn lists_have_elements_of_32_bits() {
    let mut guest = World::new();
    guest.put(LIST, &[100u32, 101, 512]);
    let mut request = MemoryReservation {
        extent_start: GuestHandle::new(LIST),
        nr_extents: 3,
        domid: DOMID_SELF,
        ..Default::default()
    };
    assert_eq!(
        op(&mut guest, MEMORY, XENMEM_POPULATE_PHYSMAP, &mut request),
        Ok(3)
    );
    assert_eq!(guest.domain.total_pages(), PAGES + 3);
    let mut domain = MemoryDomain { domid: DOMID_SELF };
    assert_eq!(op(&mut guest, MEMORY, XENMEM_MAXIMUM_GPFN, &mut domain), Ok(512));
    assert_eq!(
        op(&mut guest, MEMORY, XENMEM_DECREASE_RESERVATION, &mut request),
        Ok(3)
    );

    guest.put(LIST, &[0u32, 9]);
    guest.put(LIST + 16, &[600u32, 601]);
    let mut batch = AddToPhysmapBatch {
        domid: DOMID_SELF,
        space: XENMAPSPACE_SHARED_INFO as u16,
        size: 2,
        idxs: GuestHandle::new(LIST),
        gpfns: GuestHandle::new(LIST + 16),
        errs: GuestHandle::new(LIST + 32),
        ..Default::default()
    };
    assert_eq!(
        op(&mut guest, MEMORY, XENMEM_ADD_TO_PHYSMAP_BATCH, &mut batch),
        Ok(0)
    );
    assert_eq!(guest.get::<[i32; 2]>(LIST + 32), [0, -22]);
    assert_eq!(
        guest.call_compat(MEMORY, &[XENMEM_ADD_TO_PHYSMAP_BATCH, BAD as u32]),
        Err(Errno::EFAULT)
    );
}

#[test]
fn a_long_list_goes_on_in_32_bits() {
    let mut guest = World::new();
    guest.domain.set_max_pages(PAGES + 700);
    // More than a slice, and more than the table's first page.
    for index in 0..600u32 {
        guest.put(LIST + 4 * u64::from(index), &(0x1000 + index));
    }
    let mut request = MemoryReservation {
        extent_start: GuestHandle::new(LIST),
        nr_extents: 600,
        domid: DOMID_SELF,
        ..Default::default()
    };
    assert_eq!(
        op(&mut guest, MEMORY, XENMEM_POPULATE_PHYSMAP, &mut request),
        Ok(600)
    );
    let mut reset = EvtchnReset { dom: DOMID_SELF };
    assert_eq!(
        op(&mut guest, EVTCHN, EVTCHNOP_RESET, &mut reset),
        Ok(0),
        "in slices"
    );
    let copies = [i386(GnttabCopy {
        source: GnttabCopyPtr {
            domid: 0x7000,
            ..Default::default()
        },
        ..Default::default()
    }); 70];
    for (index, copy) in copies.iter().enumerate() {
        guest.put(LIST + 24 * index as u64, copy);
    }
    let nr = HYPERVISOR_GRANT_TABLE_OP;
    assert_eq!(guest.call_compat(nr, &[GNTTABOP_COPY, LIST as u32, 70]), Ok(0));
    let last: CompatGnttabCopy = guest.get(LIST + 24 * 69);
    assert_eq!(GnttabCopy::widen(last).status, GNTST_BAD_DOMAIN);
}

#[test]
fn frames_that_do_not_fit() {
    let mut guest = World::new();
    let mut setup = GnttabSetupTable {
        dom: DOMID_SELF,
        nr_frames: 1,
        frame_list: GuestHandle::new(LIST),
        ..Default::default()
    };
    let nr = HYPERVISOR_GRANT_TABLE_OP;
    assert_eq!(op(&mut guest, nr, GNTTABOP_SETUP_TABLE, &mut setup), Ok(0));
    assert_eq!(setup.status, GNTST_ADDRESS_TOO_BIG, "mapped nowhere");
    let mut place = AddToPhysmap {
        domid: DOMID_SELF,
        space: XENMAPSPACE_GRANT_TABLE,
        gpfn: 15,
        ..Default::default()
    };
    assert_eq!(op(&mut guest, MEMORY, XENMEM_ADD_TO_PHYSMAP, &mut place), Ok(0));
    assert_eq!(op(&mut guest, nr, GNTTABOP_SETUP_TABLE, &mut setup), Ok(0));
    assert_eq!((setup.status, guest.get(LIST)), (GNTST_OKAY, 15u32));
}

#[test]
fn timers() {
    let mut guest = World::new();
    let deadline = |guest: &World| {
        let vcpu = guest.domain.vcpu(VcpuId(0)).expect("vcpu");
        vcpu.timers.singleshot.load(SeqCst)
    };
    assert_eq!(guest.call_compat(HYPERVISOR_SET_TIMER_OP, &[7, 0x100]), Ok(0));
    assert_eq!(deadline(&guest), 0x100_0000_0007);
    // In a list of calls, too; its entries have 32 bytes.
    let entry = |op: u32, args| MulticallEntry {
        op: op.into(),
        result: 99,
        args,
    };
    let calls = [
        entry(HYPERVISOR_SET_TIMER_OP, [8, 0x200, 0, 0, 0, 0]),
        entry(HYPERVISOR_MULTICALL, [LIST, 1, 0, 0, 0, 0]),
        entry(HYPERVISOR_XEN_VERSION, [0; 6]),
    ];
    guest.put(LIST, &calls.map(i386));
    assert_eq!(guest.call_compat(HYPERVISOR_MULTICALL, &[LIST as u32, 3]), Ok(0));
    assert_eq!(deadline(&guest), 0x200_0000_0008);
    let result = |index: u64| guest.get::<CompatMulticallEntry>(LIST + 32 * index).result;
    assert_eq!([0, 1, 2].map(result), [0, -38i32 as u32, 0x40011]);
    // 12 bytes, the last ones of what is mapped.
    let at = PAGES * 4096 - 12;
    guest.put(
        at,
        &i386(VcpuSetSingleshotTimer {
            timeout_abs_ns: 1 << 50,
            ..Default::default()
        }),
    );
    assert_eq!(
        guest.call_compat(VCPU, &[VCPUOP_SET_SINGLESHOT_TIMER, 0, at as u32]),
        Ok(0)
    );
    assert_eq!(deadline(&guest), 1 << 50);
    assert_eq!(
        guest.call(VCPU, &[VCPUOP_SET_SINGLESHOT_TIMER.into(), 0, at]),
        Err(Errno::EFAULT)
    );
}

#[test]
fn a_poll() {
    let mut guest = World::new();
    let mut ipi = EvtchnBindIpi { vcpu: 0, port: 0 };
    assert_eq!(op(&mut guest, EVTCHN, EVTCHNOP_BIND_IPI, &mut ipi), Ok(0));
    guest.put(LIST, &ipi.port);
    let mut poll = SchedPoll {
        ports: GuestHandle::new(LIST),
        nr_ports: 1,
        pad: 0,
        timeout: 1 << 60,
    };
    assert_eq!(
        op(&mut guest, HYPERVISOR_SCHED_OP, SCHEDOP_POLL, &mut poll),
        Ok(0)
    );
    assert!(guest.domain.vcpu(VcpuId(0)).expect("vcpu").held_by(Hold::POLLING));
}

#[test]
fn shared_memory_has_the_layout_of_the_mode_that_drivers_began_in() {
    let mut guest = World::new();
    assert_eq!(guest.domain.layout(), Layout::X86_64);
    let version = |guest: &World, at| guest.domain.shared_info.u32_at(at).load(SeqCst);
    latch(&mut guest);
    assert_ne!(version(&guest, 2304), 0, "the wall clock");
    assert_eq!(version(&guest, 2304) % 2, 0);
    let mut ipi = EvtchnBindIpi { vcpu: 0, port: 0 };
    for _ in 0..40 {
        assert_eq!(op(&mut guest, EVTCHN, EVTCHNOP_BIND_IPI, &mut ipi), Ok(0));
    }
    let send = |guest: &mut World, port| op(guest, EVTCHN, EVTCHNOP_SEND, &mut EvtchnPortArg { port });
    assert_eq!(send(&mut guest, 40), Ok(0));
    assert_eq!(
        version(&guest, 2048 + 4),
        1 << 8,
        "the second word of pending bits"
    );
    assert_eq!(version(&guest, 4), 1 << 1, "the selector");
    // Where a 64-bit guest has its selector there is nothing.
    assert_eq!(version(&guest, 8), 0);

    let area = VcpuRegisterRunstateMemoryArea {
        addr: GuestHandle::new(LIST),
    };
    guest.put(ARG, &i386(area));
    guest.put(LIST, &[0xffu8; 48]);
    let register = VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA;
    assert_eq!(guest.call_compat(VCPU, &[register, 0, ARG as u32]), Ok(0));
    assert_eq!(
        guest.call_compat(VCPU, &[VCPUOP_GET_RUNSTATE_INFO, 0, ARG as u32]),
        Ok(0)
    );
    let (kept, asked) = (
        guest.get::<CompatVcpuRunstateInfo>(LIST),
        guest.get::<CompatVcpuRunstateInfo>(ARG),
    );
    let (kept, asked) = (VcpuRunstateInfo::widen(kept), VcpuRunstateInfo::widen(asked));
    assert_eq!(
        (kept.state, kept.state_entry_time),
        (asked.state, asked.state_entry_time)
    );
    assert_eq!(guest.get::<u32>(LIST + 44), u32::MAX, "44 bytes");
}

#[test]
fn ports_that_a_32_bit_guest_cannot_have() {
    let mut guest = World::with(crate::domain::Config {
        max_evtchn_port: 4095,
        ..crate::hypercall::testing::config(false)
    });
    let mut ipi = EvtchnBindIpi { vcpu: 0, port: 0 };
    for _ in 1..1500 {
        assert_eq!(guest.op(EVTCHN, EVTCHNOP_BIND_IPI, &mut ipi), Ok(0));
    }
    latch(&mut guest);
    // One from before is sent to nowhere, and nothing is written beside the pending bits.
    let mut port = EvtchnPortArg { port: 1400 };
    assert_eq!(op(&mut guest, EVTCHN, EVTCHNOP_SEND, &mut port), Ok(0));
    assert_eq!(op(&mut guest, EVTCHN, EVTCHNOP_UNMASK, &mut port), Ok(0));
    assert_eq!(guest.domain.shared_info.u64_at(0).load(SeqCst), 0);
    assert_eq!(
        op(&mut guest, EVTCHN, EVTCHNOP_BIND_IPI, &mut ipi),
        Err(Errno::ENOSPC)
    );
    let mut reset = EvtchnReset { dom: DOMID_SELF };
    assert_eq!(op(&mut guest, EVTCHN, EVTCHNOP_RESET, &mut reset), Ok(0));
    for port in 1..1024 {
        assert_eq!(op(&mut guest, EVTCHN, EVTCHNOP_BIND_IPI, &mut ipi), Ok(0));
        assert_eq!(ipi.port, port);
    }
    assert_eq!(
        op(&mut guest, EVTCHN, EVTCHNOP_BIND_IPI, &mut ipi),
        Err(Errno::ENOSPC)
    );
}
