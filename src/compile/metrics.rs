//! The error metric of each tensor: its measured curvature, in the form that coding needs.

use std::borrow::Cow;

use rayon::prelude::*;

use crate::code::codec::matrix::Settings;
use crate::code::codec::vectors;
use crate::code::grid::trellis::{self, Trellis};
use crate::code::quantize::metric::{self, Damping, Metric};
use crate::code::quantize::step_rule::Powers;
use crate::measure::Statistics;
use crate::measure::curvature::{Curvature, Factors};
use crate::model::Model;
use crate::recipe::{Grid, Odd};

/// GPTQ's damping is enough for statistics of this many tokens; fewer are noisier and need more.
const WELL_MEASURED: f64 = 400_000.0;
const POWERS: Powers = Powers { rows: 0.75, cols: 1.0 };
/// High-rate theory says 2 ln 2 times the loss per weight, which is about .27 c²; measured best a little below.
const LAMBDA: f32 = 0.3;
/// A control tensor acts on a whole channel: where nothing was measured, its values count so many times a weight's.
const CHANNEL: f32 = 10.0;

/// Damping of curvature measured on `tokens` calibration tokens.
fn damping(tokens: usize) -> Damping {
    let noise = (WELL_MEASURED / tokens.max(1) as f64).sqrt().clamp(1.0, 10.0);
    Damping { input: 0.01 * noise, output: 0.01 }
}

/// Settings of search and coding of a matrix on this grid.
pub(super) fn settings(grid: Grid) -> Settings {
    let odd = match grid.odd {
        Odd::Plain => trellis::Odd::Plain,
        Odd::WithZero => trellis::Odd::WithZero,
    };
    let trellis = Trellis::with_states(grid.states).unwrap_or_else(Trellis::eight).odd(odd);
    Settings { trellis, powers: POWERS, lambda: LAMBDA }
}

/// The metric of one matrix from its measured factors.
pub(super) fn metric_of(factors: &Factors, tokens: usize) -> Metric {
    let Factors { rows, cols, input, output } = factors;
    Metric::new(metric::Curvature { rows: *rows, cols: *cols, input, output }, damping(tokens))
}

/// The metrics of all stored tensors.
pub(super) struct Metrics<'a> {
    statistics: Option<&'a Statistics>,
    /// Metrics of the matrices whose curvature is known, by stored index.
    known: Vec<Option<Metric>>,
    /// The curvature assumed for a weight whose own is not known.
    usual: f32,
}

impl<'a> Metrics<'a> {
    /// Where there are no statistics, or none of a tensor, all its weights count alike.
    pub fn new(model: &Model, statistics: Option<&'a Statistics>) -> Metrics<'a> {
        let Some(measured) = statistics else {
            let usual = 1.0 / model.weights().max(1) as f32;
            return Metrics { statistics, known: model.stored.iter().map(|_| None).collect(), usual };
        };
        let known: Vec<Option<Metric>> = measured
            .curvature
            .par_iter()
            .map(|c| match c {
                Curvature::Matrix(factors) => Some(metric_of(factors, measured.tokens)),
                Curvature::Vector(_) | Curvature::Unknown => None,
            })
            .collect();
        // The mean over the weights that were measured.
        let (mut energy, mut weights) = (0f64, 0f64);
        for factors in
            measured.curvature.iter().filter_map(|c| if let Curvature::Matrix(f) = c { Some(f) } else { None })
        {
            let trace = |v: &[f32], n: usize| -> f64 {
                let block = v.len() / n;
                (0..n).map(|i| f64::from(v[i * block + i % block])).sum()
            };
            energy += trace(&factors.input, factors.cols) * trace(&factors.output, factors.rows);
            weights += (factors.rows * factors.cols) as f64;
        }
        let usual =
            if energy > 0.0 && energy.is_finite() { energy / weights } else { 1.0 / model.weights().max(1) as f64 };
        Metrics { statistics, known, usual: usual as f32 }
    }

    /// The metric of a stored matrix.
    pub fn of(&self, model: &Model, stored: usize) -> Cow<'_, Metric> {
        match &self.known[stored] {
            Some(metric) => Cow::Borrowed(metric),
            None => {
                let (rows, cols) = model.sides(stored);
                Cow::Owned(Metric::flat(rows, cols, self.usual))
            }
        }
    }

    /// The measured factors of a stored matrix.
    pub fn factors(&self, stored: usize) -> Option<&Factors> {
        match self.statistics.map(|s| &s.curvature[stored]) {
            Some(Curvature::Matrix(factors)) => Some(factors),
            _ => None,
        }
    }

    /// The metric of factors that were measured together with the others.
    pub fn metric_of(&self, factors: &Factors) -> Metric {
        metric_of(factors, self.statistics.map_or(0, |s| s.tokens))
    }

    /// Whether the curvature of a stored tensor was not measured though there are statistics.
    pub fn is_guessed(&self, stored: usize) -> bool {
        self.statistics.is_some_and(|s| matches!(s.curvature[stored], Curvature::Unknown))
    }

    /// Measured over predicted loss when this matrix alone is quantized.
    pub fn correction(&self, stored: usize) -> f64 {
        self.statistics.map_or(1.0, |s| s.correction[stored])
    }

    /// Control tensors with their curvature.
    pub fn control_tensors(&self, model: &'a Model, tensors: &[usize]) -> Vec<vectors::Tensor<'_>> {
        let curvature = |i: usize| match self.statistics.map(|s| &s.curvature[i]) {
            Some(Curvature::Vector(measured)) => Cow::Borrowed(&measured[..]),
            _ => Cow::Owned(vec![CHANNEL * self.usual; model.stored[i].data.len()]),
        };
        let tensor = |&i: &usize| vectors::Tensor {
            data: &model.stored[i].data,
            curvature: curvature(i),
            width: model.shape(i).last().copied().unwrap_or(1),
        };
        tensors.iter().map(tensor).collect()
    }

    /// Whether a stored tensor may as well be zero: it is, or nothing that it does reaches the predictions.
    pub fn vanishes(&self, model: &Model, stored: usize) -> bool {
        let dead = match self.statistics.map(|s| &s.curvature[stored]) {
            Some(Curvature::Matrix(factors)) => factors.vanishes(),
            _ => false,
        };
        model.is_matrix(stored) && (dead || model.stored[stored].data.iter().all(|v| *v == 0.0))
    }
}
