//! A recipe to a run: model, adapters, rows and schedule read and checked before the first step.

use std::path::{Path, PathBuf};

use candle_core::{DType as TensorType, Tensor};
use serde_json::json;

use super::TrainError;
use super::adapter::AdapterConfig;
use super::checkpoint::Identity;
use super::corpus::{Corpus, Encoder, RowCounts};
use super::dataset::{self, Row};
use super::decoder::Dropout;
use super::encode::Conversation;
use super::memory::{self, MemoryEstimate};
use super::optimizer::AdamWConfig;
use super::order::numpy_permutation;
use super::output::Companions;
use super::parts::Parts;
use super::recipe::Recipe;
use super::run::Run;
use super::schedule::Schedule;
use super::tokens::TokenCache;
use super::trainer::{StepConfig, Trainer};
use super::visit::Grouping;
use crate::formats::Tokenizer;
use crate::model::DecoderSpec;

/// What a run is about to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What happened to the training rows.
    pub counts: RowCounts,
    /// Rows, or packs, that an epoch visits.
    pub num_visited: usize,
    /// Whether those are packs.
    pub is_packed: bool,
    /// The longest of them, in tokens.
    pub longest: usize,
    /// Rows, or packs, that are evaluated.
    pub num_evaluated: usize,
    /// Values of the model, adapters included.
    pub num_parameters: usize,
    /// Those of them that are trained.
    pub num_trained: usize,
    /// Steps of a pass over the data.
    pub steps_per_epoch: usize,
    /// Optimisation steps.
    pub total_steps: usize,
    /// What the run will hold in memory.
    pub memory: MemoryEstimate,
    /// The file of an earlier run that the training rows' tokens come from.
    pub token_file: Option<PathBuf>,
    /// What a careful person would want to know before it starts.
    pub warnings: Vec<String>,
}

/// One token of a shown row: its text, and whether it is learned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownToken {
    /// As the tokenizer decodes it.
    pub text: String,
    /// Whether its label is not masked.
    pub is_trained: bool,
}

impl Run {
    /// Reads model, tokenizer and data, and works out the steps.
    ///
    /// # Errors
    /// Anything that the recipe names is missing or does not fit.
    pub fn prepare(recipe: Recipe) -> Result<Self, TrainError> {
        let folder = recipe.model_name_or_path.as_path();
        let tokenizer = Tokenizer::from_folder(folder)?;
        let encoder = Encoder::new(&recipe, &tokenizer)?;
        let (train_rows, eval_rows) = split(&recipe)?;
        let cache = TokenCache {
            folder: match &recipe.tokenized_path {
                Some(folder) => folder.clone(),
                None => recipe.output_dir.join("tokenized"),
            },
            overwrite: recipe.overwrite_cache,
        };
        let train = Corpus::cached(&train_rows, &encoder, &cache)?;
        if train.is_empty() {
            return Err(TrainError::Setting(format!(
                "dataset: {} of {} rows can be trained on",
                train.len(),
                train.counts.read
            )));
        }
        check_lost(&recipe, &train.counts)?;
        let eval = Corpus::cached(&eval_rows, &encoder, &cache)?;
        let grouping = Grouping::new(&recipe, train.len());
        if grouping.micro_batches() == 0 {
            return Err(TrainError::Setting(format!(
                "dataloader_drop_last: {} rows do not fill one batch of {}",
                train.len(),
                grouping.batch_size
            )));
        }
        let steps_per_epoch = grouping.steps_per_epoch();
        let total_steps = usize::try_from(recipe.max_steps)
            .ok()
            .filter(|steps| *steps > 0)
            .unwrap_or((recipe.num_train_epochs * steps_per_epoch as f64).ceil() as usize);
        let parts = Parts::load(&recipe)?;
        check_ids(&parts.spec, &train)?;
        let companions = Companions::new(
            folder,
            &encoder.layout,
            &tokenizer,
            &encoder.eos,
            parts.adapter.clone(),
        )?;
        let identity = identity(&recipe, &parts, &train, total_steps);
        let config = step_config(&recipe, parts.adapter.as_ref(), total_steps)?;
        let num_base: usize = parts.weights.values().map(Tensor::elem_count).sum();
        let embedding = parts.weights.get("model.embed_tokens.weight");
        let num_embedding = embedding.map_or(0, Tensor::elem_count);
        let spec = parts.spec.clone();
        let trainer = Trainer::new(parts.spec, parts.weights, parts.trained, config)?;
        let trained = trainer.optimizer().parameters().iter();
        let num_trained: usize = trained
            .clone()
            .map(|parameter| parameter.var.as_tensor().elem_count())
            .sum();
        let num_added: usize = trained
            .filter(|parameter| parameter.name.contains(".lora_"))
            .map(|parameter| parameter.var.as_tensor().elem_count())
            .sum();
        let memory = memory::estimate(
            &spec,
            &memory::Sizes {
                num_frozen: num_base + num_added - num_trained,
                frozen_bytes: if recipe.bf16 { 2 } else { 4 },
                num_trained,
                tokens: recipe.per_device_train_batch_size * train.longest(),
                recompute: !recipe.disable_gradient_checkpointing,
            },
        );
        let plan = Plan {
            num_visited: train.len(),
            is_packed: train.is_packed(),
            longest: train.longest(),
            num_evaluated: eval.len(),
            num_parameters: num_base + num_added,
            num_trained,
            steps_per_epoch,
            total_steps,
            memory,
            token_file: train.token_file().map(Path::to_owned),
            warnings: warnings(&recipe, &encoder, [&train, &eval]),
            counts: train.counts.clone(),
        };
        let first_row = train_rows.iter().flatten().next().cloned();
        let first_source = match &first_row {
            Some(row) => encoder.first_source(row)?,
            None => Vec::new(),
        };
        let eos = encoder.eos.clone();
        Ok(Self {
            num_flop_parameters: num_base + num_added - num_embedding,
            recipe,
            train,
            eval,
            grouping,
            trainer,
            companions,
            identity,
            plan,
            first_row,
            first_source,
            eos,
            tokenizer,
        })
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The recipe, defaults filled in.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// The first row as it is trained on, token by token.
    pub fn example(&self) -> Vec<ShownToken> {
        let Some(example) = &self.train.first else {
            return Vec::new();
        };
        let tokens = example.input_ids.iter().zip(&example.labels);
        tokens
            .map(|(id, label)| ShownToken {
                text: self.tokenizer.decode(&[*id], false),
                is_trained: label.is_some(),
            })
            .collect()
    }

    /// The text that ends an answer in training, and its id.
    pub fn end_of_answer(&self) -> (&str, Option<u32>) {
        (&self.eos, self.tokenizer.id(&self.eos))
    }

    /// The first row, and the tokens that stand before its first answer in training: to be
    /// compared with what an evaluation would put there. `None` where the trained model gets a
    /// chat template that was made from the layout.
    pub fn first_prompt(&self) -> Option<(&Conversation, &[u32])> {
        if self.companions.replaces_chat_template() {
            return None;
        }
        Some((self.first_row.as_ref()?, &self.first_source))
    }
}

/// Training and validation rows: a split by the seed before anything else, as the reference does.
fn split(recipe: &Recipe) -> Result<(Vec<Row>, Vec<Row>), TrainError> {
    let load = |names: &[String]| dataset::load(names, &recipe.dataset_dir, recipe.max_samples);
    let rows = load(&recipe.dataset.0)?;
    let count = rows.len();
    let held_out = if recipe.val_size >= 1.0 {
        recipe.val_size as usize
    } else {
        (recipe.val_size * count as f64).ceil() as usize
    };
    if held_out == 0 {
        return Ok((rows, load(&recipe.eval_dataset.0)?));
    }
    if held_out >= count {
        return Err(TrainError::Setting(format!(
            "val_size: {held_out} rows for evaluation leave none of {count} to train on"
        )));
    }
    let mut rows: Vec<Option<Row>> = rows.into_iter().map(Some).collect();
    let order = numpy_permutation(count, recipe.seed);
    let mut take = |indices: &[usize]| -> Vec<Row> {
        let taken = indices.iter().map(|index| rows[*index].take());
        taken
            .map(|row| row.expect("a permutation visits a row once"))
            .collect()
    };
    let eval = take(&order[..held_out]);
    Ok((take(&order[held_out..]), eval))
}

fn check_lost(recipe: &Recipe, counts: &RowCounts) -> Result<(), TrainError> {
    let kept = counts.lengths.len();
    if counts.lost_end as f64 > recipe.max_lost_answers * kept as f64 {
        return Err(TrainError::Setting(format!(
            "cutoff_len: {} of {kept} rows lose the end of their answer, and with it the result \
             and the end-of-turn token; raise cutoff_len (the longest row that is read whole has \
             {} tokens), set on_overlong: drop, or allow it with max_lost_answers",
            counts.lost_end,
            counts.lengths.last().unwrap_or(&0)
        )));
    }
    Ok(())
}

/// A tokenizer may know more tokens than the model has rows.
fn check_ids(spec: &DecoderSpec, train: &Corpus) -> Result<(), TrainError> {
    let most = train.largest_id() as usize;
    if most >= spec.vocab_size {
        return Err(TrainError::Setting(format!(
            "model_name_or_path: the tokenizer gives token {most}, but the model has rows for {}; \
             tokenizer and model do not belong together",
            spec.vocab_size
        )));
    }
    Ok(())
}

fn step_config(
    recipe: &Recipe,
    adapter: Option<&AdapterConfig>,
    total_steps: usize,
) -> Result<StepConfig, TrainError> {
    let decay = recipe.decay();
    let decay = decay.map_err(|(key, reason)| TrainError::Setting(format!("{key}: {reason}")))?;
    Ok(StepConfig {
        optimizer: AdamWConfig {
            beta1: recipe.adam_beta1,
            beta2: recipe.adam_beta2,
            epsilon: recipe.adam_epsilon,
            weight_decay: recipe.weight_decay,
        },
        schedule: Schedule {
            learning_rate: recipe.learning_rate,
            decay,
            warmup_steps: recipe.num_warmup_steps(total_steps),
            total_steps,
        },
        max_grad_norm: recipe.max_grad_norm,
        dropout: Dropout {
            share: adapter.map_or(0.0, |adapter| adapter.dropout),
            seed: recipe.seed,
            ..Dropout::default()
        },
        recompute: !recipe.disable_gradient_checkpointing,
        compute_dtype: if recipe.bf16 {
            TensorType::BF16
        } else {
            TensorType::F32
        },
    })
}

/// Everything that a step depends on, by the key that a person would change.
fn identity(recipe: &Recipe, parts: &Parts, train: &Corpus, total_steps: usize) -> Identity {
    let written = json!(recipe);
    let same = [
        "finetuning_type",
        "lora_rank",
        "lora_alpha",
        "lora_dropout",
        "lora_target",
        "use_rslora",
        "additional_target",
        "template",
        "cutoff_len",
        "packing",
        "neat_packing",
        "train_on_prompt",
        "prompt_steps",
        "mask_history",
        "val_size",
        "max_samples",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "dataloader_drop_last",
        "disable_shuffling",
        "seed",
        "data_seed",
        "learning_rate",
        "lr_scheduler_type",
        "warmup_ratio",
        "warmup_steps",
        "weight_decay",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "max_grad_norm",
        "bf16",
    ];
    let mut identity: Identity = same
        .iter()
        .map(|key| ((*key).to_owned(), written[*key].clone()))
        .collect();
    identity.insert("total_steps".into(), json!(total_steps));
    identity.insert("model".into(), json!(parts.fingerprint));
    identity.insert("data".into(), json!(train.fingerprint()));
    identity
}

fn warnings(recipe: &Recipe, encoder: &Encoder<'_>, [train, eval]: [&Corpus; 2]) -> Vec<String> {
    let mut warnings = Vec::new();
    for (path, reason) in [train, eval].into_iter().filter_map(Corpus::damage) {
        warnings.push(format!(
            "{}: {reason}; the rows were tokenised again",
            path.display()
        ));
    }
    let counts = &train.counts;
    if counts.unusable > 0 {
        warnings.push(format!(
            "{} of {} rows are left out: their turns do not alternate, or they have no answer",
            counts.unusable, counts.read
        ));
    }
    if counts.too_long > 0 {
        warnings.push(format!(
            "{} of {} rows are left out: they are longer than cutoff_len {}",
            counts.too_long, counts.read, recipe.cutoff_len
        ));
    }
    if counts.cut > 0 {
        warnings.push(format!(
            "{} rows were cut to cutoff_len {} and {} of them lost the end of their answer; raise \
             cutoff_len, or leave them out with on_overlong: drop",
            counts.cut, recipe.cutoff_len, counts.lost_end
        ));
    }
    if recipe.packs_apart() == Some(false) {
        warnings.push(
            "packing lets rows see the rows before them in the same pack; neat_packing keeps them \
             apart"
                .to_owned(),
        );
    }
    let ends = encoder.tokenizer.id(&encoder.eos);
    let is_learned = |example: &super::encode::Example| {
        let mut labels = example.labels.iter().flatten();
        example.lost_end || ends.is_some_and(|end| labels.any(|label| *label == end))
    };
    if train
        .first
        .as_ref()
        .is_some_and(|example| !is_learned(example))
    {
        warnings.push(format!(
            "the end of an answer ({}) is not among the labels: the model will not learn to stop",
            encoder.eos
        ));
    }
    if ends.is_some_and(|end| !encoder.tokenizer.eos_token_ids().contains(&end)) {
        warnings.push(format!(
            "answers end with {}, which does not end a generation of the starting model; the \
             trained model's generation_config.json and tokenizer_config.json will say so",
            encoder.eos
        ));
    }
    warnings
}
