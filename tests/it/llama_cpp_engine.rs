//! llama.cpp's own context behind the engine: the reference's greedy text from a GGUF file, with
//! many requests in flight, and refusals in words.

use std::path::{Path, PathBuf};

use micota::convert::{GgufOptions, OutType, to_gguf};
use micota::engine::{Device, EngineOptions, Executor, Request, SamplingParams, load};
use micota::formats::Checkpoint;

use crate::engine::{GreedyReference, run};
use crate::shared::shared;

/// Keys and values are in half precision, so a margin between first and second token below this
/// may be decided by rounding.
const SAFE_MARGIN: f64 = 0.05;

fn options() -> EngineOptions {
    EngineOptions {
        device: Device::Cpu,
        executor: Executor::LlamaCpp,
        threads: Some(1),
        max_model_len: Some(256),
        max_num_seqs: Some(4),
        ..EngineOptions::default()
    }
}

fn gguf(model: &str, folder: &Path, shared: &Path) -> PathBuf {
    let options = GgufOptions {
        outfile: Some(folder.join("model.gguf")),
        out_type: OutType::F32,
        ..GgufOptions::default()
    };
    let checkpoint = Checkpoint::open(shared.join("golden/tiny").join(model)).unwrap();
    to_gguf(&checkpoint, &options, &|_| {})
        .unwrap()
        .files
        .remove(0)
}

#[test]
fn greedy_text_is_that_of_the_reference_with_many_requests_in_flight() {
    let Some(shared) = shared() else { return };
    for name in ["q2t-base", "q3", "ll3-base", "gemma3"] {
        let GreedyReference {
            prompt,
            expected,
            sure,
        } = GreedyReference::read(&shared, name, SAFE_MARGIN);
        // Three times as many as there are streams, every other one with other company: a second
        // sample of the same prompt, whose stream is a copy.
        let request = |id| Request {
            id,
            prompt_token_ids: prompt.clone(),
            params: SamplingParams {
                max_gen_toks: expected.len(),
                n: 1 + id as usize % 2,
                ..SamplingParams::default()
            },
        };
        let folder = tempfile::tempdir().unwrap();
        let model = gguf(name, folder.path(), &shared);
        let found = run(&model, &options(), (0..12).map(request).collect());
        assert_eq!(found.len(), 18, "{name}");
        for completion in found {
            let id = (completion.request_id, completion.sample_index);
            assert_eq!(
                completion.token_ids[..sure],
                expected[..sure],
                "{name} {id:?}"
            );
        }
    }
}

#[test]
fn what_llama_cpp_cannot_run_is_refused_in_words() {
    let Some(shared) = shared() else { return };
    let tiny = shared.join("golden/tiny/q2t-base");
    let message = |model: &Path, options: &EngineOptions| {
        let error = load(model, options).err().unwrap();
        error.to_string()
    };
    let folder = message(&tiny, &options());
    assert!(
        folder.contains("convert the model with `micota convert`"),
        "{folder}"
    );
    let target = tempfile::tempdir().unwrap();
    let model = gguf("q2t-base", target.path(), &shared);
    let wide = EngineOptions {
        block_size: Some(32),
        ..options()
    };
    let wide = message(&model, &wide);
    assert!(
        wide.starts_with("block_size is an option of the CPU executor"),
        "{wide}"
    );
    let many = EngineOptions {
        max_num_seqs: Some(257),
        ..options()
    };
    let many = message(&model, &many);
    assert!(
        many.contains("llama.cpp keeps from 1 to 256 sequences"),
        "{many}"
    );
}
