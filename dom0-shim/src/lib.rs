//! Parts of dom0-shim that need no hypervisor, tested on the host.
//!
//! * [`archive`]: the boot archive with configs and kernels.
//! * [`backend`]: rings and states of paravirtual devices.
//! * [`block`]: disks, and requests to them.
//! * [`console_log`]: what domains wrote to their consoles.
//! * [`cpus`]: sets of CPUs in xl's syntax.
//! * [`executor`]: async tasks woken by event channels and timers.
//! * [`layout`]: where things are in a domU.
//! * [`net`]: networks between the domains.
//! * [`numbered`]: a map from numbers.
//! * [`restart`]: how soon domains are started again.
//! * [`shell`]: line editing, command table, output formats.
//! * [`supply`]: what there is only so much of, for tasks that wait for it.
//! * [`xenstore`]: the xenstore server.
//! * [`xlcfg`]: domain configs.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod archive;
pub mod backend;
pub mod block;
pub mod console_log;
pub mod cpus;
pub mod executor;
pub mod layout;
pub mod net;
pub mod numbered;
pub mod restart;
pub mod shell;
pub mod supply;
pub mod xenstore;
pub mod xlcfg;

#[cfg(test)]
mod fuzz;
