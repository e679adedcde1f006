//! The toolstack: makes domains with the hypercalls that libxl uses, ends them, and acts when they stop.
//!
//! * [`build`]: from a config to a domain ready to run.
//! * [`lifecycle`]: what happens when a domain has stopped.
//! * [`nodes`]: what xenstore says of a domain.
//! * [`resize`]: vCPUs and memory of a domain that runs.
//! * [`soft_reset`]: another kernel in a domain's memory.

mod build;
mod lifecycle;
mod nodes;
pub mod resize;
mod soft_reset;

use alloc::borrow::Cow;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;

use abi::{Domid, Errno};
use dom0_shim::executor::{Signal, pass};
use dom0_shim::net::packet::Mac;
use dom0_shim::restart;
use dom0_shim::xlcfg::disk::{Disk, Place};
use dom0_shim::xlcfg::prompt::parse_with;
use dom0_shim::xlcfg::{self, Config};
use guest_rt::hypercall::domctl;
use guest_rt::time;

use super::backend::block::{self, OpenDisk};
use super::backend::{self, Detach};
use super::{Host, console};

pub use build::{First, create};
pub use lifecycle::watch;

/// The domains made by this toolstack.
#[derive(Default)]
pub struct Domains {
    records: RefCell<BTreeMap<Domid, Record>>,
    reserved: RefCell<restart::Reserved>,
    /// Set whenever a domain has stopped or has gone.
    pub ended: Signal,
}

/// What is being done with a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It does not have yet all that it is to have.
    Making,
    /// Nothing: it is there for commands.
    Made,
    /// It is being destroyed.
    Destroying,
}

/// What is kept of a domain.
#[derive(Clone)]
struct Record {
    config: Rc<Config>,
    /// The disks that it has now; they outlive a restart.
    disks: Vec<OpenDisk>,
    /// System time at which it was made, or began to be.
    created: u64,
    /// For how long it was not started again, when it had not run for long before.
    delay: u64,
    stage: Stage,
    /// Its stop has been acted on, or is none of its own.
    handled: bool,
}

/// Why a domain could not be made.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What was being done.
    pub step: &'static str,
    /// What went wrong.
    pub cause: String,
}

impl core::fmt::Display for Failure {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}: {}", self.step, self.cause)
    }
}

/// Names the step in which something failed.
trait Step<T> {
    fn step(self, step: &'static str) -> Result<T, Failure>;
}

impl<T, E: core::fmt::Display> Step<T> for Result<T, E> {
    fn step(self, step: &'static str) -> Result<T, Failure> {
        self.map_err(|cause| Failure {
            step,
            cause: format!("{cause}"),
        })
    }
}

impl Domains {
    /// Name and number of every domain made here.
    pub fn list(&self) -> Vec<(Domid, String)> {
        self.records
            .borrow()
            .iter()
            .map(|(&domain, record)| (domain, record.config.name.clone()))
            .collect()
    }

    /// Finds a domain by name or number.
    pub fn find(&self, name: &str) -> Option<Domid> {
        let records = self.records.borrow();
        let by_name = records
            .iter()
            .find(|(_, record)| record.config.name == name)
            .map(|(&domain, _)| domain);
        by_name.or_else(|| name.parse().ok().filter(|domain| records.contains_key(domain)))
    }

    /// Checks that no domain has this name, or will have it when it is started again.
    ///
    /// # Errors
    /// A sentence.
    pub fn check_free(&self, name: &str) -> Result<(), String> {
        if self.find(name).is_some() {
            return Err(format!("a domain named {name} exists already"));
        }
        if self.reserved.borrow().has(name) {
            return Err(format!("a domain named {name} is being started again"));
        }
        Ok(())
    }

    /// The name of a domain.
    pub fn name(&self, domain: Domid) -> Option<String> {
        self.records
            .borrow()
            .get(&domain)
            .map(|record| record.config.name.clone())
    }

    /// What a domain is started again with.
    pub fn config(&self, domain: Domid) -> Option<Rc<Config>> {
        self.records
            .borrow()
            .get(&domain)
            .map(|record| record.config.clone())
    }

    /// Changes the config that a domain is started again with.
    pub fn update(&self, domain: Domid, change: impl FnOnce(&mut Config)) {
        if let Some(record) = self.records.borrow_mut().get_mut(&domain) {
            change(Rc::make_mut(&mut record.config));
        }
    }

    /// A domain is in CPU pool `name` from now on, over a restart too.
    pub fn move_to_pool(&self, domain: Domid, name: &str) {
        self.update(domain, |config| config.pool = Some(name.into()));
    }

    /// A CPU pool has another name.
    pub fn rename_pool(&self, old: &str, new: &str) {
        for (domain, _) in self.list() {
            self.update(domain, |config| {
                if config.pool.as_deref() == Some(old) {
                    config.pool = Some(new.into());
                }
            });
        }
    }

    /// System time at which a domain was made.
    pub fn created(&self, domain: Domid) -> Option<u64> {
        self.records.borrow().get(&domain).map(|record| record.created)
    }

    /// What is being done with a domain.
    pub fn stage(&self, domain: Domid) -> Option<Stage> {
        self.records.borrow().get(&domain).map(|record| record.stage)
    }

    /// A domain has all that it is to have.
    fn made(&self, domain: Domid) {
        let mut records = self.records.borrow_mut();
        if let Some(record) = records
            .get_mut(&domain)
            .filter(|record| record.stage == Stage::Making)
        {
            record.stage = Stage::Made;
            record.handled = false;
            record.created = time::now();
        }
    }

    /// A domain that has stopped is going to be like a new one; with which config and disks. `None`: somebody destroys it.
    fn make_again(&self, domain: Domid) -> Option<(Rc<Config>, Vec<OpenDisk>)> {
        let mut records = self.records.borrow_mut();
        let record = records
            .get_mut(&domain)
            .filter(|record| record.stage == Stage::Made)?;
        record.stage = Stage::Making;
        Some((record.config.clone(), record.disks.clone()))
    }

    /// How long to wait, in nanoseconds, before a domain that has stopped is started again.
    fn delay(&self, domain: Domid) -> u64 {
        let records = self.records.borrow();
        let delay = |record: &Record| restart::delay(time::now() - record.created, record.delay);
        records.get(&domain).map_or(0, delay)
    }

    /// A domain was started again after a delay.
    fn delayed(&self, domain: Domid, delay: u64) {
        if let Some(record) = self.records.borrow_mut().get_mut(&domain) {
            record.delay = delay;
        }
    }

    /// A domain is going to be destroyed; whether nobody has begun to do so before.
    fn begin_to_destroy(&self, domain: Domid) -> bool {
        let mut records = self.records.borrow_mut();
        let record = records.get_mut(&domain);
        let Some(record) = record.filter(|record| record.stage != Stage::Destroying) else {
            return false;
        };
        record.stage = Stage::Destroying;
        record.handled = true;
        true
    }

    fn remember(&self, domain: Domid, config: Rc<Config>, disks: Vec<OpenDisk>) {
        let record = Record {
            config,
            disks,
            created: time::now(),
            delay: 0,
            stage: Stage::Making,
            handled: false,
        };
        self.records.borrow_mut().insert(domain, record);
    }
}

/// Reads and parses a config; warnings go to the terminal.
///
/// # Errors
/// A sentence that names file and line.
pub async fn read_config(host: &Host, path: &str, settings: &[&str]) -> Result<Rc<Config>, String> {
    let bytes = config_file(host, path).await?;
    let text = core::str::from_utf8(&bytes).map_err(|_| format!("{path} is not a text file"))?;
    let mut config = parse_with(path, text, settings)?;
    for warning in &config.warnings {
        host.terminal.notice(&format!("{path}: {warning}"));
    }
    // A restarted domain keeps the addresses that were made up for it.
    for vif in &mut config.vifs {
        vif.mac.get_or_insert_with(new_mac);
    }
    Ok(Rc::new(config))
}

/// Gives a domain another name.
///
/// # Errors
/// A sentence: another has it, or it is none.
pub fn rename(host: &Host, domain: Domid, name: &str) -> Result<(), String> {
    xlcfg::check_name(name).map_err(|error| format!("'{name}': {error}"))?;
    host.domains.check_free(name)?;
    let handle = domctl::info(domain)
        .map_err(|error| format!("getdomaininfo: {error}"))?
        .handle;
    nodes::rename(&host.store, domain, &handle, name)
        .map_err(|error| format!("renaming domain {domain} in xenstore: {}", error.name()))?;
    console::rename(host, domain, name);
    host.networks.rename(domain, name);
    host.domains.update(domain, |config| config.name = name.into());
    Ok(())
}

/// Opens the disks that a domain is to have.
///
/// # Errors
/// The first that cannot be opened, in a sentence.
pub async fn open_disks(host: &Host, disks: &[Disk]) -> Result<Vec<OpenDisk>, String> {
    let mut open = Vec::new();
    for disk in disks {
        open.push(block::open(host, disk).await?);
    }
    Ok(open)
}

/// Gives a running domain another disk.
///
/// # Errors
/// A sentence.
pub async fn attach_disk(host: &Rc<Host>, domain: Domid, disk: &Disk) -> Result<(), String> {
    let open = block::open(host, disk).await?;
    // It may have been destroyed while the disk was read.
    if host.domains.stage(domain) != Some(Stage::Made) {
        return Err("the domain has gone meanwhile".into());
    }
    block::attach(host, domain, open.clone())?;
    if let Some(record) = host.domains.records.borrow_mut().get_mut(&domain) {
        record.disks.push(open);
    }
    Ok(())
}

/// Gives a disk of a running domain another size.
///
/// # Errors
/// A sentence.
pub fn resize_disk(host: &Host, domain: Domid, number: u32, bytes: u64) -> Result<(), String> {
    let records = host.domains.records.borrow();
    let disks = records
        .get(&domain)
        .map(|record| &record.disks[..])
        .unwrap_or_default();
    let open = disks.iter().find(|open| open.disk.number == number);
    open.ok_or("there is no such device")?.resize(host, domain, bytes)
}

/// Takes a disk from a running domain.
///
/// # Errors
/// A sentence.
pub async fn detach_disk(host: &Host, domain: Domid, number: u32, how: Detach) -> Result<(), String> {
    // The domain may let go of it when nobody waits for that any more.
    if let Some(record) = host.domains.records.borrow_mut().get_mut(&domain) {
        record.disks.retain(|open| open.disk.number != number);
    }
    backend::remove(host, block::id(domain, number), how).await
}

/// A random Ethernet address of Xen's range.
pub fn new_mac() -> Mac {
    let [a, b, c, ..] = build::new_handle();
    Mac::of_xen([a, b, c])
}

/// Where configs are looked for.
pub const CONFIGS: &str = "/etc/oxen";

/// Largest config.
const CONFIG_MAX: u64 = 1 << 20;

/// A config by its path, or by its name in [`CONFIGS`], without `.cfg` or with it.
async fn config_file(host: &Host, path: &str) -> Result<Cow<'static, [u8]>, String> {
    if let Some(place) = Place::parse(path) {
        return Ok(Cow::Owned(host.machine.read_file(&place?, CONFIG_MAX).await?));
    }
    let names = [
        path.into(),
        format!("{CONFIGS}/{path}"),
        format!("{CONFIGS}/{path}.cfg"),
    ];
    let found = names.iter().find_map(|name| host.archive.file(name));
    found.map(Cow::Borrowed).ok_or_else(|| {
        format!("{path}: no such file in the boot archive, nor in {CONFIGS} with or without .cfg")
    })
}

/// A file that a config names: of the boot archive, or on a disk of the machine.
///
/// # Errors
/// A sentence: there is none, or it has more than `most` bytes.
async fn file(host: &Host, path: &str, most: u64) -> Result<Cow<'static, [u8]>, String> {
    if let Some(place) = Place::parse(path) {
        return Ok(Cow::Owned(host.machine.read_file(&place?, most).await?));
    }
    let found = host.archive.file(path);
    found
        .map(Cow::Borrowed)
        .ok_or_else(|| format!("{path}: no such file in the boot archive"))
}

/// Ends a domain and forgets all about it. If somebody else is at it, or has done so, there is nothing left to do.
///
/// # Errors
/// What the hypervisor answers.
pub async fn destroy(host: &Host, domain: Domid) -> Result<(), Errno> {
    if !host.domains.begin_to_destroy(domain) {
        return Ok(());
    }
    // It does nothing any more that somebody would have to act on. One that is gone cannot, either.
    let _ = domctl::pause(domain);
    // Pages of the domain mapped here would keep it from going away.
    console::close(host, domain).await;
    backend::remove_all(host, domain).await;
    host.networks.forget(domain);
    host.store.release(domain);
    let result = loop {
        match domctl::destroy(domain) {
            Err(Errno::EAGAIN | Errno::ERESTART) => pass().await,
            Err(Errno::ESRCH) => break Ok(()),
            result => break result,
        }
    };
    nodes::remove(&host.store, domain);
    host.domains.records.borrow_mut().remove(&domain);
    host.domains.ended.notify();
    result
}
