//! Each operation of `domctl` and `sysctl`, called well and badly. Every number is called: one that is offered, but not called well
//! here, fails the test.

mod domctl;
mod sysctl;

use std::collections::BTreeSet;

use abi::domctl::XEN_DOMCTL_CREATEDOMAIN;
use abi::hypercall::HYPERVISOR_DOMCTL;
use abi::{Domid, Errno, Union};
use zerocopy::{Immutable, IntoBytes};

use crate::hypercall::testing::{ARG, BAD, World};

/// A domain that does not exist, and none with a larger number does.
const NOBODY: Domid = 0x7000;
/// What has no structure.
const NOTHING: u64 = 0;

/// dom0, a domain that it controls, and what it has done to it.
struct Control {
    dom0: World,
    guest: World,
    number: u32,
    version: u32,
    succeeded: BTreeSet<u32>,
}

impl Control {
    fn new(number: u32, version: u32) -> Control {
        Control {
            dom0: World::privileged(),
            guest: World::new(),
            number,
            version,
            succeeded: BTreeSet::new(),
        }
    }

    /// The argument: `domctl` names a domain, `sysctl` does not.
    fn argument(&self, command: u32, domain: Domid, u: Union<16>) -> Vec<u64> {
        let header = u64::from(command) | u64::from(self.version) << 32;
        let domain = (self.number == HYPERVISOR_DOMCTL).then_some(domain.into());
        [header].into_iter().chain(domain).chain(u.0).collect()
    }

    fn call(
        &mut self,
        command: u32,
        domain: Domid,
        payload: impl IntoBytes + Immutable,
    ) -> Result<Union<16>, Errno> {
        let argument = self.argument(command, domain, Union::of(&payload));
        for (at, word) in (ARG..).step_by(8).zip(&argument) {
            self.dom0.put(at, word);
        }
        self.dom0.call(self.number, &[ARG])?;
        Ok(Union(self.dom0.get(ARG + 8 * (argument.len() as u64 - 16))))
    }

    /// Called well; the answer.
    fn well(&mut self, command: u32, payload: impl IntoBytes + Immutable) -> Union<16> {
        let id = self.guest.domain.id.0;
        let answer = self.call(command, id, payload);
        self.succeeded.insert(command);
        answer.unwrap_or_else(|errno| panic!("{command}: {errno:?}"))
    }

    /// Called badly.
    fn badly(&mut self, command: u32, payload: impl IntoBytes + Immutable, errno: Errno) {
        let id = self.guest.domain.id.0;
        assert_eq!(self.call(command, id, payload).err(), Some(errno), "{command}");
    }

    /// Called on dom0 itself, which it would have to stop for it.
    fn not_on_itself(&mut self, commands: &[u32]) {
        let own = self.dom0.domain.id.0;
        for &command in commands {
            assert_eq!(
                self.call(command, own, NOTHING).err(),
                Some(Errno::EINVAL),
                "{command}"
            );
        }
    }

    /// What was not called well here does not exist, but for `refused`, which are answered so, and `elsewhere`; and what
    /// exists is for dom0 alone, in this version.
    fn nothing_else(mut self, refused: &[(u32, Errno)], elsewhere: &[u32]) {
        assert_eq!(self.dom0.call(self.number, &[BAD]), Err(Errno::EFAULT));
        for command in (0..128).chain(1000..1004) {
            let exists = self.succeeded.contains(&command) || elsewhere.contains(&command);
            let refused = refused.iter().find(|(other, _)| *other == command);
            let id = self.guest.domain.id.0;
            if let Some((_, errno)) = refused {
                assert_eq!(self.call(command, id, NOTHING).err(), Some(*errno), "{command}");
            } else if !exists {
                let answer = self.call(command, id, NOTHING).err();
                assert_eq!(answer, Some(Errno::ENOSYS), "{command} is not called well");
                continue;
            }
            let argument = self.argument(command, id, Union::default());
            self.guest.put(ARG, &argument[0]);
            let answer = self.guest.call(self.number, &[ARG]);
            assert_eq!(answer, Err(Errno::EPERM), "{command}");
            self.version += 1;
            assert_eq!(
                self.call(command, id, NOTHING).err(),
                Some(Errno::EACCES),
                "{command}"
            );
            let argument = self.argument(command, id, Union::default());
            self.guest.put(ARG, &argument[0]);
            let answer = self.guest.call(self.number, &[ARG]);
            assert_eq!(answer, Err(Errno::EACCES), "{command}: the version comes first");
            self.version -= 1;
            if self.number == HYPERVISOR_DOMCTL && command != XEN_DOMCTL_CREATEDOMAIN {
                let answer = self.call(command, NOBODY, NOTHING).err();
                assert_eq!(answer, Some(Errno::ESRCH), "{command}");
            }
        }
    }
}
