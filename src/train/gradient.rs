//! The gradient of an objective for every stored tensor, over a batch of rows.

use std::ops::Range;

use candle_core::{Device, Tensor, Var};
use rayon::prelude::*;

use super::joined::{Joined, join};
use super::objective::{Objective, Totals};
use super::teacher::Teacher;
use crate::error::Result;
use crate::eval::predictions::positions_at_once;
use crate::eval::windows::Windows;
use crate::measure::backward::backward;
use crate::model::Model;
use crate::nets::ops::simd::vectorized;
use crate::nets::ops::with_elements;
use crate::nets::{Params, PlainLayers};

/// Pieces of a batch that run side by side. Fixed, so that sums do not depend on the number of threads.
pub const LANES: usize = 4;

/// A batch: pieces of some rows each, run one by one.
pub type Batch<'a> = Vec<Windows<'a>>;

/// Logits of a piece of so many positions that a pass holds at once.
pub fn logits_at_once(device: &Device, positions: usize, vocab: usize) -> usize {
    positions.min(positions_at_once(device, vocab)) * vocab
}

/// Sums and gradients of a batch.
pub struct Gradient {
    pub totals: Totals,
    /// The gradient of the objective's mean over positions, by stored tensor, row-major.
    pub tensors: Vec<Vec<f32>>,
}

/// Runs `model`'s network with `weights` (one vector per stored tensor) forward and backward over `batch`.
///
/// A tensor that several names share gets the sum over all its uses. `teacher` is what the objective distils from.
///
/// # Errors
/// If a pass fails.
pub fn gradient(
    model: &Model,
    weights: &[Vec<f32>],
    teacher: Option<&Teacher>,
    batch: &Batch,
    objective: Objective,
) -> Result<Gradient> {
    let (vars, params) = variables(model, weights)?;
    let pass = Pass { model, params: &params, vars: &vars, teacher, objective };
    let batch = join(batch, model.device())?;
    if !model.device().is_cpu() {
        return pass.composed(&batch);
    }
    let lane = |l: usize| {
        let mut sums =
            Gradient { totals: Totals::default(), tensors: weights.iter().map(|w| vec![0.0; w.len()]).collect() };
        batch.iter().skip(l).step_by(LANES).try_for_each(|piece| pass.add(&mut sums, piece))?;
        Ok(sums)
    };
    let done: Vec<Gradient> = (0..LANES.min(batch.len())).into_par_iter().map(lane).collect::<Result<_>>()?;
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

/// Weights as variables on the device of the model, by stored tensor and by name.
fn variables(model: &Model, weights: &[Vec<f32>]) -> Result<(Vec<Var>, Params)> {
    let var = |(i, data): (usize, &Vec<f32>)| -> Result<Var> {
        Ok(Var::from_tensor(&Tensor::from_slice(data, model.shape(i), model.device())?)?)
    };
    let vars = weights.iter().enumerate().map(var).collect::<Result<Vec<_>>>()?;
    let named = model.specs.iter().zip(&model.source);
    let params = named.map(|(spec, i)| (spec.name.clone(), vars[*i].as_tensor().clone())).collect();
    Ok((vars, params))
}

fn add(sum: &mut [f32], more: &[f32]) {
    vectorized(
        #[inline(always)]
        || sum.iter_mut().zip(more).for_each(|(s, g)| *s += g),
    );
}

/// The inputs that all pieces of a batch share.
struct Pass<'a> {
    model: &'a Model,
    params: &'a Params,
    vars: &'a [Var],
    teacher: Option<&'a Teacher<'a>>,
    objective: Objective,
}

impl Pass<'_> {
    /// Totals of one piece, and its gradients by variable.
    fn run(&self, piece: &Joined) -> Result<(Totals, Vec<Option<Tensor>>)> {
        let net = self.model.network()?;
        let teacher = self.teacher.filter(|_| self.objective.teaches());
        let teacher = teacher.map(|teacher| teacher.predict(piece)).transpose()?;
        let mut totals = Totals::default();
        let cotangent = &mut |logits: &Tensor, range: Range<usize>| {
            let teacher = teacher.as_ref().map(|teacher| teacher.part(range.clone())).transpose()?;
            let (found, cotangent) = self.objective.gradient(logits, teacher.as_ref(), &piece.targets[range])?;
            totals.add(found);
            Ok(cotangent)
        };
        let state = net.run(self.params, &piece.ids, &PlainLayers)?;
        let vars: Vec<&Var> = self.vars.iter().collect();
        let grads = backward((net, self.params), state, &PlainLayers, &vars, cotangent)?;
        Ok((totals, grads))
    }

    /// A batch where the model is: sums stay there until the end.
    fn composed(&self, batch: &[Joined]) -> Result<Gradient> {
        let (mut totals, mut sums) = (Totals::default(), vec![None::<Tensor>; self.vars.len()]);
        for piece in batch {
            let (found, grads) = self.run(piece)?;
            totals.add(found);
            for (g, sum) in grads.into_iter().zip(&mut sums) {
                *sum = match (sum.take(), g) {
                    (Some(sum), Some(g)) => Some((sum + g)?),
                    (sum, g) => sum.or(g),
                };
            }
        }
        let scale = 1.0 / totals.positions.max(1) as f64;
        let read = |(sum, var): (Option<Tensor>, &Var)| -> Result<Vec<f32>> {
            match sum {
                Some(sum) => Ok((sum * scale)?.flatten_all()?.to_vec1()?),
                None => Ok(vec![0.0; var.elem_count()]),
            }
        };
        let tensors = sums.into_iter().zip(self.vars).map(read).collect::<Result<_>>()?;
        Ok(Gradient { totals, tensors })
    }

    /// Adds one piece to the sums of a lane.
    fn add(&self, sums: &mut Gradient, piece: &Joined) -> Result<()> {
        let (totals, grads) = self.run(piece)?;
        sums.totals.add(totals);
        for (g, sum) in grads.iter().zip(&mut sums.tensors) {
            if let Some(g) = g {
                with_elements([&g.contiguous()?], |[g]| add(sum, g))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn composed_is_fused() {
        let model = crate::model::bundled();
        let (length, vocab) = (model.network().unwrap().context(), model.network().unwrap().vocab_size());
        let tokens: Vec<u32> = (0..4 * length + 1).map(|i| (i * 37 % vocab) as u32).collect();
        let piece = |i| Windows::new(&tokens[i * length..=(i + 1) * length], length, None);
        let batch: Batch = (0..4).map(piece).collect();
        let weights: Vec<Vec<f32>> = model.stored.iter().map(|s| s.data.iter().map(|v| v * 1.1).collect()).collect();
        let teacher = Teacher::new(model.network().unwrap(), model.params().unwrap());
        for objective in [Objective::Kl, Objective::Both] {
            let (vars, params) = variables(&model, &weights).unwrap();
            let pass = Pass { model: &model, params: &params, vars: &vars, teacher: Some(&teacher), objective };
            let (a, b) = (
                gradient(&model, &weights, Some(&teacher), &batch, objective).unwrap(),
                pass.composed(&join(&batch, &Device::Cpu).unwrap()).unwrap(),
            );
            assert!((a.totals.mean(objective) - b.totals.mean(objective)).abs() < 1e-5);
            assert_eq!(a.totals.positions, b.totals.positions);
            for (i, (a, b)) in a.tensors.iter().zip(&b.tensors).enumerate() {
                let largest = a.iter().fold(0f32, |m, v| m.max(v.abs()));
                assert!(largest > 0.0 && a.len() == b.len());
                let off = a.iter().zip(b).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / largest;
                assert!(off < 1e-3, "{}: off by {off:e}", model.spec(i).name);
            }
        }
    }
}
