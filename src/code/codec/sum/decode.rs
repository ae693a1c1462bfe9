//! Reads a sum.

use super::{LOW_RANK, REFERENCE, RESIDUAL, add, low_rank, scaled};
use crate::code::codec::matrix;
use crate::varint::Reader;

/// The matrix (R, C) row-major in a stream, or `None` if it is damaged in a way that shows. `reference` is P, of the same
/// shape, if the header names one.
pub fn decode(bytes: &[u8], rows: usize, cols: usize, reference: Option<&[f32]>) -> Option<Vec<f32>> {
    let mut reader = Reader::new(bytes);
    let terms = reader.take(1, "terms").ok()?[0];
    if terms == 0 || terms & !(REFERENCE | LOW_RANK | RESIDUAL) != 0 || (terms & REFERENCE != 0) != reference.is_some()
    {
        return None;
    }
    let mut sum = None;
    if let Some(reference) = reference {
        let gain = i16::from_le_bytes(reader.take(2, "gain").ok()?.try_into().ok()?);
        sum = Some(scaled(reference, gain));
    }
    if terms & LOW_RANK != 0 {
        add(&mut sum, low_rank::decode(&mut reader, bytes.len(), rows, cols)?.product(rows, cols));
    }
    let rest = &bytes[reader.position()..];
    if terms & RESIDUAL != 0 {
        add(&mut sum, matrix::decode(rest, rows, cols)?);
    } else if !rest.is_empty() {
        return None;
    }
    sum
}
