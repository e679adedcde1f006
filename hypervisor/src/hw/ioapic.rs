//! The I/O APICs (82093AA datasheet; ACPI 6.5, 5.2.12.3), and the silencing of the old interrupt controllers.
//!
//! Every line is masked but the few that the hypervisor uses itself, and those that dom0 has bound. Destinations are physical APIC numbers.
// UNSAFETY: device registers.
#![expect(unsafe_code, reason = "device registers")]

use arrayvec::ArrayVec;
use x86_64::instructions::port::Port;

use super::irq::vector;
use super::percpu;
use crate::mm::paging;
use crate::sync::{Mutex, Rank};
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

/// Where an I/O APIC is, and which lines it has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Its registers.
    pub base: Hpa,
    /// Its number.
    pub id: u32,
    /// Its first line.
    pub gsi_base: u32,
    /// How many there are.
    pub lines: u32,
}

/// Most lines of an I/O APIC: their number is a byte.
const MAX_LINES: usize = 256;

/// An I/O APIC's registers.
#[derive(Debug)]
struct IoApic {
    registers: *mut u32,
    place: Place,
    uses: [Use; MAX_LINES],
}

/// Who uses a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Use {
    Nobody,
    /// It makes system management interrupts.
    Firmware,
    Hypervisor,
    Dom0(Line),
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

    /// Send the interrupts of `line`, one of these lines, to this CPU: `as_what` is delivery mode and vector. `false`: it cannot reach this CPU.
    fn route(&mut self, line: Line, as_what: u32) -> bool {
        let apic_id = percpu::this().apic_id();
        let Some(destination) = destination(apic_id) else {
            log::error!(
                "line {}: no I/O APIC can send to local APIC {apic_id:#x} without interrupt remapping; it stays masked",
                line.gsi
            );
            return false;
        };
        let index = 0x10 + 2 * (line.gsi - self.place.gsi_base);
        self.write(index + 1, destination);
        self.write(index, as_what | mode(line));
        true
    }

    /// Mode and vector stay: a level that goes is forgotten, and the end of an interrupt finds its line by the vector.
    fn mask(&mut self, line: Line) {
        let vector = vector::of_line(line.gsi).unwrap_or(0);
        self.write(
            0x10 + 2 * (line.gsi - self.place.gsi_base),
            MASKED | u32::from(vector) | mode(line),
        );
    }

    fn has(&self, gsi: u32) -> bool {
        (self.place.gsi_base..self.place.gsi_base + self.place.lines).contains(&gsi)
    }

    /// Who uses a line that it has.
    fn user(&mut self, gsi: u32) -> &mut Use {
        &mut self.uses[(gsi - self.place.gsi_base) as usize % MAX_LINES]
    }
}

/// The upper half of a redirection entry for a local APIC. It has eight bits for it, and all ones are all CPUs (SDM 3 12.6.2.1).
fn destination(apic_id: u32) -> Option<u32> {
    (apic_id < 0xff).then_some(apic_id << 24)
}

/// Polarity and trigger mode of a redirection entry.
fn mode(line: Line) -> u32 {
    u32::from(line.active_low) << 13 | u32::from(line.level) << 15
}

/// More than any machine has.
pub const MAX_IO_APICS: usize = 64;

static IO_APICS: Mutex<ArrayVec<IoApic, MAX_IO_APICS>> =
    Mutex::new(Rank::MachineIoApics, ArrayVec::new_const());

/// Is it the lower half of a redirection entry for system management interrupts, which firmware lives by (82093AA datasheet 3.2.4)?
fn is_firmwares(entry: u32) -> bool {
    const SMI: u32 = 2 << 8;
    entry & (MASKED | 7 << 8) == SMI
}

/// Take over an I/O APIC: all its lines masked, but for firmware's own. Returns how many lines it has.
pub fn add(base: Hpa, gsi_base: u32) -> u32 {
    let mut apic = IoApic {
        registers: paging::map_mmio(base, 4096).cast(),
        place: Place {
            base,
            id: 0,
            gsi_base,
            lines: 0,
        },
        uses: [Use::Nobody; MAX_LINES],
    };
    apic.place.id = apic.read(0) >> 24 & 0xf;
    apic.place.lines = (apic.read(1) >> 16 & 0xff) + 1;
    let lines = apic.place.lines;
    for line in 0..lines {
        if is_firmwares(apic.read(0x10 + 2 * line)) {
            apic.uses[line as usize % MAX_LINES] = Use::Firmware;
            continue;
        }
        // By edges: what was pending of a level is forgotten with it.
        apic.mask(Line {
            gsi: gsi_base + line,
            active_low: false,
            level: false,
        });
    }
    // A machine with more is not worth a panic: its other interrupts are just not routed.
    let _ = IO_APICS.lock().try_push(apic);
    lines
}

/// Those of the machine.
pub fn places() -> ArrayVec<Place, MAX_IO_APICS> {
    IO_APICS.lock().iter().map(|apic| apic.place).collect()
}

/// Work on the I/O APIC that has line `gsi`, if there is one.
fn with<R>(gsi: u32, work: impl FnOnce(&mut IoApic) -> R) -> Option<R> {
    IO_APICS.lock().iter_mut().find(|apic| apic.has(gsi)).map(work)
}

/// Who uses line `gsi`, if anybody does, and its redirection entry (82093AA datasheet 3.2.4).
pub fn user_of(gsi: u32) -> Option<(&'static str, u64)> {
    with(gsi, |apic| {
        let user = match apic.user(gsi) {
            Use::Nobody => return None,
            Use::Firmware => "firmware",
            Use::Hypervisor => "Oxen",
            Use::Dom0(_) => "dom0",
        };
        let index = 0x10 + 2 * (gsi - apic.place.gsi_base);
        Some((
            user,
            u64::from(apic.read(index + 1)) << 32 | u64::from(apic.read(index)),
        ))
    })?
}

/// Send `line`'s interrupts to this CPU as `vector`, for the hypervisor's own use. False if no I/O APIC has the line, or
/// can reach this CPU.
pub fn route(line: Line, vector: u8) -> bool {
    with(line.gsi, |apic| {
        *apic.user(line.gsi) = Use::Hypervisor;
        apic.route(line, vector.into())
    })
    .unwrap_or(false)
}

/// The same as a non-maskable interrupt, which is by edges (82093AA datasheet 3.2.4).
pub fn route_nmi(line: Line) -> bool {
    const NMI: u32 = 4 << 8;
    let edges = Line { level: false, ..line };
    with(line.gsi, |apic| {
        *apic.user(line.gsi) = Use::Hypervisor;
        apic.route(edges, NMI)
    })
    .unwrap_or(false)
}

/// Send `line`'s interrupts to this CPU for dom0, unless the hypervisor or firmware uses the line, or there is no vector for it.
pub fn bind(line: Line) {
    let Some(vector) = vector::of_line(line.gsi) else {
        return log::warn!("line {} has no vector: dom0 gets no interrupts of it", line.gsi);
    };
    with(line.gsi, |apic| {
        if matches!(apic.user(line.gsi), Use::Nobody | Use::Dom0(_)) {
            *apic.user(line.gsi) = Use::Dom0(line);
            apic.route(line, vector.into());
        }
    });
}

/// Mask `line`, for dom0, if it has that.
pub fn silence(line: Line) {
    with(line.gsi, |apic| {
        if matches!(apic.user(line.gsi), Use::Dom0(_)) {
            *apic.user(line.gsi) = Use::Nobody;
            apic.mask(line);
        }
    });
}

/// Send to CPU `to` what goes to CPU `from` for dom0. What has been sent already still arrives there.
pub fn move_lines(from: u32, to: u32) {
    let named = |id| destination(percpu::get(id)?.apic_id());
    let (Some(from), Some(to)) = (named(from), named(to)) else {
        return;
    };
    for apic in IO_APICS.lock().iter_mut() {
        for line in 0..apic.place.lines {
            let high = 0x10 + 2 * line + 1;
            if matches!(apic.uses[line as usize % MAX_LINES], Use::Dom0(_)) && apic.read(high) == from {
                apic.write(high, to);
            }
        }
    }
}

/// Line `gsi` has interrupted: a level, which would go on, is masked until [`bind`]. Interrupts are only on where nobody has the lock.
pub fn arrived(gsi: u32) {
    with(gsi, |apic| {
        if let Use::Dom0(line) = *apic.user(gsi)
            && line.level
        {
            apic.mask(line);
        }
    });
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_firmware() {
        assert!(is_firmwares(0x0200) && is_firmwares(0xa2ff));
        assert!(!is_firmwares(0x1_0200), "masked");
        assert!(!is_firmwares(0) && !is_firmwares(0x0700) && !is_firmwares(0x0400));
    }

    #[test]
    fn a_cpu_that_eight_bits_do_not_name_gets_no_line() {
        assert_eq!(destination(0), Some(0));
        assert_eq!(destination(0xfe), Some(0xfe00_0000));
        assert_eq!(destination(0xff), None, "all CPUs");
        assert_eq!(destination(0x101), None, "not CPU 1");
    }
}
