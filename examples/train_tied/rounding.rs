//! Training that sees the rounding to come.
//!
//! The packer buys loss with bytes at one price for all weights. Where F is the curvature at a weight, that makes its grid's
//! step proportional to 1/√F. Here F comes from the gradients of training: their mean squares by row and by column of every
//! matrix, which factor as curvature does, taken to half the exponent because few batches know them. One constant sets all
//! steps; it is found so that the rounded weights have as many bits of entropy as the cap has room for.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tiepack::nets::{Form, TensorSpec};
use tiepack::random::Random;

use super::args::Rounded;

/// Of the mean squares of gradients, from one step to the next.
const MEMORY: f32 = 0.98;
/// Steps are at most so many times finer or coarser by a row's or a column's curvature.
const RANGE: f32 = 8.0;
/// Bytes of header, names and metadata, about; a control value takes one.
const OVERHEAD: f64 = 600.0;
/// Steps between two searches for the constant.
pub const SETTLE_EVERY: usize = 25;

/// Mean squares of a tensor's gradients.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Squares {
    pub rows: Vec<f32>,
    pub cols: Vec<f32>,
}

/// What training knows of the rounding; all of it is in a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rounding {
    /// Bytes that the packed file may have.
    cap: u64,
    /// By spec; empty for control tensors and for what was never used.
    pub squares: Vec<Squares>,
    /// Sets all steps; 0: not found yet.
    pub constant: f64,
}

impl Rounding {
    pub fn new(cap: u64, specs: usize) -> Rounding {
        Rounding { cap, squares: vec![Squares::default(); specs], constant: 0.0 }
    }

    /// Takes the gradients of a step in.
    pub fn watch(&mut self, specs: &[TensorSpec], owners: &[usize], gradients: &[Vec<f32>]) {
        let mut of_spec: Vec<Option<&Vec<f32>>> = vec![None; specs.len()];
        owners.iter().zip(gradients).for_each(|(spec, gradient)| of_spec[*spec] = Some(gradient));
        let matrices = self.squares.par_iter_mut().zip(specs).zip(of_spec);
        matrices.filter(|((_, spec), _)| spec.form != Form::Vector).for_each(|((squares, spec), gradient)| {
            let (Some(gradient), &[rows, cols]) = (gradient, &spec.shape[..]) else { return };
            let (mut by_row, mut by_col) = (vec![0f32; rows], vec![0f32; cols]);
            for (row, values) in by_row.iter_mut().zip(gradient.chunks_exact(cols)) {
                for (col, g) in by_col.iter_mut().zip(values) {
                    *row += g * g / cols as f32;
                    *col += g * g / rows as f32;
                }
            }
            for (known, new) in [(&mut squares.rows, by_row), (&mut squares.cols, by_col)] {
                match known.is_empty() {
                    true => *known = new,
                    false => known.iter_mut().zip(new).for_each(|(k, n)| *k += (1.0 - MEMORY) * (n - *k)),
                }
            }
        });
    }

    /// Finds the constant for the present weights (by stored tensor).
    pub fn settle(&mut self, specs: &[TensorSpec], owners: &[usize], weights: &[Vec<f32>]) {
        let values: usize =
            specs.iter().filter(|s| s.form == Form::Vector).map(|s| s.shape.iter().product::<usize>()).sum();
        let room = 8.0 * (self.cap as f64 - OVERHEAD - values as f64).max(1.0);
        let scaled: Vec<Vec<f32>> = owners
            .par_iter()
            .zip(weights)
            .filter_map(|(spec, w)| self.scales(*spec).map(|s| (s, w)))
            .map(|((rows, cols), w)| {
                let row =
                    |(row, w): (&f32, &[f32])| w.iter().zip(&cols).map(|(w, col)| w / (row * col)).collect::<Vec<_>>();
                rows.iter().zip(w.chunks_exact(cols.len())).flat_map(row).collect()
            })
            .collect();
        let bits = |c: f64| scaled.par_iter().map(|x| entropy(x, c)).collect::<Vec<f64>>().iter().sum::<f64>();
        let (mut low, mut high) = (-30f64, 30f64);
        for _ in 0..24 {
            let middle = 0.5 * (low + high);
            if bits(middle.exp2()) > room { low = middle } else { high = middle }
        }
        self.constant = high.exp2();
    }

    /// Steps of the grid over the constant, by row and by column.
    fn scales(&self, spec: usize) -> Option<(Vec<f32>, Vec<f32>)> {
        let Squares { rows, cols } = &self.squares[spec];
        let mean = rows.iter().sum::<f32>() / rows.len().max(1) as f32;
        if mean <= 0.0 || !mean.is_finite() {
            return None;
        }
        let relative = |square: &f32| (square / mean).powf(-0.25).clamp(1.0 / RANGE, RANGE);
        Some((rows.iter().map(|r| relative(r) / mean.sqrt()).collect(), cols.iter().map(relative).collect()))
    }

    /// The weights (by stored tensor) as the network is to see them in this step.
    pub fn see(&self, how: Rounded, owners: &[usize], weights: &mut [Vec<f32>], seed: u64) {
        let constant = self.constant as f32;
        owners.par_iter().zip(weights).for_each(|(spec, weights)| {
            let Some((rows, cols)) = self.scales(*spec) else { return };
            let mut random = Random::of(seed, 16 + *spec as u64);
            for (row, weights) in rows.iter().zip(weights.chunks_exact_mut(cols.len())) {
                for (col, w) in cols.iter().zip(weights) {
                    let step = constant * row * col;
                    match how {
                        Rounded::Noise => *w += step * (random.uniform() - 0.5) as f32,
                        Rounded::Straight => *w = step * (*w / step).round(),
                    }
                }
            }
        });
    }
}

/// Bits that the nearest multiples of `step` take, coded by their frequencies.
fn entropy(x: &[f32], step: f64) -> f64 {
    const MOST: i32 = 4096;
    let (inverse, mut counts) = ((1.0 / step) as f32, vec![0u32; 2 * MOST as usize + 1]);
    for x in x {
        counts[((x * inverse).round().clamp(-MOST as f32, MOST as f32) as i32 + MOST) as usize] += 1;
    }
    let n = x.len() as f64;
    counts.iter().filter(|c| **c > 0).map(|c| -f64::from(*c) * (f64::from(*c) / n).log2()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounded_weights_have_the_bits_of_the_cap() {
        let (rows, cols) = (60, 50);
        let spec = |name: &str, shape: &[usize], form| TensorSpec {
            name: name.into(),
            role: name.into(),
            layer: None,
            shape: shape.to_vec(),
            form,
        };
        let specs = [spec("m", &[rows, cols], Form::Matrix), spec("v", &[10], Form::Vector)];
        let mut random = Random::of(3, 0);
        let w: Vec<f32> = (0..rows * cols).map(|_| random.gaussian() as f32).collect();
        let g: Vec<f32> =
            (0..rows * cols).map(|i| (random.gaussian() * if i < 1000 { 4.0 } else { 1.0 }) as f32).collect();
        let weights = [w.clone(), vec![1.0; 10]];
        let cap = 600 + 10 + 750;
        let mut rounding = Rounding::new(cap, 2);
        rounding.watch(&specs, &[0, 1], &[g, vec![1.0; 10]]);
        rounding.settle(&specs, &[0, 1], &weights);
        let mut seen = weights.clone();
        rounding.see(Rounded::Straight, &[0, 1], &mut seen, 0);
        assert_eq!(seen[1], weights[1]);
        // 6,000 bits for 3,000 weights: a Gaussian at two bits is off by a quarter of its deviation or so.
        let off = |seen: &[f32], rows: std::ops::Range<usize>| {
            let at = rows.start * cols..rows.end * cols;
            (seen[at.clone()].iter().zip(&w[at.clone()]).map(|(a, b)| (a - b).powi(2)).sum::<f32>() / at.len() as f32)
                .sqrt()
        };
        let (steep, flat) = (off(&seen[0], 0..20), off(&seen[0], 20..60));
        assert!(0.1 < steep && steep < flat && flat < 0.5, "{steep} {flat}");
        rounding.see(Rounded::Noise, &[0, 1], &mut seen, 1);
        assert!(seen[0] != weights[0]);
    }
}
