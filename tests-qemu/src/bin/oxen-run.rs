//! Boot Oxen in an emulator, on the terminal this was started from.

use anyhow::{Context, Result, ensure};
use clap::Parser;
use std::path::PathBuf;
use tests_qemu::machine::{WITH_DEBIAN, kvm_usable};
use tests_qemu::{Door, Machine, Module, Vehicle, outputs, xen};

/// Boots Oxen with dom0-shim and a Debian Linux as domU. Ctrl-A x ends the emulator.
#[derive(Parser)]
#[command(name = "scripts/run", version)]
struct Options {
    /// VT-x, emulated by Bochs
    #[arg(long, group = "vehicle")]
    vmx: bool,
    /// AMD-V, emulated by QEMU (the default without nested KVM)
    #[arg(long, group = "vehicle")]
    svm: bool,
    /// AMD-V, emulated by Bochs: a second opinion
    #[arg(long, group = "vehicle")]
    svm_bochs: bool,
    /// This machine's own virtualization, nested by KVM (the default where usable)
    #[arg(long, group = "vehicle")]
    kvm: bool,
    /// Boot through GRUB from a BIOS CD
    #[arg(long, group = "door")]
    iso: bool,
    /// Boot through GRUB on UEFI (OVMF)
    #[arg(long, group = "door")]
    uefi: bool,
    /// Boot our own UEFI application (OVMF)
    #[arg(long, group = "door")]
    efi_app: bool,
    /// Wait for gdb on localhost:PORT; `target remote :PORT` with the symbols of out/oxen.elf; QEMU only
    #[arg(long, value_name = "PORT", num_args = 0..=1, require_equals = true, default_missing_value = "1234",
          value_parser = clap::value_parser!(u16).range(1..))]
    gdb: Option<u16>,
    /// CPUs of the machine
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=255))]
    smp: u32,
    /// Memory of the machine, in MiB; dom0-shim has three eighths of it, 384 at most
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    mem: u32,
    /// CPU model of the emulator
    #[arg(long)]
    cpu: Option<String>,
    /// A disk of the machine, /dev/vda in dom0-shim's configs (then vdb, ...): an image, raw or .qcow2; QEMU only
    #[arg(long, value_name = "FILE")]
    disk: Vec<PathBuf>,
    /// A network device of the machine, the bridge eth0 of dom0-shim: what QEMU's -netdev takes, as `user`; QEMU only
    #[arg(long, value_name = "NETDEV", num_args = 0..=1, require_equals = true, default_missing_value = "user")]
    net: Option<String>,
    /// The kernel of dom0 instead of dom0-shim: any PVH ELF or bzImage
    #[arg(long, value_name = "FILE")]
    dom0: Option<PathBuf>,
    /// Debian's Linux as dom0, in RAM, with Xen's own toolstack: `xl info`, `xl create -c /etc/xen/debian.cfg`
    #[arg(long, conflicts_with_all = ["dom0", "initrd", "dom0_args"])]
    xl: bool,
    /// The initial ramdisk or boot archive of dom0
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Command line of dom0; dom0-shim's is `domu=debian console=debian` otherwise. A Linux wants `console=hvc0`
    #[arg(long, value_name = "ARGS")]
    dom0_args: Option<String>,
    /// More options for Oxen's own command line
    #[arg(value_name = "OPTION")]
    options: Vec<String>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let vehicle = match &options {
        Options { vmx: true, .. } => Vehicle::Vmx,
        Options { svm: true, .. } => Vehicle::Svm,
        Options { svm_bochs: true, .. } => Vehicle::SvmBochs,
        Options { kvm: true, .. } => {
            kvm_usable().context("--kvm")?;
            Vehicle::Kvm
        }
        _ if kvm_usable().is_ok() => Vehicle::Kvm,
        _ => Vehicle::Svm,
    };
    let mut machine = Machine::new(vehicle)?;
    if options.iso {
        machine.door = Door::Multiboot2;
    } else if options.uefi {
        machine.door = Door::UefiGrub;
    } else if options.efi_app {
        machine.door = Door::UefiApp;
    }
    machine.cpu = options.cpu;
    machine.cpus = options.smp;
    machine.one_thread = true;
    machine.memory = options.mem;
    machine.gdb = options.gdb;
    machine.restarts = true;
    machine.disks = options.disk;
    machine.networks = options.net.into_iter().collect();
    machine.command_line += " ";
    machine.command_line += &memory_of_dom0(options.mem, options.xl)?;
    for option in &options.options {
        machine.command_line += " ";
        machine.command_line += option;
    }
    let scratch = tempfile::tempdir()?;
    machine.modules = if options.xl {
        xen::dom0(scratch.path(), &xen::domu()?)?
    } else {
        modules(options.dom0, options.initrd, options.dom0_args)?
    };
    eprintln!(
        "oxen-run: {vehicle}, {}, {} MiB, {} CPU(s); Ctrl-A x ends it",
        machine.door, machine.memory, machine.cpus
    );
    if let Some(port) = options.gdb {
        eprintln!("oxen-run: waits for gdb: gdb out/oxen.elf -ex 'target remote :{port}', then `continue`");
    }
    machine.start(scratch.path())?.attach()
}

/// The option for dom0's memory on a machine with `machine` MiB, on which a Debian is to fit beside it.
fn memory_of_dom0(machine: u32, xl: bool) -> Result<String> {
    let (least, option) = match xl {
        true => (768, xen::MEMORY.into()),
        false => (512, format!("dom0_mem={}M", (machine / 8 * 3).min(384))),
    };
    ensure!(
        machine >= least,
        "--mem {machine} is too little for dom0 and a Debian beside it, which want {least} MiB"
    );
    Ok(option)
}

/// A kernel with its command line, and a ramdisk: dom0-shim and its boot archive if they are not named.
fn modules(kernel: Option<PathBuf>, ramdisk: Option<PathBuf>, args: Option<String>) -> Result<Vec<Module>> {
    let args = args.unwrap_or_else(|| match &kernel {
        None => WITH_DEBIAN.to_string(),
        Some(_) => String::new(),
    });
    let ramdisk = match (ramdisk, &kernel) {
        (None, None) => Some(outputs::output("boot-archive.cpio")?),
        (named, _) => named,
    };
    let kernel = kernel.map_or_else(|| outputs::output("dom0-shim"), Ok)?;
    let module = |path: PathBuf, args| {
        let path = path.canonicalize().with_context(|| path.display().to_string())?;
        Ok(Module { path, args })
    };
    [
        Some(module(kernel, args)),
        ramdisk.map(|path| module(path, String::new())),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gdb_has_a_port_of_its_own_or_the_usual_one() {
        for (argument, port) in [
            ("--svm", Some(None)),
            ("--gdb", Some(Some(1234))),
            ("--gdb=4321", Some(Some(4321))),
            ("--gdb=0", None),
            ("--gdb=65536", None),
            ("--gdb=", None),
        ] {
            let parsed = Options::try_parse_from(["scripts/run", argument]);
            assert_eq!(parsed.ok().map(|options| options.gdb), port, "{argument}");
        }
    }

    #[test]
    fn dom0_leaves_memory_for_a_debian() {
        for (machine, xl, option) in [
            (512, false, "dom0_mem=192M"),
            (1024, false, "dom0_mem=384M"),
            (u32::MAX, false, "dom0_mem=384M"),
            (768, true, "dom0_mem=512M"),
        ] {
            assert_eq!(memory_of_dom0(machine, xl).unwrap(), option);
        }
        for (machine, xl) in [(0, false), (511, false), (767, true)] {
            let refused = memory_of_dom0(machine, xl).unwrap_err().to_string();
            assert!(refused.starts_with(&format!("--mem {machine} is too little")));
        }
    }
}
