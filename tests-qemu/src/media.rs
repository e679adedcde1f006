//! Boot media: CDs with GRUB, EFI system partitions, firmware.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::machine::{Door, Machine};
use crate::outputs;

/// A CD that boots by BIOS and by UEFI: GRUB with one entry, in the words that Xen's users know. By multiboot2 it boots what is installed, the compressed
/// image.
pub(crate) fn grub_iso(machine: &Machine, scratch: &Path) -> Result<PathBuf> {
    let tree = scratch.join("iso");
    let boot = tree.join("boot");
    fs::create_dir_all(boot.join("grub"))?;
    let (load, module) = if machine.door == Door::Multiboot1 {
        ("multiboot", "module")
    } else {
        ("multiboot2", "module2")
    };
    let own = machine.image == outputs::output("oxen")?;
    let (image, name) = if own && machine.door != Door::Multiboot1 {
        (outputs::output("oxen.gz")?, "oxen.gz")
    } else {
        (machine.image.clone(), "oxen")
    };
    fs::copy(image, boot.join(name))?;
    let mut config = format!(
        "set timeout=0\nterminal_output console\nmenuentry oxen {{\n  {load} /boot/{name} {}\n",
        machine.command_line
    );
    for (index, file) in machine.modules.iter().enumerate() {
        fs::copy(&file.path, boot.join(format!("module{index}")))
            .with_context(|| format!("module {}", file.path.display()))?;
        config += &format!("  {module} /boot/module{index} {}\n", file.args);
    }
    config += "}\n";
    fs::write(boot.join("grub/grub.cfg"), config)?;
    let iso = scratch.join("oxen.iso");
    run(Command::new("grub-mkrescue").arg("-o").arg(&iso).arg(&tree))?;
    Ok(iso)
}

/// A CD that boots by BIOS: ISOLINUX, whose `mboot.c32` loads by multiboot 1.
pub(crate) fn isolinux_iso(machine: &Machine, scratch: &Path) -> Result<PathBuf> {
    const LOADER: &str = "/usr/lib/ISOLINUX/isolinux.bin";
    const MODULES: &str = "/usr/lib/syslinux/modules/bios";
    let tree = scratch.join("iso");
    fs::create_dir_all(&tree)?;
    fs::copy(LOADER, tree.join("isolinux.bin"))
        .with_context(|| format!("{LOADER}: it is in the package isolinux"))?;
    for name in ["ldlinux.c32", "libcom32.c32", "mboot.c32"] {
        fs::copy(Path::new(MODULES).join(name), tree.join(name))
            .with_context(|| format!("{MODULES}/{name}: it is in the package syslinux-common"))?;
    }
    fs::copy(&machine.image, tree.join("oxen"))?;
    let mut config = format!("default mboot.c32 oxen {}", machine.command_line);
    for (index, file) in machine.modules.iter().enumerate() {
        fs::copy(&file.path, tree.join(format!("module{index}")))
            .with_context(|| format!("module {}", file.path.display()))?;
        config += &format!(" --- module{index} {}", file.args);
    }
    fs::write(tree.join("isolinux.cfg"), config + "\n")?;
    let iso = scratch.join("oxen.iso");
    run(Command::new("xorriso")
        .args(["-as", "mkisofs", "-quiet", "-b", "isolinux.bin", "-no-emul-boot"])
        .args(["-boot-load-size", "4", "-boot-info-table", "-o"])
        .arg(&iso)
        .arg(&tree))?;
    Ok(iso)
}

/// A disk that is an EFI system partition with our UEFI application, its configuration and the modules, or with the machine's own files.
pub(crate) fn esp(machine: &Machine, scratch: &Path) -> Result<PathBuf> {
    let tree = scratch.join("esp");
    if machine.esp.is_empty() {
        fill_esp(machine, &tree)?;
    }
    for (path, contents) in &machine.esp {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().context("a file in the root")?)?;
        fs::write(path, contents)?;
    }
    let bytes = size(&tree)?;
    let disk = scratch.join("esp.img");
    fs::File::create(&disk)?.set_len(bytes + bytes / 8 + (40 << 20))?;
    run(Command::new("mformat").args(["-i"]).arg(&disk).args(["-F", "::"]))?;
    let mut copy = Command::new("mcopy");
    copy.args(["-s", "-i"]).arg(&disk);
    for entry in fs::read_dir(&tree)? {
        copy.arg(entry?.path());
    }
    run(copy.arg("::"))?;
    Ok(disk)
}

/// The application by the name that firmware looks for, what it is to load, and a configuration that says so.
fn fill_esp(machine: &Machine, tree: &Path) -> Result<()> {
    let boot = tree.join("EFI/BOOT");
    fs::create_dir_all(&boot)?;
    fs::copy(outputs::output("oxen.efi")?, boot.join("BOOTX64.EFI"))?;
    let mut config = format!(
        "[global]\ndefault=oxen\n\n[oxen]\noptions={}\n",
        machine.command_line
    );
    for (index, file) in machine.modules.iter().enumerate() {
        let key = match index {
            0 => "kernel",
            1 => "ramdisk",
            _ => "module",
        };
        config += &format!("{key}=module{index} {}\n", file.args);
        fs::copy(&file.path, boot.join(format!("module{index}")))?;
    }
    if machine.xen_config {
        config += "ucode=microcode.bin\nvideo=gfx-1024x768\n";
    }
    let name = if machine.xen_config { "xen.cfg" } else { "oxen.cfg" };
    Ok(fs::write(boot.join(name), config)?)
}

/// Bytes of the files below a directory.
fn size(tree: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(tree)? {
        let entry = entry?;
        bytes += match entry.file_type()?.is_dir() {
            true => size(&entry.path())?,
            false => entry.metadata()?.len(),
        };
    }
    Ok(bytes)
}

/// A copy of an image that is none for multiboot 1.
pub(crate) fn without_multiboot1(image: &Path, scratch: &Path) -> Result<PathBuf> {
    const MAGIC: [u8; 4] = 0x1bad_b002_u32.to_le_bytes();
    let mut bytes = fs::read(image)?;
    let at = bytes.windows(MAGIC.len()).position(|word| word == MAGIC);
    bytes[at.context("the image is not for multiboot 1")?..][..MAGIC.len()].fill(0);
    let copy = scratch.join("oxen-pvh");
    fs::write(&copy, bytes)?;
    Ok(copy)
}

/// UEFI for a QEMU machine: Debian's OVMF, with variables of its own.
pub(crate) fn firmware(qemu: &mut Command, scratch: &Path) -> Result<()> {
    const CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
    const VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
    let vars = scratch.join("vars.fd");
    fs::copy(VARS, &vars).with_context(|| format!("{VARS}: it is in the package ovmf"))?;
    qemu.arg("-drive")
        .arg(format!("if=pflash,format=raw,unit=0,readonly=on,file={CODE}"));
    qemu.arg("-drive")
        .arg(format!("if=pflash,format=raw,unit=1,file={}", vars.display()));
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("{} does not start", command.get_program().display()))?;
    ensure!(
        output.status.success(),
        "{} failed:\n{}",
        command.get_program().display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
