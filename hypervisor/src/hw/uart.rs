//! A serial port with bytes that wait for it: the line takes 87 µs for one, at 115,200 bits a second, and nobody is to stand
//! still for so long.

use heapless::Deque;
use uart_16550::Uart16550;
use uart_16550::backend::Backend;
use uart_16550::spec::registers::{IER, LSR};

use super::input::ROOM as INPUT;

/// Bytes that wait, at most: as Xen's `serial_tx_buffer=` by default.
pub const ROOM: usize = 16 << 10;
/// A line that takes no byte for so many looks at its status is dead, or held up by its other end.
const PATIENCE: u32 = 200_000;
/// The same for writers that do not wait. And an interrupt that has not come after so long, while dom0 writes, does not come.
const PATIENCE_NS: u64 = 1_000_000_000;

/// One port.
pub struct Port<B: Backend> {
    uart: Option<Uart16550<B>>,
    irq: u8,
    waiting: Deque<u8, ROOM>,
    /// Writers go on before all is sent.
    queues: bool,
    /// It interrupts when there is input.
    interrupts: bool,
    /// And when it can take more.
    asks_for_more: bool,
    /// It has interrupted.
    heard: bool,
    /// Since when dom0 writes and it should have interrupted, in nanoseconds of system time.
    unheard_since: Option<u64>,
    /// Since when there has been no room and no byte was sent.
    full_since: Option<u64>,
}

impl<B: Backend> Port<B> {
    /// There is none.
    pub const fn new() -> Self {
        Self {
            uart: None,
            irq: 0,
            waiting: Deque::new(),
            queues: false,
            interrupts: false,
            asks_for_more: false,
            heard: false,
            unheard_since: None,
            full_since: None,
        }
    }

    /// There is one, set up, with ISA interrupt `irq`; 0: it has none.
    pub fn attach(&mut self, uart: Uart16550<B>, irq: u8) {
        self.uart = Some(uart);
        self.irq = irq;
    }

    /// Its interrupt, if there is a port and it has one.
    pub fn irq(&self) -> Option<u8> {
        (self.uart.is_some() && self.irq != 0).then_some(self.irq)
    }

    /// Writers go on before all is sent. What waits then goes when somebody writes, and from
    /// [`enable_interrupts`](Self::enable_interrupts) on by itself.
    pub fn queue(&mut self) {
        self.queues = true;
    }

    /// Writers wait until all is sent, as it is now.
    pub fn stop_queueing(&mut self, typed: impl FnMut(u8)) {
        self.queues = false;
        self.flush(typed);
    }

    /// Interrupt when there is input, and while something waits.
    pub fn enable_interrupts(&mut self) {
        if let Some(uart) = &mut self.uart {
            uart.enable_interrupts(IER::DATA_READY);
            self.interrupts = true;
            self.transmit();
        }
    }

    /// Send `bytes`. Returns when all are sent, or wait. What is typed meanwhile goes to `typed`.
    pub fn send(&mut self, bytes: &[u8], mut typed: impl FnMut(u8)) {
        if self.uart.is_none() {
            return;
        }
        for &byte in bytes {
            if byte == b'\n' {
                self.put(b'\r', &mut typed);
            }
            self.put(byte, &mut typed);
        }
        if self.queues {
            self.transmit();
        } else {
            self.flush(typed);
        }
    }

    fn put(&mut self, byte: u8, typed: impl FnMut(u8)) {
        if self.waiting.is_full() {
            self.wait_until(typed, |waiting| !waiting.is_full());
        }
        let _ = self.waiting.push_back(byte);
    }

    /// Return when nothing waits.
    fn flush(&mut self, typed: impl FnMut(u8)) {
        self.wait_until(typed, Deque::is_empty);
    }

    /// Return when all is on the line, too: what stops the machine does not wait for the port's own FIFO.
    pub fn drain(&mut self, typed: impl FnMut(u8)) {
        self.flush(typed);
        let Some(uart) = &mut self.uart else { return };
        for _ in 0..PATIENCE {
            if uart.lsr().contains(LSR::TRANSMITTER_EMPTY) {
                break;
            }
            core::hint::spin_loop();
        }
    }

    fn wait_until(&mut self, mut typed: impl FnMut(u8), done: impl Fn(&Deque<u8, ROOM>) -> bool) {
        let mut patience = PATIENCE;
        let mut before = self.waiting.len();
        while !done(&self.waiting) {
            self.serve(&mut typed);
            if self.waiting.len() < before {
                (before, patience) = (self.waiting.len(), PATIENCE);
            } else if patience == 0 {
                self.waiting.clear();
            }
            patience = patience.saturating_sub(1);
            core::hint::spin_loop();
        }
    }

    /// Is there room for `len` bytes of dom0's, whatever they are, at `now`, in nanoseconds? If there has been none for a second, and no byte was sent, what
    /// waits is lost, and there is. If no interrupt comes, writers wait from then on.
    pub fn has_room(&mut self, len: usize, now: u64) -> bool {
        self.transmit();
        if self.asks_for_more && !self.heard {
            let since = *self.unheard_since.get_or_insert(now);
            self.queues &= now.saturating_sub(since) <= PATIENCE_NS;
        }
        if !self.queues || self.waiting.len() + 2 * len <= ROOM {
            self.full_since = None;
            return true;
        }
        let since = *self.full_since.get_or_insert(now);
        if now.saturating_sub(since) > PATIENCE_NS {
            self.waiting.clear();
        }
        self.waiting.is_empty()
    }

    /// It may have interrupted: [`serve`](Self::serve) it.
    pub fn interrupted(&mut self, typed: impl FnMut(u8)) {
        self.heard |= self.asks_for_more;
        self.serve(typed);
    }

    /// Take what has come, send what can go. Afterwards, whatever happens next interrupts: the interrupt's line has been low.
    fn serve(&mut self, mut typed: impl FnMut(u8)) {
        /// What comes while something is sent, holds the line up: so look again. A UART that broke reads as ones for ever.
        const ROUNDS: usize = 4;
        for _ in 0..ROUNDS {
            let Some(uart) = &mut self.uart else { return };
            for _ in 0..INPUT {
                let Ok(byte) = uart.try_receive_byte() else { break };
                typed(byte);
            }
            self.transmit();
            if let Some(uart) = &mut self.uart
                && uart.ready_to_receive().is_err()
            {
                return;
            }
        }
        // The line has been high all the time; this lets it go.
        if let Some(uart) = &mut self.uart
            && self.interrupts
        {
            let all = uart.ier();
            uart.disable_interrupts(all);
            uart.enable_interrupts(all);
        }
    }

    fn transmit(&mut self) {
        let Some(uart) = &mut self.uart else { return };
        loop {
            let sent = uart.send_bytes(self.waiting.as_slices().0);
            if sent == 0 {
                break;
            }
            self.full_since = None;
            for _ in 0..sent {
                self.waiting.pop_front();
            }
        }
        let more = self.interrupts && self.queues && !self.waiting.is_empty();
        if more != self.asks_for_more {
            self.asks_for_more = more;
            if more {
                uart.enable_interrupts(IER::THR_EMPTY);
            } else {
                uart.disable_interrupts(IER::THR_EMPTY);
            }
        }
    }
}

#[cfg(test)]
#[expect(unsafe_code, reason = "a fake in the place of the hardware")]
mod tests {
    use alloc::collections::VecDeque;
    use alloc::rc::Rc;
    use alloc::vec::Vec;
    use core::cell::RefCell;

    use super::*;

    const DATA: u8 = 0;
    const IER_AT: u8 = 1;
    const LSR_AT: u8 = 5;

    /// A UART whose line takes bytes when the test says so.
    #[derive(Default)]
    struct Registers {
        line: Vec<u8>,
        input: VecDeque<u8>,
        /// Bytes that it still takes.
        takes: usize,
        in_fifo: usize,
        ier: u8,
        /// All that were ever on.
        ier_ever: u8,
        /// How often all interrupts were switched off.
        interrupts_off: u32,
    }

    #[derive(Clone, Default)]
    struct Fake(Rc<RefCell<Registers>>);

    impl Backend for Fake {
        unsafe fn read(&mut self, offset: u8) -> u8 {
            let mut registers = self.0.borrow_mut();
            match offset {
                DATA => registers.input.pop_front().unwrap_or(0),
                IER_AT => registers.ier,
                LSR_AT => {
                    if registers.in_fifo > 0 && registers.takes > 0 {
                        (registers.in_fifo, registers.takes) = (0, registers.takes - 1);
                    }
                    let empty = u8::from(registers.in_fifo == 0);
                    u8::from(!registers.input.is_empty()) | empty << 5 | empty << 6
                }
                _ => 0,
            }
        }

        unsafe fn write(&mut self, offset: u8, value: u8) {
            let mut registers = self.0.borrow_mut();
            match offset {
                DATA => {
                    registers.line.push(value);
                    registers.in_fifo += 1;
                }
                IER_AT => {
                    registers.ier = value;
                    registers.ier_ever |= value;
                    registers.interrupts_off += u32::from(value == 0);
                }
                _ => {}
            }
        }
    }

    /// A port on a UART that empties its FIFO `takes` times.
    fn port(takes: usize) -> (alloc::boxed::Box<Port<Fake>>, Fake) {
        let fake = Fake::default();
        fake.0.borrow_mut().takes = takes;
        let mut port = alloc::boxed::Box::new(Port::new());
        // SAFETY: no hardware is behind it.
        let uart = unsafe { Uart16550::new_with_backend(fake.clone()) };
        port.attach(uart, 4);
        (port, fake)
    }

    #[test]
    fn all_is_sent_before_a_writer_goes_on() {
        let (mut port, fake) = port(usize::MAX);
        port.send(b"one\ntwo\n", |_| {});
        assert_eq!(fake.0.borrow().line, b"one\r\ntwo\r\n");
    }

    #[test]
    fn a_drained_port_has_nothing_left() {
        let (mut port, fake) = port(4);
        port.queue();
        port.send(&[b'x'; 60], |_| {});
        port.drain(|_| {});
        let registers = fake.0.borrow();
        assert_eq!((registers.line.len(), registers.in_fifo), (60, 0));
    }

    #[test]
    fn who_waits_himself_wants_no_interrupt() {
        let (mut port, fake) = port(4);
        port.enable_interrupts();
        port.send(&[b'x'; 60], |_| {});
        let registers = fake.0.borrow();
        assert_eq!((registers.line.len(), registers.ier_ever), (60, 1));
    }

    #[test]
    fn or_it_waits_and_interrupts_send_it() {
        let (mut port, fake) = port(0);
        port.queue();
        let text = [b'x'; 40];
        port.send(&text, |_| {});
        assert_eq!(fake.0.borrow().line.len(), 16);
        port.enable_interrupts();
        assert_eq!(fake.0.borrow().ier, 3);
        let mut typed = Vec::new();
        for (sent, ier) in [(32, 3), (40, 1), (40, 1)] {
            fake.0.borrow_mut().takes = 1;
            fake.0.borrow_mut().input.push_back(b'k');
            port.interrupted(|byte| typed.push(byte));
            assert_eq!((fake.0.borrow().line.len(), fake.0.borrow().ier), (sent, ier));
        }
        assert_eq!(typed, b"kkk");
    }

    #[test]
    fn a_full_port_refuses_until_its_line_has_been_dead_for_a_second() {
        let (mut port, fake) = port(0);
        port.queue();
        while port.has_room(100, 7) {
            port.send(&[b'y'; 100], |_| {});
        }
        assert!(!port.has_room(100, 7 + PATIENCE_NS));
        assert!(port.has_room(100, 8 + PATIENCE_NS));
        fake.0.borrow_mut().takes = 2;
        port.send(b"z", |_| {});
        assert_eq!(fake.0.borrow().line.last(), Some(&b'z'));
    }

    #[test]
    fn a_slow_line_is_not_a_dead_one() {
        let (mut port, fake) = port(0);
        port.queue();
        let mut now = 0;
        while port.has_room(100, now) {
            port.send(&[b'y'; 100], |_| {});
        }
        // 16 bytes in each 0.9 seconds: it takes a while until there is room for 100, and nothing is lost.
        let mut looks = 0;
        while !port.has_room(100, now) {
            now += PATIENCE_NS * 9 / 10;
            looks += 1;
            fake.0.borrow_mut().takes = 1;
        }
        assert!((2..20).contains(&looks), "{looks}");
        assert!(port.waiting.len() > ROOM - 400);
    }

    #[test]
    fn who_writes_waits_if_no_interrupt_comes() {
        let (mut port, fake) = port(0);
        port.queue();
        port.enable_interrupts();
        let text = [b'x'; 40];
        port.send(&text, |_| {});
        assert!(port.has_room(10, 5) && port.has_room(10, 5 + PATIENCE_NS) && port.queues);
        assert!(port.has_room(10, 6 + PATIENCE_NS) && !port.queues);
        fake.0.borrow_mut().takes = 100;
        port.send(b"z", |_| {});
        assert_eq!(fake.0.borrow().line.len(), 41);
    }

    #[test]
    fn input_without_end_makes_a_new_edge() {
        let (mut port, fake) = port(0);
        port.enable_interrupts();
        fake.0.borrow_mut().input = core::iter::repeat_n(b'k', 10 * INPUT).collect();
        fake.0.borrow_mut().interrupts_off = 0;
        let mut typed = 0;
        port.interrupted(|_| typed += 1);
        assert_eq!(
            (typed, fake.0.borrow().interrupts_off, fake.0.borrow().ier),
            (4 * INPUT, 1, 1)
        );
    }

    #[test]
    fn a_dead_line_does_not_hold_a_writer_up_for_ever() {
        let (mut port, _fake) = port(0);
        port.queue();
        for _ in 0..ROOM / 100 + 2 {
            port.send(&[b'y'; 100], |_| {});
        }
        port.flush(|_| {});
        assert!(port.has_room(ROOM / 2, 0));
    }
}
