//! Task definitions: YAML, data sources, prompts, few-shot examples, chat templates.
//!
//! A task is lm-evaluation-harness's YAML without its Python. [`Registry`] finds tasks by name and
//! reads them into a [`TaskConfig`]; what the reference does in Python hooks is a named built-in
//! here ([`ProcessDocs`], [`ProcessResults`]). Prompts are those of the reference to the byte.

mod builtin;
mod chat;
mod clock;
mod config;
mod data;
mod document;
mod error;
mod fewshot;
mod gen_kwargs;
mod hub_files;
mod prompt;
pub mod python;
mod registry;
mod schema;
mod sets;
mod shipped;
mod template;

pub use builtin::{Gold, ProcessDocs, ProcessResults};
pub use chat::{ChatOptions, ChatTemplate, Message};
pub use config::{
    AggregateMetric, Aggregation, DatasetConfig, FewshotConfig, FilterPipeline, FilterStep,
    GroupConfig, MetricConfig, Overrides, Sampler, TaskConfig,
};
pub use data::{DataSources, TaskData};
pub use document::{Document, Origin};
pub use error::{NoData, TaskError};
pub use fewshot::FewshotSampler;
pub use gen_kwargs::{DEFAULT_MAX_GEN_TOKS, GenerationConfig, parse_kwargs, parse_value};
pub use prompt::{DEFAULT_FEWSHOT_SEED, Prompt, PromptOptions, prompts};
pub use registry::{Registry, Selection, TaskEntry};
pub use template::TextTemplate;

pub use crate::yaml::Place;
