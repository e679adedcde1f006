//! Debug keys: what a person at the console, or `xl debug-keys`, asks the hypervisor to print.

use abi::sched::SHUTDOWN_REBOOT;

use crate::arch::GuestCpu;
use crate::arch::apic_page::reg;
use crate::cmdline::CrashTest;
use crate::domain::table;
use crate::domain::vcpu::{Hold, Vcpu};
use crate::hw::console;
use crate::hw::input::Key;
use crate::hw::irq::{self, SoftIrq};
use crate::hw::{percpu, power};
use crate::mm::frames;
use crate::sched;
use crate::sync::{Mutex, Once, Rank};
use crate::types::{DomId, PAGE_SHIFT};
use crate::virt::Described;

/// Keys, and what each prints.
const KEYS: [(u8, &str, fn()); 7] = [
    (b'C', "crash: what a panic prints", crash),
    (b'R', "reboot the machine", reboot),
    (b'd', "registers of all vCPUs", registers),
    (b'h', "this help", help),
    (b'm', "memory", memory),
    (b'q', "domains and their vCPUs", domains),
    (
        b'r',
        "CPUs: who runs, how many wait, the next deadline",
        sched::report,
    ),
];

/// Act on what was typed for the hypervisor.
pub fn typed() {
    while let Some(key) = console::take_key() {
        match key {
            Key::Debug(key) => handle(key),
            Key::Switched { here, letter } => {
                let to = if here { "Oxen" } else { "dom0" };
                log::info!("serial input to {to} (type CTRL-{letter} three times to switch)");
            }
        }
    }
}

/// Act on a key; one that is not known prints the help.
pub fn handle(key: u8) {
    let action = KEYS
        .iter()
        .find(|(known, ..)| *known == key)
        .map_or(help as fn(), |(.., action)| *action);
    action();
}

fn help() {
    for (key, what, _) in KEYS {
        log::info!("key '{}': {what}", char::from(key));
    }
}

/// `crash_test=`: what [`crash`] does.
static CRASH_TEST: Once<CrashTest> = Once::new();

/// Have debug key `C` do something else than a plain panic.
pub fn set_crash_test(test: CrashTest) {
    CRASH_TEST.call_once(|| test);
}

fn crash() {
    match CRASH_TEST.get() {
        Some(CrashTest::Hang) => hang(),
        Some(CrashTest::LockOrder) => lock_out_of_order(),
        #[cfg(target_os = "none")]
        Some(&CrashTest::Tsc(seconds)) => return spoil_tsc(seconds),
        _ => {}
    }
    panic!("asked for by debug key 'C'");
}

/// What looks at the TSC is for that: this CPU's timer fires, or the next beat comes.
#[cfg(target_os = "none")]
fn spoil_tsc(seconds: i64) {
    if crate::hw::time::spoil_tsc(seconds) {
        irq::raise(SoftIrq::TIMER);
    }
}

/// What the check of [`Rank`] is for.
fn lock_out_of_order() {
    let (first, second) = (Mutex::new(Rank::Events, ()), Mutex::new(Rank::P2m, ()));
    let _second = second.lock();
    drop(first.lock());
}

#[inline(never)]
fn hang() -> ! {
    log::info!("CPU {} hangs", percpu::id());
    loop {
        core::hint::spin_loop();
    }
}

/// A slow line does not make a CPU that hangs.
fn made_progress() {
    #[cfg(target_os = "none")]
    crate::hw::watchdog::beat();
}

fn reboot() {
    power::machine_down(SHUTDOWN_REBOOT);
}

fn memory() {
    let mib = |frames: u64| frames >> (20 - PAGE_SHIFT);
    log::info!(
        "memory: {} MiB, {} MiB free ({} frames)",
        mib(frames::total_count()),
        mib(frames::free_count()),
        frames::free_count()
    );
}

fn domains() {
    let mut next = Some(DomId::DOM0);
    while let Some(domain) = next.take().and_then(table::next_from) {
        log::info!(
            "{}: {} of {} pages, {:?}{}{}",
            domain.id,
            domain.total_pages(),
            domain.max_pages(),
            domain.life(),
            if domain.is_paused() { ", paused" } else { "" },
            if domain.shutdown_reason().is_some() {
                ", shut down"
            } else {
                ""
            }
        );
        for vcpu in domain.vcpus() {
            made_progress();
            let state = match () {
                () if vcpu.entity.running() => "running",
                () if vcpu.held_by(Hold::DOWN) => "down",
                () if vcpu.held_by(Hold::BLOCKED | Hold::POLLING) => "blocked",
                () if vcpu.paused() => "paused",
                () => "ready",
            };
            log::info!(
                "  v{}: {state} on CPU {}, ran {} ms, {}upcall pending, asked for: {:?}",
                vcpu.id.0,
                vcpu.entity.cpu(),
                vcpu.entity.run_time() / 1_000_000,
                if vcpu.events.upcall_pending() { "" } else { "no " },
                vcpu.requests(),
            );
        }
        next = domain.id.0.checked_add(1).map(DomId);
    }
}

/// Each CPU logs those that it has: who waited here for another CPU might be waited for there.
fn registers() {
    let mut next = Some(DomId::DOM0);
    while let Some(domain) = next.take().and_then(table::next_from) {
        for vcpu in domain.vcpus().iter().filter(|vcpu| vcpu.is_initialised()) {
            match sched::look_at(vcpu, |private| log_registers(vcpu, private.cpu.as_dyn())) {
                Ok(()) => {}
                Err(id) if id == percpu::id() => irq::raise(SoftIrq::REGISTERS),
                Err(id) => irq::raise_on(id, SoftIrq::REGISTERS),
            }
        }
        next = domain.id.0.checked_add(1).map(DomId);
    }
}

/// Log the registers of the vCPU that was left on this CPU, which runs none.
pub fn log_registers_left() {
    sched::look_at_loaded(|vcpu, private| log_registers(vcpu, private.cpu.as_dyn()));
}

/// Log the registers of a vCPU that has stopped, or that runs here.
pub fn log_registers(vcpu: &Vcpu, cpu: &mut dyn GuestCpu) {
    made_progress();
    let page = cpu.apic_page();
    let highest = |bitmap| page.highest(bitmap).unwrap_or(0);
    let (requested, in_service) = (highest(reg::IRR), highest(reg::ISR));
    log::info!(
        "{}v{}: {}, IRR {requested:#x}, ISR {in_service:#x}",
        vcpu.domid,
        vcpu.id.0,
        Described(cpu)
    );
}
