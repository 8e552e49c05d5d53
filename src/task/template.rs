//! Jinja as the task files of the reference use it: an undefined name is an error, a trailing
//! newline is kept, nothing is escaped, and values print as Python prints them.

use std::fmt;
use std::sync::Arc;

use fancy_regex::Captures;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State, UndefinedBehavior};

use super::python;

/// Work one rendering may do, in template instructions; 64 bytes of text or lists count as one. A
/// prompt needs thousands; nested loops of a hostile file end here, and a text that doubles itself
/// ends at 128 MB.
const MAX_FUEL: u64 = 2_000_000;
/// Bytes that one `regex_replace` may put in, or a method of a text may give.
const MAX_GROWN_BYTES: usize = 16 << 20;
/// Bytes of template source. Real chat templates reach 10 KB, few-shot descriptions 20 KB.
const MAX_TEMPLATE_BYTES: usize = 1 << 20;

/// A template of a task file, compiled; or the name of a field, taken as it is.
#[derive(Clone)]
pub struct TextTemplate {
    environment: Arc<Environment<'static>>,
    source: Arc<str>,
}

/// The one template that an environment of this module holds.
pub(super) const TEMPLATE: &str = "template";

impl TextTemplate {
    /// Compiles `source`.
    ///
    /// # Errors
    /// The template engine's message with the line inside the template.
    pub(super) fn new(source: &str) -> Result<Self, String> {
        let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
        let syntax = syntax.map_err(|error| message(&error))?;
        let mut environment = environment(UndefinedBehavior::Strict, syntax);
        environment.add_filter("regex_replace", regex_replace);
        compile(&mut environment, source)?;
        Ok(Self {
            environment: Arc::new(environment),
            source: Arc::from(source),
        })
    }

    /// The template as written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The value over a document: the field of this very name, else the rendered text.
    ///
    /// # Errors
    /// The template engine's message.
    pub(super) fn value(
        &self,
        doc: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<serde_json::Value, String> {
        match doc.get(&*self.source) {
            Some(field) => Ok(field.clone()),
            None => self.render(doc).map(serde_json::Value::String),
        }
    }

    /// The rendered text.
    ///
    /// # Errors
    /// The template engine's message.
    pub(super) fn render(
        &self,
        doc: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<String, String> {
        let template = self.environment.get_template(TEMPLATE);
        template
            .and_then(|t| t.render(Serde(doc)))
            .map_err(|e| message(&e))
    }
}

impl fmt::Debug for TextTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TextTemplate").field(&self.source).finish()
    }
}

/// An environment with what task and chat templates have in common.
pub(super) fn environment(
    undefined: UndefinedBehavior,
    syntax: SyntaxConfig,
) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_syntax(syntax);
    environment.set_undefined_behavior(undefined);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(method);
    environment.set_formatter(|out, _, value| {
        if value.is_undefined() {
            return Ok(());
        }
        match value.as_str() {
            Some(text) => out.write_str(text),
            None => out.write_str(&python_text(value)),
        }
        .map_err(Error::from)
    });
    environment.add_filter("string", |value: &Value| match value.as_str() {
        Some(text) => text.to_owned(),
        None => python_text(value),
    });
    environment.set_fuel(Some(MAX_FUEL));
    environment
}

/// Python's methods: those of the engine's companion crate, and `index` of a list.
fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    if name != "index" || !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
        if let Some(text) = value.as_str()
            && grown_bytes(text, name, args) > MAX_GROWN_BYTES
        {
            let detail = format!("{name}: the text would have more than {MAX_GROWN_BYTES} bytes");
            return Err(Error::new(ErrorKind::InvalidOperation, detail));
        }
        return minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args);
    }
    let (wanted,): (&Value,) = from_args(args)?;
    let found = value.try_iter()?.position(|item| item == *wanted);
    found.map(Value::from).ok_or_else(|| {
        let detail = format!("{} is not in the list", python_text(wanted));
        Error::new(ErrorKind::InvalidOperation, detail)
    })
}

/// At least the bytes that a method of a text would give, for the methods whose result can be larger
/// than what went in by more than a sum: the engine charges for results when they are there already.
fn grown_bytes(text: &str, name: &str, args: &[Value]) -> usize {
    let bytes = |value: &Value| match value.as_str() {
        Some(text) => text.len(),
        None => python_text(value).len(),
    };
    match (name, args) {
        ("replace", [old, new, ..]) => {
            let found = old.as_str().map_or(0, |old| text.matches(old).count());
            text.len().saturating_add(found.saturating_mul(bytes(new)))
        }
        ("join", [items]) => items.try_iter().map_or(0, |items| {
            items.fold(0_usize, |sum, item| {
                let item = item.as_str().map_or(0, str::len);
                sum.saturating_add(item).saturating_add(text.len())
            })
        }),
        ("format", _) => {
            let places = text.matches('{').count();
            let longest = args.iter().map(bytes).max().unwrap_or(0);
            // A width is written in digits: `{:>999999999}`.
            let numbers = text.split(|c: char| !c.is_ascii_digit());
            let widest = numbers.map(|digits| {
                digits
                    .parse()
                    .unwrap_or(usize::from(!digits.is_empty()) * usize::MAX)
            });
            let width = widest.max().unwrap_or(0);
            places.saturating_mul(longest.saturating_add(width))
        }
        _ => 0,
    }
}

/// Compiles the one template of an environment.
pub(super) fn compile(environment: &mut Environment<'static>, source: &str) -> Result<(), String> {
    if source.len() > MAX_TEMPLATE_BYTES {
        let bytes = source.len();
        return Err(format!(
            "{bytes} bytes, at most {MAX_TEMPLATE_BYTES} are read"
        ));
    }
    environment
        .add_template_owned(TEMPLATE, source.to_owned())
        .map_err(|error| message(&error))
}

/// What the engine says, in one line.
pub(super) fn message(error: &Error) -> String {
    let what = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    let shown = error.range().zip(error.template_source());
    let near = shown.and_then(|(range, source)| source.get(range).map(str::trim));
    let near = near.filter(|near| !near.is_empty() && near.len() < 80);
    match (error.line(), near) {
        (Some(line), Some(near)) => format!("{what} (line {line} of the template, at `{near}`)"),
        (Some(line), None) => format!("{what} (line {line} of the template)"),
        (None, _) => what,
    }
}

/// Python's `str` of a template value; floats keep their fraction, `None` its capital.
fn python_text(value: &Value) -> String {
    match serde_json::to_value(value) {
        Ok(json) => python::text(&json),
        Err(_) => value.to_string(),
    }
}

/// The reference's own filter: Python's `re.sub(pattern, replacement, text, count)`.
fn regex_replace(
    text: &str,
    pattern: &str,
    replacement: &str,
    options: Kwargs,
) -> Result<String, Error> {
    let count: Option<usize> = options.get("count")?;
    options.assert_all_used()?;
    let bad = |detail: String| Error::new(ErrorKind::InvalidOperation, detail);
    let regex = fancy_regex::Regex::new(pattern)
        .map_err(|error| bad(format!("regex_replace: `{pattern}`: {error}")))?;
    let expanded = python_replacement(replacement);
    let mut added = 0;
    let replaced = regex.try_replacen(text, count.unwrap_or(0), |found: &Captures<'_, str>| {
        let mut with = String::new();
        if added <= MAX_GROWN_BYTES {
            found.expand(&expanded, &mut with);
            added += with.len();
        }
        with
    });
    match replaced {
        Ok(_) if added > MAX_GROWN_BYTES => Err(bad(format!(
            "regex_replace: `{pattern}`: more than {MAX_GROWN_BYTES} bytes would be put in"
        ))),
        Ok(replaced) => Ok(replaced.into_owned()),
        Err(error) => Err(bad(format!("regex_replace: `{pattern}`: {error}"))),
    }
}

/// Python writes groups as `\1` or `\g<name>`, the regex crates as `${1}` or `${name}`.
fn python_replacement(replacement: &str) -> String {
    let mut expanded = String::with_capacity(replacement.len());
    let mut rest = replacement;
    while let Some(at) = rest.find(['\\', '$']) {
        expanded.push_str(&rest[..at]);
        let marked = &rest[at..];
        let after = &marked[1..];
        if marked.starts_with('$') {
            expanded.push_str("$$");
            rest = after;
            continue;
        }
        let digits = after.bytes().take(2).take_while(u8::is_ascii_digit).count();
        if digits > 0 {
            expanded.push_str(&format!("${{{}}}", &after[..digits]));
            rest = &after[digits..];
        } else if let Some((name, tail)) = after.strip_prefix("g<").and_then(|t| t.split_once('>'))
        {
            expanded.push_str(&format!("${{{name}}}"));
            rest = tail;
        } else {
            let (c, length) = match after.chars().next() {
                Some('n') => ('\n', 1),
                Some('t') => ('\t', 1),
                Some('\\') => ('\\', 1),
                _ => ('\\', 0),
            };
            expanded.push(c);
            rest = &after[length..];
        }
    }
    expanded.push_str(rest);
    expanded
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(source: &str, doc: &serde_json::Value) -> Result<String, String> {
        TextTemplate::new(source)?.render(doc.as_object().unwrap())
    }

    #[test]
    fn jinja_of_the_math_tasks_renders_as_in_python() {
        let doc = json!({
            "question": "Tom has 3 & <4> \"apples\".", "answer": "so 1+1=2\n#### 2", "n": 27.0,
            "none": null, "yes": true, "list": ["a", "it's"], "choices": ["A", "B"], "label": "B",
            "body": " Body ", "text": "The $x$ answer is 5.",
        });
        for (source, expected) in [
            ("Q: {{question}}\nA:", "Q: Tom has 3 & <4> \"apples\".\nA:"),
            ("{{answer.split('####')[-1].strip()}}", "2"),
            (
                "{{answer.split('#### ')[1] if answer is defined else 'x'}}",
                "2",
            ),
            (
                "{{n}} {{none}} {{yes}} {{list}}",
                "27.0 None True ['a', \"it's\"]",
            ),
            ("{{ n|string + '!' }}", "27.0!"),
            ("{{answer[3:6]}}|{{answer[-1:]}}|{{answer[-1]}}", "1+1|2|2"),
            ("{{choices.index(label)}}", "1"),
            ("{{ ['A', 'B'].index(label) + 1 }}", "2"),
            (
                "{% if few_shot is not defined %}a{% else %}b{% endif %}",
                "a",
            ),
            ("{% if none is not none %}a{% else %}b{% endif %}", "b"),
            ("{{body.strip() + '!' }}{{body.rstrip()}}", "Body! Body"),
            (
                "{{question.replace('apples', 'x')}}",
                "Tom has 3 & <4> \"x\".",
            ),
            ("x\n", "x\n"),
            (
                "{{text|regex_replace('\\$(\\w)\\$', '<\\\\1>')}}",
                "The <x> answer is 5.",
            ),
            ("{{list[0]}}{{list[-1]}}", "ait's"),
            (
                "{{ 'boxed' in text }} {{ text.endswith('.') }}",
                "False True",
            ),
            ("\\boxed{your_answer}.", "\\boxed{your_answer}."),
        ] {
            assert_eq!(render(source, &doc).as_deref(), Ok(expected), "{source}");
        }
    }

    #[test]
    fn an_undefined_name_is_an_error_that_names_it() {
        let message = render("a\n{{problem}}", &json!({})).unwrap_err();
        assert!(
            message.contains("line 2") && message.contains("problem"),
            "{message}"
        );
        assert!(TextTemplate::new("{{ a").is_err());
        assert!(TextTemplate::new("{% for %}").is_err());
    }

    #[test]
    fn hostile_templates_end() {
        let nested =
            "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}";
        assert!(render(nested, &json!({})).is_err());
        assert!(TextTemplate::new(&"(".repeat(100_000)).map(|_| ()).is_ok());
        assert!(TextTemplate::new(&format!("{{{{ {} }}}}", "(".repeat(100_000))).is_err());
        assert!(TextTemplate::new(&"x".repeat(MAX_TEMPLATE_BYTES + 1)).is_err());
    }
}
