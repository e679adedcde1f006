//! ACPI's static tables: CPUs, interrupt controllers, timers, and how to power off and reset.
//!
//! Nothing is interpreted: dom0 owns AML. The one thing needed from it, the value that means S5, is found by its encoding.
// UNSAFETY: firmware's tables in physical memory.
#![expect(unsafe_code, reason = "firmware's tables in physical memory")]

use core::ptr::NonNull;

use acpi::fadt::Fadt;
use acpi::madt::Madt;
use acpi::{AcpiHandler, AcpiTables, HpetInfo, PhysicalMapping};
use arrayvec::ArrayVec;
use boot::layout::BOOT_MAPPED;

use super::ioapic::{Line, MAX_IO_APICS};
use super::percpu::MAX_CPUS;
use crate::mm::phys;
use crate::sync::Once;
use crate::types::Hpa;

/// A register in I/O space or memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// A port.
    Port(u16),
    /// A machine address.
    Memory(Hpa),
}

/// What the hypervisor takes from the tables. A machine without ACPI has the defaults: one CPU, nothing else.
#[derive(Debug, Default)]
pub struct Info {
    /// APIC numbers of the CPUs that can be used, in firmware's order.
    pub cpus: ArrayVec<u32, MAX_CPUS>,
    /// CPUs beyond [`MAX_CPUS`], which are not used.
    pub cpus_left_out: usize,
    /// Local APIC registers, for CPUs without x2APIC.
    pub local_apic: Option<Hpa>,
    /// I/O APICs: registers, first line.
    pub io_apics: ArrayVec<(Hpa, u32), MAX_IO_APICS>,
    /// Where ISA interrupts go that do not go to the line of the same number.
    overrides: ArrayVec<(u8, Line), 16>,
    /// Port of the power management timer.
    pub pm_timer: Option<u16>,
    /// Registers of the HPET.
    pub hpet: Option<Hpa>,
    /// Power management control registers a and b.
    pub pm1_control: [Option<u16>; 2],
    /// Sleep type values of S5 for the two.
    pub s5: Option<[u8; 2]>,
    /// Register that resets the machine, and the value to write.
    pub reset: Option<(Place, u8)>,
    /// CMOS register of the century; 0 if there is none.
    pub century_register: u8,
}

impl Info {
    /// ISA interrupts that go to another line than that of their number, or in another way.
    pub fn overrides(&self) -> &[(u8, Line)] {
        &self.overrides
    }

    /// The line that ISA interrupt `irq` arrives at.
    pub fn isa_line(&self, irq: u8) -> Line {
        let overridden = self.overrides.iter().find(|(isa, _)| *isa == irq);
        overridden.map_or(
            Line {
                gsi: u32::from(irq),
                active_low: false,
                level: false,
            },
            |(_, line)| *line,
        )
    }
}

static INFO: Once<Info> = Once::new();

/// What [`init`] found; nothing before that.
pub fn info() -> &'static Info {
    static NOTHING: Once<Info> = Once::new();
    INFO.get().unwrap_or_else(|| NOTHING.call_once(Info::default))
}

/// Read the tables. Called once, with the boot page tables, which map all memory below 4 GiB. Without tables the reason is returned, and
/// [`info`] stays empty.
///
/// # Errors
/// What is wrong with the tables.
pub fn init(rsdp: Option<u64>) -> Result<(), acpi::AcpiError> {
    let rsdp = rsdp.ok_or(acpi::AcpiError::NoValidRsdp)?;
    // SAFETY: the boot loader found a root pointer there; the tables it leads to are firmware's and do not change.
    let tables = unsafe { AcpiTables::from_rsdp(Mapped, rsdp as usize) }?;
    INFO.call_once(|| collect(&tables));
    Ok(())
}

fn collect(tables: &AcpiTables<Mapped>) -> Info {
    let mut info = Info::default();
    if let Ok(madt) = tables.find_table::<Madt>() {
        info.local_apic = Some(Hpa(u64::from(madt.get().local_apic_address)));
        // SAFETY: firmware's table, of the length that the crate has mapped it with; it does not change.
        let table = unsafe {
            core::slice::from_raw_parts(madt.virtual_start().as_ptr().cast::<u8>(), madt.region_length())
        };
        add_madt(&mut info, table.get(size_of::<Madt>()..).unwrap_or_default());
    }
    info.hpet = HpetInfo::new(tables)
        .ok()
        .map(|hpet| Hpa(hpet.base_address as u64))
        .filter(|at| at.0 != 0);
    if let Ok(fadt) = tables.find_table::<Fadt>() {
        add_fadt(&mut info, &fadt);
        if let Ok(dsdt) = tables.dsdt()
            && in_reach(dsdt.address as u64, dsdt.length.into())
        {
            // SAFETY: firmware's table, of the length its header gives; it does not change.
            let aml = unsafe {
                core::slice::from_raw_parts(phys::ptr(Hpa(dsdt.address as u64)), dsdt.length as usize)
            };
            info.s5 = find_s5(aml);
        }
    }
    info
}

/// The MADT's entries, each as long as it says, as far as they make sense: firmware may have padding behind them, with lengths of 0, at which the crate's
/// iterator stays for ever.
fn add_madt(info: &mut Info, mut entries: &[u8]) {
    const HEAD: usize = 2;
    while let Some(length) = entries.get(1).map(|&length| usize::from(length))
        && length >= HEAD
        && let Some((entry, rest)) = entries.split_at_checked(length)
    {
        let _ = add_madt_entry(info, entry);
        entries = rest;
    }
}

/// Interrupt controller structures (ACPI 6.5, 5.2.12). One that is shorter than its kind is left out.
fn add_madt_entry(info: &mut Info, entry: &[u8]) -> Option<()> {
    const LOCAL_APIC: u8 = 0;
    const IO_APIC: u8 = 1;
    const SOURCE_OVERRIDE: u8 = 2;
    const ADDRESS_OVERRIDE: u8 = 5;
    const LOCAL_X2APIC: u8 = 9;
    let byte = |at: usize| entry.get(at).copied();
    let word = |at: usize| Some(u32::from_le_bytes(*entry.get(at..)?.first_chunk()?));
    match byte(0)? {
        // All ones is everybody's number, and no CPU's.
        LOCAL_APIC => add_cpu(info, u32::from(byte(3).filter(|&id| id != u8::MAX)?), word(4)?),
        LOCAL_X2APIC => add_cpu(info, word(4).filter(|&id| id != u32::MAX)?, word(8)?),
        IO_APIC => {
            let _ = info.io_apics.try_push((Hpa(word(4)?.into()), word(8)?));
        }
        ADDRESS_OVERRIDE => {
            info.local_apic = Some(Hpa(u64::from(word(4)?) | u64::from(word(8)?) << 32));
        }
        SOURCE_OVERRIDE => {
            // MPS INTI flags (table 5.25): 3 is active low, and level; 0 is as the ISA bus has it.
            let (irq, gsi, flags) = (byte(3)?, word(4)?, byte(8)?);
            let line = Line {
                gsi,
                active_low: flags & 3 == 3,
                level: flags >> 2 & 3 == 3,
            };
            let _ = info.overrides.try_push((irq, line));
        }
        _ => {}
    }
    Some(())
}

/// A CPU that can be used, unless it is there already: firmware lists some by both kinds of entry.
fn add_cpu(info: &mut Info, id: u32, flags: u32) {
    const ENABLED: u32 = 1;
    if flags & ENABLED != 0 && !info.cpus.contains(&id) && info.cpus.try_push(id).is_err() {
        info.cpus_left_out += 1;
    }
}

fn add_fadt(info: &mut Info, fadt: &Fadt) {
    let place = |address: acpi::address::GenericAddress| match address.address_space {
        acpi::address::AddressSpace::SystemIo => u16::try_from(address.address).ok().map(Place::Port),
        acpi::address::AddressSpace::SystemMemory => Some(Place::Memory(Hpa(address.address))),
        _ => None,
    };
    let port = |address| match place(address) {
        Some(Place::Port(port)) if port != 0 => Some(port),
        _ => None,
    };
    info.pm_timer = fadt.pm_timer_block().ok().flatten().and_then(port);
    info.pm1_control = [
        fadt.pm1a_control_block().ok().and_then(port),
        fadt.pm1b_control_block().ok().flatten().and_then(port),
    ];
    info.century_register = fadt.century;
    let flags = fadt.flags;
    if flags.supports_system_reset_via_fadt() {
        info.reset = fadt
            .reset_register()
            .ok()
            .and_then(place)
            .map(|at| (at, fadt.reset_value));
    }
}

/// The two sleep type values in AML's definition of `\_S5_`: NameOp, the name, PackageOp, PkgLength, NumElements, then integers
/// (ACPI 6.5, 20.2).
fn find_s5(aml: &[u8]) -> Option<[u8; 2]> {
    const PACKAGE: u8 = 0x12;
    let at = aml
        .windows(5)
        .position(|bytes| bytes == [b'_', b'S', b'5', b'_', PACKAGE])?
        + 5;
    // The two high bits of the first byte of a PkgLength tell how many more there are.
    let lead = *aml.get(at)?;
    let mut rest = aml.get(at + 1 + usize::from(lead >> 6) + 1..)?.iter().copied();
    let mut integer = || match rest.next()? {
        0x0a => rest.next(),                                    // BytePrefix
        0x0b => rest.next().filter(|_| rest.next() == Some(0)), // WordPrefix
        small @ (0 | 1) => Some(small),                         // ZeroOp, OneOp
        _ => None,
    };
    Some([integer()?, integer()?])
}

/// Do the boot page tables map this?
fn in_reach(address: u64, size: u64) -> bool {
    address.checked_add(size).is_some_and(|end| end <= BOOT_MAPPED)
}

/// How the `acpi` crate reaches tables: through the direct map.
#[derive(Clone)]
struct Mapped;

impl AcpiHandler for Mapped {
    unsafe fn map_physical_region<T>(&self, address: usize, size: usize) -> PhysicalMapping<Self, T> {
        /// A table that is none, as it has no signature.
        static NOTHING: [u64; 64] = [0; 64];
        let at = if in_reach(address as u64, size as u64) {
            phys::ptr(Hpa(address as u64))
        } else {
            log::warn!("ACPI: {size} bytes at {address:#x} are passed over, as they are not below 4 GiB");
            NOTHING.as_ptr().cast_mut().cast()
        };
        const { assert!(size_of::<T>() <= 512) };
        let start = NonNull::new(at.cast::<T>());
        // SAFETY: the boot page tables have all of it, and what comes after them has ACPI's memory, too; of what has no signature, the crate looks at the
        // header alone.
        unsafe { PhysicalMapping::new(address, start.unwrap_or(NonNull::dangling()), size, size, Mapped) }
    }

    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s5_is_found_in_its_encodings() {
        let short = b"\x08_S5_\x12\x06\x04\x00\x0a\x05\x00\x00";
        assert_eq!(find_s5(short), Some([0, 5]));
        let long = b"xx\x08_S5_\x12\x46\x00\x04\x0b\x07\x00\x01\x00";
        assert_eq!(find_s5(long), Some([7, 1]));
        assert_eq!(find_s5(b"\x08_S5_\x12\x06\x04\x0a"), None);
        assert_eq!(find_s5(b"_S5_"), None);
        assert_eq!(find_s5(b""), None);
    }

    /// ACPI 6.5, 5.2.12.2 and 5.2.12.12: by either kind of entry, an id that takes more than eight bits, and what is not there; by both; everybody's number;
    /// too many are counted.
    #[test]
    fn cpus_of_the_madt() {
        const MOST: u32 = MAX_CPUS as u32;
        let x2apic = |id: u32, flags: u32| {
            let words = [id, flags, id].map(u32::to_le_bytes);
            [&[9, 16, 0, 0], words.as_flattened()].concat()
        };
        let mut table = Vec::new();
        table.extend([0, 8, 0, 0, 1, 0, 0, 0]);
        table.extend([0, 8, 9, 0xff, 1, 0, 0, 0]);
        table.extend(x2apic(0, 1));
        table.extend(x2apic(u32::MAX, 1));
        table.extend([0, 8, 1, 2, 0, 0, 0, 0]);
        table.extend(x2apic(256, 1));
        table.extend(x2apic(0x1_0003, 0));
        table.extend(x2apic(0x1_0005, 1));
        for id in 0..MOST {
            table.extend(x2apic(1000 + id, 1));
        }
        let info = read(&table);
        assert_eq!(info.cpus[..4], [0, 256, 0x1_0005, 1000]);
        assert_eq!((info.cpus.len(), info.cpus_left_out), (MAX_CPUS, 3));
    }

    fn read(entries: &[u8]) -> Info {
        let mut info = Info::default();
        add_madt(&mut info, entries);
        info
    }

    #[test]
    fn other_entries_of_the_madt() {
        let mut table = vec![1, 12, 2, 0, 0, 0, 0xc0, 0xfe, 16, 0, 0, 0];
        table.extend([2, 10, 0, 9, 20, 0, 0, 0, 0xf, 0]);
        table.extend([5, 12, 0, 0, 0, 0, 0xe0, 0xfe, 1, 0, 0, 0]);
        let info = read(&table);
        assert_eq!(info.io_apics[..], [(Hpa(0xfec0_0000), 16)]);
        let line = info.isa_line(9);
        assert!(line.gsi == 20 && line.active_low && line.level);
        assert_eq!(info.local_apic, Some(Hpa(0x1_fee0_0000)));
    }

    /// Padding, an entry that is longer than what is left, one that is shorter than its kind, and half of one.
    #[test]
    fn what_makes_no_sense_in_the_madt_ends_it() {
        let cpu = |id| [0, 8, 0, id, 1, 0, 0, 0];
        for (behind, others) in [
            (&[0, 0, 0, 0][..], 0),
            (&[0, 1, 0, 0], 0),
            (&[0, 200, 0, 3, 1, 0, 0, 0], 0),
            (&[0], 0),
            (&[0, 4, 0, 3, 0, 8, 0, 2, 1, 0, 0, 0], 1),
        ] {
            let info = read(&[&cpu(1), behind].concat());
            assert_eq!(info.cpus.len(), 1 + others, "{behind:?}");
        }
    }

    #[test]
    fn isa_interrupts_follow_their_overrides() {
        let mut info = Info::default();
        let line = Line {
            gsi: 20,
            active_low: true,
            level: true,
        };
        info.overrides.push((4, line));
        assert_eq!(info.isa_line(4), line);
        assert_eq!(
            info.isa_line(3),
            Line {
                gsi: 3,
                active_low: false,
                level: false
            }
        );
    }
}
