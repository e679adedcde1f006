//! Guest memory by both kinds of address, in every paging mode, against tables that the tests build.

use super::*;
use crate::arch::{NestedFormat, Paging, Translation, machine};
use crate::mm::p2m::Kind as Backing;
use crate::mm::page_info::Kind;

const CR0_PG: u64 = 1 << 31;
const CR0_WP: u64 = 1 << 16;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;
const CR4_SMAP: u64 = 1 << 21;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;
const AC: u64 = 1 << 18;

const PRESENT: u64 = 1;
const WRITE: u64 = 2;
const USER: u64 = 4;
const ACCESSED: u64 = 0x20;
const DIRTY: u64 = 0x40;
const LARGE: u64 = 0x80;

/// A guest with 64 small pages of RAM from gfn 0 on, and a large page at 4 MiB; unmapped when dropped.
struct Guest {
    p2m: P2m,
}

impl Guest {
    fn new(owner: u16) -> Guest {
        let p2m = P2m::new(NestedFormat::Npt, 40, machine::pages(), 64).expect("arena");
        for gfn in 0..64 {
            let mfn = frames::alloc(0).expect("arena");
            page_info::charge(DomId(owner), 1 << 0, u64::MAX).expect("no limit");
            page_info::assign(mfn, 0, DomId(owner), Kind::Ram).expect("words");
            // The allocator promises nothing about contents.
            GuestFrame::reference(mfn, None)
                .expect("owned")
                .copy_in(0, &[0; 4096]);
            p2m.map(Gfn(gfn), mfn, 0, Backing::RamRw).expect("empty");
        }
        let mfn = frames::alloc(9).expect("arena");
        page_info::charge(DomId(owner), 1 << 9, u64::MAX).expect("no limit");
        page_info::assign(mfn, 9, DomId(owner), Kind::Ram).expect("words");
        p2m.map(Gfn(1024), mfn, 9, Backing::RamRw).expect("empty");
        Guest { p2m }
    }

    fn poke(&self, gpa: u64, value: u64) {
        write_phys(&self.p2m, Gpa(gpa), &value.to_le_bytes()).expect("RAM");
    }

    fn peek(&self, gpa: u64) -> u64 {
        let mut bytes = [0; 8];
        read_phys(&self.p2m, Gpa(gpa), &mut bytes).expect("RAM");
        u64::from_le_bytes(bytes)
    }

    fn remove(&self, gfn: u64) {
        let removed = self
            .p2m
            .unmap(Gfn(gfn), 9 * u32::from(gfn == 1024))
            .expect("whole page")
            .expect("mapped");
        removed.flush.done();
        page_info::put(removed.mfn, removed.order);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        while let Some((gfn, _)) = self.p2m.next_mapped(Gfn(0)) {
            self.remove(gfn.0);
        }
    }
}

/// 4-level tables at 0x1000: linear 0x4000_0000 + n is page 0x10 (flags as given), the next page is page 0x12.
fn long_mode(guest: &Guest, flags: u64) -> Paging {
    guest.poke(0x1000, 0x2000 | PRESENT | WRITE | USER);
    guest.poke(0x2000 + 8, 0x3000 | PRESENT | WRITE | USER);
    guest.poke(0x3000, 0x4000 | PRESENT | WRITE | USER);
    guest.poke(0x4000, 0x10000 | flags);
    guest.poke(0x4008, 0x12000 | flags);
    Paging {
        cr0: CR0_PG | CR0_WP,
        cr3: 0x1000,
        cr4: CR4_PAE,
        efer: EFER_LMA | EFER_NXE,
        rflags: 2,
    }
}

const LINEAR: Gva = Gva(0x4000_0000);

#[test]
fn reads_and_writes_cross_pages() {
    let guest = Guest::new(9101);
    let paging = long_mode(&guest, PRESENT | WRITE);
    let mut walks = WalkCache::new();
    let mut memory = GuestVirt::new(&guest.p2m, &mut walks, paging);
    let value: [u64; 64] = core::array::from_fn(|i| i as u64 * 0x0101_0101);
    let at = Gva(LINEAR.0 + 4096 - 20);
    memory.write(at, &value).expect("mapped");
    assert_eq!(memory.read::<[u64; 64]>(at), Ok(value));
    assert_eq!(guest.peek(0x12004), value[3]);
    let mut bytes = [0; 16];
    read_phys(&guest.p2m, Gpa(0x10000 + 4096 - 20), &mut bytes).expect("RAM");
    assert_eq!(&bytes, &value.as_bytes()[..16]);
    assert_eq!(
        memory.write(Gva(LINEAR.0 + 8192 - 4), &0u64),
        Err(Fault),
        "the third page is not mapped"
    );
}

#[test]
fn accessed_and_dirty_bits_are_set() {
    let guest = Guest::new(9102);
    let paging = long_mode(&guest, PRESENT | WRITE);
    let mut walks = WalkCache::new();
    let mut memory = GuestVirt::new(&guest.p2m, &mut walks, paging);
    memory.read::<u32>(LINEAR).expect("mapped");
    assert_eq!(guest.peek(0x4000) & (ACCESSED | DIRTY), ACCESSED);
    assert_eq!(guest.peek(0x1000) & (ACCESSED | DIRTY), ACCESSED);
    memory.write(LINEAR, &1u32).expect("mapped");
    assert_eq!(guest.peek(0x4000) & (ACCESSED | DIRTY), ACCESSED | DIRTY);
    guest.poke(0x4000, 0x10000 | PRESENT | WRITE);
    memory.write(LINEAR, &1u32).expect("mapped");
    assert_eq!(
        guest.peek(0x4000) & DIRTY,
        DIRTY,
        "a cleared dirty bit is set again by a cached walk"
    );
}

#[test]
fn the_cache_sees_every_change() {
    let guest = Guest::new(9103);
    let mut paging = long_mode(&guest, PRESENT | WRITE);
    guest.poke(0x10000, 0xaaaa);
    guest.poke(0x11000, 0xbbbb);
    let mut walks = WalkCache::new();
    let mut read = |guest: &Guest, paging| GuestVirt::new(&guest.p2m, &mut walks, paging).read::<u64>(LINEAR);
    assert_eq!(read(&guest, paging), Ok(0xaaaa));
    guest.poke(0x4000, 0x11000 | PRESENT);
    assert_eq!(read(&guest, paging), Ok(0xbbbb), "leaf changed");
    guest.poke(0x2008, 0);
    assert_eq!(read(&guest, paging), Err(Fault), "upper table gone");
    guest.poke(0x2008, 0x3000 | PRESENT | WRITE);
    assert_eq!(read(&guest, paging), Ok(0xbbbb));
    paging.cr3 = 0x5000;
    assert_eq!(read(&guest, paging), Err(Fault), "other tables");
    paging.cr3 = 0x1000;
    guest.remove(0x11);
    assert_eq!(read(&guest, paging), Err(Fault), "the frame left the guest");
    guest.poke(0x4000, 0x10000 | PRESENT);
    assert_eq!(read(&guest, paging), Ok(0xaaaa));
    guest.remove(3);
    assert_eq!(read(&guest, paging), Err(Fault), "a table left the guest");
}

#[test]
fn grants_that_come_and_go_leave_walks_of_own_memory_alone() {
    let (guest, granter) = (Guest::new(9113), Guest::new(9114));
    let paging = long_mode(&guest, PRESENT | WRITE);
    guest.poke(0x10000, 0xaaaa);
    granter.poke(0x5000, 0xbbbb);
    granter.poke(0x6000, 0x10000 | PRESENT);
    let map = |gfn: u64, of: u64| {
        let frame = GuestFrame::pin(&granter.p2m, Gfn(of), Access::Write).expect("RAM");
        let mapped = guest
            .p2m
            .map(Gfn(gfn), frame.into_reference(), 0, Backing::GrantRw);
        mapped.expect("empty");
    };
    let kept = |walks: &WalkCache| {
        let walk = walks.place(LINEAR);
        walk.answers(paging.into(), LINEAR, Access::Read, guest.p2m.own_generation())
    };
    let mut walks = WalkCache::new();
    let read = |walks: &mut WalkCache| GuestVirt::new(&guest.p2m, walks, paging).read::<u64>(LINEAR);
    assert_eq!(read(&mut walks), Ok(0xaaaa));
    map(100, 5);
    guest.remove(100);
    assert!(kept(&walks), "none of the walk's frames was another's");
    // A page of another's.
    map(100, 5);
    guest.poke(0x4000, 100 << 12 | PRESENT);
    assert_eq!((read(&mut walks), kept(&walks)), (Ok(0xbbbb), false));
    guest.remove(100);
    assert_eq!(read(&mut walks), Err(Fault));
    // A table of another's.
    map(101, 6);
    guest.poke(0x3000, 101 << 12 | PRESENT | WRITE);
    assert_eq!((read(&mut walks), kept(&walks)), (Ok(0xaaaa), false));
    guest.remove(101);
    assert_eq!(read(&mut walks), Err(Fault));
}

#[test]
fn rights_are_the_supervisors() {
    let guest = Guest::new(9104);
    let mut walks = WalkCache::new();
    let mut both = |paging| {
        let mut memory = GuestVirt::new(&guest.p2m, &mut walks, paging);
        (
            memory.read::<u8>(LINEAR).is_ok(),
            memory.write(LINEAR, &0u8).is_ok(),
        )
    };
    let paging = long_mode(&guest, PRESENT);
    assert_eq!(both(paging), (true, false), "read-only");
    assert_eq!(
        both(Paging {
            cr0: CR0_PG,
            ..paging
        }),
        (true, true),
        "CR0.WP clear"
    );
    let paging = long_mode(&guest, PRESENT | WRITE | USER);
    assert_eq!(both(paging), (true, true));
    let smap = Paging {
        cr4: paging.cr4 | CR4_SMAP,
        ..paging
    };
    assert_eq!(both(smap), (false, false), "SMAP");
    assert_eq!(
        both(Paging {
            rflags: 2 | AC,
            ..smap
        }),
        (true, true),
        "SMAP suspended"
    );
    let paging = long_mode(&guest, PRESENT | WRITE | 1 << 63);
    assert_eq!(both(paging), (true, true));
    assert_eq!(
        both(Paging {
            efer: EFER_LMA,
            ..paging
        }),
        (false, false),
        "NX is reserved without EFER.NXE"
    );
}

#[test]
fn users_reach_user_pages_only() {
    let guest = Guest::new(9112);
    let mut walks = WalkCache::new();
    let mut both = |paging: Paging| {
        let user = Translation::from(paging).of_user();
        let mut memory = GuestVirt::new(&guest.p2m, &mut walks, user);
        (
            memory.read::<u8>(LINEAR).is_ok(),
            memory.write(LINEAR, &0u8).is_ok(),
        )
    };
    assert_eq!(both(long_mode(&guest, PRESENT | WRITE)), (false, false));
    let paging = long_mode(&guest, PRESENT | WRITE | USER);
    let smap = Paging {
        cr4: paging.cr4 | CR4_SMAP,
        ..paging
    };
    assert_eq!((both(paging), both(smap)), ((true, true), (true, true)));
    let unprotected = Paging {
        cr0: CR0_PG,
        ..long_mode(&guest, PRESENT | USER)
    };
    assert_eq!(both(unprotected), (true, false), "CR0.WP is for the supervisor");
}

#[test]
fn addresses_must_be_canonical() {
    let guest = Guest::new(9105);
    let paging = long_mode(&guest, PRESENT | WRITE);
    guest.poke(0x1000 + 8 * 256, 0x2000 | PRESENT | WRITE);
    let mut walks = WalkCache::new();
    let mut memory = GuestVirt::new(&guest.p2m, &mut walks, paging);
    assert!(memory.read::<u8>(Gva(0xffff_8000_4000_0000)).is_ok());
    assert!(memory.read::<u8>(Gva(0x0000_8000_4000_0000)).is_err());
    assert!(memory.read::<u8>(Gva(0xfff0_0000_4000_0000)).is_err());
}

#[test]
fn five_levels() {
    let guest = Guest::new(9106);
    let paging = long_mode(&guest, PRESENT | WRITE);
    guest.poke(0x6000 + 8 * 3, 0x1000 | PRESENT | WRITE);
    guest.poke(0x10000, 77);
    let paging = Paging {
        cr3: 0x6000,
        cr4: paging.cr4 | CR4_LA57,
        ..paging
    };
    let mut walks = WalkCache::new();
    let mut memory = GuestVirt::new(&guest.p2m, &mut walks, paging);
    for _ in 0..2 {
        assert_eq!(memory.read::<u64>(Gva(3 << 48 | LINEAR.0)), Ok(77));
    }
    assert!(memory.read::<u64>(Gva(1 << 57)).is_err());
}

#[test]
fn large_pages() {
    let guest = Guest::new(9107);
    let paging = long_mode(&guest, PRESENT | WRITE);
    guest.poke(0x400000 + 0x12345 * 8, 99);
    let at = Gva(LINEAR.0 + 0x12345 * 8);
    let mut walks = WalkCache::new();
    let mut memory = GuestVirt::new(&guest.p2m, &mut walks, paging);
    guest.poke(0x3000, 0x400000 | PRESENT | LARGE);
    assert_eq!(memory.read::<u64>(at), Ok(99), "2 MiB");
    guest.poke(0x3000, 0x402000 | PRESENT | LARGE);
    assert_eq!(memory.read::<u64>(at), Err(Fault), "reserved bit");
    guest.poke(0x2008, PRESENT | LARGE);
    assert_eq!(
        memory.read::<u64>(Gva(LINEAR.0 + 0x400000 + 0x12345 * 8)),
        Ok(99),
        "1 GiB"
    );
}

#[test]
fn thirty_two_bit_modes() {
    let guest = Guest::new(9108);
    let poke32 = |gpa: u64, value: u32| write_phys(&guest.p2m, Gpa(gpa), &value.to_le_bytes()).expect("RAM");
    let mut walks = WalkCache::new();
    guest.poke(0x10008, 5);
    guest.poke(0x400010, 6);
    // Paging off: linear is physical, and has 32 bits.
    let off = Paging::default();
    assert_eq!(
        GuestVirt::new(&guest.p2m, &mut walks, off).read::<u64>(Gva(0x1_0001_0008)),
        Ok(5)
    );
    // Two levels: 0xc0000000 is page 0x10, 0xc0400000 a 4 MiB page.
    poke32(0x7000 + 4 * 0x300, 0x8000 | 3);
    poke32(0x8000, 0x10000 | 3);
    poke32(0x7000 + 4 * 0x301, 0x400000 | 0x83);
    let legacy = Paging {
        cr0: CR0_PG | CR0_WP,
        cr3: 0x7000,
        cr4: CR4_PSE,
        ..off
    };
    for _ in 0..2 {
        let mut memory = GuestVirt::new(&guest.p2m, &mut walks, legacy);
        assert_eq!(memory.read::<u64>(Gva(0xc000_0008)), Ok(5));
        assert_eq!(memory.read::<u64>(Gva(0xc040_0010)), Ok(6));
        assert_eq!(memory.write(Gva(0xc000_0010), &7u64), Ok(()));
    }
    assert_eq!(
        guest.peek(0x8000),
        u64::from(0x10000 | 3 | (ACCESSED | DIRTY) as u32)
    );
    let no_pse = Paging { cr4: 0, ..legacy };
    assert!(
        GuestVirt::new(&guest.p2m, &mut walks, no_pse)
            .read::<u64>(Gva(0xc040_0010))
            .is_err()
    );
    // PAE: the top table has four entries without rights, at any multiple of 32.
    guest.poke(0x9020 + 8 * 3, 0xa000 | PRESENT);
    guest.poke(0xa000, 0xb000 | PRESENT | WRITE);
    guest.poke(0xb000, 0x10000 | PRESENT | WRITE);
    guest.poke(0xa008, 0x400000 | PRESENT | LARGE);
    let pae = Paging {
        cr3: 0x9020,
        cr4: CR4_PAE,
        ..legacy
    };
    for _ in 0..2 {
        let mut memory = GuestVirt::new(&guest.p2m, &mut walks, pae);
        assert_eq!(memory.read::<u64>(Gva(0xc000_0008)), Ok(5));
        assert_eq!(memory.read::<u64>(Gva(0xc020_0010)), Ok(6));
        assert_eq!(memory.write(Gva(0xc000_0010), &8u64), Ok(()));
        assert_eq!(memory.write(Gva(0xc020_0010), &8u64), Err(Fault));
    }
}

#[test]
fn only_ram_is_memory() {
    let guest = Guest::new(9109);
    guest
        .p2m
        .map(Gfn(100), Mfn(0xfee00), 0, Backing::MmioDirect)
        .expect("empty");
    assert_eq!(write_phys(&guest.p2m, Gpa(100 << 12), &[0]), Err(Fault));
    assert_eq!(read_phys(&guest.p2m, Gpa(100 << 12), &mut [0]), Err(Fault));
    assert_eq!(read_phys(&guest.p2m, Gpa(u64::MAX - 1), &mut [0; 8]), Err(Fault));
    assert!(GuestFrame::pin(&guest.p2m, Gfn(100), Access::Read).is_err());
    guest
        .p2m
        .unmap(Gfn(100), 0)
        .expect("small")
        .expect("mapped")
        .flush
        .done();
}

#[test]
fn a_pinned_frame_stays() {
    let guest = Guest::new(9110);
    let frame = GuestFrame::pin(&guest.p2m, Gfn(7), Access::Write).expect("RAM");
    guest.remove(7);
    frame.u64_at(8).store(42, Ordering::Relaxed);
    assert_eq!(frame.u32_at(8).load(Ordering::Relaxed), 42);
    assert_eq!(page_info::owner(frame.mfn()), Some((DomId(9110), Kind::Ram)));
    assert_eq!(frame.copy_from(4000, &frame, 0, 97), Err(Fault));
    assert_eq!(frame.copy_from(4000, &frame, 8, 96), Ok(()));
    assert_eq!(frame.u64_at(4000).load(Ordering::Relaxed), 42);
}

#[test]
fn a_pinned_range_crosses_pages() {
    let guest = Guest::new(9111);
    let paging = long_mode(&guest, PRESENT | WRITE);
    let mut walks = WalkCache::new();
    let mut memory = GuestVirt::new(&guest.p2m, &mut walks, paging);
    let range = memory
        .pin_own(Gva(LINEAR.0 + 4096 - 8), 24, DomId(9111))
        .expect("mapped");
    assert!(
        memory.pin_own(Gva(LINEAR.0 + 8192 - 8), 24, DomId(9111)).is_err(),
        "the third page is not mapped"
    );
    range.write(4, &[1; 8]);
    range.write(16, &[2; 20]);
    assert_eq!(guest.peek(0x10000 + 4096 - 8), 0x0101_0101_0000_0000);
    assert_eq!(guest.peek(0x12000), 0x0101_0101);
    assert_eq!(guest.peek(0x12008), 0x0202_0202_0202_0202);
    assert_eq!(guest.peek(0x12010), 0, "beyond the range");
    let other = memory.pin_own(Gva(LINEAR.0 + 4096 - 8), 24, DomId(9110));
    assert!(other.is_err(), "not its own");
}
