//! Turns one matrix into bytes and back.

pub mod lossless;
pub mod metric;
pub mod mixing;
pub mod range;
pub mod trellis;
pub mod viterbi;
