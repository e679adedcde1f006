//! Has a domain that has shut down begin anew in its memory: what libxl does for a kernel that starts another (kexec).

use alloc::rc::Rc;

use abi::hvm::{HVM_PARAM_CONSOLE_EVTCHN, HVM_PARAM_STORE_EVTCHN};
use abi::{Domid, Errno};
use dom0_shim::layout::PAGE;
use guest_rt::foreign::Mapping;
use guest_rt::hypercall::{domctl, hvm};
use pvh::layout::{CONSOLE_GFN, STORE_GFN};

use super::build::{Ports, connect, others};
use super::{Failure, Step, nodes};
use crate::guest::{Host, backend, console};

/// Does so. Its devices are those that it has now. It can be destroyed meanwhile.
///
/// # Errors
/// The step that failed; the domain is of no use then.
pub async fn soft_reset(host: &Rc<Host>, domain: Domid) -> Result<(), Failure> {
    let Some((config, disks)) = host.domains.make_again(domain) else {
        return Ok(());
    };
    // Once its shutdown is undone it would run before it has anything.
    domctl::pause(domain).step("pausing the domain")?;
    console::close(host, domain).await;
    backend::remove_all(host, domain).await;
    others(host, domain).await.step("taking its devices")?;
    host.networks.forget(domain);
    host.store.release(domain);
    nodes::remove(&host.store, domain);
    domctl::soft_reset(domain).step("resetting the domain")?;
    let ports = Ports::new(domain)?;
    renew_rings(domain, ports).step("renewing its rings")?;
    let handle = domctl::info(domain).step("getdomaininfo")?.handle;
    connect(host, domain, &handle, &config, ports, disks)?;
    host.domains.made(domain);
    domctl::unpause(domain).step("starting the domain")
}

/// Empties the rings of xenstore and console, and says which ports they have now. The pages are where they were, and granted as they were.
fn renew_rings(domain: Domid, ports: Ports) -> Result<(), Errno> {
    for (gfn, parameter, port) in [
        (STORE_GFN, HVM_PARAM_STORE_EVTCHN, ports.store),
        (CONSOLE_GFN, HVM_PARAM_CONSOLE_EVTCHN, ports.console),
    ] {
        Mapping::range(domain, gfn, 1)?.clear(0, PAGE as usize);
        hvm::set_param(domain, parameter, port.into())?;
    }
    Ok(())
}
