//! Each operation that guests are offered: called well, and called badly.

use abi::domid::DOMID_SELF;
use abi::event_channel::*;
use abi::grant::*;
use abi::hvm::*;
use abi::hypercall::*;
use abi::memory::*;
use abi::sched::*;
use abi::vcpu::*;
use abi::version::*;
use abi::{Errno, GuestHandle};

use super::testing::{ARG, BAD, LIST, PAGES, World, config, destroy};
use crate::domain::vcpu::Hold;
use crate::domain::{Config, Life, lifecycle, table};
use crate::mm::p2m::Kind;
use crate::types::{DomId, Gfn, Port, VcpuId};

const EVTCHN: u32 = HYPERVISOR_EVENT_CHANNEL_OP;
const MEMORY: u32 = HYPERVISOR_MEMORY_OP;
const GRANT: u32 = HYPERVISOR_GRANT_TABLE_OP;
const HVM: u32 = HYPERVISOR_HVM_OP;
const VCPU: u32 = HYPERVISOR_VCPU_OP;
const SCHED: u32 = HYPERVISOR_SCHED_OP;

// ---- numbers ----

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
        let args: [u64; 5] = core::array::from_fn(|_| match random() % 4 {
            0 => random() % 64,
            1 => ARG + random() % 4096,
            2 => random() & 0xffff_ffff,
            _ => random(),
        });
        for at in 0..8 {
            guest.put(ARG + 8 * at, &(random() % 8));
        }
        // A slice is enough: the rest is more of the same.
        let _ = guest.caller(|caller| {
            super::dispatch(
                caller,
                nr.into(),
                [operation, args[0], args[1], args[2], args[3], args[4]],
            )
        });
        for gfn in 0..PAGES {
            if guest.domain.p2m.lookup(Gfn(gfn)).is_none() {
                guest.domain.populate(Gfn(gfn), 0).expect("room");
            }
        }
    }
}

// ---- version ----

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
    assert_eq!(guest.call(nr, &[XENVER_BUILD_ID.into(), 0]), Err(Errno::ENODATA));
    for operation in [1, 2, 3, 4, 5, 6, 8, 9, 10] {
        guest.faults(nr, operation);
        assert_ne!(guest.call(nr, &[operation.into(), ARG]), Err(Errno::EFAULT));
    }
    let mut dom0 = World::privileged();
    info.submap_idx = 0;
    assert_eq!(dom0.op(nr, XENVER_GET_FEATURES, &mut info), Ok(0));
    assert_eq!(info.submap, 0x12b05);
}

// ---- events ----

#[test]
fn events_within_a_domain() {
    let mut guest = World::new();
    let mut ipi = EvtchnBindIpi { vcpu: 1, port: 0 };
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_BIND_IPI, &mut ipi), Ok(0));
    assert_eq!(ipi.port, 1);
    let mut port = EvtchnPortArg { port: ipi.port };
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_SEND, &mut port), Ok(0));
    assert!(
        guest
            .domain
            .vcpu(VcpuId(1))
            .expect("vcpu")
            .events
            .upcall_pending()
    );
    assert!(
        !guest
            .domain
            .vcpu(VcpuId(0))
            .expect("vcpu")
            .events
            .upcall_pending()
    );
    let mut status = EvtchnStatus {
        dom: DOMID_SELF,
        port: 1,
        ..Default::default()
    };
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_STATUS, &mut status), Ok(0));
    assert_eq!((status.status, status.vcpu), (EVTCHNSTAT_IPI, 1));
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_UNMASK, &mut port), Ok(0));
    let mut bind = EvtchnBindVcpu { port: 1, vcpu: 0 };
    assert_eq!(
        guest.op(EVTCHN, EVTCHNOP_BIND_VCPU, &mut bind),
        Err(Errno::EINVAL),
        "an IPI stays"
    );
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_CLOSE, &mut port), Ok(0));
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_CLOSE, &mut port), Err(Errno::EINVAL));
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_SEND, &mut port), Err(Errno::EINVAL));
    ipi.vcpu = 3;
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_BIND_IPI, &mut ipi), Err(Errno::ENOENT));
    port.port = u32::MAX;
    for operation in [EVTCHNOP_SEND, EVTCHNOP_CLOSE, EVTCHNOP_UNMASK] {
        assert_eq!(guest.op(EVTCHN, operation, &mut port), Err(Errno::EINVAL));
    }
    for operation in 0..=10 {
        guest.faults(EVTCHN, operation);
    }
    for operation in 11..=13 {
        assert_eq!(guest.call(EVTCHN, &[operation, ARG]), Err(Errno::ENOSYS), "FIFO");
    }
}

#[test]
fn virtual_interrupts() {
    let mut guest = World::new();
    let mut bind = EvtchnBindVirq {
        virq: VIRQ_TIMER,
        vcpu: 2,
        port: 0,
    };
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_BIND_VIRQ, &mut bind), Ok(0));
    assert_eq!(
        guest.op(EVTCHN, EVTCHNOP_BIND_VIRQ, &mut bind),
        Err(Errno::EEXIST)
    );
    crate::event::raise_virq(&guest.domain, VcpuId(1), VIRQ_TIMER);
    assert!(!crate::event::any_pending(&guest.domain, &[Port(bind.port)]));
    crate::event::raise_virq(&guest.domain, VcpuId(2), VIRQ_TIMER);
    assert!(crate::event::any_pending(&guest.domain, &[Port(bind.port)]));
    assert!(
        guest
            .domain
            .vcpu(VcpuId(2))
            .expect("vcpu")
            .events
            .upcall_pending()
    );
    let mut port = EvtchnPortArg { port: bind.port };
    assert_eq!(
        guest.op(EVTCHN, EVTCHNOP_SEND, &mut port),
        Err(Errno::EINVAL),
        "not for guests to send"
    );
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_CLOSE, &mut port), Ok(0));
    assert!(
        !crate::event::any_pending(&guest.domain, &[Port(bind.port)]),
        "closing clears"
    );
    assert_eq!(
        guest.op(EVTCHN, EVTCHNOP_BIND_VIRQ, &mut bind),
        Ok(0),
        "free again"
    );
    for (virq, vcpu, error) in [
        (NR_VIRQS as u32, 0, Errno::EINVAL),
        (VIRQ_CONSOLE, 1, Errno::EINVAL),
        (VIRQ_TIMER, 3, Errno::ENOENT),
        (u32::MAX, 0, Errno::EINVAL),
    ] {
        let mut bind = EvtchnBindVirq { virq, vcpu, port: 0 };
        assert_eq!(guest.op(EVTCHN, EVTCHNOP_BIND_VIRQ, &mut bind), Err(error));
    }
    let mut global = EvtchnBindVirq {
        virq: VIRQ_CONSOLE,
        vcpu: 0,
        port: 0,
    };
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_BIND_VIRQ, &mut global), Ok(0));
    let mut moved = EvtchnBindVcpu {
        port: global.port,
        vcpu: 1,
    };
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_BIND_VCPU, &mut moved), Ok(0));
    let mut port = EvtchnPortArg { port: global.port };
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_CLOSE, &mut port), Ok(0));
    assert_eq!(
        guest.op(EVTCHN, EVTCHNOP_BIND_VIRQ, &mut global),
        Ok(0),
        "was found although it had moved"
    );
}

#[test]
fn events_between_domains() {
    let (mut a, mut b) = (World::new(), World::new());
    let mut alloc = EvtchnAllocUnbound {
        dom: DOMID_SELF,
        remote_dom: b.domain.id.0,
        port: 0,
    };
    assert_eq!(a.op(EVTCHN, EVTCHNOP_ALLOC_UNBOUND, &mut alloc), Ok(0));
    let mut send = EvtchnPortArg { port: alloc.port };
    assert_eq!(
        a.op(EVTCHN, EVTCHNOP_SEND, &mut send),
        Ok(0),
        "nobody is there yet"
    );
    let mut bind = EvtchnBindInterdomain {
        remote_dom: a.domain.id.0,
        remote_port: alloc.port,
        ..Default::default()
    };
    assert_eq!(b.op(EVTCHN, EVTCHNOP_BIND_INTERDOMAIN, &mut bind), Ok(0));
    assert!(
        crate::event::any_pending(&b.domain, &[Port(bind.local_port)]),
        "in case one was lost"
    );
    assert_eq!(
        b.op(EVTCHN, EVTCHNOP_BIND_INTERDOMAIN, &mut bind),
        Err(Errno::EINVAL),
        "taken"
    );
    assert_eq!(
        b.op(
            EVTCHN,
            EVTCHNOP_SEND,
            &mut EvtchnPortArg {
                port: bind.local_port
            }
        ),
        Ok(0)
    );
    assert!(crate::event::any_pending(&a.domain, &[Port(alloc.port)]));
    let mut status = EvtchnStatus {
        dom: DOMID_SELF,
        port: alloc.port,
        ..Default::default()
    };
    assert_eq!(a.op(EVTCHN, EVTCHNOP_STATUS, &mut status), Ok(0));
    assert_eq!(
        (status.status, status.u),
        (EVTCHNSTAT_INTERDOMAIN, [b.domain.id.0.into(), bind.local_port])
    );
    // Not another's business.
    let other = EvtchnAllocUnbound {
        dom: b.domain.id.0,
        remote_dom: DOMID_SELF,
        port: 0,
    };
    assert_eq!(
        a.op(EVTCHN, EVTCHNOP_ALLOC_UNBOUND, &mut other.clone()),
        Err(Errno::EPERM)
    );
    let mut reset = EvtchnReset { dom: b.domain.id.0 };
    assert_eq!(a.op(EVTCHN, EVTCHNOP_RESET, &mut reset), Err(Errno::EPERM));
    let mut nobody = EvtchnAllocUnbound { dom: 0x7000, ..other };
    assert_eq!(
        a.op(EVTCHN, EVTCHNOP_ALLOC_UNBOUND, &mut nobody),
        Err(Errno::ESRCH)
    );
    // A domain's death leaves the other end waiting.
    destroy(&b.domain);
    assert_eq!(a.op(EVTCHN, EVTCHNOP_STATUS, &mut status), Ok(0));
    assert_eq!(
        (status.status, status.u[0]),
        (EVTCHNSTAT_UNBOUND, b.domain.id.0.into())
    );
    let mut reset = EvtchnReset { dom: DOMID_SELF };
    assert_eq!(a.op(EVTCHN, EVTCHNOP_RESET, &mut reset), Ok(0));
    assert_eq!(a.op(EVTCHN, EVTCHNOP_STATUS, &mut status), Ok(0));
    assert_eq!(status.status, EVTCHNSTAT_CLOSED);
}

#[test]
fn ports_run_out() {
    let mut guest = World::with(Config {
        max_evtchn_port: 5,
        ..config(false)
    });
    for port in 1..=5 {
        let mut alloc = EvtchnAllocUnbound {
            dom: DOMID_SELF,
            remote_dom: DOMID_SELF,
            port: 0,
        };
        assert_eq!(guest.op(EVTCHN, EVTCHNOP_ALLOC_UNBOUND, &mut alloc), Ok(0));
        assert_eq!(alloc.port, port);
    }
    let mut alloc = EvtchnAllocUnbound {
        dom: DOMID_SELF,
        remote_dom: DOMID_SELF,
        port: 0,
    };
    assert_eq!(
        guest.op(EVTCHN, EVTCHNOP_ALLOC_UNBOUND, &mut alloc),
        Err(Errno::ENOSPC)
    );
    let mut port = EvtchnPortArg { port: 6 };
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_SEND, &mut port), Err(Errno::EINVAL));
}

// ---- memory ----

#[test]
fn reservations() {
    let mut guest = World::new();
    for (index, gfn) in [100u64, 101, 512].iter().enumerate() {
        guest.put(LIST + 8 * index as u64, gfn);
    }
    let mut request = MemoryReservation {
        extent_start: GuestHandle::new(LIST),
        nr_extents: 3,
        domid: DOMID_SELF,
        ..Default::default()
    };
    assert_eq!(guest.op(MEMORY, XENMEM_POPULATE_PHYSMAP, &mut request), Ok(3));
    assert_eq!(guest.domain.total_pages(), PAGES + 3);
    let mut current = MemoryDomain { domid: DOMID_SELF };
    assert_eq!(
        guest.op(MEMORY, XENMEM_CURRENT_RESERVATION, &mut current),
        Ok(PAGES + 3)
    );
    assert_eq!(
        guest.op(MEMORY, XENMEM_MAXIMUM_RESERVATION, &mut current),
        Ok(PAGES + 64)
    );
    assert_eq!(guest.op(MEMORY, XENMEM_MAXIMUM_GPFN, &mut current), Ok(512));
    assert_eq!(
        guest.op(MEMORY, XENMEM_POPULATE_PHYSMAP, &mut request),
        Ok(0),
        "occupied"
    );
    assert_eq!(guest.op(MEMORY, XENMEM_DECREASE_RESERVATION, &mut request), Ok(3));
    assert_eq!(
        guest.op(MEMORY, XENMEM_DECREASE_RESERVATION, &mut request),
        Ok(0),
        "gone"
    );
    assert_eq!(guest.domain.total_pages(), PAGES);
    request.nr_extents = 4;
    guest.put(LIST + 24, &u64::MAX);
    assert_eq!(
        guest.op(MEMORY, XENMEM_POPULATE_PHYSMAP, &mut request),
        Ok(3),
        "partial success is a count"
    );
    request.extent_order = 9;
    guest.put(LIST, &1024u64);
    assert_eq!(
        guest.op(MEMORY, XENMEM_POPULATE_PHYSMAP, &mut request),
        Ok(0),
        "over the limit"
    );
    request.extent_order = 63;
    assert_eq!(guest.op(MEMORY, XENMEM_POPULATE_PHYSMAP, &mut request), Ok(0));
    request.extent_order = 0;
    request.nr_extents = u64::MAX;
    assert_eq!(guest.op(MEMORY, XENMEM_DECREASE_RESERVATION, &mut request), Ok(0));
    assert_eq!(guest.call(MEMORY, &[XENMEM_POPULATE_PHYSMAP.into(), BAD]), Ok(0));
    guest.faults(MEMORY, XENMEM_CURRENT_RESERVATION);
    let mut nobody = MemoryDomain { domid: 0x7000 };
    assert_eq!(
        guest.op(MEMORY, XENMEM_CURRENT_RESERVATION, &mut nobody),
        Err(Errno::ESRCH)
    );
    assert_eq!(
        guest.call(MEMORY, &[u64::from(XENMEM_CURRENT_RESERVATION) | 1 << 6, ARG]),
        Err(Errno::EINVAL)
    );
}

#[test]
fn a_long_list_is_done_in_slices() {
    let mut dom0 = World::privileged();
    let guest = World::new();
    guest.domain.set_max_pages(5000);
    // The list is longer than a slice and crosses pages.
    for index in 0..1500u64 {
        dom0.put(LIST + 8 * index, &(0x10000 + index));
    }
    let mut request = MemoryReservation {
        extent_start: GuestHandle::new(LIST),
        nr_extents: 1500,
        domid: guest.domain.id.0,
        ..Default::default()
    };
    assert_eq!(dom0.op(MEMORY, XENMEM_POPULATE_PHYSMAP, &mut request), Ok(1500));
    assert_eq!(guest.domain.total_pages(), PAGES + 1500);
    assert_eq!(
        dom0.op(MEMORY, XENMEM_DECREASE_RESERVATION, &mut request),
        Ok(1500)
    );
    assert_eq!(guest.domain.total_pages(), PAGES);
}

#[test]
fn other_domains_memory_needs_privilege() {
    let (mut guest, other) = (World::new(), World::new());
    let id = other.domain.id.0;
    guest.put(LIST, &1u64);
    let mut request = MemoryReservation {
        extent_start: GuestHandle::new(LIST),
        nr_extents: 1,
        domid: id,
        ..Default::default()
    };
    assert_eq!(guest.op(MEMORY, XENMEM_DECREASE_RESERVATION, &mut request), Ok(0));
    assert_eq!(
        guest.op(
            MEMORY,
            XENMEM_CURRENT_RESERVATION,
            &mut MemoryDomain { domid: id }
        ),
        Err(Errno::EPERM)
    );
    let mut place = AddToPhysmap {
        domid: id,
        space: XENMAPSPACE_SHARED_INFO,
        gpfn: 1,
        ..Default::default()
    };
    assert_eq!(
        guest.op(MEMORY, XENMEM_ADD_TO_PHYSMAP, &mut place),
        Err(Errno::EPERM)
    );
    let mut remove = RemoveFromPhysmap {
        domid: id,
        gpfn: 1,
        ..Default::default()
    };
    assert_eq!(
        guest.op(MEMORY, XENMEM_REMOVE_FROM_PHYSMAP, &mut remove),
        Err(Errno::EPERM)
    );
    let mut map = ForeignMemoryMap {
        domid: id,
        ..Default::default()
    };
    assert_eq!(
        guest.op(MEMORY, XENMEM_SET_MEMORY_MAP, &mut map),
        Err(Errno::EPERM)
    );
    let mut resource = MemAcquireResource {
        domid: id,
        type_: 1,
        ..Default::default()
    };
    assert_eq!(
        guest.op(MEMORY, XENMEM_ACQUIRE_RESOURCE, &mut resource),
        Err(Errno::EACCES)
    );
    request = MemoryReservation {
        nr_extents: 1,
        domid: id,
        ..Default::default()
    };
    assert_eq!(
        guest.op(MEMORY, XENMEM_CLAIM_PAGES, &mut request),
        Err(Errno::EPERM)
    );
    assert_eq!(other.domain.total_pages(), PAGES);
}

#[test]
fn shared_pages_take_the_place_of_ram() {
    let mut guest = World::new();
    let mut place = AddToPhysmap {
        domid: DOMID_SELF,
        space: XENMAPSPACE_SHARED_INFO,
        gpfn: 7,
        ..Default::default()
    };
    assert_eq!(guest.op(MEMORY, XENMEM_ADD_TO_PHYSMAP, &mut place), Ok(0));
    assert_eq!(
        guest.domain.total_pages(),
        PAGES - 1,
        "the RAM that was there is gone"
    );
    let mfn = guest.domain.p2m.lookup(Gfn(7)).expect("mapped").mfn;
    assert_eq!(mfn, guest.domain.shared_info.mfn());
    place = AddToPhysmap {
        space: XENMAPSPACE_GRANT_TABLE,
        idx: 1,
        gpfn: 8,
        ..place
    };
    assert_eq!(guest.op(MEMORY, XENMEM_ADD_TO_PHYSMAP, &mut place), Ok(0));
    assert_eq!(guest.domain.grants.size(), (2, 4), "grows as needed");
    for (space, idx, gpfn, error) in [
        (XENMAPSPACE_GRANT_TABLE, 4, 8, Errno::EINVAL),
        (
            XENMAPSPACE_GRANT_TABLE,
            XENMAPIDX_GRANT_TABLE_STATUS,
            8,
            Errno::EINVAL,
        ),
        (XENMAPSPACE_SHARED_INFO, 1, 8, Errno::EINVAL),
        (XENMAPSPACE_SHARED_INFO, 0, u64::MAX, Errno::EINVAL),
        (XENMAPSPACE_SHARED_INFO, 0, 1 << 40, Errno::EINVAL),
        (XENMAPSPACE_GMFN_FOREIGN, 0, 8, Errno::ENOSYS),
        (XENMAPSPACE_DEV_MMIO, 0xfee00, 0xfee00, Errno::EACCES),
        (99, 0, 8, Errno::ENOSYS),
    ] {
        let mut place = AddToPhysmap {
            space,
            idx,
            gpfn,
            ..place
        };
        assert_eq!(
            guest.op(MEMORY, XENMEM_ADD_TO_PHYSMAP, &mut place),
            Err(error),
            "{space} {idx:#x} {gpfn:#x}"
        );
    }
    let mut moved = AddToPhysmap {
        space: XENMAPSPACE_GMFN,
        idx: 9,
        gpfn: 0x900,
        ..place
    };
    guest.put(0x9000, &0x1234u64);
    assert_eq!(guest.op(MEMORY, XENMEM_ADD_TO_PHYSMAP, &mut moved), Ok(0));
    assert_eq!(guest.get::<u64>(0x90_0000), 0x1234);
    assert!(guest.domain.p2m.lookup(Gfn(9)).is_none());
    let mut remove = RemoveFromPhysmap {
        domid: DOMID_SELF,
        gpfn: 0x900,
        ..Default::default()
    };
    assert_eq!(guest.op(MEMORY, XENMEM_REMOVE_FROM_PHYSMAP, &mut remove), Ok(0));
    assert_eq!(
        guest.op(MEMORY, XENMEM_REMOVE_FROM_PHYSMAP, &mut remove),
        Err(Errno::ENOENT)
    );
    guest.faults(MEMORY, XENMEM_ADD_TO_PHYSMAP);
    guest.faults(MEMORY, XENMEM_REMOVE_FROM_PHYSMAP);
}

#[test]
fn foreign_maps_keep_a_dead_domain() {
    let mut dom0 = World::privileged();
    let guest = World::new();
    guest.put(0x3000, &0xfeedu64);
    for (index, (idx, gpfn)) in [(3u64, 0x2000u64), (0x99, 0x2001), (4, 0x2002)]
        .iter()
        .enumerate()
    {
        dom0.put(LIST + 8 * index as u64, idx);
        dom0.put(LIST + 0x100 + 8 * index as u64, gpfn);
    }
    let mut batch = AddToPhysmapBatch {
        domid: DOMID_SELF,
        space: XENMAPSPACE_GMFN_FOREIGN as u16,
        size: 3,
        foreign_domid: guest.domain.id.0,
        idxs: GuestHandle::new(LIST),
        gpfns: GuestHandle::new(LIST + 0x100),
        errs: GuestHandle::new(LIST + 0x200),
    };
    assert_eq!(dom0.op(MEMORY, XENMEM_ADD_TO_PHYSMAP_BATCH, &mut batch), Ok(0));
    assert_eq!(dom0.get::<[i32; 3]>(LIST + 0x200), [0, -22, 0]);
    assert_eq!(dom0.get::<u64>(0x200_0000), 0xfeed);
    dom0.put(0x200_0008, &0xbeefu64);
    assert_eq!(guest.get::<u64>(0x3008), 0xbeef);
    assert_eq!(
        dom0.domain.p2m.lookup(Gfn(0x2000)).expect("mapped").kind,
        Kind::Foreign
    );
    let mut bad = AddToPhysmapBatch {
        space: XENMAPSPACE_GMFN_RANGE as u16,
        ..batch
    };
    assert_eq!(
        dom0.op(MEMORY, XENMEM_ADD_TO_PHYSMAP_BATCH, &mut bad),
        Err(Errno::EOPNOTSUPP)
    );
    let mut bad = AddToPhysmapBatch {
        errs: GuestHandle::new(BAD),
        ..batch
    };
    assert_eq!(
        dom0.op(MEMORY, XENMEM_ADD_TO_PHYSMAP_BATCH, &mut bad),
        Err(Errno::EFAULT)
    );
    assert_eq!(
        dom0.call(MEMORY, &[u64::from(XENMEM_ADD_TO_PHYSMAP_BATCH) | 1 << 40, ARG]),
        Err(Errno::EDOM)
    );

    destroy(&guest.domain);
    assert_eq!(guest.domain.life(), Life::Zombie);
    assert_eq!(guest.domain.total_pages(), 2, "what dom0 maps");
    assert!(table::get(guest.domain.id).is_some());
    assert_eq!(dom0.get::<u64>(0x200_0000), 0xfeed);
    for gpfn in [0x2000, 0x2002] {
        let mut remove = RemoveFromPhysmap {
            domid: DOMID_SELF,
            gpfn,
            ..Default::default()
        };
        assert_eq!(dom0.op(MEMORY, XENMEM_REMOVE_FROM_PHYSMAP, &mut remove), Ok(0));
    }
    lifecycle::reap();
    let entry = table::get(guest.domain.id);
    assert!(entry.is_none_or(|other| !alloc::sync::Arc::ptr_eq(&other, &guest.domain)));
}

#[test]
fn memory_maps() {
    let mut dom0 = World::privileged();
    let mut guest = World::new();
    let mut request = MemoryMap {
        nr_entries: 4,
        buffer: GuestHandle::new(LIST),
        ..Default::default()
    };
    assert_eq!(
        guest.op(MEMORY, XENMEM_MEMORY_MAP, &mut request),
        Err(Errno::ENOSYS),
        "there is none yet"
    );
    let entries = [
        E820Entry {
            addr: 0,
            size: 1 << 20,
            type_: 1,
        },
        E820Entry {
            addr: 1 << 32,
            size: 4096,
            type_: 2,
        },
    ];
    dom0.put(LIST, &entries);
    let mut set = ForeignMemoryMap {
        domid: guest.domain.id.0,
        map: MemoryMap {
            nr_entries: 2,
            buffer: GuestHandle::new(LIST),
            ..Default::default()
        },
        ..Default::default()
    };
    assert_eq!(dom0.op(MEMORY, XENMEM_SET_MEMORY_MAP, &mut set), Ok(0));
    assert_eq!(guest.op(MEMORY, XENMEM_MEMORY_MAP, &mut request), Ok(0));
    assert_eq!(request.nr_entries, 2);
    assert_eq!(guest.get::<[E820Entry; 2]>(LIST), entries);
    request.nr_entries = 1;
    assert_eq!(guest.op(MEMORY, XENMEM_MEMORY_MAP, &mut request), Ok(0));
    assert_eq!(request.nr_entries, 1);
    set.map.nr_entries = u32::MAX;
    assert_eq!(
        dom0.op(MEMORY, XENMEM_SET_MEMORY_MAP, &mut set),
        Err(Errno::EINVAL)
    );
    set.map.nr_entries = 2;
    set.map.buffer = GuestHandle::new(BAD);
    assert_eq!(
        dom0.op(MEMORY, XENMEM_SET_MEMORY_MAP, &mut set),
        Err(Errno::EFAULT)
    );
    guest.faults(MEMORY, XENMEM_MEMORY_MAP);
}

#[test]
fn what_toolstacks_ask_for() {
    let mut dom0 = World::privileged();
    let guest = World::new();
    let id = guest.domain.id.0;
    let mut claim = MemoryReservation {
        nr_extents: 20,
        domid: id,
        ..Default::default()
    };
    assert_eq!(dom0.op(MEMORY, XENMEM_CLAIM_PAGES, &mut claim), Ok(0));
    claim.extent_order = 1;
    assert_eq!(
        dom0.op(MEMORY, XENMEM_CLAIM_PAGES, &mut claim),
        Err(Errno::EINVAL)
    );
    let mut target = PodTarget {
        target_pages: 10,
        domid: id,
        ..Default::default()
    };
    assert_eq!(dom0.op(MEMORY, XENMEM_SET_POD_TARGET, &mut target), Ok(0));
    assert_eq!((target.tot_pages, target.pod_entries), (PAGES, 0));
    assert_eq!(
        dom0.call(MEMORY, &[XENMEM_GET_SHARING_FREED_PAGES.into(), 0]),
        Ok(0)
    );
    assert!(
        dom0.call(MEMORY, &[XENMEM_MAXIMUM_RAM_PAGE.into(), 0])
            .is_ok_and(|frame| frame > 0)
    );
    let mut numa = VnumaTopologyInfo {
        domid: DOMID_SELF,
        ..Default::default()
    };
    assert_eq!(
        dom0.op(MEMORY, XENMEM_GET_VNUMAINFO, &mut numa),
        Err(Errno::EOPNOTSUPP)
    );
    // The grant table, to seed entries: asked for its size, then mapped where the list says.
    let mut resource = MemAcquireResource {
        domid: id,
        type_: XENMEM_RESOURCE_GRANT_TABLE,
        ..Default::default()
    };
    assert_eq!(dom0.op(MEMORY, XENMEM_ACQUIRE_RESOURCE, &mut resource), Ok(0));
    assert_eq!(resource.nr_frames, 4);
    dom0.put(LIST, &0x3000u64);
    resource.nr_frames = 1;
    resource.frame_list = GuestHandle::new(LIST);
    assert_eq!(dom0.op(MEMORY, XENMEM_ACQUIRE_RESOURCE, &mut resource), Ok(0));
    dom0.put(
        0x300_0008,
        &GrantEntryV1 {
            flags: GTF_PERMIT_ACCESS,
            domid: 0,
            frame: 5,
        },
    );
    resource.frame = u64::MAX;
    assert_eq!(
        dom0.op(MEMORY, XENMEM_ACQUIRE_RESOURCE, &mut resource),
        Err(Errno::EINVAL)
    );
    let mut remove = RemoveFromPhysmap {
        domid: DOMID_SELF,
        gpfn: 0x3000,
        ..Default::default()
    };
    assert_eq!(dom0.op(MEMORY, XENMEM_REMOVE_FROM_PHYSMAP, &mut remove), Ok(0));
}

#[test]
fn all_memory_comes_back() {
    for _ in 0..20 {
        let guest = World::new();
        let id = guest.domain.id;
        destroy(&guest.domain);
        assert_eq!(crate::mm::page_info::owned(id), 0);
        assert!(guest.domain.p2m.highest_mapped().is_none());
        assert_eq!(
            guest.domain.populate(Gfn(1), 0),
            Err(Errno::EINVAL),
            "dead domains get nothing"
        );
    }
}

// ---- grants ----

/// `granter` lets `user` at its frame 5, by entry 9.
fn grant(granter: &mut World, user: DomId, flags: u16) {
    let mut place = AddToPhysmap {
        domid: DOMID_SELF,
        space: XENMAPSPACE_GRANT_TABLE,
        gpfn: 15,
        ..Default::default()
    };
    assert_eq!(granter.op(MEMORY, XENMEM_ADD_TO_PHYSMAP, &mut place), Ok(0));
    granter.put(
        0xf000 + 9 * 8,
        &GrantEntryV1 {
            flags: GTF_PERMIT_ACCESS | flags,
            domid: user.0,
            frame: 5,
        },
    );
    granter.put(0x5000, &0xcafeu64);
}

fn flags_of(granter: &World) -> u16 {
    granter.get::<GrantEntryV1>(0xf000 + 9 * 8).flags
}

fn one<T>(world: &mut World, operation: u32, arg: &mut T) -> Result<u64, Errno>
where
    T: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable,
{
    world.put(ARG, arg);
    let result = world.call(GRANT, &[operation.into(), ARG, 1]);
    *arg = world.get(ARG);
    result
}

#[test]
fn a_grant_is_mapped_and_unmapped() {
    let (mut a, mut b) = (World::new(), World::new());
    grant(&mut a, b.domain.id, 0);
    let wanted = GnttabMapGrantRef {
        host_addr: 0x100_0000,
        flags: GNTMAP_HOST_MAP,
        ref_: 9,
        dom: a.domain.id.0,
        ..Default::default()
    };
    let mut map = wanted;
    assert_eq!(one(&mut b, GNTTABOP_MAP_GRANT_REF, &mut map), Ok(0));
    assert_eq!(map.status, GNTST_OKAY);
    assert_eq!(b.get::<u64>(0x100_0000), 0xcafe);
    b.put(0x100_0000, &0xd00du64);
    assert_eq!(a.get::<u64>(0x5000), 0xd00d);
    assert_eq!(flags_of(&a), GTF_PERMIT_ACCESS | GTF_READING | GTF_WRITING);
    let mut again = GnttabMapGrantRef {
        host_addr: 0x100_1000,
        flags: GNTMAP_HOST_MAP | GNTMAP_READONLY,
        ..wanted
    };
    assert_eq!(one(&mut b, GNTTABOP_MAP_GRANT_REF, &mut again), Ok(0));
    assert_eq!(
        b.domain.p2m.lookup(Gfn(0x1001)).expect("mapped").kind,
        Kind::GrantRo
    );
    let mut unmap = GnttabUnmapGrantRef {
        host_addr: 0x100_0000,
        handle: map.handle,
        ..Default::default()
    };
    assert_eq!(one(&mut b, GNTTABOP_UNMAP_GRANT_REF, &mut unmap), Ok(0));
    assert_eq!(unmap.status, GNTST_OKAY);
    assert_eq!(
        flags_of(&a),
        GTF_PERMIT_ACCESS | GTF_READING,
        "the other mapping reads"
    );
    assert_eq!(one(&mut b, GNTTABOP_UNMAP_GRANT_REF, &mut unmap), Ok(0));
    assert_eq!(unmap.status, GNTST_BAD_HANDLE);
    let mut elsewhere = GnttabUnmapGrantRef {
        host_addr: 0,
        handle: again.handle,
        ..Default::default()
    };
    assert_eq!(one(&mut b, GNTTABOP_UNMAP_GRANT_REF, &mut elsewhere), Ok(0));
    assert_eq!(elsewhere.status, GNTST_GENERAL_ERROR);
    destroy(&b.domain);
    assert_eq!(flags_of(&a), GTF_PERMIT_ACCESS, "death gives grants back");
}

#[test]
fn bad_grants_have_a_status() {
    let (mut a, mut b) = (World::new(), World::new());
    grant(&mut a, b.domain.id, GTF_READONLY);
    let good = GnttabMapGrantRef {
        host_addr: 0x100_0000,
        flags: GNTMAP_HOST_MAP | GNTMAP_READONLY,
        ref_: 9,
        dom: a.domain.id.0,
        ..Default::default()
    };
    for (bad, status) in [
        (GnttabMapGrantRef { flags: 0, ..good }, GNTST_BAD_GNTREF),
        (
            GnttabMapGrantRef {
                flags: GNTMAP_HOST_MAP,
                ..good
            },
            GNTST_GENERAL_ERROR,
        ),
        (
            GnttabMapGrantRef {
                flags: GNTMAP_HOST_MAP | GNTMAP_DEVICE_MAP,
                ..good
            },
            GNTST_GENERAL_ERROR,
        ),
        (GnttabMapGrantRef { ref_: 10, ..good }, GNTST_GENERAL_ERROR),
        (GnttabMapGrantRef { ref_: 512, ..good }, GNTST_BAD_GNTREF),
        (
            GnttabMapGrantRef {
                ref_: u32::MAX,
                ..good
            },
            GNTST_BAD_GNTREF,
        ),
        (GnttabMapGrantRef { dom: 0x7000, ..good }, GNTST_BAD_DOMAIN),
        (
            GnttabMapGrantRef {
                host_addr: 0x1000,
                ..good
            },
            GNTST_GENERAL_ERROR,
        ),
        (
            GnttabMapGrantRef {
                host_addr: u64::MAX,
                ..good
            },
            GNTST_GENERAL_ERROR,
        ),
    ] {
        let mut map = bad;
        assert_eq!(one(&mut b, GNTTABOP_MAP_GRANT_REF, &mut map), Ok(0));
        assert_eq!(map.status, status, "{bad:?}");
        assert_eq!(
            flags_of(&a),
            GTF_PERMIT_ACCESS | GTF_READONLY,
            "{bad:?} leaves the entry alone"
        );
    }
    a.put(0xf000 + 9 * 8 + 4, &0x123u32);
    let mut map = good;
    assert_eq!(one(&mut b, GNTTABOP_MAP_GRANT_REF, &mut map), Ok(0));
    assert_eq!(map.status, GNTST_BAD_PAGE);
    assert_eq!(flags_of(&a), GTF_PERMIT_ACCESS | GTF_READONLY);
    assert_eq!(
        b.call(GRANT, &[GNTTABOP_MAP_GRANT_REF.into(), BAD, 1]),
        Err(Errno::EFAULT)
    );
    assert_eq!(
        b.call(GRANT, &[GNTTABOP_MAP_GRANT_REF.into(), ARG, u32::MAX.into()]),
        Err(Errno::EINVAL)
    );
    for operation in [3, 4, 7, 9, 12] {
        assert_eq!(b.call(GRANT, &[operation, ARG, 1]), Err(Errno::ENOSYS));
    }
}

#[test]
fn copies_by_grant() {
    let (mut a, mut b) = (World::new(), World::new());
    grant(&mut a, b.domain.id, 0);
    let theirs = GnttabCopyPtr {
        u: 9,
        domid: a.domain.id.0,
        offset: 0,
        pad: 0,
    };
    let ours = GnttabCopyPtr {
        u: 6,
        domid: DOMID_SELF,
        offset: 0x10,
        pad: 0,
    };
    let good = GnttabCopy {
        source: theirs,
        dest: ours,
        len: 8,
        flags: GNTCOPY_SOURCE_GREF,
        ..Default::default()
    };
    let mut copy = good;
    assert_eq!(one(&mut b, GNTTABOP_COPY, &mut copy), Ok(0));
    assert_eq!((copy.status, b.get::<u64>(0x6010)), (GNTST_OKAY, 0xcafe));
    assert_eq!(flags_of(&a), GTF_PERMIT_ACCESS);
    for (bad, status) in [
        (GnttabCopy { len: 4096, ..good }, GNTST_BAD_COPY_ARG),
        (GnttabCopy { flags: 0, ..good }, GNTST_PERMISSION_DENIED),
        (
            GnttabCopy {
                dest: GnttabCopyPtr { u: 0x999, ..ours },
                ..good
            },
            GNTST_BAD_PAGE,
        ),
        (
            GnttabCopy {
                source: GnttabCopyPtr { u: 8, ..theirs },
                ..good
            },
            GNTST_GENERAL_ERROR,
        ),
    ] {
        let mut copy = bad;
        assert_eq!(one(&mut b, GNTTABOP_COPY, &mut copy), Ok(0));
        assert_eq!(copy.status, status);
    }
}

#[test]
fn the_tables_size_and_version() {
    let mut guest = World::new();
    let mut size = GnttabQuerySize {
        dom: DOMID_SELF,
        ..Default::default()
    };
    assert_eq!(one(&mut guest, GNTTABOP_QUERY_SIZE, &mut size), Ok(0));
    assert_eq!(
        (size.status, size.nr_frames, size.max_nr_frames),
        (GNTST_OKAY, 1, 4)
    );
    size.dom = 0x7000;
    assert_eq!(one(&mut guest, GNTTABOP_QUERY_SIZE, &mut size), Ok(0));
    assert_eq!(size.status, GNTST_BAD_DOMAIN);
    let mut version = GnttabSetVersion { version: 1 };
    assert_eq!(one(&mut guest, GNTTABOP_SET_VERSION, &mut version), Ok(0));
    version.version = 2;
    assert_eq!(
        one(&mut guest, GNTTABOP_SET_VERSION, &mut version),
        Err(Errno::ENOSYS)
    );
    version.version = 3;
    assert_eq!(
        one(&mut guest, GNTTABOP_SET_VERSION, &mut version),
        Err(Errno::EINVAL)
    );
    let mut version = GnttabGetVersion {
        dom: DOMID_SELF,
        ..Default::default()
    };
    assert_eq!(one(&mut guest, GNTTABOP_GET_VERSION, &mut version), Ok(0));
    assert_eq!(version.version, 1);
    let mut setup = GnttabSetupTable {
        dom: DOMID_SELF,
        nr_frames: 2,
        frame_list: GuestHandle::new(LIST),
        ..Default::default()
    };
    assert_eq!(one(&mut guest, GNTTABOP_SETUP_TABLE, &mut setup), Ok(0));
    assert_eq!((setup.status, guest.get::<u64>(LIST)), (GNTST_OKAY, u64::MAX));
    setup.nr_frames = 5;
    assert_eq!(one(&mut guest, GNTTABOP_SETUP_TABLE, &mut setup), Ok(0));
    assert_eq!(setup.status, GNTST_GENERAL_ERROR);
    let user = DomId(1);
    grant(&mut guest, user, 0);
    let mut swap = GnttabSwapGrantRef {
        ref_a: 9,
        ref_b: 10,
        ..Default::default()
    };
    assert_eq!(one(&mut guest, GNTTABOP_SWAP_GRANT_REF, &mut swap), Ok(0));
    assert_eq!((swap.status, flags_of(&guest)), (GNTST_OKAY, 0));
    swap.ref_b = 1 << 20;
    assert_eq!(one(&mut guest, GNTTABOP_SWAP_GRANT_REF, &mut swap), Ok(0));
    assert_eq!(swap.status, GNTST_BAD_GNTREF);
}

// ---- hvm ----

#[test]
fn parameters() {
    let mut dom0 = World::privileged();
    let mut guest = World::new();
    let id = guest.domain.id.0;
    let param = |domid, index, value| HvmParam {
        domid,
        index,
        value,
        ..Default::default()
    };
    let set = |world: &mut World, domid, index, value| {
        world.op(HVM, HVMOP_SET_PARAM, &mut param(domid, index, value))
    };
    assert_eq!(set(&mut dom0, id, HVM_PARAM_STORE_PFN, 0xfeffc), Ok(0));
    assert_eq!(
        set(&mut dom0, id, HVM_PARAM_STORE_PFN, 0xfeffd),
        Err(Errno::EEXIST)
    );
    assert_eq!(
        set(&mut guest, DOMID_SELF, HVM_PARAM_STORE_PFN, 1),
        Err(Errno::EPERM)
    );
    assert_eq!(set(&mut guest, DOMID_SELF, HVM_PARAM_STORE_EVTCHN, 4), Ok(0));
    assert_eq!(set(&mut guest, DOMID_SELF, HVM_NR_PARAMS, 4), Err(Errno::EINVAL));
    assert_eq!(
        set(&mut guest, DOMID_SELF, 4, 4),
        Err(Errno::EINVAL),
        "deprecated"
    );
    assert_eq!(
        set(&mut guest, DOMID_SELF, HVM_PARAM_X87_FIP_WIDTH, 5),
        Err(Errno::EINVAL)
    );
    assert_eq!(
        set(&mut guest, dom0.domain.id.0, HVM_PARAM_STORE_EVTCHN, 4),
        Err(Errno::EPERM)
    );
    assert_eq!(
        set(&mut guest, 0x7000, HVM_PARAM_STORE_EVTCHN, 4),
        Err(Errno::ESRCH)
    );
    assert_eq!(
        set(&mut guest, DOMID_SELF, HVM_PARAM_CALLBACK_IRQ, 2 << 56 | 0xf3),
        Ok(0)
    );
    assert_eq!(guest.domain.callback_vector(), Some(0xf3));
    let mut get = param(DOMID_SELF, HVM_PARAM_STORE_PFN, 0);
    assert_eq!(guest.op(HVM, HVMOP_GET_PARAM, &mut get), Ok(0));
    assert_eq!(get.value, 0xfeffc);
    let mut get = param(DOMID_SELF, HVM_PARAM_IOREQ_PFN, 0);
    assert_eq!(guest.op(HVM, HVMOP_GET_PARAM, &mut get), Err(Errno::EPERM));
    let mut get = param(id, HVM_PARAM_TRIPLE_FAULT_REASON, 0);
    assert_eq!(dom0.op(HVM, HVMOP_GET_PARAM, &mut get), Ok(0));
    assert_eq!(get.value, SHUTDOWN_REBOOT.into());
    guest.faults(HVM, HVMOP_SET_PARAM);
    guest.faults(HVM, HVMOP_GET_PARAM);
}

#[test]
fn other_hvm_operations() {
    let mut guest = World::new();
    let mut vector = HvmEvtchnUpcallVector {
        vcpu: 1,
        vector: 0xf3,
        ..Default::default()
    };
    assert_eq!(guest.op(HVM, HVMOP_SET_EVTCHN_UPCALL_VECTOR, &mut vector), Ok(0));
    vector.vector = 15;
    assert_eq!(
        guest.op(HVM, HVMOP_SET_EVTCHN_UPCALL_VECTOR, &mut vector),
        Err(Errno::EINVAL)
    );
    vector = HvmEvtchnUpcallVector {
        vcpu: 3,
        vector: 16,
        ..vector
    };
    assert_eq!(
        guest.op(HVM, HVMOP_SET_EVTCHN_UPCALL_VECTOR, &mut vector),
        Err(Errno::ENOENT)
    );
    guest.faults(HVM, HVMOP_SET_EVTCHN_UPCALL_VECTOR);
    assert_eq!(guest.call(HVM, &[HVMOP_FLUSH_TLBS.into(), 0]), Ok(0));
    assert_eq!(guest.call(HVM, &[HVMOP_FLUSH_TLBS.into(), 1]), Err(Errno::EINVAL));
    assert_eq!(guest.call(HVM, &[HVMOP_GET_TIME.into(), ARG]), Ok(0));
    guest.faults(HVM, HVMOP_GET_TIME);
    let mut kind = HvmGetMemType {
        domid: DOMID_SELF,
        pfn: 3,
        mem_type: 9,
        ..Default::default()
    };
    assert_eq!(guest.op(HVM, HVMOP_GET_MEM_TYPE, &mut kind), Ok(0));
    assert_eq!(kind.mem_type, HVMMEM_RAM_RW);
    kind.pfn = 0x1234;
    assert_eq!(guest.op(HVM, HVMOP_GET_MEM_TYPE, &mut kind), Ok(0));
    assert_eq!(kind.mem_type, HVMMEM_MMIO_DM);
    guest.faults(HVM, HVMOP_GET_MEM_TYPE);
    assert_eq!(
        guest.call(HVM, &[HVMOP_ALTP2M.into(), ARG]),
        Err(Errno::EOPNOTSUPP)
    );
}

// ---- vcpus ----

#[test]
fn vcpu_info_moves_once() {
    let mut guest = World::new();
    let mut info = VcpuRegisterVcpuInfo {
        mfn: 6,
        offset: 0x100,
        rsvd: 0,
    };
    let register = |guest: &mut World, vcpu: u64, info: &mut VcpuRegisterVcpuInfo| {
        guest.put(ARG, info);
        guest.call(VCPU, &[VCPUOP_REGISTER_VCPU_INFO.into(), vcpu, ARG])
    };
    for (mfn, offset) in [(6, 4096 - 63), (6, 4), (0x999, 0), (u64::MAX, 0)] {
        assert_eq!(
            register(&mut guest, 0, &mut VcpuRegisterVcpuInfo { mfn, offset, rsvd: 0 }),
            Err(Errno::EINVAL)
        );
    }
    assert_eq!(register(&mut guest, 3, &mut info), Err(Errno::ENOENT));
    assert_eq!(register(&mut guest, 0, &mut info), Ok(0));
    assert_eq!(register(&mut guest, 0, &mut info), Err(Errno::EINVAL));
    assert_eq!(guest.get::<u8>(0x6100), 1, "everything may be pending");
    assert_eq!(guest.get::<u64>(0x6108), u64::MAX);
    assert_eq!(guest.get::<u32>(0x6100 + 32) % 2, 0, "the clock is complete");
    info.mfn = 7;
    assert_eq!(register(&mut guest, 1, &mut info), Ok(0), "one that is down");
    assert_eq!(
        guest.call(VCPU, &[VCPUOP_REGISTER_VCPU_INFO.into(), 2, BAD]),
        Err(Errno::EFAULT)
    );
    guest.put(0x6100, &0u64);
    let mut ipi = EvtchnBindIpi { vcpu: 0, port: 0 };
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_BIND_IPI, &mut ipi), Ok(0));
    assert_eq!(
        guest.op(EVTCHN, EVTCHNOP_SEND, &mut EvtchnPortArg { port: ipi.port }),
        Ok(0)
    );
    assert_eq!(guest.get::<u8>(0x6100), 0, "the selector was set already");
    assert_eq!(
        guest
            .domain
            .shared_info
            .u8_at(0)
            .load(core::sync::atomic::Ordering::SeqCst),
        0
    );
}

#[test]
fn timers() {
    let mut guest = World::new();
    let op = |guest: &mut World, operation: u32, vcpu: u64| guest.call(VCPU, &[operation.into(), vcpu, ARG]);
    let deadline = |guest: &World| {
        guest
            .domain
            .vcpu(VcpuId(0))
            .expect("vcpu")
            .timers
            .singleshot
            .load(core::sync::atomic::Ordering::SeqCst)
    };
    guest.put(
        ARG,
        &VcpuSetSingleshotTimer {
            timeout_abs_ns: 1 << 40,
            flags: VCPU_SSHOTTMR_FUTURE,
            pad: 0,
        },
    );
    assert_eq!(op(&mut guest, VCPUOP_SET_SINGLESHOT_TIMER, 0), Ok(0));
    assert_eq!(deadline(&guest), 1 << 40);
    assert_eq!(
        op(&mut guest, VCPUOP_SET_SINGLESHOT_TIMER, 1),
        Err(Errno::EINVAL),
        "another's"
    );
    assert_eq!(
        op(&mut guest, VCPUOP_STOP_SINGLESHOT_TIMER, 1),
        Err(Errno::EINVAL)
    );
    assert_eq!(op(&mut guest, VCPUOP_STOP_SINGLESHOT_TIMER, 0), Ok(0));
    assert_eq!(deadline(&guest), u64::MAX);
    assert_eq!(
        op(&mut guest, VCPUOP_STOP_PERIODIC_TIMER, 0),
        Ok(0),
        "Linux probes with this one"
    );
    guest.put(ARG, &VcpuSetPeriodicTimer { period_ns: 999_999 });
    assert_eq!(op(&mut guest, VCPUOP_SET_PERIODIC_TIMER, 0), Err(Errno::EINVAL));
    guest.put(ARG, &VcpuSetPeriodicTimer { period_ns: 1_000_000 });
    assert_eq!(op(&mut guest, VCPUOP_SET_PERIODIC_TIMER, 0), Ok(0));
    assert_eq!(guest.call(HYPERVISOR_SET_TIMER_OP, &[77]), Ok(0));
    assert_eq!(deadline(&guest), 77);
    assert_eq!(guest.call(HYPERVISOR_SET_TIMER_OP, &[0]), Ok(0));
    assert_eq!(deadline(&guest), u64::MAX);
    for operation in [VCPUOP_SET_PERIODIC_TIMER, VCPUOP_SET_SINGLESHOT_TIMER] {
        assert_eq!(guest.call(VCPU, &[operation.into(), 0, BAD]), Err(Errno::EFAULT));
    }
}

#[test]
fn up_and_down() {
    let mut guest = World::new();
    let op = |guest: &mut World, operation: u32, vcpu: u64| guest.call(VCPU, &[operation.into(), vcpu, ARG]);
    assert_eq!(op(&mut guest, VCPUOP_IS_UP, 0), Ok(1));
    assert_eq!(op(&mut guest, VCPUOP_IS_UP, 1), Ok(0));
    assert_eq!(
        op(&mut guest, VCPUOP_UP, 1),
        Err(Errno::EINVAL),
        "it has no state"
    );
    let mut context = VcpuHvmContext {
        mode: 7,
        ..Default::default()
    };
    guest.put(ARG, &context);
    assert_eq!(op(&mut guest, VCPUOP_INITIALISE, 1), Err(Errno::EINVAL));
    context.mode = VCPU_HVM_MODE_64B;
    context.cpu_regs.set(&VcpuHvmX8664 {
        cr0: 0x8000_0001,
        efer: 1 << 8,
        rip: 0x4000,
        ..Default::default()
    });
    guest.put(ARG, &context);
    assert_eq!(op(&mut guest, VCPUOP_INITIALISE, 1), Ok(0));
    assert_eq!(op(&mut guest, VCPUOP_INITIALISE, 1), Err(Errno::EEXIST));
    assert_eq!(op(&mut guest, VCPUOP_UP, 1), Ok(0));
    assert_eq!(op(&mut guest, VCPUOP_IS_UP, 1), Ok(1));
    assert_eq!(op(&mut guest, VCPUOP_DOWN, 1), Ok(0));
    assert_eq!(guest.domain.shutdown_reason(), None);
    assert_eq!(op(&mut guest, VCPUOP_DOWN, 0), Ok(0));
    assert_eq!(
        guest.domain.shutdown_reason(),
        Some(SHUTDOWN_POWEROFF),
        "the last one"
    );
    assert_eq!(op(&mut guest, VCPUOP_SEND_NMI, 0), Ok(0));
    assert_eq!(op(&mut guest, VCPUOP_IS_UP, 3), Err(Errno::ENOENT));
    assert_eq!(
        guest.call(VCPU, &[VCPUOP_INITIALISE.into(), 2, BAD]),
        Err(Errno::EFAULT)
    );
}

#[test]
fn areas() {
    let mut guest = World::new();
    guest.put(ARG, &0x6000u64);
    assert_eq!(
        guest.call(VCPU, &[VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA.into(), 0, ARG]),
        Ok(0)
    );
    guest
        .domain
        .vcpu(VcpuId(0))
        .expect("vcpu")
        .areas
        .change_state(RUNSTATE_RUNNING, 1 << 40);
    let info: VcpuRunstateInfo = guest.get(0x6000);
    assert_eq!((info.state, info.state_entry_time), (RUNSTATE_RUNNING, 1 << 40));
    assert_eq!(
        guest.call(VCPU, &[VCPUOP_GET_RUNSTATE_INFO.into(), 0, LIST]),
        Ok(0)
    );
    assert_eq!(guest.get::<VcpuRunstateInfo>(LIST).state, RUNSTATE_RUNNING);
    guest.put(ARG, &0x6100u64);
    assert_eq!(
        guest.call(VCPU, &[VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA.into(), 0, ARG]),
        Ok(0)
    );
    assert_eq!(guest.get::<u32>(0x6100), 2, "version");
    guest.put(ARG, &BAD);
    for operation in [
        VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA,
        VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA,
    ] {
        assert_eq!(guest.call(VCPU, &[operation.into(), 0, BAD]), Err(Errno::EFAULT));
        assert_eq!(
            guest.call(VCPU, &[operation.into(), 0, ARG]),
            Err(Errno::EFAULT),
            "the area itself"
        );
    }
}

// ---- scheduling ----

#[test]
fn waiting() {
    let mut guest = World::new();
    let vcpu = guest.domain.vcpu(VcpuId(0)).expect("vcpu").clone();
    assert_eq!(guest.call(SCHED, &[SCHEDOP_YIELD.into(), 0]), Ok(0));
    let _ = vcpu.take_requests();
    assert_eq!(guest.call(SCHED, &[SCHEDOP_BLOCK.into(), 0]), Ok(0));
    assert!(vcpu.held_by(Hold::BLOCKED));
    let mut ipi = EvtchnBindIpi { vcpu: 0, port: 0 };
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_BIND_IPI, &mut ipi), Ok(0));
    guest.put(LIST, &ipi.port);
    let mut poll = SchedPoll {
        ports: GuestHandle::new(LIST),
        nr_ports: 1,
        pad: 0,
        timeout: 0,
    };
    assert_eq!(guest.op(SCHED, SCHEDOP_POLL, &mut poll), Ok(0));
    assert!(vcpu.held_by(Hold::POLLING));
    // Masked as it is, it ends the poll.
    guest
        .domain
        .shared_info
        .u64_at(2560)
        .store(u64::MAX, core::sync::atomic::Ordering::SeqCst);
    assert_eq!(
        guest.op(EVTCHN, EVTCHNOP_SEND, &mut EvtchnPortArg { port: ipi.port }),
        Ok(0)
    );
    assert!(!vcpu.held_by(Hold::POLLING));
    assert_eq!(guest.op(SCHED, SCHEDOP_POLL, &mut poll), Ok(0));
    assert!(!vcpu.held_by(Hold::POLLING), "pending already");
    poll.nr_ports = 129;
    assert_eq!(guest.op(SCHED, SCHEDOP_POLL, &mut poll), Err(Errno::EINVAL));
    poll.nr_ports = 1;
    guest.put(LIST, &u32::MAX);
    assert_eq!(guest.op(SCHED, SCHEDOP_POLL, &mut poll), Err(Errno::EINVAL));
    poll.ports = GuestHandle::new(BAD);
    assert_eq!(guest.op(SCHED, SCHEDOP_POLL, &mut poll), Err(Errno::EFAULT));
    guest.faults(SCHED, SCHEDOP_POLL);
}

#[test]
fn shutting_down() {
    let mut dom0 = World::privileged();
    let mut guest = World::new();
    let id = guest.domain.id.0;
    guest.faults(SCHED, SCHEDOP_SHUTDOWN);
    let mut remote = SchedRemoteShutdown {
        domain_id: dom0.domain.id.0,
        pad: 0,
        reason: SHUTDOWN_CRASH,
    };
    assert_eq!(
        guest.op(SCHED, SCHEDOP_REMOTE_SHUTDOWN, &mut remote),
        Err(Errno::EPERM)
    );
    assert_eq!(guest.domain.resume(), Err(Errno::EINVAL));
    assert_eq!(
        guest.op(
            SCHED,
            SCHEDOP_SHUTDOWN,
            &mut SchedShutdown {
                reason: SHUTDOWN_SUSPEND
            }
        ),
        Ok(0)
    );
    assert_eq!(guest.domain.shutdown_reason(), Some(SHUTDOWN_SUSPEND));
    assert_eq!(guest.domain.resume(), Ok(()));
    assert_eq!(
        guest.op(
            SCHED,
            SCHEDOP_SHUTDOWN_CODE,
            &mut SchedShutdown {
                reason: SHUTDOWN_CRASH
            }
        ),
        Ok(0)
    );
    assert_eq!(guest.domain.shutdown_reason(), None);
    remote = SchedRemoteShutdown {
        domain_id: id,
        pad: 0,
        reason: SHUTDOWN_POWEROFF,
    };
    assert_eq!(dom0.op(SCHED, SCHEDOP_REMOTE_SHUTDOWN, &mut remote), Ok(0));
    assert_eq!(
        guest.domain.shutdown_reason(),
        Some(SHUTDOWN_CRASH),
        "as recorded before"
    );
    remote.domain_id = 0x7000;
    assert_eq!(
        dom0.op(SCHED, SCHEDOP_REMOTE_SHUTDOWN, &mut remote),
        Err(Errno::ESRCH)
    );
}

// ---- the rest ----

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
    assert_eq!(guest.call(HYPERVISOR_PLATFORM_OP, &[ARG]), Err(Errno::EPERM));
    let mut dom0 = World::privileged();
    assert_eq!(dom0.call(HYPERVISOR_PHYSDEV_OP, &[25, ARG]), Ok(0));
    dom0.faults(HYPERVISOR_PHYSDEV_OP, 25);
    assert_eq!(dom0.call(HYPERVISOR_PHYSDEV_OP, &[13, ARG]), Err(Errno::ENOSYS));
    assert_eq!(dom0.call(HYPERVISOR_PLATFORM_OP, &[ARG]), Err(Errno::ENOSYS));
}
