//! Back ends of paravirtual devices: what they have in common, whatever the device.
//!
//! * [`bytes`]: rings of bytes, of xenstore and consoles.
//! * [`ring`]: the shared ring, from the back end's side.
//! * [`xenbus`]: the states that both ends go through.
//!
//! The front end is a guest: it may write anything at any time to the ring's pages and to its xenstore nodes.

pub mod bytes;
pub mod ring;
pub mod xenbus;
