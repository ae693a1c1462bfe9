//! A sum in training: a multiple of an earlier matrix, a low-rank term, a residual on a grid.
//!
//! The gain stays. Factors of the low-rank term have shadows on the scale of their integers, the residual is a [`Lattice`];
//! what the gradient asks of the earlier matrix is handed on to it.

use super::lattice::Lattice;
use super::state::Moments;
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
    residual: Option<Lattice>,
}

/// Shadows of the integers of a low-rank term: A (r, R) and B (r, C), and the power of two of each component.
struct Factors {
    exponents: Vec<i32>,
    a: (Vec<f32>, Adam),
    b: (Vec<f32>, Adam),
}

/// What a sum is at one moment.
pub struct Content {
    low_rank: Option<LowRank>,
    indices: Option<Vec<i32>>,
}

impl Sum {
    /// From a gain, a low-rank term and a residual, each if there is one.
    pub fn new([rows, cols]: [usize; 2], gain: Option<i16>, term: Option<LowRank>, residual: Option<Lattice>) -> Self {
        let shadow = |x: &[i32]| (x.iter().map(|v| *v as f32).collect::<Vec<_>>(), Adam::new(x.len()));
        let low_rank = term.map(|t| Factors { a: shadow(&t.a), b: shadow(&t.b), exponents: t.exponents });
        Sum { rows, cols, gain, low_rank, residual }
    }

    /// α, 0 where there is no such term.
    pub fn gain(&self) -> f32 {
        self.gain.map_or(0.0, sum::gain_value)
    }

    /// The weights (R, C) now, and what makes them.
    pub fn now(&self, price: f32, reference: Option<&[f32]>) -> (Vec<f32>, Content) {
        let low_rank = self.low_rank.as_ref().map(Factors::rounded);
        let indices = self.residual.as_ref().map(|lattice| lattice.indices(price));
        let residual = self.residual.as_ref().zip(indices.as_ref()).map(|(lattice, q)| lattice.weights(q));
        let reference = reference.zip(self.gain);
        let weights = sum::add_up([self.rows, self.cols], reference, low_rank.as_ref(), residual);
        (weights, Content { low_rank, indices })
    }

    /// The stream of what a sum is at a moment.
    pub fn stream(&self, content: &Content) -> Vec<u8> {
        let residual = self.residual.as_ref().zip(content.indices.as_ref()).map(|(lattice, q)| lattice.stream(q));
        sum::write([self.rows, self.cols], self.gain, content.low_rank.as_ref(), residual.as_deref())
    }

    pub fn reprice(&mut self, content: &Content) {
        if let (Some(lattice), Some(indices)) = (&mut self.residual, &content.indices) {
            lattice.reprice(indices);
        }
    }

    /// Moves factors and residual against the gradient (R, C) of the weights.
    pub fn learn(&mut self, gradient: &[f32], rate: f32, betas: Betas) {
        if let Some(factors) = &mut self.low_rank {
            factors.learn(gradient, [self.rows, self.cols], FASTER * rate, betas);
        }
        if let Some(lattice) = &mut self.residual {
            lattice.learn(gradient, rate, betas);
        }
    }

    /// What training changes.
    pub fn moments(&mut self) -> Vec<Moments<'_>> {
        let mut out = Vec::new();
        if let Some(Factors { a, b, .. }) = &mut self.low_rank {
            out.extend([a, b].map(|(values, adam)| Moments { values, adam, prices: None }));
        }
        out.extend(self.residual.as_mut().map(Lattice::moments));
        out
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
