//! Leaving UEFI's boot services.
// UNSAFETY: calls the firmware.
#![expect(unsafe_code, reason = "calls the firmware")]

use uefi::boot::MemoryType;
use uefi::mem::memory_map::MemoryMap;
use uefi::table::cfg::ConfigTableEntry;

use crate::found::{BootError, Efi, RootPointers};
use crate::memory::{PAGE, RegionList, e820};

/// Ends boot services; adds the firmware's final memory map to `regions` and returns ACPI's root pointers. When the
/// firmware refuses to end them it resets the machine.
///
/// # Errors
/// When `regions` is full.
///
/// # Safety
/// `efi` must come from a loader that left boot services running, the firmware's memory must be identity-mapped, and
/// nothing may be used afterwards that lies in memory of boot services.
pub unsafe fn leave(efi: Efi, regions: &mut RegionList) -> Result<RootPointers, BootError> {
    // SAFETY: the caller vouches for the table, the handle, and for what is still referenced.
    let map = unsafe {
        uefi::table::set_system_table(efi.system_table as *const _);
        if let Some(handle) = uefi::Handle::from_ptr(efi.image_handle as *mut _) {
            uefi::boot::set_image_handle(handle);
        }
        uefi::boot::exit_boot_services(None)
    };
    for entry in map.entries() {
        regions.add_e820(
            entry.phys_start,
            entry.page_count.saturating_mul(PAGE),
            e820_type(entry.ty),
        )?;
    }
    Ok(uefi::system::with_config_table(|table| {
        let find = |guid| {
            table
                .iter()
                .find(|entry| entry.guid == guid)
                .map(|entry| entry.address as u64)
        };
        [ConfigTableEntry::ACPI2_GUID, ConfigTableEntry::ACPI_GUID]
            .into_iter()
            .filter_map(find)
            .collect()
    }))
}

/// The E820 type of memory that UEFI calls `ty` (ACPI 6.5, table 15.9 beside UEFI 2.10, table 7.10).
fn e820_type(ty: MemoryType) -> u32 {
    match ty {
        MemoryType::CONVENTIONAL
        | MemoryType::LOADER_CODE
        | MemoryType::LOADER_DATA
        | MemoryType::BOOT_SERVICES_CODE
        | MemoryType::BOOT_SERVICES_DATA => e820::RAM,
        MemoryType::ACPI_RECLAIM => e820::ACPI,
        MemoryType::ACPI_NON_VOLATILE => e820::NVS,
        MemoryType::UNUSABLE => e820::UNUSABLE,
        _ => e820::RESERVED,
    }
}
