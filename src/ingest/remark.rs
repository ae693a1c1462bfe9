//! Remarks on changes and omissions of reading a model. Nothing is done to weights in silence.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Names listed before "and more".
const LISTED: usize = 3;

/// One thing that the reader of a verdict should know about the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remark {
    /// The checkpoint holds more than the state dict: where that was, and what else there is.
    Nested { at: String, beside: Vec<String> },
    /// Prefixes taken off, and the number of names that had each.
    Stripped(BTreeMap<String, usize>),
    /// f64 held as f32: so many tensors, so many weights that were rounded.
    Rounded { tensors: usize, weights: usize },
    /// A type that a model does not keep, held in one that has all its values.
    Widened { tensors: usize, from: &'static str },
    /// The weights were quantized already: by what, one of the tensors that show it, and how many do.
    Quantized { scheme: &'static str, first: String, tensors: usize },
    /// Ties that the file states: names that it leaves out, each with the name of its tensor.
    Tied(BTreeMap<String, String>),
    /// The tensors are not those of the network that the configuration names, and why.
    Unexplained(String),
    /// What is no weight, by its name, and why.
    Dropped(BTreeMap<String, String>),
    /// What the checkpoint says of its network in a dict beside the weights.
    Settings(Map<String, Value>),
    /// Keys of config.json that the architecture does not know.
    Unread { arch: String, keys: Vec<String> },
}

impl Remark {
    /// Why the tensor of that name was left out, if it was.
    pub fn dropped(&self, name: &str) -> Option<&str> {
        match self {
            Remark::Dropped(names) => names.get(name).map(String::as_str),
            _ => None,
        }
    }

    pub fn message(&self) -> String {
        match self {
            Remark::Nested { at, beside } if beside.is_empty() => format!("the weights are those under {at}"),
            Remark::Nested { at, beside } => {
                // What holds tensors, which comes first, is never behind "and more".
                let telling = beside.iter().take_while(|name| name.ends_with(')')).count();
                let beside = first(telling.max(LISTED), beside.iter().cloned());
                format!("the weights are those under {at}; not read: {beside}")
            }
            Remark::Stripped(prefixes) => {
                let all: Vec<_> = prefixes.iter().map(|(prefix, names)| format!("{prefix} ({names})")).collect();
                format!("prefixes taken off the names of tensors: {}", all.join(", "))
            }
            Remark::Rounded { tensors, weights } => {
                format!("tensors in f64 held as f32: {tensors}; weights that this rounded: {weights}")
            }
            Remark::Widened { tensors, from } => format!("tensors in {from} held as f16, without loss: {tensors}"),
            Remark::Quantized { scheme, first, tensors: 1 } => {
                format!("the weights were quantized already, as {scheme} does: {first}")
            }
            Remark::Quantized { scheme, first, tensors } => {
                format!("the weights were quantized already, as {scheme} does: {first} and {} more", tensors - 1)
            }
            Remark::Tied(ties) => {
                let all = ties.iter().map(|(name, kept)| format!("{name} is {kept}"));
                format!("ties that the file states: {}", list(all))
            }
            Remark::Unexplained(why) => format!("a model of tensors that no network runs: {why}"),
            Remark::Dropped(names) => {
                let all = names.iter().map(|(name, why)| format!("{name} ({why})"));
                format!("left out, being no weights: {}", list(all))
            }
            Remark::Settings(all) => {
                let all = all.iter().map(|(key, value)| format!("{key} {value}"));
                format!("the checkpoint says of its network: {}", all.collect::<Vec<_>>().join(", "))
            }
            Remark::Unread { arch, keys } => {
                format!("config.json has keys that {arch} does not know: {}", list(keys.iter().cloned()))
            }
        }
    }

    pub fn hint(&self) -> &'static str {
        match self {
            Remark::Nested { .. } => "save the state dict alone if that is the wrong one",
            Remark::Stripped(_) => "the names are those of the module that was wrapped",
            Remark::Rounded { .. } => "losses are against the model in f32",
            Remark::Widened { .. } => "if they need scales, multiply these in before saving",
            Remark::Quantized { .. } => "give the model that they were made from, or dequantize it first",
            Remark::Tied(_) => "the names that the file leaves out are the model's as well",
            Remark::Unexplained(_) => "every tensor is packed; judge the model with --evaluator",
            Remark::Dropped(_) => "the network computes its tables and masks itself",
            Remark::Settings(_) => "where there is no config.json, a network of that kind is built from them",
            Remark::Unread { .. } => {
                "they are kept and change nothing here; if the model computes otherwise by them, pack it with tiepack.torch"
            }
        }
    }
}

/// The first few of a list, and how many more there are.
fn list(all: impl ExactSizeIterator<Item = String>) -> String {
    first(LISTED, all)
}

/// So many of a list, and how many more there are.
fn first(listed: usize, all: impl ExactSizeIterator<Item = String>) -> String {
    let count = all.len();
    let shown: Vec<String> = all.take(listed).collect();
    let more = if count > listed { format!(" and {} more", count - listed) } else { String::new() };
    shown.join(", ") + &more
}
