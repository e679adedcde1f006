//! Each operation that guests are offered: called well, and called badly.

mod compat;
mod control;
mod cpupool;
mod dom0;
mod domctl;
mod event;
mod fuzz;
mod grant;
mod hotplug;
mod memory;
mod misc;
mod operations;
mod random;
mod soft_reset;
mod vcpu;
