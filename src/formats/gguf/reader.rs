//! Reads a GGUF header with every stated number checked before it is used.

use std::collections::HashSet;

use super::super::safetensors::TensorEntry;
use super::super::{DType, GgufFault};
use super::value::{GgufArray, GgufType, GgufValue};
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC};

// Limits. Each is far above what any published model has and far below what could exhaust memory:
// a count is also bounded by the bytes that are left in the file, since every item takes some.

/// Keys. Published files have about forty.
const MAX_PAIRS: u64 = 1 << 16;
/// Tensors. The largest mixtures of experts have a few thousand.
const MAX_TENSORS: u64 = 1 << 20;
/// Bytes of a key or tensor name; the format says 65,535.
const MAX_NAME_BYTES: u64 = (1 << 16) - 1;
/// Bytes of a string value; chat templates reach some 20 kB, embedded licences 100 kB.
const MAX_STRING_BYTES: u64 = 16 << 20;
/// Elements of an array; the largest vocabularies have 262,144 tokens and 600,000 merges.
const MAX_ARRAY_ELEMENTS: u64 = 1 << 26;
/// Arrays within arrays; no published key nests even once.
const MAX_ARRAY_DEPTH: usize = 4;
/// Dimensions of a tensor (`GGML_MAX_DIMS`).
const MAX_DIMENSIONS: u32 = 4;
/// `general.alignment`; a page is the largest that makes sense, this leaves room.
const MAX_ALIGNMENT: u64 = 1 << 16;

/// A parsed header.
pub(super) struct Header {
    pub(super) pairs: Vec<(String, GgufValue)>,
    /// In file order; offsets are from the start of the file.
    pub(super) tensors: Vec<TensorEntry>,
}

/// A fault and where in the file the reader stood.
pub(super) type Located = (usize, GgufFault);

/// Parses and checks the header of `file`, and that all tensor data lie within it.
pub(super) fn parse(file: &[u8]) -> Result<Header, Located> {
    let mut cursor = Cursor { file, at: 0 };
    let header = cursor.header();
    header.map_err(|fault| (cursor.at, fault))
}

struct Cursor<'a> {
    file: &'a [u8],
    at: usize,
}

/// A fixed-size little-endian number.
trait Number: Sized {
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, GgufFault>;
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Number for $number {
            fn read(cursor: &mut Cursor<'_>) -> Result<Self, GgufFault> {
                cursor.fixed().map(Self::from_le_bytes)
            }
        }
    )*};
}
numbers!(u8, i8, u16, i16, u32, i32, f32, u64, i64, f64);

impl Number for bool {
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, GgufFault> {
        match u8::read(cursor)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(GgufFault::Bool(other)),
        }
    }
}

impl<'a> Cursor<'a> {
    fn header(&mut self) -> Result<Header, GgufFault> {
        let magic = self.fixed()?;
        if magic != MAGIC {
            return Err(GgufFault::Magic(magic));
        }
        let version = u32::read(self)?;
        if !(2..=3).contains(&version) {
            return Err(GgufFault::Version(version));
        }
        let num_tensors = self.limited("tensor count", MAX_TENSORS)?;
        let num_pairs = self.limited("metadata count", MAX_PAIRS)?;
        let pairs = self.pairs(num_pairs)?;
        let alignment = alignment(&pairs)?;
        let mut tensors = Vec::new();
        let mut names = HashSet::new();
        for _ in 0..num_tensors {
            let tensor = self.tensor_info(alignment)?;
            if !names.insert(tensor.name.clone()) {
                return Err(GgufFault::Duplicate {
                    what: "tensor",
                    name: tensor.name,
                });
            }
            tensors.push(tensor);
        }
        self.place(&mut tensors, alignment)?;
        Ok(Header { pairs, tensors })
    }

    fn pairs(&mut self, count: u64) -> Result<Vec<(String, GgufValue)>, GgufFault> {
        let mut pairs: Vec<(String, GgufValue)> = Vec::new();
        let mut keys = HashSet::new();
        for _ in 0..count {
            let key = self.string("metadata key", MAX_NAME_BYTES)?;
            if !keys.insert(key.clone()) {
                return Err(GgufFault::Duplicate {
                    what: "metadata key",
                    name: key,
                });
            }
            let value_type = self.value_type(&key)?;
            let value = self.value(&key, value_type)?;
            pairs.push((key, value));
        }
        Ok(pairs)
    }

    fn value_type(&mut self, key: &str) -> Result<GgufType, GgufFault> {
        let id = u32::read(self)?;
        GgufType::from_id(id).ok_or_else(|| GgufFault::ValueType {
            key: key.to_owned(),
            found: id,
        })
    }

    fn value(&mut self, key: &str, value_type: GgufType) -> Result<GgufValue, GgufFault> {
        Ok(match value_type {
            GgufType::U8 => GgufValue::U8(u8::read(self)?),
            GgufType::I8 => GgufValue::I8(i8::read(self)?),
            GgufType::U16 => GgufValue::U16(u16::read(self)?),
            GgufType::I16 => GgufValue::I16(i16::read(self)?),
            GgufType::U32 => GgufValue::U32(u32::read(self)?),
            GgufType::I32 => GgufValue::I32(i32::read(self)?),
            GgufType::F32 => GgufValue::F32(f32::read(self)?),
            GgufType::Bool => GgufValue::Bool(bool::read(self)?),
            GgufType::String => GgufValue::String(self.string("string", MAX_STRING_BYTES)?),
            GgufType::Array => GgufValue::Array(self.array(key, 1)?),
            GgufType::U64 => GgufValue::U64(u64::read(self)?),
            GgufType::I64 => GgufValue::I64(i64::read(self)?),
            GgufType::F64 => GgufValue::F64(f64::read(self)?),
        })
    }

    fn array(&mut self, key: &str, depth: usize) -> Result<GgufArray, GgufFault> {
        if depth > MAX_ARRAY_DEPTH {
            return Err(GgufFault::Limit {
                what: "array depth",
                found: depth as u64,
                limit: MAX_ARRAY_DEPTH as u64,
            });
        }
        let element_type = self.value_type(key)?;
        let count = self.limited("array length", MAX_ARRAY_ELEMENTS)?;
        Ok(match element_type {
            GgufType::U8 => GgufArray::U8(self.numbers(count)?),
            GgufType::I8 => GgufArray::I8(self.numbers(count)?),
            GgufType::U16 => GgufArray::U16(self.numbers(count)?),
            GgufType::I16 => GgufArray::I16(self.numbers(count)?),
            GgufType::U32 => GgufArray::U32(self.numbers(count)?),
            GgufType::I32 => GgufArray::I32(self.numbers(count)?),
            GgufType::F32 => GgufArray::F32(self.numbers(count)?),
            GgufType::Bool => GgufArray::Bool(self.numbers(count)?),
            GgufType::U64 => GgufArray::U64(self.numbers(count)?),
            GgufType::I64 => GgufArray::I64(self.numbers(count)?),
            GgufType::F64 => GgufArray::F64(self.numbers(count)?),
            GgufType::String => GgufArray::String(
                (0..count)
                    .map(|_| self.string("string", MAX_STRING_BYTES))
                    .collect::<Result<_, _>>()?,
            ),
            GgufType::Array => GgufArray::Array(
                (0..count)
                    .map(|_| self.array(key, depth + 1))
                    .collect::<Result<_, _>>()?,
            ),
        })
    }

    /// `count` numbers. Grows as it reads, so that a false count runs into the file's end, not
    /// into memory.
    fn numbers<N: Number>(&mut self, count: u64) -> Result<Vec<N>, GgufFault> {
        (0..count).map(|_| N::read(self)).collect()
    }

    /// One row of the tensor table, with `begin` still relative to the data section.
    fn tensor_info(&mut self, alignment: usize) -> Result<TensorEntry, GgufFault> {
        let name = self.string("tensor name", MAX_NAME_BYTES)?;
        let num_dims = u32::read(self)?;
        if num_dims > MAX_DIMENSIONS {
            return Err(GgufFault::Limit {
                what: "dimension count",
                found: num_dims.into(),
                limit: MAX_DIMENSIONS.into(),
            });
        }
        let mut shape = (0..num_dims)
            .map(|_| self.limited("dimension", usize::MAX as u64))
            .map(|dim| dim.map(|dim| dim as usize))
            .collect::<Result<Vec<_>, _>>()?;
        shape.reverse();
        let type_id = u32::read(self)?;
        let dtype = DType::from_gguf_id(type_id).ok_or_else(|| GgufFault::TensorType {
            tensor: name.clone(),
            found: type_id,
        })?;
        let Some(len) = dtype.tensor_bytes(&shape) else {
            return Err(GgufFault::Shape {
                tensor: name,
                shape,
                dtype: dtype.name(),
            });
        };
        let offset = u64::read(self)?;
        if offset % alignment as u64 != 0 {
            return Err(GgufFault::Misaligned {
                tensor: name,
                offset,
                alignment,
            });
        }
        let Ok(begin) = usize::try_from(offset) else {
            return Err(GgufFault::OutOfRange {
                tensor: name,
                offset,
                bytes: len,
                section: self.file.len(),
            });
        };
        Ok(TensorEntry {
            name,
            dtype,
            shape,
            begin,
            len,
        })
    }

    /// Turns offsets into positions in the file, and checks that tensors lie in it, disjoint.
    fn place(&self, tensors: &mut [TensorEntry], alignment: usize) -> Result<(), GgufFault> {
        if tensors.is_empty() {
            return Ok(());
        }
        let start = self.at.next_multiple_of(alignment);
        let section = self.file.len().saturating_sub(start);
        for tensor in &mut *tensors {
            let end = tensor.begin.checked_add(tensor.len);
            if end.is_none_or(|end| end > section) {
                return Err(GgufFault::OutOfRange {
                    tensor: tensor.name.clone(),
                    offset: tensor.begin as u64,
                    bytes: tensor.len,
                    section,
                });
            }
            tensor.begin += start;
        }
        let mut by_offset: Vec<_> = tensors.iter().filter(|tensor| tensor.len > 0).collect();
        by_offset.sort_unstable_by_key(|tensor| tensor.begin);
        for pair in by_offset.windows(2) {
            if pair[0].begin + pair[0].len > pair[1].begin {
                return Err(GgufFault::Overlap {
                    first: pair[0].name.clone(),
                    second: pair[1].name.clone(),
                });
            }
        }
        Ok(())
    }

    fn limited(&mut self, what: &'static str, limit: u64) -> Result<u64, GgufFault> {
        let found = u64::read(self)?;
        if found > limit {
            return Err(GgufFault::Limit { what, found, limit });
        }
        Ok(found)
    }

    fn string(&mut self, what: &'static str, limit: u64) -> Result<String, GgufFault> {
        let length = self.limited(what, limit)?;
        let bytes = self.take(what, length)?;
        let text = std::str::from_utf8(bytes).map_err(|_| GgufFault::Utf8 { what })?;
        Ok(text.to_owned())
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], GgufFault> {
        let bytes = self.take("a number", N as u64)?;
        Ok(bytes.try_into().expect("take gives N bytes"))
    }

    fn take(&mut self, what: &'static str, needed: u64) -> Result<&'a [u8], GgufFault> {
        let rest = &self.file[self.at..];
        let taken = usize::try_from(needed)
            .ok()
            .and_then(|needed| rest.get(..needed))
            .ok_or(GgufFault::Truncated {
                what,
                needed,
                left: rest.len(),
            })?;
        self.at += taken.len();
        Ok(taken)
    }
}

fn alignment(pairs: &[(String, GgufValue)]) -> Result<usize, GgufFault> {
    let Some((_, value)) = pairs.iter().find(|(key, _)| key == ALIGNMENT_KEY) else {
        return Ok(DEFAULT_ALIGNMENT);
    };
    let stated = value
        .as_u64()
        .ok_or_else(|| GgufFault::AlignmentType(value.value_type()))?;
    if !stated.is_power_of_two() || stated > MAX_ALIGNMENT {
        return Err(GgufFault::Alignment(stated));
    }
    Ok(stated as usize)
}
