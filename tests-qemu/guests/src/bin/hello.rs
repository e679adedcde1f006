//! What a guest is given: start info, command line, modules, memory map, CPU state.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::string::String;

use abi::start_info::XEN_HVM_START_MAGIC_VALUE;
use guest_rt::start_info::StartInfo;
use guest_rt::{memory, println};
use guests::cpu;
use guests::report::Report;

guest_rt::main!(main);

fn main(info: StartInfo) -> ! {
    cpu::init();
    println!("command line: {}", info.command_line());
    for index in 0..info.module_count() {
        let module = info.module(index).unwrap_or_default();
        println!("module {index}: {}", String::from_utf8_lossy(module));
    }
    let mut report = Report::default();
    report.equal("start-info-magic", info.raw.magic, XEN_HVM_START_MAGIC_VALUE);
    let ram: u64 = memory::map()
        .iter()
        .filter(|region| region.is_ram())
        .map(|region| region.range.end - region.range.start)
        .sum();
    println!("{} MiB of RAM", ram >> 20);
    report.check("memory", ram >= 60 << 20, format!("{ram} bytes"));
    report.finish()
}
