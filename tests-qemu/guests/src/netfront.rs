//! A network front end that writes into its rings what it is told to.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use abi::domid::DOMID_SELF;
use abi::grant::GrantRef;
use abi::io::netif::*;
use abi::io::xenbus::*;
use guest_rt::event;
use guest_rt::hypercall::{event_channel, sched};
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
/// The first of the buffers' grants.
pub const FIRST_BUFFER: GrantRef = 16;
/// Nothing is granted by it.
pub const NOTHING: GrantRef = 15;

const HEADER: usize = 64;
const DOM0: u16 = 0;

static RINGS: Frames<2> = Frames::new();
static PAGE: Frames<1> = Frames::new();
static BUFFER: Frames<{ BUFFERS as usize }> = Frames::new();

/// The front end of device 0.
pub struct Netfront {
    store: Xenstore,
    /// Where the back end's state is.
    back: String,
    rings: Shared,
    port: u32,
    /// Requests published, and responses seen.
    tx: (u32, u32),
    rx: (u32, u32),
}

fn ring(which: usize, offset: usize) -> usize {
    which * SIZE + offset
}

impl Netfront {
    /// Maps the grant table and grants what the front end has.
    ///
    /// # Panics
    /// There is no device 0.
    pub fn new() -> Netfront {
        let grants = Grants::default();
        let shared = Shared::of(&RINGS);
        grants.grant(TX_RING, shared.frame(0));
        grants.grant(RX_RING, shared.frame(SIZE));
        grants.grant(PACKET, PAGE.first());
        grants.grant_read_only(READ_ONLY, PAGE.first());
        (0..BUFFERS).for_each(|index| grants.grant(FIRST_BUFFER + index, BUFFER.first() + u64::from(index)));
        let store = Xenstore::default();
        let back = store.read("device/vif/0/backend").expect("a network device") + "/state";
        Netfront {
            store,
            back,
            rings: shared,
            port: 0,
            tx: (0, 0),
            rx: (0, 0),
        }
    }

    /// Closes, if need be, and offers the device with these rings. Whether the back end connects.
    pub fn connect_with(&mut self, tx: GrantRef, rx: GrantRef, port: Option<u32>) -> bool {
        let state = |state: u32| format!("{state}");
        self.store
            .write("device/vif/0/state", &state(XENBUS_STATE_CLOSED));
        self.wait_for(XENBUS_STATE_CLOSED);
        if self.port != 0 {
            let _ = event_channel::close(self.port);
        }
        self.rings.write(0, &[0; 2 * SIZE]);
        (self.tx, self.rx) = ((0, 0), (0, 0));
        self.store
            .write("device/vif/0/state", &state(XENBUS_STATE_INITIALISING));
        if !self.wait_for(XENBUS_STATE_INIT_WAIT) {
            return false;
        }
        self.port = event_channel::alloc_unbound(DOMID_SELF, DOM0).unwrap_or(0);
        let port = port.unwrap_or(self.port);
        for (node, value) in [
            ("tx-ring-ref", tx),
            ("rx-ring-ref", rx),
            ("event-channel", port),
            ("request-rx-copy", 1),
            ("feature-rx-notify", 1),
            ("feature-sg", 1),
            ("state", XENBUS_STATE_CONNECTED),
        ] {
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

    /// The back end's state.
    fn state(&self) -> Option<u32> {
        self.store.read(&self.back)?.parse().ok()
    }

    /// Waits until the back end is in a state, with a limit. Whether it is.
    fn wait_for(&self, state: u32) -> bool {
        const LOOKS: u32 = 20_000;
        (0..LOOKS).any(|_| {
            let _ = sched::yield_now();
            self.state() == Some(state)
        })
    }

    /// As above, with good rings.
    pub fn connect(&mut self) -> bool {
        self.connect_with(TX_RING, RX_RING, None)
    }

    /// Writes a slot of the TX ring.
    pub fn put(&mut self, slot: &(impl IntoBytes + Immutable + ?Sized)) {
        let at = ring(0, HEADER + (self.tx.0 % SLOTS) as usize * TX_SLOT);
        self.rings.write(at, slot.as_bytes());
        self.tx.0 += 1;
    }

    /// Lets the back end see what was put, with an index of its own choice if `Some`.
    pub fn publish(&mut self, producer: Option<u32>) {
        self.rings.store(ring(0, 0), producer.unwrap_or(self.tx.0));
        let _ = event_channel::send(self.port);
    }

    /// The next response on the TX ring, for a while.
    pub fn answer(&mut self) -> Option<NetifTxResponse> {
        let at = ring(0, HEADER + (self.tx.1 % SLOTS) as usize * TX_SLOT);
        wait(|| self.rings.load(ring(0, 8)) != self.tx.1)?;
        self.tx.1 += 1;
        read(self.rings, at)
    }

    /// Whether the back end has taken all that was put, without an answer that could be seen.
    pub fn is_dead(&mut self) -> bool {
        self.answer().is_none()
    }

    /// Gives buffers to receive into.
    pub fn post(&mut self, references: impl Iterator<Item = GrantRef>) {
        for gref in references {
            let request = NetifRxRequest {
                id: gref as u16,
                pad: 0,
                gref,
            };
            let at = ring(1, HEADER + (self.rx.0 % SLOTS) as usize * RX_SLOT);
            self.rings.write(at, request.as_bytes());
            self.rx.0 += 1;
        }
        self.rings.store(ring(1, 0), self.rx.0);
        let _ = event_channel::send(self.port);
    }

    /// The next response on the RX ring, for a while, and the bytes received.
    pub fn received(&mut self) -> Option<(NetifRxResponse, Vec<u8>)> {
        let at = ring(1, HEADER + (self.rx.1 % SLOTS) as usize * RX_SLOT);
        wait(|| self.rings.load(ring(1, 8)) != self.rx.1)?;
        self.rx.1 += 1;
        let response: NetifRxResponse = read(self.rings, at)?;
        let index = u32::from(response.id)
            .checked_sub(FIRST_BUFFER)
            .filter(|&index| index < BUFFERS);
        let (start, count) = (
            index.unwrap_or(0) as usize * SIZE,
            response.status.max(0) as usize,
        );
        let bytes = (start..start + count).map(|at| BUFFER.byte(at));
        Some((response, bytes.collect()))
    }

    /// The buffer of the next response on the RX ring and the size of the packet in it, if there is one.
    pub fn take_received(&mut self) -> Option<(GrantRef, u16)> {
        let at = ring(1, HEADER + (self.rx.1 % SLOTS) as usize * RX_SLOT);
        if self.rings.load(ring(1, 8)) == self.rx.1 {
            return None;
        }
        self.rx.1 += 1;
        let response: NetifRxResponse = read(self.rings, at)?;
        Some((response.id.into(), response.status.try_into().ok()?))
    }

    /// Takes all responses on the TX ring as seen.
    pub fn take_answers(&mut self) {
        self.tx.1 = self.rings.load(ring(0, 8));
    }

    /// Blocks until there is a response on the RX ring.
    pub fn sleep(&self) {
        self.rings.store(ring(1, 12), self.rx.1 + 1);
        while self.rings.load(ring(1, 8)) == self.rx.1 {
            event::wait();
            event::take_pending(|_| ());
        }
    }

    /// Puts a packet into the page that is sent from.
    pub fn fill(&self, bytes: &[u8]) {
        bytes
            .iter()
            .enumerate()
            .for_each(|(index, &byte)| PAGE.set_byte(index, byte));
    }
}

impl Default for Netfront {
    fn default() -> Self {
        Self::new()
    }
}

/// Waits for something, with a limit.
fn wait(mut there: impl FnMut() -> bool) -> Option<()> {
    const LOOKS: u32 = 3000;
    (0..LOOKS).find_map(|_| {
        let _ = sched::yield_now();
        there().then_some(())
    })
}

fn read<T: FromBytes + IntoBytes>(shared: Shared, at: usize) -> Option<T> {
    let mut bytes = alloc::vec![0; size_of::<T>()];
    shared.read(at, &mut bytes);
    T::read_from_bytes(&bytes).ok()
}
