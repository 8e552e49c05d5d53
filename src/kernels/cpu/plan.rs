//! Which rows of a step belong to which sequence, checked once so that kernels can rely on it.

use std::ops::Range;

use super::kv::KvShape;

/// Rows of a step that belong to one sequence.
#[derive(Clone, Copy, Debug)]
pub struct SequenceRows<'a> {
    /// Number of rows; they follow those of the sequence before.
    pub num_rows: usize,
    /// Position of the first of them.
    pub first_position: usize,
    /// Block of each `block_size` positions.
    pub block_table: &'a [u32],
}

/// A step that cannot be run.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    /// The table ends before the last position.
    #[error(
        "a block table of {blocks} blocks of {block_size} positions ends before position {position}"
    )]
    TableTooShort {
        /// Entries of the table.
        blocks: usize,
        /// Positions per block.
        block_size: usize,
        /// The position that needs a block.
        position: usize,
    },
    /// A block id is not below the pool's size.
    #[error("block {block} is not in the pool of {num_blocks} blocks")]
    NoSuchBlock {
        /// The id.
        block: u32,
        /// Blocks of the pool.
        num_blocks: usize,
    },
    /// Two sequences would write into the same block.
    #[error("block {block} is written by two sequences in one step")]
    SharedWrite {
        /// The id.
        block: u32,
    },
}

/// One sequence of a checked step.
#[derive(Clone, Debug)]
pub(super) struct PlannedSequence {
    pub(super) first_row: usize,
    pub(super) num_rows: usize,
    pub(super) first_position: usize,
    /// Its part of the plan's block tables.
    table: Range<usize>,
}

/// Rows of one sequence at neighbouring positions, the unit of storing keys and values. Spans
/// begin at multiples of [`SPAN`] positions, so no two of them share a word of the cache.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) sequence: usize,
    /// Index among the sequence's rows.
    pub(super) first: usize,
    pub(super) count: usize,
}

/// Positions of a whole span; a multiple of the values in any word.
const SPAN: usize = 8;

/// The sequences of a step, valid for one extent of the cache.
#[derive(Debug)]
pub struct Plan {
    shape: KvShape,
    pub(super) sequences: Vec<PlannedSequence>,
    pub(super) spans: Vec<Span>,
    tables: Vec<u32>,
    num_rows: usize,
    /// For each block the number of the last step that writes to it.
    written: Vec<u64>,
    step: u64,
}

impl Plan {
    /// A plan without sequences.
    pub fn new(shape: KvShape) -> Self {
        Self {
            shape,
            sequences: Vec::new(),
            spans: Vec::new(),
            tables: Vec::new(),
            num_rows: 0,
            written: vec![0; shape.num_blocks],
            step: 0,
        }
    }

    /// Rows of all sequences.
    pub fn num_rows(&self) -> usize {
        self.num_rows
    }

    /// The extent that block ids were checked against.
    pub(super) fn shape(&self) -> KvShape {
        self.shape
    }

    /// Replaces the sequences.
    ///
    /// # Errors
    /// A table is too short or names a block that does not exist, or two sequences write into one
    /// block. The plan is empty then.
    pub fn set<'a>(
        &mut self,
        sequences: impl IntoIterator<Item = SequenceRows<'a>>,
    ) -> Result<(), PlanError> {
        self.clear();
        self.step += 1;
        for sequence in sequences {
            if let Err(error) = self.push(sequence) {
                self.clear();
                return Err(error);
            }
        }
        Ok(())
    }

    fn clear(&mut self) {
        self.sequences.clear();
        self.spans.clear();
        self.tables.clear();
        self.num_rows = 0;
    }

    fn push(&mut self, rows: SequenceRows<'_>) -> Result<(), PlanError> {
        let end = rows.first_position + rows.num_rows;
        let (block_size, num_blocks) = (self.shape.block_size, self.shape.num_blocks);
        let blocks = end.div_ceil(block_size);
        let table = rows
            .block_table
            .get(..blocks)
            .ok_or(PlanError::TableTooShort {
                blocks: rows.block_table.len(),
                block_size,
                position: end - 1,
            })?;
        if let Some(block) = table.iter().find(|block| **block as usize >= num_blocks) {
            return Err(PlanError::NoSuchBlock {
                block: *block,
                num_blocks,
            });
        }
        if rows.num_rows > 0 {
            for block in &table[rows.first_position / block_size..] {
                if self.written[*block as usize] == self.step {
                    return Err(PlanError::SharedWrite { block: *block });
                }
                self.written[*block as usize] = self.step;
            }
        }
        let index = self.sequences.len();
        let mut first = 0;
        while first < rows.num_rows {
            let position = rows.first_position + first;
            let count = (SPAN - position % SPAN).min(rows.num_rows - first);
            self.spans.push(Span {
                sequence: index,
                first,
                count,
            });
            first += count;
        }
        let start = self.tables.len();
        self.tables.extend_from_slice(table);
        self.sequences.push(PlannedSequence {
            first_row: self.num_rows,
            num_rows: rows.num_rows,
            first_position: rows.first_position,
            table: start..self.tables.len(),
        });
        self.num_rows += rows.num_rows;
        Ok(())
    }

    /// The blocks of a sequence, up to its last position of this step.
    #[inline(always)]
    pub(super) fn table(&self, sequence: &PlannedSequence) -> &[u32] {
        &self.tables[sequence.table.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::super::kv::KvFormat;
    use super::*;

    fn plan() -> Plan {
        Plan::new(KvShape {
            num_layers: 1,
            num_blocks: 4,
            block_size: 16,
            num_key_value_heads: 1,
            head_dim: 2,
            format: KvFormat::Floats,
        })
    }

    fn rows(num_rows: usize, first_position: usize, block_table: &[u32]) -> SequenceRows<'_> {
        SequenceRows {
            num_rows,
            first_position,
            block_table,
        }
    }

    #[test]
    fn spans_begin_at_aligned_positions_and_cover_every_row() {
        let mut plan = plan();
        plan.set([rows(20, 5, &[0, 1]), rows(1, 15, &[2])]).unwrap();
        let spans: Vec<_> = plan
            .spans
            .iter()
            .map(|span| (span.sequence, span.first, span.count))
            .collect();
        assert_eq!(
            spans,
            [(0, 0, 3), (0, 3, 8), (0, 11, 8), (0, 19, 1), (1, 0, 1)]
        );
        assert_eq!(plan.num_rows(), 21);
    }

    #[test]
    fn bad_tables_are_refused() {
        let mut plan = plan();
        let short = plan.set([rows(2, 15, &[0])]).unwrap_err();
        assert!(short.to_string().ends_with("ends before position 16"));
        let missing = plan.set([rows(1, 0, &[4])]).unwrap_err();
        assert_eq!(
            missing.to_string(),
            "block 4 is not in the pool of 4 blocks"
        );
        let shared = plan.set([rows(1, 0, &[1]), rows(1, 3, &[1])]);
        assert_eq!(shared, Err(PlanError::SharedWrite { block: 1 }));
        assert_eq!(plan.num_rows(), 0);
    }

    #[test]
    fn a_shared_block_that_is_only_read_is_fine() {
        let mut plan = plan();
        plan.set([rows(1, 16, &[0, 1]), rows(1, 17, &[0, 2])])
            .unwrap();
    }
}
