//! The tree as one client sees it during one request: permissions and quotas.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::perms::{Acl, Need, allows};
use super::places::{Place, ROOT};
use super::transaction::{Transaction, key_cost};
use super::tree::{Node, Tree};
use super::{DOM0, DomId, Error, path, quota};

/// A change that watches are told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What changed.
    pub path: String,
    /// Which watches it concerns.
    pub scope: Scope,
    /// Who may read by any of these lists may learn of it: those of the node and of its parent, before and after.
    pub audience: Vec<Acl>,
}

/// Which watches a change concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// The node's own watches and those above.
    NodeAndAbove,
    /// The node's own watches: it vanished with a node above it.
    NodeOnly,
}

/// A node that a client sees.
#[derive(Debug)]
pub struct Found {
    /// The node.
    pub node: Node,
    /// Where the committed one of this path is, if there is one.
    place: Option<Place>,
}

/// The tree during one request.
#[derive(Debug)]
pub struct View<'a> {
    tree: &'a mut Tree,
    transaction: Option<&'a mut Transaction>,
    changes: Vec<Change>,
    who: &'a [DomId],
    /// Bytes that the client may still take.
    memory: usize,
}

impl<'a> View<'a> {
    pub(super) fn new(
        tree: &'a mut Tree,
        transaction: Option<&'a mut Transaction>,
        who: &'a [DomId],
        memory: usize,
    ) -> Self {
        Self {
            tree,
            transaction,
            changes: Vec::new(),
            who,
            memory,
        }
    }

    /// Ends the view; returns the changes to tell watches of now (none inside a transaction).
    pub fn finish(self) -> Vec<Change> {
        self.changes
    }

    /// The node for a request with `need`.
    ///
    /// # Errors
    /// `Access`; `NotFound`, but only to those who could have used the nearest existing ancestor, so that nothing can
    /// be learned about hidden subtrees. In a transaction `NoSpace` or `NoMemory`, as it takes note of what it looks at.
    pub fn node(&mut self, path: &str, need: Need) -> Result<Found, Error> {
        let (nearest, found) = self.nearest(path)?;
        let is_there = nearest.len() == path.len();
        // Of a node that is not there, nobody is the owner: to write is enough to learn that.
        let need = match need {
            Need::Own if !is_there => Need::Write,
            need => need,
        };
        match allows(&found.node.permissions, self.who, need) {
            false => Err(Error::Access),
            true if is_there => Ok(found),
            true => Err(Error::NotFound),
        }
    }

    /// The children of a node: their names, sorted, and where they are if they are committed.
    pub fn children(&self, path: &str, node: &Found) -> Vec<(Rc<str>, Option<Place>)> {
        let committed = node.place.map(|place| self.tree.nodes().children(place));
        let committed = committed
            .into_iter()
            .flatten()
            .map(|(name, place)| (name.clone(), Some(place)));
        let Some(transaction) = &self.transaction else {
            return committed.collect();
        };
        let mut children: BTreeMap<_, _> = committed.collect();
        for (name, is_there) in transaction.children(path) {
            if is_there {
                children.entry(name.into()).or_insert(None);
            } else {
                children.remove(name);
            }
        }
        children.into_iter().collect()
    }

    /// Writes a value, creating the node and missing parents.
    pub fn write(&mut self, path: &str, value: &[u8]) -> Result<(), Error> {
        match self.node(path, Need::Write) {
            Ok(found) => {
                let node = Node {
                    value: value.into(),
                    ..found.node.clone()
                };
                self.change(path, &found, node, None)
            }
            Err(Error::NotFound) => self.create(path, value),
            Err(error) => Err(error),
        }
    }

    /// Creates an empty node unless it exists.
    pub fn mkdir(&mut self, path: &str) -> Result<(), Error> {
        match self.node(path, Need::Write) {
            Ok(_) => Ok(()),
            Err(Error::NotFound) => self.create(path, &[]),
            Err(error) => Err(error),
        }
    }

    /// Removes a node and all below it. Removing what is not there succeeds if its parent is.
    pub fn remove(&mut self, path: &str) -> Result<(), Error> {
        let parent = path::parent(path);
        match (self.node(path, Need::Write), parent) {
            (Ok(found), Some(parent)) => self.remove_subtree(path, found, parent),
            (Ok(_), None) => Err(Error::Invalid),
            (Err(Error::NotFound), Some(parent)) => {
                let (nearest, _) = self.nearest(parent)?;
                if nearest.len() == parent.len() {
                    Ok(())
                } else {
                    Err(Error::NotFound)
                }
            }
            (Err(error), _) => Err(error),
        }
    }

    fn remove_subtree(&mut self, path: &str, node: Found, parent: &str) -> Result<(), Error> {
        let (_, above) = self.nearest(parent)?;
        let mut orphaned = above.node.clone();
        orphaned.disown(path::name(path));
        self.pay(self.price(parent, Some(&above.node), Some(&orphaned)))?;
        let mut doomed = alloc::vec![(path.to_string(), node, Scope::NodeAndAbove)];
        let mut next = 0;
        while let Some((top, node, scope)) = doomed.get(next) {
            let children = self.children(top, node);
            let price = self.price(top, Some(&node.node), None) + self.price_of_note(top, *scope);
            self.pay(price)?;
            for (name, place) in children {
                let path = path::child(&doomed[next].0, &name);
                if let Some(child) = self.look_at(&path, place)? {
                    doomed.push((path, child, Scope::NodeOnly));
                }
            }
            next += 1;
        }
        let mut places = Vec::new();
        for (victim, found, scope) in doomed {
            if let Some(transaction) = &mut self.transaction {
                transaction.replace(victim.clone(), Some(found.node.owner()), None);
            } else {
                places.extend(found.place);
            }
            self.changed(victim, found.place, scope, None);
        }
        for place in places.into_iter().rev() {
            self.tree.remove(place);
        }
        self.update(parent, &above, orphaned);
        Ok(())
    }

    /// Replaces the access list; only the owner may, and only dom0 may change the owner.
    pub fn set_permissions(&mut self, path: &str, permissions: Acl) -> Result<(), Error> {
        let found = self.node(path, Need::Own)?;
        let owner = permissions.first().ok_or(Error::Invalid)?.domain;
        if !self.is_privileged() && owner != found.node.owner() {
            return Err(Error::NotPermitted);
        }
        let node = Node {
            permissions,
            ..found.node.clone()
        };
        self.change(path, &found, node, Some(&found.node.permissions))
    }

    /// Puts a changed node in place of one, and takes note; who may see it by `before` may learn of it, too.
    fn change(&mut self, path: &str, found: &Found, node: Node, before: Option<&Acl>) -> Result<(), Error> {
        self.fits(node.size())?;
        let scope = Scope::NodeAndAbove;
        let price = self.price(path, Some(&found.node), Some(&node)) + self.price_of_note(path, scope);
        self.pay(price)?;
        self.update(path, found, node);
        self.changed(path.to_string(), found.place, scope, before);
        Ok(())
    }

    fn is_privileged(&self) -> bool {
        self.who.contains(&DOM0)
    }

    /// Checks that a node may become so large.
    fn fits(&self, size: usize) -> Result<(), Error> {
        if !self.is_privileged() && size >= quota::NODE {
            return Err(Error::NoSpace);
        }
        Ok(())
    }

    /// Checks that the client may take so many bytes more, before it does.
    fn pay(&mut self, bytes: usize) -> Result<(), Error> {
        if !self.is_privileged() {
            self.memory = self.memory.checked_sub(bytes).ok_or(Error::NoMemory)?;
        }
        Ok(())
    }

    /// Memory that it takes to put a node, or none, in place of one or none.
    fn price(&self, path: &str, before: Option<&Node>, after: Option<&Node>) -> usize {
        if let Some(transaction) = &self.transaction {
            return transaction.price_of_replacing(path, after);
        }
        let cost = |node: Option<&Node>| node.map_or(0, |node| node.cost(path::name(path)));
        cost(after).saturating_sub(cost(before))
    }

    /// Memory that it takes to note a change.
    fn price_of_note(&self, path: &str, scope: Scope) -> usize {
        let transaction = self.transaction.as_ref();
        transaction.map_or(0, |transaction| transaction.price_of_note(path, scope))
    }

    /// The node at a path or at the nearest above it that is there, and its path. All these are remembered as something
    /// that the transaction depends on.
    fn nearest<'p>(&mut self, path: &'p str) -> Result<(&'p str, Found), Error> {
        let (committed, mut place) = self.tree.nodes().nearest(path);
        let mut at = path;
        loop {
            let is_committed = at.len() <= committed.len();
            if let Some(node) = self.look_at(at, is_committed.then_some(place))? {
                return Ok((at, node));
            }
            // Nothing removes the root.
            at = path::parent(at).unwrap_or("/");
            if is_committed {
                place = self.tree.nodes().parent(place).unwrap_or(ROOT);
            }
        }
    }

    /// The node at a path, of which the committed one is at `place`; remembered as something that the transaction
    /// depends on.
    fn look_at(&mut self, path: &str, place: Option<Place>) -> Result<Option<Found>, Error> {
        if let Some(transaction) = &self.transaction
            && !transaction.knows(path)
        {
            if !self.is_privileged() && transaction.footprint() >= quota::TRANSACTION_NODES {
                return Err(Error::NoSpace);
            }
            self.pay(key_cost(path))?;
        }
        let committed = place.map(|place| &self.tree.nodes()[place]);
        let mut node = committed.cloned();
        if let Some(transaction) = &mut self.transaction {
            match transaction.draft(path) {
                Some(draft) => node = draft.clone(),
                None => transaction.look_at(path, committed.map(|node| node.generation)),
            }
        }
        Ok(node.map(|node| Found { node, place }))
    }

    /// Creates a node and its missing parents, and takes note. The caller has the right to write to the nearest ancestor.
    fn create(&mut self, path: &str, value: &[u8]) -> Result<(), Error> {
        let (top, ancestor) = self.nearest(path)?;
        let mut missing = alloc::vec![path];
        while let Some(parent) = missing.last().and_then(|at| path::parent(at))
            && parent.len() > top.len()
        {
            missing.push(parent);
        }
        let mut permissions = ancestor.node.permissions.clone();
        let mut above = ancestor.node.clone();
        above.adopt(missing.last().map_or("", |first| path::name(first)));
        // Unprivileged domains own what they create; what dom0 creates belongs to the parent's owner.
        if !self.is_privileged()
            && let Some(&me) = self.who.first()
        {
            let mut list = permissions.to_vec();
            if let Some(first) = list.first_mut() {
                first.domain = me;
            }
            permissions = list.into();
            if self.owned(me).saturating_add(missing.len()) > quota::NODES {
                return Err(Error::NoSpace);
            }
        }
        self.fits(above.size())?;
        let scope = Scope::NodeAndAbove;
        self.pay(self.price(top, Some(&ancestor.node), Some(&above)) + self.price_of_note(path, scope))?;
        let mut nodes = Vec::with_capacity(missing.len());
        let mut child = None;
        for at in missing {
            let mut node = Node::new(if child.is_none() { value } else { &[] }, permissions.clone());
            if let Some(child) = child {
                node.adopt(path::name(child));
            }
            self.fits(node.size())?;
            self.pay(self.price(at, None, Some(&node)))?;
            nodes.push((at, node));
            child = Some(at);
        }
        self.update(top, &ancestor, above);
        let mut place = ancestor.place;
        for (at, mut node) in nodes.into_iter().rev() {
            match (&mut self.transaction, place) {
                (Some(transaction), _) => {
                    node.generation = self.tree.next_generation();
                    transaction.replace(at.to_string(), None, Some(node));
                }
                (None, parent) => place = parent.map(|parent| self.tree.add(parent, path::name(at), node)),
            }
        }
        self.changed(path.to_string(), place, scope, None);
        Ok(())
    }

    fn owned(&self, domain: DomId) -> usize {
        let more = self
            .transaction
            .as_ref()
            .and_then(|transaction| transaction.owned.get(&domain))
            .copied()
            .unwrap_or(0);
        self.tree.holding(domain).nodes.saturating_add_signed(more)
    }

    /// Puts a node in place of one that is there.
    fn update(&mut self, path: &str, found: &Found, mut node: Node) {
        match (&mut self.transaction, found.place) {
            (Some(transaction), _) => {
                node.generation = self.tree.next_generation();
                transaction.replace(path.to_string(), Some(found.node.owner()), Some(node));
            }
            (None, Some(place)) => self.tree.update(place, |there| *there = node),
            (None, None) => {}
        }
    }

    /// Takes note of a change. Outside a transaction, who sees it now may learn of it, and who may by `before`.
    fn changed(&mut self, path: String, place: Option<Place>, scope: Scope, before: Option<&Acl>) {
        if let Some(transaction) = &mut self.transaction {
            return transaction.note(path, scope);
        }
        let mut audience: Vec<_> = before.cloned().into_iter().collect();
        audience.extend(place.into_iter().flat_map(|place| self.tree.audience(place)));
        self.changes.push(Change {
            path,
            scope,
            audience,
        });
    }
}
