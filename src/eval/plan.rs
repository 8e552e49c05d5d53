//! What a run will ask, settled before the first token: every prompt rendered and counted.

use serde_json::{Map, Value};

use crate::engine::{Request, SamplingParams};
use crate::grade::symbolic;

use super::execute::{Answers, Job};
use super::grading::{FilterGrade, Grading, References, SymbolicGrade};
use super::hashes::{TaskHasher, doc_hash, text_hash, token_ids_hash};
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
    /// Only what follows the last occurrence of this text is graded and logged.
    pub think_end: Option<String>,
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
    /// The answer that the symbolic grader compares with.
    pub symbolic_gold: String,
    /// The rendered prompt.
    pub prompt: String,
    /// What the model gets; empty where a server tokenises the prompt itself.
    pub prompt_token_ids: Vec<u32>,
    /// BOS tokens among them.
    pub bos_count: usize,
    /// New tokens that it may get, after clamping to the context; 0 when refused.
    pub budget: usize,
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
                None => self.answer(&answers[&self.sample_id(doc, sample_index)]),
            });
            let records: Vec<SampleRecord> = records.collect();
            let texts: Vec<&str> = records.iter().map(|record| record.text.as_str()).collect();
            let gold = symbolic::Gold::new(&doc.symbolic_gold);
            let references = References {
                gold: &doc.gold,
                targets: &doc.targets,
                symbolic: &gold,
            };
            let grades = self.grading.grade(&texts, references);
            let symbolic = self.grading.grade_symbolically(&texts, &gold);
            GradedDoc {
                doc,
                records,
                grades,
                symbolic,
            }
        });
        GradedTask {
            task: self,
            docs: docs.collect(),
        }
    }

    /// The answer without the thoughts before it, as lm-evaluation-harness drops them.
    fn answer(&self, record: &SampleRecord) -> SampleRecord {
        let mut record = record.clone();
        if let Some(think_end) = &self.think_end
            && let Some((_, answer)) = record.text.rsplit_once(think_end.as_str())
        {
            record.text = answer.trim_start().to_owned();
        }
        record
    }

    /// What the answers to this task depend on beside model and seed.
    pub fn fingerprint(&self) -> Map<String, Value> {
        let mut docs = TaskHasher::default();
        for doc in &self.docs {
            let place = format!("{} {}", doc.doc_id, doc.budget);
            let prompt = match doc.prompt_token_ids.as_slice() {
                [] => text_hash(&doc.prompt),
                token_ids => token_ids_hash(token_ids),
            };
            docs.add(&doc_hash(&doc.doc), &prompt, &text_hash(&place));
        }
        let pairs = [
            ("version", self.version.clone()),
            ("generation_kwargs", self.generation_kwargs.clone().into()),
            ("max_gen_toks", self.params.max_gen_toks.into()),
            ("stop", self.params.stop.clone().into()),
            ("seed", self.params.seed.into()),
            ("repeats", self.repeats().into()),
            ("num_fewshot", self.num_fewshot.into()),
            ("num_docs", self.docs.len().into()),
            ("docs_prompts_and_budgets", docs.finish().into()),
        ];
        let pairs = pairs.map(|(key, value)| (key.to_owned(), value));
        pairs.into_iter().collect()
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
    /// The symbolic verdict by `sample_index`; empty where the task has none.
    pub symbolic: Vec<SymbolicGrade>,
}

impl GradedDoc<'_> {
    /// Tokens of the prompt, as we counted them or else as the server did.
    pub fn prompt_tokens(&self) -> usize {
        match self.doc.prompt_token_ids.len() {
            0 => self
                .records
                .first()
                .map_or(0, |record| record.prompt_tokens),
            counted => counted,
        }
    }
}
