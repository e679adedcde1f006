//! All domains, by number.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Errno;
use abi::domid::DOMID_FIRST_RESERVED;

use super::Domain;

use crate::hw::percpu;
use crate::slot::Slot;
use crate::sync::{Mutex, Once, Rank};
use crate::types::DomId;

/// Most domains there can be at a time.
pub const MAX_DOMAINS: usize = 1024;

/// Numbers whose memory is taken at once, and for good.
const CHUNK: usize = 256;
const CHUNKS: usize = (DOMID_FIRST_RESERVED as usize).div_ceil(CHUNK);

/// All domains, by number.
static SLOTS: [Once<Box<[Slot<Domain>; CHUNK]>>; CHUNKS] = [const { Once::new() }; CHUNKS];

/// Which numbers are given next.
struct Numbers {
    /// Where the search for a free number begins; numbers are not used again soon.
    next: u16,
    /// Numbers of domains that are being made.
    making: Vec<u16>,
    /// Domains that there are.
    count: usize,
}

static NUMBERS: Mutex<Numbers> = Mutex::new(
    Rank::Domids,
    Numbers {
        next: 1,
        making: Vec::new(),
        count: 0,
    },
);

fn slot(id: u16) -> Option<&'static Slot<Domain>> {
    let chunk = SLOTS.get(usize::from(id) / CHUNK)?.get()?;
    chunk.get(usize::from(id) % CHUNK)
}

/// The domain with this number, in whatever state.
#[inline]
pub fn get(id: DomId) -> Option<Arc<Domain>> {
    slot(id.0)?.get(percpu::this().reading())
}

/// The first domain whose number is `id` or larger.
pub fn next_from(id: DomId) -> Option<Arc<Domain>> {
    let mut id = usize::from(id.0);
    while let Some(chunk) = SLOTS.get(id / CHUNK) {
        let Some(slot) = chunk.get().and_then(|chunk| chunk.get(id % CHUNK)) else {
            id = (id / CHUNK + 1) * CHUNK;
            continue;
        };
        if let Some(domain) = slot.get(percpu::this().reading()) {
            return Some(domain);
        }
        id += 1;
    }
    None
}

/// All domains. Others are made and go away meanwhile.
pub fn all() -> impl Iterator<Item = Arc<Domain>> {
    let mut next = Some(DomId(0));
    core::iter::from_fn(move || {
        let domain = next_from(next?)?;
        next = domain.id.0.checked_add(1).map(DomId);
        Some(domain)
    })
}

impl Numbers {
    fn taken(&self, id: u16) -> bool {
        slot(id).is_some_and(|slot| !slot.is_empty()) || self.making.contains(&id)
    }

    /// Set a number aside, `wanted` or the next that is free.
    fn reserve(&mut self, wanted: Option<DomId>) -> Result<u16, Errno> {
        if self.count + self.making.len() >= MAX_DOMAINS {
            return Err(Errno::ENFILE);
        }
        let id = match wanted {
            Some(DomId(id)) if id >= DOMID_FIRST_RESERVED => return Err(Errno::EINVAL),
            Some(DomId(id)) if self.taken(id) => return Err(Errno::EEXIST),
            Some(DomId(id)) => id,
            None => {
                let id = (self.next..DOMID_FIRST_RESERVED)
                    .chain(1..self.next)
                    .find(|&id| !self.taken(id))
                    .ok_or(Errno::ENFILE)?;
                self.next = if id + 1 < DOMID_FIRST_RESERVED { id + 1 } else { 1 };
                id
            }
        };
        self.making.push(id);
        Ok(id)
    }
}

/// Make a domain and enter it: `make` gets its number, `wanted` or the next that is free. It takes long, and others find their domains meanwhile.
///
/// # Errors
/// `EEXIST`: `wanted` is taken. `EINVAL`: it is no number for a domain. `ENFILE`: there are too many. Whatever `make` fails with.
pub(super) fn insert(
    wanted: Option<DomId>,
    make: impl FnOnce(DomId) -> Result<Arc<Domain>, Errno>,
) -> Result<Arc<Domain>, Errno> {
    let id = NUMBERS.lock().reserve(wanted)?;
    let made = make(DomId(id));
    let mut numbers = NUMBERS.lock();
    numbers.making.retain(|&making| making != id);
    let domain = made?;
    let chunk = SLOTS
        .get(usize::from(id) / CHUNK)
        .ok_or(Errno::EINVAL)?
        .call_once(|| Box::new(core::array::from_fn(|_| Slot::default())));
    let slot = chunk.get(usize::from(id) % CHUNK).ok_or(Errno::EINVAL)?;
    slot.put(domain.clone()).map_err(|_| Errno::EEXIST)?;
    numbers.count += 1;
    Ok(domain)
}

/// Forget a domain. It is freed when the last reference goes. `false`: it was forgotten before.
pub(super) fn remove(domain: &Domain) -> bool {
    let taken =
        slot(domain.id.0).and_then(|slot| slot.take(domain, percpu::all().map(percpu::PerCpu::reading)));
    if taken.is_some() {
        NUMBERS.lock().count -= 1;
    }
    taken.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_set_aside_while_its_domain_is_made() {
        let mut given = DomId(0);
        let made = insert(None, |id| {
            given = id;
            // Senders look domains up all the time: this would hang if the table were locked.
            assert!(get(id).is_none());
            let again = insert(Some(id), |_| Err(Errno::ENOMEM));
            assert_eq!(again.err(), Some(Errno::EEXIST));
            Err(Errno::ENOMEM)
        });
        assert_eq!(made.err(), Some(Errno::ENOMEM));
        let again = insert(Some(given), |_| Err(Errno::EPERM));
        assert_eq!(again.err(), Some(Errno::EPERM), "the number is free again");
    }
}
