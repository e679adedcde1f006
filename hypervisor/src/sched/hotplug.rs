//! Taking physical CPUs offline, and back.
//!
//! A CPU that is offline is in no pool, so nobody may run there, and has nothing left that others could wait for: no vCPU's registers, no deadlines, no interrupt
//! lines. It stays in its run loop, halted for want of anything to do, where it still answers what concerns all CPUs; that is why its way back is no more than
//! to be put into a pool again. (INIT is blocked in VMX root operation anyway, SDM 3C, 25.2.)

use core::sync::atomic::Ordering::SeqCst;

use abi::Errno;
use abi::event_channel::VIRQ_PCPU_STATE;

use super::pool::{self, POOL_0, pools};
use super::{CpuSched, SCHEDULER, cpu, cpu_count, this_cpu, timers};
use crate::domain::vcpu::NEVER;
use crate::hw::irq::SoftIrq;
use crate::sync::{Mutex, Rank};
use crate::{event, hw};

/// What is to become of a CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CpuChange {
    /// It runs guests again.
    Online,
    /// It runs none any more.
    Offline,
}

/// The CPU that is on its way offline.
static UNDER_WAY: Mutex<Option<u32>> = Mutex::new(Rank::Hotplug, None);

/// Take a CPU offline or back. `false`: it is on its way; the caller is to ask again, and may have to leave that very CPU before. It need not be on the same vCPU
/// then: dom0's kernel may have moved the one who asks.
///
/// # Errors
/// `EBUSY`: another CPU is on its way, or this is the last of pool 0. `EINVAL`: there is no such CPU, or it is CPU 0 that is to go. `EEXIST`: it is
/// so already. `ENODEV`: it is in a pool other than 0.
pub fn change_cpu(id: u32, change: CpuChange) -> Result<bool, Errno> {
    let mut under_way = UNDER_WAY.try_lock().ok_or(Errno::EBUSY)?;
    let gone = |leaves| cpu(leaves).is_none_or(|cpu| !cpu.retiring.load(SeqCst));
    if let Some(leaves) = *under_way {
        let asked_for = leaves == id && change == CpuChange::Offline;
        if !arrives(&mut under_way, gone) {
            return if asked_for { Ok(false) } else { Err(Errno::EBUSY) };
        }
        log::info!("CPU {leaves} is offline");
        event::raise_global_virq(VIRQ_PCPU_STATE);
        if asked_for {
            return Ok(true);
        }
    }
    let cpus = cpu_count() as u32;
    let mut pools = pools();
    match change {
        CpuChange::Online => pools.bring_online(id, cpus)?,
        CpuChange::Offline => pools.take_offline(id, cpus, pool::domains_in(POOL_0))?,
    }
    if let Some(scheduler) = SCHEDULER.get() {
        scheduler.set_offline(id, change == CpuChange::Offline);
    }
    pool::changed(&pools, POOL_0);
    drop(pools);
    if change == CpuChange::Online {
        if cpu(0).is_some_and(|first| first.beat.load(SeqCst) != NEVER) {
            super::begin_to_beat(id);
        }
        log::info!("CPU {id} is online");
        event::raise_global_virq(VIRQ_PCPU_STATE);
        return Ok(true);
    }
    // Nobody is queued for it or handed to it from here on, so that what is given up once it has found nothing stays so.
    if let Some(cpu) = cpu(id) {
        cpu.retiring.store(true, SeqCst);
        hw::apic::kick(id);
    }
    *under_way = Some(id);
    Ok(false)
}

/// Is the CPU that is on its way `gone`, which has nothing left then? Whoever looks finds out: the one who began it may never ask again.
fn arrives(under_way: &mut Option<u32>, gone: impl FnOnce(u32) -> bool) -> bool {
    under_way.take_if(|leaves| gone(*leaves)).is_some()
}

/// CPU `id`, which has just been added, is offline until somebody brings it back. Before there are domains.
pub fn leave_out(id: u32) {
    if pools().take_offline(id, cpu_count() as u32, 0).is_ok()
        && let Some(scheduler) = SCHEDULER.get()
    {
        scheduler.set_offline(id, true);
    }
}

/// Is this CPU to go offline, once it has nothing to run?
pub fn told_to_retire() -> bool {
    this_cpu().is_some_and(|own| own.retiring.load(SeqCst))
}

/// This CPU, which was told to, goes offline: it gives up all that it has, to CPU 0.
pub fn retire() {
    if let Some(own) = this_cpu() {
        super::unload_idle();
        give_deadlines_away(own);
        hw::ioapic::move_lines(hw::percpu::id(), 0);
        own.retiring.store(false, SeqCst);
    }
}

/// CPU 0 gets this CPU's deadlines. Nobody else sets any here meanwhile.
fn give_deadlines_away(own: &CpuSched) {
    let Some(heir) = cpu(0) else { return };
    timers::give_away(hw::percpu::id(), &own.timers, 0, &heir.timers);
    own.beat.store(NEVER, SeqCst);
    #[cfg(target_os = "none")]
    hw::watchdog::forget();
    own.armed.store(NEVER, SeqCst);
    hw::timer::arm(NEVER);
    hw::irq::raise_on(0, SoftIrq::TIMER);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A CPU is on its way until it has nothing left, whoever looks then.
    #[test]
    fn one_at_a_time_is_on_its_way() {
        let mut under_way = None;
        assert!(!arrives(&mut under_way, |_| true), "none is");
        under_way = Some(3);
        assert!(!arrives(&mut under_way, |leaves| leaves != 3));
        assert_eq!(under_way, Some(3));
        assert!(arrives(&mut under_way, |leaves| leaves == 3));
        assert_eq!(under_way, None);
    }
}
