//! Who runs next on a CPU.
//!
//! Groups of up to [`GROUP`] CPUs, neighbours by number, share a [`RunQueue`]: what waits there is anybody's of the group, so that shares hold over all of them
//! and no CPU idles while something waits. A CPU that finds nothing in its own group looks into the others'. Every CPU has its own timers. Nothing is
//! global on a hot path.
//!
//! Whether a vCPU waits or runs changes under the lock of the queue of its group ([`Entity::cpu`] says which). Lock order: a vCPU's timer lock, then a
//! CPU's timers; run queues are locked one at a time, with nothing inside but a vCPU's own record of where its time went.
//!
//! No ticks: a CPU's timer is set for the end of a slice only while somebody waits.

mod entity;
mod heap;
mod mask;
mod registers;
mod runqueue;
mod share;

pub use entity::Entity;
pub use mask::CpuMask;
pub use registers::{evict, load, unload_idle};
pub use runqueue::{RunQueue, Schedulable, Waiting};
pub use share::Share;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use abi::vcpu::{RUNSTATE_BLOCKED, RUNSTATE_OFFLINE, RUNSTATE_RUNNABLE, RUNSTATE_RUNNING};

use crate::domain::vcpu::{Hold, NEVER, Request, Vcpu};
use crate::hw;
use crate::hw::irq::SoftIrq;
use crate::sync::{Mutex, Once};
use heap::Heap;
use runqueue::virtual_time;
use share::Left;

/// How long a vCPU runs before another that waits gets the CPU, in nanoseconds.
pub const SLICE: u64 = 10_000_000;
/// A vCPU that was woken does not take the CPU from one that has run for less, in nanoseconds: credit2's default.
pub const RATE_LIMIT: u64 = 1_000_000;
/// CPUs that share a queue, at most: credit2's default.
const GROUP: u32 = 16;

/// CPUs that share what waits.
struct Group {
    queue: Mutex<RunQueue<Arc<Vcpu>>>,
    /// How many wait, for those who do not hold the lock.
    waiting: AtomicU32,
    /// Where the queue's virtual time is, for the same.
    floor: AtomicU64,
    /// The CPUs, by number within the group, that have found nothing to run. Who wakes a vCPU takes the bit of the CPU that is to run it.
    idle: AtomicU32,
}

/// What vCPU a CPU runs, and its timers.
struct CpuSched {
    timers: Mutex<Heap<Arc<Vcpu>, Timers>>,
    current: Mutex<Option<Arc<Vcpu>>>,
    /// Virtual time of the vCPU that runs when it began, [`NEVER`] if none runs; when that was; and its weight.
    time: AtomicU64,
    since: AtomicU64,
    weight: AtomicU32,
    /// The vCPU whose registers are still on this CPU; it need not be running.
    loaded: Mutex<Option<Arc<Vcpu>>>,
    /// Nanoseconds spent running vCPUs.
    busy: AtomicU64,
    /// When the running vCPU is to make room, if another waits.
    slice_end: AtomicU64,
    /// When its domain has used up what a cap allows.
    budget_end: AtomicU64,
}

/// The use of a heap for deadlines.
struct Timers;

/// By number; those from [`cpu_count`] on do not run yet.
static CPUS: Once<Vec<CpuSched>> = Once::new();
/// By number of the CPUs, divided by [`GROUP`].
static GROUPS: Once<Vec<Group>> = Once::new();
/// How many CPUs run guests.
static COUNT: AtomicU32 = AtomicU32::new(1);

/// Make the queues of `most` physical CPUs, of which the first takes part at once. Called once, before the first vCPU is made.
pub fn init(most: usize) {
    CPUS.call_once(|| {
        (0..most)
            .map(|_| CpuSched {
                timers: Mutex::new(Heap::new()),
                current: Mutex::new(None),
                time: AtomicU64::new(NEVER),
                since: AtomicU64::new(0),
                weight: AtomicU32::new(1),
                loaded: Mutex::new(None),
                busy: AtomicU64::new(0),
                slice_end: AtomicU64::new(NEVER),
                budget_end: AtomicU64::new(NEVER),
            })
            .collect()
    });
    GROUPS.call_once(|| {
        (0..most.div_ceil(GROUP as usize))
            .map(|_| Group {
                queue: Mutex::new(RunQueue::new()),
                waiting: AtomicU32::new(0),
                floor: AtomicU64::new(0),
                idle: AtomicU32::new(0),
            })
            .collect()
    });
}

/// CPU `id`, the next that did not, takes part from now on.
pub fn add_cpu(id: u32) {
    COUNT.store(id + 1, SeqCst);
}

/// How many physical CPUs run guests. Their numbers begin with 0.
pub fn cpu_count() -> usize {
    COUNT.load(SeqCst) as usize
}

fn cpu(id: u32) -> Option<&'static CpuSched> {
    CPUS.get()?.get(id as usize)
}

fn this_cpu() -> Option<&'static CpuSched> {
    cpu(hw::percpu::id())
}

/// The group of CPU `id`.
fn group(id: u32) -> Option<&'static Group> {
    GROUPS.get()?.get((id / GROUP) as usize)
}

/// The CPUs that are in one group with CPU `id`.
fn neighbours(id: u32) -> core::ops::Range<u32> {
    let first = id / GROUP * GROUP;
    first..(first + GROUP).min(COUNT.load(SeqCst))
}

const fn bit(id: u32) -> u32 {
    1 << (id % GROUP)
}

impl Group {
    /// Change the queue.
    fn with<R>(&self, work: impl FnOnce(&mut RunQueue<Arc<Vcpu>>) -> R) -> R {
        let mut queue = self.queue.lock();
        let result = work(&mut queue);
        self.waiting.store(queue.len() as u32, SeqCst);
        self.floor.store(queue.floor(), SeqCst);
        result
    }

    fn has_waiting(&self) -> bool {
        self.waiting.load(SeqCst) != 0
    }

    /// Take the bit of idle CPU `id`. `false`: it has something to do.
    fn claim(&self, id: u32) -> bool {
        self.idle.load(SeqCst) & bit(id) != 0 && self.idle.fetch_and(!bit(id), SeqCst) & bit(id) != 0
    }
}

impl CpuSched {
    /// Virtual time at `now` of the vCPU that runs. `None`: none does.
    fn time_at(&self, now: u64) -> Option<u64> {
        let time = self.time.load(SeqCst);
        let ran = now.saturating_sub(self.since.load(SeqCst));
        (time != NEVER).then(|| time.saturating_add(virtual_time(ran, self.weight.load(SeqCst))))
    }

    /// Have what runs here make room.
    fn preempt(&self) {
        let current = self.current.lock().clone();
        if let Some(current) = current {
            current.request(Request::LEAVE);
        }
    }
}

/// Nanoseconds that a CPU had nothing to run.
pub fn idle_time(id: u32) -> u64 {
    let ran = cpu(id).map_or(0, |cpu| cpu.busy.load(SeqCst));
    hw::time::now_ns().saturating_sub(ran)
}

/// `vcpu` may run again: queue it, and see to a CPU for it.
pub fn wake(vcpu: &Arc<Vcpu>) {
    let entity = &vcpu.entity;
    let now = hw::time::now_ns();
    loop {
        let home = entity.cpu();
        let Some(group) = group(home) else { return };
        let queued = group.with(|queue| {
            if entity.cpu() != home {
                return None; // It was taken over in between.
            }
            if entity.running() || entity.waits() {
                return Some(false); // Whoever runs it looks at it again when it stops.
            }
            if !entity.hard.contains(home)
                && let Some(other) = entity.hard.first_below(COUNT.load(SeqCst))
            {
                entity.cpu.store(other, SeqCst);
                return None;
            }
            vcpu.areas.change_state(RUNSTATE_RUNNABLE, now);
            queue.push_woken(vcpu);
            Some(true)
        });
        match queued {
            None => {}
            Some(false) => return,
            Some(true) => return see_to(vcpu, home, now),
        }
    }
}

/// `vcpu` waits in the queue of CPU `home`'s group: find a CPU that takes it.
fn see_to(vcpu: &Arc<Vcpu>, home: u32, now: u64) {
    let entity = &vcpu.entity;
    let claim = |id: &u32| group(*id).is_some_and(|group| group.claim(*id));
    let allowed = |id: &u32| entity.hard.contains(*id);
    let preferred = |id: &u32| allowed(id) && entity.soft.contains(*id);
    let others = || (0..COUNT.load(SeqCst)).filter(|id| id / GROUP != home / GROUP);
    let idle = Some(home)
        .filter(|id| preferred(id) && claim(id))
        .or_else(|| neighbours(home).filter(preferred).find(claim))
        .or_else(|| neighbours(home).filter(allowed).find(claim))
        .or_else(|| others().filter(allowed).find(claim));
    if let Some(id) = idle {
        if id != hw::percpu::id() {
            hw::apic::kick(id);
        }
        return;
    }
    let furthest = neighbours(home)
        .filter(allowed)
        .filter_map(|id| Some((cpu(id)?.time_at(now)?, id)))
        .max();
    let Some((time, id)) = furthest else { return };
    let Some(target) = cpu(id) else { return };
    let since = target.since.load(SeqCst);
    if time <= entity.time.load(SeqCst) {
        // Nobody is ahead of it: at the end of a slice.
        reconsider(id, target, since + SLICE);
    } else if now < since + RATE_LIMIT {
        reconsider(id, target, since + RATE_LIMIT);
    } else {
        target.preempt();
    }
}

/// Have CPU `id` look at `then` whether what it runs should make room.
fn reconsider(id: u32, cpu: &CpuSched, then: u64) {
    cpu.slice_end.fetch_min(then, SeqCst);
    if id == hw::percpu::id() {
        program_timer(id, cpu);
    } else {
        hw::irq::raise_on(id, SoftIrq::TIMER);
    }
}

/// The next vCPU to run on this CPU; it counts as running from here on. `None`: nothing to do.
pub fn pick() -> Option<Arc<Vcpu>> {
    let here = hw::percpu::id();
    let (own, home) = (cpu(here)?, group(here)?);
    home.idle.fetch_and(!bit(here), SeqCst);
    loop {
        let now = hw::time::now_ns();
        let found = take_from(home, here, now).or_else(|| {
            // From here on whoever wakes a vCPU sees that there is room; so what is not seen here, comes here.
            home.idle.fetch_or(bit(here), SeqCst);
            GROUPS.get()?.iter().find_map(|group| take_from(group, here, now))
        });
        let Some(vcpu) = found else {
            program_timer(here, own);
            return None;
        };
        home.idle.fetch_and(!bit(here), SeqCst);
        let budget_end = match vcpu.entity.share.left(now) {
            Left::Unlimited => NEVER,
            Left::Some(left) => now + left,
            Left::NoneUntil(then) => {
                vcpu.park(then);
                timers_changed(&vcpu);
                stopped(&vcpu, here, now);
                continue;
            }
        };
        vcpu.areas.change_state(RUNSTATE_RUNNING, now);
        own.since.store(now, SeqCst);
        own.weight.store(vcpu.entity.share.weight(), SeqCst);
        own.time.store(vcpu.entity.time.load(SeqCst), SeqCst);
        own.slice_end.store(now + SLICE, SeqCst);
        own.budget_end.store(budget_end, SeqCst);
        *own.current.lock() = Some(vcpu.clone());
        program_timer(here, own);
        if home.has_waiting() {
            spread(home, here, now);
        }
        return Some(vcpu);
    }
}

/// The next for CPU `here` of what waits in `group`; it runs there from `now` on.
fn take_from(group: &Group, here: u32, now: u64) -> Option<Arc<Vcpu>> {
    if !group.has_waiting() {
        return None;
    }
    let own_floor = self::group(here)?.floor.load(SeqCst);
    group.with(|queue| {
        while let Some(vcpu) = queue.pop(here) {
            let entity = &vcpu.entity;
            if vcpu.runnable() {
                if entity.cpu() / GROUP != here / GROUP {
                    let time = entity.time.load(SeqCst);
                    let ahead = time.saturating_sub(queue.floor());
                    entity.time.store(own_floor.saturating_add(ahead), SeqCst);
                }
                entity.cpu.store(here, SeqCst);
                entity.since.store(now, SeqCst);
                entity.running.store(true, SeqCst);
                return Some(vcpu);
            }
        }
        None
    })
}

/// Somebody still waits in the group of CPU `here`, which has just taken its next: an idle CPU comes for it; else the CPU makes room whose vCPU is ahead by
/// more than a slice, as its timer need not be set.
fn spread(group: &Group, here: u32, now: u64) {
    let first = group
        .queue
        .lock()
        .first_for(here)
        .map(|(time, vcpu)| (time, vcpu.clone()));
    let Some((time, vcpu)) = first else { return };
    let idle = neighbours(here)
        .filter(|id| vcpu.entity.hard.contains(*id))
        .find(|&id| group.claim(id));
    if let Some(id) = idle {
        hw::apic::kick(id);
        return;
    }
    let ahead = neighbours(here)
        .filter(|&id| id != here && vcpu.entity.hard.contains(id))
        .filter_map(|id| Some((cpu(id)?.time_at(now)?, cpu(id)?)))
        .max_by_key(|(time, _)| *time);
    if let Some((furthest, cpu)) = ahead
        && furthest > time + virtual_time(SLICE, cpu.weight.load(SeqCst))
    {
        cpu.preempt();
    }
}

/// `vcpu`, which [`pick`] gave, has left the guest: account its time and queue it again if it can go on.
pub fn put(vcpu: &Arc<Vcpu>) {
    let here = hw::percpu::id();
    let Some(cpu) = cpu(here) else { return };
    *cpu.current.lock() = None;
    cpu.time.store(NEVER, SeqCst);
    let entity = &vcpu.entity;
    let now = hw::time::now_ns();
    let ran = now.saturating_sub(entity.since.load(SeqCst));
    entity.ran.fetch_add(ran, SeqCst);
    cpu.busy.fetch_add(ran, SeqCst);
    entity.share.charge(ran, now);
    let time = entity.time.load(SeqCst);
    let spent = virtual_time(ran, entity.share.weight());
    entity.time.store(time.saturating_add(spent), SeqCst);
    stopped(vcpu, here, now);
}

/// `vcpu` does not run on CPU `here` any more: queue it again if it can go on.
fn stopped(vcpu: &Arc<Vcpu>, here: u32, now: u64) {
    let Some(group) = group(here) else { return };
    let entity = &vcpu.entity;
    let moves = group.with(|queue| {
        entity.running.store(false, SeqCst);
        let ready = vcpu.runnable();
        let state = if ready {
            RUNSTATE_RUNNABLE
        } else if vcpu.held_by(Hold::BLOCKED | Hold::POLLING) {
            RUNSTATE_BLOCKED
        } else {
            RUNSTATE_OFFLINE
        };
        vcpu.areas.change_state(state, now);
        let yielding = entity.yielding.swap(false, SeqCst);
        match (ready, entity.hard.contains(here), yielding) {
            (false, ..) => return false,
            (_, false, _) => return true,
            (.., false) => queue.push_ready(vcpu),
            (.., true) => queue.push_yielding(vcpu),
        }
        false
    });
    if moves {
        wake(vcpu);
    }
}

/// `vcpu`, which runs here, lets others go first, if there are any.
pub fn yield_now(vcpu: &Arc<Vcpu>) {
    if group(hw::percpu::id()).is_some_and(|group| !group.has_waiting()) {
        return;
    }
    vcpu.entity.yielding.store(true, SeqCst);
    vcpu.request(Request::LEAVE);
}

/// [`Entity::hard`] has changed: `vcpu` leaves where it may not be any more.
pub fn affinity_changed(vcpu: &Arc<Vcpu>) {
    let entity = &vcpu.entity;
    loop {
        let home = entity.cpu();
        let Some(group) = group(home) else { return };
        let settled = group.with(|queue| {
            let here = entity.cpu() == home;
            if here && entity.waits() {
                queue.remove(vcpu);
            }
            here
        });
        if settled {
            break;
        }
    }
    if entity.running() {
        vcpu.request(Request::LEAVE);
    } else if vcpu.runnable() {
        wake(vcpu);
    }
}

/// Forget a vCPU that will never run again, so that it can be freed.
pub fn forget(vcpu: &Arc<Vcpu>) {
    evict(vcpu);
    let home = vcpu.entity.timer_cpu.lock();
    if let Some(cpu) = cpu(*home) {
        cpu.timers.lock().remove(vcpu);
    }
    drop(home);
    if let Some(group) = group(vcpu.entity.cpu()) {
        group.with(|queue| queue.remove(vcpu));
    }
}

/// Who runs on this CPU, for reports.
pub fn current() -> Option<Arc<Vcpu>> {
    this_cpu()?.current.try_lock()?.clone()
}

/// Log what every CPU does (debug key `r`).
pub fn report() {
    let now = hw::time::now_ns();
    for (id, cpu) in (0..COUNT.load(SeqCst)).filter_map(|id| Some((id, cpu(id)?))) {
        let current = cpu.current.try_lock().and_then(|current| current.clone());
        let timers = cpu.timers.lock();
        let next = match timers.first() {
            NEVER => None,
            deadline => Some(deadline.cast_signed().wrapping_sub(now.cast_signed()) / 1000),
        };
        log::info!(
            "CPU {id}: {} waiting in its group, {} deadlines{}, {}",
            group(id).map_or(0, |group| group.waiting.load(SeqCst)),
            timers.len(),
            core::fmt::from_fn(|f| next.map_or(Ok(()), |us| write!(f, ", the next in {us} us"))),
            core::fmt::from_fn(|f| match &current {
                Some(vcpu) => write!(f, "runs {}v{}", vcpu.domid, vcpu.id.0),
                None => f.write_str("idle"),
            }),
        );
    }
}

/// A deadline in [`Vcpu::timers`] changed: put the vCPU where it belongs in the timer queue of this CPU, which need not be where it runs.
pub fn timers_changed(vcpu: &Arc<Vcpu>) {
    let here = hw::percpu::id();
    let Some(own) = cpu(here) else { return };
    let mut home = vcpu.entity.timer_cpu.lock();
    if *home != here {
        if let Some(other) = cpu(*home) {
            other.timers.lock().remove(vcpu);
        }
        *home = here;
    }
    own.timers.lock().set(vcpu, vcpu.timers.next());
    drop(home);
    program_timer(here, own);
}

/// Set this CPU's one-shot timer to whatever comes first: a vCPU's deadline, the end of a budget, or that of the slice while another waits.
fn program_timer(here: u32, cpu: &CpuSched) {
    let mut deadline = cpu.timers.lock().first();
    if cpu.time.load(SeqCst) != NEVER {
        deadline = deadline.min(cpu.budget_end.load(SeqCst));
        if group(here).is_some_and(Group::has_waiting) {
            deadline = deadline.min(cpu.slice_end.load(SeqCst));
        }
    }
    hw::timer::arm(deadline);
}

/// The timer fired, or another CPU wants this one to reconsider: tell the vCPUs whose time has come, end a slice or a budget that is over.
pub fn on_timer() {
    let here = hw::percpu::id();
    let (Some(cpu), Some(group)) = (cpu(here), group(here)) else {
        return;
    };
    let now = hw::time::now_ns();
    loop {
        let due = cpu.timers.lock().pop_due(now);
        let Some(vcpu) = due else { break };
        vcpu.deadline_passed(now);
    }
    if let Some(time) = cpu.time_at(now) {
        if now >= cpu.budget_end.load(SeqCst) {
            cpu.preempt();
        } else if now >= cpu.slice_end.load(SeqCst) && group.has_waiting() {
            let first = group.queue.lock().first_for(here).map(|(time, _)| time);
            if first.is_some_and(|first| first < time) {
                cpu.preempt();
            }
            cpu.slice_end.store(now + SLICE, SeqCst);
        }
    }
    program_timer(here, cpu);
}
