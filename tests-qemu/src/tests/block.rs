//! Disks of a stock Debian domU: file systems, read-only images, attaching and detaching.

use std::fs::File;
use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::debian::{log_in, prompt, shell, to_shell};
use super::guests::verdict;
use super::shim::{Shim, archive, come_and_go};
use super::tools::checksum;
use super::{BOTH, PATIENCE, amount, test, tools};
use crate::runner::{Bench, Test};
use crate::{Machine, Vehicle, outputs};

/// A file of the boot archive that the domU gets as a read-only disk.
const IMAGE: &str = "boot/initrd.gz";
/// How much of it is compared.
const COMPARED: usize = 1 << 20;

/// The tests.
pub fn tests() -> Vec<Test> {
    BOTH.into_iter()
        .flat_map(|vehicle| {
            [
                test("disks", vehicle, disks),
                test("hostile block front end", vehicle, hostile),
                test("domUs and disks come and go", vehicle, disks_come_and_go),
                test("disk taken under load", vehicle, under_load),
                test("fio on a domU's disk, reboot", vehicle, fio),
            ]
        })
        // Bochs has no virtio disks.
        .chain([test(
            "disk of the machine taken under load",
            Vehicle::Svm,
            machine_under_load,
        )])
        .collect()
}

/// Random I/O on a file system of the domU's own, by as many queues as it has CPUs, all of it read again and compared by fio. The file system is whole, and has its data after a
/// reboot, in a domain of another number; a disk that was taken away is not there any more, even if the domain has let go of it only when
/// nobody waited for that, and one that comes in between is.
fn fio(bench: &mut Bench, machine: Machine) -> Result<()> {
    // Each round writes the file in random order and reads it: 1 GiB in all, or 96 MiB.
    let (cpus, file, rounds) = amount(machine.vehicle, (4, "16m", 8), (1, "24m", 2));
    let mut shim = tools::prompt(bench, machine)?;
    shim.console.type_line(&format!(
        "create -c /etc/oxen/debian.cfg vcpus={cpus} disk=[\"ram:80M,xvda,w\",{}]",
        tools::DISK
    ))?;
    log_in(shim.console)?;
    tools::mount(shim.console)?;
    let queues = shell(shim.console, "echo $(ls /sys/block/xvda/mq | wc -l) queues")?;
    ensure!(queues.contains(&format!("\n{cpus} queues")), "{queues}");
    let made = shell(
        shim.console,
        "t mke2fs -q -F -t ext4 /dev/xvda && mount /dev/xvda /mnt && echo mounted",
    )?;
    ensure!(made.contains("\nmounted\n"), "{made}");
    let done = shell(
        shim.console,
        &format!(
            "t fio --name=v --directory=/mnt --size={file} --loops={rounds} --rw=randwrite --bsrange=4k-128k --direct=1 --numjobs={cpus} \
             --ioengine=libaio --iodepth=16 --verify=crc32c --thread --minimal > /tmp/fio && echo all is verified"
        ),
    )?;
    ensure!(done.contains("\nall is verified\n"), "{done}");
    const SUM: &str = "cat /mnt/v.*.0 | md5sum; umount /mnt; t e2fsck -f -n /dev/xvda && echo it is clean";
    let before = shell(shim.console, SUM)?;
    ensure!(before.contains("\nit is clean\n"), "{before}");

    shim.detach()?;
    shim.command("block-attach debian ram:1M,xvdc,rw")?;
    connected(&mut shim, 3)?;
    shim.command("pause debian")?;
    let said = shim.command("block-detach debian xvdc")?;
    ensure!(said.contains("does not let go"), "{said}");
    shim.command("unpause debian")?;
    to_shell(&mut shim, "debian")?;
    shell(shim.console, "sleep 2")?;
    shim.console.type_line("reboot")?;
    shim.console.expect("has been started", PATIENCE)?;
    shim.command("block-attach debian ram:1M,xvdd,rw")?;
    shim.console.type_line("console debian")?;
    log_in(shim.console)?;
    let disks = shell(shim.console, "cat /sys/block/xvdd/size; ls /sys/block")?;
    ensure!(disks.contains("2048\n") && !disks.contains("xvdc"), "{disks}");
    tools::mount(shim.console)?;
    let after = shell(shim.console, &format!("mount -o ro /dev/xvda /mnt; {SUM}"))?;
    ensure!(after.contains("\nit is clean\n"), "{after}");
    ensure!(checksum(&before)? == checksum(&after)?, "{before}{after}");
    Ok(())
}

/// Writes to the disk until it is gone: it may go between two rounds, when the next makes a file of its name.
const LOAD: &str = "while dd if=/dev/zero of=/dev/xvda bs=64k count=200 conv=fsync && [ -b /dev/xvda ]; do :; done 2>/dev/null &";

/// A disk that is written to all the time is taken away, by the toolstack, by the domain itself (Linux's block front end cannot be bound
/// again: the disk comes back by hot plug), and by force, which leaves requests without answer. The domain lives each time, and has its disk
/// again; in the end nothing of it is left.
fn under_load(bench: &mut Bench, machine: Machine) -> Result<()> {
    let mut shim = prompt(bench, machine)?;
    let free = shim.first_life("debian", "debian")?;
    taken_under_load(&mut shim, "ram:16M,xvda,rw")?;
    shim.detach()?;
    shim.command("destroy debian")?;
    shim.wait_for("debian", false)?;
    shim.expect_free(free)
}

/// Likewise a disk that has requests under way then; and its domain is destroyed beside them. The disk is free for others each time.
fn machine_under_load(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    const DISK: &str = "/dev/vda,raw,xvda,rw";
    let image = bench.scratch().join("disk.img");
    File::create(&image)?.set_len(16 << 20)?;
    machine.disks = vec![image];
    let mut shim = prompt(bench, machine)?;
    let free = shim.first_life("debian", "debian")?;
    let heap = shim.heap_free()?;
    taken_under_load(&mut shim, DISK)?;
    shim.detach()?;
    for round in 1..=2 {
        shim.command("destroy debian")?;
        shim.wait_for("debian", false)?;
        shim.expect_nearly_free(free)
            .with_context(|| format!("round {round}"))?;
        shim.console
            .type_line(&format!("create -c /etc/oxen/debian.cfg disk=[\"{DISK}\"]"))?;
        log_in(shim.console)?;
        shell(shim.console, LOAD)?;
        shell(shim.console, "sleep 1")?;
        shim.detach()?;
    }
    shim.command("destroy debian")?;
    shim.wait_for("debian", false)?;
    shim.expect_nearly_free(free)?;
    // Less than the data of the requests that are under way at once; a console's log stays.
    shim.expect_heap(heap, 512)
}

/// The ways to lose a disk, for a new domain; at its shell.
fn taken_under_load(shim: &mut Shim<'_>, disk: &str) -> Result<()> {
    shim.console
        .type_line(&format!("create -c /etc/oxen/debian.cfg disk=[\"{disk}\"]"))?;
    log_in(shim.console)?;

    shell(shim.console, LOAD)?;
    detach(shim, "")?;
    without_disk(shim)?;
    disk_again(shim, disk)?;

    shell(shim.console, LOAD)?;
    shell(shim.console, "echo vbd-51712 > /sys/bus/xen/drivers/vbd/unbind")?;
    detach(shim, "")?;
    without_disk(shim)?;
    disk_again(shim, disk)?;

    shell(shim.console, LOAD)?;
    detach(shim, "--force")?;
    to_shell(shim, "debian")?;
    let alive = shell(shim.console, "echo alive")?;
    ensure!(alive.contains("\nalive\n"), "{alive}");
    Ok(())
}

/// Takes xvda away at the prompt, coming from the domU's shell.
fn detach(shim: &mut Shim<'_>, how: &str) -> Result<()> {
    shim.detach()?;
    shim.command(&format!("block-detach {how} debian xvda"))?;
    let listed = connected(shim, 0)?;
    ensure!(!listed.contains("51712"), "{listed}");
    Ok(())
}

/// In the domU's shell, coming from the prompt: the load has ended, and there is no disk.
fn without_disk(shim: &mut Shim<'_>) -> Result<()> {
    to_shell(shim, "debian")?;
    let gone = shell(shim.console, "wait; rm -f /dev/xvda; ls /sys/block; echo alive")?;
    ensure!(gone.contains("\nalive\n") && !gone.contains("xvda\n"), "{gone}");
    Ok(())
}

/// Gives the domU a disk, from its shell and back to it, where it can be read.
fn disk_again(shim: &mut Shim<'_>, disk: &str) -> Result<()> {
    shim.detach()?;
    shim.command(&format!("block-attach debian {disk}"))?;
    connected(shim, 1)?;
    to_shell(shim, "debian")?;
    let again = shell(
        shim.console,
        "dd if=/dev/xvda of=/dev/null bs=64k && echo all is read",
    )?;
    ensure!(again.contains("\nall is read\n"), "{again}");
    Ok(())
}

/// A domain with the guest `blkfront`, which tests its disk and powers off.
fn front_end(extra: &str, disk: &str) -> Vec<u8> {
    format!(
        "name='h'\ntype='pvh'\nkernel='/blkfront'\nextra='{extra}'\nmemory=32\non_poweroff='destroy'\n\
         disk=['{disk}']\n"
    )
    .into_bytes()
}

/// A front end that breaks the protocol, with disks of each kind; nothing of it stays.
fn hostile(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    let mut names = vec!["copied", "persistent", "qcow2", "kept"];
    if machine.vehicle == Vehicle::Svm {
        // Requests take their time there. (Bochs has no virtio disks.)
        let image = bench.scratch().join("disk.img");
        std::fs::write(&image, [0; 64 << 10])?;
        machine.disks = vec![image];
        names.push("machine");
    }
    let qcow2 = bench.scratch().join("empty.qcow2");
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2"])
        .arg(&qcow2)
        .arg("64K")
        .status()?;
    ensure!(made.success(), "qemu-img: {made}");
    let files = [
        ("blkfront", std::fs::read(outputs::output("guests/blkfront")?)?),
        ("empty.qcow2", std::fs::read(&qcow2)?),
        ("copied.cfg", front_end("", "ram:64K,xvda,rw")),
        ("persistent.cfg", front_end("persistent", "ram:64K,xvda,rw")),
        ("qcow2.cfg", front_end("", "/empty.qcow2,qcow2,xvda,rw")),
        ("kept.cfg", front_end("", "ram:64K,xvda,rw,no-discard")),
        ("machine.cfg", front_end("", "/dev/vda,raw,xvda,rw")),
    ];
    let archive = archive(&bench.scratch(), &files)?;
    let mut shim = Shim::start(bench, machine, archive)?;
    let free = shim.first_life("/copied.cfg", "h")?;
    let heap = shim.heap_free()?;
    for name in names {
        shim.console.type_line(&format!("create /{name}.cfg"))?;
        verdict(shim.console).with_context(|| name.to_owned())?;
        shim.wait_for("h", false)?;
    }
    shim.expect_nearly_free(free)?;
    // Lists stay as long as they have been.
    shim.expect_heap(heap, 64)?;
    let nodes = shim.command("xenstore-ls /local/domain/0/backend/vbd")?;
    ensure!(!nodes.contains("51712"), "{nodes}");
    Ok(())
}

/// Domains that connect their disk, use it and disconnect, several at a time.
fn disks_come_and_go(bench: &mut Bench, machine: Machine) -> Result<()> {
    let all = amount(machine.vehicle, 200, 40);
    let config = front_end("once persistent", "ram:64K,xvda,rw");
    come_and_go(bench, machine, "blkfront", config, all)
}

fn disks(bench: &mut Bench, machine: Machine) -> Result<()> {
    let mut shim = prompt(bench, machine)?;
    shim.console.type_line("create -c /etc/oxen/debian.cfg")?;
    log_in(shim.console)?;
    file_system(&mut shim)?;

    shim.detach()?;
    shim.command(&format!("block-attach debian /{IMAGE},raw,xvdb,ro"))?;
    let listed = connected(&mut shim, 2)?;
    ensure!(
        listed.contains("51712 0   1      4") && listed.contains("/local/domain/0/backend/vbd/1/51728"),
        "{listed}"
    );
    read_only_image(&mut shim)?;
    resize(&mut shim)?;
    plug_and_unplug(&mut shim)
}

/// A disk grows under the domain that has it.
fn resize(shim: &mut Shim<'_>) -> Result<()> {
    for (command, sentence) in [
        (
            "block-resize debian xvdb 1M",
            "xvdb: only a disk in RAM that can be written",
        ),
        ("block-resize debian xvda 100G", "xvda: not enough memory"),
        ("block-resize debian xvda many", "'many' is no size"),
        ("block-resize debian xvdz 1M", "xvdz: there is no such device"),
    ] {
        let said = shim.command(command)?;
        ensure!(said.contains(sentence), "{command}: {said}");
    }
    shim.command("block-resize debian xvda 24M")?;
    to_shell(shim, "debian")?;
    let grown = shell(
        shim.console,
        "while [ $(cat /sys/block/xvda/size) != 49152 ]; do sleep 1; done; \
         echo at the new end | dd of=/dev/xvda bs=1M seek=23 conv=fsync && dd if=/dev/xvda bs=1M skip=23 | head -c 14",
    )?;
    ensure!(grown.contains("\nat the new end"), "{grown}");
    shim.detach()
}

/// Makes a file system on xvda; what is written there is read again after the caches have been dropped.
fn file_system(shim: &mut Shim<'_>) -> Result<()> {
    let console = &mut *shim.console;
    let size = shell(console, "cat /sys/block/xvda/size")?;
    ensure!(size.contains("\n32768\n"), "16 MiB are wanted: {size}");
    let made = shell(
        console,
        "mke2fs -F /dev/xvda && mount /dev/xvda /mnt && echo mounted",
    )?;
    ensure!(made.contains("\nmounted\n"), "{made}");
    shell(console, "dd if=/dev/urandom of=/mnt/data bs=64k count=32")?;
    let written = shell(console, "md5sum /mnt/data")?;
    shell(
        console,
        "fstrim -v /mnt; umount /mnt; echo 3 > /proc/sys/vm/drop_caches",
    )?;
    let read = shell(console, "mount /dev/xvda /mnt && md5sum /mnt/data")?;
    ensure!(
        checksum(&written)? == checksum(&read)?,
        "written: {written}, read: {read}"
    );
    let errors = shell(console, "umount /mnt; dmesg | grep -c 'I/O error'")?;
    ensure!(errors.contains("\n0\n"), "{errors}");
    Ok(())
}

/// Waits until `count` disks are connected; what `block-list` says.
fn connected(shim: &mut Shim<'_>, count: usize) -> Result<String> {
    const LOOKS: u32 = 20;
    let mut list = String::new();
    for _ in 0..LOOKS {
        list = shim.command("block-list debian")?;
        let states = list.lines().filter_map(|line| line.split_whitespace().nth(3));
        if states.filter(|&state| state == "4").count() == count {
            return Ok(list);
        }
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    anyhow::bail!("{count} disks should be connected:\n{list}")
}

/// xvdb has the image's bytes and keeps them.
fn read_only_image(shim: &mut Shim<'_>) -> Result<()> {
    to_shell(shim, "debian")?;
    let console = &mut *shim.console;
    let wanted = sum_of_image()?;
    let count = COMPARED >> 16;
    let sum = format!("dd if=/dev/xvdb bs=64k count={count} 2>/dev/null | md5sum");
    ensure!(checksum(&shell(console, &sum)?)? == wanted, "the image's bytes");
    let refused = shell(
        console,
        "dd if=/dev/zero of=/dev/xvdb bs=512 count=1 conv=notrunc; cat /sys/block/xvdb/ro",
    )?;
    ensure!(
        refused.contains("not permitted") && refused.contains("\n1\n"),
        "{refused}"
    );
    shell(console, "echo 3 > /proc/sys/vm/drop_caches")?;
    ensure!(
        checksum(&shell(console, &sum)?)? == wanted,
        "the image's bytes after a write"
    );
    shim.detach()
}

/// The checksum of the image's beginning.
fn sum_of_image() -> Result<String> {
    let image = outputs::packed(IMAGE)?;
    let bytes = image.get(..COMPARED).context("the image is too short")?;
    let mut sum = Command::new("md5sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    sum.stdin.take().context("md5sum")?.write_all(bytes)?;
    let said = String::from_utf8(sum.wait_with_output()?.stdout)?;
    Ok(checksum(&said)?.to_owned())
}

/// Disks come and go at the prompt, one of them in use at the end; nothing of the shim's memory is lost by it.
fn plug_and_unplug(shim: &mut Shim<'_>) -> Result<()> {
    let said = shim.command("block-detach debian xvdb")?;
    ensure!(!said.contains("xvdb:"), "{said}");
    let listed = connected(shim, 1)?;
    ensure!(!listed.contains("51728"), "{listed}");
    let again = shim.command("block-detach debian xvdb")?;
    ensure!(again.contains("xvdb: there is no such device"), "{again}");
    for (specification, sentence) in [
        ("/nothing,raw,xvdb,ro", "no such file"),
        ("ram:1M,xvda,rw", "there is such a device already"),
        ("ram:100G,xvdb,rw", "not enough memory"),
        ("ram:1M,xvdb,colour=red", "unknown key 'colour'"),
    ] {
        let said = shim.command(&format!("block-attach debian {specification}"))?;
        ensure!(said.contains(sentence), "{specification}: {said:?}");
    }
    let mut free = Vec::new();
    for _ in 0..3 {
        shim.command("block-attach debian ram:1M,xvdb,rw")?;
        connected(shim, 2)?;
        shim.command("block-detach debian xvdb")?;
        connected(shim, 1)?;
        free.push(shim.heap_free()?);
    }
    // The least that a device could leave behind, each time, is a page. What the guest and we have typed in between is kept, too, in
    // memory that now and then grows.
    ensure!(
        free.windows(2).any(|pair| pair[1] + 4 > pair[0]),
        "the shim's free memory, KiB: {free:?}"
    );
    to_shell(shim, "debian")?;
    let left = shell(
        shim.console,
        "ls /sys/block; mount /dev/xvda /mnt && md5sum /mnt/data",
    )?;
    ensure!(left.contains("xvda") && !left.contains("xvdb"), "{left}");
    shim.detach()?;
    shim.command("destroy debian")?;
    shim.wait_for("debian", false)?;
    let nodes = shim.command("xenstore-ls /local/domain/0/backend/vbd")?;
    ensure!(!nodes.contains("51712"), "{nodes}");
    Ok(())
}
