//! Locks: spinning, because the hypervisor never sleeps while it holds one.
//!
//! Interrupts are off in the hypervisor except at marked points, where no lock is held; so a lock needs no care about interrupt handlers
//! on its own CPU. NMI and exception handlers take no lock except the console's, by force.
//!
//! Each lock has a [`Rank`]: the table of the order in which locks are taken. Builds with debug assertions check it, tests on the host among
//! them.
//!
//! Lock-free protocols take their atomics from here too: `tests/models` compiles their files with loom's in place of these.

mod locks;
mod order;

pub use alloc::sync::Arc;
pub use core::hint::spin_loop;
pub use core::sync::atomic;

pub use spin::Once;

pub use locks::{Mutex, MutexGuard, RwLock, RwLockReadGuard};
#[cfg(debug_assertions)]
pub use order::Held;
pub use order::{Rank, panicked};
