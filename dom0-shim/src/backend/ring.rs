//! A ring of requests and responses (public/io/ring.h), from the back end's side.
//!
//! The back end keeps its own indices and never reads them back. Of what the front end writes, `req_prod` and
//! `rsp_event` are read once each time, and every request is copied out before anybody looks at it.

use core::mem::offset_of;

use abi::io::ring::{SRING_HEADER_SIZE, SringHeader, ring_entries};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Memory shared with the front end. Offsets are below [`Shared::size`], those of words multiples of four.
pub trait Shared {
    /// Bytes of it.
    fn size(&self) -> usize;
    /// Reads a word; nothing that follows is done before.
    fn load(&self, offset: usize) -> u32;
    /// Writes a word after everything before.
    fn store(&self, offset: usize, value: u32);
    /// Copies bytes out.
    fn read(&self, offset: usize, bytes: &mut [u8]);
    /// Copies bytes in.
    fn write(&self, offset: usize, bytes: &[u8]);
}

/// The front end has announced more requests than the ring holds: nothing in it can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// The back end's half of a ring.
#[derive(Debug)]
pub struct BackRing<M> {
    shared: M,
    entry_size: usize,
    entries: u32,
    /// Requests taken.
    taken: u32,
    /// Responses written, published or not.
    answered: u32,
    /// Responses published.
    published: u32,
}

impl<M: Shared> BackRing<M> {
    /// Takes up a ring with entries of `entry_size` bytes (the larger of request and response): after the responses
    /// that an earlier back end has published, if there was one.
    ///
    /// # Errors
    /// The ring's indices contradict each other, or it has no room for an entry.
    pub fn attach(shared: M, entry_size: usize) -> Result<Self, Broken> {
        let entries = ring_entries(shared.size(), entry_size);
        let start = shared.load(offset_of!(SringHeader, rsp_prod));
        let ring = Self {
            shared,
            entry_size,
            entries,
            taken: start,
            answered: start,
            published: start,
        };
        ring.announced()?;
        if entries == 0 { Err(Broken) } else { Ok(ring) }
    }

    /// How many requests fit.
    pub fn entries(&self) -> u32 {
        self.entries
    }

    /// Requests announced and not taken yet.
    fn announced(&self) -> Result<u32, Broken> {
        let announced = self.shared.load(offset_of!(SringHeader, req_prod));
        if announced.wrapping_sub(self.answered) > self.entries {
            return Err(Broken);
        }
        // Indices that go backwards come out as more than the ring holds.
        match announced.wrapping_sub(self.taken) {
            waiting if waiting <= self.entries => Ok(waiting),
            _ => Err(Broken),
        }
    }

    fn offset(&self, index: u32) -> usize {
        SRING_HEADER_SIZE + (index & (self.entries - 1)) as usize * self.entry_size
    }

    /// Requests that can be taken.
    ///
    /// # Errors
    /// The ring is broken.
    pub fn waiting(&self) -> Result<u32, Broken> {
        self.announced()
    }

    /// A copy of the request `index` behind those taken. Those below [`Self::waiting`] have been written.
    pub fn peek<T: FromBytes + IntoBytes>(&self, index: u32) -> T {
        let mut request = T::new_zeroed();
        debug_assert!(size_of::<T>() <= self.entry_size);
        let offset = self.offset(self.taken.wrapping_add(index));
        self.shared.read(offset, request.as_mut_bytes());
        request
    }

    /// Takes requests that were looked at, of those waiting.
    pub fn skip(&mut self, count: u32) {
        self.taken = self.taken.wrapping_add(count);
    }

    /// Takes the next request, if there is one: a copy that the front end cannot change.
    ///
    /// # Errors
    /// The ring is broken.
    pub fn take<T: FromBytes + IntoBytes>(&mut self) -> Result<Option<T>, Broken> {
        if self.announced()? == 0 {
            return Ok(None);
        }
        let request = self.peek(0);
        self.skip(1);
        Ok(Some(request))
    }

    /// Writes a response, to be published with others. Each request taken gets one, in any order.
    pub fn answer<T: IntoBytes + Immutable>(&mut self, response: &T) {
        debug_assert!(size_of::<T>() <= self.entry_size && self.answered != self.taken);
        self.shared.write(self.offset(self.answered), response.as_bytes());
        self.answered = self.answered.wrapping_add(1);
    }

    /// Publishes the responses written since the last time. Returns whether the front end wants an event.
    #[must_use = "the front end may wait for an event"]
    pub fn publish(&mut self) -> bool {
        let before = core::mem::replace(&mut self.published, self.answered);
        self.shared
            .store(offset_of!(SringHeader, rsp_prod), self.published);
        let wanted = self.shared.load(offset_of!(SringHeader, rsp_event));
        self.published.wrapping_sub(wanted) < self.published.wrapping_sub(before)
    }

    /// To be called before waiting for an event: asks for one with the next request. Returns whether there are
    /// requests already, for which none may come.
    ///
    /// # Errors
    /// The ring is broken.
    pub fn ask_for_event(&mut self) -> Result<bool, Broken> {
        self.ask_for_event_at(1)
    }

    /// As [`Self::ask_for_event`], for the time when `count` requests wait, at least one.
    ///
    /// # Errors
    /// The ring is broken.
    pub fn ask_for_event_at(&mut self, count: u32) -> Result<bool, Broken> {
        let event = self.taken.wrapping_add(count);
        self.shared.store(offset_of!(SringHeader, req_event), event);
        Ok(self.announced()? >= count)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use core::cell::RefCell;

    use proptest::prelude::*;

    use super::*;

    /// Pages of a front end.
    #[derive(Debug)]
    pub(crate) struct Pages(pub(crate) RefCell<Vec<u8>>);

    impl Pages {
        pub(crate) fn new(count: usize) -> Self {
            Self(RefCell::new(vec![0; count * 4096]))
        }
    }

    impl Shared for &Pages {
        fn size(&self) -> usize {
            self.0.borrow().len()
        }
        fn load(&self, offset: usize) -> u32 {
            let mut word = [0; 4];
            self.read(offset, &mut word);
            u32::from_le_bytes(word)
        }
        fn store(&self, offset: usize, value: u32) {
            self.write(offset, &value.to_le_bytes());
        }
        fn read(&self, offset: usize, bytes: &mut [u8]) {
            bytes.copy_from_slice(&self.0.borrow()[offset..][..bytes.len()]);
        }
        fn write(&self, offset: usize, bytes: &[u8]) {
            self.0.borrow_mut()[offset..][..bytes.len()].copy_from_slice(bytes);
        }
    }

    const REQ_PROD: usize = offset_of!(SringHeader, req_prod);
    const REQ_EVENT: usize = offset_of!(SringHeader, req_event);
    const RSP_PROD: usize = offset_of!(SringHeader, rsp_prod);
    const RSP_EVENT: usize = offset_of!(SringHeader, rsp_event);

    #[test]
    fn requests_and_responses_go_round() {
        let pages = Pages::new(1);
        let front = &pages;
        for index in [REQ_PROD, RSP_PROD] {
            front.store(index, u32::MAX - 2);
        }
        front.store(RSP_EVENT, u32::MAX - 1);
        let mut ring = BackRing::attach(front, 8).unwrap();
        assert_eq!(ring.entries(), 256);
        assert_eq!(ring.take::<u64>(), Ok(None));
        assert_eq!(ring.ask_for_event(), Ok(false));
        assert_eq!(front.load(REQ_EVENT), u32::MAX - 1);
        for number in 0..5_u32 {
            let index = (u32::MAX - 2).wrapping_add(number);
            front.write(64 + (index & 255) as usize * 8, &u64::from(number).to_le_bytes());
        }
        front.store(REQ_PROD, 2);
        assert_eq!(ring.ask_for_event(), Ok(true), "what came before the question");
        for number in 0..5_u64 {
            assert_eq!(ring.take(), Ok(Some(number)));
            ring.answer(&(number + 100));
        }
        assert_eq!(ring.take::<u64>(), Ok(None));
        assert!(ring.publish(), "the first response after rsp_event - 1");
        assert_eq!(front.load(RSP_PROD), 2);
        assert_eq!(front.load(64 + 8), 104);
        assert!(!ring.publish(), "nothing new");
    }

    #[test]
    fn requests_are_looked_at_before_they_are_taken() {
        let pages = Pages::new(1);
        let front = &pages;
        let mut ring = BackRing::attach(front, 8).unwrap();
        assert_eq!(ring.ask_for_event_at(3), Ok(false));
        assert_eq!(front.load(REQ_EVENT), 3);
        (0..3_u64).for_each(|number| front.write(64 + number as usize * 8, &number.to_le_bytes()));
        front.store(REQ_PROD, 3);
        assert_eq!(ring.ask_for_event_at(3), Ok(true));
        assert_eq!([0, 1, 2].map(|index| ring.peek::<u64>(index)), [0, 1, 2]);
        ring.skip(2);
        assert_eq!((ring.waiting(), ring.take::<u64>()), (Ok(1), Ok(Some(2))));
    }

    #[test]
    fn events_only_where_they_are_wanted() {
        let pages = Pages::new(1);
        let front = &pages;
        front.store(RSP_EVENT, 3);
        let mut ring = BackRing::attach(front, 8).unwrap();
        for (answered, wanted) in [(1, false), (2, false), (3, true), (4, false)] {
            front.store(REQ_PROD, answered);
            assert!(ring.take::<u64>().unwrap().is_some());
            ring.answer(&0_u64);
            assert_eq!(ring.publish(), wanted, "response {answered}");
        }
    }

    #[test]
    fn a_ring_that_cannot_be_is_refused() {
        let pages = Pages::new(1);
        let front = &pages;
        assert!(BackRing::attach(front, 5000).is_err());
        front.store(REQ_PROD, 257);
        assert!(BackRing::attach(front, 8).is_err());
        front.store(RSP_PROD, 1);
        assert!(BackRing::attach(front, 8).is_ok());
        front.store(REQ_PROD, 0);
        assert!(BackRing::attach(front, 8).is_err(), "backwards");
    }

    proptest! {
        /// Whatever the front end writes where: no panic, never more requests open than the ring holds.
        #[test]
        fn stands_any_front_end(
            pages in 1_usize..3,
            entry_size in prop_oneof![Just(8_usize), Just(12), Just(112)],
            moves in prop::collection::vec((0_usize..4, any::<u32>(), 0_u8..4), 1..60),
        ) {
            let memory = Pages::new(pages);
            let front = &memory;
            let Ok(mut ring) = BackRing::attach(front, entry_size) else { unreachable!("zeros are a ring") };
            let mut open = 0;
            for (word, value, act) in moves {
                // Small steps and wild values.
                let value = if act == 0 { value } else { front.load(REQ_PROD).wrapping_add(value % 40) };
                front.store([REQ_PROD, REQ_EVENT, RSP_PROD, RSP_EVENT][if act == 0 { word } else { 0 }], value);
                while let Ok(Some(_)) = ring.take::<[u8; 8]>() {
                    open += 1;
                }
                prop_assert!(open <= ring.entries());
                if act > 1 {
                    (0..open).for_each(|_| ring.answer(&[0_u8; 8]));
                    open = 0;
                    let _ = ring.publish();
                }
                let _ = ring.ask_for_event();
            }
        }
    }
}
