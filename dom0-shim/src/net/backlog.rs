//! Frames for a device of the machine that has as many as it can hold: it sends for as long as the wire takes, and what
//! domains have sent at once is not lost meanwhile.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::room::Room;

/// Bytes that may wait: more would only wait for longer than their receivers do.
const WAITING_MAX: usize = 1 << 20;

/// Frames that wait, in order.
#[derive(Debug)]
pub struct Backlog {
    frames: VecDeque<Vec<u8>>,
    /// Bytes that they take.
    bytes: usize,
    room: Room,
}

impl Backlog {
    /// None yet; those that come take of this room.
    pub fn new(room: Room) -> Self {
        Self {
            frames: VecDeque::new(),
            bytes: 0,
            room,
        }
    }

    /// Sends a frame by `send`, which gives it back if the device takes none now; then it waits, or is lost if too much
    /// does. None overtakes those that wait.
    pub fn send(&mut self, frame: Vec<u8>, mut send: impl FnMut(Vec<u8>) -> Result<(), Vec<u8>>) {
        self.catch_up(&mut send);
        let frame = if self.frames.is_empty() {
            send(frame)
        } else {
            Err(frame)
        };
        if let Err(frame) = frame
            && self.bytes + frame.capacity() <= WAITING_MAX
            && self.room.take(frame.capacity(), self.bytes)
        {
            self.bytes += frame.capacity();
            self.frames.push_back(frame);
        }
    }

    /// Sends what waits, as far as the device takes it.
    pub fn catch_up(&mut self, mut send: impl FnMut(Vec<u8>) -> Result<(), Vec<u8>>) {
        while let Some(frame) = self.frames.pop_front() {
            let bytes = frame.capacity();
            if let Err(frame) = send(frame) {
                return self.frames.push_front(frame);
            }
            self.bytes -= bytes;
            self.room.give_back(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device with room for so many frames.
    struct Device(Vec<u8>, usize);

    impl Device {
        fn send(&mut self) -> impl FnMut(Vec<u8>) -> Result<(), Vec<u8>> {
            |frame| {
                if self.0.len() == self.1 {
                    return Err(frame);
                }
                self.0.push(frame[0]);
                Ok(())
            }
        }
    }

    fn frame(number: u8) -> Vec<u8> {
        alloc::vec![number; 100]
    }

    #[test]
    fn what_waits_keeps_its_order() {
        let room = Room::new(10_000);
        let (mut backlog, mut device) = (Backlog::new(room.clone()), Device(Vec::new(), 2));
        for number in 0..5 {
            backlog.send(frame(number), device.send());
        }
        assert_eq!((&*device.0, room.left()), (&[0, 1][..], 10_000 - 300));
        device.0.clear();
        backlog.send(frame(5), device.send());
        assert_eq!(device.0, [2, 3]);
        device.1 = 100;
        backlog.catch_up(device.send());
        backlog.send(frame(6), device.send());
        assert_eq!((&*device.0, room.left()), (&[2, 3, 4, 5, 6][..], 10_000));
    }

    #[test]
    fn what_waits_is_bounded() {
        let room = Room::new(1_000);
        let (mut backlog, mut device) = (Backlog::new(room.clone()), Device(Vec::new(), 0));
        for number in 0..20 {
            backlog.send(frame(number), device.send());
        }
        assert_eq!(room.left(), 500);
        device.1 = 100;
        backlog.catch_up(device.send());
        assert_eq!((&*device.0, room.left()), (&[0, 1, 2, 3, 4][..], 1_000));
    }
}
