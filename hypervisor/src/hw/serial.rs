//! A serial port, as the command line describes it.

use core::ops::RangeInclusive;

use crate::cmdline::number;

/// Parity of a serial line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parity {
    /// No parity bit.
    None,
    /// Odd.
    Odd,
    /// Even.
    Even,
}

/// A serial port: `com1=BAUD[,DPS[,IO_BASE[,IRQ]]]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SerialPort {
    /// Bits a second; `None` for Xen's `auto`: as firmware left it, which is 115,200 here.
    pub baud: Option<u32>,
    /// 5 to 8.
    pub data_bits: u8,
    /// Parity.
    pub parity: Parity,
    /// 1 or 2.
    pub stop_bits: u8,
    /// First I/O port.
    pub base: u16,
    /// ISA interrupt; 0: none, the port is polled.
    pub irq: u8,
}

impl SerialPort {
    /// At these, as a PC has it by tradition.
    pub const fn at(base: u16, irq: u8) -> Self {
        Self {
            baud: Some(115_200),
            data_bits: 8,
            parity: Parity::None,
            stop_bits: 1,
            base,
            irq,
        }
    }

    /// The ports of its registers.
    pub const fn registers(&self) -> RangeInclusive<u16> {
        self.base..=self.base + 7
    }

    /// As the value of `com1=` says; what that leaves out stays. `None`: it is malformed.
    pub fn with(self, value: &str) -> Option<Self> {
        let mut new = self;
        let mut fields = value.split(',');
        // `115200/CLOCK_HZ`: the clock is not adjustable here.
        let baud = fields.next()?.split('/').next()?;
        new.baud = if baud == "auto" {
            None
        } else {
            Some(number(baud)?.try_into().ok().filter(|&baud| baud > 0)?)
        };
        if let Some(format) = fields.next().filter(|format| !format.is_empty()) {
            let [data, parity, stop] = format.as_bytes() else {
                return None;
            };
            new.data_bits = data.checked_sub(b'0').filter(|bits| (5..=8).contains(bits))?;
            new.parity = match parity {
                b'n' => Parity::None,
                b'o' => Parity::Odd,
                b'e' => Parity::Even,
                _ => return None,
            };
            new.stop_bits = stop.checked_sub(b'0').filter(|bits| (1..=2).contains(bits))?;
        }
        if let Some(base) = fields.next().filter(|base| !base.is_empty()) {
            new.base = number(base)?
                .try_into()
                .ok()
                .filter(|&base| base != 0 && base <= 0xfff8)?;
        }
        if let Some(irq) = fields.next().filter(|irq| !irq.is_empty()) {
            new.irq = number(irq)?.try_into().ok().filter(|&irq| irq < 16)?;
        }
        fields.next().is_none().then_some(new)
    }
}
