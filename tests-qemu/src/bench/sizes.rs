//! Bytes of the images, lines of the sources.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::{Hypervisor, grouped};
use crate::outputs::{self, root};

/// Prints both tables.
///
/// # Errors
/// Something is not built, or the sources are not there.
pub fn print(hypervisors: &[Hypervisor]) -> Result<()> {
    println!("| bytes    |     image |   gzipped |");
    println!("|----------|----------:|----------:|");
    for hypervisor in hypervisors {
        let names = match hypervisor {
            Hypervisor::Xen => ["xen/xen", "xen/xen.gz"],
            Hypervisor::Oxen => ["oxen", "oxen.gz"],
        };
        print!("| {hypervisor:<8} |");
        for name in names {
            let bytes = fs::metadata(outputs::output(name)?)?.len();
            print!(" {:>9} |", grouped(bytes));
        }
        println!();
    }
    println!();
    println!("| lines of Rust (no comments, no blanks) |        |");
    println!("|----------------------------------------|-------:|");
    for part in ["abi", "boot", "hypervisor", "dom0-shim", "tests-qemu"] {
        println!("| {part:<38} | {:>6} |", grouped(lines(&root().join(part))?));
    }
    Ok(())
}

fn lines(directory: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            sum += lines(&path)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path)?;
            let code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with("//");
            sum += text.lines().filter(code).count() as u64;
        }
    }
    Ok(sum)
}
