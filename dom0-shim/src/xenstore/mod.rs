//! The xenstore server as a pure library: bytes of the wire protocol in, bytes out (xen docs/misc/xenstore.txt,
//! public/io/xs_wire.h).
//!
//! * [`wire`]: framing of requests and replies, error names.
//! * [`path`]: which paths are valid and what a relative one means.
//! * [`perms`]: who may read and write a node.
//! * [`tree`]: nodes, transactions over them.
//! * [`server`]: connections, watches, requests.
//!
//! The caller owns the rings: it feeds what a domain wrote into [`Server::receive`], carries
//! [`Server::take_output`] back, and acts on [`Effect`]s. A hostile domain can cost the server at most its quotas.

mod path;
mod perms;
mod server;
mod tree;
mod wire;

#[cfg(test)]
mod tests;

pub use perms::{Permission, parse_permissions};
pub use server::{ConnectionId, Effect, Server};
pub use wire::{Error, HEADER_SIZE, Kind, PAYLOAD_MAX, message};

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
    /// Bytes of one node's value.
    pub const VALUE: usize = 2048;
    /// Access-list entries of one node.
    pub const PERMISSIONS: usize = 5;
    /// Nodes looked at within one transaction.
    pub const TRANSACTION_NODES: usize = 1024;
    /// Bytes of replies not yet taken; more requests wait until the domain has read some.
    pub const OUTPUT: usize = 16 * 1024;
}
