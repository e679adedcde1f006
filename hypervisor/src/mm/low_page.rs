//! A page that code for real mode can run in.

use core::ops::Range;

use super::frames;
use super::takeover::LOW_KEPT;
use crate::types::{Hpa, Mfn, PAGE_SIZE};

/// Memory of PCs from here on is not RAM, or firmware's.
const CONVENTIONAL_END: u64 = 0xa_0000;

/// A page of RAM below 640 KiB, nobody else's while this lives.
#[derive(Debug)]
pub struct LowPage(Mfn);

impl LowPage {
    /// The lowest one in `ram`, in bytes: of those that nobody is given, or, where firmware has these for itself, of those that are free. Page 0 has the
    /// BIOS's vectors.
    pub fn find(ram: &[Range<u64>]) -> Option<LowPage> {
        (1..CONVENTIONAL_END / PAGE_SIZE).map(Mfn).find_map(|page| {
            let (start, end) = (page.addr().0, page.offset(1).addr().0);
            let is_ram = ram.iter().any(|run| run.start <= start && end <= run.end);
            let is_ours = || is_kept(page) || frames::take_range(page, 1).is_ok();
            (is_ram && is_ours()).then(|| LowPage(page))
        })
    }

    /// Where it is.
    pub fn at(&self) -> Hpa {
        self.0.addr()
    }
}

impl Drop for LowPage {
    fn drop(&mut self) {
        if !is_kept(self.0) {
            frames::free_range(self.0, 1);
        }
    }
}

/// Is it one that nobody is given?
fn is_kept(page: Mfn) -> bool {
    page.addr().0 < LOW_KEPT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wherever_firmware_leaves_ram() {
        let found = |ram: &[Range<u64>]| LowPage::find(ram).map(|page| page.at().0);
        assert_eq!(found(&[0..0x9_f000, 0x10_0000..0x20_0000]), Some(0x1000));
        assert_eq!(found(&[0..0x1000, 0x5000..0x6000]), Some(0x5000));
        assert_eq!(found(&[0..0x1000, 0x5800..0x6800, 0x10_0000..0x20_0000]), None);
        assert_eq!(found(&[]), None);
    }

    /// What is taken of free memory comes back.
    #[test]
    fn above_what_is_kept_it_is_taken_and_given_back() {
        let ram = [0x1_0000..0x9_0000, 0x10_0000..0x20_0000];
        let page = LowPage::find(&ram).expect("the arena's low pages are free");
        assert!(ram[0].contains(&page.at().0));
        let other = LowPage::find(&ram).expect("and more than one");
        assert_ne!(page.at(), other.at());
        drop((page, other));
    }
}
