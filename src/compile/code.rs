//! The one coder: carries a recipe out on a matrix, for a search, a plan, a healing and a probe alike.

use std::borrow::Cow;

use super::metrics::settings;
use super::target::Target;
use crate::code::codec::matrix::{self, CodedMatrix};
use crate::code::codec::sum::{self, LowRank};
use crate::code::entropy::indices;
use crate::recipe::{Grid, Terms};

/// The prices at which points of a residual's grid are searched.
#[derive(Clone, Copy)]
pub(super) enum Prices<'a> {
    /// Those that follow from the matrix and the step size alone: what a plan is executed at.
    Converged,
    /// Those that were learned at a step size nearby.
    Learned(&'a indices::Prices),
}

/// Codes `target` at step size `step` as its recipe says; `reference` is the decoded tensor that it starts from. The loss is what
/// the metric says, without the target's correction.
pub(super) fn code<T>(
    terms: &Terms<T>,
    target: &Target,
    reference: Option<&[f32]>,
    step: f64,
    prices: Prices,
) -> CodedMatrix {
    begin(terms, target, reference, step).finish(target, terms.residual, step, prices)
}

/// A stream up to its residual.
pub(super) struct Begun<'a> {
    bytes: Vec<u8>,
    /// The target of the residual (R, C); where there is no residual, the part of the matrix that is lost.
    pub rest: Cow<'a, [f32]>,
}

/// Codes all terms but the residual, of which only whether there is one matters.
pub(super) fn begin<'a, T, G>(
    terms: &Terms<T, G>,
    target: &'a Target,
    reference: Option<&[f32]>,
    step: f64,
) -> Begun<'a> {
    if terms.is_alone() || terms.is_zero() {
        return Begun { bytes: Vec::new(), rest: Cow::Borrowed(&target.w) };
    }
    let sum::Start { bytes, rest } = sum::start(&target.w, &target.metric, step, terms, reference);
    Begun { bytes, rest: rest.into() }
}

impl Begun<'_> {
    /// The whole stream with the residual on this grid; without one what is left is lost.
    pub fn finish(&self, target: &Target, residual: Option<Grid>, step: f64, prices: Prices) -> CodedMatrix {
        let (rest, metric) = (&self.rest[..], &*target.metric);
        let mut bytes = self.bytes.clone();
        let Some(grid) = residual else { return CodedMatrix { bytes, loss: sum::loss(rest, metric) } };
        let settings = settings(grid);
        let coded = match prices {
            Prices::Converged => {
                let prices = matrix::converged(rest, metric, step, &settings);
                matrix::encode(rest, metric, step, &settings, &prices)
            }
            Prices::Learned(prices) => matrix::encode(rest, metric, step, &settings, prices),
        };
        bytes.extend(coded.bytes);
        CodedMatrix { bytes, loss: coded.loss }
    }
}

/// A coded matrix taken apart.
pub(super) struct Parts {
    pub gain: Option<i16>,
    pub low_rank: Option<LowRank>,
    /// The target of the residual (R, C), as [`begin`] found it.
    pub rest: Vec<f32>,
    /// Indices (C, R) of the residual.
    pub indices: Option<Vec<i32>>,
}

/// Takes the stream apart that [`code`] wrote; `None` if it is damaged in a way that shows.
pub(super) fn parts<T>(terms: &Terms<T>, target: &Target, reference: Option<&[f32]>, bytes: &[u8]) -> Option<Parts> {
    let sides @ [rows, cols] = [target.metric.rows, target.metric.cols];
    let (gain, low_rank, residual, rest) = if terms.is_alone() {
        (None, None, bytes, target.w.to_vec())
    } else {
        let (gain, low_rank, residual) = sum::read_start(bytes, rows, cols)?;
        let before = sum::add_up(sides, reference.zip(gain), low_rank.as_ref(), None);
        (gain, low_rank, residual, target.w.iter().zip(&before).map(|(w, b)| w - b).collect())
    };
    let indices = match terms.residual {
        Some(_) => Some(matrix::integers(residual, rows, cols)?),
        None => None,
    };
    Some(Parts { gain, low_rank, rest, indices })
}

/// The matrix (R, C) in the stream that [`code`] wrote; `None` if it is damaged in a way that shows.
pub(super) fn decode<T, G>(
    terms: &Terms<T, G>,
    [rows, cols]: [usize; 2],
    reference: Option<&[f32]>,
    bytes: &[u8],
) -> Option<Vec<f32>> {
    match (terms.is_alone(), terms.is_zero()) {
        (true, _) => matrix::decode(bytes, rows, cols),
        (_, true) => bytes.is_empty().then(|| vec![0.0; rows * cols]),
        _ => sum::decode(bytes, rows, cols, reference),
    }
}
