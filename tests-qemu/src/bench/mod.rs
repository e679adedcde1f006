//! Measurements, on Oxen and on Debian's Xen alike.
//!
//! * [`boot`]: seconds and memory.
//! * [`costs`]: what guests measure from inside.
//! * [`sizes`]: bytes and lines.
//! * [`tables`]: the guests of each table.

pub mod boot;
pub mod costs;
pub mod sizes;
pub mod tables;

use std::fmt::{self, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::tests::shim::archive;
use crate::{Console, Machine, Module, Vehicle, outputs, xen};

/// Nothing takes so long.
const PATIENCE: Duration = Duration::from_secs(1800);

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hypervisor {
    /// Debian's Xen with a Linux dom0.
    Xen,
    /// Oxen with dom0-shim.
    Oxen,
}

impl fmt::Display for Hypervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Hypervisor::Xen => "Xen 4.17",
            Hypervisor::Oxen => "Oxen",
        })
    }
}

impl Hypervisor {
    /// A machine with its dom0, which has `files`.
    fn machine(self, vehicle: Vehicle, scratch: &Path, files: &[(&str, Vec<u8>)]) -> Result<Machine> {
        if self == Hypervisor::Xen {
            return xen::machine(vehicle, scratch, files);
        }
        let mut machine = Machine::new(vehicle)?;
        machine.command_line += " dom0_mem=256M";
        machine.modules = [outputs::output("dom0-shim")?, archive(scratch, files)?]
            .map(|path| Module {
                path,
                args: String::new(),
            })
            .into();
        Ok(machine)
    }

    /// A config of a PVH domain in xl.cfg syntax.
    fn config(self, name: &str, kernel: &str, memory: u32, more: &str) -> String {
        let mut config = format!(
            "name='{name}'\ntype='pvh'\nkernel='{kernel}'\nmemory={memory}\non_poweroff='destroy'\n{more}\n"
        );
        // Xen's default counts the instructions of its emulation of RDTSC where the counter might not be stable.
        if self == Hypervisor::Xen {
            config += "tsc_mode='native'\n";
        }
        config
    }

    fn prompt(self) -> &'static str {
        match self {
            Hypervisor::Xen => xen::PROMPT,
            Hypervisor::Oxen => "oxen> ",
        }
    }
}

/// A dom0 at its prompt.
struct Dom0<'a> {
    hypervisor: Hypervisor,
    console: &'a mut Console,
}

impl Dom0<'_> {
    /// Types a command of xl's, which dom0-shim has under the same names.
    fn type_xl(&mut self, command: &str) -> Result<()> {
        let xl = match self.hypervisor {
            Hypervisor::Xen => "xl ",
            Hypervisor::Oxen => "",
        };
        self.console.type_line(&format!("{xl}{command}"))
    }

    /// Carries out a command of xl's; what it printed.
    fn xl(&mut self, command: &str) -> Result<String> {
        self.type_xl(command)?;
        self.prompt().with_context(|| command.to_owned())
    }

    /// Carries out a command of dom0's own; what it printed.
    fn command(&mut self, command: &str) -> Result<String> {
        self.console.type_line(command)?;
        self.prompt().with_context(|| command.to_owned())
    }

    fn prompt(&mut self) -> Result<String> {
        self.console.expect(self.hypervisor.prompt(), PATIENCE)
    }
}

/// A number with its thousands set apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        let _ = text.write_char(digit);
    }
    text
}

/// [`grouped`], or nothing.
fn cell(number: Option<u64>) -> String {
    number.map_or_else(String::new, grouped)
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn thousands() {
        let text = [0, 999, 1000, 999_999, 1_234_567].map(grouped);
        assert_eq!(text, ["0", "999", "1,000", "999,999", "1,234,567"]);
    }
}
