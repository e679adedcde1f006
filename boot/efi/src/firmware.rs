//! The half that talks to the firmware.
// UNSAFETY: fills raw pages and jumps into the hypervisor.
#![expect(unsafe_code, reason = "fills raw pages and jumps into the hypervisor")]

extern crate alloc;

use ::boot::multiboot2::MAGIC as MULTIBOOT2_MAGIC;
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::arch::asm;
use core::time::Duration;
use oxen_efi::config::{self, Found};
use oxen_efi::image::{self, Plan};
use oxen_efi::information::{self, LoadedFile};
use oxen_efi::options::{self, HELP};
use uefi::boot::{self, AllocateType, MemoryType, PAGE_SIZE};
use uefi::prelude::*;
use uefi::proto::device_path::text::{AllowShortcuts, DisplayOnly};
use uefi::proto::loaded_image::LoadedImage;
use uefi::proto::media::file::{Directory, File, FileAttribute, FileInfo, FileMode, RegularFile};
use uefi::{CString16, println};

/// The hypervisor as made by the tool `image`; scripts/build says where it is.
static IMAGE: &[u8] = include_bytes!(env!("OXEN_IMAGE"));
/// The hypervisor runs at multiples of this.
const IMAGE_ALIGN: usize = 0x20_0000;
/// Most configurations that one leads to another through.
const MAX_CHAIN: usize = 8;
/// Largest configuration file that is read.
const MAX_CONFIG: usize = 64 * 1024;

#[entry]
fn main() -> Status {
    let Err(message) = start();
    println!("oxen.efi: {message}");
    // Time to read it: firmware goes on to the next boot entry and clears the screen.
    boot::stall(Duration::from_secs(10));
    Status::LOAD_ERROR
}

fn start() -> Result<core::convert::Infallible, String> {
    let own = Own::find()?;
    let mut root = open_root()?;
    let given = options::parse(&own.load_options);
    for word in &given.unknown {
        println!("oxen.efi: there is no option `{word}`; -help prints those that there are");
    }
    if given.help {
        return Err(HELP.to_owned());
    }
    let (mut name, mut text) = first_config(&mut root, &own, given.config)?;
    let mut wanted = given.section.map(str::to_owned);
    for _ in 0..MAX_CHAIN {
        let found = config::parse(&text, wanted.as_deref()).map_err(|error| format!("{name}: {error}"))?;
        let Found::Chain { file, section } = found else {
            break;
        };
        name = file.file.to_owned();
        wanted = section.map(str::to_owned);
        text = read_config(&mut root, &own.path(&name))?;
    }
    let found = config::parse(&text, wanted.as_deref()).map_err(|error| format!("{name}: {error}"))?;
    let Found::Config(config) = found else {
        return Err(format!(
            "{name}: `chain` leads through more than {MAX_CHAIN} files"
        ));
    };
    for note in &config.notes {
        println!("oxen.efi: {name}: {note}");
    }
    let mut modules = Vec::new();
    for line in &config.modules {
        let bytes = load(&mut root, &own.path(line.file))
            .map_err(|error| format!("{name}: line {}: {error}", line.line))?;
        modules.push(LoadedFile {
            start: address(bytes),
            end: address(bytes) + bytes.len() as u32,
            arguments: line.arguments,
        });
    }
    let options = format!("{} {}", config.options, given.extra);
    let plan = image::plan(IMAGE)?;
    let base = place(&plan)?;
    let system_table = uefi::table::system_table_raw().ok_or("the firmware gave no system table")?;
    let handle = boot::image_handle().as_ptr() as u64;
    let information = information::build(options.trim_end(), &modules, system_table.as_ptr() as u64, handle);
    let room = pages(information.len(), MemoryType::LOADER_DATA)?;
    room[..information.len()].copy_from_slice(&information);
    enter(base + plan.entry as u32, address(room))
}

/// What the firmware knows of this program.
struct Own {
    /// Where it was started from, with a backslash at the end.
    directory: String,
    /// Its file's name.
    program: String,
    load_options: String,
}

impl Own {
    fn find() -> Result<Self, String> {
        let image = boot::open_protocol_exclusive::<LoadedImage>(boot::image_handle())
            .map_err(|error| format!("the firmware does not know its own program: {error}"))?;
        let path = image
            .file_path()
            .and_then(|path| path.to_string16(DisplayOnly(true), AllowShortcuts(false)).ok());
        let path = path
            .map(|path| path.to_string().replace('/', "\\"))
            .unwrap_or_default();
        let (directory, program) = path.rsplit_once('\\').unwrap_or(("", &path));
        // Whatever else boot entries have there is not for this program.
        let load_options = options::text(image.load_options_as_bytes().unwrap_or_default());
        Ok(Self {
            directory: format!("{directory}\\"),
            program: program.to_owned(),
            load_options: load_options.unwrap_or_else(|message| {
                println!("oxen.efi: {message}");
                String::new()
            }),
        })
    }

    /// The path of a file, which is in the directory unless it says otherwise.
    fn path(&self, file: &str) -> String {
        if file.starts_with(['\\', '/']) {
            file.to_owned()
        } else {
            format!("{}{file}", self.directory)
        }
    }
}

/// The configuration that the load options name, or the first that is there; its name and text.
fn first_config(root: &mut Directory, own: &Own, named: Option<&str>) -> Result<(String, String), String> {
    let names = named.map_or_else(|| options::names(&own.program), |name| [name.to_owned()].into());
    let found = names.iter().find(|name| open(root, &own.path(name)).is_ok());
    let none = || format!("there is none of {} in {}", names.join(", "), own.directory);
    let name = found.ok_or_else(none)?;
    Ok((name.clone(), read_config(root, &own.path(name))?))
}

fn open_root() -> Result<Directory, String> {
    let mut volume = boot::get_image_file_system(boot::image_handle())
        .map_err(|error| format!("cannot read the file system that it was started from: {error}"))?;
    volume
        .open_volume()
        .map_err(|error| format!("cannot read the file system that it was started from: {error}"))
}

fn open(root: &mut Directory, path: &str) -> Result<(RegularFile, usize), String> {
    let path = path.replace('/', "\\");
    let name = CString16::try_from(path.as_str()).map_err(|_| format!("{path} is not a valid file name"))?;
    let mut file = root
        .open(&name, FileMode::Read, FileAttribute::empty())
        .map_err(|error| format!("cannot open {path}: {}", error.status()))?
        .into_regular_file()
        .ok_or_else(|| format!("{path} is a directory"))?;
    let info = file
        .get_boxed_info::<FileInfo>()
        .map_err(|error| format!("cannot read {path}: {}", error.status()))?;
    Ok((file, usize::try_from(info.file_size()).unwrap_or(usize::MAX)))
}

fn read_all(file: &mut RegularFile, path: &str, to: &mut [u8]) -> Result<(), String> {
    let read = file
        .read(to)
        .map_err(|error| format!("cannot read {path}: {}", error.status()))?;
    if read == to.len() {
        Ok(())
    } else {
        Err(format!("{path} ends too early"))
    }
}

fn read_config(root: &mut Directory, path: &str) -> Result<String, String> {
    let (mut file, len) = open(root, path)?;
    if len > MAX_CONFIG {
        return Err(format!("{path} is longer than {MAX_CONFIG} bytes"));
    }
    let mut bytes = alloc::vec![0; len];
    read_all(&mut file, path, &mut bytes)?;
    String::from_utf8(bytes).map_err(|_| format!("{path} is not UTF-8 text"))
}

/// Loads a file into pages below 4 GiB.
fn load(root: &mut Directory, path: &str) -> Result<&'static mut [u8], String> {
    let (mut file, len) = open(root, path)?;
    if len == 0 {
        return Err(format!("{path} is empty"));
    }
    let room = pages(len, MemoryType::LOADER_DATA).map_err(|error| format!("{path}: {error}"))?;
    let bytes = &mut room[..len];
    read_all(&mut file, path, bytes)?;
    Ok(bytes)
}

/// Zeroed pages below 4 GiB for `len` bytes; nobody frees them.
fn pages(len: usize, kind: MemoryType) -> Result<&'static mut [u8], String> {
    let count = len.div_ceil(PAGE_SIZE);
    let start = boot::allocate_pages(AllocateType::MaxAddress(u32::MAX.into()), kind, count)
        .map_err(|_| format!("no room for {len} bytes below 4 GiB"))?;
    // SAFETY: just allocated, page-aligned, and zeroed before the reference is made.
    unsafe {
        start.write_bytes(0, count * PAGE_SIZE);
        Ok(core::slice::from_raw_parts_mut(start.as_ptr(), count * PAGE_SIZE))
    }
}

/// The physical address of `bytes`, which lie below 4 GiB (from [`pages`]).
fn address(bytes: &[u8]) -> u32 {
    bytes.as_ptr() as u32
}

/// Copies the hypervisor to where it can run; returns that address.
fn place(plan: &Plan<'_>) -> Result<u32, String> {
    let room = pages(plan.len + IMAGE_ALIGN, MemoryType::LOADER_CODE)?;
    let start = room.as_ptr().align_offset(IMAGE_ALIGN);
    let image = &mut room[start..start + plan.len];
    for segment in &plan.segments {
        image[segment.offset..segment.offset + segment.bytes.len()].copy_from_slice(segment.bytes);
    }
    Ok(address(image))
}

/// Enters the hypervisor as the multiboot 2 specification says for UEFI (2.0, section 3.5).
fn enter(entry: u32, information: u32) -> ! {
    // SAFETY: `entry` is the hypervisor's 64-bit UEFI entry, copied there by `place`; the firmware maps memory one to
    // one, and nothing of this program is needed any more.
    unsafe {
        asm!(
            "mov ebx, {information:e}",
            "jmp {entry}",
            information = in(reg) information,
            entry = in(reg) u64::from(entry),
            in("eax") MULTIBOOT2_MAGIC,
            options(noreturn),
        )
    }
}
