//! What is done with network devices at the prompt, in the columns and wording of `xl`.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use abi::Domid;
use dom0_shim::net::packet::Mac;
use dom0_shim::xlcfg::vif;
use guest_rt::println;

use super::{Device, device, id};
use crate::guest::Host;
use crate::guest::backend::{self, Detach, Front};
use crate::guest::toolstack::new_mac;

/// `network-attach`: the keys are those of a config's `vif`. The device is there after a restart, too.
pub fn attach(host: &Rc<Host>, domain: Domid, keys: &[&str]) -> Result<(), String> {
    let mut warnings = Vec::new();
    let mut vif = vif::parse(&keys.join(","), &mut warnings)?;
    warnings.iter().for_each(|warning| println!("{warning}"));
    vif.mac.get_or_insert_with(new_mac);
    let name = host.domains.name(domain).unwrap_or_default();
    device::attach(host, domain, &name, &vif)?;
    host.domains.update(domain, |config| config.vifs.push(vif));
    Ok(())
}

/// `network-detach`: the device is named by its number or its address. If its front end does not let go of it, it is
/// taken.
pub async fn detach(host: &Rc<Host>, domain: Domid, which: &str) -> Result<(), String> {
    let devices = host.networks.of_domain(domain);
    let found = match which.parse::<Mac>() {
        Ok(mac) => devices.into_iter().find(|device| device.mac == mac),
        Err(_) => devices
            .into_iter()
            .find(|device| which.parse() == Ok(device.number)),
    };
    let device = found.ok_or_else(|| format!("Unknown device {which}."))?;
    let id = id(domain, device.number);
    // Before it is gone: the domain may be started again meanwhile.
    host.domains.update(domain, |config| {
        let vifs = &mut config.vifs;
        if let Some(index) = vifs.iter().position(|vif| vif.mac == Some(device.mac)) {
            vifs.remove(index);
        }
    });
    // As libxl: a front end that does not let go has nothing to lose but packets.
    match backend::remove(host, id, Detach::Ask).await {
        Ok(()) => Ok(()),
        Err(_) => backend::remove(host, id, Detach::Force).await,
    }
}

/// `network-list`.
pub fn list(host: &Host, domains: &[Domid]) -> Result<(), String> {
    println!(
        "{:<3} {:<2} {:<17} {:<6} {:<5} {:<6} {:>5}/{:<5} {:<30}",
        "Idx", "BE", "Mac Addr.", "handle", "state", "evt-ch", "tx-", "rx-ring-ref", "BE-path"
    );
    for device in devices(host, domains) {
        // Front ends with several queues, or with two channels, have these nodes elsewhere: as in xl, -1 stands there.
        let id = id(device.domain, device.number);
        let front = Front::new(&host.store, id);
        let node = |name: &str| front.optional(name).ok().flatten().map_or(-1, i64::from);
        println!(
            "{:<3} {:<2} {}{:>6} {:>5} {:>6} {:>5}/{:<11} {:<30}",
            device.number,
            0,
            device.mac,
            device.number,
            node("state"),
            node("event-channel"),
            node("tx-ring-ref"),
            node("rx-ring-ref"),
            id.back()
        );
    }
    Ok(())
}

/// `network-stats`: packets and bytes, as the domain sees them.
pub fn stats(host: &Host, domains: &[Domid]) -> Result<(), String> {
    println!(
        "{:<3} {:<17} {:>10} {:>12} {:>10} {:>12} {:>8} {:>9} {:>8} {:>8}",
        "Idx",
        "Mac Addr.",
        "sent",
        "bytes",
        "received",
        "bytes",
        "refused",
        "malformed",
        "overrun",
        "too-large"
    );
    for device in devices(host, domains) {
        let (counters, losses) = device.counters();
        println!(
            "{:<3} {} {:>10} {:>12} {:>10} {:>12} {:>8} {:>9} {:>8} {:>8}",
            device.number,
            device.mac,
            counters.sent.packets,
            counters.sent.bytes,
            counters.received.packets,
            counters.received.bytes,
            counters.refused,
            losses.malformed,
            losses.overrun,
            counters.too_large
        );
    }
    Ok(())
}

fn devices<'a>(host: &'a Host, domains: &'a [Domid]) -> impl Iterator<Item = Rc<Device>> + 'a {
    domains.iter().flat_map(|&domain| host.networks.of_domain(domain))
}
