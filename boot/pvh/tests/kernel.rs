//! Kernel images of every kind, good and bad.

use abi::start_info::{
    HvmStartInfo, SIF_INITDOMAIN, SIF_PRIVILEGED, XEN_HVM_MEMMAP_TYPE_RAM, XEN_HVM_START_MAGIC_VALUE,
};
use proptest::prelude::*;
use pvh::kernel::{self, Error};
use pvh::layout::{self, Guest};
use zerocopy::FromBytes;

const ELF: &[u8] = include_bytes!("tiny.elf");
/// With the x86 filter and a 128 MiB dictionary, as Linux's build makes them since 6.12.
const XZ: &[u8] = include_bytes!("tiny.elf.xz");
/// 4 MiB of nothing.
const XZ_BOMB: &[u8] = include_bytes!("zeros.xz");
const LIMIT: usize = 1 << 20;

/// `payload` in a bzImage with one setup sector, followed by the unpacked length as Linux's build does.
fn bzimage(payload: &[u8], unpacked: usize) -> Vec<u8> {
    let mut image = vec![0; 1024];
    image[0x1f1] = 1;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    image[0x24c..0x250].copy_from_slice(&(payload.len() as u32 + 4).to_le_bytes());
    image.extend_from_slice(payload);
    image.extend_from_slice(&(unpacked as u32).to_le_bytes());
    image
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 3];
    out.extend_from_slice(b"vmlinux\0");
    out.extend(miniz_oxide::deflate::compress_to_vec(data, 6));
    out.extend_from_slice(&crc32fast::hash(data).to_le_bytes());
    out.extend_from_slice(&(data.len() as u32).to_le_bytes());
    out
}

fn lz4(data: &[u8]) -> Vec<u8> {
    lz4_in_blocks(data, 8 << 20)
}

fn lz4_in_blocks(data: &[u8], size: usize) -> Vec<u8> {
    let mut out = vec![0x02, 0x21, 0x4c, 0x18];
    for block in data.chunks(size) {
        let packed = lz4_flex::block::compress(block);
        out.extend_from_slice(&(packed.len() as u32).to_le_bytes());
        out.extend(packed);
    }
    out
}

fn zstd(data: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(data, ruzstd::encoding::CompressionLevel::Fastest)
}

#[test]
fn every_wrapping_gives_the_same_kernel() {
    let wrapped = [
        ("elf", ELF.to_vec()),
        ("gzipped elf", gzip(ELF)),
        ("bzImage, plain", bzimage(ELF, ELF.len())),
        ("bzImage, gzip", bzimage(&gzip(ELF), ELF.len())),
        ("bzImage, xz", bzimage(XZ, ELF.len())),
        ("bzImage, lz4", bzimage(&lz4(ELF), ELF.len())),
        (
            "bzImage, lz4 in blocks",
            bzimage(&lz4_in_blocks(ELF, 7), ELF.len()),
        ),
        ("bzImage, zstd", bzimage(&zstd(ELF), ELF.len())),
    ];
    for (what, image) in wrapped {
        let kernel = kernel::open(&image, LIMIT).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(kernel.entry, 0x10_0100, "{what}");
        assert_eq!(kernel.guest_os, "tiny", "{what}");
        assert!(kernel.takes_rsdp_anywhere(), "{what}");
        assert_eq!(kernel.extent(), 0x10_0000..0x10_4000, "{what}");
        assert_eq!(kernel.bytes(&kernel.segments[0]), ELF, "{what}");
    }
}

/// Between them dom0-shim serves its domains. LZ4's steps are whole blocks.
#[test]
fn images_are_unpacked_in_small_steps() {
    const SIZE: usize = 4 << 20;
    const STEPS: usize = SIZE / (128 << 10);
    let zeros = vec![0; SIZE];
    for (what, payload, wanted) in [
        ("gzip", gzip(&zeros), STEPS),
        ("xz", XZ_BOMB.to_vec(), STEPS),
        ("lz4", lz4(&[0; 9 << 20]), 2),
        ("zstd", zstd(&zeros), STEPS),
    ] {
        let image = bzimage(&payload, SIZE);
        let mut opening = kernel::Opening::new(&image, 9 << 20).unwrap();
        // The last one finds that nothing comes any more.
        let mut steps = 0;
        while opening.step().unwrap_or_else(|error| panic!("{what}: {error}")) {
            steps += 1;
        }
        assert_eq!(steps, wanted, "{what}");
        assert_eq!(opening.finish().unwrap_err(), Error::NotAKernel, "{what}");
    }
}

/// Were room for a whole block cleared for each of them, this would take minutes.
#[test]
fn small_blocks_cost_little() {
    const COUNT: usize = 1 << 18;
    let image = bzimage(&lz4_in_blocks(&vec![0; COUNT], 1), COUNT);
    assert_eq!(kernel::open(&image, LIMIT).unwrap_err(), Error::NotAKernel);
}

#[test]
fn an_elf_file_with_the_magic_of_a_bzimage_is_an_elf_file() {
    const MAGIC: usize = 0x202;
    let mut image = ELF.to_vec();
    image.resize(image.len().max(MAGIC + 4), 0);
    image[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
    let kernel = kernel::open(&image, LIMIT).unwrap();
    assert_eq!(kernel.guest_os, "tiny");
}

#[test]
fn bombs_are_stopped() {
    let zeros = vec![0; 4 << 20];
    for payload in [gzip(&zeros), lz4(&zeros), zstd(&zeros), XZ_BOMB.to_vec()] {
        assert_eq!(
            kernel::open(&bzimage(&payload, 100), LIMIT).unwrap_err(),
            Error::TooBig { limit: LIMIT }
        );
    }
}

#[test]
fn a_false_claim_of_length_changes_nothing() {
    for payload in [gzip(ELF), XZ.to_vec(), lz4(ELF), zstd(ELF)] {
        for claim in [0, 1, LIMIT, u32::MAX as usize] {
            assert!(kernel::open(&bzimage(&payload, claim), LIMIT).is_ok());
        }
    }
}

#[test]
fn wrong_checksums_are_noticed() {
    const TRAILER: usize = 8;
    let mut gzipped = gzip(ELF);
    let sum = gzipped.len() - TRAILER;
    gzipped[sum] ^= 1;
    let mut zstd = zstd(ELF);
    *zstd.last_mut().unwrap() ^= 1;
    let mut cut = gzip(ELF);
    cut.truncate(sum);
    for (what, image) in [("gzip", gzipped), ("gzip", cut)] {
        assert_eq!(
            kernel::open(&image, LIMIT).unwrap_err(),
            Error::CorruptPayload(what)
        );
    }
    let image = bzimage(&zstd, ELF.len());
    assert_eq!(
        kernel::open(&image, LIMIT).unwrap_err(),
        Error::CorruptPayload("zstd")
    );
}

/// Reading the same notes once for each of many headers would take hours.
#[test]
fn notes_over_notes_are_refused() {
    const HEADER: usize = 52;
    const PROGRAM: usize = 32;
    const COUNT: u16 = 1000;
    let mut elf = ELF[..HEADER].to_vec();
    elf[44..46].copy_from_slice(&COUNT.to_le_bytes());
    let all = HEADER + PROGRAM * usize::from(COUNT);
    for _ in 0..COUNT {
        for word in [4, 0, 0, 0, all as u32, all as u32, 4, 4] {
            elf.extend_from_slice(&u32::to_le_bytes(word));
        }
    }
    assert_eq!(kernel::open(&elf, LIMIT).unwrap_err(), Error::Truncated);
}

#[test]
fn unknown_files_and_formats_are_named() {
    assert_eq!(kernel::open(b"", LIMIT).unwrap_err(), Error::NotAKernel);
    assert_eq!(kernel::open(&[7; 4096], LIMIT).unwrap_err(), Error::NotAKernel);
    let bzip2 = kernel::open(&bzimage(b"BZh91AY", 100), LIMIT).unwrap_err();
    assert_eq!(bzip2, Error::UnsupportedCompression("bzip2"));
    assert!(bzip2.to_string().contains("bzip2"));
    assert_eq!(
        kernel::open(&bzimage(&gzip(b"no elf"), 6), LIMIT).unwrap_err(),
        Error::NotAKernel
    );
    let mut corrupt = XZ.to_vec();
    corrupt[40] ^= 0x55;
    assert_eq!(
        kernel::open(&bzimage(&corrupt, ELF.len()), LIMIT).unwrap_err(),
        Error::CorruptPayload("xz")
    );
}

#[test]
fn bad_elf_files_are_refused() {
    let patched = |at: usize, bytes: &[u8]| {
        let mut elf = ELF.to_vec();
        elf[at..at + bytes.len()].copy_from_slice(bytes);
        kernel::open(&elf, LIMIT).map(|_| ()).unwrap_err()
    };
    const PHDR: usize = 52;
    const NOTE: usize = 52 + 64;
    assert_eq!(patched(NOTE + 8, &[19]), Error::NoPvhNote);
    assert_eq!(
        patched(NOTE + 16, &[0, 0, 0, 0]),
        Error::EntryOutsideSegments { entry: 0 }
    );
    assert_eq!(
        patched(PHDR + 4, &[0xff; 4]),
        Error::SegmentOutsideFile { gpa: 0x10_0000 }
    );
    assert_eq!(patched(PHDR, &[2]), Error::NoSegments);
    assert_eq!(kernel::open(&ELF[..60], LIMIT).unwrap_err(), Error::Truncated);
}

#[test]
fn headers_are_checked_without_unpacking() {
    let mut corrupt = XZ.to_vec();
    corrupt[40] ^= 0x55;
    for good in [
        ELF.to_vec(),
        gzip(ELF),
        bzimage(XZ, ELF.len()),
        bzimage(&corrupt, ELF.len()),
    ] {
        assert_eq!(kernel::check_headers(&good), Ok(()));
    }
    for (bad, error) in [
        (&b"not a kernel"[..], Error::NotAKernel),
        (&ELF[..60], Error::Truncated),
        (&bzimage(XZ, ELF.len())[..1100], Error::Truncated),
        (
            &ELF[..ELF.len() - 1],
            Error::SegmentOutsideFile { gpa: 0x10_0000 },
        ),
    ] {
        assert_eq!(kernel::check_headers(bad), Err(error));
    }
}

#[test]
fn plan_puts_everything_into_ram() {
    let kernel = kernel::open(ELF, LIMIT).unwrap();
    let memory_map = layout::domu_memory_map(64 << 20);
    let ramdisk = vec![7; 5000];
    let guest = Guest {
        kernel: &kernel,
        ramdisk: Some(&ramdisk),
        command_line: "console=hvc0",
        memory_map: &memory_map,
        rsdp: 0xfc00_1000,
        flags: 0,
    };
    let plan = guest.plan().unwrap();
    assert_eq!(plan.entry, 0x10_0100);
    let (at, bytes) = plan.writes.last().unwrap();
    assert_eq!(*at, u64::from(plan.start_info));
    let (head, _) = HvmStartInfo::read_from_prefix(bytes).unwrap();
    assert_eq!(
        (head.magic, head.version, head.nr_modules),
        (XEN_HVM_START_MAGIC_VALUE, 1, 1)
    );
    let cmdline = (head.cmdline_paddr - at) as usize;
    assert_eq!(&bytes[cmdline..], b"console=hvc0\0");
    let module = (head.modlist_paddr - at) as usize;
    let place = u64::from_le_bytes(bytes[module..module + 8].try_into().unwrap());
    assert!(
        plan.writes
            .iter()
            .any(|(gpa, bytes)| *gpa == place && **bytes == *ramdisk)
    );
    assert_eq!(head.memmap_entries as usize, memory_map.len());
    for pair in plan.writes.windows(2) {
        assert!(pair[0].0 + pair[0].1.len() as u64 <= pair[1].0, "overlap");
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let kernel = kernel::open(ELF, LIMIT).unwrap();
    let plan = |mib: u64, ramdisk: &[u8]| {
        let memory_map = layout::domu_memory_map(mib << 20);
        let guest = Guest {
            kernel: &kernel,
            ramdisk: Some(ramdisk),
            command_line: "",
            memory_map: &memory_map,
            rsdp: 0,
            flags: 0,
        };
        guest.plan().map(|_| ()).unwrap_err()
    };
    assert!(matches!(
        plan(1, &[]),
        layout::Error::KernelOutsideRam { start: 0x10_0000, .. }
    ));
    assert!(matches!(
        plan(2, &[0; 4 << 20]),
        layout::Error::NoRoom { what: "ramdisk", .. }
    ));
}

#[test]
fn big_guests_go_on_above_the_hole() {
    let map = layout::domu_memory_map(8 << 30);
    let ram: u64 = map
        .iter()
        .filter(|entry| entry.type_ == 1)
        .map(|entry| entry.size)
        .sum();
    assert_eq!(ram, 8 << 30);
    assert_eq!(map.last().unwrap().addr, 1 << 32);
}

proptest! {
    /// No damage makes the loader panic, or produce segments that are not in the file.
    #[test]
    fn damage_is_survived(which in 0usize..5, cut in 0usize..2000, at in 0usize..1500, value: u8) {
        let mut image = match which {
            0 => ELF.to_vec(),
            1 => bzimage(&gzip(ELF), ELF.len()),
            2 => bzimage(XZ, ELF.len()),
            3 => bzimage(&zstd(ELF), ELF.len()),
            _ => bzimage(&lz4(ELF), ELF.len()),
        };
        image.truncate(image.len().saturating_sub(cut / 4));
        if let Some(byte) = image.get_mut(at) {
            *byte = value;
        }
        if let Ok(kernel) = kernel::open(&image, LIMIT) {
            for segment in &kernel.segments {
                prop_assert!(kernel.bytes(segment).len() as u64 <= segment.mem_size);
            }
        }
    }

    /// Whatever RAM the builder found for dom0: what is written lies in it, apart from everything else.
    #[test]
    fn plans_stay_in_ram(
        regions in prop::collection::vec((1u64..600, 1u64..600), 1..6),
        ramdisk in 0usize..2_000_000,
    ) {
        let ramdisk = vec![7; ramdisk];
        let mut at = 0;
        let memory_map: Vec<_> = regions
            .iter()
            .map(|(gap, pages)| {
                let region = layout::entry(at, pages << 12, XEN_HVM_MEMMAP_TYPE_RAM);
                at += (gap + pages) << 12;
                region
            })
            .collect();
        let kernel = kernel::open(ELF, LIMIT).unwrap();
        let guest = Guest {
            kernel: &kernel,
            ramdisk: Some(&ramdisk),
            command_line: "quiet",
            memory_map: &memory_map,
            rsdp: 0,
            flags: SIF_PRIVILEGED | SIF_INITDOMAIN,
        };
        if let Ok(plan) = guest.plan() {
            let mut end = 0;
            for (gpa, bytes) in &plan.writes {
                prop_assert!(*gpa >= end, "overlap");
                end = gpa + bytes.len() as u64;
                prop_assert!(memory_map.iter().any(|ram| ram.addr <= *gpa && end <= ram.addr + ram.size));
            }
            let (head, _) = HvmStartInfo::read_from_prefix(&plan.writes.last().unwrap().1).unwrap();
            prop_assert_eq!(head.flags, 3);
        }
    }
}
