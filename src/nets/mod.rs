//! Architectures: which tensors a network has and how it computes logits. One file each.

use std::collections::HashMap;

use candle_core::Tensor;

use crate::error::{Error, Result};

/// What a stored tensor does in its layer, and how it is coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Form {
    /// A linear layer's weight (rows = outputs, columns = inputs): quantized on a lattice.
    Matrix,
    /// A token embedding that may also serve as the head: quantized on a lattice.
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

/// How a network applies a linear layer: `x (…, C)` times `w (R, C)` transposed. Measuring taps it.
pub trait Linear {
    fn linear(&self, name: &str, x: &Tensor, w: &Tensor) -> Result<Tensor>;
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
    fn logits(&self, params: &Params, tokens: &Tensor, linear: &dyn Linear) -> Result<Tensor>;
}
