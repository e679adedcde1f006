//! What CPUID tells a guest: computed when its domain is made, from the machine's own leaves and what Oxen lets through.
//!
//! As on Xen, features are on a list or they do not exist; what belongs to the machine (power, performance counters, other hypervisors'
//! leaves, topology) is hidden. A lookup is an index into a table; few leaves depend on the vCPU or its registers and are patched.

use super::speculation::{self, Words};
use super::{Running, time};
use crate::arch::speculation::bits::{extended_8, leaf_7};
use crate::arch::speculation::extended_words;
use crate::arch::{CpuMode, Event, GuestCpu, SysReg, machine};
use crate::types::DomId;

/// EAX, EBX, ECX, EDX.
pub type Leaf = [u32; 4];

/// Leaves 0 to 0xd.
const BASIC: usize = 0xe;
/// Leaves 0x8000_0000 to 0x8000_0021.
const EXTENDED: usize = 0x22;
/// Subleaves kept of leaves 4, 7 and 0xd.
const CACHE_SUBLEAVES: usize = 6;
const FEATURE_SUBLEAVES: usize = 3;
const STATE_SUBLEAVES: usize = 63;
/// Of leaf 0xb, which is all zero but for what each vCPU has for itself.
const TOPOLOGY_SUBLEAVES: usize = 2;
/// Last hypervisor leaf, relative to the first.
const HYPERVISOR_MAX: u32 = 5;

/// The legacy region and the header of an XSAVE area, in bytes (SDM 1, 13.4).
const STATE_BASE: u32 = 576;

const XSAVE: u32 = 1 << 26;
/// Of leaf 1 EDX.
const APIC: u32 = 1 << 9;
const OSXSAVE: u32 = 1 << 27;
const CR4_OSXSAVE: u64 = 1 << 18;
/// Of leaf 7 ECX.
const PKU: u32 = 1 << 3;
const OSPKE: u32 = 1 << 4;
const CR4_PKE: u64 = 1 << 22;
/// Of leaf 0xd.1 EAX.
const XSAVEC: u32 = 1 << 1;

/// Bits of a feature word.
const fn bits(list: &[u32]) -> u32 {
    let mut word = 0;
    let mut i = 0;
    while i < list.len() {
        word |= 1 << list[i];
        i += 1;
    }
    word
}

/// Leaf 1 ECX: SSE3 PCLMULQDQ SSSE3 FMA CX16 PCID SSE4.1 SSE4.2 x2APIC MOVBE POPCNT TSC-DEADLINE AES XSAVE AVX F16C RDRAND.
const LEAF_1_ECX: u32 = bits(&[0, 1, 9, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 28, 29, 30]);
/// What we provide whatever the machine has: x2APIC, TSC deadline, "running under a hypervisor".
const LEAF_1_ECX_ALWAYS: u32 = bits(&[21, 24, 31]);
/// Leaf 1 EDX: FPU to APIC, SEP to PSE36, CLFLUSH, MMX FXSR SSE SSE2.
const LEAF_1_EDX: u32 = bits(&[
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 23, 24, 25, 26,
]);
/// HTT: logical processor count is valid.
const LEAF_1_EDX_ALWAYS: u32 = bits(&[28]);
/// Leaf 7 EBX: FSGSBASE TSC_ADJUST BMI1 AVX2 SMEP BMI2 ERMS INVPCID AVX512F/DQ RDSEED ADX SMAP IFMA CLFLUSHOPT CLWB CD SHA BW VL.
const LEAF_7_EBX: u32 = bits(&[
    0, 1, 3, 5, 7, 8, 9, 10, 16, 17, 18, 19, 20, 21, 23, 24, 28, 29, 30, 31,
]);
/// Leaf 7 ECX: AVX512_VBMI UMIP PKU VBMI2 GFNI VAES VPCLMULQDQ VNNI BITALG VPOPCNTDQ RDPID.
const LEAF_7_ECX: u32 = bits(&[1, 2, 3, 6, 8, 9, 10, 11, 12, 14, 22]);
/// Leaf 7 EDX: FSRM SERIALIZE, and what is about speculation.
const LEAF_7_EDX: u32 = bits(&[4, 14]) | speculation::LEAF_7_EDX;
/// Leaf 7.1 EAX: AVX_VNNI AVX512_BF16 FZRM FSRS FSRCS.
const LEAF_7_1_EAX: u32 = bits(&[4, 5, 10, 11, 12]);
/// Leaf 0xd.1 EAX: XSAVEOPT XSAVEC XGETBV1.
const LEAF_D_1_EAX: u32 = bits(&[0, 1, 2]);
/// Leaf 0x8000_0001 ECX: LAHF CR8 ABM SSE4A MISALIGNSSE 3DNOWPREFETCH XOP FMA4 TBM. (DBEXT has registers, which are not switched.)
const LEAF_E1_ECX: u32 = bits(&[0, 4, 5, 6, 7, 8, 11, 16, 21]);
/// Leaf 0x8000_0007 EDX: ITSC, for those whom a toolstack gives it, and dom0: it does not migrate.
const ITSC: u32 = 1 << 8;
/// Leaf 0x8000_0001 EDX: SYSCALL NX MMXEXT PAGE1GB RDTSCP LM, and on AMD the copy of leaf 1.
const LEAF_E1_EDX: u32 = bits(&[11, 20, 22, 26, 27, 29]);
const LEAF_E1_EDX_COPY: u32 = bits(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14, 15, 16, 17, 23, 24]);
/// Leaf 0x8000_0008 EBX: CLZERO RSTR_FP_ERR_PTRS, and what is about speculation.
const LEAF_E8_EBX: u32 = bits(&[0, 2]) | speculation::EXTENDED_8_EBX;
/// Leaf 0x8000_0021 EAX: LFENCE always serializes, null selectors clear bases; and what is about speculation.
const LEAF_E21_EAX: u32 = bits(&[2, 6]) | speculation::EXTENDED_21_EAX;

/// What needs the upper halves of the YMM registers: FMA, AVX and F16C of leaf 1; AVX2 of leaf 7 EBX; VAES and VPCLMULQDQ of ECX; AVX_VNNI of
/// leaf 7.1; XOP and FMA4 of leaf 0x8000_0001.
const AVX_LEAF_1_ECX: u32 = bits(&[12, 28, 29]);
const AVX_LEAF_7_EBX: u32 = bits(&[5]);
const AVX_LEAF_7_ECX: u32 = bits(&[9, 10]);
const AVX_LEAF_7_1_EAX: u32 = bits(&[4]);
const AVX_LEAF_E1_ECX: u32 = bits(&[11, 16]);
/// AVX-512 of leaf 7 EBX and ECX, and BF16 of leaf 7.1.
const AVX512_LEAF_7_EBX: u32 = bits(&[16, 17, 21, 28, 30, 31]);
const AVX512_LEAF_7_ECX: u32 = bits(&[1, 6, 11, 12, 14]);
const AVX512_LEAF_7_1_EAX: u32 = bits(&[5]);
/// State components (SDM 1, 13.1).
const STATE_SSE: u64 = 0b11;
const STATE_AVX: u64 = 1 << 2;
const STATE_AVX512: u64 = 0b111 << 5;
const STATE_PKRU: u64 = 1 << 9;

/// What CPUID tells the vCPUs of a domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    basic: [Leaf; BASIC],
    extended: [Leaf; EXTENDED],
    cache: [Leaf; CACHE_SUBLEAVES],
    features: [Leaf; FEATURE_SUBLEAVES],
    state: [Leaf; STATE_SUBLEAVES],
    hypervisor_max: u32,
    /// Of [`ITSC`], what a toolstack may give.
    itsc: u32,
}

/// Where a policy gets the machine's leaves from.
pub type Host<'a> = &'a dyn Fn(u32, u32) -> Leaf;

/// The machine that this runs on. A TSC that is not trusted is not invariant, whatever the CPU says.
pub fn host(leaf: u32, subleaf: u32) -> Leaf {
    let found = raw_cpuid::native_cpuid::cpuid_count(leaf, subleaf);
    let mut found = [found.eax, found.ebx, found.ecx, found.edx];
    match leaf {
        0x8000_0007 if !crate::hw::time::trusts_tsc() => found[3] &= !ITSC,
        // Older CPUs do not say all that is true of them.
        0x8000_0008 => found[1] |= extended_words()[0],
        0x8000_0021 => found[0] |= extended_words()[1],
        _ => {}
    }
    found
}

impl Policy {
    /// What a guest with `vcpus` vCPUs gets on `host`, where `xcr0` is the extended state that vCPUs can have, and guest-physical addresses have
    /// `address_bits`.
    pub fn new(host: Host<'_>, vcpus: u32, xcr0: u64, address_bits: u32) -> Policy {
        let amd = machine::is_amd_vendor(host(0, 0)[2]);
        let mut policy = Policy {
            basic: [[0; 4]; BASIC],
            extended: [[0; 4]; EXTENDED],
            cache: [[0; 4]; CACHE_SUBLEAVES],
            features: [[0; 4]; FEATURE_SUBLEAVES],
            state: [[0; 4]; STATE_SUBLEAVES],
            hypervisor_max: HYPERVISOR_MAX,
            itsc: 0,
        };
        policy.fill_basic(host);
        policy.fill_extended(host, amd, address_bits);
        policy.fill_topology(amd, vcpus);
        policy.fill_state(host, xcr0);
        policy.make_consistent();
        policy
    }

    fn fill_basic(&mut self, host: Host<'_>) {
        let max = host(0, 0)[0].min(BASIC as u32 - 1);
        self.basic[0] = host(0, 0);
        self.basic[0][0] = max;
        let [eax, ebx, ecx, edx] = host(1, 0);
        self.basic[1] = [
            eax,
            ebx & 0xffff,
            ecx & LEAF_1_ECX | LEAF_1_ECX_ALWAYS,
            edx & LEAF_1_EDX | LEAF_1_EDX_ALWAYS,
        ];
        self.basic[2] = if max >= 2 { host(2, 0) } else { [0; 4] };
        if max >= 4 {
            for (subleaf, leaf) in (0..).zip(&mut self.cache) {
                *leaf = host(4, subleaf);
                // No cache is shared.
                leaf[0] &= 0x3fff;
            }
        }
        if max >= 7 {
            let [subleaves, ebx, ecx, edx] = host(7, 0);
            self.features[0] = [
                subleaves.min(FEATURE_SUBLEAVES as u32 - 1),
                ebx & LEAF_7_EBX,
                ecx & LEAF_7_ECX,
                edx & LEAF_7_EDX,
            ];
            if subleaves >= 1 {
                self.features[1][0] = host(7, 1)[0] & LEAF_7_1_EAX;
            }
            if subleaves >= 2 {
                self.features[2][3] = host(7, 2)[3] & speculation::LEAF_7_2_EDX;
            }
        }
    }

    /// As Xen's toolstack has it: one package with a core for every vCPU. APIC ids are even, so each core has room for two threads.
    fn fill_topology(&mut self, amd: bool, vcpus: u32) {
        const MAX_CORES_FIELD: u32 = 0x3f;
        let logical = vcpus.clamp(1, 128).next_power_of_two() * 2;
        self.basic[1][1] |= logical.min(0xff) << 16;
        if amd {
            // ApicIdCoreIdSize and NC (APM vol. 3, appendix E.4.7).
            self.extended[8][2] = logical.ilog2() << 12 | (logical - 1).min(0xff);
        } else {
            for leaf in self.cache.iter_mut().filter(|leaf| leaf[0] & 0x1f != 0) {
                leaf[0] |= (logical / 2 - 1).min(MAX_CORES_FIELD) << 26;
            }
        }
    }

    /// Leaf 0xd: the state components of `xcr0`, at the machine's offsets.
    fn fill_state(&mut self, host: Host<'_>, xcr0: u64) {
        let xcr0 = xcr0 & (STATE_SSE | STATE_AVX | STATE_AVX512 | STATE_PKRU);
        if self.basic[0][0] < 0xd || xcr0 & STATE_SSE != STATE_SSE {
            self.basic[1][2] &= !XSAVE;
            return;
        }
        self.state[0] = [xcr0 as u32, 0, 0, (xcr0 >> 32) as u32];
        self.state[1][0] = host(0xd, 1)[0] & LEAF_D_1_EAX;
        for component in 2..STATE_SUBLEAVES as u32 {
            if xcr0 >> component & 1 != 0 {
                self.state[component as usize] = host(0xd, component);
            }
        }
    }

    /// Take away what needs something that is not there: state components without their features, features without their state.
    fn make_consistent(&mut self) {
        let words = self.speculation().consistent();
        self.features[0][3] = words.leaf_7_edx;
        self.features[2][3] = words.leaf_7_2_edx;
        self.extended[8][1] = words.extended_8_ebx;
        let mut xcr0 = if self.has_xsave() { self.xcr0() } else { 0 };
        if self.basic[1][2] & 1 << 28 == 0 {
            xcr0 &= STATE_SSE | STATE_PKRU;
        }
        if xcr0 & STATE_AVX512 != STATE_AVX512 || self.features[0][1] & 1 << 16 == 0 {
            xcr0 &= !STATE_AVX512;
        }
        if self.features[0][2] & PKU == 0 {
            xcr0 &= !STATE_PKRU;
        }
        if xcr0 & STATE_PKRU == 0 {
            self.features[0][2] &= !PKU;
        }
        if xcr0 & STATE_AVX == 0 {
            self.basic[1][2] &= !AVX_LEAF_1_ECX;
            self.features[0][1] &= !AVX_LEAF_7_EBX;
            self.features[0][2] &= !AVX_LEAF_7_ECX;
            self.features[1][0] &= !AVX_LEAF_7_1_EAX;
            self.extended[1][2] &= !AVX_LEAF_E1_ECX;
        }
        if xcr0 & STATE_AVX512 == 0 {
            self.features[0][1] &= !AVX512_LEAF_7_EBX;
            self.features[0][2] &= !AVX512_LEAF_7_ECX;
            self.features[1][0] &= !AVX512_LEAF_7_1_EAX;
        }
        if xcr0 == 0 {
            self.state = [[0; 4]; STATE_SUBLEAVES];
            return;
        }
        for (component, leaf) in (2..).zip(&mut self.state[2..]) {
            if xcr0 >> component & 1 == 0 {
                *leaf = [0; 4];
            }
        }
        // EBX follows XCR0 and is filled in on each CPUID.
        self.state[0] = [xcr0 as u32, 0, self.state_size(xcr0), (xcr0 >> 32) as u32];
    }

    /// The state components of `xcr0` that have leaves of their own.
    fn components(&self, xcr0: u64) -> impl Iterator<Item = Leaf> {
        (2..)
            .zip(&self.state[2..])
            .filter(move |(component, _)| xcr0 >> component & 1 != 0)
            .map(|(_, leaf)| *leaf)
    }

    /// Bytes of an XSAVE area in the standard format with the components of `xcr0`.
    fn state_size(&self, xcr0: u64) -> u32 {
        self.components(xcr0)
            .map(|[size, offset, ..]| size.saturating_add(offset))
            .fold(STATE_BASE, u32::max)
    }

    /// The same in the compacted format: one component after the other, some at multiples of 64 (SDM 1, 13.4.3).
    fn compacted_size(&self, xcr0: u64) -> u32 {
        const ALIGNED: u32 = 1 << 1;
        self.components(xcr0).fold(STATE_BASE, |at, [size, _, flags, _]| {
            let at = if flags & ALIGNED != 0 {
                at.saturating_add(63) & !63
            } else {
                at
            };
            at.saturating_add(size)
        })
    }

    fn fill_extended(&mut self, host: Host<'_>, amd: bool, address_bits: u32) {
        let limit = if amd { 0x8000_0021 } else { 0x8000_0008 };
        let max = host(0x8000_0000, 0)[0].min(limit);
        let [_, ebx, ecx, edx] = host(0x8000_0000, 0);
        self.extended[0] = [max, ebx, ecx, edx];
        let [eax, ebx, ecx, edx] = host(0x8000_0001, 0);
        let copy = if amd { LEAF_E1_EDX_COPY } else { 0 };
        self.extended[1] = [eax, ebx, ecx & LEAF_E1_ECX, edx & (LEAF_E1_EDX | copy)];
        for brand_and_cache in 2..=6u32 {
            self.extended[brand_and_cache as usize] = host(0x8000_0000 + brand_and_cache, 0);
        }
        if max >= 0x8000_0007 {
            self.itsc = host(0x8000_0007, 0)[3] & ITSC;
        }
        let [eax, ebx, ..] = host(0x8000_0008, 0);
        let physical = (eax & 0xff).min(address_bits);
        self.extended[8] = [eax & 0xff00 | physical, ebx & LEAF_E8_EBX, 0, 0];
        if self.features[0][3] & leaf_7::IBRSB != 0 {
            // By AMD's bit, so that a toolstack can offer IBPB alone.
            self.extended[8][1] |= extended_8::IBPB;
        }
        if amd {
            let [eax, _, ecx, _] = host(0x8000_0021, 0);
            self.extended[0x21] = [eax & LEAF_E21_EAX, 0, ecx & speculation::EXTENDED_21_ECX, 0];
            self.extended[0x19] = host(0x8000_0019, 0);
            self.extended[0x1a] = host(0x8000_001a, 0);
        }
    }

    /// Show all that a toolstack could give.
    pub fn with_all(mut self) -> Policy {
        self.extended[7][3] = self.itsc;
        self
    }

    /// Does leaf 1 ECX show XSAVE?
    pub fn has_xsave(&self) -> bool {
        self.basic[1][2] & XSAVE != 0
    }

    /// The bits of CR4 that exist by what leaves 1 and 7 show (SDM 3A, 2.5).
    pub fn cr4_features(&self) -> u64 {
        let [_, ebx7, ecx7, _] = self.features[0];
        // Register, its bit, and CR4's: PCIDE, OSXSAVE; FSGSBASE, SMEP, SMAP; UMIP, PKE.
        [
            (self.basic[1][2], 17, 17),
            (self.basic[1][2], 26, 18),
            (ebx7, 0, 16),
            (ebx7, 7, 20),
            (ebx7, 20, 21),
            (ecx7, 2, 11),
            (ecx7, 3, 22),
        ]
        .into_iter()
        .map(|(register, bit, of_cr4)| u64::from(register >> bit & 1) << of_cr4)
        .sum()
    }

    /// The words that tell of defences against speculation.
    pub fn speculation(&self) -> Words {
        Words {
            leaf_7_edx: self.features[0][3],
            leaf_7_2_edx: self.features[2][3],
            extended_8_ebx: self.extended[8][1],
        }
    }

    /// State components that XCR0 may enable.
    pub fn xcr0(&self) -> u64 {
        u64::from(self.state[0][0]) | u64::from(self.state[0][3]) << 32
    }

    /// Width of a guest-physical address.
    pub fn address_bits(&self) -> u32 {
        self.extended[8][0] & 0xff
    }

    /// The leaf before anything that depends on the vCPU.
    fn lookup(&self, leaf: u32, subleaf: u32) -> Leaf {
        let found = match leaf {
            4 => self.cache.get(subleaf as usize),
            7 => self.features.get(subleaf as usize),
            0xd => self.state.get(subleaf as usize),
            0x8000_0000.. => self
                .extended
                .get((leaf - 0x8000_0000) as usize)
                .filter(|_| leaf <= self.extended[0][0]),
            _ => self.basic.get(leaf as usize).filter(|_| leaf <= self.basic[0][0]),
        };
        found.copied().unwrap_or_default()
    }

    /// A leaf before anything that depends on the vCPU.
    pub fn leaf(&self, leaf: u32, subleaf: u32) -> Leaf {
        self.lookup(leaf, subleaf)
    }

    /// All leaves for XEN_DOMCTL_get_cpu_policy: leaf, subleaf (`u32::MAX`: none), registers.
    pub fn leaves(&self) -> impl Iterator<Item = (u32, u32, Leaf)> {
        const NO_SUBLEAF: u32 = abi::domctl::XEN_CPUID_NO_SUBLEAF;
        let plain = (0..BASIC as u32)
            .filter(|leaf| !matches!(leaf, 4 | 7 | 0xb | 0xd))
            .map(|leaf| (leaf, NO_SUBLEAF));
        let nested = [
            (4, CACHE_SUBLEAVES),
            (7, FEATURE_SUBLEAVES),
            (0xb, TOPOLOGY_SUBLEAVES),
            (0xd, STATE_SUBLEAVES),
        ]
        .into_iter()
        .flat_map(|(leaf, count)| (0..count as u32).map(move |subleaf| (leaf, subleaf)));
        let hypervisor = [(0x4000_0000, NO_SUBLEAF)].into_iter();
        let extended = (0..EXTENDED as u32).map(|leaf| (0x8000_0000 + leaf, NO_SUBLEAF));
        plain
            .chain(nested)
            .chain(hypervisor)
            .chain(extended)
            .map(|(leaf, subleaf)| {
                let value = if leaf == 0x4000_0000 {
                    [leaf + self.hypervisor_max, 0, 0, 0]
                } else {
                    self.lookup(leaf, subleaf)
                };
                (leaf, subleaf, value)
            })
    }

    /// Take over one leaf from a toolstack. Features can only be taken away, but for an invariant TSC: as on Xen, those that guests cannot have are dropped in silence.
    ///
    /// # Errors
    /// There is no such leaf, and it is not zero; or it says that there are more leaves than there are.
    pub fn set_leaf(&mut self, leaf: u32, subleaf: u32, value: Leaf) -> Result<(), NotAllowed> {
        if leaf == 0x4000_0000 {
            self.hypervisor_max = (value[0] & 0xff).clamp(2, HYPERVISOR_MAX);
            return Ok(());
        }
        let is_feature_word = |word: usize| {
            matches!(
                (leaf, subleaf, word),
                (1, _, 2 | 3)
                    | (7, 0, 1..=3)
                    | (7, 1, 0)
                    | (7, 2, 3)
                    | (0xd, 0, 0 | 3)
                    | (0xd, 1, 0)
                    | (0x8000_0001, _, 2 | 3)
                    | (0x8000_0007, _, 3)
                    | (0x8000_0008, _, 1)
                    | (0x8000_0021, _, 0)
            )
        };
        let mut own = self.lookup(leaf, subleaf);
        if leaf == 0x8000_0007 {
            own[3] = self.itsc;
        }
        let last_leaf = matches!((leaf, subleaf), (0 | 0x8000_0000, _) | (7, 0));
        if last_leaf && value[0] > own[0] {
            return Err(NotAllowed);
        }
        let mut value = value;
        for (word, own) in own.into_iter().enumerate() {
            if is_feature_word(word) {
                value[word] &= own;
            }
        }
        let slot = match leaf {
            4 => self.cache.get_mut(subleaf as usize),
            7 => self.features.get_mut(subleaf as usize),
            // Sizes and offsets are the machine's; and who is who is for each vCPU.
            0xd if (2..STATE_SUBLEAVES as u32).contains(&subleaf) => return Ok(()),
            0xb if subleaf < TOPOLOGY_SUBLEAVES as u32 => return Ok(()),
            0xd => self.state.get_mut(subleaf as usize),
            0x8000_0000.. => self.extended.get_mut((leaf - 0x8000_0000) as usize),
            _ => self.basic.get_mut(leaf as usize),
        };
        match slot {
            Some(slot) => *slot = value,
            None if value == [0; 4] => {}
            None => return Err(NotAllowed),
        }
        self.make_consistent();
        Ok(())
    }
}

/// A leaf was given that there cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotAllowed;

/// CPUID.
///
/// # Errors
/// #GP: the kernel has asked for that in user mode (CPUID faulting).
pub fn execute(running: &mut Running<'_, dyn GuestCpu>) -> Result<(), Event> {
    if running.msrs.cpuid_faults() && running.cpu.cpl() > 0 {
        return Err(Event::GP0);
    }
    let regs = running.cpu.gprs();
    let (leaf, subleaf) = (regs.rax as u32, regs.rcx as u32);
    let [eax, ebx, ecx, edx] = match leaf {
        0x4000_0000..0x4000_0100 => hypervisor(running, leaf, subleaf),
        _ => patched(running, leaf, subleaf),
    };
    let regs = running.cpu.gprs();
    (regs.rax, regs.rbx, regs.rcx, regs.rdx) = (eax.into(), ebx.into(), ecx.into(), edx.into());
    Ok(())
}

/// A leaf of the CPU, with what depends on this vCPU filled in.
fn patched(running: &Running<'_, dyn GuestCpu>, leaf: u32, subleaf: u32) -> Leaf {
    let mut value = running.policy.lookup(leaf, subleaf);
    let apic_id = pvh::acpi::apic_id(running.vcpu.id.0);
    match leaf {
        1 => {
            value[1] = value[1] & 0x00ff_ffff | apic_id << 24;
            // SDM 3A, 11.4.3.
            if !running.lapic.exists() {
                value[3] &= !APIC;
            }
            value[2] &= !OSXSAVE;
            if running.cpu.read(SysReg::Cr4) & CR4_OSXSAVE != 0 {
                value[2] |= OSXSAVE;
            }
        }
        7 if subleaf == 0 && running.cpu.read(SysReg::Cr4) & CR4_PKE != 0 => value[2] |= OSPKE,
        0xb => {
            value[2] = subleaf & 0xff;
            value[3] = apic_id;
        }
        0xd if subleaf == 0 => value[1] = running.policy.state_size(running.cpu.read(SysReg::Xcr0)),
        0xd if subleaf == 1 && value[0] & XSAVEC != 0 => {
            value[1] = running.policy.compacted_size(running.cpu.read(SysReg::Xcr0));
        }
        // Only 64-bit code sees SYSCALL on Intel's CPUs.
        0x8000_0001
            if running.cpu.mode() != CpuMode::Long
                && running.policy.basic[0][1] == u32::from_le_bytes(*b"Genu") =>
        {
            value[3] &= !(1 << 11);
        }
        _ => {}
    }
    value
}

/// Xen's leaves (xen/include/public/arch-x86/cpuid.h).
fn hypervisor(running: &Running<'_, dyn GuestCpu>, leaf: u32, subleaf: u32) -> Leaf {
    const BASE: u32 = abi::cpuid::XEN_CPUID_FIRST_LEAF;
    let max = running.policy.hypervisor_max;
    match leaf - BASE {
        beyond if beyond > max => [0; 4],
        0 => [
            BASE + max,
            abi::cpuid::XEN_CPUID_SIGNATURE_EBX,
            abi::cpuid::XEN_CPUID_SIGNATURE_ECX,
            abi::cpuid::XEN_CPUID_SIGNATURE_EDX,
        ],
        1 => [crate::hypercall::version::VERSION, 0, 0, 0],
        2 => [1, super::msr::HYPERCALL_PAGE, 0, 0],
        3 => time::cpuid(running, subleaf),
        4 => vcpu_leaf(running.vcpu.id.0, running.vcpu.domid),
        _ => [0; 4],
    }
}

fn vcpu_leaf(vcpu: u32, domain: DomId) -> Leaf {
    const APIC_ACCESS_VIRT: u32 = 1 << 0;
    const X2APIC_VIRT: u32 = 1 << 1;
    const IOMMU_MAPPINGS: u32 = 1 << 2;
    const VCPU_ID_PRESENT: u32 = 1 << 3;
    const DOMID_PRESENT: u32 = 1 << 4;
    const UPCALL_VECTOR: u32 = 1 << 6;
    let apic = if machine::virtualizes_apic() {
        APIC_ACCESS_VIRT | X2APIC_VIRT
    } else {
        0
    };
    [
        apic | IOMMU_MAPPINGS | VCPU_ID_PRESENT | DOMID_PRESENT | UPCALL_VECTOR,
        vcpu,
        domain.0.into(),
        0,
    ]
}

#[cfg(test)]
#[path = "cpuid_tests.rs"]
mod tests;
