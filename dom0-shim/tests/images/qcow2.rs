use std::cell::{Cell, RefCell};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use dom0_shim::block::qcow2::{Header, Qcow2};
use dom0_shim::block::ram::{Budget, RamDisk};
use dom0_shim::block::{Access, BlockDevice, Failed, Unusable, read_bytes};
use proptest::prelude::*;
use tempfile::TempDir;

use super::{now, run};

/// Bytes of the disks in most images.
const SIZE: usize = 2 << 20;

/// Data with clusters of zeros, some that can be packed and some that cannot.
fn data() -> Vec<u8> {
    let kind = |at: usize| match at / 4096 % 5 {
        0 | 3 => 0,
        1 => (at / 4096) as u8,
        _ => ((at as u32).wrapping_mul(2_654_435_761) >> 24) as u8,
    };
    (0..SIZE).map(kind).collect()
}

/// An image of [`data`], made with these options of `qemu-img convert`.
fn image(work: &Path, options: &[&str]) -> PathBuf {
    let (raw, image) = (work.join("raw"), work.join("image.qcow2"));
    fs::write(&raw, data()).unwrap();
    let paths = [raw.to_str().unwrap(), image.to_str().unwrap()];
    run(
        "qemu-img",
        &[&["convert", "-f", "raw", "-O", "qcow2"], options, &paths].concat(),
    );
    image
}

/// An empty image, made with these options of `qemu-img create`; one with a backing file has no size of its own.
fn create(options: &[&str], name: &str, size: &[&str]) {
    let parts = [&["create", "-q", "-f", "qcow2"], options, &[name], size];
    run("qemu-img", &parts.concat());
}

/// All kinds of images that are read and written.
const KINDS: [&[&str]; 8] = [
    &[],
    &["-o", "compat=0.10"],
    &["-o", "cluster_size=512"],
    &["-o", "cluster_size=2M"],
    &["-o", "cluster_size=4k,refcount_bits=1"],
    &["-o", "refcount_bits=64,preallocation=metadata"],
    &["-c"],
    &["-c", "-o", "compression_type=zstd,cluster_size=16k"],
];

fn open_to_read(disk: RamDisk) -> Result<Qcow2<RamDisk>, Unusable> {
    let bytes = disk.sectors() * 512;
    now(Qcow2::open(disk, bytes, Access::ReadOnly))
}

/// An image in RAM, with room to grow.
fn open_to_write(image: &Path) -> Result<Qcow2<Rc<RamDisk>>, Unusable> {
    let bytes: &'static [u8] = fs::read(image).unwrap().leak();
    let room = Header::parse(bytes)?.grown(bytes.len() as u64);
    let disk = RamDisk::with_room(bytes, room, &Budget::new(1 << 30)).unwrap();
    now(Qcow2::open(Rc::new(disk), room, Access::ReadWrite))
}

fn write<D: BlockDevice>(image: &Qcow2<D>, sectors: Range<u64>, byte: u8) -> Result<(), Failed> {
    now(image.write(sectors, |pieces| {
        pieces.iter_mut().for_each(|piece| piece.fill(byte));
        Ok(())
    }))
}

/// What qemu-img finds in an image; it must be whole, but for clusters that nobody uses.
fn checked(work: &Path, image: &[u8]) -> Vec<u8> {
    let (file, raw) = (work.join("written.qcow2"), work.join("written.raw"));
    fs::write(&file, image).unwrap();
    let output = std::process::Command::new("qemu-img")
        .args(["check", "-q", "-f", "qcow2"])
        .arg(&file)
        .output()
        .unwrap();
    // 3: there are leaks, and nothing worse.
    assert!([Some(0), Some(3)].contains(&output.status.code()), "{output:?}");
    run(
        "qemu-img",
        &[
            "convert",
            "-f",
            "qcow2",
            "-O",
            "raw",
            file.to_str().unwrap(),
            raw.to_str().unwrap(),
        ],
    );
    fs::read(raw).unwrap()
}

#[test]
fn images_are_read() {
    let work = TempDir::new().unwrap();
    for options in KINDS {
        let image = open_to_read(disk_padded(&image(work.path(), options))).unwrap();
        assert_eq!(
            (image.sectors(), image.access()),
            ((SIZE / 512) as u64, Access::ReadOnly)
        );
        assert!(
            now(read_bytes(&image, 0..SIZE as u64)) == Ok(data()),
            "{options:?}"
        );
        assert!(
            now(read_bytes(&image, 5000..9000)) == Ok(data()[5000..9000].to_vec()),
            "{options:?}"
        );
    }
}

fn disk_padded(file: &Path) -> RamDisk {
    RamDisk::padded(fs::read(file).unwrap().leak())
}

#[test]
fn images_are_written() {
    let work = TempDir::new().unwrap();
    for options in KINDS {
        let file = image(work.path(), options);
        let below = fs::read(&file).unwrap();
        let image = open_to_write(&file).unwrap();
        let mut model = data();
        for (sectors, byte) in [(0..1, 1), (7..9, 2), (100..700, 3), (4000..4096, 0), (3..4, 5)] {
            assert_eq!(write(&image, sectors.clone(), byte), Ok(()), "{options:?}");
            model[sectors.start as usize * 512..sectors.end as usize * 512].fill(byte);
        }
        assert!(
            now(read_bytes(&image, 0..SIZE as u64)) == Ok(model.clone()),
            "{options:?}"
        );
        assert_eq!(now(image.flush()), Ok(()));
        let disk = image.into_inner();
        let grown = now(read_bytes(&disk, 0..disk.sectors() * 512)).unwrap();
        assert!(checked(work.path(), &grown) == model, "{options:?}");
        assert!(grown.len() > below.len());
    }
}

#[test]
fn a_full_disk_is_an_error_and_the_image_stays_whole() {
    let work = TempDir::new().unwrap();
    let file = work.path().join("empty.qcow2");
    create(&[], file.to_str().unwrap(), &["8M"]);
    let bytes: &'static [u8] = fs::read(&file).unwrap().leak();
    let disk = RamDisk::with_room(bytes, 1 << 20, &Budget::new(64 << 20)).unwrap();
    let image = now(Qcow2::open(disk, 1 << 20, Access::ReadWrite)).unwrap();
    let results: Vec<_> = (0..128)
        .map(|cluster| write(&image, cluster * 128..cluster * 128 + 1, 9))
        .collect();
    let done = results.iter().take_while(|result| result.is_ok()).count();
    assert!(
        (8..16).contains(&done) && results[done..].iter().all(Result::is_err),
        "{results:?}"
    );
    assert_eq!(write(&image, 5..8, 7), Ok(()), "what has a place can be written");
    assert_eq!(now(image.flush()), Ok(()));
    let disk = image.into_inner();
    let contents = checked(work.path(), &now(read_bytes(&disk, 0..1 << 20)).unwrap());
    assert_eq!(contents[..4096], [&[9; 512][..], &[0; 2048], &[7; 1536]].concat());
}

#[test]
fn what_is_not_supported_is_refused() {
    let work = TempDir::new().unwrap();
    let name = |name: &str| work.path().join(name).to_str().unwrap().to_owned();
    let error = |file: &str, access| {
        let result = match access {
            Access::ReadOnly => open_to_read(disk_padded(file.as_ref())).err(),
            Access::ReadWrite => open_to_write(file.as_ref()).err(),
        };
        result.map_or(String::new(), |error| error.to_string())
    };
    let base = name("base");
    create(&[], &base, &["1M"]);
    let overlay = name("overlay");
    create(&["-b", &base, "-F", "qcow2"], &overlay, &[]);
    assert!(error(&overlay, Access::ReadOnly).contains("backing file"));
    let extended = name("extended");
    create(&["-o", "extended_l2=on,cluster_size=64k"], &extended, &["1M"]);
    assert!(error(&extended, Access::ReadOnly).contains("features"));
    let small = name("small");
    create(&["-o", "cluster_size=512"], &small, &["64M"]);
    assert!(error(&small, Access::ReadWrite).contains("reference counts"));
    run("qemu-img", &["snapshot", "-c", "then", &base]);
    assert!(error(&base, Access::ReadWrite).contains("snapshots"));
    assert_eq!(error(&base, Access::ReadOnly), "");
    let raw = name("raw");
    fs::write(&raw, [0; 8192]).unwrap();
    assert!(error(&raw, Access::ReadOnly).contains("no qcow2"));
}

/// A disk with a cache: what was written since the last flush is lost or not when the power fails.
struct Cached {
    disk: RamDisk,
    durable: RefCell<Vec<u8>>,
    written: RefCell<Vec<(Range<u64>, Vec<u8>)>>,
    /// Writes and flushes until the power fails.
    left: Cell<u32>,
}

impl Cached {
    fn live(&self) -> Result<(), Failed> {
        self.left.set(self.left.get().checked_sub(1).ok_or(Failed)?);
        Ok(())
    }
}

impl BlockDevice for Cached {
    fn sectors(&self) -> u64 {
        self.disk.sectors()
    }
    fn access(&self) -> Access {
        Access::ReadWrite
    }
    fn takes_time(&self) -> bool {
        false
    }
    fn memory(&self, bytes: usize) -> usize {
        self.disk.memory(bytes)
    }
    fn discard_granularity(&self) -> Option<u32> {
        None
    }
    async fn read(
        &self,
        sectors: Range<u64>,
        take: impl FnOnce(&[&[u8]]) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        self.disk.read(sectors, take).await
    }
    async fn write(
        &self,
        sectors: Range<u64>,
        fill: impl FnOnce(&mut [&mut [u8]]) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        self.live()?;
        self.disk.write(sectors.clone(), fill).await?;
        let bytes = read_bytes(&self.disk, sectors.start * 512..sectors.end * 512).await?;
        self.written.borrow_mut().push((sectors, bytes));
        Ok(())
    }
    async fn flush(&self) -> Result<(), Failed> {
        self.live()?;
        let mut durable = self.durable.borrow_mut();
        for (sectors, bytes) in self.written.take() {
            durable[sectors.start as usize * 512..][..bytes.len()].copy_from_slice(&bytes);
        }
        Ok(())
    }
    async fn discard(&self, _: Range<u64>) -> Result<(), Failed> {
        Err(Failed)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whenever the power fails, in the middle of a flush too, and whatever of the cache is lost, the image is whole and
    /// has what was flushed.
    #[test]
    fn power_fails(
        moves in prop::collection::vec((0_u64..200, 1_u64..24, prop::bool::weighted(0.2)), 1..30),
        lost in any::<u64>(),
        lasts in 0_u32..150,
    ) {
        let work = TempDir::new().unwrap();
        let file = work.path().join("image.qcow2");
        let name = file.to_str().unwrap();
        create(&["-o", "cluster_size=4k"], name, &["1M"]);
        let bytes: &'static [u8] = fs::read(&file).unwrap().leak();
        let room = Header::parse(bytes).unwrap().grown(bytes.len() as u64);
        let disk = RamDisk::with_room(bytes, room, &Budget::new(16 << 20)).unwrap();
        let mut durable = bytes.to_vec();
        durable.resize(disk.sectors() as usize * 512, 0);
        let cached = Rc::new(Cached { disk, durable: RefCell::new(durable), written: RefCell::default(), left: Cell::new(lasts) });
        let image = now(Qcow2::open(cached.clone(), room, Access::ReadWrite)).unwrap();
        // What each sector may have; the first is what was flushed.
        let mut model = vec![vec![0_u8]; 2048];
        for (index, &(start, count, flush)) in moves.iter().enumerate() {
            let byte = index as u8 + 1;
            for sector in &mut model[start as usize..(start + count) as usize] {
                sector.push(byte);
            }
            if write(&image, start..start + count, byte).is_err() {
                break;
            }
            if flush {
                if now(image.flush()).is_err() {
                    break;
                }
                model.iter_mut().for_each(|sector| sector.drain(..sector.len() - 1).for_each(drop));
            }
        }
        let mut left = cached.durable.borrow().clone();
        for (index, (sectors, bytes)) in cached.written.borrow().iter().enumerate() {
            if lost >> (index % 64) & 1 == 0 {
                left[sectors.start as usize * 512..][..bytes.len()].copy_from_slice(bytes);
            }
        }
        let found = checked(work.path(), &left);
        for (sector, allowed) in model.iter().enumerate() {
            let found = &found[sector * 512..][..512];
            prop_assert!(allowed.iter().any(|byte| found.iter().all(|other| other == byte)), "sector {}", sector);
        }
    }
}
