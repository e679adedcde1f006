//! Where `scripts/build` leaves what is booted.

use std::path::{Path, PathBuf};

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A file that `scripts/build` makes.
///
/// # Errors
/// It is not there.
pub fn output(name: &str) -> anyhow::Result<PathBuf> {
    let path = root().join("out").join(name);
    anyhow::ensure!(
        path.exists(),
        "{} is missing: run scripts/build --checked first",
        path.display()
    );
    Ok(path.canonicalize()?)
}
