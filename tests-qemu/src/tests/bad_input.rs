//! What cannot work is refused with a sentence that says why.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use super::{BOTH, PATIENCE, bomb, guest, test};
use crate::runner::{Bench, Test};
use crate::{Machine, Module, Vehicle, outputs};

/// The tests: machines that cannot do it, and for each back end's usual machine bad options and modules.
pub fn tests() -> Vec<Test> {
    let mut tests = vec![
        test("no virtualization", Vehicle::Svm, |bench, machine| {
            refused(
                bench,
                on(machine, "qemu64,-svm")?,
                "cannot run guests: the CPU has no AMD-V (SVM)",
            )
        }),
        test("no 64-bit mode", Vehicle::Svm, |bench, machine| {
            refused(
                bench,
                on(machine, "qemu64,-lm")?,
                "this processor has no 64-bit mode, which Oxen needs",
            )
        }),
        test("no 64-bit mode", Vehicle::Vmx, |bench, machine| {
            refused(
                bench,
                on(machine, "core_duo_t2400_yonah")?,
                "this processor has no 64-bit mode, which Oxen needs",
            )
        }),
        test("no no-execute pages", Vehicle::Svm, |bench, machine| {
            refused(
                bench,
                on(machine, "qemu64,-nx")?,
                "this processor does not offer no-execute pages",
            )
        }),
        test("no nested paging", Vehicle::Svm, |bench, machine| {
            refused(
                bench,
                on(machine, "EPYC-Milan-v2,-npt")?,
                "cannot run guests: the CPU's AMD-V has no nested paging (NPT)",
            )
        }),
        // Bochs's CPU of this kind lacks IA32_MISC_ENABLE, which all real ones have.
        test("no virtualization", Vehicle::Vmx, |bench, mut machine| {
            machine.lenient_msrs = true;
            refused(
                bench,
                on(machine, "p4_prescott_celeron_336")?,
                "cannot run guests: the CPU has no VT-x (VMX)",
            )
        }),
        test("no virtualization", Vehicle::SvmBochs, |bench, machine| {
            refused(
                bench,
                on(machine, "athlon64_clawhammer")?,
                "cannot run guests: the CPU has no AMD-V (SVM)",
            )
        }),
        test("VT-x without EPT", Vehicle::Vmx, |bench, machine| {
            refused(
                bench,
                on(machine, "core2_penryn_t9600")?,
                "cannot run guests: VT-x here has no extended page tables (EPT)",
            )
        }),
    ];
    for vehicle in BOTH {
        tests.push(test("no modules", vehicle, |bench, machine| {
            refused(bench, machine, "no dom0: the boot loader brought no module")
        }));
        tests.push(test("dom0_mem too large", vehicle, |bench, mut machine| {
            machine.command_line += " dom0_mem=64G";
            machine.modules = vec![guest("hello", "")?];
            refused(bench, machine, "dom0_mem=65536M is more than the")
        }));
        tests.push(test("dom0_mem without a unit", vehicle, |bench, mut machine| {
            machine.command_line += " dom0_mem=512";
            machine.modules = vec![guest("hello", "")?];
            refused(bench, machine, "a number without a unit is KiB")
        }));
        tests.push(test("unknown option", vehicle, |bench, mut machine| {
            machine.command_line += " dom0_mem=64M frobnicate=1 loglvl=warning";
            machine.modules = vec![guest("hello", "")?];
            let console = bench.start(&machine)?;
            console.expect("unknown option \"frobnicate=1\" is ignored", PATIENCE)?;
            super::guests::verdict(console)?;
            ensure!(
                !console.output().contains("memory map "),
                "what is no warning is in the log, too"
            );
            Ok(())
        }));
        tests.push(test("decompression bomb", vehicle, |bench, mut machine| {
            machine.memory = 256;
            with_kernel(
                bench,
                machine,
                linux_around(&bomb(300)?),
                "not enough memory to unpack it",
            )
        }));
        tests.push(kernel(
            "not a kernel",
            vehicle,
            "neither an ELF file nor a Linux bzImage",
            |_| b"not a kernel".repeat(1000),
        ));
        tests.push(kernel(
            "truncated kernel",
            vehicle,
            "lies outside the file",
            |kernel| kernel[..kernel.len() / 2].to_vec(),
        ));
        tests.push(kernel(
            "kernel without PVH note",
            vehicle,
            "no PVH entry point",
            |kernel| {
                let mut kernel = kernel.to_vec();
                // The note's owner becomes somebody else.
                while let Some(at) = kernel.windows(4).position(|word| word == b"Xen\0") {
                    kernel[at..at + 4].copy_from_slice(b"Non\0");
                }
                kernel
            },
        ));
    }
    tests.push(test("no timer at all", Vehicle::Svm, |bench, mut machine| {
        machine.chipset = "microvm,acpi=on,isa-serial=on";
        refused(bench, machine, "cannot start: how fast does the TSC tick?")
    }));
    tests.push(test("too many modules", Vehicle::Svm, |bench, mut machine| {
        machine.modules = vec![guest("hello", "")?; 33];
        refused(bench, machine, "cannot start: more than 32 boot modules")
    }));
    tests.push(test("corrupt bzImage", Vehicle::Svm, corrupt_linux));
    tests
}

fn on(mut machine: Machine, cpu: &str) -> Result<Machine> {
    machine.cpu = Some(cpu.into());
    machine.command_line += " dom0_mem=64M";
    machine.modules = vec![guest("hello", "")?];
    Ok(machine)
}

fn refused(bench: &mut Bench, machine: Machine, sentence: &str) -> Result<()> {
    bench.start(&machine)?.expect(sentence, PATIENCE)?;
    Ok(())
}

/// A test with a dom0 kernel that `damage` made of a good one.
fn kernel(name: &str, vehicle: Vehicle, sentence: &'static str, damage: fn(&[u8]) -> Vec<u8>) -> Test {
    test(name, vehicle, move |bench, machine| {
        let good = std::fs::read(outputs::output("guests/hello")?)?;
        with_kernel(bench, machine, damage(&good), sentence)
    })
}

fn with_kernel(bench: &mut Bench, mut machine: Machine, kernel: Vec<u8>, sentence: &str) -> Result<()> {
    let path: PathBuf = bench.scratch().join("kernel");
    std::fs::write(&path, kernel)?;
    machine.command_line += " dom0_mem=64M";
    machine.modules = vec![Module {
        path,
        args: String::new(),
    }];
    refused(bench, machine, sentence)
}

/// A bzImage with nothing but this payload (Linux, Documentation/arch/x86/boot.rst): GRUB would unpack a bare gzip file itself.
pub(super) fn linux_around(payload: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 1024];
    image[0x1f1] = 1;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x20c_u16.to_le_bytes());
    image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    image.extend_from_slice(payload);
    image
}

/// Debian's own kernel with one byte of its payload changed.
fn corrupt_linux(bench: &mut Bench, machine: Machine) -> Result<()> {
    let mut linux = std::fs::read(outputs::root().join("target/boot-archive/archive/boot/vmlinuz"))?;
    let middle = linux.len() / 2;
    linux[middle] ^= 0x5a;
    with_kernel(bench, machine, linux, "corrupt xz data")
}
