//! Merging: the golden cases, determinism, hostile recipes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use micota::formats::{Checkpoint, DType, PlannedTensor, SafetensorsFile, SafetensorsWriter};
use micota::merge::{FloatType, Merge, MergeOptions, Randomness, Recipe, Setting};
use micota::random::CounterRng;
use serde_json::Value;

use crate::shared::shared;

/// A recipe's paths are relative to the golden folder; tests must not change the working folder.
fn rooted(recipe: &str, golden: &Path) -> String {
    recipe.replace("./tiny/", &format!("{}/tiny/", golden.display()))
}

fn options() -> MergeOptions {
    MergeOptions {
        randomness: Randomness::Counter(0),
        shard_bytes: 5_000_000_000,
        copy_tokenizer: true,
        write_card: true,
        allow_crimes: false,
        truncate_embeddings: false,
        lenient: false,
        lora_dtype: None,
        threads: Some(1),
        fetch: Box::new(|path, _| Err(format!("no folder {path}"))),
    }
}

fn options_of(args: &[Value]) -> MergeOptions {
    let mut options = options();
    let mut args = args.iter().filter_map(Value::as_str);
    while let Some(arg) = args.next() {
        match arg {
            "--random-seed" => {
                options.randomness = Randomness::Reference(args.next().unwrap().parse().unwrap());
            }
            "--out-shard-size" => {
                let size = args.next().unwrap();
                options.shard_bytes =
                    size.strip_suffix('K').unwrap().parse::<u64>().unwrap() * 1000;
            }
            "--unsafe-truncate-embeddings" => options.truncate_embeddings = true,
            "--allow-crimes" => options.allow_crimes = true,
            "--lora-merge-cache" => {
                args.next();
            }
            "--lora-merge-dtype" => options.lora_dtype = FloatType::from_name(args.next().unwrap()),
            other => panic!("a case with the unknown flag {other}"),
        }
    }
    options
}

fn merge(text: &str, options: MergeOptions, out: &Path) {
    let recipe = Recipe::parse(text, false).unwrap();
    let merge = Merge::prepare(&recipe, options).unwrap();
    merge.write(out, &|_| ()).unwrap();
}

fn safetensors_in(folder: &Path) -> BTreeMap<String, PathBuf> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            files.insert(name, path);
        }
    }
    files
}

/// (dtype, shape, values) of every tensor of a folder.
type Tensors = BTreeMap<String, (String, Vec<usize>, Vec<f64>)>;

fn tensors_in(folder: &Path) -> Tensors {
    let mut tensors = BTreeMap::new();
    for path in safetensors_in(folder).values() {
        for view in SafetensorsFile::open(path).unwrap().tensors() {
            let size = view.dtype.block_bytes();
            let values = view
                .data
                .chunks_exact(size)
                .map(|b| match view.dtype.name() {
                    "BF16" => half::bf16::from_le_bytes([b[0], b[1]]).to_f64(),
                    "F16" => half::f16::from_le_bytes([b[0], b[1]]).to_f64(),
                    "F32" => f64::from(f32::from_le_bytes(b.try_into().unwrap())),
                    "F64" => f64::from_le_bytes(b.try_into().unwrap()),
                    "U8" => f64::from(b[0]),
                    other => panic!("{other}"),
                });
            let row = (
                view.dtype.name().to_owned(),
                view.shape.to_vec(),
                values.collect(),
            );
            tensors.insert(view.name.to_owned(), row);
        }
    }
    tensors
}

/// Distance from a value of a stored type to the next one.
fn ulp(dtype: &str, value: f64) -> f64 {
    let (bits, least) = match dtype {
        "BF16" => (7, -133),
        "F16" => (10, -24),
        "F32" => (23, -149),
        _ => (52, -1074),
    };
    let exponent = if value == 0.0 {
        least
    } else {
        value.abs().log2().floor() as i32 - bits
    };
    2.0_f64.powi(exponent.max(least))
}

/// Compares a merge with the reference's; the text says what differs.
fn difference(case: &Path, rule: &Value, ours: &Tensors) -> Option<String> {
    let expected = tensors_in(&case.join("expected"));
    let ambiguous = case.join("ambiguous.safetensors");
    let ambiguous = ambiguous
        .exists()
        .then(|| SafetensorsFile::open(&ambiguous).unwrap());
    if expected.keys().ne(ours.keys()) {
        return Some("other tensors".into());
    }
    let mut differing = Vec::new();
    let mut worst = 0.0_f64;
    for (name, (dtype, shape, values)) in &expected {
        let (own_dtype, own_shape, own) = &ours[name];
        if (dtype, shape) != (own_dtype, own_shape) {
            return Some(format!(
                "{name}: {own_dtype} {own_shape:?}, not {dtype} {shape:?}"
            ));
        }
        let skip = ambiguous.as_ref().and_then(|file| file.tensor(name));
        for (i, (a, b)) in values.iter().zip(own).enumerate() {
            if skip.is_some_and(|skip| skip.data[i] != 0) || a == b {
                continue;
            }
            let allowed = match (rule["rule"].as_str().unwrap(), &rule["abs"], &rule["ulp"]) {
                ("exact", ..) => 0.0,
                (_, abs, _) if abs.is_number() => abs.as_f64().unwrap(),
                (_, _, ulps) => ulps.as_f64().unwrap() * ulp(dtype, a.abs().max(b.abs())),
            };
            worst = worst.max((a - b).abs());
            if (a - b).is_nan() || (a - b).abs() > allowed {
                differing.push(format!("{name}[{i}]: {b}, not {a}"));
            }
        }
    }
    let outliers = rule["outliers"].as_u64().unwrap_or(0) as usize;
    (differing.len() > outliers).then(|| {
        format!(
            "{} elements, worst {worst:e}, e.g. {}",
            differing.len(),
            differing[0]
        )
    })
}

fn golden() -> Option<PathBuf> {
    shared().map(|shared| shared.join("golden"))
}

#[test]
fn golden_cases_agree_with_the_reference() {
    let Some(golden) = golden() else { return };
    let mut failures = Vec::new();
    let mut cases = 0;
    let mut entries: Vec<PathBuf> = std::fs::read_dir(golden.join("merge"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("case.json").exists())
        .collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let case: Value =
            serde_json::from_slice(&std::fs::read(path.join("case.json")).unwrap()).unwrap();
        let recipe = std::fs::read_to_string(path.join("config.yml")).unwrap();
        let out = tempfile::tempdir().unwrap();
        let out = out.path().join("out");
        merge(
            &rooted(&recipe, &golden),
            options_of(case["args"].as_array().unwrap()),
            &out,
        );
        cases += 1;
        if let Some(difference) = difference(&path, &case["compare"], &tensors_in(&out)) {
            failures.push(format!("{name}: {difference}"));
        }
        if let Some(difference) = config_difference(&path, &out) {
            failures.push(format!("{name}: {difference}"));
        }
        Checkpoint::open(&out).unwrap();
    }
    assert!(
        failures.is_empty(),
        "{} of {cases}:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

/// The fields of config.json that a merge decides, and the vocabulary.
fn config_difference(case: &Path, out: &Path) -> Option<String> {
    let read = |folder: &Path, name: &str| -> Option<Value> {
        serde_json::from_slice(&std::fs::read(folder.join(name)).ok()?).ok()
    };
    let expected = read(&case.join("expected"), "config.json")?;
    let own = read(out, "config.json")?;
    for key in ["num_hidden_layers", "vocab_size"] {
        if expected[key] != own[key] {
            return Some(format!("{key}: {}, not {}", own[key], expected[key]));
        }
    }
    let dtype = own.get("dtype").or(own.get("torch_dtype"));
    if dtype != expected.get("dtype") {
        return Some(format!("dtype: {dtype:?}, not {:?}", expected.get("dtype")));
    }
    let tokens = |folder: &Path| -> Option<BTreeMap<String, u64>> {
        let file = read(folder, "tokenizer.json")?;
        let vocabulary = file["model"]["vocab"].as_object()?.clone().into_iter();
        let added = file["added_tokens"].as_array()?.clone().into_iter();
        let added = added.map(|e| (e["content"].as_str().unwrap().to_owned(), e["id"].clone()));
        Some(
            vocabulary
                .chain(added)
                .map(|(t, id)| (t, id.as_u64().unwrap()))
                .collect(),
        )
    };
    let expected_tokens = tokens(&case.join("expected"))?;
    (tokens(out) != Some(expected_tokens)).then(|| "other tokens".to_owned())
}

/// A Qwen2 of 28 thin layers whose embedding spans several blocks, the same for the same seed.
fn synthetic(folder: &Path, seed: u64) {
    synthetic_with(folder, seed, [28, 20_000, 8]);
}

/// As [`synthetic`], with a number of layers, of tokens, and a hidden size.
fn synthetic_with(folder: &Path, seed: u64, [layers, vocabulary_size, hidden]: [usize; 3]) {
    std::fs::create_dir_all(folder).unwrap();
    let config = serde_json::json!({
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": hidden,
        "intermediate_size": 16, "num_hidden_layers": layers, "num_attention_heads": 2,
        "num_key_value_heads": 1, "vocab_size": vocabulary_size, "tie_word_embeddings": true,
        "torch_dtype": "bfloat16",
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let vocabulary: serde_json::Map<String, Value> = (0..vocabulary_size - 7)
        .map(|id| (format!("t{id}"), id.into()))
        .collect();
    let tokenizer = serde_json::json!({
        "version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    });
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let mut shapes: Vec<(String, Vec<usize>)> = vec![
        (
            "model.embed_tokens.weight".into(),
            vec![vocabulary_size, hidden],
        ),
        ("model.norm.weight".into(), vec![hidden]),
    ];
    for layer in 0..layers {
        let mut add = |suffix: &str, shape: &[usize]| {
            shapes.push((format!("model.layers.{layer}.{suffix}"), shape.to_vec()));
        };
        add("input_layernorm.weight", &[hidden]);
        add("post_attention_layernorm.weight", &[hidden]);
        for (name, rows) in [("q", hidden), ("k", 4), ("v", 4)] {
            add(&format!("self_attn.{name}_proj.weight"), &[rows, hidden]);
            add(&format!("self_attn.{name}_proj.bias"), &[rows]);
        }
        add("self_attn.o_proj.weight", &[hidden, hidden]);
        add("mlp.gate_proj.weight", &[16, hidden]);
        add("mlp.up_proj.weight", &[16, hidden]);
        add("mlp.down_proj.weight", &[hidden, 16]);
    }
    let planned = shapes.iter().map(|(name, shape)| PlannedTensor {
        name: name.clone(),
        dtype: DType::BF16,
        shape: shape.clone(),
    });
    let writer = SafetensorsWriter::create(folder, planned.collect(), None).unwrap();
    for (index, (name, shape)) in shapes.iter().enumerate() {
        let base = CounterRng::from_parts(&[0, index as u64]);
        let own = CounterRng::from_parts(&[seed, index as u64]);
        let values = (0..shape.iter().product::<usize>()).flat_map(|i| {
            let shared = base.uniform(i as u128) - 0.5;
            let value = shared + (own.uniform(i as u128) - 0.5) * 0.1;
            half::bf16::from_f64(value).to_le_bytes()
        });
        writer.write(name, &values.collect::<Vec<u8>>()).unwrap();
    }
    writer.finish().unwrap();
}

/// Three models where the shipped recipes look for them.
fn models_of_recipes(root: &Path) {
    let names = [
        "models/Qwen2.5-7B",
        "models/Qwen2.5-7B-Instruct",
        "saves/Qwen2.5-7B-long-cot",
    ];
    for (seed, name) in (1..).zip(names) {
        synthetic(&root.join(name), seed);
    }
}

fn from_root(recipe: &str, root: &Path) -> String {
    let root = root.display();
    recipe
        .replace(": models/", &format!(": {root}/models/"))
        .replace(": saves/", &format!(": {root}/saves/"))
}

#[test]
fn shipped_recipes_run_and_threads_shards_and_reruns_change_nothing() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    models_of_recipes(root);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/merge");
    let mut recipes = vec![
        ("della".to_owned(), DELLA.to_owned()),
        ("sce".to_owned(), SCE.to_owned()),
    ];
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        recipes.push((name, std::fs::read_to_string(path).unwrap()));
    }
    for (name, recipe) in recipes {
        let recipe = from_root(&recipe, root);
        let mut first: Option<Tensors> = None;
        for randomness in [false, true] {
            first = None;
            for (threads, shard_bytes) in [(1, u64::MAX), (2, 100_000), (3, u64::MAX)] {
                let options = MergeOptions {
                    randomness: match randomness {
                        false => Randomness::Counter(7),
                        true => Randomness::Reference(7),
                    },
                    shard_bytes,
                    threads: Some(threads),
                    ..options()
                };
                let out = root.join("out");
                merge(&recipe, options, &out);
                let tensors = tensors_in(&out);
                assert_eq!(safetensors_in(&out).len() > 1, shard_bytes < u64::MAX);
                match &first {
                    None => first = Some(tensors),
                    Some(first) => assert!(*first == tensors, "{name}: {threads} threads"),
                }
            }
        }
        let first = first.unwrap();
        assert!(
            first
                .values()
                .all(|(_, _, values)| values.iter().all(|v| v.is_finite()))
        );
        let left: Vec<_> = std::fs::read_dir(root)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(left.len(), 3, "{left:?}");
    }
}

/// What each method needs in a recipe besides two models and, if it can use one, a base.
const METHODS: [(&str, bool, &str); 20] = [
    ("arcee_fusion", true, ""),
    ("breadcrumbs", true, "density: 0.6, gamma: 0.02"),
    ("breadcrumbs_ties", true, "density: 0.6, gamma: 0.02"),
    ("dare_linear", true, "density: 0.4"),
    ("dare_ties", true, "density: 0.4"),
    ("della", true, "density: 0.4"),
    ("della_linear", true, "density: 0.4"),
    ("karcher", false, ""),
    ("linear", false, ""),
    ("model_stock", true, ""),
    ("multislerp", true, ""),
    ("nearswap", true, "t: 0.01"),
    ("nuslerp", true, "nuslerp_flatten: false"),
    ("passthrough", false, "scale: 0.7"),
    ("ram", true, "epsilon: 0.01"),
    ("ramplus_tl", true, "epsilon: 0.01"),
    ("sce", true, "select_topk: 0.3"),
    ("slerp", true, "t: 0.3"),
    ("task_arithmetic", true, ""),
    ("ties", true, "density: 0.4"),
];

#[test]
fn every_method_gives_the_same_bytes_whatever_the_threads_and_the_shards() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    // Embeddings of several blocks, the last one shorter.
    for (seed, name) in (1..).zip(["base", "a", "b"]) {
        synthetic_with(&root.join(name), seed, [1, 2_100, 64]);
    }
    for (method, with_base, parameters) in METHODS {
        let others = match method {
            "passthrough" | "slerp" | "nearswap" | "arcee_fusion" => &["a"][..],
            _ => &["a", "b"],
        };
        let mut recipe = format!("merge_method: {method}\nmodels:\n");
        for other in others {
            recipe += &format!("  - model: {}\n", root.join(other).display());
        }
        if with_base {
            recipe += &format!("base_model: {}\n", root.join("base").display());
        }
        let weight = match method {
            "linear" | "multislerp" | "nuslerp" => true,
            _ => parameters.contains("density") || method == "task_arithmetic",
        };
        let weight = if weight { "weight: 0.4, " } else { "" };
        recipe += &format!("parameters: {{{weight}{parameters}}}\n");
        for dtype in ["bfloat16", "float32"] {
            let recipe = format!("{recipe}dtype: {dtype}\n");
            let run = |threads, shard_bytes| {
                let options = MergeOptions {
                    randomness: Randomness::Reference(7),
                    shard_bytes,
                    threads: Some(threads),
                    ..options()
                };
                let out = root.join("out");
                merge(&recipe, options, &out);
                let files = safetensors_in(&out);
                let bytes = files.values().map(|path| std::fs::read(path).unwrap());
                (bytes.collect::<Vec<_>>(), tensors_in(&out))
            };
            let (bytes, tensors) = run(1, u64::MAX);
            assert!(run(2, u64::MAX).0 == bytes, "{method} {dtype}: 2 threads");
            assert!(run(2, u64::MAX).0 == bytes, "{method} {dtype}: again");
            assert!(run(3, 40_000).1 == tensors, "{method} {dtype}: shards");
        }
    }
}

const DELLA: &str = "
merge_method: della
base_model: models/Qwen2.5-7B
models:
  - model: models/Qwen2.5-7B-Instruct
    parameters: {density: 0.5, weight: 0.5}
  - model: saves/Qwen2.5-7B-long-cot
    parameters: {density: 0.6, weight: 0.5}
dtype: bfloat16
";

const SCE: &str = "
merge_method: sce
base_model: models/Qwen2.5-7B
models:
  - model: models/Qwen2.5-7B-Instruct
  - model: saves/Qwen2.5-7B-long-cot
parameters: {select_topk: 0.3}
";

#[test]
fn a_mask_file_repeats_the_seeded_merge() {
    let Some(golden) = golden() else { return };
    for case in ["dare_ties_seeded_bf16", "dare_ties_seeded_f32_three"] {
        let case = golden.join("merge").join(case);
        let recipe = std::fs::read_to_string(case.join("config.yml")).unwrap();
        let out = tempfile::tempdir().unwrap();
        let out = out.path().join("out");
        let randomness = Randomness::Masks(case.join("masks.safetensors"));
        // The file names models as the case's recipe does, so its paths stay as they are.
        let fetch = {
            let golden = golden.clone();
            move |path: &str, _: Option<&str>| Ok(golden.join(path))
        };
        let options = MergeOptions {
            randomness,
            fetch: Box::new(fetch),
            ..options()
        };
        merge(&recipe, options, &out);
        let rule: Value =
            serde_json::from_slice(&std::fs::read(case.join("case.json")).unwrap()).unwrap();
        assert_eq!(difference(&case, &rule["compare"], &tensors_in(&out)), None);
    }
}

#[test]
fn mistakes_are_refused_before_any_output() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    models_of_recipes(root);
    let base = "base_model: models/Qwen2.5-7B\n";
    let two = "models: [{model: models/Qwen2.5-7B}, {model: models/Qwen2.5-7B-Instruct}]\n";
    let cases = [
        (format!("merge_method: slerp\n{two}parameters: {{t: 0.5}}"), "slerp needs a `base_model`"),
        (format!("merge_method: slerp\n{base}{two}"), "slerp needs `t`"),
        (format!("merge_method: ties\n{base}{two}"), "ties needs `weight` for model"),
        (format!("merge_method: passthrough\n{two}"), "takes exactly 1 inputs, found 2"),
        (format!("merge_method: model_stock\n{base}{two}"), "takes at least 3 inputs, found 2"),
        (format!("merge_method: linear\n{two}parameters: {{weight: 0}}"), "the weights add up to zero"),
        (
            format!("merge_method: della\n{base}{two}parameters: {{weight: 1, density: 0.9, epsilon: 0.2}}"),
            "density ± epsilon must lie inside (0, 1)",
        ),
        ("merge_method: passthrough\nmodels: [{model: models/none}]".to_owned(), "models/none"),
        (
            "merge_method: passthrough\nslices: [{sources: [{model: models/Qwen2.5-7B, layer_range: [0, 99]}]}]".to_owned(),
            "exceeds the 28 layers",
        ),
        (
            format!("merge_method: linear\n{base}slices: [{{sources: [{{model: models/Qwen2.5-7B, layer_range: [0, 2]}}, {{model: models/Qwen2.5-7B-Instruct, layer_range: [0, 3]}}]}}]"),
            "gives 3 layers, the first input of the slice 2",
        ),
        (format!("merge_method: linear\n{two}parameters: {{weight: 1}}\nchat_template: chatmll"), "chat_template `chatmll`"),
    ];
    for (recipe, expected) in cases {
        let recipe = Recipe::parse(&from_root(&recipe, root), false).unwrap();
        let error = match Merge::prepare(&recipe, options()) {
            Ok(_) => panic!("accepted: {}", recipe.text),
            Err(error) => error.to_string(),
        };
        assert!(error.contains(expected), "{}\n-> {error}", recipe.text);
    }
}

#[test]
fn an_output_that_is_an_input_or_foreign_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    models_of_recipes(root);
    let recipe = "merge_method: passthrough\nmodels: [{model: models/Qwen2.5-7B}]";
    let recipe = Recipe::parse(&from_root(recipe, root), false).unwrap();
    let merge = Merge::prepare(&recipe, options()).unwrap();
    assert!(
        merge
            .write(&root.join("models/Qwen2.5-7B"), &|_| ())
            .is_err()
    );
    assert!(
        merge
            .write(&root.join("models/Qwen2.5-7B-Instruct"), &|_| ())
            .is_err()
    );
    assert!(merge.write(&root.join("models"), &|_| ()).is_err());
    merge.write(&root.join("out"), &|_| ()).unwrap();
    merge.write(&root.join("out"), &|_| ()).unwrap();
}

/// A copy of a model's folder with the safetensors header's names changed (to ones of equal length).
fn renamed(from: &Path, to: &Path, old: &str, new: &str) {
    assert_eq!(old.len(), new.len());
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        if path.extension().is_some_and(|e| e == "safetensors") {
            let at = bytes.windows(old.len()).position(|w| w == old.as_bytes());
            let at = at.expect("the model has that tensor");
            bytes[at..at + new.len()].copy_from_slice(new.as_bytes());
        }
        std::fs::write(to.join(path.file_name().unwrap()), bytes).unwrap();
    }
}

#[test]
fn lenient_does_as_the_reference_where_that_harms() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let model = root.join("a");
    synthetic_with(&model, 1, [2, 300, 64]);
    let prepare = |text: &str, lenient: bool| {
        let recipe = Recipe::parse(text, lenient).map_err(|e| e.to_string())?;
        let options = MergeOptions {
            lenient,
            ..options()
        };
        let merge = Merge::prepare(&recipe, options).map_err(|e| e.to_string())?;
        let warnings = merge.warnings.join("\n");
        let out = root.join("out");
        merge.write(&out, &|_| ()).unwrap();
        Ok::<_, String>((warnings, tensors_in(&out)))
    };
    let recipe = |folder: &Path, more: &str| {
        let folder = folder.display();
        format!("merge_method: linear\nmodels: [{{model: {folder}}}]\n{more}")
    };
    let weight = "parameters: {weight: 1}";

    // A mistyped parameter.
    let mistyped = recipe(&model, "parameters: {weight: 1, normalise: false}");
    let error = prepare(&mistyped, false).unwrap_err();
    assert!(
        error.contains("normalize") && error.contains("line 3"),
        "{error}"
    );
    assert!(prepare(&mistyped, true).unwrap().0.contains("normalise"));

    // A tensor that no table knows: dropped, and only that one.
    let odd = root.join("odd");
    let bias = "model.layers.1.self_attn.q_proj.bias";
    let unknown = "model.layers.1.self_attn.q_proj.what";
    renamed(&model, &odd, bias, unknown);
    for lenient in [false, true] {
        let error = prepare(&recipe(&odd, weight), lenient).unwrap_err();
        // The tensor that is missing now is refused either way.
        assert!(
            error.contains(if lenient { bias } else { unknown }),
            "{error}"
        );
    }
    let deeper = root.join("deeper");
    synthetic_with(&deeper, 1, [2, 300, 64]);
    let mut config: Value =
        serde_json::from_slice(&std::fs::read(deeper.join("config.json")).unwrap()).unwrap();
    config["num_hidden_layers"] = 1.into();
    std::fs::write(deeper.join("config.json"), config.to_string()).unwrap();
    let names: Vec<String> = prepare(&recipe(&model, weight), false)
        .unwrap()
        .1
        .into_keys()
        .collect();
    match prepare(&recipe(&deeper, weight), false) {
        Err(error) => assert!(error.contains("model.layers.1."), "{error}"),
        Ok((_, tensors)) => panic!(
            "dropped layers in silence: {} of {}",
            tensors.len(),
            names.len()
        ),
    }
    let (warnings, tensors) = prepare(&recipe(&deeper, weight), true).unwrap();
    assert!(warnings.contains("deeper"), "{warnings}");
    let first_layer = |name: &&String| !name.contains(".layers.1.");
    assert!(tensors.keys().eq(names.iter().filter(first_layer)));
}

#[test]
fn lenient_leaves_the_tying_flag() {
    let Some(golden) = golden() else { return };
    let case = golden.join("merge/tied_and_untied_lm_head/config.yml");
    let recipe = rooted(&std::fs::read_to_string(case).unwrap(), &golden);
    for lenient in [false, true] {
        let out = tempfile::tempdir().unwrap();
        let out = out.path().join("out");
        merge(
            &recipe,
            MergeOptions {
                lenient,
                ..options()
            },
            &out,
        );
        let config = std::fs::read(out.join("config.json")).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        assert_eq!(config["tie_word_embeddings"], lenient);
        assert!(tensors_in(&out).contains_key("lm_head.weight"));
    }
}

#[test]
fn a_check_reports_task_vectors_and_writes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    models_of_recipes(root);
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/merge/dare_ties.yml");
    let recipe = from_root(&std::fs::read_to_string(recipe).unwrap(), root);
    let recipe = Recipe::parse(&recipe, false).unwrap();
    let merge = Merge::prepare(&recipe, options()).unwrap();
    let report = merge.check().unwrap();
    assert_eq!(report.num_tensors, 28 * 12 + 2);
    assert_eq!(report.deltas.len(), 2 * report.num_tensors);
    assert_eq!(
        report.vocabularies.last().unwrap().1,
        20_096,
        "19,993 tokens, padded to 128s"
    );
    assert!(
        report
            .deltas
            .iter()
            .all(|d| d.mean > 0.0 && d.mean < d.max && d.changed > 0.5)
    );
    assert!(
        report.warnings.iter().any(|w| w.contains("DARE")),
        "{:?}",
        report.warnings
    );
    assert_eq!(std::fs::read_dir(root).unwrap().count(), 2);
}

#[test]
fn parameters_resolve_as_in_the_reference() {
    let Some(golden) = golden() else { return };
    let rows = std::fs::read(golden.join("merge/parameters.json")).unwrap();
    let rows: Vec<Value> = serde_json::from_slice(&rows).unwrap();
    for row in &rows {
        let yaml = row["setting"].to_string();
        let setting = Setting::from_yaml("weight", &yaml).unwrap();
        let tensor = row["tensor"].as_str().unwrap();
        let value = setting.resolve(tensor, row["t"].as_f64().unwrap());
        match (&row["value"], value) {
            (Value::Null, None) => {}
            (Value::Bool(expected), Some(value)) => assert_eq!(*expected, value.flag(), "{row}"),
            (Value::Number(expected), Some(value)) => {
                assert_eq!(expected.as_f64(), Some(value.number()), "{row}");
            }
            _ => panic!("{row}: {value:?}"),
        }
    }
}
