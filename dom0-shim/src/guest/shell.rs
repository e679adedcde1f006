//! The management shell: reads command lines and carries them out.

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::Cell;

use abi::{Domid, Errno};
use dom0_shim::executor::{Either, either};
use dom0_shim::shell::commands::{self, Command, Names, TABLE};
use dom0_shim::shell::format::{BLOCK_LIST_HEAD, BlockLine, block_line, uptime};
use dom0_shim::shell::words::{self, Word};
use dom0_shim::xlcfg::disk::{self, Disk};
use dom0_shim::xlcfg::{self, DOM0_NAME};
use guest_rt::hypercall::sysctl::PoolChange;
use guest_rt::hypercall::{domctl, sysctl};
use guest_rt::{println, time};

use super::backend::{Detach, Front, block};
use super::power::{self, Wish};
use super::toolstack::{
    CONFIGS, First, Stage, attach_disk, create, destroy, detach_disk, open_disks, read_config, rename,
    resize, resize_disk,
};
use super::{Host, console, info, network, pools, scheduling, store_tools};

/// Where configs of domains to start at once are.
const AUTO: &str = "etc/oxen/auto";

/// Task: starts the configured domains, then reads and carries out commands for ever.
pub async fn run(host: Rc<Host>) {
    println!(
        "dom0-shim {}: type help for the commands, Tab completes",
        env!("CARGO_PKG_VERSION")
    );
    for line in &host.machine.report {
        println!("{line}");
    }
    for word in host.unknown_options() {
        println!("dom0-shim's command line: '{word}' is ignored: it takes domu=NAME,... and console=NAME");
    }
    if host.archive.is_damaged() {
        println!(
            "The boot archive (dom0's second module) is damaged, or no cpio archive: {} files of it can be read",
            host.archive.paths().count()
        );
    }
    start_configured(&host).await;
    loop {
        let line = host.terminal.line(|before| candidates(&host, before)).await;
        let result = match words::split(commands::behind_xl(&line)).as_deref() {
            Ok([name, arguments @ ..]) => run_command(&host, &name.text, arguments).await,
            Ok([]) => Ok(()),
            Err(message) => Err(message.clone()),
        };
        if let Err(message) = result {
            println!("{message}");
        }
    }
}

/// Creates the domains of `/etc/oxen/auto`, and those that `domu=` names; attaches the console that `console=`
/// names.
async fn start_configured(host: &Rc<Host>) {
    let named = host.option("domu").into_iter().flat_map(|list| list.split(','));
    let configs: Vec<&str> = host.archive.configs_in(AUTO).chain(named).collect();
    for path in configs {
        if let Err(message) = start(host, path, &[], First::Running).await {
            println!("{message}");
        }
    }
    if let Some(name) = host.option("console") {
        match host.domains.find(name) {
            Some(domain) => {
                console::attach(host, domain, 0).await;
            }
            None => println!("console={name}: no domain of this name runs; domu=CONFIG creates one"),
        }
    }
}

/// Creates a domain from the config at `path`, with `settings` (`key=value`) as if they were its last lines, unless it is interrupted.
async fn start(host: &Rc<Host>, path: &str, settings: &[&str], first: First) -> Result<Domid, String> {
    println!("Parsing config from {path}");
    let config = read_config(host, path, settings).await?;
    let started = time::now();
    let failed = |failure: String| format!("Domain {} was not created: {failure}", config.name);
    // Before its disks, which are in use then.
    host.domains.check_free(&config.name).map_err(failed)?;
    let disks = open_disks(host, &config.disks).await.map_err(failed)?;
    let begun = Cell::new(None);
    let mut creation = Box::pin(create(host, config.clone(), disks, first, &begun));
    let domain = match either(host.terminal.interrupt(), &mut creation).await {
        Either::First(()) => {
            // While it waits for its turn there is nothing to destroy.
            if let Some(domain) = begun.get() {
                let destroyed = destroy(host, domain).await;
                // If it has failed already it is itself destroying the domain, which nobody else would do to the end.
                let _ = creation.await;
                answer(destroyed)?;
            }
            return Err(failed("interrupted".to_string()));
        }
        Either::Second(made) => made.map_err(|failure| failed(failure.to_string()))?,
    };
    println!(
        "Domain {domain} ({}) created in {} ms",
        config.name,
        (time::now() - started) / 1_000_000
    );
    Ok(domain)
}

/// `create`; `None` if its words make no sense.
async fn create_as(host: &Rc<Host>, words: &[Word<'_>]) -> Option<Result<(), String>> {
    let (options, rest): (Vec<&Word>, Vec<&Word>) =
        words.iter().partition(|word| word.typed.starts_with('-'));
    let [path, settings @ ..] = &rest[..] else {
        return None;
    };
    let options: Vec<&str> = options.iter().map(|option| option.text.as_str()).collect();
    let (given, _) = words::options(&options, &[('c', ""), ('p', "")])?;
    let settings: Vec<&str> = settings.iter().map(|word| xlcfg::prompt::setting(word)).collect();
    let first = match given.contains('p') {
        true => First::Paused,
        false => First::Running,
    };
    let domain = match start(host, &path.text, &settings, first).await {
        Ok(domain) => domain,
        Err(message) => return Some(Err(message)),
    };
    if given.contains('c') {
        console::attach(host, domain, 0).await;
    }
    Some(Ok(()))
}

/// What could complete the word at the end of `before`.
fn candidates(host: &Host, before: &str) -> Vec<String> {
    let Some((head, word)) = commands::behind_xl(before).rsplit_once(' ') else {
        return TABLE.iter().map(|entry| entry.name.to_string()).collect();
    };
    let command = head.split_ascii_whitespace().next().and_then(commands::find);
    match command.map_or(Names::Nothing, |entry| entry.names) {
        Names::Nothing => Vec::new(),
        Names::Hptool => commands::HPTOOL.map(String::from).into(),
        Names::Commands => TABLE.iter().map(|entry| entry.name.to_string()).collect(),
        Names::Domains => host.domains.list().into_iter().map(|(_, name)| name).collect(),
        Names::Configs => {
            let configs = host.archive.paths().filter(|path| path.ends_with(".cfg"));
            let paths = configs.map(|path| format!("/{path}"));
            match word.starts_with('/') {
                true => paths.collect(),
                false => paths.filter_map(|path| config_name(&path)).collect(),
            }
        }
    }
}

/// What can be said in a `create` instead of the path of a config.
fn config_name(path: &str) -> Option<String> {
    let name = path.strip_prefix(CONFIGS)?.strip_prefix('/')?;
    Some(name.strip_suffix(".cfg")?.to_string())
}

async fn run_command(host: &Rc<Host>, name: &str, words: &[Word<'_>]) -> Result<(), String> {
    let arguments: &[&str] = &words.iter().map(|word| word.text.as_str()).collect::<Vec<_>>();
    let entry = commands::find(name).ok_or_else(|| format!("{name}: no such command; try help"))?;
    let usage = || format!("Usage: {} {}", entry.name, entry.arguments);
    let (least, most) = entry.count;
    if !(least..=most).contains(&arguments.len()) {
        return Err(usage());
    }
    match (entry.command, arguments) {
        (Command::Help, topic) => help(topic.first().copied()),
        (Command::List, words) => info::list(host, words).unwrap_or_else(|| Err(usage())),
        (Command::Info, words) => info::info(words).unwrap_or_else(|| Err(usage())),
        (Command::Dmesg, options) => dmesg(options),
        (Command::Create, _) => create_as(host, words).await.unwrap_or_else(|| Err(usage())),
        (Command::Console, words) => console::console(host, words)
            .await
            .unwrap_or_else(|| Err(usage())),
        (Command::ConsoleLog, words) => console::log(host, words).unwrap_or_else(|| Err(usage())),
        (Command::ChannelList, which) => console::list_channels(host, &find_all(host, which)?),
        (Command::Destroy, [which]) => {
            let domain = find_in(host, which, &[Stage::Making, Stage::Made])?;
            answer(destroy(host, domain).await)
        }
        (Command::Shutdown, words) => power::ask(host, Wish::PowerOff, words)
            .await
            .unwrap_or_else(|| Err(usage())),
        (Command::Reboot, words) => power::ask(host, Wish::Reboot, words)
            .await
            .unwrap_or_else(|| Err(usage())),
        (Command::Rename, [which, name]) => rename(host, find(host, which)?, name),
        (Command::Sysrq, [which, letter]) => power::sysrq(host, which, letter),
        (Command::Trigger, [which, name]) => power::trigger(host, which, name, "0"),
        (Command::Trigger, [which, name, vcpu]) => power::trigger(host, which, name, vcpu),
        (Command::Pause, [which]) => answer(domctl::pause(find(host, which)?)),
        (Command::Unpause, [which]) => answer(domctl::unpause(find(host, which)?)),
        (Command::Domid, [which]) => {
            println!("{}", find_any(host, which)?);
            Ok(())
        }
        (Command::Domname, [which]) => domain_name(host, which),
        (Command::VcpuList, which) => {
            let only = which.first().map(|which| find_any(host, which)).transpose()?;
            scheduling::vcpu_list(host, only)
        }
        (Command::VcpuPin, [which, vcpu, hard, soft @ ..]) => {
            scheduling::vcpu_pin(find_any(host, which)?, vcpu, hard, soft.first().copied())
        }
        (Command::VcpuSet, words) => resize::vcpu_set(host, words),
        (Command::MemSet, [which, size]) => resize::mem_set(host, find(host, which)?, size),
        (Command::MemMax, [which, size]) => resize::mem_max(host, find(host, which)?, size),
        (Command::SchedCredit2, options) => scheduling::sched_credit2(host, options),
        (Command::PoolList, words) => pools::list(host, words),
        (Command::PoolCreate, settings) => pools::create(host, settings),
        (Command::PoolDestroy, [pool]) => pools::destroy(host, pool),
        (Command::PoolRename, [pool, name]) => pools::rename(host, pool, name),
        (Command::PoolCpuAdd, [pool, cpus]) => pools::change_cpus(host, pool, cpus, PoolChange::AddCpu),
        (Command::PoolCpuRemove, [pool, cpus]) => pools::change_cpus(host, pool, cpus, PoolChange::RemoveCpu),
        (Command::PoolMigrate, [which, pool]) => pools::migrate(host, find(host, which)?, pool),
        (Command::Hptool, [operation, cpu]) => scheduling::hptool(operation, cpu),
        (Command::Uptime, which) => show_uptime(host, which.first().copied()),
        (Command::DebugKeys, [keys]) => answer(sysctl::debug_keys(keys.as_bytes())),
        (Command::NetworkAttach, [which, keys @ ..]) => {
            let domain = find(host, which)?;
            network::commands::attach(host, domain, keys)
        }
        (Command::NetworkDetach, [which, device]) => {
            network::commands::detach(host, find(host, which)?, device).await
        }
        (Command::NetworkList, which) => network::commands::list(host, &find_all(host, which)?),
        (Command::NetworkStats, which) => network::commands::stats(host, &find_all(host, which)?),
        (
            Command::XenstoreLs
            | Command::XenstoreRead
            | Command::XenstoreWrite
            | Command::XenstoreRm
            | Command::XenstoreList
            | Command::XenstoreExists
            | Command::XenstoreChmod
            | Command::XenstoreWatch
            | Command::XenstoreControl,
            words,
        ) => store_tools::run(host, entry.command, words)
            .await
            .unwrap_or_else(|| Err(usage())),
        (Command::BlockAttach, [which, specification @ ..]) => {
            block_attach(host, which, &specification.join(",")).await
        }
        (Command::BlockDetach, ["--force", which, disk] | [which, disk, "--force"]) => {
            block_detach(host, which, disk, Detach::Force).await
        }
        (Command::BlockDetach, [which, disk]) => block_detach(host, which, disk, Detach::Ask).await,
        (Command::BlockResize, [which, disk, size]) => block_resize(host, which, disk, size),
        (Command::BlockList, domains) => block_list(host, domains),
        (Command::Poweroff, _) => power::end(host, Wish::PowerOff).await,
        _ => Err(usage()),
    }
}

fn answer(result: Result<(), Errno>) -> Result<(), String> {
    result.map_err(|error| error.to_string())
}

pub(super) fn find(host: &Host, which: &str) -> Result<Domid, String> {
    find_in(host, which, &[Stage::Made])
}

/// A domain that is in one of some stages.
fn find_in(host: &Host, which: &str, stages: &[Stage]) -> Result<Domid, String> {
    let invalid = || format!("{which} is an invalid domain identifier");
    let domain = host.domains.find(which).ok_or_else(invalid)?;
    // Restarts go on while commands are typed.
    match host.domains.stage(domain).ok_or_else(invalid)? {
        stage if stages.contains(&stage) => Ok(domain),
        Stage::Making => Err(format!("{which} is still being created")),
        Stage::Made | Stage::Destroying => Err(format!("{which} is being destroyed")),
    }
}

/// As [`find`], for what can be asked and done of this domain, too.
pub(super) fn find_any(host: &Host, which: &str) -> Result<Domid, String> {
    match which {
        "0" | DOM0_NAME => Ok(0),
        which => find(host, which),
    }
}

fn find_all(host: &Host, which: &[&str]) -> Result<Vec<Domid>, String> {
    which.iter().map(|which| find(host, which)).collect()
}

fn help(topic: Option<&str>) -> Result<(), String> {
    match topic {
        Some(name) => {
            let entry = commands::find(name).ok_or_else(|| format!("{name}: no such command"))?;
            println!("Usage: {} {}\n\n{}", entry.name, entry.arguments, entry.help);
        }
        None => {
            for entry in TABLE {
                println!(" {:<19} {}", entry.name, entry.summary());
            }
            println!(
                "\nhelp COMMAND tells its options; a command may be abbreviated, but for poweroff and exit."
            );
        }
    }
    Ok(())
}

/// All domains that the hypervisor knows.
pub(super) fn all_domains() -> Result<Vec<abi::domctl::DomctlGetdomaininfo>, String> {
    const DOMAINS_MAX: u32 = 1024;
    sysctl::domains(0, DOMAINS_MAX).map_err(|error| format!("getdomaininfolist: {error}"))
}

pub(super) fn name_of(host: &Host, domain: Domid) -> String {
    match domain {
        0 => DOM0_NAME.to_string(),
        domain => host.domains.name(domain).unwrap_or_else(|| "(null)".to_string()),
    }
}

fn dmesg(options: &[&str]) -> Result<(), String> {
    let clear = match options {
        [] => false,
        ["-c"] => true,
        _ => return Err("Usage: dmesg [-c]".to_string()),
    };
    let text = sysctl::read_console(clear).map_err(|error| format!("readconsole: {error}"))?;
    guest_rt::console::write(&text);
    println!();
    Ok(())
}

fn domain_name(host: &Host, which: &str) -> Result<(), String> {
    let known = which.parse().ok().and_then(|domain| match domain {
        0 => Some(DOM0_NAME.to_string()),
        domain => host.domains.name(domain),
    });
    println!(
        "{}",
        known.ok_or_else(|| format!("Can't get domain name of domain id '{which}'"))?
    );
    Ok(())
}

async fn block_attach(host: &Rc<Host>, which: &str, specification: &str) -> Result<(), String> {
    let domain = find(host, which)?;
    let disk = Disk::parse(specification).map_err(|error| format!("'{specification}': {error}"))?;
    attach_disk(host, domain, &disk).await
}

async fn block_detach(host: &Host, which: &str, disk: &str, how: Detach) -> Result<(), String> {
    let domain = find(host, which)?;
    let failed = |error: String| format!("{disk}: {error}");
    let number = Disk::number(disk).ok_or_else(|| failed("is no disk's name, as xvda is".to_string()))?;
    detach_disk(host, domain, number, how).await.map_err(failed)
}

fn block_resize(host: &Host, which: &str, disk: &str, size: &str) -> Result<(), String> {
    let domain = find(host, which)?;
    let failed = |error: &str| format!("{disk}: {error}");
    let number = Disk::number(disk).ok_or_else(|| failed("is no disk's name, as xvda is"))?;
    let bytes = disk::size(size).ok_or_else(|| failed(&format!("'{size}' is no size, as 64M is")))?;
    resize_disk(host, domain, number, bytes).map_err(|error| failed(&error))
}

fn block_list(host: &Host, domains: &[&str]) -> Result<(), String> {
    println!("{BLOCK_LIST_HEAD}");
    for which in domains {
        let domain = find(host, which)?;
        for id in host
            .devices
            .of(domain)
            .into_iter()
            .filter(|id| id.class == block::CLASS)
        {
            let front = Front::new(&host.store, id);
            let number = |name: &str| front.number(name).ok();
            let line = BlockLine {
                device: id.number,
                domain,
                state: number("state"),
                port: number("event-channel"),
                ring: number("ring-ref"),
                back: &id.back(),
            };
            println!("{}", block_line(&line));
        }
    }
    Ok(())
}

fn show_uptime(host: &Host, which: Option<&str>) -> Result<(), String> {
    let only = which.map(|which| find_any(host, which)).transpose()?;
    let now = time::now();
    println!("{:<33} {:>4} Uptime", "Name", "ID");
    if only.is_none_or(|only| only == 0) {
        println!("{DOM0_NAME:<33} {:>4} {}", 0, uptime(now / 1_000_000_000));
    }
    for (domain, name) in host.domains.list() {
        if only.is_none_or(|only| only == domain) {
            let age = now.saturating_sub(host.domains.created(domain).unwrap_or(now));
            println!("{name:<33} {domain:>4} {}", uptime(age / 1_000_000_000));
        }
    }
    Ok(())
}
