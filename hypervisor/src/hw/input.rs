//! Who gets what is typed on the serial line: dom0, or the hypervisor, as debug keys. `CTRL-a` three times goes from one to the other, as on Xen.

use arrayvec::ArrayVec;

/// Bytes that wait for dom0; more is dropped.
pub const ROOM: usize = 1024;
/// Keys that wait for the hypervisor; more are dropped.
const KEYS: usize = 16;
/// So often is the switch pressed.
const PRESSES: u8 = 3;

/// `conswitch=`: how the reader goes from dom0 to the hypervisor and back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Switch {
    /// The control character that is typed three times. `None`: all is dom0's.
    pub character: Option<u8>,
    /// The hypervisor has the input at first.
    pub begins_here: bool,
}

impl Switch {
    /// Xen's default: CTRL-a, and dom0 has the input.
    pub const DEFAULT: Switch = Switch {
        character: Some(1),
        begins_here: false,
    };

    /// The value of `conswitch=`: a letter, then perhaps an `x`, with which the hypervisor has the input at first. Anything else for the letter: no switch.
    pub fn parse(value: &str) -> Option<Switch> {
        let (letter, begins_here) = match value.as_bytes() {
            [letter] => (*letter, false),
            [letter, b'x'] => (*letter, true),
            _ => return None,
        };
        let character = letter.is_ascii_lowercase().then(|| letter - b'a' + 1);
        Some(Switch {
            character,
            begins_here,
        })
    }
}

/// What was typed for the hypervisor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Key {
    /// A debug key.
    Debug(u8),
    /// The input is the hypervisor's from here on, or dom0's; this letter changes it again.
    Switched {
        /// Is it the hypervisor's?
        here: bool,
        /// The letter to type with CTRL.
        letter: char,
    },
}

/// What was typed and has not been read.
pub struct Input {
    switch: Switch,
    here: bool,
    /// How often the switch was pressed just now.
    pressed: u8,
    dom0: ArrayVec<u8, ROOM>,
    keys: ArrayVec<Key, KEYS>,
}

impl Input {
    /// Nothing was typed yet.
    pub const fn new(switch: Switch) -> Self {
        Self {
            switch,
            here: switch.begins_here,
            pressed: 0,
            dom0: ArrayVec::new_const(),
            keys: ArrayVec::new_const(),
        }
    }

    /// `byte` was typed. Nobody reads: what does not fit is lost, as on any serial line.
    ///
    /// The switch is an ordinary key, too, until it has been pressed three times: in a shell CTRL-a is not to wait for the next key.
    pub fn typed(&mut self, byte: u8) {
        if self.switch.character == Some(byte) {
            self.pressed += 1;
            if self.pressed == PRESSES {
                (self.here, self.pressed) = (!self.here, 0);
                let letter = char::from(b'a' + byte - 1);
                let _ = self.keys.try_push(Key::Switched {
                    here: self.here,
                    letter,
                });
                return;
            }
        } else {
            self.pressed = 0;
        }
        if !self.here {
            let _ = self.dom0.try_push(byte);
        } else if self.switch.character != Some(byte) {
            let _ = self.keys.try_push(Key::Debug(byte));
        }
    }

    /// Does anything wait for dom0?
    pub fn for_dom0(&self) -> bool {
        !self.dom0.is_empty()
    }

    /// dom0's, oldest first. Returns how many bytes there were.
    pub fn read(&mut self, to: &mut [u8]) -> usize {
        let len = self.dom0.len().min(to.len());
        for (slot, byte) in to.iter_mut().zip(self.dom0.drain(..len)) {
            *slot = byte;
        }
        len
    }

    /// The hypervisor's, oldest first.
    pub fn take_key(&mut self) -> Option<Key> {
        self.keys.pop_at(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn type_all(input: &mut Input, text: &[u8]) {
        text.iter().for_each(|&byte| input.typed(byte));
    }

    fn dom0(input: &mut Input) -> Vec<u8> {
        let mut bytes = [0; ROOM];
        let len = input.read(&mut bytes);
        bytes[..len].to_vec()
    }

    fn keys(input: &mut Input) -> Vec<Key> {
        core::iter::from_fn(|| input.take_key()).collect()
    }

    fn switched(here: bool) -> Key {
        Key::Switched { here, letter: 'a' }
    }

    #[test]
    fn three_in_a_row_switch() {
        let mut input = Input::new(Switch::DEFAULT);
        type_all(&mut input, b"l\x01s\x01\x01\r");
        assert_eq!(dom0(&mut input), b"l\x01s\x01\x01\r");
        assert!(!input.for_dom0() && keys(&mut input).is_empty());
        type_all(&mut input, b"\x01\x01\x01q\x01r\x01\x01\x01x");
        assert_eq!(
            keys(&mut input),
            [
                switched(true),
                Key::Debug(b'q'),
                Key::Debug(b'r'),
                switched(false)
            ]
        );
        assert_eq!(
            dom0(&mut input),
            b"\x01\x01x",
            "the first two of three are dom0's"
        );
    }

    #[test]
    fn nobody_reads() {
        let mut input = Input::new(Switch::parse("ax").unwrap());
        type_all(&mut input, &[b'q'; 2 * KEYS]);
        assert_eq!(keys(&mut input).len(), KEYS);
        type_all(&mut input, &[1, 1, 1]);
        type_all(&mut input, &[b'x'; 2 * ROOM]);
        assert_eq!(dom0(&mut input).len(), ROOM);
    }

    #[test]
    fn values() {
        let value = |character, begins_here| {
            Some(Switch {
                character,
                begins_here,
            })
        };
        assert_eq!(Switch::parse("a"), Some(Switch::DEFAULT));
        assert_eq!(Switch::parse("zx"), value(Some(26), true));
        assert_eq!(Switch::parse("0"), value(None, false));
        assert_eq!(Switch::parse("ay"), None);
        assert_eq!(Switch::parse(""), None);
        let mut input = Input::new(Switch::parse("0").unwrap());
        type_all(&mut input, &[1, 1, 1, b'q']);
        assert!(keys(&mut input).is_empty());
        assert_eq!(dom0(&mut input), [1, 1, 1, b'q']);
    }
}
