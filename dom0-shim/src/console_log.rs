//! What domains wrote to their consoles, kept by the domains' names: over restarts, and for a while past their ends.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use abi::Domid;

/// Bytes kept of one console.
pub const KEPT: usize = 64 * 1024;
/// Logs of consoles that are no more; beyond, what ended first is forgotten.
pub const ENDED_MAX: usize = 32;

/// Names a log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The domain's name.
    pub name: String,
    /// Number of the console among the domain's.
    pub console: u32,
}

/// All logs.
#[derive(Default)]
pub struct Logs {
    logs: BTreeMap<Key, Log>,
    /// Those without a console, in the order of their ends.
    ended: VecDeque<Key>,
}

#[derive(Default)]
struct Log {
    bytes: VecDeque<u8>,
    /// How many of them, at the end, are of the domain that has the console now.
    current: usize,
}

impl Log {
    fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        let excess = self.bytes.len().saturating_sub(KEPT);
        self.bytes.drain(..excess);
        self.current = (self.current + bytes.len()).min(KEPT);
    }

    fn tail(&self, length: usize) -> Vec<u8> {
        self.bytes.range(self.bytes.len() - length..).copied().collect()
    }
}

impl Logs {
    /// `domain` writes to this log from now on.
    pub fn begin(&mut self, key: &Key, domain: Domid) {
        self.ended.retain(|ended| ended != key);
        let log = self.logs.entry(key.clone()).or_default();
        if log.bytes.back().is_some_and(|&last| last != b'\n') {
            log.append(b"\r\n");
        }
        log.append(format!("--- domain {domain} ---\r\n").as_bytes());
        log.current = 0;
    }

    /// The console's domain has written.
    pub fn append(&mut self, key: &Key, bytes: &[u8]) {
        if let Some(log) = self.logs.get_mut(key) {
            log.append(bytes);
        }
    }

    /// Nobody writes to this log any more.
    pub fn end(&mut self, key: &Key) {
        self.ended.push_back(key.clone());
        if self.ended.len() > ENDED_MAX
            && let Some(first) = self.ended.pop_front()
        {
            self.logs.remove(&first);
        }
    }

    /// The console's domain has another name, which no other had.
    pub fn rename(&mut self, old: &Key, new: &Key) {
        self.ended.retain(|ended| ended != new);
        if let Some(log) = self.logs.remove(old) {
            self.logs.insert(new.clone(), log);
        }
    }

    /// What the domain that has the console has written.
    pub fn current(&self, key: &Key) -> Vec<u8> {
        self.logs
            .get(key)
            .map_or_else(Vec::new, |log| log.tail(log.current))
    }

    /// What it and those before it of the same name have written.
    pub fn all(&self, key: &Key) -> Option<Vec<u8>> {
        self.logs.get(key).map(|log| log.tail(log.bytes.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key {
            name: name.into(),
            console: 0,
        }
    }

    fn all(logs: &Logs, name: &str) -> Option<String> {
        logs.all(&key(name))
            .map(|bytes| String::from_utf8(bytes).expect("what the tests wrote"))
    }

    #[test]
    fn a_log_goes_on_over_restarts() {
        let (mut logs, a) = (Logs::default(), key("a"));
        logs.begin(&a, 1);
        logs.append(&a, b"first");
        logs.end(&a);
        assert_eq!(all(&logs, "a").as_deref(), Some("--- domain 1 ---\r\nfirst"));
        logs.begin(&a, 2);
        assert_eq!(logs.current(&a), b"");
        logs.append(&a, b"second\n");
        assert_eq!(logs.current(&a), b"second\n");
        let both = "--- domain 1 ---\r\nfirst\r\n--- domain 2 ---\r\nsecond\n";
        assert_eq!(all(&logs, "a").as_deref(), Some(both));
        assert_eq!(all(&logs, "b"), None);
        assert_eq!(
            logs.all(&Key {
                console: 1,
                ..a.clone()
            }),
            None
        );
    }

    #[test]
    fn a_renamed_domain_takes_its_log_along() {
        let (mut logs, a) = (Logs::default(), key("a"));
        logs.begin(&a, 1);
        logs.append(&a, b"one");
        logs.rename(&a, &key("a-1"));
        logs.begin(&a, 2);
        logs.append(&a, b"two");
        logs.append(&key("a-1"), b", more");
        assert_eq!(
            all(&logs, "a-1").as_deref(),
            Some("--- domain 1 ---\r\none, more")
        );
        assert_eq!(all(&logs, "a").as_deref(), Some("--- domain 2 ---\r\ntwo"));
    }

    #[test]
    fn one_log_is_bounded() {
        let (mut logs, a) = (Logs::default(), key("a"));
        logs.begin(&a, 1);
        for round in 0..200u8 {
            logs.append(&a, &[round; 1000]);
        }
        let kept = logs.current(&a);
        assert_eq!(
            (kept.len(), kept.first(), kept.last()),
            (KEPT, Some(&134), Some(&199))
        );
        assert_eq!(logs.all(&a), Some(kept));
        logs.begin(&a, 2);
        assert_eq!(logs.current(&a), b"");
    }

    #[test]
    fn ended_logs_are_bounded_and_running_ones_stay() {
        let mut logs = Logs::default();
        logs.begin(&key("runs"), 1);
        logs.begin(&key("again"), 2);
        logs.end(&key("again"));
        logs.begin(&key("again"), 3);
        for number in 0..2 * ENDED_MAX {
            let key = key(&format!("{number}"));
            logs.begin(&key, 4);
            logs.end(&key);
        }
        assert!(all(&logs, "runs").is_some() && all(&logs, "again").is_some());
        let first = ENDED_MAX;
        assert_eq!(all(&logs, &format!("{}", first - 1)), None);
        assert!(all(&logs, &format!("{first}")).is_some());
        assert_eq!((logs.logs.len(), logs.ended.len()), (ENDED_MAX + 2, ENDED_MAX));
    }
}
