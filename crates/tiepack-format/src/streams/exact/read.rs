//! Reads tensors bit for bit.

use super::{Format, Model, VALUES_PER_BYTE, count, damaged, from_word};
use crate::entropy::range::Decoder;
use crate::error::{Error, Result};
use crate::tensor::Dtype;

/// The tensor that [`super::encode`] turned into `bytes`.
///
/// # Errors
/// As [`decode_group`].
pub fn decode(bytes: &[u8], shape: &[usize], dtype: Dtype) -> Result<Vec<f32>> {
    decode_group(bytes, &[shape], dtype)?.pop().ok_or_else(damaged)
}

/// The tensors that [`super::encode_group`] turned into `bytes`, which may be anything.
///
/// # Errors
/// Verification, when tensors of these shapes cannot be in so few bytes, or the bytes are damaged in a way that shows.
/// Damage that does not show gives other values: the artifact's hashes find it.
pub fn decode_group(bytes: &[u8], shapes: &[&[usize]], dtype: Dtype) -> Result<Vec<Vec<f32>>> {
    let possible = bytes.len().saturating_add(8).saturating_mul(VALUES_PER_BYTE);
    let total = shapes.iter().try_fold(0usize, |sum, shape| sum.checked_add(count(shape)?));
    if total.is_none_or(|n| n > possible) {
        let n = bytes.len();
        return Err(Error::verification(format!("{n} bytes cannot hold tensors of shapes {shapes:?}")));
    }
    let mut io = Decoder::new(bytes);
    let mut model = Model::new(&mut io, Format::of(dtype), 0);
    let mut tensors = Vec::with_capacity(shapes.len());
    for shape in shapes {
        let mut words = vec![0; count(shape).ok_or_else(damaged)?];
        model.code(&mut io, &mut words, shape)?;
        tensors.push(words.into_iter().map(|w| from_word(w, dtype)).collect());
    }
    if io.damaged() {
        return Err(damaged());
    }
    Ok(tensors)
}
