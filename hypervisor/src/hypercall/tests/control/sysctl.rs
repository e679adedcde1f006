//! `sysctl`.

use abi::domctl::{DomctlGetdomaininfo, XEN_SCHEDULER_CREDIT2};
use abi::hypercall::HYPERVISOR_SYSCTL;
use abi::sysctl::*;
use abi::{Errno, GuestHandle, Union};

use super::{Control, NOTHING};
use crate::hypercall::testing::{ARG, BAD, LIST};

#[test]
fn sysctl() {
    let mut control = Control::new(HYPERVISOR_SYSCTL, XEN_SYSCTL_INTERFACE_VERSION);
    log(&mut control);
    machine(&mut control);
    topology(&mut control);
    features(&mut control);
    // That the only CPU is there, that is; and tests of the pools are in a file of their own.
    control.nothing_else(
        &[(XEN_SYSCTL_CPU_HOTPLUG, Errno::EEXIST)],
        &[XEN_SYSCTL_CPUPOOL_OP],
    );
}

fn log(control: &mut Control) {
    let read = |count, at| SysctlReadconsole {
        count,
        buffer: GuestHandle::new(at),
        ..Default::default()
    };
    let copied = control.well(XEN_SYSCTL_READCONSOLE, read(0, BAD));
    assert_eq!(copied.get::<SysctlReadconsole>().count, 0);
    let copied = control.well(XEN_SYSCTL_READCONSOLE, read(100, LIST));
    assert!(copied.get::<SysctlReadconsole>().count <= 100);
    let keys = |at| SysctlDebugKeys {
        keys: GuestHandle::new(at),
        nr_keys: 1,
        pad: 0,
    };
    control.dom0.put(LIST, b"?");
    control.well(XEN_SYSCTL_DEBUG_KEYS, keys(LIST));
    control.badly(XEN_SYSCTL_DEBUG_KEYS, keys(BAD), Errno::EFAULT);
}

fn machine(control: &mut Control) {
    let info: SysctlPhysinfo = control.well(XEN_SYSCTL_PHYSINFO, NOTHING).get();
    assert_eq!((info.nr_cpus, info.max_cpu_id, info.nr_nodes), (1, 0, 1));
    let scheduler: SysctlSchedId = control.well(XEN_SYSCTL_SCHED_ID, NOTHING).get();
    assert_eq!(scheduler.sched_id, XEN_SCHEDULER_CREDIT2);

    let first_domain = control.guest.domain.id.0;
    let list = |max_domains, at| SysctlGetdomaininfolist {
        first_domain,
        max_domains,
        buffer: GuestHandle::new(at),
        ..Default::default()
    };
    let count = |answer: Union<16>| answer.get::<SysctlGetdomaininfolist>().num_domains;
    assert_eq!(
        count(control.well(XEN_SYSCTL_GETDOMAININFOLIST, list(1, LIST))),
        1
    );
    assert_eq!(control.dom0.get::<DomctlGetdomaininfo>(LIST).domain, first_domain);
    assert_eq!(count(control.well(XEN_SYSCTL_GETDOMAININFOLIST, list(0, BAD))), 0);
    control.badly(XEN_SYSCTL_GETDOMAININFOLIST, list(1, BAD), Errno::EFAULT);

    let heap = |node| SysctlAvailheap {
        node,
        ..Default::default()
    };
    let mut bytes = |node| {
        let answer = control.well(XEN_SYSCTL_AVAILHEAP, heap(node));
        answer.get::<SysctlAvailheap>().avail_bytes
    };
    assert!([-1, 0].into_iter().all(|node| bytes(node) > 0));
    assert_eq!((bytes(1), bytes(-2)), (0, 0), "no such nodes");

    let rate = |cpupool_id, sched_id, cmd, ratelimit_us| SysctlSchedulerOp {
        cpupool_id,
        sched_id,
        cmd,
        pad: 0,
        u: Union::of(&SysctlCredit2Schedule { ratelimit_us }),
    };
    let (put, get) = (XEN_SYSCTL_SCHEDOP_PUTINFO, XEN_SYSCTL_SCHEDOP_GETINFO);
    control.well(XEN_SYSCTL_SCHEDULER_OP, rate(0, XEN_SCHEDULER_CREDIT2, put, 1000));
    control.well(XEN_SYSCTL_SCHEDULER_OP, rate(0, XEN_SCHEDULER_CREDIT2, get, 0));
    for (wrong, errno) in [
        (rate(0, XEN_SCHEDULER_CREDIT2, put, 99), Errno::EINVAL),
        (rate(0, XEN_SCHEDULER_CREDIT2, put, 500_001), Errno::EINVAL),
        (rate(0, XEN_SCHEDULER_CREDIT2, 9, 0), Errno::EINVAL),
        (rate(0, XEN_SCHEDULER_CREDIT2 + 100, get, 0), Errno::EINVAL),
        (rate(0x7000, XEN_SCHEDULER_CREDIT2, get, 0), Errno::ESRCH),
    ] {
        control.badly(XEN_SYSCTL_SCHEDULER_OP, wrong, errno);
    }
}

fn topology(control: &mut Control) {
    let cpus = |max_cpus, at| SysctlGetcpuinfo {
        max_cpus,
        info: GuestHandle::new(at),
        ..Default::default()
    };
    for (room, at, count) in [(8, LIST, 1), (0, BAD, 0)] {
        let answer = control.well(XEN_SYSCTL_GETCPUINFO, cpus(room, at));
        assert_eq!(answer.get::<SysctlGetcpuinfo>().nr_cpus, count);
    }
    control.badly(XEN_SYSCTL_GETCPUINFO, cpus(1, BAD), Errno::EFAULT);

    let places = |num_cpus, at| SysctlCputopoinfo {
        num_cpus,
        pad: 0,
        cputopo: GuestHandle::new(at),
    };
    for (room, at, count) in [(0, 0, 1), (8, LIST, 1), (0, BAD, 0)] {
        let answer = control.well(XEN_SYSCTL_CPUTOPOINFO, places(room, at));
        assert_eq!(
            answer.get::<SysctlCputopoinfo>().num_cpus,
            count,
            "{room} {at:#x}"
        );
    }
    assert_eq!(control.dom0.get::<SysctlCputopo>(LIST).node, 0);
    control.badly(XEN_SYSCTL_CPUTOPOINFO, places(1, BAD), Errno::EFAULT);

    let nodes = |num_nodes, memory, distance| SysctlNumainfo {
        num_nodes,
        pad: 0,
        meminfo: GuestHandle::new(memory),
        distance: GuestHandle::new(distance),
    };
    for (room, at, count) in [(0, 0, 1), (8, LIST, 1), (0, BAD, 0)] {
        let answer = control.well(XEN_SYSCTL_NUMAINFO, nodes(room, at, at));
        assert_eq!(answer.get::<SysctlNumainfo>().num_nodes, count, "{room} {at:#x}");
    }
    assert_eq!(control.dom0.get::<u32>(LIST), 10, "the distance to itself");
    control.badly(XEN_SYSCTL_NUMAINFO, nodes(1, BAD, 0), Errno::EFAULT);
    control.badly(XEN_SYSCTL_NUMAINFO, nodes(1, 0, BAD), Errno::EFAULT);

    let devices = |devices, nodes| SysctlPcitopoinfo {
        num_devs: 2,
        pad: 0,
        devs: GuestHandle::new(devices),
        nodes: GuestHandle::new(nodes),
    };
    let answer = control.well(XEN_SYSCTL_PCITOPOINFO, devices(LIST, LIST + 64));
    assert_eq!(answer.get::<SysctlPcitopoinfo>().num_devs, 2);
    assert_eq!(
        control.dom0.get::<[u32; 3]>(LIST + 64),
        [XEN_INVALID_DEV, XEN_INVALID_DEV, 0]
    );
    for (wrong, errno) in [
        (devices(0, LIST), Errno::EINVAL),
        (devices(LIST, 0), Errno::EINVAL),
        (devices(BAD, LIST), Errno::EFAULT),
        (devices(LIST, BAD), Errno::EFAULT),
    ] {
        control.badly(XEN_SYSCTL_PCITOPOINFO, wrong, errno);
    }
}

fn features(control: &mut Control) {
    const WORDS: u32 = 14;
    let levelling: SysctlCpuLevellingCaps = control.well(XEN_SYSCTL_GET_CPU_LEVELLING_CAPS, NOTHING).get();
    assert_eq!(levelling.caps, 0);
    let get = XEN_SYSCTL_GET_CPU_FEATURESET;
    let words = |index, nr_features, at| SysctlCpuFeatureset {
        index,
        nr_features,
        features: GuestHandle::new(at),
    };
    let count = |answer: Union<16>| answer.get::<SysctlCpuFeatureset>().nr_features;
    assert_eq!(
        count(control.well(get, words(99, 0, 0))),
        WORDS,
        "whatever the set"
    );
    for index in [
        XEN_SYSCTL_CPU_FEATURESET_RAW,
        XEN_SYSCTL_CPU_FEATURESET_HOST,
        XEN_SYSCTL_CPU_FEATURESET_HVM,
        XEN_SYSCTL_CPU_FEATURESET_HVM_MAX,
    ] {
        control.dom0.put(LIST, &[0u32; WORDS as usize + 1]);
        assert_eq!(count(control.well(get, words(index, 99, LIST))), WORDS);
        let set: [u32; WORDS as usize + 1] = control.dom0.get(LIST);
        assert!(set[0] != 0 && set[WORDS as usize] == 0, "{index}: {set:x?}");
        control.badly(get, words(index, WORDS - 1, LIST), Errno::ENOBUFS);
        let written: Sysctl = control.dom0.get(ARG);
        assert_eq!(count(written.u), WORDS - 1);
        control.badly(get, words(index, 1, BAD), Errno::EFAULT);
    }
    for (index, errno) in [
        (XEN_SYSCTL_CPU_FEATURESET_PV, Errno::EOPNOTSUPP),
        (XEN_SYSCTL_CPU_FEATURESET_PV_MAX, Errno::EOPNOTSUPP),
        (6, Errno::EINVAL),
    ] {
        control.badly(get, words(index, WORDS, LIST), errno);
    }

    let get = XEN_SYSCTL_GET_CPU_POLICY;
    let policy = |index, nr_leaves, at| SysctlCpuPolicy {
        index,
        nr_leaves,
        leaves: GuestHandle::new(at),
        ..Default::default()
    };
    for index in [
        XEN_SYSCTL_CPU_POLICY_RAW,
        XEN_SYSCTL_CPU_POLICY_HOST,
        XEN_SYSCTL_CPU_POLICY_HVM_MAX,
        XEN_SYSCTL_CPU_POLICY_HVM_DEFAULT,
    ] {
        let answer: SysctlCpuPolicy = control.well(get, policy(index, 0, 0)).get();
        let count = answer.nr_leaves;
        control.well(get, policy(index, count, LIST));
        control.badly(get, policy(index, count - 1, LIST), Errno::ENOBUFS);
        control.badly(get, policy(index, count, BAD), Errno::EFAULT);
    }
    for (wrong, errno) in [
        (policy(XEN_SYSCTL_CPU_POLICY_PV_MAX, 0, 0), Errno::EOPNOTSUPP),
        (policy(XEN_SYSCTL_CPU_POLICY_PV_DEFAULT, 0, 0), Errno::EOPNOTSUPP),
        (policy(6, 0, 0), Errno::EINVAL),
        (
            SysctlCpuPolicy {
                pad: 1,
                ..policy(XEN_SYSCTL_CPU_POLICY_HOST, 0, 0)
            },
            Errno::EINVAL,
        ),
    ] {
        control.badly(get, wrong, errno);
    }
}
