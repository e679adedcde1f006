//! Messages of the wire protocol: 16-byte header, payload of at most 4096 bytes.

use abi::io::xs_wire::*;
use alloc::vec::Vec;

/// Bytes of a message header.
pub const HEADER_SIZE: usize = 16;
/// Largest payload; a longer one ends the connection.
pub const PAYLOAD_MAX: usize = XENSTORE_PAYLOAD_MAX;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:path,)*) => {
        /// Message types (`enum xsd_sockmsg_type`).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Kind { $($(#[$doc])* $name = $number,)* }

        impl Kind {
            /// The type with this number, if there is one.
            pub fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    /// `XS_CONTROL`
    Control = XS_CONTROL,
    /// `XS_DIRECTORY`
    Directory = XS_DIRECTORY,
    /// `XS_READ`
    Read = XS_READ,
    /// `XS_GET_PERMS`
    GetPerms = XS_GET_PERMS,
    /// `XS_WATCH`
    Watch = XS_WATCH,
    /// `XS_UNWATCH`
    Unwatch = XS_UNWATCH,
    /// `XS_TRANSACTION_START`
    TransactionStart = XS_TRANSACTION_START,
    /// `XS_TRANSACTION_END`
    TransactionEnd = XS_TRANSACTION_END,
    /// `XS_INTRODUCE`
    Introduce = XS_INTRODUCE,
    /// `XS_RELEASE`
    Release = XS_RELEASE,
    /// `XS_GET_DOMAIN_PATH`
    GetDomainPath = XS_GET_DOMAIN_PATH,
    /// `XS_WRITE`
    Write = XS_WRITE,
    /// `XS_MKDIR`
    Mkdir = XS_MKDIR,
    /// `XS_RM`
    Rm = XS_RM,
    /// `XS_SET_PERMS`
    SetPerms = XS_SET_PERMS,
    /// `XS_WATCH_EVENT`: server to client only
    WatchEvent = XS_WATCH_EVENT,
    /// `XS_ERROR`: server to client only
    Error = XS_ERROR,
    /// `XS_IS_DOMAIN_INTRODUCED`
    IsDomainIntroduced = XS_IS_DOMAIN_INTRODUCED,
    /// `XS_RESUME`
    Resume = XS_RESUME,
    /// `XS_SET_TARGET`
    SetTarget = XS_SET_TARGET,
    /// `XS_RESET_WATCHES`
    ResetWatches = XS_RESET_WATCHES,
    /// `XS_DIRECTORY_PART`
    DirectoryPart = XS_DIRECTORY_PART,
}

macro_rules! errors {
    ($($(#[$doc:meta])* $variant:ident $name:literal,)*) => {
        /// Errors that the protocol has names for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Error { $($(#[$doc])* $variant,)* }

        impl Error {
            /// The name sent in an `XS_ERROR` reply.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The error with this name; used by clients.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

errors! {
    /// Malformed request or path.
    Invalid "EINVAL",
    /// The permissions forbid it.
    Access "EACCES",
    /// Already there.
    Exists "EEXIST",
    /// No such node, watch, transaction or domain.
    NotFound "ENOENT",
    /// A quota is used up.
    NoSpace "ENOSPC",
    /// The client has taken all memory that it may.
    NoMemory "ENOMEM",
    /// Not offered.
    NotSupported "ENOSYS",
    /// Not in a transaction.
    Busy "EBUSY",
    /// The transaction conflicts with another change: start again.
    Again "EAGAIN",
    /// Too big for a reply, or too many watches.
    TooBig "E2BIG",
    /// Only the privileged domain may.
    NotPermitted "EPERM",
}

/// The fixed head of every message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// `XS_*`.
    pub kind: u32,
    /// Chosen by the client, echoed in the reply.
    pub request: u32,
    /// Transaction, or 0.
    pub transaction: u32,
    /// Bytes that follow.
    pub length: u32,
}

impl Header {
    /// Decodes a header; `bytes` are the first 16 of a message.
    pub fn decode(bytes: &[u8; HEADER_SIZE]) -> Self {
        let word = |at: usize| {
            bytes[at..]
                .first_chunk()
                .copied()
                .map(u32::from_le_bytes)
                .unwrap_or_default()
        };
        Self {
            kind: word(0),
            request: word(4),
            transaction: word(8),
            length: word(12),
        }
    }
}

/// Encodes a message. A payload above [`PAYLOAD_MAX`] is the caller's bug and is cut off.
pub fn message(kind: Kind, request: u32, transaction: u32, payload: &[u8]) -> Vec<u8> {
    debug_assert!(payload.len() <= PAYLOAD_MAX);
    let payload = &payload[..payload.len().min(PAYLOAD_MAX)];
    let mut bytes = Vec::with_capacity(HEADER_SIZE + payload.len());
    for word in [kind as u32, request, transaction, payload.len() as u32] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.extend_from_slice(payload);
    bytes
}

/// Splits a payload of NUL-terminated strings; a missing last NUL or a string that is not UTF-8 is invalid.
pub(super) fn strings(payload: &[u8]) -> Result<Vec<&str>, Error> {
    let Some((&0, body)) = payload.split_last() else {
        return Err(Error::Invalid);
    };
    body.split(|&byte| byte == 0)
        .map(|part| core::str::from_utf8(part).map_err(|_| Error::Invalid))
        .collect()
}

/// Exactly `N` NUL-terminated strings.
pub(super) fn exactly<const N: usize>(payload: &[u8]) -> Result<[&str; N], Error> {
    strings(payload)?.try_into().map_err(|_| Error::Invalid)
}
