//! Domain configs in xl.cfg syntax (xl.cfg(5)), for PVH guests.
//!
//! An unknown key is an error. Keys for what dom0-shim does not have are refused, or ignored with a warning where
//! the guest runs without ([`others`]).

pub mod channel;
pub mod cpuid;
pub mod disk;
pub mod long;
mod others;
mod pins;
pub mod prompt;
mod syntax;
pub mod vif;

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use channel::{CHANNELS_MAX, Channel};
use cpuid::Changes;
use disk::Disk;
use others::Fate;
use pins::pins;
use syntax::{Setting, Value};
use vif::Vif;

pub use pins::Pins;

/// What is wrong with a config, and on which line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// From 1; 0 when it is about the file as a whole.
    pub line: usize,
    /// A sentence without the full stop.
    pub message: String,
}

impl Error {
    fn at(line: usize, message: String) -> Self {
        Self { line, message }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.message),
            line => write!(f, "line {line}: {}", self.message),
        }
    }
}

/// What to do when a domain has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Destroy it.
    Destroy,
    /// Destroy it and start it again.
    Restart,
    /// Rename it, keep it, and start another under its name.
    RenameRestart,
    /// Keep it as it is.
    Preserve,
    /// Reset it in place (kexec).
    SoftReset,
}

impl Action {
    /// The name in a config.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "destroy" => Self::Destroy,
            "restart" => Self::Restart,
            "rename-restart" => Self::RenameRestart,
            "preserve" => Self::Preserve,
            "soft-reset" => Self::SoftReset,
            _ => return None,
        })
    }
}

/// A domain's config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Unique among the domains.
    pub name: String,
    /// Path in the boot archive.
    pub kernel: String,
    /// Path in the boot archive.
    pub ramdisk: Option<String>,
    /// Kernel command line.
    pub command_line: String,
    /// MiB at start.
    pub memory: u64,
    /// Most MiB ever; at least `memory`.
    pub max_memory: u64,
    /// vCPUs at start.
    pub vcpus: u32,
    /// Most vCPUs; at least `vcpus`.
    pub max_vcpus: u32,
    /// The domain's handle; made up if absent.
    pub uuid: Option<[u8; 16]>,
    /// After it powered off.
    pub on_poweroff: Action,
    /// After it asked to be rebooted.
    pub on_reboot: Action,
    /// After it crashed.
    pub on_crash: Action,
    /// After its watchdog fired.
    pub on_watchdog: Action,
    /// After it asked for a soft reset.
    pub on_soft_reset: Action,
    /// 0 default, 1 always emulated, 2 native.
    pub tsc_mode: u32,
    /// Rate of its TSC in kHz; 0: the machine's.
    pub tsc_khz: u32,
    /// Scheduling weight.
    pub cpu_weight: Option<u16>,
    /// Scheduling cap, percent of one CPU.
    pub cap: Option<u16>,
    /// CPU pool, by name or number.
    pub pool: Option<String>,
    /// CPUs that vCPUs may run on.
    pub cpus: Pins,
    /// CPUs that vCPUs should run on.
    pub cpus_soft: Pins,
    /// Highest event channel port.
    pub event_channels: u32,
    /// Most grant table frames.
    pub max_grant_frames: i32,
    /// Most grant mapping frames.
    pub max_maptrack_frames: i32,
    /// Highest version of the grant table, if not the highest that there is.
    pub max_grant_version: Option<u32>,
    /// MiB for nested page tables, if not as many as libxl reckons.
    pub shadow_memory: Option<u64>,
    /// What its clock is ahead of UTC, in seconds.
    pub time_offset: i64,
    /// What CPUID is to tell otherwise than by default.
    pub cpuid: Changes,
    /// Does a register (MSR) that there is not read as 0?
    pub msr_relaxed: bool,
    /// Disks; no two with the same number.
    pub disks: Vec<Disk>,
    /// Network devices.
    pub vifs: Vec<Vif>,
    /// Consoles beside the first.
    pub channels: Vec<Channel>,
    /// What was ignored, in sentences.
    pub warnings: Vec<String>,
}

/// The name of dom0.
pub const DOM0_NAME: &str = "Domain-0";

/// `tsc_mode="always_emulate"`, as the hypervisor is told.
const TSC_ALWAYS_EMULATE: u32 = 1;

/// Most vCPUs of an HVM or PVH domain.
const VCPUS_MAX: u64 = 128;

/// Parses a config. Of several settings of a key, the last counts, and nothing is said of the others.
///
/// # Errors
/// The first syntax error, unknown key, value that does not fit, or missing key.
pub fn parse(text: &str) -> Result<Config, Error> {
    let settings = syntax::parse(text)?;
    let last: BTreeMap<&str, usize> = settings
        .iter()
        .enumerate()
        .map(|(index, setting)| (setting.key.as_str(), index))
        .collect();
    let mut draft = Draft::default();
    for (index, setting) in settings.iter().enumerate() {
        if last.get(setting.key.as_str()) == Some(&index) {
            draft.set(setting)?;
        }
    }
    draft.finish()
}

/// A config while its keys are being read.
#[derive(Default)]
struct Draft {
    name: Option<String>,
    kernel: Option<String>,
    ramdisk: Option<String>,
    extra: Option<String>,
    root: Option<String>,
    cmdline: Option<String>,
    memory: Option<u64>,
    max_memory: Option<u64>,
    vcpus: Option<u64>,
    max_vcpus: Option<u64>,
    uuid: Option<[u8; 16]>,
    /// on_poweroff, on_reboot, on_crash, on_watchdog, on_soft_reset
    actions: [Option<Action>; 5],
    tsc_mode: u32,
    tsc_khz: u32,
    cpu_weight: Option<u16>,
    cap: Option<u16>,
    pool: Option<String>,
    cpus: Pins,
    cpus_soft: Pins,
    event_channels: Option<u64>,
    max_grant_frames: Option<u64>,
    max_maptrack_frames: Option<u64>,
    max_grant_version: Option<u32>,
    shadow_memory: Option<u64>,
    time_offset: i64,
    cpuid: Changes,
    no_migration: bool,
    msr_relaxed: bool,
    disks: Vec<Disk>,
    vifs: Vec<Vif>,
    channels: Vec<Channel>,
    warnings: Vec<String>,
}

impl Draft {
    fn set(&mut self, setting: &Setting) -> Result<(), Error> {
        match setting.key.as_str() {
            "name" => self.name = Some(domain_name(setting)?),
            "type" => check_type(setting)?,
            "kernel" => self.kernel = Some(string(setting)?),
            "ramdisk" => self.ramdisk = Some(string(setting)?),
            "extra" => self.extra = Some(string(setting)?),
            "root" => self.root = Some(string(setting)?),
            "cmdline" => self.cmdline = Some(string(setting)?),
            "memory" => self.memory = Some(number(setting, 4, 1 << 24)?),
            "maxmem" => self.max_memory = Some(number(setting, 4, 1 << 24)?),
            "vcpus" => self.vcpus = Some(number(setting, 1, VCPUS_MAX)?),
            "maxvcpus" => self.max_vcpus = Some(number(setting, 1, VCPUS_MAX)?),
            "uuid" => self.uuid = Some(uuid(setting)?),
            "on_poweroff" => self.actions[0] = Some(action(setting)?),
            "on_reboot" => self.actions[1] = Some(action(setting)?),
            "on_crash" => self.actions[2] = Some(action(setting)?),
            "on_watchdog" => self.actions[3] = Some(action(setting)?),
            "on_soft_reset" => self.actions[4] = Some(action(setting)?),
            "tsc_mode" => self.tsc_mode = tsc_mode(setting)?,
            "tsc_khz" => self.tsc_khz = number(setting, 1000, 100_000_000)? as u32,
            "cpu_weight" => self.cpu_weight = Some(number(setting, 1, 65_535)? as u16),
            "cap" => self.cap = Some(number(setting, 0, 65_535)? as u16),
            "pool" => self.pool = Some(string(setting)?),
            // The first is of xl before 4.17.
            "event_channels" | "max_event_channels" => {
                self.event_channels = Some(number(setting, 1, 131_071)?)
            }
            "max_grant_frames" => self.max_grant_frames = Some(number(setting, 1, 4096)?),
            "max_maptrack_frames" => self.max_maptrack_frames = Some(number(setting, 0, 65_536)?),
            "max_grant_version" => self.max_grant_version = Some(number(setting, 1, 2)? as u32),
            "shadow_memory" => self.shadow_memory = Some(number(setting, 1, 1 << 20)?),
            "rtc_timeoffset" => self.time_offset = seconds(setting)?,
            "cpuid" => self.cpuid = cpuid(setting)?,
            "nomigrate" => self.no_migration = number(setting, 0, 1)? == 1,
            "msr_relaxed" => self.msr_relaxed = number(setting, 0, 1)? == 1,
            "builder" => check_builder(setting)?,
            "disk" => self.disks = disks(setting)?,
            "vif" => self.vifs = self.network_devices(setting)?,
            "channel" => self.channels = channels(setting)?,
            "cpus" => self.cpus = pins(setting)?,
            "cpus_soft" => self.cpus_soft = pins(setting)?,
            key => self.set_other(setting, others::fate(key, &setting.value))?,
        }
        Ok(())
    }

    /// A key that nothing is done about.
    fn set_other(&mut self, setting: &Setting, fate: Option<Fate>) -> Result<(), Error> {
        let Setting { line, key, .. } = setting;
        match fate {
            Some(Fate::AsIs) => {}
            Some(Fate::Ignored(why)) => self
                .warnings
                .push(format!("line {line}: '{key}' is ignored: {why}")),
            Some(Fate::Refused(why)) => return Err(refuse(setting, why)),
            None => return Err(Error::at(*line, format!("unknown key '{key}'"))),
        }
        Ok(())
    }

    fn network_devices(&mut self, setting: &Setting) -> Result<Vec<Vif>, Error> {
        let mut vifs = Vec::new();
        for text in strings(setting)? {
            let mut ignored = Vec::new();
            vifs.push(vif::parse(text, &mut ignored).map_err(|error| refuse(setting, &error))?);
            self.warnings.extend(
                ignored
                    .iter()
                    .map(|what| format!("line {}: vif: {what}", setting.line)),
            );
        }
        Ok(vifs)
    }

    fn finish(mut self) -> Result<Config, Error> {
        let missing = |key: &str| Error::at(0, format!("'{key}' is missing"));
        let vcpus = self.vcpus.unwrap_or(1);
        let max_vcpus = self.max_vcpus.unwrap_or(vcpus);
        if max_vcpus < vcpus {
            return Err(Error::at(
                0,
                format!("maxvcpus ({max_vcpus}) is less than vcpus ({vcpus})"),
            ));
        }
        let memory = self.memory.or(self.max_memory).ok_or_else(|| missing("memory"))?;
        let max_memory = self.max_memory.unwrap_or(memory);
        if max_memory < memory {
            return Err(Error::at(
                0,
                format!("maxmem ({max_memory}) is less than memory ({memory})"),
            ));
        }
        if max_memory > memory {
            self.warnings.push(format!(
                "there is no populate-on-demand: the domain starts with all of maxmem ({max_memory}), until its balloon driver gives back \
                 what is more than memory ({memory})"
            ));
        }
        if self.cmdline.is_some() && (self.root.is_some() || self.extra.is_some()) {
            self.warnings
                .push("root and extra are ignored in favour of cmdline".to_string());
        }
        let root = self.root.map(|root| format!("root={root}"));
        let parts: Vec<String> = match self.cmdline {
            Some(whole) => [whole].into(),
            None => root.into_iter().chain(self.extra).collect(),
        };
        // As libxl does: its rate is then the same for as long as the domain is there.
        if self.no_migration || self.tsc_mode == TSC_ALWAYS_EMULATE {
            self.cpuid.allow_invariant_tsc();
        }
        let action = |index: usize, default| self.actions.get(index).copied().flatten().unwrap_or(default);
        Ok(Config {
            name: self.name.ok_or_else(|| missing("name"))?,
            kernel: self.kernel.ok_or_else(|| missing("kernel"))?,
            ramdisk: self.ramdisk,
            command_line: parts.join(" "),
            memory,
            max_memory,
            vcpus: vcpus as u32,
            max_vcpus: max_vcpus as u32,
            uuid: self.uuid,
            on_poweroff: action(0, Action::Destroy),
            on_reboot: action(1, Action::Restart),
            on_crash: action(2, Action::Destroy),
            on_watchdog: action(3, Action::Destroy),
            on_soft_reset: action(4, Action::SoftReset),
            tsc_mode: self.tsc_mode,
            tsc_khz: self.tsc_khz,
            cpu_weight: self.cpu_weight,
            cap: self.cap,
            pool: self.pool,
            cpus: self.cpus,
            cpus_soft: self.cpus_soft,
            event_channels: self.event_channels.unwrap_or(1023) as u32,
            max_grant_frames: self.max_grant_frames.unwrap_or(64) as i32,
            max_maptrack_frames: self.max_maptrack_frames.unwrap_or(1024) as i32,
            max_grant_version: self.max_grant_version,
            shadow_memory: self.shadow_memory,
            time_offset: self.time_offset,
            cpuid: self.cpuid,
            msr_relaxed: self.msr_relaxed,
            disks: self.disks,
            vifs: self.vifs,
            channels: self.channels,
            warnings: self.warnings,
        })
    }
}

fn refuse(setting: &Setting, message: &str) -> Error {
    Error::at(setting.line, format!("{}: {message}", setting.key))
}

fn string(setting: &Setting) -> Result<String, Error> {
    match &setting.value {
        Value::String(text) => Ok(text.clone()),
        _ => Err(refuse(setting, "a string in quotes is wanted")),
    }
}

fn strings(setting: &Setting) -> Result<Vec<&str>, Error> {
    let wrong = || refuse(setting, "a list of strings is wanted");
    let Value::List(list) = &setting.value else {
        return Err(wrong());
    };
    let texts = list.iter().map(|value| match value {
        Value::String(text) => Ok(text.as_str()),
        _ => Err(wrong()),
    });
    texts.collect()
}

/// A number, or a string that is one, as xl allows.
fn number(setting: &Setting, least: u64, most: u64) -> Result<u64, Error> {
    let number = match &setting.value {
        Value::Number(number) => Some(*number),
        Value::String(text) => text.trim().parse().ok(),
        Value::List(_) => None,
    };
    let number = number.ok_or_else(|| refuse(setting, "a number is wanted"))?;
    if (least..=most).contains(&number) {
        Ok(number)
    } else {
        Err(refuse(
            setting,
            &format!("{number} is not between {least} and {most}"),
        ))
    }
}

/// Seconds, in quotes if they are fewer than none.
fn seconds(setting: &Setting) -> Result<i64, Error> {
    /// A year.
    const MOST: i64 = 366 * 24 * 3600;
    let seconds = match &setting.value {
        Value::Number(number) => i64::try_from(*number).ok(),
        Value::String(text) => text.trim().parse().ok(),
        Value::List(_) => None,
    };
    seconds
        .filter(|seconds| (-MOST..=MOST).contains(seconds))
        .ok_or_else(|| refuse(setting, &format!("seconds from \"-{MOST}\" to {MOST} are wanted")))
}

/// `"host,avx2=0"`, or a list of leaves.
fn cpuid(setting: &Setting) -> Result<Changes, Error> {
    let changes = match &setting.value {
        Value::List(_) => Changes::parse_list(&strings(setting)?),
        _ => Changes::parse(&string(setting)?),
    };
    changes.map_err(|error| refuse(setting, &error))
}

/// What `type` says now.
fn check_builder(setting: &Setting) -> Result<(), Error> {
    match string(setting)?.as_str() {
        "generic" | "linux" => Ok(()),
        builder => Err(refuse(
            setting,
            &format!("'{builder}' guests are not supported; only those of type=\"pvh\" are"),
        )),
    }
}

/// A list of disk specifications.
fn disks(setting: &Setting) -> Result<Vec<Disk>, Error> {
    let Value::List(list) = &setting.value else {
        return Err(refuse(setting, "a list is wanted"));
    };
    let mut disks: Vec<Disk> = Vec::new();
    for value in list {
        let Value::String(text) = value else {
            return Err(refuse(setting, "strings in quotes are wanted"));
        };
        let disk = Disk::parse(text).map_err(|error| refuse(setting, &format!("'{text}': {error}")))?;
        if disks.iter().any(|other| other.number == disk.number) {
            return Err(refuse(
                setting,
                &format!("'{text}': there are two disks {}", disk.vdev),
            ));
        }
        disks.push(disk);
    }
    Ok(disks)
}

/// A list of channels.
fn channels(setting: &Setting) -> Result<Vec<Channel>, Error> {
    let texts = strings(setting)?;
    if texts.len() > CHANNELS_MAX {
        return Err(refuse(
            setting,
            &format!("a domain has at most {CHANNELS_MAX} channels"),
        ));
    }
    let parse = |text| channel::parse(text).map_err(|error| refuse(setting, &error));
    texts.into_iter().map(parse).collect()
}

/// Names go into xenstore paths' values and onto the terminal: no control characters, not a number.
///
/// # Errors
/// What is wrong with this one.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.+:".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(allowed) {
        return Err("1 to 64 letters, digits, or '-_.+:' are wanted");
    }
    if name.chars().all(|c| c.is_ascii_digit()) {
        return Err("a name of digits only would be taken for a domain id");
    }
    if name == DOM0_NAME {
        return Err("that is dom0");
    }
    Ok(())
}

fn domain_name(setting: &Setting) -> Result<String, Error> {
    let name = string(setting)?;
    check_name(&name).map_err(|error| refuse(setting, error))?;
    Ok(name)
}

fn check_type(setting: &Setting) -> Result<(), Error> {
    match string(setting)?.as_str() {
        "pvh" => Ok(()),
        kind @ ("hvm" | "pv") => Err(refuse(
            setting,
            &format!("'{kind}' guests are not supported; only \"pvh\" is"),
        )),
        kind => Err(refuse(
            setting,
            &format!("unknown type '{kind}'; only \"pvh\" is supported"),
        )),
    }
}

fn action(setting: &Setting) -> Result<Action, Error> {
    let name = string(setting)?;
    if let "coredump-destroy" | "coredump-restart" = name.as_str() {
        let message = format!(
            "{name}: dom0-shim has no place for a core dump; use 'preserve' or 'rename-restart', which keep the domain, \
             and look at it by debug-keys d, vcpu-list and console-log"
        );
        return Err(refuse(setting, &message));
    }
    Action::from_name(&name).ok_or_else(|| {
        let known = "destroy restart rename-restart preserve soft-reset";
        refuse(setting, &format!("unknown action '{name}'; known are: {known}"))
    })
}

fn tsc_mode(setting: &Setting) -> Result<u32, Error> {
    match &setting.value {
        Value::String(name) => match name.as_str() {
            "default" => Ok(0),
            "always_emulate" => Ok(TSC_ALWAYS_EMULATE),
            "native" => Ok(2),
            name => Err(refuse(
                setting,
                &format!("unknown mode '{name}'; known are: default always_emulate native"),
            )),
        },
        _ => number(setting, 0, 2).map(|mode| mode as u32),
    }
}

/// `01234567-89ab-cdef-0123-456789abcdef`; the dashes may be left out.
fn uuid(setting: &Setting) -> Result<[u8; 16], Error> {
    let text = string(setting)?;
    let digits: Option<Vec<u8>> = text
        .chars()
        .filter(|&c| c != '-')
        .map(|c| c.to_digit(16).map(|digit| digit as u8))
        .collect();
    let bytes: Option<Vec<u8>> = digits.filter(|digits| digits.len() == 32).map(|digits| {
        digits
            .chunks(2)
            .map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit))
            .collect()
    });
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| refuse(setting, "32 hexadecimal digits are wanted"))
}

#[cfg(test)]
mod tests;
