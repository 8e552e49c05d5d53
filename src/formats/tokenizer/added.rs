//! The ids that a tokenizer puts around a text.

/// A text that every tokenizer can express, to see what is put around it.
const PROBE: &str = "a";

/// What the post-processor puts before and behind a text.
///
/// Found by looking, not by reading the post-processor: templates, BERT's and RoBERTa's kinds and
/// sequences of them all show the same way.
pub(super) fn around_text(
    tokenizer: &tokenizers::Tokenizer,
) -> tokenizers::Result<(Vec<u32>, Vec<u32>)> {
    let plain = tokenizer.encode_fast(PROBE, false)?;
    let special = tokenizer.encode_fast(PROBE, true)?;
    let (plain, special) = (plain.get_ids(), special.get_ids());
    let begin = special
        .windows(plain.len().max(1))
        .position(|window| window == plain)
        .unwrap_or(0);
    let end = (begin + plain.len()).min(special.len());
    Ok((special[..begin].to_vec(), special[end..].to_vec()))
}

/// Makes the prefix begin with `bos`, or not, as a tokenizer's configuration says.
pub(super) fn set_first(prefix: &mut Vec<u32>, bos: Option<u32>, add: bool) {
    let Some(bos) = bos else { return };
    let has = prefix.first() == Some(&bos);
    if add && !has {
        prefix.insert(0, bos);
    } else if !add && has {
        prefix.remove(0);
    }
}

/// Makes the suffix end with `eos`, or not.
pub(super) fn set_last(suffix: &mut Vec<u32>, eos: Option<u32>, add: bool) {
    let Some(eos) = eos else { return };
    let has = suffix.last() == Some(&eos);
    if add && !has {
        suffix.push(eos);
    } else if !add && has {
        suffix.pop();
    }
}
