//! A backward pass that holds the logits of no more than a piece of the positions.
//!
//! The head works on every position by itself: its pieces are run forward and backward one after the other, and what they say
//! of the residual stream goes back through the network as one.

use std::ops::Range;

use candle_core::backprop::GradStore;
use candle_core::{D, Tensor, Var};

use super::fisher::seed;
use crate::error::{Error, Result};
use crate::eval::predictions::{pieces, positions_at_once};
use crate::nets::{Layers, Net, Params, State};

/// The gradient at some logits (positions, V), which are those of these positions.
pub type Cotangent<'a> = &'a mut dyn FnMut(&Tensor, Range<usize>) -> Result<Tensor>;

/// Gradients for `vars` of what `cotangent` is the gradient of, from what the last step of a network left.
///
/// # Errors
/// If a pass fails.
pub fn backward(
    (net, params): (&dyn Net, &Params),
    state: State,
    layers: &dyn Layers,
    vars: &[&Var],
    cotangent: Cotangent,
) -> Result<Vec<Option<Tensor>>> {
    let (rows, length, width) = state.x.dims3()?;
    let (positions, device, vocab) = (rows * length, state.x.device().clone(), net.vocab_size());
    let mut start = |logits: Tensor, range: Range<usize>| -> Result<GradStore> {
        let logits = logits.flatten_to(D::Minus2)?;
        let cotangent = cotangent(&logits, range)?;
        Ok(seed(&logits, cotangent)?.backward()?)
    };
    if positions <= positions_at_once(&device, vocab) {
        let grads = start(net.leave(state, params, layers)?, 0..positions)?;
        return Ok(vars.iter().map(|var| grads.get(var).cloned()).collect());
    }
    let mut sums: Vec<Option<Tensor>> = vec![None; vars.len()];
    let mut add = |grads: &GradStore| -> Result<()> {
        for (var, sum) in vars.iter().zip(&mut sums) {
            if let Some(g) = grads.get(var) {
                *sum = Some(match sum.take() {
                    Some(sum) => (sum + g)?,
                    None => g.clone(),
                });
            }
        }
        Ok(())
    };
    let stream = state.x.detach().reshape((1, positions, width))?;
    let mut back = Vec::new();
    for range in pieces(positions, &device, vocab) {
        let x = Var::from_tensor(&stream.narrow(1, range.start, range.len())?.contiguous()?)?;
        let piece = State { x: x.as_tensor().clone(), kept: Vec::new() };
        let grads = start(net.leave(piece, params, layers)?, range)?;
        back.push(grads.get(&x).cloned().ok_or_else(|| Error::compute("the head has no gradient"))?);
        add(&grads)?;
    }
    let back = Tensor::cat(&back, 1)?.reshape(state.x.shape())?;
    add(&seed(&state.x, back)?.backward()?)?;
    Ok(sums)
}
