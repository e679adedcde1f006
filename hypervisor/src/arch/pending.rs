//! What becomes of an event when another is raised while it is being delivered (SDM 3A table 6-5, APM vol. 2, table 8-5). Pure.

use super::{Event, EventKind};

/// What is delivered in the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Combined {
    /// This event.
    Event(Event),
    /// Nothing: the CPU shuts down.
    TripleFault,
}

/// How an exception combines with others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

/// #DF, which always pushes 0.
const DOUBLE_FAULT: Event = Event::exception(8, Some(0));

fn class(event: Event) -> Class {
    match (event.kind, event.vector) {
        (EventKind::HardwareException, 8) => Class::DoubleFault,
        // #DE, #TS, #NP, #SS, #GP, #CP
        (EventKind::HardwareException, 0 | 10..=13 | 21) => Class::Contributory,
        // #PF, #VE
        (EventKind::HardwareException, 14 | 20) => Class::PageFault,
        _ => Class::Benign,
    }
}

/// Deliver `second`, raised while `first` was on its way.
///
/// Where both stay alone the second wins: the instruction at RIP raises the first again when it is re-executed. (An interrupt whose
/// delivery faults is lost with that, as on hardware.)
pub fn combine(first: Event, second: Event) -> Combined {
    use Class::*;
    match (class(first), class(second)) {
        (DoubleFault, Contributory | PageFault) => Combined::TripleFault,
        (Contributory, Contributory) | (PageFault, Contributory | PageFault) => Combined::Event(DOUBLE_FAULT),
        _ => Combined::Event(second),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PF: Event = Event::exception(14, Some(2));
    const DB: Event = Event::exception(1, None);

    #[test]
    fn table_6_5() {
        let df = Combined::Event(DOUBLE_FAULT);
        assert_eq!(combine(Event::GP0, Event::GP0), df);
        assert_eq!(combine(PF, Event::GP0), df);
        assert_eq!(combine(PF, PF), df);
        assert_eq!(combine(Event::GP0, PF), Combined::Event(PF));
        assert_eq!(combine(DOUBLE_FAULT, PF), Combined::TripleFault);
        assert_eq!(combine(DOUBLE_FAULT, Event::GP0), Combined::TripleFault);
        assert_eq!(combine(DOUBLE_FAULT, DB), Combined::Event(DB));
        assert_eq!(combine(DB, Event::GP0), Combined::Event(Event::GP0));
    }

    #[test]
    fn interrupts_are_benign_whatever_their_vector() {
        assert_eq!(
            combine(Event::interrupt(14), Event::GP0),
            Combined::Event(Event::GP0)
        );
        assert_eq!(combine(Event::interrupt(13), PF), Combined::Event(PF));
    }
}
