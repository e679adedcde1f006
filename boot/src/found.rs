//! What the parsers produce: references into the loader's memory, not yet copied out.

use arrayvec::ArrayVec;
use core::fmt;

use crate::handover::BootPath;
use crate::memory::RegionList;

/// Most modules that are taken over.
pub const MAX_MODULES: usize = 32;
/// Longest command line in bytes; the rest is cut off.
pub const MAX_COMMAND_LINE: usize = 2048;

/// Physical addresses of what may be ACPI's root pointer, in the order in which they are to be tried.
pub type RootPointers = ArrayVec<u64, 4>;

/// Reads physical memory: the direct map on the machine, a few byte vectors in tests.
pub trait Physical {
    /// `len` bytes from physical address `start`; `None` if they cannot be reached.
    fn bytes(&self, start: u64, len: usize) -> Option<&[u8]>;
}

/// A module before its command line is copied.
#[derive(Debug, PartialEq, Eq)]
pub struct FoundModule<'a> {
    /// Physical address.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// Command line as the loader gave it.
    pub command_line: &'a [u8],
}

/// A loader's information, read but not copied.
#[derive(Debug)]
pub struct Found<'a> {
    /// Which door it was.
    pub path: BootPath,
    /// The loader's name.
    pub loader: &'a [u8],
    /// The hypervisor's command line.
    pub command_line: &'a [u8],
    /// Modules in the loader's order.
    pub modules: ArrayVec<FoundModule<'a>, MAX_MODULES>,
    /// The memory map as reported; empty on UEFI, where it comes from leaving boot services.
    pub regions: RegionList,
    /// Physical addresses of ACPI's root pointers that the loader names, the newest first.
    pub rsdps: RootPointers,
    /// System table and image handle, if UEFI's boot services are still running.
    pub efi: Option<Efi>,
}

/// What it takes to leave UEFI's boot services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Efi {
    /// Physical address of the system table.
    pub system_table: u64,
    /// Our image handle.
    pub image_handle: u64,
}

impl<'a> Found<'a> {
    /// An empty answer for `path`.
    pub fn new(path: BootPath) -> Self {
        Self {
            path,
            loader: b"",
            command_line: b"",
            modules: ArrayVec::new(),
            regions: RegionList::new(),
            rsdps: RootPointers::new(),
            efi: None,
        }
    }

    /// Adds a module that occupies `start..end`.
    ///
    /// # Errors
    /// When the range is upside down, or there are too many modules.
    pub fn add_module(&mut self, start: u64, end: u64, command_line: &'a [u8]) -> Result<(), BootError> {
        let len = end
            .checked_sub(start)
            .ok_or(BootError::BadModule { start, end })?;
        self.modules
            .try_push(FoundModule {
                start,
                len,
                command_line,
            })
            .map_err(|_| BootError::TooManyModules)
    }
}

/// The arguments proper of a command line: GRUB 2 passes them alone (Debian's scripts put the word `placeholder` in
/// front), other multiboot loaders put the file's name first.
pub fn arguments<'a>(line: &'a [u8], loader: &[u8]) -> &'a [u8] {
    let line = line.trim_ascii();
    let (first, rest) = match line.iter().position(u8::is_ascii_whitespace) {
        Some(at) => line.split_at(at),
        None => (line, &b""[..]),
    };
    let grub2 = matches!(loader.strip_prefix(b"GRUB "), Some([b'1'..=b'9', ..]));
    if !grub2 || first == b"placeholder" {
        rest.trim_ascii()
    } else {
        line
    }
}

/// The bytes of a zero-terminated string at `start`, at most [`MAX_COMMAND_LINE`].
pub fn c_string(memory: &impl Physical, start: u64) -> Option<&[u8]> {
    // Byte by byte: the maximum need not be readable when the string ends before.
    let mut len = 1;
    loop {
        let bytes = memory.bytes(start, len)?;
        if let [text @ .., 0] = bytes {
            return Some(text);
        }
        if len == MAX_COMMAND_LINE {
            return Some(bytes);
        }
        len += 1;
    }
}

/// Why the loader's information is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootError {
    /// Neither multiboot nor PVH: the value of EAX and the address in EBX.
    UnknownLoader(u32, u64),
    /// A structure that lies in memory we cannot read.
    Unreadable(&'static str, u64),
    /// A structure that contradicts itself.
    Malformed(&'static str),
    /// A module that ends before it starts.
    BadModule {
        /// Its first byte.
        start: u64,
        /// The byte after its last.
        end: u64,
    },
    /// More than [`MAX_MODULES`] modules.
    TooManyModules,
    /// More memory regions than there is room for.
    TooManyRegions,
    /// No memory map.
    NoMemoryMap,
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownLoader(magic, info) => write!(
                f,
                "started by an unknown kind of boot loader (eax {magic:#x}, ebx {info:#x}); Oxen understands \
                 multiboot 1, multiboot 2 and PVH"
            ),
            Self::Unreadable(what, at) => write!(f, "the boot loader's {what} at {at:#x} is out of reach"),
            Self::Malformed(what) => write!(f, "the boot loader's {what} makes no sense"),
            Self::BadModule { start, end } => {
                write!(f, "a boot module ends ({end:#x}) before it starts ({start:#x})")
            }
            Self::TooManyModules => write!(f, "more than {MAX_MODULES} boot modules"),
            Self::TooManyRegions => f.write_str("the machine's memory map has too many regions"),
            Self::NoMemoryMap => f.write_str("the boot loader gave no memory map"),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Physical memory made of a few pieces.
    #[derive(Default)]
    pub struct Pieces(pub Vec<(u64, Vec<u8>)>);

    impl Physical for Pieces {
        fn bytes(&self, start: u64, len: usize) -> Option<&[u8]> {
            self.0.iter().find_map(|(base, bytes)| {
                let from = usize::try_from(start.checked_sub(*base)?).ok()?;
                bytes.get(from..from.checked_add(len)?)
            })
        }
    }

    #[test]
    fn arguments_without_file_name() {
        assert_eq!(arguments(b"/boot/oxen console=com1", b"qemu"), b"console=com1");
        assert_eq!(arguments(b"console=com1 x", b"GRUB 2.06"), b"console=com1 x");
        assert_eq!(
            arguments(b"placeholder root=/dev/sda1 ro", b"GRUB 2.06"),
            b"root=/dev/sda1 ro"
        );
        assert_eq!(arguments(b"/oxen", b"qemu"), b"");
        assert_eq!(arguments(b"", b"GRUB 2.06"), b"");
    }

    #[test]
    fn strings_end_at_zero_or_at_the_end_of_memory() {
        let memory = Pieces(vec![(0x1000, b"hello\0x".to_vec()), (0x2000, vec![b'a'; 5000])]);
        assert_eq!(c_string(&memory, 0x1001), Some(&b"ello"[..]));
        assert_eq!(c_string(&memory, 0x1006), None);
        assert_eq!(c_string(&memory, 0x2000).map(<[u8]>::len), Some(MAX_COMMAND_LINE));
        assert_eq!(c_string(&memory, 0x9000), None);
    }
}
