//! The fixed pool of blocks: reference counts and the order in which free blocks are handed out.

use std::collections::BTreeSet;

/// A block's owners, or since when it has had none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Free, with contents that nobody can find.
    Blank,
    /// Free, with contents in the prefix cache; the number orders evictions.
    Evictable(u64),
    /// Owned by this many sequences.
    Owned(u32),
}

/// Reference-counted blocks. A free block is blank or evictable; blank ones are taken first.
#[derive(Debug)]
pub(super) struct BlockPool {
    states: Vec<State>,
    /// Used as a stack: the block released last is taken first, it may still be in the CPU's cache.
    blank: Vec<u32>,
    /// By time of release, then id.
    evictable: BTreeSet<(u64, u32)>,
    clock: u64,
}

impl BlockPool {
    pub(super) fn new(num_blocks: usize) -> Self {
        let ids = u32::try_from(num_blocks).expect("block ids are 32 bits wide");
        Self {
            states: vec![State::Blank; num_blocks],
            blank: (0..ids).rev().collect(),
            evictable: BTreeSet::new(),
            clock: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.states.len()
    }

    pub(super) fn num_free(&self) -> usize {
        self.blank.len() + self.evictable.len()
    }

    pub(super) fn ref_count(&self, block: u32) -> u32 {
        match self.states[block as usize] {
            State::Owned(count) => count,
            State::Blank | State::Evictable(_) => 0,
        }
    }

    /// A free block with one owner, and whether its contents were cached. `None` when all are owned.
    pub(super) fn take(&mut self) -> Option<(u32, bool)> {
        let (block, was_cached) = match self.blank.pop() {
            Some(block) => (block, false),
            None => (self.evictable.pop_first()?.1, true),
        };
        self.states[block as usize] = State::Owned(1);
        Some((block, was_cached))
    }

    /// One more owner of a block that is owned or evictable.
    pub(super) fn acquire(&mut self, block: u32) {
        let state = &mut self.states[block as usize];
        match *state {
            State::Owned(count) => *state = State::Owned(count + 1),
            State::Evictable(since) => {
                let removed = self.evictable.remove(&(since, block));
                assert!(removed, "block {block} is evictable but not listed");
                *state = State::Owned(1);
            }
            State::Blank => panic!("block {block} has no contents to share"),
        }
    }

    /// One owner less. The last one leaves the block evictable if it is `cached`, else blank.
    pub(super) fn release(&mut self, block: u32, cached: bool) {
        let state = &mut self.states[block as usize];
        match *state {
            State::Owned(1) if cached => {
                self.clock += 1;
                *state = State::Evictable(self.clock);
                self.evictable.insert((self.clock, block));
            }
            State::Owned(1) => {
                *state = State::Blank;
                self.blank.push(block);
            }
            State::Owned(count) => *state = State::Owned(count - 1),
            State::Blank | State::Evictable(_) => panic!("block {block} is released twice"),
        }
    }

    #[cfg(test)]
    pub(super) fn is_evictable(&self, block: u32) -> bool {
        matches!(self.states[block as usize], State::Evictable(_))
    }

    #[cfg(test)]
    pub(super) fn check_invariants(&self, owners: &[u32]) {
        let mut num_free = 0;
        for (block, &owners) in owners.iter().enumerate() {
            let block = block as u32;
            assert_eq!(self.ref_count(block), owners, "owners of block {block}");
            num_free += usize::from(owners == 0);
            if let State::Evictable(since) = self.states[block as usize] {
                assert!(self.evictable.contains(&(since, block)));
            }
        }
        assert_eq!(self.num_free(), num_free, "every block is free or owned");
        let mut blank = self.blank.clone();
        blank.sort_unstable();
        blank.dedup();
        assert_eq!(blank.len(), self.blank.len(), "a block is listed once");
    }
}
