//! Adam (Kingma and Ba, arXiv:1412.6980) on a slice.

use crate::nets::ops::simd::vectorized;

/// Decay of the two moments.
#[derive(Debug, Clone, Copy)]
pub struct Betas {
    pub first: f32,
    pub second: f32,
}

/// Moments of one tensor's gradient.
#[derive(Debug, Clone, Default)]
pub struct Adam {
    pub first: Vec<f32>,
    pub second: Vec<f32>,
    pub steps: i32,
}

/// Keeps the quotient finite where no gradient was ever seen.
const TINY: f32 = 1e-20;

impl Adam {
    pub fn new(len: usize) -> Self {
        Adam { first: vec![0.0; len], second: vec![0.0; len], steps: 0 }
    }

    /// Forgets all gradients.
    pub fn reset(&mut self) {
        *self = Adam::new(self.first.len());
    }

    /// One step: `x` moves by at most about `rate` against `gradient`.
    ///
    /// # Panics
    /// If lengths differ.
    pub fn step(&mut self, x: &mut [f32], gradient: &[f32], rate: f32, betas: Betas) {
        assert!(x.len() == self.first.len() && gradient.len() == x.len(), "one gradient and two moments per value");
        self.steps += 1;
        let [a, b] = [betas.first, betas.second].map(|beta| 1.0 / (1.0 - beta.powi(self.steps)));
        let values = x.iter_mut().zip(gradient).zip(&mut self.first).zip(&mut self.second);
        vectorized(
            #[inline(always)]
            || {
                for (((x, g), m), v) in values {
                    *m += (1.0 - betas.first) * (g - *m);
                    *v += (1.0 - betas.second) * (g * g - *v);
                    *x -= rate * (*m * a) / ((*v * b).sqrt() + TINY);
                }
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_bottom_of_a_bowl() {
        let scales = [1e-6f32, 1.0, 1e4];
        let mut x = vec![1.0f32, -2.0, 0.5];
        let mut adam = Adam::new(3);
        for k in 0..400 {
            let g: Vec<f32> = x.iter().zip(&scales).map(|(x, s)| x * s).collect();
            adam.step(&mut x, &g, 0.05 * (1.0 - k as f32 / 400.0), Betas { first: 0.9, second: 0.95 });
        }
        assert!(x.iter().all(|x| x.abs() < 0.01), "{x:?}");
    }

    #[test]
    fn moves_by_the_rate_and_not_where_there_is_no_gradient() {
        let mut x = vec![1.0f32, 1.0];
        Adam::new(2).step(&mut x, &[3e-9, 0.0], 0.1, Betas { first: 0.9, second: 0.99 });
        assert!((x[0] - 0.9).abs() < 1e-3 && x[1] == 1.0, "{x:?}");
    }
}
