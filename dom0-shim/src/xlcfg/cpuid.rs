//! `cpuid=` of xl.cfg(5), in libxl's syntax: what CPUID is to tell a domain.
//!
//! `"host,avx2=0,family=6"` names features and fields; `["7,0:ebx=xxxx...", ..]` has a letter for each bit of a register.
//! A bit is `0`, `1`, `x` (as a domain has it by default), or `k` and `s` (as the host has it). The last two are `x` here:
//! what Oxen gives a domain by default is all that the host has and a domain can have, but for the invariant TSC.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use abi::Errno;
use abi::domctl::{CpuidLeaf, XEN_CPUID_NO_SUBLEAF};

const EAX: usize = 0;
const EBX: usize = 1;
const ECX: usize = 2;
const EDX: usize = 3;

/// Features by leaf, subleaf and register: the bit and libxl's name of each, as Xen 4.17 has them.
const FEATURES: &[(u32, u32, usize, &str)] = &[
    (
        0x1,
        0,
        ECX,
        "0:sse3 1:pclmulqdq 2:dtes64 3:monitor 4:dscpl 5:vmx 6:smx 7:est 8:tm2 9:ssse3 10:cntxid 12:fma \
         13:cmpxchg16 14:xtpr 15:pdcm 17:pcid 18:dca 19:sse4_1 19:sse4.1 20:sse4_2 20:sse4.2 21:x2apic \
         22:movbe 23:popcnt 24:tsc-deadline 25:aes 26:xsave 27:osxsave 28:avx 29:f16c 30:rdrand \
         31:hypervisor",
    ),
    (
        0x1,
        0,
        EDX,
        "0:fpu 1:vme 2:de 3:pse 4:tsc 5:msr 6:pae 7:mce 8:cmpxchg8 9:apic 11:sysenter 12:mtrr 13:pge \
         14:mca 15:cmov 16:pat 17:pse36 18:psn 19:clfsh 21:ds 22:acpi 23:mmx 24:fxsr 25:sse 26:sse2 27:ss \
         28:htt 29:tm 30:ia64 31:pbe",
    ),
    (0x6, 0, EAX, "2:arat"),
    (
        0x7,
        0,
        EBX,
        "0:fsgsbase 1:tsc_adjust 3:bmi1 4:hle 5:avx2 7:smep 8:bmi2 9:erms 10:invpcid 11:rtm 12:cmt 14:mpx \
         16:avx512f 17:avx512dq 18:rdseed 19:adx 20:smap 21:avx512-ifma 23:clflushopt 24:clwb \
         25:proc-trace 26:avx512pf 27:avx512er 28:avx512cd 29:sha 30:avx512bw 31:avx512vl",
    ),
    (
        0x7,
        0,
        ECX,
        "0:prefetchwt1 1:avx512-vbmi 2:umip 3:pku 4:ospke 6:avx512-vbmi2 7:cet-ss 8:gfni 9:vaes \
         10:vpclmulqdq 11:avx512-vnni 12:avx512-bitalg 14:avx512-vpopcntdq 22:rdpid 25:cldemote",
    ),
    (
        0x7,
        0,
        EDX,
        "2:avx512-4vnniw 3:avx512-4fmaps 4:fsrm 8:avx512-vp2intersect 9:srbds-ctrl 10:md-clear \
         14:serialize 16:tsxldtrk 20:cet-ibt 23:avx512-fp16 26:ibrsb 27:stibp 28:l1d-flush 29:arch-caps \
         30:core-caps 31:ssbd",
    ),
    (0x7, 1, EAX, "4:avx-vnni 5:avx512-bf16 10:fzrm 11:fsrs 12:fsrcs"),
    (0x7, 2, EDX, "0:intel-psfd 5:mcdt-no"),
    (
        0x8000_0001,
        0,
        ECX,
        "0:lahfsahf 1:cmplegacy 2:svm 3:extapic 4:altmovcr8 5:abm 6:sse4a 7:misalignsse 8:3dnowprefetch \
         9:osvw 10:ibs 11:xop 12:skinit 13:wdt 15:lwp 16:fma4 19:nodeid 21:tbm 22:topoext 23:perfctr_core \
         24:perfctr_nb",
    ),
    (
        0x8000_0001,
        0,
        EDX,
        "11:syscall 20:nx 22:mmxext 25:ffxsr 26:page1gb 27:rdtscp 29:lm 30:3dnowext 31:3dnow",
    ),
    (0x8000_0007, 0, EDX, "8:invtsc"),
    (
        0x8000_0008,
        0,
        EBX,
        "0:clzero 2:rstr-fp-err-ptrs 9:wbnoinvd 12:ibpb 14:ibrs 15:amd-stibp 16:ibrs-always \
         17:stibp-always 18:ibrs-fast 19:ibrs-same-mode 20:no-lmsl 23:ppin 24:amd-ssbd 25:virt-ssbd \
         26:ssb-no 28:psfd 29:btc-no 30:ibpb-ret",
    ),
    (
        0x8000_000a,
        0,
        EDX,
        "0:svm_npt 1:svm_lbrv 3:svm_nrips 4:svm_tscrate 5:svm_vmcbclean 7:svm_decode 10:svm_pausefilt",
    ),
    (0x8000_0021, 0, EAX, "2:lfence+ 6:nscb"),
];

/// Pieces of a field, low ones first: from which bit on how many.
type Pieces = &'static [(u32, u32)];

/// Fields of several bits: name, leaf, register, and where in that they are.
const FIELDS: &[(&str, u32, usize, Pieces)] = &[
    ("maxleaf", 0, EAX, &[(0, 32)]),
    ("stepping", 1, EAX, &[(0, 4)]),
    // The low bits, and the extended ones.
    ("model", 1, EAX, &[(4, 4), (16, 4)]),
    ("family", 1, EAX, &[(8, 4), (20, 8)]),
    ("brandid", 1, EBX, &[(0, 8)]),
    ("clflush", 1, EBX, &[(8, 8)]),
    ("proccount", 1, EBX, &[(16, 8)]),
    ("localapicid", 1, EBX, &[(24, 8)]),
    ("procpkg", 4, EAX, &[(26, 6)]),
    ("maxhvleaf", 0x4000_0000, EAX, &[(0, 8)]),
    ("nc", 0x8000_0008, ECX, &[(0, 8)]),
    ("apicidsize", 0x8000_0008, ECX, &[(12, 4)]),
];

/// A register of a leaf and subleaf.
type Place = (u32, u32, usize);

/// That the TSC is invariant: a domain is told so when it asks, as it would not be for one that migrates.
const INVTSC: (Place, u32) = ((0x8000_0007, 0, EDX), 8);

/// Bits of a register that are to be other than by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Bits {
    ones: u32,
    zeros: u32,
}

/// What CPUID is to tell otherwise than by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes(BTreeMap<Place, Bits>);

impl Changes {
    /// Reads `host,NAME=VALUE,..`.
    ///
    /// # Errors
    /// A sentence on the first part that is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut changes = Self::default();
        let mut parts = text.split(',').map(str::trim);
        if parts.next() != Some("host") {
            return Err(format!("'{text}': the first word is to be 'host'"));
        }
        for part in parts {
            changes
                .named(part)
                .map_err(|error| format!("'{part}': {error}"))?;
        }
        Ok(changes)
    }

    /// Reads a list of `LEAF[,SUBLEAF]:REGISTER=BITS,..`.
    ///
    /// # Errors
    /// A sentence on the first that is wrong.
    pub fn parse_list(texts: &[&str]) -> Result<Self, String> {
        let mut changes = Self::default();
        for text in texts {
            changes.leaf(text).map_err(|error| format!("'{text}': {error}"))?;
        }
        Ok(changes)
    }

    /// Has the TSC called invariant, unless it was said not to be.
    pub fn allow_invariant_tsc(&mut self) {
        let (place, bit) = INVTSC;
        let bits = self.0.entry(place).or_default();
        bits.ones |= 1 << bit & !bits.zeros;
    }

    /// Is there nothing to change?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The leaves that are to be other than `all` that there are.
    ///
    /// # Errors
    /// A sentence: a domain has no such leaf.
    pub fn of(&self, all: &[CpuidLeaf]) -> Result<Vec<CpuidLeaf>, String> {
        let mut changed: Vec<CpuidLeaf> = Vec::new();
        for (&(leaf, subleaf, register), bits) in &self.0 {
            let is_it = |entry: &CpuidLeaf| {
                entry.leaf == leaf
                    && (entry.subleaf == subleaf || (subleaf, entry.subleaf) == (0, XEN_CPUID_NO_SUBLEAF))
            };
            let found = match changed.iter_mut().position(|entry| is_it(entry)) {
                Some(at) => at,
                None => {
                    let own = all.iter().find(|entry| is_it(entry));
                    let none = || format!("a domain has no CPUID leaf {leaf:#x}, subleaf {subleaf:#x}");
                    changed.push(*own.ok_or_else(none)?);
                    changed.len() - 1
                }
            };
            let entry = &mut changed[found];
            let words = [&mut entry.a, &mut entry.b, &mut entry.c, &mut entry.d];
            for (_, word) in (0..).zip(words).filter(|&(number, _)| number == register) {
                *word = *word & !bits.zeros | bits.ones;
            }
        }
        Ok(changed)
    }

    /// The bits of `mask` are to be those of `value`, or as by default. What was said of them before no longer holds.
    fn put(&mut self, place: Place, mask: u32, value: Option<u32>) {
        let bits = self.0.entry(place).or_default();
        bits.ones = bits.ones & !mask | value.map_or(0, |value| value & mask);
        bits.zeros = bits.zeros & !mask | value.map_or(0, |value| !value & mask);
    }

    fn named(&mut self, part: &str) -> Result<(), String> {
        let (name, value) = part.split_once('=').ok_or("'=' is missing")?;
        let feature = feature(name);
        let number = match value {
            "k" | "s" if feature == Some(INVTSC) => Some(1),
            "x" | "k" | "s" => None,
            _ => Some(number(value).ok_or("0, 1, x, k or s is wanted behind '='")?),
        };
        if let Some((place, bit)) = feature {
            if number.is_some_and(|number| number > 1) {
                return Err("0, 1, x, k or s is wanted behind '='".into());
            }
            self.put(place, 1 << bit, number.map(|number| number << bit));
            return Ok(());
        }
        let field = FIELDS.iter().find(|(of, ..)| *of == name);
        let &(_, leaf, register, pieces) = field.ok_or("no feature has this name")?;
        let most = match name {
            "family" => 15 + 255,
            _ => u32::MAX >> (32 - pieces.iter().map(|(_, bits)| bits).sum::<u32>()),
        };
        if number.is_some_and(|number| number > most) {
            return Err(format!("it is at most {most}"));
        }
        let mut rest = number;
        for &(bit, bits) in pieces {
            let largest = u32::MAX >> (32 - bits);
            let piece = rest.map(|rest| match name {
                // The extended family is added to a family of 15 (SDM 2A, CPUID, leaf 1).
                "family" => rest.min(largest),
                _ => rest & largest,
            });
            self.put(
                (leaf, 0, register),
                largest << bit,
                piece.map(|piece| piece << bit),
            );
            rest = rest.zip(piece).map(|(rest, piece)| match name {
                "family" => rest - piece,
                _ => rest.checked_shr(bits).unwrap_or(0),
            });
        }
        Ok(())
    }

    fn leaf(&mut self, text: &str) -> Result<(), String> {
        let (place, registers) = text.split_once(':').ok_or("':' is missing")?;
        let (leaf, subleaf) = match place.split_once(',') {
            Some((leaf, subleaf)) => (leaf, number(subleaf.trim()).ok_or("the subleaf is no number")?),
            None => (place, 0),
        };
        let leaf = number(leaf.trim()).ok_or("the leaf is no number")?;
        for part in registers.split(',').map(str::trim) {
            let (register, letters) = part.split_once('=').ok_or("'=' is missing")?;
            let register = ["eax", "ebx", "ecx", "edx"]
                .iter()
                .position(|name| *name == register);
            let register = register.ok_or("eax, ebx, ecx or edx is wanted in front of '='")?;
            if letters.len() != 32 {
                return Err("a register has 32 bits".into());
            }
            let place = (leaf, subleaf, register);
            for (bit, letter) in (0..32).rev().zip(letters.bytes()) {
                let value = match letter {
                    b'0' => Some(0),
                    b'1' => Some(1 << bit),
                    b'k' | b's' if (place, bit) == INVTSC => Some(1 << bit),
                    b'x' | b'k' | b's' => None,
                    _ => return Err("a bit is 0, 1, x, k or s".into()),
                };
                self.put(place, 1 << bit, value);
            }
        }
        Ok(())
    }
}

/// A sentence on changes that the hypervisor refuses, and on the leaf and subleaf that it blames.
pub fn refused(error: Errno, blamed: Option<(u32, u32)>) -> String {
    match blamed {
        None => format!("{error}"),
        Some((leaf, XEN_CPUID_NO_SUBLEAF)) => {
            format!("a domain cannot have CPUID leaf {leaf:#x} so: {error}")
        }
        Some((leaf, subleaf)) => {
            format!("a domain cannot have CPUID leaf {leaf:#x}, subleaf {subleaf:#x} so: {error}")
        }
    }
}

/// Where a feature is.
fn feature(name: &str) -> Option<(Place, u32)> {
    FEATURES.iter().find_map(|&(leaf, subleaf, register, names)| {
        let (bit, _) = names
            .split_ascii_whitespace()
            .filter_map(|entry| entry.split_once(':'))
            .find(|(_, of)| *of == name)?;
        Some(((leaf, subleaf, register), bit.parse().ok()?))
    })
}

/// Decimal, or hexadecimal behind `0x`.
fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use proptest::prelude::*;

    use super::*;

    fn entry(leaf: u32, subleaf: u32, [a, b, c, d]: [u32; 4]) -> CpuidLeaf {
        CpuidLeaf {
            leaf,
            subleaf,
            a,
            b,
            c,
            d,
        }
    }

    fn all() -> Vec<CpuidLeaf> {
        vec![
            entry(1, XEN_CPUID_NO_SUBLEAF, [0x00a2_0f12, 0, 0x3000_0000, 0]),
            entry(7, 0, [0, 0x21, 0, 0]),
            entry(7, 1, [0x30, 0, 0, 0]),
        ]
    }

    #[test]
    fn features_and_fields() {
        let of = |text: &str| Changes::parse(text).unwrap().of(&all()).unwrap();
        assert_eq!(of("host"), []);
        assert_eq!(of("host,avx2=0"), [entry(7, 0, [0, 1, 0, 0])]);
        assert_eq!(
            of("host, avx2=0, avx-vnni=0, rdseed=1"),
            [entry(7, 0, [0, 0x4_0001, 0, 0]), entry(7, 1, [0x20, 0, 0, 0]),]
        );
        assert_eq!(
            of("host,avx2=0,avx2=x"),
            [entry(7, 0, [0, 0x21, 0, 0])],
            "the last word counts"
        );
        assert_eq!(of("host,avx2=k"), [entry(7, 0, [0, 0x21, 0, 0])]);
        let signature = |text: &str| of(text)[0].a;
        assert_eq!(signature("host,family=6,model=0x9e,stepping=10"), 0x0009_06ea);
        assert_eq!(signature("host,family=0x19"), 0x00a2_0f12);
        assert_eq!(signature("host,family=15"), 0x0002_0f12);
    }

    #[test]
    fn lists_of_bits() {
        let of = |list: &[&str]| Changes::parse_list(list).unwrap().of(&all()).unwrap();
        let bits = "7,0:ebx=0xxxxxxxxxxxxxxxxxxxxxxxxx0xxxx1,eax=xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx1";
        assert_eq!(of(&[bits]), [entry(7, 0, [1, 1, 0, 0])]);
        assert_eq!(
            of(&["0x1:ecx=00kkssxxxxxxxxxxxxxxxxxxxxxxxxxx"])[0].c,
            0x3000_0000
        );
    }

    #[test]
    fn invariant_tsc_as_the_host_has_it() {
        let all = [entry(0x8000_0007, XEN_CPUID_NO_SUBLEAF, [0; 4])];
        let told = |changes: Changes| changes.of(&all).unwrap().first().map_or(0, |entry| entry.d);
        let named = |text: &str| Changes::parse(text).unwrap();
        assert_eq!(told(named("host,invtsc=k")), 0x100);
        assert_eq!(told(named("host,invtsc=s")), 0x100);
        assert_eq!(told(named("host,invtsc=x")), 0);
        let bits = |letter| format!("0x80000007:edx={:x<23}{letter}{:x<8}", "", "");
        assert_eq!(told(Changes::parse_list(&[&bits('k')]).unwrap()), 0x100);
        assert_eq!(told(Changes::parse_list(&[&bits('x')]).unwrap()), 0);
        let allowed = |text| {
            let mut changes = named(text);
            changes.allow_invariant_tsc();
            told(changes)
        };
        assert_eq!(allowed("host"), 0x100);
        assert_eq!(allowed("host,invtsc=0"), 0, "cpuid= has the last word");
    }

    #[test]
    fn says_what_is_wrong() {
        let error = |text: &str| Changes::parse(text).unwrap_err();
        assert_eq!(error("avx2=0"), "'avx2=0': the first word is to be 'host'");
        assert_eq!(error("host,avx2"), "'avx2': '=' is missing");
        assert_eq!(error("host,avx9=0"), "'avx9=0': no feature has this name");
        assert_eq!(
            error("host,avx2=2"),
            "'avx2=2': 0, 1, x, k or s is wanted behind '='"
        );
        assert_eq!(
            error("host,avx2=y"),
            "'avx2=y': 0, 1, x, k or s is wanted behind '='"
        );
        assert_eq!(error("host,family=271"), "'family=271': it is at most 270");
        assert_eq!(error("host,stepping=16"), "'stepping=16': it is at most 15");
        let error = |text: &str| Changes::parse_list(&[text]).unwrap_err();
        assert_eq!(error("7"), "'7': ':' is missing");
        assert_eq!(error("q:eax=0"), "'q:eax=0': the leaf is no number");
        assert_eq!(error("7,q:eax=0"), "'7,q:eax=0': the subleaf is no number");
        assert_eq!(
            error("7:esi=0"),
            "'7:esi=0': eax, ebx, ecx or edx is wanted in front of '='"
        );
        assert_eq!(error("7:eax=01"), "'7:eax=01': a register has 32 bits");
        let none = Changes::parse("host,svm_npt=0").unwrap().of(&all()).unwrap_err();
        assert_eq!(none, "a domain has no CPUID leaf 0x8000000a, subleaf 0x0");
    }

    #[test]
    fn says_which_leaf_is_refused() {
        let said = |blamed| refused(Errno::EINVAL, blamed);
        assert_eq!(said(None), format!("{}", Errno::EINVAL));
        assert!(said(Some((7, 1))).starts_with("a domain cannot have CPUID leaf 0x7, subleaf 0x1 so: "));
        assert!(
            said(Some((0, XEN_CPUID_NO_SUBLEAF))).starts_with("a domain cannot have CPUID leaf 0x0 so: ")
        );
    }

    #[test]
    fn every_name_is_found_at_its_place() {
        let names: Vec<&str> = FEATURES
            .iter()
            .flat_map(|(.., names)| names.split_ascii_whitespace())
            .map(|entry| entry.split_once(':').unwrap().1)
            .collect();
        assert_eq!(names.len(), 186);
        for name in names {
            assert!(feature(name).is_some_and(|(_, bit)| bit < 32), "{name}");
        }
        assert_eq!(feature("avx2"), Some(((7, 0, EBX), 5)));
        assert_eq!(feature("page1gb"), Some(((0x8000_0001, 0, EDX), 26)));
    }

    proptest! {
        #[test]
        fn never_panics(text in "(host)?[-,:=a-z0-9x]{0,40}") {
            let _ = Changes::parse(&text).map(|changes| changes.of(&all()));
            let _ = Changes::parse_list(&[&text]).map(|changes| changes.of(&all()));
        }
    }
}
