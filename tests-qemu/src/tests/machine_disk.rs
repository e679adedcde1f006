//! Disks of the machine, which dom0-shim drives and gives to domains. QEMU only: Bochs has no virtio devices.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::debian::{log_in, prompt, shell, to_shell};
use super::{PATIENCE, test};
use crate::machine::MONITOR;
use crate::runner::{Bench, Test};
use crate::{Machine, Vehicle, outputs};

/// The tests.
pub fn tests() -> Vec<Test> {
    vec![
        test("disk of the machine", Vehicle::Svm, disk),
        test("disk with bad sectors", Vehicle::Svm, bad_sectors),
        test("files on a disk of the machine", Vehicle::Svm, files),
        test("power loss", Vehicle::Svm, power_loss),
    ]
}

const SECTOR: usize = 512;
const MIB: usize = 1 << 20;

/// What is in a disk's sector at first: its number.
fn numbered(sectors: usize) -> Vec<u8> {
    (0..sectors)
        .flat_map(|number| format!("{number:<511}\n").into_bytes())
        .collect()
}

/// Read and written by a domain, and not by two.
fn disk(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    let file = bench.scratch().join("disk.img");
    let mut expected = numbered(16 * MIB / SECTOR);
    std::fs::write(&file, &expected)?;
    let large_blocks = bench.scratch().join("disk.4k");
    std::fs::write(&large_blocks, numbered(MIB / SECTOR))?;
    machine.disks = vec![file.clone(), large_blocks];
    let monitor = bench.scratch().join(MONITOR);
    let mut shim = prompt(bench, machine)?;
    shim.console.type_line("create -c /etc/oxen/debian.cfg")?;
    log_in(shim.console)?;
    shim.detach()?;
    let refused = shim.command("block-attach debian /dev/vdc,raw,xvdb,w")?;
    ensure!(refused.contains("no such disk"), "{refused}");
    shim.command("block-attach debian /dev/vda,raw,xvdb,w")?;
    for access in ["r", "w"] {
        let refused = shim.command(&format!("block-attach debian /dev/vda,raw,xvdc,{access}"))?;
        ensure!(refused.contains("/dev/vda: it is in use"), "{refused}");
    }
    to_shell(&mut shim, "debian")?;
    let read = shell(
        shim.console,
        "while [ ! -e /dev/xvdb ]; do sleep 1; done; dd if=/dev/xvdb bs=64k skip=1 count=1 | head -c 3; \
         dd if=/dev/xvdb bs=1M | md5sum; cat /sys/block/xvdb/size",
    )?;
    let sum = Command::new("md5sum").arg(&file).output().context("md5sum")?;
    let sum = String::from_utf8_lossy(&sum.stdout);
    let sum = sum.split_whitespace().next().context("a sum")?;
    ensure!(
        read.contains("128") && read.contains(sum) && read.contains("32768\n"),
        "{sum}: {read}"
    );
    let written = shell(
        shim.console,
        "dd if=/dev/zero of=/dev/xvdb bs=1M seek=3 count=2 conv=fsync,notrunc && echo all is written",
    )?;
    ensure!(written.contains("\nall is written\n"), "{written}");
    expected[3 * MIB..5 * MIB].fill(0);
    ensure!(std::fs::read(&file)? == expected, "the disk has something else");

    // The disk grows while it is in use.
    let mut monitor = UnixStream::connect(monitor)?;
    monitor.write_all(b"block_resize disk0 24M\n")?;
    let grown = shell(
        shim.console,
        "while [ $(cat /sys/block/xvdb/size) != 49152 ]; do sleep 1; done; \
         dd if=/dev/zero of=/dev/xvdb bs=1M seek=20 count=1 conv=fsync,notrunc && echo the new part is written",
    )?;
    ensure!(grown.contains("\nthe new part is written\n"), "{grown}");
    expected.resize(24 * MIB, 0);
    shim.detach()?;
    shim.command("block-detach debian xvdb")?;

    shim.command("block-attach debian /dev/vdb,raw,xvdd,w")?;
    to_shell(&mut shim, "debian")?;
    let blocks = shell(
        shim.console,
        "while [ ! -e /dev/xvdd ]; do sleep 1; done; cd /sys/block/xvdd; cat size queue/logical_block_size queue/physical_block_size; \
         dd if=/dev/xvdd bs=4k skip=10 count=1 2>/dev/null | head -c 2; cd",
    )?;
    ensure!(blocks.contains("\n2048\n4096\n4096\n80"), "{blocks}");
    shim.detach()?;

    shim.command("block-attach debian /dev/vda,raw,xvdc,r")?;
    to_shell(&mut shim, "debian")?;
    let refused = shell(
        shim.console,
        "while [ ! -e /dev/xvdc ]; do sleep 1; done; dd if=/dev/zero of=/dev/xvdc count=1 conv=notrunc || echo refused",
    )?;
    ensure!(refused.contains("\nrefused\n"), "{refused}");
    ensure!(std::fs::read(&file)? == expected, "a read-only disk was written");
    Ok(())
}

/// A disk of the machine that cannot read one sector nor write another: the domain gets an I/O error for these, and all others work,
/// before and after.
fn bad_sectors(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    /// Pages of 4 KiB.
    const UNREADABLE: usize = 256;
    const UNWRITABLE: usize = 512;
    const SECTORS: usize = 8;
    let (image, faults) = (bench.scratch().join("disk.img"), bench.scratch().join("faults"));
    std::fs::write(&image, numbered(16 * MIB / SECTOR))?;
    let fault = |event: &str, page: usize| {
        format!(
            "[inject-error]\nevent = \"{event}\"\nerrno = \"5\"\nsector = \"{}\"\nonce = \"off\"\n",
            page * SECTORS + 3
        )
    };
    let rules = fault("read_aio", UNREADABLE) + &fault("write_aio", UNWRITABLE);
    std::fs::write(&faults, rules)?;
    // QEMU's block driver for tests, with the faults, above the image.
    machine.disks = vec![format!("blkdebug:{}:{}", faults.display(), image.display()).into()];
    let mut shim = prompt(bench, machine)?;
    shim.console
        .type_line("create -c /etc/oxen/debian.cfg disk=[\"/dev/vda,raw,xvdb,w\"]")?;
    log_in(shim.console)?;
    for (what, page, works) in [
        ("read", UNREADABLE - 1, true),
        ("read", UNREADABLE, false),
        ("read", UNREADABLE + 1, true),
        ("write", UNWRITABLE - 1, true),
        ("write", UNWRITABLE, false),
        ("write", UNWRITABLE + 1, true),
        ("read", UNREADABLE, false),
    ] {
        let dd = match what {
            "read" => format!("dd if=/dev/xvdb of=/dev/null bs=4k count=1 iflag=direct skip={page}"),
            _ => format!("dd if=/dev/zero of=/dev/xvdb bs=4k count=1 conv=fsync,notrunc seek={page}"),
        };
        let said = shell(shim.console, &format!("{dd} && echo all $(echo right)"))?;
        let found = (
            said.contains("\nall right\n"),
            said.contains("I/O error") || said.contains("Input/output error"),
        );
        ensure!(found == (works, !works), "{what} of page {page}: {said}");
    }
    shim.detach()?;
    let expected = numbered(16 * MIB / SECTOR);
    let written = std::fs::read(&image)?;
    let page = |bytes: &[u8], page: usize| bytes[page * 4096..(page + 1) * 4096].to_vec();
    ensure!(
        page(&written, UNWRITABLE) == page(&expected, UNWRITABLE)
            && page(&written, UNWRITABLE + 1) == vec![0; 4096],
        "what was written is not what the domain was told"
    );
    Ok(())
}

/// First sectors of the partitions of [`files`], and their sizes.
const FAT: (usize, usize) = (2048, 16 * MIB / SECTOR);
const EXT4: (usize, usize) = (2048 + 16 * MIB / SECTOR, 96 * MIB / SECTOR);

/// A disk with a partition of FAT, which has a config, and one of ext4 with kernel, ramdisk and an image.
fn partitioned(work: &Path) -> Result<PathBuf> {
    let (root, image) = (work.join("root"), work.join("disk.img"));
    std::fs::create_dir_all(root.join("images"))?;
    let root_image = root.join("images/root.img");
    // Without zeros: of those mke2fs makes holes.
    std::fs::write(&root_image, vec![0xff; 16 * MIB])?;
    outputs::unpack(&outputs::output("boot-archive.cpio")?, &root, &["boot/*"])?;

    let disk = File::create(&image)?;
    disk.set_len(((EXT4.0 + EXT4.1) * SECTOR) as u64)?;
    let mut record = [0; SECTOR];
    for (index, (kind, (start, size))) in [(0x0c, FAT), (0x83, EXT4)].into_iter().enumerate() {
        let entry = &mut record[446 + 16 * index..][..16];
        entry[4] = kind;
        entry[8..12].copy_from_slice(&(start as u32).to_le_bytes());
        entry[12..].copy_from_slice(&(size as u32).to_le_bytes());
    }
    record[510..].copy_from_slice(&[0x55, 0xaa]);
    disk.write_all_at(&record, 0)?;
    let offset = format!("offset={}", EXT4.0 * SECTOR);
    let size = format!("{}k", EXT4.1 / 2);
    mke2fs(
        &["-E", &offset, "-d"],
        &[root.as_os_str(), image.as_os_str(), size.as_ref()],
    )?;
    let config = work.join("Debian on disk.cfg");
    std::fs::write(
        &config,
        "name='files'\ntype='pvh'\nkernel='/dev/vda2:/boot/vmlinuz'\nramdisk='/dev/vda2:/boot/initrd.gz'\n\
         extra='console=hvc0'\nmemory=256\non_poweroff='destroy'\n\
         disk=['/dev/vda2:/images/root.img,raw,xvda,w']\n",
    )?;
    let fat = format!("{}@@{}", image.display(), FAT.0 * SECTOR);
    let sectors = FAT.1.to_string();
    run(Command::new("mformat").args(["-i", &fat, "-T", &sectors, "-h", "16", "-s", "63", "::"]))?;
    run(Command::new("mmd").args(["-i", &fat, "::/configs"]))?;
    run(Command::new("mcopy")
        .args(["-i", &fat])
        .arg(&config)
        .arg("::/configs/debian.cfg"))?;
    Ok(image)
}

fn mke2fs(options: &[&str], paths: &[&OsStr]) -> Result<()> {
    run(Command::new("/usr/sbin/mke2fs")
        .args(["-q", "-t", "ext4"])
        .args(options)
        .args(paths))
}

/// A domain whose config, kernel, ramdisk and disk are files on a disk: what it writes is in the file, and nothing else is
/// changed.
fn files(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    let image = partitioned(&bench.scratch())?;
    // An image in an image: what the second disk of the machine holds, with room to grow.
    let (numbers, qcow2) = (bench.scratch().join("numbers"), bench.scratch().join("qcow2.img"));
    let mut expected = numbered(8 * MIB / SECTOR);
    std::fs::write(&numbers, &expected)?;
    run(Command::new("qemu-img")
        .args(["convert", "-f", "raw", "-O", "qcow2", "-c"])
        .args([&numbers, &qcow2]))?;
    File::options().write(true).open(&qcow2)?.set_len(16 << 20)?;
    machine.disks = vec![image.clone(), qcow2.clone()];
    let mut shim = prompt(bench, machine)?;
    for (command, sentence) in [
        (
            "create /dev/vda1:/configs/none.cfg",
            "/dev/vda1:/configs/none.cfg: there is no such file",
        ),
        (
            "create /dev/vda3:/configs/debian.cfg",
            "/dev/vda3: there is no such partition",
        ),
        (
            "create /dev/vda:/configs/debian.cfg",
            "it has neither ext4 nor FAT",
        ),
        ("create /dev/vda1", "/dev/vda1: names no file"),
    ] {
        let said = shim.command(command)?;
        ensure!(said.contains(sentence), "{command}: {said}");
    }
    shim.console
        .type_line("create -c /dev/vda1:/configs/debian.cfg")?;
    log_in(shim.console)?;
    shim.detach()?;
    // The partition has the file in it, and the disk the partition.
    for target in ["/dev/vda2", "/dev/vda", "/dev/vda2:/images/root.img"] {
        let said = shim.command(&format!("block-attach files {target},raw,xvdb,r"))?;
        ensure!(said.contains("it is in use"), "{target}: {said}");
    }
    shim.command("block-attach files phy:/dev/vda1,xvdb,r")?;
    shim.command("block-attach files /dev/vdb,qcow2,xvdc,w")?;
    to_shell(&mut shim, "files")?;
    let said = shell(
        shim.console,
        "while [ ! -e /dev/xvdc ]; do sleep 1; done; dd if=/dev/xvdc bs=512 skip=5000 count=1 | head -c 4; \
         dd if=/dev/zero of=/dev/xvdc bs=100k seek=3 count=20 conv=notrunc && echo all of it",
    )?;
    ensure!(said.contains("5000") && said.contains("\nall of it\n"), "{said}");
    let said = shell(
        shim.console,
        "while [ ! -e /dev/xvdb ]; do sleep 1; done; mkdir /fat; mount -o ro /dev/xvdb /fat && cat /fat/configs/debian.cfg; \
         mke2fs -F /dev/xvda && mount /dev/xvda /mnt && dd if=/dev/zero bs=1M count=3 | tr '\\0' x > /mnt/written; umount /mnt /fat; echo all done",
    )?;
    ensure!(
        said.contains("name='files'") && said.contains("\nall done\n"),
        "{said}"
    );
    shim.detach()?;
    shim.command("destroy files")?;
    bench.stop();

    let inside = format!("{}?offset={}", image.display(), EXT4.0 * SECTOR);
    run(Command::new("/usr/sbin/e2fsck").args(["-f", "-n", &inside]))?;
    let root_image = bench.scratch().join("root.img");
    let dump = format!("dump images/root.img {}", root_image.display());
    run(Command::new("/usr/sbin/debugfs").args(["-R", &dump, &inside]))?;
    run(Command::new("/usr/sbin/e2fsck")
        .args(["-f", "-n"])
        .arg(&root_image))?;
    let written = bench.scratch().join("written");
    let dump = format!("dump written {}", written.display());
    run(Command::new("/usr/sbin/debugfs")
        .args(["-R", &dump])
        .arg(&root_image))?;
    ensure!(
        std::fs::read(&written)? == vec![b'x'; 3 * MIB],
        "the file in the file"
    );

    // 3: what was compressed and has been written anew has not been freed.
    let check = Command::new("qemu-img")
        .args(["check", "-f", "qcow2"])
        .arg(&qcow2)
        .output()?;
    ensure!([Some(0), Some(3)].contains(&check.status.code()), "{check:?}");
    let raw = bench.scratch().join("raw");
    run(Command::new("qemu-img")
        .args(["convert", "-f", "qcow2", "-O", "raw"])
        .args([&qcow2, &raw]))?;
    expected[300 << 10..2300 << 10].fill(0);
    ensure!(std::fs::read(&raw)? == expected, "the image has something else");
    Ok(())
}

/// Sectors from one record to the next: each in a cluster of its own, whose place in the image QEMU keeps in memory until it is told to
/// flush.
const STRIDE: usize = 160;

/// The machine stops in mid-write. What a domain had flushed is there.
fn power_loss(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    const RECORDS: usize = 40;
    let image = bench.scratch().join("disk.qcow2");
    run(Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2"])
        .arg(&image)
        .arg("64M"))?;
    machine.disks = vec![image.clone()];
    let mut shim = prompt(bench, machine)?;
    shim.console.type_line("create -c /etc/oxen/debian.cfg")?;
    log_in(shim.console)?;
    shim.detach()?;
    shim.command("block-attach debian /dev/vda,raw,xvdb,w")?;
    to_shell(&mut shim, "debian")?;
    shell(shim.console, "while [ ! -e /dev/xvdb ]; do sleep 1; done")?;
    shim.console.type_line(&format!(
        "i=0; while :; do i=$((i+1)); printf '%-511s\\n' \"record $i\" | \
         dd of=/dev/xvdb seek=$((i*{STRIDE})) conv=notrunc,fsync 2>/dev/null; echo flushed $i.; done"
    ))?;
    shim.console.expect(&format!("flushed {RECORDS}."), PATIENCE)?;
    let _ = shim
        .console
        .expect("there is no such line", Duration::from_millis(50));
    let output = shim.console.output();
    bench.stop();

    let flushed = output
        .lines()
        .filter_map(|line| {
            line.strip_prefix("flushed ")?
                .strip_suffix('.')?
                .parse::<usize>()
                .ok()
        })
        .max()
        .context("records")?;
    let raw: PathBuf = bench.scratch().join("disk.raw");
    run(Command::new("qemu-img")
        .args(["convert", "-O", "raw"])
        .arg(&image)
        .arg(&raw))?;
    let found = std::fs::read(raw)?;
    for record in 1..=flushed {
        let sector = found
            .get(record * STRIDE * SECTOR..)
            .and_then(|rest| rest.get(..SECTOR));
        let wanted = format!("{:<511}\n", format!("record {record}"));
        ensure!(
            sector == Some(wanted.as_bytes()),
            "record {record} of {flushed} is lost"
        );
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}
