//! The guest's side of FIFO event channels, for vCPU 0: a queue for each priority, a word for each port.

use core::sync::atomic::Ordering::SeqCst;

use abi::event_channel::*;
use abi::hypercall::HYPERVISOR_EVENT_CHANNEL_OP;

use crate::frames::{Frames, SIZE};
use crate::hypercall;
use crate::shared::Shared;

/// The control block.
static CONTROL: Frames<1> = Frames::new();
/// Words of the first 1024 ports.
static WORDS: Frames<1> = Frames::new();

const PENDING: u32 = 1 << EVTCHN_FIFO_PENDING;
const MASKED: u32 = 1 << EVTCHN_FIFO_MASKED;
const LINKED: u32 = 1 << EVTCHN_FIFO_LINKED;
const BUSY: u32 = 1 << EVTCHN_FIFO_BUSY;

/// FIFO delivery, turned on.
pub struct Fifo {
    control: Shared,
    words: Shared,
    ready: u32,
    heads: [u32; EVTCHN_FIFO_MAX_QUEUES],
}

/// Issues an event channel operation.
pub fn op<T>(operation: u32, argument: &mut T) -> i64 {
    hypercall::op(HYPERVISOR_EVENT_CHANNEL_OP, operation, argument)
}

/// The control block's place, for vCPU 0.
pub fn control() -> EvtchnInitControl {
    EvtchnInitControl {
        control_gfn: CONTROL.first(),
        ..Default::default()
    }
}

/// The place of the first page of words.
pub fn words() -> EvtchnExpandArray {
    EvtchnExpandArray {
        array_gfn: WORDS.first(),
    }
}

impl Fifo {
    /// Turns it on, with words for the first 1024 ports. An error is the hypervisor's answer.
    pub fn start() -> Result<Self, i64> {
        // Nothing of an earlier time is left in the pages.
        let (control_page, words_page) = (Shared::of(&CONTROL), Shared::of(&WORDS));
        control_page.write(0, &[0; SIZE]);
        words_page.write(0, &[0; SIZE]);
        for answer in [
            op(EVTCHNOP_INIT_CONTROL, &mut control()),
            op(EVTCHNOP_EXPAND_ARRAY, &mut words()),
        ] {
            if answer != 0 {
                return Err(answer);
            }
        }
        Ok(Self {
            control: control_page,
            words: words_page,
            ready: 0,
            heads: [0; EVTCHN_FIFO_MAX_QUEUES],
        })
    }

    /// Takes the next word from the queues: its port, and whether there was an event.
    pub fn take(&mut self) -> Option<(u32, bool)> {
        self.ready |= self.control.word(0).swap(0, SeqCst);
        if self.ready == 0 {
            return None;
        }
        let priority = self.ready.trailing_zeros() as usize;
        let head = &mut self.heads[priority];
        if *head == 0 {
            *head = self.control.load(8 + 4 * priority);
        }
        let port = *head;
        let word = self.words.word(port as usize * 4);
        let linked = word.fetch_and(!(LINKED | EVTCHN_FIFO_LINK_MASK), SeqCst);
        *head = linked & EVTCHN_FIFO_LINK_MASK;
        if *head == 0 {
            self.ready &= !(1 << priority);
        }
        let due = |word: u32| (word & (PENDING | MASKED) == PENDING).then_some(word & !PENDING);
        Some((port, word.fetch_update(SeqCst, SeqCst, due).is_ok()))
    }

    /// Keeps events of a port back.
    pub fn mask(&self, port: u32) {
        self.words.word(port as usize * 4).fetch_or(MASKED, SeqCst);
    }

    /// Lets them come: by hypercall, if one waits.
    pub fn unmask(&self, port: u32) {
        let free = |word: u32| {
            let word = word & !BUSY;
            (word & PENDING == 0).then_some(word & !MASKED)
        };
        let word = self.words.word(port as usize * 4);
        if word.fetch_update(SeqCst, SeqCst, free).is_err() {
            op(EVTCHNOP_UNMASK, &mut EvtchnPortArg { port });
        }
    }

    /// Writes a port's word, as no guest should.
    pub fn scribble(&self, port: u32, word: u32) {
        self.words.store(port as usize * 4, word);
    }

    /// Writes a word of the control block, as no guest should.
    pub fn scribble_control(&self, index: usize, word: u32) {
        self.control.store(index * 4, word);
    }

    /// Whether every word of ports from `port` on is 0.
    pub fn untouched_from(&self, port: u32) -> bool {
        (port as usize..SIZE / 4).all(|index| self.words.load(index * 4) == 0)
    }
}
