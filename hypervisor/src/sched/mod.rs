//! Who runs next on a CPU.
//!
//! Every physical CPU has its own [`RunQueue`] and [`TimerQueue`]; nothing here is global on a hot path. A vCPU belongs to one CPU's queues at a
//! time ([`Entity::cpu`]). Lock order: run queue, then nothing; timer queue, then nothing.

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
use crate::sync::{Mutex, Once};

/// How long a vCPU runs before another that is ready gets the CPU, in nanoseconds.
pub const SLICE: u64 = 10_000_000;

/// What vCPU a CPU runs, and what waits there.
pub struct CpuSched {
    queue: Mutex<RunQueue<Arc<Vcpu>>>,
    timers: Mutex<TimerQueue<Arc<Vcpu>>>,
    current: Mutex<Option<Arc<Vcpu>>>,
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
    /// The CPU in whose queues it is.
    cpu: AtomicU32,
    running: AtomicBool,
    queued: AtomicBool,
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

static CPUS: Once<Vec<CpuSched>> = Once::new();

/// Make the queues of `count` physical CPUs. Called once, before the first vCPU is made.
pub fn init(count: usize) {
    CPUS.call_once(|| {
        (0..count)
            .map(|_| CpuSched {
                queue: Mutex::new(RunQueue::new()),
                timers: Mutex::new(TimerQueue::new()),
                current: Mutex::new(None),
                loaded: Mutex::new(None),
                busy: AtomicU64::new(0),
                slice_end: AtomicU64::new(NEVER),
            })
            .collect()
    });
}

fn cpu_of(vcpu: &Vcpu) -> Option<&'static CpuSched> {
    CPUS.get()?.get(vcpu.entity.cpu() as usize)
}

fn this_cpu() -> Option<&'static CpuSched> {
    CPUS.get()?.get(hw::percpu::id() as usize)
}

/// How many physical CPUs run guests.
pub fn cpu_count() -> usize {
    CPUS.get().map_or(0, Vec::len)
}

/// Nanoseconds that a CPU had nothing to run.
pub fn idle_time(cpu: u32) -> u64 {
    let ran = CPUS
        .get()
        .and_then(|cpus| cpus.get(cpu as usize))
        .map_or(0, |cpu| cpu.busy.load(SeqCst));
    hw::time::now_ns().saturating_sub(ran)
}

/// `vcpu` may run again: queue it, and let the CPU know.
pub fn wake(vcpu: &Arc<Vcpu>) {
    let Some(cpu) = cpu_of(vcpu) else { return };
    let mut queue = cpu.queue.lock();
    let entity = &vcpu.entity;
    if entity.running.load(SeqCst) || entity.queued.swap(true, SeqCst) {
        return; // Whoever runs it looks at it again when it stops.
    }
    vcpu.areas.change_state(RUNSTATE_RUNNABLE, hw::time::now_ns());
    queue.push_woken(vcpu.clone());
    drop(queue);
    reschedule(vcpu.entity.cpu(), cpu);
}

/// Let what runs on `cpu` make room, if anything runs there.
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
    let cpu = this_cpu()?;
    let mut queue = cpu.queue.lock();
    while let Some(vcpu) = queue.pop() {
        vcpu.entity.queued.store(false, SeqCst);
        if !vcpu.runnable() {
            continue;
        }
        let now = hw::time::now_ns();
        vcpu.entity.running.store(true, SeqCst);
        vcpu.entity.since.store(now, SeqCst);
        vcpu.areas.change_state(RUNSTATE_RUNNING, now);
        cpu.slice_end.store(now + SLICE, SeqCst);
        *cpu.current.lock() = Some(vcpu.clone());
        drop(queue);
        program_timer(cpu);
        return Some(vcpu);
    }
    cpu.slice_end.store(NEVER, SeqCst);
    None
}

/// `vcpu`, which [`pick`] gave, has left the guest: account its time and queue it again if it can go on.
pub fn put(vcpu: &Arc<Vcpu>) {
    let Some(cpu) = this_cpu() else { return };
    let mut queue = cpu.queue.lock();
    *cpu.current.lock() = None;
    let entity = &vcpu.entity;
    let now = hw::time::now_ns();
    let ran = now.saturating_sub(entity.since.load(SeqCst));
    entity.ran.fetch_add(ran, SeqCst);
    cpu.busy.fetch_add(ran, SeqCst);
    entity.running.store(false, SeqCst);
    let state = if vcpu.runnable() {
        RUNSTATE_RUNNABLE
    } else if vcpu.held_by(Hold::BLOCKED | Hold::POLLING) {
        RUNSTATE_BLOCKED
    } else {
        RUNSTATE_OFFLINE
    };
    vcpu.areas.change_state(state, now);
    if vcpu.runnable() && !entity.queued.swap(true, SeqCst) {
        queue.push_ready(vcpu.clone());
    }
}

/// Make `vcpu`'s state sit in memory: take it off this CPU's registers if it was left there.
pub fn evict(vcpu: &Vcpu) {
    let Some(cpu) = this_cpu() else { return };
    let mut loaded = cpu.loaded.lock();
    if loaded.as_ref().is_some_and(|other| core::ptr::eq(&**other, vcpu))
        && let Some(other) = loaded.take()
    {
        other.private().lock().cpu.as_dyn().unload();
    }
}

/// Make `vcpu`'s registers sit on this CPU, taking off another's if needed.
pub fn load(vcpu: &Arc<Vcpu>) {
    let Some(cpu) = this_cpu() else { return };
    let mut loaded = cpu.loaded.lock();
    match loaded.as_ref() {
        Some(other) if Arc::ptr_eq(other, vcpu) => return,
        Some(other) => other.private().lock().cpu.as_dyn().unload(),
        None => {}
    }
    vcpu.private().lock().cpu.as_dyn().load();
    *loaded = Some(vcpu.clone());
}

/// Forget a vCPU that will never run again, so that it can be freed.
pub fn forget(vcpu: &Arc<Vcpu>) {
    evict(vcpu);
    if let Some(cpu) = cpu_of(vcpu) {
        cpu.timers.lock().remove(vcpu);
        cpu.queue.lock().remove(|other| Arc::ptr_eq(other, vcpu));
    }
}

/// Who runs on this CPU, for reports.
pub fn current() -> Option<Arc<Vcpu>> {
    this_cpu()?.current.try_lock()?.clone()
}

/// A deadline in [`Vcpu::timers`] changed: put the vCPU where it belongs in the timer queue.
pub fn timers_changed(vcpu: &Arc<Vcpu>) {
    let Some(cpu) = cpu_of(vcpu) else { return };
    cpu.timers.lock().set(vcpu, vcpu.timers.next());
    if vcpu.entity.cpu() == hw::percpu::id() {
        program_timer(cpu);
    } else {
        hw::apic::kick(vcpu.entity.cpu());
    }
}

/// Set the hardware's one-shot timer to whatever comes first on this CPU: a vCPU's deadline, or the end of the slice while another waits.
fn program_timer(cpu: &CpuSched) {
    let slice = if cpu.queue.lock().is_empty() {
        NEVER
    } else {
        cpu.slice_end.load(SeqCst)
    };
    let deadline = cpu.timers.lock().first().min(slice);
    hw::timer::arm(deadline);
}

/// The hardware timer fired, or another CPU changed something here: tell the vCPUs whose time has come, end a slice that is over.
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
