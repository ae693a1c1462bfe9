//! Finds the step sizes at which a model meets a byte budget.

use rayon::prelude::*;

use super::metrics::{Metrics, settings};
use super::pieces::{Pieces, header};
use super::{Options, too_large};
use crate::artifact::layout::{StreamEntry, codec};
use crate::artifact::open;
use crate::artifact::write::size_of;
use crate::code::codec::matrix::{self, Coded, price_step};
use crate::code::codec::vectors;
use crate::code::entropy::indices::Prices;
use crate::code::quantize::metric::Metric;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::nets::Form;
use crate::plan::budget::{self, Encoder, Outcome, approach, meet};
use crate::plan::{Grid, Made, Odd, PLAN_VERSION, Part, Plan};
use crate::progress::Progress;

/// Mean squared error of a trellis-coded grid in squared steps.
const GRANULAR: f64 = 0.27;
/// What a byte is worth in units of c²: 8 bits at 2 ln 2 times the loss per weight.
const NATS_PER_BYTE: f64 = 8.0 * 2.0 * std::f64::consts::LN_2 * GRANULAR / 2.0;
/// States while the step size is still far off: sizes hardly depend on them.
const SEARCH_STATES: usize = 8;
/// How near the budget the step size must be before the final trellis is tried.
const SEARCH_CLOSE: f64 = 4e-3;
const FINAL_CLOSE: f64 = 5e-4;

/// A step size at which most models lose about .02 nats per token: where searches start and corrections are measured.
pub(super) fn nominal_step(model: &Model) -> f64 {
    (2.0 * 0.02 / (GRANULAR * model.weights().max(1) as f64)).sqrt()
}

/// One matrix on its way through the search.
struct Matrix<'a> {
    stored: usize,
    w: &'a [f32],
    metric: std::borrow::Cow<'a, Metric>,
    correction: f64,
    /// What grid 1 of its trellis is made of, and what indices cost, once a first search has found out.
    found: Option<(Odd, Prices)>,
    /// The step size that the prices are settled for.
    settled: Option<f64>,
}

impl Matrix<'_> {
    /// [`Matrix::encode`] as the planner wants it.
    fn part(&mut self, c: f64, states: usize, last: bool) -> budget::Part<Stream> {
        let (coded, made) = self.encode(c, states, last);
        budget::Part { bytes: coded.bytes.len(), loss: self.correction * coded.loss, coded: (coded.bytes, made) }
    }

    /// The matrix at the model's step size `c`. The first time on both kinds of grid, to see which is cheaper.
    ///
    /// While the search is far off, prices follow from trial to trial; for the last trials they are those that executing
    /// the plan will find.
    fn encode(&mut self, c: f64, states: usize, last: bool) -> (Coded, Made) {
        let (w, metric, step) = (self.w, &self.metric, c / self.correction.sqrt());
        let Some((odd, prices)) = &mut self.found else {
            let [plain, zero] = [Odd::Plain, Odd::WithZero].map(|odd| {
                let settings = settings(Grid { states, odd });
                let prices = matrix::learn(w, metric, step, &settings, None);
                (matrix::encode(w, metric, step, &settings, &prices), odd, prices)
            });
            let cost = |coded: &Coded| coded.loss + NATS_PER_BYTE * step * step * coded.bytes.len() as f64;
            let (coded, odd, prices) = if cost(&plain.0) <= cost(&zero.0) { plain } else { zero };
            self.found = Some((odd, prices));
            return (coded, Made::Matrix { step, grid: Grid { states, odd } });
        };
        let grid = Grid { states, odd: *odd };
        let settings = settings(grid);
        let at = Some(price_step(step));
        if !last {
            *prices = matrix::learn(w, metric, step, &settings, Some(prices));
        } else if self.settled != at {
            (*prices, self.settled) = (matrix::settled(w, metric, step, &settings), at);
        }
        (matrix::encode(w, metric, step, &settings, prices), Made::Matrix { step, grid })
    }
}

/// A model as the planner sees it: parts that are coded at a step size. After the matrices come all control tensors, if
/// there are any, and all tensors that are stored as zeros, if there are any.
struct Parts<'a> {
    model: &'a Model,
    metrics: &'a Metrics<'a>,
    matrices: Vec<Matrix<'a>>,
    small: Vec<usize>,
    zeros: Vec<usize>,
    states: usize,
    /// The search is near: what it finds now is what the plan says.
    last: bool,
    progress: &'a dyn Progress,
}

/// A coded stream, and the plan of its part.
type Stream = (Vec<u8>, Made);

impl Parts<'_> {
    /// Codec and stored tensors of every part.
    fn contents(&self) -> Vec<(u8, &[usize])> {
        let matrices = self.matrices.iter().map(|m| (codec::MATRIX, std::slice::from_ref(&m.stored)));
        let rest = [(codec::VECTORS, &self.small[..]), (codec::ZERO, &self.zeros[..])];
        matrices.chain(rest.into_iter().filter(|(_, tensors)| !tensors.is_empty())).collect()
    }

    fn entries(&self, sizes: &[usize]) -> Vec<StreamEntry> {
        let entry = |((codec, tensors), len): ((u8, &[usize]), &usize)| StreamEntry {
            codec,
            tensors: tensors.iter().map(|i| *i as u32).collect(),
            dtypes: tensors.iter().map(|i| self.model.stored[*i].dtype).collect(),
            needs: Vec::new(),
            len: *len as u64,
        };
        self.contents().into_iter().zip(sizes).map(entry).collect()
    }
}

impl Encoder for Parts<'_> {
    type Coded = Stream;

    fn encode(&mut self, c: f64) -> Result<Vec<budget::Part<Stream>>> {
        let (states, last, progress) = (self.states, self.last, self.progress);
        let mut parts: Vec<budget::Part<Stream>> = self
            .matrices
            .par_iter_mut()
            .with_max_len(1)
            .map(|m| {
                let part = m.part(c, states, last);
                progress.advance(1);
                part
            })
            .collect();
        if !self.small.is_empty() {
            let coded = vectors::encode(&self.metrics.control_tensors(self.model, &self.small), c);
            let (bytes, loss) = (coded.bytes.len(), coded.loss);
            parts.push(budget::Part { bytes, loss, coded: (coded.bytes, Made::Vectors { step: c }) });
        }
        if !self.zeros.is_empty() {
            parts.push(budget::Part { bytes: 0, loss: 0.0, coded: (Vec::new(), Made::Zero) });
        }
        Ok(parts)
    }

    fn file_size(&self, parts: &[usize]) -> Result<u64> {
        size_of(&header(self.model, self.entries(parts)))
    }

    fn encode_part(&mut self, part: usize, c: f64) -> Result<budget::Part<Stream>> {
        match self.matrices.get_mut(part) {
            Some(m) => Ok(m.part(c, self.states, self.last)),
            None => Err(Error::compute("only matrices are coded one by one")),
        }
    }

    fn part_weights(&self) -> Vec<usize> {
        let all = self.contents().len();
        let matrices = self.matrices.iter().map(|m| m.w.len());
        matrices.chain(std::iter::repeat(0)).take(all).collect()
    }
}

/// Codes `model` into a file of at most `budget` bytes; the plan gives the same streams when it is executed.
///
/// # Errors
/// Cap, when not even the coarsest grids fit.
pub(super) fn search(
    model: &Model,
    metrics: &Metrics,
    options: &Options,
    budget: u64,
    progress: &dyn Progress,
) -> Result<(Plan, Pieces)> {
    let all = 0..model.stored.len();
    let (small, large): (Vec<usize>, Vec<usize>) = all.partition(|i| model.spec(*i).form == Form::Vector);
    let (zeros, large): (Vec<usize>, Vec<usize>) = large.into_iter().partition(|i| metrics.vanishes(model, *i));
    let matrix = |stored: usize| Matrix {
        stored,
        w: &model.stored[stored].data,
        metric: metrics.of(model, stored),
        correction: metrics.correction(stored),
        found: None,
        settled: None,
    };
    let matrices = large.into_iter().map(matrix).collect();
    let states = options.effort.states();
    let mut parts =
        Parts { model, metrics, matrices, small, zeros, states: states.min(SEARCH_STATES), last: false, progress };
    progress.begin("searching", 0);
    let start = approach(&mut parts, budget, nominal_step(model), SEARCH_CLOSE)?;
    (parts.states, parts.last) = (states, true);
    let found = match meet(&mut parts, budget, start, FINAL_CLOSE)? {
        Outcome::Fits(found) => found,
        Outcome::TooSmall { needed } => {
            return Err(too_large(options, budget, needed).hint("raise the cap, include less, or pack a smaller model"));
        }
    };
    progress.end();
    let entries = parts.entries(&found.iter().map(|p| p.bytes).collect::<Vec<_>>());
    let (streams, made): (Vec<Vec<u8>>, Vec<Made>) = found.into_iter().map(|p| p.coded).unzip();
    let names = |tensors: &[usize]| tensors.iter().map(|t| model.spec(*t).name.clone()).collect();
    let parts =
        parts.contents().into_iter().zip(made).map(|((_, tensors), made)| Part { tensors: names(tensors), made });
    let plan = Plan { plan: PLAN_VERSION, model: model.digest().to_hex().to_string(), parts: parts.collect() };
    let header = header(model, entries);
    let shapes: Vec<&[usize]> = (0..model.stored.len()).map(|i| model.shape(i)).collect();
    let decoded = open::streams(&header, &shapes, |i| &streams[i])
        .map_err(|e| Error::compute(format!("a stream just written cannot be read back: {e}")))?;
    Ok((plan, Pieces { entries: header.streams, streams, decoded }))
}
