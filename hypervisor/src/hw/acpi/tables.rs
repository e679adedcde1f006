//! Finding firmware's tables (ACPI 6.5, 5.2.5 to 5.2.8).
//!
//! Nothing that firmware says is followed blindly: what cannot be reached or has a length that cannot be is passed over, and there is a second way
//! wherever ACPI has one, by another root pointer, or by the RSDT beside the XSDT. A wrong checksum of a table is no reason not to use it, as other
//! systems do, too; without a right one, though, eight letters in memory are no root pointer.

use arrayvec::ArrayVec;
use boot::Physical;

/// Bytes of a table's header.
pub const HEADER: usize = 36;
/// Longer than any table; the largest have AML, some hundred KiB.
const LONGEST: usize = 16 << 20;

/// Tables that list others.
#[derive(Debug)]
pub struct Tables<'m, M> {
    memory: &'m M,
    roots: ArrayVec<Root<'m>, 2>,
}

/// An XSDT or RSDT.
#[derive(Debug)]
struct Root<'m> {
    entries: &'m [u8],
    /// Bytes of an entry.
    width: usize,
}

impl<'m, M: Physical> Tables<'m, M> {
    /// Those of the first of these root pointers that leads to any.
    pub fn new(memory: &'m M, rsdps: &[u64]) -> Option<Self> {
        rsdps.iter().find_map(|&rsdp| {
            let roots = roots(memory, rsdp);
            if roots.is_empty() {
                log::warn!("ACPI: the root pointer at {rsdp:#x} leads to no tables");
                return None;
            }
            let tables = Tables { memory, roots };
            for at in tables.entries().filter(|&at| memory.bytes(at, HEADER).is_none()) {
                log::warn!("ACPI: a table at {at:#x} is passed over, as it is not below 4 GiB");
            }
            Some(tables)
        })
    }

    /// The first table with this signature.
    pub fn find(&self, signature: &[u8; 4]) -> Option<&'m [u8]> {
        self.entries()
            .filter(|&at| {
                self.memory
                    .bytes(at, HEADER)
                    .is_some_and(|header| header.starts_with(signature))
            })
            .find_map(|at| table(self.memory, at, signature))
    }

    /// Addresses of tables. Some firmware has zeroes among them.
    fn entries(&self) -> impl Iterator<Item = u64> {
        let all = self.roots.iter().flat_map(|root| {
            root.entries
                .chunks_exact(root.width)
                .filter_map(|entry| number(entry, 0, root.width))
        });
        all.filter(|&at| at != 0)
    }

    /// The table at `at`.
    pub fn at(&self, at: u64, signature: &[u8; 4]) -> Option<&'m [u8]> {
        table(self.memory, at, signature)
    }
}

/// The number in `width` bytes from `at` on, if there are so many.
pub fn number(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(width)?)?;
    Some(
        bytes
            .iter()
            .rev()
            .fold(0, |number, &byte| number << 8 | u64::from(byte)),
    )
}

/// Do all bytes add up to zero?
fn adds_up(bytes: &[u8]) -> bool {
    bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte)) == 0
}

/// The lists of tables that the root pointer at `at` leads to, the better one first.
fn roots<M: Physical>(memory: &M, at: u64) -> ArrayVec<Root<'_>, 2> {
    /// What revision 0 has, whose checksum is of these bytes.
    const OLD: usize = 20;
    const WITH_XSDT: usize = 36;
    let mut roots = ArrayVec::new();
    let old = memory
        .bytes(at, OLD)
        .filter(|old| old.starts_with(b"RSD PTR ") && adds_up(old));
    let Some(old) = old else { return roots };
    let revision = old.get(15).copied().unwrap_or(0);
    let new = memory.bytes(at, WITH_XSDT).filter(|_| revision >= 2);
    if new.is_some_and(|new| !adds_up(new)) {
        log::warn!("ACPI: the extended checksum of the root pointer at {at:#x} is wrong: going by its RSDT");
    }
    let xsdt = new
        .filter(|new| adds_up(new))
        .and_then(|new| number(new, 24, 8))
        .map(|xsdt| (xsdt, b"XSDT", 8));
    let rsdt = number(old, 16, 4).map(|rsdt| (rsdt, b"RSDT", 4));
    for (at, signature, width) in [xsdt, rsdt].into_iter().flatten() {
        let entries = table(memory, at, signature).and_then(|root| root.get(HEADER..));
        roots.extend(entries.map(|entries| Root { entries, width }));
    }
    roots
}

/// The table at `at`, which firmware says is one with this signature.
fn table<'m, M: Physical>(memory: &'m M, at: u64, signature: &[u8; 4]) -> Option<&'m [u8]> {
    let name = core::str::from_utf8(signature).unwrap_or("");
    // ACPI 1.0 had no XSDT, and later tables need no RSDT: nothing is missing.
    if at == 0 {
        return None;
    }
    let Some(header) = memory.bytes(at, HEADER) else {
        log::warn!("ACPI: {name} at {at:#x} is passed over, as it is not below 4 GiB");
        return None;
    };
    if !header.starts_with(signature) {
        log::warn!("ACPI: there is no {name} at {at:#x}");
        return None;
    }
    let length = number(header, 4, 4).map_or(0, |length| length as usize);
    let whole = memory
        .bytes(at, length)
        .filter(|_| (HEADER..=LONGEST).contains(&length));
    let Some(table) = whole else {
        log::warn!("ACPI: {name} at {at:#x} is passed over: it cannot have {length} bytes");
        return None;
    };
    if !adds_up(table) {
        log::warn!("ACPI: {name} at {at:#x} has a wrong checksum: used all the same");
    }
    Some(table)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Firmware's memory: what is at which address.
    #[derive(Clone, Default)]
    pub struct Pieces(pub Vec<(u64, Vec<u8>)>);

    impl Physical for Pieces {
        fn bytes(&self, start: u64, len: usize) -> Option<&[u8]> {
            self.0.iter().find_map(|(base, bytes)| {
                let from = usize::try_from(start.checked_sub(*base)?).ok()?;
                bytes.get(from..from.checked_add(len)?)
            })
        }
    }

    /// Make byte `at` such that `bytes` add up to zero.
    fn sum(bytes: &mut [u8], at: usize) {
        bytes[at] = 0;
        bytes[at] = bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_sub(byte));
    }

    /// A table with these contents.
    pub fn made(signature: &[u8; 4], contents: &[u8]) -> Vec<u8> {
        let mut table = signature.to_vec();
        table.extend((HEADER as u32 + contents.len() as u32).to_le_bytes());
        table.extend([0; HEADER - 8]);
        table.extend(contents);
        sum(&mut table, 9);
        table
    }

    const RSDP: u64 = 0xf_0000;
    const XSDT: u64 = 0x1000;
    const RSDT: u64 = 0x2000;
    const MADT: u64 = 0x3000;
    const HPET: u64 = 0x4000;

    fn rsdp(revision: u8, rsdt: u64, xsdt: u64) -> Vec<u8> {
        let mut rsdp = b"RSD PTR \0OXEN  ".to_vec();
        rsdp.push(revision);
        rsdp.extend((rsdt as u32).to_le_bytes());
        sum(&mut rsdp, 8);
        rsdp.extend(36u32.to_le_bytes());
        rsdp.extend(xsdt.to_le_bytes());
        rsdp.extend([0; 4]);
        sum(&mut rsdp, 32);
        rsdp
    }

    /// The XSDT lists a table that is not there and the MADT, the RSDT the HPET's.
    fn firmware() -> Pieces {
        let entries = [0xffff_0000_0000, 0, MADT].map(u64::to_le_bytes);
        Pieces(vec![
            (RSDP, rsdp(2, RSDT, XSDT)),
            (XSDT, made(b"XSDT", entries.as_flattened())),
            (RSDT, made(b"RSDT", &(HPET as u32).to_le_bytes())),
            (MADT, made(b"APIC", b"CPUs")),
            (HPET, made(b"HPET", b"timer")),
        ])
    }

    fn found(memory: &Pieces, rsdps: &[u64]) -> Option<[bool; 2]> {
        let tables = Tables::new(memory, rsdps)?;
        Some([b"APIC", b"HPET"].map(|signature| tables.find(signature).is_some()))
    }

    #[test]
    fn by_both_lists() {
        let memory = firmware();
        let tables = Tables::new(&memory, &[RSDP]).unwrap();
        assert_eq!(tables.find(b"APIC").unwrap()[HEADER..], *b"CPUs");
        assert_eq!(tables.find(b"HPET").unwrap()[HEADER..], *b"timer");
        assert_eq!(tables.find(b"DMAR"), None);
        assert!(tables.at(MADT, b"APIC").is_some() && tables.at(MADT, b"DSDT").is_none());
    }

    #[test]
    fn without_an_xsdt_there_is_the_rsdt() {
        for bad in [
            rsdp(2, RSDT, 0),
            rsdp(2, RSDT, MADT),
            rsdp(2, RSDT, u64::MAX),
            rsdp(0, RSDT, XSDT),
        ] {
            let mut memory = firmware();
            memory.0[0].1 = bad;
            assert_eq!(found(&memory, &[RSDP]), Some([false, true]));
        }
        let mut memory = firmware();
        memory.0[0].1[35] ^= 1;
        assert_eq!(
            found(&memory, &[RSDP]),
            Some([false, true]),
            "the extended checksum"
        );
        memory.0[0].1.truncate(20);
        assert_eq!(
            found(&memory, &[RSDP]),
            Some([false, true]),
            "it ends with memory"
        );
    }

    #[test]
    fn a_wrong_checksum_is_none_of_a_root_pointer_but_a_table_all_the_same() {
        let mut memory = firmware();
        for table in 1..5 {
            memory.0[table].1[9] ^= 0x55;
        }
        assert_eq!(found(&memory, &[RSDP]), Some([true, true]));
        memory.0[0].1[10] ^= 1;
        assert_eq!(found(&memory, &[RSDP]), None);
    }

    #[test]
    fn the_next_root_pointer_is_tried() {
        let mut memory = firmware();
        memory.0.push((0xe_0000, rsdp(2, 0, 0)));
        assert_eq!(found(&memory, &[0xe_0000]), None);
        assert_eq!(found(&memory, &[0xe_0000, 0, RSDP]), Some([true, true]));
        assert_eq!(found(&memory, &[]), None);
    }

    #[test]
    fn lengths_that_cannot_be() {
        for length in [0, 35, 41, 17 << 20, u32::MAX] {
            let mut memory = firmware();
            memory.0[3].1[4..8].copy_from_slice(&length.to_le_bytes());
            assert_eq!(found(&memory, &[RSDP]), Some([false, true]), "{length}");
            memory.0[1].1[4..8].copy_from_slice(&length.to_le_bytes());
            if length != 41 {
                assert_eq!(found(&memory, &[RSDP]), Some([false, true]), "{length}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_firmware_makes_it_panic(noise in prop::collection::vec((0usize..5, 0usize..60, any::<u8>()), 0..12)) {
            let mut memory = firmware();
            for (piece, at, value) in noise {
                if let Some(byte) = memory.0[piece].1.get_mut(at) {
                    *byte = value;
                }
            }
            found(&memory, &[RSDP]);
        }
    }
}
