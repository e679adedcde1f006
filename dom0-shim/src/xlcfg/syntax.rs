//! The syntax of xl.cfg: `key = value` lines, where a value is a number, a string or a list (xl.cfg(5)).

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::Error;

/// A value of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Decimal, or hexadecimal after `0x`.
    Number(u64),
    /// In single or double quotes.
    String(String),
    /// In brackets; may go over several lines.
    List(Vec<Value>),
}

/// One `key = value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Line on which the key stands, from 1.
    pub line: usize,
    /// What is set.
    pub key: String,
    /// To what.
    pub value: Value,
}

/// Lists within lists; deeper is an error.
const DEPTH_MAX: usize = 4;

/// Parses a config file.
///
/// # Errors
/// The first thing that does not fit the syntax, with its line.
pub fn parse(text: &str) -> Result<Vec<Setting>, Error> {
    let mut parser = Parser { rest: text, line: 1 };
    let mut settings = Vec::new();
    loop {
        parser.skip(Blank::LinesToo);
        if parser.rest.is_empty() {
            return Ok(settings);
        }
        let line = parser.line;
        let key = parser.word().ok_or_else(|| parser.expected("a key"))?.to_string();
        parser.skip(Blank::SameLine);
        if !parser.take('=') {
            return Err(parser.expected("'='"));
        }
        parser.skip(Blank::SameLine);
        let value = parser.value(0)?;
        parser.skip(Blank::SameLine);
        if !(parser.rest.is_empty() || parser.rest.starts_with(['\n', ';'])) {
            return Err(parser.expected("the end of the line"));
        }
        settings.push(Setting { line, key, value });
    }
}

/// What to skip between tokens; comments are skipped always.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Blank {
    SameLine,
    LinesToo,
}

struct Parser<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Parser<'a> {
    fn skip(&mut self, blank: Blank) {
        while let Some(first) = self.rest.chars().next() {
            match first {
                '#' => self.rest = self.rest.find('\n').map_or("", |end| &self.rest[end..]),
                ' ' | '\t' | '\r' => self.rest = &self.rest[1..],
                '\n' | ';' if blank == Blank::LinesToo => {
                    self.line += usize::from(first == '\n');
                    self.rest = &self.rest[1..];
                }
                _ => return,
            }
        }
    }

    fn take(&mut self, wanted: char) -> bool {
        match self.rest.strip_prefix(wanted) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Letters, digits and underscores.
    fn word(&mut self) -> Option<&'a str> {
        let end = self
            .rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!word.is_empty()).then_some(word)
    }

    fn value(&mut self, depth: usize) -> Result<Value, Error> {
        if depth > DEPTH_MAX {
            return Err(Error::at(self.line, "lists are nested too deeply".to_string()));
        }
        for quote in ['"', '\''] {
            if self.take(quote) {
                return self.string(quote);
            }
        }
        if self.take('[') {
            return self.list(depth);
        }
        let line = self.line;
        let word = self
            .word()
            .ok_or_else(|| self.expected("a number, a string in quotes, or a list"))?;
        let number = match word.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => word.parse(),
        };
        let message = || format!("'{word}' is no number; a string needs quotes");
        number.map(Value::Number).map_err(|_| Error::at(line, message()))
    }

    fn string(&mut self, quote: char) -> Result<Value, Error> {
        let end = self
            .rest
            .find([quote, '\n'])
            .filter(|&end| self.rest[end..].starts_with(quote));
        let end = end.ok_or_else(|| Error::at(self.line, "a string is not closed".to_string()))?;
        let text = self.rest[..end].to_string();
        self.rest = &self.rest[end + 1..];
        Ok(Value::String(text))
    }

    fn list(&mut self, depth: usize) -> Result<Value, Error> {
        let opened = self.line;
        let mut values = Vec::new();
        loop {
            self.skip(Blank::LinesToo);
            if self.take(']') {
                return Ok(Value::List(values));
            }
            if self.rest.is_empty() {
                return Err(Error::at(opened, "a list is not closed".to_string()));
            }
            values.push(self.value(depth + 1)?);
            self.skip(Blank::LinesToo);
            if !self.take(',') && !self.rest.starts_with(']') {
                return Err(self.expected("',' or ']'"));
            }
        }
    }

    fn expected(&self, what: &str) -> Error {
        let found = match self.rest.chars().next() {
            None => "the end of the file".to_string(),
            Some('\n') => "the end of the line".to_string(),
            Some(first) => format!("'{first}'"),
        };
        Error::at(self.line, format!("expected {what}, found {found}"))
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use proptest::prelude::*;

    use super::*;

    fn string(text: &str) -> Value {
        Value::String(text.to_string())
    }

    #[test]
    fn parses_what_xl_takes() {
        let text = "# comment\nname = \"deb # ian\"; memory=192 # MiB\n\nvcpus = 0x2\r\ndisk = [ 'a,b' ,\n  # more\n  \"c\",\n]\nextra='say \"hi\"'";
        let settings = parse(text).unwrap();
        let got: Vec<_> = settings.into_iter().map(|s| (s.line, s.key, s.value)).collect();
        assert_eq!(
            got,
            [
                (2, "name".to_string(), string("deb # ian")),
                (2, "memory".to_string(), Value::Number(192)),
                (4, "vcpus".to_string(), Value::Number(2)),
                (
                    5,
                    "disk".to_string(),
                    Value::List(vec![string("a,b"), string("c")])
                ),
                (9, "extra".to_string(), string("say \"hi\"")),
            ]
        );
    }

    #[test]
    fn names_the_line() {
        for (text, wanted) in [
            ("a = 1\nb 2", "line 2: expected '=', found '2'"),
            (
                "a = \n",
                "line 1: expected a number, a string in quotes, or a list, found the end of the line",
            ),
            ("\n\na = yes", "line 3: 'yes' is no number; a string needs quotes"),
            ("a = \"x\ny = 1", "line 1: a string is not closed"),
            (
                "a = [ 1,\n2",
                "line 2: expected ',' or ']', found the end of the file",
            ),
            ("a = [ 1,\n", "line 1: a list is not closed"),
            ("a = 1 2", "line 1: expected the end of the line, found '2'"),
            ("= 1", "line 1: expected a key, found '='"),
            ("a = [[[[[[1]]]]]]", "line 1: lists are nested too deeply"),
            (
                "a = 18446744073709551616",
                "line 1: '18446744073709551616' is no number; a string needs quotes",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), wanted, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "[a-z0-9=\\[\\]\"'#;,\\n é-]{0,80}") {
            let _ = parse(&text);
        }

        #[test]
        fn strings_and_numbers_round_trip(number: u64, text in "[^\"\\n]{0,40}") {
            let settings = parse(&format!("n = {number}\ns = \"{text}\"\n")).unwrap();
            prop_assert_eq!(&settings[0].value, &Value::Number(number));
            prop_assert_eq!(&settings[1].value, &Value::String(text));
        }
    }
}
