//! From a task and its data to a plan: prompts rendered, tokenised and measured, settings typed,
//! graders built. Everything that can be wrong with a run's input is found here, before a token
//! is generated.

use serde_json::{Map, Value};

use crate::engine::{Request, RequestError, SamplingParams, Tokenizer};
use crate::grade::boxed::{self, Variant};
use crate::grade::exact_match::{ExactMatch, ExactMatchOptions};
use crate::grade::filters::{FilterPipeline, FilterSpec};
use crate::grade::symbolic::{self, AnswerStyle};
use crate::task::{
    GenerationConfig, Gold, MetricConfig, ProcessResults, PromptOptions, TaskConfig, TaskData,
    prompts, python,
};

use super::EvalError;
use super::grading::{Grading, NamedFilter, Scorer, TextMetric};
use super::plan::{PlannedDoc, PlannedTask};
use super::record::request_id;
use super::stops::stop_strings;

/// What planning needs to know of a model.
pub trait PromptEncoder {
    /// Token ids of a text, nothing added around it.
    ///
    /// # Errors
    /// The tokenizer refuses the text.
    fn encode(&self, text: &str) -> Result<Vec<u32>, String>;

    /// The token that begins a document, if the model has one.
    fn bos_token_id(&self) -> Option<u32>;

    /// The text of the token that ends a turn.
    fn eos_text(&self) -> Option<&str>;

    /// Every token that ends a generation.
    fn stop_token_ids(&self) -> &[u32];
}

impl PromptEncoder for Tokenizer {
    fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        self.encode(text, false).map_err(|error| error.to_string())
    }

    fn bos_token_id(&self) -> Option<u32> {
        self.bos_token_id()
    }

    fn eos_text(&self) -> Option<&str> {
        self.eos_token()
    }

    fn stop_token_ids(&self) -> &[u32] {
        self.eos_token_ids()
    }
}

/// The encoder of a model whose tokens nobody here knows: prompts stay texts.
#[derive(Clone, Debug, Default)]
pub struct TextOnly {
    /// The text that ends a turn, if it is known.
    pub eos_text: Option<String>,
}

impl PromptEncoder for TextOnly {
    fn encode(&self, _text: &str) -> Result<Vec<u32>, String> {
        Ok(Vec::new())
    }

    fn bos_token_id(&self) -> Option<u32> {
        None
    }

    fn eos_text(&self) -> Option<&str> {
        self.eos_text.as_deref()
    }

    fn stop_token_ids(&self) -> &[u32] {
        &[]
    }
}

/// What the command line says about every task of a run.
#[derive(Clone, Debug, Default)]
pub struct PlanOptions<'a> {
    /// How prompts are rendered.
    pub prompt: PromptOptions<'a>,
    /// Which documents are asked.
    pub choice: DocChoice,
    /// Seed of sampling, where the generation settings have none.
    pub seed: u64,
    /// Whether a BOS is put before prompts that do not begin with one.
    pub add_bos: bool,
    /// The cap on new tokens where the task's settings have none.
    pub default_max_gen_toks: Option<usize>,
    /// Only what follows the last occurrence of this text is graded.
    pub think_end: Option<String>,
}

/// Which documents of a split are asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum DocChoice {
    /// All of them.
    #[default]
    All,
    /// The first N; a number below 1 is a share, rounded up.
    Limit(f64),
    /// By task, these numbers; tasks that are not named are asked whole.
    Samples(Map<String, Value>),
}

/// The budget of a request, or why it has none; see [`super::Generator::check`].
pub type Check<'c> = dyn Fn(&Request) -> Result<usize, RequestError> + 'c;

/// A planned task, and what the user should know about it, a sentence each.
pub type Planned = (PlannedTask, Vec<String>);

/// Plans a task.
///
/// # Errors
/// A setting, template, grader or document that cannot be used, named with its place; a request
/// that the KV pool could never hold.
pub fn plan(
    task: &TaskConfig,
    data: &TaskData,
    options: &PlanOptions<'_>,
    encoder: &dyn PromptEncoder,
    check: &Check<'_>,
) -> Result<Planned, EvalError> {
    let settings = GenerationConfig::from_kwargs(&task.generation_kwargs)?;
    let mut notes = task.notes.clone();
    notes.extend(settings.warnings.iter().cloned());
    let params = sampling_params(task, &settings, options, encoder);
    if params.n > 1 && params.temperature == 0.0 {
        notes.push(format!(
            "repeats: {} with temperature 0 gives the same answer each time; set a temperature \
             (--gen_kwargs do_sample=true,temperature=0.6)",
            params.n
        ));
    }
    let doc_ids = chosen(task, data.documents.len(), &options.choice)?;
    let rendered = prompts(task, data, &doc_ids, &options.prompt)?;
    let num_dropped = rendered
        .iter()
        .filter(|prompt| prompt.system_dropped)
        .count();
    if num_dropped > 0 {
        notes.push(format!(
            "the chat template refuses system messages: {num_dropped} prompts go without"
        ));
    }
    let mut docs = Vec::with_capacity(rendered.len());
    for prompt in rendered {
        let document = &data.documents[prompt.doc_id];
        let token_ids = encode(task, prompt.doc_id, &prompt.text, options, encoder)?;
        let gold = gold(
            task,
            prompt.doc_id,
            document.gold_text(task, &prompt.target)?,
        )?;
        let mut doc = PlannedDoc {
            doc_id: prompt.doc_id,
            doc: document.fields.clone(),
            symbolic_gold: symbolic_gold(task, &gold),
            gold,
            targets: targets(&prompt.target),
            target: prompt.target,
            prompt: prompt.text,
            bos_count: leading(&token_ids, encoder.bos_token_id()),
            prompt_token_ids: token_ids,
            budget: 0,
            refusal: None,
        };
        match budget(task, &doc, &params, check)? {
            Ok(budget) => doc.budget = budget,
            Err(refusal) => doc.refusal = Some(refusal),
        }
        docs.push(doc);
    }
    let planned = PlannedTask {
        name: task.name.clone(),
        alias: task.display_name().to_owned(),
        version: task.version(),
        num_fewshot: task.num_fewshot,
        config: task.effective.clone(),
        higher_is_better: higher_is_better(task),
        generation_kwargs: task.generation_kwargs.clone(),
        max_gen_toks_is_default: settings.max_gen_toks_is_default
            && options.default_max_gen_toks.is_none(),
        params,
        think_end: options.think_end.clone(),
        grading: grading(task, &docs)?,
        num_docs_in_split: data.documents.len(),
        docs,
    };
    let notes = notes
        .into_iter()
        .map(|note| format!("{}: {note}", task.name));
    Ok((planned, notes.collect()))
}

fn sampling_params(
    task: &TaskConfig,
    settings: &GenerationConfig,
    options: &PlanOptions<'_>,
    encoder: &dyn PromptEncoder,
) -> SamplingParams {
    let default = options.default_max_gen_toks;
    let max_gen_toks = match default.filter(|_| settings.max_gen_toks_is_default) {
        Some(default) => default,
        None => settings.max_gen_toks,
    };
    SamplingParams {
        max_gen_toks,
        temperature: settings.temperature as f32,
        top_k: settings.top_k,
        top_p: settings.top_p as f32,
        min_p: settings.min_p as f32,
        repetition_penalty: settings.repetition_penalty as f32,
        stop: stop_strings(&settings.until, encoder.eos_text()),
        stop_token_ids: encoder.stop_token_ids().to_vec(),
        n: task.repeats,
        logprobs: None,
        seed: settings.seed.unwrap_or(options.seed),
    }
}

fn chosen(task: &TaskConfig, num_docs: usize, choice: &DocChoice) -> Result<Vec<usize>, EvalError> {
    match choice {
        DocChoice::All => Ok((0..num_docs).collect()),
        DocChoice::Limit(limit) if *limit < 1.0 => {
            let share = (limit * num_docs as f64).ceil() as usize;
            Ok((0..share.min(num_docs)).collect())
        }
        DocChoice::Limit(limit) => Ok((0..num_docs.min(*limit as usize)).collect()),
        DocChoice::Samples(by_task) => {
            let Some(ids) = by_task.get(&task.name).and_then(Value::as_array) else {
                return Ok((0..num_docs).collect());
            };
            let mut chosen = Vec::with_capacity(ids.len());
            for id in ids {
                let doc_id = id.as_u64().and_then(|id| usize::try_from(id).ok());
                match doc_id.filter(|id| *id < num_docs) {
                    Some(doc_id) => chosen.push(doc_id),
                    None => {
                        return Err(EvalError::NoSuchDocument {
                            task: task.name.clone(),
                            wanted: id.to_string(),
                            num_docs,
                        });
                    }
                }
            }
            chosen.sort_unstable();
            chosen.dedup();
            Ok(chosen)
        }
    }
}

fn encode(
    task: &TaskConfig,
    doc_id: usize,
    text: &str,
    options: &PlanOptions<'_>,
    encoder: &dyn PromptEncoder,
) -> Result<Vec<u32>, EvalError> {
    let mut token_ids = encoder.encode(text).map_err(|reason| EvalError::Encode {
        task: task.name.clone(),
        doc_id,
        reason,
    })?;
    if let Some(bos) = encoder.bos_token_id()
        && options.add_bos
        && token_ids.first() != Some(&bos)
    {
        token_ids.insert(0, bos);
    }
    Ok(token_ids)
}

/// How often `token` stands at the beginning.
fn leading(token_ids: &[u32], token: Option<u32>) -> usize {
    let at_start = token_ids.iter();
    at_start.take_while(|id| Some(**id) == token).count()
}

fn targets(target: &Value) -> Vec<String> {
    match target {
        Value::Array(targets) => targets.iter().map(python::text).collect(),
        one => vec![python::text(one)],
    }
}

/// The gold answer itself, where the document's text only contains it.
fn gold(task: &TaskConfig, doc_id: usize, text: String) -> Result<String, EvalError> {
    if !matches!(task.gold(), Gold::LastBoxOf(_)) {
        return Ok(text);
    }
    match boxed::extract(&text) {
        Ok(Some(gold)) => Ok(gold.to_owned()),
        _ => Err(EvalError::NoGold {
            task: task.name.clone(),
            doc_id,
        }),
    }
}

/// A document's budget, or why it cannot be asked; what is wrong with the run's settings is an
/// error.
fn budget(
    task: &TaskConfig,
    doc: &PlannedDoc,
    params: &SamplingParams,
    check: &Check<'_>,
) -> Result<Result<usize, String>, EvalError> {
    let request = Request {
        id: request_id(&task.name, doc.doc_id),
        prompt_token_ids: doc.prompt_token_ids.clone(),
        params: params.clone(),
    };
    match check(&request) {
        Ok(budget) => Ok(Ok(budget)),
        Err(
            reason @ (RequestError::PromptTooLong { .. }
            | RequestError::EmptyPrompt
            | RequestError::UnknownToken { .. }),
        ) => Ok(Err(reason.to_string())),
        Err(source) => Err(EvalError::NeverRuns {
            task: task.name.clone(),
            doc_id: doc.doc_id,
            source,
        }),
    }
}

fn higher_is_better(task: &TaskConfig) -> Vec<(String, bool)> {
    let metrics = task.metric_list.iter();
    metrics
        .map(|metric| (metric.name.clone(), metric.higher_is_better))
        .collect()
}

fn grading(task: &TaskConfig, docs: &[PlannedDoc]) -> Result<Grading, EvalError> {
    let filters = task.filter_list.iter();
    let filters = filters.map(|pipeline| named_filter(task, pipeline));
    let mut filters = filters.collect::<Result<Vec<_>, _>>()?;
    if filters.is_empty() {
        filters.push(NamedFilter::take_first());
    }
    let names = || {
        let metrics = task.metric_list.iter();
        metrics.map(|metric| metric.name.clone()).collect()
    };
    let scorer = match task.process_results {
        Some(ProcessResults::BoxedTrimmed) => Scorer::Boxed(Variant::Trimmed),
        Some(ProcessResults::BoxedPlain) => Scorer::Boxed(Variant::Plain),
        Some(ProcessResults::MathEqual) => Scorer::Symbolic(AnswerStyle::Boxed, names()),
        Some(ProcessResults::NumberLast) => Scorer::Symbolic(AnswerStyle::Number, names()),
        None => {
            let metrics = task.metric_list.iter();
            let metrics = metrics.map(|metric| text_metric(task, metric));
            Scorer::Metrics(metrics.collect::<Result<_, _>>()?)
        }
    };
    let has_golds = docs.iter().all(|doc| !doc.symbolic_gold.is_empty());
    Ok(Grading {
        filters,
        scorer,
        symbolic: has_golds.then(|| answer_style(task)),
    })
}

/// Tasks that ask for a box name a grader; the others are answered by a number in the text.
fn answer_style(task: &TaskConfig) -> AnswerStyle {
    match task.process_results {
        Some(ProcessResults::NumberLast) | None => AnswerStyle::Number,
        Some(_) => AnswerStyle::Boxed,
    }
}

/// The gold answer for the symbolic grader; empty where a target states none.
fn symbolic_gold(task: &TaskConfig, gold: &str) -> String {
    match task.process_results {
        Some(_) => gold.to_owned(),
        None => {
            let stated = symbolic::candidates(gold, AnswerStyle::Number).pop();
            stated.map_or_else(String::new, |candidate| candidate.text(gold).into_owned())
        }
    }
}

fn text_metric(
    task: &TaskConfig,
    metric: &MetricConfig,
) -> Result<(String, TextMetric), EvalError> {
    if metric.name == symbolic::METRIC {
        return Ok((metric.name.clone(), TextMetric::Math));
    }
    let mut options = metric.options.clone();
    // Read by nobody in the reference either, yet present in its own files.
    options.retain(|key, _| !["multi_target", "hf_evaluate"].contains(&key.as_str()));
    let options: ExactMatchOptions =
        serde_json::from_value(Value::Object(options)).map_err(|error| {
            EvalError::FilterArguments {
                task: task.name.clone(),
                filter: metric.name.clone(),
                reason: error.to_string(),
            }
        })?;
    let compiled = ExactMatch::new(&options).map_err(|source| EvalError::Grade {
        task: task.name.clone(),
        source,
    })?;
    Ok((metric.name.clone(), TextMetric::Exact(compiled)))
}

fn named_filter(
    task: &TaskConfig,
    pipeline: &crate::task::FilterPipeline,
) -> Result<NamedFilter, EvalError> {
    let mut specs = Vec::with_capacity(pipeline.steps.len());
    for step in &pipeline.steps {
        let mut spec = step.arguments.clone();
        spec.insert("function".to_owned(), step.function.clone().into());
        let spec: FilterSpec = serde_json::from_value(Value::Object(spec)).map_err(|error| {
            EvalError::FilterArguments {
                task: task.name.clone(),
                filter: pipeline.name.clone(),
                reason: error.to_string(),
            }
        })?;
        specs.push(spec);
    }
    let compiled = FilterPipeline::new(&specs).map_err(|source| EvalError::Grade {
        task: task.name.clone(),
        source,
    })?;
    let fallbacks = specs.into_iter().filter_map(|spec| match spec {
        FilterSpec::Regex { fallback, .. } => Some(fallback),
        _ => None,
    });
    Ok(NamedFilter {
        name: pipeline.name.clone(),
        fallbacks: fallbacks.collect(),
        pipeline: compiled,
    })
}
