//! Sizes and offsets of the structures that i386 guests lay out otherwise, as a C compiler lays out the public headers of
//! Xen 4.17 on i386.

use core::mem::{offset_of, size_of};

use abi::{Compat, Narrow};

macro_rules! layout {
    ($name:ident, $size:literal, { $( $field:ident: $offset:literal ),* }) => {
        assert_eq!(size_of::<<$name as Compat>::I386>(), $size, concat!("size of ", stringify!($name)));
        $( assert_eq!(
            offset_of!(<$name as Compat>::I386, $field), $offset,
            concat!(stringify!($name), ".", stringify!($field))
        ); )*
    };
}

#[test]
fn event_channel() {
    use abi::event_channel::*;
    layout!(EvtchnStatus, 24, { u: 16 });
    layout!(EvtchnInitControl, 24, { control_gfn: 0, offset: 8 });
    layout!(EvtchnExpandArray, 8, {});
}

#[test]
fn grant() {
    use abi::grant::*;
    layout!(GnttabSetupTable, 16, { dom: 0, nr_frames: 4, status: 8, frame_list: 12 });
    layout!(GnttabTransfer, 16, { mfn: 0, domid: 4, ref_: 8, status: 12 });
    layout!(GnttabCopyPtr, 8, { u: 0, domid: 4, offset: 6 });
    layout!(GnttabCopy, 24, { source: 0, dest: 8, len: 16, flags: 18, status: 20 });
    layout!(GnttabGetStatusFrames, 12, { nr_frames: 0, dom: 4, status: 6, frame_list: 8 });
    layout!(GnttabMapGrantRef, 32, { dev_bus_addr: 24 });
    layout!(GnttabUnmapGrantRef, 24, { status: 20 });
    layout!(GnttabUnmapAndReplace, 24, { status: 20 });
    layout!(GnttabQuerySize, 16, { status: 12 });
    layout!(GnttabCacheFlush, 16, { op: 12 });
    layout!(GnttabSwapGrantRef, 12, { status: 8 });
}

#[test]
fn hvm_and_hypercall() {
    use abi::hvm::*;
    use abi::hypercall::MulticallEntry;
    layout!(HvmParam, 16, { value: 8 });
    layout!(HvmGetTime, 8, {});
    layout!(MulticallEntry, 32, { op: 0, result: 4, args: 8 });
}

#[test]
fn memory() {
    use abi::memory::*;
    layout!(MemoryReservation, 20, { extent_start: 0, nr_extents: 4, extent_order: 8, mem_flags: 12, domid: 16 });
    layout!(MemoryExchange, 44, { in_: 0, out: 20, nr_exchanged: 40 });
    layout!(AddToPhysmap, 16, { domid: 0, size: 2, space: 4, idx: 8, gpfn: 12 });
    layout!(AddToPhysmapBatch, 20, { domid: 0, space: 2, size: 4, foreign_domid: 6, idxs: 8, gpfns: 12, errs: 16 });
    layout!(RemoveFromPhysmap, 8, { domid: 0, gpfn: 4 });
    layout!(MemoryMap, 8, { nr_entries: 0, buffer: 4 });
    layout!(ForeignMemoryMap, 12, { domid: 0, map: 4 });
    layout!(PodTarget, 36, { pod_entries: 24, domid: 32 });
    layout!(ReservedDeviceMemory, 8, { start_pfn: 0, nr_pages: 4 });
    layout!(ReservedDeviceMemoryMap, 16, { flags: 0, nr_entries: 4, buffer: 8, dev: 12 });
    layout!(MemAcquireResource, 28, { domid: 0, type_: 2, id: 4, nr_frames: 8, pad: 12, frame: 16, frame_list: 24 });
    layout!(VnumaTopologyInfo, 40, { nr_vmemranges: 12, vdistance: 16, vcpu_to_vnode: 24, vmemrange: 32 });
    layout!(E820Entry, 20, { type_: 16 });
}

#[test]
fn physdev() {
    use abi::physdev::*;
    layout!(PhysdevMapPirq, 36, { entry_nr: 24, table_base: 28 });
    layout!(PhysdevPciMmcfgReserved, 16, { address: 0, flags: 12 });
    layout!(PhysdevPciDeviceAdd, 12, { flags: 4 });
}

#[test]
fn sched_and_version() {
    use abi::sched::SchedPoll;
    use abi::version::PlatformParameters;
    layout!(SchedPoll, 16, { ports: 0, nr_ports: 4, timeout: 8 });
    layout!(PlatformParameters, 4, {});
}

#[test]
fn vcpu() {
    use abi::vcpu::*;
    layout!(VcpuRunstateInfo, 44, { state: 0, state_entry_time: 4, time: 12 });
    layout!(VcpuRegisterRunstateMemoryArea, 8, { addr: 0 });
    layout!(VcpuRegisterTimeMemoryArea, 8, { addr: 0 });
    layout!(VcpuSetSingleshotTimer, 12, { flags: 8 });
    layout!(VcpuSetPeriodicTimer, 8, {});
    layout!(VcpuRegisterVcpuInfo, 16, { offset: 8 });
    layout!(VcpuHvmContext, 128, { cpu_regs: 8 });
}

#[test]
fn there_and_back_is_the_same() {
    use abi::GuestHandle;
    use abi::memory::*;
    let in_ = MemoryReservation {
        extent_start: GuestHandle::new(0xffff_f000),
        nr_extents: 0x8000_0000,
        extent_order: 9,
        mem_flags: u32::MAX,
        domid: 0x7ff0,
        pad: [0; 3],
    };
    let exchange = MemoryExchange {
        in_,
        out: MemoryReservation { nr_extents: 1, ..in_ },
        nr_exchanged: 7,
    };
    let narrow: CompatMemoryExchange = exchange.narrow();
    assert_eq!(MemoryExchange::widen(narrow), exchange);
}
