//! Virtio devices on PCI: configuration space by ports, the functions, and memory that they reach.
//!
//! Addresses of devices' memory accesses are this guest's as they are. That holds without a hypervisor, and in a domain
//! whose RAM has gfn == mfn, as Oxen gives to dom0, where there is no IOMMU.
// UNSAFETY: hands memory to devices, and maps their registers.
#![expect(unsafe_code, reason = "DMA memory, device registers")]

use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ptr::NonNull;

use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::bus::{
    Command, ConfigurationAccess, DeviceFunction, HeaderType, PciRoot,
};
use virtio_drivers::transport::pci::{PciTransport, virtio_device_type};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

use crate::{paging, port};

/// Configuration space by the ports 0xcf8 and 0xcfc (PCI Local Bus 3.0, 3.2.2.3.2).
#[derive(Clone, Copy)]
struct Ports;

impl Ports {
    fn select(function: DeviceFunction, register: u8) {
        const ADDRESS: u16 = 0xcf8;
        const ENABLED: u32 = 1 << 31;
        let DeviceFunction {
            bus,
            device,
            function,
        } = function;
        let at = u32::from(bus) << 16 | u32::from(device) << 11 | u32::from(function) << 8;
        port::outl(ADDRESS, ENABLED | at | u32::from(register & 0xfc));
    }
}

const DATA: u16 = 0xcfc;

impl ConfigurationAccess for Ports {
    fn read_word(&self, function: DeviceFunction, register: u8) -> u32 {
        Self::select(function, register);
        port::inl(DATA)
    }

    fn write_word(&mut self, function: DeviceFunction, register: u8, value: u32) {
        Self::select(function, register);
        port::outl(DATA, value);
    }

    unsafe fn unsafe_clone(&self) -> Self {
        *self
    }
}

/// A virtio device's function.
pub struct Function {
    /// Which device it is.
    pub kind: DeviceType,
    at: DeviceFunction,
}

/// Virtio functions, by bus and device.
pub fn functions() -> Vec<Function> {
    const BUS_NUMBERS: u8 = 0x18;
    let root = PciRoot::new(Ports);
    let mut found = Vec::new();
    let mut buses = Vec::from([0]);
    let mut next = 0;
    while let Some(&bus) = buses.get(next) {
        next += 1;
        for (at, info) in root.enumerate_bus(bus) {
            if info.header_type == HeaderType::PciPciBridge {
                let secondary = (Ports.read_word(at, BUS_NUMBERS) >> 8) as u8;
                // Firmware numbers them upwards; each one once.
                if !buses.contains(&secondary) {
                    buses.push(secondary);
                }
            }
            if let Some(kind) = virtio_device_type(&info) {
                found.push(Function { kind, at });
            }
        }
    }
    found
}

impl Function {
    /// Its address, for a person.
    pub fn place(&self) -> String {
        format!("PCI {}", self.at)
    }

    /// Switches it on.
    ///
    /// # Errors
    /// It is no virtio device of version 1.
    pub fn transport(&self) -> Result<PciTransport, String> {
        let mut root = PciRoot::new(Ports);
        let (_, command) = root.get_status_command(self.at);
        let on = Command::MEMORY_SPACE | Command::BUS_MASTER;
        root.set_command(self.at, (command | on) - Command::INTERRUPT_DISABLE);
        PciTransport::new::<Identity, _>(&mut root, self.at).map_err(|error| error.to_string())
    }

    /// The interrupt line that firmware has given it; `None`: it has none.
    pub fn interrupt_line(&self) -> Option<u8> {
        const INTERRUPT: u8 = 0x3c;
        const UNKNOWN: u8 = 0xff;
        let register = Ports.read_word(self.at, INTERRUPT);
        let (line, pin) = (register as u8, (register >> 8) as u8);
        (pin != 0 && line != UNKNOWN).then_some(line)
    }
}

/// Memory as virtio devices reach it: addresses are the same for them. What is shared with them comes from the heap.
pub struct Identity;

fn pages(count: usize) -> Layout {
    Layout::from_size_align(count * PAGE_SIZE, PAGE_SIZE).expect("a few pages")
}

// SAFETY: blocks of the heap are as asked for, zeroed, and nobody else's; registers are mapped at their own address, where
// nothing else is.
unsafe impl Hal for Identity {
    fn dma_alloc(count: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        // SAFETY: a queue is never of no pages.
        let block = NonNull::new(unsafe { alloc_zeroed(pages(count)) }).expect("memory for a queue");
        (block.as_ptr() as PhysAddr, block)
    }

    unsafe fn dma_dealloc(_: PhysAddr, block: NonNull<u8>, count: usize) -> i32 {
        // SAFETY: the block is from `dma_alloc`, with the same count.
        unsafe { dealloc(block.as_ptr(), pages(count)) };
        0
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, size: usize) -> NonNull<u8> {
        paging::map(address..address + size as u64);
        NonNull::new(address as *mut u8).expect("a BAR is not at 0")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr() as PhysAddr
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}
