//! CPU pools at the prompt: `cpupool-list` and its kin. Their names are in xenstore, where libxl has them.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use abi::{Domid, Errno};
use dom0_shim::cpus::CpuSet;
use dom0_shim::shell::format::{POOL_LIST_HEAD, POOL_LIST_HEAD_CPUS, pool_line, pool_line_cpus};
use guest_rt::hypercall::sysctl::{self, PoolChange};
use guest_rt::println;

use super::Host;

/// The only scheduler that there is.
pub const SCHEDULER: &str = "credit2";

/// What there is to know of a pool.
struct Pool {
    id: u32,
    name: String,
    domains: u32,
    cpus: Vec<u32>,
}

fn failed(what: &str) -> impl Fn(Errno) -> String {
    move |error| format!("{what}: {error}")
}

fn directory(id: u32) -> String {
    format!("/local/pool/{id}")
}

/// The numbers of the CPUs of a set that `read` fills in.
fn cpus_of(read: impl FnOnce(&mut [u8]) -> Result<(), Errno>) -> Result<Vec<u32>, Errno> {
    let mut set = CpuSet::NONE;
    read(set.bytes_mut())?;
    let count = sysctl::physinfo()?.max_cpu_id + 1;
    Ok((0..count).filter(|&cpu| set.contains(cpu)).collect())
}

/// The pools that there are, by number.
fn all(host: &Host) -> Result<Vec<Pool>, String> {
    let mut pools = Vec::new();
    let mut next = Some(0);
    while let Some(first) = next {
        let mut info = None;
        let cpus = cpus_of(|bytes| {
            info = Some(sysctl::cpupool(first, bytes)?);
            Ok(())
        });
        let cpus = match cpus {
            Err(Errno::ENOENT) => break,
            cpus => cpus.map_err(failed("cpupool_op"))?,
        };
        let Some(info) = info else { break };
        let id = info.cpupool_id;
        pools.push(Pool {
            id,
            name: name(host, id),
            domains: info.n_dom,
            cpus,
        });
        next = id.checked_add(1);
    }
    Ok(pools)
}

/// A pool by its name or number.
fn find(host: &Host, which: &str) -> Result<Pool, String> {
    let mut pools = all(host)?;
    let number = which.parse().ok();
    let at = pools.iter().position(|pool| pool.name == which);
    let at = at.or_else(|| pools.iter().position(|pool| Some(pool.id) == number));
    at.map(|at| pools.swap_remove(at))
        .ok_or_else(|| format!("unknown cpupool '{which}'"))
}

/// The number of a pool that is named in a config.
///
/// # Errors
/// A sentence.
pub fn number(host: &Host, which: &str) -> Result<u32, String> {
    find(host, which).map(|pool| pool.id)
}

/// The name of a pool, if it has one.
pub fn name(host: &Host, id: u32) -> String {
    let name = host.store.read(&format!("{}/name", directory(id)));
    name.unwrap_or_else(|_| format!("Pool-{id}"))
}

fn set_name(host: &Host, id: u32, name: &str) -> Result<(), String> {
    host.store.put(&format!("{}/name", directory(id)), name)
}

/// A name that no pool has, and that is no number.
fn check_name(host: &Host, name: &str) -> Result<(), String> {
    if name.is_empty() || name.parse::<u32>().is_ok() {
        return Err(format!("'{name}' is no name for a cpupool"));
    }
    match all(host)?.iter().any(|pool| pool.name == name) {
        true => Err(format!("cpupool name \"{name}\" already exists")),
        false => Ok(()),
    }
}

/// `cpupool-list`.
pub fn list(host: &Host, words: &[&str]) -> Result<(), String> {
    let is_option = |word: &&str| matches!(*word, "-c" | "--cpus");
    let (options, names): (Vec<&str>, Vec<&str>) = words.iter().partition(|word| is_option(word));
    let pools = match names.as_slice() {
        [] => all(host)?,
        [which] => [find(host, which)?].into(),
        _ => return Err("Usage: cpupool-list [-c] [CPUPOOL]".to_string()),
    };
    let with_cpus = !options.is_empty();
    println!(
        "{}",
        if with_cpus {
            POOL_LIST_HEAD_CPUS
        } else {
            POOL_LIST_HEAD
        }
    );
    for pool in pools {
        let line = match with_cpus {
            true => pool_line_cpus(&pool.name, &pool.cpus),
            false => pool_line(&pool.name, pool.cpus.len(), SCHEDULER, pool.domains),
        };
        println!("{line}");
    }
    Ok(())
}

/// `cpupool-create`: the settings are those of a config file of xl's (xlcpupool.cfg(5)).
pub fn create(host: &Host, settings: &[&str]) -> Result<(), String> {
    let (mut name, mut wanted) = (None, None);
    for setting in settings {
        let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
        let value = value.trim_matches(['"', '\'']);
        match key {
            "name" => name = Some(value),
            "sched" if value == SCHEDULER => {}
            "sched" => return Err(format!("Unknown scheduler: {value}; there is {SCHEDULER}")),
            "cpus" => wanted = Some(CpuSet::parse(value)?),
            key => return Err(format!("unknown key '{key}'")),
        }
    }
    let name = name.ok_or("Missing cpupool name!")?;
    check_name(host, name)?;
    let free = cpus_of(sysctl::free_cpus).map_err(failed("cpupool_op"))?;
    let cpus = match &wanted {
        // Any, as xl does.
        None => free.first().copied().into_iter().collect(),
        Some(wanted) => named(wanted)?,
    };
    if cpus.is_empty() {
        return Err("no free cpu found".to_string());
    }
    if let Some(cpu) = cpus.iter().find(|cpu| !free.contains(cpu)) {
        return Err(format!("cpu {cpu} illegal or not free"));
    }
    let scheduler = sysctl::scheduler_id().map_err(failed("sched_id"))?;
    let id = sysctl::create_cpupool(scheduler).map_err(failed("error on creating cpupool"))?;
    set_name(host, id, name)?;
    for &cpu in &cpus {
        sysctl::change_cpupool(id, PoolChange::AddCpu(cpu)).map_err(failed("error on adding cpu"))?;
    }
    println!("cpupool name:   {name}");
    println!("scheduler:      {SCHEDULER}");
    println!("number of cpus: {}", cpus.len());
    Ok(())
}

/// The CPUs of a set, of those that there are.
fn named(set: &CpuSet) -> Result<Vec<u32>, String> {
    let count = sysctl::physinfo().map_err(failed("physinfo"))?.max_cpu_id + 1;
    Ok((0..count).filter(|&cpu| set.contains(cpu)).collect())
}

/// `cpupool-destroy`: its CPUs are free then.
pub fn destroy(host: &Host, which: &str) -> Result<(), String> {
    let pool = find(host, which)?;
    let refused = |error: Errno| format!("Can't destroy cpupool '{which}': {error}");
    if pool.domains != 0 || pool.id == 0 {
        return Err(refused(Errno::EBUSY));
    }
    for cpu in pool.cpus {
        sysctl::change_cpupool(pool.id, PoolChange::RemoveCpu(cpu)).map_err(refused)?;
    }
    sysctl::change_cpupool(pool.id, PoolChange::Destroy).map_err(refused)?;
    host.store.remove(&directory(pool.id));
    Ok(())
}

/// `cpupool-cpu-add` and `cpupool-cpu-remove`.
pub fn change_cpus(
    host: &Host,
    which: &str,
    cpus: &str,
    change: impl Fn(u32) -> PoolChange,
) -> Result<(), String> {
    let pool = find(host, which)?;
    let cpus = named(&CpuSet::parse(cpus)?)?;
    if cpus.is_empty() {
        return Err("there is no such CPU".to_string());
    }
    for cpu in cpus {
        sysctl::change_cpupool(pool.id, change(cpu))
            .map_err(|error| format!("CPU {cpu}, cpupool '{which}': {error}"))?;
    }
    Ok(())
}

/// `cpupool-migrate`.
pub fn migrate(host: &Host, domain: Domid, which: &str) -> Result<(), String> {
    let pool = find(host, which)?;
    sysctl::change_cpupool(pool.id, PoolChange::MoveDomain(domain))
        .map_err(|error| format!("domain {domain} to cpupool '{which}': {error}"))?;
    host.domains.move_to_pool(domain, &pool.name);
    Ok(())
}

/// `cpupool-rename`.
pub fn rename(host: &Host, which: &str, name: &str) -> Result<(), String> {
    let pool = find(host, which)?;
    check_name(host, name)?;
    set_name(host, pool.id, name)?;
    host.domains.rename_pool(&pool.name, name);
    Ok(())
}
