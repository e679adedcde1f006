//! Start of the hypervisor: prints what the boot loader handed over, and halts.
// UNSAFETY: the serial port.
#![expect(unsafe_code, reason = "port I/O")]

use boot::Handover;
use bootloader_api::BootInfo;
use core::fmt::Write;
use core::panic::PanicInfo;
use uart_16550::{Config, Uart16550Tty};

#[cfg(target_os = "none")]
#[global_allocator]
static HEAP: linked_list_allocator::LockedHeap = linked_list_allocator::LockedHeap::empty();

/// The hypervisor's entry, whatever the boot loader was. Runs on the boot stack and the boot page tables.
pub fn kernel_main(info: &'static mut BootInfo, boot: Handover) -> ! {
    print(format_args!(
        "Oxen, started by {:?} through {}\n",
        boot.loader, boot.path
    ));
    print(format_args!("command line: {}\n", boot.command_line));
    print(format_args!("image {:#x?}, RSDP {:x?}\n", boot.image, boot.rsdp));
    for module in boot.modules {
        print(format_args!(
            "module {:#x}+{:#x}: {}\n",
            module.start, module.len, module.command_line
        ));
    }
    for region in info.memory_regions.iter() {
        print(format_args!(
            "{:#014x}..{:#014x} {:?}\n",
            region.start, region.end, region.kind
        ));
    }
    halt()
}

/// Prints what went wrong and halts.
pub fn panic(info: &PanicInfo<'_>) -> ! {
    print(format_args!("Oxen: {info}\n"));
    halt()
}

fn print(text: core::fmt::Arguments<'_>) {
    // SAFETY: COM1's ports belong to nobody else.
    if let Ok(mut port) = unsafe { Uart16550Tty::new_port(0x3f8, Config::default()) } {
        let _ = port.write_fmt(text);
    }
}

fn halt() -> ! {
    loop {
        x86_64::instructions::hlt();
    }
}
