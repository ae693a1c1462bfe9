//! What a network predicts at some positions, kept where it was computed: a GPU hands out figures per position, and not a
//! probability for every token of the vocabulary.

use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{D, DType, Device, Tensor};

use super::compare::divergence;
use crate::error::{Error, Result};
use crate::nets::ops::pointwise::exp;
use crate::nets::ops::simd::vectorized;
use crate::nets::ops::{sum, top, with_elements};

/// A device that is not the CPU works for one thread at a time: CUDA orders what one thread asks for, and nothing else.
static DEVICE: Mutex<()> = Mutex::new(());

/// Until it is dropped, no other thread uses the device; `None` for the CPU, which needs no turns.
pub fn turn(device: &Device) -> Option<MutexGuard<'static, ()>> {
    (!device.is_cpu()).then(|| DEVICE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Log-probabilities (positions, V).
pub enum Predictions {
    /// Dense row-major.
    Host {
        vocab: usize,
        values: Vec<f32>,
    },
    Device(Tensor),
}

impl Predictions {
    /// From logits (…, V).
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn of(logits: &Tensor) -> Result<Self> {
        let vocab = logits.dim(D::Minus1)?;
        if !logits.device().is_cpu() {
            return Ok(Predictions::Device(composed_log_softmax(&logits.flatten_to(D::Minus2)?)?));
        }
        let logits = logits.to_dtype(DType::F32)?.contiguous()?;
        let mut values = with_elements([&logits], |[x]| x.to_vec())?;
        values.chunks_exact_mut(vocab).for_each(log_softmax);
        Ok(Predictions::Host { vocab, values })
    }

    /// −log p of a target for every position, in nats.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn losses<'a>(&self, targets: impl Iterator<Item = &'a u32>) -> Result<Vec<f32>> {
        match self {
            Predictions::Host { vocab, values } => {
                Ok(values.chunks_exact(*vocab).zip(targets).map(|(p, t)| -p[*t as usize]).collect())
            }
            Predictions::Device(values) => {
                let _turn = turn(values.device());
                let ids: Vec<u32> = targets.copied().collect();
                let ids = Tensor::from_vec(ids, (values.dim(0)?, 1), values.device())?;
                Ok(values.gather(&ids, D::Minus1)?.neg()?.flatten_all()?.to_vec1()?)
            }
        }
    }

    /// KL(these ‖ other) at every position, in nats.
    ///
    /// # Errors
    /// If a tensor operation fails, as it does for predictions on two devices.
    pub fn divergence(&self, other: &Predictions) -> Result<Vec<f32>> {
        match (self, other) {
            (Predictions::Host { vocab, values }, Predictions::Host { values: others, .. }) => {
                let positions = values.chunks_exact(*vocab).zip(others.chunks_exact(*vocab));
                Ok(positions.map(|(p, q)| divergence(p, q)).collect())
            }
            (Predictions::Device(values), Predictions::Device(others)) => {
                let _turn = turn(values.device());
                // Rounding can leave a difference of nothing slightly negative.
                Ok((values.exp()? * (values - others)?)?.sum(D::Minus1)?.relu()?.to_vec1()?)
            }
            _ => Err(Error::compute("predictions of two devices")),
        }
    }

    /// The token of the highest probability at every position.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn tops(&self) -> Result<Vec<u32>> {
        match self {
            Predictions::Host { vocab, values } => Ok(values.chunks_exact(*vocab).map(highest).collect()),
            Predictions::Device(values) => {
                let _turn = turn(values.device());
                Ok(values.argmax(D::Minus1)?.to_vec1()?)
            }
        }
    }
}

fn highest(log_probabilities: &[f32]) -> u32 {
    let mut best = 0;
    for (i, v) in log_probabilities.iter().enumerate() {
        if *v > log_probabilities[best] {
            best = i;
        }
    }
    best as u32
}

/// [`log_softmax`] over the last axis by candle's operations, where the logits are; in f32.
pub fn composed_log_softmax(logits: &Tensor) -> candle_core::Result<Tensor> {
    let x = logits.to_dtype(DType::F32)?;
    let x = x.broadcast_sub(&x.max_keepdim(D::Minus1)?)?;
    x.broadcast_sub(&x.exp()?.sum_keepdim(D::Minus1)?.log()?)
}

/// x − log Σ exp x, in place.
pub fn log_softmax(x: &mut [f32]) {
    vectorized(
        #[inline(always)]
        || normalise(x),
    )
}

#[inline(always)]
fn normalise(x: &mut [f32]) {
    let top = top(x);
    let mut exps = [0f32; 256];
    let mut total = 0f64;
    for chunk in x.chunks(256) {
        let exps = &mut exps[..chunk.len()];
        for (e, v) in exps.iter_mut().zip(chunk) {
            *e = exp(*v - top);
        }
        total += f64::from(sum(exps));
    }
    let shift = top + total.ln() as f32;
    x.iter_mut().for_each(|v| *v -= shift);
}
