//! A step laid out for a graph: sequences of similar extent side by side, so that attention is a
//! few operations over full tensors and a graph that was built once serves many steps.
//!
//! Sequences with about as many rows and about as many positions form a group: `sequences x rows`
//! rows that look at `positions` keys each. All three are rounded up ([`bucket`]); what that adds
//! is padding. Padding reads and writes one extra block at the end of the pool, the *sink*, whose
//! contents no sequence sees. Pure arithmetic; no type of ggml.

use std::collections::BTreeMap;

use crate::engine::{StepInput, StepSequence};

/// Keys come in multiples of this many: the stride of the attention kernels of GPUs.
const POSITIONS_STEP: usize = 256;

/// `f16`: zero, and minus infinity.
const SEEN: u16 = 0;
const HIDDEN: u16 = 0xfc00;

/// The smallest number from `count` on of a series with four steps per doubling.
pub(super) fn bucket(count: usize) -> usize {
    let step = (count.max(1).next_power_of_two() / 8).max(1);
    count.next_multiple_of(step)
}

/// Positions rounded up.
pub(super) fn bucket_positions(count: usize) -> usize {
    bucket(count.div_ceil(POSITIONS_STEP)) * POSITIONS_STEP
}

/// The extent of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GroupShape {
    /// Rows of each sequence.
    pub(super) rows: usize,
    /// Keys that each row is compared with.
    pub(super) positions: usize,
    /// Sequences.
    pub(super) sequences: usize,
    /// Whether keys are read where they lie in the pool, rather than gathered first.
    pub(super) in_place: bool,
}

/// Where the keys of a group that lie in one piece each begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spread {
    /// The first sequence's first slot.
    pub(super) first: usize,
    /// Slots from one sequence's beginning to the next one's.
    pub(super) spacing: usize,
}

impl GroupShape {
    /// Rows altogether.
    pub(super) fn num_rows(&self) -> usize {
        self.rows * self.sequences
    }

    /// Blocks that a sequence's keys are gathered from.
    pub(super) fn blocks(&self, block_size: usize) -> usize {
        self.positions.div_ceil(block_size)
    }
}

/// Everything that a graph depends on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shape {
    pub(super) groups: Vec<GroupShape>,
    /// Rows of logits.
    pub(super) outputs: usize,
}

impl Shape {
    pub(super) fn num_rows(&self) -> usize {
        self.groups.iter().map(GroupShape::num_rows).sum()
    }
}

/// The extent of the pool and of the vocabulary.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) vocab_size: usize,
    pub(super) block_size: usize,
    /// Blocks that sequences may have; the sink comes after them.
    pub(super) num_blocks: usize,
}

/// One step, in the rows of a graph.
pub(super) struct Batch {
    pub(super) shape: Shape,
    bounds: Bounds,
    /// Per group its first row.
    first_rows: Vec<usize>,
    /// Per group the blocks that its keys are gathered from, sequence after sequence.
    pub(super) blocks: Vec<Vec<i32>>,
    /// Per group and attention window of the model, in their order, which keys each row sees.
    /// *Shapes* `[sequences, rows, positions]` in `f16`.
    pub(super) masks: Vec<Vec<Vec<u16>>>,
    /// Per group, where it lies if all keys are to be read in place.
    pub(super) spreads: Vec<Option<Spread>>,
    /// The source row of each row, `None` for padding.
    pub(super) sources: Vec<Option<usize>>,
    /// The position of each row.
    pub(super) positions: Vec<i32>,
    /// Where each row's keys and values go.
    pub(super) slots: Vec<i64>,
    /// The rows that need logits, in the order that the step asks for them.
    pub(super) outputs: Vec<i32>,
}

impl Batch {
    /// Lays out a step of a model with these attention windows.
    ///
    /// # Errors
    /// The step names a token or a block that does not exist, or has rows without a place.
    pub(super) fn new(
        input: &StepInput,
        bounds: Bounds,
        windows: &[Option<usize>],
    ) -> Result<Self, String> {
        check(input, bounds)?;
        let mut groups: BTreeMap<(usize, usize), Vec<&StepSequence>> = BTreeMap::new();
        for sequence in input.sequences.iter().filter(|s| s.num_rows > 0) {
            let positions = sequence.num_computed_tokens + sequence.num_rows;
            let key = (bucket(sequence.num_rows), bucket_positions(positions));
            groups.entry(key).or_default().push(sequence);
        }
        let mut batch = Self {
            shape: Shape {
                groups: Vec::new(),
                outputs: 0,
            },
            bounds,
            first_rows: Vec::new(),
            blocks: Vec::new(),
            masks: Vec::new(),
            spreads: Vec::new(),
            sources: Vec::new(),
            positions: Vec::new(),
            slots: Vec::new(),
            outputs: Vec::new(),
        };
        // The graph's row of every source row.
        let mut placed = vec![0; input.token_ids.len()];
        for ((rows, positions), members) in groups {
            batch.place(rows, positions, &members, &mut placed);
        }
        for sequence in &input.sequences {
            let end = sequence.first_row + sequence.num_rows;
            batch
                .outputs
                .extend(&placed[end - sequence.num_logits..end]);
        }
        if !batch.outputs.is_empty() {
            batch.outputs.resize(bucket(batch.outputs.len()), 0);
        }
        batch.shape.outputs = batch.outputs.len();
        let masks = |group| {
            windows
                .iter()
                .map(|window| batch.mask(group, *window))
                .collect()
        };
        batch.masks = (0..batch.shape.groups.len()).map(masks).collect();
        Ok(batch)
    }

    /// Appends one group's rows.
    fn place(
        &mut self,
        rows: usize,
        positions: usize,
        members: &[&StepSequence],
        placed: &mut [i32],
    ) {
        let Bounds {
            block_size,
            num_blocks,
            ..
        } = self.bounds;
        let sequences = bucket(members.len());
        let first_row = self.sources.len();
        for index in 0..sequences * rows {
            let row = index % rows;
            let member = members.get(index / rows).filter(|s| row < s.num_rows);
            let graph_row = self.sources.len();
            let Some(sequence) = member else {
                self.sources.push(None);
                self.positions.push(0);
                let slot = num_blocks * block_size + graph_row % block_size;
                self.slots.push(slot as i64);
                continue;
            };
            let position = sequence.num_computed_tokens + row;
            let block = sequence.block_table[position / block_size] as usize;
            let slot = block * block_size + position % block_size;
            placed[sequence.first_row + row] = graph_row as i32;
            self.sources.push(Some(sequence.first_row + row));
            self.positions.push(position as i32);
            self.slots.push(slot as i64);
        }
        let spread = self.spread(members, positions, sequences);
        let shape = GroupShape {
            rows,
            positions,
            sequences,
            in_place: spread.is_some(),
        };
        self.shape.groups.push(shape);
        self.spreads.push(spread);
        self.blocks.push(self.blocks_of(shape, members));
        self.first_rows.push(first_row);
    }

    /// Where a group lies, if every sequence's blocks follow one another, the beginnings are
    /// evenly spaced, and all that is read is the pool's. What lies behind a sequence's own blocks
    /// is masked, like the rest of a last block.
    fn spread(
        &self,
        members: &[&StepSequence],
        positions: usize,
        sequences: usize,
    ) -> Option<Spread> {
        let Bounds {
            block_size,
            num_blocks,
            ..
        } = self.bounds;
        let in_one_piece = |sequence: &&StepSequence| {
            let used = sequence.num_computed_tokens + sequence.num_rows;
            let table = &sequence.block_table[..used.div_ceil(block_size)];
            table.windows(2).all(|pair| pair[0] + 1 == pair[1])
        };
        let begins: Vec<usize> = members.iter().map(|s| s.block_table[0] as usize).collect();
        let first = begins[0];
        let spacing = match begins.get(1) {
            Some(second) => second.checked_sub(first)?,
            None => 0,
        };
        let is_even = begins.windows(2).all(|pair| pair[0] + spacing == pair[1]);
        let last = first + spacing * (sequences - 1);
        let fits = last * block_size + positions <= (num_blocks + 1) * block_size;
        (fits && is_even && members.iter().all(in_one_piece)).then_some(Spread {
            first: first * block_size,
            spacing: spacing * block_size,
        })
    }

    /// The blocks that a group's keys are gathered from, sequence after sequence.
    fn blocks_of(&self, shape: GroupShape, members: &[&StepSequence]) -> Vec<i32> {
        let count = shape.blocks(self.bounds.block_size);
        let sink = self.bounds.num_blocks as i32;
        let mut blocks = Vec::with_capacity(count * shape.sequences);
        for index in 0..shape.sequences {
            let table = members.get(index).map_or(&[][..], |s| &s.block_table);
            let table = &table[..table.len().min(count)];
            blocks.extend(table.iter().map(|block| *block as i32));
            blocks.resize((index + 1) * count, sink);
        }
        blocks
    }

    /// Which keys each row of a group sees: the last `window` up to itself, all without one. A row of
    /// padding sees one key, so that its softmax is a number.
    fn mask(&self, group: usize, window: Option<usize>) -> Vec<u16> {
        let (shape, first_row) = (self.shape.groups[group], self.first_rows[group]);
        let mut mask = vec![HIDDEN; shape.num_rows() * shape.positions];
        for (row, mask) in mask.chunks_exact_mut(shape.positions).enumerate() {
            let end = self.positions[first_row + row] as usize + 1;
            let begin = window.map_or(0, |window| end.saturating_sub(window));
            mask[begin..end].fill(SEEN);
        }
        mask
    }
}

/// A step that will probably follow another one, laid out while that one runs: it has the same
/// sequences, each a token longer. What the tokens are, no layout depends on.
pub(super) struct Ahead {
    sequences: Vec<StepSequence>,
    batch: Batch,
}

impl Ahead {
    /// What follows a step in which every sequence decodes one token; `None` after any other, and
    /// where a sequence will need another block, which the engine has not given it yet.
    pub(super) fn of(input: &StepInput, bounds: Bounds, windows: &[Option<usize>]) -> Option<Self> {
        let mut next = input.clone();
        for sequence in &mut next.sequences {
            let room = sequence.block_table.len() * bounds.block_size;
            sequence.num_computed_tokens += 1;
            if (sequence.num_rows, sequence.num_logits) != (1, 1)
                || sequence.num_computed_tokens == room
            {
                return None;
            }
        }
        let batch = Batch::new(&next, bounds, windows).ok()?;
        Some(Self {
            sequences: next.sequences,
            batch,
        })
    }

    /// The layout, if this step is the one that was expected.
    pub(super) fn layout_of(self, input: &StepInput) -> Option<Batch> {
        (self.sequences == input.sequences).then_some(self.batch)
    }
}

/// Whether every row, token and block of a step exists.
pub(super) fn check(input: &StepInput, bounds: Bounds) -> Result<(), String> {
    input.check_rows(bounds.vocab_size)?;
    for sequence in &input.sequences {
        let (table, block_size) = (&sequence.block_table, bounds.block_size);
        let positions = sequence.num_computed_tokens + sequence.num_rows;
        if table.len() * block_size < positions {
            return Err(format!(
                "a block table of {} blocks of {block_size} positions ends before position {}",
                table.len(),
                positions - 1
            ));
        }
        if let Some(block) = table.iter().find(|b| **b as usize >= bounds.num_blocks) {
            return Err(format!(
                "block {block} is not in the pool of {} blocks",
                bounds.num_blocks
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: Bounds = Bounds {
        vocab_size: 100,
        block_size: 16,
        num_blocks: 50,
    };

    fn input(sequences: &[(usize, usize, usize)]) -> StepInput {
        let mut input = StepInput::default();
        for (index, (computed, rows, logits)) in sequences.iter().enumerate() {
            let blocks = (computed + rows).div_ceil(BOUNDS.block_size);
            input.sequences.push(StepSequence {
                first_row: input.token_ids.len(),
                num_rows: *rows,
                num_computed_tokens: *computed,
                block_table: (0..blocks).map(|b| ((index * 7 + b) % 50) as u32).collect(),
                num_logits: *logits,
            });
            input.token_ids.resize(input.token_ids.len() + rows, 1);
        }
        input
    }

    #[test]
    fn buckets_have_four_steps_per_doubling() {
        let found: Vec<usize> = (1..=8)
            .chain([9, 11, 17, 33, 65, 400])
            .map(bucket)
            .collect();
        assert_eq!(found, [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 20, 40, 80, 448]);
        assert_eq!(bucket_positions(1), 256);
        assert_eq!(bucket_positions(257), 512);
        assert_eq!(bucket_positions(9 * 256), 2560);
    }

    #[test]
    fn sequences_of_similar_extent_form_a_group() {
        let input = input(&[(10, 1, 1), (300, 1, 1), (0, 40, 1), (20, 1, 1)]);
        let batch = Batch::new(&input, BOUNDS, &[]).unwrap();
        let group = |rows, positions, sequences| GroupShape {
            rows,
            positions,
            sequences,
            in_place: true,
        };
        let expected = [group(1, 256, 2), group(1, 512, 1), group(40, 256, 1)];
        assert_eq!(batch.shape.groups, expected);
        assert_eq!(batch.sources[..4], [Some(0), Some(42), Some(1), Some(2)]);
        assert_eq!(batch.positions[..4], [10, 20, 300, 0]);
        // In the order of the step: decoding 0, decoding 300, the prompt's last row, decoding 20.
        assert_eq!(batch.outputs, [0, 2, 42, 1]);
    }

    #[test]
    fn keys_are_read_in_place_where_blocks_follow_one_another() {
        let spread = |tables: &[&[u32]]| {
            let sequences = vec![(16, 1, 1); tables.len()];
            let mut input = input(&sequences);
            for (sequence, table) in input.sequences.iter_mut().zip(tables) {
                sequence.block_table = table.to_vec();
            }
            Batch::new(&input, BOUNDS, &[]).unwrap().spreads[0]
        };
        let found = |first, spacing| Some(Spread { first, spacing });
        assert_eq!(spread(&[&[5, 6]]), found(80, 0));
        assert_eq!(spread(&[&[6, 5]]), None);
        // A table may be longer than what is used of it.
        assert_eq!(spread(&[&[5, 6, 2]]), found(80, 0));
        assert_eq!(spread(&[&[0, 1], &[3, 4], &[6, 7]]), found(0, 48));
        assert_eq!(spread(&[&[0, 1], &[3, 4], &[7, 8]]), None);
        assert_eq!(spread(&[&[3, 4], &[0, 1]]), None);
        // 256 positions are read, and 35 blocks of 16 and the sink after them end at the pool's.
        assert_eq!(spread(&[&[35, 36]]), found(560, 0));
        assert_eq!(spread(&[&[36, 37]]), None);
    }

    #[test]
    fn a_step_that_asks_for_no_logits_has_no_outputs() {
        let input = input(&[(0, 16, 0)]);
        assert_eq!(Batch::new(&input, BOUNDS, &[]).unwrap().shape.outputs, 0);
    }

    #[test]
    fn a_window_hides_what_is_older() {
        let input = input(&[(4, 1, 1)]);
        let batch = Batch::new(&input, BOUNDS, &[]).unwrap();
        let seen = |window| {
            let mask = batch.mask(0, window);
            assert_eq!(mask.len(), 256);
            (0..256).filter(|i| mask[*i] == SEEN).collect::<Vec<_>>()
        };
        assert_eq!(seen(None), [0, 1, 2, 3, 4]);
        assert_eq!(seen(Some(2)), [3, 4]);
        assert_eq!(seen(Some(9)), [0, 1, 2, 3, 4]);
    }

    proptest! {
        #[test]
        fn every_row_has_one_place_and_padding_stays_in_the_sink(
            sequences in proptest::collection::vec((0usize..300, 0usize..40, 0usize..3), 1..9)
        ) {
            let sequences: Vec<_> = sequences
                .into_iter()
                .map(|(computed, rows, logits)| (computed, rows, logits.min(rows)))
                .collect();
            let input = input(&sequences);
            let batch = Batch::new(&input, BOUNDS, &[Some(3)]).unwrap();
            prop_assert_eq!(batch.sources.len(), batch.shape.num_rows());
            prop_assert_eq!(batch.slots.len(), batch.shape.num_rows());
            let mut sources: Vec<usize> = batch.sources.iter().flatten().copied().collect();
            sources.sort_unstable();
            prop_assert!(sources.into_iter().eq(0..input.token_ids.len()));
            for (source, slot) in batch.sources.iter().zip(&batch.slots) {
                let sink = BOUNDS.block_size * BOUNDS.num_blocks;
                prop_assert_eq!(source.is_none(), *slot as usize >= sink);
                prop_assert!((*slot as usize) < sink + BOUNDS.block_size);
            }
            for group in 0..batch.shape.groups.len() {
                let shape = batch.shape.groups[group];
                let blocks = &batch.blocks[group];
                prop_assert_eq!(blocks.len(), shape.sequences * shape.blocks(BOUNDS.block_size));
                prop_assert!(blocks.iter().all(|b| (0..=50).contains(b)));
                let end = (BOUNDS.num_blocks + 1) * BOUNDS.block_size;
                if let Some(spread) = batch.spreads[group] {
                    let last = spread.first + spread.spacing * (shape.sequences - 1);
                    prop_assert!(last + shape.positions <= end);
                    let rows = batch.first_rows[group]..batch.first_rows[group] + shape.num_rows();
                    let firsts = batch.sources[rows].iter().step_by(shape.rows).flatten();
                    let members = firsts.map(|source| {
                        let mut sequences = input.sequences.iter();
                        sequences.find(|s| s.num_rows > 0 && s.first_row == *source).unwrap()
                    });
                    for (index, sequence) in members.enumerate() {
                        for position in 0..sequence.num_computed_tokens + sequence.num_rows {
                            let block = sequence.block_table[position / 16] as usize;
                            prop_assert_eq!(
                                spread.first + index * spread.spacing + position,
                                block * 16 + position % 16
                            );
                        }
                    }
                }
                for row in batch.masks[group][0].chunks(shape.positions) {
                    let seen = row.iter().filter(|value| **value == SEEN).count();
                    prop_assert!((1..=3).contains(&seen));
                }
            }
            let wanted: Vec<usize> = input
                .sequences
                .iter()
                .flat_map(|s| s.first_row + s.num_rows - s.num_logits..s.first_row + s.num_rows)
                .collect();
            for (output, source) in batch.outputs.iter().zip(&wanted) {
                prop_assert_eq!(batch.sources[*output as usize], Some(*source));
            }
            prop_assert!(batch.outputs.len() >= wanted.len());
        }
    }

    #[test]
    fn the_next_decoding_step_is_laid_out_ahead() {
        let windows = [None, Some(4)];
        let step = input(&[(4, 1, 1), (300, 1, 1)]);
        let mut next = step.clone();
        next.token_ids = vec![7, 8];
        for sequence in &mut next.sequences {
            sequence.num_computed_tokens += 1;
        }
        let ahead = || Ahead::of(&step, BOUNDS, &windows).unwrap();
        let found = ahead().layout_of(&next).unwrap();
        let wanted = Batch::new(&next, BOUNDS, &windows).unwrap();
        assert_eq!(found.shape, wanted.shape);
        assert_eq!(found.positions, wanted.positions);
        assert_eq!(
            (found.slots, found.outputs),
            (wanted.slots.clone(), wanted.outputs.clone())
        );
        assert_eq!(found.masks, wanted.masks);
        // One that lost a sequence is another step.
        next.sequences.pop();
        assert!(ahead().layout_of(&next).is_none());
        // A prompt, and a sequence whose last block is full.
        for step in [[(0, 40, 1), (20, 1, 1)], [(4, 1, 1), (15, 1, 1)]] {
            assert!(Ahead::of(&input(&step), BOUNDS, &windows).is_none());
        }
    }

    #[test]
    fn a_step_that_cannot_be_run_is_refused() {
        let refuse = |change: fn(&mut StepInput)| {
            let mut input = input(&[(4, 1, 1)]);
            change(&mut input);
            Batch::new(&input, BOUNDS, &[]).err().unwrap()
        };
        let message = refuse(|input| input.token_ids[0] = 100);
        assert_eq!(message, "token 100 is not in the vocabulary of 100");
        let message = refuse(|input| input.sequences[0].block_table = vec![50]);
        assert_eq!(message, "block 50 is not in the pool of 50 blocks");
        let message = refuse(|input| input.sequences[0].num_computed_tokens = 16);
        assert_eq!(
            message,
            "a block table of 1 blocks of 16 positions ends before position 16"
        );
        let message = refuse(|input| input.token_ids.push(1));
        assert_eq!(message, "a step has rows that belong to no sequence");
    }
}
