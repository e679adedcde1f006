//! Files that somebody wants to boot, at random.

use crate::kernel;

const LIMIT: usize = 1 << 20;

#[test]
fn kernel() {
    bolero::check!().for_each(|image| {
        if let Ok(kernel) = kernel::open(image, LIMIT) {
            for segment in &kernel.segments {
                assert!(kernel.bytes(segment).len() as u64 <= segment.mem_size);
            }
        }
    });
}
