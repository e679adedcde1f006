//! `memory_op` (hypercall 12). Frame numbers of guests are `u64`s (`xen_pfn_t`).
//!
//! The command word carries the operation in its low 6 bits and, for operations on lists, the
//! continuation's start above them ([`MEMOP_EXTENT_SHIFT`]).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::physdev::PhysdevPciDevice;
use crate::start_info::HvmMemmapTableEntry;
use crate::{Domid, GuestHandle, Ulong};

/// Add memory ([`MemoryReservation`]).
pub const XENMEM_INCREASE_RESERVATION: u32 = 0;
/// Give memory back ([`MemoryReservation`]).
pub const XENMEM_DECREASE_RESERVATION: u32 = 1;
/// Returns the highest machine frame.
pub const XENMEM_MAXIMUM_RAM_PAGE: u32 = 2;
/// Returns a domain's pages ([`MemoryDomain`]).
pub const XENMEM_CURRENT_RESERVATION: u32 = 3;
/// Returns a domain's limit in pages ([`MemoryDomain`]).
pub const XENMEM_MAXIMUM_RESERVATION: u32 = 4;
/// PV: frames of the machine-to-physical table.
pub const XENMEM_MACHPHYS_MFN_LIST: u32 = 5;
/// Put memory at given frames ([`MemoryReservation`]).
pub const XENMEM_POPULATE_PHYSMAP: u32 = 6;
/// Map a special page ([`AddToPhysmap`]).
pub const XENMEM_ADD_TO_PHYSMAP: u32 = 7;
/// The caller's memory map ([`MemoryMap`]).
pub const XENMEM_MEMORY_MAP: u32 = 9;
/// The host's memory map ([`MemoryMap`]).
pub const XENMEM_MACHINE_MEMORY_MAP: u32 = 10;
/// Exchange memory ([`MemoryExchange`]).
pub const XENMEM_EXCHANGE: u32 = 11;
/// PV: where the machine-to-physical table is.
pub const XENMEM_MACHPHYS_MAPPING: u32 = 12;
/// Set a domain's memory map ([`ForeignMemoryMap`]).
pub const XENMEM_SET_MEMORY_MAP: u32 = 13;
/// Returns a domain's highest frame ([`MemoryDomain`]).
pub const XENMEM_MAXIMUM_GPFN: u32 = 14;
/// Unmap a page ([`RemoveFromPhysmap`]).
pub const XENMEM_REMOVE_FROM_PHYSMAP: u32 = 15;
/// Populate-on-demand target ([`PodTarget`]).
pub const XENMEM_SET_POD_TARGET: u32 = 16;
/// Read it ([`PodTarget`]).
pub const XENMEM_GET_POD_TARGET: u32 = 17;
/// Returns pages saved by sharing.
pub const XENMEM_GET_SHARING_FREED_PAGES: u32 = 18;
/// Returns pages shared.
pub const XENMEM_GET_SHARING_SHARED_PAGES: u32 = 19;
/// Memory paging.
pub const XENMEM_PAGING_OP: u32 = 20;
/// Memory access rights.
pub const XENMEM_ACCESS_OP: u32 = 21;
/// Memory sharing.
pub const XENMEM_SHARING_OP: u32 = 22;
/// Map many pages ([`AddToPhysmapBatch`]).
pub const XENMEM_ADD_TO_PHYSMAP_BATCH: u32 = 23;
/// Claim memory for later ([`MemoryReservation`]).
pub const XENMEM_CLAIM_PAGES: u32 = 24;
/// Virtual NUMA topology ([`VnumaTopologyInfo`]).
pub const XENMEM_GET_VNUMAINFO: u32 = 26;
/// Memory reserved for devices ([`ReservedDeviceMemoryMap`]).
pub const XENMEM_RESERVED_DEVICE_MEMORY_MAP: u32 = 27;
/// Map a resource of a domain ([`MemAcquireResource`]).
pub const XENMEM_ACQUIRE_RESOURCE: u32 = 28;

/// Width of the operation number in the command word.
pub const MEMOP_EXTENT_SHIFT: u32 = 6;
/// Mask of the operation number in the command word.
pub const MEMOP_CMD_MASK: u64 = (1 << MEMOP_EXTENT_SHIFT) - 1;

/// [`MemoryReservation::mem_flags`]: width limit of the address, low 8 bits.
pub const XENMEMF_ADDRESS_BITS_MASK: u32 = 0xff;
/// [`MemoryReservation::mem_flags`]: NUMA node plus one, from this bit.
pub const XENMEMF_NODE_SHIFT: u32 = 8;
/// [`MemoryReservation::mem_flags`]: populate on demand.
pub const XENMEMF_POPULATE_ON_DEMAND: u32 = 1 << 16;
/// [`MemoryReservation::mem_flags`]: fail rather than use another node.
pub const XENMEMF_EXACT_NODE_REQUEST: u32 = 1 << 17;
/// [`MemoryReservation::mem_flags`]: the node is a virtual one.
pub const XENMEMF_VNODE: u32 = 1 << 18;

/// The shared info page.
pub const XENMAPSPACE_SHARED_INFO: u32 = 0;
/// Frame `idx` of the grant table.
pub const XENMAPSPACE_GRANT_TABLE: u32 = 1;
/// Another of the domain's frames, which moves.
pub const XENMAPSPACE_GMFN: u32 = 2;
/// A range of them.
pub const XENMAPSPACE_GMFN_RANGE: u32 = 3;
/// A frame of another domain (batch only).
pub const XENMAPSPACE_GMFN_FOREIGN: u32 = 4;
/// A machine frame of a device (batch only).
pub const XENMAPSPACE_DEV_MMIO: u32 = 5;
/// In `idx` of grant table: a status frame.
pub const XENMAPIDX_GRANT_TABLE_STATUS: u64 = 0x8000_0000;

/// [`MemAcquireResource::type_`]: pages of an ioreq server.
pub const XENMEM_RESOURCE_IOREQ_SERVER: u16 = 0;
/// [`MemAcquireResource::type_`]: grant table.
pub const XENMEM_RESOURCE_GRANT_TABLE: u16 = 1;
/// [`MemAcquireResource::type_`]: trace buffer of a vCPU.
pub const XENMEM_RESOURCE_VMTRACE_BUF: u16 = 2;
/// [`MemAcquireResource::id`]: shared frames of the grant table.
pub const XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED: u32 = 0;
/// [`MemAcquireResource::id`]: status frames of the grant table.
pub const XENMEM_RESOURCE_GRANT_TABLE_ID_STATUS: u32 = 1;
/// [`MemAcquireResource::frame`]: the buffered ring; ioreq page `n` is `1 + n`.
pub const XENMEM_RESOURCE_IOREQ_SERVER_FRAME_BUFIOREQ: u64 = 0;
/// [`ReservedDeviceMemoryMap::flags`]: all devices.
pub const XENMEM_RDM_ALL: u32 = 1;

compat! {
    /// A list of extents of `1 << extent_order` pages.
    pub struct MemoryReservation as CompatMemoryReservation {
        /// First frame of each.
        pub extent_start: GuestHandle<Ulong> as u32,
        /// How many.
        pub nr_extents: u64 as u32,
        /// Log2 of the pages of each.
        pub extent_order: u32,
        /// `XENMEMF_*`.
        pub mem_flags: u32,
        /// Whose memory.
        pub domid: Domid,
        /// Padding.
        pub pad: [u16; 3] as u16,
    }
    /// Exchange `in` for `out`.
    pub struct MemoryExchange as CompatMemoryExchange {
        /// What is given.
        pub in_: MemoryReservation as CompatMemoryReservation,
        /// What is wanted.
        pub out: MemoryReservation as CompatMemoryReservation,
        /// Out: extents of `in_` done; zero on entry.
        pub nr_exchanged: u64 as u32,
    }
}

plain! {
    /// A domain to ask about.
    pub struct MemoryDomain {
        /// The domain.
        pub domid: Domid,
    }
}

compat! {
    /// Map one special page.
    pub struct AddToPhysmap as CompatAddToPhysmap {
        /// Into which domain.
        pub domid: Domid,
        /// Pages, for `XENMAPSPACE_GMFN_RANGE`.
        pub size: u16,
        /// `XENMAPSPACE_*`.
        pub space: u32,
        /// Which page of the space.
        pub idx: u64 as u32,
        /// Where to.
        pub gpfn: u64 as u32,
    }
    /// Map many pages.
    pub struct AddToPhysmapBatch as CompatAddToPhysmapBatch {
        /// Into which domain.
        pub domid: Domid,
        /// `XENMAPSPACE_*`.
        pub space: u16,
        /// Pages.
        pub size: u16,
        /// Owner of the pages, for `XENMAPSPACE_GMFN_FOREIGN`; else 0.
        pub foreign_domid: Domid,
        /// Which pages of the space.
        pub idxs: GuestHandle<Ulong> as u32,
        /// Where to.
        pub gpfns: GuestHandle<Ulong> as u32,
        /// Out: 0 or a negated errno for each.
        pub errs: GuestHandle<i32> as u32,
    }
    /// Unmap one page.
    pub struct RemoveFromPhysmap as CompatRemoveFromPhysmap {
        /// From which domain.
        pub domid: Domid,
        /// Padding.
        pub pad: [u16; 3] as u16,
        /// Frame.
        pub gpfn: u64 as u32,
    }
    /// A memory map in the caller's memory.
    pub struct MemoryMap as CompatMemoryMap {
        /// In: room; out: entries written (or needed, when the handle is null).
        pub nr_entries: u32,
        /// Padding.
        pub pad: u32 as (),
        /// Array of [`E820Entry`].
        pub buffer: GuestHandle<E820Entry> as u32,
    }
    /// Another domain's memory map.
    pub struct ForeignMemoryMap as CompatForeignMemoryMap {
        /// The domain.
        pub domid: Domid,
        /// Padding.
        pub pad: [u16; 3] as u16,
        /// The map.
        pub map: MemoryMap as CompatMemoryMap,
    }
    /// Populate on demand.
    pub struct PodTarget as CompatPodTarget {
        /// In: pages wanted.
        pub target_pages: u64,
        /// Out: pages owned.
        pub tot_pages: u64,
        /// Out: pages in the cache.
        pub pod_cache_pages: u64,
        /// Out: entries outstanding.
        pub pod_entries: u64,
        /// The domain.
        pub domid: Domid,
        /// Padding.
        pub pad: [u16; 3] as u16,
    }
    /// A range that devices use.
    pub struct ReservedDeviceMemory as CompatReservedDeviceMemory {
        /// First frame.
        pub start_pfn: u64 as u32,
        /// Pages.
        pub nr_pages: u64 as u32,
    }
    /// Ranges that devices use.
    pub struct ReservedDeviceMemoryMap as CompatReservedDeviceMemoryMap {
        /// [`XENMEM_RDM_ALL`].
        pub flags: u32,
        /// In: room; out: entries.
        pub nr_entries: u32,
        /// The ranges.
        pub buffer: GuestHandle<ReservedDeviceMemory> as u32,
        /// Which device, without [`XENMEM_RDM_ALL`].
        pub dev: PhysdevPciDevice,
        /// Padding.
        pub pad: u32 as (),
    }
    /// Map frames of a resource.
    pub struct MemAcquireResource as CompatMemAcquireResource {
        /// Owner.
        pub domid: Domid,
        /// `XENMEM_RESOURCE_*`.
        pub type_: u16,
        /// Which of that type.
        pub id: u32,
        /// In: frames wanted; out, with a null list: frames there are.
        pub nr_frames: u32,
        /// Zero.
        pub pad: u32,
        /// First frame of the resource.
        pub frame: u64,
        /// Where to map them (an input for auto-translated callers).
        pub frame_list: GuestHandle<Ulong> as u32,
    }
}

plain! {
    /// A range of virtual NUMA memory.
    pub struct Vmemrange {
        /// Start address.
        pub start: u64,
        /// End address.
        pub end: u64,
        /// Zero.
        pub flags: u32,
        /// Virtual node.
        pub nid: u32,
    }
}

compat! {
    /// Virtual NUMA topology.
    pub struct VnumaTopologyInfo as CompatVnumaTopologyInfo {
        /// The domain.
        pub domid: Domid,
        /// Zero.
        pub pad: u16,
        /// Nodes.
        pub nr_vnodes: u32,
        /// vCPUs.
        pub nr_vcpus: u32,
        /// Ranges.
        pub nr_vmemranges: u32,
        /// Distances, node by node.
        pub vdistance: GuestHandle<u32> as [u32; 2],
        /// Node of each vCPU.
        pub vcpu_to_vnode: GuestHandle<u32> as [u32; 2],
        /// The ranges.
        pub vmemrange: GuestHandle<Vmemrange> as [u32; 2],
    }
}

/// An E820 entry as `XENMEM_MEMORY_MAP` and `XENMEM_SET_MEMORY_MAP` pass it: 20 bytes, unlike
/// [`HvmMemmapTableEntry`].
#[repr(C, packed(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct E820Entry {
    /// Start.
    pub addr: u64,
    /// Bytes.
    pub size: u64,
    /// `XEN_HVM_MEMMAP_TYPE_*`.
    pub type_: u32,
}

impl From<E820Entry> for HvmMemmapTableEntry {
    fn from(entry: E820Entry) -> Self {
        Self {
            addr: entry.addr,
            size: entry.size,
            type_: entry.type_,
            reserved: 0,
        }
    }
}
