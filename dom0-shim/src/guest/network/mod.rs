//! Networks: bridges, and the devices of domains connected to them.
//!
//! * [`commands`]: what is done with them at the prompt.
//! * [`device`]: a device, between its rings and its bridge.
//! * [`queue`]: its rings.
//! * [`control`]: one more, by which its front end says what goes to which of them.

pub mod commands;
mod control;
mod device;
mod queue;

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::{Rc, Weak};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;

use abi::Domid;
use dom0_shim::executor::{Signal, either};
use dom0_shim::net::bridge::{Bridge, Delivery};
use dom0_shim::net::offload;
use dom0_shim::net::packet::Packet;
use dom0_shim::net::switch::PortId;
use dom0_shim::xlcfg::Config;
use dom0_shim::xlcfg::vif::{BRIDGE, Vif};
use guest_rt::time;

use super::Host;
use super::backend::Id;
use super::machine::Nic;

use device::Device;

/// The machine's first network device.
const FIRST_NIC: &str = "eth0";

/// All bridges and devices.
#[derive(Default)]
pub struct Networks {
    segments: RefCell<BTreeMap<String, Rc<Segment>>>,
    devices: RefCell<BTreeMap<(Domid, u32), Rc<Device>>>,
    /// For each domain, one more than the highest number that a device of it had.
    next: RefCell<BTreeMap<Domid, u32>>,
}

/// A bridge with the devices on it.
pub struct Segment {
    bridge: RefCell<Bridge>,
    devices: RefCell<BTreeMap<PortId, Rc<Device>>>,
    /// The machine's network device of the same name.
    uplink: Option<(PortId, Rc<Nic>)>,
    /// Where the gateway's other end is connected.
    outside: Option<(PortId, Rc<Segment>)>,
    /// Other ends of gateways that are connected here, and their bridges.
    gateways: RefCell<BTreeMap<PortId, Weak<Segment>>>,
    /// The gateway may have something to do at another time than before.
    timing: Signal,
}

impl Networks {
    /// The devices of a domain, by number.
    pub fn of_domain(&self, domain: Domid) -> Vec<Rc<Device>> {
        let devices = self.devices.borrow();
        devices
            .range((domain, 0)..=(domain, u32::MAX))
            .map(|(_, device)| device.clone())
            .collect()
    }

    /// A number that no device of a domain ever had. Linux looks into xenstore some time after a change: it takes a device
    /// that has come in place of another for the other, which has gone for good.
    fn new_number(&self, domain: Domid) -> u32 {
        self.next.borrow().get(&domain).copied().unwrap_or_default()
    }

    fn add(&self, device: &Rc<Device>) {
        let (domain, number) = (device.domain, device.number);
        self.devices.borrow_mut().insert((domain, number), device.clone());
        let mut next = self.next.borrow_mut();
        let next = next.entry(domain).or_default();
        *next = (*next).max(number.saturating_add(1));
    }

    /// A domain that goes on has another name.
    pub fn rename(&self, domain: Domid, name: &str) {
        for device in self.of_domain(domain) {
            device.rename(name);
        }
    }

    /// A domain has been destroyed, and its devices with it.
    pub fn forget(&self, domain: Domid) {
        self.next.borrow_mut().remove(&domain);
    }

    /// The bridge of this name; it is made when the first device names it. The one that devices are connected to unless
    /// they say otherwise has a gateway, which leads to the machine's first network device; one with the name of a network device leads
    /// there itself.
    fn segment(&self, host: &Rc<Host>, name: &str) -> Rc<Segment> {
        if let Some(segment) = self.segments.borrow().get(name) {
            return segment.clone();
        }
        let outside = if name == BRIDGE {
            host.machine.nic(FIRST_NIC)
        } else {
            None
        };
        let outside = outside.map(|nic| (nic.mac(), self.segment(host, FIRST_NIC)));
        let mut bridge = match name {
            BRIDGE => Bridge::with_gateway(outside.as_ref().map(|(mac, _)| *mac)),
            _ => Bridge::default(),
        };
        let outside = outside.map(|(mac, segment)| {
            let port = segment
                .bridge
                .borrow_mut()
                .connect(mac, Vif::default().mtu, BRIDGE);
            (port, segment)
        });
        let uplink = host.machine.nic(name);
        let uplink = uplink.map(|nic| (bridge.connect_uplink(Vif::default().mtu), nic.clone()));
        let segment = Rc::new(Segment {
            uplink,
            outside,
            gateways: RefCell::default(),
            bridge: RefCell::new(bridge),
            devices: RefCell::default(),
            timing: Signal::default(),
        });
        if let Some((port, outside)) = &segment.outside {
            outside
                .gateways
                .borrow_mut()
                .insert(*port, Rc::downgrade(&segment));
        }
        host.spawner.spawn(keep_time(host.clone(), segment.clone()));
        if let Some((port, nic)) = segment.uplink.clone() {
            host.spawner.spawn(bring_in(segment.clone(), port, nic));
        }
        self.segments
            .borrow_mut()
            .insert(name.to_string(), segment.clone());
        segment
    }
}

impl Segment {
    /// Carries packets from one device to others.
    fn forward(&self, from: PortId, packets: Vec<Packet>) {
        let now = time::now();
        for packet in packets {
            let deliveries = self.bridge.borrow_mut().send(from, packet, now);
            self.deliver(deliveries);
            // The gateway holds what one packet is cut into, and not what many are.
            self.lead_out();
        }
        let mut bridge = self.bridge.borrow_mut();
        if bridge.next_poll(now).is_some() || bridge.is_short() {
            self.timing.notify();
        }
    }

    /// Carries what the gateway sends from its other end.
    fn lead_out(&self) {
        if let Some((port, outside)) = &self.outside {
            let mut bridge = self.bridge.borrow_mut();
            let frames: Vec<Packet> = core::iter::from_fn(|| bridge.take_outside())
                .map(Packet::complete)
                .collect();
            drop(bridge);
            if !frames.is_empty() {
                outside.forward(*port, frames);
            }
        }
    }

    /// A packet has come to the gateway's other end.
    fn receive_outside(&self, packet: &Packet) {
        for frame in offload::complete(packet).unwrap_or_default() {
            let deliveries = self.bridge.borrow_mut().receive_outside(frame.bytes, time::now());
            self.deliver(deliveries);
        }
        self.lead_out();
        self.timing.notify();
    }

    fn deliver(&self, deliveries: Vec<Delivery>) {
        let devices = self.devices.borrow();
        for (port, packet) in deliveries {
            if let Some(device) = devices.get(&port) {
                device.receive(packet);
            } else if let Some(inner) = self.gateways.borrow().get(&port).and_then(Weak::upgrade) {
                inner.receive_outside(&packet);
            } else if let Some((_, nic)) = self.uplink.as_ref().filter(|(uplink, _)| *uplink == port) {
                // What the front end has left to do, the wire does not.
                for frame in offload::complete(&packet).unwrap_or_default() {
                    nic.send(&frame.bytes);
                }
            }
        }
    }
}

/// Task: brings in what comes from outside.
async fn bring_in(segment: Rc<Segment>, port: PortId, nic: Rc<Nic>) {
    loop {
        nic.arrived.wait().await;
        let frames = nic.take().into_iter();
        segment.forward(port, frames.map(Packet::complete).collect());
    }
}

/// Task: gives a bridge's gateway its turn when it is due, and says when it has no address for a host.
async fn keep_time(host: Rc<Host>, segment: Rc<Segment>) {
    loop {
        if segment.bridge.borrow_mut().take_shortage(time::now()) {
            let text = format!("{BRIDGE}: all addresses are leased, so a domain has got none");
            host.terminal.notice(&text);
        }
        let due = segment.bridge.borrow_mut().next_poll(time::now());
        match due {
            None => segment.timing.wait().await,
            Some(due) => {
                either(host.reactor.sleep_until(due), segment.timing.wait()).await;
                let deliveries = segment.bridge.borrow_mut().poll(time::now());
                segment.deliver(deliveries);
                segment.lead_out();
            }
        }
    }
}

/// The name of a device among all devices.
fn id(domain: Domid, number: u32) -> Id {
    Id {
        domain,
        class: "vif",
        number,
    }
}

/// Connects the devices of a new domain: first those whose numbers are given, which others could take.
///
/// # Errors
/// A sentence on the first that could not be.
pub fn attach_all(host: &Rc<Host>, domain: Domid, config: &Config) -> Result<(), String> {
    let with_number = config.vifs.iter().filter(|vif| vif.devid.is_some());
    let without = config.vifs.iter().filter(|vif| vif.devid.is_none());
    with_number
        .chain(without)
        .try_for_each(|vif| device::attach(host, domain, &config.name, vif))
}
