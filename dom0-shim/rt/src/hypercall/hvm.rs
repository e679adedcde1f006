//! `hvm_op`.
// UNSAFETY: hypercalls.
#![expect(unsafe_code, reason = "hypercalls")]

use abi::domid::DOMID_SELF;
use abi::hvm::{HVMOP_GET_PARAM, HVMOP_SET_PARAM, HvmParam};
use abi::hypercall::HYPERVISOR_HVM_OP;
use abi::{Domid, Errno};

use super::op;

/// Sets a parameter (`HVM_PARAM_*`) of `domain`.
pub fn set_param(domain: Domid, index: u32, value: u64) -> Result<(), Errno> {
    let mut argument = HvmParam {
        domid: domain,
        pad: 0,
        index,
        value,
    };
    // SAFETY: the argument holds no address of this guest.
    unsafe { op(HYPERVISOR_HVM_OP, HVMOP_SET_PARAM, &mut argument) }.map(|_| ())
}

/// Reads a parameter of `domain`.
pub fn param(domain: Domid, index: u32) -> Result<u64, Errno> {
    let mut argument = HvmParam {
        domid: domain,
        pad: 0,
        index,
        value: 0,
    };
    // SAFETY: the argument holds no address.
    unsafe { op(HYPERVISOR_HVM_OP, HVMOP_GET_PARAM, &mut argument) }?;
    Ok(argument.value)
}

/// Sets a parameter of this domain.
pub fn set_own_param(index: u32, value: u64) -> Result<(), Errno> {
    set_param(DOMID_SELF, index, value)
}
