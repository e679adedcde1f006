//! The FIFO delivery ABI: a word for each port, linked to a queue for each priority of each vCPU (xen public event_channel.h).
//!
//! The words are in pages that the guest writes too. An event sets PENDING; if the word is neither MASKED nor LINKED, it becomes LINKED and
//! goes to its queue's end: into the link of the word that is last there, or into the queue's head if that one is not LINKED any more. The guest
//! takes words from the head, clearing LINKED and the link. While a link is set the word is BUSY if the guest was in the way once: it then
//! changes it at most by masking, and by clearing PENDING and LINKED.
//!
//! Which word is last is remembered here, by port, and no link or head is ever read: what a guest writes leads nowhere, and can lose only
//! events of its own.
//!
//! A queue has a lock, held for as long as the above takes. Without one, two senders that have agreed on their places could find
//! the first of their words consumed and sent again in between, and link both words to each other, where no head leads to them.

use alloc::boxed::Box;

use abi::event_channel::{
    EVTCHN_FIFO_BUSY, EVTCHN_FIFO_LINK_MASK, EVTCHN_FIFO_LINKED, EVTCHN_FIFO_MASKED, EVTCHN_FIFO_MAX_QUEUES,
    EVTCHN_FIFO_NR_CHANNELS, EVTCHN_FIFO_PENDING, EVTCHN_FIFO_PRIORITY_DEFAULT, EvtchnFifoControlBlock,
};

use super::two_level::{Delivery, VcpuEvents};
use crate::mm::fallible::{self, OutOfMemory};
use crate::mm::guest::GuestFrame;
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, Ordering::SeqCst};
use crate::sync::{Mutex, MutexGuard, Once, Rank, RwLock};
use crate::types::{PAGE_SIZE, Port, VcpuId};

const PENDING: u32 = 1 << EVTCHN_FIFO_PENDING;
const MASKED: u32 = 1 << EVTCHN_FIFO_MASKED;
const LINKED: u32 = 1 << EVTCHN_FIFO_LINKED;
const BUSY: u32 = 1 << EVTCHN_FIFO_BUSY;

/// Words in a page.
pub const WORDS: u32 = (PAGE_SIZE / 4) as u32;
/// Pages that all ports need.
const PAGES: u32 = EVTCHN_FIFO_NR_CHANNELS / WORDS;
/// Bytes of a control block, and where in it the heads begin.
const CONTROL_SIZE: u64 = size_of::<EvtchnFifoControlBlock>() as u64;
const HEADS: u64 = core::mem::offset_of!(EvtchnFifoControlBlock, head) as u64;
/// How often a guest can change a word that is LINKED and BUSY, if it keeps to the protocol.
const MAX_CHANGES: u32 = 4;
/// How often a port may go to another queue under a sender's hands, before that sender leaves it to the others.
const MAX_MOVES: u32 = 16;

const QUIET: Delivery = Delivery {
    news: false,
    upcall: false,
};

/// Why a page or a block was not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The guest has not switched to FIFO.
    Off,
    /// All pages that ports can need are there.
    Full,
    /// The vCPU has a control block, or there is no such vCPU.
    Taken,
    /// There is no memory for the queues.
    OutOfMemory,
}

impl From<OutOfMemory> for Refused {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// A vCPU's queue of one priority.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct QueueId(u16);

impl QueueId {
    fn new(vcpu: VcpuId, priority: u8) -> Self {
        Self((vcpu.0 as u16) << 4 | u16::from(priority & 15))
    }

    fn vcpu(self) -> usize {
        usize::from(self.0 >> 4)
    }

    fn priority(self) -> u8 {
        (self.0 & 15) as u8
    }
}

/// What is kept of a port for this ABI, whichever the domain uses.
pub struct PortState {
    priority: AtomicU8,
    /// It became pending when it had no word.
    held_back: AtomicBool,
    /// The [`QueueId`] of the queue that it was linked to last; changes with the locks of both held.
    queue: AtomicU16,
}

impl PortState {
    /// A port that was never bound.
    pub(super) fn new() -> Self {
        Self {
            priority: AtomicU8::new(EVTCHN_FIFO_PRIORITY_DEFAULT as u8),
            held_back: AtomicBool::new(false),
            queue: AtomicU16::new(0),
        }
    }

    /// The port is bound: to the default priority. (It may still be linked to an old queue, where the guest will find it.)
    pub fn bound(&self) {
        self.set_priority(EVTCHN_FIFO_PRIORITY_DEFAULT as u8);
    }

    /// Events from now on go to the queue of this priority (0 to 15).
    pub fn set_priority(&self, priority: u8) {
        self.priority.store(priority, SeqCst);
    }

    /// It is pending, though it has no word yet.
    pub fn hold_back(&self) {
        // A swap, as by those who take it: models know an order of these. (It is what a store of this kind is to the CPU.)
        self.held_back.swap(true, SeqCst);
    }

    /// Was it held back? It is no more.
    pub fn take_held_back(&self) -> bool {
        self.held_back.swap(false, SeqCst)
    }

    fn last_queue(&self) -> QueueId {
        QueueId(self.queue.load(SeqCst))
    }
}

/// A domain's FIFO delivery: off until the guest turns it on.
pub struct Fifo {
    queues: RwLock<Option<Box<Queues>>>,
}

impl Fifo {
    /// Off.
    pub fn new() -> Self {
        Self {
            queues: RwLock::new(Rank::Queues, None),
        }
    }

    /// Give `vcpu` a control block at `offset` (a multiple of 8, with room for it) in `frame`. The first one turns FIFO on for a domain of
    /// `vcpus` vCPUs: `true`. The caller holds the domain's event lock.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn set_control(
        &self,
        vcpu: VcpuId,
        vcpus: usize,
        frame: GuestFrame,
        offset: u64,
    ) -> Result<bool, Refused> {
        if let Some(queues) = self.queues.read().as_deref() {
            return queues.set_control(vcpu, frame, offset).map(|()| false);
        }
        let queues = fallible::boxed(Queues::new(vcpus)?)?;
        queues.set_control(vcpu, frame, offset)?;
        *self.queues.write() = Some(queues);
        Ok(true)
    }

    /// `frame` holds the words of the next 1024 ports, of which this returns the first. The caller holds the domain's event lock, and then
    /// delivers what those ports held back.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn add_page(&self, frame: GuestFrame) -> Result<Port, Refused> {
        let queues = self.queues.read();
        let pages = &queues.as_deref().ok_or(Refused::Off)?.pages;
        let free = pages.iter().position(|page| page.get().is_none());
        let index = free.ok_or(Refused::Full)?;
        if let Some(page) = pages.get(index) {
            page.call_once(|| frame);
        }
        Ok(Port(index as u32 * WORDS))
    }

    /// Back to nothing: no page of the guest's is held. The caller holds the domain's event lock, and no port is bound, so that nobody
    /// begins to send.
    pub fn turn_off(&self) {
        let queues = self.queues.write().take();
        drop(queues);
    }

    /// An event on `port`, which notifies the vCPU that has `events`.
    #[inline]
    pub fn set_pending(&self, port: Port, state: &PortState, vcpu: VcpuId, events: &VcpuEvents) -> Delivery {
        let queues = self.queues.read();
        let Some(queues) = queues.as_deref() else {
            return QUIET;
        };
        let Some(word) = queues.word_or_hold_back(port, state) else {
            return QUIET;
        };
        let before = word.fetch_or(PENDING, SeqCst);
        // A guest unmasks only what is not pending, and leaves the rest to us; one that takes the word from its queue looks at PENDING after.
        Delivery {
            news: before & PENDING == 0,
            upcall: before & (MASKED | LINKED) == 0 && queues.link(port, word, state, vcpu, events),
        }
    }

    /// Clear MASKED; deliver what was pending. `true`: the vCPU must be told.
    pub fn unmask(&self, port: Port, state: &PortState, vcpu: VcpuId, events: &VcpuEvents) -> bool {
        let queues = self.queues.read();
        let Some(queues) = queues.as_deref() else {
            return false;
        };
        let Some(word) = queues.word(port) else {
            return false;
        };
        let before = word.fetch_and(!MASKED, SeqCst);
        before & (PENDING | LINKED) == PENDING && queues.link(port, word, state, vcpu, events)
    }

    fn word_has(&self, port: Port, bit: u32) -> bool {
        let queues = self.queues.read();
        let word = queues.as_deref().and_then(|queues| queues.word(port));
        word.is_some_and(|word| word.load(SeqCst) & bit != 0)
    }

    /// Is PENDING set?
    pub fn is_pending(&self, port: Port) -> bool {
        self.word_has(port, PENDING)
    }

    /// Is the port's word in a queue, so that the port cannot have a new purpose yet?
    pub fn is_busy(&self, port: Port) -> bool {
        self.word_has(port, LINKED)
    }

    /// Clear PENDING of a port that is closed. Its word stays where it is linked; the guest passes over it.
    pub fn clear_pending(&self, port: Port) {
        let queues = self.queues.read();
        if let Some(word) = queues.as_deref().and_then(|queues| queues.word(port)) {
            word.fetch_and(!PENDING, SeqCst);
        }
    }
}

impl Default for Fifo {
    fn default() -> Self {
        Self::new()
    }
}

/// Where a vCPU finds the heads of its queues.
struct Control {
    frame: GuestFrame,
    offset: u64,
}

/// A queue as senders see it: the port whose word is last in it, 0 if there was none.
struct Tail(Port);

struct VcpuQueues {
    control: Once<Control>,
    tails: [Mutex<Tail>; EVTCHN_FIFO_MAX_QUEUES],
}

struct Queues {
    pages: [Once<GuestFrame>; PAGES as usize],
    vcpus: Box<[VcpuQueues]>,
}

impl Queues {
    fn new(vcpus: usize) -> Result<Self, OutOfMemory> {
        let queues = |_| VcpuQueues {
            control: Once::new(),
            tails: core::array::from_fn(|_| Mutex::new(Rank::Queue, Tail(Port(0)))),
        };
        Ok(Self {
            pages: [const { Once::new() }; PAGES as usize],
            vcpus: fallible::slice(vcpus, queues)?,
        })
    }

    fn set_control(&self, vcpu: VcpuId, frame: GuestFrame, offset: u64) -> Result<(), Refused> {
        let control = &self.vcpus.get(vcpu.0 as usize).ok_or(Refused::Taken)?.control;
        if control.get().is_some() {
            return Err(Refused::Taken);
        }
        control.call_once(|| Control { frame, offset });
        Ok(())
    }

    #[inline]
    fn word(&self, port: Port) -> Option<&AtomicU32> {
        let page = self.pages.get((port.0 / WORDS) as usize)?.get()?;
        Some(page.u32_at(u64::from(port.0 % WORDS) * 4))
    }

    /// The port's word. If it has none, the event is remembered until it has one, which may be just now.
    #[inline]
    fn word_or_hold_back(&self, port: Port, state: &PortState) -> Option<&AtomicU32> {
        self.word(port).or_else(|| {
            state.hold_back();
            self.word(port).filter(|_| state.take_held_back())
        })
    }

    /// Put the word of `port`, which is pending and not masked, at its queue's end. `true`: the vCPU must be told.
    #[inline]
    fn link(
        &self,
        port: Port,
        word: &AtomicU32,
        state: &PortState,
        vcpu: VcpuId,
        events: &VcpuEvents,
    ) -> bool {
        let queue = QueueId::new(vcpu, state.priority.load(SeqCst));
        // A guest does not unmask events of a vCPU before that has a control block.
        let Some(vcpu) = self.vcpus.get(queue.vcpu()) else {
            return false;
        };
        let (Some(control), Some(tail)) = (vcpu.control.get(), vcpu.tail(queue)) else {
            return false;
        };
        let Some(mut locked) = self.lock(state, queue, tail) else {
            return false;
        };
        if word.fetch_or(LINKED, SeqCst) & LINKED != 0 {
            return false;
        }
        state.queue.store(queue.0, SeqCst);
        // Being linked anew it is the end of no queue, but looks like it.
        locked.forget(port);
        let tail = &mut locked.queue.0;
        let last = Some(*tail).filter(|last| last.0 != 0);
        let linked = last
            .and_then(|last| self.word(last))
            .is_some_and(|last| set_link(last, port));
        if !linked {
            let head = HEADS + u64::from(queue.priority()) * 4;
            control.frame.u32_at(control.offset + head).store(port.0, SeqCst);
        }
        *tail = port;
        drop(locked);
        let ready = 1 << queue.priority();
        !linked
            && control.frame.u32_at(control.offset).fetch_or(ready, SeqCst) & ready == 0
            && events.mark_upcall_pending()
    }

    /// The locks of `queue`, which is `tail`'s, and of the queue that the port was in last.
    #[inline(always)]
    fn lock<'a>(&'a self, state: &PortState, queue: QueueId, tail: &'a Mutex<Tail>) -> Option<Locked<'a>> {
        // Ports stay where they are, mostly.
        if state.last_queue() == queue {
            let locked = Locked {
                queue: tail.lock(),
                last: None,
            };
            if state.last_queue() == queue {
                return Some(locked);
            }
        }
        self.lock_both(state, queue, tail)
    }

    #[inline(never)]
    fn lock_both<'a>(
        &'a self,
        state: &PortState,
        queue: QueueId,
        tail: &'a Mutex<Tail>,
    ) -> Option<Locked<'a>> {
        for _ in 0..MAX_MOVES {
            let last = state.last_queue();
            let last_tail = self.vcpus.get(last.vcpu())?.tail(last)?;
            let locked = match last.cmp(&queue) {
                core::cmp::Ordering::Equal => Locked {
                    queue: tail.lock(),
                    last: None,
                },
                core::cmp::Ordering::Less => {
                    let last = last_tail.lock();
                    Locked {
                        queue: tail.lock(),
                        last: Some(last),
                    }
                }
                core::cmp::Ordering::Greater => Locked {
                    queue: tail.lock(),
                    last: Some(last_tail.lock()),
                },
            };
            if state.last_queue() == last {
                return Some(locked);
            }
        }
        None
    }
}

impl VcpuQueues {
    /// The one of this vCPU's that has the priority of `queue`.
    #[inline]
    fn tail(&self, queue: QueueId) -> Option<&Mutex<Tail>> {
        self.tails.get(usize::from(queue.priority()))
    }
}

/// The locks that linking a word takes, in the order of their numbers.
struct Locked<'a> {
    queue: MutexGuard<'a, Tail>,
    last: Option<MutexGuard<'a, Tail>>,
}

impl Locked<'_> {
    /// `port` is not the end of its last queue any more.
    #[inline]
    fn forget(&mut self, port: Port) {
        let last = self.last.as_mut().unwrap_or(&mut self.queue);
        if last.0 == port {
            last.0 = Port(0);
        }
    }
}

/// Make `port` follow `last`. `false`: that word is not LINKED, so the guest has consumed it, and all before it.
#[inline]
fn set_link(last: &AtomicU32, port: Port) -> bool {
    let mut seen = last.load(SeqCst);
    for change in 0..=MAX_CHANGES {
        if seen & LINKED == 0 {
            break;
        }
        let new = seen & !(BUSY | EVTCHN_FIFO_LINK_MASK) | port.0;
        match last.compare_exchange(seen, new, SeqCst, SeqCst) {
            Ok(_) => return true,
            Err(_) if change == 0 => seen = last.fetch_or(BUSY, SeqCst) | BUSY,
            Err(now) => seen = now,
        }
    }
    if seen & BUSY != 0 {
        last.fetch_and(!BUSY, SeqCst);
    }
    false
}

/// Does a control block fit at `offset` of a page?
pub fn control_fits(offset: u32) -> bool {
    u64::from(offset) <= PAGE_SIZE - CONTROL_SIZE && offset.is_multiple_of(8)
}
