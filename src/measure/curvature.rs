//! Kronecker factors of the Fisher information of every stored matrix, by real backward passes.
//!
//! For y = W x with output gradient g, the Fisher information of W is E[(g gᵀ) ⊗ (x xᵀ)], summed over every use of a
//! shared matrix. It is approximated by O ⊗ H with O ∝ E[|x|² g gᵀ] and H ∝ E[|g|² x xᵀ]: one step of the power
//! iteration for the nearest Kronecker product (Van Loan and Pitsianis 1993; YAQA, arXiv:2505.22988, uses the same
//! two-sided form), where K-FAC (arXiv:1503.05671) would drop the weights |x|² and |g|².

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use candle_core::{Tensor, Var};
use rayon::prelude::*;

use super::fisher::{Signs, cotangent, seed};
use crate::error::{Error, Result};
use crate::eval::logits::tokens;
use crate::eval::windows::Windows;
use crate::model::Model;
use crate::nets::ops::linear::{Recorder, linear, linear_transposed};
use crate::nets::ops::product::{add_gram, mirror_upper};
use crate::nets::ops::{dot, with_elements};
use crate::nets::{Form, Layers, Plain};

/// Above this many rows only the diagonal of the output factor is measured: its Gram matrix would cost more than the
/// rest of the backward pass.
pub const FULL_OUTPUT_LIMIT: usize = 1024;

/// Tokens in one backward pass.
const BATCH_TOKENS: usize = 512;

/// Memory that running sums may take, over all lanes.
const LANE_BUDGET: usize = 1 << 30;

/// Curvature of one stored matrix (R, C): a change E costs about ½ Σ (O E H) ∘ E nats per token.
#[derive(Debug, Clone, PartialEq)]
pub struct Factors {
    pub rows: usize,
    pub cols: usize,
    /// H (C, C), scaled so that O ⊗ H is the Fisher information per token.
    pub input: Vec<f32>,
    /// O (R, R), or its diagonal (R) for a matrix with more rows than [`FULL_OUTPUT_LIMIT`].
    pub output: Vec<f32>,
}

impl Factors {
    /// Length of the output factor of a stored matrix; `None` for control tensors.
    pub fn output_len(model: &Model, stored: usize) -> Option<usize> {
        match *model.shape(stored) {
            [rows, _] if model.spec(stored).form != Form::Vector => {
                Some(if rows > FULL_OUTPUT_LIMIT { rows } else { rows * rows })
            }
            _ => None,
        }
    }

    /// Whether nothing depends on the matrix.
    pub fn vanishes(&self) -> bool {
        [&self.input, &self.output].iter().any(|factor| factor.iter().all(|v| *v == 0.0))
    }

    /// Whether `output` is only a diagonal.
    pub fn diagonal_output(&self) -> bool {
        self.output.len() == self.rows && self.rows > 1
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

/// Running sums of one matrix.
struct Sums {
    input: Vec<f32>,
    output: Vec<f32>,
    trace: f64,
}

/// Running sums of every stored tensor over a fixed share of the batches.
///
/// Batches are dealt to lanes in turn and lanes are added in order, so the sums do not depend on the number of threads.
struct Lane {
    matrices: Vec<Option<Arc<Slot>>>,
    vectors: Vec<Vec<f64>>,
}

struct Slot {
    rows: usize,
    cols: usize,
    sums: Mutex<Sums>,
}

impl Slot {
    fn new(rows: usize, cols: usize) -> Self {
        let output = if rows > FULL_OUTPUT_LIMIT { rows } else { rows * rows };
        let sums = Sums { input: vec![0.0; cols * cols], output: vec![0.0; output], trace: 0.0 };
        Slot { rows, cols, sums: Mutex::new(sums) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Sums> {
        self.sums.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn scaled_rows(data: &[f32], width: usize, scale: &[f32]) -> Vec<f32> {
    let mut out = Vec::with_capacity(data.len());
    for (row, s) in data.chunks_exact(width).zip(scale) {
        out.extend(row.iter().map(|v| v * s));
    }
    out
}

fn norms(data: &[f32], width: usize) -> Vec<f32> {
    data.chunks_exact(width).map(|row| dot(row, row).sqrt()).collect()
}

impl Recorder for Slot {
    fn record(&self, x: &[f32], g: &[f32]) {
        let (xn, gn) = (norms(x, self.cols), norms(g, self.rows));
        let xs = scaled_rows(x, self.cols, &gn);
        let gs = scaled_rows(g, self.rows, &xn);
        let mut sums = self.lock();
        add_gram(&mut sums.input, &xs, self.cols);
        if sums.output.len() == self.rows {
            for row in gs.chunks_exact(self.rows) {
                sums.output.iter_mut().zip(row).for_each(|(s, v)| *s += v * v);
            }
        } else {
            add_gram(&mut sums.output, &gs, self.rows);
        }
        sums.trace += xn.iter().zip(&gn).map(|(x, g)| f64::from(x * x * g * g)).sum::<f64>();
    }
}

impl Slot {
    /// The embedding as an input table: row `token` moves with gradient g, so x = g and the output side is one row.
    fn record_lookup(&self, ids: &[u32], g: &[f32]) {
        let mut sums = self.lock();
        add_gram(&mut sums.input, g, self.cols);
        let diagonal = sums.output.len() == self.rows;
        for (id, row) in ids.iter().zip(g.chunks_exact(self.cols)) {
            let energy = dot(row, row);
            let id = *id as usize;
            sums.output[if diagonal { id } else { id * (self.rows + 1) }] += energy;
            sums.trace += f64::from(energy);
        }
    }
}

/// Applies matrices and remembers what is needed for their curvature.
struct Tap<'a> {
    lane: &'a Lane,
    stored: &'a HashMap<&'a str, usize>,
    /// Every lookup in a table: the stored table, what was looked up, the ids.
    lookups: Mutex<Vec<(usize, Var, Tensor)>>,
}

impl Tap<'_> {
    fn slot(&self, name: &str) -> Result<(usize, &Arc<Slot>)> {
        let found = self.stored.get(name).and_then(|i| Some((*i, self.lane.matrices[*i].as_ref()?)));
        found.ok_or_else(|| Error::compute(format!("{name} is not a stored matrix")))
    }
}

impl Layers for Tap<'_> {
    fn linear(&self, name: &str, x: &Tensor, w: &Tensor) -> Result<Tensor> {
        let (_, slot) = self.slot(name)?;
        Ok(linear(x, w, Some(slot.clone() as Arc<dyn Recorder>))?)
    }

    fn linear_transposed(&self, name: &str, x: &Tensor, w: &Tensor) -> Result<Tensor> {
        let (_, slot) = self.slot(name)?;
        Ok(linear_transposed(x, w, Some(slot.clone() as Arc<dyn Recorder>))?)
    }

    fn embed(&self, name: &str, table: &Tensor, tokens: &Tensor) -> Result<Tensor> {
        let looked_up = Var::from_tensor(&Plain.embed(name, table, tokens)?)?;
        let out = looked_up.as_tensor().clone();
        let (stored, _) = self.slot(name)?;
        let mut lookups = self.lookups.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        lookups.push((stored, looked_up, tokens.clone()));
        Ok(out)
    }
}

/// Measures the curvature of every stored tensor of `model` on the rows of `windows`.
///
/// `progress` is called with the rows done since the last call.
///
/// # Errors
/// If there is no calibration row, or a pass fails.
pub fn measure(
    model: &Model,
    windows: &Windows,
    random: u64,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Vec<Curvature>> {
    if windows.rows() == 0 {
        return Err(Error::input("the calibration shard is shorter than one row"));
    }
    let stored: HashMap<&str, usize> =
        model.specs.iter().zip(&model.source).map(|(s, i)| (s.name.as_str(), *i)).collect();
    let batches = windows.batches((BATCH_TOKENS / windows.length()).max(1));
    let lane_bytes: usize = (0..model.stored.len()).map(|i| sums_bytes(model, i)).sum();
    // A power of two divides evenly among the usual numbers of threads.
    let lanes = 1 << (LANE_BUDGET / lane_bytes.max(1)).clamp(1, 8).min(batches.len()).ilog2();
    let params = model.params()?;
    let mut done: Vec<Lane> = (0..lanes)
        .into_par_iter()
        .map(|l| {
            let mut lane = Lane::new(model);
            // Control tensors are variables, so that their gradients are kept.
            let mut params = params.clone();
            let mut vars = Vec::new();
            for (spec, i) in model.specs.iter().zip(&model.source) {
                if spec.form == Form::Vector {
                    let var = Var::from_tensor(&params[&spec.name])?;
                    params.insert(spec.name.clone(), var.as_tensor().clone());
                    vars.push((*i, var));
                }
            }
            for (b, rows) in batches.iter().enumerate().skip(l).step_by(lanes) {
                let mut signs = Signs::new(random ^ (b as u64).wrapping_mul(0xD6E8_FEB8_6659_FD93));
                let ids = tokens(windows, rows.clone())?;
                let tap = Tap { lane: &lane, stored: &stored, lookups: Mutex::new(Vec::new()) };
                let logits = model.network()?.logits(&params, &ids, &tap)?;
                let grads = seed(&logits, cotangent(&logits, &mut signs)?)?.backward()?;
                let lookups = tap.lookups.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
                for (i, var, ids) in lookups {
                    if let (Some(g), Some(slot)) = (grads.get(&var), &lane.matrices[i]) {
                        let (g, ids) = (g.contiguous()?, ids.flatten_all()?.to_vec1::<u32>()?);
                        with_elements([&g], |[g]| slot.record_lookup(&ids, g))?;
                    }
                }
                for (i, var) in &vars {
                    if let Some(g) = grads.get(var) {
                        let g = g.contiguous()?;
                        with_elements([&g], |[g]| {
                            // Gradients of different tokens are uncorrelated, so the square of their sum has the
                            // expectation of the sum of their squares.
                            lane.vectors[*i].iter_mut().zip(g).for_each(|(s, g)| *s += f64::from(g * g));
                        })?;
                    }
                }
                progress(rows.len() as u64);
            }
            Ok(lane)
        })
        .collect::<Result<_>>()?;
    let mut total = done.remove(0);
    for lane in done {
        total.add(lane);
    }
    total.finish(model, windows.tokens())
}

fn sums_bytes(model: &Model, stored: usize) -> usize {
    match (Factors::output_len(model, stored), model.shape(stored)) {
        (Some(output), &[_, cols]) => 4 * (cols * cols + output),
        _ => 8 * model.stored[stored].data.len(),
    }
}

impl Lane {
    fn new(model: &Model) -> Self {
        let matrix = |i: usize| match (model.spec(i).form, model.shape(i)) {
            (Form::Vector, _) => None,
            (_, &[rows, cols]) => Some(Arc::new(Slot::new(rows, cols))),
            _ => None,
        };
        let stored = 0..model.stored.len();
        Lane {
            matrices: stored.clone().map(matrix).collect(),
            vectors: stored
                .map(|i| {
                    if model.spec(i).form == Form::Vector { vec![0.0; model.stored[i].data.len()] } else { Vec::new() }
                })
                .collect(),
        }
    }

    fn add(&mut self, other: Lane) {
        for (a, b) in self.matrices.iter().zip(&other.matrices) {
            if let (Some(a), Some(b)) = (a, b) {
                let (mut a, b) = (a.lock(), b.lock());
                let a = &mut *a;
                a.input.iter_mut().zip(&b.input).for_each(|(a, b)| *a += b);
                a.output.iter_mut().zip(&b.output).for_each(|(a, b)| *a += b);
                a.trace += b.trace;
            }
        }
        for (a, b) in self.vectors.iter_mut().zip(&other.vectors) {
            a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        }
    }

    /// Scales the sums over `tokens` so that O ⊗ H is the Fisher information per token.
    fn finish(self, model: &Model, tokens: usize) -> Result<Vec<Curvature>> {
        let mut out = Vec::with_capacity(self.vectors.len());
        for (i, (slot, vector)) in self.matrices.into_iter().zip(self.vectors).enumerate() {
            let Some(slot) = slot else {
                out.push(Curvature::Vector(vector.iter().map(|v| (v / tokens as f64) as f32).collect()));
                continue;
            };
            let (rows, cols) = (slot.rows, slot.cols);
            let mut sums = slot.lock();
            let (mut input, mut output) = (std::mem::take(&mut sums.input), std::mem::take(&mut sums.output));
            if !sums.trace.is_finite() {
                return Err(Error::compute(format!(
                    "the curvature of {} came out as {}: its gradient overflows on the calibration tokens",
                    model.spec(i).name,
                    sums.trace
                )));
            }
            // A matrix that no gradient reaches keeps factors of zeros.
            let root = sums.trace.sqrt().max(f64::from(f32::MIN_POSITIVE));
            let (in_scale, out_scale) = ((1.0 / root) as f32, (1.0 / (root * tokens as f64)) as f32);
            mirror_upper(&mut input, cols);
            if output.len() != rows {
                mirror_upper(&mut output, rows);
            }
            input.iter_mut().for_each(|v| *v *= in_scale);
            output.iter_mut().for_each(|v| *v *= out_scale);
            out.push(Curvature::Matrix(Factors { rows, cols, input, output }));
        }
        Ok(out)
    }
}
