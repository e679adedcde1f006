//! The committed nodes.
//!
//! The generation of a node is the value of a global counter at its last change (value, permissions or list of
//! children).

use alloc::rc::Rc;
use alloc::vec::Vec;

use super::perms::{Acl, Permission};
use super::places::{self, Place, Places, ROOT};
use super::transaction::Transaction;
use super::view::{Change, View};
use super::{DOM0, DomId, Error, path, quota};
use crate::numbered::Numbered;

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

    /// Memory that it takes under a name, about.
    pub fn cost(&self, name: &str) -> usize {
        let permissions = self.permissions.len() * size_of::<Permission>();
        places::COST + name.len() + self.value.len() + permissions
    }

    /// Counts a child's name.
    pub fn adopt(&mut self, name: &str) {
        self.names_size += name.len() + 1;
    }

    /// Counts a child's name no more.
    pub fn disown(&mut self, name: &str) {
        // A transaction may see a child that was made since it saw the parent; such a one is not committed.
        self.names_size = self.names_size.saturating_sub(name.len() + 1);
    }
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
    nodes: Places<Node>,
    generation: u64,
    owned: Numbered<Holding>,
}

impl Tree {
    /// A tree with only its root, readable by all.
    pub fn new() -> Self {
        let everyone = Permission {
            domain: DOM0,
            read: true,
            write: false,
        };
        let root = Node {
            generation: 1,
            ..Node::new(&[], Rc::new([everyone]))
        };
        let mut owned = Numbered::default();
        add(&mut owned, DOM0, root.cost(""));
        Self {
            nodes: Places::new(root),
            generation: 1,
            owned,
        }
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

    /// The committed nodes and where they are.
    pub fn nodes(&self) -> &Places<Node> {
        &self.nodes
    }

    /// What a domain owns.
    pub fn holding(&self, domain: DomId) -> Holding {
        self.owned.get(domain.into()).copied().unwrap_or_default()
    }

    /// Commits a transaction and returns what changed.
    ///
    /// # Errors
    /// `Again` if a node it depends on has changed since; `NoSpace` if a quota would be exceeded by now.
    pub fn commit(&mut self, transaction: Transaction) -> Result<Vec<Change>, Error> {
        let mut from = ("/", ROOT);
        for (path, seen) in &transaction.seen {
            from = self.nodes.nearest_from(from, path);
            let there = from.0.len() == path.len();
            if there.then(|| self.nodes[from.1].generation) != *seen {
                return Err(Error::Again);
            }
        }
        let over = |(&domain, &more): (&DomId, &isize)| {
            let held = self.holding(domain).nodes;
            domain != DOM0 && more > 0 && held.saturating_add_signed(more) > quota::NODES
        };
        if transaction.owned.iter().any(over) {
            return Err(Error::NoSpace);
        }
        let mut changes = transaction.changes();
        self.let_know(&mut changes);
        self.apply(&transaction);
        self.let_know(&mut changes);
        Ok(changes)
    }

    /// Makes the changes of a transaction, with which the nodes agree.
    fn apply(&mut self, transaction: &Transaction) {
        let mut from = ("/", ROOT);
        // What is below goes before what is above, and comes after it.
        for (path, _) in transaction
            .overlay
            .iter()
            .rev()
            .filter(|(_, node)| node.is_none())
        {
            from = self.nodes.nearest_from(from, path);
            if let (found, place) = from
                && found.len() == path.len()
                && let (Some(above), Some(parent)) = (path::parent(path), self.nodes.parent(place))
            {
                self.remove(place);
                from = (above, parent);
            }
        }
        for (path, node) in &transaction.overlay {
            let Some(node) = node.clone() else { continue };
            let (found, place) = self.nodes.nearest_from(from, path);
            let place = if found.len() == path.len() {
                self.update(place, |there| *there = node);
                place
            } else {
                debug_assert_eq!(Some(found), path::parent(path));
                self.add(place, path::name(path), node)
            };
            from = (path, place);
        }
    }

    /// Adds those who may see a node or its parent now to those who may learn of its change.
    fn let_know(&self, changes: &mut [Change]) {
        let mut from = ("/", ROOT);
        for Change { path, audience, .. } in changes {
            from = self.nodes.nearest_from(from, path);
            let (found, place) = from;
            if found.len() == path.len() {
                audience.extend(self.audience(place));
            } else if Some(found) == path::parent(path) {
                audience.push(self.nodes[place].permissions.clone());
            }
        }
    }

    /// The access lists of a node and its parent.
    pub fn audience(&self, place: Place) -> impl Iterator<Item = Acl> {
        let both = [Some(place), self.nodes.parent(place)];
        both.into_iter()
            .flatten()
            .map(|at| self.nodes[at].permissions.clone())
    }

    /// The topmost nodes owned by `domain`, without the root: others that it owns are below these. Places only, as its
    /// paths may take more memory than it ever did.
    pub fn owned_by(&self, domain: DomId) -> Vec<Place> {
        let is_owned = |place: &Place| *place != ROOT && self.nodes[*place].owner() == domain;
        self.nodes.walk(is_owned).filter(is_owned).collect()
    }

    /// Takes a domain off every access list: the next one of its number inherits nothing.
    pub fn strike(&mut self, domain: DomId) {
        let is_on = |place: &Place| {
            let mut others = self.nodes[*place].permissions.iter().skip(1);
            others.any(|entry| entry.domain == domain)
        };
        let places: Vec<_> = self.nodes.walk(|_| false).filter(is_on).collect();
        for place in places {
            self.update(place, |node| {
                let keep = |(index, entry): &(usize, &Permission)| *index == 0 || entry.domain != domain;
                let kept = node.permissions.iter().enumerate().filter(keep);
                node.permissions = kept.map(|(_, entry)| *entry).collect();
            });
        }
    }

    /// A generation that no node has had.
    pub fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    /// Changes a node.
    pub fn update(&mut self, place: Place, change: impl FnOnce(&mut Node)) {
        self.discount(place);
        let generation = self.next_generation();
        let node = &mut self.nodes[place];
        change(node);
        node.generation = generation;
        self.count(place);
    }

    /// Puts a node below a place that has none of this name. The parent's count of names is the caller's matter.
    pub fn add(&mut self, parent: Place, name: &str, mut node: Node) -> Place {
        node.generation = self.next_generation();
        let place = self.nodes.add(parent, name, node);
        self.count(place);
        place
    }

    /// Removes a node, which has no children. The parent's count of names is the caller's matter.
    pub fn remove(&mut self, place: Place) {
        self.discount(place);
        self.nodes.remove(place);
    }

    /// Counts a node as its owner's.
    fn count(&mut self, place: Place) {
        let node = &self.nodes[place];
        add(&mut self.owned, node.owner(), node.cost(self.nodes.name(place)));
    }

    /// Counts a node as its owner's no more.
    fn discount(&mut self, place: Place) {
        let node = &self.nodes[place];
        let owner = node.owner().into();
        let holding = self.owned.get_or_default(owner);
        holding.nodes -= 1;
        holding.memory -= node.cost(self.nodes.name(place));
        if holding.nodes == 0 {
            self.owned.remove(owner);
        }
    }

    /// Whether the sizes of children's names, and what domains own, agree with the nodes.
    pub fn is_consistent(&self) -> bool {
        let mut owned = Numbered::default();
        for place in self.nodes.walk(|_| false) {
            let node = &self.nodes[place];
            add(&mut owned, node.owner(), node.cost(self.nodes.name(place)));
            let names: usize = self.nodes.children(place).map(|(name, _)| name.len() + 1).sum();
            if names != node.names_size || self.nodes.find(&self.nodes.path(place)) != Some(place) {
                return false;
            }
        }
        owned == self.owned
    }
}

fn add(owned: &mut Numbered<Holding>, domain: DomId, memory: usize) {
    let holding = owned.get_or_default(domain.into());
    holding.nodes += 1;
    holding.memory += memory;
}
