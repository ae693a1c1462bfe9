//! A quantized matrix in training: some of its columns are frozen on grid points, the others are free (real-valued) and learn.
//!
//! Columns are frozen in groups, those that matter most first, by the search that rounds a whole matrix. The free columns
//! compensate for the error of each group: at once as far as the curvature of this matrix tells (the conditional minimum that
//! feedback stands for, GPTQ, arXiv:2210.17323), then by training for what the errors in all other matrices ask. Rounding in
//! parts with training between them is incremental network quantization (arXiv:1702.03044).

use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::{Mat, Par};

use super::eigenbasis::{Eigenbasis, factor, unwhiten_change, whiten_gradient};
use super::param::ParamRef;
use crate::code::codec::matrix::{self, Settings};
use crate::code::entropy::indices::{PRICED, Prices};
use crate::code::grid::step_sizes::StepSizes;
use crate::code::quantize::metric::Metric;
use crate::code::quantize::step_rule::step_sizes;
use crate::code::quantize::viterbi::{Rate, round};
use crate::nets::ops::product::{View, product};
use crate::train::adam::{Adam, Betas};

/// A matrix (R, C) in training.
pub struct Freezing {
    metric: Metric,
    settings: Settings,
    steps: StepSizes,
    prices: Prices,
    /// The model's step size: the unit in which free columns move.
    step: f64,
    /// (R, C), columns in rounding order: grid points of the frozen columns, then the free ones.
    values: Vec<f32>,
    /// Columns that are frozen.
    frozen: i32,
    /// (C, R) natural order: of the frozen columns.
    indices: Vec<i32>,
    /// Bits of every column in rounding order where nothing is trained.
    usual: Vec<f64>,
    adam: Adam,
    output: Option<Eigenbasis>,
    /// Of the columns from the first one on.
    input: Option<(usize, Eigenbasis)>,
}

impl Freezing {
    /// `w` (R, C) row-major, of which nothing is frozen yet, with the step sizes and prices of [`matrix::encode`], which made
    /// `indices` (C, R) of it.
    pub fn new(w: &[f32], metric: &Metric, step: f64, settings: Settings, indices: &[i32]) -> Self {
        let cols = metric.cols;
        let mut freezing = Freezing {
            steps: step_sizes(metric, step, settings.powers),
            prices: matrix::converged(w, metric, step, &settings),
            values: (0..w.len()).map(|k| w[k / cols * cols + metric.order[k % cols]]).collect(),
            frozen: 0,
            indices: vec![0; w.len()],
            usual: Vec::new(),
            adam: Adam::new(w.len()),
            output: None,
            input: None,
            metric: metric.clone(),
            settings,
            step,
        };
        freezing.usual = (0..cols).map(|k| freezing.bits(k, indices)).collect();
        freezing
    }

    fn frozen(&self) -> usize {
        self.frozen as usize
    }

    /// Bits of column `k` in rounding order, of `indices` (C, R).
    fn bits(&self, k: usize, indices: &[i32]) -> f64 {
        let (rows, trellis, prices) = (self.metric.rows, &self.settings.trellis, &self.prices);
        let place = self.metric.order[k] * rows..(self.metric.order[k] + 1) * rows;
        let mut state = 0;
        let mut bits = 0f64;
        for (q, bucket) in indices[place.clone()].iter().zip(&prices.bucket[place]) {
            let grid = trellis.grid[state];
            let magnitude_index = (trellis.magnitude_index(grid, *q) as usize).min(PRICED - 1);
            bits += f64::from(prices.of(*bucket)[usize::from(grid) * PRICED + magnitude_index]);
            state = usize::from(trellis.next[state][(q & 1) as usize]);
        }
        bits
    }

    /// Bits of the frozen columns beyond what they take untrained, and the expected bits of the free ones.
    pub fn budget(&self) -> (f64, f64) {
        let frozen = self.frozen();
        let more = (0..frozen).map(|k| self.bits(k, &self.indices) - self.usual[k]).sum();
        (more, self.usual[frozen..].iter().sum())
    }

    /// Freezes columns until `share` of them are, bits at `price` times their usual price.
    pub fn freeze(&mut self, share: f64, price: f32) {
        let Metric { rows, cols, .. } = self.metric;
        let from = self.frozen();
        let to = ((share * cols as f64).round() as usize).clamp(from, cols);
        let n = to - from;
        if n == 0 {
            return;
        }
        let indices = self.rounded(from..to, price);
        let mut error = vec![0f32; rows * n];
        let trellis = &self.settings.trellis;
        for (k, column) in indices.chunks_exact(rows).enumerate() {
            let j = self.metric.order[from + k];
            let mut state = 0;
            for (i, q) in column.iter().enumerate() {
                let point = trellis.value(trellis.grid[state], *q) as f32 * self.steps.at(i, j);
                state = usize::from(trellis.next[state][(q & 1) as usize]);
                let value = &mut self.values[i * cols + from + k];
                error[i * n + k] = *value - point;
                *value = point;
            }
            self.indices[j * rows..(j + 1) * rows].copy_from_slice(column);
        }
        self.frozen = to as i32;
        self.propagate(&error, from..to);
        self.adam = Adam::new(rows * (cols - to));
    }

    /// Indices (n, R) of some columns in rounding order.
    fn rounded(&self, columns: std::ops::Range<usize>, price: f32) -> Vec<i32> {
        let m = &self.metric;
        let (rows, cols, from, n) = (m.rows, m.cols, columns.start, columns.len());
        let part = Metric {
            rows,
            cols: n,
            order: (0..n).collect(),
            input: m.input[columns.clone()].to_vec(),
            input_factor: (0..n * n).map(|k| m.input_factor[(from + k / n) * cols + from + k % n]).collect(),
            output: m.output.clone(),
            output_factor: m.output_factor.clone(),
            block: m.block,
        };
        let w: Vec<f32> = (0..rows * n).map(|k| self.values[k / n * cols + from + k % n]).collect();
        let (row, col) = self.steps.factors();
        let col: Vec<f32> = m.order[columns.clone()].iter().map(|j| col[*j]).collect();
        let bucket = m.order[columns].iter().flat_map(|j| &self.prices.bucket[j * rows..(j + 1) * rows]);
        let prices = Prices { table: self.prices.table.clone(), bucket: bucket.copied().collect() };
        let lambda = self.settings.lambda * (self.step * self.step) as f32 * price;
        round(&w, &part, &row, &col, &self.settings.trellis, &Rate { prices: &prices, lambda }).indices
    }

    /// Adds E_A H_AJ H_JJ⁻¹ to the free columns J for an error E (R, n) in columns A: with H = R Rᵀ that is E_A R_AJ R_JJ⁻¹.
    fn propagate(&mut self, error: &[f32], columns: std::ops::Range<usize>) {
        let Metric { rows, cols, ref input, ref input_factor, .. } = self.metric;
        let (first, from, n) = (columns.start, self.frozen(), columns.len());
        let rest = cols - from;
        if rest == 0 {
            return;
        }
        // The error of the frozen columns propagated to the free ones, over R_kk; among those it is a unit triangular system.
        let mut asked = vec![0f32; rows * rest];
        let down = View::strided(&input_factor[first * cols + from..], n, rest, cols);
        product(&mut asked, rest, View::dense(error, rows, n), down, 1.0, false);
        let r = factor(rest, &input[from..], |j, k| input_factor[(from + j) * cols + from + k]);
        let mut x = Mat::<f64>::from_fn(rest, rows, |k, i| f64::from(asked[i * rest + k]) * r[(k, k)]);
        solve_lower_triangular_in_place(r.transpose(), x.as_mut(), Par::Seq);
        for i in 0..rows {
            for k in 0..rest {
                self.values[i * cols + from + k] += x[(k, i)] as f32;
            }
        }
    }

    /// Compensates for a `change` (R, C) row-major of the prediction that is added to this matrix: free columns subtract their
    /// part of it, and the part of the frozen columns, which cannot move, is propagated to the free ones.
    pub fn compensate(&mut self, change: &[f32]) {
        let Metric { rows, cols, ref order, .. } = self.metric;
        let frozen = self.frozen();
        let mut error = vec![0f32; rows * frozen];
        for i in 0..rows {
            for (k, j) in order.iter().enumerate() {
                let change = change[i * cols + j];
                match k < frozen {
                    true => error[i * frozen + k] = -change,
                    false => self.values[i * cols + k] -= change,
                }
            }
        }
        if error.iter().any(|e| *e != 0.0) {
            self.propagate(&error, 0..frozen);
        }
    }

    /// Moves the free columns by about `rate` steps against the gradient (R, C) of the weights.
    pub fn learn(&mut self, gradient: &[f32], rate: f32, betas: Betas) {
        let Metric { rows, cols, ref order, .. } = self.metric;
        let from = self.frozen();
        let n = cols - from;
        if n == 0 {
            return;
        }
        let g: Vec<f32> = (0..rows * n).map(|k| gradient[k / n * cols + order[from + k % n]]).collect();
        let output = self.output.get_or_insert_with(|| Eigenbasis::output(&self.metric));
        if self.input.as_ref().is_none_or(|(first, _)| *first != from) {
            self.input = Some((from, Eigenbasis::input(&self.metric, from)));
        }
        let Some((_, input)) = &self.input else { return };
        let mut moved = vec![0f32; rows * n];
        self.adam.step(&mut moved, &whiten_gradient(&g, output, input), rate * self.step as f32, betas);
        for (k, change) in unwhiten_change(moved, output, input).into_iter().enumerate() {
            self.values[k / n * cols + from + k % n] += change;
        }
    }

    /// The weights (R, C) row-major as they are now.
    pub fn weights(&self) -> Vec<f32> {
        let Metric { cols, ref order, .. } = self.metric;
        let mut weights = vec![0f32; self.values.len()];
        for (from, to) in self.values.chunks_exact(cols.max(1)).zip(weights.chunks_exact_mut(cols.max(1))) {
            from.iter().zip(order).for_each(|(v, j)| to[*j] = *v);
        }
        weights
    }

    /// The stream, once all columns are frozen.
    pub fn stream(&self) -> Vec<u8> {
        matrix::write(&self.indices, &self.steps, &self.settings.trellis)
    }

    /// The parameters that training changes.
    pub fn params(&mut self) -> Vec<ParamRef<'_>> {
        let Adam { first, second, steps } = &mut self.adam;
        let floats = [&mut self.values, first, second].map(ParamRef::Floats);
        let counts = [&mut self.frozen, steps].map(ParamRef::Count);
        floats.into_iter().chain(counts).chain([ParamRef::Integers(&mut self.indices)]).collect()
    }

    /// Whether what was read into the parameters belongs together.
    pub fn is_sound(&self) -> bool {
        let Metric { rows, cols, .. } = self.metric;
        let Some(free) = usize::try_from(self.frozen).ok().and_then(|frozen| cols.checked_sub(frozen)) else {
            return false;
        };
        let sized = [&self.adam.first, &self.adam.second].iter().all(|v| v.len() == rows * free);
        sized && self.values.len() == rows * cols && self.indices.len() == rows * cols
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::grid::trellis::{Odd, Trellis};
    use crate::code::quantize::metric::{Curvature, Damping};
    use crate::code::quantize::step_rule::Powers;
    use crate::nets::ops::check::{gram, values};

    const STEP: f64 = 0.7;

    fn whole(rows: usize, cols: usize) -> (Vec<f32>, Metric, Vec<i32>, Freezing) {
        let (input, output) = (gram(cols, 1), gram(rows, 2));
        let curvature = Curvature { rows, cols, input: &input, output: &output };
        let metric = Metric::new(curvature, Damping { input: 0.05, output: 0.05 });
        let w = values(rows * cols, 3);
        let trellis = Trellis::eight().odd(Odd::Plain);
        let settings = Settings { trellis, powers: Powers { rows: 0.75, cols: 1.0 }, lambda: 0.3 };
        let prices = matrix::converged(&w, &metric, STEP, &settings);
        let steps = step_sizes(&metric, STEP, settings.powers);
        let indices = matrix::search(&w, &metric, STEP, &settings, &steps, &prices).indices;
        let freezing = Freezing::new(&w, &metric, STEP, settings, &indices);
        (w, metric, indices, freezing)
    }

    /// Without training between them, groups of columns come to what the whole matrix came to.
    #[test]
    fn groups_are_the_same_search() {
        let (w, _, indices, mut freezing) = whole(33, 20);
        assert_eq!(freezing.weights(), w);
        for share in [0.1, 0.1, 0.4, 0.75, 1.0] {
            freezing.freeze(share, 1.0);
        }
        assert!(freezing.indices == indices);
        let (more, left) = freezing.budget();
        assert!(more.abs() < 1e-6 && left == 0.0);
        assert_eq!(matrix::decode(&freezing.stream(), 33, 20).unwrap(), freezing.weights());
    }

    #[test]
    fn dearer_bits_are_fewer() {
        let more = |price: f32| {
            let (.., mut freezing) = whole(48, 40);
            freezing.freeze(1.0, price);
            freezing.budget().0
        };
        assert!(more(4.0) < more(1.0) && more(1.0) < more(0.2), "{} {} {}", more(4.0), more(1.0), more(0.2));
    }

    /// After a change from outside, no move of the free columns lowers the loss of this matrix.
    #[test]
    fn loose_columns_make_good_for_a_change() {
        let (rows, cols) = (17, 12);
        let (_, metric, _, mut freezing) = whole(rows, cols);
        freezing.freeze(0.5, 1.0);
        let before = freezing.weights();
        let change: Vec<f32> = values(rows * cols, 9).iter().map(|v| 0.1 * v).collect();
        freezing.compensate(&change);
        // Of this matrix and what is added to it, against what they were.
        let error = |w: &[f32]| -> f64 {
            let e: Vec<f32> = w.iter().zip(&change).zip(&before).map(|((w, c), b)| w + c - b).collect();
            metric.whiten(&e).iter().map(|v| f64::from(v * v)).sum()
        };
        let now = freezing.weights();
        let least = error(&now);
        for (at, k) in (0..rows * cols).step_by(7).map(|at| (at, at % cols)) {
            let free = metric.order[6..].contains(&k);
            for delta in [-1e-2, 1e-2] {
                let mut other = now.clone();
                other[at] += delta;
                assert!(!free || error(&other) > least, "weight {at}");
            }
            assert!(free || now[at] == before[at]);
        }
    }

    #[test]
    fn steps_go_down_and_leave_bound_columns_alone() {
        let (rows, cols) = (17, 12);
        let (w, metric, _, mut freezing) = whole(rows, cols);
        freezing.freeze(0.25, 1.0);
        let wanted: Vec<f32> = w.iter().zip(values(rows * cols, 5)).map(|(w, v)| w + 0.3 * v).collect();
        let error = |w: &[f32]| -> Vec<f32> { w.iter().zip(&wanted).map(|(w, v)| w - v).collect() };
        let loss = |w: &[f32]| metric.whiten(&error(w)).iter().map(|v| v * v).sum::<f32>();
        let first = freezing.weights();
        // The gradient of the loss by differences.
        for _ in 0..60 {
            let now = freezing.weights();
            let at = |k: usize, d: f32| {
                let mut w = now.clone();
                w[k] += d;
                loss(&w)
            };
            let gradient: Vec<f32> = (0..rows * cols).map(|k| (at(k, 0.05) - at(k, -0.05)) / 0.1).collect();
            freezing.learn(&gradient, 0.05, Betas { first: 0.9, second: 0.95 });
        }
        let last = freezing.weights();
        assert!(loss(&last) < 0.7 * loss(&first), "{} after {}", loss(&last), loss(&first));
        let moved = |k: usize| (0..rows).any(|i| first[i * cols + k] != last[i * cols + k]);
        assert!(metric.order.iter().enumerate().all(|(at, k)| moved(*k) == (at >= 3)));
    }
}
