//! What a score does not show: how many answers were cut off, never given, or could not be read;
//! in numbers for the results file and in words for people, each with what to do about it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::plan::{GradedDoc, GradedTask};
use super::record::{Finish, SampleRecord};

/// A reasoning model needs more than this; below it a run is warned about before it starts.
const SHORT_MAX_GEN_TOKS: usize = 256;
/// The engine's default budget is often left in place by mistake; shares below this are noise.
const NOTEWORTHY_SHARE: f64 = 0.01;

/// Counts over the responses of one task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// Responses that were graded.
    pub responses: usize,
    /// Ended by `max_gen_toks` or the context.
    pub truncated: usize,
    /// No filter found an answer.
    pub no_answer: usize,
    /// No answer, and truncated as well: these explain each other.
    pub no_answer_truncated: usize,
    /// Ended by a stop string, by string.
    pub stop_hits: BTreeMap<String, usize>,
    /// Ended by a stop string, without an answer.
    pub no_answer_stopped: usize,
    /// The reference program would have died of them.
    pub grader_errors: usize,
    /// Budgets shortened because prompt and `max_gen_toks` exceed the context.
    pub shortened: usize,
    /// Documents whose prompt leaves no room in the context: never asked, scored 0.
    pub refused: usize,
    /// Documents without a BOS token, with one, with more.
    pub bos_counts: BTreeMap<usize, usize>,
    /// Tokens of all prompts, each counted once per document.
    pub prompt_tokens: u64,
    /// Tokens of all responses.
    pub gen_tokens: u64,
}

impl Audit {
    /// Counts a task's responses. `eos_text` is the text of the EOS token: stopping there is
    /// regular.
    pub fn of(graded: &GradedTask<'_>, eos_text: Option<&str>) -> Self {
        let mut audit = Self::default();
        for doc in &graded.docs {
            audit.prompt_tokens += doc.prompt_tokens() as u64;
            *audit.bos_counts.entry(doc.doc.bos_count).or_default() += 1;
            audit.refused += usize::from(doc.doc.refusal.is_some());
            for (index, record) in doc.records.iter().enumerate() {
                audit.add(graded, doc, index, record, eos_text);
            }
        }
        audit
    }

    fn add(
        &mut self,
        graded: &GradedTask<'_>,
        doc: &GradedDoc<'_>,
        index: usize,
        record: &SampleRecord,
        eos_text: Option<&str>,
    ) {
        let mut verdicts = doc.grades.iter().map(|grade| &grade.responses[index]);
        let has_error = verdicts.clone().any(|verdict| verdict.error.is_some());
        let has_answer = verdicts.any(|verdict| verdict.extracted.is_some());
        let stop = record.finish.stop().filter(|stop| Some(*stop) != eos_text);
        self.responses += 1;
        self.gen_tokens += record.gen_tokens as u64;
        self.grader_errors += usize::from(has_error);
        self.no_answer += usize::from(!has_answer && !has_error);
        if let Some(stop) = stop {
            *self.stop_hits.entry(stop.to_owned()).or_default() += 1;
            self.no_answer_stopped += usize::from(!has_answer);
        }
        if record.finish.is_truncated() {
            self.truncated += 1;
            self.no_answer_truncated += usize::from(!has_answer);
        }
        let is_refused = matches!(record.finish, Finish::Refused(_));
        let is_shortened = record.max_gen_toks < graded.task.params.max_gen_toks;
        self.shortened += usize::from(is_shortened && !is_refused);
    }

    /// What a reader of the score must know, a sentence each; nothing when all is well.
    pub fn sentences(&self, task: &str, max_gen_toks: usize) -> Vec<String> {
        let mut said = Vec::new();
        let all = self.responses;
        let share = |count: usize| {
            let percent = 100.0 * count as f64 / all.max(1) as f64;
            format!("{task}: {count} of {all} answers ({percent:.1}%)")
        };
        if self.truncated > 0 {
            said.push(format!(
                "{} were cut off at max_gen_toks {max_gen_toks}, {} of them before an answer; \
                 raise it (--gen_kwargs max_gen_toks=N) or report the share",
                share(self.truncated),
                self.no_answer_truncated
            ));
        }
        let unexplained = self.no_answer - self.no_answer_truncated.min(self.no_answer);
        if unexplained as f64 > NOTEWORTHY_SHARE * all as f64 {
            said.push(format!(
                "{} hold no answer that the task's grader reads, though they were not cut off; \
                 look at `grades` in the samples file and check that the chat template fits the \
                 model (--apply_chat_template)",
                share(unexplained)
            ));
        }
        for (stop, count) in &self.stop_hits {
            said.push(format!(
                "{} were ended by the stop string {stop:?}; where it is part of an answer's prose \
                 the answer is lost: see `stop_hit` in the samples file",
                share(*count)
            ));
        }
        if self.grader_errors > 0 {
            said.push(format!(
                "{} would have ended the reference program with an exception; they score 0 and \
                 carry `error` in the samples file",
                share(self.grader_errors)
            ));
        }
        if self.shortened > 0 {
            said.push(format!(
                "{} had less than max_gen_toks {max_gen_toks} left in the context after their \
                 prompt; raise max_model_len if the model allows it",
                share(self.shortened)
            ));
        }
        if self.refused > 0 {
            said.push(format!(
                "{task}: {} documents were not asked because their prompt fills the context; they \
                 score 0",
                self.refused
            ));
        }
        let doubled: usize = self.bos_counts.range(2..).map(|(_, count)| count).sum();
        if doubled > 0 {
            said.push(format!(
                "{task}: {doubled} prompts carry more than one BOS token; drop add_bos_token, \
                 the chat template writes one already"
            ));
        }
        said
    }
}

/// What to say before a run starts whose budget is the harness's default, on a task that is
/// answered by reasoning.
pub fn short_budget_warning(task: &str, max_gen_toks: usize, is_default: bool) -> Option<String> {
    (is_default && max_gen_toks <= SHORT_MAX_GEN_TOKS).then(|| {
        format!(
            "{task}: nobody set max_gen_toks, so answers end after {max_gen_toks} tokens; \
             a model that reasons needs thousands (--gen_kwargs max_gen_toks=16000)"
        )
    })
}
