//! Every kind of exit that a guest can cause, and that the guest sees what a machine would show it.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;

use abi::event_channel::VIRQ_TIMER;
use abi::start_info::SIF_INITDOMAIN;
use guest_rt::hypercall::event_channel;
use guest_rt::start_info::StartInfo;
use guest_rt::{event, println, time};
use guests::cpu::{self, Fault, GP0, UD0};
use guests::report::Report;
use guests::{interrupts, legacy};

guest_rt::main!(main);

fn main(info: StartInfo) -> ! {
    cpu::init();
    let mut report = Report::default();
    cpuid(&mut report);
    msrs(&mut report);
    features(&mut report);
    ports(&mut report);
    nothing_there(&mut report, info.raw.flags & SIF_INITDOMAIN != 0);
    control_registers(&mut report);
    exceptions(&mut report, info.command_line() != "no-step-over-exit");
    extended_state(&mut report);
    protection_keys(&mut report);
    local_apic(&mut report);
    apic_timer(&mut report);
    halt(&mut report);
    x2apic(&mut report);
    report.finish()
}

fn cpuid(report: &mut Report) {
    let text = |words: [u32; 3]| words.map(u32::to_le_bytes).concat();
    let [max, b, c, d] = cpu::cpuid(0, 0);
    report.check("cpuid-max", max >= 0xd, format!("{max:#x}"));
    let vendor = text([b, d, c]);
    report.check(
        "cpuid-vendor",
        [&b"GenuineIntel"[..], b"AuthenticAMD"].contains(&&vendor[..]),
        format!("{vendor:x?}"),
    );
    let [_, _, features, _] = cpu::cpuid(1, 0);
    report.equal("cpuid-hypervisor-bit", features >> 31, 1);
    report.equal("cpuid-no-vmx", features >> 5 & 1, 0);
    report.equal("cpuid-no-svm", cpu::cpuid(0x8000_0001, 0)[2] >> 2 & 1, 0);
    const BASE: u32 = 0x4000_0000;
    let [max, b, c, d] = cpu::cpuid(BASE, 0);
    report.equal("cpuid-xen-signature", &text([b, c, d])[..], b"XenVMMXenVMM");
    report.check("cpuid-xen-max", max >= BASE + 4, format!("{max:#x}"));
    report.equal("cpuid-xen-version", cpu::cpuid(BASE + 1, 0)[0], 4 << 16 | 17);
    let [pages, msr, _, _] = cpu::cpuid(BASE + 2, 0);
    report.equal("cpuid-xen-hypercall-page", (pages, msr), (1, 0x4000_0000));
    let [_, mode, khz, _] = cpu::cpuid(BASE + 3, 0);
    report.check("cpuid-xen-time", mode <= 3 && khz > 1000, format!("{mode} {khz}"));
    let [flags, vcpu, domain, _] = cpu::cpuid(BASE + 4, 0);
    report.equal("cpuid-xen-ids", (flags & 0x18, vcpu, domain), (0x18, 0, 0));
    // A leaf beyond the last: nothing is shown but what leaf 0 promises (Intel shows its last basic leaf, AMD zeros).
    let beyond = cpu::cpuid(0x3fff_ffff, 0);
    report.check(
        "cpuid-beyond",
        beyond[2] >> 31 == 0 || beyond == cpu::cpuid(cpu::cpuid(0, 0)[0], 0),
        format!("{beyond:x?}"),
    );
}

fn msrs(report: &mut Report) {
    const ENABLED: u64 = 1 << 11;
    let base = cpu::rdmsr(cpu::MSR_APIC_BASE);
    report.equal("msr-apic-base", base.map(|v| v & !0x7ff), Ok(cpu::APIC | ENABLED));
    let efer = cpu::rdmsr(cpu::MSR_EFER);
    report.equal("msr-efer", efer.map(|v| v & 0x500), Ok(0x500));
    report.equal(
        "msr-efer-same",
        cpu::wrmsr(cpu::MSR_EFER, efer.unwrap_or(0)),
        Ok(()),
    );
    report.equal(
        "msr-efer-svme",
        cpu::wrmsr(cpu::MSR_EFER, 1 << 12 | 0x500),
        Err(GP0),
    );
    report.equal(
        "msr-efer-reserved",
        cpu::wrmsr(cpu::MSR_EFER, 1 << 40 | 0x500),
        Err(GP0),
    );
    // In 64-bit mode LME cannot go while paging is on (AMD APM 2, 14.6).
    report.equal("msr-efer-leave", cpu::wrmsr(cpu::MSR_EFER, 0), Err(GP0));
    const FS_BASE: u32 = 0xc000_0100;
    const KERNEL_GS_BASE: u32 = 0xc000_0102;
    for (name, msr) in [("fs-base", FS_BASE), ("kernel-gs-base", KERNEL_GS_BASE)] {
        let written = cpu::wrmsr(msr, 0x1234_5678_9000);
        report.equal(
            &format!("msr-{name}"),
            written.and(cpu::rdmsr(msr)),
            Ok(0x1234_5678_9000),
        );
    }
    const STAR: u32 = 0xc000_0081;
    const LSTAR: u32 = 0xc000_0082;
    let written = cpu::wrmsr(STAR, 0x0023_0010 << 32).and(cpu::rdmsr(STAR));
    report.equal("msr-star", written, Ok(0x0023_0010 << 32));
    let written = cpu::wrmsr(LSTAR, 0xffff_8000_0000_1000).and(cpu::rdmsr(LSTAR));
    report.equal("msr-lstar", written, Ok(0xffff_8000_0000_1000));
    const PAT: u32 = 0x277;
    let written = cpu::wrmsr(PAT, 0x0007_0406_0007_0406).and(cpu::rdmsr(PAT));
    report.equal("msr-pat", written, Ok(0x0007_0406_0007_0406));
    let tsc = cpu::rdmsr(0x10).unwrap_or(0);
    let after = cpu::tsc();
    report.check("msr-tsc", tsc != 0 && after >= tsc, format!("{tsc} then {after}"));
    // Nothing has this number.
    report.equal("msr-unknown-read", cpu::rdmsr(0x1234_5678), Err(GP0));
    report.equal("msr-unknown-write", cpu::wrmsr(0x1234_5678, 0), Err(GP0));
    report.equal(
        "msr-hypercall-page-far",
        cpu::wrmsr(0x4000_0000, 5 | 0x20_0000),
        Err(GP0),
    );
}

/// Where CPUID shows a feature: leaf, subleaf, word and bit.
type Place = (u32, u32, usize, u32);

/// Features with registers, which can be read where the feature is shown.
const FEATURES: [(&str, Place, &[u32]); 19] = [
    ("tsc", (1, 0, 3, 4), &[0x10]),
    ("apic", (1, 0, 3, 9), &[0x1b]),
    ("sep", (1, 0, 3, 11), &[0x174, 0x175, 0x176]),
    ("mtrr", (1, 0, 3, 12), &[0xfe, 0x200, 0x201, 0x250, 0x26f, 0x2ff]),
    ("mca", (1, 0, 3, 14), &[0x179, 0x17a, 0x400, 0x401]),
    ("pat", (1, 0, 3, 16), &[0x277]),
    ("pdcm", (1, 0, 2, 15), &[0x345]),
    ("tsc-deadline", (1, 0, 2, 24), &[0x6e0]),
    ("tsc-adjust", (7, 0, 1, 1), &[0x3b]),
    ("rdpid", (7, 0, 2, 22), &[0xc000_0103]),
    ("ibrsb", (7, 0, 3, 26), &[0x48]),
    ("arch-capabilities", (7, 0, 3, 29), &[0x10a]),
    ("xsaves", (0xd, 1, 0, 3), &[0xda0]),
    (
        "syscall",
        (0x8000_0001, 0, 3, 11),
        &[0xc000_0081, 0xc000_0082, 0xc000_0083, 0xc000_0084],
    ),
    ("nx", (0x8000_0001, 0, 3, 20), &[0xc000_0080]),
    ("lwp", (0x8000_0001, 0, 2, 15), &[0xc000_0105]),
    ("core-counters", (0x8000_0001, 0, 2, 23), &[0xc001_0200]),
    (
        "dbext",
        (0x8000_0001, 0, 2, 26),
        &[0xc001_1027, 0xc001_1019, 0xc001_101a, 0xc001_101b],
    ),
    ("virt-ssbd", (0x8000_0008, 0, 1, 25), &[0xc001_011f]),
];

fn features(report: &mut Report) {
    for (name, (leaf, subleaf, word, bit), registers) in FEATURES {
        let basic = leaf & 0x8000_0000;
        let shown = leaf <= cpu::cpuid(basic, 0)[0] && cpu::cpuid(leaf, subleaf)[word] >> bit & 1 != 0;
        let missing = registers.iter().find(|&&msr| shown && cpu::rdmsr(msr).is_err());
        report.equal(&format!("feature-{name}"), missing, None);
    }
    const PLATFORM_INFO: u32 = 0xce;
    const MISC_FEATURES_ENABLES: u32 = 0x140;
    report.equal("cpuid-faulting", cpu::rdmsr(PLATFORM_INFO), Ok(1 << 31));
    let set = cpu::wrmsr(MISC_FEATURES_ENABLES, 1).and(cpu::rdmsr(MISC_FEATURES_ENABLES));
    report.equal("cpuid-faulting-on", set, Ok(1));
    report.equal("cpuid-in-the-kernel", cpu::cpuid(0x4000_0001, 0)[0], 4 << 16 | 17);
    report.equal(
        "cpuid-faulting-reserved",
        cpu::wrmsr(MISC_FEATURES_ENABLES, 3),
        Err(GP0),
    );
    report.equal("cpuid-faulting-off", cpu::wrmsr(MISC_FEATURES_ENABLES, 0), Ok(()));
}

fn ports(report: &mut Report) {
    const NOTHING: u16 = 0x1230;
    report.equal("port-in8", cpu::in8(NOTHING), 0xff);
    report.equal("port-in16", cpu::in16(NOTHING), 0xffff);
    report.equal("port-in32", cpu::in32(NOTHING), 0xffff_ffff);
    cpu::out8(NOTHING, 1);
    cpu::out16(NOTHING, 1);
    cpu::out32(NOTHING, 1);
    report.equal("port-in-after-out", cpu::in8(NOTHING), 0xff);
    let mut buffer = [0; 5];
    let read = cpu::ins8(NOTHING, &mut buffer[..4]);
    report.equal(
        "port-string",
        (read, buffer),
        (Ok(()), [0xff, 0xff, 0xff, 0xff, 0]),
    );
    report.equal("port-last", cpu::in8(0xffff), 0xff);
}

/// Addresses that nothing claims. A hardware domain may reach the machine's own, which answer as the machine likes.
fn nothing_there(report: &mut Report, hardware_domain: bool) {
    for (name, address) in [("mmio-hole", 0xfe00_0000u64), ("mmio-hole-odd", 0xfe00_0ffd)] {
        let before = cpu::load(address);
        let right = if hardware_domain {
            before.is_ok()
        } else {
            before == Ok(u32::MAX)
        };
        report.check(name, right, format!("{before:x?}"));
        report.equal(&format!("{name}-write"), cpu::store(address, 0x5a), Ok(()));
        report.equal(&format!("{name}-again"), cpu::load(address), before);
    }
}

fn control_registers(report: &mut Report) {
    const CR0_PE: u64 = 1 << 0;
    const CR0_MP: u64 = 1 << 1;
    const CR0_TS: u64 = 1 << 3;
    /// PE, MP, EM and TS.
    const CR0_LOW: u64 = 0xf;
    const CR0_PG: u64 = 1 << 31;
    let cr0 = cpu::read_cr0();
    report.equal("cr0-same", cpu::write_cr0(cr0), Ok(()));
    let with_ts = || cpu::write_cr0(cr0 | CR0_TS);
    report.equal("cr0-ts", with_ts().map(|()| cpu::read_cr0()), Ok(cr0 | CR0_TS));
    report.equal("cr0-back", cpu::write_cr0(cr0).map(|()| cpu::read_cr0()), Ok(cr0));
    let off = cpu::write_cr0(cr0 & !CR0_PG);
    report.equal(
        "clts",
        with_ts().and(cpu::clts()).map(|()| cpu::read_cr0()),
        Ok(cr0),
    );
    // LMSW writes MP, EM and TS, and PE if it sets that.
    for (name, lmsw) in [
        ("lmsw", cpu::lmsw as fn(u16) -> Result<(), Fault>),
        ("lmsw-of-memory", |value| cpu::lmsw_of_memory(&value)),
    ] {
        let written = [CR0_TS, 0, CR0_MP | CR0_TS, cr0 & CR0_LOW]
            .map(|bits| lmsw(bits as u16).map(|()| cpu::read_cr0() & CR0_LOW));
        let low = cr0 & CR0_LOW;
        let expected = [CR0_PE | CR0_TS, CR0_PE, CR0_PE | CR0_MP | CR0_TS, low].map(Ok);
        report.equal(name, written, expected);
        report.equal(&format!("{name}-rest"), cpu::read_cr0(), cr0);
    }
    report.equal("cr0-no-paging-in-long-mode", off, Err(GP0));
    report.equal("cr0-reserved", cpu::write_cr0(cr0 | 1 << 40), Err(GP0));
    let cr4 = cpu::read_cr4();
    const CR4_PAE: u64 = 1 << 5;
    const CR4_OSFXSR: u64 = 1 << 9;
    const CR4_VMXE: u64 = 1 << 13;
    let set = cpu::write_cr4(cr4 | CR4_OSFXSR).map(|()| cpu::read_cr4());
    report.equal("cr4-osfxsr", set, Ok(cr4 | CR4_OSFXSR));
    report.equal("cr4-back", cpu::write_cr4(cr4).map(|()| cpu::read_cr4()), Ok(cr4));
    report.equal("cr4-vmxe", cpu::write_cr4(cr4 | CR4_VMXE), Err(GP0));
    report.equal(
        "cr4-no-pae-in-long-mode",
        cpu::write_cr4(cr4 & !CR4_PAE),
        Err(GP0),
    );
    report.equal("cr4-reserved", cpu::write_cr4(cr4 | 1 << 31), Err(GP0));
    report.equal("pae-paging", legacy::pae(0x1234_5678), [0x1234_5678; 2]);
    let cr3 = cpu::read_cr3();
    report.equal("cr3-same", cpu::write_cr3(cr3).map(|()| cpu::read_cr3()), Ok(cr3));
    report.equal(
        "cr2",
        cpu::write_cr2(0x1234_5000).map(|()| cpu::read_cr2()),
        Ok(0x1234_5000),
    );
    report.equal("cr8", cpu::write_cr8(5).map(|()| cpu::read_cr8()), Ok(5));
    report.equal("cr8-is-tpr", cpu::mmio_read(cpu::APIC_TPR), 0x50);
    cpu::mmio_write(cpu::APIC_TPR, 0x20);
    report.equal("tpr-is-cr8", cpu::read_cr8(), 2);
    report.equal("cr8-back", cpu::write_cr8(0), Ok(()));
    let dr = cpu::write_dr0(0x1234).map(|()| cpu::read_dr0());
    report.equal("dr0", dr, Ok(0x1234));
    report.equal("dr7", cpu::read_dr7() & 0xffff_ffff, 0x400);
}

fn exceptions(report: &mut Report, step_over_exit: bool) {
    let fault = |vector| Err(Fault { vector, error: 0 });
    report.equal("ud2", cpu::ud2(), Err(UD0));
    report.equal("int3", cpu::int3(), fault(cpu::BP));
    report.equal("divide", cpu::divide_by_zero(), fault(cpu::DE));
    report.equal("single-step", cpu::single_step(), fault(cpu::DB));
    report.equal("single-step-dr6", cpu::read_dr6() >> 14 & 1, 1);
    report.equal("dr6-clear", cpu::write_dr6(0xffff_0ff0), Ok(()));
    if step_over_exit {
        report.equal(
            "single-step-over-exit",
            cpu::single_step_over_exit(),
            (fault(cpu::DB), 0),
        );
        report.equal("single-step-over-exit-dr6", cpu::read_dr6() >> 14 & 1, 1);
        report.equal("dr6-clear-again", cpu::write_dr6(0xffff_0ff0), Ok(()));
        report.equal(
            "single-step-over-hypercall",
            cpu::single_step_over_hypercall(),
            (fault(cpu::DB), 0),
        );
        report.equal("single-step-over-hypercall-dr6", cpu::read_dr6() >> 14 & 1, 1);
        report.equal("dr6-clear-after-hypercall", cpu::write_dr6(0xffff_0ff0), Ok(()));
    }
    report.equal(
        "single-step-over-sti",
        cpu::single_step_over_sti(),
        fault(cpu::DB),
    );
    report.equal("dr6-clear-after-sti", cpu::write_dr6(0xffff_0ff0), Ok(()));
    report.equal("int-n", cpu::int_41(), fault(0x41));
    let page = cpu::load(guests::hypercall::UNMAPPED);
    report.equal(
        "page-fault",
        page,
        Err(Fault {
            vector: cpu::PF,
            error: 0,
        }),
    );
    report.equal(
        "page-fault-address",
        cpu::fault_address(),
        guests::hypercall::UNMAPPED,
    );
    report.equal(
        "not-canonical",
        cpu::load(guests::hypercall::NOT_CANONICAL),
        Err(GP0),
    );
    report.equal("wbinvd", cpu::wbinvd(), Ok(()));
    report.equal("pause", cpu::pause(), Ok(()));
    // CPUID shows none of them.
    for (name, instruction) in [
        ("monitor", cpu::monitor as fn() -> Result<(), Fault>),
        ("mwait", cpu::mwait),
        ("rdpru", cpu::rdpru),
    ] {
        report.equal(name, instruction(), Err(UD0));
    }
    report.equal("rdpmc", cpu::rdpmc(), Err(GP0));
}

fn extended_state(report: &mut Report) {
    const XSAVE: u32 = 1 << 26;
    const CR4_OSXSAVE: u64 = 1 << 18;
    if cpu::cpuid(1, 0)[2] & XSAVE == 0 {
        println!("# this CPU has no XSAVE");
        report.equal("xsetbv-missing", cpu::xsetbv(0, 1), Err(UD0));
        return;
    }
    let cr4 = cpu::read_cr4();
    report.equal("cr4-osxsave", cpu::write_cr4(cr4 | CR4_OSXSAVE), Ok(()));
    report.equal("cpuid-osxsave", cpu::cpuid(1, 0)[2] >> 27 & 1, 1);
    let [supported, ..] = cpu::cpuid(0xd, 0);
    report.equal("xsetbv-x87", cpu::xsetbv(0, 1).and(cpu::xgetbv(0)), Ok(1));
    report.equal("xsetbv-sse", cpu::xsetbv(0, 3).and(cpu::xgetbv(0)), Ok(3));
    let all = cpu::xsetbv(0, supported.into()).and(cpu::xgetbv(0));
    report.equal("xsetbv-all", all, Ok(supported.into()));
    // An instruction that the hypervisor does not carry out.
    const CR4_OSFXSR: u64 = 1 << 9;
    const AVX: u32 = 1 << 28;
    report.equal(
        "cr4-osfxsr-for-sse",
        cpu::write_cr4(cpu::read_cr4() | CR4_OSFXSR),
        Ok(()),
    );
    report.equal("sse-read-of-a-device", cpu::load_sse(cpu::APIC_TPR), Err(GP0));
    if cpu::cpuid(1, 0)[2] & AVX != 0 {
        report.equal("avx-read-of-a-device", cpu::load_avx(cpu::APIC_TPR), Err(GP0));
    } else {
        println!("# this CPU has no AVX");
    }
    report.equal("xsetbv-no-x87", cpu::xsetbv(0, 2), Err(GP0));
    report.equal("xsetbv-avx-without-sse", cpu::xsetbv(0, 5), Err(GP0));
    report.equal("xsetbv-reserved", cpu::xsetbv(0, 1 << 62 | 1), Err(GP0));
    report.equal("xsetbv-register", cpu::xsetbv(1, 1), Err(GP0));
    report.equal("xsetbv-unchanged", cpu::xgetbv(0), Ok(supported.into()));
    report.equal("cr4-osxsave-off", cpu::write_cr4(cr4), Ok(()));
    report.equal("cpuid-osxsave-off", cpu::cpuid(1, 0)[2] >> 27 & 1, 0);
}

fn protection_keys(report: &mut Report) {
    const CR4_PKE: u64 = 1 << 22;
    let keys = || cpu::cpuid(7, 0)[2] >> 3 & 3;
    let cr4 = cpu::read_cr4();
    report.equal("keys-off", cpu::protection_keys(1 << 30), Err(UD0));
    if keys() == 0 {
        println!("# this CPU has no protection keys");
        report.equal("cr4-pke-missing", cpu::write_cr4(cr4 | CR4_PKE), Err(GP0));
        return;
    }
    report.equal(
        "cr4-pke",
        cpu::write_cr4(cr4 | CR4_PKE).map(|()| cpu::read_cr4()),
        Ok(cr4 | CR4_PKE),
    );
    report.equal("cpuid-ospke", keys(), 3);
    report.equal("keys", cpu::protection_keys(0xc000_0004), Ok(0xc000_0004));
    report.equal("keys-cleared", cpu::protection_keys(0), Ok(0));
    report.equal("cr4-pke-off", cpu::write_cr4(cr4), Ok(()));
    report.equal("cpuid-ospke-off", keys(), 1);
}

/// Vector for interrupts that this guest sends to itself.
const SELF: u8 = 0x51;
/// Vector of the local APIC's timer.
const TIMER: u8 = 0x61;
/// ICR: destination shorthand "self".
const TO_SELF: u32 = 1 << 18;
/// SVR: software enable.
const SOFTWARE_ENABLE: u32 = 1 << 8;

fn local_apic(report: &mut Report) {
    report.equal("apic-id", cpu::mmio_read(cpu::APIC_ID) >> 24, 0);
    let version = cpu::mmio_read(cpu::APIC_VERSION);
    report.check("apic-version", version & 0xf0 == 0x10, format!("{version:#x}"));
    cpu::mmio_write(cpu::APIC_SVR, SOFTWARE_ENABLE | 0xff);
    report.equal("apic-svr", cpu::mmio_read(cpu::APIC_SVR), SOFTWARE_ENABLE | 0xff);
    cpu::mmio_write(cpu::APIC_ICR, TO_SELF | u32::from(SELF));
    report.equal(
        "apic-irr",
        cpu::mmio_read(cpu::APIC + 0x220) >> (SELF & 31) & 1,
        1,
    );
    report.equal("apic-waits-for-if", interrupts::count(SELF), 0);
    interrupts::enabled(|| ());
    report.equal("apic-self-ipi", interrupts::count(SELF), 1);
    let bits = cpu::mmio_read(cpu::APIC + 0x220) | cpu::mmio_read(cpu::APIC + 0x120);
    report.equal("apic-irr-isr-clear", bits, 0);
    // Held back by priority, let go by it.
    cpu::mmio_write(cpu::APIC_TPR, 0x60);
    cpu::mmio_write(cpu::APIC_ICR, TO_SELF | u32::from(SELF));
    interrupts::enabled(|| ());
    report.equal("apic-tpr-holds", interrupts::count(SELF), 1);
    interrupts::enabled(|| cpu::mmio_write(cpu::APIC_TPR, 0));
    report.equal("apic-tpr-lets-go", interrupts::count(SELF), 2);
    // The same by CR8, which exits at most when something waits.
    report.equal("apic-cr8-set", cpu::write_cr8(6), Ok(()));
    cpu::mmio_write(cpu::APIC_ICR, TO_SELF | u32::from(SELF));
    let counts = interrupts::enabled(|| {
        [6, SELF >> 4, 0].map(|class| {
            cpu::set_cr8(class.into());
            interrupts::count(SELF)
        })
    });
    report.equal("apic-cr8", counts, [2, 2, 3]);
}

/// Waits with interrupts on until a vector has come `times` times; not for ever.
fn wait_for(vector: u8, times: u64) -> u64 {
    let patience = time::now() + 2_000_000_000;
    interrupts::enabled(|| {
        while interrupts::count(vector) < times && time::now() < patience {
            core::hint::spin_loop();
        }
    });
    interrupts::count(vector)
}

fn apic_timer(report: &mut Report) {
    const MASKED: u32 = 1 << 16;
    const PERIODIC: u32 = 1 << 17;
    const BY_16: u32 = 3;
    cpu::mmio_write(cpu::APIC_DIVIDE, BY_16);
    cpu::mmio_write(cpu::APIC_TIMER, MASKED | u32::from(TIMER));
    cpu::mmio_write(cpu::APIC_INITIAL, u32::MAX);
    let first = cpu::mmio_read(cpu::APIC_CURRENT);
    let until = time::now() + 100_000;
    while time::now() < until {}
    let second = cpu::mmio_read(cpu::APIC_CURRENT);
    report.check(
        "apic-timer-counts",
        second < first,
        format!("{first:#x} then {second:#x}"),
    );
    cpu::mmio_write(cpu::APIC_INITIAL, 0);
    report.equal("apic-timer-stops", cpu::mmio_read(cpu::APIC_CURRENT), 0);
    cpu::mmio_write(cpu::APIC_TIMER, TIMER.into());
    cpu::mmio_write(cpu::APIC_INITIAL, 1000);
    report.equal("apic-timer-one-shot", wait_for(TIMER, 1), 1);
    cpu::mmio_write(cpu::APIC_TIMER, PERIODIC | u32::from(TIMER));
    cpu::mmio_write(cpu::APIC_INITIAL, 20_000);
    let came = wait_for(TIMER, 6);
    report.check("apic-timer-periodic", came >= 6, format!("{came} times"));
    cpu::mmio_write(cpu::APIC_INITIAL, 0);
    cpu::mmio_write(cpu::APIC_TIMER, MASKED | u32::from(TIMER));
}

fn halt(report: &mut Report) {
    let before = interrupts::count(TIMER);
    cpu::mmio_write(cpu::APIC_TIMER, TIMER.into());
    cpu::mmio_write(cpu::APIC_INITIAL, 100_000);
    interrupts::halt();
    report.equal("hlt-woken-by-apic-timer", interrupts::count(TIMER), before + 1);
    let start = time::now();
    let deadline = start + 5_000_000;
    let mut halts = 0;
    let armed = event_channel::bind_virq(VIRQ_TIMER).and_then(|_| time::set_timer(Some(deadline)));
    if let Err(error) = armed {
        report.check("hlt-set-timer", false, format!("{error}"));
        return;
    }
    while time::now() < deadline && halts < 1000 {
        interrupts::halt();
        event::take_pending(|_| ());
        halts += 1;
    }
    let late = time::now().saturating_sub(deadline);
    report.check(
        "hlt-woken-by-singleshot-timer",
        time::now() >= deadline && halts < 1000,
        format!("{halts} halts, {late} ns late"),
    );
}

fn x2apic(report: &mut Report) {
    const X2APIC: u32 = 1 << 21;
    const EXTENDED: u64 = 1 << 10;
    report.equal("x2apic-offered", cpu::cpuid(1, 0)[2] & X2APIC, X2APIC);
    report.equal("x2apic-off-read", cpu::rdmsr(cpu::x2apic(cpu::APIC_ID)), Err(GP0));
    let base = cpu::rdmsr(cpu::MSR_APIC_BASE).unwrap_or(0);
    report.equal(
        "x2apic-on",
        cpu::wrmsr(cpu::MSR_APIC_BASE, base | EXTENDED),
        Ok(()),
    );
    interrupts::use_x2apic();
    report.equal("x2apic-id", cpu::rdmsr(cpu::x2apic(cpu::APIC_ID)), Ok(0));
    report.equal("x2apic-ldr", cpu::rdmsr(cpu::x2apic(cpu::APIC + 0xd0)), Ok(1));
    report.equal(
        "x2apic-svr",
        cpu::rdmsr(cpu::x2apic(cpu::APIC_SVR)),
        Ok(u64::from(SOFTWARE_ENABLE | 0xff)),
    );
    report.equal(
        "x2apic-reserved",
        cpu::wrmsr(cpu::x2apic(cpu::APIC_SVR), 1 << 40),
        Err(GP0),
    );
    report.equal("x2apic-no-such-register", cpu::rdmsr(0x80e), Err(GP0));
    report.equal("x2apic-eoi-nonzero", cpu::wrmsr(cpu::X2APIC_EOI, 1), Err(GP0));
    let before = interrupts::count(SELF);
    report.equal(
        "x2apic-self-ipi",
        cpu::wrmsr(cpu::X2APIC_SELF_IPI, SELF.into()),
        Ok(()),
    );
    interrupts::enabled(|| ());
    report.equal("x2apic-self-ipi-came", interrupts::count(SELF), before + 1);
    let icr = u64::from(TO_SELF | u32::from(SELF));
    report.equal("x2apic-icr", cpu::wrmsr(cpu::x2apic(cpu::APIC_ICR), icr), Ok(()));
    interrupts::enabled(|| ());
    report.equal("x2apic-icr-came", interrupts::count(SELF), before + 2);
    report.equal(
        "x2apic-back-to-xapic",
        cpu::wrmsr(cpu::MSR_APIC_BASE, base),
        Err(GP0),
    );
}
