//! Every hypercall with any arguments, one after the other in one domain.

use abi::hypercall::*;
use abi::sched::SCHEDOP_SHUTDOWN;

use crate::hypercall::testing::{ARG, LIST, PAGES, World, destroy, soft_reset};

/// What a guest writes into its memory, or a call: its number, what its first argument is, and numbers that say more.
type Step = (u8, u8, [u64; 5]);

/// Addresses are mostly where there is something.
fn address(word: u64) -> u64 {
    match word % 4 {
        0 => ARG,
        1 => LIST + (word >> 8) % 4096,
        2 => (word >> 8) % (PAGES * 4096),
        _ => word,
    }
}

#[test]
fn hypercalls() {
    bolero::check!().with_type::<Vec<Step>>().for_each(|steps| {
        let mut world = World::new();
        for &(number, operation, words) in steps {
            if number & 0x80 != 0 {
                world.put(
                    words[0] % (PAGES * 4096 - 32),
                    &[words[1], words[2], words[3], words[4]],
                );
                continue;
            }
            let number = u32::from(number) % (HYPERVISOR_HYPFS_OP + 2);
            let mut arguments = words.map(address);
            // Half of the families have the operation first, and small numbers there are the interesting ones.
            if operation & 0x80 == 0 {
                arguments[0] = (operation % 40).into();
            }
            if number == HYPERVISOR_GRANT_TABLE_OP || number == HYPERVISOR_MULTICALL {
                let count = if number == HYPERVISOR_MULTICALL { 1 } else { 2 };
                arguments[count] = words[4] % 16;
            }
            if number == HYPERVISOR_SCHED_OP && arguments[0] == u64::from(SCHEDOP_SHUTDOWN) {
                soft_reset(&world.domain);
                continue;
            }
            let _ = world.call(number, &arguments[..3]);
        }
        destroy(&world.domain);
        assert_eq!(world.domain.total_pages(), 0);
    });
}

/// What dom0 asks of the machine and of other domains with any arguments, of which most mean something.
mod by_dom0 {
    use core::mem::offset_of;

    use abi::domctl::*;
    use abi::domid::DOMID_SELF;
    use abi::event_channel::*;
    use abi::grant::*;
    use abi::hypercall::*;
    use abi::memory::*;
    use abi::platform::*;
    use abi::sched::*;
    use abi::sysctl::*;
    use abi::vcpu::VCPUOP_DOWN;
    use abi::{Domid, Errno, Union};
    use zerocopy::IntoBytes;

    use crate::domain::{Domain, lifecycle, table};
    use crate::hypercall::call;
    use crate::hypercall::testing::{ARG, BAD, LIST, PAGES, World, destroy};
    use crate::mm::guest::write_phys;
    use crate::types::{DomId, Gpa};

    use alloc::sync::Arc;

    /// A call: its family, its operation, which domains it names, and its structure.
    type Step = (u8, u8, u8, [u64; WORDS]);

    const WORDS: usize = 9;

    /// Numbers of calls, as often as they are made; 0 writes to the caller's memory.
    const FAMILIES: [u32; 16] = [
        HYPERVISOR_DOMCTL,
        HYPERVISOR_DOMCTL,
        HYPERVISOR_DOMCTL,
        HYPERVISOR_DOMCTL,
        HYPERVISOR_SYSCTL,
        HYPERVISOR_SYSCTL,
        HYPERVISOR_PLATFORM_OP,
        HYPERVISOR_MEMORY_OP,
        HYPERVISOR_MEMORY_OP,
        HYPERVISOR_HVM_OP,
        HYPERVISOR_EVENT_CHANNEL_OP,
        HYPERVISOR_GRANT_TABLE_OP,
        HYPERVISOR_SCHED_OP,
        HYPERVISOR_VCPU_OP,
        HYPERVISOR_PHYSDEV_OP,
        0,
    ];

    /// Most domains there are beside dom0.
    const MAX_DOMAINS: usize = 4;

    /// What is not called, for the sake of what runs beside it.
    fn is_left_out(number: u32, operation: u32) -> bool {
        match number {
            // The machine goes down with dom0.
            HYPERVISOR_SCHED_OP => operation == SCHEDOP_SHUTDOWN,
            HYPERVISOR_VCPU_OP => operation == VCPUOP_DOWN,
            // There are keys that end the machine.
            HYPERVISOR_SYSCTL => operation == XEN_SYSCTL_DEBUG_KEYS,
            // Domains of other tests see the same time of day.
            HYPERVISOR_PLATFORM_OP => matches!(operation, XENPF_SETTIME32 | XENPF_SETTIME64),
            _ => false,
        }
    }

    /// Where an operation's structure names domains. None of other tests is named.
    fn domids(number: u32, operation: u32) -> &'static [usize] {
        match (number, operation) {
            (HYPERVISOR_MEMORY_OP, XENMEM_EXCHANGE) => {
                const IN: usize = offset_of!(MemoryExchange, in_) + offset_of!(MemoryReservation, domid);
                const OUT: usize = offset_of!(MemoryExchange, out) + offset_of!(MemoryReservation, domid);
                &[IN, OUT]
            }
            (
                HYPERVISOR_MEMORY_OP,
                XENMEM_INCREASE_RESERVATION
                | XENMEM_DECREASE_RESERVATION
                | XENMEM_POPULATE_PHYSMAP
                | XENMEM_CLAIM_PAGES,
            ) => &[offset_of!(MemoryReservation, domid)],
            (HYPERVISOR_MEMORY_OP, XENMEM_ADD_TO_PHYSMAP_BATCH) => &[
                offset_of!(AddToPhysmapBatch, domid),
                offset_of!(AddToPhysmapBatch, foreign_domid),
            ],
            (HYPERVISOR_MEMORY_OP, XENMEM_SET_POD_TARGET | XENMEM_GET_POD_TARGET) => {
                &[offset_of!(PodTarget, domid)]
            }
            (HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_ALLOC_UNBOUND) => &[
                offset_of!(EvtchnAllocUnbound, dom),
                offset_of!(EvtchnAllocUnbound, remote_dom),
            ],
            (HYPERVISOR_GRANT_TABLE_OP, GNTTABOP_MAP_GRANT_REF) => &[offset_of!(GnttabMapGrantRef, dom)],
            (HYPERVISOR_GRANT_TABLE_OP, GNTTABOP_COPY) => &[
                offset_of!(GnttabCopy, source) + offset_of!(GnttabCopyPtr, domid),
                offset_of!(GnttabCopy, dest) + offset_of!(GnttabCopyPtr, domid),
            ],
            (HYPERVISOR_GRANT_TABLE_OP, GNTTABOP_GET_STATUS_FRAMES) => {
                &[offset_of!(GnttabGetStatusFrames, dom)]
            }
            (HYPERVISOR_GRANT_TABLE_OP, GNTTABOP_GET_VERSION) => &[offset_of!(GnttabGetVersion, dom)],
            // It is the first there.
            (
                HYPERVISOR_MEMORY_OP
                | HYPERVISOR_HVM_OP
                | HYPERVISOR_EVENT_CHANNEL_OP
                | HYPERVISOR_GRANT_TABLE_OP
                | HYPERVISOR_SCHED_OP,
                _,
            ) => &[0],
            _ => &[],
        }
    }

    /// 32 bits: small, beside a power of two, or any.
    fn number(seed: u64) -> u64 {
        let rest = seed >> 2;
        match seed % 4 {
            0 | 1 => rest % 24,
            2 => ((1u64 << (rest % 33)) + rest / 64 % 3 - 1) & u64::from(u32::MAX),
            _ => rest & u64::from(u32::MAX),
        }
    }

    /// A word of a structure: an address, one number or two, or anything.
    fn word(seed: u64) -> u64 {
        let rest = seed >> 4;
        match seed % 16 {
            0 | 1 => LIST + rest % 64 * 8,
            2 => rest % (PAGES * 4096),
            3 => BAD + rest % 8,
            4 => 0,
            5..=7 => number(rest),
            8..=12 => number(rest) | number(rest >> 28) << 32,
            13 => (1u64 << (rest % 64)).wrapping_add(rest / 64 % 3).wrapping_sub(1),
            _ => rest | seed << 60,
        }
    }

    /// Of a domain that can be made but for one word.
    fn creation(words: &[u64; WORDS]) -> Union<16> {
        let mut wanted = Union::of(&DomctlCreatedomain {
            flags: XEN_DOMCTL_CDF_HVM | XEN_DOMCTL_CDF_HAP,
            max_vcpus: 1 + words[0] as u32 % 4,
            max_evtchn_port: 300,
            max_grant_frames: 4,
            max_maptrack_frames: 4,
            grant_opts: 2,
            arch: ArchDomainconfig {
                emulation_flags: XEN_X86_EMU_LAPIC,
                ..Default::default()
            },
            ..Default::default()
        });
        if words[1].is_multiple_of(2) {
            wanted.0[words[2] as usize % 8] = word(words[3]);
        }
        wanted
    }

    struct Machine {
        dom0: World,
        /// Two of the domains, with memory.
        _guests: [World; 2],
        domains: Vec<Arc<Domain>>,
    }

    impl Machine {
        fn new() -> Machine {
            let guests = [World::new(), World::new()];
            Machine {
                dom0: World::privileged(),
                domains: guests.iter().map(|guest| guest.domain.clone()).collect(),
                _guests: guests,
            }
        }

        /// A domain that there is, as often as not, or was.
        fn domid(&self, choice: usize) -> Domid {
            match choice % 8 {
                6 => DOMID_SELF,
                7 => DOMID_SELF + 7,
                5 => self.dom0.domain.id.0,
                other => self.domains[other % self.domains.len()].id.0,
            }
        }

        fn step(&mut self, &(family, operation, choice, words): &Step) {
            let number = FAMILIES[usize::from(family) % FAMILIES.len()];
            let choice = usize::from(choice);
            if number == 0 {
                let bytes = words.map(word);
                self.put(words[0] % (PAGES * 4096), bytes.as_bytes());
                return;
            }
            let operation = u32::from(operation) % 90;
            if is_left_out(number, operation) {
                return;
            }
            let mut structure = words.map(word);
            for (index, &at) in domids(number, operation).iter().enumerate() {
                let id = self.domid(choice >> (3 * index));
                structure.as_mut_bytes()[at..at + 2].copy_from_slice(&id.to_le_bytes());
            }
            let u = self.payload(number, operation, choice, &words, &structure);
            let arguments = match number {
                HYPERVISOR_DOMCTL => {
                    let argument = Domctl {
                        cmd: operation,
                        interface_version: XEN_DOMCTL_INTERFACE_VERSION,
                        domain: self.domid(choice),
                        pad: [0; 3],
                        u,
                    };
                    self.put(ARG, argument.as_bytes());
                    [ARG, 0, 0]
                }
                HYPERVISOR_SYSCTL => {
                    let argument = Sysctl {
                        cmd: operation,
                        interface_version: XEN_SYSCTL_INTERFACE_VERSION,
                        u,
                    };
                    self.put(ARG, argument.as_bytes());
                    [ARG, 0, 0]
                }
                HYPERVISOR_PLATFORM_OP => {
                    let argument = PlatformOp {
                        cmd: operation,
                        interface_version: XENPF_INTERFACE_VERSION,
                        u,
                    };
                    self.put(ARG, argument.as_bytes());
                    [ARG, 0, 0]
                }
                _ => {
                    self.put(ARG, structure.as_bytes());
                    match number {
                        HYPERVISOR_VCPU_OP => [operation.into(), words[0] % 4, ARG],
                        // Of a list of one, as the elements behind it would name any domain.
                        _ => [operation.into(), ARG, 1],
                    }
                }
            };
            // Half of the time a call that takes long is given up after a slice.
            let result = if family & 0x80 == 0 {
                self.dom0.call(number, &arguments).ok()
            } else {
                self.dom0
                    .caller(|caller| call(arguments[0], arguments[1], arguments[2], caller, number.into()))
                    .rax()
                    .and_then(|rax| Errno::decode(rax).ok())
            };
            if number == HYPERVISOR_DOMCTL && operation == XEN_DOMCTL_CREATEDOMAIN && result.is_some() {
                let made: Domctl = self.dom0.get(ARG);
                self.domains.push(table::get(DomId(made.domain)).expect("made"));
            }
        }

        /// What a control operation is told.
        fn payload(
            &self,
            number: u32,
            operation: u32,
            choice: usize,
            words: &[u64; WORDS],
            structure: &[u64; WORDS],
        ) -> Union<16> {
            let mut u = Union::of(structure);
            match (number, operation) {
                (HYPERVISOR_DOMCTL, XEN_DOMCTL_CREATEDOMAIN) if self.domains.len() < MAX_DOMAINS => {
                    u = creation(words);
                }
                // Other tests take their memory from the same arena.
                (HYPERVISOR_DOMCTL, XEN_DOMCTL_MAX_MEM) => u.0[0] %= 1024,
                // As long as it is, more often than not, so that its records are looked at.
                (HYPERVISOR_DOMCTL, XEN_DOMCTL_SETHVMCONTEXT) if !words[0].is_multiple_of(4) => {
                    u.set(&DomctlHvmcontext {
                        size: words[0] as u32 % 0x2000,
                        buffer: abi::GuestHandle::new(LIST),
                        ..Default::default()
                    });
                }
                (HYPERVISOR_SYSCTL, XEN_SYSCTL_CPUPOOL_OP) => {
                    let mut request: SysctlCpupoolOp = u.get();
                    request.domid = self.domid(choice).into();
                    // Other tests count the pools that they make.
                    if matches!(
                        request.op,
                        XEN_SYSCTL_CPUPOOL_OP_CREATE | XEN_SYSCTL_CPUPOOL_OP_DESTROY
                    ) {
                        request.op = XEN_SYSCTL_CPUPOOL_OP_INFO;
                    }
                    u.set(&request);
                }
                _ => {}
            }
            u
        }

        /// Write to dom0's memory, if it is there still.
        fn put(&self, at: u64, bytes: &[u8]) {
            let _ = write_phys(&self.dom0.domain.p2m, Gpa(at), bytes);
        }
    }

    #[test]
    fn calls() {
        bolero::check!().with_type::<Vec<Step>>().for_each(|steps| {
            let mut machine = Machine::new();
            steps.iter().for_each(|step| machine.step(step));
            let all = || machine.domains.iter().chain([&machine.dom0.domain]);
            all().for_each(|domain| _ = destroy(domain));
            lifecycle::reap();
            for domain in all() {
                assert_eq!(domain.total_pages(), 0, "{}", domain.id);
            }
        });
    }
}
