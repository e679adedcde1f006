//! Virtio disks (virtio 1.2, 5.2).
//!
//! A request owns what the device reads and writes until the device has finished, whoever still waits for it.
// UNSAFETY: buffers are the device's while a request is under way.
#![expect(unsafe_code, reason = "buffers belong to a device for a while")]

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::fmt;
use core::ops::{Deref, Range};

use dom0_shim::block::claim::{Claim, InUse, Users};
use dom0_shim::block::{Access, BlockDevice, BlockSizes, Failed, SECTOR, zeros};
use dom0_shim::executor::Signal;
use dom0_shim::supply::{Share, Supply};
use guest_rt::virtio::Identity;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::transport::{InterruptStatus, Transport};

use super::Interrupted;

bitflags::bitflags! {
    /// Features that are asked for.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Features: u64 {
        const READ_ONLY = 1 << 5;
        const BLOCK_SIZE = 1 << 6;
        const FLUSH = 1 << 9;
        const TOPOLOGY = 1 << 10;
        const DISCARD = 1 << 13;
        const VERSION_1 = 1 << 32;
    }
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Read = 0,
    Write = 1,
    Flush = 4,
    Discard = 11,
}

/// Offsets in the device's configuration.
mod config {
    pub const CAPACITY: usize = 0;
    pub const BLOCK_SIZE: usize = 20;
    pub const PHYSICAL_BLOCK_EXPONENT: usize = 24;
    pub const MAX_DISCARD_SECTORS: usize = 36;
    pub const DISCARD_ALIGNMENT: usize = 44;
}

/// Entries of the queue.
const ENTRIES: usize = 64;
/// Entries that a request takes: header, data, status.
const ENTRIES_OF_REQUEST: usize = 3;
const QUEUE: u16 = 0;
const OKAY: u8 = 0;
/// Largest block, as with Linux.
const BLOCK_MAX: u32 = 4096;

/// How sectors can be discarded.
#[derive(Clone, Copy, Debug)]
struct Discard {
    /// At most so many at once.
    max: u32,
    /// Bytes that are discarded together.
    granularity: u32,
}

/// A request that the device has.
struct Request {
    operation: Operation,
    header: Box<[u8; 16]>,
    data: Vec<u8>,
    status: Box<[u8; 1]>,
    answer: Rc<Answer>,
    _room: Share,
}

impl Request {
    /// Calls `work` with what the device reads, and what it writes.
    fn buffers<R>(&mut self, work: impl for<'a> FnOnce(&'a [&'a [u8]], &'a mut [&'a mut [u8]]) -> R) -> R {
        let (header, data, status) = (&self.header[..], &mut self.data[..], &mut self.status[..]);
        match self.operation {
            Operation::Read => work(&[header], &mut [data, status]),
            Operation::Flush => work(&[header], &mut [status]),
            Operation::Write | Operation::Discard => work(&[header, data], &mut [status]),
        }
    }
}

/// What becomes of a request: its data, unless it has failed.
#[derive(Default)]
struct Answer {
    result: Cell<Option<Result<Vec<u8>, Failed>>>,
    there: Signal,
}

struct Device {
    transport: PciTransport,
    queue: VirtQueue<Identity, ENTRIES>,
    requests: BTreeMap<u16, Request>,
}

/// A disk of the machine.
pub struct VirtioDisk {
    device: RefCell<Device>,
    /// Requests that there is room for in the queue.
    room: Supply,
    sectors: Cell<u64>,
    /// Set when that has changed.
    resized: Signal,
    block_sizes: BlockSizes,
    access: Access,
    flushes: bool,
    discard: Option<Discard>,
    users: Users,
}

impl fmt::Display for VirtioDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = match self.access {
            Access::ReadOnly => ", read only",
            Access::ReadWrite => "",
        };
        write!(f, "virtio disk, {} MiB{access}", self.sectors.get() >> 11)
    }
}

impl VirtioDisk {
    /// Starts the device, which sets `resized` when it has another size.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn start(mut transport: PciTransport, resized: Signal) -> Result<Self, String> {
        let text = |error: virtio_drivers::Error| error.to_string();
        let features = transport.begin_init(Features::all());
        let queue = VirtQueue::new(&mut transport, QUEUE, false, false).map_err(text)?;
        let sectors = capacity(&transport).map_err(text)?;
        let discard = if features.contains(Features::DISCARD) {
            let read = |offset| transport.read_config_space::<u32>(offset).map_err(text);
            let alignment = read(config::DISCARD_ALIGNMENT)?.max(1);
            Some(Discard {
                max: read(config::MAX_DISCARD_SECTORS)?.max(1),
                granularity: alignment.saturating_mul(SECTOR as u32),
            })
        } else {
            None
        };
        let block_sizes = block_sizes(&transport, features)?;
        transport.finish_init();
        Ok(Self {
            device: RefCell::new(Device {
                transport,
                queue,
                requests: BTreeMap::new(),
            }),
            room: Supply::new(ENTRIES / ENTRIES_OF_REQUEST),
            sectors: Cell::new(sectors),
            resized,
            block_sizes,
            access: match features.contains(Features::READ_ONLY) {
                true => Access::ReadOnly,
                false => Access::ReadWrite,
            },
            flushes: features.contains(Features::FLUSH),
            discard,
            users: Users::default(),
        })
    }

    /// Sets sectors of it aside for a domain.
    ///
    /// # Errors
    /// A sentence: they cannot be written, or somebody else uses some of them.
    pub fn claim(
        self: &Rc<Self>,
        sectors: impl IntoIterator<Item = Range<u64>>,
        access: Access,
    ) -> Result<MachineDisk, String> {
        if access == Access::ReadWrite && self.access == Access::ReadOnly {
            return Err("it can only be read".to_string());
        }
        let claim = self
            .users
            .claim(sectors, access)
            .map_err(|InUse| "it is in use, and would be written by one of its users".to_string())?;
        Ok(MachineDisk {
            disk: self.clone(),
            _claim: claim,
        })
    }

    /// Has the device carry out a request; returns its data.
    async fn submit(&self, operation: Operation, sector: u64, data: Vec<u8>) -> Result<Vec<u8>, Failed> {
        let room = self.room.take(1).await;
        let answer = Rc::new(Answer::default());
        let mut header = Box::new([0; 16]);
        header[..4].copy_from_slice(&(operation as u32).to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        let mut request = Request {
            operation,
            header,
            data,
            status: Box::new([u8::MAX]),
            answer: answer.clone(),
            _room: room,
        };
        {
            let device = &mut *self.device.borrow_mut();
            // SAFETY: all of the buffers are on the heap; they stay as they are in `requests` until the device is done.
            let added = request.buffers(|inputs, outputs| unsafe { device.queue.add(inputs, outputs) });
            device.requests.insert(added.map_err(|_| Failed)?, request);
            if device.queue.should_notify() {
                device.transport.notify(QUEUE);
            }
        }
        loop {
            answer.there.wait().await;
            if let Some(result) = answer.result.take() {
                return result;
            }
        }
    }
}

impl Interrupted for VirtioDisk {
    fn interrupted(&self) {
        let device = &mut *self.device.borrow_mut();
        let why = device.transport.ack_interrupt();
        if why.contains(InterruptStatus::DEVICE_CONFIGURATION_INTERRUPT)
            && let Ok(sectors) = capacity(&device.transport)
            && self.sectors.replace(sectors) != sectors
        {
            self.resized.notify();
        }
        while let Some(token) = device.queue.peek_used() {
            let Some(mut request) = device.requests.remove(&token) else {
                // A device that answers what nobody asked cannot be trusted with more.
                break;
            };
            let popped = request.buffers(|inputs, outputs| {
                // SAFETY: the same buffers as in `submit`.
                unsafe { device.queue.pop_used(token, inputs, outputs) }
            });
            let done = popped.is_ok() && *request.status == [OKAY];
            let result = if done { Ok(request.data) } else { Err(Failed) };
            request.answer.result.set(Some(result));
            request.answer.there.notify();
        }
    }
}

/// A device's sectors.
fn capacity(transport: &PciTransport) -> virtio_drivers::Result<u64> {
    transport.read_consistent(|| {
        // The device's registers are to be read in double words (virtio 1.2, 4.1.3.1).
        let low = transport.read_config_space::<u32>(config::CAPACITY)?;
        let high = transport.read_config_space::<u32>(config::CAPACITY + 4)?;
        Ok(u64::from(high) << 32 | u64::from(low))
    })
}

/// Sizes of a device's blocks. One that has larger ones than it is asked for is not used.
fn block_sizes(transport: &PciTransport, features: Features) -> Result<BlockSizes, String> {
    let text = |error: virtio_drivers::Error| error.to_string();
    let mut sizes = BlockSizes::default();
    if features.contains(Features::BLOCK_SIZE) {
        sizes.logical = transport
            .read_config_space::<u32>(config::BLOCK_SIZE)
            .map_err(text)?;
        sizes.physical = sizes.logical;
    }
    if !sizes.logical.is_power_of_two() || !(SECTOR as u32..=BLOCK_MAX).contains(&sizes.logical) {
        return Err(alloc::format!("its blocks have {} bytes", sizes.logical));
    }
    if features.contains(Features::TOPOLOGY) {
        let exponent = transport
            .read_config_space::<u8>(config::PHYSICAL_BLOCK_EXPONENT)
            .map_err(text)?;
        sizes.physical = sizes
            .logical
            .checked_shl(exponent.into())
            .unwrap_or(sizes.logical);
    }
    Ok(sizes)
}

/// Sectors of a disk of the machine in use; the use ends when dropped.
pub struct MachineDisk {
    disk: Rc<VirtioDisk>,
    _claim: Claim,
}

impl Deref for MachineDisk {
    type Target = VirtioDisk;

    fn deref(&self) -> &VirtioDisk {
        &self.disk
    }
}

fn bytes(sectors: &Range<u64>) -> usize {
    (sectors.end - sectors.start) as usize * SECTOR
}

impl BlockDevice for VirtioDisk {
    fn sectors(&self) -> u64 {
        self.sectors.get()
    }

    fn block_sizes(&self) -> BlockSizes {
        self.block_sizes
    }

    fn access(&self) -> Access {
        self.access
    }

    fn takes_time(&self) -> bool {
        true
    }

    fn memory(&self, bytes: usize) -> usize {
        bytes
    }

    fn discard_granularity(&self) -> Option<u32> {
        let discard = self.discard.filter(|_| self.access == Access::ReadWrite)?;
        Some(discard.granularity)
    }

    async fn read(
        &self,
        sectors: Range<u64>,
        take: impl FnOnce(&[&[u8]]) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        let data = zeros(bytes(&sectors))?;
        let data = self.submit(Operation::Read, sectors.start, data).await?;
        take(&[&data])
    }

    async fn write(
        &self,
        sectors: Range<u64>,
        fill: impl FnOnce(&mut [&mut [u8]]) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        let mut data = zeros(bytes(&sectors))?;
        fill(&mut [&mut data])?;
        self.submit(Operation::Write, sectors.start, data).await?;
        Ok(())
    }

    async fn flush(&self) -> Result<(), Failed> {
        // Without the feature the device keeps nothing back (virtio 1.2, 5.2.5).
        if self.flushes {
            self.submit(Operation::Flush, 0, Vec::new()).await?;
        }
        Ok(())
    }

    async fn discard(&self, sectors: Range<u64>) -> Result<(), Failed> {
        let discard = self.discard.ok_or(Failed)?;
        let mut start = sectors.start;
        while start < sectors.end {
            let count = (sectors.end - start).min(discard.max.into());
            let mut data = start.to_le_bytes().to_vec();
            data.extend_from_slice(&(count as u32).to_le_bytes());
            data.extend_from_slice(&[0; 4]);
            self.submit(Operation::Discard, 0, data).await?;
            start += count;
        }
        Ok(())
    }
}
