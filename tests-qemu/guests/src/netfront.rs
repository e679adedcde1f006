//! A network front end that writes into its rings what it is told to.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::Cell;
use core::mem::offset_of;
use core::ops::{Deref, DerefMut};

use abi::domid::DOMID_SELF;
use abi::grant::GrantRef;
use abi::io::netif::*;
use abi::io::ring::SringHeader;
use abi::io::xenbus::*;
use guest_rt::hypercall::{event_channel, sched};
use guest_rt::{event, time};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::frames::{Frames, SIZE};
use crate::granting::Grants;
use crate::shared::Shared;
use crate::xenstore::Xenstore;

/// Bytes of a slot of the TX ring.
pub const TX_SLOT: usize = size_of::<NetifTxRequest>();
/// Bytes of a slot of the RX ring.
pub const RX_SLOT: usize = size_of::<NetifRxRequest>();
/// Slots of either ring.
pub const SLOTS: u32 = 256;
/// Bytes of a slot of the control ring.
const CONTROL_SLOT: usize = size_of::<NetifCtrlRequest>();
/// Slots of the control ring.
pub const CONTROL_SLOTS: u32 = 128;
/// Queues that a front end with a control ring has.
pub const QUEUES: usize = 2;
/// Buffers to receive into.
pub const BUFFERS: u32 = 32;

/// Grants of the rings.
pub const TX_RING: GrantRef = 8;
/// As above.
pub const RX_RING: GrantRef = 9;
/// The page that packets are sent from.
pub const PACKET: GrantRef = 10;
/// The same, to be read only.
pub const READ_ONLY: GrantRef = 11;
/// Grants of the second queue's rings.
const SECOND_TX_RING: GrantRef = 12;
/// As above.
const SECOND_RX_RING: GrantRef = 13;
/// Grant of the control ring.
pub const CONTROL_RING: GrantRef = 14;
/// The first of the buffers' grants.
pub const FIRST_BUFFER: GrantRef = 16;
/// The first of as many buffers to send from.
pub const FIRST_SENT: GrantRef = FIRST_BUFFER + BUFFERS;
/// Nothing is granted by it.
pub const NOTHING: GrantRef = 15;

const HEADER: usize = 64;
const DOM0: u16 = 0;

/// TX and RX of each queue, then control.
static RINGS: Frames<5> = Frames::new();
/// Where the control ring is.
const CONTROL: usize = 4 * SIZE;
static PAGE: Frames<1> = Frames::new();
static BUFFER: Frames<{ 2 * BUFFERS as usize }> = Frames::new();

/// Nodes that only a front end with a control ring has.
const WITH_CONTROL: [&str; 3] = ["multi-queue-num-queues", "ctrl-ring-ref", "event-channel-ctrl"];

/// The front end of device 0. Mostly it has one queue only, and can be used as if it were that.
pub struct Netfront {
    store: Xenstore,
    /// The back end's directory.
    back: String,
    grants: Grants,
    /// Its address.
    pub mac: [u8; 6],
    /// Its queues.
    pub queues: [Queue; QUEUES],
    control: Control,
}

impl Deref for Netfront {
    type Target = Queue;

    fn deref(&self) -> &Queue {
        &self.queues[0]
    }
}

impl DerefMut for Netfront {
    fn deref_mut(&mut self) -> &mut Queue {
        &mut self.queues[0]
    }
}

/// A pair of rings.
pub struct Queue {
    rings: Shared,
    /// Where the first of them is.
    start: usize,
    port: u32,
    /// Requests published, and responses seen.
    tx: (u32, u32),
    rx: (u32, u32),
    /// Events that [`Queue::push`] sent, and those that woke [`Queue::sleep`].
    events: Cell<(u64, u64)>,
}

/// The control ring.
struct Control {
    rings: Shared,
    port: u32,
    /// Requests published, and responses seen.
    indices: (u32, u32),
}

impl Netfront {
    /// Maps the grant table and grants what the front end has.
    ///
    /// # Panics
    /// There is no device 0.
    pub fn new() -> Netfront {
        let grants = Grants::default();
        let rings = Shared::of(&RINGS);
        let references = [TX_RING, RX_RING, SECOND_TX_RING, SECOND_RX_RING, CONTROL_RING];
        for (index, gref) in references.into_iter().enumerate() {
            grants.grant(gref, rings.frame(index * SIZE));
        }
        grants.grant(PACKET, PAGE.first());
        grants.grant_read_only(READ_ONLY, PAGE.first());
        (0..2 * BUFFERS)
            .for_each(|index| grants.grant(FIRST_BUFFER + index, BUFFER.first() + u64::from(index)));
        let store = Xenstore::default();
        let back = store.read("device/vif/0/backend").expect("a network device");
        let mut mac = [0; 6];
        let text = store.read("device/vif/0/mac").expect("an address");
        for (byte, digits) in mac.iter_mut().zip(text.split(':')) {
            *byte = u8::from_str_radix(digits, 16).expect("an address");
        }
        Netfront {
            store,
            back,
            grants,
            mac,
            queues: [0, 2].map(|first| Queue {
                rings,
                start: first * SIZE,
                port: 0,
                tx: (0, 0),
                rx: (0, 0),
                events: Cell::default(),
            }),
            control: Control {
                rings,
                port: 0,
                indices: (0, 0),
            },
        }
    }

    /// Closes, if need be, and begins again with empty rings. Whether the back end does, too.
    fn begin(&mut self) -> bool {
        self.disconnect();
        self.rings.write(0, &[0; CONTROL + SIZE]);
        for queue in &mut self.queues {
            queue.port = new_port();
            (queue.tx, queue.rx) = ((0, 0), (0, 0));
        }
        self.control.port = new_port();
        self.control.indices = (0, 0);
        for node in WITH_CONTROL {
            self.store.remove(&format!("device/vif/0/{node}"));
        }
        self.tell(XENBUS_STATE_INITIALISING);
        self.wait_for(XENBUS_STATE_INIT_WAIT)
    }

    /// Offers the device with these nodes. Whether the back end connects.
    fn offer(&self, nodes: &[(&str, u32)]) -> bool {
        let common = [
            ("request-rx-copy", 1),
            ("feature-rx-notify", 1),
            ("feature-sg", 1),
            ("state", XENBUS_STATE_CONNECTED),
        ];
        for (node, value) in nodes.iter().chain(&common) {
            self.store
                .write(&format!("device/vif/0/{node}"), &format!("{value}"));
        }
        // The other answer is that it closes.
        loop {
            match self.state() {
                Some(XENBUS_STATE_CONNECTED) => return true,
                Some(XENBUS_STATE_CLOSING | XENBUS_STATE_CLOSED) | None => return false,
                _ => drop(sched::yield_now()),
            }
        }
    }

    /// Closes, if need be, and offers the device with these rings. Whether the back end connects.
    pub fn connect_with(&mut self, tx: GrantRef, rx: GrantRef, port: Option<u32>) -> bool {
        self.begin()
            && self.offer(&[
                ("tx-ring-ref", tx),
                ("rx-ring-ref", rx),
                ("event-channel", port.unwrap_or(self.port)),
            ])
    }

    /// As above, with good rings.
    pub fn connect(&mut self) -> bool {
        self.connect_with(TX_RING, RX_RING, None)
    }

    /// As above, with both queues and this control ring.
    pub fn connect_with_control(&mut self, control: GrantRef, port: Option<u32>) -> bool {
        let [queues, ring, channel] = WITH_CONTROL;
        self.begin()
            && self.offer(&[
                (queues, QUEUES as u32),
                ("queue-0/tx-ring-ref", TX_RING),
                ("queue-0/rx-ring-ref", RX_RING),
                ("queue-0/event-channel", self.queues[0].port),
                ("queue-1/tx-ring-ref", SECOND_TX_RING),
                ("queue-1/rx-ring-ref", SECOND_RX_RING),
                ("queue-1/event-channel", self.queues[1].port),
                (ring, control),
                (channel, port.unwrap_or(self.control.port)),
            ])
    }

    /// A number that the back end has published.
    pub fn back_end(&self, node: &str) -> Option<u32> {
        self.store.read(&format!("{}/{node}", self.back))?.parse().ok()
    }

    /// Closes, and the ports with it. Whether the back end has let go of all that was granted.
    pub fn disconnect(&mut self) -> bool {
        self.tell(XENBUS_STATE_CLOSED);
        let closed = self.wait_for(XENBUS_STATE_CLOSED);
        let ports = self.queues.iter_mut().map(|queue| &mut queue.port);
        for port in ports.chain([&mut self.control.port]) {
            if *port != 0 {
                let _ = event_channel::close(*port);
                *port = 0;
            }
        }
        closed && !(TX_RING..FIRST_SENT + BUFFERS).any(|reference| self.grants.in_use(reference))
    }

    /// Tells the back end this end's state.
    fn tell(&self, state: u32) {
        self.store.write("device/vif/0/state", &format!("{state}"));
    }

    /// The back end's state.
    fn state(&self) -> Option<u32> {
        self.back_end("state")
    }

    /// Waits until the back end is in a state, with a limit. Whether it is.
    fn wait_for(&self, state: u32) -> bool {
        const LOOKS: u32 = 20_000;
        (0..LOOKS).any(|_| {
            let _ = sched::yield_now();
            self.state() == Some(state)
        })
    }

    /// Makes a request on the control ring; status and data of the answer.
    pub fn ask(&mut self, type_: u16, data: [u32; 3]) -> Option<(u32, u32)> {
        self.put_control(type_, data);
        self.publish_control(None);
        self.control_answer()
    }

    /// Writes a slot of the control ring.
    pub fn put_control(&mut self, type_: u16, data: [u32; 3]) {
        let Control { rings, indices, .. } = &mut self.control;
        let request = NetifCtrlRequest {
            id: indices.0 as u16,
            type_,
            data,
        };
        rings.write(control_slot(indices.0), request.as_bytes());
        indices.0 += 1;
    }

    /// Lets the back end see what was put, with an index of its own choice if `Some`.
    pub fn publish_control(&mut self, producer: Option<u32>) {
        let Control { rings, port, indices } = &self.control;
        rings.store(CONTROL, producer.unwrap_or(indices.0));
        let _ = event_channel::send(*port);
    }

    /// The next answer on the control ring, for a while, if it is that to the next request: status and data.
    pub fn control_answer(&mut self) -> Option<(u32, u32)> {
        let Control { rings, indices, .. } = &mut self.control;
        wait(|| rings.load(CONTROL + 8) != indices.1)?;
        let response: NetifCtrlResponse = read(*rings, control_slot(indices.1))?;
        let id = indices.1 as u16;
        indices.1 += 1;
        (response.id == id).then_some((response.status, response.data))
    }

    /// The next packet on any queue, for a while: the queue, the bytes, and extra information.
    pub fn received_by_any(&mut self) -> Option<(usize, Vec<u8>, Option<NetifExtraInfo>)> {
        wait(|| self.queues.iter().any(Queue::has_received))?;
        let which = self.queues.iter().position(Queue::has_received)?;
        let (_, bytes, info) = self.queues[which].received()?;
        Some((which, bytes, info))
    }

    /// Puts a packet into the page that is sent from.
    pub fn fill(&self, bytes: &[u8]) {
        bytes
            .iter()
            .enumerate()
            .for_each(|(index, &byte)| PAGE.set_byte(index, byte));
    }
}

impl Queue {
    /// Where something is in the TX (0) or RX (1) ring.
    fn ring(&self, which: usize, offset: usize) -> usize {
        self.start + which * SIZE + offset
    }

    /// Writes a slot of the TX ring.
    pub fn put(&mut self, slot: &(impl IntoBytes + Immutable + ?Sized)) {
        let at = self.ring(0, HEADER + (self.tx.0 % SLOTS) as usize * TX_SLOT);
        self.rings.write(at, slot.as_bytes());
        self.tx.0 += 1;
    }

    /// Lets the back end see what was put, with an index of its own choice if `Some`.
    pub fn publish(&mut self, producer: Option<u32>) {
        self.rings.store(self.ring(0, 0), producer.unwrap_or(self.tx.0));
        let _ = event_channel::send(self.port);
    }

    /// The next response on the TX ring, for a while.
    pub fn answer(&mut self) -> Option<NetifTxResponse> {
        wait(|| self.is_answered())?;
        self.next_answer()
    }

    /// Whether there is a response on the TX ring.
    fn is_answered(&self) -> bool {
        self.rings.load(self.ring(0, 8)) != self.tx.1
    }

    /// The next slot of the TX ring that the back end has written.
    fn next_answer(&mut self) -> Option<NetifTxResponse> {
        let at = self.ring(0, HEADER + (self.tx.1 % SLOTS) as usize * TX_SLOT);
        self.tx.1 += 1;
        read(self.rings, at)
    }

    /// Whether the back end has taken all that was put, without an answer that could be seen.
    pub fn is_dead(&mut self) -> bool {
        self.answer().is_none()
    }

    /// Gives buffers to receive into, and says so.
    pub fn post(&mut self, references: impl Iterator<Item = GrantRef>) {
        self.give(references);
        self.rings.store(self.ring(1, 0), self.rx.0);
        let _ = event_channel::send(self.port);
    }

    /// Writes slots of the RX ring: buffers to receive into.
    pub fn give(&mut self, references: impl Iterator<Item = GrantRef>) {
        for gref in references {
            let request = NetifRxRequest {
                id: gref as u16,
                pad: 0,
                gref,
            };
            let at = self.ring(1, HEADER + (self.rx.0 % SLOTS) as usize * RX_SLOT);
            self.rings.write(at, request.as_bytes());
            self.rx.0 += 1;
        }
    }

    /// Lets the back end see what was put and given, as drivers do: with one event, if it asked for any.
    pub fn push(&self) {
        let [sent, given] = [(0, self.tx.0), (1, self.rx.0)].map(|(which, now)| {
            let producer = self.ring(which, offset_of!(SringHeader, req_prod));
            let before = self.rings.load(producer);
            self.rings.store(producer, now);
            let wanted = self
                .rings
                .load(self.ring(which, offset_of!(SringHeader, req_event)));
            now.wrapping_sub(wanted) < now.wrapping_sub(before)
        });
        if sent || given {
            let _ = event_channel::send(self.port);
            self.count(1, 0);
        }
    }

    fn count(&self, sent: u64, come: u64) {
        let (before, came) = self.events.get();
        self.events.set((before + sent, came + come));
    }

    /// How many events have been sent for packets, and how many have come, since this was asked last.
    pub fn take_events(&self) -> (u64, u64) {
        self.events.take()
    }

    /// Whether there is a response on the RX ring.
    fn has_received(&self) -> bool {
        self.rings.load(self.ring(1, 8)) != self.rx.1
    }

    /// The next slot of the RX ring that the back end has written.
    fn take_slot<T: FromBytes + IntoBytes>(&mut self) -> Option<T> {
        let at = self.ring(1, HEADER + (self.rx.1 % SLOTS) as usize * RX_SLOT);
        self.rx.1 += 1;
        read(self.rings, at)
    }

    /// The next response on the RX ring, for a while, the bytes received, and extra information.
    pub fn received(&mut self) -> Option<(NetifRxResponse, Vec<u8>, Option<NetifExtraInfo>)> {
        wait(|| self.has_received())?;
        let response: NetifRxResponse = self.take_slot()?;
        let info = match response.flags & NETRXF_EXTRA_INFO {
            0 => None,
            _ => Some(self.take_slot()?),
        };
        let index = u32::from(response.id)
            .checked_sub(FIRST_BUFFER)
            .filter(|&index| index < BUFFERS);
        let (start, count) = (
            index.unwrap_or(0) as usize * SIZE,
            response.status.max(0) as usize,
        );
        let bytes = (start..start + count).map(|at| BUFFER.byte(at));
        Some((response, bytes.collect(), info))
    }

    /// The buffer of the next response on the RX ring and the size of the packet in it, if there is one.
    pub fn take_received(&mut self) -> Option<(GrantRef, u16)> {
        if !self.has_received() {
            return None;
        }
        let response: NetifRxResponse = self.take_slot()?;
        Some((response.id.into(), response.status.try_into().ok()?))
    }

    /// The number of a packet that has been sent, if one has.
    pub fn take_answer(&mut self) -> Option<u16> {
        if !self.is_answered() {
            return None;
        }
        Some(self.next_answer()?.id)
    }

    /// Blocks until there is a response on the RX ring.
    pub fn sleep(&self) {
        self.rings.store(self.ring(1, 12), self.rx.1 + 1);
        while !self.has_received() {
            event::wait();
            event::take_pending(|_| self.count(0, 1));
        }
    }
}

impl Default for Netfront {
    fn default() -> Self {
        Self::new()
    }
}

/// A port for the back end; 0: there is none.
fn new_port() -> u32 {
    event_channel::alloc_unbound(DOMID_SELF, DOM0).unwrap_or(0)
}

/// Where a buffer is.
fn buffer(gref: GrantRef) -> (Shared, usize) {
    (Shared::of(&BUFFER), (gref - FIRST_BUFFER) as usize * SIZE)
}

/// Copies what a buffer begins with.
pub fn read_buffer(gref: GrantRef, bytes: &mut [u8]) {
    let (buffers, at) = buffer(gref);
    buffers.read(at, bytes);
}

/// Puts bytes into a buffer.
pub fn write_buffer(gref: GrantRef, bytes: &[u8]) {
    let (buffers, at) = buffer(gref);
    buffers.write(at, bytes);
}

fn control_slot(index: u32) -> usize {
    CONTROL + HEADER + (index % CONTROL_SLOTS) as usize * CONTROL_SLOT
}

/// Waits for something, with a limit: of looks, and of time, as the back end may be busy while others that wait pass the CPU to each other.
fn wait(mut there: impl FnMut() -> bool) -> Option<()> {
    const LOOKS: u32 = 3000;
    const NANOSECONDS: u64 = 1_000_000_000;
    /// Most comes at once; so many looks later, there is time.
    const SOON: u32 = 300;
    const NAP: u64 = 2_000_000;
    let start = time::now();
    let in_time = |look| look < LOOKS || time::now().saturating_sub(start) < NANOSECONDS;
    (0..).take_while(|&look| in_time(look)).find_map(|look| {
        let _ = if look < SOON {
            sched::yield_now()
        } else {
            sched::sleep(NAP)
        };
        there().then_some(())
    })
}

fn read<T: FromBytes + IntoBytes>(shared: Shared, at: usize) -> Option<T> {
    let mut bytes = alloc::vec![0; size_of::<T>()];
    shared.read(at, &mut bytes);
    T::read_from_bytes(&bytes).ok()
}
