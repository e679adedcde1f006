//! `grant_table_op`.

use alloc::format;
use core::ptr;

use abi::domid::DOMID_SELF;
use abi::grant::*;
use abi::hypercall::*;
use guests::frames;
use guests::hypercall::{UNMAPPED, call};
use guests::report::Report;
use zerocopy::FromZeros;

use super::{EFAULT, EINVAL, ENOSYS, FRAMES, NOBODY, spare};

pub fn grants(report: &mut Report) {
    const NUMBER: u32 = HYPERVISOR_GRANT_TABLE_OP;
    fn list<T>(sub: u32, argument: &mut T, count: u64) -> i64 {
        let address = ptr::from_mut(argument) as u64;
        call(HYPERVISOR_GRANT_TABLE_OP, [sub.into(), address, count, 0, 0])
    }
    let mut size = GnttabQuerySize {
        dom: DOMID_SELF,
        ..FromZeros::new_zeroed()
    };
    report.equal("grant-query-size", list(GNTTABOP_QUERY_SIZE, &mut size, 1), 0);
    let frames = (size.status, size.max_nr_frames > 0);
    report.equal("grant-query-size-status", frames, (GNTST_OKAY, true));
    let mut version = GnttabGetVersion {
        dom: DOMID_SELF,
        ..FromZeros::new_zeroed()
    };
    report.equal(
        "grant-get-version",
        list(GNTTABOP_GET_VERSION, &mut version, 1),
        0,
    );
    report.equal("grant-version", version.version, 1);
    let mut bad = GnttabSetVersion { version: 3 };
    report.equal(
        "grant-set-version-3",
        list(GNTTABOP_SET_VERSION, &mut bad, 1),
        EINVAL,
    );
    let mut map = GnttabMapGrantRef {
        host_addr: spare() << 12,
        flags: GNTMAP_HOST_MAP,
        ref_: 8,
        dom: NOBODY,
        ..FromZeros::new_zeroed()
    };
    report.equal("grant-map-nobody", list(GNTTABOP_MAP_GRANT_REF, &mut map, 1), 0);
    report.equal("grant-map-nobody-status", map.status, GNTST_BAD_DOMAIN);
    map.dom = DOMID_SELF;
    map.ref_ = u32::MAX;
    report.equal("grant-map-ref", list(GNTTABOP_MAP_GRANT_REF, &mut map, 1), 0);
    report.check("grant-map-ref-status", map.status < 0, format!("{}", map.status));
    let mut unmap = GnttabUnmapGrantRef {
        host_addr: spare() << 12,
        handle: 12345,
        ..FromZeros::new_zeroed()
    };
    report.equal(
        "grant-unmap-handle",
        list(GNTTABOP_UNMAP_GRANT_REF, &mut unmap, 1),
        0,
    );
    report.equal("grant-unmap-handle-status", unmap.status, GNTST_BAD_HANDLE);
    copies(report);
    report.equal(
        "grant-unmapped",
        call(NUMBER, [GNTTABOP_COPY.into(), UNMAPPED, 1, 0, 0]),
        EFAULT,
    );
    let answer = call(
        NUMBER,
        [
            GNTTABOP_MAP_GRANT_REF.into(),
            ptr::from_mut(&mut map) as u64,
            u64::from(u32::MAX),
            0,
            0,
        ],
    );
    report.check("grant-count", answer < 0, format!("{answer}"));
    report.equal("grant-unknown", call(NUMBER, [99, 0, 0, 0, 0]), ENOSYS);
}

/// Grant copies by frame, within this domain.
fn copies(report: &mut Report) {
    for offset in 0..frames::SIZE {
        FRAMES.set_byte(offset, offset as u8 ^ 0x5a);
        FRAMES.set_byte(frames::SIZE + offset, 0);
    }
    let at = |frame: u64, offset| GnttabCopyPtr {
        u: frame,
        domid: DOMID_SELF,
        offset,
        pad: 0,
    };
    let good = GnttabCopy {
        source: at(spare(), 16),
        dest: at(spare() + 1, 32),
        len: 100,
        ..FromZeros::new_zeroed()
    };
    let copy = |argument: &mut GnttabCopy| {
        let address = ptr::from_mut(argument) as u64;
        (
            call(
                HYPERVISOR_GRANT_TABLE_OP,
                [GNTTABOP_COPY.into(), address, 1, 0, 0],
            ),
            argument.status,
        )
    };
    report.equal("grant-copy", copy(&mut good.clone()), (0, GNTST_OKAY));
    let right = (0..frames::SIZE).all(|offset| {
        let copied = (32..132).contains(&offset);
        FRAMES.byte(frames::SIZE + offset) == if copied { (offset - 16) as u8 ^ 0x5a } else { 0 }
    });
    report.check("grant-copy-bytes", right, "other bytes than those asked for");
    let mut beyond = GnttabCopy { len: 4090, ..good };
    report.equal("grant-copy-crosses", copy(&mut beyond), (0, GNTST_BAD_COPY_ARG));
    let mut nowhere = GnttabCopy {
        source: at(1 << 40, 0),
        ..good
    };
    let (answer, status) = copy(&mut nowhere);
    report.check(
        "grant-copy-nowhere",
        answer == 0 && status < 0,
        format!("{answer} {status}"),
    );
    let mut nobody = good;
    nobody.source.domid = NOBODY;
    report.equal("grant-copy-nobody", copy(&mut nobody), (0, GNTST_BAD_DOMAIN));
}
