//! `event_channel_op`.

use alloc::format;

use abi::domid::DOMID_SELF;
use abi::event_channel::*;
use abi::hypercall::*;
use guests::hypercall::{call, op};
use guests::report::Report;
use zerocopy::FromZeros;

use super::{EEXIST, EINVAL, ENOENT, ENOSYS, ESRCH, NOBODY, bad_pointers};

fn status(port: u32) -> Result<u32, i64> {
    let mut argument = EvtchnStatus {
        dom: DOMID_SELF,
        port,
        ..FromZeros::new_zeroed()
    };
    match op(HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_STATUS, &mut argument) {
        0 => Ok(argument.status),
        error => Err(error),
    }
}

pub fn events(report: &mut Report) {
    const NUMBER: u32 = HYPERVISOR_EVENT_CHANNEL_OP;
    let mut unbound = EvtchnAllocUnbound {
        dom: DOMID_SELF,
        remote_dom: DOMID_SELF,
        port: 0,
    };
    report.equal(
        "event-alloc-unbound",
        op(NUMBER, EVTCHNOP_ALLOC_UNBOUND, &mut unbound),
        0,
    );
    let port = unbound.port;
    report.check("event-port-is-not-0", port > 0, format!("{port}"));
    report.equal("event-status-unbound", status(port), Ok(EVTCHNSTAT_UNBOUND));
    let mut pair = EvtchnBindInterdomain {
        remote_dom: DOMID_SELF,
        remote_port: port,
        ..FromZeros::new_zeroed()
    };
    report.equal(
        "event-bind-interdomain",
        op(NUMBER, EVTCHNOP_BIND_INTERDOMAIN, &mut pair),
        0,
    );
    let other = pair.local_port;
    report.equal(
        "event-status-interdomain",
        status(other),
        Ok(EVTCHNSTAT_INTERDOMAIN),
    );
    let again = op(NUMBER, EVTCHNOP_BIND_INTERDOMAIN, &mut pair.clone());
    report.equal("event-bind-twice", again, EINVAL);
    report.equal(
        "event-send",
        op(NUMBER, EVTCHNOP_SEND, &mut EvtchnPortArg { port: other }),
        0,
    );
    report.equal(
        "event-close",
        op(NUMBER, EVTCHNOP_CLOSE, &mut EvtchnPortArg { port: other }),
        0,
    );
    report.equal("event-other-end-unbound", status(port), Ok(EVTCHNSTAT_UNBOUND));
    report.equal("event-status-closed", status(other), Ok(EVTCHNSTAT_CLOSED));
    report.equal(
        "event-close-2",
        op(NUMBER, EVTCHNOP_CLOSE, &mut EvtchnPortArg { port }),
        0,
    );
    report.equal(
        "event-close-closed",
        op(NUMBER, EVTCHNOP_CLOSE, &mut EvtchnPortArg { port }),
        EINVAL,
    );
    report.equal(
        "event-send-closed",
        op(NUMBER, EVTCHNOP_SEND, &mut EvtchnPortArg { port }),
        EINVAL,
    );
    for (name, port) in [("0", 0), ("beyond", 1 << 20), ("max", u32::MAX)] {
        let answer = op(NUMBER, EVTCHNOP_SEND, &mut EvtchnPortArg { port });
        report.equal(&format!("event-send-{name}"), answer, EINVAL);
    }
    report.equal(
        "event-close-max",
        op(NUMBER, EVTCHNOP_CLOSE, &mut EvtchnPortArg { port: u32::MAX }),
        EINVAL,
    );
    report.equal("event-status-max", status(u32::MAX), Err(EINVAL));
    let mut foreign = EvtchnAllocUnbound {
        dom: NOBODY,
        remote_dom: 0,
        port: 0,
    };
    report.equal(
        "event-alloc-nobody",
        op(NUMBER, EVTCHNOP_ALLOC_UNBOUND, &mut foreign),
        ESRCH,
    );
    virqs_and_ipis(report);
    let mut unmask = EvtchnPortArg { port: u32::MAX };
    report.equal(
        "event-unmask-max",
        op(NUMBER, EVTCHNOP_UNMASK, &mut unmask),
        EINVAL,
    );
    report.equal("event-unknown", call(NUMBER, [99, 0, 0, 0, 0]), ENOSYS);
    bad_pointers(report, "event-send", NUMBER, EVTCHNOP_SEND);
    bad_pointers(report, "event-alloc-unbound", NUMBER, EVTCHNOP_ALLOC_UNBOUND);
}

fn virqs_and_ipis(report: &mut Report) {
    const NUMBER: u32 = HYPERVISOR_EVENT_CHANNEL_OP;
    let mut virq = EvtchnBindVirq {
        virq: VIRQ_TIMER,
        vcpu: 0,
        port: 0,
    };
    report.equal("event-bind-virq", op(NUMBER, EVTCHNOP_BIND_VIRQ, &mut virq), 0);
    report.equal("event-status-virq", status(virq.port), Ok(EVTCHNSTAT_VIRQ));
    let again = op(NUMBER, EVTCHNOP_BIND_VIRQ, &mut virq.clone());
    report.equal("event-bind-virq-twice", again, EEXIST);
    let mut bad = EvtchnBindVirq { virq: 24, ..virq };
    report.equal(
        "event-bind-virq-unknown",
        op(NUMBER, EVTCHNOP_BIND_VIRQ, &mut bad),
        EINVAL,
    );
    let mut bad = EvtchnBindVirq { vcpu: 500, ..virq };
    report.equal(
        "event-bind-virq-vcpu",
        op(NUMBER, EVTCHNOP_BIND_VIRQ, &mut bad),
        ENOENT,
    );
    let mut ipi = EvtchnBindIpi { vcpu: 0, port: 0 };
    report.equal("event-bind-ipi", op(NUMBER, EVTCHNOP_BIND_IPI, &mut ipi), 0);
    report.equal("event-status-ipi", status(ipi.port), Ok(EVTCHNSTAT_IPI));
    let mut bad = EvtchnBindIpi { vcpu: 500, port: 0 };
    report.equal(
        "event-bind-ipi-vcpu",
        op(NUMBER, EVTCHNOP_BIND_IPI, &mut bad),
        ENOENT,
    );
    let mut to = EvtchnBindVcpu {
        port: ipi.port,
        vcpu: 0,
    };
    let answer = op(NUMBER, EVTCHNOP_BIND_VCPU, &mut to);
    report.equal("event-bind-vcpu-of-ipi", answer, EINVAL);
    let mut to = EvtchnBindVcpu {
        port: virq.port,
        vcpu: 500,
    };
    report.equal(
        "event-bind-vcpu-vcpu",
        op(NUMBER, EVTCHNOP_BIND_VCPU, &mut to),
        ENOENT,
    );
    for port in [ipi.port, virq.port] {
        let unmasked = op(NUMBER, EVTCHNOP_UNMASK, &mut EvtchnPortArg { port });
        report.equal("event-unmask", unmasked, 0);
        report.equal(
            "event-close",
            op(NUMBER, EVTCHNOP_CLOSE, &mut EvtchnPortArg { port }),
            0,
        );
    }
}
