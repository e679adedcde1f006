//! What is on disks of the machine: partitions, and files in file systems.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use dom0_shim::block::extents::{Extent, Extents};
use dom0_shim::block::{Access, BlockDevice, SECTOR, Unusable, file_system, partition};
use dom0_shim::xlcfg::disk::Place;

use super::{Machine, MachineDisk, VirtioDisk};

/// A disk or a partition, to be read by this domain itself.
type Volume = Extents<Rc<VirtioDisk>>;

impl Machine {
    /// Opens a place as a domain's disk: all of its sectors, and how many bytes are meant by it, since a file may end within
    /// its last block.
    ///
    /// # Errors
    /// A sentence: there is nothing there, or it is in use.
    pub async fn open(&self, place: &Place, access: Access) -> Result<(Extents<MachineDisk>, u64), String> {
        let failed = |error: &dyn fmt::Display| format!("{place}: {error}");
        let Some(path) = &place.file else {
            let (disk, start, volume) = self.volume(place).await?;
            let sectors = start..start + volume.sectors();
            let claimed = if place.partition.is_some() {
                sectors
            } else {
                0..u64::MAX
            };
            let disk = disk.claim([claimed], access).map_err(|error| failed(&error))?;
            let bytes = volume.sectors() * SECTOR as u64;
            return match place.partition {
                None => Ok((Extents::whole(disk, access), bytes)),
                Some(_) => {
                    let extents = [extent(start, volume.sectors())];
                    let part = Extents::new(disk, &extents, volume.sectors(), access);
                    Ok((part.map_err(|error| failed(&error))?, bytes))
                }
            };
        };
        let (disk, start, volume) = self.volume(place).await?;
        let file = file_system::find(&volume, path)
            .await
            .map_err(|error| failed(&error))?;
        // Within the volume, and so within the partition.
        let sectors = file.extents.iter().map(|extent| extent.sectors).sum();
        Extents::new(&volume, &file.extents, sectors, Access::ReadOnly).map_err(|error| failed(&error))?;
        let absolute = |part: &Extent| Extent {
            start: part.start.map(|at| start + at),
            ..*part
        };
        let extents: Vec<Extent> = file.extents.iter().map(absolute).collect();
        let own = extents.iter().filter_map(Extent::on_disk);
        let disk = disk.claim(own, access).map_err(|error| failed(&error))?;
        let file_of_disk = Extents::new(disk, &extents, sectors, access);
        Ok((file_of_disk.map_err(|error| failed(&error))?, file.bytes))
    }

    /// The contents of a file.
    ///
    /// # Errors
    /// A sentence: there is no such file, or it has more than `most` bytes.
    pub async fn read_file(&self, place: &Place, most: u64) -> Result<Vec<u8>, String> {
        let path = place
            .file
            .as_deref()
            .ok_or_else(|| format!("{place}: names no file"))?;
        let (_, _, volume) = self.volume(place).await?;
        let contents = file_system::read(&volume, path, most).await;
        contents.map_err(|error| format!("{place}: {error}"))
    }

    fn disk_of(&self, place: &Place) -> Result<&Rc<VirtioDisk>, String> {
        let found = self.disk(&place.disk);
        found.ok_or_else(|| format!("/dev/{}: this machine has no such disk", place.disk))
    }

    /// What may have a file system: the disk, where the volume begins, and the volume.
    async fn volume(&self, place: &Place) -> Result<(&Rc<VirtioDisk>, u64, Volume), String> {
        let disk = self.disk_of(place)?;
        let Some(number) = place.partition else {
            return Ok((disk, 0, Extents::whole(disk.clone(), Access::ReadOnly)));
        };
        let failed = |Unusable(error)| format!("/dev/{}{number}: {error}", place.disk);
        let part = partition::find(disk, number).await.map_err(failed)?;
        let sectors = part.end - part.start;
        let extents = [extent(part.start, sectors)];
        let volume = Extents::new(disk.clone(), &extents, sectors, Access::ReadOnly);
        Ok((disk, part.start, volume.map_err(|error| failed(Unusable(error)))?))
    }
}

fn extent(start: u64, sectors: u64) -> Extent {
    Extent {
        start: Some(start),
        sectors,
    }
}
