//! JSON (RFC 8259) as xl prints it: an entry a line, four blanks a level.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "JSON's own names")]
pub enum Json {
    Number(i64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(&'static str, Json)>),
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<u32> for Json {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, 0)
    }
}

impl Json {
    fn write(&self, f: &mut fmt::Formatter<'_>, depth: usize) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => quoted(f, text),
            Self::List(values) => {
                let write = |f: &mut fmt::Formatter<'_>, value: &Json| value.write(f, depth + 1);
                lines(f, depth, ['[', ']'], values, write)
            }
            Self::Object(entries) => lines(f, depth, ['{', '}'], entries, |f, (name, value)| {
                write!(f, "\"{name}\": ")?;
                value.write(f, depth + 1)
            }),
        }
    }
}

fn lines<T>(
    f: &mut fmt::Formatter<'_>,
    depth: usize,
    [open, close]: [char; 2],
    entries: &[T],
    write: impl Fn(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    f.write_char(open)?;
    let indent = |f: &mut fmt::Formatter<'_>, depth: usize| write!(f, "\n{:1$}", "", depth * 4);
    for (index, entry) in entries.iter().enumerate() {
        if index > 0 {
            f.write_char(',')?;
        }
        indent(f, depth + 1)?;
        write(f, entry)?;
    }
    if !entries.is_empty() {
        indent(f, depth)?;
    }
    f.write_char(close)
}

fn quoted(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' | '\\' => write!(f, "\\{c}")?,
            c if u32::from(c) < 0x20 => write!(f, "\\u{:04x}", u32::from(c))?,
            c => f.write_char(c)?,
        }
    }
    f.write_char('"')
}

#[cfg(test)]
mod tests {
    use alloc::{format, vec};

    use super::*;

    #[test]
    fn as_xl_prints_it() {
        let value = Json::List(vec![Json::Object(vec![
            ("domid", 1u32.into()),
            ("say", "a \"b\\\n".into()),
            ("none", Json::List(vec![])),
            ("all", Json::List(vec![Json::Number(-1), Json::Number(1)])),
        ])]);
        let wanted = "[\n    {\n        \"domid\": 1,\n        \"say\": \"a \\\"b\\\\\\u000a\",\n        \"none\": [],\n        \
                      \"all\": [\n            -1,\n            1\n        ]\n    }\n]";
        assert_eq!(format!("{value}"), wanted);
    }
}
