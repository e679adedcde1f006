//! A supply that many take from and give back to: memory, room in a queue. Who comes first is served first, so nobody
//! waits for ever as long as what has been taken comes back.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use core::cell::RefCell;
use core::future::poll_fn;
use core::task::{Poll, Waker};

/// The supply. Clones share it.
#[derive(Clone)]
pub struct Supply(Rc<RefCell<State>>);

struct State {
    total: usize,
    left: usize,
    /// Those who wait, by the order in which they came.
    waiting: BTreeMap<u64, Waker>,
    next: u64,
}

impl Supply {
    /// So much.
    pub fn new(total: usize) -> Self {
        Self(Rc::new(RefCell::new(State {
            total,
            left: total,
            waiting: BTreeMap::new(),
            next: 0,
        })))
    }

    /// Waits until there is so much left, and everybody who came before has got what they wait for. Who wants more than
    /// there is gets all of it.
    pub async fn take(&self, amount: usize) -> Share {
        let place = self.queue();
        let amount = amount.min(self.0.borrow().total);
        poll_fn(|context| {
            let state = &mut *self.0.borrow_mut();
            let first = state.waiting.keys().next();
            if first.is_some_and(|&first| first < place.number) || state.left < amount {
                state.waiting.insert(place.number, context.waker().clone());
                return Poll::Pending;
            }
            state.left -= amount;
            Poll::Ready(())
        })
        .await;
        Share {
            supply: self.clone(),
            amount,
        }
    }

    fn queue(&self) -> Place<'_> {
        let state = &mut *self.0.borrow_mut();
        let number = state.next;
        state.next += 1;
        Place { supply: self, number }
    }

    /// The one who has waited longest looks again.
    fn wake(&self) {
        if let Some(waker) = self.0.borrow().waiting.values().next() {
            waker.wake_by_ref();
        }
    }
}

/// A place among those who wait; free for the next when dropped.
struct Place<'a> {
    supply: &'a Supply,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.supply.0.borrow_mut().waiting.remove(&self.number);
        self.supply.wake();
    }
}

/// What somebody has taken; goes back when dropped.
pub struct Share {
    supply: Supply,
    amount: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.supply.0.borrow_mut().left += self.amount;
        self.supply.wake();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::executor::Executor;

    /// Takes `amount` in a task, and notes `name` when it has it.
    fn taker(executor: &Executor, supply: &Supply, amount: usize, name: char, log: &Log) {
        let (supply, log) = (supply.clone(), log.clone());
        executor.spawner().spawn(async move {
            let share = supply.take(amount).await;
            log.borrow_mut().push((name, share));
        });
    }

    type Log = Rc<RefCell<Vec<(char, Share)>>>;

    fn names(executor: &mut Executor, log: &Log) -> String {
        while executor.run_round() {}
        log.borrow().iter().map(|(name, _)| *name).collect()
    }

    #[test]
    fn who_comes_first_is_served_first() {
        let (mut executor, supply, log) = (Executor::default(), Supply::new(10), Log::default());
        for (amount, name) in [(6, 'a'), (3, 'b'), (5, 'c'), (1, 'd'), (99, 'e'), (1, 'f')] {
            taker(&executor, &supply, amount, name, &log);
        }
        // There is one left, but it is not d's turn.
        assert_eq!(names(&mut executor, &log), "ab");
        log.borrow_mut().remove(1);
        assert_eq!(names(&mut executor, &log), "a");
        log.borrow_mut().remove(0);
        assert_eq!(names(&mut executor, &log), "cd");
        taker(&executor, &supply, 1, 'g', &log);
        log.borrow_mut().remove(1);
        assert_eq!(names(&mut executor, &log), "c");
        log.borrow_mut().clear();
        assert_eq!(names(&mut executor, &log), "e", "all that there is");
        log.borrow_mut().clear();
        assert_eq!(names(&mut executor, &log), "fg");
    }

    #[test]
    fn who_does_not_wait_any_longer_holds_nobody_up() {
        let (mut executor, supply, log) = (Executor::default(), Supply::new(10), Log::default());
        let first = supply.take(6).now_or_never();
        let mut leaves = Box::pin(supply.take(5));
        assert!((&mut leaves).now_or_never().is_none());
        taker(&executor, &supply, 4, 'b', &log);
        assert_eq!(names(&mut executor, &log), "");
        drop(leaves);
        assert_eq!(names(&mut executor, &log), "b");
        drop(first);
        log.borrow_mut().clear();
        assert_eq!(supply.0.borrow().left, 10);
    }
}
