//! The xenstore server as a pure library: bytes of the wire protocol in, bytes out (xen docs/misc/xenstore.txt,
//! public/io/xs_wire.h).
//!
//! * [`wire`]: framing of requests and replies, error names.
//! * [`path`]: which paths are valid and what a relative one means.
//! * [`perms`]: who may read and write a node.
//! * [`places`]: trees of names, where nodes and watches are.
//! * [`tree`]: the nodes; [`transaction`]: changes not committed yet; [`view`]: what one client may do to both.
//! * [`watches`]: who wants to know of which changes.
//! * [`connection`]: one client's half-read requests, replies, and what it holds.
//! * [`server`]: requests; [`domains`]: those that only dom0 may make.
//! * [`link`]: a domain's rings.
//! * [`tools`]: Xen's command line tools.
//!
//! A hostile domain can cost the server at most its quotas, and at each turn a few requests.

mod connection;
mod domains;
mod link;
mod path;
mod perms;
mod places;
mod server;
pub mod tools;
mod transaction;
mod tree;
mod view;
mod watches;
mod wire;

#[cfg(test)]
mod link_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;

pub use domains::Effect;
pub use link::{Link, Turn};
pub use perms::{Permission, parse_permissions};
pub use server::{Broken, ConnectionId, Server};
pub use wire::{Error, HEADER_SIZE, Header, Kind, PAYLOAD_MAX, message};

/// A domain's number.
pub type DomId = u16;

/// The privileged domain.
pub const DOM0: DomId = 0;

/// What an unprivileged domain may hold, as xenstored's defaults.
pub mod quota {
    /// Nodes owned.
    pub const NODES: usize = 1000;
    /// Watches set.
    pub const WATCHES: usize = 128;
    /// Transactions open.
    pub const TRANSACTIONS: usize = 10;
    /// A node stays below so many bytes: value, permissions, names of children.
    pub const NODE: usize = 2048;
    /// Access-list entries of one node.
    pub const PERMISSIONS: usize = 5;
    /// Nodes looked at within one transaction.
    pub const TRANSACTION_NODES: usize = 1024;
    /// Replies not yet taken; more requests wait until the domain has read some.
    pub const OUTSTANDING: usize = 20;
    /// Bytes of nodes, watches, transactions, and of messages not yet taken. Beyond, requests that take more are
    /// refused, and events are left out.
    pub const MEMORY: usize = 2 * 1024 * 1024 + 512 * 1024;
    /// Requests answered at a turn; then the others have theirs.
    pub const TURN: usize = 8;
    /// Watches at a changed node and above that are as much work as a request, whether or not they are told.
    pub const CONSIDERED: usize = 8;
}
