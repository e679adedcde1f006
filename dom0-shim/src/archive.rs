//! The boot archive: a cpio (newc) image, dom0's second module, that holds configs, kernels and ramdisks.

use alloc::collections::BTreeMap;

/// Files of the archive by absolute path.
#[derive(Clone, Debug, Default)]
pub struct Archive<'a> {
    files: BTreeMap<&'a str, &'a [u8]>,
    damaged: bool,
}

impl<'a> Archive<'a> {
    /// Indexes an archive. What follows a broken entry is not seen; an image that is no cpio archive is empty.
    pub fn new(image: &'a [u8]) -> Self {
        const TYPE_MASK: u32 = 0o170_000;
        const REGULAR: u32 = 0o100_000;
        let files = cpio_reader::iter_files(image)
            .filter(|entry| entry.mode().bits() & TYPE_MASK == REGULAR)
            .map(|entry| (relative(entry.name()), entry.file()))
            .collect();
        let damaged = !image.is_empty() && !ends_properly(image);
        Self { files, damaged }
    }

    /// Whether it does not end as an archive does: what should have followed is missing, or there has never been an archive.
    pub fn is_damaged(&self) -> bool {
        self.damaged
    }

    /// The file at a path; with or without the leading slash.
    pub fn file(&self, path: &str) -> Option<&'a [u8]> {
        self.files.get(relative(path)).copied()
    }

    /// Paths of all files, sorted, with the leading slash left out.
    pub fn paths(&self) -> impl Iterator<Item = &'a str> {
        self.files.keys().copied()
    }

    /// Config files directly in a directory.
    pub fn configs_in(&self, directory: &str) -> impl Iterator<Item = &'a str> {
        let directory = relative(directory).trim_end_matches('/');
        self.paths().filter(move |path| {
            path.strip_prefix(directory)
                .and_then(|rest| rest.strip_prefix('/'))
                .is_some_and(|name| !name.contains('/') && name.ends_with(".cfg"))
        })
    }
}

/// Whether the last entry that can be read is followed by the one that ends an archive.
fn ends_properly(image: &[u8]) -> bool {
    const TRAILER: &[u8] = b"TRAILER!!!";
    /// The header before its name and what aligns it: in no format are there more bytes.
    const HEADER: usize = 128;
    let end = cpio_reader::iter_files(image).last().map_or(0, |entry| {
        let contents = entry.file().as_ptr_range().end as usize;
        contents.saturating_sub(image.as_ptr() as usize)
    });
    let rest = image.get(end..).unwrap_or_default();
    rest.windows(TRAILER.len())
        .take(HEADER)
        .any(|name| name == TRAILER)
}

/// Without `./` or `/` in front, as archives made by `find | cpio` and people's paths differ in that.
fn relative(path: &str) -> &str {
    path.trim_start_matches("./").trim_start_matches('/')
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::vec::Vec;

    use super::*;

    fn newc(entries: &[(&str, u32, &[u8])]) -> Vec<u8> {
        let mut image = Vec::new();
        for (name, mode, data) in entries.iter().copied().chain([("TRAILER!!!", 0, &[][..])]) {
            let (size, name_size) = (data.len(), name.len() + 1);
            let head = format!(
                "070701{:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{size:08x}{:08x}{:08x}{:08x}{:08x}{name_size:08x}{:08x}",
                1, 0, 0, 1, 0, 0, 0, 0, 0, 0
            );
            for part in [head.as_bytes(), name.as_bytes(), b"\0"] {
                image.extend_from_slice(part);
            }
            image.resize(image.len().next_multiple_of(4), 0);
            image.extend_from_slice(data);
            image.resize(image.len().next_multiple_of(4), 0);
        }
        image
    }

    #[test]
    fn finds_files() {
        let image = newc(&[
            ("./etc", 0o040_755, b""),
            ("./etc/oxen/auto/b.cfg", 0o100_644, b"b"),
            ("etc/oxen/auto/a.cfg", 0o100_644, b"a"),
            ("etc/oxen/auto/a.txt", 0o100_644, b"t"),
            ("etc/oxen/auto/sub/c.cfg", 0o100_644, b"c"),
        ]);
        let archive = Archive::new(&image);
        assert_eq!(archive.file("/etc/oxen/auto/b.cfg"), Some(&b"b"[..]));
        assert_eq!(archive.file("/etc"), None, "a directory");
        let configs: Vec<_> = archive.configs_in("/etc/oxen/auto").collect();
        assert_eq!(configs, ["etc/oxen/auto/a.cfg", "etc/oxen/auto/b.cfg"]);
        assert!(!archive.is_damaged());
        assert_eq!(Archive::new(b"no archive").paths().count(), 0);
        assert_eq!(
            Archive::new(&image[..image.len() / 2]).file("/etc/oxen/auto/b.cfg"),
            Some(&b"b"[..])
        );
    }

    #[test]
    fn damage_is_noticed() {
        let image = newc(&[("a", 0o100_644, b"text"), ("empty", 0o100_644, b"")]);
        assert!(!Archive::new(&image).is_damaged());
        assert!(!Archive::new(&newc(&[])).is_damaged(), "nothing in it");
        assert!(!Archive::new(b"").is_damaged(), "there is none");
        assert!(Archive::new(b"no archive").is_damaged());
        let trailer = newc(&[]).len();
        for len in 1..image.len() - trailer {
            assert!(Archive::new(&image[..len]).is_damaged(), "{len} bytes");
        }
        let second = image.windows(5).position(|name| name == b"empty").unwrap() - 110;
        let mut spoilt = image.clone();
        spoilt[second] ^= 1;
        let archive = Archive::new(&spoilt);
        assert!(archive.is_damaged() && archive.file("a").is_some());
    }
}
