//! The machine: what is asked of it, its pools, its CPUs off and on.

use alloc::vec;
use alloc::vec::Vec;

use abi::GuestHandle;
use abi::domctl::*;
use abi::physdev::PhysdevPciDevice;
use abi::sysctl::*;
use abi::{Domid, Union};

use super::domain::Child;
use super::{Control, NOTHING, bitmap, handle, wait};

const CPUS: u32 = 2;

/// Everything that changes nothing, and the log; the domain that was made does not run yet.
pub fn information(control: &mut Control) {
    machine(control);
    log(control);
    cpus(control);
    features(control);
    rate_limit(control);
}

fn physinfo(control: &mut Control) -> SysctlPhysinfo {
    control.sysctl(XEN_SYSCTL_PHYSINFO, SysctlPhysinfo::default())
}

fn machine(control: &mut Control) {
    let info = physinfo(control);
    let counts = (info.nr_cpus, info.max_cpu_id, info.nr_nodes, info.max_node_id);
    control.report.equal("machine", counts, (CPUS, CPUS - 1, 1, 0));
    control.report.check(
        "pages",
        info.free_pages > 0 && info.free_pages < info.total_pages && info.cpu_khz > 0,
        format_args!("{info:?}"),
    );
    let heap = SysctlAvailheap {
        node: -1,
        ..Default::default()
    };
    let heap = control.sysctl(XEN_SYSCTL_AVAILHEAP, heap);
    control
        .report
        .equal("heap", heap.avail_bytes, info.free_pages << 12);
    let scheduler = control.sysctl(XEN_SYSCTL_SCHED_ID, SysctlSchedId::default());
    control
        .report
        .equal("scheduler", scheduler.sched_id, XEN_SCHEDULER_CREDIT2);

    let mut found = vec![DomctlGetdomaininfo::default(); 3];
    let list = SysctlGetdomaininfolist {
        max_domains: found.len() as u32,
        buffer: handle(&mut found),
        ..Default::default()
    };
    let list = control.sysctl(XEN_SYSCTL_GETDOMAININFOLIST, list);
    let ids: Vec<Domid> = found
        .iter()
        .take(list.num_domains as usize)
        .map(|info| info.domain)
        .collect();
    control.report.equal("domains", ids, vec![0, control.domain]);

    let (mut memory, mut distance) = ([SysctlMeminfo::default()], [0u32]);
    let nodes = SysctlNumainfo {
        num_nodes: 1,
        pad: 0,
        meminfo: handle(&mut memory),
        distance: handle(&mut distance),
    };
    control.sysctl(XEN_SYSCTL_NUMAINFO, nodes);
    let found = (memory[0].memsize, memory[0].memfree, distance[0]);
    control
        .report
        .equal("node", found, (info.total_pages << 12, heap.avail_bytes, 10));
    let (mut devices, mut nodes) = ([PhysdevPciDevice::default()], [7u32]);
    let places = SysctlPcitopoinfo {
        num_devs: 1,
        pad: 0,
        devs: handle(&mut devices),
        nodes: handle(&mut nodes),
    };
    let places = control.sysctl(XEN_SYSCTL_PCITOPOINFO, places);
    control
        .report
        .equal("device", (places.num_devs, nodes[0]), (1, XEN_INVALID_DEV));
}

/// A debug key's answer is in the log, at its end, until that is cleared.
fn log(control: &mut Control) {
    let read = |control: &mut Control, clear: bool, from: Option<u32>| {
        let mut text = vec![0; 64 << 10];
        let request = SysctlReadconsole {
            clear: clear.into(),
            incremental: from.is_some().into(),
            index: from.unwrap_or(0),
            buffer: handle(&mut text),
            count: text.len() as u32,
            ..Default::default()
        };
        let answer = control.sysctl(XEN_SYSCTL_READCONSOLE, request);
        text.truncate(answer.count as usize);
        (text, answer.index)
    };
    let (_, end) = read(control, false, None);
    let mut keys = *b"m";
    let keys = SysctlDebugKeys {
        keys: handle(&mut keys),
        nr_keys: 1,
        pad: 0,
    };
    control.sysctl(XEN_SYSCTL_DEBUG_KEYS, keys);
    let (new, _) = read(control, true, Some(end));
    let has = new.windows(8).any(|part| part == b"memory: ");
    control
        .report
        .check("log", has, format_args!("{} bytes are new", new.len()));
    let (rest, _) = read(control, false, None);
    control.report.check(
        "log-cleared",
        rest.len() <= new.len(),
        format_args!("{} bytes", rest.len()),
    );
}

fn cpus(control: &mut Control) {
    let idle = |control: &mut Control| {
        let mut found = [SysctlCpuinfo::default(); CPUS as usize + 1];
        let request = SysctlGetcpuinfo {
            max_cpus: found.len() as u32,
            info: handle(&mut found),
            ..Default::default()
        };
        let count = control.sysctl(XEN_SYSCTL_GETCPUINFO, request).nr_cpus;
        (count, found[1].idletime)
    };
    let (count, before) = idle(control);
    wait();
    let (_, after) = idle(control);
    control.report.equal("cpus", count, CPUS);
    control
        .report
        .check("idle", after > before, format_args!("{after} after {before}"));
    let mut found = [SysctlCputopo::default(); CPUS as usize];
    let request = SysctlCputopoinfo {
        num_cpus: CPUS,
        pad: 0,
        cputopo: handle(&mut found),
    };
    let count = control.sysctl(XEN_SYSCTL_CPUTOPOINFO, request).num_cpus;
    control.report.equal("places", count, CPUS);
    let [first, second] = found;
    let apart = (first.core, first.socket) != (second.core, second.socket);
    control.report.check(
        "cores",
        apart && first.node == 0 && second.node == 0,
        format_args!("{found:?}"),
    );
}

fn features(control: &mut Control) {
    const WORDS: usize = 14;
    /// Of CPUID 1, EDX, which is the first word.
    const FPU: u32 = 1;
    let levelling = control.sysctl(
        XEN_SYSCTL_GET_CPU_LEVELLING_CAPS,
        SysctlCpuLevellingCaps { caps: 9 },
    );
    control.report.equal("levelling", levelling.caps, 0);
    let set = |control: &mut Control, index| {
        let mut words = [0u32; WORDS];
        let request = SysctlCpuFeatureset {
            index,
            nr_features: WORDS as u32,
            features: handle(&mut words),
        };
        let count = control.sysctl(XEN_SYSCTL_GET_CPU_FEATURESET, request).nr_features;
        control.report.equal("words", count, WORDS as u32);
        control.report.equal("fpu", words[0] & FPU, FPU);
        words
    };
    let raw = set(control, XEN_SYSCTL_CPU_FEATURESET_RAW);
    let host = set(control, XEN_SYSCTL_CPU_FEATURESET_HOST);
    control.report.equal("raw-features", raw, host);
    let usual = set(control, XEN_SYSCTL_CPU_FEATURESET_HVM);
    let most = set(control, XEN_SYSCTL_CPU_FEATURESET_HVM_MAX);
    let within = usual.iter().zip(most).all(|(usual, most)| usual & !most == 0);
    control
        .report
        .check("usual-features", within, format_args!("{usual:x?}, {most:x?}"));

    for index in [
        XEN_SYSCTL_CPU_POLICY_RAW,
        XEN_SYSCTL_CPU_POLICY_HOST,
        XEN_SYSCTL_CPU_POLICY_HVM_MAX,
        XEN_SYSCTL_CPU_POLICY_HVM_DEFAULT,
    ] {
        let policy = |nr_leaves, leaves| SysctlCpuPolicy {
            index,
            nr_leaves,
            leaves,
            ..Default::default()
        };
        let request = policy(0, GuestHandle::new(0));
        let count = control.sysctl(XEN_SYSCTL_GET_CPU_POLICY, request).nr_leaves;
        let mut leaves = vec![CpuidLeaf::default(); count as usize];
        let request = policy(count, handle(&mut leaves));
        let written = control.sysctl(XEN_SYSCTL_GET_CPU_POLICY, request).nr_leaves;
        control.report.equal("leaves", written, count);
        let has_fpu = leaves.iter().any(|leaf| leaf.leaf == 1 && leaf.d & FPU != 0);
        control.report.check("policy-fpu", has_fpu, index);
    }
}

fn rate_limit(control: &mut Control) {
    let mut operation = |cmd, ratelimit_us| {
        let request = SysctlSchedulerOp {
            sched_id: XEN_SCHEDULER_CREDIT2,
            cmd,
            u: Union::of(&SysctlCredit2Schedule { ratelimit_us }),
            ..Default::default()
        };
        let answer = control.sysctl(XEN_SYSCTL_SCHEDULER_OP, request);
        answer.u.get::<SysctlCredit2Schedule>().ratelimit_us
    };
    let (put, get) = (XEN_SYSCTL_SCHEDOP_PUTINFO, XEN_SYSCTL_SCHEDOP_GETINFO);
    let before = operation(get, 0);
    operation(put, 700);
    let changed = operation(get, 0);
    operation(put, before);
    let after = operation(get, 0);
    control
        .report
        .equal("rate-limit", (before, changed, after), (1000, 700, 1000));
}

/// One operation on pools: what was left of the argument, and the CPUs that were written.
fn pool_op(control: &mut Control, op: u32, request: SysctlCpupoolOp) -> (SysctlCpupoolOp, u8) {
    let mut cpus = [0u8];
    let request = SysctlCpupoolOp {
        op,
        cpumap: bitmap(&mut cpus),
        ..request
    };
    let answer = control.sysctl(XEN_SYSCTL_CPUPOOL_OP, request);
    (answer, cpus[0])
}

/// The second CPU becomes a pool, in which the domain, which is paused, runs; then all is as before.
pub fn pools(control: &mut Control, child: &Child) {
    let of = |cpupool_id, cpu, domid: Domid| SysctlCpupoolOp {
        cpupool_id,
        cpu,
        domid: domid.into(),
        sched_id: XEN_SCHEDULER_CREDIT2,
        ..Default::default()
    };
    let domain = control.domain;
    let info = |control: &mut Control, pool| {
        let (answer, cpus) = pool_op(control, XEN_SYSCTL_CPUPOOL_OP_INFO, of(pool, 0, 0));
        (answer.cpupool_id, answer.sched_id, answer.n_dom, cpus)
    };
    let free = |control: &mut Control| pool_op(control, XEN_SYSCTL_CPUPOOL_OP_FREEINFO, of(0, 0, 0)).1;
    let whole = (0, XEN_SCHEDULER_CREDIT2, 2, 0b11);
    let found = info(control, 0);
    control.report.equal("pool-0", found, whole);
    pool_op(control, XEN_SYSCTL_CPUPOOL_OP_RMCPU, of(0, 1, 0));
    let found = free(control);
    control.report.equal("free-cpu", found, 0b10);
    let (made, _) = pool_op(
        control,
        XEN_SYSCTL_CPUPOOL_OP_CREATE,
        of(XEN_SYSCTL_CPUPOOL_PAR_ANY, 0, 0),
    );
    let pool = made.cpupool_id;
    pool_op(control, XEN_SYSCTL_CPUPOOL_OP_ADDCPU, of(pool, 1, 0));
    let found = free(control);
    control.report.equal("no-free-cpu", found, 0);
    pool_op(control, XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN, of(pool, 0, domain));
    let found = info(control, pool);
    control
        .report
        .equal("pool", found, (pool, XEN_SCHEDULER_CREDIT2, 1, 0b10));
    let found = control.info().cpupool;
    control.report.equal("pool-of-domain", found, pool);
    control.domctl(XEN_DOMCTL_UNPAUSEDOMAIN, NOTHING);
    control.report.equal("runs-in-pool", child.counts(), true);
    let cpu = control.vcpu(0).cpu;
    control.report.equal("cpu-of-pool", cpu, 1);
    control.domctl(XEN_DOMCTL_PAUSEDOMAIN, NOTHING);

    pool_op(control, XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN, of(0, 0, domain));
    pool_op(control, XEN_SYSCTL_CPUPOOL_OP_RMCPU, of(pool, 1, 0));
    pool_op(control, XEN_SYSCTL_CPUPOOL_OP_DESTROY, of(pool, 0, 0));
    pool_op(control, XEN_SYSCTL_CPUPOOL_OP_ADDCPU, of(0, 1, 0));
    let found = info(control, 0);
    control.report.equal("pool-0-again", found, whole);
}

/// The second CPU goes off and comes back.
pub fn hotplug(control: &mut Control) {
    for (op, count) in [
        (XEN_SYSCTL_CPU_HOTPLUG_OFFLINE, CPUS - 1),
        (XEN_SYSCTL_CPU_HOTPLUG_ONLINE, CPUS),
    ] {
        control.sysctl(XEN_SYSCTL_CPU_HOTPLUG, SysctlCpuHotplug { cpu: 1, op });
        let online = physinfo(control).nr_cpus;
        control.report.equal("online", online, count);
    }
}
