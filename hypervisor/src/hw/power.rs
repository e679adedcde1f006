//! The machine's own power: off, again, or halted.
// UNSAFETY: port I/O.
#![expect(unsafe_code, reason = "port I/O")]

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};

use x86_64::instructions::port::Port;

use super::acpi::{self, Place};
use super::{apic, console, percpu, time};
use crate::arch::machine;
use crate::cmdline::Reset;
use crate::mm::paging;
use crate::sync::Once;

/// `noreboot`: stay halted after a panic, or when dom0 has crashed.
static NO_REBOOT: AtomicBool = AtomicBool::new(false);

/// Only reboot where that is asked for.
pub fn set_no_reboot() {
    NO_REBOOT.store(true, Relaxed);
}

/// `reboot=`: what is tried first.
static FIRST_RESET: Once<Reset> = Once::new();

/// Try `first` before anything else to reset the machine.
pub fn set_first_reset(first: Reset) {
    FIRST_RESET.call_once(|| first);
}

/// The other CPUs are to stop for good.
static STOPPING: AtomicBool = AtomicBool::new(false);

/// How many have.
static STOPPED: AtomicUsize = AtomicUsize::new(0);

/// Make all other CPUs stop for good, wherever they are, with virtualization off, and wait until they have; but not for long, as one may not be able to.
pub fn stop_others() {
    const PATIENCE_NS: u64 = 100_000_000;
    if !STOPPING.swap(true, SeqCst) {
        apic::interrupt_others();
        let others = percpu::all().count() - 1;
        let end = time::now_ns() + PATIENCE_NS;
        while STOPPED.load(SeqCst) < others && time::now_ns() < end {
            core::hint::spin_loop();
        }
    }
}

/// Another CPU has called [`stop_others`]: stop. For the handler of non-maskable interrupts.
pub fn stop_if_told() {
    if STOPPING.load(SeqCst) {
        machine::disable();
        STOPPED.fetch_add(1, SeqCst);
        park()
    }
}

/// dom0 has ended, for `reason` (`SHUTDOWN_*`): so does the machine.
pub fn machine_down(reason: u32) -> ! {
    if reason == abi::sched::SHUTDOWN_POWEROFF {
        log::info!("dom0 has powered off: switching the machine off");
        power_off()
    } else if reason == abi::sched::SHUTDOWN_REBOOT || restarts() {
        log::info!("dom0 has ended (reason {reason}): restarting the machine");
        reboot()
    } else {
        log::info!("dom0 has ended (reason {reason}): noreboot, halted");
        halt()
    }
}

/// Does the machine restart by itself, after a panic or when dom0 has crashed?
pub fn restarts() -> bool {
    !NO_REBOOT.load(Relaxed)
}

/// After a panic.
pub fn after_panic() -> ! {
    if restarts() { reboot() } else { halt() }
}

/// Stop for ever.
pub fn halt() -> ! {
    console::flush();
    stop_others();
    park()
}

/// Stop this CPU for ever.
pub fn park() -> ! {
    x86_64::instructions::interrupts::disable();
    machine::disable();
    loop {
        x86_64::instructions::hlt();
    }
}

/// Registers need time to act: some 100 ms on real hardware, and an emulator whose machine is busy may need more.
fn wait() {
    const PATIENCE_NS: u64 = 1_000_000_000;
    let end = time::now_ns() + PATIENCE_NS;
    while time::now_ns() < end {
        core::hint::spin_loop();
    }
}

/// S5 (ACPI 6.5, 4.8.3.2.1 and 16.1.6), or what an emulator without ACPI offers.
pub fn power_off() -> ! {
    console::flush();
    stop_others();
    const SLEEP_ENABLE: u16 = 1 << 13;
    const SLEEP_TYPE_SHIFT: u32 = 10;
    let info = acpi::info();
    if let Some(types) = info.s5 {
        for (port, kind) in info.pm1_control.into_iter().zip(types) {
            let Some(port) = port else { continue };
            let mut control = Port::<u16>::new(port);
            // SAFETY: the FADT says that this is the register to write; its other bits are kept.
            unsafe {
                let kept = control.read() & !(SLEEP_ENABLE | 7 << SLEEP_TYPE_SHIFT);
                control.write(kept | u16::from(kind & 7) << SLEEP_TYPE_SHIFT | SLEEP_ENABLE);
            }
        }
        wait();
    }
    for &byte in b"Shutdown" {
        // SAFETY: Bochs' own port for this; nothing is there on other machines.
        unsafe { Port::<u8>::new(0x8900).write(byte) };
    }
    log::error!("the machine does not switch itself off: halted");
    halt()
}

/// By the register that ACPI names, the chipset's, the keyboard controller, and at last a triple fault; or beginning with what `reboot=` says.
pub fn reboot() -> ! {
    console::flush();
    stop_others();
    machine::disable();
    let first = FIRST_RESET.get().copied().unwrap_or(Reset::Acpi);
    let ways = [Reset::Acpi, Reset::Pci, Reset::Keyboard, Reset::Triple];
    reset(first);
    for way in ways.into_iter().filter(|&way| way > first) {
        reset(way);
    }
    halt()
}

/// Returns if that does not reset the machine.
fn reset(way: Reset) {
    // SAFETY: these registers do nothing else with these values on PCs, and ACPI's nothing else with its own.
    unsafe {
        match way {
            Reset::Acpi => match acpi::info().reset {
                Some((Place::Port(port), value)) => Port::<u8>::new(port).write(value),
                Some((Place::Memory(at), value)) => paging::map_mmio(at, 1).write_volatile(value),
                None => return,
            },
            Reset::Power | Reset::Pci => {
                // Reset Control Register of Intel's chipsets: system reset, then the edge; bit 3 is for power, too.
                let power = if way == Reset::Power { 1 << 3 } else { 0 };
                Port::<u8>::new(0xcf9).write(0x02 | power);
                Port::<u8>::new(0xcf9).write(0x06 | power);
            }
            Reset::Keyboard => Port::<u8>::new(0x64).write(0xfe),
            Reset::Triple => triple_fault(),
        }
    }
    wait();
}

fn triple_fault() {
    let nothing = x86_64::structures::DescriptorTablePointer {
        limit: 0,
        base: x86_64::VirtAddr::zero(),
    };
    // SAFETY: the triple fault that follows is meant.
    unsafe {
        x86_64::instructions::tables::lidt(&nothing);
        core::arch::asm!("int3");
    }
}
