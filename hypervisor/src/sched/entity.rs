//! The scheduler's part of a vCPU.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};

use super::heap::{Slot, UNQUEUED};
use super::mask::CpuMask;
use super::registers::NOWHERE;
use super::runqueue::{Schedulable, Waiting};
use super::{Share, Timers};
use crate::domain::vcpu::Vcpu;
use crate::hw;
use crate::sync::Mutex;

/// The scheduler's part of a vCPU.
#[derive(Debug)]
pub struct Entity {
    /// The CPU where it runs or ran; the queue of its group is where it waits.
    pub(super) cpu: AtomicU32,
    pub(super) running: AtomicBool,
    /// It has asked to let others go first.
    pub(super) yielding: AtomicBool,
    pub(super) waiting_slot: AtomicU32,
    /// Virtual time.
    pub(super) time: AtomicU64,
    /// The CPU that has its registers, or [`NOWHERE`]. Written by that CPU alone.
    pub(super) loaded_on: AtomicU32,
    /// The CPU in whose timer queue it is.
    pub(super) timer_cpu: Mutex<u32>,
    pub(super) timer_slot: AtomicU32,
    /// Total time spent running, in nanoseconds.
    pub(super) ran: AtomicU64,
    pub(super) since: AtomicU64,
    /// Its domain's share.
    pub share: Arc<Share>,
    /// Where it may run.
    pub hard: CpuMask,
    /// Where it should run.
    pub soft: CpuMask,
}

impl Entity {
    /// A vCPU that never ran.
    pub fn new(share: Arc<Share>) -> Self {
        Self {
            cpu: AtomicU32::new(0),
            running: AtomicBool::new(false),
            yielding: AtomicBool::new(false),
            waiting_slot: AtomicU32::new(UNQUEUED),
            time: AtomicU64::new(0),
            loaded_on: AtomicU32::new(NOWHERE),
            timer_cpu: Mutex::new(0),
            timer_slot: AtomicU32::new(UNQUEUED),
            ran: AtomicU64::new(0),
            since: AtomicU64::new(0),
            share,
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

    /// Does it wait in its group's queue? Certain under that queue's lock.
    pub(super) fn waits(&self) -> bool {
        self.waiting_slot.load(SeqCst) != UNQUEUED
    }
}

impl Slot<Timers> for Arc<Vcpu> {
    fn slot(&self) -> &AtomicU32 {
        &self.entity.timer_slot
    }
}

impl Slot<Waiting> for Arc<Vcpu> {
    fn slot(&self) -> &AtomicU32 {
        &self.entity.waiting_slot
    }
}

impl Schedulable for Arc<Vcpu> {
    fn time(&self) -> &AtomicU64 {
        &self.entity.time
    }
    fn may_run_on(&self, cpu: u32) -> bool {
        self.entity.hard.contains(cpu)
    }
}
