//! Host tool: makes the boot image from the linked hypervisor.
//!
//! `image LINKED OUT` reads the ELF64 file `LINKED` and writes `OUT`: an ELF32 file for the i386, which is what
//! multiboot loaders take (`qemu -kernel` refuses ELF64), with the symbol table for back traces in its last segment.

mod elf32;
mod symbols;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let [linked, out] = args.as_slice() else {
        eprintln!("usage: image LINKED OUT");
        return ExitCode::from(2);
    };
    match make(Path::new(linked), Path::new(out)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("image: {}: {error}", Path::new(linked).display());
            ExitCode::FAILURE
        }
    }
}

fn make(linked: &Path, out: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let linked = std::fs::read(linked)?;
    std::fs::write(out, elf32::convert(&linked)?)?;
    Ok(())
}
