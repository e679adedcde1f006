//! Memory: who has which frame, how the hypervisor reaches it, and what guests see of it.

pub mod buddy;
pub mod device;
pub mod fallible;
mod frame_word;
pub mod frames;
pub mod guest;
#[cfg(target_os = "none")]
pub mod heap;
pub mod io_bitmap;
pub mod low_page;
pub mod p2m;
pub mod page_info;
pub mod paging;
pub mod phys;
pub mod takeover;
pub mod walk;
