//! Called well and badly: XEN_DOMCTL_soft_reset.

use abi::Errno;
use abi::domctl::{Domctl, XEN_DOMCTL_INTERFACE_VERSION, XEN_DOMCTL_SOFT_RESET};
use abi::domid::DOMID_SELF;
use abi::event_channel::*;
use abi::hypercall::*;
use abi::memory::{AddToPhysmap, XENMAPSPACE_SHARED_INFO, XENMEM_ADD_TO_PHYSMAP};
use abi::sched::SHUTDOWN_SOFT_RESET;
use abi::vcpu::*;

use crate::domain::lifecycle;
use crate::event::Binding;
use crate::hypercall::testing::{ARG, LIST, PAGES, World};
use crate::types::{DomId, Gfn, Port, VcpuId};

const EVTCHN: u32 = HYPERVISOR_EVENT_CHANNEL_OP;
/// Frames of the guest's.
const VCPU_INFO: u64 = 6;
const SHARED_INFO: u64 = 7;
const CONTROL: u64 = 8;
const RUNSTATE: u64 = 0x9000;

fn reset(dom0: &mut World, domain: DomId) -> Result<u64, Errno> {
    let request = Domctl {
        cmd: XEN_DOMCTL_SOFT_RESET,
        interface_version: XEN_DOMCTL_INTERFACE_VERSION,
        domain: domain.0,
        ..Default::default()
    };
    dom0.put(ARG, &request);
    dom0.call(HYPERVISOR_DOMCTL, &[ARG])
}

/// What a kernel sets up: shared memory, ports, FIFO delivery. Its answers.
fn set_up(guest: &mut World) -> [Result<u64, Errno>; 4] {
    let mut place = AddToPhysmap {
        domid: DOMID_SELF,
        space: XENMAPSPACE_SHARED_INFO,
        gpfn: SHARED_INFO,
        ..Default::default()
    };
    let info = VcpuRegisterVcpuInfo {
        mfn: VCPU_INFO,
        ..Default::default()
    };
    let mut control = EvtchnInitControl {
        control_gfn: CONTROL,
        ..Default::default()
    };
    guest.put(LIST, &info);
    guest.put(LIST + 64, &RUNSTATE);
    let mut vcpu_op = |operation: u32, at| guest.call(HYPERVISOR_VCPU_OP, &[operation.into(), 0, at]);
    let info = vcpu_op(VCPUOP_REGISTER_VCPU_INFO, LIST);
    let runstate = vcpu_op(VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA, LIST + 64);
    [
        info,
        runstate,
        guest.op(HYPERVISOR_MEMORY_OP, XENMEM_ADD_TO_PHYSMAP, &mut place),
        guest.op(EVTCHN, EVTCHNOP_INIT_CONTROL, &mut control),
    ]
}

#[test]
fn a_domain_begins_anew_in_its_memory() {
    let (mut dom0, mut guest) = (World::privileged(), World::new());
    let domain = guest.domain.clone();
    let at = || domain.p2m.lookup(Gfn(SHARED_INFO)).expect("mapped").mfn;
    assert_eq!(set_up(&mut guest), [Ok(0); 4]);
    assert_eq!(at(), domain.shared_info.mfn());
    // More than are closed in one go, one of them connected.
    let mut ipi = EvtchnBindIpi::default();
    for _ in 0..100 {
        assert_eq!(guest.op(EVTCHN, EVTCHNOP_BIND_IPI, &mut ipi), Ok(0));
    }
    let mut unbound = EvtchnAllocUnbound {
        dom: DOMID_SELF,
        remote_dom: dom0.domain.id.0,
        ..Default::default()
    };
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_ALLOC_UNBOUND, &mut unbound), Ok(0));
    let mut bind = EvtchnBindInterdomain {
        remote_dom: domain.id.0,
        remote_port: unbound.port,
        ..Default::default()
    };
    assert_eq!(dom0.op(EVTCHN, EVTCHNOP_BIND_INTERDOMAIN, &mut bind), Ok(0));
    guest.put(0x3000, &0x1234u64);

    assert_eq!(reset(&mut dom0, domain.id), Err(Errno::EINVAL), "it runs");
    domain.shutdown(SHUTDOWN_SOFT_RESET);
    assert_eq!(reset(&mut dom0, domain.id), Ok(0));

    assert_eq!(domain.shutdown_reason(), None);
    assert_eq!(domain.events.bound(), 0);
    let other = dom0.domain.events.get(Port(bind.local_port)).expect("a port");
    assert_eq!(other.binding, Binding::Unbound { remote: domain.id });
    let vcpu = domain.vcpu(VcpuId(0)).expect("first");
    let info = vcpu.events.with_info(|frame, at| (frame.mfn(), at));
    assert_eq!(info, Some((domain.shared_info.mfn(), 0)));
    assert_ne!(at(), domain.shared_info.mfn(), "RAM again");
    assert_eq!(guest.get::<u64>(SHARED_INFO * 4096), 0);
    assert_eq!(domain.total_pages(), PAGES);
    assert_eq!(guest.get::<u64>(0x3000), 0x1234, "its memory stays");
    guest.put(RUNSTATE, &[0u64; 6]);
    vcpu.areas.change_state(RUNSTATE_RUNNABLE, 1000);
    vcpu.areas.change_state(RUNSTATE_RUNNING, 2000);
    assert_eq!(guest.get::<[u64; 6]>(RUNSTATE), [0; 6], "nobody writes there");
    let mut word = EvtchnExpandArray {
        array_gfn: CONTROL + 1,
    };
    assert_eq!(
        guest.op(EVTCHN, EVTCHNOP_EXPAND_ARRAY, &mut word),
        Err(Errno::EOPNOTSUPP),
        "2-level delivery"
    );

    // The next kernel has all that the first one had.
    assert_eq!(set_up(&mut guest), [Ok(0); 4]);
    assert_eq!(at(), domain.shared_info.mfn());
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_BIND_IPI, &mut ipi), Ok(0));
    assert_eq!(ipi.port, 1);
}

#[test]
fn who_cannot_begin_anew() {
    let (mut dom0, mut guest) = (World::privileged(), World::new());
    let (own, id) = (dom0.domain.id, guest.domain.id);
    assert_eq!(reset(&mut guest, own), Err(Errno::EPERM));
    assert_eq!(reset(&mut dom0, own), Err(Errno::EINVAL));
    assert_eq!(reset(&mut dom0, DomId(0x7000)), Err(Errno::ESRCH));
    guest.domain.shutdown(SHUTDOWN_SOFT_RESET);
    let _ = lifecycle::destroy_some(&guest.domain);
    assert_eq!(reset(&mut dom0, id), Err(Errno::EINVAL), "it is being destroyed");
}
