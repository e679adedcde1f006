//! Devices that this domain serves to others: nodes, states, and tasks, whatever the class of the device.
//!
//! A class is a [`Driver`]. Each device has one task ([`run`]), which follows its front end's state and calls the
//! driver; what serves rings are tasks of [`Links`]. A device ends when it is detached or its domain is destroyed;
//! nothing is mapped or bound then.

mod backing;
pub mod block;
mod link;
mod nodes;
mod pages;

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use abi::Domid;
use dom0_shim::backend::xenbus::{Action, State, Wish, react};
use dom0_shim::executor::{Either, Signal, either};
use guest_rt::time;

pub use link::{Channel, Links, SharedPages, Stop};
pub use nodes::{Front, Id, set_error};

use super::Host;

/// Nodes: names relative to an end's directory, and values.
pub type Nodes = Vec<(&'static str, String)>;

/// A class of devices.
pub trait Driver: 'static {
    /// How what serves a front end that has closed the device is to end.
    const CLOSED: Stop = Stop::Now;

    /// The back end's nodes to be there before any front end looks: its features.
    fn features(&self) -> Nodes;

    /// Takes up what the front end has published.
    ///
    /// # Errors
    /// What is wrong with it, in a sentence; nothing is left mapped or bound then.
    fn connect(&self, host: &Rc<Host>, front: &Front<'_>) -> Result<Links, String>;

    /// The back end's nodes to be there when it is connected.
    fn details(&self) -> Nodes;
}

/// How a device is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Not at all.
    No,
    /// When the front end has let go.
    Asked,
    /// At once.
    Now,
}

struct Device {
    ending: Cell<Ending>,
    /// Its details have changed.
    changed: Cell<bool>,
    /// Set when one of these is new.
    told: Signal,
    /// Set when nothing is left of the device.
    gone: Signal,
}

/// All devices.
#[derive(Default)]
pub struct Devices(RefCell<BTreeMap<Id, Rc<Device>>>);

impl Devices {
    /// Those of a domain.
    pub fn of(&self, domain: Domid) -> Vec<Id> {
        let devices = self.0.borrow();
        devices.keys().copied().filter(|id| id.domain == domain).collect()
    }

    /// The device's details have changed: a front end that is connected is to look again.
    pub fn announce(&self, id: Id) {
        if let Some(device) = self.get(id) {
            device.changed.set(true);
            device.told.notify();
        }
    }

    fn get(&self, id: Id) -> Option<Rc<Device>> {
        self.0.borrow().get(&id).cloned()
    }
}

/// Gives a domain a device, whose front end may connect from now on. `front` and `back` are nodes of the two ends
/// beyond those that every device has.
///
/// # Errors
/// The domain has such a device; xenstore refuses.
pub fn add(host: &Rc<Host>, id: Id, driver: impl Driver, front: &Nodes, back: &Nodes) -> Result<(), String> {
    if host.devices.get(id).is_some() {
        return Err("there is such a device already".into());
    }
    if let Err(error) = nodes::write(&host.store, id, front, back) {
        nodes::remove(&host.store, id);
        return Err(format!("writing the device's nodes: {}", error.name()));
    }
    let device = Rc::new(Device {
        ending: Cell::new(Ending::No),
        changed: Cell::new(false),
        told: Signal::default(),
        gone: Signal::default(),
    });
    host.devices.0.borrow_mut().insert(id, device.clone());
    host.spawner.spawn(run(host.clone(), id, device, driver));
    Ok(())
}

/// How a device is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detach {
    /// Waits until the front end has let go.
    Ask,
    /// Takes it at once; the front end's requests go unanswered.
    Force,
}

/// Takes a device away.
///
/// # Errors
/// There is no such device, or the front end does not let go of it.
pub async fn remove(host: &Host, id: Id, how: Detach) -> Result<(), String> {
    const PATIENCE: u64 = 10_000_000_000;
    let device = host.devices.get(id).ok_or("there is no such device")?;
    let ending = match how {
        Detach::Ask => Ending::Asked,
        Detach::Force => Ending::Now,
    };
    device.ending.set(ending);
    device.told.notify();
    let deadline = time::now() + PATIENCE;
    while host.devices.get(id).is_some_and(|now| Rc::ptr_eq(&now, &device)) {
        let waited = either(device.gone.wait(), host.reactor.sleep_until(deadline)).await;
        if waited == Either::Second(()) {
            return Err("the domain does not let go of the device; it will be gone as soon as it has".into());
        }
    }
    // Somebody else may wait for the same, and a signal wakes one.
    device.gone.notify();
    Ok(())
}

/// Takes all devices of a domain away at once: it is being destroyed.
pub async fn remove_all(host: &Host, domain: Domid) {
    for id in host.devices.of(domain) {
        // There is nothing that the domain could hold on to.
        let _ = remove(host, id, Detach::Force).await;
    }
}

/// Task: one device, from its nodes to their removal.
async fn run<D: Driver>(host: Rc<Host>, id: Id, device: Rc<Device>, driver: D) {
    let mut own = State::Initialising;
    let mut links = None;
    let set = |own: &mut State, state: State| {
        *own = state;
        nodes::set_state(&host.store, id, state);
    };
    {
        let watch = host.store.watch(&format!("{}/state", id.front()));
        loop {
            let wish = match device.ending.get() {
                Ending::No => Wish::Keep,
                Ending::Asked => Wish::Detach,
                Ending::Now => break,
            };
            if wish == Wish::Detach && own != State::Closing {
                nodes::set_offline(&host.store, id);
                set(&mut own, State::Closing);
            }
            if device.changed.take() && own == State::Connected {
                // The state is the one before; that it is written is what front ends watch for.
                nodes::publish(&host.store, id, &driver.details());
                nodes::set_state(&host.store, id, own);
            }
            let action = react(own, nodes::front_state(&host.store, id), wish);
            match action {
                Action::Wait | Action::Connect => {}
                Action::Offer => disconnect(&mut links, Stop::Now).await,
                Action::Close | Action::Closed | Action::End => disconnect(&mut links, D::CLOSED).await,
            }
            match action {
                Action::Wait => {
                    either(watch.changed.wait(), device.told.wait()).await;
                }
                Action::Offer => {
                    nodes::publish(&host.store, id, &driver.features());
                    set(&mut own, State::InitWait);
                }
                Action::Connect => match driver.connect(&host, &Front::new(&host.store, id)) {
                    Ok(connected) => {
                        links = Some(connected);
                        nodes::publish(&host.store, id, &driver.details());
                        set(&mut own, State::Connected);
                    }
                    Err(error) => {
                        nodes::set_error(&host.store, id, &error);
                        set(&mut own, State::Closing);
                    }
                },
                Action::Close => set(&mut own, State::Closing),
                Action::Closed => set(&mut own, State::Closed),
                Action::End => break,
            }
        }
    }
    disconnect(&mut links, Stop::Now).await;
    set(&mut own, State::Closed);
    nodes::remove(&host.store, id);
    drop(driver);
    host.devices.0.borrow_mut().remove(&id);
    device.gone.notify();
}

async fn disconnect(links: &mut Option<Links>, how: Stop) {
    if let Some(links) = links.take() {
        links.stop(how).await;
    }
}
