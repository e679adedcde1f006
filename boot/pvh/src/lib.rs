//! Placeholder until the first commit of this crate lands.
#![cfg_attr(not(test), no_std)]
