//! Architectures: which tensors a network has and how it computes logits. One file each.

pub mod golf;
pub mod gpt2;
pub mod guess;
pub mod llama;
pub mod names;
pub mod ops;
pub mod parts;

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::ingest::config::Config;

/// What a stored tensor does in its layer, and how it is coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Form {
    /// A linear layer's weight (rows = outputs, columns = inputs): quantized.
    Matrix,
    /// A token embedding that may also serve as the head: quantized.
    Embedding,
    /// A small control tensor (gains, scales, mixes).
    Vector,
}

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

impl Form {
    /// Whether a tensor of this form is a matrix, not a control tensor.
    pub fn is_matrix(self) -> bool {
        self != Form::Vector
    }
}

impl TensorSpec {
    /// Whether it is a matrix, not a control tensor.
    pub fn is_matrix(&self) -> bool {
        self.form.is_matrix()
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
pub struct Plain;

impl Layers for Plain {
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

/// Every architecture, by the value of `arch` in config.json.
const REGISTRY: &[(&str, Build)] = &[
    (golf::ARCH, golf::build),
    (gpt2::ARCH, gpt2::build),
    (llama::LLAMA, llama::build),
    (llama::MISTRAL, llama::build),
    (llama::QWEN2, llama::build),
    (llama::QWEN3, llama::build),
];

/// The architecture that `config` names, with its dimensions.
///
/// # Errors
/// If the architecture is unknown, or a dimension is missing or out of range.
pub fn build(config: &Config) -> Result<Arc<dyn Net>> {
    match REGISTRY.iter().find(|(name, _)| *name == config.arch) {
        Some((_, build)) => build(config),
        None => {
            let known: Vec<&str> = REGISTRY.iter().map(|(name, _)| *name).collect();
            let near = known.iter().min_by_key(|name| distance(name, &config.arch));
            let near = near.filter(|name| distance(name, &config.arch) <= config.arch.len() / 2);
            let meant = near.map_or(String::new(), |name| format!("; did you mean {name}?"));
            Err(Error::input(format!("unknown architecture {:?}", config.arch))
                .hint(format!("config.json's \"arch\" or \"model_type\" must be one of: {}{meant}", known.join(", "))))
        }
    }
}

/// Whether a network of this name is registered.
pub fn is_known(arch: &str) -> bool {
    REGISTRY.iter().any(|(name, _)| *name == arch)
}

/// Letters to change, add or take away between two words (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let here = (diagonal + usize::from(x != *y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], here);
        }
    }
    row[b.len()]
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
    /// Step `step` of [`Net::order`].
    fn step(&self, step: usize, state: State, params: &Params, layers: &dyn Layers) -> Result<State>;
    /// Logits (rows, T, V) in f32 from what the last step left: from its residual stream alone.
    fn leave(&self, state: State, params: &Params, layers: &dyn Layers) -> Result<Tensor>;
    /// What the last step leaves of `tokens` (rows, T) u32.
    fn run(&self, params: &Params, tokens: &Tensor, layers: &dyn Layers) -> Result<State> {
        let enter = self.enter(params, tokens, layers)?;
        (0..self.order().len()).try_fold(enter, |state, step| self.step(step, state, params, layers))
    }
    /// Logits (rows, T, V) in f32 from what stands before step `step`.
    fn resume(&self, step: usize, mut state: State, params: &Params, layers: &dyn Layers) -> Result<Tensor> {
        for step in step..self.order().len() {
            state = self.step(step, state, params, layers)?;
        }
        self.leave(state, params, layers)
    }
    /// Logits (rows, T, V) in f32 of `tokens` (rows, T) u32.
    fn logits(&self, params: &Params, tokens: &Tensor, layers: &dyn Layers) -> Result<Tensor> {
        self.leave(self.run(params, tokens, layers)?, params, layers)
    }
}
