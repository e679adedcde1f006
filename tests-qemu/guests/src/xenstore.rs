//! A client of xenstore, for front ends: one request at a time, events are passed over.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::mem::offset_of;

use abi::hvm::{HVM_PARAM_STORE_EVTCHN, HVM_PARAM_STORE_PFN};
use abi::io::xs_wire::{
    XENSTORE_CONNECTED, XENSTORE_RECONNECT, XENSTORE_RING_SIZE, XS_ERROR, XS_READ, XS_RM, XS_WATCH_EVENT,
    XS_WRITE, XenstoreDomainInterface as Page, XsdSockmsg,
};
use guest_rt::hypercall::{event_channel, hvm, sched};
use zerocopy::{FromBytes, IntoBytes};

use crate::shared::Shared;

/// The connection of this domain.
pub struct Xenstore {
    page: Shared,
    port: u32,
}

impl Default for Xenstore {
    fn default() -> Self {
        let port = hvm::param(abi::domid::DOMID_SELF, HVM_PARAM_STORE_EVTCHN).expect("a port");
        Self {
            page: Shared::parameter(HVM_PARAM_STORE_PFN),
            port: port as u32,
        }
    }
}

impl Xenstore {
    fn send(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let producer = self.page.load(offset_of!(Page, req_prod));
            let used = producer.wrapping_sub(self.page.load(offset_of!(Page, req_cons)));
            let (start, room) = stretch(producer, XENSTORE_RING_SIZE.saturating_sub(used));
            let (part, rest) = bytes.split_at(room.min(bytes.len()));
            if part.is_empty() {
                self.wait();
                continue;
            }
            self.page.write(offset_of!(Page, req) + start, part);
            self.page.store(
                offset_of!(Page, req_prod),
                producer.wrapping_add(part.len() as u32),
            );
            bytes = rest;
        }
    }

    fn receive(&self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        let mut received = 0;
        while received < count {
            let consumer = self.page.load(offset_of!(Page, rsp_cons));
            let used = self.page.load(offset_of!(Page, rsp_prod)).wrapping_sub(consumer);
            let (start, there) = stretch(consumer, used.min(XENSTORE_RING_SIZE));
            let part = there.min(count - received);
            if part == 0 {
                sched::yield_now().expect("yielding");
                continue;
            }
            self.page.read(
                offset_of!(Page, rsp) + start,
                &mut bytes[received..received + part],
            );
            self.page
                .store(offset_of!(Page, rsp_cons), consumer.wrapping_add(part as u32));
            received += part;
            if used >= XENSTORE_RING_SIZE {
                event_channel::send(self.port).expect("xenstore's port");
            }
        }
        bytes
    }

    /// Lets the other end work.
    fn wait(&self) {
        event_channel::send(self.port).expect("xenstore's port");
        sched::yield_now().expect("yielding");
    }

    /// The page and the port, to do something else with them.
    pub fn parts(&self) -> (Shared, u32) {
        (self.page, self.port)
    }

    /// Asks for a fresh start, and waits for it.
    pub fn reconnect(&self) {
        self.page.store(offset_of!(Page, connection), XENSTORE_RECONNECT);
        while self.page.load(offset_of!(Page, connection)) != XENSTORE_CONNECTED {
            self.wait();
        }
    }

    /// Makes a request in a transaction, or in none (0).
    ///
    /// # Errors
    /// The name of the server's.
    pub fn ask(&self, kind: u32, transaction: u32, payload: &[u8]) -> Result<Vec<u8>, String> {
        let header = XsdSockmsg {
            type_: kind,
            tx_id: transaction,
            len: payload.len() as u32,
            ..Default::default()
        };
        // At once, so that there is one event for it.
        self.send(&[header.as_bytes(), payload].concat());
        event_channel::send(self.port).expect("xenstore's port");
        loop {
            let reply = self.receive(size_of::<XsdSockmsg>());
            let reply = XsdSockmsg::read_from_bytes(&reply).expect("its size");
            let body = self.receive(reply.len as usize);
            match reply.type_ {
                XS_WATCH_EVENT => {}
                XS_ERROR => {
                    return Err(String::from_utf8_lossy(&body).trim_end_matches('\0').to_string());
                }
                _ => return Ok(body),
            }
        }
    }

    fn request(&self, kind: u32, payload: &[u8]) -> Option<Vec<u8>> {
        self.ask(kind, 0, payload).ok()
    }

    /// A node's value.
    pub fn read(&self, path: &str) -> Option<String> {
        let value = self.request(XS_READ, format!("{path}\0").as_bytes())?;
        Some(String::from_utf8_lossy(&value).to_string())
    }

    /// Writes a node. Returns whether that was allowed.
    pub fn write(&self, path: &str, value: &str) -> bool {
        self.request(XS_WRITE, format!("{path}\0{value}").as_bytes())
            .is_some()
    }

    /// Removes a node; one that is not there is as good.
    pub fn remove(&self, path: &str) {
        self.request(XS_RM, format!("{path}\0").as_bytes());
    }
}

/// Where in a ring an index is, and how much of `count` follows there before the ring begins again.
fn stretch(index: u32, count: u32) -> (usize, usize) {
    let start = index % XENSTORE_RING_SIZE;
    (start as usize, count.min(XENSTORE_RING_SIZE - start) as usize)
}
