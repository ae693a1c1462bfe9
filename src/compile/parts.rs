//! A model as the planner sees it: parts that are coded at a step size.
//!
//! Matrices that start from one another are one part, since a finer grid for one changes the others. After the matrices come all
//! control tensors, if there are any, and all tensors that are stored as zeros, if there are any.

use rayon::prelude::*;

use super::code::{Begun, Prices, begin, decode};
use super::metrics::{Metrics, settings};
use super::pieces::{Pieces, entry, header};
use super::target::{Target, itself, target};
use crate::artifact::layout::StreamEntry;
use crate::artifact::open;
use crate::artifact::write::size_of;
use crate::code::codec::matrix::{self, CodedMatrix, price_step};
use crate::code::codec::{sum, vectors};
use crate::code::entropy::indices;
use crate::code::quantize::step_rule::GRANULAR;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::plan::budget::{self, Encoder};
use crate::plan::scheme::{ALONE, Choice, Scheme};
use crate::plan::{PLAN_VERSION, Part, Plan};
use crate::progress::Progress;
use crate::recipe::{AnyGrid, Grid, Made, Odd, Recipe, Terms};

/// The price of a byte in units of c²: 8 bits at 2 ln 2 times the loss per weight.
pub(super) const NATS_PER_BYTE: f64 = 8.0 * 2.0 * std::f64::consts::LN_2 * GRANULAR / 2.0;

/// A coded stream, and what it is expected to cost.
#[derive(Clone)]
pub(super) struct CodedStream {
    pub bytes: Vec<u8>,
    /// What it is made of, tensors by their stored index, and how finely.
    pub recipe: Recipe<usize>,
    pub step: f64,
    /// Predicted loss, nats per token.
    pub loss: f64,
}

/// One matrix on its way through the search.
#[derive(Clone)]
struct Matrix<'a> {
    stored: usize,
    target: Target<'a>,
    terms: Choice,
    /// Itself, if it is coded for others as well: its loss is its own, that of the others is theirs.
    own: Option<Target<'a>>,
    learned: Learned,
}

impl<'a> Matrix<'a> {
    fn new(model: &'a Model, metrics: &'a Metrics<'a>, scheme: &Scheme, stored: usize) -> Self {
        let (mean_of, serves) = (scheme.mean_of(stored), scheme.copies(stored));
        let target = target(model, metrics, stored, mean_of, &serves);
        let own = (!mean_of.is_empty() || !serves.is_empty()).then(|| itself(model, metrics, stored));
        Matrix { stored, target, terms: scheme.choice(stored), own, learned: Learned::default() }
    }

    /// The matrix at the model's step size `c`, given what it starts from, decoded.
    fn encode(&mut self, c: f64, states: usize, last: bool, reference: Option<&[f32]>) -> CodedStream {
        let step = c / self.target.correction.sqrt();
        let begun = begin(&self.terms, &self.target, reference, step);
        if !self.terms.is_alone() {
            // The residual depends on the decoded reference, not on the step size alone.
            self.learned.converged = None;
        }
        let (coded, grid) = match self.terms.residual {
            Some(AnyGrid) => {
                let (coded, grid) = self.learned.code(&begun, &self.target, step, states, last);
                (coded, Some(grid))
            }
            None => (begun.finish(&self.target, None, step, Prices::Converged), None),
        };
        let Terms { prediction, rank, .. } = self.terms;
        let recipe = Recipe::Sum(Terms { prediction, rank, residual: grid });
        CodedStream { bytes: coded.bytes, recipe, step, loss: self.target.correction * coded.loss }
    }
}

/// State of the residual search of a matrix that later trials reuse.
#[derive(Clone, Default)]
struct Learned {
    /// What grid 1 of its trellis is made of, and what indices cost, once a first search has found out.
    found: Option<(Odd, indices::Prices)>,
    /// The step size for which the prices have converged.
    converged: Option<f64>,
}

impl Learned {
    /// The residual on a grid of step size `step`. The first time on both kinds of grid, to see which is cheaper.
    ///
    /// While the search is far off, prices follow from trial to trial; for the last trials they are those that executing
    /// the plan will find.
    fn code(&mut self, begun: &Begun, target: &Target, step: f64, states: usize, last: bool) -> (CodedMatrix, Grid) {
        let (rest, metric) = (&begun.rest[..], &*target.metric);
        let finish = |grid, prices: &indices::Prices| begun.finish(target, Some(grid), step, Prices::Learned(prices));
        if self.found.is_none() {
            let [plain, zero] = [Odd::Plain, Odd::WithZero].map(|odd| {
                let grid = Grid { states, odd };
                let prices = matrix::learn(rest, metric, step, &settings(grid), None);
                (finish(grid, &prices), odd, prices)
            });
            let cost = |coded: &CodedMatrix| coded.loss + NATS_PER_BYTE * step * step * coded.bytes.len() as f64;
            let (coded, odd, prices) = if cost(&plain.0) <= cost(&zero.0) { plain } else { zero };
            self.found = Some((odd, prices));
            if !last {
                return (coded, Grid { states, odd });
            }
        }
        let (odd, prices) = self.found.as_mut().expect("it was found just now");
        let grid = Grid { states, odd: *odd };
        let at = Some(price_step(step));
        if !last {
            *prices = matrix::learn(rest, metric, step, &settings(grid), Some(prices));
        } else if self.converged != at {
            (*prices, self.converged) = (matrix::converged(rest, metric, step, &settings(grid)), at);
        }
        (finish(grid, prices), grid)
    }
}

/// A stream of the file.
struct Content {
    /// Where it is in the coded parts: which of them, and which of its streams.
    at: (usize, usize),
    recipe: Recipe<usize, AnyGrid>,
    tensors: Vec<usize>,
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
    /// The loss of leaving each of these out.
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
        let (small, large): (Vec<usize>, Vec<usize>) = all.partition(|i| !model.is_matrix(*i));
        let (zeros, large): (Vec<usize>, Vec<usize>) =
            large.into_iter().partition(|i| metrics.vanishes(model, *i) || scheme.choice(*i).is_zero());
        let mut groups: Vec<Group> = Vec::new();
        for stored in large {
            let mut matrix = Matrix::new(model, metrics, scheme, stored);
            // A dead matrix does not reach the predictions: no term of it could lower the loss.
            if scheme.from(stored).is_some_and(|from| zeros.contains(&from)) {
                matrix.terms = ALONE;
            }
            let from = matrix.terms.from();
            let group = from.and_then(|from| groups.iter_mut().find(|g| g.iter().any(|m| m.stored == *from)));
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
            let old = self.groups.iter().flatten().find(|old| old.stored == m.stored && old.terms == m.terms);
            if let Some(old) = old.filter(|_| same) {
                m.learned.found.clone_from(&old.learned.found);
            }
        }
        (parts.states, parts.last) = (self.states, self.last);
        parts
    }

    pub fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// One matrix under `scheme` at step size `c`, with all that it starts from and all that starts from these.
    pub fn group_under(&self, scheme: &Scheme, stored: usize, c: f64) -> Result<Vec<(usize, CodedStream)>> {
        let members = scheme.dependents(scheme.root(stored));
        let mut group: Group =
            members.iter().map(|stored| Matrix::new(self.model, self.metrics, scheme, *stored)).collect();
        let part = encode(self.model, &mut group, c, self.states, false)?;
        Ok(members.into_iter().zip(part.coded).collect())
    }

    /// The streams of coded parts by stored matrix.
    pub fn by_stored(&self, parts: &[budget::EncodedPart<Vec<CodedStream>>]) -> Vec<Option<CodedStream>> {
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
                out.push(Content { at: (g, k), recipe: Recipe::Sum(m.terms), tensors: vec![m.stored] });
            }
        }
        out.sort_by_key(|content: &Content| content.tensors[0]);
        let mut next = self.groups.len();
        for (recipe, tensors) in [(Recipe::Vectors, &self.small), (Recipe::ZERO, &self.zeros)] {
            if !tensors.is_empty() {
                out.push(Content { at: (next, 0), recipe, tensors: tensors.clone() });
                next += 1;
            }
        }
        out
    }

    fn entries(&self, parts: &[budget::EncodedPart<Vec<CodedStream>>]) -> Vec<StreamEntry> {
        let one = |Content { at: (part, k), recipe, tensors }: Content| {
            entry(self.model, &recipe, &tensors, parts[part].coded[k].bytes.len())
        };
        self.contents().into_iter().map(one).collect()
    }

    fn group(&mut self, g: usize, c: f64) -> Result<budget::EncodedPart<Vec<CodedStream>>> {
        encode(self.model, &mut self.groups[g], c, self.states, self.last)
    }

    /// The file that holds these parts, and its plan, with the loss that is predicted for every matrix.
    pub fn finish(&self, parts: Vec<budget::EncodedPart<Vec<CodedStream>>>) -> Result<Finished> {
        let entries = self.entries(&parts);
        let names = |tensors: &[usize]| tensors.iter().map(|t| self.model.spec(*t).name.clone()).collect::<Vec<_>>();
        let (mut streams, mut planned) = (Vec::new(), Vec::new());
        let mut losses = vec![0.0; self.model.stored.len()];
        self.zeros.iter().zip(&self.gone).for_each(|(i, lost)| losses[*i] = *lost);
        let mut coded: Vec<Vec<Option<CodedStream>>> =
            parts.into_iter().map(|part| part.coded.into_iter().map(Some).collect()).collect();
        for Content { at: (part, k), tensors, .. } in self.contents() {
            let Some(CodedStream { bytes, recipe, step, loss }) = coded[part][k].take() else { continue };
            let mean_of = if recipe.matrix().is_some() { names(self.scheme.mean_of(tensors[0])) } else { Vec::new() };
            if tensors.len() == 1 {
                losses[tensors[0]] = loss;
            }
            let recipe = recipe.refer(|from| self.model.spec(from).name.clone());
            planned.push(Part { tensors: names(&tensors), mean_of, made: Made { recipe, step } });
            streams.push(bytes);
        }
        let plan = Plan { plan: PLAN_VERSION, model: self.model.digest().to_hex().to_string(), parts: planned };
        let header = header(self.model, entries);
        let decoded = open::streams(&header, &self.model.shapes(), |i| &streams[i])
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

fn encode(
    model: &Model,
    group: &mut Group,
    c: f64,
    states: usize,
    last: bool,
) -> Result<budget::EncodedPart<Vec<CodedStream>>> {
    let wanted: Vec<usize> = group.iter().filter_map(|m| m.terms.from().copied()).collect();
    let mut decoded: Vec<(usize, Vec<f32>)> = Vec::new();
    let mut coded: Vec<CodedStream> = Vec::with_capacity(group.len());
    for m in group {
        let reference = m.terms.from().and_then(|from| decoded.iter().find(|(stored, _)| stored == from));
        let reference = reference.map(|(_, data)| &data[..]);
        let mut stream = m.encode(c, states, last, reference);
        if wanted.contains(&m.stored) || m.own.is_some() {
            let sides = [m.target.metric.rows, m.target.metric.cols];
            let back = decode(&m.terms, sides, reference, &stream.bytes);
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
    Ok(budget::EncodedPart { bytes, loss, coded })
}

impl Encoder for Parts<'_> {
    type Coded = Vec<CodedStream>;

    fn encode(&mut self, c: f64) -> Result<Vec<budget::EncodedPart<Vec<CodedStream>>>> {
        let (states, last, progress, model) = (self.states, self.last, self.progress, self.model);
        let mut parts: Vec<budget::EncodedPart<Vec<CodedStream>>> = self
            .groups
            .par_iter_mut()
            .with_max_len(1)
            .map(|group| {
                let part = encode(model, group, c, states, last);
                progress.advance(group.len() as u64);
                part
            })
            .collect::<Result<_>>()?;
        let mut single = |bytes: Vec<u8>, loss: f64, recipe: Recipe<usize>, step: f64| {
            parts.push(budget::EncodedPart {
                bytes: bytes.len(),
                loss,
                coded: vec![CodedStream { bytes, recipe, step, loss }],
            });
        };
        if !self.small.is_empty() {
            let coded = vectors::encode(&self.metrics.control_tensors(self.model, &self.small), c);
            single(coded.bytes, coded.loss, Recipe::Vectors, c);
        }
        if !self.zeros.is_empty() {
            single(Vec::new(), self.gone.iter().sum(), Recipe::ZERO, 0.0);
        }
        Ok(parts)
    }

    fn file_size(&self, parts: &[budget::EncodedPart<Vec<CodedStream>>]) -> Result<u64> {
        Ok(size_of(&header(self.model, self.entries(parts)))?)
    }

    fn encode_part(&mut self, part: usize, c: f64) -> Result<budget::EncodedPart<Vec<CodedStream>>> {
        match part < self.groups.len() {
            true => self.group(part, c),
            false => Err(Error::compute("only matrices are coded one by one")),
        }
    }

    fn part_weights(&self) -> Vec<usize> {
        let on_grid = |m: &Matrix| m.terms.residual.map_or(0, |AnyGrid| m.target.w.len());
        let mut weights: Vec<usize> = self.groups.iter().map(|g| g.iter().map(on_grid).sum()).collect();
        weights.resize(weights.len() + usize::from(!self.small.is_empty()) + usize::from(!self.zeros.is_empty()), 0);
        weights
    }
}
