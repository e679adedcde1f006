//! A line editor for a serial terminal (VT100): bytes in, bytes to echo out.
//!
//! Keys: cursor keys and Ctrl-A/E/B/F, history with up/down or Ctrl-P/N, Ctrl-W/U/K, Backspace, Delete, Home, End,
//! Ctrl-C (drop the line), Ctrl-L (redraw on a clear screen), Tab (completion).

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// Longest line, characters; more are ignored.
const LINE_MAX: usize = 1024;
/// Lines remembered.
const HISTORY_MAX: usize = 64;

/// What a byte led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing to do but to send the echo.
    None,
    /// Enter: this line is complete.
    Line(String),
    /// Tab: complete the word before the cursor with [`Editor::complete`].
    Complete,
    /// Ctrl-D on an empty line.
    EndOfInput,
}

/// Ctrl-C and Ctrl-], as terminals encode them.
const INTERRUPTS: [u8; 2] = [0x03, 0x1d];

/// Keeps what is typed, `limit` bytes at most, for whoever reads next. An interrupt finds room in any case.
pub fn type_ahead(typed: &mut VecDeque<u8>, bytes: &[u8], limit: usize) {
    let room = limit.saturating_sub(typed.len());
    let (kept, rest) = bytes.split_at(bytes.len().min(room));
    typed.extend(kept);
    if let Some(&interrupt) = rest.iter().find(|byte| INTERRUPTS.contains(byte)) {
        typed.pop_back();
        typed.push_back(interrupt);
    }
}

/// Takes the first Ctrl-C or Ctrl-], which end a command that waits, from what was typed; whether there was one.
pub fn take_interrupt(typed: &mut VecDeque<u8>) -> bool {
    let at = typed.iter().position(|byte| INTERRUPTS.contains(byte));
    at.and_then(|at| typed.remove(at)).is_some()
}

/// Where the decoder of escape sequences is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    No,
    Started,
    /// After `ESC [`, with the number read so far.
    Bracket(u32),
    /// After `ESC O`.
    Shift,
}

/// The state of one terminal's input line. Only printable ASCII is kept, so a character is a column.
#[derive(Debug)]
pub struct Editor {
    prompt: &'static str,
    line: Vec<u8>,
    cursor: usize,
    history: VecDeque<Vec<u8>>,
    /// Index into the history being shown; `history.len()` = the line being typed.
    shown: usize,
    /// The typed line while history is shown.
    draft: Vec<u8>,
    escape: Escape,
    last_was_cr: bool,
    echo: Vec<u8>,
}

impl Editor {
    /// An empty line under a prompt.
    pub fn new(prompt: &'static str) -> Self {
        Self {
            prompt,
            line: Vec::new(),
            cursor: 0,
            history: VecDeque::new(),
            shown: 0,
            draft: Vec::new(),
            escape: Escape::No,
            last_was_cr: false,
            echo: Vec::new(),
        }
    }

    /// Draws prompt and line on the current terminal line.
    pub fn redraw(&mut self) {
        self.echo
            .extend_from_slice(format!("\r\x1b[K{}", self.prompt).as_bytes());
        self.echo.extend_from_slice(&self.line);
        self.move_left(self.line.len() - self.cursor);
    }

    /// What to send to the terminal.
    pub fn take_echo(&mut self) -> Vec<u8> {
        core::mem::take(&mut self.echo)
    }

    /// Processes one byte from the terminal.
    pub fn input(&mut self, byte: u8) -> Event {
        // CR LF is one Enter.
        let after_cr = core::mem::replace(&mut self.last_was_cr, byte == b'\r');
        match (self.escape, byte) {
            (Escape::No, 0x1b) => self.escape = Escape::Started,
            (Escape::No, b'\n') if after_cr => {}
            (Escape::No, _) => return self.plain(byte),
            (Escape::Started, b'[') => self.escape = Escape::Bracket(0),
            (Escape::Started, b'O') => self.escape = Escape::Shift,
            (Escape::Bracket(number), b'0'..=b'9') => {
                self.escape = Escape::Bracket((number * 10 + u32::from(byte - b'0')) % 1000);
            }
            (Escape::Bracket(_), b';') => self.escape = Escape::Bracket(0),
            (Escape::Bracket(number), _) => self.finish_escape(byte, number),
            (Escape::Shift, _) => self.finish_escape(byte, 0),
            (Escape::Started, _) => self.escape = Escape::No,
        }
        Event::None
    }

    /// The text before the cursor.
    pub fn before_cursor(&self) -> &str {
        core::str::from_utf8(&self.line[..self.cursor]).unwrap_or_default()
    }

    /// Completes the word before the cursor: to the only candidate and a space, or as far as all candidates agree,
    /// or, if nothing can be added, lists them.
    pub fn complete(&mut self, candidates: &[String]) {
        let word = self.before_cursor().rsplit(' ').next().unwrap_or_default();
        let matching: Vec<_> = candidates.iter().filter(|name| name.starts_with(word)).collect();
        let Some(first) = matching.first() else { return };
        let agreed = matching.iter().fold(first.len(), |length, name| {
            first
                .bytes()
                .zip(name.bytes())
                .take(length)
                .take_while(|(a, b)| a == b)
                .count()
        });
        let mut addition = first.as_bytes()[word.len()..agreed].to_vec();
        if matching.len() == 1 {
            addition.push(b' ');
        }
        if addition.is_empty() {
            let list: Vec<_> = matching.iter().map(|name| name.as_str()).collect();
            self.echo
                .extend_from_slice(format!("\r\n{}\r\n", list.join("  ")).as_bytes());
            self.redraw();
        }
        addition.into_iter().for_each(|byte| self.insert(byte));
    }

    fn plain(&mut self, byte: u8) -> Event {
        const fn ctrl(letter: u8) -> u8 {
            letter & 0x1f
        }
        const TAB: u8 = b'\t';
        const ENTER: u8 = b'\r';
        const BACKSPACE: u8 = 8;
        const C_A: u8 = ctrl(b'A');
        const C_B: u8 = ctrl(b'B');
        const C_C: u8 = ctrl(b'C');
        const C_D: u8 = ctrl(b'D');
        const C_E: u8 = ctrl(b'E');
        const C_F: u8 = ctrl(b'F');
        const C_K: u8 = ctrl(b'K');
        const C_L: u8 = ctrl(b'L');
        const C_N: u8 = ctrl(b'N');
        const C_P: u8 = ctrl(b'P');
        const C_U: u8 = ctrl(b'U');
        const C_W: u8 = ctrl(b'W');
        match byte {
            ENTER | b'\n' => return self.enter(),
            TAB => return Event::Complete,
            C_D if self.line.is_empty() => return Event::EndOfInput,
            C_D => self.delete(self.cursor, self.cursor + 1),
            C_C => {
                self.echo.extend_from_slice(b"^C\r\n");
                self.replace(Vec::new());
                self.shown = self.history.len();
            }
            C_L => {
                self.echo.extend_from_slice(b"\x1b[H\x1b[2J");
                self.redraw();
            }
            C_A => self.go_to(0),
            C_E => self.go_to(self.line.len()),
            C_B => self.go_to(self.cursor.saturating_sub(1)),
            C_F => self.go_to(self.cursor + 1),
            C_U => self.delete(0, self.cursor),
            C_K => self.delete(self.cursor, self.line.len()),
            C_W => self.delete(self.word_start(), self.cursor),
            C_P => self.show_older(),
            C_N => self.show_newer(),
            0x7f | BACKSPACE => self.delete(self.cursor.saturating_sub(1), self.cursor),
            b' '..=b'~' => self.insert(byte),
            _ => {}
        }
        Event::None
    }

    fn finish_escape(&mut self, last: u8, number: u32) {
        self.escape = Escape::No;
        match (last, number) {
            (b'A', _) => self.show_older(),
            (b'B', _) => self.show_newer(),
            (b'C', _) => self.go_to(self.cursor + 1),
            (b'D', _) => self.go_to(self.cursor.saturating_sub(1)),
            (b'H', _) | (b'~', 1 | 7) => self.go_to(0),
            (b'F', _) | (b'~', 4 | 8) => self.go_to(self.line.len()),
            (b'~', 3) => self.delete(self.cursor, self.cursor + 1),
            _ => {}
        }
    }

    fn enter(&mut self) -> Event {
        self.echo.extend_from_slice(b"\r\n");
        let line = core::mem::take(&mut self.line);
        self.cursor = 0;
        if !line.is_empty() && self.history.back() != Some(&line) {
            if self.history.len() == HISTORY_MAX {
                self.history.pop_front();
            }
            self.history.push_back(line.clone());
        }
        self.shown = self.history.len();
        self.draft.clear();
        // Only printable ASCII is ever inserted.
        Event::Line(String::from_utf8(line).unwrap_or_default())
    }

    fn insert(&mut self, byte: u8) {
        if self.line.len() >= LINE_MAX {
            return;
        }
        self.line.insert(self.cursor, byte);
        self.cursor += 1;
        self.echo.extend_from_slice(&self.line[self.cursor - 1..]);
        self.move_left(self.line.len() - self.cursor);
    }

    /// Removes columns `from..to`, as far as they exist, and puts the cursor at `from`.
    fn delete(&mut self, from: usize, to: usize) {
        let to = to.min(self.line.len());
        if from >= to {
            return;
        }
        self.move_left(self.cursor - from);
        self.line.drain(from..to);
        self.cursor = from;
        self.echo.extend_from_slice(&self.line[from..]);
        self.echo.extend_from_slice(b"\x1b[K");
        self.move_left(self.line.len() - from);
    }

    fn go_to(&mut self, column: usize) {
        let column = column.min(self.line.len());
        if column < self.cursor {
            self.move_left(self.cursor - column);
        } else {
            self.echo.extend_from_slice(&self.line[self.cursor..column]);
        }
        self.cursor = column;
    }

    fn move_left(&mut self, columns: usize) {
        if columns > 0 {
            self.echo.extend_from_slice(format!("\x1b[{columns}D").as_bytes());
        }
    }

    fn word_start(&self) -> usize {
        let end = self.line[..self.cursor]
            .iter()
            .rposition(|&byte| byte != b' ')
            .map_or(0, |at| at + 1);
        self.line[..end]
            .iter()
            .rposition(|&byte| byte == b' ')
            .map_or(0, |at| at + 1)
    }

    fn show_older(&mut self) {
        if self.shown > 0 {
            if self.shown == self.history.len() {
                self.draft = self.line.clone();
            }
            self.shown -= 1;
            let line = self.history.get(self.shown).cloned().unwrap_or_default();
            self.replace(line);
        }
    }

    fn show_newer(&mut self) {
        if self.shown < self.history.len() {
            self.shown += 1;
            let line = self
                .history
                .get(self.shown)
                .cloned()
                .unwrap_or_else(|| core::mem::take(&mut self.draft));
            self.replace(line);
        }
    }

    fn replace(&mut self, line: Vec<u8>) {
        self.cursor = line.len();
        self.line = line;
        self.redraw();
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;
    use alloc::vec;

    use proptest::prelude::*;

    use super::*;

    /// The terminal's view: one line of text and a cursor, enough for what the editor emits between Enters.
    #[derive(Default)]
    struct Screen {
        text: Vec<u8>,
        at: usize,
    }

    impl Screen {
        fn feed(&mut self, bytes: &[u8]) {
            let mut bytes = bytes.iter().copied();
            while let Some(byte) = bytes.next() {
                match byte {
                    b'\r' => self.at = 0,
                    b'\n' => self.text.clear(),
                    0x1b => {
                        assert_eq!(bytes.next(), Some(b'['));
                        let mut number = String::new();
                        let last = loop {
                            match bytes.next().unwrap() {
                                digit @ b'0'..=b'9' => number.push(digit.into()),
                                last => break last,
                            }
                        };
                        match last {
                            b'D' => self.at -= number.parse::<usize>().unwrap(),
                            b'K' => self.text.truncate(self.at),
                            b'H' => self.at = 0,
                            b'J' => self.text.clear(),
                            other => panic!("unexpected escape {other}"),
                        }
                    }
                    byte => {
                        if self.at == self.text.len() {
                            self.text.push(byte);
                        } else {
                            self.text[self.at] = byte;
                        }
                        self.at += 1;
                    }
                }
            }
        }
    }

    #[test]
    fn an_interrupt_leaves_what_else_was_typed() {
        let mut typed = VecDeque::from(b"li\x1dst\x03\r".to_vec());
        assert!(take_interrupt(&mut typed));
        assert_eq!(typed, *b"list\x03\r", "one at a time");
        assert!(take_interrupt(&mut typed));
        assert!(!take_interrupt(&mut typed));
        assert_eq!(typed, *b"list\r");
    }

    #[test]
    fn an_interrupt_has_room_when_nothing_else_has() {
        let mut typed = VecDeque::from(b"ab".to_vec());
        type_ahead(&mut typed, b"cde\x03f", 4);
        assert_eq!(typed, *b"abc\x03");
        type_ahead(&mut typed, b"gh", 4);
        assert_eq!(typed, *b"abc\x03");
        type_ahead(&mut typed, b"\x1d", 4);
        assert_eq!(typed, *b"abc\x1d");
    }

    fn lines(input: &[u8]) -> Vec<String> {
        let mut editor = Editor::new("> ");
        input
            .iter()
            .filter_map(|&byte| match editor.input(byte) {
                Event::Line(line) => Some(line),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn edits() {
        assert_eq!(lines(b"list\r"), ["list"]);
        assert_eq!(lines(b"list\r\nx\n"), ["list", "x"], "CR LF is one Enter");
        assert_eq!(lines(b"lst\x1b[D\x1b[Di\r"), ["list"]);
        assert_eq!(lines(b"ist\x01l\x05!\x7f\r"), ["list"]);
        assert_eq!(lines(b"destroy a b \x17x\r"), ["destroy a x"]);
        assert_eq!(lines(b"abc\x15def\x02\x0b\r"), ["de"]);
        assert_eq!(lines(b"abc\x03def\r"), ["def"]);
        assert_eq!(lines(b"abc\x1b[H\x1b[3~\x1bOFd\r"), ["bcd"]);
    }

    #[test]
    fn history() {
        assert_eq!(lines(b"one\rtwo\r\x1b[A\x1b[A\r"), ["one", "two", "one"]);
        assert_eq!(lines(b"one\rdra\x1b[A\x1b[Bft\r"), ["one", "draft"]);
        assert_eq!(lines(b"one\r\r\x10\r"), ["one", "", "one"]);
        assert_eq!(lines(b"\x1b[A\x1b[B\r"), [""]);
    }

    #[test]
    fn completes() {
        let names = vec![
            "destroy".to_string(),
            "dmesg".to_string(),
            "domid".to_string(),
            "domname".to_string(),
        ];
        let mut editor = Editor::new("> ");
        b"de"
            .iter()
            .for_each(|&byte| assert_eq!(editor.input(byte), Event::None));
        assert_eq!(editor.input(b'\t'), Event::Complete);
        editor.complete(&names);
        assert_eq!(editor.before_cursor(), "destroy ");
        b"do"
            .iter()
            .for_each(|&byte| assert_eq!(editor.input(byte), Event::None));
        editor.complete(&names);
        assert_eq!(editor.before_cursor(), "destroy dom");
        editor.take_echo();
        editor.complete(&names);
        assert_eq!(editor.before_cursor(), "destroy dom");
        assert!(
            String::from_utf8(editor.take_echo())
                .unwrap()
                .contains("domid  domname")
        );
        editor.complete(&[]);
        assert_eq!(editor.before_cursor(), "destroy dom");
    }

    proptest! {
        /// Whatever is typed, the terminal shows the prompt and the line with the cursor in the right column.
        #[test]
        fn the_screen_shows_the_line(
            keys in prop::collection::vec(prop_oneof![
                4 => (b' '..=b'~').prop_map(|byte| vec![byte]),
                1 => (1u8..27).prop_map(|byte| vec![byte]),
                1 => Just(vec![0x7f]),
                2 => prop::sample::select(vec!["\x1b[A", "\x1b[B", "\x1b[C", "\x1b[D", "\x1b[3~", "\x1b[H", "\x1b[F"])
                    .prop_map(|key| key.as_bytes().to_vec()),
            ], 0..60)
        ) {
            let (mut editor, mut screen) = (Editor::new("> "), Screen::default());
            editor.redraw();
            for key in keys {
                for byte in key {
                    if let Event::Line(_) = editor.input(byte) {
                        editor.redraw();
                    }
                }
                screen.feed(&editor.take_echo());
                let mut wanted = b"> ".to_vec();
                wanted.extend_from_slice(&editor.line);
                prop_assert_eq!(&screen.text, &wanted);
                prop_assert_eq!(screen.at, 2 + editor.cursor);
            }
        }
    }
}
