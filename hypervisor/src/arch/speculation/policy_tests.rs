use std::format;

use super::*;

/// Of Intel's, since 2018: what all have with current microcode.
const SINCE_2018: u32 = leaf_7::IBRSB | leaf_7::STIBP | leaf_7::SSBD | leaf_7::L1D_FLUSH | leaf_7::MD_CLEAR;
/// Of AMD's since Zen 2.
const SINCE_ZEN_2: u32 = extended_8::IBPB | extended_8::IBRS | extended_8::STIBP | extended_8::SSBD;

fn intel(model: u32, leaf_7_edx: u32, capabilities: u64) -> Cpu {
    Cpu {
        maker: Maker::Intel { family: 6, model },
        is_virtual: false,
        has_threads: false,
        leaf_7_edx,
        leaf_7_2_edx: 0,
        rtm: false,
        extended_8_ebx: 0,
        extended_21_eax: 0,
        extended_21_ecx: 0,
        capabilities,
    }
}

fn amd_as_it_says(family: u32, extended_8_ebx: u32, extended_21_eax: u32) -> Cpu {
    Cpu {
        maker: Maker::Amd { family },
        has_threads: true,
        extended_8_ebx,
        extended_21_eax,
        ..intel(0, 0, 0)
    }
}

/// With the microcode of today.
fn amd(family: u32, extended_8_ebx: u32, extended_21_eax: u32) -> Cpu {
    amd_as_it_says(family, extended_8_ebx, extended_21_eax).completed(|| true)
}

fn skylake() -> Cpu {
    intel(0x5e, SINCE_2018, 0)
}

fn cascade_lake() -> Cpu {
    use capability::*;
    let caps = RDCL_NO | IBRS_ALL | SKIP_L1DFL_VMENTRY | MDS_NO;
    Cpu {
        rtm: true,
        ..intel(0x55, SINCE_2018, caps)
    }
}

fn ice_lake() -> Cpu {
    use capability::*;
    let caps = RDCL_NO | IBRS_ALL | SKIP_L1DFL_VMENTRY | MDS_NO | TAA_NO;
    intel(0x6a, SINCE_2018, caps)
}

/// `model`: Alder Lake's or Sapphire Rapids'.
fn with_bhi_control(model: u32, caps: u64) -> Cpu {
    Cpu {
        leaf_7_2_edx: leaf_7_2::BHI_CTRL | leaf_7_2::RRSBA_CTRL,
        capabilities: ice_lake().capabilities | caps,
        ..intel(model, SINCE_2018, 0)
    }
}

/// `cpu`, what is done, and what stays open.
#[track_caller]
fn expect(cpu: Cpu, text: &str, exposed: Exposed) {
    let used = cpu.used(Wish::NONE);
    assert_eq!(format!("{used}"), text);
    assert_eq!(cpu.exposed(used), exposed);
}

#[test]
fn intels_cpus() {
    let safe = Exposed::empty();
    expect(
        intel(0x3c, 0, 0),
        "no defences",
        // As Bochs's Skylake, and Haswell with its first microcode.
        Exposed::BRANCHES,
    );
    expect(
        skylake(),
        "IBRS at exits, IBPB between vCPUs, RSB overwritten by exits, L1D flushed by entries",
        safe,
    );
    // As a guest of a hypervisor that flushes; which may run on CPUs with enhanced IBRS, too.
    let nested = Cpu {
        is_virtual: true,
        capabilities: capability::SKIP_L1DFL_VMENTRY,
        ..skylake()
    };
    expect(
        nested,
        "IBRS at exits, IBPB between vCPUs, RSB overwritten by exits, BHB cleared by exits, \
         buffers cleared by entries",
        safe,
    );
    expect(
        cascade_lake(),
        "IBRS stays on, IBPB between vCPUs, one RSB entry by exits, BHB cleared by exits, \
         buffers cleared by entries",
        Exposed::ITS,
    );
    expect(
        ice_lake(),
        "IBRS stays on, IBPB between vCPUs, one RSB entry by exits, BHB cleared by exits",
        safe,
    );
    expect(
        with_bhi_control(0x97, capability::RFDS_CLEAR),
        "IBRS stays on, BHI_DIS_S, IBPB between vCPUs, one RSB entry by exits, buffers cleared by entries",
        safe,
    );
    expect(
        with_bhi_control(0x8f, capability::PBRSB_NO),
        "IBRS stays on, BHI_DIS_S, IBPB between vCPUs",
        safe,
    );
    let without_bhi = with_bhi_control(0xcf, capability::PBRSB_NO | capability::BHI_NO);
    expect(without_bhi, "IBRS stays on, IBPB between vCPUs", safe);
}

#[test]
fn amds_cpus() {
    let safe = Exposed::empty();
    // Zen 1 has IBPB alone, before which another thread steers returns.
    expect(
        amd(0x17, extended_8::IBPB, 0),
        "IBPB at exits, RSB overwritten by exits, divider scrubbed by entries",
        Exposed::THREADS,
    );
    let one_thread = Cpu {
        has_threads: false,
        ..amd_as_it_says(0x17, extended_8::IBPB, 0)
    };
    let one_thread = one_thread.completed(|| true);
    assert_ne!(one_thread.extended_21_eax & extended_21::SRSO_NO, 0);
    expect(
        one_thread,
        "IBPB at exits, RSB overwritten by exits, divider scrubbed by entries",
        safe,
    );
    expect(
        amd(0x17, SINCE_ZEN_2, 0),
        "IBRS at exits, STIBP, IBPB at exits, RSB overwritten by exits",
        safe,
    );
    let zen_3 =
        SINCE_ZEN_2 | extended_8::STIBP_ALWAYS | extended_8::IBRS_PREFERRED | extended_8::IBRS_SAME_MODE;
    expect(
        amd(0x19, zen_3, 0),
        "IBRS at exits, STIBP, IBPB at exits, RSB overwritten by exits, buffers cleared by entries",
        safe,
    );
    expect(
        amd_as_it_says(0x19, zen_3, 0).completed(|| false),
        "IBRS at exits, STIBP, IBPB between vCPUs, RSB overwritten by exits, buffers cleared by entries",
        Exposed::SRSO,
    );
    let zen_4 = zen_3 | extended_8::BTC_NO;
    expect(
        amd(0x19, zen_4, extended_21::AUTO_IBRS),
        "automatic IBRS, STIBP, IBPB at exits, buffers cleared by entries",
        safe,
    );
    let zen_5 = zen_4 | extended_8::IBPB_RET;
    let says = extended_21::AUTO_IBRS
        | extended_21::SRSO_MSR_FIX
        | extended_21::SRSO_USER_KERNEL_NO
        | extended_21::IBPB_BRTYPE
        | extended_21::SBPB;
    expect(
        amd(0x1a, zen_5, says),
        "automatic IBRS, STIBP, IBPB between vCPUs, BP_SPEC_REDUCE",
        safe,
    );
    // One that says of itself that nothing is needed, but IBRS.
    let always = amd(
        0x1a,
        SINCE_ZEN_2 | extended_8::IBRS_ALWAYS | extended_8::BTC_NO,
        extended_21::SRSO_NO,
    );
    expect(
        always,
        "IBRS stays on, STIBP, IBPB between vCPUs, RSB overwritten by exits",
        safe,
    );
    // QEMU's EPYC-Milan, emulated: a hypervisor's word counts, and it has no registers at all.
    let emulated = Cpu {
        is_virtual: true,
        ..amd_as_it_says(0x19, 0, 0)
    };
    let emulated = emulated.completed(|| panic!("there is no such register"));
    assert_eq!(emulated.extended_8_ebx, 0);
    assert!(emulated.used(Wish::NONE).is_empty());
    // Bochs's Ryzen, on the metal but without IBPB.
    assert!(
        amd_as_it_says(0x17, 0, 0)
            .completed(|| panic!("there is no such register"))
            .used(Wish::NONE)
            .difference(Defences::DIVIDE)
            .is_empty()
    );
}

#[test]
fn buffers() {
    use capability::*;
    let cleared = |cpu: Cpu| cpu.used(Wish::NONE).contains(Defences::MD_CLEAR);
    // Transactions that were aborted leave something, unless the CPU says that they do not.
    assert!(cleared(cascade_lake()));
    let caps = cascade_lake().capabilities;
    let with = |capabilities| Cpu {
        capabilities,
        ..cascade_lake()
    };
    assert!(!cleared(with(caps | TAA_NO)));
    // Gracemont: register files are sampled.
    assert!(cleared(with(caps | TAA_NO | RFDS_CLEAR)));
    assert!(!cleared(with(caps | TAA_NO | RFDS_CLEAR | RFDS_NO)));
    // Those of Zen 3 and 4 that say so of themselves have no TSA.
    let zen_4 = amd(0x19, SINCE_ZEN_2, extended_21::VERW_CLEAR);
    let spared = Cpu {
        extended_21_ecx: extended_21::TSA_NO,
        ..zen_4
    };
    assert!(cleared(zen_4) && !cleared(spared));
}

#[test]
fn what_the_command_line_says() {
    let none = Defences::empty();
    let with = |on, off| Wish { on, off };
    for cpu in [skylake(), ice_lake(), amd(0x17, SINCE_ZEN_2, 0)] {
        assert!(cpu.used(with(none, Defences::all())).is_empty());
        assert!(cpu.exposed(none).contains(Exposed::BRANCHES));
    }
    // What needs no register can be done anywhere, and nothing else.
    let bare = with(Defences::all(), none);
    assert_eq!(intel(0x3c, 0, 0).used(bare), Defences::RSB | Defences::BHB);
    assert_eq!(
        amd_as_it_says(0x17, 0, 0).used(bare),
        Defences::RSB | Defences::BHB | Defences::DIVIDE
    );
    // The flush clears buffers as well; without it they need to be.
    let flushed = ice_lake().used(with(Defences::L1D_FLUSH, Defences::IBPB));
    assert!(flushed.contains(Defences::L1D_FLUSH) && !flushed.contains(Defences::IBPB));
    assert!(
        skylake()
            .used(with(none, Defences::L1D_FLUSH))
            .contains(Defences::MD_CLEAR)
    );
    // Where one is off, what takes its place comes.
    let alder_lake = with_bhi_control(0x97, 0);
    assert!(
        alder_lake
            .used(with(none, Defences::BHI_DIS_S))
            .contains(Defences::BHB)
    );
    let zen_5 = amd(
        0x1a,
        SINCE_ZEN_2 | extended_8::BTC_NO,
        extended_21::SRSO_MSR_FIX | extended_21::IBPB_BRTYPE,
    );
    let without = zen_5.used(with(none, Defences::SPEC_REDUCE));
    assert!(without.contains(Defences::IBPB_AT_EXITS) && !without.contains(Defences::IBPB));
    // All entries of the RSB, so not one in particular.
    let all = ice_lake().used(with(Defences::RSB | Defences::PBRSB, none));
    assert!(all.contains(Defences::RSB) && !all.contains(Defences::PBRSB));
    // Returns where branches are open.
    let open = skylake().used(with(none, Defences::ANY_IBRS));
    assert_eq!(open, Defences::IBPB | Defences::L1D_FLUSH);
}

#[test]
fn what_world_switches_do() {
    let of = |cpu: Cpu| {
        let used = cpu.used(Wish::NONE);
        (Cpu::spec_ctrl(used), cpu.actions(used))
    };
    // Nothing, where nothing is needed or everything stays set.
    assert_eq!(of(intel(0x3c, 0, 0)), (0, Actions::empty()));
    let sapphire_rapids = with_bhi_control(0x8f, capability::PBRSB_NO);
    assert_eq!(of(sapphire_rapids), (0x401, Actions::empty()));
    assert_eq!(of(ice_lake()), (1, Actions::CALL | Actions::BHB));
    assert_eq!(of(skylake()), (1, Actions::SPEC_CTRL | Actions::RSB));
    let zen_1 = amd(0x17, extended_8::IBPB, 0);
    assert_eq!(of(zen_1), (0, Actions::IBPB | Actions::RSB | Actions::DIVIDE));
    let zen_2 = amd(0x17, SINCE_ZEN_2, 0);
    assert_eq!(of(zen_2), (3, Actions::IBPB | Actions::RSB | Actions::SPEC_CTRL));
    // STIBP stays set where CPUs want it to.
    let auto = |ebx| {
        let ebx = SINCE_ZEN_2 | extended_8::BTC_NO | ebx;
        of(amd(0x1a, ebx, extended_21::AUTO_IBRS | extended_21::SRSO_NO))
    };
    assert_eq!(auto(extended_8::STIBP_ALWAYS), (2, Actions::empty()));
    assert_eq!(auto(0), (2, Actions::SPEC_CTRL));
    // Only entries have to clear buffers.
    assert!(!Actions::AT_EXITS.intersects(Actions::VERW | Actions::DIVIDE));
}

#[test]
fn the_log_names_them() {
    assert_eq!(format!("{}", Defences::empty()), "no defences");
    let open = Exposed::BRANCHES | Exposed::THREADS;
    assert_eq!(
        format!("{open}"),
        "indirect branches without IBRS, Retbleed by threads of a core"
    );
}
