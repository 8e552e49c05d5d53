//! Does a merged model say what model and adapter say together? Losses on a few fixed rows.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::TrainError;
use super::adapter;
use super::decoder::{Adapter, Batch, Decoder};
use super::init;
use crate::formats::Checkpoint;
use crate::model::{DecoderSpec, Model};
use crate::random::CounterRng;

/// Rows of the probe, and tokens of each.
const NUM_ROWS: usize = 4;
const NUM_TOKENS: usize = 16;
/// The merged loss may differ from the adapted one by this share of it: stored weights are rounded
/// to 16 bits at most, which moves a loss by far less.
const TOLERANCE: f64 = 0.01;
/// And by no more than this share of what the adapter changes, where that is more than rounding.
const SHARE_OF_CHANGE: f64 = 0.5;

/// Mean losses per token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MergeProbe {
    /// Of the model alone.
    pub base: f64,
    /// Of the model with its adapter.
    pub adapted: f64,
    /// Of the merged model.
    pub merged: f64,
}

impl MergeProbe {
    /// Measures all three, one after the other, in f32.
    ///
    /// # Errors
    /// A model or the adapter cannot be read, or they do not belong together.
    pub fn measure(base: &Path, adapter: &Path, merged: &Path) -> Result<Self, TrainError> {
        let (spec, mut weights) = load(base)?;
        let batch = probe(spec.vocab_size);
        let base = loss(&spec, weights.clone(), BTreeMap::new(), &batch)?;
        let (_, adapters, replaced) = adapter::open(adapter, &spec, &weights)?;
        weights.extend(replaced);
        let adapted = loss(&spec, weights, adapters, &batch)?;
        let (spec, weights) = load(merged)?;
        let merged = loss(&spec, weights, BTreeMap::new(), &batch)?;
        Ok(Self {
            base,
            adapted,
            merged,
        })
    }

    /// Whether the merged model is what it should be.
    pub fn agrees(&self) -> bool {
        let off = (self.merged - self.adapted).abs();
        let change = (self.base - self.adapted).abs();
        let is_visible = change > TOLERANCE * self.adapted.abs();
        off <= TOLERANCE * self.adapted.abs() && !(is_visible && off > SHARE_OF_CHANGE * change)
    }
}

fn load(folder: &Path) -> Result<(DecoderSpec, BTreeMap<String, Tensor>), TrainError> {
    let model = Model::from_checkpoint(Arc::new(Checkpoint::open(folder)?))?;
    let weights = init::from_model(&model)?;
    Ok((model.spec, weights))
}

/// Rows of tokens spread over the vocabulary.
fn probe(vocab_size: usize) -> Batch {
    let rng = CounterRng::from_parts(&[0]);
    let mut draws = vec![0; NUM_ROWS * NUM_TOKENS];
    rng.fill(0, 0, &mut draws);
    let ids = draws
        .iter()
        .map(|draw| draw % vocab_size as u32)
        .collect::<Vec<_>>();
    let rows: Vec<Vec<u32>> = ids.chunks(NUM_TOKENS).map(<[u32]>::to_vec).collect();
    Batch {
        labels: rows
            .iter()
            .map(|row| row.iter().copied().map(Some).collect())
            .collect(),
        segments: vec![vec![1; NUM_TOKENS]; NUM_ROWS],
        position_ids: vec![(0..NUM_TOKENS as u32).collect(); NUM_ROWS],
        input_ids: rows,
    }
}

fn loss(
    spec: &DecoderSpec,
    weights: BTreeMap<String, Tensor>,
    adapters: BTreeMap<String, Adapter>,
    batch: &Batch,
) -> Result<f64, TrainError> {
    let decoder = Decoder::new(spec.clone(), weights, adapters, DType::F32, false);
    Ok(decoder.loss_sum(batch)? / batch.num_predicted() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_that_is_still_the_base_is_noticed() {
        let probe = |base, adapted, merged| MergeProbe {
            base,
            adapted,
            merged,
        };
        assert!(probe(5.0, 4.0, 4.001).agrees());
        assert!(probe(5.0, 5.0, 5.0001).agrees());
        assert!(!probe(5.0, 4.0, 5.0).agrees());
        assert!(!probe(5.0, 5.1, 5.0).agrees());
        assert!(!probe(5.0, 4.0, f64::NAN).agrees());
    }
}
