//! What the program is started with, as xen.efi takes it ([`HELP`]); and the names of configurations that are tried.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// What `-help` prints.
pub const HELP: &str = "oxen.efi [-cfg=FILE] [SECTION] [-- OPTIONS]
  -cfg=FILE      the configuration, instead of the one named after the program, or oxen.cfg, or xen.cfg
  SECTION        its section, instead of its default or its first
  -- OPTIONS     more of Oxen's command line
  -help, -?      print this
Options may begin with / as well; -basevideo and -mapbs are taken for xen.efi's sake.";

/// The load options.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options<'a> {
    /// The configuration, by `-cfg=`.
    pub config: Option<&'a str>,
    /// Its section; of several words, the last.
    pub section: Option<&'a str>,
    /// More of the hypervisor's command line, behind `--`.
    pub extra: &'a str,
    /// Help is wanted, and nothing else.
    pub help: bool,
    /// Options that mean nothing here.
    pub unknown: Vec<&'a str>,
}

/// Load options as text: UTF-16 up to a null character, or to their end, as boot entries need not have one.
///
/// # Errors
/// A sentence: they are none.
pub fn text(bytes: &[u8]) -> Result<String, &'static str> {
    let (units, rest) = bytes.as_chunks();
    let units = units.iter().copied().map(u16::from_le_bytes);
    let text: Result<String, _> = char::decode_utf16(units.take_while(|&unit| unit != 0)).collect();
    match text {
        Ok(text) if rest.is_empty() && !text.chars().any(|c| c.is_control() && !c.is_whitespace()) => {
            Ok(text)
        }
        _ => Err("the load options are not text (UTF-16), and ignored"),
    }
}

/// The name of an option.
fn option(word: &str) -> Option<&str> {
    word.strip_prefix(['-', '/'])
}

/// Reads load options. The first word is the program's own name, where it is no option: shells give it, boot entries may
/// not.
pub fn parse(line: &str) -> Options<'_> {
    let mut options = Options::default();
    let mut rest = line.trim();
    let mut first = true;
    while !rest.is_empty() {
        let (word, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        rest = after.trim_start();
        // A path may begin as an option does.
        let is_program = |word: &str| !word.starts_with('-') && word.to_ascii_lowercase().ends_with(".efi");
        if core::mem::take(&mut first) && (option(word).is_none() || is_program(word)) {
            continue;
        }
        if word == "--" {
            options.extra = rest;
            break;
        }
        match option(word) {
            None => options.section = Some(word),
            Some("help" | "?") => options.help = true,
            // There are no video modes, and firmware's memory stays mapped as long as Oxen needs it.
            Some("basevideo" | "mapbs") => {}
            Some("cfg") if !rest.is_empty() => {
                let (file, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
                options.config = Some(file);
                rest = after.trim_start();
            }
            Some(name) => match name.strip_prefix("cfg=") {
                Some(file) => options.config = Some(file),
                None => options.unknown.push(word),
            },
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
        assert_eq!((parsed.config, parsed.section), (Some("my.cfg"), Some("two")));
        assert_eq!(parsed.unknown, ["-x"]);
        let parsed = parse("/cfg=my.cfg /mapbs /x");
        assert_eq!((parsed.config, parsed.unknown), (Some("my.cfg"), ["/x"].into()));
        assert_eq!(parse("/EFI/oxen.efi one").section, Some("one"));
        assert_eq!(parse("oxen.efi -cfg").unknown, ["-cfg"]);
        assert!(parse("oxen.efi -help").help && parse("/?").help && !parse("help").help);
        assert_eq!(parse("oxen.efi"), Options::default());
        assert_eq!(parse(""), Options::default());
    }

    #[test]
    fn load_options_are_text_or_not() {
        let utf16 = |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
        assert_eq!(text(&utf16("oxen.efi é\0rest")).as_deref(), Ok("oxen.efi é"));
        assert_eq!(
            text(&utf16("-cfg=a")).as_deref(),
            Ok("-cfg=a"),
            "no null at the end"
        );
        assert_eq!(text(&[]).as_deref(), Ok(""));
        assert!(text(b"-cfg=a\0").is_err(), "half a character too much");
        assert!(text(&[0x00, 0xd8, b'a', 0]).is_err(), "half a pair");
        assert!(text(&[1, 0]).is_err(), "a control character");
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
