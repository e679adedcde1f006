//! A domain: an address space, virtual CPUs, and what it shares with others.
//!
//! Domains are shared by reference count and found by number in [`table`]. [`lifecycle`] makes them, and takes them apart in slices. What
//! is in this struct is either fixed at creation, an atomic, or behind a lock of its own.
#![forbid(unsafe_code)]

pub mod areas;
pub mod dom0;
pub mod lifecycle;
pub mod memory;
pub mod poll;
pub mod soft_reset;
pub mod table;
pub mod vcpu;
pub mod wakeup;

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering};

use abi::hvm::{HVM_NR_PARAMS, HVM_PARAM_CALLBACK_IRQ};
use abi::hvm::{HVM_PARAM_CALLBACK_TYPE_SHIFT, HVM_PARAM_CALLBACK_TYPE_VECTOR};
use abi::memory::E820Entry;
use abi::{Errno, Layout};

use crate::arch::{CpuMode, GuestCpu, NestedFormat};
use crate::event::EventChannels;
use crate::grant::{self, GrantTable};
use crate::hw::time::{clock, tsc, wall_clock_base};
use crate::hypercall::console_io::LogLine;
use crate::mm::guest::GuestFrame;
use crate::mm::io_bitmap::IoBitmap;
use crate::mm::p2m::P2m;
use crate::mm::{frames, page_info};
use crate::sched::{self, Share};
use crate::sync::{Mutex, Once};
use crate::types::{DomId, VcpuId};
use crate::virt::cpuid::Policy;
use crate::virt::ioapic::IoApic;
use crate::virt::lapic::AccessPage;
use crate::virt::time::TscInfo;
use poll::Pollers;
use vcpu::Vcpu;

/// Most vCPUs that a domain can have.
pub const MAX_VCPUS: u32 = 128;

/// What a domain is made from.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Its number; `None`: the next that is free.
    pub id: Option<DomId>,
    /// May manage the machine and other domains (dom0).
    pub privileged: bool,
    /// UUID.
    pub handle: [u8; 16],
    /// `XEN_DOMCTL_CDF_*`, kept for the toolstack to read back.
    pub flags: u32,
    /// `XEN_X86_EMU_*`, likewise.
    pub emulation_flags: u32,
    /// Registers (MSRs) that do not exist can be read and written (XEN_X86_MSR_RELAXED).
    pub relaxed_msrs: bool,
    /// How many vCPUs [`Domain::create_vcpus`] will make.
    pub max_vcpus: u32,
    /// Largest event-channel port.
    pub max_evtchn_port: u32,
    /// Most frames of the grant table.
    pub max_grant_frames: u32,
    /// Most frames' worth of grant mappings of other domains.
    pub max_maptrack_frames: u32,
    /// Highest version of its grant table.
    pub max_grant_version: grant::Version,
    /// Table pages that the p2m may use.
    pub p2m_pool: u32,
    /// Entry format of the machine's nested page tables.
    pub format: NestedFormat,
    /// Width of a guest-physical address.
    pub address_bits: u32,
}

/// How far a domain's life has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Life {
    /// It exists.
    Alive,
    /// It is being destroyed.
    Dying,
    /// Everything it had is gone, but others still map some of its frames.
    Zombie,
}

/// [`Domain::shutdown_reason`] when there is none.
const NOT_SHUT_DOWN: u32 = u32::MAX;

/// A domain.
pub struct Domain {
    /// Its number.
    pub id: DomId,
    /// What it was made from.
    pub config: Config,
    /// Its physical address space.
    pub p2m: P2m,
    /// The page of XENMAPSPACE_shared_info.
    pub shared_info: GuestFrame,
    /// Where it has mapped that page last; `u64::MAX`: nowhere.
    pub shared_info_at: AtomicU64,
    /// Its event channels.
    pub events: EventChannels,
    /// What it grants, and what it has mapped of others' grants.
    pub grants: GrantTable,
    /// I/O ports that it reaches itself.
    pub io_bitmap: IoBitmap,
    /// Its I/O APICs: dom0 has the machine's.
    pub io_apics: Once<Box<[IoApic]>>,
    /// Has it the APIC-access page?
    pub apic_access: Mutex<AccessPage>,
    /// The vCPU whose turn it is to take an interrupt of lowest priority.
    pub lowest_priority: AtomicU32,
    /// What CPUID tells its vCPUs; theirs are copies from when they were made.
    pub cpu_policy: Mutex<Arc<Policy>>,
    /// What it has been told of its TSC.
    pub tsc: Mutex<TscInfo>,
    /// What XENMEM_memory_map tells.
    pub memory_map: Mutex<Arc<[E820Entry]>>,
    /// `HVM_PARAM_*`.
    params: [AtomicU64; HVM_NR_PARAMS as usize],
    /// UUID, which the toolstack may change.
    pub handle: Mutex<[u8; 16]>,
    /// Its share of the CPUs.
    pub share: Arc<Share>,
    /// What it has written to the hypervisor's console and not yet ended with a newline.
    pub log_line: Mutex<LogLine>,
    vcpus: Once<Box<[Arc<Vcpu>]>>,
    max_pages: AtomicU64,
    /// Frames set aside for it (XENMEM_claim_pages).
    pub claim: frames::Claim,
    /// `VMASST_TYPE_*`, one bit each.
    assists: AtomicU32,
    life: AtomicU8,
    /// Where destruction goes on.
    teardown: Mutex<lifecycle::Teardown>,
    /// The port at which a soft reset goes on.
    reset_from: AtomicU32,
    shutdown: AtomicU32,
    /// SCHEDOP_shutdown_code.
    shutdown_code: AtomicU32,
    toolstack_pauses: AtomicU32,
    /// The machine's TSC when the first of these had stopped all vCPUs; 0: there is none, or they have never run.
    paused_since: AtomicU64,
    /// Held by who pauses all vCPUs for longer than a call, or unpauses them: none is unpaused before it was paused.
    pausing: Mutex<()>,
    /// Those that wait in SCHEDOP_poll.
    pollers: Pollers,
    /// Held by who writes the wall clock.
    wall_clock: Mutex<()>,
    /// What its wall clock is ahead of the machine's, in seconds: the toolstack's choice.
    time_offset: AtomicI64,
}

impl Domain {
    /// The vCPUs, from number 0 on; none until [`Domain::create_vcpus`].
    #[inline]
    pub fn vcpus(&self) -> &[Arc<Vcpu>] {
        self.vcpus.get().map_or(&[], |vcpus| vcpus)
    }

    /// A vCPU.
    #[inline]
    pub fn vcpu(&self, id: VcpuId) -> Option<&Arc<Vcpu>> {
        self.vcpus().get(id.0 as usize)
    }

    /// May it manage the machine and other domains?
    pub fn is_privileged(&self) -> bool {
        self.config.privileged
    }

    /// How far its life has come.
    pub fn life(&self) -> Life {
        match self.life.load(Ordering::SeqCst) {
            0 => Life::Alive,
            1 => Life::Dying,
            _ => Life::Zombie,
        }
    }

    /// Has its destruction begun?
    #[inline]
    pub fn is_dying(&self) -> bool {
        self.life() != Life::Alive
    }

    /// Frames of RAM that it owns.
    pub fn total_pages(&self) -> u64 {
        page_info::owned(self.id)
    }

    /// Frames of RAM that it may own.
    pub fn max_pages(&self) -> u64 {
        self.max_pages.load(Ordering::Relaxed)
    }

    /// Change the limit. What it owns already stays.
    pub fn set_max_pages(&self, pages: u64) {
        self.max_pages.store(pages, Ordering::Relaxed);
    }

    /// An HVM parameter; 0 for numbers that do not exist.
    pub fn param(&self, index: u32) -> u64 {
        self.params
            .get(index as usize)
            .map_or(0, |param| param.load(Ordering::Relaxed))
    }

    /// Set an HVM parameter, without any of the checks that HVMOP_set_param makes.
    ///
    /// # Errors
    /// `EINVAL`: there is no such parameter.
    pub fn set_param(&self, index: u32, value: u64) -> Result<(), Errno> {
        self.params
            .get(index as usize)
            .ok_or(Errno::EINVAL)?
            .store(value, Ordering::Relaxed);
        Ok(())
    }

    /// The domain-wide vector for upcalls (HVM_PARAM_CALLBACK_IRQ of type vector), if the guest has set one.
    pub fn callback_vector(&self) -> Option<u8> {
        let via = self.param(HVM_PARAM_CALLBACK_IRQ);
        let is_vector = via >> HVM_PARAM_CALLBACK_TYPE_SHIFT == u64::from(HVM_PARAM_CALLBACK_TYPE_VECTOR);
        (is_vector && via as u8 != 0).then_some(via as u8)
    }

    /// Is the `VMASST_TYPE_*` on?
    pub fn assist(&self, kind: u32) -> bool {
        kind < 32 && self.assists.load(Ordering::Relaxed) & (1 << kind) != 0
    }

    /// All assists that are on.
    pub fn assists(&self) -> u32 {
        self.assists.load(Ordering::Relaxed)
    }

    /// Turn an assist on or off; `kind` below 32.
    pub fn set_assist(&self, kind: u32, on: bool) {
        let bit = 1u32.checked_shl(kind).unwrap_or(0);
        if on {
            self.assists.fetch_or(bit, Ordering::Relaxed);
        } else {
            self.assists.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    /// Does any vCPU wait in SCHEDOP_poll?
    #[inline]
    pub fn has_pollers(&self) -> bool {
        self.pollers.any()
    }

    /// The layout of what it shares with the hypervisor.
    pub fn layout(&self) -> Layout {
        self.events.layout()
    }

    /// Tell what time it was, in seconds and nanoseconds since 1970, when system time was 0 (xen public xen.h, shared_info).
    pub fn publish_wall_clock(&self) {
        let _turn = self.wall_clock.lock();
        // Offsets of version, seconds, nanoseconds, and the seconds' high half.
        let (version, low, fraction, high) = match self.layout() {
            Layout::X86_64 => (3072, 3076, 3080, 3084),
            Layout::I386 => (2304, 2308, 2312, 2340),
        };
        let paused = self.vcpus().first().map_or(0, |vcpu| vcpu.behind());
        let base = wall_clock_base().wrapping_add(paused);
        let offset = self.time_offset.load(Ordering::SeqCst);
        let seconds = (base / 1_000_000_000).wrapping_add_signed(offset);
        let nanoseconds = base % 1_000_000_000;
        let put = |at, value| self.shared_info.u32_at(at).store(value, Ordering::SeqCst);
        // The version is odd while the rest is being written.
        let writing = self
            .shared_info
            .u32_at(version)
            .load(Ordering::SeqCst)
            .wrapping_add(1)
            | 1;
        put(version, writing);
        put(low, seconds as u32);
        put(fraction, nanoseconds as u32);
        put(high, (seconds >> 32) as u32);
        put(version, writing.wrapping_add(1));
    }

    /// Have the wall clock go ahead of the machine's by so many seconds.
    pub fn set_time_offset(&self, seconds: i64) {
        self.time_offset.store(seconds, Ordering::SeqCst);
        self.publish_wall_clock();
    }

    /// Use the layout of the mode that `cpu`, which is the domain's, is in. This is done where drivers begin, and begin again after a kexec, as on
    /// Xen; what is in memory already stays as it is, but for the wall clock.
    pub fn latch_layout(&self, cpu: &dyn GuestCpu) {
        let layout = match cpu.mode() {
            CpuMode::Long => Layout::X86_64,
            _ => Layout::I386,
        };
        self.events.set_layout(layout);
        self.publish_wall_clock();
    }

    // ---- pauses by the toolstack ----

    /// Does the toolstack hold it?
    pub fn is_paused(&self) -> bool {
        self.toolstack_pauses.load(Ordering::SeqCst) != 0
    }

    /// Pause all vCPUs, for which time stands still; pauses add up. Returns when none of them runs.
    pub fn pause(&self) {
        let first = {
            let _turn = self.pausing.lock();
            self.vcpus().iter().for_each(Vcpu::pause);
            self.toolstack_pauses.fetch_add(1, Ordering::SeqCst) == 0
        };
        for vcpu in self.vcpus() {
            vcpu.wait_until_stopped();
            sched::stop_waiting(vcpu);
        }
        if first {
            self.paused_since.store(tsc(), Ordering::SeqCst);
        }
    }

    /// Undo one [`Domain::pause`]. Domctls come one at a time: what was paused has stopped.
    ///
    /// # Errors
    /// `EINVAL`: it is not paused.
    pub fn unpause(&self) -> Result<(), Errno> {
        if self.toolstack_pauses.load(Ordering::SeqCst) == 1 && !self.is_dying() {
            self.skip_time();
        }
        let _turn = self.pausing.lock();
        self.toolstack_pauses
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| count.checked_sub(1))
            .map_err(|_| Errno::EINVAL)?;
        self.vcpus().iter().for_each(Vcpu::unpause);
        Ok(())
    }

    /// The time for which it was paused has not passed for it; but it had passed for others, so the wall clock that it is told is right again.
    fn skip_time(&self) {
        let (since, until) = (self.paused_since.swap(0, Ordering::SeqCst), tsc());
        // Those that have passed were left alone.
        let timers_go_on = || self.vcpus().iter().for_each(sched::timers_changed);
        if since == 0 {
            return timers_go_on();
        }
        let paused = clock()
            .nanoseconds(until)
            .saturating_sub(clock().nanoseconds(since));
        for vcpu in self.vcpus() {
            vcpu.skip_time(since, until, paused);
            self.publish_time(vcpu);
        }
        self.publish_wall_clock();
        timers_go_on();
    }

    /// The machine's TSC as far as it is the domain's: it stands still while that is paused.
    pub fn machine_tsc(&self) -> u64 {
        match self.paused_since.load(Ordering::SeqCst) {
            0 => tsc(),
            since => since,
        }
    }

    /// Do something while none of its vCPUs runs. It is not the caller's own domain.
    pub fn while_paused<R>(&self, work: impl FnOnce() -> R) -> R {
        self.stop_vcpus();
        let result = work();
        self.vcpus().iter().for_each(Vcpu::unpause);
        result
    }

    fn stop_vcpus(&self) {
        self.vcpus().iter().for_each(Vcpu::pause);
        self.vcpus().iter().for_each(|vcpu| vcpu.wait_until_stopped());
    }
}
