//! What is said and done about scheduling at the prompt: `vcpu-list`, `vcpu-pin`, `sched-credit2`.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use abi::domctl::{DomctlGetdomaininfo, DomctlSchedCredit};
use abi::sysctl::{XEN_SYSCTL_CPU_HOTPLUG_OFFLINE, XEN_SYSCTL_CPU_HOTPLUG_ONLINE};
use abi::{Domid, Errno};
use dom0_shim::cpus::CpuSet;
use dom0_shim::shell::format::{VCPU_LIST_HEAD, VcpuLine, vcpu_line};
use guest_rt::hypercall::{domctl, sysctl};
use guest_rt::println;

use super::Host;
use super::shell::{all_domains, find_any, name_of};

fn failed(what: &str) -> impl Fn(Errno) -> String {
    move |error| format!("{what}: {error}")
}

/// The domains, or the one of them.
fn domains(only: Option<Domid>) -> Result<Vec<DomctlGetdomaininfo>, String> {
    let mut domains = all_domains()?;
    domains.retain(|info| only.is_none_or(|only| only == info.domain));
    Ok(domains)
}

/// `xen-hptool`: takes a CPU of the machine on or off.
pub fn hptool(operation: &str, cpu: &str) -> Result<(), String> {
    let (op, done) = match operation {
        "cpu-online" => (XEN_SYSCTL_CPU_HOTPLUG_ONLINE, "onlined"),
        "cpu-offline" => (XEN_SYSCTL_CPU_HOTPLUG_OFFLINE, "offlined"),
        _ => return Err(format!("Unrecognised command '{operation}'")),
    };
    let number = cpu
        .parse()
        .map_err(|_| format!("'{cpu}' is not the number of a CPU"))?;
    sysctl::cpu_hotplug(number, op).map_err(failed(&format!("{operation} {cpu}")))?;
    println!("CPU {number} {done} successfully");
    Ok(())
}

/// The vCPUs of the domains, or of one: where they run, and where they may and should.
pub fn vcpu_list(host: &Host, only: Option<Domid>) -> Result<(), String> {
    let cpus = sysctl::physinfo().map_err(failed("physinfo"))?.max_cpu_id + 1;
    println!("{VCPU_LIST_HEAD}");
    for info in domains(only)? {
        let name = name_of(host, info.domain);
        for vcpu in 0..info.vcpu_limit() {
            let Ok(state) = domctl::vcpu_info(info.domain, vcpu) else {
                continue;
            };
            let line = vcpu_line(&VcpuLine {
                name: &name,
                id: info.domain,
                vcpu,
                cpu: (state.online != 0).then_some(state.cpu),
                running: state.running != 0,
                blocked: state.blocked != 0,
                cpu_time: state.cpu_time,
            });
            let (mut hard, mut soft) = (CpuSet::NONE, CpuSet::NONE);
            domctl::affinity(info.domain, vcpu, hard.bytes_mut(), soft.bytes_mut())
                .map_err(failed("getvcpuaffinity"))?;
            println!("{line}{} / {}", hard.describe(cpus), soft.describe(cpus));
        }
    }
    Ok(())
}

/// Says where one vCPU, or all of a domain, may run, and where they should; `-` leaves that as it is.
pub fn vcpu_pin(domain: Domid, vcpu: &str, hard: &str, soft: Option<&str>) -> Result<(), String> {
    let cpus = |text: &str| match text {
        "-" => Ok(None),
        text => CpuSet::parse(text).map(Some),
    };
    let (hard, soft) = (cpus(hard)?, cpus(soft.unwrap_or("-"))?);
    let info = domctl::info(domain).map_err(failed("getdomaininfo"))?;
    let vcpus = match vcpu {
        "all" => 0..info.vcpu_limit(),
        one => {
            let number = one.parse().ok().filter(|&number| number < info.vcpu_limit());
            let number = number.ok_or_else(|| format!("Invalid argument '{one}' as VCPU"))?;
            number..number + 1
        }
    };
    if hard.is_none() && soft.is_none() {
        return Err("neither a hard nor a soft affinity is given".to_string());
    }
    for vcpu in vcpus {
        pin(domain, vcpu, hard.as_ref(), soft.as_ref())
            .map_err(|error| format!("Could not set affinity for vcpu {vcpu}: {error}"))?;
    }
    Ok(())
}

/// Says where a vCPU may run, and where it should, if anything is said.
///
/// # Errors
/// What the hypervisor answers: `EINVAL` if none of the CPUs is there.
pub fn pin(domain: Domid, vcpu: u32, hard: Option<&CpuSet>, soft: Option<&CpuSet>) -> Result<(), Errno> {
    if hard.is_none() && soft.is_none() {
        return Ok(());
    }
    domctl::set_affinity(domain, vcpu, hard.map(CpuSet::bytes), soft.map(CpuSet::bytes))
}

/// What `sched-credit2` is asked for.
#[derive(Default)]
struct Options<'a> {
    domain: Option<&'a str>,
    weight: Option<u16>,
    cap: Option<u16>,
    whole: bool,
    limit: Option<u32>,
}

impl<'a> Options<'a> {
    fn parse(words: &[&'a str]) -> Result<Self, String> {
        let mut options = Self::default();
        let mut words = words.iter();
        while let Some(&option) = words.next() {
            if option == "-s" {
                options.whole = true;
                continue;
            }
            let value = words.next().ok_or_else(|| format!("{option} wants a value"))?;
            let wrong = || format!("{option} {value}: a number is wanted");
            match option {
                "-d" => options.domain = Some(value),
                "-w" => options.weight = Some(value.parse().map_err(|_| wrong())?),
                "-c" => options.cap = Some(value.parse().map_err(|_| wrong())?),
                "-r" => options.limit = Some(value.parse().map_err(|_| wrong())?),
                _ => return Err(format!("{option}: no such option; try help sched-credit2")),
            }
        }
        if options.domain.is_none() && (options.weight.is_some() || options.cap.is_some()) {
            return Err("Must specify a domain.".to_string());
        }
        if options.limit.is_some() && !options.whole {
            return Err("Must specify -s to set schedule parameters.".to_string());
        }
        if options.weight == Some(0) {
            return Err("Weight is 1 to 65535.".to_string());
        }
        Ok(options)
    }
}

/// Shows or changes weights and caps, of a domain or of all, or the whole scheduler's rate limit.
pub fn sched_credit2(host: &Host, words: &[&str]) -> Result<(), String> {
    let options = Options::parse(words)?;
    let scheduler = sysctl::scheduler_id().map_err(failed("sched_id"))?;
    if let Some(limit) = options.limit {
        return sysctl::set_rate_limit(scheduler, limit)
            .map_err(|error| format!("a rate limit of {limit} us: {error}; it is 0, or 100 to 500000"));
    }
    let only = options.domain.map(|which| find_any(host, which)).transpose()?;
    let of = |domain| domctl::scheduling(domain, scheduler).map_err(failed("scheduler_op"));
    if let Some(domain) = only
        && (options.weight.is_some() || options.cap.is_some())
    {
        let now = of(domain)?;
        let wanted = DomctlSchedCredit {
            weight: options.weight.unwrap_or(now.weight),
            cap: options.cap.unwrap_or(now.cap),
        };
        return domctl::set_scheduling(domain, scheduler, wanted).map_err(failed("scheduler_op"));
    }
    if only.is_none() {
        let limit = sysctl::rate_limit(scheduler).map_err(failed("scheduler_op"))?;
        println!("Cpupool Pool-0: ratelimit={limit}us");
        if options.whole {
            return Ok(());
        }
    }
    println!("{:<33} {:>4} {:>6} {:>4}", "Name", "ID", "Weight", "Cap");
    for info in domains(only)? {
        let DomctlSchedCredit { weight, cap } = of(info.domain)?;
        let name = name_of(host, info.domain);
        println!("{name:<33} {:>4} {weight:>6} {cap:>4}", info.domain);
    }
    Ok(())
}
