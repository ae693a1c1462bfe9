//! Quantizes a model to meet a byte budget.

use rayon::prelude::*;

use super::{Options, Pieces, header, too_large};
use crate::artifact::layout::{StreamEntry, codec};
use crate::artifact::write::size_of;
use crate::code::indices::Prices;
use crate::code::matrix::{self, Coded, Settings};
use crate::code::metric::{Damping, Metric};
use crate::code::steps::Exponents;
use crate::code::trellis::{Odd, Trellis};
use crate::code::vectors;
use crate::error::{Error, Result};
use crate::measure::Statistics;
use crate::measure::curvature::Curvature;
use crate::model::Model;
use crate::plan::budget::{Encoder, Outcome, Part, approach, meet};
use crate::progress::Progress;

/// GPTQ's damping is enough for statistics of this many tokens; fewer are noisier and need more.
const WELL_MEASURED: f64 = 400_000.0;

/// How much to trust curvature from `tokens` calibration tokens.
pub(super) fn damping(tokens: usize) -> Damping {
    let noise = (WELL_MEASURED / tokens.max(1) as f64).sqrt().clamp(1.0, 10.0);
    Damping { input: 0.01 * noise, output: 0.01 }
}

const EXPONENTS: Exponents = Exponents { rows: 0.75, cols: 1.0 };
/// High-rate theory says 2 ln 2 times the loss per weight, which is about .27 c²; measured best a little below.
const LAMBDA: f32 = 0.3;
/// Mean squared error of a trellis-coded grid in squared steps.
const GRANULAR: f64 = 0.27;
/// What a byte is worth in units of c²: 8 bits at 2 ln 2 times the loss per weight.
const NATS_PER_BYTE: f64 = 8.0 * 2.0 * std::f64::consts::LN_2 * GRANULAR / 2.0;
/// States while looking for the knob: sizes hardly depend on them.
const SEARCH_STATES: usize = 8;
/// How near the budget the knob must be before the final trellis is tried.
const SEARCH_CLOSE: f64 = 4e-3;
const FINAL_CLOSE: f64 = 5e-4;

/// A knob at which most models lose about .02 nats per token: where searches start and corrections are measured.
pub(super) fn nominal_knob(model: &Model) -> f64 {
    (2.0 * 0.02 / (GRANULAR * model.weights() as f64)).sqrt()
}

pub(super) fn settings(states: usize, odd: Odd) -> Settings {
    let trellis = Trellis::with_states(states).unwrap_or_else(Trellis::eight).odd(odd);
    Settings { trellis, exponents: EXPONENTS, lambda: LAMBDA }
}

/// One matrix on its way through the search.
struct Matrix {
    stored: usize,
    metric: Metric,
    /// What grid 1 of its trellis is made of, and what indices cost, once a first search has found out.
    found: Option<(Odd, Prices)>,
}

impl Matrix {
    /// Codes the matrix at its own knob. The first time on both kinds of grid, to see which is cheaper; `learning`
    /// lets the prices follow, which makes sizes jump a little from knob to knob.
    fn encode(&mut self, w: &[f32], c: f64, states: usize, learning: bool) -> Coded {
        let metric = &self.metric;
        if let Some((odd, prices)) = &mut self.found {
            let settings = settings(states, *odd);
            if learning {
                *prices = matrix::learn(w, metric, c, &settings, Some(prices));
            }
            return matrix::encode(w, metric, c, &settings, prices);
        }
        let [plain, zero] = [Odd::Plain, Odd::WithZero].map(|odd| {
            let settings = settings(states, odd);
            let prices = matrix::learn(w, metric, c, &settings, None);
            (matrix::encode(w, metric, c, &settings, &prices), odd, prices)
        });
        let cost = |coded: &Coded| coded.loss + NATS_PER_BYTE * c * c * coded.bytes.len() as f64;
        let (coded, odd, prices) = if cost(&plain.0) <= cost(&zero.0) { plain } else { zero };
        self.found = Some((odd, prices));
        coded
    }
}

/// A model as the planner sees it: parts that are coded at a knob. The last part is all control tensors.
struct Parts<'a> {
    model: &'a Model,
    statistics: &'a Statistics,
    matrices: Vec<Matrix>,
    small: Vec<usize>,
    states: usize,
    learning: bool,
    progress: &'a dyn Progress,
}

impl Parts<'_> {
    fn vectors(&self, c: f64) -> Option<Part<Vec<u8>>> {
        let tensors: Vec<vectors::Tensor> = self
            .small
            .iter()
            .filter_map(|i| match &self.statistics.curvature[*i] {
                Curvature::Vector(curvature) => Some(vectors::Tensor {
                    data: &self.model.stored[*i].data,
                    curvature,
                    width: self.model.shape(*i).last().copied().unwrap_or(1),
                }),
                Curvature::Matrix(_) => None,
            })
            .collect();
        let coded = (!tensors.is_empty()).then(|| vectors::encode(&tensors, c))?;
        Some(Part { bytes: coded.bytes.len(), loss: coded.loss, coded: coded.bytes })
    }

    fn entries(&self, sizes: &[usize]) -> Vec<StreamEntry> {
        let entry = |codec: u8, tensors: &[usize], len: usize| StreamEntry {
            codec,
            params: Vec::new(),
            tensors: tensors.iter().map(|i| *i as u32).collect(),
            dtypes: tensors.iter().map(|i| self.model.stored[*i].dtype).collect(),
            len: len as u64,
        };
        let mut entries: Vec<StreamEntry> =
            self.matrices.iter().zip(sizes).map(|(m, len)| entry(codec::MATRIX, &[m.stored], *len)).collect();
        if let Some(len) = sizes.get(self.matrices.len()) {
            entries.push(entry(codec::VECTORS, &self.small, *len));
        }
        entries
    }
}

impl Encoder for Parts<'_> {
    type Coded = Vec<u8>;

    fn encode(&mut self, c: f64) -> Result<Vec<Part<Vec<u8>>>> {
        let Parts { model, statistics, states, learning, progress, .. } = *self;
        let mut parts: Vec<Part<Vec<u8>>> = self
            .matrices
            .par_iter_mut()
            .with_max_len(1)
            .map(|m| {
                let correction = statistics.correction[m.stored];
                let coded = m.encode(&model.stored[m.stored].data, c / correction.sqrt(), states, learning);
                progress.advance(1);
                Part { bytes: coded.bytes.len(), loss: correction * coded.loss, coded: coded.bytes }
            })
            .collect();
        parts.extend(self.vectors(c));
        Ok(parts)
    }

    fn file_size(&self, parts: &[usize]) -> Result<u64> {
        size_of(&header(self.model, self.entries(parts)))
    }

    fn weights(&self) -> usize {
        self.model.weights()
    }
}

/// Codes `model` into a file of at most `budget` bytes.
pub(super) fn code(
    model: &Model,
    statistics: &Statistics,
    options: &Options,
    budget: u64,
    progress: &dyn Progress,
) -> Result<Pieces> {
    let damping = damping(statistics.tokens);
    let matrices: Vec<Matrix> = statistics
        .curvature
        .par_iter()
        .enumerate()
        .filter_map(|(stored, c)| match c {
            Curvature::Matrix(f) => {
                let metric = Metric::new(f, damping).map_err(|e| e.at(&model.spec(stored).name));
                Some(metric.map(|metric| Matrix { stored, metric, found: None }))
            }
            Curvature::Vector(_) => None,
        })
        .collect::<Result<_>>()?;
    let small = (0..model.stored.len()).filter(|i| matches!(statistics.curvature[*i], Curvature::Vector(_))).collect();
    let states = options.effort.states();
    let mut parts =
        Parts { model, statistics, matrices, small, states: states.min(SEARCH_STATES), learning: true, progress };
    progress.begin("searching", 0);
    let start = approach(&mut parts, budget, nominal_knob(model), SEARCH_CLOSE)?;
    (parts.states, parts.learning) = (states, false);
    let found = match meet(&mut parts, budget, start, FINAL_CLOSE)? {
        Outcome::Fits(found) => found,
        Outcome::TooSmall { needed } => {
            return Err(too_large(options, needed).hint("raise the cap, include less, or pack a smaller model"));
        }
    };
    progress.end();
    let entries = parts.entries(&found.iter().map(|p| p.bytes).collect::<Vec<_>>());
    let streams: Vec<Vec<u8>> = found.into_iter().map(|p| p.coded).collect();
    Ok(Pieces { decoded: decode(model, &entries, &streams)?, entries, streams })
}

/// What the streams decode to, by stored index.
fn decode(model: &Model, entries: &[StreamEntry], streams: &[Vec<u8>]) -> Result<Vec<Vec<f32>>> {
    let shapes: Vec<&[usize]> = (0..model.stored.len()).map(|i| model.shape(i)).collect();
    let decoded: Vec<Vec<Vec<f32>>> = entries
        .par_iter()
        .zip(streams)
        .map(|(entry, bytes)| crate::artifact::open::stream(entry, bytes, &shapes))
        .collect::<Result<_>>()
        .map_err(|e| Error::compute(format!("a stream just written cannot be read back: {e}")))?;
    let mut out = vec![Vec::new(); shapes.len()];
    for (entry, tensors) in entries.iter().zip(decoded) {
        for (t, data) in entry.tensors.iter().zip(tensors) {
            out[*t as usize] = data;
        }
    }
    Ok(out)
}
