//! Bindings against a model: what each port of two domains is bound to, after any sequence of operations.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::hypercall::testing::World;

#[derive(Clone, Debug)]
enum Op {
    AllocUnbound(usize, usize),
    Bind(usize, u32),
    BindIpi(usize, u32),
    BindVirq(usize, u32, u32),
    BindVcpu(usize, u32, u32),
    Close(usize, u32),
    Send(usize, u32),
}

fn op() -> impl Strategy<Value = Op> {
    let dom = 0..2usize;
    let port = 0..10u32;
    let vcpu = 0..4u32;
    prop_oneof![
        (dom.clone(), dom.clone()).prop_map(|(d, remote)| Op::AllocUnbound(d, remote)),
        (dom.clone(), port.clone()).prop_map(|(d, port)| Op::Bind(d, port)),
        (dom.clone(), vcpu.clone()).prop_map(|(d, vcpu)| Op::BindIpi(d, vcpu)),
        (dom.clone(), 0..4u32, vcpu.clone()).prop_map(|(d, virq, vcpu)| Op::BindVirq(d, virq, vcpu)),
        (dom.clone(), port.clone(), vcpu).prop_map(|(d, port, vcpu)| Op::BindVcpu(d, port, vcpu)),
        (dom.clone(), port.clone()).prop_map(|(d, port)| Op::Close(d, port)),
        (dom, port).prop_map(|(d, port)| Op::Send(d, port)),
    ]
}

/// A port of the model: what it is, and whom it notifies.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Model {
    Unbound(usize),
    Connected(usize, u32),
    Ipi,
    Virq(u32),
}

type Ports = BTreeMap<u32, (Model, u32)>;

const VCPUS: u32 = 3;

fn lowest_free(ports: &Ports) -> u32 {
    (1..).find(|port| !ports.contains_key(port)).expect("endless")
}

/// What `op` gives, having changed the model: the port that it made, or whether it succeeded.
fn apply(model: &mut [Ports; 2], op: &Op, other_waits: Option<(usize, u32)>) -> Option<u32> {
    let mut bind = |dom: usize, entry| {
        let port = lowest_free(&model[dom]);
        model[dom].insert(port, entry);
        Some(port)
    };
    match *op {
        Op::AllocUnbound(dom, remote) => bind(dom, (Model::Unbound(remote), 0)),
        Op::Bind(dom, _) => {
            let (remote, there) = other_waits?;
            let here = bind(dom, (Model::Connected(remote, there), 0))?;
            let vcpu = model[remote][&there].1;
            model[remote].insert(there, (Model::Connected(dom, here), vcpu));
            Some(here)
        }
        Op::BindIpi(dom, vcpu) => (vcpu < VCPUS).then(|| bind(dom, (Model::Ipi, vcpu)))?,
        Op::BindVirq(dom, virq, vcpu) => {
            let taken = model[dom]
                .values()
                .any(|&(kind, at)| kind == Model::Virq(virq) && (is_global(virq) || at == vcpu));
            let allowed = vcpu < VCPUS && (!is_global(virq) || vcpu == 0) && !taken;
            let port = lowest_free(&model[dom]);
            allowed.then(|| model[dom].insert(port, (Model::Virq(virq), vcpu)));
            allowed.then_some(port)
        }
        Op::BindVcpu(dom, port, vcpu) => {
            let (kind, at) = model[dom].get_mut(&port).filter(|_| vcpu < VCPUS)?;
            let movable = match kind {
                Model::Ipi => false,
                Model::Virq(virq) => is_global(*virq),
                _ => true,
            };
            movable.then(|| *at = vcpu)?;
            Some(0)
        }
        Op::Close(dom, port) => {
            if let (Model::Connected(remote, there), _) = model[dom].remove(&port)?
                && let Some(entry) = model[remote].get_mut(&there)
            {
                entry.0 = Model::Unbound(dom);
            }
            Some(0)
        }
        Op::Send(dom, port) => (!matches!(model[dom].get(&port)?.0, Model::Virq(_))).then_some(0),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn bindings_are_as_the_model_says(ops in proptest::collection::vec(op(), 1..60)) {
        let worlds = [World::new(), World::new()];
        let domain = |dom: usize| &worlds[dom].domain;
        let mut model = [Ports::new(), Ports::new()];
        for op in &ops {
            let waits = match *op {
                // The lowest port of the other domain, or its own, that waits for `dom`, shifted by what was drawn.
                Op::Bind(dom, port) => [1 - dom, dom].into_iter().find_map(|remote| {
                    (model[remote].get(&port)?.0 == Model::Unbound(dom)).then_some((remote, port))
                }),
                _ => None,
            };
            let done = match *op {
                Op::AllocUnbound(dom, remote) => alloc_unbound(domain(dom), domain(remote).id).ok().map(|port| port.0),
                Op::Bind(dom, port) => {
                    let remote = waits.map_or(1 - dom, |(remote, _)| remote);
                    bind_interdomain(domain(dom), domain(remote), Port(port)).ok().map(|port| port.0)
                }
                Op::BindIpi(dom, vcpu) => bind_ipi(domain(dom), VcpuId(vcpu)).ok().map(|port| port.0),
                Op::BindVirq(dom, virq, vcpu) => bind_virq(domain(dom), virq, VcpuId(vcpu)).ok().map(|port| port.0),
                Op::BindVcpu(dom, port, vcpu) => bind_vcpu(domain(dom), Port(port), VcpuId(vcpu)).ok().map(|()| 0),
                Op::Close(dom, port) => close(domain(dom), Port(port)).ok().map(|()| 0),
                Op::Send(dom, port) => send(domain(dom), Port(port)).ok().map(|()| 0),
            };
            prop_assert_eq!(done, apply(&mut model, op, waits), "{:?}", op);
            for (dom, ports) in model.iter().enumerate() {
                for port in 0..24 {
                    let binding = domain(dom).events.get(Port(port)).unwrap_or(Channel::FREE);
                    let expected = ports.get(&port).map_or(Channel::FREE, |&(kind, vcpu)| Channel {
                        binding: match kind {
                            Model::Unbound(remote) => Binding::Unbound { remote: domain(remote).id },
                            Model::Connected(remote, port) => {
                                Binding::Interdomain { remote: domain(remote).id, port: Port(port) }
                            }
                            Model::Ipi => Binding::Ipi,
                            Model::Virq(virq) => Binding::Virq(virq),
                        },
                        vcpu: VcpuId(vcpu),
                    });
                    prop_assert_eq!(binding, expected, "port {} of {} after {:?}", port, dom, op);
                }
            }
        }
    }
}

/// A peer leaves the table between a look at the port and a look for the peer: it has closed the port then, which is still there to be freed.
#[test]
fn a_port_is_closed_though_its_peer_goes_meanwhile() {
    let world = World::new();
    let domain = &world.domain;
    let port = alloc_unbound(domain, domain.id).expect("a port");
    let bound = |binding| Channel {
        binding,
        vcpu: VcpuId(0),
    };
    // Never a number of a domain.
    let remote = DomId(0x7fff);
    let stale = Binding::Interdomain {
        remote,
        port: Port(1),
    };
    domain.events.ports.set(port, bound(stale));
    std::thread::scope(|scope| {
        let closing = scope.spawn(|| close(domain, port));
        std::thread::sleep(std::time::Duration::from_millis(20));
        domain.events.ports.set(port, bound(Binding::Unbound { remote }));
        assert_eq!(closing.join().expect("no panic"), Ok(()));
    });
    assert_eq!(domain.events.get(port).expect("in range").binding, Binding::Free);
}
