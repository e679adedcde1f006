//! Hypercalls with any arguments, good or bad. The answer is what a C caller sees: a number, negative for an error.
// UNSAFETY: raw hypercalls.
#![expect(unsafe_code, reason = "hypercalls whose arguments are wrong on purpose")]

use abi::Errno;

/// An address that no page table of a guest here maps.
pub const UNMAPPED: u64 = 0x7f_ffff_f000;
/// A number that is no address at all (not canonical).
pub const NOT_CANONICAL: u64 = 0x8000_0000_0000_0000;

/// Issues hypercall `number`; the hypervisor's answer.
pub fn call(number: u32, arguments: [u64; 5]) -> i64 {
    // SAFETY: callers pass addresses of statics or locals of their own that may be overwritten, or nonsense, which
    // must not reach memory of this guest: that it does not is what they test.
    match unsafe { guest_rt::hypercall::raw(number, arguments) } {
        Ok(value) => value as i64,
        Err(error) => error_code(error),
    }
}

/// What a C caller sees for an error.
pub const fn error_code(error: Errno) -> i64 {
    -(error.code() as i64)
}

/// Issues `number(sub, &mut argument)`.
pub fn op<T>(number: u32, sub: u32, argument: &mut T) -> i64 {
    call(
        number,
        [sub.into(), core::ptr::from_mut(argument) as u64, 0, 0, 0],
    )
}
