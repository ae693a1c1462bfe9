//! The error metric of one matrix in the form rounding wants: triangular factors of its curvature.
//!
//! A change E costs ½ tr(O E H Eᵀ). With H = R Rᵀ and O = P Pᵀ (R, P upper triangular) that is ½ |Pᵀ E R|², so the
//! error of a later column or row can make good for that of the earlier ones: column k wants to be rounded from
//! `W_k + Σ_{j<k} E_j R_jk / R_kk` at the price R_kk² (LDLQ, arXiv:2307.13304, equal to GPTQ, arXiv:2210.17323), and
//! inside it row i likewise from the rows above (YAQA, arXiv:2505.22988).

use faer::{Mat, Par};

use crate::error::{Error, Result};
use crate::measure::curvature::Factors;

/// Triangular factors of one matrix's curvature (R rows, C columns).
#[derive(Debug, Clone)]
pub struct Metric {
    pub rows: usize,
    pub cols: usize,
    /// Columns in the order in which they are rounded: falling input energy.
    pub order: Vec<usize>,
    /// In that order: conditional variance d of each input given the later ones.
    pub input: Vec<f32>,
    /// (C, C) row-major in that order: R_jk / R_kk for j < k, else 0.
    pub feed: Vec<f32>,
    /// Conditional energy o of each output given the rows below.
    pub output: Vec<f32>,
    /// (R, R) row-major: P_ki / P_ii for k < i, else 0; empty where outputs count as uncorrelated.
    pub across: Vec<f32>,
}

/// What is added to the diagonals, relative to their mean: sampled factors are noisy where they are small.
#[derive(Debug, Clone, Copy)]
pub struct Damping {
    pub input: f64,
    pub output: f64,
}

impl Metric {
    /// Factors the curvature of one matrix.
    ///
    /// # Errors
    /// If a factor is not positive definite even when damped (the statistics hold NaN or overflow).
    pub fn new(factors: &Factors, damping: Damping) -> Result<Self> {
        let (rows, cols) = (factors.rows, factors.cols);
        let mut order: Vec<usize> = (0..cols).collect();
        let energy = |j: &usize| factors.input[j * (cols + 1)];
        order.sort_by(|a, b| energy(b).total_cmp(&energy(a)).then(a.cmp(b)));
        let (input, feed) = upper_factor(&factors.input, &order, damping.input)?;
        let (output, across) = if factors.diagonal_output() {
            let mean = factors.output.iter().map(|v| f64::from(*v)).sum::<f64>() / rows as f64;
            let damp = (damping.output * mean) as f32;
            (factors.output.iter().map(|v| v + damp).collect(), Vec::new())
        } else {
            let natural: Vec<usize> = (0..rows).collect();
            upper_factor(&factors.output, &natural, damping.output)?
        };
        Ok(Metric { rows, cols, order, input, feed, output, across })
    }
}

/// For a symmetric (n, n) matrix taken in `order`, damped: the squared diagonal of its upper triangular factor U
/// (matrix = U Uᵀ) and U_jk / U_kk for j < k.
fn upper_factor(matrix: &[f32], order: &[usize], damping: f64) -> Result<(Vec<f32>, Vec<f32>)> {
    let n = order.len();
    let mean = (0..n).map(|i| f64::from(matrix[i * (n + 1)])).sum::<f64>() / n as f64;
    let damp = damping * mean;
    // The upper factor is the lower factor of the matrix with its order reversed.
    let place = |i: usize| order[n - 1 - i];
    let reversed =
        Mat::<f64>::from_fn(n, n, |i, j| f64::from(matrix[place(i) * n + place(j)]) + if i == j { damp } else { 0.0 });
    faer::set_global_parallelism(Par::Seq);
    let factor = reversed.llt(faer::Side::Lower).map_err(|_| {
        Error::compute(format!("a curvature of size {n} is not positive definite, mean diagonal {mean:e}"))
    })?;
    let lower = factor.L();
    let diagonal = |k: usize| lower[(n - 1 - k, n - 1 - k)];
    let squared = (0..n).map(|k| (diagonal(k) * diagonal(k)) as f32).collect();
    let mut feed = vec![0f32; n * n];
    for k in 0..n {
        for j in 0..k {
            feed[j * n + k] = (lower[(n - 1 - j, n - 1 - k)] / diagonal(k)) as f32;
        }
    }
    Ok((squared, feed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_give_back_the_quadratic_form() {
        let input = vec![4.0, 1.0, 0.5, 1.0, 3.0, 0.2, 0.5, 0.2, 5.0];
        let output = vec![2.0, 0.7, 0.7, 1.0];
        let factors = Factors { rows: 2, cols: 3, input: input.clone(), output: output.clone() };
        let m = Metric::new(&factors, Damping { input: 0.0, output: 0.0 }).unwrap();
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
                .map(|i| e[i][m.order[c]] + (0..c).map(|j| e[i][m.order[j]] * m.feed[j * 3 + c]).sum::<f32>())
                .collect();
            for i in 0..2 {
                let v = innovation[i] + (0..i).map(|k| innovation[k] * m.across[k * 2 + i]).sum::<f32>();
                factored += m.input[c] * m.output[i] * v * v;
            }
        }
        assert!((direct - factored).abs() < 1e-5, "{direct} against {factored}");
    }
}
