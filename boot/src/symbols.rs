//! The symbol table that the host tool `image` appends to the image, for back traces.
//!
//! Format, little endian: number of symbols (u32), the linked address of the image (u64), then for each symbol,
//! sorted, its offset in the image and the offset of its name from the table's start (u32 each); names are UTF-8 with
//! their length in front (u8).

const HEADER: usize = 12;

/// A table, checked while it is used: a broken one finds nothing.
#[derive(Clone, Copy, Debug)]
pub struct SymbolTable<'a>(&'a [u8]);

impl<'a> SymbolTable<'a> {
    /// A table in memory.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn word(&self, at: usize) -> Option<u32> {
        let bytes = self.0.get(at..at.checked_add(4)?)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    }

    /// The function that `address` lies in, and how far into it.
    pub fn lookup(&self, address: u64) -> Option<(&'a str, u64)> {
        let base = u64::from(self.word(4)?) | u64::from(self.word(8)?) << 32;
        let offset = u32::try_from(address.checked_sub(base)?).ok()?;
        let (mut low, mut high) = (0, self.word(0)? as usize);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.word(HEADER.checked_add(middle.checked_mul(8)?)?)? <= offset {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let entry = HEADER + 8 * low.checked_sub(1)?;
        let (start, name) = (self.word(entry)?, self.word(entry + 4)? as usize);
        let len = usize::from(*self.0.get(name)?);
        let name = self.0.get(name + 1..name + 1 + len)?;
        // An entry without a name ends the function before it.
        let name = core::str::from_utf8(name).ok().filter(|name| !name.is_empty())?;
        Some((name, u64::from(offset - start)))
    }
}

/// The function that `address` lies in, and how far into it.
#[cfg(target_os = "none")]
pub fn lookup(address: u64) -> Option<(&'static str, u64)> {
    SymbolTable::new(crate::entry::symbol_bytes()).lookup(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Vec<u8> {
        let mut bytes = 3u32.to_le_bytes().to_vec();
        bytes.extend(0xffff_ffff_8020_0000u64.to_le_bytes());
        let names = HEADER as u32 + 24;
        for word in [0x1000, names, 0x1800, names + 4, 0x2000, names + 8] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(b"\x03one\x03two\x00");
        bytes
    }

    #[test]
    fn finds_the_function_around_an_address() {
        let bytes = table();
        let at = |offset: u64| SymbolTable::new(&bytes).lookup(0xffff_ffff_8020_0000 + offset);
        assert_eq!(at(0xfff), None);
        assert_eq!(at(0x1000), Some(("one", 0)));
        assert_eq!(at(0x17ff), Some(("one", 0x7ff)));
        assert_eq!(at(0x1fff), Some(("two", 0x7ff)));
        assert_eq!(at(0x2000), None);
        assert_eq!(SymbolTable::new(&bytes).lookup(0x1000), None);
    }

    #[test]
    fn broken_tables_find_nothing() {
        let bytes = table();
        for len in 0..bytes.len() {
            let cut = SymbolTable::new(&bytes[..len]);
            let _ = cut.lookup(0xffff_ffff_8020_1800);
        }
        let huge = [0xff; 64];
        assert_eq!(SymbolTable::new(&huge).lookup(u64::MAX), None);
        assert_eq!(SymbolTable::new(&[]).lookup(0), None);
    }
}
