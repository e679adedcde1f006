//! Network devices. "TX" and "RX" are seen from the guest.

use crate::grant::GrantRef;

/// Slots that a back end must accept for one packet.
pub const XEN_NETIF_NR_SLOTS_MIN: usize = 18;
/// TX: the checksum is missing.
pub const NETTXF_CSUM_BLANK: u16 = 1 << 0;
/// TX: the data is known to be good.
pub const NETTXF_DATA_VALIDATED: u16 = 1 << 1;
/// TX: the packet continues in the next slot.
pub const NETTXF_MORE_DATA: u16 = 1 << 2;
/// TX: a [`NetifExtraInfo`] follows.
pub const NETTXF_EXTRA_INFO: u16 = 1 << 3;
/// RX: the data is known to be good.
pub const NETRXF_DATA_VALIDATED: u16 = 1 << 0;
/// RX: the checksum is missing.
pub const NETRXF_CSUM_BLANK: u16 = 1 << 1;
/// RX: the packet continues in the next slot.
pub const NETRXF_MORE_DATA: u16 = 1 << 2;
/// RX: a [`NetifExtraInfo`] follows.
pub const NETRXF_EXTRA_INFO: u16 = 1 << 3;
/// RX: old form of segmentation offload.
pub const NETRXF_GSO_PREFIX: u16 = 1 << 4;
/// Extra: segmentation offload.
pub const XEN_NETIF_EXTRA_TYPE_GSO: u8 = 1;
/// Extra: join a multicast group.
pub const XEN_NETIF_EXTRA_TYPE_MCAST_ADD: u8 = 2;
/// Extra: leave a multicast group.
pub const XEN_NETIF_EXTRA_TYPE_MCAST_DEL: u8 = 3;
/// Extra: flow hash.
pub const XEN_NETIF_EXTRA_TYPE_HASH: u8 = 4;
/// [`NetifExtraInfo::flags`]: another one follows.
pub const XEN_NETIF_EXTRA_FLAG_MORE: u8 = 1 << 0;
/// Segmentation: none.
pub const XEN_NETIF_GSO_TYPE_NONE: u8 = 0;
/// Segmentation: TCP over IPv4.
pub const XEN_NETIF_GSO_TYPE_TCPV4: u8 = 1;
/// Segmentation: TCP over IPv6.
pub const XEN_NETIF_GSO_TYPE_TCPV6: u8 = 2;
/// Hash over the addresses of IPv4.
pub const XEN_NETIF_CTRL_HASH_TYPE_IPV4: u32 = 1 << 0;
/// Hash over addresses and ports of TCP over IPv4.
pub const XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP: u32 = 1 << 1;
/// Hash over the addresses of IPv6.
pub const XEN_NETIF_CTRL_HASH_TYPE_IPV6: u32 = 1 << 2;
/// Hash over addresses and ports of TCP over IPv6.
pub const XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP: u32 = 1 << 3;
/// Hash algorithm: there are no hashes.
pub const XEN_NETIF_CTRL_HASH_ALGORITHM_NONE: u32 = 0;
/// Hash algorithm: Toeplitz.
pub const XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ: u32 = 1;
/// Control: which hash types are there.
pub const XEN_NETIF_CTRL_TYPE_GET_HASH_FLAGS: u16 = 1;
/// Control: which hash types to calculate (`data[0]`).
pub const XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS: u16 = 2;
/// Control: the key, in a granted page (`data[0]`), and its bytes (`data[1]`).
pub const XEN_NETIF_CTRL_TYPE_SET_HASH_KEY: u16 = 3;
/// Control: most entries of the mapping from hashes to queues.
pub const XEN_NETIF_CTRL_TYPE_GET_HASH_MAPPING_SIZE: u16 = 4;
/// Control: a new mapping of so many entries (`data[0]`), all 0.
pub const XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE: u16 = 5;
/// Control: part of the mapping, u32 each, in a granted page (`data[0]`): so many entries (`data[1]`) from one on
/// (`data[2]`).
pub const XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING: u16 = 6;
/// Control: the hash algorithm (`data[0]`).
pub const XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM: u16 = 7;
/// Control: done.
pub const XEN_NETIF_CTRL_STATUS_SUCCESS: u32 = 0;
/// Control: there is no such request, or not now.
pub const XEN_NETIF_CTRL_STATUS_NOT_SUPPORTED: u32 = 1;
/// Control: a value is not possible.
pub const XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER: u32 = 2;
/// Control: more than the back end has room for.
pub const XEN_NETIF_CTRL_STATUS_BUFFER_OVERFLOW: u32 = 3;
/// Dropped.
pub const NETIF_RSP_DROPPED: i16 = -2;
/// Failed.
pub const NETIF_RSP_ERROR: i16 = -1;
/// Done.
pub const NETIF_RSP_OKAY: i16 = 0;
/// The slot had no request of its own.
pub const NETIF_RSP_NULL: i16 = 1;

plain! {
    /// Fragment to send.
    pub struct NetifTxRequest {
        /// The page.
        pub gref: GrantRef,
        /// First byte.
        pub offset: u16,
        /// `NETTXF_*`.
        pub flags: u16,
        /// Echoed in the response.
        pub id: u16,
        /// Bytes; in the first fragment those of the whole packet.
        pub size: u16,
    }
    /// Extra information, in a slot of either ring.
    pub struct NetifExtraInfo {
        /// `XEN_NETIF_EXTRA_TYPE_*`.
        pub type_: u8,
        /// `XEN_NETIF_EXTRA_FLAG_*`.
        pub flags: u8,
        /// GSO: size u16, type u8, pad u8, features u16. Multicast: the address. Hash: type u8,
        /// algorithm u8, value u8 x 4.
        pub u: [u8; 6],
    }
    /// Request on the control ring.
    pub struct NetifCtrlRequest {
        /// Echoed in the response.
        pub id: u16,
        /// `XEN_NETIF_CTRL_TYPE_*`.
        pub type_: u16,
        /// By type.
        pub data: [u32; 3],
    }
    /// Outcome of a request on the control ring.
    pub struct NetifCtrlResponse {
        /// As in the request.
        pub id: u16,
        /// As in the request.
        pub type_: u16,
        /// `XEN_NETIF_CTRL_STATUS_*`.
        pub status: u32,
        /// By type, if it is a success.
        pub data: u32,
    }
    /// Outcome of a fragment.
    pub struct NetifTxResponse {
        /// As in the request.
        pub id: u16,
        /// `NETIF_RSP_*`.
        pub status: i16,
    }
    /// Buffer to receive into.
    pub struct NetifRxRequest {
        /// Echoed in the response.
        pub id: u16,
        /// Padding.
        pub pad: u16,
        /// The page.
        pub gref: GrantRef,
    }
    /// Fragment received.
    pub struct NetifRxResponse {
        /// As in the request.
        pub id: u16,
        /// First byte.
        pub offset: u16,
        /// `NETRXF_*`.
        pub flags: u16,
        /// Bytes, or negative: `NETIF_RSP_*`.
        pub status: i16,
    }
}
