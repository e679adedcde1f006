//! What a guest can do at the level of instructions: any exit, with any registers and memory. Whatever it is, the vCPU comes back from it, and
//! all that its domain had can be had again.

use super::{Cpu, run_vcpu};
use crate::arch::regs::{CpuMode, SegmentReg, SysReg};
use crate::arch::{Access, Event, Exit, GuestCpu, IoAccess, IoDirection, NestedFault, fake};
use crate::domain::vcpu::Hold;
use crate::hypercall::testing::{PAGES, World, destroy};
use crate::sched::SLICE;
use crate::types::{Gpa, Gva, VcpuId};

/// One thing that a guest does: which, and three numbers that say more.
type Step = (u8, u64, u64, u64);

const SYSTEM: [SysReg; 8] = [
    SysReg::Cr0,
    SysReg::Cr2,
    SysReg::Cr3,
    SysReg::Cr4,
    SysReg::Efer,
    SysReg::Rflags,
    SysReg::Pat,
    SysReg::SpecCtrl,
];
const SEGMENTS: [SegmentReg; 4] = [SegmentReg::Cs, SegmentReg::Ss, SegmentReg::Ds, SegmentReg::Es];
const MODES: [CpuMode; 5] = [
    CpuMode::Long,
    CpuMode::Protected32,
    CpuMode::Protected16,
    CpuMode::Virtual8086,
    CpuMode::Real,
];

fn pick<T: Copy>(from: &[T], by: u64) -> T {
    from[(by % from.len() as u64) as usize]
}

/// Change what the exits to come will find.
fn prepare(cpu: &mut fake::Vcpu, (_, which, a, b): Step) {
    match which % 8 {
        0 => {
            let gprs = cpu.gprs();
            [gprs.rax, gprs.rcx, gprs.rdx] = [a, b, a >> 32];
        }
        1 => [cpu.gprs().rdi, cpu.gprs().rsi] = [a, b],
        2 => [cpu.gprs().rbx, cpu.gprs().r8] = [a, b],
        3 => cpu.write(pick(&SYSTEM, which >> 3), a),
        4 => {
            let mut segment = cpu.segment(pick(&SEGMENTS, which >> 3));
            (segment.base, segment.limit) = (a, b as u32);
            cpu.set_segment(pick(&SEGMENTS, which >> 3), segment);
        }
        5 => cpu.set_rip(a % (PAGES * 4096)),
        6 => {
            cpu.mode = pick(&MODES, a);
            cpu.cpl = (b % 4) as u8;
        }
        _ => {
            cpu.interruptible = a & 1 != 0;
            cpu.length = (a & 2 != 0).then_some((b % 15) as u8 + 1);
        }
    }
}

fn exit((_, which, a, b): Step) -> Exit {
    match which % 18 {
        0 | 1 => Exit::Hypercall,
        2 => Exit::Cpuid,
        3 => Exit::Rdmsr,
        4 => Exit::Wrmsr,
        5 => Exit::Io(IoAccess {
            port: a as u16,
            size: pick(&[1, 2, 4], b),
            direction: pick(&[IoDirection::In, IoDirection::Out], b >> 8),
            string: b & 1 << 16 != 0,
            rep: b & 1 << 17 != 0,
        }),
        6 | 7 => Exit::NestedFault(NestedFault {
            gpa: Gpa(pick(&[a, 0xfee0_0000 | a & 0xfff, a & 0xffff], b)),
            access: pick(&[Access::Read, Access::Write, Access::Execute], b >> 8),
            present: b & 1 << 16 != 0,
            gva: (b & 1 << 17 != 0).then_some(Gva(a)),
            during_walk: b & 1 << 18 != 0,
        }),
        8 => Exit::Halt,
        9 => Exit::CrWrite {
            cr: pick(&[0, 4, 8], a),
            value: b,
        },
        10 => Exit::CrInstruction,
        11 => Exit::Xsetbv,
        12 => Exit::Exception(Event::exception((a % 32) as u8, (b & 1 != 0).then_some(b as u32))),
        13 => Exit::InterruptWindow,
        14 => Exit::NmiWindow,
        // The hardware's part of it is done.
        15 => Exit::ApicWrite {
            offset: a as u16 & 0xfff,
        },
        16 => Exit::EndOfInterrupt { vector: a as u8 },
        _ => Exit::PriorityWindow,
    }
}

#[test]
fn exits() {
    bolero::check!().with_type::<Vec<Step>>().for_each(|steps| {
        let world = World::new();
        let vcpu = world.domain.vcpu(VcpuId(0)).expect("first").clone();
        for &step in steps {
            match step.0 % 4 {
                0 => world.put(step.1 % (PAGES * 4096 - 16), &[step.2, step.3]),
                kind => {
                    let mut private = vcpu.private().lock();
                    let Cpu::Fake(cpu) = &mut private.cpu else {
                        unreachable!("tests have the fake back end")
                    };
                    match kind {
                        1 => prepare(cpu, step),
                        _ => cpu.exits.push_back(exit(step)),
                    }
                    continue;
                }
            }
            // What waits for an event or for its turn gets it.
            vcpu.release(Hold::all());
            run_vcpu(&vcpu, SLICE);
        }
        vcpu.release(Hold::all());
        run_vcpu(&vcpu, SLICE);
        destroy(&world.domain);
        assert_eq!(world.domain.total_pages(), 0);
    });
}
