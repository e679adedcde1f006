//! Requests that only dom0 may make, and the special events about domains.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use super::perms::{Acl, Need, Permission, allows};
use super::server::{ConnectionId, Done, Server, number};
use super::view::Change;
use super::wire::{exactly, strings};
use super::{DOM0, DomId, Error, Kind, quota};

/// What the owner of the rings must do after a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// `XS_INTRODUCE`: serve the ring in frame `gfn` of `domain`, notified over its event channel `port`; in place of
    /// the one that is served now, if there is one.
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

/// A domain that has been introduced.
#[derive(Debug, Default)]
pub struct Domain {
    pub connection: Option<ConnectionId>,
    /// Its end has been told.
    pub shut_down: bool,
}

/// A domain has been introduced.
pub const INTRODUCE: &str = "@introduceDomain";
/// A domain has shut down, died, or been released.
pub const RELEASE: &str = "@releaseDomain";

/// Who may know of the special events.
#[derive(Debug)]
pub struct SpecialEvents {
    introduce: Acl,
    release: Acl,
}

impl Default for SpecialEvents {
    fn default() -> Self {
        let nobody: Acl = Rc::new([Permission {
            domain: DOM0,
            read: false,
            write: false,
        }]);
        Self {
            introduce: nobody.clone(),
            release: nobody,
        }
    }
}

impl SpecialEvents {
    fn list(&mut self, name: &str) -> Result<&mut Acl, Error> {
        match name {
            INTRODUCE => Ok(&mut self.introduce),
            RELEASE => Ok(&mut self.release),
            _ => Err(Error::Invalid),
        }
    }

    /// The access list of an event for somebody who needs something of it.
    ///
    /// # Errors
    /// `Invalid` if there is no such event, `Access`.
    pub fn permissions(&self, name: &str, who: &[DomId], need: Need) -> Result<&Acl, Error> {
        let list = match name {
            INTRODUCE => &self.introduce,
            RELEASE => &self.release,
            _ => return Err(Error::Invalid),
        };
        if allows(list, who, need) {
            Ok(list)
        } else {
            Err(Error::Access)
        }
    }

    /// Replaces the access list of an event.
    ///
    /// # Errors
    /// As [`SpecialEvents::permissions`].
    pub fn set_permissions(&mut self, name: &str, who: &[DomId], new: Acl) -> Result<(), Error> {
        self.permissions(name, who, Need::Own)?;
        *self.list(name)? = new;
        Ok(())
    }

    /// Takes a domain off the lists.
    fn strike(&mut self, domain: DomId) {
        for list in [&mut self.introduce, &mut self.release] {
            let owner = list.first().map(|first| Permission {
                domain: if first.domain == domain {
                    DOM0
                } else {
                    first.domain
                },
                ..*first
            });
            let others = list.iter().skip(1).filter(|entry| entry.domain != domain);
            *list = owner.into_iter().chain(others.copied()).collect();
        }
    }
}

impl Server {
    /// A request that the caller may make.
    pub(super) fn privileged_request(&mut self, kind: Kind, payload: &[u8]) -> Result<Done, Error> {
        match kind {
            Kind::Introduce => {
                let [domain, gfn, port] = exactly(payload)?;
                self.introduce(number(domain)?, number(gfn)?, number(port)?)
            }
            Kind::Release => self.release(self.one_domain(payload)?),
            Kind::Resume => {
                let domain = self.one_domain(payload)?;
                if let Some(domain) = self.domains.get_mut(domain.into()) {
                    domain.shut_down = false;
                }
                Ok(Done::ok())
            }
            Kind::SetTarget => {
                let [stub, target] = exactly(payload)?;
                self.set_target(number(stub)?, number(target)?)
            }
            _ => self.control(payload),
        }
    }

    /// The introduced domain other than dom0 that a request is about.
    fn one_domain(&self, payload: &[u8]) -> Result<DomId, Error> {
        let [domain] = exactly(payload)?;
        match number(domain)? {
            DOM0 => Err(Error::Invalid),
            domain if self.domains.contains(domain.into()) => Ok(domain),
            _ => Err(Error::NotFound),
        }
    }

    fn introduce(&mut self, domain: DomId, gfn: u64, port: u32) -> Result<Done, Error> {
        if domain == DOM0 || domain >= abi::domid::DOMID_FIRST_RESERVED || port == 0 {
            return Err(Error::Invalid);
        }
        self.effects.push(Effect::Introduce { domain, gfn, port });
        if let Some(known) = self.domains.get(domain.into()) {
            if let Some(connection) = known.connection {
                self.reset(connection);
            }
            return Ok(Done::ok());
        }
        self.domains.insert(domain.into(), Domain::default());
        Ok(Done {
            special: Some((INTRODUCE, domain)),
            ..Done::ok()
        })
    }

    fn release(&mut self, domain: DomId) -> Result<Done, Error> {
        if let Some(connection) = self
            .domains
            .remove(domain.into())
            .and_then(|domain| domain.connection)
        {
            self.disconnect(connection);
        }
        for connection in self.connections.values_mut() {
            // Who acted for it acts for itself.
            connection.who.retain(|&who| who != domain);
        }
        self.effects.push(Effect::Release { domain });
        let changes = self.forget(domain);
        Ok(Done {
            changes,
            special: Some((RELEASE, domain)),
            ..Done::ok()
        })
    }

    /// Removes what a dead domain owns and may, so that its number can be used again.
    fn forget(&mut self, domain: DomId) -> Vec<Change> {
        let mut changes = Vec::new();
        for place in self.tree.owned_by(domain) {
            let path = self.tree.nodes().path(place);
            let mut view = self.tree.view(None, &[DOM0], usize::MAX);
            if view.remove(&path).is_ok() {
                changes.extend(view.finish());
            }
        }
        self.tree.strike(domain);
        self.special.strike(domain);
        changes
    }

    fn set_target(&mut self, stub: DomId, target: DomId) -> Result<Done, Error> {
        if target == DOM0 {
            return Err(Error::Invalid);
        }
        let stub = self.domains.get(stub.into()).ok_or(Error::NotFound)?;
        if !self.domains.contains(target.into()) {
            return Err(Error::NotFound);
        }
        let connection = stub.connection.ok_or(Error::Invalid)?;
        let connection = self.connections.get_mut(connection.0).ok_or(Error::Invalid)?;
        connection.who.truncate(1);
        connection.who.push(target);
        Ok(Done::ok())
    }

    fn control(&self, payload: &[u8]) -> Result<Done, Error> {
        let text = match strings(payload)?.as_slice() {
            ["help"] => String::from("check\nhelp\nquota\n"),
            ["check"] if self.tree.is_consistent() => String::from("OK"),
            ["check"] => String::from("the nodes contradict each other"),
            ["quota"] => quota_text(),
            ["quota", domain] => self.holding_text(number(domain)?)?,
            _ => return Err(Error::Invalid),
        };
        Ok(Done::reply(format!("{text}\0").into_bytes()))
    }

    /// What a domain holds of what is limited.
    fn holding_text(&self, domain: DomId) -> Result<String, Error> {
        let record = self.domains.get(domain.into()).ok_or(Error::NotFound)?;
        let held = self.tree.holding(domain);
        let connection = record.connection.and_then(|id| self.connections.get(id.0));
        let of = |count: fn(&super::connection::Connection) -> usize| connection.map_or(0, count);
        let rows = [
            ("nodes", held.nodes),
            ("watches", of(|connection| connection.watches())),
            ("transactions", of(|connection| connection.transactions.len())),
            ("outstanding", of(|connection| connection.outstanding())),
            ("memory", held.memory + of(|connection| connection.memory())),
        ];
        Ok(rows
            .iter()
            .map(|(name, value)| format!("{name:<16}: {value:>8}\n"))
            .collect())
    }
}

fn quota_text() -> String {
    [
        ("nodes", quota::NODES),
        ("watches", quota::WATCHES),
        ("transactions", quota::TRANSACTIONS),
        ("outstanding", quota::OUTSTANDING),
        ("transaction-nodes", quota::TRANSACTION_NODES),
        ("memory", quota::MEMORY),
        ("node-size", quota::NODE),
        ("permissions", quota::PERMISSIONS),
    ]
    .iter()
    .map(|(name, value)| format!("{name:<17}: {value:>8}\n"))
    .collect()
}
