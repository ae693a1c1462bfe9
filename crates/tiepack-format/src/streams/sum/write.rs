//! Writes a sum.

use super::{LOW_RANK, LowRank, REFERENCE, RESIDUAL};

/// The stream of these terms; `residual` is a stream of codec 1.
pub fn write([rows, cols]: [usize; 2], gain: Option<i16>, term: Option<&LowRank>, residual: Option<&[u8]>) -> Vec<u8> {
    let flag = |there: bool, bit: u8| if there { bit } else { 0 };
    let terms = flag(gain.is_some(), REFERENCE) | flag(term.is_some(), LOW_RANK) | flag(residual.is_some(), RESIDUAL);
    let mut out = vec![terms];
    out.extend(gain.into_iter().flat_map(i16::to_le_bytes));
    if let Some(term) = term {
        term.encode(&mut out, rows, cols);
    }
    out.extend(residual.unwrap_or_default());
    out
}
