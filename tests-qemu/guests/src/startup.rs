//! A second vCPU that is started by INIT and start-up messages, as on a machine: it tells what it finds in its local APIC.
// UNSAFETY: another vCPU runs on this guest's memory.
#![expect(unsafe_code, reason = "another vCPU runs on this guest's memory")]

use core::arch::global_asm;
use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use abi::start_info::{HvmMemmapTableEntry, XEN_HVM_MEMMAP_TYPE_RAM};
use guest_rt::start_info::StartInfo;
use guest_rt::time;

use crate::cpu;

/// Bytes of a page.
const SIZE: u64 = 4096;
/// Its APIC ID, as Xen numbers them.
const APIC_ID: u32 = 2;
/// ICR: INIT, edge, assert.
const INIT: u32 = 0x4500;
/// ICR: start-up, at the page in bits 0 to 7.
const START_UP: u32 = 0x4600;

global_asm!(
    r#"
    .pushsection .rodata.startup, "a"
    .code16
    .globl startup_begin, startup_end
startup_begin:
    cli
    lgdtl   %cs:startup_gdt_pointer - startup_begin
    movl    %cr0, %eax
    orl     $1, %eax
    movl    %eax, %cr0
    ljmpl   $8, $startup_protected
startup_gdt_pointer:
    .word   23
    .long   startup_gdt
startup_end:
    .balign 8
startup_gdt:
    .quad   0, 0x00cf9b000000ffff, 0x00cf93000000ffff
    .popsection

    .pushsection .text.startup, "ax"
    .code32
startup_protected:
    movw    $16, %ax
    movw    %ax, %ds
    movl    $0xfee00000, %ebx
    movl    0x80(%ebx), %eax            /* TPR */
    movl    %eax, startup_found
    movl    0xf0(%ebx), %eax            /* SVR */
    movl    %eax, startup_found + 4
    movl    0x220(%ebx), %eax           /* IRR */
    movl    %eax, startup_found + 8
    movl    0x320(%ebx), %eax           /* LVT timer */
    movl    %eax, startup_found + 12
    movl    $0x1ff, 0xf0(%ebx)
    movl    $0x20, 0x80(%ebx)
    movl    $0x61, 0x320(%ebx)
    lock incl startup_times
1:
    movl    0x220(%ebx), %eax
    movl    %eax, startup_irr
    pause
    jmp     1b
    .code64
    .popsection
    "#,
    options(att_syntax)
);

unsafe extern "C" {
    static startup_begin: [u8; 0];
    static startup_end: [u8; 0];
}

/// TPR, SVR, the third word of IRR, and the timer's entry of the LVT.
pub type Found = [u32; 4];

#[unsafe(no_mangle)]
static startup_found: [AtomicU32; 4] = [const { AtomicU32::new(0) }; 4];
#[unsafe(no_mangle)]
static startup_times: AtomicU32 = AtomicU32::new(0);
#[unsafe(no_mangle)]
static startup_irr: AtomicU32 = AtomicU32::new(0);

fn send(command: u32) {
    cpu::mmio_write(cpu::APIC_ICR + 0x10, APIC_ID << 24);
    cpu::mmio_write(cpu::APIC_ICR, command);
}

/// Waits until `done`, not for ever.
fn wait(done: impl Fn() -> bool) -> bool {
    let patience = time::now() + 20_000_000_000;
    while !done() && time::now() < patience {
        core::hint::spin_loop();
    }
    done()
}

/// Puts what it begins with in real mode into a page below 1 MiB, the first that is RAM (but for page 0); its number. `None`: there is none.
pub fn prepare(info: &StartInfo) -> Option<u8> {
    const REAL_MODE_END: u64 = 0xa_0000;
    let first = |entry: &HvmMemmapTableEntry| entry.addr.next_multiple_of(SIZE).max(SIZE);
    let (page, _) = info
        .memory_map()
        .iter()
        .filter(|entry| entry.type_ == XEN_HVM_MEMMAP_TYPE_RAM)
        .map(|entry| (first(entry), (entry.addr + entry.size).min(REAL_MODE_END)))
        .find(|&(page, end)| page + SIZE <= end)?;
    // SAFETY: both symbols bound the code; the page is RAM of this guest's, mapped one to one, and the heap is above 1 MiB.
    unsafe {
        let (begin, end) = (&raw const startup_begin, &raw const startup_end);
        core::ptr::copy_nonoverlapping(begin.cast::<u8>(), page as *mut u8, end as usize - begin as usize);
    }
    Some((page / SIZE) as u8)
}

/// Stops it, if it runs, and starts it at `page`: what it found in its local APIC then, before it enabled that and wrote to TPR and the LVT. `None`: it
/// did not come up.
pub fn restart(page: u8) -> Option<Found> {
    let before = startup_times.load(SeqCst);
    stop();
    send(START_UP | u32::from(page));
    wait(|| startup_times.load(SeqCst) == before + 1)
        .then(|| startup_found.each_ref().map(|register| register.load(SeqCst)))
}

/// Sends it an interrupt of `vector`, which is in the third word of IRR and stays there.
pub fn interrupt(vector: u8) -> bool {
    send(vector.into());
    wait(|| startup_irr.load(SeqCst) & 1 << (vector % 32) != 0)
}

/// Stops it.
pub fn stop() {
    send(INIT);
}
