//! Options good and bad.

use super::*;
use crate::arch::speculation::Defences;
use crate::hw::serial::Parity;
use proptest::prelude::*;

#[test]
fn an_ordinary_line() {
    let line =
        parse("console=com2,vga com2=9600,7e2,0x3e8,5 loglvl=all guest_loglvl=error/all noreboot dom0=pvh");
    assert_eq!(line.complaints.as_slice(), [Complaint::NoScreen]);
    assert_eq!((line.console_com1, line.console_com2), (false, true));
    let expected = SerialPort {
        baud: Some(9600),
        data_bits: 7,
        parity: Parity::Even,
        stop_bits: 2,
        base: 0x3e8,
        irq: 5,
    };
    assert_eq!(line.com2, expected);
    assert_eq!(line.console_ports().as_slice(), [expected]);
    assert_eq!(expected.registers(), 0x3e8..=0x3ef);
    assert!(parse("console=none").console_ports().is_empty());
    assert_eq!(
        (line.level, line.guest_levels.always, line.guest_levels.limited),
        (LevelFilter::Trace, LevelFilter::Error, LevelFilter::Trace)
    );
    assert_eq!(parse("sched-gran=core").granularity, Granularity::Core);
    assert_eq!(parse("sched-gran=thread").complaints.len(), 1);
    assert!(parse("bench=floor").bench_floor && !parse("bench=ceiling").bench_floor);
    let large_code = |text| parse(text).large_code;
    assert_eq!(large_code("ept=exec-sp"), Some(true));
    assert_eq!(large_code("ept=no-exec-sp"), Some(false));
    assert_eq!(large_code("ept=exec-sp=0"), Some(false));
    assert_eq!((large_code(""), large_code("ept=pml")), (None, None));
    let x2apic = |text| parse(text).x2apic;
    assert_eq!(
        (
            x2apic(""),
            x2apic("x2apic"),
            x2apic("no-x2apic"),
            x2apic("x2apic=off")
        ),
        (None, Some(true), Some(false), Some(false))
    );
    assert!(line.noreboot && !parse("noreboot=off").noreboot);
}

#[test]
fn sizes() {
    let memory = |text| parse(text).dom0_mem;
    let bytes = |bytes| {
        Some(MemorySize {
            all_but: false,
            bytes,
            percent: 0,
        })
    };
    assert_eq!(memory("dom0_mem=256M").size, bytes(256 << 20));
    assert_eq!(memory("dom0_mem=1024").size, bytes(1 << 20));
    let all = memory("dom0_mem=-1G,min:0x10M,max:8g");
    assert_eq!(all.size.map(|size| size.of(4 << 30)), Some(3 << 30));
    assert_eq!((all.min, all.max), (bytes(16 << 20), bytes(8 << 30)));
    assert_eq!(all.amount(2 << 30), 1 << 30);
    assert_eq!(all.amount(1 << 30), 0x10 << 20, "at least");
    assert_eq!(all.amount(64 << 30), 8 << 30, "at most");
    assert_eq!(all.max_pages(64 << 30), 8 << 18);
    assert_eq!(Dom0Memory::default().amount(64 << 30), 32 << 30);
    assert_eq!(Dom0Memory::default().max_pages(64 << 30), u64::from(u32::MAX));
    assert_eq!(memory("dom0_mem=99999999999999999T"), Dom0Memory::default());
}

#[test]
fn shares_of_the_memory() {
    const TOTAL: u64 = 256 << 30;
    let amount = |text| parse(&format!("dom0_mem={text}")).dom0_mem.amount(TOTAL);
    assert_eq!(amount("1G+25%"), 65 << 30);
    assert_eq!(amount("25%"), 64 << 30);
    assert_eq!(amount("-1G+25%"), 191 << 30);
    assert_eq!(amount("min:10%,max:4G+1%,0%"), TOTAL / 100 + (4 << 30));
    assert_eq!(
        parse("dom0_mem=99%").dom0_mem.amount(u64::MAX),
        (u128::from(u64::MAX) * 99 / 100) as u64
    );
    for text in ["100%", "%", "1G+%", "+5%", "5%+1G", "-%", "1G+-5%", "1.5%"] {
        assert_eq!(parse(&format!("dom0_mem={text}")).complaints.len(), 1, "{text}");
    }
}

#[test]
fn watchdogs_and_resets() {
    let watchdog = |text| parse(text).watchdog.filter(|&timeout| timeout > 0);
    assert_eq!((watchdog(""), watchdog("watchdog_timeout=9")), (None, None));
    assert_eq!((watchdog("watchdog"), watchdog("watchdog=1")), (Some(5), Some(5)));
    assert_eq!((watchdog("watchdog=0"), watchdog("no-watchdog")), (None, None));
    assert_eq!(watchdog("watchdog_timeout=9 watchdog"), Some(9));
    assert_eq!(watchdog("watchdog watchdog_timeout=9"), Some(9));
    assert_eq!(watchdog("watchdog watchdog_timeout=0"), None);
    assert_eq!(parse("watchdog=often watchdog_timeout=x").complaints.len(), 2);
    for (text, forced) in [
        ("watchdog=force", (Some(5), true)),
        ("watchdog=force watchdog_timeout=9", (Some(9), true)),
        ("watchdog", (Some(5), false)),
        ("watchdog=force watchdog", (Some(5), false)),
        ("watchdog=force no-watchdog", (None, false)),
        ("no-watchdog=force", (None, false)),
        ("watchdog=forced", (None, false)),
        ("watchdog=", (None, false)),
    ] {
        let line = parse(text);
        assert_eq!((line.watchdog, line.watchdog_force), forced, "{text}");
    }
    assert_eq!(parse("watchdog=force").complaints.len(), 0);
    for (text, reset) in [
        ("", Reset::Acpi),
        ("reboot=pci", Reset::Pci),
        ("reboot=P", Reset::Power),
        ("reboot=kbd", Reset::Keyboard),
        ("reboot=t", Reset::Triple),
    ] {
        assert_eq!(parse(text).reset, reset, "{text}");
    }
    assert!(parse("reboot=no").noreboot);
    assert_eq!(parse("reboot=efi reboot=").complaints.len(), 2);
    for (value, test) in [
        ("hang", CrashTest::Hang),
        ("fault", CrashTest::Fault),
        ("stack", CrashTest::Stack),
    ] {
        assert_eq!(parse(&format!("crash_test={value}")).crash_test, Some(test));
    }
    assert_eq!(
        parse("crash_test=tsc-behind").crash_test,
        Some(CrashTest::Tsc(-10))
    );
    assert_eq!(parse("crash_test=burn").crash_test, None);
    assert!(!parse("").dom0_vcpus_pin && parse("dom0_vcpus_pin").dom0_vcpus_pin);
    assert!(parse("").apicv && !parse("apicv=0").apicv && !parse("no-apicv").apicv);
    assert!(!parse("").mwait_idle && parse("mwait-idle").mwait_idle);
}

#[test]
fn defences() {
    let defences = |text| parse(text).defences;
    assert_eq!(defences(""), Wish::NONE);
    assert_eq!(defences("spec-ctrl=no").off, Defences::all());
    let some = defences("spec-ctrl=no-ibpb,l1d-flush=off,md-clear");
    assert_eq!(some.off, Defences::IBPB | Defences::L1D_FLUSH);
    assert_eq!(some.on, Defences::MD_CLEAR);
    let one = defences("spec-ctrl=0,ibpb");
    assert_eq!((one.on, one.off), (Defences::IBPB, !Defences::IBPB));
    assert!(defences("spec-ctrl=md-clear,no").on.is_empty());
    // One name for all kinds, and Xen's words for its kinds of guests.
    assert_eq!(defences("spec-ctrl=no-ibrs").off, Defences::ANY_IBRS);
    let hvm = defences("spec-ctrl=rsb=hvm,bhb-entry=no-hvm,ibpb-entry=hvm=0,verw=hvm=1");
    assert_eq!(hvm.on, Defences::ANY_RSB | Defences::MD_CLEAR);
    assert_eq!(hvm.off, Defences::BHB | Defences::IBPB_AT_EXITS);
    for text in [
        "spec-ctrl",
        "spec-ctrl=yes",
        "spec-ctrl=bti-thunk=retpoline",
        "spec-ctrl=rsb=pv",
        "spec-ctrl=ibpb=maybe",
    ] {
        assert_eq!(parse(text).complaints.len(), 1, "{text}");
    }
}

#[test]
fn processors() {
    let vcpus = |text| parse(text).dom0_max_vcpus;
    assert_eq!(vcpus("dom0_max_vcpus=4"), Some((4, 4)));
    assert_eq!(vcpus("dom0_max_vcpus=2-8"), Some((2, 8)));
    assert_eq!(vcpus("dom0_max_vcpus=-8"), Some((1, 8)));
    assert_eq!(vcpus("dom0_max_vcpus=8-2"), None);
    for (text, expected) in [
        ("", 4),
        ("dom0_max_vcpus=2", 2),
        ("dom0_max_vcpus=6-8", 6),
        ("dom0_max_vcpus=-3", 3),
    ] {
        assert_eq!(parse(text).dom0_vcpus(4), expected, "{text}");
    }
    assert_eq!(vcpus("dom0_max_vcpus=0"), None);
    assert_eq!(parse("").max_cpus, u32::MAX);
    assert_eq!(parse("maxcpus=2").max_cpus, 2);
    assert_eq!(parse("maxcpus=0").complaints.len(), 1);
    assert!(parse("nosmp").no_smp && !parse("").no_smp);
}

/// What Debian's update-grub writes, with its example of GRUB_CMDLINE_XEN_DEFAULT.
#[test]
fn debian_s_grub_is_not_complained_about() {
    let line = parse("placeholder dom0_mem=1024M,max:1024M console=com1 com1=115200 no-real-mode edd=off");
    assert!(line.complaints.is_empty(), "{:?}", line.complaints);
    assert_eq!(
        parse("edd=on").complaints.as_slice(),
        [Complaint::NoEffect("edd=on")]
    );
}

#[test]
fn limits() {
    let line = parse("gnttab_max_frames=128 gnttab_max_maptrack_frames=0x800 sched_ratelimit_us=500");
    assert_eq!(
        line.grant_limits,
        grant::Limits {
            frames: 128,
            maptrack_frames: 2048
        }
    );
    assert_eq!(line.rate_limit_us, Some(500));
    assert_eq!(parse("sched_ratelimit_us=0").rate_limit_us, Some(0));
    let bad = "gnttab_max_frames=0 gnttab_max_frames=4097 gnttab_max_maptrack_frames=65537 sched_ratelimit_us=99 \
               sched_ratelimit_us=500001 conring_size=65M mem=much clocksource=pit";
    let line = parse(bad);
    assert_eq!(line.complaints.len(), 8, "{:?}", line.complaints);
    let expected = CommandLine {
        complaints: line.complaints.clone(),
        ..Default::default()
    };
    assert_eq!(line, expected);
    let line = parse("mem=512M conring_size=256k clocksource=acpi sync_console");
    assert_eq!((line.memory_end, line.log_size), (512 << 20, Some(256 << 10)));
    assert!(line.prefers_pm_timer && line.sync_console && line.complaints.is_empty());
    assert!(!parse("clocksource=acpi clocksource=hpet").prefers_pm_timer);
}

#[test]
fn stamps() {
    let stamps = |text: &str| parse(text).stamps;
    assert_eq!(stamps(""), Stamps::Boot);
    for (value, expected) in [
        ("none", Stamps::None),
        ("date", Stamps::Date),
        ("datems", Stamps::DateMs),
        ("boot", Stamps::Boot),
        ("raw", Stamps::Raw),
        ("yes", Stamps::Date),
        ("off", Stamps::None),
    ] {
        assert_eq!(stamps(&format!("console_timestamps={value}")), expected);
    }
    assert_eq!(parse("console_timestamps=never").complaints.len(), 1);
}

#[test]
fn what_is_wrong_is_named() {
    let line =
        parse("nonsense com1=1152oo,8n1 sched=rtds no-noreboot loglvl dom0_mem=low:4M console=com3 -- more");
    let texts: Vec<_> = line.complaints.iter().map(|c| format!("{c}")).collect();
    assert_eq!(texts.len(), 6, "{texts:?}");
    assert!(texts[0].contains("unknown option \"nonsense\""));
    assert!(texts[1].contains("BAUD[,DPS"));
    assert!(texts[2].contains("sched=rtds") && texts[2].contains("no effect"));
    assert_eq!(line.com1, CommandLine::default().com1);
}

proptest! {
    /// Whatever a boot loader hands over: no panic, and no more than one complaint a word.
    #[test]
    fn any_text(text in "[ -~é]{0,80}", name in 0..OPTIONS.len(), value in "[0-9a-z,:x/-]{0,12}") {
        let text = format!("{text} {}={value}", OPTIONS[name].0);
        prop_assert!(parse(&text).complaints.len() <= text.split_ascii_whitespace().count());
    }
}
