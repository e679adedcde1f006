//! What packets cost between two domains on a bridge, in ticks of the time-stamp counter; all domains' work is in it, as
//! they share a CPU.
//!
//! It takes two: with `echo` on the command line it sends back what comes, without it it measures. Both wait blocked, as
//! the drivers of a real kernel do.
#![no_std]
#![no_main]

use abi::io::netif::NetifTxRequest;
use guest_rt::println;
use guest_rt::start_info::StartInfo;
use guests::cpu;
use guests::netfront::{BUFFERS, FIRST_BUFFER, Netfront, PACKET};
use guests::report::Report;

guest_rt::main!(main);

/// The one that measures, and the one that sends back.
const MACS: [[u8; 6]; 2] = [[0, 0x16, 0x3e, 0, 0, 1], [0, 0x16, 0x3e, 0, 0, 2]];
/// For experiments (IEEE 802).
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];
/// Each measurement is the least of so many.
const TRIES: u32 = 50;
/// The first packets find the bridge without knowledge of addresses.
const WARM_UP: u32 = 3;

fn main(info: StartInfo) -> ! {
    let mut report = Report::default();
    let mut front = Netfront::new();
    report.check("connect", front.connect(), "refused");
    front.post(FIRST_BUFFER..FIRST_BUFFER + BUFFERS);
    let echo = info.command_line().contains("echo");
    let [own, other] = if echo { [MACS[1], MACS[0]] } else { MACS };
    front.fill(&[&other[..], &own, &ETHERTYPE].concat());
    if echo {
        send_back(&mut front);
    }
    for (name, size, packets) in [
        ("packet, 60 bytes", 60, 1),
        ("packet, 1514 bytes", 1514, 1),
        ("one of 16, 60 bytes", 60, 16),
        ("one of 16, 1514 bytes", 1514, 16),
    ] {
        let ticks = (0..TRIES)
            .map(|_| round(&mut front, size, packets))
            .skip(WARM_UP as usize)
            .min();
        // There and back.
        println!("BENCH {name}: {}", ticks.unwrap_or(0) / u64::from(2 * packets));
    }
    report.finish()
}

/// Sends packets of a size, and waits until as many have come back.
fn round(front: &mut Netfront, size: u16, packets: u32) -> u64 {
    let start = cpu::tsc();
    for _ in 0..packets {
        send(front, size);
    }
    front.publish(None);
    let mut back = 0;
    while back < packets {
        front.sleep();
        while let Some((gref, _)) = front.take_received() {
            front.post([gref].into_iter());
            back += 1;
        }
    }
    let end = cpu::tsc();
    front.take_answers();
    end - start
}

fn send_back(front: &mut Netfront) -> ! {
    println!("READY");
    loop {
        front.sleep();
        let mut any = false;
        while let Some((gref, size)) = front.take_received() {
            front.post([gref].into_iter());
            send(front, size);
            any = true;
        }
        if any {
            front.publish(None);
        }
        front.take_answers();
    }
}

fn send(front: &mut Netfront, size: u16) {
    front.put(&NetifTxRequest {
        gref: PACKET,
        offset: 0,
        flags: 0,
        id: 0,
        size,
    });
}
