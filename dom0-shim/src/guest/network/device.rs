//! A network device: between a queue's rings and its bridge.

use alloc::format;
use alloc::rc::{Rc, Weak};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use abi::Domid;
use dom0_shim::net::bucket::Bucket;
use dom0_shim::net::netback::hash::Hashing;
use dom0_shim::net::netback::multicast::Multicast;
use dom0_shim::net::netback::rx::{Features, Queued};
use dom0_shim::net::netback::tx::Membership;
use dom0_shim::net::packet::{Mac, Packet};
use dom0_shim::net::switch::{Counters, PortId};
use dom0_shim::xlcfg::vif::Vif;
use guest_rt::time;

use super::queue::{self, Queue};
use super::{Segment, control, id};
use crate::guest::Host;
use crate::guest::backend::{self, Driver, Front, Links, Nodes};

/// Queues of one device.
const QUEUES_MAX: u32 = 4;

/// A device.
pub struct Device {
    /// Whose.
    pub domain: Domid,
    /// Its number.
    pub number: u32,
    /// Its address.
    pub mac: Mac,
    segment: Rc<Segment>,
    port: PortId,
    bucket: RefCell<Option<Bucket>>,
    /// Each belongs to its task.
    queues: RefCell<Vec<Weak<Queue>>>,
    /// What the front end says about who of them gets what.
    hashing: RefCell<Hashing>,
    /// And what of multicast.
    multicast: RefCell<Multicast>,
    losses: Cell<Losses>,
}

/// Packets that got lost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Losses {
    /// From the device: malformed.
    pub malformed: u64,
    /// To the device: it gave no room for them, or cannot take such.
    pub overrun: u64,
}

impl Device {
    /// Its domain has another name.
    pub fn rename(&self, name: &str) {
        self.segment.bridge.borrow_mut().rename(self.mac, name);
    }

    /// What has passed it.
    pub fn counters(&self) -> (Counters, Losses) {
        let counters = self.segment.bridge.borrow().counters(self.port);
        (counters.unwrap_or_default(), self.losses.get())
    }

    /// Counts losses.
    pub fn count(&self, malformed: u64, overrun: u64) {
        let losses = self.losses.get();
        self.losses.set(Losses {
            malformed: losses.malformed + malformed,
            overrun: losses.overrun + overrun,
        });
    }

    /// Pays for a packet from the front end.
    ///
    /// # Errors
    /// The rate limit holds it back: until when (ns).
    pub fn pay(&self, bytes: usize, now: u64) -> Result<(), u64> {
        let mut bucket = self.bucket.borrow_mut();
        bucket.as_mut().map_or(Ok(()), |bucket| bucket.take(bytes, now))
    }

    /// Enters multicast groups for the front end, and leaves them.
    pub fn follow(&self, groups: Vec<(Membership, Mac)>) {
        self.multicast.borrow_mut().follow(groups);
    }

    /// Sends packets that came from the front end.
    pub fn send(&self, packets: Vec<Packet>) {
        self.segment.forward(self.port, packets);
    }

    /// Lets the front end say to which queues packets go.
    pub fn configure<T>(&self, change: impl FnOnce(&mut Hashing) -> T) -> T {
        change(&mut self.hashing.borrow_mut())
    }

    /// Takes a packet for the front end.
    pub fn receive(&self, packet: Rc<Packet>) {
        if !self.multicast.borrow().wants(&packet.bytes) {
            return;
        }
        let queues = self.queues.borrow();
        let steered = self.hashing.borrow().steer(&packet.bytes);
        let (number, hash) = steered.unwrap_or_else(|| (flow(&packet.bytes), None));
        let chosen = (number as usize).checked_rem(queues.len());
        let queue = chosen.and_then(|chosen| queues.get(chosen)?.upgrade());
        let taken = queue.is_some_and(|queue| queue.receive(packet, hash) == Queued::Waiting);
        self.count(0, u64::from(!taken));
    }

    /// Says why a queue is not served any more.
    pub fn report(&self, host: &Host, reason: &str) {
        backend::set_error(&host.store, id(self.domain, self.number), reason);
    }
}

/// A number that packets of one connection have in common: it keeps them on one queue, and so in order.
fn flow(frame: &[u8]) -> u32 {
    // Addresses and ports of IPv4 without options; whatever stands there in other frames does as well.
    let bytes = frame.get(26..38).unwrap_or_default();
    bytes.iter().fold(0, |hash: u32, &byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// Connects a new device to its bridge, and announces it to its domain, whose name is `name`.
///
/// # Errors
/// A sentence.
pub fn attach(host: &Rc<Host>, domain: Domid, name: &str, vif: &Vif) -> Result<(), String> {
    let networks = &host.networks;
    let number = vif.devid.unwrap_or_else(|| networks.new_number(domain));
    if networks.devices.borrow().contains_key(&(domain, number)) {
        return Err(format!("there is a network device {number} already"));
    }
    let mac = vif.mac.ok_or("the device has no address")?;
    let segment = networks.segment(host, &vif.bridge);
    let port = segment.bridge.borrow_mut().connect(mac, vif.mtu, name);
    let device = Rc::new(Device {
        domain,
        number,
        mac,
        segment: segment.clone(),
        port,
        bucket: RefCell::new(vif.rate.map(|rate| Bucket::new(rate, time::now()))),
        queues: RefCell::default(),
        hashing: RefCell::new(Hashing::new(0)),
        multicast: RefCell::default(),
        losses: Cell::default(),
    });
    segment.devices.borrow_mut().insert(port, device.clone());
    networks.add(&device);
    // From here on the driver, when it is dropped, undoes this.
    let driver = Netback {
        host: host.clone(),
        device,
    };
    let (front, back) = nodes(vif, mac, number);
    backend::add(host, id(domain, number), driver, &front, &back)
}

/// The nodes of both ends beyond those of every device, as libxl writes them.
fn nodes(vif: &Vif, mac: Mac, number: u32) -> (Nodes, Nodes) {
    let handle = format!("{number}");
    let mtu = format!("{}", vif.mtu);
    let trusted = if vif.trusted { "1" } else { "0" };
    let front = alloc::vec![
        ("handle", handle.clone()),
        ("mac", mac.to_string()),
        ("trusted", trusted.to_string()),
        ("mtu", mtu.clone()),
    ];
    let mut back = alloc::vec![
        ("mac", mac.to_string()),
        ("bridge", vif.bridge.clone()),
        ("handle", handle),
        ("type", "vif".to_string()),
        ("hotplug-status", "connected".to_string()),
    ];
    if let Some(rate) = vif.rate {
        back.push(("rate", format!("{},{}", rate.bytes, rate.interval)));
    }
    if vif.mtu != Vif::default().mtu {
        back.push(("mtu", mtu));
    }
    (front, back)
}

/// The driver of one device.
struct Netback {
    host: Rc<Host>,
    device: Rc<Device>,
}

impl Drop for Netback {
    fn drop(&mut self) {
        let Device {
            segment,
            port,
            mac,
            domain,
            number,
            ..
        } = &*self.device;
        segment.bridge.borrow_mut().disconnect(*port, *mac, time::now());
        segment.devices.borrow_mut().remove(port);
        self.host
            .networks
            .devices
            .borrow_mut()
            .remove(&(*domain, *number));
    }
}

impl Driver for Netback {
    fn features(&self) -> Nodes {
        let yes = || String::from("1");
        alloc::vec![
            ("feature-sg", yes()),
            ("feature-gso-tcpv4", yes()),
            ("feature-gso-tcpv6", yes()),
            ("feature-ipv6-csum-offload", yes()),
            ("feature-rx-copy", yes()),
            ("feature-rx-flip", String::from("0")),
            ("feature-multicast-control", yes()),
            ("feature-split-event-channels", yes()),
            ("feature-ctrl-ring", yes()),
            ("multi-queue-max-queues", format!("{QUEUES_MAX}")),
        ]
    }

    fn connect(&self, host: &Rc<Host>, front: &Front<'_>) -> Result<Links, String> {
        if !front.flag("request-rx-copy")? {
            return Err("request-rx-copy: the front end must ask for copies".to_string());
        }
        let features = Features {
            scatter_gather: front.flag("feature-sg")?,
            segments_v4: front.flag("feature-gso-tcpv4")?,
            segments_v6: front.flag("feature-gso-tcpv6")?,
            blank_v4: !front.flag("feature-no-csum-offload")?,
            blank_v6: front.flag("feature-ipv6-csum-offload")?,
        };
        let queues = match front.optional("multi-queue-num-queues")?.unwrap_or(1) {
            1 => alloc::vec![queue::connect(host, front, "", features)?],
            count @ 2..=QUEUES_MAX => (0..count)
                .map(|index| queue::connect(host, front, &format!("queue-{index}/"), features))
                .collect::<Result<_, _>>()?,
            count => return Err(format!("multi-queue-num-queues: {count} queues are not possible")),
        };
        let control = control::connect(host, front)?;
        *self.device.multicast.borrow_mut() = match front.flag("request-multicast-control")? {
            true => Multicast::controlled(),
            false => Multicast::all(),
        };
        *self.device.hashing.borrow_mut() = Hashing::new(queues.len() as u32);
        *self.device.queues.borrow_mut() = queues.iter().map(|(queue, _)| Rc::downgrade(queue)).collect();
        let mut links = Links::default();
        for (queue, channel) in queues {
            let (own, device) = (host.clone(), self.device.clone());
            links.spawn(host, channel, |channel| queue::run(own, device, queue, channel));
        }
        if let Some((ring, channel)) = control {
            let (own, device) = (host.clone(), self.device.clone());
            links.spawn(host, channel, |channel| control::run(own, device, ring, channel));
        }
        Ok(links)
    }

    fn details(&self) -> Nodes {
        Nodes::new()
    }
}
