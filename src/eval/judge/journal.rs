//! A judge's replies, kept: each is durable before it counts, and no question is asked twice.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{Judge, JudgePrompt};
use crate::durable::Journal;
use crate::eval::EvalError;

/// A judge with a journal. Once it has failed it is asked no more; what is graded goes on without.
pub struct JudgeJournal<'a> {
    judge: Box<dyn Judge + 'a>,
    journal: Journal,
    replies: HashMap<String, String>,
    failure: Option<EvalError>,
}

/// A line of the journal.
#[derive(Serialize, Deserialize)]
struct Replied {
    /// SHA-256 of what the user says, in hex.
    question: String,
    reply: String,
}

impl<'a> JudgeJournal<'a> {
    /// Opens the journal at `path` or starts it. `settings` say who judges.
    ///
    /// # Errors
    /// The journal cannot be opened, is in use, or belongs to another judge.
    pub fn open(
        judge: Box<dyn Judge + 'a>,
        path: &Path,
        settings: &Map<String, Value>,
    ) -> Result<Self, EvalError> {
        let (journal, records) = Journal::open::<Replied>(path, settings)?;
        let replies = records.into_iter();
        Ok(Self {
            judge,
            journal,
            replies: replies.map(|r| (r.question, r.reply)).collect(),
            failure: None,
        })
    }

    /// The replies to the prompts, in order; `None` for those that the judge failed to answer.
    pub fn ask(&mut self, prompts: &[JudgePrompt]) -> Vec<Option<String>> {
        let keys: Vec<String> = prompts.iter().map(key).collect();
        let mut seen = HashSet::new();
        let is_open = |&index: &usize| {
            let question = keys[index].as_str();
            !self.replies.contains_key(question) && seen.insert(question)
        };
        let open: Vec<usize> = (0..keys.len()).filter(is_open).collect();
        if self.failure.is_none() && !open.is_empty() {
            let (journal, replies) = (&mut self.journal, &mut self.replies);
            let mut settle = |index: usize, reply: String| {
                let question = keys[open[index]].clone();
                journal.append(&Replied {
                    question: question.clone(),
                    reply: reply.clone(),
                })?;
                replies.insert(question, reply);
                Ok(())
            };
            let asked: Vec<JudgePrompt> = open.iter().map(|&i| prompts[i].clone()).collect();
            let outcome = self.judge.ask(&asked, &mut settle);
            let synced = self.journal.sync().map_err(EvalError::from);
            self.failure = outcome.and(synced).err();
        }
        let found = keys.iter().map(|key| self.replies.get(key).cloned());
        found.collect()
    }

    /// Why the judge is asked no more.
    pub fn failure(&self) -> Option<&EvalError> {
        self.failure.as_ref()
    }

    /// Ends the stage: a judge that answered everything needs its journal no more.
    ///
    /// # Errors
    /// The journal cannot be removed.
    pub fn finish(self) -> Result<(), EvalError> {
        if self.failure.is_none() {
            self.journal.remove()?;
        }
        Ok(())
    }
}

fn key(prompt: &JudgePrompt) -> String {
    let sum = Sha256::digest(prompt.user.as_bytes());
    sum.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says `True` to everything until it fails, and counts.
    struct Scripted<'c> {
        left: usize,
        asked: &'c mut usize,
    }

    impl Judge for Scripted<'_> {
        fn ask(
            &mut self,
            prompts: &[JudgePrompt],
            settle: &mut (dyn FnMut(usize, String) -> Result<(), EvalError> + Send),
        ) -> Result<(), EvalError> {
            for index in 0..prompts.len() {
                if self.left == 0 {
                    return Err(EvalError::Judge {
                        problem: "gone".to_owned(),
                    });
                }
                self.left -= 1;
                *self.asked += 1;
                settle(index, "True".to_owned())?;
            }
            Ok(())
        }
    }

    fn prompts(questions: &[&str]) -> Vec<JudgePrompt> {
        let prompt = |user: &&str| JudgePrompt {
            user: (*user).to_owned(),
        };
        questions.iter().map(prompt).collect()
    }

    #[test]
    fn a_judge_that_failed_goes_on_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("judge.journal");
        let mut asked = 0;
        let answers = |left, asked: &mut usize| {
            let judge = Box::new(Scripted { left, asked });
            let mut journal = JudgeJournal::open(judge, &path, &Map::new()).unwrap();
            let replies = journal.ask(&prompts(&["a", "b", "a", "c"]));
            let failed = journal.failure().is_some();
            journal.finish().unwrap();
            let there: Vec<bool> = replies.iter().map(Option::is_some).collect();
            (there, failed)
        };
        assert_eq!(
            answers(2, &mut asked),
            (vec![true, true, true, false], true)
        );
        assert_eq!(answers(9, &mut asked), (vec![true; 4], false));
        assert_eq!(asked, 3, "no question twice");
        assert!(!path.exists(), "a finished stage leaves no journal");
    }
}
