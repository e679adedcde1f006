//! `memory_op`.

use alloc::format;

use abi::GuestHandle;
use abi::domid::DOMID_SELF;
use abi::hypercall::*;
use abi::memory::*;
use guests::cpu;
use guests::hypercall::{UNMAPPED, call, op};
use guests::report::Report;

use super::{ENOSYS, ESRCH, FRAMES, NOBODY, SPARE, bad_pointers, spare};

fn reservation(frames: &mut [u64], domid: u16) -> MemoryReservation {
    MemoryReservation {
        extent_start: GuestHandle::new(frames.as_mut_ptr() as u64),
        nr_extents: frames.len() as u64,
        extent_order: 0,
        mem_flags: 0,
        domid,
        pad: [0; 3],
    }
}

pub fn memory(report: &mut Report) {
    const NUMBER: u32 = HYPERVISOR_MEMORY_OP;
    let top = call(NUMBER, [XENMEM_MAXIMUM_RAM_PAGE.into(), 0, 0, 0, 0]);
    report.check("memory-maximum-ram-page", top > 0x1000, format!("{top:#x}"));
    let mut domain = MemoryDomain { domid: DOMID_SELF };
    let current = op(NUMBER, XENMEM_CURRENT_RESERVATION, &mut domain);
    report.check(
        "memory-current-reservation",
        current > 0x1000,
        format!("{current:#x}"),
    );
    let maximum = op(NUMBER, XENMEM_MAXIMUM_RESERVATION, &mut domain);
    report.check(
        "memory-maximum-reservation",
        maximum >= current,
        format!("{maximum:#x}"),
    );
    let highest = op(NUMBER, XENMEM_MAXIMUM_GPFN, &mut domain);
    report.check("memory-maximum-gpfn", highest > 0x1000, format!("{highest:#x}"));
    domain.domid = NOBODY;
    report.equal(
        "memory-current-nobody",
        op(NUMBER, XENMEM_CURRENT_RESERVATION, &mut domain),
        ESRCH,
    );
    let mut entries = [E820Entry::default(); 64];
    let mut map = MemoryMap {
        nr_entries: 64,
        pad: 0,
        buffer: GuestHandle::new(entries.as_mut_ptr() as u64),
    };
    report.equal("memory-map", op(NUMBER, XENMEM_MEMORY_MAP, &mut map), 0);
    let count = map.nr_entries;
    report.check(
        "memory-map-entries",
        (1..=64).contains(&count),
        format!("{count}"),
    );
    bad_pointers(report, "memory-map", NUMBER, XENMEM_MEMORY_MAP);
    balloon(report);
    let mut place = AddToPhysmap {
        domid: NOBODY,
        size: 0,
        space: XENMAPSPACE_SHARED_INFO,
        idx: 0,
        gpfn: spare(),
    };
    report.equal(
        "memory-add-nobody",
        op(NUMBER, XENMEM_ADD_TO_PHYSMAP, &mut place),
        ESRCH,
    );
    place.domid = DOMID_SELF;
    place.space = 77;
    let answer = op(NUMBER, XENMEM_ADD_TO_PHYSMAP, &mut place);
    report.check("memory-add-unknown-space", answer < 0, format!("{answer}"));
    place.space = XENMAPSPACE_GRANT_TABLE;
    place.idx = 1 << 20;
    let answer = op(NUMBER, XENMEM_ADD_TO_PHYSMAP, &mut place);
    report.check("memory-add-grant-frame-beyond", answer < 0, format!("{answer}"));
    bad_pointers(report, "memory-add", NUMBER, XENMEM_ADD_TO_PHYSMAP);
    let mut remove = RemoveFromPhysmap {
        domid: DOMID_SELF,
        pad: [0; 3],
        gpfn: 1 << 40,
    };
    let answer = op(NUMBER, XENMEM_REMOVE_FROM_PHYSMAP, &mut remove);
    report.check("memory-remove-nothing", answer < 0, format!("{answer}"));
    report.equal("memory-unknown", call(NUMBER, [62, 0, 0, 0, 0]), ENOSYS);
}

/// Gives frames back and takes them again.
fn balloon(report: &mut Report) {
    const NUMBER: u32 = HYPERVISOR_MEMORY_OP;
    let mut domain = MemoryDomain { domid: DOMID_SELF };
    let before = op(NUMBER, XENMEM_CURRENT_RESERVATION, &mut domain);
    let mut frames: [u64; SPARE] = core::array::from_fn(|index| spare() + index as u64);
    let mut argument = reservation(&mut frames, DOMID_SELF);
    report.equal(
        "memory-decrease",
        op(NUMBER, XENMEM_DECREASE_RESERVATION, &mut argument),
        SPARE as i64,
    );
    let between = op(NUMBER, XENMEM_CURRENT_RESERVATION, &mut domain);
    report.equal("memory-decrease-counts", before - between, SPARE as i64);
    let gone = cpu::load(spare() << 12);
    report.equal("memory-decreased-reads-ones", gone, Ok(u32::MAX));
    let mut argument = reservation(&mut frames, DOMID_SELF);
    report.equal(
        "memory-populate",
        op(NUMBER, XENMEM_POPULATE_PHYSMAP, &mut argument),
        SPARE as i64,
    );
    let after = op(NUMBER, XENMEM_CURRENT_RESERVATION, &mut domain);
    report.equal("memory-populate-counts", after, before);
    report.equal("memory-populated-is-scrubbed", cpu::load(spare() << 12), Ok(0));
    FRAMES.set_byte(0, 0x5a);
    report.equal("memory-populated-works", FRAMES.byte(0), 0x5a);
    let mut argument = reservation(&mut frames, NOBODY);
    report.equal(
        "memory-populate-nobody",
        op(NUMBER, XENMEM_POPULATE_PHYSMAP, &mut argument),
        0,
    );
    let mut argument = reservation(&mut frames, DOMID_SELF);
    argument.extent_order = 60;
    let answer = op(NUMBER, XENMEM_POPULATE_PHYSMAP, &mut argument);
    report.check("memory-populate-order", answer <= 0, format!("{answer}"));
    let mut argument = reservation(&mut frames, DOMID_SELF);
    argument.extent_start = GuestHandle::new(UNMAPPED);
    let answer = op(NUMBER, XENMEM_DECREASE_RESERVATION, &mut argument);
    report.check("memory-decrease-bad-list", answer <= 0, format!("{answer}"));
    let mut nowhere = [1u64 << 40];
    let mut argument = reservation(&mut nowhere, DOMID_SELF);
    let answer = op(NUMBER, XENMEM_DECREASE_RESERVATION, &mut argument);
    report.check("memory-decrease-nothing-there", answer <= 0, format!("{answer}"));
    // The answer is how many blocks were done, however the first one failed.
    report.equal(
        "memory-populate-unmapped",
        call(NUMBER, [XENMEM_POPULATE_PHYSMAP.into(), UNMAPPED, 0, 0, 0]),
        0,
    );
}
