//! Reads a sum.

use super::low_rank::CodedFactors;
use super::{LOW_RANK, LowRank, REFERENCE, RESIDUAL, add_up, gain_value};
use crate::streams::matrix;
use crate::varint::Reader;

/// The terms of a stream, not yet decoded.
pub struct Terms<'a> {
    /// α in units of 1 / [`super::GAIN_ONE`], where there is α·P.
    pub gain: Option<i16>,
    low_rank: Option<CodedFactors<'a>>,
    /// The stream of S ∘ Q, of codec 1.
    pub residual: Option<&'a [u8]>,
}

/// The terms of a stream; `None` if it is damaged in a way that shows.
pub fn terms(bytes: &[u8]) -> Option<Terms<'_>> {
    let mut reader = Reader::new(bytes);
    let flags = reader.take(1, "terms").ok()?[0];
    if flags == 0 || flags & !(REFERENCE | LOW_RANK | RESIDUAL) != 0 {
        return None;
    }
    let gain = match flags & REFERENCE {
        0 => None,
        _ => Some(i16::from_le_bytes(reader.take(2, "gain").ok()?.try_into().ok()?)),
    };
    let low_rank = match flags & LOW_RANK {
        0 => None,
        _ => Some(CodedFactors::read(&mut reader, bytes.len())?),
    };
    let rest = &bytes[reader.position()..];
    let residual = (flags & RESIDUAL != 0).then_some(rest);
    (residual.is_some() || rest.is_empty()).then_some(Terms { gain, low_rank, residual })
}

impl Terms<'_> {
    /// α, where there is α·P.
    pub fn alpha(&self) -> Option<f32> {
        self.gain.map(gain_value)
    }

    /// Components of A·B, 0 where there is none.
    pub fn rank(&self) -> usize {
        self.low_rank.as_ref().map_or(0, CodedFactors::rank)
    }

    /// A·B of a matrix (R, C): outside `None` if it is damaged in a way that shows, inside where there is none.
    pub fn low_rank(&self, rows: usize, cols: usize) -> Option<Option<LowRank>> {
        match &self.low_rank {
            None => Some(None),
            Some(coded) => coded.decode(rows, cols).map(Some),
        }
    }

    /// The grid of the residual, where there is one and its first bytes are sound.
    pub fn grid(&self) -> Option<matrix::GridHeader> {
        self.residual.and_then(matrix::grid_header)
    }
}

/// Gain and low-rank term of a stream, each if it is there, and the bytes after them; `None` if the stream is damaged in a way that shows.
pub fn read_start(bytes: &[u8], rows: usize, cols: usize) -> Option<(Option<i16>, Option<LowRank>, &[u8])> {
    let terms = terms(bytes)?;
    Some((terms.gain, terms.low_rank(rows, cols)?, terms.residual.unwrap_or_default()))
}

/// The matrix (R, C) row-major in a stream, or `None` if it is damaged in a way that shows. `reference` is P, of the same
/// shape, if the header names one.
pub fn decode(bytes: &[u8], rows: usize, cols: usize, reference: Option<&[f32]>) -> Option<Vec<f32>> {
    let terms = terms(bytes)?;
    if terms.gain.is_some() != reference.is_some() {
        return None;
    }
    let low_rank = terms.low_rank(rows, cols)?;
    let residual = match terms.residual {
        Some(bytes) => Some(matrix::decode(bytes, rows, cols)?),
        None => None,
    };
    Some(add_up([rows, cols], reference.zip(terms.gain), low_rank.as_ref(), residual))
}
