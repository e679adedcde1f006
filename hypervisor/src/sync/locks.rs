//! Spin locks that know their [`Rank`]. Without debug assertions they are `spin`'s, and nothing else.
// UNSAFETY: breaks a lock for a panic.
#![expect(unsafe_code, reason = "breaks a lock for a panic")]

use core::ops::{Deref, DerefMut};

use super::Rank;

/// A rank that is there only where it is checked.
#[derive(Clone, Copy, Debug)]
struct Place {
    #[cfg(debug_assertions)]
    rank: Rank,
}

impl Place {
    const fn of(_rank: Rank) -> Self {
        Self {
            #[cfg(debug_assertions)]
            rank: _rank,
        }
    }

    /// A lock is about to be taken.
    #[inline(always)]
    #[track_caller]
    fn check(self) {
        #[cfg(debug_assertions)]
        if let Some(held) = crate::hw::percpu::held() {
            held.check(self.rank);
        }
    }

    /// It has been taken.
    #[inline(always)]
    fn enter(self) -> Token {
        #[cfg(debug_assertions)]
        if let Some(held) = crate::hw::percpu::held() {
            held.add(self.rank);
        }
        Token { _place: self }
    }
}

/// That a lock is held.
#[derive(Debug)]
struct Token {
    _place: Place,
}

#[cfg(debug_assertions)]
impl Drop for Token {
    fn drop(&mut self) {
        if let Some(held) = crate::hw::percpu::held() {
            held.remove(self._place.rank);
        }
    }
}

macro_rules! guard {
    ($(#[$doc:meta])* $name:ident, $inner:ident $(, $mutable:tt)?) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name<'a, T> {
            inner: spin::$inner<'a, T>,
            _token: Token,
        }

        impl<T> Deref for $name<'_, T> {
            type Target = T;

            #[inline(always)]
            fn deref(&self) -> &T {
                &self.inner
            }
        }

        $(guard!(@ $mutable $name);)?
    };
    (@ mut $name:ident) => {
        impl<T> DerefMut for $name<'_, T> {
            #[inline(always)]
            fn deref_mut(&mut self) -> &mut T {
                &mut self.inner
            }
        }
    };
}

guard!(
    /// A [`Mutex`] that is held.
    MutexGuard, MutexGuard, mut
);
guard!(
    /// A [`RwLock`] that is held by a reader.
    RwLockReadGuard, RwLockReadGuard
);
guard!(
    /// A [`RwLock`] that is held by a writer.
    RwLockWriteGuard, RwLockWriteGuard, mut
);

/// Mutual exclusion.
#[derive(Debug)]
pub struct Mutex<T> {
    place: Place,
    inner: spin::Mutex<T>,
}

impl<T> Mutex<T> {
    /// Around `value`, to be taken in the order of `rank`.
    pub const fn new(rank: Rank, value: T) -> Self {
        Self {
            place: Place::of(rank),
            inner: spin::Mutex::new(value),
        }
    }

    /// Wait for it.
    #[inline(always)]
    #[track_caller]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.lock_at(self.place)
    }

    /// Wait for it, as one of another rank: who holds it now is known not to take others meanwhile.
    #[inline(always)]
    #[track_caller]
    pub fn lock_as(&self, rank: Rank) -> MutexGuard<'_, T> {
        self.lock_at(Place::of(rank))
    }

    #[inline(always)]
    #[track_caller]
    fn lock_at(&self, place: Place) -> MutexGuard<'_, T> {
        place.check();
        MutexGuard {
            inner: self.inner.lock(),
            _token: place.enter(),
        }
    }

    /// Take it if nobody holds it: at any place in the order.
    #[inline(always)]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        Some(MutexGuard {
            inner: self.inner.try_lock()?,
            _token: self.place.enter(),
        })
    }

    /// Nobody holds it any more.
    ///
    /// # Safety
    /// Who does will not go on.
    pub unsafe fn force_unlock(&self) {
        // SAFETY: the caller's.
        unsafe { self.inner.force_unlock() };
    }
}

/// Many readers, or one writer.
#[derive(Debug)]
pub struct RwLock<T> {
    place: Place,
    inner: spin::RwLock<T>,
}

impl<T> RwLock<T> {
    /// Around `value`, to be taken in the order of `rank`.
    pub const fn new(rank: Rank, value: T) -> Self {
        Self {
            place: Place::of(rank),
            inner: spin::RwLock::new(value),
        }
    }

    /// Wait until nobody writes.
    #[inline(always)]
    #[track_caller]
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.place.check();
        RwLockReadGuard {
            inner: self.inner.read(),
            _token: self.place.enter(),
        }
    }

    /// Wait until nobody reads or writes.
    #[inline(always)]
    #[track_caller]
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.place.check();
        RwLockWriteGuard {
            inner: self.inner.write(),
            _token: self.place.enter(),
        }
    }
}
