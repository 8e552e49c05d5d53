//! Which tokens are BOS, EOS and so on, and whether they are put around texts.
//!
//! As llama.cpp's converter decides: tokenizer_config.json by text, then config.json by number;
//! whether a text begins with BOS by the post-processor, overruled by `add_bos_token`.

use serde_json::{Map, Value};

use crate::formats::GgufValue;

use super::metadata::Pairs;

/// Role in the configuration files, and in GGUF's `tokenizer.ggml.*_token_id`.
const ROLES: &[(&str, &str)] = &[
    ("bos", "bos"),
    ("eos", "eos"),
    ("unk", "unknown"),
    ("sep", "seperator"), // the format's own spelling
    ("pad", "padding"),
    ("mask", "mask"),
];

/// Roles that GGUF has an `add_*_token` key for.
const ADDED_ROLES: &[&str] = &["bos", "eos", "sep"];

/// A folder's JSON files, as far as they speak of special tokens.
pub(super) struct Files<'a> {
    pub(super) tokenizer: &'a Map<String, Value>,
    pub(super) tokenizer_config: &'a Map<String, Value>,
    pub(super) config: &'a Map<String, Value>,
}

/// Appends the keys. Ids must be below `limit`, where there is one.
pub(super) fn append(files: &Files<'_>, limit: Option<usize>, pairs: &mut Pairs) {
    let mut ids: Vec<(&str, u64)> = Vec::new();
    let mut add: Vec<(&str, bool)> = Vec::new();
    let mut texts: Vec<(&str, Option<&str>)> = ROLES
        .iter()
        .map(|(role, _)| (*role, token_text(files, role)))
        .collect();
    template_flags(files, &mut texts, &mut add);
    for (role, text) in &texts {
        let flag = files.tokenizer_config.get(&format!("add_{role}_token"));
        if let Some(flag) = flag.and_then(Value::as_bool) {
            set(&mut add, role, flag);
        }
        let id = text.and_then(|text| added_token_id(files.tokenizer, text));
        if let Some(id) = id {
            ids.push((role, id));
        }
    }
    for (role, _) in ROLES {
        let known = ids.iter().any(|(own, _)| own == role);
        // A list of ids gives nothing: the key holds one.
        let id = files
            .config
            .get(&format!("{role}_token_id"))
            .and_then(Value::as_u64);
        if let (false, Some(id)) = (known, id) {
            ids.push((role, id));
        }
    }
    for (role, id) in ids {
        let in_range = limit.is_none_or(|limit| id < limit as u64);
        let name = ROLES.iter().find(|(own, _)| *own == role);
        if let (true, Some((_, name)), Ok(id)) = (in_range, name, u32::try_from(id)) {
            let key = format!("tokenizer.ggml.{name}_token_id");
            pairs.push((key, GgufValue::U32(id)));
        }
    }
    for (role, flag) in add {
        if ADDED_ROLES.contains(&role) {
            let key = format!("tokenizer.ggml.add_{role}_token");
            pairs.push((key, GgufValue::Bool(flag)));
        }
    }
}

fn set<'a>(flags: &mut Vec<(&'a str, bool)>, role: &'a str, value: bool) {
    match flags.iter_mut().find(|(own, _)| *own == role) {
        Some(flag) => flag.1 = value,
        None => flags.push((role, value)),
    }
}

/// `bos_token` and so on: a text, or an object with it.
fn token_text<'a>(files: &Files<'a>, role: &str) -> Option<&'a str> {
    let value = files.tokenizer_config.get(&format!("{role}_token"))?;
    value.as_str().or_else(|| value.get("content")?.as_str())
}

fn added_token_id(tokenizer: &Map<String, Value>, text: &str) -> Option<u64> {
    let added = tokenizer.get("added_tokens")?.as_array()?;
    added
        .iter()
        .find(|token| token.get("content").and_then(Value::as_str) == Some(text))?
        .get("id")?
        .as_u64()
}

/// What a TemplateProcessing post-processor says about the tokens around a text.
fn template_flags<'a>(
    files: &Files<'a>,
    texts: &mut [(&'a str, Option<&'a str>)],
    add: &mut Vec<(&'a str, bool)>,
) {
    let Some(post_processor) = files.tokenizer.get("post_processor") else {
        return;
    };
    let steps = match post_processor.get("processors").and_then(Value::as_array) {
        Some(steps) => steps.iter().collect(),
        None => vec![post_processor],
    };
    for step in steps {
        if step.get("type").and_then(Value::as_str) == Some("TemplateProcessing") {
            one_template(step, texts, add);
        }
    }
}

fn one_template<'a>(
    template: &'a Value,
    texts: &mut [(&'a str, Option<&'a str>)],
    add: &mut Vec<(&'a str, bool)>,
) {
    let list = |key: &str| template.get(key).and_then(Value::as_array);
    let special = |item: &'a Value| item.pointer("/SpecialToken/id")?.as_str();
    let sequence = |item: &'a Value| item.pointer("/Sequence/id")?.as_str();
    let (mut first, mut last) = (None, None);
    if let Some(single) = list("single").filter(|single| single.len() > 1) {
        first = single.first().and_then(special);
        last = single.last().and_then(special);
    }
    // A template's token stands in for one that the configuration does not name.
    for (role, found) in [("bos", first), ("eos", last)] {
        let Some(found) = found else { continue };
        let own = texts.iter_mut().find(|(own, _)| *own == role);
        let Some((_, own)) = own else { continue };
        if own.is_none() || role == "eos" {
            *own = Some(found);
        }
        set(add, role, *own == Some(found));
    }
    let Some(pair) = list("pair").filter(|pair| !pair.is_empty()) else {
        return;
    };
    let begin = usize::from(first.is_some() && special(&pair[0]) == first);
    let ends_alike = last.is_some() && pair.last().and_then(special) == last;
    let end = pair.len() - usize::from(ends_alike);
    let Some(inner) = pair.get(begin..end).filter(|inner| inner.len() > 2) else {
        return;
    };
    let outer = (sequence(&inner[0]), inner.last().and_then(sequence));
    if outer != (Some("A"), Some("B")) {
        return;
    }
    let text_of = |role: &str| texts.iter().find(|(own, _)| *own == role)?.1;
    let ends = [text_of("sep"), text_of("eos")];
    let between = &inner[1..inner.len() - 1];
    let separates = |item: &'a Value| {
        let token = special(item);
        token.is_some() && ends.contains(&token)
    };
    let separated = (separates(&between[0]) && last.is_none())
        || (between.len() == 2 && separates(&between[1]));
    set(add, "sep", separated);
}
