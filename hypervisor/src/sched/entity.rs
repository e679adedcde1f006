//! The scheduler's part of a vCPU.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use super::Share;
use super::fair;
use super::heap::UNQUEUED;
use super::mask::CpuMask;
use crate::sync::atomic;

/// No CPU in particular.
pub(super) const ANYWHERE: u32 = u32::MAX;

/// A domain, for core scheduling: by where its share is.
pub(super) type Owner = usize;

/// The scheduler's part of a vCPU.
#[derive(Debug)]
pub struct Entity {
    /// The CPU where it runs or ran; the queue of its group is where it waits. This and `running` are read without that queue's lock, too.
    pub(super) cpu: atomic::AtomicU32,
    pub(super) running: atomic::AtomicBool,
    /// It has asked to let others go first.
    pub(super) yielding: AtomicBool,
    /// It has left its CPU as it spun there.
    pub(super) spun: AtomicBool,
    /// Where in its group's queue it waits, with which weight. Only the queue uses these.
    pub(super) waiting_slot: AtomicU32,
    pub(super) class: AtomicU32,
    pub(super) urgent: AtomicBool,
    pub(super) waiting_weight: AtomicU32,
    /// Virtual time.
    pub(super) time: AtomicU64,
    /// Total time spent running, in nanoseconds.
    pub(super) ran: AtomicU64,
    pub(super) since: AtomicU64,
    /// What it had run beyond its share, when that was, and what it had run by then. For who has queued it.
    debt: AtomicI64,
    settled: AtomicU64,
    settled_ran: AtomicU64,
    /// Its domain's share.
    pub share: Arc<Share>,
    /// Where its domain's toolstack lets it run.
    pub affinity: CpuMask,
    /// The one CPU where it wants to run for a while, or [`ANYWHERE`].
    pub(super) pinned: AtomicU32,
    /// Where it may run: what of its affinity, or that CPU, is in its domain's pool.
    pub hard: CpuMask,
    /// Where it should run.
    pub soft: CpuMask,
}

impl Entity {
    /// A vCPU that never ran.
    pub fn new(share: Arc<Share>) -> Self {
        Self {
            cpu: atomic::AtomicU32::new(0),
            running: atomic::AtomicBool::new(false),
            yielding: AtomicBool::new(false),
            spun: AtomicBool::new(false),
            waiting_slot: AtomicU32::new(UNQUEUED),
            class: AtomicU32::new(0),
            urgent: AtomicBool::new(false),
            waiting_weight: AtomicU32::new(0),
            time: AtomicU64::new(0),
            ran: AtomicU64::new(0),
            since: AtomicU64::new(0),
            debt: AtomicI64::new(0),
            settled: AtomicU64::new(0),
            settled_ran: AtomicU64::new(0),
            share,
            affinity: CpuMask::all(),
            pinned: AtomicU32::new(ANYWHERE),
            hard: CpuMask::all(),
            soft: CpuMask::all(),
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

    /// Time spent running until `now`, in nanoseconds.
    pub fn run_time_at(&self, now: u64) -> u64 {
        let current = if self.running() {
            now.saturating_sub(self.since.load(SeqCst))
        } else {
            0
        };
        self.ran.load(SeqCst).saturating_add(current)
    }

    /// Its domain.
    pub(super) fn owner(&self) -> Owner {
        Arc::as_ptr(&self.share).addr()
    }

    /// Does it wait in its group's queue? Certain under that queue's lock.
    pub(super) fn waits(&self) -> bool {
        self.waiting_slot.load(SeqCst) != UNQUEUED
    }

    /// Did it live within its share until `now`, when it does not run, of `cpus` CPUs that those with `load` want, itself included?
    pub(super) fn within_share(&self, now: u64, cpus: u32, load: u64) -> bool {
        let total = self.ran.load(Relaxed);
        let ran = total.saturating_sub(self.settled_ran.swap(total, Relaxed));
        let elapsed = now.saturating_sub(self.settled.swap(now, Relaxed));
        let before = self.debt.load(Relaxed);
        let debt = fair::debt(before, ran, elapsed, self.share.weight(), cpus, load);
        self.debt.store(debt, Relaxed);
        debt <= 0
    }

    /// CPU `id` runs it from `now` on. In this order: who reads that it is on CPU `id` finds there that it runs, whichever queue's lock is held.
    pub(super) fn runs_on(&self, id: u32, now: u64) {
        self.since.store(now, SeqCst);
        self.running.store(true, SeqCst);
        self.cpu.store(id, SeqCst);
    }
}
