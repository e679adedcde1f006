//! Events in the raw form of EVENTINJ and EXITINTINFO (APM vol. 2, 15.20).

use crate::arch::{Event, EventKind};

use super::vmcb::event;

/// Raw form of `event`. The software kinds become what pushes the return address that the caller sees to (APM vol. 2, 15.20):
/// INT3, INTO and INT1 are exceptions there.
pub fn encode(event: Event) -> u64 {
    let kind = match event.kind {
        EventKind::ExternalInterrupt => event::INTERRUPT,
        EventKind::Nmi => event::NMI,
        EventKind::SoftwareInterrupt => event::SOFTWARE_INTERRUPT,
        EventKind::HardwareException
        | EventKind::SoftwareException
        | EventKind::PrivilegedSoftwareException => event::EXCEPTION,
    };
    let error = match event.error_code {
        Some(code) if kind == event::EXCEPTION => event::HAS_ERROR_CODE | u64::from(code) << 32,
        _ => 0,
    };
    event::VALID | kind | u64::from(event.vector) | error
}

/// Was `raw` raised by an instruction of the guest, which raises it again when executed again: INTn, INT3, INTO. RIP is still at that
/// instruction, and without next-RIP saving the CPU would push it as the return address, so that executing it again is the
/// only right way to deliver such an event a second time.
pub fn is_software(raw: u64) -> bool {
    match raw & event::TYPE {
        event::SOFTWARE_INTERRUPT => true,
        event::EXCEPTION => matches!(raw & 0xff, 3 | 4),
        _ => false,
    }
}

/// The event that `raw` stands for; `None`: none. Software kinds come without the length of their instruction.
pub fn decode(raw: u64) -> Option<Event> {
    if raw & event::VALID == 0 {
        return None;
    }
    let kind = match raw & event::TYPE {
        event::NMI => EventKind::Nmi,
        event::EXCEPTION => EventKind::HardwareException,
        event::SOFTWARE_INTERRUPT => EventKind::SoftwareInterrupt,
        _ => EventKind::ExternalInterrupt,
    };
    let error_code = (raw & event::HAS_ERROR_CODE != 0).then_some((raw >> 32) as u32);
    Some(Event {
        kind,
        vector: raw as u8,
        error_code,
        instruction_len: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_forms() {
        assert_eq!(encode(Event::interrupt(0xf3)), 0x8000_00f3);
        assert_eq!(encode(Event::nmi()), 0x8000_0202);
        assert_eq!(encode(Event::UD), 0x8000_0306);
        assert_eq!(encode(Event::exception(14, Some(6))), 0x6_8000_0b0e);
        let int80 = Event {
            kind: EventKind::SoftwareInterrupt,
            instruction_len: 2,
            ..Event::interrupt(0x80)
        };
        assert_eq!(encode(int80), 0x8000_0480);
    }

    #[test]
    fn there_and_back() {
        for event in [
            Event::interrupt(0xf3),
            Event::nmi(),
            Event::UD,
            Event::exception(14, Some(6)),
        ] {
            assert_eq!(decode(encode(event)), Some(event));
        }
        assert_eq!(decode(0x0000_0b0e), None);
    }

    #[test]
    fn software_events() {
        let bp = Event {
            kind: EventKind::SoftwareException,
            ..Event::exception(3, None)
        };
        assert!(is_software(encode(bp)));
        assert!(!is_software(encode(Event::GP0)));
        assert!(!is_software(encode(Event::interrupt(3))));
    }
}
