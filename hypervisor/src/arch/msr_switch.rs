//! Model-specific registers that hold the guest's value for as long as its vCPU is loaded on a CPU, hypervisor included.
//!
//! The hypervisor uses none of them, so an exit need not touch them: they are written by [`SwitchedMsrs::load`] and taken back
//! by [`SwitchedMsrs::unload`] when a CPU changes from one vCPU to another.
// UNSAFETY: RDMSR and WRMSR.
#![expect(unsafe_code, reason = "RDMSR and WRMSR")]

use x86_64::registers::model_specific::Msr;

/// Values of a fixed list of registers. Each back end gives the list that its hardware does not switch.
#[derive(Debug)]
pub struct SwitchedMsrs {
    list: &'static [u32],
    values: [u64; SwitchedMsrs::MAX],
    loaded: bool,
}

impl SwitchedMsrs {
    /// The longest list.
    pub const MAX: usize = 8;

    /// The registers of `list`, all zero, not loaded. What is beyond [`Self::MAX`] entries is not switched.
    ///
    /// # Safety
    /// Every register in `list` exists on every CPU, holds no state that the hypervisor depends on, and accepts the values
    /// later given to [`Self::set`].
    pub const unsafe fn new(list: &'static [u32]) -> SwitchedMsrs {
        SwitchedMsrs {
            list,
            values: [0; SwitchedMsrs::MAX],
            loaded: false,
        }
    }

    /// Value of `msr`; `None`: not one of the list.
    pub fn get(&self, msr: u32) -> Option<u64> {
        let index = self.list.iter().position(|&m| m == msr)?;
        if self.loaded {
            // SAFETY: a register of the list exists, and reading it has no side effect.
            return Some(unsafe { Msr::new(msr).read() });
        }
        self.values.get(index).copied()
    }

    /// Set `msr`, on the CPU too if loaded; `false`: not one of the list. The caller has checked `value` as the CPU would.
    pub fn set(&mut self, msr: u32, value: u64) -> bool {
        let Some(index) = self.list.iter().position(|&m| m == msr) else {
            return false;
        };
        if self.loaded {
            // SAFETY: by the contract of `new` the register exists, takes the value and does not matter to the hypervisor.
            unsafe { Msr::new(msr).write(value) };
        }
        if let Some(slot) = self.values.get_mut(index) {
            *slot = value;
        }
        true
    }

    /// Put the values onto this CPU.
    pub fn load(&mut self) {
        for (&msr, &value) in self.list.iter().zip(&self.values) {
            // SAFETY: as in `set`.
            unsafe { Msr::new(msr).write(value) };
        }
        self.loaded = true;
    }

    /// Take the values back from this CPU.
    pub fn unload(&mut self) {
        for (&msr, value) in self.list.iter().zip(&mut self.values) {
            // SAFETY: as in `get`.
            *value = unsafe { Msr::new(msr).read() };
        }
        self.loaded = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_its_list_only() {
        // SAFETY: never loaded, so no register is touched.
        let mut msrs = unsafe { SwitchedMsrs::new(&[0xc000_0103, 0xc000_0102]) };
        assert!(msrs.set(0xc000_0102, 7));
        assert!(!msrs.set(0xc000_0080, 1));
        assert_eq!(msrs.get(0xc000_0102), Some(7));
        assert_eq!(msrs.get(0xc000_0103), Some(0));
        assert_eq!(msrs.get(0xc000_0080), None);
    }
}
