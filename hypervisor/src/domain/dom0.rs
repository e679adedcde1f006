//! Builds dom0: a PVH guest like the others, but from what the boot loader brought, with the machine's own memory map.
//!
//! Its RAM has the addresses that the machine's RAM has, and is that RAM (gfn == mfn) wherever nobody else has it: Oxen's own image and
//! what the loader put into memory are replaced by other frames.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use abi::Errno;
use abi::memory::E820Entry;
use abi::start_info::{
    HvmMemmapTableEntry, SIF_INITDOMAIN, SIF_PRIVILEGED, XEN_HVM_MEMMAP_TYPE_ACPI, XEN_HVM_MEMMAP_TYPE_RAM,
};
use pvh::{acpi, entry, kernel, layout};

use super::vcpu::Hold;
use super::{Config, Domain, lifecycle};
use crate::arch::regs::SegmentAttr;
use crate::arch::{GuestCpu, Segment, SegmentReg, SysReg, machine};
use crate::mm::guest::write_phys;
use crate::mm::p2m::Kind;
use crate::mm::{frames, page_info};
use crate::types::{DomId, Gfn, Gpa, Mfn, PAGE_SHIFT, PAGE_SIZE};

/// What dom0 is built from.
#[derive(Debug)]
pub struct Dom0<'a> {
    /// Kernel image.
    pub kernel: &'a [u8],
    /// Its command line.
    pub command_line: &'a str,
    /// The second module, if any.
    pub ramdisk: Option<&'a [u8]>,
    /// All RAM of the machine, ascending, in bytes, page-aligned.
    pub ram: &'a [Range<u64>],
    /// Bytes of RAM it gets.
    pub memory: u64,
    /// Frames that it may own later.
    pub max_pages: u64,
    /// Its number of vCPUs.
    pub vcpus: u32,
}

/// Why dom0 cannot be built.
#[derive(Debug)]
#[expect(missing_docs, reason = "each one's sentence is in `Display`")]
pub enum Error {
    Kernel(kernel::Error),
    Layout(layout::Error),
    TooLittleMemory { wanted: u64, free: u64 },
    Refused { step: &'static str, errno: Errno },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Kernel(error) => write!(f, "its kernel (the first module): {error}"),
            Error::Layout(error) => error.fmt(f),
            Error::TooLittleMemory { wanted, free } => {
                write!(
                    f,
                    "dom0_mem={}M is more than the {} MiB that are free",
                    wanted >> 20,
                    free >> 20
                )
            }
            Error::Refused { step, errno } => write!(f, "{step}: {errno:?}"),
        }
    }
}

fn refused(step: &'static str) -> impl Fn(Errno) -> Error {
    move |errno| Error::Refused { step, errno }
}

/// A large page, in frames.
const LARGE: u64 = 512;
const LARGE_ORDER: u32 = 9;
/// Largest kernel that is unpacked, in bytes.
const MAX_KERNEL: usize = 512 << 20;
/// Room for ACPI tables, in bytes.
const ACPI_ROOM: u64 = 64 << 10;
/// Ports that stay Oxen's: interrupt controllers, timer, and the console's UART.
const OWN_PORTS: [core::ops::RangeInclusive<u16>; 6] = [
    0x20..=0x21,
    0xa0..=0xa1,
    0x40..=0x43,
    0x61..=0x61,
    0x3f8..=0x3ff,
    0xe9..=0xe9,
];

impl Dom0<'_> {
    /// Build it, ready to be unpaused.
    ///
    /// # Errors
    /// See [`Error`]; what was made so far is not taken apart, since the machine is of no use then.
    pub fn build(&self) -> Result<Arc<Domain>, Error> {
        let kernel = kernel::open(self.kernel, MAX_KERNEL).map_err(Error::Kernel)?;
        let free = frames::free_count() << PAGE_SHIFT;
        if self.memory > free {
            return Err(Error::TooLittleMemory {
                wanted: self.memory,
                free,
            });
        }
        let ram = self.choose_ram();
        let memory_map = memory_map(&ram);
        let acpi_at = memory_map
            .iter()
            .find(|line| line.type_ == XEN_HVM_MEMMAP_TYPE_ACPI)
            .map_or(0, |line| line.addr);
        let tables = acpi::dom0(acpi_at, self.vcpus, &[], &[]);
        let plan = layout::Guest {
            kernel: &kernel,
            ramdisk: self.ramdisk,
            command_line: self.command_line,
            memory_map: &memory_map,
            rsdp: tables.rsdp,
            flags: SIF_PRIVILEGED | SIF_INITDOMAIN,
        }
        .plan()
        .map_err(Error::Layout)?;

        let domain = self.create()?;
        for range in &ram {
            give(&domain, range).map_err(refused("memory"))?;
        }
        let write = |gpa: u64, bytes: &[u8]| {
            write_phys(&domain.p2m, Gpa(gpa), bytes).map_err(|_| Error::Refused {
                step: "loading",
                errno: Errno::EFAULT,
            })
        };
        // A domU's RAM is zeroed; dom0 gets it as it is, since there is much of it and nobody had it before. So what a segment's file part
        // does not fill has to be cleared.
        for segment in &kernel.segments {
            let filled = kernel.bytes(segment).len() as u64;
            clear(&domain, Gpa(segment.gpa + filled), segment.mem_size - filled)?;
        }
        plan.writes
            .iter()
            .try_for_each(|(gpa, bytes)| write(*gpa, bytes))?;
        write(acpi_at, &tables.bytes)?;
        *domain.memory_map.lock() = memory_map
            .iter()
            .map(|line| E820Entry {
                addr: line.addr,
                size: line.size,
                type_: line.type_,
            })
            .collect();

        domain.create_vcpus().map_err(refused("vCPUs"))?;
        if let Some(vcpu) = domain.vcpus().first() {
            vcpu.with_private(|private| start_state(private.cpu.as_dyn(), plan.entry, plan.start_info));
            vcpu.set_initialised();
            vcpu.release(Hold::DOWN);
        }
        log::info!(
            "dom0: {} MiB, {} vCPU(s), kernel {:?} at {:#x}, entry {:#x}",
            self.memory >> 20,
            self.vcpus,
            kernel.guest_os,
            kernel.extent().start,
            plan.entry
        );
        Ok(domain)
    }

    fn create(&self) -> Result<Arc<Domain>, Error> {
        let domain = lifecycle::create(Config {
            id: Some(DomId::DOM0),
            privileged: true,
            handle: [0; 16],
            flags: abi::domctl::XEN_DOMCTL_CDF_HVM | abi::domctl::XEN_DOMCTL_CDF_HAP,
            emulation_flags: abi::domctl::XEN_X86_EMU_LAPIC,
            max_vcpus: self.vcpus,
            max_evtchn_port: u32::MAX,
            max_grant_frames: 64,
            max_maptrack_frames: 1024,
            p2m_pool: u32::MAX,
            format: machine::nested_format(),
            address_bits: 40,
        })
        .map_err(refused("domain"))?;
        domain.set_max_pages(self.max_pages);
        domain.io_bitmap.allow(0..=u16::MAX);
        for ports in OWN_PORTS {
            domain.io_bitmap.deny(ports);
        }
        Ok(domain)
    }

    /// The lowest RAM of the machine, as much as dom0 gets.
    fn choose_ram(&self) -> Vec<Range<u64>> {
        let mut left = self.memory;
        let mut chosen = Vec::new();
        for range in self.ram {
            let len = (range.end - range.start).min(left) & !(PAGE_SIZE - 1);
            if len > 0 {
                chosen.push(range.start..range.start + len);
                left -= len;
            }
        }
        chosen
    }
}

/// RAM, with the end of its last part below 4 GiB for ACPI tables.
fn memory_map(ram: &[Range<u64>]) -> Vec<HvmMemmapTableEntry> {
    let last_low = ram
        .iter()
        .rposition(|range| range.end <= 1 << 32 && range.end - range.start > ACPI_ROOM);
    let mut map = Vec::new();
    for (index, range) in ram.iter().enumerate() {
        let acpi = if Some(index) == last_low { ACPI_ROOM } else { 0 };
        let end = range.end - acpi;
        map.push(layout::entry(
            range.start,
            end - range.start,
            XEN_HVM_MEMMAP_TYPE_RAM,
        ));
        if acpi > 0 {
            map.push(layout::entry(end, acpi, XEN_HVM_MEMMAP_TYPE_ACPI));
        }
    }
    map
}

/// Fill a part of the domain's memory with zeroes.
fn clear(domain: &Domain, from: Gpa, len: u64) -> Result<(), Error> {
    const ZEROES: [u8; PAGE_SIZE as usize] = [0; PAGE_SIZE as usize];
    let mut done = 0;
    while done < len {
        let chunk = (len - done).min(PAGE_SIZE);
        write_phys(
            &domain.p2m,
            from.offset(done),
            ZEROES.get(..chunk as usize).unwrap_or_default(),
        )
        .map_err(|_| Error::Refused {
            step: "loading",
            errno: Errno::EFAULT,
        })?;
        done += chunk;
    }
    Ok(())
}

/// Give the domain RAM at `range`: the machine's own frames there if they are free, else others.
fn give(domain: &Domain, range: &Range<u64>) -> Result<(), Errno> {
    let (mut gfn, end) = (range.start >> PAGE_SHIFT, range.end >> PAGE_SHIFT);
    while gfn < end {
        let order = if gfn % LARGE == 0 && end - gfn >= LARGE {
            LARGE_ORDER
        } else {
            0
        };
        let own = frames::take_range(Mfn(gfn), 1 << order)
            .is_ok()
            .then_some(Mfn(gfn));
        let mfn = own.or_else(|| frames::alloc(order)).ok_or(Errno::ENOMEM)?;
        page_info::assign(mfn, order, domain.id, page_info::Kind::Ram).map_err(|_| Errno::ENOMEM)?;
        domain.p2m.map(Gfn(gfn), mfn, order, Kind::RamRw)?;
        gfn += 1 << order;
    }
    Ok(())
}

/// How a PVH guest begins (Xen, docs/misc/pvh).
fn start_state(cpu: &mut dyn GuestCpu, at: u32, start_info: u32) {
    let segment = |from: entry::Segment| Segment {
        selector: 0,
        attr: SegmentAttr::from_bits_truncate(from.attributes),
        limit: from.limit,
        base: 0,
    };
    for (register, value) in [
        (SegmentReg::Cs, entry::CS),
        (SegmentReg::Ds, entry::DATA),
        (SegmentReg::Es, entry::DATA),
        (SegmentReg::Ss, entry::DATA),
        (SegmentReg::Tr, entry::TR),
    ] {
        cpu.set_segment(register, segment(value));
    }
    for (register, value) in [
        (SysReg::Cr0, entry::CR0),
        (SysReg::Rflags, entry::RFLAGS),
        (SysReg::Dr6, entry::DR6),
        (SysReg::Dr7, entry::DR7),
    ] {
        cpu.write(register, value);
    }
    cpu.gprs().rbx = start_info.into();
    cpu.set_rip(at.into());
}

/// Let dom0 run.
pub fn start(domain: &Domain) {
    // It was made paused once, like every domain.
    let unpaused = domain.unpause();
    debug_assert!(unpaused.is_ok(), "dom0 is paused once");
}
