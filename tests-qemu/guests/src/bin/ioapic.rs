//! Interrupts of the machine's devices: dom0's I/O APIC, with the real-time clock as an edge and as a level.
#![no_std]
#![no_main]
// UNSAFETY: ACPI tables and I/O APIC registers in memory.
#![expect(unsafe_code, reason = "ACPI tables and I/O APIC registers")]

use guest_rt::interrupt::{self, Line};
use guest_rt::start_info::StartInfo;
use guest_rt::{port, time};
use guests::report::Report;

guest_rt::main!(main);

/// The real-time clock's line, and its vector here.
const LINE: u32 = 8;
const VECTOR: u8 = 0x51;
const REMOTE_IRR: u32 = 1 << 14;
const MASKED: u32 = 1 << 16;
/// In nanoseconds: time enough for an interrupt to come, and for one to show that it does not.
const PATIENCE: u64 = 2_000_000_000;
const A_WHILE: u64 = 20_000_000;

fn main(info: StartInfo) -> ! {
    let mut report = Report::default();
    let io_apic = io_apic(info.raw.rsdp_paddr);
    report.equal("madt", io_apic, Some(0xfec0_0000));
    let io_apic = io_apic.unwrap_or(0xfec0_0000);
    report.equal("lines", read(io_apic, 1) >> 16, 23);
    report.equal("masked-at-first", read(io_apic, 0x10 + 2 * LINE), MASKED);
    interrupt::enable();
    edges(&mut report, io_apic);
    levels(&mut report, io_apic);
    masked(&mut report, io_apic);
    host_bridge(&mut report);
    report.finish()
}

/// A structure of firmware's or the hypervisor's.
fn load<T: Copy>(address: u64) -> T {
    // SAFETY: all memory below 4 GiB is mapped; any bits are a number.
    unsafe { (address as *const T).read_unaligned() }
}

/// The I/O APIC's address as the MADT has it (ACPI 6.5, 5.2.12).
fn io_apic(rsdp: u64) -> Option<u32> {
    let xsdt = load::<u64>(rsdp + 24);
    let tables = (xsdt + 36..xsdt + u64::from(load::<u32>(xsdt + 4))).step_by(8);
    let madt = tables
        .map(load::<u64>)
        .find(|&table| load::<[u8; 4]>(table) == *b"APIC")?;
    let mut entry = madt + 44;
    while entry < madt + u64::from(load::<u32>(madt + 4)) {
        let [kind, length] = load::<[u8; 2]>(entry);
        if kind == 1 {
            return Some(load(entry + 4));
        }
        entry += u64::from(length.max(2));
    }
    None
}

fn window(io_apic: u32) -> *mut u32 {
    io_apic as usize as *mut u32
}

fn read(io_apic: u32, register: u32) -> u32 {
    // SAFETY: index and data registers (82093AA datasheet 3.1), mapped like all below 4 GiB.
    unsafe {
        window(io_apic).write_volatile(register);
        window(io_apic).byte_add(0x10).read_volatile()
    }
}

fn write(io_apic: u32, register: u32, value: u32) {
    // SAFETY: as above.
    unsafe {
        window(io_apic).write_volatile(register);
        window(io_apic).byte_add(0x10).write_volatile(value);
    }
}

fn route(io_apic: u32, level: bool) {
    let line = Line {
        io_apic,
        input: LINE,
        active_low: false,
        level,
    };
    // SAFETY: there is an I/O APIC, which nothing else uses.
    unsafe { interrupt::route(line, VECTOR) };
}

/// Registers of the clock (MC146818 datasheet).
mod clock {
    pub const RATE: u8 = 10;
    pub const CONTROL: u8 = 11;
    pub const CAUSE: u8 = 12;
}

fn clock_read(register: u8) -> u8 {
    port::outb(0x70, register);
    port::inb(0x71)
}

fn clock_write(register: u8, value: u8) {
    port::outb(0x70, register);
    port::outb(0x71, value);
}

/// Switches the clock's ticks, 1024 a second, on or off. Its line is let go of.
fn ticks(on: bool) {
    const RATE_1024: u8 = 0x26;
    const PERIODIC: u8 = 0x40;
    clock_write(clock::RATE, RATE_1024);
    let others = clock_read(clock::CONTROL) & 0x0f;
    clock_write(clock::CONTROL, others | if on { PERIODIC } else { 0 });
    clock_read(clock::CAUSE);
}

/// Does an interrupt come within some time?
fn comes(within: u64) -> bool {
    let deadline = time::now() + within;
    let mut came = false;
    while !came && time::now() < deadline {
        interrupt::take(|vector| came |= vector == VECTOR);
    }
    came
}

fn edges(report: &mut Report, io_apic: u32) {
    route(io_apic, false);
    ticks(true);
    let mut came = 0;
    for _ in 0..10 {
        came += u32::from(comes(PATIENCE));
        interrupt::end();
        clock_read(clock::CAUSE);
    }
    ticks(false);
    report.equal("edges", came, 10);
    if comes(A_WHILE) {
        interrupt::end();
    }
}

/// A level comes again at its end until the device lets go, and not before.
fn levels(report: &mut Report, io_apic: u32) {
    let in_service = || read(io_apic, 0x10 + 2 * LINE) & REMOTE_IRR != 0;
    route(io_apic, true);
    ticks(true);
    report.equal("level-comes", comes(PATIENCE), true);
    report.equal("level-in-service", in_service(), true);
    report.equal("level-once", comes(A_WHILE), false);
    interrupt::end();
    report.equal("level-again", comes(PATIENCE), true);
    ticks(false);
    interrupt::end();
    report.equal("level-let-go", (comes(A_WHILE), in_service()), (false, false));
}

/// What came while the line was masked comes when it is not, if it is a level.
fn masked(report: &mut Report, io_apic: u32) {
    write(io_apic, 0x10 + 2 * LINE, MASKED | 1 << 15 | u32::from(VECTOR));
    ticks(true);
    report.equal("masked", comes(A_WHILE), false);
    route(io_apic, true);
    report.equal("unmasked", comes(PATIENCE), true);
    ticks(false);
    interrupt::end();
    write(io_apic, 0x10 + 2 * LINE, MASKED);
}

/// Configuration space by ports: both emulators have a bridge of Intel's at 0:0.0.
fn host_bridge(report: &mut Report) {
    port::outl(0xcf8, 1 << 31);
    report.equal("pci-host-bridge", port::inl(0xcfc) & 0xffff, 0x8086);
}
