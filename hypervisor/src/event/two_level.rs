//! The 2-level delivery ABI: bits in the shared info page, selected by bits in the vCPU's info (xen public event_channel.h).
//!
//! All of it is in pages that the guest writes too, so nothing read here is believed beyond "this bit is set".

use crate::mm::guest::GuestFrame;
use crate::sync::RwLock;
use crate::sync::atomic::{AtomicU64, Ordering::SeqCst};
use crate::types::{Port, VcpuId};

/// One more than the largest port.
pub const PORTS: u32 = abi::event_channel::EVTCHN_2L_NR_CHANNELS;
/// Bytes of a `vcpu_info`.
pub const VCPU_INFO_SIZE: u64 = 64;
/// How many vCPUs have one in the shared info page.
const LEGACY_VCPUS: u32 = 32;
/// Offsets in the shared info page (64-bit layout).
const PENDING: u64 = 2048;
const MASK: u64 = 2560;
/// Offsets in a `vcpu_info`.
const UPCALL_PENDING: u64 = 0;
const UPCALL_MASK: u64 = 1;
const PENDING_SELECTOR: u64 = 8;

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
            place: RwLock::new(Place::Nowhere),
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
    fn select(&self, port: Port) -> bool {
        self.with_info(|frame, at| {
            !test_and_set(frame.u64_at(at + PENDING_SELECTOR), 1 << (port.0 / 64))
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
    pub fn set_all_pending(&self) {
        self.with_info(|frame, at| {
            frame.u64_at(at + PENDING_SELECTOR).store(u64::MAX, SeqCst);
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

/// An event on `port`, which is below 4096 and notifies the vCPU that has `events`: pending bit; then, unless masked, selector; then upcall flag.
#[inline]
pub fn set_pending(shared: &GuestFrame, events: &VcpuEvents, port: Port) -> Delivery {
    let (word, bit) = place(PENDING, port);
    if test_and_set(shared.u64_at(word), bit) {
        return Delivery {
            news: false,
            upcall: false,
        };
    }
    let masked = shared.u64_at(place(MASK, port).0).load(SeqCst) & bit != 0;
    Delivery {
        news: true,
        upcall: !masked && events.select(port),
    }
}

/// Clear the mask bit of `port`. `true`: something was pending, and the vCPU must be told.
pub fn unmask(shared: &GuestFrame, events: &VcpuEvents, port: Port) -> bool {
    let (word, bit) = place(MASK, port);
    let was_masked = shared.u64_at(word).fetch_and(!bit, SeqCst) & bit != 0;
    was_masked && is_pending(shared, port) && events.select(port)
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
