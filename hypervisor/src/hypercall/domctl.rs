//! `domctl`: a privileged domain's control of others. One argument for all operations, which is copied in, changed, and copied out.

use alloc::sync::Arc;

use abi::domctl::*;
use abi::domid::DOMID_FIRST_RESERVED;
use abi::{Errno, Union};

use super::{Caller, Outcome, Stop, hvm_context};
use crate::arch::machine;
use crate::domain::vcpu::{Hold, Request, Vcpu};
use crate::domain::{Config, Domain, Life, lifecycle, soft_reset, table};
use crate::grant;
use crate::hw::time::now_ns;
use crate::sched::{self, CpuMask};
use crate::sync::{Mutex, Rank};
use crate::types::{DomId, PAGE_SHIFT, VcpuId};
use crate::virt::cpuid::Leaf;
use crate::virt::time;

/// The scheduler as toolstacks know it: credit2's contract of weight and cap.
pub(super) const SCHEDULER: u32 = abi::domctl::XEN_SCHEDULER_CREDIT2;
/// Width of a domU's physical addresses.
const ADDRESS_BITS: u32 = 40;

/// What an operation leaves behind.
pub(super) enum Answer {
    /// Nothing to copy out.
    Done,
    /// The argument has changed.
    Changed,
    /// It failed, and the argument says at what.
    Refused(Errno),
}

pub(super) fn domctl(caller: &mut Caller<'_>, at: u64) -> Outcome {
    let mut argument: Domctl = caller.read(at)?;
    if argument.interface_version != XEN_DOMCTL_INTERFACE_VERSION {
        return Err(Errno::EACCES.into());
    }
    caller.require_privilege()?;
    // One at a time, as on Xen: a domain is not made and taken apart at once. Who comes second makes the call again.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(Rank::Domctl, ());
    let Some(_turn) = ONE_AT_A_TIME.try_lock() else {
        return Err(Stop::Continue);
    };
    match operate(caller, &mut argument) {
        Ok(Answer::Done) => Ok(0),
        Ok(Answer::Changed) => {
            caller.write(at, &argument)?;
            Ok(0)
        }
        Ok(Answer::Refused(errno)) => {
            caller.write(at, &argument)?;
            Err(errno.into())
        }
        // Slices of a long operation: the argument has not changed, so the same call goes on.
        Err(Errno::ERESTART) => Err(Stop::Continue),
        Err(errno) => Err(errno.into()),
    }
}

fn operate(caller: &mut Caller<'_>, argument: &mut Domctl) -> Result<Answer, Errno> {
    match argument.cmd {
        XEN_DOMCTL_CREATEDOMAIN => return create(argument),
        XEN_DOMCTL_GETDOMAININFO => return get_info(argument),
        _ => {}
    }
    // No DOMID_SELF here.
    let domain = table::get(DomId(argument.domain)).ok_or(Errno::ESRCH)?;
    let u = &mut argument.u;
    match argument.cmd {
        XEN_DOMCTL_DESTROYDOMAIN => lifecycle::destroy_some(&domain)?,
        XEN_DOMCTL_PAUSEDOMAIN => {
            not_self(caller, &domain)?;
            domain.pause();
        }
        XEN_DOMCTL_UNPAUSEDOMAIN => domain.unpause()?,
        XEN_DOMCTL_RESUMEDOMAIN => {
            not_self(caller, &domain)?;
            // One that has not shut down goes on as it is.
            let _ = domain.resume();
        }
        XEN_DOMCTL_SOFT_RESET => {
            not_self(caller, &domain)?;
            soft_reset::reset_some(&domain)?;
        }
        XEN_DOMCTL_MAX_VCPUS => {
            not_self(caller, &domain)?;
            max_vcpus(&domain, u.get::<DomctlMaxVcpus>().max)?;
        }
        XEN_DOMCTL_MAX_MEM => set_max_mem(&domain, u.get::<DomctlMaxMem>().max_memkb),
        XEN_DOMCTL_SETDOMAINHANDLE => *domain.handle.lock() = u.get::<DomctlSetdomainhandle>().handle,
        XEN_DOMCTL_SCHEDULER_OP => return scheduling(&domain, u),
        XEN_DOMCTL_SETVCPUAFFINITY => return affinity(caller, &domain, u, true),
        XEN_DOMCTL_GETVCPUAFFINITY => return affinity(caller, &domain, u, false),
        XEN_DOMCTL_GETNODEAFFINITY => {
            write_bits(caller, u.get::<DomctlNodeaffinity>().nodemap, |node| node == 0)?;
        }
        // There is one node, and whatever else is named there is ignored, as on Xen.
        XEN_DOMCTL_SETNODEAFFINITY => {
            if !read_bits(caller, u.get::<DomctlNodeaffinity>().nodemap, 1)?.contains(0) {
                return Err(Errno::EINVAL);
            }
        }
        XEN_DOMCTL_GETVCPUINFO => return vcpu_info(&domain, u),
        XEN_DOMCTL_GETVCPUCONTEXT => {
            not_self(caller, &domain)?;
            hvm_context::get_registers(caller, &domain, &u.get())?;
        }
        XEN_DOMCTL_GETHVMCONTEXT => {
            not_self(caller, &domain)?;
            return hvm_context::get(caller, &domain, u);
        }
        XEN_DOMCTL_GETHVMCONTEXT_PARTIAL => {
            not_self(caller, &domain)?;
            return hvm_context::get_one(caller, &domain, u);
        }
        XEN_DOMCTL_SETHVMCONTEXT => {
            not_self(caller, &domain)?;
            hvm_context::set(caller, &domain, &u.get())?;
        }
        XEN_DOMCTL_GETTSCINFO => {
            not_self(caller, &domain)?;
            u.set(&time::tsc_info(&domain));
            return Ok(Answer::Changed);
        }
        XEN_DOMCTL_SETTSCINFO => {
            not_self(caller, &domain)?;
            time::set_tsc_info(&domain, &u.get())?;
        }
        XEN_DOMCTL_GET_CPU_POLICY => return get_policy(caller, &domain, u),
        XEN_DOMCTL_SET_CPU_POLICY => {
            not_self(caller, &domain)?;
            return set_policy(caller, &domain, u);
        }
        XEN_DOMCTL_GET_PAGING_MEMPOOL_SIZE => {
            u.set(&DomctlPagingMempool {
                size: u64::from(domain.p2m.pool()) << PAGE_SHIFT,
            });
            return Ok(Answer::Changed);
        }
        XEN_DOMCTL_SET_PAGING_MEMPOOL_SIZE => {
            let size = u.get::<DomctlPagingMempool>().size;
            set_pool(&domain, size)?;
        }
        XEN_DOMCTL_SHADOW_OP => {
            not_self(caller, &domain)?;
            return allocation(&domain, u);
        }
        // Something else than what the guest's mode says is there for PV guests only.
        XEN_DOMCTL_SET_ADDRESS_SIZE | XEN_DOMCTL_GET_ADDRESS_SIZE => return Err(Errno::EOPNOTSUPP),
        XEN_DOMCTL_SENDTRIGGER => trigger(&domain, &u.get())?,
        XEN_DOMCTL_SETTIMEOFFSET => {
            domain.set_time_offset(u.get::<DomctlSettimeoffset>().time_offset_seconds);
        }
        _ => return Err(Errno::ENOSYS),
    }
    Ok(Answer::Done)
}

/// Nobody can stop itself and go on to say so.
fn not_self(caller: &Caller<'_>, domain: &Domain) -> Result<(), Errno> {
    if caller.domain.id == domain.id {
        Err(Errno::EINVAL)
    } else {
        Ok(())
    }
}

// ---- the domain itself ----

fn create(argument: &mut Domctl) -> Result<Answer, Errno> {
    const KNOWN_FLAGS: u32 = XEN_DOMCTL_CDF_HVM
        | XEN_DOMCTL_CDF_HAP
        | XEN_DOMCTL_CDF_S3_INTEGRITY
        | XEN_DOMCTL_CDF_OOS_OFF
        | XEN_DOMCTL_CDF_XS_DOMAIN;
    let wanted: DomctlCreatedomain = argument.u.get();
    // PV guests, passthrough, nested virtualization and virtual performance counters do not exist here.
    if wanted.flags & !KNOWN_FLAGS != 0
        || wanted.flags & (XEN_DOMCTL_CDF_HVM | XEN_DOMCTL_CDF_HAP) != XEN_DOMCTL_CDF_HVM | XEN_DOMCTL_CDF_HAP
        || wanted.iommu_opts != 0
        || wanted.vmtrace_size != 0
        || wanted.arch.emulation_flags != XEN_X86_EMU_LAPIC
        || wanted.arch.misc_flags & !XEN_X86_MSR_RELAXED != 0
    {
        return Err(Errno::EINVAL);
    }
    // Negative: as much as there can be.
    let limit = |value: i32, default: u32| u32::try_from(value).unwrap_or(default);
    let limits = grant::limits();
    let max_grant_frames = limit(wanted.max_grant_frames, limits.frames);
    let max_maptrack_frames = limit(wanted.max_maptrack_frames, limits.maptrack_frames);
    if !(1..=limits.frames).contains(&max_grant_frames) || max_maptrack_frames > limits.maptrack_frames {
        return Err(Errno::EINVAL);
    }
    let max_grant_version = match wanted.grant_opts {
        1 => grant::Version::V1,
        2 => grant::Version::V2,
        _ => return Err(Errno::EINVAL),
    };
    // Whatever is no number of a domain stands for any.
    let id = (1..DOMID_FIRST_RESERVED)
        .contains(&argument.domain)
        .then_some(DomId(argument.domain));
    // Nobody takes the pool away meanwhile.
    let pools = sched::pool::pools();
    if !pools.exists(wanted.cpupool_id) {
        return Err(Errno::ESRCH);
    }
    let domain = lifecycle::create(Config {
        id,
        privileged: false,
        handle: wanted.handle,
        flags: wanted.flags,
        emulation_flags: wanted.arch.emulation_flags,
        relaxed_msrs: wanted.arch.misc_flags & XEN_X86_MSR_RELAXED != 0,
        max_vcpus: wanted.max_vcpus,
        max_evtchn_port: wanted.max_evtchn_port,
        max_grant_frames,
        max_maptrack_frames,
        max_grant_version,
        p2m_pool: INITIAL_POOL,
        format: machine::nested_format(),
        address_bits: ADDRESS_BITS,
    })?;
    domain.share.set_pool(wanted.cpupool_id);
    argument.domain = domain.id.0;
    Ok(Answer::Changed)
}

/// Table pages before the toolstack has said how many: Xen's minimum.
const INITIAL_POOL: u32 = 256;

/// Xen 4.17 makes the vCPUs here, all that were asked for at creation.
fn max_vcpus(domain: &Arc<Domain>, max: u32) -> Result<(), Errno> {
    if max != domain.config.max_vcpus {
        return Err(Errno::EINVAL);
    }
    match sched::pool::create_vcpus(domain) {
        // A toolstack may say it again.
        Err(Errno::EEXIST) => Ok(()),
        other => other,
    }
}

/// More than can be counted is as much as can be.
fn set_max_mem(domain: &Domain, kib: u64) {
    let pages = kib >> (PAGE_SHIFT - 10);
    domain.set_max_pages(pages.min(u64::from(u32::MAX)));
}

fn set_pool(domain: &Domain, bytes: u64) -> Result<(), Errno> {
    if bytes & ((1 << PAGE_SHIFT) - 1) != 0 {
        return Err(Errno::EINVAL);
    }
    domain
        .p2m
        .set_pool(u32::try_from(bytes >> PAGE_SHIFT).map_err(|_| Errno::EINVAL)?);
    Ok(())
}

/// The older way to say how many table pages there may be, in MiB.
fn allocation(domain: &Domain, u: &mut Union<16>) -> Result<Answer, Errno> {
    const PAGES_PER_MIB: u32 = 1 << (20 - PAGE_SHIFT);
    let mut request: DomctlShadowOp = u.get();
    if domain.vcpus().is_empty() {
        return Err(Errno::EINVAL);
    }
    match request.op {
        XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION => {}
        XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION => {
            let pages = request.mb.checked_mul(PAGES_PER_MIB).ok_or(Errno::EINVAL)?;
            domain.p2m.set_pool(pages);
        }
        // Log-dirty mode, for migration, is not there yet; it is off.
        XEN_DOMCTL_SHADOW_OP_OFF => return Ok(Answer::Done),
        _ => return Err(Errno::EINVAL),
    }
    request.mb = domain.p2m.pool().div_ceil(PAGES_PER_MIB);
    u.set(&request);
    Ok(Answer::Changed)
}

// ---- information ----

/// Answers for the first domain from the given number on.
fn get_info(argument: &mut Domctl) -> Result<Answer, Errno> {
    if argument.domain >= DOMID_FIRST_RESERVED {
        return Err(Errno::EINVAL);
    }
    let domain = table::next_from(DomId(argument.domain)).ok_or(Errno::ESRCH)?;
    argument.domain = domain.id.0;
    argument.u.set(&info(&domain));
    Ok(Answer::Changed)
}

/// What toolstacks see of a domain.
pub(super) fn info(domain: &Domain) -> DomctlGetdomaininfo {
    let vcpus = domain.vcpus();
    let mut flags = XEN_DOMINF_HVM_GUEST | XEN_DOMINF_HAP;
    let mut set = |on: bool, flag: u32| {
        if on {
            flags |= flag;
        }
    };
    // While it is taken apart it is there still, for xenstored, too.
    set(domain.life() == Life::Zombie, XEN_DOMINF_DYING);
    set(domain.is_paused(), XEN_DOMINF_PAUSED);
    set(
        domain.config.flags & XEN_DOMCTL_CDF_XS_DOMAIN != 0,
        XEN_DOMINF_XS_DOMAIN,
    );
    let online = || vcpus.iter().filter(|vcpu| !vcpu.held_by(Hold::DOWN));
    // Blocked means that every vCPU which is up waits, and that there is one.
    set(
        online().next().is_some() && online().all(|vcpu| vcpu.held_by(Hold::BLOCKED | Hold::POLLING)),
        XEN_DOMINF_BLOCKED,
    );
    set(online().any(|vcpu| vcpu.entity.running()), XEN_DOMINF_RUNNING);
    if let Some(reason) = domain.shutdown_reason() {
        flags |= XEN_DOMINF_SHUTDOWN | (reason & XEN_DOMINF_SHUTDOWNMASK) << XEN_DOMINF_SHUTDOWNSHIFT;
    }
    DomctlGetdomaininfo {
        domain: domain.id.0,
        flags,
        tot_pages: domain.total_pages(),
        max_pages: domain.max_pages(),
        outstanding_pages: domain.claim.pages(),
        shared_info_frame: domain.shared_info.mfn().0,
        cpu_time: vcpus
            .iter()
            .map(|vcpu| vcpu.entity.run_time())
            .fold(0, u64::saturating_add),
        nr_online_vcpus: online().count() as u32,
        max_vcpu_id: vcpus.last().map_or(XEN_INVALID_MAX_VCPU_ID, |vcpu| vcpu.id.0),
        handle: *domain.handle.lock(),
        cpupool: domain.share.pool(),
        gpaddr_bits: domain.config.address_bits as u8,
        arch_config: ArchDomainconfig {
            emulation_flags: domain.config.emulation_flags,
            misc_flags: if domain.config.relaxed_msrs {
                XEN_X86_MSR_RELAXED
            } else {
                0
            },
        },
        ..Default::default()
    }
}

/// # Errors
/// `EINVAL`: the domain cannot have it. `ESRCH`: it is not made yet.
fn vcpu(domain: &Domain, id: u32) -> Result<&Arc<Vcpu>, Errno> {
    if id >= domain.config.max_vcpus {
        return Err(Errno::EINVAL);
    }
    domain.vcpu(VcpuId(id)).ok_or(Errno::ESRCH)
}

fn vcpu_info(domain: &Domain, u: &mut Union<16>) -> Result<Answer, Errno> {
    let mut info: DomctlGetvcpuinfo = u.get();
    let vcpu = vcpu(domain, info.vcpu)?;
    info.online = (!vcpu.held_by(Hold::DOWN)).into();
    info.blocked = vcpu.held_by(Hold::BLOCKED | Hold::POLLING).into();
    info.running = vcpu.entity.running().into();
    info.cpu_time = vcpu.entity.run_time();
    info.cpu = vcpu.entity.cpu();
    u.set(&info);
    Ok(Answer::Changed)
}

// ---- scheduling ----

fn scheduling(domain: &Domain, u: &mut Union<16>) -> Result<Answer, Errno> {
    let mut request: DomctlSchedulerOp = u.get();
    if request.sched_id != SCHEDULER {
        return Err(Errno::EINVAL);
    }
    let share = &domain.share;
    match request.cmd {
        XEN_DOMCTL_SCHEDOP_GETINFO => {
            request.u.set(&DomctlSchedCredit {
                weight: share.weight() as u16,
                cap: share.cap() as u16,
            });
            u.set(&request);
            Ok(Answer::Changed)
        }
        XEN_DOMCTL_SCHEDOP_PUTINFO => {
            let wanted: DomctlSchedCredit = request.u.get();
            if wanted.weight != 0 {
                share.set_weight(wanted.weight);
            }
            if wanted.cap != u16::MAX {
                share.set_cap(wanted.cap, now_ns());
                domain.vcpus().iter().for_each(Vcpu::unpark);
            }
            domain.vcpus().iter().for_each(sched::share_changed);
            Ok(Answer::Done)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// Where a vCPU may run, and where it should.
fn affinity(caller: &mut Caller<'_>, domain: &Domain, u: &Union<16>, change: bool) -> Result<Answer, Errno> {
    let request: DomctlVcpuaffinity = u.get();
    let vcpu = vcpu(domain, request.vcpu)?;
    let (hard, soft) = (
        request.flags & XEN_VCPUAFFINITY_HARD != 0,
        request.flags & XEN_VCPUAFFINITY_SOFT != 0,
    );
    let nowhere = |wanted: bool, map: abi::Bitmap| wanted && map.bitmap.is_null();
    if request.flags == 0 || nowhere(hard, request.cpumap_hard) || nowhere(soft, request.cpumap_soft) {
        return Err(Errno::EINVAL);
    }
    let cpus = sched::cpu_count() as u32;
    let entity = &vcpu.entity;
    if change {
        if request.flags & XEN_VCPUAFFINITY_FORCE != 0 {
            // It is no error if there is none.
            let _ = sched::pool::override_affinity(vcpu, None);
        }
        let pools = sched::pool::pools();
        let mut chosen = |wanted: bool, map| -> Result<Option<CpuMask>, Errno> {
            if !wanted {
                return Ok(None);
            }
            let chosen = read_bits(caller, map, cpus)?;
            let usable = |cpu| chosen.contains(cpu) && sched::pool::contains(entity.share.pool(), cpu);
            if (0..cpus).any(usable) {
                Ok(Some(chosen))
            } else {
                Err(Errno::EINVAL)
            }
        };
        // Both are good before one is set.
        let choices = [
            (chosen(hard, request.cpumap_hard)?, &entity.affinity),
            (chosen(soft, request.cpumap_soft)?, &entity.soft),
        ];
        if (hard || soft) && pools.overrides(entity) {
            return Err(Errno::EBUSY);
        }
        for (choice, mask) in choices {
            if let Some(choice) = choice {
                mask.set(|cpu| choice.contains(cpu));
            }
        }
        pools.apply(entity);
        sched::affinity_changed(vcpu);
    }
    // Of what was changed, what takes effect: no more than what is there, and no preference for what is forbidden.
    let allowed = |cpu| cpu < cpus && (!change || entity.hard.contains(cpu));
    if hard {
        let mask = if change { &entity.hard } else { &entity.affinity };
        write_bits(caller, request.cpumap_hard, |cpu| {
            cpu < cpus && mask.contains(cpu)
        })?;
    }
    if soft {
        write_bits(caller, request.cpumap_soft, |cpu| {
            allowed(cpu) && entity.soft.contains(cpu)
        })?;
    }
    Ok(Answer::Changed)
}

/// Most bytes of a bitmap that are looked at; the rest is left alone.
const MAX_BITMAP: u64 = 128;

/// Read a set of CPUs or nodes, of which there are `count`.
fn read_bits(caller: &mut Caller<'_>, map: abi::Bitmap, count: u32) -> Result<CpuMask, Errno> {
    let mut bytes = [0u8; MAX_BITMAP as usize];
    let len = u64::from(map.nr_bits.min(count)).div_ceil(8).min(MAX_BITMAP);
    for (index, byte) in (0..len).zip(&mut bytes) {
        *byte = caller.read_element(map.bitmap, index)?;
    }
    let mask = CpuMask::all();
    mask.set(|bit| {
        let byte = bytes.get(bit as usize / 8).copied().unwrap_or(0);
        bit < map.nr_bits && bit < count && byte & 1 << (bit % 8) != 0
    });
    Ok(mask)
}

/// Write a bitmap that has the bits that `member` names.
pub(super) fn write_bits(
    caller: &mut Caller<'_>,
    map: abi::Bitmap,
    member: impl Fn(u32) -> bool,
) -> Result<(), Errno> {
    let bytes = u64::from(map.nr_bits).div_ceil(8);
    for index in 0..bytes.min(MAX_BITMAP) {
        let first = index as u32 * 8;
        let byte = (0..8)
            .filter(|bit| first + bit < map.nr_bits && member(first + bit))
            .fold(0u8, |byte, bit| byte | 1 << bit);
        caller.write_element(map.bitmap, index, &byte)?;
    }
    Ok(())
}

fn trigger(domain: &Domain, request: &DomctlSendtrigger) -> Result<(), Errno> {
    let vcpu = domain.vcpu(VcpuId(request.vcpu)).ok_or(Errno::ESRCH)?;
    match request.trigger {
        XEN_DOMCTL_SENDTRIGGER_NMI => vcpu.request(Request::NMI),
        // Buttons that no domain has, as on Xen.
        XEN_DOMCTL_SENDTRIGGER_POWER | XEN_DOMCTL_SENDTRIGGER_SLEEP => {}
        _ => return Err(Errno::ENOSYS),
    }
    Ok(())
}

// ---- CPUID policy ----

fn get_policy(caller: &mut Caller<'_>, domain: &Domain, u: &mut Union<16>) -> Result<Answer, Errno> {
    let mut request: DomctlCpuPolicy = u.get();
    let policy = domain.cpu_policy.lock().clone();
    (request.nr_leaves, request.nr_msrs) =
        copy_policy(caller, policy.leaves(), request.leaves, request.nr_leaves)?;
    u.set(&request);
    Ok(Answer::Changed)
}

/// Copy a policy out. Returns how many leaves and MSRs there are; a null handle only asks for that.
pub(super) fn copy_policy(
    caller: &mut Caller<'_>,
    policy: impl Iterator<Item = (u32, u32, Leaf)>,
    leaves: abi::GuestHandle<CpuidLeaf>,
    room: u32,
) -> Result<(u32, u32), Errno> {
    let mut count = 0u32;
    for (leaf, subleaf, [a, b, c, d]) in policy {
        if !leaves.is_null() {
            if count >= room {
                return Err(Errno::ENOBUFS);
            }
            caller.write_element(
                leaves,
                count.into(),
                &CpuidLeaf {
                    leaf,
                    subleaf,
                    a,
                    b,
                    c,
                    d,
                },
            )?;
        }
        count += 1;
    }
    Ok((count, 0))
}

fn set_policy(caller: &mut Caller<'_>, domain: &Domain, u: &mut Union<16>) -> Result<Answer, Errno> {
    const MAX_LEAVES: u32 = 512;
    let mut request: DomctlCpuPolicy = u.get();
    if request.nr_leaves > MAX_LEAVES || request.nr_msrs > MAX_LEAVES {
        return Err(Errno::E2BIG);
    }
    // A guest that has begun to run has seen what it has.
    if !domain.is_paused() || domain.vcpus().iter().any(|vcpu| vcpu.entity.run_time() != 0) {
        return Err(Errno::EEXIST);
    }
    let mut policy = (**domain.cpu_policy.lock()).clone();
    for index in 0..request.nr_leaves {
        let entry: CpuidLeaf = caller.read_element(request.leaves, index.into())?;
        if policy
            .set_leaf(entry.leaf, entry.subleaf, [entry.a, entry.b, entry.c, entry.d])
            .is_err()
        {
            (request.err_leaf, request.err_subleaf) = (entry.leaf, entry.subleaf);
            u.set(&request);
            return Ok(Answer::Refused(Errno::EINVAL));
        }
    }
    let policy = Arc::new(policy);
    domain.while_paused(|| {
        for vcpu in domain.vcpus() {
            vcpu.with_private(|private| private.policy = policy.clone());
        }
    });
    *domain.cpu_policy.lock() = policy;
    Ok(Answer::Done)
}
