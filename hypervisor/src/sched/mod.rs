//! Who runs next on a CPU.
//!
//! [`scheduler`] decides, and knows nothing of the machine; [`simulator`] runs it on CPUs that are not there. This module is between it and the machine: it brings the
//! time and this CPU's number, and carries out what the scheduler wants. Every CPU has its own timers, too.

mod bracket;
#[cfg(any(test, feature = "simulator"))]
pub mod decisions;
mod demand;
mod entity;
mod fair;
mod heap;
mod hotplug;
mod mask;
pub mod pool;
mod registers;
mod runqueue;
#[cfg(test)]
mod runqueue_tests;
pub mod scheduler;
mod seat;
mod share;
#[cfg(any(test, feature = "simulator"))]
pub mod simulator;
mod timers;

pub use entity::Entity;
pub use hotplug::{CpuChange, change_cpu, leave_out, retire, told_to_retire};
pub use mask::CpuMask;
pub use registers::{evict, load, look_at, look_at_loaded, unload_idle};
pub use scheduler::{Granularity, SLICE};
pub use share::Share;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};

use abi::vcpu::{RUNSTATE_BLOCKED, RUNSTATE_OFFLINE, RUNSTATE_RUNNABLE, RUNSTATE_RUNNING};

use crate::domain::Domain;
use crate::domain::vcpu::{Hold, NEVER, Request, Vcpu};
use crate::hw;
use crate::hw::irq::SoftIrq;
#[cfg(target_os = "none")]
use crate::hw::percpu::MAX_CPUS;
use crate::mm::fallible::OutOfMemory;
use crate::sync::{Mutex, Once, Rank};
use heap::{Heap, Slot};
use scheduler::{Machine, Scheduler, State, Task};
use timers::{Place, Queue, Timed, Timers};

/// What a CPU has beside what it runs.
struct CpuSched {
    timers: Queue<Arc<Vcpu>>,
    /// The vCPU whose registers are still on this CPU; it need not be running.
    loaded: Mutex<Option<Arc<Vcpu>>>,
    /// When the timer will fire, unless it just has.
    armed: AtomicU64,
    /// When it is to beat, or [`NEVER`]: see [`begin_to_beat`].
    beat: AtomicU64,
    /// It is to give up what it has: [`hotplug`].
    retiring: AtomicBool,
}

/// What a vCPU has left on CPUs.
#[derive(Debug)]
pub struct Traces {
    /// The CPU that has its registers, or [`registers::NOWHERE`]. Written by that CPU alone.
    loaded_on: AtomicU32,
    /// In whose timer queue it is.
    timers: Place,
}

/// How many vCPUs there are: each has its place in the queues of all CPUs, those that do not run yet among them, as it is put there where nothing
/// can fail.
static VCPUS: AtomicUsize = AtomicUsize::new(0);

impl Traces {
    /// Those of a vCPU that never ran: none but its places.
    ///
    /// # Errors
    /// There is no memory for these.
    pub fn new() -> Result<Self, OutOfMemory> {
        let count = VCPUS.fetch_add(1, SeqCst) + 1;
        let traces = Self {
            loaded_on: AtomicU32::new(registers::NOWHERE),
            timers: Place::new(),
        };
        for cpu in CPUS.get().into_iter().flatten() {
            cpu.timers.lock().reserve(count)?;
        }
        if let Some(scheduler) = SCHEDULER.get() {
            scheduler.reserve(count)?;
        }
        Ok(traces)
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        VCPUS.fetch_sub(1, SeqCst);
    }
}

static SCHEDULER: Once<Scheduler<Arc<Vcpu>>> = Once::new();
/// By number; those from [`cpu_count`] on do not run yet.
static CPUS: Once<Vec<CpuSched>> = Once::new();

/// What the CPU with an APIC id shares with others, when that matters: the number of its core, or of its socket.
static CORE: Once<fn(u32) -> u32> = Once::new();

/// Make the queues of `most` physical CPUs, of which the first takes part at once. Called once, before the first vCPU is made.
pub fn init(most: usize, granularity: Granularity) {
    CPUS.call_once(|| {
        (0..most)
            .map(|_| CpuSched {
                timers: Mutex::new(Rank::Timers, Heap::new()),
                loaded: Mutex::new(Rank::Loaded, None),
                armed: AtomicU64::new(NEVER),
                beat: AtomicU64::new(NEVER),
                retiring: AtomicBool::new(false),
            })
            .collect()
    });
    CORE.call_once(|| match granularity {
        Granularity::Socket => hw::topology::socket,
        _ => hw::topology::core,
    });
    SCHEDULER.call_once(|| Scheduler::new(most, granularity));
    join_core();
}

/// Tell the scheduler what this CPU shares with others, before it takes part.
pub fn join_core() {
    if let (Some(scheduler), Some(core)) = (SCHEDULER.get(), CORE.get()) {
        let cpu = hw::percpu::this();
        scheduler.set_core(cpu.id(), core(cpu.apic_id()));
    }
}

fn cpu(id: u32) -> Option<&'static CpuSched> {
    CPUS.get()?.get(id as usize)
}

fn this_cpu() -> Option<&'static CpuSched> {
    cpu(hw::percpu::id())
}

/// CPU `id`, the next that did not, takes part from now on.
pub fn add_cpu(id: u32) {
    if let Some(scheduler) = SCHEDULER.get() {
        scheduler.add_cpu(id);
    }
}

/// How many physical CPUs have been started. Their numbers begin with 0.
pub fn cpu_count() -> usize {
    SCHEDULER.get().map_or(1, Scheduler::cpu_count) as usize
}

/// The numbers of the physical CPUs that are online.
pub fn online_cpus() -> impl Iterator<Item = u32> + Clone {
    (0..cpu_count() as u32).filter(|&cpu| pool::online(cpu))
}

/// How long a vCPU runs, in nanoseconds, before one that was woken takes its CPU.
pub fn rate_limit() -> u64 {
    SCHEDULER.get().map_or(0, Scheduler::rate_limit)
}

/// Change [`rate_limit`], for all CPUs.
pub fn set_rate_limit(limit: u64) {
    if let Some(scheduler) = SCHEDULER.get() {
        scheduler.set_rate_limit(limit);
    }
}

/// Nanoseconds that a CPU had nothing to run; 0 if it is offline.
pub fn idle_time(id: u32) -> u64 {
    if !pool::online(id) {
        return 0;
    }
    let ran = SCHEDULER.get().map_or(0, |scheduler| scheduler.busy(id));
    hw::time::now_ns().saturating_sub(ran)
}

// ---- vCPUs for the scheduler, and the machine ----

impl Task for Arc<Vcpu> {
    fn entity(&self) -> &Entity {
        &self.entity
    }

    fn runnable(&self) -> bool {
        Vcpu::runnable(self)
    }

    fn leaves(&self) -> bool {
        self.requests().contains(Request::LEAVE)
    }

    fn enters(&self, state: State, now: u64) {
        let state = match state {
            State::Running => RUNSTATE_RUNNING,
            State::Waiting => RUNSTATE_RUNNABLE,
            State::Stopped if self.held_by(Hold::BLOCKED | Hold::POLLING) => RUNSTATE_BLOCKED,
            State::Stopped => RUNSTATE_OFFLINE,
        };
        self.areas.change_state(state, self.system_time_at(now));
    }
}

impl Slot<Timers> for Arc<Vcpu> {
    fn slot(&self) -> &AtomicU32 {
        self.traces.timers.slot()
    }
}

impl Timed for Arc<Vcpu> {
    fn place(&self) -> &Place {
        &self.traces.timers
    }

    fn next(&self) -> u64 {
        self.timers.next()
    }
}

/// The CPUs of this machine.
struct Cpus;

impl Machine<Arc<Vcpu>> for Cpus {
    fn kick(&self, id: u32) {
        if id != hw::percpu::id() {
            hw::apic::kick(id);
        }
    }

    fn reconsider(&self, id: u32, then: u64) {
        if id != hw::percpu::id() {
            hw::irq::raise_on(id, SoftIrq::TIMER);
        } else if let Some(cpu) = cpu(id) {
            arm_by(cpu, then);
        }
    }

    fn preempt(&self, vcpu: &Arc<Vcpu>) {
        vcpu.request(Request::LEAVE);
    }

    fn park(&self, vcpu: &Arc<Vcpu>, then: u64) {
        vcpu.park(then);
        timers_changed(vcpu);
    }
}

impl Entity {
    /// Time spent running so far, in nanoseconds.
    pub fn run_time(&self) -> u64 {
        self.run_time_at(hw::time::now_ns())
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
}

// ---- running ----

/// `vcpu` may run again from `now` on: queue it, and see to a CPU for it.
pub fn wake(vcpu: &Arc<Vcpu>, now: u64) {
    if let Some(scheduler) = SCHEDULER.get() {
        scheduler.wake(vcpu, now, &Cpus);
    }
}

/// The next vCPU to run on this CPU, which counts as running from here on, and for how many nanoseconds until something is due here; a slice at
/// most. `None`: nothing to do. This CPU's timer is set in either case. `now` is the time, and becomes another clock's if that turns out to be wrong.
pub fn pick(now: &mut u64) -> Option<(Arc<Vcpu>, u64)> {
    let here = hw::percpu::id();
    let (cpu, scheduler) = (cpu(here)?, SCHEDULER.get()?);
    // One that was idle has not looked at its TSC for long: what is computed by a wrong one outlives that.
    beat_if_due(here, cpu, now);
    let now = *now;
    // Its interrupt is on its way, or lost, as may be in QEMU's TCG (`svm::Caps::tcg`): then this is what sets it again.
    if cpu.armed.load(SeqCst) <= now {
        cpu.armed.store(NEVER, SeqCst);
    }
    let vcpu = scheduler.pick(here, now, &Cpus);
    // Who waits since the vCPU was taken is seen here.
    let deadline = next_deadline(cpu, scheduler, here);
    arm_by(cpu, deadline);
    // With nothing else to do, it does not fire early.
    if vcpu.is_none() && deadline != cpu.armed.load(SeqCst) {
        arm(cpu, deadline);
    }
    Some((vcpu?, deadline.saturating_sub(now).min(SLICE)))
}

/// `vcpu`, which [`pick`] gave, has left the guest at `now`: account its time and queue it again if it can go on.
pub fn put(vcpu: &Arc<Vcpu>, now: u64) {
    if let Some(scheduler) = SCHEDULER.get() {
        scheduler.put(vcpu, hw::percpu::id(), now, &Cpus);
    }
}

/// `vcpu`, which runs here, lets others go first, if there are any.
pub fn yield_now(vcpu: &Arc<Vcpu>) {
    if SCHEDULER
        .get()
        .is_some_and(|scheduler| scheduler.yields(vcpu, hw::percpu::id()))
    {
        vcpu.request(Request::LEAVE);
    }
}

/// As [`yield_now`], for one that spins until another vCPU of `domain`, its own, has run.
pub fn yield_to_sibling(vcpu: &Arc<Vcpu>, domain: &Domain) {
    let (here, now) = (hw::percpu::id(), hw::time::now_ns());
    if SCHEDULER
        .get()
        .is_some_and(|scheduler| scheduler.yields_to(vcpu, here, now, domain.vcpus().iter()))
    {
        vcpu.request(Request::LEAVE);
    }
}

/// [`Entity::hard`] or [`Entity::soft`] has changed: `vcpu` leaves where it may not be any more, or should not.
pub fn affinity_changed(vcpu: &Arc<Vcpu>) {
    if let Some(scheduler) = SCHEDULER.get() {
        scheduler.affinity_changed(vcpu, hw::time::now_ns(), &Cpus);
    }
}

/// The weight or the cap of the domain of `vcpu` has changed: if it runs, it goes by the new ones.
pub fn share_changed(vcpu: &Arc<Vcpu>) {
    if let Some(scheduler) = SCHEDULER.get() {
        scheduler.share_changed(vcpu, &Cpus);
    }
}

/// `vcpu`, which may not run and has stopped, does not wait for a CPU either: it counts as stopped from now on, not from when its turn would come.
pub fn stop_waiting(vcpu: &Arc<Vcpu>) {
    if let Some(scheduler) = SCHEDULER.get() {
        scheduler.remove(vcpu);
        vcpu.enters(State::Stopped, hw::time::now_ns());
    }
}

/// Forget a vCPU that will never run again, so that it can be freed.
pub fn forget(vcpu: &Arc<Vcpu>) {
    evict(vcpu);
    timers::forget(vcpu, timers_of);
    if let Some(scheduler) = SCHEDULER.get() {
        scheduler.remove(vcpu);
    }
}

/// Who runs on this CPU, for reports.
pub fn current() -> Option<Arc<Vcpu>> {
    SCHEDULER.get()?.current(hw::percpu::id())
}

/// Log what every CPU does (debug key `r`).
pub fn report() {
    let Some(scheduler) = SCHEDULER.get() else {
        return;
    };
    let now = hw::time::now_ns();
    for (id, current) in (0..).zip(scheduler.currents()) {
        let Some(cpu) = cpu(id) else { continue };
        let timers = cpu.timers.lock();
        let next = match timers.first() {
            NEVER => None,
            deadline => Some(deadline.cast_signed().wrapping_sub(now.cast_signed()) / 1000),
        };
        log::info!(
            target: hw::console::ASKED_FOR,
            "CPU {id}, core {}: {} waiting in its group, {} deadlines{}, {}",
            hw::topology::core(hw::percpu::apic_id(id)),
            scheduler.waiting(id),
            timers.len(),
            core::fmt::from_fn(|f| next.map_or(Ok(()), |us| write!(f, ", the next in {us} us"))),
            core::fmt::from_fn(|f| match &current {
                Some(vcpu) => write!(f, "runs {}v{}", vcpu.domid, vcpu.id.0),
                None if pool::online(id) => f.write_str("idle"),
                None => f.write_str("offline"),
            }),
        );
    }
}

// ---- time ----

/// CPUs beat while they are idle, too: somebody watches them, or time is by a counter that comes round. Else only CPU 0 does, one for the whole machine: the
/// TSC of another one is looked at once that runs something.
static IDLE_BEATS: AtomicBool = AtomicBool::new(false);

/// CPU `id` is to beat from now on, about once a second: for the watchdog, to look at the TSC, and so that a clock that comes round is read.
fn begin_to_beat(id: u32) {
    if let Some(cpu) = cpu(id) {
        cpu.beat.store(0, SeqCst);
        hw::irq::raise_on(id, SoftIrq::TIMER);
    }
}

/// All CPUs that are online are to beat, and if `idle`, those that have nothing to do as well (CPU 0 always does).
pub fn begin_to_beat_everywhere(idle: bool) {
    IDLE_BEATS.fetch_or(idle, SeqCst);
    online_cpus().for_each(begin_to_beat);
}

/// When CPU `id` is to beat next, or [`NEVER`].
fn next_beat(id: u32, cpu: &CpuSched, scheduler: &Scheduler<Arc<Vcpu>>) -> u64 {
    let beats = id == 0 || scheduler.runs_any(id) || IDLE_BEATS.load(SeqCst);
    if beats { cpu.beat.load(SeqCst) } else { NEVER }
}

/// This CPU beats if it is time to, or if time has gone back behind its last beat. `now` may become another clock's then.
#[cfg_attr(
    not(target_os = "none"),
    expect(unused_variables, reason = "there is no clock to look at")
)]
#[inline(always)]
fn beat_if_due(here: u32, cpu: &CpuSched, now: &mut u64) {
    #[cfg(target_os = "none")]
    {
        let next = cpu.beat.load(SeqCst);
        if next != NEVER && (*now >= next || next - *now > hw::watchdog::BEAT) {
            *now = beat(here, cpu);
        }
    }
}

#[cfg(target_os = "none")]
#[cold]
fn beat(here: u32, cpu: &CpuSched) -> u64 {
    use hw::watchdog::BEAT;
    hw::watchdog::beat();
    if let Some(gone) = hw::time::look_at_tsc() {
        // Timers that were set by the TSC are set anew, and what runs is told.
        hw::apic::leave_the_tsc();
        begin_to_beat_everywhere(true);
        for id in online_cpus() {
            hw::irq::raise_on(id, SoftIrq::TSC);
        }
        gone.log();
    }
    let now = hw::time::now_ns();
    cpu.beat.store(now.saturating_add(BEAT), SeqCst);
    // A CPU whose TSC was put back waits for what has passed elsewhere. CPU 0 looks after the others, and any of them after it.
    for id in online_cpus().take(if here == 0 { MAX_CPUS } else { 1 }) {
        if id != here && self::cpu(id).is_some_and(|cpu| cpu.armed.load(SeqCst) < now.saturating_sub(BEAT)) {
            hw::irq::raise_on(id, SoftIrq::TIMER);
        }
    }
    now
}

/// A deadline in [`Vcpu::timers`] changed: put the vCPU where it belongs in the timer queue of this CPU, which need not be where it runs.
pub fn timers_changed(vcpu: &Arc<Vcpu>) {
    queue_timers(vcpu);
    set_timer();
}

/// The same after deadlines have passed; the caller sees to [`set_timer`] if there are others. Mostly there are none, and nothing is queued: who sets one
/// meanwhile queues it.
pub fn timers_passed(vcpu: &Arc<Vcpu>) -> bool {
    let others = vcpu.timers.next() != NEVER || vcpu.traces.timers.is_queued();
    if others {
        queue_timers(vcpu);
    }
    others
}

fn queue_timers(vcpu: &Arc<Vcpu>) {
    let here = hw::percpu::id();
    if let Some(own) = timers_of(here) {
        timers::queue(vcpu, here, own, timers_of);
    }
}

fn timers_of(id: u32) -> Option<&'static Queue<Arc<Vcpu>>> {
    cpu(id).map(|cpu| &cpu.timers)
}

/// What comes first on this CPU: a vCPU's deadline, or what the scheduler waits for.
fn next_deadline(cpu: &CpuSched, scheduler: &Scheduler<Arc<Vcpu>>, here: u32) -> u64 {
    let timers = cpu.timers.lock().first();
    timers
        .min(scheduler.deadline(here))
        .min(next_beat(here, cpu, scheduler))
}

/// Have this CPU's one-shot timer fire when the first deadline has come, at the latest. A time that was put off is left alone: mostly the next to come is put
/// off, too, before it has, and a timer that fires early is set again.
pub fn set_timer() {
    let here = hw::percpu::id();
    if let (Some(cpu), Some(scheduler)) = (cpu(here), SCHEDULER.get()) {
        arm_by(cpu, next_deadline(cpu, scheduler, here));
    }
}

/// Have the timer of `cpu`, this one, fire at `deadline` at the latest.
fn arm_by(cpu: &CpuSched, deadline: u64) {
    if deadline < cpu.armed.load(SeqCst) {
        arm(cpu, deadline);
    }
}

fn arm(cpu: &CpuSched, deadline: u64) {
    cpu.armed.store(deadline, SeqCst);
    hw::timer::arm(deadline);
}

/// The timer fired, or another CPU wants this one to reconsider: tell the vCPUs whose time has come, end a slice or a budget that is over. The caller sees to
/// [`set_timer`], or picks the next vCPU.
pub fn on_timer(now: &mut u64) {
    let here = hw::percpu::id();
    let (Some(cpu), Some(scheduler)) = (cpu(here), SCHEDULER.get()) else {
        return;
    };
    // It may have fired, early even.
    cpu.armed.store(NEVER, SeqCst);
    // Before anything else goes by the time: it may be wrong.
    beat_if_due(here, cpu, now);
    let now = *now;
    loop {
        let due = cpu.timers.lock().pop_due(now);
        let Some(vcpu) = due else { break };
        let next = vcpu.deadline_passed(now);
        if next != NEVER {
            // Those that have passed are asked for; the vCPU itself queues the others once it runs.
            timers::queue_again(&vcpu, here, &cpu.timers, next);
        }
    }
    scheduler.check(here, now, &Cpus);
}
