//! Networks between the domains: what needs no hypervisor of a network back end.
//!
//! * [`packet`]: packets with what their senders left to others (checksums, segmentation).
//! * [`offload`]: doing that work where the receiver cannot.
//! * [`bucket`]: the rate limit of a device.
//! * [`switch`]: a learning switch.
//! * [`gateway`]: the host at the inner end of a network; [`dhcp`] and [`dns`] are its services.
//! * [`outside`]: its outer end; [`nat`] translates between the two, [`fragments`] among them.
//! * [`bridge`]: a switch with its gateway.
//! * [`netback`]: the rings of a device.
//! * [`room`]: memory for what waits; [`backlog`] is what waits for a device of the machine.
//! * [`toeplitz`]: the hash that spreads packets over queues.
//!
//! Every byte of a packet was chosen by a domain.

pub mod backlog;
pub mod bridge;
pub mod bucket;
pub mod dhcp;
pub mod dns;
pub mod fragments;
pub mod gateway;
pub mod nat;
pub mod netback;
pub mod offload;
pub mod outside;
pub mod packet;
pub mod room;
pub mod switch;
pub mod toeplitz;
mod wire;
