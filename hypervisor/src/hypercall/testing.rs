//! A domain, and a CPU of it that makes hypercalls, for tests.

use abi::sched::SHUTDOWN_SOFT_RESET;
use abi::{Errno, Layout};
use arrayvec::ArrayVec;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Args, Caller, call, call_compat};
use crate::arch::{GuestCpu, NestedFormat, fake};
use crate::domain::vcpu::Hold;
use crate::domain::{Config, Domain, lifecycle, soft_reset, table};
use crate::mm::guest::{WalkCache, read_phys, write_phys};
use crate::types::{Gfn, Gpa, VcpuId};
use crate::virt::cpuid::{self, Policy};
use crate::virt::lapic::Lapic;
use crate::virt::msr::Msrs;

use alloc::sync::Arc;

/// Where tests put arguments; paging is off, so that this is both virtual and physical.
pub const ARG: u64 = 0x1000;
/// A second place.
pub const LIST: u64 = 0x2000;
/// An address that is not mapped.
pub const BAD: u64 = 0x7000_0000;
/// Small pages of RAM from 0 on.
pub const PAGES: u64 = 16;

/// A domain that is destroyed with the value, and its first vCPU's registers.
pub struct World {
    pub domain: Arc<Domain>,
    pub cpu: fake::Vcpu,
    pub walks: WalkCache,
    lapic: Lapic,
    policy: Policy,
    msrs: Msrs,
    /// Arguments of a call that is to go on.
    next: ArrayVec<u64, 3>,
}

pub fn config(privileged: bool) -> Config {
    Config {
        id: None,
        privileged,
        handle: *b"0123456789abcdef",
        flags: 0,
        emulation_flags: 0,
        relaxed_msrs: false,
        max_vcpus: 3,
        max_evtchn_port: 300,
        max_grant_frames: 4,
        max_maptrack_frames: 1,
        max_grant_version: crate::grant::Version::V2,
        p2m_pool: 64,
        format: NestedFormat::Npt,
        address_bits: 40,
    }
}

impl World {
    pub fn new() -> World {
        Self::with(config(false))
    }

    /// A domain that may manage others.
    pub fn privileged() -> World {
        Self::with(config(true))
    }

    pub fn with(config: Config) -> World {
        let domain = lifecycle::create(config).expect("created");
        domain.set_max_pages(PAGES + 64);
        domain.create_vcpus().expect("vcpus");
        domain.vcpu(VcpuId(0)).expect("first").release(Hold::DOWN);
        for gfn in 0..PAGES {
            domain.populate(Gfn(gfn), 0).expect("arena");
        }
        let cpu = fake::Vcpu::new();
        let lapic = Lapic::new(VcpuId(0), cpu.apic_page());
        let world = World {
            domain,
            cpu,
            walks: WalkCache::new(),
            lapic,
            policy: Policy::new(&cpuid::host, 1, 7, 40),
            msrs: Msrs::new(),
            next: ArrayVec::new(),
        };
        world.put(0, &[0u8; PAGES as usize * 4096]);
        world
    }

    pub fn put<T: IntoBytes + Immutable>(&self, at: u64, value: &T) {
        write_phys(&self.domain.p2m, Gpa(at), value.as_bytes()).expect("RAM");
    }

    pub fn get<T: FromBytes + IntoBytes>(&self, at: u64) -> T {
        let mut value = T::new_zeroed();
        read_phys(&self.domain.p2m, Gpa(at), value.as_mut_bytes()).expect("RAM");
        value
    }

    pub fn caller<R>(&mut self, work: impl FnOnce(&mut Caller<'_>) -> R) -> R {
        let vcpu = self.domain.vcpu(VcpuId(0)).expect("first").clone();
        let caller = &mut Caller {
            domain: &self.domain,
            vcpu: &vcpu,
            cpu: &mut self.cpu,
            lapic: &mut self.lapic,
            walks: &mut self.walks,
            policy: &self.policy,
            msrs: &mut self.msrs,
            layout: Layout::X86_64,
            next: ArrayVec::new(),
        };
        let result = work(caller);
        self.next = core::mem::take(&mut caller.next);
        result
    }

    /// Make a call until it is done, as a guest does.
    pub fn call(&mut self, nr: u32, first: &[u64]) -> Result<u64, Errno> {
        let mut args = Args::default();
        args[..first.len()].copy_from_slice(first);
        for _ in 0..10_000 {
            let [first, second, third] = args;
            let answer = self.caller(|caller| call(first, second, third, caller, nr.into()));
            if let Some(rax) = answer.rax() {
                return Errno::decode(rax);
            }
            // It may wait for a call that another test makes.
            std::thread::yield_now();
            args.iter_mut()
                .zip(&self.next)
                .for_each(|(arg, next)| *arg = *next);
        }
        panic!("hypercall {nr} does not end");
    }

    /// The same by a guest that is not in 64-bit mode.
    pub fn call_compat(&mut self, nr: u32, first: &[u32]) -> Result<u64, Errno> {
        let mut args = Args::default();
        for (arg, &value) in args.iter_mut().zip(first) {
            *arg = value.into();
        }
        for _ in 0..10_000 {
            let answer = self.caller(|caller| call_compat(caller, nr.into(), args));
            if let Some(rax) = answer.rax() {
                return Errno::decode(rax);
            }
            args.iter_mut()
                .zip(&self.next)
                .for_each(|(arg, next)| *arg = *next & u64::from(u32::MAX));
        }
        panic!("hypercall {nr} does not end");
    }

    /// A call whose argument is a structure in memory; it is read back.
    pub fn op<T: FromBytes + IntoBytes + Immutable>(
        &mut self,
        nr: u32,
        operation: u32,
        arg: &mut T,
    ) -> Result<u64, Errno> {
        self.put(ARG, arg);
        let result = self.call(nr, &[operation.into(), ARG]);
        *arg = self.get(ARG);
        result
    }

    /// The same for calls whose only argument is the structure.
    pub fn op_alone<T: FromBytes + IntoBytes + Immutable>(
        &mut self,
        nr: u32,
        arg: &mut T,
    ) -> Result<u64, Errno> {
        self.put(ARG, arg);
        let result = self.call(nr, &[ARG]);
        *arg = self.get(ARG);
        result
    }

    /// The same call with its argument out of reach.
    pub fn faults(&mut self, nr: u32, operation: u32) {
        assert_eq!(
            self.call(nr, &[operation.into(), BAD]),
            Err(Errno::EFAULT),
            "{nr}/{operation}"
        );
    }
}

/// Destroy a domain; how many slices did it take?
pub fn destroy(domain: &Arc<Domain>) -> usize {
    (1..100_000)
        .find(|_| lifecycle::take_apart(domain).is_ok())
        .expect("ends")
}

/// Shut a domain down and have it begin anew.
pub fn soft_reset(domain: &Domain) {
    domain.shutdown(SHUTDOWN_SOFT_RESET);
    while let Err(error) = soft_reset::reset_some(domain) {
        assert_eq!(error, Errno::ERESTART);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if table::get(self.domain.id).is_some() {
            destroy(&self.domain);
        }
    }
}
