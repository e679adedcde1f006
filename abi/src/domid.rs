//! Domain identifiers.

/// A domain id as it stands in ABI structures (`domid_t`).
pub type Domid = u16;

/// First id that is no ordinary domain.
pub const DOMID_FIRST_RESERVED: Domid = 0x7ff0;
/// The calling domain.
pub const DOMID_SELF: Domid = 0x7ff0;
/// Owner of I/O memory.
pub const DOMID_IO: Domid = 0x7ff1;
/// Owner of the hypervisor's own pages.
pub const DOMID_XEN: Domid = 0x7ff2;
/// Owner of pages shared copy-on-write.
pub const DOMID_COW: Domid = 0x7ff3;
/// No domain.
pub const DOMID_INVALID: Domid = 0x7ff4;
/// The idle domain.
pub const DOMID_IDLE: Domid = 0x7fff;
/// Every bit that an id can have.
pub const DOMID_MASK: Domid = 0x7fff;
