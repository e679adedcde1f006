//! From the boot loader to a machine that is the hypervisor's own: console, memory, exceptions, interrupts, time.
// UNSAFETY: takes over the machine's memory.
#![expect(unsafe_code, reason = "takes over the machine's memory")]

use arrayvec::ArrayVec;
use boot::found::{BootError, MAX_MODULES};
use boot::{Handover, Module};
use bootloader_api::BootInfo;
use bootloader_api::info::{MemoryRegion, MemoryRegionKind};
use raw_cpuid::CpuId;

use crate::arch::errata;
use crate::cmdline::{self, CommandLine, CrashTest};
use crate::debug_keys;
use crate::hw::irq::vector;
use crate::hw::{acpi, apic, console, idle, ioapic, percpu, power, remapping, smp, time, traps};
use crate::hypercall::version;
use crate::mm::{frames, paging, phys, takeover};
use crate::sync::Once;
use crate::types::{Hpa, PAGE_SHIFT};

/// What is known once the machine is up.
#[derive(Debug)]
pub struct Machine {
    /// The command line.
    pub options: CommandLine<'static>,
    /// All RAM, whoever uses it: ascending, apart, in bytes.
    pub ram: takeover::Runs,
    /// The same with what `mem=` leaves out.
    pub all_ram: takeover::Runs,
    /// The boot modules, where they are now.
    pub modules: ArrayVec<Module, MAX_MODULES>,
}

/// Do it. Runs on the boot stack and the boot page tables; returns on the same stack and the final tables, interrupts off.
///
/// # Panics
/// There is not even memory for page tables.
pub fn bring_up(info: &BootInfo, handover: &Handover) -> Machine {
    install_boot_cpu();
    traps::begin();
    errata::fix();
    version::set_command_line(handover.command_line);
    let options = cmdline::parse(handover.command_line);
    console::init(&options);
    if options.noreboot {
        power::set_no_reboot();
    }
    power::set_first_reset(options.reset);
    let tables = acpi::init(&handover.rsdps);
    if time::init().is_none() {
        cannot_go_on(format_args!(
            "how fast does the TSC tick? There is no PM timer, HPET or PIT that runs, and CPUID (15H, 16H) does not say"
        ));
    }
    if let Some(test) = options.crash_test {
        debug_keys::set_crash_test(test);
        match test {
            CrashTest::Skew => smp::skew_clocks(),
            CrashTest::Adjust => smp::misadjust_clocks(),
            _ => {}
        }
    }
    greet(handover, &options);
    let all_ram = takeover::ram(&info.memory_regions, u64::MAX);
    // SAFETY: the first thing done to memory, with what the boot loader said; modules have not been looked at.
    let taken = unsafe { takeover::take_over(&info.memory_regions, handover, options.memory_end) };
    let (plan, ram) = taken.expect("memory for page tables");
    traps::init();
    // From here on, a panic sends what waits.
    if !options.sync_console {
        console::queue();
    }
    log_memory(&info.memory_regions);
    if let Some(size) = options.log_size
        && !console::enlarge_ring(size)
    {
        log::warn!(
            "conring_size={}K: not enough memory, so less of the log is kept",
            size >> 10
        );
    }
    log_kept(&plan, &ram);
    let beyond: u64 = all_ram
        .iter()
        .map(|run| run.end.saturating_sub(run.start.max(phys::RAM_END)))
        .sum();
    if beyond > 0 {
        log::warn!(
            "{} MiB of RAM above {:#x} are not used",
            beyond >> 20,
            phys::RAM_END
        );
    }
    if !tables {
        log::warn!("ACPI has no tables that can be used: going on with one CPU and no power management");
    }
    log_cpu();
    log::info!("idle          by {}", idle::init(options.mwait_idle));
    interrupts(&options);
    Machine {
        options,
        ram,
        all_ram,
        modules: plan.modules,
    }
}

/// What the boot loader left is of no use: say so on COM1, as there is no command line to name another port, and halt.
pub fn cannot_start(error: BootError) -> ! {
    install_boot_cpu();
    console::init(&cmdline::parse(""));
    cannot_go_on(format_args!("{error}"))
}

/// Too early for the log's first line, for other CPUs, and for the console to send later what it is told.
fn cannot_go_on(why: core::fmt::Arguments<'_>) -> ! {
    log::error!("Oxen {} cannot start: {why}. Halted.", env!("CARGO_PKG_VERSION"));
    power::park()
}

fn install_boot_cpu() {
    static BOOT_CPU: Once<percpu::PerCpu> = Once::new();
    percpu::install(BOOT_CPU.call_once(|| percpu::PerCpu::new(0, apic_id())));
}

/// This CPU's APIC number, before its APIC is on (SDM 2A, CPUID leaves 1 and 0xB).
fn apic_id() -> u32 {
    let cpuid = CpuId::new();
    let extended = cpuid
        .get_extended_topology_info()
        .and_then(|mut levels| levels.next());
    match extended {
        Some(level) => level.x2apic_id(),
        None => cpuid
            .get_feature_info()
            .map_or(0, |f| u32::from(f.initial_local_apic_id())),
    }
}

fn greet(handover: &Handover, options: &CommandLine<'_>) {
    log::info!("Oxen {}", env!("CARGO_PKG_VERSION"));
    let by = if handover.loader.is_empty() {
        "an unnamed loader"
    } else {
        handover.loader
    };
    log::info!("boot          {} by {by}", handover.path);
    log::info!("command line  {}", handover.command_line);
    for complaint in &options.complaints {
        log::warn!("{complaint}");
    }
}

fn log_memory(map: &[MemoryRegion]) {
    use boot::memory::e820;
    for region in map {
        let kind = match region.kind {
            MemoryRegionKind::Usable => "RAM",
            MemoryRegionKind::Bootloader => "RAM, image and modules",
            MemoryRegionKind::UnknownBios(e820::ACPI) => "ACPI tables",
            MemoryRegionKind::UnknownBios(e820::NVS) => "ACPI, kept over sleep",
            MemoryRegionKind::UnknownBios(e820::UNUSABLE) => "broken",
            _ => "reserved",
        };
        log::info!(
            "memory map    {:#014x} - {:#014x}  {kind}",
            region.start,
            region.end
        );
    }
}

fn log_kept(plan: &takeover::Plan, ram: &takeover::Runs) {
    const MIB: u64 = 1 << 20;
    let total: u64 = ram.iter().map(|run| run.end - run.start).sum();
    let free = frames::free_count() << PAGE_SHIFT;
    let modules: u64 = plan.modules.iter().map(|module| module.len).sum();
    let image = plan.image.end - plan.image.start;
    log::info!(
        "memory        {} MiB of RAM, {} MiB free for domains",
        total / MIB,
        free / MIB
    );
    log::info!("image         at {:#x}, {} KiB", plan.image.start, image / 1024);
    for module in &plan.modules {
        log::info!(
            "module        at {:#x}, {} KiB{}{}",
            module.start,
            module.len / 1024,
            if module.command_line.is_empty() { "" } else { ": " },
            module.command_line
        );
    }
    log::debug!(
        "kept          {} KiB beside image and modules",
        (total - free).saturating_sub(modules + image) / 1024
    );
}

fn log_cpu() {
    let cpuid = CpuId::new();
    let vendor = cpuid.get_vendor_info();
    let brand = cpuid.get_processor_brand_string();
    let brand = brand.as_ref().map_or("", |brand| brand.as_str().trim());
    let (family, model, stepping) = cpuid
        .get_feature_info()
        .map_or((0, 0, 0), |f| (f.family_id(), f.model_id(), f.stepping_id()));
    log::info!(
        "CPU           {brand} ({}, family {family:#x} model {model:#x} stepping {stepping})",
        vendor.as_ref().map_or("", |vendor| vendor.as_str()),
    );
    log::info!("CPU           protections: {}", paging::protections());
}

/// Interrupt controllers, clock and timer.
fn interrupts(options: &CommandLine<'_>) {
    let found = acpi::info();
    remapping::switch_off(&found.remapping_units);
    ioapic::silence_8259s();
    for &(base, first) in &found.io_apics {
        let lines = ioapic::add(base, first);
        log::debug!("I/O APIC      at {base}, lines {first} to {}", first + lines - 1);
    }
    paging::map_mmio(apic::registers(), 4096);
    if options.prefers_pm_timer {
        time::prefer_pm_timer();
    }
    let substitute = options.tsc_unstable.then(time::distrust_tsc);
    let as_wished = apic::choose(options.x2apic);
    apic::init();
    log::info!(
        "time          TSC {}.{:03} MHz",
        time::clock().khz() / 1000,
        time::clock().khz() % 1000
    );
    match substitute {
        Some(Some(substitute)) => {
            log::warn!("tsc=unstable: time is {substitute}'s; guests' reads of the TSC exit")
        }
        Some(None) => log::warn!("tsc=unstable: there is no other clock"),
        None => {}
    }
    log::info!(
        "interrupts    {}, {} I/O APIC(s)",
        apic::describe(),
        found.io_apics.len()
    );
    if let Some(revision) = errata::missing_deadline_microcode() {
        log::warn!(
            "timer         one-shot: TSC deadlines need microcode {revision:#x} on this CPU, by a newer firmware"
        );
    }
    match options.x2apic {
        Some(true) if !as_wished => log::warn!("x2apic=yes: the CPU has none"),
        Some(false) if !as_wished => {
            log::warn!("x2apic=no: firmware has switched it on, and there is no way back")
        }
        None if found.no_x2apic => {
            log::info!("x2APIC        not if firmware does not begin: so says its table DMAR")
        }
        _ => {}
    }
    let ports = options.console_ports();
    let routed: ArrayVec<u8, 2> = ports
        .iter()
        .map(|port| port.irq)
        .filter(|&irq| irq != 0 && ioapic::route(found.isa_line(irq), vector::CONSOLE))
        .collect();
    if !console::enable_interrupts(&routed) && !ports.is_empty() {
        log::warn!("console       no interrupt: there will be no input");
    }
}

/// The memory that the hypervisor's registers take, which no domain may have: local and I/O APICs, remapping units, and the HPET, by which time may
/// have to go.
pub fn own_registers() -> impl Iterator<Item = Hpa> {
    acpi::info()
        .io_apics
        .iter()
        .map(|(base, _)| *base)
        .chain([apic::registers()])
        .chain(acpi::info().hpet)
        .chain(acpi::info().remapping_units.iter().copied())
}
