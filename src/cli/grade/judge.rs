//! The judge of `micota grade`: a local model through our own engine, or a server.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::Args;
use crate::cli::exit::usage;
use crate::engine::{LoadedModel, Tokenizer};
use crate::eval::judge::{
    EndpointJudge, GeneratorJudge, Judge, JudgeJournal, JudgePrompt, MAX_JUDGE_TOKENS,
};
use crate::task::{ChatOptions, ChatTemplate, Message};

/// The environment variable that holds the judge's API key.
const KEY_VARIABLE: &str = "OPENAI_API_KEY";

/// Loads the judge, where it is a local model.
pub(super) fn load_local(args: &Args) -> anyhow::Result<Option<LoadedModel>> {
    let (Some(model), None) = (&args.judge_model, &args.judge_url) else {
        return Ok(None);
    };
    let path = Path::new(model);
    if !path.exists() {
        return Err(usage(anyhow::anyhow!(
            "--judge-model {model}: no such folder or file; a model's name needs --judge-url"
        )));
    }
    args.engine.load(path).map(Some)
}

/// The judge that the flags name, with its journal beside `out`.
pub(super) fn open<'a>(
    args: &Args,
    local: Option<&'a mut LoadedModel>,
    template: &str,
    out: &Path,
) -> anyhow::Result<Option<JudgeJournal<'a>>> {
    let Some(model) = &args.judge_model else {
        return Ok(None);
    };
    let mut settings = Map::new();
    settings.insert("template".to_owned(), json!(template));
    settings.insert("max_gen_toks".to_owned(), json!(MAX_JUDGE_TOKENS));
    let judge: Box<dyn Judge + 'a> = match (&args.judge_url, local) {
        (None, Some(local)) => {
            let fingerprint = json!(local.info.fingerprint);
            settings.insert("model_fingerprint".to_owned(), fingerprint);
            let compute_type = local.info.compute_type.to_string();
            settings.insert("compute_type".to_owned(), json!(compute_type));
            Box::new(engine_judge(local)?)
        }
        (url, _) => {
            let url = url.as_deref().unwrap_or_default();
            settings.insert("url".to_owned(), json!(url));
            settings.insert("model".to_owned(), json!(model));
            let key = std::env::var(KEY_VARIABLE).ok();
            Box::new(EndpointJudge::new(url, model, key))
        }
    };
    let journal = JudgeJournal::open(judge, &journal_path(out, &settings), &settings)?;
    Ok(Some(journal))
}

/// Our own engine as a judge. Questions are rendered by the model's chat template; a model without
/// one gets the seed's.
fn engine_judge(local: &mut LoadedModel) -> anyhow::Result<GeneratorJudge<'_>> {
    let tokenizer: &Tokenizer = &local.tokenizer;
    let template = match tokenizer.chat_template() {
        Some(source) => Some(
            ChatTemplate::new(source, &tokenizer.special_tokens())
                .context("the judge's chat template")?,
        ),
        None => None,
    };
    let stop_token_ids = tokenizer.eos_token_ids().to_vec();
    let encode = move |prompt: &JudgePrompt| {
        let text = match &template {
            None => prompt.chatml(),
            Some(template) => template
                .render(
                    &[Message::new("user", prompt.user.as_str())],
                    &ChatOptions::default(),
                )
                .map_err(|error| error.to_string())?,
        };
        let token_ids = tokenizer.encode(&text, false);
        token_ids.map_err(|error| error.to_string())
    };
    Ok(GeneratorJudge::new(
        &mut local.engine,
        Box::new(encode),
        stop_token_ids,
    ))
}

/// A hidden file beside the output; another judge or prompt has another one.
fn journal_path(out: &Path, settings: &Map<String, Value>) -> PathBuf {
    let sum = Sha256::digest(Value::Object(settings.clone()).to_string().as_bytes());
    let sum: String = sum[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    out.with_file_name(format!(".{name}.judge-{sum}.journal"))
}
