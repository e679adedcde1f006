//! The local APIC as a guest and as the run loop see it.

use core::sync::atomic::Ordering::SeqCst;

use super::icr::{SELF, SIPI_PENDING};
use super::*;
use crate::arch::apic_page::{ApicPage, DEFAULT_BASE, reg};
use crate::arch::{ApicMode, Event, GuestCpu, SysReg};
use crate::domain::vcpu::NEVER;
use crate::hypercall::Caller;
use crate::hypercall::testing::World;
use crate::types::VcpuId;

const ENABLED: u64 = 1 << 11;
const X2APIC: u64 = 1 << 10;
const SVR_ON: u32 = 0x1ff;
const ICR_MSR: u32 = 0x830;

impl World {
    fn apic<R>(&mut self, work: impl FnOnce(&mut Caller<'_>) -> R) -> R {
        self.caller(work)
    }

    fn store(&mut self, offset: u32, value: u32) {
        self.apic(|running| mmio_write(running, offset, value));
    }

    fn load(&mut self, offset: u32) -> u32 {
        self.apic(|running| mmio_read(running, offset))
    }

    fn wrmsr(&mut self, msr: u32, value: u64) -> bool {
        self.apic(|running| wrmsr(running, msr, value).is_ok())
    }

    fn base(&mut self, value: u64) -> bool {
        self.apic(|running| write_base(running, value).is_ok())
    }

    fn page(&self) -> &ApicPage {
        self.cpu.apic_page()
    }

    /// What the run loop delivers before an entry.
    fn delivered(&mut self) -> Option<u8> {
        self.cpu.injected.clear();
        self.apic(deliver);
        self.cpu.injected.pop().map(|event| event.vector)
    }

    /// One that the guest has enabled.
    fn enabled() -> World {
        let mut world = World::new();
        world.store(reg::SVR, SVR_ON);
        world
    }

    fn x2apic() -> World {
        let mut world = World::enabled();
        assert!(world.base(DEFAULT_BASE | ENABLED | X2APIC));
        world
    }

    /// Enable another vCPU's.
    fn enable(&self, vcpu: u32) {
        let vcpu = self.domain.vcpu(VcpuId(vcpu)).expect("vcpu");
        vcpu.with_private(|private| {
            private.lapic.enabled = true;
            vcpu.apic
                .publish(private.lapic.address(private.cpu.as_dyn().apic_page()));
        });
    }

    /// Vectors that another vCPU's has to take.
    fn pending(&self, vcpu: u32) -> Vec<u8> {
        let vcpu = self.domain.vcpu(VcpuId(vcpu)).expect("vcpu");
        vcpu.with_private(|private| {
            let page = private.cpu.as_dyn().apic_page();
            vcpu.apic.accept(page);
            let vectors = (0..=u8::MAX)
                .filter(|&vector| page.contains(reg::IRR, vector))
                .collect();
            page.clear();
            vectors
        })
    }
}

#[test]
fn what_is_disabled_takes_nothing_and_holds_what_it_has() {
    let mut world = World::enabled();
    world.cpu.interruptible = false;
    world.store(reg::ICR, SELF | 0x40);
    world.store(reg::LVT_TIMER, 0x61);
    assert_eq!(world.delivered(), None, "it waits for a window");
    world.cpu.interruptible = true;
    world.store(reg::SVR, 0xff);
    assert_eq!(world.load(reg::LVT_TIMER), 0x1_0061, "entries are masked");
    world.store(reg::LVT_TIMER, 0x61);
    assert_eq!(world.load(reg::LVT_TIMER), 0x1_0061, "and stay so");
    world.store(reg::ICR, SELF | 0x50);
    assert_eq!(world.delivered(), None);
    assert_eq!(world.load(reg::IRR + 0x20), 1, "0x40 is held, 0x50 is lost");
    world.store(reg::SVR, SVR_ON);
    assert_eq!(world.delivered(), Some(0x40));
    assert_eq!(world.delivered(), None);
}

#[test]
fn an_upcall_that_was_lost_comes_when_the_apic_is_enabled() {
    let mut world = World::new();
    let vcpu = world.domain.vcpu(VcpuId(0)).expect("first").clone();
    vcpu.upcall_vector.store(0xf3, SeqCst);
    assert!(vcpu.events.mark_upcall_pending());
    vcpu.raise_upcall();
    assert_eq!(world.delivered(), None);
    world.store(reg::SVR, SVR_ON);
    assert_eq!(world.delivered(), Some(0xf3));
    // INIT clears IRR; the guest's flag stays set, and so no event raises another.
    vcpu.raise_upcall();
    vcpu.apic.startup.store(SIPI_PENDING | 7, SeqCst);
    world.apic(startup);
    assert_eq!(world.delivered(), None);
    world.store(reg::SVR, SVR_ON);
    assert_eq!(world.delivered(), Some(0xf3));
}

#[test]
fn what_is_taken_away_comes_back_as_after_a_reset() {
    let mut world = World::enabled();
    world.store(reg::TPR, 0x20);
    let base = world.apic(|running| running.lapic.base_msr());
    assert!(world.base(base & !ENABLED) && world.base(base));
    assert_eq!(
        (
            world.load(reg::SVR),
            world.load(reg::TPR),
            world.cpu.read(SysReg::Cr8)
        ),
        (0xff, 0, 0)
    );
}

#[test]
fn init_leaves_nothing_but_the_base() {
    let mut world = World::x2apic();
    let vcpu = world.domain.vcpu(VcpuId(0)).expect("first").clone();
    assert!(world.wrmsr(0x808, 0x25) && world.wrmsr(0x832, 1 << 17 | 0x61) && world.wrmsr(0x838, 1_000_000));
    assert_ne!(vcpu.timers.lapic.load(SeqCst), NEVER);
    assert_eq!(world.cpu.apic_mode, ApicMode::X2Apic);
    world.cpu.write(SysReg::Dr0, 1);
    world.cpu.inject(Event::interrupt(0x40));
    assert!(world.wrmsr(ICR_MSR, u64::from(SELF) | 0x40));
    vcpu.apic.startup.store(SIPI_PENDING | 7, SeqCst);
    world.apic(startup);
    assert_eq!(vcpu.timers.lapic.load(SeqCst), NEVER);
    assert_eq!(world.cpu.injected, []);
    assert_eq!((world.cpu.read(SysReg::Cr8), world.cpu.read(SysReg::Dr0)), (0, 0));
    assert_eq!(world.cpu.apic_mode, ApicMode::Emulated);
    assert_eq!(
        world.apic(|running| running.lapic.base_msr()),
        DEFAULT_BASE | ENABLED | X2APIC | 1 << 8
    );
    let fresh = ApicPage::new();
    let mut other = Lapic::new(VcpuId(0), &fresh);
    other.base |= X2APIC;
    other.reset(&fresh);
    for offset in (0..0x400).step_by(16) {
        assert_eq!(
            world.page().get_wide(offset),
            fresh.get_wide(offset),
            "{offset:#x}"
        );
    }
    assert!(world.wrmsr(0x80f, SVR_ON.into()));
    assert_eq!(world.delivered(), None, "0x40 is gone");
}

#[test]
fn errors_are_latched_by_a_write() {
    let mut world = World::enabled();
    world.store(reg::LVT_ERROR, 0x71);
    world.store(reg::ICR, SELF | 5);
    assert_eq!(world.delivered(), Some(0x71));
    assert_eq!(world.load(reg::ESR), 0, "not yet written");
    world.store(reg::ESR, 0xffff);
    assert_eq!(world.load(reg::ESR), 0x60, "sent and received an illegal vector");
    assert_eq!(world.load(0x400), 0);
    world.store(0x3f0, 0x40);
    world.store(reg::VERSION, 1);
    assert_eq!(world.load(reg::ESR), 0x60);
    world.store(reg::ESR, 0);
    assert_eq!(
        world.load(reg::ESR),
        0x80,
        "no such registers; one that cannot be written is no error"
    );
    world.store(reg::ESR, 0);
    assert_eq!(world.load(reg::ESR), 0);
    // An error's own vector that is illegal ends somewhere.
    world.store(reg::LVT_ERROR, 3);
    world.load(0x400);
    assert_eq!(world.delivered(), None);
    world.store(reg::ESR, 0);
    assert_eq!(world.load(reg::ESR), 0xc0);
}

#[test]
fn x2apic_registers_have_no_reserved_bits() {
    let mut world = World::x2apic();
    let faults = [
        (0x802, 0),
        (0x803, 0),
        (0x808, 0x100),
        (0x809, 0),
        (0x80a, 0),
        (0x80b, 1),
        (0x80d, 0),
        (0x80e, 0),
        (0x80f, 1 << 12),
        (0x828, 1),
        (ICR_MSR, 1 << 12),
        (ICR_MSR, 1 << 20),
        (0x831, 0),
        (0x832, 1 << 19),
        (0x835, 1 << 17),
        (0x837, 0x400),
        (0x838, 1 << 32),
        (0x839, 0),
        (0x83e, 4),
        (0x83f, 0x100),
        (0x8ff, 0),
    ];
    for (msr, value) in faults {
        assert!(!world.wrmsr(msr, value), "{msr:#x} <- {value:#x}");
    }
    for (msr, value) in [
        (0x80b, 0),
        (0x828, 0),
        (0x832, 1 << 12),
        (0x835, 0x1_5000),
        (0x83e, 0xb),
    ] {
        assert!(world.wrmsr(msr, value), "{msr:#x} <- {value:#x}");
    }
    assert!(world.wrmsr(ICR_MSR, 0x1234_5678_0000_0041));
    let read = |world: &mut World, msr| world.apic(|running| rdmsr(running, msr).ok());
    assert_eq!(read(&mut world, ICR_MSR), Some(0x1234_5678_0000_0041));
    assert_eq!(read(&mut world, 0x80d), Some(1));
    for msr in [0x80b, 0x80e, 0x831, 0x83f, 0x809] {
        assert_eq!(read(&mut world, msr), None, "{msr:#x}");
    }
    assert!(world.wrmsr(0x83f, 0x40));
    assert_eq!(world.delivered(), Some(0x40));
}

#[test]
fn a_local_apic_can_be_taken_away() {
    let mut world = World::enabled();
    let vcpu = world.domain.vcpu(VcpuId(0)).expect("first").clone();
    world.store(reg::TIMER_INITIAL, 1_000_000);
    world.store(reg::ICR, SELF | 0x40);
    assert!(!world.base(DEFAULT_BASE | X2APIC));
    assert!(!world.base(DEFAULT_BASE | ENABLED | 1 << 45));
    assert!(world.base(DEFAULT_BASE));
    assert_eq!(vcpu.timers.lapic.load(SeqCst), NEVER);
    assert!(!world.apic(|running| running.lapic.exists()));
    assert!(!vcpu.apic.answers_to(0, false));
    assert!(!world.base(DEFAULT_BASE | ENABLED | X2APIC));
    assert!(!world.wrmsr(0x808, 0));
    assert!(world.base(DEFAULT_BASE | ENABLED));
    assert_eq!(world.load(reg::SVR), 0xff, "as after a reset");
    world.store(reg::SVR, SVR_ON);
    assert_eq!(world.delivered(), None);
    assert!(vcpu.apic.answers_to(0, false));
}

#[test]
fn the_hardware_is_told_what_to_do() {
    let mut world = World::new();
    assert_eq!(world.cpu.apic_mode, ApicMode::Emulated);
    world.store(reg::SVR, SVR_ON);
    assert_eq!(world.cpu.apic_mode, ApicMode::XApic);
    world.store(reg::SVR, 0xff);
    assert_eq!(world.cpu.apic_mode, ApicMode::Emulated, "interrupts are held");
    world.store(reg::SVR, SVR_ON);
    assert!(world.base(0xfed0_0000 | ENABLED));
    assert_eq!(world.cpu.apic_mode, ApicMode::Emulated, "it is elsewhere");
    assert_eq!(*world.domain.apic_access.lock(), AccessPage::Gone);
    assert!(world.base(0xfed0_0000 | ENABLED | X2APIC));
    assert_eq!(world.cpu.apic_mode, ApicMode::X2Apic);
}

#[test]
fn what_the_hardware_has_written_is_checked() {
    let mut world = World::enabled();
    let write = |world: &mut World, offset, value| {
        world.page().set(offset, value);
        world.apic(|running| written(running, offset));
        world.page().get(offset)
    };
    assert_eq!(write(&mut world, reg::ID, 0x5500_0000), 0);
    assert_eq!(write(&mut world, reg::LDR, 0x1234_5678), 0x1200_0000);
    assert_eq!(write(&mut world, reg::DFR, 0), 0x0fff_ffff);
    assert_eq!(write(&mut world, reg::LVT_LINT0, u32::MAX), 0x0001_a7ff);
    assert_eq!(write(&mut world, reg::TIMER_DIVIDE, u32::MAX), 0xb);
    assert_eq!(write(&mut world, reg::ESR, 0x1234), 0);
    assert_eq!(write(&mut world, reg::LVT_TIMER, 2 << 17 | 0x61), 2 << 17 | 0x61);
    assert_eq!(
        write(&mut world, reg::TIMER_INITIAL, 77),
        0,
        "not in TSC-deadline mode"
    );
    assert_eq!(
        write(&mut world, reg::ICR, !(3 << 18) & !0x700 | SELF),
        0x0004_c8ff
    );
    assert_eq!(world.delivered(), Some(0xff));
    assert_eq!(write(&mut world, reg::SVR, !0x100), 0x2ff);
    assert_eq!(world.cpu.apic_mode, ApicMode::Emulated);
}

#[test]
fn lowest_priority_goes_in_turns_to_those_that_take_interrupts() {
    let mut world = World::enabled();
    const LOWEST: u32 = 1 << 8;
    world.enable(2);
    let broadcast = LOWEST | 0x40;
    let mut counts = [0; 3];
    for _ in 0..6 {
        world.store(reg::ICR_HIGH, 0xff << 24);
        world.store(reg::ICR, broadcast);
        counts[0] += usize::from(world.delivered().is_some());
        world.store(reg::EOI, 0);
        for vcpu in [1, 2] {
            counts[vcpu as usize] += world.pending(vcpu).len();
        }
    }
    assert_eq!(counts, [3, 0, 3]);
}

#[test]
fn shorthands() {
    let mut world = World::enabled();
    world.enable(1);
    world.enable(2);
    for (shorthand, expected) in [
        (1, [true, false, false]),
        (2, [true; 3]),
        (3, [false, true, true]),
    ] {
        world.store(reg::ICR, shorthand << 18 | 0x40);
        let to = [
            world.delivered().is_some(),
            !world.pending(1).is_empty(),
            !world.pending(2).is_empty(),
        ];
        world.store(reg::EOI, 0);
        assert_eq!(to, expected, "{shorthand}");
    }
    // SMI and the reserved modes do nothing; NMI and INIT do not look at the vector.
    for mode in [2, 3, 7] {
        world.store(reg::ICR, SELF | mode << 8 | 0x40);
        assert_eq!(world.delivered(), None);
    }
    world.store(reg::ICR, SELF | 4 << 8);
    world.store(reg::ESR, 0);
    assert_eq!(world.load(reg::ESR), 0);
}

#[test]
fn a_timer_s_mode_is_changed_by_stopping_it() {
    let mut world = World::enabled();
    let vcpu = world.domain.vcpu(VcpuId(0)).expect("first").clone();
    let armed = || vcpu.timers.lapic.load(SeqCst) != NEVER;
    world.store(reg::LVT_TIMER, 0x61);
    world.store(reg::TIMER_DIVIDE, 0xb);
    world.store(reg::TIMER_INITIAL, u32::MAX);
    assert!(armed() && world.load(reg::TIMER_CURRENT) > u32::MAX / 2);
    world.store(reg::LVT_TIMER, 0x62);
    assert!(armed(), "another vector is not another mode");
    world.store(reg::LVT_TIMER, 1 << 17 | 0x61);
    assert!(!armed());
    assert_eq!(
        (world.load(reg::TIMER_INITIAL), world.load(reg::TIMER_CURRENT)),
        (0, 0)
    );
    world.store(reg::TIMER_INITIAL, u32::MAX);
    assert!(armed());
    world.store(reg::LVT_TIMER, 2 << 17 | 0x61);
    assert!(!armed());
    world.apic(|running| set_tsc_deadline(running, u64::MAX >> 9));
    assert!(armed());
    world.apic(|running| {
        set_tsc_deadline(running, 1);
        assert_eq!(tsc_deadline(running.lapic), 1);
        let deadline = running.vcpu.timers.lapic.load(SeqCst);
        assert_ne!(deadline, NEVER);
        timer_expired(running, deadline, deadline);
        assert_eq!(tsc_deadline(running.lapic), 0);
    });
    assert_eq!(world.delivered(), Some(0x61));
    world.apic(|running| set_tsc_deadline(running, u64::MAX >> 9));
    world.store(reg::LVT_TIMER, 0x61);
    assert!(!armed());
    world.apic(|running| {
        set_tsc_deadline(running, 1);
        assert_eq!(tsc_deadline(running.lapic), 0, "not in this mode");
    });
}

#[test]
fn priorities() {
    let mut world = World::enabled();
    world.store(reg::TPR, 0x45);
    assert_eq!(world.cpu.read(SysReg::Cr8), 4);
    assert_eq!((world.load(reg::TPR), world.load(reg::PPR)), (0x45, 0x45));
    world.store(reg::ICR, SELF | 0x4f);
    assert_eq!(world.delivered(), None, "its class is not above the task's");
    world.store(reg::ICR, SELF | 0x51);
    assert_eq!(world.delivered(), Some(0x51));
    assert_eq!(world.load(reg::PPR), 0x50);
    world.cpu.write(SysReg::Cr8, 0);
    assert_eq!(world.load(reg::TPR), 0, "CR8 changes without an exit");
    assert_eq!(world.delivered(), None, "one of the same class is in service");
    world.store(reg::ICR, SELF | 0x61);
    assert_eq!(world.delivered(), Some(0x61), "nested");
    world.store(reg::EOI, 0);
    assert_eq!(world.load(reg::PPR), 0x50);
    assert_eq!(world.delivered(), None);
    world.store(reg::EOI, 0);
    assert_eq!(world.delivered(), Some(0x4f));
    assert_eq!((world.load(reg::APR), world.load(reg::REMOTE_READ)), (0, 0));
}
