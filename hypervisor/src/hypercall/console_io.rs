//! `console_io`: what a domain says goes to the console. dom0's bytes go there as they are; others' are collected into lines
//! that say whose they are, as many as their rate allows.

use abi::Errno;
use abi::console_io::{CONSOLEIO_READ, CONSOLEIO_WRITE};

use super::{Caller, Outcome};
use crate::domain::Domain;
use crate::hw::console;
use crate::hw::time::now_ns;
use crate::types::{DomId, Gva};

/// Bytes copied at a time, and in one slice.
const CHUNK: usize = 128;
const SLICE: u32 = 4096;
/// Longest line; what is longer is cut into lines.
const MAX_LINE: usize = 160;
/// Lines that a domain may have at once, and how fast it gets new ones.
const BURST: u32 = 100;
const NS_PER_LINE: u64 = 20_000_000;

/// The line that a domain has begun, and how many more it may have.
pub struct LogLine {
    text: [u8; MAX_LINE],
    len: usize,
    allowance: u32,
    since: u64,
    dropped: u32,
}

impl Default for LogLine {
    fn default() -> Self {
        Self {
            text: [0; MAX_LINE],
            len: 0,
            allowance: BURST,
            since: 0,
            dropped: 0,
        }
    }
}

impl LogLine {
    /// Take `bytes`, which came at `now` (ns); `emit` gets each line that is complete.
    pub fn push(&mut self, bytes: &[u8], now: u64, mut emit: impl FnMut(&str)) {
        for &byte in bytes {
            match byte {
                b'\n' => self.end(now, &mut emit),
                // Tabs and what is printable; nothing that moves the cursor of whoever reads the log.
                b'\t' | b' '..=b'~' => {
                    if let Some(place) = self.text.get_mut(self.len) {
                        *place = byte;
                        self.len += 1;
                    }
                    if self.len == MAX_LINE {
                        self.end(now, &mut emit);
                    }
                }
                _ => {}
            }
        }
    }

    fn end(&mut self, now: u64, emit: &mut impl FnMut(&str)) {
        let earned = now.saturating_sub(self.since) / NS_PER_LINE;
        if earned > 0 {
            self.allowance = BURST.min(
                self.allowance
                    .saturating_add(u32::try_from(earned).unwrap_or(BURST)),
            );
            self.since = now;
        }
        let text = self.text.get(..self.len).unwrap_or(&[]);
        if self.allowance == 0 {
            self.dropped = self.dropped.saturating_add(1);
        } else {
            if core::mem::take(&mut self.dropped) > 0 {
                emit("[lines dropped]");
            }
            self.allowance -= 1;
            emit(core::str::from_utf8(text).unwrap_or(""));
        }
        self.len = 0;
    }
}

/// Log a line that a domain wrote.
fn log_line(domain: DomId, line: &str) {
    log::info!(target: "guest", "({domain}) {line}");
}

/// A byte that a guest wrote to Xen's debug port (0xe9).
pub fn debug_port(domain: &Domain, byte: u8) {
    domain
        .log_line
        .lock()
        .push(&[byte], now_ns(), |line| log_line(domain.id, line));
}

pub(super) fn console_io(caller: &mut Caller<'_>, command: u64, count: u64, buffer: u64) -> Outcome {
    let count = count as u32;
    match command as u32 {
        CONSOLEIO_WRITE => write(caller, count, buffer),
        CONSOLEIO_READ => {
            caller.require_privilege()?;
            read(caller, count, buffer)
        }
        _ if !caller.domain.is_privileged() => Err(Errno::EPERM.into()),
        _ => Err(Errno::ENOSYS.into()),
    }
}

fn write(caller: &mut Caller<'_>, count: u32, buffer: u64) -> Outcome {
    if count > i32::MAX as u32 {
        return Err(Errno::EINVAL.into());
    }
    let slice = count.min(SLICE);
    let mut done = 0;
    while done < slice {
        let mut chunk = [0; CHUNK];
        let len = (slice - done).min(CHUNK as u32);
        let Some(chunk) = chunk.get_mut(..len as usize) else {
            break;
        };
        caller
            .memory()
            .read_bytes(Gva(buffer.wrapping_add(u64::from(done))), chunk)?;
        if caller.domain.is_privileged() {
            // What waits for the line goes meanwhile.
            if !console::try_write(chunk) {
                break;
            }
        } else {
            let id = caller.domain.id;
            caller
                .domain
                .log_line
                .lock()
                .push(chunk, now_ns(), |line| log_line(id, line));
        }
        done += len;
    }
    if done == count {
        return Ok(0);
    }
    let rest = buffer.wrapping_add(u64::from(done));
    Err(caller.again(&[CONSOLEIO_WRITE.into(), u64::from(count - done), rest]))
}

/// What was typed on the console since the last read. Returns how much.
fn read(caller: &mut Caller<'_>, count: u32, buffer: u64) -> Outcome {
    let mut bytes = [0; CHUNK];
    let room = bytes.get_mut(..(count as usize).min(CHUNK)).unwrap_or_default();
    let len = console::read_bytes(room);
    let read = room.get(..len).unwrap_or_default();
    caller.memory().write_bytes(Gva(buffer), read)?;
    Ok(len as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(line: &mut LogLine, bytes: &[u8], now: u64) -> Vec<String> {
        let mut out = Vec::new();
        line.push(bytes, now, |line| out.push(line.to_owned()));
        out
    }

    #[test]
    fn bytes_become_lines() {
        let mut line = LogLine::default();
        assert!(lines(&mut line, b"hel", 0).is_empty());
        assert_eq!(
            lines(&mut line, b"lo\r\n\x1b[2Jnext\nrest", 0),
            ["hello", "[2Jnext"]
        );
        assert_eq!(
            lines(&mut line, &[b'x'; MAX_LINE], 0),
            [format!("rest{}", "x".repeat(MAX_LINE - 4))]
        );
    }

    #[test]
    fn a_chatterbox_is_cut_short() {
        let mut line = LogLine::default();
        let flood = b"a\n".repeat(BURST as usize + 50);
        assert_eq!(lines(&mut line, &flood, 0).len(), BURST as usize);
        assert!(lines(&mut line, b"b\n", NS_PER_LINE - 1).is_empty());
        assert_eq!(lines(&mut line, b"c\n", NS_PER_LINE), ["[lines dropped]", "c"]);
    }
}
