//! Transactions: an overlay of changed nodes plus the generation of every node looked at. One commits if none of those
//! has changed since.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::DomId;
use super::tree::{Node, Tree};
use super::view::{Change, Scope};

/// What an entry of a map costs beside its key, roughly.
const ENTRY: usize = 64;

/// Uncommitted changes.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    pub(super) overlay: BTreeMap<String, Option<Node>>,
    pub(super) seen: BTreeMap<String, Option<u64>>,
    /// What watches are to be told of, in the order in which it first happened.
    changed: BTreeMap<(String, Scope), usize>,
    /// Nodes created minus removed, by owner.
    pub(super) owned: BTreeMap<DomId, isize>,
    memory: usize,
}

impl Transaction {
    /// Number of nodes looked at.
    pub fn footprint(&self) -> usize {
        self.seen.len()
    }

    /// Memory that it takes, about.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// The node at a path as the transaction sees it.
    pub fn get<'a>(&'a self, tree: &'a Tree, path: &str) -> Option<&'a Node> {
        match self.overlay.get(path) {
            Some(node) => node.as_ref(),
            None => tree.get(path),
        }
    }

    /// Takes note that the transaction depends on a node.
    pub fn look_at(&mut self, tree: &Tree, path: &str) {
        if !self.overlay.contains_key(path) && !self.seen.contains_key(path) {
            let generation = tree.get(path).map(|node| node.generation);
            self.seen.insert(path.to_string(), generation);
            self.memory += path.len() + ENTRY;
        }
    }

    /// Puts or removes a node.
    pub fn replace(&mut self, tree: &Tree, path: String, node: Option<Node>) {
        if let Some(before) = self.get(tree, &path) {
            let owner = before.owner();
            *self.owned.entry(owner).or_default() -= 1;
        }
        if let Some(node) = &node {
            *self.owned.entry(node.owner()).or_default() += 1;
        }
        let cost = |node: &Option<Node>| node.as_ref().map_or(0, |node| node.cost(&path) + node.names_size);
        let before = self
            .overlay
            .get(&path)
            .map_or(0, |before| cost(before) + path.len() + ENTRY);
        self.memory = self.memory - before + cost(&node) + path.len() + ENTRY;
        self.overlay.insert(path, node);
    }

    /// Takes note of a change.
    pub fn note(&mut self, path: &str, scope: Scope) {
        let order = self.changed.len();
        self.changed.entry((path.to_string(), scope)).or_insert_with(|| {
            self.memory += path.len() + ENTRY;
            order
        });
    }

    /// The changes in order, without those who may learn of them.
    pub(super) fn changes(&self) -> Vec<Change> {
        let mut ordered: Vec<_> = self.changed.iter().collect();
        ordered.sort_by_key(|(_, order)| **order);
        let change = |((path, scope), _): (&(String, Scope), &usize)| Change {
            path: path.clone(),
            scope: *scope,
            audience: Vec::new(),
        };
        ordered.into_iter().map(change).collect()
    }
}
