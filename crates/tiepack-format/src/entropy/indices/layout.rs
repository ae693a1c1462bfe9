//! The layout of a matrix of indices: shape, scales and trellis, known to encoder and decoder before the first index.

use crate::grid::trellis::Trellis;

/// Shape, scale exponents and trellis of a matrix. Indices are column-major: (C, R), `q[j * rows + i]`.
#[derive(Clone, Copy)]
pub struct Layout<'a> {
    pub rows: usize,
    pub cols: usize,
    /// Row and column scales are 2^(exponent / 4).
    pub row_exp: &'a [i16],
    pub col_exp: &'a [i16],
    pub trellis: &'a Trellis,
}

impl Layout<'_> {
    pub(super) fn len(&self) -> usize {
        assert!(self.row_exp.len() == self.rows && self.col_exp.len() == self.cols, "one exponent per row and column");
        self.rows * self.cols
    }

    /// Columns in coding order: neighbours should be alike.
    pub(super) fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.cols).collect();
        order.sort_by_key(|&j| self.col_exp[j]);
        order
    }

    /// Calls `f` with the magnitude in grid steps of every index, down the columns.
    pub(super) fn magnitudes(&self, q: &[i32], mut f: impl FnMut(u32)) {
        for column in q.chunks_exact(self.rows) {
            let mut state = 0;
            for q in column {
                f(self.trellis.value(self.trellis.grid[state], *q).unsigned_abs());
                state = usize::from(self.trellis.next[state][(q & 1) as usize]);
            }
        }
    }
}
