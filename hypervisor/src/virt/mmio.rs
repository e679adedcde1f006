//! Guest-physical accesses that the nested page tables do not allow.
//!
//! Behind such an address is the local APIC or an I/O APIC, a page that may only be read, a device that the privileged domain has not touched before, or
//! nothing at all. Nothing reads as all ones and swallows writes, a write to a frame that was granted to be read only is a general-protection fault, as
//! on Xen. The instruction is fetched again and carried out by
//! [`super::emulate`], or refused by a general-protection fault, as on Xen, if that does not know it (no SSE, no AVX); the address is the one that the
//! hardware reported, never one that is computed from registers.

use abi::Errno;
use iced_x86::Register;

use super::emulate::{Operation, Registers};
use super::{Running, decode, ioapic, lapic};
use crate::arch::{Access, CpuMode, Event, GuestCpu, NestedFault, SegmentReg, SysReg};
use crate::domain::Domain;
use crate::mm::p2m::Kind;
use crate::mm::{device, guest};
use crate::types::{Gfn, Gpa, Gva, Mfn, PAGE_SIZE};

/// What is behind an address that is emulated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Target {
    /// The local APIC's page of registers.
    Lapic,
    /// Registers of an I/O APIC.
    IoApic,
    /// Memory that the guest may only read: writes are dropped.
    ReadOnly,
    /// Nothing.
    Nothing,
}

/// What to do about a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// The mapping is there by now.
    Retry,
    /// Carry out the instruction.
    Emulate(Target),
    /// A device of the machine: map it.
    MapDevice,
    /// General protection, as on Xen.
    Refuse,
    /// The guest cannot go on.
    Crash(&'static str),
}

/// Handle a nested fault. RIP is moved on if the instruction was emulated.
pub fn nested_fault(running: &mut Running<'_, dyn GuestCpu>, fault: NestedFault) {
    let gfn = fault.gpa.frame();
    let kind = running.domain.p2m.lookup(gfn).map(|entry| entry.kind);
    let is_device = running.domain.is_privileged() && device::may_map(Mfn(gfn.0));
    let own = if running.lapic.owns(fault.gpa) {
        Some(Target::Lapic)
    } else {
        ioapic::owns(running.domain, fault.gpa).then_some(Target::IoApic)
    };
    if own == Some(Target::Lapic) && kind.is_none() && lapic::map_access_page(running.domain) {
        return;
    }
    match judge(&fault, kind, own, is_device) {
        Verdict::Retry if fault.access == Access::Execute => {
            if let Err(error) = running.domain.p2m.let_execute(gfn) {
                crash(
                    running,
                    &fault,
                    format_args!("no small pages for its code ({error:?})"),
                );
            }
        }
        Verdict::Retry => {}
        // The instruction at RIP has not begun.
        Verdict::Emulate(_) | Verdict::Refuse if running.cpu.delivering().is_some() => {
            crash(
                running,
                &fault,
                format_args!("an event's delivery needs memory where there is none, or none to write"),
            );
        }
        Verdict::Emulate(target) => emulate(running, fault.gpa, target),
        Verdict::Refuse => running.cpu.inject(Event::GP0),
        Verdict::MapDevice => {
            if let Err(error) = map_device(running.domain, gfn) {
                crash(
                    running,
                    &fault,
                    format_args!("cannot map device memory ({error:?})"),
                );
            }
        }
        Verdict::Crash(why) => crash(running, &fault, format_args!("{why}")),
    }
}

/// Map the machine's device page at `gfn`. Another vCPU may have been first, by the same fault.
fn map_device(domain: &Domain, gfn: Gfn) -> Result<(), Errno> {
    match domain.map_mmio(gfn, Mfn(gfn.0), 1) {
        Err(Errno::EBUSY) => Ok(()),
        other => other,
    }
}

/// Pure part of [`nested_fault`]: `kind` is what is mapped there now, `own` and `device` what is there otherwise.
fn judge(fault: &NestedFault, kind: Option<Kind>, own: Option<Target>, device: bool) -> Verdict {
    // The APIC-access page stands for no memory.
    let target = match (kind.filter(|&kind| kind != Kind::ApicAccess), fault.access) {
        (Some(_), Access::Read) => return Verdict::Retry,
        (Some(kind), Access::Write) if kind.writable() => return Verdict::Retry,
        (Some(kind), Access::Execute) if kind.executable() => return Verdict::Retry,
        (Some(_), Access::Execute) => return Verdict::Crash("executes what is not its own memory"),
        (Some(Kind::GrantRo), Access::Write) if !fault.during_walk => return Verdict::Refuse,
        (Some(_), Access::Write) => Target::ReadOnly,
        // Before the device, which is the machine's.
        (None, _) if own.is_none() && device => return Verdict::MapDevice,
        (None, _) => own.unwrap_or(Target::Nothing),
    };
    match fault.access {
        Access::Execute => Verdict::Crash("executes where there is no memory"),
        _ if fault.during_walk => Verdict::Crash("page tables are not in memory that it may write"),
        Access::Read | Access::Write => Verdict::Emulate(target),
    }
}

fn crash(running: &mut Running<'_, dyn GuestCpu>, fault: &NestedFault, why: core::fmt::Arguments<'_>) {
    let at = fault.gpa;
    running.domain.crash(
        running.vcpu,
        running.cpu,
        format_args!("{why}, {:?} at {at}", fault.access),
    );
}

/// Carry out the instruction at RIP, whose memory operand is at `gpa`.
fn emulate(running: &mut Running<'_, dyn GuestCpu>, gpa: Gpa, target: Target) {
    // Not to be read any more: the guest is entered again, and faults by itself.
    let Some((instruction, bytes)) = decode::instruction(running.domain, running.walks, running.cpu) else {
        return;
    };
    let Some(operation) = Operation::of(&instruction) else {
        log::warn!(
            "{}v{} cannot emulate {bytes:02x?} at {gpa}",
            running.vcpu.domid,
            running.vcpu.id.0
        );
        return running.cpu.inject(Event::GP0);
    };
    let mut registers = Registers {
        gprs: *running.cpu.gprs(),
        rsp: running.cpu.read(SysReg::Rsp),
        rflags: running.cpu.read(SysReg::Rflags),
    };
    let before = if operation.reads() {
        read(running, gpa, target, operation.size())
    } else {
        0
    };
    let rflags = registers.rflags;
    let result = operation.execute(&mut registers, before);
    *running.cpu.gprs() = registers.gprs;
    if operation.writes_rsp() {
        running.cpu.write(SysReg::Rsp, registers.rsp);
    }
    if registers.rflags != rflags {
        running.cpu.write(SysReg::Rflags, registers.rflags);
    }
    // An instruction is at most 15 bytes long.
    running.cpu.skip(instruction.len() as u8);
    if let Some(value) = result {
        write(running, gpa, target, operation.size(), value);
    }
}

fn read(running: &mut Running<'_, dyn GuestCpu>, gpa: Gpa, target: Target, size: u8) -> u64 {
    match target {
        Target::Lapic => {
            let value = lapic::mmio_read(running, gpa.page_offset() as u32 & !3);
            u64::from(value) >> (8 * (gpa.0 & 3))
        }
        Target::IoApic => {
            let register = Gpa(gpa.0 & !3);
            u64::from(ioapic::mmio_read(running.domain, register)) >> (8 * (gpa.0 & 3))
        }
        Target::ReadOnly => {
            let mut bytes = [0xff; 8];
            let wanted = u64::from(size.min(8)).min(PAGE_SIZE - gpa.page_offset()) as usize;
            // What has been unmapped meanwhile reads as nothing does.
            let _ = guest::read_phys(&running.domain.p2m, gpa, &mut bytes[..wanted]);
            u64::from_le_bytes(bytes)
        }
        Target::Nothing => u64::MAX,
    }
}

fn write(running: &mut Running<'_, dyn GuestCpu>, gpa: Gpa, target: Target, size: u8, value: u64) {
    // APICs take aligned double words only (SDM 3A, 11.4.1).
    if size != 4 || gpa.0 & 3 != 0 {
        return;
    }
    match target {
        Target::Lapic => lapic::mmio_write(running, gpa.page_offset() as u32, value as u32),
        Target::IoApic => ioapic::mmio_write(running.domain, gpa, value as u32),
        Target::ReadOnly | Target::Nothing => {}
    }
}

/// The segment register that a decoded instruction names; DS for what is none.
pub(super) fn segment_reg(register: Register) -> SegmentReg {
    match register {
        Register::ES => SegmentReg::Es,
        Register::CS => SegmentReg::Cs,
        Register::SS => SegmentReg::Ss,
        Register::FS => SegmentReg::Fs,
        Register::GS => SegmentReg::Gs,
        _ => SegmentReg::Ds,
    }
}

/// What is added to an offset in `segment`: in 64-bit mode only FS and GS have a base.
pub(super) fn segment_base(cpu: &dyn GuestCpu, segment: SegmentReg) -> u64 {
    match (cpu.mode(), segment) {
        (CpuMode::Long, SegmentReg::Fs | SegmentReg::Gs) => cpu.segment(segment).base,
        (CpuMode::Long, _) => 0,
        _ => cpu.segment(segment).base,
    }
}

/// The page fault of an emulated access to `at`; CR2 is set. Whether the page is present is not told.
pub(super) fn page_fault(running: &mut Running<'_, dyn GuestCpu>, at: Gva, is_write: bool) -> Event {
    const PAGE_FAULT: u8 = 14;
    const WRITE: u32 = 1 << 1;
    const USER: u32 = 1 << 2;
    running.cpu.write(SysReg::Cr2, at.0);
    let user = if running.cpu.cpl() == 3 { USER } else { 0 };
    Event::exception(PAGE_FAULT, Some(user | if is_write { WRITE } else { 0 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(access: Access) -> NestedFault {
        NestedFault {
            gpa: Gpa(0xfee0_0080),
            access,
            present: false,
            gva: None,
            during_walk: false,
        }
    }

    #[test]
    fn what_is_mapped_by_now_is_tried_again() {
        assert_eq!(
            judge(&fault(Access::Write), Some(Kind::RamRw), None, false),
            Verdict::Retry
        );
        assert_eq!(
            judge(&fault(Access::Read), Some(Kind::GrantRo), None, false),
            Verdict::Retry
        );
        assert_eq!(
            judge(&fault(Access::Execute), Some(Kind::RamRo), None, false),
            Verdict::Retry
        );
    }

    #[test]
    fn writes_to_read_only_memory_are_dropped_and_to_grants_refused() {
        let verdict = |kind| judge(&fault(Access::Write), Some(kind), None, true);
        assert_eq!(verdict(Kind::RamRo), Verdict::Emulate(Target::ReadOnly));
        assert_eq!(verdict(Kind::GrantRo), Verdict::Refuse);
    }

    #[test]
    fn the_own_local_apic_comes_before_the_machine_s() {
        let verdict = judge(&fault(Access::Read), None, Some(Target::Lapic), true);
        assert_eq!(verdict, Verdict::Emulate(Target::Lapic));
        assert_eq!(judge(&fault(Access::Read), None, None, true), Verdict::MapDevice);
        assert_eq!(
            judge(&fault(Access::Read), None, None, false),
            Verdict::Emulate(Target::Nothing)
        );
    }

    #[test]
    fn an_event_that_cannot_be_delivered_is_no_instruction() {
        let mut world = crate::hypercall::testing::World::new();
        // mov [rbx], eax
        world.put(0, &[0x89u8, 0x03]);
        let nothing = NestedFault {
            gpa: Gpa(0xfe00_0000),
            ..fault(Access::Write)
        };
        for (delivering, rip) in [(None, 2), (Some(Event::interrupt(0x20)), 0)] {
            world.cpu.delivering = delivering;
            world.cpu.set_rip(0);
            world.caller(|running| nested_fault(running, nothing));
            assert_eq!(world.cpu.rip(), rip);
            assert_eq!(world.domain.shutdown_reason().is_some(), delivering.is_some());
        }
    }

    #[test]
    fn what_cannot_be_decoded_is_refused_and_what_cannot_be_read_faults_by_itself() {
        use crate::hypercall::testing::{PAGES, World};

        const END: u64 = PAGES * PAGE_SIZE;
        // vmovdqu xmm0, [rbx], also at the end of memory; and a MOV whose end is behind that.
        for (at, bytes, injected) in [
            (0, &[0xc5u8, 0xfa, 0x6f, 0x03][..], &[Event::GP0][..]),
            (END - 4, &[0xc5, 0xfa, 0x6f, 0x03], &[Event::GP0]),
            (END - 1, &[0x89], &[]),
        ] {
            let mut world = World::new();
            for (gpa, byte) in (at..).zip(bytes) {
                world.put(gpa, byte);
            }
            world.cpu.set_rip(at);
            let nothing = NestedFault {
                gpa: Gpa(0xfe00_0000),
                ..fault(Access::Read)
            };
            world.caller(|running| nested_fault(running, nothing));
            assert_eq!(world.cpu.injected, injected, "{bytes:x?}");
            assert_eq!(world.cpu.rip(), at);
        }
    }

    #[test]
    fn two_vcpus_map_the_same_device_page_at_once() {
        let world = crate::hypercall::testing::World::new();
        let gfn = Gfn(0xfed00);
        for _ in 0..2 {
            assert_eq!(map_device(&world.domain, gfn), Ok(()));
        }
        let kind = world.domain.p2m.lookup(gfn).map(|entry| entry.kind);
        assert_eq!(kind, Some(Kind::MmioDirect));
    }

    #[test]
    fn behind_the_apic_access_page_is_what_was_there_before() {
        let page = Some(Kind::ApicAccess);
        let verdict = judge(&fault(Access::Write), page, Some(Target::Lapic), false);
        assert_eq!(verdict, Verdict::Emulate(Target::Lapic));
        // A vCPU that has no xAPIC there any more.
        let verdict = judge(&fault(Access::Read), page, None, false);
        assert_eq!(verdict, Verdict::Emulate(Target::Nothing));
        let verdict = judge(&fault(Access::Execute), page, Some(Target::Lapic), false);
        assert!(matches!(verdict, Verdict::Crash(_)));
    }

    #[test]
    fn no_code_and_no_page_tables_outside_memory() {
        assert!(matches!(
            judge(&fault(Access::Execute), None, Some(Target::Lapic), false),
            Verdict::Crash(_)
        ));
        for kind in [Kind::MmioDirect, Kind::GrantRw, Kind::Foreign] {
            assert!(matches!(
                judge(&fault(Access::Execute), Some(kind), None, false),
                Verdict::Crash(_)
            ));
        }
        let walk = NestedFault {
            during_walk: true,
            ..fault(Access::Write)
        };
        for kind in [Kind::RamRo, Kind::GrantRo] {
            assert!(matches!(judge(&walk, Some(kind), None, false), Verdict::Crash(_)));
        }
        assert!(matches!(judge(&walk, None, None, false), Verdict::Crash(_)));
    }
}
