//! The table of a domain's ports. A port is one atomic word, so that who sends needs no lock.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering};

use super::fifo::PortState;
use crate::mm::fallible::{self, OutOfMemory};
use crate::sync::Once;
use crate::types::{DomId, Port, VcpuId};

/// What a port is connected to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Binding {
    /// Nothing.
    Free,
    /// Waits for `remote` to connect.
    Unbound {
        /// Who may.
        remote: DomId,
    },
    /// The other end is `port` of `remote`.
    Interdomain {
        /// The other domain (it may be the same).
        remote: DomId,
        /// Its port.
        port: Port,
    },
    /// A virtual interrupt.
    Virq(u32),
    /// Interprocessor: who sends is who receives.
    Ipi,
}

/// A port's state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Channel {
    /// What it is connected to.
    pub binding: Binding,
    /// Who is told of its events.
    pub vcpu: VcpuId,
}

impl Channel {
    /// A port not in use.
    pub const FREE: Channel = Channel {
        binding: Binding::Free,
        vcpu: VcpuId(0),
    };

    /// Bits 0-3: kind, 4-15: vCPU, 16-31: remote domain, 32-63: remote port or virtual interrupt. A free port is 0.
    fn pack(self) -> u64 {
        let (kind, remote, detail) = match self.binding {
            Binding::Free => return 0,
            Binding::Unbound { remote } => (1, remote, 0),
            Binding::Interdomain { remote, port } => (2, remote, port.0),
            Binding::Virq(virq) => (3, DomId(0), virq),
            Binding::Ipi => (4, DomId(0), 0),
        };
        kind | u64::from(self.vcpu.0 & 0xfff) << 4 | u64::from(remote.0) << 16 | u64::from(detail) << 32
    }

    fn unpack(word: u64) -> Channel {
        let remote = DomId((word >> 16) as u16);
        let detail = (word >> 32) as u32;
        let binding = match word & 0xf {
            1 => Binding::Unbound { remote },
            2 => Binding::Interdomain {
                remote,
                port: Port(detail),
            },
            3 => Binding::Virq(detail),
            4 => Binding::Ipi,
            _ => Binding::Free,
        };
        Channel {
            binding,
            vcpu: VcpuId((word >> 4) as u32 & 0xfff),
        }
    }
}

const BUCKET: usize = 128;

/// Ports whose memory is taken at once. What senders look at is together.
struct Bucket {
    channels: [AtomicU64; BUCKET],
    fifo: [PortState; BUCKET],
}

impl Bucket {
    fn new() -> Result<Box<Self>, OutOfMemory> {
        fallible::boxed(Self {
            channels: [const { AtomicU64::new(0) }; BUCKET],
            fifo: core::array::from_fn(|_| PortState::new()),
        })
    }
}

/// All ports that a domain may have; memory is taken for those that it uses, a bucket at a time.
pub struct Ports {
    buckets: Box<[Once<Box<Bucket>>]>,
    limit: u32,
}

impl Ports {
    /// Ports 0 to `limit - 1`, all free.
    pub fn new(limit: u32) -> Ports {
        Ports {
            buckets: (0..limit.div_ceil(BUCKET as u32)).map(|_| Once::new()).collect(),
            limit,
        }
    }

    /// One more than the largest port.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// The bucket of `port`, and where in it the port is.
    #[inline]
    fn bucket(&self, port: Port) -> Option<(&Bucket, usize)> {
        if port.0 >= self.limit {
            return None;
        }
        let bucket = self.buckets.get(port.0 as usize / BUCKET)?.get()?;
        Some((bucket, port.0 as usize % BUCKET))
    }

    /// The state of `port`. `None`: there is no such port, and never was.
    #[inline]
    pub fn get(&self, port: Port) -> Option<Channel> {
        let (bucket, index) = self.bucket(port)?;
        let channel = bucket.channels.get(index)?;
        Some(Channel::unpack(channel.load(Ordering::Acquire)))
    }

    /// What FIFO delivery knows of `port`. `None`: as for [`Ports::get`].
    #[inline]
    pub fn fifo(&self, port: Port) -> Option<&PortState> {
        let (bucket, index) = self.bucket(port)?;
        bucket.fifo.get(index)
    }

    /// Change the state of a port that [`Ports::get`] or [`Ports::find_free`] has named. The caller holds the domain's event lock.
    pub fn set(&self, port: Port, channel: Channel) {
        if let Some((bucket, index)) = self.bucket(port)
            && let Some(word) = bucket.channels.get(index)
        {
            word.store(channel.pack(), Ordering::Release);
        }
    }

    /// The first free port from `from` on and below `end`, which has memory then. `None`: all are in use.
    ///
    /// # Errors
    /// No memory for it.
    pub fn find_free(&self, from: Port, end: u32) -> Result<Option<Port>, OutOfMemory> {
        for port in (from.0..self.limit.min(end)).map(Port) {
            if let Some(bucket) = self.buckets.get(port.0 as usize / BUCKET) {
                bucket.try_call_once(Bucket::new)?;
            }
            if self.get(port) == Some(Channel::FREE) {
                return Ok(Some(port));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_state_survives_its_word(kind in 0u8..4, vcpu in 0u32..0x1000, dom in any::<u16>(), n in any::<u32>()) {
            let binding = match kind {
                0 => Binding::Unbound { remote: DomId(dom) },
                1 => Binding::Interdomain { remote: DomId(dom), port: Port(n) },
                2 => Binding::Virq(n),
                _ => Binding::Ipi,
            };
            let channel = Channel { binding, vcpu: VcpuId(vcpu) };
            prop_assert_eq!(Channel::unpack(channel.pack()), channel);
        }
    }

    #[test]
    fn ports_are_handed_out_lowest_first() {
        let ports = Ports::new(130);
        assert_eq!(ports.get(Port(1)), None);
        let used = Channel {
            binding: Binding::Ipi,
            vcpu: VcpuId(3),
        };
        for expected in 1..130 {
            let port = ports.find_free(Port(1), u32::MAX);
            assert_eq!(port, Ok(Some(Port(expected))));
            ports.set(Port(expected), used);
        }
        assert_eq!(ports.find_free(Port(1), u32::MAX), Ok(None));
        ports.set(Port(7), Channel::FREE);
        assert_eq!(ports.find_free(Port(1), u32::MAX), Ok(Some(Port(7))));
        assert_eq!(ports.find_free(Port(1), 7), Ok(None), "not below 7");
        assert_eq!(ports.get(Port(130)), None);
        assert_eq!(ports.get(Port(u32::MAX)), None);
    }
}
