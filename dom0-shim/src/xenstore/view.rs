//! The tree as one client sees it during one request: permissions and quotas.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::perms::{Acl, Need, allows};
use super::transaction::Transaction;
use super::tree::{Node, Tree, cost};
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
    /// be learned about hidden subtrees.
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
        match self.node(path, Need::Write) {
            Ok(node) => {
                let size = node.size() - node.value.len() + value.len();
                let more = value.len().saturating_sub(node.value.len());
                self.afford(size, more)?;
                self.update(path, |node| node.value = value.into());
            }
            Err(Error::NotFound) => self.create(path, value)?,
            Err(error) => return Err(error),
        }
        self.changed(path, Scope::NodeAndAbove, &[]);
        Ok(())
    }

    /// Creates an empty node unless it exists.
    pub fn mkdir(&mut self, path: &str) -> Result<(), Error> {
        match self.node(path, Need::Write) {
            Ok(_) => Ok(()),
            Err(Error::NotFound) => {
                self.create(path, &[])?;
                self.changed(path, Scope::NodeAndAbove, &[]);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Removes a node and all below it. Removing what is not there succeeds if its parent is.
    pub fn remove(&mut self, path: &str) -> Result<(), Error> {
        let parent = path::parent(path);
        match (self.node(path, Need::Write), parent) {
            (Ok(_), Some(parent)) => self.remove_subtree(path, parent),
            (Ok(_), None) => return Err(Error::Invalid),
            (Err(Error::NotFound), Some(parent)) => {
                return self.lookup(parent).map(|_| ()).ok_or(Error::NotFound);
            }
            (Err(error), _) => return Err(error),
        }
        Ok(())
    }

    fn remove_subtree(&mut self, path: &str, parent: &str) {
        let mut doomed = alloc::vec![path.to_string()];
        let mut next = 0;
        while let Some(top) = doomed.get(next).cloned() {
            if let Some(node) = self.lookup(&top) {
                doomed.extend(node.children.iter().map(|name| path::child(&top, name)));
            }
            next += 1;
        }
        for (index, victim) in doomed.iter().enumerate() {
            let scope = if index == 0 {
                Scope::NodeAndAbove
            } else {
                Scope::NodeOnly
            };
            self.changed(victim, scope, &[]);
        }
        for victim in doomed {
            self.replace(victim, None);
        }
        self.lookup(parent);
        self.update(parent, |parent| parent.disown(path::name(path)));
    }

    /// Replaces the access list; only the owner may, and only dom0 may change the owner.
    pub fn set_permissions(&mut self, path: &str, permissions: Acl) -> Result<(), Error> {
        let privileged = self.is_privileged();
        let node = self.node(path, Need::Own)?;
        let owner = permissions.first().ok_or(Error::Invalid)?.domain;
        if !privileged && owner != node.owner() {
            return Err(Error::NotPermitted);
        }
        let before = node.permissions.clone();
        let changed = Node {
            permissions: permissions.clone(),
            ..node.clone()
        };
        let more = changed.cost(path).saturating_sub(node.cost(path));
        self.afford(changed.size(), more)?;
        self.update(path, |node| node.permissions = permissions);
        self.changed(path, Scope::NodeAndAbove, &[before]);
        Ok(())
    }

    fn is_privileged(&self) -> bool {
        self.who.contains(&DOM0)
    }

    /// Checks that a node may become so large, and that the client may take so many bytes more.
    fn afford(&mut self, size: usize, more: usize) -> Result<(), Error> {
        if self.is_privileged() {
            return Ok(());
        }
        if size >= quota::NODE {
            return Err(Error::NoSpace);
        }
        self.memory = self.memory.checked_sub(more).ok_or(Error::NoMemory)?;
        Ok(())
    }

    /// The node, remembered as something the transaction depends on.
    fn lookup(&mut self, path: &str) -> Option<&Node> {
        if let Some(transaction) = &mut self.transaction {
            transaction.look_at(self.tree, path);
        }
        self.peek(path)
    }

    fn peek(&self, path: &str) -> Option<&Node> {
        match &self.transaction {
            Some(transaction) => transaction.get(self.tree, path),
            None => self.tree.get(path),
        }
    }

    /// Why an absent node cannot be had.
    fn absent(&mut self, path: &str, need: Need) -> Error {
        let who = self.who;
        // Of a node that is not there, nobody is the owner: to write is enough to learn that.
        let need = if need == Need::Own { Need::Write } else { need };
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
        let (top, ancestor) = loop {
            let at = missing
                .last()
                .and_then(|at| path::parent(at))
                .ok_or(Error::Invalid)?;
            match self.lookup(at) {
                Some(node) => break (at, node),
                None => missing.push(at),
            }
        };
        let mut permissions = ancestor.permissions.clone();
        let names = |name: &str| name.len() + 1;
        let top_size = ancestor.size() + missing.last().map_or(0, |child| names(path::name(child)));
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
            self.afford(top_size, 0)?;
        }
        let mut nodes = Vec::with_capacity(missing.len());
        let mut child = None;
        for at in missing {
            let mut node = match child {
                None => Node::new(value, permissions.clone()),
                Some(_) => Node::new(&[], permissions.clone()),
            };
            if let Some(child) = child {
                node.adopt(path::name(child));
            }
            self.afford(node.size(), cost(at, node.value.len(), permissions.len()))?;
            nodes.push((at, node));
            child = Some(at);
        }
        for (at, node) in nodes {
            self.replace(at.to_string(), Some(node));
        }
        if let Some(child) = child {
            self.update(top, |ancestor| ancestor.adopt(path::name(child)));
        }
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

    /// Changes a node that is there.
    fn update(&mut self, path: &str, change: impl FnOnce(&mut Node)) {
        match &mut self.transaction {
            Some(transaction) => {
                if let Some(mut node) = transaction.get(self.tree, path).cloned() {
                    change(&mut node);
                    transaction.replace(self.tree, path.to_string(), Some(node));
                }
            }
            None => self.tree.update(path, change),
        }
    }

    fn replace(&mut self, path: String, node: Option<Node>) {
        match &mut self.transaction {
            Some(transaction) => transaction.replace(self.tree, path, node),
            None => self.tree.replace(path, node),
        }
    }

    /// Takes note of a change. Outside a transaction, who sees it now may learn of it, and who may by `before`.
    fn changed(&mut self, path: &str, scope: Scope, before: &[Acl]) {
        if let Some(transaction) = &mut self.transaction {
            return transaction.note(path, scope);
        }
        let mut change = Change {
            path: path.to_string(),
            scope,
            audience: before.to_vec(),
        };
        self.tree.let_know(&mut change);
        self.changes.push(change);
    }
}
