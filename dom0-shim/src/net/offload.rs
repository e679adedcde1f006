//! Checksums and segmentation in software, for receivers that want packets complete.
//!
//! Lengths and offsets in a packet are the sender's; whatever does not hold together is [`Malformed`].

use alloc::vec::Vec;

use super::packet::{Checksum, ETHERNET_HEADER, Family, Mac, Packet, VLAN_TAG};
use super::wire::OUTPUT_MAX;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;
const TCP: u8 = 6;
const UDP: u8 = 17;
const TCP_FIN: u8 = 0x01;
const TCP_PSH: u8 = 0x08;
const TCP_CWR: u8 = 0x80;

/// Extension headers of IPv6 that are looked past.
const EXTENSIONS_MAX: usize = 8;
/// Segments that one packet may be cut into: as many as a gateway takes at once. Those of the least size that every host
/// takes (536 bytes: RFC 9293, 3.7.1) are half as many.
pub const SEGMENTS_MAX: usize = OUTPUT_MAX;

/// A packet that says of itself what is not so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Where the parts of a TCP or UDP packet are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    family: Family,
    /// Start of the IP header.
    network: usize,
    /// Start of the TCP or UDP header.
    transport: usize,
    protocol: u8,
    /// End of the IP packet; padding may follow.
    end: usize,
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, Malformed> {
    let pair = bytes.get(at..).and_then(|rest| rest.first_chunk());
    pair.map(|pair| u16::from_be_bytes(*pair)).ok_or(Malformed)
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) -> Result<(), Malformed> {
    let place = bytes.get_mut(at..).and_then(|rest| rest.get_mut(..value.len()));
    place.ok_or(Malformed)?.copy_from_slice(value);
    Ok(())
}

/// Where the header of the Internet Protocol begins, behind VLAN tags.
pub(super) fn network(frame: &[u8]) -> Result<(Family, usize), Malformed> {
    let mut at = ETHERNET_HEADER;
    let mut kind = u16_at(frame, at - 2)?;
    for _ in 0..2 {
        if matches!(kind, ETHERTYPE_VLAN | ETHERTYPE_QINQ) {
            at += VLAN_TAG;
            kind = u16_at(frame, at - 2)?;
        }
    }
    match kind {
        ETHERTYPE_IPV4 => Ok((Family::V4, at)),
        ETHERTYPE_IPV6 => Ok((Family::V6, at)),
        _ => Err(Malformed),
    }
}

/// Finds the headers of a TCP or UDP packet that is not a fragment.
fn layout(frame: &[u8]) -> Result<Layout, Malformed> {
    let (family, at) = network(frame)?;
    let packet = frame.get(at..).ok_or(Malformed)?;
    let (header, protocol, length) = match family {
        Family::V4 => ipv4(packet)?,
        Family::V6 => ipv6(packet)?,
    };
    let least = match protocol {
        TCP => 20,
        UDP => 8,
        _ => return Err(Malformed),
    };
    if length > packet.len() || header + least > length {
        return Err(Malformed);
    }
    Ok(Layout {
        family,
        network: at,
        transport: at + header,
        protocol,
        end: at + length,
    })
}

/// The Internet Protocol of a TCP or UDP packet.
pub fn family(frame: &[u8]) -> Option<Family> {
    layout(frame).ok().map(|at| at.family)
}

/// Where the TCP header of a packet begins that has one and is not a fragment.
pub(super) fn tcp(frame: &[u8]) -> Option<usize> {
    let at = layout(frame).ok()?;
    (at.protocol == TCP).then_some(at.transport)
}

/// Length of the headers before the transport's, its protocol, and the length of the whole.
type Network = (usize, u8, usize);

fn ipv4(packet: &[u8]) -> Result<Network, Malformed> {
    let header: &[u8; 20] = packet.first_chunk().ok_or(Malformed)?;
    let length = usize::from(header[0] & 0xf) * 4;
    let fragment = u16_at(packet, 6)? & 0x3fff;
    if header[0] >> 4 != 4 || length < 20 || fragment != 0 {
        return Err(Malformed);
    }
    Ok((length, header[9], usize::from(u16_at(packet, 2)?)))
}

fn ipv6(packet: &[u8]) -> Result<Network, Malformed> {
    let header: &[u8; 40] = packet.first_chunk().ok_or(Malformed)?;
    if header[0] >> 4 != 6 {
        return Err(Malformed);
    }
    let length = 40 + usize::from(u16_at(packet, 4)?);
    let (mut protocol, mut at) = (header[6], 40);
    for _ in 0..EXTENSIONS_MAX {
        // Hop-by-hop, routing, destination options: next header, length beyond the first 8 bytes in units of 8.
        if !matches!(protocol, 0 | 43 | 60) {
            break;
        }
        let [next, units] = u16_at(packet, at)?.to_be_bytes();
        protocol = next;
        at += (usize::from(units) + 1) * 8;
    }
    Ok((at, protocol, length))
}

/// Adds 16-bit words, big-endian; an odd byte counts as if a zero followed.
pub(super) fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let whole: u64 = words
        .iter()
        .map(|word| u64::from(u32::from_be_bytes(*word)))
        .sum();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    whole + u64::from(u32::from_be_bytes(last))
}

/// Folds a sum of words to the 16 bits of a checksum field, not yet complemented.
pub(super) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

/// Calculates the TCP or UDP checksum.
fn fill(frame: &mut [u8], at: Layout) -> Result<(), Malformed> {
    let offset = match at.protocol {
        TCP => 16,
        _ => 6,
    };
    put(frame, at.transport + offset, &[0, 0])?;
    let addresses = match at.family {
        Family::V4 => at.network + 12..at.network + 20,
        Family::V6 => at.network + 8..at.network + 40,
    };
    let body = frame.get(at.transport..at.end).ok_or(Malformed)?;
    let pseudo = sum(frame.get(addresses).ok_or(Malformed)?) + u64::from(at.protocol) + body.len() as u64;
    let value = match (!fold(pseudo + sum(body)), at.protocol) {
        // To UDP, zero says that there is no checksum.
        (0, UDP) => 0xffff,
        (value, _) => value,
    };
    put(frame, at.transport + offset, &value.to_be_bytes())
}

/// Checks that what the sender left to do can be done: the checksum of a TCP or UDP packet, the segments of a TCP one.
///
/// # Errors
/// It cannot; the packet is of no use.
pub fn check(packet: &Packet) -> Result<(), Malformed> {
    if packet.checksum != Checksum::Blank && packet.segments.is_none() {
        return Ok(());
    }
    let at = layout(&packet.bytes)?;
    match packet.segments {
        Some(_) => cut(packet, at).map(|_| ()),
        None => Ok(()),
    }
}

/// Bytes of the largest frame that a packet becomes on a wire.
pub fn wire_length(packet: &Packet) -> usize {
    let whole = packet.bytes.len();
    match (packet.segments, layout(&packet.bytes)) {
        (Some(_), Ok(at)) => cut(packet, at).map_or(whole, |cut| whole.min(cut.header + cut.size)),
        _ => whole,
    }
}

/// Fills the checksum in, where it is missing.
///
/// # Errors
/// There is no place for one.
pub fn fill_checksum(packet: &mut Packet) -> Result<(), Malformed> {
    if packet.checksum == Checksum::Blank {
        let at = layout(&packet.bytes)?;
        fill(&mut packet.bytes, at)?;
        packet.checksum = Checksum::Validated;
    }
    Ok(())
}

/// How a packet is cut.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// Bytes of all headers.
    header: usize,
    /// Bytes of payload in each segment but the last.
    size: usize,
}

fn cut(packet: &Packet, at: Layout) -> Result<Cut, Malformed> {
    let segments = packet.segments.ok_or(Malformed)?;
    let data_offset = packet.bytes.get(at.transport + 12).ok_or(Malformed)? >> 4;
    let header = at.transport + usize::from(data_offset) * 4;
    let size = usize::from(segments.size);
    let fits = at.protocol == TCP && at.family == segments.family && data_offset >= 5 && header < at.end;
    // TCP is between two hosts; a group's packet would be cut for each of its hosts.
    let to_one = Mac::destination(&packet.bytes).is_some_and(Mac::is_unicast);
    if !fits || !to_one || size == 0 || (at.end - header).div_ceil(size) > SEGMENTS_MAX {
        return Err(Malformed);
    }
    Ok(Cut { header, size })
}

/// Cuts a packet into segments with all checksums; one that is not to be cut is only completed.
///
/// # Errors
/// It is not a TCP packet of the kind that its sender says.
pub fn complete(packet: &Packet) -> Result<Vec<Packet>, Malformed> {
    if packet.segments.is_none() {
        let mut packet = packet.clone();
        fill_checksum(&mut packet)?;
        return Ok([packet].into());
    }
    let at = layout(&packet.bytes)?;
    let Cut { header, size } = cut(packet, at)?;
    let (head, rest) = packet.bytes.split_at_checked(header).ok_or(Malformed)?;
    let payload = rest.get(..at.end - header).ok_or(Malformed)?;
    let count = payload.len().div_ceil(size);
    let chunks = payload.chunks(size).enumerate();
    chunks
        .map(|(index, chunk)| {
            segment(
                head,
                chunk,
                at,
                Part {
                    index,
                    size,
                    last: index + 1 == count,
                },
            )
        })
        .collect()
}

/// One of the segments of a packet.
struct Part {
    index: usize,
    size: usize,
    last: bool,
}

fn segment(head: &[u8], chunk: &[u8], at: Layout, part: Part) -> Result<Packet, Malformed> {
    let mut bytes = [head, chunk].concat();
    let at = Layout {
        end: bytes.len(),
        ..at
    };
    let length = bytes.len() - at.network;
    match at.family {
        Family::V4 => {
            put(&mut bytes, at.network + 2, &(length as u16).to_be_bytes())?;
            let id = u16_at(&bytes, at.network + 4)?.wrapping_add(part.index as u16);
            put(&mut bytes, at.network + 4, &id.to_be_bytes())?;
            put(&mut bytes, at.network + 10, &[0, 0])?;
            let header = bytes.get(at.network..at.transport).ok_or(Malformed)?;
            let checksum = !fold(sum(header));
            put(&mut bytes, at.network + 10, &checksum.to_be_bytes())?;
        }
        Family::V6 => put(&mut bytes, at.network + 4, &((length - 40) as u16).to_be_bytes())?,
    }
    let sequence: &[u8; 4] = bytes
        .get(at.transport + 4..)
        .and_then(|rest| rest.first_chunk())
        .ok_or(Malformed)?;
    let sequence = u32::from_be_bytes(*sequence).wrapping_add((part.index * part.size) as u32);
    put(&mut bytes, at.transport + 4, &sequence.to_be_bytes())?;
    let flags = bytes.get_mut(at.transport + 13).ok_or(Malformed)?;
    if !part.last {
        *flags &= !(TCP_FIN | TCP_PSH);
    }
    if part.index > 0 {
        *flags &= !TCP_CWR;
    }
    fill(&mut bytes, at)?;
    Ok(Packet {
        bytes,
        checksum: Checksum::Validated,
        segments: None,
    })
}

#[cfg(test)]
#[path = "offload_tests.rs"]
mod tests;
