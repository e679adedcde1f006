//! Which multicast packets a front end hears: all, unless it has asked to say so itself (`request-multicast-control`); then those to the
//! groups that it has entered.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use super::tx::Membership;
use crate::net::packet::Mac;

/// Groups of one device, as in Linux.
const GROUPS_MAX: usize = 64;

/// What a front end has said of multicast since it connected.
#[derive(Debug, Default)]
pub struct Multicast {
    /// Only `groups` are heard.
    controlled: bool,
    groups: BTreeSet<Mac>,
}

impl Multicast {
    /// A front end hears all groups.
    pub fn all() -> Self {
        Self::default()
    }

    /// A front end hears the groups that it will enter.
    pub fn controlled() -> Self {
        Self {
            controlled: true,
            groups: BTreeSet::new(),
        }
    }

    /// Enters groups, and leaves them; of too many, those that come last are not entered.
    pub fn follow(&mut self, groups: Vec<(Membership, Mac)>) {
        for (membership, group) in groups {
            match membership {
                Membership::Enter if self.groups.len() < GROUPS_MAX => drop(self.groups.insert(group)),
                Membership::Enter => {}
                Membership::Leave => drop(self.groups.remove(&group)),
            }
        }
    }

    /// Is a frame for the front end, as far as this goes?
    pub fn wants(&self, frame: &[u8]) -> bool {
        let wanted = |mac: Mac| !mac.is_multicast() || mac == Mac::BROADCAST || self.groups.contains(&mac);
        !self.controlled || Mac::destination(frame).is_some_and(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(number: u8) -> Mac {
        Mac([1, 0, 0x5e, 0, 0, number])
    }

    fn to(mac: Mac) -> Vec<u8> {
        [&mac.0[..], &[0; 54]].concat()
    }

    #[test]
    fn only_what_was_entered_is_heard_if_the_front_end_wants_it_so() {
        let mut all = Multicast::all();
        assert!(all.wants(&to(group(1))));
        all.follow(vec![(Membership::Leave, group(1))]);
        assert!(all.wants(&to(group(1))), "it has not asked to say");

        let mut some = Multicast::controlled();
        assert!(!some.wants(&to(group(1))));
        some.follow(vec![
            (Membership::Enter, group(1)),
            (Membership::Enter, group(2)),
            (Membership::Leave, group(2)),
            (Membership::Leave, group(3)),
        ]);
        let heard = [1, 2, 3].map(|number| some.wants(&to(group(number))));
        assert_eq!(heard, [true, false, false]);
        assert!(some.wants(&to(Mac::BROADCAST)) && some.wants(&to(Mac([2, 0, 0, 0, 0, 9]))));
        assert!(!some.wants(&[]), "no frame");
    }

    #[test]
    fn groups_are_limited_and_come_back() {
        let mut some = Multicast::controlled();
        some.follow(
            (0..=64)
                .map(|number| (Membership::Enter, group(number)))
                .collect(),
        );
        assert!(some.wants(&to(group(63))) && !some.wants(&to(group(64))));
        some.follow(vec![
            (Membership::Leave, group(7)),
            (Membership::Enter, group(64)),
        ]);
        assert!(some.wants(&to(group(64))) && !some.wants(&to(group(7))));
    }
}
