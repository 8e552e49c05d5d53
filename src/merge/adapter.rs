//! LoRA adapters (Hu et al. 2021, arXiv:2106.09685) as PEFT stores them, folded in while a model
//! is read. Nothing is cached on disk.

use std::path::Path;

use serde_json::{Map, Value};

use super::dtype::{FloatType, float_type};
use super::error::MergeError;
use super::model::Model;
use super::tensor::{Folded, Stored};
use crate::formats::{SafetensorsFile, TensorView};
use crate::kernels::cpu::Isa;
use crate::kernels::elementwise::{Elementwise, Rounding};

/// What PEFT puts before a module's name.
const PREFIX: &str = "base_model.model.";

/// An opened adapter.
pub(crate) struct Adapter {
    name: String,
    file: SafetensorsFile,
    config: Map<String, Value>,
}

impl Adapter {
    pub(crate) fn open(model: &str, folder: &Path) -> Result<Self, MergeError> {
        let fail = |problem: String| MergeError::model(model, format!("adapter: {problem}"));
        let path = folder.join("adapter_config.json");
        let text = std::fs::read_to_string(&path).map_err(|e| MergeError::io(&path, e))?;
        let config: Value = serde_json::from_str(&text)
            .map_err(|e| fail(format!("{} is not JSON: {e}", path.display())))?;
        let config = config
            .as_object()
            .cloned()
            .ok_or_else(|| fail(format!("{} is no object", path.display())))?;
        let kind = config.get("peft_type").and_then(Value::as_str);
        if kind.is_some_and(|kind| kind != "LORA") {
            return Err(fail(format!("type {kind:?} is not supported, only LORA")));
        }
        for (key, what) in [("use_dora", "DoRA"), ("fan_in_fan_out", "fan_in_fan_out")] {
            if config.get(key).and_then(Value::as_bool) == Some(true) {
                return Err(fail(format!("{what} is not supported")));
            }
        }
        let path = folder.join("adapter_model.safetensors");
        let file = SafetensorsFile::open(&path).map_err(|e| fail(e.to_string()))?;
        Ok(Self {
            name: model.to_owned(),
            file,
            config,
        })
    }

    /// Refuses adapters with tensors that would be left out.
    pub(crate) fn check_targets(&self, model: &Model) -> Result<(), MergeError> {
        for tensor in self.file.tensors() {
            let module = tensor.name.strip_prefix(PREFIX);
            let target = module.map(|module| {
                match module
                    .strip_suffix(".lora_A.weight")
                    .or(module.strip_suffix(".lora_B.weight"))
                {
                    Some(module) => format!("{module}.weight"),
                    None => module.to_owned(),
                }
            });
            if target.is_none_or(|target| model.checkpoint.tensor(&target).is_none()) {
                let problem = format!(
                    "adapter tensor {} belongs to no weight of the model",
                    tensor.name
                );
                return Err(MergeError::model(&self.name, problem));
            }
        }
        Ok(())
    }

    /// A weight that the adapter replaces as a whole (`modules_to_save`).
    pub(crate) fn replacement(&self, tensor: &str) -> Option<TensorView<'_>> {
        self.file.tensor(&format!("{PREFIX}{tensor}"))
    }

    /// The weight with its low-rank change, if it has one.
    pub(crate) fn fold<'a>(
        &self,
        tensor: &str,
        shape: &[usize],
        stored: Stored<'a>,
        dtype: FloatType,
    ) -> Result<Option<Folded<'a>>, MergeError> {
        let Some(module) = tensor.strip_suffix(".weight") else {
            return Ok(None);
        };
        let part = |part: &str| {
            self.file
                .tensor(&format!("{PREFIX}{module}.lora_{part}.weight"))
        };
        let (a, b) = match (part("A"), part("B")) {
            (Some(a), Some(b)) => (a, b),
            (None, None) => return Ok(None),
            _ => return Err(self.fail(format!("{module} has only one of lora_A and lora_B"))),
        };
        let ([rank, columns], [rows, b_rank]) = (a.shape, b.shape) else {
            return Err(self.fail(format!("{module}: lora_A and lora_B must be matrices")));
        };
        if shape != [*rows, *columns] || rank != b_rank {
            return Err(self.fail(format!(
                "{module} has shape {shape:?}, but lora_B {:?} times lora_A {:?} does not",
                b.shape, a.shape
            )));
        }
        Ok(Some(Folded {
            weight: stored,
            a: self.floats(&a)?,
            b: self.floats(&b)?,
            rank: *rank,
            row_len: *columns,
            scale: self.scale(module, *rank)?,
            dtype,
        }))
    }

    fn floats(&self, view: &TensorView<'_>) -> Result<Vec<f32>, MergeError> {
        let dtype = float_type(view.dtype)
            .ok_or_else(|| self.fail(format!("{} is stored as {}", view.name, view.dtype)))?;
        let mut values = vec![0.0; view.num_elements()];
        f32::load(Isa::detect(), view.data, dtype, Rounding::None, &mut values);
        Ok(values)
    }

    /// `alpha/r`, or `alpha/sqrt(r)` for rank-stabilised adapters (arXiv:2312.03732).
    fn scale(&self, module: &str, rank: usize) -> Result<f32, MergeError> {
        let alpha = match self.pattern("alpha_pattern", module)? {
            Some(alpha) => alpha,
            None => self
                .config
                .get("lora_alpha")
                .and_then(Value::as_f64)
                .ok_or_else(|| self.fail("adapter_config.json has no lora_alpha".to_owned()))?,
        };
        let stabilised = self.config.get("use_rslora").and_then(Value::as_bool) == Some(true);
        let rank = rank as f64;
        Ok((alpha / if stabilised { rank.sqrt() } else { rank }) as f32)
    }

    /// The value of the first pattern that matches the end of the module's name.
    fn pattern(&self, key: &str, module: &str) -> Result<Option<f64>, MergeError> {
        let Some(patterns) = self.config.get(key).and_then(Value::as_object) else {
            return Ok(None);
        };
        for (pattern, value) in patterns {
            let regex = regex::Regex::new(&format!(r"^(.*\.)?({pattern})$"))
                .map_err(|e| self.fail(format!("{key}: `{pattern}`: {e}")))?;
            if regex.is_match(module) {
                return Ok(value.as_f64());
            }
        }
        Ok(None)
    }

    fn fail(&self, problem: String) -> MergeError {
        MergeError::model(&self.name, format!("adapter: {problem}"))
    }
}
