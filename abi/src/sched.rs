//! `sched_op` (hypercall 29).

use crate::{Domid, GuestHandle};

/// Give up the CPU, stay runnable.
pub const SCHEDOP_YIELD: u32 = 0;
/// Block until an event is pending; enables upcalls first.
pub const SCHEDOP_BLOCK: u32 = 1;
/// Shut the domain down ([`SchedShutdown`]).
pub const SCHEDOP_SHUTDOWN: u32 = 2;
/// Block until one of several ports is pending ([`SchedPoll`]).
pub const SCHEDOP_POLL: u32 = 3;
/// Shut another domain down ([`SchedRemoteShutdown`]).
pub const SCHEDOP_REMOTE_SHUTDOWN: u32 = 4;
/// Record a reason without shutting down ([`SchedShutdown`]).
pub const SCHEDOP_SHUTDOWN_CODE: u32 = 5;
/// Watchdog timers ([`SchedWatchdog`]).
pub const SCHEDOP_WATCHDOG: u32 = 6;
/// Pin temporarily ([`SchedPinOverride`]).
pub const SCHEDOP_PIN_OVERRIDE: u32 = 7;

/// Powered off.
pub const SHUTDOWN_POWEROFF: u32 = 0;
/// Wants to reboot.
pub const SHUTDOWN_REBOOT: u32 = 1;
/// Suspended, to be saved.
pub const SHUTDOWN_SUSPEND: u32 = 2;
/// Crashed.
pub const SHUTDOWN_CRASH: u32 = 3;
/// Its watchdog expired.
pub const SHUTDOWN_WATCHDOG: u32 = 4;
/// Wants a soft reset (kexec).
pub const SHUTDOWN_SOFT_RESET: u32 = 5;
/// Largest reason.
pub const SHUTDOWN_MAX: u32 = 5;

plain! {
    /// Why the caller shuts down.
    pub struct SchedShutdown {
        /// `SHUTDOWN_*`.
        pub reason: u32,
    }
}

compat! {
    /// What to wait for.
    pub struct SchedPoll as CompatSchedPoll {
        /// Ports of the caller.
        pub ports: GuestHandle<u32> as u32,
        /// How many.
        pub nr_ports: u32,
        /// Padding.
        pub pad: u32 as (),
        /// Absolute system time in nanoseconds; 0 waits for ever.
        pub timeout: u64,
    }
}

plain! {
    /// Whom to shut down and why.
    pub struct SchedRemoteShutdown {
        /// Target.
        pub domain_id: Domid,
        /// Padding.
        pub pad: u16,
        /// `SHUTDOWN_*`.
        pub reason: u32,
    }
    /// A watchdog.
    pub struct SchedWatchdog {
        /// 0 makes a new one, whose id is returned.
        pub id: u32,
        /// Seconds; 0 destroys it.
        pub timeout: u32,
    }
    /// Temporary affinity.
    pub struct SchedPinOverride {
        /// Physical CPU, or negative to undo.
        pub pcpu: i32,
    }
}
