//! The guest's own grant table, version 1.

use core::mem::offset_of;

use abi::Domid;
use abi::domid::DOMID_SELF;
use abi::grant::{GTF_PERMIT_ACCESS, GTF_READING, GTF_READONLY, GTF_WRITING, GrantEntryV1};
use abi::hypercall::{HYPERVISOR_GRANT_TABLE_OP, HYPERVISOR_MEMORY_OP};
use abi::memory::{AddToPhysmap, XENMAPSPACE_GRANT_TABLE, XENMEM_ADD_TO_PHYSMAP};

use crate::frames::Frames;
use crate::hypercall;
use crate::shared::Shared;

static TABLE: Frames<1> = Frames::new();

/// Entries of the table's first frame.
pub const ENTRIES: u32 = 512;

/// Issues a grant table operation on a list of one.
pub fn one<T>(operation: u32, argument: &mut T) -> i64 {
    let address = core::ptr::from_mut(argument) as u64;
    hypercall::call(HYPERVISOR_GRANT_TABLE_OP, [operation.into(), address, 1, 0, 0])
}

/// The table's first frame.
pub struct Grants(Shared);

impl Default for Grants {
    fn default() -> Self {
        let table = Shared::of(&TABLE);
        let mut argument = AddToPhysmap {
            domid: DOMID_SELF,
            size: 0,
            space: XENMAPSPACE_GRANT_TABLE,
            idx: 0,
            gpfn: table.frame(0),
        };
        let mapped = hypercall::op(HYPERVISOR_MEMORY_OP, XENMEM_ADD_TO_PHYSMAP, &mut argument);
        assert_eq!(mapped, 0, "mapping the grant table");
        Self(table)
    }
}

impl Grants {
    fn entry(reference: u32) -> usize {
        reference as usize * size_of::<GrantEntryV1>()
    }

    /// Grants domain 0 a frame.
    pub fn grant(&self, reference: u32, frame: u64) {
        self.grant_to(0, reference, frame);
    }

    /// Grants a domain a frame.
    pub fn grant_to(&self, domain: Domid, reference: u32, frame: u64) {
        self.0.store(
            Self::entry(reference) + offset_of!(GrantEntryV1, frame),
            frame as u32,
        );
        self.0.store(
            Self::entry(reference),
            u32::from(GTF_PERMIT_ACCESS) | u32::from(domain) << 16,
        );
    }

    /// Grants domain 0 a frame to be read.
    pub fn grant_read_only(&self, reference: u32, frame: u64) {
        self.0.store(
            Self::entry(reference) + offset_of!(GrantEntryV1, frame),
            frame as u32,
        );
        self.0.store(
            Self::entry(reference),
            u32::from(GTF_PERMIT_ACCESS | GTF_READONLY),
        );
    }

    /// Whether anybody uses a grant now.
    pub fn in_use(&self, reference: u32) -> bool {
        self.0.load(Self::entry(reference)) & u32::from(GTF_READING | GTF_WRITING) != 0
    }
}
