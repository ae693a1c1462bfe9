//! Limits on the claims of a file, beyond which a reader refuses it: they bound memory and time for any bytes.

use crate::error::{Error, Result};

/// Most that a file may hold. [`Limits::default`] is what the format allows; a reader with less memory allows less.
///
/// ```
/// use tiepack_format::{Limits, decode_within};
///
/// let bytes = std::fs::read("../../fixtures/golden/v1-quantized.tiepack")?;
/// let small = Limits { weights: 1000, ..Limits::default() };
/// assert!(decode_within(&bytes, &small).is_err());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the unpacked header: 1 MiB.
    pub header: usize,
    /// Tensors of the model: 16,384.
    pub tensors: usize,
    /// Bytes of all names together, written out: 4 MiB.
    pub names: usize,
    /// Weights of all stored tensors together: 2^31, which are 8 GiB once decoded. An empty tensor counts as many as its
    /// other dimensions multiply to: they take time and memory as well.
    pub weights: usize,
    /// Weights for each byte of the file: 4,096. A real model has at most a few, one that was crushed to nothing some
    /// hundreds.
    pub weights_per_byte: usize,
    /// Weights that a file of any size may hold: 2^24, which are 64 MiB once decoded. A layer of zeros takes no bytes at all.
    pub weights_of_any: usize,
}

/// Most tensors of a model.
pub const MAX_TENSORS: usize = 16_384;

impl Default for Limits {
    fn default() -> Self {
        Limits {
            header: 1 << 20,
            tensors: MAX_TENSORS,
            names: 1 << 22,
            weights: 1 << 31,
            weights_per_byte: 1 << 12,
            weights_of_any: 1 << 24,
        }
    }
}

/// Most dimensions of a tensor: a rule of the format, not of a reader.
pub const MAX_RANK: usize = 8;

/// The product of the dimensions that are not zero; `None`: more than a machine can count.
fn volume(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, d| n.checked_mul((*d).max(1)))
}

impl Limits {
    /// Holds the shapes of stored tensors against a file of `size` bytes. After this no product of some of a shape's
    /// dimensions overflows.
    ///
    /// # Errors
    /// Verification, when a file of `size` bytes cannot hold so many weights.
    pub fn check_weights(&self, shapes: &[&[usize]], size: usize) -> Result<()> {
        let total = shapes.iter().try_fold(0usize, |n, shape| volume(shape)?.checked_add(n));
        let limit = size.saturating_mul(self.weights_per_byte).max(self.weights_of_any).min(self.weights);
        match total {
            Some(total) if total <= limit => Ok(()),
            _ => Err(Error::verification(format!("{size} bytes cannot hold the tensors that the header describes"))),
        }
    }

    /// Whether one tensor of this shape keeps to the limit of weights.
    pub fn allows(&self, shape: &[usize]) -> bool {
        volume(shape).is_some_and(|n| n <= self.weights)
    }
}
