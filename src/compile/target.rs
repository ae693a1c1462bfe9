//! The target of coding a matrix: itself, or the mean of several matrices that it stands for.
//!
//! The mean P of matrices W_k with curvatures O_k ⊗ H_k is the one with the least Σ ½ tr(O_k E_k H_k E_kᵀ), E_k = P − W_k: the
//! solution of Σ O_k P H_k = Σ O_k W_k H_k, found by conjugate gradients. With inputs alone this is RegMean (arXiv:2212.09849),
//! with diagonals it is Fisher merging (arXiv:2111.09832).

use std::borrow::Cow;

use super::metrics::Metrics;
use crate::code::quantize::metric::Metric;
use crate::measure::curvature::Factors;
use crate::model::Model;
use crate::nets::ops::product::{View, product};

/// Steps of conjugate gradients.
const STEPS: usize = 12;
/// Added to the diagonals, relative to their mean: sampled factors are noisy where they are small.
const DAMPING: f64 = 0.01;

/// A matrix to code.
#[derive(Clone)]
pub(super) struct Target<'a> {
    /// (R, C) row-major.
    pub w: Cow<'a, [f32]>,
    pub metric: Cow<'a, Metric>,
    /// Measured over predicted loss.
    pub correction: f64,
}

/// The target of stored matrix `stored`: the mean of `mean_of`, itself if these are none. `serves` are the matrices that are
/// copies of it: an error in it is one in them as well.
pub(super) fn target<'a>(
    model: &'a Model,
    metrics: &'a Metrics,
    stored: usize,
    mean_of: &[usize],
    serves: &[usize],
) -> Target<'a> {
    let itself = itself(model, metrics, stored);
    let data = |i: usize| &model.stored[i].data[..];
    let known = |of: &[usize]| of.iter().map(|i| metrics.factors(*i)).collect::<Option<Vec<&Factors>>>();
    let w = match mean_of {
        [] => itself.w,
        [other] => Cow::Borrowed(data(*other)),
        many => match known(many) {
            Some(factors) => mean(&factors, &many.iter().map(|i| data(*i)).collect::<Vec<_>>()).into(),
            // Nothing is known of some: all count alike.
            None => {
                let mut w = vec![0f32; data(stored).len()];
                for i in many {
                    w.iter_mut().zip(data(*i)).for_each(|(w, v)| *w += v / many.len() as f32);
                }
                w.into()
            }
        },
    };
    let uses: Vec<usize> = std::iter::once(stored).chain(serves.iter().copied()).collect();
    let factors = if serves.is_empty() { None } else { known(&uses) };
    let Some(factors) = factors else { return Target { w, ..itself } };
    let energy = |f: &Factors| trace(&f.input, f.cols) * trace(&f.output, f.rows);
    let energies: Vec<f64> = factors.iter().map(|f| energy(f)).collect();
    let shares = uses.iter().zip(&energies);
    let correction = shares.map(|(i, e)| metrics.correction(*i) * e).sum::<f64>() / energies.iter().sum::<f64>();
    Target {
        w,
        metric: Cow::Owned(metrics.metric_of(&sum(&factors))),
        correction: if correction.is_finite() { correction } else { 1.0 },
    }
}

/// A stored matrix as it is.
pub(super) fn itself<'a>(model: &'a Model, metrics: &'a Metrics, stored: usize) -> Target<'a> {
    Target {
        w: Cow::Borrowed(&model.stored[stored].data),
        metric: metrics.of(model, stored),
        correction: metrics.correction(stored),
    }
}

/// Sum of the diagonal of a square matrix, or of one in blocks (R, B).
fn trace(v: &[f32], n: usize) -> f64 {
    let block = v.len() / n.max(1);
    (0..n).map(|i| f64::from(v[i * block + i % block])).sum()
}

/// The curvature of a matrix that is used where all of these are: what measuring the tied model would add up.
fn sum(factors: &[&Factors]) -> Factors {
    let first = factors[0];
    let mut out = Factors {
        rows: first.rows,
        cols: first.cols,
        input: vec![0.0; first.input.len()],
        output: vec![0.0; first.output.len()],
    };
    // Each was scaled by the root of Σ |x|² |g|², which is the trace of its input factor.
    let roots: Vec<f64> = factors.iter().map(|f| trace(&f.input, f.cols)).collect();
    let root = roots.iter().map(|r| r * r).sum::<f64>().sqrt().max(f64::from(f32::MIN_POSITIVE));
    for (f, own) in factors.iter().zip(&roots) {
        let scale = (own / root) as f32;
        out.input.iter_mut().zip(&f.input).for_each(|(o, v)| *o += scale * v);
        out.output.iter_mut().zip(&f.output).for_each(|(o, v)| *o += scale * v);
    }
    out
}

/// One curvature, damped, as a linear map of matrices.
struct Map<'a> {
    factors: &'a Factors,
    damping: [f32; 2],
}

impl Map<'_> {
    fn new(factors: &Factors) -> Map<'_> {
        let mean = |v: &[f32], n: usize| (DAMPING * trace(v, n) / n.max(1) as f64) as f32;
        Map { factors, damping: [mean(&factors.input, factors.cols), mean(&factors.output, factors.rows)] }
    }

    /// Adds O P H to `out`.
    fn add(&self, out: &mut [f32], p: &[f32]) {
        let Factors { rows, cols, input, output } = self.factors;
        let (rows, cols) = (*rows, *cols);
        let mut half: Vec<f32> = p.iter().map(|v| v * self.damping[0]).collect();
        product(&mut half, cols, View::dense(p, rows, cols), View::dense(input, cols, cols), 1.0, true);
        out.iter_mut().zip(&half).for_each(|(o, h)| *o += self.damping[1] * h);
        let block = output.len() / rows.max(1);
        for start in (0..rows).step_by(block.max(1)) {
            let n = block.min(rows - start);
            let left = View::strided(&output[start * block..], n, n, block);
            let right = View::dense(&half[start * cols..], n, cols);
            product(&mut out[start * cols..], cols, left, right, 1.0, true);
        }
    }

    /// Adds its diagonal to `out`.
    fn add_diagonal(&self, out: &mut [f32]) {
        let Factors { rows, cols, input, output } = self.factors;
        let block = output.len() / (*rows).max(1);
        for (i, row) in out.chunks_exact_mut(*cols).enumerate() {
            let o = output[i * block + i % block] + self.damping[1];
            row.iter_mut().enumerate().for_each(|(j, v)| *v += o * (input[j * (cols + 1)] + self.damping[0]));
        }
    }
}

/// The mean of `matrices` under their curvatures.
fn mean(factors: &[&Factors], matrices: &[&[f32]]) -> Vec<f32> {
    let n = matrices[0].len();
    let maps: Vec<Map> = factors.iter().map(|f| Map::new(f)).collect();
    let mut diagonal = vec![0f32; n];
    let mut x = vec![0f32; n];
    for (map, w) in maps.iter().zip(matrices) {
        let mut own = vec![0f32; n];
        map.add_diagonal(&mut own);
        for k in 0..n {
            diagonal[k] += own[k];
            x[k] += own[k] * w[k];
        }
    }
    for (x, d) in x.iter_mut().zip(&diagonal) {
        *x = if *d > 0.0 { *x / d } else { 0.0 };
    }
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let conditioned =
        |r: &[f32]| -> Vec<f32> { r.iter().zip(&diagonal).map(|(r, d)| if *d > 0.0 { r / d } else { 0.0 }).collect() };
    // The residual Σ O_k (W_k − P) H_k.
    let mut r = vec![0f32; n];
    for (map, w) in maps.iter().zip(matrices) {
        let e: Vec<f32> = w.iter().zip(&x).map(|(w, x)| w - x).collect();
        map.add(&mut r, &e);
    }
    let mut z = conditioned(&r);
    let mut p = z.clone();
    let mut energy = dot(&r, &z);
    for _ in 0..STEPS {
        let mut image = vec![0f32; n];
        maps.iter().for_each(|map| map.add(&mut image, &p));
        let length = energy / dot(&p, &image);
        if !length.is_finite() {
            break;
        }
        for k in 0..n {
            x[k] += length as f32 * p[k];
            r[k] -= length as f32 * image[k];
        }
        z = conditioned(&r);
        let next = dot(&r, &z);
        let turn = (next / energy) as f32;
        p.iter_mut().zip(&z).for_each(|(p, z)| *p = z + turn * *p);
        energy = next;
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nets::ops::check::{gram, values};

    #[test]
    fn the_mean_loses_least() {
        let (rows, cols) = (8, 6);
        let factors: Vec<Factors> =
            (0..3).map(|k| Factors { rows, cols, input: gram(cols, 10 + k), output: gram(rows, 20 + k) }).collect();
        let matrices: Vec<Vec<f32>> = (0..3).map(|k| values(rows * cols, 30 + k)).collect();
        let (f, w): (Vec<&Factors>, Vec<&[f32]>) =
            (factors.iter().collect(), matrices.iter().map(|w| &w[..]).collect());
        let loss = |p: &[f32]| -> f64 {
            let one = |(f, w): (&&Factors, &&[f32])| {
                let e: Vec<f32> = p.iter().zip(*w).map(|(p, w)| p - w).collect();
                let mut image = vec![0f32; e.len()];
                Map::new(f).add(&mut image, &e);
                e.iter().zip(&image).map(|(a, b)| f64::from(a * b)).sum::<f64>()
            };
            f.iter().zip(&w).map(one).sum()
        };
        let best = mean(&f, &w);
        let plain: Vec<f32> = (0..rows * cols).map(|k| w.iter().map(|w| w[k]).sum::<f32>() / 3.0).collect();
        assert!(loss(&best) < 0.95 * loss(&plain), "{} against {}", loss(&best), loss(&plain));
        for k in 0..6 {
            let nearby: Vec<f32> = best.iter().zip(values(rows * cols, 40 + k)).map(|(b, v)| b + 0.03 * v).collect();
            assert!(loss(&best) < loss(&nearby));
        }
        // Of equal matrices, that matrix.
        let same = mean(&f, &[w[0], w[0], w[0]]);
        assert!(same.iter().zip(w[0]).all(|(a, b)| (a - b).abs() < 1e-4));
    }
}
