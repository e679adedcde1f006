//! Messages to other CPUs: interrupts, NMI, INIT, start-up (SDM 3A, 11.6.1).

use alloc::sync::Arc;
use core::sync::atomic::Ordering::SeqCst;

use super::arrivals::Trigger;
use super::deliver::{SEND_ILLEGAL, error, raise};
use super::destination::lowest_priority;
use crate::arch::GuestCpu;
use crate::domain::vcpu::{Hold, Request, Vcpu};
use crate::virt::Running;

/// Of [`SharedLapic::startup`](super::SharedLapic): INIT waits.
const INIT_PENDING: u32 = 1 << 31;
/// A start-up message waits; its vector is in bits 0 to 7.
pub(super) const SIPI_PENDING: u32 = 1 << 30;

/// Delivery modes, bits 8 to 10. SMI is not for guests, and the others are reserved.
mod delivery {
    pub const FIXED: u32 = 0;
    pub const LOWEST_PRIORITY: u32 = 1;
    pub const NMI: u32 = 4;
    pub const INIT: u32 = 5;
    pub const START_UP: u32 = 6;
}

const LOGICAL: u32 = 1 << 11;
const ASSERT: u32 = 1 << 14;
const LEVEL: u32 = 1 << 15;
/// Destination shorthands, bits 18 and 19.
const SHORTHAND: u32 = 3 << 18;
pub(super) const SELF: u32 = 1 << 18;
const ALL: u32 = 2 << 18;

/// Carry out `command`, the low half of ICR.
pub(super) fn send_ipi(running: &mut Running<'_, dyn GuestCpu>, command: u32, destination: u32) {
    let (vector, mode, logical) = (command as u8, command >> 8 & 7, command & LOGICAL != 0);
    let shorthand = command & SHORTHAND;
    if matches!(mode, delivery::FIXED | delivery::LOWEST_PRIORITY) && vector < 16 {
        error(running, SEND_ILLEGAL);
    }
    if mode == delivery::LOWEST_PRIORITY && shorthand == 0 {
        if let Some(target) = lowest_priority(running.domain, destination, logical) {
            raise(target, vector, Trigger::Edge);
        }
        return;
    }
    for target in running.domain.vcpus() {
        let is_self = Arc::ptr_eq(target, running.vcpu);
        let meant = match shorthand {
            0 => target.apic.answers_to(destination, logical),
            SELF => is_self,
            ALL => target.apic.is_present(),
            _ => !is_self && target.apic.is_present(),
        };
        if !meant {
            continue;
        }
        match mode {
            // Lowest priority to all is to all (table 11-4).
            delivery::FIXED | delivery::LOWEST_PRIORITY => raise(target, vector, Trigger::Edge),
            delivery::NMI => target.request(Request::NMI),
            // The de-assert form (level 0, trigger level) does nothing.
            delivery::INIT if command & ASSERT != 0 || command & LEVEL == 0 => {
                target.apic.startup.store(INIT_PENDING, SeqCst);
                if !is_self {
                    target.hold(Hold::DOWN);
                }
            }
            delivery::START_UP => start_up(target, vector),
            _ => {}
        }
    }
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
