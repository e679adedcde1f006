//! Watches, found by the path that changes: what a change costs does not depend on how many domains watch other nodes.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

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

/// All watches.
#[derive(Debug, Default)]
pub struct Watches {
    by_path: BTreeMap<String, Vec<Watch>>,
    serial: u64,
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
        if self.find(connection, path, token).is_some() {
            return Err(Error::Exists);
        }
        self.serial += 1;
        let watch = Watch {
            connection,
            token: token.into(),
            prefix,
            depth,
            serial: self.serial,
        };
        let list = self.by_path.entry(path.to_string()).or_default();
        list.push(watch.clone());
        Ok(watch)
    }

    fn find(&self, connection: ConnectionId, path: &str, token: &str) -> Option<usize> {
        self.by_path
            .get(path)?
            .iter()
            .position(|watch| watch.connection == connection && &*watch.token == token)
    }

    /// Removes a watch.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn remove(&mut self, connection: ConnectionId, path: &str, token: &str) -> Result<(), Error> {
        let index = self.find(connection, path, token).ok_or(Error::NotFound)?;
        if let Some(list) = self.by_path.get_mut(path) {
            list.remove(index);
            if list.is_empty() {
                self.by_path.remove(path);
            }
        }
        Ok(())
    }

    /// The watches that a change of a node concerns, in the order in which they were set.
    pub fn concerned(&self, path: &str, scope: Scope) -> Vec<Watch> {
        let above = match scope {
            Scope::NodeAndAbove => u32::MAX,
            Scope::NodeOnly => 0,
        };
        let mut found = Vec::new();
        let mut at = Some(path);
        for distance in 0..=above {
            let Some(here) = at else { break };
            let list = self.by_path.get(here).into_iter().flatten();
            found.extend(
                list.filter(|watch| watch.depth.is_none_or(|depth| distance <= depth))
                    .cloned(),
            );
            at = path::parent(here);
        }
        found.sort_by_key(|watch| watch.serial);
        found
    }

    /// The watches of a special event: of `name` itself, and of its form for one domain. With each, the path that it
    /// is to be told.
    pub fn of_special(&self, name: &str, for_domain: &str) -> Vec<(Watch, String)> {
        let list = |path: &str| self.by_path.get(path).cloned().unwrap_or_default();
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
