//! Architectures: which tensors a network has and how it computes logits. One file each.

pub mod golf;
pub mod guess;
pub mod names;
pub mod ops;

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

/// Tensors by full state-dict name; names that are tied hold the same tensor.
pub type Params = HashMap<String, Tensor>;

/// How a network applies its matrices. Measuring taps it.
pub trait Layers {
    /// x (…, C) times w (R, C) transposed.
    fn linear(&self, name: &str, x: &Tensor, w: &Tensor) -> Result<Tensor>;
    /// Rows of `table` (V, D) for `tokens` (rows, T) u32: (rows, T, D).
    fn embed(&self, name: &str, table: &Tensor, tokens: &Tensor) -> Result<Tensor>;
}

/// Applies every matrix as it is.
pub struct Plain;

impl Layers for Plain {
    fn linear(&self, _: &str, x: &Tensor, w: &Tensor) -> Result<Tensor> {
        Ok(ops::linear::linear(x, w, None)?)
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
const REGISTRY: &[(&str, Build)] = &[(golf::ARCH, golf::build)];

/// The architecture that `config` names, with its dimensions.
///
/// # Errors
/// If the architecture is unknown, or a dimension is missing or out of range.
pub fn build(config: &Config) -> Result<Arc<dyn Net>> {
    match REGISTRY.iter().find(|(name, _)| *name == config.arch) {
        Some((_, build)) => build(config),
        None => {
            let known: Vec<&str> = REGISTRY.iter().map(|(name, _)| *name).collect();
            Err(Error::input(format!("unknown architecture {:?}", config.arch))
                .hint(format!("config.json's \"arch\" must be one of: {}", known.join(", "))))
        }
    }
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
    /// Logits (rows, T, V) in f32 of `tokens` (rows, T) u32.
    fn logits(&self, params: &Params, tokens: &Tensor, layers: &dyn Layers) -> Result<Tensor>;
}
