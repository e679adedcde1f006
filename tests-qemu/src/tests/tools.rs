//! Debian's programs in domUs: fio, iperf3 and e2fsprogs, on a read-only disk.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::debian::shell;
use super::shim::{Shim, archive_with, boot_archive};
use crate::runner::Bench;
use crate::{Console, Machine, outputs};

/// The disk that they are on, for a domain's config.
pub const DISK: &str = "\"/tools.img,raw,xvdb,r\"";

/// The shim's prompt, with the boot archive and the image of [`DISK`] in it.
pub fn prompt(bench: &mut Bench, mut machine: Machine) -> Result<Shim<'_>> {
    machine.one_thread = true;
    let image = std::fs::read(outputs::output("test-tools.img")?)?;
    let base = boot_archive(machine.vehicle)?;
    let archive = archive_with(&base, &bench.scratch(), &[("tools.img", image)])?;
    Shim::start(bench, machine, archive)
}

/// Makes `t PROGRAM ARGUMENT...` of the domU's shell start one of them. What the kernel has said so far is of the boot.
pub fn mount(console: &mut Console) -> Result<()> {
    shell(
        console,
        "dmesg -c >/dev/null; mkdir -p /tools; mount -o ro /dev/xvdb /tools; \
         t() { tool=$1; shift; /tools/lib/ld-linux-x86-64.so.2 --library-path /tools/lib /tools/bin/$tool \"$@\"; }",
    )?;
    Ok(())
}

/// Checks that the domU's kernel has not warned of anything since [`mount`], except of an emulator's clocks.
pub fn no_complaints(console: &mut Console) -> Result<()> {
    let said = shell(
        console,
        "dmesg -r | grep '^<[0-4]>' | grep -v clocksource; echo that is all",
    )?;
    ensure!(
        said.contains("\nthat is all\n") && !said.contains("\n<"),
        "dmesg: {said}"
    );
    Ok(())
}

/// Moves so many KiB between the domU and an iperf3 server, in each way that `ways` has as iperf3's options.
///
/// The client ends when it has sent so much, or received it: then the rest of what it sent may still be on its way.
pub fn iperf3(console: &mut Console, server: &str, kib: u64, ways: &[&str]) -> Result<()> {
    for way in ways {
        let said = shell(
            console,
            &format!(
                "t iperf3 -J -c {server} -n {kib}K {way} >/tmp/p; echo ended $?; \
                 sed -n '/\"sum_[sr]/,/}}/p;/\"error\"/p' /tmp/p"
            ),
        )?;
        let moved = |sum| bytes(&said, sum).unwrap_or_default();
        let (sent, received) = (moved("\"sum_sent\""), moved("\"sum_received\""));
        let least = if way.contains("-R") { kib << 10 } else { 1 };
        ensure!(
            said.contains("\nended 0\n") && sent >= kib << 10 && received >= least,
            "iperf3 {way}: {said}"
        );
    }
    Ok(())
}

/// A word of a command's output that is a checksum, as `md5sum` prints it.
///
/// # Errors
/// There is none.
pub fn checksum(said: &str) -> Result<&str> {
    let is_sum = |word: &&str| word.len() == 32 && word.chars().all(|c| c.is_ascii_hexdigit());
    said.split_whitespace()
        .find(is_sum)
        .with_context(|| format!("no checksum: {said}"))
}

/// How many bytes a sum in iperf3's report has.
fn bytes(report: &str, sum: &str) -> Option<u64> {
    let fields = report.split_once(sum)?.1.split_once("\"bytes\":")?.1;
    fields.split(',').next()?.trim().parse().ok()
}

/// An iperf3 server on this side of the emulator; it ends when dropped.
pub struct Server {
    process: Child,
    /// It would end if nobody could read what it says.
    _output: BufReader<ChildStdout>,
    /// Where it listens.
    pub port: u16,
}

impl Server {
    /// Starts it at the local address, where QEMU's network has it as 10.0.2.2.
    pub fn start() -> Result<Server> {
        let tools = outputs::output("test-tools")?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut process = Command::new(tools.join("lib/ld-linux-x86-64.so.2"))
            .arg("--library-path")
            .arg(tools.join("lib"))
            .arg(tools.join("bin/iperf3"))
            .args(["-s", "-B", "127.0.0.1", "--forceflush", "-p", &port.to_string()])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut said = String::new();
        let output = process.stdout.take().context("iperf3's output")?;
        let mut output = BufReader::new(output);
        while output.read_line(&mut said)? > 0 && !said.contains("Server listening") {}
        ensure!(said.contains("Server listening"), "iperf3: {said}");
        Ok(Server {
            process,
            _output: output,
            port,
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
