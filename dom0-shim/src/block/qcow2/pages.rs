//! Tables of an image, as far as they are in memory: pages of the file, read when they are looked at and written when the
//! disk is flushed, in an order in which the image is whole at every moment.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Most pages, unless more are to be written.
const PAGES_MAX: usize = 512;

/// What a page holds. A page may be written when all that its entries point to is there; in this order it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Reference counts: one too many is harmless.
    Refcounts,
    /// The table of where counts are.
    RefcountTable,
    /// Tables of level 2: where data is.
    L2,
    /// The table of level 1: where those are.
    L1,
}

/// All kinds, in the order in which they are written.
pub const ORDER: [Kind; 4] = [Kind::Refcounts, Kind::RefcountTable, Kind::L2, Kind::L1];

struct Page {
    bytes: Vec<u8>,
    /// What it holds, if it is to be written.
    dirty: Option<Kind>,
    /// When it was last looked at.
    used: u64,
}

/// The pages, by their places in the file.
#[derive(Default)]
pub struct Pages {
    pages: BTreeMap<u64, Page>,
    clock: u64,
    /// How many pages have been let go of: what was read before may be older than what is in the file now.
    pub dropped: u64,
}

impl Pages {
    /// The word at `offset` of the page at `place`, if the page is here.
    pub fn word(&mut self, place: u64, offset: usize) -> Option<u64> {
        self.clock += 1;
        let page = self.pages.get_mut(&place)?;
        page.used = self.clock;
        let word = page.bytes.get(offset..)?.first_chunk()?;
        Some(u64::from_be_bytes(*word))
    }

    /// Changes a word of a page that is here.
    pub fn set_word(&mut self, place: u64, offset: usize, word: u64, kind: Kind) {
        let Some(page) = self.pages.get_mut(&place) else {
            return;
        };
        if let Some(bytes) = page.bytes.get_mut(offset..offset + 8) {
            bytes.copy_from_slice(&word.to_be_bytes());
            page.dirty = Some(kind);
        }
    }

    /// Adds a page as it is in the file, unless it is here already.
    pub fn add_read(&mut self, place: u64, bytes: Vec<u8>) {
        let clean = |(place, page): (&u64, &Page)| page.dirty.is_none().then_some((page.used, *place));
        if self.pages.len() >= PAGES_MAX
            && let Some((_, oldest)) = self.pages.iter().filter_map(clean).min()
        {
            self.pages.remove(&oldest);
            self.dropped += 1;
        }
        let used = self.clock;
        self.pages.entry(place).or_insert(Page {
            bytes,
            dirty: None,
            used,
        });
    }

    /// Adds a page of zeros, in place of what the file has there.
    pub fn add_new(&mut self, place: u64, size: usize, kind: Kind) {
        let page = Page {
            bytes: alloc::vec![0; size],
            dirty: Some(kind),
            used: self.clock,
        };
        self.pages.insert(place, page);
    }

    /// The places of the pages of a kind that are to be written.
    pub fn dirty(&self, kind: Kind) -> Vec<u64> {
        let of_kind = self.pages.iter().filter(|(_, page)| page.dirty == Some(kind));
        of_kind.map(|(place, _)| *place).collect()
    }

    /// Whether pages had better be written now.
    pub fn is_full(&self) -> bool {
        self.pages.len() >= PAGES_MAX
            && self.pages.values().filter(|page| page.dirty.is_some()).count() > PAGES_MAX / 2
    }

    /// A page's bytes.
    pub fn bytes(&self, place: u64) -> Option<&[u8]> {
        self.pages.get(&place).map(|page| &page.bytes[..])
    }

    /// A page has been written.
    pub fn written(&mut self, place: u64) {
        if let Some(page) = self.pages.get_mut(&place) {
            page.dirty = None;
        }
    }
}
