//! dom0-shim, the bare-metal binary. On the host it only says what it is, so that workspace-wide commands work.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod guest;

#[cfg(target_os = "none")]
guest_rt::main!(guest::main);

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("dom0-shim is a PVH kernel: build it for x86_64-unknown-none (scripts/build)");
    std::process::exit(1);
}
