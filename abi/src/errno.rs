//! Error numbers of the hypercall interface (they equal Linux's on x86).

use core::fmt;
use core::num::NonZeroU64;

/// A Xen error number: positive here, returned in `rax` negated.
///
/// As wide as a register and never 0, so that `Result<u64, Errno>` and the like are returned in registers.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(NonZeroU64);

macro_rules! errnos {
    ($( $name:ident = $value:literal, $words:literal; )*) => {
        impl Errno {
            $(#[doc = concat!("What it says: ", $words, ".")]
            pub const $name: Self = Self(NonZeroU64::new($value).unwrap());)*

            /// The symbolic name, and what it means, where the number has one.
            const fn described(self) -> Option<(&'static str, &'static str)> {
                match self.0.get() {
                    $( $value => Some((stringify!($name), $words)), )*
                    _ => None,
                }
            }
        }
    };
}

errnos! {
    EPERM = 1, "operation not permitted";
    ENOENT = 2, "no such entry";
    ESRCH = 3, "no such domain or vCPU";
    EINTR = 4, "interrupted; internal to the hypervisor";
    EIO = 5, "I/O error";
    ENXIO = 6, "no such device or address";
    E2BIG = 7, "argument too big";
    ENOEXEC = 8, "not an executable image";
    EBADF = 9, "bad handle";
    ECHILD = 10, "no child";
    EAGAIN = 11, "try again";
    ENOMEM = 12, "out of memory";
    EACCES = 13, "permission denied; also a wrong interface version";
    EFAULT = 14, "a guest handle does not name accessible memory";
    EBUSY = 16, "in use";
    EEXIST = 17, "already exists";
    EXDEV = 18, "belongs to someone else";
    ENODEV = 19, "no such device";
    ENOTDIR = 20, "not a directory";
    EISDIR = 21, "is a directory";
    EINVAL = 22, "invalid argument";
    ENFILE = 23, "table full";
    EMFILE = 24, "too many open";
    ENOSPC = 28, "no space left";
    EROFS = 30, "read only";
    EMLINK = 31, "too many links";
    EDOM = 33, "out of the domain of the function";
    ERANGE = 34, "out of range";
    EDEADLK = 35, "would deadlock";
    ENAMETOOLONG = 36, "name too long";
    ENOLCK = 37, "no locks";
    ENOSYS = 38, "no such hypercall or sub-operation";
    ENOTEMPTY = 39, "not empty";
    ENODATA = 61, "no data";
    ETIME = 62, "the time has passed";
    EBADMSG = 74, "bad message";
    EOVERFLOW = 75, "value too large";
    EILSEQ = 84, "illegal sequence";
    ERESTART = 85, "continue the call; never seen by a guest";
    ENOTSOCK = 88, "not a socket";
    EMSGSIZE = 90, "message too long";
    EOPNOTSUPP = 95, "operation not supported";
    EADDRINUSE = 98, "address in use";
    EADDRNOTAVAIL = 99, "address not available";
    ENOBUFS = 105, "no buffer space";
    EISCONN = 106, "already connected";
    ENOTCONN = 107, "not connected";
    ETIMEDOUT = 110, "timed out";
    ECONNREFUSED = 111, "connection refused";
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
        match self.described() {
            Some((name, words)) => write!(f, "{name} ({words})"),
            None => write!(f, "error {}", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.described() {
            Some((name, _)) => f.write_str(name),
            None => fmt::Display::fmt(self, f),
        }
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

    #[test]
    fn people_read_what_it_means() {
        extern crate alloc;
        let nameless = Errno(NonZeroU64::new(200).unwrap());
        assert_eq!(alloc::format!("{}", Errno::ENOMEM), "ENOMEM (out of memory)");
        assert_eq!(alloc::format!("{nameless}"), "error 200");
    }
}
