//! Every operation that reads or writes what it is pointed to, with a pointer to nothing.

use alloc::format;

use abi::event_channel::*;
use abi::grant::*;
use abi::hvm::*;
use abi::hypercall::*;
use abi::memory::*;
use abi::physdev::*;
use abi::sched::*;
use abi::vcpu::*;
use abi::version::*;
use guests::hypercall::{UNMAPPED, call};
use guests::report::Report;

use super::EFAULT;

/// By the number of their family. Not those whose lists are done as far as they can be read.
const OPERATIONS: &[(u32, &[u32])] = &[
    (
        HYPERVISOR_EVENT_CHANNEL_OP,
        &[
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
            EVTCHNOP_INIT_CONTROL,
            EVTCHNOP_EXPAND_ARRAY,
            EVTCHNOP_SET_PRIORITY,
        ],
    ),
    (
        HYPERVISOR_GRANT_TABLE_OP,
        &[
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
        ],
    ),
    (
        HYPERVISOR_MEMORY_OP,
        &[
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
            XENMEM_ACQUIRE_RESOURCE,
        ],
    ),
    (
        HYPERVISOR_VCPU_OP,
        &[
            VCPUOP_INITIALISE,
            VCPUOP_GET_RUNSTATE_INFO,
            VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA,
            VCPUOP_SET_PERIODIC_TIMER,
            VCPUOP_SET_SINGLESHOT_TIMER,
            VCPUOP_REGISTER_VCPU_INFO,
            VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA,
        ],
    ),
    (
        HYPERVISOR_SCHED_OP,
        &[
            SCHEDOP_SHUTDOWN,
            SCHEDOP_SHUTDOWN_CODE,
            SCHEDOP_POLL,
            SCHEDOP_REMOTE_SHUTDOWN,
            SCHEDOP_WATCHDOG,
            SCHEDOP_PIN_OVERRIDE,
        ],
    ),
    (
        HYPERVISOR_HVM_OP,
        &[
            HVMOP_SET_PARAM,
            HVMOP_GET_PARAM,
            HVMOP_GET_TIME,
            HVMOP_GET_MEM_TYPE,
            HVMOP_SET_EVTCHN_UPCALL_VECTOR,
        ],
    ),
    (
        HYPERVISOR_XEN_VERSION,
        &[
            XENVER_EXTRAVERSION,
            XENVER_COMPILE_INFO,
            XENVER_CAPABILITIES,
            XENVER_CHANGESET,
            XENVER_PLATFORM_PARAMETERS,
            XENVER_GET_FEATURES,
            XENVER_GUEST_HANDLE,
            XENVER_COMMANDLINE,
        ],
    ),
    (
        HYPERVISOR_PHYSDEV_OP,
        &[
            PHYSDEVOP_PCI_MMCFG_RESERVED,
            PHYSDEVOP_PCI_DEVICE_ADD,
            PHYSDEVOP_PCI_DEVICE_REMOVE,
        ],
    ),
];

pub fn pointers(report: &mut Report) {
    for &(family, operations) in OPERATIONS {
        for &operation in operations {
            let arguments = match family {
                HYPERVISOR_VCPU_OP => [operation.into(), 0, UNMAPPED, 0, 0],
                _ => [operation.into(), UNMAPPED, 1, 0, 0],
            };
            report.equal(
                &format!("hypercall-{family}-{operation}-unmapped"),
                call(family, arguments),
                EFAULT,
            );
        }
    }
    let answer = call(HYPERVISOR_PLATFORM_OP, [UNMAPPED, 0, 0, 0, 0]);
    report.equal("platform-unmapped", answer, EFAULT);
}
