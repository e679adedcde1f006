//! The I/O APICs (82093AA datasheet; ACPI 6.5, 5.2.12.3), and the silencing of the old interrupt controllers.
//!
//! Every line is masked but the few that the hypervisor uses itself. Destinations are physical APIC numbers.
// UNSAFETY: device registers.
#![expect(unsafe_code, reason = "device registers")]

use arrayvec::ArrayVec;
use x86_64::instructions::port::Port;

use super::percpu;
use crate::mm::paging;
use crate::sync::Mutex;
use crate::types::Hpa;

const MASKED: u32 = 1 << 16;

/// How a line interrupts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line {
    /// Global system interrupt.
    pub gsi: u32,
    /// Asserted when low.
    pub active_low: bool,
    /// Interrupts as long as it is asserted.
    pub level: bool,
}

/// An I/O APIC's registers.
#[derive(Debug)]
struct IoApic {
    registers: *mut u32,
    gsi_base: u32,
    lines: u32,
}

// SAFETY: device registers, accessed under the lock.
unsafe impl Send for IoApic {}

impl IoApic {
    fn read(&mut self, index: u32) -> u32 {
        // SAFETY: a mapped I/O APIC: index register at 0, data register at 0x10 (82093AA datasheet 3.1).
        unsafe {
            self.registers.write_volatile(index);
            self.registers.byte_add(0x10).read_volatile()
        }
    }

    fn write(&mut self, index: u32, value: u32) {
        // SAFETY: as above.
        unsafe {
            self.registers.write_volatile(index);
            self.registers.byte_add(0x10).write_volatile(value);
        }
    }
}

/// More than any machine has.
pub const MAX_IO_APICS: usize = 64;

static IO_APICS: Mutex<ArrayVec<IoApic, MAX_IO_APICS>> = Mutex::new(ArrayVec::new_const());

/// Take over an I/O APIC: all its lines masked. Returns how many lines it has.
pub fn add(base: Hpa, gsi_base: u32) -> u32 {
    let mut apic = IoApic {
        registers: paging::map_mmio(base, 4096).cast(),
        gsi_base,
        lines: 0,
    };
    apic.lines = (apic.read(1) >> 16 & 0xff) + 1;
    for line in 0..apic.lines {
        apic.write(0x10 + 2 * line, MASKED);
    }
    let lines = apic.lines;
    // A machine with more is not worth a panic: its other interrupts are just not routed.
    let _ = IO_APICS.lock().try_push(apic);
    lines
}

/// Send `line`'s interrupts to this CPU as `vector`. False if no I/O APIC has the line.
pub fn route(line: Line, vector: u8) -> bool {
    let mut apics = IO_APICS.lock();
    let Some(apic) = apics
        .iter_mut()
        .find(|a| (a.gsi_base..a.gsi_base + a.lines).contains(&line.gsi))
    else {
        return false;
    };
    let index = 0x10 + 2 * (line.gsi - apic.gsi_base);
    apic.write(index + 1, percpu::this().apic_id() << 24);
    apic.write(
        index,
        u32::from(vector) | u32::from(line.active_low) << 13 | u32::from(line.level) << 15,
    );
    true
}

/// Mask both 8259s, with their vectors out of the way of exceptions in case of a spurious interrupt.
pub fn silence_8259s() {
    let out = |port: u16, value: u8| {
        // SAFETY: the legacy interrupt controllers' ports, used by nobody else.
        unsafe { Port::new(port).write(value) }
    };
    for (command, data, vector, cascade) in [(0x20, 0x21, 0x20, 4), (0xa0, 0xa1, 0x28, 2)] {
        out(command, 0x11);
        out(data, vector);
        out(data, cascade);
        out(data, 1);
        out(data, 0xff);
    }
}
