//! Runs tests, some at a time, and reports: a line for each, what a failed one printed, the sum.

use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::outputs::root;
use crate::{Console, Door, Machine, Vehicle};

/// What a test does. It starts machines by [`Bench::start`].
pub type Body = Box<dyn Fn(&mut Bench) -> Result<()> + Send + Sync>;

/// One test in an emulator.
pub struct Test {
    /// What is tested.
    pub name: String,
    /// The back end that it is tested on.
    pub vehicle: Vehicle,
    /// How Oxen is loaded.
    pub door: Door,
    /// What is done.
    pub body: Body,
}

impl Test {
    /// The columns of its line that say which test it is; what filters are looked for in.
    pub fn line(&self) -> String {
        format!("{:<34} {:<10} {:<11}", self.name, self.vehicle, self.door)
    }
}

/// Another hypervisor in Oxen's place, to see what a test says of it.
#[derive(Clone, Debug)]
pub struct Instead {
    /// Its image.
    pub image: PathBuf,
    /// Its additional options.
    pub options: String,
}

/// What a running test has: a place for files and its machine.
pub struct Bench {
    scratch: tempfile::TempDir,
    machine: Option<Console>,
    instead: Option<Instead>,
    /// What machines printed that have stopped.
    log: String,
}

impl Bench {
    /// An empty one.
    ///
    /// # Errors
    /// There is no room for files.
    pub fn new(instead: Option<Instead>) -> Result<Bench> {
        Ok(Bench {
            scratch: tempfile::tempdir()?,
            machine: None,
            instead,
            log: String::new(),
        })
    }

    /// A directory for files of this test.
    pub fn scratch(&self) -> PathBuf {
        self.scratch.path().to_owned()
    }

    /// Starts a machine; one that was running is stopped.
    ///
    /// # Errors
    /// As [`Machine::start`].
    pub fn start(&mut self, machine: &Machine) -> Result<&mut Console> {
        self.stop();
        let console = match &self.instead {
            None => machine.start(self.scratch.path())?,
            Some(other) => {
                let mut machine = machine.clone();
                machine.image = other.image.clone();
                machine.command_line += " ";
                machine.command_line += &other.options;
                machine.start(self.scratch.path())?
            }
        };
        Ok(self.machine.insert(console))
    }

    /// The one that was started last.
    pub fn machine(&mut self) -> Option<&mut Console> {
        self.machine.as_mut()
    }

    /// Stops the machine, as by pulling the plug.
    pub fn stop(&mut self) {
        if let Some(console) = self.machine.take() {
            self.log += &console.output();
        }
    }
}

/// What came of all tests.
#[derive(Clone, Default, Debug)]
pub struct Sum {
    /// How many passed.
    pub passed: usize,
    /// Those that failed, by their lines: what they printed may be far above the last line.
    pub failed: Vec<String>,
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.failed {
            writeln!(f, "FAIL  {line}")?;
        }
        write!(f, "{} passed, {} failed", self.passed, self.failed.len())
    }
}

/// Runs `tests`, `jobs` at a time, each with a line when it is done.
///
/// # Errors
/// The logs of failed tests cannot be written.
pub fn run(tests: Vec<Test>, jobs: usize, instead: Option<&Instead>) -> Result<Sum> {
    let waiting = Mutex::new(VecDeque::from(tests));
    let sum = Mutex::new(Ok(Sum::default()));
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(test) = next(&waiting) {
                    let verdict = run_one(&test, instead);
                    let mut sum = sum.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                    match (verdict, &mut *sum) {
                        (Ok(true), Ok(sum)) => sum.passed += 1,
                        (Ok(false), Ok(sum)) => sum.failed.push(test.line()),
                        (Err(error), sum) => *sum = Err(error),
                        (_, Err(_)) => {}
                    }
                }
            });
        }
    });
    sum.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn next(waiting: &Mutex<VecDeque<Test>>) -> Option<Test> {
    waiting
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
        .pop_front()
}

/// Lines of the log of a failed test that are shown.
const SHOWN: usize = 60;

fn run_one(test: &Test, instead: Option<&Instead>) -> Result<bool> {
    let started = Instant::now();
    let mut bench = Bench::new(instead.cloned())?;
    let verdict = (test.body)(&mut bench);
    let word = if verdict.is_ok() { "pass" } else { "FAIL" };
    let mut report = format!("{word}  {} {:4} s", test.line(), started.elapsed().as_secs());
    if let Err(error) = &verdict {
        if let Some(console) = &mut bench.machine {
            console.ask_the_hypervisor();
        }
        bench.stop();
        let emulator = std::fs::read_to_string(bench.scratch.path().join("emulator.log")).unwrap_or_default();
        let log = log_path(test)?;
        std::fs::write(
            &log,
            format!(
                "{error:#}\n--- serial line\n{}\n--- emulator\n{emulator}",
                bench.log
            ),
        )?;
        report += &format!("\n      {error:#}\n");
        let lines: Vec<&str> = bench.log.lines().collect();
        for line in &lines[lines.len().saturating_sub(SHOWN)..] {
            report += &format!("      | {line}\n");
        }
        report += &format!("      all of it: {}", log.display());
    }
    println!("{report}");
    Ok(verdict.is_ok())
}

fn log_path(test: &Test) -> Result<PathBuf> {
    let directory = root().canonicalize()?.join("target/test-logs");
    std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    Ok(directory.join(format!("{}-{}-{}.log", test.name, test.vehicle, test.door)))
}
