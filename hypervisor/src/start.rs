//! From the boot loader's last instruction to dom0's first.
// UNSAFETY: borrows the boot modules.
#![expect(unsafe_code, reason = "borrows the boot modules")]

use alloc::vec::Vec;

use boot::Handover;
use bootloader_api::BootInfo;

use crate::arch::{machine, speculation};
use crate::bring_up::{Machine, bring_up, own_registers};
use crate::domain;
use crate::domain::dom0::{self, Dom0};
use crate::grant;
use crate::hw::percpu::MAX_CPUS;
use crate::hw::watchdog::{self, Trial};
use crate::hw::{acpi, power, smp, time};
use crate::mm::{device, frames, phys, takeover};
use crate::types::{Hpa, PAGE_SHIFT};
use crate::{sched, virt};

/// The hypervisor's entry, whatever the boot loader was. Runs on the boot stack and the boot page tables.
pub fn kernel_main(info: &'static mut BootInfo, handover: Handover) -> ! {
    let host = bring_up(info, &handover);
    let mut kept: Vec<_> = host
        .ram
        .iter()
        .map(|run| Hpa(run.start).frame()..Hpa(run.end).frame())
        .collect();
    kept.extend(own_registers().map(|page| page.frame()..page.frame().offset(1)));
    device::keep(kept);
    sched::init(
        acpi::info().cpus.len().clamp(1, MAX_CPUS),
        host.options.granularity,
    );
    if let Some(limit) = host.options.rate_limit_us {
        sched::set_rate_limit(u64::from(limit) * 1000);
    }
    grant::set_limits(host.options.grant_limits);
    let defences = speculation::init(host.options.defences);
    if let Err(missing) = machine::probe(host.options.apicv, host.options.large_code) {
        stop(format_args!("this machine cannot run guests: {}", missing.0));
    }
    if let Err(error) = machine::enable() {
        stop(format_args!("virtualization cannot be switched on: {error}"));
    }
    log::info!("guests        {}", machine::describe());
    log::info!("speculation   {defences}");
    smp::start_others(&host.options, &host.ram);
    if host.options.bench_floor {
        log_floor();
    }
    if !time::trusts_tsc() {
        sched::begin_to_beat_everywhere(true);
    } else if time::watch_tsc() {
        sched::begin_to_beat_everywhere(false);
    }
    build_dom0(&host);
    if let Some(timeout) = host.options.watchdog.filter(|&timeout| timeout > 0) {
        watch(timeout, host.options.watchdog_force);
    }
    virt::run_cpu()
}

fn watch(timeout: u32, force: bool) {
    const TIMER_IRQ: u8 = 0;
    match watchdog::start(timeout, acpi::info().isa_line(TIMER_IRQ)) {
        Trial::Works => log::info!("watchdog      by NMI, {timeout} s"),
        Trial::Silent if force => {
            log::warn!("watchdog      by NMI, {timeout} s, by force: none has come from the PIT so far");
        }
        Trial::Silent | Trial::NoLine => {
            watchdog::stop();
            log::warn!("watchdog      off: no NMI comes from the PIT");
            return;
        }
    }
    sched::begin_to_beat_everywhere(true);
}

fn log_floor() {
    match machine::floor() {
        Ok((bare, ours)) => {
            if let Some(bare) = bare {
                log::info!("floor         {bare} TSC ticks for a bare world switch");
            }
            log::info!("floor         {ours} TSC ticks for a world switch by the back end's interface");
        }
        Err(failure) => log::warn!("floor         not measured: {failure:?}"),
    }
}

fn stop(why: core::fmt::Arguments<'_>) -> ! {
    log::error!("{why}");
    power::halt()
}

/// dom0 has its own copies: what whole pages the modules have is memory for domains.
fn free_modules(modules: &[boot::Module]) {
    for pages in modules.iter().map(takeover::whole_pages) {
        let count = pages.end.0 - pages.start.0;
        // SAFETY: RAM of the module alone, which nobody reads any more. (Where no zone spans it, it is not worth one.)
        unsafe {
            phys::zero(pages.start, count);
            let _ = frames::add(pages.start, count);
        }
    }
}

fn build_dom0(host: &Machine) {
    let options = &host.options;
    let Some(kernel) = host.modules.first() else {
        stop(format_args!(
            "no dom0: the boot loader brought no module (the first is dom0's kernel, the second its ramdisk)"
        ));
    };
    let bytes = |module: &boot::Module| {
        // SAFETY: the loader put the module there, its memory is in nobody's pool, and nobody writes to it.
        unsafe { core::slice::from_raw_parts(phys::ptr(Hpa(module.start)), module.len as usize) }
    };
    let free = frames::free_count() << PAGE_SHIFT;
    let memory = options.dom0_mem.amount(free) & !0x1f_ffff;
    if memory == 0 {
        stop(format_args!(
            "dom0_mem= leaves dom0 less than 2 MiB (a number without a unit is KiB, as in Xen: dom0_mem=512M)"
        ));
    }
    let dom0 = Dom0 {
        kernel: bytes(kernel),
        command_line: kernel.command_line,
        ramdisk: host.modules.get(1).map(bytes),
        ram: &host.ram,
        all_ram: &host.all_ram,
        memory,
        max_pages: options.dom0_mem.max_pages(free),
        vcpus: options
            .dom0_vcpus(sched::online_cpus().count() as u32)
            .min(domain::MAX_VCPUS),
        console: &options.console_ports(),
    };
    match dom0.build() {
        Ok(domain) => {
            free_modules(&host.modules);
            if options.dom0_vcpus_pin {
                sched::pool::pin_each(&domain);
            }
            dom0::start(&domain);
        }
        Err(error) => stop(format_args!("dom0 cannot be built: {error}")),
    }
}
