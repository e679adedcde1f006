//! Links the bare-metal programs with the guest runtime's linker script.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none")
        && let Ok(script) = std::env::var("DEP_GUEST_RT_LINKER_SCRIPT")
    {
        println!("cargo::rerun-if-changed={script}");
        println!("cargo::rustc-link-arg-bins=-T{script}");
        println!("cargo::rustc-link-arg-bins=--no-pie");
    }
}
