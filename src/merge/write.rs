//! Writing a prepared merge: tensors through shards that are opened once, then everything else.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, mpsc};

use rayon::ThreadPoolBuilder;

use super::card::model_card;
use super::dtype::stored_type;
use super::error::MergeError;
use super::output::{GENERATION_CONFIG, OutputFolder, TOKENIZER_FILES};
use super::plan::TensorPlan;
use super::run::{Merge, Progress};
use super::tensor::{Draws, Sink, StreamStates};
use crate::formats::{PlannedTensor, SafetensorsWriter, WriteBehind, write_behind};

/// Tensors that are computed at once.
pub(super) const LANES: usize = 2;

impl Merge<'_> {
    /// Computes and writes the output. `progress` is called from the computing thread.
    ///
    /// # Errors
    /// The folder cannot be used, the disk is too small or fails. Nothing is left then.
    pub fn write(&self, out: &Path, progress: &dyn Fn(Progress)) -> Result<(), MergeError> {
        self.check_output(out)?;
        let mut pool = ThreadPoolBuilder::new();
        if let Some(threads) = self.options.threads {
            pool = pool.num_threads(threads);
        }
        let pool = pool.build().map_err(|e| MergeError::Output {
            path: out.to_owned(),
            problem: e.to_string(),
        })?;
        let folder = OutputFolder::create(out)?;
        // The disk takes the small files while the tensors are being computed.
        std::thread::scope(|scope| {
            let files = scope.spawn(|| self.write_files(&folder, out));
            self.write_tensors(&folder, &pool, progress)?;
            files.join().expect("writing files does not panic")
        })?;
        folder.finish()
    }

    /// Checks that the output can be written to `out`, without writing.
    ///
    /// # Errors
    /// The folder cannot be used, holds an input or foreign files, or the disk is too small.
    pub fn check_output(&self, out: &Path) -> Result<(), MergeError> {
        let resolved = std::fs::canonicalize(out).ok();
        for model in self.models.iter() {
            let input = std::fs::canonicalize(&model.folder).ok();
            if resolved.is_some() && input == resolved {
                return Err(MergeError::Output {
                    path: out.to_owned(),
                    problem: format!("is also the input {}; name another folder", model.name),
                });
            }
        }
        OutputFolder::check(out, self.output_bytes())
    }

    fn write_tensors(
        &self,
        folder: &OutputFolder,
        pool: &rayon::ThreadPool,
        progress: &dyn Fn(Progress),
    ) -> Result<(), MergeError> {
        let planned = self.tensors.iter().map(|tensor| PlannedTensor {
            name: tensor.name.clone(),
            dtype: stored_type(tensor.out_dtype),
            shape: tensor.shape.clone(),
        });
        let shard = Some(self.options.shard_bytes);
        let format = |error: crate::formats::FormatError| MergeError::Output {
            path: folder.path().to_owned(),
            problem: error.to_string(),
        };
        let writer =
            SafetensorsWriter::create(folder.path(), planned.collect(), shard).map_err(format)?;
        let sync = || writer.sync().map_err(format);
        write_behind(sync, |behind| {
            std::thread::scope(|scope| {
                let queue = Mutex::new(Queue {
                    tensors: self.tensors.iter(),
                    stream: self.walk_stream(scope),
                });
                let computation = Computation {
                    merge: self,
                    queue: &queue,
                    writer: &writer,
                    pool,
                    behind,
                    done_bytes: AtomicU64::new(0),
                };
                computation.run(progress)
            })
        })?;
        writer.finish().map_err(format)?;
        Ok(())
    }

    fn write_files(&self, folder: &OutputFolder, out: &Path) -> Result<(), MergeError> {
        let donor = self.models.get(self.layout.donor);
        let json = |value: &serde_json::Map<String, serde_json::Value>| {
            let text = serde_json::to_string_pretty(value);
            text.expect("a JSON value can be written") + "\n"
        };
        folder.write("config.json", json(&self.config.config).as_bytes())?;
        folder.copy(&donor.folder, GENERATION_CONFIG)?;
        self.write_tokenizer(folder, &json)?;
        folder.write("mergekit_config.yml", self.recipe.text.as_bytes())?;
        if self.options.write_card {
            let title = out.file_name().unwrap_or_default().to_string_lossy();
            let randomness = self.is_random().then_some(&self.options.randomness);
            let card = model_card(&title, self.recipe, &self.layout, &self.models, randomness);
            folder.write("README.md", card.as_bytes())?;
        }
        Ok(())
    }

    fn write_tokenizer(
        &self,
        folder: &OutputFolder,
        json: &dyn Fn(&serde_json::Map<String, serde_json::Value>) -> String,
    ) -> Result<(), MergeError> {
        let built = self.tokenizer.as_ref().map(|t| &t.vocabulary);
        if built.is_none() && self.chat_template.is_none() && !self.options.copy_tokenizer {
            return Ok(());
        }
        let donor = match built {
            Some(vocabulary) => vocabulary.donor.as_path(),
            None => &self.models.get(self.layout.donor).folder,
        };
        for name in TOKENIZER_FILES {
            // These list the donor's own vocabulary, which the built one may differ from.
            let stale = ["tokenizer.json", "added_tokens.json", "merges.txt"].contains(name);
            if built.is_none() || !stale {
                folder.copy(donor, name)?;
            }
        }
        if let Some(vocabulary) = built {
            let text = serde_json::to_string_pretty(&vocabulary.file);
            let text = text.expect("a JSON value can be written");
            folder.write("tokenizer.json", text.as_bytes())?;
        }
        if built.is_none() && self.chat_template.is_none() {
            return Ok(());
        }
        let path = donor.join("tokenizer_config.json");
        let mut config = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|e| MergeError::Tokenizer(format!("{}: {e}", path.display())))?,
            Err(_) => serde_json::Map::new(),
        };
        if let Some(vocabulary) = built {
            config = vocabulary.config(&config);
        }
        if let Some(template) = &self.chat_template {
            // Old loaders read the configuration, new ones the file.
            config.insert("chat_template".into(), template.as_str().into());
            folder.write("chat_template.jinja", template.as_bytes())?;
        }
        folder.write("tokenizer_config.json", json(&config).as_bytes())
    }
}

/// The tensors that nobody has begun, and the random numbers, which are drawn in their order.
struct Queue<'a> {
    tensors: std::slice::Iter<'a, TensorPlan>,
    stream: Option<mpsc::Receiver<Vec<StreamStates>>>,
}

/// Tensors on their way from the queue to the files.
struct Computation<'a> {
    merge: &'a Merge<'a>,
    queue: &'a Mutex<Queue<'a>>,
    writer: &'a SafetensorsWriter,
    pool: &'a rayon::ThreadPool,
    /// Told what was written.
    behind: &'a WriteBehind,
    done_bytes: AtomicU64,
}

impl<'a> Computation<'a> {
    /// Computes all tensors, [`LANES`] at a time on the same threads: where one tensor has no
    /// more blocks to give, the other one has.
    fn run(&self, progress: &dyn Fn(Progress)) -> Result<(), MergeError> {
        let total_bytes = self.merge.output_bytes();
        let report = |done_bytes| {
            progress(Progress {
                done_bytes,
                total_bytes,
            });
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..LANES)
                .map(|_| scope.spawn(|| self.lane(&|_| ())))
                .collect();
            let own = self.lane(&report);
            let others = others.into_iter();
            let others = others.map(|lane| lane.join().expect("computing does not panic"));
            others.chain([own]).collect()
        })
    }

    fn lane(&self, report: &dyn Fn(u64)) -> Result<(), MergeError> {
        let result = self.work(report);
        if result.is_err() {
            self.queue().tensors = [].iter();
        }
        result
    }

    fn work(&self, report: &dyn Fn(u64)) -> Result<(), MergeError> {
        while let Some((tensor, draws)) = self.next()? {
            let sink = TensorSink {
                writer: self.writer,
                name: &tensor.name,
            };
            let task = self.merge.task(tensor, draws, &sink)?;
            self.pool
                .install(|| self.merge.recipe.method.merge(&task))?;
            let bytes = tensor.bytes();
            let done = self.done_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
            self.behind.wrote(bytes);
            report(done);
        }
        Ok(())
    }

    fn next(&self) -> Result<Option<(&'a TensorPlan, Draws<'a>)>, MergeError> {
        let mut queue = self.queue();
        let Some(tensor) = queue.tensors.next() else {
            return Ok(None);
        };
        let draws = self.merge.draws(tensor, queue.stream.as_ref())?;
        Ok(Some((tensor, draws)))
    }

    fn queue(&self) -> MutexGuard<'_, Queue<'a>> {
        self.queue.lock().expect("computing does not panic")
    }
}

struct TensorSink<'a> {
    writer: &'a SafetensorsWriter,
    name: &'a str,
}

impl Sink for TensorSink<'_> {
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), MergeError> {
        self.writer
            .write_at(self.name, offset, bytes)
            .map_err(|error| MergeError::Tensor {
                tensor: self.name.to_owned(),
                problem: error.to_string(),
            })
    }
}
