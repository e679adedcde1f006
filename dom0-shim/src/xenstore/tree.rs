//! The committed nodes.
//!
//! The generation of a node is the value of a global counter at its last change (value, permissions or list of
//! children).

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::path;
use super::perms::{Acl, Permission};
use super::transaction::Transaction;
use super::view::{Change, View};
use super::{DOM0, DomId, Error, quota};

/// What a node costs beside its texts, roughly.
const NODE_OVERHEAD: usize = 128;
/// Bytes of a node's record in xenstored beside permissions, value and names; the quota of a node's size counts so.
const RECORD_HEADER: usize = 20;
/// Bytes of a permission in such a record.
const RECORD_PERMISSION: usize = 8;

/// One node. Copies share their parts until one of them changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Any bytes.
    pub value: Rc<[u8]>,
    /// Never empty.
    pub permissions: Acl,
    /// Names of the children.
    pub children: Rc<BTreeSet<String>>,
    /// Bytes of the children's names, each with its NUL.
    pub names_size: usize,
    /// Counter value of the last change.
    pub generation: u64,
}

impl Node {
    /// A node without children.
    pub fn new(value: &[u8], permissions: Acl) -> Self {
        Self {
            value: value.into(),
            permissions,
            children: Rc::default(),
            names_size: 0,
            generation: 0,
        }
    }

    /// Whose node it is.
    pub fn owner(&self) -> DomId {
        self.permissions.first().map_or(DOM0, |first| first.domain)
    }

    /// Its size as [`quota::NODE`] counts.
    pub fn size(&self) -> usize {
        RECORD_HEADER + RECORD_PERMISSION * self.permissions.len() + self.value.len() + self.names_size
    }

    /// Memory that it takes, about.
    pub fn cost(&self, path: &str) -> usize {
        cost(path, self.value.len(), self.permissions.len())
    }

    /// Adds a child.
    pub fn adopt(&mut self, name: &str) {
        if Rc::make_mut(&mut self.children).insert(name.to_string()) {
            self.names_size += name.len() + 1;
        }
    }

    /// Takes a child away.
    pub fn disown(&mut self, name: &str) {
        if Rc::make_mut(&mut self.children).remove(name) {
            self.names_size -= name.len() + 1;
        }
    }
}

/// Memory that a node takes, about: its path, and its name in the parent's list.
pub fn cost(path: &str, value: usize, permissions: usize) -> usize {
    NODE_OVERHEAD + path.len() + path::name(path).len() + value + permissions * size_of::<Permission>()
}

/// What a domain owns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// Nodes.
    pub nodes: usize,
    /// Memory that they take.
    pub memory: usize,
}

/// All nodes, without those of transactions.
#[derive(Clone, Debug)]
pub struct Tree {
    nodes: BTreeMap<String, Node>,
    generation: u64,
    owned: BTreeMap<DomId, Holding>,
}

impl Tree {
    /// A tree with only its root, readable by all.
    pub fn new() -> Self {
        let everyone = Permission {
            domain: DOM0,
            read: true,
            write: false,
        };
        let mut tree = Self {
            nodes: BTreeMap::new(),
            generation: 0,
            owned: BTreeMap::new(),
        };
        tree.replace("/".to_string(), Some(Node::new(&[], Rc::new([everyone]))));
        tree
    }

    /// A view on behalf of `who`, who may take so much more memory; changes take effect at once, or in a transaction
    /// when there is one.
    pub fn view<'a>(
        &'a mut self,
        transaction: Option<&'a mut Transaction>,
        who: &'a [DomId],
        memory: usize,
    ) -> View<'a> {
        View::new(self, transaction, who, memory)
    }

    /// The committed node at a path.
    pub fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// What a domain owns.
    pub fn holding(&self, domain: DomId) -> Holding {
        self.owned.get(&domain).copied().unwrap_or_default()
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
            let held = self.holding(domain).nodes;
            domain != DOM0 && more > 0 && held.saturating_add_signed(more) > quota::NODES
        };
        if transaction.owned.iter().any(over) {
            return Err(Error::NoSpace);
        }
        let mut changes = transaction.changes();
        for change in &mut changes {
            self.let_know(change);
        }
        for (path, node) in transaction.overlay {
            self.replace(path, node);
        }
        for change in &mut changes {
            self.let_know(change);
        }
        Ok(changes)
    }

    /// Adds those who may see the node or its parent now to those who may learn of a change.
    pub fn let_know(&self, change: &mut Change) {
        let parent = path::parent(&change.path);
        for at in [Some(change.path.as_str()), parent].into_iter().flatten() {
            change
                .audience
                .extend(self.nodes.get(at).map(|node| node.permissions.clone()));
        }
    }

    /// Every node owned by `domain`, parents before children.
    pub fn owned_by(&self, domain: DomId) -> Vec<String> {
        self.nodes
            .iter()
            .filter(|(_, node)| node.owner() == domain)
            .map(|(path, _)| path.clone())
            .collect()
    }

    /// Takes a domain off every access list: the next one of its number inherits nothing.
    pub fn strike(&mut self, domain: DomId) {
        let listed = |node: &Node| {
            node.permissions
                .iter()
                .skip(1)
                .any(|entry| entry.domain == domain)
        };
        let nodes = self.nodes.iter().filter(|(_, node)| listed(node));
        let paths: Vec<String> = nodes.map(|(path, _)| path.clone()).collect();
        for path in paths {
            self.update(&path, |node| {
                let keep = |(index, entry): &(usize, &Permission)| *index == 0 || entry.domain != domain;
                let kept = node.permissions.iter().enumerate().filter(keep);
                node.permissions = kept.map(|(_, entry)| *entry).collect();
            });
        }
    }

    /// Changes a node that is there.
    pub fn update(&mut self, path: &str, change: impl FnOnce(&mut Node)) {
        let Some(node) = self.nodes.get_mut(path) else {
            return;
        };
        discount(&mut self.owned, node.owner(), node.cost(path));
        change(node);
        self.generation += 1;
        node.generation = self.generation;
        add(&mut self.owned, node.owner(), node.cost(path));
    }

    /// Puts or removes a node.
    pub fn replace(&mut self, path: String, node: Option<Node>) {
        self.generation += 1;
        if let Some(old) = self.nodes.get(&path) {
            discount(&mut self.owned, old.owner(), old.cost(&path));
        }
        match node {
            Some(mut node) => {
                node.generation = self.generation;
                add(&mut self.owned, node.owner(), node.cost(&path));
                self.nodes.insert(path, node);
            }
            None => {
                self.nodes.remove(&path);
            }
        }
    }

    /// Whether the lists of children, and what domains own, agree with the nodes.
    pub fn is_consistent(&self) -> bool {
        let mut owned = BTreeMap::new();
        for (path, node) in &self.nodes {
            add(&mut owned, node.owner(), node.cost(path));
            let listed = path::parent(path).is_none_or(|parent| {
                self.get(parent)
                    .is_some_and(|parent| parent.children.contains(path::name(path)))
            });
            let names: usize = node.children.iter().map(|name| name.len() + 1).sum();
            let mut children = node.children.iter();
            if !listed
                || names != node.names_size
                || !children.all(|name| self.nodes.contains_key(&path::child(path, name)))
            {
                return false;
            }
        }
        owned == self.owned
    }
}

fn add(owned: &mut BTreeMap<DomId, Holding>, domain: DomId, memory: usize) {
    let holding = owned.entry(domain).or_default();
    holding.nodes += 1;
    holding.memory += memory;
}

fn discount(owned: &mut BTreeMap<DomId, Holding>, domain: DomId, memory: usize) {
    let holding = owned.entry(domain).or_default();
    holding.nodes -= 1;
    holding.memory -= memory;
    if holding.nodes == 0 {
        owned.remove(&domain);
    }
}
