//! The back end of a network device, as far as it needs no hypervisor: what the front end's rings say, and what is
//! written into them.
//!
//! * [`grants`]: pages that the front end has granted.
//! * [`tx`]: packets from the front end.
//! * [`rx`]: packets to the front end.
//! * [`hash`]: to which of its queues they go, if it has a say; [`control`]: how it says so.
//! * [`multicast`]: which of those to groups.
//!
//! As Linux's netback does, a packet that is wrong in itself is answered with an error, and a ring that no correct
//! front end could have written is not looked at again ([`Broken`]).

pub mod control;
pub mod grants;
pub mod hash;
pub mod multicast;
pub mod rx;
pub mod tx;

use crate::backend::ring;

/// The ring holds what no correct front end writes; a sentence says what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken(pub &'static str);

impl From<ring::Broken> for Broken {
    fn from(_: ring::Broken) -> Self {
        Self("an impossible number of requests")
    }
}

/// What a turn of a ring brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The front end wants an event.
    pub notify: bool,
    /// There is more to do right now.
    pub more: bool,
}

#[cfg(test)]
mod fake;
