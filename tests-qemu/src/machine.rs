//! An emulated machine: which emulator, how Oxen is loaded, with what.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::console::{Console, open_pty};
use crate::{media, outputs};

/// An emulator with the virtualization extensions of one vendor.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, clap::ValueEnum)]
pub enum Vehicle {
    /// QEMU's TCG: AMD-V with nested paging and nothing more.
    Svm,
    /// Bochs: VT-x with EPT, VPID and unrestricted guests.
    Vmx,
    /// Bochs as an AMD machine: a second opinion on AMD-V, with next-RIP saving and more.
    SvmBochs,
    /// QEMU on KVM with nested virtualization: the host's own vendor.
    Kvm,
}

impl fmt::Display for Vehicle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Vehicle::Svm => "svm",
            Vehicle::Vmx => "vmx",
            Vehicle::SvmBochs => "svm-bochs",
            Vehicle::Kvm => "kvm",
        })
    }
}

impl Vehicle {
    fn is_bochs(self) -> bool {
        matches!(self, Vehicle::Vmx | Vehicle::SvmBochs)
    }

    /// How Oxen is loaded without further ado.
    pub fn default_door(self) -> Door {
        if self.is_bochs() {
            Door::Isolinux
        } else {
            Door::Kernel
        }
    }

    fn default_cpu(self) -> &'static str {
        match self {
            Vehicle::Svm => "EPYC-Milan-v2",
            // The widest whose XSAVEC works: Skylake's writes YMM registers where XRSTOR does not look for them (Bochs 2.7), so
            // that processes of a Linux guest die now and then.
            Vehicle::Vmx => "broadwell_ult",
            Vehicle::SvmBochs => "ryzen",
            Vehicle::Kvm => "host",
        }
    }
}

/// Does the host offer nested virtualization by KVM? `/dev/kvm` alone does not say so: the CPU has to list `svm` or `vmx`, and the module to allow nesting.
///
/// # Errors
/// A sentence: what is missing.
pub fn kvm_usable() -> Result<()> {
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has = |flag: &str| {
        flags
            .lines()
            .any(|l| l.starts_with("flags") && l.split_whitespace().any(|f| f == flag))
    };
    let nested = ["kvm_amd", "kvm_intel"].iter().any(|module| {
        std::fs::read_to_string(format!("/sys/module/{module}/parameters/nested"))
            .is_ok_and(|value| matches!(value.trim(), "1" | "Y"))
    });
    ensure!(
        has("svm") || has("vmx"),
        "this machine's CPU has no virtualization, or firmware has it off (neither svm nor vmx in /proc/cpuinfo)"
    );
    ensure!(
        nested,
        "nested virtualization is off, or KVM is not there (/sys/module/kvm_amd or kvm_intel, parameters/nested)"
    );
    File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .context("this user cannot open /dev/kvm")?;
    Ok(())
}

/// How Oxen is loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Door {
    /// By the emulator itself (`qemu -kernel`, multiboot 1). Bochs has no such thing and takes [`Door::Isolinux`].
    Kernel,
    /// The same by PVH's note, with one module, which has no command line. QEMU looks for it in what is not multiboot 1.
    Pvh,
    /// ISOLINUX on a BIOS CD, by its `mboot.c32` (multiboot 1). GRUB copies byte by byte, of which Bochs has ten seconds more with Debian's kernel.
    Isolinux,
    /// GRUB on a BIOS CD, `multiboot`.
    Multiboot1,
    /// GRUB on a BIOS CD, `multiboot2`.
    Multiboot2,
    /// GRUB on UEFI, `multiboot2`.
    UefiGrub,
    /// Our own UEFI application.
    UefiApp,
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Door::Kernel => "kernel",
            Door::Pvh => "pvh",
            Door::Isolinux => "isolinux",
            Door::Multiboot1 => "multiboot1",
            Door::Multiboot2 => "multiboot2",
            Door::UefiGrub => "uefi-grub",
            Door::UefiApp => "uefi-app",
        })
    }
}

/// A file for the boot loader to put into memory beside Oxen: first the kernel of dom0, then its initial ramdisk.
#[derive(Clone, Debug)]
pub struct Module {
    /// The file.
    pub path: PathBuf,
    /// Its command line.
    pub args: String,
}

/// The command line of dom0-shim in `scripts/run`: it creates a Debian and attaches its console.
pub const WITH_DEBIAN: &str = "domu=debian console=debian";

/// The socket of QEMU's monitor, in the directory that the machine was started with.
pub const MONITOR: &str = "monitor";

/// What to boot, and where.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The emulator.
    pub vehicle: Vehicle,
    /// The CPU model, if not the vehicle's default.
    pub cpu: Option<String>,
    /// The way in.
    pub door: Door,
    /// The image that is booted; another hypervisor's for comparisons.
    pub image: PathBuf,
    /// Oxen's command line.
    pub command_line: String,
    /// Modules in Xen's order.
    pub modules: Vec<Module>,
    /// RAM in MiB.
    pub memory: u32,
    /// Number of CPUs.
    pub cpus: u32,
    /// The serial port, 1 or 2, that our terminal is at; the other leads nowhere.
    pub serial: u32,
    /// How many of them share a core.
    pub threads: u32,
    /// Time goes by instructions (QEMU's `-icount`), each of which takes 2 to the power of so many nanoseconds; with 0 the time-stamp counter ticks once an
    /// instruction. In Bochs time always does.
    pub icount: Option<u32>,
    /// Bochs: how many million instructions a CPU executes in a second of the machine's time. With fewer, what takes a certain time takes less of ours, but
    /// more of it goes into the guests' ticks.
    pub mips: u32,
    /// QEMU's TCG: all CPUs take turns in one thread, instead of one thread each. For guests that use the FPU on several CPUs: each FXRSTOR and XRSTOR
    /// on any CPU rewrites a word of the first one's state (`cpu_clear_ignne`, up to QEMU 10.0 at least), without a lock, in which that CPU notes
    /// at the same time whether nested paging is on. When a change is lost, the domain triple-faults at once, or the machine.
    pub one_thread: bool,
    /// Bochs: registers (MSRs) that its CPU lacks can be read and written, as stock kernels expect of every machine.
    pub lenient_msrs: bool,
    /// Disks, by virtio (QEMU): images, raw unless their names end in `.qcow2`, with blocks of 4 KiB if they end in `.4k`.
    /// Their names in QEMU are `disk0` and on.
    pub disks: Vec<PathBuf>,
    /// Network devices, by virtio (QEMU): what `-netdev` takes but its id, as `user`.
    pub networks: Vec<String>,
    /// More of QEMU's command line.
    pub qemu: Vec<String>,
    /// Wait for gdb on this TCP port of localhost (QEMU).
    pub gdb: Option<u16>,
    /// The UEFI application finds a configuration that was made for xen.efi: of that name, and with files that Oxen does not load.
    pub xen_config: bool,
    /// QEMU's machine type.
    pub chipset: &'static str,
    /// What is on the disk that the UEFI application is started from, instead of what command line and modules make: paths and contents.
    pub esp: Vec<(&'static str, Vec<u8>)>,
    /// A reset starts it again, as it always does in Bochs; else QEMU ends.
    pub restarts: bool,
}

/// For VT-x in Bochs: a host's interrupt that comes while a guest holds back a virtual interrupt by RFLAGS.IF makes Bochs (2.7, and still
/// in 2.8) deliver the virtual one to the guest, whose interrupts are off (`HandleExtInterrupt` in its `event.cc` asks whether that one is
/// pending, not whether it is masked). A stock kernel then waits for ever for a lock that it holds.
const NO_APICV: &str = " apicv=no";

impl Machine {
    /// Oxen as `scripts/build` left it, with one CPU and 1 GiB.
    ///
    /// # Errors
    /// Nothing is built yet.
    pub fn new(vehicle: Vehicle) -> Result<Machine> {
        Ok(Machine {
            vehicle,
            cpu: None,
            door: vehicle.default_door(),
            image: outputs::output("oxen")?,
            command_line: format!(
                "console=com1 com1=115200,8n1 loglvl=all guest_loglvl=all noreboot{}",
                if vehicle == Vehicle::Vmx { NO_APICV } else { "" }
            ),
            modules: Vec::new(),
            memory: 1024,
            cpus: 1,
            serial: 1,
            threads: 1,
            icount: None,
            mips: 50,
            one_thread: false,
            lenient_msrs: false,
            disks: Vec::new(),
            networks: Vec::new(),
            qemu: Vec::new(),
            gdb: None,
            xen_config: false,
            chipset: "q35",
            esp: Vec::new(),
            restarts: false,
        })
    }

    /// The hardware sees to local APICs where it can, even where stock kernels do not live with how it does that: [`NO_APICV`].
    pub fn use_apicv(&mut self) {
        self.command_line += " apicv=yes";
    }

    /// Start it; files that it needs while it runs are made in `scratch`.
    ///
    /// # Errors
    /// The emulator or a tool that makes its media is missing or fails, or the vehicle cannot do what is asked.
    pub fn start(&self, scratch: &Path) -> Result<Console> {
        let (pty, terminal) = open_pty()?;
        let child = if self.vehicle.is_bochs() {
            self.bochs(scratch, &terminal)?
        } else {
            self.qemu(scratch, &terminal)?
        };
        let transcript = File::create(scratch.join("serial.log"))?;
        Ok(Console::new(child, pty, transcript, scratch.join(EMULATOR_LOG)))
    }

    fn qemu(&self, scratch: &Path, terminal: &Path) -> Result<Child> {
        let mut qemu = Command::new("qemu-system-x86_64");
        let accel = match self.vehicle {
            Vehicle::Kvm => "kvm",
            _ if self.icount.is_some() || self.one_thread => "tcg,thread=single",
            _ => "tcg",
        };
        qemu.args(["-accel", accel, "-machine", self.chipset])
            .args(["-display", "none", "-net", "none", "-vga", "none"])
            .args(["-cpu", self.cpu.as_deref().unwrap_or(self.vehicle.default_cpu())])
            .args(["-m", &self.memory.to_string(), "-smp"])
            .arg(format!(
                "{},cores={},threads={}",
                self.cpus,
                self.cpus / self.threads,
                self.threads
            ));
        for _ in 1..self.serial {
            qemu.args(["-serial", "null"]);
        }
        qemu.arg("-serial").arg(terminal);
        if let Some(shift) = self.icount {
            qemu.args(["-icount", &format!("shift={shift},sleep=off")]);
        }
        for (number, network) in self.networks.iter().enumerate() {
            qemu.arg("-netdev").arg(format!("{network},id=net{number}"));
            qemu.arg("-device")
                .arg(format!("virtio-net-pci,netdev=net{number},romfile="));
        }
        for (number, disk) in self.disks.iter().enumerate() {
            let ends = |end: &str| disk.extension().is_some_and(|own| own == end);
            let format = if ends("qcow2") { "qcow2" } else { "raw" };
            let blocks = if ends("4k") {
                ",logical_block_size=4096,physical_block_size=4096"
            } else {
                ""
            };
            let file = disk.display().to_string().replace(',', ",,");
            qemu.arg("-drive")
                .arg(format!("if=none,id=disk{number},format={format},file={file}"))
                .arg("-device")
                .arg(format!("virtio-blk-pci,drive=disk{number}{blocks}"));
        }
        qemu.args(&self.qemu);
        let monitor = scratch.join(MONITOR);
        qemu.arg("-monitor")
            .arg(format!("unix:{},server=on,wait=off", monitor.display()));
        if !self.restarts {
            qemu.arg("-no-reboot");
        }
        if let Some(port) = self.gdb {
            // Who is on the network is not to debug it: QEMU's own default would be all addresses.
            qemu.args(["-S", "-gdb", &format!("tcp:127.0.0.1:{port}")]);
        }
        match self.door {
            Door::Kernel | Door::Pvh => {
                let image = match self.door {
                    Door::Pvh => media::without_multiboot1(&self.image, scratch)?,
                    _ => self.image.clone(),
                };
                qemu.arg("-kernel")
                    .arg(image)
                    .arg("-append")
                    .arg(&self.command_line);
                if !self.modules.is_empty() {
                    qemu.arg("-initrd").arg(self.initrd_list()?);
                }
            }
            Door::Isolinux => {
                qemu.arg("-cdrom").arg(media::isolinux_iso(self, scratch)?);
            }
            Door::Multiboot1 | Door::Multiboot2 => {
                qemu.arg("-cdrom").arg(media::grub_iso(self, scratch)?);
            }
            Door::UefiGrub => {
                media::firmware(&mut qemu, scratch)?;
                qemu.arg("-cdrom").arg(media::grub_iso(self, scratch)?);
            }
            Door::UefiApp => {
                media::firmware(&mut qemu, scratch)?;
                let disk = media::esp(self, scratch)?;
                qemu.arg("-drive")
                    .arg(format!("format=raw,file={}", disk.display()));
            }
        }
        spawn(qemu, scratch, "qemu-system-x86")
    }

    /// `-initrd FILE args,FILE args`: QEMU splits at commas and doubles those that are meant.
    fn initrd_list(&self) -> Result<String> {
        let mut list = Vec::new();
        for module in &self.modules {
            let path = module.path.to_str().context("module path is not UTF-8")?;
            ensure!(
                !path.contains([',', ' ']),
                "{path}: qemu -kernel cannot take a module path with commas or spaces"
            );
            list.push(
                format!("{path} {}", module.args.replace(',', ",,"))
                    .trim_end()
                    .to_owned(),
            );
        }
        Ok(list.join(","))
    }

    fn bochs(&self, scratch: &Path, terminal: &Path) -> Result<Child> {
        ensure!(
            self.disks.is_empty() && self.networks.is_empty(),
            "Bochs has no virtio devices: leave out disks and networks of the machine, or use --svm"
        );
        ensure!(
            self.gdb.is_none(),
            "Debian's Bochs is built without its stub for gdb: leave out --gdb, or use --svm"
        );
        let iso = match self.door {
            Door::Isolinux => media::isolinux_iso(self, scratch)?,
            Door::Multiboot1 | Door::Multiboot2 => media::grub_iso(self, scratch)?,
            door => bail!("Bochs boots from a BIOS CD only: {door} is not possible; use --svm"),
        };
        let config = scratch.join("bochsrc");
        std::fs::write(
            &config,
            format!(
                "display_library: rfb, options=\"timeout=0\"\n\
                 cpu: model={cpu}, count={count}, ips={mips}000000, reset_on_triple_fault=0, ignore_bad_msrs={lenient}\n\
                 clock: sync=none, time0=946684800\n\
                 megs: {memory}\n\
                 romimage: file=/usr/share/bochs/BIOS-bochs-latest, options=fastboot\n\
                 vgaromimage: file=/usr/share/vgabios/vgabios.bin\n\
                 ata0-master: type=cdrom, path={iso}, status=inserted\n\
                 boot: cdrom\n\
                 {others}com{serial}: enabled=1, mode=term, dev={terminal}\n\
                 port_e9_hack: enabled=0\n\
                 sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy\n\
                 panic: action=fatal\n\
                 log: {log}\n",
                cpu = self.cpu.as_deref().unwrap_or(self.vehicle.default_cpu()),
                mips = self.mips,
                // Processors, cores of each, threads of each.
                count = match self.threads {
                    1 => format!("{}", self.cpus),
                    threads => format!("1:{}:{threads}", self.cpus / threads),
                },
                lenient = u8::from(self.lenient_msrs),
                memory = self.memory,
                others = (1..self.serial)
                    .map(|other| format!("com{other}: enabled=1, mode=null\n"))
                    .collect::<String>(),
                serial = self.serial,
                iso = iso.display(),
                terminal = terminal.display(),
                log = scratch.join("bochs.log").display(),
            ),
        )?;
        // Debian's build contains the debugger, which waits for `continue`.
        let commands = scratch.join("bochs.rc");
        std::fs::write(&commands, "c\n")?;
        let mut bochs = Command::new("bochs-bin");
        // A large environment makes Debian's build abort ("buffer overflow detected").
        let kept = ["PATH", "HOME"].map(|name| (name, std::env::var_os(name).unwrap_or_default()));
        bochs.env_clear().envs(kept);
        bochs.arg("-q").arg("-f").arg(config).arg("-rc").arg(commands);
        spawn(bochs, scratch, "bochs")
    }
}

/// What the emulator itself prints, in its scratch directory.
const EMULATOR_LOG: &str = "emulator.log";

fn spawn(mut command: Command, scratch: &Path, package: &str) -> Result<Child> {
    let log = File::create(scratch.join(EMULATOR_LOG))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().with_context(|| {
        format!(
            "{} does not start; it is in the package {package}",
            command.get_program().display()
        )
    })
}
