//! Where the random masks of a merge come from, by tensor.

use std::path::PathBuf;
use std::sync::mpsc;

use sha2::{Digest, Sha256};

use super::error::MergeError;
use super::plan::{InputPlan, TensorPlan};
use super::run::Merge;
use super::tensor::{Draws, SeededStream, StreamStates};
use crate::formats::SafetensorsFile;
use crate::random::CounterRng;

/// Tensors for which the random stream may be walked ahead.
pub(super) const STREAM_AHEAD: usize = 1;

/// Where random masks come from.
pub enum Randomness {
    /// The reference's stream for `--random-seed`.
    Reference(u64),
    /// Our counter-based generator, keyed by (seed, model, tensor, element).
    Counter(u64),
    /// A safetensors file with one U8 mask per `TENSOR::MODEL`.
    Masks(PathBuf),
}

impl Merge<'_> {
    /// The mask of one input from the mask file.
    pub(super) fn mask<'a>(
        &self,
        masks: &'a SafetensorsFile,
        tensor: &TensorPlan,
        input: &InputPlan,
    ) -> Result<&'a [u8], MergeError> {
        let key = format!("{}::{}", tensor.name, self.models.get(input.model).name);
        let fail = |problem: String| MergeError::Tensor {
            tensor: tensor.name.clone(),
            problem,
        };
        let view = masks
            .tensor(&key)
            .ok_or_else(|| fail(format!("the mask file has no entry {key}")))?;
        if view.data.len() != tensor.num_elements() {
            return Err(fail(format!(
                "mask {key} is {} {:?}, expected one byte for each of {} elements",
                view.dtype,
                view.shape,
                tensor.num_elements()
            )));
        }
        Ok(view.data)
    }

    /// Walks the reference's stream ahead of the computation, if it is used.
    pub(super) fn walk_stream<'s>(
        &'s self,
        scope: &'s std::thread::Scope<'s, '_>,
    ) -> Option<mpsc::Receiver<Vec<StreamStates>>> {
        let Randomness::Reference(seed) = self.options.randomness else {
            return None;
        };
        let (sender, receiver) = mpsc::sync_channel(STREAM_AHEAD);
        scope.spawn(move || {
            let mut stream = SeededStream::new(seed);
            for tensor in &self.tensors {
                let drawing = tensor.inputs.iter().filter(|input| input.draws).count();
                // A merge that has failed no longer listens.
                if drawing > 0 && sender.send(stream.states(&tensor.shape, drawing)).is_err() {
                    return;
                }
            }
        });
        Some(receiver)
    }

    /// The random numbers of a tensor; `stream` is what [`Merge::walk_stream`] gave.
    pub(super) fn draws(
        &self,
        tensor: &TensorPlan,
        stream: Option<&mpsc::Receiver<Vec<StreamStates>>>,
    ) -> Result<Draws<'_>, MergeError> {
        let drawing: Vec<&InputPlan> = tensor.inputs.iter().filter(|i| i.draws).collect();
        if drawing.is_empty() {
            return Ok(Draws::None);
        }
        Ok(match (&self.options.randomness, stream, &self.masks) {
            (Randomness::Counter(seed), ..) => {
                let rngs = drawing.iter().map(|input| {
                    let model = &self.models.get(input.model).name;
                    CounterRng::from_parts(&[*seed, name_key(model), name_key(&tensor.name)])
                });
                Draws::Counter(rngs.collect())
            }
            (Randomness::Masks(_), _, Some(masks)) => {
                let masks = drawing.iter().map(|input| self.mask(masks, tensor, input));
                Draws::Masks(masks.collect::<Result<_, _>>()?)
            }
            (_, Some(stream), _) => {
                let states = stream.recv();
                Draws::Stream(states.expect("the walker sends one entry per drawing tensor"))
            }
            _ => unreachable!("the stream and the masks are opened where they are used"),
        })
    }
}

/// A stable 64-bit key of a name.
fn name_key(name: &str) -> u64 {
    let digest = Sha256::digest(name.as_bytes());
    let mut key = [0; 8];
    key.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(key)
}

/// A seed from the operating system, for merges that were given none.
///
/// # Errors
/// The system gives no random bytes.
pub fn fresh_seed() -> std::io::Result<u64> {
    use std::io::Read;
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    // Short enough to be typed.
    Ok(u64::from_le_bytes(bytes) >> 32)
}
