//! Rings of bytes on a shared page: free-running 32-bit indices, a power-of-two buffer. The other domain may write
//! anything anywhere at any time.

use alloc::vec::Vec;

use super::ring::Shared;

/// Where a ring lies in its page.
#[derive(Clone, Copy, Debug)]
pub struct ByteRing {
    /// Offset of the buffer.
    pub buffer: usize,
    /// Bytes of the buffer, a power of two.
    pub size: u32,
    /// Offset of the consumer's index.
    pub consumer: usize,
    /// Offset of the producer's index.
    pub producer: usize,
}

/// The indices are further apart than the ring is long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadIndices;

/// What a ring held when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The consumer's index then.
    start: u32,
}

impl ByteRing {
    /// Both indices; what lies between them is unread.
    fn indices(&self, page: &impl Shared) -> Result<(u32, u32), BadIndices> {
        let (consumer, producer) = (page.load(self.consumer), page.load(self.producer));
        if producer.wrapping_sub(consumer) > self.size {
            Err(BadIndices)
        } else {
            Ok((consumer, producer))
        }
    }

    /// Whether there is nothing to read.
    ///
    /// # Errors
    /// The indices contradict each other.
    pub fn is_empty(&self, page: &impl Shared) -> Result<bool, BadIndices> {
        self.indices(page)
            .map(|(consumer, producer)| consumer == producer)
    }

    /// What can be read; nothing is consumed.
    ///
    /// # Errors
    /// The indices contradict each other.
    pub fn peek(&self, page: &impl Shared) -> Result<Unread, BadIndices> {
        let (consumer, producer) = self.indices(page)?;
        let length = producer.wrapping_sub(consumer);
        let start = consumer & (self.size - 1);
        let first = length.min(self.size - start) as usize;
        let mut bytes = alloc::vec![0; length as usize];
        page.read(self.buffer + start as usize, &mut bytes[..first]);
        page.read(self.buffer, &mut bytes[first..]);
        Ok(Unread {
            bytes,
            start: consumer,
        })
    }

    /// Consumes the first `count` of the bytes that `peek` returned.
    pub fn consume(&self, page: &impl Shared, unread: &Unread, count: usize) {
        page.store(self.consumer, unread.start.wrapping_add(count as u32));
    }

    /// Writes as much of `bytes` as there is room for; returns how much.
    ///
    /// # Errors
    /// The indices contradict each other.
    pub fn write(&self, page: &impl Shared, bytes: &[u8]) -> Result<usize, BadIndices> {
        let (consumer, producer) = self.indices(page)?;
        let room = self.size - producer.wrapping_sub(consumer);
        let bytes = &bytes[..bytes.len().min(room as usize)];
        if bytes.is_empty() {
            return Ok(0);
        }
        let start = producer & (self.size - 1);
        let first = bytes.len().min((self.size - start) as usize);
        page.write(self.buffer + start as usize, &bytes[..first]);
        page.write(self.buffer, &bytes[first..]);
        page.store(self.producer, producer.wrapping_add(bytes.len() as u32));
        Ok(bytes.len())
    }

    /// Makes the ring empty, with indices from 0.
    pub fn reset(&self, page: &impl Shared) {
        page.store(self.consumer, 0);
        page.store(self.producer, 0);
    }
}

/// A page for tests, which does something of its own whenever the server has looked at an index or set one.
#[cfg(test)]
pub(crate) mod fake {
    use core::cell::{Cell, RefCell};

    use super::Shared;

    pub(crate) struct Page {
        bytes: RefCell<[u8; 4096]>,
        /// Accesses to words so far.
        pub accesses: Cell<usize>,
    }

    impl Default for Page {
        fn default() -> Self {
            Self {
                bytes: RefCell::new([0; 4096]),
                accesses: Cell::new(0),
            }
        }
    }

    impl Shared for &Page {
        fn size(&self) -> usize {
            4096
        }
        fn load(&self, offset: usize) -> u32 {
            self.accesses.set(self.accesses.get() + 1);
            let mut word = [0; 4];
            self.read(offset, &mut word);
            u32::from_le_bytes(word)
        }
        fn store(&self, offset: usize, value: u32) {
            self.accesses.set(self.accesses.get() + 1);
            self.write(offset, &value.to_le_bytes());
        }
        fn read(&self, offset: usize, bytes: &mut [u8]) {
            bytes.copy_from_slice(&self.bytes.borrow()[offset..][..bytes.len()]);
        }
        fn write(&self, offset: usize, bytes: &[u8]) {
            self.bytes.borrow_mut()[offset..][..bytes.len()].copy_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::VecDeque;

    use proptest::prelude::*;

    use super::fake::Page;
    use super::*;

    const RING: ByteRing = ByteRing {
        buffer: 64,
        size: 32,
        consumer: 0,
        producer: 4,
    };

    proptest! {
        /// Against a queue, from any index on.
        #[test]
        fn is_a_queue(start: u32, steps in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..40)), 0..40)) {
            let page = Page::default();
            let page = &page;
            page.store(RING.consumer, start);
            page.store(RING.producer, start);
            let mut model = VecDeque::new();
            for (write, bytes) in steps {
                if write {
                    let room = bytes.len().min(32 - model.len());
                    prop_assert_eq!(RING.write(&page, &bytes), Ok(room));
                    model.extend(&bytes[..room]);
                } else {
                    let unread = RING.peek(&page).unwrap();
                    prop_assert_eq!(&VecDeque::from(unread.bytes.clone()), &model);
                    let count = bytes.len().min(model.len());
                    RING.consume(&page, &unread, count);
                    model.drain(..count);
                }
                prop_assert_eq!(RING.is_empty(&page), Ok(model.is_empty()));
            }
        }

        #[test]
        fn any_indices(consumer: u32, producer: u32) {
            let page = Page::default();
            let page = &page;
            page.store(RING.consumer, consumer);
            page.store(RING.producer, producer);
            let held = producer.wrapping_sub(consumer);
            let expected = if held <= 32 { Ok(held as usize) } else { Err(BadIndices) };
            prop_assert_eq!(RING.peek(&page).map(|unread| unread.bytes.len()), expected);
            prop_assert_eq!(RING.write(&page, &[0; 64]), expected.map(|held| 32 - held));
        }
    }
}
