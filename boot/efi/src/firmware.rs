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
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use core::time::Duration;
use oxen_efi::config::{self, Found};
use oxen_efi::image::{self, Plan};
use oxen_efi::information::{self, LoadedFile};
use oxen_efi::options::{self, HELP};
use pvh::kernel;
use uefi::boot::{self, AllocateType, MemoryType, PAGE_SIZE};
use uefi::prelude::*;
use uefi::proto::device_path::text::{AllowShortcuts, DisplayOnly};
use uefi::proto::loaded_image::LoadedImage;
use uefi::proto::media::file::{Directory, File, FileAttribute, FileInfo, FileMode, RegularFile};
use uefi::{CString16, println, system};

/// The hypervisor as made by the tool `image`; scripts/build says where it is.
static IMAGE: &[u8] = include_bytes!(env!("OXEN_IMAGE"));
/// The hypervisor runs at multiples of this.
const IMAGE_ALIGN: usize = 0x20_0000;
/// Most configurations that one leads to another through.
const MAX_CHAIN: usize = 8;
/// Largest configuration file that is read.
const MAX_CONFIG: usize = 64 * 1024;
/// How long what was printed can be read at least, unless a key is pressed.
const TIME_TO_READ: Duration = Duration::from_secs(10);

#[entry]
fn main() -> Status {
    let status = match start() {
        Ok(()) => Status::SUCCESS,
        Err(message) => {
            println!("oxen.efi: {message}");
            Status::LOAD_ERROR
        }
    };
    leave_time_to_read();
    status
}

/// Firmware goes on to the next boot entry and clears the screen: not before a key is pressed, or [`TIME_TO_READ`] has passed.
fn leave_time_to_read() {
    const TICK: Duration = Duration::from_millis(50);
    println!(
        "oxen.efi: back to the firmware by a key, or in {} seconds",
        TIME_TO_READ.as_secs()
    );
    for _ in 0..TIME_TO_READ.as_millis() / TICK.as_millis() {
        if let Ok(Some(_)) = system::with_stdin(|keys| keys.read_key()) {
            break;
        }
        boot::stall(TICK);
    }
}

/// Starts the hypervisor, and comes back only if help is all that was asked for.
fn start() -> Result<(), String> {
    let own = Own::find()?;
    let mut root = open_root()?;
    let given = options::parse(&own.load_options);
    for word in &given.unknown {
        println!("oxen.efi: there is no option `{word}`; -help prints those that there are");
    }
    if given.help {
        println!("{HELP}");
        return Ok(());
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
        let failed = |error| format!("{name}: line {}: {error}", line.line);
        let file = load(&mut root, &own.path(line.file)).map_err(failed)?;
        if modules.is_empty() {
            kernel::check_headers(&file).map_err(|error| failed(format!("{}: {error}", line.file)))?;
        }
        modules.push((file, line.arguments));
    }
    let modules: Vec<_> = modules
        .iter()
        .map(|(file, arguments)| LoadedFile {
            start: file.address(),
            end: file.address() + file.len() as u32,
            arguments,
        })
        .collect();
    let options = format!("{} {}", config.options, given.extra);
    let plan = image::plan(IMAGE)?;
    let mut room = Pages::new(plan.len + IMAGE_ALIGN, MemoryType::LOADER_CODE)?;
    let base = place(&plan, &mut room);
    let system_table = uefi::table::system_table_raw().ok_or("the firmware gave no system table")?;
    let handle = boot::image_handle().as_ptr() as u64;
    let information = information::build(options.trim_end(), &modules, system_table.as_ptr() as u64, handle);
    let mut handed_over = Pages::new(information.len(), MemoryType::LOADER_DATA)?;
    handed_over.copy_from_slice(&information);
    enter(base + plan.entry as u32, handed_over.address())
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
    let none = || {
        format!(
            "there is no configuration: none of {} is in {}; write one, or name one by -cfg=FILE",
            names.join(", "),
            own.directory
        )
    };
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
        .map_err(|error| match error.status() {
            Status::NOT_FOUND => format!("there is no file {path}"),
            status => format!("cannot open {path}: {status}"),
        })?
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
fn load(root: &mut Directory, path: &str) -> Result<Pages, String> {
    let (mut file, len) = open(root, path)?;
    if len == 0 {
        return Err(format!("{path} is empty"));
    }
    let mut bytes = Pages::new(len, MemoryType::LOADER_DATA).map_err(|error| format!("{path}: {error}"))?;
    read_all(&mut file, path, &mut bytes)?;
    Ok(bytes)
}

/// Bytes in pages below 4 GiB, which the firmware gets back unless the hypervisor is entered.
struct Pages {
    start: NonNull<u8>,
    len: usize,
}

impl Pages {
    /// Zeros.
    fn new(len: usize, kind: MemoryType) -> Result<Self, String> {
        let start = boot::allocate_pages(
            AllocateType::MaxAddress(u32::MAX.into()),
            kind,
            len.div_ceil(PAGE_SIZE),
        )
        .map_err(|_| format!("no room for {len} bytes below 4 GiB"))?;
        // SAFETY: just allocated, at least so long.
        unsafe { start.write_bytes(0, len) };
        Ok(Self { start, len })
    }

    /// Their physical address.
    fn address(&self) -> u32 {
        self.start.addr().get() as u32
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `new` has filled them, and nobody else has them.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // What cannot be freed is lost to the firmware, and nothing else.
        // SAFETY: `new` has allocated so many, and no reference outlives `self`.
        let _ = unsafe { boot::free_pages(self.start, self.len.div_ceil(PAGE_SIZE)) };
    }
}

/// Copies the hypervisor to where it can run in `room`; returns that address.
fn place(plan: &Plan<'_>, room: &mut Pages) -> u32 {
    let start = room.as_ptr().align_offset(IMAGE_ALIGN);
    let image = &mut room[start..start + plan.len];
    for segment in &plan.segments {
        image[segment.offset..segment.offset + segment.bytes.len()].copy_from_slice(segment.bytes);
    }
    room.address() + start as u32
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
