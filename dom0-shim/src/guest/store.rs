//! xenstore: the server, the rings it serves, and the toolstack's own access.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;

use abi::{Domid, Errno};
use dom0_shim::backend::Events;
use dom0_shim::executor::Signal;
use dom0_shim::numbered::Numbered;
use dom0_shim::xenstore::{ConnectionId, DOM0, Effect, Error, HEADER_SIZE, Kind, Link, Server, message};

use super::Host;
use super::backend::{Channel, SharedPages};

/// xenstore and its connections.
pub struct Store(RefCell<State>);

struct State {
    server: Server,
    /// For requests.
    own: ConnectionId,
    /// For watches, whose events are thus never taken for replies.
    watcher: ConnectionId,
    watches: BTreeMap<u64, Fired>,
    served: Numbered<Served>,
    next_serial: u64,
}

/// The ring of one domain.
struct Served {
    link: Link<SharedPages>,
    channel: Channel,
    /// Gives the task a turn; the port's number may be another's once this is gone.
    wake: Signal,
    /// Tells this one from an earlier one of a domain with the same number.
    serial: u64,
}

/// What is done when a watch fires. Copies share it.
#[derive(Clone, Default)]
pub struct Fired {
    /// Set when there was a change.
    pub changed: Signal,
    /// Collects the paths, for who asked for them.
    paths: Option<Rc<RefCell<VecDeque<String>>>>,
}

impl Fired {
    /// Collects paths.
    pub fn collecting() -> Self {
        Self {
            paths: Some(Rc::default()),
            ..Self::default()
        }
    }

    /// A path that has changed.
    pub fn next_path(&self) -> Option<String> {
        self.paths.as_ref()?.borrow_mut().pop_front()
    }
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
            served: Numbered::default(),
            next_serial: 0,
        }))
    }
}

impl Store {
    /// One request of dom0's own outside transactions; watch events are nothing that it asks for.
    ///
    /// # Errors
    /// The server's answer.
    pub fn request(&self, kind: Kind, payload: &[u8]) -> Result<Vec<u8>, Error> {
        let mut state = self.0.borrow_mut();
        let own = state.own;
        // One whole well-formed message on a connection that exists is always taken.
        let taken = state.server.receive(own, &message(kind, 0, 0, payload), 1);
        debug_assert!(taken.is_ok());
        let reply = state.server.take_output(own).ok_or(Error::Invalid)?;
        state.flush();
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

    /// The same for a command of a person's.
    ///
    /// # Errors
    /// A sentence that names the path.
    pub fn put(&self, path: &str, value: &str) -> Result<(), String> {
        self.write(path, value)
            .map_err(|error| format!("{path}: {}", error.name()))
    }

    /// Reads a node as text.
    pub fn read(&self, path: &str) -> Result<String, Error> {
        let value = self.request(Kind::Read, format!("{path}\0").as_bytes())?;
        Ok(String::from_utf8_lossy(&value).into_owned())
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
        self.add_watch(path, Fired::default())
    }

    /// As [`Store::watch`], with a signal of the caller's, which several watches may share.
    ///
    /// # Errors
    /// The server's answer: there can be no such path.
    pub fn watch_with(&self, path: &str, fired: &Fired) -> Result<Watch<'_>, Error> {
        match self.request(Kind::GetPerms, format!("{path}\0").as_bytes()) {
            Err(Error::Invalid) => Err(Error::Invalid),
            _ => Ok(self.add_watch(path, fired.clone())),
        }
    }

    fn add_watch(&self, path: &str, fired: Fired) -> Watch<'_> {
        let mut state = self.0.borrow_mut();
        let token = state.next_serial;
        state.next_serial += 1;
        state.watches.insert(token, fired.clone());
        state.watch(Kind::Watch, path, token);
        Watch {
            store: self,
            path: path.to_string(),
            token,
            changed: fired.changed,
        }
    }

    /// Tells watchers of `@releaseDomain` that a domain has shut down; more than once is as good.
    pub fn shut_down(&self, domain: Domid) {
        let mut state = self.0.borrow_mut();
        state.server.shut_down(domain);
        state.flush();
    }

    /// Ends the connection of a domain.
    pub fn release(&self, domain: Domid) {
        let _ = self.request(Kind::Release, format!("{domain}\0").as_bytes());
        let mut state = self.0.borrow_mut();
        state.server.take_effects();
        if let Some(served) = state.served.remove(domain.into()) {
            // The task finds that it has nothing to serve, and ends.
            served.wake.notify();
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
    let page = SharedPages::frame(domain, gfn)?;
    let channel = Channel::bind(host, domain, remote_port)?;
    let payload = format!("{domain}\0{gfn}\0{remote_port}\0");
    if host.store.request(Kind::Introduce, payload.as_bytes()).is_err() {
        return Err(Errno::EINVAL);
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
    let wake = Signal::default();
    channel.connect(&wake);
    // What is in the ring already was announced before.
    wake.notify();
    host.spawner
        .spawn(serve(host.clone(), domain, wake.clone(), serial));
    let served = Served {
        link: Link::new(page, connection),
        channel,
        wake,
        serial,
    };
    state.served.insert(domain.into(), served);
    Ok(())
}

/// Task: serves one domain's ring until the domain is released.
async fn serve(host: Rc<Host>, domain: Domid, wake: Signal, serial: u64) {
    loop {
        wake.wait().await;
        let mut state = host.store.0.borrow_mut();
        let State { server, served, .. } = &mut *state;
        let Some(served) = served
            .get_mut(domain.into())
            .filter(|served| served.serial == serial)
        else {
            return;
        };
        let turn = served.link.serve(server);
        if turn.notify {
            served.channel.notify();
        }
        state.flush();
        if turn.more {
            wake.notify();
        }
    }
}

impl State {
    /// Sets or ends a watch of dom0's own.
    fn watch(&mut self, kind: Kind, path: &str, token: u64) {
        let payload = format!("{path}\0{token}\0");
        let request = message(kind, 0, 0, payload.as_bytes());
        let taken = self.server.receive(self.watcher, &request, 1);
        debug_assert!(taken.is_ok());
        self.flush();
    }

    /// Sets the signals of dom0's own watches that have fired.
    fn signal_watches(&mut self) {
        while let Some(event) = self.server.take_output(self.watcher) {
            // Path, token; the reply to a request has no second part.
            let body = text(event.get(HEADER_SIZE..).unwrap_or_default());
            let Some((path, token)) = body.split_once('\0') else {
                continue;
            };
            let Some(fired) = token.parse().ok().and_then(|token: u64| self.watches.get(&token)) else {
                continue;
            };
            if let Some(paths) = &fired.paths {
                paths.borrow_mut().push_back(path.to_string());
            }
            fired.changed.notify();
        }
    }

    /// Sends what waits for any domain: one domain's request may fire another's watch.
    fn flush(&mut self) {
        while let Some(connection) = self.server.take_ready() {
            if connection == self.watcher {
                self.signal_watches();
            }
            let domain = self.server.domain(connection);
            if let Some(served) = domain.and_then(|domain| self.served.get_mut(domain.into()))
                && served.link.flush(&mut self.server)
            {
                served.channel.notify();
            }
        }
    }
}

/// A NUL-terminated reply as text.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_string()
}
