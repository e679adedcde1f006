//! `platform_op` (hypercall 7): the platform, for dom0. The argument is a [`PlatformOp`].

use crate::{GuestHandle, Union};

/// [`PlatformOp::interface_version`]; any other is answered `EACCES`.
pub const XENPF_INTERFACE_VERSION: u32 = 0x0300_0001;

/// [`XenpfSettime32`].
pub const XENPF_SETTIME32: u32 = 17;
/// Set an MTRR.
pub const XENPF_ADD_MEMTYPE: u32 = 31;
/// Clear an MTRR.
pub const XENPF_DEL_MEMTYPE: u32 = 32;
/// Read an MTRR.
pub const XENPF_READ_MEMTYPE: u32 = 33;
/// [`XenpfMicrocodeUpdate`].
pub const XENPF_MICROCODE_UPDATE: u32 = 35;
/// A chipset quirk.
pub const XENPF_PLATFORM_QUIRK: u32 = 39;
/// [`XenpfPcpuVersion`].
pub const XENPF_GET_CPU_VERSION: u32 = 48;
/// An EFI runtime service.
pub const XENPF_EFI_RUNTIME_CALL: u32 = 49;
/// [`XenpfFirmwareInfo`].
pub const XENPF_FIRMWARE_INFO: u32 = 50;
/// [`XenpfEnterAcpiSleep`].
pub const XENPF_ENTER_ACPI_SLEEP: u32 = 51;
/// [`XenpfChangeFreq`].
pub const XENPF_CHANGE_FREQ: u32 = 52;
/// [`XenpfGetidletime`].
pub const XENPF_GETIDLETIME: u32 = 53;
/// ACPI power tables of a CPU.
pub const XENPF_SET_PROCESSOR_PMINFO: u32 = 54;
/// [`XenpfPcpuinfo`].
pub const XENPF_GET_CPUINFO: u32 = 55;
/// [`XenpfCpuOl`].
pub const XENPF_CPU_ONLINE: u32 = 56;
/// [`XenpfCpuOl`].
pub const XENPF_CPU_OFFLINE: u32 = 57;
/// A CPU was plugged.
pub const XENPF_CPU_HOTADD: u32 = 58;
/// Memory was plugged.
pub const XENPF_MEM_HOTADD: u32 = 59;
/// [`XenpfCoreParking`].
pub const XENPF_CORE_PARKING: u32 = 60;
/// [`XenpfResourceOp`].
pub const XENPF_RESOURCE_OP: u32 = 61;
/// [`XenpfSettime64`].
pub const XENPF_SETTIME64: u32 = 62;
/// [`XenpfSymdata`].
pub const XENPF_GET_SYMBOL: u32 = 63;
/// dom0's video console; later than 4.17.
pub const XENPF_GET_DOM0_CONSOLE: u32 = 64;

/// [`XenpfFirmwareInfo::type_`]: BIOS disk parameters.
pub const XEN_FW_DISK_INFO: u32 = 1;
/// [`XenpfFirmwareInfo::type_`]: signature of a BIOS disk.
pub const XEN_FW_DISK_MBR_SIGNATURE: u32 = 2;
/// [`XenpfFirmwareInfo::type_`]: VBE display data.
pub const XEN_FW_VBEDDC_INFO: u32 = 3;
/// [`XenpfFirmwareInfo::type_`]: EFI, see `XEN_FW_EFI_*` in `index`.
pub const XEN_FW_EFI_INFO: u32 = 4;
/// [`XenpfFirmwareInfo::type_`]: BIOS keyboard flags.
pub const XEN_FW_KBD_SHIFT_FLAGS: u32 = 5;
/// [`XenpfFirmwareInfo::index`]: EFI version, a `u32`.
pub const XEN_FW_EFI_VERSION: u32 = 0;
/// [`XenpfFirmwareInfo::index`]: configuration table ([`XenpfEfiCfg`]).
pub const XEN_FW_EFI_CONFIG_TABLE: u32 = 1;
/// [`XenpfFirmwareInfo::index`]: vendor ([`XenpfEfiVendor`]).
pub const XEN_FW_EFI_VENDOR: u32 = 2;
/// [`XenpfFirmwareInfo::index`]: memory ([`XenpfEfiMem`]).
pub const XEN_FW_EFI_MEM_INFO: u32 = 3;
/// [`XenpfFirmwareInfo::index`]: version of the runtime services, a `u32`.
pub const XEN_FW_EFI_RT_VERSION: u32 = 4;
/// [`XenpfFirmwareInfo::index`]: a PCI ROM.
pub const XEN_FW_EFI_PCI_ROM: u32 = 5;
/// [`XenpfFirmwareInfo::index`]: Apple properties.
pub const XEN_FW_EFI_APPLE_PROPERTIES: u32 = 6;
/// [`XenpfPcpuinfo::flags`]: is up.
pub const XEN_PCPU_FLAGS_ONLINE: u32 = 1;
/// [`XenpfPcpuinfo::flags`]: no such CPU.
pub const XEN_PCPU_FLAGS_INVALID: u32 = 2;
/// [`XenpfEnterAcpiSleep::flags`]: the values are those of the extended sleep registers.
pub const XENPF_ACPI_SLEEP_EXTENDED: u32 = 1;

plain! {
    /// The argument of `platform_op`.
    pub struct PlatformOp {
        /// `XENPF_*`.
        pub cmd: u32,
        /// [`XENPF_INTERFACE_VERSION`].
        pub interface_version: u32,
        /// The structure that `cmd` names.
        pub u: Union<16>,
    }
    /// Wall clock at a system time.
    pub struct XenpfSettime32 {
        /// Seconds since 1970.
        pub secs: u32,
        /// Nanoseconds.
        pub nsecs: u32,
        /// System time.
        pub system_time: u64,
    }
    /// Wall clock at a system time.
    pub struct XenpfSettime64 {
        /// Seconds since 1970.
        pub secs: u64,
        /// Nanoseconds.
        pub nsecs: u32,
        /// Zero.
        pub mbz: u32,
        /// System time.
        pub system_time: u64,
    }
    /// Load microcode.
    pub struct XenpfMicrocodeUpdate {
        /// The image.
        pub data: GuestHandle<u8>,
        /// Bytes.
        pub length: u32,
        /// Padding.
        pub pad: u32,
    }
    /// What the firmware said.
    pub struct XenpfFirmwareInfo {
        /// `XEN_FW_*`.
        pub type_: u32,
        /// Which.
        pub index: u32,
        /// The answer.
        pub u: Union<4>,
    }
    /// BIOS disk parameters.
    pub struct XenpfDiskInfo {
        /// BIOS number.
        pub device: u8,
        /// EDD version.
        pub version: u8,
        /// EDD interface bits.
        pub interface_support: u16,
        /// Highest cylinder.
        pub legacy_max_cylinder: u16,
        /// Highest head.
        pub legacy_max_head: u8,
        /// Sectors of a track.
        pub legacy_sectors_per_track: u8,
        /// Out: EDD parameters.
        pub edd_params: GuestHandle<u8>,
    }
    /// EFI configuration table.
    pub struct XenpfEfiCfg {
        /// Address.
        pub addr: u64,
        /// Entries.
        pub nent: u32,
        /// Padding.
        pub pad: u32,
    }
    /// EFI vendor.
    pub struct XenpfEfiVendor {
        /// Revision.
        pub revision: u32,
        /// In: room in bytes.
        pub bufsz: u32,
        /// Out: UTF-16 name.
        pub name: GuestHandle<u16>,
    }
    /// EFI memory at an address.
    pub struct XenpfEfiMem {
        /// In: the address; out: start of the range.
        pub addr: u64,
        /// Bytes.
        pub size: u64,
        /// Attributes.
        pub attr: u64,
        /// Type.
        pub type_: u32,
        /// Padding.
        pub pad: u32,
    }
    /// ACPI sleep.
    pub struct XenpfEnterAcpiSleep {
        /// Value for PM1a, or sleep control.
        pub val_a: u16,
        /// Value for PM1b, or sleep status.
        pub val_b: u16,
        /// S-state.
        pub sleep_state: u32,
        /// [`XENPF_ACPI_SLEEP_EXTENDED`].
        pub flags: u32,
    }
    /// The CPU's frequency changed.
    pub struct XenpfChangeFreq {
        /// Zero.
        pub flags: u32,
        /// CPU.
        pub cpu: u32,
        /// Hz.
        pub freq: u64,
    }
    /// Idle times.
    pub struct XenpfGetidletime {
        /// In: CPUs wanted; out: CPUs there are.
        pub cpumap_bitmap: GuestHandle<u8>,
        /// Bits of the bitmap.
        pub cpumap_nr_cpus: u32,
        /// Padding.
        pub pad: u32,
        /// Out: nanoseconds of each.
        pub idletime: GuestHandle<u64>,
        /// Out: system time.
        pub now: u64,
    }
    /// A physical CPU.
    pub struct XenpfPcpuinfo {
        /// In: the CPU.
        pub xen_cpuid: u32,
        /// Out: highest CPU id present.
        pub max_present: u32,
        /// Out: `XEN_PCPU_FLAGS_*`.
        pub flags: u32,
        /// Out: APIC id.
        pub apic_id: u32,
        /// Out: ACPI id.
        pub acpi_id: u32,
    }
    /// Model of a physical CPU.
    pub struct XenpfPcpuVersion {
        /// In: the CPU.
        pub xen_cpuid: u32,
        /// Out: highest CPU id present.
        pub max_present: u32,
        /// Out: vendor, not terminated.
        pub vendor_id: [u8; 12],
        /// Out: family.
        pub family: u32,
        /// Out: model.
        pub model: u32,
        /// Out: stepping.
        pub stepping: u32,
    }
    /// Take a CPU up or down.
    pub struct XenpfCpuOl {
        /// The CPU.
        pub cpuid: u32,
    }
    /// Park cores.
    pub struct XenpfCoreParking {
        /// 1 set, 2 get.
        pub type_: u32,
        /// CPUs parked.
        pub idle_nums: u32,
    }
    /// Access to MSRs.
    pub struct XenpfResourceOp {
        /// How many.
        pub nr_entries: u32,
        /// On which CPU.
        pub cpu: u32,
        /// The accesses.
        pub entries: GuestHandle<XenpfResourceEntry>,
    }
    /// One access.
    pub struct XenpfResourceEntry {
        /// In: 0 read MSR, 1 write MSR; out: 0 or a negated errno.
        pub u: u32,
        /// Zero.
        pub rsvd: u32,
        /// MSR.
        pub idx: u64,
        /// Value.
        pub val: u64,
    }
    /// A symbol of the hypervisor.
    pub struct XenpfSymdata {
        /// In: room; out: bytes of the name.
        pub namelen: u32,
        /// In: which; out: the next.
        pub symnum: u32,
        /// Out: the name.
        pub name: GuestHandle<u8>,
        /// Out: address.
        pub address: u64,
        /// Out: type as `nm` prints it.
        pub type_: u8,
        /// Padding.
        pub pad: [u8; 7],
    }
}
