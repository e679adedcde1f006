//! What Xen's command line tools for xenstore do and print.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Write;

use super::{Error, Kind, path};

/// Makes a request outside transactions; the payload of the reply.
pub type Ask<'a> = &'a dyn Fn(Kind, &[u8]) -> Result<Vec<u8>, Error>;

/// Columns that `xenstore-ls` takes.
const WIDTH: usize = 80;
/// Where its permissions begin.
const PERMISSIONS_COLUMN: usize = 60;
/// Columns of what is around a value that is cut off: ` = "..."`.
const CUT: usize = 8;

/// Options of `xenstore-ls`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Listing {
    /// `-f`: whole paths in place of indentation, nothing cut off.
    pub full: bool,
    /// `-p`: permissions.
    pub permissions: bool,
}

/// Value of a node.
///
/// # Errors
/// The server's.
pub fn read(ask: Ask<'_>, path: &str) -> Result<Vec<u8>, Error> {
    ask(Kind::Read, format!("{path}\0").as_bytes())
}

/// Names of a node's children, however many.
///
/// # Errors
/// The server's.
pub fn children(ask: Ask<'_>, path: &str) -> Result<Vec<String>, Error> {
    let names = match ask(Kind::Directory, format!("{path}\0").as_bytes()) {
        Err(Error::TooBig) => parts(ask, path)?,
        names => names?,
    };
    let text = String::from_utf8_lossy(&names).into_owned();
    Ok(text.split_terminator('\0').map(ToString::to_string).collect())
}

/// A list of children in parts; from the start again when it has changed meanwhile.
fn parts(ask: Ask<'_>, path: &str) -> Result<Vec<u8>, Error> {
    let mut generation = Vec::new();
    let mut names: Vec<u8> = Vec::new();
    loop {
        let part = ask(
            Kind::DirectoryPart,
            format!("{path}\0{}\0", names.len()).as_bytes(),
        )?;
        let end = part.iter().position(|&byte| byte == 0).ok_or(Error::Invalid)?;
        let (seen, rest) = (&part[..end], &part[end + 1..]);
        if !names.is_empty() && generation != seen {
            names.clear();
            continue;
        }
        generation = seen.to_vec();
        // The last part ends with an empty name.
        match rest.strip_suffix(b"\0") {
            Some(last) if last.is_empty() || last.ends_with(b"\0") => {
                names.extend(last);
                return Ok(names);
            }
            _ if rest.is_empty() => return Err(Error::Invalid),
            _ => names.extend(rest),
        }
    }
}

/// The permissions of a node as `n0,r5`.
///
/// # Errors
/// The server's.
pub fn permissions(ask: Ask<'_>, path: &str) -> Result<String, Error> {
    let list = ask(Kind::GetPerms, format!("{path}\0").as_bytes())?;
    let list = String::from_utf8_lossy(&list).into_owned();
    Ok(list.trim_end_matches('\0').replace('\0', ","))
}

/// `xenstore-ls`: the nodes below `top`, one a line, given to `print`.
///
/// # Errors
/// What the tool says.
pub fn ls(ask: Ask<'_>, top: &str, options: Listing, print: &mut dyn FnMut(&str)) -> Result<(), String> {
    let mut todo: Vec<(String, String, usize)> = Vec::new();
    let push = |todo: &mut Vec<_>, above: &str, depth: usize| {
        let names = children(ask, above)?;
        let below = |name: String| (path::child(above, &name), name, depth);
        todo.extend(names.into_iter().rev().map(below));
        Ok(())
    };
    push(&mut todo, top, 0).map_err(|error: Error| format!("xenstore-ls: {top}: {}", error.name()))?;
    while let Some((path, name, depth)) = todo.pop() {
        print(&ls_line(ask, &path, &name, depth, options));
        // A node that has gone meanwhile has no children.
        let _ = push(&mut todo, &path, depth + 1);
    }
    Ok(())
}

fn ls_line(ask: Ask<'_>, path: &str, name: &str, depth: usize, options: Listing) -> String {
    let (width, column) = match options.full {
        true => (usize::MAX / 2, 0),
        false => (WIDTH, PERMISSIONS_COLUMN),
    };
    let mut line = match options.full {
        true => path.to_string(),
        false => format!("{:depth$}{name:.1$}", "", width.saturating_sub(CUT + depth)),
    };
    // Writing to a String cannot fail.
    let _ = match read(ask, path) {
        Err(_) => write!(line, ":"),
        Ok(value) if line.len() + value.len() + CUT > width => {
            let room = width.saturating_sub(CUT + line.len());
            write!(line, " = \"{:.room$}\\...\"", sanitise(&value))
        }
        Ok(value) => {
            let _ = write!(line, " = \"{}\"", sanitise(&value));
            if options.permissions {
                line.push(' ');
                while line.len() < column {
                    line.push(if line.len() % 2 == 0 { ' ' } else { '.' });
                }
            }
            Ok(())
        }
    };
    if options.permissions
        && let Ok(list) = permissions(ask, path)
    {
        let _ = write!(line, "  ({list})");
    }
    line
}

/// `xenstore-rm`: removes a node; if `tidy`, also the nodes above it that are left empty.
///
/// # Errors
/// What the tool says.
pub fn rm(ask: Ask<'_>, path: &str, tidy: bool) -> Result<(), String> {
    let mut at = path;
    loop {
        ask(Kind::Rm, format!("{at}\0").as_bytes())
            .map_err(|_| format!("xenstore-rm: could not remove path {at}"))?;
        match at.rsplit_once('/') {
            Some((above, _)) if tidy && !above.is_empty() => at = above,
            _ => return Ok(()),
        }
        let is_bare = read(ask, at).is_ok_and(|value| value.is_empty())
            && children(ask, at).is_ok_and(|names| names.is_empty());
        if !is_bare {
            return Ok(());
        }
    }
}

/// Options of `xenstore-chmod`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reach {
    /// `-u`: all nodes above as well.
    pub up: bool,
    /// `-r`: all nodes below as well.
    pub down: bool,
}

/// `xenstore-chmod`: sets permissions, `modes` like `r5`.
///
/// # Errors
/// What the tool says.
pub fn chmod(ask: Ask<'_>, path: &str, modes: &[&str], reach: Reach) -> Result<(), String> {
    let mut paths = alloc::vec![path.to_string()];
    let mut next = 0;
    while reach.down
        && let Some(at) = paths.get(next).cloned()
    {
        let names = children(ask, &at).unwrap_or_default();
        paths.extend(names.iter().map(|name| path::child(&at, name)));
        next += 1;
    }
    let mut at = path;
    while reach.up
        && let Some((above, _)) = at.rsplit_once('/')
        && !above.is_empty()
    {
        paths.push(above.to_string());
        at = above;
    }
    let modes = modes.join("\0");
    for path in paths {
        ask(Kind::SetPerms, format!("{path}\0{modes}\0").as_bytes()).map_err(|error| {
            format!(
                "xenstore-chmod: Error occurred setting permissions on '{path}': {}",
                error.name()
            )
        })?;
    }
    Ok(())
}

/// A value as the tools print it: what is not printable as an escape sequence.
pub fn sanitise(value: &[u8]) -> String {
    let mut text = String::new();
    for &byte in value {
        let _ = match byte {
            b'\\' => write!(text, "\\\\"),
            b' '..=b'~' => write!(text, "{}", char::from(byte)),
            b'\t' => write!(text, "\\t"),
            b'\n' => write!(text, "\\n"),
            b'\r' => write!(text, "\\r"),
            ..=7 => write!(text, "\\{byte:03o}"),
            _ => write!(text, "\\x{byte:02x}"),
        };
    }
    text
}

/// The value that is meant by such a text.
pub fn unsanitise(text: &str) -> Vec<u8> {
    let mut value = Vec::new();
    let mut rest = text.as_bytes();
    let digits = |bytes: &[u8], radix: u32, most: usize| {
        let is_digit = |byte: &&u8| char::from(**byte).is_digit(radix);
        let count = bytes.iter().take(most).take_while(is_digit).count();
        let number = core::str::from_utf8(&bytes[..count]).ok();
        let number = number.and_then(|number| u32::from_str_radix(number, radix).ok());
        number.map(|number| (number as u8, count))
    };
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            value.push(byte);
            continue;
        }
        let (byte, count) = match after.split_first() {
            Some((b't', _)) => (b'\t', 1),
            Some((b'n', _)) => (b'\n', 1),
            Some((b'r', _)) => (b'\r', 1),
            Some((b'x', hex)) => digits(hex, 16, 2).map_or((b'x', 1), |(byte, count)| (byte, count + 1)),
            Some((&other, _)) => digits(after, 8, 3).unwrap_or((other, 1)),
            None => (b'\\', 0),
        };
        value.push(byte);
        rest = &after[count..];
    }
    value
}

#[cfg(test)]
mod tests {
    use core::cell::RefCell;

    use proptest::prelude::*;

    use super::super::tests::ask_in;
    use super::super::{ConnectionId, DOM0, Server};
    use super::*;

    /// A server, with dom0's connection.
    struct Client(RefCell<Server>, ConnectionId);

    impl Client {
        fn new() -> Self {
            let mut server = Server::new();
            let id = server.connect(DOM0);
            Self(RefCell::new(server), id)
        }

        fn ask(&self, kind: Kind, payload: &[u8]) -> Result<Vec<u8>, Error> {
            let reply = ask_in(&mut self.0.borrow_mut(), self.1, 0, kind, payload);
            reply.map_err(|name| Error::from_name(&name).unwrap())
        }

        fn write(&self, path: &str, value: &str) {
            self.ask(Kind::Write, format!("{path}\0{value}").as_bytes())
                .unwrap();
        }

        fn ls(&self, top: &str, options: Listing) -> Vec<String> {
            let mut lines = Vec::new();
            let ask = |kind: Kind, payload: &[u8]| self.ask(kind, payload);
            ls(&ask, top, options, &mut |line| lines.push(line.to_string())).unwrap();
            lines
        }
    }

    #[test]
    fn ls_as_the_tool_prints_it() {
        let client = Client::new();
        client.write("/a", "");
        client.write("/a/b", "tab\there");
        client.write("/a/long", &"v".repeat(100));
        let plain = client.ls("/", Listing::default());
        let cut = format!(" long = \"{}\\...\"", "v".repeat(80 - 8 - 5));
        assert_eq!(plain, ["a = \"\"", " b = \"tab\\there\"", &cut]);
        let permissions = Listing {
            permissions: true,
            ..Listing::default()
        };
        let dots = "a = \"\" . . . . . . . . . . . . . . . . . . . . . . . . . . .  (r0)";
        assert_eq!(client.ls("/", permissions)[0], dots);
        let full = Listing {
            full: true,
            permissions: true,
        };
        assert_eq!(client.ls("/a", full)[0], "/a/b = \"tab\\there\"   (r0)");
        let ask = |kind: Kind, payload: &[u8]| client.ask(kind, payload);
        let refused = ls(&ask, "/none", Listing::default(), &mut |_| {});
        assert_eq!(refused, Err("xenstore-ls: /none: ENOENT".into()));
    }

    #[test]
    fn long_lists_of_children() {
        let client = Client::new();
        let names: Vec<String> = (0..2000).map(|index| format!("n{index:06}")).collect();
        names
            .iter()
            .for_each(|name| client.write(&format!("/d/{name}"), ""));
        let ask = |kind: Kind, payload: &[u8]| client.ask(kind, payload);
        assert_eq!(children(&ask, "/d"), Ok(names));
    }

    #[test]
    fn rm_tidies() {
        let client = Client::new();
        let ask = |kind: Kind, payload: &[u8]| client.ask(kind, payload);
        client.write("/a/b/c/d", "");
        client.write("/a/value", "v");
        rm(&ask, "/a/b/c/d", true).unwrap();
        assert_eq!(children(&ask, "/a"), Ok(alloc::vec!["value".to_string()]));
        client.write("/a/b/c", "");
        rm(&ask, "/a/b/c", false).unwrap();
        assert_eq!(read(&ask, "/a/b"), Ok(Vec::new()));
        assert!(rm(&ask, "/x/y", false).is_err());
    }

    #[test]
    fn chmod_up_and_down() {
        let client = Client::new();
        let ask = |kind: Kind, payload: &[u8]| client.ask(kind, payload);
        client.write("/a/b/c/d", "");
        chmod(&ask, "/a/b/c", &["n1", "r2"], Reach { up: true, down: true }).unwrap();
        for path in ["/a", "/a/b", "/a/b/c", "/a/b/c/d"] {
            assert_eq!(permissions(&ask, path).as_deref(), Ok("n1,r2"), "{path}");
        }
        assert_eq!(permissions(&ask, "/").as_deref(), Ok("r0"));
        assert!(chmod(&ask, "/a", &["x1"], Reach::default()).is_err());
    }

    proptest! {
        #[test]
        fn what_is_printed_can_be_written(value in prop::collection::vec(any::<u8>(), 0..64)) {
            let text = sanitise(&value);
            prop_assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            prop_assert_eq!(unsanitise(&text), value);
        }
    }

    #[test]
    fn odd_escapes() {
        for (text, value) in [
            ("a\\", "a\\"),
            ("\\q", "q"),
            ("\\x4g", "\x04g"),
            ("\\xg", "xg"),
            ("\\1012", "A2"),
        ] {
            assert_eq!(unsanitise(text), value.as_bytes(), "{text}");
        }
    }
}
