//! Publishes the linker script to the build scripts of the guests as `DEP_GUEST_RT_LINKER_SCRIPT`.

fn main() {
    let dir = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    println!("cargo::metadata=linker-script={dir}/guest.ld");
    println!("cargo::rerun-if-changed=guest.ld");
}
