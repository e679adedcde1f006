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

/// Reads the file and picks the section that `[global]` names as `default`, or the only one there is.
///
/// # Errors
/// When a line is not understood, or the section or its kernel is missing.
pub fn parse(text: &str) -> Result<Config<'_>, ConfigError> {
    let entries = entries(text)?;
    let section = choose(&entries)?;
    let mut options = "";
    let (mut kernel, mut ramdisk, mut others) = (None, None, Vec::new());
    for entry in entries.iter().filter(|entry| entry.section == section) {
        let (file, arguments) = match entry.value.split_once(char::is_whitespace) {
            Some((file, arguments)) => (file, arguments.trim()),
            None => (entry.value, ""),
        };
        let file = FileLine {
            line: entry.line,
            file,
            arguments,
        };
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
            key => {
                return Err(error(
                    entry.line,
                    format!("`{key}` is none of options, kernel, ramdisk, module"),
                ));
            }
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
    Ok(Config { options, modules })
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
fn choose<'a>(entries: &[Entry<'a>]) -> Result<&'a str, ConfigError> {
    if let Some(entry) = entries.iter().find(|entry| entry.section == "global") {
        if entry.key != "default" {
            return Err(error(
                entry.line,
                format!("`{}` in [global], which knows only `default`", entry.key),
            ));
        }
        if !entries.iter().any(|other| other.section == entry.value) {
            return Err(error(
                entry.line,
                format!("there is no section [{}]", entry.value),
            ));
        }
        return Ok(entry.value);
    }
    let mut sections = entries.iter().map(|entry| entry.section);
    let first = sections
        .next()
        .ok_or_else(|| error(0, "no section says what to boot".into()))?;
    if sections.all(|section| section == first) {
        Ok(first)
    } else {
        Err(error(
            0,
            "several sections, and no `default=` in [global] to choose".into(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DEBIAN: &str = "# Oxen\n[global]\ndefault=debian\n\n[other]\nkernel=x\n[debian]\r\n\
        options=console=com1 dom0_mem=512M\r\nramdisk=initrd.img\r\nmodule=more a=b\nkernel = vmlinuz root=/dev/sda2 ro\n";

    #[test]
    fn kernel_comes_first_whatever_the_order() {
        let config = parse(DEBIAN).unwrap();
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
        let message = |text: &str| alloc::string::ToString::to_string(&parse(text).unwrap_err());
        assert_eq!(message(""), "no section says what to boot");
        assert_eq!(
            message("kernel=x"),
            "line 1: `kernel=x` stands before any [section]"
        );
        assert_eq!(
            message("[a]\nkernel"),
            "line 2: `kernel` is neither [section] nor key=value"
        );
        assert_eq!(message("[a]\noptions=x"), "section [a] has no line `kernel=FILE`");
        assert_eq!(
            message("[a]\nkernel=x\nkernel=y"),
            "line 3: a second `kernel` in section [a]"
        );
        assert_eq!(message("[a]\nkernel="), "line 2: `kernel` names no file");
        assert_eq!(
            message("[global]\ndefault=b\n[a]\nkernel=x"),
            "line 2: there is no section [b]"
        );
        assert_eq!(
            message("[a]\nkernal=x"),
            "line 2: `kernal` is none of options, kernel, ramdisk, module"
        );
        assert!(message("[a]\nkernel=x\n[b]\nkernel=y").contains("no `default=`"));
    }

    #[test]
    fn a_single_section_needs_no_default() {
        assert_eq!(parse("[a]\nkernel=x").unwrap().modules[0].file, "x");
    }

    proptest! {
        #[test]
        fn any_text_gives_a_config_or_an_error(text in "(\\[?[a-z]{0,6}\\]?=?[ a-z#]{0,6}\n?){0,8}") {
            if let Ok(config) = parse(&text) {
                prop_assert!(config.modules.iter().all(|module| !module.file.is_empty()));
            }
        }
    }
}
