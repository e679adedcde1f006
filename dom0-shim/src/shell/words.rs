//! Words of a command line, with the quoting of a POSIX shell (XCU 2.2): `'a b'`, `"a b"`, `a\ b`.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// A word of a command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word<'a> {
    /// As it was typed, with its quotes.
    pub typed: &'a str,
    /// What it says, without them.
    pub text: String,
}

/// Splits a command line at its blanks.
///
/// # Errors
/// A sentence: a quote is not closed, or nothing follows a backslash.
pub fn split(line: &str) -> Result<Vec<Word<'_>>, String> {
    let mut words = Vec::new();
    let mut rest = line.trim_ascii_start();
    while !rest.is_empty() {
        let (text, after) = word(rest)?;
        let typed = &rest[..rest.len() - after.len()];
        words.push(Word { typed, text });
        rest = after.trim_ascii_start();
    }
    Ok(words)
}

/// What the first word of a line says, and what is behind it.
fn word(line: &str) -> Result<(String, &str), String> {
    let mut text = String::new();
    let mut chars = line.chars();
    let mut quote = None;
    loop {
        let before = chars.as_str();
        match (chars.next(), quote) {
            (None, Some(quote)) => return Err(format!("a quote ({quote}) is not closed")),
            (None, None) => return Ok((text, before)),
            (Some(c), None) if c.is_ascii_whitespace() => return Ok((text, before)),
            (Some(c @ ('\'' | '"')), None) => quote = Some(c),
            (Some(c), Some(open)) if c == open => quote = None,
            (Some('\\'), None) => text.push(chars.next().ok_or("nothing follows the backslash at the end")?),
            // In double quotes it only stands before what would mean something else there.
            (Some('\\'), Some('"')) if chars.as_str().starts_with(['"', '\\', '$', '`']) => {
                text.extend(chars.next());
            }
            (Some(c), _) => text.push(c),
        }
    }
}

/// An option: its letter and its long name, empty if it has none.
pub type Known<'a> = (char, &'a str);

/// Letters of options, wherever they stand (`-a -w`, `-aw`, `--all --wait`), and the other words; `None` if one is not
/// among `known`.
pub fn options<'a>(words: &[&'a str], known: &[Known<'_>]) -> Option<(String, Vec<&'a str>)> {
    let (mut given, mut rest) = (String::new(), Vec::new());
    for word in words {
        match (word.strip_prefix("--"), word.strip_prefix('-')) {
            (Some(name), _) => {
                let (letter, _) = known.iter().find(|(_, long)| !name.is_empty() && *long == name)?;
                given.push(*letter);
            }
            (None, Some("")) => return None,
            (None, Some(letters)) => {
                let knows = |letter| known.iter().any(|(of, _)| *of == letter);
                given.push_str(Some(letters).filter(|letters| letters.chars().all(knows))?);
            }
            (None, None) => rest.push(*word),
        }
    }
    Some((given, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(line: &str) -> Vec<String> {
        split(line).unwrap().into_iter().map(|word| word.text).collect()
    }

    #[test]
    fn quotes_as_a_shell_has_them() {
        assert_eq!(texts("  list \t -l  "), ["list", "-l"]);
        assert_eq!(texts("a 'b c' \"d e\" f\\ g"), ["a", "b c", "d e", "f g"]);
        assert_eq!(texts("extra='console=hvc0 quiet'"), ["extra=console=hvc0 quiet"]);
        assert_eq!(texts(r#"'extra="a b"' a'b'"c"d"#), [r#"extra="a b""#, "abcd"]);
        assert_eq!(
            texts(r#"'\n' "\n" \n "\"" "\$\`\\" '' """#),
            ["\\n", "\\n", "n", "\"", "$`\\", "", ""]
        );
        assert_eq!(texts(""), [""; 0]);
    }

    #[test]
    fn keeps_what_was_typed() {
        let words = split("create  disk=[\"a b,xvda,rw\"] x").unwrap();
        let typed: Vec<&str> = words.iter().map(|word| word.typed).collect();
        assert_eq!(typed, ["create", "disk=[\"a b,xvda,rw\"]", "x"]);
        assert_eq!(words[1].text, "disk=[a b,xvda,rw]");
    }

    #[test]
    fn says_what_is_not_closed() {
        assert_eq!(split("a 'b c").unwrap_err(), "a quote (') is not closed");
        assert_eq!(split("a \"b'").unwrap_err(), "a quote (\") is not closed");
        assert_eq!(
            split("a \\").unwrap_err(),
            "nothing follows the backslash at the end"
        );
    }

    #[test]
    fn options_stand_anywhere() {
        let of = |words: &[&'static str]| options(words, &[('a', "all"), ('w', "wait"), ('F', "")]);
        assert_eq!(of(&["-aw", "x", "-w"]), Some(("aww".into(), ["x"].into())));
        assert_eq!(
            of(&["--wait", "x", "--all", "-F"]),
            Some(("waF".into(), ["x"].into()))
        );
        assert_eq!(of(&["x"]), Some((String::new(), ["x"].into())));
        for unknown in ["-q", "-", "--", "--al", "--w", "-all"] {
            assert_eq!(of(&[unknown]), None, "{unknown}");
        }
    }

    proptest! {
        /// Whatever is quoted comes out as it was.
        #[test]
        fn what_is_quoted_comes_out(wanted in prop::collection::vec("[ -~]{0,12}", 0..5)) {
            let quoted: Vec<String> = wanted
                .iter()
                .map(|text| format!("'{}'", text.replace('\'', r"'\''")))
                .collect();
            prop_assert_eq!(texts(&quoted.join(" ")), wanted);
        }

        #[test]
        fn never_panics(line in "[ -~é\t]{0,40}") {
            let _ = split(&line);
        }
    }
}
