//! States of a split device's ends, in their xenstore nodes `state`.

/// Unknown.
pub const XENBUS_STATE_UNKNOWN: u32 = 0;
/// Starting.
pub const XENBUS_STATE_INITIALISING: u32 = 1;
/// Ready to see the other end's details.
pub const XENBUS_STATE_INIT_WAIT: u32 = 2;
/// Details are published.
pub const XENBUS_STATE_INITIALISED: u32 = 3;
/// Connected.
pub const XENBUS_STATE_CONNECTED: u32 = 4;
/// Going away.
pub const XENBUS_STATE_CLOSING: u32 = 5;
/// Gone.
pub const XENBUS_STATE_CLOSED: u32 = 6;
/// Being reconfigured.
pub const XENBUS_STATE_RECONFIGURING: u32 = 7;
/// Reconfigured.
pub const XENBUS_STATE_RECONFIGURED: u32 = 8;
