//! Frames that a guest shares with the hypervisor.

#[path = "../../src/mm/fallible.rs"]
pub mod fallible;

/// `hypervisor::mm::guest` as far as the models go.
pub mod guest {
    use std::sync::Arc;

    use crate::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::SeqCst};

    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub enum Access {
        Read,
        Write,
    }

    /// What is used of a frame. Loom has no memory that is accessed in different sizes: those are apart here. No protocol needs them to be one.
    pub struct GuestFrame(Arc<Memory>);

    /// Where 64 bits are used as one: a selector, and the first bits of those that say what is pending or masked.
    const QUADS: [u64; 4] = [0, 8, 2048, 2560];

    struct Memory {
        bytes: [AtomicU8; 2],
        halves: [AtomicU16; 2],
        words: [AtomicU32; 12],
        quads: [AtomicU64; QUADS.len()],
    }

    impl GuestFrame {
        /// Zeros.
        pub fn new() -> Self {
            Self(Arc::new(Memory {
                bytes: std::array::from_fn(|_| AtomicU8::new(0)),
                halves: std::array::from_fn(|_| AtomicU16::new(0)),
                words: std::array::from_fn(|_| AtomicU32::new(0)),
                quads: std::array::from_fn(|_| AtomicU64::new(0)),
            }))
        }

        /// The same frame for somebody else.
        pub fn share(&self) -> Self {
            Self(self.0.clone())
        }

        pub fn u8_at(&self, at: u64) -> &AtomicU8 {
            &self.0.bytes[at as usize]
        }

        pub fn u16_at(&self, at: u64) -> &AtomicU16 {
            &self.0.halves[at as usize / 2]
        }

        pub fn u32_at(&self, at: u64) -> &AtomicU32 {
            &self.0.words[at as usize / 4]
        }

        pub fn u64_at(&self, at: u64) -> &AtomicU64 {
            let index = QUADS.iter().position(|quad| *quad == at);
            &self.0.quads[index.expect("one of these")]
        }

        pub fn copy_out(&self, at: u64, to: &mut [u8]) {
            for (at, byte) in (at..).zip(to) {
                *byte = self.u8_at(at).load(SeqCst);
            }
        }

        pub fn copy_in(&self, at: u64, from: &[u8]) {
            for (at, byte) in (at..).zip(from) {
                self.u8_at(at).store(*byte, SeqCst);
            }
        }
    }
}
