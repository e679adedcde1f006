//! From the first instruction to Rust: takes over from the loader and copies out what must survive.
// UNSAFETY: first code to run; reads the loader's structures by physical address and changes page tables.
#![expect(
    unsafe_code,
    reason = "boot: raw loader memory, control registers, the firmware's services"
)]

use bootloader_api::BootInfo;
use bootloader_api::info::Optional;
use core::arch::{asm, global_asm};
use core::mem::MaybeUninit;
use spin::{Mutex, MutexGuard, Once};

use crate::found::{BootError, Found, Physical};
use crate::handover::{Handover, Kept};
use crate::layout::{BOOT_MAPPED, DIRECT_MAP, IMAGE_BASE, ImageLayout};
use crate::memory::find_rsdps;
use crate::{multiboot1, multiboot2, pvh};

mod efi;

global_asm!(include_str!("start.s"));

unsafe extern "C" {
    static symbol_table: [u32; 2];
    static image_start: u8;
    static text_start: u8;
    static text_end: u8;
    static rodata_start: u8;
    static rodata_end: u8;
    static data_start: u8;
    static image_end: u8;
    static boot_stack_guard: u8;
    static boot_stack_bottom: u8;
    static boot_stack_top: u8;
    static boot_pml4: u8;
    fn boot_load_gdt();
}

static KEPT: Mutex<Kept> = Mutex::new(Kept::new());
static mut BOOT_INFO: MaybeUninit<BootInfo> = MaybeUninit::uninit();
static LAYOUT: Once<ImageLayout> = Once::new();

/// Where the parts of the image lie.
pub fn layout() -> &'static ImageLayout {
    LAYOUT.call_once(|| {
        let at = |symbol: *const u8| symbol as u64;
        let symbols = symbol_bytes();
        let symbols_start = symbols.as_ptr() as u64;
        ImageLayout {
            boot: at(&raw const image_start)..at(&raw const text_start),
            text: at(&raw const text_start)..at(&raw const text_end),
            rodata: at(&raw const rodata_start)..at(&raw const rodata_end),
            data: at(&raw const data_start)..at(&raw const image_end),
            stack_guard: at(&raw const boot_stack_guard)..at(&raw const boot_stack_bottom),
            stack: at(&raw const boot_stack_bottom)..at(&raw const boot_stack_top),
            symbols: symbols_start..symbols_start + (symbols.len() as u64).next_multiple_of(4096),
        }
    })
}

/// The appended symbol table; empty if the image was not made by the host tool.
pub(crate) fn symbol_bytes() -> &'static [u8] {
    // SAFETY: written by the host tool before the image was loaded, never at run time. Volatile because the compiler
    // must not take the value from the assembly source for granted.
    let [offset, len] = unsafe { (&raw const symbol_table).read_volatile() };
    if len == 0 {
        return &[];
    }
    // SAFETY: the host tool appended `len` bytes at `offset` to the loaded image, behind everything the linker placed.
    unsafe { core::slice::from_raw_parts((&raw const image_start).add(offset as usize), len as usize) }
}

/// The direct map of the boot page tables, as far as it goes.
struct DirectMap;

impl Physical for DirectMap {
    fn bytes(&self, start: u64, len: usize) -> Option<&[u8]> {
        let end = start.checked_add(len as u64)?;
        if start == 0 || end > BOOT_MAPPED {
            return None;
        }
        // SAFETY: mapped by the boot page tables; loader and firmware memory that nobody writes while `take` runs,
        // and any bit pattern is a byte. Our own image is never asked for.
        Some(unsafe { core::slice::from_raw_parts((DIRECT_MAP + start) as *const u8, len) })
    }
}

/// Takes over from the boot loader. `magic`, `info` and `image` are what the first instructions hand to
/// `rust_start`: EAX and EBX as the loader left them, and the image's physical address.
///
/// # Errors
/// When the loader's information is unusable; then there is nothing to do but to print the reason.
///
/// # Safety
/// To be called once, first thing, by `rust_start`, with its arguments unchanged.
pub unsafe fn take(
    magic: u32,
    info: u64,
    image: u64,
) -> Result<(&'static mut BootInfo, Handover), BootError> {
    match magic {
        multiboot1::MAGIC => finish(multiboot1::parse(&DirectMap, info)?, image),
        multiboot2::MAGIC => finish(
            multiboot2::parse(&multiboot2::load(&DirectMap, info)?, info)?,
            image,
        ),
        _ if pvh::is_start_info(&DirectMap, info) => finish(pvh::parse(&DirectMap, info)?, image),
        _ => Err(BootError::UnknownLoader(magic, info)),
    }
}

fn finish(mut found: Found<'_>, image: u64) -> Result<(&'static mut BootInfo, Handover), BootError> {
    let image = image..image + (layout().data.end.max(layout().symbols.end) - IMAGE_BASE);
    let (mut handover, map) = MutexGuard::leak(KEPT.lock()).copy(&found, image);
    if let Some(services) = found.efi {
        // SAFETY: the parser found both in the loader's information, which says that boot services are running; all
        // that is needed of memory that ends with them has just been copied.
        handover.rsdps = unsafe { efi::leave(services, &mut found.regions) }?;
        leave_firmware_tables(handover.image.start);
    } else {
        let room = handover.rsdps.remaining_capacity();
        handover.rsdps.extend(find_rsdps(&DirectMap).take(room));
    }
    handover.occupy(&mut found.regions)?;
    found.regions.resolve(map)?;

    let mut info = BootInfo::new(map.as_mut_slice().into());
    info.physical_memory_offset = Optional::Some(DIRECT_MAP);
    info.rsdp_addr = handover.rsdps.first().copied().into();
    info.kernel_addr = handover.image.start;
    info.kernel_len = handover.image.end - handover.image.start;
    info.kernel_image_offset = IMAGE_BASE;
    info.kernel_stack_bottom = layout().stack.start;
    info.kernel_stack_len = layout().stack.end - layout().stack.start;
    let place = &raw mut BOOT_INFO;
    // SAFETY: `take` is called once, so this is the only reference to the static.
    Ok((unsafe { (*place).write(info) }, handover))
}

/// Switches from the firmware's page tables and GDT, whose memory is free now, to our own.
fn leave_firmware_tables(image: u64) {
    // SAFETY: the boot page tables map the image where we run and the stack we use; the GDT is part of the image.
    // Interrupts are off from here on: the firmware's handlers are gone.
    unsafe {
        let pml4 = (&raw const boot_pml4) as u64 - (&raw const image_start) as u64 + image;
        asm!("cli", "mov cr3, {}", in(reg) pml4, options(nostack));
        boot_load_gdt();
    }
}
