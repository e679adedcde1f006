//! The bare-metal program: where the first instructions (crate `boot`) meet the hypervisor (the library). On the host
//! it is an empty program, so that plain `cargo build` and `cargo test` work.
#![cfg_attr(target_os = "none", no_std, no_main)]
// UNSAFETY: `rust_start` is called by name from assembly.
#![cfg_attr(
    target_os = "none",
    expect(unsafe_code, reason = "symbols called from assembly and by the compiler")
)]

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("This is a hypervisor: build it with scripts/build.");
}

/// Called by `boot/src/entry/start.s` on the boot stack.
#[cfg(target_os = "none")]
// SAFETY: the only function of this name.
#[unsafe(no_mangle)]
extern "C" fn rust_start(magic: u32, info: u64, image: u64) -> ! {
    // SAFETY: this is the one call, with the arguments as they came.
    match unsafe { boot::entry::take(magic, info, image) } {
        Ok((info, handover)) => hypervisor::kernel_main(info, handover),
        Err(error) => hypervisor::cannot_start(error),
    }
}

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    hypervisor::panic(info)
}
