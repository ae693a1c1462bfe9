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
use crate::model::{Dtype, Model};
use crate::plan::budget::{Encoder, Outcome, Part, meet};
use crate::progress::Progress;

/// Found on models that are not part of this project; 1 % is also GPTQ's.
pub(super) const DAMPING: Damping = Damping { input: 0.01, output: 0.01 };
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
const SEARCH_CLOSE: f64 = 2e-3;
const FINAL_CLOSE: f64 = 3e-4;

/// A knob at which most models lose about .02 nats per token: where searches start and corrections are measured.
pub(super) fn nominal_knob(model: &Model) -> f64 {
    (2.0 * 0.02 / (GRANULAR * model.weights() as f64)).sqrt()
}

pub(super) fn settings(states: usize, odd: Odd) -> Settings {
    let trellis = Trellis::with_states(states).unwrap_or_else(Trellis::eight).odd(odd);
    Settings { trellis, exponents: EXPONENTS, lambda: LAMBDA, passes: 1 }
}

/// One matrix on its way through the search.
struct Matrix {
    stored: usize,
    metric: Metric,
    /// What grid 1 of its trellis is made of, once that is decided.
    odd: Option<Odd>,
    /// The prices of its last search.
    prices: Option<Prices>,
}

impl Matrix {
    /// Codes the matrix at its own knob; the first time on both kinds of grid, to see which is cheaper.
    fn encode(&mut self, w: &[f32], c: f64, states: usize) -> Coded {
        let run = |odd, prices| matrix::encode(w, &self.metric, c, &settings(states, odd), prices);
        let (odd, coded) = match self.odd {
            Some(odd) => (odd, run(odd, self.prices.take())),
            None => {
                let tried = [Odd::Plain, Odd::WithZero].map(|odd| (odd, run(odd, None)));
                let cost = |coded: &Coded| coded.loss + NATS_PER_BYTE * c * c * coded.bytes.len() as f64;
                let [plain, zero] = tried;
                if cost(&plain.1) <= cost(&zero.1) { plain } else { zero }
            }
        };
        self.odd = Some(odd);
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
            dtypes: vec![Dtype::F32; tensors.len()],
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
        let (model, statistics, states, progress) = (self.model, self.statistics, self.states, self.progress);
        let mut parts: Vec<Part<Vec<u8>>> = self
            .matrices
            .par_iter_mut()
            .with_max_len(1)
            .map(|m| {
                let correction = statistics.correction[m.stored];
                let mut coded = m.encode(&model.stored[m.stored].data, c / correction.sqrt(), states);
                m.prices = coded.prices.take();
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
    let matrices: Vec<Matrix> = statistics
        .curvature
        .par_iter()
        .enumerate()
        .filter_map(|(stored, c)| match c {
            Curvature::Matrix(f) => {
                let metric = Metric::new(f, DAMPING).map_err(|e| e.at(&model.spec(stored).name));
                Some(metric.map(|metric| Matrix { stored, metric, odd: None, prices: None }))
            }
            Curvature::Vector(_) => None,
        })
        .collect::<Result<_>>()?;
    let small = (0..model.stored.len()).filter(|i| matches!(statistics.curvature[*i], Curvature::Vector(_))).collect();
    let states = options.effort.states();
    let mut parts = Parts { model, statistics, matrices, small, states: states.min(SEARCH_STATES), progress };
    let impossible = |needed| {
        Err(too_large(options, needed).hint("raise the cap, include less, or pack a smaller model"))
    };
    progress.begin("searching", 0);
    let mut start = nominal_knob(model);
    if states > SEARCH_STATES {
        match meet(&mut parts, budget, start, SEARCH_CLOSE)? {
            Outcome::Fits { knob, .. } => start = knob,
            Outcome::TooSmall { needed } => return impossible(needed),
        }
        parts.states = states;
    }
    let found = match meet(&mut parts, budget, start, FINAL_CLOSE)? {
        Outcome::Fits { parts, .. } => parts,
        Outcome::TooSmall { needed } => return impossible(needed),
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
