//! The shared ring that block and network devices use: this header, then entries, as many as fit
//! rounded down to a power of two. Indices run freely.

/// Bytes before the first entry.
pub const SRING_HEADER_SIZE: usize = size_of::<SringHeader>();

plain! {
    /// Start of the ring.
    pub struct SringHeader {
        /// Requests published by the front end.
        pub req_prod: u32,
        /// The back end wants an event when `req_prod` passes this.
        pub req_event: u32,
        /// Responses published by the back end.
        pub rsp_prod: u32,
        /// The front end wants an event when `rsp_prod` passes this.
        pub rsp_event: u32,
        /// Private to the device class, then padding.
        pub pad: [u8; 48],
    }
}

/// Entries of `entry_size` bytes in a ring of `ring_bytes`: the largest power of two that fits, or
/// 0 if none does.
pub const fn ring_entries(ring_bytes: usize, entry_size: usize) -> u32 {
    let room = ring_bytes.saturating_sub(SRING_HEADER_SIZE);
    match room.checked_div(entry_size) {
        None | Some(0) => 0,
        Some(fit) => 1 << fit.ilog2(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_the_power_of_two_that_fits() {
        assert_eq!(ring_entries(4096, 112), 32); // blkif
        assert_eq!(ring_entries(4096, 12), 256); // netif TX
        assert_eq!(ring_entries(4096, 8), 256); // netif RX
        assert_eq!(ring_entries(63, 8), 0);
        assert_eq!(ring_entries(4096, 0), 0);
    }
}
