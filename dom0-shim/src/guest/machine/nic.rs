//! Virtio network devices (virtio 1.2, 5.1): complete frames out and in, no offloads.
// UNSAFETY: buffers are the device's while it fills or sends them.
#![expect(unsafe_code, reason = "buffers belong to a device for a while")]

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;
use core::sync::atomic::{Ordering, fence};

use dom0_shim::executor::Signal;
use dom0_shim::net::backlog::Backlog;
use dom0_shim::net::packet::Mac;
use dom0_shim::net::room::Room;
use guest_rt::virtio::Identity;
use virtio_drivers::device::net::VirtIONetRaw;
use virtio_drivers::transport::pci::PciTransport;

use super::Interrupted;

/// Entries of each queue.
const ENTRIES: usize = 64;
/// Room for a frame with a VLAN tag and virtio's header.
const BUFFER: usize = 2048;
/// Frames that wait to be taken; what comes beyond is lost, as on any full link.
const WAITING_MAX: usize = 256;

type Driver = VirtIONetRaw<Identity, PciTransport, ENTRIES>;

struct Device {
    driver: Driver,
    /// With the device: to be filled, and to be sent.
    filling: BTreeMap<u16, Box<[u8]>>,
    sending: BTreeMap<u16, Vec<u8>>,
    /// To be sent when the device has let go of others.
    backlog: Backlog,
    received: VecDeque<Vec<u8>>,
}

/// A network device of the machine.
pub struct Nic {
    device: RefCell<Device>,
    /// Set when frames have come in.
    pub arrived: Signal,
    mac: Mac,
}

impl fmt::Display for Nic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "virtio network device, {}", self.mac)
    }
}

impl Nic {
    /// Starts the device. What it has no room for yet waits in `room`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn start(transport: PciTransport, room: Room) -> Result<Self, String> {
        let driver = Driver::new(transport).map_err(|error| error.to_string())?;
        let mac = Mac(driver.mac_address());
        let mut device = Device {
            driver,
            filling: BTreeMap::new(),
            sending: BTreeMap::new(),
            backlog: Backlog::new(room),
            received: VecDeque::new(),
        };
        for _ in 0..ENTRIES {
            device.fill(vec![0; BUFFER].into_boxed_slice());
        }
        Ok(Self {
            device: RefCell::new(device),
            arrived: Signal::default(),
            mac,
        })
    }

    /// Its own address.
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// The frames that have come in.
    pub fn take(&self) -> VecDeque<Vec<u8>> {
        core::mem::take(&mut self.device.borrow_mut().received)
    }

    /// Sends a frame, when the device can take it; it is lost if too much waits already.
    pub fn send(&self, frame: &[u8]) {
        self.device.borrow_mut().send(frame);
    }
}

impl Interrupted for Nic {
    fn interrupted(&self) {
        let device = &mut *self.device.borrow_mut();
        device.driver.ack_interrupt();
        device.catch_up();
        if device.collect() {
            self.arrived.notify();
        }
    }
}

impl Device {
    /// Gives the device a buffer to fill.
    fn fill(&mut self, mut buffer: Box<[u8]>) {
        // SAFETY: the buffer is on the heap, and stays as it is in `filling` until the device is done.
        if let Ok(token) = unsafe { self.driver.receive_begin(&mut buffer) } {
            self.filling.insert(token, buffer);
        }
    }

    /// Takes what the device has filled. Returns whether there was anything.
    fn collect(&mut self) -> bool {
        let mut any = false;
        while let Some(token) = next_used(|| self.driver.poll_receive()) {
            let Some(mut buffer) = self.filling.remove(&token) else {
                // A device that answers what nobody asked cannot be trusted with more.
                break;
            };
            // SAFETY: the same buffer as in `fill`.
            let filled = unsafe { self.driver.receive_complete(token, &mut buffer) };
            let frame = filled
                .ok()
                .and_then(|(header, length)| buffer.get(header..header.checked_add(length)?));
            if let Some(frame) = frame
                && self.received.len() < WAITING_MAX
            {
                self.received.push_back(frame.to_vec());
                any = true;
            }
            self.fill(buffer);
        }
        any
    }

    /// Lets go of what has been sent. Returns whether there was anything.
    fn reap(&mut self) -> bool {
        let mut any = false;
        while let Some(token) = next_used(|| self.driver.poll_transmit()) {
            let Some(buffer) = self.sending.remove(&token) else {
                break;
            };
            // SAFETY: the same buffer as in `send`. How much the device says to have written into it is of no interest.
            let _ = unsafe { self.driver.transmit_complete(token, &buffer) };
            any = true;
        }
        any
    }

    fn send(&mut self, frame: &[u8]) {
        self.reap();
        let mut buffer = vec![0; BUFFER];
        let Ok(header) = self.driver.fill_buffer_header(&mut buffer) else {
            return;
        };
        buffer.truncate(header);
        buffer.extend_from_slice(frame);
        let Self {
            driver,
            sending,
            backlog,
            ..
        } = self;
        backlog.send(buffer, |frame| hand_over(driver, sending, frame));
    }

    /// Sends what waits for the device to have let go of others, and of what it sends meanwhile.
    fn catch_up(&mut self) {
        while self.reap() {
            let Self {
                driver,
                sending,
                backlog,
                ..
            } = self;
            backlog.catch_up(|frame| hand_over(driver, sending, frame));
        }
    }
}

/// What the device has used next. Before there is nothing, it is looked for once more: whatever was taken last has told
/// the device when to interrupt (`used_event`), which it may see only after this CPU has read its index. What it used in
/// between it would not announce (virtio 1.2, 2.7.14).
fn next_used(mut poll: impl FnMut() -> Option<u16>) -> Option<u16> {
    poll().or_else(|| {
        fence(Ordering::SeqCst);
        poll()
    })
}

/// Gives the device a frame to send.
///
/// # Errors
/// The frame: the device has as many as its queue holds.
fn hand_over(
    driver: &mut Driver,
    sending: &mut BTreeMap<u16, Vec<u8>>,
    frame: Vec<u8>,
) -> Result<(), Vec<u8>> {
    // SAFETY: the buffer is on the heap, and stays as it is in `sending` until the device is done.
    match unsafe { driver.transmit_begin(&frame) } {
        Ok(token) => {
            sending.insert(token, frame);
            Ok(())
        }
        Err(virtio_drivers::Error::QueueFull) => Err(frame),
        // No device will ever take it.
        Err(_) => Ok(()),
    }
}
