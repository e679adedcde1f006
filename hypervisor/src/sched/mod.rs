//! Who runs next on a CPU.
//!
//! Every physical CPU has its own [`RunQueue`] and [`TimerQueue`]; nothing here is global on a hot path. A vCPU that can run is in one CPU's queue or
//! runs there ([`Entity::cpu`]); which one that is, changes when it wakes ([`wake`] prefers an idle CPU) and when a CPU has nothing to do ([`pick`] then
//! takes over what waits elsewhere).
//!
//! Whether a vCPU is queued or running changes under the lock of the queue of its CPU. Lock order: a vCPU's timer lock, then a timer
//! queue; run queues are locked one at a time, with nothing else inside.
//!
//! A vCPU's registers stay on a CPU after it stopped, in case that it is the next again; another CPU that wants it asks for them
//! ([`load`], [`evict`]). Who waits for such an answer has nothing loaded that others could wait for, or runs what is loaded; so nobody waits in a circle.

mod runqueue;
mod timer;

pub use runqueue::RunQueue;
pub use timer::{Slot, TimerQueue, UNQUEUED};

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};

use abi::vcpu::{RUNSTATE_BLOCKED, RUNSTATE_OFFLINE, RUNSTATE_RUNNABLE, RUNSTATE_RUNNING};

use crate::domain::vcpu::{Hold, NEVER, Request, Vcpu};
use crate::hw;
use crate::hw::irq::SoftIrq;
use crate::sync::{Mutex, Once};

/// How long a vCPU runs before another that is ready gets the CPU, in nanoseconds.
pub const SLICE: u64 = 10_000_000;

/// No CPU, in [`Entity::loaded_on`].
const NOWHERE: u32 = u32::MAX;

/// What vCPU a CPU runs, and what waits there.
struct CpuSched {
    queue: Mutex<RunQueue<Arc<Vcpu>>>,
    /// How many are in `queue`, for those who do not hold its lock.
    waiting: AtomicU32,
    timers: Mutex<TimerQueue<Arc<Vcpu>>>,
    current: Mutex<Option<Arc<Vcpu>>>,
    /// It has found nothing to run and waits for an interrupt, or is about to.
    idle: AtomicBool,
    /// The vCPU whose registers are still on this CPU; it need not be running.
    loaded: Mutex<Option<Arc<Vcpu>>>,
    /// Nanoseconds spent running vCPUs.
    busy: AtomicU64,
    /// When the running vCPU's slice ends, if another waits.
    slice_end: AtomicU64,
}

/// The scheduler's part of a vCPU.
#[derive(Debug)]
pub struct Entity {
    /// The CPU in whose queue it is, or was.
    cpu: AtomicU32,
    running: AtomicBool,
    queued: AtomicBool,
    /// The CPU that has its registers, or [`NOWHERE`]. Written by that CPU alone.
    loaded_on: AtomicU32,
    /// The CPU in whose timer queue it is.
    timer_cpu: Mutex<u32>,
    timer_slot: AtomicU32,
    /// Total time spent running, in nanoseconds.
    ran: AtomicU64,
    since: AtomicU64,
}

impl Entity {
    /// A vCPU that never ran.
    pub fn new() -> Self {
        Self {
            cpu: AtomicU32::new(0),
            running: AtomicBool::new(false),
            queued: AtomicBool::new(false),
            loaded_on: AtomicU32::new(NOWHERE),
            timer_cpu: Mutex::new(0),
            timer_slot: AtomicU32::new(UNQUEUED),
            ran: AtomicU64::new(0),
            since: AtomicU64::new(0),
        }
    }

    /// The physical CPU it runs on or ran on last.
    pub fn cpu(&self) -> u32 {
        self.cpu.load(SeqCst)
    }

    /// Is it running now, on any CPU?
    pub fn running(&self) -> bool {
        self.running.load(SeqCst)
    }

    /// Is another CPU running it?
    pub fn runs_elsewhere(&self) -> bool {
        self.running() && self.cpu() != hw::percpu::id()
    }

    /// Make it exit if it runs on another CPU.
    pub fn interrupt_elsewhere(&self) {
        if self.runs_elsewhere() {
            hw::apic::kick(self.cpu());
        }
    }

    /// Time spent running so far, in nanoseconds.
    pub fn run_time(&self) -> u64 {
        let current = if self.running() {
            hw::time::now_ns().saturating_sub(self.since.load(SeqCst))
        } else {
            0
        };
        self.ran.load(SeqCst).saturating_add(current)
    }
}

impl Default for Entity {
    fn default() -> Self {
        Self::new()
    }
}

impl Slot for Arc<Vcpu> {
    fn slot(&self) -> &AtomicU32 {
        &self.entity.timer_slot
    }
}

/// By number; those from [`cpu_count`] on do not run yet.
static CPUS: Once<Vec<CpuSched>> = Once::new();
/// How many CPUs run guests.
static COUNT: AtomicU32 = AtomicU32::new(1);

/// Make the queues of `most` physical CPUs, of which the first takes part at once. Called once, before the first vCPU is made.
pub fn init(most: usize) {
    CPUS.call_once(|| {
        (0..most)
            .map(|_| CpuSched {
                queue: Mutex::new(RunQueue::new()),
                waiting: AtomicU32::new(0),
                timers: Mutex::new(TimerQueue::new()),
                current: Mutex::new(None),
                idle: AtomicBool::new(false),
                loaded: Mutex::new(None),
                busy: AtomicU64::new(0),
                slice_end: AtomicU64::new(NEVER),
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

/// Nanoseconds that a CPU had nothing to run.
pub fn idle_time(id: u32) -> u64 {
    let ran = cpu(id).map_or(0, |cpu| cpu.busy.load(SeqCst));
    hw::time::now_ns().saturating_sub(ran)
}

/// `vcpu` may run again: queue it, and let a CPU know.
pub fn wake(vcpu: &Arc<Vcpu>) {
    let entity = &vcpu.entity;
    loop {
        let id = entity.cpu();
        let Some(home) = cpu(id) else { return };
        let _queue = home.queue.lock();
        if entity.cpu() != id {
            continue; // It was taken over in between.
        }
        if entity.running() || entity.queued.swap(true, SeqCst) {
            return; // Whoever runs it looks at it again when it stops.
        }
        break;
    }
    // Marked as queued, it is nobody else's until it is in a queue.
    vcpu.areas.change_state(RUNSTATE_RUNNABLE, hw::time::now_ns());
    let id = place(entity.cpu());
    let Some(target) = cpu(id) else { return };
    entity.cpu.store(id, SeqCst);
    let mut queue = target.queue.lock();
    queue.push_woken(vcpu.clone());
    target.waiting.fetch_add(1, SeqCst);
    drop(queue);
    reschedule(id, target);
    // One that became idle after `place` looked, and before the queue had something for it, comes for it now.
    if !is_idle(&id)
        && let Some(id) = idle_cpu()
    {
        hw::apic::kick(id);
    }
}

/// Where one that was woken goes: where it was if that is idle, else to an idle CPU, else where it was.
fn place(home: u32) -> u32 {
    if is_idle(&home) {
        return home;
    }
    idle_cpu().unwrap_or(home)
}

fn is_idle(id: &u32) -> bool {
    cpu(*id).is_some_and(|cpu| cpu.idle.load(SeqCst))
}

fn idle_cpu() -> Option<u32> {
    (0..COUNT.load(SeqCst)).find(is_idle)
}

/// Let what runs on CPU `id` make room, if anything runs there.
fn reschedule(id: u32, cpu: &CpuSched) {
    let current = cpu.current.lock().clone();
    if let Some(current) = current {
        current.request(Request::LEAVE);
    } else if id != hw::percpu::id() {
        hw::apic::kick(id);
    }
}

/// The next vCPU to run on this CPU; it counts as running from here on. `None`: nothing to do.
pub fn pick() -> Option<Arc<Vcpu>> {
    let here = hw::percpu::id();
    let own = cpu(here)?;
    own.idle.store(false, SeqCst);
    let found = take_from(own, here).or_else(|| {
        // From here on whoever wakes a vCPU sees that there is room; so what is not seen here, comes here.
        own.idle.store(true, SeqCst);
        let count = COUNT.load(SeqCst);
        let order = (here..count).chain(0..here);
        order.filter_map(cpu).find_map(|other| take_from(other, here))
    });
    let Some(vcpu) = found else {
        own.slice_end.store(NEVER, SeqCst);
        program_timer(own);
        return None;
    };
    own.idle.store(false, SeqCst);
    let now = hw::time::now_ns();
    vcpu.entity.since.store(now, SeqCst);
    vcpu.areas.change_state(RUNSTATE_RUNNING, now);
    own.slice_end.store(now + SLICE, SeqCst);
    *own.current.lock() = Some(vcpu.clone());
    program_timer(own);
    Some(vcpu)
}

/// The next of what waits at `cpu`; it runs on CPU `here` from now on.
fn take_from(cpu: &CpuSched, here: u32) -> Option<Arc<Vcpu>> {
    if cpu.waiting.load(SeqCst) == 0 {
        return None;
    }
    let mut queue = cpu.queue.lock();
    while let Some(vcpu) = queue.pop() {
        cpu.waiting.fetch_sub(1, SeqCst);
        let entity = &vcpu.entity;
        entity.queued.store(false, SeqCst);
        if vcpu.runnable() {
            entity.cpu.store(here, SeqCst);
            entity.running.store(true, SeqCst);
            return Some(vcpu);
        }
    }
    None
}

/// `vcpu`, which [`pick`] gave, has left the guest: account its time and queue it again if it can go on.
pub fn put(vcpu: &Arc<Vcpu>) {
    let Some(cpu) = this_cpu() else { return };
    *cpu.current.lock() = None;
    let entity = &vcpu.entity;
    let now = hw::time::now_ns();
    let ran = now.saturating_sub(entity.since.load(SeqCst));
    entity.ran.fetch_add(ran, SeqCst);
    cpu.busy.fetch_add(ran, SeqCst);
    let mut queue = cpu.queue.lock();
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
    if ready && !entity.queued.swap(true, SeqCst) {
        queue.push_ready(vcpu.clone());
        cpu.waiting.fetch_add(1, SeqCst);
    }
}

/// Make `vcpu`'s state sit in memory: take it off the CPU's registers where it was left. It is this CPU's, or runs nowhere.
pub fn evict(vcpu: &Vcpu) {
    let here = hw::percpu::id();
    match vcpu.entity.loaded_on.load(SeqCst) {
        NOWHERE => {}
        id if id == here => {
            if let Some(cpu) = cpu(here) {
                unload(&mut cpu.loaded.lock());
            }
        }
        id => {
            hw::irq::raise_on(id, SoftIrq::EVICT);
            while vcpu.entity.loaded_on.load(SeqCst) == id {
                core::hint::spin_loop();
            }
        }
    }
}

fn unload(loaded: &mut Option<Arc<Vcpu>>) {
    if let Some(vcpu) = loaded.take() {
        vcpu.private().lock().cpu.as_dyn().unload();
        vcpu.entity.loaded_on.store(NOWHERE, SeqCst);
    }
}

/// Take off this CPU's registers what does not run ([`SoftIrq::EVICT`]).
pub fn unload_idle() {
    let Some(cpu) = this_cpu() else { return };
    if cpu.current.lock().is_none() {
        unload(&mut cpu.loaded.lock());
    }
}

/// Make `vcpu`'s registers sit on this CPU, which runs it, taking off another's if needed.
pub fn load(vcpu: &Arc<Vcpu>) {
    let here = hw::percpu::id();
    let Some(cpu) = cpu(here) else { return };
    let mut loaded = cpu.loaded.lock();
    if loaded.as_ref().is_some_and(|other| Arc::ptr_eq(other, vcpu)) {
        return;
    }
    unload(&mut loaded);
    evict(vcpu);
    vcpu.private().lock().cpu.as_dyn().load();
    vcpu.entity.loaded_on.store(here, SeqCst);
    *loaded = Some(vcpu.clone());
}

/// Forget a vCPU that will never run again, so that it can be freed.
pub fn forget(vcpu: &Arc<Vcpu>) {
    evict(vcpu);
    let home = vcpu.entity.timer_cpu.lock();
    if let Some(cpu) = cpu(*home) {
        cpu.timers.lock().remove(vcpu);
    }
    drop(home);
    if let Some(cpu) = cpu(vcpu.entity.cpu()) {
        let removed = cpu.queue.lock().remove(|other| Arc::ptr_eq(other, vcpu));
        cpu.waiting.fetch_sub(removed as u32, SeqCst);
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
            "CPU {id}: {} waiting, {} deadlines{}, {}",
            cpu.waiting.load(SeqCst),
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
    program_timer(own);
}

/// Set the hardware's one-shot timer to whatever comes first on this CPU: a vCPU's deadline, or the end of the slice while another waits.
fn program_timer(cpu: &CpuSched) {
    let slice = if cpu.waiting.load(SeqCst) == 0 {
        NEVER
    } else {
        cpu.slice_end.load(SeqCst)
    };
    let deadline = cpu.timers.lock().first().min(slice);
    hw::timer::arm(deadline);
}

/// The hardware timer fired: tell the vCPUs whose time has come, end a slice that is over.
pub fn on_timer() {
    let Some(cpu) = this_cpu() else { return };
    let now = hw::time::now_ns();
    loop {
        let due = cpu.timers.lock().pop_due(now);
        let Some(vcpu) = due else { break };
        vcpu.deadline_passed(now);
    }
    if now >= cpu.slice_end.load(SeqCst) {
        let current = cpu.current.lock().clone();
        if let Some(current) = current {
            current.request(Request::LEAVE);
        }
    }
    program_timer(cpu);
}
