//! One client: its half-read request, what it is to be sent, what it holds.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use super::server::Broken;
use super::transaction::Transaction;
use super::watches::Watch;
use super::wire::Header;
use super::{DOM0, DomId, Error, HEADER_SIZE, Kind, PAYLOAD_MAX, message, path, places, quota};

/// What a watch costs beside its texts and places, roughly; it may be one in a list with room for four.
const WATCH: usize = 320;
/// What an open transaction costs while it is empty, roughly.
const TRANSACTION: usize = 256;
/// What a message that waits costs beside its bytes, roughly: it is in a queue with room for four, and an event also in a
/// set.
const MESSAGE: usize = 192;
/// So many messages may wait at any time without a need for more room.
const QUEUE: usize = 16;

/// In place of a watch's serial number.
const REPLY: u64 = 0;

/// Header and payload.
type Request = (Header, Vec<u8>);

/// Memory that a watch takes at most, about: nothing else may need the places on its path.
pub fn watch_cost(path: &str, token: &str) -> usize {
    WATCH + path.len() + token.len() + places::COST * path::depth(path)
}

#[derive(Debug)]
pub struct Connection {
    /// The domain, then the domain it is a stub for.
    pub who: Vec<DomId>,
    /// Open transactions.
    pub transactions: BTreeMap<u32, Transaction>,
    /// Path and token of its watches.
    watched: BTreeSet<(String, String)>,
    watched_size: usize,
    input: Vec<u8>,
    /// Each message with the serial number of the watch that it is an event of; 0: it is a reply.
    output: VecDeque<(u64, Rc<[u8]>)>,
    output_size: usize,
    /// Replies in `output`.
    outstanding: usize,
    /// Events in `output`. Their texts, which are much alike, are compared only where the watch is the same.
    events: BTreeSet<(u64, Rc<[u8]>)>,
    next_transaction: u32,
}

impl Connection {
    pub fn new(domain: DomId) -> Self {
        Self {
            who: alloc::vec![domain],
            transactions: BTreeMap::new(),
            watched: BTreeSet::new(),
            watched_size: 0,
            input: Vec::new(),
            output: VecDeque::new(),
            output_size: 0,
            outstanding: 0,
            events: BTreeSet::new(),
            next_transaction: 1,
        }
    }

    pub fn domain(&self) -> DomId {
        self.who.first().copied().unwrap_or(DOM0)
    }

    pub fn is_privileged(&self) -> bool {
        self.domain() == DOM0
    }

    /// Memory that it takes beside nodes, about.
    pub fn memory(&self) -> usize {
        let transactions: usize = self.transactions.values().map(Transaction::memory).sum();
        self.watched_size + self.output_size + TRANSACTION * self.transactions.len() + transactions
    }

    /// How many replies wait to be taken.
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Whether requests have to wait until the client has read replies.
    pub fn is_congested(&self) -> bool {
        !self.is_privileged() && self.outstanding >= quota::OUTSTANDING
    }

    /// Takes bytes of the client up to the end of a request; how many, and the request if it is complete.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(usize, Option<Request>), Broken> {
        let mut taken = 0;
        loop {
            let header = self.input.first_chunk().map(Header::decode);
            let wanted = match header {
                None => HEADER_SIZE,
                Some(header) if header.length as usize > PAYLOAD_MAX => return Err(Broken),
                Some(header) => HEADER_SIZE + header.length as usize,
            };
            let missing = wanted - self.input.len();
            let rest = bytes.get(taken..).unwrap_or_default();
            let chunk = &rest[..missing.min(rest.len())];
            self.input.extend_from_slice(chunk);
            taken += chunk.len();
            if chunk.len() < missing {
                return Ok((taken, None));
            }
            if let Some(header) = header {
                let payload = self.input.split_off(HEADER_SIZE);
                self.input.clear();
                return Ok((taken, Some((header, payload))));
            }
        }
    }

    /// Queues a reply.
    pub fn reply(&mut self, reply: Vec<u8>) {
        self.output_size += MESSAGE + reply.len();
        self.outstanding += 1;
        self.output.push_back((REPLY, reply.into()));
    }

    /// Queues an event of `watch` for a change at `path`, unless the same one waits already, or it needs more than `room`.
    pub fn notify(&mut self, watch: &Watch, path: &str, room: usize) {
        let message: Rc<[u8]> = message(Kind::WatchEvent, 0, 0, &watch.event(path)).into();
        let size = MESSAGE + message.len();
        let event = (watch.serial, message);
        if size <= room && self.events.insert(event.clone()) {
            self.output_size += size;
            self.output.push_back(event);
        }
    }

    /// The next message for the client.
    pub fn take(&mut self) -> Option<Rc<[u8]>> {
        let next = self.output.pop_front()?;
        match next.0 {
            REPLY => self.outstanding -= 1,
            _ => _ = self.events.remove(&next),
        }
        if self.output.capacity() > QUEUE && self.output.len() * 4 <= self.output.capacity() {
            self.output.shrink_to((self.output.len() * 2).max(QUEUE));
        }
        let (_, message) = next;
        self.output_size -= MESSAGE + message.len();
        Some(message)
    }

    /// Opens a transaction; its number.
    pub fn start(&mut self) -> Result<u32, Error> {
        if !self.is_privileged() && self.transactions.len() >= quota::TRANSACTIONS {
            return Err(Error::NoSpace);
        }
        let mut number = self.next_transaction;
        while number == 0 || self.transactions.contains_key(&number) {
            number = number.wrapping_add(1);
        }
        self.next_transaction = number.wrapping_add(1);
        self.transactions.insert(number, Transaction::default());
        Ok(number)
    }

    /// Number of watches.
    pub fn watches(&self) -> usize {
        self.watched.len()
    }

    /// Takes note of a watch.
    pub fn watch(&mut self, path: &str, token: &str) {
        self.watched_size += watch_cost(path, token);
        self.watched.insert((path.into(), token.into()));
    }

    /// Forgets a watch.
    pub fn unwatch(&mut self, path: &str, token: &str) {
        if self.watched.remove(&(path.into(), token.into())) {
            self.watched_size -= watch_cost(path, token);
        }
    }

    /// Forgets all watches and transactions; the watches.
    pub fn reset(&mut self) -> BTreeSet<(String, String)> {
        self.transactions.clear();
        self.watched_size = 0;
        core::mem::take(&mut self.watched)
    }

    /// Forgets a half-read request, and what the client has not been sent.
    pub fn drop_messages(&mut self) {
        self.input.clear();
        self.output = VecDeque::new();
        self.output_size = 0;
        self.outstanding = 0;
        self.events.clear();
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::super::server::ConnectionId;
    use super::*;

    /// What waits for a client that does not read accounts for the memory that it takes, and gives it back.
    #[test]
    fn messages_account_for_their_memory() {
        let mut connection = Connection::new(5);
        let watch = Watch {
            connection: ConnectionId(0),
            token: "".into(),
            prefix: 0,
            depth: None,
            serial: 1,
        };
        for index in 0..100_000 {
            let room = quota::MEMORY.saturating_sub(connection.memory());
            connection.notify(&watch, &format!("/{index}"), room);
        }
        let waiting = connection.output.len();
        let entry = size_of::<(u64, Rc<[u8]>)>();
        let least =
            |connection: &Connection| entry * (connection.output.capacity() + connection.output.len());
        assert!((1000..20_000).contains(&waiting), "{waiting}");
        for _ in 0..waiting {
            assert!(least(&connection) <= connection.memory() + entry * QUEUE);
            assert!(connection.take().is_some());
        }
        assert_eq!((connection.memory(), connection.take()), (0, None));
        assert!(connection.output.capacity() <= QUEUE);
    }
}
