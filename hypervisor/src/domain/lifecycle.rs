//! From creation to the last frame.
//!
//! Destruction is a hypercall that is made again until it is done ([`destroy_some`]), each time for a bounded slice of work: vCPUs stop, event
//! channels close, grants are given back, the p2m is emptied. Frames that others still map keep the domain as a zombie,
//! until [`reap`] finds that it owns nothing any more.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering};

use abi::Errno;
use abi::event_channel::VIRQ_DOM_EXC;
use abi::hvm::{HVM_NR_PARAMS, HVM_PARAM_TRIPLE_FAULT_REASON};
use abi::sched::{SHUTDOWN_CRASH, SHUTDOWN_POWEROFF, SHUTDOWN_REBOOT};

use super::memory::Unmapping;
use super::poll::Pollers;
use super::vcpu::{Hold, Vcpu};
use super::{Config, Domain, Life, MAX_VCPUS, NOT_SHUT_DOWN, soft_reset, table};
use crate::arch::{GuestCpu, SysReg, VcpuConfig, fpu, machine};
use crate::event::{self, EventChannels};
use crate::grant::GrantTable;
use crate::hw::time::tsc;
use crate::mm::fallible;
use crate::mm::guest::GuestFrame;
use crate::mm::io_bitmap::IoBitmap;
use crate::mm::p2m::P2m;
use crate::mm::walk::Trace;
use crate::mm::{frames, page_info};
use crate::sched::{self, Share};
use crate::sync::{Mutex, Once, Rank};
use crate::types::{Gfn, Gva, Port, VcpuId};
use crate::virt::Described;
use crate::virt::cpuid::{self, Policy};
use crate::virt::lapic::AccessPage;
use crate::virt::time::{self, TscInfo};

/// How far destruction has come.
pub struct Teardown {
    stage: Stage,
}

enum Stage {
    Stop,
    Events(Port),
    Grants,
    Memory(Gfn),
    Done,
}

/// Frames that a slice of destruction unmaps, at most (a large page counts as what it is).
const MEMORY_SLICE: u64 = 1 << 9;

/// Make a domain, paused, without vCPUs and memory.
///
/// # Errors
/// `EINVAL`: a limit in `config` is out of range. `ENOMEM`. `EEXIST`, `ENFILE`: see [`table`].
pub fn create(config: Config) -> Result<Arc<Domain>, Errno> {
    if config.max_vcpus == 0 || config.max_vcpus > MAX_VCPUS {
        return Err(Errno::EINVAL);
    }
    fallible::ensure_reserve()?;
    table::insert(config.id, |id| {
        let domain = Domain {
            id,
            config,
            p2m: P2m::new(
                config.format,
                config.address_bits,
                machine::pages(),
                config.p2m_pool,
            )?,
            shared_info: GuestFrame::new(id)?,
            shared_info_at: AtomicU64::new(u64::MAX),
            events: EventChannels::new(config.max_evtchn_port, config.max_vcpus),
            grants: GrantTable::new(
                id,
                config.max_grant_frames,
                config.max_maptrack_frames,
                config.max_grant_version,
            )?,
            io_bitmap: IoBitmap::new()?,
            io_apics: Once::new(),
            apic_access: Mutex::new(Rank::Description, AccessPage::default()),
            lowest_priority: AtomicU32::new(0),
            tsc: Mutex::new(Rank::Description, TscInfo::new()),
            cpu_policy: Mutex::new(Rank::Description, Arc::new(default_policy(&config))),
            memory_map: Mutex::new(Rank::Description, Arc::default()),
            params: [const { AtomicU64::new(0) }; HVM_NR_PARAMS as usize],
            handle: Mutex::new(Rank::Description, config.handle),
            share: Arc::new(Share::new()),
            log_line: Mutex::new(Rank::Description, Default::default()),
            vcpus: Once::new(),
            max_pages: AtomicU64::new(0),
            claim: frames::Claim::default(),
            assists: AtomicU32::new(0),
            life: AtomicU8::new(Life::Alive as u8),
            teardown: Mutex::new(Rank::Teardown, Teardown { stage: Stage::Stop }),
            reset_from: AtomicU32::new(soft_reset::FIRST_PORT),
            shutdown: AtomicU32::new(NOT_SHUT_DOWN),
            shutdown_code: AtomicU32::new(NOT_SHUT_DOWN),
            toolstack_pauses: AtomicU32::new(1),
            paused_since: AtomicU64::new(0),
            pausing: Mutex::new(Rank::Pausing, ()),
            pollers: Pollers::default(),
            wall_clock: Mutex::new(Rank::Areas, ()),
            time_offset: AtomicI64::new(0),
        };
        domain.publish_wall_clock();
        domain.set_param(HVM_PARAM_TRIPLE_FAULT_REASON, u64::from(SHUTDOWN_REBOOT))?;
        Ok(Arc::new(domain))
    })
}

/// What CPUID tells a new domain's vCPUs, before a toolstack changes it.
fn default_policy(config: &Config) -> Policy {
    let xcr0 = fpu::host().map_or(0, |host| host.xcr0);
    let policy = Policy::new(&cpuid::host, config.max_vcpus, xcr0, config.address_bits);
    if config.privileged {
        policy.with_all()
    } else {
        policy
    }
}

impl Domain {
    /// Make the vCPUs, all that the configuration has, down and paused with the domain.
    ///
    /// # Errors
    /// `EEXIST`: it has them. `ENOMEM`.
    pub fn create_vcpus(self: &Arc<Self>) -> Result<(), Errno> {
        if self.vcpus.get().is_some() {
            return Err(Errno::EEXIST);
        }
        let config = VcpuConfig {
            nested_root: self.p2m.root(),
            io_bitmap: self.io_bitmap.addr(),
        };
        let policy = self.cpu_policy.lock().clone();
        let tsc_info = *self.tsc.lock();
        // A guest's TSC starts at 0, on all of its vCPUs at once.
        let start = tsc();
        let tsc_offset = start.wrapping_neg();
        let mut vcpus = Vec::with_capacity(self.config.max_vcpus as usize);
        for id in 0..self.config.max_vcpus {
            fallible::ensure_reserve()?;
            let vcpu = Vcpu::new(
                Arc::downgrade(self),
                self.id,
                VcpuId(id),
                &config,
                tsc_offset,
                policy.clone(),
                self.share.clone(),
            )
            .map_err(|_| Errno::ENOMEM)?;
            vcpu.events
                .attach(vcpu.id, self.shared_info.share().map_err(|_| Errno::ENOMEM)?);
            time::take_tsc_info(&vcpu, tsc_info, start);
            self.publish_time(&vcpu);
            vcpus.push(vcpu);
        }
        let vcpus: Box<[Arc<Vcpu>]> = vcpus.into();
        // They have not missed anything.
        self.paused_since.store(0, Ordering::SeqCst);
        let _turn = self.pausing.lock();
        let made = self.vcpus.call_once(|| vcpus);
        for _ in 0..self.toolstack_pauses.load(Ordering::SeqCst) {
            made.iter().for_each(Vcpu::pause);
        }
        Ok(())
    }

    // ---- shutdown ----

    /// Why it has shut itself down (`SHUTDOWN_*`), if it has.
    pub fn shutdown_reason(&self) -> Option<u32> {
        match self.shutdown.load(Ordering::SeqCst) {
            NOT_SHUT_DOWN => None,
            reason => Some(reason),
        }
    }

    /// The domain is finished, for `reason` (`SHUTDOWN_*`): its vCPUs run no more, and dom0 is told. Only the first call counts. The machine goes
    /// down with a privileged domain.
    pub fn shutdown(&self, reason: u32) {
        let reason = match self.shutdown_code.load(Ordering::SeqCst) {
            NOT_SHUT_DOWN => reason,
            code => code,
        };
        let turn = self.pausing.lock();
        let first = self
            .shutdown
            .compare_exchange(NOT_SHUT_DOWN, reason, Ordering::SeqCst, Ordering::SeqCst);
        if first.is_err() {
            return;
        }
        log::info!("{}: shut down, reason {reason}", self.id);
        if self.is_privileged() {
            crate::hw::power::machine_down(reason);
        }
        self.vcpus().iter().for_each(Vcpu::pause);
        drop(turn);
        event::raise_global_virq(VIRQ_DOM_EXC);
    }

    /// What `vcpu` did cannot be continued: the domain ends as crashed.
    pub fn crash(&self, vcpu: &Vcpu, cpu: &dyn GuestCpu, why: core::fmt::Arguments<'_>) {
        log::error!("{}v{} crashed: {why}: {}", self.id, vcpu.id.0, Described(cpu));
        self.log_walks(cpu);
        self.shutdown(SHUTDOWN_CRASH);
    }

    /// Logs where the guest's page tables lead from its instruction pointer and from its last page fault, unless the domain has ended already by
    /// another of its vCPUs.
    pub fn log_walks(&self, cpu: &dyn GuestCpu) {
        if self.shutdown_reason().is_some() {
            return;
        }
        let translation = cpu.translation().of_code();
        for gva in [cpu.rip(), cpu.read(SysReg::Cr2)].map(Gva) {
            let p2m = &self.p2m;
            log::warn!(
                target: "guest",
                "{} {}",
                self.id,
                Trace {
                    p2m,
                    translation,
                    gva
                }
            );
        }
    }

    /// A vCPU has gone down by itself (VCPUOP_down, HLT with interrupts off). The last one powers the domain off.
    pub fn vcpu_went_down(&self) {
        if self.vcpus().iter().all(|vcpu| vcpu.held_by(Hold::DOWN)) {
            self.shutdown(SHUTDOWN_POWEROFF);
        }
    }

    /// The reason that a later shutdown is to have (SCHEDOP_shutdown_code).
    pub fn set_shutdown_code(&self, reason: u32) {
        self.shutdown_code.store(reason, Ordering::SeqCst);
    }

    /// Let a domain go on that has shut down (to be saved, or to begin anew).
    ///
    /// # Errors
    /// `EINVAL`: it has not, or its destruction has begun.
    pub fn resume(&self) -> Result<(), Errno> {
        let _turn = self.pausing.lock();
        if self.is_dying() || self.shutdown.swap(NOT_SHUT_DOWN, Ordering::SeqCst) == NOT_SHUT_DOWN {
            return Err(Errno::EINVAL);
        }
        self.shutdown_code.store(NOT_SHUT_DOWN, Ordering::SeqCst);
        self.vcpus().iter().for_each(Vcpu::unpause);
        Ok(())
    }
}

/// Do a slice of a domain's destruction.
///
/// # Errors
/// `ERESTART`: there is more to do. `EINVAL`: it is privileged, and cannot be destroyed.
pub fn destroy_some(domain: &Arc<Domain>) -> Result<(), Errno> {
    if domain.is_privileged() {
        return Err(Errno::EINVAL);
    }
    take_apart(domain)
}

/// The same for any domain: tests make privileged ones, and let them go.
///
/// # Errors
/// `ERESTART`: there is more to do.
pub(crate) fn take_apart(domain: &Arc<Domain>) -> Result<(), Errno> {
    let mut teardown = domain.teardown.lock();
    teardown.stage = match teardown.stage {
        Stage::Stop => {
            domain.life.store(Life::Dying as u8, Ordering::SeqCst);
            domain.stop_vcpus();
            frames::unclaim(&domain.claim);
            Stage::Events(Port(1))
        }
        Stage::Events(from) => match event::close_some(domain, from) {
            Some(next) => Stage::Events(next),
            None => {
                // Nobody can bind a port of a dying domain.
                let _ = event::reset_delivery(domain);
                for vcpu in domain.vcpus() {
                    vcpu.events.forget();
                    vcpu.areas.forget();
                    sched::forget(vcpu);
                }
                Stage::Grants
            }
        },
        Stage::Grants if !domain.grants.release_some(domain) => Stage::Grants,
        Stage::Grants => Stage::Memory(Gfn(0)),
        Stage::Memory(from) => match unmap_some(domain, from) {
            Some(next) => Stage::Memory(next),
            None => Stage::Done,
        },
        Stage::Done => return Ok(()),
    };
    if !matches!(teardown.stage, Stage::Done) {
        return Err(Errno::ERESTART);
    }
    domain.life.store(Life::Zombie as u8, Ordering::SeqCst);
    drop(teardown);
    if !bury(domain) {
        event::raise_global_virq(VIRQ_DOM_EXC);
    }
    Ok(())
}

/// Unmap from `from` on. `None`: nothing is left.
fn unmap_some(domain: &Domain, from: Gfn) -> Option<Gfn> {
    let mut from = from;
    let mut budget = MEMORY_SLICE;
    let mut unmapping = Unmapping::of(domain);
    while let Some((gfn, entry)) = domain.p2m.next_mapped(from) {
        let first = Gfn(gfn.0 & !((1 << entry.order) - 1));
        // No error is possible: no page is split here. Dom0 may have split it meanwhile, or taken the first of it away.
        let gone = unmapping.unmap_if(first, entry.order, |_| true);
        let frames = 1 << gone.ok().flatten().unwrap_or(0);
        from = first.offset(frames);
        budget = budget.saturating_sub(frames);
        if budget == 0 {
            return Some(from);
        }
    }
    None
}

/// Take a zombie that owns no frame out of the table. `false`: somebody still holds one.
fn bury(domain: &Domain) -> bool {
    let gone = domain.life() == Life::Zombie && domain.total_pages() == 0;
    if gone && table::remove(domain) {
        event::raise_global_virq(VIRQ_DOM_EXC);
    }
    gone
}

/// Take away zombies whose last frame was given back. Cheap when there are none; called now and then.
pub fn reap() {
    if !page_info::take_orphaned() {
        return;
    }
    table::all().for_each(|domain| {
        bury(&domain);
    });
}
