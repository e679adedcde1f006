//! dom0-shim's prompt, for the tests that use it like a person would.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::{PATIENCE, bochs};
use crate::runner::Bench;
use crate::{Console, Machine, Module, Vehicle, outputs};

/// Ctrl-], which leaves a console.
const DETACH: &str = "\x1d";
/// What dom0-shim asks for commands with.
pub const PROMPT: &str = "oxen> ";

/// A machine at the shim's prompt.
pub struct Shim<'a> {
    /// Its serial line.
    pub console: &'a mut Console,
}

impl<'a> Shim<'a> {
    /// Boots `machine` with the shim and a boot archive, and waits for the prompt.
    ///
    /// # Errors
    /// It does not come.
    pub fn start(bench: &'a mut Bench, machine: Machine, archive: PathBuf) -> Result<Shim<'a>> {
        Self::boot(bench, machine, Some(archive), "")?.prompted()
    }

    /// The same without a boot archive.
    ///
    /// # Errors
    /// As of [`Shim::start`].
    pub fn without_archive(bench: &'a mut Bench, machine: Machine) -> Result<Shim<'a>> {
        Self::boot(bench, machine, None, "")?.prompted()
    }

    /// Boots `machine` with the shim, a command line for it and a boot archive.
    ///
    /// # Errors
    /// The emulator does not start.
    pub fn boot(
        bench: &'a mut Bench,
        mut machine: Machine,
        archive: Option<PathBuf>,
        args: &str,
    ) -> Result<Shim<'a>> {
        machine.command_line += " dom0_mem=256M";
        let module = |path, args: &str| Module {
            path,
            args: args.into(),
        };
        machine.modules = vec![module(outputs::output("dom0-shim")?, args)];
        machine.modules.extend(archive.map(|archive| module(archive, "")));
        let console = bench.start(&machine)?;
        Ok(Shim { console })
    }

    fn prompted(self) -> Result<Shim<'a>> {
        self.console
            .expect(PROMPT, PATIENCE)
            .context("the shim's prompt")?;
        Ok(self)
    }

    /// Carries out one command; what it printed.
    ///
    /// # Errors
    /// The prompt does not come back.
    pub fn command(&mut self, command: &str) -> Result<String> {
        self.console.type_line(command)?;
        self.console
            .expect(PROMPT, PATIENCE)
            .with_context(|| command.to_owned())
    }

    /// Has debug key `C` crash Oxen, and waits for each of `expected` in turn.
    ///
    /// # Errors
    /// One of them is not printed.
    pub fn crash(&mut self, expected: &[&str]) -> Result<()> {
        self.console.type_line("debug-keys C")?;
        for text in expected {
            self.console.expect(text, PATIENCE)?;
        }
        Ok(())
    }

    /// Behind a notice: that has drawn the prompt anew, and from here on prompts count again.
    ///
    /// # Errors
    /// The prompt does not come.
    pub fn catch_up(&mut self) -> Result<()> {
        self.console.type_line("help this")?;
        self.console.expect("this: no such command", PATIENCE)?;
        self.console.expect(PROMPT, PATIENCE)?;
        Ok(())
    }

    /// Waits until a domain whose console may be attached has ended, as `notice` says, and the prompt is there again: what is typed before is the
    /// domain's.
    ///
    /// # Errors
    /// It does not end so.
    pub fn ended(&mut self, notice: &str) -> Result<()> {
        self.console.expect(notice, PATIENCE)?;
        self.console.expect(PROMPT, PATIENCE)?;
        Ok(())
    }

    /// Leaves a domain's console.
    ///
    /// # Errors
    /// The prompt does not come.
    pub fn detach(&mut self) -> Result<()> {
        self.console.skip()?;
        self.console.send(DETACH)?;
        self.console.expect(PROMPT, PATIENCE).context("detaching")?;
        Ok(())
    }

    /// Waits until `list` has a domain of this name, or no longer has one.
    ///
    /// # Errors
    /// That does not happen.
    pub fn wait_for(&mut self, name: &str, there: bool) -> Result<()> {
        const LOOKS: u32 = 20;
        let mut list = String::new();
        for _ in 0..LOOKS {
            list = self.command("list")?;
            let found = list
                .lines()
                .any(|line| line.split_whitespace().next() == Some(name));
            // What came before the list's head line belongs to another command.
            if list.contains("Domain-0") && found == there {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        bail!(
            "{name:?} is {}there:\n{list}",
            if there { "not " } else { "still " }
        )
    }

    /// Frames that nobody has. What a first domain makes the hypervisor keep for later (tables behind dom0's window of foreign
    /// frames) is missing in them from then on: measure behind [`Shim::first_life`].
    ///
    /// # Errors
    /// The hypervisor does not say.
    pub fn free_frames(&mut self) -> Result<u64> {
        let said = self.command("debug-keys m")?;
        let frames = said
            .lines()
            .find_map(|line| line.split_once(" MiB free (")?.1.strip_suffix(" frames)"));
        Ok(frames.with_context(|| format!("debug-keys m: {said}"))?.parse()?)
    }

    /// Makes the domain `name` of `config` and destroys it; what is free then.
    ///
    /// # Errors
    /// It does not come, or does not go.
    pub fn first_life(&mut self, config: &str, name: &str) -> Result<u64> {
        self.command(&format!("create {config}"))?;
        self.command(&format!("destroy {name}"))?;
        self.wait_for(name, false)?;
        self.free_frames()
    }

    /// The shim's own free memory in KiB.
    ///
    /// # Errors
    /// It does not say.
    pub fn heap_free(&mut self) -> Result<u64> {
        let info = self.command("info")?;
        let line = info.lines().find(|line| line.starts_with("dom0_heap_free"));
        let value = line.and_then(|line| line.split_whitespace().rev().nth(1));
        value
            .with_context(|| info.clone())?
            .parse()
            .context("dom0_heap_free")
    }

    /// Waits until there are no domains but the shim.
    fn all_gone(&mut self) -> Result<()> {
        const LOOKS: u32 = 100;
        let mut list = String::new();
        for _ in 0..LOOKS {
            list = self.command("list")?;
            let domains = list.lines().skip_while(|line| !line.starts_with("Domain-0"));
            if domains.skip(1).all(|line| line.split_whitespace().count() < 3) && list.contains("Domain-0") {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        bail!("there are still domains:\n{list}")
    }

    /// Checks that all is free again that was.
    ///
    /// # Errors
    /// It is not.
    pub fn expect_free(&mut self, free: u64) -> Result<()> {
        let now = self.free_frames()?;
        ensure!(now == free, "{free} frames were free before, {now} after");
        Ok(())
    }

    /// The same where more grants may have been mapped at once than before `free` was measured: Oxen keeps the tables for that. What a domain has left behind
    /// would keep all its memory.
    ///
    /// # Errors
    /// It is not.
    pub fn expect_nearly_free(&mut self, free: u64) -> Result<()> {
        const TABLES: u64 = 8;
        let now = self.free_frames()?;
        ensure!(
            now + TABLES >= free,
            "{free} frames were free before, {now} after"
        );
        Ok(())
    }

    /// Checks that of `before` KiB of the shim's own memory that were free, fewer than `least` are not.
    ///
    /// # Errors
    /// More are in use.
    pub fn expect_heap(&mut self, before: u64, least: u64) -> Result<()> {
        let now = self.heap_free()?;
        ensure!(
            now + least > before,
            "{before} KiB of the shim's heap were free, now {now}"
        );
        Ok(())
    }
}

/// The boot archive for a vehicle. In Bochs it has Debian's kernel as [`bochs::kernel`], and configs with [`bochs::ARGUMENTS`]. Made once.
///
/// # Errors
/// As of [`archive`]; or the kernel is none.
pub fn boot_archive(vehicle: Vehicle) -> Result<PathBuf> {
    static UNPACKED: Mutex<Option<PathBuf>> = Mutex::new(None);
    let built = outputs::output("boot-archive.cpio")?;
    if vehicle != Vehicle::Vmx {
        return Ok(built);
    }
    let mut unpacked = UNPACKED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(archive) = &*unpacked {
        return Ok(archive.clone());
    }
    let place = outputs::root().canonicalize()?.join("target/unpacked-archive");
    if place.exists() {
        std::fs::remove_dir_all(&place)?;
    }
    let mut files = vec![(bochs::KERNEL, bochs::kernel()?)];
    for config in ["etc/oxen/debian.cfg", "etc/oxen/debian2.cfg"] {
        let text = String::from_utf8(outputs::packed(config)?)?;
        files.push((config, bochs::with_arguments(&text)?.into_bytes()));
    }
    let archive = archive_with(&built, &place, &files)?;
    Ok(unpacked.insert(archive).clone())
}

/// An archive like another, with files beside or instead of its own: path in the archive, contents.
///
/// # Errors
/// As of [`archive`].
pub fn archive_with(other: &Path, scratch: &Path, files: &[(&str, Vec<u8>)]) -> Result<PathBuf> {
    let tree = scratch.join("archive");
    std::fs::create_dir_all(&tree)?;
    outputs::unpack(other, &tree, &[])?;
    archive(scratch, files)
}

/// `all` domains of a config, whose kernel is a test guest, come and end by themselves, several at a time: each reports success, and nothing is left of any.
///
/// # Errors
/// Something is.
pub fn come_and_go(
    bench: &mut Bench,
    machine: Machine,
    guest: &str,
    config: Vec<u8>,
    all: u32,
) -> Result<()> {
    const AT_ONCE: u32 = 5;
    let kernel = std::fs::read(outputs::output(&format!("guests/{guest}"))?)?;
    let archive = archive(&bench.scratch(), &[(guest, kernel), ("once.cfg", config)])?;
    let mut shim = Shim::start(bench, machine, archive)?;
    let mut before = None;
    for made in (0..all).step_by(AT_ONCE as usize) {
        if made == AT_ONCE {
            before = Some((
                shim.free_frames()?,
                shim.command("xenstore-ls -f")?,
                shim.heap_free()?,
            ));
        }
        for name in 0..AT_ONCE {
            let said = shim.command(&format!("create /once.cfg name='b{name}'"))?;
            ensure!(!said.contains("not created"), "after {made}: {said}");
        }
        shim.all_gone()?;
    }
    let (frames, nodes, heap) = before.context("no domain was the first")?;
    shim.expect_free(frames)?;
    let nodes_after = shim.command("xenstore-ls -f")?;
    ensure!(nodes == nodes_after, "xenstore had {nodes}, now {nodes_after}");
    // With a page left of each domain it would be much more. Lists stay as long as they have been, which hangs on how many were there
    // at the same moment.
    shim.expect_heap(heap, 64)?;
    let output = shim.console.output();
    let (passed, failed) = (
        output.matches("RESULT pass").count(),
        output.matches("RESULT fail").count(),
    );
    ensure!(
        (passed, failed) == (all as usize, 0),
        "{passed} passed, {failed} failed"
    );
    Ok(())
}

/// A boot archive with files of a test's own: path in the archive, contents.
///
/// # Errors
/// `cpio` is missing, or the files cannot be written.
pub fn archive(scratch: &Path, files: &[(&str, Vec<u8>)]) -> Result<PathBuf> {
    let tree = scratch.join("archive");
    for (name, contents) in files {
        let path = tree.join(name);
        std::fs::create_dir_all(path.parent().context("a file in the root")?)?;
        std::fs::write(path, contents)?;
    }
    let image = scratch.join("archive.cpio");
    let packed = Command::new("sh")
        .arg("-c")
        .arg("find . | cpio --quiet --create --format=newc")
        .current_dir(&tree)
        .output()?;
    ensure!(
        packed.status.success(),
        "cpio: {}",
        String::from_utf8_lossy(&packed.stderr)
    );
    std::fs::write(&image, packed.stdout)?;
    Ok(image)
}
