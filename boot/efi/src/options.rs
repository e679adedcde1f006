//! What the program is started with, as xen.efi takes it: `oxen.efi [-cfg=FILE] [SECTION] [-- OPTIONS]`; and the names of
//! configurations that are tried.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// The load options.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options<'a> {
    /// The configuration, by `-cfg=`.
    pub config: Option<&'a str>,
    /// Its section.
    pub section: Option<&'a str>,
    /// More of the hypervisor's command line, behind `--`.
    pub extra: &'a str,
    /// Words that mean nothing here.
    pub unknown: Vec<&'a str>,
}

/// Reads load options. The first word is the program's own name, where it does not begin with a dash: shells give it, boot
/// entries may not.
pub fn parse(line: &str) -> Options<'_> {
    let mut options = Options::default();
    let mut rest = line.trim();
    let mut first = true;
    while !rest.is_empty() {
        let (word, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        rest = after.trim_start();
        let own_name = core::mem::take(&mut first) && !word.starts_with('-');
        match word {
            _ if own_name => {}
            "--" => {
                options.extra = rest;
                break;
            }
            // There are no video modes, and firmware's memory stays mapped as long as Oxen needs it.
            "-basevideo" | "-mapbs" => {}
            "-cfg" => {
                let (file, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
                options.config = Some(file);
                rest = after.trim_start();
            }
            _ if word.starts_with("-cfg=") => options.config = word.strip_prefix("-cfg="),
            _ if word.starts_with('-') || options.section.is_some() => options.unknown.push(word),
            _ => options.section = Some(word),
        }
    }
    options
}

/// Names of configurations to try for a program of this name: the name with what is behind its last `.`, `-` or `_` cut
/// off, again and again (`xen-4.2.efi`: `xen-4.2.cfg`, `xen-4.cfg`, `xen.cfg`), and then ours and xen.efi's own.
pub fn names(program: &str) -> Vec<String> {
    const USUAL: [&str; 2] = ["oxen.cfg", "xen.cfg"];
    let mut names = Vec::new();
    let mut rest = program;
    while let Some(at) = rest.rfind(['.', '-', '_']).filter(|&at| at > 0) {
        rest = &rest[..at];
        names.push(format!("{rest}.cfg"));
    }
    for usual in USUAL {
        if !names.iter().any(|name| name.eq_ignore_ascii_case(usual)) {
            names.push(usual.into());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn as_xen_takes_them() {
        let parsed = parse("oxen.efi -cfg=my.cfg -basevideo debian -- console=com1  loglvl=all");
        assert_eq!((parsed.config, parsed.section), (Some("my.cfg"), Some("debian")));
        assert_eq!(parsed.extra, "console=com1  loglvl=all");
        assert!(parsed.unknown.is_empty());
        let parsed = parse("-cfg my.cfg -x one two");
        assert_eq!((parsed.config, parsed.section), (Some("my.cfg"), Some("one")));
        assert_eq!(parsed.unknown, ["-x", "two"]);
        assert_eq!(parse("oxen.efi"), Options::default());
        assert_eq!(parse(""), Options::default());
    }

    #[test]
    fn names_in_xens_order() {
        let wanted = [
            "xen-4.2-unstable.cfg",
            "xen-4.2.cfg",
            "xen-4.cfg",
            "xen.cfg",
            "oxen.cfg",
        ];
        assert_eq!(names("xen-4.2-unstable.efi"), wanted);
        assert_eq!(names("oxen.efi"), ["oxen.cfg", "xen.cfg"]);
        assert_eq!(names("BOOTX64.EFI"), ["BOOTX64.cfg", "oxen.cfg", "xen.cfg"]);
        assert_eq!(names(""), ["oxen.cfg", "xen.cfg"]);
    }

    proptest! {
        #[test]
        fn any_text_will_do(text in "[-a-z=. é]{0,30}") {
            parse(&text);
            prop_assert!(names(&text).len() >= 2);
        }
    }
}
