//! PCI: configuration space by ports, virtio functions, their lines, and memory that they reach.
// UNSAFETY: hands memory to devices, reads firmware's tables, and routes lines.
#![expect(unsafe_code, reason = "DMA memory, device registers, ACPI tables")]

use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ptr::NonNull;

use acpi::madt::{Madt, MadtEntry};
use acpi::{AcpiHandler, AcpiTables, PhysicalMapping};
use guest_rt::interrupt::{self, Line};
use guest_rt::start_info::StartInfo;
use guest_rt::{paging, port};
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::bus::{
    Command, ConfigurationAccess, DeviceFunction, HeaderType, PciRoot,
};
use virtio_drivers::transport::pci::{PciTransport, virtio_device_type};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

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
pub fn virtio_functions() -> Vec<Function> {
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
}

/// The machine's I/O APIC lines, as the MADT tells, and the vectors given to them.
pub struct Lines {
    /// First line of each I/O APIC, with its address.
    io_apics: BTreeMap<u32, u32>,
    /// How ISA's interrupts arrive: line, active low, level.
    overrides: BTreeMap<u8, (u32, bool, bool)>,
    vectors: BTreeMap<u32, u8>,
}

impl Lines {
    /// Reads the MADT. Without one there are no lines.
    pub fn new(info: &StartInfo) -> Self {
        let mut lines = Self {
            io_apics: BTreeMap::new(),
            overrides: BTreeMap::new(),
            vectors: BTreeMap::new(),
        };
        // SAFETY: the loader says that there is an RSDP; tables do not change.
        let tables = unsafe { AcpiTables::from_rsdp(Mapped, info.raw.rsdp_paddr as usize) };
        let Ok(madt) = tables.and_then(|tables| tables.find_table::<Madt>()) else {
            return lines;
        };
        for entry in madt.get().entries() {
            match entry {
                MadtEntry::IoApic(io_apic) => {
                    let first = io_apic.global_system_interrupt_base;
                    lines.io_apics.insert(first, io_apic.io_apic_address);
                }
                MadtEntry::InterruptSourceOverride(source) => {
                    // ACPI 6.5, table 5.25: 3 is active low, and level.
                    let (active_low, level) = (source.flags & 3 == 3, source.flags >> 2 & 3 == 3);
                    let line = (source.global_system_interrupt, active_low, level);
                    lines.overrides.insert(source.irq, line);
                }
                _ => {}
            }
        }
        lines
    }

    /// Has the function's interrupts arrive; returns the vector.
    ///
    /// # Errors
    /// It has no line, or there is no vector left.
    pub fn route(&mut self, function: &Function) -> Result<u8, String> {
        const INTERRUPT: u8 = 0x3c;
        let register = Ports.read_word(function.at, INTERRUPT);
        let (irq, pin) = (register as u8, (register >> 8) as u8);
        if pin == 0 || irq == 0xff {
            return Err("firmware has given it no interrupt".to_string());
        }
        // PCI's lines are levels, active low, unless the firmware says otherwise of this one.
        let plain = (u32::from(irq), true, true);
        let (gsi, active_low, level) = self.overrides.get(&irq).copied().unwrap_or(plain);
        if let Some(&vector) = self.vectors.get(&gsi) {
            return Ok(vector);
        }
        let (first, io_apic) = self
            .io_apics
            .range(..=gsi)
            .next_back()
            .ok_or_else(|| format!("there is no I/O APIC for line {gsi}"))?;
        let vector = interrupt::VECTORS.start + self.vectors.len() as u8;
        if !interrupt::VECTORS.contains(&vector) {
            return Err("no vector is left".to_string());
        }
        let line = Line {
            io_apic: *io_apic,
            input: gsi - first,
            active_low,
            level,
        };
        // SAFETY: the MADT says that an I/O APIC is there, and nothing else in this domain touches it.
        unsafe { interrupt::route(line, vector) };
        self.vectors.insert(gsi, vector);
        Ok(vector)
    }
}

/// ACPI tables where they are: all memory is mapped at its own address.
#[derive(Clone)]
struct Mapped;

impl AcpiHandler for Mapped {
    unsafe fn map_physical_region<T>(&self, address: usize, size: usize) -> PhysicalMapping<Self, T> {
        let start = NonNull::new(address as *mut T).unwrap_or(NonNull::dangling());
        paging::map(address as u64..(address + size) as u64);
        // SAFETY: mapped at its own address, for ever.
        unsafe { PhysicalMapping::new(address, start, size, size, Mapped) }
    }

    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}

/// Memory as virtio devices reach it: addresses are the same for them, see [`super`]. What is shared with them comes
/// from the heap, whose frames are where this domain sees them.
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
