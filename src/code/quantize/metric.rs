//! The error metric of one matrix in the form rounding wants: triangular factors of its curvature.
//!
//! A change E costs ½ tr(O E H Eᵀ). With H = R Rᵀ and O = P Pᵀ (R, P upper triangular) that is ½ |Pᵀ E R|², so the
//! error of a later column or row can compensate that of the earlier ones: column k wants to be rounded from
//! `W_k + Σ_{j<k} E_j R_jk / R_kk` at the price R_kk² (LDLQ, arXiv:2307.13304, equal to GPTQ, arXiv:2210.17323), and
//! inside it row i likewise from the rows above (YAQA, arXiv:2505.22988).

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{LltParams, LltRegularization, cholesky_in_place, cholesky_in_place_scratch};
use faer::{Mat, Par, Spec};

use crate::nets::ops::product::{View, product};

/// Curvature of one matrix (R, C): a change E costs ½ tr(O E H Eᵀ).
#[derive(Debug, Clone, Copy)]
pub struct Curvature<'a> {
    pub rows: usize,
    pub cols: usize,
    /// H (C, C) row-major.
    pub input: &'a [f32],
    /// Diagonal blocks of O, B rows each, one below the other (R, B) row-major: all of it (B = R) to its diagonal (B = 1).
    /// B is R, 1 or a multiple of 16.
    pub output: &'a [f32],
}

/// Triangular factors of one matrix's curvature (R rows, C columns).
#[derive(Debug, Clone)]
pub struct Metric {
    pub rows: usize,
    pub cols: usize,
    /// Columns in the order in which they are rounded: falling input energy.
    pub order: Vec<usize>,
    /// In that order: conditional variance d of each input given the later ones, above 0.
    pub input: Vec<f32>,
    /// (C, C) row-major in that order: R_jk / R_kk for j < k, else 0.
    pub input_factor: Vec<f32>,
    /// Conditional energy o of each output given the rows below, above 0.
    pub output: Vec<f32>,
    /// (R, B) row-major: P_ki / P_ii at (k, i mod B) for k < i in one block of rows, else 0; empty where outputs count as
    /// uncorrelated.
    pub output_factor: Vec<f32>,
    /// Rows of a block, B.
    pub block: usize,
}

/// Damping added to the diagonals, relative to their mean: sampled factors are noisy where they are small.
#[derive(Debug, Clone, Copy)]
pub struct Damping {
    pub input: f64,
    pub output: f64,
}

/// Conditional curvatures stay within this factor of their mean: f32 holds their products and quotients.
const SPREAD: f64 = 1e8;
/// Mean curvature of a weight, taken to the ends of this range where it lies outside.
const MEANS: (f64, f64) = (1e-24, 1e12);
/// The least damping that is tried where a factor turns out not to be positive definite; it grows tenfold until it is.
const FIRST_DAMPING: f64 = 1e-6;

impl Metric {
    /// Factors the curvature of one matrix.
    ///
    /// Every curvature gives a metric: damping grows until a factor is positive definite, values that are not finite
    /// count as 0, and a factor without any energy counts as a tiny multiple of the identity.
    pub fn new(curvature: Curvature, damping: Damping) -> Self {
        let Curvature { rows, cols, input, output } = curvature;
        let mut order: Vec<usize> = (0..cols).collect();
        let energy = |j: &usize| input[j * (cols + 1)];
        order.sort_by(|a, b| energy(b).total_cmp(&energy(a)).then(a.cmp(b)));
        let block = output.len() / rows.max(1);
        let means = [mean(input.iter().step_by(cols + 1)), mean((0..rows).map(|i| &output[i * block + i % block]))];
        let (input, input_factor) = upper_factor(input, &order, means[0], damping.input);
        let (mut output, output_factor) = if block == 1 && rows > 1 {
            let relative = |v: &f32| bounded(finite(*v) / positive(means[1]) + damping.output);
            (output.iter().map(relative).collect(), Vec::new())
        } else {
            output_factor(output, block, means[1], damping.output)
        };
        // All of the scale on one side, so that neither leaves the range of f32.
        let scale = (means[0] * means[1]).clamp(MEANS.0, MEANS.1) as f32;
        output.iter_mut().for_each(|o| *o *= scale);
        Metric { rows, cols, order, input, input_factor, output, output_factor, block }
    }

    /// The metric of plain squared error: every weight counts `curvature`, above 0.
    pub fn flat(rows: usize, cols: usize, curvature: f32) -> Self {
        let (order, input_factor) = ((0..cols).collect(), vec![0.0; cols * cols]);
        Metric {
            rows,
            cols,
            order,
            input: vec![1.0; cols],
            input_factor,
            output: vec![curvature; rows],
            output_factor: Vec::new(),
            block: 1,
        }
    }
}

impl Metric {
    /// First row of the block of row `i`.
    pub fn block_start(&self, i: usize) -> usize {
        i - i % self.block
    }

    /// Row `i` of `output_factor` for the rows below it in its block.
    pub fn below(&self, i: usize) -> &[f32] {
        let end = self.block.min(self.rows - self.block_start(i));
        &self.output_factor[i * self.block..][i % self.block + 1..end]
    }
}

/// A matrix seen through its metric: squared sums of what is `whitened` are twice the loss.
impl Metric {
    /// Pᵀ E R of a change E (R, C) row-major, columns in rounding order.
    pub fn whiten(&self, e: &[f32]) -> Vec<f32> {
        let (rows, cols) = (self.rows, self.cols);
        let mut ordered = vec![0f32; rows * cols];
        for (from, to) in e.chunks_exact(cols).zip(ordered.chunks_exact_mut(cols)) {
            to.iter_mut().zip(&self.order).for_each(|(t, j)| *t = from[*j]);
        }
        let mut out = ordered.clone();
        product(
            &mut out,
            cols,
            View::dense(&ordered, rows, cols),
            View::dense(&self.input_factor, cols, cols),
            1.0,
            true,
        );
        if !self.output_factor.is_empty() {
            let half = out.clone();
            let block = self.block;
            for start in (0..rows).step_by(block) {
                let n = block.min(rows - start);
                let output_factor = View::strided(&self.output_factor[start * block..], n, n, block);
                product(
                    &mut out[start * cols..],
                    cols,
                    output_factor.t(),
                    View::dense(&half[start * cols..], n, cols),
                    1.0,
                    true,
                );
            }
        }
        for (row, o) in out.chunks_exact_mut(cols).zip(&self.output) {
            row.iter_mut().zip(&self.input).for_each(|(v, d)| *v *= (o * d).sqrt());
        }
        out
    }

    /// The same curvature with columns rounded in another order.
    pub fn in_order(&self, order: &[usize]) -> Metric {
        let n = self.cols;
        let mut place = vec![0; n];
        self.order.iter().enumerate().for_each(|(k, j)| place[*j] = k);
        let r = |j: usize, k: usize| {
            let relative = if j == k { 1.0 } else { f64::from(self.input_factor[j * n + k]) };
            if j <= k { relative * f64::from(self.input[k]).sqrt() } else { 0.0 }
        };
        let upper = Mat::<f64>::from_fn(n, n, r);
        let curvature = &upper * upper.transpose();
        let natural: Vec<f32> = (0..n * n).map(|k| curvature[(place[k / n], place[k % n])] as f32).collect();
        let (input, input_factor) = upper_factor(&natural, order, 1.0, 0.0);
        Metric { order: order.to_vec(), input, input_factor, ..self.clone() }
    }

    /// A change E (R, C) row-major with every weight in units of its conditional curvature: E_ij √(o_i d_j), columns in natural
    /// order. What is coded with feedback takes as many bits as this is large; correlations do not matter for it.
    pub fn scale(&self, e: &[f32]) -> Vec<f32> {
        let [rows, cols] = self.scales();
        let row = |(e, o): (&[f32], &f32)| e.iter().zip(&cols).map(|(e, d)| e * o * d).collect::<Vec<_>>();
        e.chunks_exact(self.cols).zip(&rows).flat_map(row).collect()
    }

    /// √o of the rows and √d of the columns, both in natural order.
    pub fn scales(&self) -> [Vec<f32>; 2] {
        let mut cols = vec![0f32; self.cols];
        self.order.iter().zip(&self.input).for_each(|(j, d)| cols[*j] = d.sqrt());
        [self.output.iter().map(|o| o.sqrt()).collect(), cols]
    }

    /// x (R) with Pᵀ x = `u`: what a left factor of a whitened matrix stands for.
    pub fn unwhiten_output(&self, u: &[f64]) -> Vec<f64> {
        let mut x: Vec<f64> = u.iter().zip(&self.output).map(|(u, o)| u / f64::from(*o).sqrt()).collect();
        if !self.output_factor.is_empty() {
            // Row i of Pᵀ over P_ii: x_i plus what the rows above ask.
            for i in 0..self.rows {
                let v = x[i];
                x[i + 1..].iter_mut().zip(self.below(i)).for_each(|(x, a)| *x -= v * f64::from(*a));
            }
        }
        x
    }

    /// y (C) in natural order with yᵀ R = `v` in rounding order.
    pub fn unwhiten_input(&self, v: &[f64]) -> Vec<f64> {
        let mut x: Vec<f64> = v.iter().zip(&self.input).map(|(v, d)| v / f64::from(*d).sqrt()).collect();
        for k in 0..self.cols {
            let v = x[k];
            let input_factor = &self.input_factor[k * self.cols..(k + 1) * self.cols];
            x[k + 1..].iter_mut().zip(&input_factor[k + 1..]).for_each(|(x, f)| *x -= v * f64::from(*f));
        }
        let mut y = vec![0.0; self.cols];
        self.order.iter().zip(x).for_each(|(j, v)| y[*j] = v);
        y
    }
}

/// NaN and infinity as 0.
fn finite(v: f32) -> f64 {
    if v.is_finite() { f64::from(v) } else { 0.0 }
}

fn mean<'a>(values: impl ExactSizeIterator<Item = &'a f32>) -> f64 {
    let n = values.len().max(1) as f64;
    (values.map(|v| finite(*v)).sum::<f64>() / n).max(0.0)
}

/// What to divide by in place of a mean that may be 0.
fn positive(mean: f64) -> f64 {
    if mean > 0.0 { mean } else { 1.0 }
}

fn bounded(relative: f64) -> f32 {
    relative.clamp(1.0 / SPREAD, SPREAD) as f32
}

/// For a symmetric (n, n) matrix taken in `order`, over its mean diagonal and damped: the squared diagonal of its upper
/// triangular factor U (matrix = U Uᵀ) and U_jk / U_kk for j < k.
fn upper_factor(matrix: &[f32], order: &[usize], mean: f64, damping: f64) -> (Vec<f32>, Vec<f32>) {
    let n = order.len();
    let mut damping = damping;
    let lower = loop {
        match lower_factor(matrix, order, positive(mean), damping) {
            Some(lower) => break lower,
            None => damping = (10.0 * damping).max(FIRST_DAMPING),
        }
    };
    let diagonal = |k: usize| lower[(n - 1 - k, n - 1 - k)];
    let mut input_factor = vec![0f32; n * n];
    for k in 0..n {
        for j in 0..k {
            input_factor[j * n + k] = (lower[(n - 1 - j, n - 1 - k)] / diagonal(k)) as f32;
        }
    }
    ((0..n).map(|k| bounded(diagonal(k) * diagonal(k))).collect(), input_factor)
}

/// [`upper_factor`] of every block of (R, B), in natural order: the squared diagonals, and the rest as (R, B).
fn output_factor(blocks: &[f32], block: usize, mean: f64, damping: f64) -> (Vec<f32>, Vec<f32>) {
    let (mut squares, mut output_factor) = (Vec::new(), vec![0f32; blocks.len()]);
    for (part, output_factor) in blocks.chunks(block * block).zip(output_factor.chunks_mut(block * block)) {
        let n = part.len() / block;
        let cut: Vec<f32> = part.chunks_exact(block).flat_map(|row| &row[..n]).copied().collect();
        let natural: Vec<usize> = (0..n).collect();
        let (diagonal, rest) = upper_factor(&cut, &natural, mean, damping);
        squares.extend(diagonal);
        for (to, from) in output_factor.chunks_exact_mut(block).zip(rest.chunks_exact(n)) {
            to[..n].copy_from_slice(from);
        }
    }
    (squares, output_factor)
}

/// Lower factor of the matrix over `unit` with its order reversed and `damping` added to its diagonal: the reverse of the
/// upper one. `None` where it is not positive definite.
fn lower_factor(matrix: &[f32], order: &[usize], unit: f64, damping: f64) -> Option<Mat<f64>> {
    let n = order.len();
    let place = |i: usize| order[n - 1 - i];
    let mut factor = Mat::<f64>::from_fn(n, n, |i, j| {
        finite(matrix[place(i) * n + place(j)]) / unit + if i == j { damping } else { 0.0 }
    });
    // One thread: the caller factors many matrices side by side.
    let params: Spec<LltParams, f64> = Default::default();
    let mut memory = MemBuffer::new(cholesky_in_place_scratch::<f64>(n, Par::Seq, params));
    let stack = MemStack::new(&mut memory);
    cholesky_in_place(factor.as_mut(), LltRegularization::default(), Par::Seq, stack, params).ok()?;
    (0..n).all(|k| factor[(k, k)].is_finite() && factor[(k, k)] > 0.0).then_some(factor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn factors_give_back_the_quadratic_form() {
        let input = [4.0, 1.0, 0.5, 1.0, 3.0, 0.2, 0.5, 0.2, 5.0];
        let output = [2.0, 0.7, 0.7, 1.0];
        let curvature = Curvature { rows: 2, cols: 3, input: &input, output: &output };
        let m = Metric::new(curvature, Damping { input: 0.0, output: 0.0 });
        assert_eq!(m.order, vec![2, 0, 1]);
        let e = [[0.3f32, -0.2, 0.1], [0.5, 0.4, -0.6]];
        let mut direct = 0.0;
        for (i, k) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            for a in 0..3 {
                for b in 0..3 {
                    direct += output[i * 2 + k] * e[i][a] * input[a * 3 + b] * e[k][b];
                }
            }
        }
        let mut factored = 0.0;
        for c in 0..3 {
            let innovation: Vec<f32> = (0..2)
                .map(|i| e[i][m.order[c]] + (0..c).map(|j| e[i][m.order[j]] * m.input_factor[j * 3 + c]).sum::<f32>())
                .collect();
            for i in 0..2 {
                let v = innovation[i] + (0..i).map(|k| innovation[k] * m.output_factor[k * 2 + i]).sum::<f32>();
                factored += m.input[c] * m.output[i] * v * v;
            }
        }
        assert!((direct - factored).abs() < 1e-5, "{direct} against {factored}");
        let whitened = m.whiten(e.as_flattened());
        assert!((direct - whitened.iter().map(|v| v * v).sum::<f32>()).abs() < 1e-5);
        // In another order it is the same form.
        let turned = m.in_order(&[1, 2, 0]);
        let other = turned.whiten(e.as_flattened());
        assert_eq!(turned.order, [1, 2, 0]);
        assert!((direct - other.iter().map(|v| v * v).sum::<f32>()).abs() < 1e-5);
        // An outer product of unwhitened vectors is that of the vectors themselves once whitened.
        let (u, v) = ([0.3, -0.7], [0.2, 0.5, -0.4]);
        let (a, b) = (m.unwhiten_output(&u), m.unwhiten_input(&v));
        let outer: Vec<f32> = a.iter().flat_map(|a| b.iter().map(move |b| (a * b) as f32)).collect();
        for (k, w) in m.whiten(&outer).iter().enumerate() {
            assert!((f64::from(*w) - u[k / 3] * v[k % 3]).abs() < 1e-5);
        }
    }

    /// A Gram matrix of `samples` vectors of length n, scaled.
    fn gram(n: usize, samples: &[f32], scale: f32) -> Vec<f32> {
        let sum = |i: usize, j: usize| samples.chunks_exact(n).map(|x| x[i] * x[j]).sum::<f32>() * scale;
        (0..n * n).map(|k| sum(k / n, k % n)).collect()
    }

    proptest! {
        /// Rank-deficient, vanishing, tiny, huge, not even finite: there is a metric, and it is sane.
        #[test]
        fn every_curvature_factors(
            samples in prop::collection::vec(-1f32..1.0, 0..24),
            exponents in (-44i32..38, -44i32..38),
            broken in prop::option::of((0usize..36, prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(-1.0)])),
            diagonal in any::<bool>(),
        ) {
            let n = 6;
            let mut input = gram(n, &samples, 10f32.powi(exponents.0));
            let mut output = gram(n, &samples, 10f32.powi(exponents.1));
            if let Some((at, value)) = broken {
                input[at] = value;
                output[at] = value;
            }
            if diagonal {
                output.truncate(n);
            }
            let damping = Damping { input: 0.01, output: 0.01 };
            let m = Metric::new(Curvature { rows: n, cols: n, input: &input, output: &output }, damping);
            for v in m.input.iter().chain(&m.output) {
                prop_assert!(v.is_finite() && *v > 0.0, "{}", v);
            }
            prop_assert!(m.input_factor.iter().chain(&m.output_factor).all(|v| v.is_finite()));
        }
    }
}
