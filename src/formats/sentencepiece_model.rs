//! `tokenizer.model`: the pieces and scores of a sentencepiece vocabulary.
//!
//! The file is one protobuf message (`sentencepiece_model.proto`, ModelProto); of it only the
//! repeated field 1 is read, each a piece with text (1), score (2) and type (3).

use std::path::Path;

use super::{FormatError, json};

/// Pieces; the largest vocabularies in use have 262,144.
const MAX_PIECES: usize = 1 << 24;

/// What a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum PieceKind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Byte,
    Unused,
}

/// One piece of the vocabulary; its id is its position.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// The text, with U+2581 for a space.
    pub text: String,
    /// The higher, the earlier it is merged.
    pub score: f32,
    /// What it is.
    pub kind: PieceKind,
}

/// Reads a `tokenizer.model` file; `None` if there is none.
///
/// # Errors
/// The file is not a sentencepiece model.
pub fn read_sentencepiece_model(path: &Path) -> Result<Option<Vec<Piece>>, FormatError> {
    let Some(bytes) = json::read_bytes_optional(path)? else {
        return Ok(None);
    };
    let pieces = parse(&bytes).ok_or_else(|| FormatError::Tokenizer {
        path: path.to_owned(),
        reason: "not a sentencepiece model".to_owned(),
    })?;
    Ok(Some(pieces))
}

fn parse(bytes: &[u8]) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut message = Message { bytes };
    while let Some(field) = message.next()? {
        if let (1, Field::Bytes(piece)) = field {
            if pieces.len() == MAX_PIECES {
                return None;
            }
            pieces.push(parse_piece(piece)?);
        }
    }
    (!pieces.is_empty()).then_some(pieces)
}

fn parse_piece(bytes: &[u8]) -> Option<Piece> {
    let mut piece = Piece {
        text: String::new(),
        score: 0.0,
        kind: PieceKind::Normal,
    };
    let mut message = Message { bytes };
    while let Some(field) = message.next()? {
        match field {
            (1, Field::Bytes(text)) => piece.text = std::str::from_utf8(text).ok()?.to_owned(),
            (2, Field::Fixed32(bits)) => piece.score = f32::from_bits(bits),
            (3, Field::Varint(kind)) => {
                piece.kind = match kind {
                    1 => PieceKind::Normal,
                    2 => PieceKind::Unknown,
                    3 => PieceKind::Control,
                    4 => PieceKind::UserDefined,
                    5 => PieceKind::Unused,
                    6 => PieceKind::Byte,
                    _ => return None,
                }
            }
            _ => {}
        }
    }
    Some(piece)
}

/// The fields of a protobuf message, one after the other.
struct Message<'a> {
    bytes: &'a [u8],
}

enum Field<'a> {
    Varint(u64),
    Fixed32(u32),
    Fixed64,
    Bytes(&'a [u8]),
}

impl<'a> Message<'a> {
    /// The next field's number and value; `Some(None)` at the end, `None` if malformed.
    #[allow(clippy::option_option, reason = "malformed and finished differ")]
    fn next(&mut self) -> Option<Option<(u64, Field<'a>)>> {
        if self.bytes.is_empty() {
            return Some(None);
        }
        let key = self.varint()?;
        let field = match key & 7 {
            0 => Field::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Field::Fixed64
            }
            2 => {
                let len = usize::try_from(self.varint()?).ok()?;
                Field::Bytes(self.take(len)?)
            }
            5 => Field::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some(Some((key >> 3, field)))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(len)?;
        self.bytes = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_hand_made_model_parses() {
        // piece { text "ab", score -1.5, type BYTE }, then an unknown field 2 of length 1.
        let bytes = [
            0x0A, 11, 0x0A, 2, b'a', b'b', 0x15, 0, 0, 0xC0, 0xBF, 0x18, 6, 0x12, 1, 9,
        ];
        let expected = Piece {
            text: "ab".to_owned(),
            score: -1.5,
            kind: PieceKind::Byte,
        };
        assert_eq!(parse(&bytes), Some(vec![expected]));
        assert_eq!(parse(&bytes[..5]), None);
        assert_eq!(parse(&[]), None);
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse(&bytes);
        }
    }
}
