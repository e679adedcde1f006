//! Which host the later fragments of a packet belong to: they have no ports, so they follow the first one, and have to come behind it.
//!
//! Of each host the newest [`EACH`] packets are known, those that it sends and those that are for it, and each for [`LASTS`].

use alloc::collections::{BTreeMap, VecDeque};
use core::net::Ipv4Addr;

use super::packet::Mac;

/// Packets of one host whose fragments may come mixed.
pub const EACH: usize = 64;
/// For how long fragments of a packet may follow the first, in ns: as long as their receiver waits for them (RFC 1122, 3.3.2: 60 to 120 s; Linux waits for 30).
pub const LASTS: u64 = 60_000_000_000;

/// How much of a packet it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All.
    Whole,
    /// The fragment with the protocol's header.
    First,
    /// Another fragment.
    Later,
}

impl Part {
    /// By the word of flags and offset in the IPv4 header (RFC 791).
    pub fn of(word: u16) -> Self {
        const MORE: u16 = 1 << 13;
        match (word & (MORE - 1), word & MORE) {
            (0, 0) => Self::Whole,
            (0, _) => Self::First,
            _ => Self::Later,
        }
    }
}

/// Whose packet it is, as it comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// This host sends it.
    From(Mac),
    /// It comes from outside.
    In,
}

/// What the fragments of a packet have in common and no other's (RFC 791), as they come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// Where it comes from.
    pub way: Way,
    /// Sender, as it comes in.
    pub source: Ipv4Addr,
    /// Receiver, as it comes in.
    pub destination: Ipv4Addr,
    /// The sender's number.
    pub id: u16,
    /// Of its payload.
    pub protocol: u8,
}

/// What the fragments of a packet are changed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its host inside.
    pub host: Mac,
    /// Sender.
    pub source: Ipv4Addr,
    /// Receiver.
    pub destination: Ipv4Addr,
    /// Number.
    pub id: u16,
}

/// The packets whose first fragment has been seen.
#[derive(Debug, Default)]
pub struct Fragments {
    changes: BTreeMap<Name, (Change, u64)>,
    /// Those of each host, the oldest first.
    hosts: BTreeMap<Mac, VecDeque<Name>>,
}

impl Fragments {
    /// The first fragment has come.
    pub fn begin(&mut self, name: Name, change: Change, now: u64) {
        if let Some((old, _)) = self.changes.insert(name, (change, now.saturating_add(LASTS)))
            && let Some(names) = self.hosts.get_mut(&old.host)
        {
            names.retain(|other| *other != name);
        }
        let names = self.hosts.entry(change.host).or_default();
        names.push_back(name);
        if names.len() > EACH
            && let Some(oldest) = names.pop_front()
        {
            self.changes.remove(&oldest);
        }
    }

    /// What is to be done with a later one.
    pub fn follow(&self, name: &Name, now: u64) -> Option<Change> {
        let (change, until) = self.changes.get(name)?;
        (now < *until).then_some(*change)
    }

    /// The host has gone.
    pub fn forget(&mut self, host: Mac) {
        for name in self.hosts.remove(&host).into_iter().flatten() {
            self.changes.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 2]);
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    fn name(id: u16) -> Name {
        Name {
            way: Way::In,
            source: ADDRESS,
            destination: ADDRESS,
            id,
            protocol: 17,
        }
    }

    fn change(host: Mac) -> Change {
        Change {
            host,
            source: ADDRESS,
            destination: ADDRESS,
            id: 7,
        }
    }

    #[test]
    fn each_host_has_its_own_room() {
        let mut fragments = Fragments::default();
        fragments.begin(name(60_000), change(OTHER), 0);
        for id in 0..1000 {
            fragments.begin(name(id), change(HOST), 0);
        }
        assert_eq!(fragments.changes.len(), EACH + 1);
        assert_eq!(fragments.follow(&name(60_000), 0), Some(change(OTHER)));
        assert_eq!(fragments.follow(&name(999), LASTS - 1), Some(change(HOST)));
        assert_eq!(fragments.follow(&name(999), LASTS), None, "too late");
        assert_eq!(fragments.follow(&name(999 - EACH as u16), 0), None, "too many");
        // The same number again, for another one.
        fragments.begin(name(999), change(OTHER), 0);
        assert_eq!(fragments.follow(&name(999), 0), Some(change(OTHER)));
        fragments.forget(HOST);
        assert_eq!(fragments.changes.len(), 2);
        fragments.forget(OTHER);
        assert!(fragments.changes.is_empty() && fragments.hosts.is_empty());
    }
}
