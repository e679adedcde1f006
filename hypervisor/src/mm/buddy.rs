//! A buddy allocator over one contiguous span of frames, as pure bookkeeping: it never touches the frames.
//!
//! For every order there is a bitmap with a bit for each naturally aligned block: 1 = this block is free, as a whole. Above each
//! bitmap lie summary levels (a bit for each word below that is not zero), so that finding the lowest free block
//! takes one step for each factor of 64. Two bits more for each frame say whether it is free, and whether there are only zeroes in it, however
//! blocks are joined and split. All together take a bit over four bits a frame, 1/8,000 of the memory they describe.
//!
//! Single frames that were freed last are not joined with their buddies yet: they are the next to be allocated, and most of them are before a
//! larger block, or a place, is asked for.
//!
//! Invariant: a frame is [`FREE`] if it is covered by a set bit, over all orders the only one, or is among those single frames. Two buddies
//! are never both set. But for those frames, blocks are found lowest address first, which keeps high memory in one piece.

use arrayvec::ArrayVec;

/// Largest order of a block: 1 GiB.
pub const MAX_ORDER: u32 = 18;

const ORDERS: usize = MAX_ORDER as usize + 1;
/// 64^6 blocks are more than any machine has.
const LEVELS: usize = 6;

/// Single frames that are not joined with their buddies, at most.
const SINGLES: usize = 64;

/// Frames whose states are in a word.
const STATES: usize = 32;
/// A frame's state is free: the lower of its two bits.
const FREE: u64 = 0x5555_5555_5555_5555;
/// Free, and zeroes: both.
const ZEROES: u64 = !0;

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

    /// Set a bit that is not.
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

    /// Clear a bit. Was it the last?
    fn clear(&self, words: &mut [u64], mut bit: usize) -> bool {
        for &start in &self.start[..self.levels] {
            let word = &mut words[start + bit / 64];
            *word &= !(1 << (bit % 64));
            if *word != 0 {
                return false;
            }
            bit /= 64;
        }
        true
    }

    /// The lowest set bit of a bitmap that has one.
    fn first(&self, words: &[u64]) -> usize {
        let levels = self.start[..self.levels].iter().rev();
        levels.fold(0, |bit, &start| {
            bit * 64 + words[start + bit].trailing_zeros() as usize
        })
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
    /// A bit for each order that has a free block.
    stocked: u32,
    /// Single frames that are free and in no bitmap.
    singles: ArrayVec<usize, SINGLES>,
    /// First word of the frames' states.
    states: usize,
    frames: usize,
    free: usize,
}

/// A block that was allocated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Block {
    /// Its first frame.
    pub first: usize,
    /// There are only zeroes in it.
    pub zeroes: bool,
}

/// A run of frames in one call is not what the allocator's books say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotFree;

impl<'a> Buddy<'a> {
    /// Words of storage for a span of `frames` frames.
    pub fn words_for(frames: usize) -> usize {
        Self::lay_out(frames).1 + frames.div_ceil(STATES)
    }

    /// The bitmaps, and where the states are.
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
        let (orders, states) = Self::lay_out(frames);
        assert!(
            words.len() >= states + frames.div_ceil(STATES),
            "too little storage for the books of {frames} frames"
        );
        words.fill(0);
        Self {
            words,
            orders,
            stocked: 0,
            singles: ArrayVec::new_const(),
            states,
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

    fn mark(&mut self, block: usize, order: usize) {
        self.orders[order].set(self.words, block);
        self.stocked |= 1 << order;
    }

    fn unmark(&mut self, block: usize, order: usize) {
        if self.orders[order].clear(self.words, block) {
            self.stocked &= !(1 << order);
        }
    }

    /// The words with the states of a block's frames, and which bits of each are theirs.
    fn states(&mut self, frame: usize, order: usize) -> (&mut [u64], u64) {
        let first = self.states + frame / STATES;
        let bits = (2 << order).min(64);
        let mask = (!0 >> (64 - bits)) << (frame % STATES * 2);
        (
            &mut self.words[first..first + (1usize << order).div_ceil(STATES)],
            mask,
        )
    }

    /// Put a block back, join it with its buddies.
    fn insert(&mut self, frame: usize, order: usize) {
        let mut block = frame >> order;
        let mut at = order;
        while at < MAX_ORDER as usize && self.orders[at].get(self.words, block ^ 1) {
            self.unmark(block ^ 1, at);
            block /= 2;
            at += 1;
        }
        self.mark(block, at);
    }

    /// Join the single frames with their buddies.
    fn join_singles(&mut self) {
        while let Some(frame) = self.singles.pop() {
            self.insert(frame, 0);
        }
    }

    /// The lowest block of the lowest order from `order` on that has one.
    fn smallest(&self, order: u32) -> Option<(usize, usize)> {
        let stocked = self.stocked.checked_shr(order)?;
        let have = (stocked != 0).then(|| order + stocked.trailing_zeros())? as usize;
        Some((self.orders[have].first(self.words) << have, have))
    }

    /// Take `1 << order` frames, aligned to their size; `None` if there is no such block. Of the smallest blocks that do, it is the
    /// lowest; a single frame is the one that was freed last.
    pub fn alloc(&mut self, order: u32) -> Option<Block> {
        if order == 0
            && let Some(frame) = self.singles.pop()
        {
            return Some(self.taken(frame, 0));
        }
        let from = self.smallest(order).or_else(|| {
            self.join_singles();
            self.smallest(order)
        })?;
        Some(self.split(from, order as usize))
    }

    /// The same, but the lowest block of all, and none that ends after `limit`.
    pub fn alloc_below(&mut self, order: u32, limit: usize) -> Option<Block> {
        self.join_singles();
        let from = (order as usize..ORDERS)
            .filter_map(|o| Some((self.orders[o].next(self.words, 0)? << o, o)))
            .min()
            .filter(|&(frame, _)| frame + (1 << order) <= limit)?;
        Some(self.split(from, order as usize))
    }

    /// Take the first `1 << order` frames of a free block.
    fn split(&mut self, (frame, have): (usize, usize), order: usize) -> Block {
        self.unmark(frame >> have, have);
        for half in order..have {
            self.mark((frame >> half) + 1, half);
        }
        self.taken(frame, order)
    }

    /// The frames of a block are not free any more.
    fn taken(&mut self, frame: usize, order: usize) -> Block {
        self.free -= 1 << order;
        let (words, mask) = self.states(frame, order);
        let zeroes = words.iter().all(|word| word & mask == mask);
        words.iter_mut().for_each(|word| *word &= !mask);
        Block { first: frame, zeroes }
    }

    /// Give back (or give for the first time) a block, which has only `zeroes` in it, or anything.
    ///
    /// # Errors
    /// If it is not aligned, not within the span, or one of its frames is free already; nothing is changed.
    pub fn free(&mut self, frame: usize, order: u32, zeroes: bool) -> Result<(), NotFree> {
        let size = 1usize.checked_shl(order).ok_or(NotFree)?;
        let end = frame.checked_add(size).ok_or(NotFree)?;
        if order > MAX_ORDER || !frame.is_multiple_of(size) || end > self.frames {
            return Err(NotFree);
        }
        let (words, mask) = self.states(frame, order as usize);
        if words.iter().any(|word| word & mask != 0) {
            return Err(NotFree);
        }
        let state = if zeroes { ZEROES } else { FREE };
        words.iter_mut().for_each(|word| *word |= state & mask);
        self.free += size;
        if order > 0 {
            self.insert(frame, order as usize);
            return Ok(());
        }
        if self.singles.is_full() {
            self.join_singles();
        }
        self.singles.push(frame);
        Ok(())
    }

    /// Give the frames `start..end`, whatever is in them, in as large blocks as their alignment allows.
    ///
    /// # Errors
    /// As for [`Buddy::free`]; blocks before the offending one have been given then.
    pub fn free_range(&mut self, start: usize, end: usize) -> Result<(), NotFree> {
        blocks(start, end).try_for_each(|(first, order)| self.free(first, order, false))
    }

    /// Take exactly the frames `start..end`.
    ///
    /// # Errors
    /// If not all of them are free; nothing is changed.
    pub fn take_range(&mut self, start: usize, end: usize) -> Result<(), NotFree> {
        self.join_singles();
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
            self.unmark(first >> order, order);
            // What sticks out on either side goes back.
            for (first, order) in blocks(first, start.max(first)).chain(blocks(end.min(last), last)) {
                self.insert(first, order as usize);
            }
            for (first, order) in blocks(start.max(first), end.min(last)) {
                self.taken(first, order as usize);
            }
            at = last;
        }
        Ok(())
    }

    /// The first run of free frames that ends after `from`, cut off before `from`: its start and its end.
    pub fn next_run(&mut self, from: usize) -> Option<(usize, usize)> {
        self.join_singles();
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

/// The blocks that the frames `start..end` make, as large as their alignment allows: their first frames, and orders.
fn blocks(start: usize, end: usize) -> impl Iterator<Item = (usize, u32)> {
    let mut at = start;
    core::iter::from_fn(move || {
        let left = end.checked_sub(at)?.checked_ilog2()?;
        let block = (at, at.trailing_zeros().min(left).min(MAX_ORDER));
        at += 1 << block.1;
        Some(block)
    })
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
        assert!(words * 8 <= (16 << 40) / 8000, "{words} words");
    }

    #[test]
    fn nothing_is_free_at_first_and_the_last_frame_counts() {
        let mut words = storage();
        let mut buddy = Buddy::new(&mut words, FRAMES);
        assert_eq!(buddy.alloc(0), None);
        buddy.free_range(0, FRAMES).unwrap();
        assert_eq!(buddy.free_count(), FRAMES);
        assert_eq!(buddy.alloc(MAX_ORDER).map(|block| block.first), Some(0));
        assert_eq!(buddy.alloc(MAX_ORDER), None);
        assert_eq!(buddy.free(FRAMES - 1, 0, false), Err(NotFree));
        assert_eq!(buddy.free(FRAMES, 0, false), Err(NotFree));
        assert_eq!(buddy.next_run(0), Some((1 << MAX_ORDER, FRAMES)));
    }

    #[test]
    fn bad_frees_change_nothing() {
        let mut words = storage();
        let mut buddy = Buddy::new(&mut words, FRAMES);
        buddy.free_range(0, 64).unwrap();
        for (frame, order) in [
            (0, 0),
            (63, 0),
            (32, 6),
            (65, 1),
            (0, 19),
            (0, 64),
            (usize::MAX, 0),
        ] {
            assert_eq!(buddy.free(frame, order, true), Err(NotFree), "{frame} {order}");
        }
        assert_eq!(buddy.free_count(), 64);
        buddy.free_range(80, 81).unwrap();
        assert_eq!(buddy.free(64, 6, true), Err(NotFree), "one in the middle is free");
        assert_eq!(buddy.free_count(), 65);
    }

    #[test]
    fn single_frames_come_back_first_and_are_joined_when_blocks_are_wanted() {
        let mut words = storage();
        let mut buddy = Buddy::new(&mut words, FRAMES);
        for frame in 0..2 * SINGLES {
            buddy.free(frame, 0, true).unwrap();
            assert_eq!(buddy.free(frame, 0, true), Err(NotFree), "{frame}");
        }
        let block = |first| Some(Block { first, zeroes: true });
        assert_eq!(buddy.alloc(0), block(2 * SINGLES - 1));
        buddy.free(2 * SINGLES - 1, 0, true).unwrap();
        assert_eq!((buddy.alloc(7), buddy.alloc(0)), (block(0), None));
        buddy.free(5, 0, true).unwrap();
        assert_eq!(buddy.next_run(0), Some((5, 6)));
        assert_eq!(buddy.take_range(5, 6), Ok(()));
        assert_eq!(buddy.free_count(), 0);
    }

    #[test]
    fn a_block_is_zeroes_if_all_of_it_is() {
        let mut words = storage();
        let mut buddy = Buddy::new(&mut words, FRAMES);
        buddy.free(0, 9, true).unwrap();
        buddy.free(512, 9, true).unwrap();
        let block = |first, zeroes| Some(Block { first, zeroes });
        assert_eq!(buddy.alloc(10), block(0, true));
        buddy.free(0, 9, true).unwrap();
        buddy.free(512, 0, true).unwrap();
        buddy.free_range(513, 514).unwrap();
        buddy.free_range(514, 1024).unwrap();
        assert_eq!(buddy.alloc(10), block(0, false));
        buddy.free(0, 1, true).unwrap();
        assert_eq!(buddy.alloc(0), block(0, true));
        buddy.free(0, 0, false).unwrap();
        assert_eq!(buddy.alloc(1), block(0, false));
    }

    #[derive(Clone, Debug)]
    enum Op {
        Alloc(u32),
        Below(u32, usize),
        Free(usize, bool),
        Take(usize, usize),
    }

    /// What the map says of a frame.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    enum Frame {
        Used,
        Anything,
        Zeroes,
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let op = prop_oneof![
            4 => (0u32..=12).prop_map(Op::Alloc),
            1 => (0u32..=MAX_ORDER).prop_map(Op::Alloc),
            2 => (0u32..=10, 0..FRAMES).prop_map(|(o, l)| Op::Below(o, l)),
            6 => any::<(usize, bool)>().prop_map(|(which, zeroes)| Op::Free(which, zeroes)),
            2 => (0..FRAMES, 1usize..3000).prop_map(|(s, n)| Op::Take(s, n)),
        ];
        prop::collection::vec(op, 1..120)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Against a map of the frames: no block is given twice, all blocks are aligned, what is said to be zeroes is, and all comes back in one piece.
        #[test]
        fn behaves_like_a_map_of_frames(ops in ops()) {
            let mut words = storage();
            let mut buddy = Buddy::new(&mut words, FRAMES);
            buddy.free_range(0, FRAMES).unwrap();
            let mut map = vec![Frame::Anything; FRAMES];
            let mut held: Vec<(usize, usize)> = Vec::new();
            for op in ops {
                let (got, zeroes) = match op {
                    Op::Alloc(order) => {
                        let block = buddy.alloc(order);
                        (block.map(|b| (b.first, b.first + (1 << order))), block.map(|b| b.zeroes))
                    }
                    Op::Below(order, limit) => {
                        let block = buddy.alloc_below(order, limit);
                        let got = block.map(|b| (b.first, b.first + (1 << order)));
                        prop_assert!(got.is_none_or(|(_, end)| end <= limit));
                        let lowest = (0..limit >> order).map(|b| b << order).find(|&f| !map[f..f + (1 << order)].contains(&Frame::Used));
                        prop_assert_eq!(got.map(|(f, _)| f), lowest);
                        (got, block.map(|b| b.zeroes))
                    }
                    Op::Free(which, zeroes) => {
                        if !held.is_empty() {
                            let (start, end) = held.swap_remove(which % held.len());
                            for (first, order) in blocks(start, end) {
                                buddy.free(first, order, zeroes).unwrap();
                            }
                            map[start..end].fill(if zeroes { Frame::Zeroes } else { Frame::Anything });
                        }
                        (None, None)
                    }
                    Op::Take(start, n) => {
                        let end = start + n;
                        let possible = end <= FRAMES && !map[start..end].contains(&Frame::Used);
                        prop_assert_eq!(buddy.take_range(start, end).is_ok(), possible);
                        (possible.then_some((start, end)), None)
                    }
                };
                if let Some((start, end)) = got {
                    prop_assert!(!map[start..end].contains(&Frame::Used));
                    if let Some(zeroes) = zeroes {
                        prop_assert_eq!(zeroes, map[start..end].iter().all(|&frame| frame == Frame::Zeroes));
                    }
                    map[start..end].fill(Frame::Used);
                    held.push((start, end));
                }
                prop_assert_eq!(buddy.free_count(), map.iter().filter(|&&frame| frame != Frame::Used).count());
            }
            let mut at = 0;
            while let Some((start, end)) = buddy.next_run(at) {
                prop_assert!(map[at..start].iter().all(|&frame| frame == Frame::Used) && !map[start..end].contains(&Frame::Used));
                at = end;
            }
            prop_assert!(map[at..].iter().all(|&frame| frame == Frame::Used));
            for (start, end) in held {
                buddy.free_range(start, end).unwrap();
            }
            prop_assert_eq!(buddy.free_count(), FRAMES);
            prop_assert_eq!(buddy.alloc(MAX_ORDER).map(|b| b.first), Some(0));
        }
    }
}
