//! Which computed block holds which tokens after which beginning.
//!
//! The content of a block is named by a [`PrefixId`] that is given out once and never again, so
//! "these tokens after that beginning" is the pair (name of the previous block's content, tokens).
//! The hash of the pair only says where to look: a hit counts after parent and tokens compared
//! equal, so two contents are never mistaken for each other, whatever their hashes.

use std::collections::HashMap;

/// The name of a block's content and of everything before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PrefixId(u64);

impl PrefixId {
    /// The empty beginning.
    pub(super) const ROOT: Self = Self(0);
}

#[derive(Debug)]
struct Entry {
    block: u32,
    id: PrefixId,
    parent: PrefixId,
    token_ids: Box<[u32]>,
}

/// Full blocks by content.
#[derive(Debug)]
pub(super) struct PrefixCache {
    entries: HashMap<u64, Entry>,
    /// The key of each block that is filed.
    keys: HashMap<u32, u64>,
    next_id: u64,
    /// Bits of the hash in use; a test takes fewer to force collisions.
    hash_mask: u64,
}

impl Default for PrefixCache {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            keys: HashMap::new(),
            next_id: PrefixId::ROOT.0 + 1,
            hash_mask: u64::MAX,
        }
    }
}

impl PrefixCache {
    /// The block that holds `token_ids` after `parent`.
    pub(super) fn find(&self, parent: PrefixId, token_ids: &[u32]) -> Option<(u32, PrefixId)> {
        let entry = self.entries.get(&self.hash(parent, token_ids))?;
        (entry.parent == parent && *entry.token_ids == *token_ids)
            .then_some((entry.block, entry.id))
    }

    /// Files `block`, which holds `token_ids` after `parent`, and returns the content's name. When
    /// another block holds the same already, that one stays; when another content sits at the same
    /// hash, it stays too and this block is simply not found later.
    pub(super) fn file(&mut self, parent: PrefixId, token_ids: &[u32], block: u32) -> PrefixId {
        if let Some((_, id)) = self.find(parent, token_ids) {
            return id;
        }
        let id = PrefixId(self.next_id);
        self.next_id += 1;
        let key = self.hash(parent, token_ids);
        if let std::collections::hash_map::Entry::Vacant(vacant) = self.entries.entry(key) {
            vacant.insert(Entry {
                block,
                id,
                parent,
                token_ids: token_ids.into(),
            });
            let previous = self.keys.insert(block, key);
            assert!(previous.is_none(), "block {block} is filed twice");
        }
        id
    }

    /// Whether `block` can be found.
    pub(super) fn holds(&self, block: u32) -> bool {
        self.keys.contains_key(&block)
    }

    /// Forgets `block`, which is about to be written.
    pub(super) fn evict(&mut self, block: u32) {
        let key = self
            .keys
            .remove(&block)
            .expect("only a filed block is evicted");
        self.entries.remove(&key);
    }

    /// Chains through the parent's name; the mixing step is splitmix64's (Steele et al. 2014).
    fn hash(&self, parent: PrefixId, token_ids: &[u32]) -> u64 {
        let mut state = parent.0;
        for &token in token_ids {
            state = state
                .wrapping_add(u64::from(token))
                .wrapping_add(0x9e37_79b9_7f4a_7c15);
            state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            state ^= state >> 31;
        }
        state & self.hash_mask
    }

    #[cfg(test)]
    pub(super) fn check_invariants(&self) {
        assert_eq!(self.keys.len(), self.entries.len());
        #[expect(
            clippy::iter_over_hash_type,
            reason = "each entry is checked by itself"
        )]
        for (block, key) in &self.keys {
            assert_eq!(self.entries[key].block, *block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_collision_is_never_a_hit() {
        let mut cache = PrefixCache {
            hash_mask: 0,
            ..PrefixCache::default()
        };
        let first = cache.file(PrefixId::ROOT, &[1, 2], 7);
        let second = cache.file(PrefixId::ROOT, &[3, 4], 8);
        assert_ne!(first, second);
        assert_eq!(cache.find(PrefixId::ROOT, &[1, 2]), Some((7, first)));
        assert_eq!(cache.find(PrefixId::ROOT, &[3, 4]), None);
        assert_eq!(cache.find(first, &[1, 2]), None);
        assert!(!cache.holds(8));
        cache.check_invariants();
    }

    #[test]
    fn the_first_of_two_equal_blocks_stays() {
        let mut cache = PrefixCache::default();
        let first = cache.file(PrefixId::ROOT, &[1, 2], 7);
        assert_eq!(cache.file(PrefixId::ROOT, &[1, 2], 8), first);
        assert_eq!(cache.find(PrefixId::ROOT, &[1, 2]), Some((7, first)));
        cache.evict(7);
        assert_eq!(cache.find(PrefixId::ROOT, &[1, 2]), None);
        assert_ne!(cache.file(PrefixId::ROOT, &[1, 2], 8), first);
    }
}
