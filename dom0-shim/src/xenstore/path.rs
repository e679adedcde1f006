//! Paths: `/a/b`, relative to `/local/domain/N`, or the special watch targets `@introduceDomain`/`@releaseDomain`.

use alloc::format;
use alloc::string::{String, ToString};

use super::{DomId, Error};

pub use abi::io::xs_wire::XENSTORE_ABS_PATH_MAX as ABSOLUTE_MAX;
use abi::io::xs_wire::XENSTORE_REL_PATH_MAX as RELATIVE_MAX;

/// The home directory of a domain, against which its relative paths count.
pub fn home(domain: DomId) -> String {
    format!("/local/domain/{domain}")
}

/// Turns a client's path into an absolute one.
///
/// # Errors
/// `Invalid` for a path that no node can have.
pub fn resolve(domain: DomId, path: &str) -> Result<String, Error> {
    let absolute = match path.as_bytes().first() {
        Some(b'/' | b'@') => path.to_string(),
        _ => format!("{}/{path}", home(domain)),
    };
    if is_valid(&absolute) {
        Ok(absolute)
    } else {
        Err(Error::Invalid)
    }
}

/// What a watch may be set on: a path as [`resolve`] makes it absolute, or a special one as it is.
///
/// # Errors
/// `Invalid` for a path that no node can have, or a special one that is too long.
pub fn resolve_watched(domain: DomId, path: &str) -> Result<String, Error> {
    if !path.starts_with('@') {
        return resolve(domain, path);
    }
    if path.len() <= RELATIVE_MAX && has_valid_bytes(path) {
        Ok(path.to_string())
    } else {
        Err(Error::Invalid)
    }
}

/// Bytes at the start of an absolute path that are some domain's home, with the slash behind it: lengths are limited
/// from there on.
fn home_length(path: &str) -> usize {
    const HOMES: &str = "/local/domain/";
    let digits = |rest: &str| {
        let end = rest.find('/')?;
        let domain: Option<DomId> = rest[..end].parse().ok();
        domain.map(|_| HOMES.len() + end + 1)
    };
    path.strip_prefix(HOMES).and_then(digits).unwrap_or(0)
}

fn has_valid_bytes(path: &str) -> bool {
    path.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-/_@".contains(&byte))
}

/// Whether an absolute path is well formed: allowed characters, no empty element, not too long.
fn is_valid(path: &str) -> bool {
    let elements = || path.split('/').skip(1);
    path == "/"
        || (path.starts_with('/')
            && path.len() <= (home_length(path) + RELATIVE_MAX).min(ABSOLUTE_MAX)
            && has_valid_bytes(path)
            && elements().all(|element| !element.is_empty()))
}

/// Parent of an absolute path; `None` for the root.
pub fn parent(path: &str) -> Option<&str> {
    match path.rsplit_once('/')? {
        (_, "") => None,
        ("", _) => Some("/"),
        (parent, _) => Some(parent),
    }
}

/// Last element of an absolute path; empty for the root.
pub fn name(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(_, name)| name)
}

/// The elements of an absolute path; none of the root.
pub fn names(path: &str) -> impl Iterator<Item = &str> {
    let mut rest = path.strip_prefix('/').unwrap_or(path);
    core::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = rest.bytes().position(|byte| byte == b'/');
        let (name, behind) = match end {
            Some(end) => (&rest[..end], &rest[end + 1..]),
            None => (rest, ""),
        };
        rest = behind;
        Some(name)
    })
}

/// Whether an absolute path is another one or below it.
pub fn is_within(path: &str, top: &str) -> bool {
    let below = |rest: &str| rest.is_empty() || rest.starts_with('/');
    top == "/" || path.strip_prefix(top).is_some_and(below)
}

/// How many elements an absolute path has.
pub fn depth(path: &str) -> usize {
    names(path).count()
}

/// Path of a child.
pub fn child(parent: &str, name: &str) -> String {
    if parent == "/" {
        format!("/{name}")
    } else {
        format!("{parent}/{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolves() {
        assert_eq!(
            resolve(3, "device/vbd").as_deref(),
            Ok("/local/domain/3/device/vbd")
        );
        assert_eq!(resolve(3, "/").as_deref(), Ok("/"));
        for bad in ["", "/a/", "//", "/a//b", "a b", "a/", "/\u{e9}", "/a.b"] {
            assert_eq!(resolve(3, bad), Err(Error::Invalid), "{bad:?}");
        }
        assert!(resolve(0, &format!("/{}", "a".repeat(2047))).is_ok());
        assert!(resolve(0, &format!("/{}", "a".repeat(2048))).is_err());
        assert!(resolve(0, &"a".repeat(2048)).is_ok());
        assert!(resolve(0, &"a".repeat(2049)).is_err());
        assert_eq!(resolve(3, "@releaseDomain"), Err(Error::Invalid));
        assert_eq!(
            resolve_watched(3, "@releaseDomain/4").as_deref(),
            Ok("@releaseDomain/4")
        );
        assert!(resolve_watched(3, &format!("@{}", "a".repeat(2048))).is_err());
        assert_eq!(home_length("/local/domain/17/a"), "/local/domain/17/".len());
        assert_eq!(home_length("/local/domain/x/a"), 0);
    }

    #[test]
    fn takes_apart() {
        assert_eq!((parent("/a/b"), name("/a/b")), (Some("/a"), "b"));
        assert_eq!((parent("/a"), name("/a")), (Some("/"), "a"));
        assert_eq!(parent("/"), None);
        assert_eq!(child("/", "a"), "/a");
        let all: [&[&str]; 3] = [&[], &["a"], &["a", "bc", "d"]];
        for (path, expected) in ["/", "/a", "/a/bc/d"].iter().zip(all) {
            assert!(names(path).eq(expected.iter().copied()), "{path}");
            assert_eq!(depth(path), expected.len());
        }
        for (path, top, within) in [
            ("/", "/", true),
            ("/a/b", "/", true),
            ("/a/b", "/a", true),
            ("/a/b", "/a/b", true),
            ("/a-b", "/a", false),
            ("/a", "/a/b", false),
            ("/", "/a", false),
        ] {
            assert_eq!(is_within(path, top), within, "{path} {top}");
        }
    }
}
