//! Rows to batches: right padding, and packing rows into full ones.

use super::decoder::Batch;
use super::encode::Example;

/// Batches are padded to a multiple of this many tokens.
const PAD_MULTIPLE: usize = 8;

/// Pads `rows` on the right to one length. Padding is segment 0, unlabelled.
pub fn pad(rows: &[&Example], pad_token_id: u32) -> Batch {
    let longest = rows
        .iter()
        .map(|row| row.input_ids.len())
        .max()
        .unwrap_or(0);
    let length = longest.next_multiple_of(PAD_MULTIPLE);
    let mut batch = Batch::default();
    for row in rows {
        let own = row.input_ids.len();
        let mut segments = vec![1; own];
        let mut input_ids = row.input_ids.clone();
        let mut labels = row.labels.clone();
        input_ids.resize(length, pad_token_id);
        labels.resize(length, None);
        segments.resize(length, 0);
        batch.input_ids.push(input_ids);
        batch.labels.push(labels);
        batch.segments.push(segments);
        batch.position_ids.push((0..length as u32).collect());
    }
    batch
}

/// Several rows back to back in one row of exactly `cutoff_len` tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pack {
    /// Tokens, padded.
    pub input_ids: Vec<u32>,
    /// Labels, `None` in the padding.
    pub labels: Vec<Option<u32>>,
    /// 1, 2, … per row when rows are kept apart (neat packing), else 1 throughout, padding too.
    pub segments: Vec<u32>,
    /// Restarting at 0 in every row, 0 in the padding.
    pub position_ids: Vec<u32>,
}

/// Packs the rows of one group, each of at most `cutoff_len - 1` tokens.
///
/// Greedy knapsacks as the reference fills them: always the longest row that still fits; rows of
/// equal length last in, first out.
pub fn pack(rows: &[Example], cutoff_len: usize, keep_apart: bool, pad_token_id: u32) -> Vec<Pack> {
    let capacity = cutoff_len - 1;
    let lengths = rows.iter().map(|row| row.input_ids.len());
    let mut left: Vec<(usize, usize)> = lengths.zip(0..).collect();
    assert!(
        left.iter().all(|(length, _)| *length <= capacity),
        "rows were cut to a pack's capacity"
    );
    left.sort_unstable();
    let mut packs = Vec::new();
    while !left.is_empty() {
        let mut pack = Pack {
            input_ids: vec![],
            labels: vec![],
            segments: vec![],
            position_ids: vec![],
        };
        let mut segment = 0;
        loop {
            let room = capacity - pack.input_ids.len();
            let fitting = left.partition_point(|(length, _)| *length <= room);
            if fitting == 0 {
                break;
            }
            let row = &rows[left.remove(fitting - 1).1];
            segment += 1;
            let own = row.input_ids.len();
            pack.input_ids.extend_from_slice(&row.input_ids);
            pack.labels.extend_from_slice(&row.labels);
            pack.segments.extend(std::iter::repeat_n(
                if keep_apart { segment } else { 1 },
                own,
            ));
            pack.position_ids.extend(0..own as u32);
        }
        pack.input_ids.resize(cutoff_len, pad_token_id);
        pack.labels.resize(cutoff_len, None);
        pack.segments
            .resize(cutoff_len, if keep_apart { 0 } else { 1 });
        pack.position_ids.resize(cutoff_len, 0);
        packs.push(pack);
    }
    packs
}

/// A batch of packs.
pub fn stack(packs: &[&Pack]) -> Batch {
    Batch {
        input_ids: packs.iter().map(|pack| pack.input_ids.clone()).collect(),
        labels: packs.iter().map(|pack| pack.labels.clone()).collect(),
        segments: packs.iter().map(|pack| pack.segments.clone()).collect(),
        position_ids: packs.iter().map(|pack| pack.position_ids.clone()).collect(),
    }
}
