//! Which terms a stream has, without decoding them.

use super::{LOW_RANK, REFERENCE, RESIDUAL, gain_value, low_rank};
use crate::code::codec::matrix;
use crate::varint::Reader;

/// The terms of a sum.
pub struct Head<'a> {
    /// α, where there is α·P.
    pub gain: Option<f32>,
    /// Components of A·B, 0 where there is none.
    pub rank: usize,
    /// The stream of S ∘ Q, of codec 1.
    pub residual: Option<&'a [u8]>,
}

impl Head<'_> {
    /// The grid of the residual, where there is one and its first bytes are sound.
    pub fn grid(&self) -> Option<matrix::Head> {
        self.residual.and_then(matrix::head)
    }
}

/// The terms of a stream; `None` if it is damaged in a way that shows.
pub fn head(bytes: &[u8]) -> Option<Head<'_>> {
    let mut reader = Reader::new(bytes);
    let terms = reader.take(1, "terms").ok()?[0];
    let gain = match terms & REFERENCE {
        0 => None,
        _ => Some(gain_value(i16::from_le_bytes(reader.take(2, "gain").ok()?.try_into().ok()?))),
    };
    let rank = if terms & LOW_RANK != 0 { low_rank::skip(&mut reader, bytes.len())? } else { 0 };
    let residual = (terms & RESIDUAL != 0).then(|| &bytes[reader.position()..]);
    Some(Head { gain, rank, residual })
}
