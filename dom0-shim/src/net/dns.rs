//! Answers to DNS queries (RFC 1035) for the names of the domains on a network.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use smoltcp::wire::{DnsFlags, DnsOpcode, DnsPacket, DnsQueryType, DnsQuestion, DnsRcode};

const HEADER: usize = 12;
const CLASS_IN: u16 = 1;
/// How long (s) an answer may be kept: hosts come and go.
const TTL: u32 = 10;
/// Longest name in text form.
const NAME_MAX: usize = 253;

/// What is known of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// This is its address.
    Address(Ipv4Addr),
    /// The name is one of ours, but has no address now.
    NoAddress,
    /// It would be ours, and does not exist.
    Nonexistent,
    /// It is not ours, and there is nobody to ask.
    Unknown,
}

/// Answers a query; `find` knows the names (in lower case, without the last dot). `None`: not a query that deserves an
/// answer.
pub fn answer(query: &[u8], find: impl FnOnce(&str) -> Answer) -> Option<Vec<u8>> {
    let packet = DnsPacket::new_checked(query).ok()?;
    if packet.flags().contains(DnsFlags::RESPONSE) {
        return None;
    }
    if packet.opcode() != DnsOpcode::Query {
        return Some(reply(&packet, &[], DnsRcode::NotImp, None));
    }
    let Some((question, end)) = question(&packet, query) else {
        return Some(reply(&packet, &[], DnsRcode::FormErr, None));
    };
    let asked = query.get(HEADER..end)?;
    let Some(name) = name(&packet, question.name) else {
        return Some(reply(&packet, asked, DnsRcode::FormErr, None));
    };
    let (code, address) = match find(&name) {
        Answer::Address(address) => (DnsRcode::NoError, Some(address)),
        Answer::NoAddress => (DnsRcode::NoError, None),
        Answer::Nonexistent => (DnsRcode::NXDomain, None),
        Answer::Unknown => (DnsRcode::ServFail, None),
    };
    let address = address.filter(|_| question.type_ == DnsQueryType::A);
    Some(reply(&packet, asked, code, address))
}

/// The only question, and where it ends.
fn question<'a>(packet: &'a DnsPacket<&[u8]>, query: &[u8]) -> Option<(DnsQuestion<'a>, usize)> {
    let (rest, question) = DnsQuestion::parse(packet.payload()).ok()?;
    (packet.question_count() == 1).then_some((question, query.len() - rest.len()))
}

/// A name as text.
fn name(packet: &DnsPacket<&[u8]>, bytes: &[u8]) -> Option<String> {
    let mut text = String::new();
    for label in packet.parse_name(bytes) {
        if !text.is_empty() {
            text.push('.');
        }
        let label = core::str::from_utf8(label.ok()?).ok()?;
        text.extend(label.chars().map(|c| c.to_ascii_lowercase()));
        if text.len() > NAME_MAX {
            return None;
        }
    }
    Some(text)
}

fn reply(packet: &DnsPacket<&[u8]>, question: &[u8], code: DnsRcode, address: Option<Ipv4Addr>) -> Vec<u8> {
    let mut bytes = alloc::vec![0; HEADER];
    bytes.extend_from_slice(question);
    let mut reply = DnsPacket::new_unchecked(&mut bytes[..]);
    reply.set_transaction_id(packet.transaction_id());
    reply.set_opcode(packet.opcode());
    let asked = packet.flags() & DnsFlags::RECURSION_DESIRED;
    reply.set_flags(DnsFlags::RESPONSE | DnsFlags::AUTHORITATIVE | DnsFlags::RECURSION_AVAILABLE | asked);
    reply.set_question_count(u16::from(!question.is_empty()));
    reply.set_answer_record_count(u16::from(address.is_some()));
    // smoltcp has no setter for the code: elsewhere it only asks.
    bytes[3] |= u8::from(code);
    if let Some(address) = address {
        // The name is that of the question, by a pointer to it.
        bytes.extend(0xc000u16.wrapping_add(HEADER as u16).to_be_bytes());
        bytes.extend(
            [u16::from(DnsQueryType::A), CLASS_IN]
                .map(u16::to_be_bytes)
                .as_flattened(),
        );
        bytes.extend(TTL.to_be_bytes());
        bytes.extend(4u16.to_be_bytes());
        bytes.extend(address.octets());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use smoltcp::wire::{DnsRecord, DnsRecordData};

    const HERE: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 3);

    fn query(labels: &[&str], kind: u16) -> Vec<u8> {
        let mut bytes = [0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0].to_vec();
        for label in labels {
            bytes.push(label.len() as u8);
            bytes.extend_from_slice(label.as_bytes());
        }
        bytes.extend([0, 0, kind as u8, 0, 1]);
        bytes
    }

    fn find(name: &str) -> Answer {
        match name {
            "debian.internal" => Answer::Address(HERE),
            "gone.internal" => Answer::NoAddress,
            name if name.ends_with(".internal") => Answer::Nonexistent,
            _ => Answer::Unknown,
        }
    }

    fn ask(labels: &[&str], kind: u16) -> (DnsRcode, Option<Ipv4Addr>) {
        let reply = answer(&query(labels, kind), find).unwrap();
        let packet = DnsPacket::new_checked(&reply[..]).unwrap();
        assert_eq!((packet.transaction_id(), packet.question_count()), (0xabcd, 1));
        assert!(
            packet
                .flags()
                .contains(DnsFlags::RESPONSE | DnsFlags::RECURSION_DESIRED)
        );
        let (rest, _) = DnsQuestion::parse(packet.payload()).unwrap();
        let address = (packet.answer_record_count() == 1).then(|| match DnsRecord::parse(rest).unwrap() {
            (
                [],
                DnsRecord {
                    data: DnsRecordData::A(address),
                    ..
                },
            ) => address,
            other => panic!("{other:?}"),
        });
        (packet.rcode(), address)
    }

    #[test]
    fn names_have_addresses() {
        assert_eq!(ask(&["debian", "internal"], 1), (DnsRcode::NoError, Some(HERE)));
        assert_eq!(ask(&["Debian", "INTERNAL"], 1), (DnsRcode::NoError, Some(HERE)));
        assert_eq!(
            ask(&["debian", "internal"], 28),
            (DnsRcode::NoError, None),
            "no IPv6"
        );
        assert_eq!(ask(&["gone", "internal"], 1), (DnsRcode::NoError, None));
        assert_eq!(ask(&["other", "internal"], 1), (DnsRcode::NXDomain, None));
        assert_eq!(ask(&["debian", "org"], 1), (DnsRcode::ServFail, None));
    }

    #[test]
    fn what_is_no_query_for_one_name() {
        let code = |bytes: &[u8]| {
            answer(bytes, find).map(|reply| DnsPacket::new_checked(&reply[..]).unwrap().rcode())
        };
        let mut response = query(&["debian", "internal"], 1);
        response[2] = 0x80;
        assert_eq!(code(&response), None);
        let mut two = query(&["debian", "internal"], 1);
        two[5] = 2;
        assert_eq!(code(&two), Some(DnsRcode::FormErr));
        let mut status = query(&["debian", "internal"], 1);
        status[2] = 0x10;
        assert_eq!(code(&status), Some(DnsRcode::NotImp));
        let whole = query(&["debian", "internal"], 1);
        assert_eq!(code(&whole[..whole.len() - 1]), Some(DnsRcode::FormErr));
        assert_eq!(code(&whole[..11]), None);
        let mut itself = query(&["debian"], 1);
        itself.splice(12..20, [0xc0, 12]);
        assert_eq!(
            code(&itself),
            Some(DnsRcode::FormErr),
            "a name that points to itself"
        );
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_danger(mut bytes in prop::collection::vec(any::<u8>(), 0..200), plausible: bool) {
            if plausible && bytes.len() > 12 {
                bytes[2..6].copy_from_slice(&[1, 0, 0, 1]);
            }
            if let Some(reply) = answer(&bytes, find) {
                prop_assert!(reply.len() <= bytes.len() + 16);
            }
        }
    }
}
