//! Where `scripts/build` leaves what is booted.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A file that `scripts/build` makes.
///
/// # Errors
/// It is not there.
pub fn output(name: &str) -> Result<PathBuf> {
    let path = root().join("out").join(name);
    ensure!(
        path.exists(),
        "{} is missing: scripts/build --checked makes it, or scripts/test, which makes all that tests want",
        path.display()
    );
    Ok(path.canonicalize()?)
}

/// A file of the boot archive.
///
/// # Errors
/// It is not there, or `cpio` is missing.
pub fn packed(name: &str) -> Result<Vec<u8>> {
    let unpacked = Command::new("cpio")
        .args(["--quiet", "--extract", "--to-stdout", name])
        .stdin(File::open(output("boot-archive.cpio")?)?)
        .output()
        .context("cpio does not start")?;
    ensure!(
        unpacked.status.success() && !unpacked.stdout.is_empty(),
        "{name} is not in the boot archive"
    );
    Ok(unpacked.stdout)
}

/// Unpacks those files of an archive that match one of `patterns`, or all if there are none.
///
/// # Errors
/// `cpio` is missing or fails.
pub fn unpack(archive: &Path, into: &Path, patterns: &[&str]) -> Result<()> {
    let status = Command::new("cpio")
        .args(["--quiet", "--extract", "--make-directories"])
        .args(patterns)
        .current_dir(into)
        .stdin(File::open(archive)?)
        .status()
        .context("cpio does not start")?;
    ensure!(status.success(), "cpio: {status}");
    Ok(())
}
