//! What an instruction with one memory operand does, for memory that is emulated: moves, and the arithmetic that kernels use on device registers.
//!
//! Pure. [`Operation::of`] says what a decoded instruction is; the caller reads the operand, lets it [`Operation::execute`], and writes the
//! result.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use crate::arch::Gprs;

/// RFLAGS (SDM 1, 3.4.3.1).
mod flag {
    pub const CARRY: u64 = 1 << 0;
    pub const PARITY: u64 = 1 << 2;
    pub const ADJUST: u64 = 1 << 4;
    pub const ZERO: u64 = 1 << 6;
    pub const SIGN: u64 = 1 << 7;
    pub const OVERFLOW: u64 = 1 << 11;
    pub const ARITHMETIC: u64 = CARRY | PARITY | ADJUST | ZERO | SIGN | OVERFLOW;
}

/// What an instruction works on beside memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Registers {
    /// All but RSP.
    pub gprs: Gprs,
    /// RSP.
    pub rsp: u64,
    /// RFLAGS.
    pub rflags: u64,
}

impl Registers {
    /// What a general register, or a part of one, holds. `None`: it is another kind of register.
    pub fn get(&self, register: Register) -> Option<u64> {
        Some(Part::of(register)?.get(&mut self.clone()))
    }

    fn full(&mut self, number: usize) -> &mut u64 {
        self.gprs.by_number(number).unwrap_or(&mut self.rsp)
    }
}

/// A general register, or a part of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Part {
    number: usize,
    /// 1, 2, 4 or 8 bytes.
    size: u8,
    /// AH, CH, DH, BH.
    high: bool,
}

impl Part {
    fn of(register: Register) -> Option<Part> {
        let high = matches!(
            register,
            Register::AH | Register::CH | Register::DH | Register::BH
        );
        register.is_gpr().then(|| Part {
            number: register.full_register().number(),
            size: register.size() as u8,
            high,
        })
    }

    fn get(self, registers: &mut Registers) -> u64 {
        let full = *registers.full(self.number);
        if self.high {
            full >> 8 & 0xff
        } else {
            full & mask(self.size)
        }
    }

    /// Writes of 4 bytes clear the upper half, shorter ones leave the rest alone (SDM 1, 3.4.1.1).
    fn set(self, registers: &mut Registers, value: u64) {
        let full = registers.full(self.number);
        *full = match self.size {
            _ if self.high => *full & !0xff00 | (value & 0xff) << 8,
            4 => value & mask(4),
            size => *full & !mask(size) | value & mask(size),
        };
    }
}

/// The other operand of something that has memory as one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    Register(Part),
    Immediate(u64),
}

impl Source {
    fn get(self, registers: &mut Registers) -> u64 {
        match self {
            Source::Register(part) => part.get(registers),
            Source::Immediate(value) => value,
        }
    }
}

/// Two operands in, one result out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Arithmetic {
    Add,
    Sub,
    And,
    Or,
    Xor,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Action {
    /// Memory to a register; with the sign, or zeros, on top.
    Load { to: Part, signed: bool },
    /// A register or a constant to memory.
    Store(Source),
    /// Both ways.
    Exchange(Part),
    /// `memory = memory op source`.
    Modify(Arithmetic, Source),
    /// `register = register op memory`.
    Combine(Arithmetic, Part),
    /// Flags of `memory op source`.
    Compare(Arithmetic, Source),
    /// Flags of `register op memory`.
    CompareWith(Arithmetic, Part),
}

/// An instruction with one memory operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Operation {
    action: Action,
    /// Size of the memory operand in bytes: 1, 2, 4 or 8.
    size: u8,
}

impl Operation {
    /// What `instruction` does. `None`: it is none of those that are emulated.
    pub fn of(instruction: &Instruction) -> Option<Operation> {
        let size = u8::try_from(instruction.memory_size().size())
            .ok()
            .filter(|size| matches!(size, 1 | 2 | 4 | 8))?;
        if instruction.op_count() != 2 {
            return None;
        }
        let memory_first = instruction.op0_kind() == OpKind::Memory;
        let other = if memory_first { 1 } else { 0 };
        if !memory_first && instruction.op1_kind() != OpKind::Memory {
            return None;
        }
        let source = match instruction.op_kind(other) {
            OpKind::Register => Source::Register(Part::of(instruction.op_register(other))?),
            _ => Source::Immediate(instruction.try_immediate(other).ok()? & mask(size)),
        };
        let action = match (instruction.mnemonic(), source) {
            (Mnemonic::Mov, source) if memory_first => Action::Store(source),
            (Mnemonic::Mov | Mnemonic::Movzx, Source::Register(to)) => Action::Load { to, signed: false },
            (Mnemonic::Movsx | Mnemonic::Movsxd, Source::Register(to)) => Action::Load { to, signed: true },
            (Mnemonic::Xchg, Source::Register(part)) => Action::Exchange(part),
            (Mnemonic::Test, source) => Action::Compare(Arithmetic::And, source),
            (Mnemonic::Cmp, source) if memory_first => Action::Compare(Arithmetic::Sub, source),
            (Mnemonic::Cmp, Source::Register(part)) => Action::CompareWith(Arithmetic::Sub, part),
            (mnemonic, source) => {
                let arithmetic = match mnemonic {
                    Mnemonic::Add => Arithmetic::Add,
                    Mnemonic::Sub => Arithmetic::Sub,
                    Mnemonic::And => Arithmetic::And,
                    Mnemonic::Or => Arithmetic::Or,
                    Mnemonic::Xor => Arithmetic::Xor,
                    _ => return None,
                };
                match source {
                    source if memory_first => Action::Modify(arithmetic, source),
                    Source::Register(part) => Action::Combine(arithmetic, part),
                    Source::Immediate(_) => return None,
                }
            }
        };
        Some(Operation { action, size })
    }

    /// Size of the memory operand in bytes: 1, 2, 4 or 8.
    pub fn size(&self) -> u8 {
        self.size
    }

    /// Is the memory read? (Not by a plain store: reading a register may have an effect.)
    pub fn reads(&self) -> bool {
        !matches!(self.action, Action::Store(_))
    }

    /// May RSP change?
    pub fn writes_rsp(&self) -> bool {
        const RSP: usize = 4;
        matches!(self.action, Action::Load { to: part, .. } | Action::Exchange(part) | Action::Combine(_, part) if part.number == RSP)
    }

    /// Carry it out with `memory` as the value of the memory operand. Returns the new value, if the instruction writes it.
    pub fn execute(&self, registers: &mut Registers, memory: u64) -> Option<u64> {
        let memory = memory & mask(self.size);
        match self.action {
            Action::Load { to, signed } => {
                to.set(
                    registers,
                    if signed {
                        sign_extend(memory, self.size)
                    } else {
                        memory
                    },
                );
                None
            }
            Action::Store(source) => Some(source.get(registers)),
            Action::Exchange(part) => {
                let value = part.get(registers);
                part.set(registers, memory);
                Some(value)
            }
            Action::Modify(arithmetic, source) => {
                let operand = source.get(registers);
                Some(self.compute(arithmetic, memory, operand, registers))
            }
            Action::Combine(arithmetic, part) => {
                let value = part.get(registers);
                let result = self.compute(arithmetic, value, memory, registers);
                part.set(registers, result);
                None
            }
            Action::Compare(arithmetic, source) => {
                let operand = source.get(registers);
                self.compute(arithmetic, memory, operand, registers);
                None
            }
            Action::CompareWith(arithmetic, part) => {
                let value = part.get(registers);
                self.compute(arithmetic, value, memory, registers);
                None
            }
        }
    }

    /// `a op b`, with the flags set (SDM 1, appendix A; the adjust flag, undefined after logic, is cleared).
    fn compute(&self, arithmetic: Arithmetic, a: u64, b: u64, registers: &mut Registers) -> u64 {
        let mask = mask(self.size);
        let top = mask ^ mask >> 1;
        let (result, carry, overflow) = match arithmetic {
            Arithmetic::Add => {
                let sum = a.wrapping_add(b) & mask;
                (sum, sum < a, (a ^ sum) & (b ^ sum) & top != 0)
            }
            Arithmetic::Sub => {
                let difference = a.wrapping_sub(b) & mask;
                (difference, a < b, (a ^ b) & (a ^ difference) & top != 0)
            }
            Arithmetic::And => (a & b, false, false),
            Arithmetic::Or => (a | b, false, false),
            Arithmetic::Xor => (a ^ b, false, false),
        };
        let adjust = matches!(arithmetic, Arithmetic::Add | Arithmetic::Sub) && (a ^ b ^ result) & 0x10 != 0;
        let set = |on: bool, flag: u64| if on { flag } else { 0 };
        registers.rflags = registers.rflags & !flag::ARITHMETIC
            | set(carry, flag::CARRY)
            | set((result as u8).count_ones().is_multiple_of(2), flag::PARITY)
            | set(adjust, flag::ADJUST)
            | set(result == 0, flag::ZERO)
            | set(result & top != 0, flag::SIGN)
            | set(overflow, flag::OVERFLOW);
        result
    }
}

/// All bits of an operand of `size` bytes.
fn mask(size: u8) -> u64 {
    u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8)))
}

fn sign_extend(value: u64, size: u8) -> u64 {
    let unused = 64 - 8 * u32::from(size.clamp(1, 8));
    ((value << unused) as i64 >> unused) as u64
}

#[cfg(test)]
#[path = "emulate_tests.rs"]
mod tests;
