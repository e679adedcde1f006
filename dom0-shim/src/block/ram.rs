//! Disks in RAM: empty ones, and images of the boot archive, whose changes are kept in RAM.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::ops::Range;

use super::{Access, BlockDevice, Failed, SECTOR};

const PAGE: usize = 4096;
const SECTORS_PER_PAGE: u64 = (PAGE / SECTOR) as u64;

/// A frame of its own, so that a copy of it is one operation.
#[repr(align(4096))]
struct Page([u8; PAGE]);

static ZEROS: Page = Page([0; PAGE]);

/// Memory that all disks together may take.
#[derive(Clone, Debug)]
pub struct Budget(Rc<Cell<u64>>);

impl Budget {
    /// So many bytes.
    pub fn new(bytes: u64) -> Self {
        Self(Rc::new(Cell::new(bytes)))
    }

    /// Bytes left.
    pub fn left(&self) -> u64 {
        self.0.get()
    }

    fn reserve(&self, bytes: u64) -> Option<Reservation> {
        self.0.set(self.0.get().checked_sub(bytes)?);
        Some(Reservation {
            budget: self.clone(),
            bytes,
        })
    }
}

/// A part of the budget; goes back when dropped.
struct Reservation {
    budget: Budget,
    bytes: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.0.set(self.budget.0.get() + self.bytes);
    }
}

/// The disk would take more memory than there is for disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory;

/// A disk over an image, with pages of its own where it has been written. Memory for all of them is set aside when the
/// disk is made: a guest that writes a lot cannot starve the others.
pub struct RamDisk {
    image: &'static [u8],
    sectors: Cell<u64>,
    access: Access,
    pages: RefCell<Vec<Option<Box<Page>>>>,
    memory: RefCell<Option<Reservation>>,
}

impl RamDisk {
    /// An empty disk of whole sectors.
    ///
    /// # Errors
    /// It is larger than what is left of `budget`.
    pub fn empty(bytes: u64, budget: &Budget) -> Result<Self, NoMemory> {
        Self::writable(&[], bytes, budget)
    }

    /// An image whose changes are kept as long as this disk.
    ///
    /// # Errors
    /// It is larger than what is left of `budget`.
    pub fn copy_on_write(image: &'static [u8], budget: &Budget) -> Result<Self, NoMemory> {
        Self::writable(image, image.len() as u64, budget)
    }

    /// As [`Self::copy_on_write`], with room behind the image: so many bytes in all.
    ///
    /// # Errors
    /// It is larger than what is left of `budget`.
    pub fn with_room(image: &'static [u8], bytes: u64, budget: &Budget) -> Result<Self, NoMemory> {
        Self::writable(image, bytes.max(image.len() as u64), budget)
    }

    /// An image as it is.
    pub fn read_only(image: &'static [u8]) -> Self {
        Self::shown(image, (image.len() / SECTOR) as u64)
    }

    /// An image as it is, with zeros behind it where its last sector is not whole.
    pub fn padded(image: &'static [u8]) -> Self {
        Self::shown(image, image.len().div_ceil(SECTOR) as u64)
    }

    fn shown(image: &'static [u8], sectors: u64) -> Self {
        Self {
            image,
            sectors: Cell::new(sectors),
            access: Access::ReadOnly,
            pages: RefCell::default(),
            memory: RefCell::default(),
        }
    }

    fn writable(image: &'static [u8], bytes: u64, budget: &Budget) -> Result<Self, NoMemory> {
        let disk = Self {
            access: Access::ReadWrite,
            ..Self::shown(image, 0)
        };
        disk.resize(bytes, budget)?;
        Ok(disk)
    }

    /// Gives a disk that may be written another size. What is beyond a smaller one is forgotten; a larger one has zeros
    /// there, or the image.
    ///
    /// # Errors
    /// It would be larger than what is left of `budget`.
    pub fn resize(&self, bytes: u64, budget: &Budget) -> Result<(), NoMemory> {
        let count = bytes.div_ceil(PAGE as u64);
        // Besides the pages, the list of them.
        let size = PAGE as u64 + size_of::<Option<Box<Page>>>() as u64;
        let needed = count.checked_mul(size).ok_or(NoMemory)?;
        let old = self.memory.take();
        let had = old.as_ref().map_or(0, |old| old.bytes);
        drop(old);
        let Some(memory) = budget.reserve(needed) else {
            // It was there a moment ago.
            *self.memory.borrow_mut() = budget.reserve(had);
            return Err(NoMemory);
        };
        *self.memory.borrow_mut() = Some(memory);
        let mut pages = self.pages.borrow_mut();
        pages.resize_with(count as usize, || None);
        // What a page had behind the end is not to come back with it.
        if let (Some(Some(last)), tail @ 1..) = (pages.last_mut(), bytes as usize % PAGE) {
            last.0[tail..].fill(0);
        }
        self.sectors.set(bytes / SECTOR as u64);
        Ok(())
    }

    /// A page of the image, zeros behind its end.
    fn page_of_image(&self, number: usize) -> Box<Page> {
        let mut page = Box::new(Page([0; PAGE]));
        let rest = self.image.get(number * PAGE..).unwrap_or_default();
        let length = rest.len().min(PAGE);
        page.0[..length].copy_from_slice(&rest[..length]);
        page
    }
}

/// The pages that `sectors` are in: number, and which bytes of it.
fn pages(sectors: Range<u64>) -> impl Iterator<Item = (usize, Range<usize>)> {
    let (start, end) = (sectors.start as usize * SECTOR, sectors.end as usize * SECTOR);
    (start / PAGE..end.div_ceil(PAGE)).map(move |number| {
        let base = number * PAGE;
        (number, start.max(base) - base..end.min(base + PAGE) - base)
    })
}

impl BlockDevice for RamDisk {
    fn sectors(&self) -> u64 {
        self.sectors.get()
    }

    fn access(&self) -> Access {
        self.access
    }

    fn takes_time(&self) -> bool {
        false
    }

    /// All that it may take has been set aside.
    fn memory(&self, _: usize) -> usize {
        0
    }

    fn discard_granularity(&self) -> Option<u32> {
        (self.access == Access::ReadWrite).then_some(PAGE as u32)
    }

    async fn read(
        &self,
        sectors: Range<u64>,
        take: impl FnOnce(&[&[u8]]) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        let own = self.pages.borrow();
        let mut pieces: Vec<&[u8]> = Vec::new();
        for (number, bytes) in pages(sectors) {
            if let Some(Some(page)) = own.get(number) {
                pieces.push(&page.0[bytes]);
                continue;
            }
            // Behind the image there are zeros.
            let image = self.image.get(number * PAGE + bytes.start..).unwrap_or_default();
            let image = &image[..image.len().min(bytes.len())];
            let zeros = &ZEROS.0[image.len()..bytes.len()];
            pieces.extend([image, zeros].into_iter().filter(|piece| !piece.is_empty()));
        }
        take(&pieces)
    }

    async fn write(
        &self,
        sectors: Range<u64>,
        fill: impl FnOnce(&mut [&mut [u8]]) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        let mut own = self.pages.borrow_mut();
        let mut room = own.iter_mut().skip((sectors.start / SECTORS_PER_PAGE) as usize);
        let mut pieces: Vec<&mut [u8]> = Vec::new();
        for (number, bytes) in pages(sectors) {
            let page = room.next().ok_or(Failed)?;
            let page = page.get_or_insert_with(|| self.page_of_image(number));
            pieces.push(&mut page.0[bytes]);
        }
        fill(&mut pieces)
    }

    async fn flush(&self) -> Result<(), Failed> {
        Ok(())
    }

    /// Pages that are discarded whole show the image again, or zeros.
    async fn discard(&self, sectors: Range<u64>) -> Result<(), Failed> {
        let whole = sectors.start.div_ceil(SECTORS_PER_PAGE)..sectors.end / SECTORS_PER_PAGE;
        let mut own = self.pages.borrow_mut();
        if let Some(pages) = own.get_mut(whole.start as usize..whole.end as usize) {
            pages.fill_with(|| None);
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use core::future::Future;
    use core::pin::pin;
    use core::task::{Context, Poll, Waker};

    use proptest::prelude::*;

    use super::*;

    /// The result of a future that never waits.
    pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => result,
            Poll::Pending => unreachable!("RAM disks never wait"),
        }
    }

    pub(crate) fn contents(disk: &impl BlockDevice, sectors: Range<u64>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let take = |pieces: &[&[u8]]| {
            bytes = pieces.concat();
            Ok(())
        };
        assert_eq!(now(disk.read(sectors, take)), Ok(()));
        bytes
    }

    pub(crate) fn fill(disk: &impl BlockDevice, sectors: Range<u64>, byte: u8) {
        let set = |pieces: &mut [&mut [u8]]| {
            pieces.iter_mut().for_each(|piece| piece.fill(byte));
            Ok(())
        };
        assert_eq!(now(disk.write(sectors, set)), Ok(()));
    }

    #[test]
    fn memory_is_set_aside_and_given_back() {
        let budget = Budget::new(1 << 20);
        assert_eq!(
            RamDisk::empty(1 << 20, &budget).err(),
            Some(NoMemory),
            "the list too"
        );
        assert_eq!(RamDisk::empty(u64::MAX, &budget).err(), Some(NoMemory));
        let disk = RamDisk::empty(512 << 10, &budget).unwrap();
        assert_eq!((disk.sectors(), disk.access()), (1024, Access::ReadWrite));
        assert!(budget.left() < 512 << 10 && RamDisk::empty(512 << 10, &budget).is_err());
        drop(disk);
        assert_eq!(budget.left(), 1 << 20);
    }

    #[test]
    fn a_disk_gets_another_size() {
        let budget = Budget::new(1 << 20);
        let disk = RamDisk::empty(64 << 10, &budget).unwrap();
        let left = budget.left();
        fill(&disk, 0..128, 7);
        assert_eq!(disk.resize(1 << 20, &budget), Err(NoMemory));
        assert_eq!((disk.sectors(), budget.left()), (128, left), "as it was");
        assert_eq!(disk.resize(100 << 10, &budget), Ok(()));
        assert_eq!(contents(&disk, 120..136), [[7; 4096], [0; 4096]].concat());
        assert_eq!(disk.resize(9 * 512, &budget), Ok(()));
        assert!(disk.sectors() == 9 && budget.left() > left);
        assert_eq!(disk.resize(64 << 10, &budget), Ok(()));
        assert_eq!(contents(&disk, 8..9), [7; 512]);
        assert_eq!(contents(&disk, 9..128), [0; 119 * 512], "forgotten");
        assert_eq!(budget.left(), left);
        drop(disk);
        assert_eq!(budget.left(), 1 << 20);
    }

    #[test]
    fn an_image_is_shown_and_never_changed() {
        let image: &'static [u8] = Vec::leak((0..9700).map(|at| (at / 512) as u8 + 1).collect());
        let disk = RamDisk::read_only(image);
        assert_eq!(
            (disk.sectors(), disk.access(), disk.discard_granularity()),
            (18, Access::ReadOnly, None)
        );
        assert_eq!(contents(&disk, 0..18), image[..18 * 512]);
        let budget = Budget::new(1 << 20);
        let disk = RamDisk::copy_on_write(image, &budget).unwrap();
        fill(&disk, 7..9, 0xff);
        fill(&disk, 17..18, 0xee);
        let mut wanted = image[..18 * 512].to_vec();
        wanted[7 * 512..9 * 512].fill(0xff);
        wanted[17 * 512..].fill(0xee);
        assert_eq!(contents(&disk, 0..18), wanted);
        assert_eq!(now(disk.discard(0..18)), Ok(()));
        assert_eq!(contents(&disk, 0..16), image[..16 * 512], "whole pages");
        assert_eq!(contents(&disk, 17..18), [0xee; 512], "part of a page");
    }

    proptest! {
        #[test]
        fn behaves_as_an_array(moves in prop::collection::vec((0_u64..40, 0_u64..40, 0_u8..4, any::<u8>()), 1..40)) {
            let budget = Budget::new(1 << 20);
            let disk = RamDisk::empty(40 * 512, &budget).unwrap();
            let mut model = vec![0_u8; 40 * 512];
            for (a, b, what, byte) in moves {
                let range = a.min(b)..a.max(b);
                let bytes = range.start as usize * 512..range.end as usize * 512;
                match what {
                    0 => {
                        prop_assert_eq!(now(disk.discard(range.clone())), Ok(()));
                        let whole = bytes.start.next_multiple_of(4096)..bytes.end / 4096 * 4096;
                        if !whole.is_empty() {
                            model[whole].fill(0);
                        }
                    }
                    1 => prop_assert_eq!(&contents(&disk, range), &model[bytes]),
                    _ => {
                        fill(&disk, range, byte);
                        model[bytes].fill(byte);
                    }
                }
            }
            prop_assert_eq!(contents(&disk, 0..40), model);
        }
    }
}
