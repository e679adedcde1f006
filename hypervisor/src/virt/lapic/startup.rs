//! A CPU after a start-up message.

use core::sync::atomic::Ordering::SeqCst;

use super::icr::SIPI_PENDING;
use super::registers::changed;
use super::timer::disarm;
use crate::arch::regs::SegmentAttr;
use crate::arch::{GuestCpu, Segment, SegmentReg, SysReg};
use crate::virt::Running;

/// Before its first entry after a start-up IPI: registers as after INIT (SDM 3A, table 10-1), CS from the vector.
#[inline(never)]
pub(in crate::virt) fn startup(running: &mut Running<'_, dyn GuestCpu>) {
    let message = running.vcpu.apic.startup.swap(0, SeqCst);
    if message & SIPI_PENDING == 0 {
        return;
    }
    running.lapic.reset(running.cpu.apic_page());
    running.vcpu.apic.clear();
    disarm(running);
    changed(running);
    let cpu = &mut *running.cpu;
    // One that was to be delivered yet would be by what the CPU is from here on: in real mode, with interrupts off, which fails the entry.
    cpu.forget_events();
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
        (SysReg::Dr0, 0),
        (SysReg::Dr1, 0),
        (SysReg::Dr2, 0),
        (SysReg::Dr3, 0),
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
