//! A small async executor for one vCPU, and the reactor that wakes its tasks: event-channel ports, timers, signals.
//!
//! Nothing here knows the hypervisor: the main loop feeds fired ports and the time in, and learns when to wake up
//! next.
//!
//! What a task waits for may have come before. It waits nevertheless, until the others have had a turn: otherwise one
//! that always finds more to do, as a guest may see to, would never let the executor go.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::Rc;
use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::{Context, Poll, Waker};

use spin::Mutex;

use crate::numbered::Numbered;

type Task = Pin<Box<dyn Future<Output = ()>>>;
type ReadyQueue = Arc<Mutex<VecDeque<usize>>>;

/// Runs tasks that are ready.
#[derive(Default)]
pub struct Executor {
    /// By number, each with what wakes it: the same waker every time, so that who keeps one can tell that it is the same.
    tasks: Vec<Option<(Task, Waker)>>,
    /// Numbers of tasks that have finished.
    free: Vec<usize>,
    ready: ReadyQueue,
    /// Those of the current round; kept for its memory.
    round: VecDeque<usize>,
    spawner: Spawner,
}

/// Adds tasks, from inside a task too.
#[derive(Clone, Default)]
pub struct Spawner(Rc<RefCell<Vec<Task>>>);

impl Spawner {
    /// Queues a task; it runs at the executor's next turn.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.0.borrow_mut().push(Box::pin(task));
    }
}

struct TaskWaker {
    task: usize,
    ready: ReadyQueue,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        let mut ready = self.ready.lock();
        if !ready.contains(&self.task) {
            ready.push_back(self.task);
        }
    }
}

impl Executor {
    /// Where to add tasks.
    pub fn spawner(&self) -> Spawner {
        self.spawner.clone()
    }

    /// Polls every task that is ready now, once. Returns whether any is ready again: then the caller looks for events
    /// and comes back, so that a busy task does not keep the others from theirs.
    pub fn run_round(&mut self) -> bool {
        for task in self.spawner.0.take() {
            let number = self.free.pop().unwrap_or_else(|| {
                self.tasks.push(None);
                self.tasks.len() - 1
            });
            let waker = Waker::from(Arc::new(TaskWaker {
                task: number,
                ready: self.ready.clone(),
            }));
            self.tasks[number] = Some((task, waker.clone()));
            waker.wake();
        }
        core::mem::swap(&mut self.round, &mut *self.ready.lock());
        for number in self.round.drain(..) {
            // A finished task may still have been woken; to one that has its number now, that is one turn too many.
            let Some((task, waker)) = &mut self.tasks[number] else {
                continue;
            };
            if task.as_mut().poll(&mut Context::from_waker(waker)).is_ready() {
                self.tasks[number] = None;
                self.free.push(number);
            }
        }
        !self.ready.lock().is_empty() || !self.spawner.0.borrow().is_empty()
    }
}

/// Lets the other tasks run; between the slices of long work.
pub async fn pass() {
    let mut passed = false;
    poll_fn(|context| {
        if core::mem::replace(&mut passed, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[derive(Default)]
struct Sources {
    ports: Numbered<Port>,
    timers: BTreeMap<(u64, u64), Waker>,
    timer_number: u64,
    now: u64,
}

#[derive(Default)]
struct Port {
    fired: bool,
    waiting: Option<Waker>,
    signal: Option<Signal>,
}

/// Wakes tasks on events from outside. Clones share their state.
#[derive(Clone, Default)]
pub struct Reactor(Rc<RefCell<Sources>>);

impl Reactor {
    /// An event came in on `port`. Remembered if nobody waits yet.
    pub fn fire(&self, port: u32) {
        let mut sources = self.0.borrow_mut();
        let port = sources.ports.get_or_default(port);
        if let Some(signal) = &port.signal {
            return signal.notify();
        }
        port.fired = true;
        if let Some(waker) = port.waiting.take() {
            waker.wake();
        }
    }

    /// Has events on `port` set `signal`, for a task that waits for several things.
    pub fn connect(&self, port: u32, signal: &Signal) {
        let mut sources = self.0.borrow_mut();
        let port = sources.ports.get_or_default(port);
        port.signal = Some(signal.clone());
        if core::mem::take(&mut port.fired) {
            signal.notify();
        }
    }

    /// Forgets a closed port.
    pub fn forget(&self, port: u32) {
        self.0.borrow_mut().ports.remove(port);
    }

    /// Waits for an event on `port`; one task per port.
    pub async fn event(&self, port: u32) {
        if self.0.borrow().ports.get(port).is_some_and(|port| port.fired) {
            pass().await;
        }
        poll_fn(|context| {
            let mut sources = self.0.borrow_mut();
            let port = sources.ports.get_or_default(port);
            if core::mem::take(&mut port.fired) {
                return Poll::Ready(());
            }
            port.waiting = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Sets the time (ns) and wakes sleepers whose time has come.
    pub fn advance(&self, now: u64) {
        let due = {
            let mut sources = self.0.borrow_mut();
            sources.now = now;
            // Mostly nothing is due; splitting the map takes memory even then.
            if sources.timers.keys().next().is_none_or(|(at, _)| *at > now) {
                return;
            }
            let later = sources.timers.split_off(&(now.saturating_add(1), 0));
            core::mem::replace(&mut sources.timers, later)
        };
        due.into_values().for_each(Waker::wake);
    }

    /// When `advance` should be called next, if ever.
    pub fn next_deadline(&self) -> Option<u64> {
        self.0.borrow().timers.keys().next().map(|(at, _)| *at)
    }

    /// Sleeps until `advance` has seen time `deadline` (ns).
    pub async fn sleep_until(&self, deadline: u64) {
        if self.0.borrow().now >= deadline {
            return pass().await;
        }
        let number = {
            let mut sources = self.0.borrow_mut();
            sources.timer_number += 1;
            sources.timer_number
        };
        Sleep {
            reactor: self.clone(),
            timer: (deadline, number),
        }
        .await;
    }

    /// Sleeps for a number of nanoseconds from the time last set.
    pub async fn sleep(&self, nanoseconds: u64) {
        let deadline = self.0.borrow().now.saturating_add(nanoseconds);
        self.sleep_until(deadline).await;
    }
}

/// Has one timer while it waits, and none when it is dropped.
struct Sleep {
    reactor: Reactor,
    /// The deadline, and a number of its own.
    timer: (u64, u64),
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut sources = self.reactor.0.borrow_mut();
        if sources.now >= self.timer.0 {
            return Poll::Ready(());
        }
        sources.timers.insert(self.timer, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.reactor.0.borrow_mut().timers.remove(&self.timer);
    }
}

/// Wakes tasks from other tasks. A notification is kept until one task takes it. Clones share their state.
#[derive(Clone, Default)]
pub struct Signal(Rc<SignalState>);

#[derive(Default)]
struct SignalState {
    set: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

impl Signal {
    /// Sets the signal and wakes everyone who waits.
    pub fn notify(&self) {
        self.0.set.set(true);
        self.0.waiting.take().into_iter().for_each(Waker::wake);
    }

    /// Waits until the signal is set, and clears it.
    pub async fn wait(&self) {
        if self.0.set.get() {
            pass().await;
        }
        poll_fn(|context| {
            if self.0.set.take() {
                return Poll::Ready(());
            }
            let mut waiting = self.0.waiting.borrow_mut();
            if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                waiting.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

/// Completes with whichever of two futures is ready first; `a` wins a tie.
pub async fn either<A: Future, B: Future>(a: A, b: B) -> Either<A::Output, B::Output> {
    let (mut a, mut b) = (Box::pin(a), Box::pin(b));
    poll_fn(move |context| {
        if let Poll::Ready(value) = a.as_mut().poll(context) {
            return Poll::Ready(Either::First(value));
        }
        b.as_mut().poll(context).map(Either::Second)
    })
    .await
}

/// Result of [`either`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Either<A, B> {
    /// The first future was ready.
    First(A),
    /// The second future was ready.
    Second(B),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Until no task is ready.
    fn run_ready(executor: &mut Executor) {
        while executor.run_round() {}
    }

    fn record(log: &Rc<RefCell<Vec<&'static str>>>, entry: &'static str) {
        log.borrow_mut().push(entry);
    }

    #[test]
    fn events_timers_and_signals_wake_tasks() {
        let log = Rc::new(RefCell::new(Vec::new()));
        let (mut executor, reactor, signal) = (Executor::default(), Reactor::default(), Signal::default());
        let spawner = executor.spawner();
        {
            let (log, reactor, signal) = (log.clone(), reactor.clone(), signal.clone());
            spawner.spawn(async move {
                reactor.event(3).await;
                record(&log, "event");
                reactor.sleep(50).await;
                record(&log, "timer");
                signal.notify();
            });
        }
        {
            let (log, spawner_in_task) = (log.clone(), spawner.clone());
            spawner.spawn(async move {
                signal.wait().await;
                record(&log, "signal");
                spawner_in_task.spawn(async move { record(&log, "nested") });
            });
        }
        run_ready(&mut executor);
        assert!(log.borrow().is_empty() && reactor.next_deadline().is_none());
        reactor.advance(100);
        reactor.fire(4);
        run_ready(&mut executor);
        assert!(log.borrow().is_empty(), "another port");
        reactor.fire(3);
        run_ready(&mut executor);
        assert_eq!(
            (log.borrow().as_slice(), reactor.next_deadline()),
            (&["event"][..], Some(150))
        );
        reactor.advance(149);
        run_ready(&mut executor);
        assert_eq!(log.borrow().len(), 1);
        reactor.advance(150);
        run_ready(&mut executor);
        assert_eq!(*log.borrow(), ["event", "timer", "signal", "nested"]);
        assert!(executor.tasks.iter().all(Option::is_none));
    }

    #[test]
    fn events_set_signals() {
        let (mut executor, reactor, signal) = (Executor::default(), Reactor::default(), Signal::default());
        let count = Rc::new(Cell::new(0));
        reactor.fire(5);
        reactor.connect(5, &signal);
        reactor.connect(6, &signal);
        let (inner, outer) = (signal.clone(), count.clone());
        executor.spawner().spawn(async move {
            loop {
                inner.wait().await;
                outer.set(outer.get() + 1);
            }
        });
        run_ready(&mut executor);
        assert_eq!(count.get(), 1, "the event had come before");
        reactor.fire(6);
        reactor.fire(5);
        run_ready(&mut executor);
        assert_eq!(count.get(), 2, "two events, one signal");
        reactor.forget(6);
        reactor.fire(6);
        run_ready(&mut executor);
        assert_eq!(count.get(), 2);
    }

    #[test]
    fn an_early_event_is_kept_and_either_takes_the_first() {
        let (mut executor, reactor) = (Executor::default(), Reactor::default());
        let result = Rc::new(Cell::new(None));
        reactor.fire(7);
        let (inner, outer) = (reactor.clone(), result.clone());
        executor.spawner().spawn(async move {
            outer.set(Some(either(inner.event(6), inner.event(7)).await));
        });
        run_ready(&mut executor);
        assert_eq!(result.get(), Some(Either::Second(())));
    }

    #[test]
    fn a_task_polled_often_waits_once() {
        let (mut executor, reactor, signal) = (Executor::default(), Reactor::default(), Signal::default());
        let (inner, never) = (reactor.clone(), signal.clone());
        executor
            .spawner()
            .spawn(async move { while either(inner.event(1), never.wait()).await == Either::First(()) {} });
        for _ in 0..10 {
            reactor.fire(1);
            run_ready(&mut executor);
        }
        assert_eq!(signal.0.waiting.borrow().len(), 1);
        signal.notify();
        run_ready(&mut executor);
        assert!(executor.tasks.iter().all(Option::is_none));
    }

    #[test]
    fn a_busy_task_ends_a_round() {
        let mut executor = Executor::default();
        executor.spawner().spawn(async {
            for _ in 0..3 {
                pass().await;
            }
        });
        let rounds: Vec<bool> = (0..4).map(|_| executor.run_round()).collect();
        assert_eq!(rounds, [true, true, true, false]);
    }

    #[test]
    fn a_task_that_wakes_itself_leaves_others_their_turn() {
        #[derive(Clone, Copy, Debug)]
        enum By {
            Signal,
            Event,
            Timer,
        }
        for by in [By::Signal, By::Event, By::Timer] {
            let log = Rc::new(RefCell::new(Vec::new()));
            let (mut executor, reactor, signal) =
                (Executor::default(), Reactor::default(), Signal::default());
            reactor.advance(10);
            let busy = log.clone();
            executor.spawner().spawn(async move {
                for _ in 0..3 {
                    record(&busy, "busy");
                    match by {
                        By::Signal => {
                            signal.notify();
                            signal.wait().await;
                        }
                        By::Event => {
                            reactor.fire(3);
                            reactor.event(3).await;
                        }
                        By::Timer => reactor.sleep_until(9).await,
                    }
                }
            });
            let other = log.clone();
            executor.spawner().spawn(async move {
                for _ in 0..3 {
                    record(&other, "other");
                    pass().await;
                }
            });
            run_ready(&mut executor);
            assert_eq!(*log.borrow(), ["busy", "other"].repeat(3), "{by:?}");
        }
    }
}
