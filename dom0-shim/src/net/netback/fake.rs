//! A front end's memory on the host.

use core::cell::RefCell;
use core::mem::offset_of;
use std::collections::BTreeMap;
use std::rc::Rc;

use abi::grant::GrantRef;
use abi::io::ring::{SRING_HEADER_SIZE, SringHeader, ring_entries};
use zerocopy::IntoBytes;

use super::grants::{Grants, Source, Target};
use crate::backend::ring::Shared;

pub const PAGE: usize = 4096;

/// A TCP packet over IPv4 with this payload.
pub fn tcp(payload: &[u8]) -> Vec<u8> {
    let mut frame = [
        &[2; 12][..],
        &[8, 0, 0x45, 0],
        &((40 + payload.len()) as u16).to_be_bytes(),
        &[0; 5],
        &[6],
    ]
    .concat();
    frame.resize(46, 0);
    frame.push(0x50);
    frame.resize(54, 0);
    frame.extend_from_slice(payload);
    frame
}

/// A shared page.
#[derive(Clone)]
pub struct Page(pub Rc<RefCell<Vec<u8>>>);

impl Default for Page {
    fn default() -> Self {
        Self(Rc::new(RefCell::new(vec![0; PAGE])))
    }
}

impl Shared for Page {
    fn size(&self) -> usize {
        PAGE
    }

    fn load(&self, offset: usize) -> u32 {
        u32::from_le_bytes(*self.0.borrow()[offset..].first_chunk().unwrap())
    }

    fn store(&self, offset: usize, value: u32) {
        self.write(offset, &value.to_le_bytes());
    }

    fn read(&self, offset: usize, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.0.borrow()[offset..offset + bytes.len()]);
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        self.0.borrow_mut()[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

/// Granted pages.
#[derive(Default)]
pub struct Pages(pub RefCell<BTreeMap<GrantRef, Vec<u8>>>);

impl Pages {
    pub fn grant(&self, gref: GrantRef, bytes: &[u8]) {
        let mut page = bytes.to_vec();
        page.resize(PAGE, 0);
        self.0.borrow_mut().insert(gref, page);
    }
}

impl Grants for Pages {
    fn copy_from(&self, sources: &mut [Source<'_>]) {
        for source in sources {
            let range = usize::from(source.offset)..usize::from(source.offset) + source.into.len();
            assert!(range.end <= PAGE, "the hypervisor would refuse this");
            if let Some(page) = self.0.borrow().get(&source.gref) {
                source.into.copy_from_slice(&page[range]);
                source.done = true;
            }
        }
    }

    fn copy_to(&self, targets: &mut [Target<'_>]) {
        for target in targets {
            let range = usize::from(target.offset)..usize::from(target.offset) + target.from.len();
            assert!(range.end <= PAGE, "the hypervisor would refuse this");
            if let Some(page) = self.0.borrow_mut().get_mut(&target.gref) {
                page[range].copy_from_slice(target.from);
                target.done = true;
            }
        }
    }
}

/// A front end's side of a ring.
pub struct Front {
    pub page: Page,
    slot: usize,
    produced: u32,
    seen: u32,
}

impl Front {
    pub fn new(slot: usize) -> Self {
        Self {
            page: Page::default(),
            slot,
            produced: 0,
            seen: 0,
        }
    }

    fn place(&self, index: u32) -> usize {
        SRING_HEADER_SIZE + (index & (ring_entries(PAGE, self.slot) - 1)) as usize * self.slot
    }

    /// Writes a request and publishes it.
    pub fn request(&mut self, request: &(impl IntoBytes + zerocopy::Immutable)) {
        self.page.write(self.place(self.produced), request.as_bytes());
        self.produced += 1;
        self.page.store(offset_of!(SringHeader, req_prod), self.produced);
    }

    /// The next response.
    pub fn response<T: zerocopy::FromBytes + IntoBytes>(&mut self) -> Option<T> {
        if self.page.load(offset_of!(SringHeader, rsp_prod)) == self.seen {
            return None;
        }
        let mut response = T::new_zeroed();
        self.page.read(self.place(self.seen), response.as_mut_bytes());
        self.seen += 1;
        Some(response)
    }

    /// All responses that there are.
    pub fn responses<T: zerocopy::FromBytes + IntoBytes>(&mut self) -> Vec<T> {
        std::iter::from_fn(|| self.response()).collect()
    }

    /// Wants an event with the next response.
    pub fn want_event(&self) {
        self.page.store(offset_of!(SringHeader, rsp_event), self.seen + 1);
    }
}
