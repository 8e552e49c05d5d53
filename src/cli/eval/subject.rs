//! What is evaluated: a model in our own engine, or one behind a server.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use serde_json::{Map, Value, json};

use super::model_args::ModelArgs;
use super::server_args::ServerArgs;
use crate::cli::engine_args::EngineArgs;
use crate::cli::exit::usage;
use crate::cli::model_source::ModelSource;
use crate::cli::notice::notice;
use crate::cli::prompting::PromptArgs;
use crate::engine::{Device, LoadedModel, ModelInfo, Request, RequestError, Tokenizer};
use crate::eval::Generator;
use crate::eval::endpoint::{EndpointGenerator, Wire};
use crate::eval::plan::PlannedTask;
use crate::eval::prepare::{PromptEncoder, TextOnly};
use crate::eval::record::request_id;
use crate::formats::Checkpoint;
use crate::task::ChatTemplate;

/// The messages of a prompt as JSON, as lm_eval writes them down: what a chat server's own template
/// is applied to.
const MESSAGES: &str = "[{% for message in messages %}{\"role\": {{ message.role|tojson }}, \
    \"content\": {{ message.content|tojson }}, \"type\": \"text\"}\
    {% if not loop.last %}, {% endif %}{% endfor %}]";

/// What is evaluated, ready for prompts.
pub(super) enum Subject {
    /// A model in our engine.
    Engine {
        source: ModelSource,
        loaded: Box<LoadedModel>,
    },
    /// A model behind a server.
    Server {
        args: ServerArgs,
        /// The model's tokenizer, where it is on this machine.
        tokenizer: Option<Arc<Tokenizer>>,
        /// What stands in for it.
        text_only: TextOnly,
    },
}

impl Subject {
    /// Loads the model, or makes ready to ask its server.
    pub(super) fn open(
        model: &ModelArgs,
        engine: &EngineArgs,
        max_num_seqs: Option<usize>,
    ) -> anyhow::Result<Self> {
        if let Some(args) = &model.server {
            if !engine.is_default() || max_num_seqs.is_some() {
                notice(
                    "the engine's flags and --batch_size change nothing here, the model runs on \
                     its server; --model_args num_concurrent=N asks for N answers at once",
                );
            }
            return Self::server(args);
        }
        let source = ModelSource::find_at(
            &model.pretrained,
            model.revision.as_deref(),
            model.adapter.as_deref(),
        )?;
        let loaded = engine.load_with(source.path(), |options| {
            options.max_model_len = model.max_model_len.or(options.max_model_len);
            options.max_num_seqs = options.max_num_seqs.or(max_num_seqs);
            options.compute_type = model.compute_type.unwrap_or(options.compute_type);
            if let (None, Some(device)) = (engine.device(), &model.device) {
                options.device = device.clone();
            }
            if model.num_devices > 1 {
                let (device, note) = spread(&options.device, model.num_devices);
                options.device = device;
                notice(&note);
            }
        })?;
        let loaded = Box::new(loaded);
        Ok(Self::Engine { source, loaded })
    }

    fn server(args: &ServerArgs) -> anyhow::Result<Self> {
        let tokenizer = match &args.tokenizer {
            None => None,
            Some(path) => {
                let read = || -> anyhow::Result<Tokenizer> {
                    let checkpoint = Checkpoint::open(Path::new(path))?;
                    Ok(Tokenizer::from_checkpoint(&checkpoint)?)
                };
                let tokenizer = read()
                    .with_context(|| format!("--model_args tokenizer={path}"))
                    .map_err(usage)?;
                Some(Arc::new(tokenizer))
            }
        };
        let (url, wire) = (&args.url, args.wire.name());
        notice(&format!(
            "model {} at {url}; prompts travel as {wire}",
            args.model
        ));
        Ok(Self::Server {
            args: args.clone(),
            tokenizer,
            text_only: TextOnly {
                eos_text: args.eos_string.clone(),
            },
        })
    }

    /// The tokenizer, where one is on this machine.
    pub(super) fn tokenizer(&self) -> Option<&Tokenizer> {
        match self {
            Self::Engine { loaded, .. } => Some(&loaded.tokenizer),
            Self::Server { tokenizer, .. } => tokenizer.as_deref(),
        }
    }

    /// The template that prompts are rendered with, if one is asked for.
    pub(super) fn chat_template(&self, args: &PromptArgs) -> anyhow::Result<Option<ChatTemplate>> {
        let wire = match self {
            Self::Engine { .. } => None,
            Self::Server { args, .. } => Some(args.wire),
        };
        if wire == Some(Wire::Chat) {
            if !args.wants_template() {
                return Err(usage(anyhow::anyhow!(
                    "a chat server is sent messages: add --apply_chat_template (the server's own \
                     template is applied), or use local-completions"
                )));
            }
            return Ok(Some(ChatTemplate::new(MESSAGES, &[])?));
        }
        match self.tokenizer() {
            Some(tokenizer) => args.chat_template(tokenizer),
            None if args.wants_template() => Err(usage(anyhow::anyhow!(
                "--apply_chat_template: the template is the model's, which the server has; use \
                 local-chat-completions, or add --model_args tokenizer=FOLDER"
            ))),
            None => Ok(None),
        }
    }

    /// How prompts become requests.
    pub(super) fn encoder(&self) -> &dyn PromptEncoder {
        match self {
            Self::Engine { loaded, .. } => &*loaded.tokenizer,
            Self::Server {
                args,
                tokenizer: Some(tokenizer),
                ..
            } if args.wire == Wire::Tokens => &**tokenizer,
            Self::Server { text_only, .. } => text_only,
        }
    }

    /// See [`Generator::check`].
    pub(super) fn check(&self, request: &Request) -> Result<usize, RequestError> {
        match self {
            Self::Engine { loaded, .. } => loaded.engine.check(request),
            // The server knows its context, we do not.
            Self::Server { .. } => Ok(request.params.max_gen_toks),
        }
    }

    /// What an answer depends on beside tasks and seed. Threads, batch and memory are not in it:
    /// they never change an answer, or [`Self::identity`] says `batch_invariant: false`. Nor is a
    /// server's address, which may be another one when the run goes on.
    pub(super) fn settings(&self) -> Map<String, Value> {
        match self {
            Self::Engine { loaded, .. } => object(json!({
                "model_fingerprint": loaded.info.fingerprint,
                "compute_type": loaded.info.compute_name(),
                "weights": loaded.info.weights_name(),
                "kv_dtype": loaded.info.kv_name(),
                "device": loaded.info.device,
                "engine": loaded.info.executor.name(),
                "kernels": loaded.info.kernels,
            })),
            Self::Server { args, .. } => object(json!({
                "served_model": args.model,
                "wire": args.wire.name(),
            })),
        }
    }

    /// What a manifest says about the model.
    pub(super) fn identity(&self) -> Map<String, Value> {
        match self {
            Self::Engine { source, loaded } => object(json!({
                "model_path": source.path().display().to_string(),
                "model_family": loaded.info.family,
                "model_parameters": loaded.info.num_parameters,
                "batch_invariant": loaded.info.is_batch_invariant,
            })),
            Self::Server { args, .. } => object(json!({
                "server": args.url,
                // Nobody here knows what a server batches with what.
                "batch_invariant": false,
            })),
        }
    }

    /// How this process runs; none of it changes an answer of a batch-invariant executor.
    pub(super) fn run_facts(&self) -> Map<String, Value> {
        match self {
            Self::Engine { loaded, .. } => engine_facts(&loaded.info),
            Self::Server { args, .. } => {
                object(json!({"num_concurrent": args.endpoint().num_concurrent}))
            }
        }
    }

    /// As lm_eval records the tokenizer: `[text, id]`, both as text.
    pub(super) fn tokenizer_facts(&self) -> Map<String, Value> {
        let Some(tokenizer) = self.tokenizer() else {
            return Map::new();
        };
        let pair = |text: Option<&str>, id: Option<u32>| {
            let id = id.map_or_else(|| "None".to_owned(), |id| id.to_string());
            json!([text, id])
        };
        let mut facts = object(json!({
            "tokenizer_pad_token": pair(tokenizer.pad_token(), tokenizer.pad_token_id()),
            "tokenizer_eos_token": pair(tokenizer.eos_token(), tokenizer.eos_token_id()),
            "tokenizer_bos_token": pair(tokenizer.bos_token(), tokenizer.bos_token_id()),
            "eot_token_id": tokenizer.eos_token_id(),
        }));
        if let Self::Engine { loaded, .. } = self {
            let max_length = loaded.info.config.max_model_len;
            facts.insert("max_length".to_owned(), max_length.into());
        }
        facts
    }

    /// The text of the token that ends a turn.
    pub(super) fn eos_text(&self) -> Option<String> {
        self.encoder().eos_text().map(str::to_owned)
    }

    /// Whoever writes the answers to these tasks.
    pub(super) fn generator(self, tasks: &[PlannedTask]) -> Box<dyn Generator> {
        match self {
            Self::Engine { loaded, .. } => Box::new(loaded.engine),
            Self::Server { args, .. } => {
                let docs = tasks.iter().flat_map(|task| {
                    let docs = task.docs.iter();
                    docs.map(|doc| (request_id(&task.name, doc.doc_id), doc.prompt.clone()))
                });
                let prompts: HashMap<u64, String> = docs.collect();
                Box::new(EndpointGenerator::new(
                    &args.client(),
                    args.endpoint(),
                    prompts,
                ))
            }
        }
    }
}

/// Where `tensor_parallel_size` lets a model run, and what to say about it: on as many graphics
/// processors, where there are, else as if it had not been said.
fn spread(device: &Device, num_devices: usize) -> (Device, String) {
    let asked = format!("tensor_parallel_size={num_devices}");
    match device.and_its_neighbours(num_devices) {
        Some(devices) => {
            let note = format!(
                "{asked}: {devices} hold a stretch of the layers each and work one after the \
                 other: room for a larger model, no more speed"
            );
            (devices, note)
        }
        None => {
            let note = format!("{asked}: device {device} as without it; the answers are the same");
            (device.clone(), note)
        }
    }
}

fn engine_facts(info: &ModelInfo) -> Map<String, Value> {
    object(json!({
        "threads": info.threads,
        "max_num_seqs": info.config.max_num_seqs,
        "max_num_batched_tokens": info.config.max_num_batched_tokens,
        "max_model_len": info.config.max_model_len,
        "block_size": info.block_size,
        "kv_blocks": info.num_blocks,
        "kv_bytes": info.kv_bytes,
        "weight_bytes": info.weight_bytes,
        "load_seconds": info.load_time.as_secs_f64(),
    }))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => unreachable!("written as an object"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_devices_that_are_not_there_changes_nothing_and_is_said() {
        let (device, note) = spread(&Device::Cpu, 4);
        assert_eq!(device, Device::Cpu);
        assert!(
            note.starts_with("tensor_parallel_size=4: device cpu"),
            "{note}"
        );
    }
}
