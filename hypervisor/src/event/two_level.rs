//! The 2-level delivery ABI: bits in the shared info page, selected by bits in the vCPU's info (xen public event_channel.h).
//!
//! All of it is in pages that the guest writes too, so nothing read here is believed beyond "this bit is set".

use crate::mm::guest::GuestFrame;
use crate::sync::atomic::{AtomicU64, Ordering::SeqCst};
use crate::sync::{Rank, RwLock};
use crate::types::{Port, VcpuId};

/// Bytes of a `vcpu_info`.
pub const VCPU_INFO_SIZE: u64 = 64;
/// How many vCPUs have one in the shared info page.
const LEGACY_VCPUS: u32 = 32;
/// Offset in the shared info page, whatever the width of its words: a bit of a bitmap is in the same place.
const PENDING: u64 = 2048;
/// Offsets in a `vcpu_info`.
const UPCALL_PENDING: u64 = 0;
const UPCALL_MASK: u64 = 1;

/// What follows from the width of the guest's words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Words {
    bits: u32,
    /// Offset of the mask bits in the shared info page.
    mask: u64,
    /// Offset in a `vcpu_info` of the 64 bits in which the selector is, and its first bit there.
    selector: u64,
    first: u32,
}

impl Words {
    /// A 64-bit guest's.
    pub const LONG: Words = Words {
        bits: 64,
        mask: 2560,
        selector: 8,
        first: 0,
    };
    /// A 32-bit guest's.
    pub const COMPAT: Words = Words {
        bits: 32,
        mask: 2176,
        selector: 0,
        first: 32,
    };

    /// One more than the largest port.
    pub const fn ports(&self) -> u32 {
        self.bits * self.bits
    }

    /// The selector's bits.
    fn all(&self) -> u64 {
        u64::MAX << self.first
    }
}

/// Where a vCPU's `vcpu_info` is: in the domain's shared info page, or where the guest has registered one.
pub struct VcpuEvents {
    place: RwLock<Place>,
}

enum Place {
    /// Not yet given one, or one no more.
    Nowhere,
    /// In the shared info page.
    Shared(GuestFrame, u64),
    /// Where the guest wants it.
    Registered(GuestFrame, u64),
}

/// A `vcpu_info` can be moved only once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AlreadyRegistered;

impl VcpuEvents {
    /// Nowhere yet: events are lost.
    pub fn new() -> Self {
        Self {
            place: RwLock::new(Rank::VcpuInfo, Place::Nowhere),
        }
    }

    /// Begin in the shared info page, where the first 32 vCPUs have their place.
    pub fn attach(&self, vcpu: VcpuId, shared: GuestFrame) {
        if vcpu.0 < LEGACY_VCPUS {
            *self.place.write() = Place::Shared(shared, u64::from(vcpu.0) * VCPU_INFO_SIZE);
        }
    }

    /// Do something with the `vcpu_info`: `work` gets the frame it is in, and its offset there. `None`: it is nowhere.
    #[inline]
    pub fn with_info<R>(&self, work: impl FnOnce(&GuestFrame, u64) -> R) -> Option<R> {
        match &*self.place.read() {
            Place::Shared(frame, offset) | Place::Registered(frame, offset) => Some(work(frame, *offset)),
            Place::Nowhere => None,
        }
    }

    /// Move the `vcpu_info` to `offset` (a multiple of 8, with room for all of it) in `frame`. The caller then calls
    /// [`VcpuEvents::set_all_pending`].
    ///
    /// # Errors
    /// It has been moved before.
    pub fn register(&self, frame: GuestFrame, offset: u64) -> Result<(), AlreadyRegistered> {
        let mut place = self.place.write();
        let mut info = [0; VCPU_INFO_SIZE as usize];
        match &*place {
            Place::Registered(..) => return Err(AlreadyRegistered),
            Place::Shared(old, at) => {
                old.copy_out(*at, &mut info);
                frame.copy_in(offset, &info);
            }
            Place::Nowhere => {
                frame.copy_in(offset, &info);
                frame.u8_at(offset + UPCALL_MASK).store(1, SeqCst);
            }
        }
        *place = Place::Registered(frame, offset);
        Ok(())
    }

    /// Nowhere again; the frame is no longer held.
    pub fn forget(&self) {
        *self.place.write() = Place::Nowhere;
    }

    /// Has an event been signalled that the guest has not begun to look at? (The mask beside this flag has no meaning for guests that get their
    /// upcalls as interrupts.)
    pub fn upcall_pending(&self) -> bool {
        self.with_info(|frame, at| frame.u8_at(at + UPCALL_PENDING).load(SeqCst) != 0)
            .unwrap_or(false)
    }

    /// Clear the upcall mask (SCHEDOP_block).
    pub fn unmask_upcalls(&self) {
        self.with_info(|frame, at| frame.u8_at(at + UPCALL_MASK).store(0, SeqCst));
    }

    /// Select the word of `port`. `true`: the upcall flag was clear, so the vCPU must be told.
    #[inline]
    fn select(&self, words: Words, port: Port) -> bool {
        self.with_info(|frame, at| {
            let bit = 1 << (words.first + port.0 / words.bits);
            !test_and_set(frame.u64_at(at + words.selector), bit)
                && frame.u8_at(at + UPCALL_PENDING).swap(1, SeqCst) == 0
        })
        .unwrap_or(false)
    }

    /// Set the upcall flag. `true`: it was clear, so the vCPU must be told.
    #[inline]
    pub fn mark_upcall_pending(&self) -> bool {
        self.with_info(|frame, at| frame.u8_at(at + UPCALL_PENDING).swap(1, SeqCst) == 0)
            .unwrap_or(false)
    }

    /// After the info has moved: mark everything as pending, so that nothing is lost. The vCPU must be told.
    pub fn set_all_pending(&self, words: Words) {
        self.with_info(|frame, at| {
            frame.u64_at(at + words.selector).fetch_or(words.all(), SeqCst);
            frame.u8_at(at + UPCALL_PENDING).store(1, SeqCst);
        });
    }
}

impl Default for VcpuEvents {
    fn default() -> Self {
        Self::new()
    }
}

/// What [`set_pending`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delivery {
    /// The port was not pending before: whoever polls for it is woken.
    pub news: bool,
    /// The vCPU must be told.
    pub upcall: bool,
}

#[inline]
fn test_and_set(word: &AtomicU64, bit: u64) -> bool {
    word.fetch_or(bit, SeqCst) & bit != 0
}

#[inline]
fn place(base: u64, port: Port) -> (u64, u64) {
    (base + u64::from(port.0 / 64) * 8, 1 << (port.0 % 64))
}

/// An event on `port`, which is one of `words` and notifies the vCPU that has `events`: pending bit; then, unless masked, selector; then upcall flag.
#[inline]
pub fn set_pending(shared: &GuestFrame, words: Words, events: &VcpuEvents, port: Port) -> Delivery {
    let (word, bit) = place(PENDING, port);
    if test_and_set(shared.u64_at(word), bit) {
        return Delivery {
            news: false,
            upcall: false,
        };
    }
    let masked = shared.u64_at(place(words.mask, port).0).load(SeqCst) & bit != 0;
    Delivery {
        news: true,
        upcall: !masked && events.select(words, port),
    }
}

/// Clear the mask bit of `port`. `true`: something was pending, and the vCPU must be told.
pub fn unmask(shared: &GuestFrame, words: Words, events: &VcpuEvents, port: Port) -> bool {
    let (word, bit) = place(words.mask, port);
    let was_masked = shared.u64_at(word).fetch_and(!bit, SeqCst) & bit != 0;
    was_masked && is_pending(shared, port) && events.select(words, port)
}

/// Is the pending bit of `port` set?
pub fn is_pending(shared: &GuestFrame, port: Port) -> bool {
    let (word, bit) = place(PENDING, port);
    shared.u64_at(word).load(SeqCst) & bit != 0
}

/// Clear the pending bit of a port that is closed.
pub fn clear_pending(shared: &GuestFrame, port: Port) {
    let (word, bit) = place(PENDING, port);
    shared.u64_at(word).fetch_and(!bit, SeqCst);
}
