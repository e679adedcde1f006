//! Hypercall operations that a domain may use on itself, called well and badly, with the answer expected; each that reads or
//! writes memory is called with a pointer to none. What a toolstack does to other domains is in the guest `toolstack`.
//!
//! Negative expectations are what Xen 4.17 answers.
#![no_std]
#![no_main]

extern crate alloc;

mod events;
mod grants;
mod memory;
mod others;
mod pointers;
mod registers;
mod vcpus;
mod version;

use alloc::format;

use abi::Errno;
use guest_rt::start_info::StartInfo;
use guests::cpu;
use guests::frames::Frames;
use guests::hypercall::{UNMAPPED, call, error_code};
use guests::report::Report;

guest_rt::main!(main);

/// Answers as a C caller sees them.
const EFAULT: i64 = error_code(Errno::EFAULT);
const EINVAL: i64 = error_code(Errno::EINVAL);
const ENOENT: i64 = error_code(Errno::ENOENT);
const ENOSYS: i64 = error_code(Errno::ENOSYS);
const ENXIO: i64 = error_code(Errno::ENXIO);
const EPERM: i64 = error_code(Errno::EPERM);
const ESRCH: i64 = error_code(Errno::ESRCH);
const EEXIST: i64 = error_code(Errno::EEXIST);
const ETIME: i64 = error_code(Errno::ETIME);

/// A domain that does not exist.
const NOBODY: u16 = 0x1234;

/// Frames that may be given away and taken back.
const SPARE: usize = 16;

static FRAMES: Frames<SPARE> = Frames::new();

/// The first of the spare frames.
fn spare() -> u64 {
    FRAMES.first()
}

fn main(_: StartInfo) -> ! {
    cpu::init();
    let mut report = Report::default();
    // First, as it wants events that come by two levels.
    registers::registers(&mut report);
    version::version(&mut report);
    memory::memory(&mut report);
    events::events(&mut report);
    vcpus::vcpu(&mut report);
    vcpus::sched(&mut report);
    vcpus::hvm(&mut report);
    grants::grants(&mut report);
    others::others(&mut report);
    pointers::pointers(&mut report);
    others::platform(&mut report);
    report.finish()
}

/// Pointers that are none: what every operation with an argument must refuse.
fn bad_pointers(report: &mut Report, name: &str, number: u32, sub: u32) {
    for (kind, address) in [("unmapped", UNMAPPED), ("last-bytes", u64::MAX - 3)] {
        let answer = call(number, [sub.into(), address, 0, 0, 0]);
        report.equal(&format!("{name}-{kind}"), answer, EFAULT);
    }
}
