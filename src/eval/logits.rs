//! Predictions for a batch of rows.

use std::ops::Range;

use candle_core::{D, DType, Device, Tensor};

use super::predictions::{Predictions, turn};
use super::windows::Windows;
use crate::error::Result;
use crate::nets::{Net, Params, PlainLayers, State};

/// Rows that one thread evaluates at once on a CPU: activations of a few rows stay in the processor's cache.
const CPU_ROWS: usize = 2;
/// Tokens of a batch on another device, at most: enough to keep it busy.
const DEVICE_TOKENS: usize = 1 << 14;
/// Products of a query and a key in one head of such a batch: a pass keeps some for every layer on its way back.
const DEVICE_SCORES: usize = 1 << 22;

/// Rows of `length` tokens to evaluate at once where these parameters are.
pub fn rows_at_once(params: &Params, length: usize) -> usize {
    if device(params).is_cpu() { CPU_ROWS } else { device_rows(length) }
}

/// Rows of `length` tokens that run at once on a device that is not the CPU.
pub fn device_rows(length: usize) -> usize {
    DEVICE_TOKENS.min(DEVICE_SCORES / length).div_ceil(length)
}

/// Token ids of `rows` as a (rows, T) u32 tensor.
pub fn tokens(windows: &Windows, rows: Range<usize>, device: &Device) -> Result<Tensor> {
    tokens_of(rows.map(|r| windows.input(r)), windows.length(), device)
}

/// Token ids of some inputs of `length` tokens as a (rows, T) u32 tensor.
pub fn tokens_of<'a>(inputs: impl Iterator<Item = &'a [u32]>, length: usize, device: &Device) -> Result<Tensor> {
    let ids: Vec<u32> = inputs.flatten().copied().collect();
    let shape = (ids.len() / length, length);
    Ok(Tensor::from_vec(ids, shape, device)?)
}

/// A network's predictions for one batch of rows, on the device of its parameters.
///
/// # Errors
/// If the forward pass fails.
pub fn predict<'n>(
    net: &'n dyn Net,
    params: &Params,
    windows: &Windows,
    rows: Range<usize>,
) -> Result<Predictions<'n>> {
    predict_inputs(net, params, rows.map(|r| windows.input(r)), windows.length())
}

/// The same for some inputs of `length` tokens.
///
/// # Errors
/// If the forward pass fails.
pub fn predict_inputs<'n, 'a>(
    net: &'n dyn Net,
    params: &Params,
    inputs: impl Iterator<Item = &'a [u32]>,
    length: usize,
) -> Result<Predictions<'n>> {
    let device = device(params);
    let _turn = turn(device);
    Predictions::of_state(net, params, net.run(params, &tokens_of(inputs, length, device)?, &PlainLayers)?)
}

/// The same from what stands before step `position` of the network.
///
/// # Errors
/// If the forward pass fails.
pub fn predict_from<'n>(net: &'n dyn Net, params: &Params, position: usize, state: State) -> Result<Predictions<'n>> {
    let _turn = turn(device(params));
    Predictions::of_state(net, params, net.resume(position, state, params, &PlainLayers)?)
}

/// The residual stream after the last step of a network.
pub struct Residual {
    /// (rows·T, D), dense row-major.
    pub values: Vec<f32>,
    /// Model width D.
    pub width: usize,
}

/// [`predict`] with the residual stream that [`from_residual`] has the predictions from again.
///
/// # Errors
/// If the forward pass fails.
pub fn with_residual<'n>(
    net: &'n dyn Net,
    params: &Params,
    windows: &Windows,
    rows: Range<usize>,
) -> Result<(Predictions<'n>, Residual)> {
    let device = device(params);
    let _turn = turn(device);
    let state = net.run(params, &tokens(windows, rows, device)?, &PlainLayers)?;
    let width = state.x.dim(D::Minus1)?;
    let values = state.x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    Ok((Predictions::of_state(net, params, state)?, Residual { values, width }))
}

/// Predictions from a residual stream of this shape (rows, T, D).
///
/// # Errors
/// If the head fails.
pub fn from_residual<'n>(
    net: &'n dyn Net,
    params: &Params,
    residual: &[f32],
    shape: [usize; 3],
) -> Result<Predictions<'n>> {
    let device = device(params);
    let _turn = turn(device);
    let [rows, length, width] = shape;
    let x = Tensor::from_slice(residual, (rows, length, width), device)?;
    let x = x.to_dtype(params.values().next().map_or(DType::F32, Tensor::dtype))?;
    Predictions::of_state(net, params, State { x, kept: Vec::new() })
}

/// What stands before every step of a network, for one batch of rows, and last what the last step left.
pub fn states(net: &dyn Net, params: &Params, windows: &Windows, rows: Range<usize>) -> Result<Vec<State>> {
    let device = device(params);
    let _turn = turn(device);
    let mut states = vec![net.enter(params, &tokens(windows, rows, device)?, &PlainLayers)?];
    for position in 0..net.order().len() {
        states.push(net.run_position(position, states[position].clone(), params, &PlainLayers)?);
    }
    Ok(states)
}

/// The device on which a network with these parameters runs.
pub fn device(params: &Params) -> &Device {
    params.values().next().map_or(&Device::Cpu, Tensor::device)
}
