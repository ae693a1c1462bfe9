//! Parts that several architectures share: normalisations and biases by name, and the reading of their configurations.

use candle_core::Tensor;
use serde_json::Value;

use super::ops::norm;
use super::{Params, get};
use crate::error::{Error, Result};
use crate::ingest::config::Config;

/// Rows that models of long contexts are measured and evaluated on, unless the configuration says otherwise.
const USUAL_CONTEXT: usize = 1024;
/// Key of config.json for other rows.
const CONTEXT: &str = "tiepack_context";

/// x (…, D) normalised by mean and variance, times `NAME.weight`, plus `NAME.bias`.
///
/// # Errors
/// As candle's operations.
pub fn layer_norm(x: &Tensor, params: &Params, name: &str, eps: f32) -> Result<Tensor> {
    let y = norm::layer_norm(x, eps)?.broadcast_mul(get(params, &format!("{name}.weight"))?)?;
    biased(y, params, &format!("{name}.bias"))
}

/// x (…, D) normalised by its root mean square, times `NAME.weight`.
///
/// # Errors
/// As candle's operations.
pub fn rms_norm(x: &Tensor, params: &Params, name: &str, eps: f32) -> Result<Tensor> {
    Ok(norm::rms_norm_eps(x, eps)?.broadcast_mul(get(params, &format!("{name}.weight"))?)?)
}

/// y (…, D) plus the vector of that name.
///
/// # Errors
/// As candle's operations.
pub fn biased(y: Tensor, params: &Params, name: &str) -> Result<Tensor> {
    Ok(y.broadcast_add(get(params, name)?)?)
}

/// The activation of an MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// GELU by the error function.
    Gelu,
    /// GELU by its approximation with tanh.
    TanhGelu,
    Silu,
    Relu,
}

/// Activations by the names that transformers gives them.
const ACTIVATIONS: &[(&str, Activation)] = &[
    ("gelu", Activation::Gelu),
    ("gelu_python", Activation::Gelu),
    ("gelu_new", Activation::TanhGelu),
    ("gelu_pytorch_tanh", Activation::TanhGelu),
    ("gelu_fast", Activation::TanhGelu),
    ("gelu_accurate", Activation::TanhGelu),
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("relu", Activation::Relu),
];

impl Activation {
    /// # Errors
    /// As candle's operations.
    pub fn apply(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Activation::Gelu => x.gelu_erf()?,
            Activation::TanhGelu => x.gelu()?,
            Activation::Silu => x.silu()?,
            Activation::Relu => x.relu()?,
        })
    }
}

/// A configuration with keys that may be missing or null, as Hugging Face's are.
pub struct Fields<'a>(pub &'a Config);

impl Fields<'_> {
    fn value(&self, key: &str) -> Option<&Value> {
        self.0.fields.get(key).filter(|value| !value.is_null())
    }

    /// A whole number from 1 to `limit`.
    ///
    /// # Errors
    /// It is missing, not a whole number, or out of range.
    pub fn dimension(&self, key: &str, limit: usize) -> Result<usize> {
        match self.0.usize(key)? {
            n if (1..=limit).contains(&n) => Ok(n),
            n => Err(Error::input(format!("config.json: {key} is {n}, expected 1 to {limit}"))),
        }
    }

    /// The same, or `usual` where it is missing.
    ///
    /// # Errors
    /// It is there and out of range.
    pub fn dimension_or(&self, key: &str, limit: usize, usual: usize) -> Result<usize> {
        self.value(key).map_or(Ok(usual), |_| self.dimension(key, limit))
    }

    /// A whole number from 0 on, or `usual` where it is missing.
    ///
    /// # Errors
    /// It is there and not a whole number.
    pub fn count_or(&self, key: &str, usual: usize) -> Result<usize> {
        self.value(key).map_or(Ok(usual), |_| self.0.usize(key))
    }

    /// An activation by its name, or the one that is usual.
    ///
    /// # Errors
    /// It is none that is known: names those that are.
    pub fn activation(&self, key: &str, usual: &str) -> Result<Activation> {
        let name = self.value(key).map_or_else(|| usual.into(), |value| value.as_str().unwrap_or_default().to_string());
        ACTIVATIONS.iter().find(|(known, _)| *known == name).map(|(_, activation)| *activation).ok_or_else(|| {
            let known: Vec<&str> = ACTIVATIONS.iter().map(|(name, _)| *name).collect();
            Error::input(format!("config.json: {key} {} is not supported", self.0.fields[key]))
                .hint(format!("known: {}", known.join(", ")))
        })
    }

    /// A positive number, or `usual`.
    ///
    /// # Errors
    /// It is there and not a positive number.
    pub fn number_or(&self, key: &str, usual: f64) -> Result<f64> {
        match self.value(key).map_or(Ok(usual), |_| self.0.f64(key))? {
            x if x > 0.0 && x.is_finite() => Ok(x),
            x => Err(Error::input(format!("config.json: {key} is {x}, expected a positive number"))),
        }
    }

    /// A switch, or `usual`.
    ///
    /// # Errors
    /// It is there and neither true nor false.
    pub fn switch(&self, key: &str, usual: bool) -> Result<bool> {
        self.value(key).map_or(Ok(usual), |_| self.0.bool(key))
    }

    /// A word, or `usual`, which must be one of `known`.
    ///
    /// # Errors
    /// It is another one: names those supported.
    pub fn only(&self, key: &str, known: &[&'static str], usual: &'static str) -> Result<&'static str> {
        let Some(value) = self.value(key) else { return Ok(usual) };
        known.iter().find(|word| value.as_str() == Some(word)).copied().ok_or_else(|| {
            Error::input(format!("config.json: {key} {value} is not supported"))
                .hint(format!("known: {}", known.join(", ")))
        })
    }

    /// Length of the rows that the model is measured and evaluated on: 1,024 tokens or what it can take, if that is less.
    ///
    /// # Errors
    /// `tiepack_context` is out of range.
    pub fn context(&self, most: usize) -> Result<usize> {
        self.dimension_or(CONTEXT, most, most.min(USUAL_CONTEXT))
    }
}
