//! A virtual CPU: a value that runs.
//!
//! Two halves with different owners. [`Private`] is what the guest's registers and devices of its own are: only the physical CPU that runs the
//! vCPU, or one that has made sure that nobody does, holds its lock, for a whole period of running. Everything else is for all CPUs:
//! atomics that say why the vCPU may not run ([`Hold`]) and what it must look at before it enters the guest again ([`Request`]); see [`Wakeup`].

use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::SeqCst};

use abi::sched::SHUTDOWN_WATCHDOG;

use super::Domain;
use super::areas::Areas;
use super::poll::Poll;
use super::wakeup::{self, Effects, Wakeup};
pub use super::wakeup::{Hold, Request};
use crate::arch::{self, VcpuConfig};
use crate::event::VcpuEvents;
use crate::hw::time::now_ns;
use crate::mm::guest::WalkCache;
use crate::sched::{self, Entity, Share, Traces};
use crate::sync::{Mutex, Rank};
use crate::types::{DomId, Port, VcpuId};
use crate::virt::cpuid::Policy;
use crate::virt::guest_tsc::GuestTsc;
use crate::virt::lapic::{Lapic, SharedLapic, Trigger};
use crate::virt::msr::Msrs;

/// The half that belongs to whoever runs the vCPU.
pub struct Private {
    /// Registers and control block.
    pub cpu: arch::machine::Vcpu,
    /// Local APIC state that only its own CPU touches.
    pub lapic: Lapic,
    /// Recent walks of the guest's page tables, each checked again when used.
    pub walks: WalkCache,
    /// What CPUID says.
    pub policy: Arc<Policy>,
    /// Model-specific registers without any effect of their own.
    pub msrs: Msrs,
}

/// A virtual CPU. See the module's head for who may touch what.
pub struct Vcpu {
    /// Number within the domain.
    pub id: VcpuId,
    /// Number of the domain.
    pub domid: DomId,
    domain: Weak<Domain>,
    wakeup: Wakeup,
    /// What it waits for in SCHEDOP_poll.
    poll: Poll,
    /// Local APIC state that others write: pending interrupts.
    pub apic: SharedLapic,
    /// Its TSC.
    pub tsc: GuestTsc,
    /// See [`Vcpu::behind`].
    behind: AtomicU64,
    /// Where events for this vCPU are signalled.
    pub events: VcpuEvents,
    /// Memory that it shares with the guest.
    pub areas: Areas,
    /// Has a state to run with: it was started, or VCPUOP_initialise gave it one.
    initialised: AtomicBool,
    /// The vCPU as its scheduler sees it.
    pub entity: Entity,
    /// What it has left on CPUs.
    pub traces: Traces,
    /// Timers, in system time (nanoseconds since boot).
    pub timers: VcpuTimers,
    /// Vector of HVMOP_set_evtchn_upcall_vector; 0: not set.
    pub upcall_vector: AtomicU8,
    private: Mutex<Private>,
}

/// Deadlines in nanoseconds of system time; `u64::MAX`: not set. Written by the vCPU itself, read on expiry.
#[derive(Debug)]
pub struct VcpuTimers {
    /// VCPUOP_set_singleshot_timer and HYPERVISOR_set_timer_op.
    pub singleshot: AtomicU64,
    /// Next tick of VCPUOP_set_periodic_timer.
    pub periodic: AtomicU64,
    /// Period of the periodic timer; 0: off.
    pub period: AtomicU64,
    /// Local APIC timer.
    pub lapic: AtomicU64,
    /// End of SCHEDOP_poll.
    pub poll: AtomicU64,
    /// When the domain may use CPUs again that has used up what its cap allows.
    pub budget: AtomicU64,
    /// SCHEDOP_watchdog, of the domain: vCPU 0's are used.
    pub watchdogs: [AtomicU64; 2],
}

/// A deadline that never comes.
pub const NEVER: u64 = u64::MAX;

impl VcpuTimers {
    fn new() -> Self {
        let never = || AtomicU64::new(NEVER);
        Self {
            singleshot: never(),
            periodic: never(),
            period: AtomicU64::new(0),
            lapic: never(),
            poll: never(),
            budget: never(),
            watchdogs: [never(), never()],
        }
    }

    /// The earliest deadline, or [`NEVER`].
    pub fn next(&self) -> u64 {
        [&self.singleshot, &self.periodic, &self.lapic, &self.poll]
            .map(|deadline| deadline.load(SeqCst))
            .into_iter()
            .fold(self.next_unattended(), u64::min)
    }

    /// The earliest that is seen to whether or not the vCPU runs, or [`NEVER`].
    fn next_unattended(&self) -> u64 {
        let dogs = self.watchdogs.iter().map(|dog| dog.load(SeqCst));
        dogs.fold(self.budget.load(SeqCst), u64::min)
    }

    /// What the guest waits for comes `by` nanoseconds later. (What it is allowed of CPUs goes by the machine's time.)
    fn put_off(&self, by: u64) {
        let own = [&self.singleshot, &self.periodic, &self.lapic, &self.poll];
        for deadline in own.into_iter().chain(&self.watchdogs) {
            let _ = deadline.fetch_update(SeqCst, SeqCst, |then| {
                (then != NEVER).then(|| then.saturating_add(by))
            });
        }
    }

    /// Is a watchdog's time over at `now`? It is gone then.
    fn take_watchdog(&self, now: u64) -> bool {
        self.watchdogs.iter().any(|dog| {
            dog.fetch_update(SeqCst, SeqCst, |deadline| (deadline <= now).then_some(NEVER))
                .is_ok()
        })
    }
}

impl Vcpu {
    /// A new vCPU of `domain`, down and not yet known to any scheduler.
    ///
    /// # Errors
    /// No memory for its control block.
    pub fn new(
        domain: Weak<Domain>,
        domid: DomId,
        id: VcpuId,
        config: &VcpuConfig,
        tsc_offset: u64,
        policy: Arc<Policy>,
        share: Arc<Share>,
    ) -> Result<Arc<Vcpu>, arch::OutOfMemory> {
        let mut cpu = arch::machine::Vcpu::new(config)?;
        cpu.as_dyn().set_tsc_offset(tsc_offset);
        let page = cpu.as_dyn().apic_page();
        let lapic = Lapic::new(id, page);
        let apic = SharedLapic::new(&lapic, page);
        Ok(Arc::new(Vcpu {
            id,
            domid,
            domain,
            wakeup: Wakeup::new(Hold::DOWN),
            poll: Poll::default(),
            apic,
            tsc: GuestTsc::new(tsc_offset),
            behind: AtomicU64::new(0),
            events: VcpuEvents::new(),
            areas: Areas::new(),
            initialised: AtomicBool::new(false),
            entity: Entity::new(share),
            traces: Traces::new()?,
            timers: VcpuTimers::new(),
            upcall_vector: AtomicU8::new(0),
            private: Mutex::new(
                Rank::Vcpu,
                Private {
                    cpu,
                    lapic,
                    walks: WalkCache::new(),
                    policy,
                    msrs: Msrs::new(),
                },
            ),
        }))
    }

    /// The domain, unless it is being freed.
    pub fn domain(&self) -> Option<Arc<Domain>> {
        self.domain.upgrade()
    }

    /// Work on the private half of a vCPU that is paused and has stopped. (Never the caller's own, whose lock the run loop holds.) Its state is in memory while `work` runs.
    pub fn with_private<R>(&self, work: impl FnOnce(&mut Private) -> R) -> R {
        sched::evict(self);
        work(&mut self.private.lock_as(Rank::VcpuAtRest))
    }

    /// The private half, for the run loop.
    pub(crate) fn private(&self) -> &Mutex<Private> {
        &self.private
    }

    // ---- its time ----

    /// How long its domain has been paused, in nanoseconds: by so much its system time is behind the machine's. The same for all vCPUs of a domain.
    pub fn behind(&self) -> u64 {
        self.behind.load(SeqCst)
    }

    /// System time as the guest has it, in nanoseconds, when it is `now` for the machine.
    pub fn system_time_at(&self, now: u64) -> u64 {
        now.wrapping_sub(self.behind())
    }

    /// System time as the guest has it, in nanoseconds.
    pub fn system_time(&self) -> u64 {
        self.system_time_at(now_ns())
    }

    /// When it is `time` for the guest, in the machine's system time; [`NEVER`] stays that.
    pub fn machine_time(&self, time: u64) -> u64 {
        time.saturating_add(self.behind())
    }

    /// It was stopped, with its whole domain, while the machine's TSC went from `since` to `until`, for `paused` nanoseconds: for the guest no time has passed.
    /// It still is stopped; the caller publishes its clock.
    pub(super) fn skip_time(self: &Arc<Self>, since: u64, until: u64, paused: u64) {
        self.behind.fetch_add(paused, SeqCst);
        self.timers.put_off(paused);
        self.with_private(|private| {
            let offset = self.tsc.set(self.tsc.at(since), until);
            private.cpu.as_dyn().set_tsc_offset(offset);
            private.lapic.put_off_timer(paused);
        });
    }

    // ---- requests ----

    /// See [`Wakeup::was_woken`].
    pub fn was_woken(&self) -> bool {
        self.wakeup.was_woken()
    }

    /// See [`Wakeup::requests`].
    pub fn requests(&self) -> Request {
        self.wakeup.requests()
    }

    /// See [`Wakeup::take_requests`].
    pub fn take_requests(&self) -> Request {
        self.wakeup.take_requests()
    }

    /// See [`Wakeup::take`].
    pub fn take(&self, which: Request) -> Request {
        self.wakeup.take(which)
    }

    /// See [`Wakeup::defer`].
    pub fn defer(&self, what: Request) {
        self.wakeup.defer(what);
    }

    /// Ask the vCPU to look at `what`, wherever it is: it is woken if it waits and made to exit if it runs elsewhere.
    #[inline]
    pub fn request(self: &Arc<Self>, what: Request) {
        if let Some(effects) = self.wakeup.request(what) {
            self.carry_out(effects, None);
        }
    }

    /// Apart, as a vCPU that runs here needs none of it. It is `now`, if that is known.
    #[inline(never)]
    fn carry_out(self: &Arc<Self>, effects: Effects, now: Option<u64>) {
        if effects.wake {
            sched::wake(self, now.unwrap_or_else(now_ns));
        }
        if effects.end_poll {
            self.stop_polling(self.domain().as_deref());
        }
        if effects.interrupt {
            self.entity.interrupt_elsewhere();
        }
    }

    /// See [`Wakeup::enter`].
    #[inline]
    #[must_use]
    pub fn enter(&self) -> Request {
        self.wakeup.enter()
    }

    /// See [`Wakeup::requests_word`].
    pub fn requests_word(&self) -> *const core::sync::atomic::AtomicU32 {
        const { assert!(wakeup::OUTSIDE == crate::arch::calls::OUTSIDE) };
        self.wakeup.requests_word()
    }

    /// See [`Wakeup::exited`].
    #[inline]
    pub fn exited(&self) {
        self.wakeup.exited();
    }

    /// See [`Wakeup::wait_for_flush`].
    pub fn wait_for_flush(&self) {
        self.wakeup.wait_for_flush();
    }

    /// An event channel has something for this vCPU: `evtchn_upcall_pending` was just set.
    ///
    /// With a vector of its own the upcall is an edge interrupt of the local APIC; else the domain's callback vector is injected.
    #[inline]
    pub fn raise_upcall(self: &Arc<Self>) {
        match self.upcall_vector.load(SeqCst) {
            0 => self.request(Request::CALLBACK),
            // A disabled APIC asks for it when it is enabled.
            vector => {
                if self.apic.raise(vector, Trigger::Edge) {
                    self.request(Request::INTERRUPT);
                }
            }
        }
    }

    /// Drop a request for the callback that the guest has served meanwhile: it would end a wait before it began. For the vCPU itself.
    pub fn settle_callback(&self) {
        self.take(Request::CALLBACK);
        // Who raises an upcall sets the flag before the request: one of the two is seen.
        if self.events.upcall_pending() {
            self.defer(Request::CALLBACK);
        }
    }

    // ---- holds ----

    /// May it run?
    pub fn runnable(&self) -> bool {
        self.wakeup.runnable()
    }

    /// Is any of `hold` set?
    pub fn held_by(&self, hold: Hold) -> bool {
        self.wakeup.held_by(hold)
    }

    /// Is it paused?
    pub fn paused(&self) -> bool {
        self.wakeup.paused()
    }

    /// Set a reason not to run. A vCPU that is running leaves the guest soon; see [`Vcpu::wait_until_stopped`].
    pub fn hold(self: &Arc<Self>, why: Hold) {
        self.wakeup.hold(why);
        self.request(Request::LEAVE);
    }

    /// Has it a state to run with?
    pub fn is_initialised(&self) -> bool {
        self.initialised.load(SeqCst)
    }

    /// It has been given a state to run with.
    pub fn set_initialised(&self) {
        self.initialised.store(true, SeqCst);
    }

    /// Take back a reason not to run.
    pub fn release(self: &Arc<Self>, why: Hold) {
        if why.contains(Hold::DOWN) {
            self.set_initialised();
        }
        if self.wakeup.release(why) {
            sched::wake(self, now_ns());
        }
    }

    /// Pause; pauses add up.
    pub fn pause(self: &Arc<Self>) {
        self.wakeup.pause();
        self.request(Request::LEAVE);
    }

    /// Undo one [`Vcpu::pause`].
    pub fn unpause(self: &Arc<Self>) {
        if self.wakeup.unpause() {
            sched::wake(self, now_ns());
        }
    }

    /// Wait until no other CPU runs it. The caller has set a hold or paused it; on the vCPU's own CPU this returns at once.
    pub fn wait_until_stopped(&self) {
        while self.entity.runs_elsewhere() {
            core::hint::spin_loop();
        }
    }

    /// See [`Wakeup::block`].
    pub fn block(&self) {
        self.wakeup.block();
    }

    /// The domain may not use a CPU until `then`. For the CPU that was about to run it, which then puts it where its timers are kept.
    pub fn park(&self, then: u64) {
        self.timers.budget.store(then, SeqCst);
        self.wakeup.hold(Hold::CAPPED);
    }

    /// The domain may use a CPU again.
    pub fn unpark(self: &Arc<Self>) {
        self.timers.budget.store(NEVER, SeqCst);
        self.release(Hold::CAPPED);
    }

    /// A deadline in [`Vcpu::timers`] has passed at `now`. The vCPU is woken to see to it, polling or not; a watchdog ends the domain
    /// whether or not the vCPU can run.
    ///
    /// Returns what is to be seen to next though the vCPU may not run before, and so says nothing of its other deadlines: the end of its being parked, or of a watchdog;
    /// or [`NEVER`].
    pub fn deadline_passed(self: &Arc<Self>, now: u64) -> u64 {
        if self.timers.budget.load(SeqCst) <= now {
            self.unpark();
        }
        // What the toolstack has paused has put it off by when it goes on, and queues its timers again.
        if self.paused() && self.domain().is_some_and(|domain| domain.is_paused()) {
            return self.timers.budget.load(SeqCst);
        }
        if let Some(effects) = self.wakeup.request(Request::TIMER) {
            self.carry_out(effects, Some(now));
        }
        if self.timers.take_watchdog(now)
            && let Some(domain) = self.domain()
        {
            if domain.shutdown_reason().is_none() {
                log::warn!("{}: its watchdog was not put off in time", domain.id);
            }
            domain.shutdown(SHUTDOWN_WATCHDOG);
        }
        self.timers.next_unattended()
    }

    // ---- SCHEDOP_poll ----

    /// Begin to wait for `port`, or for any of several (`None`), until `deadline`; `domain` is its own. The caller then looks whether one is pending
    /// already and, if so, calls [`Vcpu::end_poll`].
    pub fn begin_poll(self: &Arc<Self>, domain: &Domain, port: Option<Port>, deadline: u64) {
        self.timers.poll.store(deadline, SeqCst);
        self.poll.begin(&self.wakeup, &domain.pollers, port);
        if deadline != NEVER {
            sched::timers_changed(self);
        }
    }

    /// Stop waiting. `domain` is its own.
    pub fn end_poll(self: &Arc<Self>, domain: &Domain) {
        self.stop_polling(Some(domain));
    }

    fn stop_polling(self: &Arc<Self>, domain: Option<&Domain>) {
        let pollers = domain.map(|domain| &domain.pollers);
        let forgotten = || sched::timers_changed(self);
        if self.poll.end(&self.wakeup, pollers, &self.timers.poll, forgotten) {
            sched::wake(self, now_ns());
        }
    }

    /// `port` of `domain`, its own, became pending (masked or not): wakes a vCPU that polls for it.
    pub fn wake_poller(self: &Arc<Self>, domain: &Domain, port: Port) {
        if self.poll.waits_for(port) {
            self.end_poll(domain);
        }
    }
}
