//! Writes tensors bit for bit.

use half::{bf16, f16};

use super::{Format, Model, count, from_word};
use crate::entropy::range::Encoder;
use crate::error::{Error, Result};
use crate::tensor::Dtype;

/// One tensor as bytes. `data` is row-major and in f32, whatever the type it is stored as.
///
/// # Errors
/// As [`encode_group`].
pub fn encode(data: &[f32], shape: &[usize], dtype: Dtype) -> Result<Vec<u8>> {
    encode_group(&[(data, shape)], dtype)
}

/// Several tensors (data, shape) of one type in one stream: small ones share what the coder learns.
///
/// # Errors
/// Compute, when a shape does not fit its data, or a value is not exactly one of the type.
pub fn encode_group(tensors: &[(&[f32], &[usize])], dtype: Dtype) -> Result<Vec<u8>> {
    let mut all = Vec::with_capacity(tensors.len());
    for &(data, shape) in tensors {
        if count(shape) != Some(data.len()) {
            let n = data.len();
            return Err(Error::compute(format!("a tensor of shape {shape:?} cannot hold {n} values")));
        }
        all.push(data.iter().map(|&v| to_word(v, dtype)).collect::<Result<Vec<u32>>>()?);
    }
    let format = Format::of(dtype);
    let top = all.iter().flatten().map(|&w| format.exponent(w)).max().unwrap_or(0);
    let mut io = Encoder::new();
    let mut model = Model::new(&mut io, format, top);
    for (words, (_, shape)) in all.iter_mut().zip(tensors) {
        model.code(&mut io, words, shape)?;
    }
    Ok(io.finish())
}

/// The bits of `value` in the type, in the low end of a word.
fn to_word(value: f32, dtype: Dtype) -> Result<u32> {
    let word = match dtype {
        Dtype::F32 => value.to_bits(),
        Dtype::F16 => u32::from(f16::from_f32(value).to_bits()),
        Dtype::Bf16 => u32::from(bf16::from_f32(value).to_bits()),
    };
    if from_word(word, dtype).to_bits() != value.to_bits() {
        return Err(Error::compute(format!("{value:e} is not exactly a {dtype:?} value")));
    }
    Ok(word)
}
