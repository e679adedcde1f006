//! Connections, watches and requests.
//!
//! One request is answered at a time and completely; replies and watch events leave in order. A connection whose
//! framing is broken (payload longer than the protocol allows) is dead: the caller closes it.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::perms::{Need, allows, format_permissions, parse_permissions};
use super::tree::{Change, Scope, Transaction, Tree, View};
use super::wire::{Header, exactly, strings};
use super::{DOM0, DomId, Error, HEADER_SIZE, Kind, PAYLOAD_MAX, message, path, quota};

/// Names a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId(u32);

/// What the owner of the rings must do after a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// `XS_INTRODUCE`: serve the ring in frame `gfn` of `domain`, notified over its event channel `port`.
    Introduce {
        /// Whose ring.
        domain: DomId,
        /// Guest frame of the ring page.
        gfn: u64,
        /// The domain's port.
        port: u32,
    },
    /// `XS_RELEASE`: unmap the ring of `domain`.
    Release {
        /// Whose ring.
        domain: DomId,
    },
}

/// A framing error; the connection is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

#[derive(Debug)]
struct Watch {
    /// Absolute path or `@special`.
    path: String,
    /// As the client wrote it; events use the same form.
    relative: bool,
    token: String,
}

#[derive(Debug)]
struct Connection {
    /// The domain, then the domain it is a stub for.
    who: Vec<DomId>,
    input: Vec<u8>,
    output: VecDeque<Vec<u8>>,
    watches: Vec<Watch>,
    transactions: BTreeMap<u32, Transaction>,
    next_transaction: u32,
}

impl Connection {
    fn domain(&self) -> DomId {
        self.who.first().copied().unwrap_or(DOM0)
    }

    fn is_privileged(&self) -> bool {
        self.domain() == DOM0
    }

    fn pending_output(&self) -> usize {
        self.output.iter().map(Vec::len).sum()
    }
}

/// The xenstore.
#[derive(Debug)]
pub struct Server {
    tree: Tree,
    connections: BTreeMap<ConnectionId, Connection>,
    next_connection: u32,
    introduced: BTreeMap<DomId, Option<ConnectionId>>,
    effects: Vec<Effect>,
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
        Self {
            tree: Tree::new(),
            connections: BTreeMap::new(),
            next_connection: 0,
            introduced: BTreeMap::from([(DOM0, None)]),
            effects: Vec::new(),
        }
    }

    /// Opens a connection on behalf of a domain.
    pub fn connect(&mut self, domain: DomId) -> ConnectionId {
        let id = ConnectionId(self.next_connection);
        self.next_connection = self.next_connection.wrapping_add(1);
        let connection = Connection {
            who: alloc::vec![domain],
            input: Vec::new(),
            output: VecDeque::new(),
            watches: Vec::new(),
            transactions: BTreeMap::new(),
            next_transaction: 1,
        };
        self.connections.insert(id, connection);
        if domain != DOM0 {
            self.introduced.insert(domain, Some(id));
        }
        id
    }

    /// Closes a connection; its watches and transactions are gone.
    pub fn disconnect(&mut self, id: ConnectionId) {
        self.connections.remove(&id);
    }

    /// Takes bytes that a client sent and answers every complete request in them.
    ///
    /// Takes less than all when the client has not read enough replies: feed the rest after it has. Returns the
    /// number of bytes taken.
    ///
    /// # Errors
    /// [`Broken`] when a header announces a payload beyond [`PAYLOAD_MAX`] or the connection does not exist.
    pub fn receive(&mut self, id: ConnectionId, bytes: &[u8]) -> Result<usize, Broken> {
        let mut taken = 0;
        loop {
            let connection = self.connections.get_mut(&id).ok_or(Broken)?;
            if !connection.is_privileged() && connection.pending_output() > quota::OUTPUT {
                return Ok(taken);
            }
            let wanted = match connection.input.first_chunk::<HEADER_SIZE>().map(Header::decode) {
                None => HEADER_SIZE,
                Some(header) if header.length as usize > PAYLOAD_MAX => return Err(Broken),
                Some(header) => HEADER_SIZE + header.length as usize,
            };
            let missing = wanted - connection.input.len();
            let rest = bytes.get(taken..).unwrap_or_default();
            let chunk = &rest[..missing.min(rest.len())];
            connection.input.extend_from_slice(chunk);
            taken += chunk.len();
            if chunk.len() < missing {
                return Ok(taken);
            }
            if let Some(head) = connection.input.first_chunk::<HEADER_SIZE>() {
                let header = Header::decode(head);
                if connection.input.len() == HEADER_SIZE + header.length as usize {
                    let request = core::mem::take(&mut connection.input);
                    self.handle(id, header, &request[HEADER_SIZE..]);
                }
            }
        }
    }

    /// Next message for the client.
    pub fn take_output(&mut self, id: ConnectionId) -> Option<Vec<u8>> {
        self.connections.get_mut(&id)?.output.pop_front()
    }

    /// What requests asked of the owner of the rings since the last call.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        core::mem::take(&mut self.effects)
    }

    /// Tells watchers of `@releaseDomain` that a domain has shut down or died.
    pub fn domain_changed(&mut self) {
        self.fire_special("@releaseDomain");
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
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        match (kind, result) {
            (Some(kind), Ok(done)) => {
                let reply = message(kind, header.request, header.transaction, &done.payload);
                connection.output.push_back(reply);
                if let Some(event) = done.initial_event {
                    connection.output.push_back(event);
                }
                self.fire(&done.changes);
                if let Some(special) = done.special {
                    self.fire_special(special);
                }
            }
            (_, Err(error)) => {
                let text = format!("{}\0", error.name());
                let reply = message(Kind::Error, header.request, header.transaction, text.as_bytes());
                connection.output.push_back(reply);
            }
            (None, Ok(_)) => {}
        }
    }

    fn dispatch(&mut self, id: ConnectionId, kind: Kind, tx: u32, payload: &[u8]) -> Result<Done, Error> {
        match kind {
            Kind::Read => {
                let [path] = exactly(payload)?;
                self.on_node(id, tx, path, |view, path| {
                    Ok(view.node(path, Need::Read)?.value.clone())
                })
            }
            Kind::Directory => {
                let [path] = exactly(payload)?;
                self.on_node(id, tx, path, |view, path| {
                    Ok(names(view.node(path, Need::Read)?.children.iter()).into_bytes())
                })
            }
            Kind::DirectoryPart => {
                let [path, offset] = exactly(payload)?;
                let offset: usize = offset.parse().map_err(|_| Error::Invalid)?;
                self.on_node(id, tx, path, |view, path| {
                    let node = view.node(path, Need::Read)?;
                    directory_part(node.generation, &names(node.children.iter()), offset)
                })
            }
            Kind::GetPerms => {
                let [path] = exactly(payload)?;
                self.on_node(id, tx, path, |view, path| {
                    Ok(format_permissions(&view.node(path, Need::Read)?.permissions).into_bytes())
                })
            }
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
            Kind::SetPerms => {
                let parts = strings(payload)?;
                let (path, entries) = parts.split_first().ok_or(Error::Invalid)?;
                let list = parse_permissions(entries)?;
                self.on_node(id, tx, path, |view, path| {
                    view.set_permissions(path, list).map(|()| OK.to_vec())
                })
            }
            Kind::Watch | Kind::Unwatch | Kind::ResetWatches => self.watch_request(id, kind, payload),
            Kind::TransactionStart => self.transaction_start(id, tx),
            Kind::TransactionEnd => self.transaction_end(id, tx, payload),
            Kind::GetDomainPath => {
                let [domain] = exactly(payload)?;
                Ok(Done::reply(
                    format!("{}\0", path::home(number(domain)?)).into_bytes(),
                ))
            }
            Kind::IsDomainIntroduced => {
                let [domain] = exactly(payload)?;
                let known = self.introduced.contains_key(&number(domain)?);
                Ok(Done::reply(if known { b"T\0".to_vec() } else { b"F\0".to_vec() }))
            }
            Kind::Introduce | Kind::Release | Kind::Resume | Kind::SetTarget | Kind::Control => {
                self.privileged_request(id, kind, payload)
            }
            Kind::WatchEvent | Kind::Error => Err(Error::NotSupported),
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
        let connection = self.connections.get_mut(&id).ok_or(Error::Invalid)?;
        let absolute = path::resolve(connection.domain(), path)?;
        let privileged = connection.is_privileged();
        let mut view = match tx {
            0 => self.tree.view(&connection.who),
            tx => {
                let transaction = connection.transactions.get_mut(&tx).ok_or(Error::NotFound)?;
                if !privileged && transaction.footprint() > quota::TRANSACTION_NODES {
                    return Err(Error::NoSpace);
                }
                self.tree.view_in(transaction, &connection.who)
            }
        };
        let payload = action(&mut view, &absolute)?;
        Ok(Done {
            changes: view.finish(),
            ..Done::reply(payload)
        })
    }

    fn transaction_start(&mut self, id: ConnectionId, tx: u32) -> Result<Done, Error> {
        let connection = self.connections.get_mut(&id).ok_or(Error::Invalid)?;
        if tx != 0 {
            return Err(Error::Busy);
        }
        if !connection.is_privileged() && connection.transactions.len() >= quota::TRANSACTIONS {
            return Err(Error::NoSpace);
        }
        let mut number = connection.next_transaction;
        while number == 0 || connection.transactions.contains_key(&number) {
            number = number.wrapping_add(1);
        }
        connection.next_transaction = number.wrapping_add(1);
        connection.transactions.insert(number, Transaction::default());
        Ok(Done::reply(format!("{number}\0").into_bytes()))
    }

    fn transaction_end(&mut self, id: ConnectionId, tx: u32, payload: &[u8]) -> Result<Done, Error> {
        let connection = self.connections.get_mut(&id).ok_or(Error::Invalid)?;
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
            ..Done::reply(OK.to_vec())
        })
    }

    fn watch_request(&mut self, id: ConnectionId, kind: Kind, payload: &[u8]) -> Result<Done, Error> {
        let connection = self.connections.get_mut(&id).ok_or(Error::Invalid)?;
        if kind == Kind::ResetWatches {
            connection.watches.clear();
            connection.transactions.clear();
            return Ok(Done::reply(OK.to_vec()));
        }
        let [given, token] = exactly(payload)?;
        if token.len() > TOKEN_MAX {
            return Err(Error::TooBig);
        }
        let special = matches!(given, "@introduceDomain" | "@releaseDomain");
        let path = if special {
            given.to_string()
        } else {
            path::resolve(connection.domain(), given)?
        };
        let position = connection
            .watches
            .iter()
            .position(|watch| watch.path == path && watch.token == token);
        if kind == Kind::Unwatch {
            connection.watches.remove(position.ok_or(Error::NotFound)?);
            return Ok(Done::reply(OK.to_vec()));
        }
        if special && !connection.is_privileged() {
            return Err(Error::Access);
        }
        if position.is_some() {
            return Err(Error::Exists);
        }
        if !connection.is_privileged() && connection.watches.len() >= quota::WATCHES {
            return Err(Error::TooBig);
        }
        let relative = !special && !given.starts_with('/');
        connection.watches.push(Watch {
            path,
            relative,
            token: token.to_string(),
        });
        // Every watch fires once when it is set.
        let event = watch_event(given, token);
        Ok(Done {
            initial_event: Some(event),
            ..Done::reply(OK.to_vec())
        })
    }

    /// Requests that only dom0 may make.
    fn privileged_request(&mut self, id: ConnectionId, kind: Kind, payload: &[u8]) -> Result<Done, Error> {
        if !self.connections.get(&id).is_some_and(Connection::is_privileged) {
            return Err(Error::Access);
        }
        match kind {
            Kind::Introduce => {
                let [domain, gfn, port] = exactly(payload)?;
                let (domain, gfn, port) = (number(domain)?, number(gfn)?, number(port)?);
                if self.introduced.contains_key(&domain) {
                    return Err(Error::Exists);
                }
                self.introduced.insert(domain, None);
                self.effects.push(Effect::Introduce { domain, gfn, port });
                Ok(Done {
                    special: Some("@introduceDomain"),
                    ..Done::reply(OK.to_vec())
                })
            }
            Kind::Release => {
                let [domain] = exactly(payload)?;
                let domain: DomId = number(domain)?;
                if domain == DOM0 {
                    return Err(Error::Invalid);
                }
                let connection = self.introduced.remove(&domain).ok_or(Error::NotFound)?;
                if let Some(connection) = connection {
                    self.disconnect(connection);
                }
                self.effects.push(Effect::Release { domain });
                let changes = self.forget(domain);
                Ok(Done {
                    changes,
                    special: Some("@releaseDomain"),
                    ..Done::reply(OK.to_vec())
                })
            }
            Kind::Resume => {
                let [domain] = exactly(payload)?;
                let known = self.introduced.contains_key(&number(domain)?);
                if known {
                    Ok(Done::reply(OK.to_vec()))
                } else {
                    Err(Error::NotFound)
                }
            }
            Kind::SetTarget => {
                let [stub, target] = exactly(payload)?;
                let (stub, target): (DomId, DomId) = (number(stub)?, number(target)?);
                let connection = self
                    .introduced
                    .get(&stub)
                    .copied()
                    .flatten()
                    .ok_or(Error::NotFound)?;
                let connection = self.connections.get_mut(&connection).ok_or(Error::NotFound)?;
                if target == DOM0 {
                    return Err(Error::Invalid);
                }
                connection.who = alloc::vec![stub, target];
                Ok(Done::reply(OK.to_vec()))
            }
            _ => match strings(payload)?.as_slice() {
                ["help"] => Ok(Done::reply(b"help\0".to_vec())),
                _ => Err(Error::Invalid),
            },
        }
    }

    /// Removes what a dead domain owns, so that its number can be used again.
    fn forget(&mut self, domain: DomId) -> Vec<Change> {
        let mut changes = Vec::new();
        for path in self.tree.owned_by(domain) {
            let mut view = self.tree.view(&[DOM0]);
            // A node that went away with its parent a moment ago is as good.
            if view.remove(&path).is_ok() {
                changes.extend(view.finish());
            }
        }
        changes
    }

    /// Tells every watch that a change concerns and whose owner may know of it.
    fn fire(&mut self, changes: &[Change]) {
        for change in changes {
            for connection in self.connections.values_mut() {
                let who = &connection.who;
                if !change
                    .visible_to
                    .iter()
                    .any(|list| !list.is_empty() && allows(list, who, Need::Read))
                {
                    continue;
                }
                let home = path::home(connection.domain());
                for watch in &connection.watches {
                    let concerned = match change.scope {
                        Scope::NodeAndAbove => path::is_within(&change.path, &watch.path),
                        Scope::NodeOnly => change.path == watch.path,
                    };
                    if concerned {
                        let shown = match watch.relative {
                            true => change
                                .path
                                .strip_prefix(&home)
                                .and_then(|rest| rest.strip_prefix('/')),
                            false => Some(change.path.as_str()),
                        };
                        let event = watch_event(shown.unwrap_or(&change.path), &watch.token);
                        queue_event(&mut connection.output, event);
                    }
                }
            }
        }
    }

    fn fire_special(&mut self, special: &str) {
        for connection in self.connections.values_mut() {
            for watch in connection.watches.iter().filter(|watch| watch.path == special) {
                queue_event(&mut connection.output, watch_event(special, &watch.token));
            }
        }
    }
}

/// What a successful request leads to.
#[derive(Debug, Default)]
struct Done {
    payload: Vec<u8>,
    initial_event: Option<Vec<u8>>,
    changes: Vec<Change>,
    special: Option<&'static str>,
}

impl Done {
    fn reply(payload: Vec<u8>) -> Self {
        Self {
            payload,
            ..Self::default()
        }
    }
}

/// Queues an event unless the same one waits already: a client that does not read cannot make the queue grow
/// beyond its watches times the paths under them.
fn queue_event(output: &mut VecDeque<Vec<u8>>, event: Vec<u8>) {
    if !output.contains(&event) {
        output.push_back(event);
    }
}

fn watch_event(path: &str, token: &str) -> Vec<u8> {
    message(Kind::WatchEvent, 0, 0, format!("{path}\0{token}\0").as_bytes())
}

fn number<T: core::str::FromStr>(text: &str) -> Result<T, Error> {
    text.parse().map_err(|_| Error::Invalid)
}

/// Names, each NUL-terminated.
fn names<'a>(children: impl Iterator<Item = &'a String>) -> String {
    children.fold(String::new(), |mut all, name| {
        all.push_str(name);
        all.push('\0');
        all
    })
}

/// A `DIRECTORY_PART` reply: the generation, then as many whole names from `offset` on as fit, then an empty name
/// if these were the last.
fn directory_part(generation: u64, names: &str, offset: usize) -> Result<Vec<u8>, Error> {
    let mut reply = format!("{generation}\0");
    let rest = names.get(offset..).ok_or(Error::Invalid)?;
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
    Ok(reply.into_bytes())
}
