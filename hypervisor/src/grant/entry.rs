//! An entry of a grant table, of either version: what the guest wrote, and how it is told that somebody uses it.
//!
//! In version 1 the "reading" and "writing" flags are beside those that the guest writes, and are set in one exchange with the check of these.
//! In version 2 they are in a word of their own: they are set first, and the entry is checked again after that, so that either we see
//! that the guest has ended the grant, or the guest sees that it is in use.

use abi::grant::{
    GNTST_GENERAL_ERROR, GTF_PERMIT_ACCESS, GTF_READING, GTF_READONLY, GTF_SUB_PAGE, GTF_TRANSITIVE,
    GTF_TYPE_MASK, GTF_WRITING, GrantEntryV1, GrantEntryV2FullPage, GrantEntryV2SubPage,
    GrantEntryV2Transitive,
};

use super::Status;
use crate::mm::guest::{Access, GuestFrame};
use crate::sync::atomic::{AtomicU16, Ordering::SeqCst};
use crate::types::{DomId, Gfn, PAGE_SIZE};

/// How often an entry may change while its use begins; a guest that keeps to the protocol changes it once.
const MAX_CHANGES: u32 = 4;

/// Version 1: offset of the frame.
const FRAME_V1: u64 = core::mem::offset_of!(GrantEntryV1, frame) as u64;
/// Version 2.
const FRAME: u64 = core::mem::offset_of!(GrantEntryV2FullPage, frame) as u64;
const PAGE_OFF: u64 = core::mem::offset_of!(GrantEntryV2SubPage, page_off) as u64;
const LENGTH: u64 = core::mem::offset_of!(GrantEntryV2SubPage, length) as u64;
const TRANS_DOMID: u64 = core::mem::offset_of!(GrantEntryV2Transitive, trans_domid) as u64;
const TRANS_REF: u64 = core::mem::offset_of!(GrantEntryV2Transitive, gref) as u64;

/// What a grant is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// A mapping: only whole pages of the granter's own will do.
    Map,
    /// A copy; the second is for what a transitive grant leads to, which is not transitive itself.
    Copy,
    /// As the former, but not transitive.
    CopyThrough,
}

/// What an entry grants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Granted {
    /// So many bytes from an offset on, in a frame of the granter's.
    Memory { gfn: Gfn, offset: u16, length: u16 },
    /// What another domain grants to the granter.
    Transitive { domain: DomId, reference: u32 },
}

/// How often an entry is in use.
#[derive(Clone, Copy, Default)]
pub struct Use {
    all: u32,
    writing: u32,
}

impl Use {
    /// Is it in use?
    pub fn any(self) -> bool {
        self.all != 0
    }

    /// The flags that say so.
    pub fn flags(self) -> u16 {
        let reading = if self.all != 0 { GTF_READING } else { 0 };
        let writing = if self.writing != 0 { GTF_WRITING } else { 0 };
        reading | writing
    }

    /// One, for `access`, ends.
    #[inline]
    pub fn end(&mut self, access: Access) {
        self.all = self.all.saturating_sub(1);
        self.writing = self.writing.saturating_sub(u32::from(access == Access::Write));
    }
}

/// An entry, and what is kept beside it.
pub struct Entry<'a> {
    /// The frame of the table that it is in.
    pub table: &'a GuestFrame,
    /// Where it begins there.
    pub at: u64,
    /// Its status word; only version 2 has one.
    pub status: Option<&'a AtomicU16>,
    /// Its uses.
    pub uses: &'a mut Use,
}

impl Entry<'_> {
    /// Begin to use it, on behalf of `user`.
    ///
    /// # Errors
    /// `GNTST_GENERAL_ERROR`: it does not grant that, or changes all the time.
    #[inline(always)]
    pub fn begin(&mut self, user: DomId, access: Access, purpose: Purpose) -> Result<Granted, Status> {
        const REFUSED: Status = Status(GNTST_GENERAL_ERROR);
        let used = match access {
            Access::Read => GTF_READING,
            Access::Write => GTF_READING | GTF_WRITING,
        };
        if self.uses.all == u32::MAX {
            return Err(REFUSED);
        }
        let header = self.table.u32_at(self.at);
        let mut seen = header.load(SeqCst);
        for _ in 0..=MAX_CHANGES {
            if !self.allows(seen, user, access, purpose) {
                return Err(REFUSED);
            }
            let now = match self.status {
                None => match header.compare_exchange(seen, seen | u32::from(used), SeqCst, SeqCst) {
                    Ok(_) => seen,
                    Err(now) => now,
                },
                Some(status) => {
                    status.fetch_or(used, SeqCst);
                    header.load(SeqCst)
                }
            };
            if now == seen {
                self.uses.all += 1;
                self.uses.writing += u32::from(access == Access::Write);
                return Ok(self.granted(seen as u16));
            }
            self.show();
            seen = now;
        }
        Err(REFUSED)
    }

    /// Does the header (flags, and above them the domain) grant this?
    #[inline]
    fn allows(&self, header: u32, user: DomId, access: Access, purpose: Purpose) -> bool {
        let (flags, domain) = (header as u16, (header >> 16) as u16);
        let kind = match flags & GTF_TYPE_MASK {
            GTF_PERMIT_ACCESS => purpose != Purpose::Map || flags & GTF_SUB_PAGE == 0,
            GTF_TRANSITIVE => purpose == Purpose::Copy && self.status.is_some(),
            _ => false,
        };
        kind && domain == user.0 && (access == Access::Read || flags & GTF_READONLY == 0)
    }

    /// What is granted, by an entry that has these flags. The guest may be changing it: that is its affair.
    #[inline]
    fn granted(&self, flags: u16) -> Granted {
        let half = |offset| self.table.u16_at(self.at + offset).load(SeqCst);
        let word = |offset| self.table.u32_at(self.at + offset).load(SeqCst);
        if self.status.is_none() {
            return whole(Gfn(u64::from(word(FRAME_V1))));
        }
        if flags & GTF_TYPE_MASK == GTF_TRANSITIVE {
            return Granted::Transitive {
                domain: DomId(half(TRANS_DOMID)),
                reference: word(TRANS_REF),
            };
        }
        let gfn = Gfn(self.table.u64_at(self.at + FRAME).load(SeqCst));
        if flags & GTF_SUB_PAGE == 0 {
            return whole(gfn);
        }
        Granted::Memory {
            gfn,
            offset: half(PAGE_OFF),
            length: half(LENGTH),
        }
    }

    /// End a use that [`Entry::begin`] began.
    #[inline]
    pub fn end(&mut self, access: Access) {
        self.uses.end(access);
        self.show();
    }

    /// Take the flags back that say of more uses than there are.
    #[inline]
    pub fn show(&self) {
        let unused = (GTF_READING | GTF_WRITING) & !self.uses.flags();
        match self.status {
            None => drop(self.table.u32_at(self.at).fetch_and(!u32::from(unused), SeqCst)),
            Some(status) => drop(status.fetch_and(!unused, SeqCst)),
        }
    }

    /// Write it, on the guest's behalf: a whole frame, or nothing.
    pub fn write(&self, header: u32, frame: u32) {
        match self.status {
            None => self.table.u32_at(self.at + FRAME_V1).store(frame, SeqCst),
            Some(_) => self.table.u64_at(self.at + FRAME).store(frame.into(), SeqCst),
        }
        self.table.u32_at(self.at).store(header, SeqCst);
    }
}

fn whole(gfn: Gfn) -> Granted {
    Granted::Memory {
        gfn,
        offset: 0,
        length: PAGE_SIZE as u16,
    }
}
