//! Which I/O ports a domain reaches without an exit: one bit a port, 1 = exits.
//!
//! Both vendors read the same bytes (SDM 3C 25.6.4, APM vol. 2, 15.10.1): 8 KiB for the ports, and a page of ones behind them for accesses
//! that run over the last port.
// UNSAFETY: the bitmap is in frames that the hardware reads.
#![expect(unsafe_code, reason = "the bitmap is in frames that the hardware reads")]

use core::ops::RangeInclusive;
use core::sync::atomic::{AtomicU8, Ordering};

use super::fallible::OutOfMemory;
use super::{frames, phys};
use crate::types::{Hpa, Mfn, PAGE_SIZE};

/// log2 of the frames: 12 KiB rounded up.
const ORDER: u32 = 2;

/// A domain's I/O bitmap.
pub struct IoBitmap {
    mfn: Mfn,
}

impl IoBitmap {
    /// All ports exit.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new() -> Result<Self, OutOfMemory> {
        let mfn = frames::alloc(ORDER).ok_or(OutOfMemory)?;
        // SAFETY: the frames were just allocated, nobody else knows them.
        unsafe { phys::ptr(mfn.addr()).write_bytes(0xff, (PAGE_SIZE as usize) << ORDER) };
        Ok(Self { mfn })
    }

    /// What the control blocks of the domain's vCPUs point to.
    pub fn addr(&self) -> Hpa {
        self.mfn.addr()
    }

    fn byte(&self, port: u16) -> &AtomicU8 {
        // SAFETY: 65536 bits are 8 KiB, within the frames, which stay while `self` does.
        unsafe { &*phys::ptr(self.addr().offset(u64::from(port / 8))).cast() }
    }

    /// Let the guest reach `ports` itself.
    pub fn allow(&self, ports: RangeInclusive<u16>) {
        for port in ports {
            self.byte(port).fetch_and(!(1 << (port % 8)), Ordering::Relaxed);
        }
    }

    /// Make accesses to `ports` exit.
    pub fn deny(&self, ports: RangeInclusive<u16>) {
        for port in ports {
            self.byte(port).fetch_or(1 << (port % 8), Ordering::Relaxed);
        }
    }

    /// Does the guest reach `port` itself?
    pub fn allows(&self, port: u16) -> bool {
        self.byte(port).load(Ordering::Relaxed) & (1 << (port % 8)) == 0
    }
}

impl Drop for IoBitmap {
    fn drop(&mut self) {
        frames::free(self.mfn, ORDER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_denied_until_allowed() {
        let bitmap = IoBitmap::new().expect("arena");
        assert!(!bitmap.allows(0) && !bitmap.allows(u16::MAX));
        bitmap.allow(0..=u16::MAX);
        bitmap.deny(0x3f8..=0x3ff);
        assert!(
            bitmap.allows(0x3f7) && !bitmap.allows(0x3f8) && !bitmap.allows(0x3ff) && bitmap.allows(0x400)
        );
        assert!(bitmap.allows(u16::MAX));
    }
}
