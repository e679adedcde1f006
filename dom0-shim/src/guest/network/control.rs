//! The control ring of a device: a task does what the front end asks for on it.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};

use dom0_shim::backend::Events;
use dom0_shim::net::netback::control::Control;
use dom0_shim::net::netback::{Broken, Outcome};

use super::device::Device;
use super::queue::GrantedBy;
use crate::guest::Host;
use crate::guest::backend::{Channel, Front, SharedPages};

/// The ring.
pub type Ring = Control<SharedPages>;

/// Connects the control ring, if the front end has one.
///
/// # Errors
/// What is wrong with it, in a sentence.
pub fn connect(host: &Host, front: &Front<'_>) -> Result<Option<(Ring, Channel)>, String> {
    let Some(reference) = front.optional("ctrl-ring-ref")? else {
        return Ok(None);
    };
    let port = front.number("event-channel-ctrl")?;
    let pages =
        SharedPages::map(front.domain, &[reference]).map_err(|error| format!("ctrl-ring-ref: {error}"))?;
    let ring = Control::attach(pages).map_err(|broken| broken.0.to_string())?;
    let channel = Channel::bind(host, front.domain, port)
        .map_err(|error| format!("event-channel-ctrl: {port}: {error}"))?;
    Ok(Some((ring, channel)))
}

/// Task: the ring, until the link is taken down, or until the front end breaks it.
pub async fn run(host: Rc<Host>, device: Rc<Device>, mut ring: Ring, channel: Channel) {
    let grants = GrantedBy(device.domain);
    loop {
        let served = device.configure(|hashing| ring.serve(&grants, hashing));
        let waited = match served {
            Ok(Outcome { notify, more }) => {
                if notify {
                    channel.notify();
                }
                if more {
                    channel.turn().await
                } else {
                    channel.event().await
                }
            }
            Err(Broken(reason)) => return device.report(&host, reason),
        };
        if waited.is_err() {
            return;
        }
    }
}
