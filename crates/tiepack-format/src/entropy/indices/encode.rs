//! Writes the indices of a matrix.

use super::layout::Layout;
use super::model::MAX_INDEX;
use super::walk::walk;
use crate::entropy::logarithm::log16;
use crate::entropy::range::Encoder;

/// Codes a matrix.
///
/// # Panics
/// If `q` does not have the shape of `layout`, or an index exceeds [`MAX_INDEX`].
pub fn encode(q: &[i32], layout: &Layout) -> Vec<u8> {
    assert!(q.len() == layout.len(), "one index per place");
    assert!(q.iter().all(|q| q.unsigned_abs() <= MAX_INDEX), "index out of range");
    let mut encoder = Encoder::new();
    if !q.is_empty() {
        walk(&mut encoder, layout, level(q, layout), &mut q.to_vec(), |_, _| ());
    }
    encoder.finish()
}

/// Mean magnitude as eighths of an octave over 2^-12, the one figure that goes ahead of a stream.
pub(super) fn level(q: &[i32], layout: &Layout) -> u8 {
    let mut sum = 0u64;
    layout.magnitudes(q, |v| sum += u64::from(v));
    let mean = ((u128::from(sum) << 12) / q.len() as u128) as u64;
    ((log16(mean) + 1) / 2).min(255) as u8
}
