//! x87, SSE, AVX.. state of a vCPU, and its XCR0.
//!
//! The hypervisor is compiled without floating point, so the guest's state stays in the registers while it runs: an exit costs
//! nothing, and the state moves only when a CPU changes from one vCPU to another ([`Fpu::unload`], [`Fpu::load`]).
//!
//! Invariant: while no vCPU is loaded, XCR0 of a CPU is [`Host::xcr0`], every component that guests may use.
//!
//! The area has XSAVE's standard format, which is also that of Xen's save records; XSAVEOPT is used where it exists. XSAVES would
//! buy supervisor components (XSS), and guests get none.
// UNSAFETY: XSAVE and XRSTOR of raw memory, XSETBV, control registers.
#![expect(
    unsafe_code,
    reason = "XSAVE and XRSTOR of raw memory, XSETBV, control registers"
)]

use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use core::arch::asm;
use core::ptr::NonNull;

use spin::Once;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags};

use super::{OutOfMemory, machine};

/// XCR0 bits (SDM 1, 13.3).
mod xcr0 {
    pub const X87: u64 = 1 << 0;
    pub const SSE: u64 = 1 << 1;
    pub const AVX: u64 = 1 << 2;
    pub const AVX512: u64 = 0b111 << 5;
    pub const PKRU: u64 = 1 << 9;
    /// What guests may have where the machine has it. Not MPX (gone) and not AMX (needs XFD switched, too).
    pub const POLICY: u64 = X87 | SSE | AVX | AVX512 | PKRU;
}

/// Offset of MXCSR, and of the mask of its valid bits, in the legacy region (SDM 1 table 10-2).
const MXCSR: usize = 24;
const MXCSR_MASK: usize = 28;
/// The XSAVE header (SDM 1, 13.4.2).
const HEADER: usize = 512;
/// Size of the legacy region and the header.
const MINIMUM: usize = HEADER + 64;
/// MXCSR after reset.
const MXCSR_RESET: u32 = 0x1f80;

/// How this machine keeps extended state. The same on all CPUs.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// Components that guests may enable in XCR0; 0: no XSAVE, only FXSAVE.
    pub xcr0: u64,
    /// Bytes of an area that holds them all.
    pub size: usize,
    /// MXCSR bits that exist.
    pub mxcsr_mask: u32,
    optimized: bool,
    /// A restore leaves the x87 pointers to the last instruction and its operand as they are unless an exception is pending (CVE-2006-1056): AMD's
    /// CPUs without RstrFpErrPtrs.
    keeps_pointers: bool,
}

static HOST: Once<Host> = Once::new();

/// What [`init`] found; `None` before.
pub fn host() -> Option<&'static Host> {
    HOST.get()
}

/// Switch extended state on for this CPU. Once on every CPU, before it runs a vCPU.
pub fn init() {
    let features = raw_cpuid::cpuid!(1).ecx;
    let has_xsave = features & 1 << 26 != 0;
    // SAFETY: the hypervisor has no floating-point code whose behaviour CR0.TS, EM or MP could change; OSXSAVE is set only where
    // the CPU has XSAVE.
    unsafe {
        Cr0::update(|cr0| {
            cr0.remove(Cr0Flags::EMULATE_COPROCESSOR | Cr0Flags::TASK_SWITCHED);
            cr0.insert(Cr0Flags::MONITOR_COPROCESSOR | Cr0Flags::NUMERIC_ERROR);
        });
        Cr4::update(|cr4| {
            cr4.insert(Cr4Flags::OSFXSR | Cr4Flags::OSXMMEXCPT_ENABLE);
            if has_xsave {
                cr4.insert(Cr4Flags::OSXSAVE);
            }
        });
    }
    let mask = if has_xsave {
        let leaf = raw_cpuid::cpuid!(0xd, 0);
        (u64::from(leaf.edx) << 32 | u64::from(leaf.eax)) & xcr0::POLICY
    } else {
        0
    };
    if has_xsave {
        write_xcr0(mask);
    }
    HOST.call_once(|| Host {
        xcr0: mask,
        // CPUID.(0Dh,0):EBX is the size for what XCR0 enables now.
        size: if has_xsave {
            (raw_cpuid::cpuid!(0xd, 0).ebx as usize).max(MINIMUM)
        } else {
            MINIMUM
        },
        mxcsr_mask: probe_mxcsr_mask(),
        keeps_pointers: machine::is_amd() && !restores_pointers(),
        optimized: has_xsave && raw_cpuid::cpuid!(0xd, 1).eax & 1 != 0,
    });
}

/// Would a CPU with the components `supported` take `value` in XCR0 (SDM 1, 13.3; #GP otherwise).
pub fn valid_xcr0(value: u64, supported: u64) -> bool {
    let needs = |component, required| value & component == 0 || value & required == required;
    value & !supported == 0
        && value & xcr0::X87 != 0
        && needs(xcr0::AVX, xcr0::SSE)
        && needs(xcr0::AVX512, xcr0::AVX512 | xcr0::AVX)
}

/// An image that the CPU would not load.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadImage;

/// Would XRSTOR load `image` without a fault (SDM 1, 13.8.1).
fn check_image(image: &[u8], host: &Host) -> Result<(), BadImage> {
    let u32_at = |at: usize| {
        image
            .get(at..at + 4)
            .and_then(|b| b.try_into().ok())
            .map(u32::from_le_bytes)
            .ok_or(BadImage)
    };
    let header = image.get(HEADER..MINIMUM).ok_or(BadImage)?;
    let (components, rest) = header.split_first_chunk::<8>().ok_or(BadImage)?;
    let good = image.len() <= host.size
        && u32_at(MXCSR)? & !host.mxcsr_mask == 0
        && u64::from_le_bytes(*components) & !host.xcr0 == 0
        && rest.iter().all(|&byte| byte == 0);
    if good { Ok(()) } else { Err(BadImage) }
}

/// One vCPU's extended state.
#[derive(Debug)]
pub struct Fpu {
    area: NonNull<u8>,
    host: Host,
    xcr0: u64,
    loaded: bool,
}

// SAFETY: the area is owned by this value and reached only through it.
unsafe impl Send for Fpu {}

impl Fpu {
    /// Reset state, XCR0 = 1.
    ///
    /// # Errors
    /// No memory for the area.
    ///
    /// # Panics
    /// If [`init`] has not run on any CPU.
    pub fn new() -> Result<Fpu, OutOfMemory> {
        let host = *HOST.get().expect("fpu::init runs before the first vCPU is made");
        // SAFETY: the layout is not empty.
        let area = NonNull::new(unsafe { alloc_zeroed(layout(&host)) }).ok_or(OutOfMemory)?;
        // An empty XSTATE_BV stands for reset values, but MXCSR is loaded from memory all the same (SDM 1, 13.8.1). FXRSTOR has no
        // header: it also needs FCW.
        // SAFETY: both offsets lie in the area, which is aligned to 64.
        unsafe {
            area.add(MXCSR).cast::<u32>().write(MXCSR_RESET);
            area.cast::<u16>().write(0x37f);
        }
        Ok(Fpu {
            area,
            host,
            xcr0: xcr0::X87,
            loaded: false,
        })
    }

    /// The guest's XCR0.
    pub fn xcr0(&self) -> u64 {
        self.xcr0
    }

    /// Set the guest's XCR0, for which the caller has asked [`valid_xcr0`]. A value that this machine would refuse is ignored.
    pub fn set_xcr0(&mut self, value: u64) {
        if !valid_xcr0(value, self.host.xcr0) {
            return;
        }
        self.xcr0 = value;
        if self.loaded {
            write_xcr0(value);
        }
    }

    /// The state as XSAVE's standard format, while not loaded.
    pub fn image(&self) -> Option<&[u8]> {
        if self.loaded {
            return None;
        }
        // SAFETY: the area has `size` initialized bytes and is changed only through `&mut self`.
        Some(unsafe { core::slice::from_raw_parts(self.area.as_ptr(), self.host.size) })
    }

    /// Replace the state, while not loaded, by `image` in XSAVE's standard format; components beyond its end get reset values.
    ///
    /// # Errors
    /// The CPU would refuse to load it, or the vCPU is loaded; nothing has changed.
    pub fn set_image(&mut self, image: &[u8]) -> Result<(), BadImage> {
        check_image(image, &self.host)?;
        if self.loaded {
            return Err(BadImage);
        }
        // SAFETY: the area has `size` bytes, and `check_image` found `image` not longer.
        let area = unsafe { core::slice::from_raw_parts_mut(self.area.as_ptr(), self.host.size) };
        area.fill(0);
        if let Some(start) = area.get_mut(..image.len()) {
            start.copy_from_slice(image);
        }
        Ok(())
    }

    /// Does XCR0 change when the guest's state comes and goes?
    fn has_own_xcr0(&self) -> bool {
        self.host.xcr0 != 0 && self.xcr0 != self.host.xcr0
    }

    /// Put the state onto this CPU.
    pub fn load(&mut self) {
        let (low, high) = halves(self.host.xcr0);
        if self.host.keeps_pointers {
            replace_pointers();
        }
        // SAFETY: the area is aligned and large enough for every component in `host.xcr0`, which is what XCR0 enables now; its
        // contents came from `new`, from a save or through `check_image`, so XRSTOR cannot fault. The hypervisor uses none of the
        // registers loaded.
        unsafe {
            if self.host.xcr0 == 0 {
                asm!("fxrstor64 [{}]", in(reg) self.area.as_ptr(), options(nostack, preserves_flags));
            } else {
                asm!("xrstor64 [{}]", in(reg) self.area.as_ptr(), in("eax") low, in("edx") high,
                    options(nostack, preserves_flags));
            }
        }
        if self.has_own_xcr0() {
            write_xcr0(self.xcr0);
        }
        self.loaded = true;
    }

    /// Take the state back from this CPU.
    pub fn unload(&mut self) {
        // All components, also those that the guest has disabled since it filled them.
        if self.has_own_xcr0() {
            write_xcr0(self.host.xcr0);
        }
        let (low, high) = halves(self.host.xcr0);
        // SAFETY: as in `load`. XSAVEOPT may skip what has not changed since the last XRSTOR from this very area; between that
        // and now nobody writes the area (`set_image` refuses while loaded).
        unsafe {
            let area = self.area.as_ptr();
            if self.host.xcr0 == 0 {
                asm!("fxsave64 [{}]", in(reg) area, options(nostack, preserves_flags));
            } else if self.host.optimized {
                asm!("xsaveopt64 [{}]", in(reg) area, in("eax") low, in("edx") high, options(nostack, preserves_flags));
            } else {
                asm!("xsave64 [{}]", in(reg) area, in("eax") low, in("edx") high, options(nostack, preserves_flags));
            }
        }
        self.loaded = false;
    }
}

impl Drop for Fpu {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with the same layout.
        unsafe { dealloc(self.area.as_ptr(), layout(&self.host)) };
    }
}

fn layout(host: &Host) -> Layout {
    Layout::from_size_align(host.size, 64).expect("64 is a power of two and CPUID's size is small")
}

fn halves(value: u64) -> (u32, u32) {
    (value as u32, (value >> 32) as u32)
}

/// CPUID 8000_0008, EBX[2]: RstrFpErrPtrs (APM vol. 3, appendix E).
fn restores_pointers() -> bool {
    raw_cpuid::cpuid!(0x8000_0000).eax >= 0x8000_0008 && raw_cpuid::cpuid!(0x8000_0008).ebx & 1 << 2 != 0
}

/// Have the x87 pointers tell of this instead of what another vCPU has done.
fn replace_pointers() {
    static ZERO: u32 = 0;
    // SAFETY: x87 state that nobody uses: it has been saved, and is about to be restored. No exception is pending, and the register that the load
    // pushes to is free.
    unsafe {
        asm!("fnclex", "ffree st(7)", "fild dword ptr [{}]", in(reg) &raw const ZERO,
            options(nostack, preserves_flags, readonly));
    }
}

fn write_xcr0(value: u64) {
    let (low, high) = halves(value);
    // SAFETY: callers pass what CPUID lists as supported, in combinations that `valid_xcr0` accepts; the hypervisor uses no
    // component.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") low, in("edx") high, options(nomem, nostack, preserves_flags))
    };
}

fn probe_mxcsr_mask() -> u32 {
    #[repr(align(16))]
    struct Legacy([u8; HEADER]);
    let mut area = Legacy([0; HEADER]);
    // SAFETY: FXSAVE writes 512 bytes to an area aligned to 16.
    unsafe { asm!("fxsave64 [{}]", in(reg) &raw mut area, options(nostack, preserves_flags)) };
    let [.., a, b, c, d] = *area
        .0
        .first_chunk::<{ MXCSR_MASK + 4 }>()
        .expect("the legacy region is larger");
    // 0 stands for the mask of the first CPUs with SSE (SDM 1, 11.6.6).
    match u32::from_le_bytes([a, b, c, d]) {
        0 => 0xffbf,
        mask => mask,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test_host() -> Host {
        Host {
            xcr0: 7,
            size: 832,
            mxcsr_mask: probe_mxcsr_mask(),
            optimized: false,
            keeps_pointers: false,
        }
    }

    #[test]
    fn xcr0_combinations() {
        for good in [1, 3, 7, 0xe7, 0x2e7, 0x203] {
            assert!(valid_xcr0(good, xcr0::POLICY), "{good:#x}");
        }
        for bad in [0, 2, 5, 6, 0x27, 0xe3, 0x201 & !1, 0x1_0003, 0xb] {
            assert!(!valid_xcr0(bad, xcr0::POLICY), "{bad:#x}");
        }
        assert!(!valid_xcr0(7, 3));
    }

    #[test]
    fn images_that_would_fault_are_refused() {
        let host = test_host();
        let good = |at: usize, value: u8| {
            let mut image = std::vec![0; 832];
            image[at] = value;
            check_image(&image, &host).is_ok()
        };
        assert!(good(HEADER, 7));
        assert!(good(MXCSR, 0x80));
        assert!(!good(MXCSR + 3, 1), "reserved MXCSR bit");
        assert!(!good(HEADER, 8), "unsupported component");
        assert!(!good(HEADER + 15, 0x80), "compacted format");
        assert!(!good(HEADER + 63, 1), "reserved header byte");
        assert_eq!(check_image(&[0; 900], &host), Err(BadImage));
        assert_eq!(check_image(&[0; 100], &host), Err(BadImage));
    }

    #[test]
    fn pointers_tell_nothing_of_before() {
        /// The environment as FNSTENV stores it; the instruction pointer is its fourth word.
        fn pointer() -> u32 {
            let mut environment = [0u32; 7];
            // SAFETY: writes 28 bytes; exceptions are masked, as they are already.
            unsafe { asm!("fnstenv [{}]", in(reg) &raw mut environment, options(nostack)) };
            environment[3]
        }
        let operand = 7u32;
        // SAFETY: Rust has nothing in x87 registers between statements.
        unsafe { asm!("fninit", "fild dword ptr [{}]", in(reg) &raw const operand, options(nostack)) };
        let before = pointer();
        replace_pointers();
        let after = pointer();
        // SAFETY: as above.
        unsafe { asm!("fninit", options(nostack)) };
        assert_ne!(before, after);
    }

    #[test]
    fn mxcsr_mask_is_sane() {
        assert_eq!(probe_mxcsr_mask() & 0xffbf, 0xffbf);
    }
}
