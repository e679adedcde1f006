//! `dm_op` (hypercall 41): what a device model may do to its domain, and the request pages.
//!
//! Arguments are the domain id, a number of [`DmOpBuf`]s and their array; the first buffer holds a
//! [`DmOp`].

use crate::event_channel::EvtchnPort;
use crate::{GuestHandle, Union};

/// Id of an ioreq server.
pub type Ioservid = u16;

/// [`DmOpCreateIoreqServer`].
pub const XEN_DMOP_CREATE_IOREQ_SERVER: u32 = 1;
/// [`DmOpGetIoreqServerInfo`].
pub const XEN_DMOP_GET_IOREQ_SERVER_INFO: u32 = 2;
/// [`DmOpIoreqServerRange`].
pub const XEN_DMOP_MAP_IO_RANGE_TO_IOREQ_SERVER: u32 = 3;
/// [`DmOpIoreqServerRange`].
pub const XEN_DMOP_UNMAP_IO_RANGE_FROM_IOREQ_SERVER: u32 = 4;
/// [`DmOpSetIoreqServerState`].
pub const XEN_DMOP_SET_IOREQ_SERVER_STATE: u32 = 5;
/// [`DmOpDestroyIoreqServer`].
pub const XEN_DMOP_DESTROY_IOREQ_SERVER: u32 = 6;
/// [`DmOpTrackDirtyVram`]; the second buffer takes the bitmap.
pub const XEN_DMOP_TRACK_DIRTY_VRAM: u32 = 7;
/// [`DmOpSetPciIntxLevel`].
pub const XEN_DMOP_SET_PCI_INTX_LEVEL: u32 = 8;
/// [`DmOpSetIsaIrqLevel`].
pub const XEN_DMOP_SET_ISA_IRQ_LEVEL: u32 = 9;
/// [`DmOpSetPciLinkRoute`].
pub const XEN_DMOP_SET_PCI_LINK_ROUTE: u32 = 10;
/// [`DmOpModifiedMemory`]; the second buffer holds [`DmOpModifiedMemoryExtent`]s.
pub const XEN_DMOP_MODIFIED_MEMORY: u32 = 11;
/// [`DmOpSetMemType`].
pub const XEN_DMOP_SET_MEM_TYPE: u32 = 12;
/// [`DmOpInjectEvent`].
pub const XEN_DMOP_INJECT_EVENT: u32 = 13;
/// [`DmOpInjectMsi`].
pub const XEN_DMOP_INJECT_MSI: u32 = 14;
/// [`DmOpMapMemTypeToIoreqServer`].
pub const XEN_DMOP_MAP_MEM_TYPE_TO_IOREQ_SERVER: u32 = 15;
/// [`DmOpRemoteShutdown`].
pub const XEN_DMOP_REMOTE_SHUTDOWN: u32 = 16;
/// [`DmOpRelocateMemory`].
pub const XEN_DMOP_RELOCATE_MEMORY: u32 = 17;
/// [`DmOpPinMemoryCacheattr`].
pub const XEN_DMOP_PIN_MEMORY_CACHEATTR: u32 = 18;
/// Arm only.
pub const XEN_DMOP_SET_IRQ_LEVEL: u32 = 19;
/// [`DmOpNrVcpus`].
pub const XEN_DMOP_NR_VCPUS: u32 = 20;

/// [`DmOpCreateIoreqServer::handle_bufioreq`]: no buffered requests.
pub const HVM_IOREQSRV_BUFIOREQ_OFF: u8 = 0;
/// [`DmOpCreateIoreqServer::handle_bufioreq`]: pointers are written one by one.
pub const HVM_IOREQSRV_BUFIOREQ_LEGACY: u8 = 1;
/// [`DmOpCreateIoreqServer::handle_bufioreq`]: both pointers are written at once.
pub const HVM_IOREQSRV_BUFIOREQ_ATOMIC: u8 = 2;
/// [`DmOpGetIoreqServerInfo::flags`]: the frames are not wanted.
pub const XEN_DMOP_NO_GFNS: u16 = 1 << 0;
/// Range of ports.
pub const XEN_DMOP_IO_RANGE_PORT: u32 = 0;
/// Range of memory.
pub const XEN_DMOP_IO_RANGE_MEMORY: u32 = 1;
/// Range of PCI configuration space: segment 31-16, bus 15-8, device 7-3, function 2-0.
pub const XEN_DMOP_IO_RANGE_PCI: u32 = 2;
/// Inject an external interrupt.
pub const XEN_DMOP_EVENT_EXT_INT: u8 = 0;
/// Inject an NMI.
pub const XEN_DMOP_EVENT_NMI: u8 = 2;
/// Inject an exception.
pub const XEN_DMOP_EVENT_HW_EXC: u8 = 3;
/// Inject a software interrupt.
pub const XEN_DMOP_EVENT_SW_INT: u8 = 4;
/// Inject a privileged software exception (ICEBP).
pub const XEN_DMOP_EVENT_PRI_SW_EXC: u8 = 5;
/// Inject a software exception (INT3, INTO).
pub const XEN_DMOP_EVENT_SW_EXC: u8 = 6;
/// [`DmOpMapMemTypeToIoreqServer::flags`]: reads.
pub const XEN_DMOP_IOREQ_MEM_ACCESS_READ: u32 = 1 << 0;
/// [`DmOpMapMemTypeToIoreqServer::flags`]: writes.
pub const XEN_DMOP_IOREQ_MEM_ACCESS_WRITE: u32 = 1 << 1;
/// [`DmOpPinMemoryCacheattr::type_`]: remove the range.
pub const XEN_DMOP_DELETE_MEM_CACHEATTR: u32 = u32::MAX;

/// [`Ioreq::flags`]: free.
pub const STATE_IOREQ_NONE: u8 = 0;
/// [`Ioreq::flags`]: for the device model to take.
pub const STATE_IOREQ_READY: u8 = 1;
/// [`Ioreq::flags`]: taken.
pub const STATE_IOREQ_INPROCESS: u8 = 2;
/// [`Ioreq::flags`]: answered.
pub const STATE_IORESP_READY: u8 = 3;
/// [`Ioreq::flags`]: mask of the state.
pub const IOREQ_STATE_MASK: u8 = 0xf;
/// [`Ioreq::flags`]: `data` is the guest-physical address of the data.
pub const IOREQ_DATA_IS_PTR: u8 = 1 << 4;
/// [`Ioreq::flags`]: a read.
pub const IOREQ_DIR_READ: u8 = 1 << 5;
/// [`Ioreq::flags`]: addresses descend.
pub const IOREQ_DF: u8 = 1 << 6;
/// [`Ioreq::type_`]: ports.
pub const IOREQ_TYPE_PIO: u8 = 0;
/// [`Ioreq::type_`]: memory.
pub const IOREQ_TYPE_COPY: u8 = 1;
/// [`Ioreq::type_`]: PCI configuration space.
pub const IOREQ_TYPE_PCI_CONFIG: u8 = 2;
/// [`Ioreq::type_`]: the guest set its clock.
pub const IOREQ_TYPE_TIMEOFFSET: u8 = 7;
/// [`Ioreq::type_`]: drop cached mappings.
pub const IOREQ_TYPE_INVALIDATE: u8 = 8;
/// Slots of a [`BufferedIopage`].
pub const IOREQ_BUFFER_SLOT_NUM: usize = 511;

plain! {
    /// A buffer of the caller.
    pub struct DmOpBuf {
        /// Where.
        pub h: GuestHandle<u8>,
        /// Bytes.
        pub size: u64,
    }
    /// The first buffer.
    pub struct DmOp {
        /// `XEN_DMOP_*`.
        pub op: u32,
        /// Zero.
        pub pad: u32,
        /// The structure named by `op`.
        pub u: Union<3>,
    }
    /// Make an ioreq server.
    pub struct DmOpCreateIoreqServer {
        /// `HVM_IOREQSRV_BUFIOREQ_*`.
        pub handle_bufioreq: u8,
        /// Zero.
        pub pad: [u8; 3],
        /// Out: its id.
        pub id: Ioservid,
    }
    /// Where an ioreq server's pages and port are.
    pub struct DmOpGetIoreqServerInfo {
        /// The server.
        pub id: Ioservid,
        /// [`XEN_DMOP_NO_GFNS`].
        pub flags: u16,
        /// Out: port of buffered requests.
        pub bufioreq_port: EvtchnPort,
        /// Out: frame of requests.
        pub ioreq_gfn: u64,
        /// Out: frame of buffered requests.
        pub bufioreq_gfn: u64,
    }
    /// A range an ioreq server handles.
    pub struct DmOpIoreqServerRange {
        /// The server.
        pub id: Ioservid,
        /// Zero.
        pub pad: u16,
        /// `XEN_DMOP_IO_RANGE_*`.
        pub type_: u32,
        /// First.
        pub start: u64,
        /// Last, inclusive.
        pub end: u64,
    }
    /// Turn an ioreq server on or off.
    pub struct DmOpSetIoreqServerState {
        /// The server.
        pub id: Ioservid,
        /// 1 on, 0 off.
        pub enabled: u8,
        /// Zero.
        pub pad: u8,
    }
    /// Destroy an ioreq server.
    pub struct DmOpDestroyIoreqServer {
        /// The server.
        pub id: Ioservid,
        /// Zero.
        pub pad: u16,
    }
    /// Which pages of video memory changed.
    pub struct DmOpTrackDirtyVram {
        /// Pages.
        pub nr: u32,
        /// Zero.
        pub pad: u32,
        /// First.
        pub first_pfn: u64,
    }
    /// Level of a PCI interrupt line.
    pub struct DmOpSetPciIntxLevel {
        /// Segment.
        pub domain: u16,
        /// Bus.
        pub bus: u8,
        /// Device.
        pub device: u8,
        /// Line, 0 is INTA.
        pub intx: u8,
        /// Level.
        pub level: u8,
    }
    /// Level of an ISA interrupt.
    pub struct DmOpSetIsaIrqLevel {
        /// Interrupt.
        pub isa_irq: u8,
        /// Level.
        pub level: u8,
    }
    /// Route a PCI link to an ISA interrupt.
    pub struct DmOpSetPciLinkRoute {
        /// Link, 0 to 3.
        pub link: u8,
        /// Interrupt, 0 for none.
        pub isa_irq: u8,
    }
    /// The device model wrote memory.
    pub struct DmOpModifiedMemory {
        /// Extents in the second buffer.
        pub nr_extents: u32,
        /// In: 0; progress of a continuation.
        pub opaque: u32,
    }
    /// One extent of it.
    pub struct DmOpModifiedMemoryExtent {
        /// Pages.
        pub nr: u32,
        /// Zero.
        pub pad: u32,
        /// First.
        pub first_pfn: u64,
    }
    /// Change the type of pages.
    pub struct DmOpSetMemType {
        /// Pages.
        pub nr: u32,
        /// `HVMMEM_*`.
        pub mem_type: u16,
        /// Zero.
        pub pad: u16,
        /// First.
        pub first_pfn: u64,
    }
    /// Inject an event into a vCPU.
    pub struct DmOpInjectEvent {
        /// The vCPU.
        pub vcpuid: u32,
        /// Vector.
        pub vector: u8,
        /// `XEN_DMOP_EVENT_*`.
        pub type_: u8,
        /// Length of the instruction, for software events.
        pub insn_len: u8,
        /// Zero.
        pub pad0: u8,
        /// Error code, or all ones.
        pub error_code: u32,
        /// Zero.
        pub pad1: u32,
        /// CR2 of a page fault.
        pub cr2: u64,
    }
    /// Inject an MSI.
    pub struct DmOpInjectMsi {
        /// Data.
        pub data: u32,
        /// Zero.
        pub pad: u32,
        /// Address.
        pub addr: u64,
    }
    /// Let an ioreq server handle a memory type.
    pub struct DmOpMapMemTypeToIoreqServer {
        /// The server.
        pub id: Ioservid,
        /// `HVMMEM_*`.
        pub type_: u16,
        /// `XEN_DMOP_IOREQ_MEM_ACCESS_*`.
        pub flags: u32,
        /// In: 0; progress of a continuation.
        pub opaque: u64,
    }
    /// Shut the domain down.
    pub struct DmOpRemoteShutdown {
        /// `SHUTDOWN_*`.
        pub reason: u32,
    }
    /// Move pages.
    pub struct DmOpRelocateMemory {
        /// Pages.
        pub size: u32,
        /// Zero.
        pub pad: u32,
        /// From.
        pub src_gfn: u64,
        /// To.
        pub dst_gfn: u64,
    }
    /// Pin the memory type of a range.
    pub struct DmOpPinMemoryCacheattr {
        /// First frame.
        pub start: u64,
        /// Last frame, inclusive.
        pub end: u64,
        /// x86 memory type.
        pub type_: u32,
        /// Zero.
        pub pad: u32,
    }
    /// How many vCPUs the domain has.
    pub struct DmOpNrVcpus {
        /// Out: the number.
        pub vcpus: u32,
    }
    /// A request to the device model; one a vCPU in the page.
    pub struct Ioreq {
        /// Port or address.
        pub addr: u64,
        /// Data or its address.
        pub data: u64,
        /// Repetitions.
        pub count: u32,
        /// Bytes of each.
        pub size: u32,
        /// Port of this vCPU.
        pub vp_eport: EvtchnPort,
        /// Padding.
        pub pad: u16,
        /// State and flags: `STATE_*`, `IOREQ_*`.
        pub flags: u8,
        /// `IOREQ_TYPE_*`.
        pub type_: u8,
    }
    /// A buffered write.
    pub struct BufIoreq {
        /// Bits 0-7 `IOREQ_TYPE_*`, 9 direction, 10-11 log2 of the size, 12-31 address.
        pub header: u32,
        /// Data.
        pub data: u32,
    }
    /// The page of buffered writes.
    pub struct BufferedIopage {
        /// Next slot that the device model reads.
        pub read_pointer: u32,
        /// Next slot that the hypervisor writes.
        pub write_pointer: u32,
        /// The ring; an 8-byte write takes two slots.
        pub buf_ioreq: [BufIoreq; IOREQ_BUFFER_SLOT_NUM],
    }
}
