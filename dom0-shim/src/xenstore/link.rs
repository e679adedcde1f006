//! A domain's connection: requests and replies over two rings on a page that it may write to at any time
//! (xen docs/misc/xenstore-ring.txt).

use alloc::rc::Rc;
use core::mem::offset_of;

use abi::io::xs_wire::{
    XENSTORE_CONNECTED, XENSTORE_ERROR_NONE, XENSTORE_ERROR_PROTO, XENSTORE_ERROR_RINGIDX,
    XENSTORE_RECONNECT, XENSTORE_RING_SIZE, XENSTORE_SERVER_FEATURE_ERROR,
    XENSTORE_SERVER_FEATURE_RECONNECTION, XENSTORE_SERVER_FEATURE_WATCHDEPTH,
    XenstoreDomainInterface as Page,
};

use super::{ConnectionId, Server, quota};
use crate::backend::bytes::ByteRing;
use crate::backend::ring::Shared;

const REQUESTS: ByteRing = ByteRing {
    buffer: offset_of!(Page, req),
    size: XENSTORE_RING_SIZE,
    consumer: offset_of!(Page, req_cons),
    producer: offset_of!(Page, req_prod),
};
const REPLIES: ByteRing = ByteRing {
    buffer: offset_of!(Page, rsp),
    size: XENSTORE_RING_SIZE,
    consumer: offset_of!(Page, rsp_cons),
    producer: offset_of!(Page, rsp_prod),
};

/// A served page.
#[derive(Debug)]
pub struct Link<M> {
    page: M,
    connection: ConnectionId,
    /// A message of which the ring had room for so many bytes only.
    unsent: Option<(Rc<[u8]>, usize)>,
    /// The domain has broken the protocol: nothing is read or written any more until it asks for a fresh start.
    broken: bool,
}

/// What a turn led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The domain is to be told that the page has changed.
    pub notify: bool,
    /// There are requests for another turn, which the domain will not announce again.
    pub more: bool,
}

impl<M: Shared> Link<M> {
    /// Takes up a page; the first turn is due at once.
    pub fn new(page: M, connection: ConnectionId) -> Self {
        let features = XENSTORE_SERVER_FEATURE_RECONNECTION
            | XENSTORE_SERVER_FEATURE_ERROR
            | XENSTORE_SERVER_FEATURE_WATCHDEPTH;
        page.store(offset_of!(Page, server_features), features);
        Self {
            page,
            connection,
            unsent: None,
            broken: false,
        }
    }

    /// The connection that the page is for.
    pub fn connection(&self) -> ConnectionId {
        self.connection
    }

    /// Answers some of the requests in the ring.
    pub fn serve(&mut self, server: &mut Server) -> Turn {
        if self.page.load(offset_of!(Page, connection)) == XENSTORE_RECONNECT {
            self.start_afresh(server);
            return Turn {
                notify: true,
                more: false,
            };
        }
        let received = !self.broken && self.receive(server);
        let sent = self.flush(server);
        Turn {
            notify: received || sent,
            more: self.has_more(),
        }
    }

    /// Takes requests; whether the page has changed.
    fn receive(&mut self, server: &mut Server) -> bool {
        let Ok(unread) = REQUESTS.peek(&self.page) else {
            self.give_up(server, XENSTORE_ERROR_RINGIDX);
            return true;
        };
        match server.receive(self.connection, &unread.bytes, quota::TURN) {
            Ok(0) => return false,
            Ok(taken) => REQUESTS.consume(&self.page, &unread, taken),
            Err(_) => self.give_up(server, XENSTORE_ERROR_PROTO),
        }
        true
    }

    /// Writes what the server has for this connection, as far as there is room; whether the page has changed.
    pub fn flush(&mut self, server: &mut Server) -> bool {
        let mut sent = false;
        while !self.broken {
            let next = || server.take_output(self.connection).map(|message| (message, 0));
            let Some((message, done)) = self.unsent.take().or_else(next) else {
                break;
            };
            match REPLIES.write(&self.page, &message[done..]) {
                Ok(count) => {
                    sent |= count > 0;
                    if done + count < message.len() {
                        self.unsent = Some((message, done + count));
                        if count == 0 {
                            break;
                        }
                    }
                }
                Err(_) => {
                    self.give_up(server, XENSTORE_ERROR_RINGIDX);
                    sent = true;
                }
            }
        }
        sent
    }

    /// Is there a request that nobody will announce? Front ends send an event only when what they had written before
    /// was consumed, and only what found no room in the ring of replies makes them send one when they have read.
    fn has_more(&self) -> bool {
        !self.broken && self.unsent.is_none() && REQUESTS.is_empty(&self.page) == Ok(false)
    }

    /// Says what is wrong, and serves the page no more.
    fn give_up(&mut self, server: &mut Server, error: u32) {
        self.broken = true;
        self.unsent = None;
        server.reset(self.connection);
        self.page.store(offset_of!(Page, error), error);
    }

    /// As the domain has asked: no message, watch or transaction of before is left.
    fn start_afresh(&mut self, server: &mut Server) {
        self.broken = false;
        self.unsent = None;
        server.reset(self.connection);
        REQUESTS.reset(&self.page);
        REPLIES.reset(&self.page);
        self.page.store(offset_of!(Page, error), XENSTORE_ERROR_NONE);
        self.page.store(offset_of!(Page, connection), XENSTORE_CONNECTED);
    }
}
