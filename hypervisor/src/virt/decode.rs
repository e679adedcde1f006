//! Instructions, where the hardware does not tell their length (AMD-V without next-RIP saving) or what they do (memory that is emulated).
//!
//! The instruction is fetched again, by a walk of the guest's page tables. If the guest has changed it meanwhile, it gets what it asked for: another
//! instruction's length, or another access; never more than its own memory.

use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction, Mnemonic};

use super::Running;
use crate::arch::{CpuMode, GuestCpu, SegmentReg};
use crate::domain::Domain;
use crate::mm::guest::{GuestVirt, WalkCache};
use crate::types::{Gva, PAGE_SIZE};

/// Longest instruction, in bytes.
const MAX_LEN: usize = 15;

/// Length of the instruction that has exited, which the hardware tells or the guest's memory. `None`: as of [`length`].
#[inline(always)]
pub fn length_of_exit<C: GuestCpu + ?Sized>(domain: &Domain, walks: &mut WalkCache, cpu: &C) -> Option<u8> {
    cpu.instruction_len().or_else(|| length(domain, walks, cpu))
}

/// Length of the instruction at the guest's RIP. `None`: it cannot be read any more, or is none that exits, so the guest has to be entered again to
/// fault itself.
#[inline(always)]
pub fn length<C: GuestCpu + ?Sized>(domain: &Domain, walks: &mut WalkCache, cpu: &C) -> Option<u8> {
    // What exits is mostly one of a few encodings without prefixes; they are recognised before anything is decoded.
    if let Some(head) = head(domain, walks, cpu)
        && let Some(len) = common_length(head)
    {
        return Some(len);
    }
    let (instruction, _) = instruction(domain, walks, cpu)?;
    (!instruction.is_invalid()).then_some(instruction.len() as u8)
}

/// The first bytes at the guest's RIP, read with a word: a single access. `None`: the word is not all there.
#[inline(always)]
fn head<C: GuestCpu + ?Sized>(domain: &Domain, walks: &mut WalkCache, cpu: &C) -> Option<[u8; 3]> {
    let (at, mut memory) = code(domain, walks, cpu);
    let [a, b, c, ..] = memory.read::<[u8; 8]>(at).ok()?;
    Some([a, b, c])
}

/// A MOV to CR0 or CR4 without prefixes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MovToCr {
    /// Number of the control register.
    pub to: u8,
    /// Number of the general register.
    pub from: u8,
}

impl MovToCr {
    /// Its length.
    pub const LEN: u8 = 3;
}

/// The MOV to CR0 or CR4 at the guest's RIP. `None`: it is something else, or has a prefix.
pub fn mov_to_cr(running: &mut Running<'_, dyn GuestCpu>) -> Option<MovToCr> {
    match head(running.domain, running.walks, running.cpu)? {
        [0x0f, 0x22, modrm] if is_cr0_or_cr4(modrm) => Some(MovToCr {
            to: modrm >> 3 & 7,
            from: modrm & 7,
        }),
        _ => None,
    }
}

/// Is the instruction at the guest's RIP RDTSCP?
pub fn is_rdtscp(running: &mut Running<'_, dyn GuestCpu>) -> bool {
    match head(running.domain, running.walks, running.cpu) {
        Some([0x0f, 0x31, _]) => false,
        Some([0x0f, 0x01, 0xf9]) => true,
        _ => instruction(running.domain, running.walks, running.cpu)
            .is_some_and(|(instruction, _)| instruction.mnemonic() == Mnemonic::Rdtscp),
    }
}

fn is_cr0_or_cr4(modrm: u8) -> bool {
    matches!(modrm, 0xc0..=0xc7 | 0xe0..=0xe7)
}

/// Lengths of the encodings that exit and have no operands, or nearly none.
fn common_length(head: [u8; 3]) -> Option<u8> {
    match head {
        // VMCALL, XSETBV, VMMCALL, RDTSCP
        [0x0f, 0x01, 0xc1 | 0xd1 | 0xd9 | 0xf9] => Some(3),
        // CPUID, RDTSC, RDMSR, WRMSR, WBINVD, INVD
        [0x0f, 0xa2 | 0x31 | 0x32 | 0x30 | 0x09 | 0x08, _] => Some(2),
        // MOV to CR0 or CR4
        [0x0f, 0x22, modrm] if is_cr0_or_cr4(modrm) => Some(MovToCr::LEN),
        // HLT
        [0xf4, _, _] => Some(1),
        _ => None,
    }
}

/// The instruction at the guest's RIP, and its bytes. It is invalid if it is none that the decoder knows, as those of AVX are. `None`: it cannot be read
/// to its end.
#[inline(never)]
pub fn instruction<C: GuestCpu + ?Sized>(
    domain: &Domain,
    walks: &mut WalkCache,
    cpu: &C,
) -> Option<(Instruction, [u8; MAX_LEN])> {
    let mut bytes = [0; MAX_LEN];
    let mut have = MAX_LEN;
    let (at, mut memory) = code(domain, walks, cpu);
    if memory.read_bytes(at, &mut bytes).is_err() {
        // The page behind may not exist: take what is left on this one.
        let left = PAGE_SIZE - (at.0 & (PAGE_SIZE - 1));
        have = MAX_LEN.min(left as usize);
        memory.read_bytes(at, bytes.get_mut(..have)?).ok()?;
    }
    let bitness = match cpu.mode() {
        CpuMode::Long => 64,
        CpuMode::Protected32 => 32,
        CpuMode::Real | CpuMode::Virtual8086 | CpuMode::Protected16 => 16,
    };
    let mut decoder = Decoder::with_ip(bitness, bytes.get(..have)?, cpu.rip(), DecoderOptions::NONE);
    let decoded = decoder.decode();
    let cut_off = have < MAX_LEN && decoder.last_error() == DecoderError::NoMoreBytes;
    (!cut_off).then_some((decoded, bytes))
}

/// Where the next instruction is, and the memory that it is in.
#[inline(always)]
fn code<'a, C: GuestCpu + ?Sized>(
    domain: &'a Domain,
    walks: &'a mut WalkCache,
    cpu: &C,
) -> (Gva, GuestVirt<'a>) {
    let base = match cpu.mode() {
        CpuMode::Long => 0,
        _ => cpu.segment(SegmentReg::Cs).base,
    };
    let at = Gva(base.wrapping_add(cpu.rip()));
    (
        at,
        GuestVirt::new(&domain.p2m, walks, cpu.translation().of_code()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shortcut may only say what the decoder would.
    #[test]
    fn shortcut_agrees_with_decoder() {
        let mut known = 0;
        for first in [0x0f, 0xf4, 0x66, 0xf3, 0x90] {
            for second in 0..=u8::MAX {
                for third in 0..=u8::MAX {
                    let head = [first, second, third];
                    if let Some(len) = common_length(head) {
                        known += 1;
                        let decoded = Decoder::with_ip(64, &head, 0, DecoderOptions::NONE).decode();
                        assert_eq!(decoded.len(), usize::from(len), "{head:x?}");
                    }
                }
            }
        }
        assert!(known > 0);
    }
}
