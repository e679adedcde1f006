//! Kernel images that can be started as a PVH guest: an ELF file with a PHYS32_ENTRY note, or a Linux bzImage with one inside.

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use abi::elfnote::{
    XEN_ELFNOTE_GUEST_OS, XEN_ELFNOTE_OWNER, XEN_ELFNOTE_PHYS32_ENTRY, XEN_ELFNOTE_SUPPORTED_FEATURES,
};
use object::LittleEndian as LE;
use object::elf::{FileHeader32, FileHeader64, PT_LOAD, PT_NOTE, SHT_NOTE};
use object::read::elf::{FileHeader, NoteIterator, ProgramHeader, SectionHeader};

use crate::decompress::Unpacking;

/// Why an image cannot be started.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "each one's sentence is in `Display`")]
pub enum Error {
    NotAKernel,
    Truncated,
    UnsupportedCompression(&'static str),
    CorruptPayload(&'static str),
    TooBig { limit: usize },
    OutOfMemory,
    NoPvhNote,
    NoSegments,
    SegmentOutsideFile { gpa: u64 },
    SegmentOutsideAddressSpace { gpa: u64 },
    OverlappingSegments { gpa: u64 },
    EntryOutsideSegments { entry: u32 },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotAKernel => f.write_str("not a kernel: neither an ELF file nor a Linux bzImage"),
            Error::Truncated => f.write_str("truncated or malformed headers"),
            Error::UnsupportedCompression(name) => {
                write!(
                    f,
                    "compressed with {name}, which is not supported (gzip, xz, lz4 and zstd are)"
                )
            }
            Error::CorruptPayload(name) => write!(f, "corrupt {name} data"),
            Error::TooBig { limit } => write!(f, "unpacks to more than the allowed {} MiB", limit >> 20),
            Error::OutOfMemory => f.write_str("not enough memory to unpack it"),
            Error::NoPvhNote => f.write_str("no PVH entry point (ELF note XEN_ELFNOTE_PHYS32_ENTRY)"),
            Error::NoSegments => f.write_str("nothing to load"),
            Error::SegmentOutsideFile { gpa } => write!(f, "the segment for {gpa:#x} lies outside the file"),
            Error::SegmentOutsideAddressSpace { gpa } => {
                write!(f, "the segment for {gpa:#x} ends beyond the address space")
            }
            Error::OverlappingSegments { gpa } => write!(f, "the segment for {gpa:#x} overlaps another"),
            Error::EntryOutsideSegments { entry } => {
                write!(f, "entry point {entry:#x} lies outside all segments")
            }
        }
    }
}

impl core::error::Error for Error {}

/// Bytes to put at an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Guest-physical address.
    pub gpa: u64,
    /// Bytes in memory; what the file does not fill is zero.
    pub mem_size: u64,
    /// Where its bytes are in the ELF file.
    file: Range<usize>,
}

/// A kernel that can be started.
#[derive(Debug)]
pub struct Kernel<'a> {
    elf: Cow<'a, [u8]>,
    /// Guest-physical entry point, in 32-bit protected mode without paging.
    pub entry: u32,
    /// What to load, by address; at least one.
    pub segments: Vec<Segment>,
    /// XEN_ELFNOTE_SUPPORTED_FEATURES: a bit for each XENFEAT that the kernel can use; 0 without the note.
    pub features: u32,
    /// XEN_ELFNOTE_GUEST_OS, for people.
    pub guest_os: String,
}

/// Open a kernel image: an ELF file, a gzipped one, or a Linux bzImage.
///
/// # Errors
/// See [`Error`]. `limit` bounds the unpacked size in bytes.
pub fn open(image: &[u8], limit: usize) -> Result<Kernel<'_>, Error> {
    let mut opening = Opening::new(image, limit)?;
    while opening.step()? {}
    opening.finish()
}

/// Whether an image can be a kernel, by its headers: a packed one is not unpacked.
///
/// # Errors
/// As of [`open`].
pub fn check_headers(image: &[u8]) -> Result<(), Error> {
    match Opening::new(image, 0)?.0 {
        State::Plain(elf) => open_elf(Cow::Borrowed(elf)).map(|_| ()),
        State::Packed(_) => Ok(()),
    }
}

/// [`open`] in steps, for those who have something else to do between them.
pub struct Opening<'a>(State<'a>);

enum State<'a> {
    Plain(&'a [u8]),
    Packed(Unpacking<'a>),
}

impl<'a> Opening<'a> {
    /// Begin to open a kernel image.
    ///
    /// # Errors
    /// As of [`open`].
    pub fn new(image: &'a [u8], limit: usize) -> Result<Self, Error> {
        // An ELF file may have a bzImage's magic in the middle, but no bzImage begins as an ELF file.
        let payload = match bzimage_payload(image) {
            Some(payload) if !is_elf(image) => payload?,
            _ => image,
        };
        if is_elf(payload) {
            return Ok(Self(State::Plain(payload)));
        }
        let unpacking = Unpacking::new(payload, limit).ok_or(Error::NotAKernel)??;
        Ok(Self(State::Packed(unpacking)))
    }

    /// Do the next step; whether there are more.
    ///
    /// # Errors
    /// As of [`open`].
    pub fn step(&mut self) -> Result<bool, Error> {
        match &mut self.0 {
            State::Plain(_) => Ok(false),
            State::Packed(unpacking) => unpacking.step(),
        }
    }

    /// The kernel, when all steps are done.
    ///
    /// # Errors
    /// As of [`open`].
    pub fn finish(self) -> Result<Kernel<'a>, Error> {
        match self.0 {
            State::Plain(elf) => open_elf(Cow::Borrowed(elf)),
            State::Packed(unpacking) => {
                let elf = unpacking.into_bytes();
                if is_elf(&elf) {
                    open_elf(Cow::Owned(elf))
                } else {
                    Err(Error::NotAKernel)
                }
            }
        }
    }
}

fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF")
}

/// The compressed kernel in a bzImage (Linux, Documentation/arch/x86/boot.rst, protocol 2.08). `None`: not a bzImage.
fn bzimage_payload(image: &[u8]) -> Option<Result<&[u8], Error>> {
    const SETUP_SECTS: usize = 0x1f1;
    const MAGIC: usize = 0x202;
    const VERSION: usize = 0x206;
    const PAYLOAD_OFFSET: usize = 0x248;
    const PAYLOAD_LENGTH: usize = 0x24c;
    const SECTOR: usize = 512;
    if image.get(MAGIC..MAGIC + 4)? != b"HdrS" {
        return None;
    }
    let payload = || {
        let u32_at = |at: usize| Some(u32::from_le_bytes(*image.get(at..)?.first_chunk()?) as usize);
        let version = u16::from_le_bytes(*image.get(VERSION..)?.first_chunk()?);
        let setup_sects = match *image.get(SETUP_SECTS)? {
            0 => 4,
            count => usize::from(count),
        };
        (version >= 0x208).then_some(())?;
        let start = (setup_sects + 1) * SECTOR + u32_at(PAYLOAD_OFFSET)?;
        image.get(start..start.checked_add(u32_at(PAYLOAD_LENGTH)?)?)
    };
    Some(payload().ok_or(Error::Truncated))
}

fn open_elf(elf: Cow<'_, [u8]>) -> Result<Kernel<'_>, Error> {
    const CLASS: usize = 4;
    let found = match elf.get(CLASS) {
        Some(1) => scan::<FileHeader32<LE>>(&elf)?,
        Some(2) => scan::<FileHeader64<LE>>(&elf)?,
        _ => return Err(Error::Truncated),
    };
    let entry = found.entry.ok_or(Error::NoPvhNote)?;
    let mut segments = found.segments;
    segments.sort_by_key(|segment| segment.gpa);
    if segments.is_empty() {
        return Err(Error::NoSegments);
    }
    if let Some(pair) = segments
        .windows(2)
        .find(|pair| pair[0].gpa + pair[0].mem_size > pair[1].gpa)
    {
        return Err(Error::OverlappingSegments { gpa: pair[1].gpa });
    }
    if !segments
        .iter()
        .any(|s| (s.gpa..s.gpa + s.mem_size).contains(&entry.into()))
    {
        return Err(Error::EntryOutsideSegments { entry });
    }
    Ok(Kernel {
        elf,
        entry,
        segments,
        features: found.features,
        guest_os: found.guest_os,
    })
}

#[derive(Default)]
struct Found {
    entry: Option<u32>,
    features: u32,
    guest_os: String,
    segments: Vec<Segment>,
}

fn scan<H: FileHeader<Endian = LE>>(elf: &[u8]) -> Result<Found, Error> {
    let header = H::parse(elf).map_err(|_| Error::Truncated)?;
    header.endian().map_err(|_| Error::Truncated)?;
    // Notes that lie apart are no longer than the file; many over the same bytes would be read many times.
    let charge = |budget: &mut u64, bytes: u64| {
        *budget = budget.checked_sub(bytes).ok_or(Error::Truncated)?;
        Ok(())
    };
    let mut budget = elf.len() as u64;
    let mut found = Found::default();
    for program in header.program_headers(LE, elf).map_err(|_| Error::Truncated)? {
        match program.p_type(LE) {
            PT_LOAD => found.segments.extend(segment::<H>(program, elf.len())?),
            PT_NOTE => {
                charge(&mut budget, program.p_filesz(LE).into())?;
                found.read_notes::<H>(program.notes(LE, elf));
            }
            _ => {}
        }
    }
    if found.entry.is_none() {
        // Some kernels have the notes in sections only.
        let mut budget = elf.len() as u64;
        for section in header.section_headers(LE, elf).unwrap_or(&[]) {
            if section.sh_type(LE) == SHT_NOTE {
                charge(&mut budget, section.sh_size(LE).into())?;
                found.read_notes::<H>(section.notes(LE, elf));
            }
        }
    }
    Ok(found)
}

/// A loadable segment, checked against the file; `None` for an empty one.
fn segment<H: FileHeader<Endian = LE>>(
    program: &H::ProgramHeader,
    file_len: usize,
) -> Result<Option<Segment>, Error> {
    /// Above what any guest can have, and far from overflow.
    const MAX_GPA: u64 = 1 << 46;
    let gpa: u64 = program.p_paddr(LE).into();
    let mem_size: u64 = program.p_memsz(LE).into();
    let offset: u64 = program.p_offset(LE).into();
    let file_size: u64 = program.p_filesz(LE).into();
    let end = offset
        .checked_add(file_size)
        .filter(|&end| end <= file_len as u64 && file_size <= mem_size);
    let end = end.ok_or(Error::SegmentOutsideFile { gpa })?;
    if gpa.checked_add(mem_size).is_none_or(|end| end > MAX_GPA) {
        return Err(Error::SegmentOutsideAddressSpace { gpa });
    }
    Ok((mem_size > 0).then_some(Segment {
        gpa,
        mem_size,
        file: offset as usize..end as usize,
    }))
}

impl Found {
    fn read_notes<H: FileHeader<Endian = LE>>(
        &mut self,
        notes: object::read::Result<Option<NoteIterator<'_, H>>>,
    ) {
        // A malformed note section is as good as none: the kernel is then refused for lack of the entry note.
        let Ok(Some(mut notes)) = notes else { return };
        while let Ok(Some(note)) = notes.next() {
            if note.name() != XEN_ELFNOTE_OWNER {
                continue;
            }
            // 32-bit or 64-bit words, at the producer's choice.
            let word = note.desc().first_chunk().map(|word| u32::from_le_bytes(*word));
            match note.n_type(LE).0 {
                XEN_ELFNOTE_PHYS32_ENTRY => self.entry = word,
                XEN_ELFNOTE_SUPPORTED_FEATURES => self.features = word.unwrap_or(0),
                XEN_ELFNOTE_GUEST_OS => {
                    let text = note.desc().split(|&byte| byte == 0).next().unwrap_or_default();
                    self.guest_os = String::from_utf8_lossy(text).into_owned();
                }
                _ => {}
            }
        }
    }
}

impl Kernel<'_> {
    /// The ELF file, unpacked.
    pub fn elf(&self) -> &[u8] {
        &self.elf
    }

    /// The bytes that the file has for `segment`, which must be of this kernel.
    pub fn bytes(&self, segment: &Segment) -> &[u8] {
        self.elf.get(segment.file.clone()).unwrap_or_default()
    }

    /// First address and first address after all segments.
    pub fn extent(&self) -> Range<u64> {
        let end = self
            .segments
            .iter()
            .map(|s| s.gpa + s.mem_size)
            .max()
            .unwrap_or(0);
        self.segments.first().map_or(0, |s| s.gpa)..end
    }

    /// Can the kernel find the RSDP wherever start info says (XENFEAT_linux_rsdp_unrestricted)?
    pub fn takes_rsdp_anywhere(&self) -> bool {
        self.features & 1 << abi::features::XENFEAT_LINUX_RSDP_UNRESTRICTED != 0
    }
}
