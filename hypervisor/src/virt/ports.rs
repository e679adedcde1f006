//! Port I/O that exits: nothing is behind these ports but the debug console, so reads are all ones and writes vanish, as on Xen.

use super::{Running, decode};
use crate::arch::{Event, GuestCpu, IoAccess, IoDirection, SegmentReg, SysReg};
use crate::hypercall::console_io;
use crate::mm::guest::GuestVirt;
use crate::types::Gva;

/// Elements of a REP INS or OUTS that are done at once; the guest is entered in between, so that it can be interrupted.
const MAX_REPEAT: u64 = 256;

/// Carry out a port access.
///
/// # Errors
/// The exception that it raises instead.
pub fn access(running: &mut Running<'_, dyn GuestCpu>, access: IoAccess) -> Result<(), Event> {
    if access.string {
        return string(running, access);
    }
    match access.direction {
        IoDirection::Out => {
            let value = running.cpu.gprs().rax;
            output(running, access, value);
        }
        IoDirection::In => {
            let rax = &mut running.cpu.gprs().rax;
            *rax = match access.size {
                1 => *rax | 0xff,
                2 => *rax | 0xffff,
                // A 32-bit result clears the upper half.
                _ => 0xffff_ffff,
            };
        }
    }
    Ok(())
}

fn output(running: &mut Running<'_, dyn GuestCpu>, access: IoAccess, value: u64) {
    if access.port == abi::XEN_HVM_DEBUGCONS_IOPORT && access.size == 1 {
        console_io::debug_port(running.domain, value as u8);
    }
}

/// INS and OUTS. RIP is left on the instruction until the count is used up (the caller skips it once, so `Err`-less early ends rewind RCX only).
fn string(running: &mut Running<'_, dyn GuestCpu>, access: IoAccess) -> Result<(), Event> {
    let Some((instruction, _)) = decode::instruction(running.domain, running.walks, running.cpu) else {
        return Ok(());
    };
    let mask = match instruction.memory_base().size() {
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    };
    let segment = match access.direction {
        IoDirection::In => SegmentReg::Es,
        IoDirection::Out => super::mmio::segment_reg(instruction.memory_segment()),
    };
    let base = super::mmio::segment_base(running.cpu, segment);
    let backwards = running.cpu.read(SysReg::Rflags) & 1 << 10 != 0;
    let step = if backwards {
        u64::from(access.size).wrapping_neg()
    } else {
        u64::from(access.size)
    };
    let count = if access.rep {
        running.cpu.gprs().rcx & mask
    } else {
        1
    };
    for _ in 0..count.min(MAX_REPEAT) {
        let regs = running.cpu.gprs();
        let index = if access.direction == IoDirection::In {
            regs.rdi
        } else {
            regs.rsi
        };
        let at = Gva(base.wrapping_add(index & mask));
        let size = usize::from(access.size.min(4));
        let mut bytes = [0xff; 4];
        let translation = match running.cpu.cpl() {
            3 => running.cpu.translation().of_user(),
            _ => running.cpu.translation(),
        };
        let mut memory = GuestVirt::new(&running.domain.p2m, running.walks, translation);
        let done = match access.direction {
            IoDirection::In => memory.write_bytes(at, &bytes[..size]),
            IoDirection::Out => memory.read_bytes(at, &mut bytes[..size]),
        };
        if done.is_err() {
            return Err(super::mmio::page_fault(
                running,
                at,
                access.direction == IoDirection::In,
            ));
        }
        if access.direction == IoDirection::Out {
            output(running, access, u64::from(u32::from_le_bytes(bytes)));
        }
        let regs = running.cpu.gprs();
        let index = if access.direction == IoDirection::In {
            &mut regs.rdi
        } else {
            &mut regs.rsi
        };
        *index = *index & !mask | index.wrapping_add(step) & mask;
        if access.rep {
            regs.rcx = regs.rcx & !mask | regs.rcx.wrapping_sub(1) & mask;
        }
    }
    if count > MAX_REPEAT {
        // Not finished: make the caller's skip a no-op.
        let rip = running.cpu.rip().wrapping_sub(instruction.len() as u64);
        running.cpu.set_rip(rip);
    }
    Ok(())
}
