//! What is behind a domain's disk.

use alloc::format;
use alloc::string::String;
use core::ops::Range;

use dom0_shim::block::extents::Extents;
use dom0_shim::block::qcow2::{Header, Qcow2};
use dom0_shim::block::ram::{NoMemory, RamDisk};
use dom0_shim::block::{Access, BlockDevice, BlockSizes, Failed, SECTOR};
use dom0_shim::xlcfg::disk::{Disk, Format, Target};

use crate::guest::Host;
use crate::guest::machine::MachineDisk;

/// What is behind a disk.
pub enum Data {
    /// In RAM.
    Ram(RamDisk),
    /// On a disk of the machine.
    Machine(Extents<MachineDisk>),
    /// In an image in RAM.
    Qcow2InRam(Qcow2<RamDisk>),
    /// In an image on a disk of the machine.
    Qcow2OnMachine(Qcow2<Extents<MachineDisk>>),
}

impl Data {
    /// Gives it another size.
    ///
    /// # Errors
    /// A sentence: it cannot have one, or there is not enough memory.
    pub fn resize(&self, host: &Host, bytes: u64) -> Result<(), String> {
        match self {
            Self::Ram(disk) if disk.access() == Access::ReadWrite => disk
                .resize(bytes, &host.disk_memory)
                .map_err(|error| no_memory(host, error)),
            _ => Err("only a disk in RAM that can be written can be given another size".into()),
        }
    }
}

fn no_memory(host: &Host, _: NoMemory) -> String {
    format!(
        "not enough memory: {} MiB are left for disks",
        host.disk_memory.left() >> 20
    )
}

impl BlockDevice for Data {
    fn sectors(&self) -> u64 {
        match self {
            Self::Ram(disk) => disk.sectors(),
            Self::Machine(disk) => disk.sectors(),
            Self::Qcow2InRam(disk) => disk.sectors(),
            Self::Qcow2OnMachine(disk) => disk.sectors(),
        }
    }

    fn access(&self) -> Access {
        match self {
            Self::Ram(disk) => disk.access(),
            Self::Machine(disk) => disk.access(),
            Self::Qcow2InRam(disk) => disk.access(),
            Self::Qcow2OnMachine(disk) => disk.access(),
        }
    }

    fn block_sizes(&self) -> BlockSizes {
        match self {
            Self::Ram(disk) => disk.block_sizes(),
            Self::Machine(disk) => disk.block_sizes(),
            Self::Qcow2InRam(disk) => disk.block_sizes(),
            Self::Qcow2OnMachine(disk) => disk.block_sizes(),
        }
    }

    fn takes_time(&self) -> bool {
        match self {
            Self::Ram(disk) => disk.takes_time(),
            Self::Machine(disk) => disk.takes_time(),
            Self::Qcow2InRam(disk) => disk.takes_time(),
            Self::Qcow2OnMachine(disk) => disk.takes_time(),
        }
    }

    fn memory(&self, bytes: usize) -> usize {
        match self {
            Self::Ram(disk) => disk.memory(bytes),
            Self::Machine(disk) => disk.memory(bytes),
            Self::Qcow2InRam(disk) => disk.memory(bytes),
            Self::Qcow2OnMachine(disk) => disk.memory(bytes),
        }
    }

    fn discard_granularity(&self) -> Option<u32> {
        match self {
            Self::Ram(disk) => disk.discard_granularity(),
            Self::Machine(disk) => disk.discard_granularity(),
            Self::Qcow2InRam(disk) => disk.discard_granularity(),
            Self::Qcow2OnMachine(disk) => disk.discard_granularity(),
        }
    }

    async fn read(
        &self,
        sectors: Range<u64>,
        take: impl FnOnce(&[&[u8]]) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        match self {
            Self::Ram(disk) => disk.read(sectors, take).await,
            Self::Machine(disk) => disk.read(sectors, take).await,
            Self::Qcow2InRam(disk) => disk.read(sectors, take).await,
            Self::Qcow2OnMachine(disk) => disk.read(sectors, take).await,
        }
    }

    async fn write(
        &self,
        sectors: Range<u64>,
        fill: impl FnOnce(&mut [&mut [u8]]) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        match self {
            Self::Ram(disk) => disk.write(sectors, fill).await,
            Self::Machine(disk) => disk.write(sectors, fill).await,
            Self::Qcow2InRam(disk) => disk.write(sectors, fill).await,
            Self::Qcow2OnMachine(disk) => disk.write(sectors, fill).await,
        }
    }

    async fn flush(&self) -> Result<(), Failed> {
        match self {
            Self::Ram(disk) => disk.flush().await,
            Self::Machine(disk) => disk.flush().await,
            Self::Qcow2InRam(disk) => disk.flush().await,
            Self::Qcow2OnMachine(disk) => disk.flush().await,
        }
    }

    async fn discard(&self, sectors: Range<u64>) -> Result<(), Failed> {
        match self {
            Self::Ram(disk) => disk.discard(sectors).await,
            Self::Machine(disk) => disk.discard(sectors).await,
            Self::Qcow2InRam(disk) => disk.discard(sectors).await,
            Self::Qcow2OnMachine(disk) => disk.discard(sectors).await,
        }
    }
}

/// Opens what is behind a disk.
///
/// # Errors
/// A sentence: no such image or disk, the disk is in use, not enough memory.
pub async fn open(host: &Host, disk: &Disk) -> Result<Data, String> {
    let no_memory = |error| format!("{}: {}", disk.vdev, no_memory(host, error));
    let data = match (&disk.target, disk.format) {
        (Target::Ram(bytes), _) => Data::Ram(RamDisk::empty(*bytes, &host.disk_memory).map_err(no_memory)?),
        (Target::Machine(place), format) => {
            let (extents, bytes) = host.machine.open(place, disk.access).await?;
            match format {
                Format::Raw => Data::Machine(extents.first(bytes / SECTOR as u64)),
                Format::Qcow2 => {
                    let image = Qcow2::open(extents, bytes, disk.access).await;
                    Data::Qcow2OnMachine(image.map_err(|error| format!("{place}: {error}"))?)
                }
            }
        }
        (Target::File(path), format) => {
            let image = host.archive.file(path);
            let image = image.ok_or_else(|| format!("{path}: no such file in the boot archive"))?;
            match (format, disk.access) {
                (Format::Raw, Access::ReadOnly) => Data::Ram(RamDisk::read_only(image)),
                (Format::Raw, Access::ReadWrite) => {
                    Data::Ram(RamDisk::copy_on_write(image, &host.disk_memory).map_err(no_memory)?)
                }
                (Format::Qcow2, access) => {
                    let broken = |error| format!("{path}: {error}");
                    let mut bytes = image.len() as u64;
                    let below = match access {
                        Access::ReadOnly => RamDisk::padded(image),
                        Access::ReadWrite => {
                            bytes = Header::parse(image).map_err(broken)?.grown(bytes);
                            RamDisk::with_room(image, bytes, &host.disk_memory).map_err(no_memory)?
                        }
                    };
                    Data::Qcow2InRam(Qcow2::open(below, bytes, access).await.map_err(broken)?)
                }
            }
        }
    };
    if data.sectors() == 0 {
        return Err(format!("{}: is no disk image: it is empty", disk.vdev));
    }
    Ok(data)
}
