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
    fn send(&self, bytes: &[u8]) {
        for &byte in bytes {
            let producer = self.page.load(offset_of!(Page, req_prod));
            while producer.wrapping_sub(self.page.load(offset_of!(Page, req_cons))) == XENSTORE_RING_SIZE {
                self.wait();
            }
            let at = offset_of!(Page, req) + (producer % XENSTORE_RING_SIZE) as usize;
            self.page.write(at, &[byte]);
            self.page
                .store(offset_of!(Page, req_prod), producer.wrapping_add(1));
        }
    }

    fn receive(&self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        for byte in &mut bytes {
            let consumer = self.page.load(offset_of!(Page, rsp_cons));
            while self.page.load(offset_of!(Page, rsp_prod)) == consumer {
                sched::yield_now().expect("yielding");
            }
            let at = offset_of!(Page, rsp) + (consumer % XENSTORE_RING_SIZE) as usize;
            self.page.read(at, core::slice::from_mut(byte));
            self.page
                .store(offset_of!(Page, rsp_cons), consumer.wrapping_add(1));
            if self.page.load(offset_of!(Page, rsp_prod)).wrapping_sub(consumer) >= XENSTORE_RING_SIZE {
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
