//! `xen_version` (hypercall 17).

/// Returns `major << 16 | minor`.
pub const XENVER_VERSION: u32 = 0;
/// Fills an [`ExtraVersion`].
pub const XENVER_EXTRAVERSION: u32 = 1;
/// Fills a [`CompileInfo`].
pub const XENVER_COMPILE_INFO: u32 = 2;
/// Fills a [`CapabilitiesInfo`].
pub const XENVER_CAPABILITIES: u32 = 3;
/// Fills a [`ChangesetInfo`].
pub const XENVER_CHANGESET: u32 = 4;
/// Fills a [`PlatformParameters`].
pub const XENVER_PLATFORM_PARAMETERS: u32 = 5;
/// Takes and fills a [`FeatureInfo`].
pub const XENVER_GET_FEATURES: u32 = 6;
/// Returns the page size.
pub const XENVER_PAGESIZE: u32 = 7;
/// Fills a [`crate::domctl::DomainHandle`].
pub const XENVER_GUEST_HANDLE: u32 = 8;
/// Fills a [`CommandLine`].
pub const XENVER_COMMANDLINE: u32 = 9;
/// Fills a [`BuildId`] and the bytes after it.
pub const XENVER_BUILD_ID: u32 = 10;

/// Version that Debian 12's tools insist on: 4.17, as returned by [`XENVER_VERSION`].
pub const XEN_VERSION_4_17: u32 = 4 << 16 | 17;

/// Zero-terminated, such as ".7".
pub type ExtraVersion = [u8; 16];
/// Zero-terminated list of guest types, separated by spaces.
pub type CapabilitiesInfo = [u8; 1024];
/// Zero-terminated.
pub type ChangesetInfo = [u8; 64];
/// Zero-terminated hypervisor command line.
pub type CommandLine = [u8; 1024];

plain! {
    /// How the hypervisor was built; zero-terminated strings.
    pub struct CompileInfo {
        /// Compiler and version.
        pub compiler: [u8; 64],
        /// User.
        pub compile_by: [u8; 16],
        /// Host domain.
        pub compile_domain: [u8; 32],
        /// Date.
        pub compile_date: [u8; 32],
    }
}

compat! {
    /// PV address-space layout.
    pub struct PlatformParameters as CompatPlatformParameters {
        /// Start of the hypervisor's virtual range.
        pub virt_start: u64 as u32,
    }
}

plain! {
    /// One 32-bit word of feature bits.
    pub struct FeatureInfo {
        /// In: which word.
        pub submap_idx: u32,
        /// Out: the bits ([`crate::features`]).
        pub submap: u32,
    }
    /// Header of the build id.
    pub struct BuildId {
        /// In: room for the id in bytes; the id follows this structure.
        pub len: u32,
    }
}
