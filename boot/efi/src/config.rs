//! The configuration file, in the syntax of xen.efi's:
//!
//! ```text
//! [global]
//! default=debian
//!
//! [debian]
//! options=console=com1 dom0_mem=512M
//! kernel=vmlinuz root=/dev/sda2 ro
//! ramdisk=initrd.img
//! module=more.bin its arguments
//! ```
//!
//! `#` starts a comment line. `module` may be repeated; the modules' order in memory is kernel, ramdisk, the others.
//! Xen's keys for what Oxen does not load are passed over with a word (docs/misc/efi of Xen).

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// A file to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileLine<'a> {
    /// Where the configuration names it, counted from 1.
    pub line: usize,
    /// The file's name, relative to the configuration's directory.
    pub file: &'a str,
    /// What follows the name.
    pub arguments: &'a str,
}

/// What the chosen section says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config<'a> {
    /// The hypervisor's command line.
    pub options: &'a str,
    /// Files in the order of modules: dom0's kernel first.
    pub modules: Vec<FileLine<'a>>,
    /// What was passed over, in sentences.
    pub notes: Vec<String>,
}

/// What a file has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// What to boot.
    Config(Config<'a>),
    /// Not the section, or no kernel in it; it may be in another file.
    Chain {
        /// That file.
        file: FileLine<'a>,
        /// The section to look for there: the one that was looked for here, if it has a name.
        section: Option<&'a str>,
    },
}

/// What is wrong with the file, and in which line (0: as a whole).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Counted from 1; 0 when no line is to blame.
    pub line: usize,
    /// A sentence.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.message),
            line => write!(f, "line {line}: {}", self.message),
        }
    }
}

/// A `key=value` line with its number and its section.
struct Entry<'a> {
    line: usize,
    section: &'a str,
    key: &'a str,
    value: &'a str,
}

impl<'a> Entry<'a> {
    fn file(&self) -> FileLine<'a> {
        let (file, arguments) = match self.value.split_once(char::is_whitespace) {
            Some((file, arguments)) => (file, arguments.trim()),
            None => (self.value, ""),
        };
        FileLine {
            line: self.line,
            file,
            arguments,
        }
    }

    /// That nothing is done about it, if it is one of those.
    fn unused(&self) -> Option<String> {
        let (_, why) = UNUSED.iter().find(|(key, _)| *key == self.key)?;
        Some(format!(
            "line {}: `{}` is passed over: {why}",
            self.line, self.key
        ))
    }
}

/// Keys of xen.efi's that nothing is done about, and why.
const UNUSED: [(&str, &str); 4] = [
    ("ucode", "Oxen loads no microcode"),
    ("xsm", "Oxen has no security modules"),
    ("video", "Oxen has a serial console only"),
    ("dtb", "it is for Arm"),
];

/// Reads the file and picks a section: `wanted`, or that which `[global]` names as `default`, or the first with a kernel.
///
/// # Errors
/// When a line is not understood, or the section or its kernel is missing and `[global]` names no file as `chain`.
pub fn parse<'a>(text: &'a str, wanted: Option<&'a str>) -> Result<Found<'a>, ConfigError> {
    let entries = entries(text)?;
    let mut global = Global::default();
    for entry in entries.iter().filter(|entry| entry.section == GLOBAL) {
        global.read(entry)?;
    }
    let config = choose(&entries, wanted, global.default).and_then(|section| read(&entries, section));
    match (config, global.chain) {
        (Ok(mut config), _) => {
            config.notes.extend(global.notes);
            Ok(Found::Config(config))
        }
        // About what is missing; what is wrong names its line.
        (Err(error), Some(file)) if error.line == 0 => Ok(Found::Chain {
            file,
            section: wanted.or(global.default),
        }),
        (Err(error), _) => Err(error),
    }
}

/// The section that is of all others.
const GLOBAL: &str = "global";

/// What that says.
#[derive(Default)]
struct Global<'a> {
    default: Option<&'a str>,
    chain: Option<FileLine<'a>>,
    notes: Vec<String>,
}

impl<'a> Global<'a> {
    fn read(&mut self, entry: &Entry<'a>) -> Result<(), ConfigError> {
        match entry.key {
            "default" => self.default = Some(entry.value),
            "chain" if entry.value.is_empty() => {
                return Err(error(entry.line, "`chain` names no file".into()));
            }
            "chain" => self.chain = Some(entry.file()),
            _ => match entry.unused() {
                Some(note) => self.notes.push(note),
                None => {
                    return Err(error(
                        entry.line,
                        format!("`{}` in [global] is none of default, chain", entry.key),
                    ));
                }
            },
        }
        Ok(())
    }
}

/// What a section says.
fn read<'a>(entries: &[Entry<'a>], section: &str) -> Result<Config<'a>, ConfigError> {
    let (mut options, mut notes) = ("", Vec::new());
    let (mut kernel, mut ramdisk, mut others) = (None, None, Vec::new());
    for entry in entries.iter().filter(|entry| entry.section == section) {
        let file = entry.file();
        let first = match entry.key {
            "options" => {
                options = entry.value;
                continue;
            }
            "kernel" => kernel.replace(file).is_none(),
            "ramdisk" => ramdisk.replace(file).is_none(),
            "module" => {
                others.push(file);
                true
            }
            key => match entry.unused() {
                Some(note) => {
                    notes.push(note);
                    continue;
                }
                None => {
                    return Err(error(
                        entry.line,
                        format!("`{key}` is none of options, kernel, ramdisk, module"),
                    ));
                }
            },
        };
        if file.file.is_empty() {
            return Err(error(entry.line, format!("`{}` names no file", entry.key)));
        }
        if !first {
            return Err(error(
                entry.line,
                format!("a second `{}` in section [{section}]", entry.key),
            ));
        }
    }
    let kernel = kernel.ok_or_else(|| error(0, format!("section [{section}] has no line `kernel=FILE`")))?;
    let modules = [kernel].into_iter().chain(ramdisk).chain(others).collect();
    Ok(Config {
        options,
        modules,
        notes,
    })
}

fn error(line: usize, message: String) -> ConfigError {
    ConfigError { line, message }
}

fn entries(text: &str) -> Result<Vec<Entry<'_>>, ConfigError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut section = None;
    let mut entries = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let (number, line) = (index + 1, line.trim());
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = Some(name.trim());
            continue;
        }
        let (key, value) = line
            .split_once('=')
            .ok_or_else(|| error(number, format!("`{line}` is neither [section] nor key=value")))?;
        let section =
            section.ok_or_else(|| error(number, format!("`{line}` stands before any [section]")))?;
        entries.push(Entry {
            line: number,
            section,
            key: key.trim(),
            value: value.trim(),
        });
    }
    Ok(entries)
}

/// The section to boot.
fn choose<'a>(
    entries: &[Entry<'a>],
    wanted: Option<&'a str>,
    default: Option<&'a str>,
) -> Result<&'a str, ConfigError> {
    let mut bootable = entries
        .iter()
        .filter(|entry| entry.section != GLOBAL && entry.key == "kernel")
        .map(|entry| entry.section);
    if let Some(name) = wanted.or(default) {
        let there = name != GLOBAL && entries.iter().any(|entry| entry.section == name);
        if there {
            return Ok(name);
        }
        let mut message = format!("there is no section [{name}]");
        for (index, other) in bootable.enumerate() {
            message += if index == 0 {
                "; those with a kernel: ["
            } else {
                ", ["
            };
            message += other;
            message += "]";
        }
        return Err(error(0, message));
    }
    bootable
        .next()
        .ok_or_else(|| error(0, "no section has a line `kernel=FILE`".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DEBIAN: &str = "# Oxen\n[global]\ndefault=debian\n\n[other]\nkernel=x\n[debian]\r\n\
        options=console=com1 dom0_mem=512M\r\nramdisk=initrd.img\r\nmodule=more a=b\nkernel = vmlinuz root=/dev/sda2 ro\n";

    fn config<'a>(text: &'a str, wanted: Option<&'a str>) -> Config<'a> {
        match parse(text, wanted) {
            Ok(Found::Config(config)) => config,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn kernel_comes_first_whatever_the_order() {
        let config = config(DEBIAN, None);
        assert_eq!(config.options, "console=com1 dom0_mem=512M");
        let files: Vec<_> = config
            .modules
            .iter()
            .map(|m| (m.line, m.file, m.arguments))
            .collect();
        assert_eq!(
            files,
            [
                (11, "vmlinuz", "root=/dev/sda2 ro"),
                (9, "initrd.img", ""),
                (10, "more", "a=b")
            ]
        );
    }

    #[test]
    fn errors_name_the_line() {
        let message = |text: &str| alloc::string::ToString::to_string(&parse(text, None).unwrap_err());
        assert_eq!(message(""), "no section has a line `kernel=FILE`");
        assert_eq!(
            message("kernel=x"),
            "line 1: `kernel=x` stands before any [section]"
        );
        assert_eq!(
            message("[a]\nkernel"),
            "line 2: `kernel` is neither [section] nor key=value"
        );
        assert_eq!(message("[a]\noptions=x"), "no section has a line `kernel=FILE`");
        assert_eq!(
            message("[global]\ndefault=a\n[a]\noptions=x"),
            "section [a] has no line `kernel=FILE`"
        );
        assert_eq!(
            message("[global]\nkernel=x"),
            "line 2: `kernel` in [global] is none of default, chain"
        );
        assert_eq!(
            message("[a]\nkernel=x\nkernel=y"),
            "line 3: a second `kernel` in section [a]"
        );
        assert_eq!(message("[a]\nkernel="), "line 2: `kernel` names no file");
        assert_eq!(
            message("[global]\ndefault=b\n[a]\noptions=x"),
            "there is no section [b]"
        );
        assert_eq!(
            message("[global]\ndefault=b\n[a]\nkernel=x\n[c]\nkernel=y"),
            "there is no section [b]; those with a kernel: [a], [c]"
        );
        assert_eq!(
            message("[a]\nkernel=x\nkernal=x"),
            "line 3: `kernal` is none of options, kernel, ramdisk, module"
        );
    }

    #[test]
    fn the_section_is_named_or_the_first_with_a_kernel() {
        let kernel = |text, wanted| config(text, wanted).modules[0].file;
        assert_eq!(kernel("[a]\nkernel=x", None), "x");
        assert_eq!(kernel("[c]\noptions=y\n[a]\nkernel=x\n[b]\nkernel=y", None), "x");
        assert_eq!(kernel("[a]\nkernel=x\n[b]\nkernel=y", Some("b")), "y");
        assert_eq!(kernel(DEBIAN, Some("other")), "x");
    }

    #[test]
    fn what_xen_would_load_is_passed_over_with_a_word() {
        let text = "[global]\nvideo=gfx-1024x768\n[a]\nkernel=x\nucode=amd.bin\nxsm=policy";
        let notes = [
            "line 5: `ucode` is passed over: Oxen loads no microcode",
            "line 6: `xsm` is passed over: Oxen has no security modules",
            "line 2: `video` is passed over: Oxen has a serial console only",
        ];
        assert_eq!(config(text, None).notes, notes);
    }

    #[test]
    fn what_is_not_here_may_be_in_another_file() {
        let text = "[global]\ndefault=b\nchain=more.cfg\n[a]\nkernel=x\n[c]\noptions=y\n";
        let chain = |wanted| match parse(text, wanted) {
            Ok(Found::Chain { file, section }) => (file.line, file.file, section),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            chain(None),
            (3, "more.cfg", Some("b")),
            "its default, not that file's"
        );
        assert_eq!(chain(Some("c")), (3, "more.cfg", Some("c")));
        assert_eq!(config(text, Some("a")).modules[0].file, "x");
        assert!(
            parse("[global]\nchain=x\n[a]\nkernel=", None).is_err(),
            "what is wrong is wrong"
        );
    }

    proptest! {
        #[test]
        fn any_text_gives_a_config_or_an_error(text in "(\\[?[a-z]{0,6}\\]?=?[ a-z#]{0,6}\n?){0,8}") {
            if let Ok(Found::Config(config)) = parse(&text, None) {
                prop_assert!(config.modules.iter().all(|module| !module.file.is_empty()));
            }
        }
    }
}
