//! `xen_version`: who we are. Oxen answers as the Xen whose interface it has, since guests and tools choose by these answers.

use abi::Errno;
use abi::features::{
    XENFEAT_AUTO_TRANSLATED_PHYSMAP, XENFEAT_DOM0, XENFEAT_HVM_CALLBACK_VECTOR, XENFEAT_HVM_SAFE_PVCLOCK,
    XENFEAT_MEMORY_OP_VNODE_SUPPORTED, XENFEAT_NOT_DIRECT_MAPPED, XENFEAT_NR_SUBMAPS,
    XENFEAT_WRITABLE_PAGE_TABLES,
};
use abi::version::{
    BuildId, CapabilitiesInfo, ChangesetInfo, CommandLine, CompileInfo, ExtraVersion, FeatureInfo,
    PlatformParameters, XEN_VERSION_4_17, XENVER_BUILD_ID, XENVER_CAPABILITIES, XENVER_CHANGESET,
    XENVER_COMMANDLINE, XENVER_COMPILE_INFO, XENVER_EXTRAVERSION, XENVER_GET_FEATURES, XENVER_GUEST_HANDLE,
    XENVER_PAGESIZE, XENVER_PLATFORM_PARAMETERS, XENVER_VERSION,
};

use super::{Caller, Outcome};
use crate::mm::phys::DIRECT_MAP;
use crate::sync::Once;
use crate::types::{Gva, PAGE_SIZE};

static COMMAND_LINE: Once<CommandLine> = Once::new();

/// What XENVER_version and CPUID say: major and minor number.
pub const VERSION: u32 = XEN_VERSION_4_17;
/// What follows "4.17": the revision whose behaviour is followed, and who we are.
const EXTRA_VERSION: &str = ".7-oxen";
/// What a domU gets where it would learn of the machine, as on Xen.
const DENIED: &[u8] = b"<denied>\0";
/// Guest types, as libxc compares them with a kernel's.
const CAPABILITIES: &str = "xen-3.0-x86_64 hvm-3.0-x86_32 hvm-3.0-x86_32p hvm-3.0-x86_64 ";

/// Remember the command line that Oxen was started with, for XENVER_commandline. Called once.
pub fn set_command_line(line: &str) {
    COMMAND_LINE.call_once(|| padded(line));
}

/// `text` in a field, cut off so that a NUL remains.
fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [0; N];
    let room = N.saturating_sub(1);
    for (to, from) in field.iter_mut().take(room).zip(text.bytes()) {
        *to = from;
    }
    field
}

fn features(privileged: bool) -> u32 {
    let common = 1 << XENFEAT_WRITABLE_PAGE_TABLES
        | 1 << XENFEAT_AUTO_TRANSLATED_PHYSMAP
        | 1 << XENFEAT_HVM_CALLBACK_VECTOR
        | 1 << XENFEAT_HVM_SAFE_PVCLOCK
        | 1 << XENFEAT_MEMORY_OP_VNODE_SUPPORTED
        | 1 << XENFEAT_NOT_DIRECT_MAPPED;
    if privileged {
        common | 1 << XENFEAT_DOM0
    } else {
        common
    }
}

pub(super) fn xen_version(caller: &mut Caller<'_>, command: u64, at: u64) -> Outcome {
    match command as u32 {
        XENVER_VERSION => Ok(u64::from(VERSION)),
        XENVER_PAGESIZE => Ok(PAGE_SIZE),
        _ => with_argument(caller, command, at),
    }
}

/// Apart, so that the cheapest call, which many use to give the hypervisor a chance to interrupt them, does not pay for buffers.
#[inline(never)]
fn with_argument(caller: &mut Caller<'_>, command: u64, at: u64) -> Outcome {
    match command as u32 {
        XENVER_GET_FEATURES => get_features(caller, at),
        command => text(caller, command, at),
    }
}

fn get_features(caller: &mut Caller<'_>, at: u64) -> Outcome {
    let mut info: FeatureInfo = caller.read(at)?;
    if info.submap_idx >= XENFEAT_NR_SUBMAPS {
        return Err(Errno::EINVAL.into());
    }
    info.submap = features(caller.domain.is_privileged());
    caller.write(at, &info)?;
    Ok(0)
}

#[inline(never)]
fn text(caller: &mut Caller<'_>, command: u32, at: u64) -> Outcome {
    match command {
        XENVER_EXTRAVERSION => caller.write::<ExtraVersion>(at, &padded(EXTRA_VERSION))?,
        XENVER_COMPILE_INFO => {
            let info = CompileInfo {
                compiler: padded("rustc"),
                compile_by: padded("oxen"),
                compile_domain: padded(env!("CARGO_PKG_NAME")),
                compile_date: padded(env!("CARGO_PKG_VERSION")),
            };
            caller.write(at, &info)?;
        }
        XENVER_CAPABILITIES => caller.write::<CapabilitiesInfo>(at, &padded(CAPABILITIES))?,
        XENVER_CHANGESET => caller.write::<ChangesetInfo>(at, &padded(env!("CARGO_PKG_VERSION")))?,
        XENVER_PLATFORM_PARAMETERS => caller.write(
            at,
            &PlatformParameters {
                virt_start: DIRECT_MAP,
            },
        )?,
        XENVER_GUEST_HANDLE => {
            let handle = *caller.domain.handle.lock();
            caller.write(at, &handle)?;
        }
        XENVER_COMMANDLINE if !caller.domain.is_privileged() => {
            caller.memory().write_bytes(Gva(at), DENIED)?;
        }
        XENVER_COMMANDLINE => {
            let line = COMMAND_LINE.get().copied().unwrap_or([0; 1024]);
            caller.write::<CommandLine>(at, &line)?;
        }
        XENVER_BUILD_ID => {
            caller.require_privilege()?;
            if at != 0 {
                caller.read::<BuildId>(at)?;
            }
            return Err(Errno::ENODATA.into());
        }
        _ => return Err(Errno::ENOSYS.into()),
    }
    Ok(0)
}
