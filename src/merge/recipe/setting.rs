//! Parameter values: scalars, gradients over the layers of a slice, and lists of filters.

use super::node::{Entry, Node, Value};
use crate::merge::error::{MergeError, Place};

/// A parameter as the recipe gives it; a tensor's name and position turn it into a [`Scalar`].
#[derive(Clone, Debug, PartialEq)]
pub enum Setting {
    /// One value for all tensors.
    Scalar(Scalar),
    /// Numbers spread evenly over the layers of a slice, interpolated linearly.
    Gradient(Vec<f64>),
    /// Booleans spread over the layers of a slice; each holds up to the next one's position.
    Steps(Vec<bool>),
    /// The first item whose filter matches gives the value.
    Filtered(Vec<FilterItem>),
}

/// One item of a filter list.
#[derive(Clone, Debug, PartialEq)]
pub struct FilterItem {
    /// A substring of the tensor's name; `None` (no filter, or `*`) matches every tensor.
    pub filter: Option<String>,
    /// The value for tensors that match.
    pub setting: Setting,
}

/// A resolved value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    /// A number.
    Number(f64),
    /// A truth value.
    Flag(bool),
}

impl Scalar {
    /// As a number; true is 1.
    pub fn number(self) -> f64 {
        match self {
            Self::Number(number) => number,
            Self::Flag(flag) => f64::from(u8::from(flag)),
        }
    }

    /// As a truth value; any number but zero is true.
    pub fn flag(self) -> bool {
        match self {
            Self::Number(number) => number != 0.0,
            Self::Flag(flag) => flag,
        }
    }
}

impl std::fmt::Display for Scalar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Flag(flag) => flag.fmt(f),
        }
    }
}

impl Setting {
    /// The value for a tensor, `t` (0 to 1) being its layer's position in its slice. `None` where
    /// no filter matches: the next wider scope is asked then.
    pub fn resolve(&self, tensor: &str, t: f64) -> Option<Scalar> {
        match self {
            Self::Scalar(scalar) => Some(*scalar),
            Self::Gradient(values) => Some(Scalar::Number(interpolate(values, t))),
            Self::Steps(values) => {
                let position = t * (values.len() - 1) as f64;
                let index = (position as usize).min(values.len() - 1);
                Some(Scalar::Flag(values[index]))
            }
            Self::Filtered(items) => items
                .iter()
                .find(|item| match &item.filter {
                    None => true,
                    Some(filter) => tensor.contains(filter.as_str()),
                })
                .and_then(|item| item.setting.resolve(tensor, t)),
        }
    }

    /// Reads the value of parameter `name` from YAML text.
    ///
    /// # Errors
    /// Not YAML, or neither a number, a boolean, a list of them, nor filters with values.
    pub fn from_yaml(name: &str, text: &str) -> Result<Self, MergeError> {
        Self::parse(name, &Node::parse(text)?)
    }

    pub(super) fn parse(name: &str, node: &Node) -> Result<Self, MergeError> {
        match &node.value {
            Value::Map(entries) => Ok(Self::Filtered(vec![filter_item(name, node, entries)?])),
            Value::List(items) => list(name, node, items),
            _ => scalar(name, node).map(Self::Scalar),
        }
    }
}

fn interpolate(values: &[f64], t: f64) -> f64 {
    let position = t * (values.len() - 1) as f64;
    let index = (position as usize).min(values.len() - 1);
    let fraction = position - index as f64;
    let next = (index + 1).min(values.len() - 1);
    (1.0 - fraction) * values[index] + fraction * values[next]
}

fn list(name: &str, node: &Node, items: &[Node]) -> Result<Setting, MergeError> {
    if items.is_empty() {
        return Err(node.expected(name, "at least one value in the list"));
    }
    if items.iter().any(|item| matches!(item.value, Value::Map(_))) {
        return items
            .iter()
            .map(|item| filter_item(name, item, item.map(name)?))
            .collect::<Result<_, _>>()
            .map(Setting::Filtered);
    }
    let scalars = items
        .iter()
        .map(|item| scalar(name, item))
        .collect::<Result<Vec<_>, _>>()?;
    if scalars.iter().all(|s| matches!(s, Scalar::Flag(_))) {
        return Ok(Setting::Steps(
            scalars.into_iter().map(Scalar::flag).collect(),
        ));
    }
    Ok(Setting::Gradient(
        scalars.into_iter().map(Scalar::number).collect(),
    ))
}

fn filter_item(name: &str, node: &Node, entries: &[Entry]) -> Result<FilterItem, MergeError> {
    let mut filter = None;
    let mut setting = None;
    for entry in entries {
        match entry.key.as_str() {
            "filter" if entry.node.is_null() => {}
            "filter" => filter = Some(entry.node.text("filter")?).filter(|text| text != "*"),
            "value" => setting = Some(Setting::parse(name, &entry.node)?),
            other => {
                return Err(MergeError::recipe(
                    entry.place,
                    format!("{name}: `{other}` is neither `filter` nor `value`"),
                ));
            }
        }
    }
    let setting = setting.ok_or_else(|| {
        MergeError::recipe(node.place, format!("{name}: the filter has no `value`"))
    })?;
    Ok(FilterItem { filter, setting })
}

fn scalar(name: &str, node: &Node) -> Result<Scalar, MergeError> {
    let number = match &node.value {
        Value::Bool(flag) => return Ok(Scalar::Flag(*flag)),
        Value::Number(number) => *number,
        Value::Text(text) => match text.trim().parse::<f64>() {
            Ok(number) => number,
            Err(_) => {
                return Err(MergeError::recipe(
                    node.place,
                    format!("{name}: expected a number, found `{text}`"),
                ));
            }
        },
        _ => return Err(node.expected(name, "a number, a list of numbers or a list of filters")),
    };
    if number.is_finite() {
        Ok(Scalar::Number(number))
    } else {
        Err(MergeError::recipe(
            node.place,
            format!("{name}: {number} is not a finite number"),
        ))
    }
}

/// The parameters of one scope, in the recipe's order.
#[derive(Clone, Debug, Default)]
pub struct Parameters(Vec<Parameter>);

#[derive(Clone, Debug)]
struct Parameter {
    name: String,
    place: Place,
    setting: Setting,
}

impl Parameters {
    pub(super) fn push(&mut self, name: String, place: Place, setting: Setting) {
        self.0.push(Parameter {
            name,
            place,
            setting,
        });
    }

    /// The names in this scope and where they stand.
    pub(crate) fn names(&self) -> impl Iterator<Item = (&str, Place)> {
        self.0.iter().map(|p| (p.name.as_str(), p.place))
    }

    /// The value of `name` for a tensor at `t`, if this scope has one.
    pub(crate) fn resolve(&self, name: &str, tensor: &str, t: f64) -> Option<Scalar> {
        self.0
            .iter()
            .find(|p| p.name == name)
            .and_then(|p| p.setting.resolve(tensor, t))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(yaml: &str, tensor: &str, t: f64) -> Option<Scalar> {
        let node = Node::parse(yaml).unwrap();
        Setting::parse("weight", &node).unwrap().resolve(tensor, t)
    }

    #[test]
    fn gradients_interpolate_and_booleans_step() {
        assert_eq!(resolve("[0, 1]", "x", 0.25), Some(Scalar::Number(0.25)));
        assert_eq!(
            resolve("[1, 0.5, 0.7]", "x", 1.0),
            Some(Scalar::Number(0.7))
        );
        assert_eq!(resolve("[0.25]", "x", 0.9), Some(Scalar::Number(0.25)));
        assert_eq!(
            resolve("[true, false]", "x", 0.99),
            Some(Scalar::Flag(true))
        );
        assert_eq!(
            resolve("[true, false]", "x", 1.0),
            Some(Scalar::Flag(false))
        );
        assert_eq!(resolve("'1e-1'", "x", 0.5), Some(Scalar::Number(0.1)));
    }

    #[test]
    fn the_first_matching_filter_wins_and_none_may_match() {
        let list = "[{filter: mlp, value: [0, 1]}, {filter: up_proj, value: 5}]";
        let up = "model.layers.0.mlp.up_proj.weight";
        assert_eq!(resolve(list, up, 0.5), Some(Scalar::Number(0.5)));
        assert_eq!(resolve(list, "model.norm.weight", 0.0), None);
        assert_eq!(
            resolve(
                "[{filter: '*', value: 2}, {filter: mlp, value: 3}]",
                up,
                0.0
            ),
            Some(Scalar::Number(2.0))
        );
    }

    #[test]
    fn values_that_mean_nothing_are_refused() {
        for bad in [
            "[]",
            "half",
            "[{filter: x}]",
            "{vlaue: 1}",
            "[1, [2]]",
            ".inf",
            "~",
        ] {
            let setting = Node::parse(bad).and_then(|node| Setting::parse("weight", &node));
            assert!(setting.is_err(), "{bad}");
        }
    }
}
