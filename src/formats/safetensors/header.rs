//! The header of a safetensors file: parsed with every field checked, and written.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::super::planned::PlannedTensor;
use super::super::{DType, SafetensorsFault};

/// The format's own limit on the header (100 MB), which bounds all counts inside it.
const MAX_HEADER_BYTES: usize = 100_000_000;
/// No model tensor has more dimensions; it bounds what a header can make us store.
const MAX_DIMENSIONS: usize = 16;
/// The header's length field.
pub(super) const LENGTH_BYTES: usize = 8;
/// The header is padded with spaces so that the data begin at a multiple of this.
const HEADER_ALIGNMENT: usize = 8;

/// One tensor: where its bytes lie within the file.
#[derive(Clone, Debug)]
pub(in super::super) struct TensorEntry {
    pub(in super::super) name: String,
    pub(in super::super) dtype: DType,
    /// Outermost dimension first.
    pub(in super::super) shape: Vec<usize>,
    /// First byte, from the start of the file.
    pub(in super::super) begin: usize,
    /// Number of bytes.
    pub(in super::super) len: usize,
}

/// What a header says.
pub(super) struct Header {
    /// Sorted by offset.
    pub(super) tensors: Vec<TensorEntry>,
    /// The `__metadata__` block.
    pub(super) metadata: BTreeMap<String, String>,
}

/// Parses and checks the header of `file`.
pub(super) fn parse(file: &[u8]) -> Result<Header, SafetensorsFault> {
    let Some((length, rest)) = file.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(SafetensorsFault::TooSmall { found: file.len() });
    };
    let stated = u64::from_le_bytes(*length);
    let length = usize::try_from(stated)
        .ok()
        .filter(|length| *length <= MAX_HEADER_BYTES)
        .ok_or(SafetensorsFault::HeaderTooLarge {
            found: stated,
            limit: MAX_HEADER_BYTES,
        })?;
    let Some((json, data)) = rest.split_at_checked(length) else {
        return Err(SafetensorsFault::HeaderTruncated {
            header: length,
            file: file.len(),
        });
    };
    let entries: Map<String, Value> = serde_json::from_slice(json)
        .map_err(|error| SafetensorsFault::HeaderJson(error.to_string()))?;
    let mut tensors = Vec::with_capacity(entries.len());
    let mut metadata = BTreeMap::new();
    for (name, entry) in entries {
        if name == "__metadata__" {
            metadata = parse_metadata(entry)?;
        } else {
            tensors.push(parse_entry(name, &entry)?);
        }
    }
    // Empty tensors share their begin with the next one, so the end decides after it.
    tensors.sort_by_key(|tensor| (tensor.begin, tensor.len));
    let mut expected = 0;
    for tensor in &tensors {
        if tensor.begin != expected {
            return Err(SafetensorsFault::HoleOrOverlap {
                tensor: tensor.name.clone(),
                expected,
                found: tensor.begin,
            });
        }
        expected = tensor.begin + tensor.len;
    }
    if expected != data.len() {
        return Err(SafetensorsFault::WrongDataSize {
            expected,
            found: data.len(),
        });
    }
    for tensor in &mut tensors {
        tensor.begin += LENGTH_BYTES + length;
    }
    Ok(Header { tensors, metadata })
}

fn parse_metadata(value: Value) -> Result<BTreeMap<String, String>, SafetensorsFault> {
    serde_json::from_value(value)
        .map_err(|error| SafetensorsFault::HeaderJson(format!("__metadata__: {error}")))
}

/// One entry with `begin` relative to the data section.
fn parse_entry(tensor: String, entry: &Value) -> Result<TensorEntry, SafetensorsFault> {
    let malformed = |reason: &str| SafetensorsFault::Entry {
        tensor: tensor.clone(),
        reason: reason.to_owned(),
    };
    let dtype = entry
        .get("dtype")
        .and_then(Value::as_str)
        .ok_or_else(|| malformed("no dtype"))?;
    let dtype =
        DType::from_safetensors_name(dtype).ok_or_else(|| SafetensorsFault::UnknownDType {
            tensor: tensor.clone(),
            dtype: dtype.to_owned(),
        })?;
    let numbers = |key: &str| -> Option<Vec<usize>> {
        let array = entry.get(key)?.as_array()?;
        array
            .iter()
            .map(|number| usize::try_from(number.as_u64()?).ok())
            .collect()
    };
    let shape = numbers("shape").ok_or_else(|| malformed("shape is not a list of sizes"))?;
    if shape.len() > MAX_DIMENSIONS {
        return Err(malformed("more than 16 dimensions"));
    }
    let offsets = numbers("data_offsets")
        .ok_or_else(|| malformed("data_offsets is not a pair of offsets"))?;
    let [begin, end] = offsets[..] else {
        return Err(malformed("data_offsets is not a pair of offsets"));
    };
    let len = end
        .checked_sub(begin)
        .ok_or_else(|| malformed("data_offsets end before they begin"))?;
    let expected = dtype
        .tensor_bytes(&shape)
        .ok_or_else(|| malformed("shape overflows the address space"))?;
    if len != expected {
        return Err(SafetensorsFault::WrongSize {
            tensor,
            expected,
            found: len,
        });
    }
    Ok(TensorEntry {
        name: tensor,
        dtype,
        shape,
        begin,
        len,
    })
}

/// The bytes of a header (length field included) for tensors with their sizes, in data order.
///
/// Padded with spaces to a multiple of 8, as the reference writer does.
pub(super) fn render(
    metadata: &BTreeMap<String, String>,
    tensors: &[(PlannedTensor, u64)],
) -> Vec<u8> {
    let mut entries = Map::new();
    entries.insert("__metadata__".to_owned(), serde_json::json!(metadata));
    let mut begin = 0;
    for (tensor, bytes) in tensors {
        let end = begin + bytes;
        let entry = serde_json::json!({
            "dtype": tensor.dtype.name(),
            "shape": tensor.shape,
            "data_offsets": [begin, end],
        });
        entries.insert(tensor.name.clone(), entry);
        begin = end;
    }
    let mut json = Value::Object(entries).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(HEADER_ALIGNMENT), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    header
}
