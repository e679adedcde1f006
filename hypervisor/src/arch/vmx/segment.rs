//! Segment registers between the architecture's format and the VMCS's access rights (SDM 3C 25.4.1). Pure.

use crate::arch::regs::SegmentAttr;
use crate::arch::{Segment, SegmentReg};

/// The register holds nothing usable.
const UNUSABLE: u32 = 1 << 16;
/// Type bit of a code or data segment that has been loaded.
const ACCESSED: SegmentAttr = SegmentAttr::from_bits_retain(1);
/// Type bit of a TSS that is in use.
const BUSY: SegmentAttr = SegmentAttr::from_bits_retain(2);

/// Access rights: the attributes with a gap of four bits, and "unusable" for "not present".
fn rights(attr: SegmentAttr) -> u32 {
    let bits = u32::from(attr.bits());
    let unusable = if attr.contains(SegmentAttr::PRESENT) {
        0
    } else {
        UNUSABLE
    };
    (bits & 0xff) | ((bits & 0xf00) << 4) | unusable
}

/// The attributes in `rights`.
pub fn attr(rights: u32) -> SegmentAttr {
    let attr = SegmentAttr::from_bits_truncate((rights & 0xff) as u16 | ((rights >> 4) & 0xf00) as u16);
    if rights & UNUSABLE != 0 {
        attr.difference(SegmentAttr::PRESENT)
    } else {
        attr
    }
}

/// Access rights and limit as a VM entry accepts them (27.3.1.2): a usable segment has been accessed, a task register is busy, and the
/// granularity agrees with the limit.
pub fn encode(register: SegmentReg, segment: &Segment) -> (u32, u32) {
    let mut attr = segment.attr;
    let mut limit = segment.limit;
    match register {
        SegmentReg::Tr => attr |= BUSY,
        SegmentReg::Ldtr => {}
        _ if attr.contains(SegmentAttr::PRESENT) => attr |= ACCESSED,
        _ => {}
    }
    if limit > 0xf_ffff {
        attr |= SegmentAttr::GRANULARITY;
        limit |= 0xfff;
    } else if limit & 0xfff != 0xfff {
        attr -= SegmentAttr::GRANULARITY;
    }
    (rights(attr), limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn flat_code() {
        let cs = Segment {
            selector: 8,
            attr: SegmentAttr::from_bits_retain(0xa9a),
            limit: u32::MAX,
            base: 0,
        };
        assert_eq!(encode(SegmentReg::Cs, &cs), (0xa09b, u32::MAX));
        assert_eq!(attr(0xa09b).bits(), 0xa9b);
    }

    #[test]
    fn null_is_unusable_and_task_register_busy() {
        assert_eq!(encode(SegmentReg::Ds, &Segment::default()).0, UNUSABLE);
        let tr = Segment {
            attr: SegmentAttr::from_bits_retain(0x089),
            limit: 0x67,
            ..Segment::default()
        };
        assert_eq!(encode(SegmentReg::Tr, &tr), (0x8b, 0x67));
        assert!(!attr(0x1009b).contains(SegmentAttr::PRESENT));
    }

    proptest! {
        #[test]
        fn limit_and_granularity_always_agree(bits in 0u16..0x1000, limit: u32) {
            let segment = Segment { attr: SegmentAttr::from_bits_retain(bits), limit, ..Segment::default() };
            let (rights, limit) = encode(SegmentReg::Ds, &segment);
            let granular = rights & (1 << 15) != 0;
            prop_assert!(limit & 0xfff == 0xfff || !granular);
            prop_assert!(limit >> 20 == 0 || granular);
        }
    }
}
