//! Element type and form of a tensor, as a header gives them.

use half::{bf16, f16};

/// Element type of a stored tensor. All three widen exactly to f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dtype {
    F32,
    F16,
    Bf16,
}

impl Dtype {
    /// Bytes of one weight.
    pub fn size(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::Bf16 => 2,
        }
    }

    /// The nearest value this type can hold, ties to even, rounded once.
    #[inline]
    pub fn round(self, x: f64) -> f32 {
        match self {
            Dtype::F32 => x as f32,
            Dtype::F16 => f16::from_f64(x).to_f32(),
            Dtype::Bf16 => bf16::from_f64(x).to_f32(),
        }
    }
}

/// Form of a stored tensor, which decides how it is coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Form {
    /// A linear layer's weight (rows = outputs, columns = inputs): quantized.
    Matrix,
    /// A token embedding that may also serve as the head: quantized.
    Embedding,
    /// A small control tensor (gains, scales, mixes).
    Vector,
}
