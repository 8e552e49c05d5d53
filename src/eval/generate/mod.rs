//! Batch generation: prompts in, one line of text each out, in the order of the input.
//!
//! Each finished sample goes to a journal beside the output before it is counted. Killed at any
//! instant, the same command goes on from there; the output appears at once when all is finished,
//! and is the same (times aside) as that of an undisturbed run.

mod error;
mod prompts;
mod record;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::durable::{AtomicFile, Journal};
use crate::engine::{Engine, Request, RequestError, SamplingParams};

pub use error::GenerateError;
pub use prompts::{PromptLine, PromptSource, read_prompts};
pub use record::{GeneratedSample, WrittenLogprob};

use record::{SampleRecord, output_line, refused_line};

/// A prompt ready to run.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenisedPrompt {
    /// Its line in the input, from 1.
    pub line: usize,
    /// The caller's name for it.
    pub id: Option<Value>,
    /// What the model sees.
    pub token_ids: Vec<u32>,
}

/// Where a batch generation reads, writes and what makes it the same run again.
#[derive(Clone, Debug)]
pub struct GenerateJob<'a> {
    /// The input's path, for messages.
    pub input: &'a Path,
    /// The output.
    pub output: &'a Path,
    /// How to continue; `seed` and the prompt's index key the random draws.
    pub params: &'a SamplingParams,
    /// What else decides the bits: model, dtype, kernels. A journal made under others is refused.
    pub identity: Map<String, Value>,
}

/// How a batch generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GenerateOutcome {
    /// The output is written.
    Finished(GenerateSummary),
    /// The watcher ended it; the journal keeps what was done.
    Interrupted {
        /// Samples in the journal.
        done: usize,
        /// Samples of the run.
        total: usize,
    },
}

/// What a finished batch generation did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GenerateSummary {
    /// Samples written.
    pub samples: usize,
    /// Samples found in the journal of an earlier, killed run.
    pub resumed: usize,
    /// Prompts without room in the context; their lines have `error`.
    pub refused: usize,
    /// Samples that ended because the budget was used up.
    pub truncated: usize,
}

/// New tokens that a prompt may get, or why it gets none.
type Budget = Result<usize, RequestError>;

/// Where a run stands; the engine tells the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GenerateProgress {
    /// Samples in the journal.
    pub done: usize,
    /// Those among them that an earlier run made.
    pub resumed: usize,
    /// Samples in all.
    pub total: usize,
}

/// The journal of the run that writes `output`: a hidden file beside it.
pub fn journal_path(output: &Path) -> PathBuf {
    let name = output.file_name().unwrap_or_default().to_string_lossy();
    output.with_file_name(format!(".{name}.journal"))
}

/// Continues every prompt and writes the output. `watch` is called after every step and may end
/// the run.
///
/// # Errors
/// A prompt can never run on this engine, for another reason than its own length (nothing is
/// generated then); the journal belongs to a different run or cannot be written; the engine fails.
/// What the journal holds is safe in any case.
pub fn generate(
    engine: &mut Engine,
    prompts: &[TokenisedPrompt],
    job: &GenerateJob<'_>,
    watch: &mut dyn FnMut(&Engine, GenerateProgress) -> ControlFlow<()>,
) -> Result<GenerateOutcome, GenerateError> {
    let requests = requests(prompts, job.params);
    let budgets = check_all(engine, &requests, prompts, job)?;
    let num_refused = budgets.iter().filter(|budget| budget.is_err()).count();
    let settings = settings(prompts, &budgets, job);
    let path = journal_path(job.output);
    let (mut journal, records) = Journal::open::<SampleRecord>(&path, &settings)?;
    let mut samples: BTreeMap<(usize, usize), SampleRecord> = BTreeMap::new();
    for record in records {
        samples.insert((record.prompt_index, record.sample_index), record);
    }
    let mut progress = GenerateProgress {
        done: samples.len(),
        resumed: samples.len(),
        total: (prompts.len() - num_refused) * job.params.n,
    };
    for (index, request) in requests.into_iter().enumerate() {
        let has_all = (0..job.params.n).all(|sample| samples.contains_key(&(index, sample)));
        if has_all || budgets[index].is_err() {
            continue;
        }
        let refused = |source| refused(job, &prompts[index], source);
        engine.submit(request).map_err(refused)?;
    }
    while engine.has_unfinished() {
        for completion in engine.step()? {
            let record = SampleRecord::from(completion);
            let key = (record.prompt_index, record.sample_index);
            // A killed run may have kept some samples of a prompt; the rest come with the same
            // ones again, bit for bit.
            if let Entry::Vacant(place) = samples.entry(key) {
                journal.append(&record)?;
                place.insert(record);
            }
        }
        journal.sync_if_due()?;
        progress.done = journal.num_durable();
        if watch(engine, progress).is_break() {
            journal.sync()?;
            engine.cancel();
            return Ok(GenerateOutcome::Interrupted {
                done: journal.num_durable(),
                total: progress.total,
            });
        }
    }
    journal.sync()?;
    let summary = GenerateSummary {
        samples: samples.len(),
        resumed: progress.resumed,
        refused: num_refused,
        truncated: samples
            .values()
            .filter(|record| record.sample.finish_reason == "length")
            .count(),
    };
    write_output(prompts, &samples, &budgets, job)?;
    journal.remove()?;
    Ok(GenerateOutcome::Finished(summary))
}

/// A prompt's index is its request's id, so that its random draws do not depend on other lines.
fn requests(prompts: &[TokenisedPrompt], params: &SamplingParams) -> Vec<Request> {
    let request = |(index, prompt): (usize, &TokenisedPrompt)| Request {
        id: index as u64,
        prompt_token_ids: prompt.token_ids.clone(),
        params: params.clone(),
    };
    prompts.iter().enumerate().map(request).collect()
}

fn refused(job: &GenerateJob<'_>, prompt: &TokenisedPrompt, source: RequestError) -> GenerateError {
    GenerateError::Refused {
        path: job.input.to_owned(),
        line: prompt.line,
        source,
    }
}

/// Every prompt's budget of new tokens, or why it is too long by itself: the only refusal that
/// becomes a line of output.
fn check_all(
    engine: &Engine,
    requests: &[Request],
    prompts: &[TokenisedPrompt],
    job: &GenerateJob<'_>,
) -> Result<Vec<Budget>, GenerateError> {
    let checked = requests.iter().zip(prompts);
    let checked = checked.map(|(request, prompt)| match engine.check(request) {
        Err(error) if !matches!(error, RequestError::PromptTooLong { .. }) => {
            Err(refused(job, prompt, error))
        }
        budget => Ok(budget),
    });
    checked.collect()
}

/// Everything that decides the output, for the journal's header.
fn settings(
    prompts: &[TokenisedPrompt],
    budgets: &[Budget],
    job: &GenerateJob<'_>,
) -> Map<String, Value> {
    let mut hasher = Sha256::new();
    for (prompt, budget) in prompts.iter().zip(budgets) {
        hasher.update((*budget.as_ref().unwrap_or(&0) as u64).to_le_bytes());
        hasher.update((prompt.token_ids.len() as u64).to_le_bytes());
        for token_id in &prompt.token_ids {
            hasher.update(token_id.to_le_bytes());
        }
    }
    let digest: String = hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let SamplingParams {
        max_gen_toks,
        temperature,
        top_k,
        top_p,
        min_p,
        repetition_penalty,
        stop,
        stop_token_ids,
        n,
        logprobs,
        seed,
    } = job.params.clone();
    let mut settings = job.identity.clone();
    let mut set = |key: &str, value: Value| settings.insert(key.to_owned(), value);
    set("prompts_and_budgets_sha256", digest.into());
    set("num_prompts", prompts.len().into());
    set("max_gen_toks", max_gen_toks.into());
    set("temperature", temperature.into());
    set("top_k", top_k.into());
    set("top_p", top_p.into());
    set("min_p", min_p.into());
    set("repetition_penalty", repetition_penalty.into());
    set("stop", stop.into());
    set("stop_token_ids", stop_token_ids.into());
    set("n", n.into());
    set("logprobs", logprobs.into());
    set("seed", seed.into());
    settings
}

fn write_output(
    prompts: &[TokenisedPrompt],
    samples: &BTreeMap<(usize, usize), SampleRecord>,
    budgets: &[Budget],
    job: &GenerateJob<'_>,
) -> Result<(), GenerateError> {
    let write = || -> std::io::Result<()> {
        let mut file = AtomicFile::create(job.output)?;
        for (index, prompt) in prompts.iter().enumerate() {
            let id = prompt.id.as_ref();
            let line = match &budgets[index] {
                Err(error) => refused_line(id, &error.to_string()),
                Ok(_) => {
                    let own: Vec<_> = samples
                        .range((index, 0)..(index + 1, 0))
                        .map(|(_, record)| &record.sample)
                        .collect();
                    output_line(id, prompt.token_ids.len(), &own)
                }
            };
            serde_json::to_writer(&mut file, &line)?;
            file.write_all(b"\n")?;
        }
        file.commit()
    };
    write().map_err(|source| GenerateError::Write {
        path: job.output.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::{Detokenizer, EngineConfig, ScriptedRunner};

    struct Letters;

    impl Detokenizer for Letters {
        fn append_token_bytes(&self, token_id: u32, bytes: &mut Vec<u8>) {
            bytes.push(b'a' + token_id as u8);
        }
    }

    /// Contexts of 32 tokens, in blocks of 4.
    fn engine(num_blocks: usize, max_num_seqs: usize) -> Engine {
        let config = EngineConfig {
            max_model_len: 32,
            max_num_seqs,
            max_num_batched_tokens: 16,
            prefix_caching: true,
            speculation: None,
        };
        let runner = ScriptedRunner::new(20, 4, num_blocks, 5);
        Engine::new(Box::new(runner), Arc::new(Letters), config).unwrap()
    }

    fn prompts() -> Vec<TokenisedPrompt> {
        let prompt = |index: usize| TokenisedPrompt {
            line: index + 1,
            id: (index.is_multiple_of(2)).then(|| index.into()),
            // The fifth one has no room.
            token_ids: vec![index as u32; if index == 4 { 40 } else { 3 + index }],
        };
        (0..8).map(prompt).collect()
    }

    fn params() -> SamplingParams {
        SamplingParams {
            max_gen_toks: 10,
            temperature: 0.8,
            stop_token_ids: vec![0],
            stop: vec!["b".to_owned()],
            n: 2,
            logprobs: Some(2),
            ..SamplingParams::default()
        }
    }

    fn run(
        output: &Path,
        engine: &mut Engine,
        params: &SamplingParams,
        watch: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<GenerateOutcome, GenerateError> {
        let job = GenerateJob {
            input: Path::new("in.jsonl"),
            output,
            params,
            identity: Map::new(),
        };
        generate(engine, &prompts(), &job, &mut |_, _| watch())
    }

    fn go_on() -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn finished(outcome: GenerateOutcome) -> GenerateSummary {
        match outcome {
            GenerateOutcome::Finished(summary) => summary,
            GenerateOutcome::Interrupted { .. } => panic!("nobody interrupted it"),
        }
    }

    /// The output's lines without what a clock decides.
    fn lines(output: &Path) -> Vec<Value> {
        let text = std::fs::read_to_string(output).unwrap();
        let parse = |line: &str| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            for sample in line["samples"].as_array_mut().into_iter().flatten() {
                let sample = sample.as_object_mut().unwrap();
                sample.remove("prefill_seconds").unwrap();
                sample.remove("decode_seconds").unwrap();
            }
            line
        };
        text.lines().map(parse).collect()
    }

    #[test]
    fn lines_come_in_order_of_the_input_whatever_finished_first() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        let outcome = run(&output, &mut engine(30, 8), &params(), &mut go_on).unwrap();
        let summary = finished(outcome);
        let (samples, refused) = (summary.samples, summary.refused);
        assert_eq!((samples, refused), (14, 1));
        let lines = lines(&output);
        assert_eq!(lines.len(), 8);
        assert_eq!(lines[2]["id"], 2);
        assert_eq!(lines[2]["prompt_tokens"], 5);
        assert_eq!(lines[2]["samples"].as_array().unwrap().len(), 2);
        let error = lines[4]["error"].as_str().unwrap();
        assert!(error.contains("40 tokens"), "{error}");
        assert!(!journal_path(&output).exists());
    }

    #[test]
    fn killed_at_any_step_and_started_again_it_ends_with_the_same_lines() {
        let folder = tempfile::tempdir().unwrap();
        let whole = folder.path().join("whole.jsonl");
        run(&whole, &mut engine(30, 8), &params(), &mut go_on).unwrap();
        let parts = folder.path().join("parts.jsonl");
        let mut kills = 0;
        loop {
            // A panic in the middle of a step leaves what a kill leaves: the journal as it is.
            let mut steps = 0;
            let attempt = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                run(&parts, &mut engine(9, 3), &params(), &mut || {
                    steps += 1;
                    assert!(steps < 15, "killed by the test");
                    ControlFlow::Continue(())
                })
            }));
            match attempt {
                Ok(outcome) => {
                    assert!(finished(outcome.unwrap()).resumed > 0);
                    break;
                }
                Err(_) => assert!(!parts.exists(), "half an output appeared"),
            }
            kills += 1;
            assert!(kills < 50, "no progress between kills");
        }
        assert!(kills > 1);
        assert_eq!(lines(&parts), lines(&whole));
    }

    #[test]
    fn a_journal_of_other_settings_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        let attempt = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            run(&output, &mut engine(30, 8), &params(), &mut || {
                panic!("killed by the test")
            })
        }));
        assert!(attempt.is_err());
        let other = SamplingParams {
            seed: 1,
            ..params()
        };
        let error = run(&output, &mut engine(30, 8), &other, &mut go_on).unwrap_err();
        assert!(error.to_string().contains("seed"), "{error}");
        assert!(!output.exists());
    }

    #[test]
    fn a_prompt_that_no_pool_of_this_size_holds_stops_the_run_before_it_starts() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        let error = run(&output, &mut engine(4, 8), &params(), &mut go_on).unwrap_err();
        assert_eq!(
            error.to_string(),
            "in.jsonl:6: 8 prompt tokens and 10 new ones need 5 KV blocks of 4 tokens and the \
             pool has 4; raise the KV memory or lower max_gen_toks"
        );
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
