//! Each operation that guests are offered: called well, and called badly.

mod event;
mod grant;
mod memory;
mod misc;
mod vcpu;
