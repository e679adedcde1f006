//! `cpus=` and `cpus_soft=`: where vCPUs may run, and where they should.

use alloc::string::ToString;
use alloc::vec::Vec;

use super::syntax::{Setting, Value};
use super::{Error, refuse};
use crate::cpus::CpuSet;

/// CPUs for the vCPUs of a domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Pins {
    /// Nothing is said.
    #[default]
    None,
    /// These for each vCPU.
    Same(CpuSet),
    /// By the number of the vCPU; nothing is said of those beyond.
    Each(Vec<CpuSet>),
}

impl Pins {
    /// Those of a vCPU, if anything is said.
    pub fn of(&self, vcpu: u32) -> Option<&CpuSet> {
        match self {
            Self::None => None,
            Self::Same(cpus) => Some(cpus),
            Self::Each(list) => list.get(vcpu as usize),
        }
    }
}

/// One set of CPUs for all vCPUs, or a list with one for each.
pub(super) fn pins(setting: &Setting) -> Result<Pins, Error> {
    let parse = |text: &str| CpuSet::parse(text).map_err(|error| refuse(setting, &error));
    let one = |value: &Value| match value {
        Value::String(text) => parse(text),
        Value::Number(cpu) => parse(&cpu.to_string()),
        Value::List(_) => Err(refuse(setting, "a list of CPUs is wanted")),
    };
    match &setting.value {
        Value::List(list) => Ok(Pins::Each(list.iter().map(one).collect::<Result<_, _>>()?)),
        value => Ok(Pins::Same(one(value)?)),
    }
}
