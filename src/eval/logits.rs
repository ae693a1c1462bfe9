//! Log-probabilities of a batch of rows.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{D, DType, Device, Tensor};

use super::windows::Windows;
use crate::error::Result;
use crate::nets::ops::pointwise::exp;
use crate::nets::ops::simd::vectorized;
use crate::nets::ops::{sum, top, with_elements};
use crate::nets::{Net, Params, Plain, State};

/// A device that is not the CPU works for one thread at a time: CUDA orders what one thread asks for, and nothing else.
static DEVICE: Mutex<()> = Mutex::new(());

/// Rows that one thread evaluates at once on a CPU: activations of a few rows stay in the processor's cache.
const CPU_ROWS: usize = 2;
/// Tokens of a batch on another device: enough to keep it busy, few enough that several threads share what follows.
const DEVICE_TOKENS: usize = 4096;

/// Rows of `length` tokens to evaluate at once where these parameters are.
pub fn rows_at_once(params: &Params, length: usize) -> usize {
    if device(params).is_cpu() { CPU_ROWS } else { (DEVICE_TOKENS / length).max(CPU_ROWS) }
}

/// Token ids of `rows` as a (rows, T) u32 tensor.
pub fn tokens(windows: &Windows, rows: Range<usize>, device: &Device) -> Result<Tensor> {
    tokens_of(rows.map(|r| windows.input(r)), windows.length(), device)
}

/// Token ids of some inputs of `length` tokens as a (rows, T) u32 tensor.
pub fn tokens_of<'a>(inputs: impl Iterator<Item = &'a [u16]>, length: usize, device: &Device) -> Result<Tensor> {
    let ids: Vec<u32> = inputs.flatten().map(|t| u32::from(*t)).collect();
    let shape = (ids.len() / length, length);
    Ok(Tensor::from_vec(ids, shape, device)?)
}

/// Log-probabilities (rows·T, V), dense row-major, of one batch, computed on the device of the parameters.
pub fn log_probabilities(net: &dyn Net, params: &Params, windows: &Windows, rows: Range<usize>) -> Result<Vec<f32>> {
    let device = device(params);
    normalised(device, net.vocab_size(), || net.logits(params, &tokens(windows, rows, device)?, &Plain))
}

/// The same from what stands before step `step` of the network.
pub fn log_probabilities_from(net: &dyn Net, params: &Params, step: usize, state: State) -> Result<Vec<f32>> {
    normalised(device(params), net.vocab_size(), || net.resume(step, state, params, &Plain))
}

/// What a network predicts for one batch of rows, and what it predicted it from.
pub struct Predicted {
    /// (rows·T, V), dense row-major.
    pub log_probabilities: Vec<f32>,
    /// The residual stream after the last step (rows·T, D), dense row-major.
    pub residual: Vec<f32>,
    /// Model width D.
    pub width: usize,
}

/// [`log_probabilities`] with the residual stream that [`from_residual`] has them from again.
pub fn with_residual(net: &dyn Net, params: &Params, windows: &Windows, rows: Range<usize>) -> Result<Predicted> {
    let device = device(params);
    let (mut residual, mut width) = (Vec::new(), 0);
    let log_probabilities = normalised(device, net.vocab_size(), || {
        let mut state = net.enter(params, &tokens(windows, rows, device)?, &Plain)?;
        for step in 0..net.order().len() {
            state = net.step(step, state, params, &Plain)?;
        }
        width = state.x.dim(D::Minus1)?;
        residual = state.x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        net.leave(state, params, &Plain)
    })?;
    Ok(Predicted { log_probabilities, residual, width })
}

/// The log-probabilities of a residual stream of this shape (rows, T, D).
pub fn from_residual(net: &dyn Net, params: &Params, residual: &[f32], shape: [usize; 3]) -> Result<Vec<f32>> {
    let device = device(params);
    normalised(device, net.vocab_size(), || {
        let [rows, length, width] = shape;
        let x = Tensor::from_slice(residual, (rows, length, width), device)?;
        let x = x.to_dtype(params.values().next().map_or(DType::F32, Tensor::dtype))?;
        net.leave(State { x, kept: Vec::new() }, params, &Plain)
    })
}

/// What stands before every step of a network, for one batch of rows, and last what the last step left.
pub fn states(net: &dyn Net, params: &Params, windows: &Windows, rows: Range<usize>) -> Result<Vec<State>> {
    let device = device(params);
    let _alone = alone(device);
    let mut states = vec![net.enter(params, &tokens(windows, rows, device)?, &Plain)?];
    for step in 0..net.order().len() {
        states.push(net.step(step, states[step].clone(), params, &Plain)?);
    }
    Ok(states)
}

fn device(params: &Params) -> &Device {
    params.values().next().map_or(&Device::Cpu, Tensor::device)
}

fn alone(device: &Device) -> Option<MutexGuard<'static, ()>> {
    (!device.is_cpu()).then(|| DEVICE.lock().unwrap_or_else(PoisonError::into_inner))
}

fn normalised(device: &Device, vocab: usize, forward: impl FnOnce() -> Result<Tensor>) -> Result<Vec<f32>> {
    if !device.is_cpu() {
        let _alone = alone(device);
        return Ok(composed_log_softmax(&forward()?)?.flatten_all()?.to_vec1::<f32>()?);
    }
    let logits = forward()?.to_dtype(DType::F32)?;
    let mut out = with_elements([&logits], |[x]| x.to_vec())?;
    out.chunks_exact_mut(vocab).for_each(log_softmax);
    Ok(out)
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
