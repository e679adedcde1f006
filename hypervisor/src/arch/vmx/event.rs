//! Interruption information: the format of VM-entry interruption (SDM 3C 25.8.3), VM-exit interruption and IDT-vectoring
//! fields (25.9.2, 25.9.3). Pure.

use crate::arch::{Event, EventKind};

/// The field holds something.
pub const VALID: u32 = 1 << 31;
/// An error code goes with it.
pub const HAS_ERROR_CODE: u32 = 1 << 11;
/// VM-exit interruption only: the fault hit an IRET that had already ended NMI blocking (28.2.3).
pub const NMI_UNBLOCKED_BY_IRET: u32 = 1 << 12;

/// The vector of #MC.
pub const MACHINE_CHECK: u8 = 18;

/// Interruption types, bits 10:8.
const fn type_bits(kind: EventKind) -> u32 {
    let number = match kind {
        EventKind::ExternalInterrupt => 0,
        EventKind::Nmi => 2,
        EventKind::HardwareException => 3,
        EventKind::SoftwareInterrupt => 4,
        EventKind::PrivilegedSoftwareException => 5,
        EventKind::SoftwareException => 6,
    };
    number << 8
}

/// Does an event of this kind need the VM-entry instruction length.
pub const fn is_software(kind: EventKind) -> bool {
    matches!(
        kind,
        EventKind::SoftwareInterrupt | EventKind::SoftwareException | EventKind::PrivilegedSoftwareException
    )
}

/// The VM-entry interruption information for `event`. In real mode (`protected` false) no error code is pushed, and
/// asking for one fails the entry (27.2.1.3).
pub fn encode(event: Event, protected: bool) -> u32 {
    let error_code = if event.error_code.is_some() && protected {
        HAS_ERROR_CODE
    } else {
        0
    };
    VALID | type_bits(event.kind) | error_code | u32::from(event.vector)
}

/// The event that interruption information `info` tells; `None`: none, or of a type that does not exist. `error_code` and
/// `instruction_len` are asked for only where they mean something.
pub fn decode(
    info: u32,
    error_code: impl FnOnce() -> u32,
    instruction_len: impl FnOnce() -> u32,
) -> Option<Event> {
    if info & VALID == 0 {
        return None;
    }
    let kind = match (info >> 8) & 7 {
        0 => EventKind::ExternalInterrupt,
        2 => EventKind::Nmi,
        3 => EventKind::HardwareException,
        4 => EventKind::SoftwareInterrupt,
        5 => EventKind::PrivilegedSoftwareException,
        6 => EventKind::SoftwareException,
        _ => return None,
    };
    Some(Event {
        kind,
        vector: info as u8,
        error_code: (info & HAS_ERROR_CODE != 0).then(error_code),
        instruction_len: if is_software(kind) {
            instruction_len() as u8
        } else {
            0
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_encodings() {
        assert_eq!(encode(Event::interrupt(0x30), true), 0x8000_0030);
        assert_eq!(encode(Event::nmi(), true), 0x8000_0202);
        assert_eq!(encode(Event::GP0, true), 0x8000_0b0d);
        assert_eq!(encode(Event::GP0, false), 0x8000_030d);
        assert_eq!(encode(Event::UD, true), 0x8000_0306);
    }

    #[test]
    fn nothing_valid_nothing_decoded() {
        assert_eq!(decode(0x0000_0b0d, || 0, || 0), None);
        assert_eq!(decode(VALID | 1 << 8, || 0, || 0), None);
    }

    proptest! {
        /// What an exit tells is what the next entry delivers.
        #[test]
        fn round_trip(kind in prop::sample::select(&[0u32, 2, 3, 4, 5, 6][..]), vector: u8, error: bool, code: u32, len in 1u32..16) {
            let info = VALID | kind << 8 | u32::from(vector) | if error { HAS_ERROR_CODE } else { 0 };
            let event = decode(info, || code, || len).unwrap();
            prop_assert_eq!(encode(event, true), info);
            prop_assert_eq!(event.error_code, error.then_some(code));
            prop_assert_eq!(event.instruction_len, if kind >= 4 { len as u8 } else { 0 });
        }
    }
}
