//! dom0-shim as a guest of Oxen (or of Xen): services as async tasks on one vCPU.
//!
//! * [`terminal`]: the serial line, shared by the prompt and an attached console.
//! * [`store`]: xenstore over the domains' rings.
//! * [`store_tools`]: the xenstore commands.
//! * [`console`]: the domains' consoles.
//! * [`backend`]: devices that this domain serves.
//! * [`machine`]: devices of the machine that this domain drives.
//! * [`network`]: the domains' networks.
//! * [`pools`]: CPU pools.
//! * [`toolstack`]: builds, ends and watches over domains.
//! * [`shell`]: the commands; [`info`] and [`power`] have those that show and stop domains and the host.
//!
//! Tasks share one [`Host`]; no borrow of its cells is held across an `await`.

mod backend;
mod console;
mod info;
mod machine;
mod network;
mod pools;
mod power;
mod scheduling;
mod shell;
mod store;
mod store_tools;
mod terminal;
mod toolstack;

use alloc::rc::Rc;

use abi::event_channel::VIRQ_TIMER;
use dom0_shim::archive::Archive;
use dom0_shim::block::allowance::Allowance;
use dom0_shim::block::ram::Budget;
use dom0_shim::executor::{Executor, Reactor, Spawner};
use dom0_shim::net::room::Room;
use dom0_shim::supply::Supply;
use guest_rt::hypercall::event_channel;
use guest_rt::start_info::StartInfo;
use guest_rt::{event, foreign, interrupt, memory, time};

use backend::Devices;
use console::Consoles;
use machine::Machine;
use network::Networks;
use store::Store;
use terminal::Terminal;
use toolstack::Domains;

/// What all tasks share.
pub struct Host {
    /// Wakes tasks on events and timers.
    pub reactor: Reactor,
    /// Starts tasks.
    pub spawner: Spawner,
    /// Configs, kernels, ramdisks.
    pub archive: Archive<'static>,
    /// The serial line.
    pub terminal: Terminal,
    /// xenstore.
    pub store: Store,
    /// Consoles of the domains.
    pub consoles: Consoles,
    /// Memory that disks may take.
    pub disk_memory: Budget,
    /// Memory for data on its way between domains and disks.
    pub in_flight: Supply,
    /// Pages of front ends that may be kept mapped.
    pub kept_pages: Allowance,
    /// Devices of the domains.
    pub devices: Devices,
    /// The machine's own devices.
    pub machine: Machine,
    /// Networks of the domains.
    pub networks: Networks,
    /// The right to make a domain: one at a time, as there is an unpacked kernel in memory meanwhile.
    pub making: Supply,
    /// Memory for packets that front ends and the machine's devices have no room for yet.
    pub waiting_packets: Room,
    /// The domains that this toolstack has made.
    pub domains: Domains,
    /// This domain's command line.
    pub command_line: &'static str,
}

/// Keys of this domain's command line.
const OPTIONS: [&str; 2] = ["domu", "console"];

impl Host {
    /// Words of this domain's command line that mean nothing to it. The first may be its name, as other boot loaders than GRUB 2 put it there.
    pub fn unknown_options(&self) -> impl Iterator<Item = &'static str> {
        let mut words = self.command_line.split_ascii_whitespace().peekable();
        words.next_if(|first| !first.contains('='));
        words.filter(|word| {
            let key = word.split_once('=').map(|(key, _)| key);
            !key.is_some_and(|key| OPTIONS.contains(&key))
        })
    }

    /// The value of `key=` on this domain's command line.
    pub fn option(&self, key: &str) -> Option<&'static str> {
        self.command_line
            .split_ascii_whitespace()
            .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }
}

/// The guest's main function.
pub fn main(info: StartInfo) -> ! {
    let mut executor = Executor::default();
    let waiting_packets = Room::new(memory::heap_free() / 16);
    let host = Rc::new(Host {
        reactor: Reactor::default(),
        spawner: executor.spawner(),
        archive: Archive::new(info.module(0).unwrap_or_default()),
        terminal: Terminal::default(),
        store: Store::default(),
        consoles: Consoles::default(),
        // The rest is for what grows with the number of domains, and for unpacking kernels.
        disk_memory: Budget::new(memory::heap_free() as u64 / 2),
        in_flight: Supply::new(memory::heap_free() / 16),
        // The other half of the addresses is for rings and for the toolstack.
        kept_pages: Allowance::new(foreign::WINDOW / 2),
        devices: Devices::default(),
        machine: Machine::find(&info, &waiting_packets),
        networks: Networks::default(),
        making: Supply::new(1),
        waiting_packets,
        domains: Domains::default(),
        command_line: info.command_line(),
    });
    let spawner = host.spawner.clone();
    spawner.spawn(terminal::receive(host.clone()));
    spawner.spawn(toolstack::watch(host.clone()));
    spawner.spawn(backend::block::follow_sizes(host.clone()));
    spawner.spawn(shell::run(host.clone()));
    event_channel::bind_virq(VIRQ_TIMER).expect("binding the timer interrupt");
    let mut timer = None;
    loop {
        interrupt::take(|vector| host.machine.interrupted(vector));
        event::take_pending(|port| host.reactor.fire(port));
        host.reactor.advance(time::now());
        if executor.run_round() {
            continue;
        }
        let deadline = host.reactor.next_deadline();
        if deadline != timer {
            // A deadline in the past fires at once, so none is missed between here and the wait.
            time::set_timer(deadline).expect("setting the timer");
            timer = deadline;
        }
        event::wait();
    }
}
