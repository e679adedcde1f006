//! The machine's power-management timer, which dom0 may read: what other clocks are compared with.

use crate::cpu;

const SECOND: u64 = 1_000_000_000;
/// Its frequency, and the bits that it has at least (ACPI 6.5, 4.8.3.3).
const PM_HZ: u64 = 3_579_545;
const PM_BITS: u32 = 0x00ff_ffff;

/// One that is read often enough that it does not come round in between.
#[derive(Debug)]
pub struct PmTimer {
    port: u16,
    last: u32,
    ticks: u64,
}

impl PmTimer {
    /// The timer at `port`, from now on.
    pub fn new(port: u16) -> Self {
        let last = cpu::in32(port);
        Self { port, last, ticks: 0 }
    }

    /// Nanoseconds since it was made.
    pub fn elapsed(&mut self) -> u64 {
        let now = cpu::in32(self.port);
        self.ticks += u64::from(now.wrapping_sub(self.last) & PM_BITS);
        self.last = now;
        (u128::from(self.ticks) * u128::from(SECOND) / u128::from(PM_HZ)) as u64
    }
}
