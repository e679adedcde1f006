//! Hypercalls: one file per family of Xen's public interface.
//!
//! A handler reads its argument once, checks it, acts on its own copy, and writes results back. What a guest gets wrong is an [`Errno`], in the
//! order in which Xen checks where a guest could tell. Work that the arguments make long is done in slices: the handler
//! says how the call is to go on, and the guest executes the instruction again ([`Stop::Continue`]).
//!
//! Only `abi` and this module know Xen's numbers; what they mean is in the modules of the objects.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic
    )
)]

pub mod console_io;
mod cpupool;
mod domctl;
mod event;
mod grant;
mod hotplug;
mod hvm;
mod hvm_context;
mod memory;
mod misc;
mod physdev;
mod platform;
mod sched;
mod sysctl;
mod vcpu;
pub mod version;

use alloc::sync::Arc;
use core::ops::Range;

use abi::domid::DOMID_SELF;
use abi::{Compat, Domid, Errno, GuestHandle, Layout, hypercall as nr};
use arrayvec::ArrayVec;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::arch::calls::{SLOTS, slot};
use crate::arch::{Answer, Calls, GuestCpu};
use crate::domain::{Domain, table};
use crate::mm::guest::{Fault, GuestVirt};
use crate::types::{DomId, Gva, PAGE_SIZE};
use crate::virt::Running;

/// The arguments of a call: RDI, RSI and RDX. No call has more; the interface knows five.
pub type Args = [u64; 3];

/// Who makes a call.
pub type Caller<'a> = Running<'a, dyn GuestCpu>;

/// Why a call does not return a value (yet).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// It failed.
    Errno(Errno),
    /// A slice is done: the guest is to execute the instruction again, with those first arguments that `Caller::next` has.
    Continue,
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Stop::Errno(errno)
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Stop::Errno(fault.into())
    }
}

/// What handlers return.
type Outcome = Result<u64, Stop>;

impl From<Outcome> for Answer {
    #[inline(always)]
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Ok(value) => Answer::new(value),
            Err(Stop::Errno(errno)) => Answer::new(Errno::encode(Err(errno))),
            Err(Stop::Continue) => Answer::AGAIN,
        }
    }
}

/// What makes a call: [`calls::Handler`] with a type for the context. A call uses as many arguments as it has; they come first, as they are in the guest's
/// registers.
type Handler = extern "sysv64-unwind" fn(u64, u64, u64, &mut Caller<'_>) -> Answer;

/// A table of [`Handler`]s, each written as if it were a closure.
macro_rules! handlers {
    ($($nr:ident: |$first:pat, $second:pat, $third:pat, $caller:ident| $outcome:expr;)*) => {{
        let mut table: [Handler; SLOTS] = [unknown; SLOTS];
        $(
            table[nr::$nr as usize] = {
                extern "sysv64-unwind" fn handler(
                    $first: u64,
                    $second: u64,
                    $third: u64,
                    $caller: &mut Caller<'_>,
                ) -> Answer {
                    $outcome.into()
                }
                handler
            };
        )*
        table
    }};
}

/// By number. What is not here does not exist for guests with nested paging.
#[cfg_attr(
    not(test),
    expect(clippy::indexing_slicing, reason = "when this is compiled, not when it runs")
)]
static TABLE: [Handler; SLOTS] = handlers! {
    HYPERVISOR_PLATFORM_OP: |at, _, _, caller| platform::platform_op(caller, at);
    HYPERVISOR_MEMORY_OP: |command, at, _, caller| memory::memory_op(caller, command, at);
    HYPERVISOR_MULTICALL: |list, count, _, caller| misc::multicall(caller, list, count);
    HYPERVISOR_SET_TIMER_OP: |deadline, _, _, caller| vcpu::set_timer_op(caller, deadline);
    HYPERVISOR_XEN_VERSION: |command, at, _, caller| version::xen_version(caller, command, at);
    HYPERVISOR_CONSOLE_IO: |command, count, at, caller| console_io::console_io(caller, command, count, at);
    HYPERVISOR_GRANT_TABLE_OP: |command, list, count, caller| grant::grant_table_op(caller, command, list, count);
    HYPERVISOR_VM_ASSIST: |command, kind, _, caller| misc::vm_assist(caller, command, kind);
    HYPERVISOR_VCPU_OP: |command, id, at, caller| vcpu::vcpu_op(caller, command, id, at);
    HYPERVISOR_SCHED_OP: |command, at, _, caller| sched::sched_op(caller, command, at);
    HYPERVISOR_EVENT_CHANNEL_OP: |command, at, old, caller| event::event_channel_op(caller, command, at, old);
    HYPERVISOR_PHYSDEV_OP: |command, at, _, caller| physdev::physdev_op(caller, command, at);
    HYPERVISOR_HVM_OP: |command, at, _, caller| hvm::hvm_op(caller, command, at);
    HYPERVISOR_SYSCTL: |at, _, _, caller| sysctl::sysctl(caller, at);
    HYPERVISOR_DOMCTL: |at, _, _, caller| domctl::domctl(caller, at);
};

/// All of it for a back end, whose context is a [`Caller`].
pub const CALLS: Calls = Calls {
    handlers: (&raw const TABLE).cast(),
    count: SLOTS,
    ..Calls::NONE
};

/// Make call number `nr`, of which all bits count (a caller that is not in 64-bit mode has 32).
#[inline]
pub fn call(first: u64, second: u64, third: u64, caller: &mut Caller<'_>, nr: u64) -> Answer {
    let there = nr < SLOTS as u64;
    let Some(handler) = there.then(|| TABLE.get(slot(nr) % SLOTS)).flatten() else {
        return unknown(first, second, third, caller);
    };
    handler(first, second, third, caller)
}

#[cold]
extern "sysv64-unwind" fn unknown(_: u64, _: u64, _: u64, _: &mut Caller<'_>) -> Answer {
    Answer::new(Errno::encode(Err(Errno::ENOSYS)))
}

/// The same for a call made outside 64-bit mode, whose arguments have 32 bits, and point to what has the layouts of i386 guests.
pub fn call_compat(caller: &mut Caller<'_>, nr: u64, args: Args) -> Answer {
    caller.layout = Layout::I386;
    let answer = call_listed(caller, nr, args);
    caller.layout = Layout::X86_64;
    answer
}

/// A call in the caller's layout: what is left to do for one that is in a list of calls.
fn call_listed(caller: &mut Caller<'_>, nr: u64, [first, second, third]: Args) -> Answer {
    if caller.layout == Layout::I386 && nr == u64::from(nr::HYPERVISOR_SET_TIMER_OP) {
        // The one argument of 64 bits comes in two.
        return call(first | second << 32, 0, 0, caller, nr);
    }
    call(first, second, third, caller, nr)
}

impl<'a> Caller<'a> {
    /// Have the guest make the call again, with `args` as its first arguments and the others as they are.
    fn again(&mut self, args: &[u64]) -> Stop {
        self.next = args.iter().copied().take(self.next.capacity()).collect();
        Stop::Continue
    }

    /// The caller's memory, as it sees it.
    #[inline]
    fn memory(&mut self) -> GuestVirt<'_> {
        GuestVirt::new(&self.domain.p2m, self.walks, self.cpu.translation())
    }

    /// Copy a value out of the caller's memory.
    fn read<T: Compat>(&mut self, at: u64) -> Result<T, Errno> {
        self.read_inline(at)
    }

    /// The same without a call, for the most frequent calls.
    #[inline(always)]
    fn read_inline<T: Compat>(&mut self, at: u64) -> Result<T, Errno> {
        if self.differs::<T>() {
            return self.read_compat(at);
        }
        Ok(self.memory().read(Gva(at))?)
    }

    #[inline(never)]
    fn read_compat<T: Compat>(&mut self, at: u64) -> Result<T, Errno> {
        Ok(T::widen(self.memory().read(Gva(at))?))
    }

    /// Copy a value into the caller's memory.
    #[inline]
    fn write<T: Compat>(&mut self, at: u64, value: &T) -> Result<(), Errno> {
        if self.differs::<T>() {
            return self.write_compat(at, value);
        }
        Ok(self.memory().write(Gva(at), value)?)
    }

    #[inline(never)]
    fn write_compat<T: Compat>(&mut self, at: u64, value: &T) -> Result<(), Errno> {
        Ok(self.memory().write(Gva(at), &(*value).narrow())?)
    }

    /// Has the caller another layout of `T`?
    #[inline]
    fn differs<T: Compat>(&self) -> bool {
        !T::SAME && self.layout == Layout::I386
    }

    /// Element `index` of an array in the caller's memory.
    fn read_element<T: Compat>(&mut self, array: GuestHandle<T>, index: u64) -> Result<T, Errno> {
        self.read(self.element(array, index))
    }

    /// Elements of an array in the caller's memory, from the start of `range` on: those in one page, or one in two, as many as there is room for.
    fn read_elements<T: Compat, const N: usize>(
        &mut self,
        array: GuestHandle<T>,
        range: Range<u64>,
    ) -> Result<ArrayVec<T, N>, Errno> {
        let at = Gva(self.element(array, range.start));
        let count = range.end.saturating_sub(range.start);
        if self.differs::<T>() {
            let read: ArrayVec<T::I386, N> = self.read_some(at, count)?;
            return Ok(read.into_iter().map(T::widen).collect());
        }
        self.read_some(at, count)
    }

    fn read_some<E, const N: usize>(&mut self, at: Gva, count: u64) -> Result<ArrayVec<E, N>, Errno>
    where
        E: FromBytes + IntoBytes,
    {
        let in_page = (PAGE_SIZE - at.page_offset()) / size_of::<E>() as u64;
        let count = count.min(in_page.max(1)).min(N as u64);
        let mut read = ArrayVec::from(<[E; N]>::new_zeroed());
        read.truncate(count as usize);
        self.memory().read_bytes(at, read.as_mut_slice().as_mut_bytes())?;
        Ok(read)
    }

    /// Set element `index` of an array in the caller's memory.
    fn write_element<T: Compat>(
        &mut self,
        array: GuestHandle<T>,
        index: u64,
        value: &T,
    ) -> Result<(), Errno> {
        self.write(self.element(array, index), value)
    }

    /// Do `work` with element `index` of an array in the caller's memory, then write it back to where it was read. Where it cannot be written,
    /// nothing is done.
    #[inline(always)]
    fn with_element<T: Compat>(
        &mut self,
        array: GuestHandle<T>,
        index: u64,
        work: impl Fn(&Self, &mut T),
    ) -> Result<(), Errno> {
        let at = Gva(self.element(array, index));
        if self.differs::<T>() || at.page_offset() > PAGE_SIZE - size_of::<T>() as u64 {
            return self.with_part(array, index, &work);
        }
        let owner = self.domain.id;
        let Ok(frame) = self.memory().own_frame(at, owner) else {
            return self.with_part(array, index, &work);
        };
        let mut value = frame.read(at.page_offset());
        work(self, &mut value);
        frame.copy_in(at.page_offset(), value.as_bytes());
        Ok(())
    }

    /// The same where no single frame of the caller's own holds it, or in another layout: it is written to what is there afterwards.
    #[cold]
    #[inline(never)]
    fn with_part<T: Compat>(
        &mut self,
        array: GuestHandle<T>,
        index: u64,
        work: &dyn Fn(&Self, &mut T),
    ) -> Result<(), Errno> {
        let first = self.element(array, index);
        let last = self.element(array, index.wrapping_add(1)).wrapping_sub(1);
        for end in [first, last] {
            self.memory().frame(Gva(end))?;
        }
        let mut value = self.read_element(array, index)?;
        work(self, &mut value);
        self.write_element(array, index, &value)
    }

    /// Is there nothing of `value` that the caller's layout has no room for?
    fn fits<T: Compat + PartialEq>(&self, value: T) -> bool {
        !self.differs::<T>() || T::widen(value.narrow()) == value
    }

    /// Address of an element. Wraps around as the guest's own arithmetic would; where it ends up is checked by the access.
    fn element<T: Compat>(&self, array: GuestHandle<T>, index: u64) -> u64 {
        let size = if self.differs::<T>() {
            size_of::<T::I386>()
        } else {
            size_of::<T>()
        };
        array.addr().wrapping_add(index.wrapping_mul(size as u64))
    }

    /// The domain that an argument names: itself, or any.
    ///
    /// # Errors
    /// `ESRCH`: there is none.
    fn any_domain(&self, id: Domid) -> Result<Arc<Domain>, Errno> {
        if id == DOMID_SELF || DomId(id) == self.domain.id {
            return Ok(self.domain.clone());
        }
        table::get(DomId(id)).ok_or(Errno::ESRCH)
    }

    /// The domain that an argument names: itself, or, if the caller is privileged, any.
    ///
    /// # Errors
    /// `ESRCH`: there is none. `EPERM`: it is not the caller's business.
    fn target(&self, id: Domid) -> Result<Arc<Domain>, Errno> {
        let domain = self.any_domain(id)?;
        if domain.id == self.domain.id || self.domain.is_privileged() {
            Ok(domain)
        } else {
            Err(Errno::EPERM)
        }
    }

    /// # Errors
    /// `EPERM`: the caller is not privileged.
    fn require_privilege(&self) -> Result<(), Errno> {
        if self.domain.is_privileged() {
            Ok(())
        } else {
            Err(Errno::EPERM)
        }
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
