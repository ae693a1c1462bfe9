//! `config.json`: the architecture's name and its dimensions, kept exactly as the file gives them.

use std::path::Path;

use serde_json::{Map, Value};

use super::json;
use crate::error::{Error, Result};

/// A model's configuration. The artifact carries it whole, so unknown keys and the order of keys are kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Name of the architecture, the value of `arch` or, without it, of `model_type`.
    pub arch: String,
    /// The whole object, `arch` included.
    pub fields: Map<String, Value>,
}

impl Config {
    /// No configuration: the architecture is nobody's.
    pub fn none() -> Config {
        Config { arch: String::new(), fields: Map::new() }
    }

    /// Reads a `config.json`.
    ///
    /// # Errors
    /// The file cannot be read, or [`Config::from_json`] refuses it; the message begins with the path.
    pub fn read(path: &Path) -> Result<Config> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        Config::from_json(&text).map_err(|e| e.at(path.display()))
    }

    /// Parses a configuration.
    ///
    /// # Errors
    /// Not a JSON object, or no string under `arch` or `model_type`.
    pub fn from_json(text: &str) -> Result<Config> {
        let value = json::parse(text)?;
        let Value::Object(fields) = value else {
            return Err(Error::input(format!("the configuration is {}, wanted an object", kind(&value))));
        };
        // What Hugging Face's configurations call it.
        let named = ["arch", "model_type"].into_iter().find_map(|key| Some((key, stated(&fields, key)?)));
        let arch = match named {
            Some((_, Value::String(arch))) => arch.clone(),
            Some((key, other)) => return Err(ill_typed(key, other, "a string")),
            None => {
                return Err(missing("arch").hint(
                    "`arch`, or `model_type` as Hugging Face has it, names the architecture that computes the logits",
                ));
            }
        };
        Ok(Config { arch, fields })
    }

    /// The whole object as compact JSON, keys in the order they were read.
    /// Empty for [`Config::none`].
    pub fn to_json(&self) -> String {
        if self.fields.is_empty() {
            return String::new();
        }
        Value::Object(self.fields.clone()).to_string()
    }

    /// A count or a size.
    ///
    /// # Errors
    /// The key is missing, or its value is not a whole number ≥ 0.
    pub fn usize(&self, key: &str) -> Result<usize> {
        let value = self.get(key)?;
        let number = value.as_u64().and_then(|n| usize::try_from(n).ok());
        number.ok_or_else(|| ill_typed(key, value, "a whole number"))
    }

    /// A real number.
    ///
    /// # Errors
    /// The key is missing, or its value is not a number.
    pub fn f64(&self, key: &str) -> Result<f64> {
        let value = self.get(key)?;
        value.as_f64().ok_or_else(|| ill_typed(key, value, "a number"))
    }

    /// A switch.
    ///
    /// # Errors
    /// The key is missing, or its value is neither `true` nor `false`.
    pub fn bool(&self, key: &str) -> Result<bool> {
        let value = self.get(key)?;
        value.as_bool().ok_or_else(|| ill_typed(key, value, "true or false"))
    }

    fn get(&self, key: &str) -> Result<&Value> {
        stated(&self.fields, key).ok_or_else(|| missing(key))
    }
}

/// The value of a key; null says no more than a key that is missing.
fn stated<'a>(fields: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    fields.get(key).filter(|value| !value.is_null())
}

fn missing(key: &str) -> Error {
    Error::input(format!("the configuration has no `{key}`"))
}

fn ill_typed(key: &str, found: &Value, wanted: &str) -> Error {
    // Scalars are shown; a nested value could be arbitrarily long.
    let found = match found {
        Value::Array(_) | Value::Object(_) => kind(found).to_string(),
        scalar => scalar.to_string(),
    };
    Error::input(format!("the configuration's `{key}` is {found}, wanted {wanted}"))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
