//! What guests are told, for hosts with much and with little.

use super::*;

fn everything(leaf: u32, _: u32) -> Leaf {
    match leaf {
        0 => [0x20, 0x756e_6547, 0x6c65_746e, 0x4965_6e69],
        0x8000_0000 => [0x8000_0028, 0, 0, 0],
        0xd => [256, 576, 0, 0],
        _ => [u32::MAX; 4],
    }
}

#[test]
fn what_is_not_listed_does_not_exist() {
    let policy = Policy::new(&everything, 4, 7, 40);
    let leaf1 = policy.lookup(1, 0);
    // VMX, MONITOR, SMX, PDCM, OSXSAVE (dynamic) are off; the hypervisor bit and x2APIC are on.
    assert_eq!(leaf1[2] & bits(&[3, 5, 6, 15, 27]), 0);
    assert_eq!(leaf1[2] & bits(&[21, 31]), bits(&[21, 31]));
    assert_eq!(policy.lookup(0x8000_0001, 0)[2] & 1 << 2, 0, "SVM");
    assert_eq!(policy.lookup(0x8000_0001, 0)[2] & 1 << 26, 0, "DBEXT");
    assert_eq!(policy.lookup(0xa, 0), [0; 4], "performance counters");
    assert_eq!(policy.lookup(0, 0)[0], 0xd);
    assert_eq!(policy.lookup(0x20, 0), [0; 4]);
    assert_eq!(policy.address_bits(), 40);
    // No AVX-512 without its state.
    assert_eq!(policy.lookup(7, 0)[1] & 1 << 16, 0);
}

#[test]
fn state_is_what_xcr0_allows() {
    let policy = Policy::new(&everything, 1, 7, 40);
    assert_eq!(policy.xcr0(), 7);
    assert_eq!(policy.lookup(0xd, 0), [7, 0, 832, 0]);
    assert_eq!((policy.state_size(3), policy.state_size(7)), (576, 832));
    assert_eq!(policy.lookup(0xd, 2)[..2], [256, 576]);
    assert_eq!(policy.lookup(0xd, 5), [0; 4]);
    let without = Policy::new(&everything, 1, 0, 40);
    assert!(!without.has_xsave() && without.xcr0() == 0);
}

#[test]
fn an_invariant_tsc_is_for_who_asks() {
    let mut policy = Policy::new(&everything, 1, 7, 40);
    assert_eq!(policy.lookup(0x8000_0007, 0), [0; 4]);
    assert_eq!(policy.set_leaf(0x8000_0007, 0, [0, 0, 0, u32::MAX]), Ok(()));
    assert_eq!(policy.lookup(0x8000_0007, 0), [0, 0, 0, ITSC]);
    assert_eq!(policy.set_leaf(0x8000_0007, 0, [0; 4]), Ok(()));
    assert_eq!(policy.lookup(0x8000_0007, 0), [0; 4]);
    assert_eq!(policy.with_all().lookup(0x8000_0007, 0), [0, 0, 0, ITSC]);
    let variant = |leaf, subleaf| {
        if leaf == 0x8000_0007 {
            [0; 4]
        } else {
            everything(leaf, subleaf)
        }
    };
    let mut policy = Policy::new(&variant, 1, 7, 40).with_all();
    assert_eq!(policy.set_leaf(0x8000_0007, 0, [0, 0, 0, ITSC]), Ok(()));
    assert_eq!(policy.lookup(0x8000_0007, 0), [0; 4]);
}

#[test]
fn a_toolstack_may_only_take_away() {
    let mut policy = Policy::new(&everything, 1, 7, 40);
    for (leaf, subleaf, value) in policy.clone().leaves() {
        assert_eq!(
            policy.set_leaf(leaf, subleaf, value),
            Ok(()),
            "{leaf:#x}.{subleaf:#x}"
        );
    }
    let mut leaf1 = policy.lookup(1, 0);
    leaf1[2] &= !1;
    assert_eq!(policy.set_leaf(1, u32::MAX, leaf1), Ok(()));
    assert_eq!(policy.lookup(1, 0)[2] & 1, 0);
    leaf1[2] |= 1 << 5;
    assert_eq!(policy.set_leaf(1, u32::MAX, leaf1), Ok(()));
    assert_eq!(policy.lookup(1, 0)[2] & 1 << 5, 0, "VMX");
    assert_eq!(policy.set_leaf(0x7fff_0000, 0, [1, 0, 0, 0]), Err(NotAllowed));
    assert_eq!(policy.set_leaf(0, u32::MAX, [0xe, 0, 0, 0]), Err(NotAllowed));
}

#[test]
fn without_avx_there_is_nothing_that_needs_it() {
    let mut policy = Policy::new(&everything, 1, 0xe7, 40);
    assert_eq!(policy.xcr0(), 0xe7);
    assert_ne!(policy.lookup(7, 0)[1] & AVX512_LEAF_7_EBX, 0);
    let mut leaf1 = policy.lookup(1, 0);
    leaf1[2] &= !(1 << 28);
    assert_eq!(policy.set_leaf(1, u32::MAX, leaf1), Ok(()));
    assert_eq!(policy.xcr0(), 3);
    assert_eq!(policy.lookup(7, 0)[1] & (AVX_LEAF_7_EBX | AVX512_LEAF_7_EBX), 0);
    assert_eq!(policy.lookup(1, 0)[2] & AVX_LEAF_1_ECX, 0);
}

#[test]
fn keys_need_their_register() {
    let mut policy = Policy::new(&everything, 1, 0x2e7, 40);
    let pke = |policy: &Policy| policy.cr4_features() >> 22 & 1;
    assert_eq!(pke(&policy), 1);
    assert_eq!(policy.xcr0(), 0x2e7);
    assert_eq!(policy.lookup(7, 0)[2] & OSPKE, 0, "as CR4 says");
    assert_eq!(pke(&Policy::new(&everything, 1, 0xe7, 40)), 0);
    let mut leaf7 = policy.lookup(7, 0);
    leaf7[2] &= !PKU;
    assert_eq!(policy.set_leaf(7, 0, leaf7), Ok(()));
    assert_eq!(policy.xcr0(), 0xe7);
}

/// As [`everything`], by another vendor.
fn everything_of_amd(leaf: u32, subleaf: u32) -> Leaf {
    match leaf {
        0 => [0x20, 0x6874_7541, 0x444d_4163, 0x6974_6e65],
        // Leaf 7 has none of Intel's bits.
        7 if subleaf == 0 => [2, u32::MAX, u32::MAX, 0],
        _ => everything(leaf, subleaf),
    }
}

#[test]
fn defences_against_speculation() {
    let intel = Policy::new(&everything, 1, 7, 40);
    assert_eq!(intel.lookup(7, 0)[0], 2);
    assert_eq!(intel.lookup(7, 0)[3], bits(&[4, 10, 14, 26, 27, 28, 29, 31]));
    assert_eq!(intel.lookup(7, 2), [0, 0, 0, bits(&[0, 1, 2, 4, 5])]);
    assert_eq!(intel.speculation().spec_ctrl(), Some(0x4ff));

    let mut amd = Policy::new(&everything_of_amd, 1, 7, 40);
    assert_eq!(amd.lookup(7, 0)[3], 0);
    let own = bits(&[12, 14, 15, 16, 17, 18, 19, 24, 26, 28, 29, 30]);
    assert_eq!(amd.lookup(0x8000_0008, 0)[1], bits(&[0, 2]) | own);
    let eax = bits(&[2, 5, 6, 27, 28, 29, 30]);
    assert_eq!(amd.lookup(0x8000_0021, 0), [eax, 0, bits(&[1, 2]), 0]);
    assert_eq!(amd.speculation().capabilities(u64::MAX), None);
    // A toolstack that takes IBRS takes all of the register.
    let mut leaf = amd.lookup(0x8000_0008, 0);
    leaf[1] &= !(1 << 14);
    assert_eq!(amd.set_leaf(0x8000_0008, u32::MAX, leaf), Ok(()));
    assert_eq!(amd.lookup(0x8000_0008, 0)[1], bits(&[0, 2, 12, 26, 29, 30]));
    assert_eq!(amd.speculation().spec_ctrl(), None);
}

#[test]
fn ibpb_alone_is_amd_s_bit() {
    let mut policy = Policy::new(&everything, 1, 7, 40);
    let mut leaf = policy.lookup(7, 0);
    leaf[3] &= !(1 << 26);
    assert_eq!(policy.set_leaf(7, 0, leaf), Ok(()));
    assert_eq!(policy.lookup(7, 0)[3], bits(&[4, 10, 14, 28, 29]));
    assert_ne!(policy.lookup(0x8000_0008, 0)[1] & 1 << 12, 0);
}

#[test]
fn cr4_has_what_cpuid_shows() {
    let mut policy = Policy::new(&everything, 1, 0x2e7, 40);
    // UMIP, FSGSBASE, PCIDE, OSXSAVE, SMEP, SMAP, PKE
    assert_eq!(policy.cr4_features(), 0x0077_0800);
    let [leaf1, leaf7] = [1, 7].map(|leaf| policy.lookup(leaf, 0));
    for (leaf, register, bit, left) in [
        (1, 2, 17, 0x0075_0800),
        (7, 1, 0, 0x0076_0800),
        (7, 1, 7, 0x0067_0800),
        (7, 1, 20, 0x0057_0800),
        (7, 2, 2, 0x0077_0000),
        (7, 2, 3, 0x0037_0800),
    ] {
        let (subleaf, mut less) = if leaf == 1 { (u32::MAX, leaf1) } else { (0, leaf7) };
        less[register] &= !(1 << bit);
        assert_eq!(policy.set_leaf(leaf, subleaf, less), Ok(()));
        assert_eq!(policy.cr4_features(), left);
        policy = Policy::new(&everything, 1, 0x2e7, 40);
    }
}

#[test]
fn compacted_areas_have_no_holes() {
    let mut policy = Policy::new(&everything, 1, 0xe7, 40);
    policy.state[2] = [256, 576, 0, 0];
    policy.state[5] = [40, 1088, 0, 0];
    policy.state[6] = [512, 1152, 2, 0];
    policy.state[7] = [1024, 1664, 0, 0];
    assert_eq!(policy.compacted_size(3), 576);
    assert_eq!(policy.compacted_size(7), 832);
    // 832 + 40 = 872, up to 896.
    assert_eq!(policy.compacted_size(0xe7), 896 + 512 + 1024);
    assert_eq!(policy.state_size(0xe7), 1664 + 1024);
}

#[test]
fn every_vcpu_is_a_core() {
    // The way of Linux: threads of a core = logical processors / cores.
    for vcpus in [1, 3, 4, 64] {
        let policy = Policy::new(&everything, vcpus, 7, 40);
        let logical = policy.lookup(1, 0)[1] >> 16 & 0xff;
        let cores = (policy.lookup(4, 0)[0] >> 26) + 1;
        assert!(
            logical >= vcpus * 2 && logical / cores == 2,
            "{vcpus} {logical} {cores}"
        );
    }
}
