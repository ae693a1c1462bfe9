//! The terms of a sum one by one, for who changes them.

use super::low_rank::{self, LowRank};
use super::{LOW_RANK, REFERENCE, add, kind, scaled};
use crate::varint::Reader;

/// The matrix (R, C) row-major of these terms, bit for bit as it is decoded; zeros where there is none.
pub fn add_up(
    [rows, cols]: [usize; 2],
    reference: Option<(&[f32], i16)>,
    term: Option<&LowRank>,
    residual: Option<Vec<f32>>,
) -> Vec<f32> {
    let mut sum = reference.map(|(reference, gain)| scaled(reference, gain));
    if let Some(term) = term {
        add(&mut sum, term.product(rows, cols));
    }
    if let Some(residual) = residual {
        add(&mut sum, residual);
    }
    sum.unwrap_or_else(|| vec![0.0; rows * cols])
}

/// The stream of these terms; `residual` is a stream of codec 1.
pub fn write([rows, cols]: [usize; 2], gain: Option<i16>, term: Option<&LowRank>, residual: Option<&[u8]>) -> Vec<u8> {
    let mut out = vec![kind(gain.is_some(), term.is_some(), residual.is_some())];
    out.extend(gain.into_iter().flat_map(i16::to_le_bytes));
    if let Some(term) = term {
        term.encode(&mut out, rows, cols);
    }
    out.extend(residual.unwrap_or_default());
    out
}

/// Gain and low-rank term of a stream, each if it is there, and the bytes after them; `None` if the stream is damaged in a way that shows.
pub fn read_start(bytes: &[u8], rows: usize, cols: usize) -> Option<(Option<i16>, Option<LowRank>, &[u8])> {
    let mut reader = Reader::new(bytes);
    let terms = reader.take(1, "terms").ok()?[0];
    let gain = match terms & REFERENCE {
        0 => None,
        _ => Some(i16::from_le_bytes(reader.take(2, "gain").ok()?.try_into().ok()?)),
    };
    let term = match terms & LOW_RANK {
        0 => None,
        _ => Some(low_rank::decode(&mut reader, bytes.len(), rows, cols)?),
    };
    Some((gain, term, &bytes[reader.position()..]))
}
