//! Requests of a block ring (public/io/blkif.h): checked, then carried out.
//!
//! A request is a copy of its own, as are the segments of an indirect one. What is wrong with it is answered with
//! `BLKIF_RSP_ERROR`, what nobody offered with `BLKIF_RSP_EOPNOTSUPP`.

use alloc::vec::Vec;
use core::ops::Range;

use abi::io::blkif::{
    BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST, BLKIF_OP_DISCARD, BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_INDIRECT,
    BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_OP_WRITE_BARRIER, BLKIF_RSP_EOPNOTSUPP, BLKIF_RSP_ERROR,
    BLKIF_RSP_OKAY, BlkifRequest, BlkifRequestDiscard, BlkifRequestIndirect, BlkifRequestSegment,
    BlkifResponse,
};
use zerocopy::{FromBytes, IntoBytes};

use super::{Access, BlockDevice, Discard, Failed, Memory, SECTOR, Segment};

/// Most segments of an indirect request: 1 MiB, as Linux's back end.
pub const INDIRECT_SEGMENTS_MAX: usize = 256;

const PAGE: usize = 4096;
const SEGMENTS_PER_PAGE: usize = PAGE / size_of::<BlkifRequestSegment>();
const SECTORS_PER_PAGE: u8 = (PAGE / SECTOR) as u8;
const _: () = assert!(INDIRECT_SEGMENTS_MAX <= BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST * SEGMENTS_PER_PAGE);

/// Why a request is not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    Failed,
    Unsupported,
}

impl From<Failed> for Refusal {
    fn from(_: Failed) -> Self {
        Self::Failed
    }
}

/// Carries a request out.
pub async fn serve(
    request: &BlkifRequest,
    disk: &impl BlockDevice,
    discards: Discard,
    memory: &impl Memory,
) -> BlkifResponse {
    // Linux's front end wants to see the operation that an indirect request stands for.
    let operation = match request.operation {
        BLKIF_OP_INDIRECT => request.nr_segments,
        operation => operation,
    };
    let result = match request.operation {
        BLKIF_OP_INDIRECT => indirect(request, disk, memory).await,
        BLKIF_OP_READ | BLKIF_OP_WRITE => direct(request, disk, memory).await,
        BLKIF_OP_WRITE_BARRIER | BLKIF_OP_FLUSH_DISKCACHE => barrier(request, disk, memory).await,
        BLKIF_OP_DISCARD if discards == Discard::Offered => discard(request, disk).await,
        _ => Err(Refusal::Unsupported),
    };
    BlkifResponse {
        // The same place in all kinds of requests.
        id: request.id,
        operation,
        status: match result {
            Ok(()) => BLKIF_RSP_OKAY,
            Err(Refusal::Failed) => BLKIF_RSP_ERROR,
            Err(Refusal::Unsupported) => BLKIF_RSP_EOPNOTSUPP,
        },
        ..Default::default()
    }
}

/// More bytes than a request moves it does not.
pub fn bytes_at_most(request: &BlkifRequest) -> usize {
    let segments = match request.operation {
        BLKIF_OP_READ | BLKIF_OP_WRITE | BLKIF_OP_WRITE_BARRIER | BLKIF_OP_FLUSH_DISKCACHE => {
            request.nr_segments.into()
        }
        BLKIF_OP_INDIRECT => BlkifRequestIndirect::read_from_prefix(request.as_bytes())
            .map_or(0, |(request, _)| request.nr_segments.into()),
        _ => 0,
    };
    segments.min(INDIRECT_SEGMENTS_MAX) * PAGE
}

/// The segments in the request itself.
async fn direct(
    request: &BlkifRequest,
    disk: &impl BlockDevice,
    memory: &impl Memory,
) -> Result<(), Refusal> {
    let list = request.seg.get(..request.nr_segments.into()).ok_or(Failed)?;
    transfer(request.operation, request.sector_number, list, disk, memory).await
}

/// Segments in pages that the front end has granted.
async fn indirect(
    request: &BlkifRequest,
    disk: &impl BlockDevice,
    memory: &impl Memory,
) -> Result<(), Refusal> {
    let (request, _) = BlkifRequestIndirect::read_from_prefix(request.as_bytes()).map_err(|_| Failed)?;
    let count = usize::from(request.nr_segments);
    if count > INDIRECT_SEGMENTS_MAX {
        return Err(Refusal::Failed);
    }
    let mut list = alloc::vec![BlkifRequestSegment::default(); count];
    let mut pages = list.chunks_mut(SEGMENTS_PER_PAGE).zip(request.indirect_grefs);
    let copy = |(chunk, reference): (&mut [BlkifRequestSegment], u32)| {
        let bytes = chunk.as_mut_bytes();
        let segment = Segment {
            reference,
            offset: 0,
            length: bytes.len() as u16,
        };
        memory.copy_from(&mut [(segment, bytes)])
    };
    pages.try_for_each(copy)?;
    transfer(request.indirect_op, request.sector_number, &list, disk, memory).await
}

/// A flush, with data before it if there is any. There is no difference between the two operations: each is alone, see
/// [`super::service`].
async fn barrier(
    request: &BlkifRequest,
    disk: &impl BlockDevice,
    memory: &impl Memory,
) -> Result<(), Refusal> {
    if request.nr_segments > 0 {
        let list = request.seg.get(..request.nr_segments.into()).ok_or(Failed)?;
        transfer(BLKIF_OP_WRITE, request.sector_number, list, disk, memory).await?;
    }
    Ok(disk.flush().await?)
}

async fn discard(request: &BlkifRequest, disk: &impl BlockDevice) -> Result<(), Refusal> {
    let (request, _) = BlkifRequestDiscard::read_from_prefix(request.as_bytes()).map_err(|_| Failed)?;
    if disk.discard_granularity().is_none() {
        return Err(Refusal::Unsupported);
    }
    // Erasing for certain (`BLKIF_DISCARD_SECURE`) is not offered; Linux's back end does the other then, too.
    let sectors = within(disk, request.sector_number, request.nr_sectors)?;
    if disk.access() == Access::ReadOnly {
        return Err(Refusal::Failed);
    }
    Ok(disk.discard(sectors).await?)
}

/// Moves data between the disk, from `start` on, and the segments.
async fn transfer(
    operation: u8,
    start: u64,
    list: &[BlkifRequestSegment],
    disk: &impl BlockDevice,
    memory: &impl Memory,
) -> Result<(), Refusal> {
    let length = |at: &BlkifRequestSegment| segment(at).map(|segment| usize::from(segment.length));
    let bytes: usize = list.iter().map(length).sum::<Option<usize>>().ok_or(Failed)?;
    let segments = list.iter().filter_map(segment);
    if bytes == 0 {
        return Err(Refusal::Failed);
    }
    let sectors = within(disk, start, (bytes / SECTOR) as u64)?;
    match operation {
        BLKIF_OP_READ => {
            let take = |pieces: &[&[u8]]| {
                let pieces = pieces.iter().copied();
                memory.copy_to(&pair(segments, pieces, |piece| piece.len(), <[u8]>::split_at))
            };
            disk.read(sectors, take).await?;
        }
        BLKIF_OP_WRITE if disk.access() == Access::ReadOnly => return Err(Refusal::Failed),
        BLKIF_OP_WRITE => {
            let fill = |pieces: &mut [&mut [u8]]| {
                let pieces = pieces.iter_mut().map(|piece| &mut **piece);
                memory.copy_from(&mut pair(
                    segments,
                    pieces,
                    |piece| piece.len(),
                    <[u8]>::split_at_mut,
                ))
            };
            disk.write(sectors, fill).await?;
        }
        _ => return Err(Refusal::Failed),
    }
    Ok(())
}

/// Sectors that there are.
fn within(disk: &impl BlockDevice, start: u64, count: u64) -> Result<Range<u64>, Failed> {
    let end = start.checked_add(count).ok_or(Failed)?;
    if end <= disk.sectors() {
        Ok(start..end)
    } else {
        Err(Failed)
    }
}

/// A segment that lies in its page.
fn segment(segment: &BlkifRequestSegment) -> Option<Segment> {
    if segment.first_sect > segment.last_sect || segment.last_sect >= SECTORS_PER_PAGE {
        return None;
    }
    let count = u16::from(segment.last_sect - segment.first_sect) + 1;
    Some(Segment {
        reference: segment.gref,
        offset: u16::from(segment.first_sect) * SECTOR as u16,
        length: count * SECTOR as u16,
    })
}

/// Cuts segments and pieces of the same length in all so that each part of a segment has its piece.
fn pair<P>(
    mut segments: impl Iterator<Item = Segment>,
    pieces: impl Iterator<Item = P>,
    length: impl Fn(&P) -> usize,
    split: impl Fn(P, usize) -> (P, P),
) -> Vec<(Segment, P)> {
    let mut pairs = Vec::new();
    let mut segment = segments.next();
    for mut piece in pieces {
        while let Some(current) = segment.filter(|_| length(&piece) > 0) {
            let count = length(&piece).min(current.length.into());
            let (now, later) = split(piece, count);
            piece = later;
            let length = count as u16;
            pairs.push((Segment { length, ..current }, now));
            segment = match current.length - length {
                0 => segments.next(),
                left => Some(Segment {
                    offset: current.offset + length,
                    length: left,
                    ..current
                }),
            };
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::block::ram::tests::{contents, now};
    use crate::block::ram::{Budget, RamDisk};

    /// Pages of a front end by their grants; reads of a page that is not granted fail as the hypervisor has them fail.
    #[derive(Default)]
    struct Guest(RefCell<HashMap<u32, [u8; PAGE]>>);

    /// The grant of a page that may only be read.
    const READ_ONLY: u32 = 3;

    impl Guest {
        fn new() -> Self {
            let pages = (0..8).map(|reference| (reference, [reference as u8 + 1; PAGE]));
            Self(RefCell::new(pages.collect()))
        }

        fn with(&self, segment: Segment, work: impl FnOnce(&mut [u8])) -> Result<(), Failed> {
            let mut pages = self.0.borrow_mut();
            let page = pages.get_mut(&segment.reference).ok_or(Failed)?;
            // What leaves the page is a bug of the caller, not of the guest.
            work(&mut page[segment.offset.into()..][..segment.length.into()]);
            Ok(())
        }
    }

    impl Memory for Guest {
        fn copy_to(&self, copies: &[(Segment, &[u8])]) -> Result<(), Failed> {
            copies
                .iter()
                .try_for_each(|(segment, bytes)| match segment.reference {
                    READ_ONLY => Err(Failed),
                    _ => self.with(*segment, |page| page.copy_from_slice(bytes)),
                })
        }

        fn copy_from(&self, copies: &mut [(Segment, &mut [u8])]) -> Result<(), Failed> {
            let copy = |(segment, bytes): &mut (Segment, &mut [u8])| {
                self.with(*segment, |page| bytes.copy_from_slice(page))
            };
            copies.iter_mut().try_for_each(copy)
        }
    }

    fn seg(gref: u32, first_sect: u8, last_sect: u8) -> BlkifRequestSegment {
        BlkifRequestSegment {
            gref,
            first_sect,
            last_sect,
            pad: 0,
        }
    }

    fn request(operation: u8, sector_number: u64, segments: &[BlkifRequestSegment]) -> BlkifRequest {
        let mut request = BlkifRequest {
            operation,
            nr_segments: segments.len() as u8,
            id: 77,
            sector_number,
            ..Default::default()
        };
        for (slot, segment) in request.seg.iter_mut().zip(segments) {
            *slot = *segment;
        }
        request
    }

    fn disk(sectors: u64) -> RamDisk {
        RamDisk::empty(sectors * SECTOR as u64, &Budget::new(1 << 24)).unwrap()
    }

    fn status(request: &BlkifRequest, disk: &RamDisk, guest: &Guest) -> i16 {
        let response = now(serve(request, disk, Discard::Offered, guest));
        assert_eq!(response.id, request.id);
        response.status
    }

    #[test]
    fn writes_and_reads_across_pages_and_segments() {
        let (disk, guest) = (disk(64), Guest::new());
        let write = request(BLKIF_OP_WRITE, 5, &[seg(0, 0, 7), seg(1, 2, 3), seg(2, 7, 7)]);
        assert_eq!(status(&write, &disk, &guest), BLKIF_RSP_OKAY);
        let wanted = [
            vec![0; 5 * 512],
            vec![1; 4096],
            vec![2; 1024],
            vec![3; 512],
            vec![0; 512],
        ]
        .concat();
        assert_eq!(contents(&disk, 0..17), wanted);
        let read = request(BLKIF_OP_READ, 12, &[seg(7, 1, 5)]);
        assert_eq!(status(&read, &disk, &guest), BLKIF_RSP_OKAY);
        let page = guest.0.borrow()[&7];
        assert_eq!(page[512..6 * 512], wanted[12 * 512..17 * 512]);
        assert!(page[..512].iter().chain(&page[6 * 512..]).all(|&byte| byte == 8));
        for flush in [BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_WRITE_BARRIER] {
            assert_eq!(status(&request(flush, 0, &[]), &disk, &guest), BLKIF_RSP_OKAY);
            assert_eq!(
                status(&request(flush, 63, &[seg(4, 0, 0)]), &disk, &guest),
                BLKIF_RSP_OKAY
            );
            assert_eq!(contents(&disk, 63..64), [5; 512]);
        }
        let mut discard = request(BLKIF_OP_DISCARD, 0, &[]);
        discard.seg[0] = seg(64, 0, 0);
        let refused = now(serve(&discard, &disk, Discard::Refused, &guest));
        assert_eq!(refused.status, BLKIF_RSP_EOPNOTSUPP);
        assert_eq!(contents(&disk, 63..64), [5; 512]);
        assert_eq!(status(&discard, &disk, &guest), BLKIF_RSP_OKAY);
        assert_eq!(contents(&disk, 0..64), [0; 64 * 512]);
    }

    #[test]
    fn indirect_requests_list_their_segments_elsewhere() {
        let (disk, guest) = (disk(4096), Guest::new());
        let list: Vec<_> = (0..INDIRECT_SEGMENTS_MAX).map(|_| seg(1, 0, 7)).collect();
        guest.0.borrow_mut().get_mut(&6).unwrap()[..list.len() * 8].copy_from_slice(list.as_bytes());
        let with = |indirect_op, nr_segments, reference| {
            let mut indirect_grefs = [99; BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST];
            indirect_grefs[0] = reference;
            let indirect = BlkifRequestIndirect {
                operation: BLKIF_OP_INDIRECT,
                indirect_op,
                nr_segments,
                id: 9,
                sector_number: 8,
                indirect_grefs,
                ..Default::default()
            };
            let mut request = BlkifRequest::default();
            request.as_mut_bytes()[..size_of_val(&indirect)].copy_from_slice(indirect.as_bytes());
            now(serve(&request, &disk, Discard::Offered, &guest))
        };
        let done = with(BLKIF_OP_WRITE, INDIRECT_SEGMENTS_MAX as u16, 6);
        assert_eq!(
            (done.id, done.operation, done.status),
            (9, BLKIF_OP_WRITE, BLKIF_RSP_OKAY)
        );
        assert_eq!(contents(&disk, 0..9), [vec![0; 4096], vec![2; 512]].concat());
        for (operation, count, reference) in [
            (BLKIF_OP_WRITE, INDIRECT_SEGMENTS_MAX as u16 + 1, 6),
            (BLKIF_OP_WRITE, u16::MAX, 6),
            (BLKIF_OP_WRITE, 0, 6),
            (BLKIF_OP_WRITE, 1, 99),
            (BLKIF_OP_INDIRECT, 1, 6),
            (BLKIF_OP_WRITE, 2, 7),
        ] {
            assert_eq!(
                with(operation, count, reference).status,
                BLKIF_RSP_ERROR,
                "{operation} {count}"
            );
        }
    }

    #[test]
    fn bad_requests_are_errors() {
        let (disk, guest) = (disk(64), Guest::new());
        let good = seg(0, 0, 7);
        for (request, wanted) in [
            (request(BLKIF_OP_READ, 57, &[good]), BLKIF_RSP_ERROR),
            (request(BLKIF_OP_READ, u64::MAX, &[good]), BLKIF_RSP_ERROR),
            (request(BLKIF_OP_WRITE, 1 << 55, &[good]), BLKIF_RSP_ERROR),
            (request(BLKIF_OP_READ, 0, &[]), BLKIF_RSP_ERROR),
            (request(BLKIF_OP_READ, 0, &[good; 12]), BLKIF_RSP_ERROR),
            (request(BLKIF_OP_READ, 0, &[seg(0, 0, 8)]), BLKIF_RSP_ERROR),
            (request(BLKIF_OP_READ, 0, &[seg(0, 5, 4)]), BLKIF_RSP_ERROR),
            (request(BLKIF_OP_READ, 0, &[good, seg(99, 0, 7)]), BLKIF_RSP_ERROR),
            (
                request(BLKIF_OP_READ, 0, &[seg(READ_ONLY, 0, 7)]),
                BLKIF_RSP_ERROR,
            ),
            (
                request(BLKIF_OP_WRITE, 0, &[seg(READ_ONLY, 0, 7)]),
                BLKIF_RSP_OKAY,
            ),
            (request(4, 0, &[good]), BLKIF_RSP_EOPNOTSUPP),
            (request(255, 0, &[good]), BLKIF_RSP_EOPNOTSUPP),
        ] {
            assert_eq!(status(&request, &disk, &guest), wanted, "{request:?}");
        }
        let disk = RamDisk::read_only(&[7; 4096]);
        assert_eq!(
            status(&request(BLKIF_OP_READ, 0, &[good]), &disk, &guest),
            BLKIF_RSP_OKAY
        );
        assert_eq!(guest.0.borrow()[&0], [7; 4096]);
        assert_eq!(
            status(&request(BLKIF_OP_WRITE, 0, &[good]), &disk, &guest),
            BLKIF_RSP_ERROR
        );
        assert_eq!(
            status(&request(BLKIF_OP_WRITE_BARRIER, 0, &[good]), &disk, &guest),
            BLKIF_RSP_ERROR
        );
        assert_eq!(
            status(&request(BLKIF_OP_DISCARD, 0, &[]), &disk, &guest),
            BLKIF_RSP_EOPNOTSUPP
        );
    }

    proptest! {
        /// Any bytes are a request: it is answered, and nothing outside the disk or the pages is touched.
        #[test]
        fn stands_any_request(
            noise in prop::array::uniform32(any::<u8>()),
            operation in 0_u8..8, count in 0_u8..14, sector in prop_oneof![0_u64..80, any::<u64>()],
            references in prop::collection::vec((0_u32..10, 0_u8..10, 0_u8..10), 14),
        ) {
            let (disk, guest) = (disk(64), Guest::new());
            guest.0.borrow_mut().get_mut(&5).unwrap()[..32].copy_from_slice(&noise);
            let segments: Vec<_> = references.iter().map(|&(gref, first, last)| seg(gref, first, last)).collect();
            let mut request = request(operation, sector, &segments[..count.into()]);
            request.seg[0].pad = u16::from(noise[0]);
            request.nr_segments = if noise[1] < 20 { noise[2] } else { count };
            let response = now(serve(&request, &disk, Discard::Offered, &guest));
            prop_assert!([BLKIF_RSP_OKAY, BLKIF_RSP_ERROR, BLKIF_RSP_EOPNOTSUPP].contains(&response.status));
            prop_assert_eq!(response.id, 77);
        }

        /// Data comes back as it was written, however it was cut.
        #[test]
        fn what_is_written_is_read(
            start in 0_u64..20,
            cuts in prop::collection::vec((0_u32..3, 0_u8..8, 0_u8..8), 1..11),
        ) {
            let (disk, guest) = (disk(120), Guest::new());
            for (index, byte) in guest.0.borrow_mut().iter_mut().flat_map(|(_, page)| page).enumerate() {
                *byte = ((index * 31) >> 4) as u8;
            }
            let list = |base: u32| -> Vec<_> {
                // Each segment in its own page on the way back would take more pages than there are: the last wins.
                cuts.iter().map(|&(page, a, b)| seg(base + page, a.min(b), a.max(b))).collect()
            };
            prop_assert_eq!(status(&request(BLKIF_OP_WRITE, start, &list(0)), &disk, &guest), BLKIF_RSP_OKAY);
            let mut wanted = Vec::new();
            for segment in list(0).iter().map(segment) {
                let segment = segment.unwrap();
                guest.with(segment, |page| wanted.extend_from_slice(page)).unwrap();
            }
            let end = start + (wanted.len() / SECTOR) as u64;
            prop_assert_eq!(contents(&disk, start..end), &wanted[..]);
            prop_assert_eq!(status(&request(BLKIF_OP_READ, start, &list(4)), &disk, &guest), BLKIF_RSP_OKAY);
            let last = segment(list(4).last().unwrap()).unwrap();
            let tail = wanted[wanted.len() - usize::from(last.length)..].to_vec();
            guest.with(last, |page| assert_eq!(page, tail)).unwrap();
        }
    }
}
