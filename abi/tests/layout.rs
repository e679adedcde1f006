//! Sizes and offsets of every structure, as a C compiler lays out the public headers of Xen 4.17
//! on x86-64. Padding and unions have no counterpart there and are covered by the sizes.

use core::mem::{offset_of, size_of};

macro_rules! layout {
    ($name:ident, $size:literal, { $( $field:ident: $offset:literal ),* }) => {
        assert_eq!(size_of::<$name>(), $size, concat!("size of ", stringify!($name)));
        $( assert_eq!(
            offset_of!($name, $field), $offset,
            concat!(stringify!($name), ".", stringify!($field))
        ); )*
    };
}

#[test]
fn blkif() {
    use abi::io::blkif::*;
    layout!(BlkifRequest, 112, { operation: 0, nr_segments: 1, handle: 2, id: 8, sector_number: 16, seg: 24 });
    layout!(BlkifRequestDiscard, 32, { operation: 0, flag: 1, handle: 2, id: 8, sector_number: 16, nr_sectors: 24 });
    layout!(BlkifRequestIndirect, 64, { operation: 0, indirect_op: 1, nr_segments: 2, id: 8, sector_number: 16, handle: 24, indirect_grefs: 28 });
    layout!(BlkifRequestSegment, 8, { gref: 0, first_sect: 4, last_sect: 5 });
    layout!(BlkifResponse, 16, { id: 0, operation: 8, status: 10 });
}

#[test]
fn console() {
    use abi::io::console::*;
    layout!(XenconsInterface, 3088, { in_: 0, out: 1024, in_cons: 3072, in_prod: 3076, out_cons: 3080, out_prod: 3084 });
}

#[test]
fn dm_op() {
    use abi::dm_op::*;
    layout!(BufIoreq, 8, { data: 4 });
    layout!(BufferedIopage, 4096, { read_pointer: 0, write_pointer: 4, buf_ioreq: 8 });
    layout!(DmOp, 32, { op: 0, u: 8 });
    layout!(DmOpBuf, 16, { h: 0, size: 8 });
    layout!(DmOpCreateIoreqServer, 6, { handle_bufioreq: 0, id: 4 });
    layout!(DmOpDestroyIoreqServer, 4, { id: 0 });
    layout!(DmOpGetIoreqServerInfo, 24, { id: 0, flags: 2, bufioreq_port: 4, ioreq_gfn: 8, bufioreq_gfn: 16 });
    layout!(DmOpInjectEvent, 24, { vcpuid: 0, vector: 4, type_: 5, insn_len: 6, error_code: 8, cr2: 16 });
    layout!(DmOpInjectMsi, 16, { data: 0, addr: 8 });
    layout!(DmOpIoreqServerRange, 24, { id: 0, type_: 4, start: 8, end: 16 });
    layout!(DmOpMapMemTypeToIoreqServer, 16, { id: 0, type_: 2, flags: 4, opaque: 8 });
    layout!(DmOpModifiedMemory, 8, { nr_extents: 0, opaque: 4 });
    layout!(DmOpModifiedMemoryExtent, 16, { nr: 0, first_pfn: 8 });
    layout!(DmOpNrVcpus, 4, { vcpus: 0 });
    layout!(DmOpPinMemoryCacheattr, 24, { start: 0, end: 8, type_: 16 });
    layout!(DmOpRelocateMemory, 24, { size: 0, src_gfn: 8, dst_gfn: 16 });
    layout!(DmOpRemoteShutdown, 4, { reason: 0 });
    layout!(DmOpSetIoreqServerState, 4, { id: 0, enabled: 2 });
    layout!(DmOpSetIsaIrqLevel, 2, { isa_irq: 0, level: 1 });
    layout!(DmOpSetMemType, 16, { nr: 0, mem_type: 4, first_pfn: 8 });
    layout!(DmOpSetPciIntxLevel, 6, { domain: 0, bus: 2, device: 3, intx: 4, level: 5 });
    layout!(DmOpSetPciLinkRoute, 2, { link: 0, isa_irq: 1 });
    layout!(DmOpTrackDirtyVram, 16, { nr: 0, first_pfn: 8 });
    layout!(Ioreq, 32, { addr: 0, data: 8, count: 16, size: 20, vp_eport: 24, type_: 31 });
}

#[test]
fn domctl() {
    use abi::domctl::*;
    layout!(ArchDomainconfig, 8, { emulation_flags: 0, misc_flags: 4 });
    layout!(CpuUserRegs, 200, { r15: 0, r14: 8, r13: 16, r12: 24, rbp: 32, rbx: 40, r11: 48, r10: 56, r9: 64, r8: 72, rax: 80, rcx: 88, rdx: 96, rsi: 104, rdi: 112, error_code: 120, entry_vector: 124, rip: 128, cs: 136, saved_upcall_mask: 140, rflags: 144, rsp: 152, ss: 160, es: 168, ds: 176, fs: 184, gs: 192 });
    layout!(CpuidLeaf, 24, { leaf: 0, subleaf: 4, a: 8, b: 12, c: 16, d: 20 });
    layout!(Domctl, 144, { cmd: 0, interface_version: 4, domain: 8, u: 16 });
    layout!(DomctlAddressSize, 4, { size: 0 });
    layout!(DomctlAssignDevice, 24, { dev: 0, flags: 4, u: 8 });
    layout!(DomctlAuditP2m, 24, { orphans: 0, m2p_bad: 8, p2m_bad: 16 });
    layout!(DomctlBindPtIrq, 24, { machine_irq: 0, irq_type: 4, u: 8 });
    layout!(DomctlCacheflush, 16, { start_pfn: 0, nr_pfns: 8 });
    layout!(DomctlCpuPolicy, 40, { nr_leaves: 0, nr_msrs: 4, leaves: 8, msrs: 16, err_leaf: 24, err_subleaf: 28, err_msr: 32 });
    layout!(DomctlCreatedomain, 64, { ssidref: 0, handle: 4, flags: 20, iommu_opts: 24, max_vcpus: 28, max_evtchn_port: 32, max_grant_frames: 36, max_maptrack_frames: 40, grant_opts: 44, vmtrace_size: 48, cpupool_id: 52, arch: 56 });
    layout!(DomctlDebugOp, 8, { op: 0, vcpu: 4 });
    layout!(DomctlGdbsxDomstatus, 12, { paused: 0, vcpu_id: 4, vcpu_ev: 8 });
    layout!(DomctlGdbsxMemio, 40, { pgd3val: 0, gva: 8, uva: 16, len: 24, gwr: 28, remain: 32 });
    layout!(DomctlGetDeviceGroup, 24, { machine_sbdf: 0, max_sdevs: 4, num_sdevs: 8, sdev_array: 16 });
    layout!(DomctlGetdomaininfo, 112, { domain: 0, flags: 4, tot_pages: 8, max_pages: 16, outstanding_pages: 24, shr_pages: 32, paged_pages: 40, shared_info_frame: 48, cpu_time: 56, nr_online_vcpus: 64, max_vcpu_id: 68, ssidref: 72, handle: 76, cpupool: 92, gpaddr_bits: 96, arch_config: 104 });
    layout!(DomctlGetpageframeinfo3, 16, { num: 0, array: 8 });
    layout!(DomctlGetvcpuinfo, 24, { vcpu: 0, online: 4, blocked: 5, running: 6, cpu_time: 8, cpu: 16 });
    layout!(DomctlHvmcontext, 16, { size: 0, buffer: 8 });
    layout!(DomctlHvmcontextPartial, 24, { type_: 0, instance: 4, bufsz: 8, buffer: 16 });
    layout!(DomctlHypercallInit, 8, { gmfn: 0 });
    layout!(DomctlIomemPermission, 24, { first_mfn: 0, nr_mfns: 8, allow_access: 16 });
    layout!(DomctlIoportMapping, 16, { first_gport: 0, first_mport: 4, nr_ports: 8, add_mapping: 12 });
    layout!(DomctlIoportPermission, 12, { first_port: 0, nr_ports: 4, allow_access: 8 });
    layout!(DomctlIrqPermission, 8, { pirq: 0, allow_access: 4 });
    layout!(DomctlMaxMem, 8, { max_memkb: 0 });
    layout!(DomctlMaxVcpus, 4, { max: 0 });
    layout!(DomctlMemoryMapping, 32, { first_gfn: 0, first_mfn: 8, nr_mfns: 16, add_mapping: 24 });
    layout!(DomctlNodeaffinity, 16, { nodemap: 0 });
    layout!(DomctlPagingMempool, 8, { size: 0 });
    layout!(DomctlSchedCredit, 4, { weight: 0, cap: 2 });
    layout!(DomctlSchedRtds, 12, { period: 0, budget: 4, flags: 8 });
    layout!(DomctlSchedVcpus, 16, { vcpus: 0, nr_vcpus: 8 });
    layout!(DomctlSchedparamVcpu, 16, { u: 0, vcpuid: 12 });
    layout!(DomctlSchedulerOp, 24, { sched_id: 0, cmd: 4, u: 8 });
    layout!(DomctlSendtrigger, 8, { trigger: 0, vcpu: 4 });
    layout!(DomctlSetTarget, 2, { target: 0 });
    layout!(DomctlSetVirqHandler, 4, { virq: 0 });
    layout!(DomctlSetdomainhandle, 16, { handle: 0 });
    layout!(DomctlSettimeoffset, 8, { time_offset_seconds: 0 });
    layout!(DomctlShadowOp, 40, { op: 0, mode: 4, mb: 8, dirty_bitmap: 16, pages: 24, stats: 32 });
    layout!(DomctlShadowOpStats, 8, { fault_count: 0, dirty_count: 4 });
    layout!(DomctlSubscribe, 4, { port: 0 });
    layout!(DomctlTscInfo, 24, { tsc_mode: 0, gtsc_khz: 4, incarnation: 8, elapsed_nsec: 16 });
    layout!(DomctlVcpuMsr, 16, { index: 0, reserved: 4, value: 8 });
    layout!(DomctlVcpuMsrs, 16, { vcpu: 0, msr_count: 4, msrs: 8 });
    layout!(DomctlVcpuaffinity, 40, { vcpu: 0, flags: 4, cpumap_hard: 8, cpumap_soft: 24 });
    layout!(DomctlVcpucontext, 16, { vcpu: 0, ctxt: 8 });
    layout!(DomctlVcpuextstate, 32, { vcpu: 0, xfeature_mask: 8, size: 16, buffer: 24 });
    layout!(DomctlVmtraceOp, 24, { cmd: 0, vcpu: 4, key: 8, value: 16 });
    layout!(DomctlVnuma, 48, { nr_vnodes: 0, nr_vmemranges: 4, nr_vcpus: 8, vdistance: 16, vcpu_to_vnode: 24, vnode_to_pnode: 32, vmemrange: 40 });
    layout!(MsrEntry, 16, { idx: 0, flags: 4, val: 8 });
    layout!(PtIrqMsi, 16, { gvec: 0, gflags: 4, gtable: 8 });
    layout!(PtIrqPci, 3, { bus: 0, device: 1, intx: 2 });
    layout!(TrapInfo, 16, { vector: 0, flags: 1, cs: 2, address: 8 });
    layout!(VcpuGuestContext, 5168, { fpu_ctxt: 0, flags: 512, user_regs: 520, trap_ctxt: 720, ldt_base: 4816, ldt_ents: 4824, gdt_frames: 4832, gdt_ents: 4960, kernel_ss: 4968, kernel_sp: 4976, ctrlreg: 4984, debugreg: 5048, event_callback_eip: 5112, failsafe_callback_eip: 5120, syscall_callback_eip: 5128, vm_assist: 5136, fs_base: 5144, gs_base_kernel: 5152, gs_base_user: 5160 });
}

#[test]
fn event_channel() {
    use abi::event_channel::*;
    layout!(EvtchnAllocUnbound, 8, { dom: 0, remote_dom: 2, port: 4 });
    layout!(EvtchnBindInterdomain, 12, { remote_dom: 0, remote_port: 4, local_port: 8 });
    layout!(EvtchnBindIpi, 8, { vcpu: 0, port: 4 });
    layout!(EvtchnBindPirq, 12, { pirq: 0, flags: 4, port: 8 });
    layout!(EvtchnBindVcpu, 8, { port: 0, vcpu: 4 });
    layout!(EvtchnBindVirq, 12, { virq: 0, vcpu: 4, port: 8 });
    layout!(EvtchnExpandArray, 8, { array_gfn: 0 });
    layout!(EvtchnFifoControlBlock, 72, { ready: 0, head: 8 });
    layout!(EvtchnInitControl, 24, { control_gfn: 0, offset: 8, vcpu: 12, link_bits: 16 });
    layout!(EvtchnPortArg, 4, { port: 0 });
    layout!(EvtchnReset, 2, { dom: 0 });
    layout!(EvtchnSetPriority, 8, { port: 0, priority: 4 });
    layout!(EvtchnStatus, 24, { dom: 0, port: 4, status: 8, vcpu: 12, u: 16 });
}

#[test]
fn grant() {
    use abi::grant::*;
    layout!(GnttabCacheFlush, 16, { a: 0, offset: 8, length: 10, op: 12 });
    layout!(GnttabCopy, 40, { source: 0, dest: 16, len: 32, flags: 34, status: 36 });
    layout!(GnttabCopyPtr, 16, { u: 0, domid: 8, offset: 10 });
    layout!(GnttabDumpTable, 4, { dom: 0, status: 2 });
    layout!(GnttabGetStatusFrames, 16, { nr_frames: 0, dom: 4, status: 6, frame_list: 8 });
    layout!(GnttabGetVersion, 8, { dom: 0, version: 4 });
    layout!(GnttabMapGrantRef, 32, { host_addr: 0, flags: 8, ref_: 12, dom: 16, status: 18, handle: 20, dev_bus_addr: 24 });
    layout!(GnttabQuerySize, 16, { dom: 0, nr_frames: 4, max_nr_frames: 8, status: 12 });
    layout!(GnttabSetVersion, 4, { version: 0 });
    layout!(GnttabSetupTable, 24, { dom: 0, nr_frames: 4, status: 8, frame_list: 16 });
    layout!(GnttabSwapGrantRef, 12, { ref_a: 0, ref_b: 4, status: 8 });
    layout!(GnttabTransfer, 24, { mfn: 0, domid: 8, ref_: 12, status: 16 });
    layout!(GnttabUnmapAndReplace, 24, { host_addr: 0, new_addr: 8, handle: 16, status: 20 });
    layout!(GnttabUnmapGrantRef, 24, { host_addr: 0, dev_bus_addr: 8, handle: 16, status: 20 });
    layout!(GrantEntryHeader, 4, { flags: 0, domid: 2 });
    layout!(GrantEntryV1, 8, { flags: 0, domid: 2, frame: 4 });
    layout!(GrantEntryV2, 16, {});
    layout!(GrantEntryV2FullPage, 16, { hdr: 0, frame: 8 });
    layout!(GrantEntryV2SubPage, 16, { hdr: 0, page_off: 4, length: 6, frame: 8 });
}

#[test]
fn handle() {
    use abi::handle::*;
    layout!(Bitmap, 16, { bitmap: 0, nr_bits: 8 });
}

#[test]
fn hvm() {
    use abi::hvm::*;
    layout!(HvmEvtchnUpcallVector, 8, { vcpu: 0, vector: 4 });
    layout!(HvmGetMemType, 16, { domid: 0, mem_type: 2, pfn: 8 });
    layout!(HvmGetTime, 8, { now: 0 });
    layout!(HvmPagetableDying, 16, { domid: 0, gpa: 8 });
    layout!(HvmParam, 16, { domid: 0, index: 4, value: 8 });
}

#[test]
fn hvm_save() {
    use abi::hvm_save::*;
    layout!(HvmHwCpu, 1032, { fpu_regs: 0, rax: 512, rbx: 520, rcx: 528, rdx: 536, rbp: 544, rsi: 552, rdi: 560, rsp: 568, r8: 576, r9: 584, r10: 592, r11: 600, r12: 608, r13: 616, r14: 624, r15: 632, rip: 640, rflags: 648, cr0: 656, cr2: 664, cr3: 672, cr4: 680, dr0: 688, dr1: 696, dr2: 704, dr3: 712, dr6: 720, dr7: 728, cs_sel: 736, ds_sel: 740, es_sel: 744, fs_sel: 748, gs_sel: 752, ss_sel: 756, tr_sel: 760, ldtr_sel: 764, cs_limit: 768, ds_limit: 772, es_limit: 776, fs_limit: 780, gs_limit: 784, ss_limit: 788, tr_limit: 792, ldtr_limit: 796, idtr_limit: 800, gdtr_limit: 804, cs_base: 808, ds_base: 816, es_base: 824, fs_base: 832, gs_base: 840, ss_base: 848, tr_base: 856, ldtr_base: 864, idtr_base: 872, gdtr_base: 880, cs_arbytes: 888, ds_arbytes: 892, es_arbytes: 896, fs_arbytes: 900, gs_arbytes: 904, ss_arbytes: 908, tr_arbytes: 912, ldtr_arbytes: 916, sysenter_cs: 920, sysenter_esp: 928, sysenter_eip: 936, shadow_gs: 944, msr_flags: 952, msr_lstar: 960, msr_star: 968, msr_cstar: 976, msr_syscall_mask: 984, msr_efer: 992, msr_tsc_aux: 1000, tsc: 1008, pending_event: 1016, error_code: 1020, flags: 1024 });
    layout!(HvmHwCpuXsave, 600, { xfeature_mask: 0, xcr0: 8, xcr0_accum: 16, fpu_sse: 24, xstate_bv: 536, xcomp_bv: 544, reserved: 552 });
    layout!(HvmHwLapic, 24, { apic_base_msr: 0, disabled: 8, timer_divisor: 12, tdt_msr: 16 });
    layout!(HvmHwLapicRegs, 1024, { data: 0 });
    layout!(HvmHwMtrr, 240, { msr_pat_cr: 0, msr_mtrr_var: 8, msr_mtrr_fixed: 136, msr_mtrr_cap: 224, msr_mtrr_def_type: 232 });
    layout!(HvmMsrHeader, 8, { count: 0 });
    layout!(HvmOneMsr, 16, { index: 0, val: 8 });
    layout!(HvmSaveDescriptor, 8, { typecode: 0, instance: 2, length: 4 });
    layout!(HvmSaveHeader, 24, { magic: 0, version: 4, changeset: 8, cpuid: 16, gtsc_khz: 20 });
    layout!(HvmTscAdjust, 8, { tsc_adjust: 0 });
    layout!(HvmVmceVcpu, 32, { caps: 0, mci_ctl2_bank0: 8, mci_ctl2_bank1: 16, mcg_ext_ctl: 24 });
}

#[test]
fn hypercall() {
    use abi::hypercall::*;
    layout!(MulticallEntry, 64, { op: 0, result: 8, args: 16 });
}

#[test]
fn memory() {
    use abi::memory::*;
    layout!(AddToPhysmap, 24, { domid: 0, size: 2, space: 4, idx: 8, gpfn: 16 });
    layout!(AddToPhysmapBatch, 32, { domid: 0, space: 2, size: 4, foreign_domid: 6, idxs: 8, gpfns: 16, errs: 24 });
    layout!(ForeignMemoryMap, 24, { domid: 0, map: 8 });
    layout!(MemAcquireResource, 32, { domid: 0, type_: 2, id: 4, nr_frames: 8, frame: 16, frame_list: 24 });
    layout!(MemoryDomain, 2, { domid: 0 });
    layout!(MemoryExchange, 72, { in_: 0, out: 32, nr_exchanged: 64 });
    layout!(MemoryMap, 16, { nr_entries: 0, buffer: 8 });
    layout!(MemoryReservation, 32, { extent_start: 0, nr_extents: 8, extent_order: 16, mem_flags: 20, domid: 24 });
    layout!(PodTarget, 40, { target_pages: 0, tot_pages: 8, pod_cache_pages: 16, pod_entries: 24, domid: 32 });
    layout!(RemoveFromPhysmap, 16, { domid: 0, gpfn: 8 });
    layout!(ReservedDeviceMemory, 16, { start_pfn: 0, nr_pages: 8 });
    layout!(ReservedDeviceMemoryMap, 24, { flags: 0, nr_entries: 4, buffer: 8, dev: 16 });
    layout!(Vmemrange, 24, { start: 0, end: 8, flags: 16, nid: 20 });
    layout!(VnumaTopologyInfo, 40, { domid: 0, nr_vnodes: 4, nr_vcpus: 8, nr_vmemranges: 12, vdistance: 16, vcpu_to_vnode: 24, vmemrange: 32 });
}

#[test]
fn netif() {
    use abi::io::netif::*;
    layout!(NetifCtrlRequest, 16, { id: 0, type_: 2, data: 4 });
    layout!(NetifCtrlResponse, 12, { id: 0, type_: 2, status: 4, data: 8 });
    layout!(NetifExtraInfo, 8, { type_: 0, flags: 1, u: 2 });
    layout!(NetifRxRequest, 8, { id: 0, gref: 4 });
    layout!(NetifRxResponse, 8, { id: 0, offset: 2, flags: 4, status: 6 });
    layout!(NetifTxRequest, 12, { gref: 0, offset: 4, flags: 6, id: 8, size: 10 });
    layout!(NetifTxResponse, 4, { id: 0, status: 2 });
}

#[test]
fn physdev() {
    use abi::physdev::*;
    layout!(PhysdevDbgpOp, 6, { op: 0, bus: 1, pci: 2 });
    layout!(PhysdevGetFreePirq, 8, { type_: 0, pirq: 4 });
    layout!(PhysdevIrq, 4, { irq: 0 });
    layout!(PhysdevIrqStatusQuery, 8, { irq: 0, flags: 4 });
    layout!(PhysdevMapPirq, 40, { domid: 0, type_: 4, index: 8, pirq: 12, bus: 16, devfn: 20, entry_nr: 24, table_base: 32 });
    layout!(PhysdevPciDevice, 4, { seg: 0, bus: 2, devfn: 3 });
    layout!(PhysdevPciDeviceAdd, 12, { seg: 0, bus: 2, devfn: 3, flags: 4, physfn: 8 });
    layout!(PhysdevPciFunction, 2, { bus: 0, devfn: 1 });
    layout!(PhysdevPciMmcfgReserved, 16, { address: 0, segment: 8, start_bus: 10, end_bus: 11, flags: 12 });
    layout!(PhysdevSetupGsi, 8, { gsi: 0, triggering: 4, polarity: 5 });
    layout!(PhysdevUnmapPirq, 8, { domid: 0, pirq: 4 });
}

#[test]
fn platform() {
    use abi::platform::*;
    layout!(PlatformOp, 136, { cmd: 0, interface_version: 4, u: 8 });
    layout!(XenpfChangeFreq, 16, { flags: 0, cpu: 4, freq: 8 });
    layout!(XenpfCoreParking, 8, { type_: 0, idle_nums: 4 });
    layout!(XenpfCpuOl, 4, { cpuid: 0 });
    layout!(XenpfDiskInfo, 16, { device: 0, version: 1, interface_support: 2, legacy_max_cylinder: 4, legacy_max_head: 6, legacy_sectors_per_track: 7, edd_params: 8 });
    layout!(XenpfEfiCfg, 16, { addr: 0, nent: 8 });
    layout!(XenpfEfiMem, 32, { addr: 0, size: 8, attr: 16, type_: 24 });
    layout!(XenpfEfiVendor, 16, { revision: 0, bufsz: 4, name: 8 });
    layout!(XenpfEnterAcpiSleep, 12, { val_a: 0, val_b: 2, sleep_state: 4, flags: 8 });
    layout!(XenpfFirmwareInfo, 40, { type_: 0, index: 4, u: 8 });
    layout!(XenpfGetidletime, 32, { cpumap_bitmap: 0, cpumap_nr_cpus: 8, idletime: 16, now: 24 });
    layout!(XenpfMicrocodeUpdate, 16, { data: 0, length: 8 });
    layout!(XenpfPcpuVersion, 32, { xen_cpuid: 0, max_present: 4, vendor_id: 8, family: 20, model: 24, stepping: 28 });
    layout!(XenpfPcpuinfo, 20, { xen_cpuid: 0, max_present: 4, flags: 8, apic_id: 12, acpi_id: 16 });
    layout!(XenpfResourceEntry, 24, { u: 0, rsvd: 4, idx: 8, val: 16 });
    layout!(XenpfResourceOp, 16, { nr_entries: 0, cpu: 4, entries: 8 });
    layout!(XenpfSettime32, 16, { secs: 0, nsecs: 4, system_time: 8 });
    layout!(XenpfSettime64, 24, { secs: 0, nsecs: 8, mbz: 12, system_time: 16 });
    layout!(XenpfSymdata, 32, { namelen: 0, symnum: 4, name: 8, address: 16, type_: 24 });
}

#[test]
fn sched() {
    use abi::sched::*;
    layout!(SchedPinOverride, 4, { pcpu: 0 });
    layout!(SchedPoll, 24, { ports: 0, nr_ports: 8, timeout: 16 });
    layout!(SchedRemoteShutdown, 8, { domain_id: 0, reason: 4 });
    layout!(SchedShutdown, 4, { reason: 0 });
    layout!(SchedWatchdog, 8, { id: 0, timeout: 4 });
}

#[test]
fn shared_info() {
    use abi::shared_info::*;
    layout!(ArchSharedInfo, 48, { max_pfn: 0, pfn_to_mfn_frame_list_list: 8, nmi_reason: 16, p2m_cr3: 24, p2m_vaddr: 32, p2m_generation: 40 });
    layout!(ArchVcpuInfo, 16, { cr2: 0 });
    layout!(SharedInfo, 3136, { vcpu_info: 0, evtchn_pending: 2048, evtchn_mask: 2560, wc_version: 3072, wc_sec: 3076, wc_nsec: 3080, wc_sec_hi: 3084, arch: 3088 });
    layout!(VcpuInfo, 64, { evtchn_upcall_pending: 0, evtchn_upcall_mask: 1, evtchn_pending_sel: 8, arch: 16, time: 32 });
    layout!(VcpuTimeInfo, 32, { version: 0, tsc_timestamp: 8, system_time: 16, tsc_to_system_mul: 24, tsc_shift: 28, flags: 29 });
}

#[test]
fn start_info() {
    use abi::start_info::*;
    layout!(HvmMemmapTableEntry, 24, { addr: 0, size: 8, type_: 16, reserved: 20 });
    layout!(HvmModlistEntry, 32, { size: 8, cmdline_paddr: 16, reserved: 24 });
    layout!(HvmStartInfo, 56, { magic: 0, version: 4, flags: 8, nr_modules: 12, modlist_paddr: 16, cmdline_paddr: 24, rsdp_paddr: 32, memmap_paddr: 40, memmap_entries: 48, reserved: 52 });
}

#[test]
fn sysctl() {
    use abi::sysctl::*;
    layout!(Sysctl, 136, { cmd: 0, interface_version: 4, u: 8 });
    layout!(SysctlAvailheap, 24, { min_bitwidth: 0, max_bitwidth: 4, node: 8, avail_bytes: 16 });
    layout!(SysctlCpuFeatureset, 16, { index: 0, nr_features: 4, features: 8 });
    layout!(SysctlCpuHotplug, 8, { cpu: 0, op: 4 });
    layout!(SysctlCpuLevellingCaps, 4, { caps: 0 });
    layout!(SysctlCpuPolicy, 32, { index: 0, nr_leaves: 4, nr_msrs: 8, leaves: 16, msrs: 24 });
    layout!(SysctlCpuinfo, 8, { idletime: 0 });
    layout!(SysctlCpupoolOp, 40, { op: 0, cpupool_id: 4, sched_id: 8, domid: 12, cpu: 16, n_dom: 20, cpumap: 24 });
    layout!(SysctlCputopo, 12, { core: 0, socket: 4, node: 8 });
    layout!(SysctlCputopoinfo, 16, { num_cpus: 0, cputopo: 8 });
    layout!(SysctlCredit2Schedule, 4, { ratelimit_us: 0 });
    layout!(SysctlCreditSchedule, 12, { tslice_ms: 0, ratelimit_us: 4, vcpu_migr_delay_us: 8 });
    layout!(SysctlDebugKeys, 16, { keys: 0, nr_keys: 8 });
    layout!(SysctlGetcpuinfo, 24, { max_cpus: 0, info: 8, nr_cpus: 16 });
    layout!(SysctlGetdomaininfolist, 24, { first_domain: 0, max_domains: 4, buffer: 8, num_domains: 16 });
    layout!(SysctlMeminfo, 16, { memsize: 0, memfree: 8 });
    layout!(SysctlNumainfo, 24, { num_nodes: 0, meminfo: 8, distance: 16 });
    layout!(SysctlPcitopoinfo, 24, { num_devs: 0, devs: 8, nodes: 16 });
    layout!(SysctlPhysinfo, 112, { threads_per_core: 0, cores_per_socket: 4, nr_cpus: 8, max_cpu_id: 12, nr_nodes: 16, max_node_id: 20, cpu_khz: 24, capabilities: 28, arch_capabilities: 32, total_pages: 40, free_pages: 48, scrub_pages: 56, outstanding_pages: 64, max_mfn: 72, hw_cap: 80 });
    layout!(SysctlReadconsole, 24, { clear: 0, incremental: 1, index: 4, buffer: 8, count: 16 });
    layout!(SysctlSchedId, 4, { sched_id: 0 });
    layout!(SysctlSchedulerOp, 32, { cpupool_id: 0, sched_id: 4, cmd: 8, u: 16 });
}

#[test]
fn vcpu() {
    use abi::vcpu::*;
    layout!(VcpuGetPhysid, 8, { phys_id: 0 });
    layout!(VcpuHvmContext, 128, { mode: 0, cpu_regs: 8 });
    layout!(VcpuHvmX8632, 120, { eax: 0, ecx: 4, edx: 8, ebx: 12, esp: 16, ebp: 20, esi: 24, edi: 28, eip: 32, eflags: 36, cr0: 40, cr3: 44, cr4: 48, efer: 56, cs_base: 64, ds_base: 68, ss_base: 72, es_base: 76, tr_base: 80, cs_limit: 84, ds_limit: 88, ss_limit: 92, es_limit: 96, tr_limit: 100, cs_ar: 104, ds_ar: 106, ss_ar: 108, es_ar: 110, tr_ar: 112 });
    layout!(VcpuHvmX8664, 112, { rax: 0, rcx: 8, rdx: 16, rbx: 24, rsp: 32, rbp: 40, rsi: 48, rdi: 56, rip: 64, rflags: 72, cr0: 80, cr3: 88, cr4: 96, efer: 104 });
    layout!(VcpuRegisterRunstateMemoryArea, 8, { addr: 0 });
    layout!(VcpuRegisterTimeMemoryArea, 8, { addr: 0 });
    layout!(VcpuRegisterVcpuInfo, 16, { mfn: 0, offset: 8, rsvd: 12 });
    layout!(VcpuRunstateInfo, 48, { state: 0, state_entry_time: 8, time: 16 });
    layout!(VcpuSetPeriodicTimer, 8, { period_ns: 0 });
    layout!(VcpuSetSingleshotTimer, 16, { timeout_abs_ns: 0, flags: 8 });
}

#[test]
fn version() {
    use abi::version::*;
    layout!(BuildId, 4, { len: 0 });
    layout!(CompileInfo, 144, { compiler: 0, compile_by: 64, compile_domain: 80, compile_date: 112 });
    layout!(FeatureInfo, 8, { submap_idx: 0, submap: 4 });
    layout!(PlatformParameters, 8, { virt_start: 0 });
}

#[test]
fn xs_wire() {
    use abi::io::xs_wire::*;
    layout!(XenstoreDomainInterface, 2076, { req: 0, rsp: 1024, req_cons: 2048, req_prod: 2052, rsp_cons: 2056, rsp_prod: 2060, server_features: 2064, connection: 2068, error: 2072 });
    layout!(XsdSockmsg, 16, { type_: 0, req_id: 4, tx_id: 8, len: 12 });
}

/// Not single structures in the headers: the E820 entry is the BIOS's, the ring header a macro's
/// beginning, the transitive grant shorter than the union it stands for.
#[test]
fn without_a_c_name() {
    use abi::grant::GrantEntryV2Transitive;
    use abi::io::ring::SringHeader;
    use abi::memory::E820Entry;
    layout!(E820Entry, 20, { addr: 0, size: 8, type_: 16 });
    layout!(SringHeader, 64, { req_prod: 0, req_event: 4, rsp_prod: 8, rsp_event: 12 });
    layout!(GrantEntryV2Transitive, 16, { hdr: 0, trans_domid: 4, gref: 8 });
}
