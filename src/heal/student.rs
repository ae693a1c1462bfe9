//! All streams of a file in training, and the weights that they stand for.

use rayon::prelude::*;

use super::param::Saved;
use super::trainable::{Trainable, TrainedStream};
use crate::model::Model;
use crate::train::adam::Betas;

/// The model in training.
pub struct Student {
    pub streams: Vec<TrainedStream>,
    /// By stored tensor, as they are now.
    pub weights: Vec<Vec<f32>>,
}

impl Student {
    /// Streams of which nothing is frozen yet, and the weights that they decode to untrained.
    pub fn new(streams: Vec<TrainedStream>, untrained: Vec<Vec<f32>>) -> Self {
        let mut student = Student { streams, weights: untrained };
        // Residuals were of matrices that were rounded; these no longer are.
        student.freeze(0.0, 1.0);
        student
    }

    /// Whether a matrix differs from that of `model` by more than `share` of its energy before anything is frozen.
    pub fn differs(&self, model: &Model, share: f32) -> bool {
        let matrices = self.streams.iter().filter(|s| !matches!(s.trainable, Trainable::Fixed | Trainable::Vectors(_)));
        matrices.map(|s| s.tensors[0]).any(|at| {
            let pairs = || self.weights[at].iter().zip(&model.stored[at].data[..]);
            pairs().map(|(a, b)| (a - b).powi(2)).sum::<f32>() > share * pairs().map(|(_, b)| b * b).sum::<f32>()
        })
    }

    /// `weights` follow what was learned.
    pub fn refresh(&mut self) {
        self.follow(|_, _| {});
    }

    /// Freezes columns of all matrices until `share` of each are, bits at `price` times their usual price.
    pub fn freeze(&mut self, share: f64, price: f32) {
        let before = self.references();
        self.streams.par_iter_mut().filter(|s| s.from.is_none()).for_each(|s| s.freeze(share, price));
        self.follow(|stream, now| {
            compensate(stream, now, &before);
            stream.freeze(share, price);
        });
    }

    /// The tensors that residuals start from, as they are now; nothing of all others.
    fn references(&self) -> Vec<Vec<f32>> {
        let reference = |i: usize| self.streams.iter().any(|s| s.compensates_for() == Some(i));
        (0..self.weights.len()).map(|i| if reference(i) { self.weights[i].clone() } else { Vec::new() }).collect()
    }

    /// `weights` become those of the streams; of those that start from others after `then`, which gets the weights before them.
    fn follow(&mut self, then: impl Fn(&mut TrainedStream, &[Vec<f32>])) {
        let alone = |s: &TrainedStream| if s.from.is_none() { s.weights(&[]) } else { Vec::new() };
        let independent: Vec<Vec<Vec<f32>>> = self.streams.par_iter().map(alone).collect();
        for (stream, mut own) in self.streams.iter_mut().zip(independent) {
            if stream.from.is_some() {
                then(stream, &self.weights);
                own = stream.weights(&self.weights);
            }
            stream.tensors.iter().zip(own).for_each(|(tensor, w)| self.weights[*tensor] = w);
        }
    }

    /// Bits of what is frozen beyond what it takes untrained, and the expected bits of the free columns.
    pub fn bits(&self) -> (f64, f64) {
        let each: Vec<(f64, f64)> = self.streams.par_iter().filter_map(|s| Some(s.freezing()?.budget())).collect();
        each.into_iter().fold((0.0, 0.0), |sum, own| (sum.0 + own.0, sum.1 + own.1))
    }

    /// One step against the gradients of all stored tensors: a rate for weights, one for all else.
    pub fn learn(&mut self, mut gradients: Vec<Vec<f32>>, rates: [f32; 2], betas: Betas) {
        self.streams.iter().rev().for_each(|stream| stream.hand_on(&mut gradients));
        let before = self.references();
        self.streams.par_iter_mut().for_each(|stream| stream.learn(&gradients, rates, betas));
        self.follow(|stream, now| compensate(stream, now, &before));
    }

    /// The streams once all is frozen; those that never change have the bytes that they had `before`.
    pub fn coded(&self, before: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let each = self.streams.par_iter().zip(before);
        each.map(|(stream, before)| stream.bytes().unwrap_or_else(|| before.clone())).collect()
    }

    pub fn snapshot(&mut self) -> Vec<Saved> {
        self.streams.iter_mut().flat_map(TrainedStream::params).map(|param| param.save()).collect()
    }

    pub fn restore(&mut self, kept: &[Saved]) {
        self.streams.iter_mut().flat_map(TrainedStream::params).zip(kept).for_each(|(param, kept)| param.restore(kept));
        self.refresh();
    }
}

fn compensate(stream: &mut TrainedStream, now: &[Vec<f32>], before: &[Vec<f32>]) {
    if let Some(from) = stream.compensates_for() {
        stream.compensate(now[from].iter().zip(&before[from]).map(|(now, before)| now - before).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::codec::matrix::{self, Settings};
    use crate::code::codec::sum::{add_up, loss};
    use crate::code::grid::trellis::{Odd, Trellis};
    use crate::code::quantize::metric::{Curvature, Damping, Metric};
    use crate::code::quantize::step_rule::{GRANULAR, Powers};
    use crate::heal::freeze::Freezing;
    use crate::heal::sum::Sum;
    use crate::nets::ops::check::{gram, values};

    const SIDES: [usize; 2] = [12, 16];
    const STEP: f64 = 0.02;
    const BETAS: Betas = Betas { first: 0.9, second: 0.95 };

    fn freezing(w: &[f32], metric: &Metric) -> Freezing {
        let trellis = Trellis::eight().odd(Odd::Plain);
        let settings = Settings { trellis, powers: Powers { rows: 0.75, cols: 1.0 }, lambda: 0.3 };
        let prices = matrix::converged(w, metric, STEP, &settings);
        let bytes = matrix::encode(w, metric, STEP, &settings, &prices).bytes;
        Freezing::new(w, metric, STEP, settings, &matrix::integers(&bytes, SIDES[0], SIDES[1]).unwrap())
    }

    /// Half of the first tensor and a residual, next to the first.
    #[test]
    fn a_residual_answers_for_itself() {
        let [rows, cols] = SIDES;
        let (input, output) = (gram(cols, 3), gram(rows, 4));
        let curvature = Curvature { rows, cols, input: &input, output: &output };
        let metric = Metric::new(curvature, Damping { input: 0.01, output: 0.01 });
        let (first, second, gain) = (values(rows * cols, 1), values(rows * cols, 2), 2048);
        let half = add_up(SIDES, Some((&first, gain)), None, None);
        let left: Vec<f32> = second.iter().zip(&half).map(|(w, h)| w - h).collect();
        let residual = Sum::new(SIDES, Some(gain), None, (Some(freezing(&left, &metric)), false));
        let alone = Sum::new(SIDES, None, None, (Some(freezing(&first, &metric)), false));
        let alone = Trainable::Sum(Box::new(alone));
        let stream = |tensor: usize, from: Option<usize>, trainable: Trainable| TrainedStream {
            tensors: vec![tensor],
            from,
            trainable,
        };
        let streams = vec![stream(0, None, alone), stream(1, Some(0), Trainable::Sum(Box::new(residual)))];
        let mut student = Student::new(streams, vec![first.clone(), second.clone()]);
        let apart = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        let mut frozen = Vec::new();
        for group in 0..4 {
            // The first moves on, frozen columns of the second stay where they are, and the others where they were.
            let (before, was) = (student.weights[1].clone(), student.weights[0].clone());
            student.learn(vec![values(rows * cols, 9 + group), vec![0.0; rows * cols]], [0.5, 0.5], BETAS);
            assert!(apart(&was, &student.weights[0]) > 1e-3);
            assert!(apart(&before, &student.weights[1]) < 1e-5, "{}", apart(&before, &student.weights[1]));
            student.freeze((group + 1) as f64 / 4.0, 1.0);
            frozen.push(apart(&second, &student.weights[1]));
        }
        let error: Vec<f32> = second.iter().zip(&student.weights[1]).map(|(a, b)| a - b).collect();
        let lost = loss(&error, &metric);
        // The loss of a grid alone: the rounding and the training of the first matrix are compensated.
        let usual = 0.5 * GRANULAR * STEP * STEP * (rows * cols) as f64;
        assert!(lost < 2.0 * usual, "{lost}, a grid alone {usual}; {frozen:?}");
    }
}
