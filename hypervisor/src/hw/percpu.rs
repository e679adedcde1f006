//! What each physical CPU has for itself, reached through its GS base.
//!
//! On the host there is one CPU, number 0.
// UNSAFETY: reads the GS base, and pointers to what is never freed.
#![expect(unsafe_code, reason = "the GS base, and pointers to what is never freed")]

use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};

#[cfg(debug_assertions)]
use crate::sync::Held;

/// Most CPUs that a machine may have.
pub const MAX_CPUS: usize = 512;

/// One CPU's own data. Others may read it, and set its soft interrupts.
#[derive(Debug)]
#[repr(C)]
pub struct PerCpu {
    /// The block's own address, for the load through GS.
    this: AtomicPtr<PerCpu>,
    id: u32,
    apic_id: u32,
    softirqs: AtomicU32,
    reading: AtomicU32,
    asleep: Asleep,
    #[cfg(debug_assertions)]
    held: Held,
}

/// A CPU waits by MWAIT for this word to change: alone in its line.
#[derive(Debug)]
#[repr(align(128))]
pub struct Asleep(AtomicBool);

impl PerCpu {
    /// The block of CPU `id`, whose local APIC has number `apic_id`.
    pub const fn new(id: u32, apic_id: u32) -> Self {
        Self {
            this: AtomicPtr::new(core::ptr::null_mut()),
            id,
            apic_id,
            softirqs: AtomicU32::new(0),
            reading: AtomicU32::new(0),
            asleep: Asleep(AtomicBool::new(false)),
            #[cfg(debug_assertions)]
            held: Held::none(),
        }
    }

    /// The CPU's number, from 0 (the one that booted) on.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The number of its local APIC.
    pub fn apic_id(&self) -> u32 {
        self.apic_id
    }

    /// Does it wait by MWAIT? See [`super::idle`].
    pub fn asleep(&self) -> &AtomicBool {
        &self.asleep.0
    }

    /// Work that waits for the run loop: see [`super::irq`].
    pub fn softirqs(&self) -> &AtomicU32 {
        &self.softirqs
    }

    /// How many read the table of domains on this CPU: see [`crate::slot`].
    #[inline]
    pub fn reading(&self) -> &AtomicU32 {
        &self.reading
    }
}

/// All CPUs' blocks, by number; null: there is no such CPU yet.
static BLOCKS: [AtomicPtr<PerCpu>; MAX_CPUS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_CPUS];

/// The block of CPU `id`, if it has been started.
pub fn get(id: u32) -> Option<&'static PerCpu> {
    let block = BLOCKS.get(id as usize)?.load(Ordering::Acquire);
    // SAFETY: null, or from a `&'static` in `install`.
    unsafe { block.as_ref() }
}

/// The blocks of all CPUs that have been started.
#[cfg(target_os = "none")]
pub fn all() -> impl Iterator<Item = &'static PerCpu> {
    (0..MAX_CPUS as u32).filter_map(get)
}

/// The only block.
#[cfg(not(target_os = "none"))]
pub fn all() -> impl Iterator<Item = &'static PerCpu> {
    core::iter::once(this())
}

/// The number of CPU `id`'s local APIC; 0 if it has not been started.
pub fn apic_id(id: u32) -> u32 {
    get(id).map_or(0, PerCpu::apic_id)
}

/// Make `block` this CPU's own.
#[cfg(target_os = "none")]
pub fn install(block: &'static PerCpu) {
    let pointer = core::ptr::from_ref(block).cast_mut();
    block.this.store(pointer, Ordering::Relaxed);
    if let Some(slot) = BLOCKS.get(block.id as usize) {
        slot.store(pointer, Ordering::Release);
    }
    x86_64::registers::model_specific::GsBase::write(x86_64::VirtAddr::from_ptr(block));
}

/// This CPU's block.
#[cfg(target_os = "none")]
#[inline]
pub fn this() -> &'static PerCpu {
    let block: *const PerCpu;
    // SAFETY: [`install`] ran on this CPU before anything that asks; the first word of the block is its own address, and blocks are never freed.
    unsafe {
        core::arch::asm!("mov {}, gs:[0]", out(reg) block, options(nostack, preserves_flags, readonly, pure));
        &*block
    }
}

/// The locks that this CPU holds. `None`: it does not have its block yet.
#[cfg(all(debug_assertions, target_os = "none"))]
pub fn held() -> Option<&'static Held> {
    // The first CPU's GS base is what the boot loader left, that of others 0.
    let installed = get(0).is_some() && x86_64::registers::model_specific::GsBase::read().as_u64() != 0;
    installed.then(|| &this().held)
}

/// The locks that this thread holds, in tests.
#[cfg(all(debug_assertions, not(target_os = "none")))]
pub fn held() -> Option<&'static Held> {
    #[cfg(test)]
    {
        std::thread_local!(static HELD: &'static Held = std::boxed::Box::leak(std::boxed::Box::new(Held::none())));
        HELD.try_with(|held| *held).ok()
    }
    #[cfg(not(test))]
    None
}

/// Where [`PerCpu::softirqs`] are behind GS, for the world switch.
pub const SOFTIRQS: usize = core::mem::offset_of!(PerCpu, softirqs);

/// Does this CPU have [`PerCpu::softirqs`]? One instruction less than by [`this`], for every entry to a guest.
#[cfg(target_os = "none")]
#[inline]
pub fn any_softirq() -> bool {
    let bits: u32;
    // SAFETY: as for `this`; an aligned word that changes under us, hence not `pure`.
    unsafe {
        core::arch::asm!(
            "mov {:e}, gs:[{}]",
            out(reg) bits,
            const SOFTIRQS,
            options(nostack, preserves_flags, readonly)
        );
    }
    bits != 0
}

/// Does this CPU have [`PerCpu::softirqs`]?
#[cfg(not(target_os = "none"))]
pub fn any_softirq() -> bool {
    this().softirqs().load(core::sync::atomic::Ordering::SeqCst) != 0
}

/// This CPU's block: the only one.
#[cfg(not(target_os = "none"))]
pub fn this() -> &'static PerCpu {
    static HOST: PerCpu = PerCpu::new(0, 0);
    &HOST
}

/// This CPU's number.
#[inline]
pub fn id() -> u32 {
    this().id
}
