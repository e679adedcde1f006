//! Protocols between domains, over shared pages. The hypervisor itself speaks none of them.

pub mod blkif;
pub mod console;
pub mod netif;
pub mod ring;
pub mod xenbus;
pub mod xs_wire;
