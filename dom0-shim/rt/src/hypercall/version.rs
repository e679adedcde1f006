//! `xen_version`.
// UNSAFETY: hypercalls that fill a structure.
#![expect(unsafe_code, reason = "hypercalls")]

use abi::Errno;
use abi::hypercall::HYPERVISOR_XEN_VERSION;
use abi::version::{
    CapabilitiesInfo, ChangesetInfo, CommandLine, CompileInfo, ExtraVersion, PlatformParameters,
    XENVER_CAPABILITIES, XENVER_CHANGESET, XENVER_COMMANDLINE, XENVER_COMPILE_INFO, XENVER_EXTRAVERSION,
    XENVER_PAGESIZE, XENVER_PLATFORM_PARAMETERS, XENVER_VERSION,
};
use zerocopy::FromBytes;

use super::{op, raw};

fn get<T: FromBytes>(sub: u32) -> Result<T, Errno> {
    let mut value = T::new_zeroed();
    // SAFETY: every caller below pairs the sub-operation with the type that it fills.
    unsafe { op(HYPERVISOR_XEN_VERSION, sub, &mut value) }?;
    Ok(value)
}

/// Major and minor version.
pub fn version() -> Result<(u16, u16), Errno> {
    // SAFETY: no argument.
    let version = unsafe { raw(HYPERVISOR_XEN_VERSION, [XENVER_VERSION.into(), 0, 0, 0, 0]) }?;
    Ok(((version >> 16) as u16, version as u16))
}

/// What follows the minor version; NUL-padded.
pub fn extra_version() -> Result<ExtraVersion, Errno> {
    get(XENVER_EXTRAVERSION)
}

/// Kinds of guests; NUL-padded.
pub fn capabilities() -> Result<CapabilitiesInfo, Errno> {
    get(XENVER_CAPABILITIES)
}

/// Source revision; NUL-padded.
pub fn changeset() -> Result<ChangesetInfo, Errno> {
    get(XENVER_CHANGESET)
}

/// The hypervisor's command line; NUL-padded.
pub fn command_line() -> Result<CommandLine, Errno> {
    get(XENVER_COMMANDLINE)
}

/// Bytes of a page.
pub fn page_size() -> Result<u64, Errno> {
    // SAFETY: no argument.
    unsafe { raw(HYPERVISOR_XEN_VERSION, [XENVER_PAGESIZE.into(), 0, 0, 0, 0]) }
}

/// Where the hypervisor is.
pub fn platform_parameters() -> Result<PlatformParameters, Errno> {
    get(XENVER_PLATFORM_PARAMETERS)
}

/// Who compiled the hypervisor, when and how.
pub fn compile_info() -> Result<CompileInfo, Errno> {
    get(XENVER_COMPILE_INFO)
}
