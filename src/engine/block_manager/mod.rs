//! The KV pool's bookkeeping: which physical block holds which positions of which sequence.
//!
//! A fixed number of blocks is shared by reference count. A full block is filed in the prefix
//! cache when it has been computed and stays there after its last owner left, until the pool needs
//! it (least recently released first). A block is only written by a sequence that owns it alone:
//! [`BlockManager::extend`] plans a copy first (copy-on-write). Nothing here touches a tensor; the
//! scheme is vLLM's (Kwon et al., "Efficient memory management for large language model serving
//! with PagedAttention", SOSP 2023).

mod pool;
mod prefix_cache;

use pool::BlockPool;
use prefix_cache::{PrefixCache, PrefixId};

/// The blocks of one sequence, in the order of its positions.
#[derive(Debug, Default)]
pub(super) struct BlockTable {
    blocks: Vec<u32>,
    /// What the leading full blocks hold, as far as they are computed: one name per block.
    prefix: Vec<PrefixId>,
}

impl BlockTable {
    /// Physical block ids.
    pub(super) fn blocks(&self) -> &[u32] {
        &self.blocks
    }

    /// Whether it holds no block.
    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }
}

/// A copy of a block's keys and values, to be made before the step that writes the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockCopy {
    pub(super) source: u32,
    pub(super) target: u32,
}

/// The cached blocks that hold the beginning of a prompt.
#[derive(Debug, Default)]
pub(super) struct PrefixHit {
    blocks: Vec<u32>,
    prefix: Vec<PrefixId>,
    /// Blocks among them that nobody owns: taking them makes the pool smaller.
    num_unowned: usize,
}

impl PrefixHit {
    /// Blocks found.
    pub(super) fn num_blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Free blocks that taking the hit uses up.
    pub(super) fn num_unowned(&self) -> usize {
        self.num_unowned
    }
}

/// The pool, its reference counts and the prefix cache.
#[derive(Debug)]
pub(super) struct BlockManager {
    block_size: usize,
    pool: BlockPool,
    /// Absent when prefix caching is off.
    cache: Option<PrefixCache>,
}

impl BlockManager {
    /// A pool of `num_blocks` free blocks of `block_size` positions.
    pub(super) fn new(num_blocks: usize, block_size: usize, prefix_caching: bool) -> Self {
        assert!(block_size > 0, "a block holds at least one position");
        Self {
            block_size,
            pool: BlockPool::new(num_blocks),
            cache: prefix_caching.then(PrefixCache::default),
        }
    }

    /// Whether computed blocks can be found again.
    pub(super) fn caches_prefixes(&self) -> bool {
        self.cache.is_some()
    }

    /// Positions per block.
    pub(super) fn block_size(&self) -> usize {
        self.block_size
    }

    /// Blocks of the pool.
    pub(super) fn num_blocks(&self) -> usize {
        self.pool.len()
    }

    /// Blocks that nobody owns, those whose contents are cached included.
    pub(super) fn num_free(&self) -> usize {
        self.pool.num_free()
    }

    /// The cached blocks that hold the first tokens of `token_ids`, never its last token: a
    /// sequence computes at least one row to get logits. Changes nothing.
    pub(super) fn find_prefix(&self, token_ids: &[u32]) -> PrefixHit {
        let mut hit = PrefixHit::default();
        let Some(cache) = &self.cache else { return hit };
        let mut parent = PrefixId::ROOT;
        let usable = token_ids.len().saturating_sub(1);
        for tokens in token_ids[..usable].chunks_exact(self.block_size) {
            let Some((block, id)) = cache.find(parent, tokens) else {
                break;
            };
            hit.num_unowned += usize::from(self.pool.ref_count(block) == 0);
            hit.blocks.push(block);
            hit.prefix.push(id);
            parent = id;
        }
        hit
    }

    /// Gives the blocks of `hit` to a sequence that owns none yet; returns the tokens they hold.
    pub(super) fn take_prefix(&mut self, table: &mut BlockTable, hit: PrefixHit) -> usize {
        assert!(table.is_empty(), "a prefix is taken before anything else");
        for &block in &hit.blocks {
            self.pool.acquire(block);
        }
        table.blocks = hit.blocks;
        table.prefix = hit.prefix;
        table.blocks.len() * self.block_size
    }

    /// Free blocks that [`Self::extend`] would take for positions `start..end`.
    pub(super) fn blocks_to_extend(&self, table: &BlockTable, start: usize, end: usize) -> usize {
        let new = end
            .div_ceil(self.block_size)
            .saturating_sub(table.blocks.len());
        let shared = self.written_blocks(table, start, end);
        let copied = table.blocks[shared]
            .iter()
            .filter(|&&block| self.pool.ref_count(block) > 1)
            .count();
        new + copied
    }

    /// Makes `table` own, alone, every block that positions `start..end` are written to. Copies to
    /// make first are appended to `copies`; they are to be carried out in order.
    ///
    /// # Panics
    /// When the pool has fewer free blocks than [`Self::blocks_to_extend`] says.
    pub(super) fn extend(
        &mut self,
        table: &mut BlockTable,
        start: usize,
        end: usize,
        copies: &mut Vec<BlockCopy>,
    ) {
        for index in self.written_blocks(table, start, end) {
            let source = table.blocks[index];
            if self.pool.ref_count(source) > 1 {
                let target = self.take_free();
                self.pool.release(source, false);
                table.blocks[index] = target;
                copies.push(BlockCopy { source, target });
            }
        }
        while table.blocks.len() * self.block_size < end {
            let block = self.take_free();
            table.blocks.push(block);
        }
    }

    /// Files the blocks of `table` that `num_computed_tokens` now fill in the prefix cache.
    pub(super) fn file_computed(
        &mut self,
        table: &mut BlockTable,
        token_ids: &[u32],
        num_computed_tokens: usize,
    ) {
        let Some(cache) = &mut self.cache else { return };
        let num_full = num_computed_tokens / self.block_size;
        while table.prefix.len() < num_full {
            let index = table.prefix.len();
            let tokens = &token_ids[index * self.block_size..(index + 1) * self.block_size];
            let parent = table.prefix.last().copied().unwrap_or(PrefixId::ROOT);
            let id = cache.file(parent, tokens, table.blocks[index]);
            table.prefix.push(id);
        }
    }

    /// A second owner of the blocks that hold the first `num_computed_tokens` of `table`.
    pub(super) fn fork(&mut self, table: &BlockTable, num_computed_tokens: usize) -> BlockTable {
        let num_blocks = num_computed_tokens.div_ceil(self.block_size);
        let num_full = num_computed_tokens / self.block_size;
        let blocks = table.blocks[..num_blocks].to_vec();
        for &block in &blocks {
            self.pool.acquire(block);
        }
        let prefix = table.prefix[..num_full.min(table.prefix.len())].to_vec();
        BlockTable { blocks, prefix }
    }

    /// Takes all blocks back. The last ones become free first, so that a cached prefix is evicted
    /// from its end.
    pub(super) fn release(&mut self, table: &mut BlockTable) {
        for &block in table.blocks.iter().rev() {
            let cached = self.cache.as_ref().is_some_and(|cache| cache.holds(block));
            self.pool.release(block, cached);
        }
        table.blocks.clear();
        table.prefix.clear();
    }

    /// Indices of the owned blocks that positions `start..end` fall into.
    fn written_blocks(
        &self,
        table: &BlockTable,
        start: usize,
        end: usize,
    ) -> std::ops::Range<usize> {
        let last = end.div_ceil(self.block_size).min(table.blocks.len());
        (start / self.block_size).min(last)..last
    }

    fn take_free(&mut self) -> u32 {
        let (block, was_cached) = self
            .pool
            .take()
            .expect("the caller asked blocks_to_extend first");
        if was_cached && let Some(cache) = &mut self.cache {
            cache.evict(block);
        }
        block
    }

    /// Asserts what must hold between any two calls, given the tables of all sequences.
    #[cfg(test)]
    pub(super) fn check_invariants<'a>(&self, tables: impl Iterator<Item = &'a BlockTable>) {
        let mut owners = vec![0; self.num_blocks()];
        for table in tables {
            assert!(table.prefix.len() <= table.blocks.len());
            for &block in &table.blocks {
                owners[block as usize] += 1;
            }
        }
        self.pool.check_invariants(&owners);
        if let Some(cache) = &self.cache {
            cache.check_invariants();
            for block in 0..self.num_blocks() as u32 {
                let evictable = self.pool.is_evictable(block);
                assert!(
                    !evictable || cache.holds(block),
                    "block {block} caches nothing"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: usize = 4;

    fn tokens(range: std::ops::Range<u32>) -> Vec<u32> {
        range.collect()
    }

    /// A table that has computed all of `token_ids`.
    fn computed(manager: &mut BlockManager, token_ids: &[u32]) -> BlockTable {
        let mut table = BlockTable::default();
        let hit = manager.find_prefix(token_ids);
        let start = manager.take_prefix(&mut table, hit);
        manager.extend(&mut table, start, token_ids.len(), &mut Vec::new());
        manager.file_computed(&mut table, token_ids, token_ids.len());
        table
    }

    #[test]
    fn a_finished_sequences_blocks_are_found_again() {
        let mut manager = BlockManager::new(8, BLOCK, true);
        let mut first = computed(&mut manager, &tokens(0..10));
        let blocks = first.blocks().to_vec();
        manager.release(&mut first);
        assert_eq!(manager.num_free(), 8);
        let hit = manager.find_prefix(&tokens(0..10));
        assert_eq!(hit.blocks, blocks[..2]);
        assert_eq!(hit.num_unowned(), 2);
        manager.check_invariants([].into_iter());
    }

    #[test]
    fn the_last_token_is_always_computed() {
        let mut manager = BlockManager::new(8, BLOCK, true);
        let table = computed(&mut manager, &tokens(0..8));
        assert_eq!(manager.find_prefix(&tokens(0..8)).num_blocks(), 1);
        assert_eq!(manager.find_prefix(&tokens(0..9)).num_blocks(), 2);
        manager.check_invariants([&table].into_iter());
    }

    #[test]
    fn the_same_block_after_another_beginning_is_no_hit() {
        let mut manager = BlockManager::new(8, BLOCK, true);
        let table = computed(&mut manager, &[1, 1, 1, 1, 2, 2, 2, 2, 9]);
        let hit = manager.find_prefix(&[3, 3, 3, 3, 2, 2, 2, 2, 9]);
        assert_eq!(hit.num_blocks(), 0);
        let hit = manager.find_prefix(&[2, 2, 2, 2, 9]);
        assert_eq!(hit.num_blocks(), 0);
        manager.check_invariants([&table].into_iter());
    }

    #[test]
    fn caching_off_finds_nothing_and_still_shares_samples() {
        let mut manager = BlockManager::new(8, BLOCK, false);
        let mut table = computed(&mut manager, &tokens(0..6));
        assert_eq!(manager.find_prefix(&tokens(0..6)).num_blocks(), 0);
        let mut sibling = manager.fork(&table, 6);
        assert_eq!(manager.num_free(), 6);
        manager.release(&mut table);
        manager.release(&mut sibling);
        assert_eq!(manager.num_free(), 8);
    }

    #[test]
    fn the_first_writer_of_a_shared_block_gets_a_copy_and_the_last_owner_none() {
        let mut manager = BlockManager::new(8, BLOCK, true);
        let mut table = computed(&mut manager, &tokens(0..6));
        let mut sibling = manager.fork(&table, 6);
        assert_eq!(manager.blocks_to_extend(&table, 6, 7), 1);
        let mut copies = Vec::new();
        manager.extend(&mut table, 6, 7, &mut copies);
        let (source, target) = (sibling.blocks()[1], table.blocks()[1]);
        assert_eq!(copies, [BlockCopy { source, target }]);
        assert_eq!(manager.blocks_to_extend(&sibling, 6, 7), 0);
        manager.extend(&mut sibling, 6, 7, &mut copies);
        assert_eq!(copies.len(), 1);
        manager.check_invariants([&table, &sibling].into_iter());
    }

    #[test]
    fn the_longest_unused_prefix_is_evicted_first_and_from_its_end() {
        let mut manager = BlockManager::new(4, BLOCK, true);
        let mut old = computed(&mut manager, &tokens(0..8));
        manager.release(&mut old);
        let mut new = computed(&mut manager, &tokens(100..108));
        manager.release(&mut new);
        let third = computed(&mut manager, &tokens(200..204));
        let found = |start, end| manager.find_prefix(&tokens(start..end)).num_blocks();
        assert_eq!(found(0, 9), 1);
        assert_eq!(found(100, 109), 2);
        manager.check_invariants([&third].into_iter());
    }
}
