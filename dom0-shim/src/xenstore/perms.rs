//! Permissions of a node: an access list whose first entry names the owner and what everyone else may do.

use alloc::rc::Rc;
use alloc::string::String;
use core::fmt::Write;

use super::{DOM0, DomId, Error};

/// One entry of an access list, on the wire `r5`, `w5`, `b5` or `n5`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permission {
    /// Whom the entry is about; in the first entry, the owner.
    pub domain: DomId,
    /// May read the value, the children and the permissions.
    pub read: bool,
    /// May write the value, create children, remove the node.
    pub write: bool,
}

/// An access list.
pub type Acl = Rc<[Permission]>;

/// What a request needs of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Read value, children or permissions.
    Read,
    /// Change value or children.
    Write,
    /// Be the owner.
    Own,
}

/// Whether `who` (a domain, and the domain it is a stub for) may do `need` to a node with this access list.
pub fn allows(list: &[Permission], who: &[DomId], need: Need) -> bool {
    let Some(first) = list.first() else {
        return who.contains(&DOM0);
    };
    who.iter().any(|&domain| {
        if domain == DOM0 || domain == first.domain {
            return true;
        }
        let entry = list[1..]
            .iter()
            .find(|entry| entry.domain == domain)
            .unwrap_or(first);
        match need {
            Need::Read => entry.read,
            Need::Write => entry.write,
            Need::Own => false,
        }
    })
}

/// Parses the wire form, `["n0", "r5"]`.
///
/// # Errors
/// `Invalid` for an empty list or an entry that is not a letter and a domain number.
pub fn parse_permissions(entries: &[&str]) -> Result<Acl, Error> {
    if entries.is_empty() {
        return Err(Error::Invalid);
    }
    let parse = |entry: &&str| {
        let (read, write) = match entry.as_bytes().first() {
            Some(b'r') => (true, false),
            Some(b'w') => (false, true),
            Some(b'b') => (true, true),
            Some(b'n') => (false, false),
            _ => return Err(Error::Invalid),
        };
        let domain = entry[1..].parse().map_err(|_| Error::Invalid)?;
        Ok(Permission { domain, read, write })
    };
    entries.iter().map(parse).collect()
}

/// The wire form of a list, each entry NUL-terminated.
pub fn format_permissions(list: &[Permission]) -> String {
    let mut text = String::new();
    for entry in list {
        let letter = match (entry.read, entry.write) {
            (true, true) => 'b',
            (true, false) => 'r',
            (false, true) => 'w',
            (false, false) => 'n',
        };
        // Writing to a String cannot fail.
        let _ = write!(text, "{letter}{}\0", entry.domain);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_list_and_default() {
        let list = parse_permissions(&["n1", "r2", "w3", "b4"]).unwrap();
        let may = |domain, need| allows(&list, &[domain], need);
        assert!(may(0, Need::Own) && may(1, Need::Own) && !may(4, Need::Own));
        assert!(may(2, Need::Read) && !may(2, Need::Write));
        assert!(!may(3, Need::Read) && may(3, Need::Write));
        assert!(may(4, Need::Read) && may(4, Need::Write));
        assert!(!may(5, Need::Read) && !may(5, Need::Write));
        assert!(allows(&list, &[9, 2], Need::Read), "the target's rights count");
        let open = parse_permissions(&["r1"]).unwrap();
        assert!(allows(&open, &[7], Need::Read) && !allows(&open, &[7], Need::Write));
    }

    #[test]
    fn wire_form_round_trips() {
        let list = parse_permissions(&["n1", "r2", "w3", "b65535"]).unwrap();
        assert_eq!(format_permissions(&list), "n1\0r2\0w3\0b65535\0");
        for bad in [&[][..], &["x1"], &["r"], &["r70000"], &[""], &["r-1"]] {
            assert_eq!(parse_permissions(bad), Err(Error::Invalid), "{bad:?}");
        }
    }
}
