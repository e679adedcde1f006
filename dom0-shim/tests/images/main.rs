//! File systems and images as the tools make them that people make them with: mke2fs, debugfs, mtools, qemu-img.

mod file_systems;
mod qcow2;

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Command;
use std::task::{Context, Poll, Waker};

use dom0_shim::block::ram::RamDisk;

/// The result of a future that never waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => unreachable!("disks in RAM never wait"),
    }
}

/// Runs a tool; what it printed.
fn run(tool: &str, arguments: &[&str]) -> String {
    // Where Debian has tools of administrators, which are not on everybody's path.
    let place = Path::new("/usr/sbin").join(tool);
    let tool = if place.exists() {
        place
    } else {
        PathBuf::from(tool)
    };
    let output = Command::new(&tool)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}; scripts/test installs it", tool.display()));
    assert!(output.status.success(), "{tool:?} {arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A file's bytes as a disk.
fn disk(file: &Path) -> RamDisk {
    RamDisk::read_only(std::fs::read(file).expect("the image").leak())
}
