//! `hypervisor::sync` as loom has it.

/// Loom's atomics.
///
/// To loom a sequentially consistent load reads no older of two stores that both are sequentially consistent, so the first value must be
/// stored like that, too. (Full fences instead would hide races: to loom, one fence happens before the next.)
pub mod atomic {
    pub use loom::sync::atomic::Ordering;

    macro_rules! atomic {
        ($($name:ident: $value:ty),*) => { $(
            #[derive(Debug)]
            pub struct $name(loom::sync::atomic::$name);

            impl $name {
                pub fn new(value: $value) -> Self {
                    let atomic = loom::sync::atomic::$name::new(value);
                    atomic.store(value, Ordering::SeqCst);
                    Self(atomic)
                }
            }

            impl Default for $name {
                fn default() -> Self {
                    Self::new(Default::default())
                }
            }

            impl std::ops::Deref for $name {
                type Target = loom::sync::atomic::$name;

                fn deref(&self) -> &Self::Target {
                    &self.0
                }
            }
        )* };
    }

    pub use loom::sync::atomic::AtomicPtr;

    atomic!(AtomicBool: bool, AtomicU8: u8, AtomicU16: u16, AtomicU32: u32, AtomicU64: u64);
}

pub use std::sync::{RwLockReadGuard, RwLockWriteGuard};

pub use loom::sync::{Arc, MutexGuard};
pub use loom::thread::yield_now as spin_loop;

/// Those of the locks that models use: their order is not checked here.
pub enum Rank {
    Queues,
    Queue,
    VcpuInfo,
    TimerCpu,
    Timers,
    Grant,
    RunQueue,
    Core,
    Current,
}

#[derive(Debug)]
pub struct Mutex<T>(loom::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub fn new(_rank: Rank, value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().expect("nobody panicked")
    }

    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.0.try_lock().ok()
    }
}

/// Not loom's: models write these before there is a second thread.
pub struct RwLock<T>(std::sync::RwLock<T>);

impl<T> RwLock<T> {
    pub fn new(_rank: Rank, value: T) -> Self {
        Self(std::sync::RwLock::new(value))
    }

    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.try_read().expect("no writer")
    }

    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.try_write().expect("no other")
    }
}

/// As [`RwLock`].
pub struct Once<T>(std::sync::OnceLock<T>);

impl<T> Once<T> {
    pub const fn new() -> Self {
        Self(std::sync::OnceLock::new())
    }

    pub fn get(&self) -> Option<&T> {
        self.0.get()
    }

    pub fn call_once(&self, value: impl FnOnce() -> T) {
        self.0.get_or_init(value);
    }
}
