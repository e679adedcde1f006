//! Watches, each at the place of its path: what a change costs does not depend on how many domains watch other nodes.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::places::{Place, Places, ROOT, trim};
use super::server::ConnectionId;
use super::view::Scope;
use super::{Error, path};

/// One watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Whose.
    pub connection: ConnectionId,
    /// What the client gave to know it by.
    pub token: Rc<str>,
    /// Bytes at the start of a path that events leave out: the client gave a relative path.
    pub prefix: usize,
    /// Levels below the path that count; all if it was not limited.
    pub depth: Option<u32>,
    /// Later watches have greater numbers, from 1 on: events come in this order.
    pub serial: u64,
}

impl Watch {
    /// The payload of its event for a change at `path`.
    pub fn event(&self, path: &str) -> Vec<u8> {
        let shown = path.get(self.prefix..).unwrap_or_default();
        [shown.as_bytes(), b"\0", self.token.as_bytes(), b"\0"].concat()
    }
}

/// Near everything, but not very.
pub const START: (&str, Place) = ("/", ROOT);

/// All watches.
#[derive(Debug)]
pub struct Watches {
    /// Of nodes.
    places: Places<Vec<Watch>>,
    /// Of special events.
    special: BTreeMap<String, Vec<Watch>>,
    serial: u64,
}

impl Default for Watches {
    fn default() -> Self {
        Self {
            places: Places::new(Vec::new()),
            special: BTreeMap::new(),
            serial: 0,
        }
    }
}

impl Watches {
    /// Adds a watch.
    ///
    /// # Errors
    /// `Exists` if the connection has one with this path and token.
    pub fn add(
        &mut self,
        connection: ConnectionId,
        path: &str,
        token: &str,
        prefix: usize,
        depth: Option<u32>,
    ) -> Result<Watch, Error> {
        let serial = self.serial + 1;
        let list = self.list_for(path);
        if position(list, connection, token).is_some() {
            return Err(Error::Exists);
        }
        let watch = Watch {
            connection,
            token: token.into(),
            prefix,
            depth,
            serial,
        };
        list.push(watch.clone());
        self.serial = serial;
        Ok(watch)
    }

    /// The watches of a path, of which there are some or will be.
    fn list_for(&mut self, path: &str) -> &mut Vec<Watch> {
        if path.starts_with('@') {
            return self.special.entry(path.to_string()).or_default();
        }
        let (found, mut place) = self.places.nearest(path);
        for name in path::names(path).skip(path::depth(found)) {
            place = self.places.add(place, name, Vec::new());
        }
        &mut self.places[place]
    }

    /// Removes a watch.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn remove(&mut self, connection: ConnectionId, path: &str, token: &str) -> Result<(), Error> {
        let take = |list: &mut Vec<Watch>| {
            let index = position(list, connection, token).ok_or(Error::NotFound)?;
            list.remove(index);
            trim(list);
            Ok(())
        };
        if path.starts_with('@') {
            let list = self.special.get_mut(path).ok_or(Error::NotFound)?;
            take(list)?;
            if list.is_empty() {
                self.special.remove(path);
            }
            return Ok(());
        }
        let mut place = self.places.find(path).ok_or(Error::NotFound)?;
        take(&mut self.places[place])?;
        // Places that are of no more use.
        while self.places[place].is_empty()
            && self.places.children(place).next().is_none()
            && let Some(parent) = self.places.parent(place)
        {
            self.places.remove(place);
            place = parent;
        }
        Ok(())
    }

    /// The watches that a change of a node concerns, in the order in which they were set, of those connections that
    /// `may_know` of it; each is asked about once. `near` is where another path's were found, or [`START`]; `considered`
    /// goes up by the number of watches that were looked at.
    pub fn concerned<'p>(
        &self,
        path: &'p str,
        scope: Scope,
        near: &mut (&'p str, Place),
        considered: &mut usize,
        may_know: impl Fn(ConnectionId) -> bool,
    ) -> Vec<Watch> {
        *near = self.places.nearest_from(*near, path);
        let (found, place) = *near;
        let mut found_here = Vec::new();
        let mut known = BTreeMap::new();
        let mut at = Some(place);
        let mut distance = path::depth(path) - path::depth(found);
        if scope == Scope::NodeOnly && distance > 0 {
            return found_here;
        }
        while let Some(place) = at {
            let list = &self.places[place];
            *considered += list.len();
            let counts = |watch: &&Watch| {
                watch.depth.is_none_or(|depth| distance <= depth as usize)
                    && *known
                        .entry(watch.connection)
                        .or_insert_with_key(|connection| may_know(*connection))
            };
            found_here.extend(list.iter().filter(counts).cloned());
            at = match scope {
                Scope::NodeAndAbove => self.places.parent(place),
                Scope::NodeOnly => None,
            };
            distance += 1;
        }
        found_here.sort_by_key(|watch| watch.serial);
        found_here
    }

    /// The watches of a special event: of `name` itself, and of its form for one domain. With each, the path that it
    /// is to be told.
    pub fn of_special(&self, name: &str, for_domain: &str) -> Vec<(Watch, String)> {
        let list = |path: &str| self.special.get(path).cloned().unwrap_or_default();
        let general = list(name).into_iter().filter_map(|watch| match watch.depth {
            None => Some((watch, name.to_string())),
            Some(1) => Some((watch, for_domain.to_string())),
            Some(_) => None,
        });
        let specific = list(for_domain)
            .into_iter()
            .map(|watch| (watch, for_domain.to_string()));
        let mut found: Vec<_> = general.chain(specific).collect();
        found.sort_by_key(|(watch, _)| watch.serial);
        found
    }
}

/// Which of a list is a connection's with this token.
fn position(list: &[Watch], connection: ConnectionId, token: &str) -> Option<usize> {
    list.iter()
        .position(|watch| watch.connection == connection && &*watch.token == token)
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::*;

    /// Watches that are left account for the memory that their list holds.
    #[test]
    fn lists_shrink() {
        for path in ["/a", "@releaseDomain"] {
            let mut watches = Watches::default();
            for index in 0..1000 {
                let token = format!("{index}");
                watches.add(ConnectionId(0), path, &token, 0, None).unwrap();
            }
            for index in 0..999 {
                let room = watches.list_for(path).capacity();
                assert!(room <= 4 * (1000 - index), "{room} for {}", 1000 - index);
                watches
                    .remove(ConnectionId(0), path, &format!("{index}"))
                    .unwrap();
            }
        }
    }
}
