//! The loop of a run: everything that the journal lacks goes to the generator, everything that
//! comes back goes to the journal first and is counted once it is durable.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use crate::durable::Journal;
use crate::engine::Request;

use super::record::{SampleId, SampleRecord};
use super::{EvalError, Generator, Load};

/// A request and the document that it asks about.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// The task.
    pub task: String,
    /// The document's number in its split.
    pub doc_id: usize,
    /// What the generator gets; `params.n` answers are expected.
    pub request: Request,
}

/// What a progress display shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Answers on the disk, resumed ones included.
    pub done: usize,
    /// Of these, answers that an earlier process had finished.
    pub resumed: usize,
    /// Answers of the run.
    pub total: usize,
    /// How busy the generator is.
    pub load: Load,
    /// Since this process began to generate.
    pub elapsed: Duration,
}

/// Who watches a run and may end it early.
pub trait Observer {
    /// Called after every step.
    fn progress(&mut self, progress: &Progress);

    /// Asked before every step; `true` ends the run with what is finished.
    fn is_interrupted(&self) -> bool {
        false
    }
}

/// An observer that neither shows nor ends anything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn progress(&mut self, _progress: &Progress) {}
}

/// The answers of a run by their place in it.
pub type Answers = BTreeMap<SampleId, SampleRecord>;

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Every answer is here.
    Finished(Answers),
    /// The observer ended it; the journal holds `done` of `total` answers.
    Interrupted {
        /// Answers in the journal.
        done: usize,
        /// Answers of the run.
        total: usize,
    },
}

/// Runs `jobs` to the end, or to the observer's interruption.
///
/// `finished` are the journal's records; what they answer is not asked again. A request of which
/// some samples are missing is generated whole, because samples share their prompt, and the ones
/// already known are dropped: they are the same, bit for bit.
///
/// # Errors
/// The generator or the journal fails. What the journal holds is safe.
pub fn execute(
    jobs: Vec<Job>,
    finished: Vec<SampleRecord>,
    journal: &mut Journal,
    generator: &mut dyn Generator,
    observer: &mut dyn Observer,
) -> Result<Outcome, EvalError> {
    let total = jobs.iter().map(|job| job.request.params.n).sum();
    let mut run = Run {
        answers: finished
            .into_iter()
            .map(|record| (record.id.clone(), record))
            .collect(),
        asked: HashMap::new(),
        resumed: 0,
        total,
        started: Instant::now(),
    };
    run.resumed = run.answers.len();
    run.submit(jobs, generator)?;
    while run.answers.len() < total {
        if observer.is_interrupted() {
            journal.sync()?;
            let done = journal.num_durable();
            return Ok(Outcome::Interrupted { done, total });
        }
        if generator.is_idle() {
            let missing = total - run.answers.len();
            return Err(EvalError::MissingAnswers { missing, total });
        }
        run.step(journal, generator)?;
        observer.progress(&run.progress(journal, generator));
    }
    journal.sync()?;
    observer.progress(&run.progress(journal, generator));
    Ok(Outcome::Finished(run.answers))
}

struct Run {
    answers: Answers,
    /// Task and document of each request that is under way.
    asked: HashMap<u64, (String, usize, usize)>,
    resumed: usize,
    total: usize,
    started: Instant,
}

impl Run {
    fn submit(&mut self, jobs: Vec<Job>, generator: &mut dyn Generator) -> Result<(), EvalError> {
        for Job {
            task,
            doc_id,
            request,
        } in jobs
        {
            let n = request.params.n;
            let has_all = (0..n).all(|sample_index| {
                let task = task.clone();
                self.answers.contains_key(&SampleId {
                    task,
                    doc_id,
                    sample_index,
                })
            });
            if has_all {
                continue;
            }
            self.asked.insert(request.id, (task, doc_id, n));
            generator.submit(request)?;
        }
        Ok(())
    }

    fn step(
        &mut self,
        journal: &mut Journal,
        generator: &mut dyn Generator,
    ) -> Result<(), EvalError> {
        for answer in generator.step()? {
            let (request_id, sample_index) = (answer.request_id, answer.sample_index);
            let asked = self.asked.get(&request_id);
            let Some((task, doc_id, _)) = asked.filter(|(_, _, n)| sample_index < *n) else {
                return Err(EvalError::UnknownCompletion {
                    request_id,
                    sample_index,
                });
            };
            let record = SampleRecord::new(task, *doc_id, answer);
            if !self.answers.contains_key(&record.id) {
                journal.append(&record)?;
                self.answers.insert(record.id.clone(), record);
            }
        }
        journal.sync_if_due()?;
        Ok(())
    }

    fn progress(&self, journal: &Journal, generator: &dyn Generator) -> Progress {
        Progress {
            done: journal.num_durable(),
            resumed: self.resumed,
            total: self.total,
            load: generator.load(),
            elapsed: self.started.elapsed(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{RequestError, SamplingParams};
    use crate::eval::generator::{Answer, ScriptedGenerator};
    use crate::eval::record::request_id;

    fn jobs() -> Vec<Job> {
        let job = |doc_id| Job {
            task: "t".to_owned(),
            doc_id,
            request: Request {
                id: request_id("t", doc_id),
                prompt_token_ids: vec![doc_id as u32],
                params: SamplingParams {
                    n: 2,
                    stop: vec!["STOP".to_owned()],
                    ..SamplingParams::default()
                },
            },
        };
        (0..7).map(job).collect()
    }

    fn scripted() -> impl Generator {
        ScriptedGenerator::new(2, |request, sample| {
            format!(
                "doc {:?} sample {sample}STOP rest",
                request.prompt_token_ids
            )
        })
    }

    struct StopAfter(usize, usize);

    impl Observer for StopAfter {
        fn progress(&mut self, _progress: &Progress) {
            self.1 += 1;
        }
        fn is_interrupted(&self) -> bool {
            self.1 >= self.0
        }
    }

    #[test]
    fn a_run_interrupted_again_and_again_ends_like_an_undisturbed_one() {
        let folder = tempfile::tempdir().unwrap();
        let settings = serde_json::Map::new();
        let run = |name: &str, observer: &mut dyn Observer| {
            let (mut journal, finished) =
                Journal::open(&folder.path().join(name), &settings).unwrap();
            let mut generator = scripted();
            execute(jobs(), finished, &mut journal, &mut generator, observer).unwrap()
        };
        let Outcome::Finished(whole) = run("whole", &mut Unobserved) else {
            panic!("nobody interrupted it");
        };
        assert_eq!(whole.len(), 14);
        let mut last = 0;
        for _ in 0..100 {
            match run("parts", &mut StopAfter(1, 0)) {
                Outcome::Finished(parts) => {
                    assert_eq!(parts, whole);
                    return;
                }
                Outcome::Interrupted { done, total } => {
                    assert!(total == 14 && done > last);
                    last = done;
                }
            }
        }
        panic!("it never finished");
    }

    #[test]
    fn an_answer_that_nobody_asked_for_ends_the_run() {
        struct Stranger;
        impl Generator for Stranger {
            fn check(&self, _request: &Request) -> Result<usize, RequestError> {
                Ok(1)
            }
            fn submit(&mut self, _request: Request) -> Result<(), EvalError> {
                Ok(())
            }
            fn step(&mut self) -> Result<Vec<Answer>, EvalError> {
                let mut other = ScriptedGenerator::new(1, |_, _| String::new());
                let mut request = jobs().swap_remove(0).request;
                request.id = 1;
                other.submit(request)?;
                other.step()
            }
            fn is_idle(&self) -> bool {
                false
            }
            fn load(&self) -> Load {
                Load::default()
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j");
        let (mut journal, finished) = Journal::open(&path, &serde_json::Map::new()).unwrap();
        let error = execute(
            jobs(),
            finished,
            &mut journal,
            &mut Stranger,
            &mut Unobserved,
        );
        assert!(
            matches!(
                error,
                Err(EvalError::UnknownCompletion { request_id: 1, .. })
            ),
            "{error:?}"
        );
    }

    #[test]
    fn a_generator_that_loses_answers_is_told_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j");
        let (mut journal, finished) = Journal::open(&path, &serde_json::Map::new()).unwrap();
        struct Idle;
        impl Generator for Idle {
            fn check(&self, _request: &Request) -> Result<usize, RequestError> {
                Ok(1)
            }
            fn submit(&mut self, _request: Request) -> Result<(), EvalError> {
                Ok(())
            }
            fn step(&mut self) -> Result<Vec<Answer>, EvalError> {
                Ok(Vec::new())
            }
            fn is_idle(&self) -> bool {
                true
            }
            fn load(&self) -> Load {
                Load::default()
            }
        }
        let error = execute(jobs(), finished, &mut journal, &mut Idle, &mut Unobserved);
        assert!(
            matches!(error, Err(EvalError::MissingAnswers { missing: 14, .. })),
            "{error:?}"
        );
    }
}
