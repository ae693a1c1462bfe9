//! Rounds a matrix to a trellis-coded grid under its error metric: the encoder's search.

use std::sync::LazyLock;

use super::branches::{Branches, Scale};
use super::metric::Metric;
use crate::code::entropy::indices::{PRICED, Prices};
use crate::code::grid::trellis::Trellis;
use crate::nets::ops::product::{View, product};
use crate::nets::ops::simd::vectorized;

/// Rows after which the survivors' histories are put in order and their common feedback is found in one product.
const SPAN: usize = 16;

/// Columns whose feedback onto the later ones is applied in one matrix product.
const BLOCK: usize = 64;

/// The rate term of rounding: prices of indices and their weight λ.
pub struct Rate<'a> {
    pub prices: &'a Prices,
    /// Metric units per bit.
    pub lambda: f32,
}

impl Rate<'static> {
    /// Rounding without regard to the rate.
    pub fn free() -> Self {
        static FREE: LazyLock<Prices> = LazyLock::new(|| Prices { table: vec![0.0; 2 * PRICED], bucket: Vec::new() });
        Rate { prices: &FREE, lambda: 0.0 }
    }
}

/// The integers chosen for a matrix and what they cost.
pub struct Rounded {
    /// (C, R) column-major, natural column order.
    pub indices: Vec<i32>,
    /// tr(O E H Eᵀ): twice the predicted loss.
    pub error: f64,
}

/// Rounds `w` (R, C) row-major to indices on steps `row[i] * col[j]`.
pub fn round(w: &[f32], metric: &Metric, row: &[f32], col: &[f32], trellis: &Trellis, rate: &Rate) -> Rounded {
    let round = match trellis.states {
        1 => with_states::<1>,
        4 => with_states::<4>,
        8 => with_states::<8>,
        16 => with_states::<16>,
        32 => with_states::<32>,
        64 => with_states::<64>,
        128 => with_states::<128>,
        _ => with_states::<256>,
    };
    round(w, metric, row, col, trellis, rate)
}

fn with_states<const S: usize>(
    w: &[f32],
    metric: &Metric,
    row: &[f32],
    col: &[f32],
    trellis: &Trellis,
    rate: &Rate,
) -> Rounded {
    let (rows, cols) = (metric.rows, metric.cols);
    let mut indices = vec![0i32; rows * cols];
    // Total errors and pending shifts, (C, R) column-major in rounding order.
    let mut errors = vec![0f32; rows * cols];
    let mut shift = vec![0f32; BLOCK * rows];
    let mut column = Column::<S>::new(Job { metric, row, trellis, rate });
    let mut target = vec![0f32; rows];
    let mut total = 0f64;
    for start in (0..cols).step_by(BLOCK) {
        let end = (start + BLOCK).min(cols);
        // shift (block, R) = feed(done, block)ᵀ · errors (done, R)
        let input_factor = View::strided(&metric.input_factor[start..], start, end - start, cols);
        shift.fill(0.0);
        if start > 0 {
            product(&mut shift, rows, input_factor.t(), View::dense(&errors, start, rows), 1.0, false);
        }
        for k in start..end {
            let j = metric.order[k];
            let own = &mut shift[(k - start) * rows..(k - start + 1) * rows];
            for p in start..k {
                add_scaled(own, metric.input_factor[p * cols + k], &errors[p * rows..(p + 1) * rows]);
            }
            for i in 0..rows {
                target[i] = w[i * cols + j] + own[i];
            }
            let bucket =
                if rate.prices.bucket.is_empty() { &[][..] } else { &rate.prices.bucket[j * rows..(j + 1) * rows] };
            let out = &mut indices[j * rows..(j + 1) * rows];
            total += column.round(&target, [col[j], metric.input[k]], bucket, out);
            let errors = &mut errors[k * rows..(k + 1) * rows];
            for i in 0..rows {
                // Column-level innovation minus the shift is the plain error W − Ŵ.
                errors[i] = column.innovation[i] - own[i];
            }
        }
    }
    Rounded { indices, error: total }
}

/// sum += f * e
fn add_scaled(sum: &mut [f32], f: f32, e: &[f32]) {
    vectorized(
        #[inline(always)]
        || sum.iter_mut().zip(e).for_each(|(s, e)| *s += f * e),
    );
}

/// The inputs that all columns of a matrix share.
#[derive(Clone, Copy)]
struct Job<'a> {
    metric: &'a Metric,
    row: &'a [f32],
    trellis: &'a Trellis,
    rate: &'a Rate<'a>,
}

/// Working memory of the search down one column.
///
/// Every survivor answers with the errors of its own path (per-survivor processing): what rows before the current span
/// ask of this one is found for all survivors at once at the start of the span, the span itself as it goes.
struct Column<'a, const S: usize> {
    job: Job<'a>,
    branches: Branches<S>,
    /// (R, SPAN): what each row asks of its innovations in the rows of its span before it.
    band: Vec<[f32; SPAN]>,
    /// Target minus reconstruction of every row, once the path is known.
    innovation: Vec<f32>,
    /// (R, states): the state before, and the value in steps on the way.
    predecessor: Vec<[u8; S]>,
    value: Vec<[f32; S]>,
    /// (states, R): innovations of the rows before the span, for each state at the start of the span.
    past: Vec<f32>,
    next_past: Vec<f32>,
    /// (states, SPAN): what they ask of each row of the span.
    asked: Vec<[f32; SPAN]>,
    /// For each state: its ancestor at the start of the span, and its innovations since.
    origin: [u8; S],
    next_origin: [u8; S],
    recent: Box<[[f32; SPAN]; S]>,
    next_recent: Box<[[f32; SPAN]; S]>,
    cost: [f32; S],
    /// The value that each state rounds at this row.
    target: [f32; S],
}

impl<'a, const S: usize> Column<'a, S> {
    fn new(job: Job<'a>) -> Self {
        let Metric { rows, block, output_factor, .. } = job.metric;
        let (rows, block) = (*rows, *block);
        let band = |i: usize| {
            let ask =
                |m: usize| if m < i % SPAN { output_factor[(i / SPAN * SPAN + m) * block + i % block] } else { 0.0 };
            std::array::from_fn(ask)
        };
        let past = if output_factor.is_empty() { 0 } else { rows * S };
        Column {
            job,
            branches: Branches::new(job.trellis),
            band: if output_factor.is_empty() { Vec::new() } else { (0..rows).map(band).collect() },
            innovation: vec![0.0; rows],
            predecessor: vec![[0; S]; rows],
            value: vec![[0.0; S]; rows],
            past: vec![0.0; past],
            next_past: vec![0.0; past],
            asked: vec![[0.0; SPAN]; S],
            origin: [0; S],
            next_origin: [0; S],
            recent: Box::new([[0.0; SPAN]; S]),
            next_recent: Box::new([[0.0; SPAN]; S]),
            cost: [0.0; S],
            target: [0.0; S],
        }
    }

    /// Searches a column of this scale and input curvature; returns d · ẽᵀ O ẽ of the chosen path.
    fn round(&mut self, target: &[f32], [col, input]: [f32; 2], bucket: &[u8], out: &mut [i32]) -> f64 {
        let Job { metric, row, trellis, rate } = self.job;
        let rows = target.len();
        let two_sided = !metric.output_factor.is_empty();
        self.cost.fill(f32::INFINITY);
        self.cost[0] = 0.0;
        for start in (0..rows).step_by(SPAN) {
            let span = SPAN.min(rows - start);
            if two_sided {
                self.begin_span(start, span);
            }
            for i in start..start + span {
                let step = row[i] * col;
                let table = rate.prices.of(bucket.get(i).map_or(0, |b| *b));
                let scale =
                    Scale { step, inverse: 1.0 / step, weight: metric.output[i] * input, table, lambda: rate.lambda };
                let at = i - start;
                vectorized(
                    #[inline(always)]
                    || {
                        self.target.fill(target[i]);
                        if two_sided {
                            answer(&mut self.target, &self.recent, &self.band[i], (&self.asked, &self.origin, at));
                        }
                        self.branches.weigh(&self.target, &self.cost, &scale);
                        self.branches.choose(&mut self.cost, &mut self.predecessor[i], &mut self.value[i]);
                        if two_sided {
                            for n in 0..S {
                                let from = usize::from(self.predecessor[i][n]) % S;
                                self.next_origin[n] = self.origin[from];
                                self.next_recent[n] = self.recent[from];
                                // The innovation at column level: what the rows ask is not part of the error.
                                self.next_recent[n][at] = target[i] - self.value[i][n] * step;
                            }
                        }
                    },
                );
                if two_sided {
                    std::mem::swap(&mut self.origin, &mut self.next_origin);
                    std::mem::swap(&mut self.recent, &mut self.next_recent);
                }
            }
        }
        let mut s = 0;
        for n in 0..S {
            if self.cost[n] < self.cost[s] {
                s = n;
            }
        }
        for i in (0..rows).rev() {
            let value = self.value[i][s];
            s = usize::from(self.predecessor[i][s]);
            out[i] = trellis.index_of(trellis.grid[s], value as i32);
            self.innovation[i] = target[i] - value * (row[i] * col);
        }
        self.cost_of_path(input)
    }

    /// Gives every survivor its own past in order, and finds what it asks of rows `start..start + span`.
    fn begin_span(&mut self, start: usize, span: usize) {
        let metric = self.job.metric;
        let rows = self.innovation.len();
        if start > 0 {
            let before = start - SPAN;
            for s in 0..S {
                let from = usize::from(self.origin[s]) * rows;
                let to = &mut self.next_past[s * rows..s * rows + start];
                to[..before].copy_from_slice(&self.past[from..from + before]);
                to[before..].copy_from_slice(&self.recent[s]);
            }
            std::mem::swap(&mut self.past, &mut self.next_past);
        }
        let (first, block) = (metric.block_start(start), metric.block);
        if start > first {
            let past = View::strided(&self.past[first..], S, start - first, rows);
            let output_factor =
                View::strided(&metric.output_factor[first * block + start - first..], start - first, span, block);
            product(self.asked.as_flattened_mut(), SPAN, past, output_factor, 1.0, false);
        } else {
            self.asked.fill([0.0; SPAN]);
        }
        for s in 0..S {
            self.origin[s] = s as u8;
        }
        self.recent.fill([0.0; SPAN]);
    }

    /// d · ẽᵀ O ẽ of the chosen path.
    fn cost_of_path(&self, input: f32) -> f64 {
        let metric = self.job.metric;
        let rows = self.innovation.len();
        let mut asked = vec![0f32; if metric.output_factor.is_empty() { 0 } else { rows }];
        let mut total = 0f64;
        for (i, e) in self.innovation.iter().enumerate() {
            let v = e + asked.get(i).unwrap_or(&0.0);
            total += f64::from(metric.output[i] * v * v);
            if !asked.is_empty() {
                add_scaled(&mut asked[i + 1..], *e, metric.below(i));
            }
        }
        total * f64::from(input)
    }
}

/// Adds to the goals what the rows before ask: those before the span have `asked`, those of the span ask by `band`.
#[inline(always)]
fn answer<const S: usize>(
    target: &mut [f32; S],
    recent: &[[f32; SPAN]; S],
    band: &[f32; SPAN],
    (asked, origin, at): (&[[f32; SPAN]], &[u8; S], usize),
) {
    for s in 0..S {
        let recent = &recent[s];
        let mut sums = [0f32; 4];
        for m in 0..at.div_ceil(4) {
            for k in 0..4 {
                sums[k] += recent[4 * m + k] * band[4 * m + k];
            }
        }
        target[s] += asked[usize::from(origin[s])][at] + (sums[0] + sums[1]) + (sums[2] + sums[3]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::entropy::indices::MAX_INDEX;
    use crate::code::quantize::metric::{Curvature, Damping};
    use crate::nets::ops::check::{gram, values};

    /// tr(O E H Eᵀ) by definition.
    fn quadratic(e: &[f32], f: &Curvature) -> f64 {
        let (r, c) = (f.rows, f.cols);
        let block = f.output.len() / r;
        let output = |i: usize, k: usize| if i / block == k / block { f.output[i * block + k % block] } else { 0.0 };
        let mut total = 0f64;
        for i in 0..r {
            for k in 0..r {
                for a in 0..c {
                    for b in 0..c {
                        let term = output(i, k) * e[i * c + a] * f.input[a * c + b] * e[k * c + b];
                        total += f64::from(term);
                    }
                }
            }
        }
        total
    }

    #[test]
    fn indices_stay_within_what_the_coder_holds() {
        let factors = Curvature { rows: 3, cols: 2, input: &[1.0, 0.0, 0.0, 1.0], output: &gram(3, 2) };
        let metric = Metric::new(factors, Damping { input: 0.0, output: 0.0 });
        let w = [1e30, -1e30, 0.0, f32::MAX, 1.0, -1e9];
        let rounded = round(&w, &metric, &[1e-9; 3], &[1.0; 2], &Trellis::eight(), &Rate::free());
        assert!(rounded.indices.iter().all(|q| q.unsigned_abs() <= MAX_INDEX));
    }

    #[test]
    fn reported_error_is_the_quadratic_form_and_feedback_beats_plain_rounding() {
        let (r, b) = (37, SPAN);
        let whole = gram(r, 2);
        feedback_beats_plain_rounding(&whole);
        let inside = |i: usize, j: usize| i - i % b + j;
        let block = |k: usize| if inside(k / b, k % b) < r { whole[k / b * r + inside(k / b, k % b)] } else { 0.0 };
        feedback_beats_plain_rounding(&(0..r * b).map(block).collect::<Vec<f32>>());
    }

    fn feedback_beats_plain_rounding(output: &[f32]) {
        let (r, c) = (37, 11);
        let factors = Curvature { rows: r, cols: c, input: &gram(c, 1), output };
        let metric = Metric::new(factors, Damping { input: 0.0, output: 0.0 });
        let w: Vec<f32> = values(r * c, 3).iter().map(|v| v * 4.0).collect();
        let (row, col) = (vec![0.25; r], vec![1.0; c]);
        let plain: Vec<f32> = w.iter().map(|w| w - (w / 0.5).round() * 0.5).collect();
        let mut last = quadratic(&plain, &factors);
        for states in [1, 4, 64] {
            let trellis = Trellis::with_states(states).unwrap();
            let rounded = round(&w, &metric, &row, &col, &trellis, &Rate::free());
            let mut e = vec![0f32; r * c];
            for j in 0..c {
                let mut s = 0;
                for i in 0..r {
                    let q = rounded.indices[j * r + i];
                    e[i * c + j] = w[i * c + j] - trellis.value(trellis.grid[s], q) as f32 * row[i] * col[j];
                    s = usize::from(trellis.next[s][(q & 1) as usize]);
                }
            }
            let error = quadratic(&e, &factors);
            assert!((error - rounded.error).abs() < 1e-2 * error, "{states}: {error} against {}", rounded.error);
            let whitened: f64 = metric.whiten(&e).iter().map(|v| f64::from(v * v)).sum();
            assert!((error - whitened).abs() < 1e-3 * error, "{states}: {error} against {whitened}");
            assert!(error < last, "{states} states: {error}, before {last}");
            last = error;
        }
    }
}
