//! Networks of domUs: with dom0-shim's gateway, with each other, and with the outside.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::debian::{log_in, shell, started, to_shell};
use super::shim::{Shim, archive, come_and_go};
use super::{BOTH, PATIENCE, amount, test, tools};
use crate::runner::{Bench, Test};
use crate::{Machine, Vehicle, outputs};

/// The gateway's address.
const GATEWAY: &str = "10.88.0.1";

/// What iperf3 moves each way (KiB), and in Bochs.
const MUCH: u64 = 4 << 10;
const LITTLE: u64 = 256;
/// vCPUs of a domain on AMD-V that is to have more than one queue.
const CPUS: u32 = 4;
/// Its ways: both directions, over several connections and in datagrams.
const WAYS: &[&str] = &["-P 3", "-P 3 -R", "-u -b 50M", "-u -b 50M -R"];

/// The tests.
pub fn tests() -> Vec<Test> {
    BOTH.into_iter()
        .flat_map(|vehicle| {
            [
                test("domU: lease, ping, hot plug", vehicle, gateway),
                test("domU to domU: ping, TCP, iperf3", vehicle, between),
                test("hostile network front end", vehicle, hostile),
                test("domUs and vifs come and go", vehicle, domains_come_and_go),
                test("vifs taken under load", vehicle, under_load),
            ]
        })
        // Bochs has no virtio devices.
        .chain([test("domU to outside: NAT, TCP, iperf3", Vehicle::Svm, uplink)])
        .collect()
}

/// A domain with the guest `netfront`, which tests its network device and powers off.
fn front_end(extra: &str) -> Vec<u8> {
    format!("name='n'\ntype='pvh'\nkernel='/netfront'\nextra='{extra}'\nmemory=32\nvif=['']\n").into_bytes()
}

/// Domains that connect to the bridge, ask the gateway and disconnect, several at a time.
fn domains_come_and_go(bench: &mut Bench, machine: Machine) -> Result<()> {
    let all = amount(machine.vehicle, 200, 40);
    come_and_go(bench, machine, "netfront", front_end("once"), all)
}

/// A front end that does everything wrong, beside which the shim goes on; nothing of it stays. By its control ring, it
/// says by which queue packets are to come.
fn hostile(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    // It waits a second for each answer that must not come, and time passes at once while all wait.
    machine.icount = (machine.vehicle == Vehicle::Svm).then_some(3);
    let files = [
        ("etc/oxen/n.cfg", front_end("")),
        ("netfront", std::fs::read(outputs::output("guests/netfront")?)?),
    ];
    let archive = archive(&bench.scratch(), &files)?;
    let mut shim = Shim::start(bench, machine, archive)?;
    let free = shim.first_life("n", "n")?;
    let heap = shim.heap_free()?;
    shim.console.type_line("create -c n")?;
    let (passed, said) = shim
        .console
        .expect_any(&["RESULT pass", "RESULT fail"], PATIENCE * 2)?;
    let failed: Vec<&str> = said.lines().filter(|line| line.contains(": fail: ")).collect();
    ensure!(passed == 0, "{failed:?}");
    shim.ended("action is destroy")?;
    shim.wait_for("n", false)?;
    shim.expect_free(free)?;
    // Lists stay as long as they have been.
    shim.expect_heap(heap, 64)
}

/// Waits until a device has an address; the address.
fn address(shim: &mut Shim, device: &str) -> Result<String> {
    let wait = format!("until ip -4 addr show {device} | grep inet; do sleep 0.2; done");
    let shown = shell(shim.console, &wait)?;
    let words = shown.split_whitespace().skip_while(|word| *word != "inet");
    // The command itself has the word, too.
    let found = words.filter_map(|word| word.strip_suffix("/24")).next();
    found
        .map(str::to_owned)
        .with_context(|| format!("no address: {shown}"))
}

/// Checks that eth0 sends and receives by so many queues.
fn queues(shim: &mut Shim, count: u32) -> Result<()> {
    let shown = shell(
        shim.console,
        "for way in tx rx; do echo $way by $(ls -d /sys/class/net/eth0/queues/$way-* | wc -l); done",
    )?;
    for way in ["tx", "rx"] {
        ensure!(shown.contains(&format!("\n{way} by {count}\n")), "{shown}");
    }
    Ok(())
}

fn ping(shim: &mut Shim, host: &str) -> Result<()> {
    let said = shell(shim.console, &format!("ping -c 3 {host}"))?;
    ensure!(
        said.contains("3 packets received, 0% packet loss"),
        "ping: {said}"
    );
    Ok(())
}

/// A domU fetches a file in QEMU's network and runs iperf3 through the gateway's translation; then on the bridge of the machine's network
/// device, with an address of that network.
fn uplink(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    let file = bench.scratch().join("file");
    let contents: Vec<u8> = (0..500_000u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(&file, contents)?;
    let sum = Command::new("md5sum").arg(&file).output().context("md5sum")?;
    let sum = String::from_utf8(sum.stdout)?;
    machine.networks = vec![format!(
        "user,guestfwd=tcp:10.0.2.100:80-cmd:cat {}",
        file.display()
    )];
    let server = tools::Server::start()?;
    let mut shim = tools::prompt(bench, machine)?;
    shim.console
        .type_line(&format!("create -c debian vcpus={CPUS} disk=[{}]", tools::DISK))?;
    log_in(shim.console)?;
    tools::mount(shim.console)?;
    queues(&mut shim, CPUS)?;
    let fetch = |shim: &mut Shim<'_>| {
        let said = shell(shim.console, "nc 10.0.2.100 80 < /dev/null | md5sum")?;
        ensure!(tools::checksum(&said)? == tools::checksum(&sum)?, "{sum}: {said}");
        tools::iperf3(shim.console, &format!("10.0.2.2 -p {}", server.port), MUCH, WAYS)?;
        tools::no_complaints(shim.console)
    };
    address(&mut shim, "eth0")?;
    shell(shim.console, "until ping -c 1 10.0.2.2; do sleep 1; done")?;
    ping(&mut shim, "10.0.2.2")?;
    // There and back in three fragments each.
    ping(&mut shim, "-s 4000 10.0.2.2")?;
    fetch(&mut shim)?;
    shim.detach()?;
    shim.command("network-attach debian bridge=eth0")?;
    to_shell(&mut shim, "debian")?;
    // The domU's own script looks at its start only.
    shell(
        shim.console,
        "until [ -e /sys/class/net/eth1 ]; do sleep 0.2; done; udhcpc -n -q -t 20 -i eth1",
    )?;
    let own = address(&mut shim, "eth1")?;
    ensure!(own.starts_with("10.0.2."), "the address is {own}");
    ping(&mut shim, "10.0.2.2")?;
    fetch(&mut shim)
}

/// A domU that was there from the start gets an address, reaches the gateway by number and by name, loses and gets
/// devices while it runs, and has the same ones after a restart.
fn gateway(bench: &mut Bench, machine: Machine) -> Result<()> {
    let mut shim = started(bench, machine)?;
    let own = address(&mut shim, "eth0")?;
    ensure!(own.starts_with("10.88.0."), "the address is {own}");
    ping(&mut shim, GATEWAY)?;
    let said = shell(
        shim.console,
        "ping -c 1 gateway; ping -c 1 debian; ping -c 1 nobody.internal",
    )?;
    ensure!(said.contains(&format!("PING gateway ({GATEWAY})")), "{said}");
    ensure!(said.contains(&format!("PING debian ({own})")), "{said}");
    ensure!(said.contains("bad address 'nobody.internal'"), "{said}");

    shim.detach()?;
    let list = shim.command("network-list debian")?;
    let mac = list.split_whitespace().find(|word| word.starts_with("00:16:3e:"));
    let mac = mac.with_context(|| format!("network-list: {list}"))?.to_owned();
    ensure!(
        list.contains("/local/domain/0/backend/vif/1/0"),
        "network-list: {list}"
    );
    let said = shim.command(&format!("network-detach debian {mac}"))?;
    ensure!(!said.contains("removed all the same"), "network-detach: {said}");
    let list = shim.command("network-list debian")?;
    ensure!(!list.contains("backend/vif"), "network-list: {list}");
    shim.command("network-attach debian mac=00:16:3e:11:22:33,rate=50Mb/s")?;
    to_shell(&mut shim, "debian")?;
    let again = come_up(&mut shim)?;
    ensure!(again != own, "another device, and the same address");
    ping(&mut shim, GATEWAY)?;
    shim.console.type_line("reboot")?;
    shim.console.expect("has been started", PATIENCE)?;
    let list = shim.command("network-list debian")?;
    ensure!(
        list.contains("00:16:3e:11:22:33") && !list.contains(&mac),
        "after a restart: {list}"
    );
    Ok(())
}

/// Two domUs: ping by name, a few megabytes over TCP, and iperf3. One is destroyed, the other lives.
fn between(bench: &mut Bench, machine: Machine) -> Result<()> {
    let (kib, cpus) = amount(machine.vehicle, (MUCH, CPUS), (LITTLE, 1));
    let keeps_up = machine.vehicle == Vehicle::Svm;
    let mut shim = tools::prompt(bench, machine)?;
    let free = shim.first_life("debian2", "debian2")?;
    shim.command(&format!("create debian2 vcpus={cpus} disk=[{}]", tools::DISK))?;
    shim.console
        .type_line(&format!("create -c debian disk=[{}]", tools::DISK))?;
    log_in(shim.console)?;
    tools::mount(shim.console)?;
    let server = address(&mut shim, "eth0")?;
    let said = shell(
        shim.console,
        "dd if=/dev/urandom of=/tmp/data bs=64k count=64 && md5sum /tmp/data",
    )?;
    let sent = tools::checksum(&said)?.to_owned();
    shell(shim.console, "httpd -h /tmp; t iperf3 -s -D")?;
    shim.detach()?;
    shim.console.type_line("console debian2")?;
    shim.console.send("\r")?;
    log_in(shim.console)?;
    let client = address(&mut shim, "eth0")?;
    ensure!(client != server, "both have {client}");
    queues(&mut shim, cpus)?;
    ping(&mut shim, &server)?;
    ping(&mut shim, "debian")?;
    let said = shell(shim.console, "wget -q -O - http://debian/data | md5sum")?;
    ensure!(tools::checksum(&said)? == sent, "sent {sent}, got {said}");
    tools::mount(shim.console)?;
    tools::iperf3(shim.console, &server, kib, WAYS)?;
    tools::no_complaints(shim.console)?;
    shim.detach()?;
    if keeps_up {
        limited(&mut shim, &server)?;
    }
    to_shell(&mut shim, "debian")?;
    tools::no_complaints(shim.console)?;
    shim.detach()?;
    shim.command("destroy debian2")?;
    shim.wait_for("debian2", false)?;
    let left = shim.command("xenstore-ls /local/domain/0/backend/vif")?;
    ensure!(
        left.contains("/local/domain/3/device/vif/0"),
        "the other's are gone: {left}"
    );
    ensure!(
        !left.contains("/local/domain/2/device/vif/0"),
        "left behind: {left}"
    );
    to_shell(&mut shim, "debian")?;
    let uptime = shell(shim.console, "uptime")?;
    ensure!(uptime.contains("load average"), "uptime: {uptime}");
    shim.detach()?;
    // A page that dom0 still had mapped would keep its domain's memory.
    shim.command("destroy debian")?;
    shim.wait_for("debian", false)?;
    shim.expect_nearly_free(free)
}

/// At the prompt: debian2 gets another device, with a limit, and sends to `server` as fast as that, about: the first packets are free, and
/// the emulator may be slow.
fn limited(shim: &mut Shim, server: &str) -> Result<()> {
    const LIMIT: f64 = 2e6;
    let list = shim.command("network-list debian2")?;
    let mac = list.split_whitespace().find(|word| word.starts_with("00:16:3e:"));
    let mac = mac.with_context(|| format!("network-list: {list}"))?.to_owned();
    shim.command(&format!("network-detach debian2 {mac}"))?;
    shim.command(&format!("network-attach debian2 mac={mac},rate=2Mb/s"))?;
    to_shell(shim, "debian2")?;
    come_up(shim)?;
    let said = shell(
        shim.console,
        &format!("t iperf3 -J -c {server} -t 6 >/tmp/p; sed -n '/\"sum_received\"/,/}}/p' /tmp/p"),
    )?;
    let rate = said.split_once("\"bits_per_second\":").and_then(|(_, rest)| {
        let number = rest.split(',').next()?;
        number.trim().parse::<f64>().ok()
    });
    let rate = rate.with_context(|| format!("no rate: {said}"))?;
    ensure!(
        rate > LIMIT / 4.0 && rate < LIMIT * 1.25,
        "limited to {LIMIT} bits a second, it sent {rate}"
    );
    shim.detach()?;
    Ok(())
}

/// The addresses of the two domains in [`under_load`].
const MACS: [&str; 2] = ["00:16:3e:00:00:01", "00:16:3e:00:00:02"];

/// Either end of connections that iperf3 uses all the time loses its device and gets it again, and lets go of it and takes it again: the
/// connections live on, and nothing is left of what went.
fn under_load(bench: &mut Bench, machine: Machine) -> Result<()> {
    let kib = amount(machine.vehicle, MUCH, LITTLE);
    let mut shim = tools::prompt(bench, machine)?;
    let free = shim.first_life("debian2", "debian2")?;
    let [server_mac, client_mac] = MACS;
    let with = |mac| format!("disk=[{}] vif=[\"mac={mac}\"]", tools::DISK);
    shim.command(&format!("create debian2 {}", with(client_mac)))?;
    shim.console
        .type_line(&format!("create -c debian {}", with(server_mac)))?;
    log_in(shim.console)?;
    tools::mount(shim.console)?;
    let server = address(&mut shim, "eth0")?;
    // One for the load, one for what comes behind it.
    shell(shim.console, "t iperf3 -s -D; t iperf3 -s -D -p 5202")?;
    shim.detach()?;
    shim.console.type_line("console debian2")?;
    shim.console.send("\r")?;
    log_in(shim.console)?;
    tools::mount(shim.console)?;
    address(&mut shim, "eth0")?;
    let load = format!("t iperf3 -c {server} -t 10000 -P 2 --bidir >/tmp/load 2>&1 &");
    shell(shim.console, &load)?;
    shim.detach()?;
    let (client, server_domain) = (("debian2", client_mac), ("debian", server_mac));
    for (name, mac) in [client, server_domain, client] {
        wait_for_load(&mut shim)?;
        let said = shim.command(&format!("network-detach {name} {mac}"))?;
        ensure!(!said.contains("does not let go"), "{name}: {said}");
        let list = shim.command(&format!("network-list {name}"))?;
        ensure!(!list.contains("backend/vif"), "{name}: {list}");
        shim.command(&format!("network-attach {name} mac={mac}"))?;
        to_shell(&mut shim, name)?;
        come_up(&mut shim)?;
        shim.detach()?;
    }
    wait_for_load(&mut shim)?;
    to_shell(&mut shim, "debian2")?;
    shell(
        shim.console,
        "cd /sys/bus/xen/drivers/vif; vif=$(ls -d vif-*); echo $vif >unbind; echo $vif >bind; cd",
    )?;
    come_up(&mut shim)?;
    shim.detach()?;
    wait_for_load(&mut shim)?;
    to_shell(&mut shim, "debian2")?;
    shell(shim.console, "kill %1; wait")?;
    tools::iperf3(shim.console, &format!("{server} -p 5202"), kib, &["-P 3"])?;
    tools::no_complaints(shim.console)?;
    shim.detach()?;
    for name in ["debian", "debian2"] {
        shim.command(&format!("destroy {name}"))?;
        shim.wait_for(name, false)?;
    }
    shim.expect_free(free)
}

/// Gets an address for eth0, once it is there.
fn come_up(shim: &mut Shim<'_>) -> Result<String> {
    shell(
        shim.console,
        "until ip link show eth0 >/dev/null 2>&1; do sleep 0.2; done; /sbin/network",
    )?;
    address(shim, "eth0")
}

/// Waits until the load of [`under_load`] has moved something more in both directions.
fn wait_for_load(shim: &mut Shim<'_>) -> Result<()> {
    const LOOKS: u32 = 200;
    const BYTES: u64 = 1 << 20;
    let mut first = None;
    for _ in 0..LOOKS {
        let stats = shim.command("network-stats debian2")?;
        let line = stats.lines().find(|line| line.contains(MACS[1]));
        let fields: Vec<u64> = line
            .with_context(|| format!("network-stats: {stats}"))?
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        let [_, _, sent, _, received, ..] = fields[..] else {
            bail!("network-stats: {stats}");
        };
        let (sent_first, received_first) = *first.get_or_insert((sent, received));
        if sent > sent_first + BYTES && received > received_first + BYTES {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    bail!("the load does not move any more")
}
