//! The grid header of a matrix stream, and its indices as they were written.

use super::PLAIN;
use crate::entropy::exponents;
use crate::entropy::indices::{self, Layout};
use crate::grid::step_sizes::{BASE_LIMIT, StepSizes};
use crate::grid::trellis::{Odd, Trellis};
use crate::varint::Reader;

/// The first bytes of a stream.
pub struct GridHeader {
    pub trellis: Trellis,
    /// Exponent of the step of a weight of neutral scales, in 64ths of an octave.
    pub base: i16,
}

/// A stream taken apart.
pub(super) struct Parts {
    pub trellis: Trellis,
    pub steps: StepSizes,
    /// Indices (C, R), column-major.
    pub q: Vec<i32>,
    /// Bytes of the coded indices alone.
    pub coded: usize,
}

/// The indices of a stream on their grids.
pub struct Indices {
    /// For every weight, down the columns: the grid, 0 or 1, and the multiple of half a step.
    pub values: Vec<(u8, i32)>,
    /// Bytes of the coded indices alone.
    pub coded: usize,
}

/// Reads the first bytes of a stream; `None` if they are damaged in a way that shows.
pub fn grid_header(bytes: &[u8]) -> Option<GridHeader> {
    read_grid_header(&mut Reader::new(bytes))
}

fn read_grid_header(reader: &mut Reader) -> Option<GridHeader> {
    let kind = reader.take(1, "trellis").ok()?[0];
    let odd = if kind & PLAIN != 0 { Odd::Plain } else { Odd::WithZero };
    let trellis = (kind & !31 == 0).then(|| Trellis::with_states(1 << (kind & 15)))??.odd(odd);
    let base = i16::from_le_bytes(reader.take(2, "base step").ok()?.try_into().ok()?);
    (base.unsigned_abs() <= BASE_LIMIT.unsigned_abs()).then_some(GridHeader { trellis, base })
}

/// Takes the stream of a matrix (R, C) apart; `None` if it is damaged in a way that shows.
pub(super) fn parts(bytes: &[u8], rows: usize, cols: usize) -> Option<Parts> {
    let mut reader = Reader::new(bytes);
    let GridHeader { trellis, base } = read_grid_header(&mut reader)?;
    let length = reader.within(0, bytes.len(), "length of the exponents").ok()?;
    let scales = reader.take(length, "exponents").ok()?;
    let coded = &bytes[reader.position()..];
    let [row_exp, col_exp]: [Vec<i16>; 2] = exponents::decode(scales, &[rows, cols])?.try_into().ok()?;
    let steps = StepSizes { base, rows: row_exp, cols: col_exp };
    let layout = Layout { rows, cols, row_exp: &steps.rows, col_exp: &steps.cols, trellis: &trellis };
    let q = indices::decode(coded, &layout)?;
    Some(Parts { trellis, steps, q, coded: coded.len() })
}

/// The integers (C, R) of a matrix (R, C) as they were written; `None` if the stream is damaged in a way that shows.
pub fn integers(bytes: &[u8], rows: usize, cols: usize) -> Option<Vec<i32>> {
    Some(parts(bytes, rows, cols)?.q)
}

/// The indices of a matrix (R, C); `None` if the stream is damaged in a way that shows.
pub fn indices(bytes: &[u8], rows: usize, cols: usize) -> Option<Indices> {
    let Parts { trellis, q, coded, .. } = parts(bytes, rows, cols)?;
    let mut values = Vec::with_capacity(q.len());
    for column in q.chunks_exact(rows.max(1)) {
        let mut state = 0;
        for q in column {
            let grid = trellis.grid[state];
            values.push((grid, trellis.value(grid, *q)));
            state = usize::from(trellis.next[state][(q & 1) as usize]);
        }
    }
    Some(Indices { values, coded })
}
