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
pub fn resolve(domain: DomId, path: &str) -> Result<String, Error> {
    if path.starts_with('/') {
        return if path.len() <= ABSOLUTE_MAX && is_valid(path) {
            Ok(path.to_string())
        } else {
            Err(Error::Invalid)
        };
    }
    if path.len() > RELATIVE_MAX {
        return Err(Error::Invalid);
    }
    let absolute = format!("{}/{path}", home(domain));
    if is_valid(&absolute) {
        Ok(absolute)
    } else {
        Err(Error::Invalid)
    }
}

/// Whether an absolute path is well formed: allowed characters, no empty element.
fn is_valid(path: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-/_@".contains(&byte);
    path == "/" || (path.bytes().all(allowed) && path.split('/').skip(1).all(|element| !element.is_empty()))
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

/// Path of a child.
pub fn child(parent: &str, name: &str) -> String {
    if parent == "/" {
        format!("/{name}")
    } else {
        format!("{parent}/{name}")
    }
}

/// Whether `path` is `top` or lies below it.
pub fn is_within(path: &str, top: &str) -> bool {
    top == "/"
        || path
            .strip_prefix(top)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
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
        assert!(resolve(0, &format!("/{}", "a".repeat(3071))).is_ok());
        assert!(resolve(0, &format!("/{}", "a".repeat(3072))).is_err());
        assert!(resolve(0, &"a".repeat(2049)).is_err());
    }

    #[test]
    fn takes_apart() {
        assert_eq!((parent("/a/b"), name("/a/b")), (Some("/a"), "b"));
        assert_eq!((parent("/a"), name("/a")), (Some("/"), "a"));
        assert_eq!(parent("/"), None);
        assert_eq!(child("/", "a"), "/a");
        assert!(
            is_within("/a/b", "/a")
                && is_within("/a", "/a")
                && !is_within("/ab", "/a")
                && is_within("/x", "/")
        );
    }
}
