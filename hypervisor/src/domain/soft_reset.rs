//! A domain begins anew without leaving its memory (kexec): what it had set up with the hypervisor is taken back.
//!
//! As on Xen 4.17 these are its event channels, and the memory of its vCPUs that the hypervisor writes. Its RAM, registers, timers, grants and parameters
//! stay; the toolstack gives it new ports for xenstore and console.

use abi::Errno;
use core::sync::atomic::Ordering::SeqCst;

use super::Domain;
use crate::event;
use crate::mm::p2m::Kind;
use crate::types::{Gfn, Port};

/// Do a slice of the work on a domain that has shut down; after the last one it goes on from where it was.
///
/// # Errors
/// `ERESTART`: there is more to do. `EINVAL`: it has not shut down, or its destruction has begun. `EAGAIN`: a port of it was bound meanwhile. `ENOMEM`.
pub fn reset_some(domain: &Domain) -> Result<(), Errno> {
    if domain.is_dying() || domain.shutdown_reason().is_none() {
        return Err(Errno::EINVAL);
    }
    // None of its vCPUs is still in a hypercall.
    domain.while_paused(|| {
        let from = Port(domain.reset_from.load(SeqCst));
        if let Some(next) = event::close_some(domain, from) {
            domain.reset_from.store(next.0, SeqCst);
            return Err(Errno::ERESTART);
        }
        domain.reset_from.store(FIRST_PORT, SeqCst);
        take_back(domain)
    })?;
    domain.resume()
}

/// Where [`reset_some`] begins.
pub(super) const FIRST_PORT: u32 = 1;

fn take_back(domain: &Domain) -> Result<(), Errno> {
    event::reset_delivery(domain)?;
    for vcpu in domain.vcpus() {
        let shared_info = domain.shared_info.share()?;
        vcpu.areas.forget();
        vcpu.events.forget();
        vcpu.events.attach(vcpu.id, shared_info);
        domain.publish_time(vcpu);
    }
    // Who maps the shared info elsewhere would leave a hole where it is now, in what the next kernel takes for RAM.
    let at = Gfn(domain.shared_info_at.load(SeqCst));
    let shared = domain.shared_info.mfn();
    if domain.p2m.lookup(at).is_some_and(|entry| entry.mfn == shared) {
        domain.unmap_frame(at, shared)?;
        if let Err(error) = domain.populate(at, 0) {
            // Whoever tries again finds it as it was.
            domain.place(at, domain.shared_info.share()?, Kind::RamRw)?;
            return Err(error);
        }
    }
    Ok(())
}
