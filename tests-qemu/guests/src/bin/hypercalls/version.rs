//! `xen_version`.

use alloc::format;

use abi::hypercall::*;
use abi::version::*;
use guests::hypercall::{call, op};
use guests::report::Report;
use zerocopy::FromZeros;

use super::{EINVAL, ENOSYS, bad_pointers};

pub fn version(report: &mut Report) {
    const NUMBER: u32 = HYPERVISOR_XEN_VERSION;
    let version = call(NUMBER, [XENVER_VERSION.into(), 0, 0, 0, 0]);
    report.equal("version", version, XEN_VERSION_4_17.into());
    let mut extra = [0u8; 16];
    report.equal("version-extra", op(NUMBER, XENVER_EXTRAVERSION, &mut extra), 0);
    report.check("version-extra-ends", extra.contains(&0), format!("{extra:x?}"));
    let mut compile = CompileInfo::new_zeroed();
    report.equal(
        "version-compile-info",
        op(NUMBER, XENVER_COMPILE_INFO, &mut compile),
        0,
    );
    report.check("version-compiler", compile.compiler[0] != 0, "empty");
    let mut capabilities = [0u8; 1024];
    report.equal(
        "version-capabilities",
        op(NUMBER, XENVER_CAPABILITIES, &mut capabilities),
        0,
    );
    let hvm = capabilities.windows(10).any(|part| part == b"hvm-3.0-x8");
    report.check("version-capabilities-hvm", hvm, "no hvm-3.0-x8...");
    let mut changeset = [0u8; 64];
    report.equal(
        "version-changeset",
        op(NUMBER, XENVER_CHANGESET, &mut changeset),
        0,
    );
    let mut parameters = PlatformParameters::new_zeroed();
    report.equal(
        "version-platform-parameters",
        op(NUMBER, XENVER_PLATFORM_PARAMETERS, &mut parameters),
        0,
    );
    let mut features = FeatureInfo {
        submap_idx: 0,
        submap: 0,
    };
    report.equal(
        "version-features",
        op(NUMBER, XENVER_GET_FEATURES, &mut features),
        0,
    );
    const WRITABLE_TABLES_AUTO_TRANSLATED_VECTOR_CLOCK: u32 = 0x305;
    const DOM0: u32 = 1 << 11;
    let wanted = WRITABLE_TABLES_AUTO_TRANSLATED_VECTOR_CLOCK | DOM0;
    report.equal("version-feature-bits", features.submap & wanted, wanted);
    features.submap_idx = 5;
    report.equal(
        "version-features-index",
        op(NUMBER, XENVER_GET_FEATURES, &mut features),
        EINVAL,
    );
    report.equal(
        "version-page-size",
        call(NUMBER, [XENVER_PAGESIZE.into(), 0, 0, 0, 0]),
        4096,
    );
    let mut handle = [0u8; 16];
    report.equal(
        "version-guest-handle",
        op(NUMBER, XENVER_GUEST_HANDLE, &mut handle),
        0,
    );
    let mut line = [0u8; 1024];
    report.equal(
        "version-command-line",
        op(NUMBER, XENVER_COMMANDLINE, &mut line),
        0,
    );
    let found = line.windows(8).any(|part| part == b"dom0_mem");
    report.check("version-command-line-text", found, "no dom0_mem");
    report.equal("version-unknown", call(NUMBER, [99, 0, 0, 0, 0]), ENOSYS);
    bad_pointers(report, "version-features", NUMBER, XENVER_GET_FEATURES);
    bad_pointers(report, "version-extra", NUMBER, XENVER_EXTRAVERSION);
}
