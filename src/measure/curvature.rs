//! Kronecker factors of the Fisher information of every stored matrix, by real backward passes.
//!
//! For y = W x with output gradient g, the Fisher information of W is E[(g gᵀ) ⊗ (x xᵀ)], summed over every use of a
//! shared matrix. It is approximated by O ⊗ H with O ∝ E[|x|² g gᵀ] and H ∝ E[|g|² x xᵀ]: one step of the power
//! iteration for the nearest Kronecker product (Van Loan and Pitsianis 1993; YAQA, arXiv:2505.22988, uses the same
//! two-sided form), where K-FAC (arXiv:1503.05671) would drop the weights |x|² and |g|².

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{D, DType, Tensor, Var};
use rayon::prelude::*;

use super::backward::backward;
use super::fisher::{cotangent, temperature};
use super::sums::{Sums, output_block};
use crate::error::{Error, Result};
use crate::eval::logits::{device_rows, tokens};
use crate::eval::predictions::positions_at_once;
use crate::eval::windows::Windows;
use crate::model::Model;
use crate::nets::ops::linear::{Recorder, linear, linear_transposed};
use crate::nets::{Form, Layers, Params, PlainLayers, State};
use crate::random::Random;

/// Tokens in one backward pass on a CPU.
const BATCH_TOKENS: usize = 512;
/// The same on another device, which fewer would not keep busy; more would leave few gradients of control tensors to learn from.
const DEVICE_BATCH_TOKENS: usize = 4096;

/// Memory that running sums may take, over all lanes.
const LANE_BUDGET: usize = 1 << 30;

/// Curvature of one stored matrix (R, C): a change E costs about ½ Σ (O E H) ∘ E nats per token.
#[derive(Debug, Clone, PartialEq)]
pub struct Factors {
    pub rows: usize,
    pub cols: usize,
    /// H (C, C), scaled so that O ⊗ H is the Fisher information per token.
    pub input: Vec<f32>,
    /// Diagonal blocks of O, B rows each and the last one maybe fewer, one below the other (R, B): element (i, j) of O is at
    /// (i, j mod B) where i and j are of one block, and counts 0 elsewhere. B = R: all of O; B = 1: its diagonal.
    pub output: Vec<f32>,
}

impl Factors {
    /// Whether nothing depends on the matrix.
    pub fn vanishes(&self) -> bool {
        [&self.input, &self.output].iter().any(|factor| factor.iter().all(|v| *v == 0.0))
    }
}

/// Curvature of one stored tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum Curvature {
    Matrix(Factors),
    /// Fisher information per token of every element of a control tensor.
    Vector(Vec<f32>),
    /// Nobody measured it.
    Unknown,
}

/// Running sums of every stored tensor over a fixed share of the batches.
///
/// Batches are dealt to lanes in turn and lanes are added in order, so the sums do not depend on the number of threads.
struct Lane {
    matrices: Vec<Option<Arc<Sums>>>,
    vectors: Vec<Vec<f64>>,
}

/// Applies matrices and remembers what is needed for their curvature.
struct Tap<'a> {
    lane: &'a Lane,
    stored: &'a HashMap<&'a str, usize>,
    /// Every lookup in a table: the stored table, what was looked up, the ids.
    lookups: Mutex<Vec<(usize, Var, Tensor)>>,
}

impl Tap<'_> {
    fn sums(&self, name: &str) -> Result<(usize, &Arc<Sums>)> {
        let found = self.stored.get(name).and_then(|i| Some((*i, self.lane.matrices[*i].as_ref()?)));
        found.ok_or_else(|| Error::compute(format!("{name} is not a stored matrix")))
    }
}

impl Layers for Tap<'_> {
    fn linear(&self, name: &str, x: &Tensor, w: &Tensor) -> Result<Tensor> {
        let (_, sums) = self.sums(name)?;
        Ok(linear(x, w, Some(sums.clone() as Arc<dyn Recorder>))?)
    }

    fn linear_transposed(&self, name: &str, x: &Tensor, w: &Tensor) -> Result<Tensor> {
        let (_, sums) = self.sums(name)?;
        Ok(linear_transposed(x, w, Some(sums.clone() as Arc<dyn Recorder>))?)
    }

    fn embed(&self, name: &str, table: &Tensor, tokens: &Tensor) -> Result<Tensor> {
        let looked_up = Var::from_tensor(&PlainLayers.embed(name, table, tokens)?)?;
        let out = looked_up.as_tensor().clone();
        let (stored, _) = self.sums(name)?;
        let mut lookups = self.lookups.lock().unwrap_or_else(PoisonError::into_inner);
        lookups.push((stored, looked_up, tokens.clone()));
        Ok(out)
    }
}

/// One measurement: what all lanes share.
struct Measurement<'a> {
    model: &'a Model,
    windows: &'a Windows<'a>,
    params: Params,
    stored: HashMap<&'a str, usize>,
    temperature: f32,
}

/// The result of [`measure`].
pub struct Measured {
    /// For every stored tensor.
    pub curvature: Vec<Curvature>,
    /// Of the predictions whose KL this is the curvature of; above 1 where the model is so certain that its own KL has none.
    pub temperature: f32,
}

/// Measures the curvature of every stored tensor of `model` on the rows of `windows`, on the device of the model.
///
/// `progress` is called with the rows done since the last call; an error of its own ends the measurement.
///
/// # Errors
/// If there is no calibration row, or a pass fails; those of `progress`.
pub fn measure(
    model: &Model,
    windows: &Windows,
    random: u64,
    progress: &(dyn Fn(u64) -> Result<()> + Sync),
) -> Result<Measured> {
    if windows.rows() == 0 {
        return Err(Error::input("the calibration shard is shorter than one row"));
    }
    let stored = model.specs.iter().zip(&model.source).map(|(s, i)| (s.name.as_str(), *i)).collect();
    let mut measurement = Measurement { model, windows, params: model.params()?, stored, temperature: 1.0 };
    let length = windows.length();
    let batches = windows.batches(match model.device().is_cpu() {
        true => (BATCH_TOKENS / length).max(1),
        false => (DEVICE_BATCH_TOKENS / length).clamp(1, device_rows(length)),
    });
    measurement.temperature = measurement.uncertain(batches[0].clone())?;
    let measurement = measurement;
    let lane_bytes: usize = (0..model.stored.len()).map(|i| sums_bytes(model, i)).sum();
    // A power of two divides evenly among the usual numbers of threads.
    let lanes = 1 << (LANE_BUDGET / lane_bytes.max(1)).clamp(1, 8).min(batches.len()).ilog2();
    let lane = |l: usize| {
        let mut lane = Lane::new(model);
        let (params, vars) = measurement.variables()?;
        for (b, rows) in batches.iter().enumerate().skip(l).step_by(lanes) {
            let mut signs = Random::new(random ^ (b as u64).wrapping_mul(0xD6E8_FEB8_6659_FD93));
            measurement.batch(&mut lane, &params, &vars, rows.clone(), &mut signs)?;
            progress(rows.len() as u64)?;
        }
        Ok(lane)
    };
    let done: Result<Vec<Lane>> = match model.device().is_cpu() {
        true => (0..lanes).into_par_iter().map(lane).collect(),
        // A GPU runs one pass after the other anyway.
        false => (0..lanes).map(lane).collect(),
    };
    let tokens = batches.first().map_or(0, |rows| rows.len() * windows.length());
    let mut done = done.map_err(|e| model.full(e, lanes * lane_bytes, tokens))?;
    let mut total = done.remove(0);
    for lane in done {
        total.add(lane)?;
    }
    let temperature = measurement.temperature;
    Ok(Measured { curvature: total.finish(model, windows.tokens())?, temperature })
}

impl Measurement<'_> {
    /// The parameters with control tensors as variables, so that their gradients are kept, by stored index.
    fn variables(&self) -> Result<(Params, Vec<(usize, Var)>)> {
        let mut params = self.params.clone();
        let mut vars = Vec::new();
        for (spec, i) in self.model.specs.iter().zip(&self.model.source) {
            if !spec.is_matrix() {
                let var = Var::from_tensor(&params[&spec.name])?;
                params.insert(spec.name.clone(), var.as_tensor().clone());
                vars.push((*i, var));
            }
        }
        Ok((params, vars))
    }

    /// The temperature at which predictions of some rows are uncertain.
    fn uncertain(&self, rows: Range<usize>) -> Result<f32> {
        let ids = tokens(self.windows, rows, self.model.device())?;
        let net = self.model.network()?;
        let State { x, .. } = net.run(&self.params, &ids, &PlainLayers)?;
        let (rows, length, width) = x.dims3()?;
        let some = (rows * length).min(positions_at_once(x.device(), net.vocab_size()));
        let x = x.reshape((1, rows * length, width))?.narrow(1, 0, some)?.contiguous()?;
        Ok(temperature(&net.leave(State { x, kept: Vec::new() }, &self.params, &PlainLayers)?)?)
    }

    /// One forward and one backward pass.
    fn batch(
        &self,
        lane: &mut Lane,
        params: &Params,
        vars: &[(usize, Var)],
        rows: Range<usize>,
        signs: &mut Random,
    ) -> Result<()> {
        let ids = tokens(self.windows, rows, self.model.device())?;
        let tap = Tap { lane, stored: &self.stored, lookups: Mutex::new(Vec::new()) };
        let net = self.model.network()?;
        let state = net.run(params, &ids, &tap)?;
        let lookups = std::mem::take(&mut *tap.lookups.lock().unwrap_or_else(PoisonError::into_inner));
        let wanted: Vec<&Var> = lookups.iter().map(|(_, var, _)| var).chain(vars.iter().map(|(_, var)| var)).collect();
        let of = &mut |logits: &Tensor, _: Range<usize>| Ok(cotangent(logits, self.temperature, signs)?);
        let mut grads = backward((net, params), state, &tap, &wanted, of)?;
        let of_vars = grads.split_off(lookups.len());
        for ((i, var, ids), g) in lookups.iter().zip(&grads) {
            if let (Some(g), Some(sums)) = (g, &lane.matrices[*i]) {
                let g = without_zeros(var, g)?;
                sums.record_lookup(&ids.flatten_all()?.to_vec1::<u32>()?, &g.contiguous()?)?;
            }
        }
        let (mut of, mut gradients) = (Vec::new(), Vec::new());
        for ((i, _), g) in vars.iter().zip(&of_vars) {
            if let Some(g) = g {
                of.push(*i);
                gradients.push(g.to_dtype(DType::F32)?.flatten_all()?);
            }
        }
        if gradients.is_empty() {
            return Ok(());
        }
        // Read as one: a device waits at every reading.
        let gradients = Tensor::cat(&gradients, 0)?.to_vec1::<f32>()?;
        let mut rest = &gradients[..];
        for i in of {
            let (g, after) = rest.split_at(lane.vectors[i].len());
            // Gradients of different tokens are uncorrelated, so the square of their sum has the expectation of
            // the sum of their squares.
            lane.vectors[i].iter_mut().zip(g).for_each(|(s, g)| *s += f64::from(g * g));
            rest = after;
        }
        Ok(())
    }
}

/// The gradient g of looked-up rows x, both (…, C), without that of rows of zeros. A norm divides by the root of its ε there: no
/// second-order model holds at such a point, and one such row would outweigh all others.
fn without_zeros(x: &Tensor, g: &Tensor) -> candle_core::Result<Tensor> {
    let kept = x.abs()?.max_keepdim(D::Minus1)?.gt(0f64)?;
    kept.broadcast_as(g.shape())?.where_cond(g, &g.zeros_like()?)
}

fn sums_bytes(model: &Model, stored: usize) -> usize {
    match (model.spec(stored).form, model.shape(stored)) {
        (Form::Matrix | Form::Embedding, &[rows, cols]) => {
            4 * (cols * cols + rows * output_block(model.spec(stored).form, rows))
        }
        _ => 8 * model.stored[stored].data.len(),
    }
}

impl Lane {
    fn new(model: &Model) -> Self {
        let fused = model.device().is_cpu() && model.precision() == DType::F32;
        let matrix = |i: usize| match (model.spec(i).form, model.shape(i)) {
            (Form::Vector, _) => None,
            (form, &[rows, cols]) => Some(Arc::new(Sums::new(rows, cols, output_block(form, rows), fused))),
            _ => None,
        };
        let stored = 0..model.stored.len();
        Lane {
            matrices: stored.clone().map(matrix).collect(),
            vectors: stored
                .map(|i| if !model.is_matrix(i) { vec![0.0; model.stored[i].data.len()] } else { Vec::new() })
                .collect(),
        }
    }

    fn add(&mut self, other: Lane) -> Result<()> {
        for (a, b) in self.matrices.iter().zip(&other.matrices) {
            if let (Some(a), Some(b)) = (a, b) {
                a.merge(b)?;
            }
        }
        for (a, b) in self.vectors.iter_mut().zip(&other.vectors) {
            a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        }
        Ok(())
    }

    /// Scales the sums over `tokens` so that O ⊗ H is the Fisher information per token.
    fn finish(self, model: &Model, tokens: usize) -> Result<Vec<Curvature>> {
        let mut out = Vec::with_capacity(self.vectors.len());
        for (i, (sums, vector)) in self.matrices.into_iter().zip(self.vectors).enumerate() {
            let (Some(sums), &[rows, cols]) = (sums, model.shape(i)) else {
                out.push(Curvature::Vector(vector.iter().map(|v| (v / tokens as f64) as f32).collect()));
                continue;
            };
            let (mut input, mut output) = sums.take()?;
            // Both sums have the trace Σ |x|² |g|².
            let trace: f64 = input.iter().step_by(cols + 1).map(|v| f64::from(*v)).sum();
            if !trace.is_finite() {
                return Err(Error::compute(format!(
                    "the curvature of {} came out as {trace}: its gradient overflows on the calibration tokens",
                    model.spec(i).name,
                )));
            }
            // A matrix that no gradient reaches keeps factors of zeros.
            let root = trace.sqrt().max(f64::from(f32::MIN_POSITIVE));
            let (in_scale, out_scale) = ((1.0 / root) as f32, (1.0 / (root * tokens as f64)) as f32);
            input.iter_mut().for_each(|v| *v *= in_scale);
            output.iter_mut().for_each(|v| *v *= out_scale);
            out.push(Curvature::Matrix(Factors { rows, cols, input, output }));
        }
        Ok(out)
    }
}
