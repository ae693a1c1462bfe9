//! A quantized matrix in training: a shadow of every weight on the scale of its grid, seen through the nearest grid points.
//!
//! The network runs on the points, the gradient goes to the shadow as if there were no rounding (the straight-through
//! estimator, Bengio et al., arXiv:1308.3432), and a path down the trellis changes where the shadow has come nearer to another
//! one.

use rayon::prelude::*;

use super::state::Moments;
use crate::code::codec::matrix::{self, Settings};
use crate::code::entropy::indices::Prices;
use crate::code::grid::step_sizes::StepSizes;
use crate::code::grid::trellis::Trellis;
use crate::code::quantize::metric::Metric;
use crate::code::quantize::nearest::{Goal, LANES, Nearest};
use crate::code::quantize::step_rule::step_sizes;
use crate::code::quantize::viterbi::Rate;
use crate::train::adam::{Adam, Betas};

/// Columns searched by one thread at a time.
const COLUMNS: usize = 2 * LANES;

/// Where in its cell a shadow starts: this share of the way from the point to what feedback wanted in its place.
///
/// At the border (1) half of the paths change at once without feedback and the KL doubles, in the middle (0) nothing changes
/// in hundreds of steps.
const START: f32 = 0.9;
/// What feedback wanted lies at most so many steps off the point.
const FAR: f32 = 2.0;

/// A matrix (R, C) in training.
pub struct Lattice {
    settings: Settings,
    steps: StepSizes,
    /// Steps are row[i] · col[j].
    row: Vec<f32>,
    col: Vec<f32>,
    /// A squared error of one step costs row_weight[i] · col_weight[j], in the unit of the price of bits.
    row_weight: Vec<f32>,
    col_weight: Vec<f32>,
    prices: Prices,
    /// (C, R): in steps.
    shadow: Vec<f32>,
    adam: Adam,
}

impl Lattice {
    /// A matrix that starts from what [`matrix::encode`] makes of `w` (R, C) row-major.
    pub fn new(w: &[f32], metric: &Metric, step: f64, settings: Settings) -> Self {
        let steps = step_sizes(metric, step, settings.powers);
        let prices = matrix::settled(w, metric, step, &settings);
        let rounded = matrix::search(w, metric, step, &settings, &steps, &prices);
        let (row, col) = steps.factors();
        let unit = (step * step) as f32;
        let mut input = vec![0f32; metric.cols];
        metric.order.iter().zip(&metric.input).for_each(|(j, d)| input[*j] = *d);
        let points = values(&settings.trellis, row.len(), &rounded.indices);
        let missed = rounded.missed.iter().enumerate();
        let rows = row.len();
        let missed = missed.map(|(k, m)| (m / (row[k % rows] * col[k / rows])).clamp(-FAR, FAR));
        Lattice {
            shadow: points.iter().zip(missed).map(|(p, m)| p + START * m).collect(),
            row_weight: metric.output.iter().zip(&row).map(|(o, r)| o * r * r / unit).collect(),
            col_weight: input.iter().zip(&col).map(|(d, c)| d * c * c).collect(),
            steps,
            settings,
            row,
            col,
            prices,
            adam: Adam::new(w.len()),
        }
    }

    /// Indices (C, R) of the points next to the shadow, bits at `price` times their usual price.
    pub fn indices(&self, price: f32) -> Vec<i32> {
        let rows = self.row.len();
        let rate = Rate { prices: &self.prices, lambda: self.settings.lambda * price };
        let mut indices = vec![0i32; self.shadow.len()];
        if rows == 0 {
            return indices;
        }
        indices.par_chunks_mut(rows * COLUMNS).enumerate().for_each(|(part, out)| {
            let mut nearest = Nearest::new(&self.settings.trellis, rows);
            for (k, out) in out.chunks_mut(rows * LANES).enumerate() {
                let first = part * COLUMNS + k * LANES;
                let goal = |j: usize| {
                    let place = j * rows..(j + 1) * rows;
                    let bucket = self.prices.bucket.get(place.clone()).unwrap_or_default();
                    Goal { values: &self.shadow[place], weight: self.col_weight[j], bucket }
                };
                let goals: Vec<Goal> = (first..first + out.len() / rows).map(goal).collect();
                nearest.columns(&goals, &self.row_weight, &rate, out);
            }
        });
        indices
    }

    /// The weights (R, C) row-major of indices.
    pub fn weights(&self, indices: &[i32]) -> Vec<f32> {
        let (rows, cols) = (self.row.len(), self.col.len());
        let values = values(&self.settings.trellis, rows, indices);
        let mut weights = vec![0f32; rows * cols];
        for (i, out) in weights.chunks_exact_mut(cols.max(1)).enumerate() {
            for (j, w) in out.iter_mut().enumerate() {
                *w = values[j * rows + i] * self.row[i] * self.col[j];
            }
        }
        weights
    }

    /// Moves the shadow by about `rate` steps against the gradient (R, C) of the weights.
    pub fn learn(&mut self, gradient: &[f32], rate: f32, betas: Betas) {
        let (rows, cols) = (self.row.len(), self.col.len());
        let mut own = vec![0f32; rows * cols];
        for (j, out) in own.chunks_exact_mut(rows.max(1)).enumerate() {
            for (i, g) in out.iter_mut().enumerate() {
                *g = gradient[i * cols + j] * self.row[i] * self.col[j];
            }
        }
        self.adam.step(&mut self.shadow, &own, rate, betas);
    }

    /// From now on bits cost what they cost where these indices stand.
    pub fn reprice(&mut self, indices: &[i32]) {
        self.prices = matrix::prices_of(indices, &self.steps, &self.settings.trellis);
    }

    /// The stream of these indices.
    pub fn stream(&self, indices: &[i32]) -> Vec<u8> {
        matrix::write(indices, &self.steps, &self.settings.trellis)
    }

    /// What training changes.
    pub fn moments(&mut self) -> Moments<'_> {
        Moments { values: &mut self.shadow, adam: &mut self.adam, prices: Some(&mut self.prices) }
    }
}

/// What a trellis makes of the integers of columns of `rows`, in steps.
fn values(trellis: &Trellis, rows: usize, indices: &[i32]) -> Vec<f32> {
    let mut out = Vec::with_capacity(indices.len());
    for column in indices.chunks_exact(rows.max(1)) {
        let mut state = 0;
        for q in column {
            out.push(trellis.value(trellis.grid[state], *q) as f32);
            state = usize::from(trellis.next[state][(q & 1) as usize]);
        }
    }
    out
}
