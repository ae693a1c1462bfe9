//! Recipes of the streams of an artifact, read without decoding more than that needs; and statistics of their indices.

use serde::Serialize;

use super::layout::{StreamEntry, codec};
use crate::code::codec::{matrix, sum};
use crate::code::grid::step_sizes::FINE;
use crate::code::grid::trellis;
use crate::error::{Error, Result};
use crate::recipe::{Grid, Odd, Prediction, Recipe, Terms};

/// The recipe of a stream, as its bytes give it.
#[derive(Debug, Clone, PartialEq)]
pub struct Construction<T> {
    /// Tensors by `T`.
    pub recipe: Recipe<T>,
    /// log2 of the step of a weight of neutral scales; `None`: no grid.
    pub log2_step: Option<f64>,
}

/// The codec of a stream that is made so.
pub fn codec_of<T, G>(recipe: &Recipe<T, G>) -> u8 {
    match recipe {
        Recipe::Exact => codec::LOSSLESS,
        Recipe::Vectors => codec::VECTORS,
        Recipe::Sum(terms) if terms.is_zero() => codec::ZERO,
        Recipe::Sum(terms) if terms.is_alone() => codec::MATRIX,
        Recipe::Sum(_) => codec::SUM,
    }
}

/// Entropy and coded size of the indices of a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct IndexStatistics {
    /// Entropy of a single index given its grid, bits per weight: what a coder without contexts would need.
    pub entropy: f64,
    /// Bits per weight of the coded indices, scales left out.
    pub spent: f64,
    /// Share of weights whose index is zero, 0 to 1.
    pub zeros: f64,
}

/// Reads the first bytes of a stream; tensors by their stored index.
///
/// # Errors
/// Verification, when they are damaged in a way that shows.
pub fn construction(entry: &StreamEntry, bytes: &[u8]) -> Result<Construction<u32>> {
    let damaged = || Error::verification(format!("a stream of codec {} is damaged", entry.codec));
    let grid = |head: &matrix::GridHeader| Grid {
        states: head.trellis.states,
        odd: match head.trellis.odd {
            trellis::Odd::Plain => Odd::Plain,
            trellis::Odd::WithZero => Odd::WithZero,
        },
    };
    let (recipe, head) = match entry.codec {
        codec::LOSSLESS => (Recipe::Exact, None),
        codec::VECTORS => (Recipe::Vectors, None),
        codec::ZERO => (Recipe::ZERO, None),
        codec::MATRIX => {
            let head = matrix::grid_header(bytes).ok_or_else(damaged)?;
            (Recipe::Sum(Terms::alone(grid(&head))), Some(head))
        }
        codec::SUM => {
            let sum = sum::terms(bytes).ok_or_else(damaged)?;
            let prediction = match (sum.alpha(), entry.needs.first()) {
                (Some(gain), Some(from)) => Some(Prediction { from: *from, gain: Some(f64::from(gain)) }),
                (None, None) => None,
                _ => return Err(damaged()),
            };
            let head = match sum.residual {
                Some(residual) => Some(matrix::grid_header(residual).ok_or_else(damaged)?),
                None => None,
            };
            (Recipe::Sum(Terms { prediction, rank: sum.rank(), residual: head.as_ref().map(grid) }), head)
        }
        other => {
            return Err(Error::verification(format!("the artifact has a stream of unknown codec {other}"))
                .hint("a newer tiepack may read it"));
        }
    };
    Ok(Construction { recipe, log2_step: head.map(|head| f64::from(head.base) / f64::from(FINE)) })
}

/// Decodes the indices of a stream's matrix (`rows`, `cols`); `None` where it has none.
///
/// # Errors
/// Verification, when they are damaged in a way that shows.
pub fn index_statistics(
    entry: &StreamEntry,
    bytes: &[u8],
    (rows, cols): (usize, usize),
) -> Result<Option<IndexStatistics>> {
    let grid = match entry.codec {
        codec::MATRIX => Some(bytes),
        codec::SUM => sum::terms(bytes).and_then(|head| head.residual),
        _ => None,
    };
    let Some(bytes) = grid.filter(|_| rows * cols > 0) else { return Ok(None) };
    let damaged = || Error::verification(format!("a stream of codec {} is damaged", entry.codec));
    let mut found = matrix::indices(bytes, rows, cols).ok_or_else(damaged)?;
    let weights = found.values.len() as f64;
    let zeros = found.values.iter().filter(|(_, value)| *value == 0).count();
    found.values.sort_unstable();
    let mut entropy = 0.0;
    for grid in found.values.chunk_by(|a, b| a.0 == b.0) {
        let all = grid.len() as f64;
        entropy +=
            grid.chunk_by(|a, b| a == b).map(|same| same.len() as f64 * (all / same.len() as f64).log2()).sum::<f64>();
    }
    Ok(Some(IndexStatistics {
        entropy: entropy / weights,
        spent: 8.0 * found.coded as f64 / weights,
        zeros: zeros as f64 / weights,
    }))
}
