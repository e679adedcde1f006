//! Hashes of packets to the front end, by which it has them brought to its queues (xen netif.h, "Hash types").

use alloc::vec;
use alloc::vec::Vec;

use abi::io::netif::*;

use crate::net::offload;
use crate::net::packet::Family;
use crate::net::toeplitz::{self, KEY};

/// Entries of the largest mapping, as in Linux.
pub const MAPPING_MAX: u32 = 128;
/// All hash types that there are.
pub const TYPES: u32 = XEN_NETIF_CTRL_HASH_TYPE_IPV4
    | XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP
    | XEN_NETIF_CTRL_HASH_TYPE_IPV6
    | XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP;

/// The hash of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash {
    /// One of [`TYPES`].
    pub kind: u32,
    /// Its value.
    pub value: u32,
}

/// Why a front end does not get what it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such thing, or not now.
    NotSupported,
    /// It is not possible.
    Invalid,
    /// It is more than there is room for.
    TooLarge,
}

/// What the front end has asked for.
#[derive(Clone, Debug)]
pub struct Hashing {
    queues: u32,
    /// By the one algorithm that there is, or not at all.
    enabled: bool,
    /// Of [`TYPES`].
    types: u32,
    key: [u8; KEY],
    /// A queue for each hash, modulo size; if it is empty, the hash is the queue's, modulo queues.
    mapping: Vec<u32>,
}

impl Hashing {
    /// Nothing asked for yet by a front end with so many queues.
    pub fn new(queues: u32) -> Self {
        Self {
            queues,
            enabled: false,
            types: 0,
            key: [0; KEY],
            mapping: Vec::new(),
        }
    }

    /// Chooses an algorithm, which may be none.
    ///
    /// # Errors
    /// There is no such algorithm.
    pub fn set_algorithm(&mut self, algorithm: u32) -> Result<(), Refusal> {
        self.enabled = match algorithm {
            XEN_NETIF_CTRL_HASH_ALGORITHM_NONE => false,
            XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ => true,
            _ => return Err(Refusal::Invalid),
        };
        Ok(())
    }

    /// The hash types that there are.
    ///
    /// # Errors
    /// No algorithm has been chosen.
    pub fn possible_types(&self) -> Result<u32, Refusal> {
        if self.enabled {
            Ok(TYPES)
        } else {
            Err(Refusal::NotSupported)
        }
    }

    /// Chooses hash types.
    ///
    /// # Errors
    /// There is no such type, or no algorithm has been chosen.
    pub fn set_types(&mut self, types: u32) -> Result<(), Refusal> {
        if types & !TYPES != 0 || !self.enabled {
            return Err(Refusal::Invalid);
        }
        self.types = types;
        Ok(())
    }

    /// Gives the key; what is missing of it is 0.
    ///
    /// # Errors
    /// It is too long.
    pub fn set_key(&mut self, key: &[u8]) -> Result<(), Refusal> {
        let mut padded = [0; KEY];
        padded
            .get_mut(..key.len())
            .ok_or(Refusal::TooLarge)?
            .copy_from_slice(key);
        self.key = padded;
        Ok(())
    }

    /// Begins a new mapping, to queue 0.
    ///
    /// # Errors
    /// It would be too large.
    pub fn set_mapping_size(&mut self, entries: u32) -> Result<(), Refusal> {
        if entries > MAPPING_MAX {
            return Err(Refusal::Invalid);
        }
        self.mapping = vec![0; entries as usize];
        Ok(())
    }

    /// Gives entries of the mapping from `first` on: all of them or none.
    ///
    /// # Errors
    /// The mapping is smaller, or there is no such queue.
    pub fn set_mapping(&mut self, first: u32, entries: &[u32]) -> Result<(), Refusal> {
        let place = self.mapping.get_mut(first as usize..);
        let place = place.and_then(|place| place.get_mut(..entries.len()));
        let place = place.ok_or(Refusal::Invalid)?;
        if entries.iter().any(|&queue| queue >= self.queues) {
            return Err(Refusal::Invalid);
        }
        place.copy_from_slice(entries);
        Ok(())
    }

    /// A frame's queue, modulo their number, and its hash; `None` if the front end has not chosen.
    /// What has no hash goes where hash 0 does, as with Linux.
    pub fn steer(&self, frame: &[u8]) -> Option<(u32, Option<Hash>)> {
        if !self.enabled || self.types == 0 {
            return None;
        }
        let hash = self.hash(frame);
        let value = hash.map_or(0, |hash| hash.value);
        let entry = (value as usize).checked_rem(self.mapping.len());
        let queue = entry.and_then(|entry| self.mapping.get(entry).copied());
        Some((queue.unwrap_or(value), hash))
    }

    /// The hash of a frame: that with ports, if it is wanted and there are any.
    fn hash(&self, frame: &[u8]) -> Option<Hash> {
        let (family, at) = offload::network(frame).ok()?;
        let (addresses, plain, tcp) = match family {
            Family::V4 => (
                at + 12..at + 20,
                XEN_NETIF_CTRL_HASH_TYPE_IPV4,
                XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP,
            ),
            Family::V6 => (
                at + 8..at + 40,
                XEN_NETIF_CTRL_HASH_TYPE_IPV6,
                XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP,
            ),
        };
        let addresses = frame.get(addresses)?;
        let ports = (self.types & tcp != 0)
            .then(|| offload::tcp(frame))
            .flatten()
            .and_then(|at| frame.get(at..at + 4));
        let kind = if ports.is_some() { tcp } else { self.types & plain };
        (kind != 0).then(|| Hash {
            kind,
            value: toeplitz::hash(&self.key, addresses.iter().chain(ports.unwrap_or_default())),
        })
    }
}

#[cfg(test)]
#[path = "hash_tests.rs"]
pub(super) mod tests;
