//! The hypervisor under gdb, as `scripts/run --gdb` starts it: what gdb would say to the emulator, with the symbols of `out/oxen.elf`.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use object::{Object, ObjectSection, ObjectSymbol};

use super::guests::verdict;
use super::{PATIENCE, guest, test};
use crate::runner::{Bench, Test};
use crate::{Machine, Vehicle, outputs};

/// Where QEMU waits for gdb; and that Bochs says that it does not.
pub fn tests() -> Vec<Test> {
    vec![
        test("gdb", Vehicle::Svm, breakpoint),
        test("gdb", Vehicle::Vmx, |bench, mut machine| {
            machine.gdb = Some(1234);
            let refused = bench.start(&machine).err().context("Bochs has started")?;
            ensure!(
                refused.to_string().contains("built without its stub for gdb"),
                "{refused:#}"
            );
            Ok(())
        }),
    ]
}

/// Comes by once for each CPU, behind all of the start.
const FUNCTION: &str = "hypervisor::virt::run_cpu";

/// A breakpoint at a function is hit, with the registers and the code that belong there; then the machine goes on as if nothing had been.
fn breakpoint(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    /// Of the function's code.
    const BYTES: usize = 32;
    /// Of RIP, behind the sixteen general registers, in what `g` reads (gdb's org.gnu.gdb.i386.core).
    const RIP: usize = 16;
    let (address, code) = function(FUNCTION, BYTES)?;
    let port = free_port()?;
    machine.gdb = Some(port);
    machine.command_line += " dom0_mem=64M";
    machine.modules = vec![guest("hello", "")?];
    bench.start(&machine)?;
    let mut stub = Stub::connect(port)?;
    stub.expect("?", "T05")?;
    ensure!(stub.register(RIP)? == 0xfff0, "the machine has begun without us");
    stub.expect(&format!("Z0,{address:x},1"), "OK")?;
    stub.expect("c", "T05")?;
    let rip = stub.register(RIP)?;
    ensure!(
        rip == address,
        "stopped at {rip:#x}, {FUNCTION} is at {address:#x}"
    );
    let memory = stub.ask(&format!("m{address:x},{BYTES:x}"))?;
    ensure!(
        memory == hex(&code),
        "{FUNCTION} has other code in memory than in out/oxen.elf: {memory}"
    );
    stub.expect("s", "T05")?;
    let after = stub.register(RIP)?;
    ensure!(
        after > address && after < address + 16,
        "a step led from {address:#x} to {after:#x}"
    );
    stub.expect(&format!("z0,{address:x},1"), "OK")?;
    stub.send("c")?;
    let console = bench.machine().context("the machine is gone")?;
    verdict(console)
}

/// A port that is free now.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Where a function of the hypervisor is, and how its code begins.
fn function(name: &str, bytes: usize) -> Result<(u64, Vec<u8>)> {
    let file = std::fs::read(outputs::output("oxen.elf")?)?;
    let elf = object::File::parse(&*file)?;
    let symbol = elf
        .symbols()
        .find(|symbol| {
            symbol
                .name()
                .is_ok_and(|own| format!("{:#}", rustc_demangle::demangle(own)) == name)
        })
        .with_context(|| format!("out/oxen.elf has no symbol {name}"))?;
    let section = symbol.section_index().context("the symbol is nowhere")?;
    let code = elf
        .section_by_index(section)?
        .data_range(symbol.address(), bytes as u64)?
        .context("the function ends with its section")?;
    Ok((symbol.address(), code.to_vec()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The emulator's stub: our side of gdb's remote serial protocol ("Debugging with GDB", appendix E), without what QEMU does not send: repetitions
/// of letters, and binary data.
struct Stub(TcpStream);

impl Stub {
    /// As soon as it listens, which an emulator that has refused its arguments never does.
    fn connect(port: u16) -> Result<Stub> {
        const START: Duration = Duration::from_secs(60);
        let deadline = Instant::now() + START;
        loop {
            match TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(PATIENCE))?;
                    return Ok(Stub(stream));
                }
                Err(error) if Instant::now() > deadline => return Err(error).context("nobody waits for gdb"),
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// A packet: `$`, what it says, `#`, the sum of its bytes.
    fn send(&mut self, packet: &str) -> Result<()> {
        let sum = sum(packet.as_bytes());
        write!(self.0, "${packet}#{sum:02x}")?;
        let acknowledged = self.byte()?;
        ensure!(
            acknowledged == b'+',
            "{packet:?} is acknowledged by {acknowledged:#x}"
        );
        Ok(())
    }

    fn ask(&mut self, packet: &str) -> Result<String> {
        self.send(packet)?;
        ensure!(self.byte()? == b'$', "no packet answers {packet:?}");
        let mut answer = Vec::new();
        loop {
            match self.byte()? {
                b'#' => break,
                byte => answer.push(byte),
            }
        }
        let answer = String::from_utf8(answer)?;
        let sent = String::from_utf8(vec![self.byte()?, self.byte()?])?;
        ensure!(
            u8::from_str_radix(&sent, 16)? == sum(answer.as_bytes()),
            "{answer:?} has the sum {sent}"
        );
        self.0.write_all(b"+")?;
        Ok(answer)
    }

    fn expect(&mut self, packet: &str, answer: &str) -> Result<()> {
        let said = self.ask(packet)?;
        if !said.starts_with(answer) {
            bail!("{packet:?} is answered {said:?}, not {answer:?}");
        }
        Ok(())
    }

    /// One of 64 bits: all come in gdb's order, each from its lowest byte on.
    fn register(&mut self, number: usize) -> Result<u64> {
        const DIGITS: usize = 16;
        let all = self.ask("g")?;
        let digits = all.get(number * DIGITS..).and_then(|from| from.get(..DIGITS));
        let value = u64::from_str_radix(digits.context("too few registers")?, 16)?;
        Ok(value.swap_bytes())
    }

    fn byte(&mut self) -> Result<u8> {
        let mut byte = [0];
        self.0
            .read_exact(&mut byte)
            .context("the emulator does not answer gdb")?;
        Ok(byte[0])
    }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}
