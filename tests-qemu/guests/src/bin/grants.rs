//! Grants of this domain's own frames to itself: both versions, parts of frames, transitive grants, what shows in the entries, and
//! entries that are nonsense.
#![no_std]
#![no_main]

use core::ptr;

use abi::Errno;
use abi::GuestHandle;
use abi::domid::DOMID_SELF;
use abi::grant::*;
use abi::hypercall::{HYPERVISOR_GRANT_TABLE_OP, HYPERVISOR_MEMORY_OP};
use abi::memory::*;
use guest_rt::paging;
use guest_rt::start_info::StartInfo;
use guests::cpu::GP0;
use guests::frames::{Frames, SIZE};
use guests::granting::one;
use guests::hypercall::{UNMAPPED, call, error_code, op};
use guests::random::Random;
use guests::report::Report;
use guests::shared::Shared;
use guests::{cpu, hypercall};

guest_rt::main!(main);

/// The table's first frame, and its status words.
static TABLE: Frames<2> = Frames::new();
/// A frame that is granted, and one to copy to.
static PAGES: Frames<2> = Frames::new();

/// The entry that is tried; the first 8 are the toolstack's.
const REF: u32 = 9;
/// A frame behind all of the domain's RAM.
const NOWHERE: u64 = 1 << 24;

fn main(_: StartInfo) -> ! {
    cpu::init();
    let mut report = Report::default();
    let guest = Guest {
        table: Shared::of(&TABLE),
        pages: Shared::of(&PAGES),
    };
    report.equal("map-table", guest.place(0, 0), 0);
    guest.version_1(&mut report);
    guest.version_2(&mut report);
    guest.nonsense(&mut report);
    guest.back(&mut report);
    report.finish()
}

struct Guest {
    table: Shared,
    pages: Shared,
}

fn set_version(version: u32) -> (i64, u32) {
    let mut set = GnttabSetVersion { version };
    (one(GNTTABOP_SET_VERSION, &mut set), set.version)
}

/// Maps entry [`REF`]: the status, and the handle.
fn map(flags: u32) -> (i16, u32) {
    let mut map = GnttabMapGrantRef {
        host_addr: NOWHERE << 12,
        flags: GNTMAP_HOST_MAP | flags,
        ref_: REF,
        status: 1,
        ..Default::default()
    };
    one(GNTTABOP_MAP_GRANT_REF, &mut map);
    (map.status, map.handle)
}

fn unmap(handle: u32) -> i16 {
    let mut unmap = GnttabUnmapGrantRef {
        host_addr: NOWHERE << 12,
        handle,
        status: 1,
        ..Default::default()
    };
    one(GNTTABOP_UNMAP_GRANT_REF, &mut unmap);
    unmap.status
}

impl Guest {
    /// Maps frame `index` of the table (with a bit for the status words) in the place of one of [`TABLE`]'s.
    fn place(&self, index: u64, frame: usize) -> i64 {
        let mut place = AddToPhysmap {
            domid: DOMID_SELF,
            space: XENMAPSPACE_GRANT_TABLE,
            idx: index,
            gpfn: self.table.frame(frame * SIZE),
            ..Default::default()
        };
        op(HYPERVISOR_MEMORY_OP, XENMEM_ADD_TO_PHYSMAP, &mut place)
    }

    /// Copies 100 bytes by grant between `offset` of the granted frame and the other one.
    fn copy(&self, write: bool, offset: u16) -> i16 {
        let theirs = GnttabCopyPtr {
            u: REF.into(),
            offset,
            ..Default::default()
        };
        let ours = GnttabCopyPtr {
            u: self.pages.frame(SIZE),
            domid: DOMID_SELF,
            ..Default::default()
        };
        let (source, dest, flags) = if write {
            (ours, theirs, GNTCOPY_DEST_GREF)
        } else {
            (theirs, ours, GNTCOPY_SOURCE_GREF)
        };
        let mut copy = GnttabCopy {
            source,
            dest,
            len: 100,
            flags,
            status: 1,
            ..Default::default()
        };
        one(GNTTABOP_COPY, &mut copy);
        copy.status
    }

    /// Writes entry [`REF`] of version 2: flags, what follows the header, and the last 8 bytes.
    fn entry(&self, flags: u16, middle: u32, last: u64) {
        let at = REF as usize * 16;
        self.table.store(at, 0);
        self.table.store(at + 4, middle);
        self.table.store(at + 8, last as u32);
        self.table.store(at + 12, (last >> 32) as u32);
        self.table.store(at, flags.into());
    }

    /// Status word of entry [`REF`].
    fn status(&self) -> u16 {
        let words = self.table.load(SIZE + ((REF as usize * 2) & !3));
        (words >> (REF % 2 * 16)) as u16
    }

    fn version_1(&self, report: &mut Report) {
        let entry = REF as usize * 8;
        self.table.store(entry + 4, self.pages.frame(0) as u32);
        self.table
            .store(entry, u32::from(GTF_PERMIT_ACCESS | GTF_READONLY));
        self.pages.store(64, 0x1234_5678);
        report.equal(
            "v1-copy",
            (self.copy(false, 64), self.pages.load(SIZE)),
            (0, 0x1234_5678),
        );
        report.equal("v1-read-only", self.copy(true, 64), GNTST_GENERAL_ERROR);
        report.equal("v1-map-to-write", map(0).0, GNTST_GENERAL_ERROR);
        let (status, handle) = map(GNTMAP_READONLY);
        report.equal("v1-map", status, GNTST_OKAY);
        let flags = self.table.load(entry) as u16;
        report.equal("v1-in-use", flags, GTF_PERMIT_ACCESS | GTF_READONLY | GTF_READING);
        let mapped = NOWHERE * SIZE as u64 + 64;
        paging::map(mapped..mapped + 4);
        report.equal("v1-read", cpu::load(mapped), Ok(0x1234_5678));
        report.equal("v1-write", cpu::store(mapped, 0), Err(GP0));
        report.equal("v1-unchanged", self.pages.load(64), 0x1234_5678);
        report.equal(
            "version-while-in-use",
            set_version(2),
            (error_code(Errno::EBUSY), 1),
        );
        report.equal("v1-unmap", unmap(handle), GNTST_OKAY);
        let flags = self.table.load(entry) as u16;
        report.equal("v1-not-in-use", flags, GTF_PERMIT_ACCESS | GTF_READONLY);
        let mut place = XENMAPIDX_GRANT_TABLE_STATUS;
        report.equal("v1-no-status", self.place(place, 1), error_code(Errno::EINVAL));
        place |= 1 << 40;
        report.equal(
            "v1-no-status-beyond",
            self.place(place, 1),
            error_code(Errno::EINVAL),
        );
    }

    fn version_2(&self, report: &mut Report) {
        report.equal("version-2", set_version(2), (0, 2));
        report.equal("version-3", set_version(3), (error_code(Errno::EINVAL), 2));
        report.equal("v2-status", self.place(XENMAPIDX_GRANT_TABLE_STATUS, 1), 0);
        let mut frame = 0u64;
        let mut list = GnttabGetStatusFrames {
            nr_frames: 1,
            dom: DOMID_SELF,
            status: 1,
            frame_list: GuestHandle::new(ptr::from_mut(&mut frame) as u64),
        };
        report.equal("v2-status-frames", one(GNTTABOP_GET_STATUS_FRAMES, &mut list), 0);
        // The hypervisor has written it, through the address above.
        let frame = core::hint::black_box(frame);
        report.equal(
            "v2-status-frame",
            (list.status, frame),
            (GNTST_OKAY, self.table.frame(SIZE)),
        );
        report.equal("v2-cleared", self.copy(false, 0), GNTST_GENERAL_ERROR);
        let granted = self.pages.frame(0);
        self.entry(GTF_PERMIT_ACCESS, 0, granted);
        report.equal(
            "v2-copy",
            (self.copy(false, 64), self.pages.load(SIZE)),
            (0, 0x1234_5678),
        );
        let (status, handle) = map(0);
        report.equal(
            "v2-map",
            (status, self.status()),
            (GNTST_OKAY, GTF_READING | GTF_WRITING),
        );
        report.equal("v2-unmap", (unmap(handle), self.status()), (GNTST_OKAY, 0));
        self.entry(GTF_PERMIT_ACCESS, 0, 1 << 52 | granted);
        report.equal("v2-no-such-frame", self.copy(false, 0), GNTST_BAD_PAGE);
        // 200 bytes from 1000 on.
        self.entry(GTF_PERMIT_ACCESS | GTF_SUB_PAGE, 1000 | 200 << 16, granted);
        let tried = [999, 1000, 1100, 1101, 4090].map(|offset| self.copy(true, offset));
        let refused = GNTST_GENERAL_ERROR;
        report.equal("v2-part", tried, [refused, 0, 0, refused, GNTST_BAD_COPY_ARG]);
        report.equal("v2-part-map", map(0).0, refused);
        // To an entry of the same domain: not followed.
        self.entry(GTF_TRANSITIVE, 0, u64::from(REF));
        report.equal("v2-transitive-self", self.copy(false, 0), refused);
        self.entry(GTF_TRANSITIVE, 0x7000, 9);
        report.equal("v2-transitive-nobody", self.copy(false, 0), GNTST_BAD_DOMAIN);
        report.equal("v2-transitive-map", map(0).0, refused);
        report.equal("v2-not-in-use", self.status(), 0);
        for operation in [GNTTABOP_DUMP_TABLE, GNTTABOP_TRANSFER, GNTTABOP_CACHE_FLUSH] {
            let answer = one(operation, &mut [0u64; 8]);
            report.equal("not-for-hvm", answer, error_code(Errno::ENOSYS));
        }
        let unmapped = call(
            HYPERVISOR_GRANT_TABLE_OP,
            [GNTTABOP_SET_VERSION.into(), UNMAPPED, 1, 0, 0],
        );
        report.equal("version-unmapped", unmapped, error_code(Errno::EFAULT));
    }

    /// Entries of random numbers, used in every way.
    fn nonsense(&self, report: &mut Report) {
        let mut random = Random::new(11);
        let mut undone = 0;
        for _ in 0..3000 {
            let flags = random.word() as u16 & !(GTF_READING | GTF_WRITING);
            let any = random.word();
            let last = random.pick(&[
                self.pages.frame(0),
                any,
                hypercall::NOT_CANONICAL,
                NOWHERE,
                1 << 28,
            ]);
            self.entry(flags, random.word() as u32, last);
            // Only frames of the two are ever written to.
            let write = last == self.pages.frame(0) && random.below(2) == 0;
            self.copy(write, random.below(4096) as u16);
            let (status, handle) = map(GNTMAP_READONLY);
            if status == GNTST_OKAY {
                undone += u32::from(unmap(handle) != GNTST_OKAY);
            }
        }
        report.equal("nonsense", (undone, self.status()), (0, 0));
    }

    fn back(&self, report: &mut Report) {
        self.entry(0, 0, 0);
        report.equal("version-1-again", set_version(1), (0, 1));
        let mut swap = GnttabSwapGrantRef {
            ref_a: REF,
            ref_b: REF + 1,
            status: 1,
            ..Default::default()
        };
        self.table.store(REF as usize * 8, 0x42);
        one(GNTTABOP_SWAP_GRANT_REF, &mut swap);
        let moved = self.table.load((REF as usize + 1) * 8);
        report.equal("swap", (swap.status, moved), (GNTST_OKAY, 0x42));
    }
}
