//! A ring of block requests in the layout of the front end's kernel, which may be one of 32 bits.

use core::mem::offset_of;

use abi::io::blkif::{
    BlkifRequest, BlkifRequestDiscard, BlkifRequestIndirect, BlkifResponse, XEN_IO_PROTO_ABI_X86_32,
    XEN_IO_PROTO_ABI_X86_64,
};
use zerocopy::IntoBytes;

use crate::backend::ring::{BackRing, Broken, Shared};

/// A layout of requests and responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Protocol {
    /// What front ends speak that do not say what they do.
    #[default]
    X86_64,
    /// Without the padding that aligns 64-bit fields.
    X86_32,
}

/// Bytes before a request's padding, which all kinds have in the same place.
const HEAD: usize = 4;
const PADDING: usize = 4;
const REQUEST_32: usize = size_of::<BlkifRequest>() - PADDING;
/// A response ends in its padding.
const RESPONSE_32: usize = size_of::<BlkifResponse>() - PADDING;
const _: () = assert!(
    offset_of!(BlkifRequest, id) == HEAD + PADDING
        && offset_of!(BlkifRequestDiscard, id) == HEAD + PADDING
        && offset_of!(BlkifRequestIndirect, id) == HEAD + PADDING
        && offset_of!(BlkifResponse, pad1) == RESPONSE_32
);

impl Protocol {
    /// The one that the node `protocol` names.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            XEN_IO_PROTO_ABI_X86_64 => Some(Protocol::X86_64),
            XEN_IO_PROTO_ABI_X86_32 => Some(Protocol::X86_32),
            _ => None,
        }
    }

    fn slot(self) -> usize {
        match self {
            Protocol::X86_64 => size_of::<BlkifRequest>(),
            Protocol::X86_32 => REQUEST_32,
        }
    }
}

/// The back end's half of a block ring.
#[derive(Debug)]
pub struct BlockRing<M> {
    ring: BackRing<M>,
    protocol: Protocol,
}

impl<M: Shared> BlockRing<M> {
    /// Takes up a ring.
    ///
    /// # Errors
    /// As [`BackRing::attach`].
    pub fn attach(shared: M, protocol: Protocol) -> Result<Self, Broken> {
        let ring = BackRing::attach(shared, protocol.slot())?;
        Ok(Self { ring, protocol })
    }

    /// How many requests fit.
    pub fn entries(&self) -> u32 {
        self.ring.entries()
    }

    /// Takes the next request, if there is one.
    ///
    /// # Errors
    /// The ring is broken.
    pub fn take(&mut self) -> Result<Option<BlkifRequest>, Broken> {
        match self.protocol {
            Protocol::X86_64 => self.ring.take(),
            Protocol::X86_32 => Ok(self.ring.take()?.map(|slot: [u8; REQUEST_32]| {
                let mut request = BlkifRequest::default();
                let (head, rest) = request.as_mut_bytes().split_at_mut(HEAD);
                head.copy_from_slice(&slot[..HEAD]);
                rest[PADDING..].copy_from_slice(&slot[HEAD..]);
                request
            })),
        }
    }

    /// Writes a response, to be published with others.
    pub fn answer(&mut self, response: &BlkifResponse) {
        match self.protocol {
            Protocol::X86_64 => self.ring.answer(response),
            Protocol::X86_32 => {
                let mut slot = [0; RESPONSE_32];
                slot.copy_from_slice(&response.as_bytes()[..RESPONSE_32]);
                self.ring.answer(&slot);
            }
        }
    }

    /// Publishes the responses written. Returns whether the front end wants an event.
    #[must_use = "the front end may wait for an event"]
    pub fn publish(&mut self) -> bool {
        self.ring.publish()
    }

    /// To be called before waiting for an event. Returns whether there are requests already, for which none may come.
    ///
    /// # Errors
    /// The ring is broken.
    pub fn ask_for_event(&mut self) -> Result<bool, Broken> {
        self.ring.ask_for_event()
    }
}

#[cfg(test)]
mod tests {
    use abi::io::blkif::{BLKIF_OP_DISCARD, BLKIF_OP_INDIRECT, BLKIF_OP_READ};
    use abi::io::ring::{SRING_HEADER_SIZE, SringHeader};
    use zerocopy::FromBytes;

    use super::*;
    use crate::backend::ring::tests::Pages;

    /// A slot of a 32-bit front end: requests are 108 bytes long, with the id at 4, the sector at 12, and the rest from 20 on.
    fn slot(head: [u8; 4], id: u64, sector: u64, rest: &[u8]) -> [u8; 108] {
        let mut slot = [0; 108];
        slot[..4].copy_from_slice(&head);
        slot[4..12].copy_from_slice(&id.to_le_bytes());
        slot[12..20].copy_from_slice(&sector.to_le_bytes());
        slot[20..20 + rest.len()].copy_from_slice(rest);
        slot
    }

    #[test]
    fn a_32_bit_front_end_is_understood() {
        let pages = Pages::new(1);
        let mut ring = BlockRing::attach(&pages, Protocol::X86_32).expect("zeros are a ring");
        assert_eq!(ring.entries(), 32);
        let segment = [7, 0, 0, 0, 2, 5, 0, 0];
        let reads = slot([BLKIF_OP_READ, 1, 0, 0], 0x1122_3344_5566_7788, 9, &segment);
        let forgets = slot([BLKIF_OP_DISCARD, 0, 0, 0], 2, 16, &24_u64.to_le_bytes());
        let grants = [0, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0];
        let indirect = slot([BLKIF_OP_INDIRECT, BLKIF_OP_READ, 3, 1], 3, 8, &grants);
        for (index, request) in [reads, forgets, indirect].iter().enumerate() {
            Shared::write(&&pages, SRING_HEADER_SIZE + index * 108, request);
        }
        Shared::store(&&pages, offset_of!(SringHeader, req_prod), 3);

        let request = ring.take().expect("whole").expect("announced");
        assert_eq!((request.operation, request.nr_segments), (BLKIF_OP_READ, 1));
        assert_eq!((request.id, request.sector_number), (0x1122_3344_5566_7788, 9));
        let [first, ..] = request.seg;
        assert_eq!((first.gref, first.first_sect, first.last_sect), (7, 2, 5));
        let request = ring.take().expect("whole").expect("announced");
        let (discard, _) = BlkifRequestDiscard::read_from_prefix(request.as_bytes()).expect("its size");
        assert_eq!((discard.sector_number, discard.nr_sectors), (16, 24));
        let request = ring.take().expect("whole").expect("announced");
        let (indirect, _) = BlkifRequestIndirect::read_from_prefix(request.as_bytes()).expect("its size");
        assert_eq!((indirect.indirect_op, indirect.nr_segments), (BLKIF_OP_READ, 259));
        assert_eq!(indirect.indirect_grefs[..3], [5, 6, 0]);
        assert_eq!(ring.take().map(|request| request.is_none()), Ok(true));

        for id in [1, 0x8877_6655_4433_2211] {
            ring.answer(&BlkifResponse {
                id,
                operation: 6,
                status: -2,
                ..Default::default()
            });
        }
        let mut bytes = [0; 12];
        Shared::read(&&pages, SRING_HEADER_SIZE + 108, &mut bytes);
        assert_eq!(
            bytes,
            [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 6, 0, 0xfe, 0xff]
        );
    }

    #[test]
    fn protocols() {
        assert_eq!(Protocol::named("x86_64-abi"), Some(Protocol::X86_64));
        assert_eq!(Protocol::named("x86_32-abi"), Some(Protocol::X86_32));
        assert_eq!(Protocol::named("arm-abi"), None);
    }
}
