//! The wire between an interface of smoltcp's and a switch.

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpProtocol, Ipv4Packet, Ipv4Repr,
    UdpPacket, UdpRepr,
};

use super::packet::{ETHERNET_HEADER, Mac};

/// Largest IP packet.
pub const MTU: u16 = 1500;
/// Frames that may wait to be taken; what is more is lost, as on any wire.
pub const OUTPUT_MAX: usize = 256;

/// An Ethernet frame.
pub fn ethernet(from: Mac, to: Mac, ethertype: EthernetProtocol, payload: &[u8]) -> Vec<u8> {
    let repr = EthernetRepr {
        src_addr: EthernetAddress(from.0),
        dst_addr: EthernetAddress(to.0),
        ethertype,
    };
    let mut bytes = vec![0; repr.buffer_len() + payload.len()];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    repr.emit(&mut frame);
    frame.payload_mut().copy_from_slice(payload);
    bytes
}

/// An end of a datagram's way.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// The host's Ethernet address.
    pub mac: Mac,
    /// Its address.
    pub address: Ipv4Addr,
    /// UDP port.
    pub port: u16,
}

/// A frame with a datagram.
pub fn datagram(from: End, to: End, payload: &[u8]) -> Vec<u8> {
    let checksums = ChecksumCapabilities::default();
    let udp = UdpRepr {
        src_port: from.port,
        dst_port: to.port,
    };
    let ip = Ipv4Repr {
        src_addr: from.address,
        dst_addr: to.address,
        next_header: IpProtocol::Udp,
        payload_len: udp.header_len() + payload.len(),
        hop_limit: 64,
    };
    let mut bytes = vec![0; ip.buffer_len() + ip.payload_len];
    let mut packet = Ipv4Packet::new_unchecked(&mut bytes);
    ip.emit(&mut packet, &checksums);
    udp.emit(
        &mut UdpPacket::new_unchecked(packet.payload_mut()),
        &from.address.into(),
        &to.address.into(),
        payload.len(),
        |into| into.copy_from_slice(payload),
        &checksums,
    );
    ethernet(from.mac, to.mac, EthernetProtocol::Ipv4, &bytes)
}

/// System time (ns) as smoltcp has it.
pub fn instant(now: u64) -> Instant {
    Instant::from_micros(i64::try_from(now / 1000).unwrap_or(i64::MAX))
}

/// The other way round.
pub fn nanoseconds(instant: Instant) -> u64 {
    u64::try_from(instant.total_micros())
        .unwrap_or(0)
        .saturating_mul(1000)
}

/// The interface's end of the wire: one frame in, several out.
#[derive(Default)]
pub struct Wire {
    /// What the interface finds when it looks next.
    pub input: Option<Vec<u8>>,
    /// What it has sent.
    pub output: VecDeque<Vec<u8>>,
}

impl Wire {
    /// Sends a frame.
    pub fn send(&mut self, frame: Vec<u8>) {
        if self.output.len() < OUTPUT_MAX {
            self.output.push_back(frame);
        }
    }
}

impl Device for Wire {
    type RxToken<'a> = Input;
    type TxToken<'a> = Output<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Input, Output<'_>)> {
        let frame = self.input.take()?;
        Some((Input(frame), Output(self)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Output<'_>> {
        (self.output.len() < OUTPUT_MAX).then_some(Output(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = usize::from(MTU) + ETHERNET_HEADER;
        capabilities
    }
}

/// The frame that has come in.
pub struct Input(Vec<u8>);

impl RxToken for Input {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, use_it: F) -> R {
        use_it(&self.0)
    }
}

/// Room for one frame.
pub struct Output<'a>(&'a mut Wire);

impl TxToken for Output<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut frame = vec![0; length];
        let result = fill(&mut frame);
        self.0.send(frame);
        result
    }
}
