//! The command table: names, arguments, help texts, what completes where.

/// A command of the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the commands, which TABLE describes")]
pub enum Command {
    Help,
    List,
    Info,
    Dmesg,
    Create,
    Console,
    ConsoleLog,
    ChannelList,
    Destroy,
    Shutdown,
    Reboot,
    Rename,
    Sysrq,
    Trigger,
    Pause,
    Unpause,
    Domid,
    Domname,
    VcpuList,
    VcpuPin,
    VcpuSet,
    MemSet,
    MemMax,
    SchedCredit2,
    PoolList,
    PoolCreate,
    PoolDestroy,
    PoolCpuAdd,
    PoolCpuRemove,
    PoolMigrate,
    PoolRename,
    Hptool,
    Uptime,
    DebugKeys,
    NetworkAttach,
    NetworkDetach,
    NetworkList,
    NetworkStats,
    XenstoreLs,
    XenstoreRead,
    XenstoreWrite,
    XenstoreRm,
    XenstoreList,
    XenstoreExists,
    XenstoreChmod,
    XenstoreWatch,
    XenstoreControl,
    BlockAttach,
    BlockDetach,
    BlockResize,
    BlockList,
    Poweroff,
}

/// What an argument of a command names; for completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// Nothing that could be completed.
    Nothing,
    /// A domain.
    Domains,
    /// A config file in the boot archive.
    Configs,
    /// A command.
    Commands,
    /// One of [`HPTOOL`].
    Hptool,
}

/// The operations of `xen-hptool`.
pub const HPTOOL: [&str; 2] = ["cpu-online", "cpu-offline"];

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Which command.
    pub command: Command,
    /// What is typed.
    pub name: &'static str,
    /// Its arguments, for help.
    pub arguments: &'static str,
    /// Fewest and most arguments.
    pub count: (usize, usize),
    /// What they name.
    pub names: Names,
    /// One line of help.
    pub help: &'static str,
}

macro_rules! table {
    ($($command:ident $name:literal $arguments:literal $count:expr, $names:ident, $help:literal;)*) => {
        &[$(Entry {
            command: Command::$command,
            name: $name,
            arguments: $arguments,
            count: $count,
            names: Names::$names,
            help: $help,
        },)*]
    };
}

/// Every command, in the order of the help text.
pub const TABLE: &[Entry] = table! {
    Create "create" "[-c] [-p] CONFIG [KEY=VALUE]..." (1, 20), Configs, "Create a domain from a config file, with these settings in place of its own; -c: attach its console, -p: leave it paused";
    List "list" "[-l] [-v] [-c] [DOMAIN]" (0, 4), Domains, "List information about all, or one, of the domains; -l: all of it (JSON), -v: with UUID and reason, -c: with CPU pool";
    Console "console" "[-n NUM] [-t pv] DOMAIN" (1, 5), Domains, "Attach to a domain's console, its first or the channel of a number; Ctrl-] detaches";
    ConsoleLog "console-log" "[-n NUM] DOMAIN" (1, 3), Domains, "Show what a domain, and those of its name before it, wrote to its console";
    ChannelList "channel-list" "DOMAIN..." (1, 16), Domains, "List virtual channel devices for a domain";
    Shutdown "shutdown" "[-w] [-F] -a|DOMAIN" (1, 5), Domains, "Ask a domain, or all (-a), to shut down; -w: wait until it has (Ctrl-C or Ctrl-] ends that); Domain-0 is the machine";
    Reboot "reboot" "[-w] [-F] -a|DOMAIN" (1, 5), Domains, "Ask a domain, or all (-a), to reboot; -w: wait until it has stopped (Ctrl-C or Ctrl-] ends that); Domain-0 is the machine";
    Destroy "destroy" "DOMAIN" (1, 1), Domains, "Terminate a domain immediately";
    Pause "pause" "DOMAIN" (1, 1), Domains, "Pause execution of a domain";
    Unpause "unpause" "DOMAIN" (1, 1), Domains, "Unpause a paused domain";
    Rename "rename" "DOMAIN NEW-NAME" (2, 2), Domains, "Rename a domain";
    Sysrq "sysrq" "DOMAIN LETTER" (2, 2), Domains, "Send a magic key to a domain's kernel";
    Trigger "trigger" "DOMAIN nmi [VCPU]" (2, 3), Domains, "Send an NMI to a domain";
    Domid "domid" "NAME" (1, 1), Domains, "Convert a domain name to domain id";
    Domname "domname" "DOMID" (1, 1), Nothing, "Convert a domain id to domain name";
    VcpuList "vcpu-list" "[DOMAIN]" (0, 1), Domains, "List the VCPUs for all/some domains";
    VcpuPin "vcpu-pin" "DOMAIN VCPU|all HARD|- [SOFT|-]" (3, 4), Domains, "Set which CPUs a VCPU can use, and which it should";
    VcpuSet "vcpu-set" "[-i] DOMAIN COUNT" (2, 3), Domains, "Set how many VCPUs a domain may use; -i: more than the host has CPUs";
    MemSet "mem-set" "DOMAIN SIZE" (2, 2), Domains, "Set the current memory usage for a domain (MiB, or with k, m, g)";
    MemMax "mem-max" "DOMAIN SIZE" (2, 2), Domains, "Set the maximum amount reservation for a domain";
    SchedCredit2 "sched-credit2" "[-d DOMAIN [-w WEIGHT] [-c CAP]] [-s [-r RATELIMIT_US]]" (0, 6), Domains, "Get/set credit2 scheduler parameters";
    PoolList "cpupool-list" "[-c] [CPUPOOL]" (0, 2), Nothing, "List CPU pools on host; -c: with their CPUs";
    PoolCreate "cpupool-create" "name=NAME [cpus=CPUS] [sched=credit2]" (1, 3), Nothing, "Create a new CPU pool, of free CPUs";
    PoolDestroy "cpupool-destroy" "CPUPOOL" (1, 1), Nothing, "Deactivates a CPU pool; its CPUs are free then";
    PoolRename "cpupool-rename" "CPUPOOL NEW-NAME" (2, 2), Nothing, "Renames a CPU pool";
    PoolCpuAdd "cpupool-cpu-add" "CPUPOOL CPUS" (2, 2), Nothing, "Adds free CPUs to a CPU pool";
    PoolCpuRemove "cpupool-cpu-remove" "CPUPOOL CPUS" (2, 2), Nothing, "Removes CPUs from a CPU pool";
    PoolMigrate "cpupool-migrate" "DOMAIN CPUPOOL" (2, 2), Domains, "Moves a domain into a CPU pool";
    Hptool "xen-hptool" "cpu-online|cpu-offline CPU" (2, 2), Hptool, "Take a CPU of the machine on or off";
    Uptime "uptime" "[DOMAIN]" (0, 1), Domains, "Print uptime for all/some domains";
    BlockAttach "block-attach" "DOMAIN DISK-SPEC" (2, 8), Domains, "Create a new virtual block device";
    BlockDetach "block-detach" "[--force] DOMAIN DISK" (2, 3), Domains, "Destroy a domain's virtual block device";
    BlockResize "block-resize" "DOMAIN DISK SIZE" (3, 3), Domains, "Give a disk in RAM another size (bytes, or with k, m, g); not one of xl's commands";
    BlockList "block-list" "DOMAIN..." (1, 64), Domains, "List virtual block devices for a domain";
    Info "info" "[-n|ROW]" (0, 1), Nothing, "Get information about the host; -n: with places of CPUs and memory, ROW: this value alone (info free_memory)";
    Dmesg "dmesg" "[-c]" (0, 1), Nothing, "Read and/or clear the hypervisor's message buffer";
    DebugKeys "debug-keys" "KEYS" (1, 1), Nothing, "Send debug keys to the hypervisor";
    NetworkAttach "network-attach" "DOMAIN [KEY=VALUE]..." (1, 16), Domains, "Create a new virtual network device";
    NetworkList "network-list" "DOMAIN..." (1, 16), Domains, "List virtual network interfaces for a domain";
    NetworkDetach "network-detach" "DOMAIN DEVID|MAC" (2, 2), Domains, "Destroy a domain's virtual network device";
    NetworkStats "network-stats" "DOMAIN..." (1, 16), Domains, "Count packets of a domain's network devices";
    XenstoreLs "xenstore-ls" "[-f] [-p] [PATH]..." (0, 20), Nothing, "List subtrees of xenstore; -f: with whole paths, -p: with permissions";
    XenstoreRead "xenstore-read" "[-p] [-R] PATH..." (1, 20), Nothing, "Read xenstore nodes; -p: with their paths, -R: bytes as they are";
    XenstoreWrite "xenstore-write" "[-R] PATH VALUE..." (2, 20), Nothing, "Write xenstore nodes; \\x20 is a space unless -R";
    XenstoreRm "xenstore-rm" "[-t] PATH..." (1, 20), Nothing, "Remove xenstore nodes; -t: and empty ones above them";
    XenstoreList "xenstore-list" "[-p] PATH..." (1, 20), Nothing, "List the children of xenstore nodes; -p: with whole paths";
    XenstoreExists "xenstore-exists" "PATH..." (1, 20), Nothing, "Say which xenstore nodes do not exist";
    XenstoreChmod "xenstore-chmod" "[-u] [-r] PATH MODE..." (2, 20), Nothing, "Set permissions of a xenstore node, e.g. n0 r5; -u: also above, -r: also below";
    XenstoreWatch "xenstore-watch" "[-n NR] PATH..." (1, 20), Nothing, "Print paths that change below some; a key, or NR lines, ends it";
    XenstoreControl "xenstore-control" "COMMAND [ARGUMENT]" (1, 2), Nothing, "check, help, quota [DOMID]: what xenstore holds and its limits";
    Help "help" "[COMMAND]" (0, 1), Commands, "Show this list, or what one command and its options do";
    Poweroff "poweroff" "" (0, 0), Nothing, "Shut all domains down and power the machine off";
    Poweroff "exit" "" (0, 0), Nothing, "The same as poweroff";
};

impl Entry {
    /// Its line in the list of all commands: what its options do is left to its own help.
    pub fn summary(&self) -> &'static str {
        self.help.split(';').next().unwrap_or_default()
    }
}

/// The entry for a name, or for an unambiguous abbreviation of one. What ends the machine is to be typed whole.
pub fn find(name: &str) -> Option<&'static Entry> {
    if let Some(entry) = TABLE.iter().find(|entry| entry.name == name) {
        return Some(entry);
    }
    let mut matching = TABLE.iter().filter(|entry| entry.name.starts_with(name));
    let only = matching.next().filter(|_| matching.next().is_none());
    only.filter(|entry| entry.command != Command::Poweroff)
}

/// A line as it is typed, without the `xl` in front that who knows Xen types.
pub fn behind_xl(line: &str) -> &str {
    let line = line.trim_ascii_start();
    line.strip_prefix("xl ").unwrap_or(line).trim_ascii_start()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_xl_away() {
        assert_eq!(behind_xl(" xl  list -l xl "), "list -l xl ");
        assert_eq!((behind_xl("xl "), behind_xl("xl li")), ("", "li"));
        for line in ["xl", "xlist h", "list xl h"] {
            assert_eq!(behind_xl(line), line);
        }
    }

    #[test]
    fn finds_commands() {
        assert_eq!(find("list").map(|entry| entry.command), Some(Command::List));
        assert_eq!(find("dest").map(|entry| entry.command), Some(Command::Destroy));
        assert!(find("d").is_none() && find("").is_none() && find("nonsense").is_none());
        assert!(find("exi").is_none() && find("powerof").is_none() && find("exit").is_some());
    }
}
