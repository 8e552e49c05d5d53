//! What a run will ask, settled before the first token: every prompt rendered and counted.

use serde_json::{Map, Value};

use crate::engine::{Request, SamplingParams};

use super::execute::{Answers, Job};
use super::grading::{FilterGrade, Grading, References};
use super::record::{Finish, SampleId, SampleRecord, request_id};

/// A task, ready to run and to be written down.
#[derive(Clone, Debug)]
pub struct PlannedTask {
    /// The name in results and file names.
    pub name: String,
    /// What tables show.
    pub alias: String,
    /// `metadata.version`.
    pub version: Value,
    /// Few-shot examples in each prompt.
    pub num_fewshot: usize,
    /// The configuration as a results file shows it.
    pub config: Map<String, Value>,
    /// Per metric, whether more is better.
    pub higher_is_better: Vec<(String, bool)>,
    /// Merged generation settings, as a samples file shows them.
    pub generation_kwargs: Map<String, Value>,
    /// The engine's form of them; `n` is the task's `repeats`.
    pub params: SamplingParams,
    /// Whether nobody asked for `max_gen_toks`.
    pub max_gen_toks_is_default: bool,
    /// How responses are graded.
    pub grading: Grading,
    /// Documents of the split, before `--limit`.
    pub num_docs_in_split: usize,
    /// Documents of the run.
    pub docs: Vec<PlannedDoc>,
}

/// A document with its prompt.
#[derive(Clone, Debug)]
pub struct PlannedDoc {
    /// Its number in the split, from 0.
    pub doc_id: usize,
    /// Its fields, in their order.
    pub doc: Map<String, Value>,
    /// The target as it is logged.
    pub target: Value,
    /// The texts that metrics compare with.
    pub targets: Vec<String>,
    /// The answer that graders compare with.
    pub gold: String,
    /// The rendered prompt.
    pub prompt: String,
    /// What the model gets.
    pub prompt_token_ids: Vec<u32>,
    /// BOS tokens among them.
    pub bos_count: usize,
    /// Why it cannot be asked: its prompt leaves no room in the context.
    pub refusal: Option<String>,
}

impl PlannedTask {
    /// Responses per document.
    pub fn repeats(&self) -> usize {
        self.params.n
    }

    /// The requests of the run; a refused document has none.
    pub fn jobs(&self) -> impl Iterator<Item = Job> + '_ {
        let asked = self.docs.iter().filter(|doc| doc.refusal.is_none());
        asked.map(|doc| Job {
            task: self.name.clone(),
            doc_id: doc.doc_id,
            request: Request {
                id: request_id(&self.name, doc.doc_id),
                prompt_token_ids: doc.prompt_token_ids.clone(),
                params: self.params.clone(),
            },
        })
    }

    /// Puts answers and documents together and grades them.
    ///
    /// # Panics
    /// When an answer of a document that was asked is missing.
    pub fn grade<'p>(&'p self, answers: &'p Answers) -> GradedTask<'p> {
        let docs = self.docs.iter().map(|doc| {
            let records = (0..self.repeats()).map(|sample_index| match &doc.refusal {
                Some(reason) => self.refused(doc, sample_index, reason),
                None => answers[&self.sample_id(doc, sample_index)].clone(),
            });
            let records: Vec<SampleRecord> = records.collect();
            let texts: Vec<&str> = records.iter().map(|record| record.text.as_str()).collect();
            let references = References {
                gold: &doc.gold,
                targets: &doc.targets,
            };
            let grades = self.grading.grade(&texts, references);
            GradedDoc {
                doc,
                records,
                grades,
            }
        });
        GradedTask {
            task: self,
            docs: docs.collect(),
        }
    }

    fn sample_id(&self, doc: &PlannedDoc, sample_index: usize) -> SampleId {
        SampleId {
            task: self.name.clone(),
            doc_id: doc.doc_id,
            sample_index,
        }
    }

    fn refused(&self, doc: &PlannedDoc, sample_index: usize, reason: &str) -> SampleRecord {
        SampleRecord {
            id: self.sample_id(doc, sample_index),
            text: String::new(),
            finish: Finish::Refused(reason.to_owned()),
            prompt_tokens: doc.prompt_token_ids.len(),
            gen_tokens: 0,
            max_gen_toks: 0,
            cumulative_logprob: None,
            prefill_seconds: 0.0,
            decode_seconds: 0.0,
        }
    }
}

/// A task with its answers graded.
#[derive(Clone, Debug)]
pub struct GradedTask<'p> {
    /// The task.
    pub task: &'p PlannedTask,
    /// In the order of the split.
    pub docs: Vec<GradedDoc<'p>>,
}

/// A document with its answers graded.
#[derive(Clone, Debug)]
pub struct GradedDoc<'p> {
    /// The document.
    pub doc: &'p PlannedDoc,
    /// Its answers by `sample_index`.
    pub records: Vec<SampleRecord>,
    /// One per filter.
    pub grades: Vec<FilterGrade>,
}
