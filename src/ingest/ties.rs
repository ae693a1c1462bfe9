//! The tie map: which layers and tensors the training run shared.
//!
//! Two forms, which may stand together in one object; other keys are the trainer's own and ignored:
//! `{"layers": 4, "copies": [0, 0, 2, 2]}` (layer i uses the matrices of layer `copies[i]`) and
//! `{"aliases": {"lm_head.weight": "tok_emb.weight"}}` (the first name is the second's tensor).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::io::ErrorKind;
use std::path::Path;

use serde_json::Value;

use super::json;
use crate::error::{Error, Result};

/// Declared ties, every chain followed to its end: what is copied copies nothing itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TieMap {
    /// For every layer the layer whose matrices it uses, itself if its own.
    pub copies: Option<Vec<usize>>,
    /// Tensor name to the name of the tensor it is.
    pub aliases: BTreeMap<String, String>,
}

impl TieMap {
    /// Reads a tie map; a file that is not there declares nothing.
    ///
    /// # Errors
    /// The file cannot be read, or [`TieMap::from_json`] refuses it; the message begins with the path.
    pub fn read(path: &Path) -> Result<Option<TieMap>> {
        match std::fs::read_to_string(path) {
            Ok(text) => TieMap::from_json(&text).map(Some).map_err(|e| e.at(path.display())),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("read", path, e)),
        }
    }

    /// Parses a tie map.
    ///
    /// # Errors
    /// Not a JSON object, neither form in it, a layer out of range, a length other than `layers`, or a circle; the
    /// message names the layer or the tensor.
    pub fn from_json(text: &str) -> Result<TieMap> {
        let Value::Object(mut fields) = json::parse(text)? else {
            return Err(Error::input("the tie map is not a JSON object"));
        };
        fields.retain(|_, value| !value.is_null());
        let copies = match fields.get("copies") {
            Some(copies) => Some(parse_copies(copies, fields.get("layers"))?),
            None => None,
        };
        let aliases = match fields.get("aliases") {
            Some(aliases) => parse_aliases(aliases)?,
            None => BTreeMap::new(),
        };
        if copies.is_none() && !fields.contains_key("aliases") {
            return Err(Error::input("the tie map has neither `copies` nor `aliases`")
                .hint("write {\"layers\": 3, \"copies\": [0, 0, 2]} or {\"aliases\": {\"name\": \"name\"}}"));
        }
        Ok(TieMap { copies, aliases })
    }
}

fn parse_copies(copies: &Value, layers: Option<&Value>) -> Result<Vec<usize>> {
    let Value::Array(entries) = copies else {
        return Err(Error::input("the tie map's `copies` is not an array"));
    };
    let count = entries.len();
    if let Some(layers) = layers
        && layers.as_u64() != Some(count as u64)
    {
        return Err(Error::input(format!("the tie map says {layers} layers, but `copies` has {count} entries")));
    }
    let mut next = BTreeMap::new();
    for (layer, entry) in entries.iter().enumerate() {
        let source = entry.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|&n| n < count);
        let Some(source) = source else {
            return Err(Error::input(format!("layer {layer} copies {entry}, but the layers are 0 to {}", count - 1)));
        };
        if source != layer {
            next.insert(layer, source);
        }
    }
    let roots = roots(&next).map_err(|circle| Error::input(format!("layers copy each other in a circle: {circle}")))?;
    Ok((0..count).map(|layer| roots.get(&layer).copied().unwrap_or(layer)).collect())
}

fn parse_aliases(aliases: &Value) -> Result<BTreeMap<String, String>> {
    let Value::Object(entries) = aliases else {
        return Err(Error::input("the tie map's `aliases` is not an object"));
    };
    let mut next = BTreeMap::new();
    for (name, source) in entries {
        let Value::String(source) = source else {
            return Err(Error::input(format!("the tie map's alias {name} is {source}, wanted a tensor name")));
        };
        next.insert(name.clone(), source.clone());
    }
    roots(&next).map_err(|circle| Error::input(format!("aliases name each other in a circle: {circle}")))
}

/// Follows every chain to its end. A circle comes back as text, `2 -> 4 -> 2`.
fn roots<K: Ord + Clone + Display>(next: &BTreeMap<K, K>) -> std::result::Result<BTreeMap<K, K>, String> {
    let mut done: BTreeMap<K, K> = BTreeMap::new();
    for start in next.keys() {
        let (mut path, mut on_path, mut at) = (Vec::new(), BTreeSet::new(), start);
        let root = loop {
            if let Some(root) = done.get(at) {
                break root.clone();
            }
            let Some(step) = next.get(at) else { break at.clone() };
            path.push(at);
            if !on_path.insert(at) {
                let circle: Vec<String> = path.iter().skip_while(|k| **k != at).map(|k| k.to_string()).collect();
                return Err(circle.join(" -> "));
            }
            at = step;
        };
        // Every step of the walk is settled at once, so that long chains cost linear time.
        done.extend(path.into_iter().map(|k| (k.clone(), root.clone())));
    }
    Ok(done)
}
