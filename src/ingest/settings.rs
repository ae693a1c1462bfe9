//! What a checkpoint says of its network beside the weights, as nanoGPT's `model_args` do.

use serde_json::{Map, Value as Json};

use super::pickle::{Id, Pickle, Value};
use super::remark::Remark;

/// Where training scripts keep the settings that their network is built from.
pub const KEY: &str = "model_args";
/// A network has no more.
const MOST: usize = 64;

/// The settings of a checkpoint, numbers, switches and words, if it has any.
pub fn of(pickle: &Pickle) -> Option<Remark> {
    let settings = entry(pickle, pickle.root, KEY)?;
    let Value::Dict(entries) = pickle.get(settings) else { return None };
    let mut found = Map::new();
    for (key, value) in entries.iter().take(MOST) {
        let Value::Text(key) = pickle.get(*key) else { continue };
        let value = match pickle.get(*value) {
            Value::Int(n) => Json::from(*n),
            Value::Bool(on) => Json::from(*on),
            Value::Text(word) => Json::from(*word),
            _ => continue,
        };
        found.insert((*key).to_string(), value);
    }
    (!found.is_empty()).then_some(Remark::Settings(found))
}

/// The value of a dict under a string, the last one.
fn entry(pickle: &Pickle, dict: Id, wanted: &str) -> Option<Id> {
    let Value::Dict(entries) = pickle.get(dict) else { return None };
    let is = |key: Id| matches!(pickle.get(key), Value::Text(name) if *name == wanted);
    entries.iter().rev().find(|(key, _)| is(*key)).map(|(_, value)| *value)
}
