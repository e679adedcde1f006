//! The serial line: `console_io` out, `console_io` and `VIRQ_CONSOLE` in.
//!
//! Notices of background tasks appear above the line being edited.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use core::cell::{Cell, RefCell};

use abi::event_channel::VIRQ_CONSOLE;
use dom0_shim::executor::Signal;
use dom0_shim::shell::line::{Editor, Event, take_interrupt, type_ahead};
use guest_rt::hypercall::{console as console_io, event_channel};

use super::Host;

/// The prompt.
const PROMPT: &str = "oxen> ";

/// Who gets what is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// A command runs or a console is attached: bytes go to whoever reads them.
    Raw,
    /// The line editor.
    Prompt,
}

/// State of the serial line.
pub struct Terminal {
    input: RefCell<VecDeque<u8>>,
    received: Signal,
    editor: RefCell<Editor>,
    mode: Cell<Mode>,
}

impl Default for Terminal {
    fn default() -> Self {
        Self {
            input: RefCell::default(),
            received: Signal::default(),
            editor: RefCell::new(Editor::new(PROMPT)),
            mode: Cell::new(Mode::Raw),
        }
    }
}

/// Bytes typed ahead that are kept.
const TYPE_AHEAD: usize = 4096;

impl Terminal {
    /// Writes bytes as they are.
    pub fn write(&self, bytes: &[u8]) {
        guest_rt::console::write(bytes);
    }

    /// Prints a line of a background task; above the prompt if that is shown.
    pub fn notice(&self, text: &str) {
        let prompting = self.mode.get() == Mode::Prompt;
        self.write(format!("{}{text}\n", if prompting { "\r\x1b[K" } else { "" }).as_bytes());
        if prompting {
            self.editor.borrow_mut().redraw();
            self.show_echo();
        }
    }

    /// The next byte typed.
    pub async fn byte(&self) -> u8 {
        loop {
            if let Some(byte) = self.input.borrow_mut().pop_front() {
                return byte;
            }
            self.received.wait().await;
        }
    }

    /// Waits for an [interrupt](take_interrupt); what else is typed stays for whoever reads next.
    pub async fn interrupt(&self) {
        while !take_interrupt(&mut self.input.borrow_mut()) {
            self.received.wait().await;
        }
    }

    /// Reads a line with editing; `candidates` completes the word after the given text.
    pub async fn line(&self, candidates: impl Fn(&str) -> alloc::vec::Vec<String>) -> String {
        self.mode.set(Mode::Prompt);
        self.editor.borrow_mut().redraw();
        self.show_echo();
        loop {
            let byte = self.byte().await;
            let event = self.editor.borrow_mut().input(byte);
            if event == Event::Complete {
                let before = String::from(self.editor.borrow().before_cursor());
                self.editor.borrow_mut().complete(&candidates(&before));
            }
            self.show_echo();
            if let Event::Line(line) = event {
                self.mode.set(Mode::Raw);
                return line;
            }
        }
    }

    fn show_echo(&self) {
        let echo = self.editor.borrow_mut().take_echo();
        self.write(&echo);
    }
}

/// Task: takes what is typed from the hypervisor.
pub async fn receive(host: Rc<Host>) {
    let port = match event_channel::bind_virq(VIRQ_CONSOLE) {
        Ok(port) => port,
        Err(error) => {
            return host
                .terminal
                .notice(&format!("No console input: VIRQ_CONSOLE: {error}"));
        }
    };
    loop {
        let mut bytes = [0; 64];
        // What came before the binding raised no event, hence reading first.
        while let Ok(count @ 1..) = console_io::read(&mut bytes) {
            let came = &bytes[..count.min(bytes.len())];
            type_ahead(&mut host.terminal.input.borrow_mut(), came, TYPE_AHEAD);
            host.terminal.received.notify();
        }
        host.reactor.event(port).await;
    }
}
