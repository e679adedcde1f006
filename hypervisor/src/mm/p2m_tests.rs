//! The tables against a model, in both formats.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const PAGES: Pages = Pages {
    largest: MAX_ORDER,
    small_code: false,
};

fn p2m(format: NestedFormat) -> P2m {
    P2m::new(format, 40, PAGES, 64).expect("arena")
}

fn unmap_all(p2m: &P2m) {
    while let Some((gfn, entry)) = p2m.next_mapped(Gfn(0)) {
        let first = Gfn(gfn.0 & !((1 << entry.order) - 1));
        p2m.unmap(first, entry.order)
            .expect("no split")
            .expect("mapped")
            .flush
            .done();
    }
}

#[test]
fn entries_are_the_hardwares() {
    let ept = Encoding::of(NestedFormat::Ept);
    assert_eq!(ept.leaf(Mfn(5), 0, Kind::RamRw), 0x0010_0000_0000_5077);
    assert_eq!(ept.leaf(Mfn(0x200), 9, Kind::RamRo), 0x0020_0000_0020_00f5);
    assert_eq!(ept.leaf(Mfn(7), 0, Kind::MmioDirect), 0x0030_0000_0000_7003);
    assert_eq!(ept.leaf(Mfn(7), 0, Kind::GrantRo), 0x0050_0000_0000_7071);
    assert_eq!(ept.leaf(Mfn(7), 0, Kind::ApicAccess), 0x0070_0000_0000_7003);
    assert_eq!(Kind::of(0x0070_0000_0000_7003), Some(Kind::ApicAccess));
    let npt = Encoding::of(NestedFormat::Npt);
    assert_eq!(npt.leaf(Mfn(5), 0, Kind::RamRw), 0x0010_0000_0000_5007);
    assert_eq!(npt.leaf(Mfn(0x200), 9, Kind::RamRo), 0x0020_0000_0020_0085);
    assert_eq!(npt.leaf(Mfn(7), 0, Kind::MmioDirect), 0x8030_0000_0000_7017);
    assert_eq!(npt.leaf(Mfn(7), 0, Kind::Foreign), 0x8060_0000_0000_7007);
}

#[test]
fn bad_requests_are_refused() {
    let p2m = p2m(NestedFormat::Ept);
    assert_eq!(p2m.map(Gfn(1), Mfn(0), 9, Kind::RamRw), Err(MapError::Misaligned));
    assert_eq!(p2m.map(Gfn(0), Mfn(0), 3, Kind::RamRw), Err(MapError::Misaligned));
    assert_eq!(
        p2m.map(Gfn(1 << 28), Mfn(0), 0, Kind::RamRw),
        Err(MapError::OutOfRange)
    );
    assert_eq!(p2m.lookup(Gfn(u64::MAX)), None);
    p2m.map(Gfn(512), Mfn(512), 9, Kind::RamRw).expect("empty");
    assert_eq!(p2m.map(Gfn(513), Mfn(1), 0, Kind::RamRw), Err(MapError::Occupied));
    assert_eq!(p2m.map(Gfn(0), Mfn(0), 18, Kind::RamRw), Err(MapError::Occupied));
    assert_eq!(p2m.end(), Gfn(1024));
    p2m.set_pool(0);
    assert_eq!(
        p2m.map(Gfn(1 << 20), Mfn(0), 0, Kind::RamRw),
        Err(MapError::NoMemory)
    );
    assert_eq!(
        p2m.unmap(Gfn(512), 0).map(drop),
        Err(MapError::NoMemory),
        "no table for the split"
    );
    assert_eq!(p2m.lookup(Gfn(512)).map(|entry| entry.order), Some(9));
    unmap_all(&p2m);
}

#[test]
fn a_superpage_comes_back_over_empty_tables() {
    let p2m = p2m(NestedFormat::Npt);
    p2m.map(Gfn(3), Mfn(9), 0, Kind::RamRw).expect("empty");
    assert_eq!(
        p2m.map(Gfn(0), Mfn(0x1000), 9, Kind::RamRw),
        Err(MapError::Occupied)
    );
    p2m.unmap(Gfn(3), 0).expect("small").expect("mapped").flush.done();
    p2m.map(Gfn(0), Mfn(0x1000), 9, Kind::RamRw).expect("empty again");
    assert_eq!(p2m.lookup(Gfn(3)).map(|entry| entry.mfn), Some(Mfn(0x1003)));
    unmap_all(&p2m);
}

#[test]
fn a_machine_without_pages_of_1_gib_gets_those_of_2_mib() {
    let pages = Pages { largest: 9, ..PAGES };
    let p2m = P2m::new(NestedFormat::Ept, 40, pages, 3).expect("arena");
    let map = |gfn| p2m.map(Gfn(gfn), Mfn(gfn), 18, Kind::RamRw);
    assert_eq!(map(1 << 18), Ok(()));
    let found = p2m.lookup(Gfn((1 << 18) + 512)).expect("mapped");
    assert_eq!((found.order, found.mfn), (9, Mfn((1 << 18) + 512)));
    assert_eq!(map(1 << 18), Err(MapError::Occupied));
    assert_eq!(map(2 << 18), Ok(()));
    assert_eq!(map(3 << 18), Err(MapError::NoMemory));
    assert_eq!(p2m.lookup(Gfn(3 << 18)), None);
    unmap_all(&p2m);
}

#[test]
fn code_is_in_small_pages_where_it_has_to_be() {
    let pages = Pages {
        small_code: true,
        ..PAGES
    };
    let p2m = P2m::new(NestedFormat::Ept, 40, pages, 3).expect("arena");
    let at = |gfn| {
        let (_, order, entry) = p2m.descend(Gfn(gfn));
        p2m.is_present(entry).then_some((order, entry & EPT.execute != 0))
    };
    let gib = 1 << 18;
    p2m.map(Gfn(gib), Mfn(gib), 18, Kind::RamRw).expect("empty");
    assert_eq!(at(gib), Some((18, false)));
    p2m.let_execute(Gfn(gib + 513)).expect("pool");
    assert_eq!(at(gib), Some((9, false)));
    assert_eq!(
        (at(gib + 513), at(gib + 1023)),
        (Some((0, true)), Some((0, true)))
    );
    assert_eq!(
        p2m.lookup(Gfn(gib + 513)).map(|entry| entry.mfn),
        Some(Mfn(gib + 513))
    );
    p2m.let_execute(Gfn(gib + 513)).expect("done already");
    assert_eq!(p2m.let_execute(Gfn(gib)), Err(MapError::NoMemory));
    assert_eq!(p2m.let_execute(Gfn(0)), Ok(()), "nothing there");
    unmap_all(&p2m);
    let p2m = P2m::new(NestedFormat::Ept, 40, PAGES, 3).expect("arena");
    p2m.map(Gfn(512), Mfn(512), 9, Kind::RamRw).expect("empty");
    p2m.let_execute(Gfn(512)).expect("nothing to do");
    assert_eq!(p2m.lookup(Gfn(512)).map(|entry| entry.order), Some(9));
    unmap_all(&p2m);
}

#[derive(Clone, Debug)]
enum Op {
    Map(u64, u64, u32, bool),
    Unmap(u64, u32),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let order = prop_oneof![4 => Just(0u32), 2 => Just(9), 1 => Just(18)];
    let gfn = prop_oneof![
        0u64..8,
        508..520u64,
        (1u64 << 18) - 2..(1 << 18) + 2,
        Just(2 << 18)
    ];
    let op =
        (gfn, any::<u8>(), order, any::<bool>(), any::<bool>()).prop_map(|(gfn, mfn, order, ro, map)| {
            let align = !((1u64 << order) - 1);
            if map {
                Op::Map(gfn & align, (u64::from(mfn) << 18 | gfn) & align, order, ro)
            } else {
                Op::Unmap(gfn & align, order)
            }
        });
    proptest::collection::vec(op, 1..40)
}

proptest! {
    /// Against a map of the places where pages begin; only the small pages near the places used are compared.
    #[test]
    fn behaves_as_a_map(ops in ops(), ept in any::<bool>()) {
        let p2m = p2m(if ept { NestedFormat::Ept } else { NestedFormat::Npt });
        // First frame, as pages of 512 frames or less: (mfn, kind) by gfn, 4 KiB each, sparse by order.
        let mut model: BTreeMap<u64, (u64, u32, Kind)> = BTreeMap::new();
        let find = |model: &BTreeMap<u64, (u64, u32, Kind)>, gfn: u64| {
            model.range(..=gfn).next_back().map(|(&first, &page)| (first, page))
                .filter(|&(first, (_, order, _))| gfn < first + (1 << order))
        };
        for op in ops {
            let generation = p2m.generation();
            match op {
                Op::Map(gfn, mfn, order, ro) => {
                    let kind = if ro { Kind::RamRo } else { Kind::RamRw };
                    let free = find(&model, gfn).is_none() && model.range(gfn..gfn + (1 << order)).next().is_none();
                    prop_assert_eq!(p2m.map(Gfn(gfn), Mfn(mfn), order, kind).is_ok(), free);
                    if free {
                        model.insert(gfn, (mfn, order, kind));
                    }
                    prop_assert_eq!(p2m.generation(), generation);
                }
                Op::Unmap(gfn, order) => match p2m.unmap(Gfn(gfn), order).expect("pool is large") {
                    None => prop_assert!(find(&model, gfn).is_none()),
                    Some(removed) => {
                        let (first, (mfn, had, kind)) = find(&model, gfn).expect("was mapped");
                        prop_assert_eq!(removed.mfn, Mfn(mfn + gfn - first));
                        prop_assert_eq!(removed.kind, kind);
                        prop_assert!(removed.order <= order);
                        prop_assert_ne!(p2m.generation(), generation);
                        removed.flush.done();
                        // What is left of the page stays, in pieces.
                        model.remove(&first);
                        let (mut at, hole) = (first, gfn..gfn + (1 << removed.order));
                        while at < first + (1 << had) {
                            let mut piece = had;
                            while at & ((1 << piece) - 1) != 0 || (at < hole.end && hole.start < at + (1 << piece)) {
                                if piece == 0 || hole.contains(&at) { break; }
                                piece -= 9;
                            }
                            if hole.contains(&at) {
                                at = hole.end;
                                continue;
                            }
                            model.insert(at, (mfn + at - first, piece, kind));
                            at += 1 << piece;
                        }
                    }
                },
            }
            for probe in (0..10).chain(506..522).chain((1 << 18) - 3..(1 << 18) + 3).chain([2 << 18, (3 << 18) - 1]) {
                let expected = find(&model, probe).map(|(first, (mfn, _, kind))| (Mfn(mfn + probe - first), kind));
                prop_assert_eq!(p2m.lookup(Gfn(probe)).map(|entry| (entry.mfn, entry.kind)), expected, "gfn {:#x}", probe);
            }
            prop_assert!(model.iter().all(|(first, (_, order, _))| first + (1 << order) <= p2m.end().0));
        }
    }
}
