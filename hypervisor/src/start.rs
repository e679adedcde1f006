//! From the boot loader's last instruction to dom0's first.
// UNSAFETY: takes over the machine's memory.
#![expect(unsafe_code, reason = "takes over the machine's memory")]

use alloc::vec::Vec;
use core::ops::Range;

use boot::Handover;
use bootloader_api::BootInfo;
use bootloader_api::info::MemoryRegionKind;

use crate::arch::machine;
use crate::cmdline::CommandLine;
use crate::domain::dom0::{self, Dom0};
use crate::hw::{apic, console, percpu, power, time, traps};
use crate::mm::{device, frames, phys};
use crate::types::{Hpa, Mfn, PAGE_SHIFT};
use crate::{sched, virt};

/// Frames at the very bottom that stay out of the pool: a page for starting other CPUs, the BIOS data area.
const LOW_KEPT: u64 = 16;

/// The hypervisor's entry, whatever the boot loader was. Runs on the boot stack and the boot page tables.
pub fn kernel_main(info: &'static mut BootInfo, handover: Handover) -> ! {
    console::init(0x3f8);
    let boot_cpu = alloc_boot_cpu();
    percpu::install(boot_cpu);
    log::info!(
        "Oxen {} ({}, by {:?})",
        env!("CARGO_PKG_VERSION"),
        handover.path,
        handover.loader
    );
    log::info!("command line: {}", handover.command_line);
    let options = crate::cmdline::parse(handover.command_line);
    if options.noreboot {
        power::set_no_reboot();
    }
    let ram = take_memory(info);
    traps::init();
    time::init();
    apic::init();
    log::info!(
        "time: TSC {} MHz; local APIC: {}",
        time::clock().khz() / 1000,
        apic::describe()
    );
    sched::init(1);
    if let Err(missing) = machine::probe() {
        stop(format_args!("this machine cannot run guests: {}", missing.0));
    }
    if let Err(error) = machine::enable() {
        stop(format_args!("virtualization cannot be switched on: {error:?}"));
    }
    log::info!("virtualization: {:?}", machine::nested_format());
    build_dom0(&handover, &ram, &options);
    virt::run_cpu()
}

fn stop(why: core::fmt::Arguments<'_>) -> ! {
    log::error!("{why}");
    power::halt()
}

/// The first CPU's block: a static, since there is no heap yet.
fn alloc_boot_cpu() -> &'static percpu::PerCpu {
    static BOOT_CPU: percpu::PerCpu = percpu::PerCpu::new(0, 0);
    &BOOT_CPU
}

/// Give the free RAM to the frame allocator. Returns all RAM, in bytes.
fn take_memory(info: &BootInfo) -> Vec<Range<u64>> {
    let mut free: arrayvec::ArrayVec<Range<Mfn>, 64> = arrayvec::ArrayVec::new();
    for region in info.memory_regions.iter() {
        log::info!(
            "memory {:#014x}..{:#014x} {:?}",
            region.start,
            region.end,
            region.kind
        );
        if region.kind == MemoryRegionKind::Usable {
            let start = region.start.div_ceil(1 << PAGE_SHIFT).max(LOW_KEPT);
            let end = region.end >> PAGE_SHIFT;
            if start < end && free.try_push(Mfn(start)..Mfn(end)).is_err() {
                log::warn!("more memory regions than expected: the rest is not used");
                break;
            }
        }
    }
    // SAFETY: the boot loader's map says that these are RAM which nobody uses, each once; they lie in the direct map.
    unsafe { frames::init(&free) };
    let mut ram: Vec<Range<u64>> = Vec::new();
    for region in info.memory_regions.iter() {
        if matches!(
            region.kind,
            MemoryRegionKind::Usable | MemoryRegionKind::Bootloader
        ) {
            match ram.last_mut() {
                Some(last) if last.end == region.start => last.end = region.end,
                _ => ram.push(region.start..region.end),
            }
        }
    }
    let mut kept: Vec<Range<Mfn>> = ram
        .iter()
        .map(|range| Mfn(range.start >> PAGE_SHIFT)..Mfn(range.end >> PAGE_SHIFT))
        .collect();
    // I/O APICs and local APICs.
    kept.push(Mfn(0xfec00)..Mfn(0xfef00));
    device::keep(kept);
    ram
}

fn build_dom0(handover: &Handover, ram: &[Range<u64>], options: &CommandLine<'_>) {
    let Some(kernel) = handover.modules.first() else {
        stop(format_args!(
            "no dom0: the boot loader brought no module (the first is dom0's kernel, the second its ramdisk)"
        ));
    };
    let bytes = |module: &boot::Module| {
        // SAFETY: the loader put the module there, its memory is in nobody's pool, and nobody writes to it.
        unsafe { core::slice::from_raw_parts(phys::ptr(Hpa(module.start)), module.len as usize) }
    };
    let free = frames::free_count() << PAGE_SHIFT;
    let dom0 = Dom0 {
        kernel: bytes(kernel),
        command_line: kernel.command_line,
        ramdisk: handover.modules.get(1).map(bytes),
        ram,
        memory: options.dom0_mem.size.map_or(free / 2, |size| size.of(free)) & !0x1f_ffff,
        vcpus: options.dom0_max_vcpus.map_or(1, |(_, most)| most).max(1),
    };
    match dom0.build() {
        Ok(domain) => dom0::start(&domain),
        Err(error) => stop(format_args!("dom0 cannot be built: {error}")),
    }
}
