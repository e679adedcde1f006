//! Called well and badly: `grant_table_op`.

use abi::domid::DOMID_SELF;
use abi::event_channel::*;
use abi::grant::*;
use abi::hypercall::*;
use abi::memory::*;
use abi::vcpu::*;
use abi::{Errno, GuestHandle};

use crate::domain::Config;
use crate::grant::Version;
use crate::hypercall::testing::{ARG, BAD, LIST, World, config, destroy};
use crate::mm::p2m::Kind;
use crate::types::{DomId, Gfn};

const MEMORY: u32 = HYPERVISOR_MEMORY_OP;
const GRANT: u32 = HYPERVISOR_GRANT_TABLE_OP;

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

/// Maps that entry of `granter`'s to be written, where its user has nothing.
fn mapping(granter: &World) -> GnttabMapGrantRef {
    GnttabMapGrantRef {
        host_addr: 0x100_0000,
        flags: GNTMAP_HOST_MAP,
        ref_: 9,
        dom: granter.domain.id.0,
        ..Default::default()
    }
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
    let wanted = mapping(&a);
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
fn a_list_may_cross_a_page_and_must_be_writable() {
    let (mut a, mut b) = (World::new(), World::new());
    grant(&mut a, b.domain.id, 0);
    let wanted = GnttabMapGrantRef {
        status: 1,
        ..mapping(&a)
    };
    // Its status is in the second page.
    let at = LIST - core::mem::offset_of!(GnttabMapGrantRef, status) as u64;
    b.put(at, &wanted);
    let map = |b: &mut World, at: u64| b.call(GRANT, &[GNTTABOP_MAP_GRANT_REF.into(), at, 1]);
    assert_eq!(map(&mut b, at), Ok(0));
    assert_eq!(b.get::<GnttabMapGrantRef>(at).status, GNTST_OKAY);
    assert_eq!(b.get::<u64>(0x100_0000), 0xcafe);
    // Where the result cannot be written, nothing is done.
    grant(&mut b, a.domain.id, GTF_READONLY);
    let read_only = GnttabMapGrantRef {
        host_addr: 0x200_0000,
        flags: GNTMAP_HOST_MAP | GNTMAP_READONLY,
        dom: b.domain.id.0,
        ..wanted
    };
    b.put(0x5000, &wanted);
    assert_eq!(one(&mut a, GNTTABOP_MAP_GRANT_REF, &mut read_only.clone()), Ok(0));
    assert_eq!(map(&mut a, 0x200_0000), Err(Errno::EFAULT));
}

/// A list in another domain's frame is as good as any, but nothing is written there once the grant has ended: not even by the operation
/// that ends it.
#[test]
fn a_list_in_a_granted_frame_is_not_written_when_that_is_no_longer_granted() {
    let (mut a, mut b) = (World::new(), World::new());
    grant(&mut a, b.domain.id, 0);
    let mut map = mapping(&a);
    let mut second = GnttabMapGrantRef {
        host_addr: 0x100_1000,
        ..map
    };
    for map in [&mut map, &mut second] {
        assert_eq!(one(&mut b, GNTTABOP_MAP_GRANT_REF, map), Ok(0));
    }
    let unmap = |b: &mut World, map: &GnttabMapGrantRef| {
        let unmap = GnttabUnmapGrantRef {
            host_addr: map.host_addr,
            handle: map.handle,
            status: 1,
            ..Default::default()
        };
        b.put(0x100_0000, &unmap);
        b.call(GRANT, &[GNTTABOP_UNMAP_GRANT_REF.into(), 0x100_0000, 1])
    };
    assert_eq!(unmap(&mut b, &second), Ok(0));
    assert_eq!(b.get::<GnttabUnmapGrantRef>(0x100_0000).status, GNTST_OKAY);
    assert_eq!(unmap(&mut b, &map), Err(Errno::EFAULT));
    assert_eq!(flags_of(&a), GTF_PERMIT_ACCESS);
    assert_eq!(a.get::<GnttabUnmapGrantRef>(0x5000).status, 1);
}

#[test]
fn bad_grants_have_a_status() {
    let (mut a, mut b) = (World::new(), World::new());
    grant(&mut a, b.domain.id, GTF_READONLY);
    let good = GnttabMapGrantRef {
        flags: GNTMAP_HOST_MAP | GNTMAP_READONLY,
        ..mapping(&a)
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
    for operation in [3, 4, 12, 13, u32::MAX.into()] {
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

/// While the version is 2.
fn status_frames(guest: &mut World) {
    let mut place = AddToPhysmap {
        domid: DOMID_SELF,
        space: XENMAPSPACE_GRANT_TABLE,
        idx: XENMAPIDX_GRANT_TABLE_STATUS,
        gpfn: 14,
        ..Default::default()
    };
    assert_eq!(guest.op(MEMORY, XENMEM_ADD_TO_PHYSMAP, &mut place), Ok(0));
    let mut list = GnttabGetStatusFrames {
        nr_frames: 1,
        dom: DOMID_SELF,
        frame_list: GuestHandle::new(LIST),
        ..Default::default()
    };
    assert_eq!(one(guest, GNTTABOP_GET_STATUS_FRAMES, &mut list), Ok(0));
    assert_eq!((list.status, guest.get::<u64>(LIST)), (GNTST_OKAY, 14));
    for (nr_frames, dom, at, status) in [
        (2, DOMID_SELF, LIST, GNTST_GENERAL_ERROR),
        (u32::MAX, DOMID_SELF, LIST, GNTST_GENERAL_ERROR),
        (1, 0x7000, LIST, GNTST_BAD_DOMAIN),
        (1, DOMID_SELF, BAD, GNTST_BAD_VIRT_ADDR),
    ] {
        let mut bad = GnttabGetStatusFrames {
            nr_frames,
            dom,
            frame_list: GuestHandle::new(at),
            ..list
        };
        assert_eq!(one(guest, GNTTABOP_GET_STATUS_FRAMES, &mut bad), Ok(0));
        assert_eq!(bad.status, status);
    }
    place.idx = XENMAPIDX_GRANT_TABLE_STATUS | 1;
    assert_eq!(
        guest.op(MEMORY, XENMEM_ADD_TO_PHYSMAP, &mut place),
        Err(Errno::EINVAL),
        "more than the entries that there may be need"
    );
}

#[test]
fn a_domain_may_be_kept_to_version_1() {
    let mut guest = World::with(Config {
        max_grant_version: Version::V1,
        ..config(false)
    });
    let mut version = GnttabSetVersion { version: 2 };
    assert_eq!(
        one(&mut guest, GNTTABOP_SET_VERSION, &mut version),
        Err(Errno::ENOSYS)
    );
    assert_eq!(version.version, 1, "which it has");
}

#[test]
fn unmap_and_replace_only_unmaps() {
    let (mut a, mut b) = (World::new(), World::new());
    grant(&mut a, b.domain.id, 0);
    let mut map = mapping(&a);
    assert_eq!(one(&mut b, GNTTABOP_MAP_GRANT_REF, &mut map), Ok(0));
    let mut replace = GnttabUnmapAndReplace {
        host_addr: 0x100_0000,
        new_addr: 0x100_1000,
        handle: map.handle,
        ..Default::default()
    };
    assert_eq!(one(&mut b, GNTTABOP_UNMAP_AND_REPLACE, &mut replace), Ok(0));
    assert_eq!(replace.status, GNTST_GENERAL_ERROR);
    assert!(b.domain.p2m.lookup(Gfn(0x1000)).is_some());
    replace.new_addr = 0;
    assert_eq!(one(&mut b, GNTTABOP_UNMAP_AND_REPLACE, &mut replace), Ok(0));
    assert_eq!(replace.status, GNTST_OKAY);
    assert!(b.domain.p2m.lookup(Gfn(0x1000)).is_none());
    assert_eq!(flags_of(&a), GTF_PERMIT_ACCESS);
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
    assert_eq!(one(&mut guest, GNTTABOP_SET_VERSION, &mut version), Ok(0));
    assert_eq!(version.version, 2);
    let mut got = GnttabGetVersion {
        dom: DOMID_SELF,
        ..Default::default()
    };
    assert_eq!(one(&mut guest, GNTTABOP_GET_VERSION, &mut got), Ok(0));
    assert_eq!(got.version, 2);
    status_frames(&mut guest);
    version.version = 1;
    assert_eq!(one(&mut guest, GNTTABOP_SET_VERSION, &mut version), Ok(0));
    assert!(
        guest.domain.p2m.lookup(Gfn(14)).is_none(),
        "version 1 has no status frames"
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

/// A mapped grant is another's frame: what the hypervisor keeps writing to is not put there.
#[test]
fn nothing_is_registered_in_what_another_granted() {
    let (mut a, mut b) = (World::new(), World::new());
    grant(&mut a, b.domain.id, 0);
    let mut map = mapping(&a);
    assert_eq!(one(&mut b, GNTTABOP_MAP_GRANT_REF, &mut map), Ok(0));
    assert_eq!(map.status, GNTST_OKAY);
    b.put(
        ARG,
        &VcpuRegisterVcpuInfo {
            mfn: 0x1000,
            offset: 0,
            rsvd: 0,
        },
    );
    let vcpu = |b: &mut World, operation: u32| b.call(HYPERVISOR_VCPU_OP, &[operation.into(), 0, ARG]);
    assert_eq!(vcpu(&mut b, VCPUOP_REGISTER_VCPU_INFO), Err(Errno::EINVAL));
    b.put(ARG, &0x100_0000u64);
    for operation in [
        VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA,
        VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA,
    ] {
        assert_eq!(vcpu(&mut b, operation), Err(Errno::EFAULT));
    }
    let mut control = EvtchnInitControl {
        control_gfn: 0x1000,
        ..Default::default()
    };
    let event = |b: &mut World, operation, arg: &mut EvtchnInitControl| {
        b.op(HYPERVISOR_EVENT_CHANNEL_OP, operation, arg)
    };
    assert_eq!(
        event(&mut b, EVTCHNOP_INIT_CONTROL, &mut control),
        Err(Errno::EINVAL)
    );
    control.control_gfn = 5;
    assert_eq!(event(&mut b, EVTCHNOP_INIT_CONTROL, &mut control), Ok(0));
    let mut array = EvtchnExpandArray { array_gfn: 0x1000 };
    assert_eq!(
        b.op(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_EXPAND_ARRAY, &mut array),
        Err(Errno::EINVAL)
    );
}

/// What has come to be where a frame of the table was, stays when that moves on.
#[test]
fn a_frame_of_the_table_leaves_only_its_own_place() {
    let mut guest = World::new();
    let mut place = AddToPhysmap {
        domid: DOMID_SELF,
        space: XENMAPSPACE_GRANT_TABLE,
        gpfn: 0x900,
        ..Default::default()
    };
    assert_eq!(guest.op(MEMORY, XENMEM_ADD_TO_PHYSMAP, &mut place), Ok(0));
    guest.domain.unmap(Gfn(0x900), 0).expect("it was mapped");
    guest.domain.populate(Gfn(0x900), 0).expect("RAM");
    guest.put(0x90_0000, &0xcafeu64);
    place.gpfn = 0x901;
    assert_eq!(guest.op(MEMORY, XENMEM_ADD_TO_PHYSMAP, &mut place), Ok(0));
    assert_eq!(guest.get::<u64>(0x90_0000), 0xcafe);
    place.gpfn = 0x902;
    assert_eq!(guest.op(MEMORY, XENMEM_ADD_TO_PHYSMAP, &mut place), Ok(0));
    assert!(guest.domain.p2m.lookup(Gfn(0x901)).is_none());
}
