//! Reads a matrix.

use super::PLAIN;
use crate::code::entropy::exponents;
use crate::code::entropy::indices::{self, Layout};
use crate::code::grid::step_sizes::{BASE_LIMIT, StepSizes};
use crate::code::grid::trellis::{Odd, Trellis};
use crate::varint::Reader;

/// The matrix (R, C) row-major in a stream, or `None` if it is damaged in a way that shows.
///
/// Every weight is its integer times its step, one correctly rounded f32 product: the same on every machine.
pub fn decode(bytes: &[u8], rows: usize, cols: usize) -> Option<Vec<f32>> {
    let mut reader = Reader::new(bytes);
    let kind = reader.take(1, "trellis").ok()?[0];
    let odd = if kind & PLAIN != 0 { Odd::Plain } else { Odd::WithZero };
    let trellis = (kind & !31 == 0).then(|| Trellis::with_states(1 << (kind & 15)))??.odd(odd);
    let base = i16::from_le_bytes(reader.take(2, "base step").ok()?.try_into().ok()?);
    if base.unsigned_abs() > BASE_LIMIT.unsigned_abs() {
        return None;
    }
    let length = reader.within(0, bytes.len(), "length of the exponents").ok()?;
    let scales = reader.take(length, "exponents").ok()?;
    let coded = &bytes[reader.position()..];
    let [row_exp, col_exp]: [Vec<i16>; 2] = exponents::decode(scales, &[rows, cols])?.try_into().ok()?;
    let steps = StepSizes { base, rows: row_exp, cols: col_exp };
    let layout = Layout { rows, cols, row_exp: &steps.rows, col_exp: &steps.cols, trellis: &trellis };
    let q = indices::decode(coded, &layout)?;
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
