//! Output in the columns and wording of `xl`.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// What `list` shows of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainLine<'a> {
    /// From xenstore.
    pub name: &'a str,
    /// Number.
    pub id: u16,
    /// Pages it has.
    pub pages: u64,
    /// vCPUs online.
    pub vcpus: u32,
    /// `XEN_DOMINF_*` flags, the shutdown code in bits 16-23.
    pub flags: u32,
    /// CPU time, ns.
    pub cpu_time: u64,
}

/// First line of `list`.
pub const LIST_HEAD: &str = "Name                                        ID   Mem VCPUs\tState\tTime(s)";

/// Bits of `getdomaininfo`'s flags.
pub mod flag {
    /// Being destroyed.
    pub const DYING: u32 = 1 << 0;
    /// Has shut down; the reason is in bits 16-23.
    pub const SHUTDOWN: u32 = 1 << 2;
    /// Paused by the toolstack.
    pub const PAUSED: u32 = 1 << 3;
    /// Waits for an event.
    pub const BLOCKED: u32 = 1 << 4;
    /// On a CPU now.
    pub const RUNNING: u32 = 1 << 5;
}

/// Shutdown reason in the flags of a domain that has shut down (`SHUTDOWN_*`).
pub fn shutdown_reason(flags: u32) -> Option<u32> {
    (flags & flag::SHUTDOWN != 0).then_some(flags >> 16 & 0xff)
}

/// Why a domain with these flags cannot be asked for anything, in a sentence, if it cannot.
pub fn deaf(flags: u32) -> Option<String> {
    shutdown_reason(flags).map(|reason| format!("it has stopped already, reason code {reason}"))
}

/// One line of `list`.
pub fn list_line(domain: &DomainLine<'_>) -> String {
    let mark = |bit: u32, letter: char| if domain.flags & bit != 0 { letter } else { '-' };
    /// Of poweroff, reboot, suspend, crash, watchdog, soft reset.
    const REASONS: &[u8] = b"-rscwS";
    let reason = shutdown_reason(domain.flags).map_or(b'-', |reason| {
        REASONS.get(reason as usize).copied().unwrap_or(b'?')
    });
    let state: String = [
        mark(flag::RUNNING, 'r'),
        mark(flag::BLOCKED, 'b'),
        mark(flag::PAUSED, 'p'),
        mark(flag::SHUTDOWN, 's'),
        reason.into(),
        mark(flag::DYING, 'd'),
    ]
    .iter()
    .collect();
    let time = seconds(domain.cpu_time);
    format!(
        "{:<40} {:>5} {:>5} {:>5}     {state}  {time:>8}",
        domain.name,
        domain.id,
        domain.pages / 256,
        domain.vcpus
    )
}

/// What `list -v` adds to the first line.
pub const LIST_HEAD_VERBOSE: &str = "   UUID                            Reason-Code\tSecurity Label";
/// What `list -c` adds to the first line.
pub const LIST_HEAD_POOL: &str = "         Cpupool";

/// What `list -v` adds: the domain's handle, why it has shut down, and no security label.
pub fn verbose(handle: &[u8; 16], flags: u32) -> String {
    let reason = shutdown_reason(flags).map_or("-".into(), |reason| format!("{reason:x}"));
    format!(" {} {reason:>8} {:>16}", uuid(handle), "-")
}

/// A handle in its usual form.
pub fn uuid(handle: &[u8; 16]) -> String {
    let mut text = String::new();
    for (index, byte) in handle.iter().enumerate() {
        if [4, 6, 8, 10].contains(&index) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// First line of `vcpu-list`.
pub const VCPU_LIST_HEAD: &str =
    "Name                                ID  VCPU   CPU State   Time(s) Affinity (Hard / Soft)";

/// What `vcpu-list` shows of a vCPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VcpuLine<'a> {
    /// Its domain's.
    pub name: &'a str,
    /// Its domain's number.
    pub id: u16,
    /// Its number.
    pub vcpu: u32,
    /// Where it runs, if it is online.
    pub cpu: Option<u32>,
    /// It runs.
    pub running: bool,
    /// It waits.
    pub blocked: bool,
    /// CPU time, ns.
    pub cpu_time: u64,
}

/// One line of `vcpu-list`, but for the affinities.
pub fn vcpu_line(vcpu: &VcpuLine<'_>) -> String {
    let mark = |set: bool, letter: char| if set { letter } else { '-' };
    let state = match vcpu.cpu {
        Some(cpu) => format!(
            "{cpu:>5} {:>3}{}- ",
            mark(vcpu.running, 'r'),
            mark(vcpu.blocked, 'b')
        ),
        None => format!("{:>5} {:>3}-p ", '-', '-'),
    };
    let time = seconds(vcpu.cpu_time);
    format!(
        "{:<32} {:>5} {:>5}{state}{time:>9}  ",
        vcpu.name, vcpu.id, vcpu.vcpu
    )
}

/// Nanoseconds in seconds, with tenths.
pub fn seconds(nanoseconds: u64) -> String {
    let tenths = nanoseconds / 100_000_000;
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// What `block-list` shows of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockLine<'a> {
    /// Its number.
    pub device: u32,
    /// Whose.
    pub domain: u16,
    /// The front end's state.
    pub state: Option<u32>,
    /// The front end's event channel.
    pub port: Option<u32>,
    /// The ring's grant.
    pub ring: Option<u32>,
    /// The back end's directory.
    pub back: &'a str,
}

/// First line of `block-list`.
pub const BLOCK_LIST_HEAD: &str = "Vdev  BE  handle state evt-ch ring-ref BE-path                       ";

/// One line of `block-list`; -1 stands for what is not known.
pub fn block_line(disk: &BlockLine<'_>) -> String {
    let known = |value: Option<u32>| value.map_or(-1, i64::from);
    format!(
        "{:<5} {:<3} {:<6} {:<5} {:<6} {:<8} {:<30}",
        disk.device,
        0,
        disk.domain,
        known(disk.state),
        known(disk.port),
        known(disk.ring),
        disk.back
    )
}

/// First line of `cpupool-list`.
pub const POOL_LIST_HEAD: &str = "Name               CPUs   Sched     Active   Domain count";
/// First line of `cpupool-list -c`.
pub const POOL_LIST_HEAD_CPUS: &str = "Name               CPU list";

/// One line of `cpupool-list`.
pub fn pool_line(name: &str, cpus: usize, scheduler: &str, domains: u32) -> String {
    format!("{name:<19}{cpus:>3} {scheduler:>9}       y       {domains:>4}")
}

/// One line of `cpupool-list -c`.
pub fn pool_line_cpus(name: &str, cpus: &[u32]) -> String {
    let cpus: Vec<String> = cpus.iter().map(|cpu| format!("{cpu}")).collect();
    format!("{name:<19}{}", cpus.join(","))
}

/// A duration as `uptime` shows it: `1 day,  2:03:04` or `0:12:34`.
pub fn uptime(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let time = format!("{}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60);
    match days {
        0 => time,
        1 => format!("1 day, {time:>8}"),
        days => format!("{days} days, {time:>8}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_as_xl_prints_it() {
        let line = |flags| {
            list_line(&DomainLine {
                name: "debian",
                id: 1,
                pages: 49_152,
                vcpus: 2,
                flags,
                cpu_time: 6_512_000_000,
            })
        };
        let wanted = "debian                                       1   192     2     -b----       6.5";
        assert_eq!(line(flag::BLOCKED), wanted);
        assert!(line(flag::SHUTDOWN | 1 << 16).contains(" ---sr- "));
        assert!(line(flag::SHUTDOWN | 3 << 16).contains(" ---sc- "));
        assert!(line(flag::SHUTDOWN | 9 << 16).contains(" ---s?- "));
        assert!(line(flag::SHUTDOWN).contains(" ---s-- "));
        assert!(line(flag::PAUSED | flag::DYING).contains(" --p--d "));
        assert!(line(flag::RUNNING).contains(" r----- "));
    }

    #[test]
    fn who_has_stopped_cannot_be_asked() {
        assert_eq!(deaf(flag::RUNNING | 1 << 16), None);
        assert_eq!(
            deaf(flag::SHUTDOWN | 3 << 16).as_deref(),
            Some("it has stopped already, reason code 3")
        );
    }

    #[test]
    fn columns_of_list_v() {
        let wanted = " 00010203-0405-0607-0809-0a0b0c0d0e0f        3                -";
        let handle = core::array::from_fn(|index| index as u8);
        assert_eq!(verbose(&handle, flag::SHUTDOWN | 3 << 16), wanted);
        assert!(verbose(&handle, 0).contains("0e0f        - "));
    }

    #[test]
    fn vcpu_list_as_xl_prints_it() {
        let line = |cpu, running, blocked| {
            vcpu_line(&VcpuLine {
                name: "debian",
                id: 1,
                vcpu: 2,
                cpu,
                running,
                blocked,
                cpu_time: 21_120_000_000,
            })
        };
        let wanted = "debian                               1     2    3   r--      21.1  ";
        assert_eq!(line(Some(3), true, false), wanted);
        assert!(line(Some(3), false, true).contains("    3   -b-  "));
        assert!(line(None, false, false).contains("    -   --p  "));
    }

    #[test]
    fn block_list_as_xl_prints_it() {
        let line = |port| {
            block_line(&BlockLine {
                device: 51_712,
                domain: 1,
                state: Some(4),
                port,
                ring: Some(8),
                back: "/local/domain/0/backend/vbd/1/51712",
            })
        };
        let wanted = "51712 0   1      4     15     8        /local/domain/0/backend/vbd/1/51712";
        assert_eq!(line(Some(15)), wanted);
        assert!(line(None).contains("4     -1     8"));
        assert!(BLOCK_LIST_HEAD.starts_with("Vdev  BE  handle state evt-ch ring-ref BE-path"));
    }

    #[test]
    fn cpu_pools_as_xl_prints_them() {
        let wanted = "Pool-0               3   credit2       y          2";
        assert_eq!(pool_line("Pool-0", 3, "credit2", 2), wanted);
        assert_eq!(pool_line_cpus("Pool-0", &[0, 1, 3]), "Pool-0             0,1,3");
    }

    #[test]
    fn durations() {
        assert_eq!(uptime(754), "0:12:34");
        assert_eq!(uptime(86_400 + 7_384), "1 day,  2:03:04");
        assert_eq!(uptime(3 * 86_400), "3 days,  0:00:00");
    }
}
