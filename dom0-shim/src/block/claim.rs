//! Who uses a disk: any number who only read it, or one who may write it, as xl's block script has it.

use alloc::rc::Rc;
use core::cell::Cell;

use super::Access;

/// The users of one disk. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Users(Rc<Cell<Count>>);

#[derive(Clone, Copy, Debug, Default)]
enum Count {
    #[default]
    None,
    Readers(usize),
    Writer,
}

/// One use of a disk; ends when dropped.
#[derive(Debug)]
pub struct Claim(Users);

/// Somebody else uses the disk in a way that does not go together with this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InUse;

impl Users {
    /// Adds a user.
    ///
    /// # Errors
    /// Somebody uses the disk, and one of the two may write.
    pub fn claim(&self, access: Access) -> Result<Claim, InUse> {
        let count = match (self.0.get(), access) {
            (Count::None, Access::ReadWrite) => Count::Writer,
            (Count::None, Access::ReadOnly) => Count::Readers(1),
            (Count::Readers(count), Access::ReadOnly) => Count::Readers(count + 1),
            (Count::Readers(_), Access::ReadWrite) | (Count::Writer, _) => return Err(InUse),
        };
        self.0.set(count);
        Ok(Claim(self.clone()))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let users = &self.0.0;
        users.set(match users.get() {
            Count::Readers(count) if count > 1 => Count::Readers(count - 1),
            _ => Count::None,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_share_and_a_writer_is_alone() {
        let users = Users::default();
        let readers = [users.claim(Access::ReadOnly), users.claim(Access::ReadOnly)];
        assert!(readers.iter().all(Result::is_ok));
        assert_eq!(users.claim(Access::ReadWrite).err(), Some(InUse));
        let [one, other] = readers;
        drop(one);
        assert_eq!(users.claim(Access::ReadWrite).err(), Some(InUse));
        drop(other);
        let writer = users.claim(Access::ReadWrite);
        assert!(writer.is_ok());
        assert_eq!(users.claim(Access::ReadOnly).err(), Some(InUse));
        drop(writer);
        assert!(users.claim(Access::ReadOnly).is_ok());
    }
}
