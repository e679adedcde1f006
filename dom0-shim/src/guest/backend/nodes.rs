//! A device's nodes in xenstore, as libxl writes them: one directory for each end and one for the toolstack.

use alloc::format;
use alloc::string::String;

use abi::Domid;
use dom0_shim::backend::xenbus::State;
use dom0_shim::xenstore::{DOM0, Error, tools};

use super::Nodes;
use crate::guest::store::Store;

/// Names a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    /// Whose.
    pub domain: Domid,
    /// Its class, `vbd` or `vif`.
    pub class: &'static str,
    /// Its number among them.
    pub number: u32,
}

impl Id {
    /// The front end's directory, which belongs to the domain.
    pub fn front(&self) -> String {
        format!(
            "/local/domain/{}/device/{}/{}",
            self.domain, self.class, self.number
        )
    }

    /// The back end's directory, which the domain can read.
    pub fn back(&self) -> String {
        format!(
            "/local/domain/{DOM0}/backend/{}/{}/{}",
            self.class, self.domain, self.number
        )
    }

    /// The toolstack's own.
    fn toolstack(&self) -> String {
        format!("/libxl/{}/device/{}/{}", self.domain, self.class, self.number)
    }

    /// Where the back end says what went wrong.
    fn error(&self) -> String {
        format!(
            "/local/domain/{DOM0}/error/backend/{}/{}/{}",
            self.class, self.domain, self.number
        )
    }
}

/// Writes the nodes of a new device.
pub fn write(store: &Store, id: Id, front: &Nodes, back: &Nodes) -> Result<(), Error> {
    let initialising = State::Initialising.text();
    let (domain, front_path, back_path, toolstack) = (id.domain, id.front(), id.back(), id.toolstack());
    let make = |path: &str, permissions: &[&str], nodes: &Nodes| {
        store.write(path, "")?;
        // What is made below inherits them.
        store.set_permissions(path, permissions)?;
        let write = |(name, value): &(&str, String)| store.write(&format!("{path}/{name}"), value);
        nodes.iter().try_for_each(write)
    };
    let theirs = [&format!("n{domain}"), "r0"];
    let ours = ["n0", &format!("r{domain}")];
    make(&toolstack, &["n0"], back)?;
    store.write(&format!("{toolstack}/frontend"), &front_path)?;
    store.write(&format!("{toolstack}/backend"), &back_path)?;
    make(&back_path, &ours, back)?;
    make(&front_path, &theirs, front)?;
    for (path, name, value) in [
        (&back_path, "frontend", front_path.as_str()),
        (&back_path, "frontend-id", &format!("{domain}")),
        (&back_path, "online", "1"),
        (&back_path, "state", initialising),
        (&front_path, "backend", &back_path),
        (&front_path, "backend-id", "0"),
        (&front_path, "state", initialising),
    ] {
        store.write(&format!("{path}/{name}"), value)?;
    }
    Ok(())
}

/// Adds nodes to the back end's. One that cannot be written is as one that the back end does not have.
pub fn publish(store: &Store, id: Id, nodes: &Nodes) {
    let path = id.back();
    for (name, value) in nodes {
        let _ = store.write(&format!("{path}/{name}"), value);
    }
}

/// Tells the front end the back end's state.
pub fn set_state(store: &Store, id: Id, state: State) {
    let _ = store.write(&format!("{}/state", id.back()), state.text());
}

/// Tells the front end that the device is to go.
pub fn set_offline(store: &Store, id: Id) {
    let _ = store.write(&format!("{}/online", id.back()), "0");
}

/// Says why the device could not be connected, where Linux's back ends do.
pub fn set_error(store: &Store, id: Id, error: &str) {
    let _ = store.write(&format!("{}/error", id.error()), error);
}

/// The front end's state.
pub fn front_state(store: &Store, id: Id) -> State {
    State::parse(&store.read(&format!("{}/state", id.front())).unwrap_or_default())
}

/// Removes all nodes of a device; of its domain's directories among those of this domain, too, if it was the last.
pub fn remove(store: &Store, id: Id) {
    for path in [id.front(), id.toolstack()] {
        store.remove(&path);
    }
    for path in [id.back(), id.error()] {
        // What is not there need not be removed.
        let _ = tools::rm(&|kind, payload| store.request(kind, payload), &path, true);
    }
}

/// What a front end has published: text that a guest wrote.
pub struct Front<'a> {
    store: &'a Store,
    path: String,
    /// Whose it is.
    pub domain: Domid,
    /// The device's number.
    pub device: u32,
}

impl<'a> Front<'a> {
    /// Of one device.
    pub fn new(store: &'a Store, id: Id) -> Self {
        Self {
            store,
            path: id.front(),
            domain: id.domain,
            device: id.number,
        }
    }

    /// A node's value.
    pub fn text(&self, name: &str) -> Option<String> {
        self.store.read(&format!("{}/{name}", self.path)).ok()
    }

    /// A number that may be left out.
    ///
    /// # Errors
    /// The node is there and no number.
    pub fn optional(&self, name: &str) -> Result<Option<u32>, String> {
        let parse = |text: String| text.trim().parse().map_err(|_| format!("{name}: no number"));
        self.text(name).map(parse).transpose()
    }

    /// Whether a number is there and not 0.
    ///
    /// # Errors
    /// The node is there and no number.
    pub fn flag(&self, name: &str) -> Result<bool, String> {
        Ok(self.optional(name)?.is_some_and(|value| value != 0))
    }

    /// A number that must be there.
    ///
    /// # Errors
    /// It is not.
    pub fn number(&self, name: &str) -> Result<u32, String> {
        self.optional(name)?.ok_or_else(|| format!("{name}: missing"))
    }
}
