//! All streams of a file in training, and the weights that they stand for.

use rayon::prelude::*;

use super::part::{Part, Stream};
use super::state::Kept;
use crate::model::Model;
use crate::train::adam::Betas;

/// The model in training.
pub struct Student {
    pub streams: Vec<Stream>,
    /// By stored tensor, as they are now.
    pub weights: Vec<Vec<f32>>,
}

impl Student {
    /// Streams of which nothing is bound yet, and the weights that they decode to untrained.
    pub fn new(streams: Vec<Stream>, untrained: Vec<Vec<f32>>) -> Self {
        let mut student = Student { streams, weights: untrained };
        // Residuals were of matrices that were rounded; these no longer are.
        student.bind(0.0, 1.0);
        student
    }

    /// Whether a matrix differs from that of `model` by more than `share` of its energy before anything is bound.
    pub fn differs(&self, model: &Model, share: f32) -> bool {
        let matrices = self.streams.iter().filter(|s| !matches!(s.part, Part::Fixed | Part::Vectors(_)));
        matrices.map(|s| s.tensors[0]).any(|at| {
            let pairs = || self.weights[at].iter().zip(&model.stored[at].data[..]);
            pairs().map(|(a, b)| (a - b).powi(2)).sum::<f32>() > share * pairs().map(|(_, b)| b * b).sum::<f32>()
        })
    }

    /// `weights` follow what was learned.
    pub fn refresh(&mut self) {
        self.follow(|_, _| {});
    }

    /// Binds columns of all matrices until `share` of each are, bits at `price` times their usual price.
    pub fn bind(&mut self, share: f64, price: f32) {
        let before = self.references();
        self.streams.par_iter_mut().filter(|s| s.from.is_none()).for_each(|s| s.bind(share, price));
        self.follow(|stream, now| {
            give_way(stream, now, &before);
            stream.bind(share, price);
        });
    }

    /// The tensors that others start from, as they are now; nothing of all others.
    fn references(&self) -> Vec<Vec<f32>> {
        let reference = |i: usize| self.streams.iter().any(|s| s.from == Some(i));
        (0..self.weights.len()).map(|i| if reference(i) { self.weights[i].clone() } else { Vec::new() }).collect()
    }

    /// `weights` become those of the streams; of those that start from others after `then`, which gets the weights before them.
    fn follow(&mut self, then: impl Fn(&mut Stream, &[Vec<f32>])) {
        let alone = |s: &Stream| if s.from.is_none() { s.weights(&[]) } else { Vec::new() };
        let independent: Vec<Vec<Vec<f32>>> = self.streams.par_iter().map(alone).collect();
        for (stream, mut own) in self.streams.iter_mut().zip(independent) {
            if stream.from.is_some() {
                then(stream, &self.weights);
                own = stream.weights(&self.weights);
            }
            stream.tensors.iter().zip(own).for_each(|(tensor, w)| self.weights[*tensor] = w);
        }
    }

    /// Bits of what is bound beyond what it takes untrained, and what the loose columns would take.
    pub fn bits(&self) -> (f64, f64) {
        let each: Vec<(f64, f64)> = self.streams.par_iter().filter_map(|s| Some(s.binding()?.budget())).collect();
        each.into_iter().fold((0.0, 0.0), |sum, own| (sum.0 + own.0, sum.1 + own.1))
    }

    /// One step against the gradients of all stored tensors: a rate for weights, one for all else.
    pub fn learn(&mut self, mut gradients: Vec<Vec<f32>>, rates: [f32; 2], betas: Betas) {
        self.streams.iter().rev().for_each(|stream| stream.hand_on(&mut gradients));
        let before = self.references();
        self.streams.par_iter_mut().for_each(|stream| stream.learn(&gradients, rates, betas));
        self.follow(|stream, now| give_way(stream, now, &before));
    }

    /// The streams once all is bound; those that never change have the bytes that they had `before`.
    pub fn coded(&self, before: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let each = self.streams.par_iter().zip(before);
        each.map(|(stream, before)| stream.bytes().unwrap_or_else(|| before.clone())).collect()
    }

    pub fn snapshot(&mut self) -> Vec<Kept> {
        self.streams.iter_mut().flat_map(Stream::slots).map(|slot| slot.keep()).collect()
    }

    pub fn restore(&mut self, kept: &[Kept]) {
        self.streams.iter_mut().flat_map(Stream::slots).zip(kept).for_each(|(slot, kept)| slot.take_back(kept));
        self.refresh();
    }
}

fn give_way(stream: &mut Stream, now: &[Vec<f32>], before: &[Vec<f32>]) {
    if let Some(from) = stream.from {
        stream.give_way(now[from].iter().zip(&before[from]).map(|(now, before)| now - before).collect());
    }
}
