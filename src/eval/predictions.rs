//! What a network predicts at some positions, kept where it was computed: a GPU hands out figures per position, and not a
//! probability for every token of the vocabulary. Of many positions of a large vocabulary the residual stream is kept, and
//! the head gives the probabilities for a piece of them at a time.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{D, DType, Device, Tensor};

use super::compare::divergence;
use crate::error::{Error, Result};
use crate::nets::ops::pointwise::exp;
use crate::nets::ops::simd::vectorized;
use crate::nets::ops::{sum, top, with_elements};
use crate::nets::{Net, Params, PlainLayers, State};

/// Logits that are held at once on a CPU, 128 MB: rows of 1,024 tokens two by two of up to 16,384 token ids.
pub const CPU_LOGITS: usize = 1 << 25;
/// The same on another device, 1 GB.
const DEVICE_LOGITS: usize = 1 << 28;

/// Positions whose logits are held at once.
pub fn positions_at_once(device: &Device, vocab: usize) -> usize {
    let most = if device.is_cpu() { CPU_LOGITS } else { DEVICE_LOGITS };
    (most / vocab).max(1)
}

/// Pieces of so many positions, each of no more than are held at once.
pub fn pieces(positions: usize, device: &Device, vocab: usize) -> Vec<Range<usize>> {
    let most = positions_at_once(device, vocab);
    (0..positions).step_by(most).map(|from| from..positions.min(from + most)).collect()
}

/// A device that is not the CPU works for one thread at a time: CUDA orders what one thread asks for, and nothing else.
static DEVICE: Mutex<()> = Mutex::new(());

/// Until it is dropped, no other thread uses the device; `None` for the CPU, which needs no turns.
pub fn turn(device: &Device) -> Option<MutexGuard<'static, ()>> {
    (!device.is_cpu()).then(|| DEVICE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Log-probabilities (positions, V).
pub enum Predictions<'a> {
    /// Dense row-major.
    Host {
        vocab: usize,
        values: Cow<'a, [f32]>,
    },
    Device(Tensor),
    /// What the head makes them of: more than are held at once.
    Head(Head<'a>),
}

/// A network's head, and what it is applied to.
pub struct Head<'a> {
    net: &'a dyn Net,
    params: Params,
    /// The residual stream after the last step (1, positions, D).
    x: Tensor,
}

impl Head<'_> {
    fn logits(&self, range: &Range<usize>) -> Result<Tensor> {
        let x = self.x.narrow(1, range.start, range.len())?.contiguous()?;
        self.net.leave(State { x, kept: Vec::new() }, &self.params, &PlainLayers)
    }
}

impl<'a> Predictions<'a> {
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
        Ok(Predictions::Host { vocab, values: values.into() })
    }

    /// Of what the last step of a network left.
    ///
    /// # Errors
    /// If the head fails.
    pub fn of_state(net: &'a dyn Net, params: &Params, state: State) -> Result<Self> {
        let (rows, length, width) = state.x.dims3()?;
        if rows * length <= positions_at_once(state.x.device(), net.vocab_size()) {
            return Self::of(&net.leave(state, params, &PlainLayers)?);
        }
        let x = state.x.detach().reshape((1, rows * length, width))?;
        Ok(Predictions::Head(Head { net, params: params.clone(), x }))
    }

    /// Number of positions.
    fn positions(&self) -> Result<usize> {
        Ok(match self {
            Predictions::Host { vocab, values } => values.len() / vocab,
            Predictions::Device(values) => values.dim(0)?,
            Predictions::Head(head) => head.x.dim(1)?,
        })
    }

    /// Pieces of the positions, each of no more than are held at once.
    ///
    /// # Errors
    /// If a tensor has no such axes.
    pub fn pieces(&self) -> Result<Vec<Range<usize>>> {
        match self {
            Predictions::Head(head) => Ok(pieces(self.positions()?, head.x.device(), head.net.vocab_size())),
            _ => Ok(std::iter::once(0..self.positions()?).collect()),
        }
    }

    /// Those at some positions, with every probability.
    ///
    /// # Errors
    /// If the head fails.
    pub fn part(&self, range: Range<usize>) -> Result<Predictions<'_>> {
        match self {
            Predictions::Host { vocab, values } => {
                let values = Cow::Borrowed(&values[range.start * vocab..range.end * vocab]);
                Ok(Predictions::Host { vocab: *vocab, values })
            }
            Predictions::Device(values) => Ok(Predictions::Device(values.narrow(0, range.start, range.len())?)),
            Predictions::Head(head) => {
                let _turn = turn(head.x.device());
                Predictions::of(&head.logits(&range)?)
            }
        }
    }

    /// −log p of a target for every position, in nats.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn losses<'t>(&self, targets: impl Iterator<Item = &'t u32>) -> Result<Vec<f32>> {
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
            Predictions::Head(_) => {
                let mut targets = targets;
                let mut all = Vec::with_capacity(self.positions()?);
                for range in self.pieces()? {
                    let some: Vec<&u32> = targets.by_ref().take(range.len()).collect();
                    all.extend(self.part(range)?.losses(some.into_iter())?);
                }
                Ok(all)
            }
        }
    }

    /// KL(these ‖ other) at every position, in nats.
    ///
    /// # Errors
    /// If a tensor operation fails, as it does for predictions on two devices.
    pub fn divergence(&self, other: &Predictions) -> Result<Vec<f32>> {
        match (self, other) {
            (Predictions::Head(_), _) | (_, Predictions::Head(_)) => {
                let pieces = if let Predictions::Head(_) = self { self.pieces()? } else { other.pieces()? };
                let of = |range: Range<usize>| self.part(range.clone())?.divergence(&other.part(range)?);
                Ok(pieces.into_iter().map(of).collect::<Result<Vec<_>>>()?.concat())
            }
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
            Predictions::Head(_) => {
                let of = |range| self.part(range)?.tops();
                Ok(self.pieces()?.into_iter().map(of).collect::<Result<Vec<_>>>()?.concat())
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
