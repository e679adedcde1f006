//! Connections and requests.
//!
//! One request is answered at a time and completely; replies and watch events leave in order. A connection whose
//! framing is broken (payload longer than the protocol allows) is dead: the caller closes it.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use super::connection::{Connection, watch_cost};
use super::domains::{Domain, Effect, RELEASE, SpecialEvents};
use super::perms::{Need, allows, format_permissions, parse_permissions};
use super::tree::Tree;
use super::view::{Change, Found, View};
use super::watches::{START, Watch, Watches};
use super::wire::{exactly, strings};
use super::{DOM0, DomId, Error, Header, Kind, PAYLOAD_MAX, message, path, quota};
use crate::numbered::Numbered;

/// Names a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId(pub(super) u32);

/// A framing error; the connection is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// The xenstore.
#[derive(Debug)]
pub struct Server {
    pub(super) tree: Tree,
    pub(super) watches: Watches,
    pub(super) connections: Numbered<Connection>,
    pub(super) domains: Numbered<Domain>,
    pub(super) special: SpecialEvents,
    pub(super) effects: Vec<Effect>,
    /// Connections that have been given something to send.
    ready: BTreeSet<ConnectionId>,
    /// Watches looked at so far to see whether they are to be told of a change.
    considered: usize,
}

/// Longest watch token: an event must hold it, the longest path, and two NULs.
const TOKEN_MAX: usize = PAYLOAD_MAX - path::ABSOLUTE_MAX - 2;

/// Payload of a successful request that returns nothing.
const OK: &[u8] = b"OK\0";

impl Default for Server {
    fn default() -> Self {
        Self::new()
    }
}

impl Server {
    /// A store with only a root node; domain 0 counts as introduced.
    pub fn new() -> Self {
        let mut domains = Numbered::default();
        domains.insert(DOM0.into(), Domain::default());
        Self {
            tree: Tree::new(),
            watches: Watches::default(),
            connections: Numbered::default(),
            domains,
            special: SpecialEvents::default(),
            effects: Vec::new(),
            ready: BTreeSet::new(),
            considered: 0,
        }
    }

    /// Opens a connection on behalf of a domain. A domain other than dom0 has one: it starts afresh.
    pub fn connect(&mut self, domain: DomId) -> ConnectionId {
        if let Some(id) = self
            .domains
            .get(domain.into())
            .and_then(|domain| domain.connection)
        {
            self.reset(id);
            return id;
        }
        let id = ConnectionId(self.connections.vacant());
        self.connections.insert(id.0, Connection::new(domain));
        if domain != DOM0 {
            self.domains.get_or_default(domain.into()).connection = Some(id);
        }
        id
    }

    /// Closes a connection; its watches and transactions are gone, and its number is free for another.
    pub fn disconnect(&mut self, id: ConnectionId) {
        self.reset(id);
        self.connections.remove(id.0);
    }

    /// Forgets a connection's watches, transactions, half-read request and unsent messages.
    pub fn reset(&mut self, id: ConnectionId) {
        self.reset_watches(id);
        if let Some(connection) = self.connections.get_mut(id.0) {
            connection.drop_messages();
        }
        self.ready.remove(&id);
    }

    fn reset_watches(&mut self, id: ConnectionId) {
        let watched = self.connections.get_mut(id.0).map(Connection::reset);
        for (path, token) in watched.into_iter().flatten() {
            // It was there, or the connection would not know it.
            let _ = self.watches.remove(id, &path, &token);
        }
    }

    /// Takes bytes that a client sent and answers at most `limit` requests that are complete in them, less if many
    /// watches are near what they change: [`quota::CONSIDERED`] of these count as a request.
    ///
    /// Takes less than all at that limit, or when the client has not read enough replies: feed the rest later. Returns
    /// the number of bytes taken.
    ///
    /// # Errors
    /// [`Broken`] when a header announces a payload beyond [`PAYLOAD_MAX`] or the connection does not exist.
    pub fn receive(&mut self, id: ConnectionId, bytes: &[u8], limit: usize) -> Result<usize, Broken> {
        let mut taken = 0;
        let mut answered = 0;
        let before = self.considered;
        while answered + (self.considered - before) / quota::CONSIDERED < limit {
            let connection = self.connections.get_mut(id.0).ok_or(Broken)?;
            if connection.is_congested() {
                break;
            }
            let (count, request) = connection.feed(&bytes[taken..])?;
            taken += count;
            match request {
                Some((header, payload)) => self.handle(id, header, &payload),
                None => break,
            }
            answered += 1;
        }
        Ok(taken)
    }

    /// Next message for the client.
    pub fn take_output(&mut self, id: ConnectionId) -> Option<Rc<[u8]>> {
        self.connections.get_mut(id.0)?.take()
    }

    /// A connection that has been given something to send since it was last returned.
    pub fn take_ready(&mut self) -> Option<ConnectionId> {
        self.ready.pop_first()
    }

    /// Whose a connection is.
    pub fn domain(&self, id: ConnectionId) -> Option<DomId> {
        self.connections.get(id.0).map(Connection::domain)
    }

    /// What requests asked of the owner of the rings since the last call.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        core::mem::take(&mut self.effects)
    }

    /// Tells those who watch for it that a domain has shut down or died; once, until it is resumed.
    pub fn shut_down(&mut self, domain: DomId) {
        if let Some(record) = self.domains.get_mut(domain.into())
            && !core::mem::replace(&mut record.shut_down, true)
        {
            self.fire_special(RELEASE, domain);
        }
    }

    /// Answers one request.
    fn handle(&mut self, id: ConnectionId, header: Header, payload: &[u8]) {
        let kind = Kind::from_number(header.kind);
        let result = match kind {
            Some(kind) => self.dispatch(id, kind, header.transaction, payload),
            None => Err(Error::NotSupported),
        };
        // A client cannot receive more than one payload: what does not fit is an error, not cut off.
        let result = result.and_then(|done| match done.payload.len() {
            ..=PAYLOAD_MAX => Ok(done),
            _ => Err(Error::TooBig),
        });
        let room = self.room(id);
        let Some(connection) = self.connections.get_mut(id.0) else {
            return;
        };
        self.ready.insert(id);
        match (kind, result) {
            (Some(kind), Ok(done)) => {
                let reply = message(kind, header.request, header.transaction, &done.payload);
                connection.reply(reply);
                if let Some((watch, path)) = done.initial_event {
                    connection.notify(&watch, &path, room);
                }
                self.fire(&done.changes);
                if let Some((special, domain)) = done.special {
                    self.fire_special(special, domain);
                }
            }
            (_, Err(error)) => {
                let text = format!("{}\0", error.name());
                let reply = message(Kind::Error, header.request, header.transaction, text.as_bytes());
                connection.reply(reply);
            }
            (None, Ok(_)) => {}
        }
    }

    fn dispatch(&mut self, id: ConnectionId, kind: Kind, tx: u32, payload: &[u8]) -> Result<Done, Error> {
        match kind {
            Kind::Read => {
                let [path] = exactly(payload)?;
                self.on_node(id, tx, path, |view, path| {
                    Ok(view.node(path, Need::Read)?.node.value.to_vec())
                })
            }
            Kind::Directory => {
                let [path] = exactly(payload)?;
                self.on_node(id, tx, path, |view, path| {
                    let found = view.node(path, Need::Read)?;
                    if found.node.names_size > PAYLOAD_MAX {
                        return Err(Error::TooBig);
                    }
                    Ok(names(view, path, &found).into_bytes())
                })
            }
            Kind::DirectoryPart => {
                let [path, offset] = exactly(payload)?;
                let offset: usize = offset.parse().map_err(|_| Error::Invalid)?;
                self.on_node(id, tx, path, |view, path| {
                    let found = view.node(path, Need::Read)?;
                    let names = names(view, path, &found);
                    Ok(directory_part(found.node.generation, &names, offset))
                })
            }
            Kind::GetPerms => {
                let [path] = exactly(payload)?;
                if path.starts_with('@') {
                    let who = &self.connections.get(id.0).ok_or(Error::Invalid)?.who;
                    let list = self.special.permissions(path, who, Need::Read)?;
                    return Ok(Done::reply(format_permissions(list).into_bytes()));
                }
                self.on_node(id, tx, path, |view, path| {
                    Ok(format_permissions(&view.node(path, Need::Read)?.node.permissions).into_bytes())
                })
            }
            Kind::SetPerms => self.set_permissions(id, tx, payload),
            Kind::Write => {
                let end = payload.iter().position(|&byte| byte == 0).ok_or(Error::Invalid)?;
                let (path, value) = payload.split_at(end);
                let path = core::str::from_utf8(path).map_err(|_| Error::Invalid)?;
                let value = value.get(1..).unwrap_or_default();
                self.on_node(id, tx, path, |view, path| {
                    view.write(path, value).map(|()| OK.to_vec())
                })
            }
            Kind::Mkdir => {
                let [path] = exactly(payload)?;
                self.on_node(id, tx, path, |view, path| view.mkdir(path).map(|()| OK.to_vec()))
            }
            Kind::Rm => {
                let [path] = exactly(payload)?;
                self.on_node(id, tx, path, |view, path| view.remove(path).map(|()| OK.to_vec()))
            }
            Kind::Watch => self.watch(id, payload),
            Kind::Unwatch => self.unwatch(id, payload),
            Kind::ResetWatches => {
                self.reset_watches(id);
                Ok(Done::ok())
            }
            Kind::TransactionStart => self.transaction_start(id, tx),
            Kind::TransactionEnd => self.transaction_end(id, tx, payload),
            Kind::GetDomainPath => {
                let [domain] = exactly(payload)?;
                let home = path::home(number(domain)?);
                Ok(Done::reply(format!("{home}\0").into_bytes()))
            }
            Kind::IsDomainIntroduced => {
                let [domain] = exactly(payload)?;
                let domain: DomId = number(domain)?;
                let known = domain == abi::domid::DOMID_SELF || self.domains.contains(domain.into());
                Ok(Done::reply(if known { b"T\0".to_vec() } else { b"F\0".to_vec() }))
            }
            Kind::Introduce | Kind::Release | Kind::Resume | Kind::SetTarget | Kind::Control => {
                if !self.connections.get(id.0).is_some_and(Connection::is_privileged) {
                    return Err(Error::Access);
                }
                self.privileged_request(kind, payload)
            }
            Kind::WatchEvent | Kind::Error => Err(Error::NotSupported),
        }
    }

    /// Bytes that a connection may still take.
    fn room(&self, id: ConnectionId) -> usize {
        match self.connections.get(id.0) {
            Some(connection) if !connection.is_privileged() => {
                let held = self.tree.holding(connection.domain()).memory + connection.memory();
                quota::MEMORY.saturating_sub(held)
            }
            _ => usize::MAX,
        }
    }

    /// Runs `action` on a view of the tree, inside transaction `tx` unless that is 0.
    fn on_node(
        &mut self,
        id: ConnectionId,
        tx: u32,
        path: &str,
        action: impl FnOnce(&mut View<'_>, &str) -> Result<Vec<u8>, Error>,
    ) -> Result<Done, Error> {
        let room = self.room(id);
        let connection = self.connections.get_mut(id.0).ok_or(Error::Invalid)?;
        let domain = connection.domain();
        let transaction = match tx {
            0 => None,
            tx => Some(connection.transactions.get_mut(&tx).ok_or(Error::NotFound)?),
        };
        let absolute = path::resolve(domain, path)?;
        let mut view = self.tree.view(transaction, &connection.who, room);
        let payload = action(&mut view, &absolute)?;
        Ok(Done {
            changes: view.finish(),
            ..Done::reply(payload)
        })
    }

    fn set_permissions(&mut self, id: ConnectionId, tx: u32, payload: &[u8]) -> Result<Done, Error> {
        let connection = self.connections.get(id.0).ok_or(Error::Invalid)?;
        let parts = strings(payload)?;
        let (path, entries) = parts.split_first().ok_or(Error::Invalid)?;
        if !connection.is_privileged() && entries.len() > quota::PERMISSIONS {
            return Err(Error::NoSpace);
        }
        let list = parse_permissions(entries)?;
        if path.starts_with('@') {
            self.special.set_permissions(path, &connection.who, list)?;
            return Ok(Done::ok());
        }
        self.on_node(id, tx, path, |view, path| {
            view.set_permissions(path, list).map(|()| OK.to_vec())
        })
    }

    fn transaction_start(&mut self, id: ConnectionId, tx: u32) -> Result<Done, Error> {
        let connection = self.connections.get_mut(id.0).ok_or(Error::Invalid)?;
        match tx {
            0 => {
                let number = connection.start()?;
                Ok(Done::reply(format!("{number}\0").into_bytes()))
            }
            tx if connection.transactions.contains_key(&tx) => Err(Error::Busy),
            _ => Err(Error::NotFound),
        }
    }

    fn transaction_end(&mut self, id: ConnectionId, tx: u32, payload: &[u8]) -> Result<Done, Error> {
        let connection = self.connections.get_mut(id.0).ok_or(Error::Invalid)?;
        if tx != 0 && !connection.transactions.contains_key(&tx) {
            return Err(Error::NotFound);
        }
        let commit = match exactly(payload)? {
            ["T"] => true,
            ["F"] => false,
            _ => return Err(Error::Invalid),
        };
        let transaction = connection.transactions.remove(&tx).ok_or(Error::NotFound)?;
        let changes = if commit {
            self.tree.commit(transaction)?
        } else {
            Vec::new()
        };
        Ok(Done {
            changes,
            ..Done::ok()
        })
    }

    fn watch(&mut self, id: ConnectionId, payload: &[u8]) -> Result<Done, Error> {
        let room = self.room(id);
        let connection = self.connections.get_mut(id.0).ok_or(Error::Invalid)?;
        let (given, token, depth) = match *strings(payload)?.as_slice() {
            [given, token] => (given, token, None),
            [given, token, depth] => (given, token, Some(number(depth)?)),
            _ => return Err(Error::Invalid),
        };
        let path = path::resolve_watched(connection.domain(), given)?;
        if token.len() > TOKEN_MAX {
            return Err(Error::TooBig);
        }
        if !connection.is_privileged() {
            if connection.watches() >= quota::WATCHES {
                return Err(Error::TooBig);
            }
            if room < watch_cost(&path, token) {
                return Err(Error::NoMemory);
            }
        }
        // A relative path is at the end of the absolute one.
        let prefix = path.len() - given.len();
        let watch = self.watches.add(id, &path, token, prefix, depth)?;
        connection.watch(&path, token);
        // Every watch fires once when it is set.
        Ok(Done {
            initial_event: Some((watch, path)),
            ..Done::ok()
        })
    }

    fn unwatch(&mut self, id: ConnectionId, payload: &[u8]) -> Result<Done, Error> {
        let connection = self.connections.get_mut(id.0).ok_or(Error::Invalid)?;
        let [given, token] = exactly(payload)?;
        let path = path::resolve_watched(connection.domain(), given).map_err(|_| Error::NotFound)?;
        self.watches.remove(id, &path, token)?;
        connection.unwatch(&path, token);
        Ok(Done::ok())
    }

    /// Tells every watch that a change concerns and whose owner may know of it.
    fn fire(&mut self, changes: &[Change]) {
        let mut near = START;
        for Change {
            path,
            scope,
            audience,
        } in changes
        {
            let may_know = |id: ConnectionId| {
                let connection = self.connections.get(id.0);
                connection.is_some_and(|connection| {
                    let mut lists = audience.iter();
                    lists.any(|list| allows(list, &connection.who, Need::Read))
                })
            };
            let watches = self
                .watches
                .concerned(path, *scope, &mut near, &mut self.considered, may_know);
            for watch in watches {
                self.notify(&watch, path);
            }
        }
    }

    pub(super) fn fire_special(&mut self, special: &str, domain: DomId) {
        let for_domain = format!("{special}/{domain}");
        for (watch, shown) in self.watches.of_special(special, &for_domain) {
            self.considered += 1;
            let who = self
                .connections
                .get(watch.connection.0)
                .map(|connection| &connection.who);
            if who.is_some_and(|who| self.special.permissions(special, who, Need::Read).is_ok()) {
                self.notify(&watch, &shown);
            }
        }
    }

    fn notify(&mut self, watch: &Watch, path: &str) {
        let room = self.room(watch.connection);
        if let Some(connection) = self.connections.get_mut(watch.connection.0) {
            connection.notify(watch, path, room);
            self.ready.insert(watch.connection);
        }
    }
}

/// What a successful request leads to.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub payload: Vec<u8>,
    pub initial_event: Option<(Watch, String)>,
    pub changes: Vec<Change>,
    /// A special event, and the domain that it is about.
    pub special: Option<(&'static str, DomId)>,
}

impl Done {
    pub fn reply(payload: Vec<u8>) -> Self {
        Self {
            payload,
            ..Self::default()
        }
    }

    pub fn ok() -> Self {
        Self::reply(OK.to_vec())
    }
}

pub(super) fn number<T: core::str::FromStr>(text: &str) -> Result<T, Error> {
    text.parse().map_err(|_| Error::Invalid)
}

/// Names of a node's children, each NUL-terminated.
fn names(view: &View<'_>, path: &str, node: &Found) -> String {
    let mut all = String::new();
    for (name, _) in view.children(path, node) {
        all.push_str(&name);
        all.push('\0');
    }
    all
}

/// A `DIRECTORY_PART` reply: the generation, then as many whole names from `offset` on as fit, then an empty name
/// if these were the last.
fn directory_part(generation: u64, names: &str, offset: usize) -> Vec<u8> {
    let mut reply = format!("{generation}\0");
    let rest = names.get(offset..).unwrap_or_default();
    let room = PAYLOAD_MAX - reply.len() - 1;
    let end = if rest.len() <= room {
        rest.len()
    } else {
        rest[..room].rfind('\0').map_or(0, |at| at + 1)
    };
    reply.push_str(&rest[..end]);
    if end == rest.len() {
        reply.push('\0');
    }
    reply.into_bytes()
}
