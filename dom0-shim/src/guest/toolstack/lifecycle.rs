//! Acts on domains that have stopped, as their config says.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::Cell;

use abi::Domid;
use abi::event_channel::VIRQ_DOM_EXC;
use dom0_shim::restart;
use dom0_shim::shell::format::shutdown_reason;
use dom0_shim::xlcfg::{Action, Config};
use guest_rt::hypercall::{domctl, event_channel};
use guest_rt::time;

use super::build::new_handle;
use super::soft_reset::soft_reset;
use super::{First, Stage, create, destroy, nodes};
use crate::guest::backend::block::OpenDisk;
use crate::guest::{Host, console};

/// Nanoseconds.
const SECOND: u64 = 1_000_000_000;

/// Task: looks after the domains whenever the hypervisor says that one has stopped or died.
pub async fn watch(host: Rc<Host>) {
    let port = match event_channel::bind_virq(VIRQ_DOM_EXC) {
        Ok(port) => port,
        Err(error) => {
            return host
                .terminal
                .notice(&format!("Stopped domains go unnoticed: VIRQ_DOM_EXC: {error}"));
        }
    };
    loop {
        host.reactor.event(port).await;
        let domains: Vec<Domid> = host.domains.records.borrow().keys().copied().collect();
        for domain in domains {
            look_at(&host, domain);
        }
    }
}

/// Starts to act if this domain has stopped and nobody has acted yet.
fn look_at(host: &Rc<Host>, domain: Domid) {
    let Ok(reason) = domctl::info(domain).map(|info| shutdown_reason(info.flags)) else {
        return;
    };
    if reason.is_some() {
        host.store.shut_down(domain);
    }
    let record = match host.domains.records.borrow_mut().get_mut(&domain) {
        Some(record) if !record.handled => {
            record.handled = reason.is_some();
            record.clone()
        }
        _ => return,
    };
    let Some(reason) = reason else { return };
    host.domains.ended.notify();
    console::drain(host, domain);
    let (word, action) = restart::decide(reason, &record.config);
    let name = &record.config.name;
    let action_word = action_name(action);
    host.terminal.notice(&format!(
        "Domain {domain} ({name}) has shut down, reason code {reason} ({word}): action is {action_word}"
    ));
    // A task of its own: what takes time is not to keep other domains waiting.
    let act = act(host.clone(), domain, action);
    host.spawner.spawn(act);
}

fn action_name(action: Action) -> &'static str {
    match action {
        Action::Destroy => "destroy",
        Action::Restart => "restart",
        Action::RenameRestart => "rename-restart",
        Action::Preserve => "preserve",
        Action::SoftReset => "soft-reset",
    }
}

/// Task: does what is to be done with a domain that has stopped.
async fn act(host: Rc<Host>, domain: Domid, action: Action) {
    match action {
        Action::Preserve => {}
        Action::Destroy => destroy_or_say(&host, domain).await,
        Action::Restart | Action::RenameRestart => restart(&host, domain, action).await,
        Action::SoftReset => {
            let delay = wait_if_young(&host, domain).await;
            match soft_reset(&host, domain).await {
                Ok(()) => host.domains.delayed(domain, delay),
                Err(failure) => {
                    host.terminal
                        .notice(&format!("Soft reset of domain {domain}: {failure}"));
                    destroy_or_say(&host, domain).await;
                }
            }
        }
    }
}

async fn destroy_or_say(host: &Host, domain: Domid) {
    if let Err(error) = destroy(host, domain).await {
        host.terminal
            .notice(&format!("Destroying domain {domain}: {error}"));
    }
}

/// Waits before a domain that has stopped is started again, if it has not run for long; how long, in nanoseconds. It stays
/// meanwhile, to be seen and to be destroyed.
async fn wait_if_young(host: &Host, domain: Domid) -> u64 {
    let delay = host.domains.delay(domain);
    if delay > 0 {
        host.terminal.notice(&format!(
            "Domain {domain} has run for less than {} seconds: it is started again in {} seconds",
            restart::YOUNG / SECOND,
            delay / SECOND
        ));
        host.reactor.sleep_until(time::now() + delay).await;
    }
    delay
}

/// Starts a domain that has stopped again; one that has not run for long, after a while.
async fn restart(host: &Rc<Host>, domain: Domid, action: Action) {
    let delay = wait_if_young(host, domain).await;
    // As commands have left it meanwhile.
    let record = host.domains.records.borrow().get(&domain).cloned();
    let Some(record) = record.filter(|record| record.stage == Stage::Made) else {
        return;
    };
    host.domains.reserved.borrow_mut().add(&record.config.name);
    let disks = if action == Action::RenameRestart {
        keep(host, domain, &record.config);
        // The disks stay with the domain that is kept: the new one has others like those that this one has by now.
        open_others(host, &record.disks).await
    } else {
        destroy_or_say(host, domain).await;
        Ok(record.disks)
    };
    let name = &record.config.name;
    let started = match disks {
        Ok(disks) => {
            let config = record.config.clone();
            create(host, config, disks, First::Running, &Cell::default())
                .await
                .map_err(|failure| format!("{failure}"))
        }
        Err(error) => Err(error),
    };
    host.domains.reserved.borrow_mut().remove(name);
    match started {
        Ok(domain) => {
            host.domains.delayed(domain, delay);
            let text = format!("Domain {domain} ({name}) has been started");
            host.terminal.notice(&text);
        }
        Err(error) => host.terminal.notice(&format!("Restarting {name}: {error}")),
    }
}

/// Opens disks like those that a domain has, as large as they are by now.
///
/// # Errors
/// The first that cannot be opened, in a sentence.
async fn open_others(host: &Host, disks: &[OpenDisk]) -> Result<Vec<OpenDisk>, String> {
    let mut others = Vec::new();
    for disk in disks {
        others.push(disk.open_another(host).await?);
    }
    Ok(others)
}

/// Keeps a stopped domain under another name and another handle: those that it has are for the one that is started.
fn keep(host: &Host, domain: Domid, config: &Config) {
    let name = (1..)
        .map(|number| format!("{}-{number}", config.name))
        .find(|name| host.domains.check_free(name).is_ok())
        .unwrap_or_default();
    let handle = new_handle();
    if let Err(error) = domctl::set_handle(domain, handle) {
        host.terminal
            .notice(&format!("Domain {domain} keeps its handle: {error}"));
    }
    // Nodes that cannot be written are as a domain that was made without them.
    let _ = nodes::rename(&host.store, domain, &handle, &name);
    console::rename(host, domain, &name);
    host.networks.rename(domain, &name);
    host.domains.update(domain, |config| {
        config.name = name;
        config.uuid = None;
    });
}
