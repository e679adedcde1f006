//! The form of a table's entries, agreed on without a lock of the table's.
//!
//! Who is at an entry holds that entry's lock and has read the version *behind* taking it ([`Current::lock`]). Who changes the version first
//! says so, then takes and leaves every entry's lock once ([`Current::change`]): whoever held it before has left by then, whoever takes it
//! after has to see what was said, and leaves again. So from there to the end of the change nobody is at any entry.

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

    fn load(&self) -> Option<Version> {
        match self.0.load(SeqCst) {
            CHANGING => None,
            1 => Some(Version::V1),
            _ => Some(Version::V2),
        }
    }

    /// The version; one that is being changed is waited for, so not by who holds an entry's lock.
    pub fn get(&self) -> Version {
        loop {
            match self.load() {
                Some(version) => return version,
                None => spin_loop(),
            }
        }
    }

    /// Take an entry's lock. The version stays as long as it is held.
    #[inline]
    pub fn lock<'a, T>(&self, entry: &'a Mutex<T>) -> (MutexGuard<'a, T>, Version) {
        loop {
            let guard = entry.lock();
            if let Some(version) = self.load() {
                return (guard, version);
            }
            drop(guard);
            self.get();
        }
    }

    /// Do `work`, which gets the version and says what it is from then on, while nobody is at any of the `entries`. One change at a time: the
    /// caller sees to that.
    pub fn change<'a, T: 'a, R>(
        &self,
        entries: impl Iterator<Item = &'a Mutex<T>>,
        work: impl FnOnce(Version) -> (Version, R),
    ) -> R {
        let old = self.get();
        self.0.store(CHANGING, SeqCst);
        entries.for_each(|entry| drop(entry.lock()));
        let (version, result) = work(old);
        self.0.store(version as u8, SeqCst);
        result
    }
}
