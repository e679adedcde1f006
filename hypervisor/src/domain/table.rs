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
    count: usize,
}

static TABLE: RwLock<Table> = RwLock::new(Table {
    domains: Vec::new(),
    next: 1,
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

/// Make a domain and enter it: `make` gets its number, `wanted` or the next that is free.
///
/// # Errors
/// `EEXIST`: `wanted` is taken. `EINVAL`: it is no number for a domain. `ENFILE`: there are too many. Whatever `make` fails with.
pub(super) fn insert(
    wanted: Option<DomId>,
    make: impl FnOnce(DomId) -> Result<Arc<Domain>, Errno>,
) -> Result<Arc<Domain>, Errno> {
    let mut table = TABLE.write();
    if table.count >= MAX_DOMAINS {
        return Err(Errno::ENFILE);
    }
    let taken = |table: &Table, id: u16| table.domains.get(usize::from(id)).is_some_and(Option::is_some);
    let id = match wanted {
        Some(DomId(id)) if id >= DOMID_FIRST_RESERVED => return Err(Errno::EINVAL),
        Some(DomId(id)) if taken(&table, id) => return Err(Errno::EEXIST),
        Some(DomId(id)) => id,
        None => (table.next..DOMID_FIRST_RESERVED)
            .chain(1..table.next)
            .find(|&id| !taken(&table, id))
            .ok_or(Errno::ENFILE)?,
    };
    let domain = make(DomId(id))?;
    let slot = usize::from(id);
    if table.domains.len() <= slot {
        table.domains.resize_with(slot + 1, || None);
    }
    if let Some(entry) = table.domains.get_mut(slot) {
        *entry = Some(domain.clone());
    }
    table.count += 1;
    if wanted.is_none() {
        table.next = if id + 1 < DOMID_FIRST_RESERVED { id + 1 } else { 1 };
    }
    Ok(domain)
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
