//! `micota export`: merges an adapter into its model, from flags or from LLaMA-Factory's export
//! recipe.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::{Map, Value};

use super::exit::{Exit, usage};
use super::notice::notice;
use crate::durable::write_atomic;
use crate::merge::{FloatType, Merge, MergeOptions, Randomness, Recipe};
use crate::train::probe::MergeProbe;

/// Merge a LoRA adapter into its model.
///
/// Writes a Hugging Face folder that needs no adapter any more, and checks that it gives the
/// losses that model and adapter give together. Takes LLaMA-Factory's export recipes
/// (model_name_or_path, adapter_name_or_path, export_dir, export_size) or flags.
#[derive(clap::Args)]
pub(super) struct Args {
    /// A recipe with export_dir.
    #[arg(conflicts_with_all = ["model", "adapter", "out"], required_unless_present = "model")]
    recipe: Option<PathBuf>,
    /// Settings over the recipe's.
    #[arg(value_name = "KEY=VALUE", requires = "recipe")]
    overrides: Vec<String>,
    /// The model, a Hugging Face folder.
    #[arg(long, requires = "adapter", requires = "out")]
    model: Option<PathBuf>,
    /// The adapter, a folder that PEFT or micota train has written.
    #[arg(long)]
    adapter: Option<PathBuf>,
    /// The folder to write. It appears when it is complete.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Type of the written weights; the model's own by default.
    #[arg(long, value_name = "DTYPE", value_parser = float_type)]
    dtype: Option<FloatType>,
    /// Do not compare losses afterwards (that takes the model's weights in f32 in memory).
    #[arg(long)]
    no_check: bool,
}

fn float_type(text: &str) -> Result<FloatType, String> {
    FloatType::from_name(text).ok_or_else(|| "expected bfloat16, float16 or float32".to_owned())
}

/// What is merged into what.
struct Job {
    model: PathBuf,
    adapter: PathBuf,
    out: PathBuf,
    shard_bytes: u64,
    dtype: Option<FloatType>,
}

/// LLaMA-Factory's default shard size, in units of 10^9 bytes.
const DEFAULT_EXPORT_SIZE: f64 = 5.0;

/// Files that an adapter's folder may hold beside the adapter.
const TOKENIZER_FILES: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
];

/// Keys of an export recipe that change nothing here.
const WITHOUT_EFFECT: &[&str] = &[
    "template",
    "finetuning_type",
    "trust_remote_code",
    "export_device",
    "stage",
];

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let job = match (&args.recipe, &args.model, &args.adapter, &args.out) {
        (None, Some(model), Some(adapter), Some(out)) => Job {
            model: model.clone(),
            adapter: adapter.clone(),
            out: out.clone(),
            shard_bytes: (DEFAULT_EXPORT_SIZE * 1e9) as u64,
            dtype: args.dtype,
        },
        (Some(recipe), ..) => {
            let mut job = read(recipe, &args.overrides).map_err(usage)?;
            job.dtype = args.dtype.or(job.dtype);
            job
        }
        _ => {
            return Err(usage(anyhow::anyhow!(
                "name a recipe, or --model, --adapter and --out"
            )));
        }
    };
    merge(&job)?;
    if !args.no_check {
        let probe = MergeProbe::measure(&job.model, &job.adapter, &job.out)?;
        notice(&format!(
            "mean loss on probe rows: model {:.6}, with adapter {:.6}, merged model {:.6}",
            probe.base, probe.adapted, probe.merged
        ));
        if !probe.agrees() {
            bail!(
                "{}: the merged model does not give what model and adapter give together; do not \
                 use it",
                job.out.display()
            );
        }
    }
    writeln!(std::io::stdout(), "{}", job.out.display())?;
    Ok(Exit::Done)
}

fn read(path: &Path, overrides: &[String]) -> anyhow::Result<Job> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| shown.to_string())?;
    let mut keys: Map<String, Value> =
        serde_saphyr::from_str(&text).with_context(|| shown.to_string())?;
    for setting in overrides {
        let (key, value) = setting
            .split_once('=')
            .with_context(|| format!("expected key=value, found {setting}"))?;
        keys.insert(key.to_owned(), serde_saphyr::from_str(value)?);
    }
    let mut take = |key: &str| keys.remove(key).filter(|value| !value.is_null());
    let folder = |value: Option<Value>, key: &str| match value {
        Some(Value::String(path)) => Ok(PathBuf::from(path)),
        Some(other) => bail!("{shown}: {key}: expected a folder, found {other}"),
        None => bail!("{shown}: {key} is missing"),
    };
    let model = folder(take("model_name_or_path"), "model_name_or_path")?;
    let adapter = folder(take("adapter_name_or_path"), "adapter_name_or_path")?;
    if adapter.to_string_lossy().contains(',') {
        bail!("{shown}: adapter_name_or_path: merge one adapter after the other");
    }
    let out = folder(take("export_dir"), "export_dir")?;
    let size = take("export_size").map_or(Some(DEFAULT_EXPORT_SIZE), |size| size.as_f64());
    let size = size.filter(|size| *size > 0.0 && *size < 1e6);
    let size = size.with_context(|| format!("{shown}: export_size: expected a number of GB"))?;
    let dtype = match take("infer_dtype") {
        None => None,
        Some(value) => match value.as_str() {
            Some("auto") => None,
            Some(name) => Some(
                FloatType::from_name(name)
                    .with_context(|| format!("{shown}: infer_dtype: unknown type {name}"))?,
            ),
            None => bail!("{shown}: infer_dtype: expected a name, found {value}"),
        },
    };
    if take("export_legacy_format").is_some_and(|legacy| legacy == true) {
        bail!("{shown}: export_legacy_format: models are written as safetensors only");
    }
    for (key, value) in &keys {
        if WITHOUT_EFFECT.contains(&key.as_str()) {
            continue;
        }
        if !value.is_null() {
            bail!("{shown}: {key} is not supported in an export");
        }
    }
    Ok(Job {
        model,
        adapter,
        out,
        shard_bytes: (size * 1e9) as u64,
        dtype,
    })
}

/// A merge of one model with its adapter folded in.
fn merge(job: &Job) -> anyhow::Result<()> {
    for folder in [&job.model, &job.adapter] {
        if folder.to_string_lossy().contains(['+', '@']) {
            bail!(
                "{}: folder names with + or @ cannot be told from the signs for adapters and \
                 revisions; rename it",
                folder.display()
            );
        }
    }
    let input = format!("{}+{}", job.model.display(), job.adapter.display());
    // A JSON string is a YAML string.
    let input = Value::String(input);
    let dtype = job.dtype.map_or(String::new(), |dtype| {
        format!("out_dtype: {}\n", dtype.name())
    });
    let text = format!("merge_method: passthrough\nmodels:\n  - model: {input}\n{dtype}");
    let recipe = Recipe::parse(&text, false)?;
    let merge = Merge::prepare(
        &recipe,
        MergeOptions {
            randomness: Randomness::Counter(0),
            shard_bytes: job.shard_bytes,
            copy_tokenizer: true,
            write_card: false,
            allow_crimes: false,
            truncate_embeddings: false,
            lenient: false,
            lora_dtype: Some(FloatType::F32).filter(|_| job.dtype == Some(FloatType::F32)),
            threads: None,
            fetch: Box::new(|name, _| Err(format!("{name} is no folder here"))),
        },
    )?;
    for warning in &merge.warnings {
        notice(&format!("warning: {warning}"));
    }
    merge.write(&job.out, &|_| {})?;
    // The adapter was trained with these; LLaMA-Factory may have changed EOS and chat template.
    for name in TOKENIZER_FILES {
        let own = job.adapter.join(name);
        if own.is_file() {
            let contents = std::fs::read(&own).with_context(|| own.display().to_string())?;
            write_atomic(&job.out.join(name), &contents)?;
        }
    }
    Ok(())
}
