//! What is done with a domain that has stopped, and how soon it is started again.
//!
//! Unpacking a kernel keeps a CPU busy for seconds, and other domains that are to be made waiting, so one that stops as
//! soon as it runs must not be started again at once, time after time. (xl sleeps two seconds before each restart; xend refused those of young domains.)

use alloc::collections::BTreeSet;
use alloc::string::String;

use abi::sched::{
    SHUTDOWN_CRASH, SHUTDOWN_POWEROFF, SHUTDOWN_REBOOT, SHUTDOWN_SOFT_RESET, SHUTDOWN_SUSPEND,
    SHUTDOWN_WATCHDOG,
};

use crate::xlcfg::{Action, Config};

/// Why a domain has stopped (`SHUTDOWN_*`) in words, and what its config says to do.
pub fn decide(reason: u32, config: &Config) -> (&'static str, Action) {
    match reason {
        SHUTDOWN_POWEROFF => ("poweroff", config.on_poweroff),
        SHUTDOWN_REBOOT => ("reboot", config.on_reboot),
        SHUTDOWN_SUSPEND => ("suspend", Action::Preserve),
        SHUTDOWN_CRASH => ("crash", config.on_crash),
        SHUTDOWN_WATCHDOG => ("watchdog", config.on_watchdog),
        SHUTDOWN_SOFT_RESET => ("soft reset", config.on_soft_reset),
        _ => ("unknown", Action::Destroy),
    }
}

/// Names of domains that are gone for as long as it takes to start them again: nobody else is to get one.
#[derive(Debug, Default)]
pub struct Reserved(BTreeSet<String>);

impl Reserved {
    /// A domain of this name is about to be destroyed, and will be started again.
    pub fn add(&mut self, name: &str) {
        self.0.insert(name.into());
    }

    /// It has been started, or cannot be.
    pub fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Is this name reserved?
    pub fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}

/// A domain that has run for so long, in nanoseconds, is started again at once.
pub const YOUNG: u64 = 60_000_000_000;
const SHORTEST: u64 = 2_000_000_000;
const LONGEST: u64 = 64_000_000_000;

/// How long to wait, in nanoseconds, before a domain is started again that has run for so long, and was itself started
/// after such a wait.
pub fn delay(ran: u64, last: u64) -> u64 {
    if ran < YOUNG {
        (2 * last).clamp(SHORTEST, LONGEST)
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::*;
    use crate::xlcfg;

    #[test]
    fn each_reason_has_its_own_setting() {
        const REASONS: [(u32, &str); 5] = [
            (SHUTDOWN_POWEROFF, "on_poweroff"),
            (SHUTDOWN_REBOOT, "on_reboot"),
            (SHUTDOWN_CRASH, "on_crash"),
            (SHUTDOWN_WATCHDOG, "on_watchdog"),
            (SHUTDOWN_SOFT_RESET, "on_soft_reset"),
        ];
        let config = |more: &str| xlcfg::parse(&format!("name='a'\nkernel='/k'\nmemory=64\n{more}")).unwrap();
        let usual = config("");
        let defaults = REASONS.map(|(reason, _)| decide(reason, &usual).1);
        let destroy = Action::Destroy;
        assert_eq!(
            defaults,
            [destroy, Action::Restart, destroy, destroy, Action::SoftReset]
        );
        for (index, (reason, key)) in REASONS.into_iter().enumerate() {
            for (name, action) in [
                ("destroy", Action::Destroy),
                ("restart", Action::Restart),
                ("rename-restart", Action::RenameRestart),
                ("preserve", Action::Preserve),
                ("soft-reset", Action::SoftReset),
            ] {
                let config = config(&format!("{key}='{name}'"));
                assert_eq!(decide(reason, &config).1, action, "{key}={name}");
                for (other, (reason, _)) in REASONS.into_iter().enumerate() {
                    let own = other == index;
                    assert!(
                        own || decide(reason, &config).1 == defaults[other],
                        "{key}={name}"
                    );
                }
            }
        }
        assert_eq!(decide(SHUTDOWN_SUSPEND, &usual), ("suspend", Action::Preserve));
        assert_eq!(decide(99, &usual), ("unknown", Action::Destroy));
    }

    #[test]
    fn names_are_reserved_over_a_restart() {
        let mut reserved = Reserved::default();
        reserved.add("a");
        assert!(reserved.has("a") && !reserved.has("b"));
        reserved.remove("a");
        assert!(!reserved.has("a"));
    }

    #[test]
    fn who_stops_at_once_waits_longer_each_time() {
        let mut last = 0;
        for seconds in [2, 4, 8, 16, 32, 64, 64] {
            last = delay(1, last);
            assert_eq!(last, seconds * 1_000_000_000);
        }
        assert_eq!(delay(YOUNG, last), 0);
        assert_eq!(delay(YOUNG - 1, 0), SHORTEST);
    }
}
