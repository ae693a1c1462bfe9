//! Recognising an architecture by the names and shapes of its tensors, for models without a `config.json`.
//!
//! An architecture takes part with one [`Recogniser`] and a line in [`RECOGNISERS`].

mod golf;
mod gpt2;
mod llama;
mod nanogpt;

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::names::{common_prefixes, split_layer};
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

/// The rule by which one family is recognised from its tensors.
pub struct Recogniser {
    /// What people call it.
    family: &'static str,
    /// Names that it always has, `N` for the number of any layer.
    keys: &'static [&'static str],
    /// A prefix that some state dicts leave out of all of them.
    prefix: &'static str,
    /// The configuration of a model that has them, under full names; `None` when it is of another one all the same.
    read: fn(&Shapes) -> Option<Guess>,
}

/// Every family that can be recognised, the more telling first.
const RECOGNISERS: &[Recogniser] = &[golf::RECOGNISER, gpt2::RECOGNISER, nanogpt::RECOGNISER, llama::RECOGNISER];

/// The configuration that `shapes` speak for, by the first architecture that knows them; where none does, without a
/// prefix that all names have.
pub fn recognise(shapes: &Shapes) -> Option<Guess> {
    let known = |shapes: &Shapes| RECOGNISERS.iter().find_map(|family| (family.read)(&family.full(shapes)));
    known(shapes).or_else(|| {
        common_prefixes(shapes.keys().map(String::as_str)).into_iter().find_map(|prefix| {
            let bare = shapes.iter().map(|(name, shape)| (name[prefix.len()..].to_string(), shape.clone()));
            known(&bare.collect())
        })
    })
}

/// The configuration that a checkpoint speaks for by what it says of its network and by its shapes.
pub fn stated(shapes: &Shapes, settings: &Map<String, Value>) -> Option<Guess> {
    nanogpt::stated(shapes, settings)
}

/// A network that is known by its tensors, and not computed here.
pub fn foreign(shapes: &Shapes) -> Option<&'static str> {
    let nanochat = [
        "transformer.wte.weight",
        "lm_head.weight",
        "transformer.h.N.attn.c_q.weight",
        "transformer.h.N.mlp.c_fc.weight",
    ];
    let all = nanochat.iter().all(|key| has(shapes, key));
    (all && !shapes.contains_key("transformer.wpe.weight")).then_some("nanochat")
}

/// What was looked for in vain: every family's keys, and which of them are there.
pub fn looked_for(shapes: &Shapes) -> String {
    let of = |family: &Recogniser| {
        let shapes = family.full(shapes);
        let (there, missing): (Vec<&str>, Vec<&str>) = family.keys.iter().partition(|key| has(&shapes, key));
        let (family, keys) = (family.family, family.keys.join(", "));
        match (there.is_empty(), missing.is_empty()) {
            (true, _) => format!("{family}: {keys}"),
            (false, false) => format!("{family}: {} of {keys}; missing {}", there.len(), missing.join(", ")),
            (false, true) => format!("{family}: all of {keys}, but their shapes do not fit together"),
        }
    };
    RECOGNISERS.iter().map(of).collect::<Vec<_>>().join(" | ")
}

/// The family that has most of its keys among these tensors, if one has any.
pub fn nearest(shapes: &Shapes) -> Option<&'static str> {
    let share = |family: &&Recogniser| {
        let shapes = family.full(shapes);
        family.keys.iter().filter(|key| has(&shapes, key)).count() * 100 / family.keys.len()
    };
    // Of equals the first.
    RECOGNISERS.iter().rev().max_by_key(share).filter(|family| share(family) > 0).map(|family| family.family)
}

impl Recogniser {
    /// The shapes under full names.
    fn full(&self, shapes: &Shapes) -> Shapes {
        if self.prefix.is_empty() || shapes.keys().any(|name| name.starts_with(self.prefix)) {
            return shapes.clone();
        }
        let full =
            |name: &String| if name.starts_with("lm_head.") { name.clone() } else { format!("{}{name}", self.prefix) };
        shapes.iter().map(|(name, shape)| (full(name), shape.clone())).collect()
    }
}

/// Whether there is a tensor of this name, in any layer if it says `N`.
fn has(shapes: &Shapes, key: &str) -> bool {
    shapes.contains_key(key) || key.contains(".N.") && of_any_layer(shapes, key).is_some()
}

/// The shape of a tensor in any layer: tied layers may be left out of the file, but any one has the shapes of all.
fn of_any_layer<'a>(shapes: &'a Shapes, key: &str) -> Option<&'a [usize]> {
    let (before, after) = key.split_once("N.")?;
    let fits =
        |name: &str| split_layer(name).is_some_and(|(a, _, b)| a == before && b.strip_prefix('.') == Some(after));
    shapes.iter().find(|(name, _)| fits(name)).map(|(_, shape)| &shape[..])
}

/// Rows and columns of a matrix in any layer.
fn sides(shapes: &Shapes, key: &str) -> Option<(usize, usize)> {
    match of_any_layer(shapes, key)? {
        &[rows, cols] if rows > 0 && cols > 0 => Some((rows, cols)),
        _ => None,
    }
}

/// Layers of the stack whose names begin with `prefix`.
fn layers(shapes: &Shapes, prefix: &str) -> Option<usize> {
    shapes
        .keys()
        .filter_map(|name| split_layer(name))
        .filter(|(stack, ..)| *stack == prefix)
        .map(|(_, i, _)| i + 1)
        .max()
}

impl Guess {
    /// Of an architecture, with its keys in the order of config.json; `name` is the key that names it.
    fn new((name, arch): (&str, &str), keys: Vec<(&str, Value)>, guesses: Vec<&'static str>) -> Guess {
        let mut fields = Map::new();
        fields.insert(name.into(), arch.into());
        fields.extend(keys.into_iter().map(|(key, value)| (key.to_string(), value)));
        Guess { config: Config { arch: arch.into(), fields }, guesses }
    }
}

#[cfg(test)]
pub(super) mod check {
    use super::*;
    use crate::nets::build;

    /// What shapes tell of the models of these configurations is right, and the rest is marked.
    pub fn told(config: &str, guesses: &[&str]) {
        let original = Config::from_json(config).unwrap();
        let shapes = |config: &Config| -> Shapes {
            let specs = build(config).unwrap_or_else(|e| panic!("{e}: {}", config.to_json())).tensors();
            specs.into_iter().map(|spec| (spec.name, spec.shape)).collect()
        };
        let tensors = shapes(&original);
        let guess = recognise(&tensors).unwrap_or_else(|| panic!("{config}: {}", looked_for(&tensors)));
        assert_eq!((&guess.config.arch, &guess.guesses[..]), (&original.arch, guesses), "{config}");
        for (key, value) in original.fields.iter().filter(|(key, _)| !guess.guesses.contains(&key.as_str())) {
            // The multiple is any that gives the same width.
            if key != "mlp_mult" || value.is_u64() {
                assert_eq!(guess.config.fields.get(key), Some(value), "{key} of {config}");
            }
        }
        assert_eq!(shapes(&guess.config), tensors, "{config}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str]) -> Shapes {
        names.iter().map(|name| (name.to_string(), vec![8, 8])).collect()
    }

    #[test]
    fn a_prefix_of_all_names_hides_no_architecture() {
        let config = r#"{"model_type":"gpt2","n_embd":16,"n_head":2,"n_layer":2,"n_positions":8,"vocab_size":32}"#;
        let specs = crate::nets::build(&Config::from_json(config).unwrap()).unwrap().tensors();
        let shapes: Shapes = specs.into_iter().map(|spec| (spec.name, spec.shape)).collect();
        let wrapped: Shapes = shapes.iter().map(|(name, shape)| (format!("net.gpt.{name}"), shape.clone())).collect();
        assert!(recognise(&shapes).is_some());
        assert_eq!(recognise(&wrapped), recognise(&shapes));
    }

    #[test]
    fn the_nearest_family_has_most_keys() {
        assert_eq!(nearest(&named(&["a", "b.0.weight"])), None);
        let llama =
            ["model.embed_tokens.weight", "model.layers.3.mlp.gate_proj.weight", "model.layers.3.attn.qkv.weight"];
        assert_eq!(nearest(&named(&llama)), Some("llama, mistral, qwen2, qwen3"));
        assert_eq!(nearest(&named(&["wte.weight", "h.0.mlp.c_fc.weight"])), Some("gpt2"));
        assert_eq!(nearest(&named(&["tok_emb.weight", "blocks.0.w"])), Some("parameter-golf-baseline"));
        let told = looked_for(&named(&llama));
        assert!(
            told.contains("2 of model.embed_tokens.weight") && told.contains("missing model.layers.N.self_attn"),
            "{told}"
        );
    }
}
