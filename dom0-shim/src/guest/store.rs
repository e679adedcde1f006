//! xenstore: the server, the rings it serves, and the toolstack's own access.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::mem::offset_of;

use abi::io::xs_wire::{
    XENSTORE_ERROR_PROTO, XENSTORE_ERROR_RINGIDX, XENSTORE_RING_SIZE, XENSTORE_SERVER_FEATURE_ERROR,
    XenstoreDomainInterface as Page,
};
use abi::{Domid, Errno};
use dom0_shim::executor::Signal;
use dom0_shim::xenstore::{ConnectionId, DOM0, Effect, Error, HEADER_SIZE, Kind, Server, message};
use guest_rt::foreign::Mapping;
use guest_rt::hypercall::event_channel;

use super::Host;
use super::ring::Ring;

const REQUESTS: Ring = Ring {
    buffer: offset_of!(Page, req),
    size: XENSTORE_RING_SIZE,
    consumer: offset_of!(Page, req_cons),
    producer: offset_of!(Page, req_prod),
};
const REPLIES: Ring = Ring {
    buffer: offset_of!(Page, rsp),
    size: XENSTORE_RING_SIZE,
    consumer: offset_of!(Page, rsp_cons),
    producer: offset_of!(Page, rsp_prod),
};

/// xenstore and its connections.
pub struct Store(RefCell<State>);

struct State {
    server: Server,
    /// For requests.
    own: ConnectionId,
    /// For watches, whose events are thus never taken for replies.
    watcher: ConnectionId,
    watches: BTreeMap<u64, Signal>,
    links: BTreeMap<Domid, Link>,
    next_serial: u64,
}

/// The connection of one domain.
struct Link {
    connection: ConnectionId,
    page: Mapping,
    port: u32,
    /// Tells this link from an earlier one of a domain with the same number.
    serial: u64,
    /// The part of a reply that did not fit into the ring yet.
    unsent: Vec<u8>,
    /// The domain has broken the protocol: nothing is read or written any more.
    broken: bool,
}

impl Default for Store {
    fn default() -> Self {
        let mut server = Server::new();
        let own = server.connect(DOM0);
        let watcher = server.connect(DOM0);
        Self(RefCell::new(State {
            server,
            own,
            watcher,
            watches: BTreeMap::new(),
            links: BTreeMap::new(),
            next_serial: 0,
        }))
    }
}

impl Store {
    /// One request of dom0's own; watch events are nothing that it asks for.
    fn request(&self, kind: Kind, payload: &[u8]) -> Result<Vec<u8>, Error> {
        let mut state = self.0.borrow_mut();
        let own = state.own;
        // One whole well-formed message on a connection that exists is always taken.
        let taken = state.server.receive(own, &message(kind, 0, 0, payload));
        debug_assert!(taken.is_ok());
        let reply = state.server.take_output(own).ok_or(Error::Invalid)?;
        state.flush_all();
        let body = reply.get(HEADER_SIZE..).unwrap_or_default();
        if reply.first() == Some(&(Kind::Error as u8)) {
            let name = text(body);
            return Err(Error::from_name(&name).unwrap_or(Error::Invalid));
        }
        Ok(body.to_vec())
    }

    /// Writes a node.
    pub fn write(&self, path: &str, value: &str) -> Result<(), Error> {
        self.request(Kind::Write, format!("{path}\0{value}").as_bytes())
            .map(|_| ())
    }

    /// Reads a node as text.
    pub fn read(&self, path: &str) -> Result<String, Error> {
        let value = self.request(Kind::Read, format!("{path}\0").as_bytes())?;
        Ok(String::from_utf8_lossy(&value).into_owned())
    }

    /// Names of a node's children.
    pub fn children(&self, path: &str) -> Result<Vec<String>, Error> {
        let names = self.request(Kind::Directory, format!("{path}\0").as_bytes())?;
        Ok(String::from_utf8_lossy(&names)
            .split_terminator('\0')
            .map(ToString::to_string)
            .collect())
    }

    /// Removes a subtree; one that is not there is as good.
    pub fn remove(&self, path: &str) {
        let _ = self.request(Kind::Rm, format!("{path}\0").as_bytes());
    }

    /// Sets an access list, e.g. `["n0", "r5"]`.
    pub fn set_permissions(&self, path: &str, list: &[&str]) -> Result<(), Error> {
        self.request(
            Kind::SetPerms,
            format!("{path}\0{}\0", list.join("\0")).as_bytes(),
        )
        .map(|_| ())
    }

    /// Watches a node and what is below: the signal is set now, and with every change.
    pub fn watch(&self, path: &str) -> Watch<'_> {
        let mut state = self.0.borrow_mut();
        let token = state.next_serial;
        state.next_serial += 1;
        let watch = Watch {
            store: self,
            path: path.to_string(),
            token,
            changed: Signal::default(),
        };
        state.watches.insert(token, watch.changed.clone());
        state.watch(Kind::Watch, path, token);
        watch
    }

    /// Tells watchers of `@releaseDomain` that some domain's state has changed.
    pub fn domain_changed(&self) {
        let mut state = self.0.borrow_mut();
        state.server.domain_changed();
        state.flush_all();
    }

    /// Ends the connection of a domain.
    pub fn release(&self, domain: Domid) {
        let _ = self.request(Kind::Release, format!("{domain}\0").as_bytes());
        let mut state = self.0.borrow_mut();
        state.server.take_effects();
        if let Some(link) = state.links.remove(&domain) {
            // The hypervisor closes the other end with the domain; a port that is closed already is as good.
            let _ = event_channel::close(link.port);
        }
    }
}

/// A watch of dom0's own; ends when dropped.
pub struct Watch<'a> {
    store: &'a Store,
    path: String,
    token: u64,
    /// Set when there was a change.
    pub changed: Signal,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let mut state = self.store.0.borrow_mut();
        state.watches.remove(&self.token);
        state.watch(Kind::Unwatch, &self.path, self.token);
    }
}

/// Introduces a domain: maps its ring in frame `gfn`, binds its port, and serves it from a task.
pub fn introduce(host: &Rc<Host>, domain: Domid, gfn: u64, remote_port: u32) -> Result<(), Errno> {
    let page = Mapping::range(domain, gfn, 1)?;
    let port = event_channel::bind_interdomain(domain, remote_port)?;
    page.store(offset_of!(Page, server_features), XENSTORE_SERVER_FEATURE_ERROR);
    let payload = format!("{domain}\0{gfn}\0{remote_port}\0");
    if host.store.request(Kind::Introduce, payload.as_bytes()).is_err() {
        return Err(Errno::EEXIST);
    }
    let mut state = host.store.0.borrow_mut();
    let effects = state.server.take_effects();
    debug_assert_eq!(
        effects,
        [Effect::Introduce {
            domain,
            gfn,
            port: remote_port
        }]
    );
    let connection = state.server.connect(domain);
    let serial = state.next_serial;
    state.next_serial += 1;
    let link = Link {
        connection,
        page,
        port,
        serial,
        unsent: Vec::new(),
        broken: false,
    };
    state.links.insert(domain, link);
    host.spawner.spawn(serve(host.clone(), domain, port, serial));
    Ok(())
}

/// Task: serves one domain's ring until the domain is released.
async fn serve(host: Rc<Host>, domain: Domid, port: u32, serial: u64) {
    loop {
        host.reactor.event(port).await;
        let mut state = host.store.0.borrow_mut();
        if state.links.get(&domain).is_none_or(|link| link.serial != serial) {
            drop(state);
            // The event may have been for another user of the same port number.
            return host.reactor.fire(port);
        }
        state.receive(domain);
        state.flush_all();
        if state.links.get(&domain).is_some_and(Link::has_more) {
            // After the others' turn.
            host.reactor.fire(port);
        }
    }
}

impl State {
    /// Answers what a domain has written into its ring.
    fn receive(&mut self, domain: Domid) {
        let Some(link) = self.links.get_mut(&domain) else {
            return;
        };
        if link.broken {
            return;
        }
        let Ok(bytes) = REQUESTS.peek(&link.page) else {
            return link.give_up(XENSTORE_ERROR_RINGIDX);
        };
        match self.server.receive(link.connection, &bytes) {
            Ok(0) => {}
            Ok(taken) => {
                REQUESTS.consume(&link.page, taken);
                link.notify();
            }
            Err(_) => link.give_up(XENSTORE_ERROR_PROTO),
        }
    }

    /// Sets or ends a watch of dom0's own.
    fn watch(&mut self, kind: Kind, path: &str, token: u64) {
        let payload = format!("{path}\0{token}\0");
        let taken = self
            .server
            .receive(self.watcher, &message(kind, 0, 0, payload.as_bytes()));
        debug_assert!(taken.is_ok());
        self.flush_all();
    }

    /// Sets the signals of dom0's own watches that have fired.
    fn signal_watches(&mut self) {
        while let Some(event) = self.server.take_output(self.watcher) {
            let body = event.get(HEADER_SIZE..).unwrap_or_default();
            // Path, token; the reply to a request has no second part.
            let token = body.split(|&byte| byte == 0).nth(1);
            let token = token.and_then(|token| core::str::from_utf8(token).ok()?.parse().ok());
            if let Some(signal) = token.and_then(|token: u64| self.watches.get(&token)) {
                signal.notify();
            }
        }
    }

    /// Sends what waits for any domain: one domain's request may fire another's watch.
    fn flush_all(&mut self) {
        self.signal_watches();
        for link in self.links.values_mut() {
            link.flush(&mut self.server);
        }
    }
}

impl Link {
    fn flush(&mut self, server: &mut Server) {
        let mut sent = false;
        while !self.broken {
            if self.unsent.is_empty() {
                match server.take_output(self.connection) {
                    Some(next) => self.unsent = next,
                    None => break,
                }
            }
            match REPLIES.write(&self.page, &self.unsent) {
                Ok(0) => break,
                Ok(count) => {
                    self.unsent.drain(..count);
                    sent = true;
                }
                Err(_) => self.give_up(XENSTORE_ERROR_RINGIDX),
            }
        }
        if sent {
            self.notify();
        }
    }

    /// Is there a request that nobody will announce? Front ends send an event only when what they had written before was consumed, and
    /// only what found no room in the ring of replies makes them send one when they have read.
    fn has_more(&self) -> bool {
        !self.broken
            && self.unsent.is_empty()
            && REQUESTS.peek(&self.page).is_ok_and(|bytes| !bytes.is_empty())
    }

    fn give_up(&mut self, error: u32) {
        self.broken = true;
        self.page.store(offset_of!(Page, error), error);
        self.notify();
    }

    fn notify(&self) {
        // The only failure is a port closed from the other end, when nobody listens.
        let _ = event_channel::send(self.port);
    }
}

/// A NUL-terminated reply as text.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_string()
}
