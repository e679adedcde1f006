//! The states of a device's two ends, as Linux's front ends go through them.
//!
//! Each end tells its state in its xenstore node `state`:
//!
//! | front end                  | back end                                       |
//! |----------------------------|------------------------------------------------|
//! | Initialising               | InitWait: its features can be read             |
//! | Initialised (or Connected) | Connected: rings and event channels are in use |
//! | Connected                  |                                                |
//! | Closing                    | Closing: rings and event channels are free     |
//! | Closed                     | Closed                                         |

use abi::io::xenbus::{
    XENBUS_STATE_CLOSED, XENBUS_STATE_CLOSING, XENBUS_STATE_CONNECTED, XENBUS_STATE_INIT_WAIT,
    XENBUS_STATE_INITIALISED, XENBUS_STATE_INITIALISING,
};

/// State of one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// None that means anything here; also the state of an end whose nodes are gone.
    Unknown,
    /// Starting.
    Initialising,
    /// Ready to see the other end's details.
    InitWait,
    /// Details are published.
    Initialised,
    /// In use.
    Connected,
    /// Going away.
    Closing,
    /// Gone; may start again.
    Closed,
}

impl State {
    /// From the text of a node.
    pub fn parse(text: &str) -> Self {
        match text.trim().parse() {
            Ok(XENBUS_STATE_INITIALISING) => Self::Initialising,
            Ok(XENBUS_STATE_INIT_WAIT) => Self::InitWait,
            Ok(XENBUS_STATE_INITIALISED) => Self::Initialised,
            Ok(XENBUS_STATE_CONNECTED) => Self::Connected,
            Ok(XENBUS_STATE_CLOSING) => Self::Closing,
            Ok(XENBUS_STATE_CLOSED) => Self::Closed,
            _ => Self::Unknown,
        }
    }

    /// The text of a node.
    pub fn text(self) -> &'static str {
        match self {
            Self::Unknown => "0",
            Self::Initialising => "1",
            Self::InitWait => "2",
            Self::Initialised => "3",
            Self::Connected => "4",
            Self::Closing => "5",
            Self::Closed => "6",
        }
    }
}

/// Whether the toolstack wants the device to stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// A front end may connect, now or again.
    Keep,
    /// It is being detached.
    Detach,
}

/// What a back end has to do. What is connected is disconnected before anything but [`Action::Connect`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    Wait,
    /// Offer the device, to a new front end or to one that starts again: `InitWait`.
    Offer,
    /// Use what the front end has published: `Connected`.
    Connect,
    /// Begin to go away: `Closing`.
    Close,
    /// Be gone for the front end: `Closed`.
    Closed,
    /// The device is of no more use to anybody.
    End,
}

/// What a back end in state `own` does when its front end is in state `front`. Who wishes to detach a device has put
/// the back end's state to `Closing`, by which the front end learns of it; the front end keeps what it uses until it
/// lets go.
pub fn react(own: State, front: State, wish: Wish) -> Action {
    match (wish, front, own) {
        (Wish::Detach, State::Unknown | State::Initialising | State::Closed, _) => Action::End,
        (Wish::Detach, ..) => Action::Wait,
        (Wish::Keep, State::Initialising, State::InitWait) => Action::Wait,
        (Wish::Keep, State::Initialising, _) => Action::Offer,
        (Wish::Keep, State::Initialised | State::Connected, State::InitWait) => Action::Connect,
        (Wish::Keep, State::Closing, State::Closing | State::Closed) => Action::Wait,
        (Wish::Keep, State::Closing, _) => Action::Close,
        (Wish::Keep, State::Closed | State::Unknown, State::Closed) => Action::Wait,
        (Wish::Keep, State::Closed | State::Unknown, _) => Action::Closed,
        (Wish::Keep, State::InitWait | State::Initialised | State::Connected, _) => Action::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays the front end's states in order; the back end's states after each.
    fn play(mut own: State, fronts: &[State]) -> Vec<State> {
        let mut states = Vec::new();
        for &front in fronts {
            own = match react(own, front, Wish::Keep) {
                Action::Wait => own,
                Action::Offer => State::InitWait,
                Action::Connect => State::Connected,
                Action::Close => State::Closing,
                Action::Closed => State::Closed,
                Action::End => unreachable!("the device is to be kept"),
            };
            states.push(own);
        }
        states
    }

    #[test]
    fn a_front_end_connects_closes_and_comes_back() {
        use State::*;
        let fronts = [
            Initialising,
            Initialised,
            Connected,
            Closing,
            Closed,
            Initialising,
            Connected,
            Unknown,
        ];
        let backs = [
            InitWait, Connected, Connected, Closing, Closed, InitWait, Connected, Closed,
        ];
        assert_eq!(play(Initialising, &fronts), backs);
        // A kernel that died and was started again, seen late.
        assert_eq!(
            play(Connected, &[Initialising, Initialised]),
            [InitWait, Connected]
        );
        // After a connection that failed, the back end waits for the front end to begin again.
        assert_eq!(
            play(Closing, &[Initialised, Connected, Closed]),
            [Closing, Closing, Closed]
        );
    }

    #[test]
    fn a_device_ends_when_its_front_end_lets_go() {
        for front in [
            State::InitWait,
            State::Initialised,
            State::Connected,
            State::Closing,
        ] {
            assert_eq!(react(State::Closing, front, Wish::Detach), Action::Wait);
        }
        for front in [State::Unknown, State::Initialising, State::Closed] {
            assert_eq!(react(State::Closing, front, Wish::Detach), Action::End);
        }
    }

    #[test]
    fn states_have_the_numbers_of_the_protocol() {
        for number in 1..=6 {
            assert_eq!(State::parse(&format!("{number}")).text(), format!("{number}"));
        }
        for text in ["", "0", "9", "-1", "x", "99999999999"] {
            assert_eq!(State::parse(text), State::Unknown);
        }
    }
}
