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

/// The event channel to a front end.
pub trait Events {
    /// Waits for an event.
    ///
    /// # Errors
    /// The front end is to be served no longer.
    fn event(&self) -> impl Future<Output = Result<(), Stopped>>;

    /// Waits for an event, with nothing else to wait for: that none comes may be the end of a front end that is leaving.
    ///
    /// # Errors
    /// The front end is to be served no longer.
    fn event_or_end(&self) -> impl Future<Output = Result<(), Stopped>>;

    /// Lets other tasks run.
    ///
    /// # Errors
    /// The front end is to be served no longer.
    fn turn(&self) -> impl Future<Output = Result<(), Stopped>>;

    /// Sends the front end an event.
    fn notify(&self);
}

/// The link to a front end is being taken down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;
