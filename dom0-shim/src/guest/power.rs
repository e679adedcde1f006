//! Stopping domains at the prompt (`shutdown`, `reboot`), what else their kernels are told (`sysrq`, `trigger`), and the
//! end of the machine.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use abi::Domid;
use abi::domctl::XEN_DOMCTL_SENDTRIGGER_NMI;
use abi::sched::{SHUTDOWN_POWEROFF, SHUTDOWN_REBOOT};
use dom0_shim::executor::{Either, either};
use dom0_shim::shell::format::{deaf, flag, shutdown_reason};
use dom0_shim::shell::words;
use guest_rt::hypercall::{domctl, sched};
use guest_rt::{println, time};

use super::Host;
use super::shell::{find, find_any};
use super::toolstack::{Stage, destroy};

/// What a domain is asked for, or what becomes of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// To end.
    PowerOff,
    /// To end and begin anew.
    Reboot,
}

impl Wish {
    /// As it is in xenstore.
    fn word(self) -> &'static str {
        match self {
            Self::PowerOff => "poweroff",
            Self::Reboot => "reboot",
        }
    }

    fn doing(self) -> &'static str {
        match self {
            Self::PowerOff => "Shutting down",
            Self::Reboot => "Rebooting",
        }
    }
}

/// `shutdown` and `reboot`; `None` if their words make no sense. Domain 0 is the machine.
pub async fn ask(host: &Rc<Host>, wish: Wish, words: &[&str]) -> Option<Result<(), String>> {
    let (given, rest) = words::options(words, &[('a', "all"), ('w', "wait"), ('F', "")])?;
    let mut domains: Vec<Domid> = match rest[..] {
        [] if given.contains('a') => host
            .domains
            .list()
            .into_iter()
            .map(|(domain, _)| domain)
            .collect(),
        [which] if !given.contains('a') => match find_any(host, which) {
            Ok(0) => return Some(end(host, wish).await),
            Ok(domain) => [domain].into(),
            Err(message) => return Some(Err(message)),
        },
        _ => return None,
    };
    let mut failed = Vec::new();
    // One that cannot be asked keeps none of the others from being asked.
    domains.retain(|&domain| {
        println!("{} domain {domain}", wish.doing());
        let asked = can_hear(host, domain).and_then(|()| request(host, domain, wish, given.contains('F')));
        asked
            .map_err(|message| failed.push(format!("Domain {domain}: {message}")))
            .is_ok()
    });
    if domains.is_empty() && !failed.is_empty() {
        return Some(Err(failed.join("\n")));
    }
    for message in failed {
        println!("{message}");
    }
    match given.matches('w').count() {
        0 => {}
        times => wait(host, domains, times == 1).await,
    }
    Some(Ok(()))
}

/// Is there a kernel that runs, or will?
fn can_hear(host: &Host, domain: Domid) -> Result<(), String> {
    match host.domains.stage(domain) {
        None | Some(Stage::Destroying) => return Err("it is being destroyed".into()),
        Some(Stage::Making) => return Err("it is still being created".into()),
        Some(Stage::Made) => {}
    }
    let info = domctl::info(domain).map_err(|error| format!("getdomaininfo: {error}"))?;
    deaf(info.flags).map_or(Ok(()), Err)
}

/// Asks a domain's kernel through xenstore (docs/misc/xenstore-paths).
fn request(host: &Host, domain: Domid, wish: Wish, fall_back: bool) -> Result<(), String> {
    let word = wish.word();
    let control = format!("/local/domain/{domain}/control");
    // A kernel that says nothing may be one from before it could.
    let can = host.store.read(&format!("{control}/feature-{word}"));
    if can.is_ok_and(|can| can == "0") {
        let button = if fall_back {
            "; a PVH guest has no button to fall back to"
        } else {
            ""
        };
        return Err(format!(
            "its kernel does not {word} when asked to: use destroy{button}"
        ));
    }
    host.store.put(&format!("{control}/shutdown"), word)
}

/// Waits until each of some domains is gone or, if that will do, has stopped; or until it is interrupted.
async fn wait(host: &Host, mut domains: Vec<Domid>, stopped_will_do: bool) {
    println!("Waiting for {} domains", domains.len());
    loop {
        domains.retain(|&domain| {
            let reason = match domctl::info(domain) {
                Ok(info) if host.domains.stage(domain).is_some() => shutdown_reason(info.flags),
                _ => {
                    println!("Domain {domain} has been destroyed");
                    return false;
                }
            };
            match reason.filter(|_| stopped_will_do) {
                Some(reason) => println!("Domain {domain} has been shut down, reason code {reason}"),
                None => return true,
            }
            false
        });
        if domains.is_empty() {
            return;
        }
        if let Either::First(_) = either(host.terminal.interrupt(), host.domains.ended.wait()).await {
            println!("No longer waiting");
            return;
        }
    }
}

/// `sysrq`: Linux's magic keys.
pub fn sysrq(host: &Host, which: &str, letter: &str) -> Result<(), String> {
    let domain = find(host, which)?;
    if letter.chars().count() != 1 {
        return Err(format!("Invalid sysrq '{letter}': one letter is wanted"));
    }
    host.store
        .put(&format!("/local/domain/{domain}/control/sysrq"), letter)
}

/// `trigger`: an NMI; what else xl can trigger is for guests with buttons.
pub fn trigger(host: &Host, which: &str, name: &str, vcpu: &str) -> Result<(), String> {
    let domain = find(host, which)?;
    match name {
        "nmi" => {}
        "reset" | "init" | "power" | "sleep" | "s3resume" => {
            return Err(format!(
                "{name}: a PVH guest has no buttons; shutdown and reboot ask its kernel"
            ));
        }
        _ => return Err(format!("Invalid trigger '{name}'")),
    }
    let vcpu = vcpu.parse().map_err(|_| format!("Invalid VCPU '{vcpu}'"))?;
    domctl::send_trigger(domain, XEN_DOMCTL_SENDTRIGGER_NMI, vcpu)
        .map_err(|error| format!("Sending {name} to VCPU {vcpu} of domain {domain}: {error}"))
}

/// Asks every domain to power off, destroys those that have not after a while, and ends the machine or has it begin anew.
pub async fn end(host: &Rc<Host>, wish: Wish) -> Result<(), String> {
    const PATIENCE: u64 = 20_000_000_000;
    for (domain, name) in host.domains.list() {
        let alive = domctl::info(domain).is_ok_and(|info| info.flags & (flag::SHUTDOWN | flag::PAUSED) == 0);
        if !alive || request(host, domain, Wish::PowerOff, false).is_err() {
            destroy_or_say(host, domain, &name).await;
        }
    }
    wait_for_all(host, PATIENCE).await;
    for (domain, name) in host.domains.list() {
        println!("{name} has not powered off: destroying it");
        destroy_or_say(host, domain, &name).await;
    }
    // Those that somebody else is destroying: what they have written may be on its way to the disk.
    wait_for_all(host, PATIENCE).await;
    match wish {
        Wish::PowerOff => {
            println!("Powering off");
            sched::shutdown(SHUTDOWN_POWEROFF)
        }
        Wish::Reboot => {
            println!("Rebooting the machine");
            sched::shutdown(SHUTDOWN_REBOOT)
        }
    }
}

/// Waits until there is no domain, for `patience` (ns) at most.
async fn wait_for_all(host: &Host, patience: u64) {
    let deadline = time::now() + patience;
    while !host.domains.list().is_empty() {
        let passed = host.reactor.sleep_until(deadline);
        if let Either::Second(()) = either(host.domains.ended.wait(), passed).await {
            break;
        }
    }
}

/// Destroys a domain; that it cannot be done does not keep the machine from ending.
async fn destroy_or_say(host: &Host, domain: Domid, name: &str) {
    if let Err(error) = destroy(host, domain).await {
        println!("Destroying {name}: {error}");
    }
}
