//! What the loader passes: command line, modules, memory map (`hvm_start_info`).
// UNSAFETY: follows the loader's physical addresses.
#![expect(unsafe_code, reason = "reads structures at addresses the loader passed")]

use core::ffi::CStr;
use core::slice;

use abi::start_info::{HvmMemmapTableEntry, HvmModlistEntry, HvmStartInfo, XEN_HVM_START_MAGIC_VALUE};

/// The loader's structures; they stay where they are for ever, the heap keeps off them.
#[derive(Clone, Copy, Debug)]
pub struct StartInfo {
    /// The head.
    pub raw: &'static HvmStartInfo,
    modules: &'static [HvmModlistEntry],
    memmap: &'static [HvmMemmapTableEntry],
}

impl StartInfo {
    /// Reads the structure at `address`.
    ///
    /// # Safety
    /// `address` is what the loader passed in EBX, and all that the structure points to is mapped memory that
    /// nothing writes to any more.
    pub(crate) unsafe fn read(address: u64) -> Self {
        // SAFETY: the caller's promise; the structure is aligned to 8 by every loader (it is page-aligned or
        // follows page-aligned data), which the magic number's check below would not survive otherwise.
        let raw = unsafe { &*(address as *const HvmStartInfo) };
        assert_eq!(
            raw.magic, XEN_HVM_START_MAGIC_VALUE,
            "no start info at {address:#x}"
        );
        let has_map = raw.version > 0 && raw.memmap_entries > 0;
        // SAFETY: the caller's promise.
        let (modules, memmap) = unsafe {
            (
                array(raw.modlist_paddr, raw.nr_modules),
                array(raw.memmap_paddr, if has_map { raw.memmap_entries } else { 0 }),
            )
        };
        Self { raw, modules, memmap }
    }

    /// The command line; empty if there is none or it is not UTF-8.
    pub fn command_line(&self) -> &'static str {
        string(self.raw.cmdline_paddr)
    }

    /// Number of modules.
    pub fn module_count(&self) -> usize {
        self.modules.len()
    }

    /// Contents of a module.
    pub fn module(&self, index: usize) -> Option<&'static [u8]> {
        let module = self.modules.get(index)?;
        // SAFETY: `read`'s caller promised that modules are mapped and unchanging.
        Some(unsafe { slice::from_raw_parts(module.paddr as *const u8, module.size as usize) })
    }

    /// The memory map in the structure; empty for a version 0 structure.
    pub fn memory_map(&self) -> &'static [HvmMemmapTableEntry] {
        self.memmap
    }

    /// Every range of memory that the structures and modules take up.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = core::ops::Range<u64>> {
        let range = |start: u64, bytes: usize| start..start + bytes as u64;
        let head = range(core::ptr::from_ref(self.raw) as u64, size_of::<HvmStartInfo>());
        let list = range(self.raw.modlist_paddr, size_of_val(self.modules));
        let map = range(self.raw.memmap_paddr, size_of_val(self.memmap));
        let text = range(self.raw.cmdline_paddr, self.command_line().len() + 1);
        let modules = self.modules.iter().flat_map(move |module| {
            [
                range(module.paddr, module.size as usize),
                range(module.cmdline_paddr, string(module.cmdline_paddr).len() + 1),
            ]
        });
        [head, list, map, text].into_iter().chain(modules)
    }
}

/// The NUL-terminated string at a physical address; empty for address 0.
fn string(address: u64) -> &'static str {
    if address == 0 {
        return "";
    }
    // SAFETY: only called with addresses from the loader's structures, covered by the promise to `read`.
    let text = unsafe { CStr::from_ptr(address as *const core::ffi::c_char) };
    text.to_str().unwrap_or("")
}

/// The array at a physical address.
///
/// # Safety
/// As for [`StartInfo::read`].
unsafe fn array<T>(address: u64, count: u32) -> &'static [T] {
    if address == 0 || count == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { slice::from_raw_parts(address as *const T, count as usize) }
}
