//! The machine's own power: off, again, or halted.
// UNSAFETY: port I/O.
#![cfg_attr(target_os = "none", expect(unsafe_code, reason = "port I/O"))]

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::sync::Once;

/// `noreboot`: stay halted after a panic or where a reboot is asked for.
static NO_REBOOT: AtomicBool = AtomicBool::new(false);

/// What ACPI says about switching off (FADT and `\_S5`).
#[derive(Clone, Copy, Debug)]
pub struct SoftOff {
    /// Port of PM1a control.
    pub pm1a_control: u16,
    /// Port of PM1b control; 0: none.
    pub pm1b_control: u16,
    /// SLP_TYPa and SLP_TYPb of `\_S5`.
    pub sleep_type: [u8; 2],
}

static SOFT_OFF: Once<SoftOff> = Once::new();

/// Never reboot.
pub fn set_no_reboot() {
    NO_REBOOT.store(true, Relaxed);
}

/// How to switch off.
pub fn set_soft_off(how: SoftOff) {
    SOFT_OFF.call_once(|| how);
}

/// dom0 has ended, for `reason` (`SHUTDOWN_*`): so does the machine.
pub fn machine_down(reason: u32) -> ! {
    if reason == abi::sched::SHUTDOWN_POWEROFF {
        log::info!("dom0 has powered off: switching the machine off");
        power_off()
    } else if NO_REBOOT.load(Relaxed) {
        log::info!("dom0 has ended (reason {reason}): noreboot, halted");
        halt()
    } else {
        log::info!("dom0 has ended (reason {reason}): restarting the machine");
        reboot()
    }
}

/// After a panic.
pub(super) fn after_panic() -> ! {
    if NO_REBOOT.load(Relaxed) { halt() } else { reboot() }
}

/// Stop for ever.
pub fn halt() -> ! {
    loop {
        #[cfg(target_os = "none")]
        {
            x86_64::instructions::interrupts::disable();
            x86_64::instructions::hlt();
        }
    }
}

#[cfg(not(target_os = "none"))]
fn power_off() -> ! {
    halt()
}

#[cfg(not(target_os = "none"))]
fn reboot() -> ! {
    halt()
}

#[cfg(target_os = "none")]
pub use machine::{power_off, reboot};

#[cfg(target_os = "none")]
mod machine {
    use x86_64::instructions::port::Port;

    use super::{SOFT_OFF, halt};

    /// ACPI 5.0, 4.8.3.2.1 and 16.1.7: SLP_TYP and SLP_EN into PM1a and PM1b control.
    pub fn power_off() -> ! {
        const SLEEP_ENABLE: u16 = 1 << 13;
        if let Some(how) = SOFT_OFF.get() {
            for (port, kind) in [how.pm1a_control, how.pm1b_control]
                .into_iter()
                .zip(how.sleep_type)
            {
                if port != 0 {
                    // SAFETY: the FADT says that this is the register to write.
                    unsafe { Port::new(port).write(u16::from(kind & 7) << 10 | SLEEP_ENABLE) };
                }
            }
        }
        log::error!("the machine does not switch itself off: halted");
        halt()
    }

    /// By the chipset's reset register, the keyboard controller, and at last a triple fault.
    pub fn reboot() -> ! {
        // SAFETY: these ports do nothing else with these values on PCs.
        unsafe {
            Port::<u8>::new(0xcf9).write(0x02);
            Port::<u8>::new(0xcf9).write(0x06);
            Port::<u8>::new(0x64).write(0xfe);
        }
        let nothing = x86_64::structures::DescriptorTablePointer {
            limit: 0,
            base: x86_64::VirtAddr::zero(),
        };
        // SAFETY: the triple fault that follows is meant.
        unsafe {
            x86_64::instructions::tables::lidt(&nothing);
            core::arch::asm!("int3");
        }
        halt()
    }
}
