//! Data rows as training sees them: tokenised on all cores, cut or left out, and packed.

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::TrainError;
use super::batch::{self, Pack};
use super::dataset::Row;
use super::decoder::Batch;
use super::encode::{self, Conversation, EncodeOptions, Example};
use super::recipe::{Overlong, Recipe};
use super::template::{Special, Template};
use crate::formats::Tokenizer;

/// Turns conversations into token rows.
pub struct Encoder<'a> {
    /// The layout.
    pub template: Template,
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
type Turn = (Vec<u32>, Vec<u32>);

impl<'a> Encoder<'a> {
    /// The encoder of a recipe.
    ///
    /// # Errors
    /// The recipe's template is unknown.
    pub fn new(recipe: &Recipe, tokenizer: &'a Tokenizer) -> Result<Self, TrainError> {
        let name = recipe.template.as_deref().unwrap_or_default();
        let template = Template::find(name).ok_or_else(|| {
            let known: Vec<_> = super::template::TEMPLATES.iter().map(|t| t.name).collect();
            TrainError::Setting(format!(
                "template: expected one of {}, found {}",
                known.join(", "),
                if name.is_empty() { "none" } else { name }
            ))
        })?;
        let packs_apart = recipe.packs_apart();
        let eos = template.stop_words.first().copied();
        let eos = eos
            .or(tokenizer.eos_token())
            .unwrap_or("<|endoftext|>")
            .to_owned();
        let pad_token_id = tokenizer.pad_token_id().or(tokenizer.id(&eos));
        Ok(Self {
            template: template.clone(),
            tokenizer,
            pad_token_id: pad_token_id.ok_or_else(|| {
                TrainError::Setting(format!(
                    "template {name}: the tokenizer has neither a padding token nor {eos}"
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

    /// The tokens of every turn, uncut.
    fn turns(&self, row: &Conversation) -> Result<Vec<Turn>, TrainError> {
        let special = Special {
            bos: self.tokenizer.bos_token().unwrap_or(""),
            eos: &self.eos,
        };
        let encode = |text: &str| Ok::<_, TrainError>(self.tokenizer.encode(text, false)?);
        encode::pieces(row, &self.template, &special, &self.options)
            .iter()
            .map(|(source, answer)| Ok((encode(source)?, encode(answer)?)))
            .collect()
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

/// Rows to visit by index: token rows, or packs of them.
enum Rows {
    Plain(Vec<Example>),
    Packed(Vec<Pack>),
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
    rows: Rows,
    /// What happened to the rows.
    pub counts: RowCounts,
    /// The first row, to be shown.
    pub first: Option<Example>,
    pad_token_id: u32,
}

impl Corpus {
    /// Encodes rows. Packing happens among `preprocessing_batch_size` neighbours.
    ///
    /// # Errors
    /// The tokenizer fails, or a row is too long and the recipe says that this is an error.
    pub fn new(rows: &[Row], encoder: &Encoder<'_>) -> Result<Self, TrainError> {
        let mut this = Self {
            rows: match encoder.packs_apart {
                Some(_) => Rows::Packed(Vec::new()),
                None => Rows::Plain(Vec::new()),
            },
            counts: RowCounts {
                read: rows.len(),
                ..RowCounts::default()
            },
            first: None,
            pad_token_id: encoder.pad_token_id,
        };
        for (group, rows) in rows.chunks(encoder.group).enumerate() {
            let examples: Vec<Option<Example>> = rows
                .par_iter()
                .map(|row| {
                    let Some(row) = row else { return Ok(None) };
                    let turns = encoder.turns(row)?;
                    Ok(Some(encode::assemble(&turns, &encoder.options)))
                })
                .collect::<Result<_, TrainError>>()?;
            this.add(examples, group * encoder.group, encoder)?;
        }
        this.counts.lengths.sort_unstable();
        Ok(this)
    }

    fn add(
        &mut self,
        examples: Vec<Option<Example>>,
        first_row: usize,
        encoder: &Encoder<'_>,
    ) -> Result<(), TrainError> {
        let counts = &mut self.counts;
        let mut kept = Vec::with_capacity(examples.len());
        for (index, example) in examples.into_iter().enumerate() {
            let Some(example) = example else {
                counts.unusable += 1;
                continue;
            };
            let is_cut = example.cut_tokens > 0;
            match encoder.overlong {
                Overlong::Error if is_cut => {
                    return Err(TrainError::Setting(format!(
                        "cutoff_len: row {} has {} tokens more than {} (on_overlong: error)",
                        first_row + index,
                        example.cut_tokens,
                        encoder.options.cutoff_len
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
            if self.first.is_none() {
                self.first = Some(example.clone());
            }
            kept.push(example);
        }
        match (&mut self.rows, encoder.packs_apart) {
            (Rows::Packed(packs), Some(apart)) => {
                let cutoff_len = encoder.options.cutoff_len + 1;
                packs.extend(batch::pack(&kept, cutoff_len, apart, encoder.pad_token_id));
            }
            (Rows::Plain(rows), _) => rows.extend(kept),
            (Rows::Packed(_), None) => unreachable!("packs are made only where packing is set"),
        }
        Ok(())
    }

    /// Rows, or packs.
    pub fn len(&self) -> usize {
        match &self.rows {
            Rows::Plain(rows) => rows.len(),
            Rows::Packed(packs) => packs.len(),
        }
    }

    /// Whether there is nothing to visit.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether rows are packed.
    pub fn is_packed(&self) -> bool {
        matches!(self.rows, Rows::Packed(_))
    }

    /// These rows as a batch.
    pub fn batch(&self, indices: &[usize]) -> Batch {
        match &self.rows {
            Rows::Plain(rows) => {
                let rows: Vec<&Example> = indices.iter().map(|index| &rows[*index]).collect();
                batch::pad(&rows, self.pad_token_id)
            }
            Rows::Packed(packs) => {
                let packs: Vec<&Pack> = indices.iter().map(|index| &packs[*index]).collect();
                batch::stack(&packs)
            }
        }
    }

    /// The largest token id.
    pub fn largest_id(&self) -> u32 {
        match &self.rows {
            Rows::Plain(rows) => rows.iter().flat_map(|row| &row.input_ids).max(),
            Rows::Packed(packs) => packs.iter().flat_map(|pack| &pack.input_ids).max(),
        }
        .copied()
        .unwrap_or(0)
    }

    /// The longest row or pack, in tokens.
    pub fn longest(&self) -> usize {
        match &self.rows {
            Rows::Plain(rows) => rows.iter().map(|row| row.input_ids.len()).max(),
            Rows::Packed(packs) => packs.iter().map(|pack| pack.input_ids.len()).max(),
        }
        .unwrap_or(0)
    }

    /// A digest of every token and label in order: another one means other data.
    pub fn fingerprint(&self) -> String {
        let mut digest = Sha256::new();
        let mut add = |ids: &[u32], labels: &[Option<u32>], segments: &[u32]| {
            digest.update((ids.len() as u64).to_le_bytes());
            for values in [ids, segments] {
                values.iter().for_each(|id| digest.update(id.to_le_bytes()));
            }
            for label in labels {
                digest.update(label.map_or(-1, i64::from).to_le_bytes());
            }
        };
        match &self.rows {
            Rows::Plain(rows) => {
                for row in rows {
                    add(&row.input_ids, &row.labels, &[]);
                }
            }
            Rows::Packed(packs) => {
                for pack in packs {
                    add(&pack.input_ids, &pack.labels, &pack.segments);
                }
            }
        }
        let bytes = digest.finalize();
        bytes[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}
