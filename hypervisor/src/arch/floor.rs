//! The least that an exit and an entry can cost: a guest that does nothing but call, and a loop that does nothing but step over it.
//!
//! What a real hypercall costs on the same machine is judged against this number (command line option `bench=floor`).
// UNSAFETY: writes the guest's code into a frame, reads the time-stamp counter.
#![expect(
    unsafe_code,
    reason = "writes the guest's code into a frame, reads the time-stamp counter"
)]

use core::arch::x86_64::_rdtsc;

use super::owned::Owned;
use super::regs::SegmentAttr;
use super::{Exit, GuestCpu, Left, NestedFormat, OutOfMemory, Segment, SegmentReg, SysReg, VcpuConfig};

/// Round trips to measure, and before that, to warm up.
const ROUND_TRIPS: u32 = 10_000;
const WARM_UP: u32 = 100;

/// Why there is no number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// No memory for the guest.
    OutOfMemory,
    /// The guest left for another reason than its hypercall.
    Unexpected(Exit),
}

impl From<OutOfMemory> for Failure {
    fn from(_: OutOfMemory) -> Failure {
        Failure::OutOfMemory
    }
}

/// TSC ticks of one exit and entry, the guest's two instructions included, on average over many. With interrupts off, on an enabled
/// CPU. `new` makes the back end's vCPU, `hypercall` is its instruction; `round_trips` makes so many of what is
/// measured: [`by_interface`], or a back end's bare world switches.
///
/// # Errors
/// See [`Failure`].
pub fn measure<C: GuestCpu>(
    new: impl FnOnce(&VcpuConfig) -> Result<C, OutOfMemory>,
    format: NestedFormat,
    hypercall: [u8; 3],
    round_trips: impl Fn(&mut C, u32) -> Result<(), Exit>,
) -> Result<u64, Failure> {
    let mut code = Owned::<[u8; 4096]>::zeroed()?;
    code[..3].copy_from_slice(&hypercall);
    // jmp to the first byte
    code[3..5].copy_from_slice(&[0xeb, 0xfb]);
    let tables = Tables::new(format, code.hpa().0)?;
    let mut io_bitmap = Owned::<[u8; 3 * 4096]>::zeroed()?;
    io_bitmap.fill(0xff);
    let mut cpu = new(&VcpuConfig {
        nested_root: tables.root.hpa(),
        io_bitmap: io_bitmap.hpa(),
    })?;
    set_flat_protected_mode(&mut cpu);
    cpu.load();
    let result = round_trips(&mut cpu, WARM_UP).and_then(|()| {
        // SAFETY: reading the time-stamp counter has no side effect.
        let start = unsafe { _rdtsc() };
        round_trips(&mut cpu, ROUND_TRIPS)?;
        // SAFETY: as above.
        Ok((unsafe { _rdtsc() } - start) / u64::from(ROUND_TRIPS))
    });
    cpu.unload();
    result.map_err(Failure::Unexpected)
}

/// Round trips by [`GuestCpu`]'s own methods, stepping over each hypercall.
///
/// # Errors
/// The guest left for another reason.
pub fn by_interface<C: GuestCpu>(cpu: &mut C, count: u32) -> Result<(), Exit> {
    for _ in 0..count {
        // SAFETY: `measure` has loaded the vCPU, and calls with interrupts off; there are no `Calls`.
        match unsafe { C::run(cpu) } {
            Left::Hypercall => cpu.skip(3),
            Left::Exit(code) => match cpu.exit(code) {
                // What the host gets meanwhile stays pending: interrupts are off, and each entry would end at once.
                Exit::HostNmi => {}
                other => return Err(other),
            },
            Left::Called | Left::CallAgain => unreachable!("there are no calls"),
        }
    }
    Ok(())
}

fn set_flat_protected_mode<C: GuestCpu>(cpu: &mut C) {
    let flat = |attr| Segment {
        selector: 8,
        attr: SegmentAttr::from_bits_truncate(attr),
        limit: u32::MAX,
        base: 0,
    };
    cpu.set_segment(SegmentReg::Cs, flat(0xc9b));
    for reg in [
        SegmentReg::Ds,
        SegmentReg::Es,
        SegmentReg::Ss,
        SegmentReg::Fs,
        SegmentReg::Gs,
    ] {
        cpu.set_segment(reg, flat(0xc93));
    }
    let system = |attr| Segment {
        limit: 0x67,
        ..flat(attr)
    };
    cpu.set_segment(SegmentReg::Tr, system(0x08b));
    cpu.write(SysReg::Cr0, 0x11);
    cpu.write(SysReg::Rflags, 2);
    cpu.set_rip(0);
}

/// Nested page tables with the one page at address 0.
struct Tables {
    root: Owned<[u64; 512]>,
    _below: [Owned<[u64; 512]>; 3],
}

impl Tables {
    fn new(format: NestedFormat, page: u64) -> Result<Tables, OutOfMemory> {
        // Read, write and execute; present, writable and user. EPT leaves also say write-back.
        let (table, leaf) = match format {
            NestedFormat::Ept => (7, 7 | 6 << 3),
            NestedFormat::Npt => (7, 7),
        };
        let [mut root, mut third, mut second, mut first] = [
            Owned::zeroed()?,
            Owned::zeroed()?,
            Owned::zeroed()?,
            Owned::<[u64; 512]>::zeroed()?,
        ];
        first[0] = page | leaf;
        second[0] = first.hpa().0 | table;
        third[0] = second.hpa().0 | table;
        root[0] = third.hpa().0 | table;
        Ok(Tables {
            root,
            _below: [third, second, first],
        })
    }
}
