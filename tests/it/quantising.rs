//! Quantised files against llama.cpp's own, and the mixtures against its golden listings.

use std::path::{Path, PathBuf};

#[cfg(feature = "ggml")]
use micota::convert::ImportanceMatrix;
use micota::convert::{QuantiseOptions, Quantised, QuantisedType, TypeChoices, quantise};
use micota::formats::{Checkpoint, DType, GgufSplit};
#[cfg(feature = "ggml")]
use safetensors::SafeTensors;
use serde_json::Value;

use crate::shared::shared;
use crate::synthetic_gguf::Sizes;

pub(crate) fn options(out: PathBuf, file_type: QuantisedType) -> QuantiseOptions {
    QuantiseOptions {
        out,
        file_type,
        types: TypeChoices::default(),
        allow_requantise: false,
        importance: None,
        overrides: Vec::new(),
        split: GgufSplit::default(),
        keep_split: false,
        check: false,
        dry_run: false,
    }
}

fn run(input: &Path, options: &QuantiseOptions) -> Quantised {
    quantise(&Checkpoint::open(input).unwrap(), options, &|_| {}).unwrap()
}

fn refusal(input: &Path, options: &QuantiseOptions) -> String {
    let error = quantise(&Checkpoint::open(input).unwrap(), options, &|_| {}).unwrap_err();
    assert!(!options.out.exists(), "{error}");
    error.to_string()
}

/// `{"Q6_K": [0, 1], "Q4_K": "all"}`: the type of a layer's tensor.
fn listed(types: &Value, layer: usize) -> &str {
    types
        .as_object()
        .unwrap()
        .iter()
        .find(|(_, layers)| match layers.as_array() {
            Some(layers) => layers.iter().any(|l| l.as_u64() == Some(layer as u64)),
            None => *layers == "all",
        })
        .map(|(dtype, _)| dtype.as_str())
        .unwrap()
}

#[test]
fn every_mixture_gives_every_tensor_the_listed_type() {
    let Some(shared) = shared() else { return };
    let listing = std::fs::read(shared.join("golden/gguf/mixes.json")).unwrap();
    let listing: Value = serde_json::from_slice(&listing).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut checked = 0;
    for (name, model) in listing.as_object().unwrap() {
        let config = &model["config"];
        let size = |key: &str| config[key].as_u64().unwrap() as usize;
        let sizes = Sizes {
            architecture: match config["model_type"].as_str().unwrap() {
                "qwen2" => "qwen2",
                "llama" => "llama",
                "phi3" => "phi3",
                other => panic!("{other}"),
            },
            hidden: size("hidden_size"),
            intermediate: size("intermediate_size"),
            layers: size("num_hidden_layers"),
            heads: size("num_attention_heads"),
            key_heads: size("num_key_value_heads"),
            vocab: 32,
            tied: config["tie_word_embeddings"].as_bool().unwrap(),
        };
        let input = folder.path().join(format!("{name}.gguf"));
        // Only the header is looked at; blocks are the smallest zeros.
        sizes.write(&input, DType::Q4_0, |_, _, size| vec![0; size]);
        for (file_type, types) in model["types"].as_object().unwrap() {
            let mut options = options(folder.path().join("out.gguf"), file_type.parse().unwrap());
            options.dry_run = true;
            options.allow_requantise = true;
            for tensor in run(&input, &options).tensors {
                let of = format!("{name} {file_type} {}", tensor.name);
                if tensor.shape.len() < 2 {
                    assert_eq!(tensor.to, DType::F32, "{of}");
                    continue;
                }
                let (layer, part) = match tensor.name.strip_prefix("blk.") {
                    Some(rest) => rest.split_once('.').unwrap(),
                    None => ("0", tensor.name.as_str()),
                };
                let expected = listed(&types[part], layer.parse().unwrap());
                assert_eq!(tensor.to.name(), expected, "{of}");
                checked += 1;
            }
        }
    }
    assert!(checked > 3000, "{checked}");
}

#[cfg(feature = "ggml")]
#[test]
fn blocks_are_those_of_ggmls_own_quantisers() {
    let Some(shared) = shared() else { return };
    let file = std::fs::read(shared.join("golden/gguf/blocks.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let input = tensors.tensor("input").unwrap();
    let elements = input.data().len() / 4;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("blocks.gguf");
    let sizes = Sizes {
        layers: 1,
        vocab: elements / 256,
        tied: true,
        ..Sizes::small("qwen2")
    };
    sizes.write(&path, DType::F32, |name, _, size| {
        if name == "token_embd.weight" {
            return input.data().to_vec();
        }
        vec![0; size]
    });
    let mut checked = 0;
    for file_type in QuantisedType::all() {
        let Ok(expected) = tensors.tensor(&format!("{file_type}.bytes")) else {
            continue;
        };
        let found = blocks(&path, &folder.path().join("out.gguf"), file_type);
        assert!(found == expected.data(), "{file_type}");
        checked += 1;
    }
    // The k-quants' plain names are mixtures, pure here.
    for (file_type, name) in [
        (QuantisedType::Q4_K_S, "Q4_K"),
        (QuantisedType::Q5_K_S, "Q5_K"),
    ] {
        let expected = tensors.tensor(&format!("{name}.bytes")).unwrap();
        let found = blocks(&path, &folder.path().join("out.gguf"), file_type);
        assert!(found == expected.data(), "{name}");
        checked += 1;
    }
    assert_eq!(checked, 6, "Q8_0, Q4_0, Q5_0, Q6_K, Q4_K, Q5_K");
}

/// The embedding's bytes in a pure file.
#[cfg(feature = "ggml")]
fn blocks(input: &Path, out: &Path, file_type: QuantisedType) -> Vec<u8> {
    let mut options = options(out.to_owned(), file_type);
    options.types.pure = true;
    run(input, &options);
    let out = Checkpoint::open(out).unwrap();
    out.tensor("token_embd.weight").unwrap().data.to_vec()
}

#[test]
fn what_cannot_be_quantised_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in.gguf");
    let out = folder.path().join("out.gguf");
    let sizes = Sizes::small("qwen2");
    let with = |name: &'static str, value: f32| {
        sizes.write(&input, DType::F32, |tensor, _, size| {
            let value = if tensor == name { value } else { 0.5 };
            value.to_le_bytes().repeat(size / 4)
        });
    };
    with("blk.1.attn_k.weight", f32::NAN);
    let error = refusal(&input, &options(out.clone(), QuantisedType::Q8_0));
    assert!(
        error.contains("blk.1.attn_k.weight") && error.contains("finite"),
        "{error}"
    );

    with("blk.1.attn_k.weight", 1e5);
    let half = options(out.clone(), QuantisedType::Q4_0);
    run(&input, &half);
    std::fs::remove_file(&out).unwrap();
    #[cfg(feature = "ggml")]
    {
        with("blk.0.ffn_up.weight", 1e30);
        let error = refusal(&input, &options(out.clone(), QuantisedType::Q4_K_M));
        assert!(
            error.contains("blk.0.ffn_up.weight") && error.contains("1e6"),
            "{error}"
        );
        with("blk.0.ffn_up.weight", 0.25);
        let error = refusal(&input, &options(out.clone(), QuantisedType::IQ2_XS));
        assert!(error.contains("micota imatrix"), "{error}");
        let mut importance = ImportanceMatrix::new(Vec::new(), 16);
        importance.set("blk.0.attn_q.weight", vec![1.0; 255], 16);
        let wrong = QuantiseOptions {
            importance: Some(importance),
            ..options(out.clone(), QuantisedType::Q4_K_M)
        };
        let error = refusal(&input, &wrong);
        assert!(
            error.contains("blk.0.attn_q.weight") && error.contains("columns"),
            "{error}"
        );
    }
    let mut unknown = options(out.clone(), QuantisedType::Q4_0);
    unknown.types.output_tensor_type = Some(DType::Q8_K);
    let error = refusal(&input, &unknown);
    assert!(error.contains("Q8_K"), "{error}");

    sizes.write(&input, DType::Q4_0, |_, _, size| vec![0; size]);
    let error = refusal(&input, &options(out.clone(), QuantisedType::Q8_0));
    assert!(error.contains("--allow-requantize"), "{error}");
    let copy = run(&input, &options(out.clone(), QuantisedType::Copy));
    assert!(copy.tensors.iter().all(|tensor| tensor.from == tensor.to));
    std::fs::remove_file(&out).unwrap();

    let sizes = Sizes {
        architecture: "mamba",
        ..sizes
    };
    sizes.write(&input, DType::F32, |_, _, size| vec![0; size]);
    let error = refusal(&input, &options(out, QuantisedType::Q8_0));
    assert!(
        error.contains("mamba") && error.contains("qwen2"),
        "{error}"
    );
}

/// More bits lose less, and a copy loses nothing.
#[test]
fn the_check_measures_what_was_lost() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in.gguf");
    Sizes::small("llama").write_random(&input, DType::F32, 5);
    let mut last = 0.0;
    for file_type in [
        QuantisedType::BF16,
        QuantisedType::Q8_0,
        QuantisedType::Q4_0,
    ] {
        let mut options = options(folder.path().join("out.gguf"), file_type);
        options.check = true;
        options.types.pure = true;
        let quantised = run(&input, &options);
        let tensor = &quantised.tensors[0];
        let loss = tensor.loss.unwrap();
        assert!(
            loss.relative > last && loss.relative < 0.2,
            "{file_type}: {loss:?}"
        );
        assert!(loss.max >= loss.rmse && loss.cosine > 0.98, "{loss:?}");
        assert!(tensor.bytes_after < tensor.bytes_before);
        last = loss.relative;
        let norm = quantised
            .tensors
            .iter()
            .find(|t| t.name == "output_norm.weight");
        assert_eq!(norm.unwrap().loss, None);
    }
}

#[cfg(feature = "ggml")]
mod against_llama_cpp {
    use super::*;
    use crate::llama_cpp::{self, Quantise};

    /// Importance of every matrix of a layer, reproducible, with some columns that never matter.
    fn importance(input: &Path) -> Vec<(String, Vec<f32>)> {
        let checkpoint = Checkpoint::open(input).unwrap();
        checkpoint
            .tensors()
            .filter(|view| view.name.starts_with("blk.") && view.shape.len() > 1)
            .map(|view| {
                let column = |i: usize| {
                    if i % 7 == 3 {
                        0.0
                    } else {
                        0.01 * (i % 13) as f32
                    }
                };
                let row_len = *view.shape.last().unwrap();
                (view.name.to_owned(), (0..row_len).map(column).collect())
            })
            .collect()
    }

    /// The same file, byte for byte. Metadata that llama-quantize's command line adds about the
    /// importance matrix is not compared: the library does not write it.
    fn same_file(
        input: &Path,
        file_type: QuantisedType,
        ours: &QuantiseOptions,
        theirs: &Quantise<'_>,
    ) {
        let reference = ours.out.with_extension("reference");
        let number = file_type.file_type().unwrap();
        assert!(
            llama_cpp::quantise(input, &reference, number, theirs),
            "{file_type}"
        );
        run(input, ours);
        if theirs.importance.is_empty() {
            let same = std::fs::read(&ours.out).unwrap() == std::fs::read(&reference).unwrap();
            assert!(same, "{file_type} of {}: other bytes", input.display());
            return;
        }
        let (found, expected) = (
            Checkpoint::open(&ours.out).unwrap(),
            Checkpoint::open(&reference).unwrap(),
        );
        assert!(found.tensor_names().eq(expected.tensor_names()));
        for (found, expected) in found.tensors().zip(expected.tensors()) {
            assert_eq!(found.dtype, expected.dtype, "{file_type} {}", found.name);
            assert!(found.data == expected.data, "{file_type} {}", found.name);
        }
    }

    /// Whether a mixture looks at the number of the layer.
    fn is_mixed(file_type: QuantisedType) -> bool {
        let name = file_type.name();
        name.contains("_K") || file_type == QuantisedType::IQ4_XS
    }

    #[test]
    fn files_are_the_same_to_the_byte() {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("in.gguf");
        let out = folder.path().join("out.gguf");
        let mut checked = 0;
        let models = [
            Sizes {
                layers: 8,
                ..Sizes::small("llama")
            },
            // Rows that k-quants cannot divide, and many queries to a key.
            Sizes {
                hidden: 288,
                heads: 9,
                key_heads: 1,
                tied: true,
                ..Sizes::small("qwen2")
            },
            Sizes {
                layers: 1,
                ..Sizes::small("phi3")
            },
        ];
        for (model, seed) in models.iter().zip(1..) {
            for file_type in QuantisedType::all() {
                // Searches over grids are slow; they have tests of their own.
                let needs_matrix = file_type.name().starts_with("IQ")
                    && file_type != QuantisedType::IQ4_NL
                    && file_type != QuantisedType::IQ4_XS;
                let no_fallback = file_type == QuantisedType::Q1_0 && model.hidden % 128 != 0;
                if needs_matrix || no_fallback || file_type == QuantisedType::Q2_K_S {
                    continue;
                }
                let mut model = model.clone();
                if !is_mixed(file_type) {
                    model.layers = 1;
                }
                model.write_random(&input, DType::F16, seed);
                same_file(
                    &input,
                    file_type,
                    &options(out.clone(), file_type),
                    &Quantise::default(),
                );
                checked += 1;
            }
        }
        assert!(checked >= 60, "{checked}");
    }

    #[test]
    fn kept_parts_are_the_same_to_the_byte() {
        let folder = tempfile::tempdir().unwrap();
        let whole = folder.path().join("whole.gguf");
        Sizes::small("llama").write_random(&whole, DType::F16, 11);
        let split = QuantiseOptions {
            split: GgufSplit {
                max_bytes: None,
                max_tensors: Some(7),
            },
            ..options(folder.path().join("in.gguf"), QuantisedType::F16)
        };
        let parts = run(&whole, &split).files;
        assert_eq!(parts.len(), 3);
        let file_type = QuantisedType::Q4_K_M;
        let ours = QuantiseOptions {
            keep_split: true,
            ..options(folder.path().join("out.gguf"), file_type)
        };
        let files = run(&parts[0], &ours).files;
        let theirs = Quantise {
            keep_split: true,
            ..Quantise::default()
        };
        let reference = folder.path().join("reference");
        let number = file_type.file_type().unwrap();
        assert!(llama_cpp::quantise(&parts[0], &reference, number, &theirs));
        assert_eq!(files.len(), parts.len());
        for file in files {
            let name = file.file_name().unwrap().to_str().unwrap();
            let reference = file.with_file_name(name.replace("out-", "reference-"));
            let same = std::fs::read(&file).unwrap() == std::fs::read(&reference).unwrap();
            assert!(same, "{name}: other bytes");
        }
    }

    fn same_with_importance(model: &Sizes, file_types: impl Iterator<Item = QuantisedType>) {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("in.gguf");
        model.write_random(&input, DType::F16, 7);
        let columns = importance(&input);
        for file_type in file_types {
            let mut matrix = ImportanceMatrix::new(Vec::new(), 1);
            for (name, values) in &columns {
                matrix.set(name, values.clone(), 1);
            }
            let ours = QuantiseOptions {
                importance: Some(matrix),
                ..options(folder.path().join("out.gguf"), file_type)
            };
            let theirs = Quantise {
                importance: &columns,
                ..Quantise::default()
            };
            same_file(&input, file_type, &ours, &theirs);
        }
    }

    #[test]
    fn importance_gives_the_same_bytes_too() {
        let model = Sizes {
            layers: 1,
            ..Sizes::small("llama")
        };
        same_with_importance(&model, QuantisedType::all());
    }

    #[test]
    #[ignore = "minutes: every mixture with importance over eight layers"]
    fn importance_gives_the_same_bytes_in_every_layer() {
        for (key_heads, tied) in [(1, true), (2, false)] {
            let model = Sizes {
                layers: 8,
                key_heads,
                tied,
                ..Sizes::small("qwen2")
            };
            same_with_importance(&model, QuantisedType::all());
        }
    }

    #[test]
    fn flags_mean_what_they_mean_there() {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("in.gguf");
        let out = folder.path().join("out.gguf");
        let id = |dtype: DType| dtype.gguf_id();
        let file_type = QuantisedType::Q4_K_M;
        let feed_forward = regex::Regex::new(r"blk\.[0-3]\.ffn").unwrap();
        for tied in [false, true] {
            let sizes = Sizes {
                layers: 8,
                tied,
                ..Sizes::small("qwen2")
            };
            sizes.write_random(&input, DType::F32, 3);
            let plain = || options(out.clone(), file_type);
            let with = |types: TypeChoices| QuantiseOptions { types, ..plain() };

            let ours = with(TypeChoices {
                pure: true,
                ..TypeChoices::default()
            });
            same_file(
                &input,
                file_type,
                &ours,
                &Quantise {
                    pure: true,
                    ..Quantise::default()
                },
            );
            let ours = with(TypeChoices {
                leave_output_tensor: true,
                ..TypeChoices::default()
            });
            let theirs = Quantise {
                leave_output_tensor: true,
                ..Quantise::default()
            };
            same_file(&input, file_type, &ours, &theirs);
            let ours = with(TypeChoices {
                output_tensor_type: Some(DType::Q8_0),
                ..TypeChoices::default()
            });
            let theirs = Quantise {
                output_tensor_type: id(DType::Q8_0),
                ..Quantise::default()
            };
            same_file(&input, file_type, &ours, &theirs);
            let ours = with(TypeChoices {
                token_embedding_type: Some(DType::F16),
                ..TypeChoices::default()
            });
            let theirs = Quantise {
                token_embedding_type: id(DType::F16),
                ..Quantise::default()
            };
            same_file(&input, file_type, &ours, &theirs);
            let ours = with(TypeChoices {
                tensor_types: vec![(feed_forward.clone(), DType::Q5_1)],
                ..TypeChoices::default()
            });
            let theirs = Quantise {
                tensor_types: &[(r"blk\.[0-3]\.ffn", 7)],
                ..Quantise::default()
            };
            same_file(&input, file_type, &ours, &theirs);
        }
        let quantised = folder.path().join("q8.gguf");
        run(&input, &options(quantised.clone(), QuantisedType::Q8_0));
        let ours = QuantiseOptions {
            allow_requantise: true,
            ..options(out, file_type)
        };
        let theirs = Quantise {
            allow_requantize: true,
            ..Quantise::default()
        };
        same_file(&quantised, file_type, &ours, &theirs);
    }
}
