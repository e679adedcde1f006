//! `hvm_op` (hypercall 34) and the parameters of an HVM or PVH domain.

use crate::Domid;

/// Set a parameter ([`HvmParam`]).
pub const HVMOP_SET_PARAM: u32 = 0;
/// Get a parameter ([`HvmParam`]).
pub const HVMOP_GET_PARAM: u32 = 1;
/// Flush the TLBs of all vCPUs; no argument.
pub const HVMOP_FLUSH_TLBS: u32 = 5;
/// A page table is about to be freed ([`HvmPagetableDying`]).
pub const HVMOP_PAGETABLE_DYING: u32 = 9;
/// System time ([`HvmGetTime`]).
pub const HVMOP_GET_TIME: u32 = 10;
/// Type of a page ([`HvmGetMemType`]).
pub const HVMOP_GET_MEM_TYPE: u32 = 15;
/// Vector of event upcalls, per vCPU ([`HvmEvtchnUpcallVector`]).
pub const HVMOP_SET_EVTCHN_UPCALL_VECTOR: u32 = 23;
/// Raise a request to a monitor.
pub const HVMOP_GUEST_REQUEST_VM_EVENT: u32 = 24;
/// Alternate p2m.
pub const HVMOP_ALTP2M: u32 = 25;

/// How events are delivered: type in bits 63-56 (`HVM_PARAM_CALLBACK_TYPE_*`).
pub const HVM_PARAM_CALLBACK_IRQ: u32 = 0;
/// Frame of the xenstore page.
pub const HVM_PARAM_STORE_PFN: u32 = 1;
/// Port of xenstore.
pub const HVM_PARAM_STORE_EVTCHN: u32 = 2;
/// Frame of the device model's requests.
pub const HVM_PARAM_IOREQ_PFN: u32 = 5;
/// Frame of the device model's buffered requests.
pub const HVM_PARAM_BUFIOREQ_PFN: u32 = 6;
/// Viridian features.
pub const HVM_PARAM_VIRIDIAN: u32 = 9;
/// How missed timer ticks are handled.
pub const HVM_PARAM_TIMER_MODE: u32 = 10;
/// HPET is emulated.
pub const HVM_PARAM_HPET_ENABLED: u32 = 11;
/// Address of an identity page table.
pub const HVM_PARAM_IDENT_PT: u32 = 12;
/// ACPI sleep state.
pub const HVM_PARAM_ACPI_S_STATE: u32 = 14;
/// Address of a TSS for virtual-8086 mode.
pub const HVM_PARAM_VM86_TSS: u32 = 15;
/// Align virtual timers.
pub const HVM_PARAM_VPT_ALIGN: u32 = 16;
/// Frame of the console page.
pub const HVM_PARAM_CONSOLE_PFN: u32 = 17;
/// Port of the console.
pub const HVM_PARAM_CONSOLE_EVTCHN: u32 = 18;
/// Which of two layouts the ACPI ports have.
pub const HVM_PARAM_ACPI_IOPORTS_LOCATION: u32 = 19;
/// Frame of the paging ring.
pub const HVM_PARAM_PAGING_RING_PFN: u32 = 27;
/// Frame of the monitor ring.
pub const HVM_PARAM_MONITOR_RING_PFN: u32 = 28;
/// Frame of the sharing ring.
pub const HVM_PARAM_SHARING_RING_PFN: u32 = 29;
/// Shutdown reason of a triple fault.
pub const HVM_PARAM_TRIPLE_FAULT_REASON: u32 = 31;
/// First frame for ioreq servers.
pub const HVM_PARAM_IOREQ_SERVER_PFN: u32 = 32;
/// Frames for ioreq servers.
pub const HVM_PARAM_NR_IOREQ_SERVER_PAGES: u32 = 33;
/// Address of the VM generation id.
pub const HVM_PARAM_VM_GENERATION_ID_ADDR: u32 = 34;
/// Alternate p2m mode.
pub const HVM_PARAM_ALTP2M: u32 = 35;
/// Width of the x87 instruction pointer in saved images.
pub const HVM_PARAM_X87_FIP_WIDTH: u32 = 36;
/// As [`HVM_PARAM_VM86_TSS`], with the size in the high half.
pub const HVM_PARAM_VM86_TSS_SIZED: u32 = 37;
/// Machine check capabilities.
pub const HVM_PARAM_MCA_CAP: u32 = 38;
/// How many parameters there are.
pub const HVM_NR_PARAMS: u32 = 39;

/// Bit of the delivery type in [`HVM_PARAM_CALLBACK_IRQ`].
pub const HVM_PARAM_CALLBACK_TYPE_SHIFT: u32 = 56;
/// Raise a GSI.
pub const HVM_PARAM_CALLBACK_TYPE_GSI: u8 = 0;
/// Raise a PCI interrupt line.
pub const HVM_PARAM_CALLBACK_TYPE_PCI_INTX: u8 = 1;
/// Inject a vector.
pub const HVM_PARAM_CALLBACK_TYPE_VECTOR: u8 = 2;

/// [`HvmGetMemType::mem_type`]: RAM.
pub const HVMMEM_RAM_RW: u16 = 0;
/// [`HvmGetMemType::mem_type`]: read-only RAM.
pub const HVMMEM_RAM_RO: u16 = 1;
/// [`HvmGetMemType::mem_type`]: the device model handles it.
pub const HVMMEM_MMIO_DM: u16 = 2;
/// [`HvmGetMemType::mem_type`]: RAM whose writes an ioreq server sees.
pub const HVMMEM_IOREQ_SERVER: u16 = 4;

plain! {
    /// A parameter.
    pub struct HvmParam {
        /// Whose.
        pub domid: Domid,
        /// Zero.
        pub pad: u16,
        /// `HVM_PARAM_*`.
        pub index: u32,
        /// Its value.
        pub value: u64,
    }
    /// A page table is about to be freed.
    pub struct HvmPagetableDying {
        /// Whose.
        pub domid: Domid,
        /// Zero.
        pub pad: [u16; 3],
        /// Address of its top level.
        pub gpa: u64,
    }
    /// System time.
    pub struct HvmGetTime {
        /// Out: nanoseconds.
        pub now: u64,
    }
    /// Type of a page.
    pub struct HvmGetMemType {
        /// Whose.
        pub domid: Domid,
        /// Out: `HVMMEM_*`.
        pub mem_type: u16,
        /// Zero.
        pub pad: [u16; 2],
        /// The page.
        pub pfn: u64,
    }
    /// Vector of event upcalls.
    pub struct HvmEvtchnUpcallVector {
        /// The vCPU.
        pub vcpu: u32,
        /// 16 or more.
        pub vector: u8,
        /// Padding.
        pub pad: [u8; 3],
    }
}
