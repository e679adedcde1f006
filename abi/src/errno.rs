//! Error numbers of the hypercall interface (they equal Linux's on x86).

use core::fmt;
use core::num::NonZeroU64;

/// A Xen error number: positive here, returned in `rax` negated.
///
/// As wide as a register and never 0, so that `Result<u64, Errno>` and the like are returned in registers.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(NonZeroU64);

macro_rules! errnos {
    ($( $name:ident = $value:literal, $doc:literal; )*) => {
        impl Errno {
            $( #[doc = $doc] pub const $name: Self = Self(NonZeroU64::new($value).unwrap()); )*

            /// The symbolic name, where the number has one.
            pub const fn name(self) -> Option<&'static str> {
                match self.0.get() {
                    $( $value => Some(stringify!($name)), )*
                    _ => None,
                }
            }
        }
    };
}

errnos! {
    EPERM = 1, "Operation not permitted.";
    ENOENT = 2, "No such entry.";
    ESRCH = 3, "No such domain or vCPU.";
    EINTR = 4, "Interrupted; internal to the hypervisor.";
    EIO = 5, "I/O error.";
    ENXIO = 6, "No such device or address.";
    E2BIG = 7, "Argument too big.";
    ENOEXEC = 8, "Not an executable image.";
    EBADF = 9, "Bad handle.";
    ECHILD = 10, "No child.";
    EAGAIN = 11, "Try again.";
    ENOMEM = 12, "Out of memory.";
    EACCES = 13, "Permission denied; also a wrong interface version.";
    EFAULT = 14, "A guest handle does not name accessible memory.";
    EBUSY = 16, "In use.";
    EEXIST = 17, "Already exists.";
    EXDEV = 18, "Belongs to someone else.";
    ENODEV = 19, "No such device.";
    ENOTDIR = 20, "Not a directory.";
    EISDIR = 21, "Is a directory.";
    EINVAL = 22, "Invalid argument.";
    ENFILE = 23, "Table full.";
    EMFILE = 24, "Too many open.";
    ENOSPC = 28, "No space left.";
    EROFS = 30, "Read only.";
    EMLINK = 31, "Too many links.";
    EDOM = 33, "Out of the domain of the function.";
    ERANGE = 34, "Out of range.";
    EDEADLK = 35, "Would deadlock.";
    ENAMETOOLONG = 36, "Name too long.";
    ENOLCK = 37, "No locks.";
    ENOSYS = 38, "No such hypercall or sub-operation.";
    ENOTEMPTY = 39, "Not empty.";
    ENODATA = 61, "No data.";
    ETIME = 62, "The time has passed.";
    EBADMSG = 74, "Bad message.";
    EOVERFLOW = 75, "Value too large.";
    EILSEQ = 84, "Illegal sequence.";
    ERESTART = 85, "Continue the call; never seen by a guest.";
    ENOTSOCK = 88, "Not a socket.";
    EMSGSIZE = 90, "Message too long.";
    EOPNOTSUPP = 95, "Operation not supported.";
    EADDRINUSE = 98, "Address in use.";
    EADDRNOTAVAIL = 99, "Address not available.";
    ENOBUFS = 105, "No buffer space.";
    EISCONN = 106, "Already connected.";
    ENOTCONN = 107, "Not connected.";
    ETIMEDOUT = 110, "Timed out.";
    ECONNREFUSED = 111, "Connection refused.";
}

/// Largest number that a return value may hold negated (the convention of `IS_ERR_VALUE`).
const MAX_ERRNO: u64 = 4095;

impl Errno {
    /// The positive number.
    pub const fn code(self) -> u16 {
        self.0.get() as u16
    }

    /// What a hypercall leaves in `rax`: the value, or the negated error number.
    pub const fn encode(result: Result<u64, Self>) -> u64 {
        match result {
            Ok(value) => value,
            Err(errno) => errno.0.get().wrapping_neg(),
        }
    }

    /// Reads `rax` after a hypercall: the top 4095 values are errors.
    pub const fn decode(rax: u64) -> Result<u64, Self> {
        match NonZeroU64::new(rax.wrapping_neg()) {
            Some(negated) if negated.get() <= MAX_ERRNO => Err(Self(negated)),
            _ => Ok(rax),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "error {}", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl core::error::Error for Errno {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_survive_the_register() {
        for result in [
            Ok(0),
            Ok(u64::MAX - MAX_ERRNO),
            Err(Errno::EPERM),
            Err(Errno(NonZeroU64::new(4095).unwrap())),
        ] {
            assert_eq!(Errno::decode(Errno::encode(result)), result);
        }
        assert_eq!(Errno::encode(Err(Errno::ENOSYS)) as i64, -38);
    }
}
