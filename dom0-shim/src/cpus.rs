//! Sets of physical CPUs as `xl` reads and prints them: `all`, `0-3,^2`, `5`, `node:0`.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// CPUs are numbered below this.
const CPUS_MAX: u32 = 512;
const BYTES: usize = CPUS_MAX as usize / 8;

/// A set of CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuSet([u8; BYTES]);

impl CpuSet {
    /// All there can be.
    pub const ALL: Self = Self([u8::MAX; BYTES]);
    /// None.
    pub const NONE: Self = Self([0; BYTES]);

    /// Reads a list of CPUs and ranges of them, separated by commas; `^` takes out what follows it. Node 0, the only one,
    /// has all CPUs.
    ///
    /// # Errors
    /// A sentence on the first part that is neither, or that the set is empty.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut set = Self::NONE;
        for part in text.split(',').map(str::trim) {
            let (wanted, range) = match part.strip_prefix('^') {
                Some(range) => (false, range),
                None => (true, part),
            };
            let nodes = range
                .strip_prefix("nodes:")
                .or_else(|| range.strip_prefix("node:"));
            let (first, last) = match range.split_once('-') {
                _ if range == "all" || nodes == Some("0") => (0, CPUS_MAX - 1),
                _ if nodes.is_some() => return Err(format!("'{part}': there is node 0 only")),
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(range)?, number(range)?),
            };
            if first > last {
                return Err(format!("'{part}' ends before it begins"));
            }
            (first..=last).for_each(|cpu| set.put(cpu, wanted));
        }
        if set == Self::NONE {
            return Err(format!("'{text}' names no CPU"));
        }
        Ok(set)
    }

    /// Is `cpu` in it?
    pub fn contains(&self, cpu: u32) -> bool {
        let byte = self.0.get(cpu as usize / 8);
        byte.is_some_and(|byte| byte & 1 << (cpu % 8) != 0)
    }

    fn put(&mut self, cpu: u32, wanted: bool) {
        if let Some(byte) = self.0.get_mut(cpu as usize / 8) {
            let bit = 1 << (cpu % 8);
            *byte = if wanted { *byte | bit } else { *byte & !bit };
        }
    }

    /// As a bitmap, CPU 0 in bit 0 of byte 0.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bitmap, to be filled in.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    /// The set in words, on a machine with `count` CPUs.
    pub fn describe(&self, count: u32) -> String {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for cpu in (0..count).filter(|&cpu| self.contains(cpu)) {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == cpu => *last = cpu,
                _ => ranges.push((cpu, cpu)),
            }
        }
        match ranges.as_slice() {
            [] => "none".to_string(),
            [(0, last)] if last + 1 == count => "all".to_string(),
            ranges => {
                let range = |&(first, last): &(u32, u32)| match last - first {
                    0 => format!("{first}"),
                    _ => format!("{first}-{last}"),
                };
                ranges.iter().map(range).collect::<Vec<_>>().join(",")
            }
        }
    }
}

fn number(text: &str) -> Result<u32, String> {
    let number = text.trim().parse().ok().filter(|&cpu| cpu < CPUS_MAX);
    number.ok_or_else(|| format!("'{text}' is not the number of a CPU"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_xl_reads() {
        let members = |text: &str| -> Vec<u32> {
            let set = CpuSet::parse(text).unwrap();
            (0..8).filter(|&cpu| set.contains(cpu)).collect()
        };
        assert_eq!(members("2"), [2]);
        assert_eq!(members("0-3,^2"), [0, 1, 3]);
        assert_eq!(members(" 1, 5-6 "), [1, 5, 6]);
        assert_eq!(members("all,^0-5"), [6, 7]);
        assert_eq!(members("node:0,^1-6"), [0, 7]);
        assert_eq!(members("2,3,^node:0,5"), [5]);
        assert_eq!(CpuSet::parse("all"), Ok(CpuSet::ALL));
        assert_eq!(CpuSet::parse("nodes:0"), Ok(CpuSet::ALL));
    }

    #[test]
    fn refuses_the_rest() {
        let error = |text: &str| CpuSet::parse(text).unwrap_err();
        assert_eq!(error("3-1"), "'3-1' ends before it begins");
        assert_eq!(error("512"), "'512' is not the number of a CPU");
        assert_eq!(error("x"), "'x' is not the number of a CPU");
        assert_eq!(error(""), "'' is not the number of a CPU");
        assert_eq!(error("node:1"), "'node:1': there is node 0 only");
        assert_eq!(error("1,^1"), "'1,^1' names no CPU");
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_again(cpus in prop::collection::vec(any::<bool>(), 1..64)) {
            let mut set = CpuSet::NONE;
            (0..).zip(&cpus).for_each(|(cpu, &wanted)| set.put(cpu, wanted));
            let text = set.describe(cpus.len() as u32);
            let again = match text.as_str() {
                "none" => CpuSet::NONE,
                text => CpuSet::parse(text).unwrap(),
            };
            for (cpu, &wanted) in (0..).zip(&cpus) {
                prop_assert_eq!(again.contains(cpu), wanted);
            }
        }

        #[test]
        fn never_panics(text in "[-0-9,^ al]{0,24}") {
            let _ = CpuSet::parse(&text);
        }
    }
}
