//! What the administrator gives dom0-shim, at random: it is read, or refused with a sentence.

use crate::archive::Archive;
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
