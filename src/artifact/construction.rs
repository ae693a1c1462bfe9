//! What the streams of an artifact say of themselves, without decoding what they need not; and of the indices in them.

use serde::Serialize;

use super::layout::{StreamEntry, codec};
use crate::code::codec::{matrix, sum};
use crate::code::grid::step_sizes::FINE;
use crate::error::{Error, Result};

/// What a stream's tensors are made of.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Construction {
    pub way: Way,
    /// Stored tensor that it starts from.
    #[serde(skip)]
    pub base: Option<u32>,
    /// First name of that tensor.
    pub from: Option<String>,
    /// What that tensor is multiplied by.
    pub gain: Option<f32>,
    /// Components of its low-rank term; 0: there is none.
    pub rank: usize,
    /// Trellis states of its grid, 1 for a uniform one; `None`: no grid.
    pub states: Option<usize>,
    /// log2 of the step of a weight of neutral scales; `None`: no grid.
    pub log2_step: Option<f64>,
}

impl Construction {
    /// In a few words: `alone`, `zeros`, `0.62 x blocks.0.mlp.fc.weight + rank 4 + grid`.
    pub fn words(&self) -> String {
        match self.way {
            // That it is exact is a matter of its grid.
            Way::Exact | Way::Alone => "alone".into(),
            Way::Vectors => "vectors".into(),
            Way::Zero => "zeros".into(),
            Way::Sum => {
                let from = self.from.as_ref().zip(self.gain).map(|(from, gain)| match gain {
                    1.0 => from.clone(),
                    gain => format!("{gain:.2} x {from}"),
                });
                let rank = (self.rank > 0).then(|| format!("rank {}", self.rank));
                let grid = self.states.map(|_| "grid".to_string());
                [from, rank, grid].into_iter().flatten().collect::<Vec<_>>().join(" + ")
            }
        }
    }
}

/// The rows of the one table: W = αP + AB + S∘Q.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// Bit for bit.
    Exact,
    /// A matrix on a grid of its own.
    Alone,
    /// Terms beside a grid, or in place of one.
    Sum,
    /// Control tensors on uniform grids.
    Vectors,
    /// Nothing but zeros.
    Zero,
}

/// What the indices of a matrix hold, and what they cost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct IndexStatistics {
    /// Entropy of a single index given its grid, bits per weight: what a coder without contexts would need.
    pub entropy: f64,
    /// Bits per weight of the coded indices, scales left out.
    pub spent: f64,
    /// Share of weights whose index is zero, 0 to 1.
    pub zeros: f64,
}

/// Reads the first bytes of a stream; names are left to the caller.
///
/// # Errors
/// Verification, when they are damaged in a way that shows.
pub fn construction(entry: &StreamEntry, bytes: &[u8]) -> Result<Construction> {
    let damaged = || Error::verification(format!("a stream of codec {} is damaged", entry.codec));
    let plain = |way| Construction { way, base: None, from: None, gain: None, rank: 0, states: None, log2_step: None };
    let on_grid = |way, head: Option<matrix::Head>| Construction {
        states: head.as_ref().map(|head| head.trellis.states),
        log2_step: head.map(|head| f64::from(head.base) / f64::from(FINE)),
        ..plain(way)
    };
    Ok(match entry.codec {
        codec::LOSSLESS => plain(Way::Exact),
        codec::VECTORS => plain(Way::Vectors),
        codec::ZERO => plain(Way::Zero),
        codec::MATRIX => on_grid(Way::Alone, Some(matrix::head(bytes).ok_or_else(damaged)?)),
        codec::SUM => {
            let head = sum::terms(bytes).ok_or_else(damaged)?;
            if head.residual.is_some() && head.grid().is_none() {
                return Err(damaged());
            }
            let base = entry.needs.first().copied().filter(|_| head.gain.is_some());
            Construction { base, gain: head.alpha(), rank: head.rank(), ..on_grid(Way::Sum, head.grid()) }
        }
        other => {
            return Err(Error::verification(format!("the artifact has a stream of unknown codec {other}"))
                .hint("a newer tiepack may read it"));
        }
    })
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
