//! A config as `list -l` shows it: libxl's names of what a config says.

use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use super::disk::{Disk, Format, Target};
use super::vif::Vif;
use super::{Action, Config};
use crate::block::Access;
use crate::shell::format::uuid;
use crate::shell::json::Json;

impl Action {
    /// As libxl has it.
    fn long_name(self) -> &'static str {
        match self {
            Self::Destroy => "destroy",
            Self::Restart => "restart",
            Self::RenameRestart => "restart_rename",
            Self::Preserve => "preserve",
            Self::SoftReset => "soft_reset",
        }
    }
}

/// A domain with its config; dom0 has none.
pub fn domain(id: u16, name: &str, handle: &[u8; 16], config: Option<&Config>) -> Json {
    let c_info = Json::Object(
        [
            ("type", "pvh".into()),
            ("name", name.into()),
            ("uuid", Json::Text(uuid(handle))),
        ]
        .into(),
    );
    let mut entries = Vec::from([("c_info", c_info)]);
    if let Some(config) = config {
        entries.push(("b_info", build(config)));
        entries.push(("disks", Json::List(config.disks.iter().map(disk).collect())));
        entries.push(("nics", Json::List((0..).zip(&config.vifs).map(nic).collect())));
        let channels = config
            .channels
            .iter()
            .map(|channel| Json::Object([("name", channel.name.as_str().into())].into()));
        entries.push(("channels", Json::List(channels.collect())));
        for (name, action) in [
            ("on_poweroff", config.on_poweroff),
            ("on_reboot", config.on_reboot),
            ("on_watchdog", config.on_watchdog),
            ("on_crash", config.on_crash),
            ("on_soft_reset", config.on_soft_reset),
        ] {
            entries.push((name, action.long_name().into()));
        }
    }
    Json::Object([("domid", u32::from(id).into()), ("config", Json::Object(entries))].into())
}

fn build(config: &Config) -> Json {
    let kib = |mib: u64| Json::Number((mib << 10) as i64);
    let available = (0..config.vcpus).map(Json::from).collect();
    let mut entries = Vec::from([
        ("max_vcpus", config.max_vcpus.into()),
        ("avail_vcpus", Json::List(available)),
        ("max_memkb", kib(config.max_memory)),
        ("target_memkb", kib(config.memory)),
        ("kernel", config.kernel.as_str().into()),
        ("cmdline", config.command_line.as_str().into()),
    ]);
    if let Some(ramdisk) = &config.ramdisk {
        entries.push(("ramdisk", ramdisk.as_str().into()));
    }
    if let Some(mib) = config.shadow_memory {
        entries.push(("shadow_memkb", kib(mib)));
    }
    if config.time_offset != 0 {
        entries.push(("rtc_timeoffset", Json::Number(config.time_offset)));
    }
    let parameters = [("weight", config.cpu_weight), ("cap", config.cap)];
    let parameters = parameters
        .into_iter()
        .filter_map(|(name, value)| Some((name, Json::Number(value?.into()))));
    entries.push(("sched_params", Json::Object(parameters.collect())));
    entries.push(("event_channels", config.event_channels.into()));
    entries.push(("max_grant_frames", Json::Number(config.max_grant_frames.into())));
    entries.push((
        "max_maptrack_frames",
        Json::Number(config.max_maptrack_frames.into()),
    ));
    entries.push(("type.pvh", Json::Object(Vec::new())));
    Json::Object(entries)
}

fn disk(disk: &Disk) -> Json {
    let target = match &disk.target {
        Target::File(path) => path.clone(),
        Target::Machine(place) => place.to_string(),
        Target::Ram(bytes) => format!("ram:{bytes}"),
    };
    let format = match disk.format {
        Format::Raw => "raw",
        Format::Qcow2 => "qcow2",
    };
    Json::Object(
        [
            ("pdev_path", Json::Text(target)),
            ("vdev", disk.vdev.as_str().into()),
            ("format", format.into()),
            ("readwrite", u32::from(disk.access == Access::ReadWrite).into()),
            ("is_cdrom", u32::from(disk.cdrom).into()),
            ("discard_enable", defbool(disk.discard)),
        ]
        .into(),
    )
}

/// libxl's booleans that may be left to it.
fn defbool(value: bool) -> Json {
    if value { "True" } else { "False" }.into()
}

fn nic((index, vif): (u32, &Vif)) -> Json {
    let mut entries = Vec::from([("devid", vif.devid.unwrap_or(index).into())]);
    if let Some(mac) = vif.mac {
        entries.push(("mac", Json::Text(mac.to_string())));
    }
    entries.push(("bridge", vif.bridge.as_str().into()));
    entries.push(("mtu", Json::Number(vif.mtu.into())));
    Json::Object(entries)
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn says_what_the_config_says() {
        let config = super::super::parse(
            "name='a'\nkernel='/k'\nmemory=64\nvcpus=2\nextra='say \"hi\"'\ndisk=['/i,raw,xvda,w']\nvif=['bridge=b']\ncap=50\n\
             on_crash='rename-restart'\non_soft_reset='soft-reset'",
        )
        .unwrap();
        let text = format!("{}", domain(3, "a", &[0xab; 16], Some(&config)));
        for wanted in [
            "\"domid\": 3,",
            "\"uuid\": \"abababab-abab-abab-abab-abababababab\"",
            "\"avail_vcpus\": [\n                0,\n                1\n            ]",
            "\"max_memkb\": 65536",
            "\"cmdline\": \"say \\\"hi\\\"\"",
            "\"pdev_path\": \"/i\"",
            "\"bridge\": \"b\"",
            "\"cap\": 50",
            "\"on_reboot\": \"restart\"",
            "\"on_crash\": \"restart_rename\"",
            "\"on_soft_reset\": \"soft_reset\"",
            "\"discard_enable\": \"True\"",
        ] {
            assert!(text.contains(wanted), "{wanted} in {text}");
        }
        assert!(!format!("{}", domain(0, "Domain-0", &[0; 16], None)).contains("b_info"));
        assert_eq!(text.matches(['{', '[']).count(), text.matches(['}', ']']).count());
    }
}
