//! A map from numbers that are given out from 0 on: domains, ports, connections. To find one takes the same however many
//! there are.

use alloc::vec::Vec;

/// Numbers of a page.
const PAGE: usize = 64;

/// A map from numbers, in pages of those that are near each other. A number without an entry costs at most a part of a
/// page's place in the list of pages.
#[derive(Clone, Debug)]
pub struct Numbered<T> {
    pages: Vec<Page<T>>,
}

#[derive(Clone, Debug)]
struct Page<T> {
    /// None if the page is not used, else as many as a page has.
    entries: Vec<Option<T>>,
    used: usize,
}

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Self { pages: Vec::new() }
    }
}

/// Index of the page, and in it.
fn split(number: u32) -> (usize, usize) {
    (number as usize / PAGE, number as usize % PAGE)
}

impl<T> Numbered<T> {
    /// The entry of a number.
    pub fn get(&self, number: u32) -> Option<&T> {
        let (page, index) = split(number);
        self.pages.get(page)?.entries.get(index)?.as_ref()
    }

    /// The entry of a number.
    pub fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        let (page, index) = split(number);
        self.pages.get_mut(page)?.entries.get_mut(index)?.as_mut()
    }

    /// Whether a number has an entry.
    pub fn contains(&self, number: u32) -> bool {
        self.get(number).is_some()
    }

    /// The lowest number that has no entry.
    pub fn vacant(&self) -> u32 {
        let page = self.pages.iter().position(|page| page.used < PAGE);
        let page = page.unwrap_or(self.pages.len());
        let entries = self.pages.get(page).map_or(&[][..], |page| &page.entries);
        let index = entries.iter().position(Option::is_none).unwrap_or(0);
        (page * PAGE + index) as u32
    }

    /// The entry of a number, which has one from now on.
    pub fn get_or_default(&mut self, number: u32) -> &mut T
    where
        T: Default,
    {
        let slot = self.slot(number);
        slot.get_or_insert_default()
    }

    /// Gives a number an entry; the one that it had.
    pub fn insert(&mut self, number: u32, entry: T) -> Option<T> {
        self.slot(number).replace(entry)
    }

    /// The place of an entry that is going to be there.
    fn slot(&mut self, number: u32) -> &mut Option<T> {
        let (page, index) = split(number);
        if self.pages.len() <= page {
            self.pages.resize_with(page + 1, || Page {
                entries: Vec::new(),
                used: 0,
            });
        }
        let page = &mut self.pages[page];
        if page.entries.is_empty() {
            page.entries.resize_with(PAGE, || None);
        }
        let slot = &mut page.entries[index];
        page.used += usize::from(slot.is_none());
        slot
    }

    /// Takes the entry of a number away.
    pub fn remove(&mut self, number: u32) -> Option<T> {
        let (page, index) = split(number);
        let page = self.pages.get_mut(page)?;
        let entry = page.entries.get_mut(index)?.take()?;
        page.used -= 1;
        if page.used == 0 {
            page.entries = Vec::new();
        }
        Some(entry)
    }

    /// All entries, by number.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let entries = self.pages.iter().enumerate().flat_map(|(page, of)| {
            let numbered = of.entries.iter().enumerate();
            numbered.map(move |(index, entry)| ((page * PAGE + index) as u32, entry))
        });
        entries.filter_map(|(number, entry)| Some((number, entry.as_ref()?)))
    }

    /// All entries, by number.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        let pages = self.pages.iter_mut();
        pages.flat_map(|page| page.entries.iter_mut().flatten())
    }
}

/// The same numbers have the same entries.
impl<T: PartialEq> PartialEq for Numbered<T> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_map(steps in prop::collection::vec((0u8..4, 0u32..300, any::<u8>()), 0..200)) {
            let (mut numbered, mut map) = (Numbered::default(), BTreeMap::new());
            for (step, number, value) in steps {
                match step {
                    0 => prop_assert_eq!(numbered.insert(number, value), map.insert(number, value)),
                    1 => prop_assert_eq!(numbered.remove(number), map.remove(&number)),
                    2 => prop_assert_eq!(numbered.get_or_default(number), map.entry(number).or_default()),
                    _ => prop_assert_eq!(numbered.get_mut(number), map.get_mut(&number)),
                }
                prop_assert_eq!(numbered.get(number), map.get(&number));
                prop_assert_eq!(numbered.contains(number), map.contains_key(&number));
                prop_assert_eq!(Some(numbered.vacant()), (0..).find(|number| !map.contains_key(number)));
            }
            prop_assert!(numbered.iter().eq(map.iter().map(|(number, value)| (*number, value))));
            prop_assert!(numbered.values_mut().eq(map.values_mut()));
            for expected in 0..300 {
                let vacant = numbered.vacant();
                prop_assert!(vacant >= expected);
                numbered.insert(vacant, 0);
            }
            prop_assert!(numbered.vacant() >= 300);
            for number in 0..=numbered.vacant() {
                numbered.remove(number);
            }
            prop_assert!(numbered.pages.iter().all(|page| page.entries.is_empty()));
        }
    }
}
