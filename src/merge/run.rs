//! A merge from recipe to folder: prepare (everything that can be refused is), then write.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use rayon::ThreadPoolBuilder;
use sha2::{Digest, Sha256};

use super::architecture::{EMBEDDING, HEAD, Part};
use super::card::model_card;
use super::config::{OutputConfig, output_config};
use super::dtype::FloatType;
use super::error::MergeError;
use super::layout::Layout;
use super::model::{Fetch, Models, OpenOptions};
use super::numeric::Rounding;
use super::output::{GENERATION_CONFIG, OutputFolder, TOKENIZER_FILES};
use super::plan::{InputPlan, Shapes, TensorPlan, plan, unknown_tensors};
use super::recipe::{Recipe, TokenSource, TokenizerRecipe, VocabularySource};
use super::tensor::{
    Aligned, AnyTensor, Draws, Input, RowOrigin, SeededStream, Sink, Source, Tensor, blocks,
};
use super::vocabulary::{self, Alignment, OutputVocabulary, Vocabulary};
use crate::formats::{PlannedTensor, SafetensorsFile, SafetensorsWriter};
use crate::random::{CounterRng, Mt19937};

/// Tensors for which the random stream may be walked ahead.
const STREAM_AHEAD: usize = 1;

/// The program itself, with the headers and configurations of the models.
const BASE_MEMORY: u64 = 64 << 20;

/// How a merge is carried out, apart from the recipe.
pub struct MergeOptions {
    /// Where random masks come from.
    pub randomness: Randomness,
    /// Data bytes of a shard.
    pub shard_bytes: u64,
    /// Copy the donor's tokenizer files where none is built.
    pub copy_tokenizer: bool,
    /// Write `README.md`. The recipe itself is always stored.
    pub write_card: bool,
    /// Mix architectures, by the donor's tensor table.
    pub allow_crimes: bool,
    /// Cut embeddings to the smallest number of rows.
    pub truncate_embeddings: bool,
    /// Do what the reference does where that harms: drop tensors that no table knows, leave
    /// `tie_word_embeddings` beside a head of its own.
    pub lenient: bool,
    /// The type that adapters are folded in; the model's own where absent.
    pub lora_dtype: Option<FloatType>,
    /// Threads; all cores where absent.
    pub threads: Option<usize>,
    /// Gives the local folder of a hub repository (and revision).
    pub fetch: Box<Fetch>,
}

/// Where random masks come from.
pub enum Randomness {
    /// The reference's stream for `--random-seed`.
    Reference(u64),
    /// Our counter-based generator, keyed by (seed, model, tensor, element).
    Counter(u64),
    /// A safetensors file with one U8 mask per `TENSOR::MODEL`.
    Masks(PathBuf),
}

/// A merge that has been checked and can be written.
pub struct Merge<'r> {
    pub(super) recipe: &'r Recipe,
    pub(super) options: MergeOptions,
    pub(super) models: Models,
    pub(super) layout: Layout<'r>,
    pub(super) tensors: Vec<TensorPlan>,
    pub(super) config: OutputConfig,
    pub(super) tokenizer: Option<OutputTokenizer>,
    chat_template: Option<String>,
    masks: Option<SafetensorsFile>,
    /// What was noticed but not refused.
    pub warnings: Vec<String>,
}

/// A tokenizer that is built, with the rows that embeddings take.
pub(super) struct OutputTokenizer {
    pub(super) vocabulary: OutputVocabulary,
    pub(super) alignment: Alignment,
}

/// How far a merge has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Bytes written.
    pub done_bytes: u64,
    /// Bytes to write.
    pub total_bytes: u64,
}

impl<'r> Merge<'r> {
    /// Opens the models and checks everything that can be checked without computing.
    ///
    /// # Errors
    /// Anything wrong with the recipe, the models or the options; see [`MergeError`].
    pub fn prepare(recipe: &'r Recipe, options: MergeOptions) -> Result<Self, MergeError> {
        let mut models = Models::default();
        let open = OpenOptions {
            fetch: &*options.fetch,
            lora_dtype: options.lora_dtype,
        };
        let layout = Layout::new(recipe, &mut models, &open)?;
        let mut warnings = recipe.warnings.clone();
        check_architectures(&layout, &models, &options)?;
        check_unknown_tensors(&models, options.lenient, &mut warnings)?;
        let tokenizer = match &recipe.tokenizer {
            Some(tokenizer) => {
                let built = build_tokenizer(tokenizer, &layout, &mut models, &open)?;
                warnings.extend(built.alignment.warnings.iter().cloned());
                Some(built)
            }
            None => None,
        };
        let chat_template = match &recipe.chat_template {
            Some(setting) => {
                let inputs = layout.inputs.iter().map(|index| models.get(*index));
                vocabulary::chat_template(setting, inputs)?
            }
            None => None,
        };
        let shapes = Shapes {
            alignment: tokenizer.as_ref().map(|t| &t.alignment),
            truncate: options.truncate_embeddings,
        };
        let tensors = plan(recipe, &layout, &models, &shapes)?;
        let config = output_config(recipe, &layout, &models, &tensors, options.lenient);
        warnings.extend(config.notes.iter().cloned());
        let masks = match &options.randomness {
            Randomness::Masks(path) => {
                let file = SafetensorsFile::open(path);
                Some(file.map_err(|e| MergeError::model("masks", e.to_string()))?)
            }
            _ => None,
        };
        let this = Self {
            recipe,
            options,
            models,
            layout,
            tensors,
            config,
            tokenizer,
            chat_template,
            masks,
            warnings,
        };
        this.check_inputs()?;
        Ok(this)
    }

    /// Bytes of the output's tensors.
    pub fn output_bytes(&self) -> u64 {
        self.tensors.iter().map(TensorPlan::bytes).sum()
    }

    /// Whether any tensor takes random numbers.
    pub fn is_random(&self) -> bool {
        let mut inputs = self.tensors.iter().flat_map(|t| &t.inputs);
        inputs.any(|input| input.draws)
    }

    /// Adapters and masks that would only be found unusable halfway.
    fn check_inputs(&self) -> Result<(), MergeError> {
        for tensor in &self.tensors {
            for (slot, input) in tensor.inputs.iter().enumerate() {
                self.source(tensor, slot)?;
                if let (Some(masks), true) = (&self.masks, input.draws) {
                    self.mask(masks, tensor, input)?;
                }
            }
        }
        Ok(())
    }

    fn mask<'a>(
        &self,
        masks: &'a SafetensorsFile,
        tensor: &TensorPlan,
        input: &InputPlan,
    ) -> Result<&'a [u8], MergeError> {
        let key = format!("{}::{}", tensor.name, self.models.get(input.model).name);
        let fail = |problem: String| MergeError::Tensor {
            tensor: tensor.name.clone(),
            problem,
        };
        let view = masks
            .tensor(&key)
            .ok_or_else(|| fail(format!("the mask file has no entry {key}")))?;
        if view.data.len() != tensor.num_elements() {
            return Err(fail(format!(
                "mask {key} is {} {:?}, expected one byte for each of {} elements",
                view.dtype,
                view.shape,
                tensor.num_elements()
            )));
        }
        Ok(view.data)
    }

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
        self.write_tensors(&folder, &pool, progress)?;
        self.write_files(&folder, out)?;
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
            dtype: tensor.out_dtype.stored(),
            shape: tensor.shape.clone(),
        });
        let shard = Some(self.options.shard_bytes);
        let format = |error: crate::formats::FormatError| MergeError::Output {
            path: folder.path().to_owned(),
            problem: error.to_string(),
        };
        let writer =
            SafetensorsWriter::create(folder.path(), planned.collect(), shard).map_err(format)?;
        let total_bytes = self.output_bytes();
        std::thread::scope(|scope| {
            let stream = self.walk_stream(scope);
            let mut done_bytes = 0;
            for tensor in &self.tensors {
                let sink = TensorSink {
                    writer: &writer,
                    name: &tensor.name,
                };
                let draws = self.draws(tensor, stream.as_ref())?;
                let task = self.task(tensor, draws, &sink)?;
                pool.install(|| self.recipe.method.merge(&task))?;
                done_bytes += tensor.bytes();
                progress(Progress {
                    done_bytes,
                    total_bytes,
                });
            }
            Ok(())
        })?;
        writer.finish().map_err(format)?;
        Ok(())
    }

    /// Walks the reference's stream ahead of the computation, if it is used.
    fn walk_stream<'s>(
        &'s self,
        scope: &'s std::thread::Scope<'s, '_>,
    ) -> Option<mpsc::Receiver<Vec<Vec<Mt19937>>>> {
        let Randomness::Reference(seed) = self.options.randomness else {
            return None;
        };
        let (sender, receiver) = mpsc::sync_channel(STREAM_AHEAD);
        scope.spawn(move || {
            let mut stream = SeededStream::new(seed);
            for tensor in &self.tensors {
                let drawing = tensor.inputs.iter().filter(|input| input.draws).count();
                // A merge that has failed no longer listens.
                if drawing > 0 && sender.send(stream.states(&tensor.shape, drawing)).is_err() {
                    return;
                }
            }
        });
        Some(receiver)
    }

    fn draws(
        &self,
        tensor: &TensorPlan,
        stream: Option<&mpsc::Receiver<Vec<Vec<Mt19937>>>>,
    ) -> Result<Draws<'_>, MergeError> {
        let drawing: Vec<&InputPlan> = tensor.inputs.iter().filter(|i| i.draws).collect();
        if drawing.is_empty() {
            return Ok(Draws::None);
        }
        Ok(match (&self.options.randomness, stream, &self.masks) {
            (Randomness::Counter(seed), ..) => {
                let rngs = drawing.iter().map(|input| {
                    let model = &self.models.get(input.model).name;
                    CounterRng::from_parts(&[*seed, name_key(model), name_key(&tensor.name)])
                });
                Draws::Counter(rngs.collect())
            }
            (Randomness::Masks(_), _, Some(masks)) => {
                let masks = drawing.iter().map(|input| self.mask(masks, tensor, input));
                Draws::Masks(masks.collect::<Result<_, _>>()?)
            }
            (_, Some(stream), _) => {
                let states = stream.recv();
                Draws::Stream(states.expect("the walker sends one entry per drawing tensor"))
            }
            _ => unreachable!("the stream and the masks are opened where they are used"),
        })
    }

    /// Room for the blocks of every thread and for the states of the random stream, beyond the
    /// page cache.
    pub(super) fn memory_estimate(&self) -> u64 {
        let threads = self.options.threads.or_else(|| {
            std::thread::available_parallelism()
                .ok()
                .map(std::num::NonZero::get)
        });
        let tensor = |plan: &TensorPlan| {
            let drawing = plan.inputs.iter().filter(|input| input.draws).count();
            let blocks = blocks(&plan.shape);
            let block = blocks.first().map_or(0, |block| block.range.len());
            let element = plan.dtype.bytes().max(4);
            let scratch = block * (element + plan.out_dtype.bytes())
                + (plan.inputs.len() + 6)
                    * element
                    * (1 << 12).max(plan.shape.last().copied().unwrap_or(1));
            let states = match self.options.randomness {
                Randomness::Reference(_) => {
                    (2 + STREAM_AHEAD) * drawing * blocks.len() * size_of::<Mt19937>()
                }
                _ => 0,
            };
            scratch * threads.unwrap_or(1) + states
        };
        self.tensors.iter().map(tensor).max().unwrap_or(0) as u64 + BASE_MEMORY
    }

    pub(super) fn task<'a>(
        &'a self,
        plan: &'a TensorPlan,
        draws: Draws<'a>,
        sink: &'a dyn Sink,
    ) -> Result<AnyTensor<'a>, MergeError> {
        let inputs = plan.inputs.iter().enumerate().map(|(slot, input)| {
            Ok(Input {
                source: self.source(plan, slot)?,
                values: &input.values,
            })
        });
        let inputs = inputs.collect::<Result<Vec<_>, MergeError>>()?;
        macro_rules! tensor {
            () => {
                Tensor {
                    name: &plan.name,
                    shape: &plan.shape,
                    rounding: Rounding::of(plan.dtype),
                    inputs,
                    base: plan.base,
                    shared: &plan.shared,
                    draws,
                    out_dtype: plan.out_dtype,
                    sink,
                    real: std::marker::PhantomData,
                }
            };
        }
        Ok(match plan.dtype {
            FloatType::F64 => AnyTensor::Double(tensor!()),
            _ => AnyTensor::Single(tensor!()),
        })
    }

    /// The elements of one input of a tensor.
    pub(super) fn source(&self, plan: &TensorPlan, slot: usize) -> Result<Source<'_>, MergeError> {
        let input = &plan.inputs[slot];
        let model = self.models.get(input.model);
        let (shape, stored) = model.stored(&input.tensor)?;
        let folded = match (&model.adapter, model.folded_dtype) {
            (Some(adapter), Some(dtype)) => adapter.fold(&input.tensor, shape, stored, dtype)?,
            _ => None,
        };
        let vocabulary = matches!(plan.part, Part::Embedding | Part::Head);
        match (&self.tokenizer, folded) {
            (Some(tokenizer), None) if vocabulary => self
                .aligned(plan, input, &tokenizer.alignment)
                .map(Source::Aligned),
            (Some(_), Some(_)) if vocabulary => Err(MergeError::model(
                &model.name,
                format!(
                    "the adapter changes {}, which a tokenizer setting rearranges; fold the \
                     adapter in first",
                    input.tensor
                ),
            )),
            (_, Some(folded)) => Ok(Source::Folded(folded)),
            (_, None) => Ok(Source::Stored(stored)),
        }
    }

    fn aligned<'a>(
        &'a self,
        plan: &TensorPlan,
        input: &InputPlan,
        alignment: &'a Alignment,
    ) -> Result<Aligned<'a>, MergeError> {
        let mut embeddings = Vec::new();
        for model in self.models.iter() {
            let name = match plan.part == Part::Head && model.has(HEAD) {
                true => HEAD,
                false => EMBEDDING,
            };
            embeddings.push(model.stored(name)?.1);
        }
        let rows = &alignment.rows[&input.model];
        let mut aligned = Aligned {
            embeddings,
            row_len: plan.shape[1],
            rows,
            padding: Vec::new(),
        };
        if alignment.padded_rows > rows.len() {
            aligned.padding = aligned.mean_row(Rounding::of(plan.dtype));
        }
        Ok(aligned)
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

/// A stable 64-bit key of a name.
fn name_key(name: &str) -> u64 {
    let digest = Sha256::digest(name.as_bytes());
    let mut key = [0; 8];
    key.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(key)
}

fn check_architectures(
    layout: &Layout<'_>,
    models: &Models,
    options: &MergeOptions,
) -> Result<(), MergeError> {
    let donor = models.get(layout.donor);
    for input in &layout.inputs {
        let model = models.get(*input);
        if model.architecture.name != donor.architecture.name && !options.allow_crimes {
            return Err(MergeError::model(
                &model.name,
                format!(
                    "is a {}, but {} is a {}; --allow-crimes mixes them all the same",
                    model.architecture.name, donor.name, donor.architecture.name
                ),
            ));
        }
    }
    Ok(())
}

fn check_unknown_tensors(
    models: &Models,
    lenient: bool,
    warnings: &mut Vec<String>,
) -> Result<(), MergeError> {
    let unknown = unknown_tensors(models);
    for (index, model) in models.iter().enumerate() {
        let Some(names) = unknown.get(&index) else {
            continue;
        };
        let problem = format!(
            "has {} tensors that {} does not have ({}, …); the output would lack them",
            names.len(),
            model.architecture.name,
            names[0]
        );
        if !lenient {
            let problem = format!("{problem}; --lenient drops them, as the reference does");
            return Err(MergeError::model(&model.name, problem));
        }
        warnings.push(format!("model {} {problem}", model.name));
    }
    Ok(())
}

fn build_tokenizer(
    recipe: &TokenizerRecipe,
    layout: &Layout<'_>,
    models: &mut Models,
    open: &OpenOptions<'_>,
) -> Result<OutputTokenizer, MergeError> {
    let mut lenders = HashMap::new();
    for token in &recipe.tokens {
        if let Some(TokenSource::Model(model) | TokenSource::ModelToken { model, .. }) =
            &token.source
        {
            lenders.insert(model.text.clone(), models.open(model, open)?);
        }
    }
    let donor = match &recipe.source {
        VocabularySource::Model(model) => models.open(model, open)?,
        VocabularySource::Base | VocabularySource::Union => layout.donor,
    };
    let mut vocabularies = HashMap::new();
    for index in 0..models.len() {
        vocabularies.insert(index, Vocabulary::of(models.get(index))?);
    }
    let others: Vec<&Vocabulary> = match &recipe.source {
        VocabularySource::Union => layout.inputs.iter().map(|i| &vocabularies[i]).collect(),
        _ => Vec::new(),
    };
    let output = vocabulary::build(
        models.get(donor),
        &vocabularies[&donor],
        &others,
        &recipe.tokens,
    )?;
    let alignment = vocabulary::align(
        &vocabulary::Vocabularies {
            models,
            by_model: &vocabularies,
            inputs: &layout.inputs,
            base: layout.donor,
            lenders: &lenders,
        },
        &output,
        recipe,
    )?;
    check_rows(models, &alignment)?;
    Ok(OutputTokenizer {
        vocabulary: output,
        alignment,
    })
}

/// Every row that is read must exist: a tokenizer may know more tokens than the embedding has.
fn check_rows(models: &Models, alignment: &Alignment) -> Result<(), MergeError> {
    let mut sizes = Vec::new();
    for model in models.iter() {
        let rows = model.stored(EMBEDDING)?.0.first().copied().unwrap_or(0);
        let head = match model.has(HEAD) {
            true => model.stored(HEAD)?.0.first().copied().unwrap_or(0),
            false => rows,
        };
        sizes.push(rows.min(head));
    }
    let origins = alignment.rows.values().flatten();
    let rows = origins.flat_map(|origin| match origin {
        RowOrigin::Row(model, row) => vec![(*model, *row)],
        RowOrigin::Mean(rows) => rows.clone(),
        RowOrigin::Zero => Vec::new(),
    });
    for (model, row) in rows {
        if row >= sizes[model] {
            let model = models.get(model);
            let problem = format!(
                "the tokenizer has token {row}, but the embedding has only {} rows",
                sizes[models
                    .iter()
                    .position(|m| m.name == model.name)
                    .unwrap_or(0)]
            );
            return Err(MergeError::model(&model.name, problem));
        }
    }
    Ok(())
}

/// A seed from the operating system, for merges that were given none.
///
/// # Errors
/// The system gives no random bytes.
pub fn fresh_seed() -> std::io::Result<u64> {
    use std::io::Read;
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    // Short enough to be typed.
    Ok(u64::from_le_bytes(bytes) >> 32)
}
