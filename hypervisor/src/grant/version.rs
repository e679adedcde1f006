//! The form of a table's entries, agreed on without a lock of the table's.
//!
//! Who is at an entry holds that entry's lock and has read the version *behind* taking it ([`Current::lock`]). Who changes the version first
//! says so, then takes and leaves every entry's lock once ([`Current::change`]): whoever held it before has left by then, whoever takes it
//! after has to see what was said, and leaves again. So from there to the end of the change nobody is at any entry. Nobody waits for that end
//! but the domain itself, and a privileged one that asks for its version or how large its table is: it has as many entries as it likes, and who uses some is not to
//! stand still for as long as a look at all takes.

use crate::sync::atomic::{AtomicU8, Ordering::SeqCst};
use crate::sync::{Mutex, MutexGuard, spin_loop};

/// Form of the entries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Version {
    /// 8 bytes, with the flags that say "in use" among the guest's.
    V1 = 1,
    /// 16 bytes, with those flags elsewhere.
    V2 = 2,
}

/// In place of a version: it is being changed.
const CHANGING: u8 = 0;

/// The version that a table's entries have now.
pub struct Current(AtomicU8);

impl Current {
    pub fn new(version: Version) -> Self {
        Self(AtomicU8::new(version as u8))
    }

    /// The version, unless it is being changed.
    pub fn settled(&self) -> Option<Version> {
        match self.0.load(SeqCst) {
            CHANGING => None,
            1 => Some(Version::V1),
            _ => Some(Version::V2),
        }
    }

    /// The version; one that is being changed is waited for, so not by who holds an entry's lock, nor on behalf of another domain's I/O.
    pub fn get(&self) -> Version {
        loop {
            match self.settled() {
                Some(version) => return version,
                None => spin_loop(),
            }
        }
    }

    /// Take an entry's lock. The version stays as long as it is held. `None`: it is being changed.
    #[inline]
    pub fn lock<'a, T>(&self, entry: &'a Mutex<T>) -> Option<(MutexGuard<'a, T>, Version)> {
        let guard = entry.lock();
        let version = self.settled()?;
        Some((guard, version))
    }

    /// Do `work`, which gets the version and says what it is from then on, while nobody is at any of the `entries`; not if one of them (by its
    /// place among them) is `refused`. One change at a time: the caller sees to that.
    ///
    /// # Errors
    /// Those of `refused` and `work`: the version is what it was.
    pub fn change<'a, T: 'a, E>(
        &self,
        entries: impl Iterator<Item = &'a Mutex<T>>,
        refused: impl Fn(usize, &T) -> Result<(), E>,
        work: impl FnOnce(Version) -> Result<Version, E>,
    ) -> Result<(), E> {
        let old = self.get();
        self.0.store(CHANGING, SeqCst);
        let result = entries
            .enumerate()
            .try_for_each(|(index, entry)| refused(index, &entry.lock()))
            .and_then(|()| work(old));
        let now = *result.as_ref().unwrap_or(&old);
        self.0.store(now as u8, SeqCst);
        result.map(drop)
    }
}
