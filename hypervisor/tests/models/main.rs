//! Models of the lock-free protocols: the hypervisor's own files, compiled with [loom](https://docs.rs/loom)'s atomics and locks in place
//! of `core`'s, and run under every interleaving, with every value that the memory model allows to be read.
//!
//! The files name what they need as `crate::sync`, `crate::types` and `crate::mm::guest`: in this crate those are the ones below.
#![expect(dead_code, reason = "the hypervisor's files have more than the models use")]

extern crate alloc;

mod event;
mod frames;
mod grant;
mod lapic;
mod mm;
mod poll;
mod sched;
mod sync;
mod table;
mod timers;
#[path = "../../src/types.rs"]
mod types;
mod wakeup;

/// Registers.
mod arch {
    pub use crate::lapic::apic_page;
}

/// Times, and what a vCPU is told.
mod domain {
    pub use crate::wakeup::protocol as wakeup;

    pub mod vcpu {
        pub const NEVER: u64 = u64::MAX;
    }
}

/// The machine's size.
mod hw {
    pub mod percpu {
        pub const MAX_CPUS: usize = 512;
    }
}

/// Check `model` under all interleavings; of the larger ones, those with at most so many switches that no thread asked for.
fn check(preemptions: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(model);
}
