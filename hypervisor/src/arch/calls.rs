//! Hypercalls on the short way: the world switch itself calls their handler, and enters the guest again.
//!
//! A function keeps RBX, RBP and R12 to R15 for its caller, and so it does for a guest: they stay in the CPU while the handler runs, and only
//! the others are saved and loaded. A handler finds its arguments in the registers where the guest has put them, as the first three are the same in
//! Xen's hypercalls and in the System V ABI. Who is not a 64-bit kernel, or has anything to be looked at besides, is left to the run loop.
// UNSAFETY: assembler that the compiler does not see through.
#![expect(unsafe_code, reason = "assembler that the compiler does not see through")]

use core::arch::asm;
use core::sync::atomic::AtomicU32;

/// What makes a call, with the guest's RDI, RSI and RDX, and the context of [`Calls`].
pub type Handler =
    unsafe extern "sysv64-unwind" fn(first: u64, second: u64, third: u64, context: *mut ()) -> Answer;

/// How many handlers there are room for: a power of two, see [`slot`].
pub const SLOTS: usize = 64;

/// The place of the handler of call `nr`, which is below [`SLOTS`]. On a CPU that goes on with one that is not, for as long as it has not seen that, it is
/// the place of another one (Spectre, variant 1): a guest must not choose what is called.
#[inline(always)]
pub fn slot(nr: u64) -> usize {
    let place: usize;
    // SAFETY: has no effect but its result.
    unsafe {
        asm!("and {:e}, {}", inlateout(reg) nr => place, const SLOTS - 1, options(pure, nomem, nostack));
    }
    place
}

/// What a back end may make hypercalls by, between [`GuestCpu::set_calls`](super::GuestCpu::set_calls) and the last
/// [`GuestCpu::run`](super::GuestCpu::run) that follows.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Calls {
    /// [`SLOTS`] handlers by number of the call.
    pub handlers: *const Handler,
    /// How many of them there are: all, or none.
    pub count: usize,
    /// Their last argument. Of [`GuestCpu::gprs`](super::GuestCpu::gprs) they find those only that calls do not preserve; what they write there is
    /// lost.
    pub context: *mut (),
    /// What the vCPU must look at before it enters, and [`OUTSIDE`].
    pub requests: *const AtomicU32,
}

/// Set in [`Calls::requests`] from each exit on; taken away before they are looked at for the next entry. (`domain::wakeup`, where it is set
/// otherwise, has it as well, as models run that file without this one.)
pub const OUTSIDE: u32 = 1 << 31;

impl Calls {
    /// None.
    pub const NONE: Calls = Calls {
        handlers: core::ptr::null(),
        count: 0,
        context: core::ptr::null_mut(),
        requests: core::ptr::null(),
    };
}

/// What a handler answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Answer {
    /// Not 0: the call is to be made again.
    again: u64,
    rax: u64,
}

impl Answer {
    /// The call is to be made again, as its context says.
    pub const AGAIN: Answer = Answer { again: 1, rax: 0 };

    /// The call returns this.
    pub const fn new(rax: u64) -> Answer {
        Answer { again: 0, rax }
    }

    /// What the call returns; `None`: it is to be made again.
    pub const fn rax(self) -> Option<u64> {
        if self.again == 0 { Some(self.rax) } else { None }
    }
}
