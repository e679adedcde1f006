//! ACPI tables of a PVH guest (ACPI 5.0): RSDP, RSDT, XSDT, FADT, FACS, DSDT, MADT.
//!
//! A domU's say what libxl's say: local APICs only, no I/O APIC, no legacy devices, power-management registers at ports that nothing answers. Dom0's
//! FADT and DSDT are the machine's own; it gets a MADT with its own CPUs and the machine's I/O APICs.

use alloc::vec::Vec;

/// A processor's local APIC id, as Xen numbers them: even ones, so that no two vCPUs look like threads of a core.
pub const fn apic_id(vcpu: u32) -> u32 {
    vcpu * 2
}

/// The tables, and the RSDP's address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tables {
    /// To be written at the address that the tables were built for.
    pub bytes: Vec<u8>,
    /// Guest-physical address of the RSDP, within `bytes`.
    pub rsdp: u64,
}

/// One structure of a MADT beyond the local APICs, as bytes (ACPI 5.0, 5.2.12).
pub type MadtEntry = Vec<u8>;

/// Tables of a domU with `vcpus` vCPUs, to be placed at `at` (page-aligned).
pub fn domu(at: u64, vcpus: u32) -> Tables {
    let mut place = Place::new(at);
    let facs = place.put(&facs());
    let dsdt = place.put(&dsdt(vcpus));
    let fadt = place.put(&fadt(facs, dsdt));
    let madt = place.put(&madt(vcpus, PCAT_COMPAT, &[]));
    place.finish(&[fadt, madt])
}

/// Tables of dom0 with `vcpus` vCPUs, to be placed at `at` (page-aligned): a MADT with `interrupts` (I/O APICs and source overrides of the machine),
/// and the machine's own tables at `host_tables`.
pub fn dom0(at: u64, vcpus: u32, interrupts: &[MadtEntry], host_tables: &[u64]) -> Tables {
    let mut place = Place::new(at);
    let madt = place.put(&madt(vcpus, 0, interrupts));
    let mut all = Vec::from([madt]);
    all.extend_from_slice(host_tables);
    place.finish(&all)
}

struct Place {
    at: u64,
    bytes: Vec<u8>,
}

impl Place {
    fn new(at: u64) -> Self {
        Self {
            at,
            bytes: Vec::new(),
        }
    }

    /// Append a table, aligned to 64 bytes (what the FACS needs, 5.2.10); returns its address.
    fn put(&mut self, table: &[u8]) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(64), 0);
        let address = self.at + self.bytes.len() as u64;
        self.bytes.extend_from_slice(table);
        address
    }

    fn finish(mut self, tables: &[u64]) -> Tables {
        let mut rsdt = header(b"RSDT", 1);
        let mut xsdt = header(b"XSDT", 1);
        for &table in tables {
            // A table above 4 GiB is not in the RSDT; whoever reads a revision 2 RSDP takes the XSDT.
            if let Ok(low) = u32::try_from(table) {
                rsdt.extend_from_slice(&low.to_le_bytes());
            }
            xsdt.extend_from_slice(&table.to_le_bytes());
        }
        let rsdt = self.put(&sealed(rsdt));
        let xsdt = self.put(&sealed(xsdt));
        let rsdp = self.put(&rsdp(rsdt as u32, xsdt));
        Tables {
            bytes: self.bytes,
            rsdp,
        }
    }
}

/// 5.2.5.3.
fn rsdp(rsdt: u32, xsdt: u64) -> Vec<u8> {
    const LENGTH: u32 = 36;
    let mut rsdp = b"RSD PTR \0Oxen  \x02".to_vec();
    rsdp.extend_from_slice(&rsdt.to_le_bytes());
    rsdp[8] = checksum(&rsdp);
    rsdp.extend_from_slice(&LENGTH.to_le_bytes());
    rsdp.extend_from_slice(&xsdt.to_le_bytes());
    rsdp.extend_from_slice(&[0; 4]);
    rsdp[32] = checksum(&rsdp);
    rsdp
}

/// 5.2.6; length and checksum are filled in by [`sealed`].
fn header(signature: &[u8; 4], revision: u8) -> Vec<u8> {
    let mut header = signature.to_vec();
    header.extend_from_slice(&[0, 0, 0, 0, revision, 0]);
    header.extend_from_slice(b"Oxen  ");
    header.extend_from_slice(b"PVH     ");
    header.extend_from_slice(&1u32.to_le_bytes());
    header.extend_from_slice(b"OXEN");
    header.extend_from_slice(&1u32.to_le_bytes());
    header
}

fn sealed(mut table: Vec<u8>) -> Vec<u8> {
    let len = table.len() as u32;
    table[4..8].copy_from_slice(&len.to_le_bytes());
    table[9] = checksum(&table);
    table
}

/// What makes the sum of all bytes zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}

/// 5.2.10.
fn facs() -> Vec<u8> {
    let mut facs = b"FACS".to_vec();
    facs.resize(64, 0);
    facs[4] = 64;
    facs[32] = 2;
    facs
}

/// 5.2.9: not hardware-reduced; no buttons, no PM timer, no VGA, no RTC, no keyboard controller; reset through port 0xcf9.
fn fadt(facs: u64, dsdt: u64) -> Vec<u8> {
    const LENGTH: usize = 268;
    const PM1A_EVENT: u16 = 0xb000;
    const PM1A_CONTROL: u16 = 0xb004;
    const GPE0: u16 = 0xafe0;
    const RESET_PORT: u16 = 0xcf9;
    const RESET_VALUE: u8 = 6;
    const IAPC_NO_VGA: u16 = 1 << 2;
    const IAPC_NO_RTC: u16 = 1 << 5;
    // WBINVD, PROC_C1, PWR_BUTTON and SLP_BUTTON (set: no fixed button), FIX_RTC, RESET_REG_SUP.
    const FLAGS: u32 = 1 << 0 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 10;
    let mut fadt = header(b"FACP", 5);
    fadt.resize(LENGTH, 0);
    let mut set = |at: usize, bytes: &[u8]| fadt[at..at + bytes.len()].copy_from_slice(bytes);
    set(36, &(facs as u32).to_le_bytes());
    set(40, &(dsdt as u32).to_le_bytes());
    set(46, &9u16.to_le_bytes()); // SCI
    set(56, &u32::from(PM1A_EVENT).to_le_bytes());
    set(64, &u32::from(PM1A_CONTROL).to_le_bytes());
    set(80, &u32::from(GPE0).to_le_bytes());
    set(88, &[4, 2, 0, 0, 4, 0]); // register block lengths: PM1 event, PM1 control, PM2, timer, GPE0, GPE1
    set(96, &0xfffu16.to_le_bytes()); // C2 latency: no C2
    set(98, &0xfffu16.to_le_bytes()); // C3 latency: no C3
    set(109, &(IAPC_NO_VGA | IAPC_NO_RTC).to_le_bytes());
    set(112, &FLAGS.to_le_bytes());
    set(116, &io_register(8, RESET_PORT));
    set(128, &[RESET_VALUE]);
    set(132, &facs.to_le_bytes());
    set(140, &dsdt.to_le_bytes());
    set(148, &io_register(32, PM1A_EVENT));
    set(172, &io_register(16, PM1A_CONTROL));
    set(220, &io_register(32, GPE0));
    sealed(fadt)
}

/// Generic address structure for a port (5.2.3.1).
fn io_register(bits: u8, port: u16) -> [u8; 12] {
    const SYSTEM_IO: u8 = 1;
    let access = match bits {
        8 => 1,
        16 => 2,
        _ => 3,
    };
    let mut register = [SYSTEM_IO, bits, 0, access, 0, 0, 0, 0, 0, 0, 0, 0];
    register[4..6].copy_from_slice(&port.to_le_bytes());
    register
}

/// MADT flag: there are two 8259 PICs. Linux looks no further then, and wants IRQ 0 of a timer that dom0 does not have. (That a domU has the
/// flag is libxl's.)
const PCAT_COMPAT: u32 = 1;

/// 5.2.12: a local APIC for each vCPU; processor id = vCPU id, which is how Linux learns the vCPU's number.
fn madt(vcpus: u32, flags: u32, interrupts: &[MadtEntry]) -> Vec<u8> {
    const ENABLED: u32 = 1;
    const LOCAL_APIC: u32 = 0xfee0_0000;
    let mut madt = header(b"APIC", 3);
    madt.extend_from_slice(&LOCAL_APIC.to_le_bytes());
    madt.extend_from_slice(&flags.to_le_bytes());
    for vcpu in 0..vcpus {
        match u8::try_from(apic_id(vcpu)) {
            Ok(id) if id < u8::MAX => {
                madt.extend_from_slice(&[0, 8, vcpu as u8, id]);
                madt.extend_from_slice(&ENABLED.to_le_bytes());
            }
            _ => {
                madt.extend_from_slice(&[9, 16, 0, 0]);
                madt.extend_from_slice(&apic_id(vcpu).to_le_bytes());
                madt.extend_from_slice(&ENABLED.to_le_bytes());
                madt.extend_from_slice(&vcpu.to_le_bytes());
            }
        }
    }
    interrupts.iter().for_each(|entry| madt.extend_from_slice(entry));
    sealed(madt)
}

/// AML (20.2): `Scope (\_SB) { Processor (P000, 0, 0, 0) {} ... }`.
fn dsdt(vcpus: u32) -> Vec<u8> {
    const SCOPE_OP: u8 = 0x10;
    const PROCESSOR_OP: [u8; 2] = [0x5b, 0x83];
    let mut processors = Vec::new();
    for vcpu in 0..vcpus.min(255) {
        let mut body = name(vcpu).to_vec();
        body.extend_from_slice(&[vcpu as u8, 0, 0, 0, 0, 0]);
        processors.extend_from_slice(&PROCESSOR_OP);
        processors.extend(package(&body));
    }
    let mut scope = b"\\_SB_".to_vec();
    scope.extend(processors);
    let mut dsdt = header(b"DSDT", 2);
    dsdt.push(SCOPE_OP);
    dsdt.extend(package(&scope));
    sealed(dsdt)
}

/// `P000` to `P0FE`.
fn name(vcpu: u32) -> [u8; 4] {
    let digit = |value: u32| b"0123456789ABCDEF"[value as usize & 15];
    [b'P', digit(vcpu >> 8), digit(vcpu >> 4), digit(vcpu)]
}

/// A package length, which counts itself, and what it covers (20.2.4).
fn package(body: &[u8]) -> Vec<u8> {
    let total = |own: usize| body.len() + own;
    let mut bytes = match () {
        () if total(1) < 1 << 6 => Vec::from([total(1) as u8]),
        () if total(2) < 1 << 12 => Vec::from([1 << 6 | total(2) as u8 & 15, (total(2) >> 4) as u8]),
        () => Vec::from([
            2 << 6 | total(3) as u8 & 15,
            (total(3) >> 4) as u8,
            (total(3) >> 12) as u8,
        ]),
    };
    bytes.extend_from_slice(body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(tables: &Tables, at: u64, address: u64) -> &[u8] {
        let start = (address - at) as usize;
        let len = u32::from_le_bytes(tables.bytes[start + 4..start + 8].try_into().unwrap()) as usize;
        &tables.bytes[start..start + len]
    }

    fn xsdt_entries(tables: &Tables, at: u64) -> Vec<u64> {
        let rsdp = &tables.bytes[(tables.rsdp - at) as usize..];
        let xsdt = table(tables, at, u64::from_le_bytes(rsdp[24..32].try_into().unwrap()));
        xsdt[36..]
            .chunks(8)
            .map(|entry| u64::from_le_bytes(entry.try_into().unwrap()))
            .collect()
    }

    #[test]
    fn everything_sums_to_zero_and_is_found() {
        const AT: u64 = 0xfc00_1000;
        let tables = domu(AT, 4);
        let rsdp = &tables.bytes[(tables.rsdp - AT) as usize..][..36];
        assert_eq!(&rsdp[..8], b"RSD PTR ");
        assert_eq!(rsdp[..20].iter().fold(0u8, |a, b| a.wrapping_add(*b)), 0);
        let mut signatures = Vec::new();
        for address in xsdt_entries(&tables, AT) {
            let found = table(&tables, AT, address);
            assert_eq!(found.iter().fold(0u8, |a, b| a.wrapping_add(*b)), 0);
            signatures.push(found[..4].to_vec());
        }
        assert_eq!(signatures, [b"FACP".to_vec(), b"APIC".to_vec()]);
    }

    #[test]
    fn madt_names_each_vcpu() {
        let madt = madt(130, 0, &[]);
        assert_eq!(madt[44..52], [0, 8, 0, 0, 1, 0, 0, 0]);
        assert_eq!(madt[52..60], [0, 8, 1, 2, 1, 0, 0, 0]);
        // 128 of 8 bytes would reach id 254; from 255 on they are x2APIC structures.
        let x2apic = &madt[44 + 128 * 8 - 8 + 8..];
        assert_eq!(x2apic[..4], [9, 16, 0, 0]);
        assert_eq!(x2apic[4..8], 256u32.to_le_bytes());
        assert_eq!(x2apic[12..16], 128u32.to_le_bytes());
    }

    /// As iasl compiles `Scope (\\_SB) { Processor (P000, 0, 0, 0) {} Processor (P001, 1, 0, 0) {} }`.
    #[test]
    fn dsdt_has_a_processor_for_each_vcpu() {
        let dsdt = dsdt(2);
        assert_eq!(
            dsdt[36..],
            *b"\x10\x20\\_SB_\x5b\x83\x0bP000\0\0\0\0\0\0\x5b\x83\x0bP001\x01\0\0\0\0\0"
        );
    }

    /// Offsets from ACPI 5.0, table 5-34.
    #[test]
    fn fadt_points_at_facs_and_dsdt() {
        const AT: u64 = 0xfc00_1000;
        let tables = domu(AT, 1);
        let fadt = table(&tables, AT, xsdt_entries(&tables, AT)[0]);
        assert_eq!((fadt[8], fadt.len()), (5, 268));
        let word = |at: usize| u64::from(u32::from_le_bytes(fadt[at..at + 4].try_into().unwrap()));
        assert_eq!(table(&tables, AT, word(36))[..4], *b"FACS");
        assert_eq!(table(&tables, AT, word(40))[..4], *b"DSDT");
        assert_eq!((word(36), word(40)), (word(132), word(140)));
        assert_eq!(word(36) % 64, 0, "the FACS must be aligned");
    }

    #[test]
    fn dom0_has_its_own_madt_among_the_machines_tables() {
        const AT: u64 = 0x10_0000;
        let io_apic = Vec::from([1, 12, 2, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
        let host = [0x7fe_1000, 0x1_2345_6000];
        let tables = dom0(AT, 1, core::slice::from_ref(&io_apic), &host);
        let listed = xsdt_entries(&tables, AT);
        let madt = table(&tables, AT, listed[0]);
        assert_eq!(madt[..4], *b"APIC");
        assert_eq!(madt[madt.len() - io_apic.len()..], io_apic);
        assert_eq!(listed[1..], host);
        let rsdp = &tables.bytes[(tables.rsdp - AT) as usize..];
        let rsdt = u32::from_le_bytes(rsdp[16..20].try_into().unwrap());
        let rsdt = table(&tables, AT, rsdt.into());
        assert_eq!(
            rsdt.len(),
            36 + 2 * 4,
            "the table above 4 GiB is in the XSDT only"
        );
        assert_eq!(rsdt[40..], 0x7fe_1000u32.to_le_bytes());
    }

    #[test]
    fn package_lengths_of_each_size() {
        assert_eq!(package(&[0; 10])[..1], [11]);
        assert_eq!(package(&[0; 100])[..2], [0x40 | (102 & 15), 102 >> 4]);
        let long = package(&[0; 5000]);
        assert_eq!(
            usize::from(long[0] & 15) | usize::from(long[1]) << 4 | usize::from(long[2]) << 12,
            long.len()
        );
    }
}
