//! The I/O APICs that dom0 sees (82093AA datasheet): as many, at the same addresses and with the same lines as the machine's.
//!
//! An unmasked line is bound to the machine's line of the same number, with dom0's trigger mode and polarity but the host's vector. A level
//! stays masked in the machine from its interrupt to dom0's EOI, since the host ends its own interrupt at once. Lines that the
//! hypervisor uses itself can be written and read back, and never interrupt.
#![forbid(unsafe_code)]

use alloc::boxed::Box;

use super::lapic::{self, Trigger};
use crate::domain::Domain;
use crate::hw::ioapic::{self, Line, Place};
use crate::sync::{Mutex, Rank};
use crate::types::Gpa;

/// Registers in memory.
mod window {
    pub const SELECT: u32 = 0;
    pub const DATA: u32 = 0x10;
}

/// Registers behind the window.
mod reg {
    pub const ID: u32 = 0;
    pub const VERSION: u32 = 1;
    pub const ARBITRATION: u32 = 2;
    pub const REDIRECTION: u32 = 0x10;
}

/// Version of an I/O APIC without a register for EOI, as Xen's.
const VERSION: u32 = 0x11;

/// Bits of a redirection entry.
mod entry {
    pub const VECTOR: u64 = 0xff;
    pub const LOWEST_PRIORITY: u64 = 1 << 8;
    pub const DELIVERY_MODE: u64 = 7 << 8;
    pub const LOGICAL: u64 = 1 << 11;
    pub const DELIVERY_STATUS: u64 = 1 << 12;
    pub const ACTIVE_LOW: u64 = 1 << 13;
    pub const REMOTE_IRR: u64 = 1 << 14;
    pub const LEVEL: u64 = 1 << 15;
    pub const MASKED: u64 = 1 << 16;
    pub const READ_ONLY: u64 = DELIVERY_STATUS | REMOTE_IRR;
    pub const WRITABLE: u64 = 0xff00_0000_0001_ffff & !READ_ONLY;
}

/// What the machine's line has to do after a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wiring {
    Interrupt(Line),
    Silence(Line),
}

/// An interrupt on its way to local APICs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Message {
    vector: u8,
    destination: u32,
    logical: bool,
    lowest_priority: bool,
    level: bool,
}

/// The registers of one I/O APIC.
#[derive(Debug)]
struct Registers {
    id: u32,
    gsi_base: u32,
    select: u32,
    redirections: Box<[u64]>,
}

impl Registers {
    fn new(place: &Place) -> Self {
        Self {
            id: place.id,
            gsi_base: place.gsi_base,
            select: 0,
            redirections: (0..place.lines).map(|_| entry::MASKED).collect(),
        }
    }

    fn read(&self, offset: u32) -> u32 {
        match (offset, self.select) {
            (window::SELECT, select) => select,
            (window::DATA, reg::ID | reg::ARBITRATION) => self.id << 24,
            (window::DATA, reg::VERSION) => VERSION | (self.redirections.len() as u32 - 1) << 16,
            (window::DATA, select) => self.redirection(select).map_or(0, |(line, shift)| {
                (self.redirections.get(line).copied().unwrap_or(0) >> shift) as u32
            }),
            _ => 0,
        }
    }

    /// The line of register `select`, and how far its half of the entry is shifted.
    fn redirection(&self, select: u32) -> Option<(usize, u32)> {
        let index = select.checked_sub(reg::REDIRECTION)?;
        let line = (index / 2) as usize;
        (line < self.redirections.len()).then_some((line, 32 * (index % 2)))
    }

    /// What the machine's line is to do now, if it was a redirection entry that was written.
    fn write(&mut self, offset: u32, value: u32) -> Option<Wiring> {
        match (offset, self.select) {
            (window::SELECT, _) => self.select = value & 0xff,
            (window::DATA, reg::ID) => self.id = value >> 24 & 0xf,
            (window::DATA, select) => {
                let (line, shift) = self.redirection(select)?;
                let redirection = self.redirections.get_mut(line)?;
                let kept = *redirection & !(0xffff_ffff << shift);
                let new = (kept | u64::from(value) << shift) & entry::WRITABLE;
                *redirection = new | *redirection & entry::READ_ONLY;
                // An edge is never in service: how guests end a level without a local APIC's EOI.
                if new & entry::LEVEL == 0 {
                    *redirection &= !entry::REMOTE_IRR;
                }
                return self.wiring(line);
            }
            _ => {}
        }
        None
    }

    fn wiring(&self, line: usize) -> Option<Wiring> {
        let redirection = *self.redirections.get(line)?;
        let line = Line {
            gsi: self.gsi_base + line as u32,
            active_low: redirection & entry::ACTIVE_LOW != 0,
            level: redirection & entry::LEVEL != 0,
        };
        Some(match redirection & (entry::MASKED | entry::REMOTE_IRR) {
            0 => Wiring::Interrupt(line),
            _ => Wiring::Silence(line),
        })
    }

    /// The machine's line has interrupted.
    fn assert(&mut self, gsi: u32) -> Option<Message> {
        let line = gsi.checked_sub(self.gsi_base)? as usize;
        let redirection = self.redirections.get_mut(line)?;
        let now = *redirection;
        let fixed = matches!(now & entry::DELIVERY_MODE, 0 | entry::LOWEST_PRIORITY);
        if now & (entry::MASKED | entry::REMOTE_IRR) != 0 || !fixed {
            return None;
        }
        let level = now & entry::LEVEL != 0;
        if level {
            *redirection |= entry::REMOTE_IRR;
        }
        Some(Message {
            vector: (now & entry::VECTOR) as u8,
            destination: (now >> 56) as u32,
            logical: now & entry::LOGICAL != 0,
            lowest_priority: now & entry::DELIVERY_MODE == entry::LOWEST_PRIORITY,
            level,
        })
    }

    /// Levels of `vector` are no longer in service; `wire` is told what their lines do now.
    fn end(&mut self, vector: u8, mut wire: impl FnMut(Wiring)) {
        for line in 0..self.redirections.len() {
            if let Some(redirection) = self.redirections.get_mut(line)
                && *redirection & entry::REMOTE_IRR != 0
                && *redirection & entry::VECTOR == u64::from(vector)
            {
                *redirection &= !entry::REMOTE_IRR;
                if let Some(wiring) = self.wiring(line) {
                    wire(wiring);
                }
            }
        }
    }
}

/// An I/O APIC of dom0.
#[derive(Debug)]
pub struct IoApic {
    page: Gpa,
    registers: Mutex<Registers>,
}

impl IoApic {
    /// One like the machine's at `place`, all lines masked.
    pub fn new(place: &Place) -> Self {
        Self {
            page: Gpa(place.base.0 & !0xfff),
            registers: Mutex::new(Rank::IoApic, Registers::new(place)),
        }
    }
}

fn at(domain: &Domain, gpa: Gpa) -> Option<&IoApic> {
    let io_apics = domain.io_apics.get()?;
    io_apics.iter().find(|io_apic| io_apic.page.0 == gpa.0 & !0xfff)
}

/// Does the domain have an I/O APIC at `gpa`?
pub fn owns(domain: &Domain, gpa: Gpa) -> bool {
    at(domain, gpa).is_some()
}

/// A read of a double word.
pub fn mmio_read(domain: &Domain, gpa: Gpa) -> u32 {
    at(domain, gpa).map_or(u32::MAX, |io_apic| {
        io_apic.registers.lock().read(gpa.page_offset() as u32 & 0xff)
    })
}

/// A write of a double word.
pub fn mmio_write(domain: &Domain, gpa: Gpa, value: u32) {
    if let Some(io_apic) = at(domain, gpa) {
        let mut registers = io_apic.registers.lock();
        if let Some(wiring) = registers.write(gpa.page_offset() as u32 & 0xff, value) {
            wire(wiring);
        }
    }
}

/// With the lock of the registers held, so that the machine's line does what they say last.
fn wire(wiring: Wiring) {
    match wiring {
        Wiring::Interrupt(line) => ioapic::bind(line),
        Wiring::Silence(line) => ioapic::silence(line),
    }
}

/// The machine's line `gsi` has interrupted: tell the vCPUs that dom0 has chosen for it.
pub fn assert(domain: &Domain, gsi: u32) {
    for io_apic in domain.io_apics.get().into_iter().flatten() {
        let message = io_apic.registers.lock().assert(gsi);
        if let Some(message) = message {
            return send(domain, message);
        }
    }
}

fn send(domain: &Domain, message: Message) {
    let trigger = if message.level {
        Trigger::Level
    } else {
        Trigger::Edge
    };
    if message.lowest_priority {
        if let Some(vcpu) = lapic::lowest_priority(domain, message.destination, message.logical) {
            lapic::raise(vcpu, message.vector, trigger);
        }
        return;
    }
    for vcpu in domain.vcpus() {
        if vcpu.apic.answers_to(message.destination, message.logical) {
            lapic::raise(vcpu, message.vector, trigger);
        }
    }
}

/// A vCPU has ended the interrupt of `vector`, a level. Lines that are still asserted interrupt again.
pub fn end_of_interrupt(domain: &Domain, vector: u8) {
    for io_apic in domain.io_apics.get().into_iter().flatten() {
        io_apic.registers.lock().end(vector, wire);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Hpa;
    use proptest::prelude::*;

    fn registers() -> Registers {
        Registers::new(&Place {
            base: Hpa(0xfec0_0000),
            id: 2,
            gsi_base: 8,
            lines: 24,
        })
    }

    fn write(registers: &mut Registers, select: u32, value: u32) -> Option<Wiring> {
        assert_eq!(registers.write(window::SELECT, select), None);
        registers.write(window::DATA, value)
    }

    fn read(registers: &mut Registers, select: u32) -> u32 {
        registers.write(window::SELECT, select);
        registers.read(window::DATA)
    }

    #[test]
    fn identity_and_size_are_the_machines() {
        let mut registers = registers();
        assert_eq!(read(&mut registers, reg::ID), 2 << 24);
        assert_eq!(read(&mut registers, reg::VERSION), 0x17_0011);
        assert_eq!(read(&mut registers, reg::REDIRECTION), 1 << 16);
        assert_eq!(read(&mut registers, reg::REDIRECTION + 48), 0);
    }

    #[test]
    fn a_level_is_silent_until_its_end() {
        let mut registers = registers();
        let line = Line {
            gsi: 11,
            active_low: true,
            level: true,
        };
        assert_eq!(
            write(&mut registers, 0x17, 3 << 24),
            Some(Wiring::Silence(Line {
                active_low: false,
                level: false,
                ..line
            })),
            "still masked"
        );
        assert_eq!(write(&mut registers, 0x16, 0xa041), Some(Wiring::Interrupt(line)));
        let message = registers.assert(11).expect("unmasked");
        assert_eq!(
            (message.vector, message.destination, message.level),
            (0x41, 3, true)
        );
        assert_eq!(read(&mut registers, 0x16), 0xe041, "remote IRR can be read");
        assert_eq!(registers.assert(11), None, "it is in service");
        assert_eq!(
            write(&mut registers, 0x16, 0xa041),
            Some(Wiring::Silence(line)),
            "unmasking it does not end it"
        );
        let mut end = |vector| {
            let mut ended = Vec::new();
            registers.end(vector, |wiring| ended.push(wiring));
            ended
        };
        assert_eq!(end(0x42), []);
        assert_eq!(end(0x41), [Wiring::Interrupt(line)]);
        assert_eq!(end(0x41), []);
    }

    #[test]
    fn masked_and_special_lines_say_nothing() {
        let mut registers = registers();
        assert_eq!(registers.assert(8), None);
        assert_eq!(registers.assert(7), None);
        assert_eq!(registers.assert(32), None);
        write(&mut registers, 0x10, 0x430);
        assert_eq!(registers.assert(8), None, "an NMI is not for a device to raise");
        write(&mut registers, 0x10, 0x30);
        assert!(registers.assert(8).is_some_and(|message| !message.level));
        assert!(registers.assert(8).is_some(), "an edge has no end");
    }

    proptest! {
        /// Whatever is written, the machine's lines are those of this I/O APIC, and what is read back has no bit that nobody wrote.
        #[test]
        fn any_writes(writes in prop::collection::vec((any::<u8>(), any::<u32>(), 0u32..40, any::<u8>()), 1..60)) {
            let mut registers = registers();
            for (select, value, gsi, vector) in writes {
                match write(&mut registers, select.into(), value) {
                    Some(Wiring::Interrupt(line)) => {
                        prop_assert!((8..32).contains(&line.gsi));
                        prop_assert!(value & 1 << 16 == 0 || select % 2 == 1);
                    }
                    Some(Wiring::Silence(line)) => prop_assert!((8..32).contains(&line.gsi)),
                    None => {}
                }
                if let Some(message) = registers.assert(gsi) {
                    prop_assert!((8..32).contains(&gsi) && message.destination < 256);
                }
                registers.end(vector, drop);
            }
            prop_assert!(registers.redirections.iter().all(|entry| entry & !(entry::WRITABLE | entry::REMOTE_IRR) == 0));
        }
    }
}
