//! `--model` and `--model_args` as people type them for lm_eval: which model is meant, what of it
//! this engine does, and what it does not, said aloud.

use serde_json::{Map, Value};

use crate::engine::{ComputeType, Device};
use crate::task::{parse_kwargs, python};

use super::server_args::{self, ServerArgs};
use crate::cli::exit::usage;

/// Names of lm_eval's local engines; all of them mean our own.
const LOCAL_BACKENDS: [&str; 8] = [
    "hf",
    "hf-auto",
    "huggingface",
    "vllm",
    "vllm-vlm",
    "sglang",
    "gguf",
    "ggml",
];
/// Keys that are read.
const KEYS: [&str; 25] = [
    "pretrained",
    "model",
    "path",
    "tokenizer",
    "revision",
    "dtype",
    "max_model_len",
    "max_length",
    "max_num_seqs",
    "max_gen_toks",
    "gpu_memory_utilization",
    "quantization",
    "seed",
    "add_bos_token",
    "enable_thinking",
    "think_end_token",
    "chat_template_args",
    "lora_local_path",
    "truncation_side",
    "tensor_parallel_size",
    "data_parallel_size",
    "enforce_eager",
    "trust_remote_code",
    "swap_space",
    "device",
];

/// The model of a run, resolved from both flags.
#[derive(Clone, Debug, Default)]
pub(super) struct ModelArgs {
    /// `--model` as results show it.
    pub(super) backend: String,
    /// The arguments as results show them.
    pub(super) text: String,
    /// The arguments as a dictionary, which the reference records in each task's metadata.
    pub(super) parsed: Map<String, Value>,
    /// A path or the id of a model on the hub.
    pub(super) pretrained: String,
    /// A revision of it on the hub.
    pub(super) revision: Option<String>,
    /// A LoRA adapter to fold in: a path or an id on the hub.
    pub(super) adapter: Option<String>,
    /// Tokens of prompt and answer together.
    pub(super) max_model_len: Option<usize>,
    /// Sequences in flight.
    pub(super) max_num_seqs: Option<usize>,
    /// The cap on new tokens where a task has none.
    pub(super) max_gen_toks: Option<usize>,
    /// Where the model runs.
    pub(super) device: Option<Device>,
    /// Devices that the model is to be spread over; 0 and 1 ask for nothing.
    pub(super) num_devices: usize,
    /// What weights are multiplied in.
    pub(super) compute_type: Option<ComputeType>,
    /// Seed of sampling.
    pub(super) seed: Option<u64>,
    /// Whether prompts get a BOS.
    pub(super) add_bos_token: Option<bool>,
    /// The template variable of that name.
    pub(super) enable_thinking: bool,
    /// Only what follows this text is graded.
    pub(super) think_end_token: Option<String>,
    /// More template variables.
    pub(super) chat_template_args: Map<String, Value>,
    /// The server that runs the model, where one does.
    pub(super) server: Option<ServerArgs>,
    /// What the user should know, a sentence each.
    pub(super) notes: Vec<String>,
}

impl ModelArgs {
    /// Reads both flags. `model_args` are the texts given, each `k=v,k=v` or JSON.
    pub(super) fn new(model: &str, model_args: &[String]) -> anyhow::Result<Self> {
        let mut parsed = Map::new();
        for text in model_args {
            parsed.extend(parse_kwargs(text).map_err(usage)?);
        }
        let mut args = Self {
            backend: model.to_owned(),
            text: model_args.join(","),
            ..Self::default()
        };
        if server_args::is_server(model) {
            args.read_server(model, &parsed)?;
            args.parsed = parsed;
            return Ok(args);
        }
        if LOCAL_BACKENDS.contains(&model) {
            args.notes.push(format!(
                "--model {model}: the model runs in micota's own engine"
            ));
        } else {
            parsed.shift_insert(0, "pretrained".to_owned(), model.into());
            args.backend = "micota".to_owned();
            let rest = if args.text.is_empty() { "" } else { "," };
            args.text = format!("pretrained={model}{rest}{}", args.text);
        }
        args.read(&parsed)?;
        args.parsed = parsed;
        Ok(args)
    }

    fn read(&mut self, parsed: &Map<String, Value>) -> anyhow::Result<()> {
        known_keys(parsed, &KEYS)?;
        let text = |key: &str| parsed.get(key).filter(|v| !v.is_null()).map(python::text);
        let named = ["pretrained", "model", "path"].into_iter().find_map(text);
        self.pretrained = named.ok_or_else(|| {
            usage(anyhow::anyhow!(
                "--model {}: which model? add --model_args pretrained=PATH, or give the path as \
                 --model PATH",
                self.backend
            ))
        })?;
        self.adapter = text("lora_local_path");
        self.revision = text("revision").filter(|revision| revision != "main");
        self.max_model_len = max_model_len(parsed)?;
        self.max_num_seqs = count(parsed, "max_num_seqs")?;
        self.add_bos_token = flag(parsed, "add_bos_token")?;
        self.read_common(parsed)?;
        self.compute_type = match text("dtype") {
            None => None,
            Some(dtype) => self.dtype(&dtype)?,
        };
        let device = text("device").map(|device| device.parse());
        self.device = device
            .transpose()
            .map_err(|error: String| usage(anyhow::anyhow!("--model_args device: {error}")))?;
        self.refuse(parsed, &text)?;
        self.note(parsed, &text);
        Ok(())
    }

    /// What both our engine and a server are told.
    fn read_common(&mut self, parsed: &Map<String, Value>) -> anyhow::Result<()> {
        self.max_gen_toks = count(parsed, "max_gen_toks")?;
        self.seed = count(parsed, "seed")?.map(|seed| seed as u64);
        self.enable_thinking = flag(parsed, "enable_thinking")?.unwrap_or(false);
        let think_end = parsed.get("think_end_token").filter(|v| !v.is_null());
        self.think_end_token = think_end.map(python::text);
        match parsed.get("chat_template_args") {
            None | Some(Value::Null) => {}
            Some(Value::Object(variables)) => self.chat_template_args = variables.clone(),
            Some(_) => {
                return Err(usage(anyhow::anyhow!(
                    "--model_args chat_template_args: expected a JSON object; give all of \
                     --model_args as JSON"
                )));
            }
        }
        Ok(())
    }

    fn read_server(&mut self, model: &str, parsed: &Map<String, Value>) -> anyhow::Result<()> {
        known_keys(parsed, &server_args::KEYS)?;
        self.read_common(parsed)?;
        let server = ServerArgs::new(model, parsed, &mut self.notes)?;
        self.pretrained = server.model.clone();
        self.server = Some(server);
        Ok(())
    }

    fn dtype(&mut self, dtype: &str) -> anyhow::Result<Option<ComputeType>> {
        match dtype {
            "auto" => Ok(None),
            "float32" | "f32" | "fp32" | "float" => Ok(Some(ComputeType::F32)),
            "bfloat16" | "bf16" => Ok(Some(ComputeType::Bf16)),
            "float16" | "f16" | "fp16" | "half" => {
                self.notes.push(format!(
                    "dtype={dtype}: the engine multiplies in bf16 (or f32 with --dtype f32); bf16 is used"
                ));
                Ok(Some(ComputeType::Bf16))
            }
            _ => Err(usage(anyhow::anyhow!(
                "--model_args dtype={dtype}: expected auto, float32, bfloat16 or float16"
            ))),
        }
    }

    /// What would change the answers and is not done.
    fn refuse(
        &self,
        parsed: &Map<String, Value>,
        text: &dyn Fn(&str) -> Option<String>,
    ) -> anyhow::Result<()> {
        if let Some(tokenizer) = text("tokenizer").filter(|t| *t != self.pretrained) {
            return Err(usage(anyhow::anyhow!(
                "--model_args tokenizer={tokenizer}: a model runs with its own tokenizer here; put \
                 these tokenizer files into the model's folder"
            )));
        }
        if let Some(side) = text("truncation_side").filter(|side| side != "left") {
            return Err(usage(anyhow::anyhow!(
                "--model_args truncation_side={side}: prompts are never cut here, and the \
                 reference cuts on the left"
            )));
        }
        if let Some(quantization) = text("quantization").filter(|q| q != "None") {
            return Err(usage(anyhow::anyhow!(
                "--model_args quantization={quantization}: not applied here; give a quantised \
                 GGUF file as the model"
            )));
        }
        if flag(parsed, "trust_remote_code")? == Some(true) {
            tracing::debug!("trust_remote_code: there is no Python here to trust");
        }
        Ok(())
    }

    /// What has no effect on answers and is not done either.
    fn note(&mut self, parsed: &Map<String, Value>, text: &dyn Fn(&str) -> Option<String>) {
        let size = |key: &str| parsed.get(key).and_then(Value::as_u64).unwrap_or(1);
        self.num_devices = usize::try_from(size("tensor_parallel_size")).unwrap_or(usize::MAX);
        let copies = size("data_parallel_size");
        if copies > 1 {
            self.notes.push(format!(
                "data_parallel_size={copies}: one process with the model once; the answers are \
                 the same"
            ));
        }
        let without_effect = [
            (
                "gpu_memory_utilization",
                "the KV cache takes what is free; --kv-memory sizes it",
            ),
            (
                "swap_space",
                "there is no swap; a full KV cache preempts and recomputes",
            ),
            (
                "trust_remote_code",
                "code of a model repository is never run; there is no Python",
            ),
            (
                "enforce_eager",
                "there is nothing to compile here, every step runs as it comes",
            ),
        ];
        for (key, why) in without_effect {
            let on = text(key).filter(|value| value != "False");
            if let Some(value) = on {
                self.notes.push(format!("{key}={value}: {why}"));
            }
        }
    }
}

fn known_keys(parsed: &Map<String, Value>, known: &[&str]) -> anyhow::Result<()> {
    match parsed.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(unknown(key, known)),
        None => Ok(()),
    }
}

fn max_model_len(parsed: &Map<String, Value>) -> anyhow::Result<Option<usize>> {
    let both = (
        count(parsed, "max_model_len")?,
        count(parsed, "max_length")?,
    );
    match both {
        (Some(_), Some(_)) => Err(usage(anyhow::anyhow!(
            "--model_args: max_model_len and max_length are the same setting; give one of them"
        ))),
        (len, other) => Ok(len.or(other)),
    }
}

pub(super) fn count(parsed: &Map<String, Value>, key: &str) -> anyhow::Result<Option<usize>> {
    match parsed.get(key).filter(|value| !value.is_null()) {
        None => Ok(None),
        Some(value) => {
            let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
            count.map(Some).ok_or_else(|| {
                usage(anyhow::anyhow!(
                    "--model_args {key}={}: expected a whole number",
                    python::text(value)
                ))
            })
        }
    }
}

pub(super) fn flag(parsed: &Map<String, Value>, key: &str) -> anyhow::Result<Option<bool>> {
    match parsed.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(*value)),
        Some(value) => Err(usage(anyhow::anyhow!(
            "--model_args {key}={}: expected True or False",
            python::text(value)
        ))),
    }
}

fn unknown(key: &str, known: &[&str]) -> anyhow::Error {
    let nearest = known
        .iter()
        .min_by_key(|known| strsim::damerau_levenshtein(key, known))
        .filter(|known| strsim::damerau_levenshtein(key, known) <= 1 + key.len() / 3);
    let hint = nearest.map_or_else(String::new, |known| format!(", did you mean `{known}`?"));
    usage(anyhow::anyhow!(
        "--model_args: unknown key `{key}`{hint}; known: {}",
        known.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(model: &str, model_args: &str) -> anyhow::Result<ModelArgs> {
        ModelArgs::new(model, &[model_args.to_owned()])
    }

    #[test]
    fn the_seed_command_is_understood() {
        let text = "pretrained=saves/model,tensor_parallel_size=4,gpu_memory_utilization=0.85,\
                    max_model_len=16000,enforce_eager=True";
        let args = read("vllm", text).unwrap();
        assert_eq!(args.backend, "vllm");
        assert_eq!(args.text, text);
        assert_eq!(args.pretrained, "saves/model");
        assert_eq!(args.max_model_len, Some(16000));
        assert_eq!(args.parsed["enforce_eager"], true);
        assert_eq!(args.num_devices, 4);
        let notes = args.notes.join("\n");
        assert!(notes.contains("gpu_memory"), "{notes}");
    }

    #[test]
    fn a_path_is_a_model() {
        let args = ModelArgs::new("saves/model", &[]).unwrap();
        assert_eq!(
            (args.backend.as_str(), args.pretrained.as_str()),
            ("micota", "saves/model")
        );
        assert_eq!(args.text, "pretrained=saves/model");
        assert!(args.notes.is_empty());
        let args = read("saves/model", "max_gen_toks=32").unwrap();
        assert_eq!(args.text, "pretrained=saves/model,max_gen_toks=32");
        assert_eq!(args.max_gen_toks, Some(32));
    }

    #[test]
    fn wrong_arguments_are_named() {
        for (text, part) in [
            (
                "pretrained=a,max_modellen=5",
                "did you mean `max_model_len`?",
            ),
            (
                "pretrained=a,max_model_len=5,max_length=6",
                "the same setting",
            ),
            ("pretrained=a,max_model_len=-5", "whole number"),
            ("dtype=auto", "pretrained=PATH"),
            ("pretrained=a,dtype=int3", "expected auto"),
            ("pretrained=a,tokenizer=b", "its own tokenizer"),
            ("pretrained=a,add_bos_token=maybe", "True or False"),
        ] {
            let error = read("hf", text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
