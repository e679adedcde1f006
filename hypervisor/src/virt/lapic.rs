//! The local APIC that guests see (SDM 3A, chapter 11): xAPIC through memory and x2APIC through MSRs, no APIC virtualization by hardware.
//!
//! [`SharedLapic`] is what other CPUs write: interrupts that arrive, INIT and start-up messages. [`Lapic`] is the rest, which only the vCPU's own CPU
//! touches. What a destination matches ([`SharedLapic::address`]) is published by the owner for senders to read.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use super::{Running, ioapic, time};
use crate::arch::regs::SegmentAttr;
use crate::arch::{Event, GuestCpu, Segment, SegmentReg, SysReg};
use crate::domain::vcpu::{Hold, NEVER, Request, Vcpu};
use crate::types::VcpuId;
use crate::{hw, sched};

/// Where the xAPIC's registers are at reset.
pub const DEFAULT_BASE: u64 = 0xfee0_0000;
/// Nanoseconds of a tick of the timer's undivided clock, as Xen has it.
const BUS_CYCLE: u64 = 10;
/// Nanoseconds from one tick of a periodic timer to the next, at least: a guest cannot have more of the CPU's time spent on its timer.
const MIN_PERIOD: u64 = 100_000;

/// Register offsets of the xAPIC's page; an x2APIC's MSR is 0x800 + offset / 16.
mod reg {
    pub const ID: u32 = 0x20;
    pub const VERSION: u32 = 0x30;
    pub const TPR: u32 = 0x80;
    pub const PPR: u32 = 0xa0;
    pub const EOI: u32 = 0xb0;
    pub const LDR: u32 = 0xd0;
    pub const DFR: u32 = 0xe0;
    pub const SVR: u32 = 0xf0;
    pub const ISR: u32 = 0x100;
    pub const TMR: u32 = 0x180;
    pub const IRR: u32 = 0x200;
    pub const ESR: u32 = 0x280;
    pub const ICR: u32 = 0x300;
    pub const ICR_HIGH: u32 = 0x310;
    pub const LVT_TIMER: u32 = 0x320;
    pub const LVT_ERROR: u32 = 0x370;
    pub const TIMER_INITIAL: u32 = 0x380;
    pub const TIMER_CURRENT: u32 = 0x390;
    pub const TIMER_DIVIDE: u32 = 0x3e0;
    pub const SELF_IPI: u32 = 0x3f0;
}

/// Version 0x14 with six LVT entries: what Xen says.
const VERSION: u32 = 0x0005_0014;
const SVR_ENABLED: u32 = 1 << 8;
const LVT_MASKED: u32 = 1 << 16;
const LVT_COUNT: usize = 6;
/// Bits of each LVT entry that can be written: timer, thermal, performance, LINT0, LINT1, error.
const LVT_WRITABLE: [u32; LVT_COUNT] = [
    0x0007_00ff,
    0x0001_07ff,
    0x0001_07ff,
    0x0001_a7ff,
    0x0001_a7ff,
    0x0001_00ff,
];
const TIMER_MODE: u32 = 3 << 17;
const TIMER_PERIODIC: u32 = 1 << 17;
const TIMER_TSC_DEADLINE: u32 = 2 << 17;

/// IA32_APIC_BASE.
mod base {
    pub const BSP: u64 = 1 << 8;
    pub const X2APIC: u64 = 1 << 10;
    pub const ENABLED: u64 = 1 << 11;
    pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
}

/// The part of a local APIC that others write.
#[derive(Debug)]
pub struct SharedLapic {
    irr: [AtomicU32; 8],
    /// Interrupts that are levels: an I/O APIC waits for their ends.
    tmr: [AtomicU32; 8],
    /// INIT waits (bit 31), start-up message waits (bit 30), its vector (bits 0..8).
    startup: AtomicU32,
    /// See [`Address::pack`].
    address: AtomicU64,
}

const INIT_PENDING: u32 = 1 << 31;
const SIPI_PENDING: u32 = 1 << 30;

impl SharedLapic {
    /// The shared part of `own`, to which nothing has come yet.
    pub fn new(own: &Lapic) -> Self {
        Self {
            irr: Default::default(),
            tmr: Default::default(),
            startup: AtomicU32::new(0),
            address: AtomicU64::new(own.address().pack()),
        }
    }

    /// An interrupt of `vector` arrives. (The caller then makes the vCPU look: `Request::INTERRUPT`.)
    pub fn raise(&self, vector: u8) {
        self.irr[usize::from(vector / 32)].fetch_or(1 << (vector % 32), SeqCst);
    }

    /// The interrupt of `vector`, which the caller raises then, is a level.
    pub fn set_level(&self, vector: u8) {
        self.tmr[usize::from(vector / 32)].fetch_or(1 << (vector % 32), SeqCst);
    }

    /// Was the interrupt of `vector` a level? It has ended.
    fn take_level(&self, vector: u8) -> bool {
        let (word, bit) = (&self.tmr[usize::from(vector / 32)], 1 << (vector % 32));
        word.load(SeqCst) & bit != 0 && word.fetch_and(!bit, SeqCst) & bit != 0
    }

    /// Is it meant by `destination`?
    pub fn answers_to(&self, destination: u32, logical: bool) -> bool {
        Address::unpack(self.address.load(SeqCst)).matches(destination, logical)
    }

    fn highest_pending(&self) -> Option<u8> {
        (0..8).rev().find_map(|word| {
            let bits = self.irr[word].load(SeqCst);
            (bits != 0).then(|| (word * 32) as u8 + 31 - bits.leading_zeros() as u8)
        })
    }

    fn take(&self, vector: u8) {
        self.irr[usize::from(vector / 32)].fetch_and(!(1 << (vector % 32)), SeqCst);
    }
}

/// What a local APIC answers to as a destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Address {
    id: u32,
    logical: u32,
    x2apic: bool,
    /// DFR says flat, not cluster, model (xAPIC only).
    flat: bool,
}

impl Address {
    fn pack(self) -> u64 {
        u64::from(self.logical)
            | u64::from(self.id & 0x3fff_ffff) << 32
            | u64::from(self.x2apic) << 62
            | u64::from(self.flat) << 63
    }

    fn unpack(word: u64) -> Self {
        Self {
            id: (word >> 32) as u32 & 0x3fff_ffff,
            logical: word as u32,
            x2apic: word & 1 << 62 != 0,
            flat: word & 1 << 63 != 0,
        }
    }

    /// SDM 3A, 11.6.2 and 11.12.9.
    fn matches(self, destination: u32, logical: bool) -> bool {
        let broadcast = if self.x2apic { u32::MAX } else { 0xff };
        match (logical, self.x2apic) {
            _ if destination == broadcast => true,
            (false, _) => destination == self.id,
            (true, true) => {
                self.logical >> 16 == destination >> 16 && self.logical & destination & 0xffff != 0
            }
            (true, false) if self.flat => (self.logical >> 24) & destination & 0xff != 0,
            (true, false) => {
                let own = self.logical >> 24;
                own >> 4 == (destination >> 4) & 15 && own & destination & 15 != 0
            }
        }
    }
}

/// The part of a local APIC that its own vCPU works with.
#[derive(Debug)]
pub struct Lapic {
    id: u32,
    base: u64,
    tpr: u32,
    svr: u32,
    ldr: u32,
    dfr: u32,
    isr: [u32; 8],
    esr: u32,
    icr: u64,
    lvt: [u32; LVT_COUNT],
    timer_initial: u32,
    timer_divide: u32,
    /// System time at which the timer was started, in nanoseconds.
    timer_start: u64,
    /// IA32_TSC_DEADLINE, in the guest's TSC.
    tsc_deadline: u64,
}

/// A register that does not exist, or a value that it does not take: #GP from the MSR interface, ignored by the memory interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused;

impl Lapic {
    /// A local APIC after reset, enabled in xAPIC mode, as PVH guests find it.
    pub fn new(vcpu: VcpuId) -> Self {
        let bsp = if vcpu.0 == 0 { base::BSP } else { 0 };
        Self {
            id: pvh::acpi::apic_id(vcpu.0),
            base: DEFAULT_BASE | base::ENABLED | bsp,
            tpr: 0,
            svr: 0xff,
            ldr: 0,
            dfr: u32::MAX,
            isr: [0; 8],
            esr: 0,
            icr: 0,
            lvt: [LVT_MASKED; LVT_COUNT],
            timer_initial: 0,
            timer_divide: 0,
            timer_start: 0,
            tsc_deadline: 0,
        }
    }

    /// IA32_APIC_BASE.
    pub fn base_msr(&self) -> u64 {
        self.base
    }

    /// Is `gpa` in the page of the registers?
    pub fn owns(&self, gpa: crate::types::Gpa) -> bool {
        self.base & (base::ENABLED | base::X2APIC) == base::ENABLED
            && gpa.0 & !0xfff == self.base & base::ADDRESS
    }

    fn x2apic(&self) -> bool {
        self.base & base::X2APIC != 0
    }

    /// SDM 3A, 11.12.10.2.
    fn x2apic_ldr(&self) -> u32 {
        (self.id >> 4) << 16 | 1 << (self.id & 15)
    }

    fn accepts(&self) -> bool {
        self.base & base::ENABLED != 0 && self.svr & SVR_ENABLED != 0
    }

    fn highest_in_service(&self) -> u32 {
        (0..8)
            .rev()
            .find_map(|word| {
                (self.isr[word] != 0).then(|| word as u32 * 32 + 31 - self.isr[word].leading_zeros())
            })
            .unwrap_or(0)
    }

    /// SDM 3A, 11.8.3.1.
    fn ppr(&self) -> u32 {
        let serviced = self.highest_in_service();
        if self.tpr >> 4 >= serviced >> 4 {
            self.tpr
        } else {
            serviced & 0xf0
        }
    }

    fn address(&self) -> Address {
        Address {
            id: self.id,
            logical: self.ldr,
            x2apic: self.x2apic(),
            flat: self.dfr >> 28 == 0xf,
        }
    }

    fn divider(&self) -> u64 {
        // Bits 0, 1 and 3 are log2(divider) - 1, wrapping.
        let bits = (self.timer_divide & 3) | (self.timer_divide >> 1 & 4);
        1 << ((bits + 1) & 7)
    }

    fn period(&self) -> u64 {
        u64::from(self.timer_initial) * BUS_CYCLE * self.divider()
    }

    fn timer_mode(&self) -> u32 {
        self.lvt[0] & TIMER_MODE
    }

    /// SDM 3A, 11.5.4: counts down to 0, then stays there (one-shot) or begins again.
    fn current_count(&self, now: u64) -> u32 {
        let period = self.period();
        if period == 0 || self.timer_mode() == TIMER_TSC_DEADLINE {
            return 0;
        }
        let elapsed = now.wrapping_sub(self.timer_start);
        let left = if self.timer_mode() == TIMER_PERIODIC {
            period - elapsed % period
        } else {
            period.saturating_sub(elapsed)
        };
        (left / (BUS_CYCLE * self.divider())) as u32
    }

    fn read(&self, offset: u32, shared: &SharedLapic, now: u64) -> Result<u32, Refused> {
        let x2apic = self.x2apic();
        Ok(match offset {
            reg::ID if x2apic => self.id,
            reg::ID => self.id << 24,
            reg::VERSION => VERSION,
            reg::TPR => self.tpr,
            reg::PPR => self.ppr(),
            reg::LDR => self.ldr,
            reg::DFR if !x2apic => self.dfr,
            reg::SVR => self.svr,
            reg::ISR..reg::TMR => self.isr[word(offset)],
            reg::TMR..reg::IRR => shared.tmr[word(offset)].load(SeqCst),
            reg::IRR..reg::ESR => shared.irr[word(offset)].load(SeqCst),
            reg::ESR => self.esr,
            reg::ICR => self.icr as u32,
            reg::ICR_HIGH if !x2apic => (self.icr >> 32) as u32,
            reg::LVT_TIMER..=reg::LVT_ERROR => self.lvt[((offset - reg::LVT_TIMER) / 16) as usize],
            reg::TIMER_INITIAL => self.timer_initial,
            reg::TIMER_CURRENT => self.current_count(now),
            reg::TIMER_DIVIDE => self.timer_divide,
            _ => return Err(Refused),
        })
    }
}

fn word(offset: u32) -> usize {
    (offset / 16 % 8) as usize
}

/// A read from the page of registers.
pub fn mmio_read(running: &mut Running<'_, dyn GuestCpu>, offset: u32) -> u32 {
    take_priority(running);
    running
        .lapic
        .read(offset & !0xf, &running.vcpu.apic, hw::time::now_ns())
        .unwrap_or(0)
}

/// A write to the page of registers; what does not exist ignores it.
pub fn mmio_write(running: &mut Running<'_, dyn GuestCpu>, offset: u32, value: u32) {
    let _ = write(running, offset & !0xf, value);
}

/// RDMSR of IA32_APIC_BASE's neighbours 0x800..0x900.
///
/// # Errors
/// Not in x2APIC mode, or no such register.
pub fn rdmsr(running: &mut Running<'_, dyn GuestCpu>, msr: u32) -> Result<u64, Refused> {
    let offset = (msr - 0x800) * 16;
    if !running.lapic.x2apic() || matches!(offset, reg::EOI | reg::SELF_IPI | reg::DFR | reg::ICR_HIGH) {
        return Err(Refused);
    }
    if offset == reg::ICR {
        return Ok(running.lapic.icr);
    }
    take_priority(running);
    running
        .lapic
        .read(offset, &running.vcpu.apic, hw::time::now_ns())
        .map(u64::from)
}

/// WRMSR of 0x800..0x900.
///
/// # Errors
/// Not in x2APIC mode, no such register, read-only, or reserved bits set.
pub fn wrmsr(running: &mut Running<'_, dyn GuestCpu>, msr: u32, value: u64) -> Result<(), Refused> {
    let offset = (msr - 0x800) * 16;
    if !running.lapic.x2apic() {
        return Err(Refused);
    }
    if offset == reg::ICR {
        return send_ipi(running, value, (value >> 32) as u32);
    }
    let low = u32::try_from(value).map_err(|_| Refused)?;
    match offset {
        reg::ID | reg::LDR | reg::DFR | reg::ICR_HIGH => Err(Refused),
        reg::EOI | reg::ESR if low != 0 => Err(Refused),
        reg::SELF_IPI => {
            raise(running.vcpu, low as u8);
            Ok(())
        }
        _ => write(running, offset, low),
    }
}

/// WRMSR of IA32_APIC_BASE.
///
/// # Errors
/// A transition that SDM 3A, 11.12.5 forbids, or reserved bits.
pub fn write_base(running: &mut Running<'_, dyn GuestCpu>, value: u64) -> Result<(), Refused> {
    let lapic = &mut *running.lapic;
    let mode = base::ENABLED | base::X2APIC;
    if value & !(base::ADDRESS | mode | base::BSP) != 0 || value & mode == base::X2APIC {
        return Err(Refused);
    }
    let (old, new) = (lapic.base & mode, value & mode);
    if (old == mode && new == base::ENABLED) || (old == 0 && new == mode) {
        return Err(Refused);
    }
    lapic.base = value & !base::BSP | lapic.base & base::BSP;
    if old != mode && new == mode {
        lapic.ldr = lapic.x2apic_ldr();
    }
    running.vcpu.apic.address.store(lapic.address().pack(), SeqCst);
    Ok(())
}

fn write(running: &mut Running<'_, dyn GuestCpu>, offset: u32, value: u32) -> Result<(), Refused> {
    let lapic = &mut *running.lapic;
    match offset {
        reg::TPR => {
            lapic.tpr = value & 0xff;
            running.cpu.write(SysReg::Cr8, u64::from(lapic.tpr >> 4));
            running.vcpu.request(Request::INTERRUPT);
        }
        reg::EOI => end_of_interrupt(running),
        reg::LDR => {
            lapic.ldr = value & 0xff00_0000;
            publish(running);
        }
        reg::DFR => {
            lapic.dfr = value | 0x0fff_ffff;
            publish(running);
        }
        reg::SVR => {
            let was_enabled = lapic.svr & SVR_ENABLED != 0;
            lapic.svr = value & 0x1ff;
            if value & SVR_ENABLED == 0 {
                lapic.lvt.iter_mut().for_each(|entry| *entry |= LVT_MASKED);
            } else if !was_enabled {
                // What came while it was off, upcalls among it, has been kept (SDM 3A, 11.4.7.2).
                running.vcpu.request(Request::INTERRUPT);
            }
        }
        reg::ESR => lapic.esr = 0,
        reg::ICR => {
            let destination = (lapic.icr >> 56) as u32;
            let command = lapic.icr & !0xffff_ffff | u64::from(value);
            return send_ipi(running, command, destination);
        }
        reg::ICR_HIGH => lapic.icr = lapic.icr & 0xffff_ffff | u64::from(value & 0xff00_0000) << 32,
        reg::LVT_TIMER..=reg::LVT_ERROR => {
            write_lvt(running, ((offset - reg::LVT_TIMER) / 16) as usize, value)
        }
        reg::TIMER_INITIAL => {
            lapic.timer_initial = value;
            start_timer(running);
        }
        reg::TIMER_DIVIDE => divide_timer(running, value & 0xb),
        _ => return Err(Refused),
    }
    Ok(())
}

fn publish(running: &mut Running<'_, dyn GuestCpu>) {
    running
        .vcpu
        .apic
        .address
        .store(running.lapic.address().pack(), SeqCst);
}

fn write_lvt(running: &mut Running<'_, dyn GuestCpu>, index: usize, value: u32) {
    let lapic = &mut *running.lapic;
    let mut entry = value & LVT_WRITABLE[index];
    if lapic.svr & SVR_ENABLED == 0 {
        entry |= LVT_MASKED;
    }
    let mode_changed = index == 0 && (entry ^ lapic.lvt[0]) & TIMER_MODE != 0;
    lapic.lvt[index] = entry;
    if mode_changed {
        // SDM 3A, 11.5.4.1: switching to or from TSC-deadline disarms the timer.
        lapic.timer_initial = 0;
        lapic.tsc_deadline = 0;
        set_deadline(running.vcpu, NEVER);
    }
}

fn set_deadline(vcpu: &Arc<Vcpu>, deadline: u64) {
    vcpu.timers.lapic.store(deadline, SeqCst);
    sched::timers_changed(vcpu);
}

fn start_timer(running: &mut Running<'_, dyn GuestCpu>) {
    let lapic = &mut *running.lapic;
    if lapic.timer_mode() == TIMER_TSC_DEADLINE {
        return;
    }
    lapic.timer_start = hw::time::now_ns();
    let deadline = if lapic.period() == 0 {
        NEVER
    } else {
        lapic.timer_start.saturating_add(lapic.period())
    };
    set_deadline(running.vcpu, deadline);
}

/// Another divider: a timer that runs goes on from its current count at the new rate.
fn divide_timer(running: &mut Running<'_, dyn GuestCpu>, divide: u32) {
    let lapic = &mut *running.lapic;
    let now = hw::time::now_ns();
    let left = lapic.current_count(now);
    lapic.timer_divide = divide;
    if left != 0 {
        let until = u64::from(left) * BUS_CYCLE * lapic.divider();
        lapic.timer_start = now.wrapping_add(until).wrapping_sub(lapic.period());
        set_deadline(running.vcpu, now.saturating_add(until));
    }
}

/// RDMSR of IA32_TSC_DEADLINE.
pub fn tsc_deadline(lapic: &Lapic) -> u64 {
    if lapic.timer_mode() == TIMER_TSC_DEADLINE {
        lapic.tsc_deadline
    } else {
        0
    }
}

/// WRMSR of IA32_TSC_DEADLINE: 0 disarms; ignored in other modes (SDM 3A, 11.5.4.1).
pub fn set_tsc_deadline(running: &mut Running<'_, dyn GuestCpu>, value: u64) {
    if running.lapic.timer_mode() == TIMER_TSC_DEADLINE {
        running.lapic.tsc_deadline = value;
        let deadline = if value == 0 {
            NEVER
        } else {
            time::system_time_of(running.vcpu, value)
        };
        set_deadline(running.vcpu, deadline);
    }
}

/// The timer's deadline has passed: raise its interrupt, and go on if it is periodic.
pub(super) fn timer_expired(running: &mut Running<'_, dyn GuestCpu>, deadline: u64, now: u64) {
    let lapic = &mut *running.lapic;
    let mut next = NEVER;
    match lapic.timer_mode() {
        TIMER_PERIODIC => {
            // From deadline to deadline, so that nothing drifts; ticks that were missed are one.
            let period = lapic.period().max(BUS_CYCLE);
            let missed = now.saturating_sub(deadline) / period;
            lapic.timer_start = deadline.saturating_add(missed.saturating_mul(period));
            next = lapic
                .timer_start
                .saturating_add(period)
                .max(now.saturating_add(MIN_PERIOD));
        }
        TIMER_TSC_DEADLINE => lapic.tsc_deadline = 0,
        _ => {}
    }
    running.vcpu.timers.lapic.store(next, SeqCst);
    let entry = running.lapic.lvt[0];
    if entry & LVT_MASKED == 0 {
        raise(running.vcpu, entry as u8);
    }
}

/// An interrupt of `vector` for `vcpu`.
pub(super) fn raise(vcpu: &Arc<Vcpu>, vector: u8) {
    if vector >= 16 {
        vcpu.apic.raise(vector);
        vcpu.request(Request::INTERRUPT);
    }
}

fn end_of_interrupt(running: &mut Running<'_, dyn GuestCpu>) {
    let highest = running.lapic.highest_in_service();
    if let Some(word) = running.lapic.isr.get_mut((highest / 32) as usize) {
        *word &= !(1 << (highest % 32));
    }
    if running.vcpu.apic.take_level(highest as u8) {
        ioapic::end_of_interrupt(running.domain, highest as u8);
    }
    if running.vcpu.apic.highest_pending().is_some() {
        running.vcpu.request(Request::INTERRUPT);
    }
}

/// SDM 3A, 11.6.1. `icr` is kept for reading back.
fn send_ipi(running: &mut Running<'_, dyn GuestCpu>, icr: u64, destination: u32) -> Result<(), Refused> {
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

/// Before its first entry after a start-up IPI: registers as after INIT (SDM 3A, table 10-1), CS from the vector.
#[inline(never)]
pub(super) fn startup(running: &mut Running<'_, dyn GuestCpu>) {
    let message = running.vcpu.apic.startup.swap(0, SeqCst);
    if message & SIPI_PENDING == 0 {
        return;
    }
    *running.lapic = Lapic {
        base: running.lapic.base,
        ..Lapic::new(running.vcpu.id)
    };
    if running.lapic.x2apic() {
        running.lapic.ldr = running.lapic.x2apic_ldr();
    }
    publish(running);
    let cpu = &mut *running.cpu;
    let page = u64::from(message as u8) << 12;
    *cpu.gprs() = Default::default();
    cpu.gprs().rdx = 0xf00;
    let real_mode =
        |kind: u16| SegmentAttr::from_bits_retain(kind) | SegmentAttr::NON_SYSTEM | SegmentAttr::PRESENT;
    let data = Segment {
        selector: 0,
        attr: real_mode(3),
        limit: 0xffff,
        base: 0,
    };
    for segment in [
        SegmentReg::Ds,
        SegmentReg::Es,
        SegmentReg::Fs,
        SegmentReg::Gs,
        SegmentReg::Ss,
    ] {
        cpu.set_segment(segment, data);
    }
    cpu.set_segment(
        SegmentReg::Cs,
        Segment {
            selector: (page >> 4) as u16,
            attr: real_mode(0xb),
            limit: 0xffff,
            base: page,
        },
    );
    let system = |kind: u16| Segment {
        selector: 0,
        attr: SegmentAttr::from_bits_retain(kind) | SegmentAttr::PRESENT,
        limit: 0xffff,
        base: 0,
    };
    cpu.set_segment(SegmentReg::Ldtr, system(2));
    cpu.set_segment(SegmentReg::Tr, system(0xb));
    for (register, value) in [
        (SysReg::Efer, 0),
        (SysReg::Cr0, 0x10),
        (SysReg::Cr2, 0),
        (SysReg::Cr3, 0),
        (SysReg::Cr4, 0),
        (SysReg::Cr8, 0),
        (SysReg::Rflags, 2),
        (SysReg::Rsp, 0),
        (SysReg::Dr6, pvh::entry::DR6),
        (SysReg::Dr7, pvh::entry::DR7),
        (SysReg::GdtrBase, 0),
        (SysReg::GdtrLimit, 0xffff),
        (SysReg::IdtrBase, 0),
        (SysReg::IdtrLimit, 0xffff),
    ] {
        cpu.write(register, value);
    }
    cpu.set_rip(0);
}

/// Is there an interrupt that the guest would take if it let interrupts in?
pub fn has_deliverable(running: &mut Running<'_, dyn GuestCpu>) -> bool {
    take_priority(running);
    next(running).is_some()
}

fn next(running: &Running<'_, dyn GuestCpu>) -> Option<u8> {
    let vector = pending(running)?;
    (vector >> 4 > running.lapic.ppr() as u8 >> 4).then_some(vector)
}

/// The highest interrupt that waits, whatever the priorities.
fn pending(running: &Running<'_, dyn GuestCpu>) -> Option<u8> {
    running
        .vcpu
        .apic
        .highest_pending()
        .filter(|_| running.lapic.accepts())
}

/// The guest's CR8 is the upper half of the task priority, and changes without an exit (SDM 3A, 11.8.6).
fn take_priority(running: &mut Running<'_, dyn GuestCpu>) {
    let class = (running.cpu.read(SysReg::Cr8) as u32) & 0xf;
    if running.lapic.tpr >> 4 != class {
        running.lapic.tpr = class << 4;
    }
}

/// Deliver the highest interrupt that the priorities allow, now or as soon as the guest can take one.
pub(super) fn deliver(running: &mut Running<'_, dyn GuestCpu>) {
    take_priority(running);
    let Some(vector) = pending(running) else {
        return running.cpu.request_priority_window(None);
    };
    let class = vector >> 4;
    // What the one in service holds back comes with the guest's EOI.
    let by_priority = running.lapic.tpr as u8 >> 4 >= class;
    running.cpu.request_priority_window(by_priority.then_some(class));
    if class <= running.lapic.ppr() as u8 >> 4 {
        return;
    }
    if running.cpu.interruptible() {
        running.vcpu.apic.take(vector);
        running.lapic.isr[usize::from(vector / 32)] |= 1 << (vector % 32);
        running.cpu.inject(Event::interrupt(vector));
    } else {
        running.cpu.request_interrupt_window(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations() {
        let flat = Address {
            id: 4,
            logical: 0x0400_0000,
            x2apic: false,
            flat: true,
        };
        assert!(flat.matches(4, false) && !flat.matches(5, false) && flat.matches(0xff, false));
        assert!(flat.matches(0x06, true) && !flat.matches(0x03, true));
        let cluster = Address {
            flat: false,
            logical: 0x2400_0000,
            ..flat
        };
        assert!(cluster.matches(0x2c, true) && !cluster.matches(0x14, true) && !cluster.matches(0x23, true));
        let x2apic = Address {
            id: 18,
            logical: 1 << 16 | 1 << 2,
            x2apic: true,
            flat: true,
        };
        assert!(
            x2apic.matches(0x1_0006, true) && !x2apic.matches(0x2_0004, true) && !x2apic.matches(0xff, false)
        );
        assert!(x2apic.matches(u32::MAX, false) && x2apic.matches(18, false));
        assert_eq!(Address::unpack(x2apic.pack()), x2apic);
        assert_eq!(Address::unpack(cluster.pack()), cluster);
    }

    #[test]
    fn priorities() {
        let mut lapic = Lapic::new(VcpuId(1));
        assert_eq!(lapic.id, 2);
        lapic.isr[0x55 / 32] |= 1 << (0x55 % 32);
        assert_eq!(lapic.ppr(), 0x50);
        lapic.tpr = 0x61;
        assert_eq!(lapic.ppr(), 0x61);
    }

    #[test]
    fn timer_counts_down() {
        let mut lapic = Lapic::new(VcpuId(0));
        lapic.timer_initial = 100;
        lapic.timer_divide = 0xb; // by 1
        assert_eq!(lapic.period(), 1000);
        assert_eq!(lapic.current_count(250), 75);
        assert_eq!(lapic.current_count(5000), 0);
        lapic.lvt[0] = TIMER_PERIODIC;
        assert_eq!(lapic.current_count(1250), 75);
        lapic.timer_divide = 0; // by 2
        assert_eq!(lapic.period(), 2000);
    }

    #[test]
    fn pending_interrupts_by_priority() {
        let shared = SharedLapic::new(&Lapic::new(VcpuId(0)));
        assert_eq!(shared.highest_pending(), None);
        shared.raise(0x31);
        shared.raise(0xf3);
        assert_eq!(shared.highest_pending(), Some(0xf3));
        shared.take(0xf3);
        assert_eq!(shared.highest_pending(), Some(0x31));
    }

    #[test]
    fn unknown_registers_are_refused() {
        let lapic = Lapic::new(VcpuId(0));
        let shared = SharedLapic::new(&Lapic::new(VcpuId(0)));
        for offset in (0..0x1000).step_by(16) {
            let known = lapic.read(offset, &shared, 0).is_ok();
            assert_eq!(
                known,
                matches!(offset, 0x20 | 0x30 | 0x80 | 0xa0 | 0xd0..=0xf0 | 0x100..=0x280 | 0x300..=0x390 | 0x3e0),
                "{offset:#x}"
            );
        }
    }
}
