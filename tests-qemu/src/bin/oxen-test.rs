//! Runs the tests that need an emulator.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use tests_qemu::runner::{self, Instead};
use tests_qemu::tests;

/// Runs the tests that need an emulator; each line says which back end it ran on and how Oxen was loaded.
#[derive(Parser)]
#[command(name = "oxen-test", version)]
struct Options {
    /// Only print which tests there are
    #[arg(long)]
    list: bool,
    /// Tests at a time
    #[arg(long, value_name = "N", default_value_t = 2)]
    jobs: usize,
    /// Test another hypervisor: what is right is what Xen does
    #[arg(long, value_name = "IMAGE")]
    hypervisor: Option<PathBuf>,
    /// More options on the hypervisor's command line
    #[arg(long, value_name = "OPTIONS", default_value = "", allow_hyphen_values = true)]
    options: String,
    /// Only tests whose line has one of these texts: a name, a back end, a door
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let mut chosen = tests::all();
    if !options.filters.is_empty() {
        chosen.retain(|test| options.filters.iter().any(|filter| test.line().contains(filter)));
    }
    ensure!(
        !chosen.is_empty(),
        "no test has {:?} in its line; see --list",
        options.filters
    );
    if options.list {
        for test in &chosen {
            println!("{}", test.line().trim_end());
        }
        return Ok(ExitCode::SUCCESS);
    }
    let instead = options.hypervisor.map(|image| Instead {
        image,
        options: options.options.clone(),
    });
    let sum = runner::run(chosen, options.jobs, instead.as_ref())?;
    println!("{sum}");
    Ok(if sum.failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
