//! The axes along which the curvature of a matrix is diagonal.
//!
//! A Kronecker-factored curvature O ⊗ H is diagonal in the eigenvectors of O and of H (George et al., arXiv:1806.03884). What
//! the other matrices ask of this one lies along these, not along single weights: once every axis is scaled to cost the same,
//! steps of Adam's kind find it (SOAP, arXiv:2409.11321; here the factors were measured beforehand).

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{ComputeEigenvectors, SelfAdjointEvdParams, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Par, Spec};

use crate::code::quantize::metric::Metric;
use crate::nets::ops::product::{View, product};

/// Eigenvectors of one side of a curvature, in blocks along its diagonal.
pub struct Eigenbasis {
    blocks: Vec<Block>,
}

struct Block {
    size: usize,
    /// (n, n) row-major, a column for each; empty: the axes as they are.
    vectors: Vec<f32>,
    /// Of the eigenvalues.
    roots: Vec<f32>,
}

impl Eigenbasis {
    /// Of the output side, in natural order.
    pub fn output(metric: &Metric) -> Self {
        let (rows, block) = (metric.rows, metric.block);
        if metric.output_factor.is_empty() {
            let roots = metric.output.iter().map(|o| o.sqrt()).collect();
            return Eigenbasis { blocks: vec![Block { size: rows, vectors: Vec::new(), roots }] };
        }
        let of = |start: usize| {
            let n = block.min(rows - start);
            Block::new(factor(n, &metric.output[start..], |j, k| metric.output_factor[(start + j) * block + k]))
        };
        Eigenbasis { blocks: (0..rows).step_by(block).map(of).collect() }
    }

    /// Of the columns that come at `from` or later in rounding order.
    pub fn input(metric: &Metric, from: usize) -> Self {
        let cols = metric.cols;
        let of = |j: usize, k: usize| metric.input_factor[(from + j) * cols + from + k];
        Eigenbasis { blocks: vec![Block::new(factor(cols - from, &metric.input[from..], of))] }
    }
}

/// The upper triangular R of a curvature R Rᵀ from its squared diagonal and R_jk / R_kk.
pub(super) fn factor(n: usize, squares: &[f32], unit: impl Fn(usize, usize) -> f32) -> Mat<f64> {
    let mut r = Mat::zeros(n, n);
    for (k, square) in squares[..n].iter().enumerate() {
        let diagonal = f64::from(*square).sqrt();
        r[(k, k)] = diagonal;
        for j in 0..k {
            r[(j, k)] = f64::from(unit(j, k)) * diagonal;
        }
    }
    r
}

impl Block {
    fn new(r: Mat<f64>) -> Self {
        let n = r.nrows();
        let mut h = Mat::<f64>::zeros(n, n);
        // One thread: the caller does many matrices side by side, and sums must not depend on how many threads there are.
        matmul(h.as_mut(), Accum::Replace, r.as_ref(), r.transpose(), 1.0, Par::Seq);
        let params: Spec<SelfAdjointEvdParams, f64> = Default::default();
        let need = self_adjoint_evd_scratch(n, ComputeEigenvectors::Yes, Par::Seq, params);
        let mut memory = MemBuffer::new(need);
        let (mut values, mut vectors) = (Diag::<f64>::zeros(n), Mat::<f64>::zeros(n, n));
        let stack = MemStack::new(&mut memory);
        let found =
            self_adjoint_evd(h.as_ref(), values.as_mut(), Some(vectors.as_mut()), Par::Seq, stack, params).is_ok();
        let values: Vec<f64> = (0..n).map(|k| if found { values.column_vector()[k] } else { h[(k, k)] }).collect();
        // Rounding may take the least ones below zero.
        let least = 1e-9 * values.iter().sum::<f64>() / n.max(1) as f64;
        Block {
            size: n,
            roots: values.iter().map(|v| v.max(least).max(f64::from(f32::MIN_POSITIVE)).sqrt() as f32).collect(),
            vectors: if found { (0..n * n).map(|k| vectors[(k / n, k % n)] as f32).collect() } else { Vec::new() },
        }
    }

    fn vectors(&self) -> Option<View<'_>> {
        (!self.vectors.is_empty()).then(|| View::dense(&self.vectors, self.size, self.size))
    }
}

/// A gradient G (R, n) along the axes, each in units of the root of its curvature: √Λ⁻¹ Uᵀ G V √M⁻¹.
pub fn whiten_gradient(g: &[f32], output: &Eigenbasis, input: &Eigenbasis) -> Vec<f32> {
    let mut x = along(g, output, input, false);
    scale(&mut x, output, input);
    x
}

/// The change of weights (R, n) that these coordinates stand for: U √Λ⁻¹ x √M⁻¹ Vᵀ.
pub fn unwhiten_change(mut x: Vec<f32>, output: &Eigenbasis, input: &Eigenbasis) -> Vec<f32> {
    scale(&mut x, output, input);
    along(&x, output, input, true)
}

/// Uᵀ X V, or U X Vᵀ if `back`.
fn along(x: &[f32], output: &Eigenbasis, input: &Eigenbasis, back: bool) -> Vec<f32> {
    let cols: usize = input.blocks.iter().map(|b| b.size).sum();
    let mut half = x.to_vec();
    let mut start = 0;
    for block in &output.blocks {
        if let Some(u) = block.vectors() {
            let place = start * cols..(start + block.size) * cols;
            let rows = View::dense(&x[place.clone()], block.size, cols);
            product(&mut half[place], cols, if back { u } else { u.t() }, rows, 1.0, false);
        }
        start += block.size;
    }
    let mut whole = half.clone();
    let mut first = 0;
    for block in &input.blocks {
        if let Some(v) = block.vectors() {
            let columns = View::strided(&half[first..], start, block.size, cols);
            product(&mut whole[first..], cols, columns, if back { v.t() } else { v }, 1.0, false);
        }
        first += block.size;
    }
    whole
}

fn scale(x: &mut [f32], output: &Eigenbasis, input: &Eigenbasis) {
    let columns: Vec<f32> = input.blocks.iter().flat_map(|b| &b.roots).map(|r| 1.0 / r).collect();
    let rows = output.blocks.iter().flat_map(|b| &b.roots);
    for (row, root) in x.chunks_exact_mut(columns.len().max(1)).zip(rows) {
        row.iter_mut().zip(&columns).for_each(|(v, c)| *v *= c / root);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::quantize::metric::{Curvature, Damping};
    use crate::nets::ops::check::{gram, values};

    /// The whitened gradient, taken back, is the step of Newton's method: O E H = G.
    #[test]
    fn a_whole_whitened_step_solves_for_the_gradient() {
        let (rows, cols) = (32, 6);
        let whole = gram(rows, 1);
        let blocks: Vec<f32> = (0..rows * 16).map(|k| whole[k / 16 * rows + k / 16 / 16 * 16 + k % 16]).collect();
        let diagonal: Vec<f32> = (0..rows).map(|i| whole[i * rows + i]).collect();
        for output in [&whole, &blocks, &diagonal] {
            let curvature = Curvature { rows, cols, input: &gram(cols, 2), output };
            let metric = Metric::new(curvature, Damping { input: 0.1, output: 0.1 });
            for from in [0, 2] {
                let n = cols - from;
                let (u, v) = (Eigenbasis::output(&metric), Eigenbasis::input(&metric, from));
                let g = values(rows * n, 3);
                let step = unwhiten_change(whiten_gradient(&g, &u, &v), &u, &v);
                // As seen by the metric: only the free columns move.
                let mut e = vec![0f32; rows * cols];
                let mut gradient = vec![0f32; rows * cols];
                for (k, (s, g)) in step.iter().zip(&g).enumerate() {
                    let place = k / n * cols + metric.order[from + k % n];
                    (e[place], gradient[place]) = (*s, *g);
                }
                let energy: f32 = metric.whiten(&e).iter().map(|v| v * v).sum();
                let linear: f32 = e.iter().zip(&gradient).map(|(e, g)| e * g).sum();
                assert!((energy - linear).abs() < 1e-3 * energy, "{energy} against {linear}");
                // No other step of that energy goes further down.
                let other = values(rows * n, 4);
                let at = |change: &[f32]| {
                    let mut e = vec![0f32; rows * cols];
                    for (k, c) in change.iter().enumerate() {
                        e[k / n * cols + metric.order[from + k % n]] = *c;
                    }
                    let energy: f32 = metric.whiten(&e).iter().map(|v| v * v).sum();
                    e.iter().zip(&gradient).map(|(e, g)| e * g).sum::<f32>() - 0.5 * energy
                };
                let beside: Vec<f32> = step.iter().zip(&other).map(|(s, o)| s + 0.1 * o).collect();
                assert!(at(&step) > at(&beside));
            }
        }
    }
}
