//! The two ends of a TCP connection by which costs are measured: smoltcp, without checksums or segmentation left to
//! others.

use alloc::vec;
use alloc::vec::Vec;

use smoltcp::iface::{Config, Interface, PollIngressSingleResult, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr};

/// Addresses and ports of the two ends.
const ADDRESSES: [IpAddress; 2] = [IpAddress::v4(10, 0, 0, 1), IpAddress::v4(10, 0, 0, 2)];
/// As above.
const PORTS: [u16; 2] = [5000, 5001];
/// Bytes of a full frame, and of the data of TCP in it.
pub const FRAME: usize = 1514;
/// As above.
const SEGMENT: usize = 1460;
/// What may be under way, in bytes: devices have buffers for a few frames more.
const WINDOW: usize = 30 * SEGMENT;
/// Bytes that are sent for each measurement, and how many there are.
pub const STREAM: usize = 1 << 20;
/// As above.
pub const STREAMS: u32 = 8;

/// A network device, and the clock beside it.
pub trait Wire: Device {
    /// The time.
    fn now(&self) -> Instant;

    /// Starts what is to be sent, and gives buffers back.
    fn flush(&mut self);
}

/// What smoltcp is told of such a device.
pub fn capabilities() -> DeviceCapabilities {
    let mut capabilities = DeviceCapabilities::default();
    capabilities.medium = Medium::Ethernet;
    capabilities.max_transmission_unit = FRAME;
    capabilities
}

/// One end of a connection.
pub struct End<W> {
    /// The device.
    pub wire: W,
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
}

impl<W: Wire> End<W> {
    /// The end with one of the addresses; the second listens for the first.
    pub fn new(mut wire: W, mac: [u8; 6], which: usize) -> Self {
        let config = Config::new(EthernetAddress(mac).into());
        let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses
                .push(IpCidr::new(ADDRESSES[which], 24))
                .expect("room for one");
        });
        let buffer = || SocketBuffer::new(vec![0; WINDOW]);
        let mut socket = Socket::new(buffer(), buffer());
        // What is late would be counted as work.
        socket.set_ack_delay(None);
        socket.set_nagle_enabled(false);
        let begun = match which {
            0 => socket
                .connect(interface.context(), (ADDRESSES[1], PORTS[1]), PORTS[0])
                .is_ok(),
            _ => socket.listen(PORTS[1]).is_ok(),
        };
        assert!(begun, "a new socket is free");
        let mut sockets = SocketSet::new(Vec::new());
        let socket = sockets.add(socket);
        End {
            wire,
            interface,
            sockets,
            socket,
        }
    }

    /// The socket.
    pub fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.socket)
    }

    /// Takes all packets that have come.
    pub fn take(&mut self) {
        let now = self.wire.now();
        while self
            .interface
            .poll_ingress_single(now, &mut self.wire, &mut self.sockets)
            != PollIngressSingleResult::None
        {}
    }

    /// Sends all that can be sent.
    pub fn send(&mut self) {
        let now = self.wire.now();
        while self.interface.poll_egress(now, &mut self.wire, &mut self.sockets) != PollResult::None {}
        self.wire.flush();
    }

    /// Gives the socket as much as it takes of the `left` bytes that are still to be sent. Returns whether there is more to
    /// do: not when all of it is acknowledged, nor when the connection is closed.
    pub fn fill(&mut self, left: &mut usize) -> bool {
        static BYTES: [u8; WINDOW] = [0x5a; WINDOW];
        match self.socket().send_slice(&BYTES[..(*left).min(WINDOW)]) {
            Ok(taken) => *left -= taken,
            Err(_) => return false,
        }
        *left > 0 || self.socket().send_queue() > 0
    }

    /// Drops the data that has come.
    pub fn drop_data(&mut self) {
        while self.socket().can_recv() {
            let _ = self.socket().recv(|bytes| (bytes.len(), ()));
        }
    }
}
