//! Where everything goes in a PVH guest's memory.
//!
//! For a domU the memory map is libxl's: RAM from 0, a hole below 4 GiB for what is not RAM, RAM again above. Dom0 gets whatever RAM the
//! builder found. In both, the ramdisk and start info (with the command lines and the memory map behind it) follow the kernel.

use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use abi::start_info::{
    HvmMemmapTableEntry, HvmModlistEntry, HvmStartInfo, XEN_HVM_MEMMAP_TYPE_ACPI, XEN_HVM_MEMMAP_TYPE_RAM,
    XEN_HVM_MEMMAP_TYPE_RESERVED, XEN_HVM_START_MAGIC_VALUE,
};
use zerocopy::IntoBytes;

use crate::kernel::Kernel;

const PAGE: u64 = 4096;

/// Start of what is not RAM below 4 GiB.
pub const HOLE_START: u64 = 0xfc00_0000;
/// RAM goes on here.
pub const HOLE_END: u64 = 1 << 32;
/// libxl's ACPI information page, then the tables.
pub const ACPI_START: u64 = HOLE_START;
/// Where the ACPI tables start.
pub const ACPI_TABLES: u64 = HOLE_START + PAGE;
/// Bytes that ACPI may take in all.
pub const ACPI_SIZE: u64 = 17 * PAGE;
/// First of the frames that toolstack and hypervisor use for themselves.
pub const SPECIAL_START: u64 = 0xfeff_8000;
/// End of those frames.
pub const SPECIAL_END: u64 = 0xff00_0000;
/// Frame number of the xenstore ring.
pub const STORE_GFN: u64 = 0xfeffc;
/// Frame number of an identity page table (for guests without unrestricted mode; libxl always makes it).
pub const IDENT_PT_GFN: u64 = 0xfeffe;
/// Frame number of the console ring.
pub const CONSOLE_GFN: u64 = 0xfefff;

/// Why a guest's memory cannot hold what it must.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "each one's sentence is in `Display`")]
pub enum Error {
    KernelOutsideRam { start: u64, end: u64 },
    NoRoom { what: &'static str, bytes: u64 },
    StartInfoTooHigh,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::KernelOutsideRam { start, end } => write!(
                f,
                "the kernel needs memory from {start:#x} to {end:#x}, which the domain does not have: \
                 give it more than {} MiB",
                end >> 20
            ),
            Error::NoRoom { what, bytes } => write!(
                f,
                "no room for the {what} ({} KiB) behind the kernel: give the domain more memory",
                bytes >> 10
            ),
            Error::StartInfoTooHigh => {
                f.write_str("start info would lie above 4 GiB, where the kernel cannot find it")
            }
        }
    }
}

impl core::error::Error for Error {}

/// The memory map of a domU with `bytes` of RAM.
pub fn domu_memory_map(bytes: u64) -> Vec<HvmMemmapTableEntry> {
    let low = bytes.min(HOLE_START);
    let mut map = Vec::from([entry(0, low, XEN_HVM_MEMMAP_TYPE_RAM)]);
    map.push(entry(ACPI_START, ACPI_SIZE, XEN_HVM_MEMMAP_TYPE_ACPI));
    map.push(entry(
        SPECIAL_START,
        SPECIAL_END - SPECIAL_START,
        XEN_HVM_MEMMAP_TYPE_RESERVED,
    ));
    if bytes > low {
        map.push(entry(HOLE_END, bytes - low, XEN_HVM_MEMMAP_TYPE_RAM));
    }
    map
}

/// A line of a memory map.
pub fn entry(addr: u64, size: u64, kind: u32) -> HvmMemmapTableEntry {
    HvmMemmapTableEntry {
        addr,
        size,
        type_: kind,
        ..Default::default()
    }
}

/// What is to be placed.
#[derive(Debug)]
pub struct Guest<'a> {
    /// The kernel.
    pub kernel: &'a Kernel<'a>,
    /// Its ramdisk, or whatever the first module is.
    pub ramdisk: Option<&'a [u8]>,
    /// Its command line.
    pub command_line: &'a str,
    /// What is where in its memory.
    pub memory_map: &'a [HvmMemmapTableEntry],
    /// RSDP, or 0.
    pub rsdp: u64,
    /// SIF_* of start info.
    pub flags: u32,
}

/// Bytes to write into a new guest's zeroed memory, and where it begins to run.
#[derive(Debug)]
pub struct Plan<'a> {
    /// Guest-physical address and bytes, by address, none overlapping. All in RAM.
    pub writes: Vec<(u64, Cow<'a, [u8]>)>,
    /// First instruction.
    pub entry: u32,
    /// Start info, for EBX.
    pub start_info: u32,
}

impl<'a> Guest<'a> {
    /// Decide where everything goes.
    ///
    /// # Errors
    /// It does not fit into the guest's RAM.
    pub fn plan(&self) -> Result<Plan<'a>, Error> {
        let mut writes = Vec::new();
        for segment in &self.kernel.segments {
            let range = segment.gpa..segment.gpa + segment.mem_size;
            self.require_ram(&range)?;
            writes.push((segment.gpa, Cow::Borrowed(self.kernel.bytes(segment))));
        }
        let mut next = self.kernel.extent().end;
        let mut ramdisk_at = None;
        if let Some(bytes) = self.ramdisk {
            let at = self.find_room(next, bytes.len() as u64, "ramdisk")?;
            writes.push((at, Cow::Borrowed(bytes)));
            ramdisk_at = Some((at, bytes.len() as u64));
            next = at + bytes.len() as u64;
        }
        let size = self.start_info(0, ramdisk_at).len() as u64;
        let at = self.find_room(next, size, "start info")?;
        let start_info = u32::try_from(at).map_err(|_| Error::StartInfoTooHigh)?;
        writes.push((at, Cow::Owned(self.start_info(at, ramdisk_at))));
        Ok(Plan {
            writes,
            entry: self.kernel.entry,
            start_info,
        })
    }

    fn ram(&self) -> impl Iterator<Item = Range<u64>> {
        let ram = self
            .memory_map
            .iter()
            .filter(|entry| entry.type_ == XEN_HVM_MEMMAP_TYPE_RAM);
        ram.map(|entry| entry.addr..entry.addr + entry.size)
    }

    fn require_ram(&self, range: &Range<u64>) -> Result<(), Error> {
        let inside = self
            .ram()
            .any(|ram| ram.start <= range.start && range.end <= ram.end);
        inside.then_some(()).ok_or(Error::KernelOutsideRam {
            start: range.start,
            end: range.end,
        })
    }

    /// The lowest page-aligned place from `from` on with `size` bytes of RAM.
    fn find_room(&self, from: u64, size: u64, what: &'static str) -> Result<u64, Error> {
        self.ram()
            .map(|ram| (from.max(ram.start).next_multiple_of(PAGE), ram.end))
            .filter(|(at, end)| at.checked_add(size).is_some_and(|needed| needed <= *end))
            .map(|(at, _)| at)
            .min()
            .ok_or(Error::NoRoom { what, bytes: size })
    }

    /// Start info, version 1, for address `at`, with all that it points to behind it.
    fn start_info(&self, at: u64, ramdisk: Option<(u64, u64)>) -> Vec<u8> {
        let modlist = size_of::<HvmStartInfo>() as u64;
        let modules = u64::from(ramdisk.is_some());
        let memmap = modlist + modules * size_of::<HvmModlistEntry>() as u64;
        let cmdline = memmap + size_of_val(self.memory_map) as u64;
        let head = HvmStartInfo {
            magic: XEN_HVM_START_MAGIC_VALUE,
            version: 1,
            flags: self.flags,
            nr_modules: modules as u32,
            modlist_paddr: if modules > 0 { at + modlist } else { 0 },
            cmdline_paddr: at + cmdline,
            rsdp_paddr: self.rsdp,
            memmap_paddr: at + memmap,
            memmap_entries: self.memory_map.len() as u32,
            reserved: 0,
        };
        let mut bytes = head.as_bytes().to_vec();
        if let Some((paddr, size)) = ramdisk {
            bytes.extend_from_slice(
                HvmModlistEntry {
                    paddr,
                    size,
                    ..Default::default()
                }
                .as_bytes(),
            );
        }
        bytes.extend_from_slice(self.memory_map.as_bytes());
        bytes.extend_from_slice(self.command_line.as_bytes());
        bytes.push(0);
        bytes
    }
}
