//! The fingerprint of a model: cheap enough for every start, sure to notice a changed model.

use sha2::{Digest, Sha256};

use super::checkpoint::{Placed, Source, TensorView};
use super::folder;
use super::mmap::MappedFile;

/// Names the recipe below; a change of the recipe changes it.
const VERSION: &[u8] = b"micota-fingerprint-1";
/// Tensors up to this size are hashed whole: all norms and biases.
const WHOLE_BYTES: usize = 128 << 10;
/// Larger tensors are hashed in this many windows, the first and the last bytes included.
const WINDOWS: usize = 16;
/// Size of a window: one page, the least that a disk read costs.
const WINDOW_BYTES: usize = 4 << 10;

/// See [`Checkpoint::fingerprint`](super::Checkpoint::fingerprint).
pub(super) fn of(source: &Source, files: &[MappedFile], tensors: &[Placed]) -> String {
    let mut hash = Sha256::new();
    hash.update(VERSION);
    match source {
        Source::HuggingFace { folder, .. } => {
            for name in folder::DESCRIBING_FILES {
                // A file that cannot be read counts as absent here; reading it for use reports it.
                if let Ok(bytes) = std::fs::read(folder.join(name)) {
                    field(&mut hash, name.as_bytes());
                    field(&mut hash, &bytes);
                }
            }
        }
        Source::Gguf(_) => {
            for (index, file) in files.iter().enumerate() {
                let own = tensors.iter().filter(|placed| placed.file == index);
                let data_begin = own.map(|placed| placed.entry.begin).min();
                let header = &file.bytes()[..data_begin.unwrap_or(file.bytes().len())];
                field(&mut hash, header);
            }
        }
    }
    for placed in tensors {
        let tensor = TensorView::of_entry(&placed.entry, files[placed.file].bytes());
        field(&mut hash, tensor.name.as_bytes());
        field(&mut hash, tensor.dtype.name().as_bytes());
        for dim in tensor.shape {
            hash.update((*dim as u64).to_le_bytes());
        }
        sample(&mut hash, tensor.data);
    }
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Hashes bytes with their length, so that neighbouring fields cannot be confused.
fn field(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

fn sample(hash: &mut Sha256, data: &[u8]) {
    hash.update((data.len() as u64).to_le_bytes());
    if data.len() <= WHOLE_BYTES {
        hash.update(data);
        return;
    }
    let last = data.len() - WINDOW_BYTES;
    for window in 0..WINDOWS {
        let begin = last / (WINDOWS - 1) * window;
        let begin = if window == WINDOWS - 1 { last } else { begin };
        hash.update(&data[begin..begin + WINDOW_BYTES]);
    }
}
