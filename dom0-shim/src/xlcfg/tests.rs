//! Configs good and bad.

use super::*;
use crate::cpus::CpuSet;

const SMALL: &str = "name='a'\nkernel='/k'\nmemory=64\n";

fn error(more: &str) -> String {
    parse(&format!("{SMALL}{more}")).unwrap_err().to_string()
}

#[test]
fn the_baseline_config() {
    let config = parse(
        r#"# Linux PVH guest
        name = "linux1"
        type = "pvh"
        kernel = "/guests/vmlinuz"
        ramdisk = "/guests/mini.cpio.gz"
        extra = "console=hvc0 earlyprintk=xen"
        memory = 192
        vcpus = 1
        tsc_mode = "native"
        on_poweroff = "destroy"
        on_crash = "preserve"
        on_reboot = "destroy"
        "#,
    )
    .unwrap();
    assert_eq!(config.name, "linux1");
    assert_eq!(config.command_line, "console=hvc0 earlyprintk=xen");
    assert_eq!(
        (config.memory, config.max_memory, config.vcpus, config.max_vcpus),
        (192, 192, 1, 1)
    );
    assert_eq!(
        (config.on_poweroff, config.on_crash),
        (Action::Destroy, Action::Preserve)
    );
    assert_eq!(
        (config.on_reboot, config.on_watchdog),
        (Action::Destroy, Action::Destroy)
    );
    assert_eq!(
        (config.tsc_mode, config.event_channels, config.max_grant_frames),
        (2, 1023, 64)
    );
    assert!(config.warnings.is_empty());
}

#[test]
fn time_stamp_counters() {
    let tsc = |more: &str| parse(&format!("{SMALL}{more}")).map(|config| (config.tsc_mode, config.tsc_khz));
    assert_eq!(tsc("").unwrap(), (0, 0));
    assert_eq!(
        tsc("tsc_mode='default'\ntsc_khz=1200000").unwrap(),
        (0, 1_200_000)
    );
    assert_eq!(tsc("tsc_mode='always_emulate'").unwrap(), (1, 0));
    assert_eq!(tsc("tsc_mode=2").unwrap(), (2, 0));
    let cpuid = |more: &str| parse(&format!("{SMALL}{more}")).unwrap().cpuid;
    let invariant = Changes::parse("host,invtsc=1").unwrap();
    assert_eq!(cpuid("tsc_mode='always_emulate'"), invariant);
    assert_eq!(cpuid("nomigrate=1"), invariant);
    assert!(cpuid("nomigrate=0\ntsc_mode='native'").is_empty());
    // Gone since Xen 4.13.
    assert!(tsc("tsc_mode='native_paravirt'").is_err());
    assert!(tsc("tsc_mode=3").is_err());
    assert!(tsc("tsc_khz=1").is_err());
}

#[test]
fn command_lines() {
    let line = |more: &str| parse(&format!("{SMALL}{more}")).unwrap().command_line;
    assert_eq!(line(""), "");
    assert_eq!(
        line("root='/dev/xvda'\nextra='ro quiet'"),
        "root=/dev/xvda ro quiet"
    );
    assert_eq!(line("cmdline='whole'\nextra='ro'"), "whole");
    let config = parse(&format!(
        "{SMALL}cmdline='whole'\nextra='ro'\nvif=['bridge=br0,script=x', '']\ndisk=[]"
    ))
    .unwrap();
    assert_eq!(config.warnings.len(), 2, "{:?}", config.warnings);
    assert_eq!(
        config.warnings[0],
        "line 6: vif: 'script' is ignored: dom0-shim connects devices itself"
    );
    assert_eq!(
        (config.vifs[0].bridge.as_str(), config.vifs[1].bridge.as_str()),
        ("br0", vif::BRIDGE)
    );
}

#[test]
fn pins_are_for_all_vcpus_or_for_each() {
    let pins = |more: &str| parse(&format!("{SMALL}vcpus=3\n{more}")).unwrap().cpus;
    let set = |text: &str| CpuSet::parse(text).unwrap();
    assert_eq!(pins("").of(0), None);
    assert_eq!(pins("cpus='0-3,^2'").of(2), Some(&set("0-3,^2")));
    let each = pins("cpus=['1', 2]");
    assert_eq!(
        (each.of(0), each.of(1), each.of(2)),
        (Some(&set("1")), Some(&set("2")), None)
    );
    assert_eq!(error("cpus='x'"), "line 4: cpus: 'x' is not the number of a CPU");
}

#[test]
fn memory_at_the_start_and_at_most() {
    let config = parse(&format!("{SMALL}maxmem=128")).unwrap();
    assert_eq!((config.memory, config.max_memory), (64, 128));
    assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
    assert!(config.warnings[0].contains("starts with all of maxmem (128)"));
}

#[test]
fn cpu_pool() {
    let config = parse(&format!("{SMALL}pool='fast'")).unwrap();
    assert_eq!(config.pool.as_deref(), Some("fast"));
    assert_eq!(parse(SMALL).unwrap().pool, None);
    assert_eq!(error("pool = 1"), "line 4: pool: a string in quotes is wanted");
}

#[test]
fn refuses() {
    assert_eq!(error("kernal = 'x'"), "line 4: unknown key 'kernal'");
    assert_eq!(
        error("type = 'hvm'"),
        "line 4: type: 'hvm' guests are not supported; only \"pvh\" is"
    );
    assert_eq!(
        error("memory = 2"),
        "line 4: memory: 2 is not between 4 and 16777216"
    );
    assert_eq!(error("vcpus = 0"), "line 4: vcpus: 0 is not between 1 and 128");
    assert_eq!(error("vcpus = 'x'"), "line 4: vcpus: a number is wanted");
    assert_eq!(
        error("vcpus = 4\nmaxvcpus = 2"),
        "maxvcpus (2) is less than vcpus (4)"
    );
    assert_eq!(error("maxmem = 32"), "maxmem (32) is less than memory (64)");
    assert!(
        error("on_crash = 'coredump-restart'")
            .contains("coredump-restart: dom0-shim has no place for a core dump")
    );
    assert!(error("on_crash = 'explode'").starts_with("line 4: on_crash: unknown action 'explode'"));
    assert_eq!(
        error("disk = ['/i,raw,xvda,rw', '/i,raw,xvdb,rw,colour=red']"),
        "line 4: disk: '/i,raw,xvdb,rw,colour=red': unknown key 'colour'"
    );
    assert_eq!(
        error("disk = ['/i,raw,xvda,rw', '/j,raw,d0,rw']"),
        "line 4: disk: '/j,raw,d0,rw': there are two disks d0"
    );
    assert_eq!(error("disk = '/i,raw,xvda,rw'"), "line 4: disk: a list is wanted");
    assert_eq!(error("vif = ['brigde=x']"), "line 4: vif: unknown key 'brigde'");
    assert_eq!(
        error("vif = 'bridge=x'"),
        "line 4: vif: a list of strings is wanted"
    );
    assert!(error("uuid = '123'").contains("32 hexadecimal digits"));
    assert!(error("name = 'a b'").contains("letters"));
    assert!(error("name = '17'").contains("domain id"));
    assert_eq!(error("name = 'Domain-0'"), "line 4: name: that is dom0");
    assert_eq!(
        parse("kernel='/k'\nmemory=64").unwrap_err().to_string(),
        "'name' is missing"
    );
    assert_eq!(
        parse("name='a'\nmemory=64").unwrap_err().to_string(),
        "'kernel' is missing"
    );
    assert_eq!(
        parse("name='a'\nkernel='/k'").unwrap_err().to_string(),
        "'memory' is missing"
    );
}

#[test]
fn reads_a_uuid() {
    let config = parse(&format!("{SMALL}uuid='01234567-89ab-cdef-0123-456789abcdef'")).unwrap();
    let wanted = [
        1, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 1, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef,
    ];
    assert_eq!(config.uuid, Some(wanted));
}

#[test]
fn keys_for_what_there_is_not() {
    let warnings = |more: &str| parse(&format!("{SMALL}{more}")).unwrap().warnings;
    assert_eq!(
        warnings("vnc=1"),
        ["line 4: 'vnc' is ignored: a guest has a console and no screen"]
    );
    assert_eq!(
        warnings("hap=0"),
        ["line 4: 'hap' is ignored: there are nested page tables only"]
    );
    assert_eq!(
        warnings("localtime=1"),
        ["line 4: 'localtime' is ignored: dom0-shim's time zone is UTC"]
    );
    let quiet = "vnc=0\nhap=1\nacpi=1\nlocaltime=0\npci=[]\nnomigrate=1\nbuilder='generic'\npassthrough='disabled'\n\
                 bootloader=''\nnestedhvm=0";
    assert_eq!(warnings(quiet), [""; 0]);
    assert_eq!(
        error("pci=['01:00.0']"),
        "line 4: pci: there is no passthrough of devices"
    );
    assert_eq!(
        error("nestedhvm=1"),
        "line 4: nestedhvm: there is no nested virtualization"
    );
    let relaxed = |more: &str| parse(&format!("{SMALL}{more}")).unwrap().msr_relaxed;
    assert!(relaxed("msr_relaxed=1") && !relaxed("msr_relaxed=0") && !relaxed(""));
    assert!(error("bootloader='pygrub'").contains("as /dev/vda1:/vmlinuz"));
    assert!(error("builder='hvm'").contains("'hvm' guests are not supported"));
    assert_eq!(
        error("nomigrate=2"),
        "line 4: nomigrate: 2 is not between 0 and 1"
    );
}

#[test]
fn limits_and_clocks() {
    let config = parse(&format!(
        "{SMALL}max_grant_version=1\nshadow_memory=8\nmax_event_channels=64\nrtc_timeoffset='-3600'\ncpuid='host,avx2=0'"
    ))
    .unwrap();
    assert_eq!(
        (config.max_grant_version, config.shadow_memory),
        (Some(1), Some(8))
    );
    assert_eq!((config.event_channels, config.time_offset), (64, -3600));
    assert_eq!(Ok(config.cpuid), Changes::parse("host,avx2=0"));
    assert!(parse(SMALL).unwrap().cpuid.is_empty());
    assert_eq!(
        error("max_grant_version=3"),
        "line 4: max_grant_version: 3 is not between 1 and 2"
    );
    assert!(error("rtc_timeoffset='soon'").contains("seconds from"));
    assert_eq!(
        error("cpuid='host,avx9=0'"),
        "line 4: cpuid: 'avx9=0': no feature has this name"
    );
    assert_eq!(error("cpuid=['7']"), "line 4: cpuid: '7': ':' is missing");
}
