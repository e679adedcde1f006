//! The console page of a domain. "In" and "out" are seen from the guest.

/// Bytes of the input ring.
pub const XENCONS_IN_SIZE: u32 = 1024;
/// Bytes of the output ring.
pub const XENCONS_OUT_SIZE: u32 = 2048;

plain! {
    /// The page. Indices run freely; take them modulo the ring's size.
    pub struct XenconsInterface {
        /// To the guest.
        pub in_: [u8; XENCONS_IN_SIZE as usize],
        /// From the guest.
        pub out: [u8; XENCONS_OUT_SIZE as usize],
        /// Next byte that the guest reads.
        pub in_cons: u32,
        /// Next byte that the back end writes.
        pub in_prod: u32,
        /// Next byte that the back end reads.
        pub out_cons: u32,
        /// Next byte that the guest writes.
        pub out_prod: u32,
    }
}
