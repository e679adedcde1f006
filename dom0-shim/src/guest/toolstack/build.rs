//! Builds a domain: the sequence of hypercalls that libxl uses for a PVH guest.
//!
//! Whatever step fails, everything is undone and the step named.

use alloc::borrow::Cow;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::Cell;
use core::ops::Range;

use abi::domctl::{
    ArchDomainconfig, DomctlCreatedomain, DomctlSchedCredit, XEN_DOMCTL_CDF_HAP, XEN_DOMCTL_CDF_HVM,
    XEN_X86_EMU_LAPIC, XEN_X86_MSR_RELAXED,
};
use abi::grant::{GNTTAB_RESERVED_CONSOLE, GNTTAB_RESERVED_XENSTORE, GTF_PERMIT_ACCESS};
use abi::hvm::*;
use abi::hvm_save::{
    HVM_SAVE_CODE_CPU, HVM_SAVE_CODE_END, HVM_SAVE_CODE_HEADER, HVM_SAVE_CODE_MTRR, HvmHwCpu, HvmHwMtrr,
    HvmSaveDescriptor,
};
use abi::memory::E820Entry;
use abi::start_info::HvmMemmapTableEntry;
use abi::sysctl::XEN_SYSCTL_PHYSCAP_GNTTAB_V2;
use abi::{Domid, Errno};
use dom0_shim::executor::pass;
use dom0_shim::layout::{self, PAGE};
use dom0_shim::xenstore::DOM0;
use dom0_shim::xlcfg::Config;
use dom0_shim::xlcfg::cpuid::{self, Changes};
use guest_rt::foreign::Mapping;
use guest_rt::hypercall::{domctl, event_channel, hvm, memory, sysctl};
use guest_rt::time;
use pvh::kernel::{self, Kernel, Opening};
use pvh::layout::{ACPI_TABLES, CONSOLE_GFN, Guest, IDENT_PT_GFN, Plan, STORE_GFN, domu_memory_map};
use pvh::{acpi, entry};
use zerocopy::{FromBytes, IntoBytes};

use super::{Failure, Stage, Step, destroy, file, nodes};
use crate::guest::backend::block::{self, OpenDisk};
use crate::guest::{Host, console, network, pools, scheduling, store};

/// Event channels of a new domain.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// xenstore's.
    pub store: u32,
    /// The console's.
    pub console: u32,
}

impl Ports {
    /// Makes them.
    pub fn new(domain: Domid) -> Result<Self, Failure> {
        Ok(Self {
            store: event_channel::alloc_unbound(domain, DOM0).step("making the xenstore event channel")?,
            console: event_channel::alloc_unbound(domain, DOM0).step("making the console event channel")?,
        })
    }
}

/// How a new domain is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// It runs.
    Running,
    /// It waits for `unpause`.
    Paused,
}

/// Makes a domain with the disks given, and lets it run unless it is to wait at first. It is there from the beginning, to be seen and to be
/// destroyed: its number is in `begun` from then on, and this is not to be dropped any more.
///
/// # Errors
/// The step that failed; nothing is left of the domain then.
pub async fn create(
    host: &Rc<Host>,
    config: Rc<Config>,
    disks: Vec<OpenDisk>,
    first: First,
    begun: &Cell<Option<Domid>>,
) -> Result<Domid, Failure> {
    let _turn = host.making.take(1).await;
    let kernel = file(host, &config.kernel, FILE_MAX)
        .await
        .step("loading the kernel")?;
    let ramdisk = match &config.ramdisk {
        Some(path) => Some(file(host, path, FILE_MAX).await.step("loading the ramdisk")?),
        None => None,
    };
    // Behind what may wait for a disk: another one may have got this name meanwhile. That it is reserved is no obstacle
    // to the domain that it is reserved for, and nobody else gets here with it.
    if host.domains.find(&config.name).is_some() {
        return Err(format!("a domain named {} exists already", config.name)).step("checking the name");
    }
    let handle = config.uuid.unwrap_or_else(new_handle);
    let pool = config
        .pool
        .as_deref()
        .map_or(Ok(0), |pool| pools::number(host, pool));
    let creation = creation(&config, handle, pool.step("finding the CPU pool")?);
    let domain = domctl::create(0, &creation).step("creating the domain")?;
    host.domains.remember(domain, config.clone(), disks.clone());
    begun.set(Some(domain));
    let built = async {
        let ports = build(host, domain, &config, &kernel, ramdisk.as_deref()).await?;
        connect(host, domain, &handle, &config, ports, disks)?;
        match first {
            First::Running => domctl::unpause(domain).step("starting the domain"),
            First::Paused => Ok(()),
        }
    };
    if let Err(failure) = built.await {
        // The failure that led here is the one to report.
        let _ = destroy(host, domain).await;
        return Err(failure);
    }
    host.domains.made(domain);
    Ok(domain)
}

/// Connects a domain with all that it needs of this one.
pub(super) fn connect(
    host: &Rc<Host>,
    domain: Domid,
    handle: &[u8; 16],
    config: &Config,
    ports: Ports,
    disks: Vec<OpenDisk>,
) -> Result<(), Failure> {
    nodes::write(&host.store, domain, handle, config, ports)
        .map_err(|error| error.name())
        .step("writing the domain's xenstore nodes")?;
    network::attach_all(host, domain, config).step("connecting the networks")?;
    store::introduce(host, domain, STORE_GFN, ports.store).step("connecting xenstore")?;
    console::open(host, domain, &config.name, CONSOLE_GFN, ports.console).step("connecting the console")?;
    console::attach_channels(host, domain, &config.name, &config.channels).step("adding the channels")?;
    for open in disks {
        block::attach(host, domain, open).step("adding a disk")?;
    }
    Ok(())
}

/// Lets the other tasks run between two steps of a creation, which comes to its end if one of them has destroyed the domain.
pub(super) async fn others(host: &Host, domain: Domid) -> Result<(), &'static str> {
    pass().await;
    match host.domains.stage(domain) {
        Some(Stage::Making) => Ok(()),
        _ => Err("it has been destroyed"),
    }
}

/// KiB that a domain may have besides its RAM, as in libxl: special pages and ACPI tables count too.
pub const EXTRA_KIB: u64 = 1024;
/// Largest kernel and ramdisk that are read from disks.
const FILE_MAX: u64 = 256 << 20;
/// Most bytes that a kernel may unpack to.
const KERNEL_MAX: usize = 256 << 20;

/// The memory map as the hypercall wants it.
fn e820(map: &[HvmMemmapTableEntry]) -> Vec<E820Entry> {
    map.iter()
        .map(|entry| E820Entry {
            addr: entry.addr,
            size: entry.size,
            type_: entry.type_,
        })
        .collect()
}

/// Arguments of `createdomain`.
fn creation(config: &Config, handle: [u8; 16], cpupool_id: u32) -> DomctlCreatedomain {
    let v2 = sysctl::physinfo().is_ok_and(|info| info.capabilities & XEN_SYSCTL_PHYSCAP_GNTTAB_V2 != 0);
    DomctlCreatedomain {
        handle,
        flags: XEN_DOMCTL_CDF_HVM | XEN_DOMCTL_CDF_HAP,
        max_vcpus: config.max_vcpus,
        max_evtchn_port: config.event_channels,
        max_grant_frames: config.max_grant_frames,
        max_maptrack_frames: config.max_maptrack_frames,
        grant_opts: config.max_grant_version.unwrap_or(if v2 { 2 } else { 1 }),
        cpupool_id,
        arch: ArchDomainconfig {
            emulation_flags: XEN_X86_EMU_LAPIC,
            misc_flags: if config.msr_relaxed {
                XEN_X86_MSR_RELAXED
            } else {
                0
            },
        },
        ..Default::default()
    }
}

/// A random (version 4) UUID, as random as the time of day makes it: it only has to differ from the others.
pub fn new_handle() -> [u8; 16] {
    let mut state = time::now();
    let mut handle = [0; 16];
    for half in handle.chunks_exact_mut(8) {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        half.copy_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    handle[6] = handle[6] & 0x0f | 0x40;
    handle[8] = handle[8] & 0x3f | 0x80;
    handle
}

/// From an empty domain to one that only has to be introduced and started.
async fn build(
    host: &Host,
    domain: Domid,
    config: &Config,
    kernel: &[u8],
    ramdisk: Option<&[u8]>,
) -> Result<Ports, Failure> {
    domctl::max_vcpus(domain, config.max_vcpus).step("setting the number of vCPUs")?;
    let kernel = unpack(host, domain, kernel)
        .await
        .map_err(|error| format!("{}: {error}", config.kernel))
        .step("loading the kernel")?;
    // Without populate-on-demand there is memory behind all that the domain may have; its balloon driver gives back what is too much.
    let memory_map = domu_memory_map(config.max_memory << 20);
    let acpi = acpi::domu(ACPI_TABLES, config.max_vcpus);
    let guest = Guest {
        kernel: &kernel,
        ramdisk,
        command_line: &config.command_line,
        memory_map: &memory_map,
        rsdp: acpi.rsdp,
        flags: 0,
    };
    let mut plan = guest.plan().step("laying out the domain's memory")?;
    plan.writes.push((ACPI_TABLES, Cow::Borrowed(&acpi.bytes)));
    set_cpuid(domain, &config.cpuid).step("setting what CPUID tells")?;
    if config.time_offset != 0 {
        domctl::set_time_offset(domain, config.time_offset).step("setting the clock")?;
    }
    domctl::max_memory(domain, config.max_memory * 1024 + EXTRA_KIB).step("setting the memory limit")?;
    let ports = Ports::new(domain)?;
    domctl::set_tsc(domain, config.tsc_mode, config.tsc_khz).step("setting the TSC's mode and rate")?;
    domctl::set_paging_pool(domain, paging_pool(config)).step("setting the paging pool")?;
    populate(host, domain, &memory_map).await?;
    for (address, bytes) in &plan.writes {
        copy_in(host, domain, *address, bytes).await?;
    }
    memory::set_memory_map(domain, &e820(&memory_map)).step("setting the memory map")?;
    set_parameters(domain, ports).step("setting the HVM parameters")?;
    set_entry_state(domain, &plan)?;
    seed_grants(domain).step("seeding the grant table")?;
    set_scheduling(domain, config).step("setting the scheduling parameters")?;
    Ok(ports)
}

/// Opens a kernel image, which takes seconds where it is packed.
async fn unpack<'a>(host: &Host, domain: Domid, image: &'a [u8]) -> Result<Kernel<'a>, String> {
    let sentence = |error: kernel::Error| format!("{error}");
    let mut opening = Opening::new(image, KERNEL_MAX).map_err(sentence)?;
    while opening.step().map_err(sentence)? {
        others(host, domain).await?;
    }
    opening.finish().map_err(sentence)
}

/// Bytes for nested page tables; if the config does not say, as libxl reckons: 1 MiB a vCPU, 8 KiB a MiB of RAM.
fn paging_pool(config: &Config) -> u64 {
    let usual = 4 * (256 * u64::from(config.max_vcpus) + 2 * config.max_memory) * 1024;
    config.shadow_memory.map_or(usual, |mib| mib << 20)
}

/// Has CPUID tell what the config wants.
fn set_cpuid(domain: Domid, changes: &Changes) -> Result<(), String> {
    if changes.is_empty() {
        return Ok(());
    }
    let all = domctl::cpu_policy(domain).map_err(|error| format!("{error}"))?;
    domctl::set_cpu_policy(domain, &changes.of(&all)?).map_err(|(error, leaf)| cpuid::refused(error, leaf))
}

/// Gives the domain its memory, in the largest blocks possible.
async fn populate(host: &Host, domain: Domid, memory_map: &[HvmMemmapTableEntry]) -> Result<(), Failure> {
    let pages = layout::populated(memory_map)
        .map(|range| range.end - range.start)
        .sum();
    memory::claim_pages(domain, pages).step("claiming memory")?;
    let mut result = Ok(());
    for range in layout::populated(memory_map) {
        result = populate_range(host, domain, range).await;
        if result.is_err() {
            break;
        }
    }
    // What is left of the claim is given back, whether all went well or not.
    let unclaimed = memory::claim_pages(domain, 0).step("giving back the rest of the claim");
    result.and(unclaimed)
}

async fn populate_range(host: &Host, domain: Domid, frames: Range<u64>) -> Result<(), Failure> {
    const BATCH: usize = 512;
    let mut batch: Vec<u64> = Vec::new();
    let mut batch_order = 0;
    for (frame, order) in layout::blocks(frames) {
        if batch.len() == BATCH || (order != batch_order && !batch.is_empty()) {
            populate_batch(domain, batch_order, &mut batch)?;
            others(host, domain).await.step(POPULATING)?;
        }
        batch_order = order;
        batch.push(frame);
    }
    populate_batch(domain, batch_order, &mut batch)
}

const POPULATING: &str = "populating memory";

/// Populates blocks of one order; where no block of that size is free, smaller ones are taken.
fn populate_batch(domain: Domid, order: u32, batch: &mut Vec<u64>) -> Result<(), Failure> {
    let mut blocks = core::mem::take(batch);
    let done = match memory::populate_physmap(domain, order, &mut blocks) {
        Ok(done) => done,
        Err(Errno::ENOMEM) if order > 0 => 0,
        Err(error) => return Err(error).step(POPULATING),
    };
    let rest = blocks.get(done..).unwrap_or_default();
    if rest.is_empty() {
        return Ok(());
    }
    let smaller = match order {
        0 => return Err(Errno::ENOMEM).step(POPULATING),
        1..=9 => 0,
        _ => 9,
    };
    for &block in rest {
        let frames = block..block + (1 << order);
        let mut pieces: Vec<u64> = frames.step_by(1 << smaller).collect();
        populate_batch(domain, smaller, &mut pieces)?;
    }
    Ok(())
}

/// Tells the hypervisor and the guest where the special pages are, and fills those that need it.
fn set_parameters(domain: Domid, ports: Ports) -> Result<(), Errno> {
    let special = Mapping::range(
        domain,
        layout::SPECIAL.start,
        (layout::SPECIAL.end - layout::SPECIAL.start) as usize,
    )?;
    special.clear(0, special.size());
    // One 4 MiB page a 32-bit entry: present, writable, user, accessed, dirty, large.
    let identity: Vec<u32> = (0..1024).map(|index| index << 22 | 0xe7).collect();
    special.write(
        ((IDENT_PT_GFN - layout::SPECIAL.start) * PAGE) as usize,
        identity.as_bytes(),
    );
    for (index, value) in [
        (HVM_PARAM_STORE_PFN, STORE_GFN),
        (HVM_PARAM_STORE_EVTCHN, ports.store.into()),
        (HVM_PARAM_CONSOLE_PFN, CONSOLE_GFN),
        (HVM_PARAM_CONSOLE_EVTCHN, ports.console.into()),
        (HVM_PARAM_PAGING_RING_PFN, layout::PAGING_RING),
        (HVM_PARAM_MONITOR_RING_PFN, layout::MONITOR_RING),
        (HVM_PARAM_SHARING_RING_PFN, layout::SHARING_RING),
        (HVM_PARAM_BUFIOREQ_PFN, layout::BUFFERED_IOREQ),
        (HVM_PARAM_IOREQ_PFN, layout::IOREQ),
        (HVM_PARAM_IDENT_PT, IDENT_PT_GFN * PAGE),
    ] {
        hvm::set_param(domain, index, value)?;
    }
    Ok(())
}

/// Loads vCPU 0 with the PVH entry state (xen docs/misc/pvh): the domain's own context with its CPU and MTRR
/// records replaced.
fn set_entry_state(domain: Domid, plan: &Plan<'_>) -> Result<(), Failure> {
    let context = domctl::hvm_context(domain).step("reading the vCPU context")?;
    let record = |code: u16| find_record(&context, code);
    let header = record(HVM_SAVE_CODE_HEADER)
        .ok_or("it has no header")
        .step("reading the vCPU context")?;
    let mut new = Vec::new();
    append_record(&mut new, HVM_SAVE_CODE_HEADER, header);
    append_record(&mut new, HVM_SAVE_CODE_CPU, entry_state(plan).as_bytes());
    if let Some(Ok(mut mtrr)) = record(HVM_SAVE_CODE_MTRR).map(HvmHwMtrr::read_from_bytes) {
        // Enabled, default type write-back.
        mtrr.msr_mtrr_def_type = 1 << 11 | 6;
        append_record(&mut new, HVM_SAVE_CODE_MTRR, mtrr.as_bytes());
    }
    append_record(&mut new, HVM_SAVE_CODE_END, &[]);
    domctl::set_hvm_context(domain, &new).step("loading the vCPU context")
}

fn entry_state(plan: &Plan<'_>) -> HvmHwCpu {
    HvmHwCpu {
        rip: plan.entry.into(),
        rbx: plan.start_info.into(),
        rflags: entry::RFLAGS,
        cr0: entry::CR0,
        dr6: entry::DR6,
        dr7: entry::DR7,
        cs_limit: entry::CS.limit,
        ds_limit: entry::DATA.limit,
        es_limit: entry::DATA.limit,
        ss_limit: entry::DATA.limit,
        fs_limit: entry::DATA.limit,
        gs_limit: entry::DATA.limit,
        tr_limit: entry::TR.limit,
        cs_arbytes: entry::CS.attributes.into(),
        ds_arbytes: entry::DATA.attributes.into(),
        es_arbytes: entry::DATA.attributes.into(),
        ss_arbytes: entry::DATA.attributes.into(),
        fs_arbytes: entry::DATA.attributes.into(),
        gs_arbytes: entry::DATA.attributes.into(),
        tr_arbytes: entry::TR.attributes.into(),
        ..Default::default()
    }
}

/// The first record of a kind.
fn find_record(context: &[u8], code: u16) -> Option<&[u8]> {
    let mut rest = context;
    loop {
        let (descriptor, after) = HvmSaveDescriptor::read_from_prefix(rest).ok()?;
        let (body, next) = after.split_at_checked(descriptor.length as usize)?;
        match descriptor.typecode {
            found if found == code => return Some(body),
            HVM_SAVE_CODE_END => return None,
            _ => rest = next,
        }
    }
}

fn append_record(context: &mut Vec<u8>, code: u16, body: &[u8]) {
    let descriptor = HvmSaveDescriptor {
        typecode: code,
        instance: 0,
        length: body.len() as u32,
    };
    context.extend_from_slice(descriptor.as_bytes());
    context.extend_from_slice(body);
}

/// Grants dom0 the console and xenstore pages under their reserved references (version 1 entries: flags, domain,
/// frame).
fn seed_grants(domain: Domid) -> Result<(), Errno> {
    let table = Mapping::grant_table(domain)?;
    for (reference, frame) in [
        (GNTTAB_RESERVED_CONSOLE, CONSOLE_GFN),
        (GNTTAB_RESERVED_XENSTORE, STORE_GFN),
    ] {
        let entry = reference as usize * 8;
        table.store(entry + 4, frame as u32);
        table.store(entry, u32::from(GTF_PERMIT_ACCESS) | u32::from(DOM0) << 16);
    }
    Ok(())
}

/// Sets weight and cap where the config names them.
fn set_scheduling(domain: Domid, config: &Config) -> Result<(), Errno> {
    for vcpu in 0..config.max_vcpus {
        scheduling::pin(domain, vcpu, config.cpus.of(vcpu), config.cpus_soft.of(vcpu))?;
    }
    if config.cpu_weight.is_none() && config.cap.is_none() {
        return Ok(());
    }
    let scheduler = sysctl::scheduler_id()?;
    let now = domctl::scheduling(domain, scheduler)?;
    let weight = config.cpu_weight.unwrap_or(now.weight);
    let cap = config.cap.unwrap_or(now.cap);
    domctl::set_scheduling(domain, scheduler, DomctlSchedCredit { weight, cap })
}

/// Bytes copied into a domain in one go.
const CHUNK: usize = 1 << 20;

/// Copies bytes to an address of a domain.
async fn copy_in(host: &Host, domain: Domid, address: u64, bytes: &[u8]) -> Result<(), Failure> {
    const STEP: &str = "copying into the domain";
    let mut at = address;
    let mut rest = bytes;
    while !rest.is_empty() {
        let offset = (at % PAGE) as usize;
        let (chunk, after) = rest.split_at(rest.len().min(CHUNK - offset));
        let frames = (offset + chunk.len()).div_ceil(PAGE as usize);
        let mapping = Mapping::range(domain, at / PAGE, frames).step(STEP)?;
        mapping.write(offset, chunk);
        at += chunk.len() as u64;
        rest = after;
        drop(mapping);
        others(host, domain).await.step(STEP)?;
    }
    Ok(())
}
