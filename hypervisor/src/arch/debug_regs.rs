//! The guest's breakpoint addresses, DR0 to DR3, and DR6 where the hardware does not switch it.
//!
//! They stay in the registers while the hypervisor runs, where they do nothing: both vendors disable breakpoints in DR7 on
//! every exit (SDM 3C 28.5.1, APM vol. 2, 15.6).
// UNSAFETY: moves to and from debug registers.
#![expect(unsafe_code, reason = "moves to and from debug registers")]

use core::arch::asm;

/// DR0 to DR3, and DR6 on VT-x (AMD-V keeps DR6 in the VMCB; there the copy is not used).
#[derive(Debug)]
pub struct DebugRegs {
    addresses: [u64; 4],
    dr6: u64,
    /// Is DR6 switched here, or by the hardware.
    switch_dr6: bool,
    loaded: bool,
}

/// DR6 after reset (SDM 3A table 10-1).
pub const DR6_RESET: u64 = 0xffff_0ff0;

impl DebugRegs {
    /// Reset state. `switch_dr6`: the control block has no field for DR6.
    pub const fn new(switch_dr6: bool) -> DebugRegs {
        DebugRegs {
            addresses: [0; 4],
            dr6: DR6_RESET,
            switch_dr6,
            loaded: false,
        }
    }

    /// DR0 to DR3 (`index` modulo 4).
    pub fn address(&self, index: usize) -> u64 {
        if self.loaded {
            read_addresses()[index & 3]
        } else {
            self.addresses[index & 3]
        }
    }

    /// Set DR0 to DR3 (`index` modulo 4).
    pub fn set_address(&mut self, index: usize, value: u64) {
        if self.loaded {
            self.addresses = read_addresses();
        }
        self.addresses[index & 3] = value;
        if self.loaded {
            write_addresses(&self.addresses);
        }
    }

    /// DR6, if this switches it.
    pub fn dr6(&self) -> u64 {
        if self.loaded && self.switch_dr6 {
            read_dr6()
        } else {
            self.dr6
        }
    }

    /// Set DR6, if this switches it. The upper half, which must be zero, is dropped.
    pub fn set_dr6(&mut self, value: u64) {
        self.dr6 = value & 0xffff_ffff;
        if self.loaded && self.switch_dr6 {
            write_dr6(self.dr6);
        }
    }

    /// Add to DR6, while loaded, what an exception reports there.
    pub fn raise(&mut self, bits: u64) {
        debug_assert!(self.loaded && self.switch_dr6);
        write_dr6(read_dr6() | bits & 0xffff_ffff);
    }

    /// Put the values onto this CPU.
    pub fn load(&mut self) {
        write_addresses(&self.addresses);
        if self.switch_dr6 {
            write_dr6(self.dr6);
        }
        self.loaded = true;
    }

    /// Take the values back from this CPU.
    pub fn unload(&mut self) {
        self.addresses = read_addresses();
        if self.switch_dr6 {
            self.dr6 = read_dr6();
        }
        self.loaded = false;
    }
}

fn read_addresses() -> [u64; 4] {
    let (a, b, c, d);
    // SAFETY: reading debug registers has no side effect; DR7.GD is clear in the hypervisor.
    unsafe {
        asm!("mov {}, dr0", "mov {}, dr1", "mov {}, dr2", "mov {}, dr3", out(reg) a, out(reg) b, out(reg) c, out(reg) d,
            options(nomem, nostack, preserves_flags));
    }
    [a, b, c, d]
}

fn write_addresses(&[a, b, c, d]: &[u64; 4]) {
    // SAFETY: DR7 enables no breakpoint while the hypervisor runs, so the addresses have no effect; any value is accepted.
    unsafe {
        asm!("mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}", in(reg) a, in(reg) b, in(reg) c, in(reg) d,
            options(nomem, nostack, preserves_flags));
    }
}

fn read_dr6() -> u64 {
    let value;
    // SAFETY: reading DR6 has no side effect.
    unsafe { asm!("mov {}, dr6", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

fn write_dr6(value: u64) {
    // SAFETY: DR6 only records; its upper half, which must be zero, is by `set_dr6` and the register itself.
    unsafe { asm!("mov dr6, {}", in(reg) value, options(nomem, nostack, preserves_flags)) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_values_apart() {
        let mut regs = DebugRegs::new(true);
        for i in 0..4 {
            regs.set_address(i, 0x1000 + i as u64);
        }
        regs.set_dr6(0xffff_ffff_0000_4ff0);
        assert_eq!(
            [0, 1, 2, 3].map(|i| regs.address(i)),
            [0x1000, 0x1001, 0x1002, 0x1003]
        );
        assert_eq!(regs.dr6(), 0x4ff0);
    }
}
