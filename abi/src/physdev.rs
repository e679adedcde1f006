//! `physdev_op` (hypercall 33).

use crate::Domid;

/// End of interrupt ([`PhysdevIrq`]).
pub const PHYSDEVOP_EOI: u32 = 12;
/// Whether an interrupt needs an EOI ([`PhysdevIrqStatusQuery`]).
pub const PHYSDEVOP_IRQ_STATUS_QUERY: u32 = 5;
/// Allocate a physical interrupt ([`PhysdevMapPirq`]).
pub const PHYSDEVOP_MAP_PIRQ: u32 = 13;
/// Free it ([`PhysdevUnmapPirq`]).
pub const PHYSDEVOP_UNMAP_PIRQ: u32 = 14;
/// Add a PCI device, old form.
pub const PHYSDEVOP_MANAGE_PCI_ADD: u32 = 15;
/// Remove a PCI device, old form.
pub const PHYSDEVOP_MANAGE_PCI_REMOVE: u32 = 16;
/// Set up a GSI ([`PhysdevSetupGsi`]).
pub const PHYSDEVOP_SETUP_GSI: u32 = 21;
/// Reserve a free interrupt ([`PhysdevGetFreePirq`]).
pub const PHYSDEVOP_GET_FREE_PIRQ: u32 = 23;
/// Report an ECAM range ([`PhysdevPciMmcfgReserved`]).
pub const PHYSDEVOP_PCI_MMCFG_RESERVED: u32 = 24;
/// Report a PCI device ([`PhysdevPciDeviceAdd`]).
pub const PHYSDEVOP_PCI_DEVICE_ADD: u32 = 25;
/// Report that it went ([`PhysdevPciDevice`]).
pub const PHYSDEVOP_PCI_DEVICE_REMOVE: u32 = 26;
/// Restore MSI state ([`PhysdevPciDevice`]).
pub const PHYSDEVOP_RESTORE_MSI_EXT: u32 = 27;
/// Debug port reset ([`PhysdevDbgpOp`]).
pub const PHYSDEVOP_DBGP_OP: u32 = 29;
/// MSI-X is about to be used ([`PhysdevPciDevice`]).
pub const PHYSDEVOP_PREPARE_MSIX: u32 = 30;
/// MSI-X is no longer used ([`PhysdevPciDevice`]).
pub const PHYSDEVOP_RELEASE_MSIX: u32 = 31;

/// [`PhysdevIrqStatusQuery::flags`]: needs an EOI.
pub const XENIRQSTAT_NEEDS_EOI: u32 = 1 << 0;
/// [`PhysdevIrqStatusQuery::flags`]: is shared.
pub const XENIRQSTAT_SHARED: u32 = 1 << 1;
/// [`PhysdevMapPirq::type_`]: MSI.
pub const MAP_PIRQ_TYPE_MSI: i32 = 0;
/// [`PhysdevMapPirq::type_`]: GSI.
pub const MAP_PIRQ_TYPE_GSI: i32 = 1;
/// [`PhysdevMapPirq::type_`]: unknown.
pub const MAP_PIRQ_TYPE_UNKNOWN: i32 = 2;
/// [`PhysdevMapPirq::type_`]: MSI, with the segment in the high half of `bus`.
pub const MAP_PIRQ_TYPE_MSI_SEG: i32 = 3;
/// [`PhysdevMapPirq::type_`]: several MSIs.
pub const MAP_PIRQ_TYPE_MULTI_MSI: i32 = 4;
/// [`PhysdevPciMmcfgReserved::flags`]: firmware reserves the range.
pub const XEN_PCI_MMCFG_RESERVED: u32 = 1;
/// [`PhysdevPciDeviceAdd::flags`]: extended function.
pub const XEN_PCI_DEV_EXTFN: u32 = 1;
/// [`PhysdevPciDeviceAdd::flags`]: virtual function.
pub const XEN_PCI_DEV_VIRTFN: u32 = 2;
/// [`PhysdevPciDeviceAdd::flags`]: a proximity domain (`u32`) follows.
pub const XEN_PCI_DEV_PXM: u32 = 4;

plain! {
    /// An interrupt.
    pub struct PhysdevIrq {
        /// Physical interrupt of the domain.
        pub irq: u32,
    }
    /// Whether an interrupt needs an EOI.
    pub struct PhysdevIrqStatusQuery {
        /// The interrupt.
        pub irq: u32,
        /// Out: `XENIRQSTAT_*`.
        pub flags: u32,
    }
}

compat! {
    /// Allocate a physical interrupt.
    pub struct PhysdevMapPirq as CompatPhysdevMapPirq {
        /// For whom.
        pub domid: Domid,
        /// Padding.
        pub pad0: u16,
        /// `MAP_PIRQ_TYPE_*`.
        pub type_: i32,
        /// GSI, or -1.
        pub index: i32,
        /// In: wanted, or -1; out: got.
        pub pirq: i32,
        /// Bus of the device.
        pub bus: i32,
        /// Device and function.
        pub devfn: i32,
        /// MSI-X entry, or number of MSIs.
        pub entry_nr: i32,
        /// Padding.
        pub pad1: u32 as (),
        /// Address of the MSI-X table, 0 for MSI.
        pub table_base: u64,
    }
}

plain! {
    /// Free a physical interrupt.
    pub struct PhysdevUnmapPirq {
        /// Whose.
        pub domid: Domid,
        /// Padding.
        pub pad: u16,
        /// The interrupt.
        pub pirq: i32,
    }
    /// Set up a GSI.
    pub struct PhysdevSetupGsi {
        /// The GSI.
        pub gsi: i32,
        /// 0 edge, 1 level.
        pub triggering: u8,
        /// 0 active high, 1 active low.
        pub polarity: u8,
        /// Padding.
        pub pad: [u8; 2],
    }
    /// Reserve a free interrupt.
    pub struct PhysdevGetFreePirq {
        /// `MAP_PIRQ_TYPE_*`.
        pub type_: i32,
        /// Out: the interrupt.
        pub pirq: u32,
    }
    /// Report an ECAM range.
    pub struct PhysdevPciMmcfgReserved {
        /// Where it starts.
        pub address: u64,
        /// PCI segment.
        pub segment: u16,
        /// First bus.
        pub start_bus: u8,
        /// Last bus.
        pub end_bus: u8,
        /// [`XEN_PCI_MMCFG_RESERVED`].
        pub flags: u32,
    }
    /// A device of the first segment.
    pub struct PhysdevPciFunction {
        /// Bus.
        pub bus: u8,
        /// Device and function.
        pub devfn: u8,
    }
    /// Report a PCI device.
    pub struct PhysdevPciDeviceAdd {
        /// PCI segment.
        pub seg: u16,
        /// Bus.
        pub bus: u8,
        /// Device and function.
        pub devfn: u8,
        /// `XEN_PCI_DEV_*`.
        pub flags: u32,
        /// Physical function of a virtual one.
        pub physfn: PhysdevPciFunction,
        /// Padding; optional words follow the structure.
        pub pad: u16,
    }
    /// A PCI device.
    pub struct PhysdevPciDevice {
        /// PCI segment.
        pub seg: u16,
        /// Bus.
        pub bus: u8,
        /// Device and function.
        pub devfn: u8,
    }
    /// Reset of a USB debug port.
    pub struct PhysdevDbgpOp {
        /// 1 before, 2 after.
        pub op: u8,
        /// 0 unknown, 1 PCI.
        pub bus: u8,
        /// The device.
        pub pci: PhysdevPciDevice,
    }
}
