//! `micota inspect`: what a model file says, without loading it.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use comfy_table::{Table, presets};
use serde_json::{Map, Value, json};

use super::Exit;
use super::model_source::ModelSource;
use crate::formats::{Checkpoint, GgufArray, GgufValue, SafetensorsFile, Source, TensorView};
use crate::model::Model;

/// Elements of an array that a table shows.
const SHOWN_ELEMENTS: usize = 4;
/// Characters of a text that a table shows.
const SHOWN_CHARS: usize = 60;

/// Show the metadata and tensors of a GGUF file, a safetensors file or a model folder.
#[derive(clap::Args)]
pub(super) struct Args {
    /// A GGUF file, a safetensors file, a model folder or a hub name; MODEL+ADAPTER folds an
    /// adapter in.
    model: String,
    /// Print everything as JSON, arrays in full.
    #[arg(long)]
    json: bool,
    /// Leave out the list of tensors.
    #[arg(long)]
    no_tensors: bool,
}

/// What is shown, whatever the source.
struct Report {
    format: &'static str,
    metadata: Map<String, Value>,
    tensors: Vec<Tensor>,
    fingerprint: Option<String>,
    /// Bytes of keys and values for one token in bfloat16; `None` for an unknown architecture.
    kv_bytes_per_token: Option<u64>,
}

struct Tensor {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    elements: u64,
    bytes: u64,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let source = ModelSource::find(&args.model)?;
    let path = source.path();
    let is_safetensors = path.extension().is_some_and(|found| found == "safetensors");
    let report = if is_safetensors {
        of_safetensors(&SafetensorsFile::open(path)?)
    } else {
        of_checkpoint(&Arc::new(Checkpoint::open(path)?))
    };
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{:#}", report.to_json(!args.no_tensors))?;
    } else {
        report.print(&mut out, !args.no_tensors)?;
    }
    Ok(Exit::Done)
}

fn of_safetensors(file: &SafetensorsFile) -> Report {
    let metadata = file.metadata().iter();
    Report {
        format: "safetensors",
        metadata: metadata
            .map(|(key, value)| (key.clone(), json!(value)))
            .collect(),
        tensors: file.tensors().map(|view| tensor(&view)).collect(),
        fingerprint: None,
        kv_bytes_per_token: None,
    }
}

fn of_checkpoint(checkpoint: &Arc<Checkpoint>) -> Report {
    let (format, metadata) = match checkpoint.source() {
        Source::Gguf(metadata) => {
            let pairs = metadata.pairs();
            let pairs = pairs.map(|(key, value)| (key.to_owned(), gguf_value(value)));
            ("gguf", pairs.collect())
        }
        Source::HuggingFace { config, .. } => {
            let config = config.as_object().cloned().unwrap_or_default();
            ("hugging face folder", config)
        }
    };
    // An architecture that the engine does not run can be looked at all the same.
    let model = Model::from_checkpoint(Arc::clone(checkpoint)).ok();
    let kv_bytes_per_token = model.map(|model| {
        let spec = &model.spec;
        let elements = 2 * spec.num_hidden_layers * spec.num_key_value_heads * spec.head_dim;
        elements as u64 * 2
    });
    Report {
        format,
        metadata,
        tensors: checkpoint.tensors().map(|view| tensor(&view)).collect(),
        fingerprint: Some(checkpoint.fingerprint().to_owned()),
        kv_bytes_per_token,
    }
}

fn tensor(view: &TensorView<'_>) -> Tensor {
    Tensor {
        name: view.name.to_owned(),
        dtype: view.dtype.name(),
        shape: view.shape.to_vec(),
        elements: view.num_elements() as u64,
        bytes: view.data.len() as u64,
    }
}

fn gguf_value(value: &GgufValue) -> Value {
    match value {
        GgufValue::U8(value) => json!(value),
        GgufValue::I8(value) => json!(value),
        GgufValue::U16(value) => json!(value),
        GgufValue::I16(value) => json!(value),
        GgufValue::U32(value) => json!(value),
        GgufValue::I32(value) => json!(value),
        GgufValue::F32(value) => json!(value),
        GgufValue::Bool(value) => json!(value),
        GgufValue::String(value) => json!(value),
        GgufValue::Array(array) => gguf_array(array),
        GgufValue::U64(value) => json!(value),
        GgufValue::I64(value) => json!(value),
        GgufValue::F64(value) => json!(value),
    }
}

fn gguf_array(array: &GgufArray) -> Value {
    match array {
        GgufArray::U8(values) => json!(values),
        GgufArray::I8(values) => json!(values),
        GgufArray::U16(values) => json!(values),
        GgufArray::I16(values) => json!(values),
        GgufArray::U32(values) => json!(values),
        GgufArray::I32(values) => json!(values),
        GgufArray::F32(values) => json!(values),
        GgufArray::Bool(values) => json!(values),
        GgufArray::String(values) => json!(values),
        GgufArray::Array(values) => values.iter().map(gguf_array).collect(),
        GgufArray::U64(values) => json!(values),
        GgufArray::I64(values) => json!(values),
        GgufArray::F64(values) => json!(values),
    }
}

/// Tensors, elements and bytes.
type Totals = (usize, u64, u64);

impl Report {
    /// Sums by type, in the order of their names.
    fn by_type(&self) -> BTreeMap<&'static str, Totals> {
        let mut types: BTreeMap<&'static str, Totals> = BTreeMap::new();
        for tensor in &self.tensors {
            let sums = types.entry(tensor.dtype).or_default();
            sums.0 += 1;
            sums.1 += tensor.elements;
            sums.2 += tensor.bytes;
        }
        types
    }

    fn totals(&self) -> Totals {
        let add = |a: Totals, b: &Totals| (a.0 + b.0, a.1 + b.1, a.2 + b.2);
        self.by_type().values().fold((0, 0, 0), add)
    }

    fn to_json(&self, with_tensors: bool) -> Value {
        let (num_tensors, num_parameters, tensor_bytes) = self.totals();
        let types = self
            .by_type()
            .into_iter()
            .map(|(name, (tensors, elements, bytes))| {
                let sums = json!({ "tensors": tensors, "elements": elements, "bytes": bytes });
                (name.to_owned(), sums)
            });
        let mut report = json!({
            "format": self.format,
            "fingerprint": self.fingerprint,
            "num_parameters": num_parameters,
            "num_tensors": num_tensors,
            "tensor_bytes": tensor_bytes,
            "kv_bytes_per_token_bf16": self.kv_bytes_per_token,
            "types": types.collect::<Map<_, _>>(),
            "metadata": self.metadata,
        });
        if with_tensors {
            let list = self.tensors.iter().map(|tensor| {
                json!({
                    "name": tensor.name,
                    "type": tensor.dtype,
                    "shape": tensor.shape,
                    "bytes": tensor.bytes,
                })
            });
            report["tensors"] = list.collect();
        }
        report
    }

    fn print(&self, out: &mut impl Write, with_tensors: bool) -> std::io::Result<()> {
        let (num_tensors, num_parameters, tensor_bytes) = self.totals();
        let mut summary = table();
        let mut row = |name: &str, value: String| {
            summary.add_row([name.to_owned(), value]);
        };
        row("format", self.format.to_owned());
        if let Some(fingerprint) = &self.fingerprint {
            row("fingerprint", fingerprint.clone());
        }
        row("parameters", num_parameters.to_string());
        row(
            "tensors",
            format!("{num_tensors}, {:.1} MB", tensor_bytes as f64 / 1e6),
        );
        for (name, (tensors, elements, bytes)) in self.by_type() {
            let size = bytes as f64 / 1e6;
            row(
                &format!("  {name}"),
                format!("{tensors}, {elements} elements, {size:.1} MB"),
            );
        }
        if let Some(bytes) = self.kv_bytes_per_token {
            row("KV cache", format!("{bytes} bytes per token in bfloat16"));
        }
        writeln!(out, "{summary}\n")?;
        let mut metadata = table();
        for (key, value) in &self.metadata {
            metadata.add_row([key.clone(), shown(value)]);
        }
        writeln!(out, "{metadata}")?;
        if with_tensors {
            let mut tensors = table();
            for tensor in &self.tensors {
                let shape = format!("{:?}", tensor.shape);
                let row = [tensor.name.clone(), tensor.dtype.to_owned(), shape];
                tensors.add_row(row);
            }
            writeln!(out, "\n{tensors}")?;
        }
        Ok(())
    }
}

fn table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
}

/// A value on one short line.
fn shown(value: &Value) -> String {
    if let Value::Array(values) = value
        && values.len() > SHOWN_ELEMENTS
    {
        let first: Vec<_> = values[..SHOWN_ELEMENTS]
            .iter()
            .map(Value::to_string)
            .collect();
        return format!("[{}, ...] ({} values)", first.join(", "), values.len());
    }
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
