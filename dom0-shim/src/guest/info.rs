//! What is shown of the host and of its domains at the prompt: `info`, `list`.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use abi::Errno;
use abi::sysctl::{XEN_SYSCTL_PHYSCAP_DIRECTIO, XEN_SYSCTL_PHYSCAP_HVM};
use dom0_shim::cpus::CpuSet;
use dom0_shim::shell::format::{
    DomainLine, LIST_HEAD, LIST_HEAD_POOL, LIST_HEAD_VERBOSE, list_line, verbose,
};
use dom0_shim::shell::json::Json;
use dom0_shim::shell::words;
use dom0_shim::xlcfg::long;
use guest_rt::hypercall::{sysctl, version};
use guest_rt::println;

use super::Host;
use super::pools;
use super::shell::{all_domains, find_any, name_of};

/// `list`; `None` if its words make no sense.
pub fn list(host: &Host, words: &[&str]) -> Option<Result<(), String>> {
    let (given, rest) = words::options(words, &[('l', "long"), ('v', "verbose"), ('c', "cpupool")])?;
    let only = match rest[..] {
        [] => None,
        [which] => Some(which),
        _ => return None,
    };
    Some(list_as(host, only, |letter| given.contains(letter)))
}

fn list_as(host: &Host, only: Option<&str>, has: impl Fn(char) -> bool) -> Result<(), String> {
    let only = only.map(|which| find_any(host, which)).transpose()?;
    let mut domains = all_domains()?;
    domains.retain(|info| only.is_none_or(|only| only == info.domain));
    if has('l') {
        let domains = domains.iter().map(|info| {
            let config = host.domains.config(info.domain);
            long::domain(
                info.domain,
                &name_of(host, info.domain),
                &info.handle,
                config.as_deref(),
            )
        });
        println!("{}", Json::List(domains.collect()));
        return Ok(());
    }
    let head_verbose = if has('v') { LIST_HEAD_VERBOSE } else { "" };
    let head_pool = if has('c') { LIST_HEAD_POOL } else { "" };
    println!("{LIST_HEAD}{head_verbose}{head_pool}");
    for info in &domains {
        let mut line = list_line(&DomainLine {
            name: &name_of(host, info.domain),
            id: info.domain,
            pages: info.tot_pages,
            vcpus: info.nr_online_vcpus,
            flags: info.flags,
            cpu_time: info.cpu_time,
        });
        if has('v') {
            line += &verbose(&info.handle, info.flags);
        }
        if has('c') {
            line += &format!("{:>16}", pools::name(host, info.cpupool));
        }
        println!("{line}");
    }
    Ok(())
}

/// `info`: xl's rows in xl's order. With a name, only the values of rows whose names begin so; `-n`: with places of CPUs
/// and memory.
pub fn info(words: &[&str]) -> Option<Result<(), String>> {
    let (given, rest) = words::options(words, &[('n', "numa")])?;
    let numa = given.contains('n');
    let only = match rest[..] {
        [] => None,
        [name] if !numa => Some(name),
        _ => return None,
    };
    let failed = |error: Errno| format!("{error}");
    let rows = Rows { only };
    Some(rows.host(numa).and_then(|()| rows.hypervisor()).map_err(failed))
}

struct Rows<'a> {
    only: Option<&'a str>,
}

impl Rows<'_> {
    fn row(&self, name: &str, value: impl core::fmt::Display) {
        match self.only {
            None => println!("{name:<23}: {value}"),
            Some(only) if name.starts_with(only) => println!("{value}"),
            Some(_) => {}
        }
    }

    fn host(&self, numa: bool) -> Result<(), Errno> {
        let host = sysctl::physinfo()?;
        self.row("host", "dom0-shim");
        self.row("release", env!("CARGO_PKG_VERSION"));
        self.row("version", concat!("dom0-shim ", env!("CARGO_PKG_VERSION")));
        self.row("machine", "x86_64");
        self.row("nr_cpus", host.nr_cpus);
        self.row("max_cpu_id", host.max_cpu_id);
        self.row("nr_nodes", host.nr_nodes);
        self.row("cores_per_socket", host.cores_per_socket);
        self.row("threads_per_core", host.threads_per_core);
        self.row(
            "cpu_mhz",
            format!("{}.{:03}", host.cpu_khz / 1000, host.cpu_khz % 1000),
        );
        self.row("hw_caps", host.hw_cap.map(|word| format!("{word:08x}")).join(":"));
        let can = |capability: u32| host.capabilities & capability != 0;
        let (hvm, direct) = (can(XEN_SYSCTL_PHYSCAP_HVM), can(XEN_SYSCTL_PHYSCAP_DIRECTIO));
        let capabilities = [
            ("hvm", hvm),
            ("hvm_directio", hvm && direct),
            ("directio", direct),
        ];
        let names = capabilities.into_iter().filter(|(_, there)| *there);
        self.row(
            "virt_caps",
            names.map(|(name, _)| name).collect::<Vec<_>>().join(" "),
        );
        self.row("total_memory", host.total_pages / 256);
        self.row(
            "free_memory",
            host.free_pages.saturating_sub(host.outstanding_pages) / 256,
        );
        self.row("sharing_freed_memory", 0);
        self.row("sharing_used_memory", 0);
        self.row("outstanding_claims", host.outstanding_pages / 256);
        let mut free = CpuSet::NONE;
        sysctl::free_cpus(free.bytes_mut())?;
        self.row(
            "free_cpus",
            (0..=host.max_cpu_id).filter(|&cpu| free.contains(cpu)).count(),
        );
        if numa {
            places()?;
        }
        Ok(())
    }

    fn hypervisor(&self) -> Result<(), Errno> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_string();
        let (major, minor) = version::version()?;
        let extra = text(&version::extra_version()?);
        let compile = version::compile_info()?;
        self.row("xen_major", major);
        self.row("xen_minor", minor);
        self.row("xen_extra", &extra);
        self.row("xen_version", format!("{major}.{minor}{extra}"));
        self.row("xen_caps", text(&version::capabilities()?));
        self.row("xen_scheduler", pools::SCHEDULER);
        self.row("xen_pagesize", version::page_size()?);
        let start = version::platform_parameters()?.virt_start;
        self.row("platform_params", format!("virt_start={start:#x}"));
        self.row("xen_changeset", text(&version::changeset()?));
        self.row("xen_commandline", text(&version::command_line()?));
        self.row("cc_compiler", text(&compile.compiler));
        self.row("cc_compile_by", text(&compile.compile_by));
        self.row("cc_compile_domain", text(&compile.compile_domain));
        self.row("cc_compile_date", text(&compile.compile_date));
        // Oxen has none.
        self.row("build_id", "");
        self.row("xend_config_format", 4);
        // Not one of xl's.
        self.row(
            "dom0_heap_free",
            format!("{} KiB", guest_rt::memory::heap_free() / 1024),
        );
        Ok(())
    }
}

/// Where CPUs and memory are.
fn places() -> Result<(), Errno> {
    println!("cpu_topology           :\ncpu:    core    socket     node");
    for (cpu, place) in sysctl::cpu_topology()?.iter().enumerate() {
        println!(
            "{cpu:>3}:    {:>4}     {:>4}     {:>4}",
            place.core, place.socket, place.node
        );
    }
    println!("device topology        :\ndevice           node\nNo device topology data available");
    println!("numa_info              :\nnode:    memsize    memfree    distances");
    let (nodes, distances) = sysctl::numa()?;
    for (node, memory) in nodes.iter().enumerate() {
        let from = distances.chunks(nodes.len()).nth(node).unwrap_or_default();
        let from: Vec<String> = from.iter().map(|distance| format!("{distance}")).collect();
        println!(
            "{node:>4}:    {:>6}     {:>6}      {}",
            memory.memsize >> 20,
            memory.memfree >> 20,
            from.join(",")
        );
    }
    Ok(())
}
