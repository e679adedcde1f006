//! Debian as dom0: its Linux, its back ends, and Xen's own toolstack, which finds in Oxen the Xen that it was built for.

use anyhow::{Context, Result, ensure};

use super::debian::{log_in, shell};
use super::{BOTH, PATIENCE, bochs, test};
use crate::runner::{Bench, Test};
use crate::{Console, Machine, Vehicle, outputs, xen};

/// The tests.
pub fn tests() -> Vec<Test> {
    BOTH.into_iter()
        .map(|vehicle| test("xl on a Debian dom0", vehicle, session))
        .collect()
}

/// One command in dom0's shell; what it printed.
fn dom0(console: &mut Console, command: &str) -> Result<String> {
    console.type_line(command)?;
    console
        .expect(xen::PROMPT, PATIENCE)
        .with_context(|| command.to_owned())
}

/// The same, with what it has to say.
fn says(console: &mut Console, command: &str, wanted: &[&str]) -> Result<()> {
    let said = dom0(console, command)?;
    for text in wanted {
        ensure!(said.contains(text), "{command} does not say {text}: {said}");
    }
    Ok(())
}

/// What else `xl` does with a domU, in any order. In Bochs each command takes `xl` some ten seconds.
fn other_commands(console: &mut Console) -> Result<()> {
    for (command, wanted) in [
        (
            "xl vcpu-pin debian 0 0 0 && echo was $(echo pinned)",
            &["was pinned"][..],
        ),
        ("xl vcpu-set debian 1 && echo has $(echo one)", &["has one"]),
        ("xl cpupool-list; xl cpupool-list -c", &["Pool-0", "credit2"]),
        (
            "xl rename debian other; xl domid other; xl domname 1",
            &["\n1\n", "\nother\n"],
        ),
        ("xl rename other debian; xl uptime debian", &["debian", "0:0"]),
        ("xl mem-max debian 200 && echo at $(echo most)", &["at most"]),
        (
            "xl network-attach debian mac=00:16:3e:00:00:09,bridge=xenbr0; xl network-list debian",
            &["00:16:3e:00:00:01", "00:16:3e:00:00:09"],
        ),
        (
            "xl network-detach debian 00:16:3e:00:00:09 && xl network-list debian | grep -c 00:16:3e",
            &["\n1\n"],
        ),
        ("xl sysrq debian h && echo was $(echo told)", &["was told"]),
        ("xl debug-keys q; xl dmesg | tail -n 40", &["d1"]),
        ("xl list -l debian | grep '\"name\"'", &["\"name\": \"debian\""]),
        ("xl list -v; xl list -c debian", &["Pool-0"]),
    ] {
        says(console, command, wanted)?;
    }
    Ok(())
}

/// Gives the domU of these files Debian's kernel as it is for Bochs.
fn in_bochs(files: &mut [(&str, Vec<u8>)]) -> Result<()> {
    for (path, contents) in files {
        if *path == bochs::KERNEL {
            *contents = bochs::kernel()?;
        } else if path.ends_with(".cfg") {
            *contents = bochs::with_arguments(std::str::from_utf8(contents)?)?.into_bytes();
        }
    }
    Ok(())
}

/// A domU with a disk and a network device is created, used, looked at, given less memory, paused, shut down, and another one destroyed.
fn session(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    let vehicle = machine.vehicle;
    machine.command_line += " ";
    machine.command_line += xen::MEMORY;
    let mut files = xen::domu()?.to_vec();
    files.push(("boot/hello", std::fs::read(outputs::output("guests/hello")?)?));
    if vehicle == Vehicle::Vmx {
        in_bochs(&mut files)?;
    }
    machine.modules = xen::dom0(&bench.scratch(), &files)?;
    if vehicle == Vehicle::Vmx {
        let kernel = &mut machine.modules[0];
        kernel.path = bench.scratch().join("vmlinux");
        kernel.args += " ";
        kernel.args += bochs::ARGUMENTS;
        std::fs::write(&kernel.path, bochs::kernel()?)?;
    }
    machine.one_thread = true;
    let console = bench.start(&machine)?;
    console.expect(xen::PROMPT, PATIENCE).context("dom0's shell")?;
    says(
        console,
        "xl info",
        &["xen_version            : 4.17.7-oxen", "credit2", "hvm hap"],
    )?;

    console.type_line("xl create -c /etc/xen/debian.cfg")?;
    log_in(console)?;
    let disk = shell(
        console,
        "dd if=/dev/urandom of=/tmp/a bs=64k count=32; dd if=/tmp/a of=/dev/xvda bs=64k; sync; \
         echo 3 >/proc/sys/vm/drop_caches; cmp -n 2097152 /tmp/a /dev/xvda && echo the same",
    )?;
    ensure!(disk.contains("\nthe same\n"), "its disk: {disk}");
    let network = shell(console, "ip link show eth0")?;
    ensure!(
        network.contains("LOWER_UP") && network.contains("00:16:3e:00:00:01"),
        "its network device: {network}"
    );
    // Ctrl-]
    console.send("\x1d")?;
    console
        .expect(xen::PROMPT, PATIENCE)
        .context("leaving the console")?;
    says(
        console,
        "for i in $(seq 60); do xl list debian | grep 'b----' && break; sleep 1; done",
        &["debian", "-b----"],
    )?;
    says(console, "xl vcpu-list debian", &["debian", "all / all"])?;
    says(
        console,
        "xl block-list debian; xl network-list debian",
        &["51712", "00:16:3e"],
    )?;
    says(
        console,
        "xl sched-credit2 -d debian -w 512; xl sched-credit2 -d debian",
        &["512"],
    )?;
    says(console, "xl pause debian; xl list debian", &["p---"])?;
    says(
        console,
        "xl unpause debian; xl mem-set debian 160; \
         for i in $(seq 60); do xl list debian | grep ' 160 ' && break; sleep 1; done",
        &["debian", " 160 "],
    )?;
    says(console, "xl dmesg", &["dom0: 512 MiB"])?;
    if vehicle == Vehicle::Svm {
        other_commands(console)?;
    }
    says(
        console,
        "xl shutdown -w debian; while xl list debian; do sleep 1; done",
        &["reason code 0", "invalid domain identifier"],
    )?;

    says(
        console,
        "xl create -p /dev/null \"name='hello'\" \"type='pvh'\" \"kernel='/boot/hello'\" 'memory=16'; \
         xl list hello; xl destroy hello; xl list hello",
        &["--p---", "invalid domain identifier"],
    )?;
    console.type_line("poweroff -f")?;
    console.expect("dom0 has powered off", PATIENCE)?;
    Ok(())
}
