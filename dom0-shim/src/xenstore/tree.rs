//! Nodes, and transactions over them.
//!
//! A transaction is an overlay of changed nodes plus the generation of every node it has looked at; it commits if
//! none of those has changed since. The generation of a node is the value of a global counter at its last change
//! (value, permissions or list of children).

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::path;
use super::perms::{Need, Permission, allows};
use super::{DOM0, DomId, Error, quota};

/// One node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Any bytes.
    pub value: Vec<u8>,
    /// Never empty.
    pub permissions: Vec<Permission>,
    /// Names of the children.
    pub children: BTreeSet<String>,
    /// Counter value of the last change.
    pub generation: u64,
}

impl Node {
    fn owner(&self) -> DomId {
        self.permissions.first().map_or(DOM0, |first| first.domain)
    }
}

/// A change that watches are told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What changed.
    pub path: String,
    /// Who is told: those who watch the node or something above it, or (nodes that vanish with the removed node
    /// above them) only those who watch exactly this one.
    pub scope: Scope,
    /// Access lists of the node and of its parent at that moment: who may learn of it.
    pub visible_to: [Vec<Permission>; 2],
}

/// Which watches a change concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The node's own watches and those above.
    NodeAndAbove,
    /// The node's own watches.
    NodeOnly,
}

/// The committed nodes.
#[derive(Clone, Debug)]
pub struct Tree {
    nodes: BTreeMap<String, Node>,
    generation: u64,
    owned: BTreeMap<DomId, usize>,
}

/// Uncommitted changes.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    overlay: BTreeMap<String, Option<Node>>,
    seen: BTreeMap<String, Option<u64>>,
    changes: Vec<Change>,
    /// Nodes created minus removed, by owner.
    owned: BTreeMap<DomId, isize>,
}

impl Transaction {
    /// Number of nodes looked at.
    pub fn footprint(&self) -> usize {
        self.seen.len()
    }
}

impl Tree {
    /// A tree with only its root, readable by all.
    pub fn new() -> Self {
        let permissions = alloc::vec![Permission {
            domain: DOM0,
            read: true,
            write: false
        }];
        let root = Node {
            value: Vec::new(),
            permissions,
            children: BTreeSet::new(),
            generation: 0,
        };
        Self {
            nodes: BTreeMap::from([("/".to_string(), root)]),
            generation: 0,
            owned: BTreeMap::from([(DOM0, 1)]),
        }
    }

    /// A view of the committed nodes on behalf of `who`; changes take effect at once.
    pub fn view<'a>(&'a mut self, who: &'a [DomId]) -> View<'a> {
        View {
            tree: self,
            transaction: None,
            changes: Vec::new(),
            who,
        }
    }

    /// A view through a transaction.
    pub fn view_in<'a>(&'a mut self, transaction: &'a mut Transaction, who: &'a [DomId]) -> View<'a> {
        View {
            tree: self,
            transaction: Some(transaction),
            changes: Vec::new(),
            who,
        }
    }

    /// Commits a transaction and returns what changed.
    ///
    /// # Errors
    /// `Again` if a node it depends on has changed since; `NoSpace` if a quota would be exceeded by now.
    pub fn commit(&mut self, transaction: Transaction) -> Result<Vec<Change>, Error> {
        let current = |path: &String| self.nodes.get(path).map(|node| node.generation);
        if transaction
            .seen
            .iter()
            .any(|(path, generation)| current(path) != *generation)
        {
            return Err(Error::Again);
        }
        let over = |(&domain, &more): (&DomId, &isize)| {
            let held = self.owned.get(&domain).copied().unwrap_or(0);
            domain != DOM0 && more > 0 && held.saturating_add_signed(more) > quota::NODES
        };
        if transaction.owned.iter().any(over) {
            return Err(Error::NoSpace);
        }
        for (path, node) in transaction.overlay {
            self.replace(path, node);
        }
        Ok(transaction.changes)
    }

    /// Every node owned by `domain`, parents before children.
    pub fn owned_by(&self, domain: DomId) -> Vec<String> {
        self.nodes
            .iter()
            .filter(|(_, node)| node.owner() == domain)
            .map(|(path, _)| path.clone())
            .collect()
    }

    /// Puts or removes a node, counting it for its owner.
    fn replace(&mut self, path: String, node: Option<Node>) {
        self.generation += 1;
        if let Some(old) = self.nodes.get(&path) {
            let owner = old.owner();
            let count = self.owned.entry(owner).or_default();
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.owned.remove(&owner);
            }
        }
        match node {
            Some(mut node) => {
                node.generation = self.generation;
                *self.owned.entry(node.owner()).or_default() += 1;
                self.nodes.insert(path, node);
            }
            None => {
                self.nodes.remove(&path);
            }
        }
    }
}

/// The tree as one client sees it during one request.
#[derive(Debug)]
pub struct View<'a> {
    tree: &'a mut Tree,
    transaction: Option<&'a mut Transaction>,
    changes: Vec<Change>,
    who: &'a [DomId],
}

impl View<'_> {
    /// Ends the view; returns the changes to tell watches of now (none inside a transaction).
    pub fn finish(self) -> Vec<Change> {
        match self.transaction {
            Some(transaction) => {
                transaction.changes.extend(self.changes);
                Vec::new()
            }
            None => self.changes,
        }
    }

    /// The node for a request with `need`.
    ///
    /// # Errors
    /// `Access`; `NotFound`, but only to those who could have read the nearest existing ancestor, so that
    /// nothing can be learned about hidden subtrees.
    pub fn node(&mut self, path: &str, need: Need) -> Result<&Node, Error> {
        let who = self.who;
        match self.lookup(path) {
            Some(node) if !allows(&node.permissions, who, need) => Err(Error::Access),
            Some(_) => self.peek(path).ok_or(Error::NotFound),
            None => Err(self.absent(path, need)),
        }
    }

    /// Writes a value, creating the node and missing parents.
    pub fn write(&mut self, path: &str, value: &[u8]) -> Result<(), Error> {
        if !self.is_privileged() && value.len() > quota::VALUE {
            return Err(Error::NoSpace);
        }
        match self.node(path, Need::Write) {
            Ok(node) => {
                let node = Node {
                    value: value.to_vec(),
                    ..node.clone()
                };
                self.put(path, node);
            }
            Err(Error::NotFound) => self.create(path, value)?,
            Err(error) => return Err(error),
        }
        self.changed(path, Scope::NodeAndAbove);
        Ok(())
    }

    /// Creates an empty node unless it exists.
    pub fn mkdir(&mut self, path: &str) -> Result<(), Error> {
        match self.node(path, Need::Write) {
            Ok(_) => Ok(()),
            Err(Error::NotFound) => {
                self.create(path, &[])?;
                self.changed(path, Scope::NodeAndAbove);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Removes a node and all below it. Removing what is not there succeeds if its parent is.
    pub fn remove(&mut self, path: &str) -> Result<(), Error> {
        let parent = path::parent(path).ok_or(Error::Invalid)?;
        match self.node(path, Need::Write) {
            Ok(_) => {}
            Err(Error::NotFound) => return self.lookup(parent).map(|_| ()).ok_or(Error::NotFound),
            Err(error) => return Err(error),
        }
        let mut doomed = alloc::vec![path.to_string()];
        let mut next = 0;
        while let Some(top) = doomed.get(next).cloned() {
            if let Some(node) = self.lookup(&top) {
                doomed.extend(node.children.iter().map(|name| path::child(&top, name)));
            }
            next += 1;
        }
        for victim in &doomed {
            self.changed(
                victim,
                if victim == path {
                    Scope::NodeAndAbove
                } else {
                    Scope::NodeOnly
                },
            );
        }
        for victim in doomed {
            self.store(victim, None);
        }
        if let Some(parent_node) = self.lookup(parent).cloned() {
            let mut parent_node = parent_node;
            parent_node.children.remove(path::name(path));
            self.put(parent, parent_node);
        }
        Ok(())
    }

    /// Replaces the access list; only the owner may, and only dom0 may change the owner.
    pub fn set_permissions(&mut self, path: &str, permissions: Vec<Permission>) -> Result<(), Error> {
        let privileged = self.is_privileged();
        let node = self.node(path, Need::Own)?;
        let owner = permissions.first().ok_or(Error::Invalid)?.domain;
        if !privileged && owner != node.owner() {
            return Err(Error::NotPermitted);
        }
        if !privileged && permissions.len() > quota::PERMISSIONS {
            return Err(Error::NoSpace);
        }
        let node = Node {
            permissions,
            ..node.clone()
        };
        // Both the old and the new audience may know.
        self.changed(path, Scope::NodeAndAbove);
        self.put(path, node);
        self.changed(path, Scope::NodeAndAbove);
        Ok(())
    }

    fn is_privileged(&self) -> bool {
        self.who.contains(&DOM0)
    }

    /// The node, remembered as something the transaction depends on.
    fn lookup(&mut self, path: &str) -> Option<&Node> {
        if let Some(transaction) = &mut self.transaction
            && !transaction.overlay.contains_key(path)
            && !transaction.seen.contains_key(path)
        {
            let generation = self.tree.nodes.get(path).map(|node| node.generation);
            transaction.seen.insert(path.to_string(), generation);
        }
        self.peek(path)
    }

    fn peek(&self, path: &str) -> Option<&Node> {
        match self
            .transaction
            .as_ref()
            .and_then(|transaction| transaction.overlay.get(path))
        {
            Some(node) => node.as_ref(),
            None => self.tree.nodes.get(path),
        }
    }

    /// Why an absent node cannot be had.
    fn absent(&mut self, path: &str, need: Need) -> Error {
        let who = self.who;
        let mut at = path;
        while let Some(parent) = path::parent(at) {
            if let Some(node) = self.lookup(parent) {
                return if allows(&node.permissions, who, need) {
                    Error::NotFound
                } else {
                    Error::Access
                };
            }
            at = parent;
        }
        Error::NotFound
    }

    /// Creates a node and its missing parents. The caller has the right to write to the nearest ancestor.
    fn create(&mut self, path: &str, value: &[u8]) -> Result<(), Error> {
        let mut missing = alloc::vec![path];
        let ancestor = loop {
            let at = missing
                .last()
                .and_then(|at| path::parent(at))
                .ok_or(Error::Invalid)?;
            match self.lookup(at) {
                Some(node) => break node.clone(),
                None => missing.push(at),
            }
        };
        let mut permissions = ancestor.permissions.clone();
        // Unprivileged domains own what they create; what dom0 creates belongs to the parent's owner.
        if !self.is_privileged()
            && let (Some(first), Some(&me)) = (permissions.first_mut(), self.who.first())
        {
            first.domain = me;
        }
        let owner = permissions.first().map_or(DOM0, |first| first.domain);
        if !self.is_privileged() && self.owned(owner).saturating_add(missing.len()) > quota::NODES {
            return Err(Error::NoSpace);
        }
        for at in missing.into_iter().rev() {
            let parent = path::parent(at).ok_or(Error::Invalid)?;
            let mut above = self.lookup(parent).cloned().ok_or(Error::NotFound)?;
            above.children.insert(path::name(at).to_string());
            self.put(parent, above);
            let value = if at == path { value.to_vec() } else { Vec::new() };
            let permissions = permissions.clone();
            self.put(
                at,
                Node {
                    value,
                    permissions,
                    children: BTreeSet::new(),
                    generation: 0,
                },
            );
        }
        Ok(())
    }

    fn owned(&self, domain: DomId) -> usize {
        let more = self
            .transaction
            .as_ref()
            .and_then(|t| t.owned.get(&domain))
            .copied()
            .unwrap_or(0);
        self.tree
            .owned
            .get(&domain)
            .copied()
            .unwrap_or(0)
            .saturating_add_signed(more)
    }

    fn put(&mut self, path: &str, node: Node) {
        self.store(path.to_string(), Some(node));
    }

    fn store(&mut self, path: String, node: Option<Node>) {
        let before = self.peek(&path).map(Node::owner);
        match &mut self.transaction {
            Some(transaction) => {
                if let Some(owner) = before {
                    *transaction.owned.entry(owner).or_default() -= 1;
                }
                if let Some(node) = &node {
                    *transaction.owned.entry(node.owner()).or_default() += 1;
                }
                transaction.overlay.insert(path, node);
            }
            None => self.tree.replace(path, node),
        }
    }

    fn changed(&mut self, path: &str, scope: Scope) {
        let list = |at: Option<&str>| {
            at.and_then(|at| self.peek(at))
                .map(|node| node.permissions.clone())
                .unwrap_or_default()
        };
        let visible_to = [list(Some(path)), list(path::parent(path))];
        self.changes.push(Change {
            path: path.to_string(),
            scope,
            visible_to,
        });
    }
}
