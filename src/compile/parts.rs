//! A model as the planner sees it: parts that are coded at a step size.
//!
//! Matrices that start from one another are one part, since a finer grid for one changes the others. After the matrices come all
//! control tensors, if there are any, and all tensors that are stored as zeros, if there are any.

use std::borrow::Cow;

use rayon::prelude::*;

use super::metrics::{Metrics, settings};
use super::pieces::{Pieces, header};
use super::target::{Target, itself, target};
use crate::artifact::layout::{StreamEntry, codec};
use crate::artifact::open;
use crate::artifact::write::size_of;
use crate::code::codec::matrix::{self, Coded, price_step};
use crate::code::codec::{sum, vectors};
use crate::code::entropy::indices::Prices;
use crate::code::quantize::metric::Metric;
use crate::code::quantize::step_rule::GRANULAR;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::nets::Form;
use crate::plan::budget::{self, Encoder};
use crate::plan::scheme::{Choice, Scheme};
use crate::plan::{Grid, Made, Odd, PLAN_VERSION, Part, Plan};
use crate::progress::Progress;

/// What a byte is worth in units of c²: 8 bits at 2 ln 2 times the loss per weight.
pub(super) const NATS_PER_BYTE: f64 = 8.0 * 2.0 * std::f64::consts::LN_2 * GRANULAR / 2.0;

/// A coded stream, the plan of its part, and what it is expected to cost.
#[derive(Clone)]
pub(super) struct Stream {
    pub bytes: Vec<u8>,
    pub made: Made,
    /// Predicted loss, nats per token.
    pub loss: f64,
}

/// One matrix on its way through the search.
#[derive(Clone)]
struct Matrix<'a> {
    stored: usize,
    w: Cow<'a, [f32]>,
    metric: Cow<'a, Metric>,
    correction: f64,
    choice: Choice,
    /// Itself, if it is coded for others as well: its loss is its own, that of the others is theirs.
    own: Option<Target<'a>>,
    /// What grid 1 of its trellis is made of, and what indices cost, once a first search has found out.
    found: Option<(Odd, Prices)>,
    /// The step size that the prices are settled for.
    settled: Option<f64>,
}

impl<'a> Matrix<'a> {
    fn new(model: &'a Model, metrics: &'a Metrics<'a>, scheme: &Scheme, stored: usize) -> Self {
        let (mean_of, serves) = (scheme.mean_of(stored), scheme.copies(stored));
        let Target { w, metric, correction } = target(model, metrics, stored, (mean_of, &serves));
        let own = (!mean_of.is_empty() || !serves.is_empty()).then(|| itself(model, metrics, stored));
        Matrix { stored, w, metric, correction, choice: scheme.choice(stored), own, found: None, settled: None }
    }

    /// The matrix at the model's step size `c`, given what it starts from, decoded.
    fn encode(&mut self, model: &Model, c: f64, states: usize, last: bool, reference: Option<&[f32]>) -> Stream {
        let step = c / self.correction.sqrt();
        let Choice::Sum { from, unit, rank, residual } = self.choice else {
            // The weights are put back: a residual is found anew every time, a matrix stays what it is.
            let w = std::mem::take(&mut self.w);
            let (coded, grid) = self.grid(&w, step, states, last);
            self.w = w;
            let made = Made::Matrix { step, grid };
            return Stream { bytes: coded.bytes, made, loss: self.correction * coded.loss };
        };
        // What the settings say does not matter for what comes before the residual.
        let some = settings(Grid { states, odd: Odd::Plain });
        let gain = unit.then_some(1.0);
        let terms = sum::Terms { reference, gain, rank, residual: residual.then_some(&some) };
        let sum::Start { mut bytes, rest } = sum::start(&self.w, &self.metric, step, &terms);
        let mut grid = None;
        let loss = match residual {
            true => {
                // It depends on the decoded reference, not on the step size alone.
                self.settled = None;
                let (coded, on) = self.grid(&rest, step, states, last);
                bytes.extend(&coded.bytes);
                grid = Some(on);
                coded.loss
            }
            false => sum::loss(&rest, &self.metric),
        };
        let from = from.map(|from| model.spec(from).name.clone());
        let made = Made::Sum { step, from, gain, rank, residual: grid };
        Stream { bytes, made, loss: self.correction * loss }
    }

    /// `w` on a grid of step size `step`. The first time on both kinds of grid, to see which is cheaper.
    ///
    /// While the search is far off, prices follow from trial to trial; for the last trials they are those that executing
    /// the plan will find.
    fn grid(&mut self, w: &[f32], step: f64, states: usize, last: bool) -> (Coded, Grid) {
        let metric = &self.metric;
        if self.found.is_none() {
            let [plain, zero] = [Odd::Plain, Odd::WithZero].map(|odd| {
                let settings = settings(Grid { states, odd });
                let prices = matrix::learn(w, metric, step, &settings, None);
                (matrix::encode(w, metric, step, &settings, &prices), odd, prices)
            });
            let cost = |coded: &Coded| coded.loss + NATS_PER_BYTE * step * step * coded.bytes.len() as f64;
            let (coded, odd, prices) = if cost(&plain.0) <= cost(&zero.0) { plain } else { zero };
            self.found = Some((odd, prices));
            if !last {
                return (coded, Grid { states, odd });
            }
        }
        let (odd, prices) = self.found.as_mut().expect("it was found just now");
        let grid = Grid { states, odd: *odd };
        let settings = settings(grid);
        let at = Some(price_step(step));
        if !last {
            *prices = matrix::learn(w, metric, step, &settings, Some(prices));
        } else if self.settled != at {
            (*prices, self.settled) = (matrix::settled(w, metric, step, &settings), at);
        }
        (matrix::encode(w, metric, step, &settings, prices), grid)
    }
}

/// A stream of the file.
struct Content {
    /// Where it is in the coded parts: which of them, and which of its streams.
    at: (usize, usize),
    codec: u8,
    tensors: Vec<usize>,
    /// What it starts from.
    from: Option<usize>,
}

/// Matrices that start from one another, those before others first.
type Group<'a> = Vec<Matrix<'a>>;

/// The parts of a model under one scheme.
#[derive(Clone)]
pub(super) struct Parts<'a> {
    model: &'a Model,
    metrics: &'a Metrics<'a>,
    groups: Vec<Group<'a>>,
    small: Vec<usize>,
    zeros: Vec<usize>,
    /// What leaving each of these out loses.
    gone: Vec<f64>,
    scheme: Scheme,
    pub states: usize,
    /// The search is near: what it finds now is what the plan says.
    pub last: bool,
    progress: &'a dyn Progress,
}

impl<'a> Parts<'a> {
    pub fn new(model: &'a Model, metrics: &'a Metrics<'a>, scheme: &Scheme, progress: &'a dyn Progress) -> Self {
        let all = 0..model.stored.len();
        let (small, large): (Vec<usize>, Vec<usize>) = all.partition(|i| model.spec(*i).form == Form::Vector);
        let (zeros, large): (Vec<usize>, Vec<usize>) =
            large.into_iter().partition(|i| metrics.vanishes(model, *i) || scheme.choice(*i) == Choice::Zero);
        let mut groups: Vec<Group> = Vec::new();
        for stored in large {
            let mut matrix = Matrix::new(model, metrics, scheme, stored);
            // Whatever a silent matrix could give is nothing.
            if scheme.from(stored).is_some_and(|from| zeros.contains(&from)) {
                matrix.choice = Choice::Alone;
            }
            let group =
                from(&matrix.choice).and_then(|from| groups.iter_mut().find(|g| g.iter().any(|m| m.stored == from)));
            match group {
                Some(group) => group.push(matrix),
                None => groups.push(vec![matrix]),
            }
        }
        let lost = |i: &usize| {
            let Target { w, metric, correction } = itself(model, metrics, *i);
            correction * sum::loss(&w, &metric)
        };
        let (gone, scheme) = (zeros.iter().map(lost).collect(), scheme.clone());
        Parts { model, metrics, groups, small, zeros, gone, scheme, states: 8, last: false, progress }
    }

    /// The same under another scheme; what was found out about matrices that stay what they are is kept.
    pub fn under(&self, scheme: &Scheme) -> Parts<'a> {
        let mut parts = Parts::new(self.model, self.metrics, scheme, self.progress);
        for m in parts.groups.iter_mut().flatten() {
            let same = scheme.mean_of(m.stored) == self.scheme.mean_of(m.stored)
                && scheme.copies(m.stored) == self.scheme.copies(m.stored);
            let old = self.groups.iter().flatten().find(|old| old.stored == m.stored && old.choice == m.choice);
            if let Some(old) = old.filter(|_| same) {
                m.found.clone_from(&old.found);
            }
        }
        (parts.states, parts.last) = (self.states, self.last);
        parts
    }

    pub fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// One matrix under `scheme` at step size `c`, with all that it starts from and all that starts from these.
    pub fn group_under(&self, scheme: &Scheme, stored: usize, c: f64) -> Result<Vec<(usize, Stream)>> {
        let members = scheme.dependents(scheme.root(stored));
        let mut group: Group =
            members.iter().map(|stored| Matrix::new(self.model, self.metrics, scheme, *stored)).collect();
        let part = encode(self.model, &mut group, c, self.states, false)?;
        Ok(members.into_iter().zip(part.coded).collect())
    }

    /// The streams of coded parts by stored matrix.
    pub fn by_stored(&self, parts: &[budget::Part<Vec<Stream>>]) -> Vec<Option<Stream>> {
        let mut out = vec![None; self.model.stored.len()];
        for (group, part) in self.groups.iter().zip(parts) {
            for (m, stream) in group.iter().zip(&part.coded) {
                out[m.stored] = Some(stream.clone());
            }
        }
        out
    }

    /// Streams in the order of the file.
    fn contents(&self) -> Vec<Content> {
        let mut out = Vec::new();
        for (g, group) in self.groups.iter().enumerate() {
            for (k, m) in group.iter().enumerate() {
                let (codec, from) = match m.choice {
                    Choice::Sum { from, .. } => (codec::SUM, from),
                    _ => (codec::MATRIX, None),
                };
                out.push(Content { at: (g, k), codec, tensors: vec![m.stored], from });
            }
        }
        out.sort_by_key(|content: &Content| content.tensors[0]);
        let mut next = self.groups.len();
        for (codec, tensors) in [(codec::VECTORS, &self.small), (codec::ZERO, &self.zeros)] {
            if !tensors.is_empty() {
                out.push(Content { at: (next, 0), codec, tensors: tensors.clone(), from: None });
                next += 1;
            }
        }
        out
    }

    fn entries(&self, parts: &[budget::Part<Vec<Stream>>]) -> Vec<StreamEntry> {
        let entry = |Content { at: (part, k), codec, tensors, from }: Content| StreamEntry {
            codec,
            dtypes: tensors.iter().map(|i| self.model.stored[*i].dtype).collect(),
            tensors: tensors.iter().map(|i| *i as u32).collect(),
            needs: from.iter().map(|i| *i as u32).collect(),
            len: parts[part].coded[k].bytes.len() as u64,
        };
        self.contents().into_iter().map(entry).collect()
    }

    fn group(&mut self, g: usize, c: f64) -> Result<budget::Part<Vec<Stream>>> {
        encode(self.model, &mut self.groups[g], c, self.states, self.last)
    }

    /// The file that holds these parts, and its plan, with the loss that is predicted for every matrix.
    pub fn finish(&self, parts: Vec<budget::Part<Vec<Stream>>>) -> Result<Finished> {
        let entries = self.entries(&parts);
        let names = |tensors: &[usize]| tensors.iter().map(|t| self.model.spec(*t).name.clone()).collect::<Vec<_>>();
        let (mut streams, mut planned) = (Vec::new(), Vec::new());
        let mut losses = vec![0.0; self.model.stored.len()];
        self.zeros.iter().zip(&self.gone).for_each(|(i, lost)| losses[*i] = *lost);
        let mut coded: Vec<Vec<Option<Stream>>> =
            parts.into_iter().map(|part| part.coded.into_iter().map(Some).collect()).collect();
        for Content { at: (part, k), tensors, .. } in self.contents() {
            let Some(Stream { bytes, made, loss }) = coded[part][k].take() else { continue };
            let mean_of = match made {
                Made::Matrix { .. } | Made::Sum { .. } => names(self.scheme.mean_of(tensors[0])),
                _ => Vec::new(),
            };
            if tensors.len() == 1 {
                losses[tensors[0]] = loss;
            }
            planned.push(Part { tensors: names(&tensors), mean_of, made });
            streams.push(bytes);
        }
        let plan = Plan { plan: PLAN_VERSION, model: self.model.digest().to_hex().to_string(), parts: planned };
        let header = header(self.model, entries);
        let shapes: Vec<&[usize]> = (0..self.model.stored.len()).map(|i| self.model.shape(i)).collect();
        let decoded = open::streams(&header, &shapes, |i| &streams[i])
            .map_err(|e| Error::compute(format!("a stream just written cannot be read back: {e}")))?;
        Ok(Finished { plan, pieces: Pieces { entries: header.streams, streams, decoded }, losses })
    }
}

/// A planned and coded model.
pub(super) struct Finished {
    pub plan: Plan,
    pub pieces: Pieces,
    /// Predicted loss of every stored matrix, nats per token.
    pub losses: Vec<f64>,
}

fn encode(model: &Model, group: &mut Group, c: f64, states: usize, last: bool) -> Result<budget::Part<Vec<Stream>>> {
    let wanted: Vec<usize> = group.iter().filter_map(|m| from(&m.choice)).collect();
    let mut decoded: Vec<(usize, Vec<f32>)> = Vec::new();
    let mut coded: Vec<Stream> = Vec::with_capacity(group.len());
    for m in group {
        let reference = from(&m.choice).and_then(|from| decoded.iter().find(|(stored, _)| *stored == from));
        let reference = reference.map(|(_, data)| &data[..]);
        let mut stream = m.encode(model, c, states, last, reference);
        if wanted.contains(&m.stored) || m.own.is_some() {
            let (rows, cols) = (m.metric.rows, m.metric.cols);
            let back = match m.choice {
                Choice::Sum { .. } => sum::decode(&stream.bytes, rows, cols, reference),
                _ => matrix::decode(&stream.bytes, rows, cols),
            };
            let name = || format!("{} did not survive its own coding", model.spec(m.stored).name);
            let back = back.ok_or_else(|| Error::compute(name()))?;
            if let Some(Target { w, metric, correction }) = &m.own {
                let rest: Vec<f32> = w.iter().zip(&back).map(|(w, b)| w - b).collect();
                stream.loss = correction * sum::loss(&rest, metric);
            }
            decoded.push((m.stored, back));
        }
        coded.push(stream);
    }
    let (bytes, loss) = (coded.iter().map(|s| s.bytes.len()).sum(), coded.iter().map(|s| s.loss).sum());
    Ok(budget::Part { bytes, loss, coded })
}

fn from(choice: &Choice) -> Option<usize> {
    match choice {
        Choice::Sum { from, .. } => *from,
        _ => None,
    }
}

impl Encoder for Parts<'_> {
    type Coded = Vec<Stream>;

    fn encode(&mut self, c: f64) -> Result<Vec<budget::Part<Vec<Stream>>>> {
        let (states, last, progress, model) = (self.states, self.last, self.progress, self.model);
        let mut parts: Vec<budget::Part<Vec<Stream>>> = self
            .groups
            .par_iter_mut()
            .with_max_len(1)
            .map(|group| {
                let part = encode(model, group, c, states, last);
                progress.advance(group.len() as u64);
                part
            })
            .collect::<Result<_>>()?;
        let mut single = |bytes: Vec<u8>, loss: f64, made: Made| {
            parts.push(budget::Part { bytes: bytes.len(), loss, coded: vec![Stream { bytes, made, loss }] });
        };
        if !self.small.is_empty() {
            let coded = vectors::encode(&self.metrics.control_tensors(self.model, &self.small), c);
            single(coded.bytes, coded.loss, Made::Vectors { step: c });
        }
        if !self.zeros.is_empty() {
            single(Vec::new(), self.gone.iter().sum(), Made::Zero);
        }
        Ok(parts)
    }

    fn file_size(&self, parts: &[budget::Part<Vec<Stream>>]) -> Result<u64> {
        Ok(size_of(&header(self.model, self.entries(parts)))?)
    }

    fn encode_part(&mut self, part: usize, c: f64) -> Result<budget::Part<Vec<Stream>>> {
        match part < self.groups.len() {
            true => self.group(part, c),
            false => Err(Error::compute("only matrices are coded one by one")),
        }
    }

    fn part_weights(&self) -> Vec<usize> {
        let on_grid = |m: &Matrix| match m.choice {
            Choice::Sum { residual: false, .. } => 0,
            _ => m.w.len(),
        };
        let mut weights: Vec<usize> = self.groups.iter().map(|g| g.iter().map(on_grid).sum()).collect();
        weights.resize(weights.len() + usize::from(!self.small.is_empty()) + usize::from(!self.zeros.is_empty()), 0);
        weights
    }
}
