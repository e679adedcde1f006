//! Which CPU has a vCPU's registers.
//!
//! A vCPU's registers stay on a CPU after it stopped, in case that it is the next again; another CPU that wants it asks for them
//! ([`load`], [`evict`]). Who waits for such an answer has nothing loaded that others could wait for, or runs what is loaded; so nobody waits in a circle.

use alloc::sync::Arc;
use core::sync::atomic::Ordering::SeqCst;

use super::{SCHEDULER, cpu, this_cpu};
use crate::arch::speculation;
use crate::domain::vcpu::{Private, Vcpu};
use crate::hw;
use crate::hw::irq::SoftIrq;
use crate::sync::Rank;

/// No CPU, in [`Traces::loaded_on`](super::Traces).
pub(super) const NOWHERE: u32 = u32::MAX;
/// How often [`evict`] looks before it asks again.
const EVICT_PATIENCE: u32 = 10_000;

/// Make `vcpu`'s state sit in memory: take it off the CPU's registers where it was left. It is this CPU's, or runs nowhere.
pub fn evict(vcpu: &Vcpu) {
    let here = hw::percpu::id();
    match vcpu.traces.loaded_on.load(SeqCst) {
        NOWHERE => {}
        id if id == here => {
            if let Some(cpu) = cpu(here) {
                unload(&mut cpu.loaded.lock());
            }
        }
        id => {
            // Again and again: what runs there may have been `vcpu` until now.
            while vcpu.traces.loaded_on.load(SeqCst) == id {
                hw::irq::raise_on(id, SoftIrq::EVICT);
                for _ in 0..EVICT_PATIENCE {
                    if vcpu.traces.loaded_on.load(SeqCst) != id {
                        break;
                    }
                    core::hint::spin_loop();
                }
            }
        }
    }
}

fn unload(loaded: &mut Option<Arc<Vcpu>>) {
    if let Some(vcpu) = loaded.take() {
        vcpu.private().lock_as(Rank::VcpuAtRest).cpu.as_dyn().unload();
        vcpu.traces.loaded_on.store(NOWHERE, SeqCst);
    }
}

/// Take off this CPU's registers what does not run ([`SoftIrq::EVICT`]).
pub fn unload_idle() {
    let (Some(cpu), Some(scheduler)) = (this_cpu(), SCHEDULER.get()) else {
        return;
    };
    if !scheduler.runs_any(hw::percpu::id()) {
        unload(&mut cpu.loaded.lock());
    }
}

/// Look at the private half of a vCPU that nobody runs and whose registers no CPU has. Waits for nobody.
///
/// # Errors
/// Somebody does, or has: probably that CPU.
pub fn look_at(vcpu: &Vcpu, look: impl FnOnce(&mut Private)) -> Result<(), u32> {
    let private = vcpu.private().try_lock();
    match (private, vcpu.traces.loaded_on.load(SeqCst)) {
        // Nobody loads it while we have its lock.
        (Some(mut private), NOWHERE) => {
            look(&mut private);
            Ok(())
        }
        (_, NOWHERE) => Err(vcpu.entity.cpu()),
        (_, id) => Err(id),
    }
}

/// Look at the private half of the vCPU that has left its registers on this CPU, which runs nothing; at none, if there is none.
pub fn look_at_loaded(look: impl FnOnce(&Vcpu, &mut Private)) {
    let Some(cpu) = this_cpu() else { return };
    if let Some(vcpu) = &*cpu.loaded.lock()
        && let Some(mut private) = vcpu.private().try_lock()
    {
        look(vcpu, &mut private);
    }
}

/// Make `vcpu`'s registers sit on this CPU, which runs it, taking off another's if needed.
pub fn load(vcpu: &Arc<Vcpu>) {
    let here = hw::percpu::id();
    // Only this CPU says so.
    if vcpu.traces.loaded_on.load(SeqCst) == here {
        return;
    }
    let Some(cpu) = cpu(here) else { return };
    let mut loaded = cpu.loaded.lock();
    unload(&mut loaded);
    evict(vcpu);
    speculation::forget_branches();
    vcpu.private().lock_as(Rank::VcpuAtRest).cpu.as_dyn().load();
    vcpu.traces.loaded_on.store(here, SeqCst);
    *loaded = Some(vcpu.clone());
}
