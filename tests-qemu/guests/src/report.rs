//! The verdict lines: what `oxen-test` reads.

use core::fmt::{Debug, Display};

use abi::sched::SHUTDOWN_POWEROFF;
use guest_rt::hypercall::sched;
use guest_rt::println;

/// The verdicts of one guest, in the making.
#[derive(Default)]
pub struct Report {
    checks: u32,
    failures: u32,
}

impl Report {
    /// One check: prints its line.
    pub fn check(&mut self, name: &str, holds: bool, reason: impl Display) {
        self.checks += 1;
        if holds {
            println!("TEST {name}: pass");
        } else {
            self.failures += 1;
            println!("TEST {name}: fail: {reason}");
        }
    }

    /// Checks that a value is the expected one.
    pub fn equal<T: PartialEq + Debug>(&mut self, name: &str, found: T, expected: T) {
        let holds = found == expected;
        self.check(name, holds, format_args!("{found:x?}, expected {expected:x?}"));
    }

    /// Checks that a value is one of several that are right.
    pub fn one_of<T: PartialEq + Debug>(&mut self, name: &str, found: T, expected: &[T]) {
        let holds = expected.contains(&found);
        self.check(
            name,
            holds,
            format_args!("{found:x?}, expected one of {expected:x?}"),
        );
    }

    /// Prints the result and powers off.
    pub fn finish(self) -> ! {
        let Report { checks, failures } = self;
        println!("{checks} checks, {failures} failures");
        println!(
            "RESULT {}",
            if failures == 0 && checks > 0 {
                "pass"
            } else {
                "fail"
            }
        );
        sched::shutdown(SHUTDOWN_POWEROFF)
    }
}
