//! Called well and badly: CPU pools. CPU 0 is in pool 0 throughout: other tests' domains are there.

use abi::domctl::*;
use abi::hypercall::*;
use abi::sysctl::*;
use abi::{Bitmap, Errno, GuestHandle, Union};

use crate::domain::table;
use crate::hypercall::testing::{LIST, World, destroy};
use crate::types::{DomId, VcpuId};

const ANY: u32 = XEN_SYSCTL_CPUPOOL_PAR_ANY;

fn request(op: u32, cpupool_id: u32) -> SysctlCpupoolOp {
    SysctlCpupoolOp {
        op,
        cpupool_id,
        sched_id: XEN_SCHEDULER_CREDIT2,
        cpumap: Bitmap {
            bitmap: GuestHandle::new(LIST),
            nr_bits: 8,
            pad: 0,
        },
        ..Default::default()
    }
}

fn call(dom0: &mut World, request: SysctlCpupoolOp) -> Result<SysctlCpupoolOp, Errno> {
    let mut argument = Sysctl {
        cmd: XEN_SYSCTL_CPUPOOL_OP,
        interface_version: XEN_SYSCTL_INTERFACE_VERSION,
        u: Union::of(&request),
    };
    dom0.op_alone(HYPERVISOR_SYSCTL, &mut argument)?;
    Ok(argument.u.get())
}

fn pool(dom0: &mut World, op: u32, id: u32) -> Result<SysctlCpupoolOp, Errno> {
    call(dom0, request(op, id))
}

fn domctl(dom0: &mut World, cmd: u32, domain: u16, payload: Union<16>) -> Result<Domctl, Errno> {
    let mut argument = Domctl {
        cmd,
        interface_version: XEN_DOMCTL_INTERFACE_VERSION,
        domain,
        pad: [0; 3],
        u: payload,
    };
    dom0.op_alone(HYPERVISOR_DOMCTL, &mut argument)?;
    Ok(argument)
}

#[test]
fn pools() {
    let mut dom0 = World::privileged();
    let guest = World::new();
    let own = pool(&mut dom0, XEN_SYSCTL_CPUPOOL_OP_INFO, ANY).expect("pool 0");
    assert_eq!((own.cpupool_id, own.sched_id), (0, XEN_SCHEDULER_CREDIT2));
    assert!(own.n_dom >= 2, "{} domains", own.n_dom);
    assert_eq!(dom0.get::<u8>(LIST), 1, "CPU 0");

    let made = pool(&mut dom0, XEN_SYSCTL_CPUPOOL_OP_CREATE, ANY).expect("room");
    let id = made.cpupool_id;
    assert_ne!(id, 0);
    let info = pool(&mut dom0, XEN_SYSCTL_CPUPOOL_OP_INFO, 1).expect("the first from 1 on");
    assert_eq!((info.cpupool_id, info.n_dom, dom0.get::<u8>(LIST)), (id, 0, 0));
    assert_eq!(
        pool(&mut dom0, XEN_SYSCTL_CPUPOOL_OP_INFO, id + 1).err(),
        Some(Errno::ENOENT)
    );
    assert_eq!(
        pool(&mut dom0, XEN_SYSCTL_CPUPOOL_OP_CREATE, id).err(),
        Some(Errno::EEXIST)
    );
    let other_scheduler = SysctlCpupoolOp {
        sched_id: XEN_SCHEDULER_CREDIT2 + 100,
        ..request(XEN_SYSCTL_CPUPOOL_OP_CREATE, ANY)
    };
    assert_eq!(call(&mut dom0, other_scheduler).err(), Some(Errno::ENOENT));
    for (op, cpu, error) in [
        (XEN_SYSCTL_CPUPOOL_OP_ADDCPU, 0, Errno::ENODEV),
        (XEN_SYSCTL_CPUPOOL_OP_ADDCPU, ANY, Errno::EINVAL),
        (XEN_SYSCTL_CPUPOOL_OP_ADDCPU, 511, Errno::EINVAL),
        (XEN_SYSCTL_CPUPOOL_OP_RMCPU, 0, Errno::EADDRNOTAVAIL),
        (XEN_SYSCTL_CPUPOOL_OP_RMCPU, ANY, Errno::EINVAL),
        (99, 0, Errno::ENOSYS),
    ] {
        let wrong = SysctlCpupoolOp {
            cpu,
            ..request(op, id)
        };
        assert_eq!(call(&mut dom0, wrong).err(), Some(error), "{op} {cpu}");
    }
    assert_eq!(
        pool(&mut dom0, XEN_SYSCTL_CPUPOOL_OP_RMCPU, 0).err(),
        Some(Errno::EBUSY),
        "the last CPU of domains"
    );
    for (domid, id, error) in [
        (dom0.domain.id.0.into(), id, Errno::EPERM),
        (guest.domain.id.0.into(), id, Errno::EINVAL),
        (guest.domain.id.0.into(), 0x1234, Errno::ENOENT),
        (0x7000, id, Errno::ESRCH),
        (0x1_0000, id, Errno::ESRCH),
    ] {
        let wrong = SysctlCpupoolOp {
            domid,
            ..request(XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN, id)
        };
        assert_eq!(call(&mut dom0, wrong).err(), Some(error), "{domid} to {id}");
    }
    pool(&mut dom0, XEN_SYSCTL_CPUPOOL_OP_FREEINFO, 0).expect("nothing to check");
    assert_eq!(dom0.get::<u8>(LIST), 0, "no CPU is free");

    let config = |cpupool_id| {
        Union::of(&DomctlCreatedomain {
            flags: XEN_DOMCTL_CDF_HVM | XEN_DOMCTL_CDF_HAP,
            max_vcpus: 1,
            max_evtchn_port: 100,
            max_grant_frames: 4,
            max_maptrack_frames: 1,
            grant_opts: 1,
            cpupool_id,
            arch: ArchDomainconfig {
                emulation_flags: XEN_X86_EMU_LAPIC,
                misc_flags: 0,
            },
            ..Default::default()
        })
    };
    let nowhere = domctl(&mut dom0, XEN_DOMCTL_CREATEDOMAIN, 0, config(0x1234));
    assert_eq!(nowhere.err(), Some(Errno::ESRCH));
    let made = domctl(&mut dom0, XEN_DOMCTL_CREATEDOMAIN, 0, config(id))
        .expect("made")
        .domain;
    let info = domctl(&mut dom0, XEN_DOMCTL_GETDOMAININFO, made, Union::default()).expect("there");
    assert_eq!(info.u.get::<DomctlGetdomaininfo>().cpupool, id);
    assert_eq!(
        pool(&mut dom0, XEN_SYSCTL_CPUPOOL_OP_DESTROY, id).err(),
        Some(Errno::EBUSY),
        "a domain is in it"
    );
    destroy(&table::get(DomId(made)).expect("there"));
    assert_eq!(pool(&mut dom0, XEN_SYSCTL_CPUPOOL_OP_DESTROY, id).err(), None);
    assert_eq!(
        pool(&mut dom0, XEN_SYSCTL_CPUPOOL_OP_DESTROY, id).err(),
        Some(Errno::ENOENT)
    );
    assert_eq!(
        pool(&mut dom0, XEN_SYSCTL_CPUPOOL_OP_DESTROY, 0).err(),
        Some(Errno::EBUSY)
    );
}

/// Hard affinity stays as it was when the soft one beside it is refused.
#[test]
fn affinities_are_set_together_or_not_at_all() {
    let mut dom0 = World::privileged();
    let guest = World::new();
    dom0.put(LIST, &1u64);
    dom0.put(LIST + 8, &0u64);
    let map = |at| Bitmap {
        bitmap: GuestHandle::new(at),
        nr_bits: 8,
        pad: 0,
    };
    let affinity = |soft| {
        Union::of(&DomctlVcpuaffinity {
            vcpu: 0,
            flags: XEN_VCPUAFFINITY_HARD | XEN_VCPUAFFINITY_SOFT,
            cpumap_hard: map(LIST),
            cpumap_soft: map(soft),
        })
    };
    let id = guest.domain.id.0;
    let entity = &guest.domain.vcpu(VcpuId(0)).expect("vcpu").entity;
    let refused = domctl(&mut dom0, XEN_DOMCTL_SETVCPUAFFINITY, id, affinity(LIST + 8));
    assert_eq!(refused.err(), Some(Errno::EINVAL));
    assert!(entity.affinity.contains(1));
    let set = domctl(&mut dom0, XEN_DOMCTL_SETVCPUAFFINITY, id, affinity(LIST));
    assert!(set.is_ok());
    assert!(entity.affinity.contains(0) && !entity.affinity.contains(1));
}
