//! A domain's switch from 2-level to FIFO delivery, while others send it events.
//!
//! It first says so, and then looks for bits that are set: what is pending becomes so again once its port has a word. A sender first sets the bit, and then looks whether
//! the domain has switched: then the event goes by FIFO as well. One of the two sees the other (all of these are sequentially consistent); if both do, it comes twice.
//!
//! `tests/models` runs this under the interleavings that the memory model allows.
#![forbid(unsafe_code)]

use super::fifo::PortState;
use super::two_level;
use crate::mm::guest::GuestFrame;
use crate::sync::atomic::{AtomicBool, Ordering::SeqCst};
use crate::types::Port;

/// Whether delivery is by FIFO. Changes with the domain's event lock held.
#[derive(Default, Debug)]
pub struct Switch(AtomicBool);

impl Switch {
    /// Is it?
    #[inline]
    pub fn is_made(&self) -> bool {
        self.0.load(SeqCst)
    }

    /// Deliver by FIFO, which is on, from now on. `ports` had bits in `shared`, and are to be held back if these are set.
    pub fn make<'a>(&self, shared: &GuestFrame, ports: impl Iterator<Item = (Port, &'a PortState)>) {
        self.0.store(true, SeqCst);
        for (port, state) in ports {
            if two_level::is_pending(shared, port) {
                state.hold_back();
            }
        }
    }

    /// Deliver by bits again. Nobody sends.
    pub fn undo(&self) {
        self.0.store(false, SeqCst);
    }
}
