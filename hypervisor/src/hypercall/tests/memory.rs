//! Called well and badly: `memory_op`.

use abi::domid::DOMID_SELF;
use abi::grant::*;
use abi::hypercall::*;
use abi::memory::*;
use abi::{Errno, GuestHandle};

use crate::domain::{Life, lifecycle, table};
use crate::hypercall::testing::{ARG, BAD, LIST, PAGES, World, destroy};
use crate::mm::p2m::Kind;
use crate::types::Gfn;

const MEMORY: u32 = HYPERVISOR_MEMORY_OP;

/// Longer than what is read of it at once, to where no memory is.
#[test]
fn a_list_is_done_as_far_as_it_can_be_read() {
    let mut guest = World::new();
    let readable = 40;
    let list = PAGES * 4096 - 8 * readable;
    for index in 0..readable {
        guest.put(list + 8 * index, &(100 + index));
    }
    let mut request = MemoryReservation {
        extent_start: GuestHandle::new(list),
        nr_extents: 60,
        domid: DOMID_SELF,
        ..Default::default()
    };
    for (operation, pages) in [
        (XENMEM_POPULATE_PHYSMAP, PAGES + readable),
        (XENMEM_DECREASE_RESERVATION, PAGES),
    ] {
        assert_eq!(guest.op(MEMORY, operation, &mut request), Ok(readable));
        assert_eq!(guest.domain.total_pages(), pages);
    }
}

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
    assert_eq!(
        guest.domain.total_pages(),
        PAGES + 3,
        "nothing of that extent is left"
    );
    guest.domain.set_max_pages(PAGES + 3 + 600);
    guest.domain.populate(Gfn(1024 + 300), 0).expect("room");
    assert_eq!(
        guest.op(MEMORY, XENMEM_POPULATE_PHYSMAP, &mut request),
        Ok(0),
        "a page of it is there already"
    );
    assert_eq!(guest.domain.total_pages(), PAGES + 4);
    guest.domain.set_max_pages(PAGES + 64);
    request.extent_order = 63;
    assert_eq!(guest.op(MEMORY, XENMEM_POPULATE_PHYSMAP, &mut request), Ok(0));
    request.extent_order = 0;
    request.nr_extents = u64::MAX;
    assert_eq!(guest.op(MEMORY, XENMEM_DECREASE_RESERVATION, &mut request), Ok(0));
    assert_eq!(guest.call(MEMORY, &[XENMEM_POPULATE_PHYSMAP.into(), BAD]), Ok(0));
    guest.faults(MEMORY, XENMEM_CURRENT_RESERVATION);
    let mut dom0 = World::privileged();
    let id = guest.domain.id.0;
    for (operation, pages) in [
        (XENMEM_CURRENT_RESERVATION, guest.domain.total_pages()),
        (XENMEM_MAXIMUM_RESERVATION, PAGES + 64),
        (XENMEM_MAXIMUM_GPFN, 1024 + 300),
    ] {
        let mut of_guest = MemoryDomain { domid: id };
        assert_eq!(
            dom0.op(MEMORY, operation, &mut of_guest),
            Ok(pages),
            "{operation}"
        );
    }
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

/// Large pages, as clearing them takes time, in which the others look.
#[test]
fn racing_vcpus_do_not_get_more_than_the_limit() {
    const LARGE: u64 = 1 << 9;
    const ROUNDS: u64 = 50;
    let guest = World::new();
    let domain = &guest.domain;
    domain.set_max_pages(PAGES + LARGE);
    let all = std::sync::Barrier::new(3);
    let got: u64 = std::thread::scope(|scope| {
        let vcpus = [1, 2, 3].map(|vcpu: u64| {
            let all = &all;
            scope.spawn(move || {
                let gfn = Gfn(vcpu * LARGE);
                let mut got = 0;
                for _ in 0..ROUNDS {
                    all.wait();
                    let mine = domain.populate(gfn, 9).is_ok();
                    all.wait();
                    got += u64::from(mine);
                    if mine {
                        domain.unmap(gfn, 9).expect("a whole page");
                    }
                }
                got
            })
        });
        vcpus.into_iter().map(|vcpu| vcpu.join().expect("no panic")).sum()
    });
    assert_eq!(
        (got, domain.total_pages()),
        (ROUNDS, PAGES),
        "one of them gets it each time"
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
    place.gpfn = 9;
    assert_eq!(guest.op(MEMORY, XENMEM_ADD_TO_PHYSMAP, &mut place), Ok(0));
    let at = |gfn| guest.domain.p2m.lookup(Gfn(gfn)).map(|entry| entry.mfn);
    assert_eq!(
        (at(7), at(9)),
        (None, Some(mfn)),
        "they are in one place at a time"
    );
    place = AddToPhysmap {
        space: XENMAPSPACE_GRANT_TABLE,
        idx: 1,
        gpfn: 8,
        ..place
    };
    assert_eq!(guest.op(MEMORY, XENMEM_ADD_TO_PHYSMAP, &mut place), Ok(0));
    assert_eq!(guest.domain.grants.table.size(), (2, 4), "grows as needed");
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
    claim.extent_order = 0;
    let claimed = guest.domain.claim.pages();
    assert_eq!(claimed, 20 - PAGES, "what it has counts");
    for (extents, errno) in [
        (20, "there is a claim"),
        (PAGES, "it has so many"),
        (1 << 40, "over its limit"),
    ] {
        claim.nr_extents = extents;
        let again = dom0.op(MEMORY, XENMEM_CLAIM_PAGES, &mut claim);
        assert_eq!(again, Err(Errno::EINVAL), "{errno}");
    }
    guest.domain.populate(Gfn(0x1000), 0).expect("arena");
    assert_eq!(guest.domain.claim.pages(), claimed - 1);
    guest.domain.unmap(Gfn(0x1000), 0).expect("there");
    claim.nr_extents = 0;
    assert_eq!(dom0.op(MEMORY, XENMEM_CLAIM_PAGES, &mut claim), Ok(0));
    assert_eq!(guest.domain.claim.pages(), 0);
    claim.nr_extents = 20;
    assert_eq!(dom0.op(MEMORY, XENMEM_CLAIM_PAGES, &mut claim), Ok(0));
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
    // Its status frames, once there are some; others' resources.
    for (kind, which, frames, expected) in [
        (XENMEM_RESOURCE_GRANT_TABLE, 1, 0, Ok(1)),
        (XENMEM_RESOURCE_GRANT_TABLE, 1, 1, Err(Errno::EINVAL)),
        (XENMEM_RESOURCE_GRANT_TABLE, 2, 0, Err(Errno::EINVAL)),
        (XENMEM_RESOURCE_IOREQ_SERVER, 0, 0, Ok(2)),
        (XENMEM_RESOURCE_IOREQ_SERVER, 0, 1, Err(Errno::ENOENT)),
        (XENMEM_RESOURCE_IOREQ_SERVER, 1 << 16, 1, Err(Errno::EINVAL)),
        (XENMEM_RESOURCE_VMTRACE_BUF, 0, 0, Err(Errno::EINVAL)),
    ] {
        let list = if frames == 0 { 0 } else { LIST };
        let mut other = MemAcquireResource {
            domid: id,
            type_: kind,
            id: which,
            nr_frames: frames,
            frame_list: GuestHandle::new(list),
            ..Default::default()
        };
        let answer = dom0.op(MEMORY, XENMEM_ACQUIRE_RESOURCE, &mut other);
        assert_eq!(
            answer.map(|_| other.nr_frames),
            expected,
            "{kind} {which} {frames}"
        );
    }
    crate::grant::set_version(&guest.domain, crate::grant::Version::V2).expect("version 2");
    dom0.put(LIST, &0x3001u64);
    let mut status = MemAcquireResource {
        id: XENMEM_RESOURCE_GRANT_TABLE_ID_STATUS,
        frame: 0,
        ..resource
    };
    assert_eq!(dom0.op(MEMORY, XENMEM_ACQUIRE_RESOURCE, &mut status), Ok(0));
    assert_eq!(dom0.get::<u64>(0x300_1000), 0);
    let mut remove = RemoveFromPhysmap {
        domid: DOMID_SELF,
        gpfn: 0x3001,
        ..Default::default()
    };
    assert_eq!(dom0.op(MEMORY, XENMEM_REMOVE_FROM_PHYSMAP, &mut remove), Ok(0));
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
        assert!(guest.domain.p2m.next_mapped(Gfn(0)).is_none());
        assert_eq!(
            guest.domain.populate(Gfn(1), 0),
            Err(Errno::EINVAL),
            "dead domains get nothing"
        );
    }
}
