//! llama.cpp loads what we convert, and says the same tokens as our engine.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use micota::convert::{GgufOptions, OutType, QuantisedType, quantise, to_gguf};
use micota::engine::backends::cpu::{ComputeType, CpuOptions, CpuRunner, KvType, Quantize};
use micota::engine::{ModelRunner, StepInput, StepSequence};
use micota::formats::Checkpoint;
use micota::kernels::cpu::Isa;
use micota::model::Model;

use crate::llama_cpp::LlamaCpp;
use crate::quantising::options;
use crate::shared::shared;

const CONTEXT: usize = 64;

fn convert(source: &Path, target: &Path, out_type: OutType) {
    let options = GgufOptions {
        outfile: Some(target.to_owned()),
        out_type,
        ..GgufOptions::default()
    };
    to_gguf(&Checkpoint::open(source).unwrap(), &options, &|_| {}).unwrap();
}

/// Our engine in single precision.
struct Ours {
    runner: CpuRunner,
    logits: Vec<f32>,
}

impl Ours {
    fn load(path: &Path) -> Self {
        let checkpoint = Arc::new(Checkpoint::open(path).unwrap());
        let model = Arc::new(Model::from_checkpoint(checkpoint).unwrap());
        let options = CpuOptions {
            compute_type: ComputeType::F32,
            quantize: Quantize::None,
            kv_type: KvType::Auto,
            threads: 1,
            isa: Isa::detect(),
            block_size: 16,
            num_blocks: CONTEXT / 16,
            max_model_len: CONTEXT,
        };
        Self {
            runner: CpuRunner::load(&model, &options).unwrap(),
            logits: Vec::new(),
        }
    }

    /// Logits of the last of `tokens[computed..]`.
    fn decode(&mut self, tokens: &[u32], computed: usize) -> &[f32] {
        let step = StepInput {
            token_ids: tokens[computed..].to_vec(),
            sequences: vec![StepSequence {
                first_row: 0,
                num_rows: tokens.len() - computed,
                num_computed_tokens: computed,
                block_table: (0..(CONTEXT / 16) as u32).collect(),
                num_logits: 1,
            }],
        };
        self.runner.forward(&step, &mut self.logits).unwrap();
        &self.logits
    }
}

fn most_likely(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.unwrap().0 as u32
}

/// Logits may differ by this share of the largest: float32 in another order.
const BOUND: f32 = 2e-5;

/// The same with GELU, which llama.cpp looks up in a table of half precision.
const GELU_BOUND: f32 = 5e-3;

/// Both continue `prompt` up to `length` tokens; they must choose the same and have logits that
/// differ by at most `bound` of the largest.
fn agree(ours: &mut Ours, theirs: &mut LlamaCpp, prompt: &[u32], length: usize, bound: f32) {
    theirs.clear();
    let mut tokens = prompt.to_vec();
    let mut computed = 0;
    while tokens.len() < length {
        let expected = theirs.decode(&tokens[computed..]);
        let found = ours.decode(&tokens, computed);
        assert_eq!(found.len(), expected.len());
        let pairs = found.iter().zip(&expected);
        let difference = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let largest = expected.iter().map(|x| x.abs()).fold(0.0, f32::max);
        assert!(
            difference <= bound * largest,
            "logits differ by {difference} at {tokens:?}"
        );
        // Where two tokens are as likely to within that difference, either is right.
        let token = most_likely(&expected);
        let lost = expected[token as usize] - expected[most_likely(found) as usize];
        assert!(
            lost <= 2.0 * difference,
            "after {tokens:?}: {lost} less likely"
        );
        computed = tokens.len();
        tokens.push(token);
    }
}

#[test]
fn greedy_tokens_are_those_of_llama_cpp() {
    let Some(shared) = shared() else { return };
    let folder = tempfile::tempdir().unwrap();
    // llama.cpp attends over the whole context where Mistral has a window of 8.
    let models = [
        ("q2t-base", 40),
        ("q2t-untied", 40),
        ("q2t-think", 40),
        ("q2u-base", 40),
        ("q3", 40),
        ("ll3-base", 40),
        ("ll3-math-sharded", 40),
        ("mistral", 8),
        ("gemma3", 40),
        ("phi3", 40),
    ];
    for (name, length) in models {
        let file: PathBuf = folder.path().join(format!("{name}.gguf"));
        convert(&shared.join("golden/tiny").join(name), &file, OutType::F32);
        let mut theirs = LlamaCpp::load(&file, CONTEXT as u32).expect(name);
        let mut ours = Ours::load(&file);
        let bound = if name == "gemma3" { GELU_BOUND } else { BOUND };
        for prompt in [[65, 66, 67], [7, 200, 3], [100, 1, 260]] {
            agree(&mut ours, &mut theirs, &prompt, length, bound);
        }
    }
}

/// The model that ships with the repository, plain and quantised.
#[test]
fn the_demo_model_says_the_same_in_llama_cpp() {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/model");
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("f32.gguf");
    convert(&demo, &plain, OutType::F32);
    let prompt: Vec<u32> = (60..84).collect();
    let mut theirs = LlamaCpp::load(&plain, CONTEXT as u32).unwrap();
    agree(&mut Ours::load(&plain), &mut theirs, &prompt, 60, BOUND);
    for file_type in [QuantisedType::Q8_0, QuantisedType::Q4_K_M] {
        let file = folder.path().join(format!("{file_type}.gguf"));
        let options = options(file.clone(), file_type);
        quantise(&Checkpoint::open(&plain).unwrap(), &options, &|_| {}).unwrap();
        let mut theirs = LlamaCpp::load(&file, CONTEXT as u32).unwrap();
        // llama.cpp rounds activations to 8 bits before it multiplies; we do not.
        let expected = theirs.decode(&prompt);
        let mut ours = Ours::load(&file);
        let found = ours.decode(&prompt, 0);
        let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|x| x * x).sum::<f32>();
        let error = norm(&mut found.iter().zip(&expected).map(|(a, b)| a - b));
        let size = norm(&mut expected.iter().copied());
        assert!(error < 0.01 * size, "{file_type}: {error} of {size}");
    }
}
