//! Who uses which sectors of a disk: any number who only read them, or one who may write them, as xl's block script has
//! it for whole disks.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::ops::Range;

use super::Access;

/// The users of one disk. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Users(Rc<RefCell<Vec<Rc<Use>>>>);

/// Sectors in ascending order, none of them empty, and what is done with them.
#[derive(Debug)]
struct Use {
    sectors: Vec<Range<u64>>,
    access: Access,
}

/// One use of a disk; ends when dropped.
#[derive(Debug)]
pub struct Claim {
    users: Users,
    own: Rc<Use>,
}

/// Somebody else uses the same sectors in a way that does not go together with this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InUse;

impl Users {
    /// Adds a user of these sectors.
    ///
    /// # Errors
    /// Somebody uses some of them, and one of the two may write.
    pub fn claim(
        &self,
        sectors: impl IntoIterator<Item = Range<u64>>,
        access: Access,
    ) -> Result<Claim, InUse> {
        let mut sectors: Vec<_> = sectors.into_iter().filter(|range| !range.is_empty()).collect();
        sectors.sort_unstable_by_key(|range| range.start);
        let own = Rc::new(Use { sectors, access });
        if self.0.borrow().iter().any(|other| own.conflicts(other)) {
            return Err(InUse);
        }
        self.0.borrow_mut().push(own.clone());
        Ok(Claim {
            users: self.clone(),
            own,
        })
    }
}

impl Use {
    fn conflicts(&self, other: &Use) -> bool {
        (self.access == Access::ReadWrite || other.access == Access::ReadWrite) && self.overlaps(other)
    }

    fn overlaps(&self, other: &Use) -> bool {
        let mut theirs = other.sectors.iter().peekable();
        self.sectors.iter().any(|own| {
            while theirs.next_if(|range| range.end <= own.start).is_some() {}
            theirs.peek().is_some_and(|range| range.start < own.end)
        })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut users = self.users.0.borrow_mut();
        users.retain(|user| !Rc::ptr_eq(user, &self.own));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: Range<u64> = 0..u64::MAX;

    #[test]
    fn readers_share_and_a_writer_is_alone() {
        let users = Users::default();
        let claim = |access| users.claim([ALL], access);
        let readers = [claim(Access::ReadOnly), claim(Access::ReadOnly)];
        assert!(readers.iter().all(Result::is_ok));
        assert_eq!(claim(Access::ReadWrite).err(), Some(InUse));
        let [one, other] = readers;
        drop(one);
        assert_eq!(claim(Access::ReadWrite).err(), Some(InUse));
        drop(other);
        let writer = claim(Access::ReadWrite);
        assert!(writer.is_ok());
        assert_eq!(claim(Access::ReadOnly).err(), Some(InUse));
        drop(writer);
        assert!(claim(Access::ReadOnly).is_ok());
    }

    #[test]
    fn who_uses_other_sectors_is_not_in_the_way() {
        let users = Users::default();
        let _writer = users.claim([20..30, 10..12], Access::ReadWrite);
        let _other = users.claim([12..20, 30..40, 5..5], Access::ReadWrite).unwrap();
        for taken in [10..11, 11..12, 29..30, 0..11, 39..99] {
            assert_eq!(users.claim([0..1, taken], Access::ReadOnly).err(), Some(InUse));
        }
        assert!(users.claim([0..10, 40..41], Access::ReadWrite).is_ok());
    }

    proptest! {
        #[test]
        fn overlap_is_a_sector_in_both(
            one in prop::collection::vec((0_u64..40, 0_u64..5), 0..6),
            other in prop::collection::vec((0_u64..40, 0_u64..5), 0..6),
        ) {
            // Files of a broken file system may have the same sector twice.
            let ranges = |list: &[(u64, u64)]| list.iter().map(|&(at, len)| at..at + len).collect::<Vec<_>>();
            let (one, other) = (ranges(&one), ranges(&other));
            let both = one.iter().flat_map(Clone::clone).any(|at| other.iter().any(|range| range.contains(&at)));
            let users = Users::default();
            let _claim = users.claim(one, Access::ReadWrite);
            prop_assert_eq!(users.claim(other, Access::ReadOnly).is_err(), both);
        }
    }
}
