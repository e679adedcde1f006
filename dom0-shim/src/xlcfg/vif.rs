//! Network devices: the entries of `vif` (xl-network-configuration(5)).

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::net::bucket::Rate;
use crate::net::packet::Mac;

/// The bridge of a device that names none.
pub const BRIDGE: &str = "xenbr0";
/// Bytes of an IP packet, unless said otherwise.
const MTU: u16 = 1500;
/// The least that IPv4 needs.
const MTU_MIN: u16 = 68;
/// Microseconds between credits, unless said otherwise.
const INTERVAL: u32 = 50_000;
/// Highest device number.
const DEVID_MAX: u32 = 127;

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vif {
    /// Its address; made up if absent.
    pub mac: Option<Mac>,
    /// What it is connected to.
    pub bridge: String,
    /// Most that the domain may send.
    pub rate: Option<Rate>,
    /// Largest IP packet.
    pub mtu: u16,
    /// Its number; the next if absent.
    pub devid: Option<u32>,
    /// What the front end is told: whether it may trust the back end.
    pub trusted: bool,
}

impl Default for Vif {
    fn default() -> Self {
        Self {
            mac: None,
            bridge: BRIDGE.to_string(),
            rate: None,
            mtu: MTU,
            devid: None,
            trusted: true,
        }
    }
}

/// Reads `key=value,key=value`. What is ignored is added to `warnings`.
///
/// # Errors
/// A sentence on the first key or value that does not fit.
pub fn parse(text: &str, warnings: &mut Vec<String>) -> Result<Vif, String> {
    let mut vif = Vif::default();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match part {
            "trusted" => vif.trusted = true,
            "untrusted" => vif.trusted = false,
            part => {
                let (key, value) = part
                    .split_once('=')
                    .ok_or_else(|| format!("unknown key '{part}'"))?;
                if let Some(why) = vif.set(key.trim(), value.trim())? {
                    warnings.push(format!("'{key}' is ignored: {why}"));
                }
            }
        }
    }
    Ok(vif)
}

impl Vif {
    /// `Some`: why the key is ignored.
    fn set(&mut self, key: &str, value: &str) -> Result<Option<&'static str>, String> {
        match key {
            "mac" => self.mac = Some(mac(value)?),
            "bridge" => self.bridge = bridge(value)?,
            "rate" => self.rate = Some(rate(value)?),
            "mtu" => self.mtu = number(key, value, u32::from(MTU_MIN), u32::from(u16::MAX))? as u16,
            "devid" => self.devid = Some(number(key, value, 0, DEVID_MAX)?),
            "type" if value == "vif" => {}
            "type" => return Err(format!("type '{value}': a PVH guest has no emulated devices")),
            "backend" if matches!(value, "0" | "Domain-0") => {}
            "backend" => return Err(format!("backend '{value}': there are no driver domains")),
            "vlan" => return Err("vlan: the switch has no VLANs".to_string()),
            "script" => return Ok(Some("dom0-shim connects devices itself")),
            "ip" => return Ok(Some("it is for hotplug scripts; addresses come by DHCP")),
            "gatewaydev" | "netdev" => return Ok(Some("it is for hotplug scripts")),
            "vifname" => return Ok(Some("a device has no name here")),
            "model" => return Ok(Some("it is for emulated devices")),
            key => return Err(format!("unknown key '{key}'")),
        }
        Ok(None)
    }
}

fn mac(text: &str) -> Result<Mac, String> {
    let mac = text.parse::<Mac>().ok().filter(|mac| mac.is_unicast());
    mac.ok_or_else(|| format!("mac '{text}': the address of a device is wanted, as 00:16:3e:01:02:03"))
}

/// The name goes into xenstore.
fn bridge(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    if matches!(text.len(), 1..=15) && text.chars().all(allowed) {
        Ok(text.to_string())
    } else {
        Err(format!(
            "bridge '{text}': 1 to 15 letters, digits, or '-_.:' are wanted"
        ))
    }
}

fn number(key: &str, text: &str, least: u32, most: u32) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("{key} '{text}': a number from {least} to {most} is wanted"))
}

/// `RATE/s` or `RATE/s@INTERVAL`.
fn rate(text: &str) -> Result<Rate, String> {
    let wrong = || format!("rate '{text}': as 10Mb/s or 250KB/s@20ms is wanted");
    let (amount, interval) = match text.split_once('@') {
        Some((amount, interval)) => (amount, microseconds(interval).ok_or_else(wrong)?),
        None => (text, INTERVAL),
    };
    let per_second = amount.strip_suffix("/s").and_then(bytes).ok_or_else(wrong)?;
    let bytes = u128::from(per_second) * u128::from(interval) / 1_000_000;
    let bytes = u64::try_from(bytes)
        .ok()
        .filter(|&bytes| bytes > 0)
        .ok_or_else(wrong)?;
    Ok(Rate { bytes, interval })
}

/// Splits a number from what follows it.
fn amount(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u32 = number.parse().ok().filter(|&number| number > 0)?;
    Some((number.into(), unit))
}

fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = amount(text)?;
    let (scale, unit) = match unit.split_at_checked(1)? {
        ("K", rest) => (1000, rest),
        ("M", rest) => (1_000_000, rest),
        ("G", rest) => (1_000_000_000, rest),
        _ => (1, unit),
    };
    match unit {
        "B" => Some(number * scale),
        "b" => Some(number * scale / 8),
        _ => None,
    }
}

fn microseconds(text: &str) -> Option<u32> {
    let (number, unit) = amount(text)?;
    let scale = match unit {
        "us" => 1,
        "ms" => 1000,
        "s" | "" => 1_000_000,
        _ => return None,
    };
    u32::try_from(number * scale).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good(text: &str) -> Vif {
        let mut warnings = Vec::new();
        let vif = parse(text, &mut warnings).unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        vif
    }

    fn bad(text: &str) -> String {
        parse(text, &mut Vec::new()).unwrap_err()
    }

    #[test]
    fn keys() {
        assert_eq!(good(""), Vif::default());
        let vif = good("mac=00:16:3e:01:02:03, bridge=br-1,mtu=9000,devid=2,type=vif,backend=0,untrusted");
        assert_eq!(vif.mac, Some(Mac([0, 0x16, 0x3e, 1, 2, 3])));
        assert_eq!(
            (vif.bridge.as_str(), vif.mtu, vif.devid, vif.trusted),
            ("br-1", 9000, Some(2), false)
        );
        let mut warnings = Vec::new();
        parse("script=vif-bridge,ip=10.0.0.2,bridge=xenbr0", &mut warnings).unwrap();
        assert_eq!(
            warnings[0],
            "'script' is ignored: dom0-shim connects devices itself"
        );
        assert_eq!(warnings.len(), 2);
    }

    #[test]
    fn rates() {
        let rate = |text: &str| {
            good(&format!("rate={text}"))
                .rate
                .map(|rate| (rate.bytes, rate.interval))
        };
        assert_eq!(rate("10Mb/s"), Some((62_500, 50_000)));
        assert_eq!(rate("250KB/s"), Some((12_500, 50_000)));
        assert_eq!(rate("1MB/s@20ms"), Some((20_000, 20_000)));
        assert_eq!(rate("2GB/s@1s"), Some((2_000_000_000, 1_000_000)));
        assert_eq!(rate("800b/s@5"), Some((500, 5_000_000)));
        for text in [
            "",
            "10",
            "10Mb",
            "Mb/s",
            "10Xb/s",
            "0B/s",
            "1B/s@1us",
            "1MB/s@",
            "1MB/s@2h",
            "99999999999B/s",
            "1MB/s@5000s",
        ] {
            assert!(
                bad(&format!("rate={text}")).starts_with(&format!("rate '{text}'")),
                "{text}"
            );
        }
    }

    #[test]
    fn refuses() {
        assert_eq!(bad("brigde=xenbr0"), "unknown key 'brigde'");
        assert_eq!(bad("bridge"), "unknown key 'bridge'");
        assert!(bad("mac=01:00:5e:00:00:01").starts_with("mac '01:00:5e:00:00:01'"));
        assert!(bad("bridge=a/b").starts_with("bridge 'a/b'"));
        assert_eq!(bad("mtu=67"), "mtu '67': a number from 68 to 65535 is wanted");
        assert_eq!(
            bad("type=ioemu"),
            "type 'ioemu': a PVH guest has no emulated devices"
        );
        assert_eq!(bad("vlan=10"), "vlan: the switch has no VLANs");
        assert_eq!(bad("backend=net"), "backend 'net': there are no driver domains");
    }
}
