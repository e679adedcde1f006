//! Every number of the families whose operation is an argument, with a bad pointer: what is offered has read its argument, or is
//! named here with its answer, and nothing else is there.

use abi::Errno;
use abi::domid::DOMID_SELF;
use abi::event_channel::*;
use abi::grant::*;
use abi::hvm::*;
use abi::hypercall::*;
use abi::memory::*;
use abi::physdev::*;
use abi::platform::*;
use abi::sched::*;
use abi::vcpu::*;
use abi::version::*;
use abi::{GuestHandle, Union};

use crate::hypercall::testing::{ARG, BAD, LIST, World};

type Answer = Result<u64, Errno>;

/// Call all operations of `family` that there could be: `reads` are those that read or write what they are pointed to.
fn all(world: &mut World, family: u32, reads: &[u32], answers: &[(u32, Answer)]) {
    for operation in 0..128 {
        let number = u64::from(operation);
        let arguments = match family {
            HYPERVISOR_VCPU_OP => [number, 0, BAD],
            _ => [number, BAD, 1],
        };
        let named = answers.iter().find(|(other, _)| *other == operation);
        let wanted = match named {
            Some((_, answer)) => *answer,
            None if reads.contains(&operation) => Err(Errno::EFAULT),
            // There are 64 operations on memory; above is where a list goes on.
            None if family == HYPERVISOR_MEMORY_OP && number > MEMOP_CMD_MASK => continue,
            None => Err(Errno::ENOSYS),
        };
        assert_eq!(world.call(family, &arguments), wanted, "{family}/{operation}");
    }
}

const DENIED: Answer = Err(Errno::EPERM);

#[test]
fn events_and_grants() {
    let mut guest = World::new();
    let events = [
        EVTCHNOP_BIND_INTERDOMAIN,
        EVTCHNOP_BIND_VIRQ,
        EVTCHNOP_BIND_PIRQ,
        EVTCHNOP_CLOSE,
        EVTCHNOP_SEND,
        EVTCHNOP_STATUS,
        EVTCHNOP_ALLOC_UNBOUND,
        EVTCHNOP_BIND_IPI,
        EVTCHNOP_BIND_VCPU,
        EVTCHNOP_UNMASK,
        EVTCHNOP_RESET,
        EVTCHNOP_RESET_CONT,
        EVTCHNOP_INIT_CONTROL,
        EVTCHNOP_EXPAND_ARRAY,
        EVTCHNOP_SET_PRIORITY,
    ];
    all(&mut guest, HYPERVISOR_EVENT_CHANNEL_OP, &events, &[]);
    let mut interrupt = EvtchnBindPirq::default();
    let bound = guest.op(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_BIND_PIRQ, &mut interrupt);
    assert_eq!(bound, Err(Errno::EINVAL), "no domain has physical interrupts");
    let grants = [
        GNTTABOP_MAP_GRANT_REF,
        GNTTABOP_UNMAP_GRANT_REF,
        GNTTABOP_SETUP_TABLE,
        GNTTABOP_COPY,
        GNTTABOP_QUERY_SIZE,
        GNTTABOP_UNMAP_AND_REPLACE,
        GNTTABOP_SET_VERSION,
        GNTTABOP_GET_STATUS_FRAMES,
        GNTTABOP_GET_VERSION,
        GNTTABOP_SWAP_GRANT_REF,
    ];
    all(&mut guest, HYPERVISOR_GRANT_TABLE_OP, &grants, &[]);
}

#[test]
fn memory() {
    let reads = [
        XENMEM_CURRENT_RESERVATION,
        XENMEM_MAXIMUM_RESERVATION,
        XENMEM_MAXIMUM_GPFN,
        XENMEM_ADD_TO_PHYSMAP,
        XENMEM_ADD_TO_PHYSMAP_BATCH,
        XENMEM_REMOVE_FROM_PHYSMAP,
        XENMEM_MEMORY_MAP,
        XENMEM_SET_MEMORY_MAP,
        XENMEM_CLAIM_PAGES,
        XENMEM_SET_POD_TARGET,
        XENMEM_GET_POD_TARGET,
        XENMEM_GET_VNUMAINFO,
        XENMEM_RESERVED_DEVICE_MEMORY_MAP,
        XENMEM_EXCHANGE,
    ];
    let (mut guest, mut dom0) = (World::new(), World::privileged());
    let highest = guest.call(HYPERVISOR_MEMORY_OP, &[XENMEM_MAXIMUM_RAM_PAGE.into()]);
    assert!(highest.is_ok_and(|frame| frame > 0));
    for (world, resource) in [(&mut guest, Errno::EACCES), (&mut dom0, Errno::EFAULT)] {
        // Lists that cannot be read are done as far as they can be.
        let answers = [
            (XENMEM_INCREASE_RESERVATION, Ok(0)),
            (XENMEM_DECREASE_RESERVATION, Ok(0)),
            (XENMEM_POPULATE_PHYSMAP, Ok(0)),
            (XENMEM_MAXIMUM_RAM_PAGE, highest),
            (XENMEM_GET_SHARING_FREED_PAGES, Ok(0)),
            (XENMEM_GET_SHARING_SHARED_PAGES, Ok(0)),
            (XENMEM_ACQUIRE_RESOURCE, Err(resource)),
        ];
        all(world, HYPERVISOR_MEMORY_OP, &reads, &answers);
    }

    // Memory without a place in the domain is none.
    let mut more = MemoryReservation {
        extent_start: GuestHandle::new(LIST),
        nr_extents: 1,
        domid: DOMID_SELF,
        ..Default::default()
    };
    let pages = guest.domain.total_pages();
    let increased = guest.op(HYPERVISOR_MEMORY_OP, XENMEM_INCREASE_RESERVATION, &mut more);
    assert_eq!((increased, guest.domain.total_pages()), (Ok(0), pages));

    let reserved = |flags| ReservedDeviceMemoryMap {
        flags,
        nr_entries: 5,
        buffer: GuestHandle::new(LIST),
        ..Default::default()
    };
    for (flags, answer) in [(0, Ok(0)), (XENMEM_RDM_ALL, Ok(0)), (2, Err(Errno::EINVAL))] {
        let mut map = reserved(flags);
        let asked = guest.op(HYPERVISOR_MEMORY_OP, XENMEM_RESERVED_DEVICE_MEMORY_MAP, &mut map);
        assert_eq!(asked, answer);
        assert_eq!(map.nr_entries, if answer.is_ok() { 0 } else { 5 });
    }

    let target = |domid, target_pages| PodTarget {
        domid,
        target_pages,
        pod_entries: 7,
        ..Default::default()
    };
    let (get, set) = (XENMEM_GET_POD_TARGET, XENMEM_SET_POD_TARGET);
    let id = guest.domain.id.0;
    let most = guest.domain.max_pages();
    for (operation, domid, pages, answer) in [
        (get, id, 0, Ok(0)),
        (get, id, u64::MAX, Ok(0)),
        (set, id, most, Ok(0)),
        (set, id, most + 1, Err(Errno::EINVAL)),
        (get, 0x7000, 0, Err(Errno::ESRCH)),
        (set, 0x7000, 0, Err(Errno::ESRCH)),
    ] {
        let mut target = target(domid, pages);
        assert_eq!(dom0.op(HYPERVISOR_MEMORY_OP, operation, &mut target), answer);
        if answer.is_ok() {
            assert_eq!(
                (target.tot_pages, target.pod_entries),
                (guest.domain.total_pages(), 0)
            );
        }
        target.domid = DOMID_SELF;
        assert_eq!(guest.op(HYPERVISOR_MEMORY_OP, operation, &mut target), DENIED);
    }
}

#[test]
fn vcpus_and_scheduling() {
    let mut guest = World::new();
    let vcpus = [
        VCPUOP_INITIALISE,
        VCPUOP_GET_RUNSTATE_INFO,
        VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA,
        VCPUOP_SET_PERIODIC_TIMER,
        VCPUOP_SET_SINGLESHOT_TIMER,
        VCPUOP_REGISTER_VCPU_INFO,
        VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA,
    ];
    // It is up until it is told to go down.
    let answers = &[
        (VCPUOP_UP, Ok(0)),
        (VCPUOP_DOWN, Ok(0)),
        (VCPUOP_IS_UP, Ok(0)),
        (VCPUOP_STOP_PERIODIC_TIMER, Ok(0)),
        (VCPUOP_STOP_SINGLESHOT_TIMER, Ok(0)),
        (VCPUOP_SEND_NMI, Ok(0)),
    ];
    all(&mut guest, HYPERVISOR_VCPU_OP, &vcpus, answers);

    let reads = [
        SCHEDOP_SHUTDOWN,
        SCHEDOP_SHUTDOWN_CODE,
        SCHEDOP_POLL,
        SCHEDOP_REMOTE_SHUTDOWN,
        SCHEDOP_WATCHDOG,
    ];
    let answers = &[
        (SCHEDOP_YIELD, Ok(0)),
        (SCHEDOP_BLOCK, Ok(0)),
        (SCHEDOP_PIN_OVERRIDE, DENIED),
    ];
    let mut guest = World::new();
    all(&mut guest, HYPERVISOR_SCHED_OP, &reads, answers);
    World::privileged().faults(HYPERVISOR_SCHED_OP, SCHEDOP_PIN_OVERRIDE);
}

#[test]
fn the_small_families() {
    let (mut guest, mut dom0) = (World::new(), World::privileged());
    let hvm = [
        HVMOP_SET_PARAM,
        HVMOP_GET_PARAM,
        HVMOP_GET_TIME,
        HVMOP_GET_MEM_TYPE,
        HVMOP_SET_EVTCHN_UPCALL_VECTOR,
    ];
    let answers = &[
        (HVMOP_FLUSH_TLBS, Err(Errno::EINVAL)),
        (HVMOP_ALTP2M, Err(Errno::EOPNOTSUPP)),
    ];
    all(&mut guest, HYPERVISOR_HVM_OP, &hvm, answers);
    let version = [
        XENVER_EXTRAVERSION,
        XENVER_COMPILE_INFO,
        XENVER_CAPABILITIES,
        XENVER_CHANGESET,
        XENVER_PLATFORM_PARAMETERS,
        XENVER_GET_FEATURES,
        XENVER_GUEST_HANDLE,
        XENVER_COMMANDLINE,
    ];
    let answers = &[
        (XENVER_VERSION, Ok(0x4_0011)),
        (XENVER_PAGESIZE, Ok(4096)),
        (XENVER_BUILD_ID, DENIED),
    ];
    all(&mut guest, HYPERVISOR_XEN_VERSION, &version, answers);
    let devices = [
        PHYSDEVOP_PCI_MMCFG_RESERVED,
        PHYSDEVOP_PCI_DEVICE_ADD,
        PHYSDEVOP_PCI_DEVICE_REMOVE,
    ];
    all(&mut guest, HYPERVISOR_PHYSDEV_OP, &[], &[]);
    all(&mut dom0, HYPERVISOR_PHYSDEV_OP, &devices, &[]);
    for operation in devices {
        assert_eq!(dom0.call(HYPERVISOR_PHYSDEV_OP, &[operation.into(), ARG]), Ok(0));
    }
}

/// What is asked of CPU 0 and of no firmware; where the time of day is set is tested beside its effect.
#[test]
fn the_platform() {
    let (mut guest, mut dom0) = (World::new(), World::privileged());
    for cmd in 0..128 {
        let answer = match cmd {
            XENPF_SETTIME32 | XENPF_SETTIME64 => continue,
            XENPF_GET_CPUINFO | XENPF_CPU_ONLINE | XENPF_GET_CPU_VERSION => Ok(0),
            XENPF_CPU_OFFLINE | XENPF_MICROCODE_UPDATE => Err(Errno::EOPNOTSUPP),
            XENPF_FIRMWARE_INFO => Err(Errno::EINVAL),
            _ => Err(Errno::ENOSYS),
        };
        let mut operation = PlatformOp {
            cmd,
            interface_version: XENPF_INTERFACE_VERSION,
            u: Union::default(),
        };
        assert_eq!(guest.op_alone(HYPERVISOR_PLATFORM_OP, &mut operation), DENIED);
        assert_eq!(
            dom0.op_alone(HYPERVISOR_PLATFORM_OP, &mut operation),
            answer,
            "{cmd}"
        );
    }
}
