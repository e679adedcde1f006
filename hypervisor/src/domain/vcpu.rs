//! A virtual CPU: a value that runs.
//!
//! Two halves with different owners. [`Private`] is what the guest's registers and devices of its own are: only the physical CPU that runs the
//! vCPU, or one that has made sure that nobody does, holds its lock, for a whole period of running. Everything else is for all CPUs:
//! atomics that say why the vCPU may not run ([`Hold`]) and what it must look at before it enters the guest again ([`Request`]).
//!
//! A wake-up cannot be lost: who has news for a vCPU first sets the [`Request`] and then looks at the [`Hold`]; a vCPU that blocks first sets the
//! [`Hold`] and then looks at its requests. One of the two sees the other (all of these are sequentially consistent).

use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Release, Ordering::SeqCst};

use abi::sched::SHUTDOWN_WATCHDOG;
use bitflags::bitflags;

use super::Domain;
use super::areas::Areas;
use crate::arch::{self, VcpuConfig};
use crate::event::VcpuEvents;
use crate::mm::guest::WalkCache;
use crate::sched::{self, Entity, Share, Traces};
use crate::sync::Mutex;
use crate::types::{DomId, Port, VcpuId};
use crate::virt::cpuid::Policy;
use crate::virt::lapic::{Lapic, SharedLapic};
use crate::virt::msr::Msrs;

bitflags! {
    /// What a vCPU must look at before it enters the guest again.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Request: u32 {
        /// The local APIC may have an interrupt to deliver, or its priorities changed.
        const INTERRUPT = 1 << 0;
        /// Event channels want the domain-wide callback vector (HVM_PARAM_CALLBACK_IRQ of type vector).
        const CALLBACK = 1 << 1;
        /// A non-maskable interrupt.
        const NMI = 1 << 2;
        /// INIT or start-up IPI.
        const STARTUP = 1 << 3;
        /// Stop running: a [`Hold`] was set, or the scheduler has a better use for the CPU.
        const LEAVE = 1 << 4;
        /// A timer of this vCPU has expired.
        const TIMER = 1 << 5;
        /// A nested translation was removed: flush before the next entry.
        const FLUSH = 1 << 6;
    }
}

impl Request {
    /// Requests that end `SCHEDOP_block`, `SCHEDOP_poll` and HLT. (A timer's expiry becomes one of these, if the guest is to see it.)
    const WAKES: Request = Request::INTERRUPT
        .union(Request::CALLBACK)
        .union(Request::NMI)
        .union(Request::STARTUP)
        .union(Request::TIMER);
}

bitflags! {
    /// Why a vCPU may not run; it may when there is none. The bits above [`Hold::COUNT_SHIFT`] count pauses.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Hold: u32 {
        /// Waits for an event (HLT, SCHEDOP_block).
        const BLOCKED = 1 << 0;
        /// Not started yet, or stopped by VCPUOP_down or HLT with interrupts off.
        const DOWN = 1 << 1;
        /// In SCHEDOP_poll.
        const POLLING = 1 << 2;
        /// The domain has used up what its cap allows.
        const CAPPED = 1 << 3;
    }
}

impl Hold {
    const COUNT_SHIFT: u32 = 8;
    const ONE_PAUSE: u32 = 1 << Self::COUNT_SHIFT;
}

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
    requests: AtomicU32,
    holds: AtomicU32,
    /// It is in the guest, or about to look at its requests and go there: see [`Vcpu::enter`].
    in_guest: AtomicBool,
    /// [`Port`] waited for in SCHEDOP_poll; 0: not polling, `u32::MAX`: several.
    polled: AtomicU32,
    /// Local APIC state that others write: pending interrupts.
    pub apic: SharedLapic,
    /// Added to the machine's TSC to give the guest's.
    pub tsc_offset: AtomicU64,
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
        [
            &self.singleshot,
            &self.periodic,
            &self.lapic,
            &self.poll,
            &self.budget,
        ]
        .into_iter()
        .chain(&self.watchdogs)
        .map(|deadline| deadline.load(SeqCst))
        .fold(NEVER, u64::min)
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
        let lapic = Lapic::new(id);
        let apic = SharedLapic::new(&lapic);
        Ok(Arc::new(Vcpu {
            id,
            domid,
            domain,
            requests: AtomicU32::new(0),
            holds: AtomicU32::new(Hold::DOWN.bits()),
            in_guest: AtomicBool::new(false),
            polled: AtomicU32::new(0),
            apic,
            tsc_offset: AtomicU64::new(tsc_offset),
            events: VcpuEvents::new(),
            areas: Areas::new(),
            initialised: AtomicBool::new(false),
            entity: Entity::new(share),
            traces: Traces::new(),
            timers: VcpuTimers::new(),
            upcall_vector: AtomicU8::new(0),
            private: Mutex::new(Private {
                cpu,
                lapic,
                walks: WalkCache::new(),
                policy,
                msrs: Msrs::new(),
            }),
        }))
    }

    /// The domain, unless it is being freed.
    pub fn domain(&self) -> Option<Arc<Domain>> {
        self.domain.upgrade()
    }

    /// Work on the private half of a vCPU that is paused and has stopped. (Never the caller's own, whose lock the run loop holds.) Its state is in memory while `work` runs.
    pub fn with_private<R>(&self, work: impl FnOnce(&mut Private) -> R) -> R {
        sched::evict(self);
        work(&mut self.private.lock())
    }

    /// The private half, for the run loop.
    pub(crate) fn private(&self) -> &Mutex<Private> {
        &self.private
    }

    // ---- requests ----

    /// Is there anything to look at before the guest is entered?
    #[inline]
    pub fn has_requests(&self) -> bool {
        self.requests.load(SeqCst) != 0
    }

    /// Is there a request that ends waiting?
    pub fn was_woken(&self) -> bool {
        self.requests.load(SeqCst) & Request::WAKES.bits() != 0
    }

    /// Take all requests.
    pub fn take_requests(&self) -> Request {
        Request::from_bits_retain(self.requests.swap(0, SeqCst))
    }

    /// Take the requests that are in `which`; others stay.
    pub fn take(&self, which: Request) -> Request {
        Request::from_bits_retain(self.requests.fetch_and(!which.bits(), SeqCst)) & which
    }

    /// Keep `what` for the next time that the vCPU looks at its requests; no reason to look now.
    pub fn defer(&self, what: Request) {
        self.requests.fetch_or(what.bits(), SeqCst);
    }

    /// Ask the vCPU to look at `what`, wherever it is: it is woken if it waits and made to exit if it runs elsewhere.
    pub fn request(self: &Arc<Self>, what: Request) {
        self.requests.fetch_or(what.bits(), SeqCst);
        if what.intersects(Request::WAKES) && self.held_by(Hold::BLOCKED | Hold::POLLING) {
            self.release(Hold::BLOCKED);
            self.end_poll();
        }
        // Whoever is not in the guest looks before it enters.
        if self.in_guest.load(SeqCst) {
            self.entity.interrupt_elsewhere();
        }
    }

    /// The CPU that runs it is about to look at its requests and then to enter the guest. From here on whoever makes a request sees to an exit.
    #[inline]
    pub fn enter(&self) {
        // A full barrier: the look at the requests comes after it.
        self.in_guest.swap(true, SeqCst);
    }

    /// The guest has exited, or is not entered after all.
    #[inline]
    pub fn exited(&self) {
        self.in_guest.store(false, Release);
    }

    /// Wait until the vCPU uses no nested translation that was removed before [`Request::FLUSH`] was made: it has left the guest, or has taken the
    /// request. Never waits for a CPU that waits for us, as that is not in a guest.
    pub fn wait_for_flush(&self) {
        while self.in_guest.load(SeqCst) && self.requests.load(SeqCst) & Request::FLUSH.bits() != 0 {
            core::hint::spin_loop();
        }
    }

    /// An event channel has something for this vCPU: `evtchn_upcall_pending` was just set.
    ///
    /// With a vector of its own the upcall is an edge interrupt of the local APIC; else the domain's callback vector is injected.
    pub fn raise_upcall(self: &Arc<Self>) {
        match self.upcall_vector.load(SeqCst) {
            0 => self.request(Request::CALLBACK),
            vector => {
                self.apic.raise(vector);
                self.request(Request::INTERRUPT);
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
        self.holds.load(SeqCst) == 0
    }

    /// Is any of `hold` set?
    pub fn held_by(&self, hold: Hold) -> bool {
        self.holds.load(SeqCst) & hold.bits() != 0
    }

    /// Is it paused?
    pub fn paused(&self) -> bool {
        self.holds.load(SeqCst) >= Hold::ONE_PAUSE
    }

    /// Set a reason not to run. A vCPU that is running leaves the guest soon; see [`Vcpu::wait_until_stopped`].
    pub fn hold(self: &Arc<Self>, why: Hold) {
        self.holds.fetch_or(why.bits(), SeqCst);
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
        let before = self.holds.fetch_and(!why.bits(), SeqCst);
        if before & why.bits() != 0 && before & !why.bits() == 0 {
            sched::wake(self);
        }
    }

    /// Pause; pauses add up.
    pub fn pause(self: &Arc<Self>) {
        self.holds.fetch_add(Hold::ONE_PAUSE, SeqCst);
        self.request(Request::LEAVE);
    }

    /// Undo one [`Vcpu::pause`].
    pub fn unpause(self: &Arc<Self>) {
        let before = self.holds.fetch_sub(Hold::ONE_PAUSE, SeqCst);
        debug_assert!(before >= Hold::ONE_PAUSE, "unpaused more often than paused");
        if before == Hold::ONE_PAUSE {
            sched::wake(self);
        }
    }

    /// Wait until no other CPU runs it. The caller has set a hold or paused it; on the vCPU's own CPU this returns at once.
    pub fn wait_until_stopped(&self) {
        while self.entity.runs_elsewhere() {
            core::hint::spin_loop();
        }
    }

    /// The guest has nothing to do until an event (HLT, SCHEDOP_block). Called by the vCPU itself; it stays runnable if something came first.
    pub fn block(&self) {
        self.holds.fetch_or(Hold::BLOCKED.bits(), SeqCst);
        if self.was_woken() {
            self.holds.fetch_and(!Hold::BLOCKED.bits(), SeqCst);
        } else {
            self.requests.fetch_or(Request::LEAVE.bits(), SeqCst);
        }
    }

    /// The domain may not use a CPU until `then`. For the CPU that was about to run it, which then puts it where its timers are kept.
    pub fn park(&self, then: u64) {
        self.timers.budget.store(then, SeqCst);
        self.holds.fetch_or(Hold::CAPPED.bits(), SeqCst);
    }

    /// The domain may use a CPU again.
    pub fn unpark(self: &Arc<Self>) {
        self.timers.budget.store(NEVER, SeqCst);
        self.release(Hold::CAPPED);
    }

    /// A deadline in [`Vcpu::timers`] has passed at `now`. The vCPU is woken to see to it, polling or not; a watchdog ends the domain
    /// whether or not the vCPU can run.
    ///
    /// Returns until when the vCPU is parked, or [`NEVER`]: it does not see to its timers before.
    pub fn deadline_passed(self: &Arc<Self>, now: u64) -> u64 {
        if self.timers.budget.load(SeqCst) <= now {
            self.unpark();
        }
        self.request(Request::TIMER);
        if self.timers.take_watchdog(now)
            && let Some(domain) = self.domain()
        {
            log::warn!("{}: its watchdog was not put off in time", domain.id);
            domain.shutdown(SHUTDOWN_WATCHDOG);
        }
        self.timers.budget.load(SeqCst)
    }

    // ---- SCHEDOP_poll ----

    /// Begin to wait for `port`, or for any of several (`None`), until `deadline`. The caller then looks whether one is pending already and, if so,
    /// calls [`Vcpu::end_poll`].
    pub fn begin_poll(self: &Arc<Self>, port: Option<Port>, deadline: u64) {
        self.timers.poll.store(deadline, SeqCst);
        // The hold first: whoever finds the port takes it back.
        self.hold(Hold::POLLING);
        self.polled.store(port.map_or(u32::MAX, |port| port.0), SeqCst);
        sched::timers_changed(self);
    }

    /// Stop waiting.
    pub fn end_poll(self: &Arc<Self>) {
        if self.polled.swap(0, SeqCst) != 0 {
            self.timers.poll.store(NEVER, SeqCst);
            self.release(Hold::POLLING);
        }
    }

    /// `port` became pending (masked or not): wakes a vCPU that polls for it.
    pub fn wake_poller(self: &Arc<Self>, port: Port) {
        let polled = self.polled.load(SeqCst);
        if polled != 0 && (polled == port.0 || polled == u32::MAX) {
            self.end_poll();
        }
    }
}
