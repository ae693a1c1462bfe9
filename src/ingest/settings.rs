//! What a checkpoint says of its network beside the weights, as nanoGPT's `model_args` do.

use serde_json::{Map, Value as Json};

use super::pickle::{Id, Pickle, Value};
use super::remark::Remark;

/// Where training scripts keep the settings that their network is built from.
const KEY: &str = "model_args";
/// A network has no more.
const MOST: usize = 64;
/// Bytes of a key or a word.
const LONGEST: usize = 64;

/// The settings of a checkpoint, numbers, switches and words, if it has any. `found` says no more that they were not read.
pub fn of(pickle: &Pickle, found: &mut Option<Remark>) -> Option<Remark> {
    let settings = entry(pickle, pickle.root, KEY)?;
    let Value::Dict(entries) = pickle.get(settings) else { return None };
    let mut read = Map::new();
    for (key, value) in entries.iter().take(MOST) {
        let Value::Text(key) = pickle.get(*key) else { continue };
        if key.len() > LONGEST {
            continue;
        }
        let value = match pickle.get(*value) {
            Value::Int(n) => Json::from(*n),
            Value::Bool(on) => Json::from(*on),
            Value::Text(word) if word.len() <= LONGEST => Json::from(*word),
            _ => continue,
        };
        read.insert((*key).to_string(), value);
    }
    if read.is_empty() {
        return None;
    }
    if let Some(Remark::Nested { beside, .. }) = found {
        beside.retain(|name| name != KEY);
    }
    Some(Remark::Settings(read))
}

/// The value of a dict under a string, the last one.
fn entry(pickle: &Pickle, dict: Id, wanted: &str) -> Option<Id> {
    let Value::Dict(entries) = pickle.get(dict) else { return None };
    let is = |key: Id| matches!(pickle.get(key), Value::Text(name) if *name == wanted);
    entries.iter().rev().find(|(key, _)| is(*key)).map(|(_, value)| *value)
}
