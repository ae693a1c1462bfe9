//! Muon (Jordan et al., 2024, kellerjordan.github.io/posts/muon): momentum made orthogonal, for matrices.

use crate::nets::ops::product::{View, product};
use crate::nets::ops::simd::vectorized;

/// Coefficients of the quintic Newton–Schulz iteration, chosen there for the steepest slope at zero, and its iterations.
const QUINTIC: [f32; 3] = [3.4445, -4.7750, 2.0315];
const ITERATIONS: usize = 5;

/// Momentum of one matrix.
#[derive(Debug, Clone, Default)]
pub struct Muon {
    /// (R, C), row-major.
    pub velocity: Vec<f32>,
    pub cols: usize,
}

impl Muon {
    pub fn new(rows: usize, cols: usize) -> Self {
        Muon { velocity: vec![0.0; rows * cols], cols }
    }

    /// One step with Nesterov's momentum: `x` moves against the orthogonal matrix nearest to it, all of whose singular
    /// values are about `rate`, times √(R/C) for a tall matrix, so that outputs change as much whatever the shape.
    ///
    /// # Panics
    /// If lengths differ.
    pub fn step(&mut self, x: &mut [f32], gradient: &[f32], rate: f32, momentum: f32) {
        let n = self.velocity.len();
        assert!(x.len() == n && gradient.len() == n, "one gradient and one velocity per value");
        if n == 0 {
            return;
        }
        let mut ahead = vec![0f32; n];
        vectorized(
            #[inline(always)]
            || {
                for ((v, g), ahead) in self.velocity.iter_mut().zip(gradient).zip(&mut ahead) {
                    *v = momentum * *v + g;
                    *ahead = g + momentum * *v;
                }
            },
        );
        let rows = n / self.cols;
        let size = rate * (rows as f32 / self.cols as f32).max(1.0).sqrt();
        let direction = orthogonal(ahead, rows, self.cols);
        x.iter_mut().zip(direction).for_each(|(x, d)| *x -= size * d);
    }
}

/// About U·Vᵀ of a matrix U·Σ·Vᵀ (R, C): singular values come out between .7 and 1.2, which does as well as 1. Zero stays zero.
fn orthogonal(mut x: Vec<f32>, rows: usize, cols: usize) -> Vec<f32> {
    let norm = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt() as f32;
    x.iter_mut().for_each(|v| *v /= norm + 1e-20);
    // The Gram matrix of the shorter side: X·Xᵀ acts from the left, Xᵀ·X from the right.
    let (wide, n) = (rows <= cols, rows.min(cols));
    let [a, b, c] = QUINTIC;
    let (mut gram, mut square, mut next) = (vec![0f32; n * n], vec![0f32; n * n], vec![0f32; x.len()]);
    for _ in 0..ITERATIONS {
        let view = View::dense(&x, rows, cols);
        let (left, right) = if wide { (view, view.t()) } else { (view.t(), view) };
        product(&mut gram, n, left, right, 1.0, false);
        let g = View::dense(&gram, n, n);
        product(&mut square, n, g, g, c, false);
        square.iter_mut().zip(&gram).for_each(|(s, g)| *s += b * g);
        let s = View::dense(&square, n, n);
        let (left, right) = if wide { (s, view) } else { (view, s) };
        product(&mut next, cols, left, right, 1.0, false);
        next.iter_mut().zip(&x).for_each(|(y, x)| *y += a * x);
        std::mem::swap(&mut x, &mut next);
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nets::ops::check::values;

    #[test]
    fn singular_values_become_about_one() {
        for (rows, cols) in [(6, 20), (20, 6), (9, 9)] {
            let x = orthogonal(values(rows * cols, 3), rows, cols);
            let m = faer::Mat::<f64>::from_fn(rows, cols, |i, j| f64::from(x[i * cols + j]));
            let s = m.thin_svd().unwrap();
            for k in 0..rows.min(cols) {
                assert!((0.6..1.3).contains(&s.S()[k]), "{rows}x{cols}: {}", s.S()[k]);
            }
        }
        assert_eq!(orthogonal(vec![0.0; 6], 2, 3), vec![0.0; 6]);
    }

    #[test]
    fn finds_the_nearest_matrix() {
        let target = values(24, 5);
        let mut x = vec![0f32; 24];
        let mut muon = Muon::new(4, 6);
        for k in 0..300 {
            let g: Vec<f32> = x.iter().zip(&target).map(|(x, y)| x - y).collect();
            muon.step(&mut x, &g, 0.05 * (1.0 - k as f32 / 300.0), 0.9);
        }
        assert!(x.iter().zip(&target).all(|(x, y)| (x - y).abs() < 0.02), "{x:?}");
    }
}
