//! The xenstore wire protocol and the page it runs over.

/// Daemon control.
pub const XS_CONTROL: u32 = 0;
/// Children of a node.
pub const XS_DIRECTORY: u32 = 1;
/// Value of a node.
pub const XS_READ: u32 = 2;
/// Permissions of a node.
pub const XS_GET_PERMS: u32 = 3;
/// Watch a path.
pub const XS_WATCH: u32 = 4;
/// Stop watching.
pub const XS_UNWATCH: u32 = 5;
/// Start a transaction.
pub const XS_TRANSACTION_START: u32 = 6;
/// End it: "T" commits, "F" aborts.
pub const XS_TRANSACTION_END: u32 = 7;
/// A domain has its page and port.
pub const XS_INTRODUCE: u32 = 8;
/// Forget a domain.
pub const XS_RELEASE: u32 = 9;
/// Home path of a domain.
pub const XS_GET_DOMAIN_PATH: u32 = 10;
/// Write a node.
pub const XS_WRITE: u32 = 11;
/// Make a node.
pub const XS_MKDIR: u32 = 12;
/// Remove a node and those below.
pub const XS_RM: u32 = 13;
/// Set permissions of a node.
pub const XS_SET_PERMS: u32 = 14;
/// To the client: a watch fired.
pub const XS_WATCH_EVENT: u32 = 15;
/// To the client: the name of an error.
pub const XS_ERROR: u32 = 16;
/// Whether a domain is known.
pub const XS_IS_DOMAIN_INTRODUCED: u32 = 17;
/// A domain was resumed.
pub const XS_RESUME: u32 = 18;
/// A domain acts for another.
pub const XS_SET_TARGET: u32 = 19;
/// Drop the client's watches and transactions.
pub const XS_RESET_WATCHES: u32 = 21;
/// Children of a node, piecewise.
pub const XS_DIRECTORY_PART: u32 = 22;

/// Longest payload of a message.
pub const XENSTORE_PAYLOAD_MAX: usize = 4096;
/// Longest absolute path, without the terminating zero.
pub const XENSTORE_ABS_PATH_MAX: usize = 3072;
/// Longest relative path.
pub const XENSTORE_REL_PATH_MAX: usize = 2048;
/// Bytes of each ring.
pub const XENSTORE_RING_SIZE: u32 = 1024;

/// [`XenstoreDomainInterface::server_features`]: reconnection.
pub const XENSTORE_SERVER_FEATURE_RECONNECTION: u32 = 1;
/// [`XenstoreDomainInterface::server_features`]: the error field.
pub const XENSTORE_SERVER_FEATURE_ERROR: u32 = 2;
/// [`XenstoreDomainInterface::server_features`]: `XS_WATCH` takes a depth.
pub const XENSTORE_SERVER_FEATURE_WATCHDEPTH: u32 = 4;
/// [`XenstoreDomainInterface::connection`]: in use.
pub const XENSTORE_CONNECTED: u32 = 0;
/// [`XenstoreDomainInterface::connection`]: the guest asks for a fresh start.
pub const XENSTORE_RECONNECT: u32 = 1;
/// [`XenstoreDomainInterface::error`]: none.
pub const XENSTORE_ERROR_NONE: u32 = 0;
/// [`XenstoreDomainInterface::error`]: communication.
pub const XENSTORE_ERROR_COMM: u32 = 1;
/// [`XenstoreDomainInterface::error`]: invalid ring index.
pub const XENSTORE_ERROR_RINGIDX: u32 = 2;
/// [`XenstoreDomainInterface::error`]: protocol violation.
pub const XENSTORE_ERROR_PROTO: u32 = 3;

plain! {
    /// Header of each message, in both directions.
    pub struct XsdSockmsg {
        /// `XS_*`.
        pub type_: u32,
        /// Chosen by the client, echoed in the reply.
        pub req_id: u32,
        /// Transaction, or 0.
        pub tx_id: u32,
        /// Bytes that follow.
        pub len: u32,
    }
    /// The page. Indices run freely; take them modulo [`XENSTORE_RING_SIZE`].
    pub struct XenstoreDomainInterface {
        /// Requests.
        pub req: [u8; XENSTORE_RING_SIZE as usize],
        /// Replies and watch events.
        pub rsp: [u8; XENSTORE_RING_SIZE as usize],
        /// Next byte that the server reads.
        pub req_cons: u32,
        /// Next byte that the guest writes.
        pub req_prod: u32,
        /// Next byte that the guest reads.
        pub rsp_cons: u32,
        /// Next byte that the server writes.
        pub rsp_prod: u32,
        /// `XENSTORE_SERVER_FEATURE_*`.
        pub server_features: u32,
        /// [`XENSTORE_CONNECTED`] or [`XENSTORE_RECONNECT`].
        pub connection: u32,
        /// `XENSTORE_ERROR_*`.
        pub error: u32,
    }
}
