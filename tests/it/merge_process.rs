//! `micota merge` as a process: killed and started again, refused in time, and what memory it takes.
//!
//! Models here are files of holes: they take no disk, and all their weights are zero.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use micota::formats::SafetensorsFile;

/// Rows of the embedding: its merge takes long enough to be watched.
const ROWS: usize = 100_000;
const HIDDEN: usize = 1024;

/// A model of zeros whose embedding alone has 205 MB.
fn sparse_model(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
        "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
        "num_key_value_heads": 1, "vocab_size": ROWS, "tie_word_embeddings": true,
        "torch_dtype": "bfloat16",
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let square = vec![HIDDEN, HIDDEN];
    let mut shapes = BTreeMap::from([
        ("model.embed_tokens.weight".to_owned(), vec![ROWS, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
    ]);
    for (suffix, shape) in [
        ("input_layernorm", vec![HIDDEN]),
        ("post_attention_layernorm", vec![HIDDEN]),
        ("self_attn.q_proj", square.clone()),
        ("self_attn.k_proj", square.clone()),
        ("self_attn.v_proj", square.clone()),
        ("self_attn.o_proj", square),
        ("mlp.gate_proj", vec![8, HIDDEN]),
        ("mlp.up_proj", vec![8, HIDDEN]),
        ("mlp.down_proj", vec![HIDDEN, 8]),
    ] {
        shapes.insert(format!("model.layers.0.{suffix}.weight"), shape);
    }
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, shape) in shapes {
        let begin = end;
        end += 2 * shape.iter().product::<usize>();
        let row = serde_json::json!({
            "dtype": "BF16", "shape": shape, "data_offsets": [begin, end],
        });
        header.insert(name, row);
    }
    let mut header = serde_json::Value::Object(header).to_string();
    header += &" ".repeat(8 - header.len() % 8);
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    let path = folder.join("model.safetensors");
    std::fs::write(&path, &bytes).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len((bytes.len() + end) as u64).unwrap();
}

/// A recipe over three such models in `root`.
fn recipe(root: &Path) -> PathBuf {
    let mut text = "merge_method: dare_ties\ndtype: bfloat16\nmodels:\n".to_owned();
    for name in ["a", "b", "base"] {
        let folder = root.join(name);
        sparse_model(&folder);
        if name == "base" {
            text += &format!("base_model: {}\n", folder.display());
        } else {
            let parameters = "{weight: 0.5, density: 0.5}";
            text += &format!(
                "  - model: {}\n    parameters: {parameters}\n",
                folder.display()
            );
        }
    }
    let path = root.join("recipe.yml");
    std::fs::write(&path, text).unwrap();
    path
}

fn start(root: &Path, recipe: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_micota"));
    command.arg("merge").arg(recipe).arg(root.join("out"));
    command.args(["--quiet", "--random-seed", "1", "-j", "2"]);
    command.stderr(Stdio::null()).spawn().unwrap()
}

fn hidden_in(root: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root).unwrap().map(|e| e.unwrap().path());
    let hidden = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with('.');
    entries.filter(hidden).collect()
}

#[test]
fn a_killed_merge_leaves_no_output_and_the_next_one_succeeds() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let recipe = recipe(root);
    let mut child = start(root, &recipe);
    // Until it has begun to write tensors.
    let writing = || {
        let folders = hidden_in(root);
        let files = folders.iter().flat_map(|f| std::fs::read_dir(f).unwrap());
        files.count() > 0
    };
    while !writing() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success(), "killed before its end");
    assert!(!root.join("out").exists());
    assert_eq!(hidden_in(root).len(), 1, "what the next one clears away");
    assert!(start(root, &recipe).wait().unwrap().success());
    assert_eq!(hidden_in(root), [] as [PathBuf; 0]);
    let names = std::fs::read_dir(root.join("out")).unwrap();
    let partial = |name: &str| name.contains("partial");
    assert!(
        !names
            .into_iter()
            .any(|e| partial(&e.unwrap().file_name().to_string_lossy()))
    );
    let file = SafetensorsFile::open(&root.join("out/model.safetensors")).unwrap();
    let embedding = file.tensor("model.embed_tokens.weight").unwrap();
    assert_eq!(embedding.shape, [ROWS, HIDDEN]);
}

/// Anonymous memory (what is not the page cache's) while the embedding is merged. Holding it once
/// in float32 would take 410 MB.
#[cfg(target_os = "linux")]
#[test]
fn memory_does_not_grow_with_tensors() {
    const LIMIT_KB: u64 = 128 << 10;
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let mut child = start(root, &recipe(root));
    let status = format!("/proc/{}/status", child.id());
    let (mut peak_kb, mut samples) = (0, 0);
    while child.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kb = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok());
        peak_kb = peak_kb.max(kb.unwrap_or(0));
        samples += 1;
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(child.wait().unwrap().success());
    assert!(samples > 10 && peak_kb > 0, "{samples} samples");
    assert!(peak_kb < LIMIT_KB, "{peak_kb} kB");
}
