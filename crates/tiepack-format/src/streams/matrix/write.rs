//! Writes a matrix.

use super::PLAIN;
use crate::entropy::exponents;
use crate::entropy::indices::{self, Layout};
use crate::grid::step_sizes::StepSizes;
use crate::grid::trellis::{Odd, Trellis};
use crate::varint::put;

/// The layout of a matrix, known to the coder of its indices beforehand.
pub fn layout<'a>(steps: &'a StepSizes, trellis: &'a Trellis) -> Layout<'a> {
    Layout { rows: steps.rows.len(), cols: steps.cols.len(), row_exp: &steps.rows, col_exp: &steps.cols, trellis }
}

/// The stream of indices (C, R) on a grid.
pub fn write(q: &[i32], steps: &StepSizes, trellis: &Trellis) -> Vec<u8> {
    let layout = &layout(steps, trellis);
    let odd = if layout.trellis.odd == Odd::Plain { PLAIN } else { 0 };
    let mut out = vec![layout.trellis.states.ilog2() as u8 | odd];
    out.extend(steps.base.to_le_bytes());
    let scales = exponents::encode(&[&steps.rows, &steps.cols]);
    put(&mut out, scales.len() as u64);
    out.extend(scales);
    out.extend(indices::encode(q, layout));
    out
}
