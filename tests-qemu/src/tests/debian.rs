//! The stock Debian kernel as domU, used over its console like a person would.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::shim::{Shim, boot_archive};
use super::{BOTH, PATIENCE, amount, bochs, everything, test};
use crate::machine::WITH_DEBIAN;
use crate::runner::{Bench, Test};
use crate::{Console, Machine, Vehicle, outputs};

/// The shell's prompt.
pub const SHELL: &str = "root@debian:/root# ";

/// The tests.
pub fn tests() -> Vec<Test> {
    let mut tests: Vec<_> = BOTH
        .into_iter()
        .flat_map(|vehicle| {
            [
                test("debian to a login shell", vehicle, session),
                test("debian with 4 vCPUs on 2 CPUs", vehicle, multiprocessor),
            ]
        })
        .collect();
    if everything() {
        // QEMU's TCG does not translate what CR3 of PAE points to by nested paging.
        let vehicles = [Vehicle::SvmBochs, Vehicle::Vmx];
        tests.extend(vehicles.map(|vehicle| test("debian, 32-bit", vehicle, of_32_bits)));
    }
    tests
}

/// The shim's prompt, with the boot archive.
pub fn prompt(bench: &mut Bench, mut machine: Machine) -> Result<Shim<'_>> {
    machine.one_thread = true;
    let archive = boot_archive(machine.vehicle)?;
    Shim::start(bench, machine, archive)
}

/// On the console of a Debian that the shim has created by itself, as in `scripts/run`, with the boot archive; logged in.
pub fn started(bench: &mut Bench, mut machine: Machine) -> Result<Shim<'_>> {
    machine.one_thread = true;
    let archive = boot_archive(machine.vehicle)?;
    let shim = Shim::boot(bench, machine, Some(archive), WITH_DEBIAN)?;
    log_in(shim.console)?;
    Ok(shim)
}

/// Logs in, on the domU's console.
pub fn log_in(console: &mut Console) -> Result<()> {
    let (which, _) = console
        .expect_any(&["debian login: ", "was not created"], PATIENCE * 2)
        .context("the login prompt")?;
    ensure!(which == 0, "the domain was not created");
    console.type_line("root")?;
    console.expect(SHELL, PATIENCE).context("the shell")?;
    Ok(())
}

/// To the console of a domU that has logged in, from the prompt. It shows old prompts again, and what commands printed; so the
/// shell says something that it has not said before.
pub fn to_shell(shim: &mut Shim<'_>, name: &str) -> Result<()> {
    static VISITS: AtomicU32 = AtomicU32::new(1000);
    let visit = VISITS.fetch_add(1, Relaxed);
    shim.console.type_line(&format!("console {name}"))?;
    shim.console.type_line(&format!("echo visit $(({visit}))"))?;
    shim.console
        .expect(&format!("visit {visit}"), PATIENCE)
        .with_context(|| format!("coming back to the console of {name}"))?;
    shim.console.expect(SHELL, PATIENCE)?;
    Ok(())
}

/// Powers a domU off from its shell; the domain is gone afterwards.
fn power_off(shim: &mut Shim<'_>, name: &str) -> Result<()> {
    shim.console.type_line("poweroff")?;
    shim.ended("reason code 0 (poweroff): action is destroy")
        .context("poweroff")?;
    shim.wait_for(name, false)
}

/// One command in the domU's shell; what it printed.
pub fn shell(console: &mut Console, command: &str) -> Result<String> {
    console.type_line(command)?;
    console
        .expect(SHELL, PATIENCE)
        .with_context(|| command.to_owned())
}

/// Log in, look around, detach and come back, reboot, log in again, power off; the kernel is as Debian ships it.
fn session(bench: &mut Bench, machine: Machine) -> Result<()> {
    let vehicle = machine.vehicle;
    let mut shim = Shim::start(bench, machine, outputs::output("boot-archive.cpio")?)?;
    shim.console.type_line(
        "create -c /etc/oxen/debian.cfg extra='console=hvc0 words=\"a b\"' 'cpuid=\"host,avx2=0\"'",
    )?;
    log_in(shim.console)?;
    let line = shell(shim.console, "cat /proc/cmdline")?;
    ensure!(
        line.contains("\nconsole=hvc0 words=\"a b\"\n"),
        "/proc/cmdline: {line}"
    );
    // The emulated CPUs have both.
    let features = shell(
        shim.console,
        "grep -w -c avx /proc/cpuinfo; grep -w -c avx2 /proc/cpuinfo",
    )?;
    ensure!(
        features.contains("\n1\n0\n"),
        "lines with avx, avx2 in /proc/cpuinfo: {features}"
    );
    let uname = shell(shim.console, "uname -a")?;
    ensure!(
        uname.contains("Debian") && uname.contains("x86_64"),
        "uname -a: {uname}"
    );
    let kind = shell(
        shim.console,
        "cat /sys/hypervisor/type /sys/hypervisor/guest_type",
    )?;
    ensure!(
        kind.contains("xen") && kind.contains("PVH"),
        "/sys/hypervisor: {kind}"
    );
    let log = shell(shim.console, "dmesg | grep -c 'Hypervisor detected: Xen HVM'")?;
    ensure!(log.contains("\n1\n"), "dmesg: {log}");
    let events = shell(shim.console, "dmesg | grep -c 'xen:events: Using FIFO-based ABI'")?;
    ensure!(events.contains("\n1\n"), "event channels by FIFO: {events}");
    let clock = shell(
        shim.console,
        "cat /sys/devices/system/clocksource/clocksource0/current_clocksource",
    )?;
    ensure!(
        clock.contains("xen") || clock.contains("tsc"),
        "clock source: {clock}"
    );
    shell(shim.console, "sleep 1; cat /proc/interrupts")?;

    shim.detach()?;
    shim.wait_for("debian", true)?;
    pause(&mut shim)?;
    to_shell(&mut shim, "debian")?;
    if vehicle == Vehicle::Vmx && !everything() {
        // Others reboot it there, for which they have its kernel unpacked.
        return power_off(&mut shim, "debian");
    }

    shim.console.type_line("reboot")?;
    shim.console
        .expect("reason code 1 (reboot): action is restart", PATIENCE)
        .context("reboot")?;
    shim.console.expect("has been started", PATIENCE)?;
    shim.console.type_line("console debian")?;
    log_in(shim.console)?;
    power_off(&mut shim, "debian")
}

/// Debian's 32-bit kernel.
fn of_32_bits(bench: &mut Bench, machine: Machine) -> Result<()> {
    let mut shim = Shim::start(bench, machine, outputs::output("boot-archive-i386.cpio")?)?;
    let arguments = format!("extra='console=hvc0 {}'", bochs::ARGUMENTS);
    shim.console
        .type_line(&format!("create -c /etc/oxen/debian.cfg {arguments}"))?;
    log_in(shim.console)?;
    let kind = shell(shim.console, "uname -m; cat /sys/hypervisor/guest_type")?;
    ensure!(kind.contains("\ni686\nPVH\n"), "uname, guest_type: {kind}");
    // Its disk's requests are laid out in another way.
    let file = shell(
        shim.console,
        "mke2fs -q /dev/xvda && mount /dev/xvda /mnt && cp /bin/busybox /mnt/ && umount /mnt && \
         mount /dev/xvda /mnt && cmp /bin/busybox /mnt/busybox && umount /mnt && echo $((41 + 1)) is the same",
    )?;
    ensure!(file.contains("42 is the same"), "a file on xvda: {file}");
    power_off(&mut shim, "debian")
}

/// How long ago `debian` was started, in seconds, by dom0's clock.
fn age(shim: &mut Shim<'_>) -> Result<u64> {
    let said = shim.command("uptime debian")?;
    let row = said.lines().find(|line| line.starts_with("debian "));
    let time = row.and_then(|row| row.split_whitespace().last());
    time.and_then(|time| {
        time.split(':')
            .try_fold(0, |sum, part| Some(sum * 60 + part.parse::<u64>().ok()?))
    })
    .with_context(|| format!("uptime debian: {said}"))
}

/// While the domU is paused its clock stands still, and it does not see that dom0's went on.
fn pause(shim: &mut Shim<'_>) -> Result<()> {
    const PAUSE: u64 = 10;
    /// What the domU's clock may go on more while nothing is paused: both count whole seconds.
    const SLACK: u64 = 2;
    let uptime = |shim: &mut Shim<'_>| -> Result<u64> {
        to_shell(shim, "debian")?;
        let said = shell(shim.console, "sleep 1; echo up $(cut -d. -f1 /proc/uptime) s")?;
        let number = said
            .lines()
            .find_map(|line| line.strip_prefix("up ")?.strip_suffix(" s"));
        let number = number.and_then(|number| number.parse().ok());
        shim.detach()?;
        number.with_context(|| format!("/proc/uptime: {said}"))
    };
    let before = age(shim)?;
    let own = uptime(shim)?;
    shim.command("pause debian")?;
    let paused = age(shim)?;
    while age(shim)? < paused + PAUSE {
        std::thread::sleep(Duration::from_millis(200));
    }
    shim.command("unpause debian")?;
    let (own, all) = (uptime(shim)? - own, age(shim)? - before);
    ensure!(
        own + PAUSE <= all + SLACK,
        "{own} s by its own clock of {all} s, of which it was paused for {PAUSE} s"
    );
    to_shell(shim, "debian")?;
    let complaints = shell(
        shim.console,
        "dmesg | grep -ciE 'soft lockup|detected stalls|unstable|backwards'",
    )?;
    ensure!(complaints.contains("\n0\n"), "dmesg: {complaints}");
    shim.detach()
}

/// Four vCPUs on two CPUs, all busy; nothing stalls, and no clock is found to be bad.
fn multiprocessor(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    (machine.cpus, machine.mips) = (2, 20);
    let seconds = amount(machine.vehicle, 120, 25);
    let mut shim = prompt(bench, machine)?;
    shim.console.type_line("create -c /etc/oxen/debian.cfg vcpus=4")?;
    log_in(shim.console)?;
    let count = shell(shim.console, "nproc")?;
    ensure!(count.contains("\n4\n"), "nproc: {count}");
    // The kernel complains of a CPU that it has not heard of for 5 s, and of one that has not scheduled for 10 s, not only for 21 s and 20 s.
    let patience = shell(
        shim.console,
        "for f in /proc/sys/kernel/watchdog_thresh /sys/module/rcupdate/parameters/rcu_cpu_stall_timeout; \
         do echo 5 > $f; cat $f; done",
    )?;
    ensure!(patience.contains("\n5\n5\n"), "{patience}");
    // Processes that compute, and one that passes bytes on through a pipe: IPIs, wake-ups and timers on all vCPUs. By the domU's own clock, which is
    // slow in Bochs.
    let loads = "while [ $(cut -d. -f1 /proc/uptime) -lt $end ]";
    let said = shell(
        shim.console,
        &format!(
            "end=$(($(cut -d. -f1 /proc/uptime) + {seconds})); \
             for i in 1 2 3 4; do ({loads}; do n=0; while [ $n -lt 3000 ]; do n=$((n+1)); done; done; echo done $i) & done; \
             {loads}; do dd if=/dev/zero bs=64k count=16 2>/dev/null | cat | md5sum >/dev/null; done; wait; echo all of $(echo them)"
        ),
    )?;
    ensure!(said.contains("all of them"), "{said}");
    // Of the time that four want, two CPUs have half: the domU is told, in hundredths of a second, how long its vCPUs have waited for a CPU.
    let stolen = shell(
        shim.console,
        "read _ _ _ _ _ _ _ _ stolen _ < /proc/stat; echo stolen: $stolen",
    )?;
    let hundredths: u64 = stolen
        .lines()
        .find_map(|line| line.strip_prefix("stolen: ")?.trim().parse().ok())
        .with_context(|| format!("/proc/stat: {stolen}"))?;
    ensure!(hundredths >= seconds * 100, "in {seconds} s: {stolen}");
    let log = shell(
        shim.console,
        "dmesg | grep -c -i -E 'soft lockup|rcu.* stall|hung task|TSC warp|clocksource.*(unstable|skew)'",
    )?;
    ensure!(log.contains("\n0\n"), "complaints in dmesg: {log}");
    let online = shell(shim.console, "cat /sys/devices/system/cpu/online")?;
    ensure!(online.contains("\n0-3\n"), "CPUs online: {online}");
    // While all compute, some do so on the second CPU: which ones, and at which moments, is the scheduler's.
    shell(shim.console, "for i in 1 2 3 4; do (while :; do :; done) & done")?;
    shim.detach()?;
    let on_second = |list: &str| {
        list.lines()
            .any(|line| line.split_whitespace().nth(3) == Some("1"))
    };
    let mut vcpus = shim.command("vcpu-list debian")?;
    for _ in 0..20 {
        if on_second(&vcpus) {
            break;
        }
        vcpus = shim.command("vcpu-list debian")?;
    }
    ensure!(
        on_second(&vcpus),
        "no vCPU has been seen on the second CPU:\n{vcpus}"
    );
    // It obeys while it computes.
    shim.console.type_line("shutdown -w debian")?;
    shim.ended("reason code 0 (poweroff): action is destroy")
        .context("shutdown")?;
    shim.wait_for("debian", false)
}
