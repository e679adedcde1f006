//! Builds dom0: a PVH guest like the others, but from what the boot loader brought, with the machine's own memory map.
//!
//! Its RAM is RAM of the machine at the same addresses (gfn == mfn), so that devices, which know nothing of nested page tables, reach what
//! dom0 tells them to. What others have, as Oxen's own image and what the loader put into memory, is missing in dom0's memory map.
//! Only under dom0's kernel, which is linked to its address, other frames take that place.
//!
//! Its devices are the machine's: ports but for a few, registers in memory as soon as it touches them, and I/O APICs (`virt/ioapic.rs`).

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use abi::Errno;
use abi::memory::E820Entry;
use abi::start_info::{
    HvmMemmapTableEntry, SIF_INITDOMAIN, SIF_PRIVILEGED, XEN_HVM_MEMMAP_TYPE_ACPI, XEN_HVM_MEMMAP_TYPE_RAM,
    XEN_HVM_MEMMAP_TYPE_UNUSABLE,
};
use pvh::kernel::{self, Opening};
use pvh::{acpi, entry, layout};

use super::vcpu::Hold;
use super::{Config, Domain, lifecycle};
use crate::arch::regs::SegmentAttr;
use crate::arch::{GuestCpu, Segment, SegmentReg, SysReg, machine};
use crate::grant;
use crate::hw::ioapic::Line;
use crate::hw::serial::SerialPort;
use crate::hw::{self, ioapic};
use crate::mm::guest::write_phys;
use crate::mm::p2m::Kind;
use crate::mm::{frames, page_info};
use crate::sched::pool;
use crate::types::{DomId, Gfn, Gpa, Mfn, PAGE_SHIFT, PAGE_SIZE};
use crate::virt::ioapic::IoApic;

/// What dom0 is built from.
#[derive(Debug)]
pub struct Dom0<'a> {
    /// Kernel image.
    pub kernel: &'a [u8],
    /// Its command line.
    pub command_line: &'a str,
    /// The second module, if any.
    pub ramdisk: Option<&'a [u8]>,
    /// RAM of the machine that is used, ascending, in bytes, page-aligned.
    pub ram: &'a [Range<u64>],
    /// The same with what is not used.
    pub all_ram: &'a [Range<u64>],
    /// Bytes of RAM it gets.
    pub memory: u64,
    /// Frames that it may own later.
    pub max_pages: u64,
    /// Its number of vCPUs.
    pub vcpus: u32,
    /// The console's UARTs, which it does not get.
    pub console: &'a [SerialPort],
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
            Error::Refused { step, errno } => write!(f, "{step}: {errno}"),
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
/// Of dom0, whose addresses are the machine's: its devices' registers may lie as high as four levels of tables reach.
const ADDRESS_BITS: u32 = 48;
/// Ports that stay Oxen's, beside those of the console's UARTs: interrupt controllers, timer, and the debug console.
const OWN_PORTS: [core::ops::RangeInclusive<u16>; 5] =
    [0x20..=0x21, 0xa0..=0xa1, 0x40..=0x43, 0x61..=0x61, 0xe9..=0xe9];

impl Dom0<'_> {
    /// Build it, ready to be unpaused.
    ///
    /// # Errors
    /// See [`Error`]; what was made so far is not taken apart, since the machine is of no use then.
    pub fn build(&self) -> Result<Arc<Domain>, Error> {
        let mut opening = Opening::new(self.kernel, MAX_KERNEL).map_err(Error::Kernel)?;
        while opening.step().map_err(Error::Kernel)? {
            // Where time goes by a counter that comes round, it is read before it does.
            hw::time::now_ns();
        }
        let kernel = opening.finish().map_err(Error::Kernel)?;
        let free = frames::free_count() << PAGE_SHIFT;
        if self.memory > free {
            return Err(Error::TooLittleMemory {
                wanted: self.memory,
                free,
            });
        }
        let domain = self.create()?;
        let ram = self.give_ram(&domain, &kernel.extent())?;
        let memory_map = memory_map(&ram, self.all_ram);
        let acpi_at = memory_map
            .iter()
            .find(|line| line.type_ == XEN_HVM_MEMMAP_TYPE_ACPI)
            .map_or(0, |line| line.addr);
        let tables = acpi::dom0(acpi_at, self.vcpus, &interrupts(), &[]);
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

        pool::create_vcpus(&domain).map_err(refused("vCPUs"))?;
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
            emulation_flags: abi::domctl::XEN_X86_EMU_LAPIC | abi::domctl::XEN_X86_EMU_IOAPIC,
            relaxed_msrs: false,
            max_vcpus: self.vcpus,
            max_evtchn_port: u32::MAX,
            max_grant_frames: grant::limits().frames,
            max_maptrack_frames: grant::limits().maptrack_frames,
            max_grant_version: grant::Version::V2,
            p2m_pool: u32::MAX,
            format: machine::nested_format(),
            address_bits: machine::address_bits().min(ADDRESS_BITS),
        })
        .map_err(refused("domain"))?;
        domain.set_max_pages(self.max_pages);
        domain
            .io_apics
            .call_once(|| ioapic::places().iter().map(IoApic::new).collect());
        domain.io_bitmap.allow(0..=u16::MAX);
        let uarts = self.console.iter().map(SerialPort::registers);
        for ports in OWN_PORTS.into_iter().chain(uarts) {
            domain.io_bitmap.deny(ports);
        }
        Ok(domain)
    }

    /// Give it the lowest free RAM of the machine, as much as it gets; returns where it is. `kernel` has memory in any case.
    fn give_ram(&self, domain: &Domain, kernel: &Range<u64>) -> Result<Vec<Range<u64>>, Error> {
        let mut left = self.memory >> PAGE_SHIFT;
        let mut given: Vec<Range<u64>> = Vec::new();
        for range in self.ram {
            let (mut gfn, end) = (range.start >> PAGE_SHIFT, range.end >> PAGE_SHIFT);
            while gfn < end && left > 0 {
                let large = gfn % LARGE == 0 && end - gfn >= LARGE && left >= LARGE;
                let (mfn, order) = if large && frames::take_range(Mfn(gfn), LARGE).is_ok() {
                    (Some(Mfn(gfn)), LARGE_ORDER)
                } else if frames::take_range(Mfn(gfn), 1).is_ok() {
                    (Some(Mfn(gfn)), 0)
                } else if kernel.start < (gfn + 1) << PAGE_SHIFT && gfn << PAGE_SHIFT < kernel.end {
                    (
                        Some(frames::alloc(0).ok_or(Errno::ENOMEM).map_err(refused("memory"))?),
                        0,
                    )
                } else {
                    (None, 0)
                };
                let (at, next) = (gfn << PAGE_SHIFT, (gfn + (1 << order)) << PAGE_SHIFT);
                gfn += 1 << order;
                let Some(mfn) = mfn else { continue };
                give(domain, Gpa(at).frame(), mfn, order).map_err(refused("memory"))?;
                left -= 1 << order;
                match given.last_mut() {
                    Some(last) if last.end == at => last.end = next,
                    _ => given.push(at..next),
                }
            }
        }
        // Where large pages cannot be executed, it has all the tables for small ones now: it would not stand that there is none left later.
        for range in &given {
            for gpa in range.clone().step_by((LARGE << PAGE_SHIFT) as usize) {
                let split = domain.p2m.let_execute(Gpa(gpa).frame());
                split.map_err(|error| refused("tables")(error.into()))?;
            }
        }
        Ok(given)
    }
}

/// Its own RAM, with the end of the last part below 4 GiB for ACPI tables, and the machine's other RAM, where it must not put devices.
fn memory_map(own: &[Range<u64>], machine: &[Range<u64>]) -> Vec<HvmMemmapTableEntry> {
    let last_low = own
        .iter()
        .rposition(|range| range.end <= 1 << 32 && range.end - range.start > ACPI_ROOM);
    let mut map = Vec::new();
    let others = |from: u64, to: u64, map: &mut Vec<_>| {
        if from < to {
            map.push(layout::entry(from, to - from, XEN_HVM_MEMMAP_TYPE_UNUSABLE));
        }
    };
    for all in machine {
        let mut at = all.start;
        let inside = |range: &Range<u64>| all.start <= range.start && range.end <= all.end;
        for (index, range) in own.iter().enumerate().filter(|(_, range)| inside(range)) {
            others(at, range.start, &mut map);
            at = range.end;
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
        others(at, all.end, &mut map);
    }
    map
}

/// What dom0's MADT says of interrupts: the machine's I/O APICs, and how ISA interrupts reach them (ACPI 6.5, 5.2.12.3 and 5.2.12.5).
fn interrupts() -> Vec<acpi::MadtEntry> {
    let io_apic = |place: &ioapic::Place| {
        let mut entry = vec![1, 12, place.id as u8, 0];
        entry.extend_from_slice(&(place.base.0 as u32).to_le_bytes());
        entry.extend_from_slice(&place.gsi_base.to_le_bytes());
        entry
    };
    let source_override = |(irq, line): &(u8, Line)| {
        let polarity: u16 = if line.active_low { 3 } else { 1 };
        let trigger: u16 = if line.level { 3 } else { 1 };
        let mut entry = vec![2, 10, 0, *irq];
        entry.extend_from_slice(&line.gsi.to_le_bytes());
        entry.extend_from_slice(&(polarity | trigger << 2).to_le_bytes());
        entry
    };
    let mut entries: Vec<_> = ioapic::places().iter().map(io_apic).collect();
    entries.extend(hw::acpi::info().overrides().iter().map(source_override));
    entries
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

/// Give the domain frames that are allocated.
fn give(domain: &Domain, gfn: Gfn, mfn: Mfn, order: u32) -> Result<(), Errno> {
    page_info::charge(domain.id, 1 << order, u64::MAX)?;
    page_info::assign(mfn, order, domain.id, page_info::Kind::Ram).map_err(|_| Errno::ENOMEM)?;
    Ok(domain.p2m.map(gfn, mfn, order, Kind::RamRw)?)
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
        (SegmentReg::Fs, entry::DATA),
        (SegmentReg::Gs, entry::DATA),
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
