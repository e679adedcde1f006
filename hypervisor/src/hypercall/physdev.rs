//! `physdev_op`: what dom0 tells of the machine's devices.

use abi::Errno;
use abi::physdev::{
    PHYSDEVOP_PCI_DEVICE_ADD, PHYSDEVOP_PCI_DEVICE_REMOVE, PHYSDEVOP_PCI_MMCFG_RESERVED, PhysdevPciDevice,
    PhysdevPciDeviceAdd, PhysdevPciMmcfgReserved,
};

use super::{Caller, Outcome};

/// dom0 tells of the PCI devices that it finds. It has them all, and Oxen nothing to prepare for them without an IOMMU, so the
/// news is only checked. Other operations do not exist for domains with nested paging.
pub(super) fn physdev_op(caller: &mut Caller<'_>, command: u64, at: u64) -> Outcome {
    if !caller.domain.is_privileged() {
        return Err(Errno::ENOSYS.into());
    }
    match command as u32 {
        PHYSDEVOP_PCI_MMCFG_RESERVED => drop(caller.read::<PhysdevPciMmcfgReserved>(at)?),
        PHYSDEVOP_PCI_DEVICE_ADD => drop(caller.read::<PhysdevPciDeviceAdd>(at)?),
        PHYSDEVOP_PCI_DEVICE_REMOVE => drop(caller.read::<PhysdevPciDevice>(at)?),
        _ => return Err(Errno::ENOSYS.into()),
    }
    Ok(0)
}
