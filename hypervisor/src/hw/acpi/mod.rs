//! ACPI's static tables: CPUs, interrupt controllers, timers, and how to power off and reset.
//!
//! Nothing is interpreted: dom0 owns AML. The one thing needed from it, the value that means S5, is found by its encoding.
//!
//! The reader is our own: the crate `acpi`, which dom0-shim has, refuses tables whose checksums are wrong, as some firmware's are, and does not go on
//! with the RSDT where the XSDT leads nowhere. A dom0 can do without a driver then, the machine not without its CPUs.
// UNSAFETY: firmware's tables in physical memory.
#![expect(unsafe_code, reason = "firmware's tables in physical memory")]

mod tables;

use arrayvec::ArrayVec;
use boot::Physical;
use boot::layout::BOOT_MAPPED;

use super::ioapic::{Line, MAX_IO_APICS};
use super::percpu::MAX_CPUS;
use crate::mm::phys;
use crate::sync::Once;
use crate::types::{Hpa, PAGE_SIZE};
use tables::{HEADER, Tables, number};

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
    /// Firmware does not want x2APICs to be switched on.
    pub no_x2apic: bool,
    /// Registers of VT-d's remapping units.
    pub remapping_units: ArrayVec<Hpa, MAX_REMAPPING_UNITS>,
}

/// More than machines have; some have one for each root port.
const MAX_REMAPPING_UNITS: usize = 64;

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

/// Read the tables that these root pointers lead to. Called once, with the boot page tables, which map all memory below 4 GiB. `false`: there are
/// none, and [`info`] stays empty.
pub fn init(rsdps: &[u64]) -> bool {
    let tables = Tables::new(&Mapped, rsdps);
    tables.map(|tables| INFO.call_once(|| collect(&tables))).is_some()
}

fn collect(tables: &Tables<'_, impl Physical>) -> Info {
    let mut info = Info::default();
    if let Some(madt) = tables.find(b"APIC") {
        // The address of local APICs, and flags, come before the entries (5.2.12).
        const ENTRIES: usize = HEADER + 8;
        info.local_apic = number(madt, HEADER, 4).map(Hpa);
        add_madt(&mut info, madt.get(ENTRIES..).unwrap_or_default());
    }
    if let Some(hpet) = tables.find(b"HPET") {
        // IA-PC HPET specification 1.0a, 3.2.4.
        info.hpet = match generic_address(hpet, 40) {
            Some(Place::Memory(at)) => Some(at),
            _ => None,
        };
    }
    if let Some(fadt) = tables.find(b"FACP") {
        add_fadt(&mut info, fadt);
        let dsdt = [number(fadt, 140, 8), number(fadt, 40, 4)];
        let mut dsdt = dsdt.into_iter().flatten().filter(|&at| at != 0);
        let aml = dsdt.find_map(|at| tables.at(at, b"DSDT"));
        info.s5 = aml.and_then(|aml| find_s5(aml.get(HEADER..)?));
    }
    if let Some(dmar) = tables.find(b"DMAR") {
        add_dmar(&mut info, dmar);
    }
    info
}

/// VT-d (specification 4.1, 8.1 to 8.3).
fn add_dmar(info: &mut Info, dmar: &[u8]) {
    const X2APIC_OPT_OUT: u64 = 1 << 1;
    const STRUCTURES: usize = HEADER + 12;
    const HEAD: usize = 4;
    const REMAPPING_UNIT: u64 = 0;
    info.no_x2apic = number(dmar, HEADER + 1, 1).is_some_and(|flags| flags & X2APIC_OPT_OUT != 0);
    let mut rest = dmar.get(STRUCTURES..).unwrap_or_default();
    while let Some(length) = number(rest, 2, 2).map(|length| length as usize)
        && length >= HEAD
        && let Some((structure, others)) = rest.split_at_checked(length)
    {
        if number(structure, 0, 2) == Some(REMAPPING_UNIT) {
            let base = number(structure, 8, 8).filter(|&base| base != 0 && base.is_multiple_of(PAGE_SIZE));
            info.remapping_units
                .extend(base.map(Hpa).filter(|_| !info.remapping_units.is_full()));
        }
        rest = others;
    }
}

/// The MADT's entries, each as long as it says, as far as they make sense: firmware may have padding behind them, with lengths of 0.
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

/// The register that a generic address structure names (5.2.3.2); `None`: it names none, as address 0 is nobody's.
fn generic_address(table: &[u8], at: usize) -> Option<Place> {
    const MEMORY: u64 = 0;
    const IO: u64 = 1;
    let address = number(table, at + 4, 8).filter(|&address| address != 0)?;
    match number(table, at, 1)? {
        MEMORY => Some(Place::Memory(Hpa(address))),
        IO => u16::try_from(address).ok().map(Place::Port),
        _ => None,
    }
}

/// The fixed hardware (5.2.9): by addresses of 64 bits in tables that are so long, or by ports of 32.
fn add_fadt(info: &mut Info, fadt: &[u8]) {
    const RESETS: u64 = 1 << 10;
    let port = |extended: usize, old: usize| match generic_address(fadt, extended) {
        Some(Place::Port(port)) => Some(port),
        _ => number(fadt, old, 4)
            .and_then(|port| u16::try_from(port).ok())
            .filter(|&port| port != 0),
    };
    info.pm_timer = port(208, 76);
    info.pm1_control = [port(172, 64), port(184, 68)];
    info.century_register = number(fadt, 108, 1).map_or(0, |register| register as u8);
    if number(fadt, 112, 4).is_some_and(|flags| flags & RESETS != 0) {
        let value = number(fadt, 128, 1).map_or(0, |value| value as u8);
        info.reset = generic_address(fadt, 116).map(|at| (at, value));
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

/// Firmware's memory, as far as the boot page tables map it.
struct Mapped;

impl Physical for Mapped {
    fn bytes(&self, start: u64, len: usize) -> Option<&[u8]> {
        start
            .checked_add(len as u64)
            .filter(|&end| start != 0 && end <= BOOT_MAPPED)?;
        // SAFETY: mapped, and nobody writes to firmware's tables; any bit pattern is a byte.
        Some(unsafe { core::slice::from_raw_parts(phys::ptr(Hpa(start)), len) })
    }
}

#[cfg(test)]
mod tests {
    use super::tables::tests::made;
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

    #[test]
    fn remapping_units_and_wishes() {
        let unit = |base: u64| [&[0, 0, 16, 0, 1, 0, 0, 0], &base.to_le_bytes()[..]].concat();
        let of = |flags: u8, structures: &[u8]| {
            let head = [38, flags, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            let mut info = Info::default();
            add_dmar(&mut info, &made(b"DMAR", &[&head, structures].concat()));
            info
        };
        let other = [1, 0, 8, 0, 0, 0, 0, 0];
        let two = [&unit(0xfed9_0000)[..], &other, &unit(0xfed9_1000)].concat();
        let info = of(0b111, &two);
        assert_eq!(info.remapping_units[..], [Hpa(0xfed9_0000), Hpa(0xfed9_1000)]);
        assert!(info.no_x2apic && !of(0b101, &two).no_x2apic);
        for nonsense in [
            &[0, 0, 0, 0][..],
            &[0, 0, 200, 0],
            &[0, 0, 8, 0, 0, 0, 0, 0],
            &unit(0x123),
            &[0],
        ] {
            assert!(of(0, nonsense).remapping_units.is_empty(), "{nonsense:?}");
        }
        let many: Vec<u8> = (1..100).flat_map(|number| unit(number << 12)).collect();
        assert_eq!(of(0, &many).remapping_units.len(), MAX_REMAPPING_UNITS);
    }

    /// By registers of 64 bits, where the table has them, or of 32; a table that ends early has neither reset register nor flags.
    #[test]
    fn fixed_hardware_of_the_fadt() {
        let mut contents = vec![0; 240];
        let mut set = |at: usize, bytes: &[u8]| contents[at - HEADER..][..bytes.len()].copy_from_slice(bytes);
        set(64, &0x604u32.to_le_bytes());
        set(76, &0x608u32.to_le_bytes());
        set(112, &(1u32 << 10).to_le_bytes());
        set(116, &[1, 8, 0, 1, 0xf9, 0x0c]);
        set(128, &[6]);
        set(172, &[1, 16, 0, 2, 0x04, 0x18]);
        let read = |contents: &[u8]| {
            let mut info = Info::default();
            add_fadt(&mut info, &made(b"FACP", contents));
            info
        };
        let info = read(&contents);
        assert_eq!(info.pm1_control, [Some(0x1804), None]);
        assert_eq!(
            (info.pm_timer, info.reset),
            (Some(0x608), Some((Place::Port(0xcf9), 6)))
        );
        let info = read(&contents[..80 - HEADER]);
        assert_eq!(info.pm1_control, [Some(0x604), None]);
        assert_eq!((info.pm_timer, info.reset), (Some(0x608), None));
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
