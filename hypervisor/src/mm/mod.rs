//! Memory: who has which frame, and how the hypervisor reaches it.

pub mod buddy;
pub mod frames;
pub mod phys;
