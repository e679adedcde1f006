//! Settings at the prompt, in place of a config's own.

use alloc::format;
use alloc::string::String;

use super::{Config, parse, syntax};
use crate::shell::words::Word;

/// A setting (`key=value`) at the prompt: as it was typed if that is one, as its quotes are those of a config then;
/// otherwise what is left of it as a word, as xl gets it from a shell. So `extra='a b'` and `'extra="a b"'` are the same.
pub fn setting<'a>(word: &'a Word<'_>) -> &'a str {
    match syntax::parse(word.typed) {
        Ok(settings) if settings.len() == 1 => word.typed,
        _ => &word.text,
    }
}

/// Parses the config of this path with `settings` as if they were its last lines.
///
/// # Errors
/// A sentence that names file and line, or the setting.
pub fn parse_with(path: &str, text: &str, settings: &[&str]) -> Result<Config, String> {
    let text = text.trim_end();
    let own_lines = text.lines().count().max(1);
    let text = format!("{text}\n{}\n", settings.join("\n"));
    parse(&text).map_err(|error| {
        let setting = error.line.checked_sub(own_lines + 1);
        match (error.line, setting.and_then(|index| settings.get(index))) {
            (0, _) => format!("{path}: {}", error.message),
            (_, Some(setting)) => format!("{setting}: {}", error.message),
            (line, None) => format!("{path}:{line}: {}", error.message),
        }
    })
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::shell::words;

    #[test]
    fn settings_at_the_prompt() {
        let line = r#"extra='a b' 'extra="a b"' disk=["a b,xvda,rw"] vcpus=2 extra='say "hi"' name=x"#;
        let words = words::split(line).unwrap();
        let settings: Vec<&str> = words.iter().map(setting).collect();
        let wanted = [
            "extra='a b'",
            r#"extra="a b""#,
            r#"disk=["a b,xvda,rw"]"#,
            "vcpus=2",
            r#"extra='say "hi"'"#,
            "name=x",
        ];
        assert_eq!(settings, wanted);
    }

    #[test]
    fn they_take_the_place_of_a_configs_own() {
        let text = "name='a'\nkernel='/k'\nmemory=64\npci=['01:00.0']\nvnc=1\n";
        let config = parse_with("p", text, &["pci=[]", "memory=128", "vnc=0"]).unwrap();
        assert_eq!((config.memory, config.warnings.len()), (128, 0));
    }

    #[test]
    fn errors_name_the_file_and_line_or_the_setting() {
        let error = |text: &str, settings: &[&str]| parse_with("p", text, settings).unwrap_err();
        let text = "name='a'\nkernel='/k'\n\nmemory=x\n\n\r\n";
        assert!(error(text, &[]).starts_with("p:4: 'x' is no number"));
        let text = "name='a'\nkernel='/k'\nmemory=64\n\n\n";
        assert!(error(text, &["vcpus=1", "vcpus=0"]).starts_with("vcpus=0: "));
        assert_eq!(error("", &["nonsense=1"]), "nonsense=1: unknown key 'nonsense'");
        assert_eq!(error("\n", &["name='a'"]), "p: 'memory' is missing");
    }
}
