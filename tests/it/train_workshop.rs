//! A place to train in, for the other modules: a small model, data, recipes, and the command.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// `micota train` in a folder.
pub(crate) fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_micota"));
    command.arg("train").args(arguments).current_dir(folder);
    command
}

/// Runs a recipe in `folder`; it must succeed.
pub(crate) fn train(folder: &Path, arguments: &[&str]) -> Output {
    let output = command(folder, arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    output
}

/// The rows of a JSONL file.
pub(crate) fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// A JSON file.
pub(crate) fn read_json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A folder with a small untrained model, data and recipes: `full.yaml` trains the model, and
/// `lora.yaml` an adapter over what that gives.
pub(crate) struct Workshop {
    folder: tempfile::TempDir,
}

const CONFIG: &str = r#"{
  "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 300,
  "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
  "num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
  "rope_theta": 10000.0, "tie_word_embeddings": true, "initializer_range": 0.05,
  "dtype": "float32", "eos_token_id": 1
}"#;

const SETTINGS: &str = "stage: sft\ndataset: data.jsonl\ntemplate: qwen3_nothink\n\
    cutoff_len: 192\nlogging_steps: 1\nsave_steps: 1\nper_device_train_batch_size: 3\n\
    gradient_accumulation_steps: 2\nmax_steps: 6\nlr_scheduler_type: cosine\nwarmup_steps: 1\n\
    learning_rate: 1.0e-2\nweight_decay: 0.1\n";

impl Workshop {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model");
        std::fs::create_dir(&model).unwrap();
        std::fs::write(model.join("config.json"), CONFIG).unwrap();
        let full = format!(
            "model_name_or_path: model\ntrain_from_scratch: true\nfinetuning_type: full\n\
             output_dir: full\n{SETTINGS}"
        );
        let lora = format!(
            "model_name_or_path: full\nfinetuning_type: lora\nlora_rank: 4\nlora_dropout: 0.1\n\
             lora_target: q_proj,down_proj\nuse_rslora: true\noutput_dir: lora\n{SETTINGS}"
        );
        std::fs::write(folder.path().join("full.yaml"), full).unwrap();
        std::fs::write(folder.path().join("lora.yaml"), lora).unwrap();
        let this = Self { folder };
        this.micota(&[
            "data",
            "synth",
            "--count",
            "20",
            "--levels",
            "1",
            "--out",
            "data.jsonl",
        ]);
        this.micota(&[
            "data",
            "tokenizer",
            "--data",
            "data.jsonl",
            "--vocab-size",
            "300",
            "--out",
            "model",
        ]);
        this
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn micota(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_micota"));
        let output = command
            .args(arguments)
            .current_dir(self.path())
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {stderr}");
        output
    }

    /// Runs a recipe that must fail and gives its message.
    pub(crate) fn refused(&self, arguments: &[&str]) -> String {
        let output = command(self.path(), arguments).output().unwrap();
        assert!(!output.status.success(), "{arguments:?} succeeded");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    pub(crate) fn bytes(&self, path: &str) -> Vec<u8> {
        let path = self.path().join(path);
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// What a run's log says of each step, times left out.
    pub(crate) fn history(&self, output: &str) -> Vec<Value> {
        let state = read_json(&self.path().join(output).join("trainer_state.json"));
        let history = state["log_history"].as_array().unwrap().iter();
        history
            .filter(|entry| entry.get("loss").is_some())
            .cloned()
            .collect()
    }

    /// Resumes at every step and compares with the straight run, bit for bit.
    pub(crate) fn resumes_everywhere(&self, recipe: &str, output: &str, weights: &str) {
        let whole = self.bytes(&format!("{output}/{weights}"));
        for step in 1..6 {
            let again = format!("{output}-from-{step}");
            let output_dir = format!("output_dir={again}");
            let from = format!("resume_from_checkpoint={output}/checkpoint-{step}");
            train(self.path(), &[recipe, &output_dir, &from]);
            assert!(
                self.bytes(&format!("{again}/{weights}")) == whole,
                "{recipe}: step {step}"
            );
            assert_eq!(
                self.history(&again),
                self.history(output),
                "{recipe}: step {step}"
            );
            let moments =
                |run: &str| self.bytes(&format!("{run}/checkpoint-6/optimizer.safetensors"));
            assert!(moments(&again) == moments(output), "{recipe}: step {step}");
        }
    }
}
