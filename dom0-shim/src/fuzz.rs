//! What the administrator gives dom0-shim, at random: it is read, or refused with a sentence.

use crate::archive::Archive;
use crate::block::qcow2::Qcow2;
use crate::block::ram::{Budget, RamDisk, tests::now};
use crate::block::{Access, BlockDevice, file_system, partition};
use crate::cpus::CpuSet;
use crate::xlcfg::{self, disk::Disk};

#[test]
fn config() {
    bolero::check!().for_each(|text| {
        if let Ok(text) = core::str::from_utf8(text) {
            let _ = xlcfg::parse(text);
            let _ = Disk::parse(text);
        }
    });
}

#[test]
fn cpus() {
    bolero::check!().for_each(|text| {
        if let Ok(text) = core::str::from_utf8(text)
            && let Ok(set) = CpuSet::parse(text)
        {
            assert_ne!(set, CpuSet::NONE);
        }
    });
}

#[test]
fn archive() {
    bolero::check!().for_each(|image| {
        let archive = Archive::new(image);
        for path in archive.paths() {
            assert!(archive.file(path).is_some());
        }
    });
}

/// What is on disks, which domains may have written.
#[test]
fn partitions() {
    bolero::check!().for_each(|bytes| {
        let disk = disk(bytes, &[(510, &[0x55, 0xaa])]);
        for number in [1, 5, 9] {
            let _ = now(partition::find(&disk, number));
        }
    });
}

#[test]
fn ext4() {
    const MAGIC: (usize, &[u8]) = (1080, &[0x53, 0xef]);
    const FEATURES: (usize, &[u8]) = (1120, &[0x42, 0, 0, 0]);
    bolero::check!().for_each(|bytes| files(&disk(bytes, &[MAGIC, FEATURES])));
}

#[test]
fn fat() {
    const BLOCKS: (usize, &[u8]) = (11, &[0, 2, 1]);
    bolero::check!().for_each(|bytes| files(&disk(bytes, &[BLOCKS, (510, &[0x55, 0xaa])])));
}

#[test]
fn qcow2() {
    const HEADER: (usize, &[u8]) = (
        0,
        b"QFI\xfb\0\0\0\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\x40\0\0\0\0\0",
    );
    bolero::check!().for_each(|bytes| {
        for access in [Access::ReadOnly, Access::ReadWrite] {
            let Ok(image) = now(Qcow2::open(disk(bytes, &[HEADER]), 64 << 10, access)) else {
                continue;
            };
            assert_eq!(image.sectors(), 32);
            for sectors in [0..1, 1..3, 7..32] {
                let _ = now(image.read(sectors.clone(), |_| Ok(())));
                if access == Access::ReadWrite {
                    let _ = now(image.write(sectors, |_| Ok(())));
                }
            }
            let _ = now(image.flush());
        }
    });
}

fn files(disk: &RamDisk) {
    for path in ["a", "/a/b"] {
        if let Ok(contents) = now(file_system::read(disk, path, 1 << 20)) {
            assert!(contents.len() <= 1 << 20);
        }
    }
}

/// A disk of 64 KiB that begins with these bytes, but for some at places of their own.
fn disk(bytes: &[u8], fixed: &[(usize, &[u8])]) -> RamDisk {
    let disk = RamDisk::empty(64 << 10, &Budget::new(1 << 20)).expect("memory");
    let mut image = vec![0; 64 << 10];
    for (at, bytes) in [(0, bytes)].iter().chain(fixed) {
        let length = bytes.len().min(image.len() - at);
        image[*at..][..length].copy_from_slice(&bytes[..length]);
    }
    let set = |pieces: &mut [&mut [u8]]| crate::block::extents::scatter(&image, pieces);
    now(BlockDevice::write(&disk, 0..128, set)).expect("RAM");
    disk
}
