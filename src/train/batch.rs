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

/// Which rows of one group make a pack, by their lengths, each of at most `capacity` tokens.
///
/// Greedy knapsacks as the reference fills them: always the longest row that still fits; rows of
/// equal length last in, first out.
pub fn knapsacks(lengths: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let mut left: Vec<(usize, usize)> = lengths.iter().copied().zip(0..).collect();
    assert!(
        lengths.iter().all(|length| *length <= capacity),
        "rows were cut to a pack's capacity"
    );
    left.sort_unstable();
    let mut packs = Vec::new();
    while !left.is_empty() {
        let (mut pack, mut room) = (Vec::new(), capacity);
        loop {
            let fitting = left.partition_point(|(length, _)| *length <= room);
            if fitting == 0 {
                break;
            }
            let (length, row) = left.remove(fitting - 1);
            room -= length;
            pack.push(row);
        }
        packs.push(pack);
    }
    packs
}

/// These rows as one pack, filled up to `cutoff_len`.
pub fn fill(rows: &[&Example], cutoff_len: usize, keep_apart: bool, pad_token_id: u32) -> Pack {
    let mut pack = Pack {
        input_ids: vec![],
        labels: vec![],
        segments: vec![],
        position_ids: vec![],
    };
    for (index, row) in rows.iter().enumerate() {
        let own = row.input_ids.len();
        let segment = if keep_apart { index as u32 + 1 } else { 1 };
        pack.input_ids.extend_from_slice(&row.input_ids);
        pack.labels.extend_from_slice(&row.labels);
        pack.segments.extend(std::iter::repeat_n(segment, own));
        pack.position_ids.extend(0..own as u32);
    }
    pack.input_ids.resize(cutoff_len, pad_token_id);
    pack.labels.resize(cutoff_len, None);
    pack.segments
        .resize(cutoff_len, if keep_apart { 0 } else { 1 });
    pack.position_ids.resize(cutoff_len, 0);
    pack
}

/// A batch of packs.
pub fn stack(packs: Vec<Pack>) -> Batch {
    let mut batch = Batch::default();
    for pack in packs {
        batch.input_ids.push(pack.input_ids);
        batch.labels.push(pack.labels);
        batch.segments.push(pack.segments);
        batch.position_ids.push(pack.position_ids);
    }
    batch
}
