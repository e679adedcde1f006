//! The rings of a device: a task for each queue carries packets through them.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;

use abi::Domid;
use abi::grant::GrantRef;
use dom0_shim::backend::Events;
use dom0_shim::executor::{Signal, either};
use dom0_shim::net::netback::Broken;
use dom0_shim::net::netback::grants::{Grants, Source, Target};
use dom0_shim::net::netback::hash::Hash;
use dom0_shim::net::netback::rx::{Features, Queued, Rx};
use dom0_shim::net::netback::tx::{Batch, Tx};
use dom0_shim::net::packet::Packet;
use guest_rt::foreign::PAGE;
use guest_rt::hypercall::grant::{Copies, Granted};
use guest_rt::time;

use super::device::Device;
use crate::guest::Host;
use crate::guest::backend::{Channel, Front, SharedPages};

/// How long (ns) packets wait for buffers that a front end gives without saying so.
const POLL: u64 = 30_000_000;

/// Pages that a domain has granted.
pub struct GrantedBy(pub Domid);

impl GrantedBy {
    fn page(&self, reference: GrantRef, offset: u16) -> Granted {
        Granted {
            domain: self.0,
            reference,
            offset,
        }
    }
}

/// Operations that a copy takes: one for each frame that the memory here lies in.
fn operations(bytes: &[u8]) -> usize {
    (bytes.as_ptr() as usize % PAGE + bytes.len()).div_ceil(PAGE)
}

/// Carries copies out; for each request, of so many operations, whether all of it was copied.
fn run_copies(copies: Copies<'_>, requests: Vec<usize>) -> Vec<bool> {
    let mut results = copies.run();
    let mut all = |operations| (0..operations).fold(true, |good, _| results.next() == Some(Ok(())) && good);
    requests.into_iter().map(&mut all).collect()
}

impl Grants for GrantedBy {
    fn copy_from(&self, sources: &mut [Source<'_>]) {
        let (mut copies, mut requests, mut marks) = (Copies::default(), Vec::new(), Vec::new());
        for source in sources {
            requests.push(operations(source.into));
            copies.from_grant(self.page(source.gref, source.offset), source.into);
            marks.push(&mut source.done);
        }
        let done = run_copies(copies, requests);
        marks.into_iter().zip(done).for_each(|(mark, done)| *mark = done);
    }

    fn copy_to(&self, targets: &mut [Target<'_>]) {
        let (mut copies, mut requests) = (Copies::default(), Vec::new());
        for target in &*targets {
            requests.push(operations(target.from));
            copies.to_grant(target.from, self.page(target.gref, target.offset));
        }
        let done = run_copies(copies, requests);
        targets
            .iter_mut()
            .zip(done)
            .for_each(|(target, done)| target.done = done);
    }
}

/// A pair of rings; unmapped when dropped.
pub struct Queue {
    tx: RefCell<Tx<SharedPages>>,
    rx: RefCell<Rx<SharedPages>>,
    /// The front end's second channel, if it has one for each ring.
    rx_channel: Option<Channel>,
    /// There may be something to do.
    wake: Signal,
    /// The front end says when it has given buffers.
    announces: bool,
}

/// What one turn of a queue brought.
#[derive(Default)]
struct Turn {
    packets: Vec<Packet>,
    /// When (ns) to come again if nothing happens.
    again: Option<u64>,
}

impl Queue {
    /// Takes a packet for the front end, with the hash that it is to be told.
    pub fn receive(&self, packet: Rc<Packet>, hash: Option<Hash>) -> Queued {
        self.wake.notify();
        self.rx.borrow_mut().queue(packet, hash)
    }

    /// Something in each direction.
    fn turn(&self, device: &Device, channel: &Channel) -> Result<Turn, Broken> {
        let grants = GrantedBy(device.domain);
        let now = time::now();
        let mut rx = self.rx.borrow_mut();
        let given = rx.put(&grants)?;
        if given.notify {
            self.rx_channel.as_ref().unwrap_or(channel).notify();
        }
        let taken = self
            .tx
            .borrow_mut()
            .take(&grants, |bytes| device.pay(bytes, now))?;
        let Batch {
            packets,
            groups,
            errors,
            wait_until,
            more,
            notify,
        } = taken;
        if notify {
            channel.notify();
        }
        if given.more || more {
            self.wake.notify();
        }
        device.follow(groups);
        device.count(errors, 0);
        let poll = (!self.announces && rx.is_waiting()).then(|| now.saturating_add(POLL));
        let again = [wait_until, poll].into_iter().flatten().min();
        Ok(Turn { packets, again })
    }
}

/// Connects the queue whose nodes are below `prefix`; its own channel comes with it.
///
/// # Errors
/// What is wrong with it, in a sentence.
pub fn connect(
    host: &Host,
    front: &Front<'_>,
    prefix: &str,
    features: Features,
) -> Result<(Rc<Queue>, Channel), String> {
    let node = |name: &str| format!("{prefix}{name}");
    let port = |name: &str| front.optional(&node(name));
    let (tx_port, rx_port) = match (port("event-channel-tx")?, port("event-channel-rx")?) {
        (Some(tx), Some(rx)) => (tx, Some(rx)),
        _ => (front.number(&node("event-channel"))?, None),
    };
    let pages = |name: &str| {
        let name = node(name);
        SharedPages::map(front.domain, &[front.number(&name)?]).map_err(|error| format!("{name}: {error}"))
    };
    let channel = |port| {
        Channel::bind(host, front.domain, port).map_err(|error| format!("event channel {port}: {error}"))
    };
    let ring = |broken: Broken| broken.0.to_string();
    let queue = Queue {
        tx: RefCell::new(Tx::attach(pages("tx-ring-ref")?).map_err(ring)?),
        rx: RefCell::new(
            Rx::attach(pages("rx-ring-ref")?, features, host.waiting_packets.clone()).map_err(ring)?,
        ),
        rx_channel: rx_port.map(channel).transpose()?,
        wake: Signal::default(),
        announces: front.flag("feature-rx-notify")?,
    };
    Ok((Rc::new(queue), channel(tx_port)?))
}

/// Task: a queue, until the link is taken down.
pub async fn run(host: Rc<Host>, device: Rc<Device>, queue: Rc<Queue>, channel: Channel) {
    channel.connect(&queue.wake);
    if let Some(rx_channel) = &queue.rx_channel {
        rx_channel.connect(&queue.wake);
    }
    let mut broken = false;
    while !channel.is_stopping() {
        let again = if broken {
            None
        } else {
            match queue.turn(&device, &channel) {
                Ok(Turn { packets, again }) => {
                    device.send(packets);
                    again
                }
                Err(Broken(reason)) => {
                    broken = true;
                    device.report(&host, reason);
                    None
                }
            }
        };
        match again {
            None => queue.wake.wait().await,
            Some(again) => drop(either(queue.wake.wait(), host.reactor.sleep_until(again)).await),
        }
    }
}
