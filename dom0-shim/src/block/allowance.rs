//! Pages of front ends that may be kept mapped.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use core::cell::RefCell;

use abi::Domid;

/// How many pages may be kept, for all domains together. A domain may have as many as it leaves to the others: half of
/// all if it is the only one, a third each if there are two. Clones share the number.
#[derive(Clone)]
pub struct Allowance(Rc<RefCell<State>>);

struct State {
    left: usize,
    kept: BTreeMap<Domid, usize>,
}

impl Allowance {
    /// So many.
    pub fn new(pages: usize) -> Self {
        Self(Rc::new(RefCell::new(State {
            left: pages,
            kept: BTreeMap::new(),
        })))
    }

    /// Whether a domain may have another page.
    pub fn allows(&self, domain: Domid) -> bool {
        let state = self.0.borrow();
        state.kept.get(&domain).copied().unwrap_or(0) < state.left
    }

    /// A domain has another page.
    pub fn take(&self, domain: Domid) {
        let state = &mut *self.0.borrow_mut();
        state.left -= 1;
        *state.kept.entry(domain).or_default() += 1;
    }

    /// A domain has so many pages less.
    pub fn give_back(&self, domain: Domid, pages: usize) {
        let state = &mut *self.0.borrow_mut();
        state.left += pages;
        if let Some(kept) = state.kept.get_mut(&domain) {
            *kept -= pages;
            if *kept == 0 {
                state.kept.remove(&domain);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(allowance: &Allowance, domain: Domid) -> usize {
        let take = |_| allowance.allows(domain).then(|| allowance.take(domain));
        (0..1000).map_while(take).count()
    }

    #[test]
    fn nobody_takes_all() {
        let allowance = Allowance::new(120);
        assert_eq!(take_all(&allowance, 1), 60);
        assert_eq!(take_all(&allowance, 2), 30);
        assert_eq!(take_all(&allowance, 3), 15);
        allowance.give_back(1, 60);
        assert_eq!(take_all(&allowance, 3), 30);
        allowance.give_back(2, 30);
        allowance.give_back(3, 45);
        assert_eq!(take_all(&allowance, 2), 60);
    }
}
