use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use dom0_shim::block::extents::Extents;
use dom0_shim::block::file_system::{find, read};
use dom0_shim::block::{Access, BlockDevice, Unusable, read_bytes};
use tempfile::TempDir;

use super::{disk, now, run};

/// Bytes that differ from place to place.
fn bytes(count: usize) -> Vec<u8> {
    (0..count as u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

/// A tree of files with all that can be in a file system of ext4.
fn tree(root: &Path) {
    fs::create_dir_all(root.join("images/deep/down")).unwrap();
    fs::write(
        root.join("images/deep/down/a long name, with a blank.img"),
        bytes(300_001),
    )
    .unwrap();
    fs::write(root.join("empty"), b"").unwrap();
    fs::write(root.join("small"), b"small").unwrap();
    symlink("../small", root.join("images/up")).unwrap();
    symlink("/images/deep", root.join("images/absolute")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    symlink(format!("{}small", "./".repeat(100)), root.join("far")).unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(1 << 20).unwrap();
    sparse.write_all_at(&bytes(8192), 512 << 10).unwrap();
    // A directory of many blocks, with an index.
    fs::create_dir(root.join("many")).unwrap();
    for number in 0..600 {
        fs::write(
            root.join(format!("many/file number {number}")),
            format!("{number}"),
        )
        .unwrap();
    }
}

/// An image of a tree of files, made with these options of mke2fs.
fn ext4(work: &Path, options: &[&str]) -> std::path::PathBuf {
    let (root, image) = (work.join("root"), work.join("ext4.img"));
    if !root.exists() {
        fs::create_dir(&root).unwrap();
        tree(&root);
    }
    let _ = fs::remove_file(&image);
    let arguments = [
        options,
        &[
            "-q",
            "-F",
            "-d",
            root.to_str().unwrap(),
            image.to_str().unwrap(),
            "16M",
        ],
    ];
    run("mke2fs", &arguments.concat());
    image
}

#[test]
fn files_of_ext4_are_found() {
    let work = TempDir::new().unwrap();
    for options in [
        &["-t", "ext4"][..],
        &["-t", "ext4", "-b", "1024", "-O", "^64bit,^metadata_csum"],
        &["-t", "ext4", "-b", "4096", "-I", "512"],
        &["-t", "ext4", "-b", "2048", "-O", "^has_journal,^flex_bg"],
    ] {
        let disk = disk(&ext4(work.path(), options));
        let contents = |path: &str| now(read(&disk, path, 1 << 20));
        assert!(
            contents("/images/deep/down/a long name, with a blank.img") == Ok(bytes(300_001)),
            "{options:?}"
        );
        assert_eq!(
            contents("/images/absolute/../../many/file number 599"),
            Ok(b"599".to_vec())
        );
        for small in ["small", "images/up", "far", "//images/./up"] {
            assert_eq!(contents(small), Ok(b"small".to_vec()), "{small}");
        }
        let mut sparse = vec![0; 1 << 20];
        sparse[512 << 10..][..8192].copy_from_slice(&bytes(8192));
        assert!(contents("sparse") == Ok(sparse));
        for (path, error) in [
            ("nothing", "there is no such file"),
            ("images/nothing/at/all", "there is no such file"),
            ("small/what", "part of the path is no directory"),
            ("images", "it is no regular file"),
            ("/", "it is no regular file"),
            ("loop", "there are too many symbolic links"),
        ] {
            assert_eq!(contents(path), Err(Unusable(error)), "{path}");
        }
        assert_eq!(
            now(read(&disk, "sparse", 1000)),
            Err(Unusable("the file is too large"))
        );
    }
}

#[test]
fn a_file_of_ext4_is_a_disk() {
    let work = TempDir::new().unwrap();
    let disk = disk(&ext4(work.path(), &["-t", "ext4"]));
    let open = |path: &str, access| {
        let file = now(find(&disk, path)).unwrap();
        Extents::new(&disk, &file.extents, file.bytes / 512, access)
    };
    let image = open(
        "images/deep/down/a long name, with a blank.img",
        Access::ReadWrite,
    )
    .unwrap();
    assert_eq!(image.sectors(), 585);
    assert!(now(read_bytes(&image, 1000..200_000)) == Ok(bytes(300_001)[1000..200_000].to_vec()));
    assert!(open("sparse", Access::ReadOnly).is_ok());
    assert!(open("sparse", Access::ReadWrite).is_err_and(|said| said.contains("holes")));
}

/// So many pieces that the tree has several levels.
#[test]
fn a_file_in_pieces() {
    let work = TempDir::new().unwrap();
    let image = ext4(work.path(), &["-t", "ext4", "-b", "1024", "-O", "^has_journal"]);
    let fill = (0..500).map(|at| format!("rm \"many/file number {at}\"\n"));
    // debugfs takes the freed blocks, each between two that are not free.
    let odd: String = fill.step_by(2).collect();
    let (script, data) = (work.path().join("script"), work.path().join("data"));
    fs::write(&data, bytes(3 << 20)).unwrap();
    fs::write(&script, format!("{odd}write {} pieces\n", data.display())).unwrap();
    run(
        "debugfs",
        &["-w", "-f", script.to_str().unwrap(), image.to_str().unwrap()],
    );
    let disk = disk(&image);
    let file = now(find(&disk, "pieces")).unwrap();
    assert!(file.extents.len() > 100, "{}", file.extents.len());
    assert!(now(read(&disk, "pieces", 4 << 20)) == Ok(bytes(3 << 20)));
}

#[test]
fn what_cannot_be_read_is_refused() {
    let work = TempDir::new().unwrap();
    let error = |options: &[&str]| {
        let disk = disk(&ext4(work.path(), options));
        now(read(&disk, "sparse", 1 << 20)).unwrap_err().0
    };
    assert!(error(&["-t", "ext2"]).contains("not in extents"));
    for feature in ["meta_bg,^resize_inode", "inline_data"] {
        assert!(error(&["-t", "ext4", "-O", feature]).contains("not supported"));
    }
    let image = ext4(work.path(), &["-t", "ext4"]);
    run(
        "debugfs",
        &["-w", "-R", "feature needs_recovery", image.to_str().unwrap()],
    );
    let said = now(read(&disk(&image), "small", 100)).unwrap_err().0;
    assert!(said.contains("e2fsck"), "{said}");
}

#[test]
fn files_of_fat_are_found() {
    let work = TempDir::new().unwrap();
    let (image, data) = (work.path().join("fat.img"), work.path().join("A Long Name.image"));
    fs::write(&data, bytes(300_001)).unwrap();
    let small = work.path().join("SMALL.TXT");
    fs::write(&small, b"small").unwrap();
    for (size, options) in [
        (4 << 20, &["-d", "1", "-c", "1"][..]),
        (16 << 20, &["-c", "4"]),
        (64 << 20, &["-F", "-c", "1"]),
    ] {
        let _ = fs::remove_file(&image);
        File::create(&image).unwrap().set_len(size).unwrap();
        let name = image.to_str().unwrap();
        run("mformat", &[options, &["-i", name, "::"]].concat());
        run("mmd", &["-i", name, "::/Images", "::/Images/deep"]);
        // What is between them is free afterwards: the file is in two pieces.
        run("mcopy", &["-i", name, small.to_str().unwrap(), "::/Images/"]);
        run("mcopy", &["-i", name, small.to_str().unwrap(), "::/SMALL2.TXT"]);
        run("mdel", &["-i", name, "::/Images/SMALL.TXT"]);
        run("mcopy", &["-i", name, data.to_str().unwrap(), "::/Images/deep/"]);
        run("mcopy", &["-i", name, small.to_str().unwrap(), "::/Images/"]);
        let disk = disk(&image);
        let contents = |path: &str| now(read(&disk, path, 1 << 20));
        assert!(
            contents("/images/DEEP/a long name.IMAGE") == Ok(bytes(300_001)),
            "{options:?}"
        );
        assert_eq!(contents("Images/Small.txt"), Ok(b"small".to_vec()));
        for (path, error) in [
            ("nothing", "there is no such file"),
            ("images/small.txt/what", "part of the path is no directory"),
            ("images", "it is no regular file"),
        ] {
            assert_eq!(contents(path), Err(Unusable(error)), "{path}");
        }
    }
}
