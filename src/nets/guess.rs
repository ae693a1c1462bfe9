//! Recognising an architecture by the names and shapes of its tensors, for models without a `config.json`.
//!
//! An architecture takes part with one function, [`Recognise`], and a line in [`RECOGNISERS`].

mod golf;

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::ingest::config::Config;

/// Shapes of all tensors by state-dict name.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// A configuration that shapes speak for.
#[derive(Debug, Clone, PartialEq)]
pub struct Guess {
    pub config: Config,
    /// Keys that no shape tells: they have the architecture's usual values.
    pub guesses: Vec<&'static str>,
}

/// The configuration of a model of one architecture; `None` when it is not of that one.
pub type Recognise = fn(&Shapes) -> Option<Guess>;

/// Every architecture that can be recognised, the more telling first.
const RECOGNISERS: &[Recognise] = &[golf::recognise];

/// The configuration that `shapes` speak for, by the first architecture that knows them.
pub fn recognise(shapes: &Shapes) -> Option<Guess> {
    RECOGNISERS.iter().find_map(|recognise| recognise(shapes))
}

impl Guess {
    /// Of an architecture, with its keys in the order of config.json.
    pub fn new(arch: &str, keys: Vec<(&str, Value)>, guesses: Vec<&'static str>) -> Guess {
        let mut fields = Map::new();
        fields.insert("arch".into(), arch.into());
        fields.extend(keys.into_iter().map(|(key, value)| (key.to_string(), value)));
        Guess { config: Config { arch: arch.into(), fields }, guesses }
    }
}
