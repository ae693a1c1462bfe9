//! The gradient of an objective for every stored tensor, over a batch of rows.

use candle_core::{Device, Tensor, Var};
use rayon::prelude::*;

use super::objective::{Objective, Totals};
use crate::error::Result;
use crate::eval::logits::{log_probabilities, tokens};
use crate::eval::windows::Windows;
use crate::measure::fisher::seed;
use crate::model::Model;
use crate::nets::ops::simd::vectorized;
use crate::nets::ops::{fusible, with_elements};
use crate::nets::{Params, Plain};

/// Pieces of a batch that run side by side. Fixed, so that sums do not depend on the number of threads.
pub const LANES: usize = 4;

/// A batch: pieces of some rows each, run one by one.
pub type Batch<'a> = Vec<Windows<'a>>;

/// Sums and gradients of a batch.
pub struct Gradient {
    pub totals: Totals,
    /// The gradient of the objective's mean over positions, by stored tensor, row-major.
    pub tensors: Vec<Vec<f32>>,
}

/// Runs `model`'s network with `weights` (one vector per stored tensor) forward and backward over `batch`.
///
/// A tensor that several names share gets the sum over all its uses. `teacher` holds the parameters that the objective
/// distils from.
///
/// # Errors
/// If a pass fails.
pub fn gradient(
    model: &Model,
    weights: &[Vec<f32>],
    teacher: Option<&Params>,
    batch: &Batch,
    objective: Objective,
) -> Result<Gradient> {
    let device = model.device();
    let mut vars = Vec::with_capacity(weights.len());
    for (i, data) in weights.iter().enumerate() {
        vars.push(Var::from_tensor(&Tensor::from_slice(data, model.shape(i), device)?)?);
    }
    let named = model.specs.iter().zip(&model.source);
    let params: Params = named.map(|(spec, i)| (spec.name.clone(), vars[*i].as_tensor().clone())).collect();
    let pass = Pass { model, params: &params, vars: &vars, teacher, objective };
    let lane = |l: usize| {
        let mut sums =
            Gradient { totals: Totals::default(), tensors: weights.iter().map(|w| vec![0.0; w.len()]).collect() };
        batch.iter().skip(l).step_by(LANES).try_for_each(|piece| pass.add(&mut sums, piece, device))?;
        Ok(sums)
    };
    let lanes = LANES.min(batch.len());
    let done: Vec<Gradient> = match device.is_cpu() {
        true => (0..lanes).into_par_iter().map(lane).collect::<Result<_>>()?,
        false => (0..lanes).map(lane).collect::<Result<_>>()?,
    };
    let mut totals = Totals::default();
    done.iter().for_each(|lane| totals.add(lane.totals));
    let scale = 1.0 / totals.positions.max(1) as f32;
    let mut done: Vec<_> = done.into_iter().map(|lane| lane.tensors.into_iter()).collect();
    let of_tensor: Vec<Vec<Vec<f32>>> =
        weights.iter().map(|_| done.iter_mut().filter_map(Iterator::next).collect()).collect();
    let sum = |lanes: Vec<Vec<f32>>| {
        let mut lanes = lanes.into_iter();
        let mut total = lanes.next().unwrap_or_default();
        for lane in lanes {
            add(&mut total, &lane);
        }
        total.iter_mut().for_each(|v| *v *= scale);
        total
    };
    Ok(Gradient { totals, tensors: of_tensor.into_par_iter().map(sum).collect() })
}

fn add(sum: &mut [f32], more: &[f32]) {
    vectorized(
        #[inline(always)]
        || sum.iter_mut().zip(more).for_each(|(s, g)| *s += g),
    );
}

/// What all pieces of a batch have in common.
struct Pass<'a> {
    model: &'a Model,
    params: &'a Params,
    vars: &'a [Var],
    teacher: Option<&'a Params>,
    objective: Objective,
}

impl Pass<'_> {
    fn add(&self, sums: &mut Gradient, piece: &Windows, device: &Device) -> Result<()> {
        let net = self.model.network()?;
        let rows = 0..piece.rows();
        let targets: Vec<u16> = rows.clone().flat_map(|r| piece.target(r).iter().copied()).collect();
        let teacher = match self.teacher {
            Some(params) if self.objective.teaches() => Some(log_probabilities(net, params, piece, rows.clone())?),
            _ => None,
        };
        let logits = net.logits(self.params, &tokens(piece, rows, device)?, &Plain)?;
        let (totals, cotangent) = self.objective.gradient(&logits, teacher.as_deref(), &targets)?;
        sums.totals.add(totals);
        let grads = seed(&logits, cotangent)?.backward()?;
        for (var, sum) in self.vars.iter().zip(&mut sums.tensors) {
            if let Some(g) = grads.get(var) {
                match fusible(g) {
                    true => with_elements([&g.contiguous()?], |[g]| add(sum, g))?,
                    false => add(sum, &g.flatten_all()?.to_vec1::<f32>()?),
                }
            }
        }
        Ok(())
    }
}
