//! The control ring: a front end says how packets to it are brought to its queues (xen netif.h, "Control ring").

use alloc::vec;
use alloc::vec::Vec;

use abi::grant::GrantRef;
use abi::io::netif::*;
use zerocopy::IntoBytes;

use super::grants::{Grants, Source};
use super::hash::{Hashing, MAPPING_MAX, Refusal};
use super::{Broken, Outcome};
use crate::backend::ring::{BackRing, Shared};
use crate::net::toeplitz::KEY;

/// Bytes of a slot.
pub const SLOT: usize = size_of::<NetifCtrlRequest>();

/// The ring.
pub struct Control<M> {
    ring: BackRing<M>,
}

impl<M: Shared> Control<M> {
    /// Begins with what is in the ring.
    ///
    /// # Errors
    /// The ring cannot be one.
    pub fn attach(memory: M) -> Result<Self, Broken> {
        let ring = BackRing::attach(memory, SLOT)?;
        Ok(Self { ring })
    }

    /// Does and answers what the front end asks for, at most one ring full.
    ///
    /// # Errors
    /// The ring holds what no front end would write; nothing more must be done with it.
    pub fn serve(&mut self, grants: &impl Grants, hashing: &mut Hashing) -> Result<Outcome, Broken> {
        for _ in 0..self.ring.entries() {
            let Some(request) = self.ring.take::<NetifCtrlRequest>()? else {
                break;
            };
            self.ring.answer(&answer(&request, grants, hashing));
        }
        Ok(Outcome {
            notify: self.ring.publish(),
            more: self.ring.ask_for_event()?,
        })
    }
}

fn answer(request: &NetifCtrlRequest, grants: &impl Grants, hashing: &mut Hashing) -> NetifCtrlResponse {
    let result = perform(request, grants, hashing);
    let status = match result {
        Ok(_) => XEN_NETIF_CTRL_STATUS_SUCCESS,
        Err(Refusal::NotSupported) => XEN_NETIF_CTRL_STATUS_NOT_SUPPORTED,
        Err(Refusal::Invalid) => XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER,
        Err(Refusal::TooLarge) => XEN_NETIF_CTRL_STATUS_BUFFER_OVERFLOW,
    };
    NetifCtrlResponse {
        id: request.id,
        type_: request.type_,
        status,
        data: result.unwrap_or(0),
    }
}

/// The data of the answer.
fn perform(request: &NetifCtrlRequest, grants: &impl Grants, hashing: &mut Hashing) -> Result<u32, Refusal> {
    let [first, second, third] = request.data;
    match request.type_ {
        XEN_NETIF_CTRL_TYPE_GET_HASH_FLAGS => return hashing.possible_types(),
        XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS => hashing.set_types(first)?,
        XEN_NETIF_CTRL_TYPE_SET_HASH_KEY => hashing.set_key(&fetch(grants, first, second, KEY as u32)?)?,
        XEN_NETIF_CTRL_TYPE_GET_HASH_MAPPING_SIZE => return Ok(MAPPING_MAX),
        XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE => hashing.set_mapping_size(first)?,
        XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING => {
            hashing.set_mapping(third, &fetch(grants, first, second, MAPPING_MAX)?)?;
        }
        XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM => hashing.set_algorithm(first)?,
        _ => return Err(Refusal::NotSupported),
    }
    Ok(0)
}

/// Reads `count` elements from the start of a granted page, of which there may be `most`. None need no page.
fn fetch<T>(grants: &impl Grants, gref: GrantRef, count: u32, most: u32) -> Result<Vec<T>, Refusal>
where
    T: Clone + Default + zerocopy::FromBytes + IntoBytes,
    [T]: IntoBytes,
{
    if count > most {
        return Err(Refusal::TooLarge);
    }
    let mut elements = vec![T::default(); count as usize];
    let mut source = Source {
        gref,
        offset: 0,
        into: elements.as_mut_bytes(),
        done: count == 0,
    };
    if !source.done {
        grants.copy_from(core::slice::from_mut(&mut source));
    }
    if source.done {
        Ok(elements)
    } else {
        Err(Refusal::Invalid)
    }
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
