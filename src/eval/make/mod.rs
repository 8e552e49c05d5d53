//! Training data from a teacher: problems in, sampled solutions graded, filtered and written.
//!
//! Every sample goes to a journal beside the output before it is counted, whichever model made
//! it; a run that was killed goes on there and ends with the same records. The record format and
//! the rule of the first filter are those of the original data scripts of MiCoTA, which kept
//! nothing before the end and compared boxed answers by the Hendrycks rules only.

mod filter;
mod problems;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::durable::{AtomicFile, Journal};
use crate::engine::{Request, SamplingParams};

use super::record::Finish;
use super::{Answer, EvalError, Generator, Load};

pub use filter::{Accept, Filters, Statistics};
pub use problems::{Problem, read_problems};

use filter::{Graded, grade_all, select};

/// One solution, as the journal keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Sample {
    teacher: usize,
    problem: usize,
    sample_index: usize,
    text: String,
    finish: Finish,
    gen_tokens: usize,
}

/// What is made, and where.
#[derive(Clone, Debug)]
pub struct MakeJob {
    /// The problems.
    pub problems: Vec<Problem>,
    /// The models that solve them, in order: a name, and what else decides their bits.
    pub teachers: Vec<(String, Map<String, Value>)>,
    /// How solutions are sampled; `n` of them by each teacher.
    pub params: SamplingParams,
    /// How a problem becomes a prompt, for the journal's header.
    pub prompting: Map<String, Value>,
    /// What is kept.
    pub filters: Filters,
    /// The JSON file to write.
    pub output: PathBuf,
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MakeProgress {
    /// Samples in the journal.
    pub done: usize,
    /// Those among them that an earlier run made.
    pub resumed: usize,
    /// Samples in all.
    pub total: usize,
    /// The generator's.
    pub load: Load,
}

/// A run with an open journal.
pub struct Make {
    job: MakeJob,
    journal: Journal,
    samples: BTreeMap<(usize, usize, usize), Sample>,
    resumed: usize,
}

/// The journal of the run that writes `output`: a hidden file beside it.
fn journal_path(output: &Path) -> PathBuf {
    let name = output.file_name().unwrap_or_default().to_string_lossy();
    output.with_file_name(format!(".{name}.journal"))
}

impl Make {
    /// Opens the journal, or starts it. Filters are no part of it: they may change at will.
    ///
    /// # Errors
    /// The journal belongs to another run (every difference is named), or cannot be opened.
    pub fn open(job: MakeJob) -> Result<Self, EvalError> {
        let settings = settings(&job);
        let (journal, records) = Journal::open::<Sample>(&journal_path(&job.output), &settings)?;
        let mut samples = BTreeMap::new();
        for record in records {
            let key = (record.problem, record.teacher, record.sample_index);
            samples.insert(key, record);
        }
        Ok(Self {
            resumed: samples.len(),
            job,
            journal,
            samples,
        })
    }

    /// The problems.
    pub fn problems(&self) -> &[Problem] {
        &self.job.problems
    }

    /// Whether a teacher has solutions left to give.
    pub fn needs(&self, teacher: usize) -> bool {
        (0..self.job.problems.len()).any(|problem| !self.has_all(teacher, problem))
    }

    fn has_all(&self, teacher: usize, problem: usize) -> bool {
        let samples = 0..self.job.params.n;
        { samples }.all(|sample| self.samples.contains_key(&(problem, teacher, sample)))
    }

    /// Lets a teacher solve what it has not solved yet. `prompts` holds the tokens of each problem
    /// as this model sees it, `stop_token_ids` what ends its answers. `watch` is called after every step and may end the run.
    ///
    /// # Errors
    /// The generator fails, or the journal cannot be written. A prompt without room in the context
    /// is no error: its samples count as refused.
    pub fn solve(
        &mut self,
        teacher: usize,
        generator: &mut dyn Generator,
        prompts: &[Vec<u32>],
        stop_token_ids: &[u32],
        watch: &mut dyn FnMut(MakeProgress) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, EvalError> {
        assert_eq!(
            prompts.len(),
            self.job.problems.len(),
            "a prompt per problem"
        );
        let params = SamplingParams {
            // Teachers draw different numbers for the same problem.
            seed: self.job.params.seed.wrapping_add(teacher as u64),
            stop_token_ids: stop_token_ids.to_vec(),
            ..self.job.params.clone()
        };
        for (problem, tokens) in prompts.iter().enumerate() {
            if self.has_all(teacher, problem) {
                continue;
            }
            let request = Request {
                id: problem as u64,
                prompt_token_ids: tokens.clone(),
                params: params.clone(),
            };
            match generator.check(&request) {
                Ok(_) => generator.submit(request)?,
                Err(reason) => {
                    for sample_index in 0..params.n {
                        self.keep(Sample {
                            teacher,
                            problem,
                            sample_index,
                            text: String::new(),
                            finish: Finish::Refused(reason.to_string()),
                            gen_tokens: 0,
                        })?;
                    }
                }
            }
        }
        while !generator.is_idle() {
            for answer in generator.step()? {
                self.keep(sample(teacher, answer))?;
            }
            self.journal.sync_if_due()?;
            let progress = MakeProgress {
                done: self.samples.len(),
                resumed: self.resumed,
                total: self.job.problems.len() * self.job.teachers.len() * params.n,
                load: generator.load(),
            };
            if watch(progress).is_break() {
                self.journal.sync()?;
                return Ok(ControlFlow::Break(()));
            }
        }
        self.journal.sync()?;
        Ok(ControlFlow::Continue(()))
    }

    /// A killed run may have kept some samples of a problem; the rest come with the same ones
    /// again, bit for bit.
    fn keep(&mut self, sample: Sample) -> Result<(), EvalError> {
        let key = (sample.problem, sample.teacher, sample.sample_index);
        if let Entry::Vacant(place) = self.samples.entry(key) {
            self.journal.append(&sample)?;
            place.insert(sample);
        }
        Ok(())
    }

    /// Grades everything, writes what passes the filters, and beside it `NAME.stats.json`. The
    /// journal stays, so that other filters need no new samples.
    ///
    /// # Errors
    /// Samples are missing, or the disk refuses.
    pub fn finish(self) -> Result<Statistics, EvalError> {
        let total = self.job.problems.len() * self.job.teachers.len() * self.job.params.n;
        let missing = total - self.samples.len();
        if missing > 0 {
            return Err(EvalError::MissingAnswers { missing, total });
        }
        let samples: Vec<&Sample> = self.samples.values().collect();
        let graded = grade_all(&self.job.problems, &samples);
        let (kept, statistics) = select(&self.job, &graded);
        let records: Vec<Value> = kept
            .iter()
            .map(|index| self.record(&graded[*index]))
            .collect();
        write(&self.job.output, |file| {
            serde_json::to_writer_pretty(&mut *file, &records)?;
            file.write_all(b"\n")
        })?;
        let name = self.job.output.file_name().unwrap_or_default();
        let name = format!("{}.stats.json", name.to_string_lossy());
        write(&self.job.output.with_file_name(name), |file| {
            serde_json::to_writer_pretty(&mut *file, &statistics)?;
            file.write_all(b"\n")
        })?;
        Ok(statistics)
    }

    /// The original's four keys, then ours.
    fn record(&self, graded: &Graded<'_>) -> Value {
        let sample = graded.sample;
        let problem = &self.job.problems[sample.problem];
        json!({
            "instruction": problem.instruction,
            "output": sample.text,
            "answer": problem.answer,
            "resp_answer": graded.extracted,
            "problem_index": problem.index,
            "model": self.job.teachers[sample.teacher].0,
            "sample_index": sample.sample_index,
            "finish_reason": sample.finish.reason(),
            "gen_tokens": sample.gen_tokens,
            "grades": {"boxed": graded.boxed, "symbolic": graded.symbolic},
        })
    }
}

fn sample(teacher: usize, answer: Answer) -> Sample {
    Sample {
        teacher,
        problem: answer.request_id as usize,
        sample_index: answer.sample_index,
        text: answer.text,
        finish: answer.finish,
        gen_tokens: answer.gen_tokens,
    }
}

fn write(
    path: &Path,
    contents: impl FnOnce(&mut AtomicFile) -> std::io::Result<()>,
) -> Result<(), EvalError> {
    let write = || -> std::io::Result<()> {
        let mut file = AtomicFile::create(path)?;
        contents(&mut file)?;
        file.commit()
    };
    write().map_err(|source| EvalError::Write {
        path: path.to_owned(),
        source,
    })
}

/// Everything that decides the samples.
fn settings(job: &MakeJob) -> Map<String, Value> {
    let mut hasher = Sha256::new();
    for problem in &job.problems {
        for text in [&problem.instruction, &problem.answer] {
            hasher.update((text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
    }
    let digest = hasher.finalize();
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let params = &job.params;
    let mut settings = job.prompting.clone();
    let own = json!({
        "problems_sha256": digest,
        "num_problems": job.problems.len(),
        "models": job.teachers.iter().map(|(_, identity)| identity).collect::<Vec<_>>(),
        "n": params.n,
        "max_gen_toks": params.max_gen_toks,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k,
        "stop": params.stop,
        "seed": params.seed,
    });
    settings.extend(own.as_object().cloned().unwrap_or_default());
    settings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::ScriptedGenerator;

    fn job(output: &Path) -> MakeJob {
        let problem = |index: usize| Problem {
            index,
            instruction: format!("{index} + 1?"),
            answer: (index + 1).to_string(),
        };
        MakeJob {
            problems: (0..6).map(problem).collect(),
            teachers: vec![("a".to_owned(), Map::new()), ("b".to_owned(), Map::new())],
            params: SamplingParams {
                max_gen_toks: 40,
                temperature: 1.0,
                n: 2,
                ..SamplingParams::default()
            },
            prompting: Map::new(),
            filters: Filters::default(),
            output: output.to_owned(),
        }
    }

    /// Solves problem 0 to 3 right, 4 wrong, and 5 without end.
    fn answer(request: &Request, sample: usize) -> String {
        let id = request.id;
        match id {
            5 => "on and on ".repeat(10),
            4 => "So it is \\boxed{0}.".to_owned(),
            // Problem 0 has the same solution twice, 1 another form of the answer.
            0 => "\\boxed{1}".to_owned(),
            1 => format!("{sample}: \\boxed{{\\frac{{4}}{{2}}}}"),
            _ => format!("{sample}: \\boxed{{{}}}", id + 1),
        }
    }

    fn solve(make: &mut Make, stop_after: usize) -> ControlFlow<()> {
        let prompts: Vec<Vec<u32>> = (0..6).map(|index| vec![index]).collect();
        let mut steps = 0;
        for teacher in 0..2 {
            if !make.needs(teacher) {
                continue;
            }
            let mut generator = ScriptedGenerator::new(2, answer);
            let flow = make.solve(teacher, &mut generator, &prompts, &[], &mut |_| {
                steps += 1;
                if steps == stop_after {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
            if flow.unwrap().is_break() {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    #[test]
    fn right_finished_and_different_solutions_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("data.json");
        let mut make = Make::open(job(&output)).unwrap();
        assert!(solve(&mut make, usize::MAX).is_continue());
        let statistics = make.finish().unwrap();
        assert_eq!(statistics.samples, 24);
        assert_eq!(statistics.unfinished, 4);
        assert_eq!(statistics.wrong, 4);
        // Problem 0 twice by each of two teachers, and the second teacher says what the first said.
        assert_eq!(statistics.duplicates, 9);
        assert_eq!(statistics.kept, 7);
        assert_eq!(statistics.problems_solved, 4);
        let text = std::fs::read_to_string(&output).unwrap();
        let records: Vec<Value> = serde_json::from_str(&text).unwrap();
        assert_eq!(records.len(), 7);
        assert_eq!(records[0]["instruction"], "0 + 1?");
        assert_eq!(records[0]["resp_answer"], "1");
        let fraction = &records[1];
        assert_eq!(
            fraction["grades"],
            json!({"boxed": false, "symbolic": true})
        );
    }

    #[test]
    fn an_interrupted_run_ends_with_the_same_records() {
        let folder = tempfile::tempdir().unwrap();
        let [whole, parts] = ["whole.json", "parts.json"].map(|name| folder.path().join(name));
        let mut make = Make::open(job(&whole)).unwrap();
        assert!(solve(&mut make, usize::MAX).is_continue());
        make.finish().unwrap();
        let mut rounds = 0;
        loop {
            let mut make = Make::open(job(&parts)).unwrap();
            rounds += 1;
            if solve(&mut make, 2).is_continue() {
                make.finish().unwrap();
                break;
            }
        }
        assert!(rounds > 2);
        let read = |path: &Path| std::fs::read(path).unwrap();
        assert_eq!(read(&parts), read(&whole));
        // Other filters need no samples; other sampling is another run.
        let mut other = job(&parts);
        other.filters.per_problem = Some(1);
        let make = Make::open(other).unwrap();
        assert!(!make.needs(0) && !make.needs(1));
        assert_eq!(make.finish().unwrap().kept, 4);
        let mut other = job(&parts);
        other.params.seed = 9;
        let error = Make::open(other).err().unwrap().to_string();
        assert!(error.contains("seed"), "{error}");
    }
}
