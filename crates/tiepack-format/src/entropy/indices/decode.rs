//! Reads the indices of a matrix.

use super::layout::Layout;
use super::walk::walk;
use crate::entropy::range::Decoder;

/// The indices of a coded matrix, or `None` if the bytes are not what [`super::encode`] writes.
pub fn decode(bytes: &[u8], layout: &Layout) -> Option<Vec<i32>> {
    let mut q = vec![0; layout.len()];
    let mut decoder = Decoder::new(bytes);
    if !q.is_empty() {
        walk(&mut decoder, layout, 0, &mut q, |_, _| ())?;
    }
    (!decoder.damaged()).then_some(q)
}
