//! VT-d's remapping units (VT-d specification 4.1, 11.4), which the hypervisor has no driver for: what firmware, or a system before, has left on is
//! switched off. It would translate addresses of devices by tables that lie in memory which is others' now, or drop interrupts that I/O APICs send.
// UNSAFETY: device registers.
#![expect(unsafe_code, reason = "device registers")]

use crate::mm::paging;
use crate::types::{Hpa, PAGE_SIZE};

/// Global command and global status, whose bits mean the same.
const COMMAND: usize = 0x18;
const STATUS: usize = 0x1c;
/// Protected memory.
const PROTECTED_ENABLE: usize = 0x64;
const PROTECTED_ON: u32 = 1 << 31;

const TRANSLATION: u32 = 1 << 31;
const INTERRUPT_REMAPPING: u32 = 1 << 25;
/// What the command register is not to be given of the status: commands that are done once (11.4.4.1).
const ONCE: u32 = 1 << 30 | 1 << 29 | 1 << 27 | 1 << 24;

/// The commands, one after the other, after which neither translation nor interrupt remapping is on, for a unit with this status; and the bits of the
/// status that are to go each time.
fn commands(status: u32) -> impl Iterator<Item = (u32, u32)> {
    let mut left = status & !ONCE;
    [TRANSLATION, INTERRUPT_REMAPPING]
        .into_iter()
        .filter(move |bit| status & bit != 0)
        .map(move |bit| {
            left &= !bit;
            (left, bit)
        })
}

/// Switch these units off.
pub fn switch_off(units: &[Hpa]) {
    /// So often a register is read before it is given up: far longer than any unit takes.
    const PATIENCE: u32 = 1_000_000;
    for &unit in units {
        let registers = paging::map_mmio(unit, PAGE_SIZE);
        // SAFETY: a mapped unit's registers, aligned, which nobody else has.
        let read = |offset: usize| unsafe { registers.add(offset).cast::<u32>().read_volatile() };
        // SAFETY: as above; the values switch off what nobody here relies on.
        let write =
            |offset: usize, value| unsafe { registers.add(offset).cast::<u32>().write_volatile(value) };
        let gone = |offset: usize, bit| (0..PATIENCE).any(|_| read(offset) & bit == 0);
        let status = read(STATUS);
        // Nothing is there, or it sleeps.
        if status == u32::MAX {
            continue;
        }
        let mut off = true;
        for (command, bit) in commands(status) {
            write(COMMAND, command);
            off &= gone(STATUS, bit);
        }
        if status & (TRANSLATION | INTERRUPT_REMAPPING) != 0 {
            let now = if off {
                "off now"
            } else {
                "and does not go off: devices will not work"
            };
            log::warn!("VT-d at {unit}: firmware has left remapping on (status {status:#x}): {now}");
        }
        if read(PROTECTED_ENABLE) & PROTECTED_ON != 0 {
            write(PROTECTED_ENABLE, 0);
            log::warn!("VT-d at {unit}: firmware has left memory protected from devices: no longer");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_goes_off_and_the_rest_stays() {
        const QUEUE: u32 = 1 << 26;
        const ROOT: u32 = 1 << 30;
        let of = |status| commands(status).collect::<Vec<_>>();
        assert_eq!(of(QUEUE | ROOT), []);
        assert_eq!(of(TRANSLATION | ROOT), [(0, TRANSLATION)]);
        assert_eq!(
            of(TRANSLATION | INTERRUPT_REMAPPING | QUEUE | ROOT),
            [
                (INTERRUPT_REMAPPING | QUEUE, TRANSLATION),
                (QUEUE, INTERRUPT_REMAPPING)
            ]
        );
    }
}
