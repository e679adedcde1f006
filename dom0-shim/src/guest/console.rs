//! The domains' consoles: each has a scroll-back, and one may be attached to the serial line.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::mem::offset_of;

use abi::io::console::{XENCONS_IN_SIZE, XENCONS_OUT_SIZE, XenconsInterface as Page};
use abi::{Domid, Errno};
use dom0_shim::backend::bytes::ByteRing;
use dom0_shim::executor::{Either, Signal, either};
use guest_rt::hypercall::event_channel;

use super::Host;
use super::backend::SharedPages;

const OUTPUT: ByteRing = ByteRing {
    buffer: offset_of!(Page, out),
    size: XENCONS_OUT_SIZE,
    consumer: offset_of!(Page, out_cons),
    producer: offset_of!(Page, out_prod),
};
const INPUT: ByteRing = ByteRing {
    buffer: offset_of!(Page, in_),
    size: XENCONS_IN_SIZE,
    consumer: offset_of!(Page, in_cons),
    producer: offset_of!(Page, in_prod),
};

/// Bytes of output kept per domain.
const SCROLL_BACK: usize = 64 * 1024;
/// Bytes of input kept while the domain does not read.
const TYPE_AHEAD: usize = 4096;
/// Ctrl-]
const DETACH: u8 = 0x1d;

/// All consoles.
#[derive(Default)]
pub struct Consoles {
    links: RefCell<BTreeMap<Domid, Link>>,
    attached: Cell<Option<Domid>>,
    detached: Signal,
    next_serial: Cell<u64>,
}

struct Link {
    page: SharedPages,
    port: u32,
    serial: u64,
    scroll_back: VecDeque<u8>,
    input: VecDeque<u8>,
}

/// Starts to serve the console ring in frame `gfn` of a domain.
pub fn open(host: &Rc<Host>, domain: Domid, gfn: u64, remote_port: u32) -> Result<(), Errno> {
    let page = SharedPages::frame(domain, gfn)?;
    let port = event_channel::bind_interdomain(domain, remote_port)?;
    let serial = host.consoles.next_serial.get();
    host.consoles.next_serial.set(serial + 1);
    let link = Link {
        page,
        port,
        serial,
        scroll_back: VecDeque::new(),
        input: VecDeque::new(),
    };
    host.consoles.links.borrow_mut().insert(domain, link);
    host.spawner.spawn(serve(host.clone(), domain, port, serial));
    Ok(())
}

/// Stops serving a domain's console; what it wrote last is shown if it is attached.
pub fn close(host: &Host, domain: Domid) {
    drain(host, domain);
    if let Some(link) = host.consoles.links.borrow_mut().remove(&domain) {
        // Closed with the domain at the latest.
        let _ = event_channel::close(link.port);
        host.reactor.fire(link.port);
    }
    if host.consoles.attached.get() == Some(domain) {
        host.consoles.attached.set(None);
        host.consoles.detached.notify();
    }
}

/// Task: moves bytes between one domain's ring and its scroll-back and the serial line.
async fn serve(host: Rc<Host>, domain: Domid, port: u32, serial: u64) {
    loop {
        host.reactor.event(port).await;
        if host
            .consoles
            .links
            .borrow()
            .get(&domain)
            .is_none_or(|link| link.serial != serial)
        {
            // The event may have been for another user of the same port number.
            return host.reactor.fire(port);
        }
        drain(&host, domain);
        send_input(&host, domain);
    }
}

/// Takes what a domain has written.
pub fn drain(host: &Host, domain: Domid) {
    let mut links = host.consoles.links.borrow_mut();
    let Some(link) = links.get_mut(&domain) else {
        return;
    };
    // A domain with broken indices has no console until it mends them. What it writes from now on, it announces.
    if let Ok(unread) = OUTPUT.peek(&link.page)
        && !unread.bytes.is_empty()
    {
        let bytes = &unread.bytes;
        OUTPUT.consume(&link.page, &unread, bytes.len());
        let _ = event_channel::send(link.port);
        link.scroll_back.extend(bytes);
        let excess = link.scroll_back.len().saturating_sub(SCROLL_BACK);
        link.scroll_back.drain(..excess);
        if host.consoles.attached.get() == Some(domain) {
            host.terminal.write(bytes);
        }
    }
}

/// Gives a domain what was typed, as far as its ring has room.
fn send_input(host: &Host, domain: Domid) {
    let mut links = host.consoles.links.borrow_mut();
    let Some(link) = links.get_mut(&domain) else {
        return;
    };
    if link.input.is_empty() {
        return;
    }
    let bytes: Vec<u8> = link.input.iter().copied().collect();
    if let Ok(count @ 1..) = INPUT.write(&link.page, &bytes) {
        link.input.drain(..count);
        let _ = event_channel::send(link.port);
    }
}

/// Connects the serial line with a domain's console until Ctrl-] is typed or the domain is gone. Returns false if
/// the domain has no console.
pub async fn attach(host: &Rc<Host>, domain: Domid) -> bool {
    let Some(scroll_back) = host
        .consoles
        .links
        .borrow_mut()
        .get_mut(&domain)
        .map(|link| link.scroll_back.make_contiguous().to_vec())
    else {
        return false;
    };
    host.terminal.write(&scroll_back);
    host.consoles.attached.set(Some(domain));
    while host.consoles.attached.get() == Some(domain) {
        match either(host.terminal.byte(), host.consoles.detached.wait()).await {
            Either::First(DETACH) => host.consoles.attached.set(None),
            Either::First(byte) => {
                if let Some(link) = host.consoles.links.borrow_mut().get_mut(&domain)
                    && link.input.len() < TYPE_AHEAD
                {
                    link.input.push_back(byte);
                }
                send_input(host, domain);
            }
            Either::Second(()) => {}
        }
    }
    host.terminal.write(b"\r\n");
    true
}
