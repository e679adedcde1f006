//! The management shell's parts that need no hypervisor: line editing, words, the command table, `xl`'s output formats.

pub mod commands;
pub mod format;
pub mod json;
pub mod line;
pub mod size;
pub mod words;
