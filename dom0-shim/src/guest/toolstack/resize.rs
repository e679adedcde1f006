//! What a domain that runs has of vCPUs and memory: it is told in xenstore, and its kernel does the work.

use alloc::format;
use alloc::string::{String, ToString};

use abi::Domid;
use dom0_shim::shell::size;
use dom0_shim::xenstore::Error;
use guest_rt::hypercall::{domctl, sysctl};

use super::{build, nodes};
use crate::guest::Host;
use crate::guest::shell::find;

/// `vcpu-set`: how many vCPUs the domain may have online.
pub fn vcpu_set(host: &Host, words: &[&str]) -> Result<(), String> {
    let (which, count, ignore_host) = match words {
        ["-i" | "--ignore-host", which, count] | [which, count, "-i" | "--ignore-host"] => {
            (which, count, true)
        }
        [which, count] => (which, count, false),
        _ => return Err("Usage: vcpu-set [-i] DOMAIN COUNT".to_string()),
    };
    let domain = find(host, which)?;
    let number = count.parse().ok().filter(|&number| number > 0);
    let count: u32 = number.ok_or_else(|| format!("'{count}' is no number of VCPUs"))?;
    let info = domctl::info(domain).map_err(|error| format!("getdomaininfo: {error}"))?;
    let max = info.vcpu_limit();
    if count > max {
        return Err(format!("Requested {count} VCPUs, however maxcpus is {max}!"));
    }
    let cpus = sysctl::physinfo()
        .map_err(|error| format!("physinfo: {error}"))?
        .nr_cpus;
    if count > info.nr_online_vcpus && count > cpus && !ignore_host {
        return Err(format!(
            "You are overcommitting! You have {cpus} physical CPUs and want {count} vCPUs! Use -i to do it nevertheless."
        ));
    }
    nodes::make_available(&host.store, domain, count, max).map_err(|error| store_error(domain, error))?;
    host.domains.update(domain, |config| config.vcpus = count);
    Ok(())
}

fn store_error(domain: Domid, error: Error) -> String {
    format!("/local/domain/{domain}: {}", error.name())
}

/// What `memory/NAME` of a domain says, in KiB.
fn memory_node(host: &Host, domain: Domid, name: &str) -> Result<u64, String> {
    let path = format!("/local/domain/{domain}/memory/{name}");
    let value = host
        .store
        .read(&path)
        .map_err(|error| store_error(domain, error))?;
    value
        .parse()
        .map_err(|_| format!("{path}: '{value}' is no number"))
}

fn set_memory_node(host: &Host, domain: Domid, name: &str, kib: u64) -> Result<(), String> {
    let path = format!("/local/domain/{domain}/memory/{name}");
    host.store
        .write(&path, &format!("{kib}"))
        .map_err(|error| store_error(domain, error))
}

fn parse(text: &str) -> Result<u64, String> {
    size::kib(text).ok_or_else(|| format!("invalid memory size: {text}"))
}

/// The hypervisor lets the domain have no more than `kib`, and what is not its RAM.
fn limit(domain: Domid, kib: u64) -> Result<(), String> {
    domctl::max_memory(domain, kib.saturating_add(build::EXTRA_KIB))
        .map_err(|error| format!("setmaxmem {kib} KiB: {error}"))
}

/// `mem-set`: the balloon driver of the domain's kernel is to make it so much, up to its maximum.
pub fn mem_set(host: &Host, domain: Domid, text: &str) -> Result<(), String> {
    let target = parse(text)?;
    let max = memory_node(host, domain, "static-max")?;
    if target > max {
        return Err(format!(
            "memory_dynamic_max must be less than or equal to memory_static_max ({max} KiB)"
        ));
    }
    limit(domain, target)?;
    set_memory_node(host, domain, "target", target)?;
    host.domains
        .update(domain, |config| config.memory = target.div_ceil(1024).max(1));
    Ok(())
}

/// `mem-max`: so much may [`mem_set`] give the domain. More than it was made for is of use only to a kernel that can add memory.
pub fn mem_max(host: &Host, domain: Domid, text: &str) -> Result<(), String> {
    let max = parse(text)?;
    let target = memory_node(host, domain, "target")?;
    if max < target {
        return Err(format!(
            "memory_static_max must be greater than or equal to memory_dynamic_max ({target} KiB)"
        ));
    }
    limit(domain, max)?;
    set_memory_node(host, domain, "static-max", max)?;
    host.domains
        .update(domain, |config| config.max_memory = max.div_ceil(1024));
    Ok(())
}
