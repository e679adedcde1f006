//! A buddy allocator over one contiguous span of frames, as pure bookkeeping: it never touches the frames.
//!
//! For every order there is a bitmap with a bit for each naturally aligned block: 1 = this block is free, as a whole. Above each
//! bitmap lie summary levels (a bit for each word below that is not zero), so that finding the lowest free block
//! takes one step for each factor of 64. All bitmaps together take a bit over two bits a frame, 1/16,000 of the memory they describe.
//!
//! Invariant: a frame is covered by at most one set bit, over all orders, and two buddies are never both set.
//! Blocks are found lowest address first, which keeps high memory in one piece.

/// Largest order of a block: 1 GiB.
pub const MAX_ORDER: u32 = 18;

const ORDERS: usize = MAX_ORDER as usize + 1;
/// 64^6 blocks are more than any machine has.
const LEVELS: usize = 6;

/// Where the bitmap of one order lies in the storage.
#[derive(Clone, Copy, Debug, Default)]
struct Bitmap {
    /// First word of each level, the bitmap itself first.
    start: [usize; LEVELS],
    levels: usize,
    bits: usize,
}

impl Bitmap {
    /// Lay out a bitmap of `bits` bits from word `at` on; returns the word after it.
    fn lay_out(bits: usize, mut at: usize) -> (Bitmap, usize) {
        let mut bitmap = Bitmap {
            start: [0; LEVELS],
            levels: 0,
            bits,
        };
        let mut words = bits;
        while bitmap.levels == 0 || words > 1 {
            words = words.div_ceil(64);
            bitmap.start[bitmap.levels] = at;
            bitmap.levels += 1;
            at += words;
        }
        (bitmap, at)
    }

    fn get(&self, words: &[u64], bit: usize) -> bool {
        bit < self.bits && words[self.start[0] + bit / 64] & (1 << (bit % 64)) != 0
    }

    fn set(&self, words: &mut [u64], mut bit: usize) {
        for &start in &self.start[..self.levels] {
            let word = &mut words[start + bit / 64];
            let summarized = *word != 0;
            *word |= 1 << (bit % 64);
            if summarized {
                return;
            }
            bit /= 64;
        }
    }

    fn clear(&self, words: &mut [u64], mut bit: usize) {
        for &start in &self.start[..self.levels] {
            let word = &mut words[start + bit / 64];
            *word &= !(1 << (bit % 64));
            if *word != 0 {
                return;
            }
            bit /= 64;
        }
    }

    /// The lowest set bit that is not below `from`.
    fn next(&self, words: &[u64], from: usize) -> Option<usize> {
        let mut bit = from;
        let mut size = self.bits;
        let mut level = 0;
        // Climb until a word has something at or after the position, then go down to its lowest bit.
        loop {
            if level == self.levels || bit >= size {
                return None;
            }
            let rest = words[self.start[level] + bit / 64] & (!0 << (bit % 64));
            if rest != 0 {
                bit = bit / 64 * 64 + rest.trailing_zeros() as usize;
                break;
            }
            bit = bit / 64 + 1;
            size = size.div_ceil(64);
            level += 1;
        }
        while level > 0 {
            level -= 1;
            bit = bit * 64 + words[self.start[level] + bit].trailing_zeros() as usize;
        }
        Some(bit)
    }
}

/// The allocator of one span of frames. Frames are counted from the span's start, which must be aligned to the largest order.
#[derive(Debug)]
pub struct Buddy<'a> {
    words: &'a mut [u64],
    orders: [Bitmap; ORDERS],
    frames: usize,
    free: usize,
}

/// A run of frames in one call is not what the allocator's books say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotFree;

impl<'a> Buddy<'a> {
    /// Words of storage for a span of `frames` frames.
    pub fn words_for(frames: usize) -> usize {
        Self::lay_out(frames).1
    }

    fn lay_out(frames: usize) -> ([Bitmap; ORDERS], usize) {
        let mut orders = [Bitmap::default(); ORDERS];
        let mut at = 0;
        for (order, bitmap) in orders.iter_mut().enumerate() {
            (*bitmap, at) = Bitmap::lay_out(frames >> order, at);
        }
        (orders, at)
    }

    /// An allocator that has nothing yet: `words` are cleared.
    ///
    /// # Panics
    /// If there are fewer words than [`Buddy::words_for`] asks for.
    pub fn new(words: &'a mut [u64], frames: usize) -> Self {
        let (orders, needed) = Self::lay_out(frames);
        assert!(
            words.len() >= needed,
            "too little storage for the books of {frames} frames"
        );
        words.fill(0);
        Self {
            words,
            orders,
            frames,
            free: 0,
        }
    }

    /// Frames in the span, free or not.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// Frames that are free.
    pub fn free_count(&self) -> usize {
        self.free
    }

    fn is_free(&self, frame: usize, order: usize) -> bool {
        self.orders[order].get(self.words, frame >> order)
    }

    /// The order of the free block that covers `frame`.
    fn covering(&self, frame: usize) -> Option<usize> {
        (0..ORDERS).find(|&order| self.is_free(frame, order))
    }

    /// Put a block back, join it with its buddies.
    fn insert(&mut self, frame: usize, order: usize) {
        let mut block = frame >> order;
        let mut at = order;
        while at < MAX_ORDER as usize && self.orders[at].get(self.words, block ^ 1) {
            self.orders[at].clear(self.words, block ^ 1);
            block /= 2;
            at += 1;
        }
        self.orders[at].set(self.words, block);
        self.free += 1 << order;
    }

    fn remove(&mut self, frame: usize, order: usize) {
        self.orders[order].clear(self.words, frame >> order);
        self.free -= 1 << order;
    }

    /// Take `1 << order` frames, aligned to their size; `None` if there is no such block. Of the smallest blocks that do, it is the
    /// lowest.
    pub fn alloc(&mut self, order: u32) -> Option<usize> {
        let from =
            (order as usize..ORDERS).find_map(|o| Some((self.orders[o].next(self.words, 0)? << o, o)))?;
        Some(self.split(from, order as usize))
    }

    /// The same, but the lowest block of all, and none that ends after `limit`.
    pub fn alloc_below(&mut self, order: u32, limit: usize) -> Option<usize> {
        let from = (order as usize..ORDERS)
            .filter_map(|o| Some((self.orders[o].next(self.words, 0)? << o, o)))
            .min()
            .filter(|&(frame, _)| frame + (1 << order) <= limit)?;
        Some(self.split(from, order as usize))
    }

    /// Take the first `1 << order` frames of a free block.
    fn split(&mut self, (frame, have): (usize, usize), order: usize) -> usize {
        self.remove(frame, have);
        for half in order..have {
            self.insert(frame + (1 << half), half);
        }
        frame
    }

    /// Give back (or give for the first time) a block.
    ///
    /// # Errors
    /// If it is not aligned, not within the span, or its first or last frame is free already; nothing is changed.
    pub fn free(&mut self, frame: usize, order: u32) -> Result<(), NotFree> {
        let size = 1usize << order;
        let end = frame.checked_add(size).ok_or(NotFree)?;
        if order > MAX_ORDER
            || !frame.is_multiple_of(size)
            || end > self.frames
            || self.covering(frame).is_some()
            || size > 1 && self.covering(end - 1).is_some()
        {
            return Err(NotFree);
        }
        self.insert(frame, order as usize);
        Ok(())
    }

    /// Give the frames `start..end`, in as large blocks as their alignment allows.
    ///
    /// # Errors
    /// As for [`Buddy::free`]; blocks before the offending one have been given then.
    pub fn free_range(&mut self, start: usize, end: usize) -> Result<(), NotFree> {
        let mut at = start;
        while at < end {
            let order = at.trailing_zeros().min((end - at).ilog2()).min(MAX_ORDER);
            self.free(at, order)?;
            at += 1 << order;
        }
        Ok(())
    }

    /// Take exactly the frames `start..end`.
    ///
    /// # Errors
    /// If not all of them are free; nothing is changed.
    pub fn take_range(&mut self, start: usize, end: usize) -> Result<(), NotFree> {
        let mut at = start;
        while at < end {
            let order = self.covering(at).ok_or(NotFree)?;
            at = (at >> order << order) + (1 << order);
        }
        at = start;
        while at < end {
            let order = self.covering(at).ok_or(NotFree)?;
            let first = at >> order << order;
            let last = first + (1 << order);
            self.remove(first, order);
            // What sticks out on either side goes back.
            self.free_range(first, start.max(first))?;
            self.free_range(end.min(last), last)?;
            at = last;
        }
        Ok(())
    }

    /// The first run of free frames that ends after `from`, cut off before `from`: its start and its end.
    pub fn next_run(&self, from: usize) -> Option<(usize, usize)> {
        let start = match self.covering(from) {
            Some(_) => from,
            None => (0..ORDERS)
                .filter_map(|o| Some(self.orders[o].next(self.words, from.div_ceil(1 << o))? << o))
                .min()?,
        };
        let mut end = start;
        while let Some(order) = self.covering(end) {
            end = (end >> order << order) + (1 << order);
        }
        Some((start, end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FRAMES: usize = (1 << MAX_ORDER) + 5000;

    fn storage() -> Vec<u64> {
        vec![!0; Buddy::words_for(FRAMES)]
    }

    #[test]
    fn books_are_small() {
        let words = Buddy::words_for(16 << 28); // 16 TiB
        assert!(words * 8 <= (16 << 40) / 16000, "{words} words");
    }

    #[test]
    fn nothing_is_free_at_first_and_the_last_frame_counts() {
        let mut words = storage();
        let mut buddy = Buddy::new(&mut words, FRAMES);
        assert_eq!(buddy.alloc(0), None);
        buddy.free_range(0, FRAMES).unwrap();
        assert_eq!(buddy.free_count(), FRAMES);
        assert_eq!(buddy.alloc(MAX_ORDER), Some(0));
        assert_eq!(buddy.alloc(MAX_ORDER), None);
        assert_eq!(buddy.free(FRAMES - 1, 0), Err(NotFree));
        assert_eq!(buddy.free(FRAMES, 0), Err(NotFree));
        assert_eq!(buddy.next_run(0), Some((1 << MAX_ORDER, FRAMES)));
    }

    #[test]
    fn bad_frees_change_nothing() {
        let mut words = storage();
        let mut buddy = Buddy::new(&mut words, FRAMES);
        buddy.free_range(0, 64).unwrap();
        for (frame, order) in [(0, 0), (63, 0), (32, 6), (65, 1), (0, 19), (usize::MAX, 0)] {
            assert_eq!(buddy.free(frame, order), Err(NotFree), "{frame} {order}");
        }
        assert_eq!(buddy.free_count(), 64);
    }

    #[derive(Clone, Debug)]
    enum Op {
        Alloc(u32),
        Below(u32, usize),
        Free(usize),
        Take(usize, usize),
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let op = prop_oneof![
            4 => (0u32..=12).prop_map(Op::Alloc),
            1 => (0u32..=MAX_ORDER).prop_map(Op::Alloc),
            2 => (0u32..=10, 0..FRAMES).prop_map(|(o, l)| Op::Below(o, l)),
            6 => any::<usize>().prop_map(Op::Free),
            2 => (0..FRAMES, 1usize..3000).prop_map(|(s, n)| Op::Take(s, n)),
        ];
        prop::collection::vec(op, 1..120)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Against a map of the frames: no block is given twice, all blocks are aligned, and all comes back in one piece.
        #[test]
        fn behaves_like_a_map_of_frames(ops in ops()) {
            let mut words = storage();
            let mut buddy = Buddy::new(&mut words, FRAMES);
            buddy.free_range(0, FRAMES).unwrap();
            let mut used = vec![false; FRAMES];
            let mut held: Vec<(usize, usize)> = Vec::new();
            for op in ops {
                let got = match op {
                    Op::Alloc(order) => buddy.alloc(order).map(|f| (f, f + (1 << order))),
                    Op::Below(order, limit) => {
                        let got = buddy.alloc_below(order, limit).map(|f| (f, f + (1 << order)));
                        prop_assert!(got.is_none_or(|(_, end)| end <= limit));
                        let lowest = (0..limit >> order).map(|b| b << order).find(|&f| !used[f..f + (1 << order)].contains(&true));
                        prop_assert_eq!(got.map(|(f, _)| f), lowest);
                        got
                    }
                    Op::Free(which) => {
                        if !held.is_empty() {
                            let (start, end) = held.swap_remove(which % held.len());
                            buddy.free_range(start, end).unwrap();
                            used[start..end].fill(false);
                        }
                        None
                    }
                    Op::Take(start, n) => {
                        let end = start + n;
                        let possible = end <= FRAMES && !used[start..end].contains(&true);
                        prop_assert_eq!(buddy.take_range(start, end).is_ok(), possible);
                        possible.then_some((start, end))
                    }
                };
                if let Some((start, end)) = got {
                    prop_assert!(!used[start..end].contains(&true));
                    used[start..end].fill(true);
                    held.push((start, end));
                }
                prop_assert_eq!(buddy.free_count(), used.iter().filter(|&&u| !u).count());
            }
            let mut at = 0;
            while let Some((start, end)) = buddy.next_run(at) {
                prop_assert!(!used[at..start].contains(&false) && !used[start..end].contains(&true));
                at = end;
            }
            prop_assert!(!used[at..].contains(&false));
            for (start, end) in held {
                buddy.free_range(start, end).unwrap();
            }
            prop_assert_eq!(buddy.free_count(), FRAMES);
            prop_assert_eq!(buddy.alloc(MAX_ORDER), Some(0));
        }
    }
}
