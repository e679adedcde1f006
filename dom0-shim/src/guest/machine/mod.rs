//! The machine's own devices that this domain drives: virtio devices on PCI, with interrupts by I/O APIC lines.
//!
//! A function's line is what firmware has written into its interrupt line register: there is no interpreter for
//! ACPI's routing tables here, and no MSI yet. Devices are told addresses of this domain as they are: where there is no
//! IOMMU, its RAM must have gfn == mfn, as Oxen gives it.

mod disk;
mod lines;
mod nic;
mod place;

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;

use dom0_shim::executor::Signal;
use dom0_shim::net::room::Room;
use guest_rt::interrupt;
use guest_rt::start_info::StartInfo;
use guest_rt::virtio::{self, Function};
use virtio_drivers::transport::DeviceType;

pub use disk::{MachineDisk, VirtioDisk};
use lines::Lines;
pub use nic::Nic;

/// A device with a line.
trait Interrupted {
    /// It has interrupted, or another one on its line has.
    fn interrupted(&self);
}

/// The devices.
#[derive(Default)]
pub struct Machine {
    disks: BTreeMap<String, Rc<VirtioDisk>>,
    nics: BTreeMap<String, Rc<Nic>>,
    /// Set when a disk has another size.
    pub resized: Signal,
    /// Who is on the line of each vector.
    vectors: RefCell<BTreeMap<u8, Vec<Rc<dyn Interrupted>>>>,
    /// What was found, and what could not be used, for the person at the prompt.
    pub report: Vec<String>,
}

impl Machine {
    /// Looks for devices and starts them. What network devices have no room for yet waits in `waiting_packets`.
    pub fn find(info: &StartInfo, waiting_packets: &Room) -> Self {
        let mut machine = Self::default();
        let functions = virtio::functions();
        if functions.is_empty() {
            return machine;
        }
        interrupt::enable();
        let mut lines = Lines::new(info);
        for function in functions {
            let place = function.place();
            if let Err(error) = machine.add(function, &mut lines, waiting_packets) {
                machine.report.push(format!("{place}: not used: {error}"));
            }
        }
        machine
    }

    fn add(&mut self, function: Function, lines: &mut Lines, waiting_packets: &Room) -> Result<(), String> {
        let device: Rc<dyn Interrupted>;
        let vector;
        match function.kind {
            DeviceType::Block => {
                vector = lines.route(&function)?;
                let disk = Rc::new(VirtioDisk::start(function.transport()?, self.resized.clone())?);
                let letter = u8::try_from(self.disks.len()).ok().filter(|&number| number < 26);
                let letter = letter.ok_or("there are too many disks")? + b'a';
                let name = format!("vd{}", char::from(letter));
                self.report.push(format!("/dev/{name}: {disk}"));
                self.disks.insert(name, disk.clone());
                device = disk;
            }
            DeviceType::Network => {
                vector = lines.route(&function)?;
                let nic = Rc::new(Nic::start(function.transport()?, waiting_packets.clone())?);
                let name = format!("eth{}", self.nics.len());
                self.report.push(format!("{name}: {nic}"));
                self.nics.insert(name, nic.clone());
                device = nic;
            }
            kind => return Err(format!("there is no driver for {kind:?}")),
        }
        self.vectors.borrow_mut().entry(vector).or_default().push(device);
        Ok(())
    }

    /// The network device of this name.
    pub fn nic(&self, name: &str) -> Option<&Rc<Nic>> {
        self.nics.get(name)
    }

    /// The disk of this name.
    pub fn disk(&self, name: &str) -> Option<&Rc<VirtioDisk>> {
        self.disks.get(name)
    }

    /// An interrupt has come: the devices on its line finish what is done.
    pub fn interrupted(&self, vector: u8) {
        for device in self.vectors.borrow().get(&vector).into_iter().flatten() {
            device.interrupted();
        }
        interrupt::end();
    }
}
