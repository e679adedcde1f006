//! What connects a back end with its front end: shared pages, event channels, and the tasks that serve them.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::future::Future;

use abi::grant::GrantRef;
use abi::{Domid, Errno};
use dom0_shim::backend::ring::Shared;
use dom0_shim::backend::{Events, Stopped};
use dom0_shim::executor::{Reactor, Signal, pass};
use guest_rt::foreign::Mapping;
use guest_rt::hypercall::event_channel;
use guest_rt::hypercall::grant::{Access, Status};

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

/// An event channel to a front end; closed when dropped.
pub struct Channel {
    port: u32,
    stopping: Rc<Cell<bool>>,
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
        self.stopping.get()
    }
}

impl Events for Channel {
    async fn event(&self) -> Result<(), Stopped> {
        if !self.stopping.get() {
            self.reactor.event(self.port).await;
        }
        if self.stopping.get() { Err(Stopped) } else { Ok(()) }
    }

    async fn turn(&self) -> Result<(), Stopped> {
        pass().await;
        if self.stopping.get() { Err(Stopped) } else { Ok(()) }
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
    stopping: Rc<Cell<bool>>,
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
    pub async fn stop(self) {
        for link in &self.0 {
            link.stopping.set(true);
            // A task that has ended by itself has closed its port, whose number may be another's by now.
            if !link.ended.yes.get() {
                link.reactor.fire(link.port);
            }
        }
        for link in &self.0 {
            while !link.ended.yes.get() {
                link.ended.signal.wait().await;
            }
        }
    }
}
