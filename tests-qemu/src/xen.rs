//! Debian's Xen as `make_xen` leaves it in `out/xen`: a Linux dom0 that lives in RAM and has Xen's toolstack, which runs
//! on Oxen, too, and the machine that Xen itself boots on.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::tests::shim::archive;
use crate::{Machine, Module, Vehicle, outputs};

/// The prompt of dom0's shell.
pub const PROMPT: &str = "dom0# ";

/// Memory for that dom0, for the hypervisor's command line.
pub const MEMORY: &str = "dom0_mem=512M";

/// The kernel and the initial ramdisk of that dom0; `files` are in its file system.
///
/// # Errors
/// Xen is not in `out/xen`, or `scratch` cannot be written to.
pub fn dom0(scratch: &Path, files: &[(&str, Vec<u8>)]) -> Result<Vec<Module>> {
    Ok(vec![
        Module {
            path: outputs::output("xen/vmlinuz")?,
            args: "console=hvc0".into(),
        },
        Module {
            path: initrd(scratch, files)?,
            args: String::new(),
        },
    ])
}

/// What that dom0 needs for `xl create /etc/xen/debian.cfg`: the same Debian as dom0-shim's, with a disk in RAM and a
/// network device on a bridge.
///
/// # Errors
/// There is no boot archive.
pub fn domu() -> Result<[(&'static str, Vec<u8>); 4]> {
    const PREPARE: &str = "modprobe brd rd_nr=1 rd_size=16384
modprobe -a xen-blkback xen-netback bridge
brctl addbr xenbr0
ip link set xenbr0 up
";
    const CONFIG: &str = "name = 'debian'
type = 'pvh'
kernel = '/boot/vmlinuz'
ramdisk = '/boot/initrd.gz'
extra = 'console=hvc0'
memory = 192
disk = ['/dev/ram0,raw,xvda,rw']
vif = ['mac=00:16:3e:00:00:01,bridge=xenbr0']
";
    let (kernel, initrd) = ("boot/vmlinuz", "boot/initrd.gz");
    Ok([
        ("etc/rc.local", PREPARE.into()),
        ("etc/xen/debian.cfg", CONFIG.into()),
        (kernel, outputs::packed(kernel)?),
        (initrd, outputs::packed(initrd)?),
    ])
}

/// One CPU and 1 GiB, as [`Machine::new`], without any dom0.
///
/// # Errors
/// Xen is not in `out/xen`, or `scratch` cannot be written to.
pub fn bare_machine(vehicle: Vehicle, scratch: &Path) -> Result<Machine> {
    let mut machine = Machine::new(vehicle)?;
    machine.image = image(vehicle, scratch)?;
    machine.lenient_msrs = true;
    Ok(machine)
}

/// The same with its dom0, which has `files` in its file system.
///
/// # Errors
/// As above.
pub fn machine(vehicle: Vehicle, scratch: &Path, files: &[(&str, Vec<u8>)]) -> Result<Machine> {
    let mut machine = bare_machine(vehicle, scratch)?;
    machine.command_line += " ";
    machine.command_line += MEMORY;
    machine.modules = dom0(scratch, files)?;
    Ok(machine)
}

fn image(vehicle: Vehicle, scratch: &Path) -> Result<PathBuf> {
    let image = outputs::output("xen/xen")?;
    if vehicle != Vehicle::Svm {
        return Ok(image);
    }
    let mut bytes = fs::read(&image)?;
    read_cr0_freely(&mut bytes)?;
    let changed = scratch.join("xen");
    fs::write(&changed, bytes)?;
    Ok(changed)
}

/// Has Xen not intercept reads of CR0 on AMD-V. QEMU 10 takes that intercept for one of all control registers; Xen then
/// answers a read of CR2 with CR0, and Linux dies of it.
///
/// # Errors
/// The instruction is not there, or not the only one of its kind.
fn read_cr0_freely(image: &mut [u8]) -> Result<()> {
    /// `mov qword [rbx], 0xfefbfefb`, sign-extended: the first fields of a VMCB, reads of control registers in the low
    /// half (APM 2, appendix B).
    const INTERCEPTS: [u8; 7] = [0x48, 0xc7, 0x03, 0xfb, 0xfe, 0xfb, 0xfe];
    /// Of the byte with the first eight registers.
    const READ_CR0: u8 = 1;
    let mut found = image
        .windows(INTERCEPTS.len())
        .enumerate()
        .filter(|(_, bytes)| *bytes == INTERCEPTS)
        .map(|(at, _)| at);
    let at = found
        .next()
        .context("this Xen sets its intercepts by another instruction")?;
    ensure!(
        found.next().is_none(),
        "several of this Xen's instructions look like the one that sets intercepts"
    );
    image[at + 3] &= !READ_CR0;
    Ok(())
}

/// Dom0's initial ramdisk and `files` behind it: Linux unpacks one archive after the other.
fn initrd(scratch: &Path, files: &[(&str, Vec<u8>)]) -> Result<PathBuf> {
    let mut initrd = fs::read(outputs::output("xen/dom0.cpio")?)?;
    initrd.extend(fs::read(archive(scratch, files)?)?);
    let path = scratch.join("dom0.cpio");
    fs::write(&path, initrd)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::read_cr0_freely;

    const CODE: [u8; 9] = [0x90, 0x48, 0xc7, 0x03, 0xfb, 0xfe, 0xfb, 0xfe, 0xc3];

    #[test]
    fn one_intercept_is_taken_out() {
        let mut code = CODE;
        read_cr0_freely(&mut code).unwrap();
        assert_eq!(code, [0x90, 0x48, 0xc7, 0x03, 0xfa, 0xfe, 0xfb, 0xfe, 0xc3]);
    }

    #[test]
    fn other_code_is_left_alone() {
        for mut code in [CODE[2..].to_vec(), [CODE, CODE].concat()] {
            let before = code.clone();
            assert!(read_cr0_freely(&mut code).is_err());
            assert_eq!(code, before);
        }
    }
}
