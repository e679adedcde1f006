//! Acts on domains that have stopped, as their config says.

use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;

use abi::Domid;
use abi::event_channel::VIRQ_DOM_EXC;
use abi::sched::{
    SHUTDOWN_CRASH, SHUTDOWN_POWEROFF, SHUTDOWN_REBOOT, SHUTDOWN_SOFT_RESET, SHUTDOWN_SUSPEND,
    SHUTDOWN_WATCHDOG,
};
use dom0_shim::shell::format::shutdown_reason;
use dom0_shim::xlcfg::{Action, Config};
use guest_rt::hypercall::{domctl, event_channel};

use super::{Record, create, destroy, open_disks};
use crate::guest::backend::block::OpenDisk;
use crate::guest::{Host, console};

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
            look_at(&host, domain).await;
        }
    }
}

/// Acts if this domain has stopped and nobody has acted yet.
async fn look_at(host: &Rc<Host>, domain: Domid) {
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
    console::drain(host, domain);
    let (word, action) = describe(reason, &record.config);
    let name = &record.config.name;
    let action_word = action_name(action);
    host.terminal.notice(&format!(
        "Domain {domain} ({name}) has shut down, reason code {reason} ({word}): action is {action_word}"
    ));
    act(host, domain, &record, action).await;
}

/// A reason in words, and what the config says to do.
fn describe(reason: u32, config: &Config) -> (&'static str, Action) {
    match reason {
        SHUTDOWN_POWEROFF => ("poweroff", config.on_poweroff),
        SHUTDOWN_REBOOT => ("reboot", config.on_reboot),
        SHUTDOWN_SUSPEND => ("suspend", Action::Preserve),
        SHUTDOWN_CRASH => ("crash", config.on_crash),
        SHUTDOWN_WATCHDOG => ("watchdog", config.on_watchdog),
        SHUTDOWN_SOFT_RESET => ("soft reset", config.on_soft_reset),
        _ => ("unknown", Action::Destroy),
    }
}

fn action_name(action: Action) -> &'static str {
    match action {
        Action::Destroy => "destroy",
        Action::Restart => "restart",
        Action::RenameRestart => "rename-restart",
        Action::Preserve => "preserve",
        Action::CoredumpDestroy => "coredump-destroy",
        Action::CoredumpRestart => "coredump-restart",
        Action::SoftReset => "soft-reset",
    }
}

async fn act(host: &Rc<Host>, domain: Domid, record: &Record, action: Action) {
    let restart = match action {
        Action::Preserve => return,
        Action::Destroy => false,
        Action::Restart => true,
        Action::CoredumpDestroy | Action::CoredumpRestart => {
            host.terminal
                .notice("There is no place for a core dump: none is written");
            action == Action::CoredumpRestart
        }
        Action::SoftReset => {
            host.terminal.notice("Soft reset is not supported: restarting");
            true
        }
        Action::RenameRestart => return rename_restart(host, domain, record).await,
    };
    if let Err(error) = destroy(host, domain).await {
        host.terminal
            .notice(&format!("Destroying domain {domain}: {error}"));
    }
    if restart {
        start_again(host, record.config.clone(), record.disks.clone()).await;
    }
}

/// Keeps the stopped domain under another name and starts a new one under its own.
async fn rename_restart(host: &Rc<Host>, domain: Domid, record: &Record) {
    let name = &record.config.name;
    let kept = (1..)
        .map(|number| format!("{name}-{number}"))
        .find(|name| host.domains.find(name).is_none());
    let kept = Config {
        name: kept.unwrap_or_default(),
        uuid: None,
        ..(*record.config).clone()
    };
    let _ = host
        .store
        .write(&format!("/local/domain/{domain}/name"), &kept.name);
    console::rename(host, domain, &kept.name);
    if let Some(record) = host.domains.records.borrow_mut().get_mut(&domain) {
        record.config = Rc::new(kept);
    }
    // The disks stay with the domain that is kept.
    match open_disks(host, &record.config).await {
        Ok(disks) => start_again(host, record.config.clone(), disks).await,
        Err(error) => host.terminal.notice(&format!("Restarting {name}: {error}")),
    }
}

async fn start_again(host: &Rc<Host>, config: Rc<Config>, disks: Vec<OpenDisk>) {
    match create(host, config.clone(), disks).await {
        Ok(domain) => host
            .terminal
            .notice(&format!("Domain {domain} ({}) has been started", config.name)),
        Err(failure) => host
            .terminal
            .notice(&format!("Restarting {}: {failure}", config.name)),
    }
}
