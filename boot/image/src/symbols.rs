//! The symbol table appended to the image; its format is described, and read, in `boot::symbols`.

use object::{Object, ObjectSymbol, SymbolKind};

/// Longest name that is kept, in bytes.
const MAX_NAME: usize = 120;

/// The table for all functions of `linked`, whose image starts at virtual address `base`.
pub fn table(linked: &object::File<'_>, base: u64) -> Vec<u8> {
    let mut functions: Vec<(u32, u64, String)> = linked
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition())
        .filter_map(|symbol| {
            let offset = u32::try_from(symbol.address().checked_sub(base)?).ok()?;
            Some((offset, symbol.size(), shorten(symbol.name().ok()?)))
        })
        .collect();
    functions.sort();
    functions.dedup_by_key(|function| function.0);
    encode(base, &functions)
}

/// `functions`: offset, size (0: up to the next), name; sorted.
fn encode(base: u64, functions: &[(u32, u64, String)]) -> Vec<u8> {
    let mut entries: Vec<(u32, &str)> = Vec::new();
    for (i, (offset, size, name)) in functions.iter().enumerate() {
        entries.push((*offset, name));
        let end = u64::from(*offset) + size;
        let next = functions.get(i + 1).map_or(u64::MAX, |next| u64::from(next.0));
        if *size != 0 && end < next {
            // An entry without a name: what follows is no part of this function.
            entries.push((u32::try_from(end).unwrap_or(u32::MAX), ""));
        }
    }
    let mut table = u32::try_from(entries.len()).unwrap_or(0).to_le_bytes().to_vec();
    table.extend(base.to_le_bytes());
    let mut names = Vec::new();
    let names_at = table.len() + 8 * entries.len();
    for (offset, name) in &entries {
        table.extend(offset.to_le_bytes());
        table.extend(u32::try_from(names_at + names.len()).unwrap_or(0).to_le_bytes());
        names.push(u8::try_from(name.len()).unwrap_or(0));
        names.extend(name.as_bytes());
    }
    table.extend(names);
    table
}

/// A name for people: demangled, without hash, ASCII, cut to [`MAX_NAME`].
fn shorten(mangled: &str) -> String {
    let name = format!("{:#}", rustc_demangle::demangle(mangled));
    name.chars()
        .filter(|c| c.is_ascii_graphic() || *c == ' ')
        .take(MAX_NAME)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use boot::symbols::SymbolTable;

    #[test]
    fn the_hypervisor_reads_what_is_written() {
        const BASE: u64 = 0xffff_ffff_8020_0000;
        let functions = [
            (0x10, 0x10, "a".into()),
            (0x20, 0x8, "b".into()),
            (0x40, 0, "c".into()),
        ] as [(u32, u64, String); 3];
        let table = encode(BASE, &functions);
        let at = |offset: u64| SymbolTable::new(&table).lookup(BASE + offset);
        assert_eq!(at(0xf), None);
        assert_eq!(at(0x1f), Some(("a", 0xf)));
        assert_eq!(at(0x27), Some(("b", 7)));
        assert_eq!(at(0x28), None);
        assert_eq!(at(0x4000), Some(("c", 0x3fc0)));
    }

    #[test]
    fn names_are_demangled_and_short() {
        assert_eq!(
            shorten("_ZN4core3fmt5write17h0123456789abcdefE"),
            "core::fmt::write"
        );
        assert_eq!(shorten("memcpy"), "memcpy");
        assert_eq!(shorten(&"x".repeat(500)).len(), MAX_NAME);
    }
}
