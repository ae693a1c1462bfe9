//! A sum in training: a multiple of an earlier matrix, a low-rank term, a residual on a grid.
//!
//! The gain stays. Factors of a low-rank term that learn have shadows on the scale of their integers, seen through these as if there
//! were no rounding (the straight-through estimator, Bengio et al., arXiv:1308.3432). The residual is a [`Freezing`] and compensates
//! for the changes of the earlier matrix; where there is none, the gradient is passed on to that matrix.

use super::freeze::Freezing;
use super::param::{ParamRef, adam};
use crate::code::codec::sum::{self, LowRank};
use crate::nets::ops::product::{View, product};
use crate::train::adam::{Adam, Betas};

/// How much faster a factor moves than a residual: an integer of it is a small part of what training can change.
const FASTER: f32 = 4.0;

/// A matrix (R, C) in training.
pub struct Sum {
    rows: usize,
    cols: usize,
    gain: Option<i16>,
    low_rank: Option<Factors>,
    /// Whether factors learn. Under a fine residual they stay: their grids are coarse, and a jump of theirs would move frozen columns.
    factors_learn: bool,
    pub residual: Option<Freezing>,
}

/// Shadows of the integers of a low-rank term: A (r, R) and B (r, C), and the power of two of each component.
struct Factors {
    exponents: Vec<i32>,
    a: (Vec<f32>, Adam),
    b: (Vec<f32>, Adam),
}

impl Sum {
    /// From a gain, a low-rank term and a residual, each if there is one; `coarse` says whether that of the residual is a grid
    /// that leaves out most ([`sum::is_coarse`]).
    pub fn new(
        [rows, cols]: [usize; 2],
        gain: Option<i16>,
        term: Option<LowRank>,
        (residual, coarse): (Option<Freezing>, bool),
    ) -> Self {
        let shadow = |x: &[i32]| (x.iter().map(|v| *v as f32).collect::<Vec<_>>(), Adam::new(x.len()));
        let low_rank = term.map(|t| Factors { a: shadow(&t.a), b: shadow(&t.b), exponents: t.exponents });
        Sum { rows, cols, gain, low_rank, factors_learn: coarse || residual.is_none(), residual }
    }

    /// α, 0 where there is no such term.
    pub fn gain(&self) -> f32 {
        self.gain.map_or(0.0, sum::gain_value)
    }

    /// The weights (R, C) now.
    pub fn weights(&self, reference: Option<&[f32]>) -> Vec<f32> {
        let low_rank = self.low_rank.as_ref().map(Factors::rounded);
        let residual = self.residual.as_ref().map(Freezing::weights);
        sum::add_up([self.rows, self.cols], reference.zip(self.gain), low_rank.as_ref(), residual)
    }

    /// The stream, once all of the residual is frozen.
    pub fn stream(&self) -> Vec<u8> {
        let residual = self.residual.as_ref().map(Freezing::stream);
        match (self.gain, &self.low_rank, residual) {
            // A grid alone has a codec of its own, without a byte that says which terms there are.
            (None, None, Some(residual)) => residual,
            (gain, low_rank, residual) => {
                let low_rank = low_rank.as_ref().map(Factors::rounded);
                sum::write([self.rows, self.cols], gain, low_rank.as_ref(), residual.as_deref())
            }
        }
    }

    /// Moves factors and residual against the gradient (R, C) of the weights.
    pub fn learn(&mut self, gradient: &[f32], rates: [f32; 2], betas: Betas) {
        if let (Some(factors), true) = (&mut self.low_rank, self.factors_learn) {
            factors.learn(gradient, [self.rows, self.cols], FASTER * rates[1], betas);
        }
        if let Some(residual) = &mut self.residual {
            residual.learn(gradient, rates[0], betas);
        }
    }

    /// The parameters that training changes.
    pub fn params(&mut self) -> Vec<ParamRef<'_>> {
        let factors = self.low_rank.iter_mut().flat_map(|f| [&mut f.a, &mut f.b]);
        let mut params: Vec<ParamRef> = factors.flat_map(|(values, moments)| adam(values, moments)).collect();
        params.extend(self.residual.iter_mut().flat_map(Freezing::params));
        params
    }

    /// Whether what was read into the parameters belongs together.
    pub fn is_sound(&self) -> bool {
        let sized = |(x, adam): &(Vec<f32>, Adam), n: usize, rank: usize| {
            [x, &adam.first, &adam.second].iter().all(|v| v.len() == n * rank)
        };
        let factors = self
            .low_rank
            .as_ref()
            .is_none_or(|f| sized(&f.a, self.rows, f.exponents.len()) && sized(&f.b, self.cols, f.exponents.len()));
        factors && self.residual.as_ref().is_none_or(Freezing::is_sound)
    }
}

impl Factors {
    fn rounded(&self) -> LowRank {
        let limit = (sum::MOST - 1) as f32;
        let round = |x: &[f32]| x.iter().map(|v| v.round().clamp(-limit, limit) as i32).collect();
        LowRank { exponents: self.exponents.clone(), a: round(&self.a.0), b: round(&self.b.0) }
    }

    /// dA_k = 2^e_k · dW · b_k, dB_k = 2^e_k · dWᵀ · a_k.
    fn learn(&mut self, gradient: &[f32], [rows, cols]: [usize; 2], rate: f32, betas: Betas) {
        let now = self.rounded();
        let rank = self.exponents.len();
        let scaled = |x: &[i32], n: usize| -> Vec<f32> {
            let unit = |k: usize| (self.exponents[k] as f32).exp2();
            x.iter().enumerate().map(|(i, v)| *v as f32 * unit(i / n.max(1))).collect()
        };
        let (a, b) = (scaled(&now.a, rows), scaled(&now.b, cols));
        let (mut da, mut db) = (vec![0f32; rank * rows], vec![0f32; rank * cols]);
        let g = View::dense(gradient, rows, cols);
        product(&mut da, rows, View::dense(&b, rank, cols), g.t(), 1.0, false);
        product(&mut db, cols, View::dense(&a, rank, rows), g, 1.0, false);
        for ((values, adam), gradient) in [(&mut self.a, da), (&mut self.b, db)] {
            adam.step(values, &gradient, rate, betas);
        }
    }
}
