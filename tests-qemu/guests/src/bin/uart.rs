//! UARTs of the machine: the console's is hidden from dom0, another is dom0's.
#![no_std]
#![no_main]

use guest_rt::port::{inb, outb};
use guest_rt::start_info::StartInfo;
use guests::report::Report;

guest_rt::main!(main);

/// A register that keeps what is written and does nothing (16550 datasheet).
const SCRATCH: u16 = 7;

/// The command line is the first port of the console's UART, and of the other.
fn main(info: StartInfo) -> ! {
    let mut report = Report::default();
    let mut ports = info.command_line().split(' ').flat_map(str::parse::<u16>);
    let (console, other) = (ports.next().unwrap_or(0), ports.next().unwrap_or(0));
    outb(console + SCRATCH, 0x5a);
    let hidden = (console..console + 8).all(|port| inb(port) == 0xff);
    report.check("console-hidden", hidden, "one of its ports is not all ones");
    for value in [0x5a, 0xa5] {
        outb(other + SCRATCH, value);
        report.equal("other-scratch", inb(other + SCRATCH), value);
    }
    report.finish()
}
