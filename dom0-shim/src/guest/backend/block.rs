//! Disks for domains: the driver that Linux's xen-blkfront connects to.
//!
//! Data goes straight between the guest's pages and the disk's, see [`Pages`].

use abi::Domid;
use abi::io::blkif::{VDISK_CDROM, VDISK_READONLY, VDISK_REMOVABLE};
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use dom0_shim::backend::ring::Broken;
use dom0_shim::block::request::INDIRECT_SEGMENTS_MAX;
use dom0_shim::block::ring::{BlockRing, Protocol};
use dom0_shim::block::{Access, BlockDevice, Discard, SECTOR, service};
use dom0_shim::xlcfg::disk::{Disk, Target};
use guest_rt::hypercall::grant::Status;

use super::backing::{self, Data};
use super::pages::Pages;
use super::{Channel, Driver, Front, Id, Links, Nodes, SharedPages, Stop, add, nodes};
use crate::guest::Host;

/// The class of devices.
pub const CLASS: &str = "vbd";
/// Most rings of a device.
const QUEUES_MAX: u32 = 4;
/// Most pages of a ring, as a power of two.
const RING_ORDER_MAX: u32 = 4;

/// A disk with what is behind it. Clones share that.
#[derive(Clone)]
pub struct OpenDisk {
    /// As it was specified.
    pub disk: Rc<Disk>,
    data: Rc<Data>,
}

/// Opens a disk.
///
/// # Errors
/// A sentence, as of [`backing::open`].
pub async fn open(host: &Host, disk: &Disk) -> Result<OpenDisk, String> {
    Ok(OpenDisk {
        disk: Rc::new(disk.clone()),
        data: Rc::new(backing::open(host, disk).await?),
    })
}

/// Gives a domain a disk.
///
/// # Errors
/// A sentence, as of [`add`].
pub fn attach(host: &Rc<Host>, domain: Domid, open: OpenDisk) -> Result<(), String> {
    let disk = open.disk.clone();
    let flag = |set: bool| if set { "1" } else { "0" }.to_string();
    let kind = if disk.cdrom { "cdrom" } else { "disk" };
    let params = match &disk.target {
        Target::File(path) => path.clone(),
        Target::Machine(place) => format!("{place}"),
        Target::Ram(bytes) => format!("ram:{bytes}"),
    };
    let mode = match disk.access {
        Access::ReadOnly => "r",
        Access::ReadWrite => "w",
    };
    let front = Nodes::from([
        ("virtual-device", format!("{}", disk.number)),
        ("device-type", kind.to_string()),
        ("trusted", flag(true)),
    ]);
    let back = Nodes::from([
        ("params", params),
        ("removable", flag(disk.cdrom)),
        ("bootable", flag(true)),
        ("dev", disk.vdev.clone()),
        ("type", "phy".to_string()),
        ("mode", mode.to_string()),
        ("device-type", kind.to_string()),
        ("discard-enable", flag(disk.discard)),
    ]);
    let vdev = disk.vdev.clone();
    add(host, id(domain, disk.number), open, &front, &back).map_err(|error| format!("{vdev}: {error}"))
}

impl OpenDisk {
    /// Opens another disk of the same specification; in RAM, it is as large as this one is by now.
    ///
    /// # Errors
    /// As of [`open`], and if there is not enough memory for that size.
    pub async fn open_another(&self, host: &Host) -> Result<Self, String> {
        let another = open(host, &self.disk).await?;
        let sectors = self.data.sectors();
        if matches!(*another.data, Data::Ram(_)) && another.data.sectors() != sectors {
            let resized = another.data.resize(host, sectors * SECTOR as u64);
            resized.map_err(|error| format!("{}: {error}", self.disk.vdev))?;
        }
        Ok(another)
    }

    /// Gives a domain's disk another size, as `block-resize`.
    ///
    /// # Errors
    /// A sentence: it cannot have another size.
    pub fn resize(&self, host: &Host, domain: Domid, bytes: u64) -> Result<(), String> {
        self.data.resize(host, bytes)?;
        host.devices.announce(id(domain, self.disk.number));
        Ok(())
    }
}

/// Task: tells front ends when a disk of the machine has another size.
pub async fn follow_sizes(host: Rc<Host>) {
    loop {
        host.machine.resized.wait().await;
        for (domain, _) in host.domains.list() {
            let disks = host.devices.of(domain).into_iter().filter(|id| id.class == CLASS);
            disks.for_each(|id| host.devices.announce(id));
        }
    }
}

/// Names a disk.
pub fn id(domain: Domid, number: u32) -> Id {
    Id {
        domain,
        class: CLASS,
        number,
    }
}

impl Driver for OpenDisk {
    const CLOSED: Stop = Stop::WhenQuiet;

    fn features(&self) -> Nodes {
        let mut nodes = Nodes::from([
            (
                "feature-max-indirect-segments",
                format!("{INDIRECT_SEGMENTS_MAX}"),
            ),
            ("multi-queue-max-queues", format!("{QUEUES_MAX}")),
            ("max-ring-page-order", format!("{RING_ORDER_MAX}")),
            ("feature-persistent", "1".to_string()),
            ("feature-flush-cache", "1".to_string()),
            ("feature-barrier", "1".to_string()),
        ]);
        if let (Discard::Offered, Some(granularity)) = (self.discards(), self.data.discard_granularity()) {
            nodes.extend([
                ("feature-discard", "1".to_string()),
                ("discard-granularity", format!("{granularity}")),
                ("discard-alignment", "0".to_string()),
                ("discard-secure", "0".to_string()),
            ]);
        }
        nodes
    }

    fn connect(&self, host: &Rc<Host>, front: &Front<'_>) -> Result<Links, String> {
        let protocol = match front.text("protocol") {
            None => Protocol::default(),
            Some(name) => {
                Protocol::named(&name).ok_or("protocol: only x86_64-abi and x86_32-abi are spoken")?
            }
        };
        let queues = front.optional("multi-queue-num-queues")?.unwrap_or(1);
        if !(1..=QUEUES_MAX).contains(&queues) {
            return Err(format!("multi-queue-num-queues: not within 1 and {QUEUES_MAX}"));
        }
        // All or none: rings made before a failure are let go of here.
        let rings: Vec<(Channel, Ring)> = (0..queues)
            .map(|queue| {
                let prefix = if queues == 1 {
                    String::new()
                } else {
                    format!("queue-{queue}/")
                };
                self.connect_ring(host, front, &prefix, protocol)
            })
            .collect::<Result<_, String>>()?;
        let id = id(front.domain, self.disk.number);
        let persistent = front.optional("feature-persistent")? == Some(1);
        let mut links = Links::default();
        for (channel, ring) in rings {
            links.spawn(host, channel, |channel| {
                let memory = match persistent {
                    true => Pages::kept(id.domain, &host.kept_pages),
                    false => Pages::copied(id.domain),
                };
                run(host.clone(), id, channel, ring, self.clone(), memory)
            });
        }
        Ok(links)
    }

    fn details(&self) -> Nodes {
        let blocks = self.data.block_sizes();
        let mut info = 0;
        if self.disk.cdrom {
            info |= VDISK_CDROM | VDISK_REMOVABLE;
        }
        if self.data.access() == Access::ReadOnly {
            info |= VDISK_READONLY;
        }
        Nodes::from([
            ("sectors", format!("{}", self.data.sectors())),
            ("info", format!("{info}")),
            ("sector-size", format!("{}", blocks.logical)),
            ("physical-sector-size", format!("{}", blocks.physical)),
        ])
    }
}

type Ring = BlockRing<SharedPages>;

impl OpenDisk {
    fn discards(&self) -> Discard {
        match self.disk.discard {
            true => Discard::Offered,
            false => Discard::Refused,
        }
    }

    /// Maps one ring and binds its event channel.
    fn connect_ring(
        &self,
        host: &Host,
        front: &Front<'_>,
        prefix: &str,
        protocol: Protocol,
    ) -> Result<(Channel, Ring), String> {
        let references = match front.optional("ring-page-order")? {
            None => Vec::from([front.number(&format!("{prefix}ring-ref"))?]),
            Some(order) if order <= RING_ORDER_MAX => (0..1 << order)
                .map(|page| front.number(&format!("{prefix}ring-ref{page}")))
                .collect::<Result<_, String>>()?,
            Some(_) => return Err(format!("ring-page-order: more than {RING_ORDER_MAX}")),
        };
        let pages = SharedPages::map(front.domain, &references)
            .map_err(|status: Status| format!("{prefix}ring-ref: {status}"))?;
        let ring = BlockRing::attach(pages, protocol)
            .map_err(|Broken| format!("{prefix}ring-ref: the ring's indices contradict each other"))?;
        let port = front.number(&format!("{prefix}event-channel"))?;
        let channel = Channel::bind(host, front.domain, port)
            .map_err(|error| format!("{prefix}event-channel: {error}"))?;
        Ok((channel, ring))
    }
}

/// Task: serves one ring until it is stopped, or until the front end breaks it.
async fn run(host: Rc<Host>, id: Id, channel: Channel, ring: Ring, open: OpenDisk, memory: Pages) {
    if let Err(Broken) = service::run(
        ring,
        &channel,
        &*open.data,
        open.discards(),
        &memory,
        &host.in_flight,
    )
    .await
    {
        // Not on the terminal, which a domain could fill that way.
        let error = "the ring has more requests than it can hold; it is served no longer";
        nodes::set_error(&host.store, id, error);
    }
    // What the front end has not flushed is not to depend on another one's doing so.
    if open.data.access() == Access::ReadWrite && open.data.flush().await.is_err() {
        nodes::set_error(&host.store, id, "the disk has failed in its last flush");
    }
}
