//! Disk specifications, as in `disk = [ … ]` and `block-attach` (xl-disk-configuration(5)).
//!
//! What dom0-shim adds to the syntax: the target `ram:SIZE`, an empty disk in RAM. Targets below `/dev` are on disks of
//! the machine, see [`Place`]; all others are images in the boot archive.

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;

use crate::block::Access;

/// Something on a disk of the machine: `/dev/vda` the disk itself, `/dev/vda1` a partition, `/dev/vda1:/images/a.img` a
/// file in the file system there, `/dev/vda:/a.img` one in that of a disk without partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The disk's name below `/dev`.
    pub disk: String,
    /// The partition's number.
    pub partition: Option<u32>,
    /// The file's path.
    pub file: Option<String>,
}

impl Place {
    /// Parses one; `None` if the text does not begin with `/dev/`.
    ///
    /// # Errors
    /// What is wrong, in a sentence.
    pub fn parse(text: &str) -> Option<Result<Self, String>> {
        let rest = text.strip_prefix("/dev/")?;
        let (device, file) = match rest.split_once(':') {
            Some((device, file)) => (device, Some(file)),
            None => (rest, None),
        };
        let disk = device.trim_end_matches(|c: char| c.is_ascii_digit());
        let partition = match device.strip_prefix(disk) {
            None | Some("") => Some(None),
            Some(digits) => digits.parse().ok().filter(|number| *number > 0).map(Some),
        };
        let letters = !disk.is_empty() && disk.bytes().all(|byte| byte.is_ascii_lowercase());
        let file_is_path = file.is_none_or(|path| path.starts_with('/'));
        Some(match partition.filter(|_| letters && file_is_path) {
            Some(partition) => Ok(Self {
                disk: disk.to_string(),
                partition,
                file: file.map(str::to_string),
            }),
            None => Err(format!("{text} is none of /dev/vda, /dev/vda1, /dev/vda1:/FILE")),
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/dev/{}", self.disk)?;
        if let Some(partition) = self.partition {
            write!(f, "{partition}")?;
        }
        match &self.file {
            Some(file) => write!(f, ":{file}"),
            None => Ok(()),
        }
    }
}

/// What is behind a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An image in the boot archive.
    File(String),
    /// Something on a disk of the machine.
    Machine(Place),
    /// So many bytes of RAM.
    Ram(u64),
}

/// How a target holds a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Byte for byte.
    Raw,
    /// In QEMU's format of that name.
    Qcow2,
}

/// A disk of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// What is behind it.
    pub target: Target,
    /// How it holds the disk.
    pub format: Format,
    /// Its name in the guest, e.g. `xvda`.
    pub vdev: String,
    /// The number that stands for the name.
    pub number: u32,
    /// Whether the guest may write.
    pub access: Access,
    /// A CD-ROM drive.
    pub cdrom: bool,
    /// Whether the guest is told that it may discard.
    pub discard: bool,
}

/// A specification while it is being read.
#[derive(Default)]
struct Draft<'a> {
    target: Option<&'a str>,
    /// What the target's old prefix stands for, if it had one.
    old_form: Option<Format>,
    format: Option<&'a str>,
    vdev: Option<&'a str>,
    access: Option<&'a str>,
    cdrom: bool,
    discard: bool,
}

/// Old prefixes of targets that stand for a format.
const OLD_PREFIXES: [(&str, Format); 6] = [
    ("raw:", Format::Raw),
    ("file:", Format::Raw),
    ("phy:", Format::Raw),
    ("aio:", Format::Raw),
    ("qcow2:", Format::Qcow2),
    ("tap:qcow2:", Format::Qcow2),
];

impl Disk {
    /// Parses a specification.
    ///
    /// # Errors
    /// What is wrong, in a sentence.
    pub fn parse(specification: &str) -> Result<Self, String> {
        let mut draft = Draft {
            discard: true,
            ..Draft::default()
        };
        let mut rest = Some(specification.trim());
        while let Some(text) = rest {
            // A target given by its key goes to the end, commas and all.
            if let Some(target) = text.strip_prefix("target=") {
                draft.set_target(target)?;
                break;
            }
            let (part, after) = text
                .split_once(',')
                .map_or((text, None), |(part, after)| (part, Some(after)));
            match part.split_once('=') {
                Some((key, value)) => draft.keyed(key.trim(), value.trim())?,
                None => draft.positional(part.trim())?,
            }
            rest = after.map(str::trim_start);
        }
        draft.finish()
    }

    /// The number of a disk named in a command: by its name or by the number itself.
    pub fn number(name: &str) -> Option<u32> {
        device_number(name)
    }
}

impl<'a> Draft<'a> {
    fn keyed(&mut self, key: &str, value: &'a str) -> Result<(), String> {
        match key {
            "format" => self.format = Some(value),
            "vdev" => self.set_vdev(value)?,
            "access" => self.access = Some(value),
            "devtype" => match value {
                "disk" => {}
                "cdrom" => self.cdrom = true,
                _ => return Err(format!("devtype: '{value}' is neither disk nor cdrom")),
            },
            // Who serves a disk makes no difference to the guest, and here there is only one who could.
            "backendtype" if ["phy", "qdisk", "tap"].contains(&value) => {}
            "backendtype" => return Err(format!("backendtype: '{value}' is not supported")),
            "backend" if ["0", "Domain-0"].contains(&value) => {}
            "backend" => return Err("backend: only Domain-0 serves disks".to_string()),
            "script" => return Err("script: there are no scripts".to_string()),
            key => return Err(format!("unknown key '{key}'")),
        }
        Ok(())
    }

    fn positional(&mut self, part: &'a str) -> Result<(), String> {
        match part {
            "cdrom" | "devtype=cdrom" => self.cdrom = true,
            "discard" => self.discard = true,
            "no-discard" => self.discard = false,
            // Nothing is cached between the guest and its disk.
            "direct-io-safe" => {}
            _ if self.target.is_none() => self.set_target(part)?,
            _ if self.format.is_none() && self.old_form.is_none() => self.format = Some(part),
            _ if self.vdev.is_none() => self.set_vdev(part)?,
            _ if self.access.is_none() => self.access = Some(part),
            _ => return Err(format!("too many positional parameters, from '{part}' on")),
        }
        Ok(())
    }

    fn set_target(&mut self, target: &'a str) -> Result<(), String> {
        if self.target.is_some() {
            return Err("there are two targets".to_string());
        }
        let old_form = |(prefix, format): &(&str, Format)| Some((target.strip_prefix(prefix)?, *format));
        let (target, old_form) = match OLD_PREFIXES.iter().find_map(old_form) {
            Some((stripped, format)) => (stripped, Some(format)),
            None => (target, target.starts_with(RAM).then_some(Format::Raw)),
        };
        self.old_form = old_form;
        self.target = Some(target);
        Ok(())
    }

    /// `xvda`, or in the old form `xvda:cdrom`.
    fn set_vdev(&mut self, value: &'a str) -> Result<(), String> {
        let (name, kind) = value.split_once(':').unwrap_or((value, "disk"));
        match kind {
            "disk" => {}
            "cdrom" => self.cdrom = true,
            _ => return Err(format!("vdev: '{kind}' is neither disk nor cdrom")),
        }
        self.vdev = Some(name);
        Ok(())
    }

    fn finish(self) -> Result<Disk, String> {
        let format = match self.format.unwrap_or_default() {
            "" => self.old_form.unwrap_or(Format::Raw),
            "raw" => Format::Raw,
            "qcow2" => Format::Qcow2,
            format @ ("qcow" | "vhd" | "qed") => {
                return Err(format!("format: {format} is not supported; raw and qcow2 are"));
            }
            format => return Err(format!("format: unknown format '{format}'")),
        };
        let vdev = self
            .vdev
            .filter(|vdev| !vdev.is_empty())
            .ok_or("vdev is missing")?;
        let number = device_number(vdev).ok_or_else(|| format!("vdev: '{vdev}' is no disk's name"))?;
        let access = match self.access.unwrap_or_default() {
            "r" | "ro" => Access::ReadOnly,
            "w" | "rw" => Access::ReadWrite,
            "" if self.cdrom => Access::ReadOnly,
            "" => Access::ReadWrite,
            access => return Err(format!("access: '{access}' is none of r, ro, w, rw")),
        };
        if self.cdrom && access == Access::ReadWrite {
            return Err("a CD-ROM cannot be written: access must be ro".to_string());
        }
        let target = match self.target.filter(|target| !target.is_empty()) {
            None => return Err("target is missing".to_string()),
            Some(target) => match target.strip_prefix(RAM) {
                Some(bytes) => {
                    Target::Ram(size(bytes).ok_or_else(|| format!("'{bytes}' is no size, as 64M is"))?)
                }
                None => match Place::parse(target) {
                    Some(place) => Target::Machine(place?),
                    None => Target::File(target.to_string()),
                },
            },
        };
        if matches!(target, Target::Ram(_)) && access == Access::ReadOnly {
            return Err("an empty disk that cannot be written is of no use".to_string());
        }
        if matches!(target, Target::Ram(_)) && format == Format::Qcow2 {
            return Err("an empty disk is no qcow2 image".to_string());
        }
        Ok(Disk {
            target,
            format,
            vdev: vdev.to_string(),
            number,
            access,
            cdrom: self.cdrom,
            discard: self.discard,
        })
    }
}

/// Prefix of a size, for an empty disk.
const RAM: &str = "ram:";

/// Bytes: a number of them, or of KiB, MiB, GiB with a letter behind it. Not 0.
pub fn size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 10),
        b'm' | b'M' => (&text[..text.len() - 1], 20),
        b'g' | b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: u64 = digits.parse().ok()?;
    number.checked_mul(1 << shift).filter(|&bytes| bytes > 0)
}

/// The number that stands for a disk's name (xen-vbd-interface(7)).
fn device_number(name: &str) -> Option<u32> {
    let extended = |(disk, partition): (u32, u32)| match (disk, partition) {
        (..=15, ..=15) => 202 << 8 | disk << 4 | partition,
        _ => 1 << 28 | disk << 8 | partition,
    };
    if let Some(rest) = name.strip_prefix("xvd") {
        return letters(rest)
            .and_then(|found| limit(found, 1 << 20, 256))
            .map(extended);
    }
    if let Some(rest) = name.strip_prefix("hd") {
        let (disk, partition) = letters(rest).and_then(|found| limit(found, 4, 64))?;
        let major = if disk < 2 { 3 } else { 22 };
        return Some(major << 8 | (disk & 1) << 6 | partition);
    }
    if let Some(rest) = name.strip_prefix("sd") {
        let (disk, partition) = letters(rest).and_then(|found| limit(found, 16, 16))?;
        return Some(8 << 8 | disk << 4 | partition);
    }
    if let Some(rest) = name.strip_prefix('d') {
        let (disk, partition) = rest.split_once('p').unwrap_or((rest, "0"));
        let found = (number(disk)?, number(partition)?);
        return limit(found, 1 << 20, 256).map(extended);
    }
    match name.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => number(name),
    }
}

fn limit((disk, partition): (u32, u32), disks: u32, partitions: u32) -> Option<(u32, u32)> {
    (disk < disks && partition < partitions).then_some((disk, partition))
}

fn number(text: &str) -> Option<u32> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

/// `a` to `z`, `aa` and on, as a number from 0; then a partition's number, 0 if there is none.
fn letters(text: &str) -> Option<(u32, u32)> {
    let end = text.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(text.len());
    let (letters, digits) = text.split_at(end);
    let digit = |value: u32, letter: u8| value.checked_mul(26)?.checked_add(u32::from(letter - b'a') + 1);
    let disk = letters.bytes().try_fold(0, digit)?.checked_sub(1)?;
    let partition = match digits {
        "" => 0,
        digits => number(digits)?,
    };
    Some((disk, partition))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn error(specification: &str) -> String {
        Disk::parse(specification).unwrap_err()
    }

    #[test]
    fn all_forms_say_the_same() {
        let wanted = Disk {
            target: Target::File("/images/root.img".to_string()),
            format: Format::Raw,
            vdev: "xvda".to_string(),
            number: 51_712,
            access: Access::ReadWrite,
            cdrom: false,
            discard: true,
        };
        for form in [
            "/images/root.img,raw,xvda,rw",
            "/images/root.img,,xvda",
            "format=raw, vdev=xvda, access=rw, target=/images/root.img",
            "/images/root.img,raw,vdev=xvda",
            "phy:/images/root.img,xvda,w",
            "file:/images/root.img,xvda:disk,w",
            "vdev=xvda,backendtype=qdisk,direct-io-safe,target=/images/root.img",
        ] {
            assert_eq!(Disk::parse(form).as_ref(), Ok(&wanted), "{form}");
        }
        let cdrom = Disk::parse("vdev=hdc,devtype=cdrom,access=ro,target=/cd.iso").unwrap();
        assert_eq!(
            (cdrom.number, cdrom.cdrom, cdrom.access),
            (22 << 8, true, Access::ReadOnly)
        );
        assert_eq!(Disk::parse("file:/cd.iso,hdc:cdrom,r").unwrap(), cdrom);
        assert!(!Disk::parse("/x,raw,xvda,rw,no-discard").unwrap().discard);
        for form in [
            "/x,qcow2,xvda",
            "tap:qcow2:/x,xvda,w",
            "vdev=xvda,format=qcow2,target=/x",
        ] {
            assert_eq!(Disk::parse(form).unwrap().format, Format::Qcow2, "{form}");
        }
    }

    #[test]
    fn targets() {
        let target = |form: &str| Disk::parse(form).unwrap().target;
        assert_eq!(target("ram:64M,xvda,w"), Target::Ram(64 << 20));
        assert_eq!(target("vdev=xvda,target=ram:8192"), Target::Ram(8192));
        assert_eq!(
            target("vdev=xvda,target=/a,b=c"),
            Target::File("/a,b=c".to_string())
        );
        for (text, disk, partition, file) in [
            ("/dev/vda", "vda", None, None),
            ("/dev/vdb12", "vdb", Some(12), None),
            (
                "/dev/vda1:/images/a:b.img",
                "vda",
                Some(1),
                Some("/images/a:b.img"),
            ),
            ("/dev/vda:/a", "vda", None, Some("/a")),
        ] {
            let place = Place {
                disk: disk.to_string(),
                partition,
                file: file.map(str::to_string),
            };
            assert_eq!(place.to_string(), text);
            assert_eq!(target(&format!("{text},raw,xvda,w")), Target::Machine(place));
        }
        for text in [
            "",
            "1",
            "vda0",
            "vda99999999999",
            "vda:a",
            "vda1:",
            "disk/by-id/x",
        ] {
            assert!(
                error(&format!("phy:/dev/{text},xvda")).contains("is none of /dev/vda"),
                "{text}"
            );
        }
        for size in ["", "M", "0", "64X", "-1", "99999999999G"] {
            assert!(
                error(&format!("ram:{size},xvda")).contains("is no size"),
                "{size}"
            );
        }
    }

    #[test]
    fn names_what_is_wrong() {
        for (form, wanted) in [
            ("", "vdev is missing"),
            ("/x", "vdev is missing"),
            ("vdev=xvda", "target is missing"),
            (
                "/x,raw,xvda,rw,what",
                "too many positional parameters, from 'what' on",
            ),
            ("/x,vhd,xvda", "format: vhd is not supported; raw and qcow2 are"),
            (
                "format=qcow2,vdev=xvda,target=ram:1M",
                "an empty disk is no qcow2 image",
            ),
            ("/x,xvda,rw", "format: unknown format 'xvda'"),
            ("/x,raw,floppy", "vdev: 'floppy' is no disk's name"),
            ("/x,raw,xvda,q", "access: 'q' is none of r, ro, w, rw"),
            ("/x,raw,xvda,colour=red", "unknown key 'colour'"),
            ("/x,raw,xvda,target=/y", "there are two targets"),
            ("/x,raw,xvda:tape", "vdev: 'tape' is neither disk nor cdrom"),
            (
                "/x,raw,xvda,rw,cdrom",
                "a CD-ROM cannot be written: access must be ro",
            ),
            (
                "ram:1M,xvda,r",
                "an empty disk that cannot be written is of no use",
            ),
            ("/x,raw,xvda,script=block-iscsi", "script: there are no scripts"),
            (
                "/x,raw,xvda,backend=driver",
                "backend: only Domain-0 serves disks",
            ),
        ] {
            assert_eq!(error(form), wanted, "{form}");
        }
    }

    #[test]
    fn numbers_of_names() {
        for (name, wanted) in [
            ("xvda", Some(0xca00)),
            ("xvdb3", Some(0xca13)),
            ("xvdp15", Some(0xcaff)),
            ("xvdq", Some(0x1000_1000)),
            ("xvda16", Some(0x1000_0010)),
            ("xvdaa", Some(0x1000_1a00)),
            ("d0", Some(0xca00)),
            ("d16p2", Some(0x1000_1002)),
            ("sda1", Some(0x801)),
            ("sdq", None),
            ("hdb2", Some(0x342)),
            ("hdd", Some(0x1640)),
            ("hde", None),
            ("51712", Some(51_712)),
            ("0xca00", Some(51_712)),
            ("xvd", None),
            ("xvda256", None),
            ("xvdzzzzzzzz", None),
            ("d+1", None),
            ("", None),
        ] {
            assert_eq!(Disk::number(name), wanted, "{name}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "[a-z0-9=,:+/ é-]{0,40}") {
            let _ = Disk::parse(&text);
        }
    }
}
