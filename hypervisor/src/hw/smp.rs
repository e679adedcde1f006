//! Starting the other CPUs (SDM 3A 9.4; APM vol. 2, 16.7.5): INIT, start-up message, a few instructions in real mode, then the same long mode,
//! page tables and descriptor tables as everywhere.
//!
//! One at a time, by the first CPU. Where a CPU's time-stamp counter does not agree with the first one's, all time goes by another clock from
//! then on, as system time and guests' clocks are one linear function of the counter; without another clock that CPU is left alone.
// UNSAFETY: code for real mode, copied to low memory.
#![expect(unsafe_code, reason = "code for real mode, copied to low memory")]

use alloc::boxed::Box;
use core::arch::global_asm;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};

use x86_64::registers::model_specific::Msr;

use super::percpu::{self, PerCpu};
use super::{acpi, apic, power, time, traps};
use crate::arch::{errata, machine, try_msr};
use crate::cmdline::CommandLine;
use crate::mm::low_page::LowPage;
use crate::mm::{paging, phys};
use crate::types::PAGE_SIZE;
use crate::{sched, virt};

// Runs at the start of a page below 1 MiB, wherever that is. CS:IP = page:0; the words at its end are filled in before.
global_asm!(
    ".pushsection .rodata.startup, \"a\"",
    ".balign 16",
    ".set startup_at_gdt_pointer, startup_gdt_pointer - startup_code",
    ".set startup_at_root, startup_root - startup_code",
    ".set startup_at_far, startup_far - startup_code",
    ".set startup_at_limited, startup_limited - startup_code",
    ".code16",
    ".global startup_code",
    "startup_code:",
    "cli",
    "cld",
    "mov ax, cs",
    "mov ds, ax",
    "xor bx, bx",
    "lgdt [bx + startup_at_gdt_pointer]",
    // IA32_MISC_ENABLE, as on the first CPU: all of CPUID (bit 22), and no-execute pages (bit 34), before EFER.NXE.
    "cmp byte ptr [bx + startup_at_limited], 0",
    "je 2f",
    "mov ecx, 0x1a0",
    "rdmsr",
    "and eax, 0xffbfffff",
    "and edx, 0xfffffffb",
    "wrmsr",
    "2:",
    "mov eax, 0x20", // CR4.PAE
    "mov cr4, eax",
    "mov eax, dword ptr [bx + startup_at_root]",
    "mov cr3, eax",
    "mov ecx, 0xc0000080", // EFER: LME, NXE
    "rdmsr",
    "or eax, 0x900",
    "wrmsr",
    "mov eax, 0x80010033", // CR0: PG, WP, NE, ET, MP, PE: straight to long mode (APM vol. 2, 14.6)
    "mov cr0, eax",
    ".byte 0x66, 0xff, 0xaf", // jmp far dword ptr [bx + disp16]
    ".short startup_at_far",
    ".code64",
    ".global startup_long",
    "startup_long:",
    "xor ebp, ebp", // the end of every back trace
    "mov rsp, [rip + startup_stack]",
    "mov rdi, [rip + startup_cpu]",
    "call [rip + startup_entry]",
    "ud2",
    ".balign 8",
    "startup_gdt:",
    ".quad 0",
    ".quad 0x00af9b000000ffff", // 64-bit code
    "startup_gdt_pointer:",
    ".short 15",
    ".global startup_words",
    "startup_words:",
    ".long 0", // the GDT's address
    ".balign 8",
    "startup_root:",
    ".long 0",
    "startup_far:",
    ".long 0",
    ".long 8",
    ".global startup_limited",
    "startup_limited:",
    ".long 0", // not 0: there is IA32_MISC_ENABLE, by which firmware may limit the CPU
    ".balign 8",
    "startup_stack:",
    ".quad 0",
    "startup_cpu:",
    ".quad 0",
    "startup_entry:",
    ".quad 0",
    ".global startup_end",
    "startup_end:",
    ".popsection",
);

unsafe extern "C" {
    static startup_code: u8;
    static startup_long: u8;
    static startup_gdt: u8;
    static startup_words: u8;
    static startup_root: u8;
    static startup_far: u8;
    static startup_limited: u8;
    static startup_stack: u8;
    static startup_cpu: u8;
    static startup_entry: u8;
    static startup_end: u8;
}

/// IA32_MISC_ENABLE.
const MISC_ENABLE: u32 = 0x1a0;
/// Pages of a CPU's stack.
const STACK_PAGES: u64 = 16;
/// A CPU that does not answer for so long is given up, in nanoseconds.
const PATIENCE_NS: u64 = 1_000_000_000;
/// From INIT to the start-up message, and between two of these (SDM 3A, 9.4.4.1).
const AFTER_INIT_NS: u64 = 10_000_000;
const AFTER_START_UP_NS: u64 = 200_000;

/// What the CPU that is being started has come to.
static PROGRESS: AtomicU32 = AtomicU32::new(NOTHING);
const NOTHING: u32 = 0;
/// It runs our code.
const ALIVE: u32 = 1;
/// It runs guests.
const READY: u32 = 2;
/// It cannot.
const REFUSED: u32 = 4;

/// The first CPU lets the other go on: their time-stamp counters have been compared.
static GO_ON: AtomicBool = AtomicBool::new(false);

/// Start the CPUs that ACPI lists, if `options` do not say `nosmp`; the one that calls is the first of them. `ram` is the machine's, in bytes. Afterwards
/// `maxcpus=` of them take part in scheduling, and the others are offline: in our hands, and nobody needs to start them under domains that run.
pub fn start_others(options: &CommandLine<'_>, ram: &[Range<u64>]) {
    let most = options.max_cpus;
    let own = percpu::this().apic_id();
    let others = acpi::info().cpus.iter().copied().filter(|&id| id != own);
    if acpi::info().cpus.len() > 1 && !options.no_smp {
        match Startup::new(ram) {
            Some(startup) => {
                for apic_id in others {
                    if !apic::reaches(apic_id) {
                        log::warn!("CPU with APIC id {apic_id} is not used: it takes an x2APIC to reach it");
                        continue;
                    }
                    let id = sched::cpu_count() as u32;
                    match startup.start(id, apic_id, id < most) {
                        Ok(()) => {
                            sched::add_cpu(id);
                            if id >= most {
                                sched::leave_out(id);
                            }
                        }
                        Err(why) => {
                            // It must not come late, with what is another's by then.
                            apic::reset(apic_id);
                            log::warn!("CPU with APIC id {apic_id} is not used: {why}");
                        }
                    }
                }
            }
            None => {
                log::warn!("other CPUs are not used: there is no free RAM below 640 KiB to start them from")
            }
        }
    }
    log::info!(
        "CPUs          {} of {} run guests",
        sched::online_cpus().count(),
        acpi::info().cpus.len().max(1) + acpi::info().cpus_left_out
    );
}

/// The page that CPUs start in, which gets its contents back in the end.
struct Startup {
    page: LowPage,
    before: Box<[u8; PAGE_SIZE as usize]>,
    root: u32,
}

impl Startup {
    fn new(ram: &[Range<u64>]) -> Option<Startup> {
        let page = LowPage::find(ram)?;
        let root = u32::try_from(paging::startup_tables().ok()?.root().addr().0).ok()?;
        let mut before = Box::new([0; PAGE_SIZE as usize]);
        let at = phys::ptr(page.at());
        let code = &raw const startup_code;
        // SAFETY: a page of RAM that is nobody's now; whatever the boot loader has left there, it is put back. The code is smaller.
        unsafe {
            core::ptr::copy_nonoverlapping(at, before.as_mut_ptr(), before.len());
            core::ptr::copy_nonoverlapping(code, at, (&raw const startup_end).offset_from(code) as usize);
        }
        Some(Startup { page, before, root })
    }

    /// Write `value` where the copy of the word at `label` is.
    fn set<T>(&self, label: *const u8, value: T) {
        let offset = label as u64 - &raw const startup_code as u64;
        // SAFETY: a word of the code, in the page that `new` has taken.
        unsafe {
            phys::ptr(self.page.at().offset(offset))
                .cast::<T>()
                .write_unaligned(value)
        };
    }

    fn address(&self, label: *const u8) -> u32 {
        (self.page.at().0 + (label as u64 - &raw const startup_code as u64)) as u32
    }

    /// Start one. For one that is not `needed`, time does not go by another clock.
    fn start(&self, id: u32, apic_id: u32, needed: bool) -> Result<(), &'static str> {
        let stack = paging::new_stack(STACK_PAGES).map_err(|_| "no memory for its stack")?;
        let cpu: &'static PerCpu = Box::leak(Box::new(PerCpu::new(id, apic_id)));
        self.set(&raw const startup_words, self.address(&raw const startup_gdt));
        self.set(&raw const startup_root, self.root);
        self.set(&raw const startup_far, self.address(&raw const startup_long));
        let limited = !machine::is_amd() && try_msr::read(MISC_ENABLE).is_some();
        self.set(&raw const startup_limited, u32::from(limited));
        self.set(&raw const startup_stack, stack);
        self.set(&raw const startup_cpu, core::ptr::from_ref(cpu) as u64);
        self.set(&raw const startup_entry, first_steps as *const () as u64);
        GO_ON.store(false, SeqCst);
        PROGRESS.store(NOTHING, SeqCst);
        WARP.store(0, SeqCst);
        LOOKS.store(0, SeqCst);
        ADJUST.store(Adjust::No as u32, SeqCst);

        apic::reset(apic_id);
        delay(AFTER_INIT_NS);
        // Not before: until its INIT, a CPU that was refused goes on comparing.
        LATEST.store(0, SeqCst);
        apic::start_up(apic_id, self.page.at());
        if wait_for(ALIVE, AFTER_START_UP_NS).is_err() {
            apic::start_up(apic_id, self.page.at());
            wait_for(ALIVE, PATIENCE_NS)?;
        }
        compare_with_the_other()?;
        let mut warp = WARP.load(SeqCst);
        if warp != 0 && time::tsc_adjust().is_some() {
            let before = warp;
            adjust_the_other(Adjust::AsTheFirst)?;
            compare_with_the_other()?;
            warp = WARP.load(SeqCst);
            if warp != 0 {
                adjust_the_other(Adjust::AsBefore)?;
            } else {
                log::warn!(
                    "CPU with APIC id {apic_id}: firmware left its time-stamp counter {before} ticks off; adjusted"
                );
            }
        }
        if warp != 0 && time::trusts_tsc() {
            if !needed {
                return Err(
                    "it is not needed, and its time-stamp counter does not agree with the first CPU's",
                );
            }
            log::warn!("CPU with APIC id {apic_id}: its time-stamp counter is {warp} ticks off");
            let substitute = time::distrust_tsc().ok_or(
                "its time-stamp counter does not agree with the first CPU's, and there is no other clock",
            )?;
            apic::leave_the_tsc();
            log::warn!("time goes on by {substitute}; guests' reads of the TSC exit");
        }
        GO_ON.store(true, SeqCst);
        wait_for(READY, PATIENCE_NS)
    }
}

impl Drop for Startup {
    fn drop(&mut self) {
        // SAFETY: the page that `new` has taken, in which no CPU is any more.
        unsafe {
            core::ptr::copy_nonoverlapping(self.before.as_ptr(), phys::ptr(self.page.at()), self.before.len())
        };
    }
}

fn delay(ns: u64) {
    let end = time::now_ns() + ns;
    while time::now_ns() < end {
        core::hint::spin_loop();
    }
}

fn wait_for(progress: u32, ns: u64) -> Result<(), &'static str> {
    let end = time::now_ns() + ns;
    loop {
        match PROGRESS.load(SeqCst) {
            REFUSED => return Err("its virtualization cannot be switched on"),
            now if now >= progress => return Ok(()),
            _ if time::now_ns() >= end => return Err("it does not answer"),
            _ => core::hint::spin_loop(),
        }
    }
}

/// The first CPU's, and the other's, latest reading of the time-stamp counter.
static LATEST: AtomicU64 = AtomicU64::new(0);
/// By how many ticks one has read less than the other had before.
static WARP: AtomicU64 = AtomicU64::new(0);
/// `crash_test=skew`: by how many ticks the other one's counter seems to be ahead.
static SKEW: AtomicU64 = AtomicU64::new(0);

/// The time-stamp counters of the CPUs that come now are to look as if they were not the first one's.
pub fn skew_clocks() {
    // Some seconds at least: CPUs that are an emulator's threads may look that far apart. Not behind, as counters begin near 0.
    SKEW.store(1 << 36, SeqCst);
}

/// How often the other one has looked.
static LOOKS: AtomicU32 = AtomicU32::new(0);

/// Two CPUs do this at the same time: each looks whether its counter, and `ahead`, is behind what the other has just read.
fn compare_clocks(ahead: u64) {
    let seen = LATEST.load(SeqCst);
    // SAFETY: keeps the counter from being read before the other's reading is.
    unsafe { core::arch::x86_64::_mm_lfence() };
    let now = time::tsc().wrapping_add(ahead);
    if now < seen {
        WARP.fetch_max(seen - now, SeqCst);
    }
    LATEST.fetch_max(now, SeqCst);
}

/// The first CPU's part: until the other one, which goes on as long as it may not go on with anything else, has looked often enough meanwhile.
fn compare_with_the_other() -> Result<(), &'static str> {
    const ENOUGH: u32 = 2000;
    let end = time::now_ns() + PATIENCE_NS;
    let first = LOOKS.load(SeqCst);
    loop {
        let enough = LOOKS.load(SeqCst).wrapping_sub(first) >= ENOUGH;
        // Once more then, for the other one may have looked as often in one go.
        compare_clocks(0);
        if enough {
            return Ok(());
        }
        if time::now_ns() >= end {
            return Err("it does not answer");
        }
        core::hint::spin_loop();
    }
}

/// What the other CPU is to do to its [`TSC_ADJUST`], and to forget what was compared.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Adjust {
    No,
    /// Make it the first one's, which is 0 ([`time::init`]).
    AsTheFirst,
    /// Give it the value back that it had.
    AsBefore,
}

/// One of [`Adjust`].
static ADJUST: AtomicU32 = AtomicU32::new(Adjust::No as u32);
/// `crash_test=adjust`: by how much firmware has adjusted the counters of CPUs that come now.
static MISADJUSTED: AtomicU64 = AtomicU64::new(0);

/// The time-stamp counters of the CPUs that come now are to be wrong as firmware makes them.
pub fn misadjust_clocks() {
    MISADJUSTED.store(1_000_000, SeqCst);
}

/// The first CPU's part. Sockets that came out of reset at different times have counters that agree by different adjustments, so this is for where they do not.
fn adjust_the_other(how: Adjust) -> Result<(), &'static str> {
    ADJUST.store(how as u32, SeqCst);
    let end = time::now_ns() + PATIENCE_NS;
    while ADJUST.load(SeqCst) != Adjust::No as u32 {
        if time::now_ns() >= end {
            return Err("it does not answer");
        }
        core::hint::spin_loop();
    }
    Ok(())
}

/// The other CPU's part, while the first one waits for it; `before` is the value that it had.
fn adjust_if_told(before: u64) {
    let how = ADJUST.load(SeqCst);
    if how != Adjust::No as u32 {
        let value = if how == Adjust::AsBefore as u32 { before } else { 0 };
        // SAFETY: CPUID of the first CPU, which this one is like, says that there is the register; nothing goes by this CPU's counter yet.
        unsafe { Msr::new(time::TSC_ADJUST).write(value) };
        LATEST.store(0, SeqCst);
        WARP.store(0, SeqCst);
        ADJUST.store(Adjust::No as u32, SeqCst);
    }
}

/// Where the other CPUs come from real mode: on their own stacks, with the tables of [`paging::startup_tables`], interrupts off.
extern "C" fn first_steps(cpu: &'static PerCpu) -> ! {
    // SAFETY: code and stack are in the upper half.
    unsafe { paging::load() };
    paging::enable_protections();
    percpu::install(cpu);
    traps::init();
    errata::fix();
    apic::init();
    PROGRESS.store(ALIVE, SeqCst);
    // What comes in the TSC's stead is the same for all.
    let ahead = if time::trusts_tsc() { SKEW.load(SeqCst) } else { 0 };
    let misadjusted = MISADJUSTED.load(SeqCst);
    if misadjusted != 0 && time::tsc_adjust().is_some() {
        // SAFETY: whoever asks for the test wants time to be wrong.
        unsafe { Msr::new(time::TSC_ADJUST).write(misadjusted) };
    }
    let adjusted = time::tsc_adjust().unwrap_or(0);
    while !GO_ON.load(SeqCst) {
        adjust_if_told(adjusted);
        compare_clocks(ahead);
        LOOKS.fetch_add(1, SeqCst);
        core::hint::spin_loop();
    }
    if let Err(error) = machine::enable() {
        log::error!("CPU {} runs no guests: {error}", cpu.id());
        PROGRESS.store(REFUSED, SeqCst);
        power::park()
    }
    sched::join_core();
    PROGRESS.store(READY, SeqCst);
    virt::run_cpu()
}
