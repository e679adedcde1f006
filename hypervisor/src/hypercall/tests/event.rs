//! Called well and badly: event channels.

use abi::Errno;
use abi::domid::DOMID_SELF;
use abi::event_channel::*;
use abi::hypercall::*;

use crate::domain::Config;
use crate::hypercall::testing::{ARG, World, config, destroy};
use crate::types::{Port, VcpuId};

const EVTCHN: u32 = HYPERVISOR_EVENT_CHANNEL_OP;

#[test]
fn events_within_a_domain() {
    let mut guest = World::new();
    let mut ipi = EvtchnBindIpi { vcpu: 1, port: 0 };
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_BIND_IPI, &mut ipi), Ok(0));
    assert_eq!(ipi.port, 1);
    let mut port = EvtchnPortArg { port: ipi.port };
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_SEND, &mut port), Ok(0));
    assert!(
        guest
            .domain
            .vcpu(VcpuId(1))
            .expect("vcpu")
            .events
            .upcall_pending()
    );
    assert!(
        !guest
            .domain
            .vcpu(VcpuId(0))
            .expect("vcpu")
            .events
            .upcall_pending()
    );
    let mut status = EvtchnStatus {
        dom: DOMID_SELF,
        port: 1,
        ..Default::default()
    };
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_STATUS, &mut status), Ok(0));
    assert_eq!((status.status, status.vcpu), (EVTCHNSTAT_IPI, 1));
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_UNMASK, &mut port), Ok(0));
    let mut bind = EvtchnBindVcpu { port: 1, vcpu: 0 };
    assert_eq!(
        guest.op(EVTCHN, EVTCHNOP_BIND_VCPU, &mut bind),
        Err(Errno::EINVAL),
        "an IPI stays"
    );
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_CLOSE, &mut port), Ok(0));
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_CLOSE, &mut port), Err(Errno::EINVAL));
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_SEND, &mut port), Err(Errno::EINVAL));
    ipi.vcpu = 3;
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_BIND_IPI, &mut ipi), Err(Errno::ENOENT));
    port.port = u32::MAX;
    for operation in [EVTCHNOP_SEND, EVTCHNOP_CLOSE, EVTCHNOP_UNMASK] {
        assert_eq!(guest.op(EVTCHN, operation, &mut port), Err(Errno::EINVAL));
    }
    for operation in (0..=13).chain([EVTCHNOP_RESET_CONT]) {
        guest.faults(EVTCHN, operation);
    }
    assert_eq!(guest.call(EVTCHN, &[15, ARG]), Err(Errno::ENOSYS));
}

#[test]
fn fifo_delivery() {
    let mut guest = World::with(Config {
        max_evtchn_port: u32::MAX,
        ..config(false)
    });
    let mut ipi = EvtchnBindIpi { vcpu: 1, port: 0 };
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_BIND_IPI, &mut ipi), Ok(0));
    let mut priority = EvtchnSetPriority {
        port: ipi.port,
        priority: 0,
    };
    assert_eq!(
        guest.op(EVTCHN, EVTCHNOP_SET_PRIORITY, &mut priority),
        Err(Errno::ENOSYS),
        "2-level has none"
    );
    let mut expand = EvtchnExpandArray { array_gfn: 5 };
    assert_eq!(
        guest.op(EVTCHN, EVTCHNOP_EXPAND_ARRAY, &mut expand),
        Err(Errno::EOPNOTSUPP)
    );
    let good = EvtchnInitControl {
        control_gfn: 4,
        offset: 4096 - 72,
        vcpu: 1,
        ..Default::default()
    };
    for (bad, error) in [
        (EvtchnInitControl { vcpu: 3, ..good }, Errno::ENOENT),
        (
            EvtchnInitControl {
                vcpu: u32::MAX,
                ..good
            },
            Errno::ENOENT,
        ),
        (
            EvtchnInitControl {
                offset: 4096 - 64,
                ..good
            },
            Errno::EINVAL,
        ),
        (
            EvtchnInitControl {
                offset: u32::MAX,
                ..good
            },
            Errno::EINVAL,
        ),
        (EvtchnInitControl { offset: 4, ..good }, Errno::EINVAL),
        (
            EvtchnInitControl {
                control_gfn: 0x999,
                ..good
            },
            Errno::EINVAL,
        ),
        (
            EvtchnInitControl {
                control_gfn: u64::MAX,
                ..good
            },
            Errno::EINVAL,
        ),
    ] {
        let mut init = bad;
        assert_eq!(
            guest.op(EVTCHN, EVTCHNOP_INIT_CONTROL, &mut init),
            Err(error),
            "{bad:?}"
        );
    }
    let mut init = good;
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_INIT_CONTROL, &mut init), Ok(0));
    assert_eq!(init.link_bits, 17);
    assert_eq!(
        guest.op(EVTCHN, EVTCHNOP_INIT_CONTROL, &mut init),
        Err(Errno::EINVAL),
        "it has one"
    );
    expand.array_gfn = 0x999;
    assert_eq!(
        guest.op(EVTCHN, EVTCHNOP_EXPAND_ARRAY, &mut expand),
        Err(Errno::EINVAL)
    );
    expand.array_gfn = 5;
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_EXPAND_ARRAY, &mut expand), Ok(0));
    for (port, value, error) in [
        (ipi.port, 16, Errno::EINVAL),
        (ipi.port, u32::MAX, Errno::EINVAL),
        (ipi.port + 1, 0, Errno::EACCES),
        (200_000, 0, Errno::EINVAL),
    ] {
        let mut bad = EvtchnSetPriority {
            port,
            priority: value,
        };
        assert_eq!(guest.op(EVTCHN, EVTCHNOP_SET_PRIORITY, &mut bad), Err(error));
    }
    priority.priority = 3;
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_SET_PRIORITY, &mut priority), Ok(0));
    let mut port = EvtchnPortArg { port: ipi.port };
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_SEND, &mut port), Ok(0));
    let control = 0x4000 + 4096 - 72;
    assert_eq!(guest.get::<u32>(control), 1 << 3, "ready");
    assert_eq!(guest.get::<u32>(control + 8 + 3 * 4), ipi.port, "head");
    let vcpu = guest.domain.vcpu(VcpuId(1)).expect("vcpu").clone();
    assert!(vcpu.events.upcall_pending());
    // A page for every port there can be, and none more; the last port is sent on.
    for _ in 1..128 {
        assert_eq!(guest.op(EVTCHN, EVTCHNOP_EXPAND_ARRAY, &mut expand), Ok(0));
    }
    assert_eq!(
        guest.op(EVTCHN, EVTCHNOP_EXPAND_ARRAY, &mut expand),
        Err(Errno::ENOSPC)
    );
    for port in ipi.port + 1..EVTCHN_FIFO_NR_CHANNELS {
        // One page stands for all here: where a word is linked, so are its namesakes.
        guest.put(0x5000, &[0u8; 4096]);
        assert_eq!(crate::event::bind_ipi(&guest.domain, VcpuId(1)), Ok(Port(port)));
    }
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_BIND_IPI, &mut ipi), Err(Errno::ENOSPC));
    port.port = EVTCHN_FIFO_NR_CHANNELS - 1;
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_SEND, &mut port), Ok(0));
    assert_eq!(guest.get::<u32>(0x5000 + 4092) >> 29 & 5, 5, "pending and linked");
    // Reset goes back to 2-level, in slices.
    let mut reset = EvtchnReset { dom: DOMID_SELF };
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_RESET, &mut reset), Ok(0));
    assert_eq!(
        guest.op(EVTCHN, EVTCHNOP_EXPAND_ARRAY, &mut expand),
        Err(Errno::EOPNOTSUPP)
    );
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_BIND_IPI, &mut ipi), Ok(0));
    assert_eq!(ipi.port, 1);
    assert_eq!(
        guest.op(EVTCHN, EVTCHNOP_INIT_CONTROL, &mut init),
        Ok(0),
        "and once more"
    );
}

#[test]
fn virtual_interrupts() {
    let mut guest = World::new();
    let mut bind = EvtchnBindVirq {
        virq: VIRQ_TIMER,
        vcpu: 2,
        port: 0,
    };
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_BIND_VIRQ, &mut bind), Ok(0));
    assert_eq!(
        guest.op(EVTCHN, EVTCHNOP_BIND_VIRQ, &mut bind),
        Err(Errno::EEXIST)
    );
    crate::event::raise_virq(&guest.domain, VcpuId(1), VIRQ_TIMER);
    assert!(!crate::event::any_pending(&guest.domain, &[Port(bind.port)]));
    crate::event::raise_virq(&guest.domain, VcpuId(2), VIRQ_TIMER);
    assert!(crate::event::any_pending(&guest.domain, &[Port(bind.port)]));
    assert!(
        guest
            .domain
            .vcpu(VcpuId(2))
            .expect("vcpu")
            .events
            .upcall_pending()
    );
    let mut port = EvtchnPortArg { port: bind.port };
    assert_eq!(
        guest.op(EVTCHN, EVTCHNOP_SEND, &mut port),
        Err(Errno::EINVAL),
        "not for guests to send"
    );
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_CLOSE, &mut port), Ok(0));
    assert!(
        !crate::event::any_pending(&guest.domain, &[Port(bind.port)]),
        "closing clears"
    );
    assert_eq!(
        guest.op(EVTCHN, EVTCHNOP_BIND_VIRQ, &mut bind),
        Ok(0),
        "free again"
    );
    for (virq, vcpu, error) in [
        (NR_VIRQS as u32, 0, Errno::EINVAL),
        (VIRQ_CONSOLE, 1, Errno::EINVAL),
        (VIRQ_TIMER, 3, Errno::ENOENT),
        (u32::MAX, 0, Errno::EINVAL),
    ] {
        let mut bind = EvtchnBindVirq { virq, vcpu, port: 0 };
        assert_eq!(guest.op(EVTCHN, EVTCHNOP_BIND_VIRQ, &mut bind), Err(error));
    }
    let mut global = EvtchnBindVirq {
        virq: VIRQ_CONSOLE,
        vcpu: 0,
        port: 0,
    };
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_BIND_VIRQ, &mut global), Ok(0));
    let mut moved = EvtchnBindVcpu {
        port: global.port,
        vcpu: 1,
    };
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_BIND_VCPU, &mut moved), Ok(0));
    let mut port = EvtchnPortArg { port: global.port };
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_CLOSE, &mut port), Ok(0));
    assert_eq!(
        guest.op(EVTCHN, EVTCHNOP_BIND_VIRQ, &mut global),
        Ok(0),
        "was found although it had moved"
    );
}

#[test]
fn events_between_domains() {
    let (mut a, mut b) = (World::new(), World::new());
    let mut alloc = EvtchnAllocUnbound {
        dom: DOMID_SELF,
        remote_dom: b.domain.id.0,
        port: 0,
    };
    assert_eq!(a.op(EVTCHN, EVTCHNOP_ALLOC_UNBOUND, &mut alloc), Ok(0));
    let mut send = EvtchnPortArg { port: alloc.port };
    assert_eq!(
        a.op(EVTCHN, EVTCHNOP_SEND, &mut send),
        Ok(0),
        "nobody is there yet"
    );
    let mut bind = EvtchnBindInterdomain {
        remote_dom: a.domain.id.0,
        remote_port: alloc.port,
        ..Default::default()
    };
    assert_eq!(b.op(EVTCHN, EVTCHNOP_BIND_INTERDOMAIN, &mut bind), Ok(0));
    assert!(
        crate::event::any_pending(&b.domain, &[Port(bind.local_port)]),
        "in case one was lost"
    );
    assert_eq!(
        b.op(EVTCHN, EVTCHNOP_BIND_INTERDOMAIN, &mut bind),
        Err(Errno::EINVAL),
        "taken"
    );
    assert_eq!(
        b.op(
            EVTCHN,
            EVTCHNOP_SEND,
            &mut EvtchnPortArg {
                port: bind.local_port
            }
        ),
        Ok(0)
    );
    assert!(crate::event::any_pending(&a.domain, &[Port(alloc.port)]));
    let mut status = EvtchnStatus {
        dom: DOMID_SELF,
        port: alloc.port,
        ..Default::default()
    };
    assert_eq!(a.op(EVTCHN, EVTCHNOP_STATUS, &mut status), Ok(0));
    assert_eq!(
        (status.status, status.u),
        (EVTCHNSTAT_INTERDOMAIN, [b.domain.id.0.into(), bind.local_port])
    );
    // Not another's business.
    let other = EvtchnAllocUnbound {
        dom: b.domain.id.0,
        remote_dom: DOMID_SELF,
        port: 0,
    };
    assert_eq!(
        a.op(EVTCHN, EVTCHNOP_ALLOC_UNBOUND, &mut other.clone()),
        Err(Errno::EPERM)
    );
    let mut reset = EvtchnReset { dom: b.domain.id.0 };
    assert_eq!(a.op(EVTCHN, EVTCHNOP_RESET, &mut reset), Err(Errno::EPERM));
    let mut nobody = EvtchnAllocUnbound { dom: 0x7000, ..other };
    assert_eq!(
        a.op(EVTCHN, EVTCHNOP_ALLOC_UNBOUND, &mut nobody),
        Err(Errno::ESRCH)
    );
    // A domain's death leaves the other end waiting.
    destroy(&b.domain);
    assert_eq!(a.op(EVTCHN, EVTCHNOP_STATUS, &mut status), Ok(0));
    assert_eq!(
        (status.status, status.u[0]),
        (EVTCHNSTAT_UNBOUND, b.domain.id.0.into())
    );
    let mut reset = EvtchnReset { dom: DOMID_SELF };
    assert_eq!(a.op(EVTCHN, EVTCHNOP_RESET, &mut reset), Ok(0));
    assert_eq!(a.op(EVTCHN, EVTCHNOP_STATUS, &mut status), Ok(0));
    assert_eq!(status.status, EVTCHNSTAT_CLOSED);
}

#[test]
fn ports_run_out() {
    let mut guest = World::with(Config {
        max_evtchn_port: 5,
        ..config(false)
    });
    for port in 1..=5 {
        let mut alloc = EvtchnAllocUnbound {
            dom: DOMID_SELF,
            remote_dom: DOMID_SELF,
            port: 0,
        };
        assert_eq!(guest.op(EVTCHN, EVTCHNOP_ALLOC_UNBOUND, &mut alloc), Ok(0));
        assert_eq!(alloc.port, port);
    }
    let mut alloc = EvtchnAllocUnbound {
        dom: DOMID_SELF,
        remote_dom: DOMID_SELF,
        port: 0,
    };
    assert_eq!(
        guest.op(EVTCHN, EVTCHNOP_ALLOC_UNBOUND, &mut alloc),
        Err(Errno::ENOSPC)
    );
    let mut port = EvtchnPortArg { port: 6 };
    assert_eq!(guest.op(EVTCHN, EVTCHNOP_SEND, &mut port), Err(Errno::EINVAL));
}
