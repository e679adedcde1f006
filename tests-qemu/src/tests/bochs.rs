//! Debian's kernel for tests in Bochs, which interprets: the same code, started in a third of the time. "debian to a login shell" boots it as shipped.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, anyhow, ensure};

use super::bad_input::linux_around;
use crate::outputs;

/// Its path in the boot archive.
pub const KERNEL: &str = "boot/vmlinuz";

/// What it is told besides: half of its boot would be tests of its own ciphers and of its keys, and each system call would change page
/// tables, which empties Bochs's TLB. What it says of its boot is in its log, but not on the serial line.
pub const ARGUMENTS: &str = "quiet cryptomgr.notests initcall_blacklist=crypto_kdf108_init,load_system_certificate_list,init_kprobe_trace \
                             mitigations=off";

/// A config with [`ARGUMENTS`].
///
/// # Errors
/// It has nothing for the kernel's command line.
pub fn with_arguments(config: &str) -> Result<String> {
    const EXTRA: &str = "console=hvc0";
    ensure!(config.contains(EXTRA), "there is no {EXTRA:?} in {config:?}");
    Ok(config.replacen(EXTRA, &format!("{EXTRA} {ARGUMENTS}"), 1))
}

/// The ELF file that is packed in it: unpacking takes 80 seconds at each start of a domU.
///
/// # Errors
/// The boot archive is missing or has another kind of kernel.
pub fn kernel() -> Result<Vec<u8>> {
    const LIMIT: usize = 256 << 20;
    let packed = outputs::packed(KERNEL)?;
    let kernel = pvh::kernel::open(&packed, LIMIT).map_err(|error| anyhow!("{KERNEL}: {error}"))?;
    without_last_zeros(kernel.elf())
}

/// The same packed by gzip, which is unpacked within seconds.
///
/// # Errors
/// As of [`kernel`]; or there is no gzip, or no room in `scratch`.
pub fn repacked_kernel(scratch: &Path) -> Result<Vec<u8>> {
    let file = scratch.join("kernel");
    std::fs::write(&file, kernel()?)?;
    let packed = Command::new("gzip").args(["-1", "-c"]).arg(&file).output()?;
    ensure!(packed.status.success(), "gzip: {}", packed.status);
    Ok(linux_around(&packed.stdout))
}

/// An ELF file without its sections and without the zeros that end its last segment, which are there anyway once that is loaded: of Debian's kernel they
/// are a third.
fn without_last_zeros(elf: &[u8]) -> Result<Vec<u8>> {
    const HEADERS: usize = 64;
    const HEADER: usize = 56;
    const FILE_OFFSET: usize = 8;
    const FILE_SIZE: usize = 32;
    let field = |at: usize| -> Result<usize> {
        let bytes = elf.get(at..at + 8).context("the ELF file is too short")?;
        Ok(usize::try_from(u64::from_le_bytes(bytes.try_into()?))?)
    };
    let count = usize::from(elf[56]);
    let (end, last) = (0..count)
        .map(|number| HEADERS + number * HEADER)
        .map(|header| Ok((field(header + FILE_OFFSET)? + field(header + FILE_SIZE)?, header)))
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .max()
        .context("the ELF file has no segments")?;
    let start = field(last + FILE_OFFSET)?;
    let segment = elf.get(start..end).context("the ELF file is too short")?;
    let kept = segment.iter().rposition(|&byte| byte != 0).map_or(0, |at| at + 1);
    let mut trimmed = elf[..start + kept].to_vec();
    trimmed[last + FILE_SIZE..][..8].copy_from_slice(&(kept as u64).to_le_bytes());
    // No table of sections.
    trimmed[40..48].fill(0);
    trimmed[60..64].fill(0);
    Ok(trimmed)
}
