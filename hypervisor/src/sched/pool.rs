//! CPU pools: a CPU is in one of them, free, or offline; a domain is in one, and its vCPUs run on the CPUs of it only.
//!
//! The scheduler knows nothing of pools: it keeps a vCPU to [`Entity::hard`], which is made anew here when a pool, or the affinity, has changed. All that
//! is done with [`pools`] locked.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use abi::Errno;

use super::entity::ANYWHERE;
use super::{Entity, cpu_count};
use crate::domain::Domain;
use crate::domain::table;
use crate::domain::vcpu::Vcpu;
use crate::hw::percpu::MAX_CPUS;
use crate::sync::{Mutex, MutexGuard, Rank};

/// The pool in which all CPUs and dom0 begin. It is always there.
pub const POOL_0: u32 = 0;
/// A CPU's pool when it is in none.
const FREE: u32 = u32::MAX;
/// A CPU's pool when it is offline.
const OFFLINE: u32 = u32::MAX - 1;
/// Most pools: there is no use for more than one for each CPU.
const MAX_POOLS: usize = MAX_CPUS;

static OF_CPU: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(POOL_0) }; MAX_CPUS];
static POOLS: Mutex<Pools> = Mutex::new(
    Rank::Pools,
    Pools {
        others: Vec::new(),
        of_cpu: &OF_CPU,
    },
);

/// Is CPU `cpu` in pool `id`?
#[inline]
pub fn contains(id: u32, cpu: u32) -> bool {
    OF_CPU
        .get(cpu as usize)
        .is_some_and(|pool| pool.load(SeqCst) == id)
}

/// Is CPU `cpu`, which has been started, online?
pub fn online(cpu: u32) -> bool {
    !contains(OFFLINE, cpu)
}

/// The pools, for who changes them or has to rely on one being there.
pub fn pools() -> MutexGuard<'static, Pools> {
    POOLS.lock()
}

/// The pools that there are.
#[derive(Debug)]
pub struct Pools {
    /// Their numbers but that of pool 0, ascending.
    others: Vec<u32>,
    /// Which pool a CPU is in.
    of_cpu: &'static [AtomicU32],
}

impl Pools {
    /// Is there such a pool?
    pub fn exists(&self, id: u32) -> bool {
        id == POOL_0 || self.others.contains(&id)
    }

    /// The first with this number or a larger one.
    pub fn next_from(&self, id: u32) -> Option<u32> {
        match id {
            POOL_0 => Some(POOL_0),
            id => self.others.iter().copied().find(|&other| other >= id),
        }
    }

    fn is_in(&self, id: u32, cpu: u32) -> bool {
        let pool = self.of_cpu.get(cpu as usize);
        pool.is_some_and(|pool| pool.load(SeqCst) == id)
    }

    /// Is CPU `cpu` in none?
    pub fn is_free(&self, cpu: u32) -> bool {
        self.is_in(FREE, cpu)
    }

    fn set(&self, cpu: u32, id: u32) {
        if let Some(pool) = self.of_cpu.get(cpu as usize) {
            pool.store(id, SeqCst);
        }
    }

    /// Make a pool, without CPUs: with this number, or the next that is free.
    ///
    /// # Errors
    /// `EEXIST`: the number is taken. `EINVAL`: it stands for something else. `ENOSPC`: there are too many.
    pub fn create(&mut self, wanted: Option<u32>) -> Result<u32, Errno> {
        if self.others.len() >= MAX_POOLS {
            return Err(Errno::ENOSPC);
        }
        let id = match wanted {
            Some(FREE | OFFLINE) => return Err(Errno::EINVAL),
            Some(id) if self.exists(id) => return Err(Errno::EEXIST),
            Some(id) => id,
            None => (1..).find(|&id| !self.exists(id)).ok_or(Errno::ENOSPC)?,
        };
        let at = self.others.partition_point(|&other| other < id);
        self.others.insert(at, id);
        Ok(id)
    }

    /// Take a pool away, which `domains` are in.
    ///
    /// # Errors
    /// `ENOENT`: there is none. `EBUSY`: it has a domain or a CPU, or is pool 0.
    pub fn destroy(&mut self, id: u32, domains: usize, cpus: u32) -> Result<(), Errno> {
        if !self.exists(id) {
            return Err(Errno::ENOENT);
        }
        if id == POOL_0 || domains != 0 || (0..cpus).any(|cpu| self.is_in(id, cpu)) {
            return Err(Errno::EBUSY);
        }
        self.others.retain(|&other| other != id);
        Ok(())
    }

    /// Put a free CPU, any or this, of `cpus` that there are, into a pool. Returns which.
    ///
    /// # Errors
    /// `EINVAL`: there is no such CPU. `ENODEV`: it is not free. `ENOENT`: there is no such pool.
    pub fn add_cpu(&mut self, id: u32, cpu: Option<u32>, cpus: u32) -> Result<u32, Errno> {
        let cpu = cpu.or_else(|| (0..cpus).find(|&cpu| self.is_free(cpu)));
        let cpu = cpu.filter(|&cpu| cpu < cpus).ok_or(Errno::EINVAL)?;
        if !self.is_free(cpu) {
            return Err(Errno::ENODEV);
        }
        if !self.exists(id) {
            return Err(Errno::ENOENT);
        }
        self.set(cpu, id);
        Ok(cpu)
    }

    /// Take a CPU, the last or this, of `cpus` that there are, from a pool, which `domains` are in. Returns which.
    ///
    /// # Errors
    /// `ENOENT`: there is no such pool. `EINVAL`: there is no such CPU. `EADDRNOTAVAIL`: it is not in the pool. `EBUSY`: it is the last, and
    /// there are domains.
    pub fn remove_cpu(&mut self, id: u32, cpu: Option<u32>, cpus: u32, domains: usize) -> Result<u32, Errno> {
        if !self.exists(id) {
            return Err(Errno::ENOENT);
        }
        let mut own = (0..cpus).filter(|&cpu| self.is_in(id, cpu));
        let (first, last) = (own.next(), own.next_back());
        let cpu = cpu.or(last).or(first).filter(|&cpu| cpu < cpus);
        let cpu = cpu.ok_or(Errno::EINVAL)?;
        if !self.is_in(id, cpu) {
            return Err(Errno::EADDRNOTAVAIL);
        }
        if last.is_none() && domains != 0 {
            return Err(Errno::EBUSY);
        }
        self.set(cpu, FREE);
        Ok(cpu)
    }

    /// Take CPU `cpu`, of `cpus` that there are, offline: a free one, or one of pool 0, which `domains` are in.
    ///
    /// # Errors
    /// `EINVAL`: there is no such CPU, or it is CPU 0. `EEXIST`: it is offline. `ENODEV`: it is in another pool. `EBUSY`: it is the last of pool 0.
    pub fn take_offline(&mut self, cpu: u32, cpus: u32, domains: usize) -> Result<(), Errno> {
        if cpu == 0 || cpu >= cpus {
            return Err(Errno::EINVAL);
        }
        if self.is_in(OFFLINE, cpu) {
            return Err(Errno::EEXIST);
        }
        if self.is_in(POOL_0, cpu) {
            self.remove_cpu(POOL_0, Some(cpu), cpus, domains)?;
        } else if !self.is_free(cpu) {
            return Err(Errno::ENODEV);
        }
        self.set(cpu, OFFLINE);
        Ok(())
    }

    /// Bring CPU `cpu`, of `cpus` that there are, back: into pool 0.
    ///
    /// # Errors
    /// `EINVAL`: there is no such CPU. `EEXIST`: it is online.
    pub fn bring_online(&mut self, cpu: u32, cpus: u32) -> Result<(), Errno> {
        if cpu >= cpus {
            return Err(Errno::EINVAL);
        }
        if !self.is_in(OFFLINE, cpu) {
            return Err(Errno::EEXIST);
        }
        self.set(cpu, POOL_0);
        Ok(())
    }

    /// Let a vCPU run where its affinity, or SCHEDOP_pin_override, and its domain's pool say. The caller tells the scheduler.
    pub fn apply(&self, entity: &Entity) {
        let id = entity.share.pool();
        let pinned = entity.pinned.load(SeqCst);
        let may = |cpu| match pinned {
            ANYWHERE => entity.affinity.contains(cpu),
            _ => cpu == pinned,
        };
        entity.hard.set(|cpu| may(cpu) && self.is_in(id, cpu));
    }

    /// Is a vCPU on one CPU whatever its affinity ([`override_affinity`])?
    pub fn overrides(&self, entity: &Entity) -> bool {
        entity.pinned.load(SeqCst) != ANYWHERE
    }

    /// Move a domain to a pool. Where its vCPUs may and should run is forgotten.
    ///
    /// # Errors
    /// `ENOENT`: there is no such pool. `EINVAL`: it has no CPU.
    pub fn move_domain(&self, domain: &Domain, id: u32) -> Result<(), Errno> {
        if domain.share.pool() == id {
            return Ok(());
        }
        if !self.exists(id) {
            return Err(Errno::ENOENT);
        }
        if !(0..cpu_count() as u32).any(|cpu| self.is_in(id, cpu)) {
            return Err(Errno::EINVAL);
        }
        domain.share.set_pool(id);
        for vcpu in domain.vcpus() {
            vcpu.entity.pinned.store(ANYWHERE, SeqCst);
            vcpu.entity.affinity.set(|_| true);
            vcpu.entity.soft.set(|_| true);
            self.apply(&vcpu.entity);
            super::affinity_changed(vcpu);
        }
        Ok(())
    }
}

/// Make a domain's vCPUs, which may run on the CPUs of its pool: that does not change meanwhile.
///
/// # Errors
/// See [`Domain::create_vcpus`].
pub fn create_vcpus(domain: &Arc<Domain>) -> Result<(), Errno> {
    let pools = pools();
    domain.create_vcpus()?;
    domain.vcpus().iter().for_each(|vcpu| pools.apply(&vcpu.entity));
    Ok(())
}

/// Let each vCPU of a domain run on the CPU of its number only (`dom0_vcpus_pin`), of those that are online; where there are more vCPUs than these, it goes round.
pub fn pin_each(domain: &Domain) {
    let pools = pools();
    for (vcpu, own) in domain.vcpus().iter().zip(super::online_cpus().cycle()) {
        vcpu.entity.affinity.set(|cpu| cpu == own);
        pools.apply(&vcpu.entity);
        super::affinity_changed(vcpu);
    }
}

/// Let a vCPU run on one CPU only, whatever its affinity; `None`: end that.
///
/// # Errors
/// `EINVAL`: there is no such CPU in its pool, or nothing to end. `EBUSY`: it is on one already.
pub fn override_affinity(vcpu: &Arc<Vcpu>, cpu: Option<u32>) -> Result<(), Errno> {
    let pools = pools();
    let entity = &vcpu.entity;
    let now = entity.pinned.load(SeqCst);
    match cpu {
        Some(cpu) if cpu >= cpu_count() as u32 => return Err(Errno::EINVAL),
        Some(_) if now != ANYWHERE => return Err(Errno::EBUSY),
        Some(cpu) if !pools.is_in(entity.share.pool(), cpu) => return Err(Errno::EINVAL),
        None if now == ANYWHERE => return Err(Errno::EINVAL),
        _ => {}
    }
    entity.pinned.store(cpu.unwrap_or(ANYWHERE), SeqCst);
    pools.apply(entity);
    super::affinity_changed(vcpu);
    Ok(())
}

/// How many domains are in a pool.
pub fn domains_in(id: u32) -> usize {
    table::all().filter(|domain| domain.share.pool() == id).count()
}

/// A CPU came to pool `id`, or left it. vCPUs that may run on none of the pool's CPUs otherwise may run on all of them from now on.
pub fn changed(pools: &Pools, id: u32) {
    let cpus = cpu_count() as u32;
    for domain in table::all().filter(|domain| domain.share.pool() == id) {
        for vcpu in domain.vcpus() {
            let entity = &vcpu.entity;
            pools.apply(entity);
            if entity.hard.first_below(cpus).is_none() {
                entity.pinned.store(ANYWHERE, SeqCst);
                pools.apply(entity);
            }
            if entity.hard.first_below(cpus).is_none() {
                log::warn!(
                    "{}v{}: may run on any CPU of its pool, as its own left",
                    domain.id,
                    vcpu.id.0
                );
                entity.affinity.set(|_| true);
                pools.apply(entity);
            }
            super::affinity_changed(vcpu);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::boxed::Box;
    use proptest::prelude::*;

    const CPUS: u32 = 4;

    fn new() -> Pools {
        let of_cpu: Vec<_> = (0..CPUS).map(|_| AtomicU32::new(POOL_0)).collect();
        Pools {
            others: Vec::new(),
            of_cpu: Box::leak(of_cpu.into()),
        }
    }

    #[test]
    fn cpus_move_between_pools() {
        let mut pools = new();
        assert_eq!(pools.create(None), Ok(1));
        assert_eq!(pools.create(Some(1)), Err(Errno::EEXIST));
        assert_eq!(pools.create(Some(7)), Ok(7));
        assert_eq!(pools.create(Some(FREE)), Err(Errno::EINVAL));
        assert_eq!(pools.create(None), Ok(2));
        assert_eq!(
            [0, 1, 3, 8].map(|id| pools.next_from(id)),
            [Some(0), Some(1), Some(7), None]
        );
        assert_eq!(pools.add_cpu(1, Some(3), CPUS), Err(Errno::ENODEV));
        assert_eq!(pools.remove_cpu(POOL_0, None, CPUS, 1), Ok(3));
        assert_eq!(
            pools.remove_cpu(POOL_0, Some(3), CPUS, 1),
            Err(Errno::EADDRNOTAVAIL)
        );
        assert_eq!(pools.remove_cpu(POOL_0, Some(9), CPUS, 1), Err(Errno::EINVAL));
        assert_eq!(pools.remove_cpu(9, None, CPUS, 1), Err(Errno::ENOENT));
        assert_eq!(pools.add_cpu(9, None, CPUS), Err(Errno::ENOENT));
        assert_eq!(pools.add_cpu(1, Some(CPUS), CPUS), Err(Errno::EINVAL));
        assert_eq!(pools.add_cpu(1, None, CPUS), Ok(3));
        assert_eq!(pools.add_cpu(1, None, CPUS), Err(Errno::EINVAL), "none is free");
        assert_eq!(pools.remove_cpu(1, None, CPUS, 2), Err(Errno::EBUSY), "the last");
        assert_eq!(pools.destroy(1, 0, CPUS), Err(Errno::EBUSY));
        assert_eq!(pools.remove_cpu(1, None, CPUS, 0), Ok(3));
        assert_eq!(pools.destroy(1, 1, CPUS), Err(Errno::EBUSY));
        assert_eq!(pools.destroy(1, 0, CPUS), Ok(()));
        assert_eq!(pools.destroy(1, 0, CPUS), Err(Errno::ENOENT));
        assert_eq!(pools.destroy(POOL_0, 0, CPUS), Err(Errno::EBUSY));
    }

    #[test]
    fn cpus_go_offline_from_pool_0_and_come_back_to_it() {
        let mut pools = new();
        assert_eq!(pools.take_offline(0, CPUS, 1), Err(Errno::EINVAL), "CPU 0");
        assert_eq!(pools.take_offline(CPUS, CPUS, 1), Err(Errno::EINVAL));
        assert_eq!(pools.bring_online(1, CPUS), Err(Errno::EEXIST));
        assert_eq!(pools.bring_online(CPUS, CPUS), Err(Errno::EINVAL));
        assert_eq!(pools.take_offline(3, CPUS, 1), Ok(()));
        assert_eq!(pools.take_offline(3, CPUS, 1), Err(Errno::EEXIST));
        assert!(!pools.is_free(3));
        assert_eq!(pools.create(Some(OFFLINE)), Err(Errno::EINVAL));
        assert_eq!(pools.create(None), Ok(1));
        assert_eq!(pools.add_cpu(1, Some(3), CPUS), Err(Errno::ENODEV));
        assert_eq!(pools.remove_cpu(POOL_0, Some(2), CPUS, 1), Ok(2));
        assert_eq!(pools.add_cpu(1, Some(2), CPUS), Ok(2));
        assert_eq!(
            pools.take_offline(2, CPUS, 1),
            Err(Errno::ENODEV),
            "in another pool"
        );
        assert_eq!(pools.remove_cpu(1, Some(2), CPUS, 0), Ok(2));
        assert_eq!(pools.take_offline(2, CPUS, 1), Ok(()), "a free one");
        assert_eq!(pools.remove_cpu(POOL_0, Some(0), CPUS, 1), Ok(0));
        assert_eq!(pools.take_offline(1, CPUS, 1), Err(Errno::EBUSY), "the last");
        assert_eq!(pools.bring_online(2, CPUS), Ok(()));
        assert!(pools.is_in(POOL_0, 2));
    }

    proptest! {
        /// Whatever is asked: a CPU is in a pool that there is, free, or offline; and pool 0, with a domain in it, keeps one.
        #[test]
        fn no_cpu_is_lost(asked in prop::collection::vec((0u32..6, 0u32..4, prop::option::of(0..CPUS)), 1..60)) {
            let mut pools = new();
            for (what, id, cpu) in asked {
                let domains = usize::from(id == POOL_0);
                let _ = match what {
                    0 => pools.create(cpu.map(|_| id)),
                    1 => pools.destroy(id, domains, CPUS).map(|()| id),
                    2 => pools.add_cpu(id, cpu, CPUS),
                    3 => pools.take_offline(id, CPUS, 1).map(|()| id),
                    4 => pools.bring_online(id, CPUS).map(|()| id),
                    _ => pools.remove_cpu(id, cpu, CPUS, domains),
                };
                for cpu in pools.of_cpu {
                    let pool = cpu.load(SeqCst);
                    prop_assert!([FREE, OFFLINE].contains(&pool) || pools.exists(pool), "{pool}");
                }
                prop_assert!((0..CPUS).any(|cpu| pools.is_in(POOL_0, cpu)));
                prop_assert!(pools.others.is_sorted());
            }
        }
    }
}
