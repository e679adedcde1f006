//! All domains, by number.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Errno;
use abi::domid::DOMID_FIRST_RESERVED;

use super::Domain;
use crate::sync::RwLock;
use crate::types::DomId;

/// Most domains there can be at a time.
pub const MAX_DOMAINS: usize = 1024;

struct Table {
    /// By number.
    domains: Vec<Option<Arc<Domain>>>,
    /// Where the search for a free number begins; numbers are not used again soon.
    next: u16,
    /// Numbers of domains that are being made.
    making: Vec<u16>,
    count: usize,
}

static TABLE: RwLock<Table> = RwLock::new(Table {
    domains: Vec::new(),
    next: 1,
    making: Vec::new(),
    count: 0,
});

/// The domain with this number, in whatever state.
#[inline]
pub fn get(id: DomId) -> Option<Arc<Domain>> {
    TABLE.read().domains.get(usize::from(id.0))?.clone()
}

/// The first domain whose number is `id` or larger.
pub fn next_from(id: DomId) -> Option<Arc<Domain>> {
    TABLE
        .read()
        .domains
        .get(usize::from(id.0)..)?
        .iter()
        .find_map(Clone::clone)
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

impl Table {
    fn taken(&self, id: u16) -> bool {
        self.domains.get(usize::from(id)).is_some_and(Option::is_some) || self.making.contains(&id)
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

    fn enter(&mut self, id: u16, domain: Arc<Domain>) {
        let slot = usize::from(id);
        if self.domains.len() <= slot {
            self.domains.resize_with(slot + 1, || None);
        }
        if let Some(entry) = self.domains.get_mut(slot) {
            *entry = Some(domain);
            self.count += 1;
        }
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
    let id = TABLE.write().reserve(wanted)?;
    let made = make(DomId(id));
    let mut table = TABLE.write();
    table.making.retain(|&making| making != id);
    if let Ok(domain) = &made {
        table.enter(id, domain.clone());
    }
    made
}

/// Forget a domain. It is freed when the last reference goes. `false`: it was forgotten before.
pub(super) fn remove(domain: &Domain) -> bool {
    let mut table = TABLE.write();
    let slot = table.domains.get_mut(usize::from(domain.id.0));
    let removed = slot.and_then(|slot| slot.take_if(|entry| core::ptr::eq(Arc::as_ptr(entry), domain)));
    if removed.is_some() {
        table.count -= 1;
    }
    drop(table);
    // A last reference is dropped here, outside the lock.
    removed.is_some()
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
