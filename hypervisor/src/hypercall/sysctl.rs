//! `sysctl`: a privileged domain's questions about the machine. One argument for all operations, copied in, changed, and copied out.

use abi::domctl::{DomctlGetdomaininfo, XEN_CPUID_NO_SUBLEAF};
use abi::sysctl::*;
use abi::{Errno, Union};

use super::domctl::{SCHEDULER, copy_policy, info};
use super::{Caller, Outcome, Stop, hotplug};
use crate::domain::table;
use crate::hw::{self, console, percpu, time};
use crate::mm::frames;
use crate::sched;
use crate::types::{DomId, PAGE_SHIFT};
use crate::virt::cpuid::{self, Policy};

pub(super) fn sysctl(caller: &mut Caller<'_>, at: u64) -> Outcome {
    let mut argument: Sysctl = caller.read(at)?;
    if argument.interface_version != XEN_SYSCTL_INTERFACE_VERSION {
        return Err(Errno::EACCES.into());
    }
    caller.require_privilege()?;
    let result = operate(caller, argument.cmd, &mut argument.u);
    // Who had too little room learns how much of it was used.
    if matches!(result, Ok(()) | Err(Stop::Errno(Errno::ENOBUFS))) {
        caller.write(at, &argument)?;
    }
    result.map(|()| 0)
}

fn operate(caller: &mut Caller<'_>, command: u32, u: &mut Union<16>) -> Result<(), Stop> {
    match command {
        XEN_SYSCTL_CPU_HOTPLUG => hotplug::sysctl(&u.get()),
        _ => at_once(caller, command, u).map_err(Stop::from),
    }
}

/// Operations that are not done in slices.
fn at_once(caller: &mut Caller<'_>, command: u32, u: &mut Union<16>) -> Result<(), Errno> {
    match command {
        XEN_SYSCTL_READCONSOLE => read_console(caller, u),
        XEN_SYSCTL_PHYSINFO => {
            u.set(&physinfo());
            Ok(())
        }
        XEN_SYSCTL_SCHED_ID => {
            u.set(&SysctlSchedId { sched_id: SCHEDULER });
            Ok(())
        }
        XEN_SYSCTL_GETDOMAININFOLIST => domain_list(caller, u),
        XEN_SYSCTL_DEBUG_KEYS => debug_keys(caller, &u.get()),
        XEN_SYSCTL_GETCPUINFO => cpu_info(caller, u),
        XEN_SYSCTL_AVAILHEAP => {
            let mut request: SysctlAvailheap = u.get();
            // All nodes, or the one that there is.
            request.avail_bytes = match request.node {
                -1 | 0 => frames::free_for_domains() << PAGE_SHIFT,
                _ => 0,
            };
            u.set(&request);
            Ok(())
        }
        XEN_SYSCTL_CPUTOPOINFO => topology(caller, u),
        XEN_SYSCTL_NUMAINFO => numa(caller, u),
        XEN_SYSCTL_PCITOPOINFO => pci_topology(caller, u),
        XEN_SYSCTL_CPUPOOL_OP => super::cpupool::cpupool(caller, u),
        XEN_SYSCTL_SCHEDULER_OP => scheduler(u),
        XEN_SYSCTL_GET_CPU_LEVELLING_CAPS => {
            u.set(&SysctlCpuLevellingCaps { caps: 0 });
            Ok(())
        }
        XEN_SYSCTL_GET_CPU_FEATURESET => featureset(caller, u),
        XEN_SYSCTL_GET_CPU_POLICY => policy(caller, u),
        _ => Err(Errno::ENOSYS),
    }
}

/// The log's ring. `incremental`: from byte `index` on; `index` is where to go on next time.
fn read_console(caller: &mut Caller<'_>, u: &mut Union<16>) -> Result<(), Errno> {
    let mut request: SysctlReadconsole = u.get();
    let mut from = if request.incremental != 0 {
        u64::from(request.index)
    } else {
        0
    };
    let mut copied = 0u32;
    let mut chunk = [0; 256];
    while copied < request.count {
        let room = chunk.len().min((request.count - copied) as usize);
        let (len, next) = console::ring(from, chunk.get_mut(..room).unwrap_or_default());
        if len == 0 {
            break;
        }
        for (offset, byte) in chunk.iter().take(len).enumerate() {
            caller.write_element(request.buffer, u64::from(copied) + offset as u64, byte)?;
        }
        copied += len as u32;
        from = next;
    }
    if request.clear != 0 {
        console::clear_ring();
    }
    request.count = copied;
    request.index = from as u32;
    u.set(&request);
    Ok(())
}

fn physinfo() -> SysctlPhysinfo {
    let cpus = sched::cpu_count() as u32;
    // As many as share them with CPU 0.
    let like_first = |part: fn(u32) -> u32| {
        let first = part(percpu::apic_id(0));
        (0..cpus)
            .filter(|&cpu| part(percpu::apic_id(cpu)) == first)
            .count() as u32
    };
    let threads = like_first(hw::topology::core).max(1);
    SysctlPhysinfo {
        threads_per_core: threads,
        cores_per_socket: like_first(hw::topology::socket) / threads,
        nr_cpus: sched::online_cpus().count() as u32,
        max_cpu_id: cpus.saturating_sub(1),
        nr_nodes: 1,
        cpu_khz: time::clock().khz(),
        capabilities: XEN_SYSCTL_PHYSCAP_HVM
            | XEN_SYSCTL_PHYSCAP_HAP
            | XEN_SYSCTL_PHYSCAP_GNTTAB_V1
            | XEN_SYSCTL_PHYSCAP_GNTTAB_V2,
        total_pages: frames::total_count(),
        free_pages: frames::free_for_domains(),
        outstanding_pages: frames::claimed(),
        max_mfn: frames::highest().0,
        hw_cap: core::array::from_fn(|index| host_features(index).unwrap_or(0)),
        ..Default::default()
    }
}

fn domain_list(caller: &mut Caller<'_>, u: &mut Union<16>) -> Result<(), Errno> {
    let mut request: SysctlGetdomaininfolist = u.get();
    let mut next = Some(DomId(request.first_domain));
    let mut count = 0;
    while let Some(from) = next.take()
        && count < request.max_domains
        && let Some(domain) = table::next_from(from)
    {
        let entry: DomctlGetdomaininfo = info(&domain);
        caller.write_element(request.buffer, count.into(), &entry)?;
        count += 1;
        next = domain.id.0.checked_add(1).map(DomId);
    }
    request.num_domains = count;
    u.set(&request);
    Ok(())
}

fn debug_keys(caller: &mut Caller<'_>, request: &SysctlDebugKeys) -> Result<(), Errno> {
    const MAX_KEYS: u32 = 64;
    for index in 0..request.nr_keys.min(MAX_KEYS) {
        let key = caller.read_element(request.keys, index.into())?;
        crate::debug_keys::handle(key);
    }
    Ok(())
}

fn cpu_info(caller: &mut Caller<'_>, u: &mut Union<16>) -> Result<(), Errno> {
    let mut request: SysctlGetcpuinfo = u.get();
    let cpus = (sched::cpu_count() as u32).min(request.max_cpus);
    for cpu in 0..cpus {
        caller.write_element(
            request.info,
            cpu.into(),
            &SysctlCpuinfo {
                idletime: sched::idle_time(cpu),
            },
        )?;
    }
    request.nr_cpus = cpus;
    u.set(&request);
    Ok(())
}

/// Where a CPU is; one that is offline is nowhere.
fn place(cpu: u32) -> SysctlCputopo {
    match sched::pool::online(cpu) {
        true => SysctlCputopo {
            core: hw::topology::core(percpu::apic_id(cpu)),
            socket: hw::topology::socket(percpu::apic_id(cpu)),
            node: 0,
        },
        false => SysctlCputopo {
            core: XEN_INVALID_CORE_ID,
            socket: XEN_INVALID_SOCKET_ID,
            node: 0,
        },
    }
}

fn topology(caller: &mut Caller<'_>, u: &mut Union<16>) -> Result<(), Errno> {
    let mut request: SysctlCputopoinfo = u.get();
    let mut cpus = sched::cpu_count() as u32;
    if !request.cputopo.is_null() {
        cpus = cpus.min(request.num_cpus);
        for cpu in 0..cpus {
            caller.write_element(request.cputopo, cpu.into(), &place(cpu))?;
        }
    }
    request.num_cpus = cpus;
    u.set(&request);
    Ok(())
}

fn numa(caller: &mut Caller<'_>, u: &mut Union<16>) -> Result<(), Errno> {
    const LOCAL_DISTANCE: u32 = 10;
    let mut request: SysctlNumainfo = u.get();
    if request.num_nodes > 0 {
        if !request.meminfo.is_null() {
            let (memsize, memfree) = (
                frames::total_count() << PAGE_SHIFT,
                frames::free_for_domains() << PAGE_SHIFT,
            );
            caller.write_element(request.meminfo, 0, &SysctlMeminfo { memsize, memfree })?;
        }
        if !request.distance.is_null() {
            caller.write_element(request.distance, 0, &LOCAL_DISTANCE)?;
        }
    }
    let only_asked = request.meminfo.is_null() && request.distance.is_null();
    request.num_nodes = if only_asked { 1 } else { request.num_nodes.min(1) };
    u.set(&request);
    Ok(())
}

/// Dom0 keeps its PCI devices to itself: there is none whose node is known.
fn pci_topology(caller: &mut Caller<'_>, u: &mut Union<16>) -> Result<(), Errno> {
    /// More than any machine has.
    const MAX_DEVICES: u32 = 1 << 12;
    let mut request: SysctlPcitopoinfo = u.get();
    if request.devs.is_null() || request.nodes.is_null() {
        return Err(Errno::EINVAL);
    }
    request.num_devs = request.num_devs.min(MAX_DEVICES);
    for index in 0..request.num_devs {
        caller.read_element(request.devs, index.into())?;
        caller.write_element(request.nodes, index.into(), &XEN_INVALID_DEV)?;
    }
    u.set(&request);
    Ok(())
}

fn scheduler(u: &mut Union<16>) -> Result<(), Errno> {
    let mut request: SysctlSchedulerOp = u.get();
    // The rate limit is that of all pools.
    if !sched::pool::pools().exists(request.cpupool_id) {
        return Err(Errno::ESRCH);
    }
    if request.sched_id != SCHEDULER {
        return Err(Errno::EINVAL);
    }
    match request.cmd {
        XEN_SYSCTL_SCHEDOP_PUTINFO => {
            let limit = request.u.get::<SysctlCredit2Schedule>().ratelimit_us;
            if limit != 0
                && !(XEN_SYSCTL_SCHED_RATELIMIT_MIN..=XEN_SYSCTL_SCHED_RATELIMIT_MAX).contains(&limit)
            {
                return Err(Errno::EINVAL);
            }
            sched::set_rate_limit(u64::from(limit) * 1000);
        }
        XEN_SYSCTL_SCHEDOP_GETINFO => {
            request.u.set(&SysctlCredit2Schedule {
                ratelimit_us: (sched::rate_limit() / 1000) as u32,
            });
            u.set(&request);
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

/// What guests have if a toolstack says nothing.
fn guest_policy() -> Policy {
    let xcr0 = crate::arch::fpu::host().map_or(0, |host| host.xcr0);
    Policy::new(&cpuid::host, 1, xcr0, 64)
}

/// Feature words in Xen's order (public arch-x86/cpufeatureset.h): leaf, subleaf, register.
const FEATURES: [(u32, u32, usize); 14] = [
    (1, 0, 3),
    (1, 0, 2),
    (0x8000_0001, 0, 3),
    (0x8000_0001, 0, 2),
    (0xd, 1, 0),
    (7, 0, 1),
    (7, 0, 2),
    (0x8000_0007, 0, 3),
    (0x8000_0008, 0, 1),
    (7, 0, 3),
    (7, 1, 0),
    (0x8000_0021, 0, 0),
    (7, 1, 1),
    (7, 2, 3),
];

fn host_features(index: usize) -> Option<u32> {
    let &(leaf, subleaf, word) = FEATURES.get(index)?;
    cpuid::host(leaf, subleaf).get(word).copied()
}

fn featureset(caller: &mut Caller<'_>, u: &mut Union<16>) -> Result<(), Errno> {
    let mut request: SysctlCpuFeatureset = u.get();
    if request.features.is_null() {
        request.nr_features = FEATURES.len() as u32;
        u.set(&request);
        return Ok(());
    }
    let policy = match request.index {
        XEN_SYSCTL_CPU_FEATURESET_RAW | XEN_SYSCTL_CPU_FEATURESET_HOST => None,
        XEN_SYSCTL_CPU_FEATURESET_HVM | XEN_SYSCTL_CPU_FEATURESET_HVM_MAX => Some(guest_policy()),
        XEN_SYSCTL_CPU_FEATURESET_PV | XEN_SYSCTL_CPU_FEATURESET_PV_MAX => return Err(Errno::EOPNOTSUPP),
        _ => return Err(Errno::EINVAL),
    };
    let words = (FEATURES.len() as u32).min(request.nr_features);
    for (index, (leaf, subleaf, word)) in (0..words).zip(FEATURES) {
        let value = policy
            .as_ref()
            .map_or_else(|| cpuid::host(leaf, subleaf), |policy| policy.leaf(leaf, subleaf));
        caller.write_element(
            request.features,
            index.into(),
            &value.get(word).copied().unwrap_or(0),
        )?;
    }
    request.nr_features = words;
    u.set(&request);
    if (words as usize) < FEATURES.len() {
        return Err(Errno::ENOBUFS);
    }
    Ok(())
}

fn policy(caller: &mut Caller<'_>, u: &mut Union<16>) -> Result<(), Errno> {
    let mut request: SysctlCpuPolicy = u.get();
    if request.pad != 0 {
        return Err(Errno::EINVAL);
    }
    let of_the_machine = match request.index {
        XEN_SYSCTL_CPU_POLICY_RAW | XEN_SYSCTL_CPU_POLICY_HOST => true,
        XEN_SYSCTL_CPU_POLICY_HVM_MAX | XEN_SYSCTL_CPU_POLICY_HVM_DEFAULT => false,
        XEN_SYSCTL_CPU_POLICY_PV_MAX | XEN_SYSCTL_CPU_POLICY_PV_DEFAULT => return Err(Errno::EOPNOTSUPP),
        _ => return Err(Errno::EINVAL),
    };
    let guests = match request.index {
        XEN_SYSCTL_CPU_POLICY_HVM_MAX => guest_policy().with_all(),
        _ => guest_policy(),
    };
    let leaves = guests.leaves().map(|(leaf, subleaf, value)| {
        let value = match (of_the_machine, subleaf) {
            (false, _) => value,
            (true, XEN_CPUID_NO_SUBLEAF) => cpuid::host(leaf, 0),
            (true, subleaf) => cpuid::host(leaf, subleaf),
        };
        (leaf, subleaf, value)
    });
    (request.nr_leaves, request.nr_msrs) = copy_policy(caller, leaves, request.leaves, request.nr_leaves)?;
    u.set(&request);
    Ok(())
}
