//! The serial line of a running machine: for expectations in tests, or for a person's terminal.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

/// A new pseudo terminal, raw: our end, and the path of the emulator's.
pub(crate) fn open_pty() -> Result<(OwnedFd, PathBuf)> {
    let pty = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).context("no pseudo terminal to be had")?;
    grantpt(&pty)?;
    unlockpt(&pty)?;
    let path = PathBuf::from(ptsname(&pty, Vec::new())?.into_string()?);
    let terminal = File::options().read(true).write(true).open(&path)?;
    let mut mode = tcgetattr(&terminal)?;
    mode.make_raw();
    tcsetattr(&terminal, OptionalActions::Now, &mode)?;
    // Keep one open descriptor of the other end for as long as the process lives: without any, reading ours fails with EIO
    // until the emulator has opened it.
    std::mem::forget(terminal);
    Ok((pty, path))
}

/// A running machine and its serial line.
pub struct Console {
    child: Child,
    line: File,
    /// Everything that came over the line.
    log: Vec<u8>,
    /// The same in a file, for those who watch.
    transcript: File,
    /// How much of it earlier expectations have used up.
    seen: usize,
    started: Instant,
    /// What the emulator itself prints.
    emulator_log: PathBuf,
}

impl Console {
    pub(crate) fn new(child: Child, pty: OwnedFd, transcript: File, emulator_log: PathBuf) -> Console {
        Console {
            child,
            line: File::from(pty),
            log: Vec::new(),
            transcript,
            seen: 0,
            started: Instant::now(),
            emulator_log,
        }
    }

    /// Seconds since the machine was started.
    pub fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Seconds of CPU time that the emulator has used so far: what other load on this machine changes little.
    ///
    /// # Errors
    /// The emulator is gone.
    pub fn cpu_seconds(&self) -> Result<f64> {
        /// Linux's `USER_HZ`.
        const TICKS: f64 = 100.0;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // proc(5): the 14th and 15th field. The second is the program's name, in parentheses.
        let times = stat.rsplit_once(") ").and_then(|(_, fields)| {
            let mut times = fields.split(' ').skip(11).map(str::parse::<u64>);
            Some(times.next()?.ok()? + times.next()?.ok()?)
        });
        Ok(times.context("/proc/PID/stat")? as f64 / TICKS)
    }

    /// All output so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&self.log).replace('\r', "")
    }

    /// Wait until `text` is printed after what the last expectation found; returns what came before it.
    ///
    /// # Errors
    /// It did not come in time, or the machine stopped.
    pub fn expect(&mut self, text: &str, limit: Duration) -> Result<String> {
        self.expect_any(&[text], limit).map(|(_, before)| before)
    }

    /// Wait until one of `texts` is printed; returns which, and what came before it.
    ///
    /// # Errors
    /// None came in time, or the machine stopped.
    pub fn expect_any(&mut self, texts: &[&str], limit: Duration) -> Result<(usize, String)> {
        let deadline = Instant::now() + limit;
        let longest = texts.iter().map(|text| text.len()).max().unwrap_or(0);
        // Before this none of them begins: what comes letter by letter is not searched from its start each time.
        let mut from = self.seen;
        loop {
            let found = texts
                .iter()
                .enumerate()
                .filter_map(|(which, text)| Some((find(&self.log[from..], text.as_bytes())?, which)))
                .min();
            if let Some((at, which)) = found {
                let before = String::from_utf8_lossy(&self.log[self.seen..from + at]).replace('\r', "");
                self.seen = from + at + texts[which].len();
                return Ok((which, before));
            }
            from = from.max((self.log.len() + 1).saturating_sub(longest));
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("{texts:?} did not come within {} s", limit.as_secs());
            }
            if !self.receive(left)? {
                let status = self.child.wait()?;
                bail!("the machine stopped before {texts:?} came ({status})");
            }
        }
    }

    /// Type `text`.
    ///
    /// # Errors
    /// The line is gone.
    pub fn send(&mut self, text: &str) -> Result<()> {
        self.line.write_all(text.as_bytes())?;
        Ok(self.line.flush()?)
    }

    /// Type a line like a person who looks at the screen: a few letters, until they are echoed, then more. A UART's receiver holds 16 bytes, and Bochs drops what
    /// comes while it is full.
    ///
    /// # Errors
    /// The line is gone.
    pub fn type_line(&mut self, line: &str) -> Result<()> {
        const FEW: usize = 8;
        self.skip()?;
        for few in line.as_bytes().chunks(FEW) {
            self.send(std::str::from_utf8(few)?)?;
            self.expect_echo(few)?;
        }
        self.send("\r")
    }

    /// Wait until `typed` is echoed.
    fn expect_echo(&mut self, typed: &[u8]) -> Result<()> {
        // A message that comes in between breaks the echo in two, and some lines have none; then time has to do.
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            if let Some(end) = end_of_echo(&self.log[self.seen..], typed) {
                self.seen += end;
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.receive(left)? {
                return Ok(());
            }
        }
    }

    /// Take everything that has come so far as seen.
    ///
    /// # Errors
    /// The line is gone.
    pub fn skip(&mut self) -> Result<()> {
        while self.receive(Duration::ZERO)? {
            let all = self.log.len();
            if self.seen == all {
                break;
            }
            self.seen = all;
        }
        Ok(())
    }

    /// Switch the line to the hypervisor and have it say what its CPUs and vCPUs do, for whoever looks why a test failed. A machine that has
    /// stopped, or whose hypervisor does not answer, adds nothing to the log.
    pub fn ask_the_hypervisor(&mut self) {
        const ANSWER: Duration = Duration::from_secs(10);
        for (keys, answer) in [
            ("\x01\x01\x01", "serial input to"),
            ("q", "  v0: "),
            ("r", "CPU 0, "),
            ("d", "ISR "),
        ] {
            let asked = self.skip().and_then(|()| self.send(keys));
            if asked.and_then(|()| self.expect(answer, ANSWER)).is_err() {
                return;
            }
            // The rest of the answer.
            let _ = self.expect("\0", Duration::from_secs(2));
        }
    }

    /// Wait until the machine has stopped by itself.
    ///
    /// # Errors
    /// It did not in time.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            self.receive(Duration::from_millis(50))?;
            if let Some(status) = self.child.try_wait()? {
                while self.receive(Duration::ZERO)? {}
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("the machine did not stop within {} s", limit.as_secs());
            }
        }
    }

    /// Take in what has arrived, waiting up to `limit` for something. `false`: nothing more will come.
    fn receive(&mut self, limit: Duration) -> Result<bool> {
        let slice = limit.min(Duration::from_millis(200));
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: slice.subsec_nanos().into(),
        };
        let mut ready = [PollFd::new(&self.line, PollFlags::IN)];
        let nothing = poll(&mut ready, Some(&timeout))? == 0;
        if nothing {
            return Ok(self.child.try_wait()?.is_none());
        }
        let mut buffer = [0; 4096];
        match self.line.read(&mut buffer) {
            Ok(0) => Ok(false),
            Ok(count) => {
                self.log.extend_from_slice(&buffer[..count]);
                self.transcript.write_all(&buffer[..count])?;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Attach the terminal that we were started from, until the machine stops or the person types Ctrl-A x.
    ///
    /// # Errors
    /// The terminal or the line is gone, or the emulator has failed: by a signal, or before anything was printed.
    pub fn attach(&mut self) -> Result<()> {
        let stdin = rustix::stdio::stdin();
        let before = tcgetattr(stdin).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            tcsetattr(stdin, OptionalActions::Now, &raw)?;
        }
        let result = self.copy_both_ways();
        if let Some(before) = &before {
            tcsetattr(stdin, OptionalActions::Now, before)?;
        }
        result
    }

    fn copy_both_ways(&mut self) -> Result<()> {
        const CTRL_A: u8 = 1;
        let (mut stdin_open, mut escape, mut silent) = (true, false, true);
        loop {
            let stdin = rustix::stdio::stdin();
            let mut ready = vec![PollFd::new(&self.line, PollFlags::IN)];
            if stdin_open {
                ready.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN));
            }
            let tick = Timespec {
                tv_sec: 0,
                tv_nsec: 200_000_000,
            };
            poll(&mut ready, Some(&tick))?;
            let typed = ready.get(1).is_some_and(|fd| !fd.revents().is_empty());
            let printed = !ready[0].revents().is_empty();
            let mut buffer = [0; 4096];
            if typed {
                let count = rustix::io::read(stdin, &mut buffer)?;
                stdin_open = count > 0;
                for &byte in &buffer[..count] {
                    match (escape, byte) {
                        (true, b'x') => return Ok(()),
                        (false, CTRL_A) => escape = true,
                        _ => {
                            escape = false;
                            self.line.write_all(&[byte])?;
                        }
                    }
                }
            }
            if printed {
                let count = self.line.read(&mut buffer)?;
                silent = false;
                let mut stdout = std::io::stdout();
                stdout.write_all(&buffer[..count])?;
                stdout.flush()?;
            } else if let Some(status) = self.child.try_wait()? {
                // Bochs's status is 1 even when the machine has been switched off.
                let failed = status.code().is_none() || silent && !status.success();
                ensure!(
                    !failed,
                    "the emulator has failed ({status}):\n{}",
                    std::fs::read_to_string(&self.emulator_log)?
                );
                return Ok(());
            }
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // It may have stopped by itself already; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// Where the echo of `typed` ends in what was printed. A shell goes on in a new line where the terminal's ends; dom0-shim draws the whole line anew
/// behind a message, and clears what is behind it, before it goes on.
fn end_of_echo(printed: &[u8], typed: &[u8]) -> Option<usize> {
    (0..printed.len()).find_map(|start| {
        typed
            .iter()
            .try_fold(start, |at, wanted| behind(printed, at, *wanted))
    })
}

/// Where `printed` goes on from `at` if the next letter is `wanted`.
fn behind(printed: &[u8], mut at: usize, wanted: u8) -> Option<usize> {
    loop {
        at += match printed.get(at..)? {
            [b'\r' | b'\n', ..] => 1,
            [0x1b, b'[', b'K', ..] => 3,
            [byte, ..] => return (*byte == wanted).then_some(at + 1),
            [] => return None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::end_of_echo;

    #[test]
    fn echo_is_found_over_the_end_of_a_line() {
        for (printed, typed, end) in [
            ("$ echo all", "echo all", Some(10)),
            ("echo an\r\r\nd echo", "and", Some(11)),
            ("$ ech", "echo", None),
            ("$ e cho", "echo", None),
            ("$ eecho", "echo", Some(7)),
            ("$ ech\r\x1b[KA message\r\n$ ech\x1b[Ko", "echo", Some(29)),
            ("", "echo", None),
        ] {
            assert_eq!(
                end_of_echo(printed.as_bytes(), typed.as_bytes()),
                end,
                "{printed:?}"
            );
        }
    }
}
