//! A guest CPU without a CPU, for tests: registers are memory, and exits are what the test has queued.
// UNSAFETY: as the other back ends, gets a pointer to itself.
#![expect(unsafe_code, reason = "gets a pointer to itself")]

use std::collections::{HashMap, VecDeque};

use super::apic_page::ApicPage;
use super::regs::{CpuMode, Gprs, Segment, SegmentReg, SysReg};
use super::{ApicMode, Event, Exit, Flush, GuestCpu, Left};

/// The third back end.
pub struct Vcpu {
    /// How [`GuestCpu::run`] ends, one after the other; then it halts for good.
    pub exits: VecDeque<Exit>,
    /// What was injected.
    pub injected: Vec<Event>,
    /// How often it was told to flush.
    pub flushes: usize,
    /// What [`GuestCpu::delivering`] says.
    pub delivering: Option<Event>,
    /// Is an interrupt welcome?
    pub interruptible: bool,
    /// What [`GuestCpu::cpl`] says.
    pub cpl: u8,
    /// What [`GuestCpu::mode`] says.
    pub mode: CpuMode,
    /// What [`GuestCpu::instruction_len`] says.
    pub length: Option<u8>,
    /// What the hardware was told to do of the local APIC.
    pub apic_mode: ApicMode,
    apic_page: Box<ApicPage>,
    gprs: Gprs,
    rip: u64,
    registers: HashMap<u32, u64>,
    segments: HashMap<u32, Segment>,
}

impl Vcpu {
    /// All registers zero: paging is off, so that linear addresses are physical.
    pub fn new() -> Self {
        Self {
            exits: VecDeque::new(),
            injected: Vec::new(),
            flushes: 0,
            delivering: None,
            interruptible: true,
            cpl: 0,
            mode: CpuMode::Long,
            length: Some(3),
            apic_mode: ApicMode::Emulated,
            apic_page: Box::default(),
            gprs: Gprs::default(),
            rip: 0,
            registers: HashMap::new(),
            segments: HashMap::new(),
        }
    }
}

impl Default for Vcpu {
    fn default() -> Self {
        Self::new()
    }
}

impl GuestCpu for Vcpu {
    unsafe fn run(this: *mut Self) -> Left {
        // SAFETY: the caller's, and there are no calls.
        let exits = unsafe { &mut (*this).exits };
        match exits.front() {
            Some(Exit::Hypercall) => {
                exits.pop_front();
                Left::Hypercall
            }
            _ => Left::Exit(0),
        }
    }
    fn exit(&mut self, _code: u64) -> Exit {
        self.exits.pop_front().unwrap_or_else(|| {
            self.length = Some(1);
            self.write(SysReg::Rflags, 0);
            Exit::Halt
        })
    }
    fn gprs(&mut self) -> &mut Gprs {
        &mut self.gprs
    }
    fn rip(&self) -> u64 {
        self.rip
    }
    fn set_rip(&mut self, rip: u64) {
        self.rip = rip;
    }
    fn instruction_len(&self) -> Option<u8> {
        self.length
    }
    fn skip(&mut self, len: u8) {
        self.rip = self.rip.wrapping_add(len.into());
    }
    fn cpl(&self) -> u8 {
        self.cpl
    }
    fn mode(&self) -> CpuMode {
        self.mode
    }
    fn read(&self, reg: SysReg) -> u64 {
        self.registers.get(&(reg as u32)).copied().unwrap_or(0)
    }
    fn write(&mut self, reg: SysReg, value: u64) {
        self.registers.insert(reg as u32, value);
    }
    fn segment(&self, reg: SegmentReg) -> Segment {
        self.segments.get(&(reg as u32)).copied().unwrap_or_default()
    }
    fn set_segment(&mut self, reg: SegmentReg, segment: Segment) {
        self.segments.insert(reg as u32, segment);
    }
    fn apic_page(&self) -> &ApicPage {
        &self.apic_page
    }
    fn virtualize_apic(&mut self, mode: ApicMode) {
        self.apic_mode = mode;
    }
    fn delivering(&self) -> Option<Event> {
        self.delivering
    }
    fn inject(&mut self, event: Event) {
        self.injected.push(event);
    }
    fn forget_events(&mut self) {
        self.injected.clear();
    }
    fn interruptible(&self) -> bool {
        self.interruptible
    }
    fn nmi_allowed(&self) -> bool {
        true
    }
    fn request_interrupt_window(&mut self, _on: bool) {}
    fn request_priority_window(&mut self, _class: Option<u8>) {}
    fn request_nmi_window(&mut self, _on: bool) -> bool {
        true
    }
    fn set_tsc_offset(&mut self, _offset: u64) {}
    fn set_tsc_multiplier(&mut self, _multiplier: u64) {}
    fn emulate_tsc(&mut self, _on: bool) {}
    fn set_preemption_timer(&mut self, _time: u64) {}
    fn flush(&mut self, _what: Flush) {
        self.flushes += 1;
    }
    fn load(&mut self) {}
    fn unload(&mut self) {}
    fn describe(&self, out: &mut dyn core::fmt::Write) {
        let _ = write!(out, "fake, rip {:#x}", self.rip);
    }
}
