//! Data rows as training sees them: token rows cut or left out, and packed.

use std::ops::Range;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::TrainError;
use super::batch;
use super::dataset::Row;
use super::decoder::Batch;
use super::encode::{self, Conversation, EncodeOptions, Example};
use super::layout::Layout;
use super::recipe::{Overlong, Recipe};
use super::template::Special;
use super::tokens::{Key, TokenCache, TokenRows};
use crate::formats::Tokenizer;

/// Turns conversations into token rows.
pub struct Encoder<'a> {
    /// The layout.
    pub layout: Layout,
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// The text of the token that ends a turn: the layout's first stop word, else the tokenizer's.
    pub eos: String,
    /// Fills rows up.
    pub pad_token_id: u32,
    options: EncodeOptions,
    packs_apart: Option<bool>,
    overlong: Overlong,
    group: usize,
}

/// The tokens of a turn: what is asked, and the answer.
pub(super) type Turn = (Vec<u32>, Vec<u32>);

impl<'a> Encoder<'a> {
    /// The encoder of a recipe.
    ///
    /// # Errors
    /// The recipe's template is unknown, or the model has none of its own where that is meant.
    pub fn new(recipe: &Recipe, tokenizer: &'a Tokenizer) -> Result<Self, TrainError> {
        let layout = Layout::find(recipe.template.as_deref(), tokenizer)?;
        let packs_apart = recipe.packs_apart();
        let eos = layout.named().and_then(|named| named.stop_words.first());
        let eos = eos
            .copied()
            .or(tokenizer.eos_token())
            .unwrap_or("<|endoftext|>")
            .to_owned();
        let pad_token_id = tokenizer.pad_token_id().or(tokenizer.id(&eos));
        Ok(Self {
            layout,
            tokenizer,
            pad_token_id: pad_token_id.ok_or_else(|| {
                TrainError::Setting(format!(
                    "template: the tokenizer has neither a padding token nor {eos}"
                ))
            })?,
            eos,
            options: EncodeOptions {
                // A pack ends with at least one token of padding.
                cutoff_len: recipe.cutoff_len - usize::from(packs_apart.is_some()),
                train_on_prompt: recipe.train_on_prompt,
                mask_history: recipe.mask_history,
                enable_thinking: recipe.enable_thinking,
                default_system: recipe.default_system.clone(),
            },
            packs_apart,
            overlong: recipe.on_overlong,
            group: recipe.preprocessing_batch_size,
        })
    }

    fn special(&self) -> Special<'_> {
        Special {
            bos: self.tokenizer.bos_token().unwrap_or(""),
            eos: &self.eos,
        }
    }

    /// The tokens of every turn, uncut.
    pub(super) fn turns(&self, row: &Conversation) -> Result<Vec<Turn>, TrainError> {
        let encode = |text: &str| Ok::<_, TrainError>(self.tokenizer.encode(text, false)?);
        self.layout
            .pieces(row, &self.special(), &self.options)?
            .iter()
            .map(|(source, answer)| Ok((encode(source)?, encode(answer)?)))
            .collect()
    }

    /// What the tokens of rows depend on: their texts, the tokenizer, and the layout with its
    /// settings. Cutting and masking come later.
    pub(super) fn key(&self, rows: &[Row]) -> Result<Key, TrainError> {
        let mut digest = Sha256::new();
        let mut add = |text: &str| {
            digest.update((text.len() as u64).to_le_bytes());
            digest.update(text);
        };
        add(env!("CARGO_PKG_VERSION"));
        add(&self.tokenizer.to_json()?);
        add(&match &self.layout {
            Layout::Named(template) => format!("{template:?}"),
            Layout::Own(chat) => format!("{chat:?} {:?}", self.tokenizer.special_tokens()),
        });
        let (special, options) = (self.special(), &self.options);
        add(&format!("{special:?} {:?}", options.default_system));
        add(if options.enable_thinking {
            "thinks"
        } else {
            ""
        });
        for row in rows {
            let Some(row) = row else {
                add("left out");
                continue;
            };
            add(&row.turns.len().to_string());
            add(&row.system);
            for (user, answer) in &row.turns {
                add(user);
                add(answer);
            }
        }
        Ok(Key(digest.finalize().into()))
    }

    /// The tokens before the first answer of a conversation, uncut: what the model will be asked.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub fn first_source(&self, row: &Conversation) -> Result<Vec<u32>, TrainError> {
        let mut turns = self.turns(row)?;
        Ok(if turns.is_empty() {
            Vec::new()
        } else {
            turns.swap_remove(0).0
        })
    }
}

/// What happened to the rows on the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowCounts {
    /// Rows of the data files.
    pub read: usize,
    /// Rows left out because their turns do not alternate or they have no answer.
    pub unusable: usize,
    /// Rows left out because they are too long.
    pub too_long: usize,
    /// Rows that lost tokens to `cutoff_len`.
    pub cut: usize,
    /// Rows that lost the end of their last answer.
    pub lost_end: usize,
    /// Lengths of the rows that are trained on, after cutting, ascending.
    pub lengths: Vec<usize>,
    /// Labels that are not masked.
    pub num_labels: usize,
}

impl RowCounts {
    /// The length below which this share of the rows lies.
    pub fn quantile(&self, share: f64) -> usize {
        let last = self.lengths.len().saturating_sub(1);
        let place = (share * last as f64).round() as usize;
        self.lengths.get(place).copied().unwrap_or(0)
    }

    /// Tokens of all rows.
    pub fn num_tokens(&self) -> usize {
        self.lengths.iter().sum()
    }
}

/// Everything that is trained or evaluated on.
pub struct Corpus {
    tokens: TokenRows,
    visited: Visited,
    options: EncodeOptions,
    pad_token_id: u32,
    /// What happened to the rows.
    pub counts: RowCounts,
    /// The first row, to be shown.
    pub first: Option<Example>,
    largest_id: u32,
    longest: usize,
    fingerprint: String,
    /// Where the token rows come from, or are to be kept.
    file: Option<(PathBuf, Key)>,
    damage: Option<String>,
}

/// What is visited by index, as numbers of token rows.
enum Visited {
    Rows(Vec<usize>),
    /// Several rows each, kept apart or not.
    Packs(Vec<Vec<usize>>, bool),
}

impl Corpus {
    /// Encodes rows. Packing happens among `preprocessing_batch_size` neighbours.
    ///
    /// # Errors
    /// The tokenizer fails, the layout cannot write a row, or a row is too long and the recipe
    /// says that this is an error.
    pub fn new(rows: &[Row], encoder: &Encoder<'_>) -> Result<Self, TrainError> {
        Self::of(TokenRows::encode(rows, encoder)?, encoder)
    }

    /// The same with the tokens of an earlier run, where the cache has them.
    ///
    /// # Errors
    /// As [`Self::new`]. A damaged file is none; see [`Self::damage`].
    pub fn cached(
        rows: &[Row],
        encoder: &Encoder<'_>,
        cache: &TokenCache,
    ) -> Result<Self, TrainError> {
        let found = TokenRows::find(rows, encoder, cache)?;
        let mut this = Self::of(found.rows, encoder)?;
        this.file = Some((found.file, found.key));
        this.damage = found.damage;
        Ok(this)
    }

    fn of(tokens: TokenRows, encoder: &Encoder<'_>) -> Result<Self, TrainError> {
        let mut this = Self {
            visited: match encoder.packs_apart {
                Some(apart) => Visited::Packs(Vec::new(), apart),
                None => Visited::Rows(Vec::new()),
            },
            options: encoder.options.clone(),
            pad_token_id: encoder.pad_token_id,
            counts: RowCounts {
                read: tokens.len(),
                ..RowCounts::default()
            },
            first: None,
            largest_id: 0,
            longest: 0,
            fingerprint: String::new(),
            file: None,
            damage: None,
            tokens,
        };
        let mut digest = RowDigest::default();
        let rows = 0..this.tokens.len();
        for first in rows.clone().step_by(encoder.group) {
            let group = first..rows.end.min(first + encoder.group);
            let kept = this.keep_rows(group, encoder.overlong)?;
            this.add(&kept, &mut digest);
        }
        this.fingerprint = digest.finish();
        this.counts.lengths.sort_unstable();
        Ok(this)
    }

    /// The rows of a group that are trained on, with their numbers.
    fn keep_rows(
        &mut self,
        group: Range<usize>,
        overlong: Overlong,
    ) -> Result<Vec<(usize, Example)>, TrainError> {
        let mut kept = Vec::with_capacity(group.len());
        for index in group {
            let Some(example) = self.example(index) else {
                self.counts.unusable += 1;
                continue;
            };
            let counts = &mut self.counts;
            let is_cut = example.cut_tokens > 0;
            match overlong {
                Overlong::Error if is_cut => {
                    return Err(TrainError::Setting(format!(
                        "cutoff_len: row {index} has {} tokens more than {} (on_overlong: error)",
                        example.cut_tokens, self.options.cutoff_len
                    )));
                }
                Overlong::Drop if is_cut => {
                    counts.too_long += 1;
                    continue;
                }
                _ => {}
            }
            counts.cut += usize::from(is_cut);
            counts.lost_end += usize::from(example.lost_end);
            counts.lengths.push(example.input_ids.len());
            counts.num_labels += example.labels.iter().flatten().count();
            let most = example.input_ids.iter().max();
            self.largest_id = self.largest_id.max(most.copied().unwrap_or(0));
            if self.first.is_none() {
                self.first = Some(example.clone());
            }
            kept.push((index, example));
        }
        Ok(kept)
    }

    /// Adds a group to what is visited.
    fn add(&mut self, kept: &[(usize, Example)], digest: &mut RowDigest) {
        let lengths = kept.iter().map(|(_, row)| row.input_ids.len());
        match &mut self.visited {
            Visited::Rows(rows) => {
                self.longest = self.longest.max(lengths.max().unwrap_or(0));
                for (index, row) in kept {
                    digest.add(&row.input_ids, &row.labels, &[]);
                    rows.push(*index);
                }
            }
            Visited::Packs(packs, apart) => {
                let lengths: Vec<usize> = lengths.collect();
                for members in batch::knapsacks(&lengths, self.options.cutoff_len) {
                    let rows: Vec<&Example> = members.iter().map(|i| &kept[*i].1).collect();
                    // A pack ends with at least one token of padding.
                    let length = self.options.cutoff_len + 1;
                    let pack = batch::fill(&rows, length, *apart, self.pad_token_id);
                    digest.add(&pack.input_ids, &pack.labels, &pack.segments);
                    self.largest_id = self.largest_id.max(self.pad_token_id);
                    self.longest = length;
                    packs.push(members.iter().map(|i| kept[*i].0).collect());
                }
            }
        }
    }

    /// A token row as it is trained on; `None` where it cannot be.
    fn example(&self, row: usize) -> Option<Example> {
        let turns = self.tokens.turns(row)?;
        Some(encode::assemble(&turns, &self.options))
    }

    /// Rows, or packs.
    pub fn len(&self) -> usize {
        match &self.visited {
            Visited::Rows(rows) => rows.len(),
            Visited::Packs(packs, _) => packs.len(),
        }
    }

    /// Whether there is nothing to visit.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether rows are packed.
    pub fn is_packed(&self) -> bool {
        matches!(self.visited, Visited::Packs(..))
    }

    /// These rows, or packs, as a batch.
    pub fn batch(&self, indices: &[usize]) -> Batch {
        let examples = |rows: &mut dyn Iterator<Item = usize>| -> Vec<Example> {
            rows.filter_map(|row| self.example(row)).collect()
        };
        match &self.visited {
            Visited::Rows(rows) => {
                let rows = examples(&mut indices.iter().map(|index| rows[*index]));
                let rows: Vec<&Example> = rows.iter().collect();
                batch::pad(&rows, self.pad_token_id)
            }
            Visited::Packs(packs, apart) => {
                let packs = indices.iter().map(|index| {
                    let rows = examples(&mut packs[*index].iter().copied());
                    let rows: Vec<&Example> = rows.iter().collect();
                    let length = self.options.cutoff_len + 1;
                    batch::fill(&rows, length, *apart, self.pad_token_id)
                });
                batch::stack(packs.collect())
            }
        }
    }

    /// The largest token id.
    pub fn largest_id(&self) -> u32 {
        self.largest_id
    }

    /// The longest row or pack, in tokens.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// A digest of every token and label in order: another one means other data.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The file of the cache that the tokens come from.
    pub fn token_file(&self) -> Option<&Path> {
        let (path, _) = self.file.as_ref()?;
        self.tokens.is_kept().then_some(path)
    }

    /// What was wrong with the file of the cache that should have had the tokens.
    pub fn damage(&self) -> Option<(&Path, &str)> {
        let (path, _) = self.file.as_ref()?;
        Some((path, self.damage.as_deref()?))
    }

    /// Keeps the tokens in the cache for the next run, and reads them from there from now on.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn keep_tokens(&mut self) -> Result<(), TrainError> {
        match &self.file {
            Some((path, key)) if self.tokens.len() > 0 => self.tokens.keep(path, *key),
            _ => Ok(()),
        }
    }
}

/// A digest of rows in order.
#[derive(Default)]
struct RowDigest(Sha256);

impl RowDigest {
    fn add(&mut self, ids: &[u32], labels: &[Option<u32>], segments: &[u32]) {
        self.0.update((ids.len() as u64).to_le_bytes());
        for values in [ids, segments] {
            values.iter().for_each(|id| self.0.update(id.to_le_bytes()));
        }
        for label in labels {
            self.0.update(label.map_or(-1, i64::from).to_le_bytes());
        }
    }

    fn finish(self) -> String {
        let bytes = self.0.finalize();
        let bytes = bytes[..8].iter();
        bytes.map(|byte| format!("{byte:02x}")).collect()
    }
}
