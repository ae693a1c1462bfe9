//! One quantized matrix as a stream: how fine its grid is, then the indices on it (codec 1).
//!
//! | bytes | what |
//! |---|---|
//! | 1 | trellis: log2 of the states, plus 16 if grid 1 is odd multiples without zero |
//! | 2 | base step exponent, signed little-endian, 64ths of an octave |
//! | varint | length of the next part |
//! | … | row and column exponents ([`super::exponents`]) |
//! | rest | indices ([`super::indices`]) |

use super::exponents;
use super::indices::{self, Grid, Prices};
use super::metric::Metric;
use super::steps::{BASE_LIMIT, Exponents, Steps};
use super::trellis::{Odd, Trellis};
use super::viterbi::{Rate, Rounded, round};
use crate::varint::{Reader, put};

/// How a matrix is searched and coded. The same for all matrices of a model.
#[derive(Debug, Clone)]
pub struct Settings {
    pub trellis: Trellis,
    pub exponents: Exponents,
    /// Price of a bit in units of c²: what the loss per weight changes by with one bit at high rate.
    pub lambda: f32,
}

/// A coded matrix, and what it is worth.
pub struct Coded {
    pub bytes: Vec<u8>,
    /// Predicted loss against the original, nats per token.
    pub loss: f64,
}

/// Quantizes and codes `w` (R, C) row-major at knob `c` at the prices that [`learn`] found at a knob nearby.
pub fn encode(w: &[f32], metric: &Metric, c: f64, settings: &Settings, prices: &Prices) -> Coded {
    let steps = Steps::new(metric, c, settings.exponents);
    let grid = grid(&steps, &settings.trellis);
    let rounded = search(w, metric, c, settings, &steps, prices);
    Coded { bytes: write(&rounded.indices, &steps, &grid), loss: 0.5 * rounded.error }
}

/// What indices of `w` cost at knob `c`: from a first search that ignores the rate or goes by earlier prices.
pub fn learn(w: &[f32], metric: &Metric, c: f64, settings: &Settings, earlier: Option<&Prices>) -> Prices {
    let steps = Steps::new(metric, c, settings.exponents);
    let rounded = match earlier {
        Some(prices) => search(w, metric, c, settings, &steps, prices),
        None => {
            let (row, col) = steps.factors();
            round(w, metric, &row, &col, &settings.trellis, &Rate::free())
        }
    };
    indices::prices(&rounded.indices, &grid(&steps, &settings.trellis))
}

fn grid<'a>(steps: &'a Steps, trellis: &'a Trellis) -> Grid<'a> {
    Grid { rows: steps.rows.len(), cols: steps.cols.len(), row_exp: &steps.rows, col_exp: &steps.cols, trellis }
}

fn search(w: &[f32], metric: &Metric, c: f64, settings: &Settings, steps: &Steps, prices: &Prices) -> Rounded {
    let (row, col) = steps.factors();
    let rate = Rate { prices, lambda: settings.lambda * (c * c) as f32 };
    round(w, metric, &row, &col, &settings.trellis, &rate)
}

fn write(q: &[i32], steps: &Steps, grid: &Grid) -> Vec<u8> {
    let odd = if grid.trellis.odd == Odd::Plain { 16 } else { 0 };
    let mut out = vec![grid.trellis.states.ilog2() as u8 | odd];
    out.extend(steps.base.to_le_bytes());
    let scales = exponents::encode(&[&steps.rows, &steps.cols]);
    put(&mut out, scales.len() as u64);
    out.extend(scales);
    out.extend(indices::encode(q, grid));
    out
}

/// The matrix (R, C) row-major in a stream, or `None` if it is damaged in a way that shows.
///
/// Every weight is its integer times its step, one correctly rounded f32 product: the same on every machine.
pub fn decode(bytes: &[u8], rows: usize, cols: usize) -> Option<Vec<f32>> {
    let mut reader = Reader::new(bytes);
    let kind = reader.take(1, "trellis").ok()?[0];
    let odd = if kind & 16 != 0 { Odd::Plain } else { Odd::WithZero };
    let trellis = (kind & !31 == 0).then(|| Trellis::with_states(1 << (kind & 15)))??.odd(odd);
    let base = i16::from_le_bytes(reader.take(2, "base step").ok()?.try_into().ok()?);
    if base.unsigned_abs() > BASE_LIMIT.unsigned_abs() {
        return None;
    }
    let length = reader.within(0, bytes.len(), "length of the exponents").ok()?;
    let scales = reader.take(length, "exponents").ok()?;
    let coded = &bytes[reader.position()..];
    let [row_exp, col_exp]: [Vec<i16>; 2] = exponents::decode(scales, &[rows, cols])?.try_into().ok()?;
    let steps = Steps { base, rows: row_exp, cols: col_exp };
    let grid = Grid { rows, cols, row_exp: &steps.rows, col_exp: &steps.cols, trellis: &trellis };
    let q = indices::decode(coded, &grid)?;
    let mut w = vec![0f32; rows * cols];
    for (j, column) in q.chunks_exact(rows.max(1)).enumerate() {
        let mut state = 0;
        for (i, q) in column.iter().enumerate() {
            w[i * cols + j] = trellis.value(trellis.grid[state], *q) as f32 * steps.at(i, j);
            state = usize::from(trellis.next[state][(q & 1) as usize]);
        }
    }
    Some(w)
}
