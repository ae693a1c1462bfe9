//! Architectures: which tensors a network has and how it computes logits. One file each.

pub mod golf;
pub mod gpt2;
pub mod guess;
pub mod keys;
pub mod llama;
pub mod names;
pub mod ops;
pub mod parts;
mod scaling;

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::Tensor;
pub use tiepack_format::Form;

use crate::error::{Error, Result};
use crate::ingest::config::Config;

/// One tensor that an architecture expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Full name in the state dict, as `blocks.3.attn.c_q.weight`.
    pub name: String,
    /// Name without the layer, as `attn.c_q.weight`; equal for the same part of every layer.
    pub role: String,
    /// Layer index, if it belongs to one.
    pub layer: Option<usize>,
    pub shape: Vec<usize>,
    pub form: Form,
}

impl TensorSpec {
    /// Whether it is a matrix, not a control tensor.
    pub fn is_matrix(&self) -> bool {
        self.form != Form::Vector
    }
}

/// Tensors by full state-dict name; names that are tied hold the same tensor.
pub type Params = HashMap<String, Tensor>;

/// What one step of a network hands to the next. Tensors are shared, so keeping a state of every step costs one tensor each.
#[derive(Clone)]
pub struct State {
    /// The residual stream (rows, T, D).
    pub x: Tensor,
    /// What later steps want of earlier ones.
    pub kept: Vec<Tensor>,
}

/// How a network applies its matrices. Measuring taps it.
pub trait Layers {
    /// x (…, C) times w (R, C) transposed.
    fn linear(&self, name: &str, x: &Tensor, w: &Tensor) -> Result<Tensor>;
    /// x (…, R) times w (R, C): for weights that are stored the other way round.
    fn linear_transposed(&self, name: &str, x: &Tensor, w: &Tensor) -> Result<Tensor>;
    /// Rows of `table` (V, D) for `tokens` (rows, T) u32: (rows, T, D).
    fn embed(&self, name: &str, table: &Tensor, tokens: &Tensor) -> Result<Tensor>;
}

/// Applies every matrix as it is.
pub struct PlainLayers;

impl Layers for PlainLayers {
    fn linear(&self, _: &str, x: &Tensor, w: &Tensor) -> Result<Tensor> {
        Ok(ops::linear::linear(x, w, None)?)
    }

    fn linear_transposed(&self, _: &str, x: &Tensor, w: &Tensor) -> Result<Tensor> {
        Ok(ops::linear::linear_transposed(x, w, None)?)
    }

    fn embed(&self, _: &str, table: &Tensor, tokens: &Tensor) -> Result<Tensor> {
        let (rows, length) = tokens.dims2()?;
        let width = table.dim(1)?;
        Ok(table.index_select(&tokens.flatten_all()?, 0)?.reshape((rows, length, width))?)
    }
}

/// The parameter called `name`.
///
/// # Errors
/// If it is not there: a programming error, since a [`crate::model::Model`] holds every tensor of its architecture.
pub fn get<'a>(params: &'a Params, name: &str) -> Result<&'a Tensor> {
    params.get(name).ok_or_else(|| Error::compute(format!("parameter {name} is missing")))
}

/// Builds an architecture from its dimensions.
type Build = fn(&Config) -> Result<Arc<dyn Net>>;

/// One architecture.
struct Family {
    /// The value of `arch` or `model_type` in config.json.
    name: &'static str,
    build: Build,
    /// Keys of config.json and what becomes of each.
    keys: fn(&str) -> &'static [keys::Table],
}

/// Every architecture.
const REGISTRY: &[Family] = &[
    Family { name: golf::ARCH, build: golf::build, keys: |_| golf::KEYS },
    Family { name: gpt2::ARCH, build: gpt2::build, keys: |_| gpt2::KEYS },
    Family { name: gpt2::NANO, build: gpt2::build_nano, keys: |_| gpt2::NANO_KEYS },
    Family { name: llama::LLAMA, build: llama::build, keys: llama::keys },
    Family { name: llama::MISTRAL, build: llama::build, keys: llama::keys },
    Family { name: llama::QWEN2, build: llama::build, keys: llama::keys },
    Family { name: llama::QWEN3, build: llama::build, keys: llama::keys },
];

fn family(arch: &str) -> Option<&'static Family> {
    REGISTRY.iter().find(|family| family.name == arch)
}

/// The architecture that `config` names, with its dimensions.
///
/// # Errors
/// If the architecture is unknown, a dimension is missing or out of range, or a key has a value that would make it another network.
pub fn build(config: &Config) -> Result<Arc<dyn Net>> {
    keys::quantized(config)?;
    match family(&config.arch) {
        Some(family) => {
            keys::check((family.keys)(family.name), config)?;
            (family.build)(config)
        }
        None => {
            let known: Vec<&str> = REGISTRY.iter().map(|family| family.name).collect();
            // The same name written otherwise, and not a similar one: mixtral is no mistral.
            let near = known.iter().find(|name| letters(name) == letters(&config.arch));
            let meant = near.map_or(String::new(), |name| format!("; did you mean {name}?"));
            Err(Error::input(format!("unknown architecture {:?}", config.arch)).hint(format!(
                "tiepack computes with {}{meant}; any PyTorch model can be measured and packed from Python with \
                 tiepack.torch",
                known.join(", ")
            )))
        }
    }
}

/// Keys of `config` that its architecture does not know; those of the scaling of positions with their object's name before them.
pub fn unknown_keys(config: &Config) -> Vec<String> {
    let Some(family) = family(&config.arch) else { return Vec::new() };
    let mut unknown: Vec<String> =
        keys::unknown((family.keys)(family.name), config).into_iter().map(String::from).collect();
    unknown.extend(scaling::unknown(&parts::Fields(config)));
    unknown
}

/// The tables of keys of an architecture, if it is known.
pub fn keys_of(arch: &str) -> Option<&'static [keys::Table]> {
    family(arch).map(|family| (family.keys)(family.name))
}

/// Whether a network of this name is registered.
pub fn is_known(arch: &str) -> bool {
    family(arch).is_some()
}

/// A name without case, dashes and the like.
fn letters(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|letter| letter.to_ascii_lowercase()).collect()
}

/// A network architecture with its dimensions filled in.
pub trait Net: Send + Sync {
    /// Every tensor of the state dict, in canonical order.
    fn tensors(&self) -> Vec<TensorSpec>;
    /// Number of token ids.
    fn vocab_size(&self) -> usize;
    /// Length of a training sequence in tokens; evaluation uses windows of this length.
    fn context(&self) -> usize;
    /// Number of layers that a tie map speaks of.
    fn layers(&self) -> usize;
    /// Roles that a whole-layer tie shares.
    fn tied_roles(&self) -> &'static [&'static str];
    /// Other names under which a state dict may hold a tensor as well, with its canonical name: heads that are embeddings.
    fn aliases(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }
    /// Prefix that some state dicts leave out of all names but those of [`Net::aliases`].
    fn prefix(&self) -> &'static str {
        ""
    }
    /// The layers in the order in which they run, one for each step; a loop runs some more than once.
    fn order(&self) -> Vec<usize> {
        (0..self.layers()).collect()
    }
    /// What comes before the first step, from `tokens` (rows, T) u32.
    fn enter(&self, params: &Params, tokens: &Tensor, layers: &dyn Layers) -> Result<State>;
    /// Step `position` of [`Net::order`].
    fn run_position(&self, position: usize, state: State, params: &Params, layers: &dyn Layers) -> Result<State>;
    /// Logits (rows, T, V) in f32 from what the last step left: from its residual stream alone.
    fn leave(&self, state: State, params: &Params, layers: &dyn Layers) -> Result<Tensor>;
    /// What the last step leaves of `tokens` (rows, T) u32.
    fn run(&self, params: &Params, tokens: &Tensor, layers: &dyn Layers) -> Result<State> {
        let enter = self.enter(params, tokens, layers)?;
        (0..self.order().len()).try_fold(enter, |state, position| self.run_position(position, state, params, layers))
    }
    /// What the last step leaves of what stands before step `position`.
    fn resume(&self, position: usize, mut state: State, params: &Params, layers: &dyn Layers) -> Result<State> {
        for position in position..self.order().len() {
            state = self.run_position(position, state, params, layers)?;
        }
        Ok(state)
    }
    /// Logits (rows, T, V) in f32 of `tokens` (rows, T) u32.
    fn logits(&self, params: &Params, tokens: &Tensor, layers: &dyn Layers) -> Result<Tensor> {
        self.leave(self.run(params, tokens, layers)?, params, layers)
    }
}
