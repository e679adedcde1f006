//! Something for each of many paths, as a tree of names. A path is walked name by name: what that takes depends on the
//! path, and hardly on how much there is elsewhere.
//!
//! Children are sorted, which names that somebody chose to collide cannot slow down. Nothing here recurses: paths may be a
//! thousand names long.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::{Index, IndexMut};

use super::path;

/// Where something is, until it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u32);

/// A tree with a `T` at each place.
#[derive(Clone, Debug)]
pub struct Places<T> {
    slots: Vec<Option<Slot<T>>>,
    free: Vec<Place>,
}

#[derive(Clone, Debug)]
struct Slot<T> {
    content: T,
    parent: Place,
    name: Rc<str>,
    /// Sorted by name.
    children: Vec<Child>,
}

#[derive(Clone, Debug)]
struct Child {
    /// As [`head`] has it: names are mostly no longer, and compared in an instruction.
    head: u64,
    name: Rc<str>,
    place: Place,
}

/// The first eight bytes of a name as a number; such numbers come in the order of the names, as far as these differ.
fn head(name: &str) -> u64 {
    let mut first = [0; 8];
    let length = name.len().min(first.len());
    first[..length].copy_from_slice(&name.as_bytes()[..length]);
    u64::from_be_bytes(first)
}

impl<T> Slot<T> {
    /// The index of a child, or where it would be.
    fn index_of(&self, name: &str) -> Result<usize, usize> {
        let head = head(name);
        self.children.binary_search_by(|child| {
            let order = child.head.cmp(&head);
            order.then_with(|| (*child.name).cmp(name))
        })
    }
}

/// Bytes that a place takes beside its name and its content, about: the slot, which may be one of twice as many, the name's
/// header, and a list of children with room for three more.
pub const COST: usize = 384;

/// Gives back what a list has taken for more than it has by now, after a removal: each element accounts for the room of
/// four at most.
pub fn trim<T>(list: &mut Vec<T>) {
    if list.len() * 4 <= list.capacity() {
        list.shrink_to(list.len() * 2);
    }
}

/// The path `/`, which is always there.
pub const ROOT: Place = Place(0);

impl<T> Places<T> {
    /// A tree with only its root.
    pub fn new(root: T) -> Self {
        let slot = Slot {
            content: root,
            parent: ROOT,
            name: "".into(),
            children: Vec::new(),
        };
        Self {
            slots: alloc::vec![Some(slot)],
            free: Vec::new(),
        }
    }

    fn slot(&self, place: Place) -> &Slot<T> {
        self.slots[place.0 as usize]
            .as_ref()
            .expect("a place that was removed")
    }

    fn slot_mut(&mut self, place: Place) -> &mut Slot<T> {
        self.slots[place.0 as usize]
            .as_mut()
            .expect("a place that was removed")
    }

    /// The longest part of an absolute path that is there, and where.
    pub fn nearest<'p>(&self, path: &'p str) -> (&'p str, Place) {
        self.nearest_from(("/", ROOT), path)
    }

    /// As [`Places::nearest`], starting where another path was found: what is near takes less, however long the paths.
    pub fn nearest_from<'p>(&self, from: (&str, Place), path: &'p str) -> (&'p str, Place) {
        let (mut top, mut at) = from;
        while !path::is_within(path, top) {
            top = path::parent(top).unwrap_or("/");
            at = self.slot(at).parent;
        }
        let mut length = if at == ROOT { 0 } else { top.len() };
        for name in path::names(&path[length..]) {
            let slot = self.slot(at);
            let Ok(index) = slot.index_of(name) else {
                break;
            };
            at = slot.children[index].place;
            length += 1 + name.len();
        }
        (if at == ROOT { "/" } else { &path[..length] }, at)
    }

    /// Where a path is.
    pub fn find(&self, path: &str) -> Option<Place> {
        let (found, place) = self.nearest(path);
        (found.len() == path.len()).then_some(place)
    }

    /// The place above; `None` for the root.
    pub fn parent(&self, place: Place) -> Option<Place> {
        (place != ROOT).then(|| self.slot(place).parent)
    }

    /// The places right below, by name.
    pub fn children(&self, place: Place) -> impl DoubleEndedIterator<Item = (&Rc<str>, Place)> {
        let children = self.slot(place).children.iter();
        children.map(|child| (&child.name, child.place))
    }

    /// Puts something below a place that has nothing of this name yet.
    pub fn add(&mut self, parent: Place, name: &str, content: T) -> Place {
        let name: Rc<str> = name.into();
        let slot = Slot {
            content,
            parent,
            name: name.clone(),
            children: Vec::new(),
        };
        let place = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            Place(self.slots.len() as u32 - 1)
        });
        self.slots[place.0 as usize] = Some(slot);
        let head = head(&name);
        let above = self.slot_mut(parent);
        match above.index_of(&name) {
            Ok(_) => debug_assert!(false, "there is such a child"),
            Err(index) => above.children.insert(index, Child { head, name, place }),
        }
        place
    }

    /// Removes a place that has nothing below and is not the root.
    pub fn remove(&mut self, place: Place) {
        debug_assert!(place != ROOT && self.slot(place).children.is_empty());
        if let Some(slot) = self.slots[place.0 as usize].take() {
            let above = self.slot_mut(slot.parent);
            if let Ok(index) = above.index_of(&slot.name) {
                above.children.remove(index);
                trim(&mut above.children);
            }
            self.free.push(place);
        }
    }

    /// A place's own name; empty for the root.
    pub fn name(&self, place: Place) -> &str {
        &self.slot(place).name
    }

    /// The path of a place.
    pub fn path(&self, place: Place) -> String {
        let mut names = Vec::new();
        let mut at = place;
        while let Some(parent) = self.parent(at) {
            names.push(self.name(at));
            at = parent;
        }
        let mut path = String::from(if names.is_empty() { "/" } else { "" });
        for name in names.iter().rev() {
            path.push('/');
            path.push_str(name);
        }
        path
    }

    /// All places, those above before those below; nothing below those that are `last`.
    pub fn walk(&self, last: impl Fn(&Place) -> bool) -> impl Iterator<Item = Place> {
        let mut waiting = alloc::vec![ROOT];
        core::iter::from_fn(move || {
            let place = waiting.pop()?;
            if !last(&place) {
                waiting.extend(self.children(place).rev().map(|(_, child)| child));
            }
            Some(place)
        })
    }
}

impl<T> Index<Place> for Places<T> {
    type Output = T;

    fn index(&self, place: Place) -> &T {
        &self.slot(place).content
    }
}

impl<T> IndexMut<Place> for Places<T> {
    fn index_mut(&mut self, place: Place) -> &mut T {
        &mut self.slot_mut(place).content
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::*;

    #[test]
    fn walks_from_above() {
        let mut places = Places::new(());
        let a = places.add(ROOT, "a", ());
        let b = places.add(ROOT, "b", ());
        let c = places.add(a, "c", ());
        let paths = |last: Option<Place>| {
            let walk = places.walk(move |place| Some(*place) == last);
            walk.map(|place| places.path(place)).collect::<Vec<_>>()
        };
        assert_eq!(paths(None), ["/", "/a", "/a/c", "/b"]);
        assert_eq!(paths(Some(a)), ["/", "/a", "/b"]);
        assert_eq!(
            (places.name(ROOT), places.name(b), places.name(c)),
            ("", "b", "c")
        );
    }

    /// A place with much less below it than there was, or nothing, holds no memory that nobody accounts for.
    #[test]
    fn lists_of_children_shrink() {
        let mut places = Places::new(());
        let top = places.add(ROOT, "top", ());
        let children: Vec<_> = (0..1000)
            .map(|index| places.add(top, &format!("{index}"), ()))
            .collect();
        for (removed, child) in children.into_iter().enumerate() {
            let room = places.slot(top).children.capacity();
            assert!(room <= 4 * (1000 - removed), "{room} for {}", 1000 - removed);
            places.remove(child);
        }
        assert_eq!(places.slot(top).children.capacity(), 0);
    }
}
