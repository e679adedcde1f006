//! Which frames of the machine are devices' registers, for the privileged domain to reach.
//!
//! Deny by default: until [`keep`] has told what is kept, nothing is a device.

use alloc::vec::Vec;
use core::ops::Range;

use crate::sync::Once;
use crate::types::Mfn;

/// Frames that no domain gets as device memory, ascending and apart.
static KEPT: Once<Vec<Range<Mfn>>> = Once::new();

/// Tell which frames are not to be given to the privileged domain on demand: all RAM of whatever use, and the registers that belong to
/// the hypervisor (interrupt controllers, IOMMU). In any order. Once, before the privileged domain runs.
pub fn keep(kept: Vec<Range<Mfn>>) {
    KEPT.call_once(|| sorted(kept));
}

/// May the privileged domain map `mfn`: is it nothing that is kept?
pub fn may_map(mfn: Mfn) -> bool {
    KEPT.get().is_some_and(|kept| !contains(kept, mfn))
}

fn sorted(mut ranges: Vec<Range<Mfn>>) -> Vec<Range<Mfn>> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_by_key(|range| range.start);
    ranges.dedup_by(|next, before| {
        let touch = next.start <= before.end;
        if touch {
            before.end = before.end.max(next.end);
        }
        touch
    });
    ranges
}

fn contains(sorted: &[Range<Mfn>], mfn: Mfn) -> bool {
    let after = sorted.partition_point(|range| range.start <= mfn);
    after
        .checked_sub(1)
        .and_then(|at| sorted.get(at))
        .is_some_and(|range| mfn < range.end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn contains_what_any_range_contains(ranges in prop::collection::vec((0u64..64, 0u64..8), 0..12)) {
            let ranges: Vec<_> = ranges.into_iter().map(|(start, len)| Mfn(start)..Mfn(start + len)).collect();
            let merged = sorted(ranges.clone());
            for mfn in (0..80).map(Mfn) {
                prop_assert_eq!(contains(&merged, mfn), ranges.iter().any(|range| range.contains(&mfn)));
            }
            prop_assert!(merged.windows(2).all(|pair| pair[0].end < pair[1].start));
        }
    }
}
