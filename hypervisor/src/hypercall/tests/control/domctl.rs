//! `domctl`.

use abi::domctl::*;
use abi::domid::{DOMID_FIRST_RESERVED, DOMID_SELF};
use abi::hvm_save::*;
use abi::hypercall::HYPERVISOR_DOMCTL;
use abi::sched::SHUTDOWN_SOFT_RESET;
use abi::{Bitmap, Errno, GuestHandle, Union};
use zerocopy::FromZeros;

use super::{Control, NOTHING};
use crate::domain::table;
use crate::domain::vcpu::Request;
use crate::hypercall::testing::{ARG, BAD, LIST, config};
use crate::sched::pool::override_affinity;
use crate::types::{DomId, VcpuId};

/// A vCPU that no domain here has.
const NO_VCPU: u32 = 3;

fn map(at: u64) -> Bitmap {
    Bitmap {
        bitmap: GuestHandle::new(at),
        nr_bits: 16,
        pad: 0,
    }
}

#[test]
fn domctl() {
    let mut control = Control::new(HYPERVISOR_DOMCTL, XEN_DOMCTL_INTERFACE_VERSION);
    domains(&mut control);
    scheduling(&mut control);
    limits(&mut control);
    contexts(&mut control);
    policies(&mut control);
    control.not_on_itself(&[
        XEN_DOMCTL_DESTROYDOMAIN,
        XEN_DOMCTL_PAUSEDOMAIN,
        XEN_DOMCTL_RESUMEDOMAIN,
        XEN_DOMCTL_SOFT_RESET,
        XEN_DOMCTL_MAX_VCPUS,
        XEN_DOMCTL_SHADOW_OP,
        XEN_DOMCTL_GETVCPUCONTEXT,
        XEN_DOMCTL_GETHVMCONTEXT,
        XEN_DOMCTL_GETHVMCONTEXT_PARTIAL,
        XEN_DOMCTL_SETHVMCONTEXT,
        XEN_DOMCTL_GETTSCINFO,
        XEN_DOMCTL_SETTSCINFO,
        XEN_DOMCTL_SET_CPU_POLICY,
    ]);
    let own = control.call(XEN_DOMCTL_MAX_MEM, DOMID_SELF, NOTHING);
    assert_eq!(own.err(), Some(Errno::ESRCH));
    // As for all domains with nested paging.
    let widths = [XEN_DOMCTL_SET_ADDRESS_SIZE, XEN_DOMCTL_GET_ADDRESS_SIZE];
    control.nothing_else(&widths.map(|command| (command, Errno::EOPNOTSUPP)), &[]);
}

fn domains(control: &mut Control) {
    let domain = control.guest.domain.clone();
    let creation = DomctlCreatedomain {
        flags: XEN_DOMCTL_CDF_HVM | XEN_DOMCTL_CDF_HAP,
        max_vcpus: 1,
        max_evtchn_port: 100,
        max_grant_frames: 4,
        grant_opts: 1,
        arch: ArchDomainconfig {
            emulation_flags: XEN_X86_EMU_LAPIC,
            misc_flags: 0,
        },
        ..Default::default()
    };
    control.badly(XEN_DOMCTL_CREATEDOMAIN, creation, Errno::EEXIST);
    control.call(XEN_DOMCTL_CREATEDOMAIN, 0, creation).expect("made");
    let made: Domctl = control.dom0.get(ARG);
    control.succeeded.insert(XEN_DOMCTL_CREATEDOMAIN);
    let no_vcpus = |control: &mut Control, command, payload: Union<16>| {
        control.call(command, made.domain, payload).err()
    };
    for command in [
        XEN_DOMCTL_GETVCPUINFO,
        XEN_DOMCTL_GETVCPUAFFINITY,
        XEN_DOMCTL_SETVCPUAFFINITY,
        XEN_DOMCTL_SENDTRIGGER,
    ] {
        assert_eq!(
            no_vcpus(control, command, Union::default()),
            Some(Errno::ESRCH),
            "{command}"
        );
    }
    let allocation = Union::of(&DomctlShadowOp {
        op: XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION,
        ..Default::default()
    });
    assert_eq!(
        no_vcpus(control, XEN_DOMCTL_SHADOW_OP, allocation),
        Some(Errno::EINVAL)
    );
    assert_eq!(
        no_vcpus(control, XEN_DOMCTL_DESTROYDOMAIN, Union::default()),
        None
    );
    assert!(table::get(DomId(made.domain)).is_none());
    control.succeeded.insert(XEN_DOMCTL_DESTROYDOMAIN);

    control.well(XEN_DOMCTL_PAUSEDOMAIN, NOTHING);
    control.well(XEN_DOMCTL_UNPAUSEDOMAIN, NOTHING);
    assert!(domain.is_paused(), "since it was made");
    control.well(XEN_DOMCTL_UNPAUSEDOMAIN, NOTHING);
    assert!(!domain.is_paused());
    control.badly(XEN_DOMCTL_UNPAUSEDOMAIN, NOTHING, Errno::EINVAL);
    control.well(XEN_DOMCTL_PAUSEDOMAIN, NOTHING);

    control.well(XEN_DOMCTL_RESUMEDOMAIN, NOTHING);
    domain.shutdown(SHUTDOWN_SOFT_RESET);
    control.well(XEN_DOMCTL_RESUMEDOMAIN, NOTHING);
    assert_eq!(domain.shutdown_reason(), None);
    control.badly(XEN_DOMCTL_SOFT_RESET, NOTHING, Errno::EINVAL);
    domain.shutdown(SHUTDOWN_SOFT_RESET);
    control.well(XEN_DOMCTL_SOFT_RESET, NOTHING);
    assert_eq!(domain.shutdown_reason(), None);

    control.well(
        XEN_DOMCTL_SETDOMAINHANDLE,
        DomctlSetdomainhandle { handle: [7; 16] },
    );
    let info: DomctlGetdomaininfo = control.well(XEN_DOMCTL_GETDOMAININFO, NOTHING).get();
    assert_eq!((info.domain, info.handle), (domain.id.0, [7; 16]));
    let reserved = control.call(XEN_DOMCTL_GETDOMAININFO, DOMID_FIRST_RESERVED, NOTHING);
    assert_eq!(reserved.err(), Some(Errno::EINVAL));
    control.well(XEN_DOMCTL_SETTIMEOFFSET, DomctlSettimeoffset::default());
    let rate = DomctlTscInfo {
        gtsc_khz: 500_000,
        ..Default::default()
    };
    control.well(XEN_DOMCTL_SETTSCINFO, rate);
    let rate: DomctlTscInfo = control.well(XEN_DOMCTL_GETTSCINFO, NOTHING).get();
    assert_eq!(rate.gtsc_khz, 500_000);
    let unknown = DomctlTscInfo {
        tsc_mode: 9,
        ..Default::default()
    };
    control.badly(XEN_DOMCTL_SETTSCINFO, unknown, Errno::EINVAL);
}

fn scheduling(control: &mut Control) {
    let operation = |sched_id, cmd, weight, cap| DomctlSchedulerOp {
        sched_id,
        cmd,
        u: Union::of(&DomctlSchedCredit { weight, cap }),
    };
    let credit2 = |cmd, weight, cap| operation(XEN_SCHEDULER_CREDIT2, cmd, weight, cap);
    for (put, is) in [
        ((512, 50), (512, 50)),
        ((0, 0xffff), (512, 50)),
        ((256, 0), (256, 0)),
    ] {
        let put = credit2(XEN_DOMCTL_SCHEDOP_PUTINFO, put.0, put.1);
        control.well(XEN_DOMCTL_SCHEDULER_OP, put);
        let get = credit2(XEN_DOMCTL_SCHEDOP_GETINFO, 0, 0);
        let share: DomctlSchedulerOp = control.well(XEN_DOMCTL_SCHEDULER_OP, get).get();
        let share: DomctlSchedCredit = share.u.get();
        assert_eq!((share.weight, share.cap), is);
    }
    for bad in [credit2(9, 0, 0), operation(9, XEN_DOMCTL_SCHEDOP_GETINFO, 0, 0)] {
        control.badly(XEN_DOMCTL_SCHEDULER_OP, bad, Errno::EINVAL);
    }

    const BOTH: u32 = XEN_VCPUAFFINITY_HARD | XEN_VCPUAFFINITY_SOFT;
    const MAPS: [u64; 2] = [LIST, LIST + 8];
    let (set, get) = (XEN_DOMCTL_SETVCPUAFFINITY, XEN_DOMCTL_GETVCPUAFFINITY);
    let affinity = |vcpu, flags, [hard, soft]: [u64; 2]| DomctlVcpuaffinity {
        vcpu,
        flags,
        cpumap_hard: map(hard),
        cpumap_soft: map(soft),
    };
    for (flags, written) in [
        (XEN_VCPUAFFINITY_HARD, [1, 0xffff]),
        (XEN_VCPUAFFINITY_SOFT, [0xffff, 1]),
        (BOTH, [1, 1]),
        (BOTH | XEN_VCPUAFFINITY_FORCE, [1, 1]),
    ] {
        for command in [set, get] {
            // There is one CPU; what is above it is cleared where it is asked for.
            control.dom0.put(LIST, &[0xffffu64; 2]);
            control.well(command, affinity(1, flags, MAPS));
            assert_eq!(control.dom0.get::<[u64; 2]>(LIST), written, "{command} {flags}");
        }
    }
    for command in [set, get] {
        for (flags, maps, errno) in [
            (0, MAPS, Errno::EINVAL),
            (XEN_VCPUAFFINITY_HARD, [0, LIST], Errno::EINVAL),
            (BOTH, [LIST, 0], Errno::EINVAL),
            (BOTH, [BAD, LIST], Errno::EFAULT),
            (BOTH, [LIST, BAD], Errno::EFAULT),
        ] {
            control.badly(command, affinity(1, flags, maps), errno);
        }
        control.badly(command, affinity(NO_VCPU, BOTH, MAPS), Errno::EINVAL);
    }
    control.dom0.put(LIST, &0xfffeu64);
    control.badly(set, affinity(1, BOTH, MAPS), Errno::EINVAL);
    // As SCHEDOP_pin_override does.
    let second = control.guest.domain.vcpu(VcpuId(1)).expect("second").clone();
    override_affinity(&second, Some(0)).expect("there is this CPU");
    control.dom0.put(LIST, &[0xffffu64; 2]);
    control.badly(set, affinity(1, BOTH, MAPS), Errno::EBUSY);
    control.well(set, affinity(1, BOTH | XEN_VCPUAFFINITY_FORCE, MAPS));
    control.well(set, affinity(1, BOTH, MAPS));

    let nodes = |at| DomctlNodeaffinity { nodemap: map(at) };
    control.dom0.put(LIST, &0xffffu64);
    control.well(XEN_DOMCTL_GETNODEAFFINITY, nodes(LIST));
    assert_eq!(control.dom0.get::<u64>(LIST), 1, "the one there is");
    control.well(XEN_DOMCTL_SETNODEAFFINITY, nodes(LIST));
    control.dom0.put(LIST, &2u64);
    control.badly(XEN_DOMCTL_SETNODEAFFINITY, nodes(LIST), Errno::EINVAL);
    for command in [XEN_DOMCTL_GETNODEAFFINITY, XEN_DOMCTL_SETNODEAFFINITY] {
        control.badly(command, nodes(BAD), Errno::EFAULT);
    }

    let vcpu = |vcpu| DomctlGetvcpuinfo {
        vcpu,
        ..Default::default()
    };
    let online = |info: Union<16>| info.get::<DomctlGetvcpuinfo>().online;
    assert_eq!(online(control.well(XEN_DOMCTL_GETVCPUINFO, vcpu(0))), 1);
    assert_eq!(online(control.well(XEN_DOMCTL_GETVCPUINFO, vcpu(1))), 0);
    control.badly(XEN_DOMCTL_GETVCPUINFO, vcpu(NO_VCPU), Errno::EINVAL);

    let trigger = |trigger, vcpu| DomctlSendtrigger { trigger, vcpu };
    control.well(XEN_DOMCTL_SENDTRIGGER, trigger(XEN_DOMCTL_SENDTRIGGER_NMI, 1));
    let second = control.guest.domain.vcpu(VcpuId(1)).expect("second").clone();
    assert!(second.requests().contains(Request::NMI));
    // Buttons that domains without the PC's devices do not have.
    for button in [XEN_DOMCTL_SENDTRIGGER_POWER, XEN_DOMCTL_SENDTRIGGER_SLEEP] {
        control.well(XEN_DOMCTL_SENDTRIGGER, trigger(button, 0));
    }
    for unknown in [XEN_DOMCTL_SENDTRIGGER_RESET, XEN_DOMCTL_SENDTRIGGER_INIT, 5] {
        control.badly(XEN_DOMCTL_SENDTRIGGER, trigger(unknown, 0), Errno::ENOSYS);
    }
    let nobody = trigger(XEN_DOMCTL_SENDTRIGGER_NMI, NO_VCPU);
    control.badly(XEN_DOMCTL_SENDTRIGGER, nobody, Errno::ESRCH);
}

fn limits(control: &mut Control) {
    let domain = control.guest.domain.clone();
    let memory = |max_memkb| DomctlMaxMem { max_memkb };
    for (kib, pages) in [(u64::MAX, u64::from(u32::MAX)), (0, 0), (1024, 256)] {
        control.well(XEN_DOMCTL_MAX_MEM, memory(kib));
        assert_eq!(domain.max_pages(), pages);
    }
    let vcpus = |max| DomctlMaxVcpus { max };
    control.well(XEN_DOMCTL_MAX_VCPUS, vcpus(3));
    for wrong in [0, 4, u32::MAX] {
        control.badly(XEN_DOMCTL_MAX_VCPUS, vcpus(wrong), Errno::EINVAL);
    }

    let (set, get) = (
        XEN_DOMCTL_SET_PAGING_MEMPOOL_SIZE,
        XEN_DOMCTL_GET_PAGING_MEMPOOL_SIZE,
    );
    let pool = |size| DomctlPagingMempool { size };
    let bytes = |answer: Union<16>| answer.get::<DomctlPagingMempool>().size;
    assert_eq!(
        bytes(control.well(get, NOTHING)),
        u64::from(config(false).p2m_pool) << 12
    );
    control.well(set, pool(0x12_3000));
    assert_eq!(bytes(control.well(get, NOTHING)), 0x12_3000);
    for wrong in [1, 0x12_3800, 1 << 44, u64::MAX] {
        control.badly(set, pool(wrong), Errno::EINVAL);
    }
    let shadow = |op, mb| DomctlShadowOp {
        op,
        mb,
        ..Default::default()
    };
    let mib = |answer: Union<16>| answer.get::<DomctlShadowOp>().mb;
    let (set, get) = (
        XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION,
        XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION,
    );
    assert_eq!(
        mib(control.well(XEN_DOMCTL_SHADOW_OP, shadow(get, 0))),
        2,
        "rounded up"
    );
    assert_eq!(mib(control.well(XEN_DOMCTL_SHADOW_OP, shadow(set, 3))), 3);
    assert_eq!(mib(control.well(XEN_DOMCTL_SHADOW_OP, shadow(get, 0))), 3);
    control.well(XEN_DOMCTL_SHADOW_OP, shadow(XEN_DOMCTL_SHADOW_OP_OFF, 0));
    for wrong in [
        shadow(set, 1 << 24),
        shadow(XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY, 0),
        shadow(XEN_DOMCTL_SHADOW_OP_PEEK, 0),
        shadow(99, 0),
    ] {
        control.badly(XEN_DOMCTL_SHADOW_OP, wrong, Errno::EINVAL);
    }
}

fn contexts(control: &mut Control) {
    let context = |size, at| DomctlHvmcontext {
        size,
        pad: 0,
        buffer: GuestHandle::new(at),
    };
    let (set, get) = (XEN_DOMCTL_SETHVMCONTEXT, XEN_DOMCTL_GETHVMCONTEXT);
    let size = control.well(get, context(0, 0)).get::<DomctlHvmcontext>().size;
    control.well(get, context(size + 1, LIST));
    assert_eq!(
        control.dom0.get::<HvmSaveDescriptor>(LIST).typecode,
        HVM_SAVE_CODE_HEADER
    );
    control.badly(get, context(size - 1, LIST), Errno::ENOSPC);
    control.badly(get, context(size, BAD), Errno::EFAULT);
    control.well(set, context(size, LIST));
    control.badly(set, context(size - 1, LIST), Errno::EINVAL);
    control.badly(set, context(u32::MAX, LIST), Errno::EINVAL);
    control.badly(set, context(size, BAD), Errno::EFAULT);

    const CPU: u32 = HVM_SAVE_CODE_CPU as u32;
    let one = |type_, instance, bufsz, at| DomctlHvmcontextPartial {
        type_,
        instance,
        bufsz,
        buffer: GuestHandle::new(at),
    };
    let partial = XEN_DOMCTL_GETHVMCONTEXT_PARTIAL;
    let length = |answer: Union<16>| answer.get::<DomctlHvmcontextPartial>().bufsz;
    let room = size_of::<HvmHwCpu>() as u64;
    assert_eq!(length(control.well(partial, one(CPU, 0, 0, 0))), room);
    assert_eq!(length(control.well(partial, one(CPU, 1, room + 9, LIST))), room);
    control.well(partial, one(HVM_SAVE_CODE_MTRR.into(), 0, 4096, LIST));
    for (wrong, errno) in [
        (one(CPU, 0, room - 1, LIST), Errno::ENOBUFS),
        (one(CPU, 0, room, BAD), Errno::EFAULT),
        (one(CPU, NO_VCPU, room, LIST), Errno::ENOENT),
        (one(99, NO_VCPU, room, LIST), Errno::EINVAL),
        (one(CPU | 1 << 16, 0, room, LIST), Errno::EINVAL),
    ] {
        control.badly(partial, wrong, errno);
    }

    let registers = |vcpu, at| DomctlVcpucontext {
        vcpu,
        pad: 0,
        ctxt: GuestHandle::new(at),
    };
    let get = XEN_DOMCTL_GETVCPUCONTEXT;
    control.well(get, registers(0, LIST));
    assert_eq!(control.dom0.get::<VcpuGuestContext>(LIST).flags, VGCF_ONLINE);
    control.badly(get, registers(0, BAD), Errno::EFAULT);
    control.badly(get, registers(2, LIST), Errno::ENODATA);
    control.badly(get, registers(NO_VCPU, LIST), Errno::EINVAL);
}

fn policies(control: &mut Control) {
    let policy = |nr_leaves, at| DomctlCpuPolicy {
        nr_leaves,
        leaves: GuestHandle::new(at),
        ..Default::default()
    };
    let (set, get) = (XEN_DOMCTL_SET_CPU_POLICY, XEN_DOMCTL_GET_CPU_POLICY);
    let count = control.well(get, policy(0, 0)).get::<DomctlCpuPolicy>().nr_leaves;
    control.well(get, policy(count, LIST));
    control.badly(get, policy(count - 1, LIST), Errno::ENOBUFS);
    control.badly(get, policy(count, BAD), Errno::EFAULT);
    control.well(set, policy(count, LIST));
    control.badly(set, policy(1, BAD), Errno::EFAULT);
    control.badly(set, policy(513, LIST), Errno::E2BIG);
    let unknown = CpuidLeaf {
        leaf: 0x1234_5678,
        a: 1,
        ..CpuidLeaf::new_zeroed()
    };
    control.dom0.put(LIST, &unknown);
    control.badly(set, policy(1, LIST), Errno::EINVAL);
    let answer: Domctl = control.dom0.get(ARG);
    assert_eq!(answer.u.get::<DomctlCpuPolicy>().err_leaf, 0x1234_5678);
    control.well(XEN_DOMCTL_UNPAUSEDOMAIN, NOTHING);
    control.badly(set, policy(0, 0), Errno::EEXIST);
    control.well(XEN_DOMCTL_PAUSEDOMAIN, NOTHING);
}
