//! Debug keys: what a person at the console, or `xl debug-keys`, asks the hypervisor to print. `loglvl=` does not matter to it.

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::SeqCst;

use abi::event_channel::VIRQ_DEBUG;
use abi::sched::SHUTDOWN_REBOOT;

use crate::arch::GuestCpu;
use crate::arch::apic_page::reg;
use crate::cmdline::CrashTest;
use crate::domain::vcpu::{Hold, Vcpu};
use crate::domain::{Domain, table};
use crate::event::{self, Binding, Channel};
use crate::hw::console;
use crate::hw::input::Key;
use crate::hw::irq::{self, SoftIrq};
use crate::hw::{ioapic, percpu, power, time};
use crate::mm::frames;
use crate::sched;
use crate::sync::{Mutex, Once, Rank};
use crate::types::{DomId, PAGE_SHIFT, Port};
use crate::virt::Described;

/// Keys, and what each prints.
const KEYS: [(u8, &str, fn()); 11] = [
    (b'0', "registers of dom0's vCPUs", dom0_registers),
    (b'C', "crash: what a panic prints", crash),
    (b'R', "reboot the machine", reboot),
    (b'd', "registers of all vCPUs", registers),
    (b'e', "event channels", event_channels),
    (b'g', "grant tables", grants),
    (b'h', "this help", help),
    (b'i', "lines of the machine's I/O APICs that are in use", lines),
    (b'm', "memory", memory),
    (b'q', "domains and their vCPUs, which get VIRQ_DEBUG", domains),
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

/// Act on a key; one that is not known does nothing, as on Xen.
pub fn handle(key: u8) {
    if let Some((.., action)) = KEYS.iter().find(|(known, ..)| *known == key) {
        action();
    }
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
        #[cfg(target_os = "none")]
        Some(CrashTest::Fault) => crate::hw::traps::fault(),
        Some(CrashTest::Stack) => log::info!("a stack of {} calls", deepen(0)),
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

/// Calls itself until there is no stack left.
#[inline(never)]
fn deepen(calls: u64) -> u64 {
    let frame = core::hint::black_box([calls; 32]);
    match frame[0] {
        u64::MAX => calls,
        _ => deepen(calls + 1).max(frame[1]),
    }
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
    each_domain(|domain| {
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
            // Guests say more of themselves then, as they do on Xen.
            event::raise_virq(domain, vcpu.id, VIRQ_DEBUG);
        }
    });
}

/// Do something for each domain.
fn each_domain(work: impl Fn(&Domain)) {
    let mut next = Some(DomId::DOM0);
    while let Some(domain) = next.take().and_then(table::next_from) {
        work(&domain);
        next = domain.id.0.checked_add(1).map(DomId);
    }
}

/// Most ports of a domain that are logged.
const PORTS: u32 = 64;

fn event_channels() {
    each_domain(|domain| {
        let events = &domain.events;
        log::info!("{}: {} ports bound", domain.id, events.bound());
        let bound = (1..events.limit()).filter_map(|port| {
            let channel = events.get(Port(port)).ok()?;
            (channel.binding != Binding::Free).then_some((port, channel))
        });
        for (port, Channel { binding, vcpu }) in bound.take(PORTS as usize) {
            made_progress();
            let pending = event::any_pending(domain, &[Port(port)]);
            log::info!(
                "  port {port}: {binding:?} to v{}{}",
                vcpu.0,
                if pending { ", pending" } else { "" }
            );
        }
        if events.bound() > PORTS {
            log::info!("  and others");
        }
    });
}

fn grants() {
    each_domain(|domain| {
        made_progress();
        let grants = &domain.grants;
        let (frames, most) = grants.table.size();
        let (mapped, most_mapped) = grants.mapped();
        log::info!(
            "{}: grant table of version {:?}, {frames} of {most} frames; {mapped} of {most_mapped} grants of others mapped",
            domain.id,
            grants.table.version(),
        );
    });
}

fn lines() {
    for place in ioapic::places() {
        log::info!(
            "I/O APIC {} at {}, lines {} to {}",
            place.id,
            place.base,
            place.gsi_base,
            place.gsi_base + place.lines - 1
        );
        for gsi in place.gsi_base..place.gsi_base + place.lines {
            if let Some((user, entry)) = ioapic::user_of(gsi) {
                made_progress();
                log::info!("  line {gsi}: {user}, redirection {entry:#018x}");
            }
        }
    }
}

fn registers() {
    each_domain(registers_of);
    wait_for_others();
}

fn dom0_registers() {
    if let Some(dom0) = table::get(DomId::DOM0) {
        registers_of(&dom0);
    }
    wait_for_others();
}

/// CPUs that were asked to log registers, and have not yet.
static ASKED: AtomicU32 = AtomicU32::new(0);

/// Have CPU `id` log the registers that it has.
fn ask(id: u32) {
    ASKED.fetch_add(1, SeqCst);
    if !irq::raise_on(id, SoftIrq::REGISTERS) {
        answered();
    }
}

fn answered() {
    ASKED.fetch_sub(1, SeqCst);
}

/// Who asked for registers has them when it goes on: this CPU logs its own before it enters a guest. Unless another CPU waits for what this one has, and not for
/// ever where none answers: another may wait here at the same time, for this one.
fn wait_for_others() {
    const PATIENCE_NS: u64 = 1_000_000_000;
    let mut end = time::now_ns() + PATIENCE_NS;
    let mut left = ASKED.load(SeqCst);
    while left > u32::from(irq::raised(SoftIrq::REGISTERS)) && !irq::raised(SoftIrq::EVICT) {
        let now = ASKED.load(SeqCst);
        if now != left {
            (left, end) = (now, time::now_ns() + PATIENCE_NS);
            made_progress();
        } else if time::now_ns() >= end {
            break;
        }
        core::hint::spin_loop();
    }
    made_progress();
}

/// Each CPU logs those that it has.
fn registers_of(domain: &Domain) {
    for vcpu in domain.vcpus().iter().filter(|vcpu| vcpu.is_initialised()) {
        match sched::look_at(vcpu, |private| log_registers(vcpu, private.cpu.as_dyn())) {
            Ok(()) => {}
            Err(id) => ask(id),
        }
    }
}

/// As this CPU was asked to, log the registers of the vCPU that was left on it; it runs none.
pub fn log_registers_left() {
    sched::look_at_loaded(|vcpu, private| log_registers(vcpu, private.cpu.as_dyn()));
    answered();
}

/// As this CPU was asked to, log the registers of the vCPU that it runs.
pub fn log_registers_running(vcpu: &Vcpu, cpu: &mut dyn GuestCpu) {
    log_registers(vcpu, cpu);
    answered();
}

/// Log the registers of a vCPU that has stopped, or that runs here.
fn log_registers(vcpu: &Vcpu, cpu: &mut dyn GuestCpu) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypercall::testing::World;
    use crate::types::VcpuId;

    #[test]
    fn key_q_reaches_the_vcpus_that_want_it() {
        let world = World::new();
        let domain = &world.domain;
        let port = event::bind_virq(domain, VIRQ_DEBUG, VcpuId(1)).expect("a port");
        assert!(!event::any_pending(domain, &[port]));
        handle(b'q');
        assert!(event::any_pending(domain, &[port]));
    }
}
