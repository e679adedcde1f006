//! Messages to other CPUs: interrupts, NMI, INIT, start-up (SDM 3A, 11.6.1).

use alloc::sync::Arc;
use core::sync::atomic::Ordering::SeqCst;

use super::deliver::raise;
use super::registers::Refused;
use crate::arch::GuestCpu;
use crate::domain::vcpu::{Hold, Request, Vcpu};
use crate::virt::Running;

/// Of [`SharedLapic::startup`](super::SharedLapic): INIT waits.
pub(super) const INIT_PENDING: u32 = 1 << 31;
/// A start-up message waits.
pub(super) const SIPI_PENDING: u32 = 1 << 30;

/// SDM 3A, 11.6.1. `icr` is kept for reading back.
pub(super) fn send_ipi(
    running: &mut Running<'_, dyn GuestCpu>,
    icr: u64,
    destination: u32,
) -> Result<(), Refused> {
    const DELIVERY_STATUS: u64 = 1 << 12;
    running.lapic.icr = icr & !DELIVERY_STATUS;
    let own = running.vcpu;
    let targets = running.domain.vcpus().iter().filter(|target| {
        let is_self = Arc::ptr_eq(target, own);
        match icr >> 18 & 3 {
            0 => target.apic.answers_to(destination, icr & 1 << 11 != 0),
            1 => is_self,
            2 => true,
            _ => !is_self,
        }
    });
    let vector = icr as u8;
    for target in targets {
        match icr >> 8 & 7 {
            // Fixed and lowest priority. (The latter should pick one; all of them is what a broadcast of it may do.)
            0 => raise(target, vector),
            1 => {
                raise(target, vector);
                break;
            }
            4 => target.request(Request::NMI),
            // INIT; the de-assert form (level 0, trigger level) does nothing.
            5 if icr & 1 << 14 != 0 || icr & 1 << 15 == 0 => {
                target.apic.startup.store(INIT_PENDING, SeqCst);
                if !Arc::ptr_eq(target, own) {
                    target.hold(Hold::DOWN);
                }
            }
            6 => start_up(target, vector),
            _ => {}
        }
    }
    Ok(())
}

/// A start-up IPI: only a vCPU that waits for one (down since reset or INIT) takes it.
fn start_up(target: &Arc<Vcpu>, vector: u8) {
    if target.held_by(Hold::DOWN) {
        target
            .apic
            .startup
            .store(SIPI_PENDING | u32::from(vector), SeqCst);
        target.request(Request::STARTUP);
        target.release(Hold::DOWN);
    }
}
