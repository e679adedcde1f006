//! A ring of block requests, served.
//!
//! A disk that takes its time gets several requests at once, and they are answered as it finishes them; so there is no
//! order between requests of a ring, as with Linux's back end. But a flush or a barrier begins when all before it
//! are done, and what comes after it waits.

use core::future::Future;

use abi::io::blkif::{
    BLKIF_OP_DISCARD, BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_WRITE_BARRIER, BlkifRequest, BlkifResponse,
};
use futures_util::future::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};

use super::request::{bytes_at_most, serve};
use super::ring::BlockRing;
use super::{BlockDevice, Discard, Memory};
use crate::backend::ring::{Broken, Shared};
use crate::backend::{Events, Stopped};
use crate::executor::{Either, either};
use crate::supply::Supply;

/// Requests of a ring that are under way at once.
pub const UNDER_WAY_MAX: usize = 16;
/// Once they have so many bytes, no more are taken: their data is in the back end's memory meanwhile.
pub const BYTES_MAX: usize = 2 << 20;
/// With so many bytes a ring has had its turn: a disk that takes no time copies them while nobody else is served.
const BYTES_PER_TURN: usize = 1 << 20;

/// Serves a ring until it is stopped; all requests that were taken have been answered then. A request begins when there
/// is memory for its data in `in_flight`, which all rings share. It has all that it needs then, so it ends and gives
/// that back, whoever else waits.
///
/// # Errors
/// The front end has broken the ring.
pub async fn run<M: Shared>(
    mut ring: BlockRing<M>,
    events: &impl Events,
    disk: &impl BlockDevice,
    discards: Discard,
    memory: &impl Memory,
    in_flight: &Supply,
) -> Result<(), Broken> {
    let start = |request: BlkifRequest| async move {
        let bytes = bytes_at_most(&request);
        // What takes no time is over before anything else can begin.
        let _share = match disk.takes_time() {
            true => Some(in_flight.take(disk.memory(bytes)).await),
            false => None,
        };
        (serve(&request, disk, discards, memory).await, bytes)
    };
    let mut under_way = UnderWay::default();
    let result = rounds(&mut ring, events, disk.takes_time(), start, &mut under_way).await;
    under_way.finish(&mut ring).await;
    if ring.publish() {
        events.notify();
    }
    result
}

/// Takes and answers requests until stopped.
async fn rounds<M: Shared, F: Future<Output = (BlkifResponse, usize)>>(
    ring: &mut BlockRing<M>,
    events: &impl Events,
    takes_time: bool,
    start: impl Fn(BlkifRequest) -> F,
    under_way: &mut UnderWay<F>,
) -> Result<(), Broken> {
    loop {
        let mut turn = 0;
        for _ in 0..ring.entries() {
            if under_way.is_full() || turn >= BYTES_PER_TURN {
                break;
            }
            let Some(request) = ring.take()? else {
                break;
            };
            turn += match request.operation {
                // What a disk forgets may be all of it.
                BLKIF_OP_DISCARD => BYTES_PER_TURN,
                _ => bytes_at_most(&request),
            };
            if takes_time && !is_barrier(&request) {
                under_way.add(bytes_at_most(&request), start(request));
            } else {
                under_way.finish(ring).await;
                let (response, _) = start(request).await;
                ring.answer(&response);
            }
        }
        // Begins what is new, too.
        while !under_way.is_empty()
            && let Some(Some(done)) = under_way.next().now_or_never()
        {
            ring.answer(&done);
        }
        if ring.publish() {
            events.notify();
        }
        let more = !under_way.is_full() && ring.ask_for_event()?;
        let waited = if more {
            // After the others' turn.
            events.turn().await
        } else if under_way.is_empty() {
            events.event_or_end().await
        } else {
            match either(events.event(), under_way.next()).await {
                Either::First(waited) => waited,
                Either::Second(done) => {
                    done.iter().for_each(|response| ring.answer(response));
                    Ok(())
                }
            }
        };
        if let Err(Stopped) = waited {
            return Ok(());
        }
    }
}

fn is_barrier(request: &BlkifRequest) -> bool {
    [BLKIF_OP_WRITE_BARRIER, BLKIF_OP_FLUSH_DISKCACHE].contains(&request.operation)
}

/// Requests that the disk has.
struct UnderWay<F> {
    requests: FuturesUnordered<F>,
    bytes: usize,
}

impl<F> Default for UnderWay<F> {
    fn default() -> Self {
        Self {
            requests: FuturesUnordered::new(),
            bytes: 0,
        }
    }
}

impl<F: Future<Output = (BlkifResponse, usize)>> UnderWay<F> {
    fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    fn is_full(&self) -> bool {
        self.requests.len() >= UNDER_WAY_MAX || self.bytes >= BYTES_MAX
    }

    fn add(&mut self, bytes: usize, request: F) {
        self.bytes += bytes;
        self.requests.push(request);
    }

    /// The next that is done; `None`: there are none.
    async fn next(&mut self) -> Option<BlkifResponse> {
        let (response, bytes) = self.requests.next().await?;
        self.bytes -= bytes;
        Some(response)
    }

    /// Waits for all.
    async fn finish<M: Shared>(&mut self, ring: &mut BlockRing<M>) {
        while let Some(response) = self.next().await {
            ring.answer(&response);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::mem::offset_of;
    use std::ops::Range;
    use std::rc::Rc;

    use abi::io::blkif::{
        BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_RSP_ERROR, BLKIF_RSP_OKAY, BlkifRequestSegment,
    };
    use abi::io::ring::{SRING_HEADER_SIZE, SringHeader};
    use zerocopy::{FromBytes, IntoBytes};

    use super::*;
    use crate::backend::ring::tests::Pages;
    use crate::block::ring::Protocol;
    use crate::block::{Access, Failed, Segment};
    use crate::executor::{Executor, Signal, pass};

    /// A disk that finishes what it is told to, in any order.
    #[derive(Default)]
    struct Slow {
        /// First sectors (those of a flush: none), and how each ends.
        begun: RefCell<Vec<(Option<u64>, Rc<End>)>>,
        /// It finishes everything at once.
        at_once: bool,
    }

    #[derive(Default)]
    struct End {
        result: Cell<Option<Result<(), Failed>>>,
        there: Signal,
    }

    impl Slow {
        fn begun(&self) -> Vec<Option<u64>> {
            self.begun.borrow().iter().map(|(sector, _)| *sector).collect()
        }

        fn finish(&self, sector: Option<u64>, result: Result<(), Failed>) {
            let mut begun = self.begun.borrow_mut();
            let place = begun
                .iter()
                .position(|(at, _)| *at == sector)
                .expect("it was begun");
            let (_, end) = begun.remove(place);
            end.result.set(Some(result));
            end.there.notify();
        }

        async fn wait(&self, sector: Option<u64>) -> Result<(), Failed> {
            if self.at_once {
                return Ok(());
            }
            let end = Rc::new(End::default());
            self.begun.borrow_mut().push((sector, end.clone()));
            end.there.wait().await;
            end.result.get().expect("it has ended")
        }
    }

    impl BlockDevice for Slow {
        fn sectors(&self) -> u64 {
            1 << 20
        }
        fn access(&self) -> Access {
            Access::ReadWrite
        }
        fn takes_time(&self) -> bool {
            !self.at_once
        }
        fn memory(&self, bytes: usize) -> usize {
            bytes
        }
        fn discard_granularity(&self) -> Option<u32> {
            Some(512)
        }
        async fn read(
            &self,
            sectors: Range<u64>,
            take: impl FnOnce(&[&[u8]]) -> Result<(), Failed>,
        ) -> Result<(), Failed> {
            self.wait(Some(sectors.start)).await?;
            take(&[&vec![0; (sectors.end - sectors.start) as usize * 512]])
        }
        async fn write(
            &self,
            sectors: Range<u64>,
            fill: impl FnOnce(&mut [&mut [u8]]) -> Result<(), Failed>,
        ) -> Result<(), Failed> {
            fill(&mut [&mut vec![0; (sectors.end - sectors.start) as usize * 512]])?;
            self.wait(Some(sectors.start)).await
        }
        async fn flush(&self) -> Result<(), Failed> {
            self.wait(None).await
        }
        async fn discard(&self, _: Range<u64>) -> Result<(), Failed> {
            Ok(())
        }
    }

    /// All grants are good.
    struct Granted;

    impl Memory for Granted {
        fn copy_to(&self, _: &[(Segment, &[u8])]) -> Result<(), Failed> {
            Ok(())
        }
        fn copy_from(&self, _: &mut [(Segment, &mut [u8])]) -> Result<(), Failed> {
            Ok(())
        }
    }

    #[derive(Default)]
    struct Wire {
        fired: Signal,
        stopping: Cell<bool>,
        leaving: Cell<bool>,
        notified: Cell<u32>,
    }

    impl Events for Rc<Wire> {
        async fn event(&self) -> Result<(), Stopped> {
            self.fired.wait().await;
            if self.stopping.get() { Err(Stopped) } else { Ok(()) }
        }
        async fn event_or_end(&self) -> Result<(), Stopped> {
            if self.leaving.get() {
                Err(Stopped)
            } else {
                self.event().await
            }
        }
        async fn turn(&self) -> Result<(), Stopped> {
            pass().await;
            Ok(())
        }
        fn notify(&self) {
            self.notified.set(self.notified.get() + 1);
        }
    }

    /// A front end with a ring that is served.
    struct Front {
        pages: &'static Pages,
        disk: Rc<Slow>,
        wire: Rc<Wire>,
        executor: Executor,
        ended: Rc<Cell<Option<Result<(), Broken>>>>,
        sent: u32,
        seen: u32,
    }

    impl Front {
        fn new() -> Self {
            Self::with(Slow::default(), &Supply::new(1 << 30))
        }

        fn with(disk: Slow, in_flight: &Supply) -> Self {
            let pages: &'static Pages = Box::leak(Box::new(Pages::new(1)));
            let ring = BlockRing::attach(pages, Protocol::X86_64).expect("zeros are a ring");
            let (disk, wire, ended) = (Rc::new(disk), Rc::new(Wire::default()), Rc::new(Cell::new(None)));
            let executor = Executor::default();
            let task = {
                let (disk, wire, ended) = (disk.clone(), wire.clone(), ended.clone());
                let in_flight = in_flight.clone();
                async move {
                    ended.set(Some(
                        run(ring, &wire, &*disk, Discard::Offered, &Granted, &in_flight).await,
                    ))
                }
            };
            executor.spawner().spawn(task);
            Self {
                pages,
                disk,
                wire,
                executor,
                ended,
                sent: 0,
                seen: 0,
            }
        }

        fn settle(&mut self) {
            while self.executor.run_round() {}
        }

        /// Sends a request for a page from `sector` on, whose id is the sector.
        fn send(&mut self, operation: u8, sector: u64) {
            let pages = u8::from(operation != BLKIF_OP_FLUSH_DISKCACHE);
            self.send_pages(operation, sector, pages);
        }

        /// As [`Self::send`], for so many pages.
        fn send_pages(&mut self, operation: u8, sector: u64, pages: u8) {
            let mut request = BlkifRequest {
                operation,
                nr_segments: pages,
                id: sector,
                sector_number: sector,
                ..Default::default()
            };
            request.seg.fill(BlkifRequestSegment {
                last_sect: 7,
                ..Default::default()
            });
            let at = SRING_HEADER_SIZE + (self.sent % 32) as usize * size_of::<BlkifRequest>();
            let pages = self.pages;
            Shared::write(&pages, at, request.as_bytes());
            self.sent += 1;
            Shared::store(&pages, offset_of!(SringHeader, req_prod), self.sent);
        }

        fn fire(&mut self) {
            self.wire.fired.notify();
            self.settle();
        }

        fn finish(&mut self, sector: Option<u64>, result: Result<(), Failed>) {
            self.disk.finish(sector, result);
            self.settle();
        }

        /// Ids and statuses of new responses.
        fn responses(&mut self) -> Vec<(u64, i16)> {
            let pages = self.pages;
            let published = Shared::load(&pages, offset_of!(SringHeader, rsp_prod));
            let new = self.seen..published;
            self.seen = published;
            new.map(|index| {
                let at = SRING_HEADER_SIZE + (index % 32) as usize * size_of::<BlkifRequest>();
                let mut bytes = [0; size_of::<BlkifResponse>()];
                Shared::read(&pages, at, &mut bytes);
                let response = BlkifResponse::read_from_bytes(&bytes).expect("its size");
                (response.id, response.status)
            })
            .collect()
        }
    }

    #[test]
    fn several_are_under_way_and_answered_as_they_end() {
        let mut front = Front::new();
        for sector in [8, 16, 24] {
            front.send(BLKIF_OP_WRITE, sector);
        }
        front.fire();
        assert_eq!(front.disk.begun(), [Some(8), Some(16), Some(24)]);
        assert_eq!(front.responses(), []);
        front.finish(Some(16), Err(Failed));
        assert_eq!(front.responses(), [(16, BLKIF_RSP_ERROR)]);
        front.send(BLKIF_OP_READ, 32);
        front.fire();
        assert_eq!(front.disk.begun(), [Some(8), Some(24), Some(32)]);
        for sector in [32, 8, 24] {
            front.finish(Some(sector), Ok(()));
            assert_eq!(front.responses(), [(sector, BLKIF_RSP_OKAY)]);
        }
    }

    #[test]
    fn a_flush_parts_what_is_before_from_what_is_after() {
        for operation in [BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_WRITE_BARRIER] {
            let mut front = Front::new();
            front.send(BLKIF_OP_WRITE, 8);
            front.send(BLKIF_OP_WRITE, 16);
            front.send(operation, 24);
            front.send(BLKIF_OP_WRITE, 32);
            front.fire();
            front.finish(Some(16), Ok(()));
            assert_eq!(front.disk.begun(), [Some(8)]);
            front.finish(Some(8), Ok(()));
            if operation == BLKIF_OP_WRITE_BARRIER {
                assert_eq!(front.disk.begun(), [Some(24)]);
                front.finish(Some(24), Ok(()));
            }
            assert_eq!(front.disk.begun(), [None]);
            front.finish(None, Ok(()));
            assert_eq!(front.disk.begun(), [Some(32)]);
            let ids: Vec<_> = front.responses().iter().map(|(id, _)| *id).collect();
            assert_eq!(ids, [16, 8, 24]);
        }
    }

    #[test]
    fn a_front_end_that_leaves_gets_all_its_answers() {
        let mut front = Front::new();
        let all = (0..UNDER_WAY_MAX as u64 + 8).map(|index| index * 8);
        all.clone().for_each(|sector| front.send(BLKIF_OP_READ, sector));
        front.fire();
        front.wire.leaving.set(true);
        for sector in all {
            assert_eq!(front.ended.take(), None);
            front.finish(Some(sector), Ok(()));
            assert_eq!(front.responses(), [(sector, BLKIF_RSP_OKAY)]);
        }
        assert_eq!(front.ended.take(), Some(Ok(())));
    }

    #[test]
    fn no_more_than_the_limit_are_under_way() {
        let mut front = Front::new();
        for index in 0..30 {
            front.send(BLKIF_OP_READ, index * 8);
        }
        front.fire();
        assert_eq!(front.disk.begun().len(), UNDER_WAY_MAX);
        front.finish(Some(40), Ok(()));
        assert_eq!(front.disk.begun().len(), UNDER_WAY_MAX);
        while let Some(sector) = front.disk.begun().pop() {
            front.finish(sector, Ok(()));
        }
        assert_eq!(front.responses().len(), 30);
    }

    #[test]
    fn a_turn_is_short_on_a_disk_that_takes_no_time() {
        let quick = || {
            let disk = Slow {
                at_once: true,
                ..Default::default()
            };
            Front::with(disk, &Supply::new(0))
        };
        let mut front = quick();
        (0..32).for_each(|index| front.send_pages(BLKIF_OP_READ, index * 88, 11));
        front.executor.run_round();
        assert_eq!(front.responses().len(), BYTES_PER_TURN.div_ceil(11 << 12));
        front.settle();
        assert_eq!(front.responses().len(), 32 - BYTES_PER_TURN.div_ceil(11 << 12));

        let mut front = quick();
        (0..3).for_each(|index| front.send(BLKIF_OP_DISCARD, index));
        for _ in 0..3 {
            front.executor.run_round();
            assert_eq!(front.responses().len(), 1);
        }
    }

    #[test]
    fn rings_wait_for_the_memory_that_they_share() {
        let in_flight = Supply::new(3 << 12);
        let mut fronts = [(); 2].map(|()| Front::with(Slow::default(), &in_flight));
        (0..4).for_each(|index| fronts[0].send(BLKIF_OP_READ, index * 8));
        fronts[0].fire();
        assert_eq!(fronts[0].disk.begun(), [Some(0), Some(8), Some(16)]);
        // More than there is in all.
        fronts[1].send_pages(BLKIF_OP_READ, 32, 5);
        fronts[1].fire();
        assert_eq!(fronts[1].disk.begun(), []);
        fronts[0].finish(Some(8), Ok(()));
        assert_eq!(
            fronts[0].disk.begun(),
            [Some(0), Some(16), Some(24)],
            "came first"
        );
        // Who waits for memory is served to the end, too.
        fronts[1].wire.stopping.set(true);
        fronts[1].fire();
        for sector in [0, 24, 16] {
            assert_eq!(fronts[1].disk.begun(), []);
            fronts[0].finish(Some(sector), Ok(()));
            fronts[1].settle();
        }
        assert_eq!(fronts[1].disk.begun(), [Some(32)]);
        fronts[1].finish(Some(32), Ok(()));
        assert_eq!(fronts[1].responses(), [(32, BLKIF_RSP_OKAY)]);
        assert_eq!(fronts[1].ended.get(), Some(Ok(())));
    }

    #[test]
    fn what_is_under_way_is_finished_before_the_end() {
        let mut front = Front::new();
        front.send(BLKIF_OP_WRITE, 8);
        front.fire();
        front.wire.stopping.set(true);
        front.fire();
        assert_eq!(front.ended.get(), None);
        front.finish(Some(8), Ok(()));
        assert_eq!(front.ended.get(), Some(Ok(())));
        assert_eq!(front.responses(), [(8, BLKIF_RSP_OKAY)]);
    }

    #[test]
    fn a_broken_ring_ends_when_the_disk_is_done() {
        let mut front = Front::new();
        front.send(BLKIF_OP_WRITE, 8);
        front.fire();
        front.sent += 1000;
        front.send(BLKIF_OP_WRITE, 16);
        front.fire();
        assert_eq!(front.ended.get(), None);
        front.finish(Some(8), Ok(()));
        assert_eq!(front.ended.get(), Some(Err(Broken)));
    }
}
