//! A block front end that sends what it is told to.

use alloc::format;
use alloc::string::String;
use core::mem::offset_of;

use abi::io::blkif::*;
use abi::io::ring::{SRING_HEADER_SIZE, SringHeader, ring_entries};
use guest_rt::event;
use guest_rt::hypercall::{event_channel, sched};
use zerocopy::{FromBytes, IntoBytes, transmute};

use crate::frames::{Frames, SIZE};
use crate::granting::Grants;
use crate::shared::Shared;
use crate::xenstore::Xenstore;

/// The disk.
pub const DEVICE: &str = "device/vbd/51712";
/// Frames for data.
pub const DATA_FRAMES: usize = 32;

static RING: Frames<2> = Frames::new();
static DATA: Frames<DATA_FRAMES> = Frames::new();
static INDIRECT: Frames<1> = Frames::new();

/// Grant of the ring.
pub const RING_REF: u32 = 8;
/// Grant of a page of segments.
pub const INDIRECT_REF: u32 = 9;
/// Grant of a page that may only be read.
pub const READ_ONLY_REF: u32 = 10;
/// Grant of the ring's second page, or of another ring.
pub const RING_2_REF: u32 = 11;
/// The first of the grants of pages of data.
pub const DATA_REF: u32 = 16;
/// Nothing is granted by it.
pub const NO_REF: u32 = 300;

/// xenbus states.
const INITIALISED: &str = "3";
const CONNECTED: &str = "4";
const CLOSING: &str = "5";
const CLOSED: &str = "6";

/// A front end of one disk.
pub struct Front {
    /// xenstore.
    pub store: Xenstore,
    /// This domain's grants.
    pub grants: Grants,
    /// The rings' two pages.
    pub ring: Shared,
    /// The pages of data.
    pub data: Shared,
    /// The back end's directory.
    pub back: String,
    /// Of the ring in use: its channel, where it begins, how many entries it has, how many were sent.
    pub port: u32,
    start: usize,
    /// As above.
    pub entries: u32,
    /// As above.
    pub sent: u32,
    /// The same pages are used again and again: the back end may keep them mapped.
    pub persistent: bool,
}

impl Front {
    /// A front end with all its pages granted, not connected yet.
    pub fn new(persistent: bool) -> Self {
        let store = Xenstore::default();
        let back = store.read(&format!("{DEVICE}/backend")).expect("a disk");
        let front = Self {
            store,
            grants: Grants::default(),
            ring: Shared::of(&RING),
            data: Shared::of(&DATA),
            back,
            port: 0,
            start: 0,
            entries: 0,
            sent: 0,
            persistent,
        };
        front.grants.grant(RING_REF, front.ring.frame(0));
        front.grants.grant(RING_2_REF, front.ring.frame(SIZE));
        front.grants.grant(INDIRECT_REF, Shared::of(&INDIRECT).frame(0));
        front.grants.grant_read_only(READ_ONLY_REF, front.data.frame(0));
        for frame in 0..DATA_FRAMES {
            front
                .grants
                .grant(DATA_REF + frame as u32, front.data.frame(frame * SIZE));
        }
        front
    }

    fn state(&self, state: &str) {
        assert!(self.store.write(&format!("{DEVICE}/state"), state));
    }

    /// Waits for the back end to be in one of these states; the one it is in.
    fn wait_for(&self, states: &[&'static str]) -> &'static str {
        loop {
            let now = self
                .store
                .read(&format!("{}/state", self.back))
                .unwrap_or_default();
            if let Some(state) = states.iter().find(|&&state| state == now) {
                return state;
            }
            sched::yield_now().expect("yielding");
        }
    }

    /// A new ring, connected with these nodes instead of the right ones; `false` if the back end closes instead.
    pub fn connect(&mut self, nodes: &[(&str, &str)]) -> bool {
        self.wait_for(&["2"]);
        self.begin(SIZE, SIZE);
        self.begin(0, SIZE);
        self.port = event_channel::alloc_unbound(abi::domid::DOMID_SELF, 0).expect("a port");
        for (name, value) in [
            ("ring-ref", format!("{RING_REF}").as_str()),
            ("event-channel", &format!("{}", self.port)),
            ("protocol", XEN_IO_PROTO_ABI_X86_64),
            ("multi-queue-num-queues", "1"),
            ("feature-persistent", if self.persistent { "1" } else { "0" }),
        ]
        .iter()
        .chain(nodes)
        {
            assert!(self.store.write(&format!("{DEVICE}/{name}"), value));
        }
        self.state(INITIALISED);
        match self.wait_for(&[CONNECTED, CLOSING]) {
            CONNECTED => {
                self.state(CONNECTED);
                true
            }
            _ => false,
        }
    }

    /// Closes, and begins again as a new front end does; the back end is waiting then.
    pub fn disconnect(&mut self) {
        self.state(CLOSED);
        self.wait_for(&[CLOSED]);
        event_channel::close(self.port).expect("the port");
        self.store.remove(&format!("{DEVICE}/ring-page-order"));
        self.state("1");
        self.wait_for(&["2"]);
    }

    /// Takes a new ring of `size` bytes at `start` into use.
    pub fn begin(&mut self, start: usize, size: usize) {
        for offset in (0..SRING_HEADER_SIZE).step_by(4) {
            self.ring.store(start + offset, 0);
        }
        self.ring.store(start + offset_of!(SringHeader, rsp_event), 1);
        self.start = start;
        self.entries = ring_entries(size, size_of::<BlkifRequest>());
        self.sent = 0;
    }

    fn offset(&self, index: u32) -> usize {
        self.start + SRING_HEADER_SIZE + (index % self.entries) as usize * size_of::<BlkifRequest>()
    }

    /// Sends a request and waits for the response.
    pub fn ask(&mut self, request: &BlkifRequest) -> BlkifResponse {
        self.ring.write(self.offset(self.sent), request.as_bytes());
        self.sent = self.sent.wrapping_add(1);
        self.ring
            .store(self.start + offset_of!(SringHeader, req_prod), self.sent);
        event_channel::send(self.port).expect("the port");
        while self.ring.load(self.start + offset_of!(SringHeader, rsp_prod)) != self.sent {
            sched::yield_now().expect("yielding");
        }
        let mut response = [0; size_of::<BlkifResponse>()];
        self.ring
            .read(self.offset(self.sent.wrapping_sub(1)), &mut response);
        BlkifResponse::read_from_bytes(&response).expect("its size")
    }

    /// Sends requests at once and takes the responses as they come, as Linux does: events are sent and asked for only
    /// when needed. Returns how many were sent, and came.
    pub fn ask_at_once(&mut self, requests: &[BlkifRequest]) -> (usize, usize) {
        let before = self.sent;
        for request in requests {
            self.ring.write(self.offset(self.sent), request.as_bytes());
            self.sent = self.sent.wrapping_add(1);
        }
        event::take(self.port);
        let (rsp_prod, rsp_event) = (
            offset_of!(SringHeader, rsp_prod),
            offset_of!(SringHeader, rsp_event),
        );
        self.ring
            .store(self.start + offset_of!(SringHeader, req_prod), self.sent);
        let wanted = self.ring.load(self.start + offset_of!(SringHeader, req_event));
        let notify = self.sent.wrapping_sub(wanted) < self.sent.wrapping_sub(before);
        if notify {
            event_channel::send(self.port).expect("the port");
        }
        let (mut seen, mut came) = (before, 0);
        while seen != self.sent {
            let answered = self.ring.load(self.start + rsp_prod);
            for index in (0..answered.wrapping_sub(seen)).map(|step| seen.wrapping_add(step)) {
                let mut response = [0; size_of::<BlkifResponse>()];
                self.ring.read(self.offset(index), &mut response);
                let response = BlkifResponse::read_from_bytes(&response).expect("its size");
                assert_eq!(response.status, BLKIF_RSP_OKAY);
            }
            seen = answered;
            self.ring.store(self.start + rsp_event, seen.wrapping_add(1));
            if self.ring.load(self.start + rsp_prod) == seen && seen != self.sent {
                sched::yield_now().expect("yielding");
            }
            came += usize::from(event::take(self.port));
        }
        (usize::from(notify), came)
    }

    /// The status of the response to a request.
    pub fn status(&mut self, request: &BlkifRequest) -> i16 {
        let response = self.ask(request);
        assert_eq!(response.id, request.id, "the response to another request");
        response.status
    }
}

/// A segment of a request.
pub fn segment(gref: u32, first_sect: u8, last_sect: u8) -> BlkifRequestSegment {
    BlkifRequestSegment {
        gref,
        first_sect,
        last_sect,
        pad: 0,
    }
}

/// A request with its segments.
pub fn request(operation: u8, sector_number: u64, segments: &[BlkifRequestSegment]) -> BlkifRequest {
    let mut request = BlkifRequest {
        operation,
        nr_segments: segments.len() as u8,
        id: sector_number ^ 0x1234_5678_9abc_def0,
        sector_number,
        ..Default::default()
    };
    for (slot, segment) in request.seg.iter_mut().zip(segments) {
        *slot = *segment;
    }
    request
}

/// An indirect request for so many segments that lie in the page `reference`.
pub fn indirect(indirect_op: u8, sector_number: u64, nr_segments: u16, reference: u32) -> BlkifRequest {
    let mut indirect_grefs = [NO_REF; BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST];
    indirect_grefs[0] = reference;
    let indirect = BlkifRequestIndirect {
        operation: BLKIF_OP_INDIRECT,
        indirect_op,
        nr_segments,
        id: 99,
        sector_number,
        indirect_grefs,
        ..Default::default()
    };
    let mut bytes = [0; size_of::<BlkifRequest>()];
    bytes[..size_of::<BlkifRequestIndirect>()].copy_from_slice(indirect.as_bytes());
    transmute!(bytes)
}

/// Writes the list that [`indirect`] requests name: each frame of data whole, again and again.
pub fn list_segments(count: usize) {
    for index in 0..count {
        let segment = segment(DATA_REF + (index % DATA_FRAMES) as u32, 0, 7);
        Shared::of(&INDIRECT).write(index * size_of::<BlkifRequestSegment>(), segment.as_bytes());
    }
}
