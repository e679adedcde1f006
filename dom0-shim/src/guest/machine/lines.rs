//! The machine's interrupt lines: what firmware's tables say of them, and the vectors that they arrive by.
// UNSAFETY: reads firmware's tables, and routes lines.
#![expect(unsafe_code, reason = "ACPI tables, I/O APIC")]

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use core::ptr::NonNull;

use acpi::madt::{Madt, MadtEntry};
use acpi::{AcpiHandler, AcpiTables, PhysicalMapping};
use guest_rt::interrupt::{self, Line};
use guest_rt::paging;
use guest_rt::start_info::StartInfo;
use guest_rt::virtio::Function;

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
        let irq = function
            .interrupt_line()
            .ok_or("firmware has given it no interrupt")?;
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
