//! Transactions: an overlay of changed nodes plus the generation of every node looked at. One commits if none of those
//! has changed since.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Bound;

use super::tree::Node;
use super::view::{Change, Scope};
use super::{DomId, path};

/// What an entry of a map costs beside its key, roughly.
const ENTRY: usize = 64;

/// Memory of a map's entry for a path.
pub fn key_cost(path: &str) -> usize {
    path.len() + ENTRY
}

/// Memory of a changed node, or of the note that there is none.
fn draft_cost(path: &str, node: Option<&Node>) -> usize {
    key_cost(path) + node.map_or(0, |node| node.cost(path::name(path)))
}

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

    /// What the transaction has of a path, if it has changed it: the node, or that there is none.
    pub fn draft(&self, path: &str) -> Option<&Option<Node>> {
        self.overlay.get(path)
    }

    /// What the transaction has changed of the children of a path: their names, and whether they are there.
    pub fn children(&self, path: &str) -> Vec<(&str, bool)> {
        let top = path::child(path, "");
        let mut children = Vec::new();
        let mut next = Bound::Excluded(top.clone());
        loop {
            let bounds = (next.as_ref().map(String::as_str), Bound::Unbounded);
            let below = self.overlay.range::<str, _>(bounds).next();
            let Some((below, node)) = below.filter(|(below, _)| below.starts_with(&top)) else {
                return children;
            };
            let name = &below[top.len()..];
            next = match name.split_once('/') {
                None => {
                    children.push((name, node.is_some()));
                    Bound::Excluded(below.clone())
                }
                // What is further below comes before the character behind the slash.
                Some((name, _)) => Bound::Included(format!("{top}{name}0")),
            };
        }
    }

    /// Whether the transaction depends on a node already.
    pub fn knows(&self, path: &str) -> bool {
        self.overlay.contains_key(path) || self.seen.contains_key(path)
    }

    /// Takes note that the transaction depends on a node, which has this generation if it is there.
    pub fn look_at(&mut self, path: &str, generation: Option<u64>) {
        if !self.knows(path) {
            self.seen.insert(path.to_string(), generation);
            self.memory += key_cost(path);
        }
    }

    /// Memory that [`Transaction::replace`] would take.
    pub fn price_of_replacing(&self, path: &str, node: Option<&Node>) -> usize {
        draft_cost(path, node).saturating_sub(self.draft_size(path))
    }

    /// Memory that the draft of a path takes.
    fn draft_size(&self, path: &str) -> usize {
        let draft = self.overlay.get(path);
        draft.map_or(0, |draft| draft_cost(path, draft.as_ref()))
    }

    /// Puts or removes a node in place of one with this owner, if there is one.
    pub fn replace(&mut self, path: String, before: Option<DomId>, node: Option<Node>) {
        if let Some(owner) = before {
            *self.owned.entry(owner).or_default() -= 1;
        }
        if let Some(node) = &node {
            *self.owned.entry(node.owner()).or_default() += 1;
        }
        self.memory += draft_cost(&path, node.as_ref());
        self.memory -= self.draft_size(&path);
        self.overlay.insert(path, node);
    }

    /// Memory that [`Transaction::note`] would take.
    pub fn price_of_note(&self, path: &str, scope: Scope) -> usize {
        let is_noted = self.changed.contains_key(&(path.to_string(), scope));
        if is_noted { 0 } else { key_cost(path) }
    }

    /// Takes note of a change.
    pub fn note(&mut self, path: String, scope: Scope) {
        let order = self.changed.len();
        let cost = key_cost(&path);
        self.changed.entry((path, scope)).or_insert_with(|| {
            self.memory += cost;
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
