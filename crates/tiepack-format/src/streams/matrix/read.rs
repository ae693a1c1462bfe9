//! Reads a matrix.

use super::head::{Parts, parts};

/// The matrix (R, C) row-major in a stream, or `None` if it is damaged in a way that shows.
///
/// Every weight is its integer times its step, one correctly rounded f32 product: the same on every machine.
pub fn decode(bytes: &[u8], rows: usize, cols: usize) -> Option<Vec<f32>> {
    let Parts { trellis, steps, q, .. } = parts(bytes, rows, cols)?;
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
