//! Byte rings on a shared page: free-running 32-bit indices, a power-of-two buffer. The other domain may write
//! anything anywhere at any time.

use alloc::vec::Vec;

use guest_rt::foreign::Mapping;

/// Where a ring lies in its page.
#[derive(Clone, Copy, Debug)]
pub struct Ring {
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

impl Ring {
    /// Both indices; what lies between them is unread.
    fn indices(&self, page: &Mapping) -> Result<(u32, u32), BadIndices> {
        let (consumer, producer) = (page.load(self.consumer), page.load(self.producer));
        if producer.wrapping_sub(consumer) > self.size {
            Err(BadIndices)
        } else {
            Ok((consumer, producer))
        }
    }

    /// What can be read, in one or two pieces; nothing is consumed.
    pub fn peek(&self, page: &Mapping) -> Result<Vec<u8>, BadIndices> {
        let (consumer, producer) = self.indices(page)?;
        let length = producer.wrapping_sub(consumer);
        let start = consumer & (self.size - 1);
        let first = length.min(self.size - start) as usize;
        let mut bytes = alloc::vec![0; length as usize];
        page.read(self.buffer + start as usize, &mut bytes[..first]);
        page.read(self.buffer, &mut bytes[first..]);
        Ok(bytes)
    }

    /// Consumes `count` bytes, at most what `peek` returned.
    pub fn consume(&self, page: &Mapping, count: usize) {
        page.store(self.consumer, page.load(self.consumer).wrapping_add(count as u32));
    }

    /// Writes as much of `bytes` as there is room for; returns how much.
    pub fn write(&self, page: &Mapping, bytes: &[u8]) -> Result<usize, BadIndices> {
        let (consumer, producer) = self.indices(page)?;
        let room = self.size - producer.wrapping_sub(consumer);
        let bytes = &bytes[..bytes.len().min(room as usize)];
        let start = producer & (self.size - 1);
        let first = bytes.len().min((self.size - start) as usize);
        page.write(self.buffer + start as usize, &bytes[..first]);
        page.write(self.buffer, &bytes[first..]);
        page.store(self.producer, producer.wrapping_add(bytes.len() as u32));
        Ok(bytes.len())
    }
}
