//! Generation settings: `key=value,...` texts, their merging, and their typed form.

use serde_json::{Map, Number, Value};

use super::error::{TaskError, nearest};
use super::python;

/// New tokens when neither task nor command line says how many.
pub const DEFAULT_MAX_GEN_TOKS: usize = 256;

/// Names of the cap on new tokens, strongest first.
const MAX_TOKENS_ALIASES: [&str; 4] = [
    "max_gen_toks",
    "max_new_tokens",
    "max_tokens",
    "max_completion_tokens",
];

/// Settings that are read; anything else is an error rather than silently without effect.
const KNOWN: [&str; 13] = [
    "until",
    "do_sample",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "seed",
    "max_gen_toks",
    "max_new_tokens",
    "max_tokens",
    "max_completion_tokens",
    "skip_special_tokens",
];

/// Reads `--gen_kwargs` or `--model_args`: a JSON object, or `key=value,key=value`.
///
/// A value is `true`/`false` in any case, an integer if all its characters are digits (so `-1` is
/// a float), a float if it reads as one, else text. A value may contain `=`, but no comma.
///
/// # Errors
/// A part without `=` or without a key, JSON that is not an object, and `nan` or `inf`.
pub fn parse_kwargs(text: &str) -> Result<Map<String, Value>, TaskError> {
    let text = text.trim();
    if text.starts_with('{') {
        return serde_json::from_str(text)
            .map_err(|error| TaskError::GenKwargs(format!("{text}: not a JSON object: {error}")));
    }
    let mut map = Map::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (key, value) = match part.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => (key.trim(), value),
            _ => {
                return Err(TaskError::GenKwargs(format!(
                    "`{part}` in `{text}`: expected key=value"
                )));
            }
        };
        map.insert(key.to_owned(), parse_value(value)?);
    }
    Ok(map)
}

/// Reads one value by the rules of [`parse_kwargs`].
///
/// # Errors
/// `nan` and `inf`: no setting can use them, and JSON cannot record them.
pub fn parse_value(text: &str) -> Result<Value, TaskError> {
    if text.eq_ignore_ascii_case("true") {
        return Ok(Value::Bool(true));
    }
    if text.eq_ignore_ascii_case("false") {
        return Ok(Value::Bool(false));
    }
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if digits && let Ok(integer) = text.parse::<u64>() {
        return Ok(Value::from(integer));
    }
    match text.trim().parse::<f64>() {
        Ok(float) => match Number::from_f64(float) {
            Some(number) => Ok(Value::Number(number)),
            None => Err(TaskError::GenKwargs(format!(
                "`{text}`: expected a finite number"
            ))),
        },
        Err(_) => Ok(Value::String(text.to_owned())),
    }
}

/// Merges `over` into `base` as a dictionary update: existing keys keep their place.
pub(super) fn merge(base: &mut Map<String, Value>, over: &Map<String, Value>) {
    for (key, value) in over {
        base.insert(key.clone(), value.clone());
    }
}

/// Generation settings with types and defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationConfig {
    /// Texts that end a response, in order.
    pub until: Vec<String>,
    /// 0 means greedy.
    pub temperature: f64,
    /// Probability mass kept; 1 keeps all.
    pub top_p: f64,
    /// Candidates kept; 0 keeps all.
    pub top_k: usize,
    /// Share of the best candidate's probability below which others are dropped; 0 drops none.
    pub min_p: f64,
    /// 1 penalises nothing.
    pub repetition_penalty: f64,
    /// Seed of sampling, if the settings have one.
    pub seed: Option<u64>,
    /// Cap on new tokens.
    pub max_gen_toks: usize,
    /// Whether the cap is the default rather than asked for.
    pub max_gen_toks_is_default: bool,
    /// What the user should know, a sentence each.
    pub warnings: Vec<String>,
}

impl GenerationConfig {
    /// Reads a task's merged `generation_kwargs`.
    ///
    /// A missing temperature means 0, even with `do_sample: true` (as in the reference);
    /// `do_sample: false` means 0 whatever the temperature. The cap's aliases are read in the
    /// order max_gen_toks, max_new_tokens, max_tokens, max_completion_tokens; when two differ the
    /// first wins and a warning says so.
    ///
    /// # Errors
    /// An unknown setting, a wrong type, a value out of range.
    pub fn from_kwargs(kwargs: &Map<String, Value>) -> Result<Self, TaskError> {
        for key in kwargs.keys() {
            if !KNOWN.contains(&key.as_str()) {
                return Err(unknown(key));
            }
        }
        let mut warnings = Vec::new();
        let number = |key: &str, default: f64, range: std::ops::RangeInclusive<f64>| match kwargs
            .get(key)
            .filter(|value| !value.is_null())
        {
            None => Ok(default),
            Some(value) => value
                .as_f64()
                .filter(|number| range.contains(number))
                .ok_or_else(|| {
                    let (low, high) = (range.start(), range.end());
                    bad(key, &format!("a number from {low} to {high}"), value)
                }),
        };
        let do_sample = flag(kwargs, "do_sample")?;
        let mut temperature = number("temperature", 0.0, 0.0..=f64::MAX)?;
        if do_sample == Some(false) && temperature > 0.0 {
            warnings.push(format!(
                "do_sample=false: temperature {temperature} is not used, decoding is greedy"
            ));
            temperature = 0.0;
        }
        if do_sample == Some(true) && temperature == 0.0 {
            warnings.push(
                "do_sample=true has no effect at temperature 0: decoding is greedy".to_owned(),
            );
        }
        if flag(kwargs, "skip_special_tokens")? == Some(true) {
            warnings
                .push("skip_special_tokens=true is ignored: special tokens stay visible".into());
        }
        let (max_gen_toks, is_default) = max_gen_toks(kwargs, &mut warnings)?;
        Ok(Self {
            until: until(kwargs.get("until"))?,
            temperature,
            top_p: number("top_p", 1.0, 0.0..=1.0)?,
            // -1 is vLLM's way of saying "all".
            top_k: integer(kwargs, "top_k", -1)?.max(0) as usize,
            min_p: number("min_p", 0.0, 0.0..=1.0)?,
            repetition_penalty: number("repetition_penalty", 1.0, f64::MIN_POSITIVE..=f64::MAX)?,
            seed: match integer(kwargs, "seed", -1)? {
                -1 => None,
                seed => Some(seed as u64),
            },
            max_gen_toks,
            max_gen_toks_is_default: is_default,
            warnings,
        })
    }
}

fn unknown(key: &str) -> TaskError {
    let hint = match nearest(key, KNOWN).first() {
        Some(name) => format!(", did you mean `{name}`?"),
        None => String::new(),
    };
    TaskError::GenKwargs(format!(
        "unknown setting `{key}`{hint} (known: {})",
        KNOWN.join(", ")
    ))
}

fn bad(key: &str, expected: &str, found: &Value) -> TaskError {
    let found = python::repr(found);
    TaskError::GenKwargs(format!("`{key}` expects {expected}, found {found}"))
}

fn flag(kwargs: &Map<String, Value>, key: &str) -> Result<Option<bool>, TaskError> {
    match kwargs.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(*value)),
        Some(other) => Err(bad(key, "true or false", other)),
    }
}

/// A whole number of at least -1, which `-1` in a `key=value` text makes a float.
fn integer(kwargs: &Map<String, Value>, key: &str, default: i64) -> Result<i64, TaskError> {
    let Some(value) = kwargs.get(key).filter(|value| !value.is_null()) else {
        return Ok(default);
    };
    let whole = |float: &f64| float.fract() == 0.0 && float.abs() < 9e15;
    value
        .as_i64()
        .or_else(|| value.as_f64().filter(whole).map(|float| float as i64))
        .filter(|integer| *integer >= -1)
        .ok_or_else(|| bad(key, "a whole number", value))
}

fn max_gen_toks(
    kwargs: &Map<String, Value>,
    warnings: &mut Vec<String>,
) -> Result<(usize, bool), TaskError> {
    let mut chosen: Option<(&str, i64)> = None;
    for key in MAX_TOKENS_ALIASES {
        if kwargs.get(key).is_none_or(Value::is_null) {
            continue;
        }
        let value = integer(kwargs, key, 0)?;
        if value < 1 {
            return Err(bad(key, "a whole number of at least 1", &kwargs[key]));
        }
        match chosen {
            None => chosen = Some((key, value)),
            Some((winner, used)) if used != value => warnings.push(format!(
                "{winner}={used} and {key}={value} are the same setting: {winner}={used} is used"
            )),
            Some(_) => {}
        }
    }
    Ok(match chosen {
        Some((_, value)) => (value as usize, false),
        None => (DEFAULT_MAX_GEN_TOKS, true),
    })
}

/// A text is a list of one, null an empty list. Empty texts would end every response at once.
fn until(value: Option<&Value>) -> Result<Vec<String>, TaskError> {
    let expected = "text or a list of texts";
    let texts: Vec<String> = match value {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(text)) => vec![text.clone()],
        Some(list @ Value::Array(items)) => items
            .iter()
            .map(|item| item.as_str().map(str::to_owned))
            .collect::<Option<_>>()
            .ok_or_else(|| bad("until", expected, list))?,
        Some(other) => return Err(bad("until", expected, other)),
    };
    if texts.iter().any(String::is_empty) {
        return Err(TaskError::GenKwargs(
            "`until` holds an empty text, which would end every response at once".to_owned(),
        ));
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_take_the_types_of_the_reference() {
        let map = parse_kwargs(
            " do_sample=False,temperature=0,top_p=0.0,a=-1,b=1e-3,c=x=y,,max_gen_toks=16000,d=TRUE,e= ",
        )
        .unwrap();
        assert_eq!(
            Value::from(map),
            json!({"do_sample": false, "temperature": 0, "top_p": 0.0, "a": -1.0, "b": 0.001,
                   "c": "x=y", "max_gen_toks": 16000, "d": true, "e": ""})
        );
        assert_eq!(
            Value::from(parse_kwargs(r#"{"until": ["a,b"], "temperature": 0.5}"#).unwrap()),
            json!({"until": ["a,b"], "temperature": 0.5})
        );
        for bad in ["temperature", "=1", "a=nan", "a=inf", "{\"a\": 1", "{1: 2}"] {
            assert!(parse_kwargs(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_command_line_keeps_the_order_of_the_task() {
        let mut base = json!({"until": ["Problem:"], "do_sample": false, "temperature": 0.0});
        let base = base.as_object_mut().unwrap();
        let over = parse_kwargs("do_sample=false,temperature=0,max_gen_toks=16000").unwrap();
        merge(base, &over);
        assert_eq!(
            serde_json::to_string(base).unwrap(),
            r#"{"until":["Problem:"],"do_sample":false,"temperature":0,"max_gen_toks":16000}"#
        );
    }

    fn typed(text: &str) -> Result<GenerationConfig, TaskError> {
        GenerationConfig::from_kwargs(&parse_kwargs(text).unwrap())
    }

    #[test]
    fn the_cap_on_tokens_has_one_winner() {
        let config = typed("max_tokens=5,max_new_tokens=7").unwrap();
        assert_eq!(config.max_gen_toks, 7);
        assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
        let config = typed("max_tokens=5,max_gen_toks=5").unwrap();
        assert_eq!((config.max_gen_toks, config.warnings.len()), (5, 0));
        let config = typed("").unwrap();
        assert!(config.max_gen_toks_is_default);
        assert_eq!(config.max_gen_toks, DEFAULT_MAX_GEN_TOKS);
    }

    #[test]
    fn greedy_unless_a_temperature_says_otherwise() {
        assert_eq!(typed("do_sample=true").unwrap().temperature, 0.0);
        assert_eq!(
            typed("do_sample=false,temperature=0.7")
                .unwrap()
                .temperature,
            0.0
        );
        assert_eq!(typed("temperature=0.7").unwrap().temperature, 0.7);
        assert_eq!(typed("top_k=-1").unwrap().top_k, 0);
        assert_eq!(typed("seed=7").unwrap().seed, Some(7));
    }

    #[test]
    fn wrong_settings_are_named() {
        for (text, part) in [
            ("temprature=1", "`temperature`"),
            ("temperature=-1", "`temperature` expects"),
            ("top_p=2", "`top_p`"),
            ("max_gen_toks=0", "`max_gen_toks`"),
            ("max_gen_toks=1.5", "`max_gen_toks`"),
            ("do_sample=3", "`do_sample`"),
            ("until=", "empty"),
            ("until=1", "`until`"),
        ] {
            let message = typed(text).unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
