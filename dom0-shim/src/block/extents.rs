//! Parts of a disk, put together to one: a partition, or a file where the file system has it.

use alloc::vec::Vec;
use core::ops::Range;

use super::{Access, BlockDevice, BlockSizes, Failed, SECTOR, zeros};

/// Adjacent sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where they are on the disk; `None` if nowhere: they read as zeros.
    pub start: Option<u64>,
    /// How many.
    pub sectors: u64,
}

impl Extent {
    /// The sectors on the disk.
    pub fn on_disk(&self) -> Option<Range<u64>> {
        let start = self.start?;
        Some(start..start.checked_add(self.sectors)?)
    }

    /// Adds adjacent sectors to a list, to its last extent if they follow that on the disk.
    pub fn append(self, list: &mut Vec<Self>) {
        match list.last_mut() {
            _ if self.sectors == 0 => {}
            Some(last) if last.start.map(|start| start.saturating_add(last.sectors)) == self.start => {
                last.sectors += self.sectors;
            }
            _ => list.push(self),
        }
    }
}

/// Parts of `D` as a disk.
pub struct Extents<D> {
    disk: D,
    /// With the sector of this disk that each begins at.
    list: Vec<(u64, Extent)>,
    /// How many of them; `None`: as many as the disk has.
    sectors: Option<u64>,
    access: Access,
}

impl<D: BlockDevice> Extents<D> {
    /// All of a disk, whatever its size becomes.
    pub fn whole(disk: D, access: Access) -> Self {
        let all = Extent {
            start: Some(0),
            sectors: u64::MAX,
        };
        Self {
            disk,
            list: Vec::from([(0, all)]),
            sectors: None,
            access,
        }
    }

    /// The first `sectors` of what the extents make up.
    ///
    /// # Errors
    /// The disk has fewer sectors, the extents are fewer, or it is to be written and there are some that are nowhere.
    pub fn new(disk: D, extents: &[Extent], sectors: u64, access: Access) -> Result<Self, &'static str> {
        let mut list = Vec::new();
        let mut at: u64 = 0;
        for extent in extents {
            if extent.start.is_none() && access == Access::ReadWrite {
                return Err("it has holes, where nothing can be written; copying it fills them");
            }
            if extent.start.is_some() && extent.on_disk().is_none_or(|place| place.end > disk.sectors()) {
                return Err("it goes beyond the end of the disk");
            }
            list.push((at, *extent));
            at = at.checked_add(extent.sectors).ok_or("it is too large")?;
        }
        if at < sectors {
            return Err("part of it is missing");
        }
        Ok(Self {
            disk,
            list,
            sectors: Some(sectors),
            access,
        })
    }

    /// Only the first sectors of it.
    pub fn first(self, sectors: u64) -> Self {
        match sectors < self.sectors() {
            true => Self {
                sectors: Some(sectors),
                ..self
            },
            false => self,
        }
    }

    /// The parts that `sectors` are in.
    fn parts(&self, sectors: Range<u64>) -> impl Iterator<Item = Extent> {
        let first = self
            .list
            .partition_point(|(at, extent)| at + extent.sectors <= sectors.start);
        let list = self.list.get(first..).unwrap_or_default().iter();
        list.take_while(move |(at, _)| *at < sectors.end)
            .map(move |(at, extent)| {
                let (from, to) = (sectors.start.max(*at), sectors.end.min(at + extent.sectors));
                Extent {
                    start: extent.start.map(|start| start + (from - at)),
                    sectors: to - from,
                }
            })
    }

    /// Where `sectors` are on the disk if they are there in one piece.
    fn in_one(&self, sectors: &Range<u64>) -> Option<Range<u64>> {
        let place = self.parts(sectors.clone()).next()?.on_disk()?;
        (place.end - place.start == sectors.end - sectors.start).then_some(place)
    }
}

impl<D: BlockDevice> BlockDevice for Extents<D> {
    fn sectors(&self) -> u64 {
        self.sectors.unwrap_or_else(|| self.disk.sectors())
    }

    fn access(&self) -> Access {
        self.access
    }

    fn block_sizes(&self) -> BlockSizes {
        self.disk.block_sizes()
    }

    fn takes_time(&self) -> bool {
        self.disk.takes_time()
    }

    fn memory(&self, bytes: usize) -> usize {
        let put_together = if self.list.len() > 1 { bytes } else { 0 };
        put_together + self.disk.memory(bytes)
    }

    fn discard_granularity(&self) -> Option<u32> {
        // Of several parts each begins where it likes, so what the disk discards together is not together in them all.
        let granularity = self.disk.discard_granularity()?;
        (self.access == Access::ReadWrite && self.list.len() == 1).then_some(granularity)
    }

    async fn read(
        &self,
        sectors: Range<u64>,
        take: impl FnOnce(&[&[u8]]) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        if let Some(place) = self.in_one(&sectors) {
            return self.disk.read(place, take).await;
        }
        let mut data = zeros((sectors.end - sectors.start) as usize * SECTOR)?;
        let mut rest = &mut data[..];
        for part in self.parts(sectors) {
            let (room, after) = rest.split_at_mut(part.sectors as usize * SECTOR);
            if let Some(place) = part.on_disk() {
                self.disk.read(place, |pieces| gather(pieces, room)).await?;
            }
            rest = after;
        }
        take(&[&data])
    }

    async fn write(
        &self,
        sectors: Range<u64>,
        fill: impl FnOnce(&mut [&mut [u8]]) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        if let Some(place) = self.in_one(&sectors) {
            return self.disk.write(place, fill).await;
        }
        let mut data = zeros((sectors.end - sectors.start) as usize * SECTOR)?;
        fill(&mut [&mut data])?;
        let mut rest = &data[..];
        for part in self.parts(sectors) {
            let (bytes, after) = rest.split_at(part.sectors as usize * SECTOR);
            let place = part.on_disk().ok_or(Failed)?;
            self.disk.write(place, |pieces| scatter(bytes, pieces)).await?;
            rest = after;
        }
        Ok(())
    }

    async fn flush(&self) -> Result<(), Failed> {
        self.disk.flush().await
    }

    async fn discard(&self, sectors: Range<u64>) -> Result<(), Failed> {
        for part in self.parts(sectors) {
            self.disk.discard(part.on_disk().ok_or(Failed)?).await?;
        }
        Ok(())
    }
}

/// Copies pieces into one that is as long as all of them.
pub(crate) fn gather(pieces: &[&[u8]], mut room: &mut [u8]) -> Result<(), Failed> {
    for piece in pieces {
        let (now, later) = room.split_at_mut_checked(piece.len()).ok_or(Failed)?;
        now.copy_from_slice(piece);
        room = later;
    }
    Ok(())
}

/// Copies bytes into pieces that are as long as they.
pub(crate) fn scatter(mut bytes: &[u8], pieces: &mut [&mut [u8]]) -> Result<(), Failed> {
    for piece in pieces {
        let (now, later) = bytes.split_at_checked(piece.len()).ok_or(Failed)?;
        piece.copy_from_slice(now);
        bytes = later;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::block::ram::tests::{contents, fill, now};
    use crate::block::ram::{Budget, RamDisk};

    fn extent(start: u64, sectors: u64) -> Extent {
        Extent {
            start: Some(start),
            sectors,
        }
    }

    fn ram(sectors: u64) -> RamDisk {
        RamDisk::empty(sectors * 512, &Budget::new(1 << 20)).unwrap()
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (extents, sectors, access, error) in [
            (vec![extent(90, 11)], 11, Access::ReadOnly, "beyond the end"),
            (vec![extent(u64::MAX, 2)], 1, Access::ReadOnly, "beyond the end"),
            (vec![extent(0, 3)], 4, Access::ReadOnly, "is missing"),
            (
                vec![Extent {
                    start: None,
                    sectors: 9,
                }],
                9,
                Access::ReadWrite,
                "has holes",
            ),
            (
                vec![
                    Extent {
                        start: None,
                        sectors: u64::MAX
                    };
                    2
                ],
                9,
                Access::ReadOnly,
                "too large",
            ),
        ] {
            let disk = Extents::new(ram(100), &extents, sectors, access);
            let said = disk.err().unwrap_or("");
            assert!(said.contains(error), "{extents:?}: {said}");
        }
    }

    #[test]
    fn all_of_a_disk() {
        let disk = Extents::whole(ram(16), Access::ReadOnly);
        assert_eq!(
            (disk.sectors(), disk.access(), disk.discard_granularity()),
            (16, Access::ReadOnly, None)
        );
        assert_eq!(contents(&disk, 8..16), [0; 4096]);
    }

    #[test]
    fn holes_are_zeros() {
        let disk = ram(40);
        fill(&disk, 0..40, 7);
        let hole = Extent {
            start: None,
            sectors: 2,
        };
        let disk = Extents::new(disk, &[extent(8, 2), hole, extent(1, 1)], 5, Access::ReadOnly).unwrap();
        let wanted: Vec<u8> = [7, 7, 0, 0, 7].into_iter().flat_map(|byte| [byte; 512]).collect();
        assert_eq!(contents(&disk, 0..5), wanted);
        assert_eq!(contents(&disk, 2..4), [0; 1024]);
    }

    #[test]
    fn adjacent_sectors_become_one_extent() {
        let mut list = Vec::new();
        for part in [
            extent(4, 2),
            extent(6, 1),
            extent(9, 0),
            extent(8, 1),
            extent(9, 3),
        ] {
            part.append(&mut list);
        }
        for _ in 0..2 {
            Extent {
                start: None,
                sectors: 1,
            }
            .append(&mut list);
        }
        let hole = Extent {
            start: None,
            sectors: 2,
        };
        assert_eq!(list, [extent(4, 3), extent(8, 4), hole]);
    }

    proptest! {
        /// As the same writes to an array; sectors of the disk that are no part of it stay as they are.
        #[test]
        fn behaves_as_an_array(
            cuts in prop::collection::vec(1_u64..9, 1..6),
            moves in prop::collection::vec((0_u64..40, 0_u64..40, any::<u8>()), 1..20),
        ) {
            // In reverse order on the disk, one sector between any two.
            let mut place = 60;
            let mut list = Vec::new();
            for &cut in &cuts {
                place -= cut + 1;
                list.push(extent(place, cut));
            }
            let total: u64 = cuts.iter().sum();
            let disk = ram(60);
            fill(&disk, 0..60, 0xee);
            let disk = std::rc::Rc::new(disk);
            let parts = Extents::new(disk.clone(), &list, total, Access::ReadWrite).unwrap();
            let mut model = vec![0xee_u8; total as usize * 512];
            for (a, b, byte) in moves {
                let (a, b) = (a % total, b % total + 1);
                let range = a.min(b - 1)..b.max(a + 1);
                fill(&parts, range.clone(), byte);
                model[range.start as usize * 512..range.end as usize * 512].fill(byte);
                prop_assert_eq!(&contents(&parts, range.clone()),
                    &model[range.start as usize * 512..range.end as usize * 512]);
            }
            prop_assert_eq!(contents(&parts, 0..total), model);
            prop_assert_eq!(now(parts.flush()), Ok(()));
            for extent in &list {
                prop_assert_eq!(contents(&disk, extent.start.unwrap() + extent.sectors..extent.start.unwrap() + extent.sectors + 1), [0xee; 512]);
            }
        }
    }
}
