//! What connects a back end with its front end: shared pages, event channels, and the tasks that serve them.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::future::Future;

use abi::grant::GrantRef;
use abi::{Domid, Errno};
use dom0_shim::backend::ring::Shared;
use dom0_shim::backend::{Events, Stopped};
use dom0_shim::executor::{Either, Reactor, Signal, either, pass};
use guest_rt::foreign::Mapping;
use guest_rt::hypercall::event_channel;
use guest_rt::hypercall::grant::{Access, Status};
use guest_rt::time;

use crate::guest::Host;

/// Pages of a front end, adjacent; unmapped when dropped.
#[derive(Debug)]
pub struct SharedPages(Mapping);

impl SharedPages {
    /// Maps one of `domain`'s frames, which it need not have granted.
    ///
    /// # Errors
    /// What the hypervisor answers.
    pub fn frame(domain: Domid, gfn: u64) -> Result<Self, Errno> {
        Mapping::range(domain, gfn, 1).map(Self)
    }

    /// Maps pages that `domain` has granted, to read and write.
    ///
    /// # Errors
    /// The first grant's that cannot be mapped.
    pub fn map(domain: Domid, references: &[GrantRef]) -> Result<Self, Status> {
        Mapping::grants(domain, references, Access::Write).map(Self)
    }
}

impl Shared for SharedPages {
    fn size(&self) -> usize {
        self.0.size()
    }
    fn load(&self, offset: usize) -> u32 {
        self.0.load(offset)
    }
    fn store(&self, offset: usize, value: u32) {
        self.0.store(offset, value);
    }
    fn read(&self, offset: usize, bytes: &mut [u8]) {
        self.0.read(offset, bytes);
    }
    fn write(&self, offset: usize, bytes: &[u8]) {
        self.0.write(offset, bytes);
    }
}

/// How what serves a front end is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// When nothing has come for a moment. Linux's block front end says `Closed` while requests are on their way, and others wait for
    /// the next event in queues that it has stopped (`blkfront_closing`); what has no answer keeps its domain waiting for ever.
    WhenQuiet,
    /// At once.
    Now,
}

/// As long without a request, in nanoseconds, is quiet.
const QUIET: u64 = 300_000_000;
/// A front end that goes on for longer, in nanoseconds, is not waited for.
const PATIENCE: u64 = 5_000_000_000;

/// An event channel to a front end; closed when dropped.
pub struct Channel {
    port: u32,
    stopping: Rc<Cell<Option<Stop>>>,
    reactor: Reactor,
}

impl Channel {
    /// Binds a port that `domain` has made for this domain.
    ///
    /// # Errors
    /// What the hypervisor answers: there is no such port.
    pub fn bind(host: &Host, domain: Domid, remote_port: u32) -> Result<Self, Errno> {
        Ok(Self {
            port: event_channel::bind_interdomain(domain, remote_port)?,
            stopping: Rc::default(),
            reactor: host.reactor.clone(),
        })
    }

    /// This domain's port.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Has events set `signal` instead, for a task that waits for several things; it is set when the task is to end,
    /// too.
    pub fn connect(&self, signal: &Signal) {
        self.reactor.connect(self.port, signal);
    }

    /// Whether the task is to end.
    pub fn is_stopping(&self) -> bool {
        self.stopping.get().is_some()
    }

    fn unless_stopped(&self) -> Result<(), Stopped> {
        match self.stopping.get() {
            Some(Stop::Now) => Err(Stopped),
            Some(Stop::WhenQuiet) | None => Ok(()),
        }
    }
}

impl Events for Channel {
    async fn event(&self) -> Result<(), Stopped> {
        self.unless_stopped()?;
        self.reactor.event(self.port).await;
        self.unless_stopped()
    }

    async fn event_or_end(&self) -> Result<(), Stopped> {
        if self.is_stopping() {
            let quiet = self.reactor.sleep_until(time::now() + QUIET);
            match either(self.event(), quiet).await {
                Either::First(event) => event,
                Either::Second(()) => Err(Stopped),
            }
        } else {
            self.event().await
        }
    }

    async fn turn(&self) -> Result<(), Stopped> {
        pass().await;
        self.unless_stopped()
    }

    fn notify(&self) {
        // The only failure is a port closed from the other end, when nobody listens.
        let _ = event_channel::send(self.port);
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // Closed from the other end is as good.
        let _ = event_channel::close(self.port);
        self.reactor.forget(self.port);
    }
}

/// The tasks that serve a connected front end.
#[derive(Default)]
pub struct Links(Vec<Link>);

struct Link {
    port: u32,
    stopping: Rc<Cell<Option<Stop>>>,
    reactor: Reactor,
    ended: Rc<Ended>,
}

#[derive(Default)]
struct Ended {
    yes: Cell<bool>,
    signal: Signal,
}

impl Links {
    /// Starts the task that `serve` makes with a channel. It must end when [`Channel::event`] says so, and what it
    /// owns is let go of then.
    pub fn spawn<T: Future<Output = ()> + 'static>(
        &mut self,
        host: &Host,
        channel: Channel,
        serve: impl FnOnce(Channel) -> T,
    ) {
        let ended = Rc::new(Ended::default());
        self.0.push(Link {
            port: channel.port,
            stopping: channel.stopping.clone(),
            reactor: channel.reactor.clone(),
            ended: ended.clone(),
        });
        let task = serve(channel);
        host.spawner.spawn(async move {
            task.await;
            ended.yes.set(true);
            ended.signal.notify();
        });
    }

    /// Ends the tasks; nothing is mapped or bound after that.
    pub async fn stop(self, how: Stop) {
        self.tell(how);
        if how == Stop::WhenQuiet
            && let Some(link) = self.0.first()
        {
            let enough = link.reactor.sleep_until(time::now() + PATIENCE);
            if either(self.ended(), enough).await == Either::Second(()) {
                self.tell(Stop::Now);
            }
        }
        self.ended().await;
    }

    fn tell(&self, how: Stop) {
        for link in &self.0 {
            link.stopping.set(Some(how));
            // A task that has ended by itself has closed its port, whose number may be another's by now.
            if !link.ended.yes.get() {
                link.reactor.fire(link.port);
                if how == Stop::WhenQuiet {
                    // For queues that wait for an event. A port closed from the other end is as good.
                    let _ = event_channel::send(link.port);
                }
            }
        }
    }

    async fn ended(&self) {
        for link in &self.0 {
            while !link.ended.yes.get() {
                link.ended.signal.wait().await;
            }
        }
    }
}
